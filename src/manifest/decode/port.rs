//! `spec.containers[].ports[]`.

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use super::fields::{At, Fields};
use super::schema;
use crate::manifest::diagnostic::{Faults, quote};
use crate::manifest::pod::{ContainerPort, Protocol};

/// Ports of a container.
pub(super) const PORTS_MAX: usize = 1024;
/// Longest name of a port (RFC 6335, section 5.1).
pub(super) const NAME_LEN_MAX: usize = 15;

/// Reads the ports of a container.
pub(super) fn decode(at: At<'_>, host_network: bool, faults: &mut Faults) -> Vec<ContainerPort> {
    let mut names = BTreeSet::new();
    let mut found = Vec::new();
    for item in at.items(PORTS_MAX, faults) {
        let Some(fields) = item.fields(&schema::PORT, faults) else { continue };
        let Some(port) = port(&fields, host_network, faults) else { continue };
        if let Some(name) = &port.name
            && !names.insert(name.clone())
        {
            let message = format!("two ports of this container have the name {}", quote(name));
            faults.push(item.error(&message));
        }
        found.push(port);
    }
    found
}

fn port(fields: &Fields<'_>, host_network: bool, faults: &mut Faults) -> Option<ContainerPort> {
    let name = fields.get("name").and_then(|at| name(at, faults));
    let container_at = fields.required("containerPort", faults);
    let container_port = container_at.and_then(|at| number(at, faults));
    let host_at = fields.get("hostPort");
    let host_port = host_at.and_then(|at| number(at, faults));
    let host_ip = fields.get("hostIP").and_then(|at| address(at, faults));
    let protocols = [("TCP", Protocol::Tcp), ("UDP", Protocol::Udp), ("SCTP", Protocol::Sctp)];
    let protocol = match fields.get("protocol") {
        Some(at) => at.choice(&protocols, faults),
        None => Some(Protocol::Tcp),
    };
    let container_port = container_port?;
    if let Some(at) = host_at.filter(|_| host_network)
        && let Some(port) = host_port.filter(|port| *port != container_port)
    {
        let message = format!(
            "must be the same as `containerPort` ({container_port}) with `hostNetwork: true`, \
             but this is {port}"
        );
        faults.push(at.error(&message));
    }
    Some(ContainerPort {
        name,
        container_port,
        host_port: if host_network { host_port.or(Some(container_port)) } else { host_port },
        host_ip,
        protocol: protocol?,
    })
}

fn number(at: At<'_>, faults: &mut Faults) -> Option<u16> {
    at.integer(1..=i64::from(u16::MAX), faults).and_then(|port| u16::try_from(port).ok())
}

fn address(at: At<'_>, faults: &mut Faults) -> Option<IpAddr> {
    let text = at.text(faults)?;
    // Kubernetes takes an empty text for an address that is not given.
    if text.is_empty() {
        return None;
    }
    let address = text.parse().ok();
    if address.is_none() {
        let message = format!("{} is not an IP address, as in 127.0.0.1 or ::1", quote(text));
        faults.push(at.error(&message));
    }
    address
}

/// The name of a service (RFC 6335, section 5.1).
fn name(at: At<'_>, faults: &mut Faults) -> Option<String> {
    let text = at.text(faults)?;
    let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let valid = (1..=NAME_LEN_MAX).contains(&text.len())
        && text.bytes().all(known)
        && text.bytes().any(|b| b.is_ascii_lowercase())
        && !(text.starts_with('-') || text.ends_with('-') || text.contains("--"));
    if !valid {
        let message = format!(
            "{} is no name for a port: lower-case letters, digits and single `-` between them, at \
             least one letter, at most {NAME_LEN_MAX} characters",
            quote(text)
        );
        faults.push(at.error(&message));
    }
    valid.then(|| text.to_owned())
}

/// The host's ports that a pod takes up, and where it does.
#[derive(Debug, Default)]
pub(super) struct HostPorts {
    taken: BTreeMap<(Protocol, u16), Vec<Taken>>,
}

/// On which address, or all, and by the container in which line.
type Taken = (Option<IpAddr>, u32);

impl HostPorts {
    /// Adds those of a container; says which are taken already.
    pub(super) fn add(&mut self, container: &At<'_>, ports: &[ContainerPort], faults: &mut Faults) {
        for port in ports {
            let Some(number) = port.host_port else { continue };
            let taken = self.taken.entry((port.protocol, number)).or_default();
            let ip = port.host_ip.filter(|ip| !ip.is_unspecified());
            let other =
                taken.iter().find(|(other, _)| other.is_none() || ip.is_none() || *other == ip);
            if let Some((_, line)) = other {
                let protocol = port.protocol;
                let message = format!(
                    "the port {number}/{protocol} of the host is taken twice; first by the \
                     container in line {line}"
                );
                faults.push(container.error(&message));
            }
            taken.push((ip, container.position().line));
        }
    }
}
