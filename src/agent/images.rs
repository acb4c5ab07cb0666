//! The images of pods: searches for them, one for a pod, as long as the reconciler asks for it.
//!
//! ```text
//! Plan::seek ─► Images::pursue ─► a search ─► provisioner ─► Update::Images ─► Images::take
//!                                                              ─► claims that know their images
//! ```
//!
//! What a search finds is kept beside what the manifest asks for, as long as it asks for that.
//! A search that fails goes on by itself, ever more slowly. Not here: whether a pod may become what
//! it wants (`reconciler::images`), and getting an image (`provisioner`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::pull_secrets::{self, PullSecrets};
use super::worker::Update;
use crate::clock::Millis;
use crate::ids::PodName;
use crate::manifest::desired::DesiredState;
use crate::manifest::library::Library;
use crate::manifest::pod::{Image, PodSpec, ResolvedImage};
use crate::manifest::revision::{Hash, Revision};
use crate::provisioner::auth::Credentials;
use crate::provisioner::failure::{ProvisionError, PullReason, Retry};
use crate::provisioner::pull::{Had, Provisioner};
use crate::provisioner::reference::{ImageSource, PullPolicy};
use crate::provisioner::store::{ImageId, Store};
use crate::reconciler::{ActualState, ImageTrouble, Sought};

/// A search that takes no longer is not worth a word.
const NOTICED_AFTER: Duration = Duration::from_millis(300);
/// First delay after a search failed; doubled each time (the kubelet's).
const RETRY: Millis = Millis::from_secs(10);
/// Longest delay after a search failed.
const RETRY_MAX: Millis = Millis::from_secs(300);

/// The searches, and what they found.
#[derive(Debug)]
pub(super) struct Images {
    store: Store,
    provisioner: Provisioner,
    searches: BTreeMap<PodName, Search>,
    searches_made: u64,
    found: BTreeMap<PodName, Resolution>,
    updates: mpsc::Sender<Update>,
    /// Counts what may have brought images that failed before.
    news: watch::Sender<u64>,
}

/// A search that goes on; it ends when this is dropped.
#[derive(Debug)]
struct Search {
    number: u64,
    of: Arc<PodSpec>,
    credentials: Credentials,
    task: AbortHandle,
}

impl Drop for Search {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Which images a manifest's names meant when they were looked up.
#[derive(Debug)]
struct Resolution {
    digest: Hash,
    images: Vec<(ImageSource, Arc<ResolvedImage>)>,
}

/// What a search tells.
#[derive(Debug)]
pub(super) struct Found {
    pod: PodName,
    number: u64,
    news: News,
}

impl Found {
    /// Whose images are searched for.
    pub(super) fn pod(&self) -> &PodName {
        &self.pod
    }
}

#[derive(Debug)]
enum News {
    /// It takes a while.
    Pulling(String),
    Failed {
        trouble: ImageTrouble,
        text: String,
    },
    All {
        images: Vec<(ImageSource, Arc<ResolvedImage>)>,
        notes: Vec<Note>,
    },
}

/// Something worth an event of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Note {
    /// An image was pulled or read.
    Pulled(String),
    /// A Secret with credentials can't be used.
    NoSecret(String),
    /// What is here is used, though the registry should have been asked.
    NotRefreshed(String),
}

impl Images {
    pub(super) fn new(
        store: Store,
        provisioner: Provisioner,
        updates: mpsc::Sender<Update>,
    ) -> Self {
        Self {
            store,
            provisioner,
            searches: BTreeMap::new(),
            searches_made: 0,
            found: BTreeMap::new(),
            updates,
            news: watch::Sender::new(0),
        }
    }

    /// Lets those search whose images are wanted, and nobody else.
    /// Tells what is worth an event.
    pub(super) fn pursue(
        &mut self,
        seek: &BTreeMap<PodName, Arc<PodSpec>>,
        library: &Library,
        actual: &mut ActualState,
    ) -> Vec<(PodName, Note)> {
        let mut notes = Vec::new();
        let shown: BTreeMap<&PodName, PullSecrets> =
            seek.iter().map(|(pod, spec)| (pod, pull_secrets::of(spec, library))).collect();
        self.searches.retain(|pod, search| {
            seek.get(pod).is_some_and(|spec| *spec == search.of)
                && shown.get(pod).is_some_and(|shown| shown.credentials == search.credentials)
        });
        actual.images.sought.retain(|pod, _| self.searches.contains_key(pod));
        for (pod, spec) in seek {
            if self.searches.contains_key(pod) {
                continue;
            }
            let PullSecrets { credentials, problems } = shown.get(pod).cloned().unwrap_or_default();
            notes.extend(problems.into_iter().map(|text| (pod.clone(), Note::NoSecret(text))));
            self.searches_made += 1;
            let number = self.searches_made;
            let teller = Teller { pod: pod.clone(), number, updates: self.updates.clone() };
            let news = self.news.subscribe();
            let asked = (spec.clone(), credentials.clone());
            let search = search(self.provisioner.clone(), asked, teller, news);
            let task = tokio::spawn(search).abort_handle();
            let search = Search { number, of: spec.clone(), credentials, task };
            self.searches.insert(pod.clone(), search);
        }
        notes
    }

    /// Takes in what a search tells; tells what is worth an event.
    pub(super) fn take(&mut self, found: Found, actual: &mut ActualState) -> Vec<Note> {
        let Found { pod, number, news } = found;
        // What an earlier search still has to say is about something else.
        if self.searches.get(&pod).is_none_or(|search| search.number != number) {
            return Vec::new();
        }
        match news {
            News::Pulling(text) => {
                actual.images.sought.insert(pod, Sought::Pulling(text));
                Vec::new()
            }
            News::Failed { trouble, text } => {
                actual.images.sought.insert(pod, Sought::Failed { trouble, text });
                Vec::new()
            }
            News::All { images, notes } => {
                actual.images.sought.remove(&pod);
                actual.images.here.extend(images.iter().map(|(_, image)| image.id.clone()));
                if let Some(search) = self.searches.remove(&pod) {
                    let digest = Revision::of(&search.of).digest();
                    self.found.insert(pod, Resolution { digest, images });
                }
                notes
            }
        }
    }

    /// Where images are kept.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Images may have come or gone without a search. What came is found by those who search.
    pub(super) fn look_again(&mut self, actual: &mut ActualState) {
        actual.images.here.retain(|id| self.store.image(id).is_some());
        self.news.send_modify(|count| *count += 1);
    }

    /// Lets the names of a pod's images be looked up anew.
    pub(super) fn forget(&mut self, pod: &PodName) {
        self.found.remove(pod);
    }

    /// Tells the claims which images they name, where that is known.
    pub(super) fn resolve(&mut self, desired: &mut DesiredState) {
        self.found.retain(|pod, resolution| {
            let claims = desired.claims.get_mut(pod).into_iter().flatten();
            let mut is_of_use = false;
            for claim in claims.filter(|claim| claim.revision.digest() == resolution.digest) {
                is_of_use = true;
                for image in Arc::make_mut(&mut claim.spec).images_mut() {
                    let known = resolution.images.iter().find(|(of, _)| *of == image.source);
                    image.resolved = known.map(|(_, resolved)| resolved.clone());
                }
            }
            is_of_use
        });
    }
}

/// Of the images that pods were accepted with, those that are whole. What the disk lost while
/// nobody looked is told by the log, and will be got again. Blocks.
pub(super) fn whole(store: &Store, actual: &ActualState) -> BTreeSet<ImageId> {
    let specs = actual.pods.values().flat_map(|pod| pod.spec.iter().chain(&pod.successor));
    let images = specs.flat_map(|stored| stored.spec.images());
    let ids: BTreeSet<&ImageId> =
        images.filter_map(|image| Some(&image.resolved.as_ref()?.id)).collect();
    let is_whole = |id: &&ImageId| match store.verify(id) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(error = super::chain(&error), "an image of a pod is lost");
            false
        }
    };
    ids.into_iter().filter(is_whole).cloned().collect()
}

/// Tells the loop how a search goes.
struct Teller {
    pod: PodName,
    number: u64,
    updates: mpsc::Sender<Update>,
}

impl Teller {
    async fn tell(&self, news: News) {
        let found = Found { pod: self.pod.clone(), number: self.number, news };
        // The loop is gone only when the agent ends.
        let _gone = self.updates.send(Update::Images(found)).await;
    }
}

async fn search(
    provisioner: Provisioner,
    (spec, credentials): (Arc<PodSpec>, Credentials),
    teller: Teller,
    mut news: watch::Receiver<u64>,
) {
    let mut delay = RETRY;
    let mut is_first = true;
    loop {
        news.mark_unchanged();
        let error = match find_all(&provisioner, &spec, &credentials, &teller).await {
            Ok((images, notes)) => return teller.tell(News::All { images, notes }).await,
            Err(error) => error,
        };
        let pause = match error.retry {
            Retry::Later { after: Some(after) } => delay.max(after),
            Retry::Later { after: None } | Retry::Unlikely => delay,
        };
        let trouble = match error.reason {
            PullReason::ErrImagePull if is_first => ImageTrouble::ErrImagePull,
            PullReason::ErrImagePull => ImageTrouble::ImagePullBackOff,
            PullReason::ErrImageNeverPull => ImageTrouble::ErrImageNeverPull,
            PullReason::InvalidImageName => ImageTrouble::InvalidImageName,
        };
        let text = format!("{error}; next attempt {pause} later");
        tracing::warn!(pod = %teller.pod, error = text, "can't get the images of a pod");
        teller.tell(News::Failed { trouble, text }).await;
        tokio::select! {
            // Cancel-safe: a timer, and the change of a counter that is marked above.
            () = sleep(pause.into()) => {}
            Ok(()) = news.changed() => {}
        }
        delay = Millis(delay.0.saturating_mul(2)).min(RETRY_MAX);
        is_first = false;
    }
}

type All = (Vec<(ImageSource, Arc<ResolvedImage>)>, Vec<Note>);

async fn find_all(
    provisioner: &Provisioner,
    spec: &PodSpec,
    credentials: &Credentials,
    teller: &Teller,
) -> Result<All, ProvisionError> {
    let (mut images, mut notes): All = Default::default();
    for image in spec.images() {
        if images.iter().any(|(known, _)| *known == image.source) {
            continue;
        }
        let (source, policy) = wanted(image);
        let name = source.familiar();
        let getting = provisioner.resolve(&source, policy, credentials);
        tokio::pin!(getting);
        let got = tokio::select! {
            // Cancel-safe: `getting` is polled on below.
            got = &mut getting => got,
            () = sleep(NOTICED_AFTER) => {
                teller.tell(News::Pulling(format!("pulls image {name}"))).await;
                getting.await
            }
        }?;
        match got.had {
            Had::Present | Had::Unchanged => {}
            Had::Unreachable { why } => {
                let text = format!("image {name} is used as it is here: {why}");
                notes.push(Note::NotRefreshed(text));
            }
            Had::Pulled { bytes } => {
                notes.push(Note::Pulled(format!("pulled image {name} ({bytes} bytes)")));
            }
        }
        let resolved = resolved(&got.image)?;
        if let Some(before) = &image.resolved
            && before.id != resolved.id
        {
            return Err(ProvisionError::lasting(format!(
                "image {name} is another one now ({}); the one that was accepted ({}) is lost",
                resolved.id, before.id
            )));
        }
        images.push((image.source.clone(), Arc::new(resolved)));
    }
    Ok((images, notes))
}

/// What to look for: of what was resolved before, exactly that.
fn wanted(image: &Image) -> (ImageSource, PullPolicy) {
    let Image { source, pull, resolved } = image;
    match (source, resolved) {
        (ImageSource::Registry(reference), Some(resolved)) => {
            let policy = match pull {
                PullPolicy::Always | PullPolicy::IfNotPresent => PullPolicy::IfNotPresent,
                PullPolicy::Never => PullPolicy::Never,
            };
            (ImageSource::Registry(reference.at(resolved.manifest.clone())), policy)
        }
        (source, _) => (source.clone(), *pull),
    }
}

/// What of an image counts for containers.
fn resolved(image: &crate::provisioner::image::Image) -> Result<ResolvedImage, ProvisionError> {
    let config = &image.config;
    let working_dir = Some(config.working_dir.as_str()).filter(|path| !path.is_empty());
    let working_dir = working_dir.map(str::parse).transpose().map_err(|error| {
        ProvisionError::lasting(format!("the image's WorkingDir can't be used: {error}"))
    })?;
    let stop_signal = Some(config.stop_signal.as_str()).filter(|signal| !signal.is_empty());
    let stop_signal = stop_signal.map(str::parse).transpose().map_err(|error| {
        ProvisionError::lasting(format!("the image's StopSignal can't be used: {error}"))
    })?;
    Ok(ResolvedImage {
        id: image.id.clone(),
        manifest: image.manifest.clone(),
        layers: image.layers.clone(),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        env: config.env.clone(),
        user: config.user.clone(),
        working_dir,
        stop_signal,
    })
}
