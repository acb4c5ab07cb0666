//! [`Pod`]: what the executor needs of the containerizer, prepared when it is first needed.
//!
//! A pod that can't be entered is no reason for the executor to end: each launch fails with the
//! reason, which is so recorded and shown, and is tried again after the back-off. Not here: how
//! a container is made (`containerizer`).

use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::boot::Boot;
use super::journal::chain;
use super::poller::{EventFlags, Poller, Watched};
use super::protocol::PodNetwork;
use super::token::Token;
use crate::cgroup::{ContainerCgroup, Entry};
use crate::containerizer::native::{
    self, ContainerizerError, ExecRequest, Executed, HostFacts, Launched, Native, NativeState,
    Network, Streams,
};
use crate::ids::{Attempt, PodId};
use crate::manifest::pod::{ContainerSpec, PodSpec, Volume, VolumeSource};
use crate::manifest::resolve::{self, Content, Instance};
use crate::manifest::revision::Revision;
use crate::state::checkpoint::{self, ConfigFile};
use crate::state::paths::PodPaths;
use crate::state::record::CONFIG_ERROR;

/// What is shown instead of a Secret.
const HIDDEN: &str = "<secret>";

/// The pod's namespaces, and what launches depend on.
#[derive(Debug)]
pub(super) struct Pod {
    id: PodId,
    paths: PodPaths,
    masked: Vec<PathBuf>,
    poller: Rc<Poller>,
    /// The network that the process is in, if the agent has made it.
    network: Option<PodNetwork>,
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
    pub(super) fn new(boot: &Boot, poller: &Rc<Poller>) -> Self {
        let Boot { id, paths, masked, .. } = boot;
        let (paths, masked) = (paths.clone(), masked.clone());
        Self { id: *id, paths, masked, poller: Rc::clone(poller), network: None, entered: None }
    }

    /// The network that the process is in, if the agent has made it.
    #[must_use]
    pub(super) fn network(&self) -> Option<&PodNetwork> {
        self.network.as_ref()
    }

    /// The process has entered a network namespace.
    pub(super) fn set_network(&mut self, network: PodNetwork) {
        self.network = Some(network);
    }

    fn addresses(&self) -> &[IpAddr] {
        self.network.as_ref().map_or(&[], |network| &network.addresses)
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
        (container, attempt): (&ContainerSpec, Attempt),
        cgroup: &ContainerCgroup,
    ) -> Result<Launched, String> {
        let entered = match self.entered.take() {
            Some(entered) => entered,
            None => self.enter(spec)?,
        };
        let addresses = self.network.as_ref().map_or(&[][..], |network| &network.addresses);
        let entered = self.entered.insert(entered);
        // What a container needs of values is read when it is needed: they are nowhere in here.
        let resolved = if spec.takes_config() {
            let content = read_content(&self.paths, spec)?;
            let of = Instance { pod: spec, content: &content, id: self.id, addresses };
            write_files(&self.paths, of)?;
            Some(resolved(of, container)?)
        } else {
            None
        };
        let container = resolved.as_ref().unwrap_or(container);
        // Not kept until the next launch: its list of system calls alone is as large as all else
        // that the executor knows, and planning is quick.
        entered.facts.read_files(spec, container);
        entered.facts.attempt = attempt;
        let plan = native::plan(spec, container, &entered.facts)
            .map_err(|error| format!("{CONFIG_ERROR}: {}", chain(&error)))?;
        let limits = (&container.resources).into();
        let entry = cgroup.create(&limits).map_err(|error| chain(&error))?;
        entered.native.launch(&plan, entry).map_err(|error| chain(&error))
    }

    /// Executes a program in a container that runs.
    ///
    /// # Errors
    /// Why there is no process, in words.
    pub(super) fn exec(
        &mut self,
        (spec, container): (&PodSpec, &ContainerSpec),
        target: BorrowedFd<'_>,
        command: &[String],
        entry: Entry,
        streams: Streams<'_>,
    ) -> Result<Executed, String> {
        let missing = || "the pod's namespaces are not there".to_owned();
        let entered = self.entered.as_mut().ok_or_else(missing)?;
        let addresses = self.network.as_ref().map_or(&[][..], |network| &network.addresses);
        let resolved = ready(&self.paths, (self.id, addresses), spec, container)?;
        let container = resolved.as_ref().unwrap_or(container);
        entered.facts.read_files(spec, container);
        let plan = native::plan(spec, container, &entered.facts).map_err(|e| chain(&e))?;
        let request = ExecRequest { plan: &plan, target, command, streams, entry };
        entered.native.exec(&request).map_err(|error| chain(&error))
    }

    /// Brings the files that are made of values up to date, if the pod was entered; otherwise they
    /// are made when it is.
    ///
    /// # Errors
    /// Why they are not, in words.
    pub(super) fn refresh_files(&self, spec: &PodSpec) -> Result<(), String> {
        let is_projected = |volume: &Volume| matches!(volume.source, VolumeSource::Projected(_));
        if self.entered.is_none() || !spec.volumes.iter().any(is_projected) {
            return Ok(());
        }
        let content = read_content(&self.paths, spec)?;
        let addresses = self.addresses();
        write_files(&self.paths, Instance { pod: spec, content: &content, id: self.id, addresses })
    }

    /// Brings up to date what the containers' `/etc/hosts` say of the pods of the node.
    ///
    /// # Errors
    /// If a file can't be read or written.
    pub(super) fn refresh_names(&self, spec: &PodSpec) -> io::Result<()> {
        if self.entered.is_none() {
            return Ok(());
        }
        let containers = spec.all_containers().map(|container| &container.name);
        native::hosts::renew(&self.paths, containers)
    }

    /// A text that is shown, without the values of Secrets that the pod uses: the path of a
    /// program may be made of one.
    pub(super) fn without_secrets(&self, spec: &PodSpec, text: String) -> String {
        if spec.config.is_none() {
            return text;
        }
        let Ok(content) = read_content(&self.paths, spec) else { return HIDDEN.to_owned() };
        let values = content.secrets.values().flat_map(|values| values.values());
        let values = values.filter_map(|data| std::str::from_utf8(&data.bytes).ok());
        values
            .filter(|value| !value.is_empty())
            .fold(text, |text, value| text.replace(value, HIDDEN))
    }

    /// The pod's PID 1 has ended, and with it every container. The next launch begins anew.
    pub(super) fn reaper_ended(&mut self) {
        if let Some(Entered { reaper: Some(reaper), .. }) = &self.entered {
            let id = rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(reaper));
            rustix::process::waitid(id, rustix::process::WaitIdOptions::EXITED).ok();
        }
        self.entered = None;
    }

    /// Whether the process is in the pod's network by now.
    #[must_use]
    pub(super) fn is_in_network(&self) -> bool {
        self.network.is_some() || self.entered.is_some()
    }

    fn enter(&self, spec: &PodSpec) -> Result<Entered, String> {
        // Before: a pod has a host name of its own.
        let facts = self.facts().map_err(|error| format!("looking at the host failed: {error}"))?;
        let network = if self.network.is_some() { Network::Given } else { Network::New };
        let native =
            native::enter_pod(spec, &self.paths, network).map_err(|error| chain(&error))?;
        self.watched(native, facts).map_err(|error| error.to_string())
    }

    fn facts(&self) -> io::Result<HostFacts> {
        let masked: Vec<&Path> = self.masked.iter().map(PathBuf::as_path).collect();
        let mut facts = HostFacts::read(self.paths.clone(), &masked)?;
        facts.addresses = self.addresses().to_vec();
        Ok(facts)
    }

    fn watched(&self, native: Native, facts: HostFacts) -> io::Result<Entered> {
        let reaper = native.reaper_pidfd().map(|pidfd| {
            self.poller.watch(pidfd.try_clone()?, Token::Reaper.encode(), EventFlags::IN)
        });
        let reaper = reaper.transpose()?;
        Ok(Entered { native, facts, reaper })
    }
}

/// What the pod uses of ConfigMaps and Secrets.
fn read_content(paths: &PodPaths, spec: &PodSpec) -> Result<Content, String> {
    if spec.config.is_none() {
        return Ok(Content::default());
    }
    let missing = || "what it takes from ConfigMaps and Secrets is not there".to_owned();
    let path = paths.config(&spec.name, Revision::of(spec).digest()).ok_or_else(missing)?;
    let read = checkpoint::read::<ConfigFile>(&path).map_err(|error| chain(&error))?;
    Ok(read.ok_or_else(missing)?.content)
}

/// The container as it is run, if that is not known without the values that the pod uses.
fn ready(
    paths: &PodPaths,
    (id, addresses): (PodId, &[IpAddr]),
    pod: &PodSpec,
    container: &ContainerSpec,
) -> Result<Option<ContainerSpec>, String> {
    if !container.has_open_variables() {
        return Ok(None);
    }
    let content = read_content(paths, pod)?;
    resolved(Instance { pod, content: &content, id, addresses }, container).map(Some)
}

/// A container with its variables.
fn resolved(of: Instance<'_>, container: &ContainerSpec) -> Result<ContainerSpec, String> {
    if !container.has_open_variables() {
        return Ok(container.clone());
    }
    resolve::container(of, container).map_err(|error| error.to_string())
}

/// Writes the files of all volumes that are made of values.
fn write_files(paths: &PodPaths, of: Instance<'_>) -> Result<(), String> {
    for volume in &of.pod.volumes {
        let VolumeSource::Projected(projected) = &volume.source else { continue };
        let files = resolve::files(of, projected).map_err(|error| error.to_string())?;
        let group = of.pod.security.fs_group;
        native::projected::write(&paths.volume(&volume.name), &files, group).map_err(|error| {
            format!("writing the files of volume `{}` failed: {error}", volume.name)
        })?;
    }
    Ok(())
}
