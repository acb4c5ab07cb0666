//! The executor: the small process that runs one pod instance and outlives the agent.
//!
//! `machine` decides (pure), the shell does. Not here: manifests, the store, the API, and how a
//! container is made (`containerizer`).

pub mod boot;
pub mod client;
pub mod machine;
pub mod program;
pub mod protocol;
pub mod question;
pub mod wire;

mod asking;
mod checkpoints;
mod connection;
mod handover;
mod journal;
pub(crate) mod logs;
mod pod;
mod poller;
mod recovery;
mod run;
mod session;
mod sessions;
mod shell;
mod termination;
mod token;
mod upgrade;
