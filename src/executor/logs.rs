//! [`ContainerLog`]: the output of one run of a container, in the log format of CRI, so that
//! existing log shippers read it.
//!
//! ```text
//! 2026-01-02T03:04:05.123456789Z stdout F a whole line
//! 2026-01-02T03:04:05.123456789Z stderr P the beginning of a line that is longer than 16 KiB
//! ```
//!
//! Whatever goes wrong here (a full disk, a read-only one), the container is not held up and the
//! executor lives on: output is dropped and counted, and a line says so when writing works again.
//! Not here: reading the pipes (`run`), and following logs (the agent).

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::boot::LogLimits;
use super::journal;
use super::termination;
use crate::clock::WallTime;
use crate::ids::{Attempt, ContainerName};
use crate::state::paths::PodPaths;

/// Longer lines are split: the limit of containerd's CRI plugin.
pub(super) const LINE_LEN_MAX: usize = 16 << 10;
/// Runs of a container whose logs are kept, the current one counted: `roost logs -p` shows the
/// one before.
pub(super) const RUNS_KEPT: u32 = 2;
/// Formatted output is written when it is as much as this, so that short lines don't need memory
/// many times their own.
const WRITE_LEN: usize = 32 << 10;
/// Longest head of a line: a time of 35 bytes at most, the stream, the tag and spaces.
const HEAD_LEN_MAX: usize = 64;
/// Most names tried for one rotated file; a second has fewer rotations.
const NAMES_MAX: u32 = 1000;

/// Where a line comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The log of one run.
#[derive(Debug)]
pub(super) struct ContainerLog {
    directory: PathBuf,
    /// Where the agent is told of rotated files.
    hints: Option<PathBuf>,
    attempt: Attempt,
    limits: LogLimits,
    /// None if it could not be opened; that is tried again with the next output.
    file: Option<Open>,
    state: LogState,
}

#[derive(Debug)]
struct Open {
    file: File,
    len: u64,
}

/// What must survive when another program takes the log over.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogState {
    /// Standard output after its last line end; less than [`LINE_LEN_MAX`].
    stdout_rest: Vec<u8>,
    /// The same of standard error.
    stderr_rest: Vec<u8>,
    /// Bytes of output that could not be written since the last that could.
    dropped: u64,
    /// Names of the files before the current one, oldest first.
    rotated: VecDeque<String>,
}

impl ContainerLog {
    /// The log of a run that begins. Logs of runs before the last [`RUNS_KEPT`] are removed.
    #[must_use]
    pub(super) fn begin(
        paths: &PodPaths,
        container: &ContainerName,
        attempt: Attempt,
        limits: LogLimits,
    ) -> Self {
        let directory = paths.container_logs(container);
        remove_old(&directory, attempt);
        Self::resume(paths, container, attempt, limits, LogState::default())
    }

    /// The log of a run that another program has written so far.
    #[must_use]
    pub(super) fn resume(
        paths: &PodPaths,
        container: &ContainerName,
        attempt: Attempt,
        limits: LogLimits,
        state: LogState,
    ) -> Self {
        let directory = paths.container_logs(container);
        let hints = paths.log_hints();
        Self { directory, hints, attempt, limits, file: None, state }
    }

    /// What another program needs to go on.
    #[must_use]
    pub(super) fn state(&self) -> &LogState {
        &self.state
    }

    /// Makes the file, so that the log of a silent container is there and empty.
    pub(super) fn create(&mut self) {
        if let Err(error) = self.open() {
            let path = self.directory.join(self.name());
            journal::note(format_args!("can't open log {}: {error}", path.display()));
        }
    }

    /// Takes in output. What comes after the last line end waits for more.
    pub(super) fn write(&mut self, stream: Stream, chunk: &[u8], now: WallTime) {
        let stamp = now.rfc3339_nanos();
        let mut rest = std::mem::take(self.rest(stream));
        let mut formatted = Vec::new();
        let mut raw = 0;
        for line in chunk.split_inclusive(|byte| *byte == b'\n') {
            let (mut text, ended) = match line.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (line, false),
            };
            while rest.len() + text.len() > LINE_LEN_MAX {
                let (head, tail) = text.split_at(LINE_LEN_MAX - rest.len());
                push_line(&mut formatted, &stamp, stream, 'P', &[&rest, head]);
                raw += rest.len() + head.len();
                rest.clear();
                text = tail;
            }
            if ended {
                push_line(&mut formatted, &stamp, stream, 'F', &[&rest, text]);
                raw += rest.len() + text.len() + 1;
                rest.clear();
            } else {
                rest.extend_from_slice(text);
            }
            if formatted.len() >= WRITE_LEN {
                self.append(&formatted, raw, now);
                formatted.clear();
                raw = 0;
            }
        }
        if !formatted.is_empty() {
            self.append(&formatted, raw, now);
        }
        if rest.is_empty() {
            // A quiet container holds no buffer.
            rest = Vec::new();
        }
        *self.rest(stream) = rest;
    }

    /// The run is over: writes what did not end with a line end.
    pub(super) fn finish(&mut self, now: WallTime) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(self.rest(stream));
            if !rest.is_empty() {
                let mut formatted = Vec::new();
                push_line(&mut formatted, &now.rfc3339_nanos(), stream, 'F', &[&rest]);
                self.append(&formatted, rest.len(), now);
            }
        }
    }

    /// The end of what was written: at most so many bytes and lines, without what the format adds.
    #[must_use]
    pub(super) fn end(&self, bytes: usize, lines: usize) -> Vec<u8> {
        // Before each line stands no more than that, and the first may be cut off at its front.
        let most = bytes + lines * HEAD_LEN_MAX + LINE_LEN_MAX + HEAD_LEN_MAX;
        let mut raw = Vec::new();
        let names = std::iter::once(self.name()).chain(self.state.rotated.iter().rev().cloned());
        for name in names {
            let path = self.directory.join(name);
            let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
            let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
            let end = file.and_then(|file| termination::end_of(file, most - raw.len()));
            // Without the older ones then: the agent may have removed them.
            let Ok(mut end) = end else { break };
            end.append(&mut raw);
            raw = end;
            if raw.len() >= most {
                break;
            }
        }
        last_of(&raw, raw.len() >= most, bytes, lines)
    }

    fn rest(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Stdout => &mut self.state.stdout_rest,
            Stream::Stderr => &mut self.state.stderr_rest,
        }
    }

    /// Writes whole lines, which hold `raw` bytes of output, or counts them as dropped.
    fn append(&mut self, formatted: &[u8], raw: usize, now: WallTime) {
        let result = self.try_append(formatted, now);
        if let Err(error) = result {
            if self.state.dropped == 0 {
                let path = self.directory.join(self.name());
                journal::note(format_args!("can't write log {}: {error}", path.display()));
            }
            let raw = u64::try_from(raw).unwrap_or(u64::MAX);
            self.state.dropped = self.state.dropped.saturating_add(raw);
        }
    }

    fn try_append(&mut self, formatted: &[u8], now: WallTime) -> io::Result<()> {
        self.open()?;
        if self.state.dropped > 0 {
            let note = format!("roost: {} bytes of output were dropped here", self.state.dropped);
            let mut line = Vec::new();
            push_line(&mut line, &now.rfc3339_nanos(), Stream::Stderr, 'F', &[note.as_bytes()]);
            self.write_whole(&line)?;
            self.state.dropped = 0;
        }
        self.write_whole(formatted)?;
        if self.file.as_ref().is_some_and(|open| open.len >= self.limits.file_bytes) {
            self.rotate(now)?;
        }
        Ok(())
    }

    /// Writes all of it or nothing, so that the file holds whole lines.
    fn write_whole(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(open) = &mut self.file else { return Ok(()) };
        if let Err(error) = open.file.write_all(bytes) {
            // Gone from under us or full: the part that was written is taken back, if it can be.
            open.file.set_len(open.len).ok();
            self.file = None;
            return Err(error);
        }
        open.len += u64::try_from(bytes.len()).unwrap_or(0);
        Ok(())
    }

    fn open(&mut self) -> io::Result<()> {
        if self.file.is_some() {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(0o755).create(&self.directory)?;
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o640)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(self.directory.join(self.name()))?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        self.file = Some(Open { file, len: metadata.len() });
        Ok(())
    }

    /// Moves the full file aside, as the kubelet does, and begins a new one.
    fn rotate(&mut self, now: WallTime) -> io::Result<()> {
        self.file = None;
        let current = self.name();
        let rotated = self.unused_name(now)?;
        fs::rename(self.directory.join(&current), self.directory.join(&rotated))?;
        self.state.rotated.push_back(rotated);
        // In the order in which they were made, not by time: the wall clock may step.
        let keep = usize::try_from(self.limits.files.saturating_sub(1)).unwrap_or(usize::MAX);
        while self.state.rotated.len() > keep {
            if let Some(oldest) = self.state.rotated.pop_front() {
                remove_file(&self.directory.join(oldest));
            }
        }
        if let Some(hints) = &self.hints {
            give_hint(hints);
        }
        self.open()
    }

    fn unused_name(&self, now: WallTime) -> io::Result<String> {
        let digits: String =
            now.rfc3339().chars().filter(|c| c.is_ascii_digit() || *c == 'T').collect();
        let stamp = digits.replace('T', "-");
        let base = format!("{}.{stamp}", self.name());
        let names =
            (0..NAMES_MAX).map(|n| if n == 0 { base.clone() } else { format!("{base}-{n}") });
        for name in names {
            match fs::symlink_metadata(self.directory.join(&name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(name),
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
        Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("too many files like {base}")))
    }

    fn name(&self) -> String {
        format!("{}.log", self.attempt)
    }
}

/// The end of the output in lines of a log; the first line is left out where it may be cut off.
fn last_of(raw: &[u8], is_cut: bool, bytes: usize, lines: usize) -> Vec<u8> {
    let all = raw.split_inclusive(|byte| *byte == b'\n').skip(usize::from(is_cut));
    let parts: Vec<(&[u8], bool)> = all
        .filter_map(|line| {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            // Time, stream and tag.
            let mut words = line.splitn(4, |byte| *byte == b' ').skip(2);
            let tag = words.next()?;
            Some((words.next()?, tag == b"F"))
        })
        .collect();
    let ends = parts.iter().enumerate().rev().filter(|(_, (_, is_whole))| *is_whole);
    // That before the first line which is wanted.
    let end = ends.map(|(at, _)| at).nth(lines);
    let skip = end.map_or(0, |end| end + 1);
    let mut text = Vec::new();
    for (part, is_whole) in parts.iter().skip(skip) {
        text.extend_from_slice(part);
        if *is_whole {
            text.push(b'\n');
        }
    }
    text.split_off(text.len().saturating_sub(bytes))
}

fn push_line(to: &mut Vec<u8>, stamp: &str, stream: Stream, tag: char, parts: &[&[u8]]) {
    let mut head = String::new();
    write!(head, "{stamp} {} {tag} ", stream.as_str()).expect("a String takes everything");
    to.extend_from_slice(head.as_bytes());
    for part in parts {
        to.extend_from_slice(part);
    }
    to.push(b'\n');
}

/// Removes the logs of runs that are too long ago. What can't be removed is tried again with the
/// next run.
fn remove_old(directory: &Path, attempt: Attempt) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let run = name.to_str().and_then(|name| name.split_once(".log"));
        let run = run.and_then(|(number, _)| number.parse::<u32>().ok());
        if run.is_some_and(|run| run.saturating_add(RUNS_KEPT) <= attempt.0) {
            remove_file(&entry.path());
        }
    }
}

/// Tells the agent that a log was rotated, if it listens. It counts the logs of all pods then.
pub(crate) fn give_hint(pipe: &Path) {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    if let Ok(mut pipe) = OpenOptions::new().write(true).custom_flags(flags).open(pipe) {
        // A full pipe holds hints enough.
        drop(pipe.write(&[1]));
    }
}

fn remove_file(path: &Path) {
    // The agent may have removed it, for the logs of all pods together.
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        journal::note(format_args!("can't remove {}: {error}", path.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallTime = WallTime(1_700_000_000_123_456_789);
    const STAMP: &str = "2023-11-14T22:13:20.123456789Z";

    fn paths(root: &Path) -> PodPaths {
        PodPaths { data: root.join("d"), runtime: root.join("r"), logs: root.join("l") }
    }

    fn log(root: &Path, attempt: u32, limits: LogLimits) -> ContainerLog {
        let container = "c".parse().unwrap();
        ContainerLog::begin(&paths(root), &container, Attempt(attempt), limits)
    }

    fn names(root: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(root.join("l/c"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn lines_wait_for_their_end_and_streams_do_not_mix() {
        let root = tempfile::tempdir().unwrap();
        let mut log = log(root.path(), 0, LogLimits::default());
        log.create();
        log.write(Stream::Stdout, b"one\ntw", NOW);
        log.write(Stream::Stderr, b"\nerr", NOW);
        log.write(Stream::Stdout, b"o\n", NOW);
        let state = serde_json::to_vec(log.state()).unwrap();
        let state = serde_json::from_slice(&state).unwrap();
        let container = "c".parse().unwrap();
        let limits = LogLimits::default();
        let mut log =
            ContainerLog::resume(&paths(root.path()), &container, Attempt(0), limits, state);
        log.finish(NOW);
        let text = fs::read_to_string(root.path().join("l/c/0.log")).unwrap();
        let expected: String = ["stdout F one", "stderr F ", "stdout F two", "stderr F err"]
            .iter()
            .map(|line| format!("{STAMP} {line}\n"))
            .collect();
        assert_eq!(text, expected);
    }

    #[test]
    fn long_lines_are_split_and_can_be_joined_again() {
        let root = tempfile::tempdir().unwrap();
        let mut log = log(root.path(), 0, LogLimits::default());
        let line = vec![b'x'; 2 * LINE_LEN_MAX + 5];
        for chunk in line.chunks(1000) {
            log.write(Stream::Stdout, chunk, NOW);
            assert!(log.state.stdout_rest.len() <= LINE_LEN_MAX);
        }
        log.write(Stream::Stdout, b"\n", NOW);
        log.write(Stream::Stdout, &[line.as_slice(), b"\n"].concat(), NOW);
        let text = fs::read_to_string(root.path().join("l/c/0.log")).unwrap();
        let prefix = STAMP.len() + " stdout F ".len();
        let parts: Vec<(&str, usize)> =
            text.lines().map(|line| (&line[prefix - 2..prefix - 1], line.len() - prefix)).collect();
        let one = [("P", LINE_LEN_MAX), ("P", LINE_LEN_MAX), ("F", 5)];
        assert_eq!(parts, [one, one].concat());
    }

    #[test]
    fn full_files_are_moved_aside_and_the_oldest_removed() {
        let root = tempfile::tempdir().unwrap();
        let limits = LogLimits { file_bytes: 100, files: 3 };
        let mut log = log(root.path(), 7, limits);
        for n in 0..5 {
            let line = format!("{n}{}\n", "x".repeat(100));
            log.write(Stream::Stdout, line.as_bytes(), NOW);
        }
        let old = "7.log.20231114-221320";
        // The names of the removed ones are free again.
        assert_eq!(names(root.path()).len(), 3);
        assert_eq!(names(root.path())[0], "7.log");
        assert!(names(root.path())[1].starts_with(old), "{:?}", names(root.path()));
        let kept: Vec<String> = log
            .state
            .rotated
            .iter()
            .map(|name| fs::read_to_string(root.path().join("l/c").join(name)).unwrap())
            .collect();
        assert!(kept[0].contains("F 3x") && kept[1].contains("F 4x"), "{kept:?}");
    }

    #[test]
    fn the_end_of_a_log_is_told_without_what_the_format_adds() {
        let root = tempfile::tempdir().unwrap();
        let mut log = log(root.path(), 0, LogLimits::default());
        assert_eq!(log.end(10, 2), b"");
        let text =
            |log: &ContainerLog, bytes, lines| String::from_utf8(log.end(bytes, lines)).unwrap();
        log.write(Stream::Stdout, b"one\n", NOW);
        log.write(Stream::Stderr, b"two words\n\n", NOW);
        log.write(Stream::Stdout, b"end", NOW);
        log.finish(NOW);
        assert_eq!(text(&log, 100, 100), "one\ntwo words\n\nend\n");
        assert_eq!(text(&log, 100, 3), "two words\n\nend\n");
        assert_eq!(text(&log, 100, 1), "end\n");
        assert_eq!(text(&log, 7, 100), "s\n\nend\n");
        // Of a line that is split, and longer than what is read, the end is told.
        log.write(
            Stream::Stdout,
            &[vec![b'x'; 2 * LINE_LEN_MAX + 5], b"\n".to_vec()].concat(),
            NOW,
        );
        assert_eq!(text(&log, 2048, 80), format!("{}\n", "x".repeat(2047)));
        for n in 0..100 {
            log.write(Stream::Stdout, format!("{n}\n").as_bytes(), NOW);
        }
        let last: String = (20..100).map(|n| format!("{n}\n")).collect();
        assert_eq!(text(&log, 2048, 80), last);
    }

    #[test]
    fn the_end_of_a_log_goes_on_in_the_file_before() {
        let root = tempfile::tempdir().unwrap();
        let limits = LogLimits { file_bytes: 100, files: 3 };
        let mut log = log(root.path(), 7, limits);
        for n in 0..9 {
            log.write(Stream::Stdout, format!("{n} {}\n", "x".repeat(20)).as_bytes(), NOW);
        }
        let end = String::from_utf8(log.end(2048, 80)).unwrap();
        let numbers: Vec<&str> = end.lines().map(|line| &line[..1]).collect();
        assert_eq!(numbers, ["4", "5", "6", "7", "8"]);
    }

    #[test]
    fn only_the_last_runs_are_kept() {
        let root = tempfile::tempdir().unwrap();
        for n in [0, 1, 9, 10] {
            log(root.path(), n, LogLimits::default()).create();
        }
        fs::write(root.path().join("l/c/9.log.20231114-221320"), "").unwrap();
        fs::write(root.path().join("l/c/other"), "").unwrap();
        log(root.path(), 10, LogLimits::default()).create();
        assert_eq!(names(root.path()), ["10.log", "9.log", "9.log.20231114-221320", "other"]);
        log(root.path(), 11, LogLimits::default()).create();
        assert_eq!(names(root.path()), ["10.log", "11.log", "other"]);
    }

    #[test]
    fn what_a_full_disk_does_not_take_is_dropped_and_counted() {
        let root = tempfile::tempdir().unwrap();
        let mut log = log(root.path(), 0, LogLimits::default());
        log.create();
        let full = File::options().append(true).open("/dev/full").unwrap();
        log.file = Some(Open { file: full, len: 0 });
        log.write(Stream::Stdout, b"lost\n", NOW);
        assert_eq!(log.state.dropped, 5);
        log.write(Stream::Stdout, b"kept\n", NOW);
        let text = fs::read_to_string(root.path().join("l/c/0.log")).unwrap();
        assert_eq!(
            text,
            format!(
                "{STAMP} stderr F roost: 5 bytes of output were dropped here\n\
                 {STAMP} stdout F kept\n"
            )
        );
    }

    #[test]
    fn a_link_in_place_of_the_log_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("target");
        fs::write(&target, "").unwrap();
        fs::create_dir_all(root.path().join("l/c")).unwrap();
        std::os::unix::fs::symlink(&target, root.path().join("l/c/0.log")).unwrap();
        let mut log = log(root.path(), 0, LogLimits::default());
        log.write(Stream::Stdout, b"x\n", NOW);
        assert_eq!(fs::read_to_string(&target).unwrap(), "");
        assert_eq!(log.state.dropped, 2);
    }
}
