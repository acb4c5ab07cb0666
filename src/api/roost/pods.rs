//! `restart`, `rollback`, `release` and `revisions` of a pod.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::inspect::manifest;
use super::{pod_name, refusal};
use crate::agent::service::{Accepted, KeptRevision, ManifestFile, PodView, Waiting, Waits};
use crate::api::failure::Failure;
use crate::api::routes::{BODY_LEN_MAX, Shared, find};
use crate::manifest::pod::PodSpec;

type Asked = (State<Arc<Shared>>, Path<(String, String)>);

pub(super) async fn restart(
    (State(shared), Path((namespace, name))): Asked,
) -> Result<Response, Failure> {
    let answered = shared.service.restart(pod_name(&namespace, &name)?).await;
    let answered = answered.map_err(|ending| Failure::unavailable(ending.to_string()))?;
    let done = answered.map_err(|refused| refusal(&refused, &name))?;
    Ok(Json(json!({ "message": done.message })).into_response())
}

/// The body of a `POST rollback`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RollBack {
    #[serde(default)]
    to: Option<u64>,
}

pub(super) async fn roll_back(
    (State(shared), Path((namespace, name))): Asked,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let body = body.map_err(|_| {
        Failure::too_large(format!("the body of a request has at most {BODY_LEN_MAX} bytes"))
    })?;
    let RollBack { to } = if body.iter().all(u8::is_ascii_whitespace) {
        RollBack::default()
    } else {
        serde_json::from_slice(&body).map_err(|error| {
            Failure::bad_request(format!("the body is not as expected: {error}"))
        })?
    };
    let answered = shared.service.roll_back(pod_name(&namespace, &name)?, to).await;
    let answered = answered.map_err(|ending| Failure::unavailable(ending.to_string()))?;
    let done = answered.map_err(|refused| refusal(&refused, &name))?;
    Ok(Json(json!({ "message": done.message, "number": done.number })).into_response())
}

pub(super) async fn release(
    (State(shared), Path((namespace, name))): Asked,
) -> Result<Response, Failure> {
    let answered = shared.service.release(pod_name(&namespace, &name)?).await;
    let answered = answered.map_err(|ending| Failure::unavailable(ending.to_string()))?;
    let done = answered.map_err(|refused| refusal(&refused, &name))?;
    Ok(Json(json!({ "message": done.message, "number": done.number })).into_response())
}

pub(super) async fn revisions(
    (State(shared), Path((namespace, name))): Asked,
) -> Result<Response, Failure> {
    let key = pod_name(&namespace, &name)?;
    let answered = shared.service.revisions(key).await;
    let kept = answered.map_err(|ending| Failure::unavailable(ending.to_string()))?;
    let kept = kept.map_err(|why| Failure::internal(why).about(&name))?;
    // After the others, so that none is missing that has just become an earlier one.
    let snapshot = shared.service.snapshot();
    let view = find(&snapshot, &namespace, &name)?;
    Ok(Json(json!({ "items": items(&kept, view) })).into_response())
}

/// Oldest first; the present one is the last.
fn items(kept: &[KeptRevision], view: &PodView) -> Vec<Value> {
    let record = &view.record;
    let now = record.accepted.number;
    let earlier = kept.iter().filter(|kept| kept.accepted.number != now);
    let mut items: Vec<Value> = earlier
        .map(|kept| item(&kept.accepted, &kept.source, false, kept.spec.as_deref()))
        .collect();
    match view.waits {
        // There is none yet.
        Some(Waits { who: Waiting::Pod, .. }) => {}
        Some(Waits { who: Waiting::Revision | Waiting::Instance, .. }) | None => {
            items.push(item(&record.accepted, &record.source, true, view.spec.as_deref()));
        }
    }
    items
}

fn item(
    accepted: &Accepted,
    source: &ManifestFile,
    is_current: bool,
    spec: Option<&PodSpec>,
) -> Value {
    let Accepted { number, digest, shared: _, at } = accepted;
    json!({
        "number": number,
        "digest": digest.to_string(),
        "acceptedAt": at.rfc3339(),
        "source": source.to_string(),
        "current": is_current,
        "spec": spec.map(manifest),
    })
}
