//! The shell around [`PodMachine`]: it waits, tells the machine what happened, and does what it
//! says. One thread, one loop.
//!
//! ```text
//!   poller ─► handle(token) ─► events ─► PodMachine::step ─► effects ─► runs, writers, pod
//!                                                    └────► report ─► connection
//! ```
//!
//! Between two rounds of the loop everything is in plain fields, so that it can be handed over to
//! another build at any of them that is quiet. Not here: decisions (`machine`), and what each
//! part does (`run`, `checkpoints`, `pod`, `connection`, `upgrade`).

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::asking::{Asking, Question};
use super::boot::Boot;
use super::checkpoints::{Checkpoint, Writers, Written};
use super::connection::Connection;
use super::journal::{self, chain};
use super::logs::{ContainerLog, Stream};
use super::machine::{Effect, Event, PodMachine};
use super::pod::Pod;
use super::poller::{EventFlags, Poller, Timer, Watched};
use super::protocol::{Goal, PROTOCOL, PodNetwork, PodReport, ToAgent, ToExecutor, WantedPod};
use super::recovery::{self, RecoveryError};
use super::run::{Finished, READ_LEN, Run, Setup};
use super::termination::{self, LOG_LEN_MAX, LOG_LINES_MAX};
use super::token::Token;
use super::upgrade::Upgrade;
use super::wire::{Received, WireError};
use crate::cgroup::{CgroupError, ContainerCgroup, PodCgroup, PodLimits};
use crate::clock::{BootId, BootTime, Millis, WallTime};
use crate::ids::{Attempt, ContainerName};
use crate::manifest::pod::{ContainerSpec, PodSpec, Resources, StopSignal};
use crate::manifest::revision::Hash;
use crate::state::checkpoint::{AttemptFile, ExitFile, Format};
use crate::state::paths::EXECUTOR_SOCKET;
use crate::state::record::{Exit, LastRun};

mod questions;
mod resume;
mod sessions;

/// How long an executor waits to be told for the first time what it is for. An agent that dies
/// before that has recorded nothing which could not be started again.
const FIRST_WORD_TIME_MAX: Millis = Millis::from_secs(60);
/// How long the last report may take to be sent when everything has stopped.
const FAREWELL_TIME_MAX: Millis = Millis::from_secs(5);
/// How long the end of a run is not told while it is being recorded. Usually that takes a few
/// milliseconds, and the agent would be busy with the one report when the other comes.
const UNSAID_TIME_MAX: Millis = Millis(20);
/// How long processes that an earlier executor left may take to die.
const LEFTOVERS_TIME_MAX: Duration = Duration::from_secs(30);
/// Most cgroups that wait for their last process to be gone from cgroup v1.
const EMPTY_MAX: usize = 256;
/// Connections that wait to be accepted; there is one agent.
const BACKLOG: i32 = 4;

/// Why an executor could not begin or go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShellError {
    /// A system call without which nothing goes.
    #[error("{what} failed")]
    System {
        /// What was attempted.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// What ran before can't be known.
    #[error("recovering the pod's checkpoints failed")]
    Recovery(#[source] RecoveryError),
    /// What an earlier executor left can't be cleaned up.
    #[error("cleaning up what an earlier executor left failed")]
    Leftovers(#[source] CgroupError),
    /// What an earlier executor left does not die.
    #[error("processes that an earlier executor left can't be killed")]
    Undead,
    /// A handover that was checked could not be taken over.
    #[error("taking over from the build before failed: {why}")]
    Resume {
        /// Why.
        why: String,
    },
}

/// Wraps an error of the system, saying what was attempted.
fn system<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> ShellError {
    move |error| ShellError::System { what, source: error.into() }
}

/// The executor of one pod.
#[derive(Debug)]
pub(super) struct Shell {
    boot: Boot,
    build: String,
    boot_id: BootId,
    cgroup: PodCgroup,
    poller: Rc<Poller>,
    timer: Timer,
    listener: Watched,
    connection: Option<Connection>,
    machine: PodMachine,
    pod: Pod,
    runs: BTreeMap<u32, Run>,
    next_run: u32,
    writers: Writers,
    asking: Asking,
    held: sessions::Held,
    /// Cgroups of runs that are over, to be removed.
    empty: VecDeque<ContainerCgroup>,
    events: VecDeque<Event>,
    /// Whether the machine has taken a step since the agent was last told.
    changed: bool,
    /// The end of a run is being recorded: until when nothing is reported.
    unsaid_until: Option<BootTime>,
    upgrade: Option<Upgrade>,
    /// Becomes ready when the machine is shut down.
    shutdown: Watched<SignalFd>,
    /// Whether it is: nothing is started any more, whatever the agent says.
    is_shut_down: bool,
    /// When it ends by itself: nobody said what it is for, or the last report is not taken.
    end_at: Option<BootTime>,
    /// Whether it will end as soon as it can: nothing is left to be done.
    ended: bool,
}

impl Shell {
    /// An executor that was just started.
    ///
    /// # Errors
    /// If it is not safe to start anything.
    pub(super) fn start(boot: Boot, build: String, listener: OwnedFd) -> Result<Self, ShellError> {
        let boot_id = BootId::current().map_err(system("reading the id of this boot"))?;
        let cgroup = boot.cgroups.pod(boot.id);
        remove_leftovers(&cgroup)?;
        let recovered = recovery::recover(&boot.paths, &boot_id, WallTime::now())
            .map_err(ShellError::Recovery)?;
        let now = BootTime::now();
        let machine = PodMachine::new(recovered, now);
        let mut shell = Self::new(boot, build, boot_id, machine, listener)?;
        shell.end_at = Some(now.plus(FIRST_WORD_TIME_MAX));
        Ok(shell)
    }

    fn new(
        boot: Boot,
        build: String,
        boot_id: BootId,
        machine: PodMachine,
        listener: OwnedFd,
    ) -> Result<Self, ShellError> {
        let poller = Poller::new().map_err(system("making an epoll instance"))?;
        let timer = Timer::new(&poller, Token::Timer.encode()).map_err(system("making a timer"))?;
        rustix::io::ioctl_fionbio(&listener, true).map_err(system("using the listening socket"))?;
        // Again, so that SO_PEERCRED names this process and not the one that bound it (unix(7)).
        rustix::net::listen(&listener, BACKLOG).map_err(system("listening"))?;
        let listener = poller
            .watch(listener, Token::Listener.encode(), EventFlags::IN)
            .map_err(system("waiting for connections"))?;
        let shutdown = watch_shutdown(&poller).map_err(system("waiting for signals"))?;
        let pod = Pod::new(&boot, &poller);
        let writers = Writers::new(boot.paths.clone(), &poller, |id| Token::Writer(id).encode());
        let asking = Asking::new(&poller);
        let cgroup = boot.cgroups.pod(boot.id);
        let (connection, runs, held, empty, events, upgrade) = Default::default();
        let (next_run, changed, unsaid_until, end_at, ended) = (0, false, None, None, false);
        Ok(Self {
            boot,
            build,
            boot_id,
            cgroup,
            poller,
            timer,
            listener,
            connection,
            machine,
            pod,
            runs,
            next_run,
            writers,
            asking,
            held,
            empty,
            events,
            changed,
            unsaid_until,
            upgrade,
            shutdown,
            is_shut_down: false,
            end_at,
            ended,
        })
    }

    /// Runs until nothing is left to be done. Does not return if another build takes over.
    ///
    /// # Errors
    /// If the loop can't go on; the kernel kills the containers then, and the agent starts anew.
    pub(super) fn run(mut self) -> Result<(), ShellError> {
        let mut ready = Vec::new();
        loop {
            self.settle();
            if self.ended {
                self.remove_socket();
                return Ok(());
            }
            self.upgrade_if_quiet();
            let upgrade = self.upgrade.as_ref().and_then(Upgrade::give_up_at);
            let asking = self.asking.wake_at();
            let wake_at = [self.machine.wake_at(), asking, self.end_at, self.unsaid_until, upgrade];
            self.timer
                .set(wake_at.into_iter().flatten().min())
                .map_err(system("setting the timer"))?;
            self.poller.wait(&mut ready).map_err(system("waiting for events"))?;
            for token in ready.iter().copied().filter_map(Token::decode) {
                self.handle(token);
            }
        }
    }

    /// Tells the machine everything that happened, does what it says, and reports.
    fn settle(&mut self) {
        loop {
            for written in self.writers.failed() {
                self.written(written);
            }
            self.finish_runs();
            self.ask_again();
            self.events.extend(std::iter::from_fn(|| self.asking.next_event()));
            let Some(event) = self.events.pop_front() else { break };
            self.changed = true;
            let effects = self.machine.step(event, BootTime::now());
            self.machine.note_readiness(WallTime::now());
            effects.into_iter().for_each(|effect| self.perform(effect));
        }
        self.asking.remove_empty();
        self.held.remove_empty();
        self.remove_empty();
        self.look_at_ending_sessions();
        self.publish();
        let idle = self.connection.as_ref().is_none_or(Connection::is_idle);
        let is_over = self.runs.is_empty() && self.held.is_empty() && self.writers.is_idle();
        if self.machine.is_stopped() && is_over {
            let now = BootTime::now();
            let end_at = *self.end_at.get_or_insert(now.plus(FAREWELL_TIME_MAX));
            self.ended |= idle || end_at <= now;
        } else if self.machine.spec().is_some() || self.connection.is_some() {
            // Who is connected says something in the end: a network may take minutes. When it goes
            // without a word, this ends (`Self::receive`).
            self.end_at = None;
        } else {
            let now = BootTime::now();
            let end_at = *self.end_at.get_or_insert(now.plus(FIRST_WORD_TIME_MAX));
            self.ended |= end_at <= now;
        }
    }

    fn handle(&mut self, token: Token) {
        match token {
            Token::Listener => self.accept(),
            Token::Connection => self.receive(),
            Token::Timer => {
                self.timer.clear();
                self.asking.expire(BootTime::now());
                self.events.push_back(Event::Tick);
                self.look_at_upgrade();
            }
            Token::Reaper => {
                journal::note(format_args!("PID 1 of the pod has ended"));
                self.pod.reaper_ended();
            }
            Token::Check => self.look_at_upgrade(),
            Token::Shutdown => self.shut_down(),
            Token::Writer(id) => {
                for written in self.writers.told(id) {
                    self.written(written);
                }
            }
            Token::Process(id) => {
                self.read_status(id);
                if let Some(run) = self.runs.get_mut(&id) {
                    run.reap(&self.poller, id);
                }
            }
            Token::Status(id) => self.read_status(id),
            Token::Stdout(id) => self.read_output(id, Stream::Stdout),
            Token::Stderr(id) => self.read_output(id, Stream::Stderr),
            Token::Question(id) => self.asking.look(id),
            Token::Session(id) => self.look_at_session(id),
            Token::Cgroup(id) => {
                if let Some(run) = self.runs.get_mut(&id) {
                    run.kill_others(&self.poller, id);
                }
            }
        }
    }

    /// Stops everything and ends, as if the agent had said so: after this boot the agent starts
    /// what shall run. Otherwise the containers, which systemd tells to stop as well, would be
    /// started again and again until it loses patience.
    fn shut_down(&mut self) {
        if !matches!(self.shutdown.get().read_signal(), Ok(Some(_))) {
            return;
        }
        journal::note(format_args!("told to end: everything is stopped"));
        self.is_shut_down = true;
        if let Some(upgrade) = self.upgrade.take() {
            upgrade.cancel();
        }
        match (self.machine.report(), self.machine.spec()) {
            (Some(PodReport { number, goal, .. }), Some(spec)) => {
                let goal = stopping(goal, spec);
                let wanted = WantedPod { number, goal, spec: spec.clone() };
                self.events.push_back(Event::Wanted(wanted));
            }
            (None, _) | (_, None) => self.ended = true,
        }
    }

    fn read_status(&mut self, id: u32) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        if let Some(pid) = run.read_status() {
            let (container, attempt) = (run.container.clone(), run.attempt);
            let at = WallTime::now();
            self.events.push_back(Event::Started { container, attempt, pid, at });
        }
    }

    fn read_output(&mut self, id: u32, stream: Stream) {
        if let Some(run) = self.runs.get_mut(&id) {
            run.read_output(stream, &mut [0; READ_LEN], WallTime::now());
        }
    }

    /// Runs of which nothing is left: their ends become events.
    fn finish_runs(&mut self) {
        let through: Vec<u32> =
            self.runs.iter().filter(|(_, run)| run.is_through()).map(|(id, _)| *id).collect();
        let through: Vec<Run> = through.iter().filter_map(|id| self.runs.remove(id)).collect();
        for run in through {
            let (container, attempt, at) = (run.container.clone(), run.attempt, WallTime::now());
            self.asking.forget(&container, attempt);
            let Finished { exit, cgroup, log } = run.finish(&mut [0; READ_LEN], at);
            let exit = match (exit, self.machine.spec()) {
                (Exit::NotStarted(why), Some(spec)) => {
                    Exit::NotStarted(self.pod.without_secrets(spec, why))
                }
                (exit, _) => exit,
            };
            let message = self.message(&container, attempt, &exit, &log);
            self.empty.push_back(cgroup);
            self.events.push_back(Event::Exited { container, attempt, exit, message, at });
        }
    }

    /// What a run says about its end.
    fn message(
        &self,
        container: &ContainerName,
        attempt: Attempt,
        exit: &Exit,
        log: &ContainerLog,
    ) -> Option<String> {
        let spec = self.machine.spec()?;
        let paths = &self.boot.paths;
        let Some(wanted) = spec.container(container) else {
            // It has left the specification, and with it what else is known of it.
            let most = termination::len_max(spec.all_containers().count());
            return termination::left_behind(paths, container, attempt, most);
        };
        let log = || log.end(LOG_LEN_MAX, LOG_LINES_MAX);
        termination::message(paths, (spec, wanted), attempt, exit, log)
    }

    /// Removes the cgroups of runs that are over. In hierarchies of cgroup v1 a process is there
    /// until it is reaped, which for orphans in the host's process namespace is up to the host's
    /// PID 1. So they are tried again at each event; the end of the run, which is to be recorded,
    /// brings the next one.
    fn remove_empty(&mut self) {
        self.empty.retain(|cgroup| match cgroup.remove() {
            Ok(()) => false,
            Err(CgroupError::Populated { .. }) => true,
            Err(error) => {
                journal::note(format_args!("{}", chain(&error)));
                false
            }
        });
        while self.empty.len() > EMPTY_MAX {
            // Whoever removes the pod removes it.
            self.empty.pop_front();
        }
    }

    fn written(&mut self, written: Written) {
        let Written { container, checkpoint, result } = written;
        if let Err(why) = &result {
            journal::note(format_args!("{container}: a checkpoint is not written: {why}"));
        }
        match checkpoint {
            Checkpoint::Attempt(file) => {
                if let Some((id, run)) = self.find_run(&container, file.attempt) {
                    run.announced(result);
                    // The set-up may have ended before, and been waiting for this.
                    self.read_status(id);
                }
            }
            Checkpoint::Exit(file) => {
                self.unsaid_until = None;
                let attempt = file.attempt;
                self.events.push_back(Event::Recorded { container, attempt, result });
            }
        }
    }

    fn find_run(&mut self, container: &ContainerName, attempt: Attempt) -> Option<(u32, &mut Run)> {
        self.runs
            .iter_mut()
            .find(|(_, run)| run.container == *container && run.attempt == attempt)
            .map(|(id, run)| (*id, run))
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Launch { container, attempt, hash, streak } => {
                self.launch(container, attempt, hash, streak);
            }
            Effect::Stop { container, attempt } => {
                let spec = self.machine.spec().and_then(|spec| spec.container(&container));
                let signal = spec.map_or(StopSignal::TERM, ContainerSpec::stop_signal);
                if let Some((_, run)) = self.find_run(&container, attempt) {
                    run.stop(signal);
                }
            }
            Effect::Kill { container, attempt } => {
                if let Some((_, run)) = self.find_run(&container, attempt) {
                    run.kill();
                }
            }
            Effect::Record { container, run } => self.record(container, run),
            Effect::Update { container, attempt, resources } => {
                self.update(container, attempt, &resources);
            }
            Effect::Ask { container, attempt, purpose, handler, timeout } => {
                let question = Question { container, attempt, purpose, handler, timeout };
                self.ask(question);
            }
            Effect::Unask { container, attempt, purpose } => {
                self.asking.unask(&container, attempt, purpose);
            }
            Effect::UpdatePod { pids_limit: _ } => self.update_pod(),
        }
    }

    fn launch(&mut self, container: ContainerName, attempt: Attempt, hash: Hash, streak: u32) {
        let Some(spec) = self.machine.spec().cloned() else { return };
        // First, because the disk takes longer than the set-up.
        let announced_at = WallTime::now();
        let file = AttemptFile {
            format: Format,
            attempt,
            container_hash: hash,
            boot: self.boot_id.clone(),
            announced: BootTime::now(),
            announced_at,
            backoff_count: streak,
            pod_since: self.machine.since(),
        };
        self.writers.submit(container.clone(), Checkpoint::Attempt(file));
        let mut log = ContainerLog::begin(&self.boot.paths, &container, attempt, self.boot.logs);
        log.create();
        let cgroup = self.cgroup.container(&container, attempt);
        let launched = match spec.container(&container) {
            Some(wanted) => self.pod.launch(&spec, (wanted, attempt), &cgroup),
            None => Err("it is not in the specification".to_owned()),
        };
        let id = self.next_run;
        self.next_run = self.next_run.wrapping_add(1);
        let key = (container, attempt);
        let setup = launched.and_then(|launched| {
            let why = |error| format!("waiting for its process failed: {error}");
            Setup::watch(launched, &self.poller, id).map_err(why)
        });
        self.runs.insert(id, Run::new(key, log, cgroup, setup));
    }

    fn record(&mut self, container: ContainerName, run: LastRun) {
        let LastRun { attempt, exit, .. } = &run;
        match exit {
            Exit::Code(0) => {}
            Exit::NotStarted(why) => {
                journal::note(format_args!("{container} run {attempt}: not started: {why}"));
            }
            Exit::Code(_) | Exit::Signal(_) | Exit::OutOfMemory | Exit::Unknown => {
                journal::note(format_args!("{container} run {attempt} ended: {exit:?}"));
            }
        }
        self.writers.submit(container, Checkpoint::Exit(ExitFile::of(run)));
        self.unsaid_until = Some(BootTime::now().plus(UNSAID_TIME_MAX));
    }

    fn update(&mut self, container: ContainerName, attempt: Attempt, resources: &Resources) {
        // The sum of the requests may have changed with it.
        self.update_pod();
        let cgroup = self.cgroup.container(&container, attempt);
        if let Err(error) = cgroup.update(&resources.into()) {
            let why = chain(&error);
            self.events.push_back(Event::NotUpdated { container, why });
        }
        // In cgroup v1 the quota of a pod can't be less than that of a container: where both are
        // lowered, the container's has to be first, and where both are raised, the pod's.
        self.update_pod();
    }

    fn update_pod(&mut self) {
        let Some(spec) = self.machine.spec() else { return };
        if let Err(error) = self.cgroup.set_limits(&PodLimits::from(spec.as_ref())) {
            journal::note(format_args!("limits of the pod: {}", chain(&error)));
        }
    }

    /// Accepts a connection; it replaces the one before.
    fn accept(&mut self) {
        let socket = match rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC) {
            Ok(socket) => socket,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return,
            Err(error) => {
                return journal::note(format_args!("accepting a connection failed: {error}"));
            }
        };
        // The directory of the socket is root's alone; this holds when somebody opens it up.
        if !rustix::net::sockopt::socket_peercred(&socket).is_ok_and(|peer| peer.uid.is_root()) {
            return journal::note(format_args!("refused a connection from another user"));
        }
        match Connection::new(socket, &self.poller) {
            Ok(connection) => self.connection = Some(connection),
            Err(error) => journal::note(format_args!("a connection can't be used: {error}")),
        }
    }

    fn receive(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        let result = connection.read();
        let ended = match result {
            Ok(Received::End) => true,
            Ok(Received::Some | Received::Nothing) => self.take_messages().is_err(),
            Err(error) => {
                journal::note(format_args!("the connection is given up: {}", chain(&error)));
                true
            }
        };
        if ended {
            self.connection = None;
            // Who was never told what it is for has nothing to go on with.
            self.ended |= self.machine.spec().is_none() && self.events.is_empty();
        }
    }

    /// Takes in whole messages; an error if the connection is not to be used any further.
    fn take_messages(&mut self) -> Result<(), WireError> {
        while let Some(connection) = &mut self.connection {
            let next = connection.take();
            if let Err(error) = &next {
                journal::note(format_args!("the connection is given up: {}", chain(error)));
            }
            let Some((message, fds)) = next? else { return Ok(()) };
            match message {
                ToExecutor::Hello { protocol } => {
                    if protocol == 0 {
                        journal::note(format_args!("the agent speaks no version of the protocol"));
                    }
                    connection.due.welcome = true;
                    // There is none if it was never told what is wanted.
                    connection.due.report = true;
                }
                ToExecutor::Network(network) => self.enter_network(network, fds)?,
                ToExecutor::SetSpec(mut wanted) => {
                    connection.due.report = true;
                    if self.is_shut_down {
                        wanted.goal = stopping(wanted.goal, &wanted.spec);
                    }
                    self.events.push_back(Event::Wanted(wanted));
                    // Each takes effect before the next is looked at.
                    self.settle();
                    self.refresh_files();
                }
                ToExecutor::Names => self.refresh_names(),
                ToExecutor::Upgrade { build } => self.begin_upgrade(build, fds),
                ToExecutor::Exec(wanted) => self.open_session(&wanted, fds),
                ToExecutor::Dial { address } => self.dial(address, fds),
            }
        }
        Ok(())
    }

    /// Enters the network namespace that comes with a message. It is given once: whoever is in one
    /// stays there.
    fn enter_network(
        &mut self,
        network: PodNetwork,
        mut fds: Vec<OwnedFd>,
    ) -> Result<(), WireError> {
        // Whoever says it again knows something else of this pod than is true: containers may be in
        // the one that they have. It is refused, so that it is known, and the agent looks again.
        if self.pod.network().is_some() || self.machine.spec().is_some() {
            let why = "a second network came for a pod that has its own";
            journal::note(format_args!("{why}"));
            return Err(WireError::Socket(io::Error::other(why)));
        }
        let missing =
            || WireError::Socket(io::Error::other("a network came without its namespace"));
        let namespace = fds.pop().ok_or_else(missing)?;
        nix::sched::setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|error| {
            journal::note(format_args!("can't enter the pod's network: {error}"));
            WireError::Socket(error.into())
        })?;
        self.set_network(network);
        Ok(())
    }

    /// Goes on in the network that the process is in.
    fn set_network(&mut self, network: PodNetwork) {
        self.asking.address = network.addresses.first().copied();
        self.pod.set_network(network);
    }

    /// Brings the files up to date that are made of values: what runs sees the new ones.
    fn refresh_files(&mut self) {
        let Some(spec) = self.machine.spec().cloned() else { return };
        let Err(why) = self.pod.refresh_files(&spec) else { return };
        journal::note(format_args!("files of volumes are not up to date: {why}"));
        for container in spec.all_containers().filter(|it| !it.mounts.is_empty()) {
            let (container, why) = (container.name.clone(), why.clone());
            self.events.push_back(Event::NotUpdated { container, why });
        }
        self.settle();
    }

    /// Tells containers what the pods of the node are called now.
    fn refresh_names(&self) {
        if let Some(spec) = self.machine.spec()
            && let Err(error) = self.pod.refresh_names(spec)
        {
            journal::note(format_args!("what pods are called is not up to date: {error}"));
        }
    }

    /// Says what the agent does not know yet.
    fn publish(&mut self) {
        let now = BootTime::now();
        self.unsaid_until.take_if(|at| *at <= now);
        let Some(connection) = &mut self.connection else { return };
        if std::mem::take(&mut self.changed) && connection.due.reported.is_some() {
            connection.due.report |= connection.due.reported != self.machine.report();
        }
        let is_unsaid = self.unsaid_until.is_some() && !connection.due.welcome;
        let unsaid = is_unsaid && std::mem::take(&mut connection.due.report);
        let (boot, build, machine) = (&self.boot, &self.build, &self.machine);
        let welcome = || ToAgent::Welcome {
            protocol: PROTOCOL,
            build: build.clone(),
            pod: boot.id,
            pid: std::process::id(),
            wanted: machine.report().zip(machine.spec()).map(|(report, spec)| WantedPod {
                number: report.number,
                goal: report.goal,
                spec: spec.clone(),
            }),
        };
        if let Err(error) = connection.send(welcome, || machine.report()) {
            // The next event on it says that it has ended.
            journal::note(format_args!("the agent can't be told: {}", chain(&error)));
            connection.due = Default::default();
        } else {
            connection.due.report |= unsaid;
        }
    }

    fn remove_socket(&self) {
        let path = self.boot.paths.runtime.join(EXECUTOR_SOCKET);
        if let Err(error) = fs::remove_file(&path) {
            journal::note(format_args!("can't remove {}: {error}", path.display()));
        }
    }
}

/// systemd ends the scope of all pods by SIGTERM when the machine is shut down. The signal is
/// blocked since the program began (`program`), so that it waits here.
fn watch_shutdown(poller: &Rc<Poller>) -> io::Result<Watched<SignalFd>> {
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&SigSet::from(Signal::SIGTERM), flags)?;
    poller.watch(signals, Token::Shutdown.encode(), EventFlags::IN)
}

/// The goal of a pod whose machine is shut down.
fn stopping(goal: Goal, spec: &PodSpec) -> Goal {
    match goal {
        Goal::Run => Goal::Stop { grace: spec.termination_grace },
        Goal::Stop { grace } => Goal::Stop { grace },
    }
}

/// Kills and removes what containers of an earlier executor left. The agent has done that before;
/// but starting a second time what still runs is the one thing that must never happen.
fn remove_leftovers(cgroup: &PodCgroup) -> Result<(), ShellError> {
    let runs = cgroup.containers().map_err(ShellError::Leftovers)?;
    if runs.is_empty() {
        return Ok(());
    }
    cgroup.kill_containers().map_err(ShellError::Leftovers)?;
    if !cgroup.wait_containers_empty(LEFTOVERS_TIME_MAX).map_err(ShellError::Leftovers)? {
        return Err(ShellError::Undead);
    }
    for (container, attempt) in runs {
        cgroup.container(&container, attempt).remove().map_err(ShellError::Leftovers)?;
    }
    Ok(())
}
