//! Manifests: file → documents → [`pod::PodSpec`], with a diagnostic for every fault.
//!
//! Pure, but for its `watcher`. Not here: what to do about a pod (`reconciler`).

pub mod desired;
pub mod pod;
pub mod revision;
pub mod watcher;
