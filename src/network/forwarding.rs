//! Letting the host forward what comes from pods and goes to them, and nothing else because of it.
//!
//! What is forwarded is a matter of the interface that it comes in by. Where the host forwards by
//! the wish of somebody else (`net.ipv4.conf.all.forwarding`), nothing is left to do. Where it does
//! not, that switch stays as it is: each interface is told to forward by its own, and what was
//! opened like that is [`Opened`], so that rules keep it for pods (`network::rules`). If somebody
//! turns the switch on later, as Docker or libvirt do, the host is theirs to open, and those rules
//! go. IPv6 has switches of interfaces (`force_forwarding`) since Linux 6.17; before, the only one
//! is that for all, so all is opened and kept for pods.
//!
//! It is kept in a file, because nobody could tell later who has opened what. Blocks.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::bridge::BridgeError;
use super::links;
use super::rules::{OURS, Opened, Version};
use super::subnet::Subnet;
use super::sysctl::{self, get, set};
use crate::clock::BootId;
use crate::state::checkpoint::{Checkpoint, Format};

/// What the host forwards for pods alone, as it is kept: durable before it is opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ForwardingFile {
    pub(super) format: Format<1>,
    /// The boot in which it was opened.
    pub(super) boot: BootId,
    pub(super) opened: BTreeSet<Opened>,
}

impl Checkpoint for ForwardingFile {
    const FORMAT: u32 = 1;
}

const ON: Option<&str> = Some("1");
const ALL_V4: &str = "ipv4/conf/all/forwarding";
const ALL_V6: &str = "ipv6/conf/all/forwarding";

/// What is to be open for pods alone, of which `before` is already.
pub(super) fn wanted(
    bridge: &str,
    subnets: &[Subnet],
    before: &BTreeSet<Opened>,
) -> BTreeSet<Opened> {
    let mut all = BTreeSet::new();
    for version in versions(subnets) {
        let whole = Opened::All(version);
        if before.contains(&whole) {
            all.insert(whole);
        } else if get(switch_of_all(version)).as_deref() == ON {
            // Somebody else wants it.
        } else if has_switches(version) {
            for (_, index, is_on) in interfaces(bridge, version) {
                let opened = Opened::Interface(version, index);
                if !is_on || before.contains(&opened) {
                    all.insert(opened);
                }
            }
        } else {
            all.insert(whole);
        }
    }
    all
}

/// Opens that, and the bridge itself.
pub(super) fn open(
    bridge: &str,
    subnets: &[Subnet],
    opened: Option<&BTreeSet<Opened>>,
) -> Result<(), BridgeError> {
    let opened = |one: Opened| opened.is_some_and(|all| all.contains(&one));
    for version in versions(subnets) {
        if opened(Opened::All(version)) {
            go_on_hearing_routers(bridge)?;
            set(switch_of_all(version), "1")?;
        } else if has_switches(version) && get(switch_of_all(version)).as_deref() != ON {
            set(&switch(version, bridge), "1")?;
            for (name, index, is_on) in interfaces(bridge, version) {
                if !is_on && opened(Opened::Interface(version, index)) {
                    match set(&switch(version, &name), "1") {
                        // It is gone meanwhile.
                        Err(_) if get(&switch(version, &name)).is_none() => {}
                        done => done?,
                    }
                }
            }
        }
    }
    Ok(())
}

/// Who routes is no host any more, and hears no routers, unless told to by 2
/// (Documentation/networking/ip-sysctl.rst): the host must not lose its way out.
fn go_on_hearing_routers(bridge: &str) -> Result<(), BridgeError> {
    if get(ALL_V6).as_deref() == ON {
        return Ok(());
    }
    // Of interfaces that there are: what comes later is set by who makes it.
    let is_other = |name: &String| !["all", "default", bridge].contains(&name.as_str());
    for name in sysctl::interfaces("ipv6").into_iter().filter(is_other) {
        let setting = format!("ipv6/conf/{name}/accept_ra");
        if get(&setting).as_deref() == ON {
            set(&setting, "2")?;
        }
    }
    Ok(())
}

/// Interfaces of others by which packets for pods may come in: name, number, and whether what comes
/// in by it is forwarded.
fn interfaces(bridge: &str, version: Version) -> impl Iterator<Item = (String, u32, bool)> {
    let is_others = move |name: &String| {
        // Those of other agents on this host are theirs to open.
        !["all", "default", "lo", bridge].contains(&name.as_str()) && !name.starts_with(OURS)
    };
    let all: Vec<String> =
        sysctl::interfaces(directory(version)).into_iter().filter(is_others).collect();
    all.into_iter().filter_map(move |name| {
        let index = links::index(&name).ok()??;
        let is_on = get(&switch(version, &name))? == "1";
        Some((name, index, is_on))
    })
}

fn versions(subnets: &[Subnet]) -> impl Iterator<Item = Version> + '_ {
    subnets.iter().map(|it| if it.first().is_ipv4() { Version::V4 } else { Version::V6 })
}

fn directory(version: Version) -> &'static str {
    match version {
        Version::V4 => "ipv4",
        Version::V6 => "ipv6",
    }
}

fn switch_of_all(version: Version) -> &'static str {
    match version {
        Version::V4 => ALL_V4,
        Version::V6 => ALL_V6,
    }
}

/// Whether each interface has a switch.
fn has_switches(version: Version) -> bool {
    match version {
        Version::V4 => true,
        Version::V6 => get(&switch(version, "lo")).is_some(),
    }
}

/// The switch of an interface.
fn switch(version: Version, interface: &str) -> String {
    match version {
        Version::V4 => format!("ipv4/conf/{interface}/forwarding"),
        Version::V6 => format!("ipv6/conf/{interface}/force_forwarding"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{checkpoint, samples};

    #[test]
    fn the_golden_file_of_every_format_is_read_and_the_newest_is_written_as_ever() {
        let opened = [Opened::Interface(Version::V4, 2), Opened::All(Version::V6)];
        let boot = "a-boot".parse().unwrap();
        let file = ForwardingFile { format: Format, boot, opened: opened.into() };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fact.json");
        checkpoint::write(&path, &file).unwrap();
        let fresh = std::fs::read(&path).unwrap();
        let kept = samples::golden("v1/forwarding.json", &fresh);
        std::fs::write(&path, &kept).unwrap();
        assert_eq!(checkpoint::read::<ForwardingFile>(&path).unwrap(), Some(file));
        assert_eq!(String::from_utf8(fresh).unwrap(), String::from_utf8(kept).unwrap());
    }
}
