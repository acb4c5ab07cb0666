//! Images are asked for here: those that are present are had at once, others are pulled or read,
//! once for everybody who waits for them.
//!
//! ```text
//! resolve ─► here? ─► (one for all who wait) ─► manifest ─► layers: fetched side by side,
//!                                                            unpacked from the lowest up ─► commit
//! ```
//!
//! What is cancelled leaves what it has for the next try. Not here: back-off between tries.

mod bring;
mod progress;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use oci_spec::image::Digest;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::archive::{Archive, ArchiveError};
use super::auth::Credentials;
use super::failure::{ProvisionError, PullReason, Retry};
use super::flight::Flights;
use super::image::{Configuration, Image};
use super::platform::Platform;
use super::reference::{ImageSource, PullPolicy, Reference};
use super::registry::{RegistryOptions, Repository, storage};
use super::store::{self, FetchedBlob, ImageName, NameEntry, NewName, Store, StoreError};
use super::unpack::UnpackOptions;
pub use progress::{PullPhase, PullProgress};

/// Most layers that are fetched at once, by all pulls together.
pub const DOWNLOADS_MAX: usize = 4;
/// Most warnings about the configuration of registries that are told once each.
const WARNINGS_MAX: usize = 256;

/// How this node pulls.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// How registries are reached.
    pub registry: RegistryOptions,
    /// The bounds of a layer.
    pub unpack: UnpackOptions,
}

/// How an image was had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Had {
    /// It was here, and nobody was asked.
    Present,
    /// It was here, and the source has the same.
    Unchanged,
    /// It was here, and what the source has now could not be asked.
    Unreachable {
        /// Why, for an event: the policy was `Always`.
        why: String,
    },
    /// It was pulled or read now.
    Pulled {
        /// Bytes that were fetched or read.
        bytes: u64,
    },
}

/// An image, and how it was had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The image.
    pub image: Image,
    /// How.
    pub had: Had,
}

type Outcome = Result<Resolved, ProvisionError>;
type Fetched = Result<Arc<FetchedBlob>, ProvisionError>;

/// Turns names into images. Clones are the same provisioner. Its async functions need a runtime of
/// tokio with time and network.
#[derive(Debug, Clone)]
pub struct Provisioner {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    options: PullOptions,
    platform: Platform,
    pulls: Flights<(ImageSource, Credentials, bool), Outcome>,
    blobs: Flights<Digest, Fetched>,
    /// Blobs that are here until they are unpacked.
    ready: Mutex<HashMap<Digest, Weak<FetchedBlob>>>,
    downloads: Semaphore,
    progress: progress::Board,
    warned: Mutex<BTreeSet<String>>,
}

/// What is here under a name.
enum Local {
    /// The image, and what its name led to when it came.
    Image {
        image: Box<Image>,
        target: Digest,
    },
    Missing,
    /// It is here, and can't be used; why.
    Damaged(String),
}

impl Provisioner {
    /// Over an open store.
    #[must_use]
    pub fn new(store: Store, options: PullOptions) -> Self {
        let inner = Inner {
            store,
            options,
            platform: Platform::current(),
            pulls: Flights::default(),
            blobs: Flights::default(),
            ready: Mutex::default(),
            downloads: Semaphore::new(DOWNLOADS_MAX),
            progress: progress::Board::default(),
            warned: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The image of `source`. Others who ask for the same with the same credentials share one pull,
    /// which is cancelled when the last of them drops its future.
    ///
    /// # Errors
    /// With a reason for the pod's status.
    pub async fn resolve(
        &self,
        source: &ImageSource,
        policy: PullPolicy,
        credentials: &Credentials,
    ) -> Outcome {
        let local = self.local(source).await?;
        match (policy, local) {
            (PullPolicy::IfNotPresent | PullPolicy::Never, Local::Image { image, .. }) => {
                return Ok(Resolved { image: *image, had: Had::Present });
            }
            (PullPolicy::Never, Local::Missing) => return Err(never(source, "is not here")),
            (PullPolicy::Never, Local::Damaged(what)) => {
                return Err(never(source, &format!("is damaged ({what})")));
            }
            // What a digest names never changes; but whether it may be had is for its registry to
            // say: another pod's credentials may have brought it here.
            (PullPolicy::Always, _) | (PullPolicy::IfNotPresent, _) => {}
        }
        let ask = policy == PullPolicy::Always;
        let key = (source.clone(), credentials.clone(), ask);
        let (this, source, credentials) = (self.clone(), source.clone(), credentials.clone());
        let landed = self
            .inner
            .pulls
            .join(key, || async move { this.pull(source, credentials, ask).await })
            .await;
        landed.value.unwrap_or_else(|| Err(ProvisionError::passing("the pull was torn down")))
    }

    /// Every image of an archive or layout, pinned.
    ///
    /// # Errors
    /// When it can't be read, or one of its images is damaged; the ones before that are loaded.
    pub async fn load(&self, path: &Path) -> Result<Vec<Image>, ProvisionError> {
        let attempt = format!("can't load {}", path.display());
        let (this, path) = (self.clone(), path.to_owned());
        let (cancel, cancelled) = bring::cancel();
        let work = spawn_blocking(move || {
            let archive = Archive::open(&path, this.store().directory()).map_err(|e| broken(&e))?;
            let images = archive.images(&this.inner.platform).map_err(|e| broken(&e))?;
            let mut loaded = Vec::new();
            for image in images {
                let source = image.names.first().cloned();
                let Some(source) = source else { continue };
                let tracker = this.inner.progress.begin(&source);
                let stored = this.bring_file(&archive, &image, true, &cancelled, &tracker)?;
                loaded.push(this.image(&stored).map_err(|e| storage(&e))?);
            }
            Ok(loaded)
        });
        let result = work.await.unwrap_or_else(|_| Err(torn_down()));
        drop(cancel);
        result.map_err(|e: ProvisionError| e.when(&attempt))
    }

    /// The pulls that go on.
    #[must_use]
    pub fn progress(&self) -> Vec<PullProgress> {
        self.inner.progress.all()
    }

    /// All images that are here. Blocks.
    ///
    /// # Errors
    /// When a configuration can't be read; that image must be pulled again or removed.
    pub fn images(&self) -> Result<Vec<Image>, StoreError> {
        self.store().images().iter().map(|image| self.image(image)).collect()
    }

    /// What is known of an image of the store. Blocks.
    ///
    /// # Errors
    /// When its configuration is gone or damaged.
    pub fn image(&self, image: &store::Image) -> Result<Image, StoreError> {
        let damaged = |what: String| StoreError::Damaged { image: image.id.clone(), what };
        let bytes = self.store().blob(image.id.digest())?;
        let bytes = bytes.ok_or_else(|| damaged("its configuration is gone".into()))?;
        let read = Configuration::parse(&bytes).map_err(|e| damaged(e.to_string()))?;
        let entries = self.store().names().into_iter().filter(|entry| entry.image == image.id);
        let entries: Vec<NameEntry> = entries.collect();
        Ok(Image {
            id: image.id.clone(),
            manifest: image.manifest.clone(),
            names: entries.iter().filter_map(|entry| entry.name.as_str().parse().ok()).collect(),
            layers: image.layer_ids().cloned().collect(),
            config: read.config,
            size: image.size(),
            pinned: entries.iter().any(|entry| entry.pinned),
            created: read.created,
        })
    }

    async fn local(&self, source: &ImageSource) -> Result<Local, ProvisionError> {
        let (this, source) = (self.clone(), source.clone());
        let work = spawn_blocking(move || this.local_blocking(&source));
        work.await.map_err(|_| torn_down())?
    }

    fn local_blocking(&self, source: &ImageSource) -> Result<Local, ProvisionError> {
        let name = store_name(source)?;
        let found = match self.store().by_name(&name) {
            Some(found) => Some(found),
            None => self.by_digest(source, &name)?,
        };
        let Some((entry, stored)) = found else { return Ok(Local::Missing) };
        let image = self.store().verify(&stored.id).and_then(|()| self.image(&stored));
        match image {
            Ok(image) => {
                self.store().touch(&stored.id);
                Ok(Local::Image { image: Box::new(image), target: entry.target })
            }
            Err(StoreError::Damaged { what, .. }) => {
                tracing::warn!(image = %source, damage = what, "an image is damaged");
                Ok(Local::Damaged(what))
            }
            Err(e) => Err(storage(&e)),
        }
    }

    /// An image that has the digest that is asked for under another name gets this one as well.
    fn by_digest(
        &self,
        source: &ImageSource,
        name: &ImageName,
    ) -> Result<Option<(NameEntry, Arc<store::Image>)>, ProvisionError> {
        let Some(digest) = source.reference().and_then(Reference::digest) else { return Ok(None) };
        let mut names = self.store().names().into_iter();
        let Some(same) = names.find(|entry| entry.target == *digest) else { return Ok(None) };
        let new = NewName { name: name.clone(), target: digest.clone(), pinned: false };
        self.store().set_name(&same.image, &new).map_err(|e| storage(&e))?;
        Ok(self.store().by_name(name))
    }

    /// The work that is shared.
    async fn pull(self, source: ImageSource, credentials: Credentials, ask: bool) -> Outcome {
        let attempt = format!("can't pull {}", source.familiar());
        let local = self.local(&source).await?;
        let here = match local {
            // Somebody else may have pulled it since.
            Local::Image { image, .. } if !ask => {
                return Ok(Resolved { image: *image, had: Had::Present });
            }
            Local::Image { image, target } => Some((image, target)),
            Local::Missing | Local::Damaged(_) => None,
        };
        let tracker = self.inner.progress.begin(&source);
        let target = here.as_ref().map(|(_, target)| target);
        let pulled = match &source {
            ImageSource::Registry(reference) => {
                self.pull_from_registry(reference, &credentials, target, &tracker).await
            }
            ImageSource::OciLayout { .. }
            | ImageSource::OciArchive { .. }
            | ImageSource::DockerArchive { .. } => {
                self.pull_from_file(&source, target, &tracker).await
            }
        };
        let resolved = match (pulled, here) {
            (Ok(Some((image, bytes))), _) => Ok(Resolved { image, had: Had::Pulled { bytes } }),
            (Ok(None), Some((image, _))) => Ok(Resolved { image: *image, had: Had::Unchanged }),
            (Ok(None), None) => Err(torn_down()),
            (Err(e), Some((image, _))) if e.retry != Retry::Unlikely => {
                let why = e.text;
                tracing::warn!(image = %source, why, "the copy that is here is used");
                Ok(Resolved { image: *image, had: Had::Unreachable { why } })
            }
            (Err(e), _) => Err(e),
        };
        resolved.map_err(|e| e.when(&attempt))
    }

    /// None if the registry has what is here.
    async fn pull_from_registry(
        &self,
        reference: &Reference,
        credentials: &Credentials,
        here: Option<&Digest>,
        tracker: &Arc<progress::Tracker>,
    ) -> Result<Option<(Image, u64)>, ProvisionError> {
        let (wanted, credentials) = (reference.clone(), credentials.clone());
        let options = self.inner.options.registry.clone();
        let opened = spawn_blocking(move || Repository::open(&wanted, &options, &credentials));
        let repository = Arc::new(opened.await.map_err(|_| torn_down())??);
        self.warn(&repository.warnings);
        let now = if here.is_some() { Some(repository.digest().await?) } else { None };
        if now.is_some() && now.as_ref() == here {
            return Ok(None);
        }
        let found = self.find(&repository).await?;
        let source = ImageSource::Registry(reference.clone());
        let stored = self.bring_remote(&repository, found, &source, tracker).await?;
        self.described(stored, tracker).await.map(Some)
    }

    /// None if the file has what is here.
    async fn pull_from_file(
        &self,
        source: &ImageSource,
        here: Option<&Digest>,
        tracker: &Arc<progress::Tracker>,
    ) -> Result<Option<(Image, u64)>, ProvisionError> {
        let (this, wanted, here) = (self.clone(), source.clone(), here.cloned());
        let (cancel, cancelled) = bring::cancel();
        let counted = Arc::clone(tracker);
        let work = spawn_blocking(move || {
            let path = wanted.path().unwrap_or(Path::new("/"));
            let archive = Archive::open(path, this.store().directory()).map_err(|e| broken(&e))?;
            let image = archive.image_of(&wanted, &this.inner.platform).map_err(|e| broken(&e))?;
            if here.as_ref() == Some(&image.target) {
                return Ok(None);
            }
            this.bring_file(&archive, &image, false, &cancelled, &counted).map(Some)
        });
        let stored = work.await.map_err(|_| torn_down())?;
        drop(cancel);
        match stored? {
            None => Ok(None),
            Some(stored) => self.described(stored, tracker).await.map(Some),
        }
    }

    async fn described(
        &self,
        stored: Arc<store::Image>,
        tracker: &progress::Tracker,
    ) -> Result<(Image, u64), ProvisionError> {
        let this = self.clone();
        let image = spawn_blocking(move || this.image(&stored)).await.map_err(|_| torn_down())?;
        Ok((image.map_err(|e| storage(&e))?, tracker.fetched()))
    }

    fn warn(&self, warnings: &[String]) {
        let mut warned = self.inner.warned.lock().unwrap_or_else(PoisonError::into_inner);
        for warning in warnings {
            if warned.len() < WARNINGS_MAX && warned.insert(warning.clone()) {
                tracing::warn!(warning, "the configuration of a registry is not understood");
            }
        }
    }
}

fn store_name(source: &ImageSource) -> Result<ImageName, ProvisionError> {
    source.to_string().parse().map_err(|e: store::InvalidStoreId| {
        let reason = PullReason::InvalidImageName;
        ProvisionError { reason, ..ProvisionError::lasting(e.to_string()) }
    })
}

fn never(source: &ImageSource, what: &str) -> ProvisionError {
    let text = format!(
        "image {} {what}, and imagePullPolicy is Never: load it with `roost image load FILE`, or \
         pull it with `roost image pull`",
        source.familiar()
    );
    ProvisionError { reason: PullReason::ErrImageNeverPull, ..ProvisionError::lasting(text) }
}

fn torn_down() -> ProvisionError {
    ProvisionError::passing("the work was torn down")
}

/// What is wrong with a file. It may still be being written, so a further try may help.
/// Whoever asked names the file.
fn broken(error: &ArchiveError) -> ProvisionError {
    ProvisionError::passing(match error {
        ArchiveError::Io { path: _, what, source } => format!("can't read {what}: {source}"),
        ArchiveError::Invalid { path: _, fault } => fault.clone(),
    })
}

#[cfg(test)]
mod tests;
