//! What neither Kubernetes nor Mesos has a shape for, under `/roost/v1`.
//!
//! | path | what |
//! |---|---|
//! | `GET plan` | what the agent would do now, and what waits |
//! | `POST diff` | what files would change |
//! | `PUT manifests/{file}` | puts a manifest into the first manifest directory |
//! | `POST namespaces/{ns}/pods/{name}/restart`, `…/rollback` | another instance, an earlier revision |
//! | `GET namespaces/{ns}/pods/{name}/revisions` | what a pod was and is |

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post, put};

use super::failure::Failure;
use super::routes::Shared;
use crate::agent::service::Refused;
use crate::ids::PodName;
use crate::manifest::file::FILE_LEN_MAX;

mod inspect;
mod manifests;
mod pods;

/// Bytes of the files of a `POST diff`, as JSON: one file of the greatest length, most of whose
/// characters need no escape.
const DIFF_LEN_MAX: usize = 2 * FILE_LEN_MAX;

/// The paths, to be put under `/roost/v1`.
pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/plan", get(inspect::plan))
        .route("/diff", post(inspect::diff).layer(DefaultBodyLimit::max(DIFF_LEN_MAX)))
        .route("/manifests/{file}", put(manifests::put).layer(DefaultBodyLimit::max(FILE_LEN_MAX)))
        .route("/namespaces/{namespace}/pods/{name}/restart", post(pods::restart))
        .route("/namespaces/{namespace}/pods/{name}/rollback", post(pods::roll_back))
        .route("/namespaces/{namespace}/pods/{name}/revisions", get(pods::revisions))
}

/// The pod of a path.
fn pod_name(namespace: &str, name: &str) -> Result<PodName, Failure> {
    format!("{namespace}/{name}").parse().map_err(|_| Failure::no_such_pod(name))
}

fn refusal(refused: &Refused, name: &str) -> Failure {
    match refused {
        Refused::NotFound(_) => Failure::no_such_pod(name),
        Refused::Conflict(why) => Failure::conflict(why.clone()).about(name),
        Refused::Failed(why) => Failure::internal(why.clone()).about(name),
    }
}

#[cfg(test)]
mod tests;
