//! What is to be seen from outside: [`Snapshot`]s, made anew only where something changed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::events;
use super::service::{
    Addresses, AgentView, DocumentView, ExecutorView, Notice, PodView, Snapshot, Waiting, Waits,
};
use crate::clock::WallTime;
use crate::config::Live;
use crate::ids::{PodId, PodName};
use crate::manifest::desired::DesiredState;
use crate::manifest::library::{Entry, Library};
use crate::manifest::pod::PodSpec;
use crate::manifest::revision::Revision;
use crate::network::Networks;
use crate::reconciler::pressure::{Pressure, PressureKind};
use crate::reconciler::{
    ActualPod, ActualState, Alarm, ExecutorState, Key, Node, PassedOver, Plan, Requests, Wait,
    WaitReason,
};
use crate::state::record::{Accepted, Losses, ManifestFile, PodRecord, RecordPhase};
use crate::state::store::{EVENTS_MAX, EventKind, EventRecord};

/// Whether an event is in the store already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Saved {
    Yes,
    No,
}

/// Keeps the newest snapshot.
#[derive(Debug)]
pub(super) struct Publisher {
    sender: watch::Sender<Arc<Snapshot>>,
    version: u64,
    views: BTreeMap<PodId, Arc<PodView>>,
    events: Arc<VecDeque<Arc<EventRecord>>>,
    unsaved: Vec<EventRecord>,
    notices: BTreeMap<ManifestFile, Vec<Notice>>,
    documents: Arc<Vec<DocumentView>>,
    contested_documents: Vec<String>,
    failures: BTreeMap<Key, String>,
    alarms: Vec<Alarm>,
    waits: BTreeMap<PodName, Wait>,
    passed_over: Vec<PassedOver>,
    requested: Requests,
    node: Node,
    pressure: Pressure,
    /// Pods that wait as a whole, shown as if there were an instance.
    waiting: BTreeMap<PodName, Arc<PodView>>,
    recovered: bool,
    unready: Option<String>,
    agent: AgentView,
    /// What pods are attached to, and the addresses of the host.
    networks: Option<(Arc<Networks>, Vec<String>)>,
    /// Pods whose view may be out of date.
    touched: BTreeSet<PodId>,
    /// Whether anything else is.
    stale: bool,
}

impl Publisher {
    pub(super) fn new(
        agent: AgentView,
        saved_events: Vec<EventRecord>,
        actual: &ActualState,
    ) -> (Self, watch::Receiver<Arc<Snapshot>>) {
        let mut events: Vec<Arc<EventRecord>> = saved_events.into_iter().map(Arc::new).collect();
        // As they came; the store has them by what they are about.
        events.sort_by_key(|event| event.at);
        let events: Arc<VecDeque<_>> = Arc::new(events.into());
        let first = Snapshot {
            version: 0,
            recovered: false,
            unready: None,
            pods: Vec::new(),
            alarms: Vec::new(),
            contested: Vec::new(),
            notices: BTreeMap::new(),
            documents: Arc::default(),
            passed_over: Vec::new(),
            node: actual.node.clone(),
            requested: Requests::default(),
            pressure: Pressure::default(),
            events: events.clone(),
            agent: agent.clone(),
        };
        let (sender, receiver) = watch::channel(Arc::new(first));
        let publisher = Self {
            sender,
            version: 0,
            views: BTreeMap::new(),
            events,
            unsaved: Vec::new(),
            notices: BTreeMap::new(),
            documents: Arc::default(),
            contested_documents: Vec::new(),
            failures: BTreeMap::new(),
            alarms: Vec::new(),
            unready: None,
            waits: BTreeMap::new(),
            passed_over: Vec::new(),
            requested: Requests::default(),
            node: actual.node.clone(),
            // What there is, is news when it is told.
            pressure: Pressure::default(),
            waiting: BTreeMap::new(),
            recovered: false,
            agent,
            networks: None,
            touched: actual.pods.keys().copied().collect(),
            stale: true,
        };
        (publisher, receiver)
    }

    /// Says where addresses come from.
    pub(super) fn set_networks(&mut self, networks: Arc<Networks>, host: Vec<String>) {
        self.networks = Some((networks, host));
    }

    fn addresses(&self, id: PodId, spec: Option<&PodSpec>) -> Addresses {
        let Some((networks, host)) = &self.networks else { return Addresses::default() };
        let pod = if spec.is_some_and(|spec| spec.host.network) {
            host.clone()
        } else {
            networks.addresses(id).iter().map(ToString::to_string).collect()
        };
        Addresses { pod, host: host.clone() }
    }

    /// Something about that instance may have changed.
    pub(super) fn touch(&mut self, id: PodId) {
        self.touched.insert(id);
    }

    /// Adds an event; one that says the same as an earlier one replaces it.
    pub(super) fn add_event(&mut self, mut event: EventRecord, saved: Saved) {
        if saved == Saved::No {
            // The oldest give way: a disk that hangs may keep them waiting for long.
            if self.unsaved.len() >= EVENTS_MAX {
                self.unsaved.remove(0);
            }
            self.unsaved.push(event.clone());
        }
        let events = Arc::make_mut(&mut self.events);
        if let Some(at) = events.iter().rposition(|old| old.repeats(&event))
            && let Some(old) = events.remove(at)
        {
            event.first_at = old.first_at;
            event.count = old.count.saturating_add(1);
        }
        if events.len() >= EVENTS_MAX {
            events.pop_front();
        }
        events.push_back(Arc::new(event));
        self.stale = true;
    }

    /// Whether events are waiting for [`Publisher::take_unsaved`].
    pub(super) fn has_unsaved(&self) -> bool {
        !self.unsaved.is_empty()
    }

    /// Events that are not in the store yet.
    pub(super) fn take_unsaved(&mut self) -> Vec<EventRecord> {
        std::mem::take(&mut self.unsaved)
    }

    /// What is to be said of manifest files, now.
    pub(super) fn set_notices(
        &mut self,
        notices: BTreeMap<ManifestFile, Vec<Notice>>,
        actual: &ActualState,
        at: WallTime,
    ) {
        let records: Vec<&PodRecord> =
            actual.pods.values().filter_map(|pod| pod.record.as_ref()).collect();
        for (source, of_file) in &notices {
            let is_new =
                |new: &&Notice| self.notices.get(source).is_none_or(|old| !old.contains(*new));
            let new: Vec<&Notice> = of_file.iter().filter(is_new).collect();
            let owners: Vec<&&PodRecord> =
                records.iter().filter(|record| record.source == *source).collect();
            for Notice { is_fault, pod, text: _, line } in new {
                let (kind, reason) = if *is_fault {
                    tracing::warn!(fault = line, "a manifest has a fault");
                    (EventKind::Warning, "ManifestInvalid")
                } else {
                    tracing::info!(warning = line, "a manifest has something odd");
                    (EventKind::Normal, "ManifestWarning")
                };
                // Of what can't be told whose it is, every pod of the file may be the worse.
                let of_pod = |owner: &&&&PodRecord| pod.as_ref().is_none_or(|it| owner.name == *it);
                let mut is_told = false;
                for owner in owners.iter().filter(of_pod) {
                    is_told = true;
                    self.add_event(events::about(owner, at, kind, reason, line), Saved::No);
                }
                if !is_told {
                    let about = pod.as_ref().map(|name| (name, None));
                    self.add_event(EventRecord::once(at, about, kind, reason, line), Saved::No);
                }
            }
        }
        self.notices = notices;
        self.touched.extend(actual.pods.keys());
        self.stale = true;
    }

    /// The ConfigMaps and Secrets that count, now.
    pub(super) fn set_documents(&mut self, library: &Library) {
        let view = |entry: &Entry| DocumentView {
            name: entry.document.name.clone(),
            secret_type: entry.document.secret_type.clone(),
            source: entry.source.clone(),
            is_stale: entry.is_stale,
            keys: entry.document.data.iter().map(|(k, v)| (k.clone(), v.bytes.len())).collect(),
        };
        let documents: Vec<DocumentView> = library.entries().map(view).collect();
        let contested = library.contested();
        if *self.documents != documents || self.contested_documents != contested {
            let new: Vec<String> = contested
                .iter()
                .filter(|text| !self.contested_documents.contains(text))
                .cloned()
                .collect();
            for text in new {
                tracing::warn!("{text}");
                let at = WallTime::now();
                let kind = EventKind::Warning;
                let event = EventRecord::once(at, None, kind, "DuplicateName", &text);
                self.add_event(event, Saved::No);
            }
            self.documents = Arc::new(documents);
            self.contested_documents = contested;
            self.stale = true;
        }
    }

    /// Whether the last commit of the store was made.
    pub(super) fn set_store_health(&mut self, healthy: bool) {
        if self.agent.store_fault.is_none() != healthy {
            let fault = "the last commit failed: see the agent's log";
            self.agent.store_fault = (!healthy).then(|| fault.to_owned());
            self.stale = true;
        }
    }

    /// What of the configuration is to be seen.
    pub(super) fn set_live(&mut self, live: &Live) {
        self.agent.log_node_bytes = live.log_node_bytes;
        self.agent.image_gc = live.image_gc;
        self.agent.pressure = live.pressure;
        self.stale = true;
    }

    /// What came of reading the configuration again: why it can't be used, or which of its keys
    /// wait for a restart.
    pub(super) fn set_config(
        &mut self,
        fault: Option<String>,
        restart_for: Vec<&'static str>,
        at: WallTime,
    ) {
        let (kind, reason, text) = match &fault {
            Some(fault) => (EventKind::Warning, "ConfigInvalid", fault.clone()),
            None if restart_for.is_empty() => {
                (EventKind::Normal, "ConfigReloaded", "the configuration is in force".to_owned())
            }
            None => {
                let text = format!("a restart is needed for {}", restart_for.join(", "));
                (EventKind::Normal, "ConfigReloaded", text)
            }
        };
        self.add_event(EventRecord::once(at, None, kind, reason, &text), Saved::No);
        if fault.is_none() {
            self.agent.restart_for = restart_for;
        }
        self.agent.config_fault = fault;
        self.stale = true;
    }

    /// Why a step for a key failed.
    pub(super) fn set_failure(
        &mut self,
        key: Key,
        reason: &str,
        text: String,
        actual: &ActualState,
        at: WallTime,
    ) {
        let name = match &key {
            Key::Pod(name) => Some(name),
            Key::Instance(_) => None,
        };
        let about = name.map(|name| (name, None));
        let event = EventRecord::once(at, about, EventKind::Warning, reason, &text);
        self.add_event(event, Saved::No);
        self.touch_key(&key, actual);
        self.failures.insert(key, text);
    }

    /// The key's last step did not fail.
    pub(super) fn clear_failure(&mut self, key: &Key, actual: &ActualState) {
        if self.failures.remove(key).is_some() {
            self.touch_key(key, actual);
            self.stale = true;
        }
    }

    /// What the node runs out of; told of when it begins and when it ends.
    pub(super) fn set_pressure(&mut self, pressure: &Pressure, at: WallTime) {
        if self.pressure == *pressure {
            return;
        }
        let pairs = [
            (PressureKind::Memory, &self.pressure.memory, &pressure.memory),
            (PressureKind::Disk, &self.pressure.disk, &pressure.disk),
        ];
        let news: Vec<_> = pairs
            .into_iter()
            .filter_map(|(kind, old, new)| match (old, new) {
                (None, Some(strain)) => {
                    tracing::warn!(shortage = %strain.shortage, "the node is under pressure");
                    Some((EventKind::Warning, kind.begun(), strain.shortage.to_string()))
                }
                (Some(_), None) => {
                    tracing::info!(%kind, "pressure on the node is over");
                    Some((EventKind::Normal, kind.over(), format!("there is no {kind} any more")))
                }
                (Some(_), Some(_)) | (None, None) => None,
            })
            .collect();
        for (kind, reason, text) in news {
            self.add_event(EventRecord::once(at, None, kind, reason, &text), Saved::No);
        }
        // Mere figures are no reason to wake whoever watches.
        self.stale |= !self.pressure.is_like(pressure);
        self.pressure.clone_from(pressure);
    }

    fn touch_key(&mut self, key: &Key, actual: &ActualState) {
        match key {
            Key::Instance(id) => self.touch(*id),
            Key::Pod(name) => {
                let of_pod = actual.pods.iter().filter(|(_, pod)| pod.name() == Some(name));
                self.touched.extend(of_pod.map(|(id, _)| *id));
            }
        }
    }

    /// Publishes a new snapshot if anything in it is new.
    pub(super) fn publish(
        &mut self,
        actual: &ActualState,
        desired: &DesiredState,
        plan: &Plan,
        unready: Option<String>,
        pid_of: &dyn Fn(&PodId) -> Option<u32>,
    ) {
        let alarms = &plan.alarms;
        if self.alarms != *alarms {
            for alarm in alarms
                .iter()
                .filter(|alarm| !self.alarms.contains(alarm))
                .cloned()
                .collect::<Vec<_>>()
            {
                let text = alarm.to_string();
                tracing::error!(alarm = text, "alarm");
                let now = WallTime::now();
                let event =
                    EventRecord::once(now, None, EventKind::Warning, "DirectoryAlarm", &text);
                self.add_event(event, Saved::No);
            }
            self.alarms.clone_from(alarms);
            self.stale = true;
        }
        if self.recovered != unready.is_none() || self.unready != unready {
            self.recovered = unready.is_none();
            self.unready = unready;
            self.stale = true;
        }
        self.take_admission(plan, actual);
        self.publish_heard(actual, desired, pid_of);
    }

    /// The same without a new decision: pods are shown as they are, and everything else as it was.
    pub(super) fn publish_heard(
        &mut self,
        actual: &ActualState,
        desired: &DesiredState,
        pid_of: &dyn Fn(&PodId) -> Option<u32>,
    ) {
        for id in std::mem::take(&mut self.touched) {
            let view = actual.pods.get(&id).and_then(|pod| self.view(pod, desired, pid_of(&id)));
            self.refresh(id, view);
        }
        if !std::mem::take(&mut self.stale) {
            return;
        }
        self.version += 1;
        let mut pods: Vec<Arc<PodView>> = self.views.values().cloned().collect();
        // One that has just been accepted waits until the next decision says that it does not.
        let waiting = self
            .waiting
            .iter()
            .filter(|(name, _)| self.views.values().all(|view| view.record.name != **name));
        pods.extend(waiting.map(|(_, view)| view.clone()));
        pods.sort_by(|a, b| {
            (&a.record.name, a.record.created_at, a.record.id).cmp(&(
                &b.record.name,
                b.record.created_at,
                b.record.id,
            ))
        });
        self.sender.send_replace(Arc::new(Snapshot {
            version: self.version,
            recovered: self.recovered,
            unready: self.unready.clone(),
            contested: {
                let documents = self.contested_documents.iter().cloned();
                all_contested(&pods, desired).into_iter().chain(documents).collect()
            },
            pods,
            alarms: self.alarms.clone(),
            notices: self.notices.clone(),
            documents: self.documents.clone(),
            passed_over: self.passed_over.iter().map(ToString::to_string).collect(),
            node: self.node.clone(),
            requested: self.requested,
            pressure: self.pressure.clone(),
            events: self.events.clone(),
            agent: self.agent.clone(),
        }));
    }

    /// Who waits, and what is for other nodes; each is told of once.
    fn take_admission(&mut self, plan: &Plan, actual: &ActualState) {
        let Plan { waits, passed_over, requested, .. } = plan;
        if self.requested != *requested || self.node != actual.node {
            self.requested = *requested;
            self.node.clone_from(&actual.node);
            self.stale = true;
        }
        let now = WallTime::now();
        if self.passed_over != *passed_over {
            let old = std::mem::replace(&mut self.passed_over, passed_over.clone());
            for over in passed_over.iter().filter(|over| !old.contains(over)) {
                let about = Some((&over.pod, None));
                let text = over.to_string();
                let kind = EventKind::Normal;
                self.add_event(EventRecord::once(now, about, kind, "PassedOver", &text), Saved::No);
            }
            self.stale = true;
        }
        if self.waits == *waits {
            return;
        }
        let old = std::mem::replace(&mut self.waits, waits.clone());
        let changed =
            old.keys().chain(waits.keys()).filter(|name| old.get(*name) != waits.get(*name));
        let changed: BTreeSet<PodName> = changed.cloned().collect();
        for (id, pod) in &actual.pods {
            if pod.name().is_some_and(|name| changed.contains(name)) {
                self.touched.insert(*id);
            }
        }
        for name in changed {
            let Some(wait) = waits.get(&name) else {
                self.stale |= self.waiting.remove(&name).is_some();
                continue;
            };
            if let Some((kind, reason)) = news_of_wait(old.get(&name), wait) {
                let text = format!("{} waits: it {}", wait.source, wait.why);
                tracing::info!(pod = %name, why = wait.why, "a pod waits");
                let event = EventRecord::once(now, Some((&name, None)), kind, &reason, &text);
                self.add_event(event, Saved::No);
            }
            if actual.pods.values().any(|pod| pod.name() == Some(&name)) {
                self.stale |= self.waiting.remove(&name).is_some();
            } else {
                let view = waiting(&name, wait, self.waiting.get(&name), self.version + 1, now);
                self.waiting.insert(name, Arc::new(view));
                self.stale = true;
            }
        }
    }

    fn refresh(&mut self, id: PodId, view: Option<PodView>) {
        match view {
            None => self.stale |= self.views.remove(&id).is_some(),
            Some(mut view) => {
                if let Some(old) = self.views.get(&id) {
                    view.version = old.version;
                    if **old == view {
                        return;
                    }
                }
                view.version = self.version + 1;
                self.views.insert(id, Arc::new(view));
                self.stale = true;
            }
        }
    }

    fn view(&self, pod: &ActualPod, desired: &DesiredState, pid: Option<u32>) -> Option<PodView> {
        let record = pod.record.clone()?;
        let notices = self.notices.get(&record.source).into_iter().flatten();
        let of_pod = notices.filter(|it| it.pod.as_ref().is_none_or(|pod| *pod == record.name));
        // What is only odd is no problem; beside a fault it may be the cause of it.
        let is_faulty = of_pod.clone().any(|it| it.is_fault);
        let of_pod = of_pod.filter(|_| is_faulty);
        let mut problems: Vec<String> = of_pod.map(|it| it.text.clone()).collect();
        problems.extend(contested(&record, desired));
        problems.extend(self.failures.get(&Key::Pod(record.name.clone())).cloned());
        let (executor, report) = match &pod.executor {
            ExecutorState::Absent | ExecutorState::Lost { .. } => (ExecutorView::Absent, None),
            ExecutorState::Silent => (ExecutorView::Silent, None),
            ExecutorState::Connected { build, report, .. } => {
                let pid = pid.unwrap_or(0);
                (ExecutorView::Connected { pid, build: build.clone() }, report.clone())
            }
        };
        let spec = pod.spec.as_ref().map(|stored| stored.spec.clone());
        let waits = self.waits.get(&record.name);
        let waits = waits.map(|wait| Waits {
            who: if spec.as_ref() == Some(&wait.spec) {
                Waiting::Instance
            } else {
                Waiting::Revision
            },
            reason: wait.reason,
            why: format!("{} {}", wait.source, wait.why),
        });
        let addresses = self.addresses(record.id, spec.as_deref());
        Some(PodView { version: 0, record, spec, report, executor, addresses, problems, waits })
    }
}

/// What kind of event it is that a pod waits, if that is one: what is only looked for is none.
fn news_of_wait(old: Option<&Wait>, new: &Wait) -> Option<(EventKind, String)> {
    let is_same = old.is_some_and(|old| old.reason == new.reason);
    match new.reason {
        WaitReason::Room if old.is_some() => None,
        WaitReason::Room => Some((EventKind::Warning, "FailedScheduling".to_owned())),
        WaitReason::Pressure(_) if is_same => None,
        WaitReason::Pressure(_) => Some((EventKind::Warning, "FailedScheduling".to_owned())),
        WaitReason::Order if is_same => None,
        WaitReason::Order => Some((EventKind::Normal, "WaitingForPod".to_owned())),
        WaitReason::Config => {
            let is_news = old.is_none_or(|old| old.why != new.why);
            is_news.then(|| (EventKind::Warning, "FailedConfig".to_owned()))
        }
        WaitReason::Images { is_pulling: false } => None,
        WaitReason::Images { is_pulling: true } if is_same => None,
        WaitReason::Images { is_pulling: true } => Some((EventKind::Normal, "Pulling".to_owned())),
        WaitReason::Trouble(trouble) => {
            let is_news = old.is_none_or(|old| old.why != new.why);
            is_news.then(|| (EventKind::Warning, trouble.to_string()))
        }
    }
}

/// A pod of which there is no instance yet. Its id is made from its name, so that it is the same
/// as long as it waits; the instance that it becomes has another.
fn waiting(
    name: &PodName,
    wait: &Wait,
    old: Option<&Arc<PodView>>,
    version: u64,
    now: WallTime,
) -> PodView {
    let since = old.map_or(now, |view| view.record.created_at);
    let revision = Revision::of(&wait.spec);
    let digest = <[u8; 32]>::from(Sha256::digest(name.to_string()));
    let (first, _) = digest.split_first_chunk::<16>().expect("32 bytes hold 16");
    let accepted =
        Accepted { number: 1, digest: revision.digest(), shared: revision.shared, at: since };
    PodView {
        version,
        record: PodRecord {
            id: PodId::from_random(u128::from_be_bytes(*first)),
            name: name.clone(),
            source: wait.source.clone(),
            accepted,
            history: Vec::new(),
            phase: RecordPhase::Active,
            created_at: since,
            losses: Losses::default(),
            held: None,
            trial: None,
            successor: None,
            eviction: None,
        },
        spec: Some(wait.spec.clone()),
        report: None,
        executor: ExecutorView::Absent,
        addresses: Addresses::default(),
        problems: Vec::new(),
        waits: Some(Waits { who: Waiting::Pod, reason: wait.reason, why: wait.why.clone() }),
    }
}

/// The pods that several files ask for.
fn all_contested(pods: &[Arc<PodView>], desired: &DesiredState) -> Vec<String> {
    // Hardly ever any: only of those is it looked up who has them.
    let several = desired.claims.iter().filter(|(_, claims)| claims.len() > 1);
    let texts = several.filter_map(|(name, _)| {
        contested(&pods.iter().rfind(|view| view.record.name == *name)?.record, desired)
    });
    texts.collect()
}

/// Says so if other files ask for the same pod.
fn contested(record: &PodRecord, desired: &DesiredState) -> Option<String> {
    let name: &PodName = &record.name;
    let claims = desired.claims.get(name)?;
    let others: Vec<String> = claims
        .iter()
        .filter(|claim| claim.source != record.source)
        .map(|claim| claim.source.to_string())
        .collect();
    (!others.is_empty()).then(|| {
        format!(
            "pod {name} is also in {}; the one in {} counts: remove it from all files but one",
            others.join(", "),
            record.source
        )
    })
}
