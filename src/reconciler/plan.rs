//! [`Plan`]: a decision as data. PURE.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::admission::Requests;
use super::pressure::PressureKind;
use super::{Alarm, ImageTrouble, StoredSpec};
use crate::clock::{BootTime, Millis};
use crate::executor::protocol::Goal;
use crate::ids::{PodId, PodName};
use crate::manifest::pod::PodSpec;
use crate::state::record::{
    Accepted, Eviction, Held, KeptRevision, ManifestFile, Outcome, PodRecord, TerminationCause,
    Trial,
};

/// What to do now, for every pod that needs something.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Steps, in order, by what they belong to. At most one worker acts for a key.
    pub work: BTreeMap<Key, Vec<Step>>,
    /// Handles of directories to be remembered.
    pub remember: BTreeMap<String, Vec<u8>>,
    /// What is wrong with the manifest directories.
    pub alarms: Vec<Alarm>,
    /// Pods that can't become what they are to be, because there is no room for it or its images
    /// are not here.
    pub waits: BTreeMap<PodName, Wait>,
    /// Manifests that are for another node.
    pub passed_over: Vec<PassedOver>,
    /// What was admitted of the pods that there is work for: it counts as taken as long as
    /// somebody works on it (`ActualState::under_way`).
    pub promised: BTreeMap<PodName, Arc<PodSpec>>,
    /// Whose images are to be got; nobody else's.
    pub seek: BTreeMap<PodName, Arc<PodSpec>>,
    /// Instances that did not get Ready in time, with the revision that they are to go back to:
    /// [`Asked::RollBack`](super::Asked::RollBack) is to be asked of them for as long.
    pub retreats: BTreeMap<PodId, u64>,
    /// What all pods of the node request that were admitted.
    pub requested: Requests,
    /// When to decide again even if nothing happens.
    pub wake_at: Option<BootTime>,
}

/// A pod waits for room, for a ConfigMap or Secret, or for its images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// What is lacking.
    pub why: String,
    /// The same for programs.
    pub reason: WaitReason,
    /// Who asks for it.
    pub source: ManifestFile,
    /// What is to be.
    pub spec: Arc<PodSpec>,
}

/// What a pod waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitReason {
    /// Room on the node.
    Room,
    /// The end of pressure on the node.
    Pressure(PressureKind),
    /// Another pod, which has to be so far first.
    Order,
    /// A ConfigMap or Secret.
    Config,
    /// Images that are being looked for.
    Images {
        /// Whether they turned out not to be here.
        is_pulling: bool,
    },
    /// Images that could not be got so far.
    Trouble(ImageTrouble),
}

/// A manifest asks for a pod on another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    /// The pod.
    pub pod: PodName,
    /// The manifest.
    pub source: ManifestFile,
    /// Which label is wanted.
    pub wants: String,
    /// Whether an instance that it once made here goes on as it is.
    pub stays: bool,
}

impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pod, source, wants, stays } = self;
        write!(f, "pod {pod} of {source} is for nodes labelled {wants}; this one is not")?;
        if *stays { f.write_str(", and the pod stays as it is") } else { Ok(()) }
    }
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
    Create(Box<Creation>),
    /// Make another revision of an instance durable: the specification, then the record.
    Accept {
        /// The record as it shall be.
        record: Box<PodRecord>,
        /// The specification.
        spec: Arc<PodSpec>,
        /// What it was until then: kept before anything else is done.
        before: Option<Box<KeptRevision>>,
    },
    /// Make it durable that an instance goes for another one, together with the revisions that
    /// must not be lost with it.
    Retire {
        /// The record as it shall be.
        record: Box<PodRecord>,
        /// The revisions.
        keeps: Vec<KeptRevision>,
        /// The specification of the record's successor.
        successor: Option<StoredSpec>,
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
    Forget {
        /// Which instance.
        id: PodId,
        /// The pod whose earlier revisions are forgotten with it.
        revisions_of: Option<PodName>,
    },
}

/// A new instance, but for its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Creation {
    /// The manifest that has the pod.
    pub source: ManifestFile,
    /// What it is to be.
    pub spec: Arc<PodSpec>,
    /// The number of that revision.
    pub number: u64,
    /// The revisions before it.
    pub history: Vec<Accepted>,
    /// Whether the pod was rolled back to it.
    pub held: Option<Held>,
    /// Until when it has to be Ready.
    pub trial: Option<Trial>,
    /// What it knows of evictions of the pod.
    pub eviction: Option<Eviction>,
    /// Whether it takes no other instance's place. Nothing that is kept of its name is its own
    /// then, and what it needs can be had from its manifest again.
    pub is_first: bool,
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
    /// What it was is started again: it was restarted, rolled back, or its manifest can't be read
    /// or does not fit any more.
    Successor,
    /// Somebody asked for an earlier revision.
    RolledBack(u64),
    /// Somebody asked for what its manifest says again.
    Released,
    /// It got Ready in time.
    Proven,
    /// The machine was restarted before it was Ready.
    TrialBegunAnew,
    /// It did not get Ready in time, and what was before it is not kept.
    NothingToGoBackTo,
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
    /// It is evicted; the text says why.
    Evicted(String),
    /// What it was evicted for is over.
    Returned,
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
            Self::Successor => f.write_str("it takes the place of the instance before it"),
            Self::RolledBack(to) => write!(f, "it is rolled back to revision {to}"),
            Self::Released => f.write_str("it follows its manifest again"),
            Self::Proven => f.write_str("the new revision is Ready, and stays"),
            Self::TrialBegunAnew => f.write_str(
                "the machine was restarted while it had to get Ready: its time begins anew",
            ),
            Self::NothingToGoBackTo => {
                f.write_str("it is not Ready in time, but the revision before it is not kept")
            }
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
            Self::Evicted(why) => f.write_str(why),
            Self::Returned => f.write_str("what it was evicted for is over"),
            Self::Terminated(TerminationCause::Evicted) => f.write_str("it is evicted"),
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
