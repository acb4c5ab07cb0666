//! [`Pod`]: what the executor needs of the containerizer, prepared when it is first needed.
//!
//! A pod that can't be entered is no reason for the executor to end: each launch fails with the
//! reason, which is so recorded and shown, and is tried again after the back-off. Not here: how
//! a container is made (`containerizer`).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::journal::chain;
use super::poller::{EventFlags, Poller, Watched};
use super::token::Token;
use crate::cgroup::{ContainerCgroup, Entry};
use crate::containerizer::native::{
    self, ContainerizerError, ExecRequest, Executed, HostFacts, Launched, Native, NativeState,
};
use crate::manifest::pod::{ContainerSpec, PodSpec};
use crate::state::paths::PodPaths;
use crate::state::record::CONFIG_ERROR;

/// The pod's namespaces, and what launches depend on.
#[derive(Debug)]
pub(super) struct Pod {
    paths: PodPaths,
    masked: Vec<PathBuf>,
    poller: Rc<Poller>,
    entered: Option<Entered>,
}

#[derive(Debug)]
struct Entered {
    native: Native,
    facts: HostFacts,
    /// The pod's PID 1.
    reaper: Option<Watched>,
}

impl Pod {
    /// A pod that was not entered yet.
    #[must_use]
    pub(super) fn new(paths: PodPaths, masked: Vec<PathBuf>, poller: &Rc<Poller>) -> Self {
        Self { paths, masked, poller: Rc::clone(poller), entered: None }
    }

    /// Goes on in the namespaces that another program has entered.
    ///
    /// # Errors
    /// If the handles are not what `state` says.
    pub(super) fn resume(&mut self, state: &NativeState) -> Result<(), String> {
        let native = Native::resume(state).map_err(|error| chain(&error))?;
        let facts = self.facts().map_err(|error| error.to_string())?;
        self.entered = Some(self.watched(native, facts).map_err(|error| error.to_string())?);
        Ok(())
    }

    /// What another program needs to go on; its descriptors are not close-on-exec any more, until
    /// [`Self::keep`].
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn hand_over(&self) -> Result<Option<NativeState>, ContainerizerError> {
        self.entered.as_ref().map(|entered| entered.native.hand_over()).transpose()
    }

    /// Takes [`Self::hand_over`] back.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn keep(&self) -> io::Result<()> {
        let reaper = self.entered.as_ref().and_then(|entered| entered.native.reaper_pidfd());
        let close = rustix::io::FdFlags::CLOEXEC;
        Ok(reaper.map_or(Ok(()), |pidfd| rustix::io::fcntl_setfd(pidfd, close))?)
    }

    /// Launches a container.
    ///
    /// # Errors
    /// Why there is no process, in words.
    pub(super) fn launch(
        &mut self,
        spec: &PodSpec,
        container: &ContainerSpec,
        cgroup: &ContainerCgroup,
    ) -> Result<Launched, String> {
        let entered = match self.entered.take() {
            Some(entered) => entered,
            None => self.enter(spec)?,
        };
        let entered = self.entered.insert(entered);
        // Not kept until the next launch: its list of system calls alone is as large as all else
        // that the executor knows, and planning is quick.
        entered.facts.read_files(spec, container);
        let plan = native::plan(spec, container, &entered.facts)
            .map_err(|error| format!("{CONFIG_ERROR}{}", chain(&error)))?;
        let limits = (&container.resources).into();
        let entry = cgroup.create(&limits).map_err(|error| chain(&error))?;
        entered.native.launch(&plan, entry).map_err(|error| chain(&error))
    }

    /// Executes a program in a container that runs, with `output` as its output.
    ///
    /// # Errors
    /// Why there is no process, in words.
    pub(super) fn exec(
        &mut self,
        (spec, container): (&PodSpec, &ContainerSpec),
        target: BorrowedFd<'_>,
        command: &[String],
        entry: Entry,
        output: BorrowedFd<'_>,
    ) -> Result<Executed, String> {
        let missing = || "the pod's namespaces are not there".to_owned();
        let entered = self.entered.as_mut().ok_or_else(missing)?;
        entered.facts.read_files(spec, container);
        let plan = native::plan(spec, container, &entered.facts).map_err(|e| chain(&e))?;
        let null = File::open("/dev/null").map_err(|error| format!("/dev/null: {error}"))?;
        let streams = [null.as_fd(), output, output];
        let request = ExecRequest { plan: &plan, target, command, streams, entry };
        entered.native.exec(request).map_err(|error| chain(&error))
    }

    /// The pod's PID 1 has ended, and with it every container. The next launch begins anew.
    pub(super) fn reaper_ended(&mut self) {
        if let Some(Entered { reaper: Some(reaper), .. }) = &self.entered {
            let id = rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(reaper));
            rustix::process::waitid(id, rustix::process::WaitIdOptions::EXITED).ok();
        }
        self.entered = None;
    }

    fn enter(&self, spec: &PodSpec) -> Result<Entered, String> {
        // Before: a pod has a host name of its own.
        let facts = self.facts().map_err(|error| format!("looking at the host failed: {error}"))?;
        let native = native::enter_pod(spec, &self.paths).map_err(|error| chain(&error))?;
        self.watched(native, facts).map_err(|error| error.to_string())
    }

    fn facts(&self) -> io::Result<HostFacts> {
        let masked: Vec<&Path> = self.masked.iter().map(PathBuf::as_path).collect();
        HostFacts::read(self.paths.clone(), &masked)
    }

    fn watched(&self, native: Native, facts: HostFacts) -> io::Result<Entered> {
        let reaper = native.reaper_pidfd().map(|pidfd| {
            self.poller.watch(pidfd.try_clone()?, Token::Reaper.encode(), EventFlags::IN)
        });
        let reaper = reaper.transpose()?;
        Ok(Entered { native, facts, reaper })
    }
}
