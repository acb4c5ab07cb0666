//! How late what is due comes. Every program writes a line to a pipe, whose reader has the clock.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

use serde_json::json;

use crate::harness::{Asked, Node, OUT, Process, soon};
use crate::{now, quantile};

/// What a line says, and when it came.
struct Line {
    words: Vec<String>,
    at: f64,
}

/// Opened for both, so that it never ends.
fn read_lines(fifo: &Path) -> Receiver<Line> {
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(rustix::fs::CWD, fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(fifo).unwrap();
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for text in BufReader::new(file).lines() {
            let at = now();
            let words = text.unwrap().split(' ').map(str::to_owned).collect();
            if sender.send(Line { words, at }).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Samples by what they are of, in milliseconds.
#[derive(Default)]
struct Delays(BTreeMap<&'static str, Vec<f64>>);

impl Delays {
    /// Something came at `at`. `due` is when it was due as far as is known here, `never_before` what
    /// it was certainly not due before.
    fn add(&mut self, what: &'static str, at: f64, due: f64, never_before: f64) {
        assert!(at >= never_before, "{what} came {} s early", never_before - at);
        self.0.entry(what).or_default().push((at - due).max(0.0) * 1000.0);
    }
}

/// Says `what` with the program's own clock, which has hundredths of seconds.
fn say(what: &str) -> String {
    format!("read up rest < /proc/uptime; echo {what} $up > {OUT}/pipe")
}

/// Seconds between the runs of a container that ends at once.
const BACKOFF: [f64; 5] = [0.5, 1.0, 2.0, 2.0, 2.0];
const PERIOD: f64 = 1.0;
const DEADLINE: f64 = 3.0;
const RUN_TIME: f64 = 1.5;
const GRACE: f64 = 2.0;

fn ask_for(node: &Node, number: usize) -> BTreeMap<String, f64> {
    let waiting = "while :; do sleep 1000 & wait; done";
    let script =
        |kind: &str, rest: &str| format!("{}; {rest}", say(&format!("{kind}{number} run")));
    let probe = json!({
        "exec": { "command": ["/bin/sh", "-c", say(&format!("probed{number} asked"))] },
        "periodSeconds": 1, "initialDelaySeconds": 1,
    });
    let pods = [
        Asked::one(&format!("probed{number}"), &script("probed", waiting))
            .with("/spec/containers/0/livenessProbe", probe),
        Asked::one(&format!("crashes{number}"), &script("crashes", "exit 1"))
            .annotation("roost/backoff-initial", "500ms")
            .annotation("roost/backoff-max", "2s"),
        Asked::one(
            &format!("deadline{number}"),
            &script(
                "deadline",
                &format!(
                    "trap '{}; exit 0' TERM; {waiting}",
                    say(&format!("deadline{number} term"))
                ),
            ),
        )
        .with("/spec/activeDeadlineSeconds", json!(3)),
        Asked::one(&format!("limited{number}"), &script("limited", waiting))
            .policy("Never")
            .annotation("roost/max-run-time.main", "1500ms"),
        Asked::one(
            &format!("stubborn{number}"),
            &script(
                "stubborn",
                &format!("trap '{}' TERM; {waiting}", say(&format!("stubborn{number} term"))),
            ),
        )
        .with("/spec/terminationGracePeriodSeconds", json!(2)),
    ];
    let asked = pods.into_iter().map(|pod| {
        let pod = pod.sharing(&node.out());
        let at = now();
        node.ask_for(&pod);
        (pod.key().trim_start_matches("default/").to_owned(), at)
    });
    asked.collect()
}

/// Measures with so many pods of each kind, for so long.
pub(crate) fn run(pods: usize, seconds: usize) {
    let node = Node::started();
    let lines = read_lines(&node.out().join("pipe"));
    let mut asked = BTreeMap::new();
    for number in 0..pods {
        asked.extend(ask_for(&node, number));
    }
    let begun = now();
    // What runs by itself for as long as is measured.
    let ends: Vec<(String, Process)> = (0..pods)
        .map(|number| {
            let name = format!("limited{number}");
            let pid = node.until("running", |pods| {
                pods.get(&format!("default/{name}"))?.pids().get("main").copied()
            });
            (name, Process::of(pid))
        })
        .collect();
    let mut delays = Delays::default();
    let mut ended = BTreeMap::new();
    for (name, process) in &ends {
        assert!(process.ends_within(soon()), "{name} does not end");
        ended.insert(name.clone(), now());
    }
    #[expect(clippy::cast_precision_loss, reason = "seconds")]
    let left = begun + seconds as f64 - now();
    let until = std::time::Instant::now() + std::time::Duration::from_secs_f64(left.max(0.0));
    let mut seen: Vec<Line> = Vec::new();
    while let Some(left) = until.checked_duration_since(std::time::Instant::now()) {
        seen.extend(lines.recv_timeout(left));
    }
    let removed = now();
    let victims: Vec<(String, Process)> = (0..pods)
        .map(|number| {
            let name = format!("stubborn{number}");
            let pod = node.pod(&format!("default/{name}"));
            (name, Process::of(pod.pids()["main"]))
        })
        .collect();
    victims.iter().for_each(|(name, _)| node.remove(&format!("{name}.json")));
    for (name, process) in &victims {
        assert!(process.ends_within(soon()), "{name} does not end");
        ended.insert(name.clone(), now());
    }
    seen.extend(lines.try_iter());
    judge(&mut delays, &seen, &asked, &ended, removed);
    println!("{pods} pods of each kind, {seconds} s; how late, in milliseconds");
    println!("| what | samples | median | p99 | most |\n|---|---|---|---|---|");
    for (what, mut samples) in delays.0 {
        let [median, p99, most] = [0.5, 0.99, 1.0].map(|part| quantile(&mut samples, part));
        println!("| {what} | {} | {median:.1} | {p99:.1} | {most:.1} |", samples.len());
    }
    node.end();
}

/// Makes samples of what was seen.
fn judge(
    delays: &mut Delays,
    seen: &[Line],
    asked: &BTreeMap<String, f64>,
    ended: &BTreeMap<String, f64>,
    removed: f64,
) {
    for (name, asked) in asked {
        let of = |what: &str| {
            let own = seen.iter().filter(|it| it.words[0] == *name && it.words[1] == what);
            own.map(|it| (it.at, it.words[2].parse::<f64>().unwrap())).collect::<Vec<_>>()
        };
        let runs = of("run");
        let Some(&(first, _)) = runs.first() else { panic!("{name} has not run") };
        match name.trim_end_matches(|digit: char| digit.is_ascii_digit()) {
            "probed" => {
                let mut after = 1.0;
                for (at, _) in of("asked") {
                    delays.add("a probe, each second", at, first + after, asked + after);
                    after += PERIOD;
                }
            }
            "crashes" => {
                for (pair, delay) in runs.windows(2).zip(BACKOFF.iter().chain([&2.0; 99])) {
                    // Its own clock was read before it ended.
                    let due = pair[0].0 + delay;
                    delays.add("a restart after its back-off", pair[1].0, due, pair[0].1 + delay);
                }
            }
            "deadline" => {
                for (at, _) in of("term") {
                    let due = first + DEADLINE;
                    delays.add("the stop signal at the deadline", at, due, asked + DEADLINE);
                }
            }
            "limited" => {
                let due = first + RUN_TIME;
                delays.add("the kill after the longest run", ended[name], due, asked + RUN_TIME);
            }
            "stubborn" => {
                let term = of("term").first().map_or(removed, |(at, _)| *at);
                let due = term + GRACE;
                delays.add("the kill after the grace period", ended[name], due, removed + GRACE);
            }
            other => panic!("{other}?"),
        }
    }
}
