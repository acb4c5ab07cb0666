//! Budgets 8 to 14: what many pods cost, one engine after the other, since they would disturb each
//! other; each with nothing in it at first.

use std::time::Duration;

use crate::engine::Engine;
use crate::measure::{Outcome, Samples, cpu, ms, pause, pss, rest, written};
use crate::scene::{Fifo, Scene};
use crate::table::{Goal, Key, Table, Who};
use crate::{Options, exits, peers, starts};

/// How often a list is asked for.
const LISTS: usize = 40;

/// Budget 9 of an engine without pods.
pub(crate) fn empty(scene: &Scene, options: &Options, table: &mut Table) {
    let key = Key::new(9, "daemon with 0 pods, PSS", "MiB");
    table.goal(&key, &[Goal::AtMost(11.0)]);
    for who in [Who::Roost, Who::Cri] {
        if !options.has(who) {
            continue;
        }
        let engine = peers::start(who, scene);
        table.put(&key, who, engine.ok().and_then(|engine| memory(&*engine)).map(mib));
    }
}

/// Budgets 8 to 14 with so many pods.
#[expect(clippy::print_stderr, reason = "whoever is left out has to be known")]
pub(crate) fn with(
    count: usize,
    scene: &Scene,
    options: &Options,
    begun: &mut Fifo,
    table: &mut Table,
) {
    for who in [Who::Roost, Who::Cri, Who::Podman] {
        if !options.has(who) || (who != Who::Roost && count > options.peer_pods) {
            continue;
        }
        let measured = if who == Who::Roost {
            let mut node = crate::node::Node::start(scene, &format!("node-{count}"));
            one(&mut node, count, options, begun, table).and_then(|()| {
                if options.wants(14) {
                    exits::measure(&mut node, begun, count, table)
                } else {
                    Ok(())
                }
            })
        } else {
            peers::start(who, scene)
                .and_then(|mut engine| one(&mut *engine, count, options, begun, table))
        };
        if let Err(error) = measured {
            eprintln!("{} with {count} pods was not measured to the end: {error}", who.name());
        }
    }
}

fn one(
    engine: &mut dyn Engine,
    count: usize,
    options: &Options,
    begun: &mut Fifo,
    table: &mut Table,
) -> Outcome<()> {
    let who = engine.who();
    table.version(who, engine.version());
    let empty = memory(engine).unwrap_or(0);
    let (all, growth) = starts::serial(engine, begun, count)?;
    let key = Key::new(12, format!("{count} pods one after the other"), "s");
    let is_budget = count == 300;
    table.goal(&key, if is_budget { &[Goal::AtMost(6.0)] } else { &[] });
    table.put(&key, who, Some(all / 1e3));
    let key = Key::new(12, format!("of {count}, the last 50 over the first 50"), "×");
    table.goal(&key, &[Goal::AtMost(1.2)]);
    table.put(&key, who, growth);
    pause();
    memories(engine, empty, count, table);
    if options.wants(13) {
        lists(engine, count, table)?;
    }
    if options.wants(10) {
        idle(engine, count, options, table);
    }
    if options.wants(11) {
        let key = Key::new(11, format!("restart of the daemon with {count} pods"), "ms");
        table.goal(&key, &restart_goal(count));
        let taken = engine.restart(count)?;
        table.put(&key, who, taken.map(ms));
    }
    Ok(())
}

/// Budgets 8 and 9.
fn memories(engine: &dyn Engine, empty: u64, count: usize, table: &mut Table) {
    let daemon = memory(engine);
    let key = Key::new(9, format!("daemon with {count} pods, PSS"), "MiB");
    table.goal(&key, &memory_goal(count));
    table.put(&key, engine.who(), daemon.map(mib));
    let supervisors = pss(&engine.supervisors());
    let growth = daemon.unwrap_or(0).saturating_sub(empty);
    let key = Key::new(8, format!("supervision of each of {count} pods, PSS"), "MiB");
    table.goal(&key, &[Goal::AtMost(0.35)]);
    table.put(&key, engine.who(), Some(mib(supervisors + growth) / count as f64));
}

/// Budget 13.
fn lists(engine: &mut dyn Engine, count: usize, table: &mut Table) -> Outcome<()> {
    let (mut held, mut command) = (Samples::default(), Samples::default());
    for _ in 0..LISTS {
        if let Some(taken) = engine.list()? {
            held.push(taken);
        }
    }
    for _ in 0..LISTS / 2 {
        if let Some(taken) = engine.list_by_command()? {
            command.push(taken);
        }
    }
    let key = Key::new(13, format!("list of {count} on a held connection"), "ms");
    table.goal(&key, &[Goal::OfPeer(Who::Cri, 1.0)]);
    table.put(&key, engine.who(), held.median());
    let key = Key::new(13, format!("list of {count} by a command"), "ms");
    table.goal(&key, &[Goal::AtMost(10.0)]);
    table.put(&key, engine.who(), command.median());
    Ok(())
}

/// Budget 10: daemon and supervisors while nothing is asked of them.
fn idle(engine: &dyn Engine, count: usize, options: &Options, table: &mut Table) {
    rest(Duration::from_secs(options.settle_secs));
    let supervisors = engine.supervisors();
    let daemon: Vec<u32> = engine.daemon().into_iter().collect();
    let all = [&daemon[..], &supervisors[..]].concat();
    let before = (cpu(&daemon), cpu(&supervisors), written(&all));
    rest(Duration::from_secs(options.idle_secs));
    let after = (cpu(&daemon), cpu(&supervisors), written(&all));
    let rate = |before, after: u64| ms(after.saturating_sub(before)) / options.idle_secs as f64;
    let who = engine.who();
    let key = Key::new(10, format!("idle with {count} pods: daemon"), "ms/s");
    table.put(&key, who, (!daemon.is_empty()).then(|| rate(before.0, after.0)));
    let key = Key::new(10, format!("idle with {count} pods: all supervisors"), "ms/s");
    table.put(&key, who, Some(rate(before.1, after.1)));
    let key = Key::new(10, format!("idle with {count} pods: together"), "ms/s");
    table.goal(&key, &[Goal::AtMost(1.0)]);
    table.put(&key, who, Some(rate(before.0 + before.1, after.0 + after.1)));
    let key = Key::new(10, format!("idle with {count} pods: written to disk"), "bytes");
    table.goal(&key, &[Goal::AtMost(0.0)]);
    table.put(&key, who, Some(after.2.saturating_sub(before.2) as f64));
}

/// The budgets name 100 and 500 pods.
fn memory_goal(count: usize) -> Vec<Goal> {
    match count {
        100 => vec![Goal::AtMost(15.0)],
        500 => vec![Goal::AtMost(40.0)],
        _ => Vec::new(),
    }
}

fn restart_goal(count: usize) -> Vec<Goal> {
    match count {
        100 => vec![Goal::AtMost(50.0)],
        300 => vec![Goal::AtMost(130.0)],
        _ => Vec::new(),
    }
}

fn memory(engine: &dyn Engine) -> Option<u64> {
    engine.daemon().map(|pid| pss(&[pid]))
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
