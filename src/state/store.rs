//! [`Store`]: what the agent keeps across reboots, and forms of it for tests.
//!
//! A commit is a batch of [`Change`]s that happens as a whole or not at all, and is durable when
//! it has returned. There is one store and one writer of it: the agent, through `writer`.
//!
//! Not here: how values become bytes (`codec`), and what is decided on them (`reconciler`).

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::codec::{self, CodecError, Place};
use super::record::{KeptRevision, PodRecord, REVISIONS_MAX};
use crate::ids::{PodId, PodName};

mod events;
mod side;
mod sled;

pub use events::{EVENT_MESSAGE_LEN_MAX, EVENT_REASON_LEN_MAX, EVENTS_MAX, EventKind, EventRecord};
pub use sled::{DOUBTFUL_KEPT_MAX, Opening, SledStore, open_or_rebuild};

use events::EventRing;
pub(super) use side::SideNote;
pub(super) use sled::Meta;

/// Longest handle of a manifest directory. The kernel's own limit is 128 bytes (`MAX_HANDLE_SZ`,
/// open_by_handle_at(2)); what the agent puts around it has room too.
pub const HANDLE_LEN_MAX: usize = 512;
/// Longest value of an earlier revision. Blobs of that size are synced as everything else is.
pub const REVISION_LEN_MAX: usize = 1 << 20;
/// Most changes in one batch.
pub const BATCH_LEN_MAX: usize = 4096;

/// Everything in a store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contents {
    /// The number of the last commit; 0 before the first.
    pub sequence: u64,
    /// Pod instances.
    pub pods: BTreeMap<PodId, PodRecord>,
    /// Manifest directories, as configured, and the handle each had when it was last trusted.
    pub directories: BTreeMap<String, Vec<u8>>,
    /// The newest [`EVENTS_MAX`] events, by when they last happened, oldest first.
    pub events: Vec<EventRecord>,
}

/// One change of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "most are of the largest kind, and none lives long")]
pub enum Change {
    /// The record of its instance is this, from now on.
    PutPod(PodRecord),
    /// The instance has no record any more. It need not have had one.
    ForgetPod(PodId),
    /// The manifest directory has this handle.
    PutDirectory {
        /// As configured.
        directory: String,
        /// Opaque; at most [`HANDLE_LEN_MAX`] bytes.
        handle: Vec<u8>,
    },
    /// Something happened. The oldest event makes room for it.
    PutEvent(EventRecord),
    /// An earlier revision of a pod is kept; the pod's oldest makes room for it. One that is
    /// longer than [`REVISION_LEN_MAX`] is not kept: a pod must not stay as it is for that.
    PutRevision(Box<KeptRevision>),
    /// The earlier revisions of a pod are not kept any more.
    ForgetRevisions(PodName),
}

/// What the agent keeps across reboots.
pub trait Store: Send {
    /// Everything in it.
    ///
    /// # Errors
    /// When it can't be read or its content is doubtful.
    fn load(&mut self) -> Result<Contents, StoreError>;

    /// The earlier revisions of a pod, oldest first; at most [`REVISIONS_MAX`].
    ///
    /// # Errors
    /// When they can't be read.
    fn revisions(&mut self, name: &PodName) -> Result<Vec<KeptRevision>, StoreError>;

    /// Makes all changes of a batch, in order, in one durable step. An empty batch writes nothing.
    ///
    /// # Errors
    /// After [`StoreError::Refused`] nothing has changed. After any other error it is unknown
    /// whether the batch was made (as a whole) or not; the next commit may be tried at once.
    fn commit(&mut self, batch: &[Change]) -> Result<(), StoreError>;

    /// Called when nobody waits for a commit: does what must follow commits but needs not be
    /// waited for. Not needed for durability.
    ///
    /// # Errors
    /// When that fails; nothing committed is lost by it.
    fn settle(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// What went wrong with a store.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store is locked.
    #[error("another agent uses {}", path.display())]
    InUse {
        /// The store.
        path: PathBuf,
    },
    /// The store is of a format that this program does not know. It has not been changed.
    #[error(
        "the store in {} was written by a newer Roost (format {found}; the newest known here is \
         {known}); this one refuses it and touches nothing",
        path.display()
    )]
    Newer {
        /// The store.
        path: PathBuf,
        /// The format met.
        found: u8,
        /// The newest one known.
        known: u8,
    },
    /// What is in the store can't be believed.
    #[error("the store in {} is doubtful: {why}", path.display())]
    Doubtful {
        /// The store.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A system call failed.
    #[error("can't {attempted} {}", path.display())]
    Io {
        /// What was attempted, as a verb.
        attempted: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: Arc<io::Error>,
    },
    /// The store's library failed, or panicked.
    #[error("can't {attempted} {}: {why}", path.display())]
    Failed {
        /// What was attempted, as a verb.
        attempted: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        why: String,
    },
    /// A batch breaks a limit; it would never be taken.
    #[error("refused to store {what}: {why}")]
    Refused {
        /// What part of the batch.
        what: String,
        /// Which limit.
        why: String,
    },
    /// The thread that writes has ended.
    #[error("the writer of the store has ended")]
    Closed,
}

/// Checks a batch against the limits, without a store.
///
/// # Errors
/// [`StoreError::Refused`], naming the first offender.
pub fn check(batch: &[Change]) -> Result<(), StoreError> {
    if batch.len() > BATCH_LEN_MAX {
        return Err(StoreError::Refused {
            what: "a batch".into(),
            why: format!("it has {} changes; {BATCH_LEN_MAX} are the most", batch.len()),
        });
    }
    for change in batch {
        match change {
            Change::PutPod(record) => {
                let key = pod_key(record.id);
                codec::encode(Place { tree: PODS, key: &key }, 0, record).map_err(|why| {
                    refused(format!("the record of pod {} ({})", record.name, record.id), &why)
                })?;
            }
            Change::PutDirectory { directory, handle } => {
                let limit = |why: &str| StoreError::Refused {
                    what: format!("the handle of directory {directory:?}"),
                    why: why.to_owned(),
                };
                if directory.len() > DIRECTORY_LEN_MAX {
                    return Err(limit("the name is longer than any path"));
                }
                if handle.len() > HANDLE_LEN_MAX {
                    return Err(limit("it is longer than any handle"));
                }
            }
            // An event is cut to its limits instead, and a revision left out.
            Change::ForgetPod(_)
            | Change::PutEvent(_)
            | Change::PutRevision(_)
            | Change::ForgetRevisions(_) => {}
        }
    }
    Ok(())
}

/// Longest name of a manifest directory: `PATH_MAX` (limits.h).
const DIRECTORY_LEN_MAX: usize = 4096;

const PODS: &str = "pods";
const DIRECTORIES: &str = "directories";
const EVENTS: &str = "events";
const REVISIONS: &str = "revisions";

/// The value in [`DIRECTORIES`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DirectoryHandle(pub(super) Vec<u8>);

fn pod_key(id: PodId) -> [u8; 16] {
    id.as_u128().to_be_bytes()
}

/// Pod and number; those of a pod are together, oldest first.
fn revision_key(name: &PodName, number: u64) -> Vec<u8> {
    let mut key = revision_prefix(name);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// What the keys of all revisions of a pod begin with, and no other key does.
fn revision_prefix(name: &PodName) -> Vec<u8> {
    let mut prefix = name.to_string().into_bytes();
    prefix.push(0);
    prefix
}

/// Whether a revision is short enough to be kept.
fn is_keepable(revision: &KeptRevision) -> bool {
    let key = revision_key(&revision.name, revision.accepted.number);
    codec::encode(Place { tree: REVISIONS, key: &key }, 0, revision).is_ok()
}

fn refused(what: String, why: &CodecError) -> StoreError {
    StoreError::Refused { what, why: why.to_string() }
}

/// A store in memory: for tests and simulation.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    sequence: u64,
    pods: BTreeMap<PodId, PodRecord>,
    directories: BTreeMap<String, Vec<u8>>,
    events: EventRing,
    revisions: BTreeMap<PodName, BTreeMap<u64, KeptRevision>>,
}

impl Store for MemoryStore {
    fn load(&mut self) -> Result<Contents, StoreError> {
        Ok(Contents {
            sequence: self.sequence,
            pods: self.pods.clone(),
            directories: self.directories.clone(),
            events: self.events.to_vec(),
        })
    }

    fn revisions(&mut self, name: &PodName) -> Result<Vec<KeptRevision>, StoreError> {
        Ok(self.revisions.get(name).into_iter().flat_map(|all| all.values().cloned()).collect())
    }

    fn commit(&mut self, batch: &[Change]) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        check(batch)?;
        self.sequence += 1;
        for change in batch {
            match change {
                Change::PutPod(record) => {
                    self.pods.insert(record.id, record.clone());
                }
                Change::ForgetPod(id) => {
                    self.pods.remove(id);
                }
                Change::PutDirectory { directory, handle } => {
                    self.directories.insert(directory.clone(), handle.clone());
                }
                Change::PutEvent(event) => {
                    self.events.put(event);
                }
                Change::PutRevision(revision) if is_keepable(revision) => {
                    let all = self.revisions.entry(revision.name.clone()).or_default();
                    all.insert(revision.accepted.number, KeptRevision::clone(revision));
                    if all.len() > REVISIONS_MAX {
                        all.pop_first();
                    }
                }
                Change::PutRevision(_) => {}
                Change::ForgetRevisions(name) => {
                    self.revisions.remove(name);
                }
            }
        }
        Ok(())
    }
}

/// A store that fails while its switch is on: for tests and simulation. Nothing of a failing
/// commit is made.
#[derive(Debug)]
pub struct FailingStore<S> {
    inner: S,
    switch: Arc<AtomicBool>,
}

impl FailingStore<MemoryStore> {
    /// One that always fails.
    #[must_use]
    pub fn always() -> Self {
        Self { inner: MemoryStore::default(), switch: Arc::new(AtomicBool::new(true)) }
    }
}

impl<S: Store> FailingStore<S> {
    /// One that fails while the switch it comes with is on; it is off at first.
    pub fn on_demand(inner: S) -> (Self, Arc<AtomicBool>) {
        let switch = Arc::new(AtomicBool::new(false));
        (Self { inner, switch: Arc::clone(&switch) }, switch)
    }

    fn working(&mut self, attempted: &'static str) -> Result<&mut S, StoreError> {
        if self.switch.load(Ordering::SeqCst) {
            // What a full disk gives.
            let source = Arc::new(io::Error::from(io::ErrorKind::StorageFull));
            return Err(StoreError::Io { attempted, path: "failing store".into(), source });
        }
        Ok(&mut self.inner)
    }
}

impl<S: Store> Store for FailingStore<S> {
    fn load(&mut self) -> Result<Contents, StoreError> {
        self.working("load")?.load()
    }

    fn revisions(&mut self, name: &PodName) -> Result<Vec<KeptRevision>, StoreError> {
        self.working("read")?.revisions(name)
    }

    fn commit(&mut self, batch: &[Change]) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        check(batch)?;
        self.working("commit to")?.commit(batch)
    }

    fn settle(&mut self) -> Result<(), StoreError> {
        self.working("settle")?.settle()
    }
}

#[cfg(test)]
pub(super) mod contract;
