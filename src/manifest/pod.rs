//! [`PodSpec`]: what a manifest means, with every default applied and every name parsed.
//!
//! The same value is decided on by the reconciler, kept in the pod's directory, sent to its
//! executor and turned into launch plans. It can only be built from parsed parts, so nobody
//! downstream validates again. Not here: the text of manifests (`manifest::decode`) and hashes
//! (`manifest::revision`).
//!
//! Compatibility: it is stored and crosses versions as JSON. New fields get `#[serde(default)]`
//! with a default that means "as before"; unknown fields are an error, because an executor that
//! ignored, say, a security setting would be worse than one that refuses.

mod mount;
mod names;
mod security;

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use handler::{Check, Handler, Host, HttpGet, InvalidHost, Probe, Scheme};
pub use mount::{InvalidRelativePath, Propagation, RelativePath, SubPath, VolumeMount};
pub use names::{Dns, DnsBase, DnsOption, Domain, HostAlias, Names};
pub use security::{
    Capabilities, Capability, ContainerSecurity, FsGroupChange, GroupsPolicy, InvalidCapability,
    InvalidSysctl, PodSecurity, SeccompProfile, SysctlName, SysctlNamespace,
};

use crate::clock::Millis;
use crate::ids::{ContainerName, ObjectName, PodName, VolumeName};
use crate::provisioner::reference::{ImageSource, PullPolicy};
use crate::provisioner::store::{ImageId, LayerId};

mod config;
mod handler;
mod lifecycle;
mod network;
mod order;

pub use config::{
    Carried, DownwardFile, EnvFrom, EnvSource, Field, KeyFile, KeyRef, Projected, ProjectedForm,
    Projection, ResourceField, ResourceName, UsedConfig,
};
pub use lifecycle::{Lifecycle, MessagePolicy, TerminationMessage, TerminationPolicy};
pub use network::{NetworkWish, WantedNetworks};
pub use order::{ContainerRestart, ExitCodes, RestartAction, RestartRule, Role, demand};
/// Whether a value is what was meant before there was its field.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A pod as it shall run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodSpec {
    /// `metadata.namespace` and `metadata.name`.
    pub name: PodName,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`, those of Roost included.
    pub annotations: BTreeMap<String, String>,
    /// `spec.hostname`, or the pod's name up to its first dot.
    pub hostname: String,
    /// `spec.hostNetwork`, `hostPID`, `hostIPC`.
    pub host: HostNamespaces,
    /// `spec.shareProcessNamespace`.
    pub share_process_namespace: bool,
    /// `spec.restartPolicy`.
    pub restart_policy: RestartPolicy,
    /// `spec.terminationGracePeriodSeconds`: between the stop signal and the kill.
    pub termination_grace: Millis,
    /// `spec.activeDeadlineSeconds`: how long the pod may run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_deadline: Option<Millis>,
    /// What the failure of a container means to the others.
    #[serde(default, skip_serializing_if = "TerminationPolicy::is_container")]
    pub termination_policy: TerminationPolicy,
    /// How containers that exit are restarted; annotations `roost/backoff-initial`,
    /// `roost/backoff-max`, `roost/backoff-reset`.
    pub backoff: BackoffPolicy,
    /// Most processes and threads of all containers together; annotation `roost/pids-limit`.
    pub pids_limit: u32,
    /// `spec.resources`: what all containers together ask for, where that is not the sum of what
    /// each does, and may use at most.
    #[serde(default, skip_serializing_if = "is_default")]
    pub resources: Resources,
    /// Other pods that must be so far before this one is started; annotation `roost/after`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<After>,
    /// `spec.priority`, or that of its `priorityClassName`: who comes first where there is not
    /// room for all.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i32,
    /// How long a new revision may take to get Ready before the one that was Ready last is gone
    /// back to; annotation `roost/rollback-after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_after: Option<Millis>,
    /// `spec.nodeSelector`: labels that the node must have for this pod to be its business.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// `spec.securityContext`, but what is a container's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub security: PodSecurity,
    /// Domain, aliases and DNS.
    #[serde(default, skip_serializing_if = "is_default")]
    pub names: Names,
    /// What it asks of its network, if it has one of its own.
    #[serde(default, skip_serializing_if = "is_default")]
    pub network: NetworkWish,
    /// `spec.imagePullSecrets`: Secrets of its namespace with credentials for registries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<ObjectName>,
    /// Whether containers start anew when what they take from ConfigMaps and Secrets changes;
    /// annotation `roost/restart-on-config-change`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restart_on_config_change: bool,
    /// What of ConfigMaps and Secrets it was accepted with; none if it takes nothing from them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<UsedConfig>,
    /// `spec.volumes`, in the order of the manifest.
    pub volumes: Vec<Volume>,
    /// `spec.initContainers`, in the order of the manifest; names are unique among all containers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub init_containers: Vec<ContainerSpec>,
    /// `spec.containers`, in the order of the manifest; never empty, names are unique.
    pub containers: Vec<ContainerSpec>,
}

impl PodSpec {
    /// Every image that it needs.
    pub fn images(&self) -> impl Iterator<Item = &Image> {
        let volumes = self.volumes.iter().filter_map(|volume| match &volume.source {
            VolumeSource::Image(image) => Some(&**image),
            VolumeSource::EmptyDir { .. }
            | VolumeSource::Memory { .. }
            | VolumeSource::Claim { .. }
            | VolumeSource::HostPath { .. }
            | VolumeSource::Projected(_) => None,
        });
        self.all_containers().filter_map(|container| container.image.as_ref()).chain(volumes)
    }

    /// The same, to be resolved.
    pub fn images_mut(&mut self) -> impl Iterator<Item = &mut Image> {
        let volumes = self.volumes.iter_mut().filter_map(|volume| match &mut volume.source {
            VolumeSource::Image(image) => Some(&mut **image),
            VolumeSource::EmptyDir { .. }
            | VolumeSource::Memory { .. }
            | VolumeSource::Claim { .. }
            | VolumeSource::HostPath { .. }
            | VolumeSource::Projected(_) => None,
        });
        let init = self.init_containers.iter_mut();
        let containers = init.chain(&mut self.containers);
        containers.filter_map(|container| container.image.as_mut()).chain(volumes)
    }

    /// Whether it is to be attached to a network.
    #[must_use]
    pub fn wants_network(&self) -> bool {
        !self.host.network && self.network.networks != WantedNetworks::None
    }

    /// What the kernel calls its host, if it has one of its own: `setHostnameAsFQDN` makes that the
    /// full name.
    #[must_use]
    pub fn kernel_name(&self) -> String {
        let full = match &self.names.domain {
            Domain::Subdomain { in_hostname: true, .. } => {
                self.names.domain.full_name(&self.hostname, self.name.namespace.as_str())
            }
            Domain::Subdomain { in_hostname: false, .. } | Domain::None | Domain::Override => None,
        };
        full.unwrap_or_else(|| self.hostname.clone())
    }

    /// Whether something of it is made of values that are not in it.
    #[must_use]
    pub fn takes_config(&self) -> bool {
        let is_projected = |volume: &Volume| matches!(volume.source, VolumeSource::Projected(_));
        self.all_containers().any(ContainerSpec::has_open_variables)
            || self.volumes.iter().any(is_projected)
    }
}

// What serde's attribute wants.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde wants")]
fn is_zero(priority: &i32) -> bool {
    *priority == 0
}

/// Another pod that must be so far first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct After {
    /// The other pod.
    pub pod: PodName,
    /// How far.
    pub until: Until,
}

/// How far a pod must be before another is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Until {
    /// It is Ready.
    Ready,
    /// Its containers are through, all well.
    Succeeded,
}

impl fmt::Display for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "Ready",
            Self::Succeeded => "Succeeded",
        })
    }
}

/// Which namespaces of the host the pod uses instead of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostNamespaces {
    /// `spec.hostNetwork`.
    pub network: bool,
    /// `spec.hostPID`; excludes a shared process namespace.
    pub pid: bool,
    /// `spec.hostIPC`.
    pub ipc: bool,
}

/// What happens when a container exits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// It is started again.
    Always,
    /// It is started again unless its exit code was 0.
    OnFailure,
    /// It is not started again.
    Never,
}

/// Back-off between the runs of a container: `initial`, doubled after every run up to `max`,
/// and back to `initial` after a run of at least `reset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackoffPolicy {
    /// The first delay.
    pub initial: Millis,
    /// The longest delay.
    pub max: Millis,
    /// How long a run must last to clear the count.
    pub reset: Millis,
}

impl Default for BackoffPolicy {
    fn default() -> Self {
        Self {
            initial: Millis::from_secs(1),
            max: Millis::from_secs(60),
            reset: Millis::from_secs(600),
        }
    }
}

/// `terminationGracePeriodSeconds` of a manifest that has none.
pub const TERMINATION_GRACE_DEFAULT: Millis = Millis::from_secs(30);
/// Processes and threads of a pod whose manifest sets no limit.
pub const PIDS_LIMIT_DEFAULT: u32 = 4096;

/// One of `spec.volumes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Its name in the pod.
    pub name: VolumeName,
    /// Where its content comes from.
    pub source: VolumeSource,
}

/// Where the content of a volume comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum VolumeSource {
    /// `emptyDir` on disk: a directory of the pod's own, which goes with the pod.
    EmptyDir {
        /// `sizeLimit` in bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size_limit: Option<u64>,
    },
    /// `emptyDir` with `medium: Memory`: a tmpfs, of at most that many bytes.
    Memory {
        /// `sizeLimit` in bytes.
        size_limit: Option<u64>,
    },
    /// `hostPath`.
    HostPath {
        /// On the host.
        path: AbsolutePath,
        /// What must be there, or is made.
        kind: HostPathType,
    },
    /// `persistentVolumeClaim`: a directory of the node's own, which outlives its pods.
    Claim {
        /// `claimName`; with the namespace of the pod it is what the directory is known by.
        claim: ObjectName,
        /// `readOnly`: all mounts of it are.
        read_only: bool,
    },
    /// `image`: the files of an image, read-only.
    Image(Box<Image>),
    /// `configMap`, `secret`, `downwardAPI`, `projected`: files made of values, in memory and
    /// read-only. They change with the values.
    Projected(Box<Projected>),
}

/// `hostPath.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostPathType {
    /// No check.
    Unchecked,
    /// A directory, made (0755, root) if nothing is there.
    DirectoryOrCreate,
    /// A directory that is there.
    Directory,
    /// A file, made (0644, root) if nothing is there.
    FileOrCreate,
    /// A file that is there.
    File,
    /// A Unix socket that is there.
    Socket,
    /// A character device that is there.
    CharDevice,
    /// A block device that is there.
    BlockDevice,
}

/// An image that a manifest names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Where it comes from, as the manifest says.
    pub source: ImageSource,
    /// `imagePullPolicy`, or its default.
    pub pull: PullPolicy,
    /// Which image that was when the specification was accepted. No manifest says it, so it is not
    /// hashed: a tag that moves changes no pod that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<Arc<ResolvedImage>>,
}

/// An image on this node, with what of its configuration counts for containers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResolvedImage {
    /// Which image: the digest of its configuration.
    pub id: ImageId,
    /// The digest of its manifest, as registries know it.
    pub manifest: oci_spec::image::Digest,
    /// Its layers, the lowest first.
    pub layers: Vec<LayerId>,
    /// `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `Cmd`.
    pub cmd: Vec<String>,
    /// `Env`: `NAME=value`.
    pub env: Vec<String>,
    /// `User`: `user[:group]` by name or number; may be empty.
    pub user: String,
    /// `WorkingDir`.
    pub working_dir: Option<AbsolutePath>,
    /// `StopSignal`.
    pub stop_signal: Option<StopSignal>,
}

/// A signal that asks a program to end, by its number (signal(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct StopSignal(u8);

/// A text or number that is no [`StopSignal`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no signal: write its name, as `SIGTERM` or `SIGRTMIN+3`, or a number up to 64")]
pub struct InvalidSignal(String);

impl StopSignal {
    /// `SIGTERM`, where nothing else is asked for.
    pub const TERM: Self = Self(15);
    /// `SIGRTMIN` and `SIGRTMAX` of the C library, which keeps two for itself.
    const REAL_TIME: [u8; 2] = [34, 64];
    /// The names of the others, from 1 on; the same on x86-64 and arm64.
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];

    /// Its number.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }
}

impl fmt::Display for StopSignal {
    /// By its name, as in `SIGTERM` and `SIGRTMIN+3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, _] = Self::REAL_TIME;
        let name = usize::from(self.0).checked_sub(1).and_then(|at| Self::NAMES.get(at));
        match (name, self.0.checked_sub(first)) {
            (Some(name), _) => write!(f, "SIG{name}"),
            (None, Some(0)) => f.write_str("SIGRTMIN"),
            (None, Some(more)) => write!(f, "SIGRTMIN+{more}"),
            // What the C library keeps for itself has no name.
            (None, None) => write!(f, "{}", self.0),
        }
    }
}

impl TryFrom<u8> for StopSignal {
    type Error = InvalidSignal;
    fn try_from(number: u8) -> Result<Self, InvalidSignal> {
        let valid = (1..=Self::REAL_TIME[1]).contains(&number);
        if valid { Ok(Self(number)) } else { Err(InvalidSignal(number.to_string())) }
    }
}

impl From<StopSignal> for u8 {
    fn from(signal: StopSignal) -> u8 {
        signal.0
    }
}

impl FromStr for StopSignal {
    type Err = InvalidSignal;
    fn from_str(text: &str) -> Result<Self, InvalidSignal> {
        let refused = || InvalidSignal(text.chars().take(32).collect());
        if let Ok(number) = text.parse::<u8>() {
            return Self::try_from(number);
        }
        let name = text.to_ascii_uppercase();
        let name = name.strip_prefix("SIG").unwrap_or(&name);
        if let Some(at) = Self::NAMES.iter().position(|known| *known == name) {
            return u8::try_from(at + 1).map(Self).map_err(|_| refused());
        }
        let [first, last] = Self::REAL_TIME;
        let beyond = |rest: &str, sign: char| match rest {
            "" => Some(0),
            rest => rest.strip_prefix(sign)?.parse::<u8>().ok(),
        };
        let number = if let Some(rest) = name.strip_prefix("RTMIN") {
            beyond(rest, '+').and_then(|more| first.checked_add(more))
        } else {
            let less = name.strip_prefix("RTMAX").and_then(|rest| beyond(rest, '-'));
            less.and_then(|less| last.checked_sub(less))
        };
        number.filter(|number| (first..=last).contains(number)).map(Self).ok_or_else(refused)
    }
}

/// One of `spec.containers` or `spec.initContainers`. No image means the host's own root file system, read-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerSpec {
    /// Its name in the pod.
    pub name: ContainerName,
    /// `image`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// `command`. Without an image it may only be empty if `args` is not.
    // By the name that it had when `args` were in it: what has no image is written as ever.
    #[serde(rename = "argv")]
    pub command: Vec<String>,
    /// `args`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// `env`, in the order of the manifest; of two with one name the later wins.
    pub env: Vec<EnvVar>,
    /// `envFrom`, in the order of the manifest; a variable of `env` counts before them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_from: Vec<EnvFrom>,
    /// `workingDir`; that of the image where the manifest has none, or without one the sandbox.
    pub working_dir: Option<AbsolutePath>,
    /// `resources`.
    pub resources: Resources,
    /// `securityContext.runAsUser`; that of the image where the manifest has none, or without one
    /// root.
    pub user: Option<u32>,
    /// `securityContext.runAsGroup`; likewise.
    pub group: Option<u32>,
    /// `securityContext.readOnlyRootFilesystem`. Without an image the root is read-only anyway.
    pub read_only_root: bool,
    /// `securityContext` of the container and, where that is silent, of the pod.
    #[serde(default, skip_serializing_if = "is_default")]
    pub security: ContainerSecurity,
    /// `volumeMounts`, in the order of the manifest.
    pub mounts: Vec<VolumeMount>,
    /// `ports`, in the order of the manifest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ContainerPort>,
    /// `livenessProbe`: when it fails, the container is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness: Option<Probe>,
    /// `readinessProbe`: while it fails, the container is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Probe>,
    /// `startupProbe`: until it succeeds, nothing else is asked; when it fails, the container is
    /// stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup: Option<Probe>,
    /// Annotation `roost/check.<container>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
    /// `restartPolicy` and `restartPolicyRules`; the pod's policy where the manifest has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<ContainerRestart>,
    /// `lifecycle`, and how long a run may last.
    #[serde(default, skip_serializing_if = "Lifecycle::is_empty")]
    pub lifecycle: Lifecycle,
    /// `terminationMessagePath` and `terminationMessagePolicy`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub termination: TerminationMessage,
    /// `resizePolicy`: the resources a change of which restarts it (`RestartContainer`).
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub restarts_for: BTreeSet<Resized>,
}

impl ContainerSpec {
    /// Whether its variables are known only when it is started. Then `$(NAME)` is put into its
    /// command and variables at that time, and they are here as they are written.
    #[must_use]
    pub fn has_open_variables(&self) -> bool {
        !self.env_from.is_empty() || self.env.iter().any(|var| var.from.is_some())
    }

    /// What asks its program to end.
    #[must_use]
    pub fn stop_signal(&self) -> StopSignal {
        let resolved = self.image.as_ref().and_then(|image| image.resolved.as_ref());
        let of_image = || resolved.and_then(|image| image.stop_signal);
        self.lifecycle.stop_signal.or_else(of_image).unwrap_or(StopSignal::TERM)
    }
}

/// One of `ports`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerPort {
    /// Its name, unique in the container.
    pub name: Option<String>,
    /// What the program listens on, from 1.
    pub container_port: u16,
    /// What the pod takes up of the host's ports, from 1; with `hostNetwork` always set, and the
    /// same as `container_port`.
    pub host_port: Option<u16>,
    /// Which of the host's addresses; all of them where the manifest has none.
    pub host_ip: Option<IpAddr>,
    /// The protocol of both.
    pub protocol: Protocol,
}

/// The protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP, the default.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// One of `env`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvVar {
    /// Not empty, without `=` and NUL.
    pub name: String,
    /// Without NUL.
    pub value: String,
    /// `valueFrom`; `value` is empty then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<EnvSource>,
}

/// What a container asks for and what it may use at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// `requests.cpu` in thousandths of a processor: its weight against others.
    pub cpu_request_milli: Option<u64>,
    /// `limits.cpu` in thousandths of a processor.
    pub cpu_limit_milli: Option<u64>,
    /// `requests.memory` in bytes.
    pub memory_request_bytes: Option<u64>,
    /// `limits.memory` in bytes.
    pub memory_limit_bytes: Option<u64>,
    /// `requests.ephemeral-storage` in bytes: what it writes outside of volumes, and its logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_request_bytes: Option<u64>,
    /// `limits.ephemeral-storage` in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_limit_bytes: Option<u64>,
}

impl Resources {
    /// What it requests of local storage, in bytes: a request that is left out is the limit.
    #[must_use]
    pub fn storage_request(&self) -> u64 {
        self.storage_request_bytes.or(self.storage_limit_bytes).unwrap_or(0)
    }
}

/// A resource in `resizePolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Resized {
    /// Of `cpu`, the request or the limit.
    Cpu,
    /// Of `memory`, likewise.
    Memory,
}

impl Resized {
    /// Its name in manifests.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
        }
    }
}

/// An absolute path without `.`, `..`, empty parts or NUL; `/` itself is one.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AbsolutePath(String);

/// A path that is not an [`AbsolutePath`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("path `{0}` must be absolute (begin with `/`), without `.` and `..` in it")]
pub struct InvalidPath(String);

impl AbsolutePath {
    /// The path as text; begins with `/`, ends with one only if it is the root.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is `/`.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0 == "/"
    }
}

impl FromStr for AbsolutePath {
    type Err = InvalidPath;
    fn from_str(text: &str) -> Result<Self, InvalidPath> {
        let refused = || InvalidPath(text.to_owned());
        let rest = text.strip_prefix('/').ok_or_else(refused)?;
        let parts: Vec<&str> = rest.split('/').filter(|part| !part.is_empty()).collect();
        if parts.iter().any(|part| matches!(*part, "." | "..") || part.contains('\0')) {
            return Err(refused());
        }
        Ok(Self(format!("/{}", parts.join("/"))))
    }
}

impl TryFrom<String> for AbsolutePath {
    type Error = InvalidPath;
    fn try_from(text: String) -> Result<Self, InvalidPath> {
        text.parse()
    }
}

impl From<AbsolutePath> for String {
    fn from(path: AbsolutePath) -> String {
        path.0
    }
}

impl fmt::Display for AbsolutePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AbsolutePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        let texts =
            ["TERM", "sigquit", "SIGSYS", "9", "RTMIN+3", "SIGRTMIN", "RTMAX-1", "SIGRTMAX"];
        let numbers = texts.map(|text| text.parse::<StopSignal>().unwrap().number());
        assert_eq!(numbers, [15, 3, 31, 9, 37, 34, 63, 64]);
        for bad in ["", "SIG", "0", "65", "RTMIN-1", "RTMIN+31", "RTMAX+1", "RTMAX-31", "-1"] {
            bad.parse::<StopSignal>().unwrap_err();
        }
    }

    #[test]
    fn paths_are_normal_or_refused() {
        for (text, normal) in [("/", "/"), ("/a//b/", "/a/b"), ("/a.b/..c", "/a.b/..c")] {
            assert_eq!(text.parse::<AbsolutePath>().unwrap().as_str(), normal);
        }
        for bad in ["", "a", "./a", "/a/../b", "/.", "/a\0"] {
            bad.parse::<AbsolutePath>().unwrap_err();
        }
    }
}
