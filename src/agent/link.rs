//! The agent's end of the connection to one executor.
//!
//! A task owns the connection; the loop hears of everything that comes in, workers send through a
//! [`LinkHandle`] and wait there for what they need to hear.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::executor::client::Connection;
use crate::executor::protocol::{Goal, PodReport, ToAgent, ToExecutor};
use crate::ids::PodId;
use crate::manifest::revision::Hash;

/// Messages waiting to be sent to one executor.
const OUTGOING_MAX: usize = 8;
/// How long the process may outlive its connection before it counts as alive but deaf.
const EXIT_TIME_MAX: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// How long an executor may take to accept a message.
const SEND_TIME_MAX: Duration = Duration::from_secs(10);

/// Tells one link to an executor from an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkId {
    pub(super) pod: PodId,
    /// Counts the links of this agent.
    pub(super) number: u64,
}

/// The executor's process, as far as the agent has hold of it.
#[derive(Debug)]
pub(super) enum Process {
    /// It becomes readable when it ends.
    Held(OwnedFd),
    /// It has ended.
    Ended,
    /// It can't be told whether it ended.
    Unknown,
}

/// What the loop hears.
#[derive(Debug)]
pub(super) enum LinkEvent {
    /// It reports.
    Report(PodReport),
    /// It goes on as this build.
    Build(String),
    /// The connection ended; whether the executor did, too.
    Ended { process_gone: bool },
}

/// A link to an executor. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct LinkHandle {
    outgoing: mpsc::Sender<(ToExecutor, Vec<OwnedFd>)>,
    heard: watch::Receiver<Heard>,
}

/// What an executor has said.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    protocol: u32,
    build: String,
    report: Option<PodReport>,
    /// Whether it was told what it is for before this link.
    was_told: bool,
    refused_upgrade: Option<String>,
}

/// Says whenever it has changed what pods of the node are called; none for an executor that does
/// not know of that.
pub(super) type Names = Option<watch::Receiver<()>>;

impl Heard {
    /// What it said when it introduced itself.
    pub(super) fn first(
        protocol: u32,
        build: String,
        report: Option<PodReport>,
        was_told: bool,
    ) -> Self {
        Self { protocol, build, report, was_told, refused_upgrade: None }
    }
}

/// Why an executor could not be told something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum TellError {
    #[error("the connection to its executor ended")]
    Closed,
    #[error("its executor did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    #[error("its executor refused: {0}")]
    Refused(String),
}

impl LinkHandle {
    /// Hands a message over to be sent.
    pub(super) async fn send(
        &self,
        message: ToExecutor,
        fds: Vec<OwnedFd>,
    ) -> Result<(), TellError> {
        self.outgoing.send((message, fds)).await.map_err(|_| TellError::Closed)
    }

    /// The newest version of the protocol that the executor speaks.
    pub(super) fn protocol(&self) -> u32 {
        self.heard.borrow().protocol
    }

    /// Whether the executor was told what it is for, by this agent or by one before.
    pub(super) fn is_told(&self) -> bool {
        let heard = self.heard.borrow();
        heard.was_told || heard.report.is_some()
    }

    /// Waits until the executor reports on that revision and goal.
    pub(super) async fn told(
        &self,
        number: u64,
        digest: Hash,
        goal: Goal,
        limit: Duration,
    ) -> Result<(), TellError> {
        self.wait(limit, |heard| {
            heard
                .report
                .as_ref()
                .filter(|r| r.number == number && r.digest == digest && r.goal == goal)
                .map(|_| Ok(()))
        })
        .await
    }

    /// Waits until the executor goes on as that build, or says why not.
    pub(super) async fn upgraded(&self, build: &str, limit: Duration) -> Result<(), TellError> {
        self.wait(limit, |heard| match &heard.refused_upgrade {
            Some(why) => Some(Err(TellError::Refused(why.clone()))),
            None if heard.build == build => Some(Ok(())),
            None => None,
        })
        .await
    }

    async fn wait(
        &self,
        limit: Duration,
        answer: impl Fn(&Heard) -> Option<Result<(), TellError>>,
    ) -> Result<(), TellError> {
        let mut heard = self.heard.clone();
        let waited = timeout(limit, heard.wait_for(|heard| answer(heard).is_some())).await;
        match waited {
            Ok(Ok(heard)) => answer(&heard).unwrap_or(Err(TellError::Closed)),
            Ok(Err(_)) => Err(TellError::Closed),
            Err(_) => Err(TellError::TimedOut(limit)),
        }
    }
}

/// Starts the task of a link. `hear` is called with everything that comes in, the end last.
pub(super) fn open(
    id: LinkId,
    connection: Connection,
    heard: Heard,
    process: Process,
    names: Names,
    events: mpsc::Sender<(LinkId, LinkEvent)>,
) -> LinkHandle {
    let (outgoing, to_send) = mpsc::channel(OUTGOING_MAX);
    let (tell, heard) = watch::channel(heard);
    tokio::spawn(async move {
        relay(id, connection, (to_send, names), &tell, &events).await;
        // What waits for an answer must not wait on for one that can't come any more.
        drop(tell);
        let process_gone = is_gone(process).await;
        let _agent_ending = events.send((id, LinkEvent::Ended { process_gone })).await;
    });
    LinkHandle { outgoing, heard }
}

async fn relay(
    id: LinkId,
    mut connection: Connection,
    (mut to_send, mut names): (mpsc::Receiver<(ToExecutor, Vec<OwnedFd>)>, Names),
    tell: &watch::Sender<Heard>,
    events: &mpsc::Sender<(LinkId, LinkEvent)>,
) {
    loop {
        tokio::select! {
            // Cancel-safe: `Connection::next` keeps a partly read message.
            incoming = connection.next() => {
                let event = match incoming {
                    Ok(Some(message)) => hear(message, tell),
                    Ok(None) => return,
                    Err(error) => {
                        tracing::warn!(id = %id.pod, error = %error, "the executor's connection broke");
                        return;
                    }
                };
                if let Some(event) = event
                    && events.send((id, event)).await.is_err()
                {
                    return;
                }
            }
            // Cancel-safe: a message is either received here or still queued (tokio's `recv`).
            outgoing = to_send.recv() => {
                let Some((message, fds)) = outgoing else { return };
                if !send(id, &mut connection, message, fds).await {
                    return;
                }
            }
            // Cancel-safe: a change is seen once (tokio's `changed`).
            () = changed(&mut names) => {
                if !send(id, &mut connection, ToExecutor::Names, Vec::new()).await {
                    return;
                }
            }
        }
    }
}

/// Waits for a change; for ever if there can be none.
async fn changed(names: &mut Names) {
    if let Some(receiver) = names
        && receiver.changed().await.is_ok()
    {
        return;
    }
    core::future::pending::<()>().await;
}

/// Sends a message; whether the connection is as good as before.
async fn send(
    id: LinkId,
    connection: &mut Connection,
    message: ToExecutor,
    fds: Vec<OwnedFd>,
) -> bool {
    match timeout(SEND_TIME_MAX, connection.send(&message, fds)).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::warn!(id = %id.pod, error = %error, "the executor's connection broke");
            false
        }
        Err(_) => {
            tracing::warn!(id = %id.pod, "the executor does not read what it is told");
            false
        }
    }
}

fn hear(message: ToAgent, tell: &watch::Sender<Heard>) -> Option<LinkEvent> {
    match message {
        ToAgent::Report(report) => {
            tell.send_modify(|heard| heard.report = Some(report.clone()));
            Some(LinkEvent::Report(report))
        }
        ToAgent::Welcome { protocol, build, .. } => {
            tell.send_modify(|heard| {
                heard.protocol = protocol;
                heard.build.clone_from(&build);
            });
            Some(LinkEvent::Build(build))
        }
        ToAgent::NotUpgraded { why } => {
            tell.send_modify(|heard| heard.refused_upgrade = Some(why));
            None
        }
    }
}

/// Whether the process is gone, or goes within a moment: an executor that ends closes its
/// connection a little before it is gone.
async fn is_gone(process: Process) -> bool {
    let pidfd = match process {
        Process::Held(pidfd) => pidfd,
        Process::Ended => return true,
        // Whoever tries to connect will see.
        Process::Unknown => return false,
    };
    // Only when it is about to happen, so that hundreds of idle links cost nothing.
    let waited = tokio::task::spawn_blocking(move || {
        let mut process = [PollFd::new(&pidfd, PollFlags::IN)];
        rustix::event::poll(&mut process, Some(&EXIT_TIME_MAX))
    });
    matches!(waited.await, Ok(Ok(ended)) if ended > 0)
}
