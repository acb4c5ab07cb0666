//! Telling the kernel the rules of the built-in network, by nf_tables. Blocks, and acts in the
//! network namespace of the calling thread.
//!
//! There is no crate for it that is kept, free of C and of the program `nft`: the messages are made
//! here, of attributes by `netlink-packet-core`. Numbers are those of the kernel's
//! `include/uapi/linux/netfilter/nf_tables.h`. Not here: what the rules are (`network::rules`).

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    DefaultNla, Emitable, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, NlasIterator,
};
use nix::sys::socket::SockProtocol;

use super::netlink::{self, Netlink, Raw, bytes};
use super::rules::{Match, Place, Protocol, Rule, Verdict};

/// The group of all changes of rules (`NFNLGRP_NFTABLES`), as a bit.
const CHANGES: u32 = 1 << 6;
/// How much more room a request needs than it is long; the kernel counts what it adds.
const ROOM_FACTOR: usize = 2;
/// Length of the name of an interface, with the null that ends it (`IFNAMSIZ`).
const NAME_LEN: usize = 16;
/// Longest comment, with its null.
const COMMENT_LEN_MAX: usize = 128;
/// `NFNL_SUBSYS_NFTABLES`, as the upper byte of a message's kind.
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const DELETE_TABLE: u16 = (SUBSYSTEM << 8) | 2;
const NEW_CHAIN: u16 = (SUBSYSTEM << 8) | 3;
const NEW_RULE: u16 = (SUBSYSTEM << 8) | 6;
const GET_RULE: u16 = (SUBSYSTEM << 8) | 7;
/// Both versions of IP (`NFPROTO_INET`), and each.
const INET: u8 = 1;
const IPV4: u8 = 2;
const IPV6: u8 = 10;
/// Attributes that hold attributes.
const NESTED: u16 = 1 << 15;
/// Registers of 16 bytes, and the one of the verdict.
const FIRST: u32 = 1;
const SECOND: u32 = 2;
const VERDICT: u32 = 0;

/// A message about both versions of IP, with these attributes.
fn message(kind: u16, attributes: &[DefaultNla]) -> Raw {
    message_of(kind, INET, 0, attributes)
}

fn message_of(kind: u16, family: u8, resource: u16, attributes: &[DefaultNla]) -> Raw {
    let mut body = vec![family, 0];
    body.extend(resource.to_be_bytes());
    body.extend(emitted(attributes));
    Raw { kind, body }
}

/// Makes a table of these rules, in place of what there is of that name. All of it or nothing.
///
/// # Errors
/// If the kernel refuses, because it lacks something for instance.
pub(super) fn replace(table: &str, rules: &[Rule]) -> io::Result<()> {
    let name = [text(1, table)];
    let (plain, create) = (NLM_F_REQUEST, NLM_F_REQUEST | NLM_F_CREATE);
    let mut all = vec![
        // What is there can be deleted only if there is something.
        (message(NEW_TABLE, &name), create),
        (message(DELETE_TABLE, &name), plain),
        (message(NEW_TABLE, &name), create),
    ];
    all.extend(Place::ALL.map(|place| (message(NEW_CHAIN, &chain(table, place)), create)));
    let rule = |rule| message(NEW_RULE, &rule_attributes(table, rule));
    all.extend(rules.iter().map(|it| (rule(it), create | NLM_F_APPEND)));
    // The kernel answers faults, and what it is told to: that is the last one.
    if let Some((_, flags)) = all.last_mut() {
        *flags |= NLM_F_ACK;
    }
    let mut batch = bytes(message_of(BATCH_BEGIN, 0, SUBSYSTEM, &[]), plain);
    batch.extend(all.into_iter().flat_map(|(message, flags)| bytes(message, flags)));
    batch.extend(bytes(message_of(BATCH_END, 0, SUBSYSTEM, &[]), plain));
    let netlink = Netlink::open(SockProtocol::NetlinkNetFilter, 0)?;
    netlink.make_room(ROOM_FACTOR * batch.len())?;
    netlink.act_together::<Raw>(&batch)
}

/// The rules that there are in a table: of each the name of its chain and its comment.
///
/// # Errors
/// If the kernel does not tell.
pub(super) fn read(table: &str) -> io::Result<Vec<(String, String)>> {
    let netlink = Netlink::open(SockProtocol::NetlinkNetFilter, 0)?;
    let asked = netlink.dump(message(GET_RULE, &[text(1, table)]));
    let found = match asked {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Vec::new(),
        found => found?,
    };
    Ok(found.iter().filter(|it| it.kind == NEW_RULE).filter_map(|it| known(it, table)).collect())
}

/// What [`read`] finds of a rule that was made.
pub(super) fn shown(rule: &Rule) -> (String, String) {
    let comment = String::from_utf8_lossy(cut(&rule.comment)).into_owned();
    (rule.place.name().to_owned(), comment)
}

/// As much of a comment as there is room for.
fn cut(comment: &str) -> &[u8] {
    &comment.as_bytes()[..comment.len().min(COMMENT_LEN_MAX - 1)]
}

/// A socket that can be read when somebody has changed rules of whichever table.
///
/// # Errors
/// If the kernel has no nf_tables.
pub(super) fn changes() -> io::Result<Netlink> {
    Netlink::open(SockProtocol::NetlinkNetFilter, CHANGES)
}

/// Chain and comment of a rule of that table.
fn known(message: &Raw, table: &str) -> Option<(String, String)> {
    let (mut of, mut chain, mut comment) = (None, None, String::new());
    for attribute in NlasIterator::new(message.body.get(4..)?) {
        let attribute = attribute.ok()?;
        match attribute.kind() {
            1 => of = Some(netlink::text(attribute.value())),
            2 => chain = Some(netlink::text(attribute.value())),
            // A kind, a length and a text.
            7 => comment = netlink::text(attribute.value().get(2..).unwrap_or_default()),
            _ => {}
        }
    }
    (of? == table).then_some((chain?, comment))
}

fn emitted(attributes: &[DefaultNla]) -> Vec<u8> {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    bytes
}

fn text(kind: u16, text: &str) -> DefaultNla {
    let mut value = text.as_bytes().to_vec();
    value.push(0);
    DefaultNla::new(kind, value)
}

/// A number; all of them are sent with the highest byte first.
fn number(kind: u16, number: u32) -> DefaultNla {
    DefaultNla::new(kind, number.to_be_bytes().to_vec())
}

fn nested(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    DefaultNla::new(kind | NESTED, emitted(attributes))
}

/// A value (`NFTA_DATA_VALUE`) in an attribute.
fn data(kind: u16, value: &[u8]) -> DefaultNla {
    nested(kind, &[DefaultNla::new(1, value.to_vec())])
}

fn chain(table: &str, place: Place) -> [DefaultNla; 4] {
    // Hooks of the kernel, and the order among those who use one: before connections are known,
    // and with all others who translate.
    let (hook, priority, kind): (u32, i32, &str) = match place {
        Place::Guard => (0, -300, "filter"),
        Place::Prerouting => (0, -100, "nat"),
        Place::Output => (3, -100, "nat"),
        Place::Postrouting => (4, 100, "nat"),
    };
    let priority = DefaultNla::new(2, priority.to_be_bytes().to_vec());
    [text(1, table), text(3, place.name()), nested(4, &[number(1, hook), priority]), text(7, kind)]
}

fn rule_attributes(table: &str, rule: &Rule) -> [DefaultNla; 4] {
    let mut all: Vec<DefaultNla> = rule.matches.iter().flat_map(expressions).collect();
    all.extend(verdict(rule.verdict));
    // As `nft` has it: kind 0 is a comment.
    let mut comment = cut(&rule.comment).to_vec();
    comment.push(0);
    let length = u8::try_from(comment.len()).expect("it was cut to 128 bytes");
    let user_data = DefaultNla::new(7, [&[0, length], comment.as_slice()].concat());
    [text(1, table), text(2, rule.place.name()), nested(4, &all), user_data]
}

/// One expression of a rule: its name and attributes.
fn expression(name: &str, attributes: &[DefaultNla]) -> DefaultNla {
    nested(1, &[text(1, name), nested(2, attributes)])
}

/// The first register is loaded with something about the packet (`meta`).
fn meta(key: u32) -> DefaultNla {
    expression("meta", &[number(1, FIRST), number(2, key)])
}

const META_IN: u32 = 6;
const META_OUT: u32 = 7;
const META_VERSION: u32 = 15;
const META_PROTOCOL: u32 = 16;

#[derive(Debug, Clone, Copy)]
enum Comparison {
    Equal = 0,
    Different = 1,
}

/// The rule ends here if the first register is otherwise.
fn compare(how: Comparison, value: &[u8]) -> DefaultNla {
    expression("cmp", &[number(1, FIRST), number(2, how as u32), data(3, value)])
}

/// The first register is loaded with bytes of a header: of IP (1), or of what is in it (2).
fn payload(header: u32, offset: u32, length: u32) -> DefaultNla {
    let attributes = [number(1, FIRST), number(2, header), number(3, offset), number(4, length)];
    expression("payload", &attributes)
}

/// The first register is masked.
fn mask(mask: &[u8]) -> DefaultNla {
    let length = u32::try_from(mask.len()).expect("it is at most 16");
    let none = vec![0; mask.len()];
    let attributes =
        [number(1, FIRST), number(2, FIRST), number(3, length), data(4, mask), data(5, &none)];
    expression("bitwise", &attributes)
}

fn expressions(wanted: &Match) -> Vec<DefaultNla> {
    match wanted {
        Match::In(name) => vec![meta(META_IN), compare(Comparison::Equal, &padded(name))],
        Match::Out(name) => vec![meta(META_OUT), compare(Comparison::Equal, &padded(name))],
        Match::NotOut(name) => vec![meta(META_OUT), compare(Comparison::Different, &padded(name))],
        Match::From(subnet) => end(subnet.first(), subnet.length(), [12, 8]),
        Match::For(subnet) => end(subnet.first(), subnet.length(), [16, 24]),
        Match::Here => {
            // `fib daddr type local`: what is asked for (`NFT_FIB_RESULT_ADDRTYPE`), and of what
            // (`NFTA_FIB_F_DADDR`); RTN_LOCAL is 2.
            let fib = expression("fib", &[number(1, FIRST), number(2, 3), number(3, 2)]);
            vec![fib, compare(Comparison::Equal, &2_u32.to_ne_bytes())]
        }
        Match::Port(protocol, port) => {
            let protocol: u8 = match protocol {
                Protocol::Tcp => 6,
                Protocol::Udp => 17,
                Protocol::Sctp => 132,
            };
            vec![
                meta(META_PROTOCOL),
                compare(Comparison::Equal, &[protocol]),
                payload(2, 2, 2),
                compare(Comparison::Equal, &port.to_be_bytes()),
            ]
        }
        Match::Translated => {
            // `ct status dnat`: NFT_CT_STATUS is 2, IPS_DST_NAT is bit 5.
            let status = expression("ct", &[number(1, FIRST), number(2, 2)]);
            let bit = mask(&(1_u32 << 5).to_ne_bytes());
            vec![status, bit, compare(Comparison::Different, &0_u32.to_ne_bytes())]
        }
    }
}

/// The address at that offset in the header of IP, of version 4 or 6, begins like that.
fn end(first: IpAddr, length: u8, offsets: [u32; 2]) -> Vec<DefaultNla> {
    let (version, offset, bytes) = match first {
        IpAddr::V4(ip) => (IPV4, offsets[0], ip.octets().to_vec()),
        IpAddr::V6(ip) => (IPV6, offsets[1], ip.octets().to_vec()),
    };
    let mut all = vec![meta(META_VERSION), compare(Comparison::Equal, &[version])];
    if length > 0 {
        let size = u32::try_from(bytes.len()).expect("it is 4 or 16");
        let bit = |at: usize| usize::from(length) > at;
        let octet =
            |octet: usize| (0..8).fold(0_u8, |all, at| (all << 1) | u8::from(bit(octet * 8 + at)));
        let all_bits: Vec<u8> = (0..bytes.len()).map(octet).collect();
        all.extend([payload(1, offset, size), mask(&all_bits), compare(Comparison::Equal, &bytes)]);
    }
    all
}

fn padded(name: &str) -> [u8; NAME_LEN] {
    let mut bytes = [0; NAME_LEN];
    for (to, from) in bytes.iter_mut().take(NAME_LEN - 1).zip(name.bytes()) {
        *to = from;
    }
    bytes
}

fn verdict(verdict: Verdict) -> Vec<DefaultNla> {
    match verdict {
        Verdict::Drop => {
            // NF_DROP is 0; NFTA_DATA_VERDICT and NFTA_VERDICT_CODE.
            let code = nested(2, &[nested(2, &[number(1, 0)])]);
            vec![expression("immediate", &[number(1, VERDICT), code])]
        }
        Verdict::Masquerade => vec![expression("masq", &[])],
        Verdict::To(address, port) => {
            let (version, bytes) = match address {
                IpAddr::V4(ip) => (IPV4, ip.octets().to_vec()),
                IpAddr::V6(ip) => (IPV6, ip.octets().to_vec()),
            };
            let load = |register, value: &[u8]| {
                expression("immediate", &[number(1, register), data(2, value)])
            };
            // NFT_NAT_DNAT is 1.
            let attributes =
                [number(1, 1), number(2, version.into()), number(3, FIRST), number(5, SECOND)];
            let translate = expression("nat", &attributes);
            vec![load(FIRST, &bytes), load(SECOND, &port.to_be_bytes()), translate]
        }
    }
}
