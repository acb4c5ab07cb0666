//! Logs of all pods together stay below `logs.node-bytes`: the oldest files that nobody writes any
//! more go first, whosever they are.
//!
//! An executor bounds the logs of each of its containers by itself, and gives a hint whenever it
//! has rotated a file: a byte in a pipe with a name. Only then are the files counted, and once at
//! the start for what happened without an agent; an idle node does nothing. A pipe and no message,
//! because a hint says nothing about the pod, may be lost, and never has to be answered: an
//! executor of any build may give it, and one whose agent is away does not even notice.
//!
//! "Oldest" is by the wall clock (it is all that files of different pods have in common), so a
//! clock that steps may make the wrong file go; never one that is being written.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::unix::pipe;
use tokio::sync::watch;

use super::service::Snapshot;
use crate::state::paths::Paths;

/// Between two counts: a burst of rotations is one.
const PAUSE: Duration = Duration::from_secs(1);
/// Hints that are taken from the pipe at a time; more are of the next time.
const HINTS_MAX: usize = 4096;

/// Keeps the limit until the agent ends.
pub(super) async fn keep(paths: Paths, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
    let pipe = match open(&paths.log_hints()) {
        Ok(pipe) => pipe,
        Err(error) => {
            return tracing::error!(%error, "the logs of all pods together can't be limited");
        }
    };
    let mut limit = None;
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        let wanted = snapshot.agent.log_node_bytes;
        let hinted = take_hints(&pipe);
        // Before the pods that were found are known there is nothing to count.
        if snapshot.version > 0 && (hinted || limit != Some(wanted)) {
            limit = Some(wanted);
            let paths = paths.clone();
            let swept = tokio::task::spawn_blocking(move || sweep(&snapshot, &paths, wanted));
            if let Err(error) = swept.await {
                tracing::error!(%error, "counting logs panicked");
            }
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        tokio::select! {
            // Cancel-safe: both only wait.
            ready = pipe.readable() => if ready.is_err() { return },
            changed = snapshots.changed() => if changed.is_err() { return },
        }
    }
}

fn open(path: &Path) -> io::Result<pipe::Receiver> {
    match nix::unistd::mkfifo(path, nix::sys::stat::Mode::from_bits_truncate(0o600)) {
        Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
        Err(error) => return Err(error.into()),
    }
    // For writing too, so that it never ends.
    pipe::OpenOptions::new().read_write(true).open_receiver(path)
}

fn take_hints(pipe: &pipe::Receiver) -> bool {
    let mut hints = [0; HINTS_MAX];
    pipe.try_read(&mut hints).is_ok_and(|count| count > 0)
}

/// A log file that nobody writes any more.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Old {
    modified: SystemTime,
    path: PathBuf,
    bytes: u64,
}

/// How much is to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    /// So many bytes.
    Bytes(u64),
    /// So many files.
    Files(u64),
}

/// Removes as much of what nobody writes any more, as far as there is so much.
pub(super) fn give_back(snapshot: &Snapshot, paths: &Paths, lack: Lack) {
    let (all, old) = counted(snapshot, paths);
    remove(all, worth(old, lack));
}

/// The oldest that are so much together.
fn worth(old: Vec<Old>, lack: Lack) -> Vec<Old> {
    let (mut files, mut bytes) = (0_u64, 0_u64);
    let is_needed = |file: &Old| {
        let is_needed = match lack {
            Lack::Bytes(most) => bytes < most,
            Lack::Files(most) => files < most,
        };
        (files, bytes) = (files + 1, bytes.saturating_add(file.bytes));
        is_needed
    };
    old.into_iter().take_while(is_needed).collect()
}

/// Counts, and removes what is too much.
fn sweep(snapshot: &Snapshot, paths: &Paths, limit: u64) {
    let (all, old) = counted(snapshot, paths);
    let all = remove(all, worth(old, Lack::Bytes(all.saturating_sub(limit))));
    if all > limit {
        tracing::warn!(bytes = all, limit, "the logs being written are too large together");
    }
}

/// The bytes of all logs, and those that are not written any more, the oldest first.
fn counted(snapshot: &Snapshot, paths: &Paths) -> (u64, Vec<Old>) {
    let mut all = 0_u64;
    let mut old = Vec::new();
    for pod in &snapshot.pods {
        let logs = paths.pod(pod.record.id, &pod.record.name).logs;
        for container in entries(&logs) {
            all = all.saturating_add(count(&container, &mut old));
        }
    }
    old.sort();
    (all, old)
}

/// Removes old ones; how many bytes of all there are then.
fn remove(mut all: u64, old: Vec<Old>) -> u64 {
    let mut removed = 0_u64;
    for file in old {
        match fs::remove_file(&file.path) {
            Ok(()) => removed += 1,
            // The executor was quicker.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(%error, path = %file.path.display(), "can't remove a log");
                continue;
            }
        }
        all -= file.bytes;
    }
    if removed > 0 {
        tracing::info!(removed, bytes = all, "removed logs that nobody writes any more");
    }
    all
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// The bytes of a container's logs; notes those that are not written any more: rotated files
/// (`<n>.log.<when>`), and those of runs before the newest.
fn count(container: &Path, old: &mut Vec<Old>) -> u64 {
    let files: Vec<(PathBuf, u32, bool)> = entries(container)
        .into_iter()
        .filter_map(|path| {
            let (run, rest) = path.file_name()?.to_str()?.split_once(".log")?;
            let (run, is_rotated) = (run.parse().ok()?, !rest.is_empty());
            Some((path, run, is_rotated))
        })
        .collect();
    let newest = files.iter().map(|(_, run, _)| *run).max();
    let mut all = 0_u64;
    for (path, run, is_rotated) in files {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let bytes = metadata.len();
        all = all.saturating_add(bytes);
        if (is_rotated || Some(run) != newest)
            && let Ok(modified) = metadata.modified()
        {
            old.push(Old { modified, path, bytes });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_nobody_writes_are_old_and_all_are_counted() {
        let root = tempfile::tempdir().unwrap();
        let names = ["1.log", "1.log.20260101-000000", "2.log", "2.log.20260102-000000", "notes"];
        for (name, bytes) in names.iter().zip([1, 2, 4, 8, 16]) {
            fs::write(root.path().join(name), vec![b'x'; bytes]).unwrap();
        }
        let mut old = Vec::new();
        assert_eq!(count(root.path(), &mut old), 15);
        let mut found: Vec<&str> =
            old.iter().map(|old| old.path.file_name().unwrap().to_str().unwrap()).collect();
        found.sort_unstable();
        assert_eq!(found, ["1.log", names[1], names[3]]);
    }

    #[test]
    fn no_more_is_removed_than_is_lacking_and_empty_files_count_as_files() {
        let old = |bytes: &[u64]| -> Vec<Old> {
            let file = |(at, bytes): (usize, &u64)| Old {
                modified: SystemTime::UNIX_EPOCH,
                path: at.to_string().into(),
                bytes: *bytes,
            };
            bytes.iter().enumerate().map(file).collect()
        };
        let check = |bytes: &[u64], lack, expected| {
            assert_eq!(worth(old(bytes), lack), old(&bytes[..expected]), "{bytes:?} {lack:?}");
        };
        check(&[5, 5, 5], Lack::Bytes(0), 0);
        check(&[5, 5, 5], Lack::Bytes(6), 2);
        check(&[5, 5, 5], Lack::Bytes(99), 3);
        check(&[0, 0, 7, 0], Lack::Files(2), 2);
        check(&[0, 0, 7, 0], Lack::Files(9), 4);
    }

    #[tokio::test]
    async fn hints_wait_in_the_pipe_and_are_taken_all_at_once() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("hints");
        crate::executor::logs::give_hint(&path);
        let pipe = open(&path).unwrap();
        assert!(!take_hints(&pipe), "nobody was there to take it");
        for _ in 0..3 {
            crate::executor::logs::give_hint(&path);
        }
        pipe.readable().await.unwrap();
        assert!(take_hints(&pipe) && !take_hints(&pipe));
        drop(pipe);
        open(&path).unwrap();
    }
}
