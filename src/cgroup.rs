//! The cgroups of pods and containers. (work in progress: the descriptors a process enters by)

use std::os::fd::OwnedFd;

/// What a new process enters a cgroup by, opened beforehand.
#[derive(Debug)]
pub struct Entry {
    /// The cgroup2 directory, for CLONE_INTO_CGROUP.
    pub into: OwnedFd,
    /// The `tasks` files of cgroup v1 hierarchies, opened for writing: the child writes `0`.
    pub tasks: Vec<OwnedFd>,
}
