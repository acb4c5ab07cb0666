//! One rule, one test; then any sequence of events.

use proptest::prelude::*;

use super::container::delay;
use super::*;
use crate::executor::protocol::ContainerStatus;
use crate::manifest::pod::{ContainerSpec, EnvVar, HostNamespaces, Probe, RestartPolicy};
use crate::state::record::Outcome;

mod life;
mod order;
mod probing;

/// A machine, a clock, and what the last step answered with.
struct Bench {
    machine: PodMachine,
    now: u64,
    effects: Vec<Effect>,
    number: u64,
}

fn name(text: &str) -> ContainerName {
    text.parse().unwrap()
}

fn container(name: &str) -> ContainerSpec {
    ContainerSpec {
        name: name.parse().unwrap(),
        image: None,
        command: vec!["sleep".to_owned()],
        args: Vec::new(),
        env: vec![],
        env_from: Vec::new(),
        working_dir: None,
        resources: Resources::default(),
        user: Some(0),
        group: Some(0),
        read_only_root: false,
        security: Default::default(),
        mounts: vec![],
        ports: Vec::new(),
        liveness: None,
        readiness: None,
        startup: None,
        check: None,
        restart: None,
        lifecycle: Default::default(),
        termination: Default::default(),
        restarts_for: Default::default(),
    }
}

fn pod(policy: RestartPolicy, names: &[&str]) -> PodSpec {
    PodSpec {
        name: "default/p".parse().unwrap(),
        labels: BTreeMap::new(),
        node_selector: Default::default(),
        security: Default::default(),
        names: Default::default(),
        network: Default::default(),
        image_pull_secrets: Vec::new(),
        restart_on_config_change: false,
        config: None,
        annotations: BTreeMap::new(),
        hostname: "p".to_owned(),
        host: HostNamespaces::default(),
        share_process_namespace: false,
        restart_policy: policy,
        termination_grace: Millis(5000),
        active_deadline: None,
        termination_policy: Default::default(),
        backoff: BackoffPolicy::default(),
        pids_limit: 10,
        resources: Default::default(),
        after: Vec::new(),
        priority: 0,
        rollback_after: None,
        volumes: vec![],
        init_containers: vec![],
        containers: names.iter().map(|name| container(name)).collect(),
    }
}

fn changed(spec: &PodSpec, name: &str) -> PodSpec {
    let mut spec = spec.clone();
    let container = spec.containers.iter_mut().find(|c| c.name.as_str() == name).unwrap();
    container.env.push(EnvVar {
        name: "V".to_owned(),
        value: container.env.len().to_string(),
        from: None,
    });
    spec
}

fn launches(effects: &[Effect]) -> Vec<(String, u32, u32)> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Launch { container, attempt, streak, .. } => {
                Some((container.to_string(), attempt.0, *streak))
            }
            Effect::Stop { .. }
            | Effect::Kill { .. }
            | Effect::Record { .. }
            | Effect::Update { .. }
            | Effect::Ask { .. }
            | Effect::Unask { .. }
            | Effect::UpdatePod { .. } => None,
        })
        .collect()
}

impl Bench {
    fn new() -> Self {
        Self::recovered(BTreeMap::new())
    }

    fn recovered(from: BTreeMap<ContainerName, Recovered>) -> Self {
        let machine = PodMachine::new(from, BootTime(1000));
        Self { machine, now: 1000, effects: vec![], number: 0 }
    }

    fn step(&mut self, event: Event) -> &[Effect] {
        self.effects = self.machine.step(event, BootTime(self.now));
        &self.effects
    }

    fn want(&mut self, spec: &PodSpec) -> &[Effect] {
        self.number += 1;
        let spec = Arc::new(spec.clone());
        self.step(Event::Wanted(WantedPod { number: self.number, goal: Goal::Run, spec }))
    }

    fn stop(&mut self, spec: &PodSpec, grace: u64) -> &[Effect] {
        let goal = Goal::Stop { grace: Millis(grace) };
        let spec = Arc::new(spec.clone());
        self.step(Event::Wanted(WantedPod { number: self.number, goal, spec }))
    }

    fn attempt(&self, of: &str) -> Attempt {
        let report = self.machine.report().unwrap();
        let container = report.containers.iter().find(|c| c.name.as_str() == of).unwrap();
        container.attempt.unwrap()
    }

    fn started(&mut self, of: &str) -> &[Effect] {
        let (container, attempt) = (name(of), self.attempt(of));
        self.step(Event::Started { container, attempt, pid: 7, at: WallTime(1) })
    }

    fn exited(&mut self, of: &str, exit: Exit) -> &[Effect] {
        let (container, attempt) = (name(of), self.attempt(of));
        self.step(Event::Exited { container, attempt, exit, message: None, at: WallTime(2) })
    }

    fn recorded(&mut self, of: &str) -> &[Effect] {
        let (container, attempt) = (name(of), self.attempt(of));
        self.step(Event::Recorded { container, attempt, result: Ok(()) })
    }

    fn ends(&mut self, of: &str, exit: Exit) -> &[Effect] {
        self.exited(of, exit);
        self.recorded(of)
    }

    fn runs(&mut self, spec: &PodSpec) {
        self.want(spec);
        for container in &spec.containers {
            self.started(container.name.as_str());
        }
    }

    fn at(&mut self, now: u64) -> &[Effect] {
        self.now = now;
        self.step(Event::Tick)
    }

    fn status(&self, of: &str) -> ContainerStatus {
        let report = self.machine.report().unwrap();
        report.containers.into_iter().find(|c| c.name.as_str() == of).unwrap().status
    }

    fn finished(&self) -> Option<Outcome> {
        self.machine.report().unwrap().finished
    }

    fn wake(&self) -> Option<u64> {
        self.machine.wake_at().map(|at| at.0)
    }
}

fn stop_of(of: &str, attempt: u32) -> Effect {
    Effect::Stop { container: name(of), attempt: Attempt(attempt) }
}

fn kill_of(of: &str, attempt: u32) -> Effect {
    Effect::Kill { container: name(of), attempt: Attempt(attempt) }
}

#[test]
fn nothing_happens_before_a_specification_is_known() {
    let mut bench = Bench::new();
    assert_eq!(bench.at(99_999), []);
    assert_eq!((bench.machine.report(), bench.wake()), (None, None));
    assert!(!bench.machine.is_stopped());
}

#[test]
fn a_fresh_container_is_launched_and_then_runs() {
    let mut bench = Bench::new();
    let effects = bench.want(&pod(RestartPolicy::Always, &["a", "b"])).to_vec();
    assert!(effects.contains(&Effect::UpdatePod { pids_limit: 10 }));
    assert_eq!(launches(&effects), [("a".to_owned(), 0, 0), ("b".to_owned(), 0, 0)]);
    assert_eq!(bench.status("a"), ContainerStatus::Creating);
    assert_eq!(bench.started("a"), []);
    let running = ContainerStatus::Running { pid: 7, started_at: WallTime(1) };
    assert_eq!(bench.status("a"), running);
}

#[test]
fn an_exit_is_told_only_when_it_is_recorded() {
    let mut bench = Bench::new();
    bench.runs(&pod(RestartPolicy::Never, &["a"]));
    let effects = bench.exited("a", Exit::Code(0)).to_vec();
    assert!(matches!(effects.as_slice(), [Effect::Record { .. }]), "{effects:?}");
    let report = bench.machine.report().unwrap();
    assert_eq!((report.containers[0].last.clone(), report.finished), (None, None));
    bench.recorded("a");
    let last = bench.machine.report().unwrap().containers[0].last.clone().unwrap();
    assert_eq!((last.exit, last.started_at), (Exit::Code(0), Some(WallTime(1))));
    assert_eq!(bench.finished(), Some(Outcome::Succeeded));
}

#[test]
fn an_exit_that_could_not_be_recorded_is_recorded_again() {
    let mut bench = Bench::new();
    bench.runs(&pod(RestartPolicy::Always, &["a"]));
    bench.exited("a", Exit::Code(1));
    let why = "disk full".to_owned();
    let failed =
        Event::Recorded { container: name("a"), attempt: Attempt(0), result: Err(why.clone()) };
    assert_eq!(bench.step(failed), []);
    assert_eq!(bench.status("a"), ContainerStatus::Recording { fault: Some(why) });
    assert_eq!(bench.wake(), Some(1000 + RECORD_RETRY.0));
    assert_eq!(bench.at(1999), []);
    assert!(matches!(bench.at(2000), [Effect::Record { .. }]));
    assert_eq!(bench.wake(), None);
    // The back-off counts from the exit.
    bench.now = 2500;
    assert_eq!(launches(bench.recorded("a")), [("a".to_owned(), 1, 1)]);
}

#[test]
fn the_back_off_doubles_from_one_second_to_sixty() {
    let mut bench = Bench::new();
    bench.want(&pod(RestartPolicy::Always, &["a"]));
    for (n, delay) in [1, 2, 4, 8, 16, 32, 60, 60, 60].into_iter().enumerate() {
        bench.started("a");
        bench.ends("a", Exit::Code(1));
        let delay = delay * 1000;
        let status = bench.status("a");
        let until = BootTime(bench.now + delay);
        assert_eq!(status, ContainerStatus::BackingOff { until, delay: Millis(delay) });
        assert_eq!(bench.wake(), Some(until.0));
        assert_eq!(bench.at(until.0 - 1), []);
        let attempt = u32::try_from(n + 1).unwrap();
        assert_eq!(launches(bench.at(until.0)), [("a".to_owned(), attempt, attempt)]);
    }
}

#[test]
fn a_run_of_ten_minutes_clears_the_back_off() {
    let spec = pod(RestartPolicy::Always, &["a"]);
    for (lasted, delay) in [(599_999, 2000), (600_000, 1000)] {
        let mut bench = Bench::new();
        bench.runs(&spec);
        bench.ends("a", Exit::Code(0));
        bench.at(2000);
        bench.started("a");
        bench.now += lasted;
        bench.ends("a", Exit::Code(0));
        assert_eq!(bench.wake(), Some(bench.now + delay), "after {lasted}");
    }
}

#[test]
fn no_number_of_early_ends_overflows_the_back_off() {
    let policy = BackoffPolicy::default();
    assert_eq!(delay(&policy, 0), Millis(0));
    for streak in [7, 64, 65, u32::MAX] {
        assert_eq!(delay(&policy, streak), policy.max);
    }
}

#[test]
fn a_run_once_container_never_runs_again() {
    let spec = pod(RestartPolicy::Never, &["a"]);
    for exit in [Exit::Code(1), Exit::Unknown, Exit::NotStarted("x".to_owned()), Exit::OutOfMemory]
    {
        let mut bench = Bench::new();
        bench.runs(&spec);
        bench.ends("a", exit);
        assert_eq!(bench.at(u64::MAX / 2), []);
        assert_eq!(launches(bench.want(&spec)), []);
        assert_eq!((bench.wake(), bench.finished()), (None, Some(Outcome::Failed)));
    }
}

#[test]
fn on_failure_runs_again_until_success() {
    let mut bench = Bench::new();
    bench.runs(&pod(RestartPolicy::OnFailure, &["a"]));
    bench.ends("a", Exit::Signal(9));
    assert_eq!(bench.finished(), None);
    assert_eq!(launches(bench.at(2000)).len(), 1);
    bench.started("a");
    bench.ends("a", Exit::Code(0));
    assert_eq!((bench.wake(), bench.finished()), (None, Some(Outcome::Succeeded)));
}

#[test]
fn a_pod_is_finished_when_all_are_through_and_failed_if_one_did() {
    let mut bench = Bench::new();
    bench.runs(&pod(RestartPolicy::Never, &["a", "b"]));
    bench.ends("a", Exit::Code(3));
    assert_eq!(bench.finished(), None);
    bench.ends("b", Exit::Code(0));
    assert_eq!(bench.finished(), Some(Outcome::Failed));
}

#[test]
fn another_hash_restarts_only_that_container_and_at_once() {
    let spec = pod(RestartPolicy::Never, &["a", "b"]);
    let mut bench = Bench::new();
    bench.runs(&spec);
    assert_eq!(bench.want(&changed(&spec, "a")), [stop_of("a", 0)]);
    bench.exited("a", Exit::Signal(15));
    assert_eq!(launches(bench.recorded("a")), [("a".to_owned(), 1, 0)]);
    assert!(matches!(bench.status("b"), ContainerStatus::Running { .. }));
}

#[test]
fn a_change_of_what_is_through_or_backs_off_is_launched_at_once() {
    for policy in [RestartPolicy::Never, RestartPolicy::Always] {
        let spec = pod(policy, &["a"]);
        let mut bench = Bench::new();
        bench.runs(&spec);
        bench.ends("a", Exit::Code(1));
        assert_eq!(launches(bench.want(&changed(&spec, "a"))), [("a".to_owned(), 1, 0)]);
    }
}

#[test]
fn a_change_during_the_start_takes_effect_after_it() {
    let spec = pod(RestartPolicy::Always, &["a"]);
    let mut bench = Bench::new();
    bench.want(&spec);
    assert_eq!(bench.want(&changed(&spec, "a")), []);
    assert_eq!(bench.started("a"), [stop_of("a", 0)]);
}

#[test]
fn limits_and_labels_change_in_place() {
    let mut spec = pod(RestartPolicy::Always, &["a"]);
    let mut bench = Bench::new();
    bench.runs(&spec);
    spec.labels.insert("x".to_owned(), "y".to_owned());
    assert_eq!(bench.want(&spec), []);
    spec.pids_limit = 11;
    assert_eq!(bench.want(&spec), [Effect::UpdatePod { pids_limit: 11 }]);
    spec.resources.memory_limit_bytes = Some(1 << 30);
    assert_eq!(bench.want(&spec), [Effect::UpdatePod { pids_limit: 11 }]);
    let resources = Resources { memory_limit_bytes: Some(1), ..Resources::default() };
    spec.containers[0].resources = resources;
    let update = Effect::Update { container: name("a"), attempt: Attempt(0), resources };
    assert_eq!(bench.want(&spec), [update]);
    assert_eq!(bench.want(&spec), []);
}

#[test]
fn limits_that_could_not_be_applied_are_reported_and_tried_again_when_told_again() {
    let mut spec = pod(RestartPolicy::Always, &["a"]);
    let mut bench = Bench::new();
    bench.runs(&spec);
    spec.containers[0].resources.memory_limit_bytes = Some(1);
    bench.want(&spec);
    let why = "busy".to_owned();
    let refused = Event::NotUpdated { container: name("a"), why: why.clone() };
    assert_eq!(bench.step(refused), []);
    let fault = |bench: &Bench| bench.machine.report().unwrap().containers[0].update_fault.clone();
    assert_eq!((fault(&bench), bench.at(90_000)), (Some(why), &[][..]));
    assert!(matches!(bench.want(&spec), [Effect::Update { .. }]));
    assert_eq!(fault(&bench), None);
}

#[test]
fn a_new_run_has_the_new_limits() {
    let spec = pod(RestartPolicy::Always, &["a"]);
    let mut bench = Bench::new();
    bench.runs(&spec);
    bench.step(Event::NotUpdated { container: name("a"), why: "busy".to_owned() });
    bench.ends("a", Exit::Code(1));
    bench.at(2000);
    bench.started("a");
    assert_eq!(bench.machine.report().unwrap().containers[0].update_fault, None);
}

#[test]
fn a_stop_waits_the_grace_period_exactly_and_then_kills_every_second() {
    let spec = pod(RestartPolicy::Always, &["a"]);
    let mut bench = Bench::new();
    bench.runs(&spec);
    assert_eq!(bench.stop(&spec, 5000), [stop_of("a", 0)]);
    assert_eq!(bench.wake(), Some(6000));
    assert_eq!(bench.at(5999), []);
    assert_eq!(bench.at(6000), [kill_of("a", 0)]);
    assert_eq!(bench.at(6500), []);
    assert_eq!(bench.at(7000), [kill_of("a", 0)]);
    bench.ends("a", Exit::Signal(9));
    assert!(bench.machine.is_stopped());
    assert_eq!((bench.wake(), bench.finished()), (None, None));
}

#[test]
fn repetition_never_prolongs_the_grace_period_and_a_shorter_one_counts() {
    let spec = pod(RestartPolicy::Always, &["a"]);
    let mut bench = Bench::new();
    bench.runs(&spec);
    bench.stop(&spec, 5000);
    bench.now = 4000;
    assert_eq!(bench.stop(&spec, 5000), []);
    assert_eq!(bench.wake(), Some(6000));
    bench.stop(&spec, 90_000);
    assert_eq!(bench.wake(), Some(6000));
    bench.stop(&spec, 500);
    assert_eq!(bench.wake(), Some(4500));
    assert_eq!(bench.stop(&spec, 0), [kill_of("a", 0)]);
    assert_eq!(bench.stop(&spec, 0), []);
}

#[test]
fn without_a_grace_period_the_kill_comes_at_once_and_once() {
    let spec = pod(RestartPolicy::Always, &["a"]);
    let mut bench = Bench::new();
    bench.runs(&spec);
    assert_eq!(bench.stop(&spec, 0), [kill_of("a", 0)]);
    assert_eq!(bench.at(1001), []);
    assert_eq!(bench.wake(), Some(1000 + KILL_RETRY.0));
}

#[test]
fn a_stop_during_the_start_waits_for_the_start_but_the_grace_period_at_most() {
    let spec = pod(RestartPolicy::Always, &["a"]);
    let mut bench = Bench::new();
    bench.want(&spec);
    assert_eq!(bench.stop(&spec, 5000), []);
    assert_eq!(bench.wake(), Some(6000));
    bench.now = 2000;
    assert_eq!(bench.started("a"), [stop_of("a", 0)]);
    assert_eq!(bench.wake(), Some(6000));

    let mut bench = Bench::new();
    bench.want(&spec);
    bench.stop(&spec, 5000);
    assert!(!bench.machine.is_stopped());
    assert_eq!(bench.at(6000), [kill_of("a", 0)]);
    bench.ends("a", Exit::NotStarted("killed".to_owned()));
    assert!(bench.machine.is_stopped());
}

#[test]
fn a_start_that_is_wanted_again_is_not_killed_for_the_stop_that_was_wanted() {
    let spec = pod(RestartPolicy::Always, &["a"]);
    let mut bench = Bench::new();
    bench.want(&spec);
    bench.stop(&spec, 5000);
    assert_eq!(bench.want(&spec), []);
    assert_eq!(bench.at(6000), []);
    assert_eq!(bench.at(1000 + LAUNCH_TIME_MAX.0), [kill_of("a", 0)]);
}

#[test]
fn a_start_that_hangs_is_killed_and_tried_again() {
    let mut bench = Bench::new();
    bench.want(&pod(RestartPolicy::Always, &["a"]));
    assert_eq!(bench.at(1000 + LAUNCH_TIME_MAX.0 - 1), []);
    assert_eq!(bench.at(1000 + LAUNCH_TIME_MAX.0), [kill_of("a", 0)]);
    assert_eq!(bench.wake(), Some(1000 + LAUNCH_TIME_MAX.0 + KILL_RETRY.0));
    bench.ends("a", Exit::NotStarted("killed".to_owned()));
    let last = bench.machine.report().unwrap().containers[0].last.clone().unwrap();
    assert_eq!(last.started_at, None);
    assert_eq!(bench.wake(), Some(bench.now + 1000));
}

#[test]
fn a_start_that_was_killed_is_not_told_to_stop_as_well() {
    let spec = pod(RestartPolicy::Always, &["a"]);
    let mut bench = Bench::new();
    bench.want(&spec);
    assert_eq!(bench.stop(&spec, 0), [kill_of("a", 0)]);
    assert_eq!(bench.started("a"), []);
    assert!(matches!(bench.status("a"), ContainerStatus::Stopping { .. }));
    assert_eq!(bench.wake(), Some(bench.now + KILL_RETRY.0));
    bench.ends("a", Exit::Signal(9));
    assert!(bench.machine.is_stopped());
}

#[test]
fn a_container_that_left_the_specification_is_stopped_and_its_numbers_are_not_used_again() {
    let both = pod(RestartPolicy::Always, &["a", "b"]);
    let one = pod(RestartPolicy::Always, &["a"]);
    let mut bench = Bench::new();
    bench.runs(&both);
    assert_eq!(bench.want(&one), [stop_of("b", 0)]);
    assert!(matches!(bench.status("b"), ContainerStatus::Stopping { .. }));
    bench.ends("b", Exit::Signal(15));
    assert_eq!(bench.machine.report().unwrap().containers.len(), 1);
    bench.now = 90_000;
    assert_eq!(launches(bench.want(&both)), [("b".to_owned(), 1, 1)]);
}

#[test]
fn what_belongs_to_another_run_is_ignored() {
    let mut bench = Bench::new();
    bench.runs(&pod(RestartPolicy::Always, &["a"]));
    let before = bench.machine.clone();
    let (container, attempt, at) = (name("a"), Attempt(9), WallTime(1));
    let strange = [
        Event::Started { container: container.clone(), attempt, pid: 1, at },
        Event::Exited {
            container: container.clone(),
            attempt,
            exit: Exit::Code(0),
            message: None,
            at,
        },
        Event::Recorded { container, attempt, result: Ok(()) },
        Event::Recorded { container: name("a"), attempt: Attempt(0), result: Ok(()) },
        Event::Started { container: name("zz"), attempt: Attempt(0), pid: 1, at },
    ];
    for event in strange {
        assert_eq!(bench.step(event), []);
        assert_eq!(bench.machine, before);
    }
}

#[test]
fn when_a_pod_got_ready_or_unready_is_told() {
    let mut bench = Bench::new();
    let note = |bench: &mut Bench, at| {
        bench.machine.note_readiness(WallTime(at));
        bench.machine.report().and_then(|report| report.ready_since)
    };
    assert_eq!(note(&mut bench, 1), None);
    bench.runs(&pod(RestartPolicy::Always, &["a", "b"]));
    assert_eq!(note(&mut bench, 2), Some(WallTime(2)));
    assert_eq!(note(&mut bench, 3), Some(WallTime(2)));
    bench.ends("a", Exit::Code(1));
    assert_eq!(note(&mut bench, 4), Some(WallTime(4)));
    bench.ends("b", Exit::Code(1));
    assert_eq!(note(&mut bench, 5), Some(WallTime(4)));
    bench.started("a");
    assert_eq!(note(&mut bench, 6), Some(WallTime(4)));
}

fn recovered(exit: Exit, spec: &PodSpec, streak: u32) -> BTreeMap<ContainerName, Recovered> {
    let (started_at, finished_at, message) = (None, WallTime(0), None);
    let last = LastRun { attempt: Attempt(4), started_at, finished_at, exit, message };
    let hash = Revision::of(spec).containers[&name("a")];
    BTreeMap::from([(name("a"), Recovered { last, hash: Some(hash), streak, pod_since: None })])
}

#[test]
fn a_recovered_run_counts_with_its_back_off() {
    let spec = pod(RestartPolicy::Always, &["a"]);
    let mut bench = Bench::recovered(recovered(Exit::Unknown, &spec, 3));
    assert_eq!(launches(bench.want(&spec)), []);
    assert_eq!(bench.wake(), Some(5000));
    assert_eq!(launches(bench.at(5000)), [("a".to_owned(), 5, 3)]);
}

#[test]
fn an_unknown_end_of_a_run_once_container_is_a_failure_and_not_run_again() {
    let spec = pod(RestartPolicy::Never, &["a"]);
    let mut bench = Bench::recovered(recovered(Exit::Unknown, &spec, 1));
    assert_eq!(launches(bench.want(&spec)), []);
    assert_eq!((bench.wake(), bench.finished()), (None, Some(Outcome::Failed)));
}

#[test]
fn a_run_of_which_only_the_number_is_known_counts_as_one_of_what_is_wanted_first() {
    let spec = pod(RestartPolicy::Never, &["a"]);
    let mut found = recovered(Exit::Unknown, &spec, 0);
    found.values_mut().for_each(|container| container.hash = None);
    let mut bench = Bench::recovered(found);
    assert_eq!(launches(bench.want(&spec)), []);
    assert_eq!((bench.wake(), bench.finished()), (None, Some(Outcome::Failed)));
}

#[test]
fn the_handed_over_machine_is_the_same() {
    let spec = pod(RestartPolicy::Always, &["a", "b", "c"]);
    let mut bench = Bench::new();
    bench.runs(&spec);
    bench.exited("b", Exit::Code(0));
    bench.stop(&spec, 10);
    let json = serde_json::to_string(&bench.machine).unwrap();
    assert_eq!(serde_json::from_str::<PodMachine>(&json).unwrap(), bench.machine);
}

/// What may come from the shell, right or wrong.
#[derive(Debug, Clone)]
enum Input {
    Want { spec: usize, stop: Option<u64> },
    Started { container: usize, attempt: u32 },
    Exited { container: usize, attempt: u32, code: u8 },
    Recorded { container: usize, attempt: u32, fails: bool },
    NotUpdated { container: usize },
    Answered { container: usize, attempt: u32, purpose: usize, verdict: u8 },
    Tick,
    HandOver,
}

fn inputs() -> impl Strategy<Value = Vec<(u64, Input)>> {
    let input = prop_oneof![
        (0_usize..8, proptest::option::of(0_u64..3000))
            .prop_map(|(spec, stop)| Input::Want { spec, stop }),
        (0_usize..3, 0_u32..6)
            .prop_map(|(container, attempt)| Input::Started { container, attempt }),
        (0_usize..3, 0_u32..6, 0_u8..2).prop_map(|(container, attempt, code)| Input::Exited {
            container,
            attempt,
            code
        }),
        (0_usize..3, 0_u32..6, any::<bool>())
            .prop_map(|(container, attempt, fails)| Input::Recorded { container, attempt, fails }),
        (0_usize..3).prop_map(|container| Input::NotUpdated { container }),
        (0_usize..3, 0_u32..6, 0_usize..4, 0_u8..3).prop_map(
            |(container, attempt, purpose, verdict)| Input::Answered {
                container,
                attempt,
                purpose,
                verdict
            }
        ),
        Just(Input::Tick),
        Just(Input::HandOver),
    ];
    proptest::collection::vec((0_u64..2500, input), 1..60)
}

const NAMES: [&str; 3] = ["a", "b", "c"];
const PURPOSES: [Purpose; 4] =
    [Purpose::Startup, Purpose::Liveness, Purpose::Readiness, Purpose::Check];

fn specs() -> Vec<PodSpec> {
    let always = pod(RestartPolicy::Always, &["a", "b"]);
    let mut limited = always.clone();
    limited.containers[0].resources.cpu_limit_milli = Some(5);
    vec![
        changed(&always, "a"),
        always,
        limited,
        pod(RestartPolicy::Never, &["a", "b", "c"]),
        pod(RestartPolicy::OnFailure, &["b"]),
        pod(RestartPolicy::Always, &["c"]),
        probing::with(|a| {
            a.startup = Some(probing::probe());
            a.liveness = Some(probing::probe());
            a.readiness = Some(probing::probe());
        }),
        probing::with(|a| {
            a.liveness = Some(Probe { failure_threshold: 1, ..probing::probe() });
            a.check = Some(probing::check());
        }),
        initialized(RestartPolicy::Always, "a", &["b", "c"]),
        initialized(RestartPolicy::Never, "b", &["a"]),
    ]
}

fn initialized(policy: RestartPolicy, init: &str, main: &[&str]) -> PodSpec {
    PodSpec { init_containers: vec![container(init)], ..pod(policy, main) }
}

fn event(input: &Input, specs: &[PodSpec], number: u64) -> Event {
    let at = WallTime(number);
    match input {
        Input::Want { spec, stop } => {
            let goal = stop.map_or(Goal::Run, |grace| Goal::Stop { grace: Millis(grace) });
            Event::Wanted(WantedPod { number, goal, spec: Arc::new(specs[*spec].clone()) })
        }
        Input::Started { container, attempt } => {
            let attempt = Attempt(*attempt);
            Event::Started { container: name(NAMES[*container]), attempt, pid: 1, at }
        }
        Input::Exited { container, attempt, code } => {
            let (container, attempt) = (name(NAMES[*container]), Attempt(*attempt));
            Event::Exited { container, attempt, exit: Exit::Code(*code), message: None, at }
        }
        Input::Recorded { container, attempt, fails } => {
            let (container, attempt) = (name(NAMES[*container]), Attempt(*attempt));
            let result = if *fails { Err("no".to_owned()) } else { Ok(()) };
            Event::Recorded { container, attempt, result }
        }
        Input::NotUpdated { container } => {
            Event::NotUpdated { container: name(NAMES[*container]), why: "no".to_owned() }
        }
        Input::Answered { container, attempt, purpose, verdict } => {
            let (container, attempt) = (name(NAMES[*container]), Attempt(*attempt));
            let answer = match verdict {
                0 => probing::good(),
                1 => probing::bad(),
                _ => Answer::NotAsked { why: "no".to_owned() },
            };
            Event::Answered { container, attempt, purpose: PURPOSES[*purpose], answer }
        }
        Input::Tick => Event::Tick,
        Input::HandOver => Event::AnswersLost,
    }
}

proptest! {
    // A step takes microseconds; what 256 cases miss, 4000 may find.
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// Whatever comes: no two live runs of a container, numbers only grow, a kill is not repeated
    /// within a second, one question of a kind at a time and only of what runs, and the machine
    /// never asks to be woken in the past.
    #[test]
    fn any_sequence_of_events_is_borne(inputs in inputs()) {
        let specs = specs();
        let mut machine = PodMachine::new(BTreeMap::new(), BootTime(0));
        let mut now = 0;
        let mut live: BTreeMap<ContainerName, Attempt> = BTreeMap::new();
        let mut newest: BTreeMap<ContainerName, Attempt> = BTreeMap::new();
        let mut killed: BTreeMap<(ContainerName, Attempt), u64> = BTreeMap::new();
        let mut open: BTreeMap<(ContainerName, Purpose), Attempt> = BTreeMap::new();
        for (number, (passes, input)) in inputs.iter().enumerate() {
            now += passes;
            if let Input::HandOver = input {
                let json = serde_json::to_string(&machine).unwrap();
                machine = serde_json::from_str(&json).unwrap();
                open.clear();
            }
            if let Input::Answered { container, attempt, purpose, .. } = input {
                let key = (name(NAMES[*container]), PURPOSES[*purpose]);
                if open.get(&key) == Some(&Attempt(*attempt)) {
                    open.remove(&key);
                }
            }
            if let Input::Exited { container, attempt, .. } = input {
                let container = name(NAMES[*container]);
                if live.get(&container) == Some(&Attempt(*attempt)) {
                    live.remove(&container);
                    open.retain(|(of, _), _| *of != container);
                }
            }
            let event = event(input, &specs, u64::try_from(number).unwrap());
            for effect in machine.step(event, BootTime(now)) {
                match effect {
                    Effect::Launch { container, attempt, .. } => {
                        prop_assert_eq!(live.insert(container.clone(), attempt), None);
                        let before = newest.insert(container, attempt);
                        prop_assert!(before.is_none_or(|before| before < attempt));
                    }
                    Effect::Kill { container, attempt } => {
                        prop_assert_eq!(live.get(&container), Some(&attempt));
                        let before = killed.insert((container, attempt), now);
                        prop_assert!(before.is_none_or(|at| now - at >= KILL_RETRY.0));
                    }
                    Effect::Stop { container, attempt }
                    | Effect::Update { container, attempt, .. } => {
                        prop_assert_eq!(live.get(&container), Some(&attempt));
                    }
                    Effect::Record { container, run } => {
                        prop_assert_eq!(live.get(&container), None);
                        prop_assert_eq!(newest.get(&container), Some(&run.attempt));
                    }
                    Effect::Ask { container, attempt, purpose, .. } => {
                        prop_assert_eq!(live.get(&container), Some(&attempt));
                        prop_assert_eq!(open.insert((container, purpose), attempt), None);
                    }
                    Effect::Unask { container, attempt, purpose } => {
                        prop_assert_eq!(open.remove(&(container, purpose)), Some(attempt));
                    }
                    Effect::UpdatePod { .. } => {}
                }
            }
            prop_assert!(machine.wake_at().is_none_or(|at| at > BootTime(now)));
            if machine.is_stopped() {
                prop_assert!(live.is_empty());
            }
            let again = machine.step(Event::Tick, BootTime(now));
            prop_assert!(again.is_empty(), "nothing new happened: {:?}", again);
        }
    }
}
