//! [`serve`]: connections, who may make them, and their limits.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::failure::Failure;
use super::routes;
use super::socket::{GROUP, Listener};
use crate::agent::service::Service;

/// Connections at a time.
pub(super) const CONNECTIONS_MAX: usize = 256;
/// Fields in the head of a request.
pub(super) const HEADERS_MAX: usize = 64;
/// Bytes of the head of a request.
pub(super) const HEAD_LEN_MAX: usize = 16 << 10;
/// How long a client may take for the head of a request, and be idle between two.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Until the next try when no connection can be accepted. Nothing tells when descriptors are free
/// again.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);

/// Answers clients, for ever.
pub async fn serve(listener: Listener, service: Service) {
    let Listener { socket, group } = listener;
    let socket = match UnixListener::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(%error, "the API can't be served");
            return;
        }
    };
    let router = routes::router(service);
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let stream = match socket.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection to the API");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let refusal = refusal(&stream, group);
        let permit = room.clone().try_acquire_owned();
        let router = match (refusal, &permit) {
            (Some(refusal), _) => refuse(refusal),
            (None, Err(_)) => refuse(Failure::unavailable(format!(
                "more than {CONNECTIONS_MAX} connections at a time"
            ))),
            (None, Ok(_)) => router.clone(),
        };
        tokio::spawn(async move {
            answer(stream, router).await;
            drop(permit);
        });
    }
}

async fn answer(stream: UnixStream, router: Router) {
    let answered = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_LEN_MAX)
        .serve_connection(
            TokioIo::new(stream),
            TowerToHyperService::new(router.into_service::<Incoming>()),
        )
        // A session has a connection to itself, and room of its own (`upgrade`).
        .with_upgrades()
        .await;
    if let Err(error) = answered {
        tracing::debug!(%error, "a connection to the API ended early");
    }
}

/// Answers everything with the failure.
fn refuse(failure: Failure) -> Router {
    Router::new().fallback(move || {
        let mut response = failure.clone().into_response();
        // One refusal, one connection: the client is not to keep it.
        let close = axum::http::HeaderValue::from_static("close");
        response.headers_mut().insert(axum::http::header::CONNECTION, close);
        std::future::ready(response)
    })
}

/// Why the peer may not use the API, if so. The mode of the socket says the same; this holds also
/// when somebody changed it.
fn refusal(stream: &UnixStream, group: Option<u32>) -> Option<Failure> {
    let peer = match stream.peer_cred() {
        Ok(peer) => peer,
        Err(error) => return Some(Failure::forbidden(format!("who asks is unknown: {error}"))),
    };
    let uid = peer.uid();
    // What can't be found out does not admit.
    let groups = || crate::sys::peer_groups(stream).unwrap_or_default();
    let may = is_ruler(uid) || group.is_some_and(|group| is_member(group, peer.gid(), &groups()));
    (!may).then(|| {
        Failure::forbidden(format!(
            "user {uid} may not use the API: only root and the members of group `{GROUP}` may"
        ))
    })
}

/// Root, and whoever the agent itself is.
fn is_ruler(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

/// Whether the group is the peer's primary one or one of the others.
fn is_member(group: u32, primary: u32, others: &[u32]) -> bool {
    primary == group || others.contains(&group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_members_of_the_group_are_admitted() {
        assert!(is_ruler(0) && !is_ruler(u32::MAX - 1));
        assert!(is_member(7, 7, &[]) && is_member(7, 1, &[2, 7]));
        assert!(!is_member(7, 1, &[2, 3]));
    }

    #[tokio::test]
    async fn who_asks_is_taken_from_the_socket() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert_eq!(refusal(&ours, None), None, "the peer is this very process");
    }
}
