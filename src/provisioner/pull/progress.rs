//! How far each pull is, for whoever looks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::provisioner::reference::ImageSource;

/// What a pull is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPhase {
    /// The manifest and the configuration are asked for.
    Resolving,
    /// Layers are fetched and unpacked.
    Layers,
    /// The image and its names are made durable.
    Finishing,
}

/// How far a pull is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullProgress {
    /// What is pulled.
    pub source: ImageSource,
    /// What it is doing.
    pub phase: PullPhase,
    /// Layers that are here, of `layers_total`; both 0 while they are unknown.
    pub layers_done: u32,
    /// All its layers.
    pub layers_total: u32,
    /// Bytes fetched or found here, of `bytes_total`.
    pub bytes_done: u64,
    /// All bytes of its layers, as they are transferred.
    pub bytes_total: u64,
}

/// All pulls that go on.
#[derive(Debug, Clone, Default)]
pub(super) struct Board {
    pulls: Arc<Mutex<BTreeMap<u64, Arc<Counts>>>>,
    next: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Counts {
    source: ImageSource,
    finishing: AtomicBool,
    layers_done: AtomicU32,
    layers_total: AtomicU32,
    bytes_done: AtomicU64,
    bytes_total: AtomicU64,
    fetched: AtomicU64,
}

/// One pull; it is on the board until this is dropped.
#[derive(Debug)]
pub(super) struct Tracker {
    board: Board,
    id: u64,
    counts: Arc<Counts>,
}

impl Board {
    pub(super) fn begin(&self, source: &ImageSource) -> Arc<Tracker> {
        let counts = Arc::new(Counts {
            source: source.clone(),
            finishing: AtomicBool::new(false),
            layers_done: AtomicU32::new(0),
            layers_total: AtomicU32::new(0),
            bytes_done: AtomicU64::new(0),
            bytes_total: AtomicU64::new(0),
            fetched: AtomicU64::new(0),
        });
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut pulls = self.pulls.lock().unwrap_or_else(PoisonError::into_inner);
        pulls.insert(id, Arc::clone(&counts));
        drop(pulls);
        Arc::new(Tracker { board: self.clone(), id, counts })
    }

    pub(super) fn all(&self) -> Vec<PullProgress> {
        let pulls = self.pulls.lock().unwrap_or_else(PoisonError::into_inner);
        pulls.values().map(|counts| counts.read()).collect()
    }
}

impl Counts {
    fn read(&self) -> PullProgress {
        let layers_total = self.layers_total.load(Ordering::Relaxed);
        let bytes_total = self.bytes_total.load(Ordering::Relaxed);
        let phase = if self.finishing.load(Ordering::Relaxed) {
            PullPhase::Finishing
        } else if bytes_total == 0 {
            PullPhase::Resolving
        } else {
            PullPhase::Layers
        };
        PullProgress {
            source: self.source.clone(),
            phase,
            layers_done: self.layers_done.load(Ordering::Relaxed).min(layers_total),
            layers_total,
            // A download that began anew has counted some bytes twice.
            bytes_done: self.bytes_done.load(Ordering::Relaxed).min(bytes_total),
            bytes_total,
        }
    }
}

impl Tracker {
    /// The layers are known: how many, and how many bytes.
    pub(super) fn layers(&self, count: usize, bytes: u64) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.counts.layers_total.store(count, Ordering::Relaxed);
        self.counts.bytes_total.store(bytes, Ordering::Relaxed);
    }

    /// Bytes came.
    pub(super) fn came(&self, bytes: u64) {
        self.counts.fetched.fetch_add(bytes, Ordering::Relaxed);
        self.here(bytes);
    }

    /// Bytes need not come.
    pub(super) fn here(&self, bytes: u64) {
        self.counts.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A layer is unpacked.
    pub(super) fn layer_done(&self) {
        self.counts.layers_done.fetch_add(1, Ordering::Relaxed);
    }

    /// All layers are.
    pub(super) fn finishing(&self) {
        self.counts.finishing.store(true, Ordering::Relaxed);
    }

    /// Bytes that came.
    pub(super) fn fetched(&self) -> u64 {
        self.counts.fetched.load(Ordering::Relaxed)
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        let mut pulls = self.board.pulls.lock().unwrap_or_else(PoisonError::into_inner);
        pulls.remove(&self.id);
    }
}
