//! Layers: from a tar file, compressed or not, to a directory that is one lowerdir of an overlay.
//!
//! ```text
//! input ─► decompress ─► hash ─┬─► read tar ─► make files      (two threads, a few buffers)
//!                              └─► diff id
//! ```
//!
//! Nothing in a layer can lead out of the directory: names are normalised as if it were `/`, every
//! directory is opened by openat2(2) beneath it without following a link, and files are made with
//! O_EXCL. Links on the way to an entry are followed by us, inside the tree that the layer makes
//! together with those below it; so what comes out is what umoci's unpacking one layer after the
//! other into one directory gives. A directory that the layer does not mention is that of the
//! layers below, and so are files that hard links point to.
//!
//! Not here: where layers lie and when they are complete (`store`).

mod extract;
mod pax;
mod place;
mod sparse;
mod stream;
mod tar;
mod xattr;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use oci_spec::image::Digest;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::hash::Hasher;
use super::tree::{DEPTH_MAX, Merged};
use extract::Extractor;

/// Longest uncompressed layer in bytes.
pub const LAYER_LEN_MAX: u64 = 64 << 30;
/// Most entries of a layer.
pub const ENTRIES_MAX: u64 = 1_000_000;
/// Longest path in a layer in bytes (`PATH_MAX`, less what stands before it on the disk).
pub const PATH_LEN_MAX: usize = 3840;
/// Most kinds of things that are named in [`UnpackReport::ignored`].
const IGNORED_MAX: usize = 16;

/// Bounds for one layer, and what is taken of it.
#[derive(Debug, Clone)]
pub struct UnpackOptions {
    /// Most bytes of the uncompressed tar file, and so on the disk; [`LAYER_LEN_MAX`] at most.
    pub bytes_max: u64,
    /// Most entries; [`ENTRIES_MAX`] at most.
    pub entries_max: u64,
    /// Device nodes.
    pub devices: Devices,
}

/// What to do with block and character devices in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Devices {
    /// They are made. Containers can't open them: their device cgroup forbids it.
    Make,
    /// The layer is refused.
    Refuse,
}

impl Default for UnpackOptions {
    fn default() -> Self {
        Self { bytes_max: LAYER_LEN_MAX, entries_max: ENTRIES_MAX, devices: Devices::Make }
    }
}

/// What was noteworthy about a layer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnpackReport {
    /// Entries that were read.
    pub entries: u64,
    /// Bytes that it takes on the disk, about.
    pub size: u64,
    /// What was left out and why (extended attributes that are not for images, or that the file
    /// system does not take), one line a kind; bounded.
    pub ignored: Vec<String>,
}

impl UnpackReport {
    fn ignore(&mut self, what: String) {
        if self.ignored.len() < IGNORED_MAX && !self.ignored.contains(&what) {
            self.ignored.push(what);
        }
    }
}

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The input could not be read, or whoever gives it wants no more.
    #[error("can't read the layer")]
    Input {
        /// Why.
        source: io::Error,
    },
    /// It is compressed in a way that images don't use.
    #[error("the layer is compressed with {what}; gzip, zstd and none are known")]
    Compression {
        /// With what.
        what: &'static str,
    },
    /// It can't be decompressed.
    #[error("the layer's compression is damaged")]
    Damaged {
        /// What the decompressor says.
        source: io::Error,
    },
    /// It is not a tar file as it should be.
    #[error("the layer is not a sound tar file: at byte {at}, {what}")]
    Malformed {
        /// How many bytes had been read.
        at: u64,
        /// What is wrong.
        what: String,
    },
    /// An entry that must not be.
    #[error("refused `{path}` in the layer: {why}")]
    Refused {
        /// The entry's name.
        path: String,
        /// Why.
        why: &'static str,
    },
    /// A limit is exceeded.
    #[error("the layer has more than {limit} {what}")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// Much more comes out than any sensible file is packed into.
    #[error("the layer is a decompression bomb: {unpacked} bytes came out of {packed}")]
    Bomb {
        /// Bytes read.
        packed: u64,
        /// Bytes that came out of them so far.
        unpacked: u64,
    },
    /// It is another layer than was asked for.
    #[error("the layer is {found} without compression, not {expected}")]
    WrongDiff {
        /// What the configuration of the image says.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// The diff id is of an algorithm that can't be verified.
    #[error("can't verify {digest}: only sha256, sha384 and sha512 are known")]
    UnknownAlgorithm {
        /// The diff id.
        digest: Digest,
    },
    /// A file could not be made.
    #[error("can't {attempted} `{path}` of the layer")]
    Io {
        /// What was attempted, as a verb.
        attempted: &'static str,
        /// The entry's name.
        path: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl UnpackError {
    /// Whether the reason is in the layer itself, so that the same bytes fail everywhere.
    #[must_use]
    pub fn is_content(&self) -> bool {
        match self {
            Self::Compression { .. }
            | Self::Damaged { .. }
            | Self::Malformed { .. }
            | Self::Refused { .. }
            | Self::TooMuch { .. }
            | Self::Bomb { .. }
            | Self::WrongDiff { .. }
            | Self::UnknownAlgorithm { .. } => true,
            Self::Input { .. } | Self::Io { .. } => false,
        }
    }

    /// Whether the disk is full, or the quota used up.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        let full = |source: &io::Error| {
            let errno = Errno::from_io_error(source);
            errno.is_some_and(|errno| matches!(errno, Errno::NOSPC | Errno::DQUOT))
        };
        matches!(self, Self::Io { source, .. } if full(source))
    }
}

/// Unpacks one layer into `target`, a directory that is there and empty, on top of the unpacked
/// layers `below` (their roots, the lowest first). What is in `target` is not synced.
///
/// # Errors
/// See [`UnpackError`]. What was made so far is left.
pub fn unpack(
    target: &Path,
    below: &[PathBuf],
    input: impl Read + Send,
    diff: &Digest,
    options: &UnpackOptions,
) -> Result<UnpackReport, UnpackError> {
    let Some(hasher) = Hasher::of(diff) else {
        return Err(UnpackError::UnknownAlgorithm { digest: diff.clone() });
    };
    let open = |path: &Path| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty());
        opened.map(Rc::new).map_err(|e| UnpackError::Io {
            attempted: "open the directory",
            path: path.display().to_string(),
            source: e.into(),
        })
    };
    let layers = below.iter().rev().map(|path| open(path)).collect::<Result<_, _>>()?;
    let extractor = Extractor::new(open(target)?, Merged::root(layers), options);
    let bytes_max = options.bytes_max.min(LAYER_LEN_MAX);
    let (report, found) =
        stream::with_chunks(input, hasher, bytes_max, |stream| extractor.run(stream))?;
    if found != *diff {
        return Err(UnpackError::WrongDiff { expected: diff.clone(), found });
    }
    Ok(report)
}

/// A name for a message: what can't be shown is escaped, and what is too long is cut.
fn shown(path: &[u8]) -> String {
    const LEN_MAX: usize = 200;
    let text = String::from_utf8_lossy(path);
    let cut = text.char_indices().nth(LEN_MAX).map_or(text.len(), |(at, _)| at);
    let dots = if cut < text.len() { "…" } else { "" };
    format!("{}{dots}", text[..cut].escape_debug())
}

/// The parts of a name, as seen from `/`: `..` leads up to it and no further.
fn normalise(path: &[u8]) -> Result<Vec<&[u8]>, UnpackError> {
    const NAME_LEN_MAX: usize = 255;
    let refused = |why| Err(UnpackError::Refused { path: shown(path), why });
    let mut parts = Vec::new();
    if path.contains(&0) {
        return refused("a name can't contain a null byte");
    }
    if path.len() > PATH_LEN_MAX {
        return refused("its name is longer than 3840 bytes");
    }
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            _ if part.len() > NAME_LEN_MAX => {
                return refused("a part of its name is longer than 255 bytes");
            }
            _ => parts.push(part),
        }
    }
    if parts.len() > DEPTH_MAX {
        return refused("it is deeper than 256 directories");
    }
    Ok(parts)
}

#[cfg(test)]
pub(in crate::provisioner) mod testing;

#[cfg(test)]
mod tests;
