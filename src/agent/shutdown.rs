//! The end of all pods when the machine is shut down, the least important first.
//!
//! systemd ends the scope of all pods by SIGTERM, and each executor stops its pod then, all of them
//! at once. Before that, when the agent has ended already (`ExecStopPost=` of
//! `packaging/roost.service`), this tells the executors of the lowest priority first, and the next
//! ones when these have stopped. What is left when the time is over is left to systemd. The records
//! of the pods stay as they are: after the boot the agent starts what shall run.
//!
//! Not here: how an executor stops its pod (`executor::shell`).

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, pidfd_send_signal};

use super::recover::{self, RecoverError};
use crate::executor::client::{ConnectError, connect};
use crate::state::checkpoint::{self, SpecFile};
use crate::state::paths::Paths;

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stopped {
    /// Executors that have ended.
    pub ended: usize,
    /// Those that are still there.
    pub left: usize,
}

/// Why pods can't be stopped.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// There is an agent, which would start them again.
    #[error("an agent listens on {}: it would start the pods again; stop it first", path.display())]
    AgentRuns {
        /// Its socket.
        path: PathBuf,
    },
    /// What runs can't be seen.
    #[error("can't see which pods run")]
    Find(#[source] RecoverError),
    /// The kernel refuses something.
    #[error("can't {attempted}")]
    System {
        /// What.
        attempted: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// An executor that is there.
#[derive(Debug)]
struct Running {
    priority: i32,
    pidfd: OwnedFd,
}

/// Stops all pods as at the shutdown of the machine, within that time. There must be no agent.
///
/// # Errors
/// When nothing was stopped. Pods that take longer are counted.
pub fn stop_pods(paths: &Paths, within: Duration) -> Result<Stopped, StopError> {
    let deadline = Instant::now() + within;
    let socket = paths.api_socket();
    if crate::api::socket::connect(&socket).is_ok() {
        return Err(StopError::AgentRuns { path: socket });
    }
    let system = |attempted| move |source| StopError::System { attempted, source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let runtime = runtime.map_err(system("start the runtime"))?;
    // Connections are of its kind; nothing is waited for on them.
    let _inside = runtime.enter();
    let mut running = find(paths).map_err(StopError::Find)?;
    running.sort_by_key(|pod| pod.priority);
    let mut ended = 0;
    for group in running.chunk_by(|one, next| one.priority == next.priority) {
        for pod in group {
            // It may have ended meanwhile.
            pidfd_send_signal(&pod.pidfd, Signal::TERM).ok();
        }
        ended += wait(group, deadline).map_err(system("wait for executors"))?;
        if Instant::now() >= deadline {
            break;
        }
    }
    Ok(Stopped { ended, left: running.len() - ended })
}

fn find(paths: &Paths) -> Result<Vec<Running>, RecoverError> {
    let mut running = Vec::new();
    for id in recover::ids_in(&paths.runtime_pods())? {
        let connection = match connect(&paths.runtime_pods().join(id.to_string())) {
            Ok(connection) => connection,
            Err(ConnectError::Gone { .. }) => continue,
            Err(error @ ConnectError::Other { .. }) => {
                tracing::warn!(%id, error = super::chain(&error), "can't reach the executor");
                continue;
            }
        };
        let pidfd = match connection.peer_pid().and_then(|pid| connection.pidfd(pid)) {
            Ok(Some(pidfd)) => pidfd,
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!(%id, %error, "can't tell who the executor is");
                continue;
            }
        };
        let file = paths.pods().join(id.to_string()).join("spec.json");
        let priority = match checkpoint::read::<SpecFile>(&file) {
            Ok(found) => found.map_or(0, |file| file.spec.priority),
            Err(error) => {
                tracing::warn!(%id, error = super::chain(&error), "its priority is not known");
                0
            }
        };
        running.push(Running { priority, pidfd });
    }
    Ok(running)
}

/// How many of them have ended, when all have or the time is over.
fn wait(pods: &[Running], deadline: Instant) -> io::Result<usize> {
    let mut left: Vec<&Running> = pods.iter().collect();
    while !left.is_empty() {
        let mut polled: Vec<PollFd<'_>> = left
            .iter()
            .map(|pod| PollFd::from_borrowed_fd(pod.pidfd.as_fd(), PollFlags::IN))
            .collect();
        let time = deadline.saturating_duration_since(Instant::now());
        let time = Timespec::try_from(time).map_err(io::Error::other)?;
        let ready = match poll(&mut polled, Some(&time)) {
            Ok(ready) => ready,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let ended: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut ended = ended.into_iter();
        left.retain(|_| !ended.next().unwrap_or(false));
        if ready == 0 {
            break;
        }
    }
    Ok(pods.len() - left.len())
}
