//! What survives: the disk of pod directories and the agent's store, both with what a power cut
//! takes away.

use std::collections::BTreeMap;
use std::sync::Arc;

use roost::ids::{ContainerName, PodId, PodName};
use roost::manifest::pod::PodSpec;
use roost::manifest::revision::{Hash, Revision};
use roost::state::record::{KeptRevision, LastRun, PodRecord, REVISIONS_MAX};

use crate::world::Rng;

/// A file (or the bare directory) of a pod instance.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Path {
    Directory(PodId),
    Spec(PodId),
    Attempt(PodId, ContainerName, u32),
    Exit(PodId, ContainerName, u32),
}

impl Path {
    pub(crate) fn pod(&self) -> PodId {
        match self {
            Self::Directory(id)
            | Self::Spec(id)
            | Self::Attempt(id, _, _)
            | Self::Exit(id, _, _) => *id,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    Nothing,
    /// The specification with what a lost record is made from again.
    Spec(Arc<StoredPod>),
    Attempt {
        hash: Hash,
        streak: u32,
    },
    Exit(LastRun),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredPod {
    pub(crate) record: PodRecord,
    pub(crate) spec: Arc<PodSpec>,
    pub(crate) revision: Revision,
}

/// Files, and which of them would be there after a power cut.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) current: BTreeMap<Path, Body>,
    pub(crate) durable: BTreeMap<Path, Body>,
}

impl Disk {
    pub(crate) fn write(&mut self, path: Path, body: Body) {
        self.durable.insert(path.clone(), body.clone());
        self.current.insert(path, body);
    }

    pub(crate) fn write_without_sync(&mut self, path: Path, body: Body) {
        self.current.insert(path, body);
    }

    pub(crate) fn remove(&mut self, matches: impl Fn(&Path) -> bool) {
        self.current.retain(|path, _| !matches(path));
        self.durable.retain(|path, _| !matches(path));
    }

    /// Removed, but a power cut may bring it back.
    pub(crate) fn remove_without_sync(&mut self, matches: impl Fn(&Path) -> bool) {
        self.current.retain(|path, _| !matches(path));
    }

    /// What was not made durable is there or not, as luck has it.
    pub(crate) fn power_cut(&mut self, rng: &mut Rng) {
        let mut paths: Vec<Path> =
            self.current.keys().chain(self.durable.keys()).cloned().collect();
        paths.sort();
        paths.dedup();
        for path in paths {
            let durable = self.durable.get(&path).cloned();
            if self.current.get(&path) == durable.as_ref() {
                continue;
            }
            if rng.chance(50) {
                match durable {
                    Some(body) => self.current.insert(path, body),
                    None => self.current.remove(&path),
                };
            }
        }
        self.durable = self.current.clone();
    }

    pub(crate) fn pod(&self, id: PodId) -> Option<&Arc<StoredPod>> {
        match self.current.get(&Path::Spec(id)) {
            Some(Body::Spec(stored)) => Some(stored),
            Some(Body::Nothing | Body::Attempt { .. } | Body::Exit(_)) | None => None,
        }
    }

    pub(crate) fn has(&self, id: PodId) -> bool {
        self.current.range(Path::Directory(id)..).next().is_some_and(|(p, _)| p.pod() == id)
            || self.current.keys().any(|path| path.pod() == id)
    }

    /// Every run of which there is a trace: container, attempt, its checkpoint, its exit.
    pub(crate) fn newest_attempts(
        &self,
        id: PodId,
    ) -> BTreeMap<ContainerName, (u32, Hash, u32, Option<LastRun>)> {
        let mut newest = BTreeMap::new();
        for (path, body) in &self.current {
            if let (Path::Attempt(pod, container, n), Body::Attempt { hash, streak }) = (path, body)
                && *pod == id
            {
                let exit = match self.current.get(&Path::Exit(id, container.clone(), *n)) {
                    Some(Body::Exit(run)) => Some(run.clone()),
                    Some(Body::Nothing | Body::Spec(_) | Body::Attempt { .. }) | None => None,
                };
                newest.insert(container.clone(), (*n, *hash, *streak, exit));
            }
        }
        newest
    }
}

/// The agent's store: every commit is atomic.
#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) now: Content,
    pub(crate) durable: Content,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) records: BTreeMap<PodId, PodRecord>,
    pub(crate) directories: BTreeMap<String, Vec<u8>>,
    pub(crate) revisions: BTreeMap<(PodName, u64), KeptRevision>,
}

impl Content {
    /// As the store does: the newest ones of a pod are kept.
    pub(crate) fn keep(&mut self, kept: &KeptRevision) {
        let name = &kept.name;
        self.revisions.insert((name.clone(), kept.accepted.number), kept.clone());
        let of_pod = || self.revisions.keys().filter(|(pod, _)| pod == name);
        if of_pod().count() > REVISIONS_MAX {
            let oldest = of_pod().next().cloned();
            oldest.and_then(|key| self.revisions.remove(&key));
        }
    }
}

impl Store {
    pub(crate) fn commit(&mut self, synced: bool, change: impl FnOnce(&mut Content)) {
        change(&mut self.now);
        if synced {
            self.durable = self.now.clone();
        }
    }

    pub(crate) fn power_cut(&mut self) {
        self.now = self.durable.clone();
    }

    pub(crate) fn lose(&mut self) {
        *self = Self::default();
    }
}
