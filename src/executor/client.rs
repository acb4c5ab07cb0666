//! The agent's side of an executor: start one, connect to one, talk to one.
//!
//! Made for an agent with many threads. Not here: when (`agent`), and what is said (`protocol`).

use std::ffi::CString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags};
use sha2::{Digest, Sha256};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::boot::Boot;
use super::handover;
use super::protocol::{
    PROTOCOL, PROTOCOL_OF_FIRST_REPORT, PodReport, ToAgent, ToExecutor, WantedPod,
};
use super::upgrade;
use super::wire::{Inbox, Outbox, Received, WireError};
use crate::cgroup::CgroupError;
use crate::ids::PodId;
use crate::state::paths::EXECUTOR_SOCKET;
use crate::sys::{self, SpawnRequest};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4;
/// Name of the executor's own log in the pod's runtime directory.
pub const EXECUTOR_LOG: &str = "executor.log";
/// Hexadecimal digits of a build's name.
const BUILD_LEN: usize = 16;
/// How much of a program is read at once.
const READ_SIZE: usize = 64 * 1024;

/// The program of executors, as it is now: replacing the file changes nothing here.
#[derive(Debug)]
pub struct ExecutorProgram {
    exe: OwnedFd,
    build: String,
}

/// Why there is no program.
#[derive(Debug, thiserror::Error)]
#[error("{} can't be used as the program of executors: {what} failed", path.display())]
pub struct ProgramError {
    path: PathBuf,
    what: &'static str,
    source: io::Error,
}

impl AsFd for ExecutorProgram {
    /// What can be executed.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.exe.as_fd()
    }
}

impl ExecutorProgram {
    /// Opens the program on a read-only mount of its own, so that no container can write it.
    ///
    /// # Errors
    /// If it can't be opened or read.
    pub fn open(path: &Path) -> Result<Self, ProgramError> {
        let failed = |what| move |source| ProgramError { path: path.to_owned(), what, source };
        let mut file = File::open(path).map_err(failed("opening it"))?;
        let exe = sys::detached_read_only(file.as_fd())
            .map_err(failed("mounting it read-only for itself"))?;
        let (mut hash, mut buffer) = (Sha256::new(), vec![0; READ_SIZE]);
        loop {
            match file.read(&mut buffer).map_err(failed("reading it"))? {
                0 => break,
                read => hash.update(&buffer[..read]),
            }
        }
        let build =
            hash.finalize().iter().take(BUILD_LEN / 2).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { exe, build })
    }

    /// Names the content of the program: two that differ have different builds.
    #[must_use]
    pub fn build(&self) -> &str {
        &self.build
    }

    /// The message and the descriptor that have an executor continue as this program.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn upgrade(&self) -> io::Result<(ToExecutor, OwnedFd)> {
        Ok((ToExecutor::Upgrade { build: self.build.clone() }, self.exe.try_clone()?))
    }

    /// Starts the executor of a pod, whose cgroups exist already. It is told what it is for by
    /// whoever [connects](connect). Blocks for the time of a clone.
    ///
    /// # Errors
    /// If it could not be started; no process is left then.
    pub fn spawn(&self, boot: &Boot) -> Result<Spawned, SpawnError> {
        let failed = |what| move |source: io::Error| SpawnError::System { what, source };
        let runtime = &boot.paths.runtime;
        let directory = make_runtime_directory(runtime)
            .map_err(|source| SpawnError::Runtime { path: runtime.clone(), source })?;
        let listener = bind(&directory).map_err(|source| SpawnError::Runtime {
            path: runtime.join(EXECUTOR_SOCKET),
            source,
        })?;
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(runtime.join(EXECUTOR_LOG))
            .map_err(|source| SpawnError::Runtime { path: runtime.join(EXECUTOR_LOG), source })?;
        let json = serde_json::to_vec(boot).map_err(SpawnError::Boot)?;
        let file = handover::memory_file(&json).map_err(failed("making a memory file"))?;
        let argv = upgrade::argv(&boot.name, &self.build, [])
            .map_err(failed("writing down the arguments"))?;
        let entry = boot.cgroups.pod(boot.id).executor_entry().map_err(SpawnError::Cgroup)?;
        let environment: [CString; 0] = [];
        let request = SpawnRequest {
            exe: self.exe.as_fd(),
            argv: &argv,
            env: &environment,
            fds: &[listener.as_fd(), file.as_fd()],
            stderr: log.as_fd(),
            entry: Some(&entry),
        };
        let (pid, pidfd) = sys::spawn_detached(&request).map_err(failed("starting the program"))?;
        Ok(Spawned { pid, pidfd })
    }
}

/// An executor that was started. It is a child of the caller, who has to reap it.
#[derive(Debug)]
pub struct Spawned {
    /// Its process.
    pub pid: Pid,
    /// The same; becomes readable when it has ended.
    pub pidfd: OwnedFd,
}

/// Why an executor could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// Something in the pod's runtime directory could not be made.
    #[error("making {} failed", path.display())]
    Runtime {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What it is to be told can't be written down.
    #[error("writing down what the executor is told failed")]
    Boot(#[source] serde_json::Error),
    /// Its cgroup can't be entered.
    #[error("opening the executor's cgroup failed")]
    Cgroup(#[source] CgroupError),
    /// A system call.
    #[error("{what} failed")]
    System {
        /// What was attempted.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// Makes a pod's runtime directory, for root alone, and opens it.
fn make_runtime_directory(path: &Path) -> io::Result<OwnedFd> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    open_directory(path)
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// The address of the socket in a directory. Not by its path, which may be longer than the 108
/// bytes of an address (unix(7)).
fn address(directory: &OwnedFd) -> io::Result<SocketAddrUnix> {
    let path = format!("/proc/self/fd/{}/{EXECUTOR_SOCKET}", directory.as_raw_fd());
    Ok(SocketAddrUnix::new(path)?)
}

fn bind(directory: &OwnedFd) -> io::Result<OwnedFd> {
    match rustix::fs::unlinkat(directory, EXECUTOR_SOCKET, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let socket = socket()?;
    rustix::net::bind(&socket, &address(directory)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no executor: no socket, or nobody listens.
    #[error("there is no executor at {}", path.display())]
    Gone {
        /// The socket.
        path: PathBuf,
    },
    /// There may be one, and it can't be reached.
    #[error("connecting to the executor at {} failed", path.display())]
    Other {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Connects to the executor of a pod through its runtime directory (`PodPaths::runtime`). Call it
/// within a tokio runtime.
///
/// # Errors
/// [`ConnectError::Gone`] if there certainly is none.
pub fn connect(runtime: &Path) -> Result<Connection, ConnectError> {
    let path = runtime.join(EXECUTOR_SOCKET);
    let attempt = || {
        let directory = open_directory(runtime)?;
        let socket = socket()?;
        rustix::net::connect(&socket, &address(&directory)?)?;
        UnixStream::from_std(socket.into())
    };
    let gone = [Errno::NOENT, Errno::CONNREFUSED, Errno::NOTDIR].map(|e| Some(e.raw_os_error()));
    match attempt() {
        Ok(socket) => Ok(Connection { socket, inbox: Inbox::default(), outbox: Outbox::default() }),
        Err(error) if gone.contains(&error.raw_os_error()) => Err(ConnectError::Gone { path }),
        Err(source) => Err(ConnectError::Other { path, source }),
    }
}

/// A connection to an executor.
#[derive(Debug)]
pub struct Connection {
    socket: UnixStream,
    inbox: Inbox,
    outbox: Outbox,
}

/// Who an executor is ([`ToAgent::Welcome`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The newest version of the protocol it speaks.
    pub protocol: u32,
    /// Which build it is.
    pub build: String,
    /// Whose executor it is.
    pub pod: PodId,
    /// Its process.
    pub pid: u32,
    /// What it was told last.
    pub wanted: Option<WantedPod>,
    /// Where its pod stands, if it was told anything. An executor of an earlier build says so only
    /// when it is told something.
    pub report: Option<PodReport>,
}

/// Why an executor does not answer.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// The connection failed.
    #[error("the connection to the executor failed")]
    Wire(#[source] WireError),
    /// It closed the connection.
    #[error("the executor closed the connection")]
    Closed,
    /// It said something else first.
    #[error("the executor said something else than who it is: {0}")]
    Unexpected(&'static str),
    /// It said nothing in time.
    #[error("the executor did not answer within {} ms", after.as_millis())]
    Timeout {
        /// How long it was waited for.
        after: Duration,
    },
}

impl Connection {
    /// Says hello, and learns who the executor is.
    ///
    /// # Errors
    /// If it does not answer so in time; the connection is of no use then.
    pub async fn hello(&mut self, timeout: Duration) -> Result<Welcome, HelloError> {
        let answer = tokio::time::timeout(timeout, self.introduction()).await;
        answer.map_err(|_| HelloError::Timeout { after: timeout })?
    }

    async fn introduction(&mut self) -> Result<Welcome, HelloError> {
        let hello = ToExecutor::Hello { protocol: PROTOCOL };
        self.send(&hello, Vec::new()).await.map_err(HelloError::Wire)?;
        let (protocol, build, pod, pid, wanted) = match self.answer().await? {
            ToAgent::Welcome { protocol, build, pod, pid, wanted } => {
                (protocol, build, pod, pid, wanted)
            }
            ToAgent::Report(_) => return Err(HelloError::Unexpected("a report")),
            ToAgent::NotUpgraded { .. } => return Err(HelloError::Unexpected("a refusal")),
        };
        let report = if wanted.is_some() && protocol >= PROTOCOL_OF_FIRST_REPORT {
            match self.answer().await? {
                ToAgent::Report(report) => Some(report),
                ToAgent::Welcome { .. } => return Err(HelloError::Unexpected("a second welcome")),
                ToAgent::NotUpgraded { .. } => return Err(HelloError::Unexpected("a refusal")),
            }
        } else {
            None
        };
        Ok(Welcome { protocol, build, pod, pid, wanted, report })
    }

    async fn answer(&mut self) -> Result<ToAgent, HelloError> {
        self.next().await.map_err(HelloError::Wire)?.ok_or(HelloError::Closed)
    }

    /// Sends a message. An executor always takes it, as fast as it is scheduled.
    ///
    /// Cancel-safe in that a message is sent whole or not at all: what is left of it goes with the
    /// next call of this or of [`Self::next`].
    ///
    /// # Errors
    /// If the connection failed.
    pub async fn send(&mut self, message: &ToExecutor, fds: Vec<OwnedFd>) -> Result<(), WireError> {
        self.outbox.push(message, fds)?;
        while !self.outbox.is_empty() {
            self.socket.writable().await.map_err(WireError::Socket)?;
            self.flush()?;
        }
        Ok(())
    }

    /// The next message; none when the executor has closed the connection or ended. Cancel-safe.
    ///
    /// # Errors
    /// If the connection failed.
    pub async fn next(&mut self) -> Result<Option<ToAgent>, WireError> {
        loop {
            // Descriptors will come with answers about sessions; none are expected yet.
            if let Some((message, _fds)) = self.inbox.take()? {
                return Ok(Some(message));
            }
            tokio::select! {
                // Cancel-safe: readiness is kept until it is found not to be there.
                ready = self.socket.readable() => {
                    ready.map_err(WireError::Socket)?;
                    if self.read()? == Received::End {
                        return Ok(None);
                    }
                }
                // Cancel-safe: the same. What a cancelled `send` has left.
                ready = self.socket.writable(), if !self.outbox.is_empty() => {
                    ready.map_err(WireError::Socket)?;
                    self.flush()?;
                }
            }
        }
    }

    fn read(&mut self) -> Result<Received, WireError> {
        let Self { socket, inbox, .. } = self;
        when_ready(socket, Interest::READABLE, || match inbox.read(socket.as_fd()) {
            Ok(Received::Nothing) => None,
            other => Some(other),
        })
        .unwrap_or(Ok(Received::Nothing))
    }

    fn flush(&mut self) -> Result<(), WireError> {
        let Self { socket, outbox, .. } = self;
        when_ready(socket, Interest::WRITABLE, || match outbox.flush(socket.as_fd()) {
            Ok(false) => None,
            Ok(true) => Some(Ok(())),
            Err(error) => Some(Err(error)),
        })
        .unwrap_or(Ok(()))
    }

    /// A handle on the executor's process, whose end makes it readable. `pid` is what the executor
    /// [said](Welcome::pid); the handle is right because the connection is still there after it
    /// was made, so that the pid can't have been used again. None if the executor has ended.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn pidfd(&self, pid: u32) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Also seen when there is still something to be read (unix_poll of the kernel).
        let hung_up = PollFlags::HUP | PollFlags::RDHUP;
        let mut socket = [PollFd::new(&self.socket, hung_up)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut socket, Some(&now))?;
        let [socket] = socket;
        Ok((!socket.revents().intersects(hung_up)).then_some(pidfd))
    }

    /// The process at the other end, as the kernel knows it: the one that listens.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn peer_pid(&self) -> io::Result<u32> {
        let peer = rustix::net::sockopt::socket_peercred(&self.socket)?;
        Ok(peer.pid.as_raw_nonzero().get().unsigned_abs())
    }
}

/// Tries what says with `None` that the socket is not ready, so that the runtime waits for it.
fn when_ready<T>(
    socket: &UnixStream,
    interest: Interest,
    mut attempt: impl FnMut() -> Option<T>,
) -> Option<T> {
    socket.try_io(interest, || attempt().ok_or_else(|| io::ErrorKind::WouldBlock.into())).ok()
}
