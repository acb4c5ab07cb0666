//! The calls into sled, each of them behind [`guarded`]. What lies where is drawn in the parent
//! module.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use ::sled::transaction::{
    ConflictableTransactionError, TransactionError, Transactional, TransactionalTree,
};
use ::sled::{Db, Mode, Tree};
use sha2::{Digest, Sha256};

use super::super::events::EventRing;
use super::super::{
    DIRECTORIES, DirectoryHandle, EVENTS, PODS, REVISIONS, is_keepable, pod_key, revision_key,
    revision_prefix,
};
use super::{
    Change, Contents, Files, StoreError, create_private_dir, io_error, sync_dir, wait_for_lock,
};
use crate::ids::PodName;
use crate::state::codec::{self, CodecError, Place, Value};
use crate::state::record::{KeptRevision, PodRecord, REVISIONS_MAX};
use crate::state::store::EventRecord;

/// sled's default is 1 GiB.
const CACHE_BYTES: u64 = 8 << 20;
const META: &str = "meta";
const META_PLACE: Place<'static> = Place { tree: META, key: META.as_bytes() };
const DEFAULT_TREE: &str = "__sled__default";

/// What the store says about itself, in the envelope that has the number of the last commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::state) struct Meta {
    /// How many values there are, this one not counted.
    pub(in crate::state) values: u64,
    /// The sum of the hashes of all values with their places, this one not counted.
    pub(in crate::state) digest: u128,
}

impl Meta {
    fn add(&mut self, tree: &str, key: &[u8], value: &[u8]) {
        self.values = self.values.wrapping_add(1);
        self.digest = self.digest.wrapping_add(value_hash(tree, key, value));
    }

    fn subtract(&mut self, tree: &str, key: &[u8], value: &[u8]) {
        self.values = self.values.wrapping_sub(1);
        self.digest = self.digest.wrapping_sub(value_hash(tree, key, value));
    }
}

fn value_hash(tree: &str, key: &[u8], value: &[u8]) -> u128 {
    let mut hasher = Sha256::new();
    for part in [tree.as_bytes(), key, value] {
        // The length first, so that no two triples read the same.
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let hash: [u8; 32] = hasher.finalize().into();
    let (first, _) = hash.split_first_chunk::<16>().expect("32 bytes hold 16");
    u128::from_le_bytes(*first)
}

/// An open database, and what is known of it in memory.
pub(super) struct Database {
    /// Some until it is dropped.
    trees: Option<Trees>,
    /// A second descriptor of sled's data file, to sync it.
    data: File,
    /// The newest blob that is known to be on the disk.
    blob_synced: Option<i64>,
    sequence: u64,
    meta: Meta,
    ring: EventRing,
}

struct Trees {
    db: Db,
    pods: Tree,
    directories: Tree,
    events: Tree,
    revisions: Tree,
}

/// Writes of one commit, by tree and key, so that of two to one key the later wins; none removes.
type Writes = BTreeMap<(&'static str, Vec<u8>), Option<Vec<u8>>>;

impl Database {
    /// Opens or makes the database and reads all of it.
    pub(super) fn open(files: &Files) -> Result<(Self, Contents), StoreError> {
        let path = &files.store;
        create_private_dir(path).map_err(|e| io_error("make", path, e))?;
        let opened = match guarded(|| open_trees(path)) {
            Err(Trouble::Sled(::sled::Error::Io(error))) if is_lock_held(&error) => {
                // The store's own lock is ours, so this is a descriptor that lingers, or somebody
                // who is not Roost.
                wait_for_lock(&path.join("db"), files)?;
                guarded(|| open_trees(path))
            }
            other => other,
        };
        let trees = opened.map_err(|trouble| trouble.while_opening(files))?;
        let mut database = Self {
            trees: Some(trees),
            data: File::open(path.join("db")).map_err(|e| io_error("open", &path.join("db"), e))?,
            blob_synced: None,
            sequence: 0,
            meta: Meta::default(),
            ring: EventRing::default(),
        };
        let (contents, meta, ring) = database.read_all(files)?;
        database.sequence = contents.sequence;
        database.meta = meta;
        database.ring = ring;
        if contents.sequence == 0 {
            sync_creation(files).map_err(|e| io_error("sync", path, e))?;
        }
        Ok((database, contents))
    }

    /// The number of the last commit.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Lets the numbers of an empty database begin after `base`.
    pub(super) fn begin_at(&mut self, base: u64) {
        self.sequence = base;
    }

    /// Everything in it.
    pub(super) fn read(&self, files: &Files) -> Result<Contents, StoreError> {
        let (mut contents, _, _) = self.read_all(files)?;
        // An empty database does not know where its numbers begin.
        contents.sequence = self.sequence;
        Ok(contents)
    }

    /// Makes a batch durable. After an error the database must be opened anew: sled's memory may
    /// be ahead of the disk.
    pub(super) fn commit(&mut self, files: &Files, batch: &[Change]) -> Result<(), StoreError> {
        let sequence = self.sequence + 1;
        let meta = self
            .writes(sequence, batch)
            .and_then(|writes| guarded(|| transact(self.trees(), self.meta, sequence, &writes)))
            .map_err(|trouble| trouble.while_committing(files))?;
        self.sync_blobs(files).map_err(|e| io_error("sync the blobs of", &files.store, e))?;
        self.data.sync_data().map_err(|e| io_error("sync", &files.store, e))?;
        self.sequence = sequence;
        self.meta = meta;
        Ok(())
    }

    fn trees(&self) -> &Trees {
        self.trees.as_ref().expect("they are taken only when it is dropped")
    }

    /// The earlier revisions of a pod, oldest first.
    pub(super) fn revisions(
        &self,
        files: &Files,
        name: &PodName,
    ) -> Result<Vec<KeptRevision>, StoreError> {
        let read = || {
            self.trees()
                .revisions
                .scan_prefix(revision_prefix(name))
                .map(|entry| {
                    let (key, bytes) = entry?;
                    value(Place { tree: REVISIONS, key: &key }, &bytes).map(|(_, found)| found)
                })
                .collect()
        };
        guarded(read).map_err(|trouble| trouble.while_opening(files))
    }

    /// The keys of the earlier revisions of a pod when these writes are made, in order.
    fn revision_keys(&self, writes: &Writes, name: &PodName) -> Result<BTreeSet<Vec<u8>>, Trouble> {
        let prefix = revision_prefix(name);
        let stored = self.trees().revisions.scan_prefix(&prefix).keys();
        let mut keys =
            stored.map(|key| Ok(key?.to_vec())).collect::<Result<BTreeSet<_>, Trouble>>()?;
        for ((tree, key), value) in writes.range((REVISIONS, prefix.clone())..) {
            if *tree != REVISIONS || !key.starts_with(&prefix) {
                break;
            }
            match value {
                Some(_) => keys.insert(key.clone()),
                None => keys.remove(key),
            };
        }
        Ok(keys)
    }

    fn writes(&mut self, sequence: u64, batch: &[Change]) -> Result<Writes, Trouble> {
        let mut writes = Writes::new();
        for change in batch {
            match change {
                Change::PutPod(record) => {
                    put(&mut writes, PODS, &pod_key(record.id), sequence, record)?;
                }
                Change::ForgetPod(id) => {
                    writes.insert((PODS, pod_key(*id).to_vec()), None);
                }
                Change::PutDirectory { directory, handle } => {
                    let handle = DirectoryHandle(handle.clone());
                    put(&mut writes, DIRECTORIES, directory.as_bytes(), sequence, &handle)?;
                }
                Change::PutEvent(event) => {
                    let done = self.ring.put(event);
                    put(&mut writes, EVENTS, &done.number.to_be_bytes(), sequence, &done.event)?;
                    if let Some(number) = done.removed {
                        writes.insert((EVENTS, number.to_be_bytes().to_vec()), None);
                    }
                }
                Change::PutRevision(revision) if is_keepable(revision) => {
                    let KeptRevision { name, accepted, .. } = &**revision;
                    let key = revision_key(name, accepted.number);
                    put(&mut writes, REVISIONS, &key, sequence, &**revision)?;
                    let keys = guarded(|| self.revision_keys(&writes, name))?;
                    let excess = keys.len().saturating_sub(REVISIONS_MAX);
                    writes
                        .extend(keys.into_iter().take(excess).map(|old| ((REVISIONS, old), None)));
                }
                Change::PutRevision(_) => {}
                Change::ForgetRevisions(name) => {
                    let keys = guarded(|| self.revision_keys(&writes, name))?;
                    writes.extend(keys.into_iter().map(|key| ((REVISIONS, key), None)));
                }
            }
        }
        Ok(writes)
    }

    /// Syncs the blobs made since the last time; returns how many. sled puts a page of more than
    /// about 128 KiB (a quarter of its segment) into a file of its own, and never syncs that.
    fn sync_blobs(&mut self, files: &Files) -> io::Result<usize> {
        let directory = files.store.join("blobs");
        let mut synced = 0;
        let mut newest = self.blob_synced;
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            // Their names are log sequence numbers, which only grow.
            let number = entry.file_name().to_str().and_then(|name| name.parse::<i64>().ok());
            if number.is_none_or(|number| Some(number) <= self.blob_synced) {
                continue;
            }
            match File::open(entry.path()).and_then(|blob| blob.sync_data()) {
                Ok(()) => synced += 1,
                // sled itself has removed it meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            newest = newest.max(number);
        }
        if synced > 0 {
            sync_dir(&directory)?;
        }
        self.blob_synced = newest;
        Ok(synced)
    }

    fn read_all(&self, files: &Files) -> Result<(Contents, Meta, EventRing), StoreError> {
        guarded(|| read_trees(self.trees())).map_err(|trouble| trouble.while_opening(files))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let trees = self.trees.take();
        // sled syncs its file when it is dropped, and panics when that fails.
        let closed = guarded(|| {
            drop(trees);
            Ok(())
        });
        if let Err(trouble) = closed {
            tracing::warn!(?trouble, "the store was not closed cleanly");
        }
    }
}

fn put<V: Value>(
    writes: &mut Writes,
    tree: &'static str,
    key: &[u8],
    sequence: u64,
    value: &V,
) -> Result<(), Trouble> {
    let bytes = codec::encode(Place { tree, key }, sequence, value)
        .map_err(|error| Trouble::Doubt(error.to_string()))?;
    writes.insert((tree, key.to_vec()), Some(bytes));
    Ok(())
}

fn transact(trees: &Trees, before: Meta, sequence: u64, writes: &Writes) -> Result<Meta, Trouble> {
    let Trees { db, pods, directories, events, revisions } = trees;
    let meta = (&**db, pods, directories, events, revisions)
        .transaction(|(default, pods, directories, events, revisions)| {
            // From the start: a transaction may be tried more than once.
            let mut meta = before;
            for ((tree, key), value) in writes {
                let target: &TransactionalTree = match *tree {
                    PODS => pods,
                    DIRECTORIES => directories,
                    REVISIONS => revisions,
                    _ => events,
                };
                let old = match value {
                    Some(value) => {
                        meta.add(tree, key, value);
                        target.insert(key.as_slice(), value.as_slice())?
                    }
                    None => target.remove(key.as_slice())?,
                };
                if let Some(old) = old {
                    meta.subtract(tree, key, &old);
                }
            }
            let bytes = codec::encode(META_PLACE, sequence, &meta)
                .map_err(|e| ConflictableTransactionError::Abort(e.to_string()))?;
            default.insert(META.as_bytes(), bytes)?;
            Ok(meta)
        })
        .map_err(|error| match error {
            TransactionError::Abort(why) => Trouble::Doubt(why),
            TransactionError::Storage(error) => Trouble::Sled(error),
        })?;
    trees.db.flush()?;
    Ok(meta)
}

fn open_trees(path: &Path) -> Result<Trees, Trouble> {
    let db = ::sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        .mode(Mode::LowSpace)
        // No thread of its own that flushes: an idle agent writes nothing, and does not wake up.
        .flush_every_ms(None)
        .open()?;
    let [pods, directories, events, revisions] =
        [PODS, DIRECTORIES, EVENTS, REVISIONS].map(|name| db.open_tree(name));
    Ok(Trees { pods: pods?, directories: directories?, events: events?, revisions: revisions?, db })
}

/// Syncs what sled made, and the entries of all of it, once: later only its data file changes.
fn sync_creation(files: &Files) -> io::Result<()> {
    for entry in fs::read_dir(&files.store)? {
        // Directories can be opened and synced as files are.
        File::open(entry?.path())?.sync_all()?;
    }
    sync_dir(&files.store)?;
    sync_dir(&files.parent)
}

fn read_trees(trees: &Trees) -> Result<(Contents, Meta, EventRing), Trouble> {
    for name in trees.db.tree_names() {
        let known = [DEFAULT_TREE, PODS, DIRECTORIES, EVENTS, REVISIONS];
        if !known.iter().any(|known| known.as_bytes() == &*name) {
            let name = String::from_utf8_lossy(&name);
            return Err(Trouble::Doubt(format!("there is a tree {name:?} in it")));
        }
    }
    let (sequence, meta) = match trees.db.get(META)? {
        Some(bytes) => value::<Meta>(META_PLACE, &bytes)?,
        None => (0, Meta::default()),
    };
    let mut reader = Reader { sequence, announced: meta, found: Meta::default() };
    let mut contents = Contents { sequence, ..Contents::default() };
    reader.read(&trees.pods, PODS, |key, record: PodRecord| {
        if key != pod_key(record.id) {
            return Err("it is the record of another pod".into());
        }
        contents.pods.insert(record.id, record);
        Ok(())
    })?;
    reader.read(&trees.directories, DIRECTORIES, |key, DirectoryHandle(handle)| {
        let name = String::from_utf8(key.to_vec()).map_err(|e| e.to_string())?;
        contents.directories.insert(name, handle);
        Ok(())
    })?;
    let mut events = BTreeMap::new();
    reader.read(&trees.events, EVENTS, |key, event: EventRecord| {
        let number = key.try_into().map_err(|_| "its key is no number".to_owned())?;
        events.insert(u64::from_be_bytes(number), event);
        Ok(())
    })?;
    reader.read(&trees.revisions, REVISIONS, |key, revision: KeptRevision| {
        if key != revision_key(&revision.name, revision.accepted.number) {
            return Err("it is the revision of another pod".into());
        }
        Ok(())
    })?;
    if reader.found != meta {
        return Err(Trouble::Doubt(format!(
            "its values are not those of any one commit ({} found, {} announced)",
            reader.found.values, meta.values
        )));
    }
    let ring = EventRing::restored(events);
    contents.events = ring.to_vec();
    Ok((contents, meta, ring))
}

struct Reader {
    sequence: u64,
    announced: Meta,
    found: Meta,
}

impl Reader {
    fn read<V: Value>(
        &mut self,
        tree: &Tree,
        name: &'static str,
        mut take: impl FnMut(&[u8], V) -> Result<(), String>,
    ) -> Result<(), Trouble> {
        for entry in tree {
            let (key, bytes) = entry?;
            self.found.add(name, &key, &bytes);
            // A bound, should a damaged tree run in circles.
            if self.found.values > self.announced.values {
                return Err(Trouble::Doubt("it has more values than were stored".into()));
            }
            let (sequence, read) = value(Place { tree: name, key: &key }, &bytes)?;
            if sequence > self.sequence {
                return Err(Trouble::Doubt(format!(
                    "a value in {name} is of commit {sequence}, after the last, {}",
                    self.sequence
                )));
            }
            take(&key, read).map_err(|why| doubtful_value(name, &why))?;
        }
        Ok(())
    }
}

fn value<V: Value>(place: Place<'_>, bytes: &[u8]) -> Result<(u64, V), Trouble> {
    codec::decode(place, bytes).map_err(|error| match error {
        CodecError::Newer { found, known } => Trouble::Newer { found, known },
        CodecError::Size { .. } | CodecError::Checksum | CodecError::Meaningless { .. } => {
            doubtful_value(place.tree, &error.to_string())
        }
    })
}

fn doubtful_value(tree: &str, why: &str) -> Trouble {
    Trouble::Doubt(format!("a value in {tree} is not right: {why}"))
}

/// What can go wrong in sled, and with what it returns.
#[derive(Debug)]
enum Trouble {
    Sled(::sled::Error),
    Panic(String),
    Doubt(String),
    Newer { found: u8, known: u8 },
}

impl From<::sled::Error> for Trouble {
    fn from(error: ::sled::Error) -> Self {
        Self::Sled(error)
    }
}

impl Trouble {
    /// What it means while the store is opened and read: doubt, but for what is clearly the fault
    /// of the machine or its user.
    fn while_opening(self, files: &Files) -> StoreError {
        match self {
            Self::Sled(::sled::Error::Io(error)) if is_lock_held(&error) => {
                StoreError::InUse { path: files.store.clone() }
            }
            Self::Sled(::sled::Error::Io(error)) if is_environment(&error) => {
                io_error("open", &files.store, error)
            }
            Self::Sled(error) => files.doubtful(error.to_string()),
            Self::Panic(text) => files.doubtful(format!("sled panicked ({text})")),
            Self::Doubt(why) => files.doubtful(why),
            Self::Newer { found, known } => files.newer(found, known),
        }
    }

    /// What it means while a batch is committed.
    fn while_committing(self, files: &Files) -> StoreError {
        let why = match self {
            Self::Sled(::sled::Error::Io(error)) => {
                return io_error("commit to", &files.store, error);
            }
            Self::Newer { found, known } => return files.newer(found, known),
            Self::Sled(error) => error.to_string(),
            Self::Panic(text) => format!("sled panicked ({text})"),
            Self::Doubt(why) => why,
        };
        StoreError::Failed { attempted: "commit to", path: files.store.clone(), why }
    }
}

/// Runs a call into sled; a panic becomes its message.
fn guarded<T>(call: impl FnOnce() -> Result<T, Trouble>) -> Result<T, Trouble> {
    // Unwind safe: after a panic the database is dropped, and nothing of it is looked at.
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|payload| {
        let text = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied());
        Err(Trouble::Panic(text.unwrap_or("without a message").to_owned()))
    })
}

/// Whether sled could not lock its data file; it does not keep the error itself.
fn is_lock_held(error: &io::Error) -> bool {
    error.kind() == ErrorKind::Other && error.to_string().starts_with("could not acquire lock")
}

/// Whether an error speaks of the machine and not of the store: making a new one would not help.
fn is_environment(error: &io::Error) -> bool {
    const EMFILE: i32 = rustix::io::Errno::MFILE.raw_os_error();
    const ENFILE: i32 = rustix::io::Errno::NFILE.raw_os_error();
    matches!(
        error.kind(),
        ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded
            | ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::OutOfMemory
    ) || matches!(error.raw_os_error(), Some(EMFILE | ENFILE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::samples;

    #[test]
    fn large_pages_are_synced_too() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::beside(&dir.path().join("state"));
        let (mut database, _) = Database::open(&files).unwrap();
        let large = |n| {
            let mut record = samples::record(n);
            record.source.file = "x".repeat(60_000);
            Change::PutPod(record)
        };
        database.commit(&files, &(0..16).map(large).collect::<Vec<_>>()).unwrap();
        assert!(fs::read_dir(files.store.join("blobs")).unwrap().count() > 0);
        assert_eq!(database.sync_blobs(&files).unwrap(), 0, "the commit had done it");
        database.blob_synced = None;
        assert!(database.sync_blobs(&files).unwrap() > 0);
        let contents = database.read(&files).unwrap();
        drop(database);
        assert_eq!(Database::open(&files).unwrap().1, contents);
    }
}
