//! What is asked of a run, told again in other words: when each question is due, and what follows
//! from the answers. All of it is exact: a question or an end that comes a millisecond early, late
//! or twice is a fault.

use std::collections::{BTreeMap, BTreeSet};

use roost::clock::Millis;
use roost::executor::machine::{Effect, Event as MachineEvent};
use roost::executor::protocol::PodReport;
use roost::executor::question::{Answer, Observed, Purpose, Seen};
use roost::ids::{Attempt, ContainerName};
use roost::manifest::pod::{Check, ContainerSpec, Handler, Lifecycle, Probe};

use crate::executor::{ExecutorEvent, Run, Stage};
use crate::world::{Bug, Event, World};

/// A question that an executor's shell is busy with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Open {
    serial: u64,
    since: u64,
    timeout: u64,
}

/// Which question of which run.
pub(crate) type Question = (ContainerName, Attempt, Purpose);

/// How a run fares whose program was executed.
#[derive(Debug, Clone)]
pub(crate) struct Vitals {
    since: u64,
    hook: Hook,
    started: bool,
    ready: bool,
    tracks: BTreeMap<Purpose, Track>,
    /// Why a probe wants it to end: with the grace period that comes with that.
    ailing: Option<Option<Millis>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hook {
    Due,
    Asked,
    Done,
    Failed,
}

/// One probe, or the check.
#[derive(Debug, Clone)]
struct Track {
    about: About,
    due: u64,
    asked: Option<u64>,
    is_good: bool,
    in_a_row: u32,
}

#[derive(Debug, Clone, PartialEq)]
enum About {
    Probe(Probe),
    Check(Check),
}

impl About {
    fn delay(&self) -> u64 {
        match self {
            Self::Probe(probe) => probe.initial_delay.0,
            Self::Check(check) => check.delay.0,
        }
    }
}

impl Vitals {
    fn new(since: u64, spec: Option<&ContainerSpec>) -> Self {
        let mut new = Self {
            since,
            hook: Hook::Due,
            started: false,
            ready: false,
            tracks: BTreeMap::new(),
            ailing: None,
        };
        if let Some(spec) = spec {
            new.follow(spec);
        }
        new
    }

    /// Without a startup probe it has started, and that is not taken back.
    fn follow(&mut self, spec: &ContainerSpec) {
        self.started |= spec.startup.is_none() && self.ailing.is_none();
    }

    /// Whether what waits for its start may begin.
    pub(crate) fn has_started(&self, lifecycle: &Lifecycle) -> bool {
        self.started && self.has_begun(lifecycle)
    }

    fn has_begun(&self, lifecycle: &Lifecycle) -> bool {
        self.hook == Hook::Done || (self.hook == Hook::Due && lifecycle.post_start.is_none())
    }

    fn ends_at(&self, lifecycle: &Lifecycle) -> Option<u64> {
        Some(self.since + lifecycle.max_run_time?.0)
    }

    fn is_over(&self, lifecycle: &Lifecycle, now: u64) -> bool {
        self.ends_at(lifecycle).is_some_and(|at| at <= now)
    }

    /// Why it has to end by itself: with the grace period, where that is not the usual one.
    pub(crate) fn must_end(&self, lifecycle: &Lifecycle, now: u64) -> Option<Option<Millis>> {
        if self.is_over(lifecycle, now) {
            return Some(Some(Millis(0)));
        }
        self.ailing.or((self.hook == Hook::Failed).then_some(None))
    }

    /// What has to be asked now of a run that goes on.
    fn due(&mut self, spec: &ContainerSpec, lifecycle: &Lifecycle, now: u64) -> Vec<Purpose> {
        let mut due = Vec::new();
        if self.hook == Hook::Due {
            self.hook = if lifecycle.post_start.is_some() {
                due.push(Purpose::PostStart);
                Hook::Asked
            } else {
                Hook::Done
            };
        }
        if self.hook != Hook::Done || self.must_end(lifecycle, now).is_some() {
            return due;
        }
        self.follow(spec);
        self.ready |= self.started && spec.readiness.is_none();
        let probe = |probe: &Option<Probe>, is_its_time: bool| {
            probe.clone().filter(|_| is_its_time).map(About::Probe)
        };
        let wanted = [
            (Purpose::Startup, probe(&spec.startup, !self.started)),
            (Purpose::Liveness, probe(&spec.liveness, self.started)),
            (Purpose::Readiness, probe(&spec.readiness, self.started)),
            (Purpose::Check, spec.check.clone().map(About::Check)),
        ];
        for (purpose, about) in wanted {
            let Some(about) = about else {
                self.tracks.remove(&purpose);
                continue;
            };
            let track = match self.tracks.remove(&purpose) {
                Some(track) if track.about == about => track,
                Some(_) | None => {
                    let due = (self.since + about.delay()).max(now);
                    Track { about, due, asked: None, is_good: true, in_a_row: 0 }
                }
            };
            let track = self.tracks.entry(purpose).or_insert(track);
            if track.asked.is_none() && track.due <= now {
                track.asked = Some(now);
                due.push(purpose);
            }
        }
        due
    }

    fn answered(&mut self, purpose: Purpose, answer: &Answer, now: u64) {
        let is_good = match answer {
            Answer::Success(_) | Answer::Doubtful(_) => Some(true),
            Answer::Failure(_) => Some(false),
            Answer::NotAsked { .. } => None,
        };
        if purpose == Purpose::PostStart && self.hook == Hook::Asked {
            self.hook = if is_good == Some(true) { Hook::Done } else { Hook::Failed };
            return;
        }
        let Some(track) = self.tracks.get_mut(&purpose) else { return };
        let Some(asked) = track.asked.take() else { return };
        let probe = match &track.about {
            About::Check(check) => {
                track.due = now + check.interval.0;
                return;
            }
            About::Probe(probe) => probe.clone(),
        };
        track.due = asked;
        while track.due < now || track.due == asked {
            track.due += probe.period.0;
        }
        let Some(is_good) = is_good else { return };
        track.in_a_row = if track.is_good == is_good { track.in_a_row + 1 } else { 1 };
        track.is_good = is_good;
        let many = if is_good { probe.success_threshold } else { probe.failure_threshold };
        if track.in_a_row < many {
            return;
        }
        match (purpose, is_good) {
            (Purpose::Startup, true) => self.started = true,
            (Purpose::Startup | Purpose::Liveness, false) => {
                self.ailing = Some(probe.termination_grace);
            }
            (Purpose::Readiness, is_ready) => self.ready = is_ready,
            (Purpose::Liveness, true)
            | (Purpose::Check | Purpose::PostStart | Purpose::PreStop, _) => {}
        }
    }

    /// Another program has taken over: what was open is asked again at once.
    fn lost_answers(&mut self, now: u64) {
        for track in self.tracks.values_mut().filter(|track| track.asked.is_some()) {
            (track.asked, track.due) = (None, now);
        }
        if self.hook == Hook::Asked {
            self.hook = Hook::Due;
        }
    }

    /// When something has to happen to it next.
    fn wakes_at(&self, lifecycle: &Lifecycle) -> Option<u64> {
        let due = self.tracks.values().filter(|track| track.asked.is_none()).map(|track| track.due);
        due.chain(self.ends_at(lifecycle)).min()
    }
}

impl Run {
    /// Whether it was told to end, or is being killed.
    pub(crate) fn is_told(&self) -> bool {
        self.told_at.is_some() || self.killed
    }

    /// Whether it has to end for a cause of its own: with the grace period of that.
    pub(crate) fn must_end(&self, now: u64) -> Option<Option<Millis>> {
        self.vitals.as_ref()?.must_end(&self.lifecycle, now)
    }
}

impl World {
    /// Before a machine takes a step: what happened to the runs.
    pub(crate) fn update_vitals(&mut self, pid: u64, event: &MachineEvent) {
        let now = self.now;
        let wanted = self.executors.get(&pid).and_then(|executor| executor.wanted.clone());
        let spec = |name: &ContainerName| wanted.as_ref()?.spec.container(name).cloned();
        let live = self.runs.values_mut().filter(|run| run.executor == pid && !run.is_told());
        match event {
            MachineEvent::Started { container, attempt, .. } => {
                for run in live.filter(|r| r.container == *container && r.attempt == *attempt) {
                    let spec = spec(container);
                    run.lifecycle =
                        spec.as_ref().map_or_else(Lifecycle::default, |it| it.lifecycle.clone());
                    run.vitals = Some(Vitals::new(now, spec.as_ref()));
                }
            }
            MachineEvent::Answered { container, attempt, purpose, answer } => {
                for run in live.filter(|r| r.container == *container && r.attempt == *attempt) {
                    if let Some(vitals) = &mut run.vitals {
                        vitals.answered(*purpose, answer, now);
                    }
                }
            }
            MachineEvent::AnswersLost => {
                live.filter_map(|run| run.vitals.as_mut()).for_each(|it| it.lost_answers(now));
            }
            MachineEvent::Wanted(_) => {
                for run in live {
                    if let (Some(spec), Some(vitals)) = (spec(&run.container), &mut run.vitals) {
                        run.lifecycle = spec.lifecycle.clone();
                        vitals.follow(&spec);
                    }
                }
            }
            MachineEvent::Exited { .. }
            | MachineEvent::Recorded { .. }
            | MachineEvent::NotUpdated { .. }
            | MachineEvent::Tick => {}
        }
    }

    /// What a step has to ask now.
    pub(crate) fn questions_due(&mut self, pid: u64) -> BTreeSet<Question> {
        let now = self.now;
        let going_on: Vec<u64> =
            self.runs.keys().copied().filter(|id| self.goes_on(pid, *id)).collect();
        let mut due = BTreeSet::new();
        for id in going_on {
            let run = self.runs.get_mut(&id).expect("just seen");
            let wanted = self.executors[&pid].wanted.as_ref().expect("what goes on is wanted");
            let spec = wanted.spec.container(&run.container).expect("likewise").clone();
            let Some(vitals) = &mut run.vitals else { continue };
            for purpose in vitals.due(&spec, &run.lifecycle, now) {
                due.insert((run.container.clone(), run.attempt, purpose));
            }
        }
        due
    }

    /// Whether a run is one that shall go on, as far as the others are concerned.
    fn goes_on(&self, pid: u64, id: u64) -> bool {
        let run = &self.runs[&id];
        run.executor == pid
            && run.vitals.is_some()
            && !run.is_told()
            && self.wants_to_go_on(pid, run)
    }

    /// After a step: it has asked what was due and nothing else, ended what had to end, and wakes
    /// up in time for what comes next.
    pub(crate) fn check_step(
        &mut self,
        pid: u64,
        due: &BTreeSet<Question>,
        effects: &[Effect],
        wake_at: Option<u64>,
    ) {
        let mut asked = BTreeSet::new();
        let mut ended: BTreeSet<(&ContainerName, Attempt)> = BTreeSet::new();
        for effect in effects {
            match effect {
                Effect::Ask { container, attempt, purpose: Purpose::PreStop, .. }
                | Effect::Stop { container, attempt }
                | Effect::Kill { container, attempt } => {
                    ended.insert((container, *attempt));
                }
                Effect::Ask { container, attempt, purpose, .. } => {
                    asked.insert((container.clone(), *attempt, *purpose));
                }
                Effect::Launch { .. }
                | Effect::Record { .. }
                | Effect::Update { .. }
                | Effect::Unask { .. }
                | Effect::UpdatePod { .. } => {}
            }
        }
        let pod = self.executors[&pid].pod;
        self.check(asked == *due, || {
            let early: Vec<_> = asked.difference(due).collect();
            let missed: Vec<_> = due.difference(&asked).collect();
            format!("{pod}: asked {early:?} although not due, and not {missed:?}, which was due")
        });
        let now = self.now;
        let mut faults = Vec::new();
        for run in self.runs.values().filter(|run| run.executor == pid) {
            let is_live = run.vitals.is_some() && !run.is_told();
            if !is_live || ended.contains(&(&run.container, run.attempt)) {
                continue;
            }
            let what = format!("{pod}/{}#{}", run.container, run.attempt);
            if self.is_to_stop(pid, run) {
                faults.push(format!("{what} goes on, and has to stop"));
            } else if self.wants_to_go_on(pid, run) && run.must_end(now).is_some() {
                faults.push(format!("{what} goes on although it has to end"));
            }
        }
        if let Some(fault) = faults.into_iter().next() {
            self.fail(fault);
        }
        self.check_open_questions(pid);
        let Some(next) = self.next_moment(pid) else { return };
        self.check(wake_at.is_some_and(|at| at <= next), || {
            format!("{pod} is woken at {wake_at:?}, and something is due at {next}")
        });
    }

    /// The shell answers everything within its time.
    fn check_open_questions(&mut self, pid: u64) {
        let (now, executor) = (self.now, &self.executors[&pid]);
        let late = |open: &&Open| now > open.since + open.timeout && executor.hung_until == 0;
        let late = executor.asking.iter().find(|(_, open)| late(open)).map(|(it, _)| it.clone());
        self.check(late.is_none(), || format!("{late:?} was not answered in time"));
        let mut live = self.runs.values().filter(|run| run.executor == pid && !run.is_told());
        let asking = &self.executors[&pid].asking;
        let lost = live.find_map(|run| {
            let mut tracks = run.vitals.as_ref()?.tracks.iter();
            let is_lost = |purpose: Purpose| {
                !asking.contains_key(&(run.container.clone(), run.attempt, purpose))
            };
            let lost = tracks.find(|(purpose, it)| it.asked.is_some() && is_lost(**purpose))?;
            Some(format!("{}#{}: nobody asks its {}", run.container, run.attempt, lost.0))
        });
        if let Some(lost) = lost {
            self.fail(lost);
        }
    }

    /// When something has to happen to the pod next.
    fn next_moment(&self, pid: u64) -> Option<u64> {
        let runs = self.runs.values().filter(|run| run.executor == pid).filter_map(|run| {
            if run.is_told() {
                return run.due.filter(|_| !run.killed);
            }
            let goes_on = self.wants_to_go_on(pid, run);
            run.vitals.as_ref().filter(|_| goes_on)?.wakes_at(&run.lifecycle)
        });
        let own = self.executors[&pid].standing_wakes_at();
        runs.chain(own).filter(|at| *at > self.now).min()
    }

    /// A question is asked; there is an answer in time, unless that is what is wrong.
    pub(crate) fn ask(&mut self, pid: u64, question: Question, handler: &Handler, timeout: Millis) {
        let (container, attempt, purpose) = question.clone();
        let Some(id) = self.find_run(pid, &container, attempt) else { return };
        let now = self.now;
        let is_executed = matches!(self.runs[&id].stage, Stage::Executed { .. });
        self.check(is_executed, || format!("{question:?} is asked of what does not run"));
        let twice = self.executors[&pid].asking.contains_key(&question);
        self.check(!twice, || format!("{question:?} is asked while it is being asked"));
        if purpose == Purpose::PreStop {
            self.check_stop(pid, id);
            let by = self.kill_at(pid, id);
            let run = self.runs.get_mut(&id).expect("just found");
            (run.asked_by, run.told_at) = (Some(by), Some(now));
        }
        let limit = timeout.0.min(6000);
        let (delay, answer) = match handler {
            Handler::Sleep(_) => {
                (self.rng.between(1, 6000).min(timeout.0), self.rng.between(0, 79))
            }
            Handler::Exec { command } => {
                let percent: u64 = command[1].parse().expect("written by random_probe()");
                let fails = self.rng.between(0, 99) >= percent;
                let slow = self.rng.chance(10);
                (if slow { limit } else { self.rng.between(0, limit) }, if fails { 99 } else { 0 })
            }
            Handler::Http(_) | Handler::Tcp { .. } | Handler::Grpc { .. } => (1, 0),
        };
        let is_lost = delay == timeout.0 && self.has(Bug::NoAnswerWhenTheTimeIsOver);
        let serial = self.number();
        let open = Open { serial, since: now, timeout: timeout.0 };
        let executor = self.executors.get_mut(&pid).expect("it asks");
        executor.asking.insert(question, open);
        // The kubelet's time-outs are failures; 3 in 100 can't be asked at all.
        let cant = purpose != Purpose::PreStop && self.rng.chance(3);
        let seen = Observed { seen: Seen::ExitCode(0), text: String::new() };
        let answer = match answer {
            _ if cant => Answer::NotAsked { why: "no memory".to_owned() },
            99 => Answer::Failure(seen),
            _ if delay == timeout.0 => Answer::Failure(Observed { seen: Seen::Nothing, ..seen }),
            0..=63 => Answer::Success(seen),
            64..=67 => Answer::Doubtful(seen),
            _ => Answer::Failure(seen),
        };
        let what = ExecutorEvent::Answered { container, attempt, purpose, serial, answer };
        if !is_lost {
            self.at(delay, Event::Executor { pid, what });
        }
    }

    pub(crate) fn unask(&mut self, pid: u64, question: &Question) {
        if let Some(executor) = self.executors.get_mut(&pid) {
            executor.asking.remove(question);
        }
    }

    /// What came of a question, if anybody still wants to know.
    pub(crate) fn answered(&mut self, pid: u64, question: Question, serial: u64, answer: Answer) {
        let Some(executor) = self.executors.get_mut(&pid) else { return };
        if executor.asking.get(&question).is_none_or(|open| open.serial != serial) {
            return;
        }
        executor.asking.remove(&question);
        let (container, attempt, purpose) = question;
        self.say(|| format!("{container}#{attempt}: {purpose} is answered {answer:?}"));
        self.step(pid, MachineEvent::Answered { container, attempt, purpose, answer });
    }

    /// What is reported of the health of a run is what was found.
    pub(crate) fn check_health(&mut self, pid: u64, report: &PodReport) {
        let mut fault = None;
        for run in self.runs.values().filter(|run| run.executor == pid && !run.is_told()) {
            let Some(vitals) = &run.vitals else { continue };
            let container = report.containers.iter().find(|it| it.name == run.container);
            let Some(health) = container.and_then(|container| container.health.as_ref()) else {
                continue;
            };
            let goes_on = self.wants_to_go_on(pid, run) && run.must_end(self.now).is_none();
            let begun = vitals.has_begun(&run.lifecycle);
            let (started, ready) = (vitals.started && begun, vitals.ready && begun);
            if goes_on && (health.started, health.ready) != (started, ready) {
                let what = format!("{}/{}#{}", run.pod, run.container, run.attempt);
                fault = Some(format!("{what}: {health:?}, but it is {started} and {ready}"));
            }
        }
        if let Some(fault) = fault {
            self.fail(fault);
        }
    }
}
