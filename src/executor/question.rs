//! [`Purpose`] and [`Answer`]: why something is asked of a container, and what came of it. PURE.
//!
//! Not here: when it is asked (`machine`), and how (`asking`).

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest text of an answer, in bytes: what the kubelet takes of a probe's output is ten times as
/// much, but shows no more of it in an event.
pub const TEXT_LEN_MAX: usize = 1024;

/// Why something is asked of a container. Of each kind there is at most one question at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Purpose {
    /// `lifecycle.postStart`.
    PostStart,
    /// `lifecycle.preStop`.
    PreStop,
    /// `startupProbe`.
    Startup,
    /// `livenessProbe`.
    Liveness,
    /// `readinessProbe`.
    Readiness,
    /// Annotation `roost/check.…`.
    Check,
}

impl Purpose {
    /// Whether it is a hook: it is done once, and what it leaves behind in the container stays.
    #[must_use]
    pub fn is_hook(self) -> bool {
        match self {
            Self::PostStart | Self::PreStop => true,
            Self::Startup | Self::Liveness | Self::Readiness | Self::Check => false,
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PostStart => "PostStart hook",
            Self::PreStop => "PreStop hook",
            Self::Startup => "Startup probe",
            Self::Liveness => "Liveness probe",
            Self::Readiness => "Readiness probe",
            Self::Check => "Check",
        })
    }
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Answer {
    /// As it should be.
    Success(Observed),
    /// As it should be, but somebody should have a look: a redirect to elsewhere.
    Doubtful(Observed),
    /// Not as it should be, or no answer in time.
    Failure(Observed),
    /// It could not be asked, which says nothing about the container.
    NotAsked {
        /// Why.
        why: String,
    },
}

/// What was seen of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observed {
    /// The result itself.
    pub seen: Seen,
    /// The beginning of the output, of the body, or what went wrong; at most [`TEXT_LEN_MAX`].
    pub text: String,
}

/// The result of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Seen {
    /// None: no answer in time, or one that can't be understood.
    Nothing,
    /// The exit code of a program.
    ExitCode(u8),
    /// The signal that ended a program.
    Signal(u8),
    /// The status of an answer by HTTP.
    HttpStatus(u16),
    /// Whether a connection was made.
    Connected(bool),
    /// The `ServingStatus` of a server of `grpc.health.v1.Health`.
    GrpcStatus(i32),
    /// The time has passed.
    Slept,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("no answer"),
            Self::ExitCode(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "ended by signal {signal}"),
            Self::HttpStatus(status) => write!(f, "HTTP status {status}"),
            Self::Connected(true) => f.write_str("connected"),
            Self::Connected(false) => f.write_str("not connected"),
            Self::GrpcStatus(status) => write!(f, "gRPC health status {status}"),
            Self::Slept => f.write_str("the time has passed"),
        }
    }
}
