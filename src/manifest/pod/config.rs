//! What a pod takes from ConfigMaps, Secrets and itself: variables and files.
//!
//! Here is what the manifest says, and in [`UsedConfig`] which content that was when the
//! specification was accepted: as hashes, never as values.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{ContainerName, ObjectName, VolumeName};
use crate::manifest::document::DocumentKind;
use crate::manifest::resolve::Content;
use crate::manifest::revision::Hash;

/// One of `envFrom`: a variable for each key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvFrom {
    /// What the names of the variables begin with.
    pub prefix: String,
    /// The kind of document.
    pub kind: DocumentKind,
    /// Its name, in the pod's namespace.
    pub name: ObjectName,
    /// Whether it need not be there.
    pub optional: bool,
}

/// `env[].valueFrom`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum EnvSource {
    /// `configMapKeyRef`, `secretKeyRef`.
    Key(KeyRef),
    /// `fieldRef`.
    Field(Field),
    /// `resourceFieldRef`.
    Resource(ResourceField),
}

/// One key of a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRef {
    /// The kind of document.
    pub kind: DocumentKind,
    /// Its name, in the pod's namespace.
    pub name: ObjectName,
    /// The key.
    pub key: String,
    /// Whether it need not be there.
    pub optional: bool,
}

/// `fieldRef.fieldPath`: something of the pod itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Field {
    /// `metadata.name`.
    Name,
    /// `metadata.namespace`.
    Namespace,
    /// `metadata.uid`.
    Uid,
    /// `metadata.labels`, as a file.
    Labels,
    /// `metadata.annotations`, as a file.
    Annotations,
    /// `metadata.labels['…']`.
    Label(String),
    /// `metadata.annotations['…']`.
    Annotation(String),
    /// `spec.nodeName`.
    NodeName,
    /// `spec.serviceAccountName`, which is this.
    ServiceAccountName(String),
    /// `status.hostIP`.
    HostIp,
    /// `status.hostIPs`.
    HostIps,
    /// `status.podIP`: that of the node for a pod in the host's network.
    PodIp,
    /// `status.podIPs`.
    PodIps,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => f.write_str("metadata.name"),
            Self::Namespace => f.write_str("metadata.namespace"),
            Self::Uid => f.write_str("metadata.uid"),
            Self::Labels => f.write_str("metadata.labels"),
            Self::Annotations => f.write_str("metadata.annotations"),
            Self::Label(key) => write!(f, "metadata.labels['{key}']"),
            Self::Annotation(key) => write!(f, "metadata.annotations['{key}']"),
            Self::NodeName => f.write_str("spec.nodeName"),
            Self::ServiceAccountName(_) => f.write_str("spec.serviceAccountName"),
            Self::HostIp => f.write_str("status.hostIP"),
            Self::HostIps => f.write_str("status.hostIPs"),
            Self::PodIp => f.write_str("status.podIP"),
            Self::PodIps => f.write_str("status.podIPs"),
        }
    }
}

impl Field {
    /// Whether it is something of the node, for a pod in the host's network or not.
    #[must_use]
    pub fn is_of_node(&self, in_host_network: bool) -> bool {
        match self {
            Self::PodIp | Self::PodIps => in_host_network,
            Self::NodeName | Self::HostIp | Self::HostIps => true,
            Self::Name
            | Self::Namespace
            | Self::Uid
            | Self::Labels
            | Self::Annotations
            | Self::Label(_)
            | Self::Annotation(_)
            | Self::ServiceAccountName(_) => false,
        }
    }
}

/// `resourceFieldRef`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResourceField {
    /// Of which container.
    pub container: ContainerName,
    /// Of what.
    pub resource: ResourceName,
    /// The unit of the answer, which is rounded up: thousandths of a processor, or bytes. Not 0.
    pub divisor: u64,
}

/// `resourceFieldRef.resource`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResourceName {
    /// `limits.cpu`; what the node has for pods where there is no limit.
    LimitsCpu,
    /// `limits.memory`; likewise.
    LimitsMemory,
    /// `requests.cpu`.
    RequestsCpu,
    /// `requests.memory`.
    RequestsMemory,
    /// `limits.ephemeral-storage`; the size of the file system of pods where there is no limit.
    LimitsStorage,
    /// `requests.ephemeral-storage`.
    RequestsStorage,
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LimitsCpu => "limits.cpu",
            Self::LimitsMemory => "limits.memory",
            Self::RequestsCpu => "requests.cpu",
            Self::RequestsMemory => "requests.memory",
            Self::LimitsStorage => "limits.ephemeral-storage",
            Self::RequestsStorage => "requests.ephemeral-storage",
        })
    }
}

/// A volume of files that are made of values: `configMap`, `secret`, `downwardAPI`, `projected`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Projected {
    /// How the manifest calls it.
    pub form: ProjectedForm,
    /// The mode of files that have none of their own.
    pub default_mode: u32,
    /// What is in it. Of two files with one path the later counts.
    pub sources: Vec<Projection>,
}

/// How a manifest calls a [`Projected`] volume; all but the last have one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProjectedForm {
    /// `configMap`.
    ConfigMap,
    /// `secret`.
    Secret,
    /// `downwardAPI`.
    DownwardApi,
    /// `projected`.
    Projected,
}

/// A source of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Projection {
    /// Keys of a document.
    Keys {
        /// The kind of document.
        kind: DocumentKind,
        /// Its name, in the pod's namespace.
        name: ObjectName,
        /// Which keys; all of them, as files of their names, if there are none.
        items: Vec<KeyFile>,
        /// Whether the document and the keys need not be there.
        optional: bool,
    },
    /// Something of the pod itself.
    Downward {
        /// The files.
        items: Vec<DownwardFile>,
    },
}

/// A key as a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyFile {
    /// The key.
    pub key: String,
    /// The file in the volume: relative, without `..`.
    pub path: String,
    /// Its mode; that of the volume if it has none.
    pub mode: Option<u32>,
}

/// Something of the pod as a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DownwardFile {
    /// The file in the volume: relative, without `..`.
    pub path: String,
    /// Its mode; that of the volume if it has none.
    pub mode: Option<u32>,
    /// What is in it; never a key.
    pub value: EnvSource,
}

/// Which content of documents a specification was accepted with, by keyed hashes: nobody can find
/// out a password by trying.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsedConfig {
    /// What the variables of containers take.
    pub variables: BTreeMap<ContainerName, Hash>,
    /// What the files of volumes take.
    pub volumes: BTreeMap<VolumeName, Hash>,
    /// The content, where it was just taken from the documents; elsewhere it is in a file of its
    /// own (`state::paths::PodPaths::config`). It is never written with the rest.
    #[serde(skip)]
    pub content: Carried,
}

/// Content that travels with a specification inside the agent. It makes no difference: what it is
/// is in the hashes.
#[derive(Clone, Default)]
pub struct Carried(pub Option<Arc<Content>>);

impl PartialEq for Carried {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Carried {}

impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "carried" } else { "kept" })
    }
}
