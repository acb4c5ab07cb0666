//! Version 3 of what is stored, where it differs from version 2: records know of revisions on
//! trial. Never changed again, as `v1`.

use serde::{Deserialize, Serialize};

use super::upgrade::Version;
use super::v1::MomentV1;
use super::v2::PodRecordV2;
use crate::state::record::{Moment, PodRecord, Trial};

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::state) struct PodRecordV3 {
    before: PodRecordV2,
    trial: Option<TrialV3>,
}

#[derive(Debug, Serialize, Deserialize)]
struct TrialV3 {
    until: MomentV1,
    back_to: u64,
}

impl Version for PodRecordV3 {
    const NUMBER: u8 = 3;
    type Previous = PodRecordV2;
    fn upgrade(before: PodRecordV2) -> Self {
        Self { before, trial: None }
    }
}

impl From<&PodRecord> for PodRecordV3 {
    fn from(record: &PodRecord) -> Self {
        let trial = record
            .trial
            .as_ref()
            .map(|Trial { until, back_to }| TrialV3 { until: until.into(), back_to: *back_to });
        Self { before: record.into(), trial }
    }
}

impl TryFrom<PodRecordV3> for PodRecord {
    type Error = String;
    fn try_from(stored: PodRecordV3) -> Result<Self, String> {
        let trial = stored
            .trial
            .map(|TrialV3 { until, back_to }| Trial { until: Moment::from(until), back_to });
        Ok(Self { trial, ..stored.before.try_into()? })
    }
}
