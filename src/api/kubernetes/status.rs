//! [`containers`]: where the containers of a pod instance stand, as `containerStatuses`.

use super::Context;
use super::pod::WAITING_FOR_POD;
use super::types::{
    ContainerExtra, ContainerState, ContainerStatus as Shown, StateRunning, StateTerminated,
    StateWaiting,
};
use crate::agent::service::{
    ContainerReport, ContainerStatus, Exit, LastRun, PodView, RecordPhase, WaitReason, Waiting,
    Waits,
};
use crate::clock::{BootTime, Millis};
use crate::ids::{Attempt, ContainerName};
use crate::manifest::pod::Image;

/// In the order of the manifest; without one, by name.
pub(super) fn containers(view: &PodView, context: &Context) -> Vec<Shown> {
    let shown = |name: ContainerName| {
        let mut shown = container(view, &name, context);
        let spec = view.spec.as_ref().and_then(|spec| spec.container(&name));
        if let Some(image) = spec.and_then(|spec| spec.image.as_ref()) {
            shown.image = image.source.to_string();
            shown.image_id = image_id(image);
        }
        shown
    };
    names(view).into_iter().map(shown).collect()
}

/// Which image it is, in a form that names it in its registry where it comes from one.
fn image_id(image: &Image) -> String {
    match (&image.resolved, image.source.reference()) {
        (Some(resolved), Some(reference)) => format!("{}@{}", reference.name(), resolved.manifest),
        (Some(resolved), None) => resolved.id.to_string(),
        (None, _) => String::new(),
    }
}

/// Whether the instance may run although its executor has not reported to this agent yet.
pub(super) fn may_run_unseen(view: &PodView, context: &Context) -> bool {
    view.report.is_none()
        && !matches!(view.waits, Some(Waits { who: Waiting::Pod, .. }))
        && view.record.created_at < context.agent_started_at
}

fn names(view: &PodView) -> Vec<ContainerName> {
    if let Some(spec) = &view.spec {
        return spec.containers.iter().map(|container| container.name.clone()).collect();
    }
    if let Some(report) = &view.report {
        return report.containers.iter().map(|container| container.name.clone()).collect();
    }
    match &view.record.phase {
        RecordPhase::Finished { containers, outcome: _ } => containers.keys().cloned().collect(),
        RecordPhase::Active | RecordPhase::Terminating { .. } | RecordPhase::Destroying { .. } => {
            Vec::new()
        }
    }
}

fn container(view: &PodView, name: &ContainerName, context: &Context) -> Shown {
    let report = view.report.as_ref();
    let report = report.and_then(|report| report.containers.iter().find(|c| c.name == *name));
    match (&view.record.phase, report) {
        (RecordPhase::Finished { containers, outcome: _ }, _) => {
            through(view, name, containers.get(name))
        }
        (_, Some(report)) => reported(view, report, context),
        (RecordPhase::Active, None) if may_run_unseen(view, context) => Shown {
            state: waiting(
                "ContainerStatusUnknown",
                Some("the pod's executor has not answered yet"),
            ),
            ..empty(name)
        },
        (RecordPhase::Active, None) => {
            let state = match &view.waits {
                Some(Waits { who: Waiting::Pod | Waiting::Instance, reason, why }) => {
                    match reason {
                        // Nothing is made as long as there is no room for it.
                        WaitReason::Room => waiting("Pending", Some(why)),
                        WaitReason::Order => waiting(WAITING_FOR_POD, Some(why)),
                        WaitReason::Images { .. } => waiting("ContainerCreating", Some(why)),
                        WaitReason::Trouble(trouble) => waiting(&trouble.to_string(), Some(why)),
                    }
                }
                Some(Waits { who: Waiting::Revision, .. }) | None => {
                    waiting("ContainerCreating", None)
                }
            };
            Shown { state, ..empty(name) }
        }
        (RecordPhase::Terminating { .. } | RecordPhase::Destroying { .. }, None) => {
            through(view, name, None)
        }
    }
}

/// A container that does not run any more and will not again.
fn through(view: &PodView, name: &ContainerName, last: Option<&LastRun>) -> Shown {
    let Some(last) = last else {
        let state = StateTerminated {
            exit_code: Exit::Unknown.code(),
            reason: Exit::Unknown.reason().to_owned(),
            message: Some("how the container ended is not known".to_owned()),
            ..StateTerminated::default()
        };
        let state = ContainerState { terminated: Some(state), ..ContainerState::default() };
        return Shown { state, ..empty(name) };
    };
    Shown {
        state: terminated(view, name, last),
        restart_count: last.attempt.0,
        container_id: Some(container_id(view, name, last.attempt)),
        ..empty(name)
    }
}

fn reported(view: &PodView, report: &ContainerReport, context: &Context) -> Shown {
    let ContainerReport { name, attempt, status, last, update_fault } = report;
    let ended = last.as_ref().map(|last| terminated(view, name, last)).unwrap_or_default();
    let running = |started_at: crate::clock::WallTime| {
        let running = StateRunning { started_at: started_at.rfc3339() };
        ContainerState { running: Some(running), ..ContainerState::default() }
    };
    let (state, last_state) = match status {
        ContainerStatus::Creating => (waiting("ContainerCreating", None), ended),
        ContainerStatus::Running { pid: _, started_at }
        | ContainerStatus::Stopping { pid: _, started_at } => (running(*started_at), ended),
        ContainerStatus::Recording { fault } => {
            let text = match fault {
                None => "it ended; how is being recorded".to_owned(),
                Some(fault) => format!("it ended; how can't be recorded: {fault}"),
            };
            (waiting("RecordingExit", Some(&text)), ended)
        }
        ContainerStatus::BackingOff { until, delay } => {
            (backing_off(view, report, (*until, *delay), context), ended)
        }
        ContainerStatus::Terminated if last.is_none() => (through(view, name, None).state, ended),
        ContainerStatus::Terminated => (ended, ContainerState::default()),
    };
    let (pid, is_running) = match status {
        ContainerStatus::Running { pid, .. } => (Some(*pid), true),
        ContainerStatus::Stopping { pid, .. } => (Some(*pid), false),
        ContainerStatus::Creating
        | ContainerStatus::Recording { .. }
        | ContainerStatus::BackingOff { .. }
        | ContainerStatus::Terminated => (None, false),
    };
    let extra = ContainerExtra { pid, update_fault: update_fault.clone() };
    Shown {
        state,
        last_state,
        ready: is_running,
        restart_count: attempt.map_or(0, |attempt| attempt.0),
        started: is_running,
        container_id: attempt.map(|attempt| container_id(view, name, attempt)),
        roost: (extra != ContainerExtra::default()).then_some(extra),
        ..empty(name)
    }
}

/// In the words of the kubelet, and with the time that is left.
fn backing_off(
    view: &PodView,
    report: &ContainerReport,
    (until, delay): (BootTime, Millis),
    context: &Context,
) -> ContainerState {
    let name = &report.name;
    let record = &view.record;
    let pod = format!("{}_{}({})", record.name.name, record.name.namespace, record.id);
    let left = whole_seconds(until.since(context.now));
    let text =
        format!("back-off {delay} restarting failed container={name} pod={pod}, {left} left");
    match report.last.as_ref().map(|last| &last.exit) {
        Some(Exit::NotStarted(why)) => {
            waiting("RunContainerError", Some(&format!("{why}; {text}")))
        }
        None | Some(Exit::Code(_) | Exit::Signal(_) | Exit::OutOfMemory | Exit::Unknown) => {
            waiting("CrashLoopBackOff", Some(&text))
        }
    }
}

/// The span, rounded up to seconds.
fn whole_seconds(span: Millis) -> Millis {
    Millis(span.0.div_ceil(1000).saturating_mul(1000))
}

fn terminated(view: &PodView, name: &ContainerName, last: &LastRun) -> ContainerState {
    let LastRun { attempt, started_at, finished_at, exit } = last;
    let (signal, message) = match exit {
        Exit::Signal(signal) => (Some(*signal), None),
        Exit::NotStarted(why) => (None, Some(why.clone())),
        Exit::Unknown => (None, Some("it ended while nobody could see or record how".to_owned())),
        Exit::Code(_) | Exit::OutOfMemory => (None, None),
    };
    let state = StateTerminated {
        exit_code: exit.code(),
        signal,
        reason: exit.reason().to_owned(),
        message,
        started_at: started_at.map(crate::clock::WallTime::rfc3339),
        finished_at: Some(finished_at.rfc3339()),
        container_id: Some(container_id(view, name, *attempt)),
    };
    ContainerState { terminated: Some(state), ..ContainerState::default() }
}

fn waiting(reason: &str, message: Option<&str>) -> ContainerState {
    let waiting = StateWaiting { reason: reason.to_owned(), message: message.map(str::to_owned) };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn container_id(view: &PodView, name: &ContainerName, attempt: Attempt) -> String {
    format!("roost://{}/{name}/{attempt}", view.record.id)
}

fn empty(name: &ContainerName) -> Shown {
    Shown { name: name.to_string(), ..Shown::default() }
}
