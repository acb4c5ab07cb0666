//! [`Ears`]: hints of the kernel (inotify(7)) that something was put into a directory, or is being
//! written there. A hint that is missed is made good by the relist.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Whole;

/// Bytes of hints that are read at a time.
const BUFFER_LEN: usize = 16 << 10;
/// Files that are remembered as being written, or as closed.
const FILES_MAX: usize = 4096;

/// What a hint says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hint {
    /// Something is going on.
    Changed,
    /// A file is complete.
    Whole,
}

/// Hears what happens in directories.
#[derive(Debug)]
pub(super) struct Ears {
    inotify: AsyncFd<OwnedFd>,
    directories: BTreeMap<i32, PathBuf>,
    writing: BTreeSet<PathBuf>,
    whole: BTreeSet<PathBuf>,
}

impl Ears {
    pub(super) fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        #[expect(
            deprecated,
            reason = "`register` is unsafe for descriptors that may change; an OwnedFd does not"
        )]
        let inotify = AsyncFd::with_interest(inotify, Interest::READABLE)?;
        Ok(Self {
            inotify,
            directories: BTreeMap::new(),
            writing: BTreeSet::new(),
            whole: BTreeSet::new(),
        })
    }

    /// Listens to the directories and what is in layouts there; for one that is missing, to what is
    /// above it. `anew`: whoever writes for longer than a relist without a change has gone.
    pub(super) fn listen(&mut self, directories: &[PathBuf], anew: bool) {
        if anew {
            self.writing.clear();
        }
        for directory in directories {
            let there = directory.ancestors().find(|ancestor| ancestor.is_dir());
            let Some(there) = there else { continue };
            if there != directory.as_path() {
                self.watch(there, WatchFlags::CREATE | WatchFlags::MOVED_TO);
                continue;
            }
            self.watch(there, EVERYTHING);
            let entries = std::fs::read_dir(there).into_iter().flatten().flatten();
            for below in entries.take(super::FILES_MAX).map(|entry| entry.path()) {
                // Of a link it is the directory that it leads to.
                if below.is_dir() {
                    self.watch(&below, EVERYTHING);
                    self.watch(&below.join("blobs/sha256"), EVERYTHING);
                }
            }
        }
    }

    fn watch(&mut self, directory: &Path, what: WatchFlags) {
        // One that is not there, or that is one too many, is only looked at by the relist.
        let flags = what | WatchFlags::ONLYDIR;
        if let Ok(number) = inotify::add_watch(self.inotify.get_ref(), directory, flags) {
            self.directories.insert(number, directory.to_owned());
        }
    }

    /// What is known of a file.
    pub(super) fn whole(&self, path: &Path) -> Whole {
        if self.writing.contains(path) {
            Whole::No
        } else if self.whole.contains(path) {
            Whole::Yes
        } else {
            Whole::Unknown
        }
    }

    /// Waits for a hint. Cancel-safe: what was read is taken in.
    pub(super) async fn hint(&mut self) -> Hint {
        loop {
            let ready = self.inotify.readable().await;
            let Ok(mut ready) = ready else { return std::future::pending().await };
            let mut heard = Vec::new();
            let mut buffer = [MaybeUninit::uninit(); BUFFER_LEN];
            let mut reader = inotify::Reader::new(ready.get_inner(), &mut buffer);
            loop {
                match reader.next() {
                    Ok(event) => {
                        let name = event.file_name().map(|name| name.to_bytes().to_vec());
                        heard.push((event.wd(), event.events(), name));
                    }
                    Err(rustix::io::Errno::AGAIN) => {
                        ready.clear_ready();
                        break;
                    }
                    Err(_) => break,
                }
                if reader.is_buffer_empty() {
                    break;
                }
            }
            let hints = heard.into_iter().map(|(number, flags, name)| {
                self.take(number, flags, name.as_deref().unwrap_or_default())
            });
            let best = hints.max();
            if let Some(hint) = best {
                return hint;
            }
        }
    }

    /// Waits for a hint that a file is complete. Cancel-safe.
    pub(super) async fn whole_hint(&mut self) {
        while self.hint().await != Hint::Whole {}
    }

    fn take(&mut self, number: i32, flags: ReadFlags, name: &[u8]) -> Hint {
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.writing.clear();
            self.whole.clear();
            return Hint::Changed;
        }
        if flags.contains(ReadFlags::IGNORED) {
            self.directories.remove(&number);
            return Hint::Changed;
        }
        let Some(directory) = self.directories.get(&number) else { return Hint::Changed };
        let path = directory.join(OsStr::from_bytes(name));
        if self.writing.len() + self.whole.len() >= FILES_MAX {
            self.writing.clear();
            self.whole.clear();
        }
        if flags.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO) {
            self.writing.remove(&path);
            self.whole.insert(path);
            return Hint::Whole;
        }
        self.whole.remove(&path);
        if flags.contains(ReadFlags::MODIFY) {
            self.writing.insert(path);
        } else if flags.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM) {
            self.writing.remove(&path);
        }
        Hint::Changed
    }
}

/// What of a directory counts.
const EVERYTHING: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::DELETE);
