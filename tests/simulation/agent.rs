//! The agent's shell, modelled: observe, decide with the real `reconcile`, act in stages.
//!
//! Faithful to what `reconciler::plan` documents: at most one worker for a key; a step that fails
//! holds the key back for a while, and then everything is decided anew; between any two stages
//! the agent may be killed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use roost::clock::Millis;
use roost::executor::protocol::{Goal, PodReport, WantedPod};
use roost::ids::{PodId, PodName};
use roost::manifest::desired::{DesiredState, DirectoryView};
use roost::manifest::pod::PodSpec;
use roost::manifest::revision::{Hash, Revision};
use roost::reconciler::{
    Action, ActualPod, ActualState, Asked, Creation, ExecutorState, Key, Now, Reason, Step,
    StoredSpec, reconcile,
};
use roost::state::record::{
    Accepted, KeptRevision, Losses, PodRecord, RecordPhase, TerminationCause,
};

use crate::disk::{Body, Path, StoredPod};
use crate::executor::ExecutorEvent;
use crate::oracle::Basis;
use crate::specs;
use crate::world::{Bug, Event, World};

/// First and longest time for which a key is held back after a failure.
const HOLD: u64 = 500;
const HOLD_MAX: u64 = 20_000;
/// How long an executor may take to answer.
const ANSWER_TIME_MAX: u64 = 10_000;

#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) life: u64,
    pub(crate) build: u64,
    views: BTreeMap<PodId, View>,
    pub(crate) workers: BTreeMap<Key, Worker>,
    /// Only with `Bug::TwoWorkersPerKey`.
    second: BTreeMap<Key, Worker>,
    held: BTreeMap<Key, Held>,
    /// What was promised to those that are worked on.
    under_way: BTreeMap<PodName, Arc<PodSpec>>,
    asked: BTreeMap<PodId, Asked>,
    desired: DesiredState,
    /// What a faithful watcher would have seen.
    truth: DesiredState,
    plan_is_due: bool,
    wake: u64,
}

#[derive(Debug, Clone)]
enum View {
    Silent { pid: u64, since: u64 },
    Connected { pid: u64, since: u64, build: u64, refused: bool, report: Option<PodReport> },
    Lost { lived: Millis },
}

#[derive(Debug, Clone)]
pub(crate) struct Worker {
    serial: u64,
    steps: VecDeque<Step>,
    stage: u8,
    /// What `Create` makes.
    creates: Option<PodId>,
    /// Whether that is recorded before its specification is written.
    records_first: Option<bool>,
    waits: Option<Wait>,
    basis: Rc<Basis>,
}

#[derive(Debug, Clone)]
enum Wait {
    Started { id: PodId },
    Told { id: PodId, number: u64, goal: Goal },
    Upgraded { id: PodId },
}

impl Wait {
    fn id(&self) -> PodId {
        match self {
            Self::Started { id } | Self::Told { id, .. } | Self::Upgraded { id } => *id,
        }
    }
}

#[derive(Debug)]
struct Held {
    until: u64,
    failures: u32,
}

#[derive(Debug, Clone)]
pub(crate) enum AgentEvent {
    Plan,
    Wake { generation: u64 },
    Manifests,
    Stage { key: Key, serial: u64 },
    TimedOut { key: Key, serial: u64 },
    Welcome { pid: u64, build: u64, report: Option<PodReport> },
    Report { pid: u64, report: PodReport },
    NotUpgraded { pid: u64 },
    Gone { pid: u64 },
}

enum Outcome {
    /// The action has more stages.
    Next,
    Done,
    Wait(Wait),
    Failed(&'static str),
}

impl World {
    pub(crate) fn start_agent(&mut self) {
        if self.agent.is_some() {
            return;
        }
        let life = self.number();
        let mut views = BTreeMap::new();
        let executors: Vec<(u64, PodId)> =
            self.executors.iter().map(|(pid, executor)| (*pid, executor.pod)).collect();
        for (pid, pod) in executors {
            if !self.has(Bug::RestartedAgentSeesNoExecutors) {
                views.insert(pod, View::Silent { pid, since: self.now });
                let delay = self.rng.between(1, 100);
                let what = ExecutorEvent::Connect { life };
                self.at(delay, Event::Executor { pid, what });
            }
        }
        let truth = self.user.unread();
        let mut desired = truth.clone();
        if self.has(Bug::UnreadDirectoryIsEmpty) {
            for (name, view) in &mut desired.directories {
                if let Some(handle) = self.store.now.directories.get(name) {
                    *view = DirectoryView::Read { handle: handle.clone(), empty: true };
                }
            }
        }
        self.say(|| format!("agent {life} starts"));
        self.agent = Some(Agent {
            life,
            build: self.build,
            views,
            workers: BTreeMap::new(),
            second: BTreeMap::new(),
            held: BTreeMap::new(),
            under_way: BTreeMap::new(),
            asked: BTreeMap::new(),
            desired,
            truth,
            plan_is_due: false,
            wake: 0,
        });
        self.manifests_changed();
        self.request_plan();
    }

    /// The watcher will tell, soon.
    pub(crate) fn manifests_changed(&mut self) {
        let delay = self.rng.between(0, 1500);
        self.agent_event_in(delay, AgentEvent::Manifests);
    }

    fn agent_event_in(&mut self, delay: u64, what: AgentEvent) {
        if let Some(life) = self.agent.as_ref().map(|agent| agent.life) {
            self.at(delay, Event::Agent { life, what });
        }
    }

    fn request_plan(&mut self) {
        if let Some(agent) = &mut self.agent
            && !std::mem::replace(&mut agent.plan_is_due, true)
        {
            self.agent_event_in(0, AgentEvent::Plan);
        }
    }

    pub(crate) fn agent_event(&mut self, life: u64, what: AgentEvent) {
        let Some(agent) = self.agent.as_mut().filter(|agent| agent.life == life) else { return };
        match what {
            AgentEvent::Plan => {
                agent.plan_is_due = false;
                self.plan();
            }
            AgentEvent::Wake { generation } => {
                if generation == agent.wake {
                    self.request_plan();
                }
            }
            AgentEvent::Manifests => {
                let known = &self.store.now.directories;
                agent.desired = self.user.read(self.options.bug, known);
                agent.truth = self.user.read(None, known);
                self.request_plan();
            }
            AgentEvent::Stage { key, serial } => self.stage(key, serial),
            AgentEvent::TimedOut { key, serial } => {
                if agent.workers.get(&key).is_some_and(|w| w.serial == serial && w.waits.is_some())
                {
                    self.step_failed(&key, "no answer in time");
                }
            }
            AgentEvent::Welcome { pid, build, report } => self.welcomed(pid, build, report),
            AgentEvent::Report { pid, report: new } => {
                if let Some(View::Connected { report, .. }) = agent.view_of(pid) {
                    *report = Some(new);
                    self.answer(pid);
                }
            }
            AgentEvent::NotUpgraded { pid } => {
                if let Some(View::Connected { refused, .. }) = agent.view_of(pid) {
                    *refused = true;
                    self.answer(pid);
                }
            }
            AgentEvent::Gone { pid } => self.gone(pid),
        }
    }

    fn welcomed(&mut self, pid: u64, build: u64, report: Option<PodReport>) {
        let Some(agent) = &mut self.agent else { return };
        let Some(view) = agent.view_of(pid) else { return };
        let since = match view {
            View::Silent { since, .. } | View::Connected { since, .. } => *since,
            View::Lost { .. } => return,
        };
        *view = View::Connected { pid, since, build, refused: false, report };
        self.answer(pid);
    }

    /// Something was heard of an executor: perhaps a worker waited for that.
    fn answer(&mut self, pid: u64) {
        let Some(agent) = &mut self.agent else { return };
        let Some((id, view)) = agent
            .views
            .iter()
            .find(|(_, view)| view.pid() == Some(pid))
            .map(|(a, b)| (*a, b.clone()))
        else {
            return;
        };
        let View::Connected { build, refused, report, .. } = view else { return };
        let done: Vec<Key> = agent
            .workers
            .iter()
            .filter(|(_, worker)| match &worker.waits {
                Some(wait) if wait.id() != id => false,
                Some(Wait::Started { .. }) => true,
                Some(Wait::Told { number, goal, .. }) => report
                    .as_ref()
                    .is_some_and(|report| report.number == *number && report.goal == *goal),
                Some(Wait::Upgraded { .. }) => refused || build == agent.build,
                None => false,
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in done {
            self.step_done(&key);
        }
        self.request_plan();
    }

    fn gone(&mut self, pid: u64) {
        let now = self.now;
        let Some(agent) = &mut self.agent else { return };
        let Some((id, since)) = agent.views.iter().find_map(|(id, view)| match view {
            View::Silent { pid: p, since } | View::Connected { pid: p, since, .. } if *p == pid => {
                Some((*id, *since))
            }
            View::Silent { .. } | View::Connected { .. } | View::Lost { .. } => None,
        }) else {
            return;
        };
        let record = self.store.now.records.get(&id);
        if record.is_some_and(|record| record.phase == RecordPhase::Active) {
            agent.views.insert(id, View::Lost { lived: Millis(now - since) });
        } else {
            agent.views.remove(&id);
        }
        let waiting: Vec<(Key, bool)> = agent
            .workers
            .iter()
            .filter_map(|(key, worker)| {
                let wait = worker.waits.as_ref().filter(|wait| wait.id() == id)?;
                Some((key.clone(), matches!(wait, Wait::Told { .. })))
            })
            .collect();
        for (key, told) in waiting {
            if told { self.step_done(&key) } else { self.step_failed(&key, "it ended") }
        }
        self.request_plan();
    }

    /// What the agent knows.
    pub(crate) fn snapshot(&self) -> ActualState {
        let agent = self.agent.as_ref();
        let creating: BTreeSet<PodId> =
            agent.into_iter().flat_map(|a| a.workers.values()).filter_map(|w| w.creates).collect();
        let mut ids: BTreeSet<PodId> = self.store.now.records.keys().copied().collect();
        ids.extend(self.disk.current.keys().map(Path::pod));
        ids.extend(&self.runtime);
        let mut pods = BTreeMap::new();
        for id in ids.difference(&creating) {
            let stored = self.disk.pod(*id);
            let record = self.store.now.records.get(id).cloned();
            let adoptable = match (&record, stored) {
                (None, Some(stored)) if !self.has(Bug::RecordsAreNotAdopted) => {
                    Some(stored.record.clone())
                }
                (Some(_) | None, _) => None,
            };
            let pod = ActualPod {
                record,
                adoptable,
                spec: stored.map(|stored| StoredSpec {
                    spec: stored.spec.clone(),
                    revision: stored.revision.clone(),
                }),
                successor: self.successor_of(*id),
                executor: agent.map_or(ExecutorState::Absent, |agent| agent.sees(*id)),
                has_runtime: self.runtime.contains(id),
            };
            pods.insert(*id, pod);
        }
        ActualState {
            boot: self.boot_id(),
            executor_build: agent.map_or(0, |agent| agent.build).to_string(),
            directories: self.store.now.directories.clone(),
            node: specs::node(),
            under_way: match agent {
                Some(agent) if !self.has(Bug::WorkUnderWayTakesNoRoom) => agent.under_way.clone(),
                Some(_) | None => BTreeMap::new(),
            },
            asked: agent.map(|agent| agent.asked.clone()).unwrap_or_default(),
            pods,
        }
    }

    fn successor_of(&self, id: PodId) -> Option<StoredSpec> {
        let record = self.store.now.records.get(&id)?;
        let number = record.successor.as_ref()?.number;
        let kept = self.store.now.revisions.get(&(record.name.clone(), number))?;
        kept.spec.clone().map(StoredSpec::new)
    }

    /// Somebody wants a pod restarted or rolled back.
    pub(crate) fn somebody_asks(&mut self) {
        let stays = |record: &&PodRecord| {
            matches!(record.phase, RecordPhase::Active | RecordPhase::Finished { .. })
        };
        let records: Vec<PodRecord> =
            self.store.now.records.values().filter(stays).cloned().collect();
        let Some(record) = self.rng.pick(&records).cloned() else { return };
        let of_pod = |kept: &&KeptRevision| {
            kept.name == record.name && kept.accepted.digest != record.accepted.digest
        };
        let kept: Vec<KeptRevision> =
            self.store.now.revisions.values().filter(of_pod).cloned().collect();
        let asked = match self.rng.pick(&kept).cloned() {
            Some(KeptRevision { accepted, spec: Some(spec), .. }) if self.rng.chance(70) => {
                let (to, stored) = (accepted.number, StoredSpec::new(spec));
                Asked::RollBack { to, stored, refused: self.asks_for(&record) }
            }
            Some(_) | None => Asked::Restart,
        };
        self.say(|| format!("{} {}: {asked:?} is asked", record.name, record.id));
        if let Some(agent) = &mut self.agent {
            agent.asked.insert(record.id, asked);
            self.request_plan();
        }
    }

    fn asks_for(&self, record: &PodRecord) -> Hash {
        let desired = self.agent.as_ref().map(|agent| &agent.desired);
        let claims = desired.and_then(|desired| desired.claims.get(&record.name));
        let own = claims.into_iter().flatten().find(|claim| claim.source == record.source);
        own.map_or_else(
            || record.held.map_or(record.accepted.digest, |held| held.refused),
            |claim| claim.revision.digest(),
        )
    }

    /// What was asked and can't be done is refused; what was done is answered.
    fn end_asking(&mut self, plan: &roost::reconciler::Plan) {
        let busy: BTreeSet<PodName> = plan
            .work
            .iter()
            .filter(|(_, steps)| {
                steps.iter().any(|step| {
                    matches!(
                        step.reason,
                        Reason::RolledBack(_) | Reason::Terminated(TerminationCause::Restarted)
                    )
                })
            })
            .filter_map(|(key, _)| match key {
                Key::Pod(name) => Some(name.clone()),
                Key::Instance(_) => None,
            })
            .collect();
        let records = &self.store.now.records;
        let Some(agent) = &mut self.agent else { return };
        let workers = &agent.workers;
        agent.asked.retain(|id, _| {
            records.get(id).is_some_and(|record| {
                busy.contains(&record.name) || workers.contains_key(&Key::Pod(record.name.clone()))
            })
        });
    }

    pub(crate) fn plan_now(&self) -> Option<roost::reconciler::Plan> {
        let agent = self.agent.as_ref()?;
        let now = Now { boot: self.boot_time(), wall: self.wall() };
        Some(reconcile(&agent.desired, &self.snapshot(), now))
    }

    fn plan(&mut self) {
        let Some(plan) = self.plan_now() else { return };
        let Some(agent) = &self.agent else { return };
        let basis = Rc::new(Basis {
            desired: agent.truth.clone(),
            known: self.store.now.directories.clone(),
        });
        if !plan.remember.is_empty() && !self.store_fails() {
            self.store.commit(true, |content| content.directories.extend(plan.remember.clone()));
        }
        self.check_waits(&plan);
        self.end_asking(&plan);
        let promised = plan.promised;
        for (key, mut steps) in plan.work {
            self.spoil(&mut steps);
            let promised = match &key {
                Key::Pod(name) => promised.get(name).cloned(),
                Key::Instance(_) => None,
            };
            self.employ(key, steps, promised, &basis);
        }
        let Some(at) = plan.wake_at else { return };
        let now = self.boot_time();
        self.check(at > now, || "the agent wants to be woken in the past".to_owned());
        let Some(agent) = &mut self.agent else { return };
        agent.wake += 1;
        let generation = agent.wake;
        self.agent_event_in(at.since(now).0, AgentEvent::Wake { generation });
    }

    fn employ(
        &mut self,
        key: Key,
        steps: Vec<Step>,
        promised: Option<Arc<PodSpec>>,
        basis: &Rc<Basis>,
    ) {
        let now = self.now;
        let busy = self.is_busy(&key);
        let bug = self.has(Bug::TwoWorkersPerKey);
        let serial = self.number();
        let Some(agent) = &mut self.agent else { return };
        if agent.held.get(&key).is_some_and(|held| held.until > now) {
            return;
        }
        let worker = Worker {
            serial,
            steps: steps.into(),
            stage: 0,
            creates: None,
            records_first: None,
            waits: None,
            basis: basis.clone(),
        };
        if !busy {
            agent.workers.insert(key.clone(), worker);
            if let (Key::Pod(name), Some(spec)) = (&key, promised) {
                agent.under_way.insert(name.clone(), spec);
            }
        } else if bug && !agent.second.contains_key(&key) {
            agent.second.insert(key.clone(), worker);
        } else {
            return;
        }
        self.schedule_stage(key, serial);
    }

    fn spoil(&self, steps: &mut Vec<Step>) {
        if self.has(Bug::ForgetBeforeSuccessor) {
            steps.retain(|step| {
                let Action::Create(creation) = &step.action else { return true };
                creation.number == 1
                    && creation.history.is_empty()
                    && creation.held.is_none()
                    && step.reason != Reason::Successor
            });
        }
        if self.has(Bug::ForgetBeforeDestroy) && steps.len() == 2 {
            let forgets = matches!(steps[1].action, Action::Forget { .. });
            if forgets {
                steps.swap(0, 1);
            }
        }
        if self.has(Bug::DestroyWithoutPhase)
            && let [Step { action: Action::Record(record), reason }] = steps.as_slice()
            && matches!(record.phase, RecordPhase::Destroying { .. })
        {
            let reason = reason.clone();
            let destroy = Step { action: Action::Destroy(record.id), reason: reason.clone() };
            let forget =
                Step { action: Action::Forget { id: record.id, revisions_of: None }, reason };
            *steps = vec![destroy, forget];
        }
    }

    fn schedule_stage(&mut self, key: Key, serial: u64) {
        let delay = if self.faults && self.rng.chance(3) {
            self.rng.between(500, 20_000)
        } else {
            self.rng.between(0, 15)
        };
        self.agent_event_in(delay, AgentEvent::Stage { key, serial });
    }

    fn stage(&mut self, key: Key, serial: u64) {
        let Some(agent) = &mut self.agent else { return };
        if agent.second.get(&key).is_some_and(|worker| worker.serial == serial) {
            // The second worker does all at once.
            let mut worker = agent.second.remove(&key).expect("just seen");
            while let Some(step) = worker.steps.pop_front() {
                worker.stage = 0;
                while let Outcome::Next = self.act(&mut worker, &step.action) {
                    worker.stage += 1;
                }
            }
            return;
        }
        let Some(mut worker) = agent.workers.get(&key).filter(|w| w.serial == serial).cloned()
        else {
            return;
        };
        let Some(step) = worker.steps.front().cloned() else { return };
        self.say(|| {
            format!("{key}: stage {} of {} ({:?})", worker.stage, step.reason, step.action)
        });
        if self.faults && self.rng.chance(2) {
            self.step_failed(&key, "before");
            return;
        }
        let outcome = self.act(&mut worker, &step.action);
        let ambiguous = self.faults && self.rng.chance(3);
        let Some(agent) = &mut self.agent else { return };
        match outcome {
            Outcome::Failed(why) => self.step_failed(&key, why),
            Outcome::Next | Outcome::Done if ambiguous => self.step_failed(&key, "after"),
            Outcome::Next => {
                worker.stage += 1;
                agent.workers.insert(key.clone(), worker);
                self.schedule_stage(key, serial);
            }
            Outcome::Done => {
                agent.workers.insert(key.clone(), worker);
                self.step_done(&key);
            }
            Outcome::Wait(wait) => {
                worker.waits = Some(wait);
                agent.workers.insert(key.clone(), worker);
                self.agent_event_in(ANSWER_TIME_MAX, AgentEvent::TimedOut { key, serial });
            }
        }
    }

    fn step_done(&mut self, key: &Key) {
        let Some(agent) = &mut self.agent else { return };
        let Some(worker) = agent.workers.get_mut(key) else { return };
        worker.steps.pop_front();
        worker.stage = 0;
        worker.waits = None;
        let serial = worker.serial;
        if worker.steps.is_empty() {
            agent.workers.remove(key);
            agent.no_longer_under_way(key);
            agent.held.remove(key);
            self.request_plan();
        } else {
            self.schedule_stage(key.clone(), serial);
        }
    }

    fn step_failed(&mut self, key: &Key, why: &'static str) {
        self.say(|| format!("{key}: failed: {why}"));
        let now = self.now;
        let Some(agent) = &mut self.agent else { return };
        agent.workers.remove(key);
        agent.no_longer_under_way(key);
        let failures = agent.held.get(key).map_or(1, |held| held.failures + 1);
        let delay = (HOLD << failures.min(10)).min(HOLD_MAX);
        agent.held.insert(key.clone(), Held { until: now + delay, failures });
        let life = agent.life;
        self.at(delay, Event::Agent { life, what: AgentEvent::Plan });
        self.request_plan();
    }

    fn store_fails(&mut self) -> bool {
        self.faults && (self.now < self.store_fails_until || self.rng.chance(1))
    }

    fn commit(&mut self, record: &PodRecord, keeps: &[KeptRevision], basis: &Basis) -> Outcome {
        if self.store_fails() {
            return Outcome::Failed("store");
        }
        let old = self.store.now.records.get(&record.id).cloned();
        let keeps = if self.has(Bug::RevisionsAreNotKept) { &[] } else { keeps };
        self.check_record(old.as_ref(), record, basis);
        let synced = !self.has(Bug::StoreNotFlushed) || self.rng.chance(50);
        self.store.commit(synced, |content| {
            content.records.insert(record.id, record.clone());
            keeps.iter().for_each(|kept| content.keep(kept));
        });
        if let Some(old) = &old {
            self.check_kept(old, record);
        }
        Outcome::Done
    }

    fn act(&mut self, worker: &mut Worker, action: &Action) -> Outcome {
        let basis = worker.basis.clone();
        match action {
            Action::Create(creation) => self.create(worker, creation),
            Action::Retire { record, keeps, .. } => self.commit(record, keeps, &basis),
            Action::Accept { record, spec, before } => match worker.stage {
                0 => {
                    if self.store_fails() {
                        return Outcome::Failed("store");
                    }
                    let kept = before.iter().filter(|_| !self.has(Bug::RevisionsAreNotKept));
                    let kept: Vec<_> = kept.cloned().collect();
                    self.store.commit(true, |content| kept.iter().for_each(|it| content.keep(it)));
                    Outcome::Next
                }
                1 => {
                    if self.disk_fails() {
                        return Outcome::Failed("disk");
                    }
                    if !self.has(Bug::AcceptKeepsOldSpecification) {
                        self.write_spec(record, spec);
                    }
                    Outcome::Next
                }
                _ => {
                    self.check_room(spec, Some(record.id));
                    self.commit(record, &[], &basis)
                }
            },
            Action::Record(record) => self.commit(record, &[], &basis),
            Action::NoteLoss(record) => {
                let outcome = if self.has(Bug::LossIsNotRecorded) {
                    Outcome::Done
                } else {
                    self.commit(record, &[], &basis)
                };
                if let (Outcome::Done, Some(agent)) = (&outcome, &mut self.agent) {
                    agent.views.remove(&record.id);
                    let retry_at = record.losses.retry_at.as_ref().map_or(0, |m| m.at.0);
                    self.oracle.losses.insert(record.id, retry_at);
                }
                outcome
            }
            Action::Start(id) => self.start(worker.stage, *id),
            Action::SetSpec { id, goal } => self.set_spec(*id, *goal),
            Action::Upgrade(id) => {
                let Some(pid) = self.connected(*id) else { return Outcome::Failed("no executor") };
                let build = self.agent.as_ref().map_or(0, |agent| agent.build);
                let what = ExecutorEvent::Upgrade { build };
                self.at(1, Event::Executor { pid, what });
                Outcome::Wait(Wait::Upgraded { id: *id })
            }
            Action::Kill(id) => self.kill(*id),
            Action::Release(id) => {
                let alive = self.executors.values().any(|executor| executor.pod == *id);
                self.check(!alive, || format!("{id} is released while its executor is there"));
                self.runtime.remove(id);
                Outcome::Done
            }
            Action::Destroy(id) => self.destroy(worker.stage, *id),
            Action::Forget { id, revisions_of } => self.forget(*id, revisions_of.as_ref()),
        }
    }

    fn forget(&mut self, id: PodId, revisions_of: Option<&PodName>) -> Outcome {
        if self.store_fails() {
            return Outcome::Failed("store");
        }
        self.check_forgotten(id);
        let synced = !self.has(Bug::StoreNotFlushed) || self.rng.chance(50);
        self.store.commit(synced, |content| {
            content.records.remove(&id);
            content.revisions.retain(|(name, _), _| Some(name) != revisions_of);
        });
        Outcome::Done
    }

    fn write_spec(&mut self, record: &PodRecord, spec: &Arc<PodSpec>) {
        // What a lost record is made from again is not its phase, nor its losses.
        let record =
            PodRecord { phase: RecordPhase::Active, losses: Losses::default(), ..record.clone() };
        let stored = StoredPod { record, spec: spec.clone(), revision: Revision::of(spec) };
        let id = stored.record.id;
        self.disk.write(Path::Spec(id), Body::Spec(Arc::new(stored)));
    }

    fn create(&mut self, worker: &mut Worker, creation: &Creation) -> Outcome {
        let Creation { source, spec, number, history, held, is_first } = creation;
        if worker.stage == 0 {
            if self.disk_fails() {
                return Outcome::Failed("disk");
            }
            let bits = u128::from(self.rng.next()) << 64 | u128::from(self.rng.next());
            let id = PodId::from_random(bits);
            let fresh = self.oracle.ids.insert(id);
            self.check(fresh, || format!("{id} is used twice"));
            let stays = |record: &PodRecord| {
                !matches!(record.phase, RecordPhase::Destroying { .. }) || self.disk.has(record.id)
            };
            let mut records = self.store.now.records.values();
            let twin = records.any(|record| record.name == spec.name && stays(record));
            self.check(!twin, || format!("{} is created beside another instance", spec.name));
            worker.creates = Some(id);
            self.disk.write(Path::Directory(id), Body::Nothing);
            return Outcome::Next;
        }
        let id = worker.creates.expect("made in the first stage");
        let revision = Revision::of(spec);
        let wall = self.wall();
        let record = PodRecord {
            id,
            name: spec.name.clone(),
            source: source.clone(),
            accepted: Accepted {
                number: *number,
                digest: revision.digest(),
                shared: revision.shared,
                at: wall,
            },
            history: history.clone(),
            phase: RecordPhase::Active,
            created_at: wall,
            losses: Losses::default(),
            held: held.filter(|_| !self.has(Bug::RollBackIsForgotten)),
            successor: None,
        };
        // Of the first instance of a pod either may become durable first.
        let records_first = match worker.records_first {
            Some(chosen) => chosen,
            None => (*is_first || self.has(Bug::SuccessorIsRecordedFirst)) && self.rng.chance(50),
        };
        worker.records_first = Some(records_first);
        let last = worker.stage == 2;
        let outcome = if last == records_first {
            if self.disk_fails() {
                return Outcome::Failed("disk");
            }
            self.write_spec(&record, spec);
            Outcome::Done
        } else {
            self.record_creation(&record, spec, *is_first, &worker.basis.clone())
        };
        if !last && matches!(outcome, Outcome::Done) { Outcome::Next } else { outcome }
    }

    fn record_creation(
        &mut self,
        record: &PodRecord,
        spec: &Arc<PodSpec>,
        is_first: bool,
        basis: &Basis,
    ) -> Outcome {
        self.check_room(spec, None);
        self.check_succession(record, basis);
        let outcome = self.commit(record, &[], basis);
        if let (Outcome::Done, true) = (&outcome, is_first) {
            let synced = self.store.durable.records.contains_key(&record.id);
            self.store.commit(synced, |content| {
                content.revisions.retain(|(name, _), _| *name != spec.name);
            });
        }
        outcome
    }

    fn connected(&self, id: PodId) -> Option<u64> {
        match self.agent.as_ref()?.views.get(&id)? {
            View::Connected { pid, .. } => Some(*pid),
            View::Silent { .. } | View::Lost { .. } => None,
        }
    }

    fn start(&mut self, stage: u8, id: PodId) -> Outcome {
        let alive = self.executors.values().any(|executor| executor.pod == id);
        if stage == 0 {
            self.check(!alive, || format!("{id} is started while its executor is there"));
            if !self.has(Bug::StartBesideOldProcesses) {
                self.kill_all(id);
            }
            return Outcome::Next;
        }
        self.check(!alive, || format!("{id} is started twice"));
        let record = self.store.durable.records.get(&id).cloned();
        let active = record.as_ref().is_some_and(|record| record.phase == RecordPhase::Active);
        self.check(active, || format!("{id} is started, its durable record is {record:?}"));
        let retry_at = self.oracle.losses.get(&id).copied().unwrap_or(0);
        let now = self.boot_time().0;
        self.check(retry_at <= now, || format!("{id} is started at {now}, before {retry_at}"));
        let pid = self.spawn(id);
        let (since, delay) = (self.now, self.rng.between(1, 50));
        if let Some(agent) = &mut self.agent {
            agent.views.insert(id, View::Silent { pid, since });
            let what = ExecutorEvent::Connect { life: agent.life };
            self.at(delay, Event::Executor { pid, what });
        }
        Outcome::Wait(Wait::Started { id })
    }

    fn set_spec(&mut self, id: PodId, goal: Goal) -> Outcome {
        let Some(pid) = self.connected(id) else { return Outcome::Failed("no executor") };
        let Some(stored) = self.disk.pod(id).cloned() else { return Outcome::Failed("no spec") };
        let Some(record) = self.store.now.records.get(&id) else {
            return Outcome::Failed("no record");
        };
        let number = record.accepted.number;
        if let Goal::Stop { .. } = goal {
            let phase = self.store.durable.records.get(&id).map(|record| record.phase.clone());
            let due = !matches!(phase, Some(RecordPhase::Active) | None);
            self.check(due, || format!("{id} is told to stop, its durable phase is {phase:?}"));
        }
        let wanted = WantedPod { number, goal, spec: stored.spec.clone() };
        self.at(1, Event::Executor { pid, what: ExecutorEvent::Deliver(wanted) });
        Outcome::Wait(Wait::Told { id, number, goal })
    }

    fn kill(&mut self, id: PodId) -> Outcome {
        let view = self.agent.as_ref().and_then(|agent| agent.views.get(&id)).cloned();
        let lost = matches!(view, Some(View::Lost { .. }));
        let due = match self.store.durable.records.get(&id).map(|record| &record.phase) {
            Some(RecordPhase::Terminating { kill_at, .. }) => {
                kill_at.boot != self.boot_id() || kill_at.at <= self.boot_time()
            }
            Some(RecordPhase::Active | RecordPhase::Finished { .. }) | None => false,
            Some(RecordPhase::Destroying { .. }) => true,
        };
        self.check(lost || due, || format!("{id} is killed before it is due"));
        self.kill_all(id);
        if let (false, Some(agent)) = (lost, &mut self.agent) {
            agent.views.remove(&id);
        }
        Outcome::Done
    }

    fn destroy(&mut self, stage: u8, id: PodId) -> Outcome {
        match stage {
            0 => {
                let due = match self.store.durable.records.get(&id) {
                    Some(record) => matches!(record.phase, RecordPhase::Destroying { .. }),
                    None => self.disk.pod(id).is_none(),
                };
                self.check(due, || format!("{id} is destroyed, but that is not recorded"));
                self.kill_all(id);
                if let Some(agent) = &mut self.agent {
                    agent.views.remove(&id);
                }
                Outcome::Next
            }
            1 => {
                self.runtime.remove(&id);
                Outcome::Next
            }
            // First what makes it look like a pod that could be adopted, then the rest.
            2 => {
                self.disk.remove(|path| *path == Path::Spec(id));
                Outcome::Next
            }
            _ => {
                self.disk.remove(|path| path.pod() == id);
                Outcome::Done
            }
        }
    }
}

impl View {
    fn pid(&self) -> Option<u64> {
        match self {
            Self::Silent { pid, .. } | Self::Connected { pid, .. } => Some(*pid),
            Self::Lost { .. } => None,
        }
    }
}

impl Agent {
    fn no_longer_under_way(&mut self, key: &Key) {
        if let Key::Pod(name) = key {
            self.under_way.remove(name);
        }
    }

    fn view_of(&mut self, pid: u64) -> Option<&mut View> {
        self.views.values_mut().find(|view| view.pid() == Some(pid))
    }

    fn sees(&self, id: PodId) -> ExecutorState {
        match self.views.get(&id) {
            None => ExecutorState::Absent,
            Some(View::Lost { lived }) => ExecutorState::Lost { lived: *lived },
            Some(View::Silent { .. }) => ExecutorState::Silent,
            Some(View::Connected { build, refused, report, .. }) => ExecutorState::Connected {
                build: build.to_string(),
                refused_upgrade: *refused,
                report: report.clone(),
            },
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.workers.is_empty() && !self.plan_is_due
    }

    pub(crate) fn desired(&self) -> &DesiredState {
        &self.desired
    }
}
