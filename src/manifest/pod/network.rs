//! What a pod asks of its network.

use core::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::is_default;

/// What a pod asks of its network; from annotations.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkWish {
    /// `roost/networks`.
    #[serde(skip_serializing_if = "is_default")]
    pub networks: WantedNetworks,
    /// `roost/ip`: addresses that it is to have, at most one of each version.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// `roost/mac`: the hardware address of its (first) interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// `kubernetes.io/ingress-bandwidth`: most bits per second into the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_bits: Option<u64>,
    /// `kubernetes.io/egress-bandwidth`: most bits per second out of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_bits: Option<u64>,
}

impl NetworkWish {
    /// Whether any network will do.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let Self { networks: _, addresses, mac, ingress_bits, egress_bits } = self;
        addresses.is_empty() && mac.is_none() && ingress_bits.is_none() && egress_bits.is_none()
    }
}

/// Which networks a pod is in.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum WantedNetworks {
    /// That of the node.
    #[default]
    Default,
    /// None but its own loopback interface.
    None,
    /// These, in the order of its interfaces.
    Named(Vec<String>),
}
