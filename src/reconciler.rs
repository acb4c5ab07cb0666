//! The decision: what is desired, what is there, and so what to do. PURE.
//!
//! [`reconcile`] is called again after everything that may have changed something, and decides
//! from scratch; nothing is remembered between two calls but what the records hold. A pod's plan
//! depends on that pod alone, and on whether the node has room for it, so that a slow or failing
//! pod delays only itself.
//!
//! ```text
//!                    claim, no instance                  claim, same shared part
//!          (nothing) ────────────────► Active ◄──────────────────────────┐
//!                                       │  │ ▲                           │ Accept, SetSpec
//!                             finished  │  │ └───────────────────────────┘
//!                   Finished ◄──────────┘  │ no claim, or another shared part
//!                      │                   ▼
//!                      └──────────► Terminating ──► Destroying ──► (nothing)
//!                       evicted: back to Finished ◄──┘ (then as a restart, when it may come back)
//!                                       stop, then kill   remove everything, forget
//! ```
//!
//! What goes for another instance (`Replaced`, `Restarted`) is forgotten only when that one is
//! recorded, so that its room can't be taken in between. Who gets room at all is decided in
//! [`admission`].
//!
//! Not here: performing the plan (`agent`), and what happens inside a pod
//! (`executor::machine`).

use std::collections::BTreeMap;
use std::sync::Arc;

use admission::{Share, Turn};
use images::Refusal;
use pod_plan::{Claims, Pod};
use pressure::{Pressure, PressureKind, Verdict};

use crate::clock::{BootId, BootTime, Millis, WallTime};
use crate::executor::protocol::PodReport;
use crate::ids::{PodId, PodName};
use crate::manifest::desired::{Claim, DesiredState};
use crate::manifest::pod::PodSpec;
use crate::manifest::revision::{Hash, Revision};
use crate::state::record::PodRecord;

pub mod admission;
pub mod directory;
pub mod images;
mod order;
pub mod plan;
pub mod pod_plan;
pub mod pressure;

#[cfg(test)]
mod tests;

pub use admission::{Node, Requests};
pub use directory::Alarm;
pub use images::{ImageTrouble, Images, Sought};
pub use plan::{Action, Creation, Key, PassedOver, Plan, Reason, Step, Wait, WaitReason};

/// What is there, as far as the agent knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActualState {
    /// This boot.
    pub boot: BootId,
    /// The build of the executor that belongs to this agent.
    pub executor_build: String,
    /// The handles that trusted manifest directories had.
    pub directories: BTreeMap<String, Vec<u8>>,
    /// What this machine has for pods.
    pub node: Node,
    /// What was promised to pods that are being worked on ([`Plan::promised`]).
    pub under_way: BTreeMap<PodName, Arc<PodSpec>>,
    /// What is known of images.
    pub images: Images,
    /// What somebody asked of an instance, until its record says so too.
    pub asked: BTreeMap<PodId, Asked>,
    /// What the node runs out of.
    pub pressure: Pressure,
    /// Instances that are to be evicted, until their records say so too.
    pub verdicts: BTreeMap<PodId, Verdict>,
    /// Every pod instance of which there is a record or a trace.
    pub pods: BTreeMap<PodId, ActualPod>,
}

/// What is there of one pod instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActualPod {
    /// Its record.
    pub record: Option<PodRecord>,
    /// A record made from its directory or its executor, for when the store has none.
    pub adoptable: Option<PodRecord>,
    /// The specification in its directory.
    pub spec: Option<StoredSpec>,
    /// The specification of its record's successor.
    pub successor: Option<StoredSpec>,
    /// Its executor.
    pub executor: ExecutorState,
    /// Whether a cgroup or a runtime directory of it may be there.
    pub has_runtime: bool,
}

/// A specification found in a pod's directory.
///
/// It is written before the record that accepts it, so it may be newer than the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSpec {
    /// What was found.
    pub spec: Arc<PodSpec>,
    /// The hashes of it; computed once by the shell, because a decision needs them every time.
    pub revision: Revision,
}

impl StoredSpec {
    /// A specification with its hashes.
    #[must_use]
    pub fn new(spec: Arc<PodSpec>) -> Self {
        Self { revision: Revision::of(&spec), spec }
    }
}

/// What can be asked of an instance beside what its manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// Another instance of the same.
    Restart,
    /// An earlier revision, until the manifest changes.
    RollBack {
        /// Which.
        to: u64,
        /// What it was.
        stored: StoredSpec,
        /// `Revision::digest` of what the manifest asked for then: a later one was not refused.
        refused: Hash,
    },
    /// The end of a roll-back: its manifest is followed again.
    Release,
    /// It stays what it is, although it was not Ready in time: there is nothing to go back to.
    Persist,
}

/// What is known of a pod's executor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecutorState {
    /// There is none.
    Absent,
    /// It was there and ended although the pod shall run.
    Lost {
        /// How long it lived, as far as the agent saw.
        lived: Millis,
    },
    /// It is there, and has not answered yet.
    Silent,
    /// It answers.
    Connected {
        /// Its build.
        build: String,
        /// Whether it refused to be upgraded.
        refused_upgrade: bool,
        /// What it reported last.
        report: Option<PodReport>,
    },
}

/// The time, read by the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For decisions.
    pub boot: BootTime,
    /// For records that are shown to people.
    pub wall: WallTime,
}

/// Why a pod can't become what it wants, for now: first of all because there is no room.
fn refusal<'a>(
    share: &'a Share<'a>,
    pressure: Option<&'a (PressureKind, String)>,
    room: Option<&'a str>,
    order: Option<&'a str>,
    images: &'a Images,
) -> Option<Refusal<'a>> {
    let Some(wants) = share.wants else { return order.map(Refusal::Order) };
    let pressure = pressure.map(|(kind, why)| Refusal::Pressure(*kind, why));
    pressure
        .or(room.map(Refusal::Room))
        .or_else(|| wants.lacks.map(Refusal::Config))
        .or_else(|| images.refusal(share.name, wants.spec))
}

/// Decides what to do now, for all pods.
#[must_use]
pub fn reconcile(desired: &DesiredState, actual: &ActualState, now: Now) -> Plan {
    let mut plan = Plan::default();
    let trust = directory::judge(desired, actual, &mut plan);
    // What is made of a pod is not seen before it is done, and may have lost its manifest since.
    let mut names: BTreeMap<&PodName, (&[Claim], Vec<&ActualPod>)> =
        desired.claims.iter().map(|(name, claims)| (name, (claims.as_slice(), vec![]))).collect();
    for name in actual.under_way.keys() {
        names.entry(name).or_default();
    }
    for (id, pod) in &actual.pods {
        match (pod.name(), &pod.executor) {
            (Some(name), _) => names.entry(name).or_default().1.push(pod),
            // Its executor may still tell what it is.
            (None, ExecutorState::Silent) => {}
            (
                None,
                ExecutorState::Absent
                | ExecutorState::Lost { .. }
                | ExecutorState::Connected { .. },
            ) => plan.add(Key::Instance(*id), pod_plan::discard(*id)),
        }
    }
    let pods: Vec<Pod<'_>> = names
        .into_iter()
        .map(|(name, (claims, instances))| {
            Pod::of(name, Claims::of(claims, &actual.node), &instances)
        })
        .collect();
    plan.passed_over = pods.iter().flat_map(|pod| pod.passed_over(&actual.node)).collect();
    let lacking: Vec<Option<String>> = pods
        .iter()
        .map(|pod| order::lacking(&pods, pod.to_be_started(actual, now).map(|(spec, _)| &**spec)?))
        .collect();
    let mut shares: Vec<_> = pods.iter().map(|pod| pod.share(actual, &trust, now)).collect();
    for (share, _) in shares.iter_mut().zip(&lacking).filter(|(_, lack)| lack.is_some()) {
        // It takes nobody's room meanwhile.
        share.wants = share.wants.filter(|wants| wants.turn != Turn::New);
    }
    let admission = admission::admit(&actual.node, &shares);
    plan.requested = admission.requested;
    for ((pod, share), lack) in pods.iter().zip(&shares).zip(&lacking) {
        let room = admission.refusal(share.name);
        let pressed = share.wants.and_then(|wants| pod.pressed(wants, &actual.pressure));
        let refusal = refusal(share, pressed.as_ref(), room, lack.as_deref(), &actual.images);
        let wanted = share.wants.zip(refusal).map(|(wants, lack)| (lack, wants.spec, wants.source));
        let lost = pod.bereft(&actual.images).and_then(|(spec, source)| {
            Some((actual.images.refusal(share.name, spec)?, spec, source))
        });
        let late = pod.to_be_started(actual, now).zip(lack.as_deref());
        let late = late.map(|((spec, source), lack)| (Refusal::Order(lack), spec, source));
        // What has no room asks nobody for its images.
        let sought = [wanted, lost].into_iter().flatten().find(|(lack, ..)| lack.is_of_images());
        if let Some((_, spec, _)) = sought {
            plan.seek.insert(share.name.clone(), spec.clone());
        }
        if let Some((lack, spec, source)) = wanted.or(lost).or(late) {
            let (why, reason) = lack.in_words();
            let wait = Wait { why, reason, source: source.clone(), spec: spec.clone() };
            plan.waits.insert(share.name.clone(), wait);
        }
        let (mut steps, wake_at) = pod.plan(refusal, actual, &trust, now);
        if late.is_some() {
            steps.retain(|step| !matches!(step.action, Action::Start(_)));
        }
        if let (Some(wants), None) = (share.wants, refusal)
            && !steps.is_empty()
        {
            plan.promised.insert(share.name.clone(), wants.spec.clone());
        }
        plan.retreats.extend(pod.retreat(actual, now));
        plan.add(Key::Pod(share.name.clone()), steps);
        plan.wake_at = [plan.wake_at, wake_at].into_iter().flatten().min();
    }
    plan
}

impl ActualPod {
    /// Which pod it is an instance of, if that can be known.
    #[must_use]
    pub fn name(&self) -> Option<&PodName> {
        self.record.as_ref().or(self.adoptable.as_ref()).map(|record| &record.name)
    }
}
