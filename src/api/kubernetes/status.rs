//! [`containers`]: where the containers of a pod instance stand, as `containerStatuses` and
//! `initContainerStatuses`.

use std::sync::Arc;

use super::Context;
use super::pod::WAITING_FOR_POD;
use super::types::{
    CheckExtra, ContainerExtra, ContainerState, ContainerStatus as Shown, ProbeExtra, StateRunning,
    StateTerminated, StateWaiting,
};
use crate::agent::service::{
    CONFIG_ERROR, CheckReport, ContainerReport, ContainerStatus, Exit, LastRun, PodView,
    ProbeFault, Purpose, RecordPhase, Seen, WaitReason, Waiting, Waits,
};
use crate::clock::{BootTime, Millis};
use crate::ids::{Attempt, ContainerName};
use crate::manifest::pod::{ContainerSpec, Image, PodSpec, Role};

/// Where all containers of an instance stand, each kind in the order of the manifest; without one,
/// by name.
pub(super) struct Statuses {
    pub(super) init: Vec<Shown>,
    pub(super) main: Vec<Shown>,
}

pub(super) fn containers(view: &PodView, context: &Context) -> Statuses {
    let shown = |name: &ContainerName| {
        let mut shown = container(view, name, context);
        let spec = view.spec.as_ref().and_then(|spec| spec.container(name));
        if let Some(image) = spec.and_then(|spec| spec.image.as_ref()) {
            shown.image = image.source.to_string();
            shown.image_id = image_id(image);
        }
        shown
    };
    let init = |(spec, container): (&Arc<PodSpec>, &ContainerSpec)| {
        let mut shown = shown(&container.name);
        match spec.role(&container.name) {
            Some(Role::Sidecar) => shown.roost.get_or_insert_default().sidecar = true,
            Some(Role::Init | Role::Main) | None => {
                // As the kubelet has it: it is never "started", and ready when it is done.
                let end = shown.state.terminated.as_ref();
                shown.ready = end.is_some_and(|end| end.exit_code == 0);
                shown.started = false;
            }
        }
        shown
    };
    let spec = view.spec.iter();
    let inits = spec.flat_map(|spec| spec.init_containers.iter().map(move |it| (spec, it)));
    Statuses { init: inits.map(init).collect(), main: names(view).iter().map(shown).collect() }
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
        RecordPhase::Finished { containers, .. } => containers.keys().cloned().collect(),
        RecordPhase::Active | RecordPhase::Terminating { .. } | RecordPhase::Destroying { .. } => {
            Vec::new()
        }
    }
}

fn container(view: &PodView, name: &ContainerName, context: &Context) -> Shown {
    let report = view.report.as_ref();
    let report = report.and_then(|report| report.containers.iter().find(|c| c.name == *name));
    match (&view.record.phase, report) {
        (RecordPhase::Finished { containers, .. }, _) => match containers.get(name) {
            // The initialization failed: the container never ran.
            None if !containers.is_empty() => Shown { state: creating(view), ..empty(name) },
            last => through(view, name, last),
        },
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
                        WaitReason::Room | WaitReason::Pressure(_) => waiting("Pending", Some(why)),
                        WaitReason::Order => waiting(WAITING_FOR_POD, Some(why)),
                        WaitReason::Config => waiting(CONFIG_ERROR, Some(why)),
                        WaitReason::Images { .. } => waiting("ContainerCreating", Some(why)),
                        WaitReason::Trouble(trouble) => waiting(&trouble.to_string(), Some(why)),
                    }
                }
                Some(Waits { who: Waiting::Revision, .. }) | None => creating(view),
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
    let ContainerReport { name, attempt, status, last, update_fault, health } = report;
    let ended = last.as_ref().map(|last| terminated(view, name, last)).unwrap_or_default();
    let running = |started_at: crate::clock::WallTime| {
        let running = StateRunning { started_at: started_at.rfc3339() };
        ContainerState { running: Some(running), ..ContainerState::default() }
    };
    let (state, last_state) = match status {
        ContainerStatus::Creating => (creating(view), ended),
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
    // A build that asks nothing knows no more than that it runs.
    let is_ready = health.as_ref().map_or(is_running, |health| health.ready);
    let is_started = health.as_ref().map_or(is_running, |health| health.started);
    let faults = health.iter().flat_map(|health| &health.faults);
    let extra = ContainerExtra {
        pid,
        update_fault: update_fault.clone(),
        probe_faults: faults.map(probe_fault).collect(),
        check: health.as_ref().and_then(|health| health.check.as_ref()).map(check),
        sidecar: false,
    };
    Shown {
        state,
        last_state,
        ready: is_ready,
        restart_count: attempt.map_or(0, |attempt| attempt.0),
        started: is_started,
        container_id: attempt.map(|attempt| container_id(view, name, attempt)),
        roost: (extra != ContainerExtra::default()).then_some(extra),
        ..empty(name)
    }
}

fn probe_fault(fault: &ProbeFault) -> ProbeExtra {
    let ProbeFault { purpose, is_failure, text, count } = fault;
    let probe = match purpose {
        Purpose::Startup => "startupProbe",
        Purpose::Liveness => "livenessProbe",
        Purpose::Readiness => "readinessProbe",
        Purpose::PostStart => "postStart",
        Purpose::PreStop => "preStop",
        Purpose::Check => "check",
    };
    ProbeExtra {
        probe: probe.to_owned(),
        failed: *is_failure,
        count: (*count).into(),
        message: text.clone(),
    }
}

/// The result of a check, in the words of Mesos (`CheckStatusInfo`).
fn check(found: &CheckReport) -> CheckExtra {
    let CheckReport { seen, text } = found;
    let mut shown = CheckExtra::default();
    match *seen {
        Seen::ExitCode(code) => shown.exit_code = Some(code.into()),
        Seen::Signal(signal) => shown.exit_code = Some(128 + i32::from(signal)),
        Seen::HttpStatus(status) => shown.status_code = Some(status.into()),
        Seen::Connected(connected) => shown.succeeded = Some(connected),
        Seen::Nothing | Seen::GrpcStatus(_) | Seen::Slept => {}
    }
    shown.message = (!text.is_empty()).then(|| text.clone());
    shown
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
            let config = why.strip_prefix(CONFIG_ERROR).and_then(|why| why.strip_prefix(": "));
            let (reason, why) = match config {
                Some(why) => (CONFIG_ERROR, why),
                None => ("RunContainerError", why.as_str()),
            };
            waiting(reason, Some(&format!("{why}; {text}")))
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
    let LastRun { attempt, started_at, finished_at, exit, message } = last;
    let (signal, why) = match exit {
        Exit::Signal(signal) => (Some(*signal), None),
        Exit::NotStarted(why) => (None, Some(why.clone())),
        Exit::Unknown => (None, Some("it ended while nobody could see or record how".to_owned())),
        Exit::Code(_) | Exit::OutOfMemory => (None, None),
    };
    let state = StateTerminated {
        exit_code: exit.code(),
        signal,
        reason: exit.reason().to_owned(),
        // Its own words say more.
        message: message.clone().or(why),
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

/// What is not set up yet, in the words of the kubelet.
fn creating(view: &PodView) -> ContainerState {
    let has_init = view.spec.as_ref().is_some_and(|spec| !spec.init_containers.is_empty());
    let initializes = view.report.as_ref().is_none_or(|report| report.initializing);
    let reason = if has_init && initializes { "PodInitializing" } else { "ContainerCreating" };
    // Nobody has told an executor yet: what was tried failed, as it says.
    let has_failed = view.report.is_none() && !view.problems.is_empty();
    waiting(reason, has_failed.then(|| view.problems.join("; ")).as_deref())
}

fn container_id(view: &PodView, name: &ContainerName, attempt: Attempt) -> String {
    format!("roost://{}/{name}/{attempt}", view.record.id)
}

fn empty(name: &ContainerName) -> Shown {
    Shown { name: name.to_string(), ..Shown::default() }
}
