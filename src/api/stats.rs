//! `/roost/v1/stats`: what pods use and ask for now, next to what the machine has.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};

use super::routes::Shared;
use crate::agent::service::{Detail, Readings, Snapshot};
use crate::clock::WallTime;

/// What is used at one moment. New fields may come; none changes its meaning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// When it was read.
    pub at: String,
    /// The machine.
    pub node: NodeStats,
    /// Pods of which something runs.
    pub pods: Vec<PodStats>,
}

/// What the machine has, and how much of it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStats {
    /// Thousandths of processors.
    pub cpu_millis: u64,
    /// Memory.
    pub memory_bytes: u64,
    /// What pods can't ask for.
    pub reserved_cpu_millis: u64,
    /// The same.
    pub reserved_memory_bytes: u64,
    /// What the pods ask for.
    pub requested_cpu_millis: u64,
    /// The same.
    pub requested_memory_bytes: u64,
}

/// What a pod uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodStats {
    /// `namespace/name`.
    pub pod: String,
    /// Which instance.
    pub uid: String,
    /// Its containers that run.
    pub containers: Vec<ContainerStats>,
}

/// What a container uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStats {
    /// Its name.
    pub name: String,
    /// Processor time of its run so far.
    pub cpu_nanos: u64,
    /// Memory without what can be dropped easily; 0 if the host does not count it.
    pub memory_bytes: u64,
    /// Most memory it may use.
    pub memory_limit_bytes: Option<u64>,
    /// Its processes.
    pub pids: u64,
}

/// Answers.
pub(super) async fn answer(State(shared): State<Arc<Shared>>) -> Json<Stats> {
    let snapshot = shared.service.snapshot();
    let readings = shared.service.usage(&snapshot, Detail::Processes).await;
    Json(of(&snapshot, &readings, WallTime::now()))
}

fn of(snapshot: &Snapshot, readings: &Readings, at: WallTime) -> Stats {
    let pods = readings.pods.iter().map(|(view, containers)| {
        let containers = containers.iter().map(|used| {
            let spec = view.spec.as_ref().and_then(|spec| spec.container(&used.name));
            ContainerStats {
                name: used.name.to_string(),
                cpu_nanos: used.cpu_us.saturating_mul(1000),
                memory_bytes: used.working_set_bytes.unwrap_or(0),
                memory_limit_bytes: spec.and_then(|spec| spec.resources.memory_limit_bytes),
                pids: used.processes.unwrap_or(0),
            }
        });
        PodStats {
            pod: view.record.name.to_string(),
            uid: view.record.id.to_string(),
            containers: containers.collect(),
        }
    });
    Stats { at: at.rfc3339(), node: node(snapshot), pods: pods.collect() }
}

fn node(snapshot: &Snapshot) -> NodeStats {
    let (node, requested) = (&snapshot.node, snapshot.requested);
    NodeStats {
        cpu_millis: node.capacity.cpu_milli,
        memory_bytes: node.capacity.memory_bytes,
        reserved_cpu_millis: node.reserve.cpu_milli,
        reserved_memory_bytes: node.reserve.memory_bytes,
        requested_cpu_millis: requested.cpu_milli,
        requested_memory_bytes: requested.memory_bytes,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::agent::service::ContainerUsage;
    use crate::api::samples::{AT, pod, snapshot};

    #[test]
    fn what_is_used_stands_next_to_what_is_asked_for() {
        let mut snapshot =
            snapshot(1, vec![pod("default/a", 1), pod("default/b", 2)], Path::new("/r"));
        snapshot.node.capacity.cpu_milli = 4000;
        snapshot.node.capacity.memory_bytes = 8 << 30;
        snapshot.node.reserve.memory_bytes = 100 << 20;
        snapshot.requested.cpu_milli = 1000;
        snapshot.requested.memory_bytes = 2 << 20;
        let web = ContainerUsage {
            name: "web".parse().unwrap(),
            cpu_us: 1_500_000,
            working_set_bytes: Some(5_000),
            processes: Some(3),
        };
        let readings =
            Readings { pods: vec![(snapshot.pods[0].clone(), vec![web])], ..Readings::default() };
        let found = of(&snapshot, &readings, AT);
        insta::assert_snapshot!(serde_json::to_string_pretty(&found).unwrap(), @r##"
        {
          "at": "2023-11-14T22:13:20Z",
          "node": {
            "cpuMillis": 4000,
            "memoryBytes": 8589934592,
            "reservedCpuMillis": 0,
            "reservedMemoryBytes": 104857600,
            "requestedCpuMillis": 1000,
            "requestedMemoryBytes": 2097152
          },
          "pods": [
            {
              "pod": "default/a",
              "uid": "00000000-0000-4000-8000-000000000001",
              "containers": [
                {
                  "name": "web",
                  "cpuNanos": 1500000000,
                  "memoryBytes": 5000,
                  "memoryLimitBytes": 3000000,
                  "pids": 3
                }
              ]
            }
          ]
        }
        "##);
    }
}
