//! [`Metrics`]: what the agent counts about itself while it works.
//!
//! Counting costs next to nothing: a counter is one atomic addition, a histogram three and a
//! search among a dozen bounds. Only what happens rarely next to what it stands for (a step of a
//! worker, a request, a kill) takes a lock, and that for the look-up of one key. Nothing is
//! computed before somebody asks, and what can be read off elsewhere (pods, cgroups, files) is not
//! counted here at all. One value for an agent, handed to whoever counts; no global one, so that
//! tests do not see each other.
//!
//! Not here: what it looks like on the wire (`api`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::ids::{ContainerName, PodId};
use crate::state::record::EvictionCause;

/// Upper bounds of what takes microseconds to milliseconds.
const QUICK: &[Duration] =
    &micros([20, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 250_000, 1_000_000]);
/// Upper bounds of what waits for a disk or a client.
const SLOW: &[Duration] = &micros([
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000,
    30_000_000,
]);
/// Upper bounds of how long a pod takes to run.
const START: &[Duration] = &micros([
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    10_000_000,
    30_000_000,
    120_000_000,
]);

const fn micros<const N: usize>(bounds: [u64; N]) -> [Duration; N] {
    let mut found = [Duration::ZERO; N];
    let mut i = 0;
    while i < N {
        found[i] = Duration::from_micros(bounds[i]);
        i += 1;
    }
    found
}

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    /// Decisions of the reconciler: how many, and how long each took.
    pub reconciles: Histogram,
    /// Steps of workers, by action.
    pub steps: Labelled<&'static str, Step>,
    /// From the sight of a new pod's manifest until all its containers had been started.
    pub starts: Histogram,
    /// Runs of containers that ended because memory ran out.
    pub out_of_memory: Labelled<(PodId, ContainerName), Counter>,
    /// Evictions of pods, by what for.
    pub evictions: Labelled<EvictionCause, Counter>,
    /// Commits of the store: how many, and how long each took.
    pub commits: Histogram,
    /// Those that failed.
    pub commit_failures: Counter,
    /// Looks of the watcher at a manifest directory.
    pub watcher: Arc<WatcherMetrics>,
    /// Requests to the API.
    pub requests: Labelled<RequestKey, Counter>,
    /// Until the head of the answer was there, by path.
    pub request_seconds: Labelled<String, Histogram>,
}

/// What the watcher of manifests counts.
#[derive(Debug, Default)]
pub struct WatcherMetrics {
    /// Times at which all directories were looked at although nothing told of a change.
    pub relists: Counter,
    /// Times at which the kernel told of a change.
    pub hints: Counter,
}

/// What is counted of an action.
#[derive(Debug, Default)]
pub struct Step {
    /// All of them.
    pub all: Counter,
    /// Those that failed.
    pub failed: Counter,
}

/// What requests are told apart by; each part has few values.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestKey {
    /// The path with placeholders.
    pub path: String,
    /// The method.
    pub method: &'static str,
    /// The status of the answer.
    pub code: u16,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            reconciles: Histogram::new(QUICK),
            steps: Labelled::default(),
            starts: Histogram::new(START),
            out_of_memory: Labelled::default(),
            evictions: Labelled::default(),
            commits: Histogram::new(SLOW),
            commit_failures: Counter::default(),
            watcher: Arc::default(),
            requests: Labelled::default(),
            request_seconds: Labelled::default(),
        }
    }
}

impl Metrics {
    /// The histogram of a class of paths.
    #[must_use]
    pub fn request_seconds_of(&self, path: &str) -> Arc<Histogram> {
        self.request_seconds.get_or_insert_with(path, str::to_owned, || Histogram::new(SLOW))
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn add_one(&self) {
        // Nothing is ordered by it.
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How long something took, by classes.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [Duration],
    /// One for each bound, and one for what is beyond the last.
    classes: Box<[Counter]>,
    nanos: AtomicU64,
}

/// A histogram at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramView {
    /// Upper bounds in seconds, and how many were at most that.
    pub classes: Vec<(f64, u64)>,
    /// How many there were.
    pub count: u64,
    /// All of them together, in seconds.
    pub sum: f64,
}

impl Histogram {
    fn new(bounds: &'static [Duration]) -> Self {
        let classes = (0..=bounds.len()).map(|_| Counter::default()).collect();
        Self { bounds, classes, nanos: AtomicU64::new(0) }
    }

    /// Something took this long.
    pub fn observe(&self, took: Duration) {
        let class = self.bounds.partition_point(|bound| *bound < took);
        self.classes[class].add_one();
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// As it is now. What is being observed meanwhile may be in one part and not in another.
    #[must_use]
    pub fn view(&self) -> HistogramView {
        let mut count = 0;
        let mut classes = Vec::with_capacity(self.bounds.len());
        for (bound, class) in self.bounds.iter().zip(&self.classes) {
            count += class.get();
            classes.push((bound.as_secs_f64(), count));
        }
        count += self.classes.last().map_or(0, Counter::get);
        let sum = Duration::from_nanos(self.nanos.load(Ordering::Relaxed)).as_secs_f64();
        HistogramView { classes, count, sum }
    }
}

/// Several of a kind, by key. Whoever adds keys sees to it that they are few.
#[derive(Debug)]
pub struct Labelled<K, V>(Mutex<BTreeMap<K, Arc<V>>>);

impl<K, V> Default for Labelled<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord + Clone, V> Labelled<K, V> {
    /// The one of that key, new at the first time.
    pub fn get(&self, key: K) -> Arc<V>
    where
        V: Default,
    {
        self.lock().entry(key).or_default().clone()
    }

    fn get_or_insert_with<Q: Ord + ?Sized>(
        &self,
        key: &Q,
        owned: impl FnOnce(&Q) -> K,
        new: impl FnOnce() -> V,
    ) -> Arc<V>
    where
        K: std::borrow::Borrow<Q>,
    {
        let mut all = self.lock();
        if let Some(found) = all.get(key) {
            return found.clone();
        }
        let added = Arc::new(new());
        all.insert(owned(key), added.clone());
        added
    }

    /// All of them, by key.
    #[must_use]
    pub fn all(&self) -> Vec<(K, Arc<V>)> {
        self.lock().iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Drops those whose key is not wanted any more.
    pub fn retain(&self, mut wanted: impl FnMut(&K) -> bool) {
        self.lock().retain(|key, _| wanted(key));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<K, Arc<V>>> {
        // The map is whole after each statement, whoever panicked meanwhile.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_what_is_at_most_each_bound() {
        let histogram = Histogram::new(&const { micros([10, 100]) });
        for took in [5, 10, 11, 100, 5000] {
            histogram.observe(Duration::from_micros(took));
        }
        let HistogramView { classes, count, sum } = histogram.view();
        let counts: Vec<u64> = classes.iter().map(|(_, count)| *count).collect();
        assert_eq!((counts, count), (vec![2, 4], 5));
        assert!((sum - 0.005_126).abs() < 1e-9, "{sum}");
    }

    #[test]
    fn keys_are_made_once_and_dropped_when_nobody_wants_them() {
        let steps: Labelled<&str, Counter> = Labelled::default();
        for key in ["a", "b", "a"] {
            steps.get(key).add_one();
        }
        steps.retain(|key| *key == "a");
        let all: Vec<(&str, u64)> =
            steps.all().into_iter().map(|(key, count)| (key, count.get())).collect();
        assert_eq!(all, [("a", 2)]);
    }
}
