//! [`TwoWay`]: a volume through which containers mount on the host (`Bidirectional`).
//!
//! The executor's mount namespace is a slave of the host's, and so is what is bound in it. So the
//! volume is copied before that, when its mounts are still peers of the host's
//! (mount_namespaces(7), "Shared subtrees"), and put where containers take it from. A peer stays
//! one wherever it is copied.
//!
//! What a container mounts there stays on the host after it, as with Kubernetes: it is the host's.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags};

use super::pod::{ContainerizerError, PARENT_MODE, directory};
use crate::manifest::pod::{PodSpec, Volume, VolumeSource};
use crate::state::paths::PodPaths;

/// Fields of a line of proc_pid_mountinfo(5) before the optional ones, and what ends these.
const MOUNTINFO_FIXED: usize = 6;
const MOUNTINFO_END: &str = "-";
/// The optional field of a mount that has peers.
const MOUNTINFO_SHARED: &str = "shared:";

/// The copy of a volume's mounts that has not been put anywhere yet.
#[derive(Debug)]
pub(super) struct TwoWay<'a> {
    volume: &'a Volume,
    /// Where it is on the host.
    source: PathBuf,
    /// Where containers take it from.
    target: PathBuf,
    tree: OwnedFd,
}

impl<'a> TwoWay<'a> {
    /// Copies a volume that was made; none of those that are the pod's own. To be called
    /// in the executor's mount namespace while that has the host's peers.
    pub(super) fn of(
        volume: &'a Volume,
        spec: &PodSpec,
        paths: &PodPaths,
    ) -> Result<Option<Self>, ContainerizerError> {
        let target = paths.volume(&volume.name);
        let source = match &volume.source {
            VolumeSource::Claim { claim, read_only: _ } => {
                paths.claim(&spec.name.namespace, claim).unwrap_or_default()
            }
            VolumeSource::HostPath { path, kind: _ } => PathBuf::from(path.as_str()),
            // They go with the pod, and with all that is in them: nothing of the host may be there.
            VolumeSource::EmptyDir { .. }
            | VolumeSource::Memory { .. }
            | VolumeSource::Image(_)
            | VolumeSource::Projected(_) => return Ok(None),
        };
        match copy(&source) {
            Ok(tree) => Ok(Some(Self { volume, source, target, tree })),
            Err(error) => Err(failed(volume, source, error)),
        }
    }

    /// Puts it where containers take it from.
    pub(super) fn attach(self) -> Result<(), ContainerizerError> {
        let Self { volume, source, target, tree } = self;
        put(&tree, &target).map_err(|error| failed(volume, source, error))
    }
}

fn failed(volume: &Volume, path: PathBuf, source: io::Error) -> ContainerizerError {
    ContainerizerError::Volume { volume: volume.name.clone(), path, source }
}

fn copy(path: &Path) -> io::Result<OwnedFd> {
    let id = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)?.stx_mnt_id;
    if !is_shared(&fs::read_to_string("/proc/self/mountinfo")?, id) {
        return Err(io::Error::other(
            "`mountPropagation: Bidirectional` needs a mount that is shared on the host: see \
             `mount --make-rshared` in mount(8)",
        ));
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    Ok(rustix::mount::open_tree(CWD, path, flags)?)
}

/// Whether the mount of that number has peers. A mount that is not there has none.
fn is_shared(mountinfo: &str, id: u64) -> bool {
    mountinfo.lines().any(|line| {
        let mut fields = line.split(' ');
        fields.next().and_then(|field| field.parse().ok()) == Some(id)
            && fields
                .skip(MOUNTINFO_FIXED - 1)
                .take_while(|field| *field != MOUNTINFO_END)
                .any(|field| field.starts_with(MOUNTINFO_SHARED))
    })
}

fn put(tree: &OwnedFd, target: &Path) -> io::Result<()> {
    let stat = rustix::fs::fstat(tree)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        directory(target, PARENT_MODE)?;
    } else {
        directory(target.parent().unwrap_or(target), PARENT_MODE)?;
        fs::OpenOptions::new().create(true).append(true).open(target)?;
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(rustix::mount::move_mount(tree.as_fd(), c"", CWD, target, flags)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_shared_if_it_says_so_before_the_end_of_the_optional_fields() {
        let text = "\
            21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
            22 21 0:5 / /a rw master:1 - tmpfs shared:9 rw\n\
            23 21 0:6 / /b rw master:1 shared:2 - tmpfs none rw\n\
            24 21 0:7 / /c rw - tmpfs shared:1 rw\n";
        let shared: Vec<u64> = (0..30).filter(|id| is_shared(text, *id)).collect();
        assert_eq!(shared, [21, 23]);
    }
}
