//! `subPath`: a part of a volume, found while containers may change everything on the way to it.
//!
//! The volume's directory is opened by its path, which is ours; from there on the kernel walks
//! (openat2(2)) and never leaves it, whatever is renamed or linked meanwhile, and what is bound is
//! the descriptor that was found. What is missing is made, with the permissions of the volume, as
//! the kubelet does, but not in files made of values, where it would hide that a key is missing.
//! Links out of a volume are refused, absolute ones as well; those of an image begin at its root, as
//! they would in a container of it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::child::{Attempt, Failure};
use super::prepared::{Part, PartKind};

/// Attempts to resolve a path while others rename directories on it (openat2(2), EAGAIN).
const ATTEMPTS_MAX: usize = 64;

/// Opens a part of a volume as a place (O_PATH).
pub(super) fn open(volume: &str, part: &Part) -> Result<OwnedFd, Failure> {
    let Part { path, kind } = part;
    let what = || format!("look for sub-path `{path}` in the volume at {volume}");
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let top = rustix::fs::open(volume, flags | OFlags::DIRECTORY, Mode::empty()).to(what)?;
    let scope = match kind {
        PartKind::OfDirectory => ResolveFlags::BENEATH,
        PartKind::Fixed => ResolveFlags::IN_ROOT,
    };
    match (resolve(top.as_fd(), path, scope), kind) {
        (Err(Errno::NOENT), PartKind::OfDirectory) => make(&top, path),
        (Err(Errno::XDEV | Errno::LOOP), _) => Err(led_out(path)),
        (other, _) => other.to(what),
    }
}

fn led_out(path: &str) -> Failure {
    Failure::new(format!(
        "sub-path `{path}` of a volume leads out of it: there is a link on the way that is absolute \
         or goes too far up"
    ))
}

fn resolve(from: BorrowedFd<'_>, path: &str, scope: ResolveFlags) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let scope = scope | ResolveFlags::NO_MAGICLINKS;
    let mut attempts = 0;
    loop {
        match rustix::fs::openat2(from, path, flags, Mode::empty(), scope) {
            Err(Errno::AGAIN) if attempts < ATTEMPTS_MAX => attempts += 1,
            other => return other,
        }
    }
}

/// Makes what is missing, a directory after the other, each in the one that was opened before it.
fn make(top: &OwnedFd, path: &str) -> Result<OwnedFd, Failure> {
    let what = || format!("make sub-path `{path}` of the volume");
    let mode = Mode::from_raw_mode(rustix::fs::fstat(top).to(what)?.st_mode & 0o777);
    let parts: Vec<&str> = path.split('/').collect();
    // The deepest that is there, links on the way included.
    let mut depth = parts.len();
    let mut parent = loop {
        depth = depth.saturating_sub(1);
        let above = match parts.get(..depth) {
            Some(above) if depth > 0 => above.join("/"),
            Some(_) | None => ".".to_owned(),
        };
        match resolve(top.as_fd(), &above, ResolveFlags::BENEATH) {
            Ok(found) => break found,
            Err(Errno::NOENT) if depth > 0 => {}
            Err(Errno::XDEV | Errno::LOOP) => return Err(led_out(path)),
            Err(error) => return Err(error).to(what),
        }
    };
    for part in parts.iter().skip(depth) {
        match rustix::fs::mkdirat(&parent, *part, mode) {
            // Another container made it meanwhile; or a link to nowhere is there, which is refused
            // below.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).to(what),
        }
        let scope = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        parent = match resolve(parent.as_fd(), part, scope) {
            Err(Errno::LOOP) => {
                return Err(Failure::new(format!(
                    "make sub-path `{path}` of the volume: `{part}` is a symbolic link to what does \
                     not exist"
                )));
            }
            other => other.to(what)?,
        };
    }
    Ok(parent)
}
