//! [`NetworkFile`]: one attempt to give a pod its network, as it is kept on disk. PURE.
//!
//! `networks/<attempt>.json` in the agent's data: written before anything of the attempt is done,
//! again with what came of it, and removed when it is undone. It has all that this needs, so that a
//! configuration that was changed or removed meanwhile does not matter. Addresses of the built-in
//! network are taken as long as a file names them.

use core::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::NetworkConfig;
use super::request::{PortMapping, Runtime, addresses};
use super::subnet::Subnet;
use crate::clock::BootId;
use crate::ids::{PodId, PodName};
use crate::state::checkpoint::{Checkpoint, Format};

/// One attempt to give a pod its network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkFile {
    /// The file's format.
    pub format: Format<1>,
    /// `CNI_CONTAINERID`: this attempt's, and never used again.
    pub attempt: String,
    /// The instance.
    pub id: PodId,
    /// Its pod.
    pub name: PodName,
    /// The boot in which it was made: nothing of it is in the kernel in another one.
    pub boot: BootId,
    /// The networks, in the order of the pod's interfaces.
    pub attachments: Vec<Attachment>,
}

/// A pod in one network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// The pod's interface (`CNI_IFNAME`).
    pub interface: String,
    /// How far it has come.
    pub progress: Progress,
    /// Who makes it.
    pub way: Way,
}

/// How far an attachment has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Progress {
    /// Some of it may be done.
    Begun,
    /// All of it is.
    Done,
}

/// Who attaches a pod to a network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Way {
    /// The plugins of a configuration of CNI.
    Plugins(ByPlugins),
    /// The agent itself, by the built-in network.
    Bridge(ByBridge),
}

/// A pod in a network that plugins make.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ByPlugins {
    /// The network as it was then.
    pub network: NetworkConfig,
    /// What was asked of it.
    pub runtime: Runtime,
    /// The newest result of ADD; none before the first plugin has said one.
    pub result: Option<Value>,
}

/// A pod in the built-in network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ByBridge {
    /// The host's end of its interface.
    pub link: String,
    /// The subnets it is in.
    pub subnets: Vec<Subnet>,
    /// Its address in each of them.
    pub addresses: Vec<IpAddr>,
    /// Its hardware address, if it asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Ports of the host that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortMapping>,
}

impl Checkpoint for NetworkFile {
    const FORMAT: u32 = 1;
}

impl NetworkFile {
    /// Whether all of it was done.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.attachments.iter().all(|attachment| attachment.progress == Progress::Done)
    }

    /// The pod's addresses, those of the first network first.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        let of = |attachment: &Attachment| match &attachment.way {
            Way::Plugins(ByPlugins { result, .. }) => {
                let result = result.as_ref();
                result.and_then(|result| addresses(result).ok()).unwrap_or_default()
            }
            Way::Bridge(pod) => pod.addresses.clone(),
        };
        self.attachments.iter().flat_map(of).collect()
    }

    /// What it is in the built-in network.
    pub fn bridged(&self) -> impl Iterator<Item = &ByBridge> {
        self.attachments.iter().filter_map(|attachment| match &attachment.way {
            Way::Bridge(pod) => Some(pod),
            Way::Plugins(_) => None,
        })
    }
}
