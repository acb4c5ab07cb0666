//! [`Service`]: the one thing that knows pods, for everybody outside the agent. The shapes of the
//! wire (Kubernetes, Mesos) are adapters on it, in `api`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::usage::Meter;
use crate::clock::{BootTime, WallTime};
use crate::config::Reserve;
use crate::ids::PodName;
use crate::manifest::pod::PodSpec;
use crate::metrics::Metrics;
use crate::state::paths::Paths;

// What is seen of a pod is told in the words of those who know it; whoever shows it needs to know
// the service only.
pub use super::usage::{ContainerUsage, Detail, Readings};
pub use crate::executor::protocol::{ContainerReport, ContainerStatus, Goal, PodReport};
pub use crate::reconciler::Alarm;
pub use crate::state::record::{
    Accepted, Exit, LastRun, Losses, ManifestFile, Moment, Outcome, PodRecord, RecordPhase,
    TerminationCause,
};
pub use crate::state::store::{EventKind, EventRecord};

/// Most requests waiting for the agent's loop.
pub const REQUESTS_MAX: usize = 256;

/// Everything that can be seen, at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Counts the changes since the agent started; Kubernetes' `resourceVersion`.
    pub version: u64,
    /// Whether every pod found at the start has been dealt with once.
    pub recovered: bool,
    /// What is still waited for, in words, if that is not so.
    pub unready: Option<String>,
    /// Every pod instance with a record, those that are going included. By name, then age.
    pub pods: Vec<Arc<PodView>>,
    /// What is wrong with the manifest directories.
    pub alarms: Vec<Alarm>,
    /// What is wrong in manifest files, in words (`file:line:column: …`).
    pub faults: BTreeMap<ManifestFile, Vec<String>>,
    /// Oldest first.
    pub events: Arc<VecDeque<Arc<EventRecord>>>,
    /// About the agent itself.
    pub agent: AgentView,
}

/// One pod instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodView {
    /// The [`Snapshot::version`] at which this view last changed.
    pub version: u64,
    /// Its record.
    pub record: PodRecord,
    /// The accepted specification; none if it was lost.
    pub spec: Option<Arc<PodSpec>>,
    /// What its executor reported last.
    pub report: Option<PodReport>,
    /// Whether its executor answers.
    pub executor: ExecutorView,
    /// Faults of the manifest that has the pod, and why a step for it failed last.
    pub problems: Vec<String>,
}

/// What is known of an executor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecutorView {
    /// There is none.
    Absent,
    /// It does not answer (yet).
    Silent,
    /// It answers.
    Connected {
        /// Its process.
        pid: u32,
        /// Its build.
        build: String,
    },
}

/// About the agent itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentView {
    /// Its version.
    pub version: String,
    /// Since when it runs.
    pub started_at: WallTime,
    /// The same, on the steady clock.
    pub started: BootTime,
    /// How the store was found at the start, in words.
    pub store: String,
    /// Why the last commit failed, if it did.
    pub store_fault: Option<String>,
    /// Why the configuration could not be read again: what it was is in force.
    pub config_fault: Option<String>,
    /// Keys of the configuration that were changed and wait for a restart.
    pub restart_for: Vec<&'static str>,
    /// How it limits and kills: which kind of cgroups, in words.
    pub cgroups: String,
    /// Name of the cgroup of all pods: the part that their paths have in common.
    pub cgroup: String,
    /// What pods can't ask for, of what the machine has.
    pub reserve: Reserve,
    /// Most bytes of the logs of all pods together.
    pub log_node_bytes: u64,
    /// Manifest directories, as configured.
    pub directories: Vec<String>,
    /// Where everything lies.
    pub paths: Paths,
}

/// What can be asked of the agent.
#[derive(Debug)]
pub enum Request {
    /// Remove a pod by removing its manifest.
    Delete {
        /// The pod.
        name: PodName,
        /// The file that was removed, or why nothing was.
        answer: oneshot::Sender<Result<ManifestFile, DeleteRefused>>,
    },
}

/// Why a pod can't be deleted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeleteRefused {
    /// There is none of that name.
    #[error("pod {0} not found")]
    NotFound(PodName),
    /// Its manifest has other documents.
    #[error(
        "pod {name} is one of several documents in {source_file}: remove it there; the agent does \
         not edit files of several documents"
    )]
    SharedFile {
        /// The pod.
        name: PodName,
        /// Its file.
        source_file: ManifestFile,
    },
    /// Its manifest can't be removed.
    #[error("the manifest {source_file} of pod {name} can't be removed: {why}")]
    NotRemoved {
        /// The pod.
        name: PodName,
        /// Its file.
        source_file: ManifestFile,
        /// Why.
        why: String,
    },
}

/// The agent, seen from outside. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Service {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    requests: mpsc::Sender<Request>,
    metrics: Arc<Metrics>,
    meter: Option<Arc<Meter>>,
}

/// The agent's loop has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the agent is ending")]
pub struct AgentEnding;

impl Service {
    /// A service on the two ends that the agent's loop holds the others of.
    #[must_use]
    pub fn new(snapshots: watch::Receiver<Arc<Snapshot>>, requests: mpsc::Sender<Request>) -> Self {
        Self { snapshots, requests, metrics: Arc::default(), meter: None }
    }

    /// The same, with what is counted, and what reads what containers use.
    #[must_use]
    pub(super) fn metered(self, metrics: Arc<Metrics>, meter: Meter) -> Self {
        Self { metrics, meter: Some(Arc::new(meter)), ..self }
    }

    /// What the agent counts.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// What the pods of a snapshot use now.
    pub async fn usage(&self, snapshot: &Arc<Snapshot>, detail: Detail) -> Readings {
        match &self.meter {
            Some(meter) => meter.clone().read(snapshot.clone(), detail).await,
            None => Readings::default(),
        }
    }

    /// Everything, now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    /// Tells of every change: await `changed()`, then `borrow_and_update()`.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// Removes a pod by removing its manifest. That it was removed does not mean that the pod has
    /// ended.
    ///
    /// # Errors
    /// When the agent is ending. Why a pod was not deleted is in the inner result.
    pub async fn delete(
        &self,
        name: PodName,
    ) -> Result<Result<ManifestFile, DeleteRefused>, AgentEnding> {
        let (answer, answered) = oneshot::channel();
        let request = Request::Delete { name, answer };
        self.requests.send(request).await.map_err(|_| AgentEnding)?;
        answered.await.map_err(|_| AgentEnding)
    }
}
