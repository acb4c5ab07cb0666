//! Which extended attributes of an entry are set.

use std::io;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::tar::Entry;
use super::{UnpackError, UnpackReport, shown};
use crate::provisioner::tree::XATTR_LEN_MAX;

/// Most of them on one entry.
const XATTRS_MAX: usize = 128;
const NAME_LEN_MAX: usize = 255;

/// Those of the entry that are for images; notes the others.
pub(super) fn wanted<'a>(
    entry: &'a Entry,
    report: &mut UnpackReport,
) -> Result<Vec<(&'a [u8], &'a [u8])>, UnpackError> {
    let refused = |why| Err(UnpackError::Refused { path: shown(&entry.path), why });
    if entry.xattrs.len() > XATTRS_MAX {
        return refused("it has more than 128 extended attributes");
    }
    let mut wanted = Vec::new();
    for (name, value) in &entry.xattrs {
        if name.len() > NAME_LEN_MAX || value.len() > XATTR_LEN_MAX {
            return refused("an extended attribute is longer than the kernel allows");
        }
        match why_not(name) {
            None => wanted.push((name.as_slice(), value.as_slice())),
            Some(why) => report.ignore(format!("extended attribute {}: {why}", shown(name))),
        }
    }
    Ok(wanted)
}

/// Why an attribute is left out; none if it is not.
fn why_not(name: &[u8]) -> Option<&'static str> {
    match name {
        b"security.capability" => None,
        b"system.posix_acl_access" | b"system.posix_acl_default" => None,
        _ if name.starts_with(b"user.overlay.") => Some("it would change what overlayfs shows"),
        _ if name.starts_with(b"user.") => None,
        _ if name.starts_with(b"trusted.") => Some("it belongs to the host's file systems"),
        _ if name.starts_with(b"security.") => Some("it belongs to the host's security module"),
        _ => Some("no such attributes are known"),
    }
}

/// Sets them by `set`, and notes those that the file system does not take. Capabilities must be
/// taken: a program without them would fail much later.
pub(super) fn apply(
    entry: &Entry,
    report: &mut UnpackReport,
    mut set: impl FnMut(&[u8], &[u8], XattrFlags) -> Result<(), Errno>,
) -> Result<(), UnpackError> {
    if entry.xattrs.is_empty() {
        return Ok(());
    }
    for (name, value) in wanted(entry, report)? {
        match set(name, value, XattrFlags::empty()) {
            Ok(()) => {}
            // `user.` is for files and directories only (xattr(7)): EPERM.
            Err(Errno::OPNOTSUPP | Errno::PERM | Errno::INVAL)
                if name != b"security.capability" =>
            {
                let name = shown(name);
                report.ignore(format!("extended attribute {name}: the file system refuses it"));
            }
            Err(errno) => {
                let path = shown(&entry.path);
                let attempted = "set an extended attribute of";
                return Err(UnpackError::Io { attempted, path, source: io::Error::from(errno) });
            }
        }
    }
    Ok(())
}
