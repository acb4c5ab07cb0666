//! The agent: the shell around the reconciler. Observe, decide, act, publish.
//!
//! Not here: the decision itself (`reconciler`), what happens inside a pod (`executor`), how a
//! container is made (`containerizer`), and any wire format (`api`).

use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getpriority_process, getrlimit, setpriority_process, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::cgroup::{CgroupBase, CgroupError, Holder};
use crate::clock::{BootId, BootTime, WallTime};
use crate::config::{AgentConfig, ImageSources, Live, NetworkSources, Reserve};
use crate::executor::client::{ExecutorProgram, ProgramError};
use crate::manifest::resolve::Resolver;
use crate::manifest::watcher::{DirectoryObservation, WatchOptions, Watcher};
use crate::metrics::Metrics;
use crate::network::{BridgeSettings, NetworkError, NetworkSettings, Networks, PLUGIN_TIME_MAX};
use crate::provisioner::pull::{Provisioner, PullOptions};
use crate::provisioner::registry::RegistryOptions;
use crate::provisioner::store::{Contention, Store as ImageStore, StoreError as ImageStoreError};
use crate::reconciler::{ActualPod, ActualState, ExecutorState, Node, Requests};
use crate::state::checkpoint::CheckpointError;
use crate::state::paths::Paths;
use crate::state::record::PodRecord;
use crate::state::store::{
    Change, Contents, EventKind, EventRecord, Opening, StoreError, open_or_rebuild,
};
use crate::state::writer::{self, StoreHandle};
use crate::sys;

mod configs;
mod core;
mod events;
mod footprint;
mod image_directory;
mod image_keeper;
mod images;
mod inspect;
mod link;
mod local_storage;
mod log_volume;
mod manifests;
mod pressure;
mod publish;
mod pull_secrets;
mod put;
mod recover;
mod reload;
mod requests;
pub mod service;
pub mod sessions;
pub mod shutdown;
mod starts;
mod traffic;
mod usage;
mod worker;

pub(crate) use crate::errors::chain;
pub use recover::RecoverError;
pub use reload::Reload;

use self::core::{Core, Inputs};
use image_keeper::ImageKeeper;
use images::Images;
use manifests::Manifests;
use publish::{Publisher, Saved};
use reload::Reloaded;
use service::{AgentView, Pressure, REQUESTS_MAX, Request, Service};
use usage::Meter;
use worker::Context;

/// The agent's priority, as in setpriority(2).
const NICENESS: i32 = -10;
/// Threads of the runtime.
const RUNTIME_THREADS: usize = 2;
/// Threads for what may block: file systems and waiting for processes to end.
const BLOCKING_THREADS_MAX: usize = 16;
/// Between two times at which the loop lets go of the program's pages: an idle one is woken as often.
const TEXT_TIME: Duration = Duration::from_secs(20);
/// Updates of workers waiting for the loop.
const UPDATES_MAX: usize = 256;
/// Observations of manifest directories waiting for the loop.
const OBSERVATIONS_MAX: usize = 16;
/// The agent's configuration, and by default the manifests.
const CONFIGURATION: &str = "/etc/roost";
/// Events of executors waiting for the loop.
const LINK_EVENTS_MAX: usize = 1024;

/// Why the agent can't run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// A directory of its own can't be made.
    #[error("can't make the directory {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something of the operating system is missing.
    #[error("can't {attempted}")]
    System {
        /// What was attempted.
        attempted: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The store can't be used.
    #[error("can't use the store")]
    Store(#[source] StoreError),
    /// The images can't be used.
    #[error("can't use the store of images")]
    Images(#[source] ImageStoreError),
    /// The cgroups can't be used.
    #[error("can't use cgroups")]
    Cgroups(#[source] CgroupError),
    /// The executor's program can't be used.
    #[error("can't use the executor's program")]
    Executor(#[source] ProgramError),
    /// What is there can't be looked at.
    #[error("can't find out what is there")]
    Recover(#[source] RecoverError),
    /// The key for hashes over ConfigMaps and Secrets can't be read or made.
    #[error("can't keep the key for hashes over ConfigMaps and Secrets")]
    Key(#[source] CheckpointError),
    /// What pods are attached to is not known.
    #[error("can't find out what networks pods are in")]
    Networks(#[source] NetworkError),
    /// The API can't be served.
    #[error("can't serve the API")]
    Api(#[source] crate::api::ServeError),
}

/// Runs the agent until it is told to end by SIGTERM or SIGINT. Pods are left alone then. At
/// SIGHUP the configuration is read again by `reload`.
///
/// # Errors
/// When it can't start; nothing has been changed then but for what recovery itself does.
pub fn run(config: AgentConfig, reload: Reload) -> Result<(), AgentError> {
    // All threads get it from this one.
    raise_priority();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .enable_all()
        .build()
        .map_err(|source| AgentError::System { attempted: "start the runtime", source })?;
    let ended = runtime.block_on(Box::pin(serve(config, reload)));
    // Blocked threads hold nothing that the next start needs.
    runtime.shutdown_background();
    ended
}

/// The agent holds two descriptors for each pod, so the usual 1024 end at some 500 pods. Programs
/// that can't deal with more (select(2)) get the usual limit again when they are started.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "can't raise the limit of open files");
    }
}

/// What goes first when hundreds of containers start at once, or take all processors, is who looks
/// after them: whoever asks the agent something then is answered in time. Executors begin with the
/// usual priority again. A priority that somebody else has chosen stays.
fn raise_priority() {
    if matches!(getpriority_process(None), Ok(0))
        && let Err(error) = setpriority_process(None, NICENESS)
    {
        tracing::debug!(%error, "can't raise the agent's priority");
    }
}

fn this_boot() -> Result<BootId, AgentError> {
    BootId::current().map_err(|source| AgentError::System { attempted: "read the boot id", source })
}

async fn serve(config: AgentConfig, reload: Reload) -> Result<(), AgentError> {
    raise_descriptor_limit();
    let mut signals = Signals::new()?;
    let AgentConfig { pods, paths, logs, cgroup, executor, images: sources, live, .. } =
        config.clone();
    make_directories(&paths)?;
    let (mut store, opening) = open_or_rebuild(&paths.store()).map_err(AgentError::Store)?;
    let (contents, store_text) = opened(opening);
    let boot = this_boot()?;
    let program = Arc::new(ExecutorProgram::open(&executor).map_err(AgentError::Executor)?);
    let holder = Holder { exe: program.as_fd(), argv: &[c"roost-executor".into(), c"park".into()] };
    let cgroups = CgroupBase::open(&cgroup, Some(&holder)).map_err(AgentError::Cgroups)?;
    let Some(image_store) = open_images(&paths, &mut signals.ends).await? else { return Ok(()) };
    let saved_events = contents.events.clone();
    let build = program.build().to_owned();
    let mut found = recover::find(contents, &paths, &cgroups, boot, build, node(&live))
        .map_err(AgentError::Recover)?;
    recover::find_successors(&mut found.actual, &mut store).map_err(AgentError::Store)?;
    found.actual.pressure = pressure::first(&paths, &live.pressure);
    found.actual.images.here = images::whole(&image_store, &found.actual);

    let directories: Vec<String> = pods.iter().map(|path| path.display().to_string()).collect();
    let view = first_view(&config, &cgroups, store_text.as_ref());
    let (mut publisher, snapshots) = Publisher::new(view, saved_events, &found.actual);
    note_oddities(&mut publisher, store_text.as_ref(), &found.oddities);

    let (updates, updates_in) = mpsc::channel(UPDATES_MAX);
    let (link_events, links) = mpsc::channel(LINK_EVENTS_MAX);
    let (requests, requests_in) = mpsc::channel(REQUESTS_MAX);
    let (observed, observations) = mpsc::channel(OBSERVATIONS_MAX);
    let metrics = Arc::new(Metrics::default());
    let (store, _writer) = writer::start(store, metrics.clone())
        .map_err(|source| AgentError::System { attempted: "start the store's writer", source })?;
    let meter = Meter::new(cgroups.clone(), paths.store());
    let context = Arc::new(Context {
        paths: paths.clone(),
        store: store.clone(),
        cgroups,
        program,
        logs,
        masked: masked(&paths, &pods),
        updates,
        metrics: metrics.clone(),
        networks: open_networks(&config, &found.actual, &mut publisher)?,
    });
    record_mended(&store, found.mended).await?;
    let watcher = watch_manifests(&config, &directories, &metrics, observed)?;

    let listener = crate::api::listen(&paths.api_socket()).map_err(AgentError::Api)?;
    let provisioner = Provisioner::new(image_store.clone(), pull_options(&sources));
    let (layers, pulls) = (image_store.clone(), provisioner.clone());
    let keeper = ImageKeeper::new(layers, pulls, context.store.clone(), requests.clone());
    tokio::spawn(empty_trash(image_store.clone()));
    tokio::spawn(keeper.clone().watch_the_disk(snapshots.clone()));
    tokio::spawn(image_directory::keep(keeper.clone(), sources.directories, paths.image_files()));
    let service = Service::new(snapshots, requests.clone()).metered(metrics, meter);
    let service = service.with_images(keeper.clone());
    let pressure = found.actual.pressure.clone();
    keep_limits((service.clone(), paths.clone()), keeper, requests, pressure, this_boot()?);
    tokio::spawn(crate::api::keep_status_files(service.clone()));
    tokio::spawn(log_volume::keep(paths.clone(), service.subscribe()));
    tokio::spawn(crate::api::serve(listener, service));
    let resolver = resolver(&paths, &found.actual)?;
    let manifests = Manifests::unread(&directories, live.strict, resolver);
    let images = Images::new(image_store, provisioner, context.updates.clone());
    let core = Core::new(context, found.actual, manifests, publisher, link_events, images, config);
    let inputs = Inputs { observations, updates: updates_in, links, requests: requests_in };
    let (reloaded, reloads) = mpsc::channel(1);
    let Signals { hangup, ends } = signals;
    tokio::spawn(reload::listen(hangup, reload, reloaded));
    run_loop(core, inputs, ends, reloads, watcher).await;
    Ok(())
}

/// Keeps pods within what the node has, and within their own limits.
fn keep_limits(
    (service, paths): (Service, Paths),
    images: ImageKeeper,
    requests: mpsc::Sender<Request>,
    pressure: Pressure,
    boot: BootId,
) {
    tokio::spawn(local_storage::keep(service.clone(), requests.clone(), paths.clone()));
    let told = None;
    let count_at = BootTime(0);
    let keeper =
        pressure::Keeper { service, images, requests, paths, pressure, told, boot, count_at };
    tokio::spawn(keeper.keep());
}

/// Where runtimes that are made with `libcni` keep what they have attached (its `CacheDir`).
const RESULTS_OF_OTHERS: &str = "/var/lib/cni/results";

/// What pods are attached to, as far as executors are there; of the others it is undone.
fn open_networks(
    config: &AgentConfig,
    actual: &ActualState,
    publisher: &mut Publisher,
) -> Result<Arc<Networks>, AgentError> {
    let NetworkSources { configs, plugins, built_in, bridge, subnets } = config.network.clone();
    let forwarding = config.paths.forwarding();
    let bridge = BridgeSettings { name: bridge, subnets, forwarding };
    let time_max = PLUGIN_TIME_MAX;
    let others = RESULTS_OF_OTHERS.into();
    let names = config.paths.names();
    let settings = NetworkSettings { configs, plugins, time_max, built_in, bridge, names, others };
    let has_executor = |pod: &ActualPod| pod.executor == ExecutorState::Silent;
    let live = actual.pods.iter().filter(|(_, pod)| has_executor(pod)).map(|(id, _)| *id);
    let directory = config.paths.networks();
    let networks = Networks::open(settings, directory, actual.boot.clone(), &live.collect());
    let networks = networks.map(Arc::new).map_err(AgentError::Networks)?;
    publisher
        .set_networks(networks.clone(), configs::node_facts(&actual.node, &config.paths).addresses);
    tokio::spawn(networks.clone().keep());
    Ok(networks)
}

/// What claims are resolved with. What pods that are gone have left of it is removed.
fn resolver(paths: &Paths, actual: &ActualState) -> Result<Resolver, AgentError> {
    configs::sweep_all(paths, actual.pods.values().filter_map(ActualPod::name));
    let key = Arc::new(configs::key(paths).map_err(AgentError::Key)?);
    Ok(Resolver { key, node: configs::node_facts(&actual.node, paths) })
}

async fn run_loop(
    mut core: Core,
    mut inputs: Inputs,
    ends: Ends,
    mut reloads: mpsc::Receiver<Reloaded>,
    watcher: Watcher,
) {
    let watchdog = sd_notify::watchdog_enabled().map(|limit| limit / 2);
    let mut ready = false;
    let mut text_since: Option<Instant> = None;
    let Ends { mut terminate, mut interrupt, mut child } = ends;
    loop {
        let idle = core.turn();
        if !ready && core.is_recovered() {
            ready = true;
            notify(&[sd_notify::NotifyState::Ready]);
            tracing::info!("ready");
        }
        // Most of an idle agent's memory would be what only its start, or a burst of work, has used.
        if ready && text_since.is_none_or(|since| since.elapsed() >= TEXT_TIME) {
            text_since = Some(Instant::now());
            if let Err(error) = sys::let_go_of_text() {
                tracing::debug!(%error, "can't let go of the program's pages");
            }
        }
        if watchdog.is_some() {
            notify(&[sd_notify::NotifyState::Watchdog]);
        }
        // Told by the loop itself, so that a loop that hangs is noticed.
        let idle = [idle, watchdog].into_iter().flatten().min();
        tokio::select! {
            // Cancel-safe: see `Core::listen`; signals are counted by tokio, not lost; `recv` of a
            // channel loses nothing.
            () = core.listen(&mut inputs, idle) => {}
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            // Executors: that they ended is learned elsewhere.
            _ = child.recv() => crate::network::reap(),
            Some(reloaded) = reloads.recv() => {
                core.reconfigure(reloaded);
                watcher.relist_every(core.config.live.relist);
            }
        }
    }
    notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("ending; pods go on");
}

/// Signals the agent listens to.
struct Signals {
    hangup: Signal,
    ends: Ends,
}

/// Those the loop listens to itself.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
    child: Signal,
}

impl Signals {
    fn new() -> Result<Self, AgentError> {
        let listen = |kind| {
            signal(kind)
                .map_err(|source| AgentError::System { attempted: "listen to signals", source })
        };
        Ok(Self {
            hangup: listen(SignalKind::hangup())?,
            ends: Ends {
                terminate: listen(SignalKind::terminate())?,
                interrupt: listen(SignalKind::interrupt())?,
                child: listen(SignalKind::child())?,
            },
        })
    }
}

impl Ends {
    /// Returns when the agent is told to end.
    async fn told(&mut self) {
        tokio::select! {
            // Cancel-safe: signals are counted by tokio, not lost.
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn notify(states: &[sd_notify::NotifyState<'_>]) {
    // Without systemd there is nobody to tell.
    let _no_systemd = sd_notify::notify(states);
}

/// Opens the store of images; none if the agent is told to end before that. Another agent is not there
/// (it would have the store of records), but somebody may be listing or loading images without one.
async fn open_images(paths: &Paths, ends: &mut Ends) -> Result<Option<ImageStore>, AgentError> {
    let directory = paths.images();
    match ImageStore::open(&directory, Contention::Refuse) {
        Err(ImageStoreError::Locked { .. }) => {}
        opened => return opened.map(Some).map_err(AgentError::Images),
    }
    tracing::warn!("the store of images is in use by a command; waiting for its end");
    // Not a thread of the runtime, whose end would wait for it.
    let (opened, opening) = oneshot::channel();
    let wait = move || {
        let store = ImageStore::open(&directory, Contention::Wait);
        // Whoever asked may have been told to end.
        drop(opened.send(store));
    };
    let system = |attempted| move |source| AgentError::System { attempted, source };
    std::thread::Builder::new()
        .name("images".into())
        .spawn(wait)
        .map_err(system("start a thread that waits for the store of images"))?;
    let opened = tokio::select! {
        // Cancel-safe: what is dropped is not used any more.
        opened = opening => opened.map_err(std::io::Error::other),
        () = ends.told() => return Ok(None),
    };
    let opened = opened.map_err(system("wait for the store of images"))?;
    opened.map(Some).map_err(AgentError::Images)
}

/// Removes what a crash or a removal left of images, which may take long, and which nobody waits for.
async fn empty_trash(store: ImageStore) {
    let emptied = tokio::task::spawn_blocking(move || store.empty_trash()).await;
    if let Ok(Err(error)) = emptied {
        tracing::warn!(error = chain(&error), "can't remove what is left of images");
    }
}

/// Records what was mended of pods.
async fn record_mended(store: &StoreHandle, mended: Vec<PodRecord>) -> Result<(), AgentError> {
    if mended.is_empty() {
        return Ok(());
    }
    let changes = mended.into_iter().map(Change::PutPod).collect();
    store.commit(changes).await.map_err(AgentError::Store)
}

/// Begins to watch the manifests.
fn watch_manifests(
    config: &AgentConfig,
    directories: &[String],
    metrics: &Metrics,
    observed: mpsc::Sender<DirectoryObservation>,
) -> Result<Watcher, AgentError> {
    let options = WatchOptions {
        relist: config.live.relist,
        metrics: metrics.watcher.clone(),
        ..WatchOptions::new(directories.to_vec())
    };
    if let Some(first) = config.pods.first().cloned() {
        // Nothing waits for it: the directory may be on a file system that hangs.
        tokio::task::spawn_blocking(move || put::remove_drafts(&first));
    }
    // The loop is gone only when the agent ends.
    let sink = move |observation| drop(observed.blocking_send(observation));
    Watcher::start(options, sink)
        .map_err(|source| AgentError::System { attempted: "watch the manifests", source })
}

/// How images are pulled.
fn pull_options(sources: &ImageSources) -> PullOptions {
    let ImageSources { directories: _, auth_files, hosts_dirs } = sources.clone();
    let registry = RegistryOptions { auth_files, hosts_dirs, ..RegistryOptions::default() };
    PullOptions { registry, ..PullOptions::default() }
}

/// What was in the store, and, if that needs to be said, how it was found.
fn opened(opening: Opening) -> (Contents, Option<String>) {
    match opening {
        Opening::Fresh => (Contents::default(), None),
        Opening::Loaded(contents) => (contents, None),
        Opening::Rebuilt { why, moved_to } => {
            let aside = moved_to.map_or_else(
                || "it was gone".to_owned(),
                |path| format!("it was moved to {}", path.display()),
            );
            let text = format!(
                "the store was doubtful ({why}); {aside}, and is rebuilt from the pod \
                 directories, what runs, and the manifests"
            );
            (Contents::default(), Some(text))
        }
    }
}

/// What is to be seen of the agent itself, at first.
fn first_view(config: &AgentConfig, cgroups: &CgroupBase, store: Option<&String>) -> AgentView {
    AgentView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: WallTime::now(),
        started: BootTime::now(),
        store: store.cloned().unwrap_or_else(|| service::SOUND.to_owned()),
        store_fault: None,
        config_fault: None,
        restart_for: Vec::new(),
        log_node_bytes: config.live.log_node_bytes,
        image_gc: config.live.image_gc,
        pressure: config.live.pressure,
        cgroups: describe(cgroups),
        cgroup: config.cgroup.clone(),
        directories: config.pods.iter().map(|path| path.display().to_string()).collect(),
        paths: config.paths.clone(),
    }
}

fn note_oddities(publisher: &mut Publisher, store: Option<&String>, oddities: &[String]) {
    let at = WallTime::now();
    let rebuilt = store.into_iter().map(|text| ("StoreRebuilt", text));
    for (reason, text) in rebuilt.chain(oddities.iter().map(|text| ("Damaged", text))) {
        tracing::warn!(reason, "{text}");
        let event = EventRecord::once(at, None, EventKind::Warning, reason, text);
        publisher.add_event(event, Saved::No);
    }
}

/// How the host limits and kills, in words.
fn describe(cgroups: &CgroupBase) -> String {
    let missing: Vec<&str> = cgroups.unsupported().iter().map(|c| c.purpose()).collect();
    let kind = if cgroups.is_hybrid() { "hybrid (v1 controllers, v2 tree)" } else { "v2" };
    if missing.is_empty() {
        kind.to_owned()
    } else {
        format!("{kind}; not limited here: {}", missing.join(", "))
    }
}

/// What this machine has for pods, by this configuration.
fn node(live: &Live) -> Node {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let capacity = Requests {
        cpu_milli: u64::try_from(cpus).unwrap_or(u64::MAX).saturating_mul(1000),
        memory_bytes: memory_bytes().unwrap_or_else(|| {
            // Better too much is started than nothing at all.
            tracing::warn!("/proc/meminfo does not say how much memory there is");
            u64::MAX
        }),
    };
    let Reserve { cpu_milli, memory_bytes } = live.reserve;
    Node {
        capacity,
        reserve: Requests { cpu_milli, memory_bytes },
        max_pods: live.max_pods,
        labels: live.labels.clone(),
        sysctls: live.allowed_sysctls.clone(),
        host_paths: live.allowed_host_paths.clone(),
    }
}

/// All memory of the machine: `MemTotal` in proc_meminfo(5), in units of 1024 bytes.
fn memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = total.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib.saturating_mul(1024))
}

/// Makes the agent's directories. Data and runtime are for root alone.
fn make_directories(paths: &Paths) -> Result<(), AgentError> {
    let private = [paths.data.clone(), paths.pods(), paths.runtime_pods()];
    let make = |path: &Path, mode: u32| {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(path)
            .map_err(|source| AgentError::Directory { path: path.to_owned(), source })
    };
    // The API's socket has to be reachable for the group `roost`.
    make(&paths.runtime, 0o755)?;
    make(&paths.logs, 0o755)?;
    private.iter().try_for_each(|path| make(path, 0o700))
}

/// What no container may see of the host's files: the agent's own, and the manifests, because of
/// the Secrets of others in them.
fn masked(paths: &Paths, manifests: &[PathBuf]) -> Vec<PathBuf> {
    let own = [&paths.data, &paths.runtime, &paths.logs].map(PathBuf::as_path);
    let all = own.into_iter().chain([Path::new(CONFIGURATION)]);
    let all = all.chain(manifests.iter().map(PathBuf::as_path));
    // A directory that is not there yet may come.
    let absolute = |path: &Path| std::fs::canonicalize(path).or_else(|_| std::path::absolute(path));
    all.filter_map(|path| absolute(path).ok()).collect()
}
