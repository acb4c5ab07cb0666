//! `PUT manifests/{file}`: what `roost apply` does.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::body_of;
use crate::agent::service::{NewManifest, PutRefused, Written};
use crate::api::failure::Failure;
use crate::api::query::{Query, RawQuery};
use crate::api::routes::Shared;
use crate::manifest::file::FILE_LEN_MAX;

pub(super) async fn put(
    State(shared): State<Arc<Shared>>,
    Path(file): Path<String>,
    query: RawQuery,
    request: Request,
) -> Result<Response, Failure> {
    let prune = Query::of(query)?.flag("prune")?;
    let body = body_of(&shared, request, FILE_LEN_MAX).await?;
    let new = NewManifest { file, text: body.bytes.to_vec(), prune };
    let answered = shared.service.put(new).await;
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
                PutRefused::Owned { .. }
                | PutRefused::OwnedDocument { .. }
                | PutRefused::DropsDocuments { .. }
                | PutRefused::Drops { .. }
                | PutRefused::Distrusted(_)
                | PutRefused::NoDirectory => Failure::conflict(text),
                PutRefused::NotWritten { .. } => Failure::internal(text),
            })
        }
    }
}
