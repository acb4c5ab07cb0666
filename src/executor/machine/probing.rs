//! [`Probing`]: what probes and the check of one run have found so far, and when they are due. PURE.
//!
//! ```text
//!              due             answered, or its time is over
//!   Due(at) ─────────► Asking ──────────────────────────────► Due(at the next period)
//!                                      │
//!                  successes and failures in a row ─► started, ready, ailing
//! ```
//!
//! The rules are the kubelet's (`pkg/kubelet/prober`), with times that are exact: the first question
//! comes at the start plus the initial delay, every further one a period after the one before it
//! began, and one that is missed because the answer takes longer is left out. Startup comes first;
//! until it has succeeded nothing else is asked. Not here: what becomes of a container that ails
//! (`container`).

use serde::{Deserialize, Serialize};

use super::Effect;
use crate::clock::{BootTime, Millis};
use crate::executor::protocol::{CheckReport, Health, ProbeFault};
use crate::executor::question::{Answer, Observed, Purpose, Seen};
use crate::ids::{Attempt, ContainerName};
use crate::manifest::pod::{Check, ContainerSpec, Handler, Probe};

/// What probes and the check have found of one run. As new, it says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Probing {
    startup: Option<Track>,
    liveness: Option<Track>,
    readiness: Option<Track>,
    check: Option<Checking>,
    stage: Stage,
    /// Whether the newest answer that counts was good; where nothing is asked, since it started.
    is_ready: bool,
}

/// How far a run has come.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
enum Stage {
    /// It is still asked whether it has started.
    #[default]
    Starting,
    /// It has started.
    Started,
    /// A probe has failed as often as it may.
    Ailing(Ailing),
    /// It was told to stop: nothing is asked any more.
    Stopped { by: Option<Ailing> },
}

/// Why a container is to be stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ailing {
    /// Startup or liveness.
    pub(super) purpose: Purpose,
    /// Between the stop signal and the kill; that of the pod if there is none.
    pub(super) grace: Option<Millis>,
}

/// Where a probe stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Track {
    /// As it is asked: if the manifest says something else, it begins anew.
    probe: Probe,
    turn: Turn,
    /// Answers of one kind in a row.
    row: Row,
    /// What the newest failures in a row say.
    fault: Option<ProbeFault>,
}

/// Where the check stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Checking {
    check: Check,
    turn: Turn,
    found: CheckReport,
}

/// Whether it is time to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Turn {
    /// Then.
    Due(BootTime),
    /// It has been asked since then.
    Asking(BootTime),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Row {
    Good(u32),
    Bad(u32),
}

/// Which run it is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Who<'a> {
    pub(super) container: &'a ContainerName,
    pub(super) attempt: Attempt,
    /// Since when its program runs.
    pub(super) since: BootTime,
}

impl Who<'_> {
    pub(super) fn ask(self, purpose: Purpose, handler: &Handler, timeout: Millis) -> Effect {
        let (container, attempt) = (self.container.clone(), self.attempt);
        Effect::Ask { container, attempt, purpose, handler: handler.clone(), timeout }
    }

    pub(super) fn unask(self, purpose: Purpose) -> Effect {
        Effect::Unask { container: self.container.clone(), attempt: self.attempt, purpose }
    }
}

impl Turn {
    /// Whether it is time, which it is not any more then.
    fn comes(&mut self, now: BootTime) -> bool {
        let comes = matches!(self, Self::Due(at) if *at <= now);
        if comes {
            *self = Self::Asking(now);
        }
        comes
    }

    fn due(self) -> Option<BootTime> {
        match self {
            Self::Due(at) => Some(at),
            Self::Asking(_) => None,
        }
    }

    fn is_asking(self) -> bool {
        matches!(self, Self::Asking(_))
    }

    /// Asks again at once what was being asked.
    fn repeat(&mut self) {
        if let Self::Asking(begun) = *self {
            *self = Self::Due(begun);
        }
    }
}

impl Probing {
    /// Without a startup probe it has started.
    pub(super) fn begin(&mut self, spec: &ContainerSpec) {
        if self.stage == Stage::Starting && spec.startup.is_none() {
            self.stage = Stage::Started;
        }
    }

    /// Brings what is asked in line with the specification, and asks what is due.
    pub(super) fn settle(
        &mut self,
        spec: &ContainerSpec,
        who: Who<'_>,
        now: BootTime,
        effects: &mut Vec<Effect>,
    ) {
        self.begin(spec);
        let (startup, others) = match self.stage {
            Stage::Starting => (true, false),
            Stage::Started => (false, true),
            Stage::Ailing(_) | Stage::Stopped { .. } => return,
        };
        if others && spec.readiness.is_none() {
            self.is_ready = true;
        }
        let probes = [
            (&mut self.startup, Purpose::Startup, spec.startup.as_ref().filter(|_| startup)),
            (&mut self.liveness, Purpose::Liveness, spec.liveness.as_ref().filter(|_| others)),
            (&mut self.readiness, Purpose::Readiness, spec.readiness.as_ref().filter(|_| others)),
        ];
        for (track, purpose, wanted) in probes {
            if track.as_ref().map(|track| &track.probe) != wanted {
                let is_asking = track.take().is_some_and(|track| track.turn.is_asking());
                effects.extend(is_asking.then(|| who.unask(purpose)));
                *track = wanted.map(|probe| Track::new(probe, who, now));
            }
            if let Some(Track { probe, turn, .. }) = track
                && turn.comes(now)
            {
                effects.push(who.ask(purpose, &probe.handler, probe.timeout));
            }
        }
        self.settle_check(spec.check.as_ref(), who, now, effects);
    }

    fn settle_check(
        &mut self,
        wanted: Option<&Check>,
        who: Who<'_>,
        now: BootTime,
        effects: &mut Vec<Effect>,
    ) {
        if self.check.as_ref().map(|checking| &checking.check) != wanted {
            let is_asking = self.check.take().is_some_and(|it| it.turn.is_asking());
            effects.extend(is_asking.then(|| who.unask(Purpose::Check)));
            self.check = wanted.map(|check| Checking {
                check: check.clone(),
                turn: Turn::Due(who.since.plus(check.delay).max(now)),
                found: CheckReport::default(),
            });
        }
        if let Some(Checking { check, turn, found: _ }) = &mut self.check
            && turn.comes(now)
        {
            effects.push(who.ask(Purpose::Check, &check.handler, check.timeout));
        }
    }

    /// Takes in an answer. What follows for others is asked or not asked by [`Self::settle`] and
    /// [`Self::stop`].
    pub(super) fn answered(&mut self, purpose: Purpose, answer: Answer, now: BootTime) {
        let track = match purpose {
            Purpose::Startup => &mut self.startup,
            Purpose::Liveness => &mut self.liveness,
            Purpose::Readiness => &mut self.readiness,
            Purpose::Check => {
                if let Some(checking) = &mut self.check {
                    checking.answered(answer, now);
                }
                return;
            }
            Purpose::PostStart | Purpose::PreStop => return,
        };
        let Some(track) = track.as_mut().filter(|track| track.turn.is_asking()) else { return };
        track.answered(purpose, answer, now);
        let Track { probe, row, .. } = track;
        let verdict = match *row {
            Row::Good(count) if count >= probe.success_threshold => Some(true),
            Row::Bad(count) if count >= probe.failure_threshold => Some(false),
            Row::Good(_) | Row::Bad(_) => None,
        };
        let grace = probe.termination_grace;
        match (purpose, verdict) {
            (Purpose::Startup, Some(true)) => self.stage = Stage::Started,
            (Purpose::Startup | Purpose::Liveness, Some(false)) => {
                self.stage = Stage::Ailing(Ailing { purpose, grace });
            }
            (Purpose::Readiness, Some(is_ready)) => self.is_ready = is_ready,
            (
                Purpose::Startup
                | Purpose::Liveness
                | Purpose::Readiness
                | Purpose::Check
                | Purpose::PostStart
                | Purpose::PreStop,
                _,
            ) => {}
        }
    }

    /// What was being asked has no answer to come: it is asked again.
    pub(super) fn repeat(&mut self) {
        let tracks = [&mut self.startup, &mut self.liveness, &mut self.readiness];
        tracks.into_iter().flatten().for_each(|track| track.turn.repeat());
        if let Some(checking) = &mut self.check {
            checking.turn.repeat();
        }
    }

    /// Asks nothing any more: the container is told to stop.
    pub(super) fn stop(&mut self, who: Who<'_>, effects: &mut Vec<Effect>) {
        let turns = [
            (Purpose::Startup, self.startup.as_ref().map(|track| track.turn)),
            (Purpose::Liveness, self.liveness.as_ref().map(|track| track.turn)),
            (Purpose::Readiness, self.readiness.as_ref().map(|track| track.turn)),
            (Purpose::Check, self.check.as_ref().map(|checking| checking.turn)),
        ];
        let asked = turns.into_iter().filter(|(_, turn)| turn.is_some_and(Turn::is_asking));
        effects.extend(asked.map(|(purpose, _)| who.unask(purpose)));
        self.repeat();
        let by = match std::mem::take(&mut self.stage) {
            Stage::Ailing(ailing) => Some(ailing),
            Stage::Stopped { by } => by,
            Stage::Starting | Stage::Started => None,
        };
        self.stage = Stage::Stopped { by };
    }

    /// Why the container is to be stopped, if it is.
    pub(super) fn ailing(&self) -> Option<&Ailing> {
        match &self.stage {
            Stage::Ailing(ailing) => Some(ailing),
            Stage::Starting | Stage::Started | Stage::Stopped { .. } => None,
        }
    }

    /// Which probe had it stopped, if one had.
    pub(super) fn failed(&self) -> Option<Purpose> {
        match &self.stage {
            Stage::Ailing(ailing) | Stage::Stopped { by: Some(ailing) } => Some(ailing.purpose),
            Stage::Starting | Stage::Started | Stage::Stopped { by: None } => None,
        }
    }

    /// Whether its program has started, as far as that is asked.
    pub(super) fn is_started(&self) -> bool {
        match &self.stage {
            Stage::Starting => false,
            Stage::Started => true,
            Stage::Ailing(ailing) | Stage::Stopped { by: Some(ailing) } => {
                ailing.purpose != Purpose::Startup
            }
            // It is of no use any more.
            Stage::Stopped { by: None } => false,
        }
    }

    /// When [`Self::settle`] is due next.
    pub(super) fn wake_at(&self) -> Option<BootTime> {
        match &self.stage {
            Stage::Starting | Stage::Started => {}
            Stage::Ailing(_) | Stage::Stopped { .. } => return None,
        }
        let tracks = [&self.startup, &self.liveness, &self.readiness];
        let turns = tracks.into_iter().flatten().map(|track| track.turn);
        let check = self.check.as_ref().map(|checking| checking.turn);
        turns.chain(check).filter_map(Turn::due).min()
    }

    /// What there is to be reported.
    pub(super) fn health(&self) -> Health {
        let tracks = [&self.startup, &self.liveness, &self.readiness];
        let faults = tracks.into_iter().flatten().filter_map(|track| track.fault.clone());
        Health {
            started: self.is_started(),
            ready: self.stage == Stage::Started && self.is_ready,
            failed: self.failed(),
            faults: faults.collect(),
            check: self.check.as_ref().map(|checking| checking.found.clone()),
        }
    }
}

impl Track {
    fn new(probe: &Probe, who: Who<'_>, now: BootTime) -> Self {
        // A probe that comes while the container runs is not late for the times before.
        let first = who.since.plus(probe.initial_delay).max(now);
        Self { probe: probe.clone(), turn: Turn::Due(first), row: Row::Good(0), fault: None }
    }

    fn answered(&mut self, purpose: Purpose, answer: Answer, now: BootTime) {
        if let Turn::Asking(begun) = self.turn {
            let period = self.probe.period.0.max(1);
            // Those that have passed meanwhile are left out.
            let periods = now.since(begun).0.div_ceil(period).max(1);
            self.turn = Turn::Due(begun.plus(Millis(period.saturating_mul(periods))));
        }
        let (is_good, text) = match answer {
            Answer::Success(_) => (Some(true), None),
            Answer::Doubtful(observed) => (Some(true), Some(describe(&observed))),
            Answer::Failure(observed) => (Some(false), Some(describe(&observed))),
            Answer::NotAsked { why } => (None, Some(format!("it could not be asked: {why}"))),
        };
        match (is_good, &mut self.row) {
            (Some(true), Row::Good(count)) | (Some(false), Row::Bad(count)) => {
                *count = count.saturating_add(1);
            }
            (Some(true), row @ Row::Bad(_)) => *row = Row::Good(1),
            (Some(false), row @ Row::Good(_)) => *row = Row::Bad(1),
            (None, _) => {}
        }
        self.fault = text.map(|text| {
            let before = self.fault.as_ref().map_or(0, |fault| fault.count);
            let is_failure = is_good == Some(false);
            ProbeFault { purpose, is_failure, text, count: before.saturating_add(1) }
        });
    }
}

impl Checking {
    fn answered(&mut self, answer: Answer, now: BootTime) {
        if !self.turn.is_asking() {
            return;
        }
        self.turn = Turn::Due(now.plus(self.check.interval));
        let (Answer::Success(observed) | Answer::Doubtful(observed) | Answer::Failure(observed)) =
            answer
        else {
            // It says nothing about the container.
            return;
        };
        // Of a program, HTTP or TCP; what was seen by another way is no result of it.
        let seen = match (&self.check.handler, observed.seen) {
            (Handler::Http(_), Seen::Connected(_)) => Seen::Nothing,
            (_, seen) => seen,
        };
        // The text comes with the result: that alone would be news for ever.
        if self.found.seen != seen {
            self.found = CheckReport { seen, text: observed.text };
        }
    }
}

/// What was seen, and what was said.
fn describe(observed: &Observed) -> String {
    let Observed { seen, text } = observed;
    match (seen, text.as_str()) {
        (Seen::Nothing | Seen::Connected(_) | Seen::GrpcStatus(_), text) if !text.is_empty() => {
            text.to_owned()
        }
        (seen, "") => seen.to_string(),
        (seen, text) => format!("{seen}: {text}"),
    }
}
