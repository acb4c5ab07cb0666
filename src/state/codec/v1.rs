//! Version 1 of what is stored. Never changed again: bincode stores neither field names nor
//! variant names, so the order below *is* the format. A change is a version 2 beside it
//! (`upgrade`).

use serde::{Deserialize, Serialize};

use super::Value;
use super::upgrade::{BeforeFirst, Version};
use crate::clock::{BootId, BootTime, Millis, WallTime};
use crate::ids::{Attempt, PodId, PodName};
use crate::manifest::revision::Hash;
use crate::state::record::{
    Accepted, Exit, LastRun, Losses, ManifestFile, Moment, Outcome, PodRecord, RecordPhase,
    TerminationCause,
};
use crate::state::store::{DirectoryHandle, EventKind, EventRecord, Meta, SideNote};

macro_rules! first_version {
    ($($stored:ident),+) => {$(
        impl Version for $stored {
            const NUMBER: u8 = 1;
            type Previous = BeforeFirst;
            fn upgrade(previous: BeforeFirst) -> Self {
                match previous {}
            }
        }
    )+};
}

first_version!(PodRecordV1, EventV1, DirectoryV1, MetaV1, SideNoteV1);

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::state) struct PodRecordV1 {
    id: u128,
    name: String,
    directory: String,
    file: String,
    accepted: AcceptedV1,
    history: Vec<AcceptedV1>,
    phase: PhaseV1,
    created_at: u64,
    losses: u32,
    retry_at: Option<MomentV1>,
}

#[derive(Debug, Serialize, Deserialize)]
struct AcceptedV1 {
    number: u64,
    digest: u128,
    shared: u128,
    at: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct MomentV1 {
    boot: String,
    at: u64,
}

#[derive(Debug, Serialize, Deserialize)]
enum PhaseV1 {
    Active,
    Finished { outcome: OutcomeV1, containers: Vec<(String, LastRunV1)> },
    Terminating { cause: CauseV1, grace: u64, kill_at: MomentV1 },
    Destroying { cause: CauseV1 },
}

#[derive(Debug, Serialize, Deserialize)]
enum OutcomeV1 {
    Succeeded,
    Failed,
}

#[derive(Debug, Serialize, Deserialize)]
enum CauseV1 {
    Removed,
    Replaced,
    Orphaned,
}

#[derive(Debug, Serialize, Deserialize)]
struct LastRunV1 {
    attempt: u32,
    started_at: Option<u64>,
    finished_at: u64,
    exit: ExitV1,
}

#[derive(Debug, Serialize, Deserialize)]
enum ExitV1 {
    Code(u8),
    Signal(u8),
    OutOfMemory,
    NotStarted(String),
    Unknown,
}

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::state) struct EventV1 {
    first_at: u64,
    at: u64,
    pod: Option<String>,
    id: Option<u128>,
    kind: EventKindV1,
    reason: String,
    message: String,
    count: u32,
}

#[derive(Debug, Serialize, Deserialize)]
enum EventKindV1 {
    Normal,
    Warning,
}

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::state) struct DirectoryV1 {
    handle: Vec<u8>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::state) struct MetaV1 {
    values: u64,
    digest: u128,
}

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::state) struct SideNoteV1 {}

impl Value for PodRecord {
    type Stored = PodRecordV1;

    fn to_stored(&self) -> PodRecordV1 {
        // Every field is named, so that a new one can't be forgotten here.
        let Self { id, name, source, accepted, history, phase, created_at, losses } = self;
        let ManifestFile { directory, file } = source;
        let Losses { count, retry_at } = losses;
        PodRecordV1 {
            id: id.as_u128(),
            name: name.to_string(),
            directory: directory.clone(),
            file: file.clone(),
            accepted: accepted.into(),
            history: history.iter().map(AcceptedV1::from).collect(),
            phase: phase.into(),
            created_at: created_at.0,
            losses: *count,
            retry_at: retry_at.as_ref().map(MomentV1::from),
        }
    }

    fn from_stored(stored: PodRecordV1) -> Result<Self, String> {
        Ok(Self {
            id: pod_id(stored.id)?,
            name: stored.name.parse().map_err(text)?,
            source: ManifestFile { directory: stored.directory, file: stored.file },
            accepted: stored.accepted.into(),
            history: stored.history.into_iter().map(Accepted::from).collect(),
            phase: stored.phase.try_into()?,
            created_at: WallTime(stored.created_at),
            losses: Losses { count: stored.losses, retry_at: stored.retry_at.map(Moment::from) },
        })
    }
}

impl From<&Accepted> for AcceptedV1 {
    fn from(Accepted { number, digest, shared, at }: &Accepted) -> Self {
        Self { number: *number, digest: bits(*digest), shared: bits(*shared), at: at.0 }
    }
}

impl From<AcceptedV1> for Accepted {
    fn from(AcceptedV1 { number, digest, shared, at }: AcceptedV1) -> Self {
        Self { number, digest: hash(digest), shared: hash(shared), at: WallTime(at) }
    }
}

impl From<&Moment> for MomentV1 {
    fn from(Moment { boot, at }: &Moment) -> Self {
        Self { boot: boot.to_string(), at: at.0 }
    }
}

impl From<MomentV1> for Moment {
    fn from(MomentV1 { boot, at }: MomentV1) -> Self {
        let Ok(boot) = boot.parse::<BootId>();
        Self { boot, at: BootTime(at) }
    }
}

impl From<&RecordPhase> for PhaseV1 {
    fn from(phase: &RecordPhase) -> Self {
        match phase {
            RecordPhase::Active => Self::Active,
            RecordPhase::Finished { outcome, containers } => Self::Finished {
                outcome: match outcome {
                    Outcome::Succeeded => OutcomeV1::Succeeded,
                    Outcome::Failed => OutcomeV1::Failed,
                },
                containers: containers
                    .iter()
                    .map(|(name, run)| (name.to_string(), run.into()))
                    .collect(),
            },
            RecordPhase::Terminating { cause, grace, kill_at } => Self::Terminating {
                cause: (*cause).into(),
                grace: grace.0,
                kill_at: kill_at.into(),
            },
            RecordPhase::Destroying { cause } => Self::Destroying { cause: (*cause).into() },
        }
    }
}

impl TryFrom<PhaseV1> for RecordPhase {
    type Error = String;
    fn try_from(phase: PhaseV1) -> Result<Self, String> {
        Ok(match phase {
            PhaseV1::Active => Self::Active,
            PhaseV1::Finished { outcome, containers } => Self::Finished {
                outcome: match outcome {
                    OutcomeV1::Succeeded => Outcome::Succeeded,
                    OutcomeV1::Failed => Outcome::Failed,
                },
                containers: containers
                    .into_iter()
                    .map(|(name, run)| Ok((name.parse().map_err(text)?, run.into())))
                    .collect::<Result<_, String>>()?,
            },
            PhaseV1::Terminating { cause, grace, kill_at } => Self::Terminating {
                cause: cause.into(),
                grace: Millis(grace),
                kill_at: kill_at.into(),
            },
            PhaseV1::Destroying { cause } => Self::Destroying { cause: cause.into() },
        })
    }
}

impl From<TerminationCause> for CauseV1 {
    fn from(cause: TerminationCause) -> Self {
        match cause {
            TerminationCause::Removed => Self::Removed,
            TerminationCause::Replaced => Self::Replaced,
            TerminationCause::Orphaned => Self::Orphaned,
        }
    }
}

impl From<CauseV1> for TerminationCause {
    fn from(cause: CauseV1) -> Self {
        match cause {
            CauseV1::Removed => Self::Removed,
            CauseV1::Replaced => Self::Replaced,
            CauseV1::Orphaned => Self::Orphaned,
        }
    }
}

impl From<&LastRun> for LastRunV1 {
    fn from(LastRun { attempt, started_at, finished_at, exit }: &LastRun) -> Self {
        Self {
            attempt: attempt.0,
            started_at: started_at.map(|at| at.0),
            finished_at: finished_at.0,
            exit: match exit {
                Exit::Code(code) => ExitV1::Code(*code),
                Exit::Signal(signal) => ExitV1::Signal(*signal),
                Exit::OutOfMemory => ExitV1::OutOfMemory,
                Exit::NotStarted(why) => ExitV1::NotStarted(why.clone()),
                Exit::Unknown => ExitV1::Unknown,
            },
        }
    }
}

impl From<LastRunV1> for LastRun {
    fn from(LastRunV1 { attempt, started_at, finished_at, exit }: LastRunV1) -> Self {
        Self {
            attempt: Attempt(attempt),
            started_at: started_at.map(WallTime),
            finished_at: WallTime(finished_at),
            exit: match exit {
                ExitV1::Code(code) => Exit::Code(code),
                ExitV1::Signal(signal) => Exit::Signal(signal),
                ExitV1::OutOfMemory => Exit::OutOfMemory,
                ExitV1::NotStarted(why) => Exit::NotStarted(why),
                ExitV1::Unknown => Exit::Unknown,
            },
        }
    }
}

impl Value for EventRecord {
    type Stored = EventV1;

    fn to_stored(&self) -> EventV1 {
        let Self { first_at, at, pod, id, kind, reason, message, count } = self;
        EventV1 {
            first_at: first_at.0,
            at: at.0,
            pod: pod.as_ref().map(PodName::to_string),
            id: id.map(PodId::as_u128),
            kind: match kind {
                EventKind::Normal => EventKindV1::Normal,
                EventKind::Warning => EventKindV1::Warning,
            },
            reason: reason.clone(),
            message: message.clone(),
            count: *count,
        }
    }

    fn from_stored(stored: EventV1) -> Result<Self, String> {
        Ok(Self {
            first_at: WallTime(stored.first_at),
            at: WallTime(stored.at),
            pod: stored.pod.map(|name| name.parse()).transpose().map_err(text)?,
            id: stored.id.map(pod_id).transpose()?,
            kind: match stored.kind {
                EventKindV1::Normal => EventKind::Normal,
                EventKindV1::Warning => EventKind::Warning,
            },
            reason: stored.reason,
            message: stored.message,
            count: stored.count,
        })
    }
}

impl Value for DirectoryHandle {
    type Stored = DirectoryV1;

    fn to_stored(&self) -> DirectoryV1 {
        DirectoryV1 { handle: self.0.clone() }
    }

    fn from_stored(stored: DirectoryV1) -> Result<Self, String> {
        Ok(Self(stored.handle))
    }
}

impl Value for Meta {
    type Stored = MetaV1;

    fn to_stored(&self) -> MetaV1 {
        let Self { values, digest } = self;
        MetaV1 { values: *values, digest: *digest }
    }

    fn from_stored(MetaV1 { values, digest }: MetaV1) -> Result<Self, String> {
        Ok(Self { values, digest })
    }
}

impl Value for SideNote {
    type Stored = SideNoteV1;

    fn to_stored(&self) -> SideNoteV1 {
        SideNoteV1 {}
    }

    fn from_stored(SideNoteV1 {}: SideNoteV1) -> Result<Self, String> {
        Ok(Self)
    }
}

/// The number that a hash is written as.
fn bits(hash: Hash) -> u128 {
    u128::from_str_radix(&String::from(hash), 16).expect("a hash is written in hexadecimal")
}

fn hash(bits: u128) -> Hash {
    Hash::try_from(format!("{bits:032x}")).expect("a hash is read in hexadecimal")
}

fn pod_id(bits: u128) -> Result<PodId, String> {
    let id = PodId::from_random(bits);
    if id.as_u128() == bits { Ok(id) } else { Err(format!("{bits:032x} is not a pod id")) }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
