//! `roost top`: how much cpu and memory pods use. Cpu time is counted from the beginning of each
//! container, so that what is used now takes two looks.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::answers::{ContainerStats, CpuNanos, NodeStats, Stats};
use super::args::{TopArgs, TopWhat};
use super::client::Client;
use super::failure::Failure;
use super::get::{pod_path, structured, understood};
use super::output;
use super::screen::Screen;
use super::table::{Cell, Table};

/// Time between the two looks.
const SPAN: Duration = Duration::from_secs(1);
const PATH: &str = "/roost/v1/stats";

/// Says what is used.
pub(super) async fn run(client: &Client, screen: Screen, args: &TopArgs) -> Result<(), Failure> {
    let name = args.name.as_deref().map(|name| args.space.namespace.pod(name)).transpose()?;
    let first: Stats = client.get(PATH).await?;
    let began = Instant::now();
    // Nothing tells when cpu time has been used.
    tokio::time::sleep(SPAN).await;
    let value: Value = client.get(PATH).await?;
    let span = began.elapsed();
    let stats: Stats = understood(&value)?;
    let mut usage = Usage::of(&nanos(&first), &stats, span);
    if let Some(namespace) = &args.space.namespace.namespace {
        usage.pods.retain(|pod| pod.namespace() == namespace.as_str());
    }
    if let Some(name) = &name {
        usage.pods.retain(|pod| pod.pod == name.to_string());
        if usage.pods.is_empty() {
            let pod: Option<Value> = client.find(&pod_path(name)).await?;
            return Err(match pod {
                None => Failure::not_found(name),
                Some(_) => Failure::wrong(format!("pod {name} does not run")),
            });
        }
    }
    if let Some(text) = structured(args.output, &usage.object(args.what, &value["at"], span)) {
        return output::print(&text);
    }
    match args.what {
        TopWhat::Pods if usage.pods.is_empty() => {
            output::note("No pods found.");
            Ok(())
        }
        TopWhat::Pods => output::print(&usage.pods_text(screen, args.containers)),
        TopWhat::Node => output::print(&usage.node_text(screen)),
    }
}

fn nanos(stats: &Stats) -> CpuNanos {
    let of_pod = |pod: &super::answers::PodStats| {
        let uid = pod.uid.clone();
        let containers = pod.containers.clone().into_iter();
        containers.map(move |it| ((uid.clone(), it.name), it.cpu_nanos)).collect::<Vec<_>>()
    };
    stats.pods.iter().flat_map(of_pod).collect()
}

/// What is used now.
struct Usage {
    node: NodeStats,
    /// The busiest first.
    pods: Vec<PodUsage>,
}

struct PodUsage {
    pod: String,
    containers: Vec<(u64, ContainerStats)>,
}

impl PodUsage {
    fn namespace(&self) -> &str {
        self.pod.split('/').next().unwrap_or_default()
    }

    fn cpu_nanos(&self) -> u64 {
        self.containers.iter().map(|(cpu, _)| cpu).sum()
    }

    fn memory(&self) -> u64 {
        self.containers.iter().map(|(_, stats)| stats.memory_bytes).sum()
    }
}

impl Usage {
    fn of(before: &CpuNanos, stats: &Stats, span: Duration) -> Self {
        let span = span.as_nanos().max(1);
        let pods = stats.pods.iter().map(|pod| {
            let containers = pod.containers.iter().map(|container| {
                let key = (pod.uid.clone(), container.name.clone());
                // One that began in between has used all of it since.
                let before = before.get(&key).copied().unwrap_or(0);
                // One that was started again began from nothing.
                let used = container.cpu_nanos.checked_sub(before).unwrap_or(container.cpu_nanos);
                let a_second = u128::from(used) * 1_000_000_000 / span;
                (u64::try_from(a_second).unwrap_or(u64::MAX), container.clone())
            });
            PodUsage { pod: pod.pod.clone(), containers: containers.collect() }
        });
        let mut pods: Vec<PodUsage> = pods.collect();
        pods.sort_by(|a, b| b.cpu_nanos().cmp(&a.cpu_nanos()).then_with(|| a.pod.cmp(&b.pod)));
        Self { node: stats.node, pods }
    }

    fn pods_text(&self, screen: Screen, by_container: bool) -> String {
        let namespace = self.pods.iter().any(|pod| pod.namespace() != "default");
        let mut rows: Vec<Vec<Cell>> = Vec::new();
        for pod in &self.pods {
            let name = pod.pod.split_once('/').map_or(pod.pod.as_str(), |(_, name)| name);
            let mut head: Vec<Cell> = Vec::new();
            if namespace {
                head.push(pod.namespace().into());
            }
            head.push(name.into());
            if by_container {
                for (cpu, stats) in &pod.containers {
                    let mut row = head.clone();
                    row.push(stats.name.as_str().into());
                    row.extend(cells(*cpu, stats.memory_bytes, stats.memory_limit_bytes));
                    row.push(stats.pids.to_string().into());
                    rows.push(row);
                }
            } else {
                // Without a limit for each there is none for all.
                let limits = pod.containers.iter().map(|(_, stats)| stats.memory_limit_bytes);
                let limit = limits.sum::<Option<u64>>().filter(|limit| *limit > 0);
                head.extend(cells(pod.cpu_nanos(), pod.memory(), limit));
                head.push(
                    pod.containers.iter().map(|(_, it)| it.pids).sum::<u64>().to_string().into(),
                );
                rows.push(head);
            }
        }
        let mut head = if namespace { vec!["NAMESPACE"] } else { vec![] };
        head.extend(if by_container { &["POD", "NAME"][..] } else { &["NAME"] });
        head.extend(["CPU(cores)", "MEMORY(bytes)", "MEMORY%", "PROCESSES"]);
        Table::render(screen, &head, &rows).1
    }

    fn node_text(&self, screen: Screen) -> String {
        let NodeStats {
            cpu_millis,
            memory_bytes,
            reserved_cpu_millis,
            reserved_memory_bytes,
            requested_cpu_millis,
            requested_memory_bytes,
        } = self.node;
        let (cpu, memory) = self.sums();
        let row = |name: &str, values: [u64; 4], unit: fn(u64) -> String| -> Vec<Cell> {
            let [used, requested, reserved, capacity] = values;
            let with =
                |value| Cell::from(format!("{} ({})", unit(value), percent(value, capacity)));
            vec![name.into(), with(used), with(requested), with(reserved), unit(capacity).into()]
        };
        let cpu = [cpu / 1_000_000, requested_cpu_millis, reserved_cpu_millis, cpu_millis];
        let memory = [memory, requested_memory_bytes, reserved_memory_bytes, memory_bytes];
        let rows = [row("cpu", cpu, |millis| format!("{millis}m")), row("memory", memory, bytes)];
        let head = ["RESOURCE", "USED BY PODS", "REQUESTED", "RESERVED", "CAPACITY"];
        Table::render(screen, &head, &rows).1
    }

    fn sums(&self) -> (u64, u64) {
        let cpu = self.pods.iter().map(PodUsage::cpu_nanos).sum();
        (cpu, self.pods.iter().map(PodUsage::memory).sum())
    }

    /// In the shapes of `metrics.k8s.io` where it has one.
    fn object(&self, what: TopWhat, at: &Value, span: Duration) -> Value {
        let usage = |cpu: u64, memory: u64| json!({ "cpu": format!("{cpu}n"), "memory": format!("{}Ki", memory / 1024) });
        let window = format!("{}ms", span.as_millis());
        if what == TopWhat::Node {
            let (cpu, memory) = self.sums();
            let NodeStats { cpu_millis, memory_bytes, .. } = self.node;
            return json!({
                "kind": "NodeUsage",
                "timestamp": at,
                "window": window,
                "usedByPods": usage(cpu, memory),
                "requested": usage(self.node.requested_cpu_millis * 1_000_000, self.node.requested_memory_bytes),
                "reserved": usage(self.node.reserved_cpu_millis * 1_000_000, self.node.reserved_memory_bytes),
                "capacity": usage(cpu_millis * 1_000_000, memory_bytes),
            });
        }
        let pod = |pod: &PodUsage| {
            let containers = pod.containers.iter();
            let container = |(cpu, stats): &(u64, ContainerStats)| json!({ "name": stats.name, "usage": usage(*cpu, stats.memory_bytes) });
            let (namespace, name) = pod.pod.split_once('/').unwrap_or(("", &pod.pod));
            json!({
                "kind": "PodMetrics",
                "apiVersion": "metrics.k8s.io/v1beta1",
                "metadata": { "name": name, "namespace": namespace },
                "timestamp": at,
                "window": window,
                "containers": containers.map(container).collect::<Vec<_>>(),
            })
        };
        json!({
            "kind": "PodMetricsList",
            "apiVersion": "metrics.k8s.io/v1beta1",
            "metadata": {},
            "items": self.pods.iter().map(pod).collect::<Vec<_>>(),
        })
    }
}

fn cells(cpu_nanos: u64, memory: u64, limit: Option<u64>) -> [Cell; 3] {
    let share = limit.map_or_else(|| "-".to_owned(), |limit| percent(memory, limit));
    [format!("{}m", cpu_nanos / 1_000_000).into(), bytes(memory).into(), share.into()]
}

/// As `kubectl top` shows memory, but that little is not nothing.
fn bytes(bytes: u64) -> String {
    if bytes < 1 << 20 { format!("{}Ki", bytes >> 10) } else { format!("{}Mi", bytes >> 20) }
}

fn percent(part: u64, whole: u64) -> String {
    match u128::from(part) * 100 {
        _ if whole == 0 => "-".to_owned(),
        part => format!("{}%", part / u128::from(whole)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(busy: u64, idle: u64) -> Stats {
        let container = |name: &str, cpu: u64, limit: Value| {
            json!({
                "name": name, "cpuNanos": cpu, "memoryBytes": 3 << 20, "memoryLimitBytes": limit,
                "pids": 2,
            })
        };
        let pod = |name: &str, uid: &str, containers: Value| json!({ "pod": name, "uid": uid, "containers": containers });
        let value = json!({
            "at": "2023-11-14T22:13:20Z",
            "node": {
                "cpuMillis": 4000, "memoryBytes": 8_u64 << 30, "reservedCpuMillis": 500,
                "reservedMemoryBytes": 1_u64 << 30, "requestedCpuMillis": 250,
                "requestedMemoryBytes": 64 << 20,
            },
            "pods": [
                pod("default/idle", "1", json!([container("main", idle, Value::Null)])),
                pod("default/busy", "2", json!([
                    container("web", busy, json!(6 << 20)), container("x", 0, json!(6 << 20)),
                ])),
            ],
        });
        understood(&value).unwrap()
    }

    fn usage() -> Usage {
        let before = nanos(&stats(1_000_000_000, 900));
        // The idle one was started again.
        Usage::of(&before, &stats(1_250_000_000, 500), Duration::from_millis(500))
    }

    #[test]
    fn what_was_used_between_two_looks_is_what_is_used() {
        let screen = Screen::default();
        insta::assert_snapshot!(usage().pods_text(screen, false), @r"
        NAME   CPU(cores)   MEMORY(bytes)   MEMORY%   PROCESSES
        busy   500m         6Mi             50%       4
        idle   0m           3Mi             -         2
        ");
        insta::assert_snapshot!(usage().pods_text(screen, true), @r"
        POD    NAME   CPU(cores)   MEMORY(bytes)   MEMORY%   PROCESSES
        busy   web    500m         3Mi             50%       2
        busy   x      0m           3Mi             50%       2
        idle   main   0m           3Mi             -         2
        ");
        insta::assert_snapshot!(usage().node_text(screen), @r"
        RESOURCE   USED BY PODS   REQUESTED   RESERVED       CAPACITY
        cpu        500m (12%)     250m (6%)   500m (12%)     4000m
        memory     9Mi (0%)       64Mi (0%)   1024Mi (12%)   8192Mi
        ");
    }

    #[test]
    fn machines_get_the_shape_of_metrics() {
        let at = json!("2023-11-14T22:13:20Z");
        let object = usage().object(TopWhat::Pods, &at, Duration::from_millis(500));
        assert_eq!(object["items"][0]["metadata"]["name"], "busy");
        assert_eq!(object["items"][0]["containers"][0]["usage"]["cpu"], "500000000n");
        assert_eq!(object["items"][0]["containers"][0]["usage"]["memory"], "3072Ki");
        let node = usage().object(TopWhat::Node, &at, Duration::from_millis(500));
        assert_eq!(node["capacity"]["cpu"], "4000000000n");
    }

    #[test]
    fn a_share_of_nothing_is_none() {
        assert_eq!(percent(1, 0), "-");
        assert_eq!(percent(u64::MAX, u64::MAX), "100%");
    }
}
