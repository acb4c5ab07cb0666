//! The order of a pod's containers, told again in other words: what has truly happened in an
//! executor, and what must not happen then.

use std::collections::{BTreeMap, BTreeSet};

use roost::executor::machine::{Event as MachineEvent, LATE_STOP_TIME, Recovered};
use roost::executor::protocol::{Goal, WantedPod};
use roost::ids::ContainerName;
use roost::manifest::pod::{PodSpec, RestartPolicy, Role};
use roost::manifest::revision::{Hash, Revision};
use roost::state::record::Exit;

use crate::executor::Run;
use crate::world::World;

/// How far the pod of an executor is.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// Containers whose newest run has ended durably, with its hash.
    ended: BTreeMap<ContainerName, (Option<Hash>, Exit)>,
    /// Init containers that have succeeded, sidecars that have run, in this executor.
    done: BTreeSet<ContainerName>,
    is_initialized: bool,
    pub(crate) ending: Option<Ending>,
}

/// Everything has to stop.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ending {
    since: u64,
    by: u64,
    at_once: bool,
}

impl Ending {
    /// When what was told to stop then is killed.
    pub(crate) fn kill_at(self, told_at: u64) -> u64 {
        let is_late = told_at > self.since && !self.at_once;
        if is_late { self.by.max(told_at + LATE_STOP_TIME.0) } else { self.by }
    }
}

impl Standing {
    pub(crate) fn of(recovered: &BTreeMap<ContainerName, Recovered>) -> Self {
        let ended =
            recovered.iter().map(|(name, it)| (name.clone(), (it.hash, it.last.exit.clone())));
        Self { ended: ended.collect(), ..Self::default() }
    }

    pub(crate) fn launched(&mut self, name: &ContainerName) {
        self.ended.remove(name);
    }

    /// A program was executed.
    pub(crate) fn executed(&mut self, spec: &PodSpec, name: &ContainerName) {
        if spec.role(name) == Some(Role::Sidecar) {
            self.done.insert(name.clone());
        }
    }

    /// How a run ended is durable.
    pub(crate) fn recorded(
        &mut self,
        spec: &PodSpec,
        name: &ContainerName,
        hash: Hash,
        exit: Exit,
    ) {
        if spec.role(name) == Some(Role::Init) && exit.is_success() {
            self.done.insert(name.clone());
        }
        self.ended.insert(name.clone(), (Some(hash), exit));
    }

    /// Whether the container would not be started again.
    fn is_through(
        &self,
        spec: &PodSpec,
        hashes: &BTreeMap<ContainerName, Hash>,
        name: &ContainerName,
    ) -> bool {
        let (Some(container), Some((hash, exit))) = (spec.container(name), self.ended.get(name))
        else {
            return false;
        };
        // What only its number is known of counts as what is wanted.
        if hash.is_some_and(|hash| hashes.get(name) != Some(&hash)) {
            return false;
        }
        match spec.restart_policy_of(container) {
            RestartPolicy::Always => false,
            RestartPolicy::OnFailure => exit.is_success(),
            RestartPolicy::Never => true,
        }
    }

    /// Whether the containers that the pod is there for are through.
    fn is_all_through(&self, spec: &PodSpec) -> bool {
        let hashes = Revision::of(spec).containers;
        spec.containers.iter().all(|container| self.is_through(spec, &hashes, &container.name))
    }

    fn has_failed(&self, spec: &PodSpec) -> bool {
        let hashes = Revision::of(spec).containers;
        !self.is_initialized
            && spec.init_containers.iter().any(|container| {
                let name = &container.name;
                let failed = self.ended.get(name).is_some_and(|(_, exit)| !exit.is_success());
                failed && !self.done.contains(name) && self.is_through(spec, &hashes, name)
            })
    }

    /// Before the machine decides: whether everything has to stop, and since when.
    fn update(&mut self, wanted: &WantedPod, now: u64) {
        let spec = &wanted.spec;
        self.is_initialized |=
            spec.init_containers.iter().all(|container| self.done.contains(&container.name));
        let grace = match wanted.goal {
            Goal::Stop { grace } => Some(grace),
            Goal::Run => {
                let ends = self.is_all_through(spec) || self.has_failed(spec);
                ends.then_some(spec.termination_grace)
            }
        };
        self.ending = grace.map(|grace| {
            let (by, at_once) = (now + grace.0, grace.0 == 0);
            match self.ending {
                None => Ending { since: now, by, at_once },
                Some(before) => Ending {
                    since: before.since,
                    by: before.by.min(by),
                    at_once: before.at_once || at_once,
                },
            }
        });
    }
}

impl World {
    /// Before a machine takes a step.
    pub(crate) fn update_standing(&mut self, pid: u64, event: &MachineEvent) {
        let now = self.now;
        let Some(executor) = self.executors.get_mut(&pid) else { return };
        let Some(wanted) = executor.wanted.clone() else { return };
        executor.standing.update(&wanted, now);
        let ending = executor.standing.ending;
        let told = matches!(event, MachineEvent::Wanted(_));
        let left = |run: &Run| told && wanted.spec.container(&run.container).is_none();
        let alone = now + wanted.spec.termination_grace.0;
        for run in self.runs.values_mut().filter(|run| run.executor == pid) {
            // A wish may shorten the time, and a later one does not prolong it again.
            let kill_at = match ending {
                Some(ending) => Some(run.told_at.map_or(ending.by, |at| ending.kill_at(at))),
                None if left(run) => Some(alone),
                None => None,
            };
            let Some(kill_at) = kill_at else { continue };
            run.due = run.due.map(|before| before.min(kill_at));
            run.asked_by = run.asked_by.map(|before| before.min(kill_at));
            if ending.is_none_or(|ending| !is_kept_by(ending, &wanted.spec, &run.container, now)) {
                run.patience = run.patience.min(ending.map_or(alone, |ending| ending.by));
            }
        }
    }

    /// Nothing starts before its turn.
    pub(crate) fn check_order(&mut self, pid: u64, name: &ContainerName, what: &str) {
        let executor = &self.executors[&pid];
        let (standing, spec) = (&executor.standing, executor.machine.spec().expect("told").clone());
        let is_ending = standing.ending.is_some();
        let is_done = standing.done.contains(name);
        let role = spec.role(name);
        let before = spec.init_containers.iter().map(|container| &container.name);
        let before = before.take_while(|before| *before != name);
        let undone = before.filter(|before| !standing.done.contains(*before)).count();
        let (is_initialized, needless) = (standing.is_initialized, standing.is_all_through(&spec));
        self.check(!is_ending, || format!("{what} is launched while everything stops"));
        self.check(undone == 0 || is_initialized, || {
            format!("{what} is launched before {undone} that have to be done first")
        });
        let again = role == Some(Role::Init) && (is_done || is_initialized);
        self.check(!again, || format!("{what} is run again by the same executor"));
        self.check(!needless, || format!("{what} is launched for nothing"));
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
        let position =
            |name: &ContainerName| spec.init_containers.iter().position(|c| c.name == *name);
        let own = position(&run.container);
        let others = self.runs.values().filter(|other| {
            other.executor == pid
                && spec.container(&other.container).is_some()
                && !(spec.role(&other.container) == Some(Role::Sidecar)
                    && position(&other.container) <= own)
        });
        let others: Vec<String> = others.map(|other| other.container.to_string()).collect();
        let by = ending.by;
        self.check(others.is_empty(), || {
            format!("{what} is told to stop before {others:?}, and there is time until {by}")
        });
    }
}

/// Whether it is a sidecar that waits for its turn to stop, and may go on being set up.
fn is_kept_by(ending: Ending, spec: &PodSpec, name: &ContainerName, now: u64) -> bool {
    spec.role(name) == Some(Role::Sidecar) && now < ending.by
}
