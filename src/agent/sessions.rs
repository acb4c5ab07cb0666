//! Sessions: programs that are executed in containers for somebody outside, and connections into
//! the networks of pods.
//!
//! The agent makes the pipes and keeps its ends: what goes through them never goes through the
//! executor, and a session waits for nobody but its own client. Whatever becomes of the agent, its
//! ends are closed then, and the executor kills the session. Not here: who asks, and in what form
//! it goes over the wire (`api`); what the executor does (`executor::sessions`).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::link::{LinkHandle, TellError};
use super::service::{Request, Service};
use crate::executor::protocol::{NewSession, OfSession, PROTOCOL_OF_SESSIONS, ToExecutor};
use crate::executor::wire::{Inbox, Received, WireError};
use crate::ids::{ContainerName, PodId};
use crate::state::record::Exit;

pub use crate::executor::protocol::TerminalSize;

/// How long an executor may take until the program runs, or is refused.
const BEGIN_TIME_MAX: Duration = Duration::from_secs(60);
/// How long a connection within this machine may take.
const DIAL_TIME_MAX: Duration = Duration::from_secs(60);

/// A way to the executor of one pod. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ToPod(pub(super) LinkHandle);

/// A session that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedSession {
    /// In which pod.
    pub pod: PodId,
    /// In which of its containers.
    pub container: ContainerName,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Which of its standard streams somebody is there for; the others are `/dev/null`.
    pub streams: Streams,
}

/// The standard streams of a program that somebody is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streams {
    /// A pipe for each of those.
    Pipes {
        /// Standard input.
        stdin: bool,
        /// Standard output.
        stdout: bool,
        /// Standard error.
        stderr: bool,
    },
    /// A terminal of that size is all three.
    Terminal(TerminalSize),
}

/// A program that runs in a container. It is killed when this is dropped.
#[derive(Debug)]
pub struct Session {
    /// The ends of its streams.
    pub ends: Ends,
    /// Tells when it is over.
    pub end: End,
}

/// The agent's ends of the streams of a session.
#[derive(Debug)]
pub enum Ends {
    /// Those that were asked for.
    Pipes {
        /// Its standard input ends when this is dropped.
        stdin: Option<Flow>,
        /// Standard output.
        stdout: Option<Flow>,
        /// Standard error.
        stderr: Option<Flow>,
    },
    /// What is written here is what is typed.
    Terminal(Flow),
}

/// One end of a pipe, or the side of a terminal that people are at.
#[derive(Debug)]
pub struct Flow(AsyncFd<OwnedFd>);

impl Flow {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self(awaited(fd, Interest::READABLE | Interest::WRITABLE)?))
    }

    /// What is there, without waiting: how much, 0 at the end, none if there is nothing yet.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match rustix::io::read(&self.0, &mut *buffer) {
                Ok(count) => return Ok(Some(count)),
                // Nobody has the other side of the terminal any more (pty(7)).
                Err(Errno::IO) => return Ok(Some(0)),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until there may be something to read. Cancel-safe.
    ///
    /// # Errors
    /// If that can't be waited for.
    pub async fn readable(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            // Whether there is something is asked of the kernel, and not of what it said before.
            if is_ready(&self.0, rustix::event::PollFlags::IN)? {
                return Ok(());
            }
            ready.clear_ready();
        }
    }

    /// Writes all of it, as fast as it is taken.
    ///
    /// # Errors
    /// EPIPE if nobody will ever read it.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            match rustix::io::write(&self.0, bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Says how large the terminal is.
    ///
    /// # Errors
    /// If it is none.
    pub fn resize(&self, size: TerminalSize) -> io::Result<()> {
        Ok(rustix::termios::tcsetwinsize(&self.0, size.winsize())?)
    }
}

/// A descriptor that can be waited for.
///
/// # Errors
/// If the kernel refuses.
pub fn awaited(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(
        deprecated,
        reason = "`register` is unsafe for descriptors that may change; an OwnedFd does not"
    )]
    AsyncFd::with_interest(fd, interest)
}

fn is_ready(fd: impl AsFd, what: rustix::event::PollFlags) -> io::Result<bool> {
    let mut polled = [rustix::event::PollFd::new(&fd, what)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    let found = rustix::event::poll(&mut polled, Some(&now));
    Ok(rustix::io::retry_on_intr(|| found)? > 0)
}

/// The agent's end of the socket of a session.
#[derive(Debug)]
pub struct End {
    socket: AsyncFd<OwnedFd>,
    inbox: Inbox,
}

impl End {
    fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = awaited(socket, Interest::READABLE)?;
        Ok(Self { socket, inbox: Inbox::default() })
    }

    async fn next(&mut self) -> Result<Option<(OfSession, Vec<OwnedFd>)>, WireError> {
        loop {
            if let Some(message) = self.inbox.take()? {
                return Ok(Some(message));
            }
            // Cancel-safe: what was read is in the inbox.
            let mut ready = self.socket.readable().await.map_err(WireError::Socket)?;
            match self.inbox.read(self.socket.as_fd())? {
                Received::Some => {}
                Received::Nothing => ready.clear_ready(),
                Received::End => return Ok(None),
            }
        }
    }

    /// Waits until nothing is left of the session: how its program has ended, or why that can't be
    /// known. Whatever it has written is in its streams then. Cancel-safe.
    ///
    /// # Errors
    /// In words.
    pub async fn ended(&mut self) -> Result<Exit, String> {
        loop {
            match self.next().await {
                Ok(Some((OfSession::Ended { exit }, _))) => return Ok(exit),
                Ok(Some((OfSession::Begun, _))) => {}
                Ok(Some((OfSession::Refused { why }, _))) => return Err(why),
                Ok(None) => return Err("the pod's executor has ended".to_owned()),
                Err(error) => return Err(super::chain(&error)),
            }
        }
    }
}

/// Why there is no session, or no connection.
#[derive(Debug, thiserror::Error)]
pub enum SessionRefused {
    /// The agent's loop has ended.
    #[error("the agent is ending")]
    Ending,
    /// Nobody is there to ask.
    #[error("the executor of the pod does not answer now")]
    NoExecutor,
    /// It is of an earlier build.
    #[error(
        "the executor of the pod is of an earlier build, which can't do this; it goes on as the \
         new one as soon as it can, and `roost restart` starts the pod with it"
    )]
    Outdated,
    /// The executor says why.
    #[error("{0}")]
    Refused(String),
    /// It said nothing in time.
    #[error("the executor of the pod did not do it within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The agent lacks something.
    #[error("{attempted} failed")]
    System {
        /// What was attempted.
        attempted: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Nobody listens there.
    #[error("connecting to port {port} of the pod failed")]
    NotConnected {
        /// Which port.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// What was said about it can't be understood.
    #[error("talking to the executor of the pod failed")]
    Wire(#[source] WireError),
}

fn system<E: Into<io::Error>>(attempted: &'static str) -> impl Fn(E) -> SessionRefused {
    move |error| SessionRefused::System { attempted, source: error.into() }
}

impl Service {
    /// Executes a program in a container that runs.
    ///
    /// # Errors
    /// Why it does not run.
    pub async fn open_session(&self, wanted: WantedSession) -> Result<Session, SessionRefused> {
        let WantedSession { pod, container, command, streams } = wanted;
        let link = self.way_to(pod).await?;
        let mut theirs = Vec::new();
        let pipes = match streams {
            Streams::Terminal(_) => None,
            Streams::Pipes { stdin, stdout, stderr } => Some(Ends::Pipes {
                stdin: end(stdin, Side::Input, &mut theirs)?,
                stdout: end(stdout, Side::Output, &mut theirs)?,
                stderr: end(stderr, Side::Output, &mut theirs)?,
            }),
        };
        let terminal = match streams {
            Streams::Terminal(size) => Some(size),
            Streams::Pipes { .. } => None,
        };
        let message = ToExecutor::Exec(NewSession { container, command, terminal });
        let (end, mut passed) = ask(&link, message, theirs).await?;
        let ends = match (pipes, passed.pop()) {
            (Some(pipes), _) => pipes,
            (None, Some(terminal)) => {
                Ends::Terminal(Flow::new(terminal).map_err(system("using the terminal"))?)
            }
            (None, None) => {
                return Err(SessionRefused::Refused("its terminal did not come".to_owned()));
            }
        };
        Ok(Session { ends, end })
    }

    /// Connects to a port of a pod, on its loopback interface, as programs in it would.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn dial(&self, pod: PodId, port: u16) -> Result<TcpStream, SessionRefused> {
        let link = self.way_to(pod).await?;
        let places = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let mut refused = None;
        for place in places {
            match dial(&link, SocketAddr::new(place, port)).await {
                Ok(stream) => return Ok(stream),
                // What is said of the first is what people understand.
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        Err(refused.unwrap_or(SessionRefused::NoExecutor))
    }

    async fn way_to(&self, pod: PodId) -> Result<LinkHandle, SessionRefused> {
        let asked = self.ask(|answer: oneshot::Sender<Option<ToPod>>| Request::Way { pod, answer });
        let way = asked.await.map_err(|_| SessionRefused::Ending)?;
        let ToPod(link) = way.ok_or(SessionRefused::NoExecutor)?;
        if link.protocol() < PROTOCOL_OF_SESSIONS {
            return Err(SessionRefused::Outdated);
        }
        Ok(link)
    }
}

/// Asks for something that is answered on a socket of its own.
async fn ask(
    link: &LinkHandle,
    message: ToExecutor,
    mut fds: Vec<OwnedFd>,
) -> Result<(End, Vec<OwnedFd>), SessionRefused> {
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .map_err(system("making a pair of sockets"))?;
    fds.insert(0, theirs);
    let mut end = End::new(ours).map_err(system("using a socket"))?;
    let answered = async {
        link.send(message, fds).await.map_err(|error| match error {
            TellError::Closed | TellError::TimedOut(_) => SessionRefused::NoExecutor,
            TellError::Refused(why) => SessionRefused::Refused(why),
        })?;
        match end.next().await.map_err(SessionRefused::Wire)? {
            Some((OfSession::Begun, passed)) => Ok(passed),
            Some((OfSession::Refused { why }, _)) => Err(SessionRefused::Refused(why)),
            Some((OfSession::Ended { .. }, _)) => {
                Err(SessionRefused::Refused("it was killed before it began".to_owned()))
            }
            None => Err(SessionRefused::NoExecutor),
        }
    };
    let answered = timeout(BEGIN_TIME_MAX, answered).await;
    let passed = answered.map_err(|_| SessionRefused::TimedOut(BEGIN_TIME_MAX))??;
    Ok((end, passed))
}

async fn dial(link: &LinkHandle, address: SocketAddr) -> Result<TcpStream, SessionRefused> {
    let failed = |source| SessionRefused::NotConnected { port: address.port(), source };
    let (_end, mut passed) = ask(link, ToExecutor::Dial { address }, Vec::new()).await?;
    let socket = passed.pop().ok_or(SessionRefused::NoExecutor)?;
    let stream = TcpStream::from_std(socket.into()).map_err(failed)?;
    let connected = timeout(DIAL_TIME_MAX, stream.writable()).await;
    connected.map_err(|_| SessionRefused::TimedOut(DIAL_TIME_MAX))?.map_err(failed)?;
    // What became of it (connect(2), EINPROGRESS).
    match stream.take_error().map_err(failed)? {
        Some(error) => Err(failed(error)),
        None => Ok(stream),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// The program reads it.
    Input,
    /// The program writes it.
    Output,
}

/// One stream: its end for the program is added to those, the other one is returned if somebody is
/// there for it.
fn end(
    wanted: bool,
    side: Side,
    theirs: &mut Vec<OwnedFd>,
) -> Result<Option<Flow>, SessionRefused> {
    if !wanted {
        let null = std::fs::File::options().read(true).write(true).open("/dev/null");
        theirs.push(null.map_err(system("opening /dev/null"))?.into());
        return Ok(None);
    }
    let (read, write) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(system("making a pipe"))?;
    let (ours, their) = match side {
        Side::Input => (write, read),
        Side::Output => (read, write),
    };
    theirs.push(their);
    Flow::new(ours).map(Some).map_err(system("using a pipe"))
}
