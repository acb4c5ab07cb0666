//! Capabilities: root of a container has the fourteen that container engines agree on, with what
//! the manifest adds and without what it drops. Other users have none, and nobody can get more.
//!
//! Inheritable and ambient stay empty: an inheritable set lets a program of another user gain
//! capabilities through file capabilities (CVE-2022-24769).

use std::collections::BTreeSet;

use oci_spec::runtime::{Capabilities, Capability as OciCapability, LinuxCapabilities};

use crate::containerizer::native::plan::{Context, Isolator, LaunchPlan, PlanError};
use crate::manifest::pod::{Capability, ContainerSecurity};

/// The default set of Docker and containerd.
const DEFAULT: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// What root of the container has: `ALL` comes first on either side, then single names (as in
/// containerd).
pub(super) fn held(security: &ContainerSecurity) -> BTreeSet<Capability> {
    let ContainerSecurity { add, drop, privileged, .. } = security;
    if *privileged {
        return Capability::all().collect();
    }
    let mut held: BTreeSet<Capability> = match (add.all, drop.all) {
        (_, true) => BTreeSet::new(),
        (true, false) => Capability::all().collect(),
        (false, false) => {
            Capability::all().filter(|known| DEFAULT.contains(&known.name())).collect()
        }
    };
    held.extend(&add.names);
    held.retain(|capability| !drop.names.contains(capability));
    held
}

/// See the module.
#[derive(Debug)]
pub(super) struct BoundedCapabilities;

impl Isolator for BoundedCapabilities {
    fn name(&self) -> &'static str {
        "capabilities"
    }

    fn prepare(&self, context: &Context<'_>, plan: &mut LaunchPlan) -> Result<(), PlanError> {
        let held = held(&context.container.security);
        let oci = |name: &Capability| name.name().parse::<OciCapability>().ok();
        let all: Capabilities = held.iter().filter_map(oci).collect();
        // The user of an image may turn out to be another one: the kernel takes them then.
        let can_be_root = context.container.user.is_none_or(|user| user == 0);
        let held = if can_be_root { all.clone() } else { Capabilities::new() };
        let mut capabilities = LinuxCapabilities::default();
        capabilities
            .set_bounding(Some(all))
            .set_effective(Some(held.clone()))
            .set_permitted(Some(held))
            .set_inheritable(Some(Capabilities::new()))
            .set_ambient(Some(Capabilities::new()));
        plan.process_mut().set_capabilities(Some(capabilities));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::pod::Capabilities as List;

    fn names(add: &[&str], drop: &[&str]) -> Vec<&'static str> {
        let list = |names: &[&str]| List {
            all: names.contains(&"ALL"),
            names: names.iter().filter_map(|name| name.parse().ok()).collect(),
        };
        let security =
            ContainerSecurity { add: list(add), drop: list(drop), ..ContainerSecurity::default() };
        held(&security).into_iter().map(Capability::name).collect()
    }

    #[test]
    fn single_names_count_after_all() {
        assert_eq!(names(&[], &[]).len(), DEFAULT.len());
        assert_eq!(names(&["NET_ADMIN"], &["ALL"]), ["NET_ADMIN"]);
        assert_eq!(names(&["ALL"], &["ALL", "KILL"]), [""; 0]);
        assert_eq!(names(&["ALL"], &["SYS_ADMIN"]).len(), Capability::all().count() - 1);
        assert_eq!(names(&["KILL"], &["KILL"]).len(), DEFAULT.len() - 1);
    }

    #[test]
    fn every_capability_has_a_name_in_oci() {
        for capability in Capability::all() {
            let name = capability.name();
            assert_eq!(name.parse::<OciCapability>().unwrap().to_string(), name);
        }
    }
}
