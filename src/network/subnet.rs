//! [`Subnet`]: where the built-in network takes addresses from. PURE.
//!
//! Not here: who has which address (`network::keeper`).

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Smallest and largest prefix of a subnet for pods, by version.
const LENGTHS_V4: core::ops::RangeInclusive<u8> = 8..=29;
const LENGTHS_V6: core::ops::RangeInclusive<u8> = 48..=120;
/// The place of the host in its subnet; pods come after it.
const GATEWAY: u128 = 1;

/// Addresses that begin alike; written as `10.213.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    first: IpAddr,
    length: u8,
}

/// Why a text is no subnet that pods can be in; in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SubnetFault(String);

impl Subnet {
    /// The subnet of that many bits that an address is in, whatever its size.
    #[must_use]
    pub fn around(address: IpAddr, length: u8) -> Self {
        let length = length.min(bits(address));
        let host_bits = u32::from(bits(address) - length);
        let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
        Self { first: like(address, number(address) & mask), length }
    }

    /// Bits that all of its addresses begin with.
    #[must_use]
    pub fn length(&self) -> u8 {
        self.length
    }

    /// The first of its addresses, which no host has.
    #[must_use]
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The address of the host in it.
    #[must_use]
    pub fn gateway(&self) -> IpAddr {
        self.at(GATEWAY)
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && Self::around(address, self.length) == *self
    }

    /// Whether an address of it can be a pod's.
    #[must_use]
    pub fn is_for_pods(&self, address: IpAddr) -> bool {
        let place = number(address).wrapping_sub(number(self.first));
        self.contains(address) && place > GATEWAY && place <= self.last()
    }

    /// Whether they have addresses in common.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }

    fn at(&self, place: u128) -> IpAddr {
        like(self.first, number(self.first) | place)
    }

    /// The last place for a pod; the last address of IPv4 is everybody's.
    fn last(&self) -> u128 {
        let all = (1_u128 << u32::from(bits(self.first) - self.length)) - 1;
        if self.first.is_ipv4() { all - 1 } else { all }
    }
}

/// Addresses that nobody has, one of each subnet, at the same place of all: the first one after the
/// place of `after`, and around. None if there is none left.
#[must_use]
pub fn choose(
    subnets: &[Subnet],
    taken: &BTreeSet<IpAddr>,
    after: Option<IpAddr>,
) -> Option<Vec<IpAddr>> {
    let last = subnets.iter().map(Subnet::last).min()?;
    let of = |address: IpAddr| {
        let subnet = subnets.iter().find(|subnet| subnet.contains(address))?;
        Some(number(address) - number(subnet.first))
    };
    let first = GATEWAY + 1;
    let begin = after.and_then(of).filter(|place| *place < last).map_or(first, |place| place + 1);
    // Each address that is taken spoils at most one place.
    let tries = (last - first + 1).min(u128::try_from(taken.len()).unwrap_or(u128::MAX) + 1);
    let places = (begin..=last).chain(first..begin).take(usize::try_from(tries).ok()?);
    places
        .map(|place| subnets.iter().map(|subnet| subnet.at(place)).collect::<Vec<_>>())
        .find(|addresses| addresses.iter().all(|address| !taken.contains(address)))
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The address of that number, of the version of another.
fn like(other: IpAddr, number: u128) -> IpAddr {
    match other {
        IpAddr::V4(_) => {
            let number = u32::try_from(number & u128::from(u32::MAX)).expect("it was cut to that");
            Ipv4Addr::from_bits(number).into()
        }
        IpAddr::V6(_) => Ipv6Addr::from_bits(number).into(),
    }
}

impl FromStr for Subnet {
    type Err = SubnetFault;

    fn from_str(text: &str) -> Result<Self, SubnetFault> {
        let fault = |why: String| Err(SubnetFault(why));
        let parts = text.split_once('/');
        let parsed = parts.and_then(|(ip, length)| Some((ip.parse().ok()?, length.parse().ok()?)));
        let Some((first, length)) = parsed else {
            return fault(format!("`{text}` is no subnet; write it as in `10.213.0.0/16`"));
        };
        let first: IpAddr = first;
        let known = if first.is_ipv4() { LENGTHS_V4 } else { LENGTHS_V6 };
        if !known.contains(&length) {
            let (least, most) = (known.start(), known.end());
            return fault(format!("`{text}` must have a prefix of {least} to {most} bits"));
        }
        let subnet = Self::around(first, length);
        if subnet.first == first {
            return Ok(subnet);
        }
        fault(format!("`{text}` is an address in the subnet {subnet}; write that"))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.length)
    }
}

impl TryFrom<String> for Subnet {
    type Error = SubnetFault;

    fn try_from(text: String) -> Result<Self, SubnetFault> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnets() -> Vec<Subnet> {
        vec!["10.1.0.0/29".parse().unwrap(), "fd00:1::/64".parse().unwrap()]
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_given_one_after_the_other_and_around_and_none_twice() {
        let mut taken = BTreeSet::new();
        let mut after = Some(ip("10.1.0.4"));
        let mut given = Vec::new();
        while let Some(addresses) = choose(&subnets(), &taken, after) {
            assert!(subnets().iter().zip(&addresses).all(|(subnet, ip)| subnet.is_for_pods(*ip)));
            after = Some(addresses[0]);
            taken.extend(addresses.clone());
            given.push(addresses);
        }
        let text = |all: &[Vec<IpAddr>], at: usize| -> Vec<String> {
            all.iter().map(|addresses| addresses[at].to_string()).collect()
        };
        assert_eq!(text(&given, 0), ["10.1.0.5", "10.1.0.6", "10.1.0.2", "10.1.0.3", "10.1.0.4"]);
        assert_eq!(text(&given, 1)[0], "fd00:1::5");
        // What is taken of one subnet spoils the place in the other.
        let taken = BTreeSet::from([ip("fd00:1::5")]);
        assert_eq!(choose(&subnets(), &taken, Some(ip("10.1.0.4"))).unwrap()[0], ip("10.1.0.6"));
    }

    #[test]
    fn the_first_the_gateway_and_the_last_address_are_nobodys() {
        let subnet = subnets()[0];
        assert_eq!(subnet.gateway(), ip("10.1.0.1"));
        for not in ["10.1.0.0", "10.1.0.1", "10.1.0.7", "10.1.0.8", "10.0.255.255", "fd00:1::2"] {
            assert!(!subnet.is_for_pods(ip(not)), "{not}");
        }
        assert!(subnet.is_for_pods(ip("10.1.0.2")) && subnet.is_for_pods(ip("10.1.0.6")));
    }

    #[test]
    fn subnets_overlap_whichever_is_in_the_other() {
        let all = |text: &str| text.parse::<Subnet>().unwrap();
        let wide = Subnet::around(ip("10.0.0.0"), 8);
        assert!(wide.overlaps(&all("10.1.0.0/16")) && all("10.1.0.0/16").overlaps(&wide));
        assert!(!all("10.1.0.0/16").overlaps(&all("10.2.0.0/16")));
        assert!(!all("fd00::/64").overlaps(&wide));
        assert!(Subnet::around(ip("0.0.0.0"), 0).contains(ip("192.0.2.1")));
    }

    #[test]
    fn what_is_no_subnet_for_pods_is_refused_with_the_reason() {
        for (text, why) in [
            ("10.1.0.0", "as in `10.213.0.0/16`"),
            ("x/16", "as in"),
            ("10.1.0.0/31", "8 to 29 bits"),
            ("10.1.0.0/300", "as in"),
            ("fd00::/32", "48 to 120 bits"),
            ("10.1.2.3/16", "in the subnet 10.1.0.0/16"),
        ] {
            let error = text.parse::<Subnet>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
