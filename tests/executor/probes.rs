//! Probes of real containers, by the real executor.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use roost::clock::Millis;
use roost::executor::client::ExecutorProgram;
use roost::executor::protocol::{ContainerReport, ContainerStatus, Health, ToAgent};
use roost::executor::question::{Purpose, Seen};
use roost::ids::Attempt;
use roost::manifest::pod::{
    Check, EnvVar, Handler, HostPathType, HttpGet, PodSpec, Probe, RestartPolicy, Scheme,
    VolumeSource,
};
use roost::state::record::Exit;

use crate::fixture::{EXECUTOR, TestPod, add_volume, container, run, spec};

/// Says that the test below is to be a server.
const SERVER: &str = "ROOST_TEST_SERVER";
const PORT: u16 = 8080;

/// The server that other tests run in a container: 200 for files that are in `/v`, 500 for others.
/// It listens on the loopback interface of the pod's own network.
#[test]
#[ignore = "it is a server"]
fn serve() {
    if std::env::var_os(SERVER).is_none() {
        return;
    }
    let listener = TcpListener::bind(("127.0.0.1", PORT)).unwrap();
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut buffer = [0; 1024];
        let count = stream.read(&mut buffer).unwrap_or(0);
        let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
        let Some(path) = text.split(' ').nth(1) else { continue };
        let status = if Path::new(&format!("/v{path}")).exists() { "200 Yes" } else { "500 No" };
        write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").ok();
    }
}

/// A pod with the server, and with a volume `/v`.
fn server() -> PodSpec {
    // By a volume: where it is built, the container may have a directory of its own.
    let exe = std::env::current_exe().unwrap();
    let argv = ["/server", "--ignored", "--exact", "probes::serve", "--nocapture"];
    let mut web = container("web", &argv);
    web.env.push(EnvVar { name: SERVER.to_owned(), value: "1".to_owned(), from: None });
    let mut spec = spec(&[]);
    spec.containers.push(web);
    add_volume(&mut spec, "v", VolumeSource::EmptyDir { size_limit: None });
    let path = exe.to_str().unwrap().parse().unwrap();
    add_volume(&mut spec, "server", VolumeSource::HostPath { path, kind: HostPathType::File });
    spec
}

fn probe(handler: Handler) -> Probe {
    Probe {
        handler,
        initial_delay: Millis(0),
        period: Millis(40),
        timeout: Millis(5000),
        success_threshold: 1,
        failure_threshold: 1,
        termination_grace: None,
    }
}

fn http(path: &str) -> Handler {
    let (path, scheme) = (path.to_owned(), Scheme::Http);
    Handler::Http(HttpGet { host: None, port: PORT, path, scheme, headers: Vec::new() })
}

fn exec(script: &str) -> Handler {
    let script = format!("PATH=/usr/bin:/bin; {script}");
    Handler::Exec { command: vec!["/bin/sh".to_owned(), "-c".to_owned(), script] }
}

fn health(report: &ContainerReport) -> Health {
    report.health.clone().unwrap_or_default()
}

fn is_ready(report: &ContainerReport) -> bool {
    health(report).ready
}

fn volume(pod: &TestPod) -> std::path::PathBuf {
    pod.paths().volume(&"v".parse().unwrap())
}

#[test]
fn a_server_is_probed_in_its_own_network_also_while_no_agent_is_there() {
    run(async {
        let mut pod = TestPod::start();
        let mut spec = server();
        let startup = Handler::Tcp { host: None, port: PORT };
        // It takes a moment until it listens.
        spec.containers[0].startup = Some(Probe { failure_threshold: 1000, ..probe(startup) });
        spec.containers[0].readiness = Some(probe(http("/ready")));
        pod.set(spec).await;
        let unready = |c: &ContainerReport| health(c).started && !health(c).faults.is_empty();
        let report = pod.until("web", unready).await;
        assert!(!is_ready(&report));
        let fault = &health(&report).faults[0];
        assert_eq!((fault.purpose, fault.text.as_str()), (Purpose::Readiness, "HTTP status 500"));
        fs::write(volume(&pod).join("ready"), "").unwrap();
        pod.until("web", is_ready).await;
        pod.disconnect();
        fs::remove_file(volume(&pod).join("ready")).unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(pod.reconnect());
        let report = pod.welcome().await.report.unwrap();
        let web = &report.containers[0];
        assert!(!is_ready(web), "what was found meanwhile is right at once");
        assert!(health(web).faults[0].count > 1);
        assert_eq!(web.attempt, Some(Attempt(0)));
        pod.stop(Millis(0)).await;
    });
}

#[test]
fn a_liveness_probe_that_fails_has_the_container_stopped_and_started_again() {
    run(async {
        let mut pod = TestPod::start();
        let mut spec = spec(&[("a", "trap 'exit 3' TERM; echo up; while :; do sleep 0.02; done")]);
        spec.backoff.initial = Millis(100);
        let liveness = probe(exec("echo not well; exit 5"));
        spec.containers[0].liveness =
            Some(Probe { failure_threshold: 2, initial_delay: Millis(500), ..liveness });
        pod.set(spec).await;
        let stopped = pod.until("a", |a| health(a).failed.is_some()).await;
        assert!(matches!(stopped.status, ContainerStatus::Stopping { .. }));
        let health = health(&stopped);
        assert_eq!((health.failed, health.ready), (Some(Purpose::Liveness), false));
        let fault = &health.faults[0];
        assert_eq!((fault.count, fault.text.as_str()), (2, "exit code 5: not well"));
        let again = pod.until("a", |a| a.attempt > Some(Attempt(0))).await;
        assert_eq!(again.last.unwrap().exit, Exit::Code(3));
        pod.stop(Millis(0)).await;
    });
}

#[test]
fn b5_a_program_that_takes_too_long_is_killed_with_all_that_it_started() {
    run(async {
        let mut pod = TestPod::start();
        let mut spec = spec(&[("a", "echo up; exec sleep 1000")]);
        let script = "setsid sleep 1000 & (setsid sleep 1000 &) ; echo begun; exec sleep 1000";
        let slow = Probe { timeout: Millis(300), period: Millis(600_000), ..probe(exec(script)) };
        spec.containers[0].readiness = Some(slow);
        let begun = Instant::now();
        pod.set(spec).await;
        let report = pod.until("a", |a| !health(a).faults.is_empty()).await;
        assert_eq!(health(&report).faults[0].text, "no answer within 300ms");
        assert!(begun.elapsed() >= Duration::from_millis(300));
        let cgroup = pod.cgroup().container(&"a".parse().unwrap(), Attempt(0));
        let alone = async || {
            while cgroup.processes().unwrap() != 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        alone().await;
        // What is left by one that ends in time goes as well.
        drop(pod.reconnect());
        let mut spec = pod.welcome().await.wanted.unwrap().spec.as_ref().clone();
        let script = "setsid sleep 1000 & exit 0";
        spec.containers[0].readiness = Some(probe(exec(script)));
        pod.set(spec.clone()).await;
        pod.until("a", is_ready).await;
        spec.containers[0].readiness = None;
        pod.set(spec).await;
        alone().await;
        let executor = pod.executor_pid();
        let fds = || fs::read_dir(format!("/proc/{executor}/fd")).unwrap().count();
        assert!(fds() < 40, "{}", fds());
        pod.stop(Millis(0)).await;
    });
}

#[test]
fn h7_a_program_is_executed_as_that_of_the_container() {
    let script = "{ id; pwd; env | grep -v '^_=' | sort; umask; ulimit -n; \
                  readlink /proc/self/ns/mnt /proc/self/ns/pid /proc/self/ns/net \
                  /proc/self/ns/ipc /proc/self/ns/uts /proc/self/ns/cgroup; \
                  grep -E 'Cap|NoNew|Seccomp|Sig[^Q]' /proc/self/status; ls /proc/self/fd; \
                  cat /proc/self/oom_score_adj /sys/kernel/mm/transparent_hugepage/enabled; \
                  cat /proc/self/cgroup | grep -v ^0; } > /v/";
    for is_shared in [false, true] {
        run(async {
            let mut pod = TestPod::start();
            let mut spec = spec(&[("a", &format!("{script}own; : > /v/done; exec sleep 1000"))]);
            spec.share_process_namespace = is_shared;
            add_volume(&mut spec, "v", VolumeSource::EmptyDir { size_limit: None });
            let a = &mut spec.containers[0];
            (a.user, a.group) = (Some(1234), Some(2345));
            a.env.push(EnvVar { name: "A".to_owned(), value: "b c".to_owned(), from: None });
            a.working_dir = Some("/usr".parse().unwrap());
            a.readiness = Some(probe(exec(&format!("[ -e /v/done ] || exit 1; {script}probe"))));
            pod.set(spec).await;
            pod.until("a", is_ready).await;
            let read = |name| fs::read_to_string(volume(&pod).join(name)).unwrap();
            assert_eq!(read("own"), read("probe"));
            assert!(read("own").contains("uid=1234 gid=2345"), "{}", read("own"));
            pod.stop(Millis(0)).await;
        });
    }
}

#[test]
fn a_program_that_is_not_there_is_a_failure_that_says_so() {
    run(async {
        let mut pod = TestPod::start();
        let mut spec = spec(&[("a", "exec sleep 1000")]);
        let handler = Handler::Exec { command: vec!["/no/such".to_owned()] };
        spec.containers[0].readiness = Some(probe(handler));
        pod.set(spec).await;
        let report = pod.until("a", |a| !health(a).faults.is_empty()).await;
        let fault = &health(&report).faults[0];
        assert!(fault.is_failure && fault.text.starts_with("exec /no/such"), "{fault:?}");
        pod.stop(Millis(0)).await;
    });
}

#[test]
fn what_probes_have_found_is_kept_over_an_upgrade_in_place_without_a_flap() {
    run(async {
        let mut pod = TestPod::start();
        let mut spec = server();
        let web = &mut spec.containers[0];
        web.startup = Some(Probe {
            failure_threshold: 1000,
            ..probe(Handler::Tcp { host: None, port: PORT })
        });
        web.readiness = Some(probe(http("/ready")));
        web.liveness = Some(probe(exec("sleep 0.05")));
        web.check = Some(Check {
            handler: exec("exit 7"),
            delay: Millis(0),
            interval: Millis(50),
            timeout: Millis(5000),
        });
        pod.set(spec).await;
        pod.until("web", |web| health(web).started).await;
        fs::write(volume(&pod).join("ready"), "").unwrap();
        pod.until("web", |web| {
            is_ready(web) && health(web).check.is_some_and(|it| it.seen == Seen::ExitCode(7))
        })
        .await;
        let other = pod.other_build(b"other");
        let back = ExecutorProgram::open(EXECUTOR.as_ref()).unwrap();
        for other in [other, back] {
            let (upgrade, exe) = other.upgrade().unwrap();
            pod.agent().send(&upgrade, vec![exe]).await.unwrap();
            let build = other.build().to_owned();
            loop {
                match pod.agent().next().await.unwrap().unwrap() {
                    ToAgent::Report(report) => assert!(is_ready(&report.containers[0])),
                    ToAgent::Welcome { build: found, .. } => {
                        if found == build {
                            break;
                        }
                    }
                    ToAgent::NotUpgraded { why } => panic!("{why}"),
                }
            }
            let report = pod.report(|_| true).await;
            let health = health(&report.containers[0]);
            assert!(health.ready && health.started, "{health:?}");
            assert_eq!(health.check.unwrap().seen, Seen::ExitCode(7));
        }
        // And they go on.
        fs::remove_file(volume(&pod).join("ready")).unwrap();
        let report = pod.until("web", |web| !is_ready(web)).await;
        assert_eq!(report.attempt, Some(Attempt(0)));
        pod.stop(Millis(0)).await;
    });
}

#[test]
fn c8_c9_a_check_asks_by_http_or_tcp_in_the_pods_network_and_tells_what_it_saw() {
    run(async {
        let mut pod = TestPod::start();
        let mut spec = server();
        let check = |handler| {
            let (delay, interval, timeout) = (Millis(0), Millis(40), Millis(5000));
            Some(Check { handler, delay, interval, timeout })
        };
        spec.containers[0].check = check(http("/ready"));
        for (name, port) in [("open", PORT), ("shut", PORT + 1)] {
            let mut asks = container(name, &["/bin/sleep", "1000"]);
            asks.check = check(Handler::Tcp { host: None, port });
            spec.containers.push(asks);
        }
        pod.set(spec).await;
        let sees = |asked: &ContainerReport, seen: &Seen| {
            health(asked).check.is_some_and(|it| it.seen == *seen)
        };
        pod.until("web", |web| sees(web, &Seen::HttpStatus(500))).await;
        fs::write(volume(&pod).join("ready"), "").unwrap();
        pod.until("web", |web| sees(web, &Seen::HttpStatus(200))).await;
        pod.until("open", |open| sees(open, &Seen::Connected(true))).await;
        let shut = pod.until("shut", |shut| sees(shut, &Seen::Connected(false))).await;
        assert_eq!(shut.attempt, Some(Attempt(0)), "it is told, and never acted on");
        pod.stop(Millis(0)).await;
    });
}

#[test]
fn a_pod_that_stops_leaves_no_question_behind() {
    run(async {
        let mut pod = TestPod::start();
        let mut spec = spec(&[("a", "exec sleep 1000")]);
        spec.restart_policy = RestartPolicy::Never;
        spec.containers[0].readiness =
            Some(Probe { timeout: Millis(600_000), ..probe(exec("echo x; exec sleep 1000")) });
        pod.set(spec).await;
        let cgroup = pod.cgroup().container(&"a".parse().unwrap(), Attempt(0));
        pod.running("a").await;
        while cgroup.processes().unwrap_or(0) != 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Its cgroup is removed with it: the fixture looks.
        pod.stop(Millis(0)).await;
    });
}
