//! Directories whose archives and layouts are loaded, now and whenever something is put there.
//!
//! ```text
//!  inotify ─► hints ─┐
//!  slow relist ──────┴─► look: what lies there ─► what is whole and was not loaded ─► load
//! ```
//! An archive is whole when whoever wrote it has closed or renamed it, or when it was the same at
//! two looks. A layout has no end that could be seen: one that is faulty is loaded again when it
//! has changed. What was loaded is remembered in a checkpoint, so that a start reads no archive
//! again whose images are here; an image that was removed by hand comes back with the next start.
//! Files are told apart by inode, size and time of change: no clock decides, only whether they are
//! the same.
//!
//! Not here: what is in an archive (`provisioner`), and what pods wait for (`images`).

mod hints;

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::future::Future;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::image_keeper::{ImageKeeper, ImagesRefused};
use crate::provisioner::failure::Retry;
use crate::provisioner::store::ImageId;
use crate::state::checkpoint::{self, Checkpoint, Format};
use hints::{Ears, Hint};

/// Between two looks without a hint.
const RELIST: Duration = Duration::from_secs(60);
/// How long what may still be being written must stay the same.
const SETTLE: Duration = Duration::from_millis(500);
/// Most files that are looked at in a directory.
const FILES_MAX: usize = 1000;
/// What archives are called.
const ENDINGS: [&str; 4] = [".tar", ".tar.gz", ".tgz", ".tar.zst"];
/// What makes a directory a layout (OCI image layout specification).
const LAYOUT: &str = "oci-layout";
/// What of a layout changes while it is being filled.
const LAYOUT_PARTS: [&str; 3] = ["oci-layout", "index.json", "blobs/sha256"];

/// Which file it is, as far as can be told without reading it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Print {
    inode: u64,
    size: u64,
    mtime: i64,
    mtime_nanos: i64,
}

/// A file or layout whose images were loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Loaded {
    path: PathBuf,
    /// Of the archive; of a layout, those of its parts.
    prints: Vec<Print>,
    images: Vec<ImageId>,
}

/// `image-files.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ImageFiles {
    format: Format<1>,
    files: Vec<Loaded>,
}

impl Checkpoint for ImageFiles {
    const FORMAT: u32 = 1;
}

/// Why a file was not loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// For people; names the file.
    text: String,
    /// Whether the same file may be loaded later.
    may_pass: bool,
}

/// Who loads.
pub(super) trait Loader {
    /// Loads all images of a file.
    fn load(&self, path: &Path) -> impl Future<Output = Result<Vec<ImageId>, Fault>> + Send;
    /// Whether an image is here.
    fn has(&self, image: &ImageId) -> bool;
    /// Tells of a faulty file.
    fn complain(&self, text: String) -> impl Future<Output = ()> + Send;
}

impl Loader for ImageKeeper {
    async fn load(&self, path: &Path) -> Result<Vec<ImageId>, Fault> {
        let loaded = Self::load(self, path).await;
        loaded.map(|images| images.into_iter().map(|got| got.id).collect()).map_err(|error| {
            let may_pass = match &error {
                ImagesRefused::Provision(error) => match error.retry {
                    Retry::Later { .. } => true,
                    Retry::Unlikely => false,
                },
                ImagesRefused::Store(_) | ImagesRefused::Ending => true,
                ImagesRefused::NotFound(_)
                | ImagesRefused::Invalid(_)
                | ImagesRefused::Used { .. } => false,
            };
            let text = super::chain(&error);
            let named = text.contains(&*path.to_string_lossy());
            let text = if named { text } else { format!("{}: {text}", path.display()) };
            Fault { text, may_pass }
        })
    }

    fn has(&self, image: &ImageId) -> bool {
        self.is_here(image)
    }

    async fn complain(&self, text: String) {
        self.tell_of_file(text).await;
    }
}

/// What lies in the directories.
type Found = BTreeMap<PathBuf, Vec<Print>>;

/// Loads what lies in the directories, and what comes, until the agent ends.
pub(super) async fn keep<L: Loader>(loader: L, directories: Vec<PathBuf>, checkpoint: PathBuf) {
    if directories.is_empty() {
        return;
    }
    let mut ears = Ears::new().inspect_err(|error| {
        tracing::warn!(%error, "directories of images can't be watched; they are only relisted");
    });
    let read = spawn_blocking(move || read_book(checkpoint)).await;
    let Ok(mut book) = read else {
        return tracing::error!("reading which images were loaded panicked; none are loaded");
    };
    book.forget_missing(&loader);
    let mut relisted = true;
    loop {
        // Watched before it is looked at, so that nothing that happens from now on is missed.
        if let Ok(ears) = &mut ears {
            ears.listen(&directories, relisted);
        }
        let looking = directories.clone();
        let found = spawn_blocking(move || look(&looking)).await.unwrap_or_default();
        let is_whole = |path: &Path| ears.as_ref().map_or(Whole::Unknown, |e| e.whole(path));
        let due = book.due(found, relisted, is_whole);
        for (path, prints) in due.paths {
            book.load(&loader, path, prints).await;
        }
        if book.is_dirty {
            let Ok(same) = spawn_blocking(move || book.written()).await else {
                return tracing::error!("writing which images were loaded panicked");
            };
            book = same;
        }
        relisted = wait(ears.as_mut().ok(), due.is_settling).await;
    }
}

/// Waits for a reason to look again; whether it is the relist.
async fn wait(ears: Option<&mut Ears>, is_settling: bool) -> bool {
    let Some(ears) = ears else {
        sleep(if is_settling { SETTLE } else { RELIST }).await;
        return !is_settling;
    };
    let limit = if is_settling { SETTLE } else { RELIST };
    match timeout(limit, ears.hint()).await {
        Ok(Hint::Whole) => false,
        Ok(Hint::Changed) => {
            // What is being written tells of itself all the time.
            let _whole = timeout(SETTLE, ears.whole_hint()).await;
            false
        }
        Err(_) => !is_settling,
    }
}

/// What is known of whether a file is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    /// Whoever wrote it has closed or renamed it.
    Yes,
    /// It was written to, and not closed since.
    No,
    /// Nothing.
    Unknown,
}

/// What is to be loaded now.
#[derive(Debug, PartialEq, Eq)]
struct Due {
    paths: Vec<(PathBuf, Vec<Print>)>,
    /// Something else may be whole soon.
    is_settling: bool,
}

/// What was loaded, and what could not be.
#[derive(Debug)]
struct Book {
    checkpoint: PathBuf,
    loaded: BTreeMap<PathBuf, Loaded>,
    failed: BTreeMap<PathBuf, (Vec<Print>, Fault)>,
    /// The last look.
    seen: Found,
    /// The checkpoint is to be written.
    is_dirty: bool,
}

impl Book {
    fn new(checkpoint: PathBuf) -> Self {
        Self {
            checkpoint,
            loaded: BTreeMap::new(),
            failed: BTreeMap::new(),
            seen: Found::new(),
            is_dirty: false,
        }
    }

    /// What was loaded before the agent started counts only if all of it is still here.
    fn forget_missing(&mut self, loader: &impl Loader) {
        self.loaded.retain(|_, loaded| loaded.images.iter().all(|image| loader.has(image)));
    }

    fn due(&mut self, found: Found, relisted: bool, whole: impl Fn(&Path) -> Whole) -> Due {
        let before = self.loaded.len();
        self.loaded.retain(|path, _| found.contains_key(path));
        self.is_dirty |= self.loaded.len() != before;
        self.failed.retain(|path, _| found.contains_key(path));
        let mut due = Due { paths: Vec::new(), is_settling: false };
        for (path, prints) in &found {
            let is_loaded = self.loaded.get(path).is_some_and(|loaded| loaded.prints == *prints);
            let has_failed = self
                .failed
                .get(path)
                .is_some_and(|(failed, fault)| failed == prints && !(fault.may_pass && relisted));
            if is_loaded || has_failed {
                continue;
            }
            let is_same = self.seen.get(path) == Some(prints);
            match whole(path) {
                Whole::Yes => due.paths.push((path.clone(), prints.clone())),
                Whole::Unknown if is_same => due.paths.push((path.clone(), prints.clone())),
                Whole::Unknown => due.is_settling = true,
                // It will tell when it is closed.
                Whole::No => {}
            }
        }
        self.seen = found;
        due
    }

    async fn load(&mut self, loader: &impl Loader, path: PathBuf, prints: Vec<Print>) {
        match loader.load(&path).await {
            Ok(images) => {
                tracing::info!(path = %path.display(), images = images.len(), "loaded images");
                self.failed.remove(&path);
                self.loaded.insert(path.clone(), Loaded { path, prints, images });
                self.is_dirty = true;
            }
            Err(fault) => {
                let told = self.failed.get(&path);
                if told.is_none_or(|(before, known)| *known != fault || *before != prints) {
                    tracing::warn!(error = fault.text, "can't load images from a file");
                    loader.complain(fault.text.clone()).await;
                }
                self.failed.insert(path, (prints, fault));
            }
        }
    }

    /// The same with its checkpoint written. If that fails, the next start loads more than it must.
    fn written(mut self) -> Self {
        let files = self.loaded.values().cloned().collect();
        let written = checkpoint::write(&self.checkpoint, &ImageFiles { format: Format, files });
        if let Err(error) = written {
            let error = super::chain(&error);
            tracing::warn!(error, "can't remember which images were loaded");
        }
        self.is_dirty = false;
        self
    }
}

fn read_book(checkpoint: PathBuf) -> Book {
    let read = checkpoint::read::<ImageFiles>(&checkpoint).unwrap_or_else(|error| {
        let error = super::chain(&error);
        tracing::warn!(error, "it is not known which images were loaded; loading them again");
        None
    });
    let files = read.map(|read| read.files).unwrap_or_default();
    let loaded = files.into_iter().map(|loaded| (loaded.path.clone(), loaded)).collect();
    Book { loaded, ..Book::new(checkpoint) }
}

/// What of the directories can be loaded. What can't be looked at is not there.
fn look(directories: &[PathBuf]) -> Found {
    let mut found = Found::new();
    for directory in directories {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        for entry in entries.take(FILES_MAX) {
            // A name that is no text can't be remembered, and hidden files are temporary ones.
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
            let path = directory.join(name);
            if let Ok(Some(prints)) = prints_of(&path, name) {
                found.insert(path, prints);
            }
        }
    }
    found
}

/// The prints of what is to be loaded; none of anything else.
fn prints_of(path: &Path, name: &str) -> io::Result<Option<Vec<Print>>> {
    let metadata = fs::metadata(path)?;
    if metadata.is_file() {
        let is_archive = ENDINGS.iter().any(|ending| name.ends_with(ending));
        return Ok(is_archive.then(|| vec![print(&metadata)]));
    }
    if !metadata.is_dir() || !path.join(LAYOUT).is_file() {
        return Ok(None);
    }
    let parts = LAYOUT_PARTS.iter().filter_map(|part| fs::metadata(path.join(part)).ok());
    Ok(Some(parts.map(|part| print(&part)).collect()))
}

fn print(metadata: &Metadata) -> Print {
    Print {
        inode: metadata.ino(),
        size: metadata.size(),
        mtime: metadata.mtime(),
        mtime_nanos: metadata.mtime_nsec(),
    }
}

#[cfg(test)]
mod tests;
