//! What a pod takes from ConfigMaps, Secrets and itself, as it stands in a manifest.

use serde_json::{Map, Value, json};

use crate::manifest::document::DocumentKind;
use crate::manifest::pod::{
    DownwardFile, EnvFrom, EnvSource, KeyFile, KeyRef, Projected, ProjectedForm, Projection,
    ResourceField, ResourceName,
};

/// One of `envFrom`.
pub(super) fn env_from(from: &EnvFrom) -> Value {
    let EnvFrom { prefix, kind, name, optional } = from;
    let mut out = Map::new();
    if !prefix.is_empty() {
        out.insert("prefix".into(), prefix.as_str().into());
    }
    let key = match kind {
        DocumentKind::ConfigMap => "configMapRef",
        DocumentKind::Secret => "secretRef",
    };
    let mut reference = Map::from_iter([("name".to_owned(), json!(name))]);
    set_optional(&mut reference, *optional);
    out.insert(key.into(), reference.into());
    out.into()
}

fn set_optional(out: &mut Map<String, Value>, optional: bool) {
    if optional {
        out.insert("optional".into(), true.into());
    }
}

/// `valueFrom`, or the part of a file that is called as there.
pub(super) fn value_from(source: &EnvSource) -> Value {
    match source {
        EnvSource::Key(KeyRef { kind, name, key, optional }) => {
            let of = match kind {
                DocumentKind::ConfigMap => "configMapKeyRef",
                DocumentKind::Secret => "secretKeyRef",
            };
            let mut reference =
                Map::from_iter([("name".to_owned(), json!(name)), ("key".to_owned(), json!(key))]);
            set_optional(&mut reference, *optional);
            json!({ of: reference })
        }
        EnvSource::Field(field) => json!({ "fieldRef": { "fieldPath": field.to_string() } }),
        EnvSource::Resource(ResourceField { container, resource, divisor }) => {
            let divisor = match resource {
                ResourceName::LimitsCpu | ResourceName::RequestsCpu => {
                    if *divisor == 1000 {
                        "1".to_owned()
                    } else {
                        format!("{divisor}m")
                    }
                }
                ResourceName::LimitsMemory
                | ResourceName::RequestsMemory
                | ResourceName::LimitsStorage
                | ResourceName::RequestsStorage => super::memory(*divisor),
            };
            json!({ "resourceFieldRef": {
                "containerName": container, "resource": resource.to_string(), "divisor": divisor,
            } })
        }
    }
}

/// A volume, without its name.
pub(super) fn volume(projected: &Projected) -> Map<String, Value> {
    let Projected { form, default_mode, sources } = projected;
    let first = sources.first().map(|source| source_of(source, *form)).unwrap_or_default();
    let (name, mut out) = match form {
        ProjectedForm::ConfigMap => ("configMap", first),
        ProjectedForm::Secret => ("secret", first),
        ProjectedForm::DownwardApi => ("downwardAPI", first),
        ProjectedForm::Projected => {
            let all = sources.iter().map(|source| {
                let kind = match source {
                    Projection::Keys { kind: DocumentKind::ConfigMap, .. } => "configMap",
                    Projection::Keys { kind: DocumentKind::Secret, .. } => "secret",
                    Projection::Downward { .. } => "downwardAPI",
                };
                json!({ kind: source_of(source, *form) })
            });
            ("projected", Map::from_iter([("sources".to_owned(), all.collect())]))
        }
    };
    out.insert("defaultMode".into(), (*default_mode).into());
    Map::from_iter([(name.to_owned(), out.into())])
}

fn source_of(source: &Projection, form: ProjectedForm) -> Map<String, Value> {
    let mut out = Map::new();
    match source {
        Projection::Keys { kind: _, name, items, optional } => {
            let key = if form == ProjectedForm::Secret { "secretName" } else { "name" };
            out.insert(key.into(), json!(name));
            set_optional(&mut out, *optional);
            if !items.is_empty() {
                let files = items.iter().map(|KeyFile { key, path, mode }| {
                    let mut out = Map::new();
                    out.insert("key".into(), key.as_str().into());
                    out.insert("path".into(), path.as_str().into());
                    out.extend(mode.map(|mode| ("mode".to_owned(), mode.into())));
                    Value::Object(out)
                });
                out.insert("items".into(), files.collect());
            }
        }
        Projection::Downward { items } => {
            let files = items.iter().map(|DownwardFile { path, mode, value }| {
                let mut out = value_from(value).as_object().cloned().unwrap_or_default();
                out.insert("path".into(), path.as_str().into());
                out.extend(mode.map(|mode| ("mode".to_owned(), mode.into())));
                Value::Object(out)
            });
            out.insert("items".into(), files.collect());
        }
    }
    out
}
