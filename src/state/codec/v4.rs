//! Version 4 of what is stored, where it differs from version 3: records of pods that are through
//! know why they ended, and what their containers said. Never changed again, as `v1`.

use serde::{Deserialize, Serialize};

use super::upgrade::Version;
use super::v1::text;
use super::v3::PodRecordV3;
use crate::ids::ContainerName;
use crate::state::record::{EndCause, PodRecord, RecordPhase};

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::state) struct PodRecordV4 {
    before: PodRecordV3,
    because: Option<EndCauseV4>,
    /// By the name of the container; of those that have said something.
    messages: Vec<(String, String)>,
}

#[derive(Debug, Serialize, Deserialize)]
enum EndCauseV4 {
    DeadlineExceeded,
    GroupFailed,
}

impl Version for PodRecordV4 {
    const NUMBER: u8 = 4;
    type Previous = PodRecordV3;
    fn upgrade(before: PodRecordV3) -> Self {
        Self { before, because: None, messages: Vec::new() }
    }
}

impl From<&PodRecord> for PodRecordV4 {
    fn from(record: &PodRecord) -> Self {
        let (because, messages) = match &record.phase {
            RecordPhase::Finished { outcome: _, because, containers } => {
                let said = containers
                    .iter()
                    .filter_map(|(name, run)| Some((name.to_string(), run.message.clone()?)));
                (because.map(EndCauseV4::from), said.collect())
            }
            RecordPhase::Active
            | RecordPhase::Terminating { .. }
            | RecordPhase::Destroying { .. } => (None, Vec::new()),
        };
        Self { before: record.into(), because, messages }
    }
}

impl TryFrom<PodRecordV4> for PodRecord {
    type Error = String;
    fn try_from(stored: PodRecordV4) -> Result<Self, String> {
        let PodRecordV4 { before, because: cause, messages } = stored;
        let mut record = Self::try_from(before)?;
        if let RecordPhase::Finished { outcome: _, because, containers } = &mut record.phase {
            *because = cause.map(EndCause::from);
            for (name, message) in messages {
                let name: ContainerName = name.parse().map_err(text)?;
                if let Some(run) = containers.get_mut(&name) {
                    run.message = Some(message);
                }
            }
        }
        Ok(record)
    }
}

impl From<EndCause> for EndCauseV4 {
    fn from(cause: EndCause) -> Self {
        match cause {
            EndCause::DeadlineExceeded => Self::DeadlineExceeded,
            EndCause::GroupFailed => Self::GroupFailed,
        }
    }
}

impl From<EndCauseV4> for EndCause {
    fn from(cause: EndCauseV4) -> Self {
        match cause {
            EndCauseV4::DeadlineExceeded => Self::DeadlineExceeded,
            EndCauseV4::GroupFailed => Self::GroupFailed,
        }
    }
}
