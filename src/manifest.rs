//! Manifests: file → documents → [`pod::PodSpec`], with a diagnostic for every fault.
//!
//! Pure, but for its `watcher`. Not here: what to do about a pod (`reconciler`).

mod decode;
// Whoever reads something that people write may have to say what they meant.
pub(crate) use decode::suggest::closest;
pub mod desired;
pub mod diagnostic;
pub mod document;
pub mod expansion;
pub mod file;
pub mod library;
mod node;
pub mod pod;
pub mod quantity;
pub mod resolve;
pub mod revision;
mod snippet;
pub mod watcher;

pub use decode::json_schema;
