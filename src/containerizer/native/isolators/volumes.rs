//! The pod's volumes, bound where the container mounts them.
//!
//! A read-only mount is read-only with everything mounted below it. Devices in volumes do not
//! work, but where the manifest names one by hostPath type.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;

use super::filesystem::SANDBOX;
use crate::containerizer::native::plan::{Context, Isolator, LaunchPlan, PlanError, mount};
use crate::manifest::pod::{HostPathType, Volume, VolumeMount, VolumeSource};

/// A mount there would replace what the other masks lie on.
const RESERVED: [&str; 1] = ["/proc"];

/// See the module.
#[derive(Debug)]
pub(super) struct Volumes;

impl Isolator for Volumes {
    fn name(&self) -> &'static str {
        "volumes"
    }

    fn prepare(&self, context: &Context<'_>, plan: &mut LaunchPlan) -> Result<(), PlanError> {
        let mut mounts: Vec<&VolumeMount> = context.container.mounts.iter().collect();
        // A mount hides what was mounted below its path before it, so outer ones come first,
        // whatever the order in the manifest. The sort is stable.
        mounts.sort_by_key(|wanted| wanted.path.as_str().matches('/').count());
        let (outside, others): (Vec<_>, Vec<_>) =
            mounts.into_iter().partition(|wanted| contains_sandbox(wanted));
        let sandbox = take_sandbox(plan);
        for wanted in outside {
            plan.add_mount(volume_mount(context, wanted)?);
        }
        for mount in sandbox {
            plan.add_mount(mount);
        }
        for wanted in others {
            plan.add_mount(volume_mount(context, wanted)?);
        }
        Ok(())
    }
}

/// Whether the sandbox would be hidden by the mount if it were not mounted after it.
fn contains_sandbox(wanted: &VolumeMount) -> bool {
    wanted.path.as_str() != SANDBOX && Path::new(SANDBOX).starts_with(wanted.path.as_str())
}

fn take_sandbox(plan: &mut LaunchPlan) -> Vec<Mount> {
    let mounts = plan.spec.mounts_mut().get_or_insert_default();
    mounts.extract_if(.., |mount| mount.destination() == Path::new(SANDBOX)).collect()
}

fn volume_mount(context: &Context<'_>, wanted: &VolumeMount) -> Result<Mount, PlanError> {
    let volume = context.pod.volumes.iter().find(|volume| volume.name == wanted.volume);
    let volume = volume.ok_or_else(|| PlanError::UnknownVolume {
        volume: wanted.volume.clone(),
        path: wanted.path.clone(),
    })?;
    let path = Path::new(wanted.path.as_str());
    if let Some(below) = RESERVED.into_iter().find(|reserved| path.starts_with(reserved)) {
        return Err(PlanError::MountPathReserved {
            volume: wanted.volume.clone(),
            path: wanted.path.clone(),
            below,
        });
    }
    let mut options = vec!["rbind", "rprivate", "rnosuid"];
    // What is made of values is read-only, as in Kubernetes since 1.10.
    let is_projected = matches!(volume.source, VolumeSource::Projected(_));
    options.push(if wanted.read_only || is_projected { "rro" } else { "rw" });
    if !is_device(volume) {
        options.push("rnodev");
    }
    Ok(mount(wanted.path.as_str(), "bind", source(context, volume), &options))
}

fn source(context: &Context<'_>, volume: &Volume) -> PathBuf {
    match &volume.source {
        // A tmpfs or an image of the executor's mount namespace lies on the same directory.
        VolumeSource::EmptyDir {}
        | VolumeSource::Memory { .. }
        | VolumeSource::Image(_)
        | VolumeSource::Projected(_) => context.facts.paths.volume(&volume.name),
        VolumeSource::HostPath { path, .. } => PathBuf::from(path.as_str()),
    }
}

fn is_device(volume: &Volume) -> bool {
    match &volume.source {
        VolumeSource::EmptyDir {}
        | VolumeSource::Memory { .. }
        | VolumeSource::Image(_)
        | VolumeSource::Projected(_) => false,
        VolumeSource::HostPath { kind, .. } => match kind {
            HostPathType::CharDevice | HostPathType::BlockDevice => true,
            HostPathType::Unchecked
            | HostPathType::DirectoryOrCreate
            | HostPathType::Directory
            | HostPathType::FileOrCreate
            | HostPathType::File
            | HostPathType::Socket => false,
        },
    }
}
