//! Limits of local storage: `limits.ephemeral-storage` of containers, `emptyDir.sizeLimit`, and
//! both for the pod as a whole. As the kubelet does it: what pods have on disk is counted now and
//! then, and a pod that has more than it may is evicted. It comes back by itself, as its manifest
//! says that it shall run, with nothing of what it had, and later each time
//! (`reconciler::pressure::return_delay`). Of a critical pod that is only logged, as there.
//!
//! Only pods with a limit are counted, and never more than a twentieth of the time. Where no pod
//! has one, nothing wakes for it. Not here: counting (`footprint`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::footprint::Footprint;
use super::pressure::in_thread;
use super::service::{PodView, Request, Service, Snapshot};
use crate::ids::PodId;
use crate::manifest::pod::{PodSpec, VolumeSource};
use crate::reconciler::pressure::{Amount, CRITICAL_PRIORITY, Verdict};
use crate::state::paths::Paths;
use crate::state::record::{EvictionCause, RecordPhase};

/// Of the time that counting took, as many times as much pass until the next.
const PAUSE_FACTOR: u32 = 20;

/// Keeps the limits until the agent ends.
pub(super) async fn keep(service: Service, requests: mpsc::Sender<Request>, paths: Paths) {
    let mut snapshots = service.subscribe();
    let mut told = BTreeSet::new();
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        let every: Duration = snapshot.agent.pressure.measure.0.into();
        let mut took = Duration::ZERO;
        if snapshot.recovered && snapshot.pods.iter().any(|pod| limited(pod).is_some()) {
            let (begun, paths) = (Instant::now(), paths.clone());
            told.retain(|id| snapshot.pods.iter().any(|pod| pod.record.id == *id));
            let excesses = in_thread(move || count(&snapshot, &paths)).await;
            for Excess { id, revision, is_critical, message } in excesses.unwrap_or_default() {
                if is_critical {
                    if told.insert(id) {
                        tracing::warn!(%id, message, "a critical pod has more than it may");
                    }
                    continue;
                }
                tracing::warn!(%id, message, "evicting a pod");
                let verdict = Verdict { cause: EvictionCause::Limit, message };
                if requests.send(Request::Evict { id, revision, verdict }).await.is_err() {
                    return;
                }
            }
            took = begun.elapsed();
        } else if snapshots.changed().await.is_err() {
            return;
        }
        // Also before it is seen whether there are limits now: pods may be starting by hundreds.
        sleep(every.max(took * PAUSE_FACTOR)).await;
    }
}

/// The specification of a pod that runs and has a limit.
fn limited(pod: &PodView) -> Option<&Arc<PodSpec>> {
    let runs = pod.report.as_ref().is_some_and(|report| report.finished.is_none());
    let is_active = pod.record.phase == RecordPhase::Active && runs;
    pod.spec.as_ref().filter(|spec| is_active && has_limits(spec))
}

fn has_limits(spec: &PodSpec) -> bool {
    let is_limited =
        |source: &VolumeSource| matches!(source, VolumeSource::EmptyDir { size_limit: Some(_) });
    spec.volumes.iter().any(|volume| is_limited(&volume.source))
        || spec.all_containers().any(|container| container.resources.storage_limit_bytes.is_some())
}

/// A pod has more than it may.
struct Excess {
    id: PodId,
    /// The number of the revision that has the limit.
    revision: u64,
    /// Such are not evicted.
    is_critical: bool,
    message: String,
}

fn count(snapshot: &Snapshot, paths: &Paths) -> Vec<Excess> {
    let pods = snapshot.pods.iter().filter_map(|pod| Some((pod, limited(pod)?)));
    pods.filter_map(|(pod, spec)| {
        let record = &pod.record;
        let message =
            excess(spec, &Footprint::of(&paths.pod(record.id, &record.name), spec, None))?;
        let is_critical = spec.priority >= CRITICAL_PRIORITY;
        Some(Excess { id: record.id, revision: record.accepted.number, is_critical, message })
    })
    .collect()
}

/// What is more than it may be, in the words of the kubelet (pkg/kubelet/eviction).
fn excess(spec: &PodSpec, footprint: &Footprint) -> Option<String> {
    for volume in &spec.volumes {
        let VolumeSource::EmptyDir { size_limit: Some(limit) } = volume.source else { continue };
        let used = footprint.volumes.get(&volume.name).map_or(0, |size| size.bytes);
        if used > limit {
            let (name, limit) = (&volume.name, Amount(limit));
            return Some(format!(
                "Usage of EmptyDir volume \"{name}\" exceeds the limit \"{limit}\"."
            ));
        }
    }
    let total = footprint.total().bytes;
    if let Some(limit) = spec.storage_limit()
        && total > limit
    {
        let limit = Amount(limit);
        return Some(format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {limit}."
        ));
    }
    spec.all_containers().find_map(|container| {
        let limit = container.resources.storage_limit_bytes?;
        let used = footprint.containers.get(&container.name).map_or(0, |size| size.bytes);
        let (name, shown) = (&container.name, Amount(limit));
        (used > limit).then(|| {
            format!("Container {name} exceeded its local ephemeral storage limit \"{shown}\".")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::footprint::Size;
    use super::*;
    use crate::manifest::file;

    fn spec(volume: &str, limits: [&str; 2]) -> PodSpec {
        let resources = limits.map(|limit| {
            if limit.is_empty() {
                "{}".to_owned()
            } else {
                format!("{{limits: {{ephemeral-storage: {limit}}}}}")
            }
        });
        let [a, b] = resources;
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  volumes:\n  - {{name: v, \
             emptyDir: {volume}}}\n  containers:\n  - {{name: a, command: [x], resources: {a}}}\n  \
             - {{name: b, command: [x], resources: {b}}}\n"
        );
        let found = file::parse(text.as_bytes()).pods.remove(0);
        PodSpec::clone(&found.spec)
    }

    #[test]
    fn each_limit_is_kept_and_that_of_the_pod_is_the_sum_where_all_have_one() {
        let check = |spec: &PodSpec, [a, b, v]: [u64; 3], expected: Option<&str>| {
            let size = |bytes| Size { bytes, inodes: 1 };
            let containers = [("a", a), ("b", b)];
            let footprint = Footprint {
                containers: containers.map(|(n, it)| (n.parse().unwrap(), size(it))).into(),
                volumes: [("v".parse().unwrap(), size(v))].into(),
            };
            assert_eq!(excess(spec, &footprint).as_deref(), expected);
        };
        let volume = spec("{sizeLimit: 1Mi}", ["", ""]);
        assert!(has_limits(&volume));
        let said = "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\".";
        check(&volume, [9 << 20, 0, 1 << 20], None);
        check(&volume, [0, 0, (1 << 20) + 1], Some(said));
        let one = spec("{}", ["2Mi", ""]);
        assert!(has_limits(&one));
        let said = "Container a exceeded its local ephemeral storage limit \"2Mi\".";
        check(&one, [2 << 20, 9 << 20, 9 << 20], None);
        check(&one, [(2 << 20) + 1, 0, 0], Some(said));
        let both = spec("{}", ["1Mi", "2Mi"]);
        let said = "Pod ephemeral local storage usage exceeds the total limit of containers 3Mi.";
        check(&both, [1 << 20, 1 << 20, 1 << 20], None);
        check(&both, [1 << 20, 1 << 20, (1 << 20) + 1], Some(said));
        assert!(!has_limits(&spec("{}", ["", ""])));
    }
}
