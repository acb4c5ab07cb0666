//! Makes the files of a layer.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::place::{Layer, Place, failed, io_error, refused};
use super::sparse::Segment;
use super::stream::Chunks;
use super::tar::{Entry, Kind, TarReader};
use super::{
    Devices, ENTRIES_MAX, LAYER_LEN_MAX, UnpackError, UnpackOptions, UnpackReport, normalise, xattr,
};
use crate::provisioner::tree::{self, Found, Merged};

/// Whiteouts (OCI image specification, layer.md, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
/// Of aufs, which made the first whiteouts: not for others, but for the next.
const WHITEOUT_META: &[u8] = b".wh..wh.";
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";
/// What a file's length is rounded up to in [`UnpackReport::size`].
const DISK_BLOCK: u64 = 4096;

pub(super) struct Extractor<'a> {
    layer: Layer,
    options: &'a UnpackOptions,
    report: UnpackReport,
    /// Bytes copied from the layers below: a few bytes of a layer may ask for many.
    taken_len: u64,
}

impl<'a> Extractor<'a> {
    pub(super) fn new(root: Rc<OwnedFd>, below: Merged, options: &'a UnpackOptions) -> Self {
        Self {
            layer: Layer::new(root, below),
            options,
            report: UnpackReport::default(),
            taken_len: 0,
        }
    }

    /// Reads all of it.
    pub(super) fn run(mut self, input: &mut impl Chunks) -> Result<UnpackReport, UnpackError> {
        self.begin_root()?;
        let entries_max = self.options.entries_max.min(ENTRIES_MAX);
        let mut tar = TarReader::new(input);
        while let Some(entry) = tar.next()? {
            self.report.entries += 1;
            if self.report.entries > entries_max {
                return Err(UnpackError::TooMuch { what: "entries", limit: entries_max });
            }
            self.entry(&entry, &mut tar)?;
        }
        self.finish()?;
        Ok(self.report)
    }

    /// The root is as below, if the layer does not say otherwise.
    fn begin_root(&mut self) -> Result<(), UnpackError> {
        let root = &self.layer.root.fd;
        if self.layer.below.layers.is_empty() {
            rustix::fs::fchmod(root, Mode::from_raw_mode(0o755))
                .map_err(|e| failed("set the mode of", b"", e))?;
            // The same wherever and whenever it is unpacked.
            let time = Timespec { tv_sec: 0, tv_nsec: 0 };
            let times = Timestamps { last_access: time, last_modification: time };
            self.layer.times.insert(Vec::new(), times);
            return Ok(());
        }
        let stat = self.layer.below.copy_metadata_to(root);
        let stat = stat.map_err(|source| io_error("take over", b"", source))?;
        self.layer.times.insert(Vec::new(), tree::times(&stat));
        Ok(())
    }

    fn entry<C: Chunks>(
        &mut self,
        entry: &Entry,
        tar: &mut TarReader<'_, C>,
    ) -> Result<(), UnpackError> {
        let parts = normalise(&entry.path)?;
        let Some((name, above)) = parts.split_last() else {
            if entry.kind != Kind::Directory {
                return Err(refused(&entry.path, "the root can only be a directory"));
            }
            let root = self.layer.root.clone();
            return self.describe_directory(&root, entry);
        };
        if parts.iter().any(|part| part.starts_with(WHITEOUT_META)) {
            if *name == WHITEOUT_OPAQUE {
                let place = self.layer.directory(above, entry.modified)?;
                return self.layer.make_opaque(&place);
            }
            self.report.ignore("what aufs kept for itself (.wh..wh.*)".to_owned());
            return Ok(());
        }
        let place = self.layer.directory(above, entry.modified)?;
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.white_out(&place, hidden, entry);
        }
        match &entry.kind {
            Kind::Directory => self.directory(&place, name, entry),
            Kind::File(map) => self.file(&place, name, entry, map, tar),
            Kind::HardLink(target) => self.hard_link(&place, name, entry, target),
            Kind::Symlink(target) => self.symlink(&place, name, entry, target),
            Kind::Character(major, minor) => {
                self.device(&place, name, entry, FileType::CharacterDevice, (*major, *minor))
            }
            Kind::Block(major, minor) => {
                self.device(&place, name, entry, FileType::BlockDevice, (*major, *minor))
            }
            Kind::Fifo => self.node(&place, name, entry, FileType::Fifo, 0),
        }
    }

    /// Hides a name of the layers below. What this layer itself has of that name stays: a whiteout
    /// is only about the layers below, wherever in the layer it stands.
    fn white_out(&mut self, place: &Place, name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        if matches!(name, b"" | b"." | b"..") {
            return Err(refused(&entry.path, "it is a whiteout of nothing"));
        }
        let path = tree::join(&place.path, name);
        match tree::stat(&place.fd, name).map_err(|e| failed("look at", &path, e))? {
            Some(stat) if tree::is_directory(&stat) => {
                let inside = self.layer.open(place, name, &path)?;
                return self.layer.make_opaque(&inside);
            }
            Some(_) if self.layer.taken.contains(&path) => self.layer.vacate(place, name)?,
            Some(_) => return Ok(()),
            None => {}
        }
        self.layer.forget();
        // Where nothing is to be hidden, overlayfs would show the whiteout as what it is.
        let below = self.layer.below(place)?;
        match below.lookup(name).map_err(|e| failed("look below", &path, e))? {
            Found::Nothing => Ok(()),
            Found::Directory(_) | Found::Other(_) => {
                make_whiteout(place, name).map_err(|e| failed("make the whiteout of", &path, e))
            }
        }
    }

    fn directory(&mut self, place: &Place, name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        let path = tree::join(&place.path, name);
        let make = || rustix::fs::mkdirat(&place.fd, name, Mode::RWXU);
        let failed = |e| failed("make the directory", &path, e);
        let made = match make() {
            Err(Errno::EXIST) => {
                let stat = tree::stat(&place.fd, name).map_err(failed)?;
                let kept = stat.as_ref().is_some_and(tree::is_directory);
                if !kept {
                    self.layer.vacate(place, name)?;
                    make().map_err(failed)?;
                    let inside = self.layer.open(place, name, &path)?;
                    // What stood here, be it a whiteout, hid what is below.
                    self.layer.make_opaque(&inside)?;
                }
                !kept
            }
            made => made.map(|()| true).map_err(failed)?,
        };
        self.report.size += if made { DISK_BLOCK } else { 0 };
        self.layer.forget();
        let inside = self.layer.open(place, name, &path)?;
        if !made {
            self.clear_xattrs(&inside)?;
        }
        self.describe_directory(&inside, entry)
    }

    /// An entry before gave it some that it does not have any more.
    fn clear_xattrs(&self, place: &Place) -> Result<(), UnpackError> {
        let failed = |source| io_error("clear the attributes of", &place.path, source);
        for name in tree::xattrs_of(&tree::beside(&place.fd, b".")).map_err(failed)?.keys() {
            if name != tree::OPAQUE.as_bytes() {
                let removed = rustix::fs::fremovexattr(&place.fd, name.as_slice());
                removed.map_err(|e| failed(e.into()))?;
            }
        }
        Ok(())
    }

    fn describe_directory(&mut self, place: &Place, entry: &Entry) -> Result<(), UnpackError> {
        self.describe(&place.fd, entry)?;
        self.layer.times.insert(place.path.to_vec(), times_of(entry));
        Ok(())
    }

    /// Owner, mode and attributes; each takes something of the later ones away.
    fn describe(&mut self, file: &OwnedFd, entry: &Entry) -> Result<(), UnpackError> {
        let (uid, gid) = owner_of(entry);
        rustix::fs::fchown(file, uid, gid)
            .and_then(|()| rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode)))
            .map_err(|e| failed("set owner and mode of", &entry.path, e))?;
        xattr::apply(entry, &mut self.report, |name, value, flags| {
            rustix::fs::fsetxattr(file, name, value, flags)
        })
    }

    fn file<C: Chunks>(
        &mut self,
        place: &Place,
        name: &[u8],
        entry: &Entry,
        map: &[Segment],
        tar: &mut TarReader<'_, C>,
    ) -> Result<(), UnpackError> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = self
            .replacing(place, name, || rustix::fs::openat(&place.fd, name, flags, mode))?
            .map_err(|e| failed("make", &entry.path, e))?;
        let mut end = 0;
        for segment in map {
            self.report.size += segment.len.next_multiple_of(DISK_BLOCK);
            write_segment(&file, entry, *segment, tar)?;
            end = segment.offset + segment.len;
        }
        if end < entry.size {
            rustix::fs::ftruncate(&file, entry.size)
                .map_err(|e| failed("set the length of", &entry.path, e))?;
        }
        self.describe(&file, entry)?;
        rustix::fs::futimens(&file, &times_of(entry))
            .map_err(|e| failed("set the times of", &entry.path, e))
    }

    fn hard_link(
        &mut self,
        place: &Place,
        name: &[u8],
        entry: &Entry,
        target: &[u8],
    ) -> Result<(), UnpackError> {
        let parts = normalise(target)?;
        let Some((target, above)) = parts.split_last() else {
            return Err(refused(&entry.path, "a hard link can't lead to a directory"));
        };
        let from = self.layer.directory(above, entry.modified)?;
        let look = |e| failed("look for the target of", &entry.path, e);
        let stat = tree::stat(&from.fd, target).map_err(look)?;
        match stat {
            Some(stat) if tree::is_directory(&stat) => {
                return Err(refused(&entry.path, "a hard link can't lead to a directory"));
            }
            Some(stat) if tree::is_whiteout(&stat) => {
                return Err(refused(&entry.path, "the file that it links to is not there"));
            }
            Some(stat) => {
                let there = tree::stat(&place.fd, name).map_err(look)?;
                if there.is_some_and(|there| there.st_ino == stat.st_ino) {
                    return Ok(());
                }
            }
            None => self.take_over(&from, target, entry)?,
        }
        self.replacing(place, name, || {
            rustix::fs::linkat(&from.fd, *target, &place.fd, name, AtFlags::empty())
        })?
        .map_err(|e| failed("link", &entry.path, e))
    }

    /// Copies a file of the layers below into this one, so that it can be linked to.
    fn take_over(&mut self, at: &Place, name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        let below = self.layer.below(at)?.lookup(name);
        match below.map_err(|e| failed("look for the target of", &entry.path, e))? {
            Found::Nothing => Err(refused(&entry.path, "the file that it links to is not there")),
            Found::Directory(_) => {
                Err(refused(&entry.path, "a hard link can't lead to a directory"))
            }
            Found::Other(node) => {
                let len = u64::try_from(node.stat.st_blocks).unwrap_or(0).saturating_mul(512);
                self.taken_len = self.taken_len.saturating_add(len);
                let limit = self.options.bytes_max.min(LAYER_LEN_MAX);
                if self.taken_len > limit {
                    let what = "bytes of files below that it links to";
                    return Err(UnpackError::TooMuch { what, limit });
                }
                self.report.size += len;
                tree::copy_node(&node, &at.fd, name).map_err(|source| {
                    io_error("copy from below the target of", &entry.path, source)
                })?;
                self.layer.taken.insert(tree::join(&at.path, name));
                Ok(())
            }
        }
    }

    fn symlink(
        &mut self,
        place: &Place,
        name: &[u8],
        entry: &Entry,
        target: &[u8],
    ) -> Result<(), UnpackError> {
        if target.is_empty() || target.contains(&0) {
            return Err(refused(&entry.path, "a symbolic link needs a target"));
        }
        self.replacing(place, name, || rustix::fs::symlinkat(target, &place.fd, name))?
            .map_err(|e| failed("make the symbolic link", &entry.path, e))?;
        self.layer.forget();
        self.describe_node(place, name, entry, false)
    }

    fn device(
        &mut self,
        place: &Place,
        name: &[u8],
        entry: &Entry,
        kind: FileType,
        (major, minor): (u32, u32),
    ) -> Result<(), UnpackError> {
        if self.options.devices == Devices::Refuse {
            return Err(refused(&entry.path, "devices are not allowed"));
        }
        let device = rustix::fs::makedev(major, minor);
        if kind == FileType::CharacterDevice && device == 0 {
            return Err(refused(&entry.path, "overlayfs would take the device 0:0 for a whiteout"));
        }
        self.node(place, name, entry, kind, device)
    }

    fn node(
        &mut self,
        place: &Place,
        name: &[u8],
        entry: &Entry,
        kind: FileType,
        device: u64,
    ) -> Result<(), UnpackError> {
        let mode = Mode::RUSR | Mode::WUSR;
        self.replacing(place, name, || rustix::fs::mknodat(&place.fd, name, kind, mode, device))?
            .map_err(|e| failed("make", &entry.path, e))?;
        self.describe_node(place, name, entry, true)
    }

    /// What can't be opened is described by its name, which has just been made.
    fn describe_node(
        &mut self,
        place: &Place,
        name: &[u8],
        entry: &Entry,
        has_mode: bool,
    ) -> Result<(), UnpackError> {
        let (uid, gid) = owner_of(entry);
        let fd = &place.fd;
        let failed = |e| failed("set owner and mode of", &entry.path, e);
        rustix::fs::chownat(fd, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        if has_mode {
            let mode = Mode::from_raw_mode(entry.mode);
            rustix::fs::chmodat(fd, name, mode, AtFlags::empty()).map_err(failed)?;
        }
        let path = tree::beside(fd, name);
        xattr::apply(entry, &mut self.report, |key, value, flags| {
            rustix::fs::lsetxattr(path.as_slice(), key, value, flags)
        })?;
        rustix::fs::utimensat(fd, name, &times_of(entry), AtFlags::SYMLINK_NOFOLLOW).map_err(failed)
    }

    /// Makes something, instead of what an earlier entry made of that name.
    fn replacing<T>(
        &mut self,
        place: &Place,
        name: &[u8],
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<Result<T, Errno>, UnpackError> {
        match make() {
            Err(Errno::EXIST) => {
                self.layer.vacate(place, name)?;
                Ok(make())
            }
            made => Ok(made),
        }
    }

    fn finish(&mut self) -> Result<(), UnpackError> {
        if self.layer.root_is_opaque {
            self.hide_below_root()?;
        }
        let root = &self.layer.root.fd;
        // Setting the time of one does not change that of another.
        for (path, times) in &self.layer.times {
            let name = if path.is_empty() { b".".as_slice() } else { path };
            tree::open_beneath(root, name)
                .and_then(|directory| rustix::fs::futimens(directory, times))
                .map_err(|e| failed("set the times of", path, e))?;
        }
        Ok(())
    }

    /// Hides what the layers below have in the root, name by name.
    fn hide_below_root(&mut self) -> Result<(), UnpackError> {
        let below = self.layer.below.clone();
        let root = self.layer.root.clone();
        for name in below.names().map_err(|e| failed("look below", b"", e))? {
            let look = |e| failed("look at", &name, e);
            match tree::stat(&root.fd, &name).map_err(look)? {
                Some(stat) if tree::is_directory(&stat) => {
                    let inside = self.layer.open(&root, &name, &name)?;
                    self.layer.make_opaque(&inside)?;
                }
                Some(_) => {}
                None if matches!(below.lookup(&name).map_err(look)?, Found::Nothing) => {}
                None => make_whiteout(&root, &name)
                    .map_err(|e| failed("make the whiteout of", &name, e))?,
            }
        }
        Ok(())
    }
}

fn make_whiteout(place: &Place, name: &[u8]) -> Result<(), Errno> {
    rustix::fs::mknodat(&place.fd, name, FileType::CharacterDevice, Mode::empty(), 0)
}

fn write_segment<C: Chunks>(
    file: &OwnedFd,
    entry: &Entry,
    segment: Segment,
    tar: &mut TarReader<'_, C>,
) -> Result<(), UnpackError> {
    let (mut at, end) = (segment.offset, segment.offset + segment.len);
    while at < end {
        let chunk = tar.data(end - at)?;
        if chunk.is_empty() {
            return Err(tar.malformed("it has less data than its header says"));
        }
        let written = match rustix::io::pwrite(file, chunk, at) {
            Ok(0) => return Err(io_error("write", &entry.path, io::ErrorKind::WriteZero.into())),
            Ok(written) => written,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(failed("write", &entry.path, errno)),
        };
        tar.consume(written);
        at += written as u64;
    }
    Ok(())
}

fn owner_of(entry: &Entry) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
}

fn times_of(entry: &Entry) -> Timestamps {
    Timestamps { last_access: entry.modified, last_modification: entry.modified }
}
