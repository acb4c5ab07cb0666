//! [`Reader`]: the log files of one run, read as one, also while they are written and rotated.
//!
//! ```text
//! 3.log.20260102-030405      oldest
//! 3.log.20260102-030409
//! 3.log                      written to; when it is full it is renamed, and a new one is made
//! ```
//!
//! A file that is open is followed under whatever name. When it has been read to its end and is
//! not `3.log` any more, it is complete, and the next one is the one after it. If it is gone, all
//! older ones are too, and the next one is the oldest. Nothing is remembered by inode number but
//! of the file that is open, because numbers are used again.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::lines::{Lines, is_whole};
use crate::clock::WallTime;
use crate::ids::Attempt;

/// Bytes read at a time.
const CHUNK_LEN: usize = 64 << 10;
/// Most files of one run that are looked at.
const FILES_MAX: usize = 1000;

/// Reads the log of one run.
#[derive(Debug)]
pub(super) struct Reader {
    directory: PathBuf,
    /// `<n>.log`.
    name: String,
    /// To begin with the last so many lines only.
    tail: Option<u64>,
    lines: Lines,
    /// None until there is a file.
    open: Option<Open>,
}

/// A file that is being read.
#[derive(Debug)]
struct Open {
    file: File,
    identity: Identity,
    offset: u64,
}

/// Which file it is, while it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// What one step has brought.
#[derive(Debug)]
pub(super) struct Step {
    /// Text.
    pub(super) text: Vec<u8>,
    /// Whether that is all there is for now.
    pub(super) at_end: bool,
}

impl Reader {
    /// A reader that has not begun.
    pub(super) fn new(directory: PathBuf, run: Attempt, tail: Option<u64>, lines: Lines) -> Self {
        Self { directory, name: format!("{run}.log"), tail, lines, open: None }
    }

    /// Whether as much has been read as was wanted.
    pub(super) fn is_full(&self) -> bool {
        self.lines.is_full()
    }

    /// Reads a bit. `ended` says that nothing will be written any more.
    pub(super) fn step(&mut self, ended: bool) -> io::Result<Step> {
        let mut text = Vec::new();
        if self.open.is_none() {
            self.open = self.first()?;
        }
        while let Some(open) = &mut self.open {
            let mut buffer = vec![0; CHUNK_LEN];
            let mut len = open.file.read_at(&mut buffer, open.offset)?;
            if len == 0 {
                let Some(next) = next(&self.directory, &self.name, open.identity)? else { break };
                // It was renamed, so that it is complete: but not before it was seen to be.
                len = open.file.read_at(&mut buffer, open.offset)?;
                if len == 0 {
                    self.lines.end_file(&mut text);
                    self.open = Some(next);
                    continue;
                }
            }
            open.offset += u64::try_from(len).unwrap_or(0);
            self.lines.feed(&buffer[..len], &mut text);
            if self.lines.is_full() || text.len() >= CHUNK_LEN {
                return Ok(Step { text, at_end: false });
            }
        }
        if ended {
            self.lines.finish(&mut text);
        }
        Ok(Step { text, at_end: true })
    }

    /// The file to begin with, at the place to begin with.
    fn first(&mut self) -> io::Result<Option<Open>> {
        let mut files = list(&self.directory, &self.name)?;
        let Some(mut tail) = self.tail else {
            let is_old = |file: &Listed| {
                let since = self.lines.since();
                since.is_some_and(|since| file.written_at.rfc3339_nanos().as_str() < since)
            };
            // A file is as old as its newest line; the last one may still get one.
            let old = files.iter().take_while(|file| is_old(file)).count();
            let first = old.min(files.len().saturating_sub(1));
            return Ok(files.drain(..).nth(first).map(|listed| listed.open));
        };
        let mut oldest = None;
        while let Some(Listed { mut open, .. }) = files.pop() {
            if let Some(offset) = tail_begin(&open.file, &mut tail)? {
                open.offset = offset;
                return Ok(Some(open));
            }
            oldest = Some(open);
        }
        Ok(oldest)
    }
}

/// The newest run of which there is a log.
pub(super) fn newest_run(directory: &Path) -> Option<Attempt> {
    let entries = std::fs::read_dir(directory).ok()?;
    let run = |entry: std::fs::DirEntry| {
        entry.file_name().to_str()?.strip_suffix(".log")?.parse().ok().map(Attempt)
    };
    entries.flatten().filter_map(run).max()
}

/// A file of the run.
#[derive(Debug)]
struct Listed {
    open: Open,
    written_at: WallTime,
}

/// The files of a run, the one that is written to last. A rotated one may be missing that was
/// renamed meanwhile only if it was found under its old name.
fn list(directory: &Path, name: &str) -> io::Result<Vec<Listed>> {
    let current = open(&directory.join(name))?;
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    let prefix = format!("{name}.");
    for entry in entries.take(FILES_MAX) {
        let entry = entry?;
        let is_rotated = entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix));
        if is_rotated && let Some(listed) = open(&entry.path())? {
            let identity = listed.open.identity;
            if current.as_ref().is_none_or(|current| current.open.identity != identity) {
                files.push(listed);
            }
        }
    }
    // By when they were last written, not by name: the names of removed ones are used again.
    files.sort_by_key(|file| file.written_at);
    files.extend(current);
    Ok(files)
}

/// The file after the one that is open, if that is complete.
fn next(directory: &Path, name: &str, identity: Identity) -> io::Result<Option<Open>> {
    if let Ok(metadata) = std::fs::symlink_metadata(directory.join(name))
        && Identity::of(&metadata) == identity
    {
        return Ok(None);
    }
    let files = list(directory, name)?;
    let at = files.iter().position(|file| file.open.identity == identity);
    let after = at.map_or(0, |at| at + 1);
    Ok(files.into_iter().nth(after).map(|listed| listed.open))
}

/// Opens a file, if it is there and is one.
fn open(path: &Path) -> io::Result<Option<Listed>> {
    let opened =
        OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(None);
    }
    let nanos = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
    Ok(Some(Listed {
        open: Open { file, identity: Identity::of(&metadata), offset: 0 },
        written_at: WallTime(u64::try_from(nanos).unwrap_or(0)),
    }))
}

/// Where the last `left` lines of the file begin. If it has fewer, they are taken off `left`.
/// Reads from the end, and no more than is needed.
fn tail_begin(file: &File, left: &mut u64) -> io::Result<Option<u64>> {
    let mut end = file.metadata()?.len();
    let mut buffer = vec![0; CHUNK_LEN];
    while end > 0 {
        let begin = end.saturating_sub(u64::try_from(CHUNK_LEN).unwrap_or(u64::MAX));
        let len = usize::try_from(end - begin).unwrap_or(CHUNK_LEN);
        let window = &mut buffer[..len];
        file.read_exact_at(window, begin)?;
        let mut cut = len;
        while cut > 0 {
            let before_end = if window[cut - 1] == b'\n' { cut - 1 } else { cut };
            let start = match window[..before_end].iter().rposition(|byte| *byte == b'\n') {
                Some(at) => at + 1,
                None if begin == 0 => 0,
                // The line begins before the window; one that fills it is not of our making.
                None if cut < len => break,
                None => 0,
            };
            if is_whole(&window[start..cut]) {
                if *left == 0 {
                    return Ok(Some(begin + u64::try_from(cut).unwrap_or(0)));
                }
                *left -= 1;
            }
            cut = start;
        }
        end = begin + u64::try_from(cut).unwrap_or(0);
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
