//! The native containerizer: namespaces, mounts and seccomp by our own system calls.
//!
//! ```text
//! PodSpec ─ enter_pod ─► Native            once per executor: the namespaces that containers share
//! ContainerSpec ─ plan (PURE, isolators) ─► LaunchPlan (an OCI runtime spec)
//! LaunchPlan ─ Native::launch ─► clone ─► child: set-up ─► gate ─► execve
//! ```
//!
//! It runs in the executor, which has one thread, so that the child of the clone may go on with
//! ordinary Rust until it executes the user's program: no exec of ours lies between. Not here:
//! cgroups (a launch takes a ready [`Entry`](crate::cgroup::Entry)), output, restarts.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

pub use exec::{ExecRequest, Executed, Streams};
pub use facts::{Arch, CgroupMode, HostFacts};
pub use files::HostFiles;
pub use launcher::{Gate, LaunchError, Launched, STATUS_LEN_MAX};
pub use plan::{HostEffect, ImageUser, Isolator, LaunchPlan, PlanError, RootPlan, plan};
pub use pod::{ContainerizerError, Network, enter_pod};
use seccomp::FilterCache;
pub use terminal::{Master, TerminalSize};

mod child;
mod devices;
mod exec;
mod facts;
mod files;
pub mod hosts;
mod isolators;
mod launcher;
mod mounts;
mod overlay;
mod ownership;
mod part;
mod plan;
mod pod;
mod prepared;
pub mod projected;
mod reaper;
mod seccomp;
mod terminal;
mod two_way;
mod users;

/// What the executor holds of its pod's namespaces: enough to launch containers into them.
///
/// The process itself is in the pod's network, IPC, UTS and mount namespaces.
#[derive(Debug)]
pub struct Native {
    /// PID 1 of the pod, if its containers share their processes.
    reaper: Option<reaper::Reaper>,
    /// Compiling takes longer than any other step before the clone.
    filters: FilterCache,
}

/// [`Native`] as it is handed to the next program when the executor executes itself in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NativeState {
    /// The pod's PID 1, if there is one.
    pub reaper: Option<ReaperState>,
}

/// The handle on a pod's PID 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReaperState {
    /// Its id in the executor's PID namespace.
    pub pid: i32,
    /// The number of its pidfd, which is not close-on-exec while it is handed over.
    pub pidfd: i32,
}

impl Native {
    /// Takes over from the executor that executed this one in place; the namespaces are there.
    ///
    /// # Errors
    /// If the handles are not what `state` says.
    pub fn resume(state: &NativeState) -> Result<Self, ContainerizerError> {
        let reaper = state.reaper.as_ref().map(reaper::Reaper::resume).transpose()?;
        Ok(Self { reaper, filters: FilterCache::default() })
    }

    /// Prepares the handles for an exec in place, and describes them. To be called right before
    /// it: programs launched in between would inherit them.
    ///
    /// # Errors
    /// If a descriptor's flags can't be changed.
    pub fn hand_over(&self) -> Result<NativeState, ContainerizerError> {
        let reaper = self.reaper.as_ref().map(reaper::Reaper::hand_over).transpose()?;
        Ok(NativeState { reaper })
    }

    /// The process that is PID 1 of a pod with a shared process namespace. When its pidfd becomes
    /// readable, all containers of the pod have been killed by the kernel.
    #[must_use]
    pub fn reaper_pidfd(&self) -> Option<&OwnedFd> {
        self.reaper.as_ref().map(reaper::Reaper::pidfd)
    }
}
