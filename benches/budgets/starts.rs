//! Budgets 1 to 6: starts and removals, every engine in turn in each round, so that a
//! machine that changes its speed changes all.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::engine::{Engine, Removal, start};
use crate::measure::{Outcome, Samples, background, machine_cpu, nanos, pause, rest};
use crate::scene::Fifo;
use crate::table::{Goal, Key, Table, Who};
use crate::{BUSY, Options, Peers};

/// Rounds of many starts at once: a round is long enough to be an average of itself.
const ROUNDS_OF_MANY: usize = 3;

type All = BTreeMap<Who, Samples>;

/// Budgets 1, 3 and 6.
pub(crate) fn isolated(options: &Options, peers: &mut Peers, begun: &mut Fifo, table: &mut Table) {
    let (mut of_one, mut of_three) = (All::new(), All::new());
    let (mut removals, mut ends) = (All::new(), All::new());
    for round in 0..options.starts {
        peers.each(|engine| {
            let (taken, removal) = one(engine, begun, &format!("one-{round}"), 1)?;
            keep(&mut of_one, engine.who(), Some(taken));
            keep(&mut removals, engine.who(), removal.as_ref().map(|it| it.asked));
            keep(&mut ends, engine.who(), removal.as_ref().map(|it| it.told));
            if engine.who() != Who::Crun && options.wants(3) {
                let (taken, _) = one(engine, begun, &format!("three-{round}"), 3)?;
                keep(&mut of_three, engine.who(), Some(taken));
            }
            Ok(())
        });
    }
    let key = Key::new(1, "manifest → its program runs", "ms");
    report(table, &key, &of_one, &[Goal::OfPeer(Who::Cri, 0.15), Goal::OfPeer(Who::Crun, 0.5)]);
    let key = Key::new(3, "the same, 3 containers", "ms");
    report(table, &key, &of_three, &[Goal::OfPeer(Who::Cri, 0.12)]);
    let key = Key::new(6, "manifest removed → pod gone", "ms");
    report(table, &key, &removals, &[Goal::OfPeer(Who::Cri, 0.2)]);
    let key = Key::new(6, "program told to end → pod gone", "ms");
    report(table, &key, &ends, &[Goal::OfPeer(Who::Cri, 0.2)]);
}

/// Budget 2, with engines that give each pod a network of its own. crun has none to give.
pub(crate) fn networked(options: &Options, peers: &mut Peers, begun: &mut Fifo, table: &mut Table) {
    let (mut starts, mut removals) = (All::new(), All::new());
    for round in 0..options.starts {
        peers.each(|engine| {
            if engine.who() == Who::Crun {
                return Ok(());
            }
            let (taken, removal) = one(engine, begun, &format!("net-{round}"), 1)?;
            keep(&mut starts, engine.who(), Some(taken));
            keep(&mut removals, engine.who(), removal.as_ref().map(|it| it.told));
            Ok(())
        });
    }
    let key = Key::new(2, "manifest → its program runs, on a bridge", "ms");
    report(table, &key, &starts, &[Goal::OfPeer(Who::Cri, 0.3)]);
    let key = Key::new(2, "program told to end → pod gone, on a bridge", "ms");
    report(table, &key, &removals, &[]);
}

/// One isolated start, and the removal after it.
fn one(
    engine: &mut dyn Engine,
    begun: &mut Fifo,
    pod: &str,
    containers: usize,
) -> Outcome<(u64, Option<Removal>)> {
    engine.prepare(pod, containers)?;
    pause();
    let taken = start(engine, begun, pod.to_owned(), containers)?;
    pause();
    Ok((taken, engine.remove(pod)?))
}

/// One isolated start beside whatever runs; the pod, and how long it took.
pub(crate) fn one_more(
    engine: &mut dyn Engine,
    begun: &mut Fifo,
    round: usize,
) -> Outcome<(String, u64)> {
    let pod = format!("more-{round}");
    engine.prepare(&pod, 1)?;
    pause();
    let taken = start(engine, begun, pod.clone(), 1)?;
    Ok((pod, taken))
}

/// Budget 4: pods a second, when many are asked for at once.
pub(crate) fn many(options: &Options, peers: &mut Peers, begun: &mut Fifo, table: &mut Table) {
    let mut all = All::new();
    for round in 0..ROUNDS_OF_MANY {
        peers.each(|engine| {
            let pods: Vec<_> = (0..options.many).map(|n| format!("many-{round}-{n}")).collect();
            for pod in &pods {
                engine.prepare(pod, 1)?;
            }
            pause();
            begun.drain();
            let begin = nanos();
            engine.begin(&pods)?;
            let taken = begun.wait(pods.len())? - begin;
            engine.finish()?;
            keep(&mut all, engine.who(), Some(taken));
            engine.clear()
        });
    }
    let key = Key::new(4, format!("{} pods at once", options.many), "pods/s");
    table.goal(&key, &[Goal::TimesPeer(Who::Cri, 6.0), Goal::TimesPeer(Who::Crun, 0.7)]);
    for (who, samples) in &all {
        let rate = samples.median().map(|ms| options.many as f64 / (ms / 1e3));
        table.put(&key, *who, rate);
    }
}

/// Budget 5: what all processors spend on a start, wherever it is spent and however late.
#[expect(clippy::print_stderr, reason = "what is not measured has to be known")]
pub(crate) fn processor(options: &Options, peers: &mut Peers, begun: &mut Fifo, table: &mut Table) {
    /// What an engine still does for a start after its program runs.
    const AFTERMATH: Duration = Duration::from_secs(1);
    /// So many times the isolated starts, so that the rest of the machine gets lost in them.
    const TIMES: usize = 5;
    let key = Key::new(5, "processor time of a start, whole machine", "ms");
    table.goal(&key, &[Goal::OfPeer(Who::Cri, 0.12)]);
    peers.each(|engine| {
        // Of this engine too, as it idles.
        let idle = background(Duration::from_secs(options.background_secs));
        if idle > BUSY {
            eprintln!("   5 not measured of {}: the machine is busy", engine.who().name());
            return Ok(());
        }
        let pods: Vec<_> = (0..options.starts * TIMES).map(|n| format!("cpu-{n}")).collect();
        for pod in &pods {
            engine.prepare(pod, 1)?;
        }
        let (begin, before) = (nanos(), machine_cpu());
        for pod in &pods {
            start(engine, begun, pod.clone(), 1)?;
        }
        rest(AFTERMATH);
        let spent = machine_cpu().saturating_sub(before) as f64;
        let spent = spent - idle * nanos().saturating_sub(begin) as f64;
        table.put(&key, engine.who(), Some(spent / 1e6 / pods.len() as f64));
        engine.clear()
    });
}

/// Budget 12: pods one after the other; the milliseconds of all, and by how much the last of them
/// took longer than the first.
pub(crate) fn serial(
    engine: &mut dyn Engine,
    begun: &mut Fifo,
    count: usize,
) -> Outcome<(f64, Option<f64>)> {
    const PART: usize = 50;
    let mut samples = Samples::default();
    for n in 0..count {
        let pod = format!("serial-{n}");
        engine.prepare(&pod, 1)?;
        samples.push(start(engine, begun, pod, 1)?);
    }
    let growth = samples.growth(PART);
    Ok((samples.sum(), growth.filter(|_| count >= 2 * PART)))
}

fn keep(all: &mut All, who: Who, taken: Option<u64>) {
    if let Some(taken) = taken {
        all.entry(who).or_default().push(taken);
    }
}

fn report(table: &mut Table, key: &Key, all: &All, goals: &[Goal]) {
    if all.is_empty() {
        return;
    }
    table.goal(key, goals);
    for (who, samples) in all {
        table.put(key, *who, samples.median());
    }
}
