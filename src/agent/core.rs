//! The loop: takes in everything that happens, lets the reconciler decide, sends workers, and
//! publishes what is to be seen.
//!
//! Concurrency is argued here and nowhere else. Only this loop changes [`ActualState`]. Workers
//! and links tell it what became true through two bounded channels; for one pod at most one worker
//! is out, and its last word is that it is done. While it is out nothing is planned for that pod,
//! so a plan is never older than what was done for its pod. A worker that can't get rid of its
//! updates waits for the loop, and the loop never waits for a worker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::configs;
use super::events::{self, Stops};
use super::image_keeper::InUse;
use super::images::{self, Images};
use super::link::{self, Heard, LinkEvent, LinkHandle, LinkId, Process};
use super::manifests::Manifests;
use super::publish::{Publisher, Saved};
use super::reload::Reloaded;
use super::requests::{Asker, Retreat};
use super::service::Request;
use super::starts::Starts;
use super::worker::{self, ActError, Context, Subject, Update};
use crate::clock::{BootTime, Millis, WallTime};
use crate::config::AgentConfig;
use crate::executor::client::{Connection, Welcome};
use crate::executor::protocol::{PROTOCOL_OF_NAMES, PodReport};
use crate::ids::{ContainerName, PodId, PodName};
use crate::manifest::desired::DesiredState;
use crate::manifest::pod::PodSpec;
use crate::manifest::revision::Revision;
use crate::manifest::watcher::DirectoryObservation;
use crate::reconciler::{
    Action, ActualPod, ActualState, ExecutorState, Key, Now, Plan, Step, StoredSpec, reconcile,
};
use crate::state::record::{
    Accepted, Eviction, Exit, Losses, ManifestFile, PodRecord, RecordPhase,
};
use crate::state::store::Change;

/// Things that happened, taken in before the next decision.
const BATCH_MAX: usize = 1024;
/// First delay after a worker failed; doubled each time.
const HOLD: Millis = Millis(500);
/// Longest delay after a worker failed.
const HOLD_MAX: Millis = Millis::from_secs(60);
/// How long an executor that is there but does not answer is left alone before it is tried again.
const SILENCE_RETRY: Millis = Millis::from_secs(5);
/// How long events wait for others before they are saved.
const EVENTS_FLUSH: Millis = Millis::from_secs(1);
/// How long, at least, from one time that events are saved to the next: of a pod that fails all the
/// time the disk need not take down every single one.
const EVENTS_PAUSE: Millis = Millis::from_secs(30);

/// What the loop listens to.
#[derive(Debug)]
pub(super) struct Inputs {
    pub(super) observations: mpsc::Receiver<DirectoryObservation>,
    pub(super) updates: mpsc::Receiver<Update>,
    pub(super) links: mpsc::Receiver<(LinkId, LinkEvent)>,
    pub(super) requests: mpsc::Receiver<Request>,
}

/// The loop's own.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) context: Arc<Context>,
    pub(super) actual: ActualState,
    pub(super) manifests: Manifests,
    pub(super) publisher: Publisher,
    desired: DesiredState,
    pub(super) links: BTreeMap<PodId, Link>,
    link_events: mpsc::Sender<(LinkId, LinkEvent)>,
    /// How many links there have been.
    links_made: u64,
    /// Keys with a worker out, or held after one failed.
    busy: BTreeMap<Key, Busy>,
    /// Executors that are there and were silent: when to try again.
    silent: BTreeMap<PodId, BootTime>,
    /// Executors that were found at the start and have neither reported yet nor turned out not to.
    unheard: BTreeSet<PodId>,
    flush_at: Option<BootTime>,
    /// When events were saved last.
    flushed_at: Option<BootTime>,
    /// How the agent shall work. What of it needs a restart stays as it was at the start.
    pub(super) config: AgentConfig,
    starts: Starts,
    images: Images,
    stops: Stops,
    /// Who waits for what was asked of an instance (`ActualState::asked`).
    pub(super) askers: BTreeMap<PodId, Vec<Asker>>,
    /// Instances that were not Ready in time.
    pub(super) retreats: BTreeMap<PodId, Retreat>,
    /// The last commit that nothing waits for.
    apart: Option<JoinHandle<()>>,
}

#[derive(Debug)]
pub(super) struct Link {
    number: u64,
    pub(super) handle: LinkHandle,
    pid: u32,
    since: BootTime,
}

#[derive(Debug)]
enum Busy {
    Working { failures: u32 },
    Held { failures: u32, until: BootTime },
}

impl Core {
    pub(super) fn new(
        context: Arc<Context>,
        actual: ActualState,
        manifests: Manifests,
        publisher: Publisher,
        link_events: mpsc::Sender<(LinkId, LinkEvent)>,
        images: Images,
        config: AgentConfig,
    ) -> Self {
        let now = BootTime::now();
        let found = actual.pods.iter().filter(|(_, pod)| pod.executor == ExecutorState::Silent);
        let silent: BTreeMap<PodId, BootTime> = found.map(|(id, _)| (*id, now)).collect();
        let desired = manifests.desired();
        Self {
            context,
            actual,
            manifests,
            publisher,
            desired,
            links: BTreeMap::new(),
            link_events,
            links_made: 0,
            busy: BTreeMap::new(),
            unheard: silent.keys().copied().collect(),
            silent,
            flush_at: None,
            flushed_at: None,
            config,
            starts: Starts::default(),
            images,
            stops: Stops::default(),
            askers: BTreeMap::new(),
            retreats: BTreeMap::new(),
            apart: None,
        }
    }

    /// Decides, acts, publishes; returns how long nothing needs to be done unless something
    /// happens.
    pub(super) fn turn(&mut self) -> Option<Duration> {
        let now = Now { boot: BootTime::now(), wall: WallTime::now() };
        self.seek_silent(now.boot);
        // First, because a decision on hundreds of pods takes longer than to tell of one.
        self.publish_heard();
        let begun = Instant::now();
        let mut plan = reconcile(&self.desired, &self.actual, now);
        self.context.metrics.reconciles.observe(begun.elapsed());
        let mut wake_at = plan.wake_at;
        self.remember(&plan);
        for (pod, note) in
            self.images.pursue(&plan.seek, self.manifests.library(), &mut self.actual)
        {
            self.publisher.add_event(events::of_image(&pod, &note, now.wall), Saved::No);
        }
        self.retreat(&plan);
        self.refuse_what_is_not_planned(&plan);
        for (key, steps) in std::mem::take(&mut plan.work) {
            let promised = match &key {
                Key::Pod(name) => plan.promised.remove(name),
                Key::Instance(_) => None,
            };
            let free_at = self.dispatch(key, steps, promised, now.boot);
            wake_at = [wake_at, free_at].into_iter().flatten().min();
        }
        self.publish(&plan);
        self.flush_events(now.boot);
        let wakes = [wake_at, self.silent.values().min().copied(), self.flush_at];
        let wake_at = wakes.into_iter().flatten().min()?;
        // A timer of tokio may be early by its resolution of a millisecond.
        Some(Duration::from(wake_at.since(BootTime::now())) + Duration::from_millis(1))
    }

    /// Waits for something to happen and takes it in, with all that has happened since.
    pub(super) async fn listen(&mut self, inputs: &mut Inputs, idle: Option<Duration>) {
        let timer = async {
            match idle {
                Some(span) => sleep(span).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Cancel-safe: tokio's `recv` loses nothing when dropped, and neither does a timer.
            Some(observation) = inputs.observations.recv() => self.observe(observation),
            Some(update) = inputs.updates.recv() => self.take(update),
            Some((id, event)) = inputs.links.recv() => self.hear(id, event),
            Some(request) = inputs.requests.recv() => self.answer(request),
            () = timer => {}
        }
        for _ in 0..BATCH_MAX {
            if let Ok(update) = inputs.updates.try_recv() {
                self.take(update);
            } else if let Ok((id, event)) = inputs.links.try_recv() {
                self.hear(id, event);
            } else if let Ok(observation) = inputs.observations.try_recv() {
                self.observe(observation);
            } else {
                break;
            }
        }
    }

    /// Takes over what can be taken over of a configuration that was read again.
    pub(super) fn reconfigure(&mut self, reloaded: Reloaded) {
        let now = WallTime::now();
        match reloaded {
            Ok(new) => {
                let changed = self.config.live.keys_changed(&new.live);
                let restart_for = self.config.fixed_keys_changed(&new);
                tracing::info!(?changed, ?restart_for, "read the configuration");
                self.config.live = new.live;
                self.actual.node = super::node(&self.config.live);
                let node = configs::node_facts(&self.actual.node, &self.config.paths);
                let is_changed = self.manifests.set_node(node);
                if self.manifests.set_strict(self.config.live.strict) || is_changed {
                    self.take_up_manifests();
                }
                self.publisher.set_config(None, restart_for, now);
                self.publisher.set_live(&self.config.live);
            }
            Err(fault) => {
                tracing::error!(fault, "can't use the configuration; going on with what it was");
                self.publisher.set_config(Some(fault), Vec::new(), now);
            }
        }
    }

    fn observe(&mut self, observation: DirectoryObservation) {
        self.manifests.observe(observation);
        self.take_up_manifests();
    }

    /// What is known of a pod's images is news.
    fn take_images(&mut self, found: images::Found) {
        let pod = found.pod().clone();
        let at = WallTime::now();
        for note in self.images.take(found, &mut self.actual) {
            self.publisher.add_event(events::of_image(&pod, &note, at), Saved::No);
        }
        self.images.resolve(&mut self.desired);
    }

    /// Lets the images of a pod be looked up anew, before it is made again.
    pub(super) fn forget_images(&mut self, pod: &PodName) {
        self.images.forget(pod);
        self.desired = self.manifests.desired();
        self.images.resolve(&mut self.desired);
    }

    /// Who uses which image.
    pub(super) fn images_in_use(&self) -> InUse {
        InUse::of(&self.desired, &self.actual, self.images.store())
    }

    /// Images came or went by other ways than a search.
    pub(super) fn look_for_images(&mut self) {
        self.images.look_again(&mut self.actual);
    }

    /// What is wanted may be something else now.
    fn take_up_manifests(&mut self) {
        let mut desired = self.manifests.desired();
        self.images.resolve(&mut desired);
        let old = std::mem::replace(&mut self.desired, desired);
        self.starts.observe(&self.desired, &self.actual, Instant::now());
        let notices = self.manifests.notices();
        self.publisher.set_notices(notices, &self.actual, WallTime::now());
        self.publisher.set_documents(self.manifests.library());
        // What could not be dealt with may be dealt with now, if what is wanted of it changed. What a
        // worker is out for may be out of date. Others wait on: a directory is touched all the time.
        let (desired, actual, networks) = (&self.desired, &self.actual, &self.context.networks);
        self.busy.retain(|key, busy| {
            if !is_wanted_otherwise(key, &old, desired, actual) {
                return true;
            }
            match busy {
                Busy::Working { failures } => {
                    *failures = 0;
                    if let Key::Pod(name) = key {
                        networks.interrupt(name);
                    }
                    true
                }
                Busy::Held { .. } => false,
            }
        });
    }

    /// Lets the next step for a key be tried at once, because somebody asked for it.
    pub(super) fn release(&mut self, key: &Key) {
        if let Some(Busy::Held { .. }) = self.busy.get(key) {
            self.busy.remove(key);
        }
    }

    /// Whether a worker is out for a key.
    pub(super) fn is_working(&self, key: &Key) -> bool {
        matches!(self.busy.get(key), Some(Busy::Working { .. }))
    }

    /// What all manifests ask for.
    pub(super) fn desired(&self) -> &DesiredState {
        &self.desired
    }

    fn remember(&mut self, plan: &Plan) {
        if plan.remember.is_empty() {
            return;
        }
        self.actual.directories.extend(plan.remember.clone());
        let changes = plan
            .remember
            .iter()
            .map(|(directory, handle)| Change::PutDirectory {
                directory: directory.clone(),
                handle: handle.clone(),
            })
            .collect();
        self.commit_apart(changes);
    }

    /// Commits what nothing waits for, in the order of the calls. If it fails it is made good by
    /// the next start: a handle is then unknown, an event lost.
    fn commit_apart(&mut self, changes: Vec<Change>) {
        let store = self.context.store.clone();
        let before = self.apart.take();
        self.apart = Some(tokio::spawn(async move {
            if let Some(before) = before {
                // However it ended.
                let _ended = before.await;
            }
            if let Err(error) = store.commit(changes).await {
                tracing::warn!(error = super::chain(&error), "can't record");
            }
        }));
    }

    /// Sends a worker, unless one is out or the key is held; then says until when.
    fn dispatch(
        &mut self,
        key: Key,
        steps: Vec<Step>,
        promised: Option<Arc<PodSpec>>,
        now: BootTime,
    ) -> Option<BootTime> {
        let failures = match self.busy.get(&key) {
            Some(Busy::Working { .. }) => return None,
            Some(Busy::Held { until, .. }) if *until > now => return Some(*until),
            Some(Busy::Held { failures, .. }) => *failures,
            None => 0,
        };
        let subjects = subjects_of(&steps, &self.actual, &self.links);
        self.busy.insert(key.clone(), Busy::Working { failures });
        if let (Key::Pod(name), Some(spec)) = (&key, promised) {
            self.actual.under_way.insert(name.clone(), spec);
        }
        tokio::spawn(worker::work(self.context.clone(), key, steps, subjects));
        None
    }

    fn take(&mut self, update: Update) {
        match update {
            Update::Accepted { record, spec, event } => {
                self.publisher.add_event(event, Saved::Yes);
                self.answer_askers(&record);
                let pod = self.pod(record.id);
                pod.adoptable = None;
                pod.record = Some(record);
                pod.spec = Some(StoredSpec::new(spec));
            }
            Update::Recorded { record, event } => {
                self.publisher.add_event(event, Saved::Yes);
                self.answer_askers(&record);
                self.note_eviction(&record);
                let pod = self.pod(record.id);
                pod.adoptable = None;
                pod.record = Some(record);
            }
            Update::Retired { record, successor, event } => {
                self.publisher.add_event(event, Saved::Yes);
                self.answer_askers(&record);
                self.note_eviction(&record);
                let pod = self.pod(record.id);
                pod.record = Some(record);
                pod.successor = successor;
            }
            Update::RevisionsRead { ask, found } => self.roll_back(ask, found),
            Update::LossNoted { record, event } => {
                self.publisher.add_event(event, Saved::Yes);
                let pod = self.pod(record.id);
                pod.record = Some(record);
                pod.executor = ExecutorState::Absent;
            }
            Update::Forgotten(id) => {
                self.publisher.touch(id);
                self.actual.pods.remove(&id);
                self.actual.verdicts.remove(&id);
                self.links.remove(&id);
                self.silent.remove(&id);
                self.unheard.remove(&id);
                self.stops.forget(id);
            }
            Update::Runtime { id, present } => {
                if let Some(pod) = self.actual.pods.get_mut(&id) {
                    pod.has_runtime = present;
                }
            }
            Update::Linked { id, connection, welcome } => self.linked(id, *connection, *welcome),
            Update::Unlinked(id) => self.unlinked(id),
            Update::Unreached(id) => self.unreached(id),
            Update::Killed(id) => self.unlinked(id),
            Update::UpgradeRefused { id, why } => {
                tracing::warn!(%id, why, "the executor goes on as the build it is");
                if let Some(pod) = self.actual.pods.get_mut(&id)
                    && let ExecutorState::Connected { refused_upgrade, .. } = &mut pod.executor
                {
                    *refused_upgrade = true;
                }
            }
            Update::Images(found) => self.take_images(found),
            Update::Done { key, result } => self.done(key, result),
        }
    }

    /// A verdict that is recorded is done, as is one on an instance that goes for another reason.
    fn note_eviction(&mut self, record: &PodRecord) {
        if record.phase != RecordPhase::Active
            && self.actual.verdicts.remove(&record.id).is_some()
            && let Some(Eviction::Evicted(evicted)) = &record.eviction
        {
            self.context.metrics.evictions.get(evicted.cause).add_one();
        }
    }

    fn pod(&mut self, id: PodId) -> &mut ActualPod {
        self.publisher.touch(id);
        self.actual.pods.entry(id).or_insert_with(|| ActualPod {
            record: None,
            adoptable: None,
            spec: None,
            successor: None,
            executor: ExecutorState::Absent,
            has_runtime: false,
        })
    }

    fn linked(&mut self, id: PodId, connection: Connection, welcome: Welcome) {
        let Welcome { protocol, build, pid, wanted, report, .. } = welcome;
        let process = match connection.pidfd(pid) {
            Ok(process) => process.map_or(Process::Ended, Process::Held),
            Err(error) => {
                tracing::warn!(%id, %error, "can't hold the executor's process");
                Process::Unknown
            }
        };
        self.silent.remove(&id);
        self.links_made += 1;
        let link_id = LinkId { pod: id, number: self.links_made };
        let heard = Heard::first(protocol, build.clone(), report.clone(), wanted.is_some());
        if wanted.is_some() && matches!(process, Process::Held(_)) {
            self.context.networks.hold(id, pid);
        }
        let mut names = (protocol >= PROTOCOL_OF_NAMES).then(|| self.context.networks.named());
        // What has changed while there was no link was not told.
        names.iter_mut().for_each(watch::Receiver::mark_changed);
        let events = self.link_events.clone();
        let handle = link::open(link_id, connection, heard, process, names, events);
        self.links
            .insert(id, Link { number: self.links_made, handle, pid, since: BootTime::now() });
        if report.is_some() {
            self.unheard.remove(&id);
        }
        let pod = self.pod(id);
        pod.executor = ExecutorState::Connected { build, refused_upgrade: false, report };
        let Some(wanted) = wanted else { return };
        // What the executor was told makes good what the disk has lost.
        if pod.record.is_none() && pod.adoptable.is_none() {
            let revision = Revision::of(&wanted.spec);
            let at = WallTime::now();
            pod.adoptable = Some(PodRecord {
                id,
                name: wanted.spec.name.clone(),
                source: ManifestFile { directory: String::new(), file: String::new() },
                accepted: Accepted {
                    number: wanted.number,
                    digest: revision.digest(),
                    shared: revision.shared,
                    at,
                },
                history: Vec::new(),
                phase: RecordPhase::Active,
                created_at: at,
                losses: Losses::default(),
                held: None,
                trial: None,
                successor: None,
                eviction: None,
            });
        }
        pod.spec.get_or_insert_with(|| StoredSpec::new(wanted.spec));
    }

    fn unlinked(&mut self, id: PodId) {
        self.silent.remove(&id);
        self.unheard.remove(&id);
        self.publisher.touch(id);
        let lived = self.links.remove(&id).map(|link| BootTime::now().since(link.since));
        if let Some(pod) = self.actual.pods.get_mut(&id) {
            pod.executor = match (lived, &pod.executor) {
                (Some(lived), _) => ExecutorState::Lost { lived },
                // Its loss is known and not noted yet.
                (None, ExecutorState::Lost { lived }) => ExecutorState::Lost { lived: *lived },
                // An executor that this agent never reached was lost before; that is not counted
                // again.
                (
                    None,
                    ExecutorState::Absent | ExecutorState::Silent | ExecutorState::Connected { .. },
                ) => ExecutorState::Absent,
            };
        }
    }

    /// It is tried again later; starting it again would run its containers twice.
    fn unreached(&mut self, id: PodId) {
        self.unheard.remove(&id);
        // It may have been forgotten meanwhile.
        let Some(pod) = self.actual.pods.get_mut(&id) else { return };
        self.publisher.touch(id);
        if matches!(pod.executor, ExecutorState::Absent | ExecutorState::Lost { .. }) {
            pod.executor = ExecutorState::Silent;
            self.silent.insert(id, BootTime::now().plus(SILENCE_RETRY));
        }
    }

    /// Whether everything that was found at the start is known, and the manifests are read.
    pub(super) fn is_recovered(&self) -> bool {
        self.unheard.is_empty() && self.desired.is_read()
    }

    /// What is still waited for, if anything.
    fn unready(&self) -> Option<String> {
        if !self.unheard.is_empty() {
            let count = self.unheard.len();
            return Some(format!("{count} executors found at the start have not reported yet"));
        }
        (!self.desired.is_read()).then(|| "the manifests are not read yet".to_owned())
    }

    fn hear(&mut self, link: LinkId, event: LinkEvent) {
        let id = link.pod;
        // What an earlier link still has to say is about an executor that is dealt with.
        if self.links.get(&id).is_none_or(|current| current.number != link.number) {
            return;
        }
        self.publisher.touch(id);
        match event {
            LinkEvent::Report(report) => self.reported(id, report),
            LinkEvent::Build(new) => {
                if let Some(pod) = self.actual.pods.get_mut(&id)
                    && let ExecutorState::Connected { build, .. } = &mut pod.executor
                {
                    *build = new;
                }
            }
            LinkEvent::Ended { process_gone: true } => self.unlinked(id),
            LinkEvent::Ended { process_gone: false } => {
                self.silent.insert(id, BootTime::now());
                if let Some(pod) = self.actual.pods.get_mut(&id) {
                    pod.executor = ExecutorState::Silent;
                }
            }
        }
    }

    fn reported(&mut self, id: PodId, new: PodReport) {
        let Some(pod) = self.actual.pods.get_mut(&id) else { return };
        let ExecutorState::Connected { report, .. } = &mut pod.executor else { return };
        self.unheard.remove(&id);
        let at = WallTime::now();
        let news = match (&pod.record, report.as_ref()) {
            (Some(record), Some(old)) => events::between(record, old, &new, self.stops.of(id), at),
            (Some(_) | None, _) => Vec::new(),
        };
        let metrics = &self.context.metrics;
        if let Some(record) = &pod.record
            && let Some(took) = self.starts.reported(&record.name, &new, Instant::now())
        {
            metrics.starts.observe(took);
        }
        for container in newly_out_of_memory(report.as_ref(), &new) {
            metrics.out_of_memory.get((id, container.clone())).add_one();
        }
        self.stops.take_in(id, &new);
        *report = Some(new);
        for event in news {
            self.publisher.add_event(event, Saved::No);
        }
        self.publisher.touch(id);
    }

    fn done(&mut self, key: Key, result: Result<(), ActError>) {
        if let Key::Pod(name) = &key {
            self.actual.under_way.remove(name);
        }
        let failures = match self.busy.remove(&key) {
            Some(Busy::Working { failures } | Busy::Held { failures, .. }) => failures,
            None => 0,
        };
        let Err(error) = result else {
            self.publisher.clear_failure(&key, &self.actual);
            return;
        };
        // What is said of it now is what can be said.
        let name_of = |id: &PodId| self.actual.pods.get(id).and_then(ActualPod::name);
        self.unheard.retain(|id| match &key {
            Key::Pod(name) => name_of(id) != Some(name),
            Key::Instance(instance) => id != instance,
        });
        let failures = failures.saturating_add(1);
        let factor = 1_u64.checked_shl(failures - 1).unwrap_or(u64::MAX);
        let delay = Millis(HOLD.0.saturating_mul(factor)).min(HOLD_MAX);
        let text = super::chain(&error);
        tracing::warn!(pod = %key, error = text, retry_in = %delay, "a step failed");
        self.tell_askers(&key, &text);
        self.busy.insert(key.clone(), Busy::Held { failures, until: BootTime::now().plus(delay) });
        self.publisher.set_failure(key, error.reason(), text, &self.actual, WallTime::now());
    }

    /// Tries to reach executors that are there and did not answer.
    fn seek_silent(&mut self, now: BootTime) {
        let due: Vec<PodId> =
            self.silent.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id).collect();
        for id in due {
            self.silent.insert(id, now.plus(worker::ANSWER_TIME_MAX.into()).plus(SILENCE_RETRY));
            let context = self.context.clone();
            // The name is only in the path of the logs, which is not needed to connect.
            let runtime = context.paths.runtime_pods().join(id.to_string());
            tokio::spawn(async move {
                if let Err(error) = context.link(id, &runtime).await {
                    tracing::warn!(%id, error = super::chain(&error), "an executor is silent");
                }
            });
        }
    }

    /// Shows what is known of pods, as it was decided on last.
    fn publish_heard(&mut self) {
        let links = &self.links;
        let pid_of = |id: &PodId| links.get(id).map(|link| link.pid);
        self.publisher.publish_heard(&self.actual, &self.desired, &pid_of);
    }

    fn publish(&mut self, plan: &Plan) {
        let links = &self.links;
        let pid_of = |id: &PodId| links.get(id).map(|link| link.pid);
        let unready = self.unready();
        self.publisher.set_store_health(self.context.store.is_healthy());
        self.publisher.publish(&self.actual, &self.desired, plan, unready, &pid_of);
    }

    fn flush_events(&mut self, now: BootTime) {
        match self.flush_at {
            _ if !self.publisher.has_unsaved() => self.flush_at = None,
            None => {
                let next = self.flushed_at.map(|at| at.plus(EVENTS_PAUSE));
                self.flush_at = Some(now.plus(EVENTS_FLUSH)).max(next);
            }
            // A disk that hangs shall not have ever more waiting for it.
            Some(at) if at <= now && self.apart.as_ref().is_some_and(|it| !it.is_finished()) => {
                self.flush_at = Some(now.plus(EVENTS_FLUSH));
            }
            Some(at) if at <= now => {
                self.flush_at = None;
                self.flushed_at = Some(now);
                let unsaved = self.publisher.take_unsaved();
                self.commit_apart(unsaved.into_iter().map(Change::PutEvent).collect());
            }
            Some(_) => {}
        }
    }
}

/// The containers of which a run has ended since the report before because memory ran out.
fn newly_out_of_memory<'a>(
    old: Option<&'a PodReport>,
    new: &'a PodReport,
) -> impl Iterator<Item = &'a ContainerName> {
    let run_before = move |name: &ContainerName| {
        let before = old?.containers.iter().find(|container| container.name == *name)?;
        Some(before.last.as_ref()?.attempt)
    };
    new.containers.iter().filter_map(move |container| {
        let last = container.last.as_ref().filter(|last| last.exit == Exit::OutOfMemory)?;
        // What the first report tells of may have been counted by an agent before.
        let is_new = old.is_some() && run_before(&container.name) != Some(last.attempt);
        is_new.then_some(&container.name)
    })
}

/// Whether something else is wanted of what the key stands for than before.
fn is_wanted_otherwise(
    key: &Key,
    old: &DesiredState,
    new: &DesiredState,
    actual: &ActualState,
) -> bool {
    let Key::Pod(name) = key else { return old.directories != new.directories };
    let records = actual.pods.values().filter_map(|pod| pod.record.as_ref());
    let mut sources = records.filter(|record| record.name == *name).map(|record| &record.source);
    old.directories != new.directories
        || old.claims.get(name) != new.claims.get(name)
        || sources.any(|source| old.faulty.contains(source) != new.faulty.contains(source))
}

/// What a worker needs to know of the instances it is to act on.
fn subjects_of(
    steps: &[Step],
    actual: &ActualState,
    links: &BTreeMap<PodId, Link>,
) -> Vec<Subject> {
    let mut ids: Vec<PodId> = steps.iter().filter_map(|step| step.action.subject()).collect();
    ids.dedup();
    ids.into_iter()
        .filter_map(|id| {
            let pod = actual.pods.get(&id)?;
            Some(Subject {
                id,
                record: pod.record.clone(),
                spec: pod.spec.as_ref().map(|stored| stored.spec.clone()),
                link: links.get(&id).map(|link| link.handle.clone()),
            })
        })
        .collect()
}

impl Action {
    /// The instance that must be known to perform it.
    fn subject(&self) -> Option<PodId> {
        match self {
            Self::Create(_)
            | Self::Accept { .. }
            | Self::Retire { .. }
            | Self::Record(_)
            | Self::NoteLoss(_) => None,
            Self::Start(id)
            | Self::SetSpec { id, .. }
            | Self::Upgrade(id)
            | Self::Kill(id)
            | Self::Release(id)
            | Self::Destroy(id)
            | Self::Forget { id, .. } => Some(*id),
        }
    }

    /// Its name, for the log.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Accept { .. } => "accept",
            Self::Retire { .. } => "retire",
            Self::Record(_) => "record",
            Self::NoteLoss(_) => "note loss",
            Self::Start(_) => "start",
            Self::SetSpec { .. } => "set spec",
            Self::Upgrade(_) => "upgrade",
            Self::Kill(_) => "kill",
            Self::Release(_) => "release",
            Self::Destroy(_) => "destroy",
            Self::Forget { .. } => "forget",
        }
    }
}
