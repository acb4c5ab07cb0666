//! What must not be forgotten: records in the agent's store, checkpoints in pod directories, and
//! every path.
//!
//! Not here: what is decided on them (`reconciler`), and the agent.

pub mod checkpoint;
mod codec;
pub mod paths;
pub mod record;
pub mod store;
pub mod writer;

#[cfg(test)]
pub(crate) mod samples;
