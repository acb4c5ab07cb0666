//! The agent: the shell around the reconciler. Observe, decide, act, publish.
//!
//! Not here: the decision itself (`reconciler`), what happens inside a pod (`executor`), how a
//! container is made (`containerizer`), and any wire format (`api`).

pub mod service;
