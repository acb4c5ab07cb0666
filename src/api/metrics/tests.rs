use std::path::Path;
use std::time::Duration;

use super::*;
use crate::agent::service::{ContainerStatus, Counts};
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
    let traffic = |bytes| {
        let counts = |bytes| Counts { bytes, packets: 3, errors: 1, dropped: 2 };
        let interface = "eth0".to_owned();
        vec![Traffic { interface, received: counts(bytes), sent: counts(bytes / 2) }]
    };
    let traffic = shown.pods.iter().map(|pod| (pod.clone(), traffic(1000))).collect();
    let readings = Readings { pods, traffic, store_bytes: 4096 };
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
    // `promtool check metrics` is content with it: see the host tests.
    assert_eq!(text, include_str!("scrape.txt"), "{text}");
}

#[test]
fn no_series_stands_twice_in_a_scrape() {
    let text = scrape();
    let series = text.lines().filter(|line| !line.starts_with('#'));
    let names: Vec<&str> = series.filter_map(|line| line.rsplit_once(' ')).map(|s| s.0).collect();
    let distinct: BTreeSet<&&str> = names.iter().collect();
    assert_eq!(names.len(), distinct.len());
}
