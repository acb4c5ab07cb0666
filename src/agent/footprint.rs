//! What pods have on disk, counted by walking through it.
//!
//! What is walked through belongs to containers, which may change it meanwhile: directories are
//! opened beneath the first one without following any link or leaving the file system (openat2(2)),
//! and without changing when they were read last, so that counting writes nothing. A file with
//! several names counts once. Not here: what becomes of the figures (`pressure`, `local_storage`).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};

use crate::ids::{ContainerName, VolumeName};
use crate::manifest::pod::{PodSpec, VolumeSource};
use crate::state::paths::PodPaths;

/// Most files that are looked at in one place.
const ENTRIES_MAX: u64 = 2_000_000;
/// Most files with several names that are remembered in one place.
const LINKS_MAX: usize = 100_000;
/// Most bytes of the ways to directories that are still to be looked at.
const REST_LEN_MAX: usize = 64 << 20;
/// From this length on of the way to a directory, in bytes, the next one is opened from there: with
/// one more name it stays below `PATH_MAX`.
const WAY_LEN_MAX: usize = 3072;
/// Most directories that are open at a time because of that.
const BASES_MAX: usize = 64;
/// In what `st_blocks` counts (stat(3type)).
const BLOCK: u64 = 512;

/// What there is in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Size {
    /// On the disk.
    pub(super) bytes: u64,
    /// Files and directories.
    pub(super) inodes: u64,
}

impl Size {
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            inodes: self.inodes.saturating_add(other.inodes),
        }
    }
}

/// What a pod instance has on disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Footprint {
    /// What each container wrote, with its logs.
    pub(super) containers: BTreeMap<ContainerName, Size>,
    /// Volumes that go with the pod.
    pub(super) volumes: BTreeMap<VolumeName, Size>,
}

impl Footprint {
    /// Of an instance; what can't be read counts nothing, and neither does, if a file system is
    /// named (`st_dev`), what is on another.
    pub(super) fn of(paths: &PodPaths, spec: &PodSpec, disk: Option<u64>) -> Self {
        let containers = spec.all_containers().map(|container| {
            let name = &container.name;
            let places = [paths.writable(name), paths.sandbox(name), paths.container_logs(name)];
            let sizes = places.iter().map(|place| size_of(place, disk));
            (name.clone(), sizes.fold(Size::default(), Size::plus))
        });
        let is_own = |source: &VolumeSource| match source {
            VolumeSource::EmptyDir { .. } => true,
            VolumeSource::Memory { .. }
            | VolumeSource::HostPath { .. }
            | VolumeSource::Claim { .. }
            | VolumeSource::Image(_)
            | VolumeSource::Projected(_) => false,
        };
        let volumes = spec.volumes.iter().filter(|volume| is_own(&volume.source));
        let volumes =
            volumes.map(|volume| (volume.name.clone(), size_of(&paths.volume(&volume.name), disk)));
        Self { containers: containers.collect(), volumes: volumes.collect() }
    }

    /// All of it.
    pub(super) fn total(&self) -> Size {
        self.containers
            .values()
            .chain(self.volumes.values())
            .copied()
            .fold(Size::default(), Size::plus)
    }
}

/// Everything in a directory, itself included.
fn size_of(directory: &Path, disk: Option<u64>) -> Size {
    let mut walk = Walk::default();
    match walk.all(directory, disk) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        // Nobody gets round a limit by leaving too much to count.
        Err(error) if error.kind() == io::ErrorKind::Other => {
            tracing::warn!(%error, path = %directory.display(), "more is there than can be counted");
            walk.size = Size { bytes: u64::MAX, inodes: u64::MAX };
        }
        Err(error) => {
            tracing::warn!(%error, path = %directory.display(), "can't count what is there");
        }
    }
    walk.size
}

#[derive(Default)]
struct Walk {
    size: Size,
    /// Files with several names that were counted.
    links: BTreeSet<u64>,
    /// Directories to come.
    rest: Vec<Ahead>,
    /// Bytes of the ways to them.
    rest_len: usize,
}

/// A directory to come.
#[derive(Clone)]
struct Ahead {
    /// One above it that is open.
    base: Rc<OwnedFd>,
    /// How many such there are above it. No more are open at a time: of each directory everything
    /// is done before the next to it is opened.
    bases: usize,
    /// The way from there.
    path: Vec<u8>,
}

impl Walk {
    fn all(&mut self, directory: &Path, disk: Option<u64>) -> io::Result<()> {
        let flags = OFlags::RDONLY
            | OFlags::DIRECTORY
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC
            | OFlags::NOATIME;
        let top = rustix::fs::open(directory, flags, Mode::empty())?;
        let own = rustix::fs::fstat(&top)?;
        if disk.is_some_and(|disk| disk != own.st_dev) {
            return Ok(());
        }
        self.count(own.st_blocks);
        let base = Rc::new(top);
        self.directory(base.as_fd(), &Ahead { base: base.clone(), bases: 1, path: Vec::new() })?;
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        while let Some(ahead) = self.rest.pop() {
            self.rest_len = self.rest_len.saturating_sub(ahead.path.len());
            let Ok(name) = CString::new(ahead.path.as_slice()) else { continue };
            // What went, moved or became something else meanwhile is not counted.
            let opened: Result<OwnedFd, _> =
                rustix::fs::openat2(&ahead.base, name.as_c_str(), flags, Mode::empty(), resolve);
            let Ok(found) = opened else { continue };
            if ahead.path.len() < WAY_LEN_MAX {
                self.directory(found.as_fd(), &ahead)?;
            } else if ahead.bases < BASES_MAX {
                let base = Rc::new(found);
                let bases = ahead.bases + 1;
                self.directory(
                    base.as_fd(),
                    &Ahead { base: base.clone(), bases, path: Vec::new() },
                )?;
            } else {
                return Err(io::Error::other("directories are too deep"));
            }
        }
        Ok(())
    }

    /// The entries of one directory.
    fn directory(&mut self, directory: BorrowedFd<'_>, here: &Ahead) -> io::Result<()> {
        for entry in Dir::read_from(directory)? {
            // It may be removed while it is read.
            let Ok(entry) = entry else { break };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Ok(stat) = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            let is_known = !is_directory
                && stat.st_nlink > 1
                && (self.links.contains(&stat.st_ino)
                    || (self.links.len() < LINKS_MAX && !self.links.insert(stat.st_ino)));
            if !is_known {
                self.count(stat.st_blocks);
            }
            if is_directory {
                let parts = [here.path.as_slice(), name.to_bytes()];
                let parts = parts.iter().filter(|part| !part.is_empty());
                let path = parts.copied().collect::<Vec<&[u8]>>().join(&b'/');
                self.rest_len += path.len();
                self.rest.push(Ahead { path, ..here.clone() });
            }
            if self.size.inodes > ENTRIES_MAX {
                return Err(io::Error::other(format!("more than {ENTRIES_MAX} files")));
            }
            if self.rest_len > REST_LEN_MAX {
                return Err(io::Error::other("too many directories with too long names"));
            }
        }
        Ok(())
    }

    fn count(&mut self, blocks: i64) {
        let bytes = u64::try_from(blocks).unwrap_or(0).saturating_mul(BLOCK);
        self.size = self.size.plus(Size { bytes, inodes: 1 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn size(directory: &Path) -> Size {
        size_of(directory, None)
    }

    #[test]
    fn a_tree_is_counted_once_and_links_are_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let outside = root.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("big"), vec![1; 4 << 20]).unwrap();
        let tree = root.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        assert_eq!(size(&tree).inodes, 3);
        let empty = size(&tree).bytes;
        fs::write(tree.join("a/b/file"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(tree.join("a/b/file"), tree.join("again")).unwrap();
        symlink(&outside, tree.join("a/link")).unwrap();
        symlink(outside.join("big"), tree.join("file")).unwrap();
        let found = size(&tree);
        assert_eq!(found.inodes, 6, "three directories, a file with two names, two links");
        let more = found.bytes - empty;
        assert!((1 << 20..(1 << 20) + (64 << 10)).contains(&more), "{more}");
        assert_eq!(size(&tree.join("a/link")), Size::default(), "itself a link");
        assert_eq!(size(&root.path().join("nothing")), Size::default());
    }

    #[test]
    fn nothing_is_too_deep_for_a_path() {
        let root = tempfile::tempdir().unwrap();
        let mut deep: OwnedFd = fs::File::open(root.path()).unwrap().into();
        let name = "d".repeat(250);
        for _ in 0..60 {
            rustix::fs::mkdirat(&deep, &name, Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&deep, "beside", Mode::RWXU).unwrap();
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            deep = rustix::fs::openat(&deep, &name, flags, Mode::empty()).unwrap();
        }
        assert_eq!(size(root.path()).inodes, 1 + 2 * 60);
    }

    #[test]
    fn what_is_on_another_disk_does_not_count() {
        let root = tempfile::tempdir().unwrap();
        let own = rustix::fs::stat(root.path()).unwrap().st_dev;
        assert_eq!(size_of(root.path(), Some(own)).inodes, 1);
        assert_eq!(size_of(root.path(), Some(own + 1)), Size::default());
    }
}
