//! Reads tar files: old, ustar, GNU and PAX headers (POSIX pax, "ustar Interchange Format"; GNU
//! tar manual, "Basic Tar Format" and "Storing Sparse Files").
//!
//! Not the crate `tar`: that one ends extended attributes at a line feed, which capabilities may
//! contain, and reads headers of any length into memory. Where the format leaves it open, this does
//! what Go's `archive/tar` does, because that is what made and reads most images.

use rustix::fs::Timespec;

use super::UnpackError;
use super::pax::{self, Extensions};
use super::sparse::{self, Segment};
use super::stream::Chunks;

const BLOCK: usize = 512;
/// Longest extended header: a few paths, and extended attributes of 64 KiB.
const EXTENSION_LEN_MAX: u64 = 1 << 20;
/// Most extension headers before one entry.
const EXTENSIONS_MAX: usize = 16;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    /// Where the entry's data goes; a plain file has one segment.
    File(Vec<Segment>),
    HardLink(Vec<u8>),
    Symlink(Vec<u8>),
    Character(u32, u32),
    Block(u32, u32),
    Fifo,
}

/// One entry, but for its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    /// The length of the file.
    pub(super) size: u64,
    /// Permissions, setuid, setgid and sticky.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) modified: Timespec,
    /// Full names (`security.capability`) and values.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

pub(super) struct TarReader<'a, C> {
    input: &'a mut C,
    /// Bytes read of the tar file, for messages.
    at: u64,
    /// Bytes of the present entry's data that nobody read yet.
    data: u64,
    /// Zeros after the data up to the next block.
    padding: u64,
}

impl<'a, C: Chunks> TarReader<'a, C> {
    pub(super) fn new(input: &'a mut C) -> Self {
        Self { input, at: 0, data: 0, padding: 0 }
    }

    /// The next entry; none at the end, up to which everything is read then.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, UnpackError> {
        let mut extensions = Extensions::default();
        for _ in 0..EXTENSIONS_MAX {
            self.skip(self.data)?;
            self.skip_padding()?;
            (self.data, self.padding) = (0, 0);
            let Some(header) = self.header()? else {
                if extensions != Extensions::default() {
                    return Err(self.malformed("it ends with an extended header"));
                }
                return Ok(None);
            };
            match header.kind() {
                b'x' | b'X' => {
                    let text = self.extension(&header)?;
                    extensions.add(&text).map_err(|what| self.malformed(what))?;
                }
                // What stands in a global header is a comment, in practice.
                b'g' => drop(self.extension(&header)?),
                b'L' => extensions.path = Some(self.long_name(&header)?),
                b'K' => extensions.link = Some(self.long_name(&header)?),
                // The name of the volume.
                b'V' => self.begin_data(header.number(SIZE).map_err(|e| self.malformed(e))?),
                _ => return self.entry(&header, extensions).map(Some),
            }
        }
        Err(self.malformed("there are too many extended headers in a row"))
    }

    /// What comes next of the entry's data, at most `most` bytes; nothing at its end.
    pub(super) fn data(&mut self, most: u64) -> Result<&[u8], UnpackError> {
        let most = usize::try_from(self.data.min(most)).unwrap_or(usize::MAX);
        if most == 0 {
            return Ok(&[]);
        }
        let at = self.at;
        let chunk = self.input.fill()?;
        if chunk.is_empty() {
            return Err(malformed(at, "it ends in the middle of a file"));
        }
        Ok(&chunk[..chunk.len().min(most)])
    }

    /// So many bytes of the data are done with.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.input.consume(bytes);
        self.at += bytes as u64;
        self.data -= bytes as u64;
    }

    /// An error about the tar file at this place.
    pub(super) fn malformed(&self, what: impl Into<String>) -> UnpackError {
        malformed(self.at, what)
    }

    fn entry(&mut self, header: &Header, ext: Extensions) -> Result<Entry, UnpackError> {
        let number = |field| header.number(field).map_err(|e| self.malformed(e));
        let stored = ext.size.map_or_else(|| number(SIZE), Ok)?;
        if i64::try_from(stored).is_err() {
            return Err(self.malformed("a file is longer than any can be"));
        }
        let mut entry = Entry {
            path: ext.path.clone().unwrap_or_else(|| header.path()),
            kind: Kind::Directory,
            size: 0,
            mode: u32::try_from(number(MODE)? & 0o7777).expect("12 bits"),
            uid: self.id(ext.uid, header, UID)?,
            gid: self.id(ext.gid, header, GID)?,
            modified: match ext.modified {
                Some(modified) => modified,
                None => Timespec {
                    tv_sec: header.seconds().map_err(|e| self.malformed(e))?,
                    tv_nsec: 0,
                },
            },
            xattrs: ext.xattrs.clone(),
        };
        let link = || ext.link.clone().unwrap_or_else(|| header.text(LINK).to_vec());
        entry.kind = match header.kind() {
            b'0' | 0 if entry.path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' | b'S' => {
                self.begin_data(stored);
                let (kind, size) = self.file(header, &ext, stored)?;
                entry.size = size;
                if let Some(name) = ext.sparse_name {
                    entry.path = name;
                }
                kind
            }
            b'1' => Kind::HardLink(link()),
            b'2' => Kind::Symlink(link()),
            b'3' => Kind::Character(self.device(header, MAJOR)?, self.device(header, MINOR)?),
            b'4' => Kind::Block(self.device(header, MAJOR)?, self.device(header, MINOR)?),
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => {
                let what = format!("it has an entry of the unknown type {:?}", char::from(other));
                return Err(self.malformed(what));
            }
        };
        Ok(entry)
    }

    /// Where the data goes, and how long the file is. What stands before the data is read.
    fn file(
        &mut self,
        header: &Header,
        ext: &Extensions,
        stored: u64,
    ) -> Result<(Kind, u64), UnpackError> {
        let (map, size) = if header.kind() == b'S' {
            let size = header.number(SPARSE_SIZE).map_err(|e| self.malformed(e))?;
            let mut map = Vec::new();
            let mut more = sparse::old_map(&header.0[SPARSE_MAP..SPARSE_MAP + 4 * 24], &mut map)
                .map_err(|e| self.malformed(e))?
                && header.0[SPARSE_MORE] != 0;
            // Blocks of the map stand between the header and the data, and are not counted.
            while more {
                let block = self.block()?.ok_or_else(|| self.malformed("it ends in a header"))?;
                more = sparse::old_map(&block[..21 * 24], &mut map)
                    .map_err(|e| self.malformed(e))?
                    && block[21 * 24] != 0;
            }
            (map, size)
        } else if ext.sparse_in_data {
            let size =
                ext.sparse_size.ok_or_else(|| self.malformed("a sparse file has no size"))?;
            (self.map_in_data()?, size)
        } else if let Some(map) = ext.sparse_map().map_err(|e| self.malformed(e))? {
            let size =
                ext.sparse_size.ok_or_else(|| self.malformed("a sparse file has no size"))?;
            (map, size)
        } else {
            let whole = Segment { offset: 0, len: stored };
            return Ok((Kind::File(if stored == 0 { Vec::new() } else { vec![whole] }), stored));
        };
        sparse::check(&map, size, self.data).map_err(|e| self.malformed(e))?;
        Ok((Kind::File(map), size))
    }

    /// The map of PAX format 1.0: decimal numbers, each with a line feed, filled up to a block.
    fn map_in_data(&mut self) -> Result<Vec<Segment>, UnpackError> {
        let mut parser = sparse::MapInData::default();
        loop {
            if self.data < BLOCK as u64 {
                return Err(self.malformed("the map of a sparse file ends early"));
            }
            let block = self.block()?.ok_or_else(|| self.malformed("it ends in a header"))?;
            self.data -= BLOCK as u64;
            if parser.add(&block).map_err(|e| self.malformed(e))? {
                return Ok(parser.map);
            }
        }
    }

    fn id(&self, pax: Option<u64>, header: &Header, field: Field) -> Result<u32, UnpackError> {
        let id = match pax {
            Some(id) => id,
            None => header.number(field).map_err(|e| self.malformed(e))?,
        };
        // The greatest number means "leave it" to chown(2).
        match u32::try_from(id) {
            Ok(id) if id != u32::MAX => Ok(id),
            _ => Err(self.malformed(format!("an owner has the number {id}"))),
        }
    }

    fn device(&self, header: &Header, field: Field) -> Result<u32, UnpackError> {
        let number = header.number(field).map_err(|e| self.malformed(e))?;
        u32::try_from(number).map_err(|_| self.malformed("a device's number is too great"))
    }

    fn begin_data(&mut self, len: u64) {
        self.data = len;
        self.padding = len.wrapping_neg() % BLOCK as u64;
    }

    fn long_name(&mut self, header: &Header) -> Result<Vec<u8>, UnpackError> {
        let mut name = self.extension(header)?;
        name.truncate(name.iter().position(|b| *b == 0).unwrap_or(name.len()));
        Ok(name)
    }

    /// The data of an extended header.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, UnpackError> {
        let len = header.number(SIZE).map_err(|e| self.malformed(e))?;
        if len > EXTENSION_LEN_MAX {
            let what = "bytes of an extended header";
            return Err(UnpackError::TooMuch { what, limit: EXTENSION_LEN_MAX });
        }
        self.begin_data(len);
        let mut bytes = Vec::new();
        while self.data > 0 {
            let chunk = self.data(u64::MAX)?;
            bytes.extend_from_slice(chunk);
            let read = chunk.len();
            self.consume(read);
        }
        Ok(bytes)
    }

    /// The next header; none at the end.
    fn header(&mut self) -> Result<Option<Header>, UnpackError> {
        match self.block()? {
            Some(block) if block.iter().any(|b| *b != 0) => {
                let header = Header(block);
                if header.checksum_is_right() {
                    return Ok(Some(header));
                }
                Err(self.malformed("the checksum of a header is wrong"))
            }
            // A block of zeros is the end; what follows counts for the digest only.
            _ => {
                self.skip(u64::MAX)?;
                Ok(None)
            }
        }
    }

    /// A block; none at the end.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, UnpackError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let chunk = self.input.fill()?;
            if chunk.is_empty() {
                if filled == 0 {
                    return Ok(None);
                }
                return Err(self.malformed("it ends in the middle of a header"));
            }
            let part = chunk.len().min(BLOCK - filled);
            block[filled..filled + part].copy_from_slice(&chunk[..part]);
            self.input.consume(part);
            filled += part;
            self.at += part as u64;
        }
        Ok(Some(block))
    }

    /// Skips what fills up the block. Where the file ends, that may be missing, as in layers of
    /// `umoci insert`: GNU tar and Go's `archive/tar` take such files.
    fn skip_padding(&mut self) -> Result<(), UnpackError> {
        while self.padding > 0 {
            let chunk = self.input.fill()?;
            if chunk.is_empty() {
                return Ok(());
            }
            let part = chunk.len().min(usize::try_from(self.padding).unwrap_or(usize::MAX));
            self.input.consume(part);
            self.padding -= part as u64;
            self.at += part as u64;
        }
        Ok(())
    }

    /// Skips bytes; with [`u64::MAX`] up to the end.
    fn skip(&mut self, mut bytes: u64) -> Result<(), UnpackError> {
        let to_the_end = bytes == u64::MAX;
        while bytes > 0 {
            let chunk = self.input.fill()?;
            if chunk.is_empty() {
                if to_the_end {
                    return Ok(());
                }
                return Err(self.malformed("it ends in the middle of a file"));
            }
            let part = chunk.len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
            self.input.consume(part);
            bytes -= part as u64;
            self.at += part as u64;
        }
        Ok(())
    }
}

fn malformed(at: u64, what: impl Into<String>) -> UnpackError {
    UnpackError::Malformed { at, what: what.into() }
}

/// A place in the header: offset and length.
type Field = (usize, usize);
const NAME: Field = (0, 100);
const MODE: Field = (100, 8);
const UID: Field = (108, 8);
const GID: Field = (116, 8);
const SIZE: Field = (124, 12);
const MODIFIED: Field = (136, 12);
const CHECKSUM: Field = (148, 8);
const KIND: usize = 156;
const LINK: Field = (157, 100);
const MAGIC: Field = (257, 8);
const MAJOR: Field = (329, 8);
const MINOR: Field = (337, 8);
const PREFIX: Field = (345, 155);
const SPARSE_MAP: usize = 386;
const SPARSE_MORE: usize = 482;
const SPARSE_SIZE: Field = (483, 12);

struct Header([u8; BLOCK]);

impl Header {
    fn bytes(&self, (offset, len): Field) -> &[u8] {
        &self.0[offset..offset + len]
    }

    fn kind(&self) -> u8 {
        self.0[KIND]
    }

    /// Up to the first null.
    fn text(&self, field: Field) -> &[u8] {
        let bytes = self.bytes(field);
        &bytes[..bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len())]
    }

    fn path(&self) -> Vec<u8> {
        let prefix = self.text(PREFIX);
        // GNU headers have times where ustar has the prefix.
        if self.bytes(MAGIC).starts_with(b"ustar\0") && !prefix.is_empty() {
            return [prefix, b"/", self.text(NAME)].concat();
        }
        self.text(NAME).to_vec()
    }

    fn number(&self, field: Field) -> Result<u64, &'static str> {
        u64::try_from(pax::header_number(self.bytes(field))?).map_err(|_| "a number is negative")
    }

    fn seconds(&self) -> Result<i64, &'static str> {
        pax::header_number(self.bytes(MODIFIED))
    }

    /// Some old programs summed signed bytes.
    fn checksum_is_right(&self) -> bool {
        let (start, len) = CHECKSUM;
        let byte = |(at, byte): (usize, &u8)| {
            if (start..start + len).contains(&at) { b' ' } else { *byte }
        };
        let unsigned: i64 = self.0.iter().enumerate().map(|b| i64::from(byte(b))).sum();
        let signed: i64 = self.0.iter().enumerate().map(|b| i64::from(byte(b).cast_signed())).sum();
        pax::header_number(self.bytes(CHECKSUM)).is_ok_and(|sum| sum == unsigned || sum == signed)
    }
}
