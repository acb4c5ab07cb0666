//! Start is recovery: what is there, from the store, the pod directories, the runtime directory
//! and the cgroups. There is no other way to start.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use crate::cgroup::{CgroupBase, CgroupError};
use crate::clock::BootId;
use crate::ids::PodId;
use crate::reconciler::{ActualPod, ActualState, ExecutorState, Node, StoredSpec};
use crate::state::checkpoint::{self, CheckpointError, SpecFile};
use crate::state::paths::{EXECUTOR_SOCKET, Paths};
use crate::state::record::PodRecord;
use crate::state::store::{Contents, Store, StoreError};

/// What was found.
#[derive(Debug)]
pub(super) struct Found {
    /// Everything, as the reconciler wants it. Executors that may be there are `Silent`.
    pub(super) actual: ActualState,
    /// Records that differ from what the store has, to be committed.
    pub(super) mended: Vec<PodRecord>,
    /// Things that could not be read, in words.
    pub(super) oddities: Vec<String>,
}

/// Why recovery is not possible.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// A directory can't be listed.
    #[error("can't list {}", path.display())]
    List {
        /// The directory.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The cgroups can't be listed.
    #[error("can't list the cgroups of pods")]
    Cgroups(#[source] CgroupError),
}

/// Looks at everything.
pub(super) fn find(
    contents: Contents,
    paths: &Paths,
    cgroups: &CgroupBase,
    boot: BootId,
    executor_build: String,
    node: Node,
) -> Result<Found, RecoverError> {
    let on_disk = ids_in(&paths.pods())?;
    let in_runtime = ids_in(&paths.runtime_pods())?;
    let in_cgroups = cgroups.pods().map_err(RecoverError::Cgroups)?;
    let recorded: BTreeSet<PodId> = contents.pods.keys().copied().collect();
    let mut records = contents.pods;
    let mut found = Found {
        actual: ActualState {
            boot,
            executor_build,
            directories: contents.directories,
            node,
            under_way: BTreeMap::new(),
            images: Default::default(),
            asked: BTreeMap::new(),
            pressure: Default::default(),
            verdicts: Default::default(),
            pods: BTreeMap::new(),
        },
        mended: Vec::new(),
        oddities: Vec::new(),
    };
    for id in recorded.union(&on_disk).chain(&in_runtime).chain(&in_cgroups) {
        if found.actual.pods.contains_key(id) {
            continue;
        }
        let record = records.remove(id);
        let has_runtime = in_runtime.contains(id) || in_cgroups.contains(id);
        let (spec_file, readable) = match found.spec_file(*id, paths) {
            Ok(spec_file) => (spec_file, true),
            Err(Unreadable) => (None, false),
        };
        if !readable && record.is_none() && !has_runtime {
            // It is at rest, and nobody can say what it is: removing it, as the remains of an
            // instance are, would be removing what may be good on another day or by another build.
            continue;
        }
        let record = record.map(|record| found.mend(record, spec_file.as_ref()));
        let adoptable = match (&record, &spec_file) {
            (None, Some(file)) => Some(file.to_record()),
            (Some(_), _) | (None, None) => None,
        };
        let socket = paths.runtime_pods().join(id.to_string()).join(EXECUTOR_SOCKET);
        let executor = if socket.exists() { ExecutorState::Silent } else { ExecutorState::Absent };
        let pod = ActualPod {
            record,
            adoptable,
            spec: spec_file.map(|file| StoredSpec::new(Arc::new(file.spec))),
            successor: None,
            executor,
            has_runtime,
        };
        found.actual.pods.insert(*id, pod);
    }
    Ok(found)
}

/// Reads what is to come after instances that go for another one.
pub(super) fn find_successors(
    actual: &mut ActualState,
    store: &mut impl Store,
) -> Result<(), StoreError> {
    for pod in actual.pods.values_mut() {
        let Some(record) = &pod.record else { continue };
        let Some(successor) = &record.successor else { continue };
        let kept = store.revisions(&record.name)?;
        let kept = kept.into_iter().find(|kept| kept.accepted.number == successor.number);
        pod.successor = kept.and_then(|kept| kept.spec).map(StoredSpec::new);
    }
    Ok(())
}

/// A specification may be there, and this build or this disk can't read it now.
struct Unreadable;

impl Found {
    fn spec_file(&mut self, id: PodId, paths: &Paths) -> Result<Option<SpecFile>, Unreadable> {
        let path = paths.pods().join(id.to_string()).join("spec.json");
        match checkpoint::read::<SpecFile>(&path) {
            Ok(Some(file)) if file.id == id => Ok(Some(file)),
            Ok(Some(file)) => {
                let other = file.id;
                self.oddities.push(format!("{} is of instance {other}", path.display()));
                Ok(None)
            }
            Ok(None) => Ok(None),
            Err(error) => {
                self.oddities.push(super::chain(&error));
                match error {
                    CheckpointError::Damaged { .. } => Ok(None),
                    CheckpointError::Newer { .. }
                    | CheckpointError::Io { .. }
                    | CheckpointError::Refused { .. } => Err(Unreadable),
                }
            }
        }
    }

    /// A crash between the writing of a specification and of its record leaves the newer
    /// revision in the file.
    fn mend(&mut self, record: PodRecord, file: Option<&SpecFile>) -> PodRecord {
        match file {
            Some(file) if file.accepted != record.accepted => {
                let from_file = file.to_record();
                let mended = PodRecord {
                    source: from_file.source,
                    accepted: from_file.accepted,
                    history: from_file.history,
                    held: from_file.held,
                    // A revision that is found without its record is not judged.
                    trial: None,
                    ..record
                };
                self.mended.push(mended.clone());
                mended
            }
            Some(_) | None => record,
        }
    }
}

/// The pod ids that a directory has entries for; other names are not ours.
pub(super) fn ids_in(directory: &Path) -> Result<BTreeSet<PodId>, RecoverError> {
    let list = |source| RecoverError::List { path: directory.to_owned(), source };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(source) => return Err(list(source)),
    };
    let mut ids = BTreeSet::new();
    for entry in entries {
        let entry = entry.map_err(list)?;
        if let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            ids.insert(id);
        }
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::testing::testing_base;

    #[test]
    fn what_a_newer_build_left_at_rest_is_not_taken_for_remains() {
        let root = tempfile::tempdir().unwrap();
        let (paths, base) = (Paths::under(root.path()), testing_base());
        let ids = [1, 2].map(PodId::from_random);
        for (id, text) in ids.iter().zip(["{\"format\":99}", "{"]) {
            let directory = paths.pods().join(id.to_string());
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join("spec.json"), text).unwrap();
        }
        let boot = "now".parse().unwrap();
        let found =
            find(Contents::default(), &paths, &base, boot, String::new(), Node::default()).unwrap();
        let known: Vec<PodId> = found.actual.pods.keys().copied().collect();
        assert_eq!((known.as_slice(), found.oddities.len()), (&ids[1..], 2));
    }
}
