//! The message that a run leaves behind (`terminationMessagePath`), or else the end of its log.
//!
//! The file is the container's to write, so nothing in it or about it is believed: it is reached by
//! descriptor without following a link (openat2(2)), looked at before it is read, and no more of it
//! is read than may be kept. It is read when no process of the run is left, and goes into the record
//! of its end, which outlives it. Not here: making it (`containerizer`).

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::journal;
use crate::ids::{Attempt, ContainerName};
use crate::manifest::pod::{ContainerSpec, MessagePolicy, PodSpec};
use crate::state::paths::PodPaths;
use crate::state::record::Exit;

/// Longest message of a container, in bytes.
const CONTAINER_LEN_MAX: usize = 4096;
/// Longest messages of all containers of a pod together, in bytes: they share it evenly.
const POD_LEN_MAX: usize = 12 << 10;
/// How much of the end of a log is taken for a message: so many bytes or lines, whichever is less.
pub(super) const LOG_LEN_MAX: usize = 2048;
/// See [`LOG_LEN_MAX`].
pub(super) const LOG_LINES_MAX: usize = 80;
/// Attempts to resolve a path while others rename directories on it (openat2(2), EAGAIN).
const ATTEMPTS_MAX: usize = 64;

/// Longest message, in bytes, of one of so many containers.
pub(super) fn len_max(containers: usize) -> usize {
    CONTAINER_LEN_MAX.min(POD_LEN_MAX / containers.max(1))
}

/// What a run says about its end, which was `exit`. `log` gives the end of its output.
pub(super) fn message(
    paths: &PodPaths,
    (spec, container): (&PodSpec, &ContainerSpec),
    attempt: Attempt,
    exit: &Exit,
    log: impl FnOnce() -> Vec<u8>,
) -> Option<String> {
    // Its program never had the file.
    if matches!(exit, Exit::NotStarted(_)) {
        return None;
    }
    let most = len_max(spec.all_containers().count());
    let written = left_behind(paths, &container.name, attempt, most);
    match container.termination.policy {
        MessagePolicy::File => written,
        MessagePolicy::FallbackToLogsOnError if exit.is_success() => written,
        MessagePolicy::FallbackToLogsOnError => {
            written.or_else(|| text(&log(), most.min(LOG_LEN_MAX)))
        }
    }
}

/// What the run has written, at most so many bytes of its end.
pub(super) fn left_behind(
    paths: &PodPaths,
    container: &ContainerName,
    attempt: Attempt,
    most: usize,
) -> Option<String> {
    let path = paths.termination_message(container, attempt);
    match read_end(&paths.data, &path, most) {
        Ok(bytes) => text(&bytes, most),
        // A run of a build that made none.
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => {
            journal::note(format_args!("{container} run {attempt}: no message: {error}"));
            None
        }
    }
}

/// Removes the messages of runs before that one.
pub(super) fn remove_older(paths: &PodPaths, container: &ContainerName, newest: Attempt) {
    let Ok(entries) = fs::read_dir(paths.termination_messages(container)) else { return };
    for entry in entries.flatten() {
        let run = entry.file_name().to_str().and_then(|name| name.parse().ok()).map(Attempt);
        if run.is_some_and(|run| run < newest)
            && let Err(error) = fs::remove_file(entry.path())
        {
            journal::note(format_args!("{container}: can't remove an old message: {error}"));
        }
    }
}

/// The end of a regular file below a directory, reached without any link.
fn read_end(top: &Path, path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let below = path.strip_prefix(top).map_err(io::Error::other)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::open(top, flags, Mode::empty())?;
    // A lease must not keep us waiting (fcntl(2), F_SETLEASE).
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut attempts = 0;
    let file = loop {
        match rustix::fs::openat2(&top, below, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if attempts < ATTEMPTS_MAX => attempts += 1,
            other => break other?,
        }
    };
    end_of(file.into(), most)
}

/// At most so many bytes of the end of a regular file.
pub(super) fn end_of(mut file: File, most: usize) -> io::Result<Vec<u8>> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidData, "it is not a regular file"));
    }
    let most = u64::try_from(most).unwrap_or(u64::MAX);
    file.seek(SeekFrom::Start(metadata.len().saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The end of the bytes as text of at most so many bytes; none if there are none.
fn text(bytes: &[u8], most: usize) -> Option<String> {
    // What was cut off at the front may have been the first bytes of a character.
    let is_rest = |byte: &&u8| **byte & 0xc0 == 0x80;
    let rest =
        if bytes.len() < most { 0 } else { bytes.iter().take(3).take_while(is_rest).count() };
    let mut text = String::from_utf8_lossy(bytes.get(rest..).unwrap_or_default()).into_owned();
    // What stands for a byte that is no text is longer than it.
    let mut from = text.len().saturating_sub(most);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    let end = text.split_off(from);
    (!end.is_empty()).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Pod {
        root: tempfile::TempDir,
        paths: PodPaths,
        container: ContainerName,
    }

    fn pod() -> Pod {
        let root = tempfile::tempdir().unwrap();
        let [data, runtime, logs] = ["d", "r", "l"].map(|name| root.path().join(name));
        let paths = PodPaths { data, runtime, logs };
        let container: ContainerName = "c".parse().unwrap();
        fs::create_dir_all(paths.termination_messages(&container)).unwrap();
        Pod { root, paths, container }
    }

    impl Pod {
        fn write(&self, attempt: u32, content: &[u8]) {
            fs::write(self.paths.termination_message(&self.container, Attempt(attempt)), content)
                .unwrap();
        }

        fn read(&self, attempt: u32) -> Option<String> {
            left_behind(&self.paths, &self.container, Attempt(attempt), 8)
        }
    }

    #[test]
    fn the_containers_of_a_pod_share_what_may_be_said() {
        assert_eq!([0, 1, 3, 4, 100].map(len_max), [4096, 4096, 4096, 3072, 122]);
    }

    #[test]
    fn a_message_is_the_end_of_the_file_and_text_whatever_is_in_it() {
        let pod = pod();
        for (content, expected) in [
            (&b""[..], None),
            (b"bye\n", Some("bye\n")),
            (b"0123456789", Some("23456789")),
            (b"a\0\x1b", Some("a\0\x1b")),
            (b"\xff!", Some("\u{fffd}!")),
            // Three times as long as text.
            (b"\xff\xff\xff\xff", Some("\u{fffd}\u{fffd}")),
            // So it is cut again, at its front.
            (b"\xff234567z", Some("234567z")),
            // The first of the last eight bytes is the second of a character.
            ("12\u{e4}234567z".as_bytes(), Some("234567z")),
        ] {
            pod.write(0, content);
            assert_eq!(pod.read(0).as_deref(), expected, "{content:?}");
        }
        assert_eq!(pod.read(1), None);
    }

    #[test]
    fn no_link_is_followed_and_nothing_but_a_file_is_read() {
        let pod = pod();
        let secret = pod.root.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        let path = |n| pod.paths.termination_message(&pod.container, Attempt(n));
        symlink(&secret, path(0)).unwrap();
        fs::create_dir(path(1)).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path(2),
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o666),
            0,
        )
        .unwrap();
        assert_eq!([0, 1, 2].map(|n| pod.read(n)), [None, None, None]);
        fs::remove_dir_all(pod.paths.termination_messages(&pod.container)).unwrap();
        let elsewhere = pod.root.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("0"), "secret").unwrap();
        symlink(&elsewhere, pod.paths.termination_messages(&pod.container)).unwrap();
        assert_eq!(pod.read(0), None);
    }

    #[test]
    fn messages_of_older_runs_go() {
        let pod = pod();
        (8..=10).for_each(|n| pod.write(n, b"x"));
        remove_older(&pod.paths, &pod.container, Attempt(10));
        assert_eq!([8, 9, 10].map(|n| pod.read(n).is_some()), [false, false, true]);
    }
}
