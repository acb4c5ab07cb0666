//! `grpc`: one call of `grpc.health.v1.Health/Check` over HTTP/2 without TLS.
//!
//! <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>, and the protocol itself:
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>. The two messages of the call
//! have one field each, so they are written and read by hand.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use h2::client::{self, SendRequest};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, TE, USER_AGENT};
use hyper::{Request, StatusCode};

use super::http;
use super::request::{drive, failure, not_connected};
use super::socket::connect;
use crate::executor::poller::Poller;
use crate::executor::question::{Answer, Observed, Seen, TEXT_LEN_MAX};

/// Longest answer that is read: it has a few bytes.
const MESSAGE_LEN_MAX: usize = 4 << 10;
/// Longest headers of an answer.
const HEADERS_LEN_MAX: u32 = 16 << 10;
/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: i32 = 1;
/// Status codes of calls (`codes.proto`).
const OK: &str = "0";
const UNIMPLEMENTED: &str = "12";

/// Asks a server.
pub(super) async fn ask(
    poller: Rc<Poller>,
    id: u32,
    address: IpAddr,
    port: u16,
    service: String,
) -> Answer {
    let socket = match connect(&poller, id, address, port).await {
        Ok(socket) => socket,
        Err(error) => return failure(not_connected(address, port, &error)),
    };
    let mut builder = client::Builder::new();
    builder
        .max_header_list_size(HEADERS_LEN_MAX)
        .enable_push(false)
        .max_concurrent_reset_streams(1);
    let made = builder.handshake::<_, Bytes>(socket).await;
    let (sender, connection) = match made {
        Ok(made) => made,
        Err(error) => return failure(format!("HTTP/2: {error}")),
    };
    let authority = SocketAddr::new(address, port).to_string();
    let result = drive(connection, call(sender, &authority, &service)).await;
    match result {
        Ok(Said::Status(status)) if status == SERVING => {
            let seen = Seen::GrpcStatus(status);
            Answer::Success(Observed { seen, text: String::new() })
        }
        Ok(Said::Status(status)) => {
            let text = format!("service {service:?} is {}", name(status));
            Answer::Failure(Observed { seen: Seen::GrpcStatus(status), text })
        }
        Ok(Said::Refused(text)) => failure(text),
        Err(error) => failure(format!("HTTP/2: {error}")),
    }
}

/// What a server said.
enum Said {
    /// `HealthCheckResponse.status`.
    Status(i32),
    /// Why it says nothing about the service.
    Refused(String),
}

async fn call(
    sender: SendRequest<Bytes>,
    authority: &str,
    service: &str,
) -> Result<Said, h2::Error> {
    let mut sender = sender.ready().await?;
    let uri = format!("http://{authority}/grpc.health.v1.Health/Check");
    let request = Request::post(uri)
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, http::USER_AGENT)
        .body(())
        .expect("an address and these headers are valid");
    let (answer, mut body) = sender.send_request(request, false)?;
    body.send_data(message(service), true)?;
    let answer = answer.await?;
    let (head, mut body) = answer.into_parts();
    if head.status != StatusCode::OK {
        return Ok(Said::Refused(format!("HTTP status {}", head.status.as_u16())));
    }
    if let Some(refused) = refused(&head.headers) {
        return Ok(refused);
    }
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        bytes.extend_from_slice(&data?);
        if bytes.len() > MESSAGE_LEN_MAX {
            return Ok(Said::Refused(format!("the answer is longer than {MESSAGE_LEN_MAX} bytes")));
        }
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    if let Some(refused) = refused(&trailers) {
        return Ok(refused);
    }
    Ok(match status(&bytes) {
        Some(status) => Said::Status(status),
        None => Said::Refused("the answer can't be understood".to_owned()),
    })
}

/// What headers or trailers say of a call that failed.
fn refused(headers: &HeaderMap) -> Option<Said> {
    let text = |name| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let code = text("grpc-status").filter(|code| *code != OK)?;
    if code == UNIMPLEMENTED {
        let text = "the server does not implement grpc.health.v1.Health";
        return Some(Said::Refused(text.to_owned()));
    }
    let message: String =
        text("grpc-message").unwrap_or_default().chars().take(TEXT_LEN_MAX / 8).collect();
    Some(Said::Refused(format!("gRPC status {code} {message}")))
}

/// `HealthCheckRequest { string service = 1; }`, not compressed, with its length before it.
fn message(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        // Field 1 of wire type 2.
        message.push(0x0a);
        write_varint(service.len(), &mut message);
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.append(&mut message);
    framed.into()
}

fn write_varint(mut value: usize, out: &mut Vec<u8>) {
    while value > 0x7f {
        out.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or(0));
}

/// The status in a `HealthCheckResponse { ServingStatus status = 1; }`, framed as above. Other
/// fields, of newer versions, are passed over.
fn status(framed: &[u8]) -> Option<i32> {
    let (head, rest) = framed.split_first_chunk::<5>()?;
    let [0, len @ ..] = *head else { return None };
    let mut rest = rest.get(..usize::try_from(u32::from_be_bytes(len)).ok()?)?;
    let mut status = 0;
    while !rest.is_empty() {
        let (key, after) = read_varint(rest)?;
        let (field, wire_type) = (key >> 3, key & 7);
        rest = match wire_type {
            0 => {
                let (value, after) = read_varint(after)?;
                if field == 1 {
                    status = i32::try_from(value).ok()?;
                }
                after
            }
            1 => after.get(8..)?,
            2 => {
                let (len, after) = read_varint(after)?;
                after.get(usize::try_from(len).ok()?..)?
            }
            5 => after.get(4..)?,
            _ => return None,
        };
    }
    Some(status)
}

fn read_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f).checked_shl(u32::try_from(index).ok()? * 7)?;
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(index + 1..)?));
        }
    }
    None
}

fn name(status: i32) -> String {
    match status {
        0 => "UNKNOWN".to_owned(),
        SERVING => "SERVING".to_owned(),
        2 => "NOT_SERVING".to_owned(),
        3 => "SERVICE_UNKNOWN".to_owned(),
        other => format!("in the unknown state {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_found_among_other_fields() {
        let framed = |message: &[u8]| {
            let len = u32::try_from(message.len()).unwrap().to_be_bytes();
            [&[0], len.as_slice(), message].concat()
        };
        assert_eq!(status(&framed(&[0x08, 0x01])), Some(SERVING));
        assert_eq!(status(&framed(&[])), Some(0));
        assert_eq!(status(&framed(&[0x12, 0x01, 0xff, 0x08, 0x02])), Some(2));
        for bad in [&[][..], &[1, 0, 0, 0, 0], &[0, 0, 0, 0, 9, 8], &framed(&[0x08])] {
            assert_eq!(status(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_message_has_its_length_before_it() {
        assert_eq!(message("").as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(message("ab").as_ref(), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = message(&"x".repeat(300));
        assert_eq!(long.get(5..8), Some([0x0a, 0xac, 0x02].as_slice()));
    }
}
