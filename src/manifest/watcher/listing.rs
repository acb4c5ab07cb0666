//! The thin shell that lists a manifest directory and reads its files, through descriptors.
//!
//! Not here: when to do so (`watcher`), and what to believe (`settle`).

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::observation::{
    DirectoryFault, FileFault, MAX_ENTRIES, MAX_FILE_BYTES, MAX_FILES, MAX_IGNORED_NAMES,
};
use super::settle::{Reading, Scan, Stamp};
use crate::sys;

/// The extensions of manifests.
const EXTENSIONS: [&str; 3] = [".yaml", ".yml", ".json"];

/// What a file is by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NameKind {
    Manifest,
    /// Editors', rsync's and our own temporary files; `..data`.
    Hidden,
    /// Anything else, `a.yaml.bak`, `a.yaml~` and `a.yaml.dpkg-new` among it: they end in
    /// something else than a manifest does.
    Ignored,
}

/// Sorts a name.
pub(super) fn name_kind(name: &[u8]) -> NameKind {
    if name.starts_with(b".") {
        return NameKind::Hidden;
    }
    let manifest = std::str::from_utf8(name)
        .is_ok_and(|name| EXTENSIONS.iter().any(|extension| name.ends_with(extension)));
    if manifest { NameKind::Manifest } else { NameKind::Ignored }
}

/// An open manifest directory.
#[derive(Debug)]
pub(super) struct Directory {
    descriptor: OwnedFd,
    pub(super) handle: Vec<u8>,
}

impl Directory {
    /// Opens what the path leads to. Never waits for a pipe: O_DIRECTORY refuses it first.
    pub(super) fn open(path: &str) -> Result<Self, DirectoryFault> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptor =
            rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|errno| match errno {
                Errno::NOENT => DirectoryFault::Missing,
                Errno::NOTDIR => DirectoryFault::NotADirectory,
                other => unreadable_directory("opened", other),
            })?;
        let handle = sys::directory_handle(descriptor.as_fd())
            .map_err(|error| unreadable_directory("identified", error))?;
        Ok(Self { descriptor, handle })
    }

    /// Lists it, without opening files.
    pub(super) fn scan(&self) -> Result<Scan, DirectoryFault> {
        let failed = |errno: Errno| unreadable_directory("listed", errno);
        let mut entries = BTreeMap::new();
        let mut ignored = Vec::new();
        let directory = Dir::read_from(&self.descriptor).map_err(failed)?;
        for (count, entry) in directory.enumerate() {
            let entry = entry.map_err(failed)?;
            if count >= MAX_ENTRIES {
                return Err(DirectoryFault::TooManyEntries { limit: MAX_ENTRIES });
            }
            let name = entry.file_name();
            match name_kind(name.to_bytes()) {
                NameKind::Hidden => {}
                NameKind::Ignored => ignored.push(name.to_string_lossy().into_owned()),
                NameKind::Manifest => {
                    if let Some(seen) = self.look_at(name, entry.file_type()) {
                        entries.insert(name.to_string_lossy().into_owned(), seen);
                    }
                }
            }
            if entries.len() > MAX_FILES {
                return Err(DirectoryFault::TooManyFiles { limit: MAX_FILES });
            }
        }
        ignored.sort_unstable();
        ignored.truncate(MAX_IGNORED_NAMES);
        Ok(Scan { handle: self.handle.clone(), entries, ignored })
    }

    /// Reads a file that was a regular one when it was listed.
    pub(super) fn read(&self, name: &str) -> Reading {
        // O_NONBLOCK: it may have become a pipe since, and nobody may ever write to that.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let descriptor = match rustix::fs::openat(&self.descriptor, name, flags, Mode::empty()) {
            Ok(descriptor) => descriptor,
            Err(Errno::NOENT) => return Reading::Vanished,
            Err(errno) => return Reading::Fault(unreadable("opened", errno)),
        };
        let link = self.lies_behind_link(name);
        read_consistently(descriptor, link).unwrap_or_else(Reading::Fault)
    }

    /// The stamp of a name in the listing; nothing if it vanished since.
    fn look_at(&self, name: &CStr, kind: FileType) -> Option<Result<Stamp, FileFault>> {
        let is_link = match kind {
            FileType::Symlink => true,
            // Some file systems do not say.
            FileType::Unknown => name.to_str().is_ok_and(|name| self.lies_behind_link(name)),
            FileType::RegularFile
            | FileType::Directory
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice => false,
        };
        match rustix::fs::statx(&self.descriptor, name, AtFlags::empty(), StatxFlags::BASIC_STATS) {
            Ok(stat) => Some(stamp(&stat, is_link)),
            Err(Errno::NOENT) if is_link => Some(Err(FileFault::DanglingLink)),
            Err(Errno::NOENT) => None,
            Err(errno) => Some(Err(unreadable("examined", errno))),
        }
    }

    fn lies_behind_link(&self, name: &str) -> bool {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::statx(&self.descriptor, name, flags, StatxFlags::TYPE)
            .is_ok_and(|stat| file_type(&stat) == FileType::Symlink)
    }
}

fn read_consistently(descriptor: OwnedFd, link: bool) -> Result<Reading, FileFault> {
    let before = stamp_of(descriptor.as_fd(), link)?;
    let file = File::from(descriptor);
    let mut bytes = Vec::with_capacity(usize::try_from(before.size).unwrap_or(0));
    (&file)
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable("read", error))?;
    let after = stamp_of(file.as_fd(), link)?;
    if before != after || bytes.len() as u64 != after.size {
        return Ok(Reading::Unstable);
    }
    Ok(Reading::Whole { stamp: after, bytes })
}

fn stamp_of(descriptor: BorrowedFd<'_>, link: bool) -> Result<Stamp, FileFault> {
    let stat = rustix::fs::statx(descriptor, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
        .map_err(|errno| unreadable("examined", errno))?;
    stamp(&stat, link)
}

fn stamp(stat: &Statx, is_link: bool) -> Result<Stamp, FileFault> {
    let kind = match file_type(stat) {
        FileType::RegularFile => None,
        FileType::Directory => Some("directory"),
        FileType::Fifo => Some("pipe"),
        FileType::Socket => Some("socket"),
        FileType::CharacterDevice | FileType::BlockDevice => Some("device"),
        FileType::Symlink => Some("symbolic link"),
        FileType::Unknown => Some("thing of unknown kind"),
    };
    if let Some(kind) = kind {
        return Err(FileFault::NotRegular { kind });
    }
    if stat.stx_size > MAX_FILE_BYTES {
        return Err(FileFault::TooLarge { bytes: stat.stx_size, limit: MAX_FILE_BYTES });
    }
    Ok(Stamp {
        device: (stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
        size: stat.stx_size,
        modified: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
        changed: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
        link: is_link || stat.stx_nlink > 1,
    })
}

fn file_type(stat: &Statx) -> FileType {
    FileType::from_raw_mode(stat.stx_mode.into())
}

fn unreadable(attempt: &'static str, error: impl Into<io::Error>) -> FileFault {
    FileFault::Unreadable { attempt, reason: error.into().to_string() }
}

fn unreadable_directory(attempt: &'static str, error: impl Into<io::Error>) -> DirectoryFault {
    DirectoryFault::Unreadable { attempt, reason: error.into().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_manifests_by_name_are_manifests() {
        for name in ["a.yaml", "b.yml", "c.json", "d.e.yaml"] {
            assert_eq!(name_kind(name.as_bytes()), NameKind::Manifest, "{name}");
        }
        for name in [
            "a.yaml~",
            "a.yaml.bak",
            "a.yaml.swp",
            "a.yaml.tmp",
            "a.yaml.rpmsave",
            "a.yaml.dpkg-new",
            "README",
            "4913",
            "#a.yaml#",
            "yaml",
            "a.YAML",
        ] {
            assert_eq!(name_kind(name.as_bytes()), NameKind::Ignored, "{name}");
        }
        for name in [".a.yaml", ".a.yaml.Xy12", "..data", ".", ".yaml"] {
            assert_eq!(name_kind(name.as_bytes()), NameKind::Hidden, "{name}");
        }
        assert_eq!(name_kind(b"\xff.yaml"), NameKind::Ignored, "names are text");
    }
}
