//! [`Plan`]: a decision as data. PURE.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::Alarm;
use crate::clock::{BootTime, Millis};
use crate::executor::protocol::Goal;
use crate::ids::{PodId, PodName};
use crate::manifest::pod::PodSpec;
use crate::state::record::{ManifestFile, Outcome, PodRecord, TerminationCause};

/// What to do now, for every pod that needs something.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Steps, in order, by what they belong to. At most one worker acts for a key.
    pub work: BTreeMap<Key, Vec<Step>>,
    /// Handles of directories to be remembered.
    pub remember: BTreeMap<String, Vec<u8>>,
    /// What is wrong with the manifest directories.
    pub alarms: Vec<Alarm>,
    /// When to decide again even if nothing happens.
    pub wake_at: Option<BootTime>,
}

impl Plan {
    pub(super) fn add(&mut self, key: Key, steps: Vec<Step>) {
        if !steps.is_empty() {
            self.work.insert(key, steps);
        }
    }
}

/// What a worker is responsible for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// All instances of a pod.
    Pod(PodName),
    /// The remains of an instance of which not even the pod is known.
    Instance(PodId),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(name) => fmt::Display::fmt(name, f),
            Self::Instance(id) => fmt::Display::fmt(id, f),
        }
    }
}

/// An action and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What to do.
    pub action: Action,
    /// Why.
    pub reason: Reason,
}

/// What the agent can do. Each is idempotent: it may be done again after a crash at any point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make a new instance: a fresh id, its directory with the specification, its record; all
    /// durable when it is done.
    Create {
        /// The manifest.
        source: ManifestFile,
        /// What it asks for.
        spec: Arc<PodSpec>,
    },
    /// Make another revision of an instance durable: the specification, then the record.
    Accept {
        /// The record as it shall be.
        record: Box<PodRecord>,
        /// The specification.
        spec: Arc<PodSpec>,
    },
    /// Make a record durable.
    Record(Box<PodRecord>),
    /// Make the record of a lost executor durable; the loss is dealt with when it is.
    NoteLoss(Box<PodRecord>),
    /// Make sure that nothing of the instance runs, then start its executor and connect.
    Start(PodId),
    /// Tell the executor what is wanted, and wait until it reports that it knows.
    SetSpec {
        /// Which instance.
        id: PodId,
        /// What is wanted of it.
        goal: Goal,
    },
    /// Let the executor go on as the build that belongs to this agent.
    Upgrade(PodId),
    /// Kill every process of the instance, its executor included.
    Kill(PodId),
    /// Remove what an instance without processes has in the kernel and the runtime directory.
    Release(PodId),
    /// Kill whatever is left of the instance and remove everything but its record.
    Destroy(PodId),
    /// Remove its record.
    Forget(PodId),
}

/// Why an action is taken; shown to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// A manifest asks for a pod that is not there.
    NewManifest(ManifestFile),
    /// A manifest asks for something else than before.
    ChangedManifest(ManifestFile),
    /// The same pod is now asked for by another file.
    MovedManifest(ManifestFile),
    /// The store had no record of it.
    FoundWithoutRecord,
    /// Its specification was found missing and is written again.
    SpecificationMissing,
    /// Another specification was accepted, but its record was not made durable any more.
    AcceptanceInterrupted,
    /// It shall run and has no executor.
    NoExecutor,
    /// Its executor ended.
    ExecutorLost {
        /// Which time in a row.
        count: u32,
        /// How long to wait before the next start.
        delay: Millis,
    },
    /// Its executor does not know yet what is wanted.
    NotTold,
    /// Its executor is another build than the agent's.
    OtherBuild,
    /// All its containers are through.
    Finished(Outcome),
    /// It is to go.
    Terminated(TerminationCause),
    /// It did not stop in time.
    Overdue,
    /// Nothing of it can be known.
    Unidentifiable,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NewManifest(source) => write!(f, "{source} asks for it"),
            Self::ChangedManifest(source) => write!(f, "{source} changed"),
            Self::MovedManifest(source) => write!(f, "it is in {source} now"),
            Self::FoundWithoutRecord => f.write_str("it was found without a record"),
            Self::SpecificationMissing => f.write_str("its stored specification was missing"),
            Self::AcceptanceInterrupted => {
                f.write_str("its stored specification is newer than its record")
            }
            Self::NoExecutor => f.write_str("it shall run and has no executor"),
            Self::ExecutorLost { count, delay } => {
                write!(f, "its executor ended ({count} in a row); next start in {delay}")
            }
            Self::NotTold => f.write_str("its executor does not know yet what is wanted"),
            Self::OtherBuild => f.write_str("its executor is of another build"),
            Self::Finished(Outcome::Succeeded) => f.write_str("all its containers succeeded"),
            Self::Finished(Outcome::Failed) => {
                f.write_str("its containers are through, not all well")
            }
            Self::Terminated(TerminationCause::Removed) => f.write_str("its manifest is gone"),
            Self::Terminated(TerminationCause::Replaced) => {
                f.write_str("its manifest asks for something that needs a new instance")
            }
            Self::Terminated(TerminationCause::Orphaned) => {
                f.write_str("another instance of the pod is kept")
            }
            Self::Terminated(TerminationCause::Restarted) => {
                f.write_str("a new instance of it was asked for")
            }
            Self::Overdue => f.write_str("it did not stop in time"),
            Self::Unidentifiable => f.write_str("nothing tells which pod it belonged to"),
        }
    }
}
