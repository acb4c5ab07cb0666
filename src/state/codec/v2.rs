//! Version 2 of what is stored, where it differs from version 1: records know of roll-backs and of
//! successors, and earlier revisions are kept. Never changed again, as `v1`.
//!
//! The note in the side file says nothing else than before. It got a new version so that an older
//! Roost, which would take the tree of revisions for damage, refuses the store instead.

use serde::{Deserialize, Serialize};

use super::Value;
use super::upgrade::{BeforeFirst, Version};
use super::v1::{
    AcceptedV1, CauseV1, LastRunV1, MomentV1, OutcomeV1, PhaseV1, PodRecordV1, SideNoteV1, bits,
    hash, pod_id, text,
};
use crate::clock::{Millis, WallTime};
use crate::state::record::{
    Accepted, Held, KeptRevision, Losses, ManifestFile, Moment, Outcome, PodRecord, RecordPhase,
    TerminationCause,
};
use crate::state::store::{REVISION_LEN_MAX, SideNote};

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::state) struct PodRecordV2 {
    id: u128,
    name: String,
    directory: String,
    file: String,
    accepted: AcceptedV1,
    history: Vec<AcceptedV1>,
    phase: PhaseV2,
    created_at: u64,
    losses: u32,
    retry_at: Option<MomentV1>,
    held: Option<HeldV2>,
    successor: Option<AcceptedV1>,
}

#[derive(Debug, Serialize, Deserialize)]
struct HeldV2 {
    refused: u128,
    to: u64,
}

#[derive(Debug, Serialize, Deserialize)]
enum PhaseV2 {
    Active,
    Finished { outcome: OutcomeV1, containers: Vec<(String, LastRunV1)> },
    Terminating { cause: CauseV2, grace: u64, kill_at: MomentV1 },
    Destroying { cause: CauseV2 },
}

#[derive(Debug, Serialize, Deserialize)]
enum CauseV2 {
    Removed,
    Replaced,
    Orphaned,
    Restarted,
}

/// The first version of this kind of value.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::state) struct RevisionV1 {
    name: String,
    accepted: AcceptedV1,
    directory: String,
    file: String,
    /// JSON, as specifications are stored everywhere.
    spec: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::state) struct SideNoteV2 {}

impl Version for PodRecordV2 {
    const NUMBER: u8 = 2;
    type Previous = PodRecordV1;
    fn upgrade(previous: PodRecordV1) -> Self {
        let PodRecordV1 {
            id,
            name,
            directory,
            file,
            accepted,
            history,
            phase,
            created_at,
            losses,
            retry_at,
        } = previous;
        let phase = match phase {
            PhaseV1::Active => PhaseV2::Active,
            PhaseV1::Finished { outcome, containers } => PhaseV2::Finished { outcome, containers },
            PhaseV1::Terminating { cause, grace, kill_at } => {
                PhaseV2::Terminating { cause: cause.into(), grace, kill_at }
            }
            PhaseV1::Destroying { cause } => PhaseV2::Destroying { cause: cause.into() },
        };
        Self {
            id,
            name,
            directory,
            file,
            accepted,
            history,
            phase,
            created_at,
            losses,
            retry_at,
            held: None,
            successor: None,
        }
    }
}

impl From<CauseV1> for CauseV2 {
    fn from(cause: CauseV1) -> Self {
        match cause {
            CauseV1::Removed => Self::Removed,
            CauseV1::Replaced => Self::Replaced,
            CauseV1::Orphaned => Self::Orphaned,
        }
    }
}

impl Version for RevisionV1 {
    const NUMBER: u8 = 1;
    type Previous = BeforeFirst;
    fn upgrade(previous: BeforeFirst) -> Self {
        match previous {}
    }
}

impl Version for SideNoteV2 {
    const NUMBER: u8 = 2;
    type Previous = SideNoteV1;
    fn upgrade(SideNoteV1 {}: SideNoteV1) -> Self {
        Self {}
    }
}

impl From<&PodRecord> for PodRecordV2 {
    fn from(record: &PodRecord) -> Self {
        // Every field is named, so that a new one can't be forgotten here.
        let PodRecord {
            id,
            name,
            source,
            accepted,
            history,
            phase,
            created_at,
            losses,
            held,
            // Version 3 has it.
            trial: _,
            successor,
            // Version 5 has it.
            eviction: _,
        } = record;
        let ManifestFile { directory, file } = source;
        let Losses { count, retry_at } = losses;
        Self {
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
            held: held.map(|Held { refused, to }| HeldV2 { refused: bits(refused), to }),
            successor: successor.as_ref().map(AcceptedV1::from),
        }
    }
}

impl TryFrom<PodRecordV2> for PodRecord {
    type Error = String;
    fn try_from(stored: PodRecordV2) -> Result<Self, String> {
        let held = stored.held.map(|HeldV2 { refused, to }| Held { refused: hash(refused), to });
        Ok(Self {
            id: pod_id(stored.id)?,
            name: stored.name.parse().map_err(text)?,
            source: ManifestFile { directory: stored.directory, file: stored.file },
            accepted: stored.accepted.into(),
            history: stored.history.into_iter().map(Accepted::from).collect(),
            phase: stored.phase.try_into()?,
            created_at: WallTime(stored.created_at),
            losses: Losses { count: stored.losses, retry_at: stored.retry_at.map(Moment::from) },
            held,
            trial: None,
            eviction: None,
            successor: stored.successor.map(Accepted::from),
        })
    }
}

impl From<&RecordPhase> for PhaseV2 {
    fn from(phase: &RecordPhase) -> Self {
        match phase {
            RecordPhase::Active => Self::Active,
            // Version 4 has why.
            RecordPhase::Finished { outcome, because: _, containers } => Self::Finished {
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

impl TryFrom<PhaseV2> for RecordPhase {
    type Error = String;
    fn try_from(phase: PhaseV2) -> Result<Self, String> {
        Ok(match phase {
            PhaseV2::Active => Self::Active,
            PhaseV2::Finished { outcome, containers } => Self::Finished {
                outcome: match outcome {
                    OutcomeV1::Succeeded => Outcome::Succeeded,
                    OutcomeV1::Failed => Outcome::Failed,
                },
                because: None,
                containers: containers
                    .into_iter()
                    .map(|(name, run)| Ok((name.parse().map_err(text)?, run.into())))
                    .collect::<Result<_, String>>()?,
            },
            PhaseV2::Terminating { cause, grace, kill_at } => Self::Terminating {
                cause: cause.into(),
                grace: Millis(grace),
                kill_at: kill_at.into(),
            },
            PhaseV2::Destroying { cause } => Self::Destroying { cause: cause.into() },
        })
    }
}

impl From<TerminationCause> for CauseV2 {
    fn from(cause: TerminationCause) -> Self {
        match cause {
            TerminationCause::Removed => Self::Removed,
            TerminationCause::Replaced => Self::Replaced,
            TerminationCause::Orphaned => Self::Orphaned,
            // Version 5 has it apart.
            TerminationCause::Restarted | TerminationCause::Evicted => Self::Restarted,
        }
    }
}

impl From<CauseV2> for TerminationCause {
    fn from(cause: CauseV2) -> Self {
        match cause {
            CauseV2::Removed => Self::Removed,
            CauseV2::Replaced => Self::Replaced,
            CauseV2::Orphaned => Self::Orphaned,
            CauseV2::Restarted => Self::Restarted,
        }
    }
}

impl Value for KeptRevision {
    type Stored = RevisionV1;
    const LEN_MAX: usize = REVISION_LEN_MAX;

    fn to_stored(&self) -> RevisionV1 {
        let Self { name, accepted, source: ManifestFile { directory, file }, spec } = self;
        RevisionV1 {
            name: name.to_string(),
            accepted: accepted.into(),
            directory: directory.clone(),
            file: file.clone(),
            spec: serde_json::to_string(spec).expect("a specification has only string keys"),
        }
    }

    fn from_stored(stored: RevisionV1) -> Result<Self, String> {
        Ok(Self {
            name: stored.name.parse().map_err(text)?,
            accepted: stored.accepted.into(),
            source: ManifestFile { directory: stored.directory, file: stored.file },
            // Specifications have fields that older builds do not know. That is no damage.
            spec: serde_json::from_str(&stored.spec).unwrap_or_default(),
        })
    }
}

impl Value for SideNote {
    type Stored = SideNoteV2;

    fn to_stored(&self) -> SideNoteV2 {
        SideNoteV2 {}
    }

    fn from_stored(SideNoteV2 {}: SideNoteV2) -> Result<Self, String> {
        Ok(Self)
    }
}
