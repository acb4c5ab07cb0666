//! Init containers, sidecars, and the end of a pod.

use super::*;
use crate::manifest::pod::{ContainerRestart, ExitCodes, RestartAction, RestartRule};

fn restarts(policy: RestartPolicy) -> Option<ContainerRestart> {
    Some(ContainerRestart { policy, rules: vec![] })
}

/// `init` in their order, those that begin with `s` being sidecars, then `main`.
fn with_init(policy: RestartPolicy, init: &[&str], main: &[&str]) -> PodSpec {
    let mut spec = pod(policy, main);
    spec.init_containers = init.iter().map(|name| container(name)).collect();
    for container in &mut spec.init_containers {
        if container.name.as_str().starts_with('s') {
            container.restart = restarts(RestartPolicy::Always);
        }
    }
    spec
}

fn names(effects: &[Effect]) -> Vec<String> {
    launches(effects).into_iter().map(|(name, ..)| name).collect()
}

impl Bench {
    fn initializing(&self) -> bool {
        self.machine.report().unwrap().initializing
    }

    /// Lets the pod `i s | a b` run.
    fn runs_with_sidecars(&mut self, spec: &PodSpec) {
        self.want(spec);
        for container in spec.all_containers() {
            self.started(container.name.as_str());
            if container.name.as_str().starts_with('i') {
                self.ends(container.name.as_str(), Exit::Code(0));
            }
        }
        assert!(!self.initializing());
    }
}

#[test]
fn init_containers_run_one_after_the_other_and_then_all_others() {
    let spec = with_init(RestartPolicy::Always, &["i0", "s1", "i2"], &["a", "b"]);
    let mut bench = Bench::new();
    assert_eq!(names(bench.want(&spec)), ["i0"]);
    assert!(bench.initializing());
    assert_eq!(bench.status("a"), ContainerStatus::Creating);
    assert_eq!(bench.started("i0"), []);
    // That it was successful has to be durable.
    assert_eq!(names(bench.exited("i0", Exit::Code(0))), [""; 0]);
    assert_eq!(names(bench.recorded("i0")), ["s1"]);
    assert_eq!(bench.status("i0"), ContainerStatus::Terminated);
    assert_eq!(names(bench.started("s1")), ["i2"]);
    assert_eq!(bench.started("i2"), []);
    assert_eq!(names(bench.ends("i2", Exit::Code(0))), ["a", "b"]);
    assert!(!bench.initializing());
    assert_eq!((bench.finished(), bench.wake()), (None, Some(1000 + LAUNCH_TIME_MAX.0)));
}

#[test]
fn what_restarts_later_does_not_undo_the_initialization() {
    let spec = with_init(RestartPolicy::Always, &["i", "s"], &["a"]);
    let mut bench = Bench::new();
    bench.runs_with_sidecars(&spec);
    bench.ends("s", Exit::Code(0));
    bench.ends("a", Exit::Code(1));
    bench.machine = serde_json::from_str(&serde_json::to_string(&bench.machine).unwrap()).unwrap();
    let mut again = names(bench.at(2000));
    again.sort();
    assert_eq!(again, ["a", "s"]);
}

#[test]
fn an_init_container_that_fails_backs_off_and_nothing_follows() {
    for policy in [RestartPolicy::Always, RestartPolicy::OnFailure] {
        let mut bench = Bench::new();
        bench.want(&with_init(policy, &["i"], &["a"]));
        for delay in [1000, 2000, 4000] {
            bench.started("i");
            bench.ends("i", Exit::Code(1));
            assert_eq!((bench.finished(), bench.wake()), (None, Some(bench.now + delay)));
            assert_eq!(bench.at(bench.now + delay - 1), []);
            assert_eq!(names(bench.at(bench.now + 1)), ["i"]);
        }
        assert_eq!(bench.status("a"), ContainerStatus::Creating);
    }
}

#[test]
fn an_init_container_that_fails_for_good_fails_the_pod_and_its_sidecars_are_stopped() {
    for exit in [Exit::Code(3), Exit::NotStarted("x".to_owned()), Exit::OutOfMemory] {
        let mut bench = Bench::new();
        bench.want(&with_init(RestartPolicy::Never, &["s", "i"], &["a"]));
        bench.started("s");
        bench.started("i");
        assert_eq!(bench.ends("i", exit), [stop_of("s", 0)]);
        assert_eq!(bench.finished(), None);
        bench.ends("s", Exit::Signal(15));
        assert_eq!((bench.finished(), bench.wake()), (Some(Outcome::Failed), None));
        assert!(bench.initializing());
        assert_eq!(bench.at(u64::MAX / 2), []);
    }
}

#[test]
fn a_container_has_its_own_restart_policy() {
    let mut spec = with_init(RestartPolicy::Never, &["i"], &["a", "b"]);
    spec.init_containers[0].restart = restarts(RestartPolicy::OnFailure);
    spec.containers[0].restart = restarts(RestartPolicy::Always);
    let mut bench = Bench::new();
    bench.want(&spec);
    bench.started("i");
    bench.ends("i", Exit::Code(1));
    assert_eq!(names(bench.at(2000)), ["i"]);
    bench.started("i");
    assert_eq!(names(bench.ends("i", Exit::Code(0))), ["a", "b"]);
    for name in ["a", "b"] {
        bench.started(name);
        bench.ends(name, Exit::Code(0));
    }
    assert_eq!(bench.finished(), None);
    assert_eq!(names(bench.at(3000)), ["a"]);
}

#[test]
fn when_all_are_through_sidecars_are_stopped_in_reverse_order_and_their_ends_do_not_count() {
    let spec = with_init(RestartPolicy::Never, &["s0", "i1", "s2"], &["a", "b"]);
    let mut bench = Bench::new();
    bench.runs_with_sidecars(&spec);
    assert_eq!(bench.ends("a", Exit::Code(0)), []);
    assert_eq!(bench.ends("b", Exit::Code(0)), [stop_of("s2", 0)]);
    // The order is that of processes; that an end is durable is not waited for.
    let effects = bench.exited("s2", Exit::Code(7)).to_vec();
    assert!(effects.contains(&stop_of("s0", 0)), "{effects:?}");
    bench.recorded("s2");
    assert_eq!(bench.finished(), None);
    bench.ends("s0", Exit::Signal(9));
    assert_eq!((bench.finished(), bench.wake()), (Some(Outcome::Succeeded), None));
}

#[test]
fn a_sidecar_restarts_whatever_the_policy_of_the_pod() {
    for policy in [RestartPolicy::Never, RestartPolicy::OnFailure] {
        let mut bench = Bench::new();
        bench.runs_with_sidecars(&with_init(policy, &["s"], &["a"]));
        bench.ends("s", Exit::Code(0));
        assert_eq!(bench.finished(), None);
        assert_eq!(names(bench.at(2000)), ["s"]);
    }
}

#[test]
fn a_stop_ends_all_others_before_sidecars_within_one_grace_period() {
    let spec = with_init(RestartPolicy::Always, &["s0", "s1"], &["a", "b"]);
    let mut bench = Bench::new();
    bench.runs_with_sidecars(&spec);
    assert_eq!(bench.stop(&spec, 10_000), [stop_of("a", 0), stop_of("b", 0)]);
    bench.now = 4000;
    assert_eq!(bench.ends("a", Exit::Code(0)), []);
    assert_eq!(bench.wake(), Some(11_000));
    bench.exited("b", Exit::Code(0));
    assert!(bench.effects.contains(&stop_of("s1", 0)), "{:?}", bench.effects);
    // The rest of the period is all that it has, however often the wish is repeated.
    bench.now = 9500;
    bench.stop(&spec, 10_000);
    bench.recorded("b");
    assert_eq!(bench.wake(), Some(11_000));
    bench.exited("s1", Exit::Code(0));
    assert!(bench.effects.contains(&stop_of("s0", 0)), "{:?}", bench.effects);
    bench.recorded("s1");
    // It was told late, so it has two seconds of its own.
    assert_eq!(bench.wake(), Some(11_500));
    assert_eq!(bench.at(11_499), []);
    assert_eq!(bench.at(11_500), [kill_of("s0", 0)]);
    bench.ends("s0", Exit::Signal(9));
    assert!(bench.machine.is_stopped());
}

#[test]
fn when_the_grace_period_is_over_nobody_waits_for_anybody() {
    let spec = with_init(RestartPolicy::Always, &["s0", "s1"], &["a"]);
    let mut bench = Bench::new();
    bench.runs_with_sidecars(&spec);
    assert_eq!(bench.stop(&spec, 3000), [stop_of("a", 0)]);
    assert_eq!(bench.wake(), Some(4000));
    assert_eq!(bench.at(3999), []);
    let all = [kill_of("a", 0), stop_of("s0", 0), stop_of("s1", 0)];
    assert_eq!(bench.at(4000), all);
    assert_eq!(bench.at(5999), [kill_of("a", 0)]);
    assert_eq!(bench.at(6000), [kill_of("s0", 0), kill_of("s1", 0)]);
}

#[test]
fn a_stop_at_once_kills_sidecars_at_once() {
    let spec = with_init(RestartPolicy::Always, &["s"], &["a"]);
    let mut bench = Bench::new();
    bench.runs_with_sidecars(&spec);
    assert_eq!(bench.stop(&spec, 0), [kill_of("a", 0), kill_of("s", 0)]);

    // Also those that were told late and still have time.
    let mut bench = Bench::new();
    bench.runs_with_sidecars(&spec);
    bench.stop(&spec, 1000);
    bench.at(2000);
    bench.now = 2500;
    assert_eq!(bench.stop(&spec, 0), [kill_of("s", 0)]);
}

#[test]
fn a_sidecar_that_ends_while_the_pod_does_is_not_started_again() {
    let spec = with_init(RestartPolicy::Always, &["s"], &["a"]);
    let mut bench = Bench::new();
    bench.runs_with_sidecars(&spec);
    bench.stop(&spec, 90_000);
    bench.ends("s", Exit::Code(1));
    assert_eq!(bench.at(60_000), []);
    bench.ends("a", Exit::Code(0));
    assert!(bench.machine.is_stopped());
}

#[test]
fn a_stop_during_the_initialization_starts_nothing_more() {
    let spec = with_init(RestartPolicy::Always, &["i", "s"], &["a"]);
    let mut bench = Bench::new();
    bench.want(&spec);
    bench.started("i");
    assert_eq!(bench.stop(&spec, 5000), [stop_of("i", 0)]);
    bench.ends("i", Exit::Code(0));
    assert!(bench.machine.is_stopped());
    assert_eq!(bench.finished(), None);
}

/// Another executor has other namespaces: what init containers did there is gone.
#[test]
fn another_executor_initializes_again_before_anything_is_started() {
    let spec = with_init(RestartPolicy::Always, &["i", "s"], &["a"]);
    let mut bench = Bench::recovered(ended(&spec, &[("i", Exit::Code(0)), ("a", Exit::Unknown)]));
    assert_eq!(launches(bench.want(&spec)), [("i".to_owned(), 5, 0)]);
    assert_eq!(bench.status("a"), ContainerStatus::Creating);
    assert_eq!(bench.at(90_000), []);
    bench.started("i");
    assert_eq!(names(bench.ends("i", Exit::Code(0))), ["s"]);
    assert_eq!(names(bench.started("s")), ["a"]);
}

#[test]
fn a_pod_of_which_nothing_is_to_be_started_is_not_initialized() {
    let spec = with_init(RestartPolicy::Never, &["i", "s"], &["a"]);
    for (exit, outcome) in [(Exit::Code(0), Outcome::Succeeded), (Exit::Unknown, Outcome::Failed)] {
        let mut bench = Bench::recovered(ended(&spec, &[("i", Exit::Code(0)), ("a", exit)]));
        assert_eq!(launches(bench.want(&spec)), []);
        assert_eq!((bench.wake(), bench.finished()), (None, Some(outcome)));
    }
}

/// Invariant 1.
#[test]
fn an_init_container_whose_end_nobody_knows_has_failed_where_nothing_is_run_again() {
    let mut found =
        ended(&with_init(RestartPolicy::Never, &["i"], &["a"]), &[("i", Exit::Unknown)]);
    let mut bench = Bench::recovered(found.clone());
    assert_eq!(launches(bench.want(&with_init(RestartPolicy::Never, &["i"], &["a"]))), []);
    assert_eq!(bench.finished(), Some(Outcome::Failed));

    let spec = with_init(RestartPolicy::Always, &["i"], &["a"]);
    found.get_mut(&name("i")).unwrap().streak = 3;
    let mut bench = Bench::recovered(found);
    assert_eq!(launches(bench.want(&spec)), []);
    assert_eq!(names(bench.at(5000)), ["i"]);
}

#[test]
fn a_sidecar_that_is_changed_restarts_alone() {
    let mut spec = with_init(RestartPolicy::Always, &["i", "s"], &["a"]);
    let mut bench = Bench::new();
    bench.runs_with_sidecars(&spec);
    spec.init_containers[1].command.push("x".to_owned());
    assert_eq!(bench.want(&spec), [stop_of("s", 0)]);
    assert_eq!(names(bench.ends("s", Exit::Signal(15))), ["s"]);
    spec.init_containers.push(container("s2"));
    spec.init_containers[2].restart = restarts(RestartPolicy::Always);
    assert_eq!(names(bench.want(&spec)), ["s2"]);
}

fn rule(action: RestartAction, code: u8) -> Vec<RestartRule> {
    vec![RestartRule { action, when: ExitCodes::In, values: vec![code] }]
}

#[test]
fn a_rule_counts_before_the_restart_policy() {
    let mut spec = pod(RestartPolicy::Never, &["a"]);
    let rules = rule(RestartAction::Restart, 42);
    spec.containers[0].restart = Some(ContainerRestart { policy: RestartPolicy::Never, rules });
    let mut bench = Bench::new();
    bench.runs(&spec);
    bench.ends("a", Exit::Code(42));
    assert_eq!((bench.finished(), bench.wake()), (None, Some(2000)));
    bench.at(2000);
    bench.started("a");
    bench.ends("a", Exit::Code(41));
    assert_eq!((bench.finished(), bench.wake()), (Some(Outcome::Failed), None));
}

#[test]
fn a_rule_may_restart_all_containers_with_the_initialization() {
    let mut spec = with_init(RestartPolicy::Never, &["i", "s"], &["a", "b"]);
    let rules = rule(RestartAction::RestartAllContainers, 88);
    spec.containers[0].restart = Some(ContainerRestart { policy: RestartPolicy::Never, rules });
    let mut bench = Bench::new();
    bench.runs_with_sidecars(&spec);
    assert_eq!(bench.ends("a", Exit::Code(88)), [stop_of("b", 0)]);
    assert_eq!((bench.finished(), bench.wake()), (None, Some(6000)));
    bench.exited("b", Exit::Signal(15));
    assert!(bench.effects.contains(&stop_of("s", 0)), "{:?}", bench.effects);
    bench.recorded("b");
    bench.exited("s", Exit::Signal(15));
    assert_eq!(names(bench.recorded("s")), ["i"]);
    assert!(bench.initializing());
    bench.started("i");
    bench.now = 1500;
    bench.ends("i", Exit::Code(0));
    // It was stopped for others, and its back-off goes on.
    assert_eq!(names(bench.at(2000)), ["s"]);
    let mut again = names(bench.started("s"));
    again.sort();
    assert_eq!(again, ["a", "b"]);
    for name in ["a", "b"] {
        bench.started(name);
        bench.ends(name, Exit::Code(0));
    }
    bench.ends("s", Exit::Code(0));
    assert_eq!(bench.finished(), Some(Outcome::Succeeded));
}

#[test]
fn a_machine_of_a_build_without_init_containers_goes_on() {
    let spec = pod(RestartPolicy::Always, &["a"]);
    let mut bench = Bench::new();
    bench.runs(&spec);
    let mut json = serde_json::to_value(&bench.machine).unwrap();
    json.as_object_mut().unwrap().remove("course").unwrap();
    bench.machine = serde_json::from_value(json).unwrap();
    let with_sidecar = with_init(RestartPolicy::Always, &["s"], &["a"]);
    assert_eq!(names(bench.want(&with_sidecar)), ["s"]);
    bench.started("s");
    assert!(!bench.initializing());
}

/// Runs of these containers that ended so before this executor.
fn ended(spec: &PodSpec, of: &[(&str, Exit)]) -> BTreeMap<ContainerName, Recovered> {
    let hashes = Revision::of(spec).containers;
    let recovered = |(of, exit): &(&str, Exit)| {
        let exit = exit.clone();
        let last = LastRun {
            attempt: Attempt(4),
            started_at: None,
            finished_at: WallTime(0),
            exit,
            message: None,
        };
        (name(of), Recovered { last, hash: Some(hashes[&name(of)]), streak: 0, pod_since: None })
    };
    of.iter().map(recovered).collect()
}

/// What happens to a pod, of what can happen.
#[derive(Debug, Clone, Copy)]
enum Turn {
    Started,
    Exited { code: u8 },
    Recorded,
    Stop { grace: u64 },
    HandOver,
    Tick,
}

fn turns() -> impl Strategy<Value = Vec<(u64, usize, Turn)>> {
    let turn = prop_oneof![
        4 => Just(Turn::Started),
        3 => (0_u8..2).prop_map(|code| Turn::Exited { code }),
        4 => Just(Turn::Recorded),
        1 => (0_u64..9000).prop_map(|grace| Turn::Stop { grace }),
        1 => Just(Turn::HandOver),
        2 => Just(Turn::Tick),
    ];
    proptest::collection::vec((0_u64..2500, 0_usize..5, turn), 1..80)
}

const ORDER: [&str; 5] = ["i0", "s1", "i2", "a", "b"];

/// What may be known of a pod from outside.
#[derive(Debug, Default)]
struct Seen {
    live: BTreeMap<String, Attempt>,
    /// Init containers that succeeded, sidecars that ran.
    done: Vec<String>,
    exited: BTreeMap<String, (Attempt, u8)>,
    stop_by: Option<u64>,
}

impl Seen {
    fn check(&mut self, effect: &Effect, now: u64) -> Result<(), TestCaseError> {
        match effect {
            Effect::Launch { container, attempt, .. } => {
                let which = ORDER.iter().position(|name| *name == container.as_str()).unwrap();
                for before in &ORDER[..which.min(3)] {
                    let is_done = self.done.iter().any(|done| done == before);
                    prop_assert!(is_done, "{} before {}", container, before);
                }
                let is_init = container.as_str().starts_with('i');
                prop_assert!(!is_init || !self.done.contains(&container.to_string()));
                prop_assert_eq!(self.stop_by, None);
                self.live.insert(container.to_string(), *attempt);
            }
            Effect::Stop { container, .. } if container.as_str() == "s1" => {
                let alone = self.live.keys().all(|name| name == "s1");
                let late = self.stop_by.is_some_and(|by| by <= now);
                prop_assert!(alone || late, "beside {:?}", self.live);
            }
            Effect::Stop { .. } => prop_assert!(self.stop_by.is_some()),
            Effect::Kill { .. } => {
                prop_assert!(self.stop_by.is_some_and(|by| by <= now));
            }
            Effect::Record { .. }
            | Effect::Update { .. }
            | Effect::Ask { .. }
            | Effect::Unask { .. }
            | Effect::UpdatePod { .. } => {}
        }
        Ok(())
    }

    /// The event of a turn, if it is possible.
    fn event(&mut self, of: &str, turn: Turn) -> Option<Event> {
        let (container, at) = (name(of), WallTime(0));
        Some(match turn {
            Turn::Started => {
                let attempt = *self.live.get(of)?;
                if of.starts_with('s') {
                    self.done.push(of.to_owned());
                }
                Event::Started { container, attempt, pid: 1, at }
            }
            Turn::Exited { code } => {
                let attempt = self.live.remove(of)?;
                self.exited.insert(of.to_owned(), (attempt, code));
                Event::Exited { container, attempt, exit: Exit::Code(code), message: None, at }
            }
            Turn::Recorded => {
                let (attempt, code) = self.exited.remove(of)?;
                if code == 0 && of.starts_with('i') {
                    self.done.push(of.to_owned());
                }
                Event::Recorded { container, attempt, result: Ok(()) }
            }
            Turn::Stop { .. } | Turn::HandOver | Turn::Tick => Event::Tick,
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever happens, nothing starts before its turn, nothing is done twice, sidecars outlive
    /// the others, and nothing is killed early.
    #[test]
    fn the_order_is_kept_whatever_happens(turns in turns()) {
        let spec = with_init(RestartPolicy::OnFailure, &["i0", "s1", "i2"], &["a", "b"]);
        let mut bench = Bench::new();
        let mut seen = Seen::default();
        for effect in bench.want(&spec).to_vec() {
            seen.check(&effect, 1000)?;
        }
        for (passes, which, turn) in turns {
            // Nothing is kept waiting so long that its set-up is given up.
            bench.now += passes;
            if bench.now > LAUNCH_TIME_MAX.0 {
                break;
            }
            if let Turn::HandOver = turn {
                let json = serde_json::to_string(&bench.machine).unwrap();
                bench.machine = serde_json::from_str(&json).unwrap();
            }
            let effects = if let Turn::Stop { grace } = turn {
                let by = bench.now + grace;
                seen.stop_by = Some(seen.stop_by.map_or(by, |before| before.min(by)));
                bench.stop(&spec, grace).to_vec()
            } else {
                let Some(event) = seen.event(ORDER[which], turn) else { continue };
                // When all are through, sidecars are told to stop by themselves.
                bench.step(event).to_vec()
            };
            let is_through = bench.machine.course.outcome_is_near();
            if is_through && seen.stop_by.is_none() {
                seen.stop_by = Some(bench.now + 5000);
            }
            for effect in effects {
                seen.check(&effect, bench.now)?;
            }
            prop_assert!(bench.wake().is_none_or(|at| at > bench.now));
        }
    }
}
