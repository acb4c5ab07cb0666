//! One piece of work for everybody who waits for it, cancelled when nobody does any more.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::watch;
use tokio::task::AbortHandle;

/// The work that goes on, by what it is for.
pub(super) struct Flights<K, V> {
    going: Arc<Mutex<Going<K, V>>>,
}

type Going<K, V> = HashMap<K, Weak<Flight<V>>>;

/// Held by each who waits. The last one to drop it ends the work.
struct Flight<V> {
    result: watch::Receiver<Option<V>>,
    work: AbortHandle,
}

/// What came of it.
pub(super) struct Landed<V> {
    /// None if the work was torn down with its runtime, or panicked.
    pub(super) value: Option<V>,
    /// Whether this caller had begun it.
    pub(super) begun: bool,
}

impl<K, V> Default for Flights<K, V> {
    fn default() -> Self {
        Self { going: Arc::default() }
    }
}

impl<K, V> fmt::Debug for Flights<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flights({})", lock(&self.going).len())
    }
}

impl<V> Drop for Flight<V> {
    fn drop(&mut self) {
        self.work.abort();
    }
}

impl<K, V> Flights<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Waits for the work that is for `key`; begins it if nobody has.
    ///
    /// Cancel-safe: dropped, others go on waiting.
    pub(super) async fn join<F>(&self, key: K, work: impl FnOnce() -> F) -> Landed<V>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let (flight, begun) = self.board(key, work);
        let mut result = flight.result.clone();
        let value = match result.wait_for(Option::is_some).await {
            Ok(value) => (*value).clone(),
            Err(_) => None,
        };
        Landed { value, begun }
    }

    fn board<F>(&self, key: K, work: impl FnOnce() -> F) -> (Arc<Flight<V>>, bool)
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut going = lock(&self.going);
        going.retain(|_, flight| flight.strong_count() > 0);
        if let Some(flight) = going.get(&key).and_then(Weak::upgrade) {
            return (flight, false);
        }
        let (done, result) = watch::channel(None);
        let (work, others, own) = (work(), Arc::clone(&self.going), key.clone());
        let task = tokio::spawn(async move {
            let value = work.await;
            // Who comes from now on wants it done anew.
            lock(&others).remove(&own);
            done.send(Some(value)).unwrap_or_default();
        });
        let flight = Arc::new(Flight { result, work: task.abort_handle() });
        going.insert(key, Arc::downgrade(&flight));
        (flight, true)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn many_wait_for_one() {
        let flights: Flights<&str, u32> = Flights::default();
        let (runs, go) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
        let work = || {
            let (runs, go) = (Arc::clone(&runs), Arc::clone(&go));
            move || async move {
                go.notified().await;
                runs.fetch_add(1, Ordering::SeqCst)
            }
        };
        let both = async { tokio::join!(flights.join("a", work()), flights.join("a", work())) };
        let ((first, second), ()) = tokio::join!(both, async { go.notify_one() });
        assert_eq!((first.value, second.value), (Some(0), Some(0)));
        assert!(first.begun && !second.begun);
        go.notify_one();
        assert_eq!(flights.join("a", work()).await.value, Some(1), "the next time it is done anew");
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_is_ended() {
        struct Told(Option<tokio::sync::oneshot::Sender<()>>);
        impl Drop for Told {
            fn drop(&mut self) {
                self.0.take().map(|told| told.send(()));
            }
        }
        let flights: Flights<u8, ()> = Flights::default();
        let (told, ended) = tokio::sync::oneshot::channel();
        let told = Told(Some(told));
        let mut first = Box::pin(flights.join(1, || async move {
            let _told = told;
            std::future::pending::<()>().await;
        }));
        let mut second = Box::pin(flights.join(1, || async {}));
        tokio::select! { biased; _ = &mut first => {}, _ = &mut second => {}, () = async {} => {} }
        drop(first);
        let mut ended = ended;
        tokio::task::yield_now().await;
        ended.try_recv().unwrap_err();
        drop(second);
        ended.await.unwrap();
    }
}
