//! The annotations about the network: Roost's own, and those of Kubernetes for its bandwidth.

use core::net::IpAddr;

use super::fields::At;
use crate::manifest::diagnostic::{Faults, quote};
use crate::manifest::pod::{NetworkWish, WantedNetworks};
use crate::manifest::quantity::Quantity;

/// Names of networks, with commas between; or `none`.
pub(super) const NETWORKS: &str = "roost/networks";
/// Addresses, with commas between.
pub(super) const IP: &str = "roost/ip";
/// A hardware address.
pub(super) const MAC: &str = "roost/mac";
const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// What stands for no network at all.
const NONE: &str = "none";
/// Most networks of one pod.
const NETWORKS_MAX: usize = 16;
/// Longest name of a network.
const NAME_LEN_MAX: usize = 128;
/// What the kubelet takes for a bandwidth, in bits per second.
const BITS_MIN: u64 = 1000;
const BITS_MAX: u64 = 1_000_000_000_000_000;

/// Takes in one annotation, if it is about the network.
pub(super) fn annotation(
    key: &str,
    at: &At<'_>,
    text: &str,
    wish: &mut NetworkWish,
    faults: &mut Faults,
) -> bool {
    match key {
        NETWORKS => wish.networks = networks(at, text, faults),
        IP => wish.addresses = addresses(at, text, faults),
        MAC => wish.mac = mac(at, text, faults),
        INGRESS => wish.ingress_bits = bits(at, text, faults),
        EGRESS => wish.egress_bits = bits(at, text, faults),
        _ => return false,
    }
    true
}

fn networks(at: &At<'_>, text: &str, faults: &mut Faults) -> WantedNetworks {
    if text.trim() == NONE {
        return WantedNetworks::None;
    }
    let help = "write it as in `office`, `office,storage` or `none`";
    let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    for (index, name) in names.iter().enumerate() {
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let is_name = name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.len() <= NAME_LEN_MAX
            && name.chars().all(known);
        if !is_name || name == NONE {
            let message = format!("{} is not the name of a network", quote(name));
            faults.push(at.error(&message).with_help(help));
        } else if names[..index].contains(name) {
            let message = format!("names {} twice", quote(name));
            faults.push(at.error(&message).with_help(help));
        }
    }
    if names.len() > NETWORKS_MAX {
        let message = format!("names {} networks; {NETWORKS_MAX} are the most", names.len());
        faults.push(at.error(&message));
    }
    WantedNetworks::Named(names)
}

fn addresses(at: &At<'_>, text: &str, faults: &mut Faults) -> Vec<IpAddr> {
    let help = "write it as in `10.1.2.3` or `10.1.2.3,fd00::3`";
    let mut found: Vec<IpAddr> = Vec::new();
    for item in text.split(',').map(str::trim) {
        match item.parse::<IpAddr>() {
            Err(_) => {
                let message = format!("{} is not an IP address", quote(item));
                faults.push(at.error(&message).with_help(help));
            }
            Ok(ip) if found.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) => {
                faults.push(at.error("has two addresses of the same version").with_help(help));
            }
            Ok(ip) => found.push(ip),
        }
    }
    found
}

fn mac(at: &At<'_>, text: &str, faults: &mut Faults) -> Option<String> {
    let bytes: Vec<Option<u8>> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).ok().filter(|_| byte.len() == 2))
        .collect();
    let first = bytes.first().copied().flatten();
    if bytes.len() != 6 || bytes.contains(&None) {
        let fault = at.error("is not a hardware address").with_help("as in `02:00:5e:10:00:01`");
        faults.push(fault);
        return None;
    }
    if first.is_some_and(|byte| byte & 1 == 1) {
        let fault = at.error("is the address of a group (its first byte is odd)");
        faults.push(fault.with_help("as in `02:00:5e:10:00:01`"));
        return None;
    }
    Some(text.to_lowercase())
}

fn bits(at: &At<'_>, text: &str, faults: &mut Faults) -> Option<u64> {
    let bits = text.parse::<Quantity>().and_then(Quantity::units);
    match bits {
        Ok(bits @ BITS_MIN..=BITS_MAX) => Some(bits),
        Ok(_) => {
            faults.push(at.error("must be from 1k to 1P bits per second").with_help("as in `10M`"));
            None
        }
        Err(error) => {
            faults.push(at.error(&error.to_string()).with_help("as in `10M`, in bits per second"));
            None
        }
    }
}
