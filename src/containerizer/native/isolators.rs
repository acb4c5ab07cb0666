//! The isolators, each contributing one kind of isolation to a launch plan. PURE.

use super::plan::Isolator;

mod capabilities;
pub(super) mod devices;
pub(super) mod filesystem;
mod names;
mod namespaces;
mod process;
pub(super) mod seccomp;
mod termination;
pub(super) mod volumes;

/// All of them. The order matters for mounts alone: later ones lie on top of earlier ones.
pub(super) fn all() -> [&'static dyn Isolator; 9] {
    [
        &filesystem::Filesystem,
        &devices::Devices,
        &names::NameFiles,
        &volumes::Volumes,
        &termination::TerminationFile,
        &namespaces::Namespaces,
        &process::ProcessSettings,
        &capabilities::BoundedCapabilities,
        &seccomp::DefaultFilter,
    ]
}
