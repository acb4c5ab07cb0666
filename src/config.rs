//! [`AgentConfig`]: how an agent shall work, whatever it was told by: flags, which override the
//! environment, which overrides the file.

use std::path::PathBuf;

use crate::clock::Millis;
use crate::executor::boot::LogLimits;
use crate::state::paths::Paths;

/// How often manifest directories are read anew even without a hint that they changed.
pub const RELIST_DEFAULT: Millis = Millis::from_secs(20);

/// How an agent shall work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentConfig {
    /// Manifest directories, as given; at least one.
    pub pods: Vec<PathBuf>,
    /// Where everything lies.
    pub paths: Paths,
    /// How often manifest directories are read anew.
    pub relist: Millis,
    /// Limits of the logs of each container.
    pub logs: LogLimits,
    /// Name of the cgroup of all pods; by default `roost`, with a suffix for another root.
    pub cgroup: String,
    /// The executor's program; by default `roost-executor` beside the agent's own.
    pub executor: PathBuf,
}
