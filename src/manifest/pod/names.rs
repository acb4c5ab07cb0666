//! What a pod is called, and what it calls others: host name, `hostAliases`, DNS.

use core::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::is_default;

/// What a pod is called besides its host name, and how it looks names up.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Names {
    /// What the host name is a part of.
    #[serde(skip_serializing_if = "is_default")]
    pub domain: Domain,
    /// `hostAliases`, in the order of the manifest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<HostAlias>,
    /// `dnsPolicy` and `dnsConfig`.
    #[serde(skip_serializing_if = "is_default")]
    pub dns: Dns,
}

/// What the host name of a pod is a part of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Domain {
    /// Nothing.
    #[default]
    None,
    /// `subdomain`: `<hostname>.<subdomain>.<namespace>.svc.cluster.local`.
    Subdomain {
        /// A DNS label.
        name: String,
        /// `setHostnameAsFQDN`: that whole name is what the kernel says.
        in_hostname: bool,
    },
    /// `hostnameOverride`: the host name is what the manifest says, and stands alone.
    Override,
}

/// What Kubernetes calls its clusters where nobody says otherwise; names here end so as well, so
/// that a pod keeps its name.
const CLUSTER_DOMAIN: &str = "svc.cluster.local";

impl Domain {
    /// The full name of a host in a namespace; none if it has none.
    #[must_use]
    pub fn full_name(&self, hostname: &str, namespace: &str) -> Option<String> {
        match self {
            Self::None | Self::Override => None,
            Self::Subdomain { name, .. } => {
                Some(format!("{hostname}.{name}.{namespace}.{CLUSTER_DOMAIN}"))
            }
        }
    }
}

/// One of `hostAliases`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostAlias {
    /// An address.
    pub ip: IpAddr,
    /// What it is called: DNS subdomains, at least one.
    pub hostnames: Vec<String>,
}

/// What `/etc/resolv.conf` says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// `dnsPolicy`: what the rest is added to.
    #[serde(skip_serializing_if = "is_default")]
    pub base: DnsBase,
    /// `dnsConfig.nameservers`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<IpAddr>,
    /// `dnsConfig.searches`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub searches: Vec<String>,
    /// `dnsConfig.options`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<DnsOption>,
}

/// Where the settings begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum DnsBase {
    /// With those of the host.
    #[default]
    Host,
    /// With nothing: `dnsPolicy: None`.
    Nothing,
}

/// One of `dnsConfig.options`, as `ndots:2`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsOption {
    /// Without white space and `:`.
    pub name: String,
    /// Without white space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}
