//! Where an entry goes: directories of the layer being unpacked, found or made.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::{PATH_LEN_MAX, UnpackError, shown};
use crate::provisioner::tree::{self, DEPTH_MAX, Found, Merged};

/// Most symbolic links on the way to one entry, as the kernel has it (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// A directory of the layer.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) fd: Rc<OwnedFd>,
    /// From the root of the layer; no part of it is a link.
    pub(super) path: Rc<[u8]>,
}

/// The tree of a layer, as far as it is unpacked, on top of those below it.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) root: Place,
    pub(super) below: Merged,
    /// The directory of the last entry, by the parts of its name: the next is mostly in the same.
    last: Option<(Vec<u8>, Place)>,
    /// Times of directories, set at the end because every entry changes them.
    pub(super) times: BTreeMap<Vec<u8>, Timestamps>,
    /// Files of the layers below that were copied to be linked to. They are not this layer's own:
    /// its whiteouts are about them as well.
    pub(super) taken: BTreeSet<Vec<u8>>,
    /// Whether nothing below is to be seen at all. Overlayfs does not ask that of a root.
    pub(super) root_is_opaque: bool,
}

impl Layer {
    pub(super) fn new(root: Rc<OwnedFd>, below: Merged) -> Self {
        let root = Place { fd: root, path: Rc::from([]) };
        Self {
            root,
            below,
            last: None,
            times: BTreeMap::new(),
            taken: BTreeSet::new(),
            root_is_opaque: false,
        }
    }

    /// The directory that these parts of a name lead to. Links in them are followed within the
    /// tree; what is missing is taken over from the layers below, or made.
    pub(super) fn directory(
        &mut self,
        parts: &[&[u8]],
        modified: Timespec,
    ) -> Result<Place, UnpackError> {
        if parts.is_empty() {
            return Ok(self.root.clone());
        }
        let name = parts.join(&b'/');
        if let Some((last, place)) = &self.last
            && *last == name
        {
            return Ok(place.clone());
        }
        let place = match tree::open_beneath(&self.root.fd, &name) {
            Ok(fd) => Place { fd: Rc::new(fd), path: name.as_slice().into() },
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => self.walk(&name, modified)?,
            Err(errno) => return Err(failed("open the directory", &name, errno)),
        };
        self.last = Some((name, place.clone()));
        Ok(place)
    }

    /// What the layers below have in a directory of this one.
    pub(super) fn below(&self, place: &Place) -> Result<Merged, UnpackError> {
        let mut below = if self.root_is_opaque { Merged::default() } else { self.below.clone() };
        let mut path = Vec::new();
        for part in place.path.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
            if below.layers.is_empty() {
                break;
            }
            path = tree::join(&path, part);
            below = self.below_child(&below, part, &path)?;
        }
        Ok(below)
    }

    /// What they have in a directory `part` of this layer, where they have `below` beside it.
    fn below_child(&self, below: &Merged, part: &[u8], path: &[u8]) -> Result<Merged, UnpackError> {
        let opaque = tree::open_beneath(&self.root.fd, path).and_then(tree::is_opaque);
        if opaque.map_err(|e| failed("look at", path, e))? {
            return Ok(Merged::default());
        }
        below.directory(part).map_err(|e| failed("look below", path, e))
    }

    /// Names may lead elsewhere from now on: a link or a directory was made, or something hidden.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    /// Removes what has this name, if anything has.
    pub(super) fn vacate(&mut self, place: &Place, name: &[u8]) -> Result<(), UnpackError> {
        let path = tree::join(&place.path, name);
        tree::remove(&place.fd, name).map_err(|e| failed("replace", &path, e))?;
        self.forget();
        self.times.remove(&path);
        self.taken.remove(&path);
        for gone in inside(&path, self.times.range(first_inside(&path)..).map(|(path, _)| path)) {
            self.times.remove(&gone);
        }
        for gone in inside(&path, self.taken.range(first_inside(&path)..)) {
            self.taken.remove(&gone);
        }
        Ok(())
    }

    /// Hides what the layers below have in a directory of this one.
    pub(super) fn make_opaque(&mut self, place: &Place) -> Result<(), UnpackError> {
        tree::remove_whiteouts(&place.fd).map_err(|e| failed("clear", &place.path, e))?;
        for taken in inside(&place.path, self.taken.range(first_inside(&place.path)..)) {
            let root = &self.root.fd;
            rustix::fs::unlinkat(root, taken.as_slice(), AtFlags::empty())
                .map_err(|e| failed("hide", &taken, e))?;
            self.taken.remove(&taken);
        }
        if place.path.is_empty() {
            self.root_is_opaque = true;
            return Ok(());
        }
        rustix::fs::fsetxattr(&place.fd, tree::OPAQUE, b"y", XattrFlags::empty())
            .map_err(|e| failed("make opaque", &place.path, e))
    }

    /// Follows the parts of a name one by one.
    fn walk(&mut self, name: &[u8], modified: Timespec) -> Result<Place, UnpackError> {
        let split = |path: &[u8]| -> Vec<Vec<u8>> {
            path.split(|b| *b == b'/').map(<[u8]>::to_vec).collect()
        };
        let mut ahead: VecDeque<Vec<u8>> = split(name).into();
        let mut behind = vec![self.root.clone()];
        let mut links = 0;
        while let Some(part) = ahead.pop_front() {
            let here = behind.last().expect("the root stays").clone();
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    if behind.len() > 1 {
                        behind.pop();
                    }
                    continue;
                }
                _ => {}
            }
            match self.step(&here, &part, modified)? {
                Step::Directory(place) => {
                    if behind.len() > DEPTH_MAX || place.path.len() > PATH_LEN_MAX {
                        return Err(refused(name, "links make it deeper than a path may be"));
                    }
                    behind.push(place);
                }
                Step::Link(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(refused(name, "there are too many symbolic links on the way"));
                    }
                    if target.starts_with(b"/") {
                        behind.truncate(1);
                    }
                    for part in split(&target).into_iter().rev() {
                        ahead.push_front(part);
                    }
                }
            }
        }
        Ok(behind.pop().expect("the root stays"))
    }

    fn step(&mut self, here: &Place, part: &[u8], modified: Timespec) -> Result<Step, UnpackError> {
        let path = tree::join(&here.path, part);
        let look = |e: Errno| failed("look at", &path, e);
        let Some(stat) = tree::stat(&here.fd, part).map_err(look)? else {
            return self.step_below(here, part, &path, modified);
        };
        if tree::is_directory(&stat) {
            return self.open(here, part, &path).map(Step::Directory);
        }
        if tree::kind_of(&stat) == FileType::Symlink {
            let target = rustix::fs::readlinkat(&here.fd, part, Vec::new()).map_err(look)?;
            return Ok(Step::Link(target.into_bytes()));
        }
        if tree::is_whiteout(&stat) {
            self.vacate(here, part)?;
            let place = self.make(here, part, &path, Some(modified))?;
            self.make_opaque(&place)?;
            return Ok(Step::Directory(place));
        }
        Err(refused(&path, "what stands above it in the layer is not a directory"))
    }

    /// The layer itself has nothing of this name yet.
    fn step_below(
        &mut self,
        here: &Place,
        part: &[u8],
        path: &[u8],
        modified: Timespec,
    ) -> Result<Step, UnpackError> {
        let look = |e: Errno| failed("look below", path, e);
        match self.below(here)?.lookup(part).map_err(look)? {
            Found::Directory(merged) => {
                let place = self.make(here, part, path, None)?;
                let stat = merged
                    .copy_metadata_to(&place.fd)
                    .map_err(|source| io_error("take over", path, source))?;
                self.times.insert(path.to_vec(), tree::times(&stat));
                Ok(Step::Directory(place))
            }
            Found::Other(node) if tree::kind_of(&node.stat) == FileType::Symlink => {
                let target = rustix::fs::readlinkat(&node.layer, node.path.as_slice(), Vec::new());
                Ok(Step::Link(target.map_err(look)?.into_bytes()))
            }
            // A directory hides a file of the layers below.
            Found::Nothing | Found::Other(_) => {
                self.make(here, part, path, Some(modified)).map(Step::Directory)
            }
        }
    }

    /// Makes a directory that no entry describes, with the time of the entry that needs it: so a
    /// layer is the same wherever and whenever it is unpacked.
    fn make(
        &mut self,
        here: &Place,
        part: &[u8],
        path: &[u8],
        modified: Option<Timespec>,
    ) -> Result<Place, UnpackError> {
        rustix::fs::mkdirat(&here.fd, part, Mode::from_raw_mode(0o755))
            .map_err(|e| failed("make the directory", path, e))?;
        let place = self.open(here, part, path)?;
        if let Some(modified) = modified {
            // Neither the umask nor a setgid bit above decide.
            rustix::fs::chownat(
                &here.fd,
                part,
                Some(rustix::fs::Uid::ROOT),
                Some(rustix::fs::Gid::ROOT),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .and_then(|()| rustix::fs::fchmod(&place.fd, Mode::from_raw_mode(0o755)))
            .map_err(|e| failed("set the mode of", path, e))?;
            let times = Timestamps { last_access: modified, last_modification: modified };
            self.times.insert(path.to_vec(), times);
        }
        Ok(place)
    }

    pub(super) fn open(
        &self,
        here: &Place,
        part: &[u8],
        path: &[u8],
    ) -> Result<Place, UnpackError> {
        let fd = tree::open_beneath(here.fd.as_fd(), part)
            .map_err(|e| failed("open the directory", path, e))?;
        Ok(Place { fd: Rc::new(fd), path: path.into() })
    }
}

enum Step {
    Directory(Place),
    Link(Vec<u8>),
}

/// Where the paths inside a directory begin, among sorted ones: beside it may stand others that
/// begin with the same bytes.
fn first_inside(path: &[u8]) -> Vec<u8> {
    if path.is_empty() { Vec::new() } else { [path, b"/"].concat() }
}

fn inside<'a>(path: &[u8], sorted: impl Iterator<Item = &'a Vec<u8>>) -> Vec<Vec<u8>> {
    let first = first_inside(path);
    sorted.take_while(|path| path.starts_with(&first)).cloned().collect()
}

pub(super) fn failed(attempted: &'static str, path: &[u8], errno: Errno) -> UnpackError {
    io_error(attempted, path, errno.into())
}

pub(super) fn io_error(attempted: &'static str, path: &[u8], source: io::Error) -> UnpackError {
    let path = if path.is_empty() { ".".to_owned() } else { shown(path) };
    UnpackError::Io { attempted, path, source }
}

pub(super) fn refused(path: &[u8], why: &'static str) -> UnpackError {
    UnpackError::Refused { path: shown(path), why }
}
