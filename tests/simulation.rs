//! The whole node in one thread: both pure cores, real; everything around them, modelled.
//!
//! A seed decides everything: what users do to the manifests, how programs behave, and what
//! fails when. The agent may be killed between any two stages of any action, executors and
//! containers at any time, the machine rebooted or cut from power; disk and store may fail or be
//! lost. Every step is checked against the invariants of the design (`oracle`). Then the faults
//! stop, and what runs must become what is asked for, with nothing left over (`converge`).
//!
//! `ROOST_SIM_SEEDS=20000 cargo test --release --test simulation` runs more of them,
//! `ROOST_SIM_SEED=17 cargo test --test simulation -- --nocapture one_seed` one, with its log.
//! `ROOST_SIM_BUG=StoreNotFlushed` looks for one deliberate bug only.

#![allow(clippy::tests_outside_test_module, reason = "all of it is a test")]
#![allow(clippy::print_stderr, reason = "what was found is told to whoever runs it")]

#[path = "simulation/agent.rs"]
mod agent;
#[path = "simulation/chaos.rs"]
mod chaos;
#[path = "contract/suite.rs"]
mod contract;
#[path = "simulation/converge.rs"]
mod converge;
#[path = "simulation/disk.rs"]
mod disk;
#[path = "simulation/executor.rs"]
mod executor;
#[path = "simulation/fake_host.rs"]
mod fake_host;
#[path = "simulation/health.rs"]
mod health;
#[path = "simulation/life.rs"]
mod life;
#[path = "simulation/oracle.rs"]
mod oracle;
#[path = "simulation/order.rs"]
mod order;
#[path = "simulation/specs.rs"]
mod specs;
#[path = "simulation/tests.rs"]
mod tests;
#[path = "simulation/turns.rs"]
mod turns;
#[path = "simulation/world.rs"]
mod world;
