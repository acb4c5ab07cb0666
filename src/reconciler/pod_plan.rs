//! The decision for one pod. PURE.

use std::sync::Arc;

use super::admission::{Share, Turn, Wants};
use super::directory::Trust;
use super::images::Refusal;
use super::{
    Action, ActualPod, ActualState, Asked, Creation, ExecutorState, Images, Node, Now, PassedOver,
    Reason, Step, StoredSpec,
};
use crate::clock::{BootTime, Millis};
use crate::executor::protocol::{Goal, PodReport};
use crate::ids::{PodId, PodName};
use crate::manifest::desired::Claim;
use crate::manifest::pod::{PodSpec, TERMINATION_GRACE_DEFAULT};
use crate::manifest::revision::Revision;
use crate::state::record::{
    Accepted, HISTORY_LEN_MAX, Held, KeptRevision, LastRun, Losses, ManifestFile, Moment, Outcome,
    PodRecord, RecordPhase, TerminationCause,
};

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

    /// What the pod has of the node, and what it wants to become.
    pub(super) fn share(&self, actual: &'a ActualState, trust: &Trust<'_>) -> Share<'a> {
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
        Share { name: self.name, has, wants: self.wants(actual, trust) }
    }

    fn wants(&self, actual: &'a ActualState, trust: &Trust<'_>) -> Option<Wants<'a>> {
        let of_claim =
            |claim: &'a Claim, turn| Some(Wants { spec: &claim.spec, turn, source: &claim.source });
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
        let again =
            |spec: &'a Arc<PodSpec>| Wants { spec, turn: Turn::Changed, source: &record.source };
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
            (Some(Asked::Release) | None, _) => {}
        }
        match wish {
            Wish::Run(claim) if instance.asks_for_more(claim) => of_claim(claim, Turn::Changed),
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
                    now_only(self.destroy(*instance, *cause, refusal, trust))
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
        match wish {
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
        trust: &Trust<'_>,
    ) -> Vec<Step> {
        let id = instance.record.id;
        let reason = Reason::Terminated(cause);
        let mut steps = vec![Step { action: Action::Destroy(id), reason: reason.clone() }];
        let is_last = self.kept.is_empty() && self.going.len() == 1;
        let next = if is_last { instance.next(&self.claims, trust) } else { None };
        let creation = match next {
            Some(Next::Claim(claim)) if refusal.is_none() => Some(instance.succeeded_by(claim)),
            // It takes a moment to see what is here of it.
            Some(Next::Claim(_)) if refusal.is_some_and(Refusal::is_unclear) => return Vec::new(),
            Some(Next::Claim(_) | Next::Successor) => instance.again(),
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

impl<'a> Instance<'a> {
    /// Of several instances one whose specification is there is kept (a creation that failed may
    /// have left a record alone), then the one that fits a claim, then the one that runs, then the
    /// one with the most revisions. Not the youngest: the wall clock decides nothing.
    fn rank(&self, claims: &[&Claim]) -> (bool, bool, bool, u64, PodId) {
        let fits =
            claims.iter().any(|claim| claim.revision.digest() == self.record.accepted.digest);
        let runs = matches!(self.actual.executor, ExecutorState::Connected { .. });
        let is_whole = self.actual.spec.is_some();
        (is_whole, fits, runs, self.record.accepted.number, self.record.id)
    }

    /// Whether something of it may run. An instance that is through and has been cleared away takes
    /// nothing, and goes on taking nothing while it goes.
    fn takes_room(&self) -> bool {
        let has_executor = match self.actual.executor {
            ExecutorState::Silent | ExecutorState::Connected { .. } => true,
            ExecutorState::Absent | ExecutorState::Lost { .. } => false,
        };
        self.record.phase == RecordPhase::Active || self.actual.has_runtime || has_executor
    }

    /// Whether the pod was rolled back from what this claim asks for.
    fn refuses(&self, claim: &Claim) -> bool {
        self.record.held.is_some_and(|held| held.refused == claim.revision.digest())
    }

    /// Whether the claim asks for something else than was accepted, which needs room.
    fn asks_for_more(&self, claim: &Claim) -> bool {
        let is_through = self.record.phase != RecordPhase::Active;
        let is_other = if self.is_of(claim) {
            // What was accepted is found missing, and is taken from the manifest again.
            self.spec_of(claim).is_none()
        } else {
            !(is_through && self.takes_in_place(&claim.revision, &claim.spec))
        };
        is_other && !self.refuses(claim)
    }

    /// Whether the claim asks for what was accepted.
    fn is_of(&self, claim: &Claim) -> bool {
        claim.revision.digest() == self.record.accepted.digest
    }

    /// The stored specification, if it is that of the claim.
    fn spec_of(&self, claim: &Claim) -> Option<&'a StoredSpec> {
        self.spec().filter(|stored| stored.revision == claim.revision)
    }

    /// What comes after this instance, if anything does.
    fn next(&self, claims: &Claims<'a>, trust: &Trust<'_>) -> Option<Next<'a>> {
        match &self.record.phase {
            RecordPhase::Terminating { cause, .. } | RecordPhase::Destroying { cause } => {
                match cause {
                    TerminationCause::Replaced | TerminationCause::Restarted => {}
                    TerminationCause::Removed | TerminationCause::Orphaned => return None,
                }
            }
            RecordPhase::Active | RecordPhase::Finished { .. } => return None,
        }
        match choose(claims, *self, trust) {
            Wish::Run(claim) if self.refuses(claim) => Some(Next::Successor),
            Wish::Run(claim) => Some(Next::Claim(claim)),
            // Its manifest may ask for another revision than the one that was, or for none.
            Wish::Keep if !trust.is_complete() => Some(Next::Unread),
            Wish::Keep => Some(Next::Successor),
            Wish::Remove => None,
        }
    }

    /// The new instance that a manifest asks for in place of this one.
    fn succeeded_by(&self, claim: &Claim) -> (Creation, Reason) {
        let source = claim.source.clone();
        let reason = Reason::NewManifest(source.clone());
        (self.creation(source, claim.spec.clone(), &claim.revision, None), reason)
    }

    /// The new instance that the record asks for in place of this one.
    fn again(&self) -> Option<(Creation, Reason)> {
        let accepted = self.record.successor.as_ref()?;
        let stored = self.actual.successor.as_ref()?;
        if stored.revision.digest() != accepted.digest {
            return None;
        }
        let (source, held) = (self.record.source.clone(), self.record.held);
        let creation = self.creation(source, stored.spec.clone(), &stored.revision, held);
        Some((creation, Reason::Successor))
    }

    fn creation(
        &self,
        source: ManifestFile,
        spec: Arc<PodSpec>,
        revision: &Revision,
        held: Option<Held>,
    ) -> Creation {
        let Accepted { number, digest, .. } = self.record.accepted;
        let is_same = digest == revision.digest();
        let history =
            if is_same { self.record.history.clone() } else { history_with_accepted(self.record) };
        let number = number + u64::from(!is_same);
        Creation { source, spec, number, history, held, is_first: false }
    }

    fn grace(&self) -> Millis {
        self.spec().map_or(TERMINATION_GRACE_DEFAULT, |stored| stored.spec.termination_grace)
    }

    /// The stored specification, if it can be one of this instance.
    fn spec(&self) -> Option<&'a StoredSpec> {
        let stored = self.actual.spec.as_ref()?;
        (stored.revision.shared == self.record.accepted.shared).then_some(stored)
    }

    /// The accepted revision with its specification, to be kept.
    fn kept(&self) -> Option<KeptRevision> {
        let PodRecord { name, accepted, source, .. } = self.record;
        let stored = self.spec().filter(|stored| stored.revision.digest() == accepted.digest)?;
        Some(KeptRevision {
            name: name.clone(),
            accepted: accepted.clone(),
            source: source.clone(),
            spec: Some(stored.spec.clone()),
        })
    }

    fn terminating(&self, cause: TerminationCause, actual: &ActualState, now: Now) -> PodRecord {
        let grace = self.grace();
        let at = now.boot.plus(grace).plus(OVERDUE_MARGIN);
        let kill_at = Moment { boot: actual.boot.clone(), at };
        let phase = RecordPhase::Terminating { cause, grace, kill_at };
        PodRecord { phase, ..self.record.clone() }
    }

    fn terminate(&self, cause: TerminationCause, actual: &ActualState, now: Now) -> Vec<Step> {
        let record = self.terminating(cause, actual, now);
        step(Action::Record(Box::new(record)), Reason::Terminated(cause))
    }

    /// The instance goes for another one: of what a manifest asks for, and should there be none
    /// that can be followed then, of what this one is.
    fn retire(&self, cause: TerminationCause, actual: &ActualState, now: Now) -> Vec<Step> {
        let kept = self.kept();
        // What is through has no room that what it was could fall back to, and is not to run again
        // for a manifest that is edited.
        let falls_back =
            self.record.phase == RecordPhase::Active || cause == TerminationCause::Restarted;
        let successor = kept.as_ref().and(self.spec()).filter(|_| falls_back).cloned();
        let mut record = self.terminating(cause, actual, now);
        record.successor = successor.is_some().then(|| record.accepted.clone());
        let keeps = kept.into_iter().collect();
        let retire = Action::Retire { record: Box::new(record), keeps, successor };
        step(retire, Reason::Terminated(cause))
    }

    /// What somebody asked of it, if that still counts: a manifest that changed since is newer.
    fn asked(&self, wish: &Wish<'_>, actual: &'a ActualState) -> Option<&'a Asked> {
        let asked = actual.asked.get(&self.record.id)?;
        let counts = match (wish, asked) {
            (Wish::Remove, _) => false,
            (Wish::Run(claim), Asked::RollBack { refused, .. }) => {
                claim.revision.digest() == *refused
            }
            (Wish::Keep, Asked::RollBack { .. })
            | (Wish::Run(_) | Wish::Keep, Asked::Restart | Asked::Release) => true,
        };
        counts.then_some(asked)
    }

    /// What somebody asked for; none if it can't be done.
    fn obey(
        &self,
        asked: &Asked,
        refusal: Option<Refusal<'_>>,
        actual: &ActualState,
        now: Now,
    ) -> Option<Vec<Step>> {
        if refusal.is_some() && *asked != Asked::Release {
            return None;
        }
        match asked {
            Asked::Release => {
                self.record.held?;
                let record = PodRecord { held: None, ..self.record.clone() };
                Some(step(Action::Record(Box::new(record)), Reason::Released))
            }
            Asked::Restart => {
                self.kept()?;
                Some(self.retire(TerminationCause::Restarted, actual, now))
            }
            Asked::RollBack { to, stored, refused } => {
                let held = Held { refused: *refused, to: *to };
                (stored.revision.digest() != self.record.accepted.digest)
                    .then(|| self.roll_back(held, stored, actual, now))
            }
        }
    }

    fn roll_back(
        &self,
        held: Held,
        stored: &StoredSpec,
        actual: &ActualState,
        now: Now,
    ) -> Vec<Step> {
        let record = PodRecord { held: Some(held), ..revised(self.record, &stored.revision, now) };
        let reason = Reason::RolledBack(held.to);
        if self.takes_in_place(&stored.revision, &stored.spec) {
            return accept(record, &stored.spec, self.kept(), reason);
        }
        let next = KeptRevision {
            name: record.name.clone(),
            accepted: record.accepted.clone(),
            source: record.source.clone(),
            spec: Some(stored.spec.clone()),
        };
        let going = PodRecord {
            held: Some(held),
            successor: Some(record.accepted),
            ..self.terminating(TerminationCause::Replaced, actual, now)
        };
        let retire = Action::Retire {
            record: Box::new(going),
            keeps: self.kept().into_iter().chain([next]).collect(),
            successor: Some(stored.clone()),
        };
        step(retire, reason)
    }

    /// Towards the state that a claim asks for.
    fn pursue(
        &self,
        claim: &Claim,
        refusal: Option<Refusal<'_>>,
        actual: &ActualState,
        now: Now,
    ) -> Decision {
        let record = self.record;
        let is_moved = record.source != claim.source;
        let moved = || Reason::MovedManifest(claim.source.clone());
        let here = PodRecord { source: claim.source.clone(), ..record.clone() };
        if self.refuses(claim) {
            return match self.spec().filter(|_| is_moved) {
                Some(own) => now_only(accept(here, &own.spec, None, moved())),
                None => self.keep(actual, now),
            };
        }
        let here = PodRecord { held: None, ..here };
        if self.is_of(claim) {
            return match self.spec_of(claim) {
                None if refusal.is_some() => self.keep(actual, now),
                None => now_only(accept(here, &claim.spec, None, Reason::SpecificationMissing)),
                // Its own, which says which images it has.
                Some(own) if is_moved => now_only(accept(here, &own.spec, None, moved())),
                Some(own) if record.held.is_some() => {
                    let reason = Reason::ChangedManifest(claim.source.clone());
                    now_only(accept(here, &own.spec, None, reason))
                }
                Some(_) => self.keep(actual, now),
            };
        }
        if refusal.is_some() {
            return self.keep(actual, now);
        }
        if !self.takes_in_place(&claim.revision, &claim.spec) {
            return now_only(self.retire(TerminationCause::Replaced, actual, now));
        }
        let record = revised(&here, &claim.revision, now);
        let reason = Reason::ChangedManifest(claim.source.clone());
        now_only(accept(record, &claim.spec, self.kept(), reason))
    }

    /// Whether this instance can become that without being replaced.
    fn takes_in_place(&self, revision: &Revision, spec: &PodSpec) -> bool {
        self.record.accepted.shared == revision.shared
            && match self.record.phase {
                RecordPhase::Active => true,
                RecordPhase::Finished { .. } => self.is_rerun_needless(revision, spec),
                RecordPhase::Terminating { .. } | RecordPhase::Destroying { .. } => false,
            }
    }

    /// Whether a finished pod would end the same way by the new revision: only what does not run
    /// changed.
    fn is_rerun_needless(&self, revision: &Revision, spec: &PodSpec) -> bool {
        self.spec().is_some_and(|old| {
            old.revision.containers == revision.containers
                && old.spec.restart_policy == spec.restart_policy
        })
    }

    /// Towards the accepted revision.
    fn keep(&self, actual: &ActualState, now: Now) -> Decision {
        match &self.record.phase {
            RecordPhase::Active => match self.spec() {
                // The specification is written before the record: the last step of `Accept` was
                // not taken, and what it replaced is gone.
                Some(stored) if stored.revision.digest() != self.record.accepted.digest => {
                    let record = revised(self.record, &stored.revision, now);
                    let record = Action::Record(Box::new(record));
                    now_only(step(record, Reason::AcceptanceInterrupted))
                }
                Some(_) | None => self.run(actual, now),
            },
            RecordPhase::Finished { .. } => now_only(self.rest()),
            RecordPhase::Terminating { .. } | RecordPhase::Destroying { .. } => now_only(vec![]),
        }
    }

    fn lacks_images(&self, images: &Images) -> bool {
        self.spec().is_some_and(|stored| images.lacks_any(&stored.spec))
    }

    fn run(&self, actual: &ActualState, now: Now) -> Decision {
        let record = self.record;
        let id = record.id;
        match &self.actual.executor {
            ExecutorState::Silent => now_only(vec![]),
            ExecutorState::Absent => match &record.losses.retry_at {
                Some(retry) if retry.boot == actual.boot && retry.at > now.boot => {
                    (vec![], Some(retry.at))
                }
                // Without a specification there is nothing to tell an executor; a claim brings
                // one, and until then there is no right way on.
                Some(_) | None if self.spec().is_none() => now_only(vec![]),
                // They are being sought: see `Pod::bereft`.
                Some(_) | None if self.lacks_images(&actual.images) => now_only(vec![]),
                Some(_) | None => now_only(step(Action::Start(id), Reason::NoExecutor)),
            },
            ExecutorState::Lost { lived } => now_only(self.note_loss(*lived, actual, now)),
            ExecutorState::Connected { build, refused_upgrade, report } => {
                // First of all, so that an executor is told only what its build understands.
                if *build != actual.executor_build && !refused_upgrade {
                    return now_only(step(Action::Upgrade(id), Reason::OtherBuild));
                }
                let told = report.as_ref().filter(|report| self.knows(report, Goal::Run));
                let Some(report) = told else {
                    let tell = Action::SetSpec { id, goal: Goal::Run };
                    return now_only(step(tell, Reason::NotTold));
                };
                if let Some(outcome) = report.finished {
                    return now_only(finish(record, report, outcome));
                }
                now_only(vec![])
            }
        }
    }

    /// Whether an executor knows what is wanted. The number is part of it, so that a report on an
    /// older revision with the same content does not count.
    fn knows(&self, report: &PodReport, goal: Goal) -> bool {
        report.number == self.record.accepted.number
            && report.digest == self.record.accepted.digest
            && report.goal == goal
    }

    fn note_loss(&self, lived: Millis, actual: &ActualState, now: Now) -> Vec<Step> {
        let record = self.record;
        let count = if lived >= LOSS_RESET { 1 } else { record.losses.count.saturating_add(1) };
        let factor = 1_u64.checked_shl(count - 1).unwrap_or(u64::MAX);
        let delay = Millis(LOSS_DELAY.0.saturating_mul(factor)).min(LOSS_DELAY_MAX);
        let retry_at = Some(Moment { boot: actual.boot.clone(), at: now.boot.plus(delay) });
        let reason = Reason::ExecutorLost { count, delay };
        let record = PodRecord { losses: Losses { count, retry_at }, ..record.clone() };
        vec![
            Step { action: Action::Kill(record.id), reason: reason.clone() },
            Step { action: Action::NoteLoss(Box::new(record)), reason },
        ]
    }

    /// A finished pod needs no executor and nothing in the kernel.
    fn rest(&self) -> Vec<Step> {
        let RecordPhase::Finished { outcome, .. } = &self.record.phase else { return vec![] };
        let id = self.record.id;
        let reason = Reason::Finished(*outcome);
        let goal = Goal::Stop { grace: Millis(0) };
        match &self.actual.executor {
            ExecutorState::Connected { report, .. } => {
                if report.as_ref().is_some_and(|report| report.goal == goal) {
                    vec![]
                } else {
                    step(Action::SetSpec { id, goal }, reason)
                }
            }
            ExecutorState::Silent => vec![],
            ExecutorState::Absent | ExecutorState::Lost { .. } if self.actual.has_runtime => {
                step(Action::Release(id), reason)
            }
            ExecutorState::Absent | ExecutorState::Lost { .. } => vec![],
        }
    }

    /// Towards its end.
    fn go(&self, actual: &ActualState, now: Now) -> Decision {
        let id = self.record.id;
        let (cause, grace, kill_at) = match &self.record.phase {
            RecordPhase::Terminating { cause, grace, kill_at } => (*cause, *grace, kill_at),
            RecordPhase::Destroying { .. } | RecordPhase::Active | RecordPhase::Finished { .. } => {
                return now_only(vec![]);
            }
        };
        let deadline = (kill_at.boot == actual.boot).then_some(kill_at.at);
        let overdue = deadline.is_none_or(|at| at <= now.boot);
        let goal = Goal::Stop { grace };
        let steps = match &self.actual.executor {
            ExecutorState::Absent | ExecutorState::Lost { .. } => {
                let phase = RecordPhase::Destroying { cause };
                let record = PodRecord { phase, ..self.record.clone() };
                step(Action::Record(Box::new(record)), Reason::Terminated(cause))
            }
            ExecutorState::Connected { .. } | ExecutorState::Silent if overdue => {
                step(Action::Kill(id), Reason::Overdue)
            }
            ExecutorState::Silent => vec![],
            ExecutorState::Connected { report, .. } => {
                if report.as_ref().is_some_and(|report| report.goal == goal) {
                    vec![]
                } else {
                    step(Action::SetSpec { id, goal }, Reason::Terminated(cause))
                }
            }
        };
        let wake_at = if steps.is_empty() { deadline } else { None };
        (steps, wake_at)
    }
}

fn accept(
    record: PodRecord,
    spec: &Arc<PodSpec>,
    before: Option<KeptRevision>,
    reason: Reason,
) -> Vec<Step> {
    let (record, before) = (Box::new(record), before.map(Box::new));
    step(Action::Accept { record, spec: spec.clone(), before }, reason)
}

/// The record with another revision accepted, by a manifest.
fn revised(record: &PodRecord, revision: &Revision, now: Now) -> PodRecord {
    let accepted = Accepted {
        number: record.accepted.number + 1,
        digest: revision.digest(),
        shared: revision.shared,
        at: now.wall,
    };
    let history = history_with_accepted(record);
    PodRecord { accepted, history, held: None, ..record.clone() }
}

fn history_with_accepted(record: &PodRecord) -> Vec<Accepted> {
    let mut history = record.history.clone();
    history.push(record.accepted.clone());
    if history.len() > HISTORY_LEN_MAX {
        history.remove(0);
    }
    history
}

fn finish(record: &PodRecord, report: &PodReport, outcome: Outcome) -> Vec<Step> {
    let containers = report
        .containers
        .iter()
        .filter_map(|c| Some((c.name.clone(), c.last.clone()?)))
        .collect::<std::collections::BTreeMap<_, LastRun>>();
    let phase = RecordPhase::Finished { outcome, containers };
    let record = PodRecord { phase, ..record.clone() };
    step(Action::Record(Box::new(record)), Reason::Finished(outcome))
}
