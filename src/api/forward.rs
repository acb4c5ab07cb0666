//! `pods/{name}/portforward`: one connection to a port of a pod, over a WebSocket.
//!
//! The form is that of the kubelet's streams: channel 0 has the data, channel 1 what went wrong, and
//! the first message on each is the number of the port (two bytes, little-endian). A side that says
//! no more closes channel 0, as in `v5.channel.k8s.io`; without that the connection ends when the
//! pod's side does.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse as _, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf as FromPod, OwnedWriteHalf as ToPod};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Mutex;

use super::channels::{self, Assembly, FromClient};
use super::exec::{farewell, told};
use super::failure::Failure;
use super::query::Words;
use super::routes::{Shared, find};
use super::upgrade::{Connection, Upgrade};
use super::websocket::{
    CLOSE_NORMAL, CLOSE_PROTOCOL_ERROR, PIECE_LEN_MAX, Piece, Reader, WebSocketError, Writer,
};
use crate::ids::PodId;

/// The data, both ways.
const DATA: u8 = channels::STDIN;
/// What went wrong.
const FAULT: u8 = 1;
/// What clients are told that know nothing else.
const NO_SPDY: &str = "SPDY is not supported, and `kubectl port-forward` knows nothing else, also \
                       over WebSocket: use `roost port-forward`";

/// Answers a request for a connection.
pub(super) async fn answer(
    State(shared): State<Arc<Shared>>,
    Path((namespace, name)): Path<(String, String)>,
    mut request: Request,
) -> Result<Response, Failure> {
    let query = Words::of(request.uri().query().unwrap_or_default())?;
    let snapshot = shared.service.snapshot();
    let view = find(&snapshot, &namespace, &name)?;
    let known = [channels::V5, channels::V4];
    let upgrade = Upgrade::of(&mut request, &known, &shared.streams, NO_SPDY)?;
    let ports: Vec<&str> = query.all("ports").collect();
    let port = match ports.as_slice() {
        [port] => port.parse::<u16>().ok().filter(|port| *port > 0),
        _ => None,
    };
    let port = port.ok_or_else(|| {
        Failure::bad_request("`ports` must be there once and name one port: 1 to 65535")
    })?;
    let closes = upgrade.protocol == channels::V5;
    let (response, connection) = upgrade.accept()?;
    let pod = view.record.id;
    let name = view.record.name.to_string();
    tokio::spawn(async move {
        let Some(connection) = connection.await else { return };
        tracing::info!(pod = name, port, "a connection is forwarded");
        serve(&shared, pod, port, closes, connection).await;
        tracing::debug!(pod = name, port, "a forwarded connection is over");
    });
    Ok(response.into_response())
}

async fn serve(shared: &Shared, pod: PodId, port: u16, closes: bool, connection: Connection) {
    let Connection { mut reader, mut writer, hang_up, .. } = connection;
    let number = port.to_le_bytes();
    for channel in [DATA, FAULT] {
        if writer.message(&[channel], &number).await.is_err() {
            return;
        }
    }
    let dialed = tokio::select! {
        dialed = shared.service.dial(pod, port) => dialed,
        () = hang_up.wait() => return,
    };
    let stream = match dialed {
        Ok(stream) => stream,
        Err(refused) => {
            let said = writer.message(&[FAULT], told(&refused).as_bytes()).await;
            if said.is_ok() && writer.close(CLOSE_NORMAL).await.is_ok() {
                farewell(&mut reader).await;
            }
            return;
        }
    };
    let writer = Arc::new(Mutex::new(writer));
    let (from_pod, to_pod) = stream.into_split();
    let down = send(from_pod, &writer, closes);
    let both = async {
        if !closes {
            // Whoever can't say that he says no more is heard as long as the pod speaks.
            tokio::select! {
                () = down => {}
                () = take_in(&mut reader, to_pod, &writer) => {}
            }
            return;
        }
        tokio::join!(down, take_in(&mut reader, to_pod, &writer));
    };
    tokio::select! {
        () = both => {}
        () = hang_up.wait() => return,
    }
    let closed = writer.lock().await.close(CLOSE_NORMAL).await;
    if closed.is_ok() {
        farewell(&mut reader).await;
    }
}

/// Sends what the pod says, until it says no more.
async fn send(mut from_pod: FromPod, writer: &Mutex<Writer<OwnedWriteHalf>>, closes: bool) {
    let mut buffer = vec![0; PIECE_LEN_MAX];
    loop {
        match from_pod.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(count) => {
                if writer.lock().await.message(&[DATA], &buffer[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
    if closes {
        // A client that has gone is noticed by whoever waits for it.
        writer.lock().await.message(&[channels::CLOSE, DATA], &[]).await.ok();
    }
}

/// Takes in what the client says, until it says no more.
async fn take_in(
    reader: &mut Reader<OwnedReadHalf>,
    mut to_pod: ToPod,
    writer: &Mutex<Writer<OwnedWriteHalf>>,
) {
    let mut assembly = Assembly::default();
    loop {
        match reader.next().await {
            Ok(Piece::Data { is_first, is_last, bytes }) => {
                match assembly.take(is_first, is_last, bytes) {
                    Ok(Some(FromClient::Input(bytes))) => {
                        if to_pod.write_all(&bytes).await.is_err() {
                            return;
                        }
                    }
                    Ok(Some(FromClient::InputEnds)) => {
                        // The pod may have closed it before.
                        to_pod.shutdown().await.ok();
                        return;
                    }
                    Ok(Some(FromClient::Resize(_)) | None) => {}
                    Err(_) => {
                        writer.lock().await.close(CLOSE_PROTOCOL_ERROR).await.ok();
                        return;
                    }
                }
            }
            Ok(Piece::Ping(bytes)) => {
                if writer.lock().await.pong(&bytes).await.is_err() {
                    return;
                }
            }
            Ok(Piece::Close) | Err(WebSocketError::Io(_) | WebSocketError::Protocol(_)) => return,
        }
    }
}
