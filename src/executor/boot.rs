//! [`Boot`]: what an executor is born with. Everything else it is told by [`super::protocol`].
//!
//! The agent starts `roost-executor` with descriptor 3 = the listening socket of the pod,
//! 4 = this, as JSON, readable to the end; its standard error is a file in the pod's runtime
//! directory. An executor that continues itself as another build hands this over with its state.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cgroup::CgroupBase;
use crate::ids::{PodId, PodName};
use crate::state::paths::PodPaths;

/// The descriptor of the listening socket.
pub const LISTENER_FD: i32 = 3;
/// The descriptor from which [`Boot`] is read.
pub const BOOT_FD: i32 = 4;

/// What an executor is born with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// Whose executor it is.
    pub id: PodId,
    /// The pod.
    pub name: PodName,
    /// Where its things lie.
    pub paths: PodPaths,
    /// Where its cgroups are made.
    pub cgroups: CgroupBase,
    /// Directories of the host that no container may see: the agent's own.
    pub masked: Vec<PathBuf>,
    /// Limits of container logs.
    pub logs: LogLimits,
}

/// Limits of the logs of one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogLimits {
    /// A file is rotated when it is as large as this.
    pub file_bytes: u64,
    /// Files kept for one container, the current one counted.
    pub files: u32,
}

impl Default for LogLimits {
    /// The kubelet's `containerLogMaxSize` and `containerLogMaxFiles`.
    fn default() -> Self {
        Self { file_bytes: 10 << 20, files: 5 }
    }
}
