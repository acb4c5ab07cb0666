//! `/metrics`: everything that can be told of the node in numbers, for Prometheus.
//!
//! Labels are names of pods and containers that exist, classes of paths, actions and phases:
//! their number is bounded by that of pods. Of several instances of a pod the youngest counts.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::exposition::{self, Exposition, Kind};
use super::kubernetes::types::ContainerStatus;
use super::kubernetes::{Context, pod};
use super::process::Process;
use super::routes::Shared;
use crate::agent::service::{
    ContainerUsage, Detail, EvictionCause, ExecutorView, PodView, Pressure, Readings, Snapshot,
    Traffic,
};
use crate::metrics::{Metrics, RequestKey};

/// Phases of pods; all are shown, so that a count that goes to zero does not just end.
const PHASES: [&str; 5] = ["Pending", "Running", "Succeeded", "Failed", "Unknown"];
/// States of containers, the same way.
const STATES: [&str; 3] = ["waiting", "running", "terminated"];
/// What a request is counted as that no path is for.
const NO_PATH: &str = "other";

/// What is told of the interfaces of pods: a family, its help, and the number.
type Passed = (&'static str, &'static str, fn(&Traffic) -> u64);
const PASSED: [Passed; 8] = [
    ("roost_pod_network_receive_bytes_total", "Bytes received by the pod's interface.", |it| {
        it.received.bytes
    }),
    ("roost_pod_network_receive_packets_total", "Packets received by the pod's interface.", |it| {
        it.received.packets
    }),
    (
        "roost_pod_network_receive_errors_total",
        "Faulty packets received by the pod's interface.",
        |it| it.received.errors,
    ),
    (
        "roost_pod_network_receive_dropped_total",
        "Packets received that there was no room for, by the pod's interface.",
        |it| it.received.dropped,
    ),
    ("roost_pod_network_transmit_bytes_total", "Bytes sent by the pod's interface.", |it| {
        it.sent.bytes
    }),
    ("roost_pod_network_transmit_packets_total", "Packets sent by the pod's interface.", |it| {
        it.sent.packets
    }),
    (
        "roost_pod_network_transmit_errors_total",
        "Faulty packets sent by the pod's interface.",
        |it| it.sent.errors,
    ),
    (
        "roost_pod_network_transmit_dropped_total",
        "Packets sent that there was no room for, by the pod's interface.",
        |it| it.sent.dropped,
    ),
];

/// Answers a scrape.
pub(super) async fn answer(State(shared): State<Arc<Shared>>) -> Response {
    let snapshot = shared.service.snapshot();
    let readings = shared.service.usage(&snapshot, Detail::Store).await;
    let context = shared.context(&snapshot);
    let process = Process::own();
    let text = text(&snapshot, &readings, shared.service.metrics(), &context, &process);
    ([(CONTENT_TYPE, exposition::CONTENT_TYPE)], text).into_response()
}

/// Counts a request.
pub(super) async fn count(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let begun = std::time::Instant::now();
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let method = match *request.method() {
        Method::GET => "GET",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        _ => "other",
    };
    let response = next.run(request).await;
    let path = matched.as_ref().map_or(NO_PATH, MatchedPath::as_str);
    let metrics = shared.service.metrics();
    let code = response.status().as_u16();
    metrics.requests.get(RequestKey { path: path.to_owned(), method, code }).add_one();
    metrics.request_seconds_of(path).observe(begun.elapsed());
    response
}

/// All of it.
fn text(
    snapshot: &Snapshot,
    readings: &Readings,
    metrics: &Metrics,
    context: &Context,
    process: &Process,
) -> String {
    let mut out = Exposition::default();
    let pods = youngest(snapshot);
    let outlines: Vec<Outline> =
        pods.iter().map(|view| (view.as_ref(), pod::outline(view, context))).collect();
    agent(&mut out, snapshot, context);
    own_process(&mut out, snapshot, process);
    counts(&mut out, snapshot, &outlines);
    containers(&mut out, &outlines);
    used(&mut out, readings, &pods);
    passed(&mut out, readings, &pods);
    ended_by_memory(&mut out, metrics, &pods);
    evictions(&mut out, metrics);
    decisions(&mut out, metrics);
    store(&mut out, readings, metrics);
    requests(&mut out, metrics);
    out.into_text()
}

/// A pod, its phase, and where its containers stand.
type Outline<'a> = (&'a PodView, (&'static str, Vec<ContainerStatus>));

/// The youngest instance of each pod: they are ordered by name, then age.
fn youngest(snapshot: &Snapshot) -> Vec<&Arc<PodView>> {
    let mut pods: Vec<&Arc<PodView>> = Vec::with_capacity(snapshot.pods.len());
    for pod in &snapshot.pods {
        if pods.last().is_some_and(|last| last.record.name == pod.record.name) {
            pods.pop();
        }
        pods.push(pod);
    }
    pods
}

fn agent(out: &mut Exposition, snapshot: &Snapshot, context: &Context) {
    let help = "The agent's build; always 1.";
    out.family("roost_build_info", Kind::Gauge, help);
    out.sample(&[("version", &snapshot.agent.version)], 1);
    let help = "How long the agent has been running.";
    let up = std::time::Duration::from(context.now.since(snapshot.agent.started));
    out.single("roost_agent_uptime_seconds", Kind::Gauge, help, up.as_secs_f64());
    let help = "Whether the agent has taken up every pod that it found and can write its store.";
    let ready = u8::from(super::health::is_ready(snapshot));
    out.single("roost_agent_ready", Kind::Gauge, help, ready);
    let help = "Whether the configuration in force is what the file says.";
    let valid = u8::from(snapshot.agent.config_fault.is_none());
    out.single("roost_config_valid", Kind::Gauge, help, valid);
}

/// The names that every client library of Prometheus has for its process.
fn own_process(out: &mut Exposition, snapshot: &Snapshot, process: &Process) {
    let started = std::time::Duration::from_nanos(snapshot.agent.started_at.0).as_secs_f64();
    let help = "When the agent was started, in seconds since 1970.";
    out.single("process_start_time_seconds", Kind::Gauge, help, started);
    if let Some(seconds) = process.cpu_seconds {
        let help = "Processor time of the agent.";
        out.single("process_cpu_seconds_total", Kind::Counter, help, seconds);
    }
    if let Some(bytes) = process.resident_bytes {
        let help = "Memory of the agent.";
        out.single("process_resident_memory_bytes", Kind::Gauge, help, bytes);
    }
    if let Some(open) = process.open_fds {
        out.single("process_open_fds", Kind::Gauge, "Open descriptors of the agent.", open);
    }
    if let Some(limit) = process.max_fds {
        let help = "Most descriptors the agent may have open.";
        out.single("process_max_fds", Kind::Gauge, help, limit);
    }
}

fn counts(out: &mut Exposition, snapshot: &Snapshot, outlines: &[Outline<'_>]) {
    out.family("roost_pods", Kind::Gauge, "Pods by phase.");
    for phase in PHASES {
        let count = outlines.iter().filter(|(_, (found, _))| *found == phase).count();
        out.sample(&[("phase", phase)], count);
    }
    let answers = |view: &&Arc<PodView>| matches!(view.executor, ExecutorView::Connected { .. });
    let executors = snapshot.pods.iter().filter(answers).count();
    out.single("roost_executors", Kind::Gauge, "Executors that answer.", executors);
    let alarms = snapshot.alarms.len() + usize::from(snapshot.agent.config_fault.is_some());
    let help = "Alarms: manifest directories or a configuration that can't be used.";
    out.single("roost_alarms", Kind::Gauge, help, alarms);
    let faults = snapshot.notices.values().map(|notices| notices.iter().filter(|it| it.is_fault));
    let faults: Vec<usize> = faults.map(Iterator::count).collect();
    let faulty = faults.iter().filter(|count| **count > 0).count();
    out.family("roost_node_pressure", Kind::Gauge, "Whether the node runs out of something.");
    let Pressure { memory, disk } = &snapshot.pressure;
    for (resource, is_short) in [("memory", memory.is_some()), ("disk", disk.is_some())] {
        out.sample(&[("resource", resource)], u8::from(is_short));
    }
    let help = "Manifest files in which something is wrong.";
    out.single("roost_manifest_files_faulty", Kind::Gauge, help, faulty);
    let faults: usize = faults.iter().sum();
    let help = "Things that are wrong in manifest files.";
    out.single("roost_manifest_faults", Kind::Gauge, help, faults);
}

fn containers(out: &mut Exposition, outlines: &[Outline<'_>]) {
    let help = "Runs of the container after its first.";
    out.family("roost_container_restarts_total", Kind::Counter, help);
    for (view, (_, containers)) in outlines {
        for container in containers {
            let labels = labels(view, &container.name);
            out.sample(&labels, container.restart_count);
        }
    }
    out.family("roost_container_state", Kind::Gauge, "1 for the state the container is in.");
    for (view, (_, containers)) in outlines {
        for container in containers {
            let [namespace, pod, name] = labels(view, &container.name);
            let found = &container.state;
            let is = [found.waiting.is_some(), found.running.is_some(), found.terminated.is_some()];
            for (state, is) in STATES.into_iter().zip(is) {
                out.sample(&[namespace, pod, name, ("state", state)], u8::from(is));
            }
        }
    }
    let help = "Most memory that the container may use.";
    out.family("roost_container_memory_limit_bytes", Kind::Gauge, help);
    for (view, _) in outlines {
        for container in view.spec.iter().flat_map(|spec| spec.all_containers()) {
            if let Some(limit) = container.resources.memory_limit_bytes {
                out.sample(&labels(view, container.name.as_str()), limit);
            }
        }
    }
}

fn labels<'a>(view: &'a PodView, container: &'a str) -> [(&'static str, &'a str); 3] {
    let name = &view.record.name;
    [("namespace", name.namespace.as_str()), ("pod", name.name.as_str()), ("container", container)]
}

/// What was read from cgroups, of the pods that are shown.
fn used(out: &mut Exposition, readings: &Readings, pods: &[&Arc<PodView>]) {
    let shown: BTreeSet<_> = pods.iter().map(|view| view.record.id).collect();
    let read: Vec<(&PodView, &ContainerUsage)> = readings
        .pods
        .iter()
        .filter(|(view, _)| shown.contains(&view.record.id))
        .flat_map(|(view, containers)| containers.iter().map(|used| (view.as_ref(), used)))
        .collect();
    let help = "Processor time of the container's run.";
    out.family("roost_container_cpu_seconds_total", Kind::Counter, help);
    for (view, used) in &read {
        let seconds = std::time::Duration::from_micros(used.cpu_us).as_secs_f64();
        out.sample(&labels(view, used.name.as_str()), seconds);
    }
    let help = "Memory of the container without what can be dropped easily.";
    out.family("roost_container_memory_working_set_bytes", Kind::Gauge, help);
    for (view, used) in &read {
        if let Some(bytes) = used.working_set_bytes {
            out.sample(&labels(view, used.name.as_str()), bytes);
        }
    }
}

/// What has gone through the interfaces of the pods that are shown.
fn passed(out: &mut Exposition, readings: &Readings, pods: &[&Arc<PodView>]) {
    let shown: BTreeSet<_> = pods.iter().map(|view| view.record.id).collect();
    let of_pods = readings.traffic.iter().filter(|(view, _)| shown.contains(&view.record.id));
    let read: Vec<(&PodView, &Traffic)> =
        of_pods.flat_map(|(view, all)| all.iter().map(|it| (view.as_ref(), it))).collect();
    for (family, help, count) in PASSED {
        out.family(family, Kind::Counter, help);
        for (view, traffic) in &read {
            let [namespace, pod, _] = labels(view, "");
            let labels = [namespace, pod, ("interface", traffic.interface.as_str())];
            out.sample(&labels, count(traffic));
        }
    }
}

fn ended_by_memory(out: &mut Exposition, metrics: &Metrics, pods: &[&Arc<PodView>]) {
    let counted = &metrics.out_of_memory;
    counted.retain(|(id, _)| pods.iter().any(|view| view.record.id == *id));
    let help = "Runs of the container that ended because memory ran out, seen by this agent.";
    out.family("roost_container_oom_kills_total", Kind::Counter, help);
    for ((id, container), count) in counted.all() {
        if let Some(view) = pods.iter().find(|view| view.record.id == id) {
            out.sample(&labels(view, container.as_str()), count.get());
        }
    }
}

fn evictions(out: &mut Exposition, metrics: &Metrics) {
    let help = "Evictions of pods by this agent, by what for.";
    out.family("roost_evictions_total", Kind::Counter, help);
    for (cause, word) in [
        (EvictionCause::Memory, "memory"),
        (EvictionCause::Disk, "disk"),
        (EvictionCause::Limit, "limit"),
    ] {
        out.sample(&[("cause", word)], metrics.evictions.get(cause).get());
    }
}

fn decisions(out: &mut Exposition, metrics: &Metrics) {
    let help = "How long a new pod took from the sight of its manifest until its containers ran.";
    out.family("roost_pod_start_duration_seconds", Kind::Histogram, help);
    out.histogram(&[], &metrics.starts.view());
    let help = "How long a decision on all pods took.";
    out.family("roost_reconcile_duration_seconds", Kind::Histogram, help);
    out.histogram(&[], &metrics.reconciles.view());
    let steps = metrics.steps.all();
    out.family("roost_steps_total", Kind::Counter, "Steps for pods, by action.");
    for (action, step) in &steps {
        out.sample(&[("action", action)], step.all.get());
    }
    out.family("roost_step_failures_total", Kind::Counter, "Steps that failed, by action.");
    for (action, step) in &steps {
        out.sample(&[("action", action)], step.failed.get());
    }
    let help = "Looks at manifest directories although nothing told of a change.";
    out.single("roost_watcher_relists_total", Kind::Counter, help, metrics.watcher.relists.get());
    let help = "Looks at manifest directories because the kernel told of a change.";
    out.single("roost_watcher_hints_total", Kind::Counter, help, metrics.watcher.hints.get());
}

fn store(out: &mut Exposition, readings: &Readings, metrics: &Metrics) {
    let help = "How long a commit of the store took, its sync of the disk included.";
    out.family("roost_store_commit_duration_seconds", Kind::Histogram, help);
    out.histogram(&[], &metrics.commits.view());
    let help = "Commits of the store that failed.";
    let failed = metrics.commit_failures.get();
    out.single("roost_store_commit_failures_total", Kind::Counter, help, failed);
    let help = "Size of the store's files.";
    out.single("roost_store_size_bytes", Kind::Gauge, help, readings.store_bytes);
}

fn requests(out: &mut Exposition, metrics: &Metrics) {
    let help = "Requests to the API, by class of paths, method and status.";
    out.family("roost_api_requests_total", Kind::Counter, help);
    for (RequestKey { path, method, code }, count) in metrics.requests.all() {
        let code = code.to_string();
        out.sample(&[("path", &path), ("method", method), ("code", &code)], count.get());
    }
    let help = "Until the head of an answer of the API was there, by class of paths.";
    out.family("roost_api_request_duration_seconds", Kind::Histogram, help);
    for (path, histogram) in metrics.request_seconds.all() {
        out.histogram(&[("path", &path)], &histogram.view());
    }
}

#[cfg(test)]
mod tests;
