//! [`router`]: which path asks for what, and the answers that are made at once.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::failure::Failure;
use super::kubernetes::types::{List, ListMeta, Status, StatusDetails};
use super::kubernetes::{Context, discovery, document, event, pod};
use super::query::{Query, RawQuery, Selector};
use super::rendered::Rendered;
use super::watch::{EVENT_FIELDS, POD_FIELDS, Span, What};
use super::{exec, forward, health, logs, metrics, overview, roost, stats, upgrade, watch};
use crate::agent::service::{
    DeleteRefused, DocumentKind, DocumentView, PodView, Service, Snapshot,
};
use crate::clock::{BootId, BootTime, WallTime};
use crate::ids::PodName;

/// Bytes of the body of a request.
pub(super) const BODY_LEN_MAX: usize = 64 << 10;

/// What every answer is made of.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) service: Service,
    pub(super) large_bodies: Arc<Semaphore>,
    /// Room for sessions.
    pub(super) streams: Arc<Semaphore>,
    rendered: Rendered,
    boot: BootId,
    node: String,
}

impl Shared {
    /// About this machine, now.
    pub(super) fn of(service: Service) -> Self {
        let boot = BootId::current().unwrap_or_else(|error| {
            tracing::warn!(%error, "the boot id can't be read");
            "unknown".parse().unwrap_or_else(|never: std::convert::Infallible| match never {})
        });
        let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self {
            service,
            large_bodies: roost::room_for_bodies(),
            streams: upgrade::room(),
            rendered: Rendered::default(),
            boot,
            node,
        }
    }

    /// What the shapes need beside the views, now.
    pub(super) fn context(&self, snapshot: &Snapshot) -> Context {
        Context {
            now: BootTime::now(),
            wall: WallTime::now(),
            boot: self.boot.clone(),
            agent_started_at: snapshot.agent.started_at,
            node: self.node.clone(),
        }
    }
}

type Answer = Result<Response, Failure>;
type Asked = State<Arc<Shared>>;

/// All paths.
pub(super) fn router(service: Service) -> Router {
    let shared = Arc::new(Shared::of(service));
    Router::new()
        .route("/api/v1/pods", get(all_pods))
        .route("/api/v1/namespaces/{namespace}/pods", get(pods_of))
        .route("/api/v1/namespaces/{namespace}/pods/{name}", get(one_pod).delete(delete_pod))
        .route("/api/v1/namespaces/{namespace}/pods/{name}/log", get(logs::answer))
        .route("/api/v1/namespaces/{namespace}/pods/{name}/exec", exec_route())
        .route("/api/v1/namespaces/{namespace}/pods/{name}/portforward", forward_route())
        .route("/version", get(version))
        .route("/api", get(async || Json(discovery::versions())))
        .route("/apis", get(async || Json(discovery::groups())))
        .route("/api/v1", get(async || Json(discovery::resources())))
        .route("/api/v1/events", get(all_events))
        .route("/api/v1/namespaces/{namespace}/events", get(events_of))
        .route("/api/v1/configmaps", get(all_config_maps))
        .route("/api/v1/namespaces/{namespace}/configmaps", get(config_maps_of))
        .route("/api/v1/secrets", get(all_secrets))
        .route("/api/v1/namespaces/{namespace}/secrets", get(secrets_of))
        .route("/roost/v1/status", get(status))
        .route("/roost/v1/stats", get(stats::answer))
        .nest("/roost/v1", roost::router())
        .route("/metrics", get(metrics::answer))
        .route("/healthz", get(health::alive))
        .route("/livez", get(health::alive))
        .route("/readyz", get(health::ready))
        .fallback(async || Failure::no_such_path())
        .method_not_allowed_fallback(async || Failure::method_not_allowed())
        .layer(axum::middleware::from_fn_with_state(shared.clone(), metrics::count))
        .layer(DefaultBodyLimit::max(BODY_LEN_MAX))
        .with_state(shared)
}

/// With both methods, because clients that know no WebSocket come with POST, and are told so.
fn exec_route() -> axum::routing::MethodRouter<Arc<Shared>> {
    get(exec::answer).post(exec::answer)
}

/// As above.
fn forward_route() -> axum::routing::MethodRouter<Arc<Shared>> {
    get(forward::answer).post(forward::answer)
}

async fn version(State(shared): Asked) -> Json<Value> {
    Json(discovery::version(&shared.service.snapshot().agent.version))
}

async fn all_pods(State(shared): Asked, query: RawQuery) -> Answer {
    pods(&shared, None, query)
}

async fn pods_of(State(shared): Asked, Path(namespace): Path<String>, query: RawQuery) -> Answer {
    pods(&shared, Some(namespace), query)
}

fn pods(shared: &Arc<Shared>, namespace: Option<String>, query: RawQuery) -> Answer {
    let query = Query::of(query)?;
    let selector = Selector::of(namespace, &query, POD_FIELDS)?;
    if query.flag("watch")? {
        return Ok(lines(watch::body(shared, What::Pods(selector), Span::of(&query)?)));
    }
    let snapshot = shared.service.snapshot();
    let context = shared.context(&snapshot);
    let items = shared.rendered.list(watch::pods(&snapshot, &selector), &snapshot, &context);
    let items = items.map_err(|error| Failure::internal(error.to_string()))?;
    Ok(Json(list("PodList", &snapshot, items)).into_response())
}

async fn all_events(State(shared): Asked, query: RawQuery) -> Answer {
    events(&shared, None, query)
}

async fn events_of(State(shared): Asked, Path(namespace): Path<String>, query: RawQuery) -> Answer {
    events(&shared, Some(namespace), query)
}

fn events(shared: &Arc<Shared>, namespace: Option<String>, query: RawQuery) -> Answer {
    let query = Query::of(query)?;
    let selector = Selector::of(namespace, &query, EVENT_FIELDS)?;
    if query.flag("watch")? {
        return Ok(lines(watch::body(shared, What::Events(selector), Span::of(&query)?)));
    }
    let snapshot = shared.service.snapshot();
    let context = shared.context(&snapshot);
    let items = watch::events(&snapshot, &selector).map(|it| event::of(it, &context)).collect();
    Ok(Json(list("EventList", &snapshot, items)).into_response())
}

async fn all_config_maps(State(shared): Asked) -> Response {
    documents(&shared, DocumentKind::ConfigMap, None)
}

async fn config_maps_of(State(shared): Asked, Path(namespace): Path<String>) -> Response {
    documents(&shared, DocumentKind::ConfigMap, Some(&namespace))
}

async fn all_secrets(State(shared): Asked) -> Response {
    documents(&shared, DocumentKind::Secret, None)
}

async fn secrets_of(State(shared): Asked, Path(namespace): Path<String>) -> Response {
    documents(&shared, DocumentKind::Secret, Some(&namespace))
}

/// ConfigMaps or Secrets, without their values.
fn documents(shared: &Shared, kind: DocumentKind, namespace: Option<&str>) -> Response {
    let snapshot = shared.service.snapshot();
    let is_it = |view: &&DocumentView| {
        let name = &view.name;
        name.kind == kind && namespace.is_none_or(|it| it == name.name.namespace.as_str())
    };
    let items: Vec<Value> = snapshot.documents.iter().filter(is_it).map(document::of).collect();
    Json(list(&format!("{kind}List"), &snapshot, items)).into_response()
}

fn list<T>(kind: &str, snapshot: &Snapshot, items: Vec<T>) -> List<T> {
    List {
        kind: kind.to_owned(),
        api_version: "v1".to_owned(),
        metadata: ListMeta { resource_version: snapshot.version.to_string() },
        items,
    }
}

async fn one_pod(State(shared): Asked, Path((namespace, name)): Path<(String, String)>) -> Answer {
    let snapshot = shared.service.snapshot();
    let view = find(&snapshot, &namespace, &name)?;
    Ok(Json(pod::of(view, &shared.context(&snapshot))).into_response())
}

/// The pod of that name; of several instances the youngest.
pub(super) fn find<'a>(
    snapshot: &'a Snapshot,
    namespace: &str,
    name: &str,
) -> Result<&'a Arc<PodView>, Failure> {
    let is_it = |view: &&Arc<PodView>| {
        let found = &view.record.name;
        found.namespace.as_str() == namespace && found.name.as_str() == name
    };
    // By name, then age: the youngest is the last.
    snapshot.pods.iter().rfind(is_it).ok_or_else(|| Failure::no_such_pod(name))
}

/// What may stand in the body of a DELETE. What would be without effect is refused.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DeleteOptions {
    grace_period_seconds: Option<u64>,
    dry_run: Vec<String>,
    preconditions: Option<Preconditions>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Preconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

async fn delete_pod(
    State(shared): Asked,
    Path((namespace, name)): Path<(String, String)>,
    query: RawQuery,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let query = Query::of(query)?;
    let body = body.map_err(|_| {
        Failure::too_large(format!("the body of a request has at most {BODY_LEN_MAX} bytes"))
    })?;
    let options = delete_options(&query, &body)?;
    let key: PodName =
        format!("{namespace}/{name}").parse().map_err(|_| Failure::no_such_pod(&name))?;
    if let Some(wanted) = options.preconditions {
        let snapshot = shared.service.snapshot();
        let view = find(&snapshot, &namespace, &name)?;
        let uid = view.record.id.to_string();
        let other_uid = wanted.uid.is_some_and(|wanted| wanted != uid);
        let version = view.version.to_string();
        if other_uid || wanted.resource_version.is_some_and(|wanted| wanted != version) {
            let text = format!("the pod has the uid {uid} and the resource version {version}");
            return Err(Failure::conflict(text).about(&name));
        }
    }
    let answered = shared.service.delete(key).await;
    let refused = match answered {
        Ok(Ok(source)) => {
            let details = StatusDetails { name, kind: "pods".to_owned(), uid: None };
            return Ok(Json(Status {
                kind: "Status".to_owned(),
                api_version: "v1".to_owned(),
                status: "Success".to_owned(),
                message: format!("removed {source}"),
                reason: None,
                details: Some(details),
                code: 200,
            })
            .into_response());
        }
        Ok(Err(refused)) => refused,
        Err(ending) => return Err(Failure::unavailable(ending.to_string())),
    };
    let text = refused.to_string();
    Err(match refused {
        DeleteRefused::NotFound(_) => Failure::no_such_pod(&name),
        DeleteRefused::SharedFile { .. } => Failure::conflict(text).about(&name),
        DeleteRefused::NotRemoved { .. } => Failure::internal(text).about(&name),
    })
}

fn delete_options(query: &Query, body: &[u8]) -> Result<DeleteOptions, Failure> {
    let options: DeleteOptions = if body.iter().all(u8::is_ascii_whitespace) {
        DeleteOptions::default()
    } else {
        serde_json::from_slice(body).map_err(|error| {
            Failure::bad_request(format!("the body is no DeleteOptions: {error}"))
        })?
    };
    if options.grace_period_seconds.is_some() || query.text("gracePeriodSeconds").is_some() {
        let text = "gracePeriodSeconds is not supported: a pod ends with the grace period of its \
                    manifest";
        return Err(Failure::bad_request(text));
    }
    if !options.dry_run.is_empty() || query.text("dryRun").is_some() {
        return Err(Failure::bad_request("dryRun is not supported"));
    }
    Ok(options)
}

async fn status(State(shared): Asked) -> Response {
    let snapshot = shared.service.snapshot();
    let context = shared.context(&snapshot);
    Json(overview::of(&snapshot, &context)).into_response()
}

/// One JSON object a line, as watches have it.
fn lines(body: Body) -> Response {
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}
