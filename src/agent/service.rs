//! [`Service`]: the one thing that knows pods, for everybody outside the agent. The shapes of the
//! wire (Kubernetes, Mesos) are adapters on it, in `api`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::inspect::{self, Inspection};
use super::sessions::ToPod;
use super::usage::Meter;
use crate::clock::{BootTime, WallTime};
use crate::config::{ImageGc, PressureLimits};
use crate::ids::{ContainerName, PodId, PodName};
use crate::manifest::diagnostic::Diagnostic;
use crate::manifest::document::DocumentName;
use crate::manifest::pod::PodSpec;
use crate::metrics::Metrics;
use crate::state::paths::Paths;

// What is seen of a pod is told in the words of those who know it; whoever shows it needs to know
// the service only.
pub use super::image_keeper::{
    Got, IdleImages, ImageKeeper, ImageView, ImagesRefused, ImagesView, InUse,
};
pub use super::inspect::{Draft, TooLarge};
pub use super::put::NewManifest;
pub use super::traffic::{Counts, Traffic};
pub use super::usage::{ContainerUsage, Detail, Readings};
pub use crate::executor::protocol::{
    CheckReport, ContainerReport, ContainerStatus, Goal, PodReport, ProbeFault,
};
pub use crate::executor::question::{Purpose, Seen};
pub use crate::manifest::document::DocumentKind;
pub use crate::provisioner::failure::Retry;
pub use crate::provisioner::pull::{PullPhase, PullProgress};
pub use crate::reconciler::pressure::{Pressure, PressureKind, Strain, Verdict};
pub use crate::reconciler::{Alarm, ImageTrouble, Node, Requests, WaitReason};
pub use crate::state::record::{
    Accepted, CONFIG_ERROR, EndCause, Evicted, Eviction, EvictionCause, Exit, Held, KeptRevision,
    LastRun, Losses, ManifestFile, Moment, Outcome, PodRecord, RecordPhase, TerminationCause,
};
pub use crate::state::store::{EventKind, EventRecord};

/// [`AgentView::store`] of a store that was whole, or new.
pub const SOUND: &str = "sound";

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
    /// Pods that several files ask for, in words.
    pub contested: Vec<String>,
    /// What is to be said of manifest files.
    pub notices: BTreeMap<ManifestFile, Vec<Notice>>,
    /// The ConfigMaps and Secrets that count, without their values.
    pub documents: Arc<Vec<DocumentView>>,
    /// Manifests that are for other nodes, in words.
    pub passed_over: Vec<String>,
    /// What the machine has for pods.
    pub node: Node,
    /// What all pods request that were admitted.
    pub requested: Requests,
    /// Oldest first.
    pub events: Arc<VecDeque<Arc<EventRecord>>>,
    /// What the node runs out of.
    pub pressure: Pressure,
    /// About the agent itself.
    pub agent: AgentView,
}

/// A ConfigMap or Secret, without its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentView {
    /// What it is known by.
    pub name: DocumentName,
    /// `type` of a Secret.
    pub secret_type: Option<String>,
    /// The file that has it.
    pub source: ManifestFile,
    /// Whether that file says something else now, which is faulty.
    pub is_stale: bool,
    /// The keys, and how many bytes their values have.
    pub keys: Vec<(String, usize)>,
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
    /// Its addresses.
    pub addresses: Addresses,
    /// Faults of the manifest that has the pod, and why a step for it failed last.
    pub problems: Vec<String>,
    /// Whether it waits for room on the node, or for its images.
    pub waits: Option<Waits>,
}

/// Where a pod can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Addresses {
    /// The pod's, the first one first; none if it is in no network (yet).
    pub pod: Vec<String>,
    /// The host's.
    pub host: Vec<String>,
}

/// Something in a manifest file that is worth a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Whether something can't be used because of it.
    pub is_fault: bool,
    /// The pod that it is about, if that can be told.
    pub pod: Option<PodName>,
    /// In full, with the place marked (`file:line:column: …`).
    pub text: String,
    /// In one line.
    pub line: String,
}

/// A pod waits for room on the node, or for its images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waits {
    /// What waits.
    pub who: Waiting,
    /// For what.
    pub reason: WaitReason,
    /// The same for people.
    pub why: String,
}

/// What of a pod waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// The pod as a whole: there is no instance, and its record is made up to show it.
    Pod,
    /// Its newest revision; the one before runs on.
    Revision,
    /// What it is: images of it were lost. What runs of it runs on.
    Instance,
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
    /// Most bytes of the logs of all pods together.
    pub log_node_bytes: u64,
    /// When images go that nobody uses.
    pub image_gc: ImageGc,
    /// When pods are evicted.
    pub pressure: PressureLimits,
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
        /// Given back when it is done.
        permit: OwnedSemaphorePermit,
        /// The file that was removed, or why nothing was.
        answer: oneshot::Sender<Result<ManifestFile, DeleteRefused>>,
    },
    /// Put a manifest into the first manifest directory.
    Put {
        /// The manifest.
        new: NewManifest,
        /// Given back when it is done.
        permit: OwnedSemaphorePermit,
        /// What was written, or why nothing was.
        answer: oneshot::Sender<Result<Written, PutRefused>>,
    },
    /// Let a new instance take a pod's place.
    Restart {
        /// The pod.
        name: PodName,
        /// Given when it is certain.
        answer: oneshot::Sender<Result<Done, Refused>>,
    },
    /// Let a pod be what it was, until its manifest changes.
    RollBack {
        /// The pod.
        name: PodName,
        /// The revision; none for the one before.
        to: Option<u64>,
        /// Given when it is certain.
        answer: oneshot::Sender<Result<Done, Refused>>,
    },
    /// Let a pod that was rolled back follow its manifest again.
    Release {
        /// The pod.
        name: PodName,
        /// Given when it is certain.
        answer: oneshot::Sender<Result<Done, Refused>>,
    },
    /// Read the earlier revisions of a pod.
    Revisions {
        /// The pod.
        name: PodName,
        /// Oldest first, or why they can't be read.
        answer: oneshot::Sender<Result<Vec<KeptRevision>, String>>,
    },
    /// Tell who uses which image.
    ImagesInUse {
        /// All of them.
        answer: oneshot::Sender<InUse>,
    },
    /// Images came or went.
    ImagesChanged,
    /// A file that images should be loaded from is faulty: tell of it.
    ImageFileFaulty {
        /// Which file, and what is wrong, for people.
        text: String,
    },
    /// The node runs out of something, or does not any more.
    Pressure(Pressure),
    /// Evict an instance.
    Evict {
        /// Which.
        id: PodId,
        /// As which revision.
        revision: u64,
        /// Why.
        verdict: Verdict,
    },
    /// Find the way to the executor of an instance.
    Way {
        /// Which.
        pod: PodId,
        /// None if that does not answer.
        answer: oneshot::Sender<Option<ToPod>>,
    },
    /// Show what decisions are made on.
    Inspect {
        /// All of it.
        answer: oneshot::Sender<Box<Inspection>>,
    },
}

/// A manifest was put into its directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The file.
    pub file: ManifestFile,
    /// The pods in it.
    pub pods: Vec<PodName>,
    /// What is worth a word, as text.
    pub warnings: Vec<String>,
}

/// Why a manifest was not put into its directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PutRefused {
    /// No manifest may be called that.
    #[error("{name:?} is no name for a manifest: {why}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// It has faults.
    #[error("{}", .0.join("\n"))]
    Faulty(Vec<String>),
    /// A pod of it belongs to another file.
    #[error("pod {name} is in {owner}: change it there, or remove it there first")]
    Owned {
        /// The pod.
        name: PodName,
        /// The file.
        owner: ManifestFile,
    },
    /// A ConfigMap or Secret of it belongs to another file.
    #[error("{name} is in {owner}: change it there, or remove it there first")]
    OwnedDocument {
        /// The document.
        name: DocumentName,
        /// The file.
        owner: ManifestFile,
    },
    /// ConfigMaps or Secrets would go that are in the file and not in what was put.
    #[error(
        "{file} has also {}, which would go: remove it there first, or ask for it (`--prune`)",
        documents.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    DropsDocuments {
        /// The file.
        file: ManifestFile,
        /// The documents.
        documents: Vec<DocumentName>,
    },
    /// Pods would end that are in the file and not in what was put.
    #[error(
        "{file} has also {}, which would end: remove it there first, or ask for it (`--prune`)",
        listed(pods)
    )]
    Drops {
        /// The file.
        file: ManifestFile,
        /// The pods.
        pods: Vec<PodName>,
    },
    /// What is in the directory can't be believed.
    #[error("nothing is put there now: {0}")]
    Distrusted(String),
    /// The agent watches no directory.
    #[error("the agent has no manifest directory")]
    NoDirectory,
    /// The disk did not take it.
    #[error("the manifest {file} can't be written: {why}")]
    NotWritten {
        /// The file.
        file: ManifestFile,
        /// Why.
        why: String,
    },
}

/// What was asked of a pod is certain to happen: it is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// What happens, for people.
    pub message: String,
    /// The number of the revision that runs then.
    pub number: u64,
}

/// Why something is not done with a pod.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is none of that name.
    #[error("pod {0} not found")]
    NotFound(PodName),
    /// Something stands against it.
    #[error("{0}")]
    Conflict(String),
    /// It went wrong.
    #[error("{0}")]
    Failed(String),
}

/// What the agent would do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plans {
    /// By pod.
    pub items: Vec<Planned>,
    /// What is wrong in the manifest directories.
    pub faults: Vec<Fault>,
}

/// What the agent would do about a pod now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The pod; or the instance, if not even its pod is known.
    pub pod: String,
    /// In order.
    pub actions: Vec<PlannedAction>,
    /// What it waits for.
    pub waits: Option<String>,
    /// The revision that it was rolled back to, while that keeps it from following its manifest.
    pub held: Option<u64>,
}

/// Something that the agent would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedAction {
    /// What, in one word.
    pub action: String,
    /// Why.
    pub reason: String,
}

/// What manifests would change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differences {
    /// By pod.
    pub items: Vec<Difference>,
    /// What is wrong in the files that were asked about; if none were, the faults in the manifest
    /// directories.
    pub faults: Vec<Fault>,
}

/// What would change of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The pod.
    pub pod: PodName,
    /// What it would cost.
    pub change: Change,
    /// The containers that start.
    pub containers: Vec<ContainerName>,
    /// What it is.
    pub before: Option<Arc<PodSpec>>,
    /// What it would be.
    pub after: Option<Arc<PodSpec>>,
    /// The revision that it was rolled back to, if that keeps it from following its manifest.
    pub held: Option<u64>,
}

/// What a change of a pod costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Create,
    /// Another instance takes its place.
    Replace,
    /// Some containers are started again.
    Restart,
    /// Nothing is started again.
    Update,
    /// It goes.
    Delete,
    /// Nothing.
    Nothing,
}

/// Something wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub file: String,
    /// What.
    pub diagnostic: Diagnostic,
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
    /// For what may take long because of the disk, the network behind it, or its size.
    slow: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    meter: Option<Arc<Meter>>,
    images: Option<ImageKeeper>,
}

/// What may take long is done for so many at a time.
const SLOW_MAX: usize = 2;

/// Names of pods in a sentence.
fn listed(pods: &[PodName]) -> String {
    let pods: Vec<String> = pods.iter().map(|name| format!("pod {name}")).collect();
    pods.join(", ")
}

/// The agent's loop has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the agent is ending")]
pub struct AgentEnding;

impl Service {
    /// A service on the two ends that the agent's loop holds the others of.
    #[must_use]
    pub fn new(snapshots: watch::Receiver<Arc<Snapshot>>, requests: mpsc::Sender<Request>) -> Self {
        let slow = Arc::new(Semaphore::new(SLOW_MAX));
        Self { snapshots, requests, slow, metrics: Arc::default(), meter: None, images: None }
    }

    /// The same, with the images of the node.
    #[must_use]
    pub(super) fn with_images(self, images: ImageKeeper) -> Self {
        Self { images: Some(images), ..self }
    }

    /// The images of the node; none for a service that is made up for a test.
    #[must_use]
    pub fn images(&self) -> Option<&ImageKeeper> {
        self.images.as_ref()
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

    /// The same for who decides by it: nothing that was read before, and none if it takes too long.
    pub async fn whole_usage(&self, snapshot: &Arc<Snapshot>, detail: Detail) -> Option<Readings> {
        self.meter.clone()?.read_whole(snapshot.clone(), detail).await
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
        let permit = self.slow_permit().await?;
        self.ask(|answer| Request::Delete { name, permit, answer }).await
    }

    /// Puts a manifest into the first manifest directory; it is there durably then.
    ///
    /// # Errors
    /// As [`Service::delete`].
    pub async fn put(&self, new: NewManifest) -> Result<Result<Written, PutRefused>, AgentEnding> {
        let permit = self.slow_permit().await?;
        self.ask(|answer| Request::Put { new, permit, answer }).await
    }

    /// Lets a new instance take a pod's place. Answers when that is recorded, not when it runs.
    ///
    /// # Errors
    /// As [`Service::delete`].
    pub async fn restart(&self, name: PodName) -> Result<Result<Done, Refused>, AgentEnding> {
        self.ask(|answer| Request::Restart { name, answer }).await
    }

    /// Lets a pod be what it was at an earlier revision, until its manifest changes. Answers when
    /// that is recorded, not when it runs.
    ///
    /// # Errors
    /// As [`Service::delete`].
    pub async fn roll_back(
        &self,
        name: PodName,
        to: Option<u64>,
    ) -> Result<Result<Done, Refused>, AgentEnding> {
        self.ask(|answer| Request::RollBack { name, to, answer }).await
    }

    /// Lets a pod that was rolled back follow its manifest again. Answers when that is recorded.
    ///
    /// # Errors
    /// As [`Service::delete`].
    pub async fn release(&self, name: PodName) -> Result<Result<Done, Refused>, AgentEnding> {
        self.ask(|answer| Request::Release { name, answer }).await
    }

    /// The earlier revisions of a pod, oldest first; the inner error says why they can't be read.
    ///
    /// # Errors
    /// As [`Service::delete`].
    pub async fn revisions(
        &self,
        name: PodName,
    ) -> Result<Result<Vec<KeptRevision>, String>, AgentEnding> {
        self.ask(|answer| Request::Revisions { name, answer }).await
    }

    /// What the agent would do now, and what is wrong in manifests.
    ///
    /// # Errors
    /// As [`Service::delete`].
    pub async fn plan(&self) -> Result<Plans, AgentEnding> {
        Ok(inspect::plan(*self.ask(|answer| Request::Inspect { answer }).await?))
    }

    /// What would change if these files were in the manifest directory; without any, what the
    /// manifests as they are would change.
    ///
    /// # Errors
    /// As [`Service::delete`].
    pub async fn diff(
        &self,
        drafts: Vec<Draft>,
    ) -> Result<Result<Differences, TooLarge>, AgentEnding> {
        let permit = self.slow_permit().await?;
        let inspection = self.ask(|answer| Request::Inspect { answer }).await?;
        // Parsing ten megabytes takes its time.
        let made = tokio::task::spawn_blocking(move || {
            let _held = permit;
            inspect::diff(*inspection, &drafts)
        });
        made.await.map_err(|_| AgentEnding)
    }

    /// Waits for the turn of what may take long. What hangs takes up only so many of the threads
    /// that the workers of pods need, too.
    async fn slow_permit(&self) -> Result<OwnedSemaphorePermit, AgentEnding> {
        self.slow.clone().acquire_owned().await.map_err(|_| AgentEnding)
    }

    pub(super) async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, AgentEnding> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(request(answer)).await.map_err(|_| AgentEnding)?;
        answered.await.map_err(|_| AgentEnding)
    }
}

#[cfg(test)]
impl Service {
    /// The same, with an empty store of images under a directory.
    pub(crate) fn with_images_under(self, root: &std::path::Path) -> Self {
        let records = crate::state::store::MemoryStore::default();
        let (records, _) = crate::state::writer::start(records, self.metrics.clone()).unwrap();
        let store = crate::provisioner::store::Store::open(
            &Paths::under(root).images(),
            crate::provisioner::store::Contention::Refuse,
        );
        let store = store.unwrap();
        let provisioner =
            crate::provisioner::pull::Provisioner::new(store.clone(), Default::default());
        let keeper = ImageKeeper::new(store, provisioner, records, self.requests.clone());
        self.with_images(keeper)
    }
}

/// Answers what is asked because of images; whether it was that.
#[cfg(test)]
pub(crate) fn nobody_uses_images(request: Request) -> bool {
    match request {
        Request::ImagesInUse { answer } => answer.send(InUse::default()).is_ok(),
        Request::ImagesChanged => true,
        Request::Delete { .. }
        | Request::Put { .. }
        | Request::Restart { .. }
        | Request::RollBack { .. }
        | Request::Release { .. }
        | Request::Revisions { .. }
        | Request::ImageFileFaulty { .. }
        | Request::Pressure(_)
        | Request::Evict { .. }
        | Request::Way { .. }
        | Request::Inspect { .. } => false,
    }
}
