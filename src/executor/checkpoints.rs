//! [`Writers`]: durable checkpoints without stalling the executor.
//!
//! An fsync takes as long as the disk likes, and the executor has one thread. So a forked child
//! writes, and says so in a pipe as soon as it has tried everything; that it ended comes later, for
//! the kernel takes its time to take down a process. Not here: what the files hold
//! (`state::checkpoint`), and reading them (`recovery`).

use std::collections::{BTreeMap, VecDeque};
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::rc::Rc;

use rustix::io::Errno;
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
/// Bytes of reports read at once.
const READ_LEN: usize = 256;
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

/// A child that writes.
#[derive(Debug)]
struct Writer {
    pidfd: Watched,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// It writes. `text` is what it has said so far of what became of that: a line for each job.
    Writing { report: Watched, text: Vec<u8>, jobs: Vec<Job> },
    /// It has said everything. It only has to be reaped.
    Through,
}

impl Writers {
    /// None yet. `token` makes the token by which the poller tells of a child.
    #[must_use]
    pub(super) fn new(paths: PodPaths, poller: &Rc<Poller>, token: fn(u32) -> u64) -> Self {
        let poller = Rc::clone(poller);
        let (writers, waiting, failed) = Default::default();
        Self { paths, poller, token, writers, next: 0, waiting, failed }
    }

    /// Whether nothing is being written or waits for it, and no child is left.
    #[must_use]
    pub(super) fn is_idle(&self) -> bool {
        self.writers.is_empty() && self.waiting.is_empty() && self.failed.is_empty()
    }

    /// Has a checkpoint written; [`Self::told`] or [`Self::failed`] tells when that is done.
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

    /// A child has said something or ended: the checkpoints that it is through with.
    pub(super) fn told(&mut self, writer: u32) -> Vec<Written> {
        let Some(Writer { pidfd, stage }) = self.writers.get_mut(&writer) else {
            return Vec::new();
        };
        let mut written = Vec::new();
        if let Stage::Writing { report, text, jobs } = stage {
            let Some(results) = results(report, text, jobs.len()) else { return written };
            let all = std::iter::zip(std::mem::take(jobs), results);
            written.extend(all.map(|(job, result)| {
                let Job { container, checkpoint, new_directory: _ } = job;
                Written { container, checkpoint, result }
            }));
            *stage = Stage::Through;
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let ended = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options);
        if !matches!(ended, Ok(None)) {
            self.writers.remove(&writer);
            self.start();
        }
        written
    }

    fn start(&mut self) {
        while self.writers.len() < WRITERS_MAX && !self.waiting.is_empty() {
            let count = self.waiting.len().min(BATCH_LEN_MAX);
            let jobs: Vec<Job> = self.waiting.drain(..count).collect();
            let id = self.next;
            self.next = self.next.wrapping_add(1);
            match self.fork((self.token)(id), &jobs) {
                Ok((pidfd, report)) => {
                    let stage = Stage::Writing { report, text: Vec::new(), jobs };
                    self.writers.insert(id, Writer { pidfd, stage });
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

    /// A child that writes; it, and where it will say what became of that.
    fn fork(&self, token: u64, jobs: &[Job]) -> io::Result<(Watched, Watched)> {
        let (reports, report) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&reports, true)?;
        let reports = self.poller.watch(reports, token, EventFlags::IN)?;
        match sys::clone_process(&CloneRequest { flags: 0, into_cgroup: None })? {
            Cloned::Child => write_in_child(&self.paths, jobs, &report),
            Cloned::Parent { pid: _, pidfd } => {
                Ok((self.poller.watch(pidfd, token, EventFlags::IN)?, reports))
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
    let mut durable = Vec::with_capacity(jobs.len());
    for job in jobs {
        match write(paths, job) {
            Ok(()) => durable.push(job),
            Err(why) => {
                lines.extend(why.chars().filter(|c| *c != '\n').take(FAILURE_LEN_MAX / 4));
            }
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
    // Nobody waits for this.
    durable.iter().for_each(|job| remove_before(paths, job));
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
    Ok(())
}

/// Once the end of a run is durable, only that run is ever read again. What stays behind, recovery
/// removes.
fn remove_before(paths: &PodPaths, job: &Job) {
    let Job { container, checkpoint, new_directory: _ } = job;
    if matches!(checkpoint, Checkpoint::Exit(_))
        && let Some(before) = checkpoint.attempt().0.checked_sub(1).map(Attempt)
    {
        std::fs::remove_file(paths.attempt(container, before)).ok();
        std::fs::remove_file(paths.exit(container, before)).ok();
        std::fs::remove_file(paths.termination_message(container, before)).ok();
    }
}

/// Reads what the child has said; none as long as that is not everything.
fn results(report: &Watched, text: &mut Vec<u8>, count: usize) -> Option<Vec<Result<(), String>>> {
    let mut buffer = [0; READ_LEN];
    let lost = loop {
        if text.iter().filter(|byte| **byte == b'\n').count() >= count {
            break None;
        }
        match rustix::io::read(report, &mut buffer) {
            // It says everything before it ends.
            Ok(0) => break Some("the process that writes it died".to_owned()),
            Ok(read) => text.extend_from_slice(&buffer[..read]),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return None,
            Err(error) => break Some(format!("the process that writes it was lost: {error}")),
        }
    };
    let text = String::from_utf8_lossy(text);
    let mut lines = text.lines();
    let result = || match (&lost, lines.next()) {
        (None, Some("")) => Ok(()),
        (None, Some(why)) => Err(why.to_owned()),
        (None, None) => Err("the process that writes it said nothing".to_owned()),
        (Some(why), _) => Err(why.clone()),
    };
    Some(std::iter::repeat_with(result).take(count).collect())
}
