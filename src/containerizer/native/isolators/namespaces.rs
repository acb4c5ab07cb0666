//! Which namespaces are the container's own: mount and cgroup always, PID unless the pod shares
//! one or uses the host's. The others are the pod's; the executor is in them.

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};

use crate::containerizer::native::plan::{Context, Isolator, LaunchPlan, PlanError};

/// See the module.
#[derive(Debug)]
pub(super) struct Namespaces;

impl Isolator for Namespaces {
    fn name(&self) -> &'static str {
        "namespaces"
    }

    fn prepare(&self, context: &Context<'_>, plan: &mut LaunchPlan) -> Result<(), PlanError> {
        let mut kinds = vec![LinuxNamespaceType::Mount, LinuxNamespaceType::Cgroup];
        if !context.pod.share_process_namespace && !context.pod.host.pid {
            kinds.push(LinuxNamespaceType::Pid);
        }
        let namespaces = kinds.into_iter().map(|kind| {
            let mut namespace = LinuxNamespace::default();
            namespace.set_typ(kind).set_path(None);
            namespace
        });
        plan.linux_mut().set_namespaces(Some(namespaces.collect()));
        Ok(())
    }
}
