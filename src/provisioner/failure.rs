//! Why an image is not here: a reason in Kubernetes' words, and a text for people.

use std::fmt;

use super::reference::InvalidImage;
use crate::clock::Millis;

/// Longest text of a failure; what servers say in theirs is cut.
pub const FAILURE_LEN_MAX: usize = 2048;

/// `state.waiting.reason` of a container without its image. `ImagePullBackOff` is said by whoever
/// waits before trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PullReason {
    /// It could not be fetched, read or unpacked.
    ErrImagePull,
    /// It is not here, and `imagePullPolicy: Never`.
    ErrImageNeverPull,
    /// Its name is no name.
    InvalidImageName,
}

impl PullReason {
    /// As Kubernetes writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ErrImagePull => "ErrImagePull",
            Self::ErrImageNeverPull => "ErrImageNeverPull",
            Self::InvalidImageName => "InvalidImageName",
        }
    }
}

impl fmt::Display for PullReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether the same may succeed later with nothing changed on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Perhaps: the network, the registry or the disk may be better then.
    Later {
        /// The registry asked for this pause; back-off should be no shorter. Bounded.
        after: Option<Millis>,
    },
    /// Only if somebody changes something: the manifest, the credentials, the image.
    Unlikely,
}

/// An image could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct ProvisionError {
    /// In Kubernetes' words.
    pub reason: PullReason,
    /// What was attempted at which host or file, what came of it, what to do. One line, at most
    /// [`FAILURE_LEN_MAX`] bytes; holds no secret.
    pub text: String,
    /// Whether trying again can help.
    pub retry: Retry,
}

impl ProvisionError {
    /// A failed pull or load.
    #[must_use]
    pub fn failed(text: impl Into<String>, retry: Retry) -> Self {
        Self { reason: PullReason::ErrImagePull, text: one_line(&text.into()), retry }
    }

    /// A failed pull or load that somebody must do something about.
    #[must_use]
    pub fn lasting(text: impl Into<String>) -> Self {
        Self::failed(text, Retry::Unlikely)
    }

    /// A failed pull or load that may be over soon.
    #[must_use]
    pub fn passing(text: impl Into<String>) -> Self {
        Self::failed(text, Retry::Later { after: None })
    }

    /// The same, with what was attempted in front.
    #[must_use]
    pub fn when(self, attempt: &str) -> Self {
        Self { text: one_line(&format!("{attempt}: {}", self.text)), ..self }
    }
}

impl From<InvalidImage> for ProvisionError {
    fn from(invalid: InvalidImage) -> Self {
        let reason = PullReason::InvalidImageName;
        Self { reason, ..Self::lasting(invalid.to_string()) }
    }
}

/// Text from strangers as one bounded line without control characters.
#[must_use]
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(FAILURE_LEN_MAX));
    for c in text.trim().chars() {
        let c = if c.is_control() { ' ' } else { c };
        if line.len() + c.len_utf8() > FAILURE_LEN_MAX - '…'.len_utf8() {
            line.push('…');
            break;
        }
        line.push(c);
    }
    line
}
