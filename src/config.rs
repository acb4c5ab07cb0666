//! [`AgentConfig`]: how an agent shall work, whatever it was told by: flags, which override the
//! environment, which overrides the file. `packaging/agent.toml` explains every key.
//!
//! What can be changed while the agent runs is apart, in [`Live`]. Not here: reading the flags
//! (`cli`), and acting on a change (`agent`).

mod file;
pub mod values;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::clock::Millis;
use crate::executor::boot::LogLimits;
use crate::state::paths::Paths;

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
/// Program of the executors, beside the agent's own.
const EXECUTOR: &str = "roost-executor";
/// Name of the cgroup of an installed agent.
const CGROUP: &str = "roost";
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
    /// Most pods at a time.
    pub max_pods: u32,
    /// Whether a document is refused for a field that nobody knows.
    pub strict: bool,
    /// Bytes of the logs of all pods together.
    pub log_node_bytes: u64,
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
            max_pods: self.max_pods.or(below.max_pods),
            strict: self.strict.or(below.strict),
            reserve_cpu: self.reserve_cpu.or(below.reserve_cpu),
            reserve_memory: self.reserve_memory.or(below.reserve_memory),
            log_file_bytes: self.log_file_bytes.or(below.log_file_bytes),
            log_files: self.log_files.or(below.log_files),
            log_node_bytes: self.log_node_bytes.or(below.log_node_bytes),
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
    let root = layer.root.map(|root| absolute(&root)).transpose()?;
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
        live: Live {
            relist: layer.relist.unwrap_or(RELIST_DEFAULT),
            log: layer.log.unwrap_or_else(|| LOG_DEFAULT.to_owned()),
            reserve: Reserve {
                cpu_milli: layer.reserve_cpu.unwrap_or(reserve.cpu_milli),
                memory_bytes: layer.reserve_memory.unwrap_or(reserve.memory_bytes),
            },
            labels,
            max_pods: layer.max_pods.unwrap_or(MAX_PODS_DEFAULT),
            strict: layer.strict.unwrap_or(false),
            log_node_bytes: layer.log_node_bytes.unwrap_or(LOG_NODE_BYTES_DEFAULT),
        },
    })
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
        let Self { pods, paths, logs, cgroup, executor, log_format, live: _ } = self;
        [
            ("pods", *pods != new.pods),
            ("root", *paths != new.paths),
            ("logs.file-bytes", logs.file_bytes != new.logs.file_bytes),
            ("logs.files", logs.files != new.logs.files),
            ("cgroup", *cgroup != new.cgroup),
            ("executor", *executor != new.executor),
            ("log-format", *log_format != new.log_format),
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
        let Self { relist, log, reserve, labels, max_pods, strict, log_node_bytes } = self;
        [
            ("relist", *relist != new.relist),
            ("log", *log != new.log),
            ("reserve.cpu", reserve.cpu_milli != new.reserve.cpu_milli),
            ("reserve.memory", reserve.memory_bytes != new.reserve.memory_bytes),
            ("labels", *labels != new.labels),
            ("max-pods", *max_pods != new.max_pods),
            ("strict", *strict != new.strict),
            ("logs.node-bytes", *log_node_bytes != new.log_node_bytes),
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
    use std::os::unix::ffi::OsStrExt;
    let Some(root) = root else { return CGROUP.to_owned() };
    let digest = Sha256::digest(canonical(root).as_os_str().as_bytes());
    let hex: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{CGROUP}-{hex}")
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
