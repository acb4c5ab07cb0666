//! Interfaces, addresses and routes, by rtnetlink(7). Blocks, and acts in the network namespace of
//! the calling thread.
//!
//! Not here: what they are for (`network::bridge`).

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLA_F_NESTED, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NlasIterator};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::SockProtocol;

use super::netlink::{self, Netlink, Raw};
use super::subnet::Subnet;

/// Groups that are told what changes, as bits (`RTNLGRP_…` of linux/rtnetlink.h): interfaces, their
/// addresses, and whether they forward.
const CHANGES: u32 = bit(1) | bit(5) | bit(9) | bit(24) | bit(25);

/// Of linux/rtnetlink.h and linux/if_link.h. Messages about interfaces are not taken apart by the
/// crate: it refuses what newer kernels tell.
const GET_LINK: u16 = 18;
const LINK_HEADER_LEN: usize = 16;
const INDEX_AT: usize = 4;
const FLAGS_AT: usize = 8;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_INFO_KIND: u16 = 1;
/// Of linux/if.h.
const IFF_UP: u32 = 1;

/// A route to fewer bits than this leads to everywhere, and not to a network.
const NETWORK_LENGTH_MIN: u8 = 8;

/// A hardware address.
pub(super) type Mac = [u8; 6];

/// A way to change interfaces.
#[derive(Debug)]
pub(super) struct Links {
    netlink: Netlink,
}

/// A pair of interfaces: what goes into one comes out of the other.
#[derive(Debug)]
pub(super) struct Pair<'a> {
    /// The end that stays here.
    pub(super) here: &'a str,
    /// The bridge that it is a port of.
    pub(super) bridge: u32,
    /// The other end.
    pub(super) there: &'a str,
    /// The namespace that that is in.
    pub(super) namespace: BorrowedFd<'a>,
    /// Its hardware address.
    pub(super) mac: Mac,
}

/// What the kernel tells of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) index: u32,
    pub(super) is_up: bool,
    pub(super) mac: Vec<u8>,
    /// `bridge` or `veth`, for instance; nothing of an interface that is a device.
    pub(super) kind: String,
    /// What somebody has said that it is for (`ip link set … alias`).
    pub(super) alias: String,
    /// The number of the bridge that it is a port of.
    pub(super) bridge: Option<u32>,
}

const fn bit(group: u32) -> u32 {
    1 << (group - 1)
}

/// A socket that can be read when interfaces of the host have changed, their addresses, or what
/// they forward.
///
/// # Errors
/// If the kernel refuses.
pub(super) fn changes() -> io::Result<Netlink> {
    Netlink::open(SockProtocol::NetlinkRoute, CHANGES)
}

/// The number of an interface; none if there is none of that name.
pub(super) fn index(name: &str) -> io::Result<Option<u32>> {
    match if_nametoindex(name) {
        Ok(index) => Ok(Some(index)),
        Err(Errno::ENODEV) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Links {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { netlink: Netlink::open(SockProtocol::NetlinkRoute, 0)? })
    }

    /// Makes a bridge, and brings it up. It is an error if there is an interface of that name.
    pub(super) fn make_bridge(&self, name: &str, mac: Mac) -> io::Result<()> {
        let mut message = up();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            // Else it would be that of its lowest port, and change as pods come and go.
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        self.netlink.act(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Makes a pair, and brings up the end that stays here.
    pub(super) fn make_pair(&self, pair: &Pair<'_>) -> io::Result<()> {
        // It can't be up before it is a pair (`veth_open()`).
        let mut there = LinkMessage::default();
        there.attributes = vec![
            LinkAttribute::IfName(pair.there.to_owned()),
            LinkAttribute::Address(pair.mac.to_vec()),
            LinkAttribute::NetNsFd(pair.namespace.as_raw_fd()),
        ];
        let mut here = up();
        here.attributes = vec![
            LinkAttribute::IfName(pair.here.to_owned()),
            LinkAttribute::Controller(pair.bridge),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(there))),
            ]),
        ];
        self.netlink.act(RouteNetlinkMessage::NewLink(here), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Lets what comes from a port of a bridge go back to it. It does so where bridges have rules
    /// as routers do (`net.bridge.bridge-nf-call-iptables`), if a pod asks a port that leads to it.
    pub(super) fn let_turn(&self, name: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        let hairpin = InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)]);
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::PortKind(InfoPortKind::Bridge),
                LinkInfo::PortData(hairpin),
            ]),
        ];
        gone_is_fine(self.netlink.act(RouteNetlinkMessage::NewLink(message), 0))
    }

    /// Brings an interface up.
    pub(super) fn bring_up(&self, index: u32) -> io::Result<()> {
        let mut message = up();
        message.header.index = index;
        self.netlink.act(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Says what an interface is for. It can't be said when that is made.
    pub(super) fn set_alias(&self, index: u32, alias: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = vec![LinkAttribute::IfAlias(alias.to_owned())];
        self.netlink.act(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// All interfaces.
    pub(super) fn all(&self) -> io::Result<Vec<Link>> {
        let request = || Raw { kind: GET_LINK, body: vec![0; LINK_HEADER_LEN] };
        Ok(self.netlink.dump(request)?.iter().filter_map(link).collect())
    }

    /// The addresses of an interface, and the lengths of their prefixes.
    pub(super) fn addresses_of(&self, index: u32) -> io::Result<BTreeSet<(IpAddr, u8)>> {
        let request = || RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let of = |message: &RouteNetlinkMessage| {
            let RouteNetlinkMessage::NewAddress(message) = message else { return None };
            let address = message.attributes.iter().find_map(|it| {
                if let AddressAttribute::Address(ip) = it { Some(*ip) } else { None }
            });
            let length = message.header.prefix_len;
            address.filter(|_| message.header.index == index).map(|ip| (ip, length))
        };
        Ok(self.netlink.dump(request)?.iter().filter_map(of).collect())
    }

    /// Makes an interface a port of a bridge, if it is there.
    pub(super) fn put_into(&self, name: &str, bridge: u32) -> io::Result<()> {
        let mut message = up();
        message.attributes =
            vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Controller(bridge)];
        gone_is_fine(self.netlink.act(RouteNetlinkMessage::SetLink(message), 0))
    }

    /// Removes an interface, and with one end of a pair the other. One that is gone is no error.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        gone_is_fine(self.netlink.act(RouteNetlinkMessage::DelLink(message), 0))
    }

    /// Gives an interface an address in a subnet.
    pub(super) fn add_address(&self, index: u32, ip: IpAddr, subnet: &Subnet) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(ip);
        message.header.prefix_len = subnet.length();
        message.header.index = index;
        // Nobody else can have it, so nobody need be asked for a second.
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.netlink.act(RouteNetlinkMessage::NewAddress(message), flags)
    }

    /// Takes an address from an interface, as somebody else may.
    #[cfg(test)]
    pub(super) fn remove_address(&self, index: u32, ip: IpAddr, of: &Subnet) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(ip);
        message.header.prefix_len = of.length();
        message.header.index = index;
        message.attributes = vec![AddressAttribute::Local(ip)];
        self.netlink.act(RouteNetlinkMessage::DelAddress(message), 0)
    }

    /// Takes an interface down, as somebody else may.
    #[cfg(test)]
    pub(super) fn bring_down(&self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.change_mask = LinkFlags::Up;
        self.netlink.act(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Sends what is for elsewhere to that gateway.
    pub(super) fn add_default_route(&self, gateway: IpAddr) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family(gateway),
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Boot,
            scope: RouteScope::Universe,
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        message.attributes = vec![RouteAttribute::Gateway(RouteAddress::from(gateway))];
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.netlink.act(RouteNetlinkMessage::NewRoute(message), flags)
    }

    /// Where the host's own routes lead, but for those by that interface and those to everywhere.
    pub(super) fn routes(&self, but: Option<u32>) -> io::Result<Vec<Subnet>> {
        let mut all = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let request = || {
                let mut message = RouteMessage::default();
                message.header.address_family = family;
                RouteNetlinkMessage::GetRoute(message)
            };
            let routes = match self.netlink.dump(request) {
                // A kernel without IPv6.
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => continue,
                routes => routes?,
            };
            all.extend(routes.iter().filter_map(|route| subnet(route, but)));
        }
        Ok(all)
    }
}

fn link(message: &Raw) -> Option<Link> {
    let header = message.body.get(..LINK_HEADER_LEN)?;
    let number = |at: usize| Some(u32::from_ne_bytes(header.get(at..at + 4)?.try_into().ok()?));
    let mut link = Link { index: number(INDEX_AT)?, ..Link::default() };
    link.is_up = number(FLAGS_AT)? & IFF_UP != 0;
    for attribute in NlasIterator::new(message.body.get(LINK_HEADER_LEN..)?) {
        let attribute = attribute.ok()?;
        let value = attribute.value();
        match attribute.kind() & !NLA_F_NESTED {
            IFLA_IFNAME => link.name = netlink::text(value),
            IFLA_ADDRESS => link.mac = value.to_vec(),
            IFLA_MASTER => link.bridge = value.try_into().ok().map(u32::from_ne_bytes),
            IFLA_IFALIAS => link.alias = netlink::text(value),
            IFLA_LINKINFO => {
                let kind = NlasIterator::new(value).flatten();
                let kind = kind.filter(|it| it.kind() == IFLA_INFO_KIND);
                link.kind = kind.map(|it| netlink::text(it.value())).collect();
            }
            _ => {}
        }
    }
    Some(link)
}

/// The subnet that a route leads to.
fn subnet(route: &RouteNetlinkMessage, but: Option<u32>) -> Option<Subnet> {
    let RouteNetlinkMessage::NewRoute(RouteMessage { header, attributes, .. }) = route else {
        return None;
    };
    let leads_there =
        |it: &RouteAttribute| matches!(it, RouteAttribute::Oif(oif) if Some(*oif) == but);
    if attributes.iter().any(leads_there) {
        return None;
    }
    let address = attributes.iter().find_map(|attribute| {
        let RouteAttribute::Destination(address) = attribute else { return None };
        if let RouteAddress::Inet(ip) = address {
            return Some(IpAddr::from(*ip));
        }
        if let RouteAddress::Inet6(ip) = address { Some(IpAddr::from(*ip)) } else { None }
    });
    // Groups and single addresses of the host itself are no networks. What leads to half of
    // everything is a default route by another name, as of VPNs, which the bridge's is preferred to.
    let is_network =
        header.kind == RouteType::Unicast && header.destination_prefix_length >= NETWORK_LENGTH_MIN;
    address.filter(|_| is_network).map(|ip| Subnet::around(ip, header.destination_prefix_length))
}

/// An interface that is to be up.
fn up() -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn gone_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        done => done,
    }
}
