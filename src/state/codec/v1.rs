//! Version 1 of what is stored. Never changed again: bincode stores neither field names nor
//! variant names, so the order below *is* the format. A change is a version 2 beside it
//! (`upgrade`).

use serde::{Deserialize, Serialize};

use super::Value;
use super::upgrade::{BeforeFirst, Version};
use crate::clock::{BootId, BootTime, WallTime};
use crate::ids::{Attempt, PodId, PodName};
use crate::manifest::revision::Hash;
use crate::state::record::{Accepted, Exit, LastRun, Moment};
use crate::state::store::{DirectoryHandle, EventKind, EventRecord, Meta};

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
    pub(super) id: u128,
    pub(super) name: String,
    pub(super) directory: String,
    pub(super) file: String,
    pub(super) accepted: AcceptedV1,
    pub(super) history: Vec<AcceptedV1>,
    pub(super) phase: PhaseV1,
    pub(super) created_at: u64,
    pub(super) losses: u32,
    pub(super) retry_at: Option<MomentV1>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct AcceptedV1 {
    number: u64,
    digest: u128,
    shared: u128,
    at: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct MomentV1 {
    boot: String,
    at: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum PhaseV1 {
    Active,
    Finished { outcome: OutcomeV1, containers: Vec<(String, LastRunV1)> },
    Terminating { cause: CauseV1, grace: u64, kill_at: MomentV1 },
    Destroying { cause: CauseV1 },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum OutcomeV1 {
    Succeeded,
    Failed,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum CauseV1 {
    Removed,
    Replaced,
    Orphaned,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LastRunV1 {
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

impl From<&LastRun> for LastRunV1 {
    // Version 4 has the messages.
    fn from(run: &LastRun) -> Self {
        let LastRun { attempt, started_at, finished_at, exit, message: _ } = run;
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
            message: None,
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

/// The number that a hash is written as.
pub(super) fn bits(hash: Hash) -> u128 {
    u128::from_str_radix(&String::from(hash), 16).expect("a hash is written in hexadecimal")
}

pub(super) fn hash(bits: u128) -> Hash {
    Hash::try_from(format!("{bits:032x}")).expect("a hash is read in hexadecimal")
}

pub(super) fn pod_id(bits: u128) -> Result<PodId, String> {
    let id = PodId::from_random(bits);
    if id.as_u128() == bits { Ok(id) } else { Err(format!("{bits:032x} is not a pod id")) }
}

pub(super) fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
