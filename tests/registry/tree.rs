//! Trees of files as text, so that two can be compared: everything about each file but its inode.
#![allow(unreachable_pub, reason = "in a test program `pub` says what other modules use")]
#![allow(clippy::unwrap_used, reason = "what tests stand on panics when it is not there")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// Longest value of an extended attribute (xattr(7)).
const XATTR_LEN_MAX: usize = 64 << 10;

/// Type, mode, owner, size, content, mtime, links and extended attributes of each file, by its path.
/// Files with several names are numbered in the order of their first ones.
pub fn listing(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut links = BTreeMap::new();
    list_into(root, Path::new("."), &mut all, &mut links);
    all
}

/// Panics with what differs.
#[track_caller]
pub fn assert_same(ours: &BTreeMap<PathBuf, String>, theirs: &BTreeMap<PathBuf, String>) {
    let names = ours.keys().chain(theirs.keys());
    let differs: Vec<String> = names
        .filter(|name| ours.get(*name) != theirs.get(*name))
        .map(|name| format!("{name:?}\n  {:?}\n  {:?}", ours.get(name), theirs.get(name)))
        .collect();
    assert!(differs.is_empty(), "{}", differs.join("\n"));
}

fn list_into(
    root: &Path,
    path: &Path,
    all: &mut BTreeMap<PathBuf, String>,
    links: &mut BTreeMap<u64, PathBuf>,
) {
    let full = root.join(path);
    let found = full.symlink_metadata().unwrap();
    let kind = found.file_type();
    let mut line = if kind.is_dir() {
        "directory".to_owned()
    } else if kind.is_symlink() {
        format!("link to {:?}", fs::read_link(&full).unwrap())
    } else if kind.is_file() {
        format!("file of {}: {}", found.len(), hex(&Sha256::digest(fs::read(&full).unwrap())))
    } else if kind.is_char_device() || kind.is_block_device() {
        if kind.is_char_device() && found.rdev() == 0 {
            // Nobody sees when it was made.
            all.insert(path.to_owned(), "whiteout".to_owned());
            return;
        }
        let letter = if kind.is_char_device() { 'c' } else { 'b' };
        format!("{letter} {:x}", found.rdev())
    } else {
        format!("{kind:?}")
    };
    write!(line, ", {:04o} {}:{}", found.mode() & 0o7777, found.uid(), found.gid()).unwrap();
    write!(line, ", {}.{:09}", found.mtime(), found.mtime_nsec()).unwrap();
    for (key, value) in xattrs(&full) {
        write!(line, ", {key}={}", hex(&value)).unwrap();
    }
    if !kind.is_dir() && found.nlink() > 1 {
        let first = links.entry(found.ino()).or_insert_with(|| path.to_owned());
        write!(line, ", one with {first:?}").unwrap();
    }
    all.insert(path.to_owned(), line);
    if kind.is_dir() {
        let entries = fs::read_dir(&full).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        for name in names {
            list_into(root, &path.join(name), all, links);
        }
    }
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; XATTR_LEN_MAX];
    let len = rustix::fs::llistxattr(path, &mut names).unwrap();
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; XATTR_LEN_MAX];
        let len = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
        value.truncate(len);
        (String::from_utf8_lossy(name).into_owned(), value)
    };
    names.map(value).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
