//! [`of`]: a ConfigMap or Secret as Kubernetes' object of that kind, without its values: which keys
//! there are, and how many bytes each has, is in `roost`.

use serde_json::{Map, Value, json};

use super::pod::SOURCE_ANNOTATION;
use crate::agent::service::DocumentView;

/// The object.
#[must_use]
pub fn of(view: &DocumentView) -> Value {
    let DocumentView { name, secret_type, source, is_stale, keys } = view;
    let keys: Map<String, Value> =
        keys.iter().map(|(key, len)| (key.clone(), json!(len))).collect();
    let mut out = json!({
        "apiVersion": "v1",
        "kind": name.kind.to_string(),
        "metadata": {
            "name": name.name.name,
            "namespace": name.name.namespace,
            "annotations": { SOURCE_ANNOTATION: source.to_string() },
        },
        "roost": { "keys": keys, "stale": is_stale },
    });
    if let Some(kind) = secret_type {
        out["type"] = kind.as_str().into();
    }
    out
}
