//! What containers say about their end.

use roost::clock::Millis;
use roost::executor::protocol::ContainerStatus;
use roost::ids::ContainerName;
use roost::manifest::pod::{AbsolutePath, MessagePolicy, PodSpec, RestartPolicy, VolumeSource};
use roost::state::record::Exit;

use super::fixture::{TestPod, add_volume, run, spec};

fn once(scripts: &[(&str, &str)]) -> PodSpec {
    let mut spec = spec(scripts);
    spec.restart_policy = RestartPolicy::Never;
    spec
}

fn path(text: &str) -> Option<AbsolutePath> {
    Some(text.parse().unwrap())
}

/// What the containers have said, by their order.
async fn said(spec: PodSpec) -> Vec<Option<String>> {
    let mut pod = TestPod::start();
    let order: Vec<_> = spec.containers.iter().map(|c| c.name.clone()).collect();
    pod.set(spec).await;
    let report = pod.finished().await;
    let of = |name: &ContainerName| report.containers.iter().find(|c| c.name == *name).unwrap();
    let said = order.iter().map(|name| of(name).last.clone().unwrap().message).collect();
    pod.stop(Millis(0)).await;
    said
}

#[test]
fn a_message_is_what_any_user_has_written_wherever_the_file_is() {
    run(async {
        let mut spec = once(&[
            ("root", "echo root > /dev/termination-log; exit 1"),
            ("user", "echo user > /dev/termination-log"),
            ("elsewhere", "echo elsewhere > /var/roost/why; echo no > /dev/termination-log"),
            ("volume", "echo volume > /v/why; stat -c %a /v/why; exit 1"),
            ("silent", "echo heard > /dev/null; exit 1"),
        ]);
        add_volume(&mut spec, "v", VolumeSource::EmptyDir { size_limit: None });
        spec.containers[1].user = Some(1000);
        spec.containers[2].termination.own_path = path("/var/roost/why");
        spec.containers[3].termination.own_path = path("/v/why");
        let some = |text: &str| Some(text.to_owned());
        let expected =
            [some("root\n"), some("user\n"), some("elsewhere\n"), some("volume\n"), None];
        assert_eq!(said(spec).await, expected);
    });
}

#[test]
fn the_end_of_the_log_is_the_message_of_a_failure_that_has_none_if_that_is_asked_for() {
    run(async {
        let mut spec = once(&[
            ("failed", "echo out; echo err >&2; exit 3"),
            ("wrote", "echo out; echo own > /dev/termination-log; exit 3"),
            ("well", "echo out"),
            ("unasked", "echo out; exit 3"),
            ("long", "seq 200; exit 3"),
        ]);
        for container in spec.containers.iter_mut().filter(|c| c.name.as_str() != "unasked") {
            container.termination.policy = MessagePolicy::FallbackToLogsOnError;
        }
        let said = said(spec).await;
        let mut lines: Vec<&str> = said[0].as_ref().unwrap().lines().collect();
        // They are two pipes.
        lines.sort_unstable();
        assert_eq!(lines, ["err", "out"]);
        assert_eq!(said[1].as_deref(), Some("own\n"));
        assert_eq!([&said[2], &said[3]], [&None, &None]);
        let long: String = (121..=200).map(|n| format!("{n}\n")).collect();
        assert_eq!(said[4].as_deref(), Some(&*long));
    });
}

#[test]
fn whatever_a_container_does_to_its_file_no_more_than_its_share_of_text_is_told() {
    run(async {
        let file = "/dev/termination-log";
        let scripts = [
            ("long", format!("yes | head -c 1000000 > {file}; printf end >> {file}")),
            ("binary", format!("head -c 9000 /dev/zero | tr '\\0' '\\377' > {file}")),
            ("away", format!("rm -f {file}; mv {file} /tmp; ln -sf /etc/passwd {file}; true")),
            ("shut", format!("echo shut > {file}; chmod 0 {file}")),
        ];
        let scripts: Vec<(&str, &str)> = scripts.iter().map(|(n, s)| (*n, s.as_str())).collect();
        let said = said(once(&scripts)).await;
        // A fourth of 12 KiB.
        let long = said[0].as_ref().unwrap();
        assert!(long.len() == 3072 && long.ends_with("y\nend"), "{}", long.len());
        assert_eq!(said[1], Some("\u{fffd}".repeat(1024)));
        assert_eq!([said[2].as_deref(), said[3].as_deref()], [None, Some("shut\n")]);
    });
}

#[test]
fn each_run_has_a_file_of_its_own_and_its_message_outlives_the_executor() {
    run(async {
        let mut pod = TestPod::start();
        let script = "test -e /run/sandbox/first && { echo second > /dev/termination-log; sleep 1000; }; \
                      touch /run/sandbox/first; echo first > /dev/termination-log; exit 1";
        let mut wanted = spec(&[("a", script)]);
        wanted.backoff.initial = Millis(10);
        pod.set(wanted.clone()).await;
        let a = pod.until("a", |a| a.attempt.is_some_and(|attempt| attempt.0 == 1)).await;
        assert_eq!(a.last.unwrap().message.as_deref(), Some("first\n"));
        pod.running("a").await;
        let file = pod.paths().termination_message(&"a".parse().unwrap(), a.attempt.unwrap());
        while std::fs::read_to_string(&file).unwrap() != "second\n" {
            tokio::task::yield_now().await;
        }
        pod.kill_executor();
        pod.cgroup().kill_containers().unwrap();
        pod.wait_empty();
        pod.spawn().await;
        pod.welcome().await;
        pod.set(wanted).await;
        let a = pod.until("a", |a| matches!(a.status, ContainerStatus::Running { .. })).await;
        let last = a.last.unwrap();
        assert_eq!((last.exit, last.message.as_deref()), (Exit::Unknown, Some("second\n")));
        pod.stop(Millis(0)).await;
    });
}
