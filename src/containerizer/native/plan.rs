//! [`LaunchPlan`]: everything about one container's process, as data. PURE.
//!
//! It is an OCI runtime specification, to which isolators contribute in a fixed order, and the few
//! things of the host it needs. Written out as a bundle, another OCI runtime could launch it when
//! called from within the pod's namespaces. Not here: doing any of it (`launcher`, `child`).

use std::path::PathBuf;

use oci_spec::runtime::{Linux, Mount, Process, Spec};
use serde::{Deserialize, Serialize};

use super::facts::HostFacts;
use super::isolators;
use crate::ids::VolumeName;
use crate::manifest::pod::{AbsolutePath, ContainerSpec, PodSpec, ResolvedImage};
use crate::provisioner::store::LayerId;

/// How one container is launched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaunchPlan {
    /// Mounts, process, namespaces, seccomp. A namespace that is not listed is the executor's.
    pub spec: Spec,
    /// Where the root file system comes from.
    pub rootfs: RootPlan,
    /// Who runs the program, where that has to be looked up in the root file system; else
    /// `process.user` of the specification counts.
    pub user: Option<ImageUser>,
    /// What must be there on the host before the launch.
    pub effects: Vec<HostEffect>,
}

/// Where a root file system comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootPlan {
    /// The host's own, read-only.
    Host,
    /// The layers of an image with a writable one on top.
    Image {
        /// The directory of all layers; each has its files in `fs`.
        store: PathBuf,
        /// The image's, the topmost first.
        layers: Vec<LayerId>,
        /// Where the writable layer is, emptied for each run.
        writable: PathBuf,
        /// Directories that the program expects, made if they are missing.
        directories: Vec<String>,
        /// Whether nothing can be written.
        read_only: bool,
    },
}

/// A user of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageUser {
    /// `User` of the image: `user[:group]` by name or number; may be empty.
    pub text: String,
    /// What the manifest says instead of the user.
    pub uid: Option<u32>,
    /// What the manifest says instead of the group.
    pub gid: Option<u32>,
    /// Whether the groups that the image's files give the user count.
    pub own_groups: bool,
    /// Whether it must not turn out to be user 0.
    pub non_root: bool,
}

/// What must be there on the host before a launch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostEffect {
    /// A directory with that owner; parents are made for root alone.
    Directory {
        /// On the host.
        path: PathBuf,
        /// Its permissions, when it is made.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// A file of root's with that content; parents are made for root alone.
    File {
        /// On the host.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// What is in it.
        content: String,
    },
    /// A file of root's with nothing in it, in a directory for root alone.
    EmptyFile {
        /// On the host.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
}

/// Why a container can't be planned. Manifests are validated before, so these name what a
/// validator can't know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// An image of which nobody has said which it is.
    #[error("which image `{image}` is was not found out before the launch")]
    UnresolvedImage {
        /// As the manifest says.
        image: String,
    },
    /// Neither the manifest nor the image names a program.
    #[error(
        "there is no program to run: image `{image}` has neither `Entrypoint` nor `Cmd`; write \
         `command`"
    )]
    NoProgram {
        /// As the manifest says.
        image: String,
    },
    /// A mount of a volume that the pod does not have.
    #[error("volume `{volume}`, to be mounted at {path}, is not a volume of the pod")]
    UnknownVolume {
        /// The mount's volume.
        volume: VolumeName,
        /// The mount's path.
        path: AbsolutePath,
    },
    /// `runAsNonRoot`, and the image says nothing else than root.
    #[error(
        "`runAsNonRoot` is set, but image `{image}` would run as root; set `runAsUser` to a number \
         above 0"
    )]
    RunsAsRoot {
        /// As the manifest says.
        image: String,
    },
    /// A profile of system calls that can't be used.
    #[error("{why}")]
    Profile {
        /// The file, and what is wrong with it.
        why: String,
    },
    /// A `subPathExpr` that names nothing in a volume.
    #[error("`subPathExpr` of the mount at {path}: {why}")]
    SubPath {
        /// The mount's path.
        path: AbsolutePath,
        /// What is wrong with it.
        why: String,
    },
    /// A mount over what the isolation of the container rests on.
    #[error("volume `{volume}` can't be mounted at {path}: {below} is the container's own")]
    MountPathReserved {
        /// The mount's volume.
        volume: VolumeName,
        /// The mount's path.
        path: AbsolutePath,
        /// The reserved directory.
        below: &'static str,
    },
}

/// What isolators read.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The container's pod.
    pub pod: &'a PodSpec,
    /// The container.
    pub container: &'a ContainerSpec,
    /// The host.
    pub facts: &'a HostFacts,
}

impl<'a> Context<'a> {
    /// The image of the container; none if it has the host's root file system.
    ///
    /// # Errors
    /// If it is not known which image that is.
    pub(super) fn image(&self) -> Result<Option<&'a ResolvedImage>, PlanError> {
        let Some(image) = &self.container.image else { return Ok(None) };
        match &image.resolved {
            Some(resolved) => Ok(Some(resolved)),
            None => Err(PlanError::UnresolvedImage { image: image.source.to_string() }),
        }
    }
}

/// A contributor to launch plans: one kind of isolation. Pure.
pub trait Isolator {
    /// Its name in reports.
    fn name(&self) -> &'static str;

    /// Adds its part to the plan.
    ///
    /// # Errors
    /// If the container asks for what can't be done.
    fn prepare(&self, context: &Context<'_>, plan: &mut LaunchPlan) -> Result<(), PlanError>;
}

/// Plans the launch of one container.
///
/// # Errors
/// What the isolators refuse.
pub fn plan(
    pod: &PodSpec,
    container: &ContainerSpec,
    facts: &HostFacts,
) -> Result<LaunchPlan, PlanError> {
    let context = Context { pod, container, facts };
    let mut plan = LaunchPlan::empty();
    for isolator in isolators::all() {
        isolator.prepare(&context, &mut plan)?;
    }
    Ok(plan)
}

/// The version of the OCI runtime specification that plans are written in.
const OCI_VERSION: &str = "1.2.0";

impl LaunchPlan {
    /// A plan without the defaults of `oci_spec`, which are another runtime's.
    fn empty() -> Self {
        let mut spec = Spec::default();
        spec.set_version(OCI_VERSION.to_owned())
            .set_root(None)
            .set_mounts(Some(Vec::new()))
            .set_process(None)
            .set_hostname(None)
            .set_domainname(None)
            .set_hooks(None)
            .set_annotations(None)
            .set_linux(None);
        let mut plan = Self { spec, rootfs: RootPlan::Host, user: None, effects: Vec::new() };
        plan.linux_mut()
            .set_namespaces(None)
            .set_resources(None)
            .set_masked_paths(None)
            .set_readonly_paths(None);
        plan.process_mut().set_args(None).set_env(None).set_rlimits(None).set_capabilities(None);
        plan
    }

    pub(super) fn add_mount(&mut self, mount: Mount) {
        self.spec.mounts_mut().get_or_insert_default().push(mount);
    }

    pub(super) fn process_mut(&mut self) -> &mut Process {
        self.spec.process_mut().get_or_insert_default()
    }

    pub(super) fn linux_mut(&mut self) -> &mut Linux {
        self.spec.linux_mut().get_or_insert_default()
    }
}

/// A mount in the form of OCI: options as in fstab.
pub(super) fn mount(destination: &str, kind: &str, source: PathBuf, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(PathBuf::from(destination))
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source))
        .set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
    mount
}

#[cfg(test)]
mod tests;
