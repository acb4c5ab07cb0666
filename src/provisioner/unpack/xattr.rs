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

/// Sets those that are for images by `set`, and notes the others, and those that the file system
/// does not take. Capabilities must be taken: a program without them would fail much later.
pub(super) fn apply(
    entry: &Entry,
    report: &mut UnpackReport,
    mut set: impl FnMut(&[u8], &[u8], XattrFlags) -> Result<(), Errno>,
) -> Result<(), UnpackError> {
    let refused = |why| Err(UnpackError::Refused { path: shown(&entry.path), why });
    if entry.xattrs.len() > XATTRS_MAX {
        return refused("it has more than 128 extended attributes");
    }
    for (name, value) in &entry.xattrs {
        if name.len() > NAME_LEN_MAX || value.len() > XATTR_LEN_MAX {
            return refused("an extended attribute is longer than the kernel allows");
        }
        if let Some(why) = why_not(name) {
            report.ignore(format!("extended attribute {}: {why}", shown(name)));
            continue;
        }
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
