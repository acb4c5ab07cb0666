//! [`Socket`]: a TCP connection in the executor's loop, in the form that libraries for protocols
//! take.
//!
//! There is no runtime: a future that waits for a socket is polled whenever the poller tells of the
//! socket, so a socket that is not ready wakes nobody. Not here: who polls (`request`).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::executor::poller::{EventFlags, Poller, Watched};
use crate::executor::token::Token;

/// Most bytes that are read of an answer. It bounds how long a server that sends without end can
/// keep the executor busy; the libraries bound what they keep of it.
const READ_LEN_MAX: usize = 1 << 20;

/// A connection that was made.
#[derive(Debug)]
pub(super) struct Socket {
    fd: Watched,
    /// What may still be read.
    left: usize,
}

/// Connects to a server, from within the network namespace of the executor, which is the pod's.
///
/// # Errors
/// Why there is no connection.
pub(super) async fn connect(
    poller: &Rc<Poller>,
    id: u32,
    address: IpAddr,
    port: u16,
) -> io::Result<Socket> {
    let fd = begin(SocketAddr::new(address, port))?;
    let events = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
    let fd = poller.watch(fd, Token::Question(id).encode(), events)?;
    std::future::poll_fn(|_| match is_decided(&fd) {
        Ok(false) => Poll::Pending,
        Ok(true) => Poll::Ready(Ok(())),
        Err(error) => Poll::Ready(Err(error)),
    })
    .await?;
    rustix::net::sockopt::socket_error(&fd)??;
    Ok(Socket { fd, left: READ_LEN_MAX })
}

fn begin(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&fd, &address) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(fd),
        Err(error) => Err(error.into()),
    }
}

/// Whether the connection was made or refused.
fn is_decided(fd: &Watched) -> io::Result<bool> {
    let mut fds = [PollFd::new(fd, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    Ok(rustix::event::poll(&mut fds, Some(&now))? > 0)
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            let text = format!("the answer is longer than {READ_LEN_MAX} bytes");
            return Poll::Ready(Err(io::Error::other(text)));
        }
        let most = buffer.remaining().min(self.left);
        match rustix::io::read(&self.fd, buffer.initialize_unfilled_to(most)) {
            Ok(count) => {
                self.left -= count;
                buffer.advance(count);
                Poll::Ready(Ok(()))
            }
            Err(Errno::AGAIN) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match rustix::net::send(&self.fd, bytes, SendFlags::NOSIGNAL) {
            Ok(count) => Poll::Ready(Ok(count)),
            Err(Errno::AGAIN) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Write) {
            Ok(()) | Err(Errno::NOTCONN) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}
