//! What agent and executor say to each other. PURE: the wire itself is `executor::wire`.
//!
//! The contract is one level-triggered message, [`ToExecutor::SetSpec`]: the executor compares it
//! with what runs, by the hashes, and reports. There is no command whose effect depends on what
//! was said before, so either side may repeat, miss or reconnect at any time.
//!
//! ```text
//!   agent                                   executor
//!     │  Hello { protocol }                    │
//!     │ ─────────────────────────────────────► │
//!     │      Welcome { protocol, build, .. }   │
//!     │      Report(..), if it was told before │
//!     │ ◄───────────────────────────────────── │
//!     │  Network { .. } + descriptor           │   before the first SetSpec, if it has one
//!     │ ─────────────────────────────────────► │
//!     │  SetSpec { number, goal, spec }        │
//!     │ ─────────────────────────────────────► │
//!     │      Report(..) now and at each change │
//!     │ ◄───────────────────────────────────── │
//!     │  Names                                 │   a file of the agent's has changed
//!     │ ─────────────────────────────────────► │
//!     │  Upgrade { build } + descriptor        │   only when the builds differ
//!     │ ─────────────────────────────────────► │   execve in place, same connection
//!     │  Exec(..), Dial(..) + descriptors      │   any number, each with a socket of its own
//!     │ ─────────────────────────────────────► │
//! ```
//!
//! Versions: both sides name the newest version they speak and use the older of the two. A new
//! kind of message is sent only to a side that knows it, so `deny_unknown_fields` may stay: what
//! is not understood is an error, never ignored.
//!
//! A session (a program that is executed for somebody in a container) is no part of what is wanted
//! of the pod. The agent makes its pipes and a socket pair, and sends the executor's ends; whatever
//! is to be said of the session is said on that socket ([`OfSession`]), and when the agent's end of
//! it is closed, by whatever has happened to the agent or to the client, the session is killed. So a
//! new connection between agent and executor changes nothing for it, nor does an upgrade in place.

use core::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::question::{Purpose, Seen};
use crate::clock::{BootTime, Millis, WallTime};
use crate::ids::{Attempt, ContainerName, PodId};
use crate::manifest::pod::{ContainerSpec, PodSpec};
use crate::manifest::revision::Hash;
use crate::state::record::{EndCause, Exit, LastRun, Outcome};

/// The newest version of the protocol that this build speaks.
pub const PROTOCOL: u32 = 5;
/// From this version on, an executor is told when pods of the node come and go.
pub const PROTOCOL_OF_NAMES: u32 = 4;
/// From this version on, a `Welcome` with `wanted` is followed by a `Report`.
pub const PROTOCOL_OF_FIRST_REPORT: u32 = 2;
/// From this version on there are sessions, and connections into the pod's network.
pub const PROTOCOL_OF_SESSIONS: u32 = 5;
/// The longest message in bytes; a specification is at most 1 MiB of manifest.
pub const MESSAGE_LEN_MAX: usize = 16 << 20;
/// Most descriptors with one message.
pub const MESSAGE_FDS_MAX: usize = 4;

/// From the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum ToExecutor {
    /// The first message of a connection. A newer connection replaces an older one.
    Hello {
        /// The newest version the agent speaks.
        protocol: u32,
    },
    /// The network of the pod, whose namespace is in the descriptor that comes with it. It is said
    /// before the first [`ToExecutor::SetSpec`]; a pod of which nothing was said makes a namespace
    /// of its own, with nothing but the loopback interface. Since version 3.
    Network(PodNetwork),
    /// What the pod shall be.
    SetSpec(WantedPod),
    /// What pods of the node are called (`PodPaths::names`) may have changed: what containers have
    /// of it is to be brought up to date. Since version 4.
    Names,
    /// Continue as the program in the descriptor that comes with it, if it is another build.
    Upgrade {
        /// The build of that program.
        build: String,
    },
    /// Execute a program in a container that runs. With it come the socket of the session and,
    /// unless it is to have a terminal, its standard input, output and error. Since version 5.
    Exec(NewSession),
    /// Begin a connection (TCP) from within the pod's network. With it comes a socket, on which
    /// the connection is passed on with [`OfSession::Begun`], made or still being made. Since
    /// version 5.
    Dial {
        /// Where to, as seen from there.
        address: SocketAddr,
    },
}

/// A session that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewSession {
    /// In which container.
    pub container: ContainerName,
    /// The program, looked up in the container's `PATH`, and its arguments.
    pub command: Vec<String>,
    /// Whether it has a terminal, and how large that is at first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalSize>,
}

/// Said by the executor on the socket of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum OfSession {
    /// The program was executed. If it has a terminal, the other side of that comes with this.
    Begun,
    /// It was not executed. Nothing more is said.
    Refused {
        /// Why.
        why: String,
    },
    /// The program has ended, and nothing of the session is left. Nothing more is said.
    Ended {
        /// How.
        exit: Exit,
    },
}

/// From the executor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum ToAgent {
    /// The answer to `Hello`.
    Welcome {
        /// The newest version the executor speaks.
        protocol: u32,
        /// Which build it is.
        build: String,
        /// Whose executor it is.
        pod: PodId,
        /// The executor's process.
        pid: u32,
        /// What it was told last; an agent that lost its store learns from it.
        wanted: Option<WantedPod>,
    },
    /// Where the pod stands: after a `Welcome` with `wanted`, after `SetSpec`, and whenever that
    /// changes.
    Report(PodReport),
    /// It could not be continued as another build; this one goes on.
    NotUpgraded {
        /// Why.
        why: String,
    },
}

pub use crate::containerizer::native::TerminalSize;

/// The network that a pod is in.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodNetwork {
    /// Its addresses, the first one first.
    pub addresses: Vec<IpAddr>,
}

/// What is wanted of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedPod {
    /// The number of the accepted revision (`Accepted::number`).
    pub number: u64,
    /// To run it or to stop it.
    pub goal: Goal,
    /// The specification.
    pub spec: Arc<PodSpec>,
}

/// Whether a pod shall run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Goal {
    /// It shall run.
    Run,
    /// It shall stop; when nothing is left of it, the executor ends.
    Stop {
        /// Between the stop signal and the kill.
        grace: Millis,
    },
}

/// Where a pod stands. Every exit in it is durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodReport {
    /// The revision in force.
    pub number: u64,
    /// Its hash.
    pub digest: Hash,
    /// The goal in force.
    pub goal: Goal,
    /// Set when every container is through by its restart policy.
    pub finished: Option<Outcome>,
    /// Why the pod ends, or ended, if its containers did not simply come to their end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<EndCause>,
    /// Since when its containers are all ready, or not all ready any more; none if that never
    /// changed, and from builds that do not note it. To be shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_since: Option<WallTime>,
    /// Whether init containers have to be done before the others are started.
    #[serde(default, skip_serializing_if = "is_false")]
    pub initializing: bool,
    /// By name.
    pub containers: Vec<ContainerReport>,
}

impl PodReport {
    /// Whether the pod is Ready as that: every container of it is that goes on running.
    #[must_use]
    pub fn is_ready(&self, spec: &PodSpec) -> bool {
        let is_ready = |container: &ContainerSpec| {
            let report = self.containers.iter().find(|it| it.name == container.name);
            report.is_some_and(ContainerReport::is_ready)
        };
        self.goal == Goal::Run && spec.sidecars().chain(&spec.containers).all(is_ready)
    }
}

/// Where a container stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerReport {
    /// Its name.
    pub name: ContainerName,
    /// Its newest run; none if it never ran.
    pub attempt: Option<Attempt>,
    /// Where that run stands.
    pub status: ContainerStatus,
    /// The last run that ended.
    pub last: Option<LastRun>,
    /// Why the limits of the specification could not be applied to it.
    pub update_fault: Option<String>,
    /// How a run fares whose program runs. None otherwise, and from builds that ask nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

impl ContainerReport {
    /// Whether it is ready. Of one from a build that asks nothing no more is known than that it
    /// runs.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self.status, ContainerStatus::Running { .. })
            && self.health.as_ref().is_none_or(|health| health.ready)
    }
}

/// What probes and the check have found of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// Whether it has started, as its startup probe says.
    pub started: bool,
    /// Whether it is ready, as its readiness probe says, and was not told to stop.
    pub ready: bool,
    /// The probe that had it stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<Purpose>,
    /// Probes whose newest answer was no plain success.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<ProbeFault>,
    /// What the check has found, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<CheckReport>,
}

/// A probe whose newest answer was no plain success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeFault {
    /// Which.
    pub purpose: Purpose,
    /// Whether it was a failure; else it could not be asked, or is doubtful.
    pub is_failure: bool,
    /// What was seen the last time.
    pub text: String,
    /// How many such answers there were in a row.
    pub count: u32,
}

/// What a check has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckReport {
    /// The result; nothing if there is none yet, or was no answer in time.
    pub seen: Seen,
    /// What was said when it was first like that.
    pub text: String,
}

impl Default for CheckReport {
    fn default() -> Self {
        Self { seen: Seen::Nothing, text: String::new() }
    }
}

/// Where the newest run of a container stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum ContainerStatus {
    /// Not started yet.
    Creating,
    /// Its program runs.
    Running {
        /// Its first process, in the executor's pid namespace.
        pid: u32,
        /// Since when.
        started_at: WallTime,
    },
    /// It was told to stop.
    Stopping {
        /// Its first process.
        pid: u32,
        /// Since when it ran.
        started_at: WallTime,
    },
    /// It ended; how is not durable yet.
    Recording {
        /// Why that failed the last time.
        fault: Option<String>,
    },
    /// It ended (`last`) and will be started again.
    BackingOff {
        /// When.
        until: BootTime,
        /// The whole delay.
        delay: Millis,
    },
    /// It ended (`last`) and will not be started again.
    Terminated,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}
