//! The images of this node as its owner sees them: which there are, who uses them, and getting,
//! loading, removing and collecting them.
//!
//! Who uses an image only the loop knows, so it is asked; and it is told when images came or went,
//! because a pod may wait for them. An image that a present manifest names, or the revision before
//! it, or that a pod runs on, is never collected. Not here: what pods wait for (`images`), and the
//! store itself (`provisioner`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;

use super::service::{Request, Snapshot};
use crate::clock::{Millis, WallTime};
use crate::config::ImageGc;
use crate::ids::PodName;
use crate::manifest::desired::DesiredState;
use crate::manifest::pod::PodSpec;
use crate::provisioner::auth::Credentials;
use crate::provisioner::failure::ProvisionError;
use crate::provisioner::pull::{Had, Provisioner, PullOptions, PullProgress};
use crate::provisioner::reference::{ImageSource, PullPolicy};
use crate::provisioner::store::{
    Collected, Collection, Contention, ImageId, ImageName, Store, StoreError, Usage,
};
use crate::reconciler::ActualState;
use crate::state::paths::Paths;
use crate::state::writer::StoreHandle;

/// Between two looks at how full the disk is (the kubelet's).
const LOOK_EVERY: Duration = Duration::from_secs(300);

/// Who uses which image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InUse {
    /// Pods by the images that they run on, or that their manifests name.
    pub by: BTreeMap<ImageId, BTreeSet<PodName>>,
    /// Pods that have earlier revisions, with the number of the one that is accepted.
    pub with_history: BTreeMap<PodName, u64>,
}

impl InUse {
    /// By what is wanted and what is there.
    pub(super) fn of(desired: &DesiredState, actual: &ActualState, store: &Store) -> Self {
        let mut found = Self::default();
        for (name, claims) in &desired.claims {
            claims.iter().for_each(|claim| found.add(name, &claim.spec, store));
        }
        for pod in actual.pods.values() {
            let Some(name) = pod.name() else { continue };
            let specs = pod.spec.iter().chain(&pod.successor);
            specs.for_each(|stored| found.add(name, &stored.spec, store));
            if let Some(record) = pod.record.as_ref().filter(|record| !record.history.is_empty()) {
                found.with_history.insert(name.clone(), record.accepted.number);
            }
        }
        for (name, spec) in &actual.under_way {
            found.add(name, spec, store);
        }
        found
    }

    fn add(&mut self, pod: &PodName, spec: &PodSpec, store: &Store) {
        for image in spec.images() {
            let named = || {
                let name: ImageName = image.source.to_string().parse().ok()?;
                store.by_name(&name).map(|(_, image)| image.id.clone())
            };
            // What a manifest names counts beside what was found for it before.
            let resolved = image.resolved.as_ref().map(|resolved| resolved.id.clone());
            for id in resolved.into_iter().chain(named()) {
                self.by.entry(id).or_default().insert(pod.clone());
            }
        }
    }
}

/// An image of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageView {
    /// Which it is.
    pub id: ImageId,
    /// The digest of its manifest.
    pub manifest: String,
    /// What it is called here.
    pub names: Vec<String>,
    /// Bytes of its layers; images may share them.
    pub size: u64,
    /// Whether it is never collected.
    pub pinned: bool,
    /// When it came here.
    pub made: WallTime,
    /// When it was used last, if ever.
    pub used: Option<WallTime>,
    /// Pods that run on it, or whose manifests name it.
    pub used_by: BTreeSet<PodName>,
}

/// All images of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagesView {
    /// By their first name.
    pub images: Vec<ImageView>,
    /// What is being pulled.
    pub pulls: Vec<PullProgress>,
    /// What all of it takes.
    pub usage: Usage,
}

/// An image that was got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    /// Which it is.
    pub id: ImageId,
    /// What it is called here.
    pub names: Vec<String>,
    /// How it was had, for people.
    pub how: String,
}

/// Why something was not done with images.
#[derive(Debug, thiserror::Error)]
pub enum ImagesRefused {
    /// There is none of that name or id.
    #[error("there is no image {0}")]
    NotFound(String),
    /// That is no name.
    #[error("{0}")]
    Invalid(String),
    /// Pods use it.
    #[error("image {image} is used by {}: remove them first", listed(pods))]
    Used {
        /// What was asked for.
        image: String,
        /// The pods.
        pods: BTreeSet<PodName>,
    },
    /// It could not be got.
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    /// The store failed.
    #[error("the image store failed")]
    Store(#[from] StoreError),
    /// The agent is ending.
    #[error("the agent is ending")]
    Ending,
}

fn listed(pods: &BTreeSet<PodName>) -> String {
    let names: Vec<String> = pods.iter().map(|pod| format!("pod {pod}")).collect();
    names.join(", ")
}

/// See the module. Clones are the same.
#[derive(Debug, Clone)]
pub struct ImageKeeper {
    store: Store,
    provisioner: Provisioner,
    records: StoreHandle,
    requests: mpsc::Sender<Request>,
}

impl ImageKeeper {
    pub(super) fn new(
        store: Store,
        provisioner: Provisioner,
        records: StoreHandle,
        requests: mpsc::Sender<Request>,
    ) -> Self {
        Self { store, provisioner, records, requests }
    }

    /// All images, and the pulls that go on.
    ///
    /// # Errors
    /// When the store can't be read, or the agent is ending.
    pub async fn list(&self) -> Result<ImagesView, ImagesRefused> {
        let in_use = self.in_use().await?;
        let store = self.store.clone();
        let (images, usage) =
            blocking(move || Ok((views(&store, &in_use), store.usage()?))).await?;
        Ok(ImagesView { images, pulls: self.provisioner.progress(), usage })
    }

    /// The pulls that go on.
    #[must_use]
    pub fn pulls(&self) -> Vec<PullProgress> {
        self.provisioner.progress()
    }

    /// Gets an image: from its registry even if it is here, because that was asked for.
    ///
    /// # Errors
    /// Why it is not here.
    pub async fn pull(&self, text: &str) -> Result<Got, ImagesRefused> {
        let source: ImageSource =
            text.parse().map_err(|error| ImagesRefused::Invalid(format!("{error}")))?;
        let credentials = Credentials::default();
        let got = self.provisioner.resolve(&source, PullPolicy::Always, &credentials).await?;
        self.tell().await;
        let how = match got.had {
            Had::Present | Had::Unchanged => "it was here already".to_owned(),
            Had::Unreachable { why } => return Err(ProvisionError::passing(why).into()),
            Had::Pulled { bytes } => format!("{bytes} bytes were fetched"),
        };
        Ok(got_view(&got.image, how))
    }

    /// Loads the images of an archive or a layout, which are never collected then.
    ///
    /// # Errors
    /// Why they are not here; those before the faulty one are.
    pub async fn load(&self, path: &Path) -> Result<Vec<Got>, ImagesRefused> {
        let file = path.to_owned();
        blocking(move || match file.metadata() {
            Ok(_) => Ok(()),
            Err(error) => {
                Err(ImagesRefused::Invalid(format!("can't load {}: {error}", file.display())))
            }
        })
        .await?;
        let loaded = self.provisioner.load(path).await;
        self.tell().await;
        Ok(loaded?.iter().map(|image| got_view(image, "loaded".to_owned())).collect())
    }

    /// Removes a name of an image, and the image with its last one; by its id, all of it.
    ///
    /// # Errors
    /// If there is none, or pods use it.
    pub async fn remove(&self, text: &str) -> Result<(), ImagesRefused> {
        let in_use = self.in_use().await?;
        let (store, text) = (self.store.clone(), text.to_owned());
        let removed = blocking(move || remove(&store, &in_use, &text)).await;
        self.tell().await;
        removed
    }

    /// Removes every image that nobody uses, but those that were loaded from files.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn prune(&self) -> Result<Collected, ImagesRefused> {
        self.collect(u64::MAX, Millis(0)).await
    }

    /// Gives back so much, if that can be had from what nobody uses, however young it is.
    pub(super) async fn give_back(&self, bytes: u64) -> Result<Collected, ImagesRefused> {
        self.collect(bytes, Millis(0)).await
    }

    /// Whether an image is here.
    pub(super) fn is_here(&self, image: &ImageId) -> bool {
        self.store.image(image).is_some()
    }

    /// Tells of a file that can't be loaded.
    pub(super) async fn tell_of_file(&self, text: String) {
        // The loop is gone only when the agent ends.
        let _gone = self.requests.send(Request::ImageFileFaulty { text }).await;
    }

    /// Looks now and then whether the disk is full, and gives some of it back.
    pub(super) async fn watch_the_disk(self, snapshots: watch::Receiver<Arc<Snapshot>>) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let directory = self.store.directory().to_owned();
            let gc = snapshots.borrow().agent.image_gc;
            match blocking(move || Ok(excess(&directory, gc)?)).await {
                Ok(0) => {}
                Ok(bytes) => match self.collect(bytes, gc.min_age).await {
                    Ok(Collected { images, freed }) if !images.is_empty() => tracing::warn!(
                        freed,
                        images = images.len(),
                        "the disk is nearly full; removed images that nobody uses"
                    ),
                    // It is the operator's, not the images'.
                    Ok(Collected { .. }) => {}
                    Err(error) => {
                        let error = super::chain(&error);
                        tracing::error!(error, "can't remove images from the full disk");
                    }
                },
                Err(error) => {
                    let error = super::chain(&error);
                    tracing::error!(error, "can't see how full the disk is");
                }
            }
        }
    }

    async fn collect(&self, bytes: u64, min_age: Millis) -> Result<Collected, ImagesRefused> {
        let in_use = self.in_use().await?;
        let mut keep: BTreeSet<ImageId> = in_use.by.into_keys().collect();
        for (pod, accepted) in in_use.with_history {
            let kept = self.records.revisions(pod).await;
            // Better too much is kept than what a pod may be rolled back to is lost.
            let kept = kept.map_err(|error| {
                ImagesRefused::Provision(ProvisionError::passing(super::chain(&error)))
            })?;
            // A pod that was rolled back has what it is now among them.
            let earlier = kept.iter().filter(|kept| kept.accepted.number != accepted);
            let before = earlier.max_by_key(|kept| kept.accepted.number);
            let spec = before.and_then(|kept| kept.spec.as_ref());
            let images = spec.into_iter().flat_map(|spec| spec.images());
            keep.extend(images.filter_map(|image| Some(image.resolved.as_ref()?.id.clone())));
        }
        let store = self.store.clone();
        let collected =
            blocking(move || Ok(store.collect(&Collection { keep: &keep, bytes, min_age })?)).await;
        self.tell().await;
        collected
    }

    async fn in_use(&self) -> Result<InUse, ImagesRefused> {
        let (answer, answered) = oneshot::channel();
        let asked = self.requests.send(Request::ImagesInUse { answer }).await;
        asked.map_err(|_| ImagesRefused::Ending)?;
        answered.await.map_err(|_| ImagesRefused::Ending)
    }

    async fn tell(&self) {
        // The loop is gone only when the agent ends.
        let _gone = self.requests.send(Request::ImagesChanged).await;
    }
}

/// The images of a node whose agent does not run. As long as this is there, none can be started.
#[derive(Debug)]
pub struct IdleImages {
    store: Store,
    provisioner: Provisioner,
}

impl IdleImages {
    /// The images that an agent with these paths has.
    ///
    /// # Errors
    /// When an agent has them open, or they can't be read.
    pub fn open(paths: &Paths) -> Result<Self, ImagesRefused> {
        let store = Store::open(&paths.images(), Contention::Refuse)?;
        let provisioner = Provisioner::new(store.clone(), PullOptions::default());
        Ok(Self { store, provisioner })
    }

    /// All images. Who uses them is not known.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn list(&self) -> Result<ImagesView, ImagesRefused> {
        let images = views(&self.store, &InUse::default());
        Ok(ImagesView { images, pulls: Vec::new(), usage: self.store.usage()? })
    }

    /// As [`ImageKeeper::load`].
    ///
    /// # Errors
    /// Why they are not here; those before the faulty one are.
    pub async fn load(&self, path: &Path) -> Result<Vec<Got>, ImagesRefused> {
        let loaded = self.provisioner.load(path).await?;
        Ok(loaded.iter().map(|image| got_view(image, "loaded".to_owned())).collect())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImagesRefused> + Send + 'static,
) -> Result<T, ImagesRefused> {
    spawn_blocking(work).await.unwrap_or(Err(ImagesRefused::Ending))
}

fn views(store: &Store, in_use: &InUse) -> Vec<ImageView> {
    let names = store.names();
    let view = |image: &Arc<crate::provisioner::store::Image>| {
        let named = || names.iter().filter(|entry| entry.image == image.id);
        ImageView {
            id: image.id.clone(),
            manifest: image.manifest.to_string(),
            names: named().map(|entry| entry.name.to_string()).collect(),
            size: image.size(),
            pinned: named().any(|entry| entry.pinned),
            made: image.made,
            used: named().filter_map(|entry| entry.used).max(),
            used_by: in_use.by.get(&image.id).cloned().unwrap_or_default(),
        }
    };
    let mut views: Vec<ImageView> = store.images().iter().map(view).collect();
    views.sort_by(|a, b| (&a.names, &a.id).cmp(&(&b.names, &b.id)));
    views
}

fn got_view(image: &crate::provisioner::image::Image, how: String) -> Got {
    let names = image.names.iter().map(ToString::to_string).collect();
    Got { id: image.id.clone(), names, how }
}

fn remove(store: &Store, in_use: &InUse, text: &str) -> Result<(), ImagesRefused> {
    let refuse_if_used = |id: &ImageId| match in_use.by.get(id) {
        Some(pods) => Err(ImagesRefused::Used { image: text.to_owned(), pods: pods.clone() }),
        None => Ok(()),
    };
    let not_found = || ImagesRefused::NotFound(text.to_owned());
    if let Some(id) = by_id(store, text) {
        refuse_if_used(&id)?;
        store.remove_image(&id)?;
    } else {
        let source: ImageSource =
            text.parse().map_err(|error| ImagesRefused::Invalid(format!("{error}")))?;
        let name: ImageName = source.to_string().parse().map_err(|_| not_found())?;
        let (_, image) = store.by_name(&name).ok_or_else(not_found)?;
        let others = store.names().iter().filter(|entry| entry.image == image.id).count() > 1;
        if !others {
            refuse_if_used(&image.id)?;
        }
        store.remove_name(&name)?;
    }
    // The layers that no image has any more.
    let keep = in_use.by.keys().cloned().collect();
    store.collect(&Collection { keep: &keep, bytes: 0, min_age: Millis(0) })?;
    Ok(())
}

/// The image whose id begins so: `sha256:` may be left out, and at least 12 digits are needed.
fn by_id(store: &Store, text: &str) -> Option<ImageId> {
    const DIGITS_MIN: usize = 12;
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    let is_id = digits.len() >= DIGITS_MIN && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let images = store.images();
    let mut found =
        images.iter().filter(|image| image.id.digest().digest().starts_with(digits) && is_id);
    match (found.next(), found.next()) {
        (Some(image), None) => Some(image.id.clone()),
        (Some(_) | None, _) => None,
    }
}

/// How many bytes of the disk must be given back, if it is too full.
fn excess(directory: &PathBuf, gc: ImageGc) -> Result<u64, StoreError> {
    let attempted = "see how full the disk is of";
    let disk = rustix::fs::statvfs(directory).map_err(|error| StoreError::Io {
        attempted,
        path: directory.clone(),
        source: error.into(),
    })?;
    // As df(1) has it: what is kept for root is neither used nor free.
    let (used, free) = (disk.f_blocks.saturating_sub(disk.f_bfree), disk.f_bavail);
    let (used, total) = (used * disk.f_frsize, used.saturating_add(free) * disk.f_frsize);
    let limit = |percent: u32| total / 100 * u64::from(percent);
    let is_too_full = used >= limit(gc.high_percent);
    Ok(if is_too_full { used.saturating_sub(limit(gc.low_percent)) } else { 0 })
}
