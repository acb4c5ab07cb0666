//! Telling the kernel the rules of the built-in network, by nf_tables. Blocks, and acts in the
//! network namespace of the calling thread.
//!
//! There is no crate for it that is kept, free of C and of the program `nft`: the messages are made
//! here, of attributes by `netlink-packet-core`. Numbers have the names that they have in the
//! kernel's `include/uapi/linux/netfilter/nf_tables.h`, but where another header is named. Not
//! here: what the rules are (`network::rules`).

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    DefaultNla, Emitable, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, NlasIterator,
};
use nix::sys::socket::SockProtocol;
use sha2::{Digest as _, Sha256};

use super::netlink::{self, Netlink, Raw, bytes};
use super::rules::{Match, Place, Protocol, Rule, Verdict, Version};

/// The group of all changes of rules, as a bit: `NFNLGRP_NFTABLES` of linux/netfilter/nfnetlink.h.
const CHANGES: u32 = 1 << (7 - 1);
/// How much more room a request needs than it is long; the kernel counts what it adds.
const ROOM_FACTOR: usize = 2;
/// Length of the name of an interface, with the null that ends it (`IFNAMSIZ` of linux/if.h).
const NAME_LEN: usize = 16;
/// Longest comment, with its null, as `nft` has it (`NFTNL_UDATA_COMMENT_MAXLEN` of libnftnl).
const COMMENT_LEN_MAX: usize = 128;

/// Of linux/netfilter/nfnetlink.h; the subsystem is the upper byte of a message's kind.
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;

const NFT_MSG_NEWTABLE: u16 = NFNL_SUBSYS_NFTABLES << 8;
const NFT_MSG_GETTABLE: u16 = NFT_MSG_NEWTABLE | 1;
const NFT_MSG_DELTABLE: u16 = NFT_MSG_NEWTABLE | 2;
const NFT_MSG_NEWCHAIN: u16 = NFT_MSG_NEWTABLE | 3;
const NFT_MSG_GETCHAIN: u16 = NFT_MSG_NEWTABLE | 4;
const NFT_MSG_NEWRULE: u16 = NFT_MSG_NEWTABLE | 6;
const NFT_MSG_GETRULE: u16 = NFT_MSG_NEWTABLE | 7;

/// Of linux/netfilter.h: both versions of IP, each of them, verdicts, and hooks.
const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const NF_INET_PRE_ROUTING: u32 = 0;
const NF_INET_FORWARD: u32 = 2;
const NF_INET_LOCAL_OUT: u32 = 3;
const NF_INET_POST_ROUTING: u32 = 4;

/// Attributes that hold attributes (`NLA_F_NESTED` of linux/netlink.h).
const NLA_F_NESTED: u16 = 1 << 15;
/// Registers of 16 bytes, and the one of the verdict.
const NFT_REG_1: u32 = 1;
const NFT_REG_2: u32 = 2;
const NFT_REG_VERDICT: u32 = 0;

const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFT_TABLE_F_DORMANT: u32 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_RULE_USERDATA: u16 = 7;
/// Parts of a rule's user data: a kind, a length, and so many bytes. The first is of libnftnl
/// (`NFTNL_UDATA_RULE_COMMENT`); programs pass over what they do not know, as the second.
const USER_COMMENT: u8 = 0;
const USER_DIGEST: u8 = b'R';

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;

const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
const NFT_META_IIF: u32 = 4;
const NFT_META_IIFNAME: u32 = 6;
const NFT_META_OIFNAME: u32 = 7;
const NFT_META_NFPROTO: u32 = 15;
const NFT_META_L4PROTO: u32 = 16;

const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;

const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
/// Where source and destination stand in headers of IP (RFC 791, RFC 8200), and the destination in
/// those of TCP, UDP and SCTP.
const IPV4_SOURCE: u32 = 12;
const IPV4_DESTINATION: u32 = 16;
const IPV6_SOURCE: u32 = 8;
const IPV6_DESTINATION: u32 = 24;
const PORT_OF_DESTINATION: u32 = 2;

const NFTA_BITWISE_SREG: u16 = 1;
const NFTA_BITWISE_DREG: u16 = 2;
const NFTA_BITWISE_LEN: u16 = 3;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_BITWISE_XOR: u16 = 5;

const NFTA_FIB_DREG: u16 = 1;
const NFTA_FIB_RESULT: u16 = 2;
const NFTA_FIB_FLAGS: u16 = 3;
const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
const NFTA_FIB_F_DADDR: u32 = 1 << 1;
/// Of linux/rtnetlink.h.
const RTN_LOCAL: u32 = 2;

const NFTA_CT_DREG: u16 = 1;
const NFTA_CT_KEY: u16 = 2;
const NFT_CT_STATE: u32 = 0;
const NFT_CT_STATUS: u32 = 2;
/// Of linux/netfilter/nf_conntrack_common.h: `NF_CT_STATE_BIT` of IP_CT_ESTABLISHED and
/// IP_CT_RELATED, and the status.
const CT_ESTABLISHED_OR_RELATED: u32 = (1 << 1) | (1 << 2);
const IPS_DST_NAT: u32 = 1 << 5;

const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;

const NFTA_NAT_TYPE: u16 = 1;
const NFTA_NAT_FAMILY: u16 = 2;
const NFTA_NAT_REG_ADDR_MIN: u16 = 3;
const NFTA_NAT_REG_PROTO_MIN: u16 = 5;
const NFT_NAT_DNAT: u32 = 1;

/// What a rule was made of, in short: another program's, or another version's, has another.
type Digest = [u8; 8];

/// A message about both versions of IP, with these attributes.
fn message(kind: u16, attributes: &[DefaultNla]) -> Raw {
    message_of(kind, NFPROTO_INET, 0, attributes)
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
    let name = [text(NFTA_TABLE_NAME, table)];
    let (plain, create) = (NLM_F_REQUEST, NLM_F_REQUEST | NLM_F_CREATE);
    let mut all = vec![
        // What is there can be deleted only if there is something.
        (message(NFT_MSG_NEWTABLE, &name), create),
        (message(NFT_MSG_DELTABLE, &name), plain),
        (message(NFT_MSG_NEWTABLE, &name), create),
    ];
    all.extend(Place::ALL.map(|place| (message(NFT_MSG_NEWCHAIN, &chain(table, place)), create)));
    let rule = |rule| message(NFT_MSG_NEWRULE, &rule_attributes(table, rule));
    all.extend(rules.iter().map(|it| (rule(it), create | NLM_F_APPEND)));
    send(all)
}

/// Removes a table, if there is one of that name.
///
/// # Errors
/// If the kernel refuses.
pub(super) fn remove(table: &str) -> io::Result<()> {
    if !is_there(table)? {
        return Ok(());
    }
    send(vec![(message(NFT_MSG_DELTABLE, &[text(NFTA_TABLE_NAME, table)]), NLM_F_REQUEST)])
}

/// Sends messages as one request: all of it is done or nothing.
fn send(mut all: Vec<(Raw, u16)>) -> io::Result<()> {
    // The kernel answers faults, and what it is told to: that is the last one.
    if let Some((_, flags)) = all.last_mut() {
        *flags |= NLM_F_ACK;
    }
    let edge = |kind| bytes(message_of(kind, 0, NFNL_SUBSYS_NFTABLES, &[]), NLM_F_REQUEST);
    let mut batch = edge(NFNL_MSG_BATCH_BEGIN);
    batch.extend(all.into_iter().flat_map(|(message, flags)| bytes(message, flags)));
    batch.extend(edge(NFNL_MSG_BATCH_END));
    let netlink = Netlink::open(SockProtocol::NetlinkNetFilter, 0)?;
    netlink.make_room(ROOM_FACTOR * batch.len())?;
    netlink.act_together::<Raw>(&batch)
}

/// Whether there is a table of that name.
///
/// # Errors
/// If the kernel does not tell.
pub(super) fn is_there(table: &str) -> io::Result<bool> {
    Ok(flags_of(&Netlink::open(SockProtocol::NetlinkNetFilter, 0)?, table)?.is_some())
}

/// Whether a table is as [`replace`] would make it of these rules.
///
/// # Errors
/// If the kernel does not tell.
pub(super) fn is_like(table: &str, rules: &[Rule]) -> io::Result<bool> {
    let netlink = Netlink::open(SockProtocol::NetlinkNetFilter, 0)?;
    let chains: BTreeMap<String, u32> =
        Place::ALL.iter().map(|place| (place.name().to_owned(), NF_ACCEPT)).collect();
    // As they are read: those of one chain after those of another.
    let mut wanted: Vec<&Rule> = rules.iter().collect();
    wanted.sort_by_key(|rule| rule.place);
    let wanted = wanted.into_iter().map(|rule| (rule.place.name().to_owned(), Some(digest(rule))));
    Ok(flags_of(&netlink, table)?.is_some_and(|flags| flags & NFT_TABLE_F_DORMANT == 0)
        && chains_of(&netlink, table)? == chains
        && rules_of(&netlink, table)?.into_iter().eq(wanted))
}

/// What is said of a table; none if there is none of that name.
fn flags_of(netlink: &Netlink, table: &str) -> io::Result<Option<u32>> {
    let of = |message: &Raw| {
        let attributes = attributes(message)?;
        let name = netlink::text(attributes.get(&NFTA_TABLE_NAME)?);
        let flags = attributes.get(&NFTA_TABLE_FLAGS).map_or(0, |value| read_number(value));
        (name == table).then_some(flags)
    };
    let tables = dump(netlink, NFT_MSG_GETTABLE, &[], NFT_MSG_NEWTABLE)?;
    Ok(tables.iter().find_map(of))
}

/// The chains of a table, and their policies.
fn chains_of(netlink: &Netlink, table: &str) -> io::Result<BTreeMap<String, u32>> {
    let of = |message: &Raw| {
        let attributes = attributes(message)?;
        let is_of_table = netlink::text(attributes.get(&NFTA_CHAIN_TABLE)?) == table;
        let name = netlink::text(attributes.get(&NFTA_CHAIN_NAME)?);
        let policy = attributes.get(&NFTA_CHAIN_POLICY).map_or(NF_ACCEPT, |it| read_number(it));
        is_of_table.then_some((name, policy))
    };
    let chains = dump(netlink, NFT_MSG_GETCHAIN, &[], NFT_MSG_NEWCHAIN)?;
    Ok(chains.iter().filter_map(of).collect())
}

/// The rules of a table, in its order: of each the name of its chain, and what it was made of, if
/// that was us.
fn rules_of(netlink: &Netlink, table: &str) -> io::Result<Vec<(String, Option<Digest>)>> {
    let of = |message: &Raw| {
        let attributes = attributes(message)?;
        let is_of_table = netlink::text(attributes.get(&NFTA_RULE_TABLE)?) == table;
        let chain = netlink::text(attributes.get(&NFTA_RULE_CHAIN)?);
        let digest = attributes.get(&NFTA_RULE_USERDATA).and_then(|data| read_digest(data));
        is_of_table.then_some((chain, digest))
    };
    let name = [text(NFTA_RULE_TABLE, table)];
    let rules = dump(netlink, NFT_MSG_GETRULE, &name, NFT_MSG_NEWRULE)?;
    Ok(rules.iter().filter_map(of).collect())
}

fn dump(netlink: &Netlink, asked: u16, of: &[DefaultNla], told: u16) -> io::Result<Vec<Raw>> {
    let mut all = match netlink.dump(|| message(asked, of)) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
        found => found?,
    };
    all.retain(|it| it.kind == told);
    Ok(all)
}

/// A socket that can be read when somebody has changed rules of whichever table.
///
/// # Errors
/// If the kernel has no nf_tables.
pub(super) fn changes() -> io::Result<Netlink> {
    Netlink::open(SockProtocol::NetlinkNetFilter, CHANGES)
}

/// The attributes of a message, by kind; none if it is no such message.
fn attributes(message: &Raw) -> Option<BTreeMap<u16, Vec<u8>>> {
    let all = NlasIterator::new(message.body.get(4..)?).filter_map(Result::ok);
    Some(all.map(|it| (it.kind() & !NLA_F_NESTED, it.value().to_vec())).collect())
}

fn read_number(value: &[u8]) -> u32 {
    value.try_into().map_or(0, u32::from_be_bytes)
}

/// The digest in a rule's user data, which may be anybody's.
fn read_digest(mut data: &[u8]) -> Option<Digest> {
    while let [kind, length, rest @ ..] = data {
        let (value, rest) = rest.split_at_checked(usize::from(*length))?;
        if *kind == USER_DIGEST {
            return value.try_into().ok();
        }
        data = rest;
    }
    None
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
    DefaultNla::new(kind | NLA_F_NESTED, emitted(attributes))
}

/// A value in an attribute.
fn data(kind: u16, value: &[u8]) -> DefaultNla {
    nested(kind, &[DefaultNla::new(NFTA_DATA_VALUE, value.to_vec())])
}

fn chain(table: &str, place: Place) -> [DefaultNla; 5] {
    // The order among those who use a hook: before connections are known, with all others who
    // filter, or with all others who translate (linux/netfilter_ipv4.h).
    let (hook, priority, kind): (u32, i32, &str) = match place {
        Place::Guard => (NF_INET_PRE_ROUTING, -300, "filter"),
        Place::Prerouting => (NF_INET_PRE_ROUTING, -100, "nat"),
        Place::Forward => (NF_INET_FORWARD, 0, "filter"),
        Place::Output => (NF_INET_LOCAL_OUT, -100, "nat"),
        Place::Postrouting => (NF_INET_POST_ROUTING, 100, "nat"),
    };
    let priority = DefaultNla::new(NFTA_HOOK_PRIORITY, priority.to_be_bytes().to_vec());
    [
        text(NFTA_CHAIN_TABLE, table),
        text(NFTA_CHAIN_NAME, place.name()),
        nested(NFTA_CHAIN_HOOK, &[number(NFTA_HOOK_HOOKNUM, hook), priority]),
        number(NFTA_CHAIN_POLICY, NF_ACCEPT),
        text(NFTA_CHAIN_TYPE, kind),
    ]
}

fn rule_attributes(table: &str, rule: &Rule) -> [DefaultNla; 4] {
    let mut comment = rule.comment.as_bytes().to_vec();
    comment.truncate(COMMENT_LEN_MAX - 1);
    comment.push(0);
    let length = u8::try_from(comment.len()).expect("it was cut to 128 bytes");
    let digest = digest(rule);
    let size = u8::try_from(digest.len()).expect("it has 8 bytes");
    let data = [&[USER_COMMENT, length], &*comment, &[USER_DIGEST, size], &digest].concat();
    [
        text(NFTA_RULE_TABLE, table),
        text(NFTA_RULE_CHAIN, rule.place.name()),
        nested(NFTA_RULE_EXPRESSIONS, &all_expressions(rule)),
        DefaultNla::new(NFTA_RULE_USERDATA, data),
    ]
}

fn all_expressions(rule: &Rule) -> Vec<DefaultNla> {
    let mut all: Vec<DefaultNla> = rule.matches.iter().flat_map(expressions).collect();
    all.extend(verdict(rule.verdict));
    all
}

fn digest(rule: &Rule) -> Digest {
    let all = [rule.place.name().as_bytes(), rule.comment.as_bytes()];
    let all = Sha256::new().chain_update(all.join(&0)).chain_update([0]);
    let whole = all.chain_update(emitted(&all_expressions(rule))).finalize();
    let mut digest = Digest::default();
    digest.copy_from_slice(&whole[..size_of::<Digest>()]);
    digest
}

/// One expression of a rule: its name and attributes.
fn expression(name: &str, attributes: &[DefaultNla]) -> DefaultNla {
    let attributes = [text(NFTA_EXPR_NAME, name), nested(NFTA_EXPR_DATA, attributes)];
    nested(NFTA_LIST_ELEM, &attributes)
}

/// The first register is loaded with something about the packet.
fn meta(key: u32) -> DefaultNla {
    expression("meta", &[number(NFTA_META_DREG, NFT_REG_1), number(NFTA_META_KEY, key)])
}

/// The first register is loaded with something about the packet's connection.
fn connection(key: u32) -> DefaultNla {
    expression("ct", &[number(NFTA_CT_DREG, NFT_REG_1), number(NFTA_CT_KEY, key)])
}

/// `NFT_CMP_EQ` and `NFT_CMP_NEQ`.
#[derive(Debug, Clone, Copy)]
enum Comparison {
    Equal = 0,
    Different = 1,
}

/// The rule ends here if the first register is otherwise.
fn compare(how: Comparison, value: &[u8]) -> DefaultNla {
    let how = number(NFTA_CMP_OP, how as u32);
    expression("cmp", &[number(NFTA_CMP_SREG, NFT_REG_1), how, data(NFTA_CMP_DATA, value)])
}

/// The first register is loaded with bytes of a header.
fn payload(header: u32, offset: u32, length: u32) -> DefaultNla {
    let attributes = [
        number(NFTA_PAYLOAD_DREG, NFT_REG_1),
        number(NFTA_PAYLOAD_BASE, header),
        number(NFTA_PAYLOAD_OFFSET, offset),
        number(NFTA_PAYLOAD_LEN, length),
    ];
    expression("payload", &attributes)
}

/// The first register is masked.
fn mask(mask: &[u8]) -> DefaultNla {
    let length = u32::try_from(mask.len()).expect("it is at most 16");
    let none = vec![0; mask.len()];
    let attributes = [
        number(NFTA_BITWISE_SREG, NFT_REG_1),
        number(NFTA_BITWISE_DREG, NFT_REG_1),
        number(NFTA_BITWISE_LEN, length),
        data(NFTA_BITWISE_MASK, mask),
        data(NFTA_BITWISE_XOR, &none),
    ];
    expression("bitwise", &attributes)
}

/// The rule ends here if the first register has none of these bits.
fn has_any(bits: u32) -> [DefaultNla; 2] {
    [mask(&bits.to_ne_bytes()), compare(Comparison::Different, &0_u32.to_ne_bytes())]
}

fn expressions(wanted: &Match) -> Vec<DefaultNla> {
    use Comparison::{Different, Equal};
    match wanted {
        Match::In(name) => vec![meta(NFT_META_IIFNAME), compare(Equal, &padded(name))],
        Match::InNumber(index) => {
            vec![meta(NFT_META_IIF), compare(Equal, &index.to_ne_bytes())]
        }
        // As many bytes as are compared: that is how `roost*` is said.
        Match::NotInLike(start) => {
            vec![meta(NFT_META_IIFNAME), compare(Different, start.as_bytes())]
        }
        Match::Out(name) => vec![meta(NFT_META_OIFNAME), compare(Equal, &padded(name))],
        Match::NotOut(name) => vec![meta(NFT_META_OIFNAME), compare(Different, &padded(name))],
        Match::NotOutLike(start) => {
            vec![meta(NFT_META_OIFNAME), compare(Different, start.as_bytes())]
        }
        Match::Of(version) => {
            let version = match version {
                Version::V4 => NFPROTO_IPV4,
                Version::V6 => NFPROTO_IPV6,
            };
            vec![meta(NFT_META_NFPROTO), compare(Equal, &[version])]
        }
        Match::From(subnet) => end(subnet.first(), subnet.length(), [IPV4_SOURCE, IPV6_SOURCE]),
        Match::For(subnet) => {
            end(subnet.first(), subnet.length(), [IPV4_DESTINATION, IPV6_DESTINATION])
        }
        Match::Here => {
            // `fib daddr type local`.
            let fib = [
                number(NFTA_FIB_DREG, NFT_REG_1),
                number(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE),
                number(NFTA_FIB_FLAGS, NFTA_FIB_F_DADDR),
            ];
            vec![expression("fib", &fib), compare(Equal, &RTN_LOCAL.to_ne_bytes())]
        }
        Match::Port(protocol, port) => {
            let protocol = match protocol {
                Protocol::Tcp => libc::IPPROTO_TCP,
                Protocol::Udp => libc::IPPROTO_UDP,
                Protocol::Sctp => libc::IPPROTO_SCTP,
            };
            let protocol = u8::try_from(protocol).expect("it is a byte of the header");
            vec![
                meta(NFT_META_L4PROTO),
                compare(Equal, &[protocol]),
                payload(NFT_PAYLOAD_TRANSPORT_HEADER, PORT_OF_DESTINATION, 2),
                compare(Equal, &port.to_be_bytes()),
            ]
        }
        Match::Translated => {
            let [mask, compare] = has_any(IPS_DST_NAT);
            vec![connection(NFT_CT_STATUS), mask, compare]
        }
        Match::Answered => {
            let [mask, compare] = has_any(CT_ESTABLISHED_OR_RELATED);
            vec![connection(NFT_CT_STATE), mask, compare]
        }
    }
}

/// The address at that offset in the header of IP, of version 4 or 6, begins like that.
fn end(first: IpAddr, length: u8, offsets: [u32; 2]) -> Vec<DefaultNla> {
    let (version, offset, bytes) = match first {
        IpAddr::V4(ip) => (NFPROTO_IPV4, offsets[0], ip.octets().to_vec()),
        IpAddr::V6(ip) => (NFPROTO_IPV6, offsets[1], ip.octets().to_vec()),
    };
    let mut all = vec![meta(NFT_META_NFPROTO), compare(Comparison::Equal, &[version])];
    if length > 0 {
        let size = u32::try_from(bytes.len()).expect("it is 4 or 16");
        let bit = |at: usize| usize::from(length) > at;
        let octet =
            |octet: usize| (0..8).fold(0_u8, |all, at| (all << 1) | u8::from(bit(octet * 8 + at)));
        let all_bits: Vec<u8> = (0..bytes.len()).map(octet).collect();
        let address = payload(NFT_PAYLOAD_NETWORK_HEADER, offset, size);
        all.extend([address, mask(&all_bits), compare(Comparison::Equal, &bytes)]);
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

fn immediate(register: u32, value: DefaultNla) -> DefaultNla {
    expression("immediate", &[number(NFTA_IMMEDIATE_DREG, register), value])
}

fn decided(code: u32) -> DefaultNla {
    let verdict = nested(NFTA_DATA_VERDICT, &[number(NFTA_VERDICT_CODE, code)]);
    immediate(NFT_REG_VERDICT, nested(NFTA_IMMEDIATE_DATA, &[verdict]))
}

fn verdict(verdict: Verdict) -> Vec<DefaultNla> {
    match verdict {
        Verdict::Accept => vec![decided(NF_ACCEPT)],
        Verdict::Drop => vec![decided(NF_DROP)],
        Verdict::Masquerade => vec![expression("masq", &[])],
        Verdict::To(address, port) => {
            let (version, bytes) = match address {
                IpAddr::V4(ip) => (NFPROTO_IPV4, ip.octets().to_vec()),
                IpAddr::V6(ip) => (NFPROTO_IPV6, ip.octets().to_vec()),
            };
            let load =
                |register, value: &[u8]| immediate(register, data(NFTA_IMMEDIATE_DATA, value));
            let attributes = [
                number(NFTA_NAT_TYPE, NFT_NAT_DNAT),
                number(NFTA_NAT_FAMILY, version.into()),
                number(NFTA_NAT_REG_ADDR_MIN, NFT_REG_1),
                number(NFTA_NAT_REG_PROTO_MIN, NFT_REG_2),
            ];
            let translate = expression("nat", &attributes);
            vec![load(NFT_REG_1, &bytes), load(NFT_REG_2, &port.to_be_bytes()), translate]
        }
    }
}
