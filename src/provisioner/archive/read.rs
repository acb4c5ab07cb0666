//! A part of a file, read where it lies, and compared with its digest while it is read.

use std::fs::File;
use std::io::{self, Error, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use oci_spec::image::Digest;

use crate::provisioner::hash::Hasher;

/// Some bytes of a file.
#[derive(Debug)]
pub(super) struct Section {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Section {
    pub(super) fn new(file: Arc<File>, at: u64, len: u64) -> Self {
        Self { file, at, left: len }
    }

    pub(super) fn len(&self) -> u64 {
        self.left
    }

    /// All of it; its length was looked at before.
    pub(super) fn read_all(mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let read = self.file.read_at(&mut buffer[..most], self.at)?;
        if read == 0 {
            return Err(Error::new(ErrorKind::UnexpectedEof, "the file was cut while it was read"));
        }
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

/// The content of a layer, compressed or not. At its end reading fails if it is not what its digest
/// says.
#[derive(Debug)]
pub struct LayerReader {
    section: Section,
    expected: Option<(Digest, Hasher)>,
}

impl LayerReader {
    /// None if the digest is of a kind that can't be computed.
    pub(super) fn new(section: Section, digest: Option<Digest>) -> Option<Self> {
        let expected = match digest {
            Some(digest) => {
                let hasher = Hasher::of(&digest)?;
                Some((digest, hasher))
            }
            None => None,
        };
        Some(Self { section, expected })
    }
}

impl Read for LayerReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.section.read(buffer)?;
        if let Some((_, hasher)) = &mut self.expected {
            hasher.update(&buffer[..read]);
        }
        let ended = (self.section.len() == 0).then(|| self.expected.take()).flatten();
        if let Some((expected, hasher)) = ended {
            let found = hasher.finish();
            if found != expected {
                let text = format!("the layer is damaged: its digest is {found}, not {expected}");
                return Err(Error::new(ErrorKind::InvalidData, text));
            }
        }
        Ok(read)
    }
}

/// The digest of some bytes, of the same kind as another; none if that kind can't be computed.
pub(super) fn digest_like(other: &Digest, bytes: &[u8]) -> Option<Digest> {
    let mut hasher = Hasher::of(other)?;
    hasher.update(bytes);
    Some(hasher.finish())
}
