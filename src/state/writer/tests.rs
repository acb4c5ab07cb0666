use std::sync::mpsc as blocking;
use std::task::Poll;

use super::*;
use crate::state::samples;
use crate::state::store::{Contents, FailingStore, MemoryStore, open_or_rebuild};

fn put(n: u32) -> Vec<Change> {
    vec![Change::PutPod(samples::record(n))]
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

/// A store that tells of each commit, and waits for leave.
struct GatedStore {
    started: blocking::Sender<usize>,
    leave: blocking::Receiver<()>,
}

impl Store for GatedStore {
    fn revisions(&mut self, _: &PodName) -> Result<Vec<KeptRevision>, StoreError> {
        Ok(Vec::new())
    }

    fn load(&mut self) -> Result<Contents, StoreError> {
        Ok(Contents::default())
    }

    fn commit(&mut self, batch: &[Change]) -> Result<(), StoreError> {
        self.started.send(batch.len()).unwrap();
        self.leave.recv().unwrap();
        Ok(())
    }
}

#[test]
fn what_waits_while_a_commit_is_made_is_one_commit_together() {
    let (started_tx, started) = blocking::channel();
    let (leave, leave_rx) = blocking::channel();
    let (handle, thread) =
        start(GatedStore { started: started_tx, leave: leave_rx }, Arc::default()).unwrap();
    runtime().block_on(async {
        let mut first = Box::pin(handle.commit(put(0)));
        assert!(futures_poll(first.as_mut()).await.is_pending());
        assert_eq!(started.recv().unwrap(), 1);
        let mut others: Vec<_> = (1..=20).map(|n| Box::pin(handle.commit(put(n)))).collect();
        for other in &mut others {
            assert!(futures_poll(other.as_mut()).await.is_pending());
        }
        leave.send(()).unwrap();
        first.await.unwrap();
        leave.send(()).unwrap();
        for other in others {
            other.await.unwrap();
        }
        assert_eq!(started.recv().unwrap(), 20);
    });
    drop(handle);
    thread.join();
}

/// Polls once.
async fn futures_poll<F: Future>(mut future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}

#[test]
fn a_failure_is_answered_and_the_next_commit_is_tried() {
    let (store, fails) = FailingStore::on_demand(MemoryStore::default());
    let (handle, thread) = start(store, Arc::default()).unwrap();
    runtime().block_on(async {
        handle.commit(put(1)).await.unwrap();
        assert!(handle.is_healthy());
        fails.store(true, Ordering::SeqCst);
        assert!(matches!(handle.commit(put(2)).await, Err(StoreError::Io { .. })));
        assert!(!handle.is_healthy());
        fails.store(false, Ordering::SeqCst);
        handle.commit(put(3)).await.unwrap();
        assert!(handle.is_healthy());
    });
    drop(handle);
    thread.join();
}

/// A store that panics once.
struct PanickyStore(bool);

impl Store for PanickyStore {
    fn revisions(&mut self, _: &PodName) -> Result<Vec<KeptRevision>, StoreError> {
        Ok(Vec::new())
    }

    fn load(&mut self) -> Result<Contents, StoreError> {
        Ok(Contents::default())
    }

    fn commit(&mut self, _batch: &[Change]) -> Result<(), StoreError> {
        let first = std::mem::replace(&mut self.0, false);
        assert!(!first, "as ordered");
        Ok(())
    }
}

#[test]
fn a_panic_of_the_store_does_not_end_the_thread() {
    let (handle, thread) = start(PanickyStore(true), Arc::default()).unwrap();
    runtime().block_on(async {
        assert!(matches!(handle.commit(put(1)).await, Err(StoreError::Failed { .. })));
        handle.commit(put(1)).await.unwrap();
    });
    drop(handle);
    thread.join();
}

#[test]
fn a_refused_batch_is_nobody_elses_failure() {
    let (handle, thread) = start(MemoryStore::default(), Arc::default()).unwrap();
    let mut long = samples::record(1);
    long.source.file = "x".repeat(100_000);
    runtime().block_on(async {
        let refused = handle.commit(vec![Change::PutPod(long)]).await;
        assert!(matches!(refused, Err(StoreError::Refused { .. })));
        assert!(handle.is_healthy());
    });
    drop(handle);
    thread.join();
}

#[test]
fn everything_answered_is_in_the_store_and_the_side_file_follows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let (store, _) = open_or_rebuild(&path).unwrap();
    let (handle, thread) = start(store, Arc::default()).unwrap();
    runtime().block_on(async {
        let mut all: Vec<_> = (0..100).map(|n| Box::pin(handle.commit(put(n)))).collect();
        for one in &mut all {
            assert!(futures_poll(one.as_mut()).await.is_pending());
        }
        for one in all {
            one.await.unwrap();
        }
    });
    drop(handle);
    thread.join();
    let (mut store, _) = open_or_rebuild(&path).unwrap();
    let contents = store.load().unwrap();
    assert_eq!(contents.pods.len(), 100);
    assert!(contents.sequence < 100, "{} commits for 100 batches", contents.sequence);
    drop(store);
    // Without the store, the side file tells what it had reached.
    std::fs::remove_dir_all(&path).unwrap();
    let (_, opening) = open_or_rebuild(&path).unwrap();
    let told = format!("has reached commit {}", contents.sequence);
    assert!(format!("{opening:?}").contains(&told), "{opening:?}");
}

#[test]
fn a_commit_after_the_end_of_the_thread_says_so() {
    let (queue, requests) = mpsc::channel(1);
    drop(requests);
    let handle = StoreHandle { queue, healthy: Arc::new(AtomicBool::new(true)) };
    let closed = runtime().block_on(handle.commit(put(1)));
    assert!(matches!(closed, Err(StoreError::Closed)));
}
