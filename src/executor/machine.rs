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

use self::container::{Container, Live, Running, Want};
use self::order::Course;
use super::protocol::{ContainerReport, Goal, PodReport, WantedPod};
use super::question::{Answer, Purpose};
use crate::clock::{BootTime, Millis, WallTime};
use crate::ids::{Attempt, ContainerName};
use crate::manifest::pod::{BackoffPolicy, Handler, PodSpec, Resources};
use crate::manifest::revision::{Hash, Revision};
use crate::state::record::{Exit, LastRun};

mod container;
mod hooks;
mod order;
mod probing;
#[cfg(test)]
mod tests;

/// How long the set-up of a container may take before it is killed and counts as not started.
pub const LAUNCH_TIME_MAX: Millis = Millis::from_secs(120);
/// How long after a kill that did not end a container it is killed again.
pub const KILL_RETRY: Millis = Millis::from_secs(1);
/// What is told to stop late, because others had to end before it, has at least this long, even if
/// the grace period is over by then (as in the kubelet, `minimumGracePeriodInSeconds`).
pub const LATE_STOP_TIME: Millis = Millis::from_secs(2);
/// How long the hook at the beginning of a run may take.
pub const POST_START_TIME_MAX: Millis = Millis::from_secs(3600);
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
        /// What it says about that itself.
        message: Option<String>,
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
    /// What came of a question ([`Effect::Ask`]).
    Answered {
        /// Which container.
        container: ContainerName,
        /// Which run.
        attempt: Attempt,
        /// Which question.
        purpose: Purpose,
        /// The answer.
        answer: Answer,
    },
    /// Questions that were open have no answer to come: another program has taken over. They are
    /// asked again.
    AnswersLost,
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
    /// Ask something of a run whose program was executed. There is one answer, at the latest when
    /// its time is over, unless the run ends before or it is not asked any more.
    Ask {
        /// Which container.
        container: ContainerName,
        /// Which run.
        attempt: Attempt,
        /// Why.
        purpose: Purpose,
        /// What.
        handler: Handler,
        /// No answer by then is a failure.
        timeout: Millis,
    },
    /// Do not ask that any more: there is no answer then, and nothing is left of it.
    Unask {
        /// Which container.
        container: ContainerName,
        /// Which run.
        attempt: Attempt,
        /// What is not to be asked.
        purpose: Purpose,
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
    /// Since when the pod runs in this boot, as that run was announced with.
    pub pod_since: Option<BootTime>,
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
    /// Builds before this field knew no init containers, so for them it is as good as new.
    #[serde(default)]
    course: Course,
    #[serde(default)]
    readiness: Readiness,
}

/// Whether all containers are ready that go on running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
enum Readiness {
    /// They never were.
    #[default]
    NotYet,
    /// Since then.
    Ready(WallTime),
    /// They were, until then.
    Unready(WallTime),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Wanted {
    number: u64,
    goal: Goal,
    spec: Arc<PodSpec>,
    revision: Revision,
}

impl PodMachine {
    /// A machine that waits to be told what is wanted. Nothing runs yet.
    #[must_use]
    pub fn new(recovered: BTreeMap<ContainerName, Recovered>, now: BootTime) -> Self {
        let since = recovered.values().filter_map(|recovered| recovered.pod_since).min();
        let containers = recovered
            .into_iter()
            .map(|(name, recovered)| (name, Container::recovered(recovered, now)))
            .collect();
        let readiness = Readiness::default();
        Self { wanted: None, containers, course: Course::since(since), readiness }
    }

    /// Takes in an event and answers with what is to be done.
    pub fn step(&mut self, event: Event, now: BootTime) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.take(event, now, &mut effects);
        if let Some(wanted) = &self.wanted {
            self.course.advance(wanted, &mut self.containers, now);
            let wants = |name| self.course.want(wanted, &self.containers, name);
            let wants: Vec<Want<'_>> = self.containers.keys().map(wants).collect();
            // A container that left the specification stays known: if it comes back, its runs
            // are counted on, because the number of a run is never used twice.
            for ((name, container), want) in self.containers.iter_mut().zip(wants) {
                container.settle(name, want, &wanted.spec, now, &mut effects);
            }
        }
        effects
    }

    fn take(&mut self, event: Event, now: BootTime, effects: &mut Vec<Effect>) {
        match event {
            Event::Wanted(wanted) => self.take_wanted(wanted, effects),
            Event::Started { container, attempt, pid, at } => {
                let spec = self.wanted.as_ref().and_then(|it| it.spec.container(&container));
                if let Some(container) = self.containers.get_mut(&container) {
                    container.started(Live::new(attempt, pid, now, at), spec);
                }
            }
            Event::Exited { container: name, attempt, exit, message, at } => {
                let reset = self
                    .wanted
                    .as_ref()
                    .map_or_else(BackoffPolicy::default, |wanted| wanted.spec.backoff);
                if let Some(container) = self.containers.get_mut(&name) {
                    let (started_at, finished_at) = (None, at);
                    let run = LastRun { attempt, started_at, finished_at, exit, message };
                    effects.extend(container.exited(&name, run, reset.reset, now));
                }
            }
            Event::Recorded { container: name, attempt, result } => {
                let Some(container) = self.containers.get_mut(&name) else { return };
                let is_durable = container.recorded(attempt, result, now);
                if let Some(wanted) = self.wanted.as_ref().filter(|_| is_durable) {
                    self.course.ended(wanted, &name, container, now);
                }
            }
            Event::NotUpdated { container, why } => {
                if let Some(container) = self.containers.get_mut(&container) {
                    container.update_fault = Some(why);
                }
            }
            Event::Answered { container, attempt, purpose, answer } => {
                if let Some(container) = self.containers.get_mut(&container) {
                    container.answered(attempt, purpose, answer, now);
                }
            }
            Event::AnswersLost => {
                self.containers.values_mut().for_each(Container::repeat_questions);
            }
            Event::Tick => {}
        }
    }

    fn take_wanted(&mut self, wanted: WantedPod, effects: &mut Vec<Effect>) {
        let WantedPod { number, goal, spec } = wanted;
        let limits = |spec: &PodSpec| (spec.pids_limit, spec.resources);
        if self.wanted.as_ref().is_none_or(|old| limits(&old.spec) != limits(&spec)) {
            effects.push(Effect::UpdatePod { pids_limit: spec.pids_limit });
        }
        for container in spec.all_containers() {
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
            if let Some(spec) = spec.container(name) {
                container.is_wanted_as(spec);
            }
        }
        self.wanted = Some(Wanted { number, goal, revision, spec });
    }

    /// When [`Event::Tick`] is due next.
    #[must_use]
    pub fn wake_at(&self) -> Option<BootTime> {
        let wanted = self.wanted.as_ref()?;
        let of_container = |(name, container): (&ContainerName, &Container)| {
            container.wake_at(self.course.want(wanted, &self.containers, name), &wanted.spec)
        };
        let containers = self.containers.iter().filter_map(of_container);
        containers.chain(self.course.wake_at(wanted, &self.containers)).min()
    }

    /// Whether the goal is to stop and nothing is left to be stopped or recorded.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.wanted.as_ref().is_some_and(|wanted| matches!(wanted.goal, Goal::Stop { .. }))
            && !self.containers.values().any(Container::is_live)
    }

    /// Notes when the pod got ready or unready. To be called after each step, with the time to be
    /// shown.
    pub fn note_readiness(&mut self, at: WallTime) {
        let is_ready = self.wanted.as_ref().is_some_and(|wanted| {
            let is_ready = |name| self.containers.get(name).is_some_and(Container::is_ready);
            wanted.spec.sidecars().chain(&wanted.spec.containers).all(|it| is_ready(&it.name))
        });
        self.readiness = match (self.readiness, is_ready) {
            (Readiness::NotYet | Readiness::Unready(_), true) => Readiness::Ready(at),
            (Readiness::Ready(_), false) => Readiness::Unready(at),
            (same @ (Readiness::NotYet | Readiness::Unready(_)), false)
            | (same @ Readiness::Ready(_), true) => same,
        };
    }

    /// Since when the pod shall run, which is announced with each of its runs: another executor
    /// counts on from it.
    #[must_use]
    pub fn since(&self) -> Option<BootTime> {
        self.course.begun()
    }

    /// The specification in force, for effects that need more of it than their fields.
    #[must_use]
    pub fn spec(&self) -> Option<&Arc<PodSpec>> {
        self.wanted.as_ref().map(|wanted| &wanted.spec)
    }

    /// Where everything stands; none before the first specification.
    #[must_use]
    pub fn report(&self) -> Option<PodReport> {
        let wanted = self.wanted.as_ref()?;
        let Wanted { number, goal, spec, revision } = wanted;
        let containers: Vec<ContainerReport> = self
            .containers
            .iter()
            .filter(|(name, container)| container.is_live() || spec.container(name).is_some())
            .map(|(name, container)| {
                let want = self.course.want(wanted, &self.containers, name);
                container.report(name, want, spec)
            })
            .collect();
        Some(PodReport {
            number: *number,
            digest: revision.digest(),
            goal: *goal,
            finished: self.course.outcome(wanted, &self.containers),
            because: self.course.cause(),
            ready_since: match self.readiness {
                Readiness::NotYet => None,
                Readiness::Ready(at) | Readiness::Unready(at) => Some(at),
            },
            initializing: self.course.is_initializing(wanted),
            containers,
        })
    }
}

impl Wanted {
    /// What it is to run a container; none of one that is not in the specification.
    fn run(&self, name: &ContainerName, anew: bool) -> Option<Running<'_>> {
        let spec = self.spec.container(name)?;
        Some(Running { spec, hash: *self.revision.containers.get(name)?, anew })
    }
}
