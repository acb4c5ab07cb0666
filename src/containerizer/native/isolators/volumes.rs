//! The pod's volumes, bound where the container mounts them.
//!
//! A read-only mount is read-only with everything mounted below it. Devices in volumes do not
//! work, but where the manifest names one by hostPath type.
//!
//! A part of a volume (`subPath`) is an option of the mount, not a path on the host: containers
//! may change what lies on the way to it at any time, so it is walked by descriptor when it is
//! bound ([`SUB_PATH`]).

use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;

use super::filesystem::SANDBOX;
use crate::containerizer::native::plan::{Context, Isolator, LaunchPlan, PlanError, mount};
use crate::manifest::expansion::{expand, references};
use crate::manifest::pod::{
    HostPathType, InvalidRelativePath, Propagation, RelativePath, SubPath, Volume, VolumeMount,
    VolumeSource,
};

/// A mount there would replace what the other masks lie on.
const RESERVED: [&str; 1] = ["/proc"];

/// Options of a mount that are ours, in the form that mount(8) leaves to applications: only that
/// of the source is bound, which is made if it is missing.
pub(in crate::containerizer::native) const SUB_PATH: &str = "x-roost.subpath";
/// The same, of what nothing can be made in: it must be there. Links are those of a root file system,
/// as images have them.
pub(in crate::containerizer::native) const SUB_PATH_FIXED: &str = "x-roost.fixed-subpath";
/// The longest path of a part, in bytes (`PATH_MAX`).
const SUB_PATH_LEN_MAX: usize = 4095;

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
    let propagation = match wanted.propagation {
        Propagation::None => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let mut options = vec!["rbind", propagation, "rnosuid"];
    let read_only = match &volume.source {
        VolumeSource::Claim { read_only, .. } => wanted.read_only || *read_only,
        // What is made of values is read-only, as in Kubernetes since 1.10.
        VolumeSource::Projected(_) => true,
        VolumeSource::EmptyDir { .. }
        | VolumeSource::Memory { .. }
        | VolumeSource::Image(_)
        | VolumeSource::HostPath { .. } => wanted.read_only,
    };
    options.push(if read_only { "rro" } else { "rw" });
    if !is_device(volume) {
        options.push("rnodev");
    }
    let part = sub_path(context, wanted)?.map(|path| match volume.source {
        // Nothing can be made in either.
        VolumeSource::Image(_) | VolumeSource::Projected(_) => {
            format!("{SUB_PATH_FIXED}={path}")
        }
        VolumeSource::EmptyDir { .. }
        | VolumeSource::Memory { .. }
        | VolumeSource::Claim { .. }
        | VolumeSource::HostPath { .. } => format!("{SUB_PATH}={path}"),
    });
    options.extend(part.as_deref());
    Ok(mount(wanted.path.as_str(), "bind", source(context, volume), &options))
}

/// The part of the volume, with variables in place.
fn sub_path(
    context: &Context<'_>,
    wanted: &VolumeMount,
) -> Result<Option<RelativePath>, PlanError> {
    let text = match &wanted.sub_path {
        None => return Ok(None),
        Some(SubPath::Path(path)) => return Ok(Some(path.clone())),
        Some(SubPath::Expression(text)) => text,
    };
    let env = &context.container.env;
    // Of two with one name the later wins.
    let value = |name: &str| Some(env.iter().rev().find(|var| var.name == name)?.value.as_str());
    let refused = |why: String| PlanError::SubPath { path: wanted.path.clone(), why };
    if let Some(unknown) = references(text).find(|name| value(name).is_none()) {
        return Err(refused(format!("there is no variable `{unknown}`")));
    }
    let path = expand(text, SUB_PATH_LEN_MAX, value).map_err(|error| refused(error.to_string()))?;
    path.parse().map(Some).map_err(|error: InvalidRelativePath| refused(error.to_string()))
}

fn source(context: &Context<'_>, volume: &Volume) -> PathBuf {
    if context.pod.is_two_way(&volume.name) {
        return context.facts.paths.volume(&volume.name);
    }
    match &volume.source {
        // A tmpfs or an image of the executor's mount namespace lies on the same directory.
        VolumeSource::EmptyDir { .. }
        | VolumeSource::Memory { .. }
        | VolumeSource::Image(_)
        | VolumeSource::Projected(_) => context.facts.paths.volume(&volume.name),
        VolumeSource::Claim { claim, .. } => {
            let namespace = &context.pod.name.namespace;
            context.facts.paths.claim(namespace, claim).unwrap_or_default()
        }
        VolumeSource::HostPath { path, .. } => PathBuf::from(path.as_str()),
    }
}

fn is_device(volume: &Volume) -> bool {
    match &volume.source {
        VolumeSource::EmptyDir { .. }
        | VolumeSource::Memory { .. }
        | VolumeSource::Claim { .. }
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
