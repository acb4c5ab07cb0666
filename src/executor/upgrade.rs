//! The executor continues itself as another build, in place.
//!
//! ```text
//!   Upgrade { build } ─► Checking ─ the new program reads a copy ─► Checked ─ quiet ─► execve
//!                           │ it can't, or takes too long                        │ refused
//!                           └──────────────► NotUpgraded, this build goes on ◄───┘
//! ```
//!
//! Nothing is lost if any of it fails: the state is given up only by execve itself, which either
//! happens or does not. Not here: the state (`handover`).

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::io::FdFlags;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal};

use super::poller::{EventFlags, Poller, Watched};
use super::token::Token;
use crate::clock::{BootTime, Millis};
use crate::ids::PodName;
use crate::sys::{self, CloneRequest, Cloned};

/// How long the new program may look at the handover.
pub(super) const CHECK_TIME_MAX: Millis = Millis::from_secs(10);
/// The program's name among its arguments.
pub(super) const PROGRAM: &str = "roost-executor";

/// An upgrade that was asked for.
#[derive(Debug)]
pub(super) struct Upgrade {
    /// The build to continue as.
    pub(super) build: String,
    exe: OwnedFd,
    check: Option<Check>,
}

/// A child that runs the new program on a copy of the state.
#[derive(Debug)]
struct Check {
    pidfd: Watched,
    give_up_at: BootTime,
}

impl Upgrade {
    /// Has the new program look at the state of now, which must not have changed its format when
    /// the upgrade is done.
    ///
    /// # Errors
    /// If it can't be started.
    pub(super) fn check(
        build: String,
        exe: OwnedFd,
        name: &PodName,
        handover: &OwnedFd,
        poller: &Rc<Poller>,
        now: BootTime,
    ) -> io::Result<Self> {
        let mode = ["--check-handover".to_owned(), handover.as_raw_fd().to_string()];
        let argv = argv(name, &build, mode)?;
        let request = CloneRequest { flags: 0, into_cgroup: None };
        let pidfd = match sys::clone_process(&request)? {
            Cloned::Parent { pid: _, pidfd } => pidfd,
            Cloned::Child => {
                let result = rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
                    .and_then(|()| rustix::io::fcntl_setfd(handover, FdFlags::empty()))
                    .map_err(io::Error::from)
                    .and_then(|()| sys::execve_self(exe.as_fd(), &argv, &[]));
                let code = result.map_or(NOT_EXECUTED, |never| match never {});
                sys::exit_now(code)
            }
        };
        let pidfd = poller.watch(pidfd, Token::Check.encode(), EventFlags::IN)?;
        let check = Some(Check { pidfd, give_up_at: now.plus(CHECK_TIME_MAX) });
        Ok(Self { build, exe, check })
    }

    /// When the check is given up; none if it was passed.
    #[must_use]
    pub(super) fn give_up_at(&self) -> Option<BootTime> {
        self.check.as_ref().map(|check| check.give_up_at)
    }

    /// Looks whether the check has ended.
    ///
    /// # Errors
    /// Why the upgrade is given up.
    pub(super) fn look(&mut self, now: BootTime) -> Result<(), String> {
        let Some(check) = &self.check else { return Ok(()) };
        let id = WaitId::PidFd(check.pidfd.as_fd());
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match rustix::process::waitid(id, options) {
            Ok(None) if now < check.give_up_at => Ok(()),
            Ok(None) => {
                check.kill();
                Err(format!("the new program did not read the state within {CHECK_TIME_MAX}"))
            }
            Ok(Some(status)) if status.exit_status() == Some(0) => {
                self.check = None;
                Ok(())
            }
            Ok(Some(status)) => Err(match status.exit_status() {
                Some(NOT_EXECUTED) => "the new program could not be executed".to_owned(),
                Some(code) => format!("the new program can't go on from this state (exit {code})"),
                None => format!("the new program died of the state: {status:?}"),
            }),
            Err(error) => Err(format!("the new program was lost: {error}")),
        }
    }

    /// Gives the upgrade up.
    pub(super) fn cancel(self) {
        if let Some(check) = &self.check {
            check.kill();
        }
    }

    /// Whether the new program said that it can go on.
    #[must_use]
    pub(super) fn is_checked(&self) -> bool {
        self.check.is_none()
    }

    /// Continues as the new program, with those descriptors.
    ///
    /// # Errors
    /// Why that did not happen; all is as before then.
    pub(super) fn execute(
        &self,
        name: &PodName,
        handover: &OwnedFd,
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<Infallible> {
        let mode = ["--resume".to_owned(), handover.as_raw_fd().to_string()];
        let argv = argv(name, &self.build, mode)?;
        let all = || fds.iter().copied().chain([handover.as_fd()]);
        let result = all()
            .try_for_each(|fd| rustix::io::fcntl_setfd(fd, FdFlags::empty()))
            .map_err(io::Error::from)
            .and_then(|()| sys::execve_self(self.exe.as_fd(), &argv, &[]));
        for fd in all() {
            // What leaks for want of this, containers close before they execute their programs.
            rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC).ok();
        }
        result
    }
}

impl Check {
    fn kill(&self) {
        pidfd_send_signal(&self.pidfd, Signal::KILL).ok();
        // It dies at once, whatever it was doing: it has no disk to wait for.
        rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED).ok();
    }
}

/// Exit code of the check when the program was not executed, as of a shell.
const NOT_EXECUTED: i32 = 127;

/// The arguments of an executor, such that `ps` shows whose it is and which build.
///
/// # Errors
/// If one has a NUL in it.
pub(super) fn argv(
    name: &PodName,
    build: &str,
    more: impl IntoIterator<Item = String>,
) -> io::Result<Vec<CString>> {
    let name = name.to_string();
    let fixed = [PROGRAM, "--pod", &name, "--build", build].map(str::to_owned);
    let all = fixed.into_iter().chain(more);
    Ok(all.map(CString::new).collect::<Result<_, _>>()?)
}
