//! The decision for one pod. PURE.

use std::sync::Arc;

use super::directory::Trust;
use super::{Action, ActualPod, ActualState, ExecutorState, Now, Reason, Step, StoredSpec};
use crate::clock::{BootTime, Millis};
use crate::executor::protocol::{Goal, PodReport};
use crate::ids::PodId;
use crate::manifest::desired::Claim;
use crate::manifest::pod::{PodSpec, TERMINATION_GRACE_DEFAULT};
use crate::manifest::revision::Revision;
use crate::state::record::{
    Accepted, HISTORY_LEN_MAX, LastRun, Losses, Moment, Outcome, PodRecord, RecordPhase,
    TerminationCause,
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
#[derive(Clone, Copy)]
struct Instance<'a> {
    record: &'a PodRecord,
    actual: &'a ActualPod,
}

/// Steps for one pod: what asks for it, and its instances.
pub(super) fn plan_pod(
    claims: &[Claim],
    instances: &[&ActualPod],
    actual: &ActualState,
    trust: &Trust<'_>,
    now: Now,
) -> Decision {
    let mut kept: Vec<Instance<'_>> = Vec::new();
    let mut going: Vec<Instance<'_>> = Vec::new();
    for pod in instances {
        match (&pod.record, &pod.adoptable) {
            (Some(record), _) => {
                let instance = Instance { record, actual: pod };
                match record.phase {
                    RecordPhase::Active | RecordPhase::Finished { .. } => kept.push(instance),
                    RecordPhase::Terminating { .. } | RecordPhase::Destroying { .. } => {
                        going.push(instance);
                    }
                }
            }
            (None, Some(adoptable)) => {
                let adopt = Action::Record(Box::new(adoptable.clone()));
                return now_only(step(adopt, Reason::FoundWithoutRecord));
            }
            (None, None) => {}
        }
    }
    // One instance is dealt with at a time, the ones that go first: a new one is not started
    // before the old one is gone.
    if let Some(instance) = going.first() {
        return instance.go(actual, now);
    }
    kept.sort_by_key(|instance| instance.rank(claims));
    let Some(instance) = kept.pop() else {
        return now_only(create(claims));
    };
    if let Some(surplus) = kept.first() {
        return now_only(surplus.terminate(TerminationCause::Orphaned, actual, now));
    }
    match choose(claims, instance, trust) {
        Wish::Run(claim) => instance.pursue(claim, actual, now),
        Wish::Keep => instance.keep(actual, now),
        Wish::Remove => now_only(instance.terminate(TerminationCause::Removed, actual, now)),
    }
}

fn create(claims: &[Claim]) -> Vec<Step> {
    claims.first().map_or_else(Vec::new, |claim| {
        let create = Action::Create { source: claim.source.clone(), spec: claim.spec.clone() };
        step(create, Reason::NewManifest(claim.source.clone()))
    })
}

enum Wish<'a> {
    Run(&'a Claim),
    Keep,
    Remove,
}

/// The file that has the pod keeps it, even while it is faulty; then the first in lexical order.
fn choose<'a>(claims: &'a [Claim], instance: Instance<'_>, trust: &Trust<'_>) -> Wish<'a> {
    let source = &instance.record.source;
    match claims.iter().find(|claim| claim.source == *source) {
        Some(own) => Wish::Run(own),
        None if !trust.is_deleted(source) => Wish::Keep,
        None => claims.first().map_or(Wish::Remove, Wish::Run),
    }
}

impl Instance<'_> {
    /// Of several instances the one that fits a claim is kept, then the one that runs, then the
    /// one with the most revisions. Not the youngest: the wall clock decides nothing.
    fn rank(&self, claims: &[Claim]) -> (bool, bool, u64, PodId) {
        let fits =
            claims.iter().any(|claim| claim.revision.digest() == self.record.accepted.digest);
        let runs = matches!(self.actual.executor, ExecutorState::Connected { .. });
        (fits, runs, self.record.accepted.number, self.record.id)
    }

    fn grace(&self) -> Millis {
        self.spec().map_or(TERMINATION_GRACE_DEFAULT, |stored| stored.spec.termination_grace)
    }

    /// The stored specification, if it can be one of this instance.
    fn spec(&self) -> Option<&StoredSpec> {
        let stored = self.actual.spec.as_ref()?;
        (stored.revision.shared == self.record.accepted.shared).then_some(stored)
    }

    fn terminate(&self, cause: TerminationCause, actual: &ActualState, now: Now) -> Vec<Step> {
        let grace = self.grace();
        let at = now.boot.plus(grace).plus(OVERDUE_MARGIN);
        let kill_at = Moment { boot: actual.boot.clone(), at };
        let phase = RecordPhase::Terminating { cause, grace, kill_at };
        let record = PodRecord { phase, ..self.record.clone() };
        step(Action::Record(Box::new(record)), Reason::Terminated(cause))
    }

    /// Towards the state that a claim asks for.
    fn pursue(&self, claim: &Claim, actual: &ActualState, now: Now) -> Decision {
        let record = self.record;
        let digest = claim.revision.digest();
        if record.accepted.digest == digest {
            return if self.spec().is_none_or(|stored| stored.revision != claim.revision) {
                let record = PodRecord { source: claim.source.clone(), ..record.clone() };
                now_only(accept(record, claim, Reason::SpecificationMissing))
            } else if record.source != claim.source {
                let record = PodRecord { source: claim.source.clone(), ..record.clone() };
                now_only(accept(record, claim, Reason::MovedManifest(claim.source.clone())))
            } else {
                self.keep(actual, now)
            };
        }
        let in_place = record.accepted.shared == claim.revision.shared
            && match record.phase {
                RecordPhase::Active => true,
                RecordPhase::Finished { .. } => self.is_rerun_needless(claim),
                RecordPhase::Terminating { .. } | RecordPhase::Destroying { .. } => false,
            };
        if !in_place {
            return now_only(self.terminate(TerminationCause::Replaced, actual, now));
        }
        let record = revised(record, &claim.revision, now);
        let record = PodRecord { source: claim.source.clone(), ..record };
        now_only(accept(record, claim, Reason::ChangedManifest(claim.source.clone())))
    }

    /// Whether a finished pod would end the same way by the new revision: only what does not run
    /// changed.
    fn is_rerun_needless(&self, claim: &Claim) -> bool {
        self.spec().is_some_and(|old| {
            old.revision.containers == claim.revision.containers
                && old.spec.restart_policy == claim.spec.restart_policy
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
            RecordPhase::Destroying { cause } => {
                let reason = Reason::Terminated(*cause);
                return now_only(vec![
                    Step { action: Action::Destroy(id), reason: reason.clone() },
                    Step { action: Action::Forget(id), reason },
                ]);
            }
            RecordPhase::Active | RecordPhase::Finished { .. } => return now_only(vec![]),
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

fn accept(record: PodRecord, claim: &Claim, reason: Reason) -> Vec<Step> {
    let spec: Arc<PodSpec> = claim.spec.clone();
    step(Action::Accept { record: Box::new(record), spec }, reason)
}

/// The record with another revision accepted.
fn revised(record: &PodRecord, revision: &Revision, now: Now) -> PodRecord {
    let mut history = record.history.clone();
    history.push(record.accepted.clone());
    if history.len() > HISTORY_LEN_MAX {
        history.remove(0);
    }
    let accepted = Accepted {
        number: record.accepted.number + 1,
        digest: revision.digest(),
        shared: revision.shared,
        at: now.wall,
    };
    PodRecord { accepted, history, ..record.clone() }
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
