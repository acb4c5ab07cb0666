//! [`NetworkError`]: why a pod has no network, or still has one.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use super::bridge::BridgeError;
use super::plugin::PluginError;
use super::request::Command;
use crate::ids::PodName;
use crate::state::checkpoint::CheckpointError;

/// Why a pod has no network, or still has one.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The directory of configurations can't be read.
    #[error("can't read the network configurations in {}", path.display())]
    Configs {
        /// The directory, or a file in it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A configuration is faulty.
    #[error("the network configuration {} can't be used: {why}", path.display())]
    Faulty {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// No configuration has the name that the pod asks for.
    #[error("there is no network `{name}` in {}; there are: {known}{faulty}", directory.display())]
    Unknown {
        /// The name.
        name: String,
        /// Where it was looked for.
        directory: PathBuf,
        /// The names that there are.
        known: String,
        /// What is wrong with those that can't be read, in words.
        faulty: String,
    },
    /// The pod asks for what no plugin of the network can do.
    #[error(
        "network `{network}` can't do what the pod asks for (capabilities: {}); name another one by \
         the annotation `roost/networks`, or a plugin in its configuration that can",
        lacking.join(", ")
    )]
    Lacking {
        /// The network.
        network: String,
        /// The capabilities.
        lacking: Vec<&'static str>,
    },
    /// The pod asks for what it can't have without a network.
    #[error(
        "it asks for {what}, but there is no network configuration in {}, and `built-in = false` in \
         `[network]` of agent.toml",
        directory.display()
    )]
    NoNetwork {
        /// What it asks for.
        what: &'static str,
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// A plugin has failed.
    #[error("plugin `{plugin}` of network `{network}`: {} failed", command.name())]
    Plugin {
        /// Its program.
        plugin: String,
        /// The network.
        network: String,
        /// What it was to do.
        command: Command,
        /// Why.
        source: PluginError,
    },
    /// The built-in network can't be made.
    #[error(transparent)]
    Bridge(#[from] BridgeError),
    /// All addresses of the built-in network are taken.
    #[error(
        "no address is left for it in {subnets}: {taken} are taken; a larger one can be set by \
         `subnets` of `[network]` in agent.toml"
    )]
    Full {
        /// The subnets.
        subnets: String,
        /// How many.
        taken: usize,
    },
    /// The pod can't have the address that it asks for.
    #[error("it can't have the address {address}: {why}")]
    Address {
        /// The address.
        address: IpAddr,
        /// Why.
        why: String,
    },
    /// The pod can't have the hardware address that it asks for.
    #[error("it can't have the hardware address {mac}: pod {pod} has it; leave out `roost/mac`")]
    Mac {
        /// The address.
        mac: String,
        /// Who has it.
        pod: PodName,
    },
    /// The pod is not wanted any more.
    #[error("it was given up, because the pod is not wanted like this any more")]
    Interrupted,
    /// Earlier attempts could not be undone.
    #[error("{count} earlier attempts to give it its network are not undone yet, as the log says")]
    Undone {
        /// How many.
        count: usize,
    },
    /// The namespace could not be made.
    #[error("making the pod's network namespace failed")]
    Namespace(#[source] io::Error),
    /// What was done can't be recorded.
    #[error("can't keep what the pod's network is")]
    Record(#[source] CheckpointError),
    /// The same of its removal.
    #[error("can't remove {}", path.display())]
    Remove {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
