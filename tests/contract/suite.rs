//! What every executor does, real or fake: the scenarios, on a trait.
//!
//! Not here: how programs are made to behave (each host has its own way to sleep or to ignore a
//! signal), and what only a simulation can see.

use std::sync::Arc;

use roost::clock::Millis;
use roost::executor::protocol::{ContainerStatus, Goal, PodReport, WantedPod};
use roost::ids::{Attempt, ContainerName};
use roost::manifest::pod::{PodSpec, RestartPolicy};
use roost::state::record::{Exit, Outcome};

/// How a container's program shall behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// It runs until it is told to stop, and heeds that at once.
    Sleeps,
    /// It runs and ignores the stop signal.
    IgnoresStop,
    /// It exits with that code at once.
    ExitsWith(u8),
    /// It can't be executed.
    Missing,
}

/// One pod instance with its executor, its directory and a clock.
pub(crate) trait PodHost {
    /// A pod with a container per behaviour, called `c0`, `c1` …; grace 1 s, default back-off.
    fn pod(&self, policy: RestartPolicy, behaviours: &[Behaviour]) -> PodSpec;
    /// Makes sure that nothing of the pod runs and starts its executor; connects.
    fn start(&mut self);
    /// Tells the executor what is wanted.
    fn set_spec(&mut self, wanted: WantedPod);
    /// What the executor reported last.
    fn report(&mut self) -> Option<PodReport>;
    /// SIGKILL to the first process of a container, from outside.
    fn kill_container(&mut self, name: &ContainerName);
    /// SIGKILL to the executor.
    fn kill_executor(&mut self);
    /// Lets the executor go on as another build.
    fn upgrade(&mut self);
    /// Whether there is no executor and no process of the pod.
    fn is_gone(&mut self) -> bool;
    /// The steady clock.
    fn now(&mut self) -> Millis;
    /// Waits for something to happen, at most until that time; false if nothing did.
    fn wait(&mut self, until: Millis) -> bool;
}

/// A scenario and its name.
pub(crate) type Scenario = (&'static str, fn(&mut dyn PodHost));

/// All of them; each wants a host of its own.
pub(crate) const SCENARIOS: [Scenario; 14] = [
    ("a pod runs and is reported", a_pod_runs_and_is_reported),
    ("a container that exits is started again after a second", restarts_after_a_second),
    ("a run-once pod finishes and says how", a_run_once_pod_finishes),
    ("on failure only what failed runs again", on_failure_only_what_failed_runs_again),
    ("another program restarts that container only", a_change_restarts_one_container),
    ("other limits and labels restart nothing", in_place_changes_restart_nothing),
    ("a stopped executor ends", a_stopped_executor_ends),
    ("what ignores the stop is killed after its grace period", grace_is_kept),
    ("the same wish again does not prolong the grace period", grace_is_not_prolonged),
    ("a shorter grace period counts", grace_is_shortened),
    ("a killed executor takes its containers along", a_killed_executor_takes_all_along),
    ("a run-once container without a recorded exit is not run again", unknown_is_not_run_again),
    ("an upgrade restarts nothing", an_upgrade_restarts_nothing),
    ("a missing program is reported and tried again", a_missing_program_is_reported),
];

/// Longest time for anything that should happen soon.
const SOON: Millis = Millis::from_secs(20);

fn name(n: usize) -> ContainerName {
    format!("c{n}").parse().expect("a label")
}

fn wanted(number: u64, goal: Goal, spec: &PodSpec) -> WantedPod {
    WantedPod { number, goal, spec: Arc::new(spec.clone()) }
}

fn run(number: u64, spec: &PodSpec) -> WantedPod {
    wanted(number, Goal::Run, spec)
}

fn stop(grace: u64, spec: &PodSpec) -> WantedPod {
    wanted(1, Goal::Stop { grace: Millis(grace) }, spec)
}

#[track_caller]
fn until(host: &mut dyn PodHost, what: &str, holds: impl Fn(&PodReport) -> bool) -> PodReport {
    let limit = Millis(host.now().0 + SOON.0);
    loop {
        let report = host.report();
        if let Some(report) = report.clone().filter(|report| holds(report)) {
            return report;
        }
        assert!(host.now() < limit, "not within {SOON}: {what}; reported is {report:?}");
        if !host.wait(limit) && host.now() < limit {
            panic!("nothing happens any more, but not: {what}; reported is {report:?}");
        }
    }
}

#[track_caller]
fn until_gone(host: &mut dyn PodHost) -> Millis {
    let limit = Millis(host.now().0 + SOON.0);
    while !host.is_gone() {
        assert!(host.now() < limit, "something is left after {SOON}");
        host.wait(limit);
    }
    host.now()
}

fn pid(report: &PodReport, n: usize) -> Option<u32> {
    report.containers.iter().find(|c| c.name == name(n)).and_then(|c| match c.status {
        ContainerStatus::Running { pid, .. } => Some(pid),
        ContainerStatus::Creating
        | ContainerStatus::Stopping { .. }
        | ContainerStatus::Recording { .. }
        | ContainerStatus::BackingOff { .. }
        | ContainerStatus::Terminated => None,
    })
}

fn attempt(report: &PodReport, n: usize) -> Option<Attempt> {
    report.containers.iter().find(|c| c.name == name(n)).and_then(|c| c.attempt)
}

fn exit(report: &PodReport, n: usize) -> Option<Exit> {
    let container = report.containers.iter().find(|c| c.name == name(n))?;
    container.last.as_ref().map(|last| last.exit.clone())
}

fn running(host: &mut dyn PodHost, spec: &PodSpec) -> PodReport {
    host.start();
    host.set_spec(run(1, spec));
    let count = spec.containers.len();
    until(host, "everything runs", |report| (0..count).all(|n| pid(report, n).is_some()))
}

fn a_pod_runs_and_is_reported(host: &mut dyn PodHost) {
    let spec = host.pod(RestartPolicy::Always, &[Behaviour::Sleeps, Behaviour::Sleeps]);
    let report = running(host, &spec);
    assert_eq!((report.number, report.goal, report.finished), (1, Goal::Run, None));
    assert_eq!(attempt(&report, 0), Some(Attempt(0)));
    assert_ne!(pid(&report, 0), pid(&report, 1));
}

fn restarts_after_a_second(host: &mut dyn PodHost) {
    let spec = host.pod(RestartPolicy::Always, &[Behaviour::Sleeps]);
    running(host, &spec);
    let killed = host.now();
    host.kill_container(&name(0));
    let report = until(host, "its end is recorded", |report| exit(report, 0).is_some());
    assert_eq!(exit(&report, 0), Some(Exit::Signal(9)));
    until(host, "it runs again", |report| {
        pid(report, 0).is_some() && attempt(report, 0) == Some(Attempt(1))
    });
    assert!(host.now().0 - killed.0 >= 1000, "{} after {killed}", host.now());
}

fn a_run_once_pod_finishes(host: &mut dyn PodHost) {
    let behaviours = [Behaviour::ExitsWith(0), Behaviour::ExitsWith(3)];
    let spec = host.pod(RestartPolicy::Never, &behaviours);
    host.start();
    host.set_spec(run(1, &spec));
    let report = until(host, "it is finished", |report| report.finished.is_some());
    assert_eq!(report.finished, Some(Outcome::Failed));
    assert_eq!(exit(&report, 1), Some(Exit::Code(3)));
    // Its exit is recorded: another executor does not run it again.
    host.kill_executor();
    host.start();
    host.set_spec(run(1, &spec));
    let report = until(host, "it is still finished", |report| report.finished.is_some());
    assert_eq!((attempt(&report, 0), exit(&report, 0)), (Some(Attempt(0)), Some(Exit::Code(0))));
}

fn on_failure_only_what_failed_runs_again(host: &mut dyn PodHost) {
    let behaviours = [Behaviour::ExitsWith(0), Behaviour::ExitsWith(1)];
    let spec = host.pod(RestartPolicy::OnFailure, &behaviours);
    host.start();
    host.set_spec(run(1, &spec));
    let report = until(host, "the third run", |report| attempt(report, 1) == Some(Attempt(2)));
    assert_eq!(attempt(&report, 0), Some(Attempt(0)));
    assert_eq!(report.finished, None);
}

fn a_change_restarts_one_container(host: &mut dyn PodHost) {
    let mut spec = host.pod(RestartPolicy::Always, &[Behaviour::Sleeps, Behaviour::Sleeps]);
    let before = running(host, &spec);
    spec.containers[1].env.push(roost::manifest::pod::EnvVar {
        name: "CHANGED".to_owned(),
        value: "1".to_owned(),
        from: None,
    });
    host.set_spec(run(2, &spec));
    let after = until(host, "the changed one runs anew", |report| {
        report.number == 2 && pid(report, 1).is_some_and(|new| pid(&before, 1) != Some(new))
    });
    assert_eq!(pid(&after, 0), pid(&before, 0));
    assert_eq!(attempt(&after, 1), Some(Attempt(1)));
}

fn in_place_changes_restart_nothing(host: &mut dyn PodHost) {
    let mut spec = host.pod(RestartPolicy::Always, &[Behaviour::Sleeps]);
    let before = running(host, &spec);
    spec.labels.insert("a".to_owned(), "b".to_owned());
    spec.pids_limit = 50;
    spec.containers[0].resources.memory_limit_bytes = Some(64 << 20);
    host.set_spec(run(2, &spec));
    let after = until(host, "it knows", |report| report.number == 2);
    assert_eq!(pid(&after, 0), pid(&before, 0));
}

fn a_stopped_executor_ends(host: &mut dyn PodHost) {
    let spec = host.pod(RestartPolicy::Always, &[Behaviour::Sleeps, Behaviour::ExitsWith(1)]);
    host.start();
    host.set_spec(run(1, &spec));
    until(host, "it runs", |report| pid(report, 0).is_some());
    host.set_spec(stop(5000, &spec));
    until_gone(host);
}

fn grace_is_kept(host: &mut dyn PodHost) {
    let spec = host.pod(RestartPolicy::Always, &[Behaviour::IgnoresStop]);
    running(host, &spec);
    let told = host.now();
    host.set_spec(stop(1000, &spec));
    let took = until_gone(host).0 - told.0;
    assert!((1000..6500).contains(&took), "gone after {took} ms");
}

fn grace_is_not_prolonged(host: &mut dyn PodHost) {
    let spec = host.pod(RestartPolicy::Always, &[Behaviour::IgnoresStop]);
    running(host, &spec);
    let told = host.now();
    host.set_spec(stop(2000, &spec));
    while host.now().0 < told.0 + 1500 {
        let soon = Millis(host.now().0 + 300);
        host.wait(soon);
        host.set_spec(stop(2000, &spec));
    }
    let took = until_gone(host).0 - told.0;
    assert!((2000..7500).contains(&took), "gone after {took} ms");
}

fn grace_is_shortened(host: &mut dyn PodHost) {
    let spec = host.pod(RestartPolicy::Always, &[Behaviour::IgnoresStop]);
    running(host, &spec);
    let told = host.now();
    host.set_spec(stop(60_000, &spec));
    host.set_spec(stop(300, &spec));
    let took = until_gone(host).0 - told.0;
    assert!((300..6000).contains(&took), "gone after {took} ms");
}

fn a_killed_executor_takes_all_along(host: &mut dyn PodHost) {
    let spec = host.pod(RestartPolicy::Always, &[Behaviour::Sleeps, Behaviour::IgnoresStop]);
    running(host, &spec);
    host.kill_executor();
    until_gone(host);
    host.start();
    host.set_spec(run(1, &spec));
    let report = until(host, "it runs again", |report| pid(report, 0).is_some());
    assert_eq!(attempt(&report, 0), Some(Attempt(1)));
    assert_eq!(exit(&report, 0), Some(Exit::Unknown));
}

fn unknown_is_not_run_again(host: &mut dyn PodHost) {
    let spec = host.pod(RestartPolicy::Never, &[Behaviour::Sleeps]);
    running(host, &spec);
    host.kill_executor();
    until_gone(host);
    host.start();
    host.set_spec(run(1, &spec));
    let report = until(host, "it is finished", |report| report.finished.is_some());
    assert_eq!(report.finished, Some(Outcome::Failed));
    assert_eq!((attempt(&report, 0), exit(&report, 0)), (Some(Attempt(0)), Some(Exit::Unknown)));
}

fn an_upgrade_restarts_nothing(host: &mut dyn PodHost) {
    let spec = host.pod(RestartPolicy::Always, &[Behaviour::Sleeps, Behaviour::Sleeps]);
    let before = running(host, &spec);
    host.upgrade();
    let mut changed = spec.clone();
    changed.labels.insert("a".to_owned(), "b".to_owned());
    host.set_spec(run(2, &changed));
    let after = until(host, "the new build knows", |report| report.number == 2);
    assert_eq!((pid(&after, 0), pid(&after, 1)), (pid(&before, 0), pid(&before, 1)));
    // It still learns of their ends.
    host.kill_container(&name(1));
    until(host, "an end is seen", |report| exit(report, 1) == Some(Exit::Signal(9)));
}

fn a_missing_program_is_reported(host: &mut dyn PodHost) {
    let spec = host.pod(RestartPolicy::Always, &[Behaviour::Missing, Behaviour::Sleeps]);
    host.start();
    host.set_spec(run(1, &spec));
    let report = until(host, "the second try", |report| attempt(report, 0) >= Some(Attempt(1)));
    assert!(matches!(exit(&report, 0), Some(Exit::NotStarted(_))), "{:?}", exit(&report, 0));
    assert!(pid(&report, 1).is_some(), "the other one is not harmed");
}
