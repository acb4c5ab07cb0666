//! ConfigMaps and Secrets. No value of either gets into a fault.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};

use super::fields::{At, Fields};
use super::{metadata, schema};
use crate::manifest::diagnostic::{Faults, quote};
use crate::manifest::document::{
    DATA_LEN_MAX, Data, Document, DocumentKind, DocumentName, KEY_LEN_MAX, is_key,
};
use crate::manifest::node::{Kind, Meaning, Scalar};

/// `type` of a Secret that has none.
const OPAQUE: &str = "Opaque";
/// Types of Secrets with keys that they must have (Kubernetes: `ValidateSecret`).
const TYPES: [(&str, &[&str]); 4] = [
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
];

/// How values are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Base64,
}

/// Reads a document of that kind.
pub(super) fn decode(at: At<'_>, kind: DocumentKind, faults: &mut Faults) -> Option<Document> {
    let table = match kind {
        DocumentKind::ConfigMap => &schema::CONFIG_MAP_DOCUMENT,
        DocumentKind::Secret => &schema::SECRET_DOCUMENT,
    };
    let fields = at.fields(table, faults)?;
    if let Some(version) = fields.required("apiVersion", faults)
        && let Some(found) = version.text(faults).filter(|found| *found != "v1")
    {
        let message = format!("must be `v1` for a {kind}, but this is {}", quote(found));
        faults.push(version.error(&message));
    }
    if let Some(kind) = fields.required("kind", faults) {
        kind.text(faults);
    }
    let metadata = fields.required("metadata", faults).and_then(|at| metadata::decode(at, faults));
    let (data, secret_type) = match kind {
        DocumentKind::ConfigMap => (config_map(&fields, faults), None),
        DocumentKind::Secret => {
            let (data, kind) = secret(&fields, faults);
            (data, Some(kind))
        }
    };
    let len: usize = data.values().map(|value| value.bytes.len()).sum();
    if len > DATA_LEN_MAX {
        let message = format!("its values are larger than {DATA_LEN_MAX} bytes together");
        faults.push(fields.at.error(&message));
    }
    let name = DocumentName { kind, name: metadata?.name? };
    Some(Document { name, secret_type, data })
}

fn config_map(fields: &Fields<'_>, faults: &mut Faults) -> BTreeMap<String, Data> {
    let mut data = values(fields, "data", Form::Text, faults);
    for (key, value) in values(fields, "binaryData", Form::Base64, faults) {
        if data.insert(key.clone(), Data { binary: true, ..value }).is_some()
            && let Some(at) = fields.get("binaryData")
        {
            let message = format!("the key {} is in `data` as well", quote(&key));
            faults.push(at.error(&message));
        }
    }
    data
}

/// The values of a Secret, and its type.
fn secret(fields: &Fields<'_>, faults: &mut Faults) -> (BTreeMap<String, Data>, String) {
    let mut data = values(fields, "data", Form::Base64, faults);
    // As an API server does it: text counts.
    data.extend(values(fields, "stringData", Form::Text, faults));
    let type_at = fields.get("type");
    let kind = type_at.and_then(|at| at.text(faults)).unwrap_or(OPAQUE);
    let needed = TYPES.iter().find(|(known, _)| *known == kind).map_or(&[][..], |(_, keys)| keys);
    for key in needed.iter().filter(|key| !data.contains_key(**key)) {
        let message = format!("a Secret of type {} has the key `{key}`", quote(kind));
        faults.push(fields.at.error(&message));
    }
    (data, kind.to_owned())
}

fn values(
    fields: &Fields<'_>,
    name: &'static str,
    form: Form,
    faults: &mut Faults,
) -> BTreeMap<String, Data> {
    let Some(map) = fields.get(name) else { return BTreeMap::new() };
    let mut found = BTreeMap::new();
    for (key, at) in map.entries(faults) {
        if !is_key(&key.text) {
            let message = format!(
                "{} is no key: letters, digits, `-`, `_` and `.`, at most {KEY_LEN_MAX}, and not \
                 beginning with `..`",
                quote(&key.text)
            );
            faults.push(at.error(&message));
        }
        if let Some(bytes) = value(&at, form, faults) {
            found.insert(key.text.clone(), Data { bytes, binary: false });
        }
    }
    found
}

/// One value. What it is must not be told, so this is not [`At::text`].
fn value(at: &At<'_>, form: Form, faults: &mut Faults) -> Option<Vec<u8>> {
    let Kind::Scalar(scalar) = &at.node.kind else {
        let found = at.node.describe();
        let fault = at.error(&format!("must be text, but this is {found}"));
        faults.push(fault.with_help("a file's content is written as a block: `key: |`"));
        return None;
    };
    warn_of_type(at, scalar, faults);
    match form {
        Form::Text => Some(scalar.text.clone().into_bytes()),
        Form::Base64 => {
            let digits: String = scalar.text.chars().filter(|c| !c.is_whitespace()).collect();
            let decoded = GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new());
            let decoded = decoded.decode(digits);
            if decoded.is_err() {
                let fault = at.error("is not base64");
                faults.push(fault.with_help(
                    "plain text goes under `stringData` of a Secret, or `data` of a ConfigMap",
                ));
            }
            decoded.ok()
        }
    }
}

/// As for other text: a number or boolean is taken as it is written.
fn warn_of_type(at: &At<'_>, scalar: &Scalar, faults: &mut Faults) {
    match scalar.meaning() {
        Meaning::Text | Meaning::Null => {}
        other @ (Meaning::Bool(_) | Meaning::OldBool(_) | Meaning::Int(_) | Meaning::Float) => {
            let message =
                format!("text is meant here, but this is {}; taken as written", other.describe());
            faults.push(at.warning(&message).with_help("write it in quotes"));
        }
    }
}
