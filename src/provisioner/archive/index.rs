//! Where each entry of an archive lies: found once, without reading the content.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Error, ErrorKind, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;

use super::ArchiveError;
use super::read::Section;
use crate::provisioner::image::LAYER_BLOB_LEN_MAX;

/// Most entries of an archive.
const ENTRIES_MAX: usize = 100_000;
/// Longest name of an entry that is kept; no image has longer ones.
const ENTRY_LEN_MAX: usize = 1024;
/// Most links that lead from one name to another.
const LINKS_MAX: usize = 8;

/// What is in a directory or an archive.
#[derive(Debug)]
pub(super) enum Content {
    Directory(PathBuf),
    Tar { file: Arc<File>, entries: BTreeMap<String, Entry> },
}

#[derive(Debug)]
pub(super) enum Entry {
    File {
        at: u64,
        len: u64,
    },
    /// `docker save` writes equal layers as symbolic links.
    Link(String),
}

impl Content {
    pub(super) fn open(path: &Path, scratch: &Path) -> Result<Self, ArchiveError> {
        let what = || "the whole".to_owned();
        let failed = |source| ArchiveError::Io { path: path.into(), what: what(), source };
        let invalid = |fault: String| ArchiveError::Invalid { path: path.into(), fault };
        if fs::metadata(path).map_err(failed)?.is_dir() {
            return Ok(Self::Directory(path.into()));
        }
        let file = open_regular(path).map_err(failed)?;
        let mut start = [0; 6];
        let read = file.read_at(&mut start, 0).map_err(failed)?;
        let file = match &start[..read] {
            [0x1f, 0x8b, ..] => {
                let input = flate2::read::MultiGzDecoder::new(file);
                inflate(input, scratch).map_err(failed)?
            }
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                let input = zstd::stream::read::Decoder::new(file).map_err(failed)?;
                inflate(input, scratch).map_err(failed)?
            }
            [0xfd, b'7', b'z', b'X', b'Z', ..] | [b'B', b'Z', b'h', ..] => {
                return Err(invalid(
                    "it is compressed with xz or bzip2: decompress it first (gzip and zstd are \
                     fine)"
                        .into(),
                ));
            }
            _ => file,
        };
        let format = [ErrorKind::InvalidData, ErrorKind::Other, ErrorKind::UnexpectedEof];
        let entries = entries(&file).map_err(|e| {
            if format.contains(&e.kind()) {
                return invalid(format!("it is no tar archive, or a damaged one: {e}"));
            }
            failed(e)
        })?;
        Ok(Self::Tar { file: Arc::new(file), entries })
    }

    pub(super) fn is_directory(&self) -> bool {
        matches!(self, Self::Directory(_))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        match self {
            Self::Directory(path) => path.join(name).is_file(),
            Self::Tar { entries, .. } => entries.contains_key(name),
        }
    }

    pub(super) fn section(&self, name: &str) -> io::Result<Section> {
        let name = clean(name).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "the name leads out of the archive")
        })?;
        match self {
            Self::Directory(path) => {
                let file = open_regular(&path.join(name))?;
                let len = file.metadata()?.len();
                Ok(Section::new(Arc::new(file), 0, len))
            }
            Self::Tar { file, entries } => {
                let mut name = name;
                for _ in 0..LINKS_MAX {
                    match entries.get(&name) {
                        Some(Entry::File { at, len }) => {
                            return Ok(Section::new(Arc::clone(file), *at, *len));
                        }
                        Some(Entry::Link(target)) => name.clone_from(target),
                        None => return Err(Error::new(ErrorKind::NotFound, "it is missing")),
                    }
                }
                Err(Error::new(ErrorKind::InvalidData, "its links lead in a circle"))
            }
        }
    }
}

/// A file, and nothing that could block or be endless.
fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).unwrap_or(0);
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(Error::new(ErrorKind::InvalidInput, "it is not a regular file"))
}

/// Decompresses into a file that is gone when it is closed, however that happens.
fn inflate(mut input: impl Read, scratch: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::TMPFILE.bits()).unwrap_or(0);
    let mut file =
        OpenOptions::new().read(true).write(true).mode(0o600).custom_flags(flags).open(scratch)?;
    let len = io::copy(&mut input.by_ref().take(LAYER_BLOB_LEN_MAX + 1), &mut file)?;
    if len > LAYER_BLOB_LEN_MAX {
        let text = format!("decompressed it has more than {LAYER_BLOB_LEN_MAX} bytes");
        return Err(Error::new(ErrorKind::FileTooLarge, text));
    }
    Ok(file)
}

fn entries(file: &File) -> io::Result<BTreeMap<String, Entry>> {
    let total = file.metadata()?.len();
    let mut reader = file.try_clone()?;
    io::Seek::rewind(&mut reader)?;
    let mut archive = tar::Archive::new(reader);
    let mut found = BTreeMap::new();
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let path = entry.path_bytes();
        if path.len() > ENTRY_LEN_MAX {
            continue;
        }
        let Some(name) = std::str::from_utf8(&path).ok().and_then(clean) else { continue };
        let kind = entry.header().entry_type();
        let target = entry.link_name_bytes();
        let target = target.as_deref().and_then(|target| std::str::from_utf8(target).ok());
        let value = if kind.is_file() || kind.is_contiguous() {
            let (at, len) = (entry.raw_file_position(), entry.size());
            if at.checked_add(len).is_none_or(|end| end > total) {
                return Err(Error::new(ErrorKind::UnexpectedEof, format!("{name} ends too early")));
            }
            Entry::File { at, len }
        } else if kind.is_symlink() {
            let above = name.rsplit_once('/').map_or("", |(above, _)| above);
            match target.and_then(|target| clean(&format!("{above}/{target}"))) {
                Some(target) => Entry::Link(target),
                None => continue,
            }
        } else if kind.is_hard_link() {
            match target.and_then(clean) {
                Some(target) => Entry::Link(target),
                None => continue,
            }
        } else {
            continue;
        };
        found.insert(name, value);
        if found.len() > ENTRIES_MAX {
            let text = format!("it has more than {ENTRIES_MAX} entries");
            return Err(Error::new(ErrorKind::InvalidData, text));
        }
    }
    Ok(found)
}

/// A name without `.` and `..`, from the top of the archive; none if it leads out.
fn clean(name: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_out_of_the_archive() {
        assert_eq!(clean("./a//b/./c").as_deref(), Some("a/b/c"));
        assert_eq!(clean("a/../b").as_deref(), Some("b"));
        for bad in ["..", "../a", "a/../../b", "", ".", "/"] {
            assert_eq!(clean(bad), None, "{bad}");
        }
    }
}
