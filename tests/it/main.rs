//! Host tests: the real agent, real executors, real containers. Need root.
//!
//! Every test has a root directory, a manifest directory and cgroups of its own, ends what it
//! started, and proves at the end that nothing is left.

mod disturbances;
mod harness;
mod lifecycle;
mod manifests;
mod store;
