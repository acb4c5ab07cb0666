//! `fsGroup`: gives what is in a volume to a group.
//!
//! Containers of other pods may be at work in the volume and put links where directories were. So
//! every entry is opened in the directory that was opened before it, never followed, and changed by
//! its descriptor. Bits are only added, as the kubelet does.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::manifest::pod::FsGroupChange;

/// What the group may do: with files, and with directories, where what is made belongs to it again.
const FILE_BITS: u32 = 0o660;
const DIRECTORY_BITS: u32 = 0o2770;
/// Directories in directories; deeper ones are left as they are.
const DEPTH_MAX: usize = 256;

/// Gives the directory and all in it to the group.
pub(super) fn give(path: &Path, group: u32, change: FsGroupChange) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = rustix::fs::open(path, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&top)?;
    let fits = stat.st_gid == group && stat.st_mode & DIRECTORY_BITS == DIRECTORY_BITS;
    if fits && change == FsGroupChange::OnRootMismatch {
        return Ok(());
    }
    give_entries(&top, group, DEPTH_MAX)?;
    // Last, so that a walk that was interrupted is made again.
    Ok(change_one(&top, &stat, group)?)
}

fn give_entries(directory: &OwnedFd, group: u32, depth: usize) -> Result<(), Errno> {
    let device = rustix::fs::fstat(directory)?.st_dev;
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if [c".", c".."].contains(&name) {
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
            // Removed meanwhile.
            Err(Errno::NOENT) => continue,
            other => other?,
        };
        let stat = rustix::fs::fstat(&place)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            && depth > 0
            && stat.st_dev == device
        {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let inner = rustix::fs::openat(&place, c".", flags, Mode::empty())?;
            give_entries(&inner, group, depth - 1)?;
        }
        change_one(&place, &stat, group)?;
    }
    Ok(())
}

/// What a descriptor refers to, whatever is at its path by now.
fn change_one(place: &OwnedFd, stat: &Stat, group: u32) -> Result<(), Errno> {
    let bits = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Some(DIRECTORY_BITS),
        // A link has no permissions, and those of devices are not the group's affair.
        FileType::Symlink | FileType::CharacterDevice | FileType::BlockDevice => None,
        FileType::RegularFile | FileType::Fifo | FileType::Socket | FileType::Unknown => {
            Some(FILE_BITS)
        }
    };
    if stat.st_gid != group {
        let gid = Some(Gid::from_raw(group));
        rustix::fs::chownat(place.as_fd(), c"", None, gid, AtFlags::EMPTY_PATH)?;
    }
    // A change of owner takes set-user-ID bits away: they are what they were before.
    let Some(mode) = bits.map(|bits| (stat.st_mode & 0o7777) | bits) else { return Ok(()) };
    if stat.st_gid == group && stat.st_mode & 0o7777 == mode {
        return Ok(());
    }
    // chmod(2) of a place: there is no call that takes O_PATH before Linux 6.6.
    let path = format!("/proc/self/fd/{}", place.as_raw_fd());
    let permissions = fs::Permissions::from_mode(mode);
    fs::set_permissions(path, permissions)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, chown, symlink};

    use super::*;

    const GROUP: u32 = 4711;

    /// Group and permissions.
    fn of(path: &Path) -> (u32, u32) {
        let metadata = fs::symlink_metadata(path).unwrap();
        (metadata.gid(), metadata.mode() & 0o7777)
    }

    #[test]
    fn all_of_a_volume_is_the_groups_and_nothing_else() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let (volume, outside) = (root.path().join("volume"), root.path().join("outside"));
        fs::create_dir_all(volume.join("a/b")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(volume.join("a/b/file"), "").unwrap();
        fs::write(outside.join("secret"), "").unwrap();
        for path in [volume.join("a/b/file"), outside.join("secret")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o4600)).unwrap();
        }
        symlink(&outside, volume.join("a/out")).unwrap();
        symlink(outside.join("secret"), volume.join("out")).unwrap();
        let before = [of(&outside), of(&outside.join("secret"))];
        give(&volume, GROUP, FsGroupChange::Always).unwrap();
        assert_eq!(of(&volume), (GROUP, 0o2775));
        assert_eq!(of(&volume.join("a/b")), (GROUP, 0o2775));
        assert_eq!(of(&volume.join("a/b/file")), (GROUP, 0o4660));
        assert_eq!(of(&volume.join("out")).0, GROUP);
        assert_eq!([of(&outside), of(&outside.join("secret"))], before);
        // Only what does not fit at the top is looked into.
        chown(volume.join("a"), None, Some(0)).unwrap();
        give(&volume, GROUP, FsGroupChange::OnRootMismatch).unwrap();
        assert_eq!(of(&volume.join("a")).0, 0);
        give(&volume, GROUP, FsGroupChange::Always).unwrap();
        assert_eq!(of(&volume.join("a")).0, GROUP);
        let link = root.path().join("link");
        symlink(&outside, &link).unwrap();
        give(&link, GROUP, FsGroupChange::Always).unwrap_err();
    }
}
