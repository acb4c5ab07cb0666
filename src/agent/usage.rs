//! [`Meter`]: what containers use now, read from their cgroups when somebody asks; never by
//! polling.
//!
//! It reads on a thread that lives as long as one reading: the runtime's threads for what may
//! block are shared with workers, and during a burst of starts hundreds of their jobs would come
//! first. One reading at a time, so that many who ask cost no more than one after the other.
//! Plain reads, because descriptors kept open for every container would be three for each, for
//! something that is asked for every some seconds at most.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Mutex, oneshot};

use super::service::{ContainerStatus, PodView, Snapshot};
use crate::cgroup::{CgroupBase, CgroupError, ContainerCgroup, Usage};
use crate::ids::ContainerName;

/// Most levels of the store's directory.
const STORE_DEPTH_MAX: u32 = 4;

/// What a running container uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerUsage {
    /// Its name.
    pub name: ContainerName,
    /// Processor time of this run, in microseconds.
    pub cpu_us: u64,
    /// Memory without what can be dropped easily; none if the host does not count it.
    pub working_set_bytes: Option<u64>,
    /// Its processes, if that was asked for.
    pub processes: Option<u64>,
}

/// What is read at one moment.
#[derive(Debug, Clone, Default)]
pub struct Readings {
    /// Pods with a container that runs, and those.
    pub pods: Vec<(Arc<PodView>, Vec<ContainerUsage>)>,
    /// Bytes of the agent's store on disk.
    pub store_bytes: u64,
}

/// What to read beside processor time and memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// The size of the store.
    Store,
    /// How many processes each container has.
    Processes,
}

/// Reads what is used.
#[derive(Debug)]
pub(super) struct Meter {
    cgroups: CgroupBase,
    store: PathBuf,
    turn: Mutex<()>,
}

impl Meter {
    pub(super) fn new(cgroups: CgroupBase, store: PathBuf) -> Self {
        Self { cgroups, store, turn: Mutex::new(()) }
    }

    /// What the pods of the snapshot use now; nothing if there can be no thread.
    pub(super) async fn read(self: Arc<Self>, snapshot: Arc<Snapshot>, detail: Detail) -> Readings {
        let turn = self.turn.lock().await;
        let (answer, answered) = oneshot::channel();
        let meter = self.clone();
        let spawned = std::thread::Builder::new().name("usage".to_owned()).spawn(move || {
            // Who asked may have gone.
            let _gone = answer.send(meter.read_now(&snapshot, detail));
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "can't start a thread to read what containers use");
        }
        let readings = answered.await.unwrap_or_default();
        drop(turn);
        readings
    }

    fn read_now(&self, snapshot: &Snapshot, detail: Detail) -> Readings {
        let mut pods = Vec::new();
        for pod in &snapshot.pods {
            let containers = self.read_pod(pod, detail);
            if !containers.is_empty() {
                pods.push((pod.clone(), containers));
            }
        }
        let store_bytes = match detail {
            Detail::Store => size_of(&self.store, STORE_DEPTH_MAX),
            Detail::Processes => 0,
        };
        Readings { pods, store_bytes }
    }

    fn read_pod(&self, pod: &PodView, detail: Detail) -> Vec<ContainerUsage> {
        let Some(report) = &pod.report else { return Vec::new() };
        let cgroup = self.cgroups.pod(pod.record.id);
        let running = report.containers.iter().filter_map(|container| {
            let runs = match container.status {
                ContainerStatus::Running { .. } | ContainerStatus::Stopping { .. } => true,
                ContainerStatus::Creating
                | ContainerStatus::Recording { .. }
                | ContainerStatus::BackingOff { .. }
                | ContainerStatus::Terminated => false,
            };
            runs.then_some((&container.name, container.attempt?))
        });
        // One that ended since it was reported has nothing to be read any more.
        running
            .filter_map(|(name, run)| read_one(name, &cgroup.container(name, run), detail).ok())
            .collect()
    }
}

fn read_one(
    name: &ContainerName,
    cgroup: &ContainerCgroup,
    detail: Detail,
) -> Result<ContainerUsage, CgroupError> {
    let Usage { cpu_us, memory_bytes: _, memory_working_set_bytes } = cgroup.usage()?;
    let processes = match detail {
        Detail::Store => None,
        Detail::Processes => Some(cgroup.processes()?),
    };
    let working_set_bytes = memory_working_set_bytes;
    Ok(ContainerUsage { name: name.clone(), cpu_us, working_set_bytes, processes })
}

/// Bytes of the files in a directory; what can't be read counts nothing.
fn size_of(directory: &Path, depth: u32) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() && depth > 0 => size_of(&entry.path(), depth - 1),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}
