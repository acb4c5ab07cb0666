//! `roost agent`.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

use super::failure::Failure;
use super::output;
use crate::agent::shutdown::{self, Stopped};
use crate::clock::Millis;
use crate::config::{
    self, AgentConfig, Given, Layer, LogFormat, PressureLayer, Subnet, Threshold, values,
};
use crate::errors::chain;

/// Every flag has its key in the file; see `packaging/agent.toml`.
#[derive(Debug, Args)]
pub(super) struct AgentArgs {
    /// A directory of manifests; may be given several times [default: /etc/roost/pods.d]
    #[arg(long, env = "ROOST_PODS", value_name = "DIR")]
    pods: Vec<PathBuf>,
    /// The configuration [default: /etc/roost/agent.toml if it is there and there is no --root]
    #[arg(long, env = "ROOST_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// What the agent logs about itself, such as `debug` or `info,roost::agent=trace`
    #[arg(long, env = "ROOST_LOG", value_name = "FILTER")]
    log: Option<String>,
    /// The form of the agent's own log, on standard error [default: text]
    #[arg(long, env = "ROOST_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<Format>,
    /// The program that runs a pod [default: roost-executor beside this program]
    #[arg(long, env = "ROOST_EXECUTOR", value_name = "FILE")]
    executor: Option<PathBuf>,
    /// Name of the cgroup of all pods [default: roost, with a suffix for another --root]
    #[arg(long, env = "ROOST_CGROUP", value_name = "NAME", value_parser = values::cgroup)]
    cgroup: Option<String>,
    /// An address to serve the API on beside the Unix socket: not supported yet
    #[arg(long, env = "ROOST_LISTEN", value_name = "ADDR", value_parser = values::listen, hide = true)]
    listen: Vec<String>,
    /// How often manifest directories are read even without a hint [default: 20s]
    #[arg(long, env = "ROOST_RELIST", value_name = "SPAN", value_parser = values::relist)]
    relist: Option<Millis>,
    /// A label of this node, for `nodeSelector`; may be given several times
    #[arg(long, env = "ROOST_LABELS", value_name = "NAME=VALUE", value_delimiter = ',',
          value_parser = values::label)]
    label: Vec<(String, String)>,
    /// Processors that pods can't ask for [default: 0]
    #[arg(long, env = "ROOST_RESERVE_CPU", value_name = "CPUS", value_parser = values::cpu)]
    reserve_cpu: Option<u64>,
    /// Memory that pods can't ask for [default: 100Mi]
    #[arg(long, env = "ROOST_RESERVE_MEMORY", value_name = "BYTES", value_parser = values::bytes)]
    reserve_memory: Option<u64>,
    /// A setting of the kernel that pods may have besides the safe ones, such as `net.core.*`; may
    /// be given several times
    #[arg(long, env = "ROOST_ALLOWED_SYSCTLS", value_name = "NAME", value_delimiter = ',',
          value_parser = values::sysctl)]
    allowed_sysctl: Vec<String>,
    /// What of the host pods may have as volumes `hostPath`, with what is beneath; can be given
    /// several times [default: everything]
    #[arg(long, env = "ROOST_ALLOWED_HOST_PATHS", value_name = "PATH", value_delimiter = ',',
          value_parser = values::host_path)]
    allowed_host_path: Vec<PathBuf>,
    /// Most pods at a time [default: 500]
    #[arg(long, env = "ROOST_MAX_PODS", value_name = "N", value_parser = values::max_pods)]
    max_pods: Option<u32>,
    /// Whether manifests with unknown fields are refused [default: false]
    #[arg(long, env = "ROOST_STRICT", value_name = "BOOL", num_args = 0..=1,
          default_missing_value = "true")]
    strict: Option<bool>,
    /// A container's log file is rotated at this size [default: 10Mi]
    #[arg(long, env = "ROOST_LOGS_FILE_BYTES", value_name = "BYTES",
          value_parser = values::log_file_bytes)]
    logs_file_bytes: Option<u64>,
    /// Log files kept of a container, the current one counted [default: 5]
    #[arg(long, env = "ROOST_LOGS_FILES", value_name = "N", value_parser = values::log_files)]
    logs_files: Option<u32>,
    /// Size of the logs of all pods together [default: 2Gi]
    #[arg(long, env = "ROOST_LOGS_NODE_BYTES", value_name = "BYTES",
          value_parser = values::log_node_bytes)]
    logs_node_bytes: Option<u64>,
    /// A directory whose image archives and layouts are loaded; may be given several times
    /// [default: /etc/roost/images.d]
    #[arg(long, env = "ROOST_IMAGES_DIRECTORIES", value_name = "DIR", value_delimiter = ',')]
    images_directory: Vec<PathBuf>,
    /// A file with credentials for registries, as `docker login` writes it; may be given several
    /// times [default: /etc/roost/auth.json and that of root]
    #[arg(long, env = "ROOST_IMAGES_AUTH_FILES", value_name = "FILE", value_delimiter = ',')]
    images_auth_file: Vec<PathBuf>,
    /// A directory with `<host>/hosts.toml`; may be given several times [default:
    /// /etc/roost/certs.d, and those of containerd and Docker]
    #[arg(long, env = "ROOST_IMAGES_HOSTS_DIRS", value_name = "DIR", value_delimiter = ',')]
    images_hosts_dir: Vec<PathBuf>,
    /// The directory with configurations of networks (CNI) [default: /etc/cni/net.d]
    #[arg(long, env = "ROOST_NETWORK_CONFIGS", value_name = "DIR")]
    network_configs: Option<PathBuf>,
    /// A directory with plugins of CNI; may be given several times [default: /opt/cni/bin and
    /// /usr/lib/cni]
    #[arg(long, env = "ROOST_NETWORK_PLUGINS", value_name = "DIR", value_delimiter = ',')]
    network_plugin_dir: Vec<PathBuf>,
    /// Whether pods are in the built-in network where none is configured [default: true]
    #[arg(long, env = "ROOST_NETWORK_BUILT_IN", value_name = "BOOL")]
    network_built_in: Option<bool>,
    /// The name of its interface on the host [default: roost0]
    #[arg(long, env = "ROOST_NETWORK_BRIDGE", value_name = "NAME",
          value_parser = values::interface)]
    network_bridge: Option<String>,
    /// Its subnet; may be given twice, once for each version of IP [default: one that the host has
    /// no route to]
    #[arg(long, env = "ROOST_NETWORK_SUBNETS", value_name = "SUBNET", value_delimiter = ',',
          value_parser = values::subnet)]
    network_subnet: Vec<Subnet>,
    /// Unused images go when the disk is fuller than this [default: 85]
    #[arg(long, env = "ROOST_IMAGES_GC_HIGH_PERCENT", value_name = "PERCENT",
          value_parser = values::percent)]
    images_gc_high_percent: Option<u32>,
    /// Until it is no fuller than this [default: 80]
    #[arg(long, env = "ROOST_IMAGES_GC_LOW_PERCENT", value_name = "PERCENT",
          value_parser = values::percent)]
    images_gc_low_percent: Option<u32>,
    /// How long an image stays at least after its last use [default: 2m]
    #[arg(long, env = "ROOST_IMAGES_GC_MIN_AGE", value_name = "SPAN", value_parser = values::span)]
    images_gc_min_age: Option<Millis>,
    #[command(flatten)]
    pressure: PressureArgs,
    /// Does not run: ends all pods as when the machine is shut down, the least important first, within
    /// this time. There must be no agent; the next one starts them again
    #[arg(long, value_name = "SPAN", value_parser = values::span)]
    stop_pods: Option<Millis>,
}

/// The table `pressure`.
#[derive(Debug, Args)]
struct PressureArgs {
    /// Pods are evicted when less memory is available; 0: never [default: 100Mi]
    #[arg(long, env = "ROOST_PRESSURE_MEMORY_AVAILABLE", value_name = "BYTES|PERCENT",
          value_parser = values::threshold)]
    pressure_memory_available: Option<Threshold>,
    /// Pods are evicted when less of a disk is available; 0: never [default: 10%]
    #[arg(long, env = "ROOST_PRESSURE_DISK_AVAILABLE", value_name = "BYTES|PERCENT",
          value_parser = values::threshold)]
    pressure_disk_available: Option<Threshold>,
    /// Pods are evicted when fewer inodes are free; 0: never [default: 5%]
    #[arg(long, env = "ROOST_PRESSURE_INODES_FREE", value_name = "NUMBER|PERCENT",
          value_parser = values::threshold)]
    pressure_inodes_free: Option<Threshold>,
    /// How long there must be enough for pressure to be over [default: 5m]
    #[arg(long, env = "ROOST_PRESSURE_TRANSITION", value_name = "SPAN",
          value_parser = values::span)]
    pressure_transition: Option<Millis>,
    /// How often the node is looked at, and what pods with a limit have on disk [default: 20s]
    #[arg(long, env = "ROOST_PRESSURE_MEASURE_EVERY", value_name = "SPAN",
          value_parser = values::measure_every)]
    pressure_measure_every: Option<Millis>,
}

impl From<PressureArgs> for PressureLayer {
    fn from(args: PressureArgs) -> Self {
        Self {
            memory: args.pressure_memory_available,
            disk: args.pressure_disk_available,
            inodes: args.pressure_inodes_free,
            transition: args.pressure_transition,
            measure: args.pressure_measure_every,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    Text,
    /// One object a line
    Json,
}

impl From<Format> for LogFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Text => Self::Text,
            Format::Json => Self::Json,
        }
    }
}

impl AgentArgs {
    fn given(self, root: Option<PathBuf>) -> Given {
        let labels = (!self.label.is_empty()).then(|| self.label.into_iter().collect());
        let list = |paths: Vec<PathBuf>| (!paths.is_empty()).then_some(paths);
        let list_of_texts = |texts: Vec<String>| (!texts.is_empty()).then_some(texts);
        let rust_log = || std::env::var(EnvFilter::DEFAULT_ENV).ok();
        Given {
            config: self.config,
            layer: Layer {
                pods: self.pods,
                root,
                relist: self.relist,
                executor: self.executor,
                cgroup: self.cgroup,
                log: self.log.or_else(rust_log).filter(|text| !text.is_empty()),
                log_format: self.log_format.map(Into::into),
                labels,
                allowed_sysctls: list_of_texts(self.allowed_sysctl),
                allowed_host_paths: list(self.allowed_host_path),
                max_pods: self.max_pods,
                strict: self.strict,
                reserve_cpu: self.reserve_cpu,
                reserve_memory: self.reserve_memory,
                log_file_bytes: self.logs_file_bytes,
                log_files: self.logs_files,
                log_node_bytes: self.logs_node_bytes,
                image_directories: list(self.images_directory),
                image_auth_files: list(self.images_auth_file),
                image_hosts_dirs: list(self.images_hosts_dir),
                network_configs: self.network_configs,
                network_plugins: list(self.network_plugin_dir),
                network_built_in: self.network_built_in,
                network_bridge: self.network_bridge,
                network_subnets: Some(self.network_subnet).filter(|all| !all.is_empty()),
                image_gc_high_percent: self.images_gc_high_percent,
                image_gc_low_percent: self.images_gc_low_percent,
                image_gc_min_age: self.images_gc_min_age,
                pressure: self.pressure.into(),
            },
        }
    }
}

/// Runs the agent until it is told to end.
pub(super) fn run(root: Option<PathBuf>, args: AgentArgs) -> Result<(), Failure> {
    let stop_pods = args.stop_pods;
    let given = args.given(root);
    let load = move || config::load(given.clone()).map_err(|error| chain(&error));
    let config = load().map_err(Failure::wrong)?;
    let filter = log(&config.live.log, config.log_format)?;
    if let Some(within) = stop_pods {
        return end_pods(&config, within);
    }
    let reload = move || {
        let config = load()?;
        let new = parse_filter(&config.live.log)?;
        filter.reload(new).map_err(|error| format!("can't change what is logged: {error}"))?;
        Ok(config)
    };
    crate::agent::run(config, Box::new(reload)).map_err(|error| {
        // The log is what is kept of an agent that nobody looks at.
        tracing::error!(error = chain(&error), "the agent can't run");
        Failure::wrong(chain(&error))
    })
}

fn end_pods(config: &AgentConfig, within: Millis) -> Result<(), Failure> {
    let stopped = shutdown::stop_pods(&config.paths, within.into());
    let Stopped { ended, left } = stopped.map_err(|error| Failure::wrong(chain(&error)))?;
    if left > 0 {
        return Err(Failure::wrong(format!("{left} pods have not ended within {within}")));
    }
    output::print(&format!("{ended} pods have ended\n"))
}

/// Begins to log; what is logged can be changed by the handle.
fn log(filter: &str, format: LogFormat) -> Result<reload::Handle<EnvFilter, Registry>, Failure> {
    let filter = parse_filter(filter).map_err(Failure::usage)?;
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let registry = tracing_subscriber::registry().with(filter);
    let set = match format {
        LogFormat::Text => registry.with(lines).try_init(),
        LogFormat::Json => registry.with(lines.json()).try_init(),
    };
    set.map_err(|error| Failure::wrong(format!("can't log: {error}")))?;
    Ok(handle)
}

fn parse_filter(text: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(text).map_err(|error| format!("`log` (ROOST_LOG) is wrong: {error}"))
}
