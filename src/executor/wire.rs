//! Frames on a Unix stream socket, for both sides of [`super::protocol`].
//!
//! ```text
//! ┌──────────────┬───────────────────┬──────────┐
//! │ length: u32  │ descriptors: u32  │ JSON     │   both little-endian; the length is that of
//! └──────────────┴───────────────────┴──────────┘   the JSON alone
//! ```
//!
//! Descriptors travel with the first bytes of their frame (SCM_RIGHTS, unix(7)). The kernel never
//! joins two such messages in one read, but may put the end of an earlier frame before one; the
//! header says whose they are.
//!
//! Nothing here waits: [`Inbox`] takes what is there, [`Outbox`] sends what fits, so either can
//! be used in any loop and given up at any moment. Not here: when (`shell`, `client`).

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::protocol::{MESSAGE_FDS_MAX, MESSAGE_LEN_MAX};

/// Bytes before the JSON of a frame.
const HEADER_LEN: usize = 8;
/// Bytes taken from the socket at once.
const CHUNK_LEN: usize = 16 << 10;
/// Room for the descriptors of one message.
const CONTROL_LEN: usize = rustix::cmsg_space!(ScmRights(MESSAGE_FDS_MAX));

/// Why a connection can't be used any further.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The socket failed, or the other side has gone.
    #[error("the connection failed")]
    Socket(#[source] io::Error),
    /// It announced or would have needed a longer message than is allowed.
    #[error("a message of {len} bytes is longer than the {MESSAGE_LEN_MAX} allowed")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// More descriptors with one message than allowed, or other than announced.
    #[error("a message came with descriptors other than it announced, or too many")]
    Descriptors,
    /// The other side ended in the middle of a message.
    #[error("the connection ended in the middle of a message")]
    Truncated,
    /// The text is no message that this build knows.
    #[error("a message that can't be understood")]
    Garbage(#[source] serde_json::Error),
}

/// What [`Inbox::read`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Something; there may be more.
    Some,
    /// Nothing at the moment.
    Nothing,
    /// The other side has closed, between two messages.
    End,
}

/// What was received and not taken yet.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

impl Inbox {
    /// An inbox that goes on with bytes that another program received.
    #[must_use]
    pub fn resume(bytes: Vec<u8>) -> Self {
        Self { bytes, fds: VecDeque::new() }
    }

    /// The bytes of the unfinished message, to be handed over; none if descriptors came with it.
    #[must_use]
    pub fn unfinished(&self) -> Option<&[u8]> {
        self.fds.is_empty().then_some(&self.bytes)
    }

    /// Takes what is there, at most `CHUNK_LEN` bytes, without waiting.
    ///
    /// # Errors
    /// If the connection can't be used any further.
    pub fn read(&mut self, socket: BorrowedFd<'_>) -> Result<Received, WireError> {
        let mut chunk = [0_u8; CHUNK_LEN];
        let mut control = [MaybeUninit::uninit(); CONTROL_LEN];
        let mut control = RecvAncillaryBuffer::new(&mut control);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let result =
            retry(|| recvmsg(socket, &mut [IoSliceMut::new(&mut chunk)], &mut control, flags));
        let message = match result {
            Ok(message) => message,
            Err(Errno::AGAIN) => return Ok(Received::Nothing),
            Err(error) => return Err(WireError::Socket(error.into())),
        };
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = part {
                self.fds.extend(fds);
            }
        }
        if message.flags.contains(ReturnFlags::CTRUNC) || self.fds.len() > MESSAGE_FDS_MAX {
            return Err(WireError::Descriptors);
        }
        if message.bytes == 0 {
            let between = self.bytes.is_empty();
            return if between { Ok(Received::End) } else { Err(WireError::Truncated) };
        }
        self.bytes.extend_from_slice(&chunk[..message.bytes]);
        // Checked here as well, so that nothing piles up before the header is looked at.
        self.header()?;
        Ok(Received::Some)
    }

    /// The next whole message, with its descriptors, among what was received.
    ///
    /// # Errors
    /// If the connection can't be used any further.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<(T, Vec<OwnedFd>)>, WireError> {
        let Some((len, fds)) = self.header()? else { return Ok(None) };
        let Some(json) = self.bytes.get(HEADER_LEN..HEADER_LEN + len) else { return Ok(None) };
        if self.fds.len() < fds {
            return Err(WireError::Descriptors);
        }
        let message = serde_json::from_slice(json).map_err(WireError::Garbage)?;
        self.bytes.drain(..HEADER_LEN + len);
        // A large message must not hold its memory for ever.
        self.bytes.shrink_to(CHUNK_LEN);
        Ok(Some((message, self.fds.drain(..fds).collect())))
    }

    /// Length and descriptors of the message that comes next.
    fn header(&self) -> Result<Option<(usize, usize)>, WireError> {
        let Some((header, _)) = self.bytes.split_first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let [a, b, c, d, e, f, g, h] = *header;
        let number = |bytes| usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(usize::MAX);
        let (len, fds) = (number([a, b, c, d]), number([e, f, g, h]));
        if len > MESSAGE_LEN_MAX {
            return Err(WireError::TooLong { len });
        }
        if fds > MESSAGE_FDS_MAX {
            return Err(WireError::Descriptors);
        }
        Ok(Some((len, fds)))
    }
}

/// What is to be sent and was not taken by the socket yet.
#[derive(Debug, Default)]
pub struct Outbox {
    frames: VecDeque<Frame>,
}

#[derive(Debug)]
struct Frame {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

impl Outbox {
    /// An outbox that goes on with bytes that another program did not get sent.
    #[must_use]
    pub fn resume(bytes: Vec<u8>) -> Self {
        let frame = Frame { bytes, sent: 0, fds: Vec::new() };
        Self { frames: std::iter::once(frame).filter(|frame| !frame.bytes.is_empty()).collect() }
    }

    /// What is not sent yet, to be handed over. Descriptors of frames that were not begun are
    /// lost; the executor sends none.
    #[must_use]
    pub fn unsent(&self) -> Vec<u8> {
        self.frames.iter().flat_map(|frame| &frame.bytes[frame.sent..]).copied().collect()
    }

    /// Whether everything was taken by the socket.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Adds a message behind those that wait. Who adds without limit to what a slow reader does
    /// not take grows without limit: look at [`Outbox::is_empty`].
    ///
    /// # Errors
    /// If it is too long, or has too many descriptors.
    pub fn push(&mut self, message: &impl Serialize, fds: Vec<OwnedFd>) -> Result<(), WireError> {
        if fds.len() > MESSAGE_FDS_MAX {
            return Err(WireError::Descriptors);
        }
        let mut bytes = vec![0; HEADER_LEN];
        serde_json::to_writer(&mut bytes, message).map_err(WireError::Garbage)?;
        let len = bytes.len() - HEADER_LEN;
        if len > MESSAGE_LEN_MAX {
            return Err(WireError::TooLong { len });
        }
        let number = |n: usize| u32::try_from(n).expect("limited above").to_le_bytes();
        bytes[..4].copy_from_slice(&number(len));
        bytes[4..HEADER_LEN].copy_from_slice(&number(fds.len()));
        self.frames.push_back(Frame { bytes, sent: 0, fds });
        Ok(())
    }

    /// Sends what the socket takes, without waiting; true if that was everything.
    ///
    /// # Errors
    /// If the connection can't be used any further.
    pub fn flush(&mut self, socket: BorrowedFd<'_>) -> Result<bool, WireError> {
        while let Some(frame) = self.frames.front_mut() {
            match frame.send(socket) {
                Ok(()) if frame.sent == frame.bytes.len() => drop(self.frames.pop_front()),
                Ok(()) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(WireError::Socket(error.into())),
            }
        }
        Ok(true)
    }
}

impl Frame {
    fn send(&mut self, socket: BorrowedFd<'_>) -> Result<(), Errno> {
        let fds: Vec<BorrowedFd<'_>> = self.fds.iter().map(AsFd::as_fd).collect();
        let mut control = [MaybeUninit::uninit(); CONTROL_LEN];
        let mut control = SendAncillaryBuffer::new(&mut control);
        if !fds.is_empty() {
            let fits = control.push(SendAncillaryMessage::ScmRights(&fds));
            debug_assert!(fits, "the buffer has room for MESSAGE_FDS_MAX");
        }
        let rest = [IoSlice::new(&self.bytes[self.sent..])];
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let sent = retry(|| sendmsg(socket, &rest, &mut control, flags))?;
        self.sent += sent;
        // They went with the first byte.
        self.fds.clear();
        Ok(())
    }
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn frame(message: &str) -> Vec<u8> {
        let mut outbox = Outbox::default();
        outbox.push(&message, Vec::new()).unwrap();
        outbox.unsent()
    }

    fn null() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn a_message_may_come_byte_by_byte_or_with_others() {
        let (mut a, b) = UnixStream::pair().unwrap();
        let mut inbox = Inbox::default();
        assert_eq!(inbox.read(b.as_fd()).unwrap(), Received::Nothing);
        for byte in frame("one") {
            assert!(inbox.take::<String>().unwrap().is_none());
            a.write_all(&[byte]).unwrap();
            assert_eq!(inbox.read(b.as_fd()).unwrap(), Received::Some);
        }
        a.write_all(&[frame("two"), frame("three")].concat()).unwrap();
        inbox.read(b.as_fd()).unwrap();
        for expected in ["one", "two", "three"] {
            assert_eq!(inbox.take::<String>().unwrap().unwrap().0, expected);
        }
        drop(a);
        assert_eq!(inbox.read(b.as_fd()).unwrap(), Received::End);
    }

    #[test]
    fn descriptors_stay_with_their_message_and_are_close_on_exec() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut outbox = Outbox::default();
        let (read, write) = std::io::pipe().unwrap();
        outbox.push(&"plain", Vec::new()).unwrap();
        outbox.push(&"pipe", vec![write.into()]).unwrap();
        outbox.push(&"nulls", vec![null(), null()]).unwrap();
        assert!(outbox.flush(a.as_fd()).unwrap());
        drop(outbox);
        let mut inbox = Inbox::default();
        let mut seen = Vec::new();
        while inbox.read(b.as_fd()).unwrap() == Received::Some {
            while let Some((text, fds)) = inbox.take::<String>().unwrap() {
                seen.push((text, fds));
            }
        }
        let counts: Vec<_> = seen.iter().map(|(text, fds)| (text.as_str(), fds.len())).collect();
        assert_eq!(counts, [("plain", 0), ("pipe", 1), ("nulls", 2)]);
        let write = seen.swap_remove(1).1.remove(0);
        let flags = rustix::io::fcntl_getfd(&write).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        File::from(write).write_all(b"through").unwrap();
        let mut text = String::new();
        File::from(OwnedFd::from(read)).read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    }

    #[test]
    fn what_does_not_follow_the_protocol_is_refused() {
        let read = |bytes: &[u8]| {
            let (mut a, b) = UnixStream::pair().unwrap();
            a.write_all(bytes).unwrap();
            drop(a);
            let mut inbox = Inbox::default();
            loop {
                match inbox.read(b.as_fd())? {
                    Received::Some => drop(inbox.take::<String>()?),
                    Received::Nothing | Received::End => return Ok::<_, WireError>(()),
                }
            }
        };
        read(&frame("fine")).unwrap();
        let long = u32::try_from(MESSAGE_LEN_MAX + 1).unwrap().to_le_bytes();
        assert!(matches!(read(&[long, [0; 4]].concat()), Err(WireError::TooLong { .. })));
        assert!(matches!(read(&frame("cut")[..10]), Err(WireError::Truncated)));
        assert!(matches!(
            read(&[4, 0, 0, 0, 0, 0, 0, 0, b'{', b'{', 0, 0]),
            Err(WireError::Garbage(_))
        ));
        assert!(matches!(read(&[2, 0, 0, 0, 1, 0, 0, 0, b'"', b'"']), Err(WireError::Descriptors)));
        assert!(matches!(read(&[2, 0, 0, 0, 9, 0, 0, 0]), Err(WireError::Descriptors)));
        let five = (0..=MESSAGE_FDS_MAX).map(|_| null()).collect();
        assert!(matches!(Outbox::default().push(&"", five), Err(WireError::Descriptors)));
    }

    #[test]
    fn a_reader_that_stalls_does_not_block_the_sender() {
        let (a, b) = UnixStream::pair().unwrap();
        let text = "x".repeat(MESSAGE_LEN_MAX / 32);
        let mut outbox = Outbox::default();
        outbox.push(&text, Vec::new()).unwrap();
        assert!(!outbox.flush(a.as_fd()).unwrap());
        // Another program takes both ends over in the middle.
        let mut outbox = Outbox::resume(outbox.unsent());
        let mut inbox = Inbox::default();
        let received = loop {
            outbox.flush(a.as_fd()).unwrap();
            inbox.read(b.as_fd()).unwrap();
            inbox = Inbox::resume(inbox.unfinished().unwrap().to_vec());
            if let Some((received, _)) = inbox.take::<String>().unwrap() {
                break received;
            }
        };
        assert_eq!(received, text);
        assert!(outbox.is_empty());
    }
}
