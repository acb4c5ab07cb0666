//! [`AgentConfig`]: how an agent shall work, whatever it was told by: flags, which override the
//! environment, which overrides the file. `packaging/agent.toml` explains every key.
//!
//! What can be changed while the agent runs is apart, in [`Live`]. Not here: reading the flags
//! (`cli`), and acting on a change (`agent`).

mod file;
mod pressure;
pub mod values;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::clock::Millis;
use crate::executor::boot::LogLimits;
use crate::reconciler::pressure::Thresholds;
use crate::state::paths::Paths;

pub use crate::network::subnet::Subnet;
pub use crate::reconciler::pressure::Threshold;
pub use pressure::PressureLayer;

/// How often manifest directories are read anew even without a hint that they changed.
pub const RELIST_DEFAULT: Millis = Millis::from_secs(20);
/// Manifest directory of an agent that was told none.
pub const PODS_DEFAULT: &str = "/etc/roost/pods.d";
/// The file of an installed agent.
pub const FILE_DEFAULT: &str = "/etc/roost/agent.toml";
/// Most pods of a node that was told nothing else.
pub const MAX_PODS_DEFAULT: u32 = 500;
/// Memory that pods can't ask for: what the kubelet keeps free by default.
pub const RESERVE_MEMORY_DEFAULT: u64 = 100 << 20;
/// Logs of all pods together.
pub const LOG_NODE_BYTES_DEFAULT: u64 = 2 << 30;
/// What is logged: sled says little that is of use, and much of it.
pub const LOG_DEFAULT: &str = "info,sled=error";
/// Where images may be dropped as files.
pub const IMAGES_DIRECTORY_DEFAULT: &str = "/etc/roost/images.d";
/// The same under a root (`--root`), if it is there.
const IMAGES_DIRECTORY: &str = "images.d";
/// Files with credentials for registries: our own, and the one that `docker login` of root writes.
pub const AUTH_FILES_DEFAULT: [&str; 2] = ["/etc/roost/auth.json", "/root/.docker/config.json"];
/// Where `<host>/hosts.toml` is looked for: our own, and what containerd and Docker have.
pub const HOSTS_DIRS_DEFAULT: [&str; 3] =
    ["/etc/roost/certs.d", "/etc/containerd/certs.d", "/etc/docker/certs.d"];
/// Where networks are configured, as for every other user of CNI.
pub const NETWORK_CONFIGS_DEFAULT: &str = "/etc/cni/net.d";
/// The same under a root (`--root`).
const NETWORK_CONFIGS: &str = "net.d";
/// Where plugins are put by hand, and by Debian's packages.
pub const NETWORK_PLUGINS_DEFAULT: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];
/// Program of the executors, beside the agent's own.
const EXECUTOR: &str = "roost-executor";
/// Name of the cgroup of an installed agent.
const CGROUP: &str = "roost";
/// The bridge of the built-in network of an installed agent.
const BRIDGE: &str = "roost0";
/// Largest configuration file in bytes.
const FILE_LEN_MAX: u64 = 1 << 20;

/// How an agent shall work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentConfig {
    /// Manifest directories, as given; at least one.
    pub pods: Vec<PathBuf>,
    /// Where everything lies.
    pub paths: Paths,
    /// Limits of the logs of each container.
    pub logs: LogLimits,
    /// Name of the cgroup of all pods; by default `roost`, with a suffix for another root.
    pub cgroup: String,
    /// The executor's program; by default `roost-executor` beside the agent's own.
    pub executor: PathBuf,
    /// The form of the agent's own log.
    pub log_format: LogFormat,
    /// Where images come from.
    pub images: ImageSources,
    /// How pods get their networks.
    pub network: NetworkSources,
    /// What can be changed while the agent runs.
    pub live: Live,
}

/// What of a configuration can be changed while the agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    /// How often manifest directories are read anew.
    pub relist: Millis,
    /// What the agent logs (`tracing-subscriber`'s directives).
    pub log: String,
    /// What pods can't ask for, of what the machine has.
    pub reserve: Reserve,
    /// The node's labels, for `nodeSelector`: those configured, and those that every node has
    /// (`kubernetes.io/hostname`, `kubernetes.io/os`, `kubernetes.io/arch`).
    pub labels: BTreeMap<String, String>,
    /// Settings of the kernel that pods may have besides the safe ones: names, or beginnings of
    /// names with a `*`.
    pub allowed_sysctls: Vec<String>,
    /// What of the host pods may have as volumes, with what is beneath; none if everything.
    pub allowed_host_paths: Option<Vec<PathBuf>>,
    /// Most pods at a time.
    pub max_pods: u32,
    /// Whether a document is refused for a field that nobody knows.
    pub strict: bool,
    /// Bytes of the logs of all pods together.
    pub log_node_bytes: u64,
    /// When images go that nobody uses.
    pub image_gc: ImageGc,
    /// When pods are evicted.
    pub pressure: PressureLimits,
}

/// Where images come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSources {
    /// Directories whose archives and layouts are loaded and never collected; they need not exist.
    pub directories: Vec<PathBuf>,
    /// Docker's `config.json`s with credentials for everybody on this node; they need not exist.
    pub auth_files: Vec<PathBuf>,
    /// Directories with `<host>/hosts.toml`, the first that has the host wins.
    pub hosts_dirs: Vec<PathBuf>,
}

/// When pods are evicted because the node runs out of something. The defaults are the kubelet's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PressureLimits {
    /// What shall be left on the node.
    pub thresholds: Thresholds,
    /// How often the node is looked at, and what pods have on disk that have a limit for it.
    pub measure: MeasureEvery,
}

/// A span between two looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeasureEvery(pub Millis);

impl Default for MeasureEvery {
    fn default() -> Self {
        Self(RELIST_DEFAULT)
    }
}

/// How pods get their networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSources {
    /// The directory with configurations of CNI; it need not exist.
    pub configs: PathBuf,
    /// Directories with plugins of CNI, the first that has one wins.
    pub plugins: Vec<PathBuf>,
    /// Whether pods are in the built-in network where none is configured.
    pub built_in: bool,
    /// The name of its interface on the host.
    pub bridge: String,
    /// Its subnets, at most one of each version of IP; without any they are chosen.
    pub subnets: Vec<Subnet>,
}

/// When images go that nobody uses. The defaults are the kubelet's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageGc {
    /// From this share of the disk on, in percent.
    pub high_percent: u32,
    /// Down to this share, in percent; less than the other.
    pub low_percent: u32,
    /// Never sooner than this after their last use.
    pub min_age: Millis,
}

impl Default for ImageGc {
    fn default() -> Self {
        Self { high_percent: 85, low_percent: 80, min_age: Millis::from_secs(120) }
    }
}

/// What is kept from pods for the system and the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserve {
    /// Thousandths of a processor.
    pub cpu_milli: u64,
    /// Memory.
    pub memory_bytes: u64,
}

impl Default for Reserve {
    fn default() -> Self {
        Self { cpu_milli: 0, memory_bytes: RESERVE_MEMORY_DEFAULT }
    }
}

/// How the agent writes its own log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines: one object a line.
    Json,
}

/// What flags and environment say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Given {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// Everything else; the file counts where it is silent.
    pub layer: Layer,
}

/// What one source says; where it is silent, the next one counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layer {
    /// `pods`; silent when empty.
    pub pods: Vec<PathBuf>,
    /// `root`.
    pub root: Option<PathBuf>,
    /// `relist`.
    pub relist: Option<Millis>,
    /// `executor`.
    pub executor: Option<PathBuf>,
    /// `cgroup`.
    pub cgroup: Option<String>,
    /// `log`.
    pub log: Option<String>,
    /// `log-format`.
    pub log_format: Option<LogFormat>,
    /// `labels`.
    pub labels: Option<BTreeMap<String, String>>,
    /// `allowed-sysctls`.
    pub allowed_sysctls: Option<Vec<String>>,
    /// `allowed-host-paths`.
    pub allowed_host_paths: Option<Vec<PathBuf>>,
    /// `max-pods`.
    pub max_pods: Option<u32>,
    /// `strict`.
    pub strict: Option<bool>,
    /// `reserve.cpu`, in thousandths of a processor.
    pub reserve_cpu: Option<u64>,
    /// `reserve.memory`, in bytes.
    pub reserve_memory: Option<u64>,
    /// `logs.file-bytes`.
    pub log_file_bytes: Option<u64>,
    /// `logs.files`.
    pub log_files: Option<u32>,
    /// `logs.node-bytes`.
    pub log_node_bytes: Option<u64>,
    /// `images.directories`.
    pub image_directories: Option<Vec<PathBuf>>,
    /// `images.auth-files`.
    pub image_auth_files: Option<Vec<PathBuf>>,
    /// `images.hosts-dirs`.
    pub image_hosts_dirs: Option<Vec<PathBuf>>,
    /// `network.configs`.
    pub network_configs: Option<PathBuf>,
    /// `network.plugins`.
    pub network_plugins: Option<Vec<PathBuf>>,
    /// `network.built-in`.
    pub network_built_in: Option<bool>,
    /// `network.bridge`.
    pub network_bridge: Option<String>,
    /// `network.subnets`.
    pub network_subnets: Option<Vec<Subnet>>,
    /// `images.gc-high-percent`.
    pub image_gc_high_percent: Option<u32>,
    /// `images.gc-low-percent`.
    pub image_gc_low_percent: Option<u32>,
    /// `images.gc-min-age`.
    pub image_gc_min_age: Option<Millis>,
    /// `pressure`.
    pub pressure: PressureLayer,
}

impl Layer {
    /// This, and where it is silent the other.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            pods: if self.pods.is_empty() { below.pods } else { self.pods },
            root: self.root.or(below.root),
            relist: self.relist.or(below.relist),
            executor: self.executor.or(below.executor),
            cgroup: self.cgroup.or(below.cgroup),
            log: self.log.or(below.log),
            log_format: self.log_format.or(below.log_format),
            labels: self.labels.or(below.labels),
            allowed_sysctls: self.allowed_sysctls.or(below.allowed_sysctls),
            allowed_host_paths: self.allowed_host_paths.or(below.allowed_host_paths),
            max_pods: self.max_pods.or(below.max_pods),
            strict: self.strict.or(below.strict),
            reserve_cpu: self.reserve_cpu.or(below.reserve_cpu),
            reserve_memory: self.reserve_memory.or(below.reserve_memory),
            log_file_bytes: self.log_file_bytes.or(below.log_file_bytes),
            log_files: self.log_files.or(below.log_files),
            log_node_bytes: self.log_node_bytes.or(below.log_node_bytes),
            image_directories: self.image_directories.or(below.image_directories),
            image_auth_files: self.image_auth_files.or(below.image_auth_files),
            image_hosts_dirs: self.image_hosts_dirs.or(below.image_hosts_dirs),
            network_configs: self.network_configs.or(below.network_configs),
            network_plugins: self.network_plugins.or(below.network_plugins),
            network_built_in: self.network_built_in.or(below.network_built_in),
            network_bridge: self.network_bridge.or(below.network_bridge),
            network_subnets: self.network_subnets.or(below.network_subnets),
            image_gc_high_percent: self.image_gc_high_percent.or(below.image_gc_high_percent),
            image_gc_low_percent: self.image_gc_low_percent.or(below.image_gc_low_percent),
            image_gc_min_age: self.image_gc_min_age.or(below.image_gc_min_age),
            pressure: self.pressure.over(below.pressure),
        }
    }
}

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file can't be read.
    #[error("can't read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file says what can't be understood or used: every fault, one a line, with its place.
    #[error("{}", faults.join("\n"))]
    Faults {
        /// `file:line:column: what is wrong`.
        faults: Vec<String>,
    },
    /// A path can't be made absolute.
    #[error("can't find out what {} means", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The agent's own program is not known.
    #[error("can't find out where this program lies; say --executor")]
    OwnProgram(#[source] io::Error),
}

/// The configuration of an agent.
///
/// # Errors
/// When the file can't be used.
pub fn load(given: Given) -> Result<AgentConfig, ConfigError> {
    let file = read(&given)?;
    resolve(given.layer.over(file))
}

fn resolve(layer: Layer) -> Result<AgentConfig, ConfigError> {
    let root = layer.root.as_deref().map(absolute).transpose()?;
    let images = image_sources(&layer, root.as_deref())?;
    let image_gc = image_gc(&layer)?;
    let network = network(&layer, root.as_deref())?;
    let executor = match layer.executor {
        Some(path) => absolute(&path)?,
        None => std::env::current_exe().map_err(ConfigError::OwnProgram)?.with_file_name(EXECUTOR),
    };
    let pods = if layer.pods.is_empty() { vec![PODS_DEFAULT.into()] } else { layer.pods };
    let logs = LogLimits::default();
    let mut labels = labels_of_every_node();
    labels.extend(layer.labels.unwrap_or_default());
    let reserve = Reserve::default();
    Ok(AgentConfig {
        pods,
        paths: paths(root.as_deref()),
        logs: LogLimits {
            file_bytes: layer.log_file_bytes.unwrap_or(logs.file_bytes),
            files: layer.log_files.unwrap_or(logs.files),
        },
        cgroup: layer.cgroup.unwrap_or_else(|| cgroup_name(root.as_deref())),
        executor,
        log_format: layer.log_format.unwrap_or_default(),
        images,
        network,
        live: Live {
            relist: layer.relist.unwrap_or(RELIST_DEFAULT),
            log: layer.log.unwrap_or_else(|| LOG_DEFAULT.to_owned()),
            reserve: Reserve {
                cpu_milli: layer.reserve_cpu.unwrap_or(reserve.cpu_milli),
                memory_bytes: layer.reserve_memory.unwrap_or(reserve.memory_bytes),
            },
            labels,
            allowed_sysctls: layer.allowed_sysctls.unwrap_or_default(),
            allowed_host_paths: layer.allowed_host_paths,
            max_pods: layer.max_pods.unwrap_or(MAX_PODS_DEFAULT),
            strict: layer.strict.unwrap_or(false),
            log_node_bytes: layer.log_node_bytes.unwrap_or(LOG_NODE_BYTES_DEFAULT),
            image_gc,
            pressure: layer.pressure.limits(),
        },
    })
}

fn image_sources(layer: &Layer, root: Option<&Path>) -> Result<ImageSources, ConfigError> {
    let list = |given: &Option<Vec<PathBuf>>, default: &[&str]| -> Result<Vec<PathBuf>, _> {
        match given {
            Some(paths) => paths.iter().map(|path| absolute(path)).collect(),
            None => Ok(default.iter().map(PathBuf::from).collect()),
        }
    };
    let under_root = root.map(|root| root.join(IMAGES_DIRECTORY));
    let directories = match (&layer.image_directories, under_root) {
        (None, Some(directory)) => directory.is_dir().then_some(directory).into_iter().collect(),
        (given, _) => list(given, &[IMAGES_DIRECTORY_DEFAULT])?,
    };
    Ok(ImageSources {
        directories,
        auth_files: list(&layer.image_auth_files, &AUTH_FILES_DEFAULT)?,
        hosts_dirs: list(&layer.image_hosts_dirs, &HOSTS_DIRS_DEFAULT)?,
    })
}

fn network(layer: &Layer, root: Option<&Path>) -> Result<NetworkSources, ConfigError> {
    let configs = match (&layer.network_configs, root) {
        (Some(given), _) => absolute(given)?,
        (None, Some(root)) => root.join(NETWORK_CONFIGS),
        (None, None) => NETWORK_CONFIGS_DEFAULT.into(),
    };
    let plugins = match &layer.network_plugins {
        Some(paths) => paths.iter().map(|path| absolute(path)).collect::<Result<_, _>>()?,
        None => NETWORK_PLUGINS_DEFAULT.iter().map(PathBuf::from).collect(),
    };
    let built_in = layer.network_built_in.unwrap_or(true);
    let bridge = layer.network_bridge.clone().unwrap_or_else(|| bridge_name(root));
    let subnets = layer.network_subnets.clone().unwrap_or_default();
    let is_v4 = |subnet: &&Subnet| subnet.first().is_ipv4();
    let v4 = subnets.iter().filter(is_v4).count();
    if v4 > 1 || subnets.len() - v4 > 1 {
        let fault = "`network.subnets` must have at most one of each version of IP".to_owned();
        return Err(ConfigError::Faults { faults: vec![fault] });
    }
    Ok(NetworkSources { configs, plugins, built_in, bridge, subnets })
}

fn image_gc(layer: &Layer) -> Result<ImageGc, ConfigError> {
    let default = ImageGc::default();
    let gc = ImageGc {
        high_percent: layer.image_gc_high_percent.unwrap_or(default.high_percent),
        low_percent: layer.image_gc_low_percent.unwrap_or(default.low_percent),
        min_age: layer.image_gc_min_age.unwrap_or(default.min_age),
    };
    let ImageGc { high_percent, low_percent, min_age: _ } = gc;
    if low_percent >= high_percent {
        let fault = format!(
            "`images.gc-low-percent` ({low_percent}) must be less than `images.gc-high-percent` \
             ({high_percent})"
        );
        return Err(ConfigError::Faults { faults: vec![fault] });
    }
    Ok(gc)
}

/// What the kubelet says of every node.
fn labels_of_every_node() -> BTreeMap<String, String> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let host = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    [("hostname", host.as_str()), ("os", "linux"), ("arch", arch)]
        .map(|(name, value)| (format!("kubernetes.io/{name}"), value.to_owned()))
        .into()
}

impl AgentConfig {
    /// The keys that differ in the other configuration and need a restart to take effect.
    #[must_use]
    pub fn fixed_keys_changed(&self, new: &Self) -> Vec<&'static str> {
        let Self { pods, paths, logs, cgroup, executor, log_format, images, network, live: _ } =
            self;
        [
            ("pods", *pods != new.pods),
            ("root", *paths != new.paths),
            ("logs.file-bytes", logs.file_bytes != new.logs.file_bytes),
            ("logs.files", logs.files != new.logs.files),
            ("cgroup", *cgroup != new.cgroup),
            ("executor", *executor != new.executor),
            ("log-format", *log_format != new.log_format),
            ("images.directories", images.directories != new.images.directories),
            ("images.auth-files", images.auth_files != new.images.auth_files),
            ("images.hosts-dirs", images.hosts_dirs != new.images.hosts_dirs),
            ("network.configs", network.configs != new.network.configs),
            ("network.plugins", network.plugins != new.network.plugins),
            ("network.built-in", network.built_in != new.network.built_in),
            ("network.bridge", network.bridge != new.network.bridge),
            ("network.subnets", network.subnets != new.network.subnets),
        ]
        .into_iter()
        .filter_map(|(key, changed)| changed.then_some(key))
        .collect()
    }
}

impl Live {
    /// The keys that differ in the other.
    #[must_use]
    pub fn keys_changed(&self, new: &Self) -> Vec<&'static str> {
        let Self {
            relist,
            log,
            reserve,
            labels,
            allowed_sysctls,
            allowed_host_paths,
            max_pods,
            strict,
            log_node_bytes,
            image_gc: gc,
            pressure,
        } = self;
        let limits = (pressure.thresholds, new.pressure.thresholds);
        [
            ("relist", *relist != new.relist),
            ("log", *log != new.log),
            ("reserve.cpu", reserve.cpu_milli != new.reserve.cpu_milli),
            ("reserve.memory", reserve.memory_bytes != new.reserve.memory_bytes),
            ("labels", *labels != new.labels),
            ("allowed-sysctls", *allowed_sysctls != new.allowed_sysctls),
            ("allowed-host-paths", *allowed_host_paths != new.allowed_host_paths),
            ("max-pods", *max_pods != new.max_pods),
            ("strict", *strict != new.strict),
            ("logs.node-bytes", *log_node_bytes != new.log_node_bytes),
            ("images.gc-high-percent", gc.high_percent != new.image_gc.high_percent),
            ("images.gc-low-percent", gc.low_percent != new.image_gc.low_percent),
            ("images.gc-min-age", gc.min_age != new.image_gc.min_age),
            ("pressure.memory-available", limits.0.memory != limits.1.memory),
            ("pressure.disk-available", limits.0.disk != limits.1.disk),
            ("pressure.inodes-free", limits.0.inodes != limits.1.inodes),
            ("pressure.transition", limits.0.transition != limits.1.transition),
            ("pressure.measure-every", pressure.measure != new.pressure.measure),
        ]
        .into_iter()
        .filter_map(|(key, changed)| changed.then_some(key))
        .collect()
    }
}

/// Where everything of an agent lies: under its root, or where an installed one has it.
#[must_use]
pub fn paths(root: Option<&Path>) -> Paths {
    root.map_or_else(Paths::installed, Paths::under)
}

/// The path from the root directory, whatever the working directory is later.
///
/// # Errors
/// When the working directory is not known or the path is empty.
pub fn absolute(path: &Path) -> Result<PathBuf, ConfigError> {
    std::path::absolute(path).map_err(|source| ConfigError::Path { path: path.to_owned(), source })
}

fn read(given: &Given) -> Result<Layer, ConfigError> {
    let (path, must_be) = match (&given.config, &given.layer.root) {
        (Some(path), _) => (path.clone(), true),
        // Whoever works in a directory of his own does not want what is installed.
        (None, Some(_)) => return Ok(Layer::default()),
        (None, None) => (PathBuf::from(FILE_DEFAULT), false),
    };
    let read = std::fs::metadata(&path).and_then(|metadata| {
        if metadata.len() > FILE_LEN_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB"));
        }
        std::fs::read_to_string(&path)
    });
    match read {
        Ok(text) => file::parse(&path, &text).map_err(|faults| ConfigError::Faults { faults }),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !must_be => Ok(Layer::default()),
        Err(source) => Err(ConfigError::Read { path, source }),
    }
}

/// The cgroup of all pods. Agents with roots of their own must not get in each other's way.
fn cgroup_name(root: Option<&Path>) -> String {
    root.map_or_else(|| CGROUP.to_owned(), |root| format!("{CGROUP}-{}", mark(root)))
}

/// The bridge of the built-in network, for the same reason.
fn bridge_name(root: Option<&Path>) -> String {
    root.map_or_else(|| BRIDGE.to_owned(), |root| format!("{CGROUP}-{}", mark(root)))
}

/// What tells a root from others, in 8 letters.
fn mark(root: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let digest = Sha256::digest(canonical(root).as_os_str().as_bytes());
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// The path without symbolic links, also if its end is not there yet.
fn canonical(path: &Path) -> PathBuf {
    let known = path.ancestors().find_map(|ancestor| {
        let known = std::fs::canonicalize(ancestor).ok()?;
        // `join` with nothing would add a slash.
        let rest = path.strip_prefix(ancestor).ok().filter(|rest| !rest.as_os_str().is_empty());
        Some(rest.map_or_else(|| known.clone(), |rest| known.join(rest)))
    });
    known.unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests;
