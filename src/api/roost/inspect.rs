//! `GET plan` and `POST diff`: what would be done.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{DIFF_LEN_MAX, body_of};
use crate::agent::service::{Change, Difference, Differences, Draft, Fault, Planned, Plans};
use crate::api::failure::Failure;
use crate::api::kubernetes::spec;
use crate::api::routes::Shared;
use crate::manifest::pod::{PodSpec, UsedConfig};

/// Files of one question.
const DRAFTS_MAX: usize = 1000;

pub(super) async fn plan(State(shared): State<Arc<Shared>>) -> Result<Response, Failure> {
    let planned = shared.service.plan().await;
    let planned = planned.map_err(|ending| Failure::unavailable(ending.to_string()))?;
    let Plans { items, faults } = planned;
    let items: Vec<Value> = items.into_iter().map(shown).collect();
    let faults: Vec<Value> = faults.iter().map(fault).collect();
    Ok(Json(json!({ "items": items, "faults": faults })).into_response())
}

fn shown(planned: Planned) -> Value {
    let Planned { pod, actions, waits, held } = planned;
    let actions = actions.into_iter().map(|it| json!({ "action": it.action, "reason": it.reason }));
    let actions: Vec<Value> = actions.collect();
    json!({ "pod": pod, "actions": actions, "waits": waits, "heldAt": held })
}

/// The body of a `POST diff`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    #[serde(default)]
    files: Vec<QuestionFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct QuestionFile {
    name: String,
    text: String,
}

pub(super) async fn diff(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Failure> {
    let body = body_of(&shared, request, DIFF_LEN_MAX).await?;
    let question: Question = if body.bytes.iter().all(u8::is_ascii_whitespace) {
        Question::default()
    } else {
        serde_json::from_slice(&body.bytes).map_err(|error| {
            Failure::bad_request(format!("the body is not as expected: {error}"))
        })?
    };
    if question.files.len() > DRAFTS_MAX {
        return Err(Failure::bad_request(format!("at most {DRAFTS_MAX} files can be asked about")));
    }
    let files = question.files.into_iter();
    let drafts = files.map(|file| Draft { name: file.name, text: file.text.into_bytes() });
    let made = shared.service.diff(drafts.collect()).await;
    let made = made.map_err(|ending| Failure::unavailable(ending.to_string()))?;
    let made = made.map_err(|too_large| Failure::too_large(too_large.to_string()))?;
    let Differences { items, faults } = made;
    let items: Vec<Value> = items.iter().map(difference).collect();
    let faults: Vec<Value> = faults.iter().map(fault).collect();
    Ok(Json(json!({ "items": items, "faults": faults })).into_response())
}

fn difference(difference: &Difference) -> Value {
    let Difference { pod, change, containers, before, after, held } = difference;
    let change = match change {
        Change::Create => "create",
        Change::Replace => "replace",
        Change::Restart => "restart",
        Change::Update => "update",
        Change::Delete => "delete",
        Change::Nothing => "none",
    };
    json!({
        "pod": pod.to_string(),
        "change": change,
        "containers": containers.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "before": before.as_deref().map(compared),
        "after": after.as_deref().map(compared),
        "heldAt": held,
    })
}

/// The manifest that would ask for a specification, with hashes of what it takes from ConfigMaps
/// and Secrets: nothing else tells that they changed.
fn compared(pod: &PodSpec) -> Value {
    let mut shown = manifest(pod);
    if let Some(UsedConfig { variables, volumes, content: _ }) = &pod.config {
        shown["config"] = json!({ "variables": variables, "volumes": volumes });
    }
    shown
}

/// A specification as the manifest that would ask for it.
pub(super) fn manifest(pod: &PodSpec) -> Value {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Manifest<'a> {
        api_version: &'static str,
        kind: &'static str,
        metadata: Value,
        spec: &'a Value,
    }
    let mut metadata = json!({
        "name": pod.name.name.to_string(),
        "namespace": pod.name.namespace.to_string(),
    });
    for (field, map) in [("labels", &pod.labels), ("annotations", &pod.annotations)] {
        if !map.is_empty() {
            metadata[field] = json!(map);
        }
    }
    let spec = spec::of(pod);
    json!(Manifest { api_version: "v1", kind: "Pod", metadata, spec: &spec })
}

/// A diagnostic with the name of its file.
fn fault(fault: &Fault) -> Value {
    let mut shown = json!(fault.diagnostic);
    shown["file"] = json!(fault.file);
    shown
}
