//! A container's mounts, made by the child in its own mount namespace.
//!
//! With the host's root file system, the namespace that the clone copied becomes the container's:
//! it is made read-only as a whole and mounted over. Nothing is moved or unmounted, but where a
//! mount point is missing in `/` itself. The root of an image is mounted (`overlay`) and entered,
//! and the host's is let go. Paths in the container are resolved inside its root
//! (openat2(2), RESOLVE_IN_ROOT) and mounted on by descriptor, so that no symbolic link, not even
//! one that changes meanwhile, leads out.
//!
//! **What a container left in a volume** is there when it is started again, symbolic links on the
//! way to another mount included. So nothing that the isolation rests on is looked up by a path
//! that may lead through a volume: the null device is that of the `/dev` made here, and nothing is
//! bound on the kernel's `/proc`.
//!
//! **Missing mount points** are made where that is possible. Where the file system is read-only,
//! the directory is *mirrored*: a small tmpfs takes its place, with every entry bound into it, and
//! the mount point is made there; but not in a volume, where that is an error. The host is never
//! written.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, StatxFlags, makedev,
};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use super::child::{Attempt, Failure};
use super::isolators::filesystem::SANDBOX;
use super::overlay;
use super::part;
use super::prepared::{ImageRoot, MountStep, Prepared, RootStep, Source};
use crate::sys::{self, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY};

/// The devices of OCI runtimes: name, major and minor number (Documentation/admin-guide/devices.txt).
const DEVICES: [(&CStr, u32, u32); 6] = [
    (c"null", 1, 3),
    (c"zero", 1, 5),
    (c"full", 1, 7),
    (c"random", 1, 8),
    (c"urandom", 1, 9),
    (c"tty", 5, 0),
];
const DEVICE_MODE: u32 = 0o666;
const DEVICE_LINKS: [(&CStr, &CStr); 5] = [
    (c"/proc/self/fd", c"fd"),
    (c"/proc/self/fd/0", c"stdin"),
    (c"/proc/self/fd/1", c"stdout"),
    (c"/proc/self/fd/2", c"stderr"),
    (c"pts/ptmx", c"ptmx"),
];
const DEVICE_DIRECTORIES: [&CStr; 3] = [c"pts", c"mqueue", c"shm"];

/// Entries of a directory that is mirrored: about 15 us each.
const MIRROR_ENTRIES_MAX: usize = 4096;
/// Attempts to resolve a path while others rename directories on it (openat2(2), EAGAIN).
const RESOLVE_ATTEMPTS_MAX: usize = 64;
/// Links to what is missing on the way to a mount point, which are followed as the kernel does
/// (path_resolution(7)); but not in volumes, whose content is others'.
const LINKS_MAX: usize = 40;
const DIRECTORY_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;

/// What an empty read-only directory is mounted with.
const EMPTY_ATTRIBUTES: u64 =
    MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
const EMPTY_MODE: (&str, &str) = ("mode", "0555");

/// What is kept open of a container's tree.
#[derive(Debug)]
pub(super) struct Kept {
    /// Its null device, opened for reading.
    pub(super) null: OwnedFd,
    /// Its sandbox, as a place (O_PATH).
    pub(super) sandbox: Option<OwnedFd>,
}

/// Makes the container's file system tree and enters it; the working directory is then its root.
pub(super) fn set_up(prepared: &Prepared) -> Result<Kept, Failure> {
    // Before the root is made read-only and mounted over: copies keep what they have.
    let trees = prepared.mounts.iter().map(bound).collect::<Result<Vec<_>, _>>()?;
    let mut root = match &prepared.root {
        RootStep::Host => Root::of_host(prepared.no_new_privs)?,
        RootStep::Image(image) => Root::of_image(image)?,
    };
    let mut sandbox = None;
    for (step, tree) in prepared.mounts.iter().zip(trees) {
        if step.target == SANDBOX {
            let keep = |tree: &OwnedFd| tree.try_clone().to(|| "keep the sandbox".to_owned());
            sandbox = tree.as_ref().map(keep).transpose()?;
        }
        if step.optional && tree.is_none() {
            continue;
        }
        root.mount(step, tree)?;
    }
    if let RootStep::Image(image) = &prepared.root {
        for path in &image.directories {
            root.mount_point(path, true)?;
        }
    }
    for path in &prepared.masked {
        root.mask(path)?;
    }
    for path in &prepared.read_only {
        root.make_read_only(path)?;
    }
    let null = root.null()?.try_clone().to(|| "keep the null device".to_owned())?;
    root.enter()?;
    Ok(Kept { null, sandbox })
}

/// The detached copy of what a step binds.
fn bound(step: &MountStep) -> Result<Option<OwnedFd>, Failure> {
    let Source::Bind { path, part, recursive } = &step.source else { return Ok(None) };
    let what = || format!("bind {path} to {}", step.target);
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if *recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = match part {
        None => match rustix::mount::open_tree(CWD, path.as_str(), flags) {
            Err(Errno::NOENT) if step.optional => return Ok(None),
            tree => tree.to(what)?,
        },
        Some(part) => {
            let found = part::open(path, part)?;
            let flags = flags | OpenTreeFlags::AT_EMPTY_PATH;
            rustix::mount::open_tree(&found, c"", flags).to(what)?
        }
    };
    let (attributes, propagation) = (step.attributes, step.propagation);
    sys::mount_setattr(tree.as_fd(), *recursive, attributes, 0, propagation).to(what)?;
    Ok(Some(tree))
}

/// The root of a container while it is made.
struct Root {
    /// Its topmost directory.
    top: OwnedFd,
    /// `top` is a mirror of the directory that is still this process's root.
    moved: bool,
    /// Mirrors, writable until all mount points are made.
    mirrors: Vec<OwnedFd>,
    /// Where something of the host or a volume was bound.
    bound: Vec<String>,
    /// One empty directory for all that are masked: a file system less for each.
    empty: Option<OwnedFd>,
    /// The null device of the `/dev` that was made here. What is at `/dev/null` by now may have
    /// been put there by the container, in a volume.
    null: Option<OwnedFd>,
}

impl Root {
    /// The host's own tree, read-only and without devices, cut off from what is mounted on the
    /// host later: that would be writable.
    fn of_host(no_new_privs: bool) -> Result<Self, Failure> {
        let what = || "make the host's file systems read-only".to_owned();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = rustix::fs::open("/", flags, Mode::empty()).to(what)?;
        let mut set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV;
        if no_new_privs {
            set |= MOUNT_ATTR_NOSUID;
        }
        sys::mount_setattr(top.as_fd(), true, set, 0, libc::MS_PRIVATE).to(what)?;
        Ok(Self {
            top,
            moved: false,
            mirrors: Vec::new(),
            bound: Vec::new(),
            empty: None,
            null: None,
        })
    }

    /// The layers of an image with an empty writable one on top. Nothing of the run before it is
    /// left in that: it goes here, where only this container waits for it.
    fn of_image(image: &ImageRoot) -> Result<Self, Failure> {
        let what = || "cut the container off from mounts on the host".to_owned();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let host = rustix::fs::open("/", flags, Mode::empty()).to(what)?;
        sys::mount_setattr(host.as_fd(), true, 0, 0, libc::MS_PRIVATE).to(what)?;
        let top = overlay::mount(image)?;
        let mut root = Self {
            top,
            moved: true,
            mirrors: Vec::new(),
            bound: Vec::new(),
            empty: None,
            null: None,
        };
        if image.read_only {
            // As with a mirror: once all mount points are made.
            let top = root.top.try_clone().to(|| "keep the root".to_owned())?;
            root.mirrors.push(top);
        }
        Ok(root)
    }

    fn mount(&mut self, step: &MountStep, tree: Option<OwnedFd>) -> Result<(), Failure> {
        let path = &step.target;
        let what = || format!("mount on {path}");
        let tree = match (&step.source, tree) {
            (_, Some(tree)) => tree,
            (Source::New { .. }, None) if is_empty_directory(step) => self.empty_directory()?,
            (Source::New { kind, parameters, host_devices }, None) => {
                let pairs = parameters.iter().map(|(key, value)| (key.as_str(), value.as_deref()));
                let new = new_file_system(kind, pairs, step.attributes);
                let new = new.to(|| format!("make the {kind} of {path}"))?;
                if path == "/dev" {
                    populate_dev(new.as_fd()).to(|| "make devices".to_owned())?;
                    if *host_devices {
                        super::devices::copy(new.as_fd())
                            .to(|| "make the devices of the host".to_owned())?;
                    }
                    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                    let null = rustix::fs::openat(&new, c"null", flags, Mode::empty());
                    self.null = Some(null.to(|| "open the null device".to_owned())?);
                }
                new
            }
            (Source::Bind { .. }, None) => unreachable!("opened before"),
        };
        let directory = is_directory(tree.as_fd()).to(what)?;
        let target = self.mount_point(path, directory)?;
        if is_directory(target.as_fd()).to(what)? != directory {
            let (new, old) = if directory { ("directory", "file") } else { ("file", "directory") };
            return Err(Failure::new(format!("mount a {new} on {path}: a {old} is there")));
        }
        // The plan has no such path: see `isolators::volumes`.
        if matches!(step.source, Source::Bind { .. }) && is_proc(target.as_fd()).to(what)? {
            let why = format!("mount on {path}: a link in a volume leads it to /proc");
            return Err(Failure::new(why));
        }
        attach(tree.as_fd(), target.as_fd()).to(what)?;
        if matches!(step.source, Source::Bind { .. }) {
            self.bound.push(path.clone());
        }
        Ok(())
    }

    /// Hides what is there, if something is: a directory looks empty, a file is /dev/null.
    fn mask(&mut self, path: &str) -> Result<(), Failure> {
        let what = || format!("mask {path}");
        let Some(target) = self.resolve_existing(path)? else { return Ok(()) };
        let cover = if is_directory(target.as_fd()).to(what)? {
            self.empty_directory()?
        } else {
            copy(self.null()?.as_fd(), false).to(what)?
        };
        attach(cover.as_fd(), target.as_fd()).to(what)
    }

    fn make_read_only(&mut self, path: &str) -> Result<(), Failure> {
        let what = || format!("make {path} read-only");
        let Some(target) = self.resolve_existing(path)? else { return Ok(()) };
        let cover = copy(target.as_fd(), true).to(what)?;
        sys::mount_setattr(cover.as_fd(), true, EMPTY_ATTRIBUTES, 0, libc::MS_PRIVATE).to(what)?;
        attach(cover.as_fd(), target.as_fd()).to(what)
    }

    fn enter(self) -> Result<(), Failure> {
        let what = || "enter the container's root".to_owned();
        for mirror in &self.mirrors {
            sys::mount_setattr(mirror.as_fd(), false, MOUNT_ATTR_RDONLY, 0, 0).to(what)?;
        }
        if self.moved {
            rustix::process::fchdir(&self.top).to(what)?;
            // The old root ends up on top of the new one, and is let go (pivot_root(2), NOTES).
            rustix::process::pivot_root(".", ".").to(what)?;
            rustix::mount::unmount(".", UnmountFlags::DETACH).to(what)?;
        }
        rustix::process::chdir("/").to(what)
    }

    /// An empty read-only directory to be mounted. Only what is mounted can be copied before Linux
    /// 6.15, which the first one is by the time a second is asked for.
    fn empty_directory(&mut self) -> Result<OwnedFd, Failure> {
        let what = || "make an empty directory".to_owned();
        if let Some(empty) = &self.empty {
            return copy(empty.as_fd(), false).to(what);
        }
        let (key, value) = EMPTY_MODE;
        let empty = new_file_system("tmpfs", [(key, Some(value))], EMPTY_ATTRIBUTES).to(what)?;
        self.empty = Some(empty.try_clone().to(what)?);
        Ok(empty)
    }

    fn null(&self) -> Result<&OwnedFd, Failure> {
        self.null.as_ref().ok_or_else(|| Failure::new("the container has no null device"))
    }

    fn resolve(&self, path: &str) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let mut attempts = 0;
        loop {
            match rustix::fs::openat2(&self.top, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN) if attempts < RESOLVE_ATTEMPTS_MAX => attempts += 1,
                other => return other,
            }
        }
    }

    fn resolve_existing(&self, path: &str) -> Result<Option<OwnedFd>, Failure> {
        match self.resolve(path) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error).to(|| format!("look for {path}")),
        }
    }

    /// The place to mount on, made if it is missing.
    fn mount_point(&mut self, path: &str, directory: bool) -> Result<OwnedFd, Failure> {
        self.mount_point_through(path, directory, LINKS_MAX)
    }

    /// The same, on a path with at most so many links to what is missing.
    fn mount_point_through(
        &mut self,
        path: &str,
        directory: bool,
        links: usize,
    ) -> Result<OwnedFd, Failure> {
        if let Some(found) = self.resolve_existing(path)? {
            return Ok(found);
        }
        let parts = parts_of(path);
        let mut depth = parts.len();
        let mut parent = loop {
            depth = depth.saturating_sub(1);
            let above =
                format!("/{}", parts.iter().take(depth).copied().collect::<Vec<_>>().join("/"));
            if let Some(found) = self.resolve_existing(&above)? {
                break found;
            }
        };
        for (index, part) in parts.iter().enumerate().skip(depth) {
            let directory = directory || index + 1 < parts.len();
            let what = || format!("make mount point {path}");
            match make(parent.as_fd(), part, directory) {
                Err(Errno::ROFS) => {
                    // A mirror would not show what others put into a volume later.
                    if let Some(volume) = self.bound.iter().find(|at| is_below(path, at)) {
                        return Err(Failure::new(format!(
                            "make mount point {path}: it is missing in the volume that is mounted \
                             read-only on {volume}"
                        )));
                    }
                    parent = self.mirror(&parent).to(what)?;
                    make(parent.as_fd(), part, directory).to(what)?;
                }
                Err(Errno::EXIST) if links > 0 && !self.is_in_volume(path) => {
                    let link = rustix::fs::readlinkat(&parent, *part, Vec::new()).to(what)?;
                    let to = link.to_str().map_err(|_| Failure::new(what()))?;
                    let parts = |range: &[&str]| range.join("/");
                    let above = parts(parts_of(path).get(..index).unwrap_or_default());
                    let rest = parts(parts_of(path).get(index + 1..).unwrap_or_default());
                    let to =
                        if to.starts_with('/') { to.to_owned() } else { format!("/{above}/{to}") };
                    return self.mount_point_through(&format!("{to}/{rest}"), directory, links - 1);
                }
                Err(Errno::EXIST) => {
                    // It was not there to be followed: a link to nowhere.
                    return Err(Failure::new(format!(
                        "make mount point {path}: `{part}` is a symbolic link to what does not exist"
                    )));
                }
                other => other.to(what)?,
            }
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            parent = rustix::fs::openat2(&parent, *part, flags, Mode::empty(), resolve).to(what)?;
        }
        Ok(parent)
    }

    fn is_in_volume(&self, path: &str) -> bool {
        self.bound.iter().any(|at| path == at || is_below(path, at))
    }

    /// Puts a writable copy in a directory's place; see the module.
    fn mirror(&mut self, directory: &OwnedFd) -> Result<OwnedFd, Errno> {
        let is_top = is_same(directory.as_fd(), self.top.as_fd())?;
        let stat = rustix::fs::fstat(directory)?;
        let mirror = tmpfs_like(&stat)?;
        attach(mirror.as_fd(), directory.as_fd())?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listing = rustix::fs::openat(directory, ".", flags, Mode::empty())?;
        let entries = Dir::read_from(&listing)?;
        for (count, entry) in entries.enumerate() {
            let entry = entry?;
            if count > MIRROR_ENTRIES_MAX {
                return Err(Errno::NOSPC);
            }
            if ![c".", c".."].contains(&entry.file_name()) {
                mirror_entry(directory.as_fd(), mirror.as_fd(), entry.file_name())?;
            }
        }
        let duplicate = || mirror.try_clone().map_err(|_| Errno::MFILE);
        self.mirrors.push(duplicate()?);
        if is_top {
            self.top = duplicate()?;
            self.moved = true;
        }
        Ok(mirror)
    }
}

fn parts_of(path: &str) -> Vec<&str> {
    path.split('/').filter(|part| !part.is_empty()).collect()
}

/// Whether a path is below a directory, by their text.
fn is_below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

fn mirror_entry(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let stat = match rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW) {
        // Removed meanwhile, or a file system of users that shuts root out.
        Err(Errno::NOENT | Errno::ACCESS) => return Ok(()),
        other => other?,
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new())?;
            return rustix::fs::symlinkat(target.as_c_str(), to, name);
        }
        FileType::Directory => {
            rustix::fs::mkdirat(to, name, Mode::from_raw_mode(DIRECTORY_MODE))?;
        }
        FileType::RegularFile
        | FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => make_file(to, name)?,
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    match rustix::mount::open_tree(from, name, flags) {
        Ok(tree) => {
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            rustix::mount::move_mount(&tree, c"", to, name, flags)
        }
        // Unbindable, or gone: an empty one stays in its place.
        Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

fn tmpfs_like(stat: &Stat) -> Result<OwnedFd, Errno> {
    let mode = format!("{:o}", stat.st_mode & 0o7777);
    let (uid, gid) = (stat.st_uid.to_string(), stat.st_gid.to_string());
    let parameters = [("mode", mode), ("uid", uid), ("gid", gid)];
    let parameters = parameters.iter().map(|(key, value)| (*key, Some(value.as_str())));
    new_file_system("tmpfs", parameters, MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID)
}

fn is_empty_directory(step: &MountStep) -> bool {
    let Source::New { kind: "tmpfs", parameters, host_devices: false } = &step.source else {
        return false;
    };
    let (key, value) = EMPTY_MODE;
    step.attributes == EMPTY_ATTRIBUTES
        && parameters.len() == 1
        && parameters.iter().all(|(k, v)| k == key && v.as_deref() == Some(value))
}

/// A mounted but not yet attached file system.
fn new_file_system<'a>(
    kind: &str,
    parameters: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
    attributes: u64,
) -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in parameters {
        match value {
            Some(value) => rustix::mount::fsconfig_set_string(&context, key, value)?,
            None => rustix::mount::fsconfig_set_flag(&context, key)?,
        }
    }
    rustix::mount::fsconfig_create(&context)?;
    let attributes = u32::try_from(attributes).map_err(|_| Errno::INVAL)?;
    let attributes = MountAttrFlags::from_bits_retain(attributes);
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn populate_dev(dev: BorrowedFd<'_>) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(DEVICE_MODE);
    for (name, major, minor) in DEVICES {
        let device = makedev(major, minor);
        rustix::fs::mknodat(dev, name, FileType::CharacterDevice, mode, device)?;
    }
    for (target, name) in DEVICE_LINKS {
        rustix::fs::symlinkat(target, dev, name)?;
    }
    for name in DEVICE_DIRECTORIES {
        rustix::fs::mkdirat(dev, name, Mode::from_raw_mode(DIRECTORY_MODE))?;
    }
    Ok(())
}

fn make(parent: BorrowedFd<'_>, name: &str, directory: bool) -> Result<(), Errno> {
    if directory {
        rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(DIRECTORY_MODE))
    } else {
        make_file(parent, name)
    }
}

fn make_file(parent: BorrowedFd<'_>, name: impl rustix::path::Arg) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(FILE_MODE);
    rustix::fs::mknodat(parent, name, FileType::RegularFile, mode, 0)
}

/// A detached copy of what a descriptor refers to.
fn copy(of: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(of, c"", flags)
}

fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(tree, c"", target, c"", flags)
}

fn is_directory(file: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mode = rustix::fs::fstat(file)?.st_mode;
    Ok(FileType::from_raw_mode(mode) == FileType::Directory)
}

/// Whether it is of the kernel's file system of processes.
fn is_proc(file: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(rustix::fs::fstatfs(file)?.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

/// Whether both are the same directory of the same mount.
fn is_same(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> Result<bool, Errno> {
    let identity = |file| {
        let wanted = StatxFlags::MNT_ID | StatxFlags::INO;
        rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, wanted)
            .map(|stat| (stat.stx_mnt_id, stat.stx_ino))
    };
    Ok(identity(a)? == identity(b)?)
}
