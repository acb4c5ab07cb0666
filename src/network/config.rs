//! [`NetworkConfig`]: a network configuration list of CNI, parsed. PURE.
//!
//! By the specification, versions 0.3.0 to 1.1.0, section 1. Not here: where files lie
//! (`network::keeper`).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Versions of CNI that are spoken, oldest first.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The version of a configuration that names none, by the specification 0.1.0 – which nobody
/// speaks any more; the oldest that is spoken has the same form of requests.
const VERSION_OF_THE_SILENT: &str = "0.3.0";
/// Most plugins of one list.
pub const PLUGINS_MAX: usize = 32;
/// Longest name of a network.
const NAME_LEN_MAX: usize = 128;

/// A network: plugins that are run one after the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// Its name, unique on the node.
    pub name: String,
    /// The version of CNI that its plugins are spoken to in.
    pub version: String,
    /// Whether its plugins are not to be asked to GC.
    pub disable_gc: bool,
    /// Whether they are not to be asked to CHECK.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub disable_check: bool,
    /// The configuration of each plugin, as written.
    pub plugins: Vec<Map<String, Value>>,
}

/// Why a configuration can't be used; in words, without the name of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigFault(String);

fn fault(text: impl Into<String>) -> ConfigFault {
    ConfigFault(text.into())
}

impl NetworkConfig {
    /// Parses a list of plugins (`*.conflist`), or the configuration of a single plugin (`*.conf`,
    /// `*.json`). Which it is, is told by its content.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, ConfigFault> {
        let value: Value =
            serde_json::from_str(text).map_err(|e| fault(format!("no JSON: {e}")))?;
        let Value::Object(object) = value else { return Err(fault("it is no JSON object")) };
        let name = text_of(&object, "name")?.ok_or_else(|| fault("`name` is missing"))?.to_owned();
        if !is_name(&name) {
            let help = "letters, digits, `_`, `.` and `-`, a letter or digit first";
            return Err(fault(format!("`name` is {name:?}; it must be of {help}")));
        }
        let version = version(&object)?;
        let config = match object.get("plugins") {
            None => {
                let plugins = vec![object];
                Self { name, version, disable_gc: false, disable_check: false, plugins }
            }
            Some(Value::Array(items)) => {
                let plugins: Option<Vec<_>> =
                    items.iter().map(|it| it.as_object().cloned()).collect();
                let plugins =
                    plugins.ok_or_else(|| fault("`plugins` must be a list of objects"))?;
                let disable_gc = flag(&object, "disableGC")?;
                let disable_check = flag(&object, "disableCheck")?;
                Self { name, version, disable_gc, disable_check, plugins }
            }
            Some(_) => return Err(fault("`plugins` must be a list")),
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigFault> {
        if self.plugins.is_empty() {
            return Err(fault("`plugins` is empty"));
        }
        if self.plugins.len() > PLUGINS_MAX {
            let count = self.plugins.len();
            return Err(fault(format!("it has {count} plugins; {PLUGINS_MAX} are the most")));
        }
        for plugin in &self.plugins {
            let kind = text_of(plugin, "type")?.ok_or_else(|| fault("a plugin has no `type`"))?;
            // It becomes the name of a program in the directories of plugins.
            if kind.is_empty() || kind.contains('/') || kind == ".." || kind.contains('\0') {
                return Err(fault(format!("`type` is {kind:?}; it must be the name of a program")));
            }
        }
        Ok(())
    }

    /// What can be asked of its plugins together (`capabilities`).
    #[must_use]
    pub fn capabilities(&self) -> BTreeSet<&str> {
        self.plugins.iter().flat_map(capabilities).collect()
    }

    /// Whether its version has a command: CHECK came with 0.4.0, GC and STATUS with 1.1.0.
    #[must_use]
    pub fn is_at_least(&self, version: &str) -> bool {
        let place = |of: &str| VERSIONS.iter().position(|known| *known == of);
        place(&self.version) >= place(version)
    }
}

/// The program of a plugin.
#[must_use]
pub fn kind(plugin: &Map<String, Value>) -> &str {
    plugin.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// What a plugin can be asked for.
pub fn capabilities(plugin: &Map<String, Value>) -> impl Iterator<Item = &str> {
    let all = plugin.get("capabilities").and_then(Value::as_object).into_iter().flatten();
    all.filter(|(_, is_there)| **is_there == Value::Bool(true)).map(|(name, _)| name.as_str())
}

/// Whether a text may name a network, a container or an interface (specification, section 2).
#[must_use]
pub fn is_name(text: &str) -> bool {
    let first = text.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    first && text.len() <= NAME_LEN_MAX && text.chars().all(known)
}

/// The newest version that both sides speak.
fn version(object: &Map<String, Value>) -> Result<String, ConfigFault> {
    let one = text_of(object, "cniVersion")?.unwrap_or(VERSION_OF_THE_SILENT);
    let several = match object.get("cniVersions") {
        None => Vec::new(),
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect(),
        Some(_) => return Err(fault("`cniVersions` must be a list of texts")),
    };
    let offered = |known: &&&str| **known == one || several.contains(known);
    let newest = VERSIONS.iter().rev().find(offered);
    newest.map(|version| (*version).to_owned()).ok_or_else(|| {
        let known = VERSIONS.join(", ");
        fault(format!("`cniVersion` {one} is not known; known are {known}"))
    })
}

fn text_of<'a>(object: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>, ConfigFault> {
    match object.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(fault(format!("`{key}` must be a text"))),
    }
}

/// A flag, which some write as a text.
fn flag(object: &Map<String, Value>, key: &str) -> Result<bool, ConfigFault> {
    match object.get(key) {
        None => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(Value::String(text)) if text == "true" || text == "false" => Ok(text == "true"),
        Some(_) => Err(fault(format!("`{key}` must be true or false"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn is_refused(text: &str, why: &str) {
        let error = NetworkConfig::parse(text).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }

    #[test]
    fn a_list_and_a_single_plugin_are_the_same_kind_of_network() {
        let list = r#"{"cniVersion": "1.0.0", "name": "n", "plugins": [
            {"type": "bridge"},
            {"type": "portmap", "capabilities": {"portMappings": true, "dns": false}}]}"#;
        let list = NetworkConfig::parse(list).unwrap();
        assert_eq!(list.plugins.iter().map(kind).collect::<Vec<_>>(), ["bridge", "portmap"]);
        assert_eq!(list.capabilities(), BTreeSet::from(["portMappings"]));
        let single = r#"{"cniVersion": "0.4.0", "name": "n", "type": "ptp", "mtu": 1400}"#;
        let single = NetworkConfig::parse(single).unwrap();
        assert_eq!((single.version.as_str(), kind(&single.plugins[0])), ("0.4.0", "ptp"));
    }

    #[test]
    fn the_newest_version_that_both_sides_speak_is_taken() {
        let text = r#"{"cniVersion": "0.4.0", "cniVersions": ["0.3.1", "1.1.0", "2.7.0"],
            "name": "n", "plugins": [{"type": "x"}]}"#;
        let config = NetworkConfig::parse(text).unwrap();
        assert_eq!(config.version, "1.1.0");
        assert!(config.is_at_least("0.4.0") && config.is_at_least("1.1.0"));
        let old = NetworkConfig { version: "0.3.1".to_owned(), ..config };
        assert!(!old.is_at_least("0.4.0"));
    }

    #[test]
    fn what_cannot_be_a_network_is_refused_with_the_reason() {
        is_refused("{", "no JSON");
        is_refused("[]", "no JSON object");
        is_refused(r#"{"type": "x"}"#, "`name` is missing");
        is_refused(r#"{"name": "../x", "type": "x"}"#, "`name` is");
        is_refused(r#"{"name": "n"}"#, "no `type`");
        is_refused(r#"{"name": "n", "type": "../../bin/sh"}"#, "name of a program");
        is_refused(r#"{"name": "n", "plugins": []}"#, "empty");
        is_refused(r#"{"name": "n", "plugins": {}}"#, "a list");
        is_refused(r#"{"name": "n", "cniVersion": "9.9.9", "type": "x"}"#, "9.9.9");
    }
}
