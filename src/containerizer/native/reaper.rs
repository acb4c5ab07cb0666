//! PID 1 of a pod whose containers share their processes.
//!
//! A copy of the executor that does nothing but reap orphans, so that no container is special.
//! Nobody in the pod can trace it, read its memory or reach the executor's files through
//! `/proc/1/root`: it is not dumpable and has more capabilities than any container. As PID 1 of
//! its namespace it gets no signal from inside; when it ends, the kernel kills the whole pod.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal};
use rustix::io::FdFlags;
use rustix::pipe::PipeFlags;
use rustix::process::{DumpableBehavior, WaitOptions};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType};

use super::{ContainerizerError, ReaperState};
use crate::sys::{self, CloneRequest, Cloned};

/// A link to the namespace that children of this process begin in, unless it joined another.
pub(super) const OWN_NAMESPACE: &str = "/proc/self/ns/pid";

/// The handle on a pod's PID 1.
#[derive(Debug)]
pub(super) struct Reaper {
    pid: i32,
    pidfd: OwnedFd,
    /// The executor's own namespace, to come back to.
    own: File,
}

impl Reaper {
    pub(super) fn start() -> Result<Self, ContainerizerError> {
        let failed = |source| ContainerizerError::Reaper { source };
        let own = File::open(OWN_NAMESPACE).map_err(failed)?;
        let flags = u64::from(CloneFlags::CLONE_NEWPID.bits().unsigned_abs());
        let (done, ready) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        match sys::clone_process(&CloneRequest { flags, into_cgroup: None }).map_err(failed)? {
            Cloned::Parent { pid, pidfd } => {
                drop(ready);
                // No container may begin before its PID 1 is what it shall be.
                File::from(done).read_exact(&mut [0]).map_err(failed)?;
                Ok(Self { pid: pid.as_raw_nonzero().get(), pidfd, own })
            }
            Cloned::Child => reap_for_ever(&ready),
        }
    }

    pub(super) fn resume(state: &ReaperState) -> Result<Self, ContainerizerError> {
        let failed = |source| ContainerizerError::Reaper { source };
        let pidfd = sys::inherited_fd(state.pidfd).map_err(failed)?;
        let own = File::open(OWN_NAMESPACE).map_err(failed)?;
        Ok(Self { pid: state.pid, pidfd, own })
    }

    pub(super) fn hand_over(&self) -> Result<ReaperState, ContainerizerError> {
        rustix::io::fcntl_setfd(&self.pidfd, FdFlags::empty())
            .map_err(|error| ContainerizerError::Reaper { source: error.into() })?;
        Ok(ReaperState { pid: self.pid, pidfd: self.pidfd.as_raw_fd() })
    }

    pub(super) fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    /// Children made from now on are in the pod.
    pub(super) fn join(&self) -> Result<(), ContainerizerError> {
        let kind = ThreadNameSpaceType::PROCESS_ID;
        rustix::thread::move_into_thread_name_spaces(self.pidfd.as_fd(), kind)
            .map_err(|error| ContainerizerError::Join { pid: self.pid, source: error.into() })
    }

    /// Children made from now on are beside the executor again.
    pub(super) fn leave(&self) -> Result<(), ContainerizerError> {
        let kind = LinkNameSpaceType::ProcessID;
        rustix::thread::move_into_link_name_space(self.own.as_fd(), Some(kind))
            .map_err(|error| ContainerizerError::Join { pid: self.pid, source: error.into() })
    }
}

/// What the reaper does. The parent-death signal may come too late to be set if the executor ends
/// at this very moment; the agent's kill of the cgroup covers that.
fn reap_for_ever(ready: &OwnedFd) -> ! {
    /// Exit code for a set-up that failed; the executor sees the end of PID 1.
    const FAILED: i32 = 1;
    let set_up = || -> std::io::Result<SigSet> {
        sys::close_all_but(&[ready.as_fd()])?;
        sys::reset_signals();
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        rustix::process::setsid()?;
        rustix::thread::set_name(c"roost-reaper")?;
        let mut children = SigSet::empty();
        children.add(Signal::SIGCHLD);
        children.thread_block()?;
        rustix::io::write(ready, b"1")?;
        sys::close_all_but(&[])?;
        Ok(children)
    };
    let Ok(children) = set_up() else { sys::exit_now(FAILED) };
    loop {
        // An end between the two is still pending as a blocked signal.
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        if children.wait().is_err() {
            sys::exit_now(FAILED);
        }
    }
}
