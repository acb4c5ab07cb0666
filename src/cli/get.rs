//! `roost get`: lists, and what other commands need to ask for pods.

use std::fmt::Write as _;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::args::Output;
use super::failure::Failure;
use super::yaml;
use crate::ids::{Namespace, PodName};

pub(super) mod containers;
pub(super) mod documents;
pub(super) mod events;
pub(super) mod pods;
pub(super) mod revisions;

pub(super) use pods::status;

/// The path of all pods, or those of a namespace.
pub(super) fn pods_path(namespace: Option<&Namespace>) -> String {
    match namespace {
        Some(namespace) => format!("/api/v1/namespaces/{namespace}/pods"),
        None => "/api/v1/pods".to_owned(),
    }
}

/// The path of one pod.
pub(super) fn pod_path(name: &PodName) -> String {
    format!("{}/{}", pods_path(Some(&name.namespace)), name.name)
}

/// The path of every instance of one pod.
pub(super) fn instances_path(name: &PodName) -> String {
    with_query(&pods_path(Some(&name.namespace)), &[Some(field("metadata.name", &name.name))])
}

/// The path that tells of every change of a pod.
pub(super) fn watch_path(name: &PodName) -> String {
    let parts = [Some(field("metadata.name", &name.name)), Some("watch=true".to_owned())];
    with_query(&pods_path(Some(&name.namespace)), &parts)
}

/// The path of what only Roost has of a pod.
pub(super) fn own_path(name: &PodName, what: &str) -> String {
    format!("/roost/v1/namespaces/{}/pods/{}/{what}", name.namespace, name.name)
}

/// A selector of one field.
pub(super) fn field(name: &str, value: &impl std::fmt::Display) -> String {
    format!("fieldSelector={name}={value}")
}

/// The path with those parts of a query that there are.
pub(super) fn with_query(path: &str, parts: &[Option<String>]) -> String {
    let parts: Vec<&str> = parts.iter().flatten().map(String::as_str).collect();
    if parts.is_empty() { path.to_owned() } else { format!("{path}?{}", parts.join("&")) }
}

/// The text as a part of a path or a query (RFC 3986, 2.1).
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("a string takes everything");
        }
    }
    out
}

/// An answer of the agent in the form that this program knows.
pub(super) fn understood<T: DeserializeOwned>(value: &Value) -> Result<T, Failure> {
    T::deserialize(value).map_err(|error| Failure::not_understood(&error))
}

/// The object, if objects are wanted.
pub(super) fn structured(output: Output, value: &Value) -> Option<String> {
    match output {
        Output::Json => Some(pretty(value)),
        Output::Yaml => Some(yaml::of(value)),
        Output::Table | Output::Wide | Output::Name => None,
    }
}

/// One of many objects that are printed one after the other, if objects are wanted.
pub(super) fn structured_next(output: Output, value: &Value) -> Option<String> {
    let separator = if output == Output::Yaml { "---\n" } else { "" };
    structured(output, value).map(|text| format!("{separator}{text}"))
}

/// What `kubectl get -o json` prints for several objects.
pub(super) fn as_list(items: &Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "List", "items": items, "metadata": {} })
}

fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests;
