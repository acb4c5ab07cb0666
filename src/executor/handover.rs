//! [`Handover`]: all that an executor knows, for the program that continues it in place.
//!
//! execve(2) keeps the process, its children and the descriptors that are not close-on-exec;
//! everything else is in here, as JSON in a memory file. It is versioned: a program reads every
//! format up to its own, and refuses newer ones before anything has happened. Golden files of
//! every format are in `state/golden`. Not here: when it is done, and how (`upgrade`).

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;

use rustix::fs::MemfdFlags;
use serde::{Deserialize, Serialize};

use super::boot::Boot;
use super::logs::LogState;
use super::machine::PodMachine;
use super::protocol::PodNetwork;
use crate::containerizer::native::NativeState;
use crate::ids::{Attempt, ContainerName};
use crate::state::record::Exit;

/// The newest format, which is written.
pub(super) const FORMAT: u32 = 1;

/// All that an executor knows. Descriptors are numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Handover {
    /// [`FORMAT`].
    pub(super) format: u32,
    /// What it was born with.
    pub(super) boot: Boot,
    /// What it has decided.
    pub(super) machine: PodMachine,
    /// The pod's namespaces, if it has entered them.
    pub(super) native: Option<NativeState>,
    /// The network that the process is in, if it is in one that the agent has made. Builds before
    /// this field knew none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) network: Option<PodNetwork>,
    /// The listening socket.
    pub(super) listener: i32,
    /// The connection to the agent, if there is one.
    pub(super) connection: Option<ConnectionState>,
    /// What runs.
    pub(super) runs: Vec<RunState>,
    /// Sessions whose programs run. Builds before this field knew none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) sessions: Vec<SessionState>,
}

/// A session whose program runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SessionState {
    /// In which container.
    pub(super) container: ContainerName,
    /// In which run of it.
    pub(super) attempt: Attempt,
    /// Its socket.
    pub(super) socket: i32,
    /// The pidfd of its first process.
    pub(super) pidfd: i32,
    /// The name of its cgroup.
    pub(super) cgroup: String,
}

/// A connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConnectionState {
    /// Its socket.
    pub(super) socket: i32,
    /// The beginning of a message from the agent.
    pub(super) received: Vec<u8>,
    /// The rest of a message to the agent.
    pub(super) unsent: Vec<u8>,
}

/// One run of a container that has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunState {
    /// Which container.
    pub(super) container: ContainerName,
    /// Which run.
    pub(super) attempt: Attempt,
    /// Its first process.
    pub(super) process: ProcessState,
    /// The end of its standard output, unless that was closed.
    pub(super) stdout: Option<i32>,
    /// The end of its standard error, unless that was closed.
    pub(super) stderr: Option<i32>,
    /// Where its log stands.
    pub(super) log: LogState,
}

/// The first process of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) enum ProcessState {
    /// It was not reaped.
    Alive {
        /// Its id in the executor's PID namespace.
        pid: u32,
        /// Its pidfd.
        pidfd: i32,
    },
    /// It was reaped; what it left behind is being killed.
    Ended(Exit),
}

/// Why a handover can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandoverError {
    /// The memory file can't be made, written or read.
    #[error("the memory file of the handover failed")]
    File(#[source] io::Error),
    /// It was written by a newer program.
    #[error("the handover has format {found}; the newest known here is {FORMAT}")]
    Newer {
        /// Its format.
        found: u32,
    },
    /// It is no handover.
    #[error("the handover can't be understood")]
    Garbage(#[source] serde_json::Error),
}

/// The part of every format that never changes.
#[derive(Deserialize)]
struct Head {
    format: u32,
}

impl Handover {
    /// Writes it into a memory file, to be read from its beginning.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn write(&self) -> Result<OwnedFd, HandoverError> {
        let json = serde_json::to_vec(self).map_err(HandoverError::Garbage)?;
        memory_file(&json).map_err(HandoverError::File)
    }

    /// Reads it from a memory file.
    ///
    /// # Errors
    /// If this program can't go on from it.
    pub(super) fn read(file: OwnedFd) -> Result<Self, HandoverError> {
        let mut json = Vec::new();
        File::from(file).read_to_end(&mut json).map_err(HandoverError::File)?;
        Self::parse(&json)
    }

    fn parse(json: &[u8]) -> Result<Self, HandoverError> {
        let Head { format } = serde_json::from_slice(json).map_err(HandoverError::Garbage)?;
        if format > FORMAT {
            return Err(HandoverError::Newer { found: format });
        }
        serde_json::from_slice(json).map_err(HandoverError::Garbage)
    }
}

/// A file in memory with that content, to be read from its beginning.
///
/// # Errors
/// If the kernel refuses.
pub(super) fn memory_file(content: &[u8]) -> io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create("roost-executor", MemfdFlags::CLOEXEC)?;
    let mut file = File::from(file);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file.into())
}

#[cfg(test)]
mod tests;
