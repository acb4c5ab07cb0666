//! [`PodMachine`]: every decision about the containers of one pod. PURE.
//!
//! ```text
//!            launch                    started                  exited
//!   Fresh ───────────► Starting ─────────────────► Running ───────────────┐
//!                         ▲ │ not started               │ stop              ▼
//!                         │ └───────────────────────────┼──────────► Recording
//!                         │                             ▼     exited     ▲  │ recorded
//!                         │                          Stopping ───────────┘  ▼
//!                         └─────────────── launch, after the back-off ─── Ended
//! ```
//!
//! It is level-triggered: [`PodMachine::step`] takes in one event and then compares what is wanted
//! with where each container stands, so neither the order nor the number of specifications
//! received matters. It reads no clock and does nothing itself: it answers with [`Effect`]s. The
//! shell (`executor::shell`) performs them and answers with events; it may fail at any of them.
//!
//! Promises of the shell: [`Effect::Launch`] records the attempt durably before the program is
//! executed; [`Event::Exited`] means that no process of the container is left.
//!
//! The whole machine can be serialized: it is handed over when an executor upgrades itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::protocol::{ContainerReport, ContainerStatus, Goal, PodReport, WantedPod};
use crate::clock::{BootTime, Millis, WallTime};
use crate::ids::{Attempt, ContainerName};
use crate::manifest::pod::{BackoffPolicy, ContainerSpec, PodSpec, Resources, RestartPolicy};
use crate::manifest::revision::{Hash, Revision};
use crate::state::record::{Exit, LastRun, Outcome};

#[cfg(test)]
mod tests;

/// How long the set-up of a container may take before it is killed and counts as not started.
pub const LAUNCH_TIME_MAX: Millis = Millis::from_secs(120);
/// How long after a kill that did not end a container it is killed again.
pub const KILL_RETRY: Millis = Millis::from_secs(1);
/// How long after an exit could not be recorded it is tried again.
pub const RECORD_RETRY: Millis = Millis::from_secs(1);

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The agent says what is wanted.
    Wanted(WantedPod),
    /// The program of a launched container was executed.
    Started {
        /// Which container.
        container: ContainerName,
        /// Which run.
        attempt: Attempt,
        /// Its process, in the executor's pid namespace.
        pid: u32,
        /// When, to be shown.
        at: WallTime,
    },
    /// No process of that run is left.
    Exited {
        /// Which container.
        container: ContainerName,
        /// Which run.
        attempt: Attempt,
        /// How it ended; [`Exit::NotStarted`] if its program was never executed.
        exit: Exit,
        /// When, to be shown.
        at: WallTime,
    },
    /// How a run ended is durable, or could not be made so.
    Recorded {
        /// Which container.
        container: ContainerName,
        /// Which run.
        attempt: Attempt,
        /// What went wrong, if it did.
        result: Result<(), String>,
    },
    /// Limits could not be changed in place.
    NotUpdated {
        /// Which container.
        container: ContainerName,
        /// Why.
        why: String,
    },
    /// Time has passed.
    Tick,
}

/// What the shell is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Record the attempt durably, then execute the container's program.
    Launch {
        /// What to start.
        container: ContainerName,
        /// Which run it is.
        attempt: Attempt,
        /// Goes into the attempt's checkpoint.
        hash: Hash,
        /// Goes into the attempt's checkpoint: runs that ended early before it, in a row.
        streak: u32,
    },
    /// Send the stop signal to the container's first process.
    Stop {
        /// Which container.
        container: ContainerName,
        /// Which run.
        attempt: Attempt,
    },
    /// Kill every process of the container.
    Kill {
        /// Which container.
        container: ContainerName,
        /// Which run.
        attempt: Attempt,
    },
    /// Make durable how a run ended.
    Record {
        /// Which container.
        container: ContainerName,
        /// The run.
        run: LastRun,
    },
    /// Apply the limits of the specification to a live container.
    Update {
        /// Which container.
        container: ContainerName,
        /// Which run.
        attempt: Attempt,
        /// The limits.
        resources: Resources,
    },
    /// Apply the pod's own limits.
    UpdatePod {
        /// Most processes and threads.
        pids_limit: u32,
    },
}

/// What checkpoints tell about a container when an executor starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Its last run; [`Exit::Unknown`] where an attempt was recorded but no exit.
    pub last: LastRun,
    /// The hash of the specification that run had; if that is not known, it counts as the one that
    /// is wanted first.
    pub hash: Option<Hash>,
    /// Runs that ended early, in a row, that one included; 0 to start again at once.
    pub streak: u32,
}

/// The decisions about one pod. See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodMachine {
    wanted: Option<Wanted>,
    containers: BTreeMap<ContainerName, Container>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Wanted {
    number: u64,
    goal: Goal,
    spec: Arc<PodSpec>,
    revision: Revision,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Container {
    state: State,
    /// The number of the next run.
    next: Attempt,
    /// The last run that ended, durably.
    last: Option<LastRun>,
    /// The specification of the newest run: a run with an old one is replaced.
    hash: Option<Hash>,
    /// Runs that ended early, in a row: the exponent of the back-off.
    streak: u32,
    /// The limits that the newest run has; none if they could not be applied.
    resources: Option<Resources>,
    /// Why limits could not be changed in place.
    update_fault: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum State {
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
struct Live {
    attempt: Attempt,
    pid: u32,
    since: BootTime,
    started_at: WallTime,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Writing {
    UnderWay,
    Failed { why: String, retry_at: BootTime },
}

/// When a container that has to end is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Force {
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
enum Want<'a> {
    Run { spec: &'a ContainerSpec, hash: Hash },
    Stop { grace: Millis },
}

/// What the restart policy says of a container that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    At(BootTime),
    Never,
}

impl PodMachine {
    /// A machine that waits to be told what is wanted. Nothing runs yet.
    #[must_use]
    pub fn new(recovered: BTreeMap<ContainerName, Recovered>, now: BootTime) -> Self {
        let containers = recovered
            .into_iter()
            .map(|(name, Recovered { last, hash, streak })| {
                let container = Container {
                    state: State::Ended { since: now },
                    next: last.attempt.next(),
                    last: Some(last),
                    hash,
                    streak,
                    resources: None,
                    update_fault: None,
                };
                (name, container)
            })
            .collect();
        Self { wanted: None, containers }
    }

    /// Takes in an event and answers with what is to be done.
    pub fn step(&mut self, event: Event, now: BootTime) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.take(event, now, &mut effects);
        if let Some(wanted) = &self.wanted {
            // A container that left the specification stays known: if it comes back, its runs
            // are counted on, because the number of a run is never used twice.
            for (name, container) in &mut self.containers {
                container.settle(name, wanted.of(name), &wanted.spec, now, &mut effects);
            }
        }
        effects
    }

    fn take(&mut self, event: Event, now: BootTime, effects: &mut Vec<Effect>) {
        match event {
            Event::Wanted(wanted) => self.take_wanted(wanted, effects),
            Event::Started { container, attempt, pid, at } => {
                if let Some(container) = self.containers.get_mut(&container) {
                    container.started(Live { attempt, pid, since: now, started_at: at });
                }
            }
            Event::Exited { container: name, attempt, exit, at } => {
                let reset = self
                    .wanted
                    .as_ref()
                    .map_or_else(BackoffPolicy::default, |wanted| wanted.spec.backoff);
                if let Some(container) = self.containers.get_mut(&name) {
                    effects.extend(container.exited(&name, attempt, exit, at, reset.reset, now));
                }
            }
            Event::Recorded { container, attempt, result } => {
                if let Some(container) = self.containers.get_mut(&container) {
                    container.recorded(attempt, result, now);
                }
            }
            Event::NotUpdated { container, why } => {
                if let Some(container) = self.containers.get_mut(&container) {
                    container.update_fault = Some(why);
                }
            }
            Event::Tick => {}
        }
    }

    fn take_wanted(&mut self, wanted: WantedPod, effects: &mut Vec<Effect>) {
        let WantedPod { number, goal, spec } = wanted;
        if self.wanted.as_ref().is_none_or(|old| old.spec.pids_limit != spec.pids_limit) {
            effects.push(Effect::UpdatePod { pids_limit: spec.pids_limit });
        }
        for container in &spec.containers {
            self.containers.entry(container.name.clone()).or_insert_with(Container::fresh);
        }
        // What could not be applied is tried again whenever the agent speaks.
        for container in self.containers.values_mut() {
            if container.update_fault.take().is_some() {
                container.resources = None;
            }
        }
        let revision = Revision::of(&spec);
        for (name, container) in &mut self.containers {
            if container.hash.is_none() && container.last.is_some() {
                container.hash = revision.containers.get(name).copied();
            }
        }
        self.wanted = Some(Wanted { number, goal, revision, spec });
    }

    /// When [`Event::Tick`] is due next.
    #[must_use]
    pub fn wake_at(&self) -> Option<BootTime> {
        let wanted = self.wanted.as_ref()?;
        self.containers
            .iter()
            .filter_map(|(name, c)| c.wake_at(wanted.of(name), &wanted.spec))
            .min()
    }

    /// Whether the goal is to stop and nothing is left to be stopped or recorded.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.wanted.as_ref().is_some_and(|wanted| matches!(wanted.goal, Goal::Stop { .. }))
            && !self.containers.values().any(Container::is_live)
    }

    /// The specification in force, for effects that need more of it than their fields.
    #[must_use]
    pub fn spec(&self) -> Option<&Arc<PodSpec>> {
        self.wanted.as_ref().map(|wanted| &wanted.spec)
    }

    /// Where everything stands; none before the first specification.
    #[must_use]
    pub fn report(&self) -> Option<PodReport> {
        let Wanted { number, goal, spec, revision } = self.wanted.as_ref()?;
        let containers: Vec<ContainerReport> = self
            .containers
            .iter()
            .filter(|(name, container)| container.is_live() || spec.container(name).is_some())
            .map(|(name, container)| container.report(name, revision, spec))
            .collect();
        Some(PodReport {
            number: *number,
            digest: revision.digest(),
            goal: *goal,
            finished: self.outcome(),
            containers,
        })
    }

    /// How the pod ended, if every container is through by its restart policy.
    fn outcome(&self) -> Option<Outcome> {
        let wanted = self.wanted.as_ref()?;
        let mut outcome = Outcome::Succeeded;
        for (name, container) in &self.containers {
            let Want::Run { hash, .. } = wanted.of(name) else {
                if wanted.goal == Goal::Run && !container.is_live() {
                    continue;
                }
                return None;
            };
            let State::Ended { since } = container.state else { return None };
            if container.next(&wanted.spec, hash, since) != Next::Never {
                return None;
            }
            if !container.last.as_ref()?.exit.is_success() {
                outcome = Outcome::Failed;
            }
        }
        Some(outcome)
    }
}

impl Wanted {
    fn of(&self, name: &ContainerName) -> Want<'_> {
        match (self.goal, self.spec.container(name), self.revision.containers.get(name)) {
            (Goal::Run, Some(spec), Some(hash)) => Want::Run { spec, hash: *hash },
            (Goal::Run, _, _) => Want::Stop { grace: self.spec.termination_grace },
            (Goal::Stop { grace }, _, _) => Want::Stop { grace },
        }
    }
}

impl Container {
    fn fresh() -> Self {
        Self {
            state: State::Fresh,
            next: Attempt::default(),
            last: None,
            hash: None,
            streak: 0,
            resources: None,
            update_fault: None,
        }
    }

    /// Whether a process of it may exist, or its end is not durable yet.
    fn is_live(&self) -> bool {
        match self.state {
            State::Starting { .. }
            | State::Running(_)
            | State::Stopping { .. }
            | State::Recording { .. } => true,
            State::Fresh | State::Ended { .. } => false,
        }
    }

    fn started(&mut self, live: Live) {
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

    fn exited(
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

    fn recorded(&mut self, attempt: Attempt, result: Result<(), String>, now: BootTime) {
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
    fn settle(
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
                } else if self.resources != Some(spec.resources) {
                    self.resources = Some(spec.resources);
                    effects.push(Effect::Update {
                        container: name.clone(),
                        attempt,
                        resources: spec.resources,
                    });
                }
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
        let State::Running(live) = &self.state else { return };
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
    fn next(&self, pod: &PodSpec, hash: Hash, since: BootTime) -> Next {
        if self.hash != Some(hash) {
            return Next::At(since);
        }
        let success = self.last.as_ref().is_some_and(|last| last.exit.is_success());
        let again = match pod.restart_policy {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => !success,
            RestartPolicy::Never => false,
        };
        if again { Next::At(since.plus(delay(&pod.backoff, self.streak))) } else { Next::Never }
    }

    fn wake_at(&self, want: Want<'_>, pod: &PodSpec) -> Option<BootTime> {
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
            (State::Ended { .. }, Want::Stop { .. })
            | (State::Fresh | State::Running(_), _)
            | (State::Recording { writing: Writing::UnderWay, .. }, _) => None,
        }
    }

    fn report(&self, name: &ContainerName, revision: &Revision, pod: &PodSpec) -> ContainerReport {
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
        ContainerReport {
            name: name.clone(),
            attempt,
            status,
            last: self.last.clone(),
            update_fault: self.update_fault.clone(),
        }
    }
}

/// The delay after `streak` runs that ended early.
fn delay(policy: &BackoffPolicy, streak: u32) -> Millis {
    match streak.checked_sub(1) {
        None => Millis(0),
        Some(doublings) => {
            let factor = 1_u64.checked_shl(doublings).unwrap_or(u64::MAX);
            Millis(policy.initial.0.saturating_mul(factor)).min(policy.max)
        }
    }
}
