//! [`Writers`]: durable checkpoints without stalling the executor.
//!
//! An fsync takes as long as the disk likes, and the executor has one thread. So a forked child
//! writes, and the end of the child is the event that everything was tried. Not here: what the
//! files hold (`state::checkpoint`), and reading them (`recovery`).

use std::collections::{BTreeMap, VecDeque};
use std::fs::{DirBuilder, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::rc::Rc;

use rustix::pipe::PipeFlags;
use rustix::process::{Signal, WaitId, WaitIdOptions};

use super::journal;
use super::poller::{EventFlags, Poller, Watched};
use crate::ids::{Attempt, ContainerName};
use crate::state::checkpoint::{self, AttemptFile, ExitFile};
use crate::state::paths::PodPaths;
use crate::sys::{self, CloneRequest, Cloned};

/// Most children that write at once.
const WRITERS_MAX: usize = 4;
/// Most checkpoints that one child writes, when more than [`WRITERS_MAX`] are wanted at once.
const BATCH_LEN_MAX: usize = 16;
/// Longest text of one failure: those of a whole batch must fit into a pipe.
const FAILURE_LEN_MAX: usize = 1024;
/// Directories of containers hold what only root may see; the sandbox below has its own mode.
const CONTAINER_DIR_MODE: u32 = 0o711;

/// A checkpoint to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Checkpoint {
    /// A run is about to begin.
    Attempt(AttemptFile),
    /// A run has ended.
    Exit(ExitFile),
}

impl Checkpoint {
    fn attempt(&self) -> Attempt {
        match self {
            Self::Attempt(file) => file.attempt,
            Self::Exit(file) => file.attempt,
        }
    }
}

/// What became of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    /// Whose.
    pub(super) container: ContainerName,
    /// Which.
    pub(super) checkpoint: Checkpoint,
    /// Whether it is durable; the text says why not.
    pub(super) result: Result<(), String>,
}

#[derive(Debug)]
struct Job {
    container: ContainerName,
    checkpoint: Checkpoint,
    /// The container's directory is new, and its own entry not durable yet.
    new_directory: bool,
}

/// The children that write.
#[derive(Debug)]
pub(super) struct Writers {
    paths: PodPaths,
    poller: Rc<Poller>,
    token: fn(u32) -> u64,
    writers: BTreeMap<u32, Writer>,
    next: u32,
    waiting: VecDeque<Job>,
    /// Checkpoints that no child could be made for.
    failed: Vec<Written>,
}

#[derive(Debug)]
struct Writer {
    pidfd: Watched,
    failures: OwnedFd,
    jobs: Vec<Job>,
}

impl Writers {
    /// None yet. `token` makes the token by which the poller tells that a child has ended.
    #[must_use]
    pub(super) fn new(paths: PodPaths, poller: &Rc<Poller>, token: fn(u32) -> u64) -> Self {
        let poller = Rc::clone(poller);
        let (writers, waiting, failed) = Default::default();
        Self { paths, poller, token, writers, next: 0, waiting, failed }
    }

    /// Whether nothing is being written or waits for it.
    #[must_use]
    pub(super) fn is_idle(&self) -> bool {
        self.writers.is_empty() && self.waiting.is_empty() && self.failed.is_empty()
    }

    /// Has a checkpoint written; [`Self::ended`] or [`Self::failed`] tells when that is done.
    pub(super) fn submit(&mut self, container: ContainerName, checkpoint: Checkpoint) {
        // Made here, because a launch that goes on meanwhile makes directories below it.
        let directory = self.paths.container(&container);
        let new_directory = !directory.is_dir();
        if new_directory {
            let made =
                DirBuilder::new().recursive(true).mode(CONTAINER_DIR_MODE).create(&directory);
            if let Err(error) = made {
                let result = Err(format!("making {} failed: {error}", directory.display()));
                self.failed.push(Written { container, checkpoint, result });
                return;
            }
        }
        self.waiting.push_back(Job { container, checkpoint, new_directory });
        self.start();
    }

    /// Checkpoints that failed before a child was made for them.
    pub(super) fn failed(&mut self) -> Vec<Written> {
        std::mem::take(&mut self.failed)
    }

    /// A child has ended: what became of its checkpoints.
    pub(super) fn ended(&mut self, writer: u32) -> Vec<Written> {
        let Some(Writer { pidfd, failures, jobs }) = self.writers.remove(&writer) else {
            return Vec::new();
        };
        let results = results(&pidfd, failures, jobs.len());
        drop(pidfd);
        self.start();
        std::iter::zip(jobs, results)
            .map(|(job, result)| {
                let Job { container, checkpoint, new_directory: _ } = job;
                Written { container, checkpoint, result }
            })
            .collect()
    }

    fn start(&mut self) {
        while self.writers.len() < WRITERS_MAX && !self.waiting.is_empty() {
            let count = self.waiting.len().min(BATCH_LEN_MAX);
            let jobs: Vec<Job> = self.waiting.drain(..count).collect();
            let id = self.next;
            self.next = self.next.wrapping_add(1);
            match self.fork((self.token)(id), &jobs) {
                Ok((pidfd, failures)) => {
                    self.writers.insert(id, Writer { pidfd, failures, jobs });
                }
                Err(error) => {
                    let why = format!("making a process that writes it failed: {error}");
                    self.failed.extend(jobs.into_iter().map(|job| Written {
                        container: job.container,
                        checkpoint: job.checkpoint,
                        result: Err(why.clone()),
                    }));
                }
            }
        }
    }

    fn fork(&self, token: u64, jobs: &[Job]) -> io::Result<(Watched, OwnedFd)> {
        let (failures, report) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        match sys::clone_process(&CloneRequest { flags: 0, into_cgroup: None })? {
            Cloned::Child => write_in_child(&self.paths, jobs, &report),
            Cloned::Parent { pid: _, pidfd } => {
                Ok((self.poller.watch(pidfd, token, EventFlags::IN)?, failures))
            }
        }
    }
}

/// What the child does: one line for each checkpoint, empty if it is durable.
fn write_in_child(paths: &PodPaths, jobs: &[Job], report: &OwnedFd) -> ! {
    // It must not write on when another executor has begun to recover. And if the disk hangs, it
    // is all that is left of a dead executor: neither the listening socket nor the connection may
    // look as if there were one, nor the gates of launches stay open.
    if rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).is_err()
        || sys::close_all_but(&[report.as_fd()]).is_err()
    {
        sys::exit_now(1);
    }
    let mut lines = String::new();
    for job in jobs {
        if let Err(why) = write(paths, job) {
            lines.extend(why.chars().filter(|c| *c != '\n').take(FAILURE_LEN_MAX / 4));
        }
        lines.push('\n');
    }
    let mut written = 0;
    while let Some(rest) = lines.as_bytes().get(written..).filter(|rest| !rest.is_empty()) {
        match rustix::io::write(report, rest) {
            Ok(count) => written += count,
            Err(_) => sys::exit_now(1),
        }
    }
    sys::exit_now(0)
}

fn write(paths: &PodPaths, job: &Job) -> Result<(), String> {
    let Job { container, checkpoint, new_directory } = job;
    let attempt = checkpoint.attempt();
    let result = match checkpoint {
        Checkpoint::Attempt(file) => checkpoint::create(&paths.attempt(container, attempt), file),
        Checkpoint::Exit(file) => checkpoint::create(&paths.exit(container, attempt), file),
    };
    result.map_err(|error| journal::chain(&error))?;
    if *new_directory {
        let sync = |path: &Path| {
            checkpoint::sync_dir(path)
                .map_err(|error| format!("syncing {} failed: {error}", path.display()))
        };
        let directory = paths.container(container);
        directory.parent().map_or(Ok(()), sync)?;
        sync(&paths.data)?;
    }
    if matches!(checkpoint, Checkpoint::Exit(_))
        && let Some(before) = attempt.0.checked_sub(1).map(Attempt)
    {
        // Only the newest run is ever read again. What stays behind, recovery removes.
        std::fs::remove_file(paths.attempt(container, before)).ok();
        std::fs::remove_file(paths.exit(container, before)).ok();
    }
    Ok(())
}

/// Reads what the child, which has ended, wrote, and reaps it.
fn results(pidfd: &Watched, failures: OwnedFd, count: usize) -> Vec<Result<(), String>> {
    let mut lines = String::new();
    let read = File::from(failures).read_to_string(&mut lines);
    let status = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
    let died = match (read, status) {
        (Ok(_), Ok(Some(status))) if status.exit_status() == Some(0) => None,
        (_, Ok(Some(status))) => Some(format!("the process that writes it died: {status:?}")),
        (_, other) => Some(format!("the process that writes it was lost: {other:?}")),
    };
    let mut lines = lines.lines();
    let result = || match (&died, lines.next()) {
        (None, Some("")) => Ok(()),
        (None, Some(why)) => Err(why.to_owned()),
        (None, None) => Err("the process that writes it said nothing".to_owned()),
        (Some(why), _) => Err(why.clone()),
    };
    std::iter::repeat_with(result).take(count).collect()
}
