//! What the agent's workers do, in stages: between any two of them the agent may be killed.

use super::*;

impl World {
    pub(super) fn schedule_stage(&mut self, key: Key, serial: u64) {
        let delay = if self.faults && self.rng.chance(3) {
            self.rng.between(500, 20_000)
        } else {
            self.rng.between(0, 15)
        };
        self.agent_event_in(delay, AgentEvent::Stage { key, serial });
    }

    pub(super) fn stage(&mut self, key: Key, serial: u64) {
        let Some(agent) = &mut self.agent else { return };
        if agent.second.get(&key).is_some_and(|worker| worker.serial == serial) {
            // The second worker does all at once.
            let mut worker = agent.second.remove(&key).expect("just seen");
            while let Some(step) = worker.steps.pop_front() {
                worker.stage = 0;
                while let Outcome::Next = self.act(&mut worker, &step.action) {
                    worker.stage += 1;
                }
            }
            return;
        }
        let Some(mut worker) = agent.workers.get(&key).filter(|w| w.serial == serial).cloned()
        else {
            return;
        };
        let Some(step) = worker.steps.front().cloned() else { return };
        self.say(|| {
            format!("{key}: stage {} of {} ({:?})", worker.stage, step.reason, step.action)
        });
        if self.faults && self.rng.chance(2) {
            self.step_failed(&key, "before");
            return;
        }
        let outcome = self.act(&mut worker, &step.action);
        let ambiguous = self.faults && self.rng.chance(3);
        let Some(agent) = &mut self.agent else { return };
        match outcome {
            Outcome::Failed(why) => self.step_failed(&key, why),
            Outcome::Next | Outcome::Done if ambiguous => self.step_failed(&key, "after"),
            Outcome::Next => {
                worker.stage += 1;
                agent.workers.insert(key.clone(), worker);
                self.schedule_stage(key, serial);
            }
            Outcome::Done => {
                agent.workers.insert(key.clone(), worker);
                self.step_done(&key);
            }
            Outcome::Wait(wait) => {
                worker.waits = Some(wait);
                agent.workers.insert(key.clone(), worker);
                self.agent_event_in(ANSWER_TIME_MAX, AgentEvent::TimedOut { key, serial });
            }
        }
    }

    pub(super) fn step_done(&mut self, key: &Key) {
        let Some(agent) = &mut self.agent else { return };
        let Some(worker) = agent.workers.get_mut(key) else { return };
        worker.steps.pop_front();
        worker.stage = 0;
        worker.waits = None;
        let serial = worker.serial;
        if worker.steps.is_empty() {
            agent.workers.remove(key);
            agent.no_longer_under_way(key);
            agent.held.remove(key);
            self.request_plan();
        } else {
            self.schedule_stage(key.clone(), serial);
        }
    }

    pub(super) fn step_failed(&mut self, key: &Key, why: &'static str) {
        self.say(|| format!("{key}: failed: {why}"));
        let now = self.now;
        let Some(agent) = &mut self.agent else { return };
        agent.workers.remove(key);
        agent.no_longer_under_way(key);
        let failures = agent.held.get(key).map_or(1, |held| held.failures + 1);
        let delay = (HOLD << failures.min(10)).min(HOLD_MAX);
        agent.held.insert(key.clone(), Held { until: now + delay, failures });
        let life = agent.life;
        self.at(delay, Event::Agent { life, what: AgentEvent::Plan });
        self.request_plan();
    }

    pub(super) fn store_fails(&mut self) -> bool {
        self.faults && (self.now < self.store_fails_until || self.rng.chance(1))
    }

    fn commit(&mut self, record: &PodRecord, keeps: &[KeptRevision], basis: &Basis) -> Outcome {
        if self.store_fails() {
            return Outcome::Failed("store");
        }
        let old = self.store.now.records.get(&record.id).cloned();
        let keeps = if self.has(Bug::RevisionsAreNotKept) { &[] } else { keeps };
        self.check_record(old.as_ref(), record, basis);
        let stored = self.disk.pod(record.id).map(|stored| stored.spec.clone());
        let before = old.clone().or_else(|| {
            let mut others = self.store.now.records.values();
            others.find(|other| other.name == record.name).cloned()
        });
        let mut record = record.clone();
        if self.has(Bug::TrialIsForgotten) {
            record.trial = None;
        }
        self.check_acceptance(before.as_ref(), &record, stored.as_deref(), basis);
        let record = &record;
        let synced = !self.has(Bug::StoreNotFlushed) || self.rng.chance(50);
        self.store.commit(synced, |content| {
            content.records.insert(record.id, record.clone());
            keeps.iter().for_each(|kept| content.keep(kept));
        });
        self.note_eviction(record);
        if let Some(old) = &old {
            self.check_kept(old, record);
        }
        Outcome::Done
    }

    pub(super) fn act(&mut self, worker: &mut Worker, action: &Action) -> Outcome {
        let basis = worker.basis.clone();
        match action {
            Action::Create(creation) => self.create(worker, creation),
            Action::Retire { record, keeps, .. } => self.commit(record, keeps, &basis),
            Action::Accept { record, spec, before } => match worker.stage {
                0 => {
                    if self.store_fails() {
                        return Outcome::Failed("store");
                    }
                    let kept = before.iter().filter(|_| !self.has(Bug::RevisionsAreNotKept));
                    let kept: Vec<_> = kept.cloned().collect();
                    self.store.commit(true, |content| kept.iter().for_each(|it| content.keep(it)));
                    Outcome::Next
                }
                1 => {
                    if self.disk_fails() {
                        return Outcome::Failed("disk");
                    }
                    self.check_room(spec, Some(record.id));
                    if !self.has(Bug::AcceptKeepsOldSpecification) {
                        self.write_spec(record, spec);
                    }
                    Outcome::Next
                }
                _ => self.commit(record, &[], &basis),
            },
            Action::Record(record) => self.commit(record, &[], &basis),
            Action::NoteLoss(record) => {
                let outcome = if self.has(Bug::LossIsNotRecorded) {
                    Outcome::Done
                } else {
                    self.commit(record, &[], &basis)
                };
                if let (Outcome::Done, Some(agent)) = (&outcome, &mut self.agent) {
                    agent.views.remove(&record.id);
                    let retry_at = record.losses.retry_at.as_ref().map_or(0, |m| m.at.0);
                    self.oracle.losses.insert(record.id, retry_at);
                }
                outcome
            }
            Action::Start(id) => self.start(worker.stage, *id),
            Action::SetSpec { id, goal } => self.set_spec(*id, *goal),
            Action::Upgrade(id) => {
                let Some(pid) = self.connected(*id) else { return Outcome::Failed("no executor") };
                let build = self.agent.as_ref().map_or(0, |agent| agent.build);
                let what = ExecutorEvent::Upgrade { build };
                self.at(1, Event::Executor { pid, what });
                Outcome::Wait(Wait::Upgraded { id: *id })
            }
            Action::Kill(id) => self.kill(*id),
            Action::Release(id) => {
                let alive = self.executors.values().any(|executor| executor.pod == *id);
                self.check(!alive, || format!("{id} is released while its executor is there"));
                self.runtime.remove(id);
                Outcome::Done
            }
            Action::Destroy(id) => self.destroy(worker.stage, *id),
            Action::Forget { id, revisions_of } => self.forget(*id, revisions_of.as_ref(), &basis),
        }
    }

    fn forget(&mut self, id: PodId, revisions_of: Option<&PodName>, basis: &Basis) -> Outcome {
        if self.store_fails() {
            return Outcome::Failed("store");
        }
        self.check_forgotten(id);
        if revisions_of.is_some() {
            self.check_end(id, basis);
        }
        let synced = !self.has(Bug::StoreNotFlushed) || self.rng.chance(50);
        self.store.commit(synced, |content| {
            content.records.remove(&id);
            content.revisions.retain(|(name, _), _| Some(name) != revisions_of);
        });
        Outcome::Done
    }

    fn write_spec(&mut self, record: &PodRecord, spec: &Arc<PodSpec>) {
        // What a lost record is made from again is not its phase, nor its losses.
        let record =
            PodRecord { phase: RecordPhase::Active, losses: Losses::default(), ..record.clone() };
        let stored = StoredPod { record, spec: spec.clone(), revision: Revision::of(spec) };
        let id = stored.record.id;
        self.disk.write(Path::Spec(id), Body::Spec(Arc::new(stored)));
    }

    fn create(&mut self, worker: &mut Worker, creation: &Creation) -> Outcome {
        let Creation { source, spec, number, history, held, trial, eviction, is_first } = creation;
        if worker.stage == 0 {
            if self.disk_fails() {
                return Outcome::Failed("disk");
            }
            let bits = u128::from(self.rng.next()) << 64 | u128::from(self.rng.next());
            let id = PodId::from_random(bits);
            let fresh = self.oracle.ids.insert(id);
            self.check(fresh, || format!("{id} is used twice"));
            let stays = |record: &PodRecord| {
                !matches!(record.phase, RecordPhase::Destroying { .. }) || self.disk.has(record.id)
            };
            let mut records = self.store.now.records.values();
            let twin = records.any(|record| record.name == spec.name && stays(record));
            self.check(!twin, || format!("{} is created beside another instance", spec.name));
            worker.creates = Some(id);
            self.disk.write(Path::Directory(id), Body::Nothing);
            return Outcome::Next;
        }
        let id = worker.creates.expect("made in the first stage");
        let revision = Revision::of(spec);
        let wall = self.wall();
        let record = PodRecord {
            id,
            name: spec.name.clone(),
            source: source.clone(),
            accepted: Accepted {
                number: *number,
                digest: revision.digest(),
                shared: revision.shared,
                at: wall,
            },
            history: history.clone(),
            phase: RecordPhase::Active,
            created_at: wall,
            losses: Losses::default(),
            held: held.filter(|_| !self.has(Bug::RollBackIsForgotten)),
            trial: trial.clone(),
            successor: None,
            eviction: eviction.clone(),
        };
        // Of the first instance of a pod either may become durable first.
        let records_first = match worker.records_first {
            Some(chosen) => chosen,
            None => (*is_first || self.has(Bug::SuccessorIsRecordedFirst)) && self.rng.chance(50),
        };
        worker.records_first = Some(records_first);
        let last = worker.stage == 2;
        let outcome = if last == records_first {
            if self.disk_fails() {
                return Outcome::Failed("disk");
            }
            self.write_spec(&record, spec);
            Outcome::Done
        } else {
            self.record_creation(&record, spec, *is_first, &worker.basis.clone())
        };
        if !last && matches!(outcome, Outcome::Done) { Outcome::Next } else { outcome }
    }

    fn record_creation(
        &mut self,
        record: &PodRecord,
        spec: &Arc<PodSpec>,
        is_first: bool,
        basis: &Basis,
    ) -> Outcome {
        self.check_room(spec, None);
        self.check_succession(record, basis);
        let outcome = self.commit(record, &[], basis);
        if let (Outcome::Done, true) = (&outcome, is_first) {
            let synced = self.store.durable.records.contains_key(&record.id);
            self.store.commit(synced, |content| {
                content.revisions.retain(|(name, _), _| *name != spec.name);
            });
        }
        outcome
    }

    fn connected(&self, id: PodId) -> Option<u64> {
        match self.agent.as_ref()?.views.get(&id)? {
            View::Connected { pid, .. } => Some(*pid),
            View::Silent { .. } | View::Lost { .. } => None,
        }
    }

    fn start(&mut self, stage: u8, id: PodId) -> Outcome {
        let alive = self.executors.values().any(|executor| executor.pod == id);
        if stage == 0 {
            self.check(!alive, || format!("{id} is started while its executor is there"));
            if !self.has(Bug::StartBesideOldProcesses) {
                self.kill_all(id);
            }
            return Outcome::Next;
        }
        self.check(!alive, || format!("{id} is started twice"));
        let record = self.store.durable.records.get(&id).cloned();
        let active = record.as_ref().is_some_and(|record| record.phase == RecordPhase::Active);
        self.check(active, || format!("{id} is started, its durable record is {record:?}"));
        let retry_at = self.oracle.losses.get(&id).copied().unwrap_or(0);
        let now = self.boot_time().0;
        self.check(retry_at <= now, || format!("{id} is started at {now}, before {retry_at}"));
        let pid = self.spawn(id);
        let (since, delay) = (self.now, self.rng.between(1, 50));
        if let Some(agent) = &mut self.agent {
            agent.views.insert(id, View::Silent { pid, since });
            let what = ExecutorEvent::Connect { life: agent.life };
            self.at(delay, Event::Executor { pid, what });
        }
        Outcome::Wait(Wait::Started { id })
    }

    fn set_spec(&mut self, id: PodId, goal: Goal) -> Outcome {
        let Some(pid) = self.connected(id) else { return Outcome::Failed("no executor") };
        let Some(stored) = self.disk.pod(id).cloned() else { return Outcome::Failed("no spec") };
        let Some(record) = self.store.now.records.get(&id) else {
            return Outcome::Failed("no record");
        };
        let number = record.accepted.number;
        if let Goal::Stop { .. } = goal {
            let phase = self.store.durable.records.get(&id).map(|record| record.phase.clone());
            let due = !matches!(phase, Some(RecordPhase::Active) | None);
            self.check(due, || format!("{id} is told to stop, its durable phase is {phase:?}"));
        }
        let wanted = WantedPod { number, goal, spec: stored.spec.clone() };
        self.at(1, Event::Executor { pid, what: ExecutorEvent::Deliver(wanted) });
        Outcome::Wait(Wait::Told { id, number, goal })
    }

    fn kill(&mut self, id: PodId) -> Outcome {
        let view = self.agent.as_ref().and_then(|agent| agent.views.get(&id)).cloned();
        let lost = matches!(view, Some(View::Lost { .. }));
        let due = match self.store.durable.records.get(&id).map(|record| &record.phase) {
            Some(RecordPhase::Terminating { kill_at, .. }) => {
                kill_at.boot != self.boot_id() || kill_at.at <= self.boot_time()
            }
            Some(RecordPhase::Active | RecordPhase::Finished { .. }) | None => false,
            Some(RecordPhase::Destroying { .. }) => true,
        };
        self.check(lost || due, || format!("{id} is killed before it is due"));
        self.kill_all(id);
        if let (false, Some(agent)) = (lost, &mut self.agent) {
            agent.views.remove(&id);
        }
        Outcome::Done
    }

    fn destroy(&mut self, stage: u8, id: PodId) -> Outcome {
        match stage {
            0 => {
                let due = match self.store.durable.records.get(&id) {
                    Some(record) => matches!(record.phase, RecordPhase::Destroying { .. }),
                    None => self.disk.pod(id).is_none(),
                };
                self.check(due, || format!("{id} is destroyed, but that is not recorded"));
                self.kill_all(id);
                if let Some(agent) = &mut self.agent {
                    agent.views.remove(&id);
                }
                Outcome::Next
            }
            1 => {
                self.runtime.remove(&id);
                Outcome::Next
            }
            // First what makes it look like a pod that could be adopted, then the rest.
            2 => {
                self.disk.remove(|path| *path == Path::Spec(id));
                Outcome::Next
            }
            _ => {
                self.disk.remove(|path| path.pod() == id);
                Outcome::Done
            }
        }
    }
}
