//! The root file system, the sandbox, and the kernel's file systems but `/dev`.
//!
//! Without an image the root is the host's own, read-only. What would give the host away or let
//! the container talk to it is replaced: `/proc` and `/sys` are the container's, `/tmp` and `/run`
//! (with the sockets of the host's services) are empty, and Roost's own directories look empty.
//! With `readOnlyRootFilesystem` `/tmp` and `/run` are read-only as well, as they would be in an
//! image; the sandbox, `/dev/shm` and volumes stay writable.
//!
//! With an image the root is its layers with a writable one on top, which is empty at the start of
//! each run.
//!
//! A privileged container has the kernel's own file systems open and writable.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Root;

use super::process::working_dir;
use crate::containerizer::native::facts::CgroupMode;
use crate::containerizer::native::plan::{
    Context, HostEffect, Isolator, LaunchPlan, PlanError, RootPlan, mount,
};
use crate::manifest::pod::ResolvedImage;

/// Where a container finds its sandbox; the value of `$MESOS_SANDBOX`.
///
/// Below `/run`, which is the container's own anyway, and not at Mesos' `/mnt/mesos/sandbox`: that
/// would reach into a volume which a user mounts on `/mnt`.
pub(in crate::containerizer::native) const SANDBOX: &str = "/run/sandbox";
/// Permissions of a sandbox, which belongs to the container's user.
const SANDBOX_MODE: u32 = 0o750;

/// Below the writable layer: where the root is mounted, in the container's mount namespace.
pub(in crate::containerizer::native) const ROOT_DIR: &str = "root";

/// Replaced as a whole, so that nothing of the host below them needs a mask.
const REPLACED: [&str; 5] = ["/proc", "/sys", "/dev", "/tmp", "/run"];

/// Files and directories that tell about, or reach, the whole machine.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// Settings of the whole machine.
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// See the module.
#[derive(Debug)]
pub(super) struct Filesystem;

impl Isolator for Filesystem {
    fn name(&self) -> &'static str {
        "filesystem"
    }

    fn prepare(&self, context: &Context<'_>, plan: &mut LaunchPlan) -> Result<(), PlanError> {
        match context.image()? {
            Some(image) => image_root(context, image, plan),
            None => host_root(context, plan),
        }
        sandbox(context, plan);
        if !context.container.security.privileged {
            let owned =
                |paths: &[&str]| Some(paths.iter().map(|path| (*path).to_owned()).collect());
            plan.linux_mut().set_masked_paths(owned(&MASKED)).set_readonly_paths(owned(&READ_ONLY));
        }
        Ok(())
    }
}

fn host_root(context: &Context<'_>, plan: &mut LaunchPlan) {
    plan.rootfs = RootPlan::Host;
    let mut root = Root::default();
    root.set_path(PathBuf::from("/")).set_readonly(Some(true));
    plan.spec.set_root(Some(root));
    kernel_mounts(context, plan);
    scratch_mounts(context, plan);
    for dir in &context.facts.masked_dirs {
        if let Some(dir) = dir.to_str().filter(|_| needs_mask(dir)) {
            let options = ["ro", "nosuid", "nodev", "noexec", "mode=0555"];
            plan.add_mount(mount(dir, "tmpfs", "tmpfs".into(), &options));
        }
    }
}

fn image_root(context: &Context<'_>, image: &ResolvedImage, plan: &mut LaunchPlan) {
    let (container, paths) = (context.container, &context.facts.paths);
    let writable = paths.writable(&container.name);
    let mut root = Root::default();
    root.set_path(writable.join(ROOT_DIR)).set_readonly(Some(container.read_only_root));
    plan.spec.set_root(Some(root));
    plan.rootfs = RootPlan::Image {
        store: paths.layers().unwrap_or_default(),
        layers: image.layers.iter().rev().cloned().collect(),
        writable,
        directories: vec![working_dir(container, Some(image)).to_owned()],
        read_only: container.read_only_root,
    };
    kernel_mounts(context, plan);
}

fn kernel_mounts(context: &Context<'_>, plan: &mut LaunchPlan) {
    let options = ["nosuid", "nodev", "noexec"];
    plan.add_mount(mount("/proc", "proc", "proc".into(), &options));
    let access = if context.container.security.privileged { "rw" } else { "ro" };
    let of_kernel = [access, "nosuid", "nodev", "noexec"];
    plan.add_mount(mount("/sys", "sysfs", "sysfs".into(), &of_kernel));
    match context.facts.cgroups {
        CgroupMode::Unified => {
            plan.add_mount(mount("/sys/fs/cgroup", "cgroup", "cgroup".into(), &of_kernel));
        }
        // Not done: showing version 1 hierarchies costs a mount for each of them. The directory
        // is empty.
        CgroupMode::Hybrid => {}
    }
}

fn scratch_mounts(context: &Context<'_>, plan: &mut LaunchPlan) {
    for (path, mode) in [("/tmp", "mode=1777"), ("/run", "mode=0755")] {
        let access = if context.container.read_only_root { "ro" } else { "rw" };
        plan.add_mount(mount(path, "tmpfs", "tmpfs".into(), &[access, "nosuid", "nodev", mode]));
    }
}

fn needs_mask(dir: &Path) -> bool {
    !REPLACED.iter().any(|replaced| dir.starts_with(replaced))
}

fn sandbox(context: &Context<'_>, plan: &mut LaunchPlan) {
    let path = context.facts.paths.sandbox(&context.container.name);
    plan.add_mount(mount(
        SANDBOX,
        "bind",
        path.clone(),
        &["bind", "rprivate", "rw", "nosuid", "nodev"],
    ));
    plan.effects.push(HostEffect::Directory {
        path,
        mode: SANDBOX_MODE,
        // Of an image, the user may have to be looked up first; the set-up does it then.
        uid: context.container.user.unwrap_or(0),
        gid: context.container.group.unwrap_or(0),
    });
}
