use super::*;
use std::collections::BTreeMap;

use crate::clock::{BootTime, WallTime};
use crate::executor::boot::LogLimits;
use crate::executor::machine::{Event, PodMachine};
use crate::executor::protocol::{Goal, WantedPod};
use crate::manifest::pod::{
    BackoffPolicy, ContainerSpec, HostNamespaces, PodSpec, Resources, RestartPolicy,
};
use crate::state::paths::PodPaths;

/// What the first format looked like. Never changed: executors of that time may still run.
const GOLDEN: &str = include_str!("../../../state/golden/v1/handover.json");

fn pod(container: &ContainerName) -> PodSpec {
    PodSpec {
        name: "shop/web".parse().unwrap(),
        labels: BTreeMap::new(),
        node_selector: Default::default(),
        security: Default::default(),
        names: Default::default(),
        network: Default::default(),
        image_pull_secrets: Vec::new(),
        restart_on_config_change: false,
        config: None,
        annotations: BTreeMap::new(),
        hostname: "web".into(),
        host: HostNamespaces::default(),
        share_process_namespace: true,
        restart_policy: RestartPolicy::Always,
        termination_grace: crate::clock::Millis(30_000),
        active_deadline: None,
        termination_policy: Default::default(),
        backoff: BackoffPolicy::default(),
        pids_limit: 100,
        resources: Default::default(),
        after: Vec::new(),
        priority: 0,
        rollback_after: None,
        volumes: Vec::new(),
        init_containers: vec![],
        containers: vec![ContainerSpec {
            name: container.clone(),
            image: None,
            command: vec!["/bin/true".into()],
            args: Vec::new(),
            env: Vec::new(),
            env_from: Vec::new(),
            working_dir: None,
            resources: Resources::default(),
            user: Some(0),
            group: Some(0),
            read_only_root: true,
            security: Default::default(),
            mounts: Vec::new(),
            ports: Vec::new(),
            liveness: None,
            readiness: None,
            startup: None,
            check: None,
            restart: None,
            lifecycle: Default::default(),
            termination: Default::default(),
            restarts_for: Default::default(),
        }],
    }
}

fn example() -> Handover {
    let container: ContainerName = "web".parse().unwrap();
    let spec = pod(&container);
    let mut machine = PodMachine::new(BTreeMap::new(), BootTime(1));
    let wanted = WantedPod { number: 3, goal: Goal::Run, spec: spec.into() };
    machine.step(Event::Wanted(wanted), BootTime(2));
    let attempt = Attempt(0);
    let (at, pid) = (WallTime(5), 42);
    machine.step(Event::Started { container: container.clone(), attempt, pid, at }, BootTime(3));
    let [data, runtime, logs] = ["/d", "/r", "/l"].map(Into::into);
    let cgroups = r#"{"unified":{"directory":"/c","controllers":["Memory"]},"legacy":[]}"#;
    Handover {
        format: FORMAT,
        boot: Boot {
            id: "123e4567-e89b-42d3-a456-426614174000".parse().unwrap(),
            name: "shop/web".parse().unwrap(),
            paths: PodPaths { data, runtime, logs },
            cgroups: serde_json::from_str(cgroups).unwrap(),
            masked: vec!["/var/lib/roost".into()],
            logs: LogLimits::default(),
        },
        machine,
        network: None,
        native: Some(
            serde_json::from_str::<NativeState>(r#"{"reaper":{"pid":41,"pidfd":9}}"#).unwrap(),
        ),
        listener: 3,
        sessions: Vec::new(),
        connection: Some(ConnectionState { socket: 12, received: vec![1, 2], unsent: vec![3] }),
        runs: vec![
            RunState {
                container: container.clone(),
                attempt,
                process: ProcessState::Alive { pid, pidfd: 15 },
                stdout: Some(16),
                stderr: None,
                log: LogState::default(),
            },
            RunState {
                container: "gone".parse().unwrap(),
                attempt: Attempt(7),
                process: ProcessState::Ended(Exit::Code(1)),
                stdout: None,
                stderr: None,
                log: LogState::default(),
            },
        ],
    }
}

#[test]
fn the_first_format_is_still_understood() {
    let mut old = Handover::parse(GOLDEN.as_bytes()).unwrap();
    // What came later is found out by the first step, and asks for nothing.
    assert_eq!(old.machine.step(Event::AnswersLost, BootTime(2)), []);
    assert_eq!(old, example());
}

#[test]
fn what_is_written_is_read() {
    let file = example().write().unwrap();
    assert_eq!(Handover::read(file).unwrap(), example());
}

#[test]
fn a_newer_format_is_refused_whatever_else_is_in_it() {
    let newer = Handover::parse(b"{\"format\":2,\"more\":[]}");
    assert!(matches!(newer, Err(HandoverError::Newer { found: 2 })));
    assert!(matches!(Handover::parse(b"{}"), Err(HandoverError::Garbage(_))));
}
