//! The clock, the queue of what happens, and what everything shares.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use roost::clock::{BootId, BootTime, WallTime};
use roost::ids::PodId;
use roost::reconciler::Key;

use crate::agent::{Agent, AgentEvent};
use crate::disk::{Disk, Store};
use crate::executor::{Executor, ExecutorEvent, Run};
use crate::oracle::Oracle;
use crate::specs::User;

/// splitmix64: small, and the same everywhere.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` to `high`, both possible.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        if of.is_empty() {
            return None;
        }
        of.get(usize::try_from(self.next() % of.len() as u64).expect("less than a length"))
    }
}

/// A deliberate bug of the shells around the cores. Each must be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    LaunchBeforeAttemptIsDurable,
    ExitOnlyInRuntimeDirectory,
    ForgetBeforeDestroy,
    StartBesideOldProcesses,
    StoreNotFlushed,
    TrustEmptyReplacedDirectory,
    FaultyFileIsAbsent,
    UnreadDirectoryIsEmpty,
    RecoveryIgnoresUnfinishedRuns,
    RecoveryCountsFromZero,
    LossIsNotRecorded,
    WallClockInExecutor,
    RestartedAgentSeesNoExecutors,
    UpgradeWithoutHandOver,
    RecordsAreNotAdopted,
    DestroyWithoutPhase,
    TwoWorkersPerKey,
    AcceptKeepsOldSpecification,
    WorkUnderWayTakesNoRoom,
    ForgetBeforeSuccessor,
    RevisionsAreNotKept,
    RollBackIsForgotten,
    SuccessorIsRecordedFirst,
    StartIsToldBeforeTheProgramRuns,
    EndIsToldBeforeProcessesAreGone,
    InitFailureIsToldAsSuccess,
    HandOverForgetsTheInitialization,
    LostAnswersAreNotTold,
    NoAnswerWhenTheTimeIsOver,
    HandOverForgetsTheDeadline,
    HandOverForgetsTheEnd,
    HandOverForgetsProbes,
    HandOverForgetsHooks,
    TrialIsForgotten,
    TrialEndsAtOnce,
    OrderIsForgotten,
    PriorityIsForgotten,
    MissingConfigIsEmpty,
    ConfigIsReadOnce,
}

pub(crate) const BUGS: [Bug; 39] = [
    Bug::LaunchBeforeAttemptIsDurable,
    Bug::ExitOnlyInRuntimeDirectory,
    Bug::ForgetBeforeDestroy,
    Bug::StartBesideOldProcesses,
    Bug::StoreNotFlushed,
    Bug::TrustEmptyReplacedDirectory,
    Bug::FaultyFileIsAbsent,
    Bug::UnreadDirectoryIsEmpty,
    Bug::RecoveryIgnoresUnfinishedRuns,
    Bug::RecoveryCountsFromZero,
    Bug::LossIsNotRecorded,
    Bug::WallClockInExecutor,
    Bug::RestartedAgentSeesNoExecutors,
    Bug::UpgradeWithoutHandOver,
    Bug::RecordsAreNotAdopted,
    Bug::DestroyWithoutPhase,
    Bug::TwoWorkersPerKey,
    Bug::AcceptKeepsOldSpecification,
    Bug::WorkUnderWayTakesNoRoom,
    Bug::ForgetBeforeSuccessor,
    Bug::RevisionsAreNotKept,
    Bug::RollBackIsForgotten,
    Bug::SuccessorIsRecordedFirst,
    Bug::StartIsToldBeforeTheProgramRuns,
    Bug::EndIsToldBeforeProcessesAreGone,
    Bug::InitFailureIsToldAsSuccess,
    Bug::HandOverForgetsTheInitialization,
    Bug::LostAnswersAreNotTold,
    Bug::NoAnswerWhenTheTimeIsOver,
    Bug::HandOverForgetsTheDeadline,
    Bug::HandOverForgetsTheEnd,
    Bug::HandOverForgetsProbes,
    Bug::HandOverForgetsHooks,
    Bug::TrialIsForgotten,
    Bug::TrialEndsAtOnce,
    Bug::OrderIsForgotten,
    Bug::PriorityIsForgotten,
    Bug::MissingConfigIsEmpty,
    Bug::ConfigIsReadOnce,
];

/// How a run is set up.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Options {
    pub(crate) bug: Option<Bug>,
    /// Whether the wall clock steps.
    pub(crate) wall_steps: bool,
    /// Whether pods are evicted.
    pub(crate) evictions: bool,
    /// Whether to keep and print the log.
    pub(crate) log: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Event {
    Executor { pid: u64, what: ExecutorEvent },
    Agent { life: u64, what: AgentEvent },
    OrphanDies { run: u64 },
    AgentStarts,
    Chaos,
}

/// How many lines of the log a failure shows.
const LOG_LINES: usize = 120;
const LOG_LINE_LEN: usize = 3000;

/// Everything.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) rng: Rng,
    /// Apart, so that its use changes nothing else.
    wall_rng: Rng,
    wall_offset: u64,
    /// Milliseconds since the simulation began: the truth.
    pub(crate) now: u64,
    booted_at: u64,
    boots: u64,
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    pub(crate) disk: Disk,
    pub(crate) store: Store,
    /// Pods that have a runtime directory or a cgroup.
    pub(crate) runtime: BTreeSet<PodId>,
    pub(crate) executors: BTreeMap<u64, Executor>,
    pub(crate) runs: BTreeMap<u64, Run>,
    pub(crate) last_number: u64,
    pub(crate) agent: Option<Agent>,
    /// The agent's build, for its next start.
    pub(crate) build: u64,
    pub(crate) user: User,
    pub(crate) oracle: Oracle,
    /// Whether the node runs out of disk.
    pub(crate) pressed: bool,
    /// Whether faults may still happen.
    pub(crate) faults: bool,
    pub(crate) store_fails_until: u64,
    pub(crate) disk_fails_until: u64,
    pub(crate) log: VecDeque<String>,
    /// Decisions of both cores so far.
    pub(crate) steps: u64,
    /// Of every moment at which something happened.
    pub(crate) fingerprint: u64,
    pub(crate) failure: Option<String>,
}

impl World {
    pub(crate) fn new(seed: u64, options: Options) -> Self {
        let mut rng = Rng::new(seed);
        let wall_rng = Rng::new(rng.next());
        Self {
            options,
            rng,
            wall_rng,
            wall_offset: 1_700_000_000_000,
            now: 0,
            booted_at: 0,
            boots: 1,
            queue: BTreeMap::new(),
            sequence: 0,
            disk: Disk::default(),
            store: Store::default(),
            runtime: BTreeSet::new(),
            executors: BTreeMap::new(),
            runs: BTreeMap::new(),
            last_number: 0,
            agent: None,
            build: 1,
            user: User::new(),
            oracle: Oracle::default(),
            pressed: false,
            faults: true,
            store_fails_until: 0,
            disk_fails_until: 0,
            log: VecDeque::new(),
            steps: 0,
            fingerprint: 0,
            failure: None,
        }
    }

    pub(crate) fn has(&self, bug: Bug) -> bool {
        self.options.bug == Some(bug)
    }

    pub(crate) fn boot_time(&self) -> BootTime {
        BootTime(self.now - self.booted_at)
    }

    pub(crate) fn boot_id(&self) -> BootId {
        let Ok(id) = format!("boot-{}", self.boots).parse();
        id
    }

    pub(crate) fn wall(&self) -> WallTime {
        WallTime((self.wall_offset + self.now) * 1_000_000)
    }

    pub(crate) fn step_wall_clock(&mut self) {
        let to = self.wall_rng.between(0, 3_400_000_000_000);
        if self.options.wall_steps {
            self.wall_offset = to;
        }
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    pub(crate) fn at(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now + delay, self.sequence), event);
    }

    pub(crate) fn say(&mut self, what: impl FnOnce() -> String) {
        if self.options.log {
            if self.log.len() == LOG_LINES {
                self.log.pop_front();
            }
            let mut line = format!("{:>9} {}", self.now, what());
            line.truncate(LOG_LINE_LEN);
            self.log.push_back(line);
        }
    }

    /// Takes note of the first violation; the run ends there.
    pub(crate) fn fail(&mut self, what: String) {
        if self.failure.is_none() {
            self.say(|| format!("VIOLATION {what}"));
            self.failure = Some(what);
        }
    }

    pub(crate) fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.fail(what());
        }
    }

    /// Lets the next thing happen, if it does before `until`.
    pub(crate) fn advance(&mut self, until: u64) -> bool {
        let Some(entry) = self.queue.first_entry() else { return false };
        if entry.key().0 > until {
            return false;
        }
        let ((at, _), event) = entry.remove_entry();
        self.now = self.now.max(at);
        self.fingerprint = self.fingerprint.wrapping_mul(31).wrapping_add(self.now);
        self.oracle.count_event(self.now);
        match event {
            Event::Executor { pid, what } => self.executor_event(pid, what),
            Event::Agent { life, what } => self.agent_event(life, what),
            Event::OrphanDies { run } => self.orphan_dies(run),
            Event::AgentStarts => self.start_agent(),
            Event::Chaos => self.chaos(),
        }
        let events = self.oracle.events_now;
        self.check(events < 5000, || format!("{events} events at one moment: a busy loop"));
        self.failure.is_none()
    }

    pub(crate) fn run_until(&mut self, until: u64) {
        while self.advance(until) {}
        if self.failure.is_none() {
            self.now = self.now.max(until);
        }
    }

    /// Everything that lives in memory is gone; with the power cut, also what was not durable.
    pub(crate) fn reboot(&mut self, power_cut: bool) {
        self.say(|| format!("reboot, power cut: {power_cut}"));
        self.oracle.machine_down();
        self.agent = None;
        self.executors.clear();
        self.runs.clear();
        self.runtime.clear();
        self.queue.retain(|_, event| matches!(event, Event::Chaos));
        if power_cut {
            self.disk.power_cut(&mut self.rng);
            self.store.power_cut();
        }
        self.boots += 1;
        self.now += self.rng.between(1000, 30_000);
        self.booted_at = self.now;
        let delay = self.rng.between(10, 5000);
        self.at(delay, Event::AgentStarts);
    }

    pub(crate) fn agent_dies(&mut self) {
        if self.agent.take().is_some() {
            self.say(|| "agent dies".to_owned());
            for executor in self.executors.values_mut() {
                executor.agent = None;
            }
            let delay = self.rng.between(5, 20_000);
            self.at(delay, Event::AgentStarts);
        }
    }

    pub(crate) fn is_busy(&self, key: &Key) -> bool {
        self.agent.as_ref().is_some_and(|agent| agent.workers.contains_key(key))
    }
}
