//! The executor as a whole: the real program, started and spoken to as the agent does it, with
//! real containers. Needs root; leaves nothing behind.
#![expect(
    clippy::unwrap_used,
    clippy::tests_outside_test_module,
    reason = "the whole file is tests; what they stand on panics when it is not there"
)]

#[path = "contract/suite.rs"]
mod contract;
#[path = "executor/fixture.rs"]
mod fixture;
#[path = "executor/messages.rs"]
mod messages;
#[path = "executor/probes.rs"]
mod probes;
#[path = "executor/real_host.rs"]
mod real_host;
#[path = "executor/sessions.rs"]
mod sessions;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use fixture::{TestPod, container, run, spec};
use roost::clock::Millis;
use roost::executor::client::{ConnectError, ExecutorProgram, connect};
use roost::executor::protocol::{ContainerStatus, Goal, ToAgent, ToExecutor, WantedPod};
use roost::ids::Attempt;
use roost::manifest::pod::{RestartPolicy, VolumeSource};
use roost::state::record::{Exit, Outcome};
use rustix::process::Signal;

#[test]
fn a_container_that_exits_is_started_again_after_the_back_off_and_its_neighbour_runs_on() {
    run(async {
        let mut pod = TestPod::start();
        let mut spec = spec(&[("a", "echo hello; exit 3"), ("b", "sleep 1000")]);
        spec.backoff.initial = Millis(300);
        pod.set(spec).await;
        let neighbour = pod.running("b").await;
        let first =
            pod.until("a", |a| matches!(a.status, ContainerStatus::BackingOff { .. })).await;
        let first_end = first.last.unwrap();
        assert_eq!(first_end.exit, Exit::Code(3));
        let path = pod.paths().exit(&"a".parse().unwrap(), first.attempt.unwrap());
        assert!(path.exists(), "an exit is reported only when it is durable");
        let second = pod.until("a", |a| a.attempt > first.attempt).await;
        assert_eq!(second.attempt.unwrap(), first.attempt.unwrap().next());
        let again =
            pod.until("a", |a| a.last.as_ref().is_some_and(|last| last.attempt.0 == 1)).await;
        // By what was written down: how long a report takes is the machine's affair.
        let started = again.last.unwrap().started_at.unwrap();
        let waited = Duration::from_nanos(started.0.saturating_sub(first_end.finished_at.0));
        assert!(waited >= Duration::from_millis(300), "{waited:?}");
        assert_eq!(pod.running("b").await, neighbour);
        assert_eq!(pod.log("a", 1), ["stdout F hello"]);
        pod.stop(Millis(0)).await;
    });
}

#[test]
fn a_container_that_ignores_its_stop_signal_is_killed_after_the_grace_period_and_not_before() {
    run(async {
        let mut pod = TestPod::start();
        pod.set(spec(&[("a", "trap 'echo no' TERM; echo up; while :; do sleep 0.02; done")])).await;
        pod.until_logged("a", 0, "stdout F up").await;
        let asked = Instant::now();
        pod.stop(Millis(700)).await;
        assert!(asked.elapsed() >= Duration::from_millis(700), "{:?}", asked.elapsed());
        assert_eq!(pod.log("a", 0), ["stdout F up", "stdout F no"]);
        assert_eq!(pod.exit_file("a", 0), Exit::Signal(9));
        assert!(matches!(connect(&pod.paths().runtime), Err(ConnectError::Gone { .. })));
    });
}

#[test]
fn a_container_that_obeys_its_stop_signal_ends_at_once() {
    run(async {
        let mut pod = TestPod::start();
        let script = "trap 'exit 7' TERM; echo up; while :; do sleep 0.02; done";
        pod.set(spec(&[("a", script)])).await;
        pod.until_logged("a", 0, "stdout F up").await;
        pod.stop(Millis::from_secs(3600)).await;
        assert_eq!(pod.exit_file("a", 0), Exit::Code(7));
    });
}

#[test]
fn when_the_executor_is_killed_its_containers_die_and_run_once_pods_do_not_run_again() {
    run(async {
        let mut pod = TestPod::start();
        let mut spec = spec(&[("done", "exit 0"), ("cut", "sleep 1000 & sleep 1000")]);
        spec.restart_policy = RestartPolicy::Never;
        pod.set(spec.clone()).await;
        pod.until("done", |c| c.status == ContainerStatus::Terminated).await;
        pod.running("cut").await;
        pod.kill_executor();
        pod.cgroup().kill_containers().unwrap();
        pod.wait_empty();
        pod.spawn().await;
        let welcome = pod.welcome().await;
        assert_eq!((welcome.wanted, welcome.report), (None, None));
        pod.set(spec).await;
        let report = pod.finished().await;
        assert_eq!(report.finished, Some(Outcome::Failed));
        let lasts: Vec<_> = report.containers.iter().map(|c| c.last.clone().unwrap()).collect();
        assert_eq!([lasts[0].attempt.0, lasts[1].attempt.0], [0, 0]);
        assert_eq!([&lasts[0].exit, &lasts[1].exit], [&Exit::Unknown, &Exit::Code(0)]);
        pod.stop(Millis(0)).await;
    });
}

/// So systemd ends the scope of all pods.
#[test]
fn when_the_machine_is_shut_down_everything_stops_and_the_next_executor_starts_it_again() {
    run(async {
        let mut pod = TestPod::start();
        let script = "trap 'exit 7' TERM; echo up; while :; do sleep 0.02; done";
        let mut wanted = spec(&[("a", script), ("deaf", "trap '' TERM; echo up; sleep 1000")]);
        wanted.termination_grace = Millis(500);
        pod.set(wanted.clone()).await;
        pod.until_logged("a", 0, "stdout F up").await;
        pod.until_logged("deaf", 0, "stdout F up").await;
        pod.end_executor(Signal::TERM);
        pod.wait_empty();
        assert_eq!(
            [pod.exit_file("a", 0), pod.exit_file("deaf", 0)],
            [Exit::Code(7), Exit::Signal(9)]
        );
        pod.spawn().await;
        pod.set(wanted).await;
        pod.running("a").await;
        pod.running("deaf").await;
        pod.stop(Millis(0)).await;
    });
}

#[test]
fn containers_die_with_their_executor_without_any_help() {
    run(async {
        let mut pod = TestPod::start();
        pod.set(spec(&[("a", "sleep 1000 & sleep 1000")])).await;
        pod.running("a").await;
        pod.kill_executor();
        pod.wait_empty();
    });
}

#[test]
fn a_newer_connection_replaces_the_older_and_learns_what_is_wanted() {
    run(async {
        let mut pod = TestPod::start();
        let wanted = spec(&[("a", "sleep 1000")]);
        pod.set(wanted.clone()).await;
        let pid = pod.running("a").await;
        let mut older = pod.reconnect().unwrap();
        let welcome = pod.welcome().await;
        let (told, report) = (welcome.wanted.unwrap(), welcome.report.unwrap());
        assert_eq!((told.goal, &*told.spec), (Goal::Run, &wanted));
        let ContainerStatus::Running { pid: reported, .. } = report.containers[0].status else {
            panic!("{report:?}");
        };
        assert_eq!(reported, pid);
        assert!(older.next().await.is_ok_and(|message| message.is_none()));
        assert_eq!(pod.agent().peer_pid().unwrap(), welcome.pid);
        assert!(pod.agent().pidfd(welcome.pid).unwrap().is_some());
        pod.set(wanted).await;
        assert_eq!(pod.running("a").await, pid);
        pod.stop(Millis(0)).await;
    });
}

#[test]
fn an_executor_whose_agent_dies_before_it_says_anything_ends() {
    run(async {
        let mut pod = TestPod::start();
        pod.welcome().await;
        pod.disconnect();
        pod.wait_executor();
        assert!(matches!(connect(&pod.paths().runtime), Err(ConnectError::Gone { .. })));
    });
}

#[test]
fn an_agent_that_does_not_listen_holds_nothing_up() {
    run(async {
        let mut pod = TestPod::start();
        let mut wanted = spec(&[("a", "sleep 1000")]);
        wanted.annotations.insert("filler".into(), "x".repeat(20_000));
        let message = ToExecutor::SetSpec(WantedPod {
            number: 1,
            goal: Goal::Run,
            spec: wanted.clone().into(),
        });
        for _ in 0..500 {
            pod.agent().send(&ToExecutor::Hello { protocol: 1 }, Vec::new()).await.unwrap();
            pod.agent().send(&message, Vec::new()).await.unwrap();
        }
        let _stalled = pod.reconnect();
        pod.welcome().await;
        pod.set(wanted).await;
        pod.running("a").await;
        pod.stop(Millis(0)).await;
    });
}

#[test]
fn an_upgrade_in_place_keeps_processes_output_and_connection() {
    run(async {
        let mut pod = TestPod::start();
        let counter = "n=0; while :; do echo $n; n=$((n+1)); sleep 0.005; done";
        let halves = "printf first; while [ ! -e /v/go ]; do sleep 0.02; done; echo second; exit 4";
        let mut wanted = spec(&[("count", counter), ("halves", halves)]);
        wanted.restart_policy = RestartPolicy::Never;
        fixture::add_volume(&mut wanted, "v", VolumeSource::EmptyDir { size_limit: None });
        pod.set(wanted.clone()).await;
        let before = (pod.running("count").await, pod.running("halves").await);
        pod.until_logged("count", 0, "stdout F 20").await;

        let other = pod.other_build(b"other");
        let (message, exe) = other.upgrade().unwrap();
        pod.agent().send(&message, vec![exe]).await.unwrap();
        let pid = pod.upgraded(other.build()).await;
        assert_eq!(pid, pod.executor_pid());
        pod.set(wanted).await;
        let after = (pod.running("count").await, pod.running("halves").await);
        assert_eq!(before, after);

        let go = pod.paths().volume(&"v".parse().unwrap()).join("go");
        fs::write(go, "").unwrap();
        let halves = pod.until("halves", |c| c.status == ContainerStatus::Terminated).await;
        assert_eq!(halves.last.unwrap().exit, Exit::Code(4));
        assert_eq!(pod.log("halves", 0), ["stdout F firstsecond"]);
        let lines = pod.log("count", 0).len();
        pod.until_logged("count", 0, &format!("stdout F {}", lines + 50)).await;
        for (n, line) in pod.log("count", 0).iter().enumerate() {
            assert_eq!(*line, format!("stdout F {n}"), "no line is lost, none comes twice");
        }
        // And back again: what was handed over once can be handed over again.
        let back = ExecutorProgram::open(fixture::EXECUTOR.as_ref()).unwrap();
        let (message, exe) = back.upgrade().unwrap();
        pod.agent().send(&message, vec![exe]).await.unwrap();
        pod.upgraded(back.build()).await;
        pod.stop(Millis(0)).await;
        assert_eq!(pod.exit_file("count", 0), Exit::Signal(9));
    });
}

#[test]
fn a_program_that_can_not_go_on_is_refused_and_nothing_changes() {
    run(async {
        let mut pod = TestPod::start();
        pod.set(spec(&[("a", "sleep 1000")])).await;
        let pid = pod.running("a").await;
        let bad = pod.root().join("bad");
        for content in [fs::read("/bin/false").unwrap(), b"no program".to_vec()] {
            fs::write(&bad, content).unwrap();
            fs::set_permissions(&bad, fs::Permissions::from_mode(0o755)).unwrap();
            let bad = ExecutorProgram::open(&bad).unwrap();
            let (message, exe) = bad.upgrade().unwrap();
            pod.agent().send(&message, vec![exe]).await.unwrap();
            let refused = |message: &ToAgent| matches!(message, ToAgent::NotUpgraded { .. });
            pod.message(refused).await;
        }
        pod.set(spec(&[("a", "sleep 1000")])).await;
        assert_eq!(pod.running("a").await, pid);
        pod.stop(Millis(0)).await;
    });
}

#[test]
fn the_output_of_a_container_that_exits_at_once_is_complete() {
    run(async {
        let mut pod = TestPod::start();
        let mut spec = spec(&[("a", "seq 1 10000; echo err >&2; printf end")]);
        spec.restart_policy = RestartPolicy::Never;
        pod.set(spec).await;
        pod.until("a", |a| a.status == ContainerStatus::Terminated).await;
        let log = pod.log("a", 0);
        let stdout: Vec<&str> = log.iter().filter_map(|l| l.strip_prefix("stdout F ")).collect();
        let expected: Vec<String> = (1..=10_000).map(|n| n.to_string()).collect();
        // More than is read at a time, and less than a pipe takes.
        assert_eq!(stdout[..10_000], expected);
        assert_eq!(stdout[10_000..], ["end"]);
        assert!(log.iter().any(|line| line == "stderr F err"));
        pod.stop(Millis(0)).await;
    });
}

#[test]
fn a_container_that_needs_more_memory_than_its_limit_is_reported_so() {
    run(async {
        let mut pod = TestPod::start();
        let mut spec = spec(&[("a", "exec tail /dev/zero")]);
        spec.restart_policy = RestartPolicy::Never;
        spec.containers[0].resources.memory_limit_bytes = Some(16 << 20);
        pod.set(spec).await;
        let a = pod.until("a", |a| a.status == ContainerStatus::Terminated).await;
        assert_eq!(a.last.unwrap().exit, Exit::OutOfMemory);
        pod.stop(Millis(0)).await;
    });
}

#[test]
fn what_can_not_be_started_says_why() {
    run(async {
        let mut pod = TestPod::start();
        let mut spec = spec(&[]);
        spec.restart_policy = RestartPolicy::Never;
        spec.containers.push(container("a", &["/no/such/program"]));
        pod.set(spec).await;
        let a = pod.until("a", |a| a.status == ContainerStatus::Terminated).await;
        let exit = a.last.unwrap().exit;
        let Exit::NotStarted(why) = exit else { panic!("{exit:?}") };
        assert!(why.contains("/no/such/program"), "{why}");
        pod.stop(Millis(0)).await;
    });
}

#[test]
fn a_run_that_can_not_be_recorded_is_never_executed() {
    run(async {
        let mut pod = TestPod::start();
        let mut spec = spec(&[("a", "echo ran")]);
        spec.restart_policy = RestartPolicy::Never;
        // It has looked at what is there by then.
        pod.welcome().await;
        let attempt = pod.paths().attempt(&"a".parse().unwrap(), Attempt(0));
        fs::create_dir_all(attempt.join("in the way")).unwrap();
        pod.set(spec).await;
        let a = pod.until("a", |a| a.status == ContainerStatus::Terminated).await;
        let exit = a.last.unwrap().exit;
        let Exit::NotStarted(why) = exit else { panic!("{exit:?}") };
        assert!(why.contains("could not be recorded"), "{why}");
        assert!(pod.log("a", 0).is_empty());
        pod.stop(Millis(0)).await;
    });
}

#[test]
fn what_a_container_leaves_behind_is_killed_before_its_end_is_told() {
    run(async {
        let mut pod = TestPod::start();
        let mut spec = spec(&[("a", "setsid sleep 1000 & exit 0")]);
        spec.restart_policy = RestartPolicy::Never;
        spec.host.pid = true;
        pod.set(spec).await;
        pod.until("a", |a| a.status == ContainerStatus::Terminated).await;
        let cgroup = pod.cgroup().container(&"a".parse().unwrap(), Attempt(0));
        assert!(!cgroup.is_populated().unwrap());
        // In cgroup v1 an orphan counts until the host's PID 1 has reaped it. The cgroup is removed
        // at the next event after that.
        while !pod.cgroup().containers().unwrap().is_empty() {
            pod.finished().await;
        }
        pod.stop(Millis(0)).await;
    });
}

#[test]
fn when_the_first_process_of_a_shared_namespace_dies_the_containers_start_again() {
    run(async {
        let mut pod = TestPod::start();
        let mut spec = spec(&[("a", "sleep 1000"), ("b", "sleep 1000")]);
        spec.share_process_namespace = true;
        spec.backoff.initial = Millis(10);
        pod.set(spec).await;
        pod.running("a").await;
        pod.running("b").await;
        pod.kill_reaper();
        for name in ["a", "b"] {
            let again = |c: &roost::executor::protocol::ContainerReport| {
                c.attempt.is_some_and(|n| n.0 > 0)
                    && matches!(c.status, ContainerStatus::Running { .. })
            };
            pod.until(name, again).await;
        }
        pod.stop(Millis(0)).await;
    });
}

#[test]
fn many_containers_that_exit_at_once_are_all_recorded() {
    const COUNT: usize = 200;
    run(async {
        let mut pod = TestPod::start();
        let mut spec = spec(&[]);
        spec.restart_policy = RestartPolicy::Never;
        for n in 0..COUNT {
            spec.containers.push(container(&format!("c{n}"), &["/bin/sh", "-c", "echo x"]));
        }
        pod.set(spec).await;
        let report = pod.finished().await;
        assert_eq!(report.finished, Some(Outcome::Succeeded));
        for n in 0..COUNT {
            assert_eq!(pod.log(&format!("c{n}"), 0), ["stdout F x"]);
            assert_eq!(pod.exit_file(&format!("c{n}"), 0), Exit::Code(0));
        }
        pod.stop(Millis(0)).await;
    });
}
