//! When the faults have stopped, what runs becomes what is asked for, and nothing is left over.

use roost::executor::protocol::{ContainerStatus, Goal};
use roost::ids::{PodId, PodName};
use roost::manifest::desired::Claim;
use roost::manifest::pod::{PodSpec, RestartPolicy, Role};
use roost::manifest::revision::Revision;
use roost::reconciler::{Plan, Requests, WaitReason};
use roost::state::record::{Eviction, Exit, PodRecord, RecordPhase, Trial};

use crate::disk::{Path, StoredPod};
use crate::executor::Stage;
use crate::oracle::{Past, host_ports};
use crate::order::goes_again;
use crate::specs::node;
use crate::world::{Event, Options, World};

/// How many things happen before the faults stop.
const ROUNDS: u64 = 60;
/// How long everything may take to settle: back-offs, set-ups that are given up, grace periods.
const SETTLE: u64 = 15 * 60_000;
/// How often a pod may be caught in the middle of something that is its own affair.
const LOOKS: u32 = 40;

/// What a run did, to see that it did something.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) steps: u64,
    pub(crate) executions: u64,
    pub(crate) removals: u64,
    pub(crate) roll_backs: u64,
    pub(crate) retreats: u64,
    pub(crate) evictions: u64,
    pub(crate) waits: u64,
    pub(crate) fingerprint: u64,
}

/// Runs a seed to its end.
pub(crate) fn run(seed: u64, options: Options) -> Result<Done, String> {
    let mut world = World::new(seed, options);
    for _ in 0..4 {
        world.user.change(&mut world.rng);
    }
    world.at(0, Event::AgentStarts);
    world.at(100, Event::Chaos);
    let rounds = world.rng.between(ROUNDS / 3, ROUNDS * 2);
    for _ in 0..rounds {
        let until = world.now + world.rng.between(1, 20_000);
        world.run_until(until);
    }
    world.settle();
    match world.failure.take() {
        None => Ok(Done {
            steps: world.steps,
            executions: world.oracle.executions,
            removals: world.oracle.removals,
            roll_backs: world.oracle.roll_backs,
            retreats: world.oracle.retreats,
            evictions: world.oracle.evictions,
            waits: world.oracle.waits,
            fingerprint: world.fingerprint,
        }),
        Some(why) => {
            let log: Vec<String> = world.log.into();
            Err(format!(
                "seed {seed}: {why}\n{}\nreplay: ROOST_SIM_SEED={seed} cargo test --test \
                 simulation one_seed -- --nocapture",
                log.join("\n")
            ))
        }
    }
}

impl World {
    fn settle(&mut self) {
        if self.failure.is_some() {
            return;
        }
        self.say(|| "the faults stop".to_owned());
        self.faults = false;
        self.pressed = false;
        for executor in self.executors.values_mut() {
            executor.hung_until = self.now;
        }
        for (_, directory) in &mut self.user.directories {
            directory.readable = true;
        }
        self.start_agent();
        self.manifests_changed();
        let until = self.now + SETTLE;
        self.run_until(until);
        let mut problem = None;
        for _ in 0..LOOKS {
            problem = self.problem();
            if problem.is_none() || self.failure.is_some() {
                break;
            }
            let until = self.now + 977;
            self.run_until(until);
        }
        if let Some(problem) = problem {
            self.fail(format!("it did not settle: {problem}"));
        }
    }

    /// What is not as it should be in the end.
    fn problem(&self) -> Option<String> {
        let plan = self.plan_now()?;
        if !plan.work.is_empty() {
            return Some(format!("there is work left: {:?}", plan.work));
        }
        let agent = self.agent.as_ref().filter(|agent| agent.is_idle());
        let Some(agent) = agent else { return Some("the agent is not idle".to_owned()) };
        for (name, claims) in &agent.truth().claims {
            let of_name = |record: &&PodRecord| record.name == *name;
            let records: Vec<&PodRecord> =
                self.store.now.records.values().filter(of_name).collect();
            let waits = plan.waits.contains_key(name);
            let [record] = records.as_slice() else {
                if waits && records.is_empty() {
                    continue;
                }
                return Some(format!("{name} has {} instances", records.len()));
            };
            if waits {
                continue;
            }
            if let Some(problem) = self.claim_problem(claims, record) {
                return Some(format!("{name}: {problem}"));
            }
        }
        if let Some(problem) = self.wait_problem(&plan) {
            return Some(problem);
        }
        for record in self.store.now.records.values() {
            let stored = self.disk.pod(record.id).map(|stored| &stored.spec);
            let is_there = self.executors.values().any(|it| it.pod == record.id);
            if !is_there && stored.is_some_and(|spec| !self.lacks_nobody(spec)) {
                continue;
            }
            if let Some(problem) = self.instance_problem(record, agent.build) {
                return Some(format!("{} {}: {problem}", record.name, record.id));
            }
        }
        self.leftover()
    }

    /// Who waits although there is room.
    fn wait_problem(&self, plan: &Plan) -> Option<String> {
        let free = node().allocatable().cpu_milli;
        plan.waits.iter().find_map(|(name, wait)| {
            match wait.reason {
                WaitReason::Order => {
                    let lacks_nobody = self.lacks_nobody(&wait.spec);
                    return lacks_nobody.then(|| format!("{name} waits for nobody: {}", wait.why));
                }
                WaitReason::Config => {
                    let truth = self.agent.as_ref().expect("it is idle").truth();
                    let lacks = truth.claims.get(name).into_iter().flatten();
                    let lacks = lacks.filter(|claim| claim.lacks.is_some()).count() > 0;
                    return (!lacks).then(|| format!("{name} lacks nothing: {}", wait.why));
                }
                WaitReason::Pressure(_) => {
                    return Some(format!("{name} waits, and there is no pressure: {}", wait.why));
                }
                WaitReason::Room | WaitReason::Images { .. } | WaitReason::Trouble(_) => {}
            }
            let others = self
                .store
                .now
                .records
                .values()
                .filter(|record| record.name != *name && record.phase == RecordPhase::Active);
            let others: Vec<&PodSpec> = others
                .filter_map(|record| self.disk.pod(record.id))
                .map(|stored| &*stored.spec)
                .collect();
            let sum: u64 = others.iter().map(|spec| Requests::of(spec).cpu_milli).sum();
            let ports: Vec<u16> = others.iter().flat_map(|spec| host_ports(spec)).collect();
            let taken = host_ports(&wait.spec).iter().any(|port| ports.contains(port));
            let full = sum + Requests::of(&wait.spec).cpu_milli > free;
            (!full && !taken).then(|| format!("{name} waits for nothing: {}", wait.why))
        })
    }

    fn claim_problem(&self, claims: &[Claim], record: &PodRecord) -> Option<String> {
        let own = claims.iter().find(|claim| claim.source == record.source);
        let kept = self.is_kept_without_claim(record);
        match own {
            Some(own) if record.held.is_some_and(|it| it.refused == own.revision.digest()) => None,
            Some(own) if own.revision.digest() != record.accepted.digest => {
                Some("its revision is not the one asked for".to_owned())
            }
            Some(_) => None,
            None if kept => None,
            None => Some(format!("{} has it and does not claim it", record.source)),
        }
    }

    /// Its file is faulty, or its directory was replaced by an empty one.
    fn is_kept_without_claim(&self, record: &PodRecord) -> bool {
        let Some(agent) = &self.agent else { return false };
        let alarmed = self.plan_now().is_some_and(|plan| !plan.alarms.is_empty());
        // Another file asks for the pod, and for more than there is.
        let waits = self.plan_now().is_some_and(|plan| plan.waits.contains_key(&record.name));
        alarmed || waits || agent.truth().faulty.contains(&record.source)
    }

    fn instance_problem(&self, record: &PodRecord, build: u64) -> Option<String> {
        let claimed = self.agent.as_ref().is_some_and(|agent| {
            agent
                .truth()
                .claims
                .get(&record.name)
                .is_some_and(|claims| claims.iter().any(|claim| claim.source == record.source))
        });
        if !claimed && !self.is_kept_without_claim(record) {
            return Some("nothing asks for it".to_owned());
        }
        let executor = self.executors.values().find(|executor| executor.pod == record.id);
        match &record.phase {
            RecordPhase::Finished { .. } => {
                let rests = executor.is_none() && !self.runtime.contains(&record.id);
                if !rests {
                    return Some("it is finished and does not rest".to_owned());
                }
                let stored = self.disk.pod(record.id);
                let runs_once = |it: &StoredPod| it.spec.restart_policy == RestartPolicy::Never;
                let is_away = matches!(record.eviction, Some(Eviction::Evicted(_)))
                    && stored.is_some_and(|stored| !runs_once(stored));
                let waits =
                    || self.plan_now().is_some_and(|it| it.waits.contains_key(&record.name));
                (is_away && !waits()).then(|| "it was evicted and is not back".to_owned())
            }
            // Its manifest broke before the specification was written; it has never run.
            RecordPhase::Active
                if !claimed && record.history.is_empty() && self.disk.pod(record.id).is_none() =>
            {
                None
            }
            RecordPhase::Active => {
                let (boot, now) = (self.boot_id(), self.boot_time());
                let is_over = |it: &Trial| it.until.boot != boot || it.until.at < now;
                // What its manifest asks for now is newer, and waits.
                let waits = self.plan_now().is_some_and(|it| it.waits.contains_key(&record.name));
                if record.trial.as_ref().is_some_and(is_over) && !waits {
                    return Some(format!("it is on trial for ever: {:?}", record.trial));
                }
                let Some(executor) = executor else {
                    return Some("it has no executor".to_owned());
                };
                if executor.build != build && !executor.refuses_upgrade {
                    return Some("its executor is of an old build".to_owned());
                }
                let Some(report) = executor.machine.report() else {
                    return Some("its executor was told nothing".to_owned());
                };
                if report.digest != record.accepted.digest || report.goal != Goal::Run {
                    return Some("its executor was told something else".to_owned());
                }
                let spec = executor.machine.spec()?;
                report.containers.iter().find_map(|container| {
                    let is_held =
                        report.initializing && container.status == ContainerStatus::Creating;
                    if is_held {
                        return None;
                    }
                    self.container_problem(record.id, spec, &container.name, &container.status)
                })
            }
            RecordPhase::Terminating { .. } | RecordPhase::Destroying { .. } => {
                Some("it is going".to_owned())
            }
        }
    }

    fn container_problem(
        &self,
        id: PodId,
        spec: &PodSpec,
        name: &roost::ids::ContainerName,
        status: &ContainerStatus,
    ) -> Option<String> {
        let run = self.runs.values().find(|run| run.pod == id && run.container == *name);
        let hash = Revision::of(spec).containers.get(name).copied();
        let limit = spec.container(name).and_then(|c| c.resources.memory_limit_bytes);
        // An end that nobody recorded is known to the executor that saw it, and to no other.
        let ends = match self.oracle.past.get(&(id, name.clone())) {
            Some(Past { recorded: Some(exit), .. }) => vec![exit.clone()],
            Some(past) => vec![past.exit.clone().unwrap_or(Exit::Unknown), Exit::Unknown],
            // Another executor than the one that launched it does not know that it never ran.
            None => vec![Exit::NotStarted(String::new()), Exit::Unknown],
        };
        let goes = |c, exit: &Exit| {
            // What has succeeded at the beginning is done, whatever its rules say.
            let is_done = spec.role(name) == Some(Role::Init) && exit.is_success();
            !is_done && goes_again(spec, c, exit)
        };
        let again = spec.container(name).and_then(|c| {
            let first = goes(c, ends.first()?);
            ends.iter().all(|exit| goes(c, exit) == first).then_some(first)
        });
        match (status, run) {
            (ContainerStatus::Running { .. }, Some(run)) => {
                let right = hash == Some(run.hash)
                    && matches!(run.stage, Stage::Executed { .. })
                    && (run.limit == limit || self.update_was_refused(id, name));
                (!right).then(|| format!("{name} runs with {run:?}"))
            }
            (ContainerStatus::BackingOff { .. }, None) => {
                (again == Some(false)).then(|| format!("{name} will run again"))
            }
            (ContainerStatus::Terminated, None) => {
                (again == Some(true)).then(|| format!("{name} does not run again"))
            }
            (ContainerStatus::Creating, Some(_)) => None,
            // Its own probes or deadline end it again and again; when it is killed is exact.
            (ContainerStatus::Stopping { .. }, Some(run)) if run.vitals.is_some() => None,
            (other, _) => Some(format!("{name} is {other:?}")),
        }
    }

    fn update_was_refused(&self, id: PodId, name: &roost::ids::ContainerName) -> bool {
        self.executors
            .values()
            .filter(|executor| executor.pod == id)
            .filter_map(|executor| executor.machine.report())
            .flat_map(|report| report.containers)
            .any(|container| container.name == *name && container.update_fault.is_some())
    }

    /// Invariant 6: what belongs to no record.
    fn leftover(&self) -> Option<String> {
        let known = |id: &PodId| self.store.now.records.contains_key(id);
        if let Some(path) = self.disk.current.keys().find(|path| !known(&Path::pod(path))) {
            return Some(format!("{path:?} is left over"));
        }
        if let Some(id) = self.runtime.iter().find(|id| !known(id)) {
            return Some(format!("the runtime directory of {id} is left over"));
        }
        let mut kept = self.store.now.revisions.keys().map(|(name, _)| name);
        let is_there =
            |name: &PodName| self.store.now.records.values().any(|record| record.name == *name);
        if let Some(name) = kept.find(|name| !is_there(name)) {
            return Some(format!("revisions of {name} are left over"));
        }
        let mut seen = std::collections::BTreeSet::new();
        for executor in self.executors.values() {
            if !known(&executor.pod) || !seen.insert(executor.pod) {
                return Some(format!("an executor of {} is left over", executor.pod));
            }
        }
        let orphan = self.runs.values().find(|run| !self.executors.contains_key(&run.executor));
        orphan.map(|run| format!("a run of {} is left over", run.pod))
    }
}
