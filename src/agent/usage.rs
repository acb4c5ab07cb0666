//! [`Meter`]: what containers use now, read from their cgroups when somebody asks; never by
//! polling.
//!
//! It reads on a thread of its own: the runtime's threads for what may block are shared with
//! workers, and during a burst of starts hundreds of their jobs would come first. One reading at a time, so that many who ask cost no more than one after the other.
//!
//! A file takes some 5 us, but while pods are being started or removed a look-up in the cgroup file
//! system may wait for a second, for the kernel's locks on its directories. So whoever asks waits
//! for [`READ_TIME_MAX`] at most, and gets the last that is known where that is not enough.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};
use tokio::time::{Instant, timeout_at};

use super::service::{ContainerStatus, ExecutorView, PodView, Snapshot};
use super::traffic::{self, Traffic};
use crate::cgroup::{CgroupBase, CgroupError, ContainerCgroup, Usage};
use crate::ids::{Attempt, ContainerName, PodId};

/// How long whoever asks waits for what is being read: long enough for some 200 containers.
const READ_TIME_MAX: Duration = Duration::from_millis(8);
/// How long whoever decides by it waits for a reading that is whole.
const WHOLE_TIME_MAX: Duration = Duration::from_secs(5);
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
    /// Pods with a network of their own, and what has gone through their interfaces.
    pub traffic: Vec<(Arc<PodView>, Vec<Traffic>)>,
    /// Bytes of the agent's store on disk.
    pub store_bytes: u64,
}

/// What to read beside processor time and memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// The size of the store, and the traffic of pods.
    Store,
    /// How many processes each container has.
    Processes,
}

/// Reads what is used.
#[derive(Debug)]
pub(super) struct Meter {
    cgroups: CgroupBase,
    store: PathBuf,
    /// Held while something is read.
    turn: Arc<Mutex<()>>,
    reader: SyncSender<Reading>,
    known: std::sync::Mutex<Known>,
}

/// What the thread is to read.
#[derive(Debug)]
struct Reading {
    meter: Arc<Meter>,
    snapshot: Arc<Snapshot>,
    detail: Detail,
    turn: OwnedMutexGuard<()>,
    answer: oneshot::Sender<()>,
}

/// What was read last.
#[derive(Debug, Default)]
struct Known {
    runs: BTreeMap<(PodId, ContainerName), (Attempt, ContainerUsage)>,
    traffic: BTreeMap<PodId, Vec<Traffic>>,
    store_bytes: u64,
}

impl Meter {
    pub(super) fn new(cgroups: CgroupBase, store: PathBuf) -> Self {
        // There is never more: whoever asks has the turn.
        let (reader, readings) = sync_channel(1);
        let spawned =
            std::thread::Builder::new().name("usage".to_owned()).spawn(move || read_all(&readings));
        if let Err(error) = spawned {
            tracing::warn!(%error, "can't start the thread that reads what containers use");
        }
        Self { cgroups, store, turn: Arc::default(), reader, known: std::sync::Mutex::default() }
    }

    /// What the pods of the snapshot use now, as far as that can be told soon.
    pub(super) async fn read(self: Arc<Self>, snapshot: Arc<Snapshot>, detail: Detail) -> Readings {
        let deadline = Instant::now() + READ_TIME_MAX;
        if let Ok(turn) = timeout_at(deadline, self.turn.clone().lock_owned()).await
            && let Some(done) = self.begin(snapshot.clone(), detail, turn)
        {
            // Done, or late: the thread goes on, and who asks next has what it reads.
            let _late = timeout_at(deadline, done).await;
        }
        self.known_of(&snapshot)
    }

    /// The same, all of it read now; none if that takes too long.
    pub(super) async fn read_whole(
        self: Arc<Self>,
        snapshot: Arc<Snapshot>,
        detail: Detail,
    ) -> Option<Readings> {
        let deadline = Instant::now() + WHOLE_TIME_MAX;
        let turn = timeout_at(deadline, self.turn.clone().lock_owned()).await.ok()?;
        let done = self.begin(snapshot.clone(), detail, turn)?;
        timeout_at(deadline, done).await.ok()?.ok()?;
        Some(self.known_of(&snapshot))
    }

    /// Begins to read; the answer comes when all is read.
    fn begin(
        self: &Arc<Self>,
        snapshot: Arc<Snapshot>,
        detail: Detail,
        turn: OwnedMutexGuard<()>,
    ) -> Option<oneshot::Receiver<()>> {
        let (answer, answered) = oneshot::channel();
        let meter = self.clone();
        // Without the thread there is nothing to wait for.
        self.reader.try_send(Reading { meter, snapshot, detail, turn, answer }).ok()?;
        Some(answered)
    }

    fn read_now(&self, snapshot: &Snapshot, detail: Detail) {
        let wanted: BTreeMap<_, _> = snapshot.pods.iter().flat_map(|pod| runs(pod)).collect();
        self.known().runs.retain(|key, (run, _)| wanted.get(key) == Some(run));
        for (key, run) in wanted {
            let cgroup = self.cgroups.pod(key.0).container(&key.1, run);
            // One that ended since it was reported has nothing to be read any more.
            let Ok(mut used) = read_one(&key.1, &cgroup, detail) else { continue };
            let mut known = self.known();
            let before = known.runs.get(&key).filter(|(known, _)| *known == run);
            used.processes = used.processes.or(before.and_then(|(_, before)| before.processes));
            known.runs.insert(key, (run, used));
        }
        if detail == Detail::Store {
            let bytes = size_of(&self.store, STORE_DEPTH_MAX);
            let of_pod = |pod: &Arc<PodView>| {
                let ExecutorView::Connected { pid, .. } = pod.executor else { return None };
                let has_own = pod.spec.as_ref().is_some_and(|spec| spec.wants_network());
                has_own.then(|| (pod.record.id, traffic::of_process(pid)))
            };
            let traffic = snapshot.pods.iter().filter_map(of_pod).collect();
            let mut known = self.known();
            known.store_bytes = bytes;
            known.traffic = traffic;
        }
    }

    fn known_of(&self, snapshot: &Snapshot) -> Readings {
        let known = self.known();
        let mut pods = Vec::new();
        for pod in &snapshot.pods {
            let used = runs(pod).filter_map(|(key, run)| {
                let (known, used) = known.runs.get(&key)?;
                (*known == run).then(|| used.clone())
            });
            let used: Vec<ContainerUsage> = used.collect();
            if !used.is_empty() {
                pods.push((pod.clone(), used));
            }
        }
        let traffic = snapshot.pods.iter().filter_map(|pod| {
            let of_pod = known.traffic.get(&pod.record.id).filter(|all| !all.is_empty())?;
            Some((pod.clone(), of_pod.clone()))
        });
        Readings { traffic: traffic.collect(), pods, store_bytes: known.store_bytes }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // It is whole after each statement, whoever panicked meanwhile.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread that reads. It is there before it is needed: while pods are being started, a thread
/// that is cloned may have to wait for a second, and with it who clones it.
fn read_all(readings: &Receiver<Reading>) {
    for Reading { meter, snapshot, detail, turn, answer } in readings {
        meter.read_now(&snapshot, detail);
        drop(turn);
        // Who asked may have gone.
        let _gone = answer.send(());
    }
}

/// The runs of the pod's containers that are going on.
fn runs(pod: &PodView) -> impl Iterator<Item = ((PodId, ContainerName), Attempt)> {
    let containers = pod.report.iter().flat_map(|report| &report.containers);
    containers.filter_map(|container| {
        let runs = match container.status {
            ContainerStatus::Running { .. } | ContainerStatus::Stopping { .. } => true,
            ContainerStatus::Creating
            | ContainerStatus::Recording { .. }
            | ContainerStatus::BackingOff { .. }
            | ContainerStatus::Terminated => false,
        };
        let key = (pod.record.id, container.name.clone());
        runs.then_some((key, container.attempt?))
    })
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
