//! The network of pods: each has addresses of its own, by one of two ways.
//!
//! ```text
//!                 ┌─ by plugins ─ config, request (PURE) ─► plugin: runs programs (CNI)
//!   a pod's spec ─┤  choice
//!                 └─ by bridge ── subnet, rules (PURE) ───► links, nft: tell the kernel
//!
//!   attempt announced in `record`, durable ─► made ─► result in `record`
//!                                             undone ─► record removed
//! ```
//!
//! [`Networks`] keeps what was attached. Each attempt has an id of its own, and is recorded before
//! anything is done: whatever happens then, what undoes it names the same attempt, and nothing that
//! is still under way for an earlier one can touch it. Not here: when a pod gets its network
//! (`agent`), and the executor's way into the namespace.

mod bridge;
mod children;
mod choice;
pub mod config;
mod error;
mod forwarding;
mod keeper;
mod links;
mod namespace;
mod netlink;
mod nft;
mod plugin;
pub mod record;
pub mod request;
mod rules;
pub mod subnet;
mod sysctl;

pub use bridge::{BridgeError, BridgeSettings};
pub use children::reap;
pub use choice::BUILT_IN;
pub use error::NetworkError;
pub use keeper::{Attached, NetworkSettings, Networks, PLUGIN_TIME_MAX, PodRequest};
pub use plugin::PluginError;
