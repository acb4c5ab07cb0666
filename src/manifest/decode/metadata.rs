//! `metadata`: name, namespace, labels and annotations.

use std::collections::BTreeMap;

use super::fields::At;
use super::schema;
use crate::ids::{Namespace, ObjectName, PodName};
use crate::manifest::diagnostic::Faults;

/// `metadata` of a pod.
#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) name: Option<PodName>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
}

/// `metadata.namespace` of a manifest that has none.
pub(in crate::manifest) fn default_namespace() -> Namespace {
    "default".parse().expect("`default` is a DNS label")
}

/// Reads `metadata`.
pub(super) fn decode(at: At<'_>, faults: &mut Faults) -> Option<Metadata> {
    let fields = at.fields(&schema::METADATA, faults)?;
    let name: Option<ObjectName> = fields.required("name", faults).and_then(|at| at.parse(faults));
    let namespace = match fields.get("namespace") {
        Some(at) => at.parse(faults),
        None => Some(default_namespace()),
    };
    let labels = fields.get("labels").map(|at| texts(at, faults)).unwrap_or_default();
    let annotations = fields.get("annotations").map(|at| texts(at, faults)).unwrap_or_default();
    let name = namespace.zip(name).map(|(namespace, name)| PodName { namespace, name });
    Some(Metadata { name, labels, annotations })
}

/// A mapping of texts to texts.
pub(super) fn texts(at: At<'_>, faults: &mut Faults) -> BTreeMap<String, String> {
    let mut map = BTreeMap::new();
    for (key, value) in at.entries(faults) {
        if key.text.is_empty() {
            faults.push(value.error("must have a name"));
        } else if let Some(text) = value.text(faults) {
            map.insert(key.text.clone(), text.to_owned());
        }
    }
    map
}
