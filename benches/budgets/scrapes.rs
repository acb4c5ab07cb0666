//! Budget 4, from the side: who asks the agent something while many pods start is soon answered.

use std::time::Duration;

use rustix::process::setpriority_process;

use crate::engine::Engine;
use crate::measure::{Outcome, Samples, pause, rest};
use crate::node::Node;
use crate::scene::{Fifo, LOUD_PROGRAM, Scene};
use crate::table::{Goal, Key, Table, Who};

/// How many pods start at once.
const PODS: usize = 300;
/// How often they do.
const ROUNDS: usize = 3;
/// Between two requests: who asks all the time measures the agent's answers to himself.
const BETWEEN: Duration = Duration::from_millis(5);
/// So that what is measured is not how long the bench waits for a processor: whoever asks may well
/// have a machine of his own.
const PRIORITY: i32 = -20;
/// What is asked for: numbers with a look into every cgroup, and next to nothing.
const PATHS: [&str; 2] = ["/metrics", "/healthz"];

/// Asks until the last of the programs runs.
pub(crate) fn measure(scene: &Scene, begun: &mut Fifo, table: &mut Table) -> Outcome<()> {
    let mut node = Node::start(scene, "scrapes");
    setpriority_process(None, PRIORITY).map_err(|error| error.to_string())?;
    let mut samples = [Samples::default(), Samples::default()];
    for round in 0..ROUNDS {
        let pods: Vec<_> = (0..PODS).map(|n| format!("scrape-{round}-{n}")).collect();
        for pod in &pods {
            node.draft(pod, &node.manifest(pod, 1, LOUD_PROGRAM));
        }
        pause();
        begun.drain();
        node.begin(&pods)?;
        let mut running = 0;
        while running < PODS {
            for (path, samples) in PATHS.iter().zip(&mut samples) {
                samples.push(node.time(path)?);
                rest(BETWEEN);
            }
            running += begun.drain();
        }
        node.clear()?;
    }
    setpriority_process(None, 0).map_err(|error| error.to_string())?;
    for (path, samples) in PATHS.iter().zip(&samples) {
        for (percent, name) in [(50, "median"), (95, "p95"), (100, "longest")] {
            let what = format!("{path} while {PODS} pods start, {name}");
            let key = Key::new(4, what, "ms");
            if percent == 100 {
                table.goal(&key, &[Goal::AtMost(50.0)]);
            }
            table.put(&key, Who::Roost, samples.percentile(percent));
        }
    }
    Ok(())
}
