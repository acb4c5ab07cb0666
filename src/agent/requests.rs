//! What is asked of the agent from outside, in its loop: the ends of [`Request`]s that need to know
//! what is wanted and what is there.
//!
//! What is asked of a pod is not done here: it becomes part of what the reconciler decides on, and
//! whoever asked is answered when the record says so. Not here: files (`put`), and what would be
//! done (`inspect`).

use std::path::Path;

use tokio::sync::oneshot;

use super::core::Core;
use super::events;
use super::inspect::Inspection;
use super::publish::Saved;
use super::put::{self, Place};
use super::service::{DeleteRefused, Done, Refused, Request};
use super::sessions::ToPod;
use super::worker::Update;
use crate::clock::{BootTime, WallTime};
use crate::ids::{PodId, PodName};
use crate::manifest::desired::DirectoryView;
use crate::manifest::revision::{Hash, Revision};
use crate::reconciler::pressure::{Pressure, Verdict};
use crate::reconciler::{Asked, Key, Now, Plan, Reason, StoredSpec, Wait, WaitReason, reconcile};
use crate::state::record::{
    Held, KeptRevision, ManifestFile, PodRecord, RecordPhase, TerminationCause,
};
use crate::state::store::{EventKind, EventRecord, StoreError};

/// Those that wait for the same thing to be done to one instance.
const ASKERS_MAX: usize = 64;

/// Who asked something of an instance.
pub(super) type Asker = oneshot::Sender<Result<Done, Refused>>;

/// Who asked for the earlier revisions of a pod.
type RevisionsAsker = oneshot::Sender<Result<Vec<KeptRevision>, String>>;

/// How far an instance is that is to be rolled back because it was not Ready in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retreat {
    /// The revision to go back to is being read.
    Reading,
    /// It is asked for (`ActualState::asked`).
    Asked,
}

/// Somebody wants a pod rolled back.
#[derive(Debug)]
pub(super) struct RollBackAsk {
    name: PodName,
    /// None: to the one before.
    to: Option<u64>,
    /// None: it was not Ready in time.
    asker: Option<Asker>,
}

impl Core {
    pub(super) fn answer(&mut self, request: Request) {
        // Whoever asked may have gone: that an answer is not taken is no fault.
        match request {
            Request::Delete { name, permit, answer } => {
                let found = self.file_to_delete(&name);
                // Not here: the manifests may be on a file system that hangs.
                tokio::task::spawn_blocking(move || {
                    let _held = permit;
                    let result = found.and_then(|source_file| remove_manifest(name, source_file));
                    let _gone = answer.send(result);
                });
            }
            Request::Put { new, permit, answer } => {
                let place = self.place();
                tokio::task::spawn_blocking(move || {
                    let _held = permit;
                    let _gone = answer.send(put::put(place, new));
                });
            }
            Request::Inspect { answer } => {
                let now = Now { boot: BootTime::now(), wall: WallTime::now() };
                let (desired, actual) = (self.desired().clone(), self.actual.clone());
                let directory = self.manifests.first().map(str::to_owned);
                let options = self.manifests.options();
                let faults = self.manifests.faults();
                let inspection = Inspection {
                    desired,
                    actual,
                    directory,
                    options,
                    faults,
                    shelves: self.manifests.shelves(),
                    library: self.manifests.library().clone(),
                    resolver: self.manifests.resolver().clone(),
                    now,
                };
                let _gone = answer.send(Box::new(inspection));
            }
            Request::ImagesInUse { answer } => {
                let _gone = answer.send(self.images_in_use());
            }
            Request::Way { pod, answer } => {
                let _gone = answer.send(self.links.get(&pod).map(|it| ToPod(it.handle.clone())));
            }
            Request::ImagesChanged => self.look_for_images(),
            Request::ImageFileFaulty { text } => {
                let (at, kind) = (WallTime::now(), EventKind::Warning);
                let event = EventRecord::once(at, None, kind, "ImageLoadFailed", &text);
                self.publisher.add_event(event, Saved::No);
            }
            Request::Revisions { name, answer } => self.tell_revisions(name, answer),
            Request::Restart { name, answer } => match self.instance_of(&name).map(|r| r.id) {
                Ok(id) => {
                    self.forget_images(&name);
                    self.ask(id, &name, Asked::Restart, answer);
                }
                Err(refused) => {
                    let _gone = answer.send(Err(refused));
                }
            },
            Request::Pressure(pressure) => self.set_pressure(pressure),
            Request::Evict { id, revision, verdict } => self.judge(id, revision, verdict),
            Request::Release { name, answer } => match self.instance_of(&name).and_then(held) {
                Ok(id) => self.ask(id, &name, Asked::Release, answer),
                Err(refused) => {
                    let _gone = answer.send(Err(refused));
                }
            },
            Request::RollBack { name, to, answer } => {
                self.read_revisions(RollBackAsk { name, to, asker: Some(answer) });
            }
        }
    }

    fn tell_revisions(&self, name: PodName, answer: RevisionsAsker) {
        let store = self.context.store.clone();
        tokio::spawn(async move {
            let found = store.revisions(name).await;
            let _gone = answer.send(found.map_err(|error| super::chain(&error)));
        });
    }

    fn read_revisions(&self, ask: RollBackAsk) {
        let context = self.context.clone();
        tokio::spawn(async move {
            let found = context.store.revisions(ask.name.clone()).await;
            context.tell(Update::RevisionsRead { ask, found }).await;
        });
    }

    /// Asks for the roll-backs that revisions on trial bring about, as long as the plan says so.
    pub(super) fn retreat(&mut self, plan: &Plan) {
        let (askers, asked) = (&self.askers, &mut self.actual.asked);
        self.retreats.retain(|id, retreat| {
            let stays = plan.retreats.contains_key(id);
            // What somebody asked for meanwhile stands.
            if !stays && *retreat == Retreat::Asked && !askers.contains_key(id) {
                asked.remove(id);
            }
            stays
        });
        for (id, back_to) in &plan.retreats {
            let name = self.actual.pods.get(id).and_then(|pod| pod.name()).cloned();
            let Some(name) = name.filter(|_| !self.retreats.contains_key(id)) else { continue };
            self.retreats.insert(*id, Retreat::Reading);
            self.read_revisions(RollBackAsk { name, to: Some(*back_to), asker: None });
        }
    }

    /// Where manifests are put.
    fn place(&self) -> Place {
        let directory = self.manifests.first().map(str::to_owned);
        let now = Now { boot: BootTime::now(), wall: WallTime::now() };
        let distrust = directory.as_ref().and_then(|name| {
            if self.desired().directories.get(name) == Some(&DirectoryView::Unread) {
                return Some(format!("manifest directory {name} was not read yet"));
            }
            let alarms = reconcile(self.desired(), &self.actual, now).alarms;
            alarms.iter().find(|alarm| alarm.directory == *name).map(ToString::to_string)
        });
        Place {
            directory,
            distrust,
            owners: put::owners(self.desired(), &self.actual),
            library: self.manifests.library().clone(),
            options: self.manifests.options(),
        }
    }

    /// The earlier revisions are known now.
    pub(super) fn roll_back(
        &mut self,
        ask: RollBackAsk,
        found: Result<Vec<KeptRevision>, StoreError>,
    ) {
        let RollBackAsk { name, to, asker } = ask;
        let found = found.map_err(|error| Refused::Failed(super::chain(&error)));
        let chosen = self.instance_of(&name).and_then(|record| {
            let (number, stored) = choose_revision(record, to, &found?)?;
            let refused = self.asks_for(record);
            Ok((record.id, Asked::RollBack { to: number, stored, refused }))
        });
        match (chosen, asker) {
            (Ok((id, asked)), Some(asker)) => self.ask(id, &name, asked, asker),
            (Err(refused), Some(asker)) => {
                let _gone = asker.send(Err(refused));
            }
            (Ok((id, asked)), None) => self.begin_retreat(id, asked),
            // A store that can't be read says nothing of what is in it; whoever starts next asks again.
            (Err(Refused::Failed(why)), None) => {
                tracing::warn!(pod = %name, why, "can't be rolled back");
            }
            (Err(refused @ (Refused::NotFound(_) | Refused::Conflict(_))), None) => {
                tracing::warn!(pod = %name, %refused, "can't be rolled back");
                if let Ok(id) = self.instance_of(&name).map(|record| record.id) {
                    self.begin_retreat(id, Asked::Persist);
                }
            }
        }
    }

    /// What is to become of a revision that was not Ready in time is known now.
    fn begin_retreat(&mut self, id: PodId, asked: Asked) {
        let reading = self.retreats.get_mut(&id).filter(|it| **it == Retreat::Reading);
        let Some(reading) = reading.filter(|_| !self.actual.asked.contains_key(&id)) else {
            return;
        };
        *reading = Retreat::Asked;
        if let (Asked::RollBack { to, .. }, Some(pod)) = (&asked, self.actual.pods.get(&id))
            && let Some(record) = &pod.record
        {
            let after = pod.spec.as_ref().and_then(|stored| stored.spec.rollback_after);
            let after = after.map(|after| format!(" within {after}")).unwrap_or_default();
            let number = record.accepted.number;
            let text = format!("revision {number} was not Ready{after}: back to revision {to}");
            let (at, kind) = (WallTime::now(), EventKind::Warning);
            let event = events::about(record, at, kind, "UpdateFailed", &text);
            self.publisher.add_event(event, Saved::No);
        }
        self.actual.asked.insert(id, asked);
    }

    fn ask(&mut self, id: PodId, name: &PodName, asked: Asked, asker: Asker) {
        let waiting = self.askers.entry(id).or_default();
        waiting.retain(|asker| !asker.is_closed());
        // What nobody waits for any more gives way, or a request that can't be fulfilled would
        // shut everybody else out.
        let is_other = self.actual.asked.get(&id).is_some_and(|pending| *pending != asked);
        if is_other && !waiting.is_empty() || waiting.len() >= ASKERS_MAX {
            let why = format!("something else is asked of pod {name}, and not done yet");
            let _gone = asker.send(Err(Refused::Conflict(why)));
            return;
        }
        waiting.push(asker);
        self.actual.asked.insert(id, asked);
        self.release(&Key::Pod(name.clone()));
    }

    /// What the manifest of an instance asks for, as far as it can be read.
    fn asks_for(&self, record: &PodRecord) -> Hash {
        let mut claims = self.desired().claims.get(&record.name).into_iter().flatten();
        let own = claims.find(|claim| claim.source == record.source);
        own.map_or_else(
            || record.held.map_or(record.accepted.digest, |held| held.refused),
            |claim| claim.revision.digest(),
        )
    }

    /// The instance of a pod that shall run or is through.
    fn instance_of(&self, name: &PodName) -> Result<&PodRecord, Refused> {
        let records = || self.actual.pods.values().filter_map(|pod| pod.record.as_ref());
        let mut of_pod = records().filter(|record| record.name == *name);
        let stays = |record: &&PodRecord| match record.phase {
            RecordPhase::Active | RecordPhase::Finished { .. } => true,
            RecordPhase::Terminating { .. } | RecordPhase::Destroying { .. } => false,
        };
        if let Some(record) = of_pod.clone().find(stays) {
            return Ok(record);
        }
        Err(if of_pod.next().is_some() {
            Refused::Conflict(format!("pod {name} is ending"))
        } else if self.desired().claims.contains_key(name) {
            Refused::Conflict(format!("pod {name} has not been started yet"))
        } else {
            Refused::NotFound(name.clone())
        })
    }

    /// A record became durable: perhaps somebody waits for that.
    pub(super) fn answer_askers(&mut self, record: &PodRecord) {
        let message = match (self.actual.asked.get(&record.id), &record.phase) {
            (Some(Asked::Restart), RecordPhase::Terminating { cause, .. }) => match cause {
                TerminationCause::Restarted | TerminationCause::Replaced => {
                    format!("pod {} is restarted", record.name)
                }
                TerminationCause::Removed
                | TerminationCause::Orphaned
                | TerminationCause::Evicted => return,
            },
            (Some(Asked::RollBack { to, .. }), _)
                if record.held.is_some_and(|held| held.to == *to) =>
            {
                let file = &record.source;
                format!("pod {} is rolled back to revision {to} until {file} changes", record.name)
            }
            (Some(Asked::Release), _) if record.held.is_none() => {
                format!("pod {} follows {} again", record.name, record.source)
            }
            (Some(_) | None, _) => return,
        };
        let number = record.successor.as_ref().unwrap_or(&record.accepted).number;
        self.end_asking(record.id, &Ok(Done { message, number }));
    }

    /// A step for a pod failed; it is tried again, so what was asked stands.
    pub(super) fn tell_askers(&mut self, key: &Key, error: &str) {
        let Key::Pod(name) = key else { return };
        let is_of_pod = |id: &PodId| self.actual.pods.get(id).and_then(|p| p.name()) == Some(name);
        let ids: Vec<PodId> = self.askers.keys().copied().filter(is_of_pod).collect();
        for id in ids {
            let refused = Refused::Failed(format!("{error}; it will be tried again"));
            for asker in self.askers.remove(&id).unwrap_or_default() {
                let _gone = asker.send(Err(refused.clone()));
            }
        }
    }

    /// What was asked of an instance, and is neither under way nor planned, can't be done.
    pub(super) fn refuse_what_is_not_planned(&mut self, plan: &Plan) {
        let ids: Vec<PodId> = self.actual.asked.keys().copied().collect();
        for id in ids {
            // Asked by the plan itself, which says as well when that ends.
            if self.retreats.get(&id) == Some(&Retreat::Asked) {
                continue;
            }
            let Some(name) = self.actual.pods.get(&id).and_then(|pod| pod.name()).cloned() else {
                self.end_asking(id, &Err(Refused::Conflict("the pod is gone".to_owned())));
                continue;
            };
            let key = Key::Pod(name);
            let steps = plan.work.get(&key).into_iter().flatten();
            let mut planned = steps.filter(|step| {
                matches!(
                    step.reason,
                    Reason::RolledBack(_)
                        | Reason::Released
                        | Reason::Terminated(TerminationCause::Restarted)
                )
            });
            if self.is_working(&key) || planned.next().is_some() {
                continue;
            }
            let Key::Pod(name) = key else { continue };
            let why = match plan.waits.get(&name) {
                // It is being looked for, and then it can be.
                Some(Wait { reason: WaitReason::Images { .. }, .. }) => continue,
                Some(wait) => format!("pod {name} can't be started again: it {}", wait.why),
                None => format!(
                    "pod {name} is ending, its specification is lost, or its manifest has changed"
                ),
            };
            self.end_asking(id, &Err(Refused::Conflict(why)));
        }
    }

    fn end_asking(&mut self, id: PodId, answer: &Result<Done, Refused>) {
        self.actual.asked.remove(&id);
        for asker in self.askers.remove(&id).unwrap_or_default() {
            let _gone = asker.send(answer.clone());
        }
    }

    fn file_to_delete(&self, name: &PodName) -> Result<ManifestFile, DeleteRefused> {
        let record = self.actual.pods.values().filter_map(|pod| pod.record.as_ref());
        let owned = record.filter(|record| record.name == *name).map(|record| &record.source);
        let claimed = self.desired().claims.get(name).into_iter().flatten().map(|c| &c.source);
        let source_file = owned
            .chain(claimed)
            .find(|source| !source.file.is_empty())
            .cloned()
            .ok_or_else(|| DeleteRefused::NotFound(name.clone()))?;
        if !self.manifests.is_alone(&source_file) {
            return Err(DeleteRefused::SharedFile { name: name.clone(), source_file });
        }
        Ok(source_file)
    }

    /// An instance is to be evicted, if it is still that revision and not going anyway.
    fn judge(&mut self, id: PodId, revision: u64, verdict: Verdict) {
        let record = self.actual.pods.get(&id).and_then(|pod| pod.record.as_ref());
        let counts = |record: &PodRecord| {
            record.phase == RecordPhase::Active && record.accepted.number == revision
        };
        if record.is_some_and(counts) {
            self.actual.verdicts.insert(id, verdict);
        }
    }

    /// What the node runs out of is known.
    fn set_pressure(&mut self, pressure: Pressure) {
        self.publisher.set_pressure(&pressure, WallTime::now());
        // Nobody goes for what there is enough of by now.
        self.actual.verdicts.retain(|_, verdict| pressure.stands(verdict.cause));
        self.actual.pressure = pressure;
    }
}

/// The instance, if it was rolled back.
fn held(record: &PodRecord) -> Result<PodId, Refused> {
    let PodRecord { id, name, source, held, .. } = record;
    let why = || format!("pod {name} is not held at an earlier revision: it follows {source}");
    held.map(|_| *id).ok_or_else(|| Refused::Conflict(why()))
}

/// The revision to go back to: the wanted one, or the newest before the present one that is
/// something else. Of a pod that was rolled back, before the one it was rolled back to.
fn choose_revision(
    record: &PodRecord,
    to: Option<u64>,
    kept: &[KeptRevision],
) -> Result<(u64, StoredSpec), Refused> {
    let PodRecord { name, accepted, held, .. } = record;
    let is_other = |revision: &&KeptRevision| revision.accepted.digest != accepted.digest;
    let chosen = match to {
        Some(to) => kept.iter().find(|revision| revision.accepted.number == to),
        None => {
            let below = held.map_or(accepted.number, |held| held.to);
            kept.iter().rev().filter(is_other).find(|it| it.accepted.number < below)
        }
    };
    let refuse = |why: String| Err(Refused::Conflict(why));
    let Some(chosen) = chosen else {
        let numbers: Vec<String> = kept.iter().map(|it| it.accepted.number.to_string()).collect();
        let numbers = numbers.join(", ");
        return refuse(match (to, held) {
            _ if kept.is_empty() => format!("no earlier revision of pod {name} is kept"),
            (Some(to), _) => format!("revision {to} of pod {name} is not kept: {numbers} are"),
            (None, Some(Held { to, .. })) => format!(
                "pod {name} is rolled back to revision {to}, and there is none before it: say which \
                 of {numbers} it shall be"
            ),
            (None, None) => format!("no earlier revision of pod {name} is kept"),
        });
    };
    let number = chosen.accepted.number;
    if !is_other(&chosen) {
        return refuse(format!("pod {name} is what revision {number} was"));
    }
    let Some(spec) = &chosen.spec else {
        return refuse(format!("revision {number} of pod {name} was kept by another version"));
    };
    let stored = StoredSpec { spec: spec.clone(), revision: Revision::of(spec) };
    Ok((number, stored))
}

fn remove_manifest(
    name: PodName,
    source_file: ManifestFile,
) -> Result<ManifestFile, DeleteRefused> {
    let path = Path::new(&source_file.directory).join(&source_file.file);
    match std::fs::remove_file(&path) {
        Ok(()) => Ok(source_file),
        Err(error) => Err(DeleteRefused::NotRemoved { name, source_file, why: error.to_string() }),
    }
}
