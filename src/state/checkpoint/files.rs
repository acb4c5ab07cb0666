//! What stands in the checkpoints of a pod directory. PURE.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Checkpoint;
use crate::clock::{BootId, BootTime, WallTime};
use crate::ids::{Attempt, PodId};
use crate::manifest::pod::PodSpec;
use crate::manifest::resolve::{CONTENT_LEN_MAX, Content};
use crate::manifest::revision::Hash;
use crate::state::record::{Accepted, Held, LastRun, Losses, ManifestFile, PodRecord, RecordPhase};

/// The number of a file's format: `N` is written, and what is older is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Format<const N: u32>;

impl<const N: u32> Serialize for Format<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(N)
    }
}

impl<'de, const N: u32> Deserialize<'de> for Format<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = u32::deserialize(deserializer)?;
        if (1..=N).contains(&found) {
            Ok(Self)
        } else {
            Err(D::Error::custom(format!("there is no format {found}")))
        }
    }
}

/// `spec.json`: what was accepted last, and all that is needed to make the pod's record anew. By
/// the agent, before the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpecFile {
    /// The file's format. 2: `held`.
    pub format: Format<2>,
    /// The instance.
    pub id: PodId,
    /// The manifest that has the pod.
    pub source: ManifestFile,
    /// Which revision `spec` is.
    pub accepted: Accepted,
    /// The revisions before it, oldest first.
    pub history: Vec<Accepted>,
    /// When the instance was made.
    pub created_at: WallTime,
    /// Whether the pod was rolled back to it.
    #[serde(default)]
    pub held: Option<Held>,
    /// The specification.
    pub spec: PodSpec,
}

impl Checkpoint for SpecFile {
    const FORMAT: u32 = 2;
}

impl SpecFile {
    /// The file that goes with a record. `spec` must be the revision that the record accepts.
    #[must_use]
    pub fn of(record: &PodRecord, spec: PodSpec) -> Self {
        let PodRecord {
            id,
            name: _in_spec,
            source,
            accepted,
            history,
            phase: _,
            created_at,
            losses: _,
            held,
            // A revision that is found without its record is not judged.
            trial: _,
            successor: _,
            // It is as one that was never evicted then.
            eviction: _,
        } = record;
        Self {
            format: Format,
            id: *id,
            source: source.clone(),
            accepted: accepted.clone(),
            history: history.clone(),
            created_at: *created_at,
            held: *held,
            spec,
        }
    }

    /// The record, when the store has lost it. Whether the pod was stopping or through is lost
    /// with it: it counts as active, and what its directory and its executor say corrects that.
    #[must_use]
    pub fn to_record(&self) -> PodRecord {
        let Self { format: _, id, source, accepted, history, created_at, held, spec } = self;
        PodRecord {
            id: *id,
            name: spec.name.clone(),
            source: source.clone(),
            accepted: accepted.clone(),
            history: history.clone(),
            phase: RecordPhase::Active,
            created_at: *created_at,
            losses: Losses::default(),
            held: *held,
            trial: None,
            successor: None,
            eviction: None,
        }
    }
}

/// `configs/<ns>_<name>/<digest>.json`: what a revision of a pod uses of ConfigMaps and Secrets. By
/// the agent, before the specification that refers to it. The only place where values of Secrets
/// are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    /// The file's format.
    pub format: Format<1>,
    /// What it uses.
    pub content: Content,
}

impl Checkpoint for ConfigFile {
    const FORMAT: u32 = 1;
    /// In base64.
    const LEN_MAX: u64 = 2 * CONTENT_LEN_MAX as u64;
}

/// `config-key.json`: the key of the hashes over content of ConfigMaps and Secrets. By the agent,
/// once. With another key every hash is another, which looks like a change of all of them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigKeyFile {
    /// The file's format.
    pub format: Format<1>,
    /// Random bytes.
    pub key: [u8; 32],
}

impl std::fmt::Debug for ConfigKeyFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConfigKeyFile")
    }
}

impl Checkpoint for ConfigKeyFile {
    const FORMAT: u32 = 1;
}

/// `attempt-<n>.json`: a run that is about to begin. By the executor, before the program of that
/// run is executed. Without an exit file, the run may have begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttemptFile {
    /// The file's format. 2: `pod_since`.
    pub format: Format<2>,
    /// Which run.
    pub attempt: Attempt,
    /// The hash of the container's specification that is run (`Revision::containers`).
    pub container_hash: Hash,
    /// In which boot. A run of another boot has ended.
    pub boot: BootId,
    /// When, on the steady clock of that boot.
    pub announced: BootTime,
    /// When, to be shown.
    pub announced_at: WallTime,
    /// How many runs before this one, without a gap, were too short to clear the back-off.
    pub backoff_count: u32,
    /// Since when the pod shall run, on that clock: its deadline is counted from then by whichever
    /// executor it has in that boot.
    #[serde(default)]
    pub pod_since: Option<BootTime>,
}

impl Checkpoint for AttemptFile {
    const FORMAT: u32 = 2;
}

/// `exit-<n>.json`: how a run ended. By the executor, before anyone is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExitFile {
    /// The file's format. 2: `run.message`.
    pub format: Format<2>,
    /// Which run; the same as in `run`.
    pub attempt: Attempt,
    /// The run.
    pub run: LastRun,
}

impl Checkpoint for ExitFile {
    const FORMAT: u32 = 2;
}

impl ExitFile {
    /// The file for a run.
    #[must_use]
    pub fn of(run: LastRun) -> Self {
        Self { format: Format, attempt: run.attempt, run }
    }
}
