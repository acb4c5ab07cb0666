//! Random edits, renames, removals and re-creations of manifests, while the agent is killed at
//! random; and pods without an agent for a long time.
//!
//! `ROOST_EDITS` sets how many edits there are (default 80; 10,000 take minutes), and
//! `ROOST_STOPPED_SECS` how long there is no agent (default 4). A seed is printed, and `ROOST_SEED`
//! sets it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{
    Asked, Dice, FOREVER, Node, OUT, Process, alone, slowness, soon, until_lines, until_text,
};

/// Files of pods and of ConfigMaps: thirty manifests.
const PODS: u64 = 25;
const CONFIGS: u64 = 5;
/// Most edits in the life of one agent.
const EDITS_PER_LIFE: u64 = 40;
/// Longest time from an edit to the next, in milliseconds.
const PAUSE_MAX: u64 = 12;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// A pod that is asked for, and where.
struct Wish {
    file: String,
    asked: Asked,
    version: u64,
    config: String,
}

/// What the manifests ask for.
#[derive(Default)]
struct Wishes {
    pods: BTreeMap<String, Wish>,
    configs: BTreeMap<String, u64>,
    version: u64,
    edits: BTreeMap<&'static str, u64>,
}

impl Wishes {
    /// Changes one manifest.
    fn change(&mut self, node: &Node, dice: &mut Dice) {
        self.version += 1;
        let kind = match dice.below(20) {
            0 | 1 => self.put_config(node, &format!("c{}", dice.below(CONFIGS))),
            2 => {
                let name = format!("c{}", dice.below(CONFIGS));
                if self.configs.remove(&name).is_some() {
                    node.remove(&format!("{name}.yaml"));
                }
                "ConfigMaps removed"
            }
            what => {
                let name = format!("p{}", dice.below(PODS));
                match (what, self.pods.contains_key(&name)) {
                    (3..=5, true) => self.rename(node, &name),
                    (6..=8, true) => {
                        let wish = self.pods.remove(&name).unwrap();
                        node.remove(&wish.file);
                        "removed"
                    }
                    (_, is_edit) => {
                        self.edit(node, dice, &name);
                        if is_edit { "edited" } else { "created" }
                    }
                }
            }
        };
        *self.edits.entry(kind).or_default() += 1;
    }

    fn put_config(&mut self, node: &Node, name: &str) -> &'static str {
        let version = self.version.to_string();
        let document = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": name }, "data": { "version": version },
        });
        node.put(&format!("{name}.yaml"), &document.to_string());
        self.configs.insert(name.to_owned(), self.version);
        "ConfigMaps written"
    }

    fn rename(&mut self, node: &Node, name: &str) -> &'static str {
        let wish = self.pods.get_mut(name).unwrap();
        let new = format!("{name}-{}.json", self.version);
        let manifests = node.manifests();
        std::fs::rename(manifests.join(&wish.file), manifests.join(&new)).unwrap();
        wish.file = new;
        "renamed"
    }

    fn edit(&mut self, node: &Node, dice: &mut Dice, name: &str) {
        let (version, config) = (self.version, format!("c{}", dice.below(CONFIGS)));
        let env = json!([
            { "name": "VERSION", "value": version.to_string() },
            { "name": "CONFIG", "valueFrom": { "configMapKeyRef": { "name": config, "key": "version" } } },
        ]);
        let mut asked = Asked::one(name, &alone(name, FOREVER))
            .with("/spec/containers/0/env", env)
            .annotation("roost/restart-on-config-change", "true")
            .annotation("roost/backoff-initial", "100ms")
            .annotation("roost/backoff-max", "100ms")
            .sharing(&node.out());
        let old = self.pods.get(name);
        let file = old.map_or_else(|| asked.file(), |old| old.file.clone());
        let mut wish = Wish { file, version, config, asked: asked.clone() };
        match (dice.below(4), old) {
            // A new instance.
            (0, _) => asked = asked.with("/spec/hostname", json!(format!("h{version}"))),
            // In place.
            (1, Some(old)) => {
                let label = json!({ "version": version.to_string() });
                asked = old.asked.clone().with("/metadata/labels", label);
                (wish.version, wish.config) = (old.version, old.config.clone());
            }
            _ => {}
        }
        node.put(&wish.file, &asked.text());
        wish.asked = asked;
        self.pods.insert(name.to_owned(), wish);
    }

    /// Waits until what runs is what is wanted, and nothing else.
    fn until_true(&self, node: &Node, others: &[String]) {
        let wanted: BTreeSet<String> =
            self.pods.values().map(|it| it.asked.key()).chain(others.iter().cloned()).collect();
        node.until_within(soon() * 4, "as wanted", |pods| {
            let there: BTreeSet<String> = pods.keys().cloned().collect();
            let is_right = |name: &str, pod: &crate::harness::Pod| {
                let Some(wish) = self.pods.get(name) else { return true };
                let pids = pod.pids();
                let Some(pid) = pids.get("main") else { return false };
                let labels = &wish.asked.0["metadata"]["labels"];
                variable(*pid, "VERSION") == Some(wish.version.to_string())
                    && variable(*pid, "CONFIG") == Some(self.configs[&wish.config].to_string())
                    && *labels == pod.0["metadata"]["labels"]
            };
            let right = there == wanted
                && pods.values().all(|pod| pod.is_running() && is_right(&pod.name(), pod))
                && node.executors().keys().cloned().collect::<BTreeSet<_>>() == wanted;
            right.then_some(())
        });
        let directories = std::fs::read_dir(node.root().join("data/pods")).unwrap().count();
        assert_eq!(directories, wanted.len());
    }
}

/// A variable of a process.
fn variable(pid: u32, name: &str) -> Option<String> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let environment = String::from_utf8(environment).ok()?;
    let mut words = environment.split('\0').filter_map(|word| word.split_once('='));
    words.find(|(found, _)| *found == name).map(|(_, value)| value.to_owned())
}

/// Invariants 1 to 6.
#[test]
fn thirty_manifests_edited_at_random_with_the_agent_killed_at_random_end_as_they_ask() {
    let (edits, begun) = (number("ROOST_EDITS", 80), Instant::now());
    let mut dice = Dice::new("edited at random");
    let mut node = Node::started();
    let steady: Vec<String> = (0..2).map(|i| format!("default/steady{i}")).collect();
    for i in 0..2 {
        let name = format!("steady{i}");
        node.ask_for(&Asked::one(&name, &alone(&name, FOREVER)).sharing(&node.out()));
    }
    let before = node.until_all_run(&steady);
    let mut wishes = Wishes::default();
    let (mut left, mut kills) = (edits, 0);
    while left > 0 {
        for _ in 0..dice.below(EDITS_PER_LIFE).min(left) {
            wishes.change(&node, &mut dice);
            left -= 1;
            let pause = Duration::from_millis(dice.below(PAUSE_MAX)) * slowness();
            let ended = Process::of(node.agent_pid()).ends_within(pause);
            assert!(!ended, "the agent ended by itself:\n{}", node.agent_log());
        }
        node.kill_agent();
        kills += 1;
        // Some of it happens while there is no agent.
        if dice.below(2) == 0 && left > 0 {
            wishes.change(&node, &mut dice);
            left -= 1;
        }
        node.start_unready();
    }
    node.wait_ready();
    for config in 0..CONFIGS {
        wishes.version += 1;
        wishes.put_config(&node, &format!("c{config}"));
    }
    wishes.until_true(&node, &steady);
    for key in &steady {
        let after = node.pod(key);
        assert_eq!(after.processes(), before[key].processes(), "{key}");
        assert_eq!(after.uid(), before[key].uid());
    }
    let mut starts = 0;
    for entry in std::fs::read_dir(node.out()).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("DOUBLE"), "{}: ran twice at once:\n{text}", path.display());
        starts += text.lines().filter(|line| line.starts_with("start")).count();
    }
    println!(
        "{edits} edits ({:?}), {kills} agents killed, {starts} programs started, {:?}",
        wishes.edits,
        begun.elapsed()
    );
    node.end();
}

/// Invariant 2: probes act, crashes restart, logs flow; and who comes back knows all at once.
#[test]
fn a_pod_is_served_while_the_agent_is_stopped_and_its_status_is_right_at_once_afterwards() {
    let stopped = Duration::from_secs(number("ROOST_STOPPED_SECS", 4));
    let mut node = Node::started();
    let probe = format!("echo probe >> {OUT}/probes; [ ! -e {OUT}/sick ]");
    let probe = |period: u64| {
        json!({
            "exec": { "command": ["/bin/sh", "-c", probe] },
            "periodSeconds": period, "failureThreshold": 1,
        })
    };
    let asked = Asked::pod("served")
        .container("web", &format!("echo run >> {OUT}/web; {FOREVER}"))
        .container("crash", &format!("echo run >> {OUT}/crash; {FOREVER}"))
        .container("talker", "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done")
        .with("/spec/containers/0/livenessProbe", probe(1))
        .annotation("roost/backoff-initial", "100ms")
        .annotation("roost/backoff-max", "100ms");
    node.ask_for(&asked.sharing(&node.out()));
    let pod = node.until_running("default/served");
    let [probes, web, crash] = ["probes", "web", "crash"].map(|name| node.out().join(name));
    let log = node.log(&pod, "talker", 0);
    let count = |path: &std::path::PathBuf| until_lines(path, 1).len();
    node.stop_agent();
    let (begun, mut cycles) = (Instant::now(), 0);
    let first = [&probes, &web, &crash, &log].map(count);
    while begun.elapsed() < stopped || cycles == 0 {
        let runs = [&web, &crash].map(count);
        std::fs::write(node.out().join("sick"), "").unwrap();
        until_lines(&web, runs[0] + 1);
        std::fs::remove_file(node.out().join("sick")).unwrap();
        let victim = node.containers().into_iter().find(|pid| {
            let line = crate::harness::command_line(*pid).join(" ");
            line.contains("/crash;") && line.starts_with("/bin/sh")
        });
        Process::of(victim.unwrap()).kill();
        until_lines(&crash, runs[1] + 1);
        // It says something, and is asked again, before the next round.
        let [asked, _, _, said] = [&probes, &web, &crash, &log].map(count);
        until_lines(&probes, asked + 1);
        until_lines(&log, said + 1);
        cycles += 1;
    }
    let [asked, runs, crashes, said] = [&probes, &web, &crash, &log].map(count);
    let without = begun.elapsed();
    // Nothing restarts from here on, so that what is right does not change.
    let started = Instant::now();
    node.start();
    let pod = node.pod("default/served");
    let known = started.elapsed();
    assert!(pod.is_running(), "{}", pod.0);
    let restarts = |name: &str| usize::try_from(pod.restarts(name)).unwrap();
    assert_eq!((restarts("web"), restarts("crash")), (runs - 1, crashes - 1), "{}", pod.0);
    assert_eq!(pod.restarts("talker"), 0);
    assert_eq!(pod.ended("crash")["exitCode"], 137, "{}", pod.0);
    assert_eq!(pod.container("web")["ready"], true, "{}", pod.0);
    let ours: BTreeSet<u32> = node.containers().into_iter().collect();
    assert!(pod.pids().values().all(|pid| ours.contains(pid)), "{}", pod.0);
    let lines = node.output(&pod, "talker", 0);
    for (i, line) in lines.iter().enumerate() {
        assert_eq!(*line, format!("line {}", i + 1), "a line is lost");
    }
    until_text(&log, "going on", |text| (text.lines().count() > lines.len()).then_some(()));
    println!(
        "{without:?} without an agent: {cycles} rounds, {} probes, {} restarts by a probe, {} after \
         crashes, {} lines; its status was right {known:?} after the agent was started",
        asked - first[0],
        runs - first[1],
        crashes - first[2],
        said - first[3],
    );
    node.end();
}
