//! Events: what happened to pods, in the words that Kubernetes uses for the same things.

use super::images::Note;
use crate::clock::WallTime;
use crate::executor::protocol::{ContainerReport, ContainerStatus, PodReport};
use crate::ids::PodName;
use crate::state::record::{Exit, Outcome, PodRecord, RecordPhase};
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
        RecordPhase::Finished { outcome: Outcome::Succeeded, .. } => {
            (EventKind::Normal, "Succeeded")
        }
        RecordPhase::Finished { outcome: Outcome::Failed, .. } => (EventKind::Warning, "Failed"),
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
        Note::NotRefreshed(text) => (EventKind::Warning, "ImageNotRefreshed", text),
    };
    EventRecord::once(at, Some((pod, None)), kind, reason, text)
}

/// What happened between two reports. The first report that an agent gets from an executor tells
/// of no change.
pub(super) fn between(
    record: &PodRecord,
    old: &PodReport,
    new: &PodReport,
    at: WallTime,
) -> Vec<EventRecord> {
    let pairs = new.containers.iter().filter_map(|container| {
        let before = old.containers.iter().find(|c| c.name == container.name)?;
        Some((before, container))
    });
    pairs.flat_map(|(old, new)| of_container(record, old, new, at)).collect()
}

fn of_container(
    record: &PodRecord,
    old: &ContainerReport,
    new: &ContainerReport,
    at: WallTime,
) -> Vec<EventRecord> {
    let mut events = Vec::new();
    let name = &new.name;
    if let Some(last) = new.last.as_ref()
        && old.last.as_ref() != Some(last)
    {
        let kind = if last.exit.is_success() { EventKind::Normal } else { EventKind::Warning };
        let message = match &last.exit {
            Exit::NotStarted(why) => {
                format!("container {name} could not be started: {why}")
            }
            exit @ (Exit::Code(_) | Exit::Signal(_) | Exit::OutOfMemory | Exit::Unknown) => {
                format!("container {name} ended: {}, exit code {}", exit.reason(), exit.code())
            }
        };
        events.push(about(record, at, kind, last.exit.reason(), &message));
    }
    let is_new_run = old.attempt != new.attempt;
    match &new.status {
        ContainerStatus::Running { .. } => {
            if is_new_run || !matches!(old.status, ContainerStatus::Running { .. }) {
                let message = format!("container {name} started");
                events.push(about(record, at, EventKind::Normal, "Started", &message));
            }
        }
        ContainerStatus::BackingOff { delay, .. } => {
            if is_new_run || old.status != new.status {
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
