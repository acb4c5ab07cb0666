//! What people and programs do to manifest files and directories.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::harness::{Asked, FOREVER, Node, Pod, Process, manifest, until_lines, until_text};

/// A pod of two containers, written out; lines are counted in tests.
const GOOD: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: web
  labels:
    app: web
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      command: [sleep, \"1000\"]
      env:
        - name: COLOUR
          value: blue
    - name: side
      command: [sleep, \"1000\"]
";

/// The good manifest with one line replaced, and the line that is to be blamed.
fn broken(line: usize, by: &str, blamed: usize) -> (String, usize) {
    let lines: Vec<&str> = GOOD.lines().collect();
    let mut text = String::new();
    for (i, old) in lines.iter().enumerate() {
        text.push_str(if i + 1 == line { by } else { old });
        text.push('\n');
    }
    (text, blamed)
}

/// A hundred ways to spoil it: ten kinds in ten forms.
fn hundred_broken() -> Vec<(String, usize)> {
    let mut all = Vec::new();
    for i in 0..10 {
        let pad = " ".repeat(i);
        all.push(broken(8, &format!("  terminationGracePeriodSeconds: {i}s"), 8));
        all.push(broken(8, &format!("  terminationGracePeriodSeconds: {pad}-1"), 8));
        all.push(broken(11, &format!("      command: {pad}sleep"), 11));
        all.push(broken(10, &format!("    - name: {pad}Not_A_Name{i}"), 10));
        all.push(broken(15, &format!("    - name: {pad}main"), 15));
        all.push(broken(4, &format!("  name: {pad}\"web"), 4));
        all.push(broken(13, &format!("\t{pad}- name: COLOUR"), 13));
        all.push(broken(14, &format!("          value: [blue{i}]"), 14));
        all.push(broken(16, &format!("      command: [sleep, \"{i}\""), 16));
        all.push(broken(2, &format!("kind: Pod{i}"), 2));
    }
    all
}

/// Invariant 3.
#[test]
fn a_hundred_broken_versions_restart_nothing_and_each_is_told_with_its_line() {
    let node = Node::started();
    node.put("web.yaml", GOOD);
    let before = node.until_running("default/web");
    let all = hundred_broken();
    assert_eq!(all.len(), 100);
    for (text, line) in all {
        node.put("web.yaml", &text);
        let at = format!("web.yaml:{line}:");
        let problems = node.until(&format!("told of line {line} of\n{text}"), |pods| {
            let problems = pods.get("default/web")?.problems();
            problems.contains(&at).then_some(problems)
        });
        let status = node.status().to_string();
        assert!(status.contains(&at), "{problems}\n{status}");
    }
    let (code, out, err) =
        node.cli(&["validate", node.manifests().join("web.yaml").to_str().unwrap()]);
    assert_eq!(code, 1, "{out}{err}");
    assert!(format!("{out}{err}").contains("web.yaml:2:"), "{out}{err}");
    node.put("web.yaml", GOOD);
    let after = node.until("sound again", |pods| {
        let pod = pods.get("default/web")?;
        pod.problems().is_empty().then(|| pod.clone())
    });
    assert_same(&before, &after);
    node.end();
}

/// Nothing of the pod was started anew.
fn assert_same(before: &Pod, after: &Pod) {
    assert_eq!(after.uid(), before.uid(), "another instance");
    assert_eq!(after.processes(), before.processes(), "other processes");
    for container in after.containers() {
        assert_eq!(container["restartCount"], 0, "{container}");
    }
}

/// A change to another pod that is seen to have been acted on: everything that was done to the
/// manifests before has been looked at then.
fn beat(node: &Node, name: &str) {
    node.ask_for(&Asked::one(name, FOREVER));
    node.until_running(&format!("default/{name}"));
    node.remove(&format!("{name}.json"));
    node.until_gone(&format!("default/{name}"));
}

#[test]
fn a_file_that_is_renamed_restarts_nothing() {
    let mut node = Node::started();
    node.put("web.yaml", GOOD);
    let before = node.until_running("default/web");
    let path = |name: &str| node.manifests().join(name);
    let (old, new, last) = (path("web.yaml"), path("zebra.yml"), path("0.yaml"));
    fs::rename(&old, &new).unwrap();
    node.until("moved", |_| {
        node.said(&["describe", "pod", "web"]).contains("zebra.yml").then_some(())
    });
    beat(&node, "beat");
    assert_same(&before, &node.pod("default/web"));
    // And while there is no agent.
    node.kill_agent();
    fs::rename(&new, &last).unwrap();
    node.start();
    node.until("moved again", |_| {
        node.said(&["describe", "pod", "web"]).contains("0.yaml").then_some(())
    });
    assert_same(&before, &node.pod("default/web"));
    node.end();
}

#[test]
fn editors_and_copies_save_without_a_restart_and_their_other_files_count_for_nothing() {
    let node = Node::started();
    node.put("web.yaml", GOOD);
    let before = node.until_running("default/web");
    let path = node.manifests().join("web.yaml");
    let backup = node.manifests().join("web.yaml~");
    for round in 0..5 {
        let comment = format!("# saved {round}\n{GOOD}");
        // vim with `backup`: the old file moves away, a new one is written, the old one goes.
        let swap = node.manifests().join(".web.yaml.swp");
        fs::write(&swap, "b0VIM 8.2").unwrap();
        fs::rename(&path, &backup).unwrap();
        let mut file = fs::File::create(&path).unwrap();
        file.write_all(comment.as_bytes()).unwrap();
        file.sync_all().unwrap();
        drop(file);
        fs::remove_file(&backup).unwrap();
        fs::remove_file(&swap).unwrap();
        // `cp` and most editors: the file is emptied and written in place, in pieces.
        let mut file = fs::File::create(&path).unwrap();
        for piece in comment.as_bytes().chunks(97) {
            file.write_all(piece).unwrap();
            file.flush().unwrap();
        }
        drop(file);
        // Emacs, sed -i, rsync: a file apart, then renamed.
        let apart = node.manifests().join(format!(".web.yaml.{round}"));
        fs::write(&apart, &comment).unwrap();
        fs::rename(&apart, &path).unwrap();
        fs::copy(&path, node.manifests().join("web.yaml.bak")).unwrap();
        fs::copy(&path, &backup).unwrap();
    }
    beat(&node, "beat");
    let after = node.pod("default/web");
    assert_same(&before, &after);
    assert_eq!(after.problems(), "");
    assert_eq!(node.pods().len(), 1);
    node.end();
}

/// Invariant 3: only absence of the document in a file that parses deletes.
#[test]
fn a_document_that_is_removed_ends_its_pod_alone_and_a_broken_one_harms_no_other() {
    let node = Node::started();
    let text = |names: &[&str]| {
        let pods: Vec<String> = names.iter().map(|name| manifest(name, FOREVER)).collect();
        pods.join("---\n")
    };
    node.put("many.yaml", &text(&["a", "b", "c"]));
    let keys = ["default/a", "default/b", "default/c"].map(str::to_owned);
    let before = node.until_all_run(&keys);
    node.put("many.yaml", &text(&["a", "c"]));
    node.until_gone("default/b");
    // The first document is broken: its pod stays, a new one behind it starts.
    let faulty =
        text(&["a", "c", "d"]).replacen("restartPolicy: Always", "restartPolicy: Alway", 1);
    node.put("many.yaml", &faulty);
    node.until_running("default/d");
    for key in ["default/a", "default/c"] {
        assert_same(&before[key], &node.pod(key));
    }
    assert!(
        node.pod("default/a").problems().contains("many.yaml:7:"),
        "{:?}",
        node.pod("default/a")
    );
    // With a fault in the file a missing document is no proof of a deletion.
    node.put("many.yaml", &faulty.replacen("name: c", "name: e", 1));
    node.until_running("default/e");
    assert_same(&before["default/c"], &node.pod("default/c"));
    node.put("many.yaml", &text(&["a"]));
    for key in ["default/c", "default/d", "default/e"] {
        node.until_gone(key);
    }
    assert_same(&before["default/a"], &node.pod("default/a"));
    node.end();
}

/// Invariant 8.
#[test]
fn of_two_files_that_claim_a_pod_the_one_that_has_it_keeps_it_and_both_are_named() {
    let mut node = Node::started();
    let with = |colour: &str| GOOD.replace("blue", colour);
    node.put("m.yaml", &with("blue"));
    let before = node.until_running("default/web");
    node.put("a.yaml", &with("red"));
    let named = |pod: &Pod| pod.problems().contains("a.yaml") && pod.problems().contains("m.yaml");
    node.until("both named", |pods| named(pods.get("default/web")?).then_some(()));
    assert_same(&before, &node.pod("default/web"));
    // It stays so over a restart of the agent.
    node.kill_agent();
    node.start();
    node.until("both named", |pods| named(pods.get("default/web")?).then_some(()));
    assert_same(&before, &node.pod("default/web"));
    // Who has it breaks: it has it still.
    node.put("m.yaml", &with("blue").replace("command", "commando"));
    node.until("told", |pods| {
        pods.get("default/web")?.problems().contains("m.yaml:11").then_some(())
    });
    assert_same(&before, &node.pod("default/web"));
    node.remove("m.yaml");
    let after = node.until("taken over", |pods| {
        let pod = pods.get("default/web")?;
        (pod.is_running() && pod.restarts("main") == 1).then(|| pod.clone())
    });
    assert_eq!(after.uid(), before.uid());
    assert_eq!(after.problems(), "");
    node.end();
}

/// Invariant 5, for what it says of what need not be stopped.
#[test]
fn a_change_restarts_what_it_concerns_and_nothing_else() {
    let node = Node::started();
    node.put("web.yaml", GOOD);
    let first = node.until_running("default/web");
    let revision = |text: &str| {
        node.put("web.yaml", text);
        beat(&node, "beat");
        node.until_running("default/web")
    };
    // Comments and the order of keys: no revision at all.
    let same = format!(
        "# comment\n{}",
        GOOD.replace("metadata:\n  name: web\n", "metadata:\n  name: web # web\n")
    );
    assert_same(&first, &revision(&same));
    // Labels, limits, grace: in place.
    let labelled = GOOD.replace("app: web", "app: other");
    let pod = revision(&labelled);
    assert_same(&first, &pod);
    assert_eq!(pod.0["metadata"]["labels"]["app"], "other");
    let limited = GOOD.replace(
        "    - name: side\n",
        "      resources: { limits: { memory: 64Mi, cpu: 500m } }\n    - name: side\n",
    );
    assert_same(&first, &revision(&limited));
    assert_eq!(memory_limit(&node, "main", 0), Some(64 << 20));
    let limited = limited.replace("64Mi", "96Mi").replace("Seconds: 1", "Seconds: 2");
    assert_same(&first, &revision(&limited));
    assert_eq!(memory_limit(&node, "main", 0), Some(96 << 20));
    // A variable: that container.
    let coloured = limited.replace("blue", "red");
    let pod = node_changed(&node, &coloured, "main");
    assert_eq!(pod.uid(), first.uid());
    assert_eq!(pod.processes()["side"], first.processes()["side"]);
    // A container more, and one less.
    let more = format!("{coloured}    - name: more\n      command: [sleep, \"1000\"]\n");
    node.put("web.yaml", &more);
    let with_more = node.until("more", |pods| {
        let pod = pods.get("default/web")?;
        (pod.is_running() && pod.pids().len() == 3).then(|| pod.clone())
    });
    if with_more.uid() == first.uid() {
        assert_eq!(with_more.processes()["side"], first.processes()["side"]);
        assert_eq!(with_more.processes()["main"], pod.processes()["main"]);
    }
    node.put("web.yaml", &coloured);
    let pod = node.until("less", |pods| {
        let pod = pods.get("default/web")?;
        (pod.is_running() && pod.pids().len() == 2).then(|| pod.clone())
    });
    // The host name: a new instance, and never two of them at once.
    let moved = coloured.replace("spec:\n", "spec:\n  hostname: elsewhere\n");
    node.put("web.yaml", &moved);
    let last = node.until("a new instance", |pods| {
        let new = pods.get("default/web")?;
        (new.is_running() && new.uid() != pod.uid()).then(|| new.clone())
    });
    assert!(last.containers().iter().all(|c| c["restartCount"] == 0), "{last:?}");
    node.end();
}

fn node_changed(node: &Node, text: &str, container: &str) -> Pod {
    node.put("web.yaml", text);
    node.until("restarted", |pods| {
        let pod = pods.get("default/web")?;
        (pod.is_running() && pod.restarts(container) == 1).then(|| pod.clone())
    })
}

/// In place unless the container asks for a restart, and for the pod as a whole as for each.
#[test]
fn a_limit_of_the_whole_pod_is_changed_in_place_and_a_resize_policy_restarts() {
    let node = Node::started();
    let text = |of_pod: &str, of_main: &str| {
        let whole = format!("spec:\n  resources: {{ limits: {{ memory: {of_pod} }} }}\n");
        let own = format!(
            "      resources: {{ limits: {{ memory: {of_main} }} }}
      resizePolicy: [{{ resourceName: memory, restartPolicy: RestartContainer }}]
    - name: side\n"
        );
        GOOD.replace("spec:\n", &whole).replace("    - name: side\n", &own)
    };
    node.put("web.yaml", &text("128Mi", "64Mi"));
    let first = node.until_running("default/web");
    let limits = || [0, 1].map(|up| memory_limit(&node, "main", up).map(|bytes| bytes >> 20));
    assert_eq!(limits(), [Some(64), Some(128)]);
    node.put("web.yaml", &text("96Mi", "64Mi"));
    beat(&node, "beat");
    assert_same(&first, &node.until_running("default/web"));
    assert_eq!(limits(), [Some(64), Some(96)]);
    let pod = node_changed(&node, &text("96Mi", "48Mi"), "main");
    assert_eq!((pod.uid(), limits()), (first.uid(), [Some(48), Some(96)]));
    assert_eq!(pod.processes()["side"], first.processes()["side"]);
    node.end();
}

/// The limit that the kernel has for a container, or for what is so many levels above, in bytes.
fn memory_limit(node: &Node, container: &str, up: usize) -> Option<u64> {
    let pid = node.pod("default/web").pids()[container];
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let read = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse().ok();
    cgroups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let path = Path::new(path.trim_start_matches('/')).ancestors().nth(up)?;
        match controllers {
            "memory" => {
                let top = PathBuf::from("/sys/fs/cgroup/memory").join(path);
                read(top.join("memory.limit_in_bytes"))
            }
            "" => read(PathBuf::from("/sys/fs/cgroup").join(path).join("memory.max")),
            _ => None,
        }
    })
}

/// Puts something in the place of the manifest directory.
type Spoil = fn(&PathBuf);

/// Invariant 4.
#[test]
fn a_directory_that_is_gone_replaced_or_a_file_stops_nothing_and_raises_an_alarm() {
    let mut node = Node::started();
    let keys: Vec<String> = (0..3).map(|i| format!("default/pod{i}")).collect();
    for i in 0..3 {
        node.ask_for(&Asked::one(&format!("pod{i}"), FOREVER));
    }
    let before = node.until_all_run(&keys);
    let (here, away) = (node.manifests(), node.dir.path().join("away"));
    let spoil: [(&str, Spoil); 3] = [
        ("can't be read", |_| ()),
        ("another one than before, and empty", |path| fs::create_dir(path).unwrap()),
        ("can't be read", |path| fs::write(path, "no directory").unwrap()),
    ];
    for restart in [false, true] {
        for (alarm, spoil) in spoil {
            fs::rename(&here, &away).unwrap();
            spoil(&here);
            if restart {
                node.kill_agent();
                node.start_unready();
                node.wait_ready();
            }
            until_status(&node, |status| status.contains(alarm));
            let (code, shown, _) = node.cli(&["status"]);
            assert!(code == 1 && shown.contains(alarm), "{shown}");
            for key in &keys {
                assert_same(&before[key], &node.until_running(key));
            }
            // Whatever was put there goes away, and the old directory comes back.
            let _none = fs::remove_dir(&here).or_else(|_| fs::remove_file(&here));
            fs::rename(&away, &here).unwrap();
            until_status(&node, |status| !status.contains(alarm));
            for key in &keys {
                assert_same(&before[key], &node.pod(key));
            }
        }
    }
    // Every file deleted in the same directory: that was meant.
    for i in 0..3 {
        node.remove(&format!("pod{i}.json"));
    }
    for key in &keys {
        node.until_gone(key);
    }
    node.end();
}

/// Waits for the status of the agent; it has no watch of its own, but changes with the pods' or
/// within a relist.
fn until_status(node: &Node, condition: impl Fn(&str) -> bool) {
    let deadline = std::time::Instant::now() + crate::harness::soon() * 2;
    let agent = Process::of(node.agent_pid());
    while !condition(&node.status().to_string()) {
        assert!(std::time::Instant::now() < deadline, "{}", node.status());
        assert!(!agent.ends_within(std::time::Duration::from_millis(20)), "the agent ended");
    }
}

/// Invariant 4: an atomic switch to another directory that has manifests is an edit like any other.
#[test]
fn a_directory_reached_through_a_link_is_switched_as_a_whole() {
    let node = Node::new();
    let (link, first, second) =
        (node.manifests(), node.dir.path().join("one"), node.dir.path().join("two"));
    fs::remove_dir(&link).unwrap();
    for (directory, pods) in [(&first, ["same", "old"]), (&second, ["same", "new"])] {
        fs::create_dir(directory).unwrap();
        for pod in pods {
            let asked = Asked::one(pod, FOREVER);
            fs::write(directory.join(asked.file()), asked.text()).unwrap();
        }
    }
    std::os::unix::fs::symlink(&first, &link).unwrap();
    let mut node = node;
    node.start();
    let before = node.until_running("default/same");
    node.until_running("default/old");
    let apart = node.dir.path().join("link");
    std::os::unix::fs::symlink(&second, &apart).unwrap();
    fs::rename(&apart, &link).unwrap();
    node.until_running("default/new");
    node.until_gone("default/old");
    assert_same(&before, &node.pod("default/same"));
    node.end();
}

#[test]
fn what_happens_to_the_files_while_there_is_no_agent_counts_afterwards() {
    let mut node = Node::started();
    let names = ["gone", "edited", "broken", "moved", "same"];
    for name in names {
        node.ask_for(&Asked::one(name, FOREVER));
    }
    let keys = names.map(|name| format!("default/{name}"));
    let before = node.until_all_run(&keys);
    node.kill_agent();
    node.remove("gone.json");
    let edited = Asked::one("edited", FOREVER).with("/spec/containers/0/workingDir", json!("/"));
    node.ask_for(&edited);
    node.put("broken.json", "{ \"apiVersion\": \"v1\",\n  \"kind\": ");
    fs::rename(node.manifests().join("moved.json"), node.manifests().join("a.json")).unwrap();
    node.ask_for(&Asked::one("new", FOREVER));
    node.start();
    node.until_gone("default/gone");
    node.until_running("default/new");
    let after = node.until("edited", |pods| {
        let pod = pods.get("default/edited")?;
        (pod.is_running() && pod.restarts("main") == 1).then(|| pod.clone())
    });
    assert_eq!(after.uid(), before["default/edited"].uid());
    for key in ["default/broken", "default/moved", "default/same"] {
        assert_same(&before[key], &node.pod(key));
    }
    let problems = node.pod("default/broken").problems();
    assert!(problems.contains("broken.json:2:"), "{problems}");
    node.end();
}

/// A pod that went and came back at once is a new one, started only when the old one is gone.
#[test]
fn a_pod_that_is_removed_and_put_back_at_once_never_runs_twice() {
    let node = Node::started();
    let script =
        crate::harness::alone("quick", "trap '' TERM; while :; do sleep 1000 & wait; done");
    let asked = Asked::one("quick", &script).sharing(&node.out());
    node.ask_for(&asked);
    let mut pod = node.until_running("default/quick");
    let trace = node.out().join("quick.trace");
    for round in 1..=5 {
        until_lines(&trace, round);
        node.remove("quick.json");
        node.until("going", |pods| {
            let old = pods.get("default/quick");
            let is_going = |old: &Pod| {
                old.uid() != pod.uid() || old.0["metadata"]["deletionTimestamp"].is_string()
            };
            old.is_none_or(is_going).then_some(())
        });
        node.ask_for(&asked);
        pod = node.until("back", |pods| {
            let new = pods.get("default/quick")?;
            (new.is_running() && new.uid() != pod.uid()).then(|| new.clone())
        });
        until_lines(&trace, round + 1);
    }
    assert_eq!(fs::read_to_string(trace).unwrap(), "start\n".repeat(6));
    node.end();
}

/// Invariant 7. A change of what is wanted of a pod ends its back-off; what is done to other files
/// does not, or a directory that is touched all the time would leave none.
#[test]
fn a_pod_in_trouble_is_tried_again_at_once_when_its_manifest_changes_and_only_then() {
    let node = Node::started();
    // No executor can be started while there is no room for its socket.
    let sockets = node.root().join("run/pods");
    fs::remove_dir(&sockets).unwrap();
    fs::write(&sockets, "").unwrap();
    node.ask_for(&Asked::one("waits", FOREVER));
    let waits_until = |what: &[&str]| {
        let log = node.root().with_file_name("agent.log");
        until_text(&log, &what.join(", then "), |text| {
            let found: Vec<&str> = text
                .split("retry_in=")
                .skip(1)
                .filter_map(|rest| rest.split_whitespace().next())
                .take(what.len())
                .collect();
            assert!(what.starts_with(&found), "{found:?} is not {what:?}:\n{text}");
            (found.len() == what.len()).then_some(())
        });
    };
    waits_until(&["500ms", "1s", "2s", "4s"]);
    node.put("other.json", "no manifest");
    let log = node.root().with_file_name("agent.log");
    until_text(&log, "seen", |text| text.contains("other.json").then_some(()));
    let changed = Asked::one("waits", FOREVER).with("/metadata/labels", json!({ "a": "b" }));
    node.ask_for(&changed);
    waits_until(&["500ms", "1s", "2s", "4s", "500ms", "1s"]);
    fs::remove_file(&sockets).unwrap();
    node.until_running("default/waits");
    node.end();
}

/// Invariant 4: the handle of the directory is kept, so that it is known to be the same.
#[test]
fn a_directory_that_was_emptied_while_there_was_no_agent_deletes() {
    let mut node = Node::started();
    node.ask_for(&Asked::one("last", FOREVER));
    node.until_running("default/last");
    node.stop_agent();
    node.remove("last.json");
    node.start();
    node.until_gone("default/last");
    node.end();
}
