//! `PUT manifests/{file}`: what `roost apply` does.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::agent::service::{PutRefused, Written};
use crate::api::failure::Failure;
use crate::api::routes::Shared;
use crate::manifest::file::FILE_LEN_MAX;

pub(super) async fn put(
    State(shared): State<Arc<Shared>>,
    Path(file): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let body = body
        .map_err(|_| Failure::too_large(format!("a manifest has at most {FILE_LEN_MAX} bytes")))?;
    let answered = shared.service.put(file, body.to_vec()).await;
    match answered.map_err(|ending| Failure::unavailable(ending.to_string()))? {
        Ok(Written { file, pods, warnings }) => {
            let pods: Vec<String> = pods.iter().map(ToString::to_string).collect();
            let shown = json!({
                "directory": file.directory,
                "file": file.file,
                "pods": pods,
                "warnings": warnings,
            });
            Ok(Json(shown).into_response())
        }
        Err(refused) => {
            let text = refused.to_string();
            Err(match refused {
                PutRefused::Name { .. } => Failure::bad_request(text),
                PutRefused::Faulty(_) => Failure::invalid(text),
                PutRefused::Owned { .. } | PutRefused::NoDirectory => Failure::conflict(text),
                PutRefused::NotWritten { .. } => Failure::internal(text),
            })
        }
    }
}
