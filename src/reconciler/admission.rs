//! Admission: what fits on this node, and who waits. PURE.
//!
//! What was accepted is never stopped because it does not fit: requests and host ports of what
//! runs are taken as they are. A change of it, and then what is new, is admitted as far as there
//! is room. What does not fit waits, and is looked at again with every plan.
//!
//! ```text
//! charged first   every accepted instance that is not through: what it asks for; while it goes
//!                 for another one, what that was promised
//! then in turn    the next of an instance that goes ─► changes of what runs ─► what is new;
//!                 each by priority, then by the names of the manifests
//! ```
//!
//! What a worker is out for is charged too (`ActualState::under_way`), because what it does is
//! not seen before it is done. One pod that does not fit delays no other: a smaller one passes it.

use core::cmp::Reverse;
use core::net::IpAddr;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::ids::PodName;
use crate::manifest::desired::Claim;
use crate::manifest::pod::{
    AbsolutePath, ContainerPort, PodSpec, Protocol, SysctlName, VolumeSource,
};
use crate::state::record::ManifestFile;

/// Pods of a node whose configuration sets no other number.
pub const MAX_PODS_DEFAULT: u32 = 500;

/// Ports in conflict that are named for one pod.
const CONFLICTS_SHOWN_MAX: usize = 4;

/// What the node has for pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What the machine has.
    pub capacity: Requests,
    /// How much of it is kept for what is no pod.
    pub reserve: Requests,
    /// Most pods at a time, those that are through not counted.
    pub max_pods: u32,
    /// For the `nodeSelector` of pods.
    pub labels: BTreeMap<String, String>,
    /// Settings of the kernel that pods may have besides the safe ones: names, or beginnings of
    /// names with a `*`.
    pub sysctls: Vec<String>,
    /// What of the host pods may have as volumes `hostPath`: these and what is beneath; none if
    /// that is everything.
    pub host_paths: Option<Vec<PathBuf>>,
}

impl Default for Node {
    /// A node on which everything fits.
    fn default() -> Self {
        let all = Requests { cpu_milli: u64::MAX, memory_bytes: u64::MAX };
        let reserve = Requests::default();
        let (labels, sysctls, host_paths) = Default::default();
        Self { capacity: all, reserve, max_pods: MAX_PODS_DEFAULT, labels, sysctls, host_paths }
    }
}

impl Node {
    /// What pods may ask for, all together.
    #[must_use]
    pub fn allocatable(&self) -> Requests {
        self.capacity.less(self.reserve)
    }

    /// The first setting of the kernel that the pod may not have here.
    #[must_use]
    pub fn forbidden_sysctl<'a>(&self, spec: &'a PodSpec) -> Option<&'a SysctlName> {
        let is_allowed = |name: &&SysctlName| {
            name.is_safe()
                || self.sysctls.iter().any(|pattern| match pattern.strip_suffix('*') {
                    Some(start) => name.as_str().starts_with(start),
                    None => name.as_str() == pattern,
                })
        };
        spec.security.sysctls.keys().find(|name| !is_allowed(name))
    }

    /// The first path of the host that the pod may not have here, as it is written: a link on the
    /// host is the affair of whoever made it.
    #[must_use]
    pub fn forbidden_host_path<'a>(&self, spec: &'a PodSpec) -> Option<&'a AbsolutePath> {
        let allowed = self.host_paths.as_ref()?;
        let paths = spec.volumes.iter().filter_map(|volume| match &volume.source {
            VolumeSource::HostPath { path, kind: _ } => Some(path),
            VolumeSource::EmptyDir { .. }
            | VolumeSource::Memory { .. }
            | VolumeSource::Claim { .. }
            | VolumeSource::Image(_)
            | VolumeSource::Projected(_) => None,
        });
        let is_allowed = |path: &&AbsolutePath| {
            allowed.iter().any(|it| Path::new(path.as_str()).starts_with(it))
        };
        { paths }.find(|path| !is_allowed(path))
    }

    /// The first label that the pod wants of its node and this one does not have.
    #[must_use]
    pub fn mismatch<'a>(&self, spec: &'a PodSpec) -> Option<(&'a String, &'a String)> {
        spec.node_selector.iter().find(|(key, value)| self.labels.get(*key) != Some(value))
    }
}

/// Amounts of what containers request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Requests {
    /// Thousandths of a processor.
    pub cpu_milli: u64,
    /// Bytes.
    pub memory_bytes: u64,
}

impl Requests {
    /// The most that a pod's containers request at once (see [`PodSpec::request`]); a request that
    /// is left out is the limit, and nothing where that is left out too.
    #[must_use]
    pub fn of(spec: &PodSpec) -> Self {
        Self {
            cpu_milli: spec.request(|r| r.cpu_request_milli.or(r.cpu_limit_milli)),
            memory_bytes: spec.request(|r| r.memory_request_bytes.or(r.memory_limit_bytes)),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            cpu_milli: self.cpu_milli.saturating_add(other.cpu_milli),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
        }
    }

    fn less(self, other: Self) -> Self {
        Self {
            cpu_milli: self.cpu_milli.saturating_sub(other.cpu_milli),
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
        }
    }

    fn max(self, other: Self) -> Self {
        Self {
            cpu_milli: self.cpu_milli.max(other.cpu_milli),
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
        }
    }

    /// Whether nothing of it is more than of the other.
    fn is_within(self, other: Self) -> bool {
        self.cpu_milli <= other.cpu_milli && self.memory_bytes <= other.memory_bytes
    }
}

/// Who comes first where there is not room for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Turn {
    /// The next of an instance that goes for it.
    Promised,
    /// A change of what runs.
    Changed,
    /// A pod that is not there.
    New,
}

/// A pod's share in the node.
#[derive(Debug)]
pub(super) struct Share<'a> {
    pub(super) name: &'a PodName,
    /// What is there of it or was promised to it: each counts, the most of each kind.
    pub(super) has: Vec<&'a PodSpec>,
    /// What it is to become, if that is something else.
    pub(super) wants: Option<Wants<'a>>,
}

/// What a pod is to become.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wants<'a> {
    pub(super) spec: &'a Arc<PodSpec>,
    pub(super) turn: Turn,
    /// Who asks for it.
    pub(super) source: &'a ManifestFile,
    /// What of documents it lacks.
    pub(super) lacks: Option<&'a str>,
}

impl<'a> Wants<'a> {
    /// What a manifest asks for.
    pub(super) fn of(claim: &'a Claim, turn: Turn) -> Self {
        let Claim { source, spec, lacks, .. } = claim;
        Self { spec, turn, source, lacks: lacks.as_deref() }
    }

    /// What it was once.
    pub(super) fn again(spec: &'a Arc<PodSpec>, source: &'a ManifestFile) -> Self {
        Self { spec, turn: Turn::Changed, source, lacks: None }
    }
}

/// Who may become what it wants, and who waits.
#[derive(Debug, Default)]
pub(super) struct Admission {
    refused: BTreeMap<PodName, String>,
    /// What all pods request that have been admitted.
    pub(super) requested: Requests,
}

impl Admission {
    /// Why the pod can't become what it wants, if so.
    pub(super) fn refusal(&self, name: &PodName) -> Option<&str> {
        self.refused.get(name).map(String::as_str)
    }
}

/// Decides for all pods of the node.
pub(super) fn admit(node: &Node, shares: &[Share<'_>]) -> Admission {
    let mut ledger = Ledger::of(node, shares);
    // What lacks a ConfigMap can't begin, maybe for ever: it keeps nobody's room.
    let is_able = |share: &&Share<'_>| share.wants.is_some_and(|wants| wants.lacks.is_none());
    let wanting = shares.iter().filter(is_able);
    let mut wanting: Vec<&Share<'_>> = wanting.collect();
    // Where everybody asks for nothing that can run out, the order does not matter: that is the
    // usual case, and a thousand names are not compared for it every time.
    let total = wanting.iter().filter_map(|share| share.wants).fold(ledger.used, |sum, wants| {
        let ports = wants.spec.all_containers().any(|container| !container.ports.is_empty());
        let all = Requests { cpu_milli: u64::MAX, memory_bytes: u64::MAX };
        let is_special = ports
            || node.forbidden_sysctl(wants.spec).is_some()
            || node.forbidden_host_path(wants.spec).is_some();
        if is_special { all } else { sum.plus(Requests::of(wants.spec)) }
    });
    let count = u64::from(ledger.pods).saturating_add(wanting.len() as u64);
    if total.is_within(node.allocatable()) && count <= u64::from(node.max_pods) {
        return Admission { refused: BTreeMap::new(), requested: total };
    }
    wanting.sort_by_key(|share| {
        let wants = share.wants?;
        Some((wants.turn, Reverse(wants.spec.priority), wants.source, share.name))
    });
    let mut refused = BTreeMap::new();
    for share in wanting {
        let Some(wants) = share.wants else { continue };
        match ledger.refusal(share, wants.spec) {
            Some(why) => {
                refused.insert(share.name.clone(), why);
            }
            None => ledger.charge(share, wants.spec),
        }
    }
    Admission { refused, requested: ledger.used }
}

/// What is taken of the node so far.
struct Ledger<'a> {
    node: &'a Node,
    used: Requests,
    pods: u32,
    ports: BTreeMap<(Protocol, u16), Vec<(HostPort, &'a PodName)>>,
}

impl<'a> Ledger<'a> {
    fn of(node: &'a Node, shares: &[Share<'a>]) -> Self {
        let mut ledger = Self { node, used: Requests::default(), pods: 0, ports: BTreeMap::new() };
        for share in shares.iter().filter(|share| !share.has.is_empty()) {
            ledger.used = ledger.used.plus(share.requests());
            ledger.pods = ledger.pods.saturating_add(1);
            for port in share.has.iter().flat_map(|spec| host_ports(spec)) {
                ledger.take(port, share.name);
            }
        }
        ledger
    }

    /// What stands against the pod becoming that.
    fn refusal(&self, share: &Share<'_>, spec: &PodSpec) -> Option<String> {
        let (has, wants) = (share.requests(), Requests::of(spec));
        let others = self.used.less(has);
        let free = self.node.allocatable().less(others);
        let Requests { cpu_milli: cpu, memory_bytes: memory } = wants;
        let Node { capacity, reserve, max_pods, labels: _, sysctls: _, host_paths: _ } = self.node;
        let mut lacks = Vec::new();
        if let Some(name) = self.node.forbidden_sysctl(spec) {
            lacks.push(format!(
                "sysctl {name} is not safe, and not among `allowed-sysctls` of the agent's \
                 configuration"
            ));
        }
        if let Some(path) = self.node.forbidden_host_path(spec) {
            lacks.push(format!(
                "hostPath {path} is not beneath one of `allowed-host-paths` of the agent's \
                 configuration"
            ));
        }
        // What asks for no more than it has is let be, whatever else may be wrong.
        if cpu > has.cpu_milli && cpu > free.cpu_milli {
            let [cpu, free, all, reserve] =
                [cpu, free.cpu_milli, capacity.cpu_milli, reserve.cpu_milli].map(Cpu);
            lacks.push(format!("needs {cpu} cpu, {free} of {all} are free (reserve {reserve})"));
        }
        if memory > has.memory_bytes && memory > free.memory_bytes {
            let [memory, free, all, reserve] =
                [memory, free.memory_bytes, capacity.memory_bytes, reserve.memory_bytes].map(Bytes);
            lacks.push(format!(
                "needs {memory} of memory, {free} of {all} are free (reserve {reserve})"
            ));
        }
        if share.has.is_empty() && self.pods >= *max_pods {
            lacks.push(format!("there are {} pods, and {max_pods} are the most", self.pods));
        }
        let taken =
            host_ports(spec).filter_map(|port| Some((port, self.holder(port, share.name)?)));
        lacks.extend(
            taken
                .take(CONFLICTS_SHOWN_MAX)
                .map(|(port, holder)| format!("{port} is taken by pod {holder}")),
        );
        (!lacks.is_empty()).then(|| lacks.join("; "))
    }

    fn charge(&mut self, share: &Share<'a>, spec: &PodSpec) {
        let has = share.requests();
        // As long as it is not done, what it has is taken as well.
        self.used = self.used.less(has).plus(has.max(Requests::of(spec)));
        self.pods = self.pods.saturating_add(u32::from(share.has.is_empty()));
        for port in host_ports(spec) {
            self.take(port, share.name);
        }
    }

    fn take(&mut self, port: HostPort, name: &'a PodName) {
        self.ports.entry((port.protocol, port.number)).or_default().push((port, name));
    }

    /// Another pod that has the port.
    fn holder(&self, port: HostPort, name: &PodName) -> Option<&'a PodName> {
        let holders = self.ports.get(&(port.protocol, port.number))?;
        let other = holders
            .iter()
            .find(|(taken, holder)| *holder != name && taken.is_in_conflict_with(&port));
        other.map(|(_, holder)| *holder)
    }
}

impl Share<'_> {
    fn requests(&self) -> Requests {
        self.has.iter().map(|spec| Requests::of(spec)).fold(Requests::default(), Requests::max)
    }
}

/// A port of the host that a pod takes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct HostPort {
    protocol: Protocol,
    number: u16,
    /// None: all addresses.
    ip: Option<IpAddr>,
}

impl HostPort {
    /// As the kernel sees it for sockets without SO_REUSEPORT (ip(7)): an address that stands for
    /// all of them meets every other.
    fn is_in_conflict_with(&self, other: &Self) -> bool {
        let everywhere = |ip: Option<IpAddr>| ip.is_none_or(|ip| ip.is_unspecified());
        self.protocol == other.protocol
            && self.number == other.number
            && (everywhere(self.ip) || everywhere(other.ip) || self.ip == other.ip)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, number, ip } = self;
        write!(f, "host port {number}/{protocol}")?;
        ip.map_or(Ok(()), |ip| write!(f, " of {ip}"))
    }
}

fn host_ports(spec: &PodSpec) -> impl Iterator<Item = HostPort> {
    let ports = spec.all_containers().flat_map(|container| &container.ports);
    ports.filter_map(|port: &ContainerPort| {
        let number = port.host_port?;
        Some(HostPort { protocol: port.protocol, number, ip: port.host_ip })
    })
}

/// Processors as people write them: 2, 0.5.
struct Cpu(u64);

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, milli) = (self.0 / 1000, self.0 % 1000);
        let fraction = format!(".{milli:03}");
        let fraction = if milli == 0 { "" } else { fraction.trim_end_matches('0') };
        write!(f, "{whole}{fraction}")
    }
}

/// Bytes as people write them: 64Mi, 1.5Gi; rounded down.
pub(super) struct Bytes(pub(super) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 4] =
            [("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
        let Some((unit, size)) = UNITS.into_iter().find(|(_, size)| self.0 >= *size) else {
            return write!(f, "{}", self.0);
        };
        let tenths = u128::from(self.0) * 10 / u128::from(size);
        match tenths % 10 {
            0 => write!(f, "{}{unit}", tenths / 10),
            tenth => write!(f, "{}.{tenth}{unit}", tenths / 10),
        }
    }
}

#[cfg(test)]
mod tests;
