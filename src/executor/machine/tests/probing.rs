//! Probes and checks, at exact times.

use super::*;
use crate::executor::protocol::Health;
use crate::executor::question::{Observed, Seen};
use crate::manifest::pod::{Check, Handler, Probe};

/// A probe of TCP port 80 each 10 s, with the defaults of Kubernetes.
pub(super) fn probe() -> Probe {
    Probe {
        handler: Handler::Tcp { host: None, port: 80 },
        initial_delay: Millis(0),
        period: Millis(10_000),
        timeout: Millis(1000),
        success_threshold: 1,
        failure_threshold: 3,
        termination_grace: None,
    }
}

pub(super) fn check() -> Check {
    Check {
        handler: Handler::Exec { command: vec!["check".to_owned()] },
        delay: Millis(15_000),
        interval: Millis(10_000),
        timeout: Millis(20_000),
    }
}

/// A pod of one container `a`, which is changed.
pub(super) fn with(change: impl FnOnce(&mut ContainerSpec)) -> PodSpec {
    let mut spec = pod(RestartPolicy::Always, &["a"]);
    change(&mut spec.containers[0]);
    spec
}

pub(super) fn good() -> Answer {
    Answer::Success(Observed { seen: Seen::Connected(true), text: String::new() })
}

pub(super) fn bad() -> Answer {
    Answer::Failure(Observed { seen: Seen::Connected(false), text: "refused".to_owned() })
}

fn code(code: u8) -> Answer {
    let observed = Observed { seen: Seen::ExitCode(code), text: "text".to_owned() };
    if code == 0 { Answer::Success(observed) } else { Answer::Failure(observed) }
}

/// What is asked, and not asked any more.
fn asks(effects: &[Effect]) -> Vec<(Purpose, bool)> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Ask { purpose, .. } => Some((*purpose, true)),
            Effect::Unask { purpose, .. } => Some((*purpose, false)),
            Effect::Launch { .. }
            | Effect::Stop { .. }
            | Effect::Kill { .. }
            | Effect::Record { .. }
            | Effect::Update { .. }
            | Effect::UpdatePod { .. } => None,
        })
        .collect()
}

const STARTUP: (Purpose, bool) = (Purpose::Startup, true);
const LIVENESS: (Purpose, bool) = (Purpose::Liveness, true);
const READINESS: (Purpose, bool) = (Purpose::Readiness, true);
const CHECK: (Purpose, bool) = (Purpose::Check, true);

impl Bench {
    fn answer_at(&mut self, now: u64, purpose: Purpose, answer: Answer) -> &[Effect] {
        self.now = now;
        let (container, attempt) = (name("a"), self.attempt("a"));
        self.step(Event::Answered { container, attempt, purpose, answer })
    }

    fn health(&self) -> Health {
        let report = self.machine.report().unwrap();
        report.containers.into_iter().next().unwrap().health.unwrap()
    }

    /// The machine in another process.
    fn hand_over(&mut self) -> &[Effect] {
        let json = serde_json::to_string(&self.machine).unwrap();
        self.machine = serde_json::from_str(&json).unwrap();
        self.step(Event::AnswersLost)
    }
}

#[test]
fn the_first_question_comes_after_the_initial_delay_and_then_one_each_period() {
    let spec = with(|a| {
        a.liveness = Some(Probe { initial_delay: Millis(5000), ..probe() });
    });
    let mut bench = Bench::new();
    bench.want(&spec);
    assert_eq!(asks(bench.started("a")), []);
    assert_eq!(bench.wake(), Some(6000));
    assert_eq!(asks(bench.at(5999)), []);
    assert_eq!(asks(bench.at(6000)), [LIVENESS]);
    assert_eq!(bench.wake(), None);
    assert_eq!(asks(bench.answer_at(6300, Purpose::Liveness, good())), []);
    assert_eq!(bench.wake(), Some(16_000));
    assert_eq!(asks(bench.at(16_000)), [LIVENESS]);
    // What is missed because an answer takes longer than a period is left out.
    assert_eq!(asks(bench.answer_at(37_000, Purpose::Liveness, good())), []);
    assert_eq!(bench.wake(), Some(46_000));
    // At the very moment it is due.
    bench.at(46_000);
    assert_eq!(asks(bench.answer_at(56_000, Purpose::Liveness, good())), [LIVENESS]);
}

#[test]
fn until_a_container_has_started_nothing_else_is_asked() {
    let spec = with(|a| {
        a.startup = Some(Probe { period: Millis(1000), ..probe() });
        a.liveness = Some(Probe { initial_delay: Millis(4000), ..probe() });
        a.readiness = Some(probe());
        a.check = Some(Check { delay: Millis(500), ..check() });
    });
    let mut bench = Bench::new();
    bench.want(&spec);
    assert_eq!(asks(bench.started("a")), [STARTUP]);
    assert_eq!((bench.health().started, bench.health().ready), (false, false));
    assert_eq!(asks(bench.answer_at(1100, Purpose::Startup, bad())), []);
    // But the check, which is never acted on.
    assert_eq!(asks(bench.at(1500)), [CHECK]);
    assert_eq!(asks(bench.at(2000)), [STARTUP]);
    // Readiness at once; liveness when its own delay is over, which began with the container.
    assert_eq!(asks(bench.answer_at(2100, Purpose::Startup, good())), [READINESS]);
    assert_eq!((bench.health().started, bench.health().ready), (true, false));
    assert_eq!(bench.wake(), Some(5000));
    bench.answer_at(2200, Purpose::Readiness, good());
    assert!(bench.health().ready);
    assert_eq!(asks(bench.at(5000)), [LIVENESS]);
    // The next run is asked everything anew.
    bench.ends("a", Exit::Code(1));
    bench.at(70_000);
    assert_eq!(asks(bench.started("a")), [STARTUP]);
    assert_eq!((bench.health().started, bench.health().ready), (false, false));
}

#[test]
fn h6_failures_in_a_row_stop_a_container_and_its_policy_starts_it_again() {
    let grace = Some(Millis(700));
    let spec = with(|a| a.liveness = Some(Probe { termination_grace: grace, ..probe() }));
    let mut bench = Bench::new();
    bench.runs(&spec);
    bench.answer_at(1100, Purpose::Liveness, bad());
    bench.at(11_000);
    bench.answer_at(11_100, Purpose::Liveness, bad());
    bench.at(21_000);
    // H5: a success in between begins the row anew.
    bench.answer_at(21_100, Purpose::Liveness, good());
    assert_eq!(bench.health().faults, []);
    for at in [31_000, 41_000] {
        bench.at(at);
        assert_eq!(bench.answer_at(at, Purpose::Liveness, bad()), []);
    }
    assert_eq!(bench.health().faults[0].count, 2);
    bench.at(51_000);
    assert_eq!(bench.answer_at(51_050, Purpose::Liveness, bad()), [stop_of("a", 0)]);
    let health = bench.health();
    assert_eq!((health.failed, health.ready), (Some(Purpose::Liveness), false));
    assert_eq!((health.faults[0].count, health.faults[0].text.as_str()), (3, "refused"));
    // Its own grace period, and nothing is asked meanwhile.
    assert_eq!(bench.wake(), Some(51_750));
    assert_eq!(bench.at(51_750), [kill_of("a", 0)]);
    bench.ends("a", Exit::Signal(9));
    let ContainerStatus::BackingOff { until, .. } = bench.status("a") else { panic!() };
    assert_eq!(launches(bench.at(until.0)), [("a".to_owned(), 1, 1)]);
    bench.started("a");
    assert_eq!(bench.health().failed, None);
}

#[test]
fn who_was_stopped_by_a_probe_has_not_succeeded_whatever_its_exit_code() {
    for (policy, again) in [(RestartPolicy::OnFailure, true), (RestartPolicy::Never, false)] {
        let mut spec = with(|a| a.startup = Some(Probe { failure_threshold: 1, ..probe() }));
        spec.restart_policy = policy;
        let mut bench = Bench::new();
        bench.runs(&spec);
        let effects = bench.answer_at(1100, Purpose::Startup, bad());
        assert_eq!(effects, [stop_of("a", 0)]);
        // The pod's grace period: the probe has none.
        assert_eq!(bench.wake(), Some(1100 + spec.termination_grace.0));
        bench.ends("a", Exit::Code(0));
        let backs_off = matches!(bench.status("a"), ContainerStatus::BackingOff { .. });
        assert_eq!(backs_off, again, "{policy:?}");
    }
}

#[test]
fn readiness_has_thresholds_both_ways_and_stops_nobody() {
    let spec = with(|a| {
        a.readiness = Some(Probe { success_threshold: 2, failure_threshold: 2, ..probe() });
    });
    let mut bench = Bench::new();
    bench.runs(&spec);
    let mut ready = Vec::new();
    let answers = [good(), bad(), good(), good(), bad(), good(), bad(), bad(), good(), good()];
    for (number, answer) in (0_u64..).zip(answers) {
        let at = 1000 + number * 10_000;
        bench.at(at);
        assert_eq!(bench.answer_at(at + 5, Purpose::Readiness, answer), []);
        ready.push(bench.health().ready);
    }
    let expected = [false, false, false, true, true, true, true, false, false, true];
    assert_eq!(ready, expected);
}

#[test]
fn what_could_not_be_asked_counts_neither_way_but_is_told() {
    let spec = with(|a| a.liveness = Some(Probe { failure_threshold: 2, ..probe() }));
    let mut bench = Bench::new();
    bench.runs(&spec);
    bench.answer_at(1100, Purpose::Liveness, bad());
    for number in 1..5 {
        bench.at(1000 + number * 10_000);
        let answer = Answer::NotAsked { why: "no memory".to_owned() };
        assert_eq!(bench.answer_at(1100 + number * 10_000, Purpose::Liveness, answer), []);
    }
    let fault = bench.health().faults[0].clone();
    assert_eq!((fault.is_failure, fault.count), (false, 5));
    bench.at(51_000);
    assert_eq!(bench.answer_at(51_000, Purpose::Liveness, bad()), [stop_of("a", 0)]);
}

#[test]
fn what_was_found_is_kept_over_an_upgrade_and_what_was_asked_is_asked_again() {
    let spec = with(|a| {
        a.liveness = Some(Probe { failure_threshold: 2, ..probe() });
        a.readiness = Some(probe());
    });
    let mut bench = Bench::new();
    bench.runs(&spec);
    bench.answer_at(1100, Purpose::Readiness, good());
    bench.answer_at(1200, Purpose::Liveness, bad());
    let before = bench.health();
    assert!(before.ready);
    bench.now = 5000;
    assert_eq!(asks(bench.hand_over()), []);
    assert_eq!(bench.health(), before);
    assert_eq!(asks(bench.at(11_000)), [LIVENESS, READINESS]);
    assert_eq!(asks(bench.hand_over()), [LIVENESS, READINESS]);
    assert_eq!(bench.health(), before);
    // The one before counts on.
    assert_eq!(bench.answer_at(11_100, Purpose::Liveness, bad())[1..], [stop_of("a", 0)]);
}

#[test]
fn a_probe_that_changes_begins_anew_and_the_container_stays_as_it_is() {
    let spec = with(|a| a.readiness = Some(probe()));
    let mut bench = Bench::new();
    bench.runs(&spec);
    bench.answer_at(1100, Purpose::Readiness, good());
    bench.at(11_000);
    let other = with(|a| {
        a.readiness = Some(Probe { initial_delay: Millis(3000), period: Millis(500), ..probe() });
    });
    bench.now = 11_200;
    // It is asked at once: the delay since the start is over.
    assert_eq!(asks(bench.want(&other)), [(Purpose::Readiness, false), READINESS]);
    assert!(bench.health().ready);
    bench.answer_at(11_300, Purpose::Readiness, good());
    assert_eq!(bench.wake(), Some(11_700));
    // Without a probe it is ready while it runs.
    assert_eq!(asks(bench.want(&with(|_| ()))), []);
    assert!(bench.health().ready);
    assert_eq!(bench.wake(), None);
    // One that comes has to say otherwise first.
    bench.want(&with(|a| a.readiness = Some(probe())));
    assert!(bench.health().ready);
}

#[test]
fn a_container_that_stops_is_not_asked_and_late_answers_do_not_count() {
    let spec = with(|a| {
        a.liveness = Some(Probe { failure_threshold: 1, ..probe() });
        a.readiness = Some(probe());
        a.check = Some(Check { delay: Millis(0), ..check() });
    });
    let mut bench = Bench::new();
    bench.runs(&spec);
    bench.answer_at(1100, Purpose::Readiness, good());
    assert!(bench.health().ready);
    let effects = bench.stop(&spec, 5000).to_vec();
    assert_eq!(asks(&effects), [(Purpose::Liveness, false), (Purpose::Check, false)]);
    assert!(effects.contains(&stop_of("a", 0)));
    assert!(!bench.health().ready);
    assert_eq!(bench.answer_at(1200, Purpose::Liveness, bad()), []);
    assert_eq!(bench.health().failed, None);
    assert_eq!(bench.wake(), Some(6100));
    // Nor of another run.
    bench.ends("a", Exit::Code(0));
    bench.want(&spec);
    bench.at(90_000);
    bench.started("a");
    let stale = Event::Answered {
        container: name("a"),
        attempt: Attempt(0),
        purpose: Purpose::Liveness,
        answer: bad(),
    };
    assert_eq!(bench.step(stale), []);
}

#[test]
fn c1_c2_a_check_is_reported_when_its_result_changes_and_never_acted_on() {
    let spec = with(|a| a.check = Some(check()));
    let mut bench = Bench::new();
    bench.runs(&spec);
    assert!(bench.health().ready, "checks have no say in it");
    assert_eq!(bench.wake(), Some(16_000));
    assert_eq!(asks(bench.at(16_000)), [CHECK]);
    assert_eq!(bench.health().check.unwrap().seen, Seen::Nothing);
    bench.answer_at(19_000, Purpose::Check, code(3));
    let first = bench.machine.report();
    assert_eq!(bench.health().check.unwrap().seen, Seen::ExitCode(3));
    // The interval counts from the end of the one before.
    assert_eq!(bench.wake(), Some(29_000));
    for number in 0..100 {
        bench.at(29_000 + number * 10_000);
        assert_eq!(bench.answer_at(29_000 + number * 10_000, Purpose::Check, code(3)), []);
    }
    assert_eq!(bench.machine.report(), first, "the same again is no news");
    bench.at(1_029_000);
    bench.answer_at(1_029_000, Purpose::Check, code(0));
    assert_eq!(bench.health().check.unwrap().seen, Seen::ExitCode(0));
}

#[test]
fn c5_a_check_that_times_out_after_a_success_has_no_result_any_more() {
    let nothing =
        || Answer::Failure(Observed { seen: Seen::Nothing, text: "no answer".to_owned() });
    let spec = with(|a| a.check = Some(Check { delay: Millis(0), ..check() }));
    let mut bench = Bench::new();
    bench.runs(&spec);
    let before = bench.machine.report();
    bench.answer_at(2000, Purpose::Check, nothing());
    assert_eq!(bench.machine.report(), before, "there was none before either");
    bench.at(12_000);
    bench.answer_at(12_000, Purpose::Check, code(0));
    bench.at(22_000);
    bench.answer_at(22_000, Purpose::Check, nothing());
    assert_eq!(bench.health().check.unwrap().seen, Seen::Nothing);
    // What could not be asked changes nothing.
    bench.at(32_000);
    bench.answer_at(32_000, Purpose::Check, code(0));
    bench.at(42_000);
    bench.answer_at(42_000, Purpose::Check, Answer::NotAsked { why: "busy".to_owned() });
    assert_eq!(bench.health().check.unwrap().seen, Seen::ExitCode(0));
}

#[test]
fn c6_neither_of_a_check_and_a_probe_hides_the_other() {
    let spec = with(|a| {
        a.liveness = Some(probe());
        a.check = Some(Check { delay: Millis(0), ..check() });
    });
    let mut bench = Bench::new();
    bench.runs(&spec);
    bench.answer_at(1100, Purpose::Check, code(7));
    bench.answer_at(1200, Purpose::Liveness, bad());
    let health = bench.health();
    assert_eq!(health.check.unwrap().seen, Seen::ExitCode(7));
    assert_eq!(health.faults[0].purpose, Purpose::Liveness);
}
