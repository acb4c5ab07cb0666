//! Giving disk back.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use super::images::{Index, UsedFile};
use super::layers::list;
use super::{BLOBS, Image, ImageId, LAYERS, LayerId, PARTIAL, Store, StoreError, failed, step};
use crate::clock::{BootTime, Millis};

/// What to collect. An image goes if it is not in `keep`, has no pinned name, was not used within
/// `min_age`, and there is still something to free. One that has no name at all goes at once,
/// unless it is in `keep`.
#[derive(Debug, Clone)]
pub struct Collection<'a> {
    /// Never these, whatever else is said: all that containers run on, too.
    pub keep: &'a BTreeSet<ImageId>,
    /// How many bytes are wanted. 0: no image with a name goes, only what no image needs;
    /// `u64::MAX`: every image that may go. Above 0 also unfinished downloads that nobody works
    /// on.
    pub bytes: u64,
    /// How long an image stays after its last use.
    pub min_age: Millis,
}

/// What was collected.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Collected {
    /// The images that went, in the order in which they did.
    pub images: Vec<ImageId>,
    /// Bytes on the disk that were given back, about.
    pub freed: u64,
}

/// What the store takes on the disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Unpacked layers, each counted once.
    pub layers: u64,
    /// Manifests, indexes and configurations.
    pub blobs: u64,
    /// Downloads that are not unpacked yet.
    pub partial: u64,
}

impl Store {
    /// Gives disk back, see [`Collection`]: first what no image needs, then images by least recent
    /// use. What goes is out of sight before it is deleted.
    ///
    /// # Errors
    /// When something can't be removed; what was removed before is gone.
    pub fn collect(&self, collection: &Collection<'_>) -> Result<Collected, StoreError> {
        let _one = self.inner.collecting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut collected = Collected::default();
        self.remove_nameless(collection.keep, &mut collected)?;
        collected.freed += self.sweep()?;
        if collection.bytes > collected.freed {
            collected.freed += self.sweep_partial()?;
        }
        for id in self.candidates(collection) {
            if collected.freed >= collection.bytes {
                break;
            }
            let mut index = self.index();
            // It may have got a pinned name, or be in use, since the list was made.
            if self.may_go(&index, collection, &id) {
                self.unlink_image(&mut index, &id)?;
                drop(index);
                collected.images.push(id);
                collected.freed += self.sweep()?;
            }
        }
        self.empty_trash()?;
        Ok(collected)
    }

    /// How much of the disk the store takes, from what is known about each layer: nothing is
    /// walked through.
    ///
    /// # Errors
    /// When a directory can't be listed.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let mut usage = Usage::default();
        for path in list(&self.path(LAYERS))? {
            usage.layers += self.layer_size(&path)?;
        }
        for path in list(&self.path(PARTIAL))? {
            usage.partial += disk_size(&path);
        }
        for path in self.blob_paths()? {
            usage.blobs += disk_size(&path);
        }
        Ok(usage)
    }

    /// Images that lost their names, because a name was moved or taken away.
    fn remove_nameless(
        &self,
        keep: &BTreeSet<ImageId>,
        collected: &mut Collected,
    ) -> Result<(), StoreError> {
        let mut index = self.index();
        let named: BTreeSet<_> = index.names.values().map(|name| name.image.clone()).collect();
        let held = |image: &Image| image.layer_ids().any(|id| index.held_layers.contains_key(id));
        let gone: Vec<_> = index
            .images
            .values()
            .filter(|image| !named.contains(&image.id) && !keep.contains(&image.id) && !held(image))
            .map(|image| image.id.clone())
            .collect();
        for id in gone {
            self.unlink_image(&mut index, &id)?;
            collected.images.push(id);
        }
        Ok(())
    }

    /// The images that may go, the one that was not used for longest first.
    fn candidates(&self, collection: &Collection<'_>) -> Vec<ImageId> {
        let index = self.index();
        let mut all: Vec<_> =
            index.images.keys().filter(|id| self.may_go(&index, collection, id)).cloned().collect();
        all.sort_by_key(|id| index.used.get(id).map_or(0, |used: &UsedFile| used.order));
        all
    }

    fn may_go(&self, index: &Index, collection: &Collection<'_>, id: &ImageId) -> bool {
        let now = BootTime::now();
        let young = index
            .used
            .get(id)
            .is_some_and(|used| used.age(&self.inner.boot, now) < collection.min_age);
        let pinned = index.names.values().any(|name| name.pinned && name.image == *id);
        let held = |image: &Arc<Image>| {
            image.layer_ids().any(|layer| index.held_layers.contains_key(layer))
                || index.held_blobs.contains_key(id.digest().as_ref())
        };
        index.images.get(id).is_some_and(|image| !held(image))
            && !collection.keep.contains(id)
            && !pinned
            && !young
    }

    /// Removes the layers and blobs that no image needs and nobody works with; the bytes of them.
    fn sweep(&self) -> Result<u64, StoreError> {
        let freed = self.sweep_layers()? + self.sweep_blobs()?;
        self.empty_trash()?;
        Ok(freed)
    }

    fn sweep_layers(&self) -> Result<u64, StoreError> {
        let mut freed = 0;
        for path in list(&self.path(LAYERS))? {
            // Anything else is being unpacked.
            let Some(id) = layer_of(&path) else { continue };
            let size = self.layer_size(&path)?;
            let index = self.index();
            let needed = index.held_layers.contains_key(&id)
                || index.images.values().any(|image| image.layer_ids().any(|other| *other == id));
            if !needed {
                self.to_trash(&path)?;
                step();
                freed += size;
            }
        }
        Ok(freed)
    }

    fn sweep_blobs(&self) -> Result<u64, StoreError> {
        let mut freed = 0;
        for path in self.blob_paths()? {
            let index = self.index();
            let images = index.images.values().flat_map(|i| [i.id.digest(), &i.manifest]);
            let targets = index.names.values().map(|name| &name.target);
            let needed = images.chain(targets).any(|digest| self.blob_path(digest) == path)
                || index.held_blobs.keys().any(|text| is_blob(&path, text));
            if !needed {
                freed += disk_size(&path);
                fs::remove_file(&path).map_err(failed("remove", &path))?;
                step();
            }
        }
        Ok(freed)
    }

    /// Removes the downloads that nobody works on.
    fn sweep_partial(&self) -> Result<u64, StoreError> {
        let mut freed = 0;
        for path in list(&self.path(PARTIAL))? {
            let index = self.index();
            if !index.fetching.iter().any(|digest| is_partial(&path, digest)) {
                freed += disk_size(&path);
                fs::remove_file(&path).map_err(failed("remove", &path))?;
                step();
            }
        }
        Ok(freed)
    }

    fn blob_paths(&self) -> Result<Vec<PathBuf>, StoreError> {
        let mut all = Vec::new();
        for directory in list(&self.path(BLOBS))? {
            all.extend(list(&directory)?);
        }
        Ok(all)
    }

    fn layer_size(&self, path: &Path) -> Result<u64, StoreError> {
        let Some(id) = layer_of(path) else { return Ok(0) };
        Ok(self.read_mark(&id)?.map_or(0, |mark| mark.size))
    }
}

fn layer_of(path: &Path) -> Option<LayerId> {
    path.file_name()?.to_str()?.parse().ok()
}

/// Whether a path of `blobs/` is that of this digest. A temporary file is that of what it becomes.
fn is_blob(path: &Path, digest: &str) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let hex = name.strip_prefix('.').and_then(|name| name.split('.').next()).unwrap_or(name);
    digest.split_once(':').is_some_and(|(_, other)| other == hex)
}

fn is_partial(path: &Path, digest: &str) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    digest.split_once(':').is_some_and(|(_, hex)| name == Some(hex))
}

fn disk_size(path: &Path) -> u64 {
    const SECTOR: u64 = 512;
    path.symlink_metadata().map_or(0, |found| found.blocks() * SECTOR)
}
