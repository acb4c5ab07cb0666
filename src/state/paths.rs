//! Every path that Roost makes. PURE.
//!
//! ```text
//! <data>                             /var/lib/roost, or <root>/data
//! ├── state/                         sled: the agent's alone
//! ├── state.seq, state.lock          its side file and its lock (`store::sled`)
//! ├── state.doubtful-<n>/            a store that could not be believed
//! ├── config-key.json                the key of the hashes over ConfigMaps and Secrets (agent)
//! ├── configs/<ns>_<name>/<digest>.json  what a revision uses of them; for root alone (agent)
//! ├── images/                        images and their layers (`provisioner::store`)
//! ├── image-files.json               files that images were loaded from (agent)
//! ├── networks/<attempt>.json         a pod in its networks, to be undone (agent)
//! ├── forwarding.json                what the host forwards for pods alone (agent)
//! ├── claims/<namespace>/<name>/     volumes that outlive pods (made by executors, removed by people)
//! ├── seccomp/                       profiles of system calls (people's)
//! └── pods/<id>/                     one pod instance, until it is collected
//!     ├── spec.json                  the accepted specification (agent)
//!     ├── containers/<name>/         (executor, from here on)
//!     │   ├── attempt-<n>.json       durable before the program of run n is executed
//!     │   ├── exit-<n>.json          durable before anyone is told that run n ended
//!     │   ├── termination/<n>        what run n says about its end; a file of the container's
//!     │   ├── etc/                   its `hosts`, `hostname`, `resolv.conf`
//!     │   └── sandbox/               the container's work directory
//!     └── volumes/<name>/            emptyDir
//! <runtime>                          /run/roost, or <root>/run; gone after a reboot
//! ├── roost.sock                     the API (agent)
//! ├── logs-rotated                   a pipe: executors tell the agent that they rotated a log
//! ├── names                          what pods of the node are called, as in hosts(5) (agent)
//! ├── pods/<id>/executor.sock        where a pod's executor listens
//! └── pods/<ns>_<name>.json          a pod as the API shows it, for scripts (agent)
//! <logs>                             /var/log/pods, or <root>/logs
//! └── <ns>_<name>_<id>/<container>/<n>.log
//! ```

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::ids::{Attempt, ContainerName, Namespace, ObjectName, PodId, PodName, VolumeName};
use crate::manifest::revision::Hash;

/// The three roots under which everything lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paths {
    /// Survives reboots.
    pub data: PathBuf,
    /// Does not survive a reboot.
    pub runtime: PathBuf,
    /// Logs of containers.
    pub logs: PathBuf,
}

impl Paths {
    /// Everything under one directory (`--root`).
    #[must_use]
    pub fn under(root: &Path) -> Self {
        Self { data: root.join("data"), runtime: root.join("run"), logs: root.join("logs") }
    }

    /// Where an installed agent keeps it (file-hierarchy(7)).
    #[must_use]
    pub fn installed() -> Self {
        Self {
            data: "/var/lib/roost".into(),
            runtime: "/run/roost".into(),
            logs: "/var/log/pods".into(),
        }
    }

    /// The directory of the store.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.data.join("state")
    }

    /// The socket of the API.
    #[must_use]
    pub fn api_socket(&self) -> PathBuf {
        self.runtime.join("roost.sock")
    }

    /// Where executors tell that they rotated a log.
    #[must_use]
    pub fn log_hints(&self) -> PathBuf {
        self.runtime.join(LOG_HINTS)
    }

    /// What the pods of the node are called, as in hosts(5).
    #[must_use]
    pub fn names(&self) -> PathBuf {
        self.runtime.join(NAMES)
    }

    /// Where images are kept.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.data.join(IMAGES)
    }

    /// Which files images were loaded from.
    #[must_use]
    pub fn image_files(&self) -> PathBuf {
        self.data.join("image-files.json")
    }

    /// What the revisions of a pod use of ConfigMaps and Secrets.
    #[must_use]
    pub fn configs(&self, name: &PodName) -> PathBuf {
        self.all_configs().join(directory_of(name))
    }

    /// The directory of the same of all pods.
    #[must_use]
    pub fn all_configs(&self) -> PathBuf {
        self.data.join(CONFIGS)
    }

    /// What pods are attached to.
    #[must_use]
    pub fn networks(&self) -> PathBuf {
        self.data.join("networks")
    }

    /// What the host forwards for pods alone.
    #[must_use]
    pub fn forwarding(&self) -> PathBuf {
        self.data.join("forwarding.json")
    }

    /// The key of the hashes over that.
    #[must_use]
    pub fn config_key(&self) -> PathBuf {
        self.data.join("config-key.json")
    }

    /// The directory of all pod directories.
    #[must_use]
    pub fn pods(&self) -> PathBuf {
        self.data.join("pods")
    }

    /// The directory of all runtime directories of pods.
    #[must_use]
    pub fn runtime_pods(&self) -> PathBuf {
        self.runtime.join("pods")
    }

    /// The paths of one pod instance.
    #[must_use]
    pub fn pod(&self, id: PodId, name: &PodName) -> PodPaths {
        PodPaths {
            data: self.pods().join(id.to_string()),
            runtime: self.runtime_pods().join(id.to_string()),
            logs: self.logs.join(format!("{}_{}_{id}", name.namespace, name.name)),
        }
    }
}

/// The paths of one pod instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodPaths {
    /// Its pod directory.
    pub data: PathBuf,
    /// Its runtime directory.
    pub runtime: PathBuf,
    /// Its log directory.
    pub logs: PathBuf,
}

/// Name of the executor's socket in a pod's runtime directory.
pub const EXECUTOR_SOCKET: &str = "executor.sock";
/// Name of the file in the runtime directory that says what pods are called.
const NAMES: &str = "names";
/// Name of the pipe in the runtime directory.
const LOG_HINTS: &str = "logs-rotated";

/// Name of the directory of what pods use of ConfigMaps and Secrets.
const CONFIGS: &str = "configs";

/// A directory's name for a pod.
fn directory_of(name: &PodName) -> String {
    format!("{}_{}", name.namespace, name.name)
}

/// Name of the directory of images.
const IMAGES: &str = "images";
/// Name of the directory of volumes that outlive their pods.
const CLAIMS: &str = "claims";

/// The name of the file with what a revision uses of ConfigMaps and Secrets.
#[must_use]
pub fn config_file(digest: Hash) -> String {
    format!("{digest}.json")
}

impl PodPaths {
    /// The layers of all images; none if this is not below a [`Paths::pods`].
    #[must_use]
    pub fn layers(&self) -> Option<PathBuf> {
        Some(self.data.parent()?.parent()?.join(IMAGES).join("layers"))
    }

    /// Where the profiles of system calls are that a manifest may name (`Localhost`); none if
    /// this is not below a [`Paths::pods`].
    #[must_use]
    pub fn seccomp_profiles(&self) -> Option<PathBuf> {
        Some(self.data.parent()?.parent()?.join("seccomp"))
    }

    /// A local volume that outlives its pods; none if this is not below a [`Paths::pods`].
    #[must_use]
    pub fn claim(&self, namespace: &Namespace, name: &ObjectName) -> Option<PathBuf> {
        let all = self.data.parent()?.parent()?.join(CLAIMS);
        Some(all.join(namespace.as_str()).join(name.as_str()))
    }

    /// One of the files in which a container looks names up, as `hosts`.
    #[must_use]
    pub fn name_file(&self, container: &ContainerName, file: &str) -> PathBuf {
        self.container(container).join("etc").join(file)
    }

    /// What one revision of the pod uses of ConfigMaps and Secrets; none if this is not below a
    /// [`Paths::pods`].
    #[must_use]
    pub fn config(&self, name: &PodName, digest: Hash) -> Option<PathBuf> {
        let configs = self.data.parent()?.parent()?.join(CONFIGS);
        Some(configs.join(directory_of(name)).join(config_file(digest)))
    }

    /// The writable layer of a container with an image.
    #[must_use]
    pub fn writable(&self, name: &ContainerName) -> PathBuf {
        self.container(name).join("writable")
    }

    /// Where this pod's executor tells that it rotated a log ([`Paths::log_hints`]).
    #[must_use]
    pub fn log_hints(&self) -> Option<PathBuf> {
        Some(self.runtime.parent()?.parent()?.join(LOG_HINTS))
    }

    /// What the pods of the node are called ([`Paths::names`]).
    #[must_use]
    pub fn names(&self) -> Option<PathBuf> {
        Some(self.runtime.parent()?.parent()?.join(NAMES))
    }

    /// The accepted specification.
    #[must_use]
    pub fn spec(&self) -> PathBuf {
        self.data.join("spec.json")
    }

    /// Where one container's checkpoints and sandbox are.
    #[must_use]
    pub fn container(&self, name: &ContainerName) -> PathBuf {
        self.data.join("containers").join(name.as_str())
    }

    /// A container's work directory.
    #[must_use]
    pub fn sandbox(&self, name: &ContainerName) -> PathBuf {
        self.container(name).join("sandbox")
    }

    /// The checkpoint that announces a run.
    #[must_use]
    pub fn attempt(&self, name: &ContainerName, attempt: Attempt) -> PathBuf {
        self.container(name).join(format!("attempt-{attempt}.json"))
    }

    /// The checkpoint of how a run ended.
    #[must_use]
    pub fn exit(&self, name: &ContainerName, attempt: Attempt) -> PathBuf {
        self.container(name).join(format!("exit-{attempt}.json"))
    }

    /// Where the messages are that runs of a container leave behind. For root alone: containers
    /// have single files of it.
    #[must_use]
    pub fn termination_messages(&self, name: &ContainerName) -> PathBuf {
        self.container(name).join("termination")
    }

    /// The message that a run leaves behind; the container may have written anything there.
    #[must_use]
    pub fn termination_message(&self, name: &ContainerName, attempt: Attempt) -> PathBuf {
        self.termination_messages(name).join(attempt.to_string())
    }

    /// An emptyDir on disk.
    #[must_use]
    pub fn volume(&self, name: &VolumeName) -> PathBuf {
        self.data.join("volumes").join(name.as_str())
    }

    /// Where one container's logs are.
    #[must_use]
    pub fn container_logs(&self, name: &ContainerName) -> PathBuf {
        self.logs.join(name.as_str())
    }

    /// The log of one run.
    #[must_use]
    pub fn log(&self, name: &ContainerName, attempt: Attempt) -> PathBuf {
        self.container_logs(name).join(format!("{attempt}.log"))
    }
}
