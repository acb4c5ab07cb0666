//! Images: what is here and who uses it, and pulling, loading, removing and collecting them.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::agent::service::{
    Got, ImageKeeper, ImageView, ImagesRefused, ImagesView, PullPhase, PullProgress, Retry,
};
use crate::api::failure::Failure;
use crate::api::kubernetes::types::{Status, StatusDetails};
use crate::api::query::{Query, RawQuery};
use crate::api::routes::{BODY_LEN_MAX, Shared};

type Answer = Result<Response, Failure>;
type Asked = State<Arc<Shared>>;
type Body = Result<Bytes, BytesRejection>;

pub(super) async fn list(State(shared): Asked) -> Answer {
    let view = keeper(&shared)?.list().await.map_err(|refused| failure(&refused, ""))?;
    Ok(Json(shown(&view)).into_response())
}

pub(super) async fn pulls(State(shared): Asked) -> Answer {
    let pulls: Vec<Value> = keeper(&shared)?.pulls().iter().map(pull_shown).collect();
    Ok(Json(json!({ "items": pulls })).into_response())
}

/// The body of a `POST pull`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pull {
    source: String,
}

/// Answers when it is done. If the client goes away before that, this future is dropped, and with
/// it the interest in the pull.
pub(super) async fn pull(State(shared): Asked, body: Body) -> Answer {
    let Pull { source } = read(body)?;
    let got = keeper(&shared)?.pull(&source).await;
    let got = got.map_err(|refused| failure(&refused, &source))?;
    Ok(Json(got_shown(&got)).into_response())
}

/// The body of a `POST load`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Load {
    path: PathBuf,
}

pub(super) async fn load(State(shared): Asked, body: Body) -> Answer {
    let Load { path } = read(body)?;
    let name = path.display().to_string();
    if !path.is_absolute() {
        let text = format!("path is {name:?}: it must be absolute, the agent works elsewhere");
        return Err(Failure::invalid(text));
    }
    let got = keeper(&shared)?.load(&path).await.map_err(|refused| match &refused {
        // Nothing is between the agent and its file.
        ImagesRefused::Provision(error) => match error.retry {
            Retry::Later { .. } => Failure::internal(refused.to_string()).about_image(&name),
            Retry::Unlikely => Failure::invalid(refused.to_string()).about_image(&name),
        },
        ImagesRefused::NotFound(_)
        | ImagesRefused::Invalid(_)
        | ImagesRefused::Used { .. }
        | ImagesRefused::Store(_)
        | ImagesRefused::Ending => failure(&refused, &name),
    })?;
    let items: Vec<Value> = got.iter().map(got_shown).collect();
    Ok(Json(json!({ "items": items })).into_response())
}

pub(super) async fn remove(State(shared): Asked, query: RawQuery) -> Answer {
    let query = Query::of(query)?;
    let Some(name) = query.text("name") else {
        return Err(Failure::bad_request("which image is not said: ?name=NAME or ?name=ID"));
    };
    keeper(&shared)?.remove(name).await.map_err(|refused| failure(&refused, name))?;
    let details = StatusDetails { name: name.to_owned(), kind: "images".to_owned(), uid: None };
    Ok(Json(Status {
        kind: "Status".to_owned(),
        api_version: "v1".to_owned(),
        status: "Success".to_owned(),
        message: format!("removed image {name}"),
        reason: None,
        details: Some(details),
        code: 200,
    })
    .into_response())
}

pub(super) async fn prune(State(shared): Asked) -> Answer {
    let collected = keeper(&shared)?.prune().await.map_err(|refused| failure(&refused, ""))?;
    let images: Vec<String> = collected.images.iter().map(ToString::to_string).collect();
    Ok(Json(json!({ "images": images, "freedBytes": collected.freed })).into_response())
}

fn keeper(shared: &Shared) -> Result<&ImageKeeper, Failure> {
    shared.service.images().ok_or_else(|| Failure::unavailable("there is no image store"))
}

fn read<T: DeserializeOwned>(body: Body) -> Result<T, Failure> {
    let body = body.map_err(|_| {
        Failure::too_large(format!("the body of a request has at most {BODY_LEN_MAX} bytes"))
    })?;
    serde_json::from_slice(&body)
        .map_err(|error| Failure::bad_request(format!("the body is not as expected: {error}")))
}

fn failure(refused: &ImagesRefused, name: &str) -> Failure {
    let text = crate::agent::chain(refused);
    let failure = match refused {
        ImagesRefused::NotFound(_) => Failure::no_such_image(text),
        ImagesRefused::Invalid(_) => Failure::invalid(text),
        ImagesRefused::Used { .. } => Failure::conflict(text),
        // Whoever waits may read from the reason whether it is the name or the way to it.
        ImagesRefused::Provision(error) => Failure::bad_gateway(error.reason.as_str(), text),
        ImagesRefused::Store(_) => Failure::internal(text),
        ImagesRefused::Ending => return Failure::unavailable(text),
    };
    if name.is_empty() { failure } else { failure.about_image(name) }
}

/// All images, as `GET images` answers.
pub(crate) fn shown(view: &ImagesView) -> Value {
    let ImagesView { images, pulls, usage } = view;
    let images: Vec<Value> = images.iter().map(image_shown).collect();
    let pulls: Vec<Value> = pulls.iter().map(pull_shown).collect();
    json!({
        "items": images,
        "pulls": pulls,
        "usage": {
            "layersBytes": usage.layers,
            "blobsBytes": usage.blobs,
            "partialBytes": usage.partial,
        },
    })
}

fn image_shown(image: &ImageView) -> Value {
    let ImageView { id, manifest, names, size, pinned, made, used, used_by } = image;
    json!({
        "id": id.to_string(),
        "manifest": manifest,
        "names": names,
        "size": size,
        "pinned": pinned,
        "made": made.rfc3339(),
        "used": used.map(|used| used.rfc3339()),
        "usedBy": used_by.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn pull_shown(pull: &PullProgress) -> Value {
    let PullProgress { source, phase, layers_done, layers_total, bytes_done, bytes_total } = pull;
    let phase = match phase {
        PullPhase::Resolving => "Resolving",
        PullPhase::Layers => "Layers",
        PullPhase::Finishing => "Finishing",
    };
    json!({
        "source": source.to_string(),
        "phase": phase,
        "layersDone": layers_done,
        "layersTotal": layers_total,
        "bytesDone": bytes_done,
        "bytesTotal": bytes_total,
    })
}

/// An image that was got, as `POST pull` and `POST load` answer.
pub(crate) fn got_shown(got: &Got) -> Value {
    let Got { id, names, how } = got;
    json!({ "id": id.to_string(), "names": names, "message": how })
}

#[cfg(test)]
mod tests;
