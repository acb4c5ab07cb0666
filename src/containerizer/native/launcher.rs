//! The parent's side of a launch: pipes, the clone, and the handles on what it made.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::Pid;

use super::child::{self, ChildEnds};
use super::plan::{HostEffect, LaunchPlan};
use super::prepared::Prepared;
use super::seccomp::FilterError;
use super::{ContainerizerError, Native};
use crate::cgroup::Entry;
use crate::sys::{self, CloneRequest, Cloned};

/// Most bytes that a child reports before it gives up; a pipe takes them in one piece.
pub const STATUS_LEN_MAX: usize = 2048;

/// A container whose set-up has begun, and whose program waits for the gate.
#[derive(Debug)]
pub struct Launched {
    /// Its first process, in the executor's PID namespace.
    pub pid: Pid,
    /// The same; becomes readable when it has ended.
    pub pidfd: OwnedFd,
    /// What it writes to standard output. Non-blocking.
    pub stdout: OwnedFd,
    /// What it writes to standard error. Non-blocking.
    pub stderr: OwnedFd,
    /// Lets the program begin.
    pub gate: Gate,
    /// End of file without a byte: the program was executed. Else at most [`STATUS_LEN_MAX`] bytes
    /// of UTF-8 that say which step failed on what, and the process has ended. Non-blocking.
    pub status: OwnedFd,
}

/// Holds a program back until what must be recorded before it is recorded. If it is dropped, with
/// its process or by it, the program is never executed.
#[derive(Debug)]
pub struct Gate(OwnedFd);

impl Gate {
    /// Lets the program begin, as soon as its set-up is done.
    ///
    /// # Errors
    /// EPIPE if the set-up has failed; [`Launched::status`] says why.
    pub fn open(self) -> io::Result<()> {
        rustix::io::retry_on_intr(|| rustix::io::write(&self.0, &[child::GO]))?;
        Ok(())
    }
}

/// Why there is no process. What fails after the clone is in [`Launched::status`].
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The plan can't be carried out by this containerizer.
    #[error("the launch plan is not supported: {what}")]
    Plan {
        /// What is wrong with it.
        what: String,
    },
    /// Its list of system calls can't be compiled.
    #[error("compiling the system call filter failed")]
    Filter {
        /// Why.
        source: FilterError,
    },
    /// A directory could not be made or given to the container's user.
    #[error("preparing {path} failed")]
    Prepare {
        /// On the host.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A pipe could not be made.
    #[error("making the container's pipes failed")]
    Pipes {
        /// Why.
        source: io::Error,
    },
    /// The pod's processes can't be joined.
    #[error("joining the pod's process namespace failed")]
    Join {
        /// Why.
        source: ContainerizerError,
    },
    /// No process could be made.
    #[error("making the container's process failed")]
    Clone {
        /// Why.
        source: io::Error,
    },
}

impl Native {
    /// Makes the container's process, which sets itself up and then waits at the gate.
    ///
    /// # Errors
    /// If no process could be made. Nothing is left then but directories.
    pub fn launch(&mut self, plan: &LaunchPlan, entry: Entry) -> Result<Launched, LaunchError> {
        let prepared = Prepared::new(plan, &mut self.filters)?;
        for effect in &plan.effects {
            apply(effect)?;
        }
        let (ours, theirs) =
            pipes().map_err(|source| LaunchError::Pipes { source: source.into() })?;
        let request = CloneRequest {
            flags: child::clone_flags(&prepared),
            into_cgroup: Some(entry.into.as_fd()),
        };
        let joins = self.reaper.as_ref().filter(|_| !prepared.own_pids);
        let join = |source| LaunchError::Join { source };
        joins.map_or(Ok(()), super::reaper::Reaper::join).map_err(join)?;
        let cloned = sys::clone_process(&request);
        if let Ok(Cloned::Child) = cloned {
            child::run(&prepared, &theirs, &entry)
        }
        // The ends of the child are closed here; `entry` has served.
        drop((theirs, entry));
        joins.map_or(Ok(()), super::reaper::Reaper::leave).map_err(join)?;
        match cloned {
            Ok(Cloned::Parent { pid, pidfd }) => Ok(Launched {
                pid,
                pidfd,
                stdout: ours.stdout,
                stderr: ours.stderr,
                gate: Gate(ours.gate),
                status: ours.status,
            }),
            Ok(Cloned::Child) => unreachable!("the child does not come here"),
            Err(source) => Err(LaunchError::Clone { source }),
        }
    }
}

struct ParentEnds {
    stdout: OwnedFd,
    stderr: OwnedFd,
    gate: OwnedFd,
    status: OwnedFd,
}

fn pipes() -> Result<(ParentEnds, ChildEnds), Errno> {
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
    let (gate_in, gate) = pipe()?;
    let (status, status_out) = pipe()?;
    let (stdout, stdout_in) = pipe()?;
    let (stderr, stderr_in) = pipe()?;
    for fd in [&status, &stdout, &stderr] {
        rustix::io::ioctl_fionbio(fd, true)?;
    }
    Ok((
        ParentEnds { stdout, stderr, gate, status },
        ChildEnds { gate: gate_in, status: status_out, stdout: stdout_in, stderr: stderr_in },
    ))
}

/// Parents of prepared directories are for root alone.
const PARENT_MODE: u32 = 0o711;
/// A directory that nobody else looks into.
const PRIVATE_MODE: u32 = 0o700;

fn apply(effect: &HostEffect) -> Result<(), LaunchError> {
    match effect {
        HostEffect::Directory { path, mode, uid, gid } => {
            let failed = |source| LaunchError::Prepare { path: path.clone(), source };
            directory(path, *mode, *uid, *gid).map_err(failed)
        }
        HostEffect::File { path, mode, content } => {
            let failed = |source| LaunchError::Prepare { path: path.clone(), source };
            file(path, *mode, content).map_err(failed)
        }
        HostEffect::EmptyFile { path, mode } => {
            let failed = |source| LaunchError::Prepare { path: path.clone(), source };
            empty_file(path, *mode).map_err(failed)
        }
    }
}

/// A file with that content. Another one takes its place, so that a container which still has it
/// is not disturbed, unless it says so already.
fn file(path: &Path, mode: u32, content: &str) -> io::Result<()> {
    // The container may have written to it: no more is read than tells whether it is the same.
    let mut found = Vec::with_capacity(content.len() + 1);
    if let Ok(file) = fs::File::open(path) {
        file.take(content.len() as u64 + 1).read_to_end(&mut found)?;
        if found == content.as_bytes() {
            return Ok(());
        }
    }
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(PARENT_MODE).create(parent)?;
    }
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
    file.write_all(content.as_bytes())?;
    // Whatever the umask left.
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    fs::rename(&new, path)
}

/// An empty file.
fn empty_file(path: &Path, mode: u32) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(PRIVATE_MODE).create(parent)?;
    }
    // Nobody but root gets at the directory: what is there is of a launch that came to nothing.
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode).custom_flags(libc::O_NOFOLLOW);
    let file = options.open(path)?;
    // Whatever the umask left.
    Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?)
}

fn directory(path: &Path, mode: u32, uid: u32, gid: u32) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(PARENT_MODE).create(parent)?;
    }
    let made = match rustix::fs::mkdir(path, Mode::from_raw_mode(mode)) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(error.into()),
    };
    // Its owner can change what is in it, but not what it is: the parent is root's.
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if made {
        // Whatever the umask left.
        rustix::fs::fchmod(&directory, Mode::from_raw_mode(mode))?;
    }
    let metadata = directory.metadata()?;
    if (metadata.uid(), metadata.gid()) != (uid, gid) {
        fchown(&directory, Some(uid), Some(gid))?;
    }
    Ok(())
}
