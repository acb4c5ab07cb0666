//! Version 5 of what is stored, where it differs from version 4: records know of evictions. Never
//! changed again, as `v1`.

use serde::{Deserialize, Serialize};

use super::Value;
use super::upgrade::Version;
use super::v1::MomentV1;
use super::v4::PodRecordV4;
use crate::clock::WallTime;
use crate::state::record::{
    Evicted, Eviction, EvictionCause, Moment, PodRecord, RecordPhase, TerminationCause,
};

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::state) struct PodRecordV5 {
    before: PodRecordV4,
    /// Whether what its phase says is that it goes because it is evicted.
    goes_evicted: bool,
    eviction: Option<EvictionV5>,
}

#[derive(Debug, Serialize, Deserialize)]
enum EvictionV5 {
    Evicted { cause: CauseV5, message: String, at: u64, count: u32, retry_at: MomentV1 },
    Returned { count: u32, at: MomentV1 },
}

#[derive(Debug, Serialize, Deserialize)]
enum CauseV5 {
    Memory,
    Disk,
    Limit,
}

impl Version for PodRecordV5 {
    const NUMBER: u8 = 5;
    type Previous = PodRecordV4;
    fn upgrade(before: PodRecordV4) -> Self {
        Self { before, goes_evicted: false, eviction: None }
    }
}

impl Value for PodRecord {
    type Stored = PodRecordV5;

    fn to_stored(&self) -> PodRecordV5 {
        let goes_evicted = match &self.phase {
            RecordPhase::Active | RecordPhase::Finished { .. } => false,
            RecordPhase::Terminating { cause, .. } | RecordPhase::Destroying { cause } => {
                *cause == TerminationCause::Evicted
            }
        };
        let eviction = self.eviction.as_ref().map(EvictionV5::from);
        PodRecordV5 { before: self.into(), goes_evicted, eviction }
    }

    fn from_stored(stored: PodRecordV5) -> Result<Self, String> {
        let mut record = Self::try_from(stored.before)?;
        match &mut record.phase {
            RecordPhase::Terminating { cause, .. } | RecordPhase::Destroying { cause }
                if stored.goes_evicted =>
            {
                *cause = TerminationCause::Evicted;
            }
            RecordPhase::Active
            | RecordPhase::Finished { .. }
            | RecordPhase::Terminating { .. }
            | RecordPhase::Destroying { .. } => {}
        }
        record.eviction = stored.eviction.map(Eviction::from);
        Ok(record)
    }
}

impl From<&Eviction> for EvictionV5 {
    fn from(eviction: &Eviction) -> Self {
        match eviction {
            Eviction::Evicted(Evicted { cause, message, at, count, retry_at }) => Self::Evicted {
                cause: match cause {
                    EvictionCause::Memory => CauseV5::Memory,
                    EvictionCause::Disk => CauseV5::Disk,
                    EvictionCause::Limit => CauseV5::Limit,
                },
                message: message.clone(),
                at: at.0,
                count: *count,
                retry_at: retry_at.into(),
            },
            Eviction::Returned { count, at } => Self::Returned { count: *count, at: at.into() },
        }
    }
}

impl From<EvictionV5> for Eviction {
    fn from(stored: EvictionV5) -> Self {
        match stored {
            EvictionV5::Evicted { cause, message, at, count, retry_at } => Self::Evicted(Evicted {
                cause: match cause {
                    CauseV5::Memory => EvictionCause::Memory,
                    CauseV5::Disk => EvictionCause::Disk,
                    CauseV5::Limit => EvictionCause::Limit,
                },
                message,
                at: WallTime(at),
                count,
                retry_at: Moment::from(retry_at),
            }),
            EvictionV5::Returned { count, at } => Self::Returned { count, at: Moment::from(at) },
        }
    }
}
