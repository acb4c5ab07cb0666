//! `resources` of a pod, and `resizePolicy` of containers.

use std::collections::BTreeSet;

use super::container::{Side, amounts};
use super::fields::{At, Fields};
use super::schema;
use crate::manifest::diagnostic::Faults;
use crate::manifest::pod::{ContainerSpec, Resized, Resources, demand};

/// The names of `resizePolicy`.
const RESIZED: [(&str, Resized); 2] = [("cpu", Resized::Cpu), ("memory", Resized::Memory)];
/// Whether a change is a restart.
const POLICIES: [(&str, bool); 2] = [("NotRequired", false), ("RestartContainer", true)];
/// Items of `resizePolicy`: there are not more resources.
const POLICIES_MAX: usize = 8;

/// One number of resources.
type Amount = fn(&Resources) -> Option<u64>;

/// Reads `resources` of a pod, and holds those of its containers against it.
pub(super) fn of_pod(
    at: At<'_>,
    (init, main): (&[ContainerSpec], &[ContainerSpec]),
    faults: &mut Faults,
) -> Option<Resources> {
    let fields = at.fields(&schema::POD_RESOURCES, faults)?;
    let mut read = |name: &'static str, side| {
        let found = fields.get(name);
        found.and_then(|at| amounts(at, &schema::POD_RESOURCE_NAMES, side, faults))
    };
    let limits = read("limits", Side::Limits).unwrap_or_default();
    let requests = read("requests", Side::Requests).unwrap_or_default();
    let mut settle = |name,
                      [request, limit]: [Option<u64>; 2],
                      [request_of, limit_of]: [Amount; 2]| {
        let mut refuse = |side: &str, message: &str| {
            let side = at.member(side);
            let amount = side.as_ref().and_then(|side| side.member(name));
            faults.push(amount.as_ref().unwrap_or(&at).error(message));
        };
        let all = || init.iter().chain(main).map(|container| &container.resources);
        let asked = demand(init, main, |of| request_of(of).unwrap_or(0));
        match (request, limit) {
            (Some(request), Some(limit)) if request > limit => {
                refuse("requests", "must not be more than the limit");
            }
            (Some(request), _) if asked > request => {
                refuse("requests", "must not be less than what the containers request together");
            }
            (None, Some(limit)) if asked > limit => {
                refuse("limits", "must not be less than what the containers request together");
            }
            (_, Some(limit)) if all().filter_map(limit_of).any(|of| of > limit) => {
                refuse("limits", "must not be less than the limit of a container");
            }
            (Some(_) | None, _) => {}
        }
        // As in Kubernetes: what the containers request is, and without that the limit.
        let is_silent = all().all(|of| request_of(of).is_none());
        request.or_else(|| limit.filter(|_| is_silent))
    };
    let cpu: [Amount; 2] = [|of| of.cpu_request_milli, |of| of.cpu_limit_milli];
    let memory: [Amount; 2] = [|of| of.memory_request_bytes, |of| of.memory_limit_bytes];
    Some(Resources {
        cpu_request_milli: settle("cpu", [requests.cpu_milli, limits.cpu_milli], cpu),
        cpu_limit_milli: limits.cpu_milli,
        memory_request_bytes: settle(
            "memory",
            [requests.memory_bytes, limits.memory_bytes],
            memory,
        ),
        memory_limit_bytes: limits.memory_bytes,
        ..Resources::default()
    })
}

/// Reads `resizePolicy`: what restarts the container when it changes.
pub(super) fn resize_policy(container: &Fields<'_>, faults: &mut Faults) -> BTreeSet<Resized> {
    let mut seen = BTreeSet::new();
    let mut restarts = BTreeSet::new();
    let Some(at) = container.get("resizePolicy") else { return restarts };
    for item in at.items(POLICIES_MAX, faults) {
        let Some(fields) = item.fields(&schema::RESIZE_POLICY, faults) else { continue };
        let name = fields.required("resourceName", faults);
        let resized = name.and_then(|at| at.choice(&RESIZED, faults));
        let policy = fields.required("restartPolicy", faults);
        let restart = policy.and_then(|at| at.choice(&POLICIES, faults));
        let (Some(resized), Some(restart)) = (resized, restart) else { continue };
        if !seen.insert(resized) {
            let message = format!("there are two policies for `{}`", resized.as_str());
            faults.push(item.error(&message));
        }
        restarts.extend(restart.then_some(resized));
    }
    restarts
}
