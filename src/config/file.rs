//! [`parse`]: the text of `agent.toml` as a [`Layer`], or every fault in it with its place.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Layer, LogFormat, PressureLayer, values};
use crate::manifest::closest;
use crate::network::subnet::Subnet;

/// Most faults that are told.
const FAULTS_MAX: usize = 100;

/// The keys at the top.
pub(super) const KEYS: &[&str] = &[
    "pods",
    "root",
    "relist",
    "executor",
    "cgroup",
    "listen",
    "log",
    "log-format",
    "labels",
    "allowed-sysctls",
    "allowed-host-paths",
    "max-pods",
    "strict",
    "reserve",
    "logs",
    "images",
    "pressure",
    "network",
];
/// The keys of the table `reserve`.
pub(super) const RESERVE_KEYS: &[&str] = &["cpu", "memory"];
/// The keys of the table `logs`.
pub(super) const LOGS_KEYS: &[&str] = &["file-bytes", "files", "node-bytes"];

/// The keys of the table `network`.
pub(super) const NETWORK_KEYS: &[&str] = &["configs", "plugins", "built-in", "bridge", "subnets"];

/// The keys of the table `images`.
pub(super) const IMAGES_KEYS: &[&str] =
    &["directories", "auth-files", "hosts-dirs", "gc-high-percent", "gc-low-percent", "gc-min-age"];

/// The keys of the table `pressure`.
pub(super) const PRESSURE_KEYS: &[&str] =
    &["memory-available", "disk-available", "inodes-free", "transition", "measure-every"];

type Value<'t> = Spanned<DeValue<'t>>;

/// What the file says.
pub(super) fn parse(path: &Path, text: &str) -> Result<Layer, Vec<String>> {
    let mut reader = Reader { faults: Vec::new() };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        reader.fault(error.span().unwrap_or(0..0), error.message().to_owned());
    }
    let mut layer = Layer::default();
    if errors.is_empty() {
        reader.top(table.get_ref(), &mut layer);
    }
    if reader.faults.is_empty() {
        return Ok(layer);
    }
    reader.faults.sort_by_key(|(at, _)| *at);
    reader.faults.truncate(FAULTS_MAX);
    let place = |(at, message): &(usize, String)| {
        let (line, column) = position(text, *at);
        format!("{}:{line}:{column}: {message}", path.display())
    };
    Err(reader.faults.iter().map(place).collect())
}

/// Line and column, counted from 1, columns in characters.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

struct Reader {
    faults: Vec<(usize, String)>,
}

impl Reader {
    fn fault(&mut self, at: Range<usize>, message: String) {
        self.faults.push((at.start, message));
    }

    fn top(&mut self, table: &DeTable<'_>, layer: &mut Layer) {
        for (key, value) in table {
            let name: &str = key.get_ref();
            match name {
                "pods" => layer.pods = self.paths(name, value),
                "root" => layer.root = self.path(name, value),
                "relist" => layer.relist = self.text(name, value, values::relist),
                "executor" => layer.executor = self.path(name, value),
                "cgroup" => layer.cgroup = self.text(name, value, values::cgroup),
                "listen" => self.listen(value),
                "log" => layer.log = self.text(name, value, |text| Ok(text.to_owned())),
                "log-format" => layer.log_format = self.text(name, value, log_format),
                "labels" => layer.labels = self.labels(value),
                "allowed-sysctls" => layer.allowed_sysctls = self.sysctls(name, value),
                "allowed-host-paths" => layer.allowed_host_paths = self.host_paths(name, value),
                "max-pods" => layer.max_pods = self.scalar(name, value, values::max_pods),
                "strict" => layer.strict = self.boolean(name, value),
                "reserve" => self.reserve(value, layer),
                "logs" => self.logs(value, layer),
                "images" => self.images(value, layer),
                "pressure" => self.pressure(value, &mut layer.pressure),
                "network" => self.network(value, layer),
                _ => self.unknown(key, "", KEYS),
            }
        }
    }

    fn reserve(&mut self, value: &Value<'_>, layer: &mut Layer) {
        for (key, value) in self.table("reserve", value).into_iter().flatten() {
            match &**key.get_ref() {
                "cpu" => layer.reserve_cpu = self.scalar("reserve.cpu", value, values::cpu),
                "memory" => {
                    layer.reserve_memory = self.scalar("reserve.memory", value, values::bytes);
                }
                _ => self.unknown(key, "reserve.", RESERVE_KEYS),
            }
        }
    }

    fn logs(&mut self, value: &Value<'_>, layer: &mut Layer) {
        for (key, value) in self.table("logs", value).into_iter().flatten() {
            match &**key.get_ref() {
                "file-bytes" => {
                    let found = self.scalar("logs.file-bytes", value, values::log_file_bytes);
                    layer.log_file_bytes = found;
                }
                "files" => layer.log_files = self.scalar("logs.files", value, values::log_files),
                "node-bytes" => {
                    let found = self.scalar("logs.node-bytes", value, values::log_node_bytes);
                    layer.log_node_bytes = found;
                }
                _ => self.unknown(key, "logs.", LOGS_KEYS),
            }
        }
    }

    fn images(&mut self, value: &Value<'_>, layer: &mut Layer) {
        for (key, value) in self.table("images", value).into_iter().flatten() {
            let name: &str = key.get_ref();
            let full = format!("images.{name}");
            match name {
                "directories" => layer.image_directories = self.list(&full, value),
                "auth-files" => layer.image_auth_files = self.list(&full, value),
                "hosts-dirs" => layer.image_hosts_dirs = self.list(&full, value),
                "gc-high-percent" => {
                    layer.image_gc_high_percent = self.scalar(&full, value, values::percent);
                }
                "gc-low-percent" => {
                    layer.image_gc_low_percent = self.scalar(&full, value, values::percent);
                }
                "gc-min-age" => layer.image_gc_min_age = self.text(&full, value, values::span),
                _ => self.unknown(key, "images.", IMAGES_KEYS),
            }
        }
    }

    fn pressure(&mut self, value: &Value<'_>, layer: &mut PressureLayer) {
        for (key, value) in self.table("pressure", value).into_iter().flatten() {
            let name: &str = key.get_ref();
            let full = format!("pressure.{name}");
            match name {
                "memory-available" => {
                    layer.memory = self.scalar(&full, value, values::threshold);
                }
                "disk-available" => layer.disk = self.scalar(&full, value, values::threshold),
                "inodes-free" => layer.inodes = self.scalar(&full, value, values::threshold),
                "transition" => layer.transition = self.text(&full, value, values::span),
                "measure-every" => layer.measure = self.text(&full, value, values::measure_every),
                _ => self.unknown(key, "pressure.", PRESSURE_KEYS),
            }
        }
    }

    fn network(&mut self, value: &Value<'_>, layer: &mut Layer) {
        for (key, value) in self.table("network", value).into_iter().flatten() {
            match &**key.get_ref() {
                "configs" => layer.network_configs = self.path("network.configs", value),
                "plugins" => layer.network_plugins = self.list("network.plugins", value),
                "built-in" => layer.network_built_in = self.boolean("network.built-in", value),
                "bridge" => {
                    layer.network_bridge = self.text("network.bridge", value, values::interface);
                }
                "subnets" => layer.network_subnets = self.subnets("network.subnets", value),
                _ => self.unknown(key, "network.", NETWORK_KEYS),
            }
        }
    }

    /// Any number of subnets.
    fn subnets(&mut self, name: &str, value: &Value<'_>) -> Option<Vec<Subnet>> {
        let Some(items) = value.get_ref().as_array() else {
            let found = shown(value.get_ref());
            let text = format!("`{name}` must be a list such as [\"10.213.0.0/16\"], not {found}");
            self.fault(value.span(), text);
            return None;
        };
        Some(items.iter().filter_map(|item| self.text(name, item, values::subnet)).collect())
    }

    fn labels(&mut self, value: &Value<'_>) -> Option<BTreeMap<String, String>> {
        let mut labels = BTreeMap::new();
        for (key, value) in self.table("labels", value)? {
            let name: &str = key.get_ref();
            let check = |text: &str| values::check_label(name, text).map(|()| text.to_owned());
            if let Some(text) = self.text(&format!("labels.{name:?}"), value, check) {
                labels.insert(name.to_owned(), text);
            }
        }
        if let Err(fault) = values::check_labels(&labels) {
            self.fault(value.span(), format!("`labels` {fault}"));
        }
        Some(labels)
    }

    /// Any number of names.
    fn sysctls(&mut self, name: &str, value: &Value<'_>) -> Option<Vec<String>> {
        let Some(items) = value.get_ref().as_array() else {
            let found = shown(value.get_ref());
            let text = format!("`{name}` must be a list such as [\"net.core.*\"], not {found}");
            self.fault(value.span(), text);
            return None;
        };
        Some(items.iter().filter_map(|item| self.text(name, item, values::sysctl)).collect())
    }

    fn host_paths(&mut self, name: &str, value: &Value<'_>) -> Option<Vec<PathBuf>> {
        let Some(items) = value.get_ref().as_array() else {
            let found = shown(value.get_ref());
            let text = format!("`{name}` must be a list such as [\"/srv\"], not {found}");
            self.fault(value.span(), text);
            return None;
        };
        Some(items.iter().filter_map(|item| self.text(name, item, values::host_path)).collect())
    }

    fn listen(&mut self, value: &Value<'_>) {
        if value.get_ref().as_array().is_none_or(|addresses| !addresses.is_empty()) {
            let fault = values::listen("").err().unwrap_or_default();
            self.fault(value.span(), format!("`listen` {fault}"));
        }
    }

    fn paths(&mut self, name: &str, value: &Value<'_>) -> Vec<PathBuf> {
        let Some(paths) = self.list(name, value) else { return Vec::new() };
        if value.get_ref().as_array().is_some_and(|items| items.is_empty()) {
            self.fault(value.span(), format!("`{name}` must have at least one directory"));
        }
        paths
    }

    /// Any number of paths.
    fn list(&mut self, name: &str, value: &Value<'_>) -> Option<Vec<PathBuf>> {
        let Some(items) = value.get_ref().as_array() else {
            let found = shown(value.get_ref());
            let text =
                format!("`{name}` must be a list such as [\"/etc/roost/pods.d\"], not {found}");
            self.fault(value.span(), text);
            return None;
        };
        Some(items.iter().filter_map(|item| self.path(name, item)).collect())
    }

    fn path(&mut self, name: &str, value: &Value<'_>) -> Option<PathBuf> {
        self.text(name, value, |text| {
            if text.is_empty() || text.contains('\0') {
                return Err("must be a path".to_owned());
            }
            Ok(PathBuf::from(text))
        })
    }

    fn boolean(&mut self, name: &str, value: &Value<'_>) -> Option<bool> {
        let found = value.get_ref().as_bool();
        if found.is_none() {
            let text = format!("`{name}` must be true or false, not {}", shown(value.get_ref()));
            self.fault(value.span(), text);
        }
        found
    }

    /// A text in quotes.
    fn text<T>(
        &mut self,
        name: &str,
        value: &Value<'_>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let Some(text) = value.get_ref().as_str() else {
            let found = shown(value.get_ref());
            self.fault(value.span(), format!("`{name}` must be a text in quotes, not {found}"));
            return None;
        };
        self.parsed(name, value, parse(text))
    }

    /// A text in quotes or a number.
    fn scalar<T>(
        &mut self,
        name: &str,
        value: &Value<'_>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let result = match value.get_ref() {
            DeValue::String(text) => parse(text),
            DeValue::Integer(number) if number.radix() == 10 => parse(number.as_str()),
            DeValue::Float(number) => parse(number.as_str()),
            other @ (DeValue::Integer(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_)) => {
                Err(format!("must be a number or a text, not {}", shown(other)))
            }
        };
        self.parsed(name, value, result)
    }

    fn parsed<T>(&mut self, name: &str, value: &Value<'_>, result: Result<T, String>) -> Option<T> {
        match result {
            Ok(found) => Some(found),
            Err(fault) => {
                self.fault(value.span(), format!("`{name}` {fault}"));
                None
            }
        }
    }

    fn table<'v, 't>(&mut self, name: &str, value: &'v Value<'t>) -> Option<&'v DeTable<'t>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            let found = shown(value.get_ref());
            self.fault(value.span(), format!("`{name}` must be a table ([{name}]), not {found}"));
        }
        table
    }

    fn unknown<K: AsRef<str>>(&mut self, key: &Spanned<K>, table: &str, known: &[&str]) {
        let name = key.get_ref().as_ref();
        let help = match closest(name, known.iter().copied()) {
            Some(meant) => format!("did you mean `{table}{meant}`?"),
            None => format!("known are {}", known.join(", ")),
        };
        self.fault(key.span(), format!("`{table}{name}` is not known; {help}"));
    }
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("must be \"text\" or \"json\", not {text:?}")),
    }
}

fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => format!("the number {}", number.as_str()),
        DeValue::Float(number) => format!("the number {}", number.as_str()),
        DeValue::Boolean(value) => format!("{value}"),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
