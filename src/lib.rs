#![doc = include_str!("ARCHITECTURE.md")]

// Words that every module uses.
pub mod clock;
pub mod errors;
pub mod ids;
// What is counted, by whoever does it.
pub mod metrics;
// System calls that no safe crate offers.
pub mod sys;
// 1. What the user wrote, and what it means.
pub mod config;
pub mod manifest;
// 2. What is desired, what is there, and so what to do.
pub mod reconciler;
// 3. What must not be forgotten.
pub mod state;
// 4. The shell of the daemon: observe, decide, act, publish.
pub mod agent;
// 5. One pod: its executor.
pub mod executor;
// 6. One container: a root file system, namespaces, cgroups, and its program.
pub mod cgroup;
pub mod containerizer;
// 7. What a container is made from: images, from a registry or a file.
pub mod provisioner;
// 8. What connects a pod with others.
pub mod network;
// 9. What is to be seen and asked from outside: the wire, and the terminal.
pub mod api;
pub mod cli;
