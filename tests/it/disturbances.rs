//! What happens to the agent and to executors at the worst moments.
//!
//! `ROOST_KILLS` sets how often the agent is killed in a test (default 10); a seed is printed, and
//! `ROOST_SEED` sets it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{
    Asked, Dice, FOREVER, Node, OUT, Process, alone, slowness, soon, until_lines, until_text,
};

/// How many pods are added, edited and removed at random.
const CHANGING: u64 = 20;
/// Longest time between the start of an agent and its end, in milliseconds.
const LIFE_MAX: u64 = 250;

fn kills() -> u64 {
    std::env::var("ROOST_KILLS").map_or(10, |text| text.parse().unwrap())
}

/// A pod of two containers, each of which proves that it runs once at a time.
fn guarded(node: &Node, name: &str, version: u64) -> Asked {
    let version = json!([{ "name": "VERSION", "value": version.to_string() }]);
    Asked::pod(name)
        .container("a", &alone(&format!("{name}-a"), FOREVER))
        .container("b", &alone(&format!("{name}-b"), FOREVER))
        .with("/spec/containers/0/env", version)
        .annotation("roost/backoff-initial", "100ms")
        .annotation("roost/backoff-max", "100ms")
        .sharing(&node.out())
}

/// What the test wants, changed at random.
struct Wishes {
    pods: BTreeMap<String, Asked>,
    version: u64,
}

impl Wishes {
    fn change(&mut self, node: &Node, dice: &mut Dice) {
        let name = format!("p{}", dice.below(CHANGING));
        self.version += 1;
        let present = self.pods.contains_key(&name);
        if present && dice.below(3) == 0 {
            self.pods.remove(&name);
            node.remove(&format!("{name}.json"));
            return;
        }
        let mut asked = guarded(node, &name, self.version);
        match dice.below(4) {
            // A new instance.
            0 => asked = asked.with("/spec/hostname", json!(format!("h{}", self.version))),
            // In place.
            1 if present => {
                let old = self.pods[&name].clone();
                asked =
                    old.with("/metadata/labels", json!({ "version": self.version.to_string() }));
            }
            _ => {}
        }
        node.ask_for(&asked);
        self.pods.insert(name, asked);
    }

    /// Waits until what runs is what is wanted, and nothing else.
    fn until_true(&self, node: &Node, others: &[String]) {
        let wanted: BTreeSet<String> =
            self.pods.values().map(Asked::key).chain(others.iter().cloned()).collect();
        node.until_within(soon() * 4, "as wanted", |pods| {
            let there: BTreeSet<String> = pods.keys().cloned().collect();
            let right = there == wanted
                && pods.values().all(|pod| {
                    pod.is_running()
                        && self.pods.get(&pod.name()).is_none_or(|asked| {
                            let wanted = &asked.0["spec"]["containers"][0]["env"][0]["value"];
                            version_of(pod.pids()["a"]).as_deref() == wanted.as_str()
                                && asked.0["metadata"]["labels"] == pod.0["metadata"]["labels"]
                        })
                })
                && node.executors().keys().cloned().collect::<BTreeSet<_>>() == wanted;
            right.then_some(())
        });
        let directories = std::fs::read_dir(node.root().join("data/pods")).unwrap().count();
        assert_eq!(directories, wanted.len());
    }
}

/// `$VERSION` of a process.
fn version_of(pid: u32) -> Option<String> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let environment = String::from_utf8(environment).ok()?;
    environment.split('\0').find_map(|word| word.strip_prefix("VERSION=")).map(str::to_owned)
}

/// No container has found its lock taken.
fn assert_never_twice(node: &Node) {
    for entry in std::fs::read_dir(node.out()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "trace") {
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(!text.contains("DOUBLE"), "{}: ran twice at once:\n{text}", path.display());
        }
    }
}

/// Lets the agent live for a random time.
fn live_a_while(node: &Node, dice: &mut Dice) {
    let life = Duration::from_millis(dice.below(LIFE_MAX)) * slowness();
    let ended = Process::of(node.agent_pid()).ends_within(life);
    assert!(!ended, "the agent ended by itself:\n{}", node.agent_log());
}

/// Invariants 1, 2 and 6.
#[test]
fn an_agent_killed_at_random_moments_while_pods_change_neither_doubles_nor_forgets_anything() {
    let mut dice = Dice::new("killed at random");
    let mut node = Node::started();
    let steady: Vec<String> = (0..4).map(|i| format!("default/steady{i}")).collect();
    for i in 0..4 {
        node.ask_for(&guarded(&node, &format!("steady{i}"), 0));
    }
    let before = node.until_all_run(&steady);
    let mut wishes = Wishes { pods: BTreeMap::new(), version: 0 };
    for _ in 0..kills() {
        for _ in 0..dice.below(6) {
            wishes.change(&node, &mut dice);
        }
        live_a_while(&node, &mut dice);
        node.kill_agent();
        // Some of it happens while there is no agent.
        if dice.below(2) == 0 {
            wishes.change(&node, &mut dice);
        }
        node.start_unready();
    }
    node.wait_ready();
    wishes.until_true(&node, &steady);
    for key in &steady {
        let after = node.pod(key);
        assert_eq!(after.processes(), before[key].processes(), "{key}");
        assert_eq!(after.uid(), before[key].uid());
    }
    assert_never_twice(&node);
    node.end();
}

/// Another build of the executor: the same program with bytes at its end.
fn other_build(node: &Node, number: u64) -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_roost")).with_file_name("roost-executor");
    let copy = node.dir.path().join(format!("executor-{number}"));
    let mut bytes = std::fs::read(program).unwrap();
    bytes.extend(number.to_le_bytes());
    // Written by another name, so that nobody executes a file that is open for writing.
    std::fs::write(&copy, bytes).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&copy, mode).unwrap();
    copy
}

/// Invariant 2: an upgrade restarts nothing, loses no exit and no line.
#[test]
fn executors_are_upgraded_in_place_while_agents_are_killed_and_nothing_restarts() {
    let mut dice = Dice::new("upgraded in place");
    let mut node = Node::started();
    let steady: Vec<String> = (0..6).map(|i| format!("default/steady{i}")).collect();
    for i in 0..6 {
        node.ask_for(&guarded(&node, &format!("steady{i}"), 0));
    }
    let lines = "i=0; for i in `seq 1 100000`; do echo line $i; \
        [ -e /srv/enough ] && exit 9; sleep 0.005; done";
    node.ask_for(&Asked::one("talker", lines).policy("Never").sharing(&node.out()));
    let crashing = Asked::one("crashing", &alone("crashing", "exit 1"))
        .annotation("roost/backoff-initial", "100ms")
        .annotation("roost/backoff-max", "100ms");
    node.ask_for(&crashing.sharing(&node.out()));
    let before = node.until_all_run(&steady);
    let talker = node.until_running("default/talker");
    let executors = node.executors();
    assert_eq!(executors.len(), 8);
    let mut wishes = Wishes { pods: BTreeMap::new(), version: 0 };
    for number in 0..kills() {
        let old = node.builds();
        let program = other_build(&node, number);
        node.set_env("ROOST_EXECUTOR", program.to_str().unwrap());
        node.kill_agent();
        node.start_unready();
        // Half of the agents die while they upgrade.
        if dice.below(2) == 0 {
            for _ in 0..dice.below(3) {
                wishes.change(&node, &mut dice);
            }
            live_a_while(&node, &mut dice);
            node.kill_agent();
            node.start_unready();
        }
        node.wait_ready();
        node.until("upgraded", |_| {
            let new = node.builds();
            let are_new = executors
                .keys()
                .all(|key| new.get(key).is_some_and(|build| !old.values().any(|old| old == build)));
            are_new.then_some(())
        });
    }
    wishes.until_true(
        &node,
        &[steady.clone(), ["talker", "crashing"].map(|n| format!("default/{n}")).to_vec()].concat(),
    );
    let now = node.executors();
    for (key, pid) in &executors {
        assert_eq!(now[key], *pid, "{key}: another executor");
    }
    for key in &steady {
        assert_eq!(node.pod(key).processes(), before[key].processes(), "{key}");
    }
    assert_eq!(node.pod("default/talker").processes(), talker.processes());
    std::fs::write(node.out().join("enough"), "").unwrap();
    let talker = node.until_through("default/talker");
    assert_eq!(talker.ended("main")["exitCode"], 9);
    let said = node.output(&talker, "main", 0);
    for (i, line) in said.iter().enumerate() {
        assert_eq!(*line, format!("line {}", i + 1));
    }
    assert_never_twice(&node);
    node.end();
}

#[test]
fn an_executor_that_cannot_become_another_build_goes_on_and_is_upgraded_by_a_later_one() {
    let mut node = Node::started();
    node.ask_for(&Asked::one("firm", FOREVER));
    let before = node.until_running("default/firm");
    let old = node.builds();
    let useless = node.dir.path().join("useless");
    std::fs::write(&useless, "this is no program").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&useless, mode).unwrap();
    node.set_env("ROOST_EXECUTOR", useless.to_str().unwrap());
    node.kill_agent();
    node.start();
    node.ask_for(&Asked::one("new", FOREVER));
    // It can't start, and says why.
    node.until("refused", |pods| (!pods.get("default/new")?.problems().is_empty()).then_some(()));
    assert_eq!(node.until_running("default/firm").processes(), before.processes());
    assert_eq!(node.builds()["default/firm"], old["default/firm"]);
    let sound = other_build(&node, 7);
    node.set_env("ROOST_EXECUTOR", sound.to_str().unwrap());
    node.kill_agent();
    node.start();
    node.until_running("default/new");
    node.until("upgraded", |_| {
        (node.builds()["default/firm"] != old["default/firm"]).then_some(())
    });
    assert_eq!(node.until_running("default/firm").processes(), before.processes());
    node.end();
}

/// Invariant 2: the executor needs no agent that answers.
#[test]
fn containers_are_restarted_while_the_agent_is_stopped_and_it_learns_of_it() {
    let node = Node::started();
    let script = format!("echo run >> {OUT}/runs; exit 1");
    let asked = Asked::one("crashing", &script).annotation("roost/backoff-initial", "100ms");
    let asked = asked.annotation("roost/backoff-max", "100ms").sharing(&node.out());
    node.ask_for(&asked.container("talker", "while :; do seq 1 500; sleep 0.01; done"));
    let runs = node.out().join("runs");
    until_lines(&runs, 1);
    let agent = Process::of(node.agent_pid());
    agent.signal(Signal::STOP);
    let seen = until_lines(&runs, 1).len();
    let runs = until_lines(&runs, seen + 20).len();
    agent.signal(Signal::CONT);
    node.until("told", |pods| {
        let restarts = pods.get("default/crashing")?.restarts("main");
        (restarts >= u64::try_from(runs).unwrap() - 1).then_some(())
    });
    node.end();
}

/// Invariants 1 and 6, when everything may be killed.
#[test]
fn whatever_is_killed_in_whatever_order_nothing_runs_twice_and_all_runs_again() {
    let mut dice = Dice::new("everything killed");
    let mut node = Node::started();
    let keys: Vec<String> = (0..6).map(|i| format!("default/p{i}")).collect();
    let mut wishes = Wishes { pods: BTreeMap::new(), version: 0 };
    for i in 0..6 {
        let name = format!("p{i}");
        let asked = guarded(&node, &name, 0);
        node.ask_for(&asked);
        wishes.pods.insert(name, asked);
    }
    let first = node.until_all_run(&keys);
    let mut spared: BTreeMap<String, u32> = node.executors();
    let mut pids: Vec<u32> = first.values().flat_map(|pod| pod.pids().into_values()).collect();
    for _ in 0..kills() * 2 {
        match dice.below(4) {
            0 => {
                node.kill_agent();
                node.start_unready();
            }
            // Each executor once: the delay before the next start doubles.
            1 if !spared.is_empty() => {
                if let Some((_, pid)) = spared.pop_first() {
                    Process::find(pid).inspect(Process::kill);
                }
            }
            _ if !pids.is_empty() => {
                let at = usize::try_from(dice.below(pids.len() as u64)).unwrap();
                let pid = pids.swap_remove(at);
                // Its number may belong to a stranger by now.
                if let Some(process) = Process::find(pid).filter(|_| node.owns(pid)) {
                    process.kill();
                }
            }
            _ => pids.extend(node.containers()),
        }
        live_a_while(&node, &mut dice);
    }
    node.wait_ready();
    wishes.until_true(&node, &[]);
    assert_never_twice(&node);
    node.end();
}

/// Invariant 1: the attempt is durable before the program runs, so what was cut off is not run
/// again.
#[test]
fn run_once_pods_run_at_most_once_however_often_agent_and_executors_are_killed() {
    let mut dice = Dice::new("run once");
    let mut node = Node::started();
    let names: Vec<String> = (0..8).map(|i| format!("once{i}")).collect();
    for name in &names {
        let script = alone(name, "sleep 0.0`shuf -i 0-9 -n 1`; echo end >> /srv/ends");
        node.ask_for(&Asked::one(name, &script).policy("Never").sharing(&node.out()));
    }
    for _ in 0..kills() / 2 {
        live_a_while(&node, &mut dice);
        node.kill_agent();
        if let Some(pid) = node.executors().into_values().next() {
            Process::find(pid).inspect(Process::kill);
        }
        node.start_unready();
    }
    node.wait_ready();
    for name in &names {
        node.until_within(soon() * 4, "through", |pods| {
            let pod = pods.get(&format!("default/{name}"))?;
            ["Succeeded", "Failed"].contains(&&*pod.phase()).then_some(())
        });
        let trace = node.out().join(format!("{name}.trace"));
        let runs = std::fs::read_to_string(trace).unwrap_or_default();
        assert!(runs.is_empty() || runs == "start\n", "{name}: {runs}");
    }
    node.end();
}

/// Invariant 8: one pod that does not stop delays no other.
#[test]
fn a_pod_that_takes_its_time_delays_no_other() {
    let node = Node::started();
    let deaf = Asked::one("deaf", "trap '' TERM; echo deaf; while :; do sleep 1000; done");
    node.ask_for(&deaf.with("/spec/terminationGracePeriodSeconds", json!(5 * slowness())));
    let pod = node.until_running("default/deaf");
    until_text(&node.log(&pod, "main", 0), "deaf", |text| text.contains("deaf").then_some(()));
    let process = Process::of(pod.pids()["main"]);
    node.remove("deaf.json");
    for i in 0..3 {
        node.ask_for(&Asked::one(&format!("quick{i}"), FOREVER));
        node.until_running(&format!("default/quick{i}"));
    }
    assert!(process.is_alive(), "the others waited for it, or it was killed early");
    node.end();
}

/// Invariant 13. Long enough for ten relists (here each second).
#[test]
fn an_idle_node_writes_nothing_and_wakes_for_relists_only() {
    let mut node = Node::new();
    node.set_env("ROOST_RELIST", "1s");
    node.start();
    let keys: Vec<String> = (0..3).map(|i| format!("default/idle{i}")).collect();
    for i in 0..3 {
        node.ask_for(&Asked::one(&format!("idle{i}"), FOREVER));
    }
    node.until_all_run(&keys);
    let written = |node: &Node| -> u64 {
        let ours = node.executors().into_values().chain([node.agent_pid()]);
        ours.map(written_by).sum()
    };
    // What was begun is brought to its end; events wait for 30 s for company.
    let agent = Process::of(node.agent_pid());
    assert!(!agent.ends_within(Duration::from_secs(35)), "the agent ended");
    let before = written(&node);
    let agent_woke = wakes_of(node.agent_pid());
    let executors_woke: Vec<u64> = node.executors().into_values().map(wakes_of).collect();
    assert!(!agent.ends_within(Duration::from_secs(10)), "the agent ended");
    assert_eq!(written(&node), before);
    let after: Vec<u64> = node.executors().into_values().map(wakes_of).collect();
    assert_eq!(after, executors_woke, "executors have nothing to wake for");
    let woke = wakes_of(node.agent_pid()) - agent_woke;
    assert!(woke <= 10 * WAKES_PER_RELIST_MAX, "the agent woke {woke} times in 10 s");
    node.end();
}

/// A relist wakes the thread that makes it once, and the one that hears of changes twice.
const WAKES_PER_RELIST_MAX: u64 = 5;

/// How often threads of a process have gone to sleep (`voluntary_ctxt_switches`,
/// proc_pid_status(5)), which is how often they were woken. Those of sled do not count: each waits
/// for work for a second at a time, for ever, and sled has no setting for that.
fn wakes_of(pid: u32) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of_thread = |status: String| {
        let field = |line: &str| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse().ok();
        status.lines().find_map(field).unwrap_or(0_u64)
    };
    let read = |thread: std::path::PathBuf| {
        let name = std::fs::read_to_string(thread.join("comm")).ok()?;
        let status = std::fs::read_to_string(thread.join("status")).ok()?;
        (!name.starts_with("sled-io-")).then_some(status)
    };
    // A thread may end while they are listed.
    threads.filter_map(|thread| read(thread.ok()?.path())).map(of_thread).sum()
}

/// Bytes that a process caused to be written to storage (proc_pid_io(5)).
fn written_by(pid: u32) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    let field = |line: &str| line.strip_prefix("write_bytes: ")?.parse::<u64>().ok();
    io.lines().find_map(field).unwrap()
}

/// Invariant 8: an executor that hangs keeps neither the agent from starting nor other pods from
/// anything, and is not started again beside itself.
#[test]
fn an_executor_that_hangs_delays_no_other_pod_and_is_adopted_when_it_goes_on() {
    let mut node = Node::started();
    for name in ["hung", "well"] {
        node.ask_for(&guarded(&node, name, 0));
    }
    let before = node.until_all_run(&["hung", "well"].map(|name| format!("default/{name}")));
    let hung = Process::of(node.executors()["default/hung"]);
    hung.signal(Signal::STOP);
    node.kill_agent();
    node.start();
    assert_eq!(node.pod("default/well").processes(), before["default/well"].processes());
    node.ask_for(&guarded(&node, "new", 0));
    node.until_running("default/new");
    hung.signal(Signal::CONT);
    let after = node.until_running("default/hung");
    assert_eq!(after.processes(), before["default/hung"].processes());
    // Hung again, and told something: the worker that waits for its answer is its pod's alone.
    hung.signal(Signal::STOP);
    let told = node.agent_log().len();
    node.ask_for(&guarded(&node, "hung", 0).with("/metadata/labels", json!({ "told": "more" })));
    until_text(&node.root().with_file_name("agent.log"), "being told", |text| {
        text[told..].contains("pod=default/hung action=\"set spec\"").then_some(())
    });
    node.ask_for(&guarded(&node, "newer", 0));
    node.until_running("default/newer");
    assert!(!node.agent_log()[told..].contains("a step failed"), "the other pod waited for it");
    // And its manifest is removed: the agent ends it by force.
    node.remove("hung.json");
    node.until_within(soon() * 2, "gone", |pods| {
        (!pods.contains_key("default/hung")).then_some(())
    });
    assert_never_twice(&node);
    node.end();
}
