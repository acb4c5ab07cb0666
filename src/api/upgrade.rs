//! [`Upgrade`]: a request that asks for a WebSocket, and the connection that it becomes.
//!
//! Not here: what goes through it (`exec`, `forward`).

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::{HeaderMap, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::failure::Failure;
use super::websocket::{Reader, Role, Writer, accept_key, is_key};
use crate::agent::sessions::awaited;

/// Most sessions and forwarded connections of all clients at a time.
pub(super) const STREAMS_MAX: usize = 512;

/// Room for them.
pub(super) fn room() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(STREAMS_MAX))
}

/// What was asked for and can be had.
#[derive(Debug)]
pub(super) struct Upgrade {
    /// Which of the protocols on top was chosen.
    pub(super) protocol: &'static str,
    key: String,
    pending: OnUpgrade,
    permit: OwnedSemaphorePermit,
}

/// A connection to a client.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) reader: Reader<OwnedReadHalf>,
    pub(super) writer: Writer<OwnedWriteHalf>,
    pub(super) hang_up: HangUp,
    _permit: OwnedSemaphorePermit,
}

impl Upgrade {
    /// What a request asks for, with the first of `known` that the client speaks. Who speaks SPDY
    /// instead is told `no_spdy`.
    pub(super) fn of(
        request: &mut Request,
        known: &[&'static str],
        room: &Arc<Semaphore>,
        no_spdy: &str,
    ) -> Result<Self, Failure> {
        let headers = request.headers();
        let has = |name: HeaderName, word: &str| {
            words(headers, &name).any(|found| found.eq_ignore_ascii_case(word))
        };
        if words(headers, &UPGRADE).any(|word| word.to_ascii_lowercase().starts_with("spdy/")) {
            return Err(Failure::bad_request(no_spdy));
        }
        if !has(CONNECTION, "upgrade") || !has(UPGRADE, "websocket") {
            let text = "this is for WebSocket only: `Connection: Upgrade`, `Upgrade: websocket`";
            return Err(Failure::bad_request(text));
        }
        if !has(SEC_WEBSOCKET_VERSION, "13") {
            return Err(Failure::bad_request("Sec-WebSocket-Version must be 13"));
        }
        let key = headers.get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok());
        let key = key.filter(|key| is_key(key));
        let key =
            key.ok_or_else(|| Failure::bad_request("Sec-WebSocket-Key is missing or none"))?;
        let key = key.to_owned();
        let spoken: Vec<&str> = words(headers, &SEC_WEBSOCKET_PROTOCOL).collect();
        let protocol = known.iter().copied().find(|known| spoken.contains(known));
        let protocol = protocol.ok_or_else(|| {
            let known = known.join(", ");
            Failure::bad_request(format!("Sec-WebSocket-Protocol must be one of {known}"))
        })?;
        let permit = room.clone().try_acquire_owned().map_err(|_| {
            Failure::unavailable(format!("more than {STREAMS_MAX} sessions at a time"))
        })?;
        let pending = request.extensions_mut().remove::<OnUpgrade>();
        let pending =
            pending.ok_or_else(|| Failure::bad_request("this connection can't be upgraded"))?;
        Ok(Self { protocol, key, pending, permit })
    }

    /// The answer, and the connection, which is there when the answer was sent.
    pub(super) fn accept(
        self,
    ) -> Result<(Response<Body>, impl Future<Output = Option<Connection>>), Failure> {
        let Self { protocol, key, pending, permit } = self;
        let response = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_ACCEPT, accept_key(&key))
            .header(SEC_WEBSOCKET_PROTOCOL, protocol)
            .body(Body::empty())
            .map_err(|error| Failure::internal(error.to_string()))?;
        let connection = async move {
            match connection(pending, permit).await {
                Ok(connection) => Some(connection),
                Err(error) => {
                    tracing::debug!(error, "a client that asked for a session has gone");
                    None
                }
            }
        };
        Ok((response, connection))
    }
}

async fn connection(
    pending: OnUpgrade,
    permit: OwnedSemaphorePermit,
) -> Result<Connection, String> {
    let upgraded = pending.await.map_err(|error| error.to_string())?;
    let parts = upgraded
        .downcast::<TokioIo<UnixStream>>()
        .map_err(|_| "it is no connection of the API's socket".to_owned())?;
    let stream = parts.io.into_inner();
    let hang_up = HangUp::of(&stream).map_err(|error| error.to_string())?;
    let (read, write) = stream.into_split();
    Ok(Connection {
        reader: Reader::new(read, Role::Server, &parts.read_buf),
        writer: Writer::new(write, Role::Server),
        hang_up,
        _permit: permit,
    })
}

/// Tells when the client has closed the connection, whether what it has sent was read or not.
#[derive(Debug)]
pub(super) struct HangUp(AsyncFd<std::os::fd::OwnedFd>);

impl HangUp {
    fn of(stream: &UnixStream) -> std::io::Result<Self> {
        use std::os::fd::AsFd as _;
        let copy = stream.as_fd().try_clone_to_owned()?;
        // Nothing urgent is ever sent on such a socket; its end is told to whoever waits for
        // anything (epoll_ctl(2), EPOLLHUP).
        Ok(Self(awaited(copy, Interest::PRIORITY)?))
    }

    /// Waits for it. Cancel-safe.
    pub(super) async fn wait(&self) {
        loop {
            let Ok(mut ready) = self.0.ready(Interest::PRIORITY).await else { return };
            if ready.ready().is_read_closed() || ready.ready().is_write_closed() {
                return;
            }
            ready.clear_ready();
        }
    }
}

/// The words of a header, which may be there several times.
fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}
