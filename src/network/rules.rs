//! The rules of the built-in network, as data. PURE.
//!
//! There is one table for it, made of what pods ask for as a whole: so it is right whatever was
//! before, and what a pod has had is gone with the next table.
//!
//! ```text
//!  guard        in from the bridge for 127.0.0.0/8: dropped, see `Place::Guard`
//!  prerouting   for an address of the host and a pod's port of the host: to the pod
//!  forward      from the bridge with a pod's address, to the bridge in answer or by a port of the
//!               host: accepted; all else from and to the bridge, and what is forwarded between
//!               others only because of this network (`Opened`): dropped
//!  output       the same as prerouting for what comes from the host itself, but for `::1`
//!  postrouting  out of the subnet, or back into it by a port of the host, or by the host's loopback
//!               address: with the host's address as its source, so that answers come back here
//! ```
//!
//! Not here: how the kernel is told (`network::nft`).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::request::PortMapping;
use super::subnet::Subnet;
use crate::ids::PodName;

/// What the names of interfaces of ours, and of other agents on this host, begin with.
pub(super) const OURS: &str = "roost";

/// What the rules are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The interface of the bridge.
    pub(super) bridge: String,
    /// The subnets of pods.
    pub(super) subnets: Vec<Subnet>,
    /// Ports of the host, and where they lead.
    pub(super) ports: Vec<PortRule>,
    /// What the host forwards for this network's sake.
    pub(super) opened: BTreeSet<Opened>,
}

/// Packets that the host did not forward, and does since this network needs it. Those that are not
/// this network's are dropped: it must not make a router of a host that was none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Opened {
    /// Those that come in by the interface of that number.
    Interface(Version, u32),
    /// All.
    All(Version),
}

/// A version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Version {
    /// 4.
    V4,
    /// 6.
    V6,
}

/// A port of the host, and where it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PortRule {
    /// Whose it is.
    pub(super) pod: PodName,
    /// What was asked for.
    pub(super) mapping: PortMapping,
    /// An address of the pod.
    pub(super) to: IpAddr,
}

/// Where packets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// Before everything else. So that the host can reach ports of pods by its loopback address,
    /// the bridge routes such packets; pods must not reach servers of the host like that which
    /// listen on loopback only (as CVE-2020-8558 was).
    Guard,
    /// What comes from elsewhere, before it is routed.
    Prerouting,
    /// What comes from elsewhere and is for elsewhere.
    Forward,
    /// What comes from the host.
    Output,
    /// What goes out of the host, pods included.
    Postrouting,
}

impl Place {
    /// All of them.
    pub(super) const ALL: [Self; 5] =
        [Self::Guard, Self::Prerouting, Self::Forward, Self::Output, Self::Postrouting];

    /// The name of its chain.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Guard => "guard",
            Self::Prerouting => "prerouting",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }
}

/// What a packet must be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Match {
    /// It came in by that interface.
    In(String),
    /// The same, by its number.
    InNumber(u32),
    /// It came in by one whose name begins otherwise.
    NotInLike(&'static str),
    /// It goes out by that interface.
    Out(String),
    /// It goes out by another one.
    NotOut(String),
    /// It goes out by one whose name begins otherwise.
    NotOutLike(&'static str),
    /// It is of that version of IP.
    Of(Version),
    /// It comes from there.
    From(Subnet),
    /// It is for there.
    For(Subnet),
    /// It is for an address of the host.
    Here,
    /// It is of that protocol and for that port.
    Port(Protocol, u16),
    /// Where it is for was changed by a rule.
    Translated,
    /// It is of a connection that is there already, or about one.
    Answered,
}

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    Drop,
    Masquerade,
    /// It is for there instead.
    To(IpAddr, u16),
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) place: Place,
    pub(super) matches: Vec<Match>,
    pub(super) verdict: Verdict,
    /// What it is for; shown by `nft`, and how it is known again.
    pub(super) comment: String,
}

/// All rules, in the order of each place.
pub(super) fn rules(wanted: &Wanted) -> Vec<Rule> {
    let Wanted { bridge, subnets, ports, opened } = wanted;
    let mut all = Vec::new();
    let loopback = loopback(subnets);
    if let Some(loopback) = loopback {
        for (what, end) in [("to", Match::For(loopback)), ("from", Match::From(loopback))] {
            let matches = vec![Match::In(bridge.clone()), end];
            let comment = format!("nothing {what} the host's loopback");
            all.push(rule(Place::Guard, matches, Verdict::Drop, &comment));
        }
    }
    all.extend(forward_rules(bridge, subnets, opened));
    // What comes from `::1` is routed nowhere: who asks there is refused at once, and asks
    // 127.0.0.1 next, as `localhost` has both.
    let here = vec![Match::For(Subnet::around(Ipv6Addr::LOCALHOST.into(), u8::MAX))];
    all.push(rule(Place::Output, here, Verdict::Accept, "::1 leads to no pod"));
    for port in ports {
        all.extend(port_rules(port));
    }
    for subnet in subnets {
        let out = vec![Match::From(*subnet), Match::NotOut(bridge.clone())];
        all.push(rule(Place::Postrouting, out, Verdict::Masquerade, "pods to the outside"));
        let back = vec![Match::From(*subnet), Match::For(*subnet), Match::Translated];
        let comment = "pods to pods by ports of the host";
        all.push(rule(Place::Postrouting, back, Verdict::Masquerade, comment));
    }
    if let Some(loopback) = loopback {
        let matches = vec![Match::From(loopback), Match::Out(bridge.clone())];
        let comment = "the host to pods by its loopback";
        all.push(rule(Place::Postrouting, matches, Verdict::Masquerade, comment));
    }
    all
}

fn rule(place: Place, matches: Vec<Match>, verdict: Verdict, comment: &str) -> Rule {
    Rule { place, matches, verdict, comment: comment.to_owned() }
}

fn forward_rules(bridge: &str, subnets: &[Subnet], opened: &BTreeSet<Opened>) -> Vec<Rule> {
    use Verdict::{Accept, Drop};
    let forward = |matches, verdict, comment: &str| rule(Place::Forward, matches, verdict, comment);
    let (from, to) = (Match::In(bridge.to_owned()), Match::Out(bridge.to_owned()));
    let mut all = Vec::new();
    for subnet in subnets {
        let matches = vec![from.clone(), Match::From(*subnet)];
        all.push(forward(matches, Accept, "what pods send"));
    }
    all.push(forward(vec![from], Drop, "nobody else is in the pods' network"));
    all.push(forward(vec![to.clone(), Match::Answered], Accept, "answers to pods"));
    all.push(forward(vec![to.clone(), Match::Translated], Accept, "ports of the host"));
    all.push(forward(vec![to], Drop, "nothing else to pods from elsewhere"));
    for opened in opened {
        // Other agents on this host have pods of their own, and their own rules.
        let matches = match *opened {
            Opened::Interface(version, index) => vec![Match::InNumber(index), Match::Of(version)],
            Opened::All(version) => vec![Match::NotInLike(OURS), Match::Of(version)],
        };
        let matches = matches.into_iter().chain([Match::NotOutLike(OURS)]).collect();
        all.push(forward(matches, Drop, "not forwarded before there were pods"));
    }
    all
}

fn port_rules(port: &PortRule) -> impl Iterator<Item = Rule> {
    let PortMapping { host_port, container_port, protocol, host_ip } = &port.mapping;
    let (name, to) = (protocol.as_str(), port.to);
    let protocol = match name {
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => Protocol::Tcp,
    };
    let end = match host_ip {
        // The port itself says which version of IP it is for, by where it leads.
        None => Match::For(Subnet::around(to, 0)),
        Some(ip) => Match::For(Subnet::around(*ip, u8::MAX)),
    };
    let is_of_version = host_ip.is_none_or(|ip| ip.is_ipv4() == to.is_ipv4());
    let matches = vec![end, Match::Port(protocol, *host_port), Match::Here];
    let comment = format!("{}: {host_port}/{name} to {container_port}", port.pod);
    let verdict = Verdict::To(to, *container_port);
    let places = [Place::Prerouting, Place::Output].into_iter().filter(move |_| is_of_version);
    places.map(move |place| Rule {
        place,
        matches: matches.clone(),
        verdict,
        comment: comment.clone(),
    })
}

/// Loopback addresses that are routed; those of IPv6 never are.
fn loopback(subnets: &[Subnet]) -> Option<Subnet> {
    let has_v4 = subnets.iter().any(|subnet| subnet.first().is_ipv4());
    has_v4.then(|| Subnet::around(Ipv4Addr::LOCALHOST.into(), 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(host_ip: Option<&str>) -> Wanted {
        let mapping = PortMapping {
            host_port: 8080,
            container_port: 80,
            protocol: "udp".to_owned(),
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        };
        let port = |to: &str| PortRule {
            pod: "shop/web".parse().unwrap(),
            mapping: mapping.clone(),
            to: to.parse().unwrap(),
        };
        Wanted {
            bridge: "roost0".to_owned(),
            subnets: vec!["10.1.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap()],
            ports: vec![port("10.1.0.7"), port("fd00::7")],
            opened: BTreeSet::from([Opened::Interface(Version::V4, 7), Opened::All(Version::V6)]),
        }
    }

    fn comments(wanted: &Wanted, place: Place) -> Vec<String> {
        let all = rules(wanted).into_iter().filter(|rule| rule.place == place);
        all.map(|rule| rule.comment).collect()
    }

    #[test]
    fn a_port_leads_to_the_pod_from_elsewhere_and_from_the_host_for_both_versions() {
        let expected = ["shop/web: 8080/udp to 80", "shop/web: 8080/udp to 80"];
        assert_eq!(comments(&wanted(None), Place::Prerouting), expected);
        let from_host = comments(&wanted(None), Place::Output);
        assert_eq!(from_host[..1], ["::1 leads to no pod"]);
        assert_eq!(from_host[1..], expected);
        let of_address = rules(&wanted(Some("192.0.2.1")));
        let ports: Vec<&Rule> =
            of_address.iter().filter(|rule| rule.place == Place::Prerouting).collect();
        assert_eq!(ports.len(), 1, "that address has one version");
        assert_eq!(ports[0].verdict, Verdict::To("10.1.0.7".parse().unwrap(), 80));
        assert!(ports[0].matches.contains(&Match::Port(Protocol::Udp, 8080)));
        assert!(ports[0].matches.contains(&Match::Here));
        let address = Subnet::around("192.0.2.1".parse().unwrap(), 32);
        assert!(ports[0].matches.contains(&Match::For(address)));
    }

    #[test]
    fn pods_are_kept_from_the_loopback_of_the_host_and_masqueraded_to_the_outside() {
        let wanted = wanted(None);
        let guard = ["nothing to the host's loopback", "nothing from the host's loopback"];
        assert_eq!(comments(&wanted, Place::Guard), guard);
        let out = comments(&wanted, Place::Postrouting);
        assert_eq!(out.iter().filter(|it| *it == "pods to the outside").count(), 2, "{out:?}");
        assert_eq!(out.last().unwrap(), "the host to pods by its loopback");
    }

    #[test]
    fn what_is_forwarded_is_of_pods_or_was_forwarded_before() {
        let all = rules(&wanted(None));
        let forward = all.iter().filter(|rule| rule.place == Place::Forward);
        let shown: Vec<String> =
            forward.map(|rule| format!("{:?} {:?}", rule.verdict, rule.matches)).collect();
        insta::assert_snapshot!(shown.join("\n"), @r#"
        Accept [In("roost0"), From(Subnet { first: 10.1.0.0, length: 16 })]
        Accept [In("roost0"), From(Subnet { first: fd00::, length: 64 })]
        Drop [In("roost0")]
        Accept [Out("roost0"), Answered]
        Accept [Out("roost0"), Translated]
        Drop [Out("roost0")]
        Drop [InNumber(7), Of(V4), NotOutLike("roost")]
        Drop [NotInLike("roost"), Of(V6), NotOutLike("roost")]
        "#);
    }
}
