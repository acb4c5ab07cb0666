//! Settings of the kernel about networks (`/proc/sys/net`), in the network namespace of the calling
//! thread. Blocks.
//!
//! Not here: which are set, and why (`network::bridge`, `network::forwarding`).

use std::fs;
use std::path::{Path, PathBuf};

use super::bridge::BridgeError;

/// Where they are.
const SETTINGS: &str = "/proc/sys/net";

/// What a setting is; none if there is no such one.
pub(super) fn get(setting: &str) -> Option<String> {
    let text = fs::read_to_string(path(setting)).ok()?;
    Some(text.trim().to_owned())
}

/// Sets a setting, if it is not like that: it may be read-only.
pub(super) fn set(setting: &str, value: &str) -> Result<(), BridgeError> {
    if get(setting).as_deref() == Some(value) {
        return Ok(());
    }
    let path = path(setting);
    fs::write(&path, value).map_err(|source| BridgeError::Setting {
        setting: path.display().to_string(),
        value: value.to_owned(),
        source,
    })
}

/// What has settings of its own for a version of IP (`ipv4` or `ipv6`): interfaces, `all` and
/// `default`.
pub(super) fn interfaces(version: &str) -> Vec<String> {
    let entries = fs::read_dir(path(&format!("{version}/conf"))).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Whether the host has IPv6, and it is not turned off.
pub(super) fn has_ipv6() -> bool {
    get("ipv6/conf/all/disable_ipv6").as_deref() == Some("0")
}

/// Lets an interface have addresses of IPv6, whatever the host has for new ones.
pub(super) fn have_ipv6(interface: &str) -> Result<(), BridgeError> {
    set(&format!("ipv6/conf/{interface}/disable_ipv6"), "0")
}

/// Takes no routes from what is heard on an interface, where there is IPv6.
pub(super) fn hear_no_routers(interface: &str) -> Result<(), BridgeError> {
    let setting = format!("ipv6/conf/{interface}/accept_ra");
    if get(&setting).is_some() { set(&setting, "0") } else { Ok(()) }
}

fn path(setting: &str) -> PathBuf {
    Path::new(SETTINGS).join(setting)
}
