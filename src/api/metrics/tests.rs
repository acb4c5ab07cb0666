use std::path::Path;
use std::time::Duration;

use super::*;
use crate::agent::service::ContainerStatus;
use crate::api::samples::{context, pod, report, running, snapshot, with_report};

/// Two instances of one pod and another pod, of which something was read.
fn scrape() -> String {
    let old = pod("default/a", 1);
    let waits = report("sidecar", 3, ContainerStatus::Creating, None);
    let young = with_report(pod("default/a", 2), vec![waits, running("web", 1, None)]);
    let shown = snapshot(3, vec![old, young, pod("other/b", 3)], Path::new("/r"));
    let used = |n: u64| ContainerUsage {
        name: "web".parse().unwrap(),
        cpu_us: n * 1_250_000,
        working_set_bytes: Some(n << 20),
        processes: None,
    };
    let pods = shown.pods.iter().zip(1..).map(|(pod, n)| (pod.clone(), vec![used(n)])).collect();
    let readings = Readings { pods, store_bytes: 4096 };
    let metrics = Metrics::default();
    metrics.starts.observe(Duration::from_millis(8));
    metrics.steps.get("create").all.add_one();
    for id in [2, 77].map(crate::ids::PodId::from_random) {
        metrics.out_of_memory.get((id, "web".parse().unwrap())).add_one();
    }
    let key = RequestKey { path: "/api/v1/pods".to_owned(), method: "GET", code: 200 };
    metrics.requests.get(key).add_one();
    metrics.request_seconds_of("/api/v1/pods").observe(Duration::from_micros(700));
    let process = Process {
        cpu_seconds: Some(1.5),
        resident_bytes: Some(8 << 20),
        open_fds: Some(30),
        max_fds: Some(1024),
    };
    text(&shown, &readings, &metrics, &context(), &process)
}

#[test]
fn a_scrape_tells_of_everything() {
    // The histograms are long and alike.
    let text: String = scrape()
        .lines()
        .filter(|line| !line.contains("_bucket") || line.contains("pod_start"))
        .map(|line| format!("{line}\n"))
        .collect();
    insta::assert_snapshot!(text, @r##"
    # HELP roost_build_info The agent's build; always 1.
    # TYPE roost_build_info gauge
    roost_build_info{version="0.1.0"} 1
    # HELP roost_agent_uptime_seconds How long the agent has been running.
    # TYPE roost_agent_uptime_seconds gauge
    roost_agent_uptime_seconds 100
    # HELP roost_agent_ready Whether the agent has taken up every pod that it found and can write its store.
    # TYPE roost_agent_ready gauge
    roost_agent_ready 1
    # HELP roost_config_valid Whether the configuration in force is what the file says.
    # TYPE roost_config_valid gauge
    roost_config_valid 1
    # HELP process_start_time_seconds When the agent was started, in seconds since 1970.
    # TYPE process_start_time_seconds gauge
    process_start_time_seconds 1700000000
    # HELP process_cpu_seconds_total Processor time of the agent.
    # TYPE process_cpu_seconds_total counter
    process_cpu_seconds_total 1.5
    # HELP process_resident_memory_bytes Memory of the agent.
    # TYPE process_resident_memory_bytes gauge
    process_resident_memory_bytes 8388608
    # HELP process_open_fds Open descriptors of the agent.
    # TYPE process_open_fds gauge
    process_open_fds 30
    # HELP process_max_fds Most descriptors the agent may have open.
    # TYPE process_max_fds gauge
    process_max_fds 1024
    # HELP roost_pods Pods by phase.
    # TYPE roost_pods gauge
    roost_pods{phase="Pending"} 1
    roost_pods{phase="Running"} 1
    roost_pods{phase="Succeeded"} 0
    roost_pods{phase="Failed"} 0
    roost_pods{phase="Unknown"} 0
    # HELP roost_executors Executors that answer.
    # TYPE roost_executors gauge
    roost_executors 3
    # HELP roost_alarms Alarms: manifest directories or a configuration that can't be used.
    # TYPE roost_alarms gauge
    roost_alarms 0
    # HELP roost_manifest_files_faulty Manifest files in which something is wrong.
    # TYPE roost_manifest_files_faulty gauge
    roost_manifest_files_faulty 0
    # HELP roost_manifest_faults Things that are wrong in manifest files.
    # TYPE roost_manifest_faults gauge
    roost_manifest_faults 0
    # HELP roost_container_restarts_total Runs of the container after its first.
    # TYPE roost_container_restarts_total counter
    roost_container_restarts_total{namespace="default",pod="a",container="web"} 1
    roost_container_restarts_total{namespace="default",pod="a",container="sidecar"} 3
    roost_container_restarts_total{namespace="other",pod="b",container="web"} 0
    roost_container_restarts_total{namespace="other",pod="b",container="sidecar"} 0
    # HELP roost_container_state 1 for the state the container is in.
    # TYPE roost_container_state gauge
    roost_container_state{namespace="default",pod="a",container="web",state="waiting"} 0
    roost_container_state{namespace="default",pod="a",container="web",state="running"} 1
    roost_container_state{namespace="default",pod="a",container="web",state="terminated"} 0
    roost_container_state{namespace="default",pod="a",container="sidecar",state="waiting"} 1
    roost_container_state{namespace="default",pod="a",container="sidecar",state="running"} 0
    roost_container_state{namespace="default",pod="a",container="sidecar",state="terminated"} 0
    roost_container_state{namespace="other",pod="b",container="web",state="waiting"} 0
    roost_container_state{namespace="other",pod="b",container="web",state="running"} 1
    roost_container_state{namespace="other",pod="b",container="web",state="terminated"} 0
    roost_container_state{namespace="other",pod="b",container="sidecar",state="waiting"} 0
    roost_container_state{namespace="other",pod="b",container="sidecar",state="running"} 1
    roost_container_state{namespace="other",pod="b",container="sidecar",state="terminated"} 0
    # HELP roost_container_memory_limit_bytes Most memory that the container may use.
    # TYPE roost_container_memory_limit_bytes gauge
    roost_container_memory_limit_bytes{namespace="default",pod="a",container="web"} 3000000
    roost_container_memory_limit_bytes{namespace="other",pod="b",container="web"} 3000000
    # HELP roost_container_cpu_seconds_total Processor time of the container's run.
    # TYPE roost_container_cpu_seconds_total counter
    roost_container_cpu_seconds_total{namespace="default",pod="a",container="web"} 2.5
    roost_container_cpu_seconds_total{namespace="other",pod="b",container="web"} 3.75
    # HELP roost_container_memory_working_set_bytes Memory of the container without what can be dropped easily.
    # TYPE roost_container_memory_working_set_bytes gauge
    roost_container_memory_working_set_bytes{namespace="default",pod="a",container="web"} 2097152
    roost_container_memory_working_set_bytes{namespace="other",pod="b",container="web"} 3145728
    # HELP roost_container_oom_kills_total Runs of the container that ended because memory ran out, seen by this agent.
    # TYPE roost_container_oom_kills_total counter
    roost_container_oom_kills_total{namespace="default",pod="a",container="web"} 1
    # HELP roost_pod_start_duration_seconds How long a new pod took from the sight of its manifest until its containers ran.
    # TYPE roost_pod_start_duration_seconds histogram
    roost_pod_start_duration_seconds_bucket{le="0.005"} 0
    roost_pod_start_duration_seconds_bucket{le="0.01"} 1
    roost_pod_start_duration_seconds_bucket{le="0.02"} 1
    roost_pod_start_duration_seconds_bucket{le="0.05"} 1
    roost_pod_start_duration_seconds_bucket{le="0.1"} 1
    roost_pod_start_duration_seconds_bucket{le="0.25"} 1
    roost_pod_start_duration_seconds_bucket{le="0.5"} 1
    roost_pod_start_duration_seconds_bucket{le="1"} 1
    roost_pod_start_duration_seconds_bucket{le="2.5"} 1
    roost_pod_start_duration_seconds_bucket{le="10"} 1
    roost_pod_start_duration_seconds_bucket{le="30"} 1
    roost_pod_start_duration_seconds_bucket{le="120"} 1
    roost_pod_start_duration_seconds_bucket{le="+Inf"} 1
    roost_pod_start_duration_seconds_sum 0.008
    roost_pod_start_duration_seconds_count 1
    # HELP roost_reconcile_duration_seconds How long a decision on all pods took.
    # TYPE roost_reconcile_duration_seconds histogram
    roost_reconcile_duration_seconds_sum 0
    roost_reconcile_duration_seconds_count 0
    # HELP roost_steps_total Steps for pods, by action.
    # TYPE roost_steps_total counter
    roost_steps_total{action="create"} 1
    # HELP roost_step_failures_total Steps that failed, by action.
    # TYPE roost_step_failures_total counter
    roost_step_failures_total{action="create"} 0
    # HELP roost_watcher_relists_total Looks at manifest directories although nothing told of a change.
    # TYPE roost_watcher_relists_total counter
    roost_watcher_relists_total 0
    # HELP roost_watcher_hints_total Looks at manifest directories because the kernel told of a change.
    # TYPE roost_watcher_hints_total counter
    roost_watcher_hints_total 0
    # HELP roost_store_commit_duration_seconds How long a commit of the store took, its sync of the disk included.
    # TYPE roost_store_commit_duration_seconds histogram
    roost_store_commit_duration_seconds_sum 0
    roost_store_commit_duration_seconds_count 0
    # HELP roost_store_commit_failures_total Commits of the store that failed.
    # TYPE roost_store_commit_failures_total counter
    roost_store_commit_failures_total 0
    # HELP roost_store_size_bytes Size of the store's files.
    # TYPE roost_store_size_bytes gauge
    roost_store_size_bytes 4096
    # HELP roost_api_requests_total Requests to the API, by class of paths, method and status.
    # TYPE roost_api_requests_total counter
    roost_api_requests_total{path="/api/v1/pods",method="GET",code="200"} 1
    # HELP roost_api_request_duration_seconds Until the head of an answer of the API was there, by class of paths.
    # TYPE roost_api_request_duration_seconds histogram
    roost_api_request_duration_seconds_sum{path="/api/v1/pods"} 0.0007
    roost_api_request_duration_seconds_count{path="/api/v1/pods"} 1
    "##);
}

#[test]
fn no_series_stands_twice_in_a_scrape() {
    let text = scrape();
    let series = text.lines().filter(|line| !line.starts_with('#'));
    let names: Vec<&str> = series.filter_map(|line| line.rsplit_once(' ')).map(|s| s.0).collect();
    let distinct: BTreeSet<&&str> = names.iter().collect();
    assert_eq!(names.len(), distinct.len());
}
