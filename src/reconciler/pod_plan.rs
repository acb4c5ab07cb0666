//! The decision for one pod: which of its instances is meant, and what asks for it. PURE.

use std::sync::Arc;

use super::admission::{Share, Turn, Wants};
use super::directory::Trust;
use super::images::Refusal;
use super::pressure::{Pressure, PressureKind};
use super::{
    Action, ActualPod, ActualState, Asked, Creation, ExecutorState, Images, Node, Now, PassedOver,
    Reason, Step,
};
use crate::clock::{BootTime, Millis};
use crate::ids::{PodId, PodName};
use crate::manifest::desired::Claim;
use crate::manifest::pod::{PodSpec, Until};
use crate::state::record::{ManifestFile, Outcome, PodRecord, RecordPhase, TerminationCause};

mod instance;

/// How long after its grace period a pod that has not stopped is killed by the agent: the
/// executor kills its containers itself, this is for an executor that can't.
pub const OVERDUE_MARGIN: Millis = Millis::from_secs(10);
/// First delay after an executor was lost; doubled each time.
pub const LOSS_DELAY: Millis = Millis::from_secs(1);
/// Longest delay after an executor was lost.
pub const LOSS_DELAY_MAX: Millis = Millis::from_secs(60);
/// An executor that lived this long clears the count.
pub const LOSS_RESET: Millis = Millis::from_secs(600);

/// Steps for one pod, and when to decide again.
type Decision = (Vec<Step>, Option<BootTime>);

fn step(action: Action, reason: Reason) -> Vec<Step> {
    vec![Step { action, reason }]
}

fn now_only(steps: Vec<Step>) -> Decision {
    (steps, None)
}

/// The remains of an instance that nothing identifies.
pub(super) fn discard(id: PodId) -> Vec<Step> {
    step(Action::Destroy(id), Reason::Unidentifiable)
}

/// A recorded instance with what is there of it.
#[derive(Debug, Clone, Copy)]
struct Instance<'a> {
    record: &'a PodRecord,
    actual: &'a ActualPod,
}

/// What asks for a pod.
#[derive(Debug, Default)]
pub(super) struct Claims<'a> {
    /// On this node.
    here: Vec<&'a Claim>,
    /// On others: it starts nothing, and ends nothing that it had started here before. A label
    /// that is wrong for a moment must not cost a pod its data; Kubernetes does not look at the
    /// labels of what runs either (`IgnoredDuringExecution`).
    elsewhere: Vec<&'a Claim>,
}

impl<'a> Claims<'a> {
    pub(super) fn of(claims: &'a [Claim], node: &Node) -> Self {
        let (here, elsewhere) =
            claims.iter().partition(|claim| node.mismatch(&claim.spec).is_none());
        Self { here, elsewhere }
    }
}

/// A pod: what asks for it, and its instances.
#[derive(Debug)]
pub(super) struct Pod<'a> {
    name: &'a PodName,
    claims: Claims<'a>,
    /// One that has no record yet.
    found: Option<(&'a PodRecord, &'a ActualPod)>,
    /// Those that shall run or are through; the one to keep is the last.
    kept: Vec<Instance<'a>>,
    /// Those that go.
    going: Vec<Instance<'a>>,
}

impl<'a> Pod<'a> {
    /// Sorts the instances of a pod.
    pub(super) fn of(name: &'a PodName, claims: Claims<'a>, instances: &[&'a ActualPod]) -> Self {
        let mut pod = Self { name, claims, found: None, kept: Vec::new(), going: Vec::new() };
        for actual in instances {
            match (&actual.record, &actual.adoptable) {
                (Some(record), _) => {
                    let instance = Instance { record, actual };
                    match record.phase {
                        RecordPhase::Active | RecordPhase::Finished { .. } => {
                            pod.kept.push(instance);
                        }
                        RecordPhase::Terminating { .. } | RecordPhase::Destroying { .. } => {
                            pod.going.push(instance);
                        }
                    }
                }
                (None, Some(adoptable)) => pod.found = pod.found.or(Some((adoptable, actual))),
                (None, None) => {}
            }
        }
        if pod.kept.len() > 1 {
            let claims = &pod.claims.here;
            pod.kept.sort_by_key(|instance| instance.rank(claims));
        }
        pod
    }

    /// The manifests that ask for it on other nodes.
    pub(super) fn passed_over(&self, node: &Node) -> impl Iterator<Item = PassedOver> {
        self.claims.elsewhere.iter().filter_map(|claim| {
            let (key, value) = node.mismatch(&claim.spec)?;
            let stays = self.kept.iter().any(|instance| instance.record.source == claim.source);
            Some(PassedOver {
                pod: self.name.clone(),
                source: claim.source.clone(),
                wants: format!("{key}={value}"),
                stays,
            })
        })
    }

    pub(super) fn name(&self) -> &'a PodName {
        self.name
    }

    /// Whether others that wait for it to be so far may be started.
    pub(super) fn is_so_far(&self, until: Until) -> bool {
        self.kept.iter().any(|instance| match (until, &instance.record.phase) {
            (Until::Ready, RecordPhase::Active) => instance.is_ready(),
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
        })
    }

    /// What is to be started of it now, as far as the pod itself is concerned: a new instance, or
    /// the executor of the one there is.
    pub(super) fn to_be_started(
        &self,
        actual: &ActualState,
        now: Now,
    ) -> Option<(&'a Arc<PodSpec>, &'a ManifestFile)> {
        if self.found.is_some() || !self.going.is_empty() {
            return None;
        }
        match self.kept.as_slice() {
            [] => self.claims.here.first().map(|claim| (&claim.spec, &claim.source)),
            [instance] => {
                let is_absent = matches!(instance.actual.executor, ExecutorState::Absent);
                let is_active = instance.record.phase == RecordPhase::Active;
                let is_due = is_absent && is_active || instance.is_due_back(actual, now);
                let stored = instance.spec().filter(|_| is_due)?;
                Some((&stored.spec, &instance.record.source))
            }
            _ => None,
        }
    }

    /// What the pod has of the node, and what it wants to become.
    pub(super) fn share(&self, actual: &'a ActualState, trust: &Trust<'_>, now: Now) -> Share<'a> {
        let mut has: Vec<&PodSpec> = Vec::new();
        for instance in &self.kept {
            if instance.takes_room() {
                let digest = instance.record.accepted.digest;
                let same =
                    || self.claims.here.iter().find(|claim| claim.revision.digest() == digest);
                let stored = instance.actual.spec.as_ref().map(|stored| &stored.spec);
                has.extend(stored.or_else(|| same().map(|claim| &claim.spec)).map(|spec| &**spec));
            }
        }
        for instance in &self.going {
            let ActualPod { spec, successor, .. } = instance.actual;
            let own = spec.iter().filter(|_| instance.takes_room());
            has.extend(own.chain(successor).map(|stored| &*stored.spec));
        }
        let found = self.found.and_then(|(_, actual)| actual.spec.as_ref());
        has.extend(found.map(|stored| &*stored.spec));
        has.extend(actual.under_way.get(self.name).map(|spec| &**spec));
        Share { name: self.name, has, wants: self.wants(actual, trust, now) }
    }

    /// Why the node lets nothing more of it run for now.
    pub(super) fn pressed(
        &self,
        wants: Wants<'_>,
        pressure: &Pressure,
    ) -> Option<(PressureKind, String)> {
        let evicted = self.kept.iter().find_map(|instance| instance.evicted());
        let is_new = wants.turn == Turn::New || evicted.is_some();
        let cause = evicted.map(|evicted| evicted.cause);
        is_new.then(|| pressure.refusal(wants.spec, cause)).flatten()
    }

    fn wants(&self, actual: &'a ActualState, trust: &Trust<'_>, now: Now) -> Option<Wants<'a>> {
        let of_claim = |claim: &'a Claim, turn| Some(Wants::of(claim, turn));
        if self.found.is_some() {
            return None;
        }
        if let Some(instance) = self.going.first() {
            // What it falls back to was promised to it.
            return match instance.next(&self.claims, trust) {
                Some(Next::Claim(claim)) if self.kept.is_empty() => of_claim(claim, Turn::Promised),
                Some(Next::Claim(_) | Next::Successor | Next::Unread) | None => None,
            };
        }
        let Some((instance, surplus)) = self.kept.split_last() else {
            return self.claims.here.first().and_then(|claim| of_claim(claim, Turn::New));
        };
        if !surplus.is_empty() {
            return None;
        }
        let record = instance.record;
        let is_through = record.phase != RecordPhase::Active;
        let again = |spec: &'a Arc<PodSpec>| Wants::again(spec, &record.source);
        let wish = choose(&self.claims, *instance, trust);
        match (instance.asked(&wish, actual), &wish) {
            // What it names may be another image by now.
            (Some(Asked::Restart), Wish::Run(claim))
                if instance.is_of(claim) && claim.spec.images().next().is_some() =>
            {
                return of_claim(claim, Turn::Changed);
            }
            (Some(Asked::Restart), _) => {
                return instance.spec().filter(|_| is_through).map(|stored| again(&stored.spec));
            }
            (Some(Asked::RollBack { stored, .. }), _) => return Some(again(&stored.spec)),
            (Some(Asked::Release | Asked::Persist) | None, _) => {}
        }
        match wish {
            Wish::Run(claim) if instance.asks_for_more(claim) => of_claim(claim, Turn::Changed),
            Wish::Run(_) | Wish::Keep if instance.is_due_back(actual, now) => {
                let stored = instance.spec()?;
                Some(Wants { turn: Turn::New, ..again(&stored.spec) })
            }
            Wish::Run(_) | Wish::Keep | Wish::Remove => None,
        }
    }

    /// What runs, or is to run again, and lacks images: they were lost. Nothing of it is stopped.
    pub(super) fn bereft(&self, images: &Images) -> Option<(&'a Arc<PodSpec>, &'a ManifestFile)> {
        let [instance] = self.kept.as_slice() else { return None };
        let is_active = instance.record.phase == RecordPhase::Active;
        let spec = &instance.spec().filter(|_| is_active && self.going.is_empty())?.spec;
        images.lacks_any(spec).then_some((spec, &instance.record.source))
    }

    /// The instance that did not get Ready in time, and the revision that it is to go back to.
    pub(super) fn retreat(&self, actual: &ActualState, now: Now) -> Option<(PodId, u64)> {
        let [instance] = self.kept.as_slice() else { return None };
        let record = instance.record;
        let trial = record.trial.as_ref().filter(|_| record.phase == RecordPhase::Active)?;
        let is_over = trial.until.boot == actual.boot && trial.until.at <= now.boot;
        // An agent that has just begun has not heard of it yet: it may well be Ready.
        let is_heard = match &instance.actual.executor {
            ExecutorState::Silent | ExecutorState::Connected { report: None, .. } => false,
            ExecutorState::Connected { report: Some(_), .. }
            | ExecutorState::Absent
            | ExecutorState::Lost { .. } => true,
        };
        (is_over && is_heard && !instance.is_ready()).then_some((record.id, trial.back_to))
    }

    /// Steps for the pod; `refusal` says why it can't become what it wants.
    pub(super) fn plan(
        &self,
        refusal: Option<Refusal<'_>>,
        actual: &ActualState,
        trust: &Trust<'_>,
        now: Now,
    ) -> Decision {
        if let Some((adoptable, _)) = self.found {
            let adopt = Action::Record(Box::new(adoptable.clone()));
            return now_only(step(adopt, Reason::FoundWithoutRecord));
        }
        // One instance is dealt with at a time, the ones that go first: nothing of a new one is
        // started before the old one is destroyed.
        if let Some(instance) = self.going.first() {
            return match &instance.record.phase {
                RecordPhase::Destroying { cause } => {
                    now_only(self.destroy(*instance, *cause, refusal, actual, trust, now))
                }
                RecordPhase::Terminating { .. }
                | RecordPhase::Active
                | RecordPhase::Finished { .. } => instance.go(actual, now),
            };
        }
        let Some((instance, surplus)) = self.kept.split_last() else {
            return now_only(if refusal.is_none() { create(&self.claims.here) } else { vec![] });
        };
        if let Some(surplus) = surplus.first() {
            return now_only(surplus.terminate(TerminationCause::Orphaned, actual, now));
        }
        let wish = choose(&self.claims, *instance, trust);
        if let Some(asked) = instance.asked(&wish, actual)
            && let Some(steps) = instance.obey(asked, refusal, actual, now)
        {
            return now_only(steps);
        }
        if let Some(verdict) = actual.verdicts.get(&instance.record.id)
            && instance.record.phase == RecordPhase::Active
            && !instance.is_through()
            && !matches!(wish, Wish::Remove)
        {
            return now_only(instance.evict(verdict, actual, now));
        }
        match wish {
            Wish::Run(claim) if instance.asks_for_more(claim) => {
                instance.pursue(claim, refusal, actual, now)
            }
            Wish::Run(_) | Wish::Keep if instance.is_due_back(actual, now) && refusal.is_none() => {
                now_only(instance.come_back(actual, now))
            }
            Wish::Run(claim) => instance.pursue(claim, refusal, actual, now),
            Wish::Keep => instance.keep(actual, now),
            Wish::Remove => now_only(instance.terminate(TerminationCause::Removed, actual, now)),
        }
    }

    /// The end of an instance. The one that comes after it is made before it is forgotten: as long
    /// as one of them is recorded, nobody else gets its room.
    fn destroy(
        &self,
        instance: Instance<'a>,
        cause: TerminationCause,
        refusal: Option<Refusal<'_>>,
        actual: &ActualState,
        trust: &Trust<'_>,
        now: Now,
    ) -> Vec<Step> {
        let id = instance.record.id;
        let reason = Reason::Terminated(cause);
        let mut steps = vec![Step { action: Action::Destroy(id), reason: reason.clone() }];
        let is_last = self.kept.is_empty() && self.going.len() == 1;
        let next = if is_last { instance.next(&self.claims, trust) } else { None };
        let creation = match next {
            Some(Next::Claim(claim)) if refusal.is_none() => {
                Some(instance.succeeded_by(claim, actual, now))
            }
            // It takes a moment to see what is here of it.
            Some(Next::Claim(_)) if refusal.is_some_and(Refusal::is_unclear) => return Vec::new(),
            Some(Next::Claim(_) | Next::Successor) => instance.again(actual, now),
            // Its record keeps the room; what is read is the next reason to decide.
            Some(Next::Unread) => return Vec::new(),
            None => None,
        };
        // What is made of the pod later takes nobody's place.
        let revisions_of = (is_last && creation.is_none()).then(|| self.name.clone());
        steps.extend(
            creation.map(|(creation, reason)| Step {
                action: Action::Create(Box::new(creation)),
                reason,
            }),
        );
        steps.push(Step { action: Action::Forget { id, revisions_of }, reason });
        steps
    }
}

fn create(claims: &[&Claim]) -> Vec<Step> {
    claims.first().map_or_else(Vec::new, |claim| {
        let creation = Creation {
            source: claim.source.clone(),
            spec: claim.spec.clone(),
            number: 1,
            history: Vec::new(),
            held: None,
            trial: None,
            eviction: None,
            is_first: true,
        };
        step(Action::Create(Box::new(creation)), Reason::NewManifest(claim.source.clone()))
    })
}

enum Wish<'a> {
    Run(&'a Claim),
    Keep,
    Remove,
}

/// What comes after an instance that goes.
#[derive(Clone, Copy)]
enum Next<'a> {
    /// What a manifest asks for.
    Claim(&'a Claim),
    /// What its record says.
    Successor,
    /// Not known yet: the manifests are not read.
    Unread,
}

/// The file that has the pod keeps it, even while it is faulty; then the first in lexical order.
///
/// One that asks for another node now has not let go of the pod.
fn choose<'a>(claims: &Claims<'a>, instance: Instance<'_>, trust: &Trust<'_>) -> Wish<'a> {
    let source = &instance.record.source;
    let is_own = |claim: &&&Claim| claim.source == *source;
    match claims.here.iter().find(is_own) {
        Some(own) => Wish::Run(own),
        None if claims.elsewhere.iter().any(|claim| is_own(&claim)) => Wish::Keep,
        None if !trust.is_deleted(source) => Wish::Keep,
        None => claims.here.first().map_or(Wish::Remove, |claim| Wish::Run(claim)),
    }
}

#[cfg(test)]
mod tests;
