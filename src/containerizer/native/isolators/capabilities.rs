//! Capabilities: root of a container has the fourteen that container engines agree on, other users
//! none, and nobody can get more.
//!
//! Inheritable and ambient stay empty: an inheritable set lets a program of another user gain
//! capabilities through file capabilities (CVE-2022-24769).

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use crate::containerizer::native::plan::{Context, Isolator, LaunchPlan, PlanError};

/// The default set of Docker and containerd.
const DEFAULT: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// See the module.
#[derive(Debug)]
pub(super) struct BoundedCapabilities;

impl Isolator for BoundedCapabilities {
    fn name(&self) -> &'static str {
        "capabilities"
    }

    fn prepare(&self, context: &Context<'_>, plan: &mut LaunchPlan) -> Result<(), PlanError> {
        let all: Capabilities = DEFAULT.into_iter().collect();
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
