//! Who waits for whom, who comes first where there is no room for all, and what is on trial.

use std::sync::Arc;

use roost::ids::{PodId, PodName};
use roost::manifest::pod::{After, PodSpec, Until};
use roost::manifest::revision::Hash;
use roost::reconciler::{Action, Asked, Key, Plan, Requests, Step, StoredSpec, WaitReason};
use roost::state::record::{ManifestFile, Outcome, PodRecord, RecordPhase};

use crate::oracle::{Basis, host_ports};
use crate::specs::node;
use crate::world::{Bug, World};

/// How old the agent's view of an executor may be: what messages and ends of processes take.
const NEWS: u64 = 5;

impl World {
    /// A report has changed: whether the pod is Ready, in truth.
    pub(crate) fn note_readiness(&mut self, pid: u64) {
        let now = self.now;
        let Some(executor) = self.executors.get(&pid) else { return };
        let report = executor.machine.report();
        let ready =
            report.zip(executor.machine.spec()).is_some_and(|(report, spec)| report.is_ready(spec));
        self.oracle.note_readiness(executor.pod, ready, now);
    }

    fn is_so_far(&self, After { pod, until }: &After) -> bool {
        let now = self.now;
        self.store.now.records.values().filter(|record| record.name == *pod).any(|record| {
            match (until, &record.phase) {
                (Until::Ready, RecordPhase::Active) => {
                    self.oracle.was_ready(record.id, now.saturating_sub(NEWS))
                }
                (Until::Succeeded, RecordPhase::Finished { outcome, .. }) => {
                    *outcome == Outcome::Succeeded
                }
                (
                    Until::Ready | Until::Succeeded,
                    RecordPhase::Active
                    | RecordPhase::Finished { .. }
                    | RecordPhase::Terminating { .. }
                    | RecordPhase::Destroying { .. },
                ) => false,
            }
        })
    }

    /// Whether everything is so far that a specification waits for.
    pub(crate) fn lacks_nobody(&self, spec: &PodSpec) -> bool {
        spec.after.iter().all(|after| self.is_so_far(after))
    }

    /// What a file truly asks of a pod that has been accepted like that.
    fn truly(
        &self,
        basis: &Basis,
        name: &PodName,
        source: &ManifestFile,
        digest: Hash,
    ) -> Option<Arc<PodSpec>> {
        let claims = basis.desired.claims.get(name)?;
        let own = claims.iter().find(|claim| claim.source == *source)?;
        (own.revision.digest() == digest).then(|| own.spec.clone())
    }

    /// Nothing is started before those that it waits for are so far.
    pub(crate) fn check_order_of_pods(&mut self, plan: &Plan, basis: &Basis) {
        let steps = plan.work.iter().flat_map(|(key, steps)| steps.iter().map(move |it| (key, it)));
        let starting = steps.filter_map(|(key, step)| {
            let Key::Pod(name) = key else { return None };
            if let Action::Start(id) = &step.action {
                let record = self.store.now.records.get(id)?;
                let truth = self.truly(basis, name, &record.source, record.accepted.digest);
                return truth.or_else(|| Some(self.disk.pod(*id)?.spec.clone()));
            }
            let Action::Create(creation) = &step.action else { return None };
            let claims = basis.desired.claims.get(name)?;
            let own = claims.iter().find(|claim| claim.source == creation.source)?;
            creation.is_first.then(|| own.spec.clone())
        });
        let early = { starting }.find(|spec| !self.lacks_nobody(spec));
        self.check(early.is_none(), || {
            let spec = early.as_ref().expect("just seen");
            format!("{} is started, and waits for {:?}", spec.name, spec.after)
        });
    }

    /// Of new pods those of higher priority come first.
    pub(crate) fn check_priority(&mut self, plan: &Plan, basis: &Basis) {
        let is_new = |name: &PodName| {
            let under_way = self.agent.as_ref().is_some_and(|agent| agent.is_under_way(name));
            !under_way && self.store.now.records.values().all(|record| record.name != *name)
        };
        let truth = |name: &PodName| {
            let claims = basis.desired.claims.get(name)?;
            claims.first().map(|claim| claim.spec.clone())
        };
        let made = plan.work.iter().filter_map(|(key, steps)| match (key, steps.first()) {
            (Key::Pod(name), Some(Step { action: Action::Create(creation), .. }))
                if creation.is_first && is_new(name) =>
            {
                truth(name)
            }
            _ => None,
        });
        let made: Vec<Arc<PodSpec>> = made.collect();
        let free = node().allocatable().cpu_milli;
        let passed_over = plan.waits.iter().find_map(|(name, wait)| {
            let spec = truth(name).filter(|_| wait.reason == WaitReason::Room && is_new(name))?;
            let lower = made.iter().filter(|other| other.priority < spec.priority);
            let lower: u64 = lower.map(|other| Requests::of(other).cpu_milli).sum();
            let others = plan.requested.cpu_milli.saturating_sub(lower);
            let fits = others + Requests::of(&spec).cpu_milli <= free;
            (lower > 0 && fits && host_ports(&spec).is_empty()).then(|| name.clone())
        });
        self.check(passed_over.is_none(), || {
            format!("{passed_over:?} waits, and pods of lower priority take its room")
        });
    }

    /// What is gone back from had its time and is not Ready; what is on trial is judged in time.
    pub(crate) fn check_trials(&mut self, plan: &Plan) {
        let (now, boot) = (self.boot_time(), self.boot_id());
        let mut faults = Vec::new();
        for id in plan.retreats.keys() {
            let record = self.store.now.records.get(id);
            let trial = record.and_then(|record| record.trial.as_ref());
            let is_over = trial.is_some_and(|it| it.until.boot == boot && it.until.at <= now);
            if !is_over {
                faults.push(format!("{id} goes back at {now:?}, its trial is {trial:?}"));
            }
            let is_ready = self.oracle.is_ready_since(*id, self.now.saturating_sub(NEWS));
            if is_over && is_ready && self.knows_what_is_accepted(*id) {
                faults.push(format!("{id} goes back although it is Ready"));
            }
        }
        for record in self.store.now.records.values() {
            let Some(trial) = record.trial.as_ref().filter(|it| it.until.boot == boot) else {
                continue;
            };
            let key = Key::Pod(record.name.clone());
            let is_idle = !plan.work.contains_key(&key) && !self.is_busy(&key);
            let is_due = record.phase == RecordPhase::Active && trial.until.at > now && is_idle;
            if is_due && plan.wake_at.is_none_or(|at| at > trial.until.at) {
                let (id, at) = (record.id, trial.until.at);
                faults.push(format!("{id} is on trial until {at:?}, awake at {:?}", plan.wake_at));
            }
        }
        if let Some(fault) = faults.into_iter().next() {
            self.fail(fault);
        }
    }

    fn knows_what_is_accepted(&self, id: PodId) -> bool {
        let digest = self.store.now.records.get(&id).map(|record| record.accepted.digest);
        let mut own = self.executors.values().filter(|executor| executor.pod == id);
        own.any(|executor| {
            executor.machine.report().map(|report| report.digest) == digest
                && executor.hung_until <= self.now
        })
    }

    /// A new revision that asks for it is on trial; what lacks a ConfigMap is not accepted.
    pub(crate) fn check_acceptance(
        &mut self,
        old: Option<&PodRecord>,
        new: &PodRecord,
        spec: Option<&PodSpec>,
        basis: &Basis,
    ) {
        let is_same = old.is_some_and(|old| old.accepted.digest == new.accepted.digest);
        if is_same || new.phase != RecordPhase::Active {
            return;
        }
        let own = basis.desired.claims.get(&new.name).and_then(|claims| {
            let digest = new.accepted.digest;
            claims.iter().find(|it| it.source == new.source && it.revision.digest() == digest)
        });
        let lacks = own.and_then(|claim| claim.lacks.clone());
        self.check(lacks.is_none(), || format!("{} is accepted without {lacks:?}", new.name));
        let asks = spec.is_some_and(|spec| spec.rollback_after.is_some()) && own.is_some();
        let is_on_trial = new.trial.is_some() || new.held.is_some();
        self.check(old.is_none() || !asks || is_on_trial, || {
            format!("{} asks for a trial of its new revision, and is not on trial", new.name)
        });
    }

    /// Asks for the roll-backs that revisions on trial bring about, as the agent does.
    pub(crate) fn retreat(&mut self, plan: &Plan) {
        let Some(agent) = &mut self.agent else { return };
        agent.forget_retreats(&plan.retreats.keys().copied().collect());
        for (id, back_to) in &plan.retreats {
            let Some(record) = self.store.now.records.get(id).cloned() else { continue };
            let kept = self.store.now.revisions.get(&(record.name.clone(), *back_to));
            let other = kept.filter(|kept| kept.accepted.digest != record.accepted.digest);
            let stored = other.and_then(|kept| kept.spec.clone()).map(StoredSpec::new);
            let refused = self.asks_for(&record);
            let asked = match stored {
                Some(stored) => Asked::RollBack { to: *back_to, stored, refused },
                None => Asked::Persist,
            };
            let Some(agent) = &mut self.agent else { return };
            if agent.ask_to_retreat(*id, asked) {
                self.oracle.retreats += 1;
                self.request_plan();
            }
        }
    }

    /// Whose priority a deliberate bug has forgotten is made as it should be all the same.
    pub(crate) fn mend_priority(&self, spec: &mut Arc<PodSpec>) {
        if !self.has(Bug::PriorityIsForgotten) {
            return;
        }
        let truth = self.agent.as_ref().and_then(|agent| agent.truth().claims.get(&spec.name));
        let is_it = |other: &PodSpec| {
            PodSpec { priority: 0, ..other.clone() } == PodSpec { priority: 0, ..(**spec).clone() }
        };
        if let Some(claim) = truth.into_iter().flatten().find(|claim| is_it(&claim.spec)) {
            *spec = claim.spec.clone();
        }
    }
}
