//! Putting a manifest into the manifest directory, as users should: as a whole or not at all.
//!
//! ```text
//! .<name>.<pid>-<n>.tmp ─► fsync ─► rename to <name> ─► fsync of the directory
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
use crate::manifest::file::{self, ParseOptions};
use crate::reconciler::ActualState;
use crate::state::checkpoint::sync_dir;
use crate::state::record::ManifestFile;

/// Longest name of a manifest that is put: with what a temporary name adds it is within `NAME_MAX`
/// (limits.h).
pub(super) const NAME_LEN_MAX: usize = 200;
/// What the watcher takes for manifests.
const EXTENSIONS: [&str; 3] = [".yaml", ".yml", ".json"];

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

/// Validates the text of a manifest and makes it the content of the file, durably.
pub(super) fn put(
    directory: Option<String>,
    name: String,
    text: &[u8],
    owners: &BTreeMap<PodName, ManifestFile>,
    options: ParseOptions,
) -> Result<Written, PutRefused> {
    if let Some(why) = bad_name(&name) {
        return Err(PutRefused::Name { name, why });
    }
    let Some(directory) = directory else { return Err(PutRefused::NoDirectory) };
    let source = ManifestFile { directory, file: name };
    let parsed = file::parse_with(text, options);
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
    let warnings = parsed.diagnostics.iter().map(shown).collect();
    write(&source, text)
        .map_err(|error| PutRefused::NotWritten { file: source.clone(), why: error.to_string() })?;
    let pods = parsed.pods.into_iter().map(|pod| pod.name).collect();
    Ok(Written { file: source, pods, warnings })
}

fn write(target: &ManifestFile, text: &[u8]) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let directory = Path::new(&target.directory);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let pid = std::process::id();
    let temp = directory.join(format!(".{}.{pid}-{number}.tmp", target.file));
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

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n  \
                       - name: main\n    command: [/bin/true]\n";

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    const LAX: ParseOptions = ParseOptions { strict: false };

    #[test]
    fn a_manifest_is_written_as_a_whole_and_nothing_beside_it() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().display().to_string();
        for text in [POD.to_owned(), POD.replace("main", "other")] {
            let put = put(
                Some(directory.clone()),
                "web.yaml".to_owned(),
                text.as_bytes(),
                &[].into(),
                LAX,
            );
            let written = put.unwrap();
            assert_eq!(written.pods, ["default/web".parse().unwrap()]);
            assert_eq!(fs::read_to_string(root.path().join("web.yaml")).unwrap(), text);
        }
        assert_eq!(names(root.path()), ["web.yaml"]);
    }

    #[test]
    fn what_is_faulty_or_of_another_file_is_refused_and_nothing_is_written() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().display().to_string();
        let owner = ManifestFile { directory: directory.clone(), file: "other.yaml".to_owned() };
        let owners = BTreeMap::from([("default/web".parse().unwrap(), owner.clone())]);
        let put = |name: &str, text: &str, owners: &BTreeMap<_, _>| {
            put(Some(directory.clone()), name.to_owned(), text.as_bytes(), owners, LAX).unwrap_err()
        };
        let faulty = put("web.yaml", &POD.replace("command", "comand"), &BTreeMap::new());
        let PutRefused::Faulty(texts) = faulty else { panic!("{faulty}") };
        assert!(texts[0].starts_with("web.yaml:7:5: error: "), "{texts:?}");
        let unknown = POD.replace("command", "comand: x\n    command").into_bytes();
        let strict = ParseOptions { strict: true };
        let place = Some(directory.clone());
        let unknown = super::put(place, "web.yaml".into(), &unknown, &[].into(), strict);
        assert!(matches!(unknown, Err(PutRefused::Faulty(_))), "{unknown:?}");
        let owned = put("web.yaml", POD, &owners);
        assert!(owned.to_string().contains("other.yaml"), "{owned}");
        let long = format!("{}.yaml", "x".repeat(NAME_LEN_MAX));
        for name in ["../web.yaml", "a/b.yaml", ".web.yaml", "..", "web.txt", "", "a\n.yaml", &long]
        {
            let refused = put(name, POD, &BTreeMap::new());
            assert!(matches!(refused, PutRefused::Name { .. }), "{name}: {refused}");
        }
        assert!(names(root.path()).is_empty());
    }
}
