//! Keeps the node from running out of memory and disk: measures, gives back what nobody needs, and
//! asks for the eviction of one pod after the other.
//!
//! ```text
//! memory stalls (PSI) ┐
//! now and then        ├─► sample ─► judged ─► disk short: images, logs ─► sample ─► still short:
//! another limit       ┘     ▲                                               victim ─► the loop
//!                           └──────────── when that one is gone ◄──────────────────────┘
//! ```
//!
//! An idle node is woken once in `pressure.measure-every`, by default as often as for a relist of the
//! manifests; under pressure every [`PRESSED_EVERY`]. Where the kernel counts stalls (Documentation/accounting/psi.rst), it tells
//! sooner that memory runs out. Not here: the judgement and the order (`reconciler::pressure`), and
//! limits of single pods (`local_storage`).

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::footprint::Footprint;
use super::image_keeper::ImageKeeper;
use super::log_volume::{self, Lack};
use super::service::{Detail, PodView, Request, Service, Snapshot};
use crate::clock::{BootId, BootTime, Millis};
use crate::config::PressureLimits;
use crate::ids::{ContainerName, PodId};
use crate::manifest::pod::{PodSpec, Resources};
use crate::reconciler::pressure::{
    self, Candidate, DiskLevel, GRACE_MAX, Level, Pressure, Resource, Sample, Shortage, Strain,
    Use, Verdict,
};
use crate::state::paths::Paths;
use crate::state::record::{EvictionCause, RecordPhase, TerminationCause};

/// Between two looks while something is short, or was a moment ago.
const PRESSED_EVERY: Duration = Duration::from_secs(10);
/// Between an eviction and the next look: what a pod had is free as soon as it is gone.
const SETTLE: Duration = Duration::from_millis(500);
/// How long an evicted pod may take beyond its grace period until nothing of it is left.
const GONE_MARGIN: Millis = Millis::from_secs(60);
/// Bytes on a disk for which a pod may be evicted.
const DISK_WORTH: u64 = 1 << 20;
/// The same in files.
const INODES_WORTH: u64 = 100;
/// Of the time that counting what pods have on disk took, as many times as much pass until the next.
const PAUSE_FACTOR: u64 = 4;
/// What the kernel is to tell of: tasks that wait for memory for 150 ms within 2 s.
const STALL: &str = "some 150000 2000000";
/// Where it is asked for that.
const STALLS: &str = "/proc/pressure/memory";

/// What is on the node now, before anything is decided.
pub(super) fn first(paths: &Paths, limits: &PressureLimits) -> Pressure {
    Pressure::default().judged(&sample(paths), &limits.thresholds, BootTime::now())
}

/// What can be given back before anybody has to go.
#[derive(Debug, Clone, Copy)]
enum Spare {
    /// Images that nobody uses.
    Images,
    /// Logs that nobody writes any more.
    Logs,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) service: Service,
    pub(super) images: ImageKeeper,
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) paths: Paths,
    pub(super) pressure: Pressure,
    /// What the loop was told last.
    pub(super) told: Option<Pressure>,
    /// This one: times of others are over.
    pub(super) boot: BootId,
    /// What pods have on disk is not counted again before.
    pub(super) count_at: BootTime,
}

impl Keeper {
    /// Keeps at it until the agent ends.
    pub(super) async fn keep(mut self) {
        let stalls = match stalls() {
            Ok(stalls) => Some(stalls),
            Err(error) => {
                tracing::info!(%error, "the kernel does not tell of a want of memory; looking now and then");
                None
            }
        };
        let mut snapshots = self.service.subscribe();
        loop {
            let limits = snapshots.borrow_and_update().agent.pressure;
            let pause = match self.look(&limits).await {
                Some(evicted) => {
                    self.until_gone(evicted).await;
                    SETTLE
                }
                None if self.pressure.is_any() => PRESSED_EVERY.min(limits.measure.0.into()),
                None => limits.measure.0.into(),
            };
            tokio::select! {
                // Cancel-safe: all of them only wait.
                () = sleep(pause) => {}
                () = stalled(stalls.as_ref()) => {}
                changed = changed(&mut snapshots, &limits) => if changed.is_err() { return },
            }
        }
    }

    /// Measures and acts; the pod that is to go, if one is.
    async fn look(&mut self, limits: &PressureLimits) -> Option<PodId> {
        self.measure(limits);
        // Before that nobody knows what is needed.
        let is_recovered = self.service.snapshot().recovered;
        for spare in [Spare::Images, Spare::Logs] {
            let Some(shortage) = short(self.pressure.disk.as_ref()) else { break };
            if is_recovered {
                self.give_back(spare, &shortage).await;
                self.measure(limits);
            }
        }
        self.tell().await;
        let (snapshot, now) = (self.service.snapshot(), BootTime::now());
        // One at a time: what that one gives back is not seen yet.
        if !snapshot.recovered || snapshot.pods.iter().any(|pod| self.is_leaving(pod, now)) {
            return None;
        }
        let shortages = [&self.pressure.memory, &self.pressure.disk].map(|it| short(it.as_ref()));
        for shortage in shortages.into_iter().flatten() {
            if shortage.place.is_some() && now < self.count_at {
                continue;
            }
            // Logs outlive an eviction: on a file system of their own it would give nothing back.
            if shortage.place.is_some() && disk_of(&shortage) != device(&self.paths.data) {
                continue;
            }
            let candidates = self.candidates(&snapshot, &shortage).await;
            match pressure::victim(&candidates) {
                Some(victim) => return self.evict(victim, &shortage).await,
                None => tracing::debug!(%shortage, "there is no pod that could be evicted"),
            }
        }
        None
    }

    /// Whether it is evicted and still has time to go. One that can't be stopped holds nobody up.
    fn is_leaving(&self, pod: &PodView, now: BootTime) -> bool {
        match &pod.record.phase {
            RecordPhase::Terminating { cause: TerminationCause::Evicted, grace: _, kill_at } => {
                kill_at.boot == self.boot && now < kill_at.at.plus(GONE_MARGIN)
            }
            RecordPhase::Terminating { .. }
            | RecordPhase::Active
            | RecordPhase::Finished { .. }
            | RecordPhase::Destroying { .. } => false,
        }
    }

    /// Tells the loop what is new: on an idle node nothing is.
    async fn tell(&mut self) {
        if self.told.as_ref() == Some(&self.pressure) {
            return;
        }
        // Whoever does not listen any more is ending.
        if self.requests.send(Request::Pressure(self.pressure.clone())).await.is_ok() {
            self.told = Some(self.pressure.clone());
        }
    }

    async fn evict(&mut self, victim: &Candidate, shortage: &Shortage) -> Option<PodId> {
        let cause = match shortage.resource {
            Resource::Memory => EvictionCause::Memory,
            Resource::Disk | Resource::Inodes => EvictionCause::Disk,
        };
        let verdict = Verdict { cause, message: pressure::message(shortage, victim) };
        tracing::warn!(id = %victim.id, message = verdict.message, "evicting a pod");
        let Candidate { id, revision, .. } = *victim;
        // Somebody goes: what all have then is counted as soon as that is done.
        self.count_at = BootTime(0);
        let sent = self.requests.send(Request::Evict { id, revision, verdict }).await;
        sent.is_ok().then_some(id)
    }

    /// On this thread: it takes microseconds, and another one would have to be woken for it.
    fn measure(&mut self, limits: &PressureLimits) {
        let (sample, now) = (sample(&self.paths), BootTime::now());
        self.pressure = self.pressure.judged(&sample, &limits.thresholds, now);
    }

    /// Gives back what nobody needs of what lies on the disk that is short.
    async fn give_back(&self, spare: Spare, shortage: &Shortage) {
        let missing = shortage.missing();
        // How many files an image has is not known.
        let (bytes, lack) = match shortage.resource {
            Resource::Disk | Resource::Memory => (missing, Lack::Bytes(missing)),
            Resource::Inodes => (u64::MAX, Lack::Files(missing)),
        };
        let Some(disk) = disk_of(shortage) else { return };
        match spare {
            Spare::Images if device(&self.paths.data) == Some(disk) => {
                self.give_back_images(bytes).await;
            }
            Spare::Logs if device(&self.paths.logs) == Some(disk) => {
                let (snapshot, paths) = (self.service.snapshot(), self.paths.clone());
                let given = spawn_blocking(move || log_volume::give_back(&snapshot, &paths, lack));
                if let Err(error) = given.await {
                    tracing::error!(%error, "removing logs panicked");
                }
            }
            Spare::Images | Spare::Logs => {}
        }
    }

    async fn give_back_images(&self, bytes: u64) {
        match self.images.give_back(bytes).await {
            Ok(collected) if !collected.images.is_empty() => tracing::warn!(
                freed = collected.freed,
                images = collected.images.len(),
                "the disk is short; removed images that nobody uses"
            ),
            Ok(_) => {}
            Err(error) => {
                let error = super::chain(&error);
                tracing::error!(error, "can't remove images from the full disk");
            }
        }
    }

    /// The pods that run, with what they use.
    async fn candidates(
        &mut self,
        snapshot: &Arc<Snapshot>,
        shortage: &Shortage,
    ) -> Vec<Candidate> {
        let resource = shortage.resource;
        if resource == Resource::Memory {
            let Some(readings) = self.service.whole_usage(snapshot, Detail::Processes).await else {
                tracing::warn!(
                    "what pods use is not known in time; none is evicted for memory yet"
                );
                return Vec::new();
            };
            let used = readings.pods.iter().map(|(view, used)| {
                let used = used.iter().map(|it| (it.name.clone(), it.working_set_bytes));
                let used: Vec<_> = used.collect();
                (view.clone(), used)
            });
            let used = used.filter_map(|(view, used)| memory_candidate(&view, &used));
            return used.collect();
        }
        let (snapshot, paths) = (snapshot.clone(), self.paths.clone());
        let disk = disk_of(shortage);
        let begun = BootTime::now();
        let walked = in_thread(move || {
            let running = snapshot.pods.iter().filter(|pod| is_active(pod));
            let found = running.filter_map(|pod| disk_candidate(pod, &paths, resource, disk));
            found.filter(|pod| pod.used >= worth(resource)).collect::<Vec<_>>()
        });
        let walked = walked.await.unwrap_or_default();
        let now = BootTime::now();
        self.count_at = now.plus(Millis(now.since(begun).0.saturating_mul(PAUSE_FACTOR)));
        walked
    }

    /// Waits until nothing is left of an evicted pod.
    async fn until_gone(&self, id: PodId) {
        let mut snapshots = self.service.subscribe();
        let gone = async {
            loop {
                let view = snapshots.borrow_and_update().clone();
                let view = view.pods.iter().find(|pod| pod.record.id == id);
                if view.is_none_or(|view| matches!(view.record.phase, RecordPhase::Finished { .. }))
                    || snapshots.changed().await.is_err()
                {
                    return;
                }
            }
        };
        let most = Duration::from(GRACE_MAX) + Duration::from(GONE_MARGIN);
        if timeout(most, gone).await.is_err() {
            tracing::warn!(%id, "an evicted pod does not go");
        }
    }
}

fn short(strain: Option<&Strain>) -> Option<Shortage> {
    strain.filter(|strain| strain.met).map(|strain| strain.shortage.clone())
}

fn is_active(pod: &PodView) -> bool {
    let runs = pod.report.as_ref().is_some_and(|report| report.finished.is_none());
    pod.record.phase == RecordPhase::Active && runs
}

/// How much of it a pod has to have to be evicted: who has next to nothing on a disk that others
/// have filled gives nothing back.
fn worth(resource: Resource) -> u64 {
    match resource {
        Resource::Memory => 0,
        Resource::Disk => DISK_WORTH,
        Resource::Inodes => INODES_WORTH,
    }
}

/// The file system that is short.
fn disk_of(shortage: &Shortage) -> Option<u64> {
    device(Path::new(shortage.place.as_ref()?))
}

fn device(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|found| found.dev())
}

fn memory_candidate(view: &PodView, used: &[(ContainerName, Option<u64>)]) -> Option<Candidate> {
    // Where the kernel does not count memory, nobody is to blame.
    let is_known = used.iter().all(|(_, used)| used.is_some());
    let spec = view.spec.as_ref().filter(|_| is_active(view) && is_known)?;
    let request =
        |resources: &Resources| resources.memory_request_bytes.or(resources.memory_limit_bytes);
    let uses: Vec<Use> = used
        .iter()
        .map(|(name, used)| {
            let container = spec.container(name);
            let requested = container.and_then(|container| request(&container.resources));
            let requested = requested.unwrap_or(0);
            Use { container: name.clone(), used: used.unwrap_or(0), requested }
        })
        .collect();
    let all = uses.iter().fold(0_u64, |sum, it| sum.saturating_add(it.used));
    Some(candidate(view, spec, all, spec.request(request), uses))
}

fn disk_candidate(
    view: &PodView,
    paths: &Paths,
    resource: Resource,
    disk: Option<u64>,
) -> Option<Candidate> {
    let spec = view.spec.as_ref()?;
    let footprint = Footprint::of(&paths.pod(view.record.id, &view.record.name), spec, disk);
    let amount = |size: super::footprint::Size| match resource {
        Resource::Inodes => size.inodes,
        Resource::Disk | Resource::Memory => size.bytes,
    };
    // Nobody requests inodes.
    let request = |resources: &Resources| match resource {
        Resource::Inodes => 0,
        Resource::Disk | Resource::Memory => resources.storage_request(),
    };
    let uses = footprint.containers.iter().map(|(name, size)| {
        let container = spec.container(name);
        let requested = container.map_or(0, |container| request(&container.resources));
        Use { container: name.clone(), used: amount(*size), requested }
    });
    let requested = spec.demand(request);
    let uses = uses.collect();
    Some(candidate(view, spec, amount(footprint.total()), requested, uses))
}

fn candidate(
    view: &PodView,
    spec: &PodSpec,
    used: u64,
    requested: u64,
    uses: Vec<Use>,
) -> Candidate {
    let (id, revision) = (view.record.id, view.record.accepted.number);
    Candidate { id, revision, priority: spec.priority, used, requested, uses }
}

/// Does what takes long on a thread that lives as long: those of the runtime are for workers.
pub(super) async fn in_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (answer, answered) = tokio::sync::oneshot::channel();
    let spawned = std::thread::Builder::new().name("measure".to_owned()).spawn(move || {
        // Who asked may have gone.
        let _gone = answer.send(work());
    });
    if let Err(error) = &spawned {
        tracing::warn!(%error, "can't start a thread to measure with");
    }
    answered.await.ok()
}

/// Returns when a limit has changed; an error if the agent is ending.
async fn changed(
    snapshots: &mut watch::Receiver<Arc<Snapshot>>,
    limits: &PressureLimits,
) -> Result<(), watch::error::RecvError> {
    loop {
        snapshots.changed().await?;
        if snapshots.borrow_and_update().agent.pressure != *limits {
            return Ok(());
        }
    }
}

/// What the kernel tells of stalls with.
fn stalls() -> io::Result<AsyncFd<File>> {
    let mut file = File::options().read(true).write(true).open(STALLS)?;
    file.write_all(format!("{STALL}\0").as_bytes())?;
    #[expect(
        deprecated,
        reason = "`register` is unsafe for descriptors that may change; a File does not"
    )]
    AsyncFd::with_interest(file, Interest::PRIORITY)
}

async fn stalled(stalls: Option<&AsyncFd<File>>) {
    let Some(stalls) = stalls else { return std::future::pending().await };
    match stalls.ready(Interest::PRIORITY).await {
        Ok(mut ready) => ready.clear_ready(),
        Err(_) => std::future::pending().await,
    }
}

fn sample(paths: &Paths) -> Sample {
    let memory = std::fs::read_to_string("/proc/meminfo").ok();
    let mut seen = Vec::new();
    let mut disks = Vec::new();
    for place in [&paths.data, &paths.logs] {
        let Some(device) = device(place) else { continue };
        if !seen.contains(&device) {
            seen.push(device);
            disks.extend(disk(place));
        }
    }
    Sample { memory: memory.and_then(|text| memory_level(&text)), disks }
}

/// From proc_meminfo(5), in units of 1024 bytes.
fn memory_level(text: &str) -> Option<Level> {
    let amount = |name: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kib: u64 = found.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib.saturating_mul(1024))
    };
    Some(Level { capacity: amount("MemTotal")?, available: amount("MemAvailable")? })
}

fn disk(place: &Path) -> Option<DiskLevel> {
    let found = match rustix::fs::statvfs(place) {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, path = %place.display(), "can't see how full the disk is");
            return None;
        }
    };
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    let inodes = Level { capacity: found.f_files, available: found.f_favail };
    Some(DiskLevel {
        place: place.display().to_string(),
        bytes: Level { capacity: bytes(found.f_blocks), available: bytes(found.f_bavail) },
        // Some file systems (btrfs) make inodes as they are needed, and say so by none.
        inodes: (inodes.capacity > 0).then_some(inodes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_the_kernel_says_can_be_had() {
        let text = "MemTotal:       2048 kB\nMemFree:  1 kB\nMemAvailable:   1024 kB\n";
        let level = Level { capacity: 2 << 20, available: 1 << 20 };
        assert_eq!(memory_level(text), Some(level));
        assert_eq!(memory_level("MemTotal: 1 kB\n"), None, "a kernel before 3.14");
    }

    #[test]
    fn directories_on_one_file_system_are_one_disk() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        assert!(sample(&paths).disks.is_empty(), "not there");
        std::fs::create_dir_all(&paths.data).unwrap();
        std::fs::create_dir_all(&paths.logs).unwrap();
        let found = sample(&paths);
        assert_eq!(found.disks.len(), 1);
        assert!(found.memory.is_some_and(|level| level.available <= level.capacity));
        assert!(found.disks[0].bytes.available <= found.disks[0].bytes.capacity);
    }
}
