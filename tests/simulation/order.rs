//! The order of a pod's containers, told again in other words: what has truly happened in an
//! executor, and what must and must not happen then, and when.

use std::collections::{BTreeMap, BTreeSet};

use roost::clock::Millis;
use roost::executor::machine::{Event as MachineEvent, LATE_STOP_TIME, Recovered};
use roost::executor::protocol::{Goal, WantedPod};
use roost::ids::{Attempt, ContainerName, PodId};
use roost::manifest::pod::{
    BackoffPolicy, ContainerSpec, PodSpec, RestartAction, RestartPolicy, Role, TerminationPolicy,
};
use roost::manifest::revision::Hash;
use roost::state::record::Exit;

use crate::executor::{Executor, Run, Stage};
use crate::world::World;

/// How far the pod of an executor is.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// Containers whose newest run has ended durably.
    ended: BTreeMap<ContainerName, Ended>,
    /// When the newest run of each has ended, durably or not.
    last_end: BTreeMap<ContainerName, u64>,
    /// Early ends in a row.
    streaks: BTreeMap<ContainerName, u32>,
    /// What the newest run of each had.
    hashes: BTreeMap<ContainerName, Hash>,
    /// Init containers that have succeeded, sidecars that have run, in this executor.
    done: BTreeSet<ContainerName>,
    /// Those that are started again however they ended.
    anew: BTreeSet<ContainerName>,
    is_initialized: bool,
    /// Since when the pod shall run.
    since: Option<u64>,
    pub(crate) ending: Option<Ending>,
}

#[derive(Debug, Clone)]
struct Ended {
    hash: Option<Hash>,
    exit: Exit,
    since: u64,
}

/// Everything has to stop.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ending {
    why: Why,
    since: u64,
    by: u64,
    at_once: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Wanted,
    Through,
    InitFailed,
    GroupFailed,
    Again,
    DeadlineExceeded,
}

impl Ending {
    /// When what was told to stop then is killed.
    pub(crate) fn kill_at(self, told_at: u64) -> u64 {
        let is_late = told_at > self.since && !self.at_once;
        if is_late { self.by.max(told_at + LATE_STOP_TIME.0) } else { self.by }
    }

    fn at(why: Why, now: u64, grace: Millis) -> Self {
        Self { why, since: now, by: now + grace.0, at_once: grace.0 == 0 }
    }
}

/// The delay after that many early ends in a row.
fn delay(policy: BackoffPolicy, streak: u32) -> u64 {
    let doubled = (1..streak).fold(policy.initial.0, |delay, _| (delay * 2).min(policy.max.0));
    if streak == 0 { 0 } else { doubled.min(policy.max.0) }
}

fn rule(spec: &ContainerSpec, exit: &Exit) -> Option<RestartAction> {
    let rules = &spec.restart.as_ref()?.rules;
    rules.iter().find(|rule| rule.matches(exit.code())).map(|rule| rule.action)
}

/// Whether a container that ended like that is started again, by its rules or its policy.
pub(crate) fn goes_again(spec: &PodSpec, container: &ContainerSpec, exit: &Exit) -> bool {
    match (rule(container, exit), spec.restart_policy_of(container)) {
        (Some(RestartAction::Restart | RestartAction::RestartAllContainers), _)
        | (None, RestartPolicy::Always) => true,
        (None, RestartPolicy::OnFailure) => !exit.is_success(),
        (None, RestartPolicy::Never) => false,
    }
}

impl Standing {
    /// Whether it is started again however it ended.
    pub(crate) fn begins_anew(&self, name: &ContainerName) -> bool {
        self.anew.contains(name)
    }

    pub(crate) fn of(recovered: &BTreeMap<ContainerName, Recovered>, now: u64) -> Self {
        let mut new = Self::default();
        for (name, Recovered { last, hash, streak, pod_since: _ }) in recovered {
            let ended = Ended { hash: *hash, exit: last.exit.clone(), since: now };
            new.ended.insert(name.clone(), ended);
            new.streaks.insert(name.clone(), *streak);
            new.hashes.extend(hash.map(|hash| (name.clone(), hash)));
        }
        new
    }

    pub(crate) fn launched(&mut self, name: &ContainerName, hash: Hash) {
        if self.hashes.insert(name.clone(), hash) != Some(hash) {
            self.streaks.insert(name.clone(), 0);
        }
        self.ended.remove(name);
        self.anew.remove(name);
    }

    /// A run is over, durably or not.
    pub(crate) fn exited(&mut self, name: &ContainerName, is_long: bool, now: u64) {
        let streak = self.streaks.entry(name.clone()).or_default();
        *streak = if is_long { 1 } else { *streak + 1 };
        self.last_end.insert(name.clone(), now);
    }

    /// How a run ended is durable.
    pub(crate) fn recorded(
        &mut self,
        spec: &PodSpec,
        name: &ContainerName,
        hash: Hash,
        exit: Exit,
        now: u64,
    ) {
        if spec.role(name) == Some(Role::Init) && exit.is_success() && !self.is_initialized {
            self.done.insert(name.clone());
        }
        let again = spec.container(name).and_then(|container| rule(container, &exit));
        if again == Some(RestartAction::RestartAllContainers) && self.ending.is_none() {
            self.ending = Some(Ending::at(Why::Again, now, spec.termination_grace));
        }
        let since = self.last_end.get(name).copied().unwrap_or(now);
        self.ended.insert(name.clone(), Ended { hash: Some(hash), exit, since });
    }

    /// When a container that has ended is to be started again, if it is.
    fn due(
        &self,
        spec: &PodSpec,
        hashes: &BTreeMap<ContainerName, Hash>,
        name: &ContainerName,
    ) -> Option<u64> {
        let (container, Ended { hash, exit, since }) =
            (spec.container(name)?, self.ended.get(name)?);
        let is_other = hash.is_some_and(|hash| hashes.get(name) != Some(&hash));
        let is_init = spec.role(name) == Some(Role::Init);
        let is_undone = is_init && !self.is_initialized && !self.done.contains(name);
        if is_other || (is_undone && exit.is_success()) {
            return Some(*since);
        }
        let again = goes_again(spec, container, exit);
        let streak = self.streaks.get(name).copied().unwrap_or(0);
        match (again, self.anew.contains(name)) {
            (true, _) => Some(since + delay(spec.backoff, streak)),
            (false, true) => Some(*since),
            (false, false) => None,
        }
    }

    /// Whether the container would not be started again.
    fn is_through(
        &self,
        spec: &PodSpec,
        hashes: &BTreeMap<ContainerName, Hash>,
        name: &ContainerName,
    ) -> bool {
        self.ended.contains_key(name) && self.due(spec, hashes, name).is_none()
    }

    /// Whether the containers that the pod is there for are through.
    fn is_all_through(&self, spec: &PodSpec, hashes: &BTreeMap<ContainerName, Hash>) -> bool {
        spec.containers.iter().all(|container| self.is_through(spec, hashes, &container.name))
    }

    fn has_failed(&self, name: &ContainerName) -> bool {
        self.ended.get(name).is_some_and(|ended| !ended.exit.is_success())
    }

    fn why(
        &self,
        wanted: &WantedPod,
        hashes: &BTreeMap<ContainerName, Hash>,
        now: u64,
    ) -> Option<Why> {
        let spec = &wanted.spec;
        let before = self.ending.map(|ending| ending.why);
        if matches!(wanted.goal, Goal::Stop { .. }) {
            return Some(Why::Wanted);
        }
        if matches!(before, Some(Why::Again | Why::DeadlineExceeded)) {
            return before;
        }
        let fails = |container: &ContainerSpec| {
            let name = &container.name;
            self.has_failed(name) && self.is_through(spec, hashes, name)
        };
        let is_group = spec.termination_policy == TerminationPolicy::Group;
        if is_group && spec.containers.iter().any(fails) {
            return Some(Why::GroupFailed);
        }
        if self.is_all_through(spec, hashes) {
            return Some(Why::Through);
        }
        let undone = |c: &&ContainerSpec| !self.is_initialized && !self.done.contains(&c.name);
        if spec.init_containers.iter().filter(undone).any(fails) {
            return Some(Why::InitFailed);
        }
        let is_over = self.deadline(spec).is_some_and(|at| at <= now);
        is_over.then_some(Why::DeadlineExceeded)
    }

    fn deadline(&self, spec: &PodSpec) -> Option<u64> {
        Some(self.since? + spec.active_deadline?.0)
    }

    /// Before the machine decides: whether everything has to stop, and since when.
    fn update(
        &mut self,
        (wanted, hashes): (&WantedPod, &BTreeMap<ContainerName, Hash>),
        started: &[ContainerName],
        is_gone: bool,
        now: u64,
    ) {
        let spec = &wanted.spec;
        if self.ending.is_some_and(|ending| ending.why == Why::Again) && is_gone {
            (self.ending, self.is_initialized) = (None, false);
            self.done.clear();
            self.anew.extend(self.ended.keys().cloned());
        }
        if wanted.goal == Goal::Run {
            self.since.get_or_insert(now);
        }
        if !self.is_initialized {
            let sidecar = |name: &&ContainerName| spec.role(name) == Some(Role::Sidecar);
            self.done.extend(started.iter().filter(sidecar).cloned());
        }
        self.is_initialized |=
            spec.init_containers.iter().all(|container| self.done.contains(&container.name));
        let grace = match wanted.goal {
            Goal::Stop { grace } => grace,
            Goal::Run => spec.termination_grace,
        };
        self.ending = self.why(wanted, hashes, now).map(|why| {
            let new = Ending::at(why, now, grace);
            let before = self.ending.unwrap_or(new);
            Ending {
                why,
                since: before.since,
                by: before.by.min(new.by),
                at_once: before.at_once || new.at_once,
            }
        });
    }

    /// Whether those before it are done.
    fn is_its_turn(&self, spec: &PodSpec, name: &ContainerName) -> bool {
        let before = spec.init_containers.iter().map(|container| &container.name);
        let mut before = before.take_while(|before| *before != name);
        self.is_initialized || before.all(|before| self.done.contains(before))
    }

    /// Whether it has had its run at the beginning.
    fn is_done_init(&self, spec: &PodSpec, name: &ContainerName) -> bool {
        let is_done = self.is_initialized || self.done.contains(name);
        spec.role(name) == Some(Role::Init) && is_done
    }
}

impl Executor {
    /// When something is due that is about no run.
    pub(crate) fn standing_wakes_at(&self) -> Option<u64> {
        let spec = &self.wanted.as_ref()?.spec;
        if self.standing.ending.is_some() {
            return None;
        }
        let turns = spec.all_containers().map(|container| &container.name).filter(|name| {
            self.standing.is_its_turn(spec, name) && !self.standing.is_done_init(spec, name)
        });
        let due = turns.filter_map(|name| self.standing.due(spec, &self.hashes, name));
        due.chain(self.standing.deadline(spec)).min()
    }
}

impl World {
    /// Before a machine takes a step.
    pub(crate) fn update_standing(&mut self, pid: u64, event: &MachineEvent) {
        let now = self.now;
        let Some(executor) = self.executors.get_mut(&pid) else { return };
        let Some(wanted) = executor.wanted.clone() else { return };
        let runs = self.runs.values().filter(|run| run.executor == pid && !run.is_told());
        let has_started = |run: &&Run| {
            run.vitals.as_ref().is_some_and(|vitals| vitals.has_started(&run.lifecycle))
        };
        let started: Vec<ContainerName> =
            runs.filter(has_started).map(|run| run.container.clone()).collect();
        let is_gone = executor.announced.is_empty();
        executor.standing.update((&wanted, &executor.hashes), &started, is_gone, now);
        let ending = executor.standing.ending;
        let told = matches!(event, MachineEvent::Wanted(_));
        let left = |run: &Run| told && wanted.spec.container(&run.container).is_none();
        for run in self.runs.values_mut().filter(|run| run.executor == pid) {
            let own = run.lifecycle.stop_grace.unwrap_or(wanted.spec.termination_grace);
            let alone = now + own.0;
            // A wish may shorten the time, and a later one does not prolong it again.
            if let Some(ending) = ending {
                let kill_at = run.told_at.map_or(ending.by, |at| ending.kill_at(at));
                run.due = run.due.map(|before| before.min(kill_at));
                run.asked_by = run.asked_by.map(|before| before.min(kill_at));
            } else if !left(run) {
                continue;
            }
            if ending.is_none_or(|ending| !is_kept_by(ending, &wanted.spec, &run.container, now)) {
                run.patience = run.patience.min(ending.map_or(alone, |ending| ending.by));
            }
        }
    }

    /// When a run that is told to stop now is killed.
    pub(crate) fn kill_at(&self, pid: u64, id: u64) -> u64 {
        let (now, run, executor) = (self.now, &self.runs[&id], &self.executors[&pid]);
        let own = run.lifecycle.stop_grace;
        let of_pod = executor.wanted.as_ref().map_or(Millis(0), |it| it.spec.termination_grace);
        let usual = own.unwrap_or(of_pod);
        let kill_at = match executor.standing.ending {
            Some(ending) => ending.kill_at(now),
            // What is not wanted as it is has the usual time, whatever else is wrong with it.
            None if !self.wants_to_go_on(pid, run) => now + usual.0,
            None => now + run.must_end(now).flatten().unwrap_or(usual).0,
        };
        own.map_or(kill_at, |own| kill_at.min(now + own.0))
    }

    /// Whether a run shall go on, as far as the pod is concerned.
    pub(crate) fn wants_to_go_on(&self, pid: u64, run: &Run) -> bool {
        let executor = &self.executors[&pid];
        let Some(wanted) = &executor.wanted else { return false };
        let name = &run.container;
        let hash = executor.hashes.get(name).copied();
        let is_same = hash == Some(run.hash) || !executor.standing.is_its_turn(&wanted.spec, name);
        executor.standing.ending.is_none() && hash.is_some() && is_same
    }

    /// Whether a run has to stop because of how the pod is.
    pub(crate) fn is_to_stop(&self, pid: u64, run: &Run) -> bool {
        let executor = &self.executors[&pid];
        let Some(wanted) = &executor.wanted else { return false };
        match executor.standing.ending {
            Some(ending) if is_kept_by(ending, &wanted.spec, &run.container, self.now) => {
                self.outlived_by(pid, run, &wanted.spec).is_empty()
            }
            Some(_) => true,
            None => !self.wants_to_go_on(pid, run),
        }
    }

    /// Nothing starts before its turn, and what starts again does at its moment.
    pub(crate) fn check_order(&mut self, pid: u64, name: &ContainerName, hash: Hash, what: &str) {
        let executor = &self.executors[&pid];
        let (standing, spec) = (&executor.standing, executor.machine.spec().expect("told").clone());
        let is_ending = standing.ending.is_some();
        let is_done = standing.is_done_init(&spec, name);
        let is_its_turn = standing.is_its_turn(&spec, name);
        let needless = standing.is_all_through(&spec, &executor.hashes);
        let hashes = BTreeMap::from([(name.clone(), hash)]);
        let due = standing.due(&spec, &hashes, name);
        let never_ran = !standing.ended.contains_key(name);
        let now = self.now;
        self.check(!is_ending, || format!("{what} is launched while everything stops"));
        self.check(is_its_turn, || {
            format!("{what} is launched before others that have to be done first")
        });
        self.check(!is_done, || format!("{what} is run again by the same executor"));
        self.check(!needless, || format!("{what} is launched for nothing"));
        self.check(never_ran || due.is_some_and(|at| at <= now), || {
            format!("{what} is launched at {now}, due is {due:?}")
        });
    }

    /// What was due has been launched.
    pub(crate) fn check_launches(&mut self, pid: u64, pod: PodId) {
        let now = self.now;
        let executor = &self.executors[&pid];
        let (standing, Some(wanted)) = (&executor.standing, &executor.wanted) else { return };
        if standing.ending.is_some() {
            return;
        }
        let spec = wanted.spec.clone();
        let hashes = &executor.hashes;
        let live: BTreeSet<&ContainerName> =
            executor.announced.keys().map(|(name, _)| name).collect();
        let forgotten = spec.all_containers().map(|container| &container.name).find(|name| {
            let due = match standing.ended.contains_key(*name) {
                true => standing.due(&spec, hashes, name),
                false => Some(now),
            };
            !live.contains(name)
                && standing.is_its_turn(&spec, name)
                && !standing.is_done_init(&spec, name)
                && due.is_some_and(|at| at <= now)
        });
        let forgotten = forgotten.cloned();
        self.check(forgotten.is_none(), || format!("{pod}: {forgotten:?} should be launched"));
    }

    /// Others that run and that a sidecar has to outlive.
    fn outlived_by(&self, pid: u64, run: &Run, spec: &PodSpec) -> Vec<String> {
        let position =
            |name: &ContainerName| spec.init_containers.iter().position(|c| c.name == *name);
        let own = position(&run.container);
        let others = self.runs.values().filter(|other| {
            other.executor == pid
                && spec.container(&other.container).is_some()
                && !(spec.role(&other.container) == Some(Role::Sidecar)
                    && position(&other.container) <= own)
        });
        others.map(|other| other.container.to_string()).collect()
    }

    /// Sidecars outlive the others, as long as there is time.
    pub(crate) fn check_order_of_stops(&mut self, pid: u64, run: &Run, what: &str) {
        let executor = &self.executors[&pid];
        let Some(ending) = executor.standing.ending.filter(|ending| self.now < ending.by) else {
            return;
        };
        let spec = executor.machine.spec().expect("told what to run").clone();
        if spec.role(&run.container) != Some(Role::Sidecar) || run.due.is_some() {
            return;
        }
        let others = self.outlived_by(pid, run, &spec);
        let by = ending.by;
        self.check(others.is_empty(), || {
            format!("{what} is told to stop before {others:?}, and there is time until {by}")
        });
    }

    /// The number of a run that ended, and what came of it, is durable.
    pub(crate) fn stand_recorded(
        &mut self,
        pid: u64,
        container: &ContainerName,
        attempt: Attempt,
        exit: &Exit,
    ) {
        let now = self.now;
        let Some(executor) = self.executors.get_mut(&pid) else { return };
        let Some(hash) = executor.announced_hash(container, attempt) else { return };
        if let Some(spec) = executor.machine.spec().cloned() {
            executor.standing.recorded(&spec, container, hash, exit.clone(), now);
        }
    }

    /// A run is over: whether it lasted.
    pub(crate) fn stand_exited(&mut self, run: &Run) {
        let now = self.now;
        let Some(executor) = self.executors.get_mut(&run.executor) else { return };
        let reset = executor.wanted.as_ref().map_or(600_000, |it| it.spec.backoff.reset.0);
        let is_long = matches!(run.stage, Stage::Executed { at } if now - at >= reset);
        executor.standing.exited(&run.container, is_long, now);
        executor
            .asking
            .retain(|(name, attempt, _), _| (name, attempt) != (&run.container, &run.attempt));
    }
}

/// Whether it is a sidecar that waits for its turn to stop, and may go on being set up.
fn is_kept_by(ending: Ending, spec: &PodSpec, name: &ContainerName, now: u64) -> bool {
    spec.role(name) == Some(Role::Sidecar) && now < ending.by
}
