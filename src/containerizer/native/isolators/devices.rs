//! `/dev`: a small tmpfs with the devices that the OCI runtime specification calls default (null,
//! zero, full, random, urandom, tty, ptmx), terminals of the container's own, and the shared
//! memory and message queues of the pod.
//!
//! No other device can be made or opened: everything else is mounted `nodev`, and the seccomp
//! filter refuses mknod of devices. A hostPath volume of type `CharDevice` or `BlockDevice` is the
//! way to ask for one. A privileged container has all that the host has when it is started.

use crate::containerizer::native::plan::{Context, Isolator, LaunchPlan, PlanError, mount};
use crate::containerizer::native::pod::shm_dir;

/// Where the host's shared memory is, for pods in its IPC namespace.
const HOST_SHM: &str = "/dev/shm";

/// An option of the mount that is ours: devices of the host are made in it as well.
pub(in crate::containerizer::native) const HOST_DEVICES: &str = "x-roost.host-devices";

/// See the module.
#[derive(Debug)]
pub(super) struct Devices;

impl Isolator for Devices {
    fn name(&self) -> &'static str {
        "devices"
    }

    fn prepare(&self, context: &Context<'_>, plan: &mut LaunchPlan) -> Result<(), PlanError> {
        let mut options = vec!["nosuid", "noexec", "mode=0755", "size=65536k"];
        options.extend(context.container.security.privileged.then_some(HOST_DEVICES));
        plan.add_mount(mount("/dev", "tmpfs", "tmpfs".into(), &options));
        // Group 5 is tty on every distribution; grantpt(3) expects it.
        let options = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
        plan.add_mount(mount("/dev/pts", "devpts", "devpts".into(), &options));
        let options = ["nosuid", "nodev", "noexec"];
        plan.add_mount(mount("/dev/mqueue", "mqueue", "mqueue".into(), &options));
        let shm =
            if context.pod.host.ipc { HOST_SHM.into() } else { shm_dir(&context.facts.paths) };
        let options = ["bind", "rprivate", "nosuid", "nodev", "noexec"];
        plan.add_mount(mount("/dev/shm", "bind", shm, &options));
        Ok(())
    }
}
