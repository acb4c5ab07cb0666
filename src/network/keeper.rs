//! [`Networks`]: which pod is attached to what, and everything that makes it so or undoes it.
//!
//! ```text
//!              announced, durable     plugins, or the bridge     result, durable
//!   attach() ──────────────────► [file] ─────────► ADD … ADD ─────────────────► held, addresses
//!      │ failed                                       │                              │
//!      └───────────── DEL … DEL ◄─────────────────────┘          detach(), forget() ─┘
//!                        │ done: the file is removed       │ failed: tried again, later and later
//! ```
//!
//! Every attempt is one file (`record`). After a crash the files say what there may be; those of
//! instances that are gone, of another boot, or that were never finished, are undone. Not here:
//! what plugins are told (`request`), and how they are run (`plugin`); which networks a pod is to be
//! in (`choice`), and how the built-in one is made (`bridge`).

mod garbage;
mod health;
mod names;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;

use self::garbage::Gate;
use super::bridge::{Bridge, BridgeError, BridgeSettings, Ports};
use super::choice;
use super::config::{NetworkConfig, kind};
use super::error::NetworkError;
use super::namespace;
use super::plugin::{PluginError, Run, Runner};
use super::record::{Attachment, ByBridge, ByPlugins, NetworkFile, Progress, Way};
use super::request::{self, Command, PortMapping, Target};
use super::rules::PortRule;
use super::subnet::{self, Subnet};
use crate::cgroup::Entry;
use crate::clock::BootId;
use crate::errors::chain;
use crate::ids::{PodId, PodName};
use crate::manifest::pod::PodSpec;
use crate::state::checkpoint::{self, CheckpointError, Format};

/// How long one plugin may take.
pub const PLUGIN_TIME_MAX: Duration = Duration::from_secs(30);
/// First delay after a release that failed; doubled each time.
const RELEASE_DELAY: Duration = Duration::from_secs(1);
/// Longest delay after that.
const RELEASE_DELAY_MAX: Duration = Duration::from_secs(300);
/// Most attempts for one instance that are not undone: no other is made then.
const UNDONE_MAX: usize = 8;
/// What the host's end of a pod's interface is called, with 8 letters of its attempt.
const LINK: &str = "roost";

/// Where networks are configured, and their plugins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSettings {
    /// The directory with configurations.
    pub configs: PathBuf,
    /// Directories with plugins.
    pub plugins: Vec<PathBuf>,
    /// How long one plugin may take.
    pub time_max: Duration,
    /// Whether pods are in the built-in network where nothing is configured.
    pub built_in: bool,
    /// That one.
    pub bridge: BridgeSettings,
    /// The file that says what pods are called.
    pub names: PathBuf,
    /// Where other runtimes keep what they have attached by plugins.
    pub others: PathBuf,
}

/// A pod that is to be attached.
#[derive(Debug, Clone)]
pub struct PodRequest {
    /// The instance.
    pub id: PodId,
    /// What it is.
    pub spec: Arc<PodSpec>,
    /// The cgroup that plugins run in, so that they end with the pod's processes.
    pub entry: Option<Arc<Entry>>,
}

/// A network namespace that a pod is to be in.
#[derive(Debug)]
pub struct Attached {
    /// The namespace.
    pub namespace: OwnedFd,
    /// The pod's addresses, the first one first; none if it is in no network.
    pub addresses: Vec<IpAddr>,
}

/// Which pod is attached to what.
#[derive(Debug)]
pub struct Networks {
    settings: NetworkSettings,
    runner: Runner,
    bridge: Arc<Bridge>,
    /// Where the records are.
    directory: PathBuf,
    boot: BootId,
    state: Arc<Mutex<State>>,
    /// Told when there is something to be released.
    work: Notify,
    /// Told when there is a pod in the built-in network.
    bridged: Notify,
    /// Told when a pod has got addresses or lost them, and what hears of it when that is written.
    renamed: Notify,
    named: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    /// By attempt.
    attempts: BTreeMap<String, Known>,
    /// Pods that are being attached.
    attaching: BTreeMap<PodName, Arc<Notify>>,
    /// The address that was given last, of the built-in network.
    given: Option<IpAddr>,
    /// Records that can't be read, by name, with all that looks like an address in them: those are
    /// not given to anybody.
    unreadable: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Networks of plugins, by name.
    gates: BTreeMap<String, Arc<Gate>>,
}

#[derive(Debug, Clone)]
struct Known {
    file: Arc<NetworkFile>,
    use_: Use,
    /// Held, because plugins look at it to undo what they did in it.
    namespace: Option<Arc<OwnedFd>>,
}

/// What is to become of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// A pod is attached by it, or is being attached.
    Kept,
    /// It is to be undone by [`Networks::keep`].
    Released,
    /// That is under way.
    Going,
}

impl Networks {
    /// Reads what there may be of attachments. `live` says of which instances something may run:
    /// what others have is undone by [`Self::keep`].
    ///
    /// # Errors
    /// If the directory of records can't be made or read.
    pub fn open(
        settings: NetworkSettings,
        directory: PathBuf,
        boot: BootId,
        live: &BTreeSet<PodId>,
    ) -> Result<Self, NetworkError> {
        let io = |source| NetworkError::Configs { path: directory.clone(), source };
        checkpoint::create_dir_durable(&directory).map_err(io)?;
        checkpoint::sweep(&directory).map_err(NetworkError::Record)?;
        let (mut attempts, mut unreadable) = (BTreeMap::new(), BTreeMap::new());
        for entry in fs::read_dir(&directory).map_err(io)? {
            let path = entry.map_err(io)?.path();
            match checkpoint::read::<NetworkFile>(&path) {
                Ok(Some(file)) => {
                    let is_live = file.boot == boot && file.is_whole() && live.contains(&file.id);
                    let use_ = if is_live { Use::Kept } else { Use::Released };
                    let known = Known { file: Arc::new(file), use_, namespace: None };
                    attempts.insert(known.file.attempt.clone(), known);
                }
                Ok(None) => {}
                // It is damaged, or another build's, which may come back. What it is about may be
                // in use, so that nobody else gets its addresses.
                Err(error) => {
                    let bytes = fs::read(&path).unwrap_or_default();
                    unreadable.insert(name_of(&path), addresses_in(&bytes));
                    let (path, error) = (path.display().to_string(), chain(&error));
                    tracing::warn!(
                        path,
                        error,
                        "a record of a pod's network can't be read: what it \
                        is about is not undone, and its addresses are given to nobody, until it is \
                        removed and the agent is started again"
                    );
                }
            }
        }
        let runner = Runner::new(settings.plugins.clone(), settings.time_max);
        let kept = attempts.values().filter(|known: &&Known| known.use_ == Use::Kept);
        let bridged: Vec<ByBridge> = kept.flat_map(|known| known.file.bridged().cloned()).collect();
        let subnets = bridged.first().map(|pod| pod.subnets.clone()).unwrap_or_default();
        let bridge = Arc::new(Bridge::new(settings.bridge.clone(), boot.clone(), &subnets));
        let given = bridged.iter().filter_map(|pod| pod.addresses.first()).max().copied();
        let state = State { attempts, given, unreadable, ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let (work, bridged, renamed) = (Notify::new(), Notify::new(), Notify::new());
        let named = watch::Sender::new(());
        let kept = Self {
            settings,
            runner,
            bridge,
            directory,
            boot,
            state,
            work,
            bridged,
            renamed,
            named,
        };
        Ok(kept)
    }

    /// Gives a pod its network; none if it is to have no other than its own loopback interface.
    /// What was there of an earlier attempt is undone, in the background.
    ///
    /// # Errors
    /// Why it has none. Nothing is left of it then but what [`Self::keep`] undoes.
    pub async fn attach(&self, pod: PodRequest) -> Result<Option<Attached>, NetworkError> {
        let PodRequest { id, spec, entry } = pod;
        if let Err(error) = self.detach(id).await {
            // It is tried again; what is new has an id of its own.
            tracing::warn!(%id, error = chain(&error), "can't undo an earlier network of the pod");
        }
        let (configs, built_in) = (self.settings.configs.clone(), self.settings.built_in);
        let name = spec.name.clone();
        let chosen = spawn_blocking(move || choice::wanted(&spec, &configs, built_in)).await;
        let attachments = chosen.unwrap_or_else(|error| {
            let (path, source) = (self.settings.configs.clone(), io::Error::other(error));
            Err(NetworkError::Configs { path, source })
        })?;
        if attachments.is_empty() {
            return Ok(None);
        }
        let file = self.announced(id, name.clone(), attachments).await?;
        let interrupt = Arc::new(Notify::new());
        self.lock().attaching.insert(name.clone(), interrupt.clone());
        let attached = self.add_all(file, entry, &interrupt).await;
        self.lock().attaching.remove(&name);
        if attached.is_err() {
            self.forget(id);
        }
        attached.map(Some)
    }

    /// An attempt that is known from now on, with addresses that are its own.
    async fn announced(
        &self,
        id: PodId,
        name: PodName,
        mut attachments: Vec<Attachment>,
    ) -> Result<NetworkFile, NetworkError> {
        let is_bridged = attachments.iter().any(|it| matches!(it.way, Way::Bridge(_)));
        let subnets = if is_bridged {
            self.with_bridge(|bridge, _| bridge.subnets()).await?
        } else {
            Vec::new()
        };
        let mut state = self.lock();
        let count = state.attempts.values().filter(|known| known.file.id == id).count();
        if count >= UNDONE_MAX {
            return Err(NetworkError::Undone { count });
        }
        let bits = loop {
            let bits = random_bits().map_err(NetworkError::Namespace)?;
            // The host's end of an interface is named by these alone.
            let mut all = state.attempts.keys().chain(state.unreadable.keys());
            if !all.any(|attempt| attempt.ends_with(&bits)) {
                break bits;
            }
        };
        for attachment in &mut attachments {
            if let Way::Bridge(pod) = &mut attachment.way {
                pod.link = format!("{LINK}{bits}");
                pod.subnets.clone_from(&subnets);
                pod.addresses = state.lease(&subnets, &pod.addresses)?;
                state.check_mac(pod.mac.as_deref())?;
            }
        }
        let (attempt, boot) = (format!("{id}.{bits}"), self.boot.clone());
        let file = NetworkFile { format: Format, attempt, id, name, boot, attachments };
        let known = Known { file: Arc::new(file.clone()), use_: Use::Kept, namespace: None };
        state.attempts.insert(file.attempt.clone(), known);
        Ok(file)
    }

    async fn add_all(
        &self,
        mut file: NetworkFile,
        entry: Option<Arc<Entry>>,
        interrupt: &Notify,
    ) -> Result<Attached, NetworkError> {
        // The namespace is made meanwhile.
        let (namespace, announced) =
            tokio::join!(spawn_blocking(namespace::make), self.save(file.clone(), Write::New));
        announced?;
        let namespace = namespace.map_err(io::Error::other).and_then(|made| made);
        let namespace = Arc::new(namespace.map_err(NetworkError::Namespace)?);
        if let Some(known) = self.lock().attempts.get_mut(&file.attempt) {
            known.namespace = Some(namespace.clone());
        }
        for index in 0..file.attachments.len() {
            match &file.attachments[index].way {
                Way::Plugins(_) => {
                    let add = self.add_by_plugins(&mut file, index, &namespace, entry.clone());
                    tokio::select! {
                        // Cancel-safe: the plugin is killed when its run is dropped.
                        added = add => added?,
                        () = interrupt.notified() => return Err(NetworkError::Interrupted),
                    }
                }
                Way::Bridge(pod) => {
                    let interface = file.attachments[index].interface.clone();
                    let (pod, namespace) = (pod.clone(), namespace.clone());
                    self.with_bridge(move |bridge, ports| {
                        bridge.add(&pod, &interface, &namespace, ports)
                    })
                    .await?;
                    self.bridged.notify_one();
                }
            }
            file.attachments[index].progress = Progress::Done;
            // Whatever becomes of the next one, this is undone by what it was made to.
            if index + 1 < file.attachments.len() {
                self.save(file.clone(), Write::Again).await?;
            }
        }
        let addresses = file.addresses();
        self.save(file, Write::Again).await?;
        self.renamed.notify_one();
        let namespace = namespace.try_clone().map_err(NetworkError::Namespace)?;
        Ok(Attached { namespace, addresses })
    }

    async fn add_by_plugins(
        &self,
        file: &mut NetworkFile,
        index: usize,
        namespace: &OwnedFd,
        entry: Option<Arc<Entry>>,
    ) -> Result<(), NetworkError> {
        let target = target(file, index, Some(namespace));
        let Way::Plugins(ByPlugins { network, runtime, .. }) = file.attachments[index].way.clone()
        else {
            return Ok(());
        };
        let _in_use = self.gate(&network.name).enter().await;
        let mut before: Option<Value> = None;
        for (at, plugin) in network.plugins.iter().enumerate() {
            let input = request::input(&network, plugin, &runtime, before.as_ref());
            let target = Some(&target);
            let add = self.run(&network, kind(plugin), Command::Add, target, &input, entry.clone());
            let result = request::result(&add.await?).map_err(|why| NetworkError::Plugin {
                plugin: kind(plugin).to_owned(),
                network: network.name.clone(),
                command: Command::Add,
                source: PluginError::Failed(why),
            })?;
            if before.as_ref() != Some(&result) {
                if let Way::Plugins(by) = &mut file.attachments[index].way {
                    by.result = Some(result.clone());
                }
                // Others undo only what the result names: it is durable before they do anything.
                if at + 1 < network.plugins.len() {
                    self.save(file.clone(), Write::Again).await?;
                }
                before = Some(result);
            }
        }
        Ok(())
    }

    /// Undoes what an instance has of networks, and waits for that. What fails is tried again in
    /// the background.
    ///
    /// # Errors
    /// Why something may be left.
    pub async fn detach(&self, id: PodId) -> Result<(), NetworkError> {
        let all: Vec<String> = {
            let mut state = self.lock();
            // What is under way already is not waited for: it may take for ever.
            let of_pod = state
                .attempts
                .iter_mut()
                .filter(|(_, known)| known.file.id == id && known.use_ != Use::Going);
            let all = of_pod.map(|(attempt, known)| {
                // Nobody else needs to try as well.
                known.use_ = Use::Going;
                attempt.clone()
            });
            all.collect()
        };
        self.renamed.notify_one();
        let mut result = Ok(());
        // Dropped also by a panic, or when this is not waited for any more.
        let left: Vec<Going<'_>> =
            all.into_iter().map(|attempt| Going { networks: self, attempt }).collect();
        for going in left {
            if let Err(error) = self.release(&going.attempt).await {
                result = Err(error);
            }
        }
        result
    }

    /// Has undone in the background what an instance has of networks.
    pub fn forget(&self, id: PodId) {
        let mut state = self.lock();
        let mut any = false;
        let kept = |known: &&mut Known| known.file.id == id && known.use_ == Use::Kept;
        for known in state.attempts.values_mut().filter(kept) {
            known.use_ = Use::Released;
            any = true;
        }
        if any {
            self.renamed.notify_one();
            self.work.notify_one();
        }
    }

    /// Ends the attempt to attach a pod that is not wanted like this any more, if there is one.
    pub fn interrupt(&self, pod: &PodName) {
        if let Some(attaching) = self.lock().attaching.get(pod) {
            attaching.notify_one();
        }
    }

    /// Takes hold of the namespace of an instance whose executor was found: plugins need it to
    /// undo what they did in it.
    pub fn hold(self: &Arc<Self>, id: PodId, executor: u32) {
        let mut state = self.lock();
        let mut kept = state.attempts.values_mut().filter(|known| known.use_ == Use::Kept);
        let Some(known) = kept.find(|known| known.file.id == id && known.namespace.is_none())
        else {
            return;
        };
        match namespace::of_process(executor) {
            Ok(namespace) => {
                known.namespace = Some(Arc::new(namespace));
                tokio::spawn(self.clone().check(known.file.attempt.clone()));
            }
            Err(error) => tracing::warn!(%id, %error, "can't hold the pod's network namespace"),
        }
    }

    /// The addresses of an instance.
    #[must_use]
    pub fn addresses(&self, id: PodId) -> Vec<IpAddr> {
        let state = self.lock();
        // Attempts begin with the instance's id.
        let first = format!("{id}.");
        let of_pod = state
            .attempts
            .range(first.clone()..)
            .map_while(|(attempt, known)| attempt.starts_with(&first).then_some(known));
        let mut kept = of_pod.filter(|known| known.use_ == Use::Kept && known.file.is_whole());
        kept.next().map(|known| known.file.addresses()).unwrap_or_default()
    }

    /// Undoes what is to be undone, for as long as the agent lives.
    pub async fn keep(self: Arc<Self>) {
        tokio::spawn(self.clone().keep_bridge());
        tokio::spawn(self.clone().collect_garbage());
        tokio::spawn(self.clone().keep_names());
        loop {
            for attempt in self.released() {
                // Each by itself: a plugin that hangs keeps no other waiting.
                tokio::spawn(self.clone().release_whatever_happens(attempt));
            }
            self.work.notified().await;
        }
    }

    async fn release_whatever_happens(self: Arc<Self>, attempt: String) {
        loop {
            let (networks, attempt) = (self.clone(), attempt.clone());
            let released = tokio::spawn(async move { networks.release_at_last(&attempt).await });
            // A panic is a fault of ours, and must not be what an address is lost by.
            if released.await.is_ok() {
                return;
            }
            tokio::time::sleep(RELEASE_DELAY_MAX).await;
        }
    }

    async fn release_at_last(&self, attempt: &str) {
        let mut delay = RELEASE_DELAY;
        while let Err(error) = self.release(attempt).await {
            tracing::warn!(attempt, error = chain(&error), retry_in = ?delay,
                "can't undo a pod's network");
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(RELEASE_DELAY_MAX);
        }
    }

    /// Attempts that are to be undone, and that nobody undoes yet.
    fn released(&self) -> Vec<String> {
        let mut state = self.lock();
        let all = state.attempts.iter_mut().filter(|(_, known)| known.use_ == Use::Released);
        let all = all.map(|(attempt, known)| {
            known.use_ = Use::Going;
            attempt.clone()
        });
        all.collect()
    }

    /// Undoes one attempt: DEL of all its plugins, the last first, whatever the others say.
    async fn release(&self, attempt: &str) -> Result<(), NetworkError> {
        let Some(Known { file, namespace, .. }) = self.lock().attempts.get(attempt).cloned() else {
            return Ok(());
        };
        let mut result = Ok(());
        for (index, attachment) in file.attachments.iter().enumerate().rev() {
            let done = match &attachment.way {
                Way::Plugins(by) => {
                    let target = target(&file, index, namespace.as_deref());
                    self.delete_by_plugins(by, &target).await
                }
                Way::Bridge(pod) => {
                    let pod = pod.clone();
                    self.with_bridge(move |bridge, ports| bridge.remove(&pod, ports)).await
                }
            };
            if done.is_err() {
                result = done;
            }
        }
        result?;
        let path = self.path(&file.attempt);
        let (removed, directory) = (path.clone(), self.directory.clone());
        let remove = spawn_blocking(move || {
            match fs::remove_file(&removed) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            checkpoint::sync_dir(&directory)
        });
        let removed = remove.await.map_err(io::Error::other).and_then(|removed| removed);
        removed.map_err(|source| NetworkError::Remove { path, source })?;
        self.lock().attempts.remove(&file.attempt);
        Ok(())
    }

    async fn delete_by_plugins(&self, by: &ByPlugins, target: &Target) -> Result<(), NetworkError> {
        let ByPlugins { network, runtime, result: added } = by;
        let mut result = Ok(());
        for plugin in network.plugins.iter().rev() {
            let input = request::input(network, plugin, runtime, added.as_ref());
            let run = self.run(network, kind(plugin), Command::Del, Some(target), &input, None);
            if let Err(error) = run.await {
                result = Err(error);
            }
        }
        result
    }

    /// Runs a plugin; what it printed.
    async fn run(
        &self,
        network: &NetworkConfig,
        plugin: &str,
        command: Command,
        target: Option<&Target>,
        input: &Value,
        entry: Option<Arc<Entry>>,
    ) -> Result<Vec<u8>, NetworkError> {
        let environment = request::environment(command, target, &self.runner.path());
        let input = input.to_string().into_bytes();
        let run = Run { kind: plugin, environment, input, entry };
        self.runner.run(run).await.map_err(|source| NetworkError::Plugin {
            plugin: plugin.to_owned(),
            network: network.name.clone(),
            command,
            source,
        })
    }

    /// Has something done with the built-in network, where it may block. It is told how to find out
    /// what ports of the host are wanted.
    async fn with_bridge<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Bridge, Ports<'_>) -> Result<T, BridgeError> + Send + 'static,
    ) -> Result<T, NetworkError> {
        let (bridge, state) = (self.bridge.clone(), self.state.clone());
        let done = spawn_blocking(move || work(&bridge, &|| lock(&state).ports())).await;
        Ok(done.map_err(|error| BridgeError::Ask(io::Error::other(error)))??)
    }

    /// Writes an attempt down.
    async fn save(&self, file: NetworkFile, how: Write) -> Result<(), NetworkError> {
        let file = Arc::new(file);
        if let Some(known) = self.lock().attempts.get_mut(&file.attempt) {
            known.file = file.clone();
        }
        let path = self.path(&file.attempt);
        let write = spawn_blocking(move || match how {
            Write::New => checkpoint::create(&path, &*file),
            Write::Again => checkpoint::write(&path, &*file),
        });
        let written = write.await.unwrap_or_else(|error| {
            let (attempted, path) = ("write", self.directory.clone());
            Err(CheckpointError::Io { attempted, path, source: io::Error::other(error) })
        });
        written.map_err(NetworkError::Record)
    }

    fn path(&self, attempt: &str) -> PathBuf {
        self.directory.join(format!("{attempt}.json"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// An attempt that somebody undoes. If it is there still when this is gone, [`Networks::keep`] goes
/// on with it.
struct Going<'a> {
    networks: &'a Networks,
    attempt: String,
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        if let Some(known) = self.networks.lock().attempts.get_mut(&self.attempt) {
            known.use_ = Use::Released;
            self.networks.work.notify_one();
        }
    }
}

impl State {
    /// Addresses for a pod in the built-in network, one of each subnet; `asked` are those that it
    /// asks for.
    fn lease(&mut self, subnets: &[Subnet], asked: &[IpAddr]) -> Result<Vec<IpAddr>, NetworkError> {
        let all = self.attempts.values();
        let taken: BTreeMap<IpAddr, &PodName> = all
            .flat_map(|known| {
                let addresses = known.file.bridged().flat_map(|pod| &pod.addresses);
                addresses.map(|address| (*address, &known.file.name))
            })
            .collect();
        let refused = |address: &IpAddr, why| NetworkError::Address { address: *address, why };
        for address in asked {
            if !subnets.iter().any(|subnet| subnet.is_for_pods(*address)) {
                let why = format!("it must be one of {}, and not of the host", joined(subnets));
                return Err(refused(address, why));
            }
            if let Some(pod) = taken.get(address) {
                return Err(refused(address, format!("pod {pod} has it")));
            }
            let has = |(_, all): &(&String, &BTreeSet<IpAddr>)| all.contains(address);
            if let Some((record, _)) = self.unreadable.iter().find(has) {
                let why = format!("it may be in use by the record {record}, which can't be read");
                return Err(refused(address, why));
            }
        }
        let unreadable = self.unreadable.values().flatten().copied();
        let taken: BTreeSet<IpAddr> = taken.into_keys().chain(unreadable).collect();
        let asked_in = |subnet: &Subnet| asked.iter().find(|ip| subnet.contains(**ip)).copied();
        let open: Vec<Subnet> =
            subnets.iter().filter(|subnet| asked_in(subnet).is_none()).copied().collect();
        let mut chosen = Vec::new().into_iter();
        if !open.is_empty() {
            let full = || NetworkError::Full { subnets: joined(&open), taken: taken.len() };
            let addresses = subnet::choose(&open, &taken, self.given).ok_or_else(full)?;
            self.given = addresses.first().copied();
            chosen = addresses.into_iter();
        }
        Ok(subnets.iter().filter_map(|subnet| asked_in(subnet).or_else(|| chosen.next())).collect())
    }

    /// Whether nobody in the built-in network has that hardware address.
    fn check_mac(&self, mac: Option<&str>) -> Result<(), NetworkError> {
        let Some(mac) = mac else { return Ok(()) };
        let has =
            |pod: &ByBridge| pod.mac.as_deref().is_some_and(|it| it.eq_ignore_ascii_case(mac));
        match self.attempts.values().find(|known| known.file.bridged().any(has)) {
            None => Ok(()),
            Some(known) => {
                let (mac, pod) = (mac.to_owned(), known.file.name.clone());
                Err(NetworkError::Mac { mac, pod })
            }
        }
    }

    /// Ports of the host that lead to pods in the built-in network.
    fn ports(&self) -> Vec<PortRule> {
        let kept = self.attempts.values().filter(|known| known.use_ == Use::Kept);
        let of_pod = |known: &Known| -> Vec<PortRule> {
            let pod = &known.file.name;
            let of = |by: &ByBridge| -> Vec<PortRule> {
                let to = |to: &IpAddr| {
                    let to = *to;
                    let rule = move |mapping: &PortMapping| PortRule {
                        pod: pod.clone(),
                        mapping: mapping.clone(),
                        to,
                    };
                    by.ports.iter().map(rule).collect::<Vec<_>>()
                };
                by.addresses.iter().flat_map(to).collect()
            };
            known.file.bridged().flat_map(of).collect()
        };
        kept.flat_map(of_pod).collect()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name of a record: its attempt.
fn name_of(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Everything that looks like an address.
fn addresses_in(bytes: &[u8]) -> BTreeSet<IpAddr> {
    let is_part = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':');
    let words = bytes.split(|byte| !is_part(byte));
    words.filter_map(|word| std::str::from_utf8(word).ok()?.parse().ok()).collect()
}

fn joined(subnets: &[Subnet]) -> String {
    subnets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[derive(Debug, Clone, Copy)]
enum Write {
    New,
    Again,
}

/// What the id of an attempt ends with.
fn random_bits() -> io::Result<String> {
    let mut bits = [0_u8; 4];
    rustix::rand::getrandom(&mut bits, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("{:08x}", u32::from_ne_bytes(bits)))
}

fn target(file: &NetworkFile, index: usize, namespace: Option<&OwnedFd>) -> Target {
    let netns = namespace
        .map(|fd| format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()))
        .unwrap_or_default();
    Target {
        container: file.attempt.clone(),
        netns,
        interface: file.attachments[index].interface.clone(),
        pod: file.name.clone(),
        id: file.id,
    }
}

#[cfg(test)]
mod tests;
