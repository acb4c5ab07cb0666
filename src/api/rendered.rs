//! [`Rendered`]: pods as JSON text, kept as long as they stay as they are, so that a list of
//! hundreds is put together and not made anew. Not here: which pods are listed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::value::RawValue;

use super::kubernetes::{Context, pod};
use crate::agent::service::{ContainerStatus, PodView, RecordPhase, Snapshot};
use crate::ids::PodId;

/// The text of pods by instance, each with the version of the view that it is of. At most one for
/// each pod of a snapshot.
#[derive(Debug, Default)]
pub(super) struct Rendered {
    pods: Mutex<BTreeMap<PodId, (u64, Arc<RawValue>)>>,
}

impl Rendered {
    /// The text of each of these views of the snapshot, in their order.
    ///
    /// # Errors
    /// If one can't be written as JSON, which has no case that is known.
    pub(super) fn list<'a>(
        &self,
        views: impl Iterator<Item = &'a Arc<PodView>>,
        snapshot: &Snapshot,
        context: &Context,
    ) -> serde_json::Result<Vec<Arc<RawValue>>> {
        // A text is put in whole or not at all.
        let mut kept = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let listed = views.map(|view| {
            let id = view.record.id;
            if let Some((version, text)) = kept.get(&id)
                && *version == view.version
            {
                return Ok(text.clone());
            }
            let text = serde_json::value::to_raw_value(&pod::of(view, context))?;
            let text: Arc<RawValue> = text.into();
            if is_timeless(view) {
                kept.insert(id, (view.version, text.clone()));
            }
            Ok(text)
        });
        let listed = listed.collect();
        if kept.len() > snapshot.pods.len() {
            let ids: std::collections::BTreeSet<PodId> =
                snapshot.pods.iter().map(|view| view.record.id).collect();
            kept.retain(|id, _| ids.contains(id));
        }
        listed
    }
}

/// Whether what is told of the pod is the same at any time: spans that are left are not.
fn is_timeless(view: &PodView) -> bool {
    let stays = match view.record.phase {
        RecordPhase::Active | RecordPhase::Finished { .. } => true,
        RecordPhase::Terminating { .. } | RecordPhase::Destroying { .. } => false,
    };
    let reports = view.report.iter().flat_map(|report| &report.containers);
    let mut waits = reports.map(|container| match container.status {
        ContainerStatus::BackingOff { .. } => true,
        ContainerStatus::Creating
        | ContainerStatus::Running { .. }
        | ContainerStatus::Stopping { .. }
        | ContainerStatus::Recording { .. }
        | ContainerStatus::Terminated => false,
    });
    stays && !waits.any(|waits| waits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::samples::{self, snapshot};
    use crate::clock::{BootTime, WallTime};

    #[test]
    fn a_pod_is_written_anew_when_it_changed_and_forgotten_when_it_is_gone() {
        let rendered = Rendered::default();
        let context = Context {
            now: BootTime::now(),
            wall: WallTime::now(),
            boot: "boot".parse().unwrap(),
            agent_started_at: WallTime(0),
            node: "node".to_owned(),
        };
        let list = |version: u64, pods: Vec<PodView>| {
            let snapshot = snapshot(version, pods, std::path::Path::new("/r"));
            rendered.list(snapshot.pods.iter(), &snapshot, &context).unwrap()
        };
        let (first, second) = (samples::pod("shop/web", 1), samples::pod("shop/db", 2));
        let texts = list(1, vec![first.clone(), second.clone()]);
        let again = list(2, vec![first.clone(), second.clone()]);
        assert!(texts.iter().zip(&again).all(|(a, b)| Arc::ptr_eq(a, b)));
        let changed = PodView { version: first.version + 1, problems: vec!["x".into()], ..first };
        let anew = list(3, vec![changed, second.clone()]);
        assert!(anew[0].get().contains("\"message\":\"x\""), "{}", anew[0]);
        assert!(Arc::ptr_eq(&anew[1], &texts[1]));
        list(4, vec![second]);
        assert_eq!(rendered.pods.lock().unwrap().len(), 1);
    }

    #[test]
    fn what_counts_down_is_written_anew_every_time() {
        let mut view = samples::pod("shop/web", 1);
        assert!(is_timeless(&view));
        let waiting =
            ContainerStatus::BackingOff { until: BootTime(1), delay: crate::clock::Millis(1) };
        view.report.as_mut().unwrap().containers[0].status = waiting;
        assert!(!is_timeless(&view));
    }
}
