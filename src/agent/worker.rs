//! Performing a plan: one worker for a pod at a time, its steps in order.
//!
//! Every action is idempotent and may be cut off anywhere. What has become true is told to the
//! loop at once ([`Update`]), in order; that the worker is done is told last, so the loop never
//! plans for a pod on a state older than what was done for it.

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::link::{LinkHandle, TellError};
use super::requests::RollBackAsk;
use super::{configs, events, images};
use crate::cgroup::{CgroupBase, CgroupError, PodCgroup};
use crate::clock::WallTime;
use crate::executor::boot::{Boot, LogLimits};
use crate::executor::client::{
    self, ConnectError, Connection, ExecutorProgram, HelloError, SpawnError, Welcome,
};
use crate::executor::protocol::{Goal, PodNetwork, ToExecutor, WantedPod};
use crate::ids::{PodId, PodName};
use crate::manifest::pod::PodSpec;
use crate::manifest::revision::Revision;
use crate::metrics::Metrics;
use crate::network::{Attached, NetworkError, Networks, PodRequest};
use crate::reconciler::{Action, Creation, Key, Step, StoredSpec};
use crate::state::checkpoint::{self, CheckpointError, SpecFile};
use crate::state::paths::{Paths, PodPaths};
use crate::state::record::{Accepted, Eviction, KeptRevision, Losses, PodRecord, RecordPhase};
use crate::state::store::{Change, EventRecord, StoreError};
use crate::state::writer::StoreHandle;

/// How long an executor may take to answer anything.
pub(super) const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// How long an executor may take to check another build and continue as it.
const UPGRADE_TIME_MAX: Duration = Duration::from_secs(30);
/// How long killed processes may take to be gone.
const KILL_TIME_MAX: Duration = Duration::from_secs(10);

/// What workers need; the same for all.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) paths: Paths,
    pub(super) store: StoreHandle,
    pub(super) cgroups: CgroupBase,
    pub(super) program: Arc<ExecutorProgram>,
    pub(super) logs: LogLimits,
    /// Directories of the host that no container may see.
    pub(super) masked: Vec<std::path::PathBuf>,
    pub(super) updates: mpsc::Sender<Update>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) networks: Arc<Networks>,
}

/// What a worker found or made true.
#[derive(Debug)]
pub(super) enum Update {
    /// The record and the specification are durable.
    Accepted { record: PodRecord, spec: Arc<PodSpec>, event: EventRecord },
    /// The record is durable.
    Recorded { record: PodRecord, event: EventRecord },
    /// The record of an instance that goes for another one is durable.
    Retired { record: PodRecord, successor: Option<StoredSpec>, event: EventRecord },
    /// The record of a lost executor is durable.
    LossNoted { record: PodRecord, event: EventRecord },
    /// The record is gone, and everything else with it.
    Forgotten(PodId),
    /// A cgroup or runtime directory may be there, or is certainly not.
    Runtime { id: PodId, present: bool },
    /// An executor answers.
    Linked { id: PodId, connection: Box<Connection>, welcome: Box<Welcome> },
    /// There is no executor.
    Unlinked(PodId),
    /// Whatever executor there was, it is killed.
    Killed(PodId),
    /// There may be an executor, and it could not be reached.
    Unreached(PodId),
    /// The executor did not want to be upgraded.
    UpgradeRefused { id: PodId, why: String },
    /// The earlier revisions of a pod were read, for somebody who wants it rolled back.
    RevisionsRead { ask: RollBackAsk, found: Result<Vec<KeptRevision>, StoreError> },
    /// A search for the images of a pod tells how it goes.
    Images(images::Found),
    /// The worker has ended.
    Done { key: Key, result: Result<(), ActError> },
}

/// An instance that a worker acts on, as the loop knew it when it sent the worker.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) id: PodId,
    pub(super) record: Option<PodRecord>,
    pub(super) spec: Option<Arc<PodSpec>>,
    pub(super) link: Option<LinkHandle>,
}

/// A step that could not be done. It will be tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum ActError {
    #[error("can't {attempted} {}", path.display())]
    Io { attempted: &'static str, path: std::path::PathBuf, source: std::io::Error },
    #[error("can't keep the specification")]
    Checkpoint(#[source] CheckpointError),
    #[error("can't record it")]
    Store(#[source] StoreError),
    #[error("can't prepare its cgroups")]
    Cgroup(#[source] CgroupError),
    #[error("can't start its executor")]
    Spawn(#[source] SpawnError),
    #[error("can't reach its executor")]
    Connect(#[source] ConnectError),
    #[error("its executor does not introduce itself")]
    Hello(#[source] HelloError),
    #[error("can't give it its network")]
    Network(#[source] NetworkError),
    #[error("can't tell its executor what is wanted")]
    Tell(#[source] TellError),
    #[error("its processes were killed and are not gone within {} s", .0.as_secs())]
    Undead(Duration),
    #[error("nothing is known of the instance any more")]
    Unknown,
    #[error("a step for it failed unexpectedly")]
    Panicked,
}

impl ActError {
    /// The reason of the event that tells of it.
    pub(super) fn reason(&self) -> &'static str {
        // The kubelet's word for a pod whose network can't be made.
        if matches!(self, Self::Network(_)) { "FailedCreatePodSandBox" } else { "StepFailed" }
    }
}

/// Performs the steps for one key. Tells the loop about everything, last that it is done.
pub(super) async fn work(
    context: Arc<Context>,
    key: Key,
    steps: Vec<Step>,
    subjects: Vec<Subject>,
) {
    let acting = tokio::spawn(act_all(context.clone(), key.clone(), steps, subjects));
    // A panic in a step must not leave the pod without a worker for ever.
    let result = acting.await.unwrap_or(Err(ActError::Panicked));
    context.tell(Update::Done { key, result }).await;
}

async fn act_all(
    context: Arc<Context>,
    key: Key,
    steps: Vec<Step>,
    subjects: Vec<Subject>,
) -> Result<(), ActError> {
    for Step { action, reason } in steps {
        tracing::info!(pod = %key, action = action.name(), reason = %reason, "acting");
        let counted = context.metrics.steps.get(action.name());
        counted.all.add_one();
        let acted = context.act(action, &reason.to_string(), &subjects).await;
        acted.inspect_err(|_| counted.failed.add_one())?;
    }
    Ok(())
}

impl Context {
    pub(super) async fn tell(&self, update: Update) {
        // The loop is gone only when the agent ends.
        let _ended = self.updates.send(update).await;
    }

    async fn act(
        &self,
        action: Action,
        reason: &str,
        subjects: &[Subject],
    ) -> Result<(), ActError> {
        let subject = |id: PodId| subjects.iter().find(|s| s.id == id).ok_or(ActError::Unknown);
        match action {
            Action::Create(creation) => self.create(*creation, reason).await,
            Action::Accept { record, spec, before } => {
                self.accept(*record, spec, before, reason).await
            }
            Action::Record(record) => {
                let event = commit(&self.store, &record, None, reason).await?;
                self.tell(Update::Recorded { record: *record, event }).await;
                Ok(())
            }
            Action::Retire { record, keeps, successor } => {
                let keeps = keeps.into_iter().map(Box::new).map(Change::PutRevision);
                let event = commit(&self.store, &record, keeps, reason).await?;
                self.tell(Update::Retired { record: *record, successor, event }).await;
                Ok(())
            }
            Action::NoteLoss(record) => {
                let event = commit(&self.store, &record, None, reason).await?;
                self.tell(Update::LossNoted { record: *record, event }).await;
                Ok(())
            }
            Action::Start(id) => self.start(subject(id)?).await,
            Action::SetSpec { id, goal } => self.set_spec(subject(id)?, goal).await,
            Action::Upgrade(id) => self.upgrade(subject(id)?).await,
            Action::Kill(id) => {
                self.kill(id).await?;
                self.tell(Update::Killed(id)).await;
                Ok(())
            }
            Action::Release(id) => self.release(subject(id)?).await,
            Action::Destroy(id) => self.destroy(id, subjects).await,
            Action::Forget { id, revisions_of } => {
                let mut changes = vec![Change::ForgetPod(id)];
                if let Some(name) = revisions_of.clone() {
                    let directory = self.paths.configs(&name);
                    blocking(move || remove_tree(&directory)).await?;
                }
                changes.extend(revisions_of.map(Change::ForgetRevisions));
                self.store.commit(changes).await.map_err(ActError::Store)?;
                self.tell(Update::Forgotten(id)).await;
                Ok(())
            }
        }
    }

    async fn create(&self, creation: Creation, reason: &str) -> Result<(), ActError> {
        let Creation { source, spec, number, history, held, trial, eviction, is_first } = creation;
        let mut bits = [0_u8; 16];
        rustix::rand::getrandom(&mut bits, rustix::rand::GetRandomFlags::empty()).map_err(
            |errno| ActError::Io {
                attempted: "draw a random id",
                path: "getrandom(2)".into(),
                source: errno.into(),
            },
        )?;
        let revision = Revision::of(&spec);
        let now = WallTime::now();
        let accepted =
            Accepted { number, digest: revision.digest(), shared: revision.shared, at: now };
        let record = PodRecord {
            id: PodId::from_random(u128::from_ne_bytes(bits)),
            name: spec.name.clone(),
            source,
            accepted,
            history,
            phase: RecordPhase::Active,
            created_at: now,
            losses: Losses::default(),
            held,
            trial,
            successor: None,
            eviction,
        };
        // Meanwhile the executor starts: it does nothing before it is told what for, and that is only
        // when both are durable. If the agent dies before, the executor ends by itself.
        let (durable, executor) = tokio::join!(
            make_durable(&self.paths, &self.store, &record, &spec, is_first, reason),
            self.start_executor(record.id, &record.name),
        );
        let id = record.id;
        match durable {
            Ok((Ok(()), event)) => {
                self.tell(Update::Accepted { record, spec, event }).await;
                self.tell(Update::Runtime { id, present: true }).await;
                self.introduce(id, executor).await
            }
            // The next attempt is to go on with this instance, and not to make one more each time.
            Ok((Err(error), event)) => {
                self.tell(Update::Recorded { record, event }).await;
                self.tell(Update::Runtime { id, present: true }).await;
                Err(error)
            }
            Err(error) => {
                drop(executor);
                let paths = self.paths.pod(id, &record.name);
                let cgroup = self.cgroups.pod(id);
                let undone = blocking(move || {
                    kill_and_wait(&cgroup)?;
                    cgroup.destroy().map_err(ActError::Cgroup)?;
                    remove_tree(&paths.runtime)?;
                    remove_tree(&paths.data)
                });
                if let Err(error) = undone.await {
                    // What is left is found and removed by the next start of the agent.
                    tracing::warn!(%id, error = super::chain(&error), "can't undo a creation");
                }
                Err(error)
            }
        }
    }

    async fn accept(
        &self,
        record: PodRecord,
        spec: Arc<PodSpec>,
        before: Option<Box<KeptRevision>>,
        reason: &str,
    ) -> Result<(), ActError> {
        // What it was is nowhere else once the specification is written.
        if let Some(before) = before {
            let kept = self.store.commit(vec![Change::PutRevision(before)]).await;
            kept.map_err(ActError::Store)?;
        }
        // The specification first: recovery takes the newer revision from it.
        keep_spec(&self.paths, &record, &spec).await?;
        let event = commit(&self.store, &record, None, reason).await?;
        if spec.config.is_some() || spec.takes_config() {
            let (paths, record) = (self.paths.clone(), record.clone());
            blocking(move || {
                configs::sweep(&paths, &record);
                Ok(())
            })
            .await?;
        }
        self.tell(Update::Accepted { record, spec, event }).await;
        Ok(())
    }

    async fn start(&self, subject: &Subject) -> Result<(), ActError> {
        let record = subject.record.as_ref().ok_or(ActError::Unknown)?;
        let id = record.id;
        self.tell(Update::Runtime { id, present: true }).await;
        let executor = self.start_executor(id, &record.name).await;
        self.introduce(id, executor).await
    }

    /// Starts the executor of an instance of which nothing runs then but that, and connects.
    async fn start_executor(
        &self,
        id: PodId,
        name: &PodName,
    ) -> Result<(Connection, Welcome), ActError> {
        let paths = self.paths.pod(id, name);
        let runtime = paths.runtime.clone();
        let boot = Boot {
            id,
            name: name.clone(),
            paths,
            cgroups: self.cgroups.clone(),
            masked: self.masked.clone(),
            logs: self.logs,
        };
        let program = self.program.clone();
        let cgroup = self.cgroups.pod(id);
        blocking(move || {
            kill_and_wait(&cgroup)?;
            // A cgroup that was killed once must not be entered again: Linux 6.18 kills whatever
            // is cloned into it (it compares the `kill_seq` of the parent's cgroup with that of
            // the target, cgroup_css_set_fork() in kernel/cgroup/cgroup.c).
            cgroup.destroy().map_err(ActError::Cgroup)?;
            cgroup.create().map_err(ActError::Cgroup)?;
            program.spawn(&boot).map_err(ActError::Spawn).map(drop)
        })
        .await?;
        Box::pin(connect(&runtime)).await
    }

    /// Connects to an executor and introduces the agent.
    pub(super) async fn link(&self, id: PodId, runtime: &Path) -> Result<(), ActError> {
        let executor = Box::pin(connect(runtime)).await;
        self.introduce(id, executor).await
    }

    /// Tells the loop how the executor of an instance was reached, or was not.
    async fn introduce(
        &self,
        id: PodId,
        executor: Result<(Connection, Welcome), ActError>,
    ) -> Result<(), ActError> {
        match executor {
            Ok((connection, welcome)) => {
                let (connection, welcome) = (Box::new(connection), Box::new(welcome));
                self.tell(Update::Linked { id, connection, welcome }).await;
                Ok(())
            }
            Err(error) => {
                let is_gone = matches!(error, ActError::Connect(ConnectError::Gone { .. }));
                self.tell(if is_gone { Update::Unlinked(id) } else { Update::Unreached(id) }).await;
                Err(error)
            }
        }
    }

    /// Tells an executor what is wanted. One that is told for the first time gets its network
    /// before that, so that nothing runs without it.
    async fn set_spec(&self, subject: &Subject, goal: Goal) -> Result<(), ActError> {
        let link = subject.link.as_ref().ok_or(ActError::Unknown)?;
        let is_attached = goal == Goal::Run && !link.is_told() && self.attach(subject).await?;
        let told = set_spec(subject, goal).await;
        if told.is_err() && is_attached && !link.is_told() {
            // It may be in the network by now, and the next attempt makes another.
            self.kill(subject.id).await?;
        }
        told
    }

    /// Gives a pod its network, and its executor the namespace; whether there is one.
    async fn attach(&self, subject: &Subject) -> Result<bool, ActError> {
        let Subject { id, spec, link, .. } = subject;
        let spec = spec.clone().ok_or(ActError::Unknown)?;
        let link = link.as_ref().ok_or(ActError::Unknown)?;
        if !spec.wants_network() {
            return Ok(false);
        }
        let cgroup = self.cgroups.pod(*id);
        let entry = cgroup.executor_entry().map_err(ActError::Cgroup)?;
        let request = PodRequest { id: *id, spec, entry: Some(Arc::new(entry)) };
        let attached = self.networks.attach(request).await.map_err(ActError::Network)?;
        let Some(Attached { namespace, addresses }) = attached else { return Ok(false) };
        let network = ToExecutor::Network(PodNetwork { addresses });
        link.send(network, vec![namespace]).await.map_err(ActError::Tell)?;
        Ok(true)
    }

    /// Undoes a pod's network. What fails of it is tried again in the background: the pod is not
    /// kept for it.
    async fn detach(&self, id: PodId) {
        if let Err(error) = self.networks.detach(id).await {
            tracing::warn!(%id, error = super::chain(&error), "can't undo the pod's network yet");
        }
    }

    async fn upgrade(&self, subject: &Subject) -> Result<(), ActError> {
        let link = subject.link.as_ref().ok_or(ActError::Unknown)?;
        let (upgrade, program) = self.program.upgrade().map_err(|source| ActError::Io {
            attempted: "open the executor's program again for",
            path: subject.id.to_string().into(),
            source,
        })?;
        link.send(upgrade, vec![program]).await.map_err(ActError::Tell)?;
        match link.upgraded(self.program.build(), UPGRADE_TIME_MAX).await {
            Ok(()) => Ok(()),
            Err(TellError::Refused(why)) => {
                self.tell(Update::UpgradeRefused { id: subject.id, why }).await;
                Ok(())
            }
            Err(error) => Err(ActError::Tell(error)),
        }
    }

    async fn kill(&self, id: PodId) -> Result<(), ActError> {
        let cgroup = self.cgroups.pod(id);
        blocking(move || kill_and_wait(&cgroup)).await
    }

    async fn release(&self, subject: &Subject) -> Result<(), ActError> {
        let record = subject.record.as_ref().ok_or(ActError::Unknown)?;
        self.kill(subject.id).await?;
        self.detach(subject.id).await;
        let cgroup = self.cgroups.pod(subject.id);
        let paths = self.paths.pod(subject.id, &record.name);
        let is_evicted = matches!(record.eviction, Some(Eviction::Evicted(_)));
        let spec = subject.spec.clone().filter(|_| is_evicted);
        blocking(move || {
            spec.iter().try_for_each(|spec| remove_written(&paths, spec))?;
            cgroup.destroy().map_err(ActError::Cgroup)?;
            remove_tree(&paths.runtime)
        })
        .await?;
        self.tell(Update::Runtime { id: subject.id, present: false }).await;
        Ok(())
    }

    async fn destroy(&self, id: PodId, subjects: &[Subject]) -> Result<(), ActError> {
        self.kill(id).await?;
        self.detach(id).await;
        let name = subjects
            .iter()
            .find(|subject| subject.id == id)
            .and_then(|subject| subject.record.as_ref())
            .map(|record| record.name.clone());
        let is_recorded = name.is_some();
        let cgroup = self.cgroups.pod(id);
        let paths = self.paths.clone();
        blocking(move || {
            cgroup.destroy().map_err(ActError::Cgroup)?;
            remove_tree(&paths.runtime_pods().join(id.to_string()))?;
            if let Some(name) = &name {
                remove_tree(&paths.pod(id, name).logs)?;
            } else {
                remove_logs_of(id, &paths.logs)?;
            }
            // The specification first: without a store, what is left must not look like an instance
            // whose runs are not known. The directory last: it says that there is something left.
            let directory = paths.pods().join(id.to_string());
            remove_durably(&directory, "spec.json")?;
            remove_tree(&directory)
        })
        .await?;
        self.tell(Update::Runtime { id, present: false }).await;
        if !is_recorded {
            self.tell(Update::Forgotten(id)).await;
        }
        Ok(())
    }
}

/// Connects to the executor of a pod and says hello.
async fn connect(runtime: &Path) -> Result<(Connection, Welcome), ActError> {
    let mut connection = client::connect(runtime).map_err(ActError::Connect)?;
    let welcome = connection.hello(ANSWER_TIME_MAX).await.map_err(ActError::Hello)?;
    Ok((connection, welcome))
}

/// Makes a new instance durable; the first of a pod possibly without its specification, and then
/// the fault is told too. After an error of the whole nothing is recorded, as far as is known.
async fn make_durable(
    paths: &Paths,
    store: &StoreHandle,
    record: &PodRecord,
    spec: &Arc<PodSpec>,
    is_first: bool,
    reason: &str,
) -> Result<(Result<(), ActError>, EventRecord), ActError> {
    if !is_first {
        // The specification first: a directory without a record is adopted, but as soon as there is
        // a record, the instance before this one goes with all that was kept for it, and nobody
        // may have this specification any more. A manifest that asked for it can break.
        keep_spec(paths, record, spec).await?;
        return Ok((Ok(()), commit(store, record, None, reason).await?));
    }
    // Revisions of an earlier pod of that name.
    let stale = Change::ForgetRevisions(record.name.clone());
    // Either may become durable first: a record without a specification gets it from the manifest,
    // or is removed with it, and nothing of the pod has run yet.
    let (kept, committed) =
        tokio::join!(keep_spec(paths, record, spec), commit(store, record, [stale], reason));
    match committed {
        Ok(event) => Ok((kept, event)),
        Err(error) => Err(kept.err().unwrap_or(error)),
    }
}

/// Commits a record together with what goes with it and the event that tells of it.
async fn commit(
    store: &StoreHandle,
    record: &PodRecord,
    more: impl IntoIterator<Item = Change>,
    reason: &str,
) -> Result<EventRecord, ActError> {
    let event = events::of_record(record, reason, WallTime::now());
    let mut changes = vec![Change::PutPod(record.clone()), Change::PutEvent(event.clone())];
    changes.extend(more);
    store.commit(changes).await.map_err(ActError::Store)?;
    Ok(event)
}

async fn keep_spec(paths: &Paths, record: &PodRecord, spec: &Arc<PodSpec>) -> Result<(), ActError> {
    // What the specification refers to is there before it.
    if let Some(config) = &spec.config {
        let (paths, record, content) = (paths.clone(), record.clone(), config.content.clone());
        blocking(move || configs::keep(&paths, &record, content).map_err(ActError::Checkpoint))
            .await?;
    }
    let pods = paths.pods();
    let paths = paths.pod(record.id, &record.name);
    let file = SpecFile::of(record, PodSpec::clone(spec));
    blocking(move || {
        let failed = |attempted, path: &Path| {
            let path = path.to_owned();
            move |source| ActError::Io { attempted, path, source }
        };
        match std::fs::DirBuilder::new().mode(0o700).create(&paths.data) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return checkpoint::write(&paths.spec(), &file).map_err(ActError::Checkpoint);
            }
            Err(error) => return Err(failed("make the directory", &paths.data)(error)),
        }
        checkpoint::create(&paths.spec(), &file).map_err(ActError::Checkpoint)?;
        checkpoint::sync_dir(&pods).map_err(failed("sync the directory", &pods))
    })
    .await
}

async fn set_spec(subject: &Subject, goal: Goal) -> Result<(), ActError> {
    let record = subject.record.as_ref().ok_or(ActError::Unknown)?;
    let spec = subject.spec.clone().ok_or(ActError::Unknown)?;
    let link = subject.link.as_ref().ok_or(ActError::Unknown)?;
    let number = record.accepted.number;
    let digest = record.accepted.digest;
    let wanted = WantedPod { number, goal, spec };
    link.send(ToExecutor::SetSpec(wanted), Vec::new()).await.map_err(ActError::Tell)?;
    match link.told(number, digest, goal, ANSWER_TIME_MAX).await {
        // It may have stopped and ended before its last report was read.
        Err(TellError::Closed) if matches!(goal, Goal::Stop { .. }) => Ok(()),
        told => told.map_err(ActError::Tell),
    }
}

/// Kills everything in a pod's cgroup, its executor included, and waits until it is gone.
fn kill_and_wait(cgroup: &PodCgroup) -> Result<(), ActError> {
    cgroup.kill_all().map_err(ActError::Cgroup)?;
    if cgroup.wait_empty(KILL_TIME_MAX).map_err(ActError::Cgroup)? {
        Ok(())
    } else {
        Err(ActError::Undead(KILL_TIME_MAX))
    }
}

/// Runs what may block on a thread of its own.
async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, ActError> + Send + 'static,
) -> Result<T, ActError> {
    spawn_blocking(job).await.unwrap_or(Err(ActError::Panicked))
}

/// Gives the disk back what an instance wrote that does not run any more, all but its logs. What
/// its executor noted of runs stays, so that none of them is ever done again.
fn remove_written(paths: &PodPaths, spec: &PodSpec) -> Result<(), ActError> {
    for container in spec.all_containers() {
        remove_tree(&paths.writable(&container.name))?;
        remove_tree(&paths.sandbox(&container.name))?;
    }
    spec.volumes.iter().try_for_each(|volume| remove_tree(&paths.volume(&volume.name)))
}

/// Removes a directory and everything in it. Links in it are removed, not followed.
fn remove_tree(path: &Path) -> Result<(), ActError> {
    match crate::sys::remove_tree(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(ActError::Io { attempted: "remove", path: path.to_owned(), source }),
    }
}

/// Removes a file so that it does not come back after a power cut.
fn remove_durably(directory: &Path, name: &str) -> Result<(), ActError> {
    let path = directory.join(name);
    let failed = |attempted| {
        let path = path.clone();
        move |source| ActError::Io { attempted, path, source }
    };
    match std::fs::remove_file(&path) {
        Ok(()) => checkpoint::sync_dir(directory).map_err(failed("sync the directory of")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(failed("remove")(source)),
    }
}

/// Removes the log directories of an instance whose pod is not known: their names end in the id.
fn remove_logs_of(id: PodId, logs: &Path) -> Result<(), ActError> {
    let suffix = format!("_{id}");
    let entries = match std::fs::read_dir(logs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(ActError::Io { attempted: "list", path: logs.to_owned(), source });
        }
    };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().ends_with(&suffix) {
            remove_tree(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::samples;
    use crate::state::store::MemoryStore;
    use crate::state::writer;

    /// Makes an instance durable on a disk that takes no specification; whether it is recorded.
    async fn is_recorded(is_first: bool) -> bool {
        let root = tempfile::tempdir().unwrap();
        // Its directory of pods is missing.
        let paths = Paths::under(root.path());
        let metrics = Arc::new(Metrics::default());
        let (store, thread) = writer::start(MemoryStore::default(), metrics).unwrap();
        let (record, spec) = (samples::record(1), Arc::new(samples::spec()));
        let made = make_durable(&paths, &store, &record, &spec, is_first, "a test").await;
        drop((store, thread));
        match made {
            Ok((kept, _event)) => {
                assert!(kept.is_err());
                true
            }
            Err(error) => {
                assert!(matches!(error, ActError::Io { .. }), "{error}");
                false
            }
        }
    }

    #[tokio::test]
    async fn what_takes_anothers_place_is_not_recorded_without_its_specification() {
        assert!(!is_recorded(false).await);
        assert!(is_recorded(true).await, "the manifest of a new pod still has it");
    }
}
