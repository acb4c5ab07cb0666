//! [`Engine`]: what is measured of everybody in the same way.

use crate::measure::{Outcome, nanos};
use crate::scene::Fifo;
use crate::table::Who;

/// How long a removal took, in nanoseconds.
pub(crate) struct Removal {
    /// Since it was asked for.
    pub(crate) asked: u64,
    /// Since the program was told to end, where that comes later.
    pub(crate) told: u64,
}

/// Something that runs pods. Pods are named by the caller, and never twice.
pub(crate) trait Engine {
    /// Whose figures these are.
    fn who(&self) -> Who;

    /// What its users know as its version.
    fn version(&self) -> String;

    /// Whatever a user has ready before asking for that pod.
    fn prepare(&mut self, pod: &str, containers: usize) -> Outcome<()>;

    /// Asks for a pod that was prepared, and does not wait for it.
    fn begin(&mut self, pods: &[String]) -> Outcome<()>;

    /// Waits until what was asked for is done, as far as the engine can tell.
    fn finish(&mut self) -> Outcome<()>;

    /// Rests, removes a pod and says how long that took; none if it can't be compared.
    fn remove(&mut self, pod: &str) -> Outcome<Option<Removal>>;

    /// Has no pods any more.
    fn clear(&mut self) -> Outcome<()>;

    /// The daemon, if there is one.
    fn daemon(&self) -> Option<u32>;

    /// The processes that stand by the pods' programs.
    fn supervisors(&self) -> Vec<u32>;

    /// How long a list of all pods, or containers, with their states takes on a held connection.
    fn list(&mut self) -> Outcome<Option<u64>>;

    /// How long the command that prints such a list takes.
    fn list_by_command(&mut self) -> Outcome<Option<u64>>;

    /// How long it takes from the start of a new daemon, after the old one was killed, until it
    /// lists so many pods as running.
    fn restart(&mut self, running: usize) -> Outcome<Option<u64>>;
}

/// From the request for a pod to the moment at which the last of its programs runs.
pub(crate) fn start(
    engine: &mut dyn Engine,
    begun: &mut Fifo,
    pod: String,
    containers: usize,
) -> Outcome<u64> {
    begun.drain();
    let begin = nanos();
    engine.begin(&[pod])?;
    let running = begun.wait(containers)?;
    engine.finish()?;
    Ok(running.saturating_sub(begin))
}
