//! The decision for one recorded instance of a pod. PURE. Which of several instances is meant, and
//! what asks for the pod, is decided above.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Claims, Decision, Instance, Next, Wish, choose, now_only, step};
use crate::clock::{BootTime, Millis};
use crate::executor::protocol::{Goal, PodReport};
use crate::ids::PodId;
use crate::manifest::desired::Claim;
use crate::manifest::pod::{PodSpec, RestartPolicy, TERMINATION_GRACE_DEFAULT};
use crate::manifest::revision::Revision;
use crate::reconciler::directory::Trust;
use crate::reconciler::images::Refusal;
use crate::reconciler::pod_plan::{LOSS_DELAY, LOSS_DELAY_MAX, LOSS_RESET, OVERDUE_MARGIN};
use crate::reconciler::pressure::{self, Verdict};
use crate::reconciler::{
    Action, ActualState, Asked, Creation, ExecutorState, Images, Now, Reason, Step, StoredSpec,
};
use crate::state::record::{
    Accepted, EVICTION_LEN_MAX, Evicted, Eviction, EvictionCause, HISTORY_LEN_MAX, Held,
    KeptRevision, LastRun, Losses, ManifestFile, Moment, Outcome, PodRecord, RecordPhase,
    TerminationCause, Trial,
};

impl<'a> Instance<'a> {
    /// Of several instances one whose specification is there is kept (a creation that failed may
    /// have left a record alone), then the one that fits a claim, then the one that runs, then the
    /// one with the most revisions. Not the youngest: the wall clock decides nothing.
    pub(super) fn rank(&self, claims: &[&Claim]) -> (bool, bool, bool, u64, PodId) {
        let fits =
            claims.iter().any(|claim| claim.revision.digest() == self.record.accepted.digest);
        let runs = matches!(self.actual.executor, ExecutorState::Connected { .. });
        let is_whole = self.actual.spec.is_some();
        (is_whole, fits, runs, self.record.accepted.number, self.record.id)
    }

    /// Whether something of it may run. An instance that is through and has been cleared away takes
    /// nothing, and goes on taking nothing while it goes.
    pub(super) fn takes_room(&self) -> bool {
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
    pub(super) fn asks_for_more(&self, claim: &Claim) -> bool {
        let is_through = self.record.phase != RecordPhase::Active;
        let is_other = if self.is_of(claim) {
            // What was accepted is found missing, and is taken from the manifest again.
            self.spec_of(claim).is_none()
        } else {
            !(is_through && self.takes_in_place(&claim.revision, &claim.spec))
        };
        is_other && !self.refuses(claim)
    }

    /// Whether it is Ready as what was accepted last.
    pub(super) fn is_ready(&self) -> bool {
        match &self.actual.executor {
            ExecutorState::Connected { report: Some(report), .. } => {
                let is_ready = |stored: &StoredSpec| report.is_ready(&stored.spec);
                self.knows(report, Goal::Run) && self.spec().is_some_and(is_ready)
            }
            ExecutorState::Connected { report: None, .. }
            | ExecutorState::Absent
            | ExecutorState::Lost { .. }
            | ExecutorState::Silent => false,
        }
    }

    /// Whether the claim asks for what was accepted.
    pub(super) fn is_of(&self, claim: &Claim) -> bool {
        claim.revision.digest() == self.record.accepted.digest
    }

    /// The stored specification, if it is that of the claim.
    fn spec_of(&self, claim: &Claim) -> Option<&'a StoredSpec> {
        self.spec().filter(|stored| stored.revision == claim.revision)
    }

    /// What comes after this instance, if anything does.
    pub(super) fn next(&self, claims: &Claims<'a>, trust: &Trust<'_>) -> Option<Next<'a>> {
        match &self.record.phase {
            RecordPhase::Terminating { cause, .. } | RecordPhase::Destroying { cause } => {
                match cause {
                    TerminationCause::Replaced | TerminationCause::Restarted => {}
                    TerminationCause::Removed
                    | TerminationCause::Orphaned
                    | TerminationCause::Evicted => return None,
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
    pub(super) fn succeeded_by(
        &self,
        claim: &Claim,
        actual: &ActualState,
        now: Now,
    ) -> (Creation, Reason) {
        let source = claim.source.clone();
        let reason = Reason::NewManifest(source.clone());
        let trial = self.trial_of_next(&claim.revision, &claim.spec, actual, now);
        let creation = self.creation(source, claim.spec.clone(), &claim.revision, None);
        let eviction = self.eviction_of_next(actual, now);
        (Creation { trial, eviction, ..creation }, reason)
    }

    /// What becomes of a new revision if it does not get Ready. What comes after one that did not
    /// either goes back to where that one would have.
    fn trial_of(
        &self,
        revision: &Revision,
        spec: &PodSpec,
        actual: &ActualState,
        now: Now,
    ) -> Option<Trial> {
        let PodRecord { accepted, trial, .. } = self.record;
        if accepted.digest == revision.digest() {
            return trial.clone();
        }
        let back_to = trial.as_ref().map_or(accepted.number, |trial| trial.back_to);
        Some(trial_for(spec.rollback_after?, back_to, actual, now))
    }

    /// The new instance that the record asks for in place of this one.
    pub(super) fn again(&self, actual: &ActualState, now: Now) -> Option<(Creation, Reason)> {
        let accepted = self.record.successor.as_ref()?;
        let stored = self.actual.successor.as_ref()?;
        if stored.revision.digest() != accepted.digest {
            return None;
        }
        let (source, held) = (self.record.source.clone(), self.record.held);
        let creation = self.creation(source, stored.spec.clone(), &stored.revision, held);
        let eviction = self.eviction_of_next(actual, now);
        let is_same = accepted.digest == self.record.accepted.digest;
        // What was rolled back to is not on trial.
        let trial = is_same
            .then(|| self.trial_of_next(&stored.revision, &stored.spec, actual, now))
            .flatten();
        Some((Creation { trial, eviction, ..creation }, Reason::Successor))
    }

    /// The same for the next instance. One that went for what may be the fault of others has all the
    /// time again that its revision has to get Ready; but once only, and not if it was its own fault:
    /// a revision that is evicted again and again is not good.
    fn trial_of_next(
        &self,
        revision: &Revision,
        spec: &PodSpec,
        actual: &ActualState,
        now: Now,
    ) -> Option<Trial> {
        let trial = self.trial_of(revision, spec, actual, now)?;
        let begins_anew = match &self.record.eviction {
            Some(Eviction::Evicted(Evicted { cause, count, .. })) => match cause {
                EvictionCause::Memory | EvictionCause::Disk => *count == 1,
                EvictionCause::Limit => false,
            },
            Some(Eviction::Returned { .. }) | None => false,
        };
        match spec.rollback_after.filter(|_| begins_anew) {
            Some(span) => Some(trial_for(span, trial.back_to, actual, now)),
            None => Some(trial),
        }
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
        let (trial, eviction) = (None, None);
        Creation { source, spec, number, history, held, trial, eviction, is_first: false }
    }

    fn grace(&self) -> Millis {
        self.spec().map_or(TERMINATION_GRACE_DEFAULT, |stored| stored.spec.termination_grace)
    }

    /// The stored specification, if it can be one of this instance.
    pub(super) fn spec(&self) -> Option<&'a StoredSpec> {
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

    pub(super) fn terminate(
        &self,
        cause: TerminationCause,
        actual: &ActualState,
        now: Now,
    ) -> Vec<Step> {
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

    /// What somebody asked of it, if that still counts, a manifest that changed since being newer,
    /// and if there is something to do for it: what is left comes from the manifest, and has to be
    /// admitted as that.
    pub(super) fn asked(&self, wish: &Wish<'_>, actual: &'a ActualState) -> Option<&'a Asked> {
        let asked = actual.asked.get(&self.record.id)?;
        let counts = match (wish, asked) {
            (Wish::Remove, _) => false,
            (Wish::Run(claim), Asked::RollBack { refused, .. })
                if claim.revision.digest() != *refused =>
            {
                false
            }
            (Wish::Run(_) | Wish::Keep, Asked::RollBack { stored, .. }) => {
                stored.revision.digest() != self.record.accepted.digest
            }
            (Wish::Run(_) | Wish::Keep, Asked::Restart) => self.kept().is_some(),
            (Wish::Run(_) | Wish::Keep, Asked::Release | Asked::Persist) => true,
        };
        counts.then_some(asked)
    }

    /// What somebody asked for; none if it can't be done.
    pub(super) fn obey(
        &self,
        asked: &Asked,
        refusal: Option<Refusal<'_>>,
        actual: &ActualState,
        now: Now,
    ) -> Option<Vec<Step>> {
        match asked {
            Asked::Persist => {
                let trial = self.record.trial.as_ref().filter(|_| refusal.is_none());
                let record = trial.map(|_| PodRecord { trial: None, ..self.record.clone() })?;
                Some(step(Action::Record(Box::new(record)), Reason::NothingToGoBackTo))
            }
            Asked::Restart | Asked::RollBack { .. } if refusal.is_some() => None,
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
                Some(self.roll_back(held, stored, actual, now))
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
    pub(super) fn pursue(
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
        let trial = self.trial_of(&claim.revision, &claim.spec, actual, now);
        let record = PodRecord { trial, ..revised(&here, &claim.revision, now) };
        let reason = Reason::ChangedManifest(claim.source.clone());
        now_only(accept(record, &claim.spec, self.kept(), reason))
    }

    /// Whether this instance can become that without being replaced.
    fn takes_in_place(&self, revision: &Revision, spec: &PodSpec) -> bool {
        self.record.accepted.shared == revision.shared
            && match self.record.phase {
                RecordPhase::Active => true,
                // What an evicted pod is changed to may be what it should have been.
                RecordPhase::Finished { .. } => {
                    self.evicted().is_none() && self.is_rerun_needless(revision, spec)
                }
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
    pub(super) fn keep(&self, actual: &ActualState, now: Now) -> Decision {
        match &self.record.phase {
            RecordPhase::Active => match self.spec() {
                // The specification is written before the record: the last step of `Accept` was
                // not taken, and what it replaced is gone.
                Some(stored) if stored.revision.digest() != self.record.accepted.digest => {
                    let StoredSpec { spec, revision } = stored;
                    let trial = self.trial_of(revision, spec, actual, now);
                    let record = PodRecord { trial, ..revised(self.record, revision, now) };
                    let record = Action::Record(Box::new(record));
                    now_only(step(record, Reason::AcceptanceInterrupted))
                }
                Some(_) | None => self.run_on_trial(actual, now),
            },
            RecordPhase::Finished { .. } => {
                let is_ahead = |back: &&Moment| back.boot == actual.boot && back.at > now.boot;
                (self.rest(), self.back_at().filter(is_ahead).map(|back| back.at))
            }
            RecordPhase::Terminating { .. } | RecordPhase::Destroying { .. } => now_only(vec![]),
        }
    }

    fn lacks_images(&self, images: &Images) -> bool {
        self.spec().is_some_and(|stored| images.lacks_any(&stored.spec))
    }

    /// A revision on trial is judged when its time is over, and not as soon as it is Ready: what
    /// was changed in place is Ready at first as what it was. What becomes of one that is not:
    /// [`Pod::retreat`](super::Pod::retreat).
    fn run_on_trial(&self, actual: &ActualState, now: Now) -> Decision {
        let Some(trial) = &self.record.trial else { return self.run(actual, now) };
        let with = |trial, reason| {
            let record = PodRecord { trial, ..self.record.clone() };
            now_only(step(Action::Record(Box::new(record)), reason))
        };
        if trial.until.boot != actual.boot {
            let span = self.spec().and_then(|stored| stored.spec.rollback_after);
            let again = |span| trial_for(span, trial.back_to, actual, now);
            return with(span.map(again), Reason::TrialBegunAnew);
        }
        let is_over = trial.until.at <= now.boot;
        if is_over && self.is_ready() {
            return with(None, Reason::Proven);
        }
        let (steps, wake_at) = self.run(actual, now);
        let until = (!is_over).then_some(trial.until.at);
        (steps, [wake_at, until].into_iter().flatten().min())
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

    /// Whether it is through, as its executor says.
    pub(super) fn is_through(&self) -> bool {
        match &self.actual.executor {
            ExecutorState::Connected { report: Some(report), .. } => {
                self.knows(report, Goal::Run) && report.finished.is_some()
            }
            ExecutorState::Connected { report: None, .. }
            | ExecutorState::Absent
            | ExecutorState::Lost { .. }
            | ExecutorState::Silent => false,
        }
    }

    /// What it was evicted for, if nothing of it runs any more because of that.
    pub(super) fn evicted(&self) -> Option<&'a Evicted> {
        match (&self.record.phase, &self.record.eviction) {
            (RecordPhase::Finished { .. }, Some(Eviction::Evicted(evicted))) => Some(evicted),
            (
                RecordPhase::Active
                | RecordPhase::Finished { .. }
                | RecordPhase::Terminating { .. }
                | RecordPhase::Destroying { .. },
                Some(Eviction::Evicted(_) | Eviction::Returned { .. }) | None,
            ) => None,
        }
    }

    /// When it comes back, if it is evicted. What shall run once at most stays away, as in
    /// Kubernetes: it has run.
    fn back_at(&self) -> Option<&'a Moment> {
        let runs_once = |stored: &StoredSpec| stored.spec.restart_policy == RestartPolicy::Never;
        let evicted = self.evicted()?;
        (!self.spec().is_some_and(runs_once)).then_some(&evicted.retry_at)
    }

    /// Whether it is evicted and has been away for long enough. What is left of it is removed
    /// first.
    pub(super) fn is_due_back(&self, actual: &ActualState, now: Now) -> bool {
        let is_due = |at: &Moment| at.boot != actual.boot || at.at <= now.boot;
        // Without what it was there is nothing to come back.
        let is_known = self.spec().is_some();
        is_known && self.back_at().is_some_and(is_due) && !self.takes_room()
    }

    /// It goes although its manifest asks for it.
    pub(super) fn evict(&self, verdict: &Verdict, actual: &ActualState, now: Now) -> Vec<Step> {
        let Verdict { cause, message } = verdict;
        let most = EVICTION_LEN_MAX.min(message.len());
        let end = (0..=most).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        let message = message[..end].to_owned();
        let moment = |at| Moment { boot: actual.boot.clone(), at };
        let count = match &self.record.eviction {
            Some(Eviction::Returned { count, at }) => {
                // Before this boot it was there as well, but nobody knows for how long.
                let since = if at.boot == actual.boot { at.at } else { BootTime(0) };
                let is_good = now.boot.since(since) >= pressure::RETURN_RESET;
                if is_good { 1 } else { count.saturating_add(1) }
            }
            Some(Eviction::Evicted(evicted)) => evicted.count,
            None => 1,
        };
        let retry_at = moment(now.boot.plus(pressure::return_delay(count)));
        let evicted =
            Evicted { cause: *cause, message: message.clone(), at: now.wall, count, retry_at };
        let grace = self.grace().min(pressure::GRACE_MAX);
        let kill_at = moment(now.boot.plus(grace).plus(OVERDUE_MARGIN));
        let record = PodRecord {
            phase: RecordPhase::Terminating { cause: TerminationCause::Evicted, grace, kill_at },
            eviction: Some(Eviction::Evicted(evicted)),
            ..self.record.clone()
        };
        step(Action::Record(Box::new(record)), Reason::Evicted(message))
    }

    /// Another instance takes the place of one that was evicted.
    pub(super) fn come_back(&self, actual: &ActualState, now: Now) -> Vec<Step> {
        let steps = self.retire(TerminationCause::Restarted, actual, now);
        steps.into_iter().map(|step| Step { reason: Reason::Returned, ..step }).collect()
    }

    /// What the next instance knows of evictions.
    fn eviction_of_next(&self, actual: &ActualState, now: Now) -> Option<Eviction> {
        match self.record.eviction.as_ref()? {
            Eviction::Evicted(Evicted { count, .. }) => {
                let at = Moment { boot: actual.boot.clone(), at: now.boot };
                Some(Eviction::Returned { count: *count, at })
            }
            returned @ Eviction::Returned { .. } => Some(returned.clone()),
        }
    }

    /// An evicted instance is gone but for its record.
    fn leave(&self) -> Vec<Step> {
        let phase = RecordPhase::Finished {
            outcome: Outcome::Failed,
            because: None,
            containers: BTreeMap::new(),
        };
        let record = PodRecord { phase, ..self.record.clone() };
        let reason = Reason::Terminated(TerminationCause::Evicted);
        let release = Action::Release(self.record.id);
        let record = Action::Record(Box::new(record));
        [release, record].map(|action| Step { action, reason: reason.clone() }).into()
    }

    /// Towards its end.
    pub(super) fn go(&self, actual: &ActualState, now: Now) -> Decision {
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
            // It waits to come back, as one that is through.
            ExecutorState::Absent | ExecutorState::Lost { .. }
                if cause == TerminationCause::Evicted =>
            {
                self.leave()
            }
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
    PodRecord { accepted, history, held: None, trial: None, ..record.clone() }
}

fn trial_for(span: Millis, back_to: u64, actual: &ActualState, now: Now) -> Trial {
    let until = Moment { boot: actual.boot.clone(), at: now.boot.plus(span) };
    Trial { until, back_to }
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
    let phase = RecordPhase::Finished { outcome, because: report.because, containers };
    let record = PodRecord { phase, trial: None, ..record.clone() };
    step(Action::Record(Box::new(record)), Reason::Finished(outcome))
}
