//! Watches directories of manifests and reports what is in them, whole each time.
//!
//! ```text
//!  inotify ─► hints ─┐                                       FnMut(DirectoryObservation)
//!  slow relist ──────┼─► listing ─► settle (PURE: what can ─► only when something changed
//!  settle's deadline ┘              be believed now?)
//! ```
//! Events are only hints; a relist finds what they missed. One thread, which sleeps until a hint,
//! a deadline of `settle` or the relist; another one belongs to `notify`. A file system that
//! hangs (NFS) hangs the thread: give each directory a [`Watcher`] of its own if that may happen.
//!
//! Not here: what the files mean, and whether their absence deletes anything.

mod hints;
mod listing;
mod observation;
mod settle;

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::clock::{BootTime, Millis};
use crate::metrics::WatcherMetrics;
use hints::{Ears, Inbox, Wake, WatchPoint, watch_points};
use listing::Directory;
pub use observation::{
    Content, DirectoryFault, DirectoryObservation, DirectoryState, FileFault, MAX_DIRECTORY_BYTES,
    MAX_ENTRIES, MAX_FILE_BYTES, MAX_FILES, MAX_IGNORED_NAMES,
};
use settle::{Hints, Reading, Settle, Tuning};

/// How often a directory may turn out to be another one while its watch is set up. Then the
/// listing is used as it is: the hint of the next change comes.
const MAX_WATCH_ATTEMPTS: usize = 3;

/// How to watch.
#[derive(Debug, Clone)]
pub struct WatchOptions {
    /// The manifest directories; they need not exist. Relative ones are taken from the working
    /// directory.
    pub directories: Vec<String>,
    /// How often to look without a hint.
    pub relist: Millis,
    /// How long a file must be quiet that may still be being written.
    pub settle: Millis,
    /// How long a file or directory must be gone before it is reported as gone.
    pub confirm: Millis,
    /// Whether to use inotify at all.
    pub hints: HintSource,
    /// Counts what happens.
    pub metrics: Arc<WatcherMetrics>,
}

/// Where hints come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HintSource {
    /// The kernel's inotify.
    Inotify,
    /// Nowhere: every change is found by a relist, and a settle time later.
    Off,
}

impl WatchOptions {
    /// The usual times for these directories.
    #[must_use]
    pub fn new(directories: Vec<String>) -> Self {
        Self {
            directories,
            // The kubelet's fileCheckFrequency.
            relist: Millis::from_secs(20),
            settle: Millis::from_secs(1),
            // Editors are without the file for a few milliseconds while they save it.
            confirm: Millis(150),
            hints: HintSource::Inotify,
            metrics: Arc::default(),
        }
    }
}

/// A running watch. Dropping it ends the watch and waits for its thread.
pub struct Watcher {
    inbox: Arc<Inbox>,
    thread: Option<JoinHandle<()>>,
}

/// Whether a file of that name is taken for a manifest.
#[must_use]
pub fn is_manifest(name: &OsStr) -> bool {
    listing::name_kind(name.as_bytes()) == listing::NameKind::Manifest
}

impl Watcher {
    /// Starts watching. The first observation of each directory comes at once, whatever its state;
    /// after that `sink` is called, on the watcher's thread, for each change. It should be quick.
    ///
    /// # Errors
    /// When the thread can't be started.
    pub fn start<S>(options: WatchOptions, sink: S) -> io::Result<Self>
    where
        S: FnMut(DirectoryObservation) + Send + 'static,
    {
        let inbox = Arc::new(Inbox::new(options.directories.len(), options.relist));
        let mut watch = Watch::new(options, Arc::clone(&inbox), sink);
        let thread = std::thread::Builder::new()
            .name("manifest-watch".to_owned())
            .spawn(move || watch.run())?;
        Ok(Self { inbox, thread: Some(thread) })
    }

    /// Looks this often without a hint, from now on; once at once.
    pub fn relist_every(&self, span: Millis) {
        self.inbox.relist_every(span);
    }

    /// Looks at all directories now instead of at the next relist.
    pub fn relist(&self) {
        self.inbox.relist();
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.inbox.stop();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the thread that watched the manifests had panicked");
        }
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").finish_non_exhaustive()
    }
}

/// What the thread owns.
struct Watch<S> {
    hint_source: HintSource,
    metrics: Arc<WatcherMetrics>,
    directories: Vec<Watched>,
    inbox: Arc<Inbox>,
    ears: Option<Ears>,
    /// What was last said about watches that failed, so as to say it once.
    complaint: String,
    sink: S,
}

struct Watched {
    path: String,
    points: Vec<WatchPoint>,
    settle: Settle,
}

/// Why a directory is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Relist,
    HintOrDeadline,
}

impl<S: FnMut(DirectoryObservation)> Watch<S> {
    fn new(options: WatchOptions, inbox: Arc<Inbox>, sink: S) -> Self {
        let tuning = Tuning { settle: options.settle, confirm: options.confirm };
        let watched = |path| Watched { path, points: Vec::new(), settle: Settle::new(tuning) };
        Self {
            hint_source: options.hints,
            metrics: options.metrics,
            directories: options.directories.into_iter().map(watched).collect(),
            inbox,
            ears: None,
            complaint: String::new(),
            sink,
        }
    }

    fn run(&mut self) {
        let mut next_relist = BootTime::now();
        loop {
            let settling = self.directories.iter().filter_map(|dir| dir.settle.deadline()).min();
            let deadline = settling.map_or(next_relist, |settling| settling.min(next_relist));
            let (hints, asked) = match self.inbox.wait(deadline) {
                Wake::Stop => return,
                Wake::Look(hints) => (hints, false),
                Wake::Relist(hints) => (hints, true),
            };
            let now = BootTime::now();
            let mut cause = Cause::HintOrDeadline;
            if asked || now >= next_relist {
                cause = Cause::Relist;
                self.metrics.relists.add_one();
                next_relist = now.plus(self.inbox.relist_span());
            }
            if hints.iter().any(Hints::need_listing) {
                self.metrics.hints.add_one();
            }
            for (index, hints) in hints.iter().enumerate() {
                self.attend(index, hints, cause);
            }
        }
    }

    /// Looks at one directory if there is reason to.
    fn attend(&mut self, index: usize, hints: &Hints, cause: Cause) {
        let now = BootTime::now();
        let due = self.directories[index].settle.deadline().is_some_and(|at| at <= now);
        if cause == Cause::Relist || due || hints.need_listing() {
            self.look(index, hints, cause);
        } else {
            self.directories[index].settle.note(hints);
        }
    }

    fn look(&mut self, index: usize, hints: &Hints, cause: Cause) {
        let opened = self.open_watched(index, cause);
        let settle = &mut self.directories[index].settle;
        let scan = opened.as_ref().map_err(Clone::clone).and_then(Directory::scan);
        let due = settle.observe(BootTime::now(), scan, hints);
        if let Ok(directory) = &opened {
            for name in due {
                let mut reading = directory.read(&name);
                // Somebody went on writing between its close and our reading.
                if self.inbox.is_being_written(index, &name) {
                    reading = Reading::Unstable;
                }
                settle.fill(BootTime::now(), &name, reading);
            }
        }
        if let Some(state) = settle.conclude(BootTime::now(), cause == Cause::Relist) {
            let directory = self.directories[index].path.clone();
            (self.sink)(DirectoryObservation { directory, state });
        }
    }

    /// Opens a directory that is watched already, so that nothing that happens to it from now on
    /// goes unheard.
    fn open_watched(&mut self, index: usize, cause: Cause) -> Result<Directory, DirectoryFault> {
        if self.hint_source == HintSource::Inotify {
            let mut retry = cause == Cause::Relist && !self.complaint.is_empty();
            for _ in 0..MAX_WATCH_ATTEMPTS {
                let points = watch_points(index, Path::new(&self.directories[index].path));
                let same = self.directories[index].points == points;
                if same && !retry {
                    break;
                }
                retry = false;
                self.directories[index].points = points;
                self.listen();
            }
        }
        Directory::open(&self.directories[index].path)
    }

    /// Watches all points anew. The old watch ends after the new one has begun.
    fn listen(&mut self) {
        let points: Vec<WatchPoint> =
            self.directories.iter().flat_map(|directory| directory.points.clone()).collect();
        let complaint = match Ears::new(&points, Arc::clone(&self.inbox)) {
            Ok(ears) => {
                let faults = ears.faults.join("; ");
                self.ears = Some(ears);
                faults
            }
            Err(error) => error.to_string(),
        };
        if !complaint.is_empty() && complaint != self.complaint {
            tracing::warn!(
                reason = complaint,
                "manifest directories can't be watched; changes are found by relisting only"
            );
        }
        self.complaint = complaint;
    }
}

#[cfg(test)]
mod tests;
