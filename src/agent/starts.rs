//! [`Starts`]: how long new pods take from the sight of their manifest until they run. Only
//! measured; nothing is decided by it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::executor::protocol::{ContainerStatus, PodReport};
use crate::ids::PodName;
use crate::manifest::desired::DesiredState;
use crate::reconciler::{ActualPod, ActualState};
use crate::state::record::Exit;

/// The new pods that do not run yet.
#[derive(Debug, Default)]
pub(super) struct Starts {
    claimed: BTreeSet<PodName>,
    seen: BTreeMap<PodName, Instant>,
}

impl Starts {
    /// Manifests were read.
    pub(super) fn observe(&mut self, desired: &DesiredState, actual: &ActualState, now: Instant) {
        let claims = &desired.claims;
        let is_new = |name: &&PodName| !self.claimed.contains(*name);
        let new: Vec<PodName> = claims.keys().filter(is_new).cloned().collect();
        self.claimed.retain(|name| claims.contains_key(name));
        self.seen.retain(|name, _| claims.contains_key(name));
        if new.is_empty() {
            return;
        }
        let there: BTreeSet<&PodName> = actual.pods.values().filter_map(ActualPod::name).collect();
        for name in new {
            // What is there already was seen by an agent before, or is on its way out.
            if !there.contains(&name) {
                self.seen.insert(name.clone(), now);
            }
            self.claimed.insert(name);
        }
    }

    /// A pod's executor has reported: how long the start took, if it is over with this.
    pub(super) fn reported(
        &mut self,
        name: &PodName,
        report: &PodReport,
        now: Instant,
    ) -> Option<Duration> {
        let seen = *self.seen.get(name)?;
        let began = |status: &ContainerStatus| !matches!(status, ContainerStatus::Creating);
        if !report.containers.iter().all(|container| began(&container.status)) {
            return None;
        }
        self.seen.remove(name);
        let never_ran = report.containers.iter().any(|container| {
            container.last.as_ref().is_some_and(|last| matches!(last.exit, Exit::NotStarted(_)))
        });
        (!never_ran).then(|| now.saturating_duration_since(seen))
    }
}
