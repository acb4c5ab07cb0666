//! From a manifest to running containers, and all the ways in which they end.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use roost::state::store::{Opening, open_or_rebuild};
use serde_json::json;

use crate::harness::{
    Asked, FOREVER, Node, OUT, Pod, Process, alone, slowness, soon, until_lines, until_text, uptime,
};

/// How soon the quick start must run, on any machine.
const QUICK: Duration = Duration::from_secs(10);

#[test]
fn the_quick_start_runs_soon_and_comes_back_after_a_kill() {
    let node = Node::started();
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("specs/quickstart/hello.yaml");
    let text = std::fs::read_to_string(sample).unwrap();
    let began = Instant::now();
    node.put("hello.yaml", &text);
    let pod = node.until_running("default/hello");
    let took = began.elapsed();
    println!("quick start: running {} ms after the rename", took.as_millis());
    assert!(took < QUICK * slowness(), "{took:?}");
    assert_eq!(pod.phase(), "Running");

    until_text(&node.log(&pod, "visitor", 0), "greeted", |text| {
        text.contains("web says: hello at").then_some(())
    });
    assert!(node.said(&["logs", "hello", "-c", "web"]).contains("web is up"));
    assert!(node.said(&["logs", "hello", "-c", "visitor"]).contains("web says: hello at"));
    let table = node.said(&["get", "pods"]);
    assert!(
        table.contains("hello") && table.contains("Running") && table.contains("2/2"),
        "{table}"
    );

    let before = pod.processes();
    Process::of(pod.pids()["web"]).kill();
    let after = node.until("back", |pods| {
        let pod = pods.get("default/hello")?;
        (pod.restarts("web") == 1 && pod.is_running()).then(|| pod.clone())
    });
    assert_ne!(after.processes()["web"], before["web"]);
    assert_eq!(after.processes()["visitor"], before["visitor"]);
    assert_eq!(after.uid(), pod.uid());
    assert_eq!(after.ended("web")["exitCode"], 137, "{after:?}");
    assert!(node.said(&["describe", "pod", "hello"]).contains("137"));
    node.end();
}

/// Invariant 7: a back-off is persisted.
#[test]
fn a_crash_loop_backs_off_over_an_agent_restart_and_says_so() {
    let mut node = Node::started();
    let starts = node.out().join("starts");
    let script = format!("read up rest < /proc/uptime; echo $up >> {OUT}/starts; exit 3");
    let pod = Asked::one("loop", &script).annotation("roost/backoff-initial", "500ms");
    node.ask_for(&pod.sharing(&node.out()));
    until_lines(&starts, 3);
    node.kill_agent();
    until_lines(&starts, 4);
    node.start();
    let pod = node.until("backing off", |pods| {
        let pod = pods.get("default/loop")?;
        (pod.waiting("main") == "CrashLoopBackOff").then(|| pod.clone())
    });
    assert_eq!(pod.ended("main")["exitCode"], 3, "{pod:?}");
    assert!(pod.restarts("main") >= 3, "{pod:?}");
    assert!(node.said(&["get", "pods"]).contains("CrashLoopBackOff"));
    let times: Vec<f64> =
        until_lines(&starts, 5).iter().map(|line| line.parse().unwrap()).collect();
    for (gap, least) in times.windows(2).zip([0.5, 1.0, 2.0, 4.0]) {
        // The resolution of /proc/uptime is 10 ms.
        assert!(gap[1] - gap[0] >= least - 0.01, "{times:?}");
    }
    node.end();
}

/// The back-off outlives the executor as well.
#[test]
fn a_crash_loop_goes_on_where_it_was_when_its_executor_is_killed() {
    let node = Node::started();
    let starts = node.out().join("starts");
    let script = format!("read up rest < /proc/uptime; echo $up >> {OUT}/starts; exit 3");
    let pod = Asked::one("loop", &script).annotation("roost/backoff-initial", "1s");
    node.ask_for(&pod.sharing(&node.out()));
    until_lines(&starts, 3);
    node.until("recorded", |pods| {
        (pods["default/loop"].waiting("main") == "CrashLoopBackOff"
            && pods["default/loop"].restarts("main") == 2)
            .then_some(())
    });
    Process::of(node.executors()["default/loop"]).kill();
    let times: Vec<f64> =
        until_lines(&starts, 4).iter().map(|line| line.parse().unwrap()).collect();
    assert!(times[3] - times[2] >= 3.99, "{times:?}");
    node.end();
}

/// Invariant 1: a run-once container whose exit is recorded never runs again.
#[test]
fn a_run_once_pod_runs_once_and_needs_no_executor_then() {
    let mut node = Node::started();
    for (name, code) in [("good", 0), ("bad", 7)] {
        let script = alone(name, &format!("exit {code}"));
        node.ask_for(&Asked::one(name, &script).policy("Never").sharing(&node.out()));
    }
    assert_eq!(node.until_through("default/good").phase(), "Succeeded");
    let bad = node.until_through("default/bad");
    assert_eq!(bad.phase(), "Failed");
    assert_eq!(bad.ended("main")["exitCode"], 7, "{bad:?}");
    node.until("rest", |_| node.processes().is_empty().then_some(()));
    for kill in [true, false] {
        if kill {
            node.kill_agent();
        } else {
            node.stop_agent();
        }
        node.start();
        assert_eq!(node.pod("default/good").phase(), "Succeeded");
        assert_eq!(node.pod("default/bad").phase(), "Failed");
        assert_eq!(node.pod("default/bad").ended("main")["exitCode"], 7);
    }
    // Something else that is started now would be started after a mistaken second run.
    node.ask_for(&Asked::one("later", FOREVER));
    node.until_running("default/later");
    for name in ["good", "bad"] {
        let trace = std::fs::read_to_string(node.out().join(format!("{name}.trace"))).unwrap();
        assert_eq!(trace, "start\n");
    }
    node.end();
}

#[test]
fn a_pod_is_run_until_it_succeeds_if_asked_so() {
    let node = Node::started();
    let count = format!("echo run >> {OUT}/runs; [ `wc -l < {OUT}/runs` -ge 3 ]");
    let pod = Asked::one("stubborn", &count).policy("OnFailure");
    node.ask_for(&pod.annotation("roost/backoff-initial", "100ms").sharing(&node.out()));
    let pod = node.until_through("default/stubborn");
    assert_eq!(pod.phase(), "Succeeded");
    assert_eq!(pod.restarts("main"), 2);
    assert_eq!(until_lines(&node.out().join("runs"), 3).len(), 3);
    node.end();
}

#[test]
fn a_container_over_its_memory_is_told_so() {
    let node = Node::started();
    let pod = Asked::one("hog", "exec tail /dev/zero")
        .container("neighbour", "exit 0")
        .policy("Never")
        .with("/spec/containers/0/resources", json!({ "limits": { "memory": "16Mi" } }));
    node.ask_for(&pod);
    let pod = node.until_through("default/hog");
    assert_eq!(pod.ended("main")["reason"], "OOMKilled", "{pod:?}");
    assert_eq!(pod.ended("main")["exitCode"], 137, "{pod:?}");
    assert_eq!(pod.ended("neighbour")["reason"], "Completed", "{pod:?}");
    node.end();
}

/// Invariant 10: the grace period is on the steady clock, so it is measured on that.
#[test]
fn containers_that_ignore_the_stop_signal_are_killed_after_their_grace_and_never_before() {
    let node = Node::started();
    let deaf = "trap '' TERM; while :; do sleep 1000; done";
    let names: Vec<String> = (0..10).map(|n| format!("deaf{n}")).collect();
    for name in &names {
        let pod =
            (1..10).fold(Asked::one(name, deaf), |pod, n| pod.container(&format!("c{n}"), deaf));
        node.ask_for(&pod.with("/spec/terminationGracePeriodSeconds", json!(2)));
    }
    let polite =
        Asked::one("polite", FOREVER).with("/spec/terminationGracePeriodSeconds", json!(2));
    node.ask_for(&polite);
    let ended = |pid: u32, began: f64| {
        Process::of(pid).wait_end();
        uptime() - began
    };
    let mut killed = std::thread::scope(|scope| {
        let waits: Vec<_> = names
            .iter()
            .flat_map(|name| {
                let pids = node.until_running(&format!("default/{name}")).pids();
                assert_eq!(pids.len(), 10);
                let began = uptime();
                node.remove(&format!("{name}.json"));
                pids.into_values().map(move |pid| scope.spawn(move || ended(pid, began)))
            })
            .collect();
        waits.into_iter().map(|wait| wait.join().unwrap()).collect::<Vec<f64>>()
    });
    killed.sort_by(f64::total_cmp);
    let polite = node.until_running("default/polite").pids()["main"];
    let began = uptime();
    node.remove("polite.json");
    let asked = ended(polite, began);
    let (first, median, p99) = (killed[0], killed[50], killed[98]);
    println!(
        "grace of 2 s, 100 containers: killed after {first:.3} s at the earliest, {median:.3} s in \
         the median, {p99:.3} s p99; one that heeds the signal ends after {asked:.3} s"
    );
    assert!(first >= 2.0, "killed early: {first}");
    for name in &names {
        node.until_gone(&format!("default/{name}"));
    }
    node.end();
}

/// Invariants 1 and 6: with an executor everything of its containers dies; then they run anew.
#[test]
fn an_executor_that_is_killed_takes_its_containers_along_and_the_pod_is_started_anew() {
    let node = Node::started();
    let script = |name| alone(name, "sleep 1000 & sleep 1000");
    let pod = Asked::pod("firm").container("a", &script("a")).container("b", &script("b"));
    node.ask_for(&pod.sharing(&node.out()));
    let once = Asked::one("once", &alone("once", FOREVER)).policy("Never");
    node.ask_for(&once.sharing(&node.out()));
    let before = node.until_running("default/firm");
    for name in ["a", "b", "once"] {
        until_lines(&node.out().join(format!("{name}.trace")), 1);
    }
    let processes: Vec<Process> = before.pids().values().map(|pid| Process::of(*pid)).collect();
    for executor in node.executors().values() {
        Process::of(*executor).kill();
    }
    processes.iter().for_each(Process::wait_end);
    let after = node.until("anew", |pods| {
        let pod = pods.get("default/firm")?;
        (pod.is_running() && pod.pids() != before.pids()).then(|| pod.clone())
    });
    assert_eq!(after.uid(), before.uid());
    assert_eq!(after.restarts("a"), 1, "{after:?}");
    let once = node.until_through("default/once");
    assert_eq!(once.phase(), "Failed");
    assert_eq!(once.ended("main")["exitCode"], 137, "{once:?}");
    for (name, expected) in [("a", "start\nstart\n"), ("b", "start\nstart\n"), ("once", "start\n")]
    {
        let trace = node.out().join(format!("{name}.trace"));
        until_lines(&trace, expected.lines().count());
        assert_eq!(std::fs::read_to_string(trace).unwrap(), expected, "{name}");
    }
    node.end();
}

#[test]
fn executors_that_are_killed_while_there_is_no_agent_are_made_good_by_the_next() {
    let mut node = Node::started();
    node.ask_for(&Asked::one("firm", &alone("firm", FOREVER)).sharing(&node.out()));
    let once = Asked::one("once", &alone("once", FOREVER)).policy("Never");
    node.ask_for(&once.sharing(&node.out()));
    let before = node.until_running("default/firm");
    for name in ["firm", "once"] {
        until_lines(&node.out().join(format!("{name}.trace")), 1);
    }
    let executors = node.executors();
    let containers: Vec<Process> = node.containers().into_iter().map(Process::of).collect();
    assert!(containers.len() >= 2);
    node.kill_agent();
    let dead: Vec<Process> = executors.values().map(|pid| Process::of(*pid)).collect();
    dead.iter().for_each(Process::kill);
    dead.iter().for_each(Process::wait_end);
    // Nobody but the kernel is there to end them.
    containers.iter().for_each(Process::wait_end);
    node.start();
    let after = node.until_running("default/firm");
    assert_eq!(after.uid(), before.uid());
    assert_eq!(node.until_through("default/once").phase(), "Failed");
    for (name, expected) in [("firm", "start\nstart\n"), ("once", "start\n")] {
        let trace = node.out().join(format!("{name}.trace"));
        until_lines(&trace, expected.lines().count());
        assert_eq!(std::fs::read_to_string(trace).unwrap(), expected, "{name}");
    }
    node.end();
}

/// Invariant 2: without an agent no exit is lost, no line of a log, and restarts go on.
#[test]
fn nothing_is_lost_while_there_is_no_agent() {
    let mut node = Node::started();
    let lines = "for i in `seq 1 400`; do echo line $i; sleep 0.01; done; exit 5";
    node.ask_for(&Asked::one("talker", lines).policy("Never"));
    let again = format!("echo run >> {OUT}/runs; exit 1");
    let again = Asked::one("again", &again).annotation("roost/backoff-initial", "100ms");
    node.ask_for(&again.annotation("roost/backoff-max", "200ms").sharing(&node.out()));
    let talker = node.until_running("default/talker");
    let process = Process::of(talker.pids()["main"]);
    for _ in 0..3 {
        node.kill_agent();
        let runs = until_lines(&node.out().join("runs"), 1).len();
        until_lines(&node.out().join("runs"), runs + 1);
        node.start();
    }
    node.kill_agent();
    process.wait_end();
    node.start();
    let talker = node.until_through("default/talker");
    assert_eq!(talker.ended("main")["exitCode"], 5);
    let expected: Vec<String> = (1..=400).map(|i| format!("line {i}")).collect();
    assert_eq!(node.output(&talker, "main", 0), expected);
    assert_eq!(node.said(&["logs", "talker"]).lines().collect::<Vec<_>>(), expected);
    node.end();
}

/// Invariant 6: after a pod is deleted nothing of it is left ([`Node::end`] proves it as well).
#[test]
fn a_pod_whose_file_is_deleted_leaves_nothing_while_others_go_on() {
    let mut node = Node::started();
    let shared = json!({ "name": "shared", "emptyDir": { "medium": "Memory" } });
    let going = Asked::one("going", FOREVER)
        .container("forks", "(sleep 1000 &) ; setsid sleep 1000 & sleep 1000")
        .mounting(&shared, "/opt");
    node.ask_for(&going);
    node.ask_for(&Asked::one("staying", FOREVER));
    let staying = node.until_running("default/staying");
    let going = node.until_running("default/going");
    let uid = going.uid();
    let of_it = |node: &Node| -> Vec<String> {
        let is_its = |path: &Path| path.to_string_lossy().contains(&uid);
        let cgroups = node.cgroups().into_iter().filter(|path| is_its(path));
        let places = ["data/pods", "run/pods", "logs"].map(|place| node.root().join(place));
        let directories = places.iter().flat_map(|place| std::fs::read_dir(place).unwrap());
        let directories = directories.map(|entry| entry.unwrap().path()).filter(|p| is_its(p));
        cgroups.chain(directories).map(|path| path.display().to_string()).collect()
    };
    assert!(of_it(&node).len() >= 4, "{:?}", of_it(&node));
    node.remove("going.json");
    node.until_gone("default/going");
    assert_eq!(of_it(&node), Vec::<String>::new());
    assert_eq!(node.executors().len(), 1);
    assert_eq!(node.pod("default/staying").processes(), staying.processes());
    node.stop_agent();
    let (store, opening) = open_or_rebuild(&node.root().join("data/state")).unwrap();
    let Opening::Loaded(contents) = opening else { panic!("{opening:?}") };
    let recorded: Vec<String> = contents.pods.keys().map(ToString::to_string).collect();
    assert_eq!(recorded, [staying.uid()]);
    drop(store);
    node.start();
    node.end();
}

#[test]
fn the_api_deletes_a_pod_by_its_file_and_refuses_one_of_several() {
    let node = Node::started();
    let both = |a: &str, b: &str| {
        let pod = |name| crate::harness::manifest(name, FOREVER);
        format!("{}---\n{}", pod(a), pod(b))
    };
    node.put("two.yaml", &both("one", "two"));
    node.ask_for(&Asked::one("alone", FOREVER));
    for key in ["default/one", "default/two", "default/alone"] {
        node.until_running(key);
    }
    let (code, _, err) = node.cli(&["delete", "pod", "one"]);
    assert_eq!(code, 1);
    assert!(err.contains("two.yaml"), "{err}");
    node.said(&["delete", "pod", "alone", "--wait"]);
    assert!(!node.manifests().join("alone.json").exists());
    assert!(!node.pods().contains_key("default/alone"));
    let (code, _, err) = node.cli(&["delete", "pod", "alone"]);
    assert_eq!(code, 1, "{err}");
    assert!(node.until_running("default/one").is_running());
    node.end();
}

#[test]
fn containers_share_what_the_pod_says_and_nothing_else() {
    let node = Node::started();
    let host = |kind: &str| {
        std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string()
    };
    let kinds = ["net", "ipc", "uts", "pid", "mnt", "cgroup"];
    let script = "for n in net ipc uts pid mnt cgroup; do readlink /proc/self/ns/$n; done";
    let two = |name: &str| Asked::one(name, script).container("other", script).policy("Never");
    node.ask_for(&two("plain"));
    node.ask_for(&two("network").with("/spec/hostNetwork", json!(true)));
    node.ask_for(&two("together").with("/spec/shareProcessNamespace", json!(true)));
    // The same as the host, the same as the neighbour.
    let expected = [
        ("plain", [""; 6], ["net", "ipc", "uts", "", "", ""]),
        // A pod in the host's network has the host's name, as in Kubernetes.
        ("network", ["net", "", "uts", "", "", ""], ["net", "ipc", "uts", "", "", ""]),
        ("together", [""; 6], ["net", "ipc", "uts", "pid", "", ""]),
    ];
    for (name, as_host, as_neighbour) in expected {
        let pod = node.until_through(&format!("default/{name}"));
        let (main, other) = (node.output(&pod, "main", 0), node.output(&pod, "other", 0));
        assert_eq!(main.len(), kinds.len(), "{main:?}");
        for (i, kind) in kinds.into_iter().enumerate() {
            assert_eq!(main[i] == host(kind), as_host[i] == kind, "{name}: {kind} of the host");
            assert_eq!(main[i] == other[i], as_neighbour[i] == kind, "{name}: {kind} in the pod");
        }
    }
    node.end();
}

#[test]
fn containers_that_share_processes_see_each_other_and_volumes_carry_data() {
    let node = Node::started();
    let volume = json!({ "name": "shared", "emptyDir": {} });
    // The one waits for what the other writes; both are the same user.
    let writer = "echo hello > /opt/.word && mv /opt/.word /opt/word; sleep 1000";
    let reader = "while [ ! -e /opt/word ]; do sleep 0.02; done; cat /opt/word; \
         cat /proc/[0-9]*/cmdline | tr '\\0' ' '; echo; exec sleep 1000";
    let pod = Asked::one("together", writer)
        .container("reader", reader)
        .with("/spec/shareProcessNamespace", json!(true))
        .with("/spec/hostname", json!("nest"))
        .mounting(&volume, "/opt");
    node.ask_for(&pod);
    let pod = node.until_running("default/together");
    let text = until_text(&node.log(&pod, "reader", 0), "two lines", |text| {
        (text.lines().count() >= 2).then(|| text.to_owned())
    });
    assert!(text.contains("hello") && text.contains("/opt/.word"), "{text}");
    node.end();
}

/// Invariant 9.
#[test]
fn a_container_inherits_no_variable_no_descriptor_and_no_privilege_of_the_agent() {
    let mut node = Node::new();
    node.set_env("ROOST_TEST_SECRET", "do-not-leak");
    node.start();
    let script = "tr '\\0' '\\n' < /proc/self/environ; echo --; \
        for f in /proc/self/fd/*; do echo $f; done; echo --; \
        grep -E 'NoNewPrivs|Seccomp:|CapEff|CapBnd|SigBlk|SigIgn' /proc/self/status; \
        cat /proc/self/oom_score_adj; umask; touch /etc/x /usr/x && echo WROTE; ls /tmp /run";
    node.ask_for(&Asked::one("curious", script).policy("Never"));
    let pod = node.until_through("default/curious");
    let lines = node.output(&pod, "main", 0);
    let text = lines.join("\n");
    let parts: Vec<&[String]> = lines.split(|line| line == "--").collect();
    println!("{text}");
    assert!(!text.contains("do-not-leak") && !text.contains("NOTIFY_SOCKET"), "{text}");
    let names: BTreeSet<&str> =
        parts[0].iter().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    // What `tr` was given: of the shell's own there are PWD, OLDPWD, SHLVL and `_`.
    let known = ["HOME", "HOSTNAME", "MESOS_SANDBOX", "PATH", "PWD", "OLDPWD", "SHLVL", "_"];
    let unknown: Vec<_> = names.iter().filter(|name| !known.contains(name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    // The shell has the directory itself open while it lists it.
    let fds: Vec<&str> = parts[1].iter().map(|line| line.rsplit('/').next().unwrap()).collect();
    assert!(fds.iter().all(|fd| ["0", "1", "2", "3"].contains(fd)), "{fds:?}");
    for wanted in ["NoNewPrivs:\t1", "Seccomp:\t2", "SigBlk:\t0000000000000000"] {
        assert!(text.contains(wanted), "{text}");
    }
    assert!(text.contains("SigIgn:\t0000000000000000"), "{text}");
    assert!(!text.contains("CapEff:\t000001ff"), "{text}");
    assert!(!text.contains("WROTE"), "{text}");
    node.end();
}

/// Invariant 9: the ways of CVE-2019-5736.
#[test]
fn a_container_cannot_write_the_hosts_programs_through_proc() {
    let node = Node::started();
    let agent = Path::new(env!("CARGO_BIN_EXE_roost"));
    let programs = [agent.to_owned(), agent.with_file_name("roost-executor")];
    let state = || programs.each_ref().map(|path| std::fs::read(path).unwrap());
    let before = state();
    // Writing nothing is enough to be told whether one could; the second way outlives the process.
    let script = "for p in /proc/[0-9]*; do \
          ( : >> $p/exe ) 2>/dev/null && echo WROTE $p; \
          ( exec 5< $p/exe; : >> /proc/self/fd/5 ) 2>/dev/null && echo WROTE2 $p; \
          ( : >> $p/root/opt/written ) 2>/dev/null && echo ROOT $p; \
        done; echo through; sleep 1000";
    let shared = Asked::one("shared", script).with("/spec/shareProcessNamespace", json!(true));
    node.ask_for(&shared.container("idle", FOREVER));
    let host = Asked::one("host", script).with("/spec/hostPID", json!(true));
    node.ask_for(&host);
    for key in ["default/shared", "default/host"] {
        let pod = node.until_running(key);
        let text = until_text(&node.log(&pod, "main", 0), "through", |text| {
            text.contains("through").then(|| text.to_owned())
        });
        assert!(!text.contains("WROTE"), "{key}: {text}");
        // Of a container of the same rights it may see everything; not of whoever has more.
        let mighty = node.executors().into_values().chain([1, node.agent_pid()]);
        let reached: Vec<u32> = match key {
            "default/shared" => text.contains("ROOT").then_some(0).into_iter().collect(),
            _ => mighty.filter(|pid| text.contains(&format!("ROOT /proc/{pid}\n"))).collect(),
        };
        assert!(reached.is_empty(), "{reached:?}: {text}");
    }
    assert!(state() == before, "a program was written");
    // The last of the walls, by itself: even who could open it finds a read-only mount.
    for pid in node.executors().into_values() {
        let exe = std::fs::File::open(format!("/proc/{pid}/exe")).unwrap();
        let mount = rustix::fs::fstatvfs(exe).unwrap().f_flag;
        assert!(mount.contains(rustix::fs::StatVfsMountFlags::RDONLY), "{mount:?}");
    }
    node.end();
}

/// Invariant 8, and the bounds of invariant 12: many ends at once are all told right.
#[test]
fn two_hundred_containers_that_end_at_once_are_all_told_right() {
    let node = Node::started();
    let gate = node.out().join("gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let keys: Vec<String> = (0..4).map(|pod| format!("default/many{pod}")).collect();
    for pod in 0..4 {
        let mut asked = Asked::pod(&format!("many{pod}")).policy("Never");
        for i in 0..50 {
            // Opening a fifo waits for its writer; reading ends when that closes it.
            let script = format!("read word < {OUT}/gate; exit {i}");
            asked = asked.container(&format!("c{i}"), &script);
        }
        node.ask_for(&asked.sharing(&node.out()));
    }
    node.until_all_run(&keys);
    // For reading as well, so that opening does not wait.
    drop(std::fs::File::options().read(true).write(true).open(&gate).unwrap());
    let began = Instant::now();
    let pods = node.until_within(soon() * 2, "through", |pods| {
        // A container that came to the fifo after it was closed waits for the next writer.
        drop(std::fs::File::options().read(true).write(true).open(&gate).unwrap());
        keys.iter().all(|key| pods[key].phase() == "Failed").then(|| pods.clone())
    });
    println!("200 ends were told within {} ms", began.elapsed().as_millis());
    for pod in pods.values() {
        for i in 0..50 {
            let ended = pod.ended(&format!("c{i}"));
            assert_eq!(ended["exitCode"], i, "{ended}");
        }
    }
    node.end();
}

/// Invariant 8: a pod that can't start delays no other, and says why.
#[test]
fn a_container_that_cannot_start_says_why_and_delays_nobody() {
    let node = Node::started();
    let command = json!(["/no/such/program"]);
    node.ask_for(&Asked::one("a-bad", "").with("/spec/containers/0/command", command));
    let mount =
        json!({ "name": "v", "hostPath": { "path": "/no/such/place", "type": "Directory" } });
    node.ask_for(&Asked::one("b-bad", FOREVER).mounting(&mount, "/opt"));
    node.ask_for(&Asked::one("good", FOREVER));
    node.until_running("default/good");
    for (key, text) in [("default/a-bad", "/no/such/program"), ("default/b-bad", "/no/such/place")]
    {
        node.until(text, |pods: &std::collections::BTreeMap<String, Pod>| {
            pods.get(key)?.0["status"].to_string().contains(text).then_some(())
        });
    }
    node.end();
}

#[test]
fn the_limits_of_a_pod_hold() {
    let node = Node::started();
    // `sleep` inherits nothing to wait for; the shell says when it can't fork.
    let forks = "for i in `seq 1 100`; do sleep 1000 & done; echo done";
    let pod = Asked::one("forks", forks).policy("Never").annotation("roost/pids-limit", "20");
    node.ask_for(&pod);
    let pod = node.until_through("default/forks");
    let text = node.output(&pod, "main", 0).join("\n");
    // dash gives up at the first fork that fails.
    assert!(text.contains("fork") && !text.contains("done"), "{text}");
    // A tenth of a processor. `times` tells the shell's time and then that of its children.
    let busy = "read a rest < /proc/uptime; timeout 2 sh -c 'while :; do :; done'; \
        read b rest < /proc/uptime; echo $a $b; times";
    let limits = json!({ "limits": { "cpu": "100m" } });
    let pod = Asked::one("busy", busy).policy("Never").with("/spec/containers/0/resources", limits);
    node.ask_for(&pod);
    let pod = node.until_within(soon() * 4, "through", |pods| {
        let pod = pods.get("default/busy")?;
        (pod.phase() == "Succeeded").then(|| pod.clone())
    });
    let lines = node.output(&pod, "main", 0);
    let clock: Vec<f64> = lines[0].split(' ').map(|word| word.parse().unwrap()).collect();
    let used: f64 = lines[2].split(' ').map(seconds).sum();
    let passed = clock[1] - clock[0];
    println!("{used:.2} s of processor used in {passed:.2} s with a limit of a tenth");
    // A period of 100 ms may have begun before, and one ends after; and what is used is seen when the
    // timer ticks, which in an emulated machine it does late.
    assert!(used <= passed * 0.2 + 0.1, "{lines:?}");
    node.end();
}

/// A time as `times` writes it: `0m0.25s`.
fn seconds(text: &str) -> f64 {
    let (minutes, seconds) = text.trim_end_matches('s').split_once('m').unwrap();
    minutes.parse::<f64>().unwrap() * 60.0 + seconds.parse::<f64>().unwrap()
}
