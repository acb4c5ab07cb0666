//! The shapes of Kubernetes, made of what the agent's service shows. PURE.
//!
//! Words, fields and rules are those of the Kubernetes API reference (core/v1) and, for what a pod
//! looks like while it lives, of the kubelet. What Roost knows beyond them is in fields called
//! `roost` and in annotations `roost/…`, which clients of Kubernetes pass over.

pub mod discovery;
pub mod document;
pub mod event;
pub mod pod;
pub mod spec;
mod status;
pub mod types;

use crate::clock::{BootId, BootTime, WallTime};

/// What the shapes need to know beside the view: read by the shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// For what is counted from now.
    pub now: BootTime,
    /// The same moment, for what is shown as a date.
    pub wall: WallTime,
    /// This boot.
    pub boot: BootId,
    /// Since when the agent runs: an instance that is older may run without having reported yet.
    pub agent_started_at: WallTime,
    /// The name of this machine.
    pub node: String,
}

#[cfg(test)]
mod tests;
