//! Putting a manifest into the manifest directory, as users should: as a whole or not at all.
//!
//! ```text
//! .<name>.roost-<pid>-<n>.tmp ─► fsync ─► rename to <name> ─► fsync of the directory
//! ```
//!
//! The watcher passes over names that begin with a dot. Blocks until the disk has it.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::service::{PutRefused, Written};
use crate::ids::PodName;
use crate::manifest::desired::DesiredState;
use crate::manifest::document::DocumentName;
use crate::manifest::file::{self, ParseOptions};
use crate::manifest::library::Library;
use crate::reconciler::ActualState;
use crate::state::checkpoint::sync_dir;
use crate::state::record::ManifestFile;

/// Longest name of a manifest that is put: with what a temporary name adds it is within `NAME_MAX`
/// (limits.h).
pub(super) const NAME_LEN_MAX: usize = 200;
/// What the watcher takes for manifests.
const EXTENSIONS: [&str; 3] = [".yaml", ".yml", ".json"];

/// In the name of a file that is being written.
const DRAFT_MARK: &str = ".roost-";

/// Which file has each pod.
pub(super) fn owners(
    desired: &DesiredState,
    actual: &ActualState,
) -> BTreeMap<PodName, ManifestFile> {
    let claimed = desired.claims.iter().filter_map(|(name, claims)| {
        claims.first().map(|claim| (name.clone(), claim.source.clone()))
    });
    let mut owners: BTreeMap<PodName, ManifestFile> = claimed.collect();
    for record in actual.pods.values().filter_map(|pod| pod.record.as_ref()) {
        let claims = desired.claims.get(&record.name).map_or(&[][..], Vec::as_slice);
        // A pod whose file is gone is free for another, one whose file is faulty is not.
        let is_held = claims.iter().any(|claim| claim.source == record.source)
            || desired.faulty.contains(&record.source);
        if is_held {
            owners.insert(record.name.clone(), record.source.clone());
        }
    }
    owners
}

/// Why a file of that name would not be a manifest in its directory and nothing else.
pub(super) fn bad_name(name: &str) -> Option<&'static str> {
    if name.len() > NAME_LEN_MAX {
        Some("it is longer than 200 bytes")
    } else if name.contains('/') || name.chars().any(char::is_control) {
        Some("it has a slash or a control character in it")
    } else if name.starts_with('.') {
        Some("it begins with a dot, and such files are passed over")
    } else if !EXTENSIONS.iter().any(|extension| name.ends_with(extension)) {
        Some("it does not end in .yaml, .yml or .json")
    } else {
        None
    }
}

/// The directory that manifests are put into, and what is known of it.
#[derive(Debug, Default)]
pub(super) struct Place {
    pub(super) directory: Option<String>,
    /// Why what is in it, or is not, can't be believed now. A file in an empty mount point would
    /// make it one that is believed, and everything end that is missing in it.
    pub(super) distrust: Option<String>,
    /// Which file has each pod.
    pub(super) owners: BTreeMap<PodName, ManifestFile>,
    /// Which file has each ConfigMap and Secret.
    pub(super) library: Library,
    pub(super) options: ParseOptions,
}

/// A manifest that shall be there.
#[derive(Debug)]
pub struct NewManifest {
    /// The name of its file.
    pub file: String,
    /// What shall be in it.
    pub text: Vec<u8>,
    /// Whether pods that the present file has, and this text has not, shall end.
    pub prune: bool,
}

/// Validates the text of a manifest and makes it the content of the file, durably.
pub(super) fn put(place: Place, new: NewManifest) -> Result<Written, PutRefused> {
    let Place { directory, distrust, owners, library, options } = place;
    let NewManifest { file: name, text, prune } = new;
    if let Some(why) = bad_name(&name) {
        return Err(PutRefused::Name { name, why });
    }
    let Some(directory) = directory else { return Err(PutRefused::NoDirectory) };
    if let Some(why) = distrust {
        return Err(PutRefused::Distrusted(why));
    }
    let source = ManifestFile { directory, file: name };
    let parsed = file::parse_with(&text, options);
    let shown = |diagnostic: &crate::manifest::diagnostic::Diagnostic| {
        diagnostic.in_file(&source.file).to_string()
    };
    if !parsed.complete {
        return Err(PutRefused::Faulty(parsed.diagnostics.iter().map(shown).collect()));
    }
    for pod in &parsed.pods {
        if let Some(owner) = owners.get(&pod.name).filter(|owner| **owner != source) {
            return Err(PutRefused::Owned { name: pod.name.clone(), owner: owner.clone() });
        }
    }
    let documents: Vec<&DocumentName> =
        parsed.documents.iter().map(|it| &it.document.name).collect();
    for name in &documents {
        if let Some(owner) = library.owner(name).filter(|owner| **owner != source) {
            let (name, owner) = ((*name).clone(), owner.clone());
            return Err(PutRefused::OwnedDocument { name, owner });
        }
    }
    let stays = |name: &PodName| parsed.pods.iter().any(|pod| pod.name == *name);
    let of_file = owners.iter().filter(|(_, owner)| **owner == source).map(|(name, _)| name);
    let dropped: Vec<PodName> = of_file.filter(|name| !stays(name)).cloned().collect();
    if !dropped.is_empty() && !prune {
        return Err(PutRefused::Drops { file: source, pods: dropped });
    }
    let is_dropped = |name: &&&DocumentName| !documents.contains(name);
    let dropped: Vec<DocumentName> =
        library.of_file(&source).iter().filter(is_dropped).map(|name| (*name).clone()).collect();
    if !dropped.is_empty() && !prune {
        return Err(PutRefused::DropsDocuments { file: source, documents: dropped });
    }
    let warnings = parsed.diagnostics.iter().map(shown).collect();
    write(&source, &text)
        .map_err(|error| PutRefused::NotWritten { file: source.clone(), why: error.to_string() })?;
    let pods = parsed.pods.into_iter().map(|pod| pod.name).collect();
    Ok(Written { file: source, pods, warnings })
}

fn write(target: &ManifestFile, text: &[u8]) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let directory = Path::new(&target.directory);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let pid = std::process::id();
    let temp = directory.join(format!(".{}{DRAFT_MARK}{pid}-{number}.tmp", target.file));
    let written = (|| {
        // What another agent of that pid left.
        match fs::remove_file(&temp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        // Secrets may stand in manifests.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temp)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&temp, directory.join(&target.file))
    })();
    if written.is_err() {
        // It is passed over by the watcher if it can't be removed.
        drop(fs::remove_file(&temp));
    }
    written.and_then(|()| sync_dir(directory))
}

/// Removes what an agent that was killed has left half written. Secrets may stand in it.
pub(super) fn remove_drafts(directory: &Path) {
    let own = format!("{DRAFT_MARK}{}-", std::process::id());
    let is_left = |name: &str| {
        name.starts_with('.')
            && name.contains(DRAFT_MARK)
            && name.ends_with(".tmp")
            && !name.contains(&own)
    };
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_left)
            && let Err(error) = fs::remove_file(entry.path())
        {
            tracing::warn!(path = %entry.path().display(), %error, "can't remove a draft");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n  \
                       - name: main\n    command: [/bin/true]\n";

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn place(root: &Path) -> Place {
        Place { directory: Some(root.display().to_string()), ..Place::default() }
    }

    fn new(file: &str, text: &str) -> NewManifest {
        NewManifest { file: file.to_owned(), text: text.as_bytes().to_vec(), prune: false }
    }

    #[test]
    fn a_manifest_is_written_as_a_whole_and_nothing_beside_it() {
        let root = tempfile::tempdir().unwrap();
        for text in [POD.to_owned(), POD.replace("main", "other")] {
            let written = put(place(root.path()), new("web.yaml", &text)).unwrap();
            assert_eq!(written.pods, ["default/web".parse().unwrap()]);
            assert_eq!(fs::read_to_string(root.path().join("web.yaml")).unwrap(), text);
        }
        assert_eq!(names(root.path()), ["web.yaml"]);
    }

    #[test]
    fn what_is_faulty_or_of_another_file_is_refused_and_nothing_is_written() {
        let root = tempfile::tempdir().unwrap();
        let refused =
            |name: &str, text: &str| put(place(root.path()), new(name, text)).unwrap_err();
        let faulty = refused("web.yaml", &POD.replace("command", "comand"));
        let PutRefused::Faulty(texts) = faulty else { panic!("{faulty}") };
        assert!(texts[0].starts_with("web.yaml:7:5: error: "), "{texts:?}");
        let unknown = new("web.yaml", &POD.replace("command", "comand: x\n    command"));
        let strict = Place { options: ParseOptions { strict: true }, ..place(root.path()) };
        let unknown = put(strict, unknown);
        assert!(matches!(unknown, Err(PutRefused::Faulty(_))), "{unknown:?}");
        let long = format!("{}.yaml", "x".repeat(NAME_LEN_MAX));
        for name in ["../web.yaml", "a/b.yaml", ".web.yaml", "..", "web.txt", "", "a\n.yaml", &long]
        {
            let refused = refused(name, POD);
            assert!(matches!(refused, PutRefused::Name { .. }), "{name}: {refused}");
        }
        let distrust = Some("it is another one than before, and empty".to_owned());
        let distrusted = put(Place { distrust, ..place(root.path()) }, new("web.yaml", POD));
        assert!(matches!(distrusted, Err(PutRefused::Distrusted(_))), "{distrusted:?}");
        assert!(names(root.path()).is_empty());
    }

    #[test]
    fn a_file_takes_no_pod_from_another_and_drops_its_own_only_when_told_so() {
        let root = tempfile::tempdir().unwrap();
        let owned = |file: &str, pods: [&str; 2]| {
            let mut place = place(root.path());
            let directory = place.directory.clone().unwrap();
            for pod in pods {
                let owner = ManifestFile { directory: directory.clone(), file: file.to_owned() };
                place.owners.insert(pod.parse().unwrap(), owner);
            }
            place
        };
        let pods = ["default/web", "default/more"];
        let refused = put(owned("other.yaml", pods), new("web.yaml", POD)).unwrap_err();
        assert!(refused.to_string().contains("other.yaml"), "{refused}");
        let refused = put(owned("web.yaml", pods), new("web.yaml", POD)).unwrap_err();
        assert!(refused.to_string().contains("default/more"), "{refused}");
        assert!(names(root.path()).is_empty());
        let pruned = NewManifest { prune: true, ..new("web.yaml", POD) };
        put(owned("web.yaml", pods), pruned).unwrap();
        assert_eq!(names(root.path()), ["web.yaml"]);
    }

    #[test]
    fn what_a_killed_agent_left_half_written_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let own = format!(".web.yaml.roost-{}-0.tmp", std::process::id());
        for name in [".web.yaml.roost-0-3.tmp", &own, ".web.yaml.tmp", "web.yaml"] {
            fs::write(root.path().join(name), "").unwrap();
        }
        remove_drafts(root.path());
        let mut left = names(root.path());
        left.sort();
        assert_eq!(left, [own.as_str(), ".web.yaml.tmp", "web.yaml"]);
    }
}
