//! The tree that unpacked layers on top of each other make, as overlayfs would show it.
//!
//! A whiteout is a character device 0:0, an opaque directory has `trusted.overlay.opaque` set to
//! `y` (Linux, Documentation/filesystems/overlayfs.rst). No symbolic link is ever followed here.
//!
//! Not here: who makes such layers (`unpack`).

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, SeekFrom, Stat, Timespec, Timestamps,
    Uid, XattrFlags,
};
use rustix::io::Errno;

/// Marks a directory under which nothing of the layers below is to be seen.
pub(super) const OPAQUE: &str = "trusted.overlay.opaque";
/// Deepest directory in a layer. Removing and copying a tree keeps a descriptor for each level.
pub(super) const DEPTH_MAX: usize = 256;
/// Longest list of the names of a file's extended attributes (`XATTR_LIST_MAX`), and longest value
/// (`XATTR_SIZE_MAX`, xattr(7)).
pub(super) const XATTR_LEN_MAX: usize = 64 << 10;

/// How all directories are opened: no links on the way, nothing outside, no other file system.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a directory by a relative path in which no part is a symbolic link.
pub(super) fn open_beneath(at: impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    retry(|| rustix::fs::openat2(at.as_fd(), path, DIRECTORY, Mode::empty(), BENEATH))
}

/// openat2(2) with RESOLVE_BENEATH fails with EAGAIN if anything anywhere is renamed meanwhile.
fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    const TRIES: usize = 128;
    for _ in 1..TRIES {
        match call() {
            Err(Errno::AGAIN | Errno::INTR) => {}
            done => return done,
        }
    }
    call()
}

/// What has this name in a directory; none if nothing has.
pub(super) fn stat(at: impl AsFd, name: &[u8]) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

pub(super) fn kind_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

pub(super) fn is_directory(stat: &Stat) -> bool {
    kind_of(stat) == FileType::Directory
}

pub(super) fn is_whiteout(stat: &Stat) -> bool {
    kind_of(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

pub(super) fn is_opaque(directory: impl AsFd) -> Result<bool, Errno> {
    let mut value = [0_u8; 2];
    match rustix::fs::fgetxattr(directory, OPAQUE, &mut value) {
        Ok(len) => Ok(value.get(..len) == Some(b"y")),
        // ERANGE: some longer value, which means nothing to overlayfs either.
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// The names in a directory, sorted, without `.` and `..`.
pub(super) fn names(directory: impl AsFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Removes what has this name, with all that is in it; nothing happens if there is nothing.
pub(super) fn remove(at: impl AsFd, name: &[u8]) -> Result<(), Errno> {
    let at = at.as_fd();
    match rustix::fs::unlinkat(at, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        Err(Errno::NOENT) => return Ok(()),
        done => return done,
    }
    let inside = open_beneath(at, name)?;
    for name in names(&inside)? {
        remove(&inside, &name)?;
    }
    rustix::fs::unlinkat(at, name, AtFlags::REMOVEDIR)
}

/// Removes the whiteouts in a directory and below: where nothing is merged, overlayfs shows them.
pub(super) fn remove_whiteouts(directory: impl AsFd) -> Result<(), Errno> {
    let directory = directory.as_fd();
    for name in names(directory)? {
        let Some(stat) = stat(directory, &name)? else { continue };
        if is_whiteout(&stat) {
            rustix::fs::unlinkat(directory, name.as_slice(), AtFlags::empty())?;
        } else if is_directory(&stat) {
            remove_whiteouts(open_beneath(directory, &name)?)?;
        }
    }
    Ok(())
}

/// One directory of the merged tree: the layers whose directories of this path make it. With no
/// layer there is nothing. Holds the roots of the layers open and nothing else, since directories
/// may be deep and layers many.
#[derive(Debug, Clone, Default)]
pub(super) struct Merged {
    /// The roots of the layers, topmost first.
    pub(super) layers: Vec<Rc<OwnedFd>>,
    /// Where it is, in each of them; no part is a symbolic link.
    path: Vec<u8>,
}

/// What has a name in a [`Merged`] directory.
#[derive(Debug)]
pub(super) enum Found {
    Nothing,
    Directory(Merged),
    Other(Node),
}

/// Anything but a directory, in the layer that it is of.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) layer: Rc<OwnedFd>,
    pub(super) path: Vec<u8>,
    pub(super) stat: Stat,
}

impl Merged {
    /// The root of the tree that these layers make.
    pub(super) fn root(layers: Vec<Rc<OwnedFd>>) -> Self {
        Self { layers, path: Vec::new() }
    }

    pub(super) fn lookup(&self, name: &[u8]) -> Result<Found, Errno> {
        let path = join(&self.path, name);
        let mut layers = Vec::new();
        for layer in &self.layers {
            let Some(stat) = stat(layer, &path)? else { continue };
            if is_directory(&stat) {
                layers.push(Rc::clone(layer));
                if is_opaque(open_beneath(layer, &path)?)? {
                    break;
                }
            } else if layers.is_empty() && !is_whiteout(&stat) {
                return Ok(Found::Other(Node { layer: Rc::clone(layer), path, stat }));
            } else {
                break;
            }
        }
        if layers.is_empty() {
            return Ok(Found::Nothing);
        }
        Ok(Found::Directory(Self { layers, path }))
    }

    /// The directory of this name; with no layer if there is none.
    pub(super) fn directory(&self, name: &[u8]) -> Result<Self, Errno> {
        Ok(match self.lookup(name)? {
            Found::Directory(merged) => merged,
            Found::Nothing | Found::Other(_) => Self::default(),
        })
    }

    /// Every name that any of the layers has, whiteouts among them.
    pub(super) fn names(&self) -> Result<Vec<Vec<u8>>, Errno> {
        let mut all = Vec::new();
        for layer in &self.layers {
            all.extend(names(open_beneath(layer, self.path_or_dot())?)?);
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    /// Gives a directory the metadata of this one, which the topmost layer has.
    pub(super) fn copy_metadata_to(&self, to: &OwnedFd) -> io::Result<Stat> {
        let top = self.layers.first().expect("a directory that is there is in a layer");
        let path = self.path_or_dot();
        let stat = rustix::fs::statat(top, path, AtFlags::SYMLINK_NOFOLLOW)?;
        copy_metadata(top, path, &stat, to)?;
        Ok(stat)
    }

    fn path_or_dot(&self) -> &[u8] {
        if self.path.is_empty() { b"." } else { &self.path }
    }
}

/// A path and one part more.
pub(super) fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

/// Type, content and metadata of one file that is no directory, copied to a name that is free.
pub(super) fn copy_node(node: &Node, to: impl AsFd, new: &[u8]) -> io::Result<()> {
    let (from, to) = (&node.layer, to.as_fd());
    let (name, stat) = (node.path.as_slice(), &node.stat);
    let kind = kind_of(stat);
    match kind {
        FileType::RegularFile => return copy_file(node, to, new),
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(target.as_c_str(), to, new)?;
        }
        FileType::Directory | FileType::Unknown => {
            return Err(io::Error::new(ErrorKind::InvalidInput, "not a file"));
        }
        FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo | FileType::Socket => {
            rustix::fs::mknodat(to, new, kind, Mode::from_raw_mode(0o600), stat.st_rdev)?;
        }
    }
    let (uid, gid) = owner(stat);
    rustix::fs::chownat(to, new, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if kind != FileType::Symlink {
        rustix::fs::chmodat(to, new, permissions(stat), AtFlags::empty())?;
    }
    for (key, value) in xattrs_of(&beside(from, name))? {
        rustix::fs::lsetxattr(beside(to, new), key.as_slice(), &value, XattrFlags::empty())?;
    }
    Ok(rustix::fs::utimensat(to, new, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn copy_file(node: &Node, to: impl AsFd, new: &[u8]) -> io::Result<()> {
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source = rustix::fs::openat(&node.layer, node.path.as_slice(), read, Mode::empty())?;
    let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = rustix::fs::openat(to, new, write, Mode::from_raw_mode(0o600))?;
    copy_content(&source, &target, u64::try_from(node.stat.st_size).unwrap_or(0))?;
    copy_metadata(&node.layer, &node.path, &node.stat, &target)
}

/// Shares the data (ioctl_ficlone(2)), or copies what is not a hole.
fn copy_content(source: &OwnedFd, target: &OwnedFd, len: u64) -> io::Result<()> {
    if len == 0 || rustix::fs::ioctl_ficlone(target, source).is_ok() {
        return Ok(());
    }
    rustix::fs::ftruncate(target, len)?;
    let mut at = 0;
    while at < len {
        let start = match rustix::fs::seek(source, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        let end = rustix::fs::seek(source, SeekFrom::Hole(start))?.min(len);
        copy_range(source, target, start, end)?;
        at = end.max(start + 1);
    }
    Ok(())
}

fn copy_range(source: &OwnedFd, target: &OwnedFd, start: u64, end: u64) -> io::Result<()> {
    const ONCE: u64 = 1 << 30;
    let (mut from, mut to) = (start, start);
    while from < end {
        let most = usize::try_from((end - from).min(ONCE)).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), most) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            // Some file systems and some pairs of them can't.
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                return copy_bytes(source, target, from, end);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn copy_bytes(source: &OwnedFd, target: &OwnedFd, mut at: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0_u8; 256 << 10];
    while at < end {
        let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let read = rustix::io::pread(source, &mut buffer[..most], at)?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let mut left = &buffer[..read];
        while !left.is_empty() {
            let written = rustix::io::pwrite(target, left, at)?;
            left = &left[written..];
            at += written as u64;
        }
    }
    Ok(())
}

/// Owner, mode, extended attributes but [`OPAQUE`], and times: in the order in which none undoes
/// another.
fn copy_metadata(from: impl AsFd, name: &[u8], stat: &Stat, to: &OwnedFd) -> io::Result<()> {
    let (uid, gid) = owner(stat);
    rustix::fs::fchown(to, Some(uid), Some(gid))?;
    rustix::fs::fchmod(to, permissions(stat))?;
    for (key, value) in xattrs_of(&beside(from, name))? {
        if key != OPAQUE.as_bytes() {
            rustix::fs::fsetxattr(to, key.as_slice(), &value, XattrFlags::empty())?;
        }
    }
    Ok(rustix::fs::futimens(to, &times(stat))?)
}

/// A path to an entry of an open directory, for the calls that have no form with a descriptor.
pub(super) fn beside(directory: impl AsFd, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

/// The extended attributes of a file, which is not followed if it is a link.
pub(super) fn xattrs_of(path: &[u8]) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut all = BTreeMap::new();
    match rustix::fs::llistxattr_query(path) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(all),
        Ok(_) => {}
        Err(errno) => return Err(errno.into()),
    }
    let mut list = vec![0_u8; XATTR_LEN_MAX];
    let len = rustix::fs::llistxattr(path, &mut list)?;
    let mut value = vec![0_u8; XATTR_LEN_MAX];
    for key in list[..len].split_inclusive(|b| *b == 0) {
        let key = CStr::from_bytes_with_nul(key).map_err(io::Error::other)?;
        match rustix::fs::lgetxattr(path, key, &mut value) {
            Ok(len) => drop(all.insert(key.to_bytes().to_vec(), value[..len].to_vec())),
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(all)
}

pub(super) fn permissions(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & 0o7777)
}

fn owner(stat: &Stat) -> (Uid, Gid) {
    (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid))
}

pub(super) fn times(stat: &Stat) -> Timestamps {
    let nanoseconds = |n: u64| i64::try_from(n).unwrap_or(0);
    Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: nanoseconds(stat.st_atime_nsec) },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: nanoseconds(stat.st_mtime_nsec),
        },
    }
}
