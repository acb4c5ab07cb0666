//! In which order a pod's containers run, and what happens when one ends.
//!
//! ```text
//!   initContainers:  a ─► s (restartPolicy: Always) ─► b     one after the other: `a` and `b` to
//!                    their end, the sidecar `s` until it has started
//!   containers:      x, y                                    all at once, when those are done
//! ```

use serde::{Deserialize, Serialize};

use super::{ContainerSpec, PodSpec, Resources, RestartPolicy};
use crate::ids::ContainerName;

/// What a container is for in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// One of `spec.initContainers`: it has to succeed before what follows it starts.
    Init,
    /// One of `spec.initContainers` with `restartPolicy: Always`: what follows it starts when it
    /// has started; it runs as long as the pod and ends last.
    Sidecar,
    /// One of `spec.containers`: what the pod is there for.
    Main,
}

/// `restartPolicy` and `restartPolicyRules` of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerRestart {
    /// Instead of the pod's; with `Always` an init container is a sidecar.
    pub policy: RestartPolicy,
    /// The first that matches how the container ended counts, before the policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RestartRule>,
}

/// One of `restartPolicyRules`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestartRule {
    /// What happens.
    pub action: RestartAction,
    /// `exitCodes.operator`.
    pub when: ExitCodes,
    /// `exitCodes.values`.
    pub values: Vec<u8>,
}

/// `restartPolicyRules[].action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartAction {
    /// The container is started again.
    Restart,
    /// All containers are stopped, and the pod begins anew with its first init container.
    RestartAllContainers,
}

/// `restartPolicyRules[].exitCodes.operator`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitCodes {
    /// The exit code is one of the values.
    In,
    /// It is none of them.
    NotIn,
}

impl RestartRule {
    /// Whether it is about a container that ended with that code (128+n for signal n).
    #[must_use]
    pub fn matches(&self, code: i32) -> bool {
        let is_listed = self.values.iter().any(|value| i32::from(*value) == code);
        match self.when {
            ExitCodes::In => is_listed,
            ExitCodes::NotIn => !is_listed,
        }
    }
}

/// How the resources of containers add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Demand {
    /// What the sidecars so far ask for.
    sidecars: u64,
    /// The most that is asked for at once during the initialization.
    highest: u64,
}

impl PodSpec {
    /// Every container, in the order in which they are started: `initContainers`, `containers`.
    pub fn all_containers(&self) -> impl Iterator<Item = &ContainerSpec> + Clone {
        self.init_containers.iter().chain(&self.containers)
    }

    /// The same, to be changed.
    pub fn all_containers_mut(&mut self) -> impl Iterator<Item = &mut ContainerSpec> {
        self.init_containers.iter_mut().chain(&mut self.containers)
    }

    /// The container of that name.
    #[must_use]
    pub fn container(&self, name: &ContainerName) -> Option<&ContainerSpec> {
        self.all_containers().find(|container| container.name == *name)
    }

    /// What the container of that name is for.
    #[must_use]
    pub fn role(&self, name: &ContainerName) -> Option<Role> {
        let init = self.init_containers.iter().find(|container| container.name == *name);
        match init {
            Some(init) if init.is_restarted_always() => Some(Role::Sidecar),
            Some(_) => Some(Role::Init),
            None => self.containers.iter().any(|c| c.name == *name).then_some(Role::Main),
        }
    }

    /// The sidecars, in the order in which they are started.
    pub fn sidecars(&self) -> impl DoubleEndedIterator<Item = &ContainerSpec> + Clone {
        self.init_containers.iter().filter(|container| container.is_restarted_always())
    }

    /// The restart policy that counts for a container: its own, or the pod's. An init container
    /// that succeeded is done, whatever the pod's policy says of others.
    #[must_use]
    pub fn restart_policy_of(&self, container: &ContainerSpec) -> RestartPolicy {
        let of_pod = match (self.restart_policy, self.role(&container.name)) {
            (RestartPolicy::Always, Some(Role::Init)) => RestartPolicy::OnFailure,
            (policy, _) => policy,
        };
        container.restart.as_ref().map_or(of_pod, |restart| restart.policy)
    }

    /// What all of the pod may have of local storage at most, in bytes, its volumes on disk counted:
    /// where every main container has a limit, the limits of all.
    #[must_use]
    pub fn storage_limit(&self) -> Option<u64> {
        let is_limited = |it: &ContainerSpec| it.resources.storage_limit_bytes.is_some();
        let has_limit = self.containers.iter().all(is_limited);
        has_limit.then(|| self.demand(|resources| resources.storage_limit_bytes.unwrap_or(0)))
    }

    /// What the pod asks for at once: what it says as a whole, or else the most that its containers
    /// do ([`Self::demand`]). `of` is what is asked for in resources, if anything.
    #[must_use]
    pub fn request(&self, of: impl Fn(&Resources) -> Option<u64>) -> u64 {
        of(&self.resources).unwrap_or_else(|| self.demand(|resources| of(resources).unwrap_or(0)))
    }

    /// The most that the pod asks for at once, where a container asks for `of` it: by Kubernetes'
    /// rule the larger of what all containers and sidecars ask for together, and of what any init
    /// container asks for together with the sidecars before it.
    #[must_use]
    pub fn demand(&self, of: impl Fn(&Resources) -> u64) -> u64 {
        demand(&self.init_containers, &self.containers, of)
    }
}

/// [`PodSpec::demand`] of a pod of those init containers and containers.
#[must_use]
pub fn demand(
    init: &[ContainerSpec],
    main: &[ContainerSpec],
    of: impl Fn(&Resources) -> u64,
) -> u64 {
    let init = init.iter().fold(Demand::default(), |demand, container| {
        let with_it = demand.sidecars.saturating_add(of(&container.resources));
        let stays = container.is_restarted_always();
        Demand {
            sidecars: if stays { with_it } else { demand.sidecars },
            highest: demand.highest.max(with_it),
        }
    });
    let main = main.iter().map(|container| of(&container.resources));
    init.highest.max(main.fold(init.sidecars, u64::saturating_add))
}

impl ContainerSpec {
    fn is_restarted_always(&self) -> bool {
        self.restart.as_ref().is_some_and(|restart| restart.policy == RestartPolicy::Always)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_matches_the_codes_that_are_listed_or_the_others() {
        let rule =
            |when| RestartRule { action: RestartAction::Restart, when, values: vec![3, 137] };
        for (code, listed) in [(3, true), (137, true), (0, false), (259, false)] {
            assert_eq!(rule(ExitCodes::In).matches(code), listed, "{code}");
            assert_eq!(rule(ExitCodes::NotIn).matches(code), !listed, "{code}");
        }
    }
}
