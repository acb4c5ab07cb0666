//! What a pod takes from ConfigMaps, Secrets and itself. PURE.
//!
//! ```text
//! agent:     spec + documents ─► Resolver::resolve ─► the spec with hashes, and Content
//! executor:  spec + Content   ─► container()       ─► the container with its variables in place
//!                                files()           ─► the files of a volume
//! ```
//!
//! [`Content`] holds what is used and nothing else. It is kept in a file of its own, which only
//! root can read; everything else knows hashes with a key. Not here: which document of a name
//! counts (`manifest::library`), and how files are put into volumes (`containerizer`).

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::document::{Data, DocumentKind, DocumentName};
use super::expansion;
use super::library::Library;
use super::pod::{
    Carried, ContainerSpec, EnvSource, EnvVar, Field, KeyRef, PodSpec, Projected, Projection,
    ResourceField, ResourceName, UsedConfig, VolumeSource,
};
use super::revision::Hash;
use crate::ids::{ObjectName, PodId, PodName};
use crate::state::record::ManifestFile;

/// Most bytes of all values that one pod uses.
pub const CONTENT_LEN_MAX: usize = 32 << 20;
/// `MAX_ARG_STRLEN` of Linux (execve(2)): longest argument or variable with its NUL, in bytes.
const WORD_LEN_MAX: usize = 128 << 10;

/// What a pod uses of documents, and of the node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// Values of ConfigMaps of the pod's namespace, by name and key. One that is optional and not
    /// there is not here.
    pub config_maps: BTreeMap<ObjectName, BTreeMap<String, Data>>,
    /// The same of Secrets.
    pub secrets: BTreeMap<ObjectName, BTreeMap<String, Data>>,
    /// What it asks of the node.
    pub node: Option<NodeFacts>,
}

/// What pods can ask of their node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Its addresses, the first one first.
    pub addresses: Vec<String>,
    /// Thousandths of processors that it has for pods.
    pub cpu_milli: u64,
    /// Bytes of memory that it has for pods.
    pub memory_bytes: u64,
    /// The size in bytes of the file system that pods write to.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub storage_bytes: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

/// What keeps a pod from being what it asks for. It comes, or its document does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lack {
    /// There is no such document.
    #[error("waits for {0}")]
    Document(DocumentName),
    /// The only document of that name is faulty.
    #[error("waits for {name}, which has a fault in {source_file}")]
    Faulty {
        /// The document.
        name: DocumentName,
        /// The file.
        source_file: ManifestFile,
    },
    /// The document does not have the key.
    #[error("waits for {name} to have the key `{key}`")]
    Key {
        /// The document.
        name: DocumentName,
        /// The key.
        key: String,
    },
    /// The value can't be a variable.
    #[error("waits for another value of `{key}` in {name}: {why}, so it can't be a variable")]
    NoText {
        /// The document.
        name: DocumentName,
        /// The key.
        key: String,
        /// Why.
        why: &'static str,
    },
    /// It would be too much.
    #[error("uses more than {CONTENT_LEN_MAX} bytes of ConfigMaps and Secrets")]
    TooMuch,
}

/// What resolving depends on besides the documents.
#[derive(Clone)]
pub struct Resolver {
    /// The key of all hashes over content.
    pub key: Arc<[u8; 32]>,
    /// The node.
    pub node: NodeFacts,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("node", &self.node).finish_non_exhaustive()
    }
}

/// What is used of one document.
#[derive(Debug, Default)]
struct Use {
    all: bool,
    keys: BTreeMap<String, KeyUse>,
    /// Whether it must be there.
    required: bool,
}

#[derive(Debug, Default)]
struct KeyUse {
    required: bool,
    /// Whether it becomes a variable, and so must be text.
    as_text: bool,
}

/// What is used by something: a container's variables, or a volume's files.
#[derive(Debug, Default)]
struct Uses {
    documents: BTreeMap<(DocumentKind, ObjectName), Use>,
    node: bool,
}

impl Uses {
    fn of_container(container: &ContainerSpec, pod: &PodSpec) -> Self {
        let mut uses = Self::default();
        for from in &container.env_from {
            let used = uses.documents.entry((from.kind, from.name.clone())).or_default();
            used.all = true;
            used.required |= !from.optional;
        }
        for source in container.env.iter().filter_map(|var| var.from.as_ref()) {
            uses.add(source, pod);
        }
        uses
    }

    fn of_volume(projected: &Projected, pod: &PodSpec) -> Self {
        let mut uses = Self::default();
        for source in &projected.sources {
            match source {
                Projection::Keys { kind, name, items, optional } => {
                    let used = uses.documents.entry((*kind, name.clone())).or_default();
                    used.required |= !optional;
                    used.all |= items.is_empty();
                    for item in items {
                        used.keys.entry(item.key.clone()).or_default().required |= !optional;
                    }
                }
                Projection::Downward { items } => {
                    for item in items {
                        uses.add(&item.value, pod);
                    }
                }
            }
        }
        uses
    }

    fn add(&mut self, source: &EnvSource, pod: &PodSpec) {
        match source {
            EnvSource::Key(KeyRef { kind, name, key, optional }) => {
                let used = self.documents.entry((*kind, name.clone())).or_default();
                used.required |= !optional;
                let key = used.keys.entry(key.clone()).or_default();
                key.required |= !optional;
                key.as_text = true;
            }
            EnvSource::Field(field) => self.node |= field.is_of_node(pod.host.network),
            EnvSource::Resource(resource) => {
                self.node |= limit_of(resource, pod).is_none();
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.documents.is_empty() && !self.node
    }
}

impl Resolver {
    /// The specification with what it uses.
    ///
    /// # Errors
    /// What is lacking.
    pub fn resolve(&self, spec: &PodSpec, library: &Library) -> Result<PodSpec, Lack> {
        let mut used = UsedConfig::default();
        let mut all = Content::default();
        for container in spec.all_containers() {
            let uses = Uses::of_container(container, spec);
            if !uses.is_empty() {
                let content = self.gather(&uses, spec, library)?;
                used.variables.insert(container.name.clone(), self.hash(&content));
                all.merge(content);
            }
        }
        for volume in &spec.volumes {
            let VolumeSource::Projected(projected) = &volume.source else { continue };
            let uses = Uses::of_volume(projected, spec);
            if !uses.is_empty() {
                let content = self.gather(&uses, spec, library)?;
                used.volumes.insert(volume.name.clone(), self.hash(&content));
                all.merge(content);
            }
        }
        if all.len() > CONTENT_LEN_MAX {
            return Err(Lack::TooMuch);
        }
        let is_used = !used.variables.is_empty() || !used.volumes.is_empty();
        used.content = Carried(Some(Arc::new(all)));
        Ok(PodSpec { config: is_used.then_some(used), ..spec.clone() })
    }

    fn gather(&self, uses: &Uses, spec: &PodSpec, library: &Library) -> Result<Content, Lack> {
        let mut content = Content::default();
        for ((kind, name), used) in &uses.documents {
            let full = PodName { namespace: spec.name.namespace.clone(), name: name.clone() };
            let full = DocumentName { kind: *kind, name: full };
            let Some(document) = library.get(&full) else {
                if !used.required {
                    continue;
                }
                let faulty = library.faulty_source(&full).cloned();
                return Err(match faulty {
                    Some(source_file) => Lack::Faulty { name: full, source_file },
                    None => Lack::Document(full),
                });
            };
            for (key, of_key) in &used.keys {
                match document.data.get(key) {
                    None if of_key.required => {
                        return Err(Lack::Key { name: full, key: key.clone() });
                    }
                    Some(data) if of_key.as_text && data.binary => {
                        return Err(Lack::Key { name: full, key: key.clone() });
                    }
                    Some(data) if of_key.as_text => {
                        if let Some(why) = no_variable(data) {
                            return Err(Lack::NoText { name: full, key: key.clone(), why });
                        }
                    }
                    Some(_) | None => {}
                }
            }
            let values = document
                .data
                .iter()
                .filter(|(key, _)| used.all || used.keys.contains_key(*key))
                .map(|(key, data)| (key.clone(), data.clone()));
            content.of_kind(*kind).insert(name.clone(), values.collect());
        }
        content.node = uses.node.then(|| self.node.clone());
        Ok(content)
    }

    /// HMAC-SHA256 (RFC 2104) over what it is.
    fn hash(&self, content: &Content) -> Hash {
        /// Of SHA-256, in bytes.
        const BLOCK: usize = 64;
        let json = serde_json::to_vec(content).expect("content has only string keys");
        let padded = |with: u8| {
            let mut block = [with; BLOCK];
            block.iter_mut().zip(self.key.iter()).for_each(|(byte, key)| *byte ^= key);
            block
        };
        let inner = Sha256::new().chain_update(padded(0x36)).chain_update(json).finalize();
        let outer = Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize();
        Hash::from_digest(outer.into())
    }
}

/// Why a value can't be a variable.
fn no_variable(data: &Data) -> Option<&'static str> {
    match std::str::from_utf8(&data.bytes) {
        Err(_) => Some("it is not UTF-8 text"),
        Ok(text) if text.contains('\0') => Some("it has the character NUL in it"),
        Ok(text) if text.len() >= WORD_LEN_MAX => Some("it is longer than 128 KiB"),
        Ok(_) => None,
    }
}

impl Content {
    fn of_kind(&mut self, kind: DocumentKind) -> &mut BTreeMap<ObjectName, BTreeMap<String, Data>> {
        match kind {
            DocumentKind::ConfigMap => &mut self.config_maps,
            DocumentKind::Secret => &mut self.secrets,
        }
    }

    fn merge(&mut self, other: Self) {
        for (kind, documents) in
            [(DocumentKind::ConfigMap, other.config_maps), (DocumentKind::Secret, other.secrets)]
        {
            for (name, values) in documents {
                self.of_kind(kind).entry(name).or_default().extend(values);
            }
        }
        self.node = self.node.take().or(other.node);
    }

    fn len(&self) -> usize {
        let all = self.config_maps.values().chain(self.secrets.values());
        all.flatten().map(|(_, value)| value.bytes.len()).sum()
    }

    fn document(&self, kind: DocumentKind, name: &ObjectName) -> Option<&BTreeMap<String, Data>> {
        match kind {
            DocumentKind::ConfigMap => self.config_maps.get(name),
            DocumentKind::Secret => self.secrets.get(name),
        }
    }

    /// A value as a variable.
    fn text(&self, of: &KeyRef) -> Option<&str> {
        let data = self.document(of.kind, &of.name)?.get(&of.key).filter(|data| !data.binary)?;
        std::str::from_utf8(&data.bytes).ok()
    }
}

/// A pod instance: the specification, what it uses, and which instance it is.
#[derive(Debug, Clone, Copy)]
pub struct Instance<'a> {
    /// The specification.
    pub pod: &'a PodSpec,
    /// What it uses.
    pub content: &'a Content,
    /// Its id.
    pub id: PodId,
    /// Its own addresses, if it is in a network.
    pub addresses: &'a [IpAddr],
}

/// The content is not what the specification needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("what it takes from ConfigMaps and Secrets is incomplete: {0}")]
pub struct Incomplete(String);

/// A file of a volume.
#[derive(Clone, PartialEq, Eq)]
pub struct File {
    /// What is in it.
    pub bytes: Vec<u8>,
    /// Its mode.
    pub mode: u32,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} bytes, mode {:o})", self.bytes.len(), self.mode)
    }
}

/// The container with its variables, and with these in its command.
///
/// # Errors
/// If a value is not there, or something gets too long.
pub fn container(of: Instance<'_>, container: &ContainerSpec) -> Result<ContainerSpec, Incomplete> {
    let mut variables = Variables::default();
    for from in &container.env_from {
        let Some(values) = of.content.document(from.kind, &from.name) else {
            if from.optional {
                continue;
            }
            return Err(Incomplete(format!("{} {}", from.kind, from.name)));
        };
        for (key, data) in values.iter().filter(|(_, data)| !data.binary) {
            // What can't be a variable is left out, as Kubernetes does it.
            if let (None, Ok(text)) = (no_variable(data), std::str::from_utf8(&data.bytes)) {
                variables.set(format!("{}{key}", from.prefix), text.to_owned());
            }
        }
    }
    for var in &container.env {
        let value = match &var.from {
            None => Some(variables.expand(&var.value)?),
            Some(source) => value(of, source)?,
        };
        if let Some(value) = value {
            variables.set(var.name.clone(), value);
        }
    }
    let words = |list: &[String]| -> Result<Vec<String>, Incomplete> {
        list.iter().map(|word| variables.expand(word)).collect()
    };
    let (command, args) = (words(&container.command)?, words(&container.args)?);
    let env = variables.in_order.iter().map(|name| EnvVar {
        name: name.clone(),
        value: variables.known.get(name).cloned().unwrap_or_default(),
        from: None,
    });
    Ok(ContainerSpec {
        env: env.collect(),
        env_from: Vec::new(),
        command,
        args,
        ..container.clone()
    })
}

#[derive(Debug, Default)]
struct Variables {
    known: BTreeMap<String, String>,
    in_order: Vec<String>,
}

impl Variables {
    fn set(&mut self, name: String, value: String) {
        if self.known.insert(name.clone(), value).is_none() {
            self.in_order.push(name);
        }
    }

    fn expand(&self, text: &str) -> Result<String, Incomplete> {
        let value_of = |name: &str| self.known.get(name).map(String::as_str);
        // Not the text: a Secret may stand in it by now.
        expansion::expand(text, WORD_LEN_MAX - 1, value_of)
            .map_err(|error| Incomplete(format!("a word {error}")))
    }
}

/// A value; none if it is optional and not there.
fn value(of: Instance<'_>, source: &EnvSource) -> Result<Option<String>, Incomplete> {
    match source {
        EnvSource::Key(key) => match of.content.text(key) {
            Some(text) => Ok(Some(text.to_owned())),
            None if key.optional => Ok(None),
            None => Err(Incomplete(format!("`{}` of {} {}", key.key, key.kind, key.name))),
        },
        EnvSource::Field(field) => field_value(of, field).map(Some),
        EnvSource::Resource(resource) => resource_value(of, resource).map(Some),
    }
}

fn field_value(of: Instance<'_>, field: &Field) -> Result<String, Incomplete> {
    let pod = of.pod;
    let node = || of.content.node.as_ref().ok_or_else(|| Incomplete(field.to_string()));
    Ok(match field {
        Field::Name => pod.name.name.to_string(),
        Field::Namespace => pod.name.namespace.to_string(),
        Field::Uid => of.id.to_string(),
        Field::Labels => as_lines(&pod.labels),
        Field::Annotations => as_lines(&pod.annotations),
        Field::Label(key) => pod.labels.get(key).cloned().unwrap_or_default(),
        Field::Annotation(key) => pod.annotations.get(key).cloned().unwrap_or_default(),
        Field::NodeName => node()?.name.clone(),
        Field::ServiceAccountName(name) => name.clone(),
        Field::PodIp if !pod.host.network => {
            of.addresses.first().map(ToString::to_string).unwrap_or_default()
        }
        Field::PodIps if !pod.host.network => {
            let all: Vec<String> = of.addresses.iter().map(ToString::to_string).collect();
            all.join(",")
        }
        Field::HostIp | Field::PodIp => node()?.addresses.first().cloned().unwrap_or_default(),
        Field::HostIps | Field::PodIps => node()?.addresses.join(","),
    })
}

/// What is set of a resource: thousandths of processors, or bytes.
fn limit_of(resource: &ResourceField, pod: &PodSpec) -> Option<u64> {
    let of = pod.container(&resource.container)?.resources;
    match resource.resource {
        ResourceName::LimitsCpu => of.cpu_limit_milli.or(pod.resources.cpu_limit_milli),
        ResourceName::LimitsMemory => of.memory_limit_bytes.or(pod.resources.memory_limit_bytes),
        ResourceName::RequestsCpu => Some(of.cpu_request_milli.unwrap_or(0)),
        ResourceName::RequestsMemory => Some(of.memory_request_bytes.unwrap_or(0)),
        ResourceName::LimitsStorage => of.storage_limit_bytes,
        ResourceName::RequestsStorage => Some(of.storage_request()),
    }
}

fn resource_value(of: Instance<'_>, resource: &ResourceField) -> Result<String, Incomplete> {
    let amount = match limit_of(resource, of.pod) {
        Some(limit) => limit,
        None => {
            let node = of.content.node.as_ref();
            let node = node.ok_or_else(|| Incomplete(resource.resource.to_string()))?;
            match resource.resource {
                ResourceName::LimitsCpu | ResourceName::RequestsCpu => node.cpu_milli,
                ResourceName::LimitsMemory | ResourceName::RequestsMemory => node.memory_bytes,
                ResourceName::LimitsStorage | ResourceName::RequestsStorage => node.storage_bytes,
            }
        }
    };
    Ok(amount.div_ceil(resource.divisor.max(1)).to_string())
}

/// Labels or annotations as a file, in the form of Kubernetes: `key="value"`, in quotes of Go.
fn as_lines(pairs: &BTreeMap<String, String>) -> String {
    let lines: Vec<String> =
        pairs.iter().map(|(key, value)| format!("{key}={}", go(value))).collect();
    lines.join("\n")
}

/// A text in quotes, as `%q` of Go's `fmt` has it.
fn go(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if u32::from(c) < 0x20 || c == '\u{7f}' => {
                out.push_str(&format!("\\x{:02x}", u32::from(c)));
            }
            c if c.is_control() || (c.is_whitespace() && c != ' ') => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The files of a volume, by path.
///
/// # Errors
/// If a value is not there.
pub fn files(
    of: Instance<'_>,
    projected: &Projected,
) -> Result<BTreeMap<String, File>, Incomplete> {
    let mut all = BTreeMap::new();
    let mode = |own: Option<u32>| own.unwrap_or(projected.default_mode);
    for source in &projected.sources {
        match source {
            Projection::Keys { kind, name, items, optional } => {
                let lacks = || Incomplete(format!("{kind} {name}"));
                let Some(values) = of.content.document(*kind, name) else {
                    if *optional {
                        continue;
                    }
                    return Err(lacks());
                };
                let named: BTreeSet<&str> = items.iter().map(|item| item.key.as_str()).collect();
                for (key, data) in values.iter().filter(|_| named.is_empty()) {
                    all.insert(key.clone(), File { bytes: data.bytes.clone(), mode: mode(None) });
                }
                for item in items {
                    match values.get(&item.key) {
                        Some(data) => {
                            let file = File { bytes: data.bytes.clone(), mode: mode(item.mode) };
                            all.insert(item.path.clone(), file);
                        }
                        None if *optional => {}
                        None => return Err(lacks()),
                    }
                }
            }
            Projection::Downward { items } => {
                for item in items {
                    let text = value(of, &item.value)?.unwrap_or_default();
                    let file = File { bytes: text.into_bytes(), mode: mode(item.mode) };
                    all.insert(item.path.clone(), file);
                }
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
