//! The cgroups of pods and containers, on cgroup v2 and on hosts that still use v1.
//!
//! ```text
//! <base>/                         one for all pods: see `base`
//! ├── holder/                     keeps a systemd scope alive; no other place has it
//! └── <pod id>/                   weight of the pod
//!     ├── executor/               outside the pod's limits
//!     └── pod/                    limits of all containers together
//!         └── <container>-<attempt>/   limits of one run; whatever the container makes is below
//!             └── session-<n>/    a program that was executed in it later; on cgroup2 only
//! ```
//!
//! Who is a member, whether anybody is, and killing all of them is always asked of a cgroup2
//! hierarchy, which can do it in one step and tells by an event when the last process is gone. A
//! controller is used there if it is there, and else in its cgroup v1 hierarchy, where the same
//! directories are made. A process enters both by itself when it is cloned ([`Entry`]), because
//! moving it from outside takes an RCU grace period (11 ms).
//!
//! Every operation is idempotent: what is there already, or gone already, is no error. The
//! functions know neither the agent nor the executor, and both use them. Not here: policy, and
//! waiting without a thread (poll [`Events`] for `POLLPRI` in an event loop).

mod base;
mod files;
pub mod limits;
mod tree;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use base::Holder;
pub use files::Events;
pub use limits::{ContainerLimits, Controller, PodLimits};
pub use tree::{ContainerCgroup, PodCgroup, SessionCgroup, Usage};

use crate::ids::PodId;
use limits::Version;

/// What a new process enters a cgroup by, opened beforehand.
#[derive(Debug)]
pub struct Entry {
    /// The cgroup2 directory, for CLONE_INTO_CGROUP.
    pub into: OwnedFd,
    /// The `tasks` files of cgroup v1 hierarchies, opened for writing: the child writes `0`.
    pub tasks: Vec<OwnedFd>,
}

/// What can go wrong with cgroups.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The host has cgroup v1 only.
    #[error(
        "no cgroup2 file system is mounted, and cgroup v1 alone can't kill and watch containers; \
         `mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified` \
         mounts one beside cgroup v1"
    )]
    NoUnifiedHierarchy,
    /// `cgroup.kill` is missing.
    #[error("the kernel is too old: `{}` has no cgroup.kill (Linux 5.14)", directory.display())]
    NoKill {
        /// The base.
        directory: PathBuf,
    },
    /// Not a name for a base.
    #[error("`{name}` can't name a cgroup: it must be letters, digits, `-` and `_`")]
    InvalidName {
        /// What was given.
        name: String,
    },
    /// A directory or file of the cgroup file system refused.
    #[error("can't {action} `{}`", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A value was refused.
    #[error("can't write `{value}` to `{}`", path.display())]
    Write {
        /// What was written.
        value: String,
        /// To which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A cgroup that is to be removed still has processes.
    #[error("cgroup `{}` still has processes", path.display())]
    Populated {
        /// The cgroup.
        path: PathBuf,
    },
    /// systemd did not make the scope of all pods.
    #[error("systemd can't start `{unit}`")]
    Scope {
        /// The scope.
        unit: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// systemd accepted the scope, but it did not come.
    #[error("systemd did not start `{unit}` within {seconds} s")]
    ScopeTimeout {
        /// The scope.
        unit: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The process that keeps the scope alive could not be started.
    #[error("can't start the process that keeps `{unit}` alive")]
    Holder {
        /// The scope.
        unit: String,
        /// Why not.
        source: io::Error,
    },
}

/// The base as one hierarchy has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Hierarchy {
    /// The directory of the base.
    directory: PathBuf,
    /// What it limits.
    controllers: BTreeSet<Controller>,
}

/// Where the cgroups of all pods are. The agent opens it and hands it to the executors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupBase {
    unified: Hierarchy,
    legacy: Vec<Hierarchy>,
}

impl CgroupBase {
    /// The cgroups of one pod instance, made or not.
    #[must_use]
    pub fn pod(&self, id: PodId) -> PodCgroup {
        PodCgroup::new(self.clone(), id)
    }

    /// The pods that have a cgroup in any hierarchy, half-removed ones included.
    ///
    /// # Errors
    /// If the base can't be read.
    pub fn pods(&self) -> Result<BTreeSet<PodId>, CgroupError> {
        let mut pods = BTreeSet::new();
        for (_, hierarchy) in self.hierarchies() {
            let names = files::directories(&hierarchy.directory)?;
            pods.extend(names.iter().filter_map(|name| name.parse::<PodId>().ok()));
        }
        Ok(pods)
    }

    /// The controllers that this host does not offer; see [`Controller::purpose`].
    #[must_use]
    pub fn unsupported(&self) -> BTreeSet<Controller> {
        let used: BTreeSet<Controller> =
            self.hierarchies().flat_map(|(_, h)| h.controllers.iter().copied()).collect();
        Controller::ALL.into_iter().filter(|controller| !used.contains(controller)).collect()
    }

    /// Whether some controllers are those of cgroup v1.
    #[must_use]
    pub fn is_hybrid(&self) -> bool {
        !self.legacy.is_empty()
    }

    /// Removes the base itself; for uninstallation and tests. A systemd scope ends by itself when
    /// its holder does.
    ///
    /// # Errors
    /// If a pod or the holder is still there.
    pub fn remove(&self) -> Result<(), CgroupError> {
        self.hierarchies().try_for_each(|(_, h)| files::remove_tree(&h.directory))
    }

    /// All hierarchies in use, that of cgroup2 first.
    fn hierarchies(&self) -> impl Iterator<Item = (Version, &Hierarchy)> {
        let legacy = self.legacy.iter().map(|hierarchy| (Version::V1, hierarchy));
        std::iter::once((Version::V2, &self.unified)).chain(legacy)
    }
}

/// For tests of this and other modules.
#[cfg(test)]
pub(crate) mod testing {
    use std::ops::Deref;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::CgroupBase;

    /// A base of its own, killed and removed when it goes out of scope.
    #[derive(Debug)]
    pub(crate) struct TestingBase(CgroupBase);

    /// Makes a base with a name that nobody else uses; never a systemd scope.
    pub(crate) fn testing_base() -> TestingBase {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("roost-test-{}-{number}", std::process::id());
        TestingBase(CgroupBase::open(&name, None).unwrap())
    }

    impl Deref for TestingBase {
        type Target = CgroupBase;
        fn deref(&self) -> &CgroupBase {
            &self.0
        }
    }

    impl Drop for TestingBase {
        fn drop(&mut self) {
            for pod in self.0.pods().unwrap_or_default() {
                let pod = self.0.pod(pod);
                pod.kill_all().ok();
                pod.wait_empty(Duration::from_secs(5)).ok();
            }
            let removed = self.0.remove();
            assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
        }
    }
}

#[cfg(test)]
mod tests;
