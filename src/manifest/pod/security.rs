//! What containers may do: `securityContext` of a pod and of a container.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{RelativePath, is_default};

/// What all containers of a pod have in common.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PodSecurity {
    /// `supplementalGroups`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<u32>,
    /// `supplementalGroupsPolicy`.
    #[serde(skip_serializing_if = "is_default")]
    pub groups_policy: GroupsPolicy,
    /// `fsGroup`: who volumes of the pod's own belong to; every process is in that group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fs_group: Option<u32>,
    /// `fsGroupChangePolicy`.
    #[serde(skip_serializing_if = "is_default")]
    pub fs_group_change: FsGroupChange,
    /// `sysctls`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<SysctlName, String>,
}

/// `supplementalGroupsPolicy`: whether the groups of the image's user count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum GroupsPolicy {
    /// They do.
    #[default]
    Merge,
    /// Only those that the manifest names.
    Strict,
}

/// `fsGroupChangePolicy`: when the owner of what is in a volume is looked after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum FsGroupChange {
    /// At every start of the pod.
    #[default]
    Always,
    /// When the top directory does not belong to the group.
    OnRootMismatch,
}

/// What one container may do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContainerSecurity {
    /// `capabilities.add`.
    #[serde(skip_serializing_if = "is_default")]
    pub add: Capabilities,
    /// `capabilities.drop`.
    #[serde(skip_serializing_if = "is_default")]
    pub drop: Capabilities,
    /// `privileged`: everything below is as open as it can be.
    #[serde(skip_serializing_if = "is_default")]
    pub privileged: bool,
    /// `allowPrivilegeEscalation`: set-user-ID programs work.
    #[serde(skip_serializing_if = "is_default")]
    pub allow_escalation: bool,
    /// `runAsNonRoot`: it is not started as user 0.
    #[serde(skip_serializing_if = "is_default")]
    pub non_root: bool,
    /// `seccompProfile`.
    #[serde(skip_serializing_if = "is_default")]
    pub seccomp: SeccompProfile,
}

/// `seccompProfile`: which system calls are allowed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum SeccompProfile {
    /// Those that programs need.
    #[default]
    RuntimeDefault,
    /// All.
    Unconfined,
    /// What a file of the node says, below its directory of profiles.
    Localhost(RelativePath),
}

/// `capabilities.add` or `.drop`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Capabilities {
    /// `ALL` is among them.
    #[serde(skip_serializing_if = "is_default")]
    pub all: bool,
    /// The others.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub names: BTreeSet<Capability>,
}

/// A capability by its number (`linux/capability.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Capability(u8);

/// A text that is no [`Capability`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no capability: write its name, as `NET_ADMIN`, or `ALL`")]
pub struct InvalidCapability(String);

impl Capability {
    /// By number; all that Linux has had since 5.9.
    const NAMES: [&str; 41] = [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    ];

    /// Every one.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..).zip(Self::NAMES).map(|(number, _)| Self(number))
    }

    /// Its name without `CAP_`, as manifests have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.get(usize::from(self.0)).expect("it was made of a name")
    }
}

impl FromStr for Capability {
    type Err = InvalidCapability;
    fn from_str(text: &str) -> Result<Self, InvalidCapability> {
        let name = text.to_ascii_uppercase();
        let name = name.strip_prefix("CAP_").unwrap_or(&name);
        let found = Self::all().find(|known| known.name() == name);
        found.ok_or_else(|| InvalidCapability(text.chars().take(64).collect()))
    }
}

impl TryFrom<String> for Capability {
    type Error = InvalidCapability;
    fn try_from(text: String) -> Result<Self, InvalidCapability> {
        text.parse()
    }
}

impl From<Capability> for String {
    fn from(capability: Capability) -> String {
        capability.name().to_owned()
    }
}

/// A setting of the kernel that is a namespace's own, as `net.ipv4.tcp_syncookies`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SysctlName(String);

/// A text that is no [`SysctlName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSysctl {
    /// Not of the form of a name.
    #[error("`{0}` is no name of a kernel setting, such as `net.ipv4.tcp_syncookies`")]
    Form(String),
    /// One of the whole machine.
    #[error(
        "`{0}` can't be a pod's own; only settings of the network (`net.…`), of System V IPC \
         (`kernel.shm…`, `kernel.msg…`, `kernel.sem`) and of message queues (`fs.mqueue.…`) can"
    )]
    NotNamespaced(String),
}

/// Which namespace a setting belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SysctlNamespace {
    /// That of `hostNetwork`.
    Network,
    /// That of `hostIPC`.
    Ipc,
}

impl SysctlName {
    /// The longest name, in bytes (Kubernetes: `SysctlMaxLength`).
    const LEN_MAX: usize = 253;
    /// What changes nothing outside the pod and takes no more than the pod has anyway: the
    /// kubelet's list.
    const SAFE: [&str; 12] = [
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_wmem",
    ];

    /// The name with dots.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether every pod may set it.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        Self::SAFE.contains(&self.as_str())
    }

    /// Its file below `/proc/sys`, relative.
    #[must_use]
    pub fn file(&self) -> String {
        self.0.replace('.', "/")
    }

    /// Whose it is.
    #[must_use]
    pub fn namespace(&self) -> SysctlNamespace {
        if self.0.starts_with("net.") { SysctlNamespace::Network } else { SysctlNamespace::Ipc }
    }
}

impl FromStr for SysctlName {
    type Err = InvalidSysctl;
    fn from_str(text: &str) -> Result<Self, InvalidSysctl> {
        let short = || text.chars().take(Self::LEN_MAX).collect();
        // sysctl(8) and Kubernetes take both.
        let name = text.replace('/', ".");
        let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let is_part = |part: &str| {
            let bytes = part.as_bytes();
            bytes.first().copied().is_some_and(edge)
                && bytes.last().copied().is_some_and(edge)
                && bytes.iter().all(|byte| edge(*byte) || matches!(byte, b'-' | b'_'))
        };
        if name.len() > Self::LEN_MAX || !name.contains('.') || !name.split('.').all(is_part) {
            return Err(InvalidSysctl::Form(short()));
        }
        let namespaced = ["net.", "kernel.shm", "kernel.msg", "fs.mqueue."];
        if !namespaced.iter().any(|start| name.starts_with(start)) && name != "kernel.sem" {
            return Err(InvalidSysctl::NotNamespaced(short()));
        }
        Ok(Self(name))
    }
}

impl TryFrom<String> for SysctlName {
    type Error = InvalidSysctl;
    fn try_from(text: String) -> Result<Self, InvalidSysctl> {
        text.parse()
    }
}

impl From<SysctlName> for String {
    fn from(name: SysctlName) -> String {
        name.0
    }
}

impl fmt::Display for SysctlName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_known_by_their_kernel_names() {
        for text in ["NET_ADMIN", "CAP_NET_ADMIN", "net_admin"] {
            assert_eq!(text.parse(), Ok(Capability(12)));
        }
        for bad in ["", "ALL", "CAP_", "CAP_CAP_KILL", "NET_ADMIN ", "12"] {
            bad.parse::<Capability>().unwrap_err();
        }
        assert_eq!(Capability::all().last().map(Capability::name), Some("CHECKPOINT_RESTORE"));
    }

    #[test]
    fn only_settings_of_a_namespace_have_a_name_and_none_leads_elsewhere() {
        for text in ["net.core.somaxconn", "net/core/somaxconn", "kernel.sem", "kernel.shmmax"] {
            let name: SysctlName = text.parse().unwrap();
            assert_eq!(name.file(), text.replace('.', "/"));
        }
        for bad in [
            "",
            "net",
            "net.",
            ".net.core",
            "net..core",
            "net/../kernel/hostname",
            "/net/core/x",
            "net.core.x\n",
            "net.core.X",
            "net.ipv4.conf.eth-.x",
        ] {
            assert!(matches!(bad.parse::<SysctlName>(), Err(InvalidSysctl::Form(_))), "{bad:?}");
        }
        for bad in ["kernel.hostname", "vm.swappiness", "fs.file-max", "kernel.sem2"] {
            let refused = bad.parse::<SysctlName>();
            assert!(matches!(refused, Err(InvalidSysctl::NotNamespaced(_))), "{bad:?}");
        }
    }

    #[test]
    fn safe_settings_are_names() {
        for name in SysctlName::SAFE {
            assert!(name.parse::<SysctlName>().unwrap().is_safe());
        }
        assert!(!"net.core.somaxconn".parse::<SysctlName>().unwrap().is_safe());
    }
}
