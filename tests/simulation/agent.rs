//! The agent's shell, modelled: observe, decide with the real `reconcile`, act in stages.
//!
//! Faithful to what `reconciler::plan` documents: at most one worker for a key; a step that fails
//! holds the key back for a while, and then everything is decided anew; between any two stages
//! the agent may be killed.

#[path = "agent/worker.rs"]
mod worker;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use roost::clock::{BootTime, Millis};
use roost::executor::protocol::{Goal, PodReport, WantedPod};
use roost::ids::{PodId, PodName};
use roost::manifest::desired::{DesiredState, DirectoryView};
use roost::manifest::pod::PodSpec;
use roost::manifest::revision::{Hash, Revision};
use roost::reconciler::pressure::{Pressure, Resource, Shortage, Strain, Verdict};
use roost::reconciler::{
    Action, ActualPod, ActualState, Asked, Creation, ExecutorState, Key, Now, Reason, Step,
    StoredSpec, reconcile,
};
use roost::state::record::{
    Accepted, EvictionCause, KeptRevision, Losses, PodRecord, RecordPhase, TerminationCause,
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
    /// Those that a trial has asked for.
    retreats: BTreeSet<PodId>,
    verdicts: BTreeMap<PodId, Verdict>,
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

/// The disk is short.
fn pressure() -> Pressure {
    let shortage = Shortage {
        resource: Resource::Disk,
        place: Some("/".to_owned()),
        threshold: 2,
        available: 1,
    };
    let disk = Some(Strain { shortage, met: true, last: BootTime(0) });
    Pressure { memory: None, disk }
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
            retreats: BTreeSet::new(),
            verdicts: BTreeMap::new(),
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

    pub(crate) fn request_plan(&mut self) {
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
            let mut record = self.store.now.records.get(id).cloned();
            if let (Some(trial), true) =
                (record.as_mut().and_then(|it| it.trial.as_mut()), self.has(Bug::TrialEndsAtOnce))
            {
                trial.until.at = roost::clock::BootTime(0);
            }
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
            images: Default::default(),
            boot: self.boot_id(),
            executor_build: agent.map_or(0, |agent| agent.build).to_string(),
            directories: self.store.now.directories.clone(),
            node: specs::node(),
            under_way: match agent {
                Some(agent) if !self.has(Bug::WorkUnderWayTakesNoRoom) => agent.under_way.clone(),
                Some(_) | None => BTreeMap::new(),
            },
            asked: agent.map(|agent| agent.asked.clone()).unwrap_or_default(),
            pressure: if self.pressed { pressure() } else { Pressure::default() },
            verdicts: agent.map(|agent| agent.verdicts.clone()).unwrap_or_default(),
            pods,
        }
    }

    fn successor_of(&self, id: PodId) -> Option<StoredSpec> {
        let record = self.store.now.records.get(&id)?;
        let number = record.successor.as_ref()?.number;
        let kept = self.store.now.revisions.get(&(record.name.clone(), number))?;
        kept.spec.clone().map(StoredSpec::new)
    }

    /// The node begins or ceases to run out of disk, or somebody is to go for want of something.
    pub(crate) fn something_runs_out(&mut self) {
        // The last of what goes wrong may come when it was to stop; this would last.
        if !self.faults {
            return;
        }
        if self.rng.chance(30) {
            self.pressed = !self.pressed;
        }
        let is_active = |record: &&PodRecord| record.phase == RecordPhase::Active;
        let records: Vec<PodRecord> =
            self.store.now.records.values().filter(is_active).cloned().collect();
        let picked = self.rng.pick(&records).map(|record| record.id);
        let cause = if self.rng.chance(50) { EvictionCause::Disk } else { EvictionCause::Limit };
        let pressed = self.pressed;
        self.say(|| format!("pressure: {pressed}; {picked:?} is to be evicted: {cause:?}"));
        if let (Some(agent), Some(id)) = (&mut self.agent, picked) {
            self.oracle.judged.insert(id);
            agent.verdicts.insert(id, Verdict { cause, message: "too much".to_owned() });
        }
        self.request_plan();
    }

    /// A verdict that is recorded is done, as is one on an instance that goes for another reason.
    fn note_eviction(&mut self, record: &PodRecord) {
        if let Some(agent) = &mut self.agent
            && record.phase != RecordPhase::Active
        {
            agent.verdicts.remove(&record.id);
        }
    }

    /// Somebody wants a pod restarted, rolled back, or to follow its manifest again.
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
            Some(_) | None if record.held.is_some() && self.rng.chance(50) => Asked::Release,
            Some(_) | None => Asked::Restart,
        };
        self.say(|| format!("{} {}: {asked:?} is asked", record.name, record.id));
        if let Some(agent) = &mut self.agent {
            agent.asked.insert(record.id, asked);
            self.request_plan();
        }
    }

    pub(crate) fn asks_for(&self, record: &PodRecord) -> Hash {
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
                        Reason::RolledBack(_)
                            | Reason::Released
                            | Reason::Terminated(TerminationCause::Restarted)
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
        let (workers, retreats) = (&agent.workers, &agent.retreats);
        agent.asked.retain(|id, _| {
            // Asked by the plan itself, which says as well when that ends.
            retreats.contains(id)
                || records.get(id).is_some_and(|record| {
                    busy.contains(&record.name)
                        || workers.contains_key(&Key::Pod(record.name.clone()))
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
        self.steps += 1;
        self.check_waits(&plan);
        self.check_order_of_pods(&plan, &basis);
        self.check_priority(&plan, &basis);
        self.check_trials(&plan);
        self.retreat(&plan);
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
        for step in steps.iter_mut() {
            if let Action::Create(creation) = &mut step.action {
                self.mend_priority(&mut creation.spec);
            } else if let Action::Accept { spec, .. } = &mut step.action {
                self.mend_priority(spec);
            }
        }
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

    /// What a faithful watcher would have seen.
    pub(crate) fn truth(&self) -> &DesiredState {
        &self.truth
    }

    pub(crate) fn is_under_way(&self, name: &PodName) -> bool {
        self.under_way.contains_key(name)
    }

    /// What the plan does not ask for any more.
    pub(crate) fn forget_retreats(&mut self, still: &BTreeSet<PodId>) {
        for id in self.retreats.difference(still) {
            self.asked.remove(id);
        }
        self.retreats.retain(|id| still.contains(id));
    }

    /// Asks on behalf of a trial, unless somebody has asked for something; whether that is new.
    pub(crate) fn ask_to_retreat(&mut self, id: PodId, asked: Asked) -> bool {
        if self.asked.contains_key(&id) || !self.retreats.insert(id) {
            return false;
        }
        self.asked.insert(id, asked);
        true
    }
}
