//! `lifecycle` of a container, and the annotations that say how containers end.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::annotations::{self, MAX_RUN_TIME, STOP_GRACE};
use super::fields::{At, Fields};
use super::handler::{self, OF_HOOKS, Scope};
use super::schema;
use super::suggest::closest;
use crate::manifest::diagnostic::{Faults, quote};
use crate::manifest::pod::{ContainerSpec, Handler, Lifecycle};

/// What a container may have for its end: up to a week, as the pod.
const STOP_GRACE_RANGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(7 * 86_400);
/// How long a run may be allowed to last.
const MAX_RUN_TIME_RANGE: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(365 * 86_400);

/// Reads `lifecycle`.
pub(super) fn decode(at: At<'_>, scope: Scope<'_>, faults: &mut Faults) -> Option<Lifecycle> {
    let fields = at.fields(&schema::LIFECYCLE, faults)?;
    Some(Lifecycle {
        post_start: hook(&fields, "postStart", scope, faults),
        pre_stop: hook(&fields, "preStop", scope, faults),
        stop_signal: fields.get("stopSignal").and_then(|at| at.parse(faults)),
        stop_grace: None,
        max_run_time: None,
    })
}

fn hook(
    fields: &Fields<'_>,
    name: &'static str,
    scope: Scope<'_>,
    faults: &mut Faults,
) -> Option<Handler> {
    let fields = fields.get(name)?.fields(&schema::HOOK, faults)?;
    // The kubelet replaces no references here, as it does in the commands of probes.
    let scope = Scope { env: None, ..scope };
    handler::decode(&fields, OF_HOOKS, scope, faults)
}

/// Reads the annotations that are about single containers.
pub(super) fn annotations<'a>(
    at: At<'_>,
    containers: impl Iterator<Item = &'a mut ContainerSpec>,
    faults: &mut Faults,
) {
    let mut containers: Vec<&mut ContainerSpec> = containers.collect();
    // What is wrong with the mapping itself is said where it is read as a mapping of texts.
    for (key, value) in at.entries(&mut Faults::default()) {
        let known = [(STOP_GRACE, STOP_GRACE_RANGE), (MAX_RUN_TIME, MAX_RUN_TIME_RANGE)];
        let found = known
            .into_iter()
            .find_map(|(prefix, range)| Some((prefix, range, key.text.strip_prefix(prefix)?)));
        let Some((prefix, range, name)) = found else { continue };
        let Some(text) = value.text(&mut Faults::default()) else { continue };
        let time = annotations::duration(&value, text, range, faults);
        let names = containers.iter().map(|container| container.name.as_str());
        let near = closest(name, names).map(str::to_owned);
        let container = containers.iter_mut().find(|it| it.name.as_str() == name);
        match container {
            Some(container) if prefix == STOP_GRACE => container.lifecycle.stop_grace = time,
            Some(container) => container.lifecycle.max_run_time = time,
            None => {
                let fault =
                    value.error(&format!("there is no container {} in the pod", quote(name)));
                faults.push(match near {
                    Some(near) => fault.with_help(&format!("did you mean `{prefix}{near}`?")),
                    None => fault,
                });
            }
        }
    }
}
