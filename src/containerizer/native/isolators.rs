//! The isolators, each contributing one kind of isolation to a launch plan. PURE.

use super::plan::Isolator;

mod capabilities;
mod devices;
pub(super) mod filesystem;
mod namespaces;
mod process;
pub(super) mod seccomp;
mod volumes;

/// All of them. The order matters for mounts alone: later ones lie on top of earlier ones.
pub(super) fn all() -> [&'static dyn Isolator; 7] {
    [
        &filesystem::Filesystem,
        &devices::Devices,
        &volumes::Volumes,
        &namespaces::Namespaces,
        &process::ProcessSettings,
        &capabilities::BoundedCapabilities,
        &seccomp::DefaultFilter,
    ]
}
