//! [`of`]: a pod instance as Kubernetes' `Pod`.

use super::status::Statuses;
use super::types::{
    AddressEntry, Condition, ContainerState, ContainerStatus as ContainerShown, ObjectMeta, Pod,
    PodExtra, PodStatus,
};
use super::{Context, spec, status};
use crate::agent::service::{
    CONFIG_ERROR, ContainerStatus, EndCause, Evicted, Eviction, ExecutorView, Outcome, PodView,
    RecordPhase, TerminationCause, WaitReason, Waiting, Waits,
};
use crate::clock::{BootTime, Millis, WallTime};
use crate::manifest::pod::{PodSpec, Resources};

/// The annotation that names the manifest of a pod.
pub const SOURCE_ANNOTATION: &str = "roost/source";

/// The pod with its status.
#[must_use]
pub fn of(view: &PodView, context: &Context) -> Pod {
    Pod {
        kind: "Pod".to_owned(),
        api_version: "v1".to_owned(),
        metadata: metadata(view, context),
        spec: view.spec.as_deref().map(spec::of).unwrap_or_default(),
        status: pod_status(view, context),
    }
}

/// Its phase, and where its containers stand: what is told of many pods at once.
pub(in crate::api) fn outline(
    view: &PodView,
    context: &Context,
) -> (&'static str, Vec<ContainerShown>) {
    let statuses = status::containers(view, context);
    let phase = phase(view, &statuses, context);
    (phase, statuses.init.into_iter().chain(statuses.main).collect())
}

fn metadata(view: &PodView, context: &Context) -> ObjectMeta {
    let record = &view.record;
    let spec = view.spec.as_deref();
    let mut annotations = spec.map(|spec| spec.annotations.clone()).unwrap_or_default();
    annotations.insert(SOURCE_ANNOTATION.to_owned(), record.source.to_string());
    let deletion = deletion(&record.phase, context);
    ObjectMeta {
        name: record.name.name.to_string(),
        namespace: record.name.namespace.to_string(),
        uid: record.id.to_string(),
        resource_version: view.version.to_string(),
        generation: record.accepted.number,
        creation_timestamp: Some(record.created_at.rfc3339()),
        deletion_timestamp: deletion.map(|(at, _)| at.rfc3339()),
        deletion_grace_period_seconds: deletion.map(|(_, grace)| grace.0 / 1000),
        labels: spec.map(|spec| spec.labels.clone()).unwrap_or_default(),
        annotations,
    }
}

/// When an instance that ends is killed at the latest, and its grace period.
fn deletion(phase: &RecordPhase, context: &Context) -> Option<(WallTime, Millis)> {
    match phase {
        RecordPhase::Active | RecordPhase::Finished { .. } => None,
        RecordPhase::Terminating { cause: _, grace, kill_at } => {
            // A moment of another boot is long past.
            let at = if kill_at.boot == context.boot { kill_at.at } else { context.now };
            Some((on_wall(at, context), *grace))
        }
        RecordPhase::Destroying { cause: _ } => Some((context.wall, Millis(0))),
    }
}

/// What the wall clock shows at a time of the steady one, if nobody sets it in between.
fn on_wall(at: BootTime, context: &Context) -> WallTime {
    let nanos = |span: Millis| span.0.saturating_mul(1_000_000);
    let ahead = nanos(at.since(context.now));
    let behind = nanos(context.now.since(at));
    WallTime(context.wall.0.saturating_add(ahead).saturating_sub(behind))
}

fn pod_status(view: &PodView, context: &Context) -> PodStatus {
    let statuses = status::containers(view, context);
    let phase = phase(view, &statuses, context);
    let number = view.report.as_ref().map_or(0, |report| report.number);
    let problem = problem(view);
    let waits = view.waits.as_ref().map(|waits| waits.why.clone());
    let evicted = evicted(view);
    let why = evicted.map(|evicted| evicted.message.clone());
    let messages: Vec<String> =
        why.into_iter().chain(waits).chain(view.problems.iter().cloned()).collect();
    PodStatus {
        phase: phase.to_owned(),
        observed_generation: number,
        conditions: conditions(view, phase, &statuses, problem, context),
        message: (!messages.is_empty()).then(|| messages.join("\n")),
        reason: evicted.map(|_| EVICTED).or(problem).or_else(|| end_cause(view)).map(str::to_owned),
        pod_ip: view.addresses.pod.first().cloned(),
        pod_ips: view.addresses.pod.iter().map(address).collect(),
        host_ip: view.addresses.host.first().cloned(),
        host_ips: view.addresses.host.iter().map(address).collect(),
        start_time: Some(view.record.created_at.rfc3339()),
        qos_class: view.spec.as_deref().map(|spec| qos_class(spec).to_owned()),
        init_container_statuses: statuses.init,
        container_statuses: statuses.main,
        roost: Some(extra(view)),
    }
}

fn address(ip: impl Into<String>) -> AddressEntry {
    AddressEntry { ip: ip.into() }
}

fn extra(view: &PodView) -> PodExtra {
    let (executor, executor_pid) = match &view.executor {
        ExecutorView::Absent => ("absent", None),
        ExecutorView::Silent => ("silent", None),
        ExecutorView::Connected { pid, build: _ } => ("connected", Some(*pid)),
    };
    let cause = match &view.record.phase {
        RecordPhase::Active | RecordPhase::Finished { .. } => None,
        RecordPhase::Terminating { cause, .. } | RecordPhase::Destroying { cause } => Some(cause),
    };
    let cause = cause.map(|cause| match cause {
        TerminationCause::Removed => "Removed",
        TerminationCause::Replaced => "Replaced",
        TerminationCause::Orphaned => "Orphaned",
        TerminationCause::Restarted => "Restarted",
        TerminationCause::Evicted => EVICTED,
    });
    PodExtra {
        executor: executor.to_owned(),
        executor_pid,
        termination_cause: cause.map(str::to_owned),
        executor_losses: view.record.losses.count.into(),
    }
}

/// Why it ends, in the words of the kubelet.
fn end_cause(view: &PodView) -> Option<&'static str> {
    let because = match &view.record.phase {
        RecordPhase::Finished { because, .. } => *because,
        RecordPhase::Active | RecordPhase::Terminating { .. } | RecordPhase::Destroying { .. } => {
            None
        }
    };
    let of_executor = || view.report.as_ref().and_then(|report| report.because);
    Some(match because.or_else(of_executor)? {
        EndCause::DeadlineExceeded => "DeadlineExceeded",
        EndCause::GroupFailed => "GroupFailed",
    })
}

/// What is wrong with the pod, in one word.
fn problem(view: &PodView) -> Option<&'static str> {
    match &view.waits {
        Some(Waits { reason: WaitReason::Room, .. }) => return Some(UNSCHEDULABLE),
        Some(Waits { reason: WaitReason::Pressure(kind), .. }) => return Some(kind.reason()),
        // Its containers say it.
        Some(Waits { who: Waiting::Pod | Waiting::Instance, .. }) => return None,
        Some(Waits { who: Waiting::Revision, .. }) | None => {}
    }
    let source = view.record.source.to_string();
    // Faults begin with their place; that another file claims the pod too names this one.
    let of_manifest = |problem: &String| problem.contains(&source);
    if view.problems.is_empty() {
        None
    } else if view.problems.iter().any(of_manifest) {
        Some(MANIFEST_INVALID)
    } else {
        Some(STEP_FAILED)
    }
}

/// It was stopped because it, or all pods together, used more than there is.
const EVICTED: &str = "Evicted";
/// There is no room for it on the node, or for what it is to become.
const UNSCHEDULABLE: &str = "Unschedulable";
/// The reason of a pod that is not started before another one is so far.
pub(super) const WAITING_FOR_POD: &str = "WaitingForPod";
/// Something is wrong in the manifest; the pod runs on as it was.
const MANIFEST_INVALID: &str = "ManifestInvalid";
/// The agent could not do what it should for the pod, and tries again.
const STEP_FAILED: &str = "StepFailed";

/// The rules are the kubelet's (`getPhase`), but that an ended pod is told by its record.
fn phase(view: &PodView, statuses: &Statuses, context: &Context) -> &'static str {
    let finished = match &view.record.phase {
        RecordPhase::Finished { outcome, .. } => Some(*outcome),
        RecordPhase::Active | RecordPhase::Terminating { .. } | RecordPhase::Destroying { .. } => {
            view.report.as_ref().and_then(|report| report.finished)
        }
    };
    match (finished, &view.report, &view.record.phase) {
        (Some(Outcome::Succeeded), _, _) => "Succeeded",
        (Some(Outcome::Failed), _, _) => "Failed",
        (None, Some(report), _) => {
            let has_all = report.containers.len() >= statuses.init.len() + statuses.main.len();
            let waits = report.containers.iter().any(|container| {
                container.status == ContainerStatus::Creating && container.last.is_none()
            });
            if report.initializing || waits || !has_all { "Pending" } else { "Running" }
        }
        (None, None, RecordPhase::Active) if status::may_run_unseen(view, context) => "Unknown",
        (None, None, RecordPhase::Active) => "Pending",
        // As the kubelet has it: until a pod is gone its phase is the one it had.
        (None, None, _) => "Running",
    }
}

fn conditions(
    view: &PodView,
    phase: &str,
    statuses: &Statuses,
    problem: Option<&str>,
    context: &Context,
) -> Vec<Condition> {
    let created_at = view.record.created_at.rfc3339();
    let condition = |kind: &str, holds: bool, since: &str| Condition {
        kind: kind.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason: None,
        message: None,
        last_transition_time: Some(since.to_owned()),
    };
    let lasting = || statuses.init.iter().filter(|it| it.is_sidecar()).chain(&statuses.main);
    let unready: Vec<&str> = lasting().filter(|c| !c.ready).map(|c| c.name.as_str()).collect();
    let ready = unready.is_empty() && !statuses.main.is_empty();
    let changes = lasting().filter_map(|c| changed_at(&c.state).or(changed_at(&c.last_state)));
    let noted = view.report.as_ref().and_then(|report| report.ready_since);
    let noted = noted.map(WallTime::rfc3339);
    // Times of one form: their order as text is their order.
    let since = noted.as_ref().or_else(|| changes.max()).unwrap_or(&created_at);
    let of_containers = |kind: &str| {
        let mut condition = condition(kind, ready, since);
        if phase == "Succeeded" {
            condition.reason = Some("PodCompleted".to_owned());
        } else if phase == "Failed" {
            condition.reason = Some("PodFailed".to_owned());
        } else if !ready {
            condition.reason = Some("ContainersNotReady".to_owned());
            condition.message =
                Some(format!("containers with unready status: [{}]", unready.join(" ")));
        }
        condition
    };
    let mut scheduled = condition("PodScheduled", true, &created_at);
    let unfit = match &view.waits {
        Some(Waits { who: Waiting::Pod, reason: WaitReason::Room, why }) => {
            Some((UNSCHEDULABLE, why))
        }
        Some(Waits { who: Waiting::Pod, reason: WaitReason::Pressure(kind), why }) => {
            Some((kind.reason(), why))
        }
        Some(_) | None => None,
    };
    if let Some((reason, why)) = unfit {
        scheduled.status = "False".to_owned();
        scheduled.reason = Some(reason.to_owned());
        scheduled.message = Some(why.clone());
    }
    let mut initialized = condition("Initialized", true, &created_at);
    let undone = incomplete(view, statuses, context);
    if !undone.is_empty() {
        initialized.status = "False".to_owned();
        initialized.reason = Some("ContainersNotInitialized".to_owned());
        initialized.message =
            Some(format!("containers with incomplete status: [{}]", undone.join(" ")));
    }
    let mut all =
        vec![scheduled, initialized, of_containers("ContainersReady"), of_containers("Ready")];
    all.extend(checks(view, statuses));
    all.extend(evicted(view).map(disrupted));
    all.extend(behind(view));
    if problem == Some(MANIFEST_INVALID) {
        all.push(Condition {
            kind: MANIFEST_INVALID.to_owned(),
            status: "True".to_owned(),
            reason: Some(MANIFEST_INVALID.to_owned()),
            message: Some(view.problems.join("\n")),
            last_transition_time: None,
        });
    }
    all
}

/// Why it is stopped although its manifest asks for it.
fn evicted(view: &PodView) -> Option<&Evicted> {
    match view.record.eviction.as_ref()? {
        Eviction::Evicted(evicted) => Some(evicted),
        Eviction::Returned { .. } => None,
    }
}

/// The condition that the kubelet sets then.
fn disrupted(evicted: &Evicted) -> Condition {
    Condition {
        kind: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some("TerminationByKubelet".to_owned()),
        message: Some(evicted.message.clone()),
        last_transition_time: Some(evicted.at.rfc3339()),
    }
}

/// Whether every check has a result, if there are checks, and which.
fn checks(view: &PodView, statuses: &Statuses) -> Option<Condition> {
    let checked = view.spec.iter().flat_map(|spec| spec.all_containers());
    let checked = checked.filter(|container| container.check.is_some());
    let results: Vec<(&str, Option<String>)> = checked
        .map(|container| {
            let name = container.name.as_str();
            let mut all = statuses.init.iter().chain(&statuses.main);
            let shown = all.find(|shown| shown.name == name);
            let check = shown.and_then(|shown| shown.roost.as_ref()?.check.as_ref());
            (name, check.and_then(super::types::CheckExtra::result))
        })
        .collect();
    if results.is_empty() {
        return None;
    }
    let is_whole = results.iter().all(|(_, result)| result.is_some());
    let texts = results
        .into_iter()
        .map(|(name, result)| format!("{name}: {}", result.as_deref().unwrap_or("no result")));
    Some(Condition {
        kind: "ChecksReported".to_owned(),
        status: if is_whole { "True" } else { "False" }.to_owned(),
        reason: (!is_whole).then(|| "NoResult".to_owned()),
        message: Some(texts.collect::<Vec<_>>().join("; ")),
        last_transition_time: None,
    })
}

/// The init containers that the others wait for, or waited for in vain.
fn incomplete<'a>(view: &PodView, statuses: &'a Statuses, context: &Context) -> Vec<&'a str> {
    let initializes = match (&view.record.phase, &view.report) {
        (RecordPhase::Finished { .. }, _) => {
            statuses.main.iter().any(|it| it.state.waiting.is_some())
        }
        (_, Some(report)) => report.initializing,
        (RecordPhase::Active, None) => !status::may_run_unseen(view, context),
        (RecordPhase::Terminating { .. } | RecordPhase::Destroying { .. }, None) => false,
    };
    let is_done = |it: &ContainerShown| if it.is_sidecar() { it.started } else { it.ready };
    let undone = statuses.init.iter().filter(|it| initializes && !is_done(it));
    undone.map(|it| it.name.as_str()).collect()
}

/// Says so if the pod is not what its manifest asks for, although that is without fault.
fn behind(view: &PodView) -> Option<Condition> {
    let (reason, message) = match (&view.waits, view.record.held) {
        (Some(Waits { who: who @ (Waiting::Revision | Waiting::Instance), reason, why }), _) => {
            let meanwhile = match who {
                Waiting::Instance => "what runs of it goes on",
                Waiting::Pod | Waiting::Revision => "the revision before it goes on",
            };
            let reason = match reason {
                WaitReason::Room => UNSCHEDULABLE.to_owned(),
                WaitReason::Pressure(kind) => kind.reason().to_owned(),
                WaitReason::Order => WAITING_FOR_POD.to_owned(),
                WaitReason::Config => CONFIG_ERROR.to_owned(),
                WaitReason::Images { .. } => "Pulling".to_owned(),
                WaitReason::Trouble(trouble) => trouble.to_string(),
            };
            (reason, format!("{why}; {meanwhile}"))
        }
        (_, Some(held)) => (
            "RolledBack".to_owned(),
            format!(
                "rolled back to revision {}; waiting for a change of {}, or for `roost rollback {} \
                 --release`",
                held.to, view.record.source, view.record.name
            ),
        ),
        (Some(Waits { who: Waiting::Pod, .. }) | None, None) => return None,
    };
    Some(Condition {
        kind: "UpToDate".to_owned(),
        status: "False".to_owned(),
        reason: Some(reason),
        message: Some(message),
        last_transition_time: Some(view.record.accepted.at.rfc3339()),
    })
}

/// When a container got into the state it is in, as far as that tells.
fn changed_at(state: &ContainerState) -> Option<&String> {
    let running = state.running.as_ref().map(|running| &running.started_at);
    running.or_else(|| state.terminated.as_ref()?.finished_at.as_ref())
}

/// Of processors and memory.
fn asks_for_nothing(resources: Resources) -> bool {
    let (storage_request_bytes, storage_limit_bytes) = (None, None);
    Resources { storage_request_bytes, storage_limit_bytes, ..resources } == Resources::default()
}

/// <https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/>.
fn qos_class(spec: &PodSpec) -> &'static str {
    // What the pod asks for as a whole counts alone.
    let whole = Some(spec.resources).filter(|of| *of != Resources::default());
    let each = || spec.all_containers().map(|container| container.resources);
    let resources = || whole.into_iter().chain(each().filter(|_| whole.is_none()));
    let guaranteed = |resources: Resources| {
        let Resources {
            cpu_request_milli,
            cpu_limit_milli,
            memory_request_bytes,
            memory_limit_bytes,
            // Storage is no matter of quality.
            storage_request_bytes: _,
            storage_limit_bytes: _,
        } = resources;
        let whole = |request: Option<u64>, limit: Option<u64>| {
            limit.is_some_and(|limit| limit > 0 && request.unwrap_or(limit) == limit)
        };
        whole(cpu_request_milli, cpu_limit_milli) && whole(memory_request_bytes, memory_limit_bytes)
    };
    if resources().all(asks_for_nothing) {
        "BestEffort"
    } else if resources().all(guaranteed) {
        "Guaranteed"
    } else {
        "Burstable"
    }
}
