//! What those who run nodes live by: configuration, metrics, status files, log volume, backups.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::harness::{Asked, FOREVER, Node, OUT, Process, alone, send, soon};

#[test]
fn a_configuration_is_reloaded_where_it_can_be_and_a_fault_in_it_stops_nothing() {
    let mut node = Node::new();
    let file = node.dir.path().join("agent.toml");
    std::fs::write(&file, "max-pods = 10\n").unwrap();
    node.set_env("ROOST_CONFIG", file.to_str().unwrap());
    node.start();
    let reload = |text: &str| {
        std::fs::write(&file, text).unwrap();
        send(node.agent_pid(), libc::SIGHUP);
    };
    let until = |what: &str, holds: &dyn Fn(&serde_json::Value) -> bool| {
        node.until(what, |_| holds(&node.status()).then_some(()));
    };

    reload("log = 'debug'\nmax-pod = 5\nrelist = 3\n");
    until("an alarm with the place of the fault", &|status| {
        let alarms = status["alarms"].to_string();
        alarms.contains("agent.toml:2:1: `max-pod` is not known; did you mean `max-pods`?")
            && alarms.contains("agent.toml:3:10: `relist`")
    });
    assert!(!node.agent_log().contains("DEBUG"), "nothing of a faulty file is taken over");

    reload("log = 'info,roost::agent=debug'\nrelist = '1h'\nexecutor = '/bin/true'\n");
    until("the executor's change is named", &|status| {
        status["alarms"].as_array().unwrap().is_empty()
            && status["restartFor"] == serde_json::json!(["executor"])
    });
    let said = node.said(&["status"]);
    assert!(said.contains("Restart for:  executor"), "{said}");
    let events = node.ask("GET", "/api/v1/events").1.to_string();
    assert!(events.contains("ConfigInvalid") && events.contains("ConfigReloaded"), "{events}");

    reload("max-pods = 20\n");
    until("nothing waits any more", &|status| status["restartFor"].as_array().unwrap().is_empty());
    node.end();
}

#[test]
fn the_node_is_told_in_numbers_and_in_files() {
    let node = Node::started();
    let hog = "head -c 20000000 /dev/zero > /dev/null; ".to_owned() + FOREVER;
    let pod = Asked::one("a", &hog).container("b", FOREVER).with(
        "/spec/containers/0/resources",
        json!({ "requests": { "cpu": "250m", "memory": "16Mi" }, "limits": { "memory": "64Mi" } }),
    );
    node.ask_for(&pod);
    node.until_running("default/a");

    let (code, text) = node.ask("GET", "/metrics");
    let text = text.as_str().unwrap_or_else(|| panic!("{code} {text}")).to_owned();
    let value = |series: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
    };
    let of_main = r#"{namespace="default",pod="a",container="main"}"#;
    assert!(value(&format!("roost_container_cpu_seconds_total{of_main}")) > 0.0);
    assert!(value(&format!("roost_container_memory_working_set_bytes{of_main}")) > 4096.0);
    let limit = value(&format!("roost_container_memory_limit_bytes{of_main}"));
    assert_eq!(limit.to_string(), (64 << 20).to_string());
    for (series, least) in [
        ("roost_pods{phase=\"Running\"}", 1.0),
        ("roost_pod_start_duration_seconds_count", 1.0),
        ("roost_steps_total{action=\"create\"}", 1.0),
        ("roost_reconcile_duration_seconds_count", 2.0),
        ("roost_store_commit_duration_seconds_count", 1.0),
        ("roost_store_size_bytes", 1.0),
        ("roost_watcher_hints_total", 1.0),
        ("roost_watcher_relists_total", 1.0),
        ("process_resident_memory_bytes", 4096.0),
        ("roost_agent_ready", 1.0),
    ] {
        assert!(value(series) >= least, "{series}");
    }
    promtool_is_content(&text);

    let (_, stats) = node.ask("GET", "/roost/v1/stats");
    assert_eq!(stats["node"]["requestedCpuMillis"], 250, "{stats}");
    assert_eq!(stats["node"]["requestedMemoryBytes"], 16 << 20, "{stats}");
    assert!(stats["node"]["memoryBytes"].as_u64().unwrap() > 64 << 20, "{stats}");
    let containers = stats["pods"][0]["containers"].as_array().unwrap();
    assert_eq!((containers.len(), &stats["pods"][0]["pod"]), (2, &json!("default/a")));
    for container in containers {
        assert!(container["cpuNanos"].as_u64().unwrap() > 0, "{container}");
        assert!(container["memoryBytes"].as_u64().unwrap() > 0, "{container}");
        // The shell and its sleep.
        assert!((1..=2).contains(&container["pids"].as_u64().unwrap()), "{container}");
    }

    assert_eq!(node.ask("GET", "/readyz").1, "ok");
    let verbose = node.ask("GET", "/readyz?verbose").1.to_string();
    assert!(verbose.contains("[+]recovered ok") && verbose.contains("[+]store ok"), "{verbose}");

    let file = node.root().join("run/pods/default_a.json");
    let read = || -> Option<serde_json::Value> {
        serde_json::from_str(&std::fs::read_to_string(&file).ok()?).ok()
    };
    let is_shown = || read().is_some_and(|pod| pod["status"]["phase"] == "Running");
    node.until("a file that says that it runs", |_| is_shown().then_some(()));
    assert_eq!(read().unwrap()["metadata"]["uid"], node.pod("default/a").uid());
    node.end();
}

/// `tests/run` gets it from Debian's package `prometheus`, which the emulated machine is spared.
fn promtool_is_content(text: &str) {
    let spawned = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match spawned {
        Ok(promtool) => promtool,
        Err(_) if std::env::var_os("ROOST_VM").is_some() => return,
        Err(error) => panic!("promtool is missing, which tests/run gets: {error}"),
    };
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let said = promtool.wait_with_output().unwrap();
    assert!(said.status.success() && said.stderr.is_empty(), "{said:?}\n{text}");
}

/// How soon is a matter of `benches/`, on a machine that does nothing else.
#[test]
fn scrapes_are_answered_while_three_hundred_pods_start() {
    let node = Node::started();
    let pods: Vec<Asked> = (0..300).map(|n| Asked::one(&format!("p{n}"), FOREVER)).collect();
    let keys: Vec<String> = pods.iter().map(Asked::key).collect();
    for pod in &pods {
        node.ask_for(pod);
    }
    for count in 1.. {
        let (code, text) = node.ask("GET", "/metrics");
        assert_eq!(code, 200);
        let running = text.as_str().unwrap().lines().find_map(|line| {
            line.strip_prefix("roost_pods{phase=\"Running\"} ")?.parse::<usize>().ok()
        });
        if running == Some(keys.len()) {
            break;
        }
        assert!(count < 100_000, "they do not run:\n{}", node.agent_log());
    }
    node.until_all_run(&keys);
    node.end();
}

#[test]
fn the_logs_of_all_pods_together_are_limited_and_nothing_that_is_written_goes() {
    let mut node = Node::new();
    node.set_env("ROOST_LOGS_FILE_BYTES", "200k");
    node.set_env("ROOST_LOGS_NODE_BYTES", "1Mi");
    node.start();
    // Each would keep a megabyte for itself.
    let talk = |name: &str| format!("seq 1 200000; echo through > {OUT}/{name}; {FOREVER}");
    let pods = ["a", "b", "c"].map(|name| Asked::one(name, &talk(name)).sharing(&node.out()));
    for pod in &pods {
        node.ask_for(pod);
    }
    let keys: Vec<String> = pods.iter().map(Asked::key).collect();
    let running = node.until_all_run(&keys);
    let volume = || -> u64 {
        let logs = keys.iter().map(|key| node.log(&running[key], "main", 0));
        let files = logs.flat_map(|log| std::fs::read_dir(log.parent().unwrap()).unwrap());
        files.map(|file| file.unwrap().metadata().map_or(0, |metadata| metadata.len())).sum()
    };
    node.until("all said, and the logs small enough", |_| {
        let is_through = ["a", "b", "c"].iter().all(|name| node.out().join(name).exists());
        let removed = node.agent_log().contains("removed logs");
        (is_through && removed && volume() <= 1 << 20).then_some(())
    });
    node.end();
}

/// What `packaging/README.md` says about backups, on a node that lost everything else.
fn restored_from(copied_while: &str, stop: fn(&mut Node), start: fn(&mut Node)) {
    let mut node = Node::started();
    node.ask_for(&Asked::one("on", &alone("on", FOREVER)).sharing(&node.out()));
    let once = Asked::one("once", &alone("once", "exit 4")).policy("Never").sharing(&node.out());
    node.ask_for(&once);
    let before = node.until_running("default/on");
    node.until_through("default/once");

    let backup = node.dir.path().join("backup");
    std::fs::create_dir(&backup).unwrap();
    stop(&mut node);
    copy(&node.manifests(), &backup.join("pods.d"));
    copy(&node.root().join("data"), &backup.join("data"));
    start(&mut node);

    // Another machine, or this one after its disk was lost.
    node.until("rest", |_| (node.executors().len() == 1).then_some(()));
    let executors: Vec<Process> = node.executors().into_values().map(Process::of).collect();
    let containers = node.containers().into_iter().map(Process::of);
    let all: Vec<Process> = containers.collect();
    node.kill_agent();
    for executor in &executors {
        executor.kill();
    }
    let all: Vec<Process> = all.into_iter().chain(executors).collect();
    assert!(all.iter().all(|process| process.ends_within(soon())), "{copied_while}");
    for cgroup in node.cgroups().iter().rev() {
        let _has_others_below = std::fs::remove_dir(cgroup);
    }
    std::fs::remove_dir_all(node.root()).unwrap();
    std::fs::remove_dir_all(node.manifests()).unwrap();
    std::fs::create_dir(node.root()).unwrap();
    copy(&backup.join("pods.d"), &node.manifests());
    copy(&backup.join("data"), &node.root().join("data"));
    std::fs::remove_file(node.out().join("on.lock")).ok();

    node.start();
    let after = node.until_running("default/on");
    assert_eq!(after.uid(), before.uid(), "{copied_while}: the same instance goes on");
    assert_eq!(node.until_through("default/once").phase(), "Failed");
    let runs = std::fs::read_to_string(node.out().join("once.trace")).unwrap();
    assert_eq!(runs.matches("start").count(), 1, "{copied_while}: {runs}");
    assert_eq!(node.status()["alarms"], json!([]), "{copied_while}");
    node.end();
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success(), "{}", from.display());
}

#[test]
fn a_node_is_restored_from_a_copy_made_while_its_agent_was_stopped() {
    restored_from("stopped", Node::stop_agent, Node::start);
}

#[test]
fn a_node_is_restored_from_a_copy_made_while_its_agent_ran() {
    restored_from("running", |_| {}, |_| {});
}
