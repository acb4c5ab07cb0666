//! [`Lifecycle`] and [`TerminationMessage`]: what happens at the beginning and at the end of a run.

use serde::{Deserialize, Serialize};

use super::{AbsolutePath, Handler, StopSignal, is_default};
use crate::clock::Millis;

/// `lifecycle` of a container, and how long a run of it may last.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lifecycle {
    /// `postStart`: asked once when the program runs; if it fails, the run is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub post_start: Option<Handler>,
    /// `preStop`: asked before the stop signal, within the grace period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre_stop: Option<Handler>,
    /// `stopSignal`; that of the image where the manifest has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<StopSignal>,
    /// Annotation `roost/stop-grace.<container>`: instead of the pod's grace period, within it when
    /// the whole pod stops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_grace: Option<Millis>,
    /// Annotation `roost/max-run-time.<container>`: a run that lasts as long is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_run_time: Option<Millis>,
}

impl Lifecycle {
    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Where a program leaves a message when it ends, and what else may be one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TerminationMessage {
    /// `terminationMessagePath`, if it is not [`Self::PATH_DEFAULT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_path: Option<AbsolutePath>,
    /// `terminationMessagePolicy`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub policy: MessagePolicy,
}

impl TerminationMessage {
    /// Kubernetes' default.
    pub const PATH_DEFAULT: &str = "/dev/termination-log";

    /// `terminationMessagePath`: in the container.
    #[must_use]
    pub fn path(&self) -> &str {
        self.own_path.as_ref().map_or(Self::PATH_DEFAULT, AbsolutePath::as_str)
    }
}

/// `terminationMessagePolicy`: what is the message of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum MessagePolicy {
    /// What it has written to the file.
    #[default]
    File,
    /// The end of its log, if it has failed and written nothing.
    FallbackToLogsOnError,
}

/// Annotation `roost/termination-policy`: what the failure of a container, which is not started
/// again, means to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TerminationPolicy {
    /// Nothing: each goes by its own restart policy, as in Kubernetes.
    #[default]
    Container,
    /// All are stopped, and the pod has failed, as in Mesos.
    Group,
}

impl TerminationPolicy {
    /// Whether it is the default.
    #[must_use]
    pub fn is_container(&self) -> bool {
        *self == Self::Container
    }
}
