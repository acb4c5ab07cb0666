//! A program in a container that runs: for probes, hooks and sessions.
//!
//! ```text
//! executor: join the container's process namespace ─ clone3 into a cgroup below its own ─ leave
//! child:    descriptors, signals, session ─► namespaces ─► limits, user, capabilities
//!             ─► parent-death signal ─► no_new_privs, seccomp ─► execve
//! ```
//!
//! It has all that the container's own program has, as its plan says, and nothing of the executor.
//! Not here: the launch of a container, of which the plan and most steps come (`child`).

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode};
use rustix::pipe::PipeFlags;
use rustix::process::{DumpableBehavior, Pid};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType};

use super::child::{self, Attempt as _, Failure};
use super::launcher::LaunchError;
use super::plan::LaunchPlan;
use super::prepared::{Prepared, UserStep};
use super::reaper::OWN_NAMESPACE;
use super::terminal::{self, Master, TerminalSize};
use super::users::{self, User};
use super::{ContainerizerError, Native};
use crate::cgroup::Entry;
use crate::sys::{self, CloneRequest, Cloned};

/// What a program on a terminal is told of it, unless the container says something else.
const TERMINAL_KIND: &CStr = c"TERM=xterm";

/// What is to be executed, and where.
#[derive(Debug)]
pub struct ExecRequest<'a> {
    /// How the container was launched.
    pub plan: &'a LaunchPlan,
    /// The pidfd of its first process.
    pub target: BorrowedFd<'a>,
    /// The program, looked up in the container's `PATH`, and its arguments; never empty.
    pub command: &'a [String],
    /// Its standard streams.
    pub streams: Streams<'a>,
    /// Where it enters the container's cgroup.
    pub entry: Entry,
}

/// The standard streams of a program.
#[derive(Debug, Clone, Copy)]
pub enum Streams<'a> {
    /// Standard input, output and error. Pipes among them become the user's, so that he can open
    /// them anew (`/dev/stdout`).
    Given([BorrowedFd<'a>; 3]),
    /// A terminal, which is made for it.
    Terminal(TerminalSize),
}

/// A process that becomes the program.
#[derive(Debug)]
pub struct Executed {
    /// Its id in the executor's PID namespace.
    pub pid: Pid,
    /// The same; becomes readable when it has ended.
    pub pidfd: OwnedFd,
    /// End of file without a byte: the program was executed. Else at most
    /// [`STATUS_LEN_MAX`](super::STATUS_LEN_MAX) bytes of UTF-8 that say which step failed on what,
    /// and the process has ended. Non-blocking.
    pub status: OwnedFd,
    /// The other side of its terminal, if it has one.
    pub terminal: Option<Master>,
}

impl Native {
    /// Executes a program in a container that runs.
    ///
    /// # Errors
    /// If no process could be made, as when the container has ended.
    pub fn exec(&mut self, request: &ExecRequest<'_>) -> Result<Executed, LaunchError> {
        let mut prepared = Prepared::new(request.plan, &mut self.filters)?;
        let words = request.command.iter().map(|word| CString::new(word.as_str()));
        let argv: Result<Vec<CString>, _> = words.collect();
        prepared.program.argv = argv.map_err(|_| LaunchError::Plan {
            what: "there is a null character in the command".to_owned(),
        })?;
        let (status, report) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
            .map_err(|source| LaunchError::Pipes { source: source.into() })?;
        rustix::io::ioctl_fionbio(&status, true)
            .map_err(|source| LaunchError::Pipes { source: source.into() })?;
        let (terminal, passed) = match request.streams {
            Streams::Given(_) => (None, None),
            Streams::Terminal(_) => {
                prepared.program.add_default(TERMINAL_KIND);
                let (master, passed) = Master::channel()
                    .map_err(|source| LaunchError::Pipes { source: source.into() })?;
                (Some(master), Some(passed))
            }
        };
        let join = |source: std::io::Error| LaunchError::Join {
            source: ContainerizerError::Join { pid: 0, source },
        };
        let own = File::open(OWN_NAMESPACE).map_err(join)?;
        // Children made from now on are in the container.
        let processes = ThreadNameSpaceType::PROCESS_ID;
        rustix::thread::move_into_thread_name_spaces(request.target, processes)
            .map_err(|error| join(error.into()))?;
        let cloned = sys::clone_process(&CloneRequest {
            flags: 0,
            into_cgroup: Some(request.entry.into.as_fd()),
        });
        if let Ok(Cloned::Child) = cloned {
            let ways = Ways { report: report.as_fd(), terminal: passed.as_ref().map(AsFd::as_fd) };
            child::report_failure(&report, || start(&prepared, request, ways))
        }
        let kind = LinkNameSpaceType::ProcessID;
        let left = rustix::thread::move_into_link_name_space(own.as_fd(), Some(kind));
        match (cloned, left) {
            (Ok(Cloned::Parent { pid, pidfd }), Ok(())) => {
                Ok(Executed { pid, pidfd, status, terminal })
            }
            (Ok(Cloned::Child), _) => unreachable!("the child does not come here"),
            (Err(source), _) => Err(LaunchError::Clone { source }),
            // It has just come from there. The child dies with what it was told to report to.
            (_, Err(error)) => Err(join(error.into())),
        }
    }
}

/// How the child says something to its parent.
#[derive(Debug, Clone, Copy)]
struct Ways<'a> {
    report: BorrowedFd<'a>,
    terminal: Option<BorrowedFd<'a>>,
}

fn start(
    prepared: &Prepared,
    request: &ExecRequest<'_>,
    Ways { report, terminal }: Ways<'_>,
) -> Result<Infallible, Failure> {
    let given = match &request.streams {
        Streams::Given(streams) => streams.as_slice(),
        Streams::Terminal(_) => &[],
    };
    let own = [report, request.target].into_iter().chain(terminal).chain(given.iter().copied());
    let tasks = request.entry.tasks.iter().map(AsFd::as_fd);
    let keep: Vec<BorrowedFd<'_>> = own.chain(tasks).collect();
    sys::close_all_but(&keep).to(|| "close the executor's descriptors".to_owned())?;
    sys::reset_signals();
    // Until exec it is the executor's program; nobody shall read or trace it meanwhile.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .to(|| "make the set-up untraceable".to_owned())?;
    rustix::process::setsid().to(|| "begin a session".to_owned())?;
    child::enter_tasks(&request.entry)?;
    if let Some(score) = prepared.oom_score_adj {
        child::set_oom_score(score);
    }
    if let Streams::Given([stdin, stdout, stderr]) = request.streams {
        nix::unistd::dup2_stdin(stdin)
            .and_then(|()| nix::unistd::dup2_stdout(stdout))
            .and_then(|()| nix::unistd::dup2_stderr(stderr))
            .to(|| "place the standard streams".to_owned())?;
    }
    let host_terminals = terminal.and_then(|_| terminal::of_host());
    let mut kinds = ThreadNameSpaceType::MOUNT;
    if prepared.own_cgroups {
        kinds |= ThreadNameSpaceType::CONTROL_GROUP;
    }
    rustix::thread::move_into_thread_name_spaces(request.target, kinds)
        .to(|| "enter the container's namespaces".to_owned())?;
    rustix::process::umask(Mode::from_raw_mode(prepared.umask));
    let user = match &prepared.user {
        UserStep::Ids { uid, gid } => User::by_number(*uid, *gid),
        UserStep::OfImage(wanted) => users::look_up(wanted)?,
    };
    match (request.streams, terminal) {
        (Streams::Terminal(size), Some(to)) => {
            terminal::become_terminal(host_terminals, size, &user, to)?;
        }
        (Streams::Terminal(_), None) | (Streams::Given(_), _) => give_pipes(&user)?,
    }
    child::become_user(prepared, &user)?;
    child::execute(&prepared.program, user.home.as_deref())
}

/// Makes the standard streams that are pipes the user's.
fn give_pipes(user: &User) -> Result<(), Failure> {
    for stream in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        let kind = rustix::fs::fstat(stream).map(|it| FileType::from_raw_mode(it.st_mode));
        if kind == Ok(FileType::Fifo) {
            std::os::unix::fs::fchown(stream, Some(user.uid), Some(user.gid))
                .to(|| "give the standard streams to the user".to_owned())?;
        }
    }
    Ok(())
}
