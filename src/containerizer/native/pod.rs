//! What the containers of a pod share: namespaces, volumes, shared memory, and PID 1.
//!
//! The executor enters all of it itself, once, so that a container gets it by being cloned.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::Native;
use super::overlay;
use super::ownership;
use super::reaper::Reaper;
use super::seccomp::FilterCache;
use super::two_way::TwoWay;
use crate::ids::VolumeName;
use crate::manifest::pod::{HostPathType, PodSecurity, PodSpec, SysctlName, VolumeSource};
use crate::state::paths::PodPaths;
use crate::sys;

/// Size of a pod's `/dev/shm`, as container engines have it. A `Memory` volume mounted there has
/// its own.
const SHM_SIZE: &str = "size=65536k,mode=1777";
/// Every user of the pod may write to its volumes, as in Kubernetes.
const VOLUME_MODE: u32 = 0o777;
/// A volume of files that are made of values: nobody but the executor writes to it.
const PROJECTED_MODE: u32 = 0o755;
/// Directories that lead to volumes.
pub(super) const PARENT_MODE: u32 = 0o711;
/// What hostPath makes, as the kubelet does.
const HOST_DIRECTORY_MODE: u32 = 0o755;
const HOST_FILE_MODE: u32 = 0o644;

/// Why a pod's namespaces and volumes could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ContainerizerError {
    /// unshare(2) was refused.
    #[error("making the pod's namespaces ({namespaces}) failed")]
    Unshare {
        /// Which.
        namespaces: String,
        /// Why.
        source: io::Error,
    },
    /// A step inside the new namespaces failed.
    #[error("{what} failed")]
    Step {
        /// What was attempted.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A volume of the pod's own could not be made.
    #[error("making volume `{volume}` at {path} failed")]
    Volume {
        /// Its name.
        volume: VolumeName,
        /// On the host.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A setting of the kernel is refused.
    #[error("setting `{name}` of the kernel to `{value}` failed")]
    Sysctl {
        /// Its name.
        name: SysctlName,
        /// What it was to be, shortened.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// A hostPath can't be looked at or made.
    #[error("volume `{volume}`: hostPath {path} can't be used")]
    HostPath {
        /// The volume.
        volume: VolumeName,
        /// On the host.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A hostPath is not what its type says.
    #[error("volume `{volume}`: hostPath {path} is {found}, but its type is `{wanted:?}`")]
    HostPathType {
        /// The volume.
        volume: VolumeName,
        /// On the host.
        path: PathBuf,
        /// What is there.
        found: &'static str,
        /// `hostPath.type`.
        wanted: HostPathType,
    },
    /// The pod's PID 1 could not be started or taken over.
    #[error("starting PID 1 of the pod failed")]
    Reaper {
        /// Why.
        source: io::Error,
    },
    /// The pod's process namespace could not be entered or left.
    #[error("changing between the executor's process namespace and that of process {pid} failed")]
    Join {
        /// PID 1 of the pod.
        pid: i32,
        /// Why.
        source: io::Error,
    },
}

/// Characters of a setting's value that are shown.
const VALUE_SHOWN_MAX: usize = 64;

/// Where a pod with a network of its own gets it from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// A new namespace is made, with nothing but the loopback interface.
    New,
    /// The calling process is in it already.
    Given,
}

/// Where the shared memory of a pod is mounted, in the executor's mount namespace.
pub(super) fn shm_dir(paths: &PodPaths) -> PathBuf {
    paths.data.join("shm")
}

/// Enters the namespaces of the pod and makes its volumes. Once, at the start of an executor,
/// which must have one thread.
///
/// # Errors
/// What could not be made. The process is to be given up then: it may be in half of them.
pub fn enter_pod(
    spec: &PodSpec,
    paths: &PodPaths,
    network: Network,
) -> Result<Native, ContainerizerError> {
    let flags = namespaces(spec, network);
    unshare(flags).map_err(|error| ContainerizerError::Unshare {
        namespaces: format!("{flags:?}"),
        source: error.into(),
    })?;
    let none = None::<&str>;
    let mut two_way = Vec::new();
    for volume in spec.volumes.iter().filter(|volume| spec.is_two_way(&volume.name)) {
        make_volume(&volume.name, &volume.source, spec, paths)?;
        two_way.extend(TwoWay::of(volume, spec, paths)?);
    }
    // What is mounted and unmounted on the host appears here, but not the other way round, but for
    // these.
    step("making the mount namespace a slave of the host's", || {
        Ok(mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)?)
    })?;
    if flags.contains(CloneFlags::CLONE_NEWNET) {
        step("setting the loopback interface up", || sys::set_interface_up("lo"))?;
    }
    if flags.contains(CloneFlags::CLONE_NEWUTS) {
        step("setting the pod's host name", || Ok(nix::unistd::sethostname(spec.kernel_name())?))?;
    }
    if flags.contains(CloneFlags::CLONE_NEWIPC) {
        step("mounting the pod's shared memory", || {
            let path = shm_dir(paths);
            directory(&path, PARENT_MODE)?;
            mount_tmpfs(&path, SHM_SIZE)
        })?;
    }
    for (name, value) in &spec.security.sysctls {
        set_sysctl(name, value)?;
    }
    for volume in spec.volumes.iter().filter(|volume| !spec.is_two_way(&volume.name)) {
        make_volume(&volume.name, &volume.source, spec, paths)?;
    }
    for volume in two_way {
        volume.attach()?;
    }
    let reaper = spec.share_process_namespace.then(Reaper::start).transpose()?;
    Ok(Native { reaper, filters: FilterCache::default() })
}

/// Written in the pod's own network and IPC namespaces: the kernel shows these settings by the
/// process that opens them.
fn set_sysctl(name: &SysctlName, value: &str) -> Result<(), ContainerizerError> {
    let path = Path::new("/proc/sys").join(name.file());
    let write = || fs::OpenOptions::new().write(true).open(&path)?.write_all(value.as_bytes());
    write().map_err(|source| ContainerizerError::Sysctl {
        name: name.clone(),
        value: value.chars().take(VALUE_SHOWN_MAX).collect(),
        source,
    })
}

fn namespaces(spec: &PodSpec, network: Network) -> CloneFlags {
    let mut flags = CloneFlags::CLONE_NEWNS;
    if !spec.host.network {
        // A pod in the host's network has the host's name too: names are looked up there.
        flags |= CloneFlags::CLONE_NEWUTS;
        match network {
            Network::New => flags |= CloneFlags::CLONE_NEWNET,
            Network::Given => {}
        }
    }
    if !spec.host.ipc {
        flags |= CloneFlags::CLONE_NEWIPC;
    }
    flags
}

fn step(
    what: &'static str,
    run: impl FnOnce() -> io::Result<()>,
) -> Result<(), ContainerizerError> {
    run().map_err(|source| ContainerizerError::Step { what, source })
}

fn make_volume(
    name: &VolumeName,
    source: &VolumeSource,
    spec: &PodSpec,
    paths: &PodPaths,
) -> Result<(), ContainerizerError> {
    let path = paths.volume(name);
    let own = |path: &Path| {
        let PodSecurity { fs_group, fs_group_change, .. } = &spec.security;
        fs_group.map_or(Ok(()), |group| ownership::give(path, group, *fs_group_change))
    };
    let failed =
        |source| ContainerizerError::Volume { volume: name.clone(), path: path.clone(), source };
    match source {
        VolumeSource::EmptyDir { .. } => {
            directory(&path, VOLUME_MODE).and_then(|()| own(&path)).map_err(failed)
        }
        VolumeSource::Claim { claim, read_only: _ } => {
            // Mounts find it by the same name.
            let path = paths.claim(&spec.name.namespace, claim).unwrap_or_default();
            let failed = |source| ContainerizerError::Volume {
                volume: name.clone(),
                path: path.clone(),
                source,
            };
            directory(&path, VOLUME_MODE).and_then(|()| own(&path)).map_err(failed)
        }
        VolumeSource::Memory { size_limit } => {
            let size = size_limit.map_or_else(String::new, |bytes| format!(",size={bytes}"));
            let options = format!("mode={VOLUME_MODE:o}{size}");
            directory(&path, PARENT_MODE)
                .and_then(|()| mount_tmpfs(&path, &options))
                .and_then(|()| own(&path))
                .map_err(failed)
        }
        // Its files are put there by whoever knows what is in them (`projected`).
        VolumeSource::Projected(_) => {
            let options = format!("mode={PROJECTED_MODE:o}");
            directory(&path, PARENT_MODE)
                .and_then(|()| mount_tmpfs(&path, &options))
                .map_err(failed)
        }
        VolumeSource::Image(image) => {
            let layers = image.resolved.as_ref().map(|image| image.layers.as_slice());
            directory(&path, PARENT_MODE)
                .and_then(|()| {
                    let text = "which image it is was not found out";
                    let layers = layers.ok_or_else(|| io::Error::other(text))?;
                    overlay::mount_read_only(&paths.layers().unwrap_or_default(), layers, &path)
                })
                .map_err(failed)
        }
        VolumeSource::HostPath { path, kind } => {
            let path = Path::new(path.as_str());
            let failed = |source| ContainerizerError::HostPath {
                volume: name.clone(),
                path: path.to_owned(),
                source,
            };
            match mismatch(path, *kind).map_err(failed)? {
                None => Ok(()),
                Some(found) => Err(ContainerizerError::HostPathType {
                    volume: name.clone(),
                    path: path.to_owned(),
                    found,
                    wanted: *kind,
                }),
            }
        }
    }
}

pub(super) fn directory(path: &Path, mode: u32) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(PARENT_MODE).create(parent)?;
    }
    match fs::DirBuilder::new().mode(mode).create(path) {
        // Whatever the umask left.
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(mode)),
        // An executor before this one made it; its mode is the containers' affair.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn mount_tmpfs(path: &Path, options: &str) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    Ok(mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options))?)
}

/// What is there, if it is not of the type asked for. Makes what is to be made.
fn mismatch(path: &Path, wanted: HostPathType) -> io::Result<Option<&'static str>> {
    match wanted {
        HostPathType::Unchecked => return Ok(None),
        HostPathType::DirectoryOrCreate => {
            if !path.try_exists()? {
                fs::DirBuilder::new().recursive(true).mode(HOST_DIRECTORY_MODE).create(path)?;
            }
        }
        HostPathType::FileOrCreate => {
            let mut options = fs::OpenOptions::new();
            match options.write(true).create_new(true).mode(HOST_FILE_MODE).open(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        HostPathType::Directory
        | HostPathType::File
        | HostPathType::Socket
        | HostPathType::CharDevice
        | HostPathType::BlockDevice => {}
    }
    let kind = fs::metadata(path)?.file_type();
    let fits = match wanted {
        HostPathType::Unchecked => true,
        HostPathType::DirectoryOrCreate | HostPathType::Directory => kind.is_dir(),
        HostPathType::FileOrCreate | HostPathType::File => kind.is_file(),
        HostPathType::Socket => kind.is_socket(),
        HostPathType::CharDevice => kind.is_char_device(),
        HostPathType::BlockDevice => kind.is_block_device(),
    };
    Ok((!fits).then(|| describe(kind)))
}

fn describe(kind: fs::FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_file() {
        "a regular file"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_block_device() {
        "a block device"
    } else {
        "a FIFO"
    }
}
