//! WebSocket (RFC 6455): the handshake and the frames, for the agent and for its clients.
//!
//! A message is passed on in the pieces in which it comes, so how long it is costs nothing. There
//! are no extensions. Not here: what messages mean (`channels`).

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// What both sides know (1.3).
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The longest frame that is no part of a message (5.5).
const CONTROL_LEN_MAX: usize = 125;
/// Most bytes that are taken from the other side at once, and the longest piece of a message.
pub const PIECE_LEN_MAX: usize = 32 << 10;
/// All went well (7.4.1).
pub const CLOSE_NORMAL: u16 = 1000;
/// The other side does not follow the rules (7.4.1).
pub const CLOSE_PROTOCOL_ERROR: u16 = 1002;

/// What the server answers to a key of the client (4.2.2, 5.4).
#[must_use]
pub fn accept_key(key: &str) -> String {
    let text = format!("{key}{MAGIC}");
    BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// A key for the client's side of the handshake (4.1).
///
/// # Errors
/// If the kernel gives no random bytes.
pub fn new_key() -> io::Result<String> {
    Ok(BASE64.encode(random::<16>()?))
}

/// Whether a key is one (4.2.1).
#[must_use]
pub fn is_key(key: &str) -> bool {
    BASE64.decode(key).is_ok_and(|bytes| bytes.len() == 16)
}

fn random<const LEN: usize>() -> io::Result<[u8; LEN]> {
    let mut bytes = [0; LEN];
    let count = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    if count == LEN { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Which side somebody is: what a client sends is masked, and nothing else is (5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It has accepted the connection.
    Server,
    /// It has made it.
    Client,
}

/// Something that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A part of a message.
    Data {
        /// Whether it is the beginning of one.
        is_first: bool,
        /// Whether it is the end of one.
        is_last: bool,
        /// It; may be empty.
        bytes: Vec<u8>,
    },
    /// To be answered with a pong that says the same.
    Ping(Vec<u8>),
    /// Nothing more comes.
    Close,
}

/// Why nothing more can be read.
#[derive(Debug, thiserror::Error)]
pub enum WebSocketError {
    /// The connection failed, or ended without a word.
    #[error("the connection broke off")]
    Io(#[source] io::Error),
    /// The other side does not follow the rules.
    #[error("the other side breaks a rule of WebSocket: {0}")]
    Protocol(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opcode {
    Continuation,
    /// Text or binary: it is the same to us.
    Message,
    Close,
    Ping,
    Pong,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    opcode: Opcode,
    is_final: bool,
    left: u64,
    mask: Option<[u8; 4]>,
    /// How much of it was unmasked.
    done: usize,
}

/// The reading side of a connection.
#[derive(Debug)]
pub struct Reader<R> {
    io: R,
    role: Role,
    /// What was received and not taken yet.
    buffer: Vec<u8>,
    frame: Option<Frame>,
    /// A message has begun and not ended.
    in_message: bool,
    /// Nothing of the message was passed on yet.
    is_first: bool,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Reads what the other side of `role` sends, of which `received` came already.
    #[must_use]
    pub fn new(io: R, role: Role, received: &[u8]) -> Self {
        let buffer = received.to_vec();
        Self { io, role, buffer, frame: None, in_message: false, is_first: false }
    }

    /// The next piece. Not cancel-safe in that what a cancelled call has received is kept, but the
    /// piece that it was about is passed on by the next call.
    ///
    /// # Errors
    /// If nothing more can be read.
    pub async fn next(&mut self) -> Result<Piece, WebSocketError> {
        loop {
            let frame = match self.frame {
                Some(frame) => frame,
                None => self.begin().await?,
            };
            self.frame = Some(frame);
            let piece = match frame.opcode {
                Opcode::Message | Opcode::Continuation => Some(self.data(frame).await?),
                Opcode::Ping => Some(Piece::Ping(self.whole(frame).await?)),
                Opcode::Close => {
                    self.whole(frame).await?;
                    Some(Piece::Close)
                }
                Opcode::Pong => {
                    self.whole(frame).await?;
                    None
                }
            };
            if let Some(piece) = piece {
                return Ok(piece);
            }
        }
    }

    async fn begin(&mut self) -> Result<Frame, WebSocketError> {
        self.fill(2).await?;
        let masked = self.buffer[1] & 0x80 != 0;
        let short = self.buffer[1] & 0x7f;
        let long = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let head = 2 + long + if masked { 4 } else { 0 };
        self.fill(head).await?;
        let head: Vec<u8> = self.buffer.drain(..head).collect();
        let (head, rest) = head.split_at(2);
        let (number, mask) = rest.split_at(long);
        let left = match long {
            0 => u64::from(short),
            _ => number.iter().fold(0, |all, byte| all << 8 | u64::from(*byte)),
        };
        let frame = Frame {
            opcode: opcode(head[0])?,
            is_final: head[0] & 0x80 != 0,
            left,
            mask: mask.try_into().ok(),
            done: 0,
        };
        self.check(frame)?;
        Ok(frame)
    }

    fn check(&mut self, frame: Frame) -> Result<(), WebSocketError> {
        let refused = |rule| Err(WebSocketError::Protocol(rule));
        if frame.mask.is_some() != (self.role == Role::Server) {
            return refused("clients mask what they send, and servers do not");
        }
        if frame.left >> 63 != 0 {
            return refused("a length has 63 bits");
        }
        match frame.opcode {
            Opcode::Message if self.in_message => refused("a message has not ended"),
            Opcode::Continuation if !self.in_message => refused("there is nothing to go on with"),
            Opcode::Message => {
                (self.in_message, self.is_first) = (true, true);
                Ok(())
            }
            Opcode::Continuation => Ok(()),
            Opcode::Close | Opcode::Ping | Opcode::Pong => {
                let is_short = usize::try_from(frame.left).is_ok_and(|len| len <= CONTROL_LEN_MAX);
                if frame.is_final && is_short {
                    return Ok(());
                }
                refused("a control frame is whole and short")
            }
        }
    }

    async fn data(&mut self, mut frame: Frame) -> Result<Piece, WebSocketError> {
        if frame.left > 0 && self.buffer.is_empty() {
            self.fill(1).await?;
        }
        let most = usize::try_from(frame.left).unwrap_or(usize::MAX).min(PIECE_LEN_MAX);
        let bytes = self.take(&mut frame, most);
        let is_last = frame.left == 0 && frame.is_final;
        self.frame = (frame.left > 0).then_some(frame);
        self.in_message = !is_last;
        let is_first = std::mem::take(&mut self.is_first);
        Ok(Piece::Data { is_first, is_last, bytes })
    }

    async fn whole(&mut self, mut frame: Frame) -> Result<Vec<u8>, WebSocketError> {
        let len = usize::try_from(frame.left).unwrap_or(CONTROL_LEN_MAX);
        self.fill(len).await?;
        self.frame = None;
        Ok(self.take(&mut frame, len))
    }

    /// Takes at most so much of a frame out of the buffer.
    fn take(&mut self, frame: &mut Frame, most: usize) -> Vec<u8> {
        let count = most.min(self.buffer.len());
        let mut bytes: Vec<u8> = self.buffer.drain(..count).collect();
        if let Some(mask) = frame.mask {
            let masks = mask.iter().cycle().skip(frame.done % mask.len());
            bytes.iter_mut().zip(masks).for_each(|(byte, mask)| *byte ^= mask);
        }
        frame.done += count;
        frame.left -= u64::try_from(count).unwrap_or(frame.left);
        bytes
    }

    /// Reads until there is so much.
    async fn fill(&mut self, len: usize) -> Result<(), WebSocketError> {
        while self.buffer.len() < len {
            self.buffer.reserve(PIECE_LEN_MAX);
            let read = (&mut self.io).take(PIECE_LEN_MAX as u64).read_buf(&mut self.buffer).await;
            if read.map_err(WebSocketError::Io)? == 0 {
                return Err(WebSocketError::Io(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Ok(())
    }
}

fn opcode(head: u8) -> Result<Opcode, WebSocketError> {
    if head & 0x70 != 0 {
        return Err(WebSocketError::Protocol("reserved bits are 0 without extensions"));
    }
    Ok(match head & 0x0f {
        0 => Opcode::Continuation,
        1 | 2 => Opcode::Message,
        8 => Opcode::Close,
        9 => Opcode::Ping,
        10 => Opcode::Pong,
        _ => return Err(WebSocketError::Protocol("there is no such opcode")),
    })
}

/// The writing side of a connection.
#[derive(Debug)]
pub struct Writer<W> {
    io: W,
    role: Role,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Writes as `role`.
    #[must_use]
    pub fn new(io: W, role: Role) -> Self {
        Self { io, role }
    }

    /// Sends a binary message, given in two parts.
    ///
    /// # Errors
    /// If the connection failed.
    pub async fn message(&mut self, first: &[u8], rest: &[u8]) -> io::Result<()> {
        self.frame(2, first, rest).await
    }

    /// Answers a ping.
    ///
    /// # Errors
    /// If the connection failed.
    pub async fn pong(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.frame(10, bytes, &[]).await
    }

    /// Says that nothing more comes.
    ///
    /// # Errors
    /// If the connection failed.
    pub async fn close(&mut self, code: u16) -> io::Result<()> {
        self.frame(8, &code.to_be_bytes(), &[]).await
    }

    async fn frame(&mut self, opcode: u8, first: &[u8], rest: &[u8]) -> io::Result<()> {
        /// The longest head of a frame.
        const HEAD_LEN_MAX: usize = 14;
        let len = first.len() + rest.len();
        let mut bytes = Vec::with_capacity(HEAD_LEN_MAX + len);
        bytes.push(0x80 | opcode);
        let masked = if self.role == Role::Client { 0x80 } else { 0 };
        match (u8::try_from(len), u16::try_from(len)) {
            (Ok(len), _) if len < 126 => bytes.push(masked | len),
            (_, Ok(len)) => {
                bytes.push(masked | 126);
                bytes.extend(len.to_be_bytes());
            }
            (_, Err(_)) => {
                bytes.push(masked | 127);
                bytes.extend((len as u64).to_be_bytes());
            }
        }
        let mask = if self.role == Role::Client { Some(random::<4>()?) } else { None };
        bytes.extend(mask.iter().flatten());
        let head = bytes.len();
        bytes.extend_from_slice(first);
        bytes.extend_from_slice(rest);
        if let Some(mask) = mask {
            let masked = bytes.iter_mut().skip(head).zip(mask.iter().cycle());
            masked.for_each(|(byte, mask)| *byte ^= mask);
        }
        self.io.write_all(&bytes).await?;
        self.io.flush().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_standard_is_answered_as_there() {
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        assert_eq!(accept_key(key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(is_key(key) && is_key(&new_key().unwrap()) && !is_key("x") && !is_key(""));
    }

    /// What a server makes of these bytes.
    async fn read(bytes: &[u8]) -> Result<Vec<Piece>, String> {
        let mut reader = Reader::new(bytes, Role::Server, &[]);
        let mut pieces = Vec::new();
        loop {
            match reader.next().await {
                Ok(piece) => pieces.push(piece),
                Err(WebSocketError::Io(_)) => return Ok(pieces),
                Err(WebSocketError::Protocol(rule)) => return Err(rule.to_owned()),
            }
        }
    }

    fn data(is_first: bool, is_last: bool, bytes: &[u8]) -> Piece {
        Piece::Data { is_first, is_last, bytes: bytes.to_vec() }
    }

    #[tokio::test]
    async fn messages_are_masked_and_may_come_in_frames_with_others_between() {
        // RFC 6455, 5.7: "Hello", masked; then "Hel" and "lo" with a ping between.
        let masked = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(read(&masked).await.unwrap(), [data(true, true, b"Hello")]);
        let zero = [0, 0, 0, 0];
        let parts = [
            [&[0x01, 0x83][..], &zero, b"Hel"].concat(),
            [&[0x89, 0x81][..], &zero, b"?"].concat(),
            [&[0x8a, 0x80][..], &zero].concat(),
            [&[0x80, 0x82][..], &zero, b"lo"].concat(),
            [&[0x88, 0x80][..], &zero].concat(),
        ];
        let expected = [
            data(true, false, b"Hel"),
            Piece::Ping(b"?".to_vec()),
            data(false, true, b"lo"),
            Piece::Close,
        ];
        assert_eq!(read(&parts.concat()).await.unwrap(), expected);
    }

    #[tokio::test]
    async fn what_one_side_writes_the_other_reads() {
        for len in [0, 1, 125, 126, 65_535, 65_536, 200_000] {
            let text = vec![b'x'; len];
            let mut wire = Vec::new();
            let mut writer = Writer::new(&mut wire, Role::Client);
            writer.message(&[7], &text).await.unwrap();
            writer.pong(b"p").await.unwrap();
            writer.close(CLOSE_NORMAL).await.unwrap();
            let pieces = read(&wire).await.unwrap();
            let bytes = pieces.iter().flat_map(|piece| match piece {
                Piece::Data { bytes, .. } => bytes.clone(),
                Piece::Ping(_) | Piece::Close => Vec::new(),
            });
            assert_eq!(bytes.collect::<Vec<u8>>(), [&[7][..], &text].concat());
            assert_eq!(pieces.last(), Some(&Piece::Close));
        }
    }

    #[tokio::test]
    async fn who_breaks_the_rules_is_refused() {
        let zero = [0, 0, 0, 0];
        let refused = async |bytes: &[u8]| read(bytes).await.unwrap_err();
        assert!(refused(&[0x82, 0x00]).await.contains("mask"));
        assert!(refused(&[&[0xc2, 0x80][..], &zero].concat()).await.contains("reserved"));
        assert!(refused(&[&[0x83, 0x80][..], &zero].concat()).await.contains("opcode"));
        assert!(refused(&[&[0x80, 0x80][..], &zero].concat()).await.contains("go on"));
        assert!(refused(&[&[0x09, 0x80][..], &zero].concat()).await.contains("control"));
        let long = [&[0x89, 0xfe, 0, 126][..], &zero].concat();
        assert!(refused(&long).await.contains("control"));
        let huge = [&[0x82, 0xff][..], &[0xff; 8], &zero].concat();
        assert!(refused(&huge).await.contains("63 bits"));
        let twice = [&[0x02, 0x80][..], &zero, &[0x82, 0x80], &zero].concat();
        assert!(refused(&twice).await.contains("not ended"));
    }
}
