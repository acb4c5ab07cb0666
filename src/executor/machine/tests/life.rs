//! Hooks, deadlines, and what annotations say about the end of containers.

use super::*;
use crate::executor::question::{Answer, Observed, Purpose, Seen};
use crate::manifest::pod::{Handler, Lifecycle, TerminationPolicy};
use crate::state::record::EndCause;

fn sleep(seconds: u64) -> Option<Handler> {
    Some(Handler::Sleep(Millis::from_secs(seconds)))
}

/// A pod of the container `a` with that life.
fn living(policy: RestartPolicy, lifecycle: Lifecycle) -> PodSpec {
    let mut spec = pod(policy, &["a"]);
    spec.containers[0].lifecycle = lifecycle;
    spec
}

fn asked(purpose: Purpose, timeout: u64) -> Effect {
    Effect::Ask {
        container: name("a"),
        attempt: Attempt(0),
        purpose,
        handler: Handler::Sleep(Millis::from_secs(3)),
        timeout: Millis(timeout),
    }
}

fn unasked(purpose: Purpose) -> Effect {
    Effect::Unask { container: name("a"), attempt: Attempt(0), purpose }
}

impl Bench {
    fn answered(&mut self, purpose: Purpose, is_good: bool) -> &[Effect] {
        let observed = Observed { seen: Seen::ExitCode(u8::from(!is_good)), text: String::new() };
        let answer = if is_good { Answer::Success(observed) } else { Answer::Failure(observed) };
        let (container, attempt) = (name("a"), self.attempt("a"));
        self.step(Event::Answered { container, attempt, purpose, answer })
    }

    fn is_ready(&self) -> bool {
        let report = self.machine.report().unwrap();
        report.containers[0].health.as_ref().is_some_and(|health| health.ready)
    }
}

#[test]
fn a_container_is_ready_when_its_first_hook_is_done() {
    let lifecycle = Lifecycle { post_start: sleep(3), ..Lifecycle::default() };
    let mut bench = Bench::new();
    bench.want(&living(RestartPolicy::Always, lifecycle));
    let timeout = POST_START_TIME_MAX.0;
    assert_eq!(bench.started("a"), [asked(Purpose::PostStart, timeout)]);
    assert!(!bench.is_ready());
    assert_eq!(bench.at(9000), []);
    assert_eq!(bench.answered(Purpose::PostStart, true), []);
    assert!(bench.is_ready());
    assert_eq!(bench.answered(Purpose::PostStart, false), []);
}

#[test]
fn a_container_whose_first_hook_fails_is_stopped_and_that_is_a_failure() {
    let lifecycle = Lifecycle { post_start: sleep(3), ..Lifecycle::default() };
    let mut bench = Bench::new();
    bench.want(&living(RestartPolicy::OnFailure, lifecycle));
    bench.started("a");
    assert_eq!(bench.answered(Purpose::PostStart, false), [stop_of("a", 0)]);
    let health = bench.machine.report().unwrap().containers[0].health.clone().unwrap();
    assert_eq!((health.failed, health.faults.len()), (Some(Purpose::PostStart), 1));
    assert_eq!(bench.wake(), Some(6000));
    bench.ends("a", Exit::Code(0));
    assert_eq!(launches(bench.at(2000)), [("a".to_owned(), 1, 1)]);
}

#[test]
fn the_last_hook_comes_before_the_signal_and_within_the_grace_period() {
    let lifecycle = Lifecycle { pre_stop: sleep(3), ..Lifecycle::default() };
    let spec = living(RestartPolicy::Always, lifecycle);
    let mut bench = Bench::new();
    bench.runs(&spec);
    assert_eq!(bench.stop(&spec, 5000), [asked(Purpose::PreStop, 5000)]);
    assert_eq!(bench.status("a"), ContainerStatus::Stopping { pid: 7, started_at: WallTime(1) });
    bench.now = 3000;
    assert_eq!(bench.answered(Purpose::PreStop, false), [stop_of("a", 0)]);
    assert_eq!(bench.wake(), Some(6000));
    assert_eq!(bench.at(6000), [kill_of("a", 0)]);

    // What it leaves is less than two seconds: then it is two.
    let mut bench = Bench::new();
    bench.runs(&spec);
    bench.stop(&spec, 5000);
    bench.now = 4500;
    assert_eq!(bench.answered(Purpose::PreStop, true), [stop_of("a", 0)]);
    bench.stop(&spec, 5000);
    assert_eq!(bench.wake(), Some(6500));
    assert_eq!(bench.at(6499), []);
    assert_eq!(bench.at(6500), [kill_of("a", 0)]);
}

#[test]
fn a_last_hook_that_takes_all_the_time_leaves_two_seconds_for_the_signal() {
    let lifecycle = Lifecycle { pre_stop: sleep(3), ..Lifecycle::default() };
    let spec = living(RestartPolicy::Always, lifecycle);
    let mut bench = Bench::new();
    bench.runs(&spec);
    bench.stop(&spec, 1000);
    assert_eq!(bench.at(1999), []);
    assert_eq!(bench.at(2000), [unasked(Purpose::PreStop), stop_of("a", 0)]);
    assert_eq!(bench.at(3999), []);
    assert_eq!(bench.at(4000), [kill_of("a", 0)]);
}

#[test]
fn without_a_grace_period_there_is_no_last_hook() {
    let lifecycle = Lifecycle { pre_stop: sleep(3), ..Lifecycle::default() };
    let spec = living(RestartPolicy::Always, lifecycle);
    let mut bench = Bench::new();
    bench.runs(&spec);
    assert_eq!(bench.stop(&spec, 0), [kill_of("a", 0)]);

    // Also if that is found out while it is being asked.
    let mut bench = Bench::new();
    bench.runs(&spec);
    bench.stop(&spec, 5000);
    assert_eq!(bench.stop(&spec, 0), [unasked(Purpose::PreStop), kill_of("a", 0)]);
    assert_eq!(bench.answered(Purpose::PreStop, true), []);
}

#[test]
fn a_container_that_left_the_specification_has_its_last_hook() {
    let lifecycle = Lifecycle { pre_stop: sleep(3), ..Lifecycle::default() };
    let mut spec = living(RestartPolicy::Always, lifecycle);
    let mut bench = Bench::new();
    bench.runs(&spec);
    spec.containers[0].name = name("b");
    assert!(bench.want(&spec).contains(&asked(Purpose::PreStop, 5000)));
}

#[test]
fn a_stop_during_the_first_hook_does_not_wait_for_it() {
    let lifecycle = Lifecycle { post_start: sleep(3), ..Lifecycle::default() };
    let spec = living(RestartPolicy::Always, lifecycle);
    let mut bench = Bench::new();
    bench.want(&spec);
    bench.started("a");
    assert_eq!(bench.stop(&spec, 5000), [unasked(Purpose::PostStart), stop_of("a", 0)]);
}

#[test]
fn hooks_that_another_program_can_not_hear_the_end_of_are_not_waited_for() {
    let lifecycle = Lifecycle { post_start: sleep(3), pre_stop: sleep(3), ..Lifecycle::default() };
    let spec = living(RestartPolicy::Always, lifecycle);
    let mut bench = Bench::new();
    bench.want(&spec);
    let ask = bench.started("a").to_vec();
    assert_eq!(bench.step(Event::AnswersLost), ask);
    bench.answered(Purpose::PostStart, true);
    bench.stop(&spec, 5000);
    assert_eq!(bench.step(Event::AnswersLost), [stop_of("a", 0)]);
}

#[test]
fn a_change_of_hooks_restarts_nothing_and_counts_at_once() {
    let mut spec = living(RestartPolicy::Always, Lifecycle::default());
    let mut bench = Bench::new();
    bench.runs(&spec);
    spec.containers[0].lifecycle =
        Lifecycle { post_start: sleep(3), pre_stop: sleep(3), ..Lifecycle::default() };
    assert_eq!(bench.want(&spec), []);
    assert_eq!(bench.stop(&spec, 5000), [asked(Purpose::PreStop, 5000)]);
}

#[test]
fn a_pod_that_had_its_time_is_stopped_and_has_failed() {
    let mut spec = pod(RestartPolicy::Always, &["a"]);
    spec.active_deadline = Some(Millis(10_000));
    let mut bench = Bench::new();
    bench.runs(&spec);
    bench.ends("a", Exit::Code(0));
    bench.at(2000);
    bench.started("a");
    assert_eq!(bench.wake(), Some(11_000));
    assert_eq!(bench.at(10_999), []);
    assert_eq!(bench.at(11_000), [stop_of("a", 1)]);
    bench.ends("a", Exit::Code(0));
    let report = bench.machine.report().unwrap();
    let end = (report.finished, report.because);
    assert_eq!(end, (Some(Outcome::Failed), Some(EndCause::DeadlineExceeded)));
    assert_eq!((bench.wake(), bench.at(90_000)), (None, &[][..]));
}

#[test]
fn another_executor_counts_on_to_the_deadline_and_stops_what_has_had_its_time() {
    let mut spec = pod(RestartPolicy::Always, &["a"]);
    spec.active_deadline = Some(Millis(10_000));
    let mut found = recovered(Exit::Unknown, &spec, 0);
    found.values_mut().for_each(|container| container.pod_since = Some(BootTime(500)));
    // It begins at 1000.
    let mut bench = Bench::recovered(found.clone());
    assert_eq!(launches(bench.want(&spec)), [("a".to_owned(), 5, 0)]);
    assert_eq!(bench.machine.since(), Some(BootTime(500)));
    bench.started("a");
    assert_eq!(bench.wake(), Some(10_500));
    spec.active_deadline = Some(Millis(400));
    let mut bench = Bench::recovered(found);
    assert_eq!(launches(bench.want(&spec)), []);
    let report = bench.machine.report().unwrap();
    let end = (report.finished, report.because);
    assert_eq!(end, (Some(Outcome::Failed), Some(EndCause::DeadlineExceeded)));
}

#[test]
fn a_pod_that_is_through_in_time_has_not_exceeded_it() {
    let mut spec = pod(RestartPolicy::Never, &["a"]);
    spec.active_deadline = Some(Millis(10_000));
    let mut bench = Bench::new();
    bench.runs(&spec);
    bench.ends("a", Exit::Code(0));
    bench.at(20_000);
    assert_eq!((bench.finished(), bench.wake()), (Some(Outcome::Succeeded), None));
}

/// G5, G8: a failure or a failed launch of one ends the group, a success does not.
#[test]
fn g5_the_failure_of_one_ends_the_group_where_that_is_asked_for() {
    let mut spec = pod(RestartPolicy::Never, &["a", "b", "c"]);
    spec.termination_policy = TerminationPolicy::Group;
    for exit in [Exit::Code(1), Exit::NotStarted("x".to_owned()), Exit::Unknown] {
        let mut bench = Bench::new();
        bench.runs(&spec);
        assert_eq!(bench.ends("a", Exit::Code(0)), []);
        assert_eq!(bench.ends("b", exit), [stop_of("c", 0)]);
        assert_eq!(bench.finished(), None);
        bench.ends("c", Exit::Code(0));
        let report = bench.machine.report().unwrap();
        let end = (report.finished, report.because);
        assert_eq!(end, (Some(Outcome::Failed), Some(EndCause::GroupFailed)));
    }
}

#[test]
fn each_goes_by_its_own_policy_where_nothing_is_said() {
    let mut bench = Bench::new();
    bench.runs(&pod(RestartPolicy::Never, &["a", "b"]));
    assert_eq!(bench.ends("a", Exit::Code(1)), []);
    assert_eq!(bench.finished(), None);
}

/// G10.
#[test]
fn g10_a_run_that_lasts_too_long_is_killed_and_that_is_a_failure() {
    let lifecycle = Lifecycle { max_run_time: Some(Millis(4000)), ..Lifecycle::default() };
    let mut spec = living(RestartPolicy::Never, lifecycle);
    spec.containers.push(container("b"));
    spec.termination_policy = TerminationPolicy::Group;
    let mut bench = Bench::new();
    bench.runs(&spec);
    assert_eq!(bench.wake(), Some(5000));
    assert_eq!(bench.at(4999), []);
    assert_eq!(bench.at(5000), [kill_of("a", 0)]);
    // Although it ends as if nothing had been.
    assert_eq!(bench.ends("a", Exit::Code(0)), [stop_of("b", 0)]);
    bench.ends("b", Exit::Code(0));
    assert_eq!(bench.finished(), Some(Outcome::Failed));
}

#[test]
fn a_container_has_a_grace_period_of_its_own_within_that_of_the_pod() {
    for (own, by) in [(2000, 3000), (9000, 6000)] {
        let lifecycle = Lifecycle { stop_grace: Some(Millis(own)), ..Lifecycle::default() };
        let spec = living(RestartPolicy::Always, lifecycle);
        let mut bench = Bench::new();
        bench.runs(&spec);
        bench.stop(&spec, 5000);
        assert_eq!(bench.wake(), Some(by), "{own}");

        // Alone it has all of its own.
        let mut bench = Bench::new();
        bench.runs(&spec);
        bench.want(&changed(&spec, "a"));
        assert_eq!(bench.wake(), Some(1000 + own));
    }
}

/// B2: a second wish with a shorter time counts.
#[test]
fn b2_a_shorter_wish_counts_also_while_the_last_hook_is_asked() {
    let lifecycle = Lifecycle { pre_stop: sleep(3), ..Lifecycle::default() };
    let spec = living(RestartPolicy::Always, lifecycle);
    let mut bench = Bench::new();
    bench.runs(&spec);
    bench.stop(&spec, 60_000);
    bench.now = 2000;
    bench.stop(&spec, 1000);
    assert_eq!(bench.wake(), Some(3000));
    assert_eq!(bench.at(3000), [unasked(Purpose::PreStop), stop_of("a", 0)]);
    assert_eq!(bench.at(5000), [kill_of("a", 0)]);
}

/// G11: what is told to stop and exits with 0 was not a success of its own; the pod ends as asked.
#[test]
fn g11_what_was_told_to_stop_does_not_finish() {
    let spec = pod(RestartPolicy::Never, &["a"]);
    let mut bench = Bench::new();
    bench.runs(&spec);
    bench.stop(&spec, 5000);
    bench.ends("a", Exit::Code(0));
    assert_eq!(bench.finished(), None);
    assert!(bench.machine.is_stopped());
}

#[test]
fn what_left_the_specification_keeps_the_time_that_it_was_given() {
    let stop_grace = Some(Millis::from_secs(60));
    let spec = |names: &[&str]| {
        let mut spec = pod(RestartPolicy::Always, names);
        spec.containers[0].lifecycle.stop_grace = stop_grace;
        spec
    };
    let mut bench = Bench::new();
    bench.want(&spec(&["a", "b"]));
    bench.started("a");
    bench.started("b");
    let mut without = spec(&["a", "b"]);
    without.containers.remove(0);
    assert_eq!(bench.want(&without), [stop_of("a", 0)]);
    let told_at = bench.now;
    // Any step would have begun the pod's grace period for it.
    assert_eq!(bench.at(told_at + 1), []);
    assert_eq!(bench.at(told_at + 59_999), []);
    assert_eq!(bench.at(told_at + 60_000), [kill_of("a", 0)]);
}
