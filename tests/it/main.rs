//! Host tests: the real agent, real executors, real containers. Need root.
//!
//! Every test has a root directory, a manifest directory and cgroups of its own, ends what it
//! started, and proves at the end that nothing is left ([`harness::Node::end`]).
#![allow(unreachable_pub, reason = "in a test program `pub` says what other modules use")]
#![allow(clippy::unwrap_used, reason = "here everything is a test")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "measured times and seeds are shown")]

mod disturbances;
mod harness;
mod lifecycle;
mod manifests;
mod store;
