//! The thread that owns the agent's store, and commits for everybody at once.
//!
//! ```text
//! worker ─► commit(batch) ─┐                                            ┌─► answer
//! worker ─► commit(batch) ─┼─► queue ─► all that is there: one commit ──┼─► answer
//! worker ─► commit(batch) ─┘                                            └─► answer
//!                                                                 then: settle
//! ```
//!
//! A commit costs one sync of the disk, however many batches are in it. A failure is the answer to
//! all that were in it; the thread goes on, and the next commit is tried. Not here: what to do
//! about a store that keeps failing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use std::time::Instant;

use super::record::KeptRevision;
use super::store::{BATCH_LEN_MAX, Change, Store, StoreError, check};
use crate::ids::PodName;
use crate::metrics::Metrics;

/// Batches that may wait; whoever comes later waits until there is room.
pub const QUEUE_LEN_MAX: usize = 256;
/// Commits after which the store is settled even if others wait.
const UNSETTLED_MAX: u32 = 16;

/// Commits to the store; clones share it.
#[derive(Debug, Clone)]
pub struct StoreHandle {
    queue: mpsc::Sender<Request>,
    healthy: Arc<AtomicBool>,
}

/// The thread. It ends when no [`StoreHandle`] is left and all that was queued is answered.
#[derive(Debug)]
pub struct WriterThread(JoinHandle<()>);

#[derive(Debug)]
enum Request {
    Commit { batch: Vec<Change>, answer: Answer<()> },
    Revisions { name: PodName, answer: Answer<Vec<KeptRevision>> },
}

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// Starts the thread.
///
/// # Errors
/// When there can't be another thread.
pub fn start(
    store: impl Store + 'static,
    metrics: Arc<Metrics>,
) -> std::io::Result<(StoreHandle, WriterThread)> {
    let (queue, requests) = mpsc::channel(QUEUE_LEN_MAX);
    let healthy = Arc::new(AtomicBool::new(true));
    let mut writer =
        Writer { store, requests, healthy: Arc::clone(&healthy), metrics, unsettled: 0 };
    let thread =
        std::thread::Builder::new().name("store".into()).spawn(move || while writer.serve() {})?;
    Ok((StoreHandle { queue, healthy }, WriterThread(thread)))
}

impl StoreHandle {
    /// Commits a batch; durable when it returns well. Two batches of which one was queued first
    /// are made in that order.
    ///
    /// Cancel-safe in that the batch is made as a whole or not at all; when the future is dropped
    /// before it is done, nobody knows which.
    ///
    /// # Errors
    /// As [`Store::commit`], and [`StoreError::Closed`].
    pub async fn commit(&self, batch: Vec<Change>) -> Result<(), StoreError> {
        // Before it is queued, so that a batch that is refused is not the failure of others.
        check(&batch)?;
        let (answer, answered) = oneshot::channel();
        let request = Request::Commit { batch, answer };
        self.queue.send(request).await.map_err(|_request| StoreError::Closed)?;
        answered.await.map_err(|_dropped| StoreError::Closed)?
    }

    /// The earlier revisions of a pod, oldest first, as they are after all that was queued before.
    ///
    /// # Errors
    /// As [`Store::revisions`], and [`StoreError::Closed`].
    pub async fn revisions(&self, name: PodName) -> Result<Vec<KeptRevision>, StoreError> {
        let (answer, answered) = oneshot::channel();
        let request = Request::Revisions { name, answer };
        self.queue.send(request).await.map_err(|_request| StoreError::Closed)?;
        answered.await.map_err(|_dropped| StoreError::Closed)?
    }

    /// Whether the last commit was made.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Acquire)
    }
}

impl WriterThread {
    /// Waits until the thread has ended: the store is closed then.
    pub fn join(self) {
        // It catches the panics of the store, and has none of its own to tell of.
        drop(self.0.join());
    }
}

struct Writer<S> {
    store: S,
    requests: mpsc::Receiver<Request>,
    healthy: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
    /// Commits since the store was settled.
    unsettled: u32,
}

impl<S: Store> Writer<S> {
    /// Waits for requests and serves all that are there; false when there will be none any more.
    fn serve(&mut self) -> bool {
        let Some(first) = self.requests.blocking_recv() else {
            return false;
        };
        match first {
            Request::Revisions { name, answer } => self.read_revisions(&name, answer),
            Request::Commit { batch, answer } => self.commit_with_others(batch, answer),
        }
        if self.unsettled > 0 && (self.requests.is_empty() || self.unsettled >= UNSETTLED_MAX) {
            self.settle();
        }
        true
    }

    /// Commits a batch and what else is waiting, as far as nobody wants to read in between.
    fn commit_with_others(&mut self, mut group: Vec<Change>, answer: Answer<()>) {
        let mut waiting = vec![answer];
        while let Ok(request) = self.requests.try_recv() {
            match request {
                Request::Commit { batch, answer } if group.len() + batch.len() <= BATCH_LEN_MAX => {
                    group.extend(batch);
                    waiting.push(answer);
                }
                Request::Commit { batch, answer } => {
                    self.commit(&group, waiting);
                    return self.commit(&batch, vec![answer]);
                }
                Request::Revisions { name, answer } => {
                    self.commit(&group, waiting);
                    return self.read_revisions(&name, answer);
                }
            }
        }
        self.commit(&group, waiting);
    }

    fn read_revisions(&mut self, name: &PodName, answer: Answer<Vec<KeptRevision>>) {
        // Who does not wait any more does not want to know.
        drop(answer.send(self.guarded("read", |store| store.revisions(name))));
    }

    fn commit(&mut self, group: &[Change], waiting: Vec<Answer<()>>) {
        let begun = Instant::now();
        let result = self.guarded("commit to", |store| store.commit(group));
        self.metrics.commits.observe(begun.elapsed());
        if result.is_err() {
            self.metrics.commit_failures.add_one();
        }
        self.healthy.store(result.is_ok(), Ordering::Release);
        for answer in waiting {
            // Who does not wait any more does not want to know.
            drop(answer.send(result.clone()));
        }
        self.unsettled += 1;
    }

    fn settle(&mut self) {
        self.unsettled = 0;
        if let Err(error) = self.guarded("settle", Store::settle) {
            // Nothing is lost by it, and it is tried again after the next commit.
            tracing::warn!(error = &error as &dyn std::error::Error, "can't settle the store");
        }
    }

    fn guarded<T>(
        &mut self,
        attempted: &'static str,
        call: impl FnOnce(&mut S) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        // Unwind safe: a store opens anew after a failure.
        catch_unwind(AssertUnwindSafe(|| call(&mut self.store))).unwrap_or_else(|_panic| {
            let why = "it panicked".into();
            Err(StoreError::Failed { attempted, path: "the store".into(), why })
        })
    }
}

#[cfg(test)]
mod tests;
