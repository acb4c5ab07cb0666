//! [`Bridge`]: the network that pods are in when none is configured. No plugin is needed for it.
//!
//! ```text
//!   pod: eth0 ═══ host's end ─┐
//!   pod: eth0 ═══ host's end ─┴─ bridge (the pods' gateway) ─ routing, rules ─ outside
//! ```
//!
//! Everything here says how it is to be, whatever was before, and can be done again. An interface
//! of a pod goes with its namespace; rules are one table that is replaced as a whole. So a crash
//! leaves nothing that is not set right by what is done next. Not here: who has which address, and
//! which of it is wanted (`network::keeper`). Blocks.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::links::{self, Links, Mac, Pair};
use super::namespace;
use super::nft;
use super::record::ByBridge;
use super::rules::{PortRule, Rule, Wanted, rules};
use super::subnet::Subnet;

/// Subnets that are tried where none is configured: the first that leads nowhere else is taken.
const SUBNETS_V4: [&str; 4] =
    ["10.213.0.0/16", "172.29.0.0/16", "192.168.213.0/24", "100.120.0.0/16"];
/// The same for IPv6: it is of no use to anybody elsewhere, so it is the same on all nodes.
const SUBNETS_V6: [&str; 2] = ["fd52:6f6f:7374::/64", "fd52:6f6f:7375::/64"];
const SETTINGS: &str = "/proc/sys/net";
/// A pod's interface in the first of its networks.
const FIRST_INTERFACE: &str = "eth0";

/// What the built-in network is to be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeSettings {
    /// The name of its interface, and of its table of rules.
    pub name: String,
    /// Its subnets, at most one of each version of IP; without any they are chosen.
    pub subnets: Vec<Subnet>,
}

/// Why the built-in network can't be made.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// The host has routes to all subnets there might be.
    #[error(
        "no subnet is left for pods: the host has routes into {}; name another one by `subnets` of \
         `[network]` in agent.toml", join(.0)
    )]
    Taken(Vec<Subnet>),
    /// The bridge could not be made.
    #[error("can't make the bridge `{name}` (the kernel needs CONFIG_BRIDGE); {HELP}")]
    Bridge {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The pair of interfaces of the pod could not be made.
    #[error("can't make the pod's interface (the kernel needs CONFIG_VETH); {HELP}")]
    Pair(#[source] io::Error),
    /// The pod's end could not be set up.
    #[error("can't give the pod's interface its addresses")]
    Pod(#[source] io::Error),
    /// The rules could not be made.
    #[error("can't make the rules of the pods' network (the kernel needs nf_tables); {HELP}")]
    Rules(#[source] io::Error),
    /// A setting of the kernel can't be changed.
    #[error("can't set {setting} to {value}; {HELP}")]
    Setting {
        /// Its path.
        setting: String,
        /// The value.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// An interface could not be removed.
    #[error("can't remove the interface `{link}`")]
    Remove {
        /// Its name.
        link: String,
        /// Why.
        source: io::Error,
    },
    /// The kernel can't be asked.
    #[error("can't ask the kernel about the host's network")]
    Ask(#[source] io::Error),
}

/// What can be done where it can't work.
const HELP: &str = "where that can't be had, configure CNI, let pods have `hostNetwork: true` or the \
                    annotation `roost/networks: none`, or set `built-in = false` in `[network]` of \
                    agent.toml: pods have loopback only then";

fn join(subnets: &[Subnet]) -> String {
    subnets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// How to find out what ports of the host are wanted, of all pods.
pub(super) type Ports<'a> = &'a dyn Fn() -> Vec<PortRule>;

/// The built-in network.
#[derive(Debug)]
pub(super) struct Bridge {
    settings: BridgeSettings,
    known: Mutex<Known>,
}

/// What was made already; made again where it is not known.
#[derive(Debug, Default)]
struct Known {
    subnets: Vec<Subnet>,
    /// The number of the bridge's interface.
    bridge: Option<u32>,
    /// The rules that the kernel has.
    rules: Option<Vec<Rule>>,
}

impl Bridge {
    /// `subnets` are those that pods are in already.
    pub(super) fn new(settings: BridgeSettings, subnets: Vec<Subnet>) -> Self {
        let known = Mutex::new(Known { subnets, ..Known::default() });
        Self { settings, known }
    }

    /// The name of its interface.
    pub(super) fn name(&self) -> &str {
        &self.settings.name
    }

    /// The subnets that pods get addresses from, chosen when they are needed first.
    pub(super) fn subnets(&self) -> Result<Vec<Subnet>, BridgeError> {
        let mut known = self.lock();
        if known.subnets.is_empty() {
            known.subnets = self.choose()?;
        }
        Ok(known.subnets.clone())
    }

    fn choose(&self) -> Result<Vec<Subnet>, BridgeError> {
        let has_v6 = has_ipv6();
        let own = links::index(self.name()).map_err(BridgeError::Ask)?;
        let routes = Links::open().and_then(|links| links.routes(own)).map_err(BridgeError::Ask)?;
        let is_free = |subnet: &Subnet| !routes.iter().any(|route| route.overlaps(subnet));
        let parse = |text: &str| text.parse::<Subnet>().expect("the constants are subnets");
        let configured = &self.settings.subnets;
        let mut chosen = Vec::new();
        for candidates in [&SUBNETS_V4[..], &SUBNETS_V6[..]] {
            let defaults: Vec<Subnet> = candidates.iter().map(|text| parse(text)).collect();
            let is_v4 = defaults[0].first().is_ipv4();
            let same: Vec<Subnet> =
                configured.iter().filter(|it| it.first().is_ipv4() == is_v4).copied().collect();
            if (!is_v4 && !has_v6) || (same.is_empty() && !configured.is_empty()) {
                continue;
            }
            let candidates = if same.is_empty() { defaults } else { same };
            let free = candidates.iter().copied().find(is_free);
            chosen.push(free.ok_or(BridgeError::Taken(candidates))?);
        }
        Ok(chosen)
    }

    /// Puts a pod's namespace into the network. `ports` says what ports of the host are wanted, of
    /// all pods.
    pub(super) fn add(
        &self,
        pod: &ByBridge,
        interface: &str,
        namespace: &OwnedFd,
        ports: Ports<'_>,
    ) -> Result<(), BridgeError> {
        let ByBridge { link, subnets, addresses, mac, .. } = pod;
        let mac = mac.as_deref().and_then(parse_mac).unwrap_or_else(|| mac_of(addresses));
        let links = Links::open().map_err(BridgeError::Ask)?;
        let bridge = {
            let mut known = self.lock();
            let bridge = self.make(&links, &mut known)?;
            self.set_rules(&mut known, ports)?;
            bridge
        };
        let there = interface;
        let pair = Pair { here: link, bridge, there, namespace: namespace.as_fd(), mac };
        links.make_pair(&pair).map_err(BridgeError::Pair)?;
        if !pod.ports.is_empty() {
            links.let_turn(link).map_err(BridgeError::Pair)?;
        }
        let set_up = || {
            let links = Links::open()?;
            let index = links::index(interface)?.ok_or(io::ErrorKind::NotFound)?;
            hear_no_routers(interface).map_err(io::Error::other)?;
            links.bring_up(index)?;
            for (address, subnet) in addresses.iter().zip(subnets) {
                links.add_address(index, *address, subnet)?;
            }
            // The first network has the way out.
            let ways_out = subnets.iter().filter(|_| interface == FIRST_INTERFACE);
            ways_out.map(Subnet::gateway).try_for_each(|gateway| links.add_default_route(gateway))
        };
        namespace::within(namespace, set_up).map_err(BridgeError::Pod)
    }

    /// Undoes that. `ports` are those that are wanted without it.
    pub(super) fn remove(&self, pod: &ByBridge, ports: Ports<'_>) -> Result<(), BridgeError> {
        if !pod.ports.is_empty() {
            let mut known = self.lock();
            // Where there can't be rules, there are none of this pod.
            let has_rules = || nft::read(self.name()).is_ok_and(|rules| !rules.is_empty());
            if known.rules.is_some() || has_rules() {
                self.set_rules(&mut known, ports)?;
            }
        }
        let link = pod.link.clone();
        let removed = match links::index(&link) {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Links::open().and_then(|links| links.remove(&link)),
            Err(error) => Err(error),
        };
        removed.map_err(|source| BridgeError::Remove { link, source })
    }

    /// Makes good what an agent before, or somebody else, has left of it; whether anything was
    /// otherwise. `pods` are those that are in it.
    pub(super) fn restore(&self, pods: &[ByBridge], ports: Ports<'_>) -> Result<bool, BridgeError> {
        let links = Links::open().map_err(BridgeError::Ask)?;
        let mut known = self.lock();
        let bridge = self.make(&links, &mut known)?;
        // Only where it is otherwise: who waits for changes would be woken by this.
        let there = links.ports_of(bridge).map_err(BridgeError::Ask)?;
        for pod in pods.iter().filter(|pod| !there.contains(&pod.link)) {
            let put = links.put_into(&pod.link, bridge);
            let turn = || if pod.ports.is_empty() { Ok(()) } else { links.let_turn(&pod.link) };
            put.and_then(|()| turn()).map_err(BridgeError::Pair)?;
        }
        self.check_rules(&mut known, ports)
    }

    fn check_rules(&self, known: &mut Known, ports: Ports<'_>) -> Result<bool, BridgeError> {
        let wanted = self.rules(known, ports);
        let there = nft::read(self.name()).map_err(BridgeError::Rules)?;
        let is_right = there.iter().cloned().eq(in_chains(&wanted));
        if !is_right {
            known.rules = None;
            self.set_rules(known, ports)?;
        } else {
            known.rules = Some(wanted);
        }
        Ok(!is_right)
    }

    /// Makes the bridge, if it is not there; its number.
    fn make(&self, links: &Links, known: &mut Known) -> Result<u32, BridgeError> {
        let name = self.name();
        let failed = |source| BridgeError::Bridge { name: name.to_owned(), source };
        let index = links::index(name).map_err(failed)?;
        if let Some(index) = index.filter(|index| known.bridge == Some(*index)) {
            return Ok(index);
        }
        if known.subnets.is_empty() {
            known.subnets = self.choose()?;
        }
        let gateways: Vec<IpAddr> = known.subnets.iter().map(Subnet::gateway).collect();
        links.make_bridge(name, mac_of(&gateways)).map_err(failed)?;
        let index = links::index(name).map_err(failed)?;
        let index = index.ok_or(io::ErrorKind::NotFound.into()).map_err(failed)?;
        for (gateway, subnet) in gateways.into_iter().zip(&known.subnets) {
            links.add_address(index, gateway, subnet).map_err(failed)?;
        }
        self.set_kernel(&known.subnets)?;
        known.bridge = Some(index);
        Ok(index)
    }

    /// Lets the kernel route what comes from pods and goes to them.
    fn set_kernel(&self, subnets: &[Subnet]) -> Result<(), BridgeError> {
        // No pod is a router of the host (CVE-2020-10749).
        hear_no_routers(self.name())?;
        for subnet in subnets {
            if subnet.first().is_ipv4() {
                set("ipv4/ip_forward", "1")?;
                // Ports of the host lead to pods also by 127.0.0.1: see `rules::Place::Guard`.
                set(&format!("ipv4/conf/{}/route_localnet", self.name()), "1")?;
            } else if get("ipv6/conf/all/forwarding").as_deref() != Some("1") {
                // Who routes is no host any more, and hears no routers, unless told to by 2
                // (Documentation/networking/ip-sysctl.rst): the host must not lose its way out.
                let directory = Path::new(SETTINGS).join("ipv6/conf");
                let names = fs::read_dir(directory).into_iter().flatten().flatten();
                for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
                    let setting = format!("ipv6/conf/{name}/accept_ra");
                    // Of interfaces that there are: what comes later is set by who makes it.
                    let is_other = !["all", "default", self.name()].contains(&name.as_str());
                    if is_other && get(&setting).as_deref() == Some("1") {
                        set(&setting, "2")?;
                    }
                }
                set("ipv6/conf/all/forwarding", "1")?;
            }
        }
        Ok(())
    }

    fn set_rules(&self, known: &mut Known, ports: Ports<'_>) -> Result<(), BridgeError> {
        // Asked for while nobody else sets rules: what is set last is what was asked for last.
        let wanted = self.rules(known, ports);
        if known.rules.as_ref() != Some(&wanted) {
            known.rules = None;
            nft::replace(self.name(), &wanted).map_err(BridgeError::Rules)?;
            known.rules = Some(wanted);
        }
        Ok(())
    }

    fn rules(&self, known: &Known, ports: Ports<'_>) -> Vec<Rule> {
        let (bridge, subnets) = (self.name().to_owned(), known.subnets.clone());
        rules(&Wanted { bridge, subnets, ports: ports() })
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rules as they are read: those of one chain after those of another.
fn in_chains(rules: &[Rule]) -> impl Iterator<Item = (String, String)> {
    let mut rules: Vec<&Rule> = rules.iter().collect();
    rules.sort_by_key(|rule| rule.place);
    rules.into_iter().map(nft::shown)
}

/// Whether the host has IPv6, and it is not turned off.
fn has_ipv6() -> bool {
    get("ipv6/conf/all/disable_ipv6").as_deref() == Some("0")
}

fn get(setting: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new(SETTINGS).join(setting)).ok()?;
    Some(text.trim().to_owned())
}

/// Sets a setting of the kernel, if it is not like that: it may be read-only.
fn set(setting: &str, value: &str) -> Result<(), BridgeError> {
    if get(setting).as_deref() == Some(value) {
        return Ok(());
    }
    let path = Path::new(SETTINGS).join(setting);
    fs::write(&path, value).map_err(|source| BridgeError::Setting {
        setting: path.display().to_string(),
        value: value.to_owned(),
        source,
    })
}

/// Takes no routes from what is heard on an interface, where there is IPv6.
fn hear_no_routers(interface: &str) -> Result<(), BridgeError> {
    let setting = format!("ipv6/conf/{interface}/accept_ra");
    if get(&setting).is_some() { set(&setting, "0") } else { Ok(()) }
}

/// A hardware address of which an address of IP is part: who had the latter before does not matter
/// to those who remember the former.
fn mac_of(addresses: &[IpAddr]) -> Mac {
    let last = match addresses.first() {
        Some(IpAddr::V4(ip)) => ip.octets(),
        Some(IpAddr::V6(ip)) => {
            let [.., a, b, c, d] = ip.octets();
            [a, b, c, d]
        }
        None => [0; 4],
    };
    // Of one device, and of local meaning.
    let [a, b, c, d] = last;
    [0x0a, 0x58, a, b, c, d]
}

fn parse_mac(text: &str) -> Option<Mac> {
    let bytes: Vec<u8> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>().ok()?;
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::sync::mpsc;

    use super::*;
    use crate::network::request::PortMapping;

    /// Does something on a host of the test's own.
    fn on_a_host(test: impl FnOnce() + Send) {
        let host = namespace::make().unwrap();
        let tested = namespace::within(&host, || {
            test();
            Ok(())
        });
        tested.unwrap();
    }

    fn bridge() -> Bridge {
        let subnets = vec!["10.9.0.0/24".parse().unwrap(), "fd09::/64".parse().unwrap()];
        Bridge::new(BridgeSettings { name: "roost-t".to_owned(), subnets }, Vec::new())
    }

    fn pod(bridge: &Bridge, place: u8, host_port: Option<u16>) -> ByBridge {
        let subnets = bridge.subnets().unwrap();
        let all = [format!("10.9.0.{place}"), format!("fd09::{place}")];
        let addresses = all.iter().take(subnets.len()).map(|ip| ip.parse().unwrap()).collect();
        let port = |host_port| PortMapping {
            host_port,
            container_port: 80,
            protocol: "tcp".to_owned(),
            host_ip: None,
        };
        let ports = host_port.map(port).into_iter().collect();
        ByBridge { link: format!("roost-t{place}"), subnets, addresses, mac: None, ports }
    }

    fn ports(pods: &[ByBridge]) -> Vec<PortRule> {
        let of = |pod: &ByBridge| {
            let rule = |to: &IpAddr| PortRule {
                pod: "default/web".parse().unwrap(),
                mapping: pod.ports[0].clone(),
                to: *to,
            };
            let to = pod.addresses.iter().filter(|_| !pod.ports.is_empty());
            to.map(rule).collect::<Vec<_>>()
        };
        pods.iter().flat_map(of).collect()
    }

    /// A server in a pod that says `hello` and from where it was asked.
    fn serve(namespace: &OwnedFd) {
        let (listening, listener) = mpsc::channel();
        let listen = || {
            listening
                .send(TcpListener::bind("[::]:80").or_else(|_| TcpListener::bind("0.0.0.0:80")))
                .unwrap();
            Ok(())
        };
        namespace::within(namespace, listen).unwrap();
        let listener = listener.recv().unwrap().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let peer = stream.peer_addr().unwrap().ip().to_canonical();
                stream.write_all(format!("hello {peer}").as_bytes()).unwrap();
            }
        });
    }

    fn ask(address: &str) -> io::Result<String> {
        let address: SocketAddr = address.parse().unwrap();
        let mut stream = TcpStream::connect_timeout(&address, core::time::Duration::from_secs(5))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn pods_and_the_host_reach_each_other_and_ports_of_the_host_lead_to_pods() {
        on_a_host(|| {
            let bridge = bridge();
            let (web, other) = (pod(&bridge, 7, Some(8080)), pod(&bridge, 8, None));
            let (in_web, in_other) = (namespace::make().unwrap(), namespace::make().unwrap());
            let wanted = ports(&[web.clone(), other.clone()]);
            bridge.add(&web, "eth0", &in_web, &|| wanted.clone()).unwrap();
            bridge.add(&other, "eth0", &in_other, &|| wanted.clone()).unwrap();
            serve(&in_web);
            let from_host = ask("10.9.0.7:80").unwrap();
            assert_eq!(from_host, "hello 10.9.0.1");
            for by in ["10.9.0.1:8080", "127.0.0.1:8080"] {
                assert_eq!(ask(by).unwrap(), "hello 10.9.0.1", "{by}");
            }
            let from_pods = |namespace: &OwnedFd, address: &str, expected: &str| {
                let asked = || {
                    assert_eq!(ask(address).expect(address), expected);
                    Ok(())
                };
                namespace::within(namespace, asked).unwrap();
            };
            from_pods(&in_other, "10.9.0.7:80", "hello 10.9.0.8");
            // By the host and back, and a pod to itself.
            from_pods(&in_other, "10.9.0.1:8080", "hello 10.9.0.1");
            from_pods(&in_web, "10.9.0.1:8080", "hello 10.9.0.1");
            if web.addresses.len() > 1 {
                assert_eq!(ask("[fd09::7]:80").unwrap(), "hello fd09::1");
                assert_eq!(ask("[fd09::1]:8080").unwrap(), "hello fd09::1");
                from_pods(&in_other, "[fd09::7]:80", "hello fd09::8");
                from_pods(&in_other, "[fd09::1]:8080", "hello fd09::1");
            }
            bridge.remove(&web, &Vec::new).unwrap();
            assert!(ask("127.0.0.1:8080").is_err());
            assert_eq!(links::index(&web.link).unwrap(), None);
            bridge.remove(&web, &Vec::new).unwrap();
            drop(in_other);
        });
    }

    #[test]
    fn what_somebody_has_broken_is_made_good() {
        on_a_host(|| {
            let bridge = bridge();
            let web = pod(&bridge, 7, Some(8080));
            let namespace = namespace::make().unwrap();
            let wanted = ports(std::slice::from_ref(&web));
            let all = || wanted.clone();
            bridge.add(&web, "eth0", &namespace, &all).unwrap();
            let pods = [web.clone()];
            assert!(!bridge.restore(&pods, &all).unwrap(), "nothing was broken");
            serve(&namespace);

            nft::replace("roost-t", &[]).unwrap();
            assert!(bridge.restore(&pods, &all).unwrap());
            Links::open().unwrap().remove("roost-t").unwrap();
            bridge.restore(&pods, &all).unwrap();
            assert_eq!(ask("127.0.0.1:8080").unwrap(), "hello 10.9.0.1");

            // An agent that has just been started knows nothing of it.
            let next = Bridge::new(bridge.settings.clone(), web.subnets.clone());
            assert!(!next.restore(&pods, &all).unwrap());
            let other = PortRule { pod: "default/late".parse().unwrap(), ..wanted[0].clone() };
            assert!(next.restore(&pods, &|| vec![other.clone()]).unwrap());
            let heard = links::changes().unwrap();
            assert!(!next.restore(&pods, &|| vec![other.clone()]).unwrap());
            assert!(!is_readable(&heard), "looking changes nothing");
        });
    }

    fn is_readable(netlink: &super::super::netlink::Netlink) -> bool {
        use std::os::fd::AsRawFd as _;
        let mut byte = [0];
        let flags = nix::sys::socket::MsgFlags::MSG_DONTWAIT | nix::sys::socket::MsgFlags::MSG_PEEK;
        nix::sys::socket::recv(netlink.as_raw_fd(), &mut byte, flags).is_ok()
    }

    #[test]
    fn a_pod_that_never_came_to_be_is_undone_where_nothing_can_be_made() {
        on_a_host(|| {
            let bridge = bridge();
            let web = pod(&bridge, 7, Some(8080));
            bridge.remove(&web, &Vec::new).unwrap();
            assert_eq!(nft::read("roost-t").unwrap(), Vec::new());
        });
    }

    #[test]
    fn a_subnet_that_the_host_has_a_route_into_is_passed_over_or_refused() {
        on_a_host(|| {
            let links = Links::open().unwrap();
            links.make_bridge("lan", [2, 0, 0, 0, 0, 1]).unwrap();
            let index = links::index("lan").unwrap().unwrap();
            let lan = Subnet::around("10.0.0.0".parse().unwrap(), 8);
            links.add_address(index, "10.1.2.3".parse().unwrap(), &lan).unwrap();
            let name = "roost-t".to_owned();
            let chosen = Bridge::new(BridgeSettings { name, subnets: vec![] }, vec![]);
            assert_eq!(chosen.subnets().unwrap()[0].to_string(), "172.29.0.0/16");
            let error = bridge().subnets().unwrap_err().to_string();
            assert!(error.contains("routes into 10.9.0.0/24") && error.contains("agent.toml"));
        });
    }
}
