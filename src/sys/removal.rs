//! [`remove_tree`]: the removal of a directory whose content others have made.
//!
//! A container may nest directories as deep as it likes. `std::fs::remove_dir_all` goes down with a
//! frame of the stack and a descriptor for each of them, and some 15,000 are more than a thread
//! has. Here what is deep is moved up instead: three descriptors and a list are all that is needed.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

/// Most directories that are noted at a time; what is more comes with the next look.
const NOTED_MAX: usize = 4096;

/// Removes a directory and everything in it, as far down as it goes. Links are removed, not
/// followed; what is no directory is removed as well.
///
/// # Errors
/// `NotFound` if there is nothing; else what could not be removed: a file system that is mounted in
/// it, for example. What is left then may have been moved within the directory.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
        Ok(top) => top,
        Err(Errno::NOTDIR | Errno::LOOP) => return fs::remove_file(path),
        Err(error) => return Err(error.into()),
    };
    let mut tree = Tree { top: top.as_fd(), moved: 0 };
    loop {
        let Cleared { full, mut progress } = tree.clear(tree.top)?;
        if full.is_empty() {
            break;
        }
        for name in full {
            let Ok(below) = rustix::fs::openat(tree.top, &name, flags, Mode::empty()) else {
                continue;
            };
            for deep in tree.clear(below.as_fd())?.full {
                tree.move_up(below.as_fd(), &deep)?;
            }
            match rustix::fs::unlinkat(tree.top, &name, AtFlags::REMOVEDIR) {
                // There were more than are noted at a time.
                Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => progress = true,
                Err(error) => return Err(error.into()),
            }
        }
        if !progress {
            return Err(Errno::NOTEMPTY.into());
        }
    }
    fs::remove_dir(path)
}

struct Tree<'a> {
    top: BorrowedFd<'a>,
    /// The number of what was moved up last.
    moved: u64,
}

/// What became of a directory.
struct Cleared {
    /// Directories in it that are not empty.
    full: Vec<CString>,
    /// Whether something was removed.
    progress: bool,
}

impl Tree<'_> {
    /// Removes what is in a directory but for directories that are not empty.
    fn clear(&self, directory: BorrowedFd<'_>) -> io::Result<Cleared> {
        let mut cleared = Cleared { full: Vec::new(), progress: false };
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            match remove_one(directory, name) {
                Ok(()) => cleared.progress = true,
                Err(Errno::NOTEMPTY | Errno::EXIST) => {
                    cleared.full.push(name.to_owned());
                    if cleared.full.len() == NOTED_MAX {
                        break;
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(cleared)
    }

    /// Moves a directory to the top, under a name that nothing has there.
    fn move_up(&mut self, from: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        loop {
            self.moved += 1;
            let to = format!(".removed-{}", self.moved);
            match rustix::fs::renameat_with(from, name, self.top, to, RenameFlags::NOREPLACE) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Removes a file, or a directory that is empty. What is gone already is removed.
fn remove_one(directory: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let removed = match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        // unlink(2) of a directory: Linux says the first, POSIX the second.
        Err(Errno::ISDIR | Errno::PERM) => {
            match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
                // An immutable file.
                Err(Errno::NOTDIR) => Err(Errno::PERM),
                removed => removed,
            }
        }
        removed => removed,
    };
    match removed {
        Err(Errno::NOENT) => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chain of directories of that depth below one, with a file at its end.
    fn nest(directory: &Path, depth: usize) {
        let mut here = fs::File::open(directory).unwrap();
        for _ in 0..depth {
            rustix::fs::mkdirat(&here, "d", Mode::RWXU).unwrap();
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            here = rustix::fs::openat(&here, "d", flags, Mode::empty()).unwrap().into();
        }
        let flags = OFlags::CREATE | OFlags::WRONLY;
        rustix::fs::openat(&here, "file", flags, Mode::RWXU).unwrap();
    }

    #[test]
    fn a_tree_is_removed_however_deep_and_wide_it_is_and_whatever_its_names_are() {
        let root = tempfile::tempdir().unwrap();
        let (tree, outside) = (root.path().join("tree"), root.path().join("outside"));
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "").unwrap();
        for name in [".removed-1", "a/.removed-2", "a/b/.removed-1"] {
            fs::create_dir_all(tree.join(name).join("x/y")).unwrap();
        }
        std::os::unix::fs::symlink(&outside, tree.join("a/link")).unwrap();
        for i in 0..NOTED_MAX + 10 {
            fs::create_dir_all(tree.join(format!("a/wide{i}/x"))).unwrap();
        }
        nest(&tree.join("a"), 20_000);
        remove_tree(&tree).unwrap();
        assert!(!tree.exists() && outside.join("kept").exists());
        assert_eq!(remove_tree(&tree).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_and_a_link_are_removed_themselves() {
        let root = tempfile::tempdir().unwrap();
        let (file, link) = (root.path().join("file"), root.path().join("link"));
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        remove_tree(&link).unwrap();
        assert!(file.exists() && fs::symlink_metadata(&link).is_err());
        remove_tree(&file).unwrap();
        assert!(!file.exists());
    }
}
