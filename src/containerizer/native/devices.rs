//! The devices of the host, made anew in the `/dev` of a privileged container.
//!
//! As engines do it, they are those that there are at the start; one that is plugged in later is
//! not seen.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

/// What containers have of their own, or is no device.
const OWN: [&core::ffi::CStr; 6] = [c"pts", c"shm", c"fd", c"mqueue", c"hugepages", c"console"];
/// Directories in directories below `/dev`.
const DEPTH_MAX: usize = 8;
/// Entries that are looked at.
const ENTRIES_MAX: usize = 65_536;
const DIRECTORY_MODE: u32 = 0o755;

/// Makes every device below the host's `/dev` that is not there yet. This process still sees it
/// there.
pub(super) fn copy(to: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = rustix::fs::open("/dev", flags, Mode::empty())?;
    let device = rustix::fs::fstat(&from)?.st_dev;
    let mut left = ENTRIES_MAX;
    copy_directory(&from, to, device, DEPTH_MAX, &mut left)
}

fn copy_directory(
    from: &OwnedFd,
    to: BorrowedFd<'_>,
    device: u64,
    depth: usize,
    left: &mut usize,
) -> Result<(), Errno> {
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if [c".", c".."].contains(&name) || OWN.contains(&name) {
            continue;
        }
        *left = left.checked_sub(1).ok_or(Errno::NOSPC)?;
        let stat = match rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW) {
            // Unplugged meanwhile.
            Err(Errno::NOENT) => continue,
            other => other?,
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        let made = match kind {
            FileType::CharacterDevice | FileType::BlockDevice => {
                rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(target.as_c_str(), to, name)
            }
            // Of another file system it is no directory of devices.
            FileType::Directory if stat.st_dev == device && depth > 0 => {
                match rustix::fs::mkdirat(to, name, Mode::from_raw_mode(DIRECTORY_MODE)) {
                    Err(Errno::EXIST) | Ok(()) => {}
                    Err(error) => return Err(error),
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                let inner = rustix::fs::openat(from, name, flags, Mode::empty())?;
                let made = rustix::fs::openat(to, name, flags, Mode::empty())?;
                copy_directory(&inner, made.as_fd(), device, depth - 1, left)?;
                continue;
            }
            FileType::Directory
            | FileType::RegularFile
            | FileType::Fifo
            | FileType::Socket
            | FileType::Unknown => continue,
        };
        match made {
            // One that every container has.
            Err(Errno::EXIST) => continue,
            other => other?,
        }
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}
