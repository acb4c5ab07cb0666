//! `/healthz`, `/livez` and `/readyz`: for supervisors. In the words of Kubernetes' own servers:
//! `ok`, or one line for each check with `?verbose`, or when it is not.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::failure::Failure;
use super::query::{Query, RawQuery};
use super::routes::Shared;
use crate::agent::service::Snapshot;

/// A check, and why it fails.
type Check = (&'static str, Option<String>);

/// Whether the agent answers. That its loop goes round is the watchdog's to see.
pub(super) async fn alive(query: RawQuery) -> Result<Response, Failure> {
    answer("livez", vec![("api", None)], query)
}

/// Whether the agent does its work.
pub(super) async fn ready(
    State(shared): State<Arc<Shared>>,
    query: RawQuery,
) -> Result<Response, Failure> {
    answer("readyz", checks(&shared.service.snapshot()), query)
}

/// Whether all checks of `/readyz` hold.
pub(super) fn is_ready(snapshot: &Snapshot) -> bool {
    checks(snapshot).iter().all(|(_, fault)| fault.is_none())
}

fn checks(snapshot: &Snapshot) -> Vec<Check> {
    let recovered = (!snapshot.recovered).then(|| match &snapshot.unready {
        Some(why) => why.clone(),
        None => "the agent is still taking up the pods that it found".to_owned(),
    });
    vec![("recovered", recovered), ("store", snapshot.agent.store_fault.clone())]
}

fn answer(name: &str, checks: Vec<Check>, query: RawQuery) -> Result<Response, Failure> {
    let query = Query::of(query)?;
    let verbose = query.has("verbose");
    let fails = checks.iter().any(|(_, fault)| fault.is_some());
    if !fails && !verbose {
        return Ok("ok".into_response());
    }
    let mut text = String::new();
    for (check, fault) in checks {
        match fault {
            None => text.push_str(&format!("[+]{check} ok\n")),
            Some(fault) => text.push_str(&format!("[-]{check} failed: {fault}\n")),
        }
    }
    let (code, end) = if fails {
        (StatusCode::SERVICE_UNAVAILABLE, "failed")
    } else {
        (StatusCode::OK, "passed")
    };
    text.push_str(&format!("{name} check {end}\n"));
    Ok((code, text).into_response())
}
