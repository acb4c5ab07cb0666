use std::sync::Arc;

use super::*;
use crate::agent::service::{
    CONFIG_ERROR, ContainerStatus, ExecutorView, Exit, Moment, Outcome, PodView, RecordPhase,
    TerminationCause, WaitReason, Waiting, Waits,
};
use crate::api::samples::{BOOT, context, ended, event as sample_event, later};
use crate::api::samples::{pod as sample, report, running, with_report};
use crate::clock::Millis;
use crate::manifest::file;

/// What changes from sample to sample: the specification is looked at once.
fn shown(view: &PodView) -> String {
    let mut pod = pod::of(view, &context());
    pod.spec = serde_json::Value::Null;
    pod.metadata.labels.clear();
    serde_json::to_string_pretty(&pod).unwrap()
}

fn backing_off(run: u32, exit: Exit) -> crate::agent::service::ContainerReport {
    let status =
        ContainerStatus::BackingOff { until: BootTime(1_003_200), delay: Millis::from_secs(8) };
    report("web", run, status, Some(ended(run, exit)))
}

#[test]
fn a_running_pod_is_shown_whole() {
    let pod = pod::of(&sample("shop/hello", 1), &context());
    insta::assert_snapshot!(serde_json::to_string_pretty(&pod).unwrap());
}

#[test]
fn a_container_that_backs_off_says_for_how_long() {
    let containers = vec![backing_off(3, Exit::Code(2)), running("sidecar", 0, None)];
    insta::assert_snapshot!(shown(&with_report(sample("hello", 1), containers)));
}

#[test]
fn a_container_that_was_killed_for_memory_says_so() {
    let containers = vec![
        running("web", 1, Some(ended(0, Exit::OutOfMemory))),
        report("sidecar", 0, ContainerStatus::Terminated, Some(ended(0, Exit::Signal(15)))),
    ];
    insta::assert_snapshot!(shown(&with_report(sample("hello", 1), containers)));
}

#[test]
fn a_pod_that_is_through_is_told_by_its_record() {
    let mut view = sample("hello", 1);
    let containers = [
        ("web".parse().unwrap(), ended(0, Exit::Code(0))),
        ("sidecar".parse().unwrap(), ended(4, Exit::Unknown)),
    ];
    let outcome = Outcome::Failed;
    view.record.phase =
        RecordPhase::Finished { outcome, because: None, containers: containers.into() };
    view.report = None;
    view.executor = ExecutorView::Absent;
    insta::assert_snapshot!(shown(&view));
}

#[test]
fn a_pod_that_ends_says_when_it_is_killed() {
    let status = ContainerStatus::Stopping { pid: 4000, started_at: later(30) };
    let containers = vec![report("web", 0, status, None), running("sidecar", 0, None)];
    let mut view = with_report(sample("hello", 1), containers);
    view.record.phase = RecordPhase::Terminating {
        cause: TerminationCause::Replaced,
        grace: Millis::from_secs(5),
        kill_at: Moment { boot: BOOT.parse().unwrap(), at: BootTime(1_004_000) },
    };
    insta::assert_snapshot!(shown(&view));
}

#[test]
fn a_pod_with_a_faulty_manifest_runs_on_and_says_what_is_wrong() {
    let mut view = sample("hello", 1);
    let fault = "/etc/roost/pods.d/hello.yaml:3:1: error: spec.containers: is missing\n  help: x";
    view.problems = vec![fault.to_owned(), "can't do something".to_owned()];
    insta::assert_snapshot!(shown(&view));
}

#[test]
fn an_event_names_its_pod_and_keeps_its_name_when_it_happens_again() {
    let mut record = sample_event(&sample("shop/hello", 1), "Started", "web was started");
    let once = event::of(&record, &context());
    insta::assert_snapshot!(serde_json::to_string_pretty(&once).unwrap());
    record.count = 2;
    record.at = later(50);
    let twice = event::of(&record, &context());
    assert_eq!(twice.metadata.name, once.metadata.name);
    record.message = "sidecar was started".to_owned();
    assert_ne!(event::of(&record, &context()).metadata.name, once.metadata.name);
}

#[test]
fn the_specification_reads_back_as_the_same() {
    let specs = concat!(env!("CARGO_MANIFEST_DIR"), "/specs");
    let mut count = 0;
    let samples = std::fs::read_dir(specs).unwrap().map(|entry| entry.unwrap().path());
    for path in samples.filter(|path| path.is_file() && !path.ends_with("pod.schema.json")) {
        for parsed in file::parse(&std::fs::read(&path).unwrap()).pods {
            let mut view = sample("hello", 1);
            view.record.name = parsed.name.clone();
            view.spec = Some(parsed.spec.clone());
            let pod = pod::of(&view, &context());
            let text = serde_json::json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": pod.metadata.name,
                    "namespace": pod.metadata.namespace,
                    "labels": pod.metadata.labels,
                    "annotations": parsed.spec.annotations,
                },
                "spec": pod.spec,
            });
            let again = file::parse(text.to_string().as_bytes());
            assert_eq!(again.pods.len(), 1, "{text}: {:?}", again.diagnostics);
            assert_eq!(again.pods[0].spec, parsed.spec, "{}", path.display());
            count += 1;
        }
    }
    assert!(count > 5);
}

#[test]
fn the_phase_follows_the_containers_and_the_record() {
    let check = |view: &PodView, expected: &str| {
        assert_eq!(pod::of(view, &context()).status.phase, expected);
    };
    let mut creating = report("web", 0, ContainerStatus::Creating, None);
    creating.attempt = None;
    let side = || running("sidecar", 0, None);
    let hello = || sample("hello", 1);
    check(&with_report(hello(), vec![creating, side()]), "Pending");
    check(&with_report(hello(), vec![side()]), "Pending");
    let again = report("web", 1, ContainerStatus::Creating, Some(ended(0, Exit::Code(1))));
    check(&with_report(hello(), vec![again, side()]), "Running");
    let mut finished = hello();
    if let Some(report) = &mut finished.report {
        report.finished = Some(Outcome::Succeeded);
    }
    check(&finished, "Succeeded");

    let mut silent = hello();
    silent.report = None;
    silent.executor = ExecutorView::Silent;
    check(&silent, "Pending");
    silent.record.created_at = WallTime(context().agent_started_at.0 - 1);
    check(&silent, "Unknown");
    silent.record.phase = RecordPhase::Destroying { cause: TerminationCause::Removed };
    check(&silent, "Running");
}

#[test]
fn why_a_container_waits_and_how_it_ended_is_said_in_kubernetes_words() {
    let state = |report| {
        let view = with_report(sample("hello", 1), vec![report]);
        pod::of(&view, &context()).status.container_statuses.remove(0)
    };
    let not_started = state(backing_off(0, Exit::NotStarted("no such file".to_owned())));
    let waiting = not_started.state.waiting.unwrap();
    assert_eq!(waiting.reason, "RunContainerError");
    assert!(waiting.message.unwrap().starts_with("no such file; back-off 8s"));
    let last = not_started.last_state.terminated.unwrap();
    assert_eq!((last.reason.as_str(), last.exit_code), ("StartError", 128));

    let why = format!("{CONFIG_ERROR}: no such profile");
    let waiting = state(backing_off(0, Exit::NotStarted(why))).state.waiting.unwrap();
    assert_eq!(waiting.reason, "CreateContainerConfigError");
    assert!(waiting.message.unwrap().starts_with("no such profile; back-off 8s"));

    for (exit, reason, code) in [
        (Exit::Code(0), "Completed", 0),
        (Exit::Code(3), "Error", 3),
        (Exit::Signal(9), "Error", 137),
        (Exit::OutOfMemory, "OOMKilled", 137),
        (Exit::Unknown, "ContainerStatusUnknown", 137),
    ] {
        let shown = state(report("web", 5, ContainerStatus::Terminated, Some(ended(5, exit))));
        let found = shown.state.terminated.unwrap();
        assert_eq!((found.reason.as_str(), found.exit_code), (reason, code));
        assert_eq!(shown.last_state, types::ContainerState::default());
        assert_eq!(shown.restart_count, 5);
    }
    let fault = Some("no space left".to_owned());
    let recording = state(report("web", 0, ContainerStatus::Recording { fault }, None));
    assert!(recording.state.waiting.unwrap().message.unwrap().contains("no space left"));
}

#[test]
fn the_quality_of_service_follows_requests_and_limits() {
    let check = |resources: &[Option<u64>; 4], expected: &str| {
        let mut view = sample("hello", 1);
        let spec = Arc::make_mut(view.spec.as_mut().unwrap());
        for container in &mut spec.containers {
            let found = &mut container.resources;
            [
                found.cpu_request_milli,
                found.cpu_limit_milli,
                found.memory_request_bytes,
                found.memory_limit_bytes,
            ] = *resources;
        }
        let found = pod::of(&view, &context()).status.qos_class.unwrap();
        assert_eq!(found, expected, "{resources:?}");
    };
    check(&[None; 4], "BestEffort");
    check(&[Some(1), Some(1), Some(2), Some(2)], "Guaranteed");
    check(&[None, Some(1), None, Some(2)], "Guaranteed");
    check(&[Some(1), Some(2), Some(2), Some(2)], "Burstable");
    check(&[Some(1), None, None, None], "Burstable");
}

#[test]
fn a_pod_that_waits_for_room_is_pending_and_nothing_of_it_is_created() {
    let mut view = sample("hello", 1);
    (view.report, view.executor) = (None, ExecutorView::Absent);
    let reason = |view: &PodView| {
        let waiting = pod::of(view, &context()).status.container_statuses[0].state.waiting.clone();
        waiting.unwrap().reason
    };
    view.record.created_at = later(1);
    assert_eq!(reason(&view), "ContainerCreating");
    let why = "needs 3 cpu".to_owned();
    view.waits = Some(Waits { who: Waiting::Pod, reason: WaitReason::Room, why });
    assert_eq!(reason(&view), "Pending");
}
