//! The shutdown of the machine, as far as Roost has a part in it: `roost agent --stop-pods`, which
//! systemd executes when the agent has ended (`packaging/roost.service`).

use serde_json::json;

use crate::harness::{Asked, Node, OUT};

/// Says its name when it is told to end, after so many seconds.
pub fn says_when_it_ends(name: &str, priority: i64, seconds: &str) -> Asked {
    let script = format!(
        "trap 'sleep {seconds}; echo {name} >>{OUT}/ended; exit 0' TERM; echo >>{OUT}/begun; \
         while :; do sleep 1000 & wait; done"
    );
    Asked::one(name, &script)
        .with("/spec/priority", json!(priority))
        .with("/spec/terminationGracePeriodSeconds", json!(20))
}

/// Waits until so many of them can be told.
pub fn until_begun(node: &Node, count: usize) {
    node.until("they listen to signals", |_| (lines(node, "begun").len() >= count).then_some(()));
}

pub fn lines(node: &Node, file: &str) -> Vec<String> {
    let text = std::fs::read_to_string(node.out().join(file)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn pods_end_by_ascending_priority_and_run_again_with_the_next_agent() {
    let mut node = Node::started();
    for (name, priority, seconds) in [("high", 7, "0"), ("low", -3, "0.5"), ("middle", 0, "0.2")] {
        node.ask_for(&says_when_it_ends(name, priority, seconds).sharing(&node.out()));
    }
    let keys = ["high", "low", "middle"].map(|name| format!("default/{name}"));
    let before = node.until_all_run(&keys);
    until_begun(&node, 3);

    let (code, _, error) = node.cli(&["agent", "--stop-pods", "20s"]);
    assert!(code == 1 && error.contains("stop it first"), "{code}: {error}");
    assert!(lines(&node, "ended").is_empty(), "an agent would start them again");

    node.stop_agent();
    let (code, said, error) = node.cli(&["agent", "--stop-pods", "20s"]);
    assert_eq!((code, &*said), (0, "3 pods have ended\n"), "{error}");
    assert_eq!(lines(&node, "ended"), ["low", "middle", "high"]);

    node.start();
    let after = node.until_all_run(&keys);
    for key in &keys {
        assert_eq!(after[key].uid(), before[key].uid(), "the same instance goes on");
        node.remove(&format!("{}.json", key.trim_start_matches("default/")));
    }
    node.end();
}

#[test]
fn who_takes_too_long_to_end_is_left_to_systemd() {
    let mut node = Node::started();
    node.ask_for(&says_when_it_ends("slow", -1, "15").sharing(&node.out()));
    node.ask_for(&says_when_it_ends("high", 1, "0").sharing(&node.out()));
    node.until_all_run(&["slow", "high"].map(|name| format!("default/{name}")));
    until_begun(&node, 2);
    node.stop_agent();
    let (code, _, error) = node.cli(&["agent", "--stop-pods", "1s"]);
    assert!(code == 1 && error.contains("2 pods have not ended"), "{code}: {error}");
    assert!(lines(&node, "ended").is_empty(), "nobody is told before those of lower priority");
    node.start();
    for name in ["slow", "high"] {
        node.remove(&format!("{name}.json"));
        node.until_gone(&format!("default/{name}"));
    }
    node.end();
}
