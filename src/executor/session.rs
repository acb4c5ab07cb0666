//! [`Open`]: the descriptors and the cgroup of one session.
//!
//! It finds out what has happened, and does what it is told. Not here: what follows from what
//! (`sessions`), and how the program is executed (`containerizer`).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal};

use super::journal::{self, chain};
use super::poller::{EventFlags, Poller, Watched};
use super::protocol::OfSession;
use super::run::Process;
use super::sessions::Happened;
use super::token::Token;
use super::wire::{Outbox, WireError};
use crate::cgroup::{CgroupError, Events, SessionCgroup};
use crate::containerizer::native::{Executed, Master, STATUS_LEN_MAX};
use crate::state::record::Exit;

/// The agent says nothing on the socket of a session; it only closes it.
const HANG_UP: EventFlags = EventFlags::RDHUP.union(EventFlags::ET);

/// What there is of a session.
#[derive(Debug)]
pub(super) struct Open {
    /// None when the other side has hung up.
    socket: Option<Watched>,
    /// None when it was reaped.
    process: Option<Watched>,
    /// What the set-up says, until it has ended.
    status: Option<Watched>,
    text: Vec<u8>,
    /// The other side of its terminal, until it was passed on.
    terminal: Option<Master>,
    cgroup: SessionCgroup,
    /// Set when the end of what the program has started is waited for.
    others: Option<Watched<Events>>,
}

impl Open {
    /// Waits for everything of a session whose process was made.
    ///
    /// # Errors
    /// If that is not possible; the process was killed then.
    pub(super) fn watch(
        executed: Executed,
        socket: &OwnedFd,
        cgroup: SessionCgroup,
        poller: &Rc<Poller>,
        id: u32,
    ) -> io::Result<Self> {
        let Executed { pid: _, pidfd, status, terminal } = executed;
        let token = Token::Session(id).encode();
        let watch = || {
            let process = poller.watch(pidfd.try_clone()?, token, Process::EVENTS)?;
            let status = poller.watch(status, token, EventFlags::IN)?;
            Ok((poller.watch(socket.try_clone()?, token, HANG_UP)?, process, status))
        };
        match watch() {
            Ok((socket, process, status)) => Ok(Self {
                socket: Some(socket),
                process: Some(process),
                status: Some(status),
                text: Vec::new(),
                terminal,
                cgroup,
                others: None,
            }),
            Err(error) => {
                pidfd_send_signal(&pidfd, Signal::KILL).ok();
                kill(&cgroup);
                rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).ok();
                cgroup.remove().ok();
                Err(error)
            }
        }
    }

    /// Goes on with a session that runs.
    ///
    /// # Errors
    /// If it can't be waited for.
    pub(super) fn resume(
        socket: OwnedFd,
        process: OwnedFd,
        cgroup: SessionCgroup,
        poller: &Rc<Poller>,
        id: u32,
    ) -> io::Result<Self> {
        let token = Token::Session(id).encode();
        Ok(Self {
            socket: Some(poller.watch(socket, token, HANG_UP)?),
            process: Some(poller.watch(process, token, Process::EVENTS)?),
            status: None,
            text: Vec::new(),
            terminal: None,
            cgroup,
            others: None,
        })
    }

    /// What another program needs to go on with a session that runs: its socket, its process, and
    /// the name of its cgroup.
    #[must_use]
    pub(super) fn handles(&self) -> Option<(&Watched, &Watched, String)> {
        Some((self.socket.as_ref()?, self.process.as_ref()?, self.cgroup.name()))
    }

    /// Whether the end of what the program has started is waited for.
    #[must_use]
    pub(super) fn is_ending(&self) -> bool {
        self.others.is_some()
    }

    /// What has happened since this was last asked.
    pub(super) fn look(&mut self) -> Vec<Happened> {
        let mut happened = Vec::new();
        // Before its process is reaped: what the set-up has said is not lost then.
        happened.extend(self.read_status());
        happened.extend(self.reap());
        if self.others.as_ref().is_some_and(|events| self.is_empty(events)) {
            self.others = None;
            happened.push(Happened::Empty);
        }
        if self.socket.as_ref().is_some_and(has_hung_up) {
            self.socket = None;
            happened.push(Happened::ClientGone);
        }
        happened
    }

    fn read_status(&mut self) -> Option<Happened> {
        let status = self.status.as_ref()?;
        let mut buffer = [0; STATUS_LEN_MAX];
        loop {
            match rustix::io::read(status, &mut buffer) {
                Ok(0) => break,
                Ok(count) if self.text.len() < STATUS_LEN_MAX => {
                    self.text.extend_from_slice(&buffer[..count]);
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return None,
                Err(error) => {
                    self.text.extend_from_slice(format!("its status is lost: {error}").as_bytes());
                    break;
                }
            }
        }
        self.status = None;
        // What has failed says so when its process has ended.
        self.text.is_empty().then_some(Happened::Executed)
    }

    fn reap(&mut self) -> Option<Happened> {
        let process = self.process.as_ref()?;
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let exit = match rustix::process::waitid(WaitId::PidFd(process.as_fd()), options) {
            Ok(None) => return None,
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
                (None, Some(signal)) => Exit::Signal(u8::try_from(signal).unwrap_or(0)),
                (None, None) => Exit::Unknown,
            },
            Err(error) => {
                journal::note(format_args!("can't reap the process of a session: {error}"));
                Exit::Unknown
            }
        };
        self.process = None;
        if self.text.is_empty() {
            return Some(Happened::Ended(exit));
        }
        Some(Happened::NotExecuted(String::from_utf8_lossy(&self.text).into_owned()))
    }

    fn is_empty(&self, events: &Watched<Events>) -> bool {
        // This very descriptor has to be read, or it would stay ready.
        let populated = events.get().is_populated().unwrap_or_else(|error| {
            journal::note(format_args!("a session: {}", chain(&error)));
            false
        });
        if populated {
            kill(&self.cgroup);
        }
        !populated
    }

    /// Kills what the program has left behind, and tells when nothing is left; what is known at
    /// once is returned.
    pub(super) fn wait_until_empty(&mut self, poller: &Rc<Poller>, id: u32) -> Vec<Happened> {
        if !self.cgroup.is_populated().unwrap_or(false) {
            return vec![Happened::Empty];
        }
        let token = Token::Session(id).encode();
        let events = self.cgroup.events_fd().map_err(io::Error::other);
        let watched = events.and_then(|events| poller.watch(events, token, EventFlags::PRI));
        match watched {
            Ok(events) => self.others = Some(events),
            Err(error) => {
                kill(&self.cgroup);
                journal::note(format_args!("the end of a session is not waited for: {error}"));
                return vec![Happened::Empty];
            }
        }
        self.look()
    }

    /// Kills every process of it.
    pub(super) fn kill(&self) {
        if let Some(process) = &self.process {
            // Also where the cgroup can't: it was not entered yet.
            pidfd_send_signal(process, Signal::KILL).ok();
        }
        kill(&self.cgroup);
    }

    /// Says that it has begun, with the other side of its terminal.
    pub(super) fn say_begun(&mut self) {
        match self.terminal.take().map(Master::take).transpose() {
            Ok(terminal) => self.say(&OfSession::Begun, terminal.into_iter().collect()),
            Err(error) => {
                let why = format!("its terminal is lost: {error}");
                self.say(&OfSession::Refused { why }, Vec::new());
                self.kill();
            }
        }
    }

    /// Says something. Who does not take it is not there.
    pub(super) fn say(&self, message: &OfSession, fds: Vec<OwnedFd>) {
        if let Some(socket) = &self.socket {
            say(socket, message, fds);
        }
    }

    /// What is left of it: to be removed.
    #[must_use]
    pub(super) fn into_cgroup(self) -> SessionCgroup {
        self.cgroup
    }
}

/// Says something on the socket of a session.
pub(super) fn say(socket: impl AsFd, message: &OfSession, fds: Vec<OwnedFd>) {
    let mut outbox = Outbox::default();
    let said = outbox.push(message, fds).and_then(|()| outbox.flush(socket.as_fd()));
    match said {
        // What is said is short, and there is little of it: the socket takes it if it takes
        // anything.
        Ok(true) | Err(WireError::Socket(_)) => {}
        Ok(false) => journal::note(format_args!("nobody listens to a session")),
        Err(error) => journal::note(format_args!("a session can't be told: {}", chain(&error))),
    }
}

/// Whether nobody is there any more for a session.
pub(super) fn has_hung_up(socket: impl AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    let mut sockets = [PollFd::new(&socket, gone)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let polled = rustix::event::poll(&mut sockets, Some(&now));
    let [socket] = sockets;
    polled.is_ok() && socket.revents().intersects(gone)
}

fn kill(cgroup: &SessionCgroup) {
    if let Err(error) = cgroup.kill() {
        journal::note(format_args!("{}", chain(&error)));
    }
}

/// Removes a cgroup, if nobody is left in it.
pub(super) fn remove(cgroup: &SessionCgroup) -> bool {
    match cgroup.remove() {
        Ok(()) => true,
        Err(CgroupError::Populated { .. }) => false,
        Err(error) => {
            journal::note(format_args!("{}", chain(&error)));
            true
        }
    }
}
