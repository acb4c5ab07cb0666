//! [`SledStore`]: the agent's store on disk.
//!
//! ```text
//! <data>/state/            sled 0.34
//!        │  default tree   "meta" → sequence │ number and digest of all other values
//!        │  pods           instance id, 16 bytes → record
//!        │  directories    name as configured → handle
//!        │  revisions      pod, 0, number, 8 bytes, big-endian → an earlier specification
//!        └  events         number, 8 bytes, big-endian → event
//! <data>/state.seq         the side file: a commit that the store has reached (`side`)
//! <data>/state.lock        locked as long as an agent uses the store
//! <data>/state.reserve     room on the disk, given up when it is full: sled can't even be opened
//!                          then, and the agent must be able to start, and to remove pods
//! <data>/state.doubtful-1  a store that could not be believed
//!
//! commit:  one transaction over all trees ─► flush ─► fsync of new blobs ─► fdatasync of
//!          state/db ─► acknowledged ─► side file
//! ```
//!
//! sled's own `flush` ends in sync_file_range(2), which is no promise that anything is on the disk
//! (sled 0.34.7, `src/pagecache/iobuf.rs`), and its blobs are never synced; so `Database::commit`
//! does both, and nobody else flushes.
//!
//! sled does not reliably notice damage to its files either: it may come back older, empty,
//! different from tree to tree, or panic. So every value has a checksum; "meta" has a digest over
//! all values, which tells a state that never was; the side file tells an older state; and every
//! call into sled catches panics. Any doubt makes the store doubtful as a whole: it is moved
//! aside, and the agent rebuilds what it must know from manifests, pod directories and what runs.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use rustix::io::Errno;

use super::side::{self, Side, SideFile};
use super::{Change, Contents, Store, StoreError, check};
use crate::ids::PodName;
use crate::state::checkpoint::{create_dir_durable, sync_dir};
use crate::state::record::KeptRevision;

mod database;

use database::Database;
pub(in crate::state) use database::Meta;

/// Doubtful stores kept aside, the newest ones.
pub const DOUBTFUL_KEPT_MAX: usize = 3;

/// A rebuild needs that much room on the disk; with less, a store that could not be opened is
/// blamed on the disk and left in peace. sled takes a segment of 512 KiB at once.
const ROOM_MIN: u64 = 2 << 20;
/// Room on the disk that is kept for bad times.
const RESERVE_LEN: u64 = 4 << 20;
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
    let opened = match open_or_rebuild_files(&files) {
        Err(error) if is_disk_full(&error) && files.give_up_reserve() => {
            open_or_rebuild_files(&files)
        }
        other => other,
    };
    let (database, side, opening) = opened?;
    files.restore_reserve();
    let acked = database.sequence();
    let rebuilt_at = matches!(opening, Opening::Rebuilt { .. }).then_some(acked);
    let database = Some(database);
    Ok((SledStore { files, database, side, acked, rebuilt_at, _lock: lock }, opening))
}

fn open_or_rebuild_files(files: &Files) -> Result<(Database, SideFile, Opening), StoreError> {
    match open_checked(files, None) {
        Ok((database, side, contents)) if contents.sequence == 0 => {
            Ok((database, side, Opening::Fresh))
        }
        Ok((database, side, contents)) => Ok((database, side, Opening::Loaded(contents))),
        Err(StoreError::Doubtful { path: _, why }) => {
            let (database, side, moved_to) = rebuild(files)?;
            Ok((database, side, Opening::Rebuilt { why, moved_to }))
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

    fn try_commit(&mut self, batch: &[Change]) -> Result<(), StoreError> {
        let mut database = self.take_database()?;
        database.commit(&self.files, batch)?;
        self.acked = database.sequence();
        self.rebuilt_at = None;
        self.database = Some(database);
        Ok(())
    }
}

impl Store for SledStore {
    fn load(&mut self) -> Result<Contents, StoreError> {
        let database = self.take_database()?;
        let contents = database.read(&self.files)?;
        self.database = Some(database);
        Ok(contents)
    }

    fn revisions(&mut self, name: &PodName) -> Result<Vec<KeptRevision>, StoreError> {
        let database = self.take_database()?;
        let revisions = database.revisions(&self.files, name)?;
        self.database = Some(database);
        Ok(revisions)
    }

    fn commit(&mut self, batch: &[Change]) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        check(batch)?;
        match self.try_commit(batch) {
            Err(error) if is_disk_full(&error) && self.files.give_up_reserve() => {
                self.try_commit(batch)
            }
            other => other,
        }
    }

    fn settle(&mut self) -> Result<(), StoreError> {
        self.files.restore_reserve();
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
    let there = is_something(&files.store).map_err(|e| io_error("read", &files.store, e))?;
    let side = match (there, reached) {
        // The side file is made first and never removed.
        (true, None) => return Err(files.doubtful("its side file is gone".into())),
        (false, Some(sequence @ 1..)) => {
            let why = format!("it is gone, though it has reached commit {sequence}");
            return Err(files.doubtful(why));
        }
        (false, None) => files.create_side(0)?,
        (_, Some(_)) => {
            // Before the trees that only this version knows are made: to an older one they would
            // look like damage, and it would move the store aside.
            let opened = SideFile::open(&files.side).and_then(|mut side| {
                side.claim()?;
                Ok(side)
            });
            opened.map_err(|e| io_error("open", &files.side, e))?
        }
    };
    let (mut database, mut contents) = Database::open(files)?;
    if contents.sequence == 0
        && let Some(base) = rebuilt_at
    {
        database.begin_at(base);
        contents.sequence = base;
    }
    if let Some(reached) = reached
        && contents.sequence < reached
    {
        return Err(files.doubtful(format!(
            "it is at commit {}, and commit {reached} had been made",
            contents.sequence
        )));
    }
    Ok((database, side, contents))
}

/// Whether anything but an empty directory is there.
fn is_something(path: &Path) -> io::Result<bool> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) if error.kind() == ErrorKind::NotADirectory => Ok(true),
        Err(error) => Err(error),
    }
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
    reserve: PathBuf,
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
            reserve: named(".reserve"),
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
        let tried = allocate(&path, ROOM_MIN);
        tried
            .and_then(|()| fs::remove_file(&path))
            .map_err(|e| io_error("make room for a new store beside", &self.store, e))
    }

    /// Gives up the room that was kept for bad times; false if there is none any more.
    fn give_up_reserve(&self) -> bool {
        fs::remove_file(&self.reserve).is_ok()
    }

    /// Keeps room for bad times, if there is some and none is kept.
    fn restore_reserve(&self) {
        if !self.reserve.exists()
            && let Err(error) = allocate(&self.reserve, RESERVE_LEN)
        {
            // The disk is full, or its file system can't: it goes without, and is tried again.
            tracing::debug!(%error, "no room can be kept in reserve");
        }
    }
}

/// Makes a file that takes room on the disk; none is left if it can't.
fn allocate(path: &Path, len: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let allocated = fallocate(&file, FallocateFlags::empty(), 0, len);
    if allocated.is_err() {
        fs::remove_file(path)?;
    }
    match allocated {
        // Not every file system can; then nothing is known of its room.
        Err(Errno::OPNOTSUPP) => fs::write(path, ""),
        other => Ok(other?),
    }
}

fn is_disk_full(error: &StoreError) -> bool {
    match error {
        StoreError::Io { attempted: _, path: _, source } => {
            matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
        }
        StoreError::InUse { .. }
        | StoreError::Newer { .. }
        | StoreError::Doubtful { .. }
        | StoreError::Failed { .. }
        | StoreError::Refused { .. }
        | StoreError::Closed => false,
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
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self(file)),
                Err(Errno::WOULDBLOCK) => wait_for_lock(&files.lock, files)?,
                Err(error) => return Err(io_error("lock", &files.lock, error.into())),
            }
        }
    }
}

/// How long a lock may outlive its owner: a child that was just cloned has a copy of the
/// descriptor until it executes its program, also if the agent is killed right then.
const LOCK_LINGER: Duration = Duration::from_secs(2);

/// Waits until nobody holds the lock of a file, for [`LOCK_LINGER`] at most.
fn wait_for_lock(path: &Path, files: &Files) -> Result<(), StoreError> {
    let file = File::open(path).map_err(|e| io_error("open", path, e))?;
    let (free, is_free) = mpsc::channel();
    // flock(2) knows no time limit. A thread that waits for ever costs little and is the last.
    std::thread::spawn(move || {
        let locked = flock(&file, FlockOperation::LockExclusive);
        let unlocked = locked.and_then(|()| flock(&file, FlockOperation::Unlock));
        free.send(unlocked)
    });
    match is_free.recv_timeout(LOCK_LINGER) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(io_error("lock", path, error.into())),
        Err(_timeout) => Err(StoreError::InUse { path: files.store.clone() }),
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
