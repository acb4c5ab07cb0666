//! [`PodRecord`]: what the agent must not forget about a pod instance. PURE.
//!
//! A record is durable before the effect that it announces. It holds decisions only; whatever can
//! be observed (is the executor there, what does it run) is observed and never written here. The
//! accepted specification itself is a file in the pod's directory, so that losing the store loses
//! no last-good revision.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::{BootId, BootTime, Millis, WallTime};
use crate::ids::{Attempt, ContainerName, PodId, PodName};
use crate::manifest::pod::PodSpec;
use crate::manifest::revision::Hash;

/// Revisions kept in [`PodRecord::history`], the current one not counted.
pub const HISTORY_LEN_MAX: usize = 10;
/// Earlier revisions of a pod that are kept with their specifications.
pub const REVISIONS_MAX: usize = HISTORY_LEN_MAX;

/// One pod instance, from its acceptance until nothing of it is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRecord {
    /// The instance.
    pub id: PodId,
    /// The pod it is an instance of.
    pub name: PodName,
    /// The manifest that has the pod: it keeps it when another claims it too.
    pub source: ManifestFile,
    /// What was accepted last.
    pub accepted: Accepted,
    /// What was accepted before, oldest first; at most [`HISTORY_LEN_MAX`].
    pub history: Vec<Accepted>,
    /// Where the instance stands.
    pub phase: RecordPhase,
    /// When the instance was made.
    pub created_at: WallTime,
    /// How often its executor was lost since it last ran long enough.
    pub losses: Losses,
    /// Set while it runs an earlier revision than its manifest asks for, because it was rolled
    /// back.
    pub held: Option<Held>,
    /// Set from the acceptance of a revision that asks to be rolled back if it is not Ready in
    /// time, until that time is over.
    pub trial: Option<Trial>,
    /// While it goes for another instance: the revision that one gets unless a manifest asks for
    /// another. Its specification is a [`KeptRevision`].
    pub successor: Option<Accepted>,
    /// Set while it is evicted, and in the instance that comes back after that.
    pub eviction: Option<Eviction>,
}

/// What an instance knows of evictions of its pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Eviction {
    /// This instance goes, or is gone, and waits to come back as another one.
    Evicted(Evicted),
    /// It came back.
    Returned {
        /// How often the pod was evicted in a row.
        count: u32,
        /// When this instance was made.
        at: Moment,
    },
}

/// An instance was stopped although its manifest asks for it, because it, or all pods together,
/// use more than there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evicted {
    /// For want of what.
    pub cause: EvictionCause,
    /// The same for people, in the words of the kubelet; at most [`EVICTION_LEN_MAX`] bytes.
    pub message: String,
    /// When that was decided.
    pub at: WallTime,
    /// Which time in a row it is.
    pub count: u32,
    /// Not to come back before.
    pub retry_at: Moment,
}

/// What an instance was evicted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EvictionCause {
    /// The node ran out of memory.
    Memory,
    /// The node ran out of disk.
    Disk,
    /// It used more than its own limits of local storage allow.
    Limit,
}

/// Longest text of an eviction, in bytes.
pub const EVICTION_LEN_MAX: usize = 4096;

/// A pod was rolled back: what its manifest asks for is not wanted until that changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// `Revision::digest` of what the manifest asks for.
    pub refused: Hash,
    /// The revision that was rolled back to.
    pub to: u64,
}

/// A revision was accepted that has to get Ready in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// Until when.
    pub until: Moment,
    /// The revision that is gone back to if it does not.
    pub back_to: u64,
}

/// An earlier revision of a pod, with its specification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptRevision {
    /// The pod.
    pub name: PodName,
    /// Which revision.
    pub accepted: Accepted,
    /// The manifest that had asked for it.
    pub source: ManifestFile,
    /// What it is; none if another build wrote it in a way that this one does not understand.
    pub spec: Option<Arc<PodSpec>>,
}

/// A manifest file: the name of its directory as configured, and its own name in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ManifestFile {
    /// As configured (`--pods`).
    pub directory: String,
    /// Within the directory.
    pub file: String,
}

impl std::fmt::Display for ManifestFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.directory.trim_end_matches('/'), self.file)
    }
}

/// One accepted revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Counts the revisions of a pod, from 1; the instances that replace one another count on.
    pub number: u64,
    /// `Revision::digest` of the specification.
    pub digest: Hash,
    /// `Revision::shared` of it: what an instance can't change.
    pub shared: Hash,
    /// When it was accepted.
    pub at: WallTime,
}

/// Where an instance stands. Each step is durable before its effects begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecordPhase {
    /// It shall run.
    Active,
    /// Its containers are through, by its restart policy; no executor is needed any more.
    Finished {
        /// How.
        outcome: Outcome,
        /// Why, if they did not simply come to their end.
        because: Option<EndCause>,
        /// Each container's last run.
        containers: BTreeMap<ContainerName, LastRun>,
    },
    /// It shall stop: gracefully, until the deadline.
    Terminating {
        /// Why.
        cause: TerminationCause,
        /// The grace period.
        grace: Millis,
        /// When the agent kills what is left, on the clock of that boot.
        kill_at: Moment,
    },
    /// Nothing of it may run any more; what it left is being removed.
    Destroying {
        /// Why.
        cause: TerminationCause,
    },
}

/// A moment on the steady clock of one boot. In another boot it is long past.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// The boot.
    pub boot: BootId,
    /// The time.
    pub at: BootTime,
}

/// How a pod that is through ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Every container exited with 0.
    Succeeded,
    /// At least one did not.
    Failed,
}

/// Why a pod ended, or ends, whose containers do not simply come to their end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndCause {
    /// It lasted as long as `activeDeadlineSeconds` allows.
    DeadlineExceeded,
    /// A container failed, and with it all do (annotation `roost/termination-policy: group`).
    GroupFailed,
}

/// Why an instance is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TerminationCause {
    /// Its manifest, or its document in it, is gone.
    Removed,
    /// A change of its manifest needs a new instance.
    Replaced,
    /// It was found without a manifest when the store had been rebuilt, or twice.
    Orphaned,
    /// Somebody asked for a new instance of the same.
    Restarted,
    /// It used more than it may, or the node ran out of something.
    Evicted,
}

/// Executors lost in a row, for the back-off.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Losses {
    /// How many.
    pub count: u32,
    /// Not to be started before; none if it may start at once.
    pub retry_at: Option<Moment>,
}

/// One run of a container, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastRun {
    /// Which run.
    pub attempt: Attempt,
    /// When its program was started; none if it never was.
    pub started_at: Option<WallTime>,
    /// When it was seen to have ended.
    pub finished_at: WallTime,
    /// How it ended.
    pub exit: Exit,
    /// What it says about that itself (`terminationMessagePath`, or the end of its log).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// The program returned this code.
    Code(u8),
    /// A signal ended it.
    Signal(u8),
    /// The kernel killed it for want of memory within its limit.
    OutOfMemory,
    /// It could not be started; the text says why.
    NotStarted(String),
    /// It ended while nobody could see or record how (power cut, executor killed).
    Unknown,
}

/// Kubernetes' reason for a specification that asks for what can't be done on this node, or for a
/// ConfigMap or Secret that is missing. The text of [`Exit::NotStarted`] begins with it and `: `.
pub const CONFIG_ERROR: &str = "CreateContainerConfigError";

impl Exit {
    /// Whether the run counts as a success.
    #[must_use]
    pub fn is_success(&self) -> bool {
        *self == Self::Code(0)
    }

    /// Kubernetes' `exitCode`: 128+n for signal n, 137 for out of memory and unknown, 128 for a
    /// program that could not be started.
    #[must_use]
    pub fn code(&self) -> i32 {
        match self {
            Self::Code(code) => i32::from(*code),
            Self::Signal(signal) => 128 + i32::from(*signal),
            Self::OutOfMemory | Self::Unknown => 137,
            Self::NotStarted(_) => 128,
        }
    }

    /// Kubernetes' `reason`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Code(0) => "Completed",
            Self::Code(_) | Self::Signal(_) => "Error",
            Self::OutOfMemory => "OOMKilled",
            Self::NotStarted(_) => "StartError",
            Self::Unknown => "ContainerStatusUnknown",
        }
    }
}
