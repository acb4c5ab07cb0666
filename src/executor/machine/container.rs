//! [`Container`]: the decisions about one container. PURE.
//!
//! It compares what is wanted of the container ([`Want`]) with where it stands. Not here: what is
//! wanted of it, which depends on the rest of the pod (`machine`).

use serde::{Deserialize, Serialize};

use super::probing::{Probing, Who};
use super::{Effect, KILL_RETRY, LAUNCH_TIME_MAX, RECORD_RETRY, Recovered};
use crate::clock::{BootTime, Millis, WallTime};
use crate::executor::protocol::{ContainerReport, ContainerStatus};
use crate::executor::question::{Answer, Purpose};
use crate::ids::{Attempt, ContainerName};
use crate::manifest::pod::{BackoffPolicy, ContainerSpec, PodSpec, Resources, RestartPolicy};
use crate::manifest::revision::{Hash, Revision};
use crate::state::record::{Exit, LastRun};

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
}

/// Where the newest run stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum State {
    /// It never ran.
    Fresh,
    /// Being set up.
    Starting { attempt: Attempt, force: Force },
    /// Its program runs.
    Running(Live),
    /// It was told to stop.
    Stopping { live: Live, force: Force },
    /// It ended; that is being made durable, or will be tried again.
    Recording { run: LastRun, since: BootTime, writing: Writing },
    /// It ended, and that is durable (`Container::last`).
    Ended { since: BootTime },
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
}

impl Live {
    /// A run whose program was just executed.
    pub(super) fn new(attempt: Attempt, pid: u32, since: BootTime, started_at: WallTime) -> Self {
        Self { attempt, pid, since, started_at, probing: Probing::default() }
    }

    fn who<'a>(&self, container: &'a ContainerName) -> Who<'a> {
        Who { container, attempt: self.attempt, since: self.since }
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
    Run { spec: &'a ContainerSpec, hash: Hash },
    Stop { grace: Millis },
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
        let Recovered { last, hash, streak } = from;
        Self {
            state: State::Ended { since: now },
            next: last.attempt.next(),
            last: Some(last),
            hash,
            streak,
            resources: None,
            update_fault: None,
            ailed: None,
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

    pub(super) fn started(&mut self, live: Live) {
        match self.state {
            State::Starting { attempt, force } if attempt == live.attempt => {
                // The kill of a set-up may cross its success: what was killed is not told to stop.
                self.state = match force {
                    Force::At(_) => State::Running(live),
                    Force::AgainAt(_) => State::Stopping { live, force },
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
        attempt: Attempt,
        exit: Exit,
        at: WallTime,
        reset: Millis,
        now: BootTime,
    ) -> Option<Effect> {
        let (current, live) = match &self.state {
            State::Starting { attempt, .. } => (*attempt, None),
            State::Running(live) | State::Stopping { live, .. } => (live.attempt, Some(live)),
            State::Fresh | State::Recording { .. } | State::Ended { .. } => return None,
        };
        if current != attempt {
            return None;
        }
        let lasted = live.map_or(Millis(0), |live| now.since(live.since));
        self.streak = if lasted >= reset { 1 } else { self.streak.saturating_add(1) };
        let run = LastRun {
            attempt,
            started_at: live.map(|live| live.started_at),
            finished_at: at,
            exit,
        };
        self.state = State::Recording { run: run.clone(), since: now, writing: Writing::UnderWay };
        Some(Effect::Record { container: name.clone(), run })
    }

    pub(super) fn recorded(&mut self, attempt: Attempt, result: Result<(), String>, now: BootTime) {
        let State::Recording { run, since, writing } = &mut self.state else { return };
        if run.attempt != attempt {
            return;
        }
        match result {
            Ok(()) => {
                self.last = Some(run.clone());
                self.state = State::Ended { since: *since };
            }
            Err(why) => *writing = Writing::Failed { why, retry_at: now.plus(RECORD_RETRY) },
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
            (State::Fresh, Want::Run { spec, hash }) => {
                effects.push(self.launch(name, spec, hash, now));
            }
            (State::Ended { since }, Want::Run { spec, hash }) => {
                let since = *since;
                if let Next::At(at) = self.next(pod, hash, since)
                    && at <= now
                {
                    effects.push(self.launch(name, spec, hash, now));
                }
            }
            (State::Fresh | State::Ended { .. }, Want::Stop { .. }) => {}
            (State::Starting { attempt, force }, want) => {
                // A set-up that hangs may delay the end of the pod by its grace period only.
                if let Want::Stop { grace } = want {
                    force.by(now.plus(grace));
                }
                if force.strikes(now) {
                    effects.push(Effect::Kill { container: name.clone(), attempt: *attempt });
                }
            }
            (State::Running(live), Want::Run { spec, hash }) => {
                let attempt = live.attempt;
                if self.hash != Some(hash) {
                    self.stop(name, pod.termination_grace, now, effects);
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
            (State::Running(_), Want::Stop { grace }) => self.stop(name, grace, now, effects),
            (State::Stopping { live, force }, want) => {
                if let Want::Stop { grace } = want {
                    force.by(now.plus(grace));
                }
                if force.strikes(now) {
                    effects.push(Effect::Kill { container: name.clone(), attempt: live.attempt });
                }
            }
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
        live.probing.settle(spec, who, now, effects);
        if let Some(ailing) = live.probing.ailing() {
            self.ailed = Some(live.attempt);
            let grace = ailing.grace.unwrap_or(pod.termination_grace);
            self.stop(name, grace, now, effects);
        }
    }

    /// What came of a question.
    pub(super) fn answered(
        &mut self,
        attempt: Attempt,
        purpose: Purpose,
        answer: Answer,
        now: BootTime,
    ) {
        if let State::Running(live) = &mut self.state
            && live.attempt == attempt
        {
            live.probing.answered(purpose, answer, now);
        }
    }

    /// Questions that are open are asked again.
    pub(super) fn repeat_questions(&mut self) {
        if let State::Running(live) = &mut self.state {
            live.probing.repeat();
        }
    }

    fn launch(
        &mut self,
        name: &ContainerName,
        spec: &ContainerSpec,
        hash: Hash,
        now: BootTime,
    ) -> Effect {
        if self.hash != Some(hash) {
            self.streak = 0;
        }
        let attempt = self.next;
        self.next = attempt.next();
        self.hash = Some(hash);
        self.resources = Some(spec.resources);
        self.update_fault = None;
        self.state = State::Starting { attempt, force: Force::At(now.plus(LAUNCH_TIME_MAX)) };
        Effect::Launch { container: name.clone(), attempt, hash, streak: self.streak }
    }

    fn stop(
        &mut self,
        name: &ContainerName,
        grace: Millis,
        now: BootTime,
        effects: &mut Vec<Effect>,
    ) {
        let State::Running(live) = &mut self.state else { return };
        let who = live.who(name);
        live.probing.stop(who, effects);
        let attempt = live.attempt;
        let container = name.clone();
        let force = if grace == Millis(0) {
            effects.push(Effect::Kill { container, attempt });
            Force::AgainAt(now.plus(KILL_RETRY))
        } else {
            effects.push(Effect::Stop { container, attempt });
            Force::At(now.plus(grace))
        };
        self.state = State::Stopping { live: live.clone(), force };
    }

    /// When a container that ended at `since` is started again.
    pub(super) fn next(&self, pod: &PodSpec, hash: Hash, since: BootTime) -> Next {
        if self.hash != Some(hash) {
            return Next::At(since);
        }
        let success = self
            .last
            .as_ref()
            .is_some_and(|last| last.exit.is_success() && self.ailed != Some(last.attempt));
        let again = match pod.restart_policy {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => !success,
            RestartPolicy::Never => false,
        };
        if again { Next::At(since.plus(delay(&pod.backoff, self.streak))) } else { Next::Never }
    }

    pub(super) fn wake_at(&self, want: Want<'_>, pod: &PodSpec) -> Option<BootTime> {
        match (&self.state, want) {
            (State::Starting { force, .. } | State::Stopping { force, .. }, _) => Some(force.due()),
            (State::Recording { writing: Writing::Failed { retry_at, .. }, .. }, _) => {
                Some(*retry_at)
            }
            (State::Ended { since }, Want::Run { hash, .. }) => {
                match self.next(pod, hash, *since) {
                    Next::At(at) => Some(at),
                    Next::Never => None,
                }
            }
            (State::Running(live), Want::Run { .. }) => live.probing.wake_at(),
            (State::Ended { .. } | State::Running(_), Want::Stop { .. })
            | (State::Fresh, _)
            | (State::Recording { writing: Writing::UnderWay, .. }, _) => None,
        }
    }

    pub(super) fn report(
        &self,
        name: &ContainerName,
        revision: &Revision,
        pod: &PodSpec,
    ) -> ContainerReport {
        let hash = revision.containers.get(name).copied();
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
            State::Ended { since } => {
                let next = hash.map_or(Next::Never, |hash| self.next(pod, hash, *since));
                let status = match next {
                    Next::At(at) => ContainerStatus::BackingOff {
                        until: at,
                        delay: delay(&pod.backoff, self.streak),
                    },
                    Next::Never => ContainerStatus::Terminated,
                };
                (self.last.as_ref().map(|last| last.attempt), status)
            }
        };
        let health = match &self.state {
            State::Running(live) | State::Stopping { live, .. } => Some(live.probing.health()),
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
