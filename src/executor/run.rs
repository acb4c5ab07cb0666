//! [`Run`]: one run of a container, from its launch until no process of it is left.
//!
//! ```text
//!   Setup ── status ends empty, attempt durable ──► Running ──┐
//!     │                                                       │ first process reaped
//!     └── never launched, or first process reaped ──► Over ◄──┘
//!                                                       │ attempt written, cgroup empty
//!                                                       ▼
//!                                                   finish(): output drained
//! ```
//!
//! It only does what it is told and says what happened. Not here: decisions (`machine`), the
//! set-up of the process (`containerizer`), and which event belongs to which run (`shell`).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal};

use super::journal;
use super::logs::{ContainerLog, Stream};
use super::poller::{EventFlags, Poller, Watched};
use super::token::Token;
use crate::cgroup::{ContainerCgroup, Events};
use crate::clock::WallTime;
use crate::containerizer::native::{Gate, Launched, STATUS_LEN_MAX};
use crate::ids::{Attempt, ContainerName};
use crate::manifest::pod::StopSignal;
use crate::state::record::Exit;
use crate::sys;

/// Output is read in pieces as large as this, so that no container keeps others waiting.
pub(super) const READ_LEN: usize = 16 << 10;
/// Most output that is still read when a run is over: the largest pipe of an unprivileged user
/// (`/proc/sys/fs/pipe-max-size`).
const DRAIN_LEN_MAX: usize = 1 << 20;

/// One run of a container.
#[derive(Debug)]
pub(super) struct Run {
    /// Which container.
    pub(super) container: ContainerName,
    /// Which run.
    pub(super) attempt: Attempt,
    /// Its output.
    pub(super) log: ContainerLog,
    /// Its cgroup.
    pub(super) cgroup: ContainerCgroup,
    announced: Announced,
    stage: Stage,
    stdout: Option<Watched>,
    stderr: Option<Watched>,
}

/// Whether the attempt is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Announced {
    Pending,
    Done,
    Failed(String),
}

#[derive(Debug)]
enum Stage {
    /// The process sets itself up, or waits at the gate.
    Setup {
        process: Process,
        /// None when it was opened or given up.
        gate: Option<Gate>,
        /// None when it has ended.
        status: Option<Watched>,
        /// Why the set-up failed, as the process says.
        text: Vec<u8>,
    },
    /// The program was executed.
    Running { process: Process },
    /// The first process is gone, or never was. Others are being waited for.
    Over { exit: Exit, others: Option<Watched<Events>> },
}

/// What is left of a run that is through.
#[derive(Debug)]
pub(super) struct Finished {
    /// How it ended.
    pub(super) exit: Exit,
    /// To be removed.
    pub(super) cgroup: ContainerCgroup,
    /// All of its output is in it.
    pub(super) log: ContainerLog,
}

/// The first process.
#[derive(Debug)]
pub(super) struct Process {
    /// Its id in the executor's PID namespace.
    pub(super) pid: u32,
    /// It.
    pub(super) pidfd: Watched,
}

impl Process {
    /// Edge-triggered: a process that ends while another traces it is only there for the tracer at
    /// first (ptrace(2), "Death under ptrace"), and its pidfd stays ready although it can't be
    /// reaped. When the tracer lets go, there is another edge.
    pub(super) const EVENTS: EventFlags = EventFlags::IN.union(EventFlags::ET);
}

/// A process that sets itself up, with everything of it waited for.
#[derive(Debug)]
pub(super) struct Setup {
    process: Process,
    gate: Gate,
    status: Watched,
    stdout: Watched,
    stderr: Watched,
}

impl Setup {
    /// Waits for everything of a container that was launched.
    ///
    /// # Errors
    /// If that is not possible; its program is never executed then, because the gate is gone.
    pub(super) fn watch(launched: Launched, poller: &Rc<Poller>, id: u32) -> io::Result<Self> {
        let Launched { pid, pidfd, stdout, stderr, gate, status } = launched;
        let watch = |fd: OwnedFd, token: Token| poller.watch(fd, token.encode(), EventFlags::IN);
        let pid = pid.as_raw_nonzero().get().unsigned_abs();
        let pidfd = poller.watch(pidfd, Token::Process(id).encode(), Process::EVENTS)?;
        let process = Process { pid, pidfd };
        Ok(Self {
            process,
            gate,
            status: watch(status, Token::Status(id))?,
            stdout: watch(stdout, Token::Stdout(id))?,
            stderr: watch(stderr, Token::Stderr(id))?,
        })
    }
}

/// What a [`Run`] consists of when another program takes it over.
#[derive(Debug)]
pub(super) struct Handles<'a> {
    /// The first process; none if it is gone.
    pub(super) process: Option<&'a Process>,
    /// How it ended, if it is gone.
    pub(super) exit: Option<&'a Exit>,
    /// Standard output, unless it has ended.
    pub(super) stdout: Option<&'a Watched>,
    /// Standard error, unless it has ended.
    pub(super) stderr: Option<&'a Watched>,
}

impl Run {
    /// A run that begins, or could not: there is no process then, and `setup` says why.
    #[must_use]
    pub(super) fn new(
        (container, attempt): (ContainerName, Attempt),
        log: ContainerLog,
        cgroup: ContainerCgroup,
        setup: Result<Setup, String>,
    ) -> Self {
        let announced = Announced::Pending;
        let (stage, stdout, stderr) = match setup {
            Ok(Setup { process, gate, status, stdout, stderr }) => {
                let (gate, status) = (Some(gate), Some(status));
                let stage = Stage::Setup { process, gate, status, text: Vec::new() };
                (stage, Some(stdout), Some(stderr))
            }
            Err(why) => (Stage::Over { exit: Exit::NotStarted(why), others: None }, None, None),
        };
        Self { container, attempt, log, cgroup, announced, stage, stdout, stderr }
    }

    /// A run that another program has launched.
    #[must_use]
    pub(super) fn resume(
        (container, attempt): (ContainerName, Attempt),
        log: ContainerLog,
        cgroup: ContainerCgroup,
        process: Result<Process, Exit>,
        [stdout, stderr]: [Option<Watched>; 2],
    ) -> Self {
        let stage = match process {
            Ok(process) => Stage::Running { process },
            Err(exit) => Stage::Over { exit, others: None },
        };
        let announced = Announced::Done;
        Self { container, attempt, log, cgroup, announced, stage, stdout, stderr }
    }

    /// What has to be handed over; none while it is being launched.
    #[must_use]
    pub(super) fn handles(&self) -> Option<Handles<'_>> {
        if self.announced == Announced::Pending {
            return None;
        }
        let (process, exit) = match &self.stage {
            Stage::Setup { .. } => return None,
            Stage::Running { process } => (Some(process), None),
            Stage::Over { exit, .. } => (None, Some(exit)),
        };
        Some(Handles { process, exit, stdout: self.stdout.as_ref(), stderr: self.stderr.as_ref() })
    }

    /// The attempt is durable, or could not be made so; its program begins, or never will.
    pub(super) fn announced(&mut self, result: Result<(), String>) {
        let failed = result.is_err();
        self.announced = result.map_or_else(Announced::Failed, |()| Announced::Done);
        if let Stage::Setup { gate, .. } = &mut self.stage {
            let gate = gate.take();
            if failed {
                self.kill();
            } else if let Some(gate) = gate {
                // Refused means that the set-up has failed; the status says why.
                gate.open().ok();
            }
        }
    }

    /// Takes in what the set-up says; the pid if the program has just been executed.
    pub(super) fn read_status(&mut self) -> Option<u32> {
        let Stage::Setup { status, text, gate, .. } = &mut self.stage else { return None };
        let end = status.as_ref()?;
        let mut buffer = [0; STATUS_LEN_MAX];
        loop {
            match rustix::io::read(end.as_fd(), &mut buffer) {
                Ok(0) => break,
                Ok(count) if text.len() < STATUS_LEN_MAX => {
                    text.extend_from_slice(&buffer[..count]);
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return None,
                Err(error) => {
                    text.extend_from_slice(format!("its status is lost: {error}").as_bytes());
                    break;
                }
            }
        }
        *status = None;
        // Without a word and before the gate was opened: it was killed.
        let executed = text.is_empty() && gate.is_none() && self.announced == Announced::Done;
        if !executed {
            return None;
        }
        let over = Stage::Over { exit: Exit::Unknown, others: None };
        let Stage::Setup { process, .. } = std::mem::replace(&mut self.stage, over) else {
            unreachable!("matched above");
        };
        let pid = process.pid;
        self.stage = Stage::Running { process };
        Some(pid)
    }

    /// Reaps the first process, which has ended, and kills what it left behind. Anything that
    /// [`Self::read_status`] has not taken in is lost: call that before.
    pub(super) fn reap(&mut self, poller: &Rc<Poller>, id: u32) {
        let process = match &self.stage {
            Stage::Setup { process, .. } | Stage::Running { process } => process,
            Stage::Over { .. } => return,
        };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let ended = match rustix::process::waitid(WaitId::PidFd(process.pidfd.as_fd()), options) {
            Ok(None) => return,
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
                (None, Some(signal)) => Exit::Signal(u8::try_from(signal).unwrap_or(0)),
                (None, None) => Exit::Unknown,
            },
            Err(error) => {
                journal::note(format_args!("{self}: can't reap its process: {error}"));
                Exit::Unknown
            }
        };
        let exit = self.exit_of(ended);
        self.stage = Stage::Over { exit, others: None };
        self.kill_others(poller, id);
    }

    /// How the run ended, given how its first process did.
    fn exit_of(&self, ended: Exit) -> Exit {
        match (&self.stage, &self.announced) {
            (Stage::Setup { .. }, Announced::Failed(why)) => {
                Exit::NotStarted(format!("its run could not be recorded: {why}"))
            }
            (Stage::Setup { text, .. }, _) if text.is_empty() => {
                Exit::NotStarted("its process was killed during set-up".to_owned())
            }
            (Stage::Setup { text, .. }, _) => {
                Exit::NotStarted(String::from_utf8_lossy(text).into_owned())
            }
            (Stage::Running { .. } | Stage::Over { .. }, _) => {
                let killed = ended == Exit::Signal(Signal::KILL.as_raw().try_into().unwrap_or(9));
                if killed && self.cgroup.oom_kills().is_ok_and(|kills| kills > 0) {
                    Exit::OutOfMemory
                } else {
                    ended
                }
            }
        }
    }

    /// Kills what is left in the cgroup, and waits for its end. To be called when the first
    /// process is gone, and whenever the cgroup tells of a change.
    pub(super) fn kill_others(&mut self, poller: &Rc<Poller>, id: u32) {
        if !matches!(self.stage, Stage::Over { .. }) || !self.is_populated() {
            return;
        }
        self.kill();
        let Stage::Over { others, .. } = &mut self.stage else { return };
        if others.is_none() {
            let token = Token::Cgroup(id).encode();
            let events = self.cgroup.events_fd().map_err(io::Error::other);
            match events.and_then(|events| poller.watch(events, token, EventFlags::PRI)) {
                Ok(events) => *others = Some(events),
                Err(error) => journal::note(format_args!("{}: {error}", self.container)),
            }
        }
    }

    /// Whether it is over, no process of it is left, and its attempt is written or given up.
    #[must_use]
    pub(super) fn is_through(&self) -> bool {
        let Stage::Over { .. } = &self.stage else { return false };
        self.announced != Announced::Pending && !self.is_populated()
    }

    fn is_populated(&self) -> bool {
        let populated = match &self.stage {
            // This very descriptor has to be read, or it would stay ready.
            Stage::Over { others: Some(events), .. } => events.get().is_populated(),
            Stage::Over { others: None, .. } | Stage::Setup { .. } | Stage::Running { .. } => {
                self.cgroup.is_populated()
            }
        };
        populated.unwrap_or_else(|error| {
            journal::note(format_args!("{self}: {}", journal::chain(&error)));
            false
        })
    }

    /// Its first process, if its program was executed and it is not over.
    #[must_use]
    pub(super) fn process(&self) -> Option<&Process> {
        match &self.stage {
            Stage::Running { process } => Some(process),
            Stage::Setup { .. } | Stage::Over { .. } => None,
        }
    }

    /// Sends the stop signal to the first process.
    pub(super) fn stop(&self, signal: StopSignal) {
        let (Stage::Setup { process, .. } | Stage::Running { process }) = &self.stage else {
            return;
        };
        match sys::signal_process(process.pidfd.as_fd(), signal.number()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => {}
            Err(error) => journal::note(format_args!("{self}: can't stop it: {error}")),
        }
    }

    /// Kills every process.
    pub(super) fn kill(&self) {
        if let Stage::Setup { process, .. } | Stage::Running { process } = &self.stage {
            // Also where the cgroup can't: it was not entered yet.
            pidfd_send_signal(&process.pidfd, Signal::KILL).ok();
        }
        if let Err(error) = self.cgroup.kill() {
            journal::note(format_args!("{self}: {}", journal::chain(&error)));
        }
    }

    /// Carries one piece of output to the log; how much, 0 if there is nothing at the moment.
    pub(super) fn read_output(
        &mut self,
        stream: Stream,
        buffer: &mut [u8],
        now: WallTime,
    ) -> usize {
        let end = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let Some(pipe) = end else { return 0 };
        match rustix::io::read(pipe.as_fd(), &mut *buffer) {
            Ok(count) if count > 0 => {
                self.log.write(stream, &buffer[..count], now);
                count
            }
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Ok(_) => {
                *end = None;
                0
            }
            Err(error) => {
                journal::note(format_args!("{}: its output is lost: {error}", self.container));
                *end = None;
                0
            }
        }
    }

    /// Ends it, once it [is through](Self::is_through): what is left in the pipes goes to the
    /// log.
    #[must_use]
    pub(super) fn finish(mut self, buffer: &mut [u8], now: WallTime) -> Finished {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let mut drained = 0;
            while drained < DRAIN_LEN_MAX {
                match self.read_output(stream, buffer, now) {
                    0 => break,
                    count => drained += count,
                }
            }
        }
        self.log.finish(now);
        if let Stage::Over { others, .. } = &mut self.stage {
            *others = None;
        }
        let exit = match self.stage {
            Stage::Over { exit, .. } => exit,
            Stage::Setup { .. } | Stage::Running { .. } => Exit::Unknown,
        };
        Finished { exit, cgroup: self.cgroup, log: self.log }
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} run {}", self.container, self.attempt)
    }
}
