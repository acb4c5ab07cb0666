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

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::forwarding::{self, ForwardingFile};
use super::links::{self, Link, Links, Mac, Pair};
use super::namespace;
use super::nft;
use super::record::ByBridge;
use super::rules::{Opened, PortRule, Rule, Wanted, rules};
use super::subnet::Subnet;
use super::sysctl::{self, set};
use crate::clock::BootId;
use crate::state::checkpoint::{self, CheckpointError, Format};

/// Subnets that are tried where none is configured: the first that leads nowhere else is taken.
const SUBNETS_V4: [&str; 4] =
    ["10.213.0.0/16", "172.29.0.0/16", "192.168.213.0/24", "100.120.0.0/16"];
/// The same for IPv6: it is of no use to anybody elsewhere, so it is the same on all nodes.
const SUBNETS_V6: [&str; 2] = ["fd52:6f6f:7374::/64", "fd52:6f6f:7375::/64"];
/// Longest word about an interface (`IFALIASZ` of linux/if.h, with its null).
const ALIAS_LEN_MAX: usize = 255;
/// A pod's interface in the first of its networks.
const FIRST_INTERFACE: &str = "eth0";
/// What the kernel says of a bridge.
const KIND: &str = "bridge";

/// What the built-in network is to be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeSettings {
    /// The name of its interface, and of its table of rules.
    pub name: String,
    /// Its subnets, at most one of each version of IP; without any they are chosen.
    pub subnets: Vec<Subnet>,
    /// The file in which it is kept what the host forwards for it. The bridge is known by its
    /// directory.
    pub forwarding: PathBuf,
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
    /// There is another interface of that name.
    #[error(
        "the interface `{name}` is there, and is not the bridge of this agent ({what}); name another \
         one by `bridge` of `[network]` in agent.toml, or remove it: `ip link delete {name}`"
    )]
    Foreign {
        /// Its name.
        name: String,
        /// What it is.
        what: String,
    },
    /// What the host forwards for it can't be kept.
    #[error("can't keep what the host forwards for the pods' network")]
    Forwarding(#[source] CheckpointError),
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
    boot: BootId,
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
    /// What the host forwards for it; none if that was not looked at yet.
    opened: Option<BTreeSet<Opened>>,
}

impl Bridge {
    /// `subnets` are those that pods are in already. As long as there are any, they stay in the
    /// bridge that they are in, whatever is configured since; one that nobody is in is removed.
    pub(super) fn new(settings: BridgeSettings, boot: BootId, subnets: &[Subnet]) -> Self {
        let known = Mutex::new(Known { subnets: subnets.to_vec(), ..Known::default() });
        let mut bridge = Self { settings, boot, known };
        match bridge.in_use(!subnets.is_empty()) {
            Ok(Some(name)) => {
                let wanted = &bridge.settings;
                let differs = |subnet: &Subnet| !subnets.is_empty() && !subnets.contains(subnet);
                if wanted.name != name || wanted.subnets.iter().any(differs) {
                    let (configured, subnets) = (&wanted.name, join(subnets));
                    tracing::warn!(
                        bridge = name,
                        subnets,
                        configured,
                        "pods are in the network as it was configured before: what is configured \
                         now counts when all of them are gone and the agent is started again"
                    );
                }
                bridge.settings.name = name;
            }
            Ok(None) => {}
            Err(error) => {
                let error = crate::errors::chain(&error);
                tracing::warn!(error, "can't find out what is left of the pods' network");
            }
        }
        bridge
    }

    /// The name of our bridge, if there is one that something is in.
    fn in_use(&self, has_pods: bool) -> Result<Option<String>, BridgeError> {
        let links = Links::open().map_err(BridgeError::Ask)?;
        let all = links.all().map_err(BridgeError::Ask)?;
        let alias = self.alias();
        let is_ours = |link: &&Link| link.kind == KIND && link.alias == alias;
        let Some(Link { name, index, .. }) = all.iter().find(is_ours) else { return Ok(None) };
        if has_pods || all.iter().any(|link| link.bridge == Some(*index)) {
            return Ok(Some(name.clone()));
        }
        nft::remove(name).map_err(BridgeError::Rules)?;
        let failed = |source| BridgeError::Remove { link: name.clone(), source };
        links.remove(name).map_err(failed)?;
        Ok(None)
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
        let has_v6 = sysctl::has_ipv6();
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
            let index = links::index(self.name()).map_err(BridgeError::Ask)?;
            match index.filter(|index| known.bridge == Some(*index)) {
                Some(index) => {
                    self.set_rules(&mut known, ports)?;
                    index
                }
                None => self.make(&links, &mut known, ports)?.0,
            }
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
            sysctl::hear_no_routers(interface).map_err(io::Error::other)?;
            if subnets.iter().any(|subnet| subnet.first().is_ipv6()) {
                sysctl::have_ipv6(interface).map_err(io::Error::other)?;
            }
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
        let mut unruled = Ok(());
        if !pod.ports.is_empty() {
            let mut known = self.lock();
            // Where there can't be rules, there are none of this pod.
            let has_rules = || nft::is_there(self.name()).unwrap_or(false);
            if known.rules.is_some() || has_rules() {
                unruled = self.set_rules(&mut known, ports);
            }
        }
        let link = pod.link.clone();
        let removed = match links::index(&link) {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Links::open().and_then(|links| links.remove(&link)),
            Err(error) => Err(error),
        };
        removed.map_err(|source| BridgeError::Remove { link, source })?;
        unruled
    }

    /// Makes good what an agent before, or somebody else, has left of it; whether anything was
    /// otherwise. `pods` are those that are in it.
    pub(super) fn restore(&self, pods: &[ByBridge], ports: Ports<'_>) -> Result<bool, BridgeError> {
        let links = Links::open().map_err(BridgeError::Ask)?;
        let mut known = self.lock();
        let (bridge, made_good) = self.make(&links, &mut known, ports)?;
        // Only where it is otherwise: who waits for changes would be woken by this.
        let there = links.all().map_err(BridgeError::Ask)?;
        let is_in = |pod: &ByBridge| {
            there.iter().any(|link| link.name == pod.link && link.bridge == Some(bridge))
        };
        for pod in pods.iter().filter(|pod| !is_in(pod)) {
            let put = links.put_into(&pod.link, bridge);
            let turn = || if pod.ports.is_empty() { Ok(()) } else { links.let_turn(&pod.link) };
            put.and_then(|()| turn()).map_err(BridgeError::Pair)?;
        }
        Ok(made_good)
    }

    /// Makes the bridge and all that belongs to it, or makes it good; its number, and whether rules
    /// were otherwise than they should be.
    ///
    /// Nothing is let through before the rules are there that say what may pass.
    fn make(
        &self,
        links: &Links,
        known: &mut Known,
        ports: Ports<'_>,
    ) -> Result<(u32, bool), BridgeError> {
        if known.subnets.is_empty() {
            known.subnets = self.choose()?;
        }
        let bridge = self.make_bridge(links, &known.subnets)?;
        self.open(known)?;
        let wanted = self.rules(known, ports);
        let is_right = nft::is_like(self.name(), &wanted).map_err(BridgeError::Rules)?;
        if !is_right {
            known.rules = None;
            nft::replace(self.name(), &wanted).map_err(BridgeError::Rules)?;
        }
        known.rules = Some(wanted);
        self.set_kernel(known)?;
        known.bridge = Some(bridge);
        Ok((bridge, !is_right))
    }

    /// Makes the interface, if it is not there or not as it should be; its number.
    fn make_bridge(&self, links: &Links, subnets: &[Subnet]) -> Result<u32, BridgeError> {
        let name = self.name();
        let failed = |source| BridgeError::Bridge { name: name.to_owned(), source };
        let gateways: Vec<IpAddr> = subnets.iter().map(Subnet::gateway).collect();
        let mac = mac_of(&gateways);
        let find = || {
            let all = links.all().map_err(failed)?;
            Ok(all.into_iter().find(|link| link.name == name))
        };
        let link = match find()? {
            Some(link) => link,
            None => {
                links.make_bridge(name, mac).map_err(failed)?;
                find()?.ok_or(io::ErrorKind::NotFound.into()).map_err(failed)?
            }
        };
        let index = link.index;
        let alias = self.alias();
        // Its mark is set after it is made. An agent that was killed in between knows it by its
        // address, which is made of its subnet's.
        let is_ours = link.alias == alias || (link.alias.is_empty() && link.mac == mac);
        if link.kind != KIND || !is_ours {
            return Err(BridgeError::Foreign { name: name.to_owned(), what: what(&link) });
        }
        if link.alias != alias {
            links.set_alias(index, &alias).map_err(failed)?;
        }
        if subnets.iter().any(|subnet| subnet.first().is_ipv6()) {
            sysctl::have_ipv6(name)?;
        }
        if !link.is_up {
            links.bring_up(index).map_err(failed)?;
        }
        let there = links.addresses_of(index).map_err(failed)?;
        for (gateway, subnet) in gateways.into_iter().zip(subnets) {
            if !there.contains(&(gateway, subnet.length())) {
                links.add_address(index, gateway, subnet).map_err(failed)?;
            }
        }
        Ok(index)
    }

    /// What our bridge says of itself.
    fn alias(&self) -> String {
        let of = self.settings.forwarding.parent().unwrap_or(Path::new("/"));
        let of = fs::canonicalize(of).unwrap_or_else(|_| of.to_owned());
        let mut alias = format!("roost: pods of {}", of.display());
        while alias.len() > ALIAS_LEN_MAX {
            alias.pop();
        }
        alias
    }

    /// Finds out what must be forwarded that is not yet, and keeps it: durable before it is done.
    fn open(&self, known: &mut Known) -> Result<(), BridgeError> {
        let path = &self.settings.forwarding;
        let before = match known.opened.take() {
            Some(opened) => opened,
            None => match checkpoint::read::<ForwardingFile>(path) {
                Ok(file) => {
                    let of_boot = file.filter(|file| file.boot == self.boot);
                    of_boot.map(|file| file.opened).unwrap_or_default()
                }
                // What is not known to have been opened is taken for what others have opened.
                Err(error) => {
                    let error = crate::errors::chain(&error);
                    tracing::warn!(error, "it is not known what the host forwards for pods alone");
                    BTreeSet::new()
                }
            },
        };
        let opened = forwarding::wanted(self.name(), &known.subnets, &before);
        if opened != before {
            let (boot, opened) = (self.boot.clone(), opened.clone());
            let file = ForwardingFile { format: Format, boot, opened };
            checkpoint::write(path, &file).map_err(BridgeError::Forwarding)?;
        }
        known.opened = Some(opened);
        Ok(())
    }

    /// Lets the kernel route what comes from pods and goes to them.
    fn set_kernel(&self, known: &Known) -> Result<(), BridgeError> {
        let name = self.name();
        // No pod is a router of the host (CVE-2020-10749).
        sysctl::hear_no_routers(name)?;
        if known.subnets.iter().any(|subnet| subnet.first().is_ipv4()) {
            // Ports of the host lead to pods also by 127.0.0.1: see `rules::Place::Guard`.
            set(&format!("ipv4/conf/{name}/route_localnet"), "1")?;
        }
        forwarding::open(name, &known.subnets, known.opened.as_ref())
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
        let opened = known.opened.clone().unwrap_or_default();
        rules(&Wanted { bridge, subnets, ports: ports(), opened })
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an interface is that is not ours, in words.
fn what(link: &Link) -> String {
    let kind = if link.kind.is_empty() { "device" } else { &link.kind };
    if link.alias.is_empty() {
        format!("a {kind} without an alias")
    } else {
        format!("a {kind} with the alias `{}`", link.alias)
    }
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
mod tests;
