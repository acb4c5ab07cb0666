//! What plugins are told, and what their answers mean. PURE.
//!
//! By the specification of CNI: variables of the environment (section 2), the execution
//! configuration on standard input (section 3), results and errors on standard output (section 5).

use core::net::IpAddr;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::config::{NetworkConfig, capabilities};
use crate::ids::{PodId, PodName};
use crate::manifest::pod::{Dns, PodSpec, Protocol};

/// Most bytes of a plugin's words that are told.
pub const WORDS_LEN_MAX: usize = 1024;
/// Where plugins find programs of their own, as iptables.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a plugin is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Attach a container, or add to what plugins before have made.
    Add,
    /// Undo that.
    Del,
    /// Say whether an attachment is as it was made.
    Check,
    /// Say whether containers can be attached.
    Status,
    /// Undo what is not among the valid attachments.
    Gc,
}

impl Command {
    /// As plugins call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
        }
    }
}

/// What is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `CNI_CONTAINERID`: one attempt to give a pod its network.
    pub container: String,
    /// `CNI_NETNS`; empty if the namespace is gone.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub interface: String,
    /// The pod.
    pub pod: PodName,
    /// Its instance.
    pub id: PodId,
}

/// What a network can be asked for by its capabilities.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Runtime {
    /// `portMappings`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortMapping>,
    /// `bandwidth`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    /// `ips`: addresses asked for, with or without the length of the prefix.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<String>,
    /// `mac`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// `dns`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsRequest>,
}

/// A port of the host that leads to the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortMapping {
    /// Of the host.
    pub host_port: u16,
    /// Of the pod.
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The address of the host; every one without it.
    #[serde(rename = "hostIP", default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

/// Limits in bits, and what may be sent at once above them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Bandwidth {
    /// Into the pod, bits per second; 0 for no limit.
    pub ingress_rate: u64,
    /// Bits.
    pub ingress_burst: u64,
    /// Out of the pod, bits per second; 0 for no limit.
    pub egress_rate: u64,
    /// Bits.
    pub egress_burst: u64,
}

/// `dnsConfig` of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsRequest {
    /// Addresses.
    pub servers: Vec<String>,
    /// Domains.
    pub searches: Vec<String>,
    /// Options of the resolver.
    pub options: Vec<String>,
}

/// What may be sent at once above a limit: what the kubelet says, `math.MaxInt32` bytes in bits
/// is too much for `tc`, so it says that many bits.
const BURST: u64 = i32::MAX as u64;

impl Runtime {
    /// What the pod asks of its (first) network.
    #[must_use]
    pub fn of(spec: &PodSpec) -> Self {
        let asked = &spec.network;
        let limits = asked.ingress_bits.is_some() || asked.egress_bits.is_some();
        let bandwidth = limits.then(|| Bandwidth {
            ingress_rate: asked.ingress_bits.unwrap_or(0),
            ingress_burst: asked.ingress_bits.map_or(0, |_| BURST),
            egress_rate: asked.egress_bits.unwrap_or(0),
            egress_burst: asked.egress_bits.map_or(0, |_| BURST),
        });
        let dns = &spec.names.dns;
        Self {
            ports: port_mappings(spec),
            bandwidth,
            ips: asked.addresses.iter().map(ToString::to_string).collect(),
            mac: asked.mac.clone(),
            dns: (*dns != Dns::default()).then(|| dns_request(dns)),
        }
    }

    /// What no plugin of the network can do, of what can't be done without: `dns` is no such
    /// thing, because the pod's `/etc/resolv.conf` has it anyway.
    #[must_use]
    pub fn lacking(&self, network: &NetworkConfig) -> Vec<&'static str> {
        let known = network.capabilities();
        let wanted = [
            ("portMappings", !self.ports.is_empty()),
            ("bandwidth", self.bandwidth.is_some()),
            ("ips", !self.ips.is_empty()),
            ("mac", self.mac.is_some()),
        ];
        let is_lacking =
            |(name, is_wanted): &(&'static str, bool)| *is_wanted && !known.contains(name);
        wanted.into_iter().filter(is_lacking).map(|(name, _)| name).collect()
    }

    /// `runtimeConfig` for a plugin with these capabilities.
    fn for_plugin(&self, plugin: &Map<String, Value>) -> Map<String, Value> {
        let Self { ports, bandwidth, ips, mac, dns } = self;
        let known: BTreeSet<&str> = capabilities(plugin).collect();
        let all = [
            ("portMappings", (!ports.is_empty()).then(|| json!(ports))),
            ("bandwidth", bandwidth.map(|it| json!(it))),
            ("ips", (!ips.is_empty()).then(|| json!(ips))),
            ("mac", mac.as_ref().map(|it| json!(it))),
            ("dns", dns.as_ref().map(|it| json!(it))),
        ];
        let all = all.into_iter().filter(|(name, _)| known.contains(name));
        all.filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

/// The ports of the host that the pod asks for, of all its containers.
#[must_use]
pub fn port_mappings(spec: &PodSpec) -> Vec<PortMapping> {
    if spec.host.network {
        return Vec::new();
    }
    let ports = spec.all_containers().flat_map(|container| &container.ports);
    let mapping = |port: &crate::manifest::pod::ContainerPort| {
        let protocol = match port.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        Some(PortMapping {
            host_port: port.host_port?,
            container_port: port.container_port,
            protocol: protocol.to_owned(),
            host_ip: port.host_ip.filter(|ip| !ip.is_unspecified()),
        })
    };
    ports.filter_map(mapping).collect()
}

fn dns_request(dns: &Dns) -> DnsRequest {
    let option = |it: &crate::manifest::pod::DnsOption| match &it.value {
        Some(value) => format!("{}:{value}", it.name),
        None => it.name.clone(),
    };
    DnsRequest {
        servers: dns.nameservers.iter().map(ToString::to_string).collect(),
        searches: dns.searches.clone(),
        options: dns.options.iter().map(option).collect(),
    }
}

/// The environment of a plugin: all of it. `target` is none for commands that are about no
/// attachment.
#[must_use]
pub fn environment(command: Command, target: Option<&Target>, path: &str) -> Vec<String> {
    let mut all = vec![
        format!("CNI_COMMAND={}", command.name()),
        format!("CNI_PATH={path}"),
        format!("PATH={PATH}"),
    ];
    if let Some(Target { container, netns, interface, pod, id }) = target {
        all.push(format!("CNI_CONTAINERID={container}"));
        all.push(format!("CNI_NETNS={netns}"));
        all.push(format!("CNI_IFNAME={interface}"));
        all.push(format!(
            "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};\
             K8S_POD_INFRA_CONTAINER_ID={container};K8S_POD_UID={id}",
            pod.namespace, pod.name
        ));
    }
    all
}

/// The standard input of a plugin.
#[must_use]
pub fn input(
    network: &NetworkConfig,
    plugin: &Map<String, Value>,
    runtime: &Runtime,
    before: Option<&Value>,
) -> Value {
    let mut all = plugin.clone();
    let runtime = runtime.for_plugin(plugin);
    // It tells the runtime what may be given, and is no plugin's business.
    all.remove("capabilities");
    all.remove("cniVersions");
    all.insert("cniVersion".to_owned(), network.version.clone().into());
    all.insert("name".to_owned(), network.name.clone().into());
    if !runtime.is_empty() {
        all.insert("runtimeConfig".to_owned(), runtime.into());
    }
    if let Some(before) = before {
        all.insert("prevResult".to_owned(), before.clone());
    }
    Value::Object(all)
}

/// The standard input of a plugin that is to undo what is not among `valid` (pairs of container
/// and interface).
#[must_use]
pub fn gc_input(
    network: &NetworkConfig,
    plugin: &Map<String, Value>,
    valid: &[(String, String)],
) -> Value {
    let mut all = input(network, plugin, &Runtime::default(), None);
    let attachment = |(container, interface): &(String, String)| json!({"containerID": container, "ifname": interface});
    if let Value::Object(all) = &mut all {
        let valid: Vec<Value> = valid.iter().map(attachment).collect();
        all.insert("cni.dev/valid-attachments".to_owned(), valid.clone().into());
        all.insert("cni.dev/attachments".to_owned(), valid.into());
    }
    all
}

/// The result of ADD.
///
/// # Errors
/// Why it is none, in words.
pub fn result(stdout: &[u8]) -> Result<Value, String> {
    let value: Value = serde_json::from_slice(stdout)
        .map_err(|error| format!("it printed no result ({error}): {}", shown(stdout)))?;
    if !value.is_object() {
        return Err(format!("it printed no result: {}", shown(stdout)));
    }
    // So that what can't be read is noticed before it is relied on.
    addresses(&value).map(|_| value)
}

/// The pod's addresses in a result, in its order.
///
/// # Errors
/// What can't be read.
pub fn addresses(result: &Value) -> Result<Vec<IpAddr>, String> {
    let interfaces = result.get("interfaces").and_then(Value::as_array);
    // Those of bridges and of the host's ends are no addresses of the pod.
    let is_pods = |ip: &Value| {
        let index = ip.get("interface").and_then(Value::as_u64);
        let at = index.and_then(|index| interfaces?.get(usize::try_from(index).ok()?));
        at.is_none_or(|at| at.get("sandbox").and_then(Value::as_str).is_some_and(|s| !s.is_empty()))
    };
    let ips = match result.get("ips") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(ips)) => ips,
        Some(_) => return Err("`ips` of its result is no list".to_owned()),
    };
    let parse = |ip: &Value| {
        let text = ip.get("address").and_then(Value::as_str).unwrap_or_default();
        let (address, length) = text.split_once('/').unwrap_or((text, ""));
        let address: Option<IpAddr> = address.parse().ok().filter(|_| length.parse::<u8>().is_ok());
        address.ok_or_else(|| format!("its result has the address {text:?}, which is none"))
    };
    ips.iter().filter(|ip| is_pods(ip)).map(parse).collect()
}

/// What a plugin that failed says: its error on standard output, or what it wrote besides.
#[must_use]
pub fn words(stdout: &[u8], stderr: &[u8]) -> String {
    let error: Option<Value> = serde_json::from_slice(stdout).ok();
    let text = |key: &str| {
        let text = error.as_ref()?.get(key)?.as_str()?.trim();
        (!text.is_empty()).then(|| text.to_owned())
    };
    let told = match (text("msg"), text("details")) {
        (Some(message), Some(details)) => Some(format!("{message}: {details}")),
        (Some(one), None) | (None, Some(one)) => Some(one),
        (None, None) => None,
    };
    match told {
        Some(told) => shown(told.as_bytes()),
        None if !stderr.trim_ascii().is_empty() => shown(stderr),
        None if !stdout.trim_ascii().is_empty() => shown(stdout),
        None => "it says nothing about it".to_owned(),
    }
}

/// Words of a plugin on one line, and not too many of them.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let one_line: Vec<&str> = text.split_whitespace().collect();
    let clean: String =
        one_line.join(" ").chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    match clean.char_indices().nth(WORDS_LEN_MAX) {
        Some((at, _)) => format!("{}…", &clean[..at]),
        None => clean,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> NetworkConfig {
        let text = r#"{"cniVersion": "1.0.0", "name": "n", "plugins": [
            {"type": "bridge", "mtu": 1400},
            {"type": "portmap", "capabilities": {"portMappings": true}}]}"#;
        NetworkConfig::parse(text).unwrap()
    }

    fn runtime() -> Runtime {
        let host_ip = Some("127.0.0.1".parse().unwrap());
        let port = PortMapping {
            host_port: 8080,
            container_port: 80,
            protocol: "tcp".to_owned(),
            host_ip,
        };
        Runtime { ports: vec![port], mac: Some("aa:bb:cc:dd:ee:ff".into()), ..Runtime::default() }
    }

    #[test]
    fn a_plugin_gets_what_it_says_it_can_do_and_nothing_else() {
        let (network, runtime) = (network(), runtime());
        let before = json!({"cniVersion": "1.0.0", "ips": []});
        let first = input(&network, &network.plugins[0], &runtime, None);
        let expected = json!({"type": "bridge", "mtu": 1400, "cniVersion": "1.0.0", "name": "n"});
        assert_eq!(first, expected);
        let second = input(&network, &network.plugins[1], &runtime, Some(&before));
        let mapping = json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp",
            "hostIP": "127.0.0.1"});
        let expected = json!({"type": "portmap", "cniVersion": "1.0.0", "name": "n",
            "runtimeConfig": {"portMappings": [mapping]}, "prevResult": before});
        assert_eq!(second, expected);
        assert_eq!(runtime.lacking(&network), ["mac"]);
    }

    #[test]
    fn the_addresses_of_a_pod_are_those_of_its_own_interfaces() {
        let result = json!({"interfaces": [
            {"name": "br0"}, {"name": "veth1"}, {"name": "eth0", "sandbox": "/proc/1/fd/3"}],
            "ips": [{"address": "10.1.0.1/24", "interface": 0},
                {"address": "10.1.0.7/24", "interface": 2}, {"address": "fd00::7/64"}]});
        let expected: Vec<IpAddr> = vec!["10.1.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
        assert_eq!(addresses(&result).unwrap(), expected);
        assert_eq!(addresses(&json!({})).unwrap(), Vec::<IpAddr>::new());
        assert!(addresses(&json!({"ips": [{"address": "10.1.0.7"}]})).is_err());
    }

    #[test]
    fn the_words_of_a_plugin_are_found_wherever_it_has_written_them() {
        let error = br#"{"code": 11, "msg": "no address left", "details": "in 10.0.0.0/30"}"#;
        assert_eq!(words(error, b"noise"), "no address left: in 10.0.0.0/30");
        assert_eq!(words(b"", b"  Segmentation\n fault\n"), "Segmentation fault");
        assert_eq!(words(b"rubbish\x07", b""), "rubbish?");
        assert_eq!(words(b"", b""), "it says nothing about it");
        assert!(words(&[b'x'; 100_000], b"").chars().count() <= WORDS_LEN_MAX + 1);
    }

    #[test]
    fn rubbish_is_no_result() {
        assert!(result(b"").unwrap_err().contains("no result"));
        assert!(result(b"[]").unwrap_err().contains("no result"));
        assert!(result(br#"{"ips": 4}"#).unwrap_err().contains("no list"));
        assert!(result(br#"{"cniVersion": "1.0.0"}"#).is_ok());
    }
}
