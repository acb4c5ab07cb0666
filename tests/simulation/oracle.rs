//! What must hold at every moment, known independently of the cores: it sees everything and
//! forgets nothing.

use std::collections::{BTreeMap, BTreeSet};

use roost::executor::protocol::PodReport;
use roost::ids::{Attempt, ContainerName, PodId, PodName};
use roost::manifest::desired::{DesiredState, DirectoryView};
use roost::manifest::pod::PodSpec;
use roost::manifest::revision::{Hash, Revision};
use roost::reconciler::{Plan, Requests, WaitReason};
use roost::state::record::{
    Exit, HISTORY_LEN_MAX, LastRun, ManifestFile, PodRecord, RecordPhase, TerminationCause,
};

use crate::disk::{Body, Path};
use crate::executor::{Run, Stage};
use crate::specs::node;
use crate::world::World;

/// The newest executed run of a container, in truth.
#[derive(Debug, Clone)]
pub(crate) struct Past {
    pub(crate) attempt: Attempt,
    /// What the newest run had, begun or not; none if its attempt could not be recorded.
    pub(crate) hash: Option<Hash>,
    pub(crate) executor: u64,
    pub(crate) exit: Option<Exit>,
    /// How it ended, durably.
    pub(crate) recorded: Option<Exit>,
}

/// The memory of the simulation.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    pub(crate) past: BTreeMap<(PodId, ContainerName), Past>,
    executed: BTreeSet<(PodId, ContainerName, Attempt)>,
    /// How far each instance got; it never goes back, unless the store is lost.
    pub(crate) progress: BTreeMap<PodId, u8>,
    pub(crate) ids: BTreeSet<PodId>,
    /// When the agent saw that an executor was lost.
    pub(crate) losses: BTreeMap<PodId, u64>,
    /// What pods were stopped for: it was admitted, and stays so.
    pub(crate) promised: BTreeMap<PodName, Hash>,
    /// Until when pods are, or were last, Ready, and since when; for ever while they are.
    ready: BTreeMap<PodId, (u64, u64)>,
    /// Instances that were to be evicted.
    pub(crate) judged: BTreeSet<PodId>,
    pub(crate) evictions: u64,
    pub(crate) roll_backs: u64,
    pub(crate) retreats: u64,
    pub(crate) waits: u64,
    pub(crate) executions: u64,
    pub(crate) removals: u64,
    now: u64,
    pub(crate) events_now: u64,
}

/// What the agent could see when it decided.
#[derive(Debug, Clone)]
pub(crate) struct Basis {
    pub(crate) desired: DesiredState,
    pub(crate) known: BTreeMap<String, Vec<u8>>,
}

impl Basis {
    /// Whether the file, or the document in it, is really gone, and not only out of sight.
    pub(crate) fn is_gone(&self, source: &ManifestFile, name: &PodName) -> bool {
        let trusted = |directory: &String, view: &DirectoryView| match view {
            DirectoryView::Unread | DirectoryView::Unavailable { .. } => false,
            DirectoryView::Read { handle, empty } => {
                !empty || self.known.get(directory) == Some(handle)
            }
        };
        let claimed = self
            .desired
            .claims
            .get(name)
            .is_some_and(|claims| claims.iter().any(|claim| claim.source == *source));
        match self.desired.directories.get(&source.directory) {
            Some(view) => {
                trusted(&source.directory, view)
                    && !self.desired.faulty.contains(source)
                    && !claimed
            }
            None => self.desired.directories.iter().all(|(name, view)| trusted(name, view)),
        }
    }
}

pub(crate) fn host_ports(spec: &PodSpec) -> Vec<u16> {
    let ports = spec.all_containers().flat_map(|container| &container.ports);
    ports.filter_map(|port| port.host_port).collect()
}

fn rank(phase: &RecordPhase) -> u8 {
    match phase {
        RecordPhase::Active => 0,
        // It rests as one that is through.
        RecordPhase::Terminating { cause: TerminationCause::Evicted, .. } => 1,
        RecordPhase::Finished { .. } => 2,
        RecordPhase::Terminating { .. } => 3,
        RecordPhase::Destroying { .. } => 4,
    }
}

impl Oracle {
    pub(crate) fn count_event(&mut self, now: u64) {
        if now != self.now {
            self.now = now;
            self.events_now = 0;
        }
        self.events_now += 1;
    }

    pub(crate) fn exited(&mut self, run: &Run, exit: &Exit) {
        if let Some(past) = self.past.get_mut(&(run.pod, run.container.clone()))
            && past.attempt == run.attempt
        {
            past.exit = Some(exit.clone());
        }
    }

    /// It ended with its executor: nobody saw how.
    pub(crate) fn vanished(&mut self, run: &Run) {
        if let Some(past) = self.past.get_mut(&(run.pod, run.container.clone()))
            && past.attempt == run.attempt
        {
            past.exit = Some(Exit::Unknown);
        }
    }

    pub(crate) fn machine_down(&mut self) {
        self.losses.clear();
        self.ready.clear();
    }

    pub(crate) fn note_readiness(&mut self, pod: PodId, ready: bool, now: u64) {
        let (since, until) = self.ready.get(&pod).copied().unwrap_or((0, 0));
        let is = match (until == u64::MAX, ready) {
            (true, true) | (false, false) => (since, until),
            (true, false) => (since, now),
            (false, true) => (now, u64::MAX),
        };
        self.ready.insert(pod, is);
    }

    /// Whether a pod was Ready at that time or has been since.
    pub(crate) fn was_ready(&self, pod: PodId, at: u64) -> bool {
        self.ready.get(&pod).is_some_and(|(_, until)| *until >= at && *until > 0)
    }

    /// Whether a pod is Ready, and has been since then.
    pub(crate) fn is_ready_since(&self, pod: PodId, at: u64) -> bool {
        self.ready.get(&pod).is_some_and(|(since, until)| *since < at && *until == u64::MAX)
    }

    pub(crate) fn store_lost(&mut self) {
        self.progress.clear();
        self.promised.clear();
    }
}

impl World {
    /// A program was executed: invariant 1.
    pub(crate) fn check_execution(&mut self, id: u64) {
        let run = self.runs[&id].clone();
        let what = format!("{}/{}#{}", run.pod, run.container, run.attempt);
        let name = |world: &Self, pod| world.disk.pod(pod).map(|stored| stored.spec.name.clone());
        let own = name(self, run.pod);
        let twins: Vec<Run> = self
            .runs
            .iter()
            .filter(|(other, twin)| **other != id && matches!(twin.stage, Stage::Executed { .. }))
            .map(|(_, twin)| twin.clone())
            .collect();
        for twin in twins {
            let same = twin.pod == run.pod && twin.container == run.container;
            self.check(!same, || format!("{what} runs beside #{}", twin.attempt));
            let rival = twin.pod != run.pod && own.is_some() && own == name(self, twin.pod);
            self.check(!rival, || format!("{what} runs beside another instance {}", twin.pod));
        }
        let path = Path::Attempt(run.pod, run.container.clone(), run.attempt.0);
        let durable = self.disk.durable.contains_key(&path);
        self.check(durable, || format!("{what} runs before its attempt is durable"));
        let key = (run.pod, run.container.clone());
        let fresh = self.oracle.executed.insert((key.0, key.1.clone(), run.attempt));
        self.check(fresh, || format!("{what}: the number of a run is used twice"));
        self.oracle.executions += 1;
        let past = Past {
            attempt: run.attempt,
            hash: Some(run.hash),
            executor: run.executor,
            exit: None,
            recorded: None,
        };
        self.oracle.past.insert(key, past);
    }

    /// What is recorded is what happened.
    pub(crate) fn check_exit_record(
        &mut self,
        pod: PodId,
        container: &ContainerName,
        run: &LastRun,
    ) {
        let Some(past) = self.oracle.past.get_mut(&(pod, container.clone())) else { return };
        if past.attempt == run.attempt {
            past.recorded = Some(run.exit.clone());
            let truth = past.exit.clone();
            self.check(truth.as_ref() == Some(&run.exit), || {
                format!("{pod}/{container} ended with {truth:?}, recorded is {:?}", run.exit)
            });
        }
    }

    /// Every exit that is reported is durable.
    pub(crate) fn check_report(&mut self, pod: PodId, report: &PodReport) {
        for container in &report.containers {
            let Some(last) = &container.last else { continue };
            let name = container.name.clone();
            let n = last.attempt.0;
            let exit = self.disk.durable.get(&Path::Exit(pod, name.clone(), n));
            let durable = match exit {
                Some(Body::Exit(run)) => run == last,
                Some(Body::Nothing | Body::Spec(_) | Body::Attempt { .. }) | None => {
                    last.exit == Exit::Unknown
                        && self.disk.durable.contains_key(&Path::Attempt(pod, name.clone(), n))
                }
            };
            self.check(durable, || {
                format!("{pod}/{name}#{n}: reported {:?} is not durable", last.exit)
            });
        }
    }

    /// A record was committed.
    pub(crate) fn check_record(&mut self, old: Option<&PodRecord>, new: &PodRecord, basis: &Basis) {
        let id = new.id;
        let now = rank(&new.phase);
        let before = self.oracle.progress.get(&id).copied().unwrap_or(0);
        self.oracle.progress.insert(id, now.max(before));
        self.check(now >= before, || format!("{id} went back from {before} to {:?}", new.phase));
        self.check(new.history.len() <= HISTORY_LEN_MAX, || format!("{id}: history too long"));
        let Some(old) = old else {
            // What was promised is there, made just now or found.
            self.oracle.promised.remove(&new.name);
            return;
        };
        let (was, is) = (old.accepted.number, new.accepted.number);
        self.check(is == was || is == was + 1, || format!("{id}: revision {was} became {is}"));
        let gone = basis.is_gone(&old.source, &old.name);
        if old.source != new.source {
            self.check(gone, || format!("{id} was taken from {} by {}", old.source, new.source));
        }
        let RecordPhase::Terminating { cause, .. } = &new.phase else { return };
        if rank(&old.phase) >= 3 {
            return;
        }
        let claims = basis.desired.claims.get(&old.name).map_or(&[][..], Vec::as_slice);
        match cause {
            TerminationCause::Removed => {
                self.oracle.removals += 1;
                self.check(gone && claims.is_empty(), || {
                    format!("{} is removed, but {} was not deleted", old.name, old.source)
                });
            }
            TerminationCause::Replaced => {
                let own = claims.iter().find(|claim| claim.source == old.source);
                let claim = own.or(if gone { claims.first() } else { None });
                let needed = claim.is_some_and(|claim| {
                    claim.revision.digest() != old.accepted.digest
                        && (claim.revision.shared != old.accepted.shared || rank(&old.phase) == 2)
                });
                let rolled_back = new.held.is_some() && new.held != old.held;
                self.check(needed || rolled_back, || {
                    format!("{} is replaced without need", old.name)
                });
                let next = match (&new.successor, claim) {
                    (Some(successor), _) if rolled_back => Some(successor.digest),
                    (_, Some(claim)) => Some(claim.revision.digest()),
                    (_, None) => None,
                };
                self.oracle.promised.extend(next.map(|next| (old.name.clone(), next)));
            }
            TerminationCause::Restarted => {
                self.oracle.promised.insert(old.name.clone(), old.accepted.digest);
            }
            TerminationCause::Orphaned => {
                let others = self.store.now.records.values();
                let twin = others.filter(|other| other.name == old.name).count() > 1;
                self.check(twin, || format!("{} is an orphan without a sibling", old.name));
            }
            TerminationCause::Evicted => {
                self.oracle.evictions += 1;
                let judged = self.oracle.judged.contains(&old.id);
                self.check(judged, || format!("{} is evicted without a verdict", old.name));
            }
        }
    }

    /// What is not admitted any more although a pod was stopped for it: invariant 5.
    pub(crate) fn check_waits(&mut self, plan: &Plan) {
        for (name, wait) in &plan.waits {
            self.oracle.waits += 1;
            let digest = Revision::of(&wait.spec).digest();
            // Who finds a ConfigMap gone meanwhile gets back what was.
            let is_room = wait.reason == WaitReason::Room;
            let broken = is_room && self.oracle.promised.get(name) == Some(&digest);
            self.check(!broken, || format!("{name} was stopped for what {}", wait.why));
        }
    }

    /// Something is accepted: there is room for it, unless it asks for no more than it had.
    pub(crate) fn check_room(&mut self, spec: &PodSpec, of: Option<PodId>) {
        let is_through = |record: &PodRecord| matches!(record.phase, RecordPhase::Finished { .. });
        let through = of.and_then(|id| self.store.now.records.get(&id)).is_some_and(is_through);
        let asks = Requests::of(spec).cpu_milli;
        let mut sum = asks;
        let (mut taken, mut had) = (Vec::new(), Vec::new());
        let mut before = 0;
        for record in self.store.now.records.values() {
            let stored = self.disk.pod(record.id).map(|stored| &stored.spec);
            if record.name == spec.name {
                let number = record.successor.as_ref().map_or(0, |successor| successor.number);
                let next = self.store.now.revisions.get(&(record.name.clone(), number));
                let next = next.and_then(|kept| kept.spec.as_ref());
                for spec in stored.into_iter().chain(next) {
                    before = before.max(Requests::of(spec).cpu_milli);
                    had.extend(host_ports(spec));
                }
            } else if record.phase == RecordPhase::Active {
                sum += stored.map_or(0, |spec| Requests::of(spec).cpu_milli);
                taken.extend(stored.map(|spec| host_ports(spec)).unwrap_or_default());
            }
        }
        let free = node().allocatable().cpu_milli;
        let fits = through || asks == 0 || asks <= before || sum <= free;
        self.check(fits, || format!("{} is accepted: {sum} of {free}", spec.name));
        let clash =
            host_ports(spec).into_iter().find(|port| taken.contains(port) && !had.contains(port));
        self.check(through || clash.is_none(), || {
            format!("{} is accepted, and port {clash:?} is taken twice", spec.name)
        });
    }

    /// An instance takes another's place: what was rolled back stays so.
    pub(crate) fn check_succession(&mut self, new: &PodRecord, basis: &Basis) {
        let old = self.store.now.records.values().find(|old| old.name == new.name);
        let complete = self.disk.durable.contains_key(&Path::Spec(new.id));
        self.check(old.is_none() || complete, || {
            format!("{} takes another's place without its specification", new.id)
        });
        let old = self.store.now.records.values().find(|old| old.name == new.name);
        // Its manifest may ask for something else than what is made, and was not looked at.
        let unread = old.is_some_and(|old| {
            let claims = basis.desired.claims.get(&new.name).map_or(&[][..], Vec::as_slice);
            let mut directories = basis.desired.directories.values();
            directories.any(|view| *view == DirectoryView::Unread)
                && !claims.iter().any(|claim| claim.source == old.source)
        });
        self.check(!unread, || format!("{} is made anew with its manifest unread", new.name));
        let old = self.store.now.records.values().find(|old| old.name == new.name);
        let Some((held, source)) = old.and_then(|old| Some((old.held?, old.source.clone()))) else {
            return;
        };
        let claims = basis.desired.claims.get(&new.name).map_or(&[][..], Vec::as_slice);
        let own = claims.iter().find(|claim| claim.source == source);
        let refuses = own.is_some_and(|own| own.revision.digest() == held.refused);
        self.check(!refuses || new.held == Some(held), || {
            format!("{} forgets that it was rolled back", new.name)
        });
    }

    /// What a pod was is kept when it becomes something else.
    pub(crate) fn check_kept(&mut self, old: &PodRecord, new: &PodRecord) {
        if new.held.is_some() && new.held != old.held {
            self.oracle.roll_backs += 1;
        }
        let goes_on = new.accepted.number != old.accepted.number
            || (new.successor.is_some() && old.successor.is_none());
        if !goes_on {
            return;
        }
        if let Some(successor) = &new.successor {
            let key = (new.name.clone(), successor.number);
            let kept = self.store.now.revisions.get(&key);
            let right = kept.is_some_and(|kept| kept.accepted.digest == successor.digest);
            self.check(right, || format!("{}: its successor is not kept", new.name));
        }
    }

    /// Nothing comes after an instance: it was to go for good, or was through, so that nothing
    /// was stopped for what it was to become.
    pub(crate) fn check_end(&mut self, id: PodId, basis: &Basis) {
        let Some(old) = self.store.now.records.get(&id).cloned() else { return };
        let promised = self.oracle.promised.remove(&old.name).is_some();
        let unclaimed = basis.desired.claims.get(&old.name).is_none_or(Vec::is_empty);
        let gone = unclaimed && basis.is_gone(&old.source, &old.name);
        self.check(!promised || gone || old.successor.is_none(), || {
            format!("{} was stopped for another instance, and none comes", old.name)
        });
    }

    /// A record was removed: nothing else of the instance is left, invariant 6.
    pub(crate) fn check_forgotten(&mut self, id: PodId) {
        let left = self.disk.has(id)
            || self.runtime.contains(&id)
            || self.executors.values().any(|executor| executor.pod == id)
            || self.runs.values().any(|run| run.pod == id);
        self.check(!left, || format!("{id} is forgotten while something of it is left"));
    }
}
