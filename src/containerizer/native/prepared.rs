//! [`Prepared`]: a launch plan in the terms of system calls, made before the clone so that the
//! child has little left to do that can fail.

use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use oci_spec::runtime::{
    Capabilities, LinuxCapabilities, LinuxNamespaceType, Mount, PosixRlimitType, Process,
};
use rustix::thread::CapabilitySet;
use seccompiler::sock_filter;

use super::isolators::devices::HOST_DEVICES;
use super::isolators::volumes::{SUB_PATH, SUB_PATH_FIXED};
use super::launcher::LaunchError;
use super::plan::{ImageUser, LaunchPlan, RootPlan};
use super::seccomp::FilterCache;
use crate::provisioner::store::LayerId;
use crate::sys::{MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY};

/// See the module.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) root: RootStep,
    /// Whether the container has processes of its own.
    pub(super) own_pids: bool,
    pub(super) own_cgroups: bool,
    pub(super) mounts: Vec<MountStep>,
    pub(super) masked: Vec<String>,
    pub(super) read_only: Vec<String>,
    pub(super) program: Program,
    pub(super) user: UserStep,
    /// Groups besides those of the user.
    pub(super) groups: Vec<u32>,
    pub(super) umask: u32,
    /// Soft and hard limit of open files.
    pub(super) nofile: Option<(u64, u64)>,
    pub(super) bounding: CapabilitySet,
    pub(super) permitted: CapabilitySet,
    pub(super) oom_score_adj: Option<i32>,
    pub(super) no_new_privs: bool,
    pub(super) seccomp: Option<Rc<[sock_filter]>>,
}

/// What is executed.
#[derive(Debug)]
pub(super) struct Program {
    /// Never empty.
    pub(super) argv: Vec<CString>,
    pub(super) env: Vec<CString>,
    /// The value of PATH.
    pub(super) search: String,
    pub(super) cwd: String,
}

/// The root file system.
#[derive(Debug)]
pub(super) enum RootStep {
    Host,
    Image(ImageRoot),
}

/// The layers of an image with a writable one on top.
#[derive(Debug)]
pub(super) struct ImageRoot {
    /// The directory of all layers.
    pub(super) store: PathBuf,
    /// The topmost first; never empty.
    pub(super) layers: Vec<LayerId>,
    /// What belongs to the writable layer.
    pub(super) writable: PathBuf,
    /// To be made if they are missing.
    pub(super) directories: Vec<String>,
    pub(super) read_only: bool,
    /// Whether set-user-ID programs in it work.
    pub(super) set_user_id: bool,
}

/// Who executes the program.
#[derive(Debug)]
pub(super) enum UserStep {
    /// By number.
    Ids { uid: u32, gid: u32 },
    /// To be looked up in the root file system.
    OfImage(ImageUser),
}

/// One mount.
#[derive(Debug)]
pub(super) struct MountStep {
    /// In the container.
    pub(super) target: String,
    pub(super) source: Source,
    /// `MOUNT_ATTR_*` of the mount, and of all below it if it is a recursive bind.
    pub(super) attributes: u64,
    /// `MS_PRIVATE` or `MS_SLAVE`, of a bind.
    pub(super) propagation: u64,
    /// Whether nothing is mounted where the source does not exist.
    pub(super) optional: bool,
}

/// What is mounted.
#[derive(Debug)]
pub(super) enum Source {
    /// A file or directory of the executor's.
    Bind { path: String, part: Option<Part>, recursive: bool },
    /// A new file system with its parameters.
    New {
        kind: &'static str,
        parameters: Vec<(String, Option<String>)>,
        /// Whether the host's devices are made in it.
        host_devices: bool,
    },
}

/// What of a source is bound.
#[derive(Debug)]
pub(super) struct Part {
    /// Below the source.
    pub(super) path: String,
    pub(super) kind: PartKind,
}

/// How it is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PartKind {
    /// It is made if it is missing, and no link may lead out.
    OfDirectory,
    /// It is there, and links begin at its root.
    Fixed,
}

impl Program {
    /// Adds a variable, `NAME=value`, unless there is one of that name.
    pub(super) fn add_default(&mut self, variable: &CStr) {
        let name = |text: &CStr| text.to_bytes().split(|byte| *byte == b'=').next().map(Vec::from);
        if !self.env.iter().any(|it| name(it) == name(variable)) {
            self.env.push(variable.to_owned());
        }
    }
}

impl Prepared {
    pub(super) fn new(plan: &LaunchPlan, filters: &mut FilterCache) -> Result<Self, LaunchError> {
        let invalid = |what: &str| LaunchError::Plan { what: what.to_owned() };
        let linux = plan.spec.linux().as_ref().ok_or_else(|| invalid("it has no `linux`"))?;
        let process = plan.spec.process().as_ref().ok_or_else(|| invalid("it has no process"))?;
        let namespaces = linux.namespaces().as_deref().unwrap_or_default();
        let has = |kind| namespaces.iter().any(|namespace| namespace.typ() == kind);
        if !has(LinuxNamespaceType::Mount) {
            return Err(invalid("it has no mount namespace"));
        }
        let mounts =
            plan.spec.mounts().iter().flatten().map(mount_step).collect::<Result<_, _>>()?;
        let seccomp = linux.seccomp().as_ref().map(|list| filters.get(list)).transpose();
        let capabilities = process.capabilities().as_ref();
        let set = |of: fn(&LinuxCapabilities) -> &Option<Capabilities>| {
            capabilities.map_or(Ok(CapabilitySet::empty()), |all| capability_set(of(all).as_ref()))
        };
        let user = process.user();
        let no_new_privs = process.no_new_privileges().unwrap_or(false);
        Ok(Self {
            root: root_step(&plan.rootfs, no_new_privs)?,
            own_pids: has(LinuxNamespaceType::Pid),
            own_cgroups: has(LinuxNamespaceType::Cgroup),
            mounts,
            masked: linux.masked_paths().clone().unwrap_or_default(),
            read_only: linux.readonly_paths().clone().unwrap_or_default(),
            program: program(process)?,
            user: match &plan.user {
                Some(of_image) => UserStep::OfImage(of_image.clone()),
                None => UserStep::Ids { uid: user.uid(), gid: user.gid() },
            },
            groups: user.additional_gids().clone().unwrap_or_default(),
            umask: user.umask().unwrap_or(0o022),
            nofile: nofile(process),
            bounding: set(LinuxCapabilities::bounding)?,
            permitted: set(LinuxCapabilities::permitted)?,
            oom_score_adj: process.oom_score_adj(),
            no_new_privs,
            seccomp: seccomp.map_err(|source| LaunchError::Filter { source })?,
        })
    }
}

fn root_step(plan: &RootPlan, no_new_privs: bool) -> Result<RootStep, LaunchError> {
    match plan {
        RootPlan::Host => Ok(RootStep::Host),
        RootPlan::Image { layers, .. } if layers.is_empty() => {
            Err(LaunchError::Plan { what: "its image has no layers".to_owned() })
        }
        RootPlan::Image { store, layers, writable, directories, read_only } => {
            Ok(RootStep::Image(ImageRoot {
                store: store.clone(),
                layers: layers.clone(),
                writable: writable.clone(),
                directories: directories.clone(),
                read_only: *read_only,
                set_user_id: !no_new_privs,
            }))
        }
    }
}

fn program(process: &Process) -> Result<Program, LaunchError> {
    let strings = |texts: &Option<Vec<String>>| {
        let texts = texts.iter().flatten();
        texts
            .map(|text| {
                CString::new(text.as_str()).map_err(|_| LaunchError::Plan {
                    what: format!("there is a null character in {text:?}"),
                })
            })
            .collect::<Result<Vec<CString>, _>>()
    };
    let argv = strings(process.args())?;
    if argv.is_empty() {
        return Err(LaunchError::Plan { what: "it names no program".to_owned() });
    }
    let search = process.env().iter().flatten().rev().find_map(|var| var.strip_prefix("PATH="));
    Ok(Program {
        argv,
        env: strings(process.env())?,
        search: search.unwrap_or_default().to_owned(),
        cwd: text(process.cwd())?,
    })
}

fn nofile(process: &Process) -> Option<(u64, u64)> {
    let limits = process.rlimits().iter().flatten();
    let mut nofile = limits.filter(|limit| limit.typ() == PosixRlimitType::RlimitNofile);
    nofile.next().map(|limit| (limit.soft(), limit.hard()))
}

fn capability_set(names: Option<&Capabilities>) -> Result<CapabilitySet, LaunchError> {
    let mut set = CapabilitySet::empty();
    for name in names.into_iter().flatten() {
        let name = name.to_string();
        set |= CapabilitySet::from_name(&name)
            .ok_or_else(|| LaunchError::Plan { what: format!("capability {name} is unknown") })?;
    }
    Ok(set)
}

fn text(path: &Path) -> Result<String, LaunchError> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| LaunchError::Plan { what: format!("path {path:?} is not UTF-8") })
}

fn mount_step(mount: &Mount) -> Result<MountStep, LaunchError> {
    let target = text(mount.destination())?;
    let (mut bind, mut optional) = (None, false);
    let mut propagation = libc::MS_PRIVATE;
    let (mut part, mut host_devices) = (None, false);
    let mut attributes = 0;
    let mut parameters = Vec::new();
    for option in mount.options().iter().flatten() {
        match option.as_str() {
            "bind" => bind = Some(false),
            "rbind" => bind = Some(true),
            "optional" => optional = true,
            "private" | "rprivate" | "rw" => {}
            HOST_DEVICES => host_devices = true,
            "rslave" => propagation = libc::MS_SLAVE,
            // It is that of what is bound.
            "rshared" => propagation = 0,
            "ro" | "rro" => attributes |= MOUNT_ATTR_RDONLY,
            "nosuid" | "rnosuid" => attributes |= MOUNT_ATTR_NOSUID,
            "nodev" | "rnodev" => attributes |= MOUNT_ATTR_NODEV,
            "noexec" | "rnoexec" => attributes |= MOUNT_ATTR_NOEXEC,
            other => parameters.push(match other.split_once('=') {
                Some((SUB_PATH, path)) => {
                    part = Some(Part { path: path.to_owned(), kind: PartKind::OfDirectory });
                    continue;
                }
                Some((SUB_PATH_FIXED, path)) => {
                    part = Some(Part { path: path.to_owned(), kind: PartKind::Fixed });
                    continue;
                }
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (other.to_owned(), None),
            }),
        }
    }
    let source = match (bind, mount.source()) {
        (Some(recursive), Some(path)) => Source::Bind { path: text(path)?, part, recursive },
        (Some(_), None) => {
            return Err(LaunchError::Plan { what: format!("{target} is bound to nothing") });
        }
        (None, _) => {
            let kind = kind(mount.typ().as_deref().unwrap_or_default(), &target)?;
            Source::New { kind, parameters, host_devices }
        }
    };
    Ok(MountStep { target, source, attributes, propagation, optional })
}

fn kind(name: &str, target: &str) -> Result<&'static str, LaunchError> {
    match name {
        "proc" => Ok("proc"),
        "sysfs" => Ok("sysfs"),
        "tmpfs" => Ok("tmpfs"),
        "devpts" => Ok("devpts"),
        "mqueue" => Ok("mqueue"),
        // OCI names both versions so; ours is used for version 2 alone.
        "cgroup" => Ok("cgroup2"),
        other => Err(LaunchError::Plan {
            what: format!("file system `{other}` of {target} is not supported"),
        }),
    }
}
