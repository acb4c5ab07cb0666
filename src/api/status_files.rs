//! `<runtime>/pods/<namespace>_<name>.json`: every pod as the API shows it, for scripts.
//!
//! A task of its own writes them from the snapshots that everybody sees, so the agent's loop never
//! waits for it; while it writes, changes gather, and only the newest is written. A file is there
//! whole or not at all (written apart, then renamed), and is written only when its pod changed: an
//! idle node writes nothing. Nothing is synced: the directory is on a file system that a reboot
//! empties, and what an agent before left is made anew or removed by the next.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::kubernetes::pod;
use super::routes::Shared;
use crate::agent::service::{Service, Snapshot};
use crate::ids::PodId;

/// From the first change until it is written, with what else has changed by then: a burst of starts
/// costs a few writes for each pod, not one for each thing that happens to it. And an agent that
/// was just started learns of its pods without having to write meanwhile that it knows nothing.
const PAUSE: Duration = Duration::from_millis(200);
/// End of the names of the files.
const SUFFIX: &str = ".json";
/// End of the names of files that are being written.
const DRAFT: &str = ".json.draft";

/// Keeps the files up to date until the agent ends.
pub async fn keep_status_files(service: Service) {
    let mut snapshots = service.subscribe();
    let shared = Arc::new(Shared::of(service));
    let mut files = StatusFiles::default();
    while snapshots.changed().await.is_ok() {
        tokio::time::sleep(PAUSE).await;
        let snapshot = snapshots.borrow_and_update().clone();
        let shared = shared.clone();
        let written = tokio::task::spawn_blocking(move || {
            files.update(&snapshot, &shared);
            files
        });
        let Ok(again) = written.await else {
            tracing::error!("writing status files panicked; there will be none any more");
            return;
        };
        files = again;
    }
}

/// What stands in the files.
#[derive(Debug, Default)]
struct StatusFiles {
    /// Which version of which instance, by file name.
    written: BTreeMap<String, (PodId, u64)>,
    /// Whether what an agent before left was removed.
    cleaned: bool,
    /// What was last said about files that can't be written, so as to say it once.
    complaint: String,
}

impl StatusFiles {
    fn update(&mut self, snapshot: &Snapshot, shared: &Shared) {
        let directory = snapshot.agent.paths.runtime_pods();
        let context = shared.context(snapshot);
        let mut complaint = String::new();
        let mut wanted = BTreeMap::new();
        // By name, then age: of several instances the youngest stays.
        for view in &snapshot.pods {
            let name = &view.record.name;
            wanted.insert(format!("{}_{}{SUFFIX}", name.namespace, name.name), view);
        }
        if !self.cleaned {
            self.cleaned = true;
            for stale in leftovers(&directory).filter(|file| !wanted.contains_key(file)) {
                remove(&directory.join(stale), &mut complaint);
            }
        }
        self.written.retain(|file, _| {
            let stays = wanted.contains_key(file);
            if !stays {
                remove(&directory.join(file), &mut complaint);
            }
            stays
        });
        for (file, view) in wanted {
            let version = (view.record.id, view.version);
            if self.written.get(&file) == Some(&version) {
                continue;
            }
            let written = serde_json::to_vec_pretty(&pod::of(view, &context))
                .map_err(io::Error::other)
                .and_then(|mut text| {
                    text.push(b'\n');
                    write(&directory, &file, &text)
                });
            match written {
                Ok(()) => drop(self.written.insert(file, version)),
                Err(error) => complaint = format!("can't write {file}: {error}"),
            }
        }
        if !complaint.is_empty() && complaint != self.complaint {
            tracing::warn!(reason = complaint, "status files are not up to date");
        }
        self.complaint = complaint;
    }
}

/// Files of an agent before, whole ones and drafts. Directories of pods are not named like them.
fn leftovers(directory: &Path) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.ends_with(SUFFIX) || name.ends_with(DRAFT))
}

fn write(directory: &Path, file: &str, text: &[u8]) -> io::Result<()> {
    let draft: PathBuf = directory.join(file).with_extension(&DRAFT[1..]);
    let mut options = std::fs::OpenOptions::new();
    let mut to = options.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    io::Write::write_all(&mut to, text)?;
    std::fs::rename(&draft, directory.join(file))
}

fn remove(path: &Path, complaint: &mut String) {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => *complaint = format!("can't remove {}: {error}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::service::PodView;
    use crate::api::samples::{fake, pod, snapshot};

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn each_pod_has_a_file_that_is_written_only_when_it_changed_and_goes_with_it() {
        let root = tempfile::tempdir().unwrap();
        let of = |pods: Vec<PodView>| snapshot(1, pods, root.path());
        let directory = of(Vec::new()).agent.paths.runtime_pods();
        let instance = directory.join(PodId::from_random(1).to_string());
        std::fs::create_dir_all(&instance).unwrap();
        for stale in ["default_gone.json", "default_gone.json.draft"] {
            std::fs::write(directory.join(stale), "").unwrap();
        }
        let shared = Shared::of(fake(of(Vec::new())).service);
        let mut files = StatusFiles::default();
        let (old, young) = (pod("default/a", 1), pod("default/a", 2));
        files.update(&of(vec![old, young.clone(), pod("x/b.c", 3)]), &shared);
        let id = PodId::from_random(1).to_string();
        assert_eq!(names(&directory), [&id, "default_a.json", "x_b.c.json"]);
        let path = directory.join("default_a.json");
        let read = || -> serde_json::Value {
            serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap()
        };
        assert_eq!(read()["metadata"]["uid"], young.record.id.to_string());
        assert_eq!(read()["status"]["phase"], "Running");

        std::fs::write(&path, "untouched").unwrap();
        files.update(&of(vec![young.clone()]), &shared);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "untouched");
        assert_eq!(names(&directory), [&id, "default_a.json"]);

        let changed = PodView { version: young.version + 1, report: None, ..young };
        files.update(&of(vec![changed]), &shared);
        assert_ne!(read()["status"]["phase"], "Running");
    }
}
