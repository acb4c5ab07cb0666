//! The side file: the number of a commit that the store must have reached.
//!
//! sled may come back from damage to its files with an older state, and say nothing. The side file
//! stands beside the store and notes the last commit, after that has been acknowledged; so it is
//! never ahead of the store, and a store that is behind it has lost something. It is also what a
//! newer Roost is recognised by before its store is opened.
//!
//! ```text
//! 0          ┌──────────┐  two slots, written in turn and in place: the other one survives a
//!            │ slot 0   │  torn write, and no metadata of the file system changes
//! SLOT_LEN   ├──────────┤
//!            │ slot 1   │  each: length u8 │ value, as `codec` writes it
//!            └──────────┘
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::state::codec::upgrade::Version;
use crate::state::codec::{self, CodecError, Place, Value};

/// Two slots never share a page, the unit in which a disk loses.
const SLOT_LEN: u64 = 4096;
const SLOTS: u64 = 2;
const PLACE: Place<'static> = Place { tree: "side", key: b"" };

/// The value in a slot; what it says is its envelope's sequence number.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::state) struct SideNote;

/// What the side file says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// There is none: there has been no store, or somebody removed it.
    Missing,
    /// The store has reached this commit.
    Reached(u64),
    /// No slot of it can be read.
    Damaged,
    /// It was written by a newer Roost.
    Newer { found: u8, known: u8 },
}

/// Reads the side file.
pub(super) fn read(path: &Path) -> io::Result<Side> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Side::Missing),
        Err(error) => return Err(error),
    };
    let mut reached = None;
    for slot in 0..SLOTS {
        match read_slot(&file, slot)? {
            Ok(sequence) => reached = reached.max(Some(sequence)),
            Err(CodecError::Newer { found, known }) => return Ok(Side::Newer { found, known }),
            // The other slot has what is needed.
            Err(
                CodecError::Size { .. } | CodecError::Checksum | CodecError::Meaningless { .. },
            ) => {}
        }
    }
    Ok(reached.map_or(Side::Damaged, Side::Reached))
}

fn read_slot(file: &File, slot: u64) -> io::Result<Result<u64, CodecError>> {
    Ok(read_value(file, slot)?.and_then(|value| {
        codec::decode::<SideNote>(PLACE, &value).map(|(sequence, SideNote)| sequence)
    }))
}

fn read_value(file: &File, slot: u64) -> io::Result<Result<Vec<u8>, CodecError>> {
    let mut bytes = [0; 1 + u8::MAX as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], slot * SLOT_LEN + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let (len, rest) = bytes.split_first().expect("the array is not empty");
    let len = usize::from(*len);
    if filled < 1 + len {
        return Ok(Err(CodecError::Size { found: filled, most: bytes.len() }));
    }
    Ok(Ok(rest[..len].to_vec()))
}

/// The side file, to write to.
#[derive(Debug)]
pub(super) struct SideFile {
    file: File,
    /// The slot to write next: the one that says less.
    next: u64,
    /// What the other one says.
    noted: u64,
}

impl SideFile {
    /// Makes the side file anew, with both slots saying `sequence`; durable but for its entry in
    /// the directory.
    pub(super) fn create(path: &Path, sequence: u64) -> io::Result<Self> {
        let fresh = path.with_extension("seq.new");
        let file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        // All blocks are there from now on, so that a note allocates nothing.
        file.write_all_at(&[0; 2 * 4096], 0)?;
        for slot in 0..SLOTS {
            write_slot(&file, slot, sequence)?;
        }
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        Ok(Self { file, next: 0, noted: sequence })
    }

    /// Opens the one that is there.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let first = read_slot(&file, 0)?.ok();
        let second = read_slot(&file, 1)?.ok();
        let noted = first.max(second).unwrap_or(0);
        Ok(Self { file, next: u64::from(second < first), noted })
    }

    /// Sees to it that an older Roost knows the store for one of a newer version; durable on
    /// return.
    pub(super) fn claim(&mut self) -> io::Result<()> {
        let number = <<SideNote as Value>::Stored as Version>::NUMBER;
        for slot in 0..SLOTS {
            if read_value(&self.file, slot)?.is_ok_and(|value| value.first() == Some(&number)) {
                return Ok(());
            }
        }
        self.note(self.noted)
    }

    /// What it says.
    pub(super) fn noted(&self) -> u64 {
        self.noted
    }

    /// Notes that the store has reached `sequence`; durable on return.
    pub(super) fn note(&mut self, sequence: u64) -> io::Result<()> {
        write_slot(&self.file, self.next, sequence)?;
        self.file.sync_data()?;
        self.next = (self.next + 1) % SLOTS;
        self.noted = sequence;
        Ok(())
    }
}

fn write_slot(file: &File, slot: u64, sequence: u64) -> io::Result<()> {
    let value = codec::encode(PLACE, sequence, &SideNote).map_err(io::Error::other)?;
    let mut bytes = vec![u8::try_from(value.len()).map_err(io::Error::other)?];
    bytes.extend_from_slice(&value);
    file.write_all_at(&bytes, slot * SLOT_LEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_note_leaves_the_one_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.seq");
        assert_eq!(read(&path).unwrap(), Side::Missing);
        let mut side = SideFile::create(&path, 0).unwrap();
        assert_eq!(read(&path).unwrap(), Side::Reached(0));
        side.note(2).unwrap();
        side.note(4).unwrap();
        side.note(6).unwrap();
        assert_eq!(read(&path).unwrap(), Side::Reached(6));
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(b"torn", 5).unwrap();
        assert_eq!(read(&path).unwrap(), Side::Reached(4));
        SideFile::open(&path).unwrap().note(6).unwrap();
        file.write_all_at(b"torn", SLOT_LEN + 5).unwrap();
        assert_eq!(read(&path).unwrap(), Side::Reached(6), "the torn slot was written next");
        file.set_len(3).unwrap();
        assert_eq!(read(&path).unwrap(), Side::Damaged);
    }

    #[test]
    fn a_note_does_not_change_the_size_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.seq");
        SideFile::create(&path, 0).unwrap().note(u64::MAX).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), SLOTS * SLOT_LEN);
    }
}
