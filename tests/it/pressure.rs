//! A node that runs out of memory or disk, and pods that have more on disk than they may.

use serde_json::{Value, json};

use crate::harness::{Asked, FOREVER, Node, OUT, Pod};
use crate::images::SmallDisk;
use crate::shutdown::{lines, says_when_it_ends, until_begun};

/// Of memory that is always less than there is, without taking any.
const ALL: &str = "100%";

fn is_evicted(pod: &Pod) -> bool {
    pod.0["status"]["reason"] == "Evicted" && pod.phase() == "Failed"
}

fn condition(node: &Node, kind: &str) -> Value {
    let status = node.status();
    let found = status["conditions"].as_array().unwrap().iter().find(|it| it["type"] == kind);
    found.unwrap()["status"].clone()
}

/// When it was decided that the pod goes.
fn evicted_at(pod: &Pod) -> String {
    let conditions = pod.0["status"]["conditions"].as_array().unwrap().clone();
    let of_eviction = conditions.into_iter().find(|it| it["type"] == "DisruptionTarget").unwrap();
    assert_eq!(of_eviction["reason"], "TerminationByKubelet");
    of_eviction["lastTransitionTime"].as_str().unwrap().to_owned()
}

#[test]
fn pods_go_one_after_the_other_for_want_of_memory_and_come_back_when_it_is_over() {
    let mut node = Node::new();
    node.set_env("ROOST_PRESSURE_TRANSITION", "1s");
    node.set_env("ROOST_PRESSURE_MEASURE_EVERY", "1s");
    node.start();
    let out = node.out();
    let pod = |name: &str, priority| says_when_it_ends(name, priority, "0").sharing(&out);
    node.ask_for(&pod("high", 5));
    node.ask_for(&pod("low", 1));
    let critical = pod("critical", 2_000_001_000);
    let critical = critical.with("/spec/priorityClassName", json!("system-node-critical"));
    node.ask_for(&critical);
    let keys = ["default/critical", "default/high", "default/low"].map(str::to_owned);
    let before = node.until_all_run(&keys);
    assert_eq!(condition(&node, "MemoryPressure"), "False");
    until_begun(&node, 3);

    node.stop_agent();
    node.set_env("ROOST_PRESSURE_MEMORY_AVAILABLE", ALL);
    node.start();
    let pods = node.until("both are evicted", |pods| {
        let both = ["default/high", "default/low"];
        both.iter().all(|key| pods.get(*key).is_some_and(is_evicted)).then(|| pods.clone())
    });
    let (low, high) = (&pods["default/low"], &pods["default/high"]);
    assert_eq!(lines(&node, "ended"), ["low", "high"], "the least important first");
    assert!(evicted_at(low) <= evicted_at(high));
    assert!(low.problems().contains("The node was low on resource: memory. Threshold quantity: "));
    assert_eq!(low.ended("main")["reason"], "ContainerStatusUnknown", "nothing of it runs");
    let kept = node.pod("default/critical");
    assert_eq!(kept.processes(), before["default/critical"].processes(), "never a critical one");
    assert_eq!(condition(&node, "MemoryPressure"), "True");
    let (code, table, _) = node.cli(&["get", "pods"]);
    assert!(code == 0 && table.contains("Evicted"), "{table}");
    let events = node.said(&["get", "events"]);
    assert!(events.contains("Evicted") && events.contains("NodeHasInsufficientMemory"), "{events}");

    // What asks for nothing waits; what asks for something, and can wait no longer, does not.
    node.ask_for(&Asked::one("late", FOREVER));
    let late = node.until("the late one waits", |pods| {
        let pod = pods.get("default/late")?;
        (pod.0["status"]["reason"] == "NodeUnderMemoryPressure").then(|| pod.clone())
    });
    assert!(late.problems().contains("held back"), "{}", late.problems());

    node.stop_agent();
    node.set_env("ROOST_PRESSURE_MEMORY_AVAILABLE", "0");
    node.start();
    let after =
        node.until_all_run(&["default/high", "default/late", "default/low"].map(str::to_owned));
    assert_ne!(after["default/low"].uid(), low.uid(), "another instance");
    for file in ["critical.json", "high.json", "low.json", "late.json"] {
        node.remove(file);
    }
    node.end();
}

/// Writes so much into its volume, but only in its first life.
fn writes_once(mebibytes: u32) -> String {
    format!(
        "[ -e {OUT}/written ] || {{ touch {OUT}/written; dd if=/dev/zero of=/data/file bs=1M \
         count={mebibytes}; }}; {FOREVER}"
    )
}

fn data(volume: &Value) -> Value {
    json!({ "name": "data", "emptyDir": volume })
}

#[test]
fn a_volume_that_is_larger_than_its_limit_costs_the_pod_its_place_until_it_is_empty_again() {
    let mut node = Node::new();
    node.set_env("ROOST_PRESSURE_MEASURE_EVERY", "1s");
    node.start();
    let asked = Asked::one("hog", &writes_once(3))
        .sharing(&node.out())
        .with("/spec/terminationGracePeriodSeconds", json!(1))
        .mounting(&data(&json!({ "sizeLimit": "1Mi" })), "/data");
    let critical = Asked::one("critical", &format!("touch /data/a; {}", writes_once(3)))
        .sharing(&node.out().join("critical"))
        .with("/spec/priorityClassName", json!("system-node-critical"))
        .mounting(&data(&json!({ "sizeLimit": "1Mi" })), "/data");
    std::fs::create_dir(node.out().join("critical")).unwrap();
    node.ask_for(&critical);
    let critical = node.until_running("default/critical");
    node.ask_for(&asked);
    let first = node.until("it is evicted", |pods| {
        pods.get("default/hog").filter(|pod| is_evicted(pod)).cloned()
    });
    let said = "Usage of EmptyDir volume \"data\" exceeds the limit \"1Mi\".";
    assert!(first.problems().contains(said), "{}", first.problems());
    assert!(!node.root().join("data/pods").join(first.uid()).join("volumes/data").exists());
    // As an agent that is killed meanwhile knows it too.
    node.kill_agent();
    node.start();
    assert!(is_evicted(&node.pod("default/hog")));
    let second = node.until_running("default/hog");
    assert_ne!(second.uid(), first.uid());
    let volume = node.root().join("data/pods").join(second.uid()).join("volumes/data");
    assert_eq!(std::fs::read_dir(volume).unwrap().count(), 0);
    let kept = node.pod("default/critical");
    assert_eq!(kept.processes(), critical.processes(), "never a critical one");
    assert!(node.out().join("critical/written").exists(), "it has as much");
    node.remove("hog.json");
    node.remove("critical.json");
    node.until_gone("default/hog");
    node.end();
}

#[test]
fn what_a_container_writes_beside_its_volumes_counts_for_its_limit() {
    let mut node = Node::new();
    node.set_env("ROOST_PRESSURE_MEASURE_EVERY", "1s");
    node.start();
    let script = format!("dd if=/dev/zero of=$MESOS_SANDBOX/file bs=1M count=3; {FOREVER}");
    let asked = Asked::one("writer", &script)
        .with("/spec/terminationGracePeriodSeconds", json!(1))
        .with("/spec/containers/0/resources", json!({ "limits": { "ephemeral-storage": "2Mi" } }));
    node.ask_for(&asked);
    let pod = node.until("it is evicted", |pods| {
        pods.get("default/writer").filter(|pod| is_evicted(pod)).cloned()
    });
    let said = "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi.";
    assert!(pod.problems().contains(said), "{}", pod.problems());
    node.remove("writer.json");
    node.until_gone("default/writer");
    node.end();
}

#[test]
fn on_a_full_disk_who_filled_it_goes_and_gives_it_back() {
    let disk = SmallDisk::new(96 << 20);
    let mut node = Node::in_directory(disk.0.path());
    for (name, value) in [
        ("ROOST_PRESSURE_DISK_AVAILABLE", "30%"),
        ("ROOST_PRESSURE_TRANSITION", "1s"),
        ("ROOST_PRESSURE_MEASURE_EVERY", "1s"),
    ] {
        node.set_env(name, value);
    }
    node.start();
    node.ask_for(&Asked::one("good", FOREVER));
    let good = node.until_running("default/good");
    let asked = Asked::one("hog", &writes_once(75))
        .sharing(&node.out())
        .with("/spec/terminationGracePeriodSeconds", json!(1))
        .mounting(&data(&json!({})), "/data");
    node.ask_for(&asked);
    let first = node.until("it is evicted", |pods| {
        pods.get("default/hog").filter(|pod| is_evicted(pod)).cloned()
    });
    let said = "The node was low on resource: ephemeral-storage.";
    assert!(first.problems().contains(said), "{}", first.problems());
    let second = node.until_running("default/hog");
    assert_ne!(second.uid(), first.uid());
    assert_eq!(node.pod("default/good").processes(), good.processes(), "it took hardly anything");
    assert_eq!(condition(&node, "DiskPressure"), "False");
    for (file, key) in [("hog.json", "default/hog"), ("good.json", "default/good")] {
        node.remove(file);
        node.until_gone(key);
    }
    node.end();
}

#[test]
fn on_a_full_disk_old_logs_go_before_anybody_does_and_no_more_than_are_needed() {
    const FILE: usize = 1 << 20;
    let disk = SmallDisk::new(96 << 20);
    let mut node = Node::in_directory(disk.0.path());
    for (name, value) in [
        ("ROOST_PRESSURE_DISK_AVAILABLE", "30%"),
        ("ROOST_PRESSURE_TRANSITION", "1s"),
        ("ROOST_PRESSURE_MEASURE_EVERY", "1s"),
        ("ROOST_LOGS_FILE_BYTES", "1Mi"),
        ("ROOST_LOGS_FILES", "31"),
    ] {
        node.set_env(name, value);
    }
    node.start();
    let line = "0123456789".repeat(400);
    let script = format!(
        "i=0; while [ $i -lt 7500 ]; do echo {line}; i=$((i+1)); done; touch {OUT}/said; {FOREVER}"
    );
    node.ask_for(&Asked::one("talker", &script).sharing(&node.out()));
    let talker = node.until_running("default/talker");
    node.until("it has said all", |_| node.out().join("said").exists().then_some(()));
    let logs = node.log(&talker, "main", 0).parent().unwrap().to_owned();
    let rotated = || std::fs::read_dir(&logs).unwrap().count() - 1;
    let before = node.until("all of it is written", |_| (rotated() >= 25).then(&rotated));
    let free = || {
        let found = rustix::fs::statvfs(node.root()).unwrap();
        found.f_bavail * found.f_frsize
    };
    let most = rustix::fs::statvfs(node.root()).unwrap();
    let wanted = most.f_blocks * most.f_frsize * 3 / 10;
    let filler = usize::try_from(free() - wanted).unwrap() + 5 * FILE;
    std::fs::write(disk.0.path().join("filler"), vec![1_u8; filler]).unwrap();
    node.until("enough is free", |_| (free() >= wanted).then_some(()));
    let status = node.until("it is over", |_| {
        (condition(&node, "DiskPressure") == "False").then(|| node.pod("default/talker"))
    });
    assert_eq!(status.processes(), talker.processes());
    let after = rotated();
    assert!(after < before && after >= before - 15, "{after} of {before} are left");
    std::fs::remove_file(disk.0.path().join("filler")).unwrap();
    node.remove("talker.json");
    node.until_gone("default/talker");
    node.end();
}
