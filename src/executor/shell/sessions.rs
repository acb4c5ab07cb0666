//! Programs that are executed in containers for somebody outside, and connections into the pod's
//! network: the [`Shell`]'s part, which knows the runs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::{EMPTY_MAX, Shell, ShellError, resume};
use crate::cgroup::SessionCgroup;
use crate::containerizer::native::Streams;
use crate::executor::handover::SessionState;
use crate::executor::journal::chain;
use crate::executor::protocol::{NewSession, OfSession};
use crate::executor::session::{self, Open};
use crate::executor::sessions::{Effect, Happened, Sessions};
use crate::ids::Attempt;
use crate::manifest::pod::HostNamespaces;

/// The sessions of a pod, with what there is of each.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) sessions: Sessions,
    open: BTreeMap<u32, Open>,
    /// Cgroups of sessions that are over, to be removed.
    empty: Vec<SessionCgroup>,
}

impl Held {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// What another program needs to go on with them, and the descriptors that are named in it;
    /// none while one of them can't be handed over.
    pub(super) fn state(&self) -> Option<(Vec<SessionState>, Vec<BorrowedFd<'_>>)> {
        let mut fds = Vec::new();
        let state = |(id, session): (u32, &crate::executor::sessions::Session)| {
            let (socket, process, cgroup) = self.open.get(&id)?.handles()?;
            fds.extend([socket.as_fd(), process.as_fd()]);
            Some(SessionState {
                container: session.container.clone(),
                attempt: session.attempt,
                socket: resume::number(socket),
                pidfd: resume::number(process),
                cgroup,
            })
        };
        let states = self.sessions.running()?.into_iter().map(state).collect::<Option<_>>()?;
        Some((states, fds))
    }

    /// Removes the cgroups of sessions of which nothing is left.
    pub(super) fn remove_empty(&mut self) {
        self.empty.retain(|cgroup| !session::remove(cgroup));
        // Those go with the container.
        self.empty.truncate(EMPTY_MAX);
    }
}

impl Shell {
    /// Executes a program in a container for somebody.
    pub(super) fn open_session(&mut self, wanted: &NewSession, mut fds: Vec<OwnedFd>) {
        if fds.is_empty() {
            // Nobody can be told.
            return;
        }
        let socket = fds.remove(0);
        if session::has_hung_up(&socket) {
            // Whoever asked has given up, and may ask again: it must not be executed twice.
            return;
        }
        if let Err(why) = self.begin_session(wanted, &socket, &fds) {
            session::say(&socket, &OfSession::Refused { why }, Vec::new());
        }
    }

    fn begin_session(
        &mut self,
        wanted: &NewSession,
        socket: &OwnedFd,
        fds: &[OwnedFd],
    ) -> Result<(), String> {
        let streams = match (wanted.terminal, fds) {
            (Some(size), []) => Streams::Terminal(size),
            (None, [stdin, stdout, stderr]) => {
                Streams::Given([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])
            }
            (Some(_), _) | (None, _) => {
                return Err("it came with other descriptors than it needs".to_owned());
            }
        };
        if self.is_shut_down {
            return Err("the machine is shut down".to_owned());
        }
        if wanted.command.is_empty() {
            return Err("it names no program".to_owned());
        }
        self.held.sessions.room()?;
        let (attempt, open, id) = self.execute_session(wanted, socket, streams)?;
        let admitted = self.held.sessions.admit(wanted.container.clone(), attempt)?;
        debug_assert_eq!(admitted, id, "nothing was admitted meanwhile");
        self.held.open.insert(id, open);
        // It may have been executed before it was waited for.
        self.look_at_session(id);
        Ok(())
    }

    fn execute_session(
        &mut self,
        wanted: &NewSession,
        socket: &OwnedFd,
        streams: Streams<'_>,
    ) -> Result<(Attempt, Open, u32), String> {
        let NewSession { container: name, command, terminal: _ } = wanted;
        let spec = self.machine.spec().cloned().ok_or("there is no specification")?;
        let container = spec.container(name).ok_or("it is not in the specification")?;
        let runs = || self.runs.values().filter(|run| run.container == *name);
        let run = runs().find(|run| run.process().is_some());
        let run = run.ok_or_else(|| format!("container {name} does not run"))?;
        let (attempt, target) = (run.attempt, &run.process().ok_or("it has ended")?.pidfd);
        let (cgroup, entry) = run.cgroup.session().map_err(|error| chain(&error))?;
        let pair = (spec.as_ref(), container);
        let executed = match self.pod.exec(pair, target.as_fd(), command, entry, streams) {
            Ok(executed) => executed,
            Err(why) => {
                cgroup.remove().ok();
                return Err(self.pod.without_secrets(&spec, why));
            }
        };
        let id = self.held.sessions.next_id();
        let open = Open::watch(executed, socket, cgroup, &self.poller, id)
            .map_err(|error| format!("waiting for its process failed: {error}"))?;
        Ok((attempt, open, id))
    }

    /// Something of a session is ready.
    pub(super) fn look_at_session(&mut self, id: u32) {
        let Some(open) = self.held.open.get_mut(&id) else { return };
        let mut news: std::collections::VecDeque<Happened> = open.look().into();
        while let Some(happened) = news.pop_front() {
            for effect in self.held.sessions.step(id, happened) {
                news.extend(self.perform_on_session(id, effect));
            }
        }
    }

    /// Looks at sessions whose last processes die. The kernel tells of that a moment later, and not
    /// at all if their cgroup was removed meanwhile, with that of their container.
    pub(super) fn look_at_ending_sessions(&mut self) {
        let ending = self.held.open.iter().filter(|(_, open)| open.is_ending());
        let ending: Vec<u32> = ending.map(|(id, _)| *id).collect();
        ending.into_iter().for_each(|id| self.look_at_session(id));
    }

    fn perform_on_session(&mut self, id: u32, effect: Effect) -> Vec<Happened> {
        let Some(open) = self.held.open.get_mut(&id) else { return Vec::new() };
        match effect {
            Effect::SayBegun => open.say_begun(),
            Effect::SayRefused(why) => {
                let why = match self.machine.spec() {
                    Some(spec) => self.pod.without_secrets(spec, why),
                    None => why,
                };
                open.say(&OfSession::Refused { why }, Vec::new());
            }
            Effect::SayEnded(exit) => open.say(&OfSession::Ended { exit }, Vec::new()),
            Effect::Kill => open.kill(),
            Effect::WaitUntilEmpty => return open.wait_until_empty(&self.poller, id),
            Effect::Forget => {
                let open = self.held.open.remove(&id);
                self.held.empty.extend(open.map(Open::into_cgroup));
            }
        }
        Vec::new()
    }

    /// Goes on with a session that another program had.
    pub(super) fn resume_session(&mut self, state: SessionState) -> Result<(), ShellError> {
        let SessionState { container, attempt, socket, pidfd, cgroup } = state;
        let (socket, process) = (resume::take(socket)?, resume::take(pidfd)?);
        let cgroup = self.cgroup.container(&container, attempt).session_named(&cgroup);
        let id = self.held.sessions.resume(container, attempt);
        let open = Open::resume(socket, process, cgroup, &self.poller, id)
            .map_err(super::system("waiting for a session"))?;
        self.held.open.insert(id, open);
        self.look_at_session(id);
        Ok(())
    }

    /// Begins a connection from within the pod's network.
    pub(super) fn dial(&self, address: SocketAddr, mut fds: Vec<OwnedFd>) {
        let Some(socket) = fds.pop() else { return };
        match self.connection_to(address) {
            Ok(connection) => session::say(&socket, &OfSession::Begun, vec![connection]),
            Err(why) => session::say(&socket, &OfSession::Refused { why }, Vec::new()),
        }
    }

    fn connection_to(&self, address: SocketAddr) -> Result<OwnedFd, String> {
        let host = self.machine.spec().map(|spec| spec.host);
        let is_there =
            self.pod.is_in_network() || host.is_some_and(|host: HostNamespaces| host.network);
        if !is_there {
            return Err("the pod has no network yet".to_owned());
        }
        let failed = |error: Errno| format!("connecting to {address} failed: {error}");
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None);
        let socket = socket.map_err(failed)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
            Err(error) => Err(failed(error)),
        }
    }
}
