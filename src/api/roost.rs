//! What neither Kubernetes nor Mesos has a shape for, under `/roost/v1`.
//!
//! | path | what |
//! |---|---|
//! | `GET plan` | what the agent would do now, and what waits |
//! | `POST diff` | what files would change |
//! | `GET images`, `DELETE images?name=…` | the images of this node; removes a name, or an image by its id |
//! | `GET images/pulls`, `POST images/pull`, `…/load`, `…/prune` | how far pulls are; gets, loads and collects images |
//! | `PUT manifests/{file}` | puts a manifest into the first manifest directory |
//! | `POST namespaces/{ns}/pods/{name}/restart`, `…/rollback`, `…/release` | another instance, an earlier revision, what the manifest says again |
//! | `GET namespaces/{ns}/pods/{name}/revisions` | what a pod was and is |

use std::sync::Arc;

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest as _, Request};
use axum::http::StatusCode;
use axum::routing::{get, post, put};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::failure::Failure;
use super::routes::Shared;
use crate::agent::service::Refused;
use crate::ids::PodName;
use crate::manifest::file::FILE_LEN_MAX;

pub(crate) mod images;
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
        .route("/images", get(images::list).delete(images::remove))
        .route("/images/pulls", get(images::pulls))
        .route("/images/pull", post(images::pull))
        .route("/images/load", post(images::load))
        .route("/images/prune", post(images::prune))
        .route("/manifests/{file}", put(manifests::put).layer(DefaultBodyLimit::max(FILE_LEN_MAX)))
        .route("/namespaces/{namespace}/pods/{name}/restart", post(pods::restart))
        .route("/namespaces/{namespace}/pods/{name}/rollback", post(pods::roll_back))
        .route("/namespaces/{namespace}/pods/{name}/release", post(pods::release))
        .route("/namespaces/{namespace}/pods/{name}/revisions", get(pods::revisions))
}

/// Large bodies that are read or worked on at a time.
const BODIES_MAX: usize = 4;
/// How long a large body may take to come.
const BODY_TIME_MAX: Duration = Duration::from_secs(30);

/// A large body, and the room that it takes.
struct LargeBody {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

/// Reads a large body. A client that takes its time must not keep others from being heard.
async fn body_of(shared: &Shared, request: Request, max: usize) -> Result<LargeBody, Failure> {
    let room = shared.large_bodies.clone().try_acquire_owned().map_err(|_| {
        Failure::unavailable(format!("more than {BODIES_MAX} large bodies at a time"))
    })?;
    match timeout(BODY_TIME_MAX, Bytes::from_request(request, &())).await {
        Ok(Ok(bytes)) => Ok(LargeBody { bytes, _room: room }),
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            Err(Failure::too_large(format!("the body has at most {max} bytes")))
        }
        Ok(Err(rejection)) => Err(Failure::bad_request(rejection.body_text())),
        Err(_) => Err(Failure::bad_request(format!(
            "the body did not come within {} s",
            BODY_TIME_MAX.as_secs()
        ))),
    }
}

/// Room for large bodies.
pub(super) fn room_for_bodies() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(BODIES_MAX))
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
