//! What checkpoints tell an executor when it starts.
//!
//! Before anything else, every run that was announced and has no recorded end gets one:
//! [`Exit::Unknown`]. Whoever starts an executor has seen to it that no process of the pod is
//! left. This may wait for the disk: nothing runs yet. Not here: writing checkpoints while
//! containers run (`checkpoints`).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::journal;
use super::machine::Recovered;
use super::termination;
use crate::clock::{BootId, WallTime};
use crate::ids::{Attempt, ContainerName};
use crate::manifest::revision::Hash;
use crate::state::checkpoint::{self, AttemptFile, CheckpointError, ExitFile};
use crate::state::paths::PodPaths;
use crate::state::record::{Exit, LastRun};

/// Why an executor can't know what ran before it. It must not start anything then.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecoveryError {
    /// A directory can't be read.
    #[error("listing {} failed", path.display())]
    List {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A checkpoint was written by a newer Roost, or could not be read or written.
    #[error("recovering container `{container}` failed")]
    Checkpoint {
        /// The container.
        container: ContainerName,
        /// Why.
        source: CheckpointError,
    },
}

/// Reads the newest run of every container, with an end for each, and removes what is older.
///
/// # Errors
/// If it can't be known what ran, or an end could not be recorded.
pub(super) fn recover(
    paths: &PodPaths,
    boot: &BootId,
    now: WallTime,
) -> Result<BTreeMap<ContainerName, Recovered>, RecoveryError> {
    let mut recovered = BTreeMap::new();
    let all = names(&paths.data.join("containers"))?;
    // Which of them the specification has is not known yet.
    let message_len_max = termination::len_max(all.len());
    for name in all {
        // Only containers have such names; anything else is not ours.
        let Ok(container) = name.parse::<ContainerName>() else { continue };
        let files = names(&paths.container(&container))?;
        let runs = files.iter().filter_map(|file| parse_name(file));
        let Some(newest) = runs.max() else { continue };
        let found = recover_run(paths, (&container, newest), message_len_max, boot, now);
        let found = found.map_err(|source| {
            let container = container.clone();
            RecoveryError::Checkpoint { container, source }
        })?;
        remove_older(&paths.container(&container), &files, newest);
        termination::remove_older(paths, &container, newest);
        recovered.insert(container, found);
    }
    Ok(recovered)
}

fn recover_run(
    paths: &PodPaths,
    (container, newest): (&ContainerName, Attempt),
    message_len_max: usize,
    boot: &BootId,
    now: WallTime,
) -> Result<Recovered, CheckpointError> {
    let path = paths.attempt(container, newest);
    let announced = believed(checkpoint::read::<AttemptFile>(&path))?;
    let ended = believed(checkpoint::read::<ExitFile>(&paths.exit(container, newest)))?;
    let last = match ended {
        Some(ended) => ended.run,
        None => {
            let run = LastRun {
                attempt: newest,
                started_at: announced.as_ref().map(|announced| announced.announced_at),
                finished_at: now,
                exit: Exit::Unknown,
                message: termination::left_behind(paths, container, newest, message_len_max),
            };
            checkpoint::write(&paths.exit(container, newest), &ExitFile::of(run.clone()))?;
            run
        }
    };
    checkpoint::sweep(&paths.container(container))?;
    let Some(announced) = announced else {
        // Without the file, announcing it failed, so it never ran: its specification is not known
        // and does not matter. No specification has this hash, so the next one is started at once.
        // With a damaged one it may have run, and what runs once must not run again.
        let hash = (!path.exists()).then(no_hash);
        return Ok(Recovered { last, hash, streak: 0, pod_since: None });
    };
    // Another boot has cleared whatever made it end early.
    let same_boot = announced.boot == *boot;
    let streak = if same_boot { announced.backoff_count.saturating_add(1) } else { 0 };
    let pod_since = announced.pod_since.filter(|_| same_boot);
    Ok(Recovered { last, hash: Some(announced.container_hash), streak, pod_since })
}

/// A damaged file says as little as none; one of a newer Roost, or a failing disk, stops us.
fn believed<T>(result: Result<Option<T>, CheckpointError>) -> Result<Option<T>, CheckpointError> {
    match result {
        Err(error @ CheckpointError::Damaged { .. }) => {
            journal::note(format_args!("{}", journal::chain(&error)));
            Ok(None)
        }
        other => other,
    }
}

fn no_hash() -> Hash {
    Hash::try_from("0".to_owned()).expect("it is a hexadecimal number")
}

/// The run of a name as in [`PodPaths::attempt`] and [`PodPaths::exit`].
fn parse_name(name: &str) -> Option<Attempt> {
    let rest = name.strip_prefix("attempt-").or_else(|| name.strip_prefix("exit-"))?;
    rest.strip_suffix(".json")?.parse().ok().map(Attempt)
}

fn remove_older(directory: &Path, files: &[String], newest: Attempt) {
    for file in files.iter().filter(|file| parse_name(file).is_some_and(|run| run < newest)) {
        if let Err(error) = fs::remove_file(directory.join(file)) {
            journal::note(format_args!("can't remove old checkpoint {file}: {error}"));
        }
    }
}

/// The names in a directory; none if it does not exist.
fn names(path: &Path) -> Result<Vec<String>, RecoveryError> {
    let failed = |source| RecoveryError::List { path: path.to_owned(), source };
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::BootTime;
    use crate::state::checkpoint::Format;

    struct Pod {
        _root: tempfile::TempDir,
        paths: PodPaths,
        container: ContainerName,
    }

    impl Pod {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let [data, runtime, logs] = ["d", "r", "l"].map(|name| root.path().join(name));
            let pod = Self {
                paths: PodPaths { data, runtime, logs },
                container: "c".parse().unwrap(),
                _root: root,
            };
            fs::create_dir_all(pod.paths.container(&pod.container)).unwrap();
            pod
        }

        fn announce(&self, attempt: u32, boot: &str, backoff_count: u32) {
            let file = AttemptFile {
                format: Format,
                attempt: Attempt(attempt),
                container_hash: hash(),
                boot: boot.parse().unwrap(),
                announced: BootTime(5),
                announced_at: WallTime(5),
                backoff_count,
                pod_since: Some(BootTime(4)),
            };
            checkpoint::write(&self.paths.attempt(&self.container, Attempt(attempt)), &file)
                .unwrap();
        }

        fn end(&self, attempt: u32, exit: Exit) {
            let attempt = Attempt(attempt);
            let finished_at = WallTime(6);
            let run = LastRun { attempt, started_at: None, finished_at, exit, message: None };
            let path = self.paths.exit(&self.container, attempt);
            checkpoint::write(&path, &ExitFile::of(run)).unwrap();
        }

        fn recover(&self) -> Option<(u32, Exit, Hash, u32)> {
            let found = self.recovered()?;
            Some((found.last.attempt.0, found.last.exit, found.hash.unwrap(), found.streak))
        }

        fn recovered(&self) -> Option<Recovered> {
            let found = recover(&self.paths, &"now".parse().unwrap(), WallTime(9)).unwrap();
            found.get(&self.container).cloned()
        }

        fn files(&self) -> Vec<String> {
            let mut names = names(&self.paths.container(&self.container)).unwrap();
            names.sort();
            names
        }
    }

    fn hash() -> Hash {
        "abc".to_owned().try_into().unwrap()
    }

    #[test]
    fn a_container_that_never_ran_is_not_known() {
        assert_eq!(Pod::new().recover(), None);
    }

    #[test]
    fn a_run_without_an_end_gets_one_that_lasts() {
        let pod = Pod::new();
        pod.announce(2, "now", 3);
        assert_eq!(pod.recover(), Some((2, Exit::Unknown, hash(), 4)));
        assert_eq!(pod.files(), ["attempt-2.json", "exit-2.json"]);
        assert_eq!(pod.recover(), Some((2, Exit::Unknown, hash(), 4)));
    }

    #[test]
    fn only_the_newest_run_counts_and_older_files_go() {
        let pod = Pod::new();
        for attempt in [8, 9, 10] {
            pod.announce(attempt, "now", 0);
            pod.end(attempt, Exit::Code(1));
        }
        fs::write(pod.paths.container(&pod.container).join("other"), "").unwrap();
        assert_eq!(pod.recover(), Some((10, Exit::Code(1), hash(), 1)));
        assert_eq!(pod.files(), ["attempt-10.json", "exit-10.json", "other"]);
    }

    #[test]
    fn after_a_reboot_there_is_no_back_off() {
        let pod = Pod::new();
        pod.announce(0, "before", 7);
        assert_eq!(pod.recover(), Some((0, Exit::Unknown, hash(), 0)));
    }

    #[test]
    fn the_deadline_is_counted_on_in_the_same_boot_alone() {
        let pod = Pod::new();
        for (boot, expected) in [("now", Some(BootTime(4))), ("before", None)] {
            pod.announce(0, boot, 0);
            assert_eq!(pod.recovered().unwrap().pod_since, expected);
        }
    }

    #[test]
    fn what_a_run_has_said_is_kept_though_nobody_saw_its_end() {
        let pod = Pod::new();
        pod.announce(2, "now", 0);
        let messages = pod.paths.termination_messages(&pod.container);
        fs::create_dir(&messages).unwrap();
        fs::write(messages.join("1"), "older").unwrap();
        fs::write(messages.join("2"), "bye").unwrap();
        for _twice in 0..2 {
            assert_eq!(pod.recovered().unwrap().last.message.as_deref(), Some("bye"));
            assert_eq!(names(&messages).unwrap(), ["2"]);
            // It is in the record of the end by then.
            fs::write(messages.join("2"), "something else").unwrap();
        }
    }

    #[test]
    fn a_run_that_could_not_be_announced_uses_up_its_number_only() {
        let pod = Pod::new();
        pod.announce(0, "now", 0);
        pod.end(0, Exit::Code(0));
        pod.end(1, Exit::NotStarted("disk full".into()));
        let expected = Exit::NotStarted("disk full".into());
        assert_eq!(pod.recover(), Some((1, expected, no_hash(), 0)));
    }

    #[test]
    fn a_damaged_announcement_is_of_a_run_that_may_have_been() {
        let pod = Pod::new();
        fs::write(pod.paths.attempt(&pod.container, Attempt(3)), "{\"for").unwrap();
        let found = pod.recovered().unwrap();
        assert_eq!((found.last.attempt.0, found.last.exit, found.hash), (3, Exit::Unknown, None));
    }

    #[test]
    fn damage_counts_as_unknown_and_a_newer_format_as_an_error() {
        let pod = Pod::new();
        pod.announce(0, "now", 0);
        fs::write(pod.paths.exit(&pod.container, Attempt(0)), "{\"for").unwrap();
        assert_eq!(pod.recover(), Some((0, Exit::Unknown, hash(), 1)));
        fs::write(pod.paths.exit(&pod.container, Attempt(0)), "{\"format\":99}").unwrap();
        recover(&pod.paths, &"now".parse().unwrap(), WallTime(9)).unwrap_err();
    }
}
