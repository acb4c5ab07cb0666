//! Executors: each a real `PodMachine` whose effects a fake containerizer performs.

use std::collections::BTreeMap;

use roost::clock::BootTime;
use roost::executor::machine::{
    Effect, Event as MachineEvent, LATE_STOP_TIME, LAUNCH_TIME_MAX, PodMachine, Recovered,
};
use roost::executor::protocol::{Goal, PodReport, WantedPod};
use roost::executor::question::{Answer, Purpose};
use roost::ids::{Attempt, ContainerName, PodId};
use roost::manifest::pod::{Lifecycle, PodSpec, Role};
use roost::manifest::revision::{Hash, Revision};
use roost::state::record::{Exit, LastRun};

use crate::agent::AgentEvent;
use crate::disk::{Body, Path};
use crate::health::{Open, Question, Vitals};
use crate::order::Standing;
use crate::specs::Program;
use crate::world::{Bug, Event, World};

/// One executor process.
#[derive(Debug)]
pub(crate) struct Executor {
    pub(crate) pod: PodId,
    pub(crate) machine: PodMachine,
    pub(crate) wanted: Option<WantedPod>,
    /// Of the containers that are wanted.
    pub(crate) hashes: BTreeMap<ContainerName, Hash>,
    pub(crate) build: u64,
    pub(crate) refuses_upgrade: bool,
    /// Until when it does nothing at all.
    pub(crate) hung_until: u64,
    tick: u64,
    /// The life of the agent that is connected.
    pub(crate) agent: Option<u64>,
    pub(crate) report: Option<PodReport>,
    pub(crate) standing: Standing,
    /// What the attempts of runs that are not recorded yet hold.
    pub(crate) announced: BTreeMap<(ContainerName, Attempt), Body>,
    /// Questions without an answer so far.
    pub(crate) asking: BTreeMap<Question, Open>,
}

impl Executor {
    /// What a run that is not recorded yet was launched as.
    pub(crate) fn announced_hash(&self, name: &ContainerName, attempt: Attempt) -> Option<Hash> {
        match self.announced.get(&(name.clone(), attempt)) {
            Some(Body::Attempt { hash, .. }) => Some(*hash),
            Some(Body::Nothing | Body::Spec(_) | Body::Exit(_)) | None => None,
        }
    }
}

/// One process tree of a container.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) pod: PodId,
    pub(crate) container: ContainerName,
    pub(crate) attempt: Attempt,
    pub(crate) executor: u64,
    pub(crate) hash: Hash,
    pub(crate) stage: Stage,
    /// When its set-up is given up.
    pub(crate) patience: u64,
    pub(crate) program: Program,
    /// When it was told to stop.
    pub(crate) told_at: Option<u64>,
    /// While its last hook is asked: when it is killed if that is over before.
    pub(crate) asked_by: Option<u64>,
    /// Once its program was executed, as the machine knows it.
    pub(crate) vitals: Option<Vitals>,
    /// Of the newest specification that had its container.
    pub(crate) lifecycle: Lifecycle,
    /// When it is to be killed, once it was told to stop.
    pub(crate) due: Option<u64>,
    pub(crate) killed: bool,
    pub(crate) limit: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its attempt is being recorded: no process yet.
    Announced,
    SettingUp,
    Executed {
        at: u64,
    },
}

#[derive(Debug, Clone)]
pub(crate) enum ExecutorEvent {
    Deliver(WantedPod),
    Upgrade {
        build: u64,
    },
    Connect {
        life: u64,
    },
    Tick {
        generation: u64,
    },
    AttemptWritten {
        run: u64,
        hash: Hash,
        streak: u32,
    },
    SetUp {
        run: u64,
    },
    Exits {
        run: u64,
        exit: Exit,
    },
    Killed {
        run: u64,
    },
    Recorded {
        container: ContainerName,
        run: LastRun,
    },
    NotUpdated {
        container: ContainerName,
    },
    Answered {
        container: ContainerName,
        attempt: Attempt,
        purpose: Purpose,
        serial: u64,
        answer: Answer,
    },
}

impl World {
    /// Starts an executor; it reads the checkpoints of its pod.
    pub(crate) fn spawn(&mut self, pod: PodId) -> u64 {
        let pid = self.number();
        let recovered = self.recovered(pod);
        let standing = Standing::of(&recovered, self.now);
        let machine = PodMachine::new(recovered, self.executor_time());
        self.runtime.insert(pod);
        let executor = Executor {
            pod,
            machine,
            wanted: None,
            hashes: BTreeMap::new(),
            build: self.build,
            refuses_upgrade: false,
            hung_until: 0,
            tick: 0,
            agent: None,
            report: None,
            standing,
            announced: BTreeMap::new(),
            asking: BTreeMap::new(),
        };
        self.executors.insert(pid, executor);
        self.say(|| format!("executor {pid} of {pod} starts"));
        pid
    }

    fn recovered(&mut self, pod: PodId) -> BTreeMap<ContainerName, Recovered> {
        let wall = self.wall();
        let mut all = BTreeMap::new();
        for (name, (n, hash, streak, exit)) in self.disk.newest_attempts(pod) {
            if exit.is_none() && self.has(Bug::RecoveryIgnoresUnfinishedRuns) {
                continue;
            }
            let mut last = exit.unwrap_or(LastRun {
                attempt: Attempt(n),
                started_at: None,
                finished_at: wall,
                exit: Exit::Unknown,
                message: None,
            });
            if self.has(Bug::RecoveryCountsFromZero) {
                last.attempt = Attempt(0);
            }
            all.insert(
                name,
                Recovered {
                    last,
                    hash: Some(hash),
                    streak: streak.saturating_add(1),
                    pod_since: None,
                },
            );
        }
        all
    }

    fn executor_time(&self) -> BootTime {
        if self.has(Bug::WallClockInExecutor) {
            BootTime(self.wall().0 / 1_000_000)
        } else {
            self.boot_time()
        }
    }

    pub(crate) fn executor_event(&mut self, pid: u64, what: ExecutorEvent) {
        let Some(executor) = self.executors.get(&pid) else { return };
        if executor.hung_until > self.now {
            let delay = executor.hung_until - self.now;
            self.at(delay, Event::Executor { pid, what });
            return;
        }
        match what {
            ExecutorEvent::Deliver(wanted) => self.deliver(pid, wanted),
            ExecutorEvent::Upgrade { build } => self.upgrade_executor(pid, build),
            ExecutorEvent::Connect { life } => self.connect(pid, life),
            ExecutorEvent::Tick { generation } => {
                if executor.tick == generation {
                    self.step(pid, MachineEvent::Tick);
                }
            }
            ExecutorEvent::AttemptWritten { run, hash, streak } => {
                self.attempt_written(pid, run, hash, streak);
            }
            ExecutorEvent::SetUp { run } => self.set_up(pid, run),
            ExecutorEvent::Exits { run, exit } => self.exits(pid, run, exit),
            ExecutorEvent::Killed { run } => self.exits(pid, run, Exit::Signal(9)),
            ExecutorEvent::Recorded { container, run } => self.recorded(pid, container, run),
            ExecutorEvent::Answered { container, attempt, purpose, serial, answer } => {
                self.answered(pid, (container, attempt, purpose), serial, answer);
            }
            ExecutorEvent::NotUpdated { container } => {
                self.step(pid, MachineEvent::NotUpdated { container, why: "no".to_owned() });
            }
        }
    }

    fn deliver(&mut self, pid: u64, wanted: WantedPod) {
        let Some(executor) = self.executors.get_mut(&pid) else { return };
        executor.wanted = Some(wanted.clone());
        executor.hashes = Revision::of(&wanted.spec).containers;
        let pod = executor.pod;
        let known = wanted.clone();
        self.say(|| format!("executor {pid} of {pod} is told {}", describe(&known)));
        self.step(pid, MachineEvent::Wanted(wanted));
    }

    fn upgrade_executor(&mut self, pid: u64, build: u64) {
        let refuses = self.faults && self.rng.chance(10);
        let now = self.executor_time();
        let Some(executor) = self.executors.get(&pid) else { return };
        let (pod, wanted, life) = (executor.pod, executor.wanted.clone(), executor.agent);
        if refuses {
            self.executors.get_mut(&pid).expect("just seen").refuses_upgrade = true;
            self.tell_agent(life, AgentEvent::NotUpgraded { pid });
            return;
        }
        let json = serde_json::to_string(&executor.machine).expect("a machine is plain data");
        let mut machine: PodMachine = serde_json::from_str(&json).expect("it was just written");
        let same = machine == executor.machine;
        self.check(same, || format!("the machine of {pod} did not survive the hand-over"));
        if let Some(forgetful) = self.spoilt_hand_over(&json) {
            machine = forgetful;
        }
        if self.has(Bug::UpgradeWithoutHandOver) {
            machine = PodMachine::new(self.recovered(pod), now);
        }
        let executor = self.executors.get_mut(&pid).expect("just seen");
        executor.machine = machine;
        executor.build = build;
        executor.report = None;
        // Whoever was busy with them is another program now.
        executor.asking.clear();
        self.say(|| format!("executor {pid} of {pod} continues as build {build}"));
        if let (true, Some(wanted)) = (self.has(Bug::UpgradeWithoutHandOver), wanted) {
            self.step(pid, MachineEvent::Wanted(wanted));
        }
        self.welcome(pid);
        let is_untold = self.has(Bug::LostAnswersAreNotTold);
        self.step(pid, if is_untold { MachineEvent::Tick } else { MachineEvent::AnswersLost });
    }

    /// A machine that was handed over without a part of what it knew.
    fn spoilt_hand_over(&self, json: &str) -> Option<PodMachine> {
        let mut json: serde_json::Value = serde_json::from_str(json).expect("it was just written");
        let fields = json.as_object_mut().expect("a machine has fields");
        let of_containers =
            [(Bug::HandOverForgetsProbes, "probing"), (Bug::HandOverForgetsHooks, "hooks")];
        if self.has(Bug::HandOverForgetsTheInitialization) {
            fields.remove("course");
        } else if self.has(Bug::HandOverForgetsTheDeadline) {
            fields.get_mut("course")?.as_object_mut()?.remove("since");
        } else if self.has(Bug::HandOverForgetsTheEnd) {
            fields.get_mut("course")?["ending"] = serde_json::Value::Null;
        } else {
            let (_, name) = of_containers.into_iter().find(|(bug, _)| self.has(*bug))?;
            let containers = fields.get_mut("containers")?.as_object_mut()?;
            for container in containers.values_mut() {
                if let Some(live) = container["state"].get_mut("Running") {
                    live.as_object_mut()?.remove(name);
                }
            }
        }
        Some(serde_json::from_value(json).expect("older ones had no such field"))
    }

    fn connect(&mut self, pid: u64, life: u64) {
        if self.agent.as_ref().is_none_or(|agent| agent.life != life) {
            return;
        }
        if let Some(executor) = self.executors.get_mut(&pid) {
            executor.agent = Some(life);
            self.welcome(pid);
        }
    }

    fn welcome(&mut self, pid: u64) {
        let Some(executor) = self.executors.get(&pid) else { return };
        let report = executor.machine.report();
        let what = AgentEvent::Welcome { pid, build: executor.build, report };
        let life = executor.agent;
        self.tell_agent(life, what);
    }

    /// One connection keeps the order: every message takes the same time.
    fn tell_agent(&mut self, life: Option<u64>, what: AgentEvent) {
        if let Some(life) = life {
            self.at(1, Event::Agent { life, what });
        }
    }

    /// Lets the machine take a step, and performs what it answers with.
    pub(crate) fn step(&mut self, pid: u64, event: MachineEvent) {
        let now = self.executor_time();
        self.update_vitals(pid, &event);
        self.update_standing(pid, &event);
        let due = self.questions_due(pid);
        let Some(executor) = self.executors.get_mut(&pid) else { return };
        let effects = executor.machine.step(event, now);
        self.steps += 1;
        executor.tick += 1;
        let (generation, pod) = (executor.tick, executor.pod);
        let wake_at = executor.machine.wake_at();
        let report = executor.machine.report();
        let stopped = executor.machine.is_stopped();
        if let Some(at) = wake_at {
            self.check(at > now, || format!("the machine of {pod} wants to be woken in the past"));
            let what = ExecutorEvent::Tick { generation };
            self.at(at.since(now).0, Event::Executor { pid, what });
        }
        let (asked, is_told) = (effects.clone(), executor_is_told(self, pid));
        for effect in effects {
            self.perform(pid, pod, effect);
        }
        if is_told && self.executors.contains_key(&pid) {
            let wake_at = wake_at.map(|at| self.now + at.since(now).0);
            self.check_step(pid, &due, &asked, wake_at);
            self.check_launches(pid, pod);
        }
        let Some(executor) = self.executors.get_mut(&pid) else { return };
        if executor.report != report {
            executor.report.clone_from(&report);
            let life = executor.agent;
            if let Some(report) = report {
                self.check_report(pod, &report);
                self.check_health(pid, &report);
                self.note_readiness(pid);
                self.tell_agent(life, AgentEvent::Report { pid, report });
            }
        }
        if stopped {
            self.check(effects_are_over(self, pid), || format!("{pod} ended with runs left"));
            self.say(|| format!("executor {pid} of {pod} ends"));
            self.executors.remove(&pid);
            self.oracle.note_readiness(pod, false, self.now);
            self.tell_of_end(pid);
        }
    }

    fn perform(&mut self, pid: u64, pod: PodId, effect: Effect) {
        match effect {
            Effect::Launch { container, attempt, hash, streak } => {
                self.launch(pid, pod, container, attempt, hash, streak);
            }
            Effect::Stop { container, attempt } => {
                let Some(run) = self.find_run(pid, &container, attempt) else { return };
                let hook = self.runs[&run].asked_by;
                // Whose last hook was asked is stopping, whatever is wanted of it by now.
                if hook.is_none() {
                    self.check_stop(pid, run);
                }
                let killed = self.runs[&run].killed;
                self.check(!killed, || format!("{pod}/{container} is killed, and told to stop"));
                let now = self.now;
                // What came of the end of all is in it already.
                let due = match hook {
                    Some(by) => by.max(now + LATE_STOP_TIME.0),
                    None => self.kill_at(pid, run),
                };
                let running = self.runs.get_mut(&run).expect("just found");
                running.due = Some(due);
                running.told_at = Some(now);
                running.asked_by = None;
                let heeds = running.program.heeds;
                self.say(|| format!("{pod}/{container}#{attempt} is told to stop"));
                if self.has(Bug::EndIsToldBeforeProcessesAreGone) {
                    let (exit, at) = (Exit::Signal(15), self.wall());
                    self.step(
                        pid,
                        MachineEvent::Exited { container, attempt, exit, message: None, at },
                    );
                    return;
                }
                if let Some(after) = heeds {
                    let what = ExecutorEvent::Exits { run, exit: Exit::Signal(15) };
                    self.at(after, Event::Executor { pid, what });
                }
            }
            Effect::Kill { container, attempt } => {
                let Some(run) = self.find_run(pid, &container, attempt) else { return };
                self.check_kill(pid, run);
                self.say(|| format!("{pod}/{container}#{attempt} is killed"));
                let delay = if self.rng.chance(3) { 5000 } else { self.rng.between(0, 20) };
                self.at(delay, Event::Executor { pid, what: ExecutorEvent::Killed { run } });
            }
            Effect::Record { container, run } => {
                let delay = self.slow_disk();
                let what = ExecutorEvent::Recorded { container, run };
                self.at(delay, Event::Executor { pid, what });
            }
            Effect::Update { container, attempt, resources } => {
                let Some(run) = self.find_run(pid, &container, attempt) else { return };
                if self.faults && self.rng.chance(10) {
                    let what = ExecutorEvent::NotUpdated { container };
                    self.at(0, Event::Executor { pid, what });
                } else {
                    self.runs.get_mut(&run).expect("just found").limit =
                        resources.memory_limit_bytes;
                }
            }
            Effect::Ask { container, attempt, purpose, handler, timeout } => {
                self.ask(pid, (container, attempt, purpose), &handler, timeout);
            }
            Effect::Unask { container, attempt, purpose } => {
                self.unask(pid, &(container, attempt, purpose));
            }
            Effect::UpdatePod { .. } => {}
        }
    }

    fn slow_disk(&mut self) -> u64 {
        if self.faults && self.rng.chance(4) {
            self.rng.between(100, 10_000)
        } else {
            self.rng.between(0, 10)
        }
    }

    pub(crate) fn find_run(
        &self,
        pid: u64,
        container: &ContainerName,
        attempt: Attempt,
    ) -> Option<u64> {
        self.runs
            .iter()
            .find(|(_, run)| {
                run.executor == pid && run.container == *container && run.attempt == attempt
            })
            .map(|(id, _)| *id)
    }

    fn launch(
        &mut self,
        pid: u64,
        pod: PodId,
        container: ContainerName,
        attempt: Attempt,
        hash: Hash,
        streak: u32,
    ) {
        let spec = self.executors[&pid].machine.spec().expect("told what to launch").clone();
        let wanted = spec.container(&container).expect("a launched container is wanted");
        self.check_launch(pid, pod, &container, attempt, hash);
        if let Some(executor) = self.executors.get_mut(&pid) {
            executor.standing.launched(&container, hash);
        }
        let run = Run {
            pod,
            container: container.clone(),
            attempt,
            executor: pid,
            hash,
            stage: Stage::Announced,
            patience: self.now + LAUNCH_TIME_MAX.0,
            program: Program::of(wanted),
            told_at: None,
            asked_by: None,
            vitals: None,
            lifecycle: Lifecycle::default(),
            due: None,
            killed: false,
            limit: wanted.resources.memory_limit_bytes,
        };
        let id = self.number();
        self.runs.insert(id, run);
        self.say(|| format!("{pod}/{container}#{attempt} is launched, streak {streak}"));
        if let Some(executor) = self.executors.get_mut(&pid) {
            executor.announced.insert((container, attempt), Body::Attempt { hash, streak });
        }
        let delay = self.slow_disk();
        let what = ExecutorEvent::AttemptWritten { run: id, hash, streak };
        self.at(delay, Event::Executor { pid, what });
    }

    pub(crate) fn disk_fails(&mut self) -> bool {
        self.faults && (self.now < self.disk_fails_until || self.rng.chance(1))
    }

    fn attempt_written(&mut self, pid: u64, id: u64, hash: Hash, streak: u32) {
        let fails = self.disk_fails();
        let Some(run) = self.runs.get_mut(&id) else { return };
        // From now on this run is the newest, even if it never begins.
        if let Some(past) = self.oracle.past.get_mut(&(run.pod, run.container.clone())) {
            past.recorded = None;
            past.hash = (!fails).then_some(hash);
        }
        if fails {
            self.exits(pid, id, Exit::NotStarted("disk".to_owned()));
            return;
        }
        run.stage = Stage::SettingUp;
        let path = Path::Attempt(run.pod, run.container.clone(), run.attempt.0);
        let setup = run.program.setup;
        let (container, attempt) = (run.container.clone(), run.attempt);
        let body = Body::Attempt { hash, streak };
        if self.has(Bug::LaunchBeforeAttemptIsDurable) {
            self.disk.write_without_sync(path, body);
        } else {
            self.disk.write(path, body);
        }
        self.at(setup, Event::Executor { pid, what: ExecutorEvent::SetUp { run: id } });
        if self.has(Bug::StartIsToldBeforeTheProgramRuns) {
            let at = self.wall();
            self.step(pid, MachineEvent::Started { container, attempt, pid: 1, at });
        }
    }

    /// The program is executed, or can't be.
    fn set_up(&mut self, pid: u64, id: u64) {
        let now = self.now;
        let Some(run) = self.runs.get_mut(&id) else { return };
        if !run.program.starts {
            self.exits(pid, id, Exit::NotStarted("no such program".to_owned()));
            return;
        }
        run.stage = Stage::Executed { at: now };
        let run = run.clone();
        self.say(|| format!("{}/{}#{} runs", run.pod, run.container, run.attempt));
        self.check_execution(id);
        let exit = Exit::Code(run.program.code);
        let what = ExecutorEvent::Exits { run: id, exit };
        self.at(run.program.lasts, Event::Executor { pid, what });
        let started = MachineEvent::Started {
            container: run.container,
            attempt: run.attempt,
            pid: u32::try_from(id).expect("a small number"),
            at: self.wall(),
        };
        self.step(pid, started);
    }

    fn exits(&mut self, pid: u64, id: u64, exit: Exit) {
        let Some(run) = self.runs.remove(&id) else { return };
        let exit = match run.stage {
            Stage::Executed { .. } => exit,
            Stage::Announced | Stage::SettingUp => Exit::NotStarted("killed or failed".to_owned()),
        };
        // What had to end is no success, so let it not look like one.
        let ails = run.must_end(self.now).is_some();
        let exit = if ails && exit.is_success() { Exit::Code(1) } else { exit };
        self.say(|| format!("{}/{}#{} ends: {exit:?}", run.pod, run.container, run.attempt));
        self.oracle.exited(&run, &exit);
        self.stand_exited(&run);
        let exit = match exit {
            Exit::Code(_) if self.has(Bug::InitFailureIsToldAsSuccess) => Exit::Code(0),
            exit @ (Exit::Code(_)
            | Exit::Signal(_)
            | Exit::OutOfMemory
            | Exit::NotStarted(_)
            | Exit::Unknown) => exit,
        };
        let exited = MachineEvent::Exited {
            container: run.container,
            attempt: run.attempt,
            exit,
            message: None,
            at: self.wall(),
        };
        self.step(pid, exited);
    }

    fn recorded(&mut self, pid: u64, container: ContainerName, run: LastRun) {
        let pod = self.executors[&pid].pod;
        let attempt = run.attempt;
        let result = if self.disk_fails() { Err("disk full".to_owned()) } else { Ok(()) };
        if result.is_ok() {
            let n = attempt.0;
            self.check_exit_record(pod, &container, &run);
            self.stand_recorded(pid, &container, attempt, &run.exit);
            // The attempt of a run that never began may be missing; without it the exit would
            // belong to nothing, and its number would be used again.
            let executor = self.executors.get_mut(&pid).expect("just seen");
            let announced = executor.announced.remove(&(container.clone(), attempt));
            let path = Path::Attempt(pod, container.clone(), n);
            if let (Some(body), false) = (announced, self.disk.current.contains_key(&path)) {
                self.disk.write(path, body);
            }
            let (path, body) = (Path::Exit(pod, container.clone(), n), Body::Exit(run));
            if self.has(Bug::ExitOnlyInRuntimeDirectory) {
                self.disk.write_without_sync(path, body);
            } else {
                self.disk.write(path, body);
            }
            // Only the newest run counts; that the older ones are gone need not be durable.
            self.disk.remove_without_sync(|path| match path {
                Path::Attempt(id, name, m) | Path::Exit(id, name, m) => {
                    *id == pod && *name == container && *m < n
                }
                Path::Directory(_) | Path::Spec(_) => false,
            });
        }
        self.step(pid, MachineEvent::Recorded { container, attempt, result });
    }

    /// `kill -9` of an executor; its containers follow, some a little later.
    pub(crate) fn executor_dies(&mut self, pid: u64) {
        let Some(executor) = self.executors.remove(&pid) else { return };
        self.say(|| format!("executor {pid} of {} dies", executor.pod));
        self.oracle.note_readiness(executor.pod, false, self.now);
        let ids: Vec<u64> =
            self.runs.iter().filter(|(_, run)| run.executor == pid).map(|(id, _)| *id).collect();
        for id in ids {
            match self.runs[&id].stage {
                Stage::Announced | Stage::SettingUp => {
                    self.runs.remove(&id);
                }
                Stage::Executed { .. } => {
                    let delay = match self.rng.between(0, 9) {
                        0 => self.rng.between(1000, 60_000),
                        1 | 2 => self.rng.between(1, 3000),
                        _ => 0,
                    };
                    self.at(delay, Event::OrphanDies { run: id });
                }
            }
        }
        self.tell_of_end(pid);
    }

    /// Whoever watches the process learns of its end, connected or not.
    fn tell_of_end(&mut self, pid: u64) {
        if let Some(life) = self.agent.as_ref().map(|agent| agent.life) {
            self.at(2, Event::Agent { life, what: AgentEvent::Gone { pid } });
        }
    }

    pub(crate) fn orphan_dies(&mut self, id: u64) {
        if let Some(run) = self.runs.remove(&id) {
            self.oracle.vanished(&run);
        }
    }

    /// Kills every process of a pod and waits until they are gone.
    pub(crate) fn kill_all(&mut self, pod: PodId) {
        let pids: Vec<u64> =
            self.executors.iter().filter(|(_, e)| e.pod == pod).map(|(pid, _)| *pid).collect();
        for pid in pids {
            self.executor_dies(pid);
        }
        let ids: Vec<u64> =
            self.runs.iter().filter(|(_, run)| run.pod == pod).map(|(id, _)| *id).collect();
        for id in ids {
            self.orphan_dies(id);
        }
    }

    /// Nothing is told to stop but what is not wanted as it is, or has to end.
    pub(crate) fn check_stop(&mut self, pid: u64, id: u64) {
        let run = self.runs[&id].clone();
        let unwanted = self.executors[&pid].wanted.as_ref().is_some_and(|wanted| {
            matches!(wanted.goal, Goal::Stop { .. })
                || self.executors[&pid].hashes.get(&run.container) != Some(&run.hash)
        });
        let is_ending = self.executors[&pid].standing.ending.is_some();
        let has_to = run.must_end(self.now).is_some();
        let what = format!("{}/{}", run.pod, run.container);
        self.check(unwanted || is_ending || has_to, || {
            format!("{what} is stopped without a cause")
        });
        self.check_order_of_stops(pid, &run, &what);
    }

    fn check_kill(&mut self, pid: u64, id: u64) {
        let run = self.runs[&id].clone();
        let kill_at = self.kill_at(pid, id);
        self.runs.get_mut(&id).expect("just seen").killed = true;
        // A set-up that is killed may be through in that moment: it is killed again, until it ends.
        if run.killed {
            return;
        }
        if !matches!(run.stage, Stage::Executed { .. }) {
            if self.now < run.patience {
                self.check_stop(pid, id);
            }
            return;
        }
        let what = format!("{}/{}", run.pod, run.container);
        let now = self.now;
        let never_hung = self.executors[&pid].hung_until == 0;
        if let Some(due) = run.due {
            let in_time = now == due || (now > due && !never_hung);
            self.check(in_time, || format!("{what} is killed at {now}, due was {due}"));
        } else {
            self.check_stop(pid, id);
            // Where there is no time at all, there is none for its hook either.
            let is_over = run.asked_by.unwrap_or(kill_at) <= now;
            self.check(is_over, || format!("{what} is killed without a stop"));
        }
    }

    fn check_launch(
        &mut self,
        pid: u64,
        pod: PodId,
        container: &ContainerName,
        attempt: Attempt,
        hash: Hash,
    ) {
        let what = format!("{pod}/{container}#{attempt}");
        self.check_order(pid, container, hash, &what);
        let spec = self.executors[&pid].machine.spec().expect("told what to launch").clone();
        let wanted = spec.container(container).expect("a launched container is wanted");
        let key = (pod, container.clone());
        if let Some(past) = self.oracle.past.get(&key).cloned()
            && past.hash == Some(hash)
            && !self.executors[&pid].standing.begins_anew(container)
        {
            // What an init container did for another executor is gone.
            let is_lost = spec.role(container) == Some(Role::Init)
                && past.executor != pid
                && past.recorded == Some(Exit::Code(0));
            let exit = past.recorded.unwrap_or(Exit::Unknown);
            let goes_again = is_lost || crate::order::goes_again(&spec, wanted, &exit);
            self.check(goes_again, || format!("{what} runs again, and is through with {exit:?}"));
        }
        let live = self.runs.values().any(|run| run.executor == pid && run.container == *container);
        self.check(!live, || format!("{what} is launched beside another run"));
    }
}

fn effects_are_over(world: &World, pid: u64) -> bool {
    !world.runs.values().any(|run| run.executor == pid)
}

fn executor_is_told(world: &World, pid: u64) -> bool {
    world.executors.get(&pid).is_some_and(|executor| executor.wanted.is_some())
}

fn describe(wanted: &WantedPod) -> String {
    let spec: &PodSpec = &wanted.spec;
    let names: Vec<&str> = spec.all_containers().map(|c| c.name.as_str()).collect();
    format!(
        "{:?} number {}: {} {:?} {names:?}",
        wanted.goal, wanted.number, spec.name, spec.restart_policy
    )
}
