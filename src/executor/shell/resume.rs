//! Going on as another build: the [`Shell`]'s part of an upgrade, on both sides of the execve.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use super::{Shell, ShellError, system};
use crate::clock::{BootId, BootTime};
use crate::executor::connection::Connection;
use crate::executor::handover::{ConnectionState, FORMAT, Handover, ProcessState, RunState};
use crate::executor::journal::{self, chain};
use crate::executor::logs::ContainerLog;
use crate::executor::machine::Event;
use crate::executor::poller::{EventFlags, Poller, Watched};
use crate::executor::run::{Process, Run};
use crate::executor::token::Token;
use crate::executor::upgrade::Upgrade;
use crate::executor::wire::{Inbox, Outbox};
use crate::state::record::Exit;
use crate::sys;

impl Shell {
    /// Goes on where another build stopped.
    ///
    /// # Errors
    /// If it can't; the kernel kills the containers then, and the agent starts the pod anew.
    pub(in crate::executor) fn resume(
        handover: Handover,
        build: String,
    ) -> Result<Self, ShellError> {
        let Handover { format: _, boot, machine, native, network, .. } = handover;
        let (listener, connection) = (handover.listener, handover.connection);
        let (runs, sessions) = (handover.runs, handover.sessions);
        let failed = |why: String| ShellError::Resume { why };
        let boot_id = BootId::current().map_err(system("reading the id of this boot"))?;
        let listener = take(listener)?;
        let mut shell = Self::new(boot, build, boot_id, machine, listener)?;
        if let Some(network) = network {
            shell.set_network(network);
        }
        if let Some(native) = native {
            shell.pod.resume(&native).map_err(failed)?;
        }
        for run in runs {
            shell.resume_run(run)?;
        }
        for session in sessions {
            shell.resume_session(session)?;
        }
        shell.events.push_back(Event::AnswersLost);
        if let Some(ConnectionState { socket, received, unsent }) = connection {
            let (inbox, outbox) = (Inbox::resume(received), Outbox::resume(unsent));
            let mut connection = Connection::resume(take(socket)?, inbox, outbox, &shell.poller)
                .map_err(system("waiting for the agent"))?;
            connection.due.welcome = true;
            connection.due.report = true;
            shell.connection = Some(connection);
            // What had come before is in the inbox and makes no event.
            shell.take_messages().map_err(|error| failed(chain(&error)))?;
        }
        Ok(shell)
    }

    fn resume_run(&mut self, state: RunState) -> Result<(), ShellError> {
        let RunState { container, attempt, process, stdout, stderr, log } = state;
        let id = self.next_run;
        self.next_run = self.next_run.wrapping_add(1);
        let process: Result<Process, Exit> = match process {
            ProcessState::Alive { pid, pidfd } => {
                let pidfd = watch(&self.poller, pidfd, Token::Process(id), Process::EVENTS)?;
                Ok(Process { pid, pidfd })
            }
            ProcessState::Ended(exit) => Err(exit),
        };
        let pipe = |fd: Option<i32>, token| {
            fd.map(|fd| watch(&self.poller, fd, token, EventFlags::IN)).transpose()
        };
        let pipes = [pipe(stdout, Token::Stdout(id))?, pipe(stderr, Token::Stderr(id))?];
        let limits = self.boot.logs;
        let log = ContainerLog::resume(&self.boot.paths, &container, attempt, limits, log);
        let cgroup = self.cgroup.container(&container, attempt);
        let mut run = Run::resume((container, attempt), log, cgroup, process, pipes);
        run.kill_others(&self.poller, id);
        self.runs.insert(id, run);
        Ok(())
    }

    /// Begins an upgrade; a newer one replaces it.
    pub(super) fn begin_upgrade(&mut self, build: String, mut fds: Vec<OwnedFd>) {
        if let Some(before) = self.upgrade.take() {
            before.cancel();
        }
        if build == self.build {
            // It is that build already: says so.
            if let Some(connection) = &mut self.connection {
                connection.due.welcome = true;
            }
            return;
        }
        let begun = match (fds.pop(), fds.is_empty()) {
            (_, _) if self.is_shut_down => Err("the machine is shut down".to_owned()),
            (Some(exe), true) => self.check_upgrade(build, exe),
            (None | Some(_), _) => Err("it has to come with one descriptor".to_owned()),
        };
        match begun {
            Ok(upgrade) => self.upgrade = Some(upgrade),
            Err(why) => self.refuse_upgrade(why),
        }
    }

    fn check_upgrade(&self, build: String, exe: OwnedFd) -> Result<Upgrade, String> {
        let copy = self.handover().0.write().map_err(|error| chain(&error))?;
        Upgrade::check(build, exe, &self.boot.name, &copy, &self.poller, BootTime::now())
            .map_err(|error| format!("the new program could not be tried: {error}"))
    }

    pub(super) fn look_at_upgrade(&mut self) {
        let looked = self.upgrade.as_mut().map(|upgrade| upgrade.look(BootTime::now()));
        if let Some(Err(why)) = looked {
            self.upgrade = None;
            self.refuse_upgrade(why);
        }
    }

    fn refuse_upgrade(&mut self, why: String) {
        journal::note(format_args!("not upgraded: {why}"));
        if let Some(connection) = &mut self.connection {
            connection.due.refusal = Some(why);
        }
    }

    /// Continues as the new build, if it can and this is a moment at which nothing is under way.
    /// Otherwise the end of what is under way is an event, after which this is called again.
    pub(super) fn upgrade_if_quiet(&mut self) {
        let quiet = self.events.is_empty()
            && self.asking.is_quiet()
            && self.writers.is_idle()
            && self.held.state().is_some()
            && self.runs.values().all(|run| run.handles().is_some())
            && self.connection.as_ref().is_none_or(|connection| connection.state().is_some());
        let Some(upgrade) = self.upgrade.take_if(|upgrade| quiet && upgrade.is_checked()) else {
            return;
        };
        let Err(why) = self.execute(&upgrade);
        self.pod.keep().ok();
        self.refuse_upgrade(why);
        self.publish();
    }

    fn execute(&self, upgrade: &Upgrade) -> Result<std::convert::Infallible, String> {
        let (mut handover, fds) = self.handover();
        handover.native = self.pod.hand_over().map_err(|error| chain(&error))?;
        let file = handover.write().map_err(|error| chain(&error))?;
        upgrade
            .execute(&self.boot.name, &file, &fds)
            .map_err(|error| format!("the new program could not be executed: {error}"))
    }

    /// Everything but the pod's namespaces, and the descriptors that are named in it. What is
    /// under way is left out.
    fn handover(&self) -> (Handover, Vec<BorrowedFd<'_>>) {
        let mut fds: Vec<BorrowedFd<'_>> = Vec::new();
        let mut runs = Vec::new();
        for run in self.runs.values() {
            let Some(handles) = run.handles() else { continue };
            let process = match (handles.process, handles.exit) {
                (Some(Process { pid, pidfd }), _) => {
                    ProcessState::Alive { pid: *pid, pidfd: number(pidfd) }
                }
                (None, exit) => ProcessState::Ended(exit.cloned().unwrap_or(Exit::Unknown)),
            };
            runs.push(RunState {
                container: run.container.clone(),
                attempt: run.attempt,
                process,
                stdout: handles.stdout.map(number),
                stderr: handles.stderr.map(number),
                log: run.log.state().clone(),
            });
            let all = [handles.process.map(|p| &p.pidfd), handles.stdout, handles.stderr];
            fds.extend(all.into_iter().flatten().map(AsFd::as_fd));
        }
        let connection = self.connection.as_ref().and_then(Connection::state);
        let connection = connection.map(|(socket, received, unsent)| {
            fds.push(socket.as_fd());
            ConnectionState { socket: number(socket), received: received.to_vec(), unsent }
        });
        fds.push(self.listener.as_fd());
        let (sessions, of_sessions) = self.held.state().unwrap_or_default();
        fds.extend(of_sessions);
        let handover = Handover {
            format: FORMAT,
            boot: self.boot.clone(),
            machine: self.machine.clone(),
            native: None,
            network: self.pod.network().cloned(),
            listener: number(&self.listener),
            connection,
            runs,
            sessions,
        };
        (handover, fds)
    }
}

pub(super) fn number(fd: &Watched) -> i32 {
    fd.as_fd().as_raw_fd()
}

pub(super) fn take(number: i32) -> Result<OwnedFd, ShellError> {
    sys::inherited_fd(number).map_err(system("taking over a descriptor"))
}

fn watch(
    poller: &Rc<Poller>,
    number: i32,
    token: Token,
    events: EventFlags,
) -> Result<Watched, ShellError> {
    poller.watch(take(number)?, token.encode(), events).map_err(system("waiting for a container"))
}
