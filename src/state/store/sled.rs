//! [`SledStore`]: the agent's store on disk.
//!
//! ```text
//! <data>/state/            sled 0.34
//!        │  default tree   "meta" → sequence │ number and digest of all other values
//!        │  pods           instance id, 16 bytes → record
//!        │  directories    name as configured → handle
//!        └  events         number, 8 bytes, big-endian → event
//! <data>/state.seq         the side file: a commit that the store has reached (`side`)
//! <data>/state.lock        locked as long as an agent uses the store
//! <data>/state.doubtful-1  a store that could not be believed
//!
//! commit:  one transaction over all trees ─► flush ─► fsync of new blobs ─► fdatasync of
//!          state/db ─► acknowledged ─► side file
//! ```
//!
//! sled's own `flush` ends in sync_file_range(2), which is no promise that anything is on the disk
//! (sled 0.34.7, `src/pagecache/iobuf.rs`), and its blobs are never synced; so [`Open::commit`]
//! does both, and nobody else flushes.
//!
//! sled does not reliably notice damage to its files either: it may come back older, empty,
//! different from tree to tree, or panic. So every value has a checksum; "meta" has a digest over
//! all values, which tells a state that never was; the side file tells an older state; and every
//! call into sled catches panics. Any doubt makes the store doubtful as a whole: it is moved
//! aside, and the agent rebuilds what it must know from manifests, pod directories and what runs.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};

use super::side::{self, Side, SideFile};
use super::{Change, Contents, Store, StoreError, check};
use crate::state::checkpoint::{create_dir_durable, sync_dir};

mod database;

use database::Database;
pub(in crate::state) use database::Meta;

/// Doubtful stores kept aside, the newest ones.
pub const DOUBTFUL_KEPT_MAX: usize = 3;

/// A rebuild needs that much room on the disk; with less, a store that could not be opened is
/// blamed on the disk and left in peace.
const ROOM_MIN: usize = 2 << 20;
/// How a store was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// There was none; this one is new.
    Fresh,
    /// As the last commit left it.
    Loaded(Contents),
    /// There was one that can't be believed; this one is new and empty. Said again at the next
    /// opening if nothing is committed until then.
    Rebuilt {
        /// What was wrong.
        why: String,
        /// Where the doubtful one is now; none if it was gone.
        moved_to: Option<PathBuf>,
    },
}

/// Opens the store in the directory `path`, or makes a new one if there is none or the one that
/// is there can't be believed.
///
/// # Errors
/// [`StoreError::InUse`], [`StoreError::Newer`], and [`StoreError::Io`] for what is the fault of
/// the disk or of permissions. The store is as it was then.
pub fn open_or_rebuild(path: &Path) -> Result<(SledStore, Opening), StoreError> {
    let files = Files::beside(path);
    create_dir_durable(&files.parent).map_err(|e| io_error("make", &files.parent, e))?;
    let lock = Lock::take(&files)?;
    match open_checked(&files, None) {
        Ok((database, side, contents)) => {
            let sequence = contents.sequence;
            let opening = if sequence == 0 { Opening::Fresh } else { Opening::Loaded(contents) };
            let database = Some(database);
            let store =
                SledStore { files, database, side, acked: sequence, rebuilt_at: None, _lock: lock };
            Ok((store, opening))
        }
        Err(StoreError::Doubtful { path: _, why }) => {
            let (database, side, moved_to) = rebuild(&files)?;
            let acked = database.sequence();
            let store = SledStore {
                files,
                database: Some(database),
                side,
                acked,
                rebuilt_at: Some(acked),
                _lock: lock,
            };
            Ok((store, Opening::Rebuilt { why, moved_to }))
        }
        Err(other) => Err(other),
    }
}

/// The agent's store on disk.
pub struct SledStore {
    files: Files,
    /// None after a failure: what sled has in memory then is not believed any more.
    database: Option<Database>,
    side: SideFile,
    /// The last commit that was acknowledged.
    acked: u64,
    /// Where the numbers of a rebuilt store begin, until its first commit: it may be empty.
    rebuilt_at: Option<u64>,
    // The last field, so that it goes last.
    _lock: Lock,
}

impl fmt::Debug for SledStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledStore").field("path", &self.files.store).finish_non_exhaustive()
    }
}

impl SledStore {
    /// Takes the database out, or opens it anew after a failure. Whoever took it puts it back if
    /// nothing went wrong.
    fn take_database(&mut self) -> Result<Database, StoreError> {
        if let Some(database) = self.database.take() {
            return Ok(database);
        }
        let (database, side, contents) = open_checked(&self.files, self.rebuilt_at)?;
        if contents.sequence < self.acked {
            return Err(self.files.doubtful(format!("commit {} is gone from it", self.acked)));
        }
        self.side = side;
        Ok(database)
    }
}

impl Store for SledStore {
    fn load(&mut self) -> Result<Contents, StoreError> {
        let database = self.take_database()?;
        let contents = database.read(&self.files)?;
        self.database = Some(database);
        Ok(contents)
    }

    fn commit(&mut self, batch: &[Change]) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        check(batch)?;
        let mut database = self.take_database()?;
        database.commit(&self.files, batch)?;
        self.acked = database.sequence();
        self.rebuilt_at = None;
        self.database = Some(database);
        Ok(())
    }

    fn settle(&mut self) -> Result<(), StoreError> {
        if self.acked > self.side.noted() {
            self.side.note(self.acked).map_err(|e| io_error("write", &self.files.side, e))?;
        }
        Ok(())
    }
}

/// Opens a store and checks it against its side file; makes one if there has been none. With
/// `rebuilt_at`, an empty store is right.
fn open_checked(
    files: &Files,
    rebuilt_at: Option<u64>,
) -> Result<(Database, SideFile, Contents), StoreError> {
    let reached = match side::read(&files.side).map_err(|e| io_error("read", &files.side, e))? {
        Side::Missing => None,
        Side::Reached(sequence) => Some(sequence),
        Side::Damaged => return Err(files.doubtful("its side file can't be read".into())),
        Side::Newer { found, known } => return Err(files.newer(found, known)),
    };
    let there = fs::symlink_metadata(&files.store).is_ok();
    if let (false, Some(sequence @ 1..)) = (there, reached) {
        return Err(files.doubtful(format!("it is gone, though it has reached commit {sequence}")));
    }
    // The side file comes first: a store with commits must have one.
    let created = match (there, reached) {
        (false, None) => Some(files.create_side(0)?),
        (true, None) | (_, Some(_)) => None,
    };
    let (mut database, mut contents) = Database::open(files)?;
    if contents.sequence == 0
        && let Some(base) = rebuilt_at
    {
        database.begin_at(base);
        contents.sequence = base;
    }
    let side = match (created, reached) {
        (Some(side), _) => side,
        (None, None) if contents.sequence == 0 => files.create_side(0)?,
        (None, None) => {
            return Err(files.doubtful("its side file is gone".into()));
        }
        (None, Some(reached)) if contents.sequence < reached => {
            return Err(files.doubtful(format!(
                "it is at commit {}, and commit {reached} had been made",
                contents.sequence
            )));
        }
        (None, Some(_)) => {
            SideFile::open(&files.side).map_err(|e| io_error("open", &files.side, e))?
        }
    };
    Ok((database, side, contents))
}

/// Moves a doubtful store aside and makes a new one, whose numbers go on where the old one's
/// ended: until its first commit it is behind the side file, and so an agent that is killed before
/// that hears of the rebuild again.
fn rebuild(files: &Files) -> Result<(Database, SideFile, Option<PathBuf>), StoreError> {
    files.check_room()?;
    let moved_to = files.move_aside()?;
    let base = match side::read(&files.side).map_err(|e| io_error("read", &files.side, e))? {
        Side::Reached(sequence) => sequence.max(1),
        Side::Missing | Side::Damaged => 1,
        Side::Newer { found, known } => return Err(files.newer(found, known)),
    };
    let side = files.create_side(base)?;
    let (mut database, _empty) = Database::open(files)?;
    database.begin_at(base);
    Ok((database, side, moved_to))
}

/// The store's directory and what lies beside it.
#[derive(Debug, Clone)]
struct Files {
    parent: PathBuf,
    store: PathBuf,
    side: PathBuf,
    lock: PathBuf,
}

impl Files {
    fn beside(store: &Path) -> Self {
        let named = |suffix: &str| {
            let mut name = store.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        let parent = store.parent().filter(|p| !p.as_os_str().is_empty());
        Self {
            parent: parent.unwrap_or(Path::new(".")).to_owned(),
            store: store.to_owned(),
            side: named(".seq"),
            lock: named(".lock"),
        }
    }

    fn doubtful(&self, why: String) -> StoreError {
        StoreError::Doubtful { path: self.store.clone(), why }
    }

    fn newer(&self, found: u8, known: u8) -> StoreError {
        StoreError::Newer { path: self.store.clone(), found, known }
    }

    fn create_side(&self, sequence: u64) -> Result<SideFile, StoreError> {
        SideFile::create(&self.side, sequence)
            .and_then(|side| sync_dir(&self.parent).map(|()| side))
            .map_err(|e| io_error("make", &self.side, e))
    }

    /// The prefix of the names of doubtful stores.
    fn doubtful_prefix(&self) -> String {
        let name = self.store.file_name().unwrap_or_default();
        format!("{}.doubtful-", name.to_string_lossy())
    }

    /// The doubtful stores that are there, by number.
    fn doubtful_stores(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let prefix = self.doubtful_prefix();
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.parent)? {
            let entry = entry?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|n| n.strip_prefix(&prefix)?.parse().ok());
            found.extend(number.map(|number| (number, entry.path())));
        }
        found.sort();
        Ok(found)
    }

    /// Moves the store aside, durably, and removes the oldest of those that were moved before.
    fn move_aside(&self) -> Result<Option<PathBuf>, StoreError> {
        let listed = self.doubtful_stores().map_err(|e| io_error("list", &self.parent, e))?;
        let number = listed.last().map_or(1, |(number, _)| number.saturating_add(1));
        let target = self.parent.join(format!("{}{number}", self.doubtful_prefix()));
        match fs::rename(&self.store, &target) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("move aside", &self.store, error)),
        }
        sync_dir(&self.parent).map_err(|e| io_error("sync", &self.parent, e))?;
        let excess = (listed.len() + 1).saturating_sub(DOUBTFUL_KEPT_MAX);
        for (_, old) in listed.iter().take(excess) {
            // They are kept for curiosity only; one that stays does no harm.
            if let Err(error) = fs::remove_dir_all(old) {
                tracing::warn!(path = %old.display(), %error, "can't remove an old doubtful store");
            }
        }
        Ok(Some(target))
    }

    /// Fails if the disk is too full for a new store.
    fn check_room(&self) -> Result<(), StoreError> {
        let path = self.store.with_extension("room");
        let tried = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(&vec![0; ROOM_MIN]).and_then(|()| file.sync_all()));
        let removed = match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        };
        tried.and(removed).map_err(|e| io_error("make room for a new store beside", &self.store, e))
    }
}

/// The lock of the store. sled has one too, inside the store; this one is taken before anything of
/// the store is touched.
struct Lock(File);

impl Lock {
    fn take(files: &Files) -> Result<Self, StoreError> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&files.lock)
            .map_err(|e| io_error("open", &files.lock, e))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(StoreError::InUse { path: files.store.clone() })
            }
            Err(error) => Err(io_error("lock", &files.lock, error.into())),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough while a child that was just cloned has a copy of the descriptor.
        if let Err(error) = flock(&self.0, FlockOperation::Unlock) {
            tracing::warn!(%error, "the store stays locked until this process ends");
        }
    }
}

/// Makes the directory of a new store: nobody but the agent has any business in it.
fn create_private_dir(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn io_error(attempted: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::Io { attempted, path: path.to_owned(), source: Arc::new(source) }
}

#[cfg(test)]
mod tests;
