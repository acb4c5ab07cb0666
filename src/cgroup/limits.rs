//! From what a manifest asks for to what is written into which file of a cgroup. PURE.
//!
//! Not here: writing it (`cgroup::tree`), and which hierarchy has a controller (`cgroup::base`).
//!
//! Memory requests are not enforced. `memory.low` of a container only counts as far as that of
//! every cgroup above it reaches, so that the sum of all pods would have to be kept up to date at
//! the base; cgroup v1 has nothing like it. A request serves admission.

use std::fmt;

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};
use serde::{Deserialize, Serialize};

use crate::manifest::pod::{PodSpec, Resources};

/// The controllers in use. CPU time needs none: every cgroup2 directory counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Controller {
    /// Weight and quota.
    Cpu,
    /// Limit, usage and count of out-of-memory kills.
    Memory,
    /// Limit of processes and threads.
    Pids,
}

impl Controller {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Pids];

    /// The kernel's name of it, the same in both versions.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }

    /// What does not work without it, in words for the user.
    #[must_use]
    pub fn purpose(self) -> &'static str {
        match self {
            Self::Cpu => "CPU requests and limits",
            Self::Memory => "memory limits, usage and the detection of out-of-memory kills",
            Self::Pids => "the limit of processes in a pod",
        }
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The two interfaces of cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy of its own for each controller.
    V1,
    /// One hierarchy.
    V2,
}

/// A value in a file of a cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Whose file it is.
    pub controller: Controller,
    /// Its name in the cgroup's directory.
    pub file: &'static str,
    /// What is written.
    pub value: String,
    /// What a new cgroup has there anyway, so that nothing has to be written.
    pub is_default: bool,
    /// The kernel may have been built without the file (swap accounting).
    pub may_be_missing: bool,
}

impl Setting {
    fn new(controller: Controller, file: &'static str, value: impl Into<String>) -> Self {
        Self { controller, file, value: value.into(), is_default: false, may_be_missing: false }
    }

    fn default_if(self, is_default: bool) -> Self {
        Self { is_default, ..self }
    }

    fn may_be_missing(self) -> Self {
        Self { may_be_missing: true, ..self }
    }
}

/// Period of the CPU quota in microseconds, as in Kubernetes and as the kernel's default.
pub const CPU_PERIOD_US: u64 = 100_000;
/// Smallest CPU quota in microseconds that the kernel accepts.
pub const CPU_QUOTA_MIN_US: u64 = 1000;
/// Largest quota asked for: what `cpu.max` accepts at least (`max_cfs_runtime`, Linux 5.8), and
/// far beyond any machine.
const CPU_QUOTA_MAX_US: u64 = 1 << 43;
/// Smallest and largest `cpu.shares`.
const CPU_SHARES: (u64, u64) = (2, 262_144);
/// `cpu.shares` of a new cgroup.
const CPU_SHARES_DEFAULT: u64 = 1024;
/// `cpu.weight` of a new cgroup.
const CPU_WEIGHT_DEFAULT: u64 = 100;

/// Whether all processes of a cgroup are killed when one is for want of memory.
const OOM_GROUP: &str = "memory.oom.group";

/// What one container may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ContainerLimits {
    /// `requests.cpu` in thousandths: the weight against the other containers of the pod.
    pub cpu_request_milli: Option<u64>,
    /// `limits.cpu` in thousandths; 0 is no limit, as in Kubernetes.
    pub cpu_limit_milli: Option<u64>,
    /// `limits.memory` in bytes; 0 is no limit. With a limit there is no swap.
    pub memory_limit_bytes: Option<u64>,
}

impl From<&Resources> for ContainerLimits {
    fn from(resources: &Resources) -> Self {
        Self {
            cpu_request_milli: resources.cpu_request_milli,
            cpu_limit_milli: resources.cpu_limit_milli.filter(|milli| *milli > 0),
            memory_limit_bytes: resources.memory_limit_bytes.filter(|bytes| *bytes > 0),
        }
    }
}

impl ContainerLimits {
    /// What is written into the container's cgroup, in this order. It states every limit, also
    /// those that are not set, so that it takes away what an earlier revision set.
    #[must_use]
    pub fn settings(&self, version: Version) -> Vec<Setting> {
        let mut settings = vec![cpu_weight(version, self.cpu_request_milli)];
        settings.extend(self.cpu_quota(version));
        settings.extend(self.memory(version));
        settings
    }

    fn cpu_quota(&self, version: Version) -> Vec<Setting> {
        let quota = self.quota_us();
        let text = |none: &str| quota.map_or_else(|| none.to_owned(), |us| us.to_string());
        match version {
            Version::V1 => vec![
                Setting::new(Controller::Cpu, "cpu.cfs_period_us", CPU_PERIOD_US.to_string())
                    .default_if(true),
                Setting::new(Controller::Cpu, "cpu.cfs_quota_us", text("-1"))
                    .default_if(quota.is_none()),
            ],
            Version::V2 => {
                let value = format!("{} {CPU_PERIOD_US}", text("max"));
                vec![Setting::new(Controller::Cpu, "cpu.max", value).default_if(quota.is_none())]
            }
        }
    }

    fn memory(&self, version: Version) -> Vec<Setting> {
        let limit = self.memory_limit_bytes;
        let text = |none: &str| limit.map_or_else(|| none.to_owned(), |bytes| bytes.to_string());
        let set = |file, value: &str| Setting::new(Controller::Memory, file, value);
        match version {
            // The limit of memory and swap together may never be below that of memory, so it is
            // out of the way while the other changes.
            Version::V1 => vec![
                set("memory.memsw.limit_in_bytes", "-1").default_if(true).may_be_missing(),
                set("memory.limit_in_bytes", &text("-1")).default_if(limit.is_none()),
                set("memory.memsw.limit_in_bytes", &text("-1"))
                    .default_if(limit.is_none())
                    .may_be_missing(),
            ],
            Version::V2 => vec![
                set("memory.swap.max", if limit.is_some() { "0" } else { "max" })
                    .default_if(limit.is_none())
                    .may_be_missing(),
                set("memory.max", &text("max")).default_if(limit.is_none()),
                // Half a container would be worse than none: the restart policy needs an exit.
                set(OOM_GROUP, "1"),
            ],
        }
    }

    fn quota_us(&self) -> Option<u64> {
        let milli = self.cpu_limit_milli.filter(|milli| *milli > 0)?;
        let us = milli.saturating_mul(CPU_PERIOD_US / 1000);
        Some(us.clamp(CPU_QUOTA_MIN_US, CPU_QUOTA_MAX_US))
    }

    /// The same for an OCI runtime.
    #[must_use]
    pub fn to_oci(&self) -> LinuxResources {
        let mut cpu = LinuxCpu::default();
        cpu.set_shares(Some(shares(self.cpu_request_milli)));
        if let Some(us) = self.quota_us() {
            cpu.set_quota(Some(signed(us))).set_period(Some(CPU_PERIOD_US));
        }
        let mut resources = LinuxResources::default();
        resources.set_cpu(Some(cpu));
        if let Some(bytes) = self.memory_limit_bytes {
            let mut memory = LinuxMemory::default();
            // In OCI words `swap` is memory and swap together.
            memory.set_limit(Some(signed(bytes))).set_swap(Some(signed(bytes)));
            resources.set_memory(Some(memory));
        }
        resources
    }
}

/// What all containers of a pod together may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PodLimits {
    /// Most processes and threads.
    pub pids_max: Option<u32>,
    /// The most of `requests.cpu` at once in thousandths: the weight against other pods.
    pub cpu_request_milli: Option<u64>,
    /// `spec.resources.limits.cpu` in thousandths; 0 is no limit.
    pub cpu_limit_milli: Option<u64>,
    /// `spec.resources.limits.memory` in bytes; 0 is no limit. With a limit there is no swap.
    pub memory_limit_bytes: Option<u64>,
}

impl From<&PodSpec> for PodLimits {
    fn from(spec: &PodSpec) -> Self {
        let all = spec.all_containers().map(|container| &container.resources);
        let any = all.chain([&spec.resources]).any(|of| of.cpu_request_milli.is_some());
        let request = || spec.request(|resources| resources.cpu_request_milli);
        let ContainerLimits { cpu_request_milli: _, cpu_limit_milli, memory_limit_bytes } =
            (&spec.resources).into();
        Self {
            pids_max: Some(spec.pids_limit),
            cpu_request_milli: any.then(request),
            cpu_limit_milli,
            memory_limit_bytes,
        }
    }
}

impl PodLimits {
    /// What is written into the cgroup that holds the pod's containers.
    #[must_use]
    pub fn settings(&self, version: Version) -> Vec<Setting> {
        let max = self.pids_max.map_or_else(|| "max".to_owned(), |max| max.to_string());
        let pids = Setting::new(Controller::Pids, "pids.max", max);
        let mut settings = vec![pids.default_if(self.pids_max.is_none())];
        let whole = self.whole();
        settings.extend(whole.cpu_quota(version));
        // One container that is out of memory does not take the others with it.
        let is_group = |setting: &Setting| setting.file == OOM_GROUP;
        settings.extend(whole.memory(version).into_iter().filter(|setting| !is_group(setting)));
        settings
    }

    /// What all containers may use, as if they were one.
    fn whole(&self) -> ContainerLimits {
        let Self { pids_max: _, cpu_request_milli: _, cpu_limit_milli, memory_limit_bytes } = *self;
        ContainerLimits { cpu_request_milli: None, cpu_limit_milli, memory_limit_bytes }
    }

    /// What is written into the cgroup of the whole pod, which competes with other pods.
    #[must_use]
    pub fn outer_settings(&self, version: Version) -> Vec<Setting> {
        vec![cpu_weight(version, self.cpu_request_milli)]
    }

    /// The same for an OCI runtime.
    #[must_use]
    pub fn to_oci(&self) -> LinuxResources {
        let mut resources = self.whole().to_oci();
        // The weight is that of the pod, and not of what holds its containers.
        if let Some(cpu) = resources.cpu_mut() {
            cpu.set_shares(None);
        }
        if let Some(max) = self.pids_max {
            let mut pids = LinuxPids::default();
            pids.set_limit(i64::from(max));
            resources.set_pids(Some(pids));
        }
        resources
    }
}

fn cpu_weight(version: Version, request_milli: Option<u64>) -> Setting {
    let shares = shares(request_milli);
    match version {
        Version::V1 => Setting::new(Controller::Cpu, "cpu.shares", shares.to_string())
            .default_if(shares == CPU_SHARES_DEFAULT),
        Version::V2 => Setting::new(Controller::Cpu, "cpu.weight", weight(shares).to_string())
            .default_if(weight(shares) == CPU_WEIGHT_DEFAULT),
    }
}

/// `cpu.shares` of a request: 1024 for a whole processor, the smallest for none.
#[must_use]
pub fn shares(request_milli: Option<u64>) -> u64 {
    let shares = request_milli.unwrap_or(0).saturating_mul(1024) / 1000;
    shares.clamp(CPU_SHARES.0, CPU_SHARES.1)
}

/// `cpu.weight` (1 to 10000) of `cpu.shares` (2 to 262144), by the formula of runc and Kubernetes.
#[must_use]
pub fn weight(shares: u64) -> u64 {
    let above_min = shares.clamp(CPU_SHARES.0, CPU_SHARES.1) - CPU_SHARES.0;
    1 + above_min * 9999 / (CPU_SHARES.1 - CPU_SHARES.0)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// `file=value`, with `*` for what a new cgroup has anyway and `?` for what may be missing.
    #[track_caller]
    fn check(settings: &[Setting], expected: &[&str]) {
        let mark = |set, mark| if set { mark } else { "" };
        let found: Vec<String> = settings
            .iter()
            .map(|s| {
                let marks = (mark(s.is_default, "*"), mark(s.may_be_missing, "?"));
                format!("{}={}{}{}", s.file, s.value, marks.0, marks.1)
            })
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn requests_become_shares_and_weights_as_in_kubernetes() {
        let table = [
            (None, 2, 1),
            (Some(0), 2, 1),
            (Some(1), 2, 1),
            (Some(2), 2, 1),
            (Some(100), 102, 4),
            (Some(250), 256, 10),
            (Some(500), 512, 20),
            (Some(1000), 1024, 39),
            (Some(4000), 4096, 157),
            (Some(256_000), 262_144, 10_000),
            (Some(u64::MAX), 262_144, 10_000),
        ];
        for (milli, expected, expected_weight) in table {
            let shares = shares(milli);
            assert_eq!((shares, weight(shares)), (expected, expected_weight), "{milli:?}");
        }
    }

    #[test]
    fn limits_become_quotas_within_what_the_kernel_takes() {
        let table = [
            (Some(1), Some(1000)),
            (Some(10), Some(1000)),
            (Some(11), Some(1100)),
            (Some(1500), Some(150_000)),
            (Some(u64::MAX), Some(CPU_QUOTA_MAX_US)),
            (Some(0), None),
            (None, None),
        ];
        for (cpu_limit_milli, expected) in table {
            let limits = ContainerLimits { cpu_limit_milli, ..ContainerLimits::default() };
            assert_eq!(limits.quota_us(), expected, "{cpu_limit_milli:?}");
        }
    }

    #[test]
    fn every_limit_is_written_in_both_versions() {
        let limits = ContainerLimits {
            cpu_request_milli: Some(500),
            cpu_limit_milli: Some(1500),
            memory_limit_bytes: Some(64 * MIB),
        };
        check(
            &limits.settings(Version::V2),
            &[
                "cpu.weight=20",
                "cpu.max=150000 100000",
                "memory.swap.max=0?",
                "memory.max=67108864",
                "memory.oom.group=1",
            ],
        );
        check(
            &limits.settings(Version::V1),
            &[
                "cpu.shares=512",
                "cpu.cfs_period_us=100000*",
                "cpu.cfs_quota_us=150000",
                "memory.memsw.limit_in_bytes=-1*?",
                "memory.limit_in_bytes=67108864",
                "memory.memsw.limit_in_bytes=67108864?",
            ],
        );
    }

    #[test]
    fn a_limit_that_is_not_set_is_cleared() {
        let limits = ContainerLimits::default();
        check(
            &limits.settings(Version::V2),
            &[
                "cpu.weight=1",
                "cpu.max=max 100000*",
                "memory.swap.max=max*?",
                "memory.max=max*",
                "memory.oom.group=1",
            ],
        );
        check(
            &limits.settings(Version::V1),
            &[
                "cpu.shares=2",
                "cpu.cfs_period_us=100000*",
                "cpu.cfs_quota_us=-1*",
                "memory.memsw.limit_in_bytes=-1*?",
                "memory.limit_in_bytes=-1*",
                "memory.memsw.limit_in_bytes=-1*?",
            ],
        );
        let none =
            ["pids.max=max*", "cpu.max=max 100000*", "memory.swap.max=max*?", "memory.max=max*"];
        check(&PodLimits::default().settings(Version::V2), &none);
    }

    #[test]
    fn a_pod_has_a_limit_of_processes_and_the_weight_of_its_containers() {
        let limits = PodLimits {
            pids_max: Some(100),
            cpu_request_milli: Some(1000),
            cpu_limit_milli: Some(1500),
            memory_limit_bytes: Some(MIB),
        };
        let set =
            ["pids.max=100", "cpu.max=150000 100000", "memory.swap.max=0?", "memory.max=1048576"];
        check(&limits.settings(Version::V2), &set);
        check(
            &limits.settings(Version::V1),
            &[
                "pids.max=100",
                "cpu.cfs_period_us=100000*",
                "cpu.cfs_quota_us=150000",
                "memory.memsw.limit_in_bytes=-1*?",
                "memory.limit_in_bytes=1048576",
                "memory.memsw.limit_in_bytes=1048576?",
            ],
        );
        check(&limits.outer_settings(Version::V1), &["cpu.shares=1024*"]);
        check(&limits.outer_settings(Version::V2), &["cpu.weight=39"]);
        assert_eq!(limits.to_oci().pids().map(|pids| pids.limit()), Some(100));
    }

    #[test]
    fn resources_of_a_manifest_become_oci_resources() {
        let resources = Resources {
            cpu_request_milli: Some(250),
            cpu_limit_milli: Some(500),
            memory_request_bytes: Some(MIB),
            memory_limit_bytes: Some(2 * MIB),
            ..Resources::default()
        };
        let json = serde_json::to_value(ContainerLimits::from(&resources).to_oci()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "cpu": { "shares": 256, "quota": 50000, "period": 100_000 },
                "memory": { "limit": 2_097_152, "swap": 2_097_152 },
            })
        );
        let none = Resources { memory_limit_bytes: Some(0), ..Resources::default() };
        let json = serde_json::to_value(ContainerLimits::from(&none).to_oci()).unwrap();
        assert_eq!(json, serde_json::json!({ "cpu": { "shares": 2 } }));
    }
}
