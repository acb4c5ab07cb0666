//! A document's tree → the [`PodSpec`] that it means, or all that is wrong with it.
//!
//! Not here: the text of files (`manifest::file`), the syntax (`manifest::node`).

mod annotations;
mod claim;
mod config;
mod container;
mod document;
mod fields;
mod handler;
mod image;
mod lifecycle;
mod metadata;
mod mount;
mod names;
mod network;
mod pod;
mod port;
mod probe;
mod program;
mod resources;
mod restart;
mod schema;
mod security;
pub(crate) mod suggest;
mod termination;
mod volume;

use self::fields::{At, Path};
use self::suggest::closest;
use super::diagnostic::{Diagnostic, Faults, Position, push_index, quote};
use super::document::{Document, DocumentKind, DocumentName};
use super::node::{Key, Kind, Node};
use super::pod::PodSpec;
use crate::ids::PodName;

/// What a document, or an item of a List, turned out to be.
#[derive(Debug)]
pub(super) enum Decoded {
    /// A pod without an error.
    Pod {
        /// What it asks for.
        spec: Box<PodSpec>,
        /// Where it begins.
        position: Position,
    },
    /// A pod with an error.
    Faulty {
        /// Its name.
        name: PodName,
        /// Where it begins.
        position: Position,
    },
    /// A ConfigMap or Secret without an error.
    Document {
        /// What it holds.
        document: Document,
        /// Where it begins.
        position: Position,
    },
    /// A ConfigMap or Secret with an error.
    FaultyDocument {
        /// Its name.
        name: DocumentName,
        /// Where it begins.
        position: Position,
    },
    /// Something else, or something whose name could not be read; the faults say more.
    Nameless,
}

/// Kinds with a pod in them, and what to write instead.
const WRAPPERS: [(&str, &str); 8] = [
    ("Deployment", ITS_TEMPLATE),
    ("StatefulSet", ITS_TEMPLATE),
    ("DaemonSet", ITS_TEMPLATE),
    ("ReplicaSet", ITS_TEMPLATE),
    ("ReplicationController", ITS_TEMPLATE),
    ("PodTemplate", "write a Pod: the template's `metadata` and `spec`, and a `metadata.name`"),
    ("Job", "write a Pod with `restartPolicy: OnFailure` or `Never`"),
    ("CronJob", "let a timer of the host write a Pod with `restartPolicy: Never`"),
];
const ITS_TEMPLATE: &str = "write a Pod: `metadata` and `spec` of its `spec.template`";

/// The kind that says what a volume of the node shall be.
const CLAIM: &str = "PersistentVolumeClaim";

/// Kinds that often stand beside pods and ask for nothing that is done on this machine.
const BESIDE: [&str; 22] = [
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "EndpointSlice",
    "Endpoints",
    "HorizontalPodAutoscaler",
    "Ingress",
    "IngressClass",
    "LimitRange",
    "Namespace",
    "NetworkPolicy",
    "Node",
    "PersistentVolume",
    "PodDisruptionBudget",
    "PriorityClass",
    "ResourceQuota",
    "Role",
    "RoleBinding",
    "RuntimeClass",
    "Service",
    "ServiceAccount",
    "StorageClass",
];

/// Decodes a document: one object, or all items of a List.
pub(super) fn document(root: &Node, faults: &mut Faults) -> Vec<Decoded> {
    let list = match root.get("kind").and_then(Node::as_text) {
        Some("List" | "PodList") => match root.get("items") {
            Some(items) => Some(items),
            None => {
                let message = "this field is required in a list of objects";
                faults.push(Diagnostic::error(root.position, "items", message));
                return Vec::new();
            }
        },
        Some(_) | None => None,
    };
    let Some(list) = list else {
        return vec![object(At { node: root, path: Path::ROOT }, faults)];
    };
    let items = At { node: list, path: Path::ROOT };
    let Kind::Sequence(nodes) = &list.kind else {
        if !list.is_null() {
            let message = format!("must be a list, but this is {}", list.describe());
            faults.push(Diagnostic::error(items.position(), "items", &message));
        }
        return Vec::new();
    };
    let decode = |(index, node)| {
        let mut name = String::from("items");
        push_index(&mut name, index);
        object(At { node, path: Path::named(&name) }, faults)
    };
    nodes.iter().enumerate().map(decode).collect()
}

/// The JSON Schema of manifests, for editors.
#[must_use]
pub fn json_schema() -> serde_json::Value {
    schema::render::json_schema()
}

/// What a document is about, as far as that can be told.
#[derive(Debug)]
pub(super) enum Named {
    Pod(PodName),
    Document(DocumentName),
}

/// The names of what a document is about, as far as that can be told.
pub(super) fn names_of(root: &Node) -> Vec<Named> {
    match root.get("kind").and_then(Node::as_text) {
        Some("List" | "PodList") => match root.get("items").map(|items| &items.kind) {
            Some(Kind::Sequence(items)) => items.iter().filter_map(named).collect(),
            Some(Kind::Scalar(_) | Kind::Mapping(_)) | None => Vec::new(),
        },
        Some(_) | None => named(root).into_iter().collect(),
    }
}

fn named(node: &Node) -> Option<Named> {
    let kind = node.get("kind").and_then(Node::as_text);
    match kind.map(document_kind) {
        Some(Some(kind)) => Some(Named::Document(DocumentName { kind, name: name_of(node)? })),
        Some(None) if kind != Some("Pod") => None,
        Some(None) | None => Some(Named::Pod(name_of(node)?)),
    }
}

fn document_kind(text: &str) -> Option<DocumentKind> {
    match text {
        "ConfigMap" => Some(DocumentKind::ConfigMap),
        "Secret" => Some(DocumentKind::Secret),
        _ => None,
    }
}

/// The name of an object.
fn name_of(node: &Node) -> Option<PodName> {
    let metadata = node.get("metadata")?;
    let namespace = metadata.get("namespace").filter(|node| !node.is_null());
    Some(PodName {
        namespace: match namespace {
            Some(found) => found.as_text()?.parse().ok()?,
            None => metadata::default_namespace(),
        },
        name: metadata.get("name")?.as_text()?.parse().ok()?,
    })
}

/// Decodes one object.
fn object(at: At<'_>, faults: &mut Faults) -> Decoded {
    let mark = faults.mark();
    if let Some(kind) = at.node.get("kind").and_then(Node::as_text).and_then(document_kind) {
        return config(at, kind, faults);
    }
    let is_pod = !matches!(&at.node.kind, Kind::Mapping(_)) || check_kind(at, faults);
    if !is_pod {
        return Decoded::Nameless;
    }
    let name = name_of(at.node);
    let spec = pod::decode(at, faults);
    if let Some(name) = &name {
        faults.attribute_since(mark, name);
    }
    match spec {
        Some(spec) if !faults.any_error_since(mark) => {
            Decoded::Pod { spec: Box::new(spec), position: at.position() }
        }
        Some(_) | None => match name {
            Some(name) => Decoded::Faulty { name, position: at.position() },
            None => Decoded::Nameless,
        },
    }
}

/// Decodes a ConfigMap or Secret.
fn config(at: At<'_>, kind: DocumentKind, faults: &mut Faults) -> Decoded {
    let mark = faults.mark();
    let position = at.position();
    match document::decode(at, kind, faults) {
        Some(document) if !faults.any_error_since(mark) => Decoded::Document { document, position },
        Some(_) | None => match name_of(at.node) {
            Some(name) => Decoded::FaultyDocument { name: DocumentName { kind, name }, position },
            None => Decoded::Nameless,
        },
    }
}

/// Says so of a mapping that has nothing of a manifest.
fn stranger(at: At<'_>) -> Option<Diagnostic> {
    let Kind::Mapping(entries) = &at.node.kind else { return None };
    let known = ["apiVersion", "kind", "metadata", "spec"];
    let near = |key: &Key| closest(&key.text, known).is_some();
    if entries.iter().any(|(key, _)| near(key)) {
        return None;
    }
    let message = "this is no manifest: it has neither `apiVersion` nor `kind`";
    let help = if at.member("services").is_some() {
        "a file of Docker Compose? Write a Pod with a container for each service"
    } else {
        "a Pod begins with `apiVersion: v1` and `kind: Pod`, then come `metadata` and `spec`"
    };
    Some(at.error(message).with_help(help))
}

/// Whether the object is, or was meant to be, a pod; says so if it is something else.
fn check_kind(at: At<'_>, faults: &mut Faults) -> bool {
    if let Some(fault) = stranger(at) {
        faults.push(fault);
        return false;
    }
    let Some(kind_at) = at.member("kind") else {
        // The decoder says that it is missing.
        return true;
    };
    let Some(kind) = kind_at.node.as_text().filter(|kind| *kind != "Pod") else {
        return true;
    };
    if kind == CLAIM {
        claim::check(at, faults);
        return false;
    }
    let at = kind_at;
    let name = quote(kind);
    if BESIDE.contains(&kind) {
        let message = format!("{name} has no effect here: this document is passed over");
        faults.push(at.warning(&message));
        return false;
    }
    let fault = at.error(&format!("{name} is not supported"));
    if let Some((_, help)) = WRAPPERS.iter().find(|(wrapper, _)| *wrapper == kind) {
        faults.push(fault.with_help(help));
        return false;
    }
    let known = WRAPPERS.iter().map(|(known, _)| *known).chain(BESIDE);
    let ours = ["Pod", "ConfigMap", "Secret", CLAIM, "List"];
    faults.push(match closest(kind, known.chain(ours)) {
        Some(near) => fault.with_help(&format!("did you mean `{near}`?")),
        None => fault.with_help(
            "a manifest holds documents of the kinds `Pod`, `ConfigMap`, `Secret` and \
             `PersistentVolumeClaim`",
        ),
    });
    false
}
