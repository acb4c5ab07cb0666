//! Bringing one image into the store: from a repository, or from a file.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use oci_spec::image::{Descriptor, Digest};
use tokio::task::{JoinSet, spawn_blocking};

use super::progress::Tracker;
use super::{Fetched, Provisioner, store_name, torn_down};
use crate::provisioner::archive::{Archive, ArchiveImage, INDEX_DEPTH_MAX};
use crate::provisioner::failure::ProvisionError;
use crate::provisioner::image::{Configuration, ImageParts, Manifest};
use crate::provisioner::reference::ImageSource;
use crate::provisioner::registry::{RawManifest, Repository, is_full, storage};
use crate::provisioner::store::{self, DiffId, FetchedBlob, Ingest, NewImage, NewName, StoreError};

/// How often a blob that somebody has just let go of is asked for, and how often at most.
const CLAIM_PAUSE: Duration = Duration::from_millis(20);
const CLAIM_TRIES_MAX: u32 = 500;

/// A blob to fetch, or one that is here.
enum Claim {
    Partial(Box<store::Partial>),
    Blob(Arc<FetchedBlob>),
}

/// Sets its flag when it is dropped.
pub(super) struct Cancel(Arc<AtomicBool>);

/// A flag for work on a thread, and what sets it.
pub(super) fn cancel() -> (Cancel, Arc<AtomicBool>) {
    let flag = Arc::new(AtomicBool::new(false));
    (Cancel(Arc::clone(&flag)), flag)
}

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Input that ends with an error once nobody wants it any more.
struct Wanted<R> {
    input: R,
    cancelled: Arc<AtomicBool>,
}

impl<R: Read> Read for Wanted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(io::Error::other("nobody waits for the image any more"));
        }
        self.input.read(buffer)
    }
}

/// An image in a registry, whose small parts are fetched.
pub(super) struct Found {
    /// What its name led to.
    target: Digest,
    /// The index, if that is one, and what is in it down to the manifest.
    manifests: Vec<RawManifest>,
    parts: ImageParts,
    config: Vec<u8>,
    configuration: Configuration,
}

impl Provisioner {
    /// Asks a repository for the manifest for this machine and its configuration.
    pub(super) async fn find(&self, repository: &Repository) -> Result<Found, ProvisionError> {
        let lasting = |e: &dyn std::error::Error| ProvisionError::lasting(e.to_string());
        let top = repository.manifest().await?;
        let (target, mut manifests) = (top.digest.clone(), vec![top]);
        let parts = loop {
            let Some(last) = manifests.last() else { return Err(torn_down()) };
            let read = Manifest::parse(&last.bytes, last.media_type.as_deref());
            match read.map_err(|e| lasting(&e))? {
                Manifest::Image(parts) => break *parts,
                Manifest::Index(_) if manifests.len() > INDEX_DEPTH_MAX => {
                    let text = format!("its indexes are nested deeper than {INDEX_DEPTH_MAX}");
                    return Err(ProvisionError::lasting(text));
                }
                Manifest::Index(entries) => {
                    let chosen = self.inner.platform.choose(&entries).map_err(|e| lasting(&e))?;
                    manifests.push(repository.manifest_at(chosen.digest()).await?);
                }
            }
        };
        let config = repository.small_blob(parts.config.digest(), parts.config.size()).await?;
        let configuration = Configuration::parse(&config).map_err(|e| lasting(&e))?;
        if !self.inner.platform.runs(&configuration.platform) {
            let (found, wanted) = (&configuration.platform, &self.inner.platform.architecture);
            let text = format!("the image is for {found}, and this machine is linux/{wanted}");
            return Err(ProvisionError::lasting(text));
        }
        let (layers, expected) = (parts.layers.len(), configuration.diff_ids.len());
        if layers != expected {
            return Err(ProvisionError::lasting(format!(
                "the image is damaged: its manifest has {layers} layers, its configuration {expected}"
            )));
        }
        Ok(Found { target, manifests, parts, config, configuration })
    }

    /// Fetches and unpacks what is missing of an image, and gives it its name.
    pub(super) async fn bring_remote(
        &self,
        repository: &Arc<Repository>,
        found: Found,
        source: &ImageSource,
        tracker: &Arc<Tracker>,
    ) -> Result<Arc<store::Image>, ProvisionError> {
        let ingest = Arc::new(self.inner.store.ingest());
        let Found { target, manifests, parts, config, configuration } = found;
        let bytes = parts.layers.iter().fold(0_u64, |sum, layer| sum.saturating_add(layer.size()));
        tracker.layers(parts.layers.len(), bytes);
        let diffs = Arc::new(configuration.diff_ids);
        let manifest = manifests.last().map_or_else(|| target.clone(), |last| last.digest.clone());
        let new = NewImage {
            manifest,
            config: parts.config.digest().clone(),
            layers: diffs.to_vec(),
            names: vec![NewName { name: store_name(source)?, target, pinned: false }],
        };
        let config_digest = new.config.clone();
        let missing = blocking(&ingest, {
            let (diffs, tracker) = (Arc::clone(&diffs), Arc::clone(tracker));
            let layers = parts.layers.clone();
            move |ingest| {
                for manifest in &manifests {
                    ingest.put_blob(&manifest.bytes, &manifest.digest)?;
                }
                ingest.put_blob(&config, &config_digest)?;
                missing(ingest, &diffs, &layers, &tracker)
            }
        })
        .await?;
        let result = self.layers(repository, &ingest, &diffs, &missing, tracker).await;
        if let Err((e, full)) = result {
            if full {
                // What came of the others is given back as well.
                let give_back = move |ingest: &Ingest| {
                    for (_, layer) in &missing {
                        let partial = ingest.partial(layer.digest(), layer.size());
                        partial.and_then(store::Partial::discard).unwrap_or_default();
                    }
                    Ok(())
                };
                blocking(&ingest, give_back).await?;
            }
            return Err(e);
        }
        tracker.finishing();
        blocking(&ingest, move |ingest| ingest.commit(&new)).await
    }

    /// Fetches the missing layers side by side, and unpacks them one after the other. The flag of
    /// a failure tells that the disk is full.
    async fn layers(
        &self,
        repository: &Arc<Repository>,
        ingest: &Arc<Ingest>,
        diffs: &Arc<Vec<DiffId>>,
        missing: &[(usize, Descriptor)],
        tracker: &Arc<Tracker>,
    ) -> Result<(), (ProvisionError, bool)> {
        let mut uses: HashMap<Digest, usize> = HashMap::new();
        let mut downloads: JoinSet<(Digest, Fetched)> = JoinSet::new();
        for (_, layer) in missing {
            let times = uses.entry(layer.digest().clone()).or_default();
            *times += 1;
            if *times == 1 {
                let (this, layer) = (self.clone(), layer.clone());
                let (repository, ingest) = (Arc::clone(repository), Arc::clone(ingest));
                let tracker = Arc::clone(tracker);
                downloads.spawn(async move {
                    let digest = layer.digest().clone();
                    (digest, this.fetch_once(repository, ingest, layer, tracker).await)
                });
            }
        }
        let mut fetched: BTreeMap<String, Arc<FetchedBlob>> = BTreeMap::new();
        for (at, layer) in missing {
            let digest = layer.digest();
            while !fetched.contains_key(digest.as_ref()) {
                match downloads.join_next().await {
                    Some(Ok((digest, Ok(blob)))) => {
                        fetched.insert(digest.to_string(), blob);
                    }
                    Some(Ok((_, Err(e)))) => return Err((e, false)),
                    Some(Err(_)) | None => return Err((torn_down(), false)),
                }
            }
            let left = uses.entry(digest.clone()).or_default();
            *left = left.saturating_sub(1);
            let last = *left == 0;
            let blob = if last {
                fetched.remove(digest.as_ref())
            } else {
                fetched.get(digest.as_ref()).cloned()
            };
            let Some(blob) = blob else { return Err((torn_down(), false)) };
            self.unpack(ingest, diffs, *at, blob).await?;
            tracker.layer_done();
        }
        Ok(())
    }

    /// A layer's blob, fetched once for all pulls that want it.
    async fn fetch_once(
        &self,
        repository: Arc<Repository>,
        ingest: Arc<Ingest>,
        layer: Descriptor,
        tracker: Arc<Tracker>,
    ) -> Fetched {
        loop {
            let (this, layer, counted) = (self.clone(), layer.clone(), Arc::clone(&tracker));
            let (repository, ingest) = (Arc::clone(&repository), Arc::clone(&ingest));
            let (digest, size) = (layer.digest().clone(), layer.size());
            let work =
                move || async move { this.fetch(&repository, &ingest, &layer, &counted).await };
            let landed = self.inner.blobs.join(digest, work).await;
            match landed.value {
                Some(Ok(blob)) => {
                    if !landed.begun {
                        tracker.here(size);
                    }
                    return Ok(blob);
                }
                // Others may have asked another repository, or with other credentials.
                Some(Err(_)) if !landed.begun => {}
                Some(Err(e)) => return Err(e),
                None => return Err(torn_down()),
            }
        }
    }

    async fn fetch(
        &self,
        repository: &Repository,
        ingest: &Arc<Ingest>,
        layer: &Descriptor,
        tracker: &Tracker,
    ) -> Fetched {
        let _turn = self.inner.downloads.acquire().await.map_err(|_| torn_down())?;
        let (digest, size) = (layer.digest().clone(), layer.size());
        // What an earlier try left may be damaged, which only its end shows.
        let mut again = true;
        loop {
            let partial = match self.claim(ingest, &digest, size).await? {
                Claim::Partial(partial) => *partial,
                Claim::Blob(blob) => return Ok(blob),
            };
            let resumed = partial.len();
            tracker.here(resumed);
            let partial = repository.blob(&digest, partial, &|bytes| tracker.came(bytes)).await?;
            let finished = spawn_blocking(move || partial.finish()).await;
            match finished.map_err(|_| torn_down())? {
                Ok(blob) => {
                    let blob = Arc::new(blob);
                    let mut ready = self.ready();
                    ready.retain(|_, blob| blob.strong_count() > 0);
                    ready.insert(digest, Arc::downgrade(&blob));
                    return Ok(blob);
                }
                Err(StoreError::WrongDigest { .. }) if resumed > 0 && again => again = false,
                Err(e) => return Err(storage(&e)),
            }
        }
    }

    /// The right to fetch a blob, or the blob, if another pull is unpacking it just now. Who was
    /// cancelled may be writing its last bytes, which is waited for.
    async fn claim(
        &self,
        ingest: &Arc<Ingest>,
        digest: &Digest,
        size: u64,
    ) -> Result<Claim, ProvisionError> {
        let mut tries = 0;
        loop {
            if let Some(blob) = self.ready().get(digest).and_then(Weak::upgrade) {
                return Ok(Claim::Blob(blob));
            }
            let (ingest, wanted) = (Arc::clone(ingest), digest.clone());
            let partial = spawn_blocking(move || ingest.partial(&wanted, size)).await;
            match partial.map_err(|_| torn_down())? {
                Ok(partial) => return Ok(Claim::Partial(Box::new(partial))),
                Err(StoreError::Fetching { .. }) if tries < CLAIM_TRIES_MAX => {
                    tries += 1;
                    tokio::time::sleep(CLAIM_PAUSE).await;
                }
                Err(e) => return Err(storage(&e)),
            }
        }
    }

    fn ready(&self) -> MutexGuard<'_, HashMap<Digest, Weak<FetchedBlob>>> {
        self.inner.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn unpack(
        &self,
        ingest: &Arc<Ingest>,
        diffs: &Arc<Vec<DiffId>>,
        at: usize,
        blob: Arc<FetchedBlob>,
    ) -> Result<(), (ProvisionError, bool)> {
        let (ingest, diffs) = (Arc::clone(ingest), Arc::clone(diffs));
        let options = self.inner.options.unpack.clone();
        let (cancel, cancelled) = cancel();
        let work = spawn_blocking(move || {
            let input = Wanted { input: blob.open()?, cancelled };
            let unpacked = ingest.unpack(&diffs[..=at], input, &options);
            // Kept if it may serve once more: the disk was full, or it was cancelled.
            let keep = match &unpacked {
                Ok(_) => false,
                Err(StoreError::Unpack { source, .. }) => !source.is_content(),
                Err(_) => true,
            };
            if let Some(blob) = Arc::into_inner(blob).filter(|_| !keep) {
                blob.discard()?;
            }
            unpacked
        });
        let result = work.await;
        drop(cancel);
        match result {
            Ok(Ok(unpacked)) => {
                for line in unpacked.report.ignored {
                    tracing::warn!(layer = %unpacked.id, line, "something of a layer was left out");
                }
                Ok(())
            }
            Ok(Err(e)) => Err((storage(&e), is_full(&e))),
            Err(_) => Err((torn_down(), false)),
        }
    }

    /// Unpacks what is missing of an image in a file, and gives it its names. Blocks.
    pub(super) fn bring_file(
        &self,
        archive: &Archive,
        image: &ArchiveImage,
        pinned: bool,
        cancelled: &Arc<AtomicBool>,
        tracker: &Tracker,
    ) -> Result<Arc<store::Image>, ProvisionError> {
        let failed = |e: StoreError| storage(&e);
        let ingest = self.inner.store.ingest();
        let bytes = image.layers.iter().fold(0_u64, |sum, layer| sum.saturating_add(layer.size));
        tracker.layers(image.layers.len(), bytes);
        ingest.put_blob(&image.manifest, &image.manifest_digest).map_err(failed)?;
        ingest.put_blob(&image.config, &image.config_digest).map_err(failed)?;
        let diffs = &image.configuration.diff_ids;
        for (at, layer) in image.layers.iter().enumerate() {
            let chain = &diffs[..=at];
            if ingest.layer(chain).map_err(failed)?.is_some() {
                tracker.here(layer.size);
            } else {
                let input = archive.layer(layer).map_err(|e| super::broken(&e))?;
                let input = Wanted { input, cancelled: Arc::clone(cancelled) };
                ingest.unpack(chain, input, &self.inner.options.unpack).map_err(failed)?;
                tracker.came(layer.size);
            }
            tracker.layer_done();
        }
        tracker.finishing();
        let mut names = Vec::new();
        for source in &image.names {
            names.push(NewName { name: store_name(source)?, target: image.target.clone(), pinned });
        }
        let new = NewImage {
            manifest: image.manifest_digest.clone(),
            config: image.config_digest.clone(),
            layers: diffs.clone(),
            names,
        };
        ingest.commit(&new).map_err(failed)
    }
}

/// The layers that are not here, with their number from the lowest up. Nothing is left of downloads
/// of the others.
fn missing(
    ingest: &Ingest,
    diffs: &[DiffId],
    layers: &[Descriptor],
    tracker: &Tracker,
) -> Result<Vec<(usize, Descriptor)>, StoreError> {
    let (mut missing, mut here) = (Vec::new(), Vec::new());
    for (at, layer) in layers.iter().enumerate() {
        if ingest.layer(&diffs[..=at])?.is_some() {
            tracker.here(layer.size());
            tracker.layer_done();
            here.push(layer);
        } else {
            missing.push((at, layer.clone()));
        }
    }
    let wanted: HashSet<&Digest> = missing.iter().map(|(_, layer)| layer.digest()).collect();
    for layer in here.iter().filter(|layer| !wanted.contains(layer.digest())) {
        ingest.forget_partial(layer.digest())?;
    }
    Ok(missing)
}

/// Something with the store, on a thread that may block.
async fn blocking<T: Send + 'static>(
    ingest: &Arc<Ingest>,
    work: impl FnOnce(&Ingest) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, ProvisionError> {
    let ingest = Arc::clone(ingest);
    let done = spawn_blocking(move || work(&ingest)).await.map_err(|_| torn_down())?;
    done.map_err(|e| storage(&e))
}
