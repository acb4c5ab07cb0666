//! Pods as an agent shows them, and an agent that shows them, for tests.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::kubernetes::Context;
use crate::agent::service::{
    Accepted, Addresses, AgentView, ContainerReport, ContainerStatus, EventKind, EventRecord,
    ExecutorView, Exit, Goal, LastRun, Losses, ManifestFile, Node, PodRecord, PodReport, PodView,
    RecordPhase, Request, Requests, Service, Snapshot,
};
use crate::clock::{BootTime, WallTime};
use crate::ids::{Attempt, PodId};
use crate::manifest::file;
use crate::state::paths::Paths;

/// 2023-11-14T22:13:20Z.
pub(crate) const AT: WallTime = WallTime(1_700_000_000_000_000_000);
/// The boot of all samples.
pub(crate) const BOOT: &str = "7c9a6f52-0d1e-4b7e-9d27-8f5a3b1c2d4e";

const MANIFEST: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: NAME
  namespace: NAMESPACE
  labels: {app: hello}
  annotations: {team: a, roost/pids-limit: "100"}
spec:
  hostname: host
  hostPID: true
  terminationGracePeriodSeconds: 5
  volumes:
  - {name: disk, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 3Mi}}
  - {name: etc, hostPath: {path: /etc, type: Directory}}
  containers:
  - name: web
    command: [/bin/sh, -c]
    args: ["sleep 1"]
    env: [{name: A, value: "b c"}]
    workingDir: /srv
    resources: {requests: {cpu: 500m, memory: 1Mi}, limits: {cpu: "2", memory: 3000000}}
    securityContext: {runAsUser: 7, runAsGroup: 8, readOnlyRootFilesystem: true}
    volumeMounts:
    - {name: disk, mountPath: /disk}
    - {name: etc, mountPath: /etc, readOnly: true}
  - name: sidecar
    command: [/bin/true]
"#;

/// Seconds after [`AT`].
pub(crate) fn later(seconds: u64) -> WallTime {
    WallTime(AT.0 + seconds * 1_000_000_000)
}

/// What is known of the world when samples are shown: 100 s after [`AT`], at 1000 s of the boot.
pub(crate) fn context() -> Context {
    Context {
        now: BootTime(1_000_000),
        wall: later(100),
        boot: BOOT.parse().unwrap(),
        agent_started_at: AT,
        node: "gateway".to_owned(),
    }
}

/// A run that ended.
pub(crate) fn ended(run: u32, exit: Exit) -> LastRun {
    let started_at = (!matches!(exit, Exit::NotStarted(_))).then(|| later(10));
    LastRun { attempt: Attempt(run), started_at, finished_at: later(20), exit, message: None }
}

/// What an executor says of a container.
pub(crate) fn report(
    name: &str,
    run: u32,
    status: ContainerStatus,
    last: Option<LastRun>,
) -> ContainerReport {
    let name = name.parse().unwrap();
    let attempt = Some(Attempt(run));
    ContainerReport { name, attempt, status, last, update_fault: None, health: None }
}

/// A container that runs.
pub(crate) fn running(name: &str, run: u32, last: Option<LastRun>) -> ContainerReport {
    report(name, run, ContainerStatus::Running { pid: 4000 + run, started_at: later(30) }, last)
}

/// A pod of two containers, `web` and `sidecar`, both of which run. Each number is an instance.
pub(crate) fn pod(name: &str, number: u32) -> PodView {
    let name: crate::ids::PodName = name.parse().unwrap();
    let text =
        MANIFEST.replace("NAMESPACE", name.namespace.as_str()).replace("NAME", name.name.as_str());
    let parsed = file::parse(text.as_bytes());
    let parsed = parsed.pods.first().unwrap_or_else(|| panic!("{:?}", parsed.diagnostics));
    let digest = parsed.revision.digest();
    PodView {
        version: u64::from(number),
        record: PodRecord {
            id: PodId::from_random(u128::from(number)),
            name,
            source: ManifestFile {
                directory: "/etc/roost/pods.d".to_owned(),
                file: "hello.yaml".to_owned(),
            },
            accepted: Accepted { number: 2, digest, shared: parsed.revision.shared, at: AT },
            history: Vec::new(),
            phase: RecordPhase::Active,
            created_at: AT,
            losses: Losses::default(),
            held: None,
            trial: None,
            successor: None,
            eviction: None,
        },
        spec: Some(parsed.spec.clone()),
        report: Some(PodReport {
            number: 2,
            digest,
            goal: Goal::Run,
            finished: None,
            because: None,
            ready_since: None,
            initializing: false,
            containers: vec![running("sidecar", 0, None), running("web", 0, None)],
        }),
        executor: ExecutorView::Connected { pid: 3999, build: "b".to_owned() },
        addresses: Addresses::default(),
        problems: Vec::new(),
        waits: None,
    }
}

/// The pod with its containers reported like this.
pub(crate) fn with_report(mut view: PodView, containers: Vec<ContainerReport>) -> PodView {
    if let Some(report) = &mut view.report {
        report.containers = containers;
    }
    view
}

/// An event about the pod.
pub(crate) fn event(view: &PodView, reason: &str, message: &str) -> EventRecord {
    let about = Some((&view.record.name, Some(view.record.id)));
    EventRecord::once(later(40), about, EventKind::Normal, reason, message)
}

/// Everything, with these pods.
pub(crate) fn snapshot(version: u64, pods: Vec<PodView>, root: &Path) -> Snapshot {
    Snapshot {
        version,
        recovered: true,
        unready: None,
        pods: pods.into_iter().map(Arc::new).collect(),
        contested: Vec::new(),
        alarms: Vec::new(),
        notices: BTreeMap::new(),
        documents: Default::default(),
        passed_over: Vec::new(),
        node: Node::default(),
        requested: Requests::default(),
        pressure: Default::default(),
        events: Arc::default(),
        agent: AgentView {
            version: "0.1.0".to_owned(),
            started_at: AT,
            started: BootTime(900_000),
            store: "sound".to_owned(),
            store_fault: None,
            config_fault: None,
            restart_for: Vec::new(),
            log_node_bytes: 1 << 30,
            image_gc: crate::config::ImageGc::default(),
            pressure: crate::config::PressureLimits::default(),
            cgroups: "cgroup v2".to_owned(),
            cgroup: "roost-test".to_owned(),
            directories: vec!["/etc/roost/pods.d".to_owned()],
            paths: Paths::under(root),
        },
    }
}

/// The other ends of a [`Service`].
pub(crate) struct Fake {
    pub(crate) service: Service,
    pub(crate) snapshots: watch::Sender<Arc<Snapshot>>,
    pub(crate) requests: mpsc::Receiver<Request>,
}

/// An agent that shows what it is told to.
pub(crate) fn fake(first: Snapshot) -> Fake {
    let (snapshots, shown) = watch::channel(Arc::new(first));
    let (sender, requests) = mpsc::channel(1);
    Fake { service: Service::new(shown, sender), snapshots, requests }
}
