//! Pressure: whether the node runs out of memory or disk, who goes then, and who is let in. PURE.
//!
//! ```text
//!             less than the threshold                      not once less than the threshold
//! (nothing) ───────────────────────────► Strain { met } ─┐ for the whole transition
//!                                          ▲     │       │
//!                                          └─────┘       └────────────────────► (nothing)
//! ```
//!
//! As long as there is a [`Strain`], pods that were evicted for it, and new ones that the kubelet
//! would not take either, wait. Somebody is evicted only while the threshold is met ([`Strain::met`]):
//! one pod at a time, by the kubelet's order ([`victim`]). The words are the kubelet's
//! (pkg/kubelet/eviction/helpers.go).
//!
//! Not here: measuring, giving back what nobody needs (`agent::pressure`), and what becomes of an
//! evicted pod (`pod_plan`).

use core::cmp::Reverse;
use std::fmt::{self, Write as _};

use super::admission::Bytes;
use crate::clock::{BootTime, Millis};
use crate::ids::{ContainerName, PodId};
use crate::manifest::pod::PodSpec;
use crate::state::record::EvictionCause;

/// From this priority on a pod is not evicted for want of something on the node, and is let in
/// under pressure: `system-cluster-critical`, and `system-node-critical` above it
/// (`SystemCriticalPriority`).
pub const CRITICAL_PRIORITY: i32 = 2_000_000_000;
/// How much more than the threshold is made free, in percent of it, so that it is not met again
/// at once. It does not count for the end of pressure: a node may have hardly more for ever.
pub const MARGIN_PERCENT: u64 = 10;
/// Longest grace period of an evicted pod: what runs out is needed soon.
pub const GRACE_MAX: Millis = Millis::from_secs(30);
/// How long an evicted pod stays away at least; doubled with each eviction in a row.
pub const RETURN_DELAY: Millis = Millis::from_secs(10);
/// The longest such delay.
pub const RETURN_DELAY_MAX: Millis = Millis::from_secs(300);
/// An instance that was back for this long clears the count.
pub const RETURN_RESET: Millis = Millis::from_secs(600);

/// The least that shall be left of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threshold {
    /// Nothing is asked for.
    Off,
    /// So many bytes.
    Bytes(u64),
    /// A share of what there is.
    Percent(u32),
}

impl Threshold {
    /// How much that is of so much.
    #[must_use]
    pub fn of(self, capacity: u64) -> u64 {
        match self {
            Self::Off => 0,
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => {
                let part = u128::from(capacity) * u128::from(percent) / 100;
                u64::try_from(part).unwrap_or(u64::MAX)
            }
        }
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("0"),
            Self::Bytes(bytes) => fmt::Display::fmt(&Bytes(*bytes), f),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// What shall be left, and how long it must be there for pressure to be over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Of memory, as the kernel estimates what can be had without swapping (`MemAvailable`).
    pub memory: Threshold,
    /// Of each file system that pods write to.
    pub disk: Threshold,
    /// Of the inodes of each; bytes are a plain number.
    pub inodes: Threshold,
    /// How long nothing may be short before pressure is over.
    pub transition: Millis,
}

impl Default for Thresholds {
    /// The kubelet's.
    fn default() -> Self {
        Self {
            memory: Threshold::Bytes(100 << 20),
            disk: Threshold::Percent(10),
            inodes: Threshold::Percent(5),
            transition: Millis::from_secs(300),
        }
    }
}

/// What there is of something, and what is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// All of it.
    pub capacity: u64,
    /// What is left.
    pub available: u64,
}

/// Bytes as people write them: 64Mi, 1.5Gi; rounded down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount(pub u64);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Bytes(self.0), f)
    }
}

/// What was measured at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sample {
    /// Memory; none if the kernel does not tell.
    pub memory: Option<Level>,
    /// File systems that pods write to.
    pub disks: Vec<DiskLevel>,
}

/// A file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskLevel {
    /// A directory on it.
    pub place: String,
    /// Bytes.
    pub bytes: Level,
    /// Inodes; none where the file system has no such limit.
    pub inodes: Option<Level>,
}

/// What runs out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// Memory.
    Memory,
    /// Bytes on a disk.
    Disk,
    /// Inodes of a file system.
    Inodes,
}

impl fmt::Display for Resource {
    /// As the kubelet calls it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Disk => "ephemeral-storage",
            Self::Inodes => "inodes",
        })
    }
}

/// One thing that there is too little of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// Of what.
    pub resource: Resource,
    /// On which file system; none for memory.
    pub place: Option<String>,
    /// What shall be left.
    pub threshold: u64,
    /// What is left.
    pub available: u64,
}

impl Shortage {
    fn amount(&self, amount: u64) -> String {
        match self.resource {
            Resource::Memory | Resource::Disk => Bytes(amount).to_string(),
            Resource::Inodes => amount.to_string(),
        }
    }

    /// What is to be made free.
    #[must_use]
    pub fn missing(&self) -> u64 {
        let margin = self.threshold.saturating_mul(MARGIN_PERCENT) / 100;
        self.threshold.saturating_add(margin).saturating_sub(self.available)
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resource, place, threshold, available } = self;
        let (threshold, available) = (self.amount(*threshold), self.amount(*available));
        write!(f, "{available} of {resource} are left")?;
        place.iter().try_for_each(|place| write!(f, " on the file system of {place}"))?;
        write!(f, ", and {threshold} shall be")
    }
}

/// Something runs out, or did a moment ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strain {
    /// What there was too little of last.
    pub shortage: Shortage,
    /// Whether there is too little of it now.
    pub met: bool,
    /// When that was last so.
    pub last: BootTime,
}

/// What runs out on the node. Where there are several file systems, the shortest counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pressure {
    /// Memory.
    pub memory: Option<Strain>,
    /// Bytes or inodes of a file system.
    pub disk: Option<Strain>,
}

/// What a pod waits for the end of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PressureKind {
    /// Memory is short.
    Memory,
    /// Disk is short.
    Disk,
}

impl PressureKind {
    /// The reason of a pod that waits for that.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Memory => "NodeUnderMemoryPressure",
            Self::Disk => "NodeUnderDiskPressure",
        }
    }
}

impl PressureKind {
    /// The kubelet's reason of the event that it begins, and of the condition meanwhile.
    #[must_use]
    pub fn begun(self) -> &'static str {
        match self {
            Self::Memory => "NodeHasInsufficientMemory",
            Self::Disk => "NodeHasDiskPressure",
        }
    }

    /// The same when it is over.
    #[must_use]
    pub fn over(self) -> &'static str {
        match self {
            Self::Memory => "NodeHasSufficientMemory",
            Self::Disk => "NodeHasNoDiskPressure",
        }
    }
}

impl fmt::Display for PressureKind {
    /// The condition of a node, in Kubernetes' words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "MemoryPressure",
            Self::Disk => "DiskPressure",
        })
    }
}

/// What was measured of one thing, next to what shall be left of it.
struct Reading {
    resource: Resource,
    place: Option<String>,
    level: Level,
    threshold: u64,
}

impl Reading {
    fn of(resource: Resource, place: Option<&String>, level: Level, wanted: Threshold) -> Self {
        let threshold = wanted.of(level.capacity);
        Self { resource, place: place.cloned(), level, threshold }
    }

    fn shortage(&self) -> Shortage {
        let Self { resource, place, level, threshold } = self;
        let (available, place) = (level.available, place.clone());
        Shortage { resource: *resource, place, threshold: *threshold, available }
    }
}

impl Pressure {
    /// What is to be thought of it now.
    #[must_use]
    pub fn judged(&self, sample: &Sample, wanted: &Thresholds, now: BootTime) -> Self {
        let memory =
            sample.memory.map(|level| Reading::of(Resource::Memory, None, level, wanted.memory));
        let disks = sample.disks.iter().flat_map(|disk| {
            let place = Some(&disk.place);
            let inodes = disk.inodes;
            let inodes = inodes.map(|it| Reading::of(Resource::Inodes, place, it, wanted.inodes));
            [Some(Reading::of(Resource::Disk, place, disk.bytes, wanted.disk)), inodes]
        });
        // What can't be measured has not become better, but nobody is evicted for it, and it must
        // not last for ever.
        let fading = |before: &Option<Strain>| {
            let lasts = |strain: &Strain| now.since(strain.last) < wanted.transition;
            before.clone().filter(lasts).map(|strain| Strain { met: false, ..strain })
        };
        let is_unknown = |is_missing: bool, wanted: &[Threshold]| {
            is_missing && wanted.iter().any(|wanted| *wanted != Threshold::Off)
        };
        let judge = |before: &Option<Strain>, readings: Vec<Reading>| {
            strain(before.as_ref(), readings, wanted.transition, now)
        };
        Self {
            memory: if is_unknown(sample.memory.is_none(), &[wanted.memory]) {
                fading(&self.memory)
            } else {
                judge(&self.memory, memory.into_iter().collect())
            },
            disk: if is_unknown(sample.disks.is_empty(), &[wanted.disk, wanted.inodes]) {
                fading(&self.disk)
            } else {
                judge(&self.disk, disks.flatten().collect())
            },
        }
    }

    /// What there is.
    pub fn strains(&self) -> impl Iterator<Item = (PressureKind, &Strain)> {
        let memory = self.memory.iter().map(|strain| (PressureKind::Memory, strain));
        memory.chain(self.disk.iter().map(|strain| (PressureKind::Disk, strain)))
    }

    /// Whether anything is short, or was a moment ago.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.strains().next().is_some()
    }

    /// Whether there is still too little of what somebody is to go for. Limits of its own are
    /// another matter.
    #[must_use]
    pub fn stands(&self, cause: EvictionCause) -> bool {
        let is_met = |strain: &Option<Strain>| strain.as_ref().is_some_and(|strain| strain.met);
        match cause {
            EvictionCause::Memory => is_met(&self.memory),
            EvictionCause::Disk => is_met(&self.disk),
            EvictionCause::Limit => true,
        }
    }

    /// Whether the same holds as in the other, whatever the figures are.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let kinds = |pressure: &Self| {
            pressure.strains().map(|(kind, strain)| (kind, strain.met)).collect::<Vec<_>>()
        };
        kinds(self) == kinds(other)
    }

    /// Why a pod that does not run may not begin to. `evicted` is what it was evicted for, if it
    /// was: it comes back when that is over, however important it is.
    #[must_use]
    pub fn refusal(
        &self,
        spec: &PodSpec,
        evicted: Option<EvictionCause>,
    ) -> Option<(PressureKind, String)> {
        let is_critical = spec.priority >= CRITICAL_PRIORITY;
        let (kind, strain) = self.strains().find(|(kind, _)| match (kind, evicted) {
            (PressureKind::Memory, Some(EvictionCause::Memory))
            | (PressureKind::Disk, Some(EvictionCause::Disk)) => true,
            (PressureKind::Memory, _) => !is_critical && is_best_effort(spec),
            (PressureKind::Disk, _) => !is_critical,
        })?;
        let shortage = &strain.shortage;
        let text = if strain.met {
            format!("is held back while the node is under pressure ({kind}): {shortage}")
        } else {
            format!(
                "is held back until the node has been without pressure ({kind}) for long enough"
            )
        };
        Some((kind, text))
    }
}

fn strain(
    before: Option<&Strain>,
    readings: impl IntoIterator<Item = Reading>,
    transition: Millis,
    now: BootTime,
) -> Option<Strain> {
    let mut asked = readings.into_iter().filter(|reading| reading.threshold > 0).peekable();
    // Where nothing is asked for any more there is no pressure either.
    asked.peek()?;
    // The first counts: bytes before inodes, and data before logs.
    if let Some(short) = asked.find(|reading| reading.level.available < reading.threshold) {
        return Some(Strain { shortage: short.shortage(), met: true, last: now });
    }
    let before = before.filter(|before| now.since(before.last) < transition)?;
    Some(Strain { met: false, ..before.clone() })
}

/// Whether it asks for nothing that there is little of: the quality of service `BestEffort`.
#[must_use]
pub fn is_best_effort(spec: &PodSpec) -> bool {
    let of_containers = spec.all_containers().map(|container| &container.resources);
    of_containers.chain([&spec.resources]).all(|resources| {
        [
            resources.cpu_request_milli,
            resources.cpu_limit_milli,
            resources.memory_request_bytes,
            resources.memory_limit_bytes,
        ]
        .into_iter()
        .all(|amount| amount.is_none_or(|amount| amount == 0))
    })
}

/// What a container uses of what runs out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// The container.
    pub container: ContainerName,
    /// What it uses.
    pub used: u64,
    /// What it requested.
    pub requested: u64,
}

/// A pod that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The instance.
    pub id: PodId,
    /// The number of the revision that it is.
    pub revision: u64,
    /// Its priority.
    pub priority: i32,
    /// What all of it uses; what is in its volumes is in nothing else.
    pub used: u64,
    /// What all of it requested.
    pub requested: u64,
    /// By container.
    pub uses: Vec<Use>,
}

/// Who goes: those that use more than they requested before the others, then the one with the
/// lowest priority, then the one that uses most beyond its request. Nobody that is critical.
#[must_use]
pub fn victim(candidates: &[Candidate]) -> Option<&Candidate> {
    let may_go = candidates.iter().filter(|pod| pod.priority < CRITICAL_PRIORITY);
    may_go.min_by_key(|pod| {
        let excess = i128::from(pod.used) - i128::from(pod.requested);
        (excess <= 0, pod.priority, Reverse(excess), pod.id)
    })
}

/// What is said of a pod that goes for want of something on the node.
#[must_use]
pub fn message(shortage: &Shortage, pod: &Candidate) -> String {
    let Shortage { resource, place: _, threshold, available } = shortage;
    let (threshold, available) = (shortage.amount(*threshold), shortage.amount(*available));
    let mut text = format!(
        "The node was low on resource: {resource}. Threshold quantity: {threshold}, available: \
         {available}. "
    );
    for Use { container, used, requested } in &pod.uses {
        if used > requested {
            let (used, requested) = (shortage.amount(*used), shortage.amount(*requested));
            write!(
                text,
                "Container {container} was using {used}, request is {requested}, has larger \
                 consumption of {resource}. "
            )
            .expect("a string takes everything");
        }
    }
    text.truncate(text.trim_end().len());
    text
}

/// An instance is to be evicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// For want of what.
    pub cause: EvictionCause,
    /// The same for people, in the words of the kubelet.
    pub message: String,
}

/// How long an evicted pod stays away, the how-manieth time in a row.
#[must_use]
pub fn return_delay(count: u32) -> Millis {
    let factor = 1_u64.checked_shl(count.saturating_sub(1)).unwrap_or(u64::MAX);
    Millis(RETURN_DELAY.0.saturating_mul(factor)).min(RETURN_DELAY_MAX)
}

#[cfg(test)]
mod tests;
