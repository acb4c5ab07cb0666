//! A netlink socket: requests to the kernel, and its answers. Blocks.
//!
//! Messages of interfaces, addresses and routes are those of `netlink-packet-route`. Not here: what
//! is asked for.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// Longest datagram that is read; the kernel makes none of more than 32 KiB.
const BUFFER_LEN: usize = 64 << 10;
/// Most times that something is asked for again that has changed while it was told.
const DUMPS_MAX: usize = 16;
/// The kernel answers at once; this is so that nobody hangs if it does not.
const ANSWER_TIME_MAX_S: i64 = 10;

/// A message that is taken apart, or put together, by who uses it.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) kind: u16,
    pub(super) body: Vec<u8>,
}

impl NetlinkSerializable for Raw {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.body.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.body);
    }
}

impl NetlinkDeserializable for Raw {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { kind: header.message_type, body: payload.to_vec() })
    }
}

/// A text in an attribute, which a null may end.
pub(super) fn text(value: &[u8]) -> String {
    let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// A socket to one part of the kernel.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    /// A socket in the network namespace of the calling thread, which also hears what is said to
    /// `groups` (a bit for each).
    pub(super) fn open(protocol: SockProtocol, groups: u32) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        let time_max = TimeVal::seconds(ANSWER_TIME_MAX_S);
        setsockopt(&socket, sockopt::ReceiveTimeout, &time_max)?;
        Ok(Self { socket })
    }

    /// Makes room for requests of that length. It needs the right to administer the network.
    pub(super) fn make_room(&self, length: usize) -> io::Result<()> {
        Ok(setsockopt(&self.socket, sockopt::SndBufForce, &length)?)
    }

    /// Has one thing done.
    pub(super) fn act<T>(&self, payload: T, flags: u16) -> io::Result<()>
    where
        T: NetlinkSerializable + NetlinkDeserializable,
    {
        let request = bytes(payload, NLM_F_REQUEST | NLM_F_ACK | flags);
        self.send(&request)?;
        self.answer::<T>()
    }

    /// Sends messages that are one request, of which the kernel answers to one, or tells of faults.
    pub(super) fn act_together<T: NetlinkDeserializable>(&self, request: &[u8]) -> io::Result<()> {
        self.send(request)?;
        self.answer::<T>()
    }

    fn send(&self, request: &[u8]) -> io::Result<()> {
        let sent = send(self.socket.as_raw_fd(), request, MsgFlags::empty())?;
        if sent == request.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    fn answer<T: NetlinkDeserializable>(&self) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_LEN];
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            for message in Messages::<T>::of(&buffer[..length]) {
                if let NetlinkPayload::Error(error) = message?.payload {
                    return if error.code.is_none() { Ok(()) } else { Err(error.to_io()) };
                }
            }
        }
    }

    /// Asks for all there is of something, and again if it has changed meanwhile. What can't be
    /// understood is left out: kernels tell more from version to version.
    pub(super) fn dump<T>(&self, payload: impl Fn() -> T) -> io::Result<Vec<T>>
    where
        T: NetlinkSerializable + NetlinkDeserializable,
    {
        for _ in 0..DUMPS_MAX {
            self.send(&bytes(payload(), NLM_F_REQUEST | NLM_F_DUMP))?;
            if let Some(all) = self.dumped()? {
                return Ok(all);
            }
        }
        Err(io::Error::other("what the kernel was asked for changes all the time"))
    }

    /// What the kernel tells; nothing if that was not of one moment.
    fn dumped<T: NetlinkDeserializable>(&self) -> io::Result<Option<Vec<T>>> {
        let mut all = Vec::new();
        let mut is_whole = true;
        let mut buffer = vec![0; BUFFER_LEN];
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            for message in Messages::<T>::of(&buffer[..length]) {
                let Ok(message) = message else { continue };
                is_whole &= message.header.flags & NLM_F_DUMP_INTR == 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => all.push(inner),
                    // What went wrong in the middle is told at the end.
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(done.code.saturating_neg()));
                    }
                    NetlinkPayload::Done(_) => return Ok(is_whole.then_some(all)),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::Noop | NetlinkPayload::Overrun(_) | _ => {}
                }
            }
        }
    }
}

impl AsRawFd for Netlink {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

/// A message as it is sent.
pub(super) fn bytes<T: NetlinkSerializable>(payload: T, flags: u16) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(payload));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// The messages of one datagram.
struct Messages<'a, T> {
    rest: &'a [u8],
    of: core::marker::PhantomData<T>,
}

impl<'a, T> Messages<'a, T> {
    fn of(rest: &'a [u8]) -> Self {
        Self { rest, of: core::marker::PhantomData }
    }
}

impl<T: NetlinkDeserializable> Iterator for Messages<'_, T> {
    type Item = io::Result<NetlinkMessage<T>>;

    fn next(&mut self) -> Option<Self::Item> {
        let length = self.rest.get(..4)?;
        let length = u32::from_ne_bytes(length.try_into().ok()?);
        let length = usize::try_from(length).ok().filter(|length| *length >= 16)?;
        let message = self.rest.get(..length)?;
        self.rest = self.rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(NetlinkMessage::deserialize(message).map_err(io::Error::other))
    }
}
