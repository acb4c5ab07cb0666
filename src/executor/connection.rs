//! [`Connection`]: the executor's end of the connection to the agent.
//!
//! An agent that stalls costs nothing: what is to be said is noted as due and written down only
//! when everything before it was taken, so the newest report replaces those never sent. Not here:
//! what is answered (`shell`), and the bytes (`wire`).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use super::poller::{EventFlags, Poller, Watched};
use super::protocol::{PodReport, ToAgent, ToExecutor};
use super::token::Token;
use super::wire::{Inbox, Outbox, Received, WireError};

/// The executor's end of a connection.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Watched,
    inbox: Inbox,
    outbox: Outbox,
    /// Whether the poller tells when the socket takes more.
    waits_to_send: bool,
    /// What is to be said as soon as everything before it was taken.
    pub(super) due: Due,
}

/// What is to be said.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// Who the executor is.
    pub(super) welcome: bool,
    /// Why it could not be continued as another build.
    pub(super) refusal: Option<String>,
    /// Where the pod stands, even if that was said before.
    pub(super) report: bool,
    /// What was said last.
    pub(super) reported: Option<PodReport>,
}

impl Connection {
    /// A connection that somebody made.
    ///
    /// # Errors
    /// If it can't be waited for.
    pub(super) fn new(socket: OwnedFd, poller: &Rc<Poller>) -> io::Result<Self> {
        Self::resume(socket, Inbox::default(), Outbox::default(), poller)
    }

    /// A connection that another program had.
    ///
    /// # Errors
    /// If it can't be waited for.
    pub(super) fn resume(
        socket: OwnedFd,
        inbox: Inbox,
        outbox: Outbox,
        poller: &Rc<Poller>,
    ) -> io::Result<Self> {
        let waits_to_send = !outbox.is_empty();
        let socket = poller.watch(socket, Token::Connection.encode(), interest(waits_to_send))?;
        Ok(Self { socket, inbox, outbox, waits_to_send, due: Due::default() })
    }

    /// What another program needs to go on with it; none in the middle of a message that has
    /// descriptors.
    #[must_use]
    pub(super) fn state(&self) -> Option<(&Watched, &[u8], Vec<u8>)> {
        Some((&self.socket, self.inbox.unfinished()?, self.outbox.unsent()))
    }

    /// Takes what has come. A message at a time, so that each takes effect before the next.
    ///
    /// # Errors
    /// If the connection is not to be used any further; `None` when the agent has closed it.
    pub(super) fn read(&mut self) -> Result<Received, WireError> {
        self.inbox.read(self.socket.as_fd())
    }

    /// The next whole message of those that have come.
    ///
    /// # Errors
    /// If the connection is not to be used any further.
    pub(super) fn take(&mut self) -> Result<Option<(ToExecutor, Vec<OwnedFd>)>, WireError> {
        self.inbox.take()
    }

    /// Says what is due, as far as the agent listens. `report` is where the pod stands now.
    ///
    /// # Errors
    /// If the connection is not to be used any further.
    pub(super) fn send(
        &mut self,
        welcome: impl FnOnce() -> ToAgent,
        report: impl FnOnce() -> Option<PodReport>,
    ) -> Result<(), WireError> {
        if self.outbox.flush(self.socket.as_fd())? {
            if std::mem::take(&mut self.due.welcome) {
                self.outbox.push(&welcome(), Vec::new())?;
            }
            if let Some(why) = self.due.refusal.take() {
                self.outbox.push(&ToAgent::NotUpgraded { why }, Vec::new())?;
            }
            if std::mem::take(&mut self.due.report)
                && let Some(report) = report()
            {
                self.due.reported = Some(report.clone());
                self.outbox.push(&ToAgent::Report(report), Vec::new())?;
            }
            self.outbox.flush(self.socket.as_fd())?;
        }
        let waits_to_send = !self.outbox.is_empty();
        if waits_to_send != self.waits_to_send {
            self.socket
                .change(Token::Connection.encode(), interest(waits_to_send))
                .map_err(WireError::Socket)?;
            self.waits_to_send = waits_to_send;
        }
        Ok(())
    }

    /// Whether the agent's kernel has taken all that was to be said.
    #[must_use]
    pub(super) fn is_idle(&self) -> bool {
        let Due { welcome, refusal, report, reported: _ } = &self.due;
        self.outbox.is_empty() && !welcome && refusal.is_none() && !report
    }
}

fn interest(to_send: bool) -> EventFlags {
    if to_send { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN }
}
