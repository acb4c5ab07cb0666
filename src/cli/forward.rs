//! `roost port-forward`: ports of this machine that lead to ports of a pod, until it is stopped.
//!
//! Every connection that somebody makes is one of its own to the agent, which connects from within
//! the pod's network: also to what listens on the pod's loopback interface alone.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::args::{ForwardArgs, Forwarded};
use super::client::Client;
use super::failure::Failure;
use super::get::pod_path;
use super::output;
use crate::api::channels;
use crate::api::websocket::{PIECE_LEN_MAX, Piece, Reader, Role, Writer};

/// Connections at a time; others wait to be accepted.
const CONNECTIONS_MAX: usize = 128;
/// What went wrong is said on this channel.
const FAULT: u8 = 1;
/// Bytes of that which are shown.
const FAULT_LEN_MAX: usize = 4096;

/// Forwards ports, for ever.
pub(super) async fn run(client: &Client, args: &ForwardArgs) -> Result<(), Failure> {
    let name = args.pod.namespace.pod(&args.pod.name)?;
    let path = pod_path(&name);
    let found: Option<Value> = client.find(&path).await?;
    let pod = found.ok_or_else(|| Failure::not_found(&name))?;
    if pod["status"]["phase"] != "Running" {
        let phase = pod["status"]["phase"].as_str().unwrap_or("Unknown");
        let line = format!("pod {name} does not run: it is {phase}");
        return Err(Failure::wrong(line));
    }
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut accepting = JoinSet::new();
    for Forwarded { local, remote } in args.ports.iter().copied() {
        let address = SocketAddr::new(args.address, local);
        let failed =
            |error: std::io::Error| Failure::wrong(format!("can't listen on {address}: {error}"));
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        output::print(&format!("Forwarding from {address} -> {remote}\n"))?;
        let path = format!("{path}/portforward?ports={remote}");
        accepting.spawn(accept(client.clone(), listener, path, room.clone()));
    }
    // They end only if nothing can be accepted any more.
    match accepting.join_next().await {
        Some(Ok(failure)) => Err(failure),
        Some(Err(_)) | None => Err(Failure::wrong("a port is not forwarded any more")),
    }
}

async fn accept(
    client: Client,
    listener: TcpListener,
    path: String,
    room: Arc<Semaphore>,
) -> Failure {
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else {
            return Failure::wrong("there is no room for connections");
        };
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => return Failure::wrong(format!("can't accept a connection: {error}")),
        };
        let (client, path) = (client.clone(), path.clone());
        tokio::spawn(async move {
            if let Err(failure) = forward(&client, stream, &path).await {
                output::note(failure.to_string().trim_end());
            }
            drop(permit);
        });
    }
}

/// Forwards one connection, until both sides have said all.
async fn forward(client: &Client, stream: TcpStream, path: &str) -> Result<(), Failure> {
    let (read, write) = tokio::io::split(client.upgrade(path, channels::V5).await?);
    let mut reader = Reader::new(read, Role::Client, &[]);
    let mut writer = Writer::new(write, Role::Client);
    let (from_here, to_here) = stream.into_split();
    let sending = send(from_here, &mut writer);
    tokio::pin!(sending);
    let receiving = receive(&mut reader, to_here);
    tokio::pin!(receiving);
    tokio::select! {
        received = &mut receiving => received,
        () = &mut sending => receiving.await,
    }
}

async fn send<W: AsyncWrite + Unpin>(mut from: OwnedReadHalf, writer: &mut Writer<W>) {
    let mut buffer = vec![0; PIECE_LEN_MAX];
    loop {
        let sent = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => {
                writer.message(&[channels::CLOSE, channels::STDIN], &[]).await.ok();
                return;
            }
            Ok(count) => writer.message(&[channels::STDIN], &buffer[..count]).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

async fn receive<R: AsyncRead + Unpin>(
    reader: &mut Reader<R>,
    mut to: OwnedWriteHalf,
) -> Result<(), Failure> {
    // Each channel begins with the number of the port.
    let mut unread = [2_usize, 2];
    let (mut channel, mut fault) = (None, Vec::new());
    loop {
        let (is_first, mut bytes) = match reader.next().await {
            Ok(Piece::Data { is_first, is_last: _, bytes }) => (is_first, bytes),
            // The agent sends none.
            Ok(Piece::Ping(_)) => continue,
            Ok(Piece::Close) => break,
            Err(error) => {
                return Err(Failure::unreachable(format!("the agent broke off: {error}")));
            }
        };
        if is_first {
            channel = None;
        }
        if channel.is_none() && !bytes.is_empty() {
            channel = Some(bytes.remove(0));
        }
        if let Some(unread) = channel.and_then(|channel| unread.get_mut(usize::from(channel))) {
            let count = (*unread).min(bytes.len());
            *unread -= count;
            bytes.drain(..count);
        }
        match (channel, bytes.as_slice()) {
            // Whoever connected may have gone: then nothing more is sent to the pod either.
            (Some(channels::STDIN), bytes) if to.write_all(bytes).await.is_err() => return Ok(()),
            (Some(FAULT), bytes) => fault.extend_from_slice(bytes),
            (Some(channels::CLOSE), [channels::STDIN]) => {
                to.shutdown().await.ok();
            }
            (Some(_) | None, _) => {}
        }
        fault.truncate(FAULT_LEN_MAX);
    }
    if fault.is_empty() {
        return Ok(());
    }
    Err(Failure::wrong(output::clean(&String::from_utf8_lossy(&fault))))
}

/// `[LOCAL:]REMOTE`; without LOCAL the same number, with `:REMOTE` any that is free.
pub(super) fn ports(text: &str) -> Result<Forwarded, String> {
    let number = |text: &str| {
        let refused = |_| format!("`{text}` is no port: 1 to 65535");
        text.parse::<u16>().map_err(refused)
    };
    let (local, remote) = match text.split_once(':') {
        None => (number(text)?, number(text)?),
        Some(("", remote)) => (0, number(remote)?),
        Some((local, remote)) => (number(local)?, number(remote)?),
    };
    if remote == 0 {
        return Err("port 0 is none: 1 to 65535".to_owned());
    }
    Ok(Forwarded { local, remote })
}

/// Where to listen: an address of this machine, or `localhost`.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    if text == "localhost" {
        return Ok(std::net::Ipv4Addr::LOCALHOST.into());
    }
    text.parse().map_err(|_| "it must be an IP address, or localhost".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_named_as_for_kubectl() {
        let check = |text: &str, local, remote| {
            assert_eq!(ports(text), Ok(Forwarded { local, remote }), "{text}");
        };
        check("80", 80, 80);
        check("8080:80", 8080, 80);
        check(":80", 0, 80);
        check("0:80", 0, 80);
        for wrong in ["", "x", "80:", "1:2:3", "70000", "80:0", "-1"] {
            assert!(ports(wrong).is_err(), "{wrong}");
        }
        assert!(address("localhost").unwrap().is_loopback());
        assert!(address("everywhere").is_err());
    }
}
