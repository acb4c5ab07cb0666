//! Order among pods: who is not started before another is so far. PURE.
//!
//! It holds for each start, also after a reboot, and for starts alone: what runs is not stopped
//! because another pod is not Ready any more, and a new revision of it does not wait. Not here:
//! the order of the containers within a pod (`executor::machine`).

use super::pod_plan::Pod;
use crate::manifest::pod::{After, PodSpec};

/// What a pod waits for before it may be started, in words; `pods` are sorted by name.
pub(super) fn lacking(pods: &[Pod<'_>], spec: &PodSpec) -> Option<String> {
    let lacks: Vec<String> = spec.after.iter().filter_map(|after| lack(pods, after)).collect();
    (!lacks.is_empty()).then(|| format!("waits for {}", lacks.join(" and ")))
}

fn lack(pods: &[Pod<'_>], After { pod: name, until }: &After) -> Option<String> {
    let found = pods.binary_search_by(|pod| pod.name().cmp(name)).ok();
    match found.and_then(|at| pods.get(at)) {
        Some(pod) if pod.is_so_far(*until) => None,
        Some(_) => Some(format!("pod {name} to be {until}")),
        None => Some(format!("pod {name} to be {until}, which no manifest asks for")),
    }
}

#[cfg(test)]
mod tests;
