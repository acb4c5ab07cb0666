//! Which networks a pod is to be in, and with what: from what it asks for and what is configured.
//!
//! Not here: making that true (`network::keeper`). It reads files, and blocks.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::config::NetworkConfig;
use super::error::NetworkError;
use super::record::{Attachment, ByBridge, ByPlugins, Progress, Way};
use super::request::{self, Runtime};
use crate::manifest::pod::{PodSpec, WantedNetworks};

/// Most configuration files in a directory, and the longest.
const CONFIGS_MAX: usize = 256;
const CONFIG_LEN_MAX: u64 = 1 << 20;
/// Of files that are networks, single plugins, or lists.
const EXTENSIONS: [&str; 3] = ["conf", "conflist", "json"];
/// The name of the built-in network. A configuration of that name hides it.
pub const BUILT_IN: &str = "roost";

/// A network that there is.
enum Known {
    Plugins(NetworkConfig),
    BuiltIn,
}

impl Known {
    fn name(&self) -> &str {
        match self {
            Self::Plugins(network) => &network.name,
            Self::BuiltIn => BUILT_IN,
        }
    }
}

/// What a pod is to be attached to, in the order of its interfaces. Where it is the built-in
/// network, its link, subnets and addresses are still missing, but for those that it asks for.
///
/// # Errors
/// Why it can't be.
pub(super) fn wanted(
    spec: &PodSpec,
    directory: &Path,
    has_built_in: bool,
) -> Result<Vec<Attachment>, NetworkError> {
    if !spec.wants_network() {
        return Ok(Vec::new());
    }
    let configured = configured(directory)?;
    let networks = match &spec.network.networks {
        WantedNetworks::None => Vec::new(),
        WantedNetworks::Named(names) => named(names, configured, has_built_in, directory)?,
        WantedNetworks::Default => match configured.into_iter().next() {
            Some(first) => vec![Known::Plugins(first?)],
            None if has_built_in => vec![Known::BuiltIn],
            None => {
                let has_ports = !request::port_mappings(spec).is_empty();
                let what = match (has_ports, spec.network.is_plain()) {
                    (false, true) => return Ok(Vec::new()),
                    (true, _) => "a port of the host",
                    (false, false) => "an address or a bandwidth",
                };
                return Err(NetworkError::NoNetwork { what, directory: directory.to_owned() });
            }
        },
    };
    // Ports, addresses and limits are asked of the first network, which has the way out.
    let mut runtime = Some(Runtime::of(spec));
    let attachment = |(index, network): (usize, Known)| {
        let runtime = runtime.take().unwrap_or_default();
        let way = way(network, runtime)?;
        Ok(Attachment { interface: format!("eth{index}"), progress: Progress::Begun, way })
    };
    networks.into_iter().enumerate().map(attachment).collect()
}

fn named(
    names: &[String],
    configured: Vec<Read>,
    has_built_in: bool,
    directory: &Path,
) -> Result<Vec<Known>, NetworkError> {
    let mut faulty = String::new();
    let mut known = Vec::new();
    for network in configured {
        match network {
            Ok(network) => known.push(Known::Plugins(network)),
            // It may be the one.
            Err(error) => faulty.push_str(&format!("; {error}")),
        }
    }
    known.extend(has_built_in.then_some(Known::BuiltIn));
    let find = |name: &String| {
        if let Some(at) = known.iter().position(|network| network.name() == name) {
            return Ok(known.remove(at));
        }
        let names: Vec<&str> = known.iter().map(Known::name).collect();
        let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let (name, directory, faulty) = (name.clone(), directory.to_owned(), faulty.clone());
        Err(NetworkError::Unknown { name, directory, known, faulty })
    };
    names.iter().map(find).collect()
}

fn way(network: Known, runtime: Runtime) -> Result<Way, NetworkError> {
    let lacking = match &network {
        Known::Plugins(network) => runtime.lacking(network),
        Known::BuiltIn => runtime.bandwidth.iter().map(|_| "bandwidth").collect(),
    };
    if !lacking.is_empty() {
        return Err(NetworkError::Lacking { network: network.name().to_owned(), lacking });
    }
    Ok(match network {
        Known::Plugins(network) => Way::Plugins(ByPlugins { network, runtime, result: None }),
        Known::BuiltIn => {
            let Runtime { ports, bandwidth: _, ips, mac, dns: _ } = runtime;
            let addresses = ips.iter().filter_map(|ip| ip.parse().ok()).collect();
            let (link, subnets) = Default::default();
            Way::Bridge(ByBridge { link, subnets, addresses, mac, ports })
        }
    })
}

/// A configuration, or what is wrong with it.
pub(super) type Read = Result<NetworkConfig, NetworkError>;

/// The configurations in a directory, in lexical order; what is wrong with one is said in its
/// place. A directory that is not there has none.
pub(super) fn configured(directory: &Path) -> Result<Vec<Read>, NetworkError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| NetworkError::Configs { path, source }
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(directory)(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed(directory))?.path();
        let extension = path.extension().and_then(|it| it.to_str()).unwrap_or_default();
        if EXTENSIONS.contains(&extension) && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    paths.truncate(CONFIGS_MAX);
    let read = |path: &PathBuf| {
        let is_long = fs::metadata(path).is_ok_and(|it| it.len() > CONFIG_LEN_MAX);
        let faulty = |why: String| NetworkError::Faulty { path: path.clone(), why };
        if is_long {
            return Err(faulty(format!("it is longer than {CONFIG_LEN_MAX} bytes")));
        }
        let text = fs::read_to_string(path).map_err(failed(path))?;
        NetworkConfig::parse(&text).map_err(|fault| faulty(fault.to_string()))
    };
    Ok(paths.iter().map(read).collect())
}
