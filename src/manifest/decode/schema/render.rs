//! The tables for people and editors: the table of fields of `specs/README.md`, and the JSON
//! Schema of what works.

use serde_json::{Map, Value, json};

use super::*;

/// Fields that must be set, with the objects that they belong to.
const REQUIRED: [(&str, &[&str]); 39] = [
    ("PersistentVolumeClaim", &["apiVersion", "metadata", "spec"]),
    ("spec.volumes[].persistentVolumeClaim", &["claimName"]),
    ("….securityContext.seccompProfile", &["type"]),
    ("spec.securityContext.sysctls[]", &["name", "value"]),
    ("spec.hostAliases[]", &["ip"]),
    ("spec.dnsConfig.options[]", &["name"]),
    ("spec.imagePullSecrets[]", &["name"]),
    ("spec.containers[].envFrom[].configMapRef, .secretRef", &["name"]),
    ("spec.containers[].env[].valueFrom.configMapKeyRef, .secretKeyRef", &["name", "key"]),
    ("….fieldRef", &["fieldPath"]),
    ("….resourceFieldRef", &["resource"]),
    ("spec.volumes[].configMap", &["name"]),
    ("spec.volumes[].secret", &["secretName"]),
    ("spec.volumes[].projected", &["sources"]),
    ("spec.volumes[].projected.sources[].configMap, .secret", &["name"]),
    ("….items[]", &["key", "path"]),
    ("….downwardAPI.items[]", &["path"]),
    ("ConfigMap", &["apiVersion", "kind", "metadata"]),
    ("Secret", &["apiVersion", "kind", "metadata"]),
    ("….exec", &["command"]),
    ("….httpGet", &["port"]),
    ("….httpGet.httpHeaders[]", &["name"]),
    ("….tcpSocket", &["port"]),
    ("….grpc", &["port"]),
    ("spec.containers[].lifecycle.preStop.sleep", &["seconds"]),
    ("spec.volumes[].image", &["reference"]),
    ("", &["apiVersion", "kind", "metadata", "spec"]),
    ("metadata", &["name"]),
    ("spec", &["containers"]),
    ("spec.os", &["name"]),
    ("spec.containers[]", &["name"]),
    ("spec.containers[].env[]", &["name"]),
    ("spec.containers[].volumeMounts[]", &["name", "mountPath"]),
    ("spec.containers[].ports[]", &["containerPort"]),
    ("spec.containers[].resizePolicy[]", &["resourceName", "restartPolicy"]),
    ("spec.containers[].restartPolicyRules[]", &["action", "exitCodes"]),
    ("spec.containers[].restartPolicyRules[].exitCodes", &["operator", "values"]),
    ("spec.volumes[]", &["name"]),
    ("spec.volumes[].hostPath", &["path"]),
];

/// A number with a unit, as far as a pattern can tell.
const QUANTITY_PATTERN: &str =
    "^[+-]?([0-9]+\\.?[0-9]*|\\.[0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]+)?$";

/// The fields of an object that must be set.
pub(in super::super) fn required(object: &Object) -> &'static [&'static str] {
    REQUIRED.iter().find(|(place, _)| *place == object.place).map_or(&[], |(_, names)| *names)
}

/// The JSON Schema (draft 7, which editors know) of a Pod, a ConfigMap, a Secret or a claim, or a
/// List of them, without faults and unknown fields.
pub(in super::super) fn json_schema() -> Value {
    let list = json!({
        "type": "object",
        "properties": {
            "apiVersion": { "const": "v1" },
            "kind": { "enum": ["List", "PodList"] },
            "metadata": {},
            "items": { "type": "array", "items": { "$ref": "#/definitions/document" } },
        },
        "required": ["apiVersion", "kind", "items"],
        "additionalProperties": false,
    });
    let of_kind = |kind: &str| json!({ "properties": { "kind": { "const": kind } } });
    let document = json!({
        "if": of_kind("ConfigMap"),
        "then": { "$ref": "#/definitions/configMap" },
        "else": {
            "if": of_kind("Secret"),
            "then": { "$ref": "#/definitions/secret" },
            "else": {
                "if": of_kind("PersistentVolumeClaim"),
                "then": { "$ref": "#/definitions/claim" },
                "else": { "$ref": "#/definitions/pod" },
            },
        },
    });
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A pod manifest of Roost",
        "if": { "properties": { "kind": { "enum": ["List", "PodList"] } } },
        "then": { "$ref": "#/definitions/list" },
        "else": { "$ref": "#/definitions/document" },
        "definitions": {
            "document": document,
            "pod": schema_of(Shape::Object(&POD)),
            "configMap": schema_of(Shape::Object(&CONFIG_MAP_DOCUMENT)),
            "secret": schema_of(Shape::Object(&SECRET_DOCUMENT)),
            "claim": schema_of(Shape::Object(&CLAIM_DOCUMENT)),
            "list": list,
        },
    })
}

fn schema_of(shape: Shape) -> Value {
    match shape {
        Shape::Text => json!({ "type": "string" }),
        Shape::Words(words) => json!({ "enum": words }),
        Shape::Integer(least, most) => {
            json!({ "type": "integer", "minimum": least, "maximum": most })
        }
        Shape::Boolean => json!({ "type": "boolean" }),
        Shape::Quantity => json!({ "type": ["string", "number"], "pattern": QUANTITY_PATTERN }),
        Shape::Port => json!({ "type": ["integer", "string"] }),
        Shape::List(item) => json!({ "type": "array", "items": schema_of(*item) }),
        Shape::Map(value) => {
            json!({ "type": "object", "additionalProperties": schema_of(*value) })
        }
        Shape::Any => json!({}),
        Shape::Object(object) => {
            let mut properties = Map::new();
            for field in object.all_fields() {
                let Some(mut schema) = property(field) else { continue };
                if !required(object).contains(&field.name) {
                    or_null(&mut schema);
                }
                properties.insert(field.name.to_owned(), schema);
            }
            json!({
                "type": "object",
                "properties": properties,
                "required": required(object),
                "additionalProperties": false,
            })
        }
    }
}

/// `null` means that a field is not set.
fn or_null(schema: &mut Value) {
    if let Some(values) = schema.get_mut("enum").and_then(Value::as_array_mut) {
        values.push(Value::Null);
    }
    match schema.get_mut("type") {
        Some(Value::Array(types)) => types.push("null".into()),
        Some(one) => *one = json!([one, "null"]),
        None => {}
    }
}

/// What may stand in a field; nothing if it is refused.
fn property(field: &Field) -> Option<Value> {
    match field.support {
        Support::Works | Support::AsParent => Some(schema_of(field.shape)),
        Support::Ignored { why, usual: _ } => {
            let mut schema = schema_of(field.shape);
            schema["description"] = format!("Has no effect: {why}.").into();
            schema["deprecated"] = true.into();
            Some(schema)
        }
        Support::Later { but: [], .. } | Support::Never { .. } => None,
        Support::Later { but, .. } => Some(match field.shape {
            Shape::Boolean | Shape::Integer(..) => {
                let values = but.iter().map(|text| text.parse::<Value>().unwrap_or(Value::Null));
                json!({ "enum": values.collect::<Vec<_>>() })
            }
            Shape::Object(_) => {
                let pairs = but.iter().filter_map(|text| text.split_once(": "));
                let constants = pairs.map(|(name, value)| (name, json!({ "const": value })));
                let properties: Map<String, Value> =
                    constants.map(|(name, value)| (name.to_owned(), value)).collect();
                json!({
                    "type": "object", "properties": properties, "additionalProperties": false,
                })
            }
            Shape::Text
            | Shape::Words(_)
            | Shape::Quantity
            | Shape::Port
            | Shape::List(_)
            | Shape::Map(_)
            | Shape::Any => json!({ "enum": but }),
        }),
    }
}

/// Where the generated part of `specs/README.md` begins.
#[cfg(test)]
pub(super) const BEGIN: &str = "<!-- The rest is made from the code. -->\n";

/// The table of all fields, in Markdown.
#[cfg(test)]
pub(super) fn field_table(all: &[&'static Object]) -> String {
    let mut out = String::from("\n| field | type | here |\n|---|---|---|\n");
    for object in all {
        let mut parts = Vec::new();
        for field in object.fields {
            let here = match field.support {
                Support::Works => "**works**".to_owned(),
                Support::Ignored { why, usual: [] } => format!("accepted, no effect: {why}"),
                Support::Ignored { why, usual } => {
                    format!(
                        "accepted, no effect (`{}` without a warning): {why}",
                        usual.join("`, `")
                    )
                }
                Support::Later { but: [], help: "" } => "not yet".to_owned(),
                Support::Later { but: [], help } => format!("not yet: {help}"),
                Support::Later { but, .. } => format!("only `{}` so far", but.join("`, `")),
                Support::Never { why } => format!("refused: {why}"),
                Support::AsParent => {
                    parts.push(format!("`{}`", field.name));
                    continue;
                }
            };
            let dot = if object.place.is_empty() { "" } else { "." };
            let place = object.place;
            let kind = type_of(field.shape);
            out.push_str(&format!("| `{place}{dot}{}` | {kind} | {here} |\n", field.name));
        }
        if !parts.is_empty() {
            let parts = parts.join(", ");
            out.push_str(&format!("| `{}` | {parts} | as the whole |\n", object.place));
        }
    }
    out
}

#[cfg(test)]
fn type_of(shape: Shape) -> String {
    match shape {
        Shape::Text => "text".to_owned(),
        Shape::Words(words) => {
            let words: Vec<String> =
                words.iter().filter(|w| !w.is_empty()).map(|w| format!("`{w}`")).collect();
            words.join(", ")
        }
        Shape::Integer(..) => "whole number".to_owned(),
        Shape::Boolean => "boolean".to_owned(),
        Shape::Quantity => "quantity".to_owned(),
        Shape::Port => "port or its name".to_owned(),
        Shape::Object(_) => "object".to_owned(),
        Shape::List(item) => format!("list of {}", type_of(*item)),
        Shape::Map(value) => format!("mapping to {}", type_of(*value)),
        Shape::Any => "anything".to_owned(),
    }
}
