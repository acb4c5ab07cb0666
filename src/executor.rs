//! The executor: the small process that runs one pod instance and outlives the agent.
//!
//! `machine` decides (pure), the shell does. Not here: manifests, the store, the API, and how a
//! container is made (`containerizer`).

pub mod boot;
pub mod machine;
pub mod protocol;
