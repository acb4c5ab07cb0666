//! Logs of containers.

use axum::extract::{Path, State};
use axum::response::Response;
use std::sync::Arc;

use super::failure::Failure;
use super::routes::Shared;

/// Answers a request for a log.
pub(super) async fn answer(
    State(_shared): State<Arc<Shared>>,
    Path((_namespace, _name)): Path<(String, String)>,
) -> Result<Response, Failure> {
    Err(Failure::unavailable("not yet"))
}
