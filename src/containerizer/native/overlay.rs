//! The root file system of an image: its layers and a writable one, as an overlay.
//!
//! It is mounted in the mount namespace of whoever asks, so it goes with that. The names of up to
//! 127 layers have to fit into one page of options (mount(2)), so they are short and relative to
//! the working directory, which is theirs meanwhile. Where overlays are not possible the layers are
//! copied. Not here: how layers get there
//! (`provisioner`).

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount as mount_at};
use rustix::fs::{Mode, OFlags};

use super::child::{Attempt, Failure};
use super::isolators::filesystem::ROOT_DIR;
use super::prepared::ImageRoot;
use crate::provisioner::copy;
use crate::provisioner::store::LayerId;

/// A layer's files, below its directory.
const FILES: &str = "fs";
/// What belongs to a writable layer is for root alone.
const PRIVATE_MODE: u32 = 0o700;
/// Devices come from `/dev` alone, and no program gains rights (`no_new_privs`) unless that is
/// asked for.
const FLAGS: MsFlags = MsFlags::MS_NODEV.union(MsFlags::MS_NOSUID);

/// The flags of a root.
fn flags(image: &ImageRoot) -> MsFlags {
    if image.set_user_id { FLAGS.difference(MsFlags::MS_NOSUID) } else { FLAGS }
}

/// Mounts an image with an empty writable layer; the result is its root.
pub(super) fn mount(image: &ImageRoot) -> Result<OwnedFd, Failure> {
    let writable = &image.writable;
    let what = || format!("make the writable layer in {}", writable.display());
    let root = writable.join(ROOT_DIR);
    enter(&image.store).to(|| format!("enter the layers in {}", image.store.display()))?;
    let top = image.layers.first().ok_or_else(|| Failure::new("the image has no layers"))?;
    let like = fs::symlink_metadata(files(top)).to(|| missing(top))?;
    begin_anew(writable).to(what)?;
    for name in ["upper", "work", ROOT_DIR] {
        fs::DirBuilder::new().mode(PRIVATE_MODE).create(writable.join(name)).to(what)?;
    }
    // The topmost directory of an overlay is that of its upper layer.
    let upper = writable.join("upper");
    chown(&upper, Some(like.uid()), Some(like.gid())).to(what)?;
    fs::set_permissions(&upper, fs::Permissions::from_mode(like.mode() & 0o7777)).to(what)?;
    copy::copy_xattrs(Path::new(&files(top)), &upper).to(what)?;
    let lower = lower(&image.layers);
    let data = format!(
        "lowerdir={lower},upperdir={},workdir={}",
        upper.display(),
        writable.join("work").display()
    );
    let overlay =
        |data: &str| mount_at(Some("overlay"), &root, Some("overlay"), flags(image), Some(data));
    // Nothing of it is kept over a crash, so nothing needs to be written back when it goes
    // (Documentation/filesystems/overlayfs.rst, "Volatile mount"; since Linux 5.10).
    let mounted = match overlay(&format!("{data},volatile")) {
        Err(Errno::EINVAL) => overlay(&data),
        other => other,
    };
    let is_whole = || image.layers.iter().all(files_exist);
    match mounted {
        Err(error) if is_impossible(error) && is_whole() => copied(image, &root)?,
        other => other.to(|| {
            let lost = image.layers.iter().find(|layer| !files_exist(layer));
            lost.map_or_else(|| "mount the layers of the image".to_owned(), missing)
        })?,
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(&root, flags, Mode::empty()).to(|| "open the root of the image".to_owned())
}

/// Whether this kernel or file system does not do overlays: ENODEV without the module, EINVAL for
/// an upper layer that can't be one (overlayfs on overlayfs, no extended attributes), EREMOTE for
/// one on a network.
fn is_impossible(error: Errno) -> bool {
    matches!(error, Errno::ENODEV | Errno::EINVAL | Errno::EREMOTE | Errno::EOPNOTSUPP)
}

/// A copy of all layers in the overlay's place, which takes longer and more of the disk.
fn copied(image: &ImageRoot, root: &Path) -> Result<(), Failure> {
    let layers: Vec<PathBuf> =
        image.layers.iter().rev().map(|layer| image.store.join(files(layer))).collect();
    copy::merge(&layers, root)
        .map_err(io::Error::other)
        .to(|| "copy the layers of the image, because they can't be mounted".to_owned())?;
    let none = None::<&str>;
    // What is entered has to be a mount (pivot_root(2)).
    mount_at(Some(root), root, none, MsFlags::MS_BIND, none)
        .and_then(|()| {
            let flags = flags(image) | MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
            mount_at(none, root, none, flags, none)
        })
        .to(|| "mount the copy of the image".to_owned())
}

/// Mounts the files of an image (its layers, the lowest first), read-only.
///
/// # Errors
/// If a layer is not there, or the kernel refuses.
pub(super) fn mount_read_only(store: &Path, layers: &[LayerId], at: &Path) -> io::Result<()> {
    let lost = layers.iter().find(|layer| !store.join(files(layer)).is_dir());
    if let Some(lost) = lost {
        return Err(io::Error::new(io::ErrorKind::NotFound, missing(lost)));
    }
    let none = None::<&str>;
    let flags = FLAGS | MsFlags::MS_RDONLY;
    match layers {
        [] => Err(io::Error::other("the image has no layers")),
        // An overlay has at least two.
        [only] => {
            mount_at(Some(&store.join(files(only))), at, none, MsFlags::MS_BIND, none)?;
            Ok(mount_at(none, at, none, flags | MsFlags::MS_BIND | MsFlags::MS_REMOUNT, none)?)
        }
        [..] => {
            let before = rustix::fs::open(".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            enter(store)?;
            let topmost_first: Vec<LayerId> = layers.iter().rev().cloned().collect();
            let data = format!("lowerdir={}", lower(&topmost_first));
            let mounted = mount_at(Some("overlay"), at, Some("overlay"), flags, Some(&*data));
            rustix::process::fchdir(before)?;
            Ok(mounted?)
        }
    }
}

fn lower(topmost_first: &[LayerId]) -> String {
    topmost_first.iter().map(files).collect::<Vec<_>>().join(":")
}

fn files(layer: &LayerId) -> String {
    format!("{layer}/{FILES}")
}

fn files_exist(layer: &LayerId) -> bool {
    Path::new(&files(layer)).is_dir()
}

fn missing(layer: &LayerId) -> String {
    format!("find layer {layer} of the image")
}

fn enter(store: &Path) -> io::Result<()> {
    Ok(rustix::process::chdir(store)?)
}

/// An empty directory, whatever the run before left there: its files belong to nobody any more.
fn begin_anew(writable: &Path) -> io::Result<()> {
    match crate::sys::remove_tree(writable) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let parent = writable.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new().recursive(true).mode(PRIVATE_MODE).create(parent)?;
    fs::DirBuilder::new().mode(PRIVATE_MODE).create(writable)
}
