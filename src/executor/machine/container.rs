//! [`Container`]: the decisions about one container. PURE.
//!
//! It compares what is wanted of the container ([`Want`]) with where it stands. Not here: what is
//! wanted of it, which depends on the rest of the pod (`machine`).

use serde::{Deserialize, Serialize};

use super::hooks::Hooks;
use super::probing::{Probing, Who};
use super::{Effect, KILL_RETRY, LATE_STOP_TIME, LAUNCH_TIME_MAX, RECORD_RETRY, Recovered};
use crate::clock::{BootTime, Millis, WallTime};
use crate::executor::protocol::{ContainerReport, ContainerStatus, Health};
use crate::executor::question::{Answer, Purpose};
use crate::ids::{Attempt, ContainerName};
use crate::manifest::pod::{
    BackoffPolicy, ContainerSpec, PodSpec, Resources, RestartAction, RestartPolicy,
};
use crate::manifest::revision::Hash;
use crate::state::record::LastRun;

/// One container of the pod: its runs so far, and where the newest stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Container {
    pub(super) state: State,
    /// The number of the next run.
    pub(super) next: Attempt,
    /// The last run that ended, durably.
    pub(super) last: Option<LastRun>,
    /// The specification of the newest run: a run with an old one is replaced.
    pub(super) hash: Option<Hash>,
    /// Runs that ended early, in a row: the exponent of the back-off.
    pub(super) streak: u32,
    /// The limits that the newest run has; none if they could not be applied.
    pub(super) resources: Option<Resources>,
    /// Why limits could not be changed in place.
    pub(super) update_fault: Option<String>,
    /// The newest run that a probe had stopped: it was no success, however it ended.
    #[serde(default)]
    pub(super) ailed: Option<Attempt>,
    /// Whether it is started again, however its last run ended.
    #[serde(default)]
    begins_anew: bool,
}

/// Where the newest run stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum State {
    /// It never ran.
    Fresh,
    /// Being set up.
    Starting {
        attempt: Attempt,
        force: Force,
        /// When it is killed if nobody wants it to stop; not known of what another build has
        /// handed over.
        #[serde(default)]
        hung_at: Option<BootTime>,
    },
    /// Its program runs.
    Running(Live),
    /// It was told to stop.
    Stopping {
        live: Live,
        force: Force,
        /// When; not known of what another build has handed over.
        #[serde(default)]
        told_at: Option<BootTime>,
        /// How far that is.
        #[serde(default)]
        told: Told,
    },
    /// It ended; that is being made durable, or will be tried again.
    Recording { run: LastRun, since: BootTime, writing: Writing },
    /// It ended, and that is durable (`Container::last`).
    Ended { since: BootTime },
}

/// What a run that is to stop was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) enum Told {
    /// Its hook is being asked; when that is over or its time is, comes the signal.
    Hook,
    /// The hook is over.
    HookIsOver,
    /// The stop signal, or it was killed.
    #[default]
    Signal,
}

/// A run whose program was executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Live {
    pub(super) attempt: Attempt,
    pub(super) pid: u32,
    pub(super) since: BootTime,
    pub(super) started_at: WallTime,
    /// What is asked of it. Builds before this field asked nothing.
    #[serde(default)]
    pub(super) probing: Probing,
    /// Its hooks.
    #[serde(default)]
    hooks: Hooks,
}

impl Live {
    /// A run whose program was just executed.
    pub(super) fn new(attempt: Attempt, pid: u32, since: BootTime, started_at: WallTime) -> Self {
        let (probing, hooks) = (Probing::default(), Hooks::new());
        Self { attempt, pid, since, started_at, probing, hooks }
    }

    fn who<'a>(&self, container: &'a ContainerName) -> Who<'a> {
        Who { container, attempt: self.attempt, since: self.since }
    }

    /// When it has lasted as long as it may.
    fn ends_at(&self) -> Option<BootTime> {
        Some(self.since.plus(self.hooks.lifecycle().max_run_time?))
    }

    /// What there is to be reported of its health.
    fn health(&self) -> Health {
        let mut health = self.probing.health();
        health.started &= self.hooks.has_begun();
        health.ready &= self.hooks.has_begun();
        health.faults.extend(self.hooks.fault().cloned());
        if self.hooks.has_failed() {
            health.failed = Some(Purpose::PostStart);
        }
        health
    }
}

/// How recording an end goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Writing {
    UnderWay,
    Failed { why: String, retry_at: BootTime },
}

/// When a container that has to end is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Force {
    /// If it is still there then.
    At(BootTime),
    /// It was; if that did not end it, then again.
    AgainAt(BootTime),
}

impl Force {
    fn due(self) -> BootTime {
        match self {
            Self::At(at) | Self::AgainAt(at) => at,
        }
    }

    /// A wish may shorten the time, never prolong it: the same wish may come again at any time.
    fn by(&mut self, latest: BootTime) {
        if let Self::At(at) = self {
            *at = latest.min(*at);
        }
    }

    /// Whether it is to be killed now.
    fn strikes(&mut self, now: BootTime) -> bool {
        let due = self.due() <= now;
        if due {
            *self = Self::AgainAt(now.plus(KILL_RETRY));
        }
        due
    }
}

/// What is wanted of one container.
#[derive(Debug, Clone, Copy)]
pub(super) enum Want<'a> {
    /// It shall run.
    Run(Running<'a>),
    /// It is not started, and goes on if it runs. If it is started later, as that.
    Hold(Option<Running<'a>>),
    /// It shall stop, and is not started again.
    Stop(Stop),
    /// It is not part of the pod any more.
    Leave { grace: Millis },
}

/// What it is to run a container.
#[derive(Debug, Clone, Copy)]
pub(super) struct Running<'a> {
    pub(super) spec: &'a ContainerSpec,
    pub(super) hash: Hash,
    /// Whether a success does not count.
    pub(super) anew: bool,
}

/// A wish to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stop {
    /// Since when there is the wish.
    pub(super) since: BootTime,
    /// When the grace period is over.
    pub(super) by: BootTime,
    /// Whether there is none.
    pub(super) at_once: bool,
}

impl Want<'_> {
    /// The wish to stop, if it is one.
    fn stop(self, now: BootTime) -> Option<Stop> {
        match self {
            Self::Run(_) | Self::Hold(_) => None,
            Self::Stop(stop) => Some(stop),
            Self::Leave { grace } => Some(Stop::from(now, grace)),
        }
    }
}

impl Stop {
    /// A wish that begins now.
    pub(super) fn from(now: BootTime, grace: Millis) -> Self {
        Self { since: now, by: now.plus(grace), at_once: grace == Millis(0) }
    }

    /// A wish that comes again may shorten the time, never prolong it.
    pub(super) fn with(self, again: Self) -> Self {
        let Self { since, by, at_once } = self;
        Self { since, by: by.min(again.by), at_once: at_once || again.at_once }
    }

    /// When what was told to stop then is killed: who was told late has a little time of its own.
    fn kill_at(self, told_at: Option<BootTime>) -> BootTime {
        let late = told_at.filter(|told_at| *told_at > self.since && !self.at_once);
        late.map_or(self.by, |told_at| self.by.max(told_at.plus(LATE_STOP_TIME)))
    }
}

/// What the restart policy says of a container that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    At(BootTime),
    Never,
}

impl Container {
    /// One whose last run was before this executor.
    pub(super) fn recovered(from: Recovered, now: BootTime) -> Self {
        let Recovered { last, hash, streak, pod_since: _of_the_pod } = from;
        Self {
            state: State::Ended { since: now },
            next: last.attempt.next(),
            last: Some(last),
            hash,
            streak,
            resources: None,
            update_fault: None,
            ailed: None,
            begins_anew: false,
        }
    }

    /// One that never ran.
    pub(super) fn fresh() -> Self {
        Self {
            state: State::Fresh,
            next: Attempt::default(),
            last: None,
            hash: None,
            streak: 0,
            resources: None,
            update_fault: None,
            ailed: None,
            begins_anew: false,
        }
    }

    /// Whether a process of it may exist, or its end is not durable yet.
    pub(super) fn is_live(&self) -> bool {
        match self.state {
            State::Starting { .. }
            | State::Running(_)
            | State::Stopping { .. }
            | State::Recording { .. } => true,
            State::Fresh | State::Ended { .. } => false,
        }
    }

    /// Whether a process of it may exist.
    pub(super) fn has_process(&self) -> bool {
        match self.state {
            State::Starting { .. } | State::Running(_) | State::Stopping { .. } => true,
            State::Fresh | State::Recording { .. } | State::Ended { .. } => false,
        }
    }

    /// Whether what waits for its start may begin.
    pub(super) fn has_started(&self) -> bool {
        match &self.state {
            State::Running(live) => live.hooks.has_begun() && live.probing.is_started(),
            State::Fresh
            | State::Starting { .. }
            | State::Stopping { .. }
            | State::Recording { .. }
            | State::Ended { .. } => false,
        }
    }

    /// Whether it runs and is ready.
    pub(super) fn is_ready(&self) -> bool {
        match &self.state {
            State::Running(live) => live.health().ready,
            State::Fresh
            | State::Starting { .. }
            | State::Stopping { .. }
            | State::Recording { .. }
            | State::Ended { .. } => false,
        }
    }

    /// Whether its last run was a success, which one that a probe had stopped is not.
    pub(super) fn has_succeeded(&self) -> bool {
        let last = self.last.as_ref();
        last.is_some_and(|last| last.exit.is_success() && self.ailed != Some(last.attempt))
    }

    /// Whether all containers have to begin anew because of how its last run ended.
    pub(super) fn restarts_all(&self, spec: &ContainerSpec) -> bool {
        self.action(spec) == Some(RestartAction::RestartAllContainers)
    }

    /// What the rules of the container say of how its last run ended.
    fn action(&self, spec: &ContainerSpec) -> Option<RestartAction> {
        let (restart, last) = spec.restart.as_ref().zip(self.last.as_ref())?;
        let rule = restart.rules.iter().find(|rule| rule.matches(last.exit.code()));
        rule.map(|rule| rule.action)
    }

    /// It is started again although it was stopped, as if it had never run.
    pub(super) fn begin_anew(&mut self) {
        self.begins_anew = true;
    }

    pub(super) fn started(&mut self, mut live: Live, spec: Option<&ContainerSpec>) {
        if let Some(spec) = spec {
            live.hooks.follow(spec);
            live.probing.begin(spec);
        }
        match self.state {
            State::Starting { attempt, force, .. } if attempt == live.attempt => {
                // The kill of a set-up may cross its success: what was killed is not told to stop.
                self.state = match force {
                    Force::At(_) => State::Running(live),
                    Force::AgainAt(_) => {
                        State::Stopping { live, force, told_at: None, told: Told::Signal }
                    }
                };
            }
            State::Starting { .. }
            | State::Fresh
            | State::Running(_)
            | State::Stopping { .. }
            | State::Recording { .. }
            | State::Ended { .. } => {}
        }
    }

    pub(super) fn exited(
        &mut self,
        name: &ContainerName,
        run: LastRun,
        reset: Millis,
        now: BootTime,
    ) -> Option<Effect> {
        let (current, live) = match &self.state {
            State::Starting { attempt, .. } => (*attempt, None),
            State::Running(live) | State::Stopping { live, .. } => (live.attempt, Some(live)),
            State::Fresh | State::Recording { .. } | State::Ended { .. } => return None,
        };
        if current != run.attempt {
            return None;
        }
        let lasted = live.map_or(Millis(0), |live| now.since(live.since));
        self.streak = if lasted >= reset { 1 } else { self.streak.saturating_add(1) };
        let run = LastRun { started_at: live.map(|live| live.started_at), ..run };
        self.state = State::Recording { run: run.clone(), since: now, writing: Writing::UnderWay };
        Some(Effect::Record { container: name.clone(), run })
    }

    /// How it ended is durable, or could not be made so; whether it is now.
    pub(super) fn recorded(
        &mut self,
        attempt: Attempt,
        result: Result<(), String>,
        now: BootTime,
    ) -> bool {
        let State::Recording { run, since, writing } = &mut self.state else { return false };
        if run.attempt != attempt {
            return false;
        }
        match result {
            Ok(()) => {
                self.last = Some(run.clone());
                self.state = State::Ended { since: *since };
                true
            }
            Err(why) => {
                *writing = Writing::Failed { why, retry_at: now.plus(RECORD_RETRY) };
                false
            }
        }
    }

    /// Compares what is wanted with where the container stands.
    pub(super) fn settle(
        &mut self,
        name: &ContainerName,
        want: Want<'_>,
        pod: &PodSpec,
        now: BootTime,
        effects: &mut Vec<Effect>,
    ) {
        match (&mut self.state, want) {
            (State::Fresh, Want::Run(run)) => {
                effects.push(self.launch(name, run, now));
            }
            (State::Ended { .. }, Want::Run(run)) => {
                if let Some(Next::At(at)) = self.next(pod, run)
                    && at <= now
                {
                    effects.push(self.launch(name, run, now));
                }
            }
            (
                State::Fresh | State::Ended { .. },
                Want::Hold(_) | Want::Stop(_) | Want::Leave { .. },
            ) => {}
            (State::Starting { attempt, force, hung_at }, want) => {
                // A set-up that hangs may delay the end of the pod by its grace period only.
                match (want.stop(now), hung_at, &force) {
                    (Some(stop), _, _) => force.by(stop.by),
                    (None, Some(at), Force::At(_)) => *force = Force::At(*at),
                    (None, _, Force::At(_) | Force::AgainAt(_)) => {}
                }
                if force.strikes(now) {
                    effects.push(Effect::Kill { container: name.clone(), attempt: *attempt });
                }
            }
            (State::Running(_), Want::Hold(run)) => {
                if let Some(run) = run {
                    self.look_after(name, run.spec, pod, now, effects);
                }
            }
            (State::Running(live), Want::Run(Running { spec, hash, anew: _ })) => {
                let attempt = live.attempt;
                if self.hash != Some(hash) {
                    self.stop(name, Stop::from(now, self.grace(pod)), now, effects);
                    return;
                }
                if self.resources != Some(spec.resources) {
                    self.resources = Some(spec.resources);
                    effects.push(Effect::Update {
                        container: name.clone(),
                        attempt,
                        resources: spec.resources,
                    });
                }
                self.look_after(name, spec, pod, now, effects);
            }
            (State::Running(_), Want::Stop(stop)) => self.stop(name, stop, now, effects),
            (State::Running(live), Want::Leave { grace }) => {
                let grace = live.hooks.lifecycle().stop_grace.unwrap_or(grace);
                self.stop(name, Stop::from(now, grace), now, effects);
            }
            (State::Stopping { .. }, want) => self.go_on_stopping(name, want, now, effects),
            (State::Recording { run, writing, .. }, _) => {
                if matches!(writing, Writing::Failed { retry_at, .. } if *retry_at <= now) {
                    *writing = Writing::UnderWay;
                    effects.push(Effect::Record { container: name.clone(), run: run.clone() });
                }
            }
        }
    }

    /// Asks of a run what is due, and stops it if it ails.
    fn look_after(
        &mut self,
        name: &ContainerName,
        spec: &ContainerSpec,
        pod: &PodSpec,
        now: BootTime,
        effects: &mut Vec<Effect>,
    ) {
        let State::Running(live) = &mut self.state else { return };
        let who = live.who(name);
        let is_over = live.ends_at().is_some_and(|at| at <= now);
        live.hooks.settle(who, effects);
        let has_failed = live.hooks.has_failed();
        if !has_failed && !is_over && live.hooks.has_begun() {
            live.probing.settle(spec, who, now, effects);
        }
        let ailing = live.probing.ailing().map(|ailing| ailing.grace);
        if !has_failed && !is_over && ailing.is_none() {
            return;
        }
        self.ailed = Some(live.attempt);
        let grace = match ailing.flatten() {
            _ if is_over => Millis(0),
            Some(grace) => grace,
            None => self.grace(pod),
        };
        self.stop(name, Stop::from(now, grace), now, effects);
    }

    /// The grace period of a run that is stopped alone.
    fn grace(&self, pod: &PodSpec) -> Millis {
        let own = match &self.state {
            State::Running(live) => live.hooks.lifecycle().stop_grace,
            State::Fresh
            | State::Starting { .. }
            | State::Stopping { .. }
            | State::Recording { .. }
            | State::Ended { .. } => None,
        };
        own.unwrap_or(pod.termination_grace)
    }

    /// What came of a question.
    pub(super) fn answered(
        &mut self,
        attempt: Attempt,
        purpose: Purpose,
        answer: Answer,
        now: BootTime,
    ) {
        match (&mut self.state, purpose) {
            (State::Running(live), Purpose::PostStart) if live.attempt == attempt => {
                live.hooks.answered_post_start(answer);
            }
            (State::Stopping { live, told: told @ Told::Hook, .. }, Purpose::PreStop)
                if live.attempt == attempt =>
            {
                live.hooks.answered_pre_stop(answer);
                *told = Told::HookIsOver;
            }
            (State::Running(live), _) if live.attempt == attempt => {
                live.probing.answered(purpose, answer, now);
            }
            (
                State::Fresh
                | State::Starting { .. }
                | State::Running(_)
                | State::Stopping { .. }
                | State::Recording { .. }
                | State::Ended { .. },
                _,
            ) => {}
        }
    }

    /// What is wanted of it has changed: without a startup probe it has started.
    pub(super) fn is_wanted_as(&mut self, spec: &ContainerSpec) {
        if let State::Running(live) = &mut self.state {
            live.hooks.follow(spec);
            live.probing.begin(spec);
        }
    }

    /// Questions that are open are asked again, but for the last.
    pub(super) fn repeat_questions(&mut self) {
        match &mut self.state {
            State::Running(live) => {
                live.probing.repeat();
                live.hooks.repeat();
            }
            State::Stopping { told: told @ Told::Hook, .. } => *told = Told::HookIsOver,
            State::Fresh
            | State::Starting { .. }
            | State::Stopping { .. }
            | State::Recording { .. }
            | State::Ended { .. } => {}
        }
    }

    /// What was told to stop is told more when it is time.
    fn go_on_stopping(
        &mut self,
        name: &ContainerName,
        want: Want<'_>,
        now: BootTime,
        effects: &mut Vec<Effect>,
    ) {
        let State::Stopping { live, force, told_at, told } = &mut self.state else { return };
        let (container, attempt) = (name.clone(), live.attempt);
        let wish = match want {
            // What left the specification is stopping already, in the time that it was given: the
            // wish comes again with every step, and would begin that time anew.
            Want::Leave { .. } => None,
            Want::Run(_) | Want::Hold(_) | Want::Stop(_) => want.stop(now),
        };
        if let Some(stop) = wish {
            force.by(stop.kill_at(*told_at));
        }
        if *told == Told::Hook && force.due() <= now {
            effects.push(live.who(name).unask(Purpose::PreStop));
            *told = Told::HookIsOver;
        }
        if *told == Told::HookIsOver {
            *told = Told::Signal;
            // Where there is no time at all, there is none for the signal either.
            if !wish.is_some_and(|stop| stop.at_once) {
                *told_at = Some(now);
                *force = Force::At(force.due().max(now.plus(LATE_STOP_TIME)));
                effects.push(Effect::Stop { container, attempt });
                return;
            }
        }
        if *told == Told::Signal && force.strikes(now) {
            effects.push(Effect::Kill { container, attempt });
        }
    }

    fn launch(&mut self, name: &ContainerName, run: Running<'_>, now: BootTime) -> Effect {
        let Running { spec, hash, anew: _ } = run;
        if self.hash != Some(hash) {
            self.streak = 0;
        }
        let attempt = self.next;
        self.next = attempt.next();
        self.hash = Some(hash);
        self.resources = Some(spec.resources);
        self.update_fault = None;
        self.begins_anew = false;
        let hung_at = now.plus(LAUNCH_TIME_MAX);
        self.state = State::Starting { attempt, force: Force::At(hung_at), hung_at: Some(hung_at) };
        Effect::Launch { container: name.clone(), attempt, hash, streak: self.streak }
    }

    fn stop(&mut self, name: &ContainerName, stop: Stop, now: BootTime, effects: &mut Vec<Effect>) {
        let State::Running(live) = &mut self.state else { return };
        let who = live.who(name);
        live.probing.stop(who, effects);
        live.hooks.stop(who, effects);
        let (container, attempt) = (name.clone(), live.attempt);
        let own = live.hooks.lifecycle().stop_grace.map(|grace| now.plus(grace));
        let kill_at = stop.kill_at(Some(now));
        let kill_at = own.map_or(kill_at, |own| own.min(kill_at));
        let (force, told) = if kill_at <= now {
            effects.push(Effect::Kill { container, attempt });
            (Force::AgainAt(now.plus(KILL_RETRY)), Told::Signal)
        } else if live.hooks.ask_pre_stop(who, kill_at.since(now), effects) {
            (Force::At(kill_at), Told::Hook)
        } else {
            effects.push(Effect::Stop { container, attempt });
            (Force::At(kill_at), Told::Signal)
        };
        self.state = State::Stopping { live: live.clone(), force, told_at: Some(now), told };
    }

    /// When a container that has ended is started again; none of one that has not.
    pub(super) fn next(&self, pod: &PodSpec, run: Running<'_>) -> Option<Next> {
        let State::Ended { since } = self.state else { return None };
        let Running { spec, hash, anew } = run;
        if self.hash != Some(hash) || (anew && self.has_succeeded()) {
            return Some(Next::At(since));
        }
        let again = match (self.action(spec), pod.restart_policy_of(spec)) {
            (Some(RestartAction::Restart | RestartAction::RestartAllContainers), _)
            | (None, RestartPolicy::Always) => true,
            (None, RestartPolicy::OnFailure) => !self.has_succeeded(),
            (None, RestartPolicy::Never) => false,
        };
        Some(match (again, self.begins_anew) {
            (true, _) => Next::At(since.plus(delay(&pod.backoff, self.streak))),
            (false, true) => Next::At(since),
            (false, false) => Next::Never,
        })
    }

    pub(super) fn wake_at(&self, want: Want<'_>, pod: &PodSpec) -> Option<BootTime> {
        match (&self.state, want) {
            (State::Starting { force, .. } | State::Stopping { force, .. }, _) => Some(force.due()),
            (State::Recording { writing: Writing::Failed { retry_at, .. }, .. }, _) => {
                Some(*retry_at)
            }
            (State::Ended { .. }, Want::Run(run)) => match self.next(pod, run)? {
                Next::At(at) => Some(at),
                Next::Never => None,
            },
            (State::Running(live), Want::Run(_) | Want::Hold(Some(_))) => {
                live.probing.wake_at().into_iter().chain(live.ends_at()).min()
            }
            (State::Ended { .. }, Want::Hold(_) | Want::Stop(_) | Want::Leave { .. })
            | (State::Running(_), Want::Hold(None) | Want::Stop(_) | Want::Leave { .. })
            | (State::Fresh, _)
            | (State::Recording { writing: Writing::UnderWay, .. }, _) => None,
        }
    }

    pub(super) fn report(
        &self,
        name: &ContainerName,
        want: Want<'_>,
        pod: &PodSpec,
    ) -> ContainerReport {
        let (attempt, status) = match &self.state {
            State::Fresh => (None, ContainerStatus::Creating),
            State::Starting { attempt, .. } => (Some(*attempt), ContainerStatus::Creating),
            State::Running(live) => (
                Some(live.attempt),
                ContainerStatus::Running { pid: live.pid, started_at: live.started_at },
            ),
            State::Stopping { live, .. } => (
                Some(live.attempt),
                ContainerStatus::Stopping { pid: live.pid, started_at: live.started_at },
            ),
            State::Recording { run, writing, .. } => {
                let why = match writing {
                    Writing::UnderWay => None,
                    Writing::Failed { why, .. } => Some(why.clone()),
                };
                (Some(run.attempt), ContainerStatus::Recording { fault: why })
            }
            State::Ended { .. } => {
                let (next, waits) = match want {
                    Want::Run(run) => (self.next(pod, run), false),
                    Want::Hold(Some(run)) => (self.next(pod, run), true),
                    Want::Hold(None) | Want::Stop(_) | Want::Leave { .. } => (None, false),
                };
                let status = match next {
                    Some(Next::At(_)) if waits => ContainerStatus::Creating,
                    Some(Next::At(at)) => ContainerStatus::BackingOff {
                        until: at,
                        delay: delay(&pod.backoff, self.streak),
                    },
                    Some(Next::Never) | None => ContainerStatus::Terminated,
                };
                (self.last.as_ref().map(|last| last.attempt), status)
            }
        };
        let health = match &self.state {
            State::Running(live) | State::Stopping { live, .. } => Some(live.health()),
            State::Fresh
            | State::Starting { .. }
            | State::Recording { .. }
            | State::Ended { .. } => None,
        };
        ContainerReport {
            name: name.clone(),
            attempt,
            status,
            last: self.last.clone(),
            update_fault: self.update_fault.clone(),
            health,
        }
    }
}

/// The delay after `streak` runs that ended early.
pub(super) fn delay(policy: &BackoffPolicy, streak: u32) -> Millis {
    match streak.checked_sub(1) {
        None => Millis(0),
        Some(doublings) => {
            let factor = 1_u64.checked_shl(doublings).unwrap_or(u64::MAX);
            Millis(policy.initial.0.saturating_mul(factor)).min(policy.max)
        }
    }
}
