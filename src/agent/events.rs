//! Events: what happened to pods, in the words that Kubernetes uses for the same things.

use std::collections::{BTreeMap, BTreeSet};

use super::images::Note;
use crate::clock::WallTime;
use crate::executor::protocol::{ContainerReport, ContainerStatus, Goal, PodReport, ProbeFault};
use crate::executor::question::{Purpose, Seen};
use crate::ids::{ContainerName, PodId, PodName};
use crate::state::record::{
    EndCause, Eviction, Exit, Outcome, PodRecord, RecordPhase, TerminationCause,
};
use crate::state::store::{EventKind, EventRecord};

/// The event that goes with a change of a record.
pub(super) fn of_record(record: &PodRecord, reason: &str, at: WallTime) -> EventRecord {
    let (kind, word) = match &record.phase {
        RecordPhase::Active if record.losses.retry_at.is_some() => {
            (EventKind::Warning, "ExecutorLost")
        }
        RecordPhase::Active if record.created_at == record.accepted.at => {
            (EventKind::Normal, "Accepted")
        }
        RecordPhase::Active if record.held.is_some() => (EventKind::Normal, "RolledBack"),
        RecordPhase::Active => (EventKind::Normal, "Updated"),
        // That it was evicted was told when it was decided.
        RecordPhase::Finished { .. } if matches!(record.eviction, Some(Eviction::Evicted(_))) => {
            (EventKind::Normal, "Stopped")
        }
        RecordPhase::Finished { outcome: Outcome::Succeeded, .. } => {
            (EventKind::Normal, "Succeeded")
        }
        RecordPhase::Finished { outcome: Outcome::Failed, .. } => (EventKind::Warning, "Failed"),
        RecordPhase::Terminating { cause: TerminationCause::Evicted, .. } => {
            (EventKind::Warning, "Evicted")
        }
        RecordPhase::Terminating { .. } => (EventKind::Normal, "Killing"),
        RecordPhase::Destroying { .. } => (EventKind::Normal, "Stopped"),
    };
    about(record, at, kind, word, reason)
}

/// An event about the pod of a record.
pub(super) fn about(
    record: &PodRecord,
    at: WallTime,
    kind: EventKind,
    reason: &str,
    message: &str,
) -> EventRecord {
    EventRecord::once(at, Some((&record.name, Some(record.id))), kind, reason, message)
}

/// What is to be said of an image that a pod got.
pub(super) fn of_image(pod: &PodName, note: &Note, at: WallTime) -> EventRecord {
    let (kind, reason, text) = match note {
        Note::Pulled(text) => (EventKind::Normal, "Pulled", text),
        Note::NoSecret(text) => (EventKind::Warning, "FailedToRetrieveImagePullSecret", text),
        Note::NotRefreshed(text) => (EventKind::Warning, "ImageNotRefreshed", text),
    };
    EventRecord::once(at, Some((pod, None)), kind, reason, text)
}

/// The containers that are being stopped because somebody wants that. How they end is recorded
/// before it is reported, so that the report of the end does not tell.
#[derive(Debug, Default)]
pub(super) struct Stops {
    containers: BTreeMap<PodId, BTreeSet<ContainerName>>,
}

impl Stops {
    /// Those of an instance.
    pub(super) fn of(&self, id: PodId) -> &BTreeSet<ContainerName> {
        static NONE: BTreeSet<ContainerName> = BTreeSet::new();
        self.containers.get(&id).unwrap_or(&NONE)
    }

    /// An instance has reported.
    pub(super) fn take_in(&mut self, id: PodId, report: &PodReport) {
        let known = self.of(id);
        let stopped = |container: &&ContainerReport| match container.status {
            ContainerStatus::Stopping { .. } => true,
            ContainerStatus::Recording { .. } => known.contains(&container.name),
            ContainerStatus::Creating
            | ContainerStatus::Running { .. }
            | ContainerStatus::BackingOff { .. }
            | ContainerStatus::Terminated => false,
        };
        let stopped: BTreeSet<ContainerName> =
            report.containers.iter().filter(stopped).map(|it| it.name.clone()).collect();
        if stopped.is_empty() {
            self.forget(id);
        } else {
            self.containers.insert(id, stopped);
        }
    }

    /// An instance is gone.
    pub(super) fn forget(&mut self, id: PodId) {
        self.containers.remove(&id);
    }
}

/// What happened between two reports. The first report that an agent gets from an executor tells
/// of no change. `stopped` are those containers that were being stopped until now.
pub(super) fn between(
    record: &PodRecord,
    old: &PodReport,
    new: &PodReport,
    stopped: &BTreeSet<ContainerName>,
    at: WallTime,
) -> Vec<EventRecord> {
    let pairs = new.containers.iter().filter_map(|container| {
        let before = old.containers.iter().find(|c| c.name == container.name)?;
        Some((before, container))
    });
    let is_ending = match record.phase {
        RecordPhase::Active | RecordPhase::Finished { .. } => new.goal != Goal::Run,
        RecordPhase::Terminating { .. } | RecordPhase::Destroying { .. } => true,
    };
    let events = pairs.map(|(old, new)| {
        let wanted = Wanted { end: is_ending, stop: is_ending || stopped.contains(&new.name) };
        of_container(record, old, new, wanted, at)
    });
    let cause = new.because.filter(|_| old.because.is_none()).map(|cause| {
        let (reason, message) = match cause {
            EndCause::DeadlineExceeded => {
                ("DeadlineExceeded", "the pod was active longer than the specified deadline")
            }
            EndCause::GroupFailed => ("GroupFailed", "a container failed, so all are stopped"),
        };
        about(record, at, EventKind::Warning, reason, message)
    });
    events.flatten().chain(cause).collect()
}

/// What somebody wants of a container.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    /// It shall not run any more.
    end: bool,
    /// The run shall end, perhaps for another one.
    stop: bool,
}

fn of_container(
    record: &PodRecord,
    old: &ContainerReport,
    new: &ContainerReport,
    wanted: Wanted,
    at: WallTime,
) -> Vec<EventRecord> {
    let mut events = Vec::new();
    let name = &new.name;
    if let Some(last) = new.last.as_ref()
        && old.last.as_ref() != Some(last)
    {
        // Who is killed because somebody wants that has not failed.
        let is_killed = matches!(last.exit, Exit::Code(_) | Exit::Signal(_));
        let is_fine = last.exit.is_success() || (wanted.stop && is_killed);
        let kind = if is_fine { EventKind::Normal } else { EventKind::Warning };
        let word = if is_fine && !last.exit.is_success() { "Killed" } else { last.exit.reason() };
        let message = match &last.exit {
            Exit::NotStarted(why) => {
                format!("container {name} could not be started: {why}")
            }
            exit @ (Exit::Code(_) | Exit::Signal(_) | Exit::OutOfMemory | Exit::Unknown) => {
                format!("container {name} ended: {}, exit code {}", exit.reason(), exit.code())
            }
        };
        events.push(about(record, at, kind, word, &message));
    }
    let is_new_run = old.attempt != new.attempt;
    events.extend(of_health(record, old, new, at));
    match &new.status {
        ContainerStatus::Running { .. } => {
            if is_new_run || !matches!(old.status, ContainerStatus::Running { .. }) {
                let message = format!("container {name} started");
                events.push(about(record, at, EventKind::Normal, "Started", &message));
            }
        }
        ContainerStatus::BackingOff { delay, .. } => {
            if !wanted.end && (is_new_run || old.status != new.status) {
                let message = format!("back-off {delay} restarting container {name}");
                events.push(about(record, at, EventKind::Warning, "BackOff", &message));
            }
        }
        ContainerStatus::Recording { fault: Some(why) } => {
            let message = format!("the exit of container {name} can't be recorded: {why}");
            events.push(about(record, at, EventKind::Warning, "NotRecorded", &message));
        }
        ContainerStatus::Creating
        | ContainerStatus::Stopping { .. }
        | ContainerStatus::Recording { fault: None }
        | ContainerStatus::Terminated => {}
    }
    events
}

/// What probes and checks have found, if that is news.
fn of_health(
    record: &PodRecord,
    old: &ContainerReport,
    new: &ContainerReport,
    at: WallTime,
) -> Vec<EventRecord> {
    let Some(health) = &new.health else { return Vec::new() };
    let before = old.health.as_ref().filter(|_| old.attempt == new.attempt);
    let name = &new.name;
    let mut events = Vec::new();
    for fault in &health.faults {
        let ProbeFault { purpose, is_failure, text, count: _ } = fault;
        if before.is_some_and(|before| before.faults.contains(fault)) {
            continue;
        }
        let (reason, what) = match (purpose, is_failure) {
            (Purpose::PostStart, _) => ("FailedPostStartHook", "failed"),
            (Purpose::PreStop, _) => ("FailedPreStopHook", "failed"),
            (Purpose::Startup | Purpose::Liveness | Purpose::Readiness | Purpose::Check, true) => {
                ("Unhealthy", "failed")
            }
            (Purpose::Startup | Purpose::Liveness | Purpose::Readiness | Purpose::Check, false) => {
                ("ProbeWarning", "warning")
            }
        };
        let message = format!("container {name}: {purpose} {what}: {text}");
        events.push(about(record, at, EventKind::Warning, reason, &message));
    }
    if let Some(purpose) = health.failed.filter(|it| before.and_then(|old| old.failed) != Some(*it))
    {
        let probe = purpose.to_string().to_lowercase();
        let message = format!("container {name} failed its {probe} and is stopped");
        events.push(about(record, at, EventKind::Normal, "Killing", &message));
    }
    if let Some(found) = &health.check {
        let known = before.and_then(|old| old.check.as_ref()).map_or(Seen::Nothing, |it| it.seen);
        if found.seen != known {
            let message = match found.text.as_str() {
                "" => format!("container {name}: check: {}", found.seen),
                text => format!("container {name}: check: {}: {text}", found.seen),
            };
            events.push(about(record, at, EventKind::Normal, "CheckReported", &message));
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::samples::{ended, pod, report, running, with_report};
    use crate::clock::{BootTime, Millis};
    use crate::state::record::TerminationCause;

    /// What is told of the change, in short.
    fn told(record: &PodRecord, old: ContainerReport, new: ContainerReport, goal: Goal) -> String {
        let old = with_report(pod("web", 1), vec![old]).report.unwrap();
        let recording = ContainerStatus::Recording { fault: None };
        let between_them = report("web", 0, recording, None);
        let middle = PodReport { goal, containers: vec![between_them], ..old.clone() };
        let new = PodReport { goal, containers: vec![new], ..old.clone() };
        let mut stops = Stops::default();
        let mut events = Vec::new();
        for (old, new) in [(&old, &middle), (&middle, &new)] {
            stops.take_in(record.id, old);
            events.extend(between(record, old, new, stops.of(record.id), WallTime(0)));
        }
        stops.take_in(record.id, &new);
        assert!(stops.containers.is_empty(), "{stops:?}");
        let short = |event: &EventRecord| format!("{:?} {}", event.kind, event.reason);
        events.iter().map(short).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn what_somebody_wanted_is_no_warning() {
        let record = pod("web", 1).record;
        let stop = Goal::Stop { grace: Millis(0) };
        let through = |exit| report("web", 0, ContainerStatus::Terminated, Some(ended(0, exit)));
        let runs = || running("web", 0, None);
        let killed = || through(Exit::Signal(9));
        assert_eq!(told(&record, runs(), killed(), Goal::Run), "Warning Error");
        assert_eq!(told(&record, runs(), killed(), stop), "Normal Killed");
        assert_eq!(told(&record, runs(), through(Exit::OutOfMemory), stop), "Warning OOMKilled");
        let stopping = ContainerStatus::Stopping { pid: 7, started_at: WallTime(0) };
        let stopped = || report("web", 0, stopping.clone(), None);
        assert_eq!(told(&record, stopped(), killed(), Goal::Run), "Normal Killed");
        assert_eq!(told(&record, stopped(), through(Exit::Code(0)), Goal::Run), "Normal Completed");
    }

    #[test]
    fn a_pod_that_ends_backs_off_from_nothing() {
        let mut record = pod("web", 1).record;
        let backs_off = || {
            let status = ContainerStatus::BackingOff { until: BootTime(9), delay: Millis(1) };
            report("web", 0, status, Some(ended(0, Exit::Code(1))))
        };
        let runs = || running("web", 0, None);
        let both = "Warning Error, Warning BackOff";
        assert_eq!(told(&record, runs(), backs_off(), Goal::Run), both);
        record.phase = RecordPhase::Destroying { cause: TerminationCause::Removed };
        assert_eq!(told(&record, runs(), backs_off(), Goal::Run), "Normal Killed");
    }
}
