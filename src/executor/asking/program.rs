//! [`Program`]: a program that was executed in a container to find something out.
//!
//! It is in a cgroup of its own below the container's, so that whatever it starts goes with it.
//! Not here: how it is executed (`containerizer::native`).

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal};

use crate::cgroup::{CgroupError, SessionCgroup};
use crate::containerizer::native::{Executed, STATUS_LEN_MAX};
use crate::executor::journal;
use crate::executor::poller::{EventFlags, Poller, Watched};
use crate::executor::question::{Answer, Observed, Seen, TEXT_LEN_MAX};
use crate::executor::run::Process;
use crate::executor::token::Token;

/// Output is read in pieces as large as this.
const READ_LEN: usize = 4 << 10;
/// Most output that is read when the program has ended: the largest pipe of an unprivileged user.
const DRAIN_LEN_MAX: usize = 1 << 20;

/// A program whose first process was not reaped yet.
#[derive(Debug)]
pub(super) struct Program {
    pidfd: Watched,
    output: Option<Watched>,
    /// What its set-up says if it fails. Read when the process has ended.
    status: OwnedFd,
    text: Vec<u8>,
    cgroup: SessionCgroup,
}

impl Program {
    /// Waits for a program that was executed with `output` as its standard output and error.
    ///
    /// # Errors
    /// If that is not possible; it was killed then.
    pub(super) fn watch(
        executed: Executed,
        output: OwnedFd,
        cgroup: SessionCgroup,
        poller: &std::rc::Rc<Poller>,
        id: u32,
    ) -> std::io::Result<Self> {
        let Executed { pid: _, pidfd, status, terminal: _ } = executed;
        let token = Token::Question(id).encode();
        let watched = poller.watch(output, token, EventFlags::IN).and_then(|output| {
            Ok((output, poller.watch(pidfd.try_clone()?, token, Process::EVENTS)?))
        });
        match watched {
            Ok((output, pidfd)) => {
                Ok(Self { pidfd, output: Some(output), status, text: Vec::new(), cgroup })
            }
            Err(error) => {
                kill(&pidfd, &cgroup);
                rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).ok();
                cgroup.remove().ok();
                Err(error)
            }
        }
    }

    /// Takes in what it has written, and whether it has ended; how, if it has. It is reaped then.
    pub(super) fn look(&mut self) -> Option<Answer> {
        self.read(READ_LEN);
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let status = match rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
            Ok(None) => return None,
            Ok(Some(status)) => status,
            Err(error) => {
                let why = format!("can't reap its process: {error}");
                return Some(Answer::NotAsked { why });
            }
        };
        self.read(DRAIN_LEN_MAX);
        if let Some(why) = self.fault() {
            return Some(Answer::Failure(Observed { seen: Seen::Nothing, text: why }));
        }
        let text = String::from_utf8_lossy(&self.text).trim_end().to_owned();
        let seen = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Seen::ExitCode(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
            (None, Some(signal)) => Seen::Signal(u8::try_from(signal).unwrap_or(0)),
            (None, None) => Seen::Nothing,
        };
        let observed = Observed { seen, text };
        Some(match seen {
            Seen::ExitCode(0) => Answer::Success(observed),
            Seen::ExitCode(_)
            | Seen::Signal(_)
            | Seen::Nothing
            | Seen::HttpStatus(_)
            | Seen::Connected(_)
            | Seen::GrpcStatus(_)
            | Seen::Slept => Answer::Failure(observed),
        })
    }

    /// Why its set-up has failed, if it has. Its process has ended.
    fn fault(&self) -> Option<String> {
        let mut buffer = [0; STATUS_LEN_MAX];
        let count = rustix::io::retry_on_intr(|| rustix::io::read(&self.status, &mut buffer));
        let text = buffer.get(..count.unwrap_or(0)).filter(|text| !text.is_empty())?;
        Some(String::from_utf8_lossy(text).into_owned())
    }

    /// Reads output up to that much; what is beyond the longest text is dropped, so that the
    /// program does not wait for somebody to take it.
    fn read(&mut self, most: usize) {
        let mut taken = 0;
        let mut buffer = [0; READ_LEN];
        while let Some(output) = &self.output
            && taken < most
        {
            match rustix::io::read(output.as_fd(), &mut buffer) {
                Ok(0) => self.output = None,
                Ok(count) => {
                    taken += count;
                    let room = TEXT_LEN_MAX.saturating_sub(self.text.len()).min(count);
                    self.text.extend_from_slice(buffer.get(..room).unwrap_or_default());
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => self.output = None,
            }
        }
    }

    /// Kills it and all that it has started. It is still to be reaped.
    pub(super) fn kill(&self) {
        kill(&self.pidfd, &self.cgroup);
    }

    /// Its cgroup, once it was reaped.
    pub(super) fn into_cgroup(self) -> SessionCgroup {
        self.cgroup
    }
}

fn kill(pidfd: impl AsFd, cgroup: &SessionCgroup) {
    // Also where the cgroup can't: it was not entered yet.
    pidfd_send_signal(pidfd, Signal::KILL).ok();
    if let Err(error) = cgroup.kill() {
        note(&error);
    }
}

/// Removes a cgroup, if nobody is left in it.
pub(super) fn remove(cgroup: &SessionCgroup) -> bool {
    match cgroup.remove() {
        Ok(()) => true,
        Err(CgroupError::Populated { .. }) => false,
        Err(error) => {
            note(&error);
            true
        }
    }
}

fn note(error: &CgroupError) {
    journal::note(format_args!("{}", journal::chain(error)));
}
