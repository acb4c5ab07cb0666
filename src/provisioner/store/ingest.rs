//! Bringing an image in.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oci_spec::image::Digest;

use super::layers::LayerFile;
use super::{
    BLOB_LEN_MAX, ChainId, DiffId, FetchedBlob, Image, ImageId, ImageLayer, LAYERS_MAX, LayerId,
    NewImage, Partial, Store, StoreError, create_dir, failed, hasher, step, sync_dir,
};
use crate::clock::WallTime;
use crate::provisioner::unpack::{UnpackOptions, UnpackReport};

/// An image on its way into the store. Shared by whoever works on it; what was put in or found
/// through it is not collected until it is dropped. Dropped without [`Ingest::commit`], all of it
/// stays for the next try, until it is collected.
#[derive(Debug)]
pub struct Ingest {
    store: Store,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    layers: BTreeSet<LayerId>,
    blobs: BTreeSet<String>,
}

/// A layer that [`Ingest::unpack`] made, or found.
#[derive(Debug, Clone)]
pub struct UnpackedLayer {
    /// Its directory.
    pub id: LayerId,
    /// What was noteworthy about it; nothing if it was there already.
    pub report: UnpackReport,
}

impl Ingest {
    pub(super) fn new(store: Store) -> Self {
        Self { store, held: Mutex::default() }
    }

    /// The store that it is for.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// A manifest, index or configuration, as [`Store::blob`].
    ///
    /// # Errors
    /// As [`Store::blob`].
    pub fn blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        self.hold_blob(digest);
        self.store.blob(digest)
    }

    /// Puts a manifest, index or configuration in; durable on return.
    ///
    /// # Errors
    /// [`StoreError::WrongDigest`], [`StoreError::TooLong`] ([`BLOB_LEN_MAX`]),
    /// [`StoreError::UnknownAlgorithm`]; when it can't be written.
    pub fn put_blob(&self, bytes: &[u8], digest: &Digest) -> Result<(), StoreError> {
        if bytes.len() as u64 > BLOB_LEN_MAX {
            let what = "the most that a manifest or configuration may have";
            return Err(StoreError::TooLong { digest: digest.clone(), limit: BLOB_LEN_MAX, what });
        }
        let mut hasher = hasher(digest)?;
        hasher.update(bytes);
        let found = hasher.finish();
        if found != *digest {
            return Err(StoreError::WrongDigest { expected: digest.clone(), found });
        }
        self.hold_blob(digest);
        if self.store.blob(digest)?.is_some() {
            return Ok(());
        }
        let path = self.store.blob_path(digest);
        let directory = path.parent().expect("it is in the directory of its algorithm");
        create_dir(directory)?;
        // Swept with the temporary files of checkpoints, whose form it has.
        let temp =
            format!(".{}.{}-{}.tmp", digest.digest(), std::process::id(), self.store.next_count());
        write_durably(&directory.join(temp), bytes, &path)?;
        sync_dir(directory)
    }

    /// Begins to fetch a layer's blob, or goes on with it: what an earlier try left is hashed
    /// again, and its length is [`Partial::len`].
    ///
    /// # Errors
    /// [`StoreError::Fetching`], [`StoreError::UnknownAlgorithm`]; when the file can't be made or
    /// read.
    pub fn partial(&self, digest: &Digest, size: u64) -> Result<Partial, StoreError> {
        Partial::open(&self.store, digest, size)
    }

    /// Removes what an earlier try left of a layer's blob, unless somebody is fetching it: the layer
    /// is unpacked, and who did that was killed before it could remove the blob.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn forget_partial(&self, digest: &Digest) -> Result<(), StoreError> {
        Partial::forget(&self.store, digest)
    }

    /// The topmost of these layers (the lowest first), if it is unpacked and in order. A pull asks
    /// for each, from the lowest up, and fetches what is missing.
    ///
    /// # Errors
    /// [`StoreError::Collision`]; when its files can't be read.
    pub fn layer(&self, chain: &[DiffId]) -> Result<Option<LayerId>, StoreError> {
        let Some(chain) = ChainId::of(chain) else { return Ok(None) };
        let id = LayerId::from(&chain);
        self.hold_layer(&id);
        Ok(self.store.read_layer(&chain)?.map(|_| id))
    }

    /// Unpacks the topmost of these layers (the lowest first); durable on return. Its compression
    /// is seen from its first bytes: gzip, zstd or none. `input` is read to its end, and a failing
    /// read ends it: that is how to cancel. If the layer is there already, nothing is read.
    ///
    /// Layers of one image are unpacked one after the other: what a hard link or a missing
    /// directory means depends on the layers below.
    ///
    /// # Errors
    /// [`StoreError::NoLayer`], [`StoreError::Collision`], [`StoreError::Unpack`] (also when the
    /// tar file is not what the diff id says). Nothing is left of the layer then.
    pub fn unpack(
        &self,
        chain: &[DiffId],
        input: impl Read + Send,
        options: &UnpackOptions,
    ) -> Result<UnpackedLayer, StoreError> {
        let Some(whole) = ChainId::of(chain).filter(|_| chain.len() <= LAYERS_MAX) else {
            let why = format!("an image has 1 to {LAYERS_MAX} layers, not {}", chain.len());
            return Err(StoreError::Refused { why });
        };
        let id = LayerId::from(&whole);
        for len in 1..chain.len() {
            if self.layer(&chain[..len])?.is_none() {
                let missing = ChainId::of(&chain[..len]).expect("it has at least one layer");
                return Err(StoreError::NoLayer { missing });
            }
        }
        self.hold_layer(&id);
        let _turn = Turn::wait(&self.store, id.clone());
        if self.store.read_layer(&whole)?.is_some() {
            return Ok(UnpackedLayer { id, report: UnpackReport::default() });
        }
        let report = self.store.make_layer(chain, input, options)?;
        Ok(UnpackedLayer { id, report })
    }

    /// [`Ingest::unpack`] of a fetched blob, which is deleted when that succeeded, or when it
    /// failed because of what is in the blob.
    ///
    /// # Errors
    /// As [`Ingest::unpack`].
    pub fn unpack_blob(
        &self,
        chain: &[DiffId],
        blob: FetchedBlob,
        options: &UnpackOptions,
    ) -> Result<UnpackedLayer, StoreError> {
        let file = blob.open()?;
        let unpacked = self.unpack(chain, file, options);
        let keep = match &unpacked {
            Ok(_) => false,
            Err(StoreError::Unpack { source, .. }) => !source.is_content(),
            Err(_) => true,
        };
        if !keep {
            blob.discard()?;
        }
        unpacked
    }

    /// Makes the image and its names visible; durable on return. May be called again.
    ///
    /// # Errors
    /// [`StoreError::Refused`] if a part of it is missing, or it has no name or too many layers
    /// ([`LAYERS_MAX`]); when it can't be written.
    pub fn commit(&self, new: &NewImage) -> Result<Arc<Image>, StoreError> {
        let refused = |why: String| Err(StoreError::Refused { why });
        if new.names.is_empty() {
            return refused("an image needs a name".into());
        }
        if new.layers.len() > LAYERS_MAX {
            return refused(format!("an image has at most {LAYERS_MAX} layers"));
        }
        for digest in [&new.manifest, &new.config] {
            if self.blob(digest)?.is_none() {
                return refused(format!("the blob {digest} is not in the store"));
            }
        }
        let mut layers = Vec::new();
        for len in 1..=new.layers.len() {
            let chain = ChainId::of(&new.layers[..len]).expect("it has at least one layer");
            let id = LayerId::from(&chain);
            self.hold_layer(&id);
            let Some(LayerFile { size, .. }) = self.store.read_layer(&chain)? else {
                return Err(StoreError::NoLayer { missing: chain });
            };
            layers.push(ImageLayer { id, chain, diff: new.layers[len - 1].clone(), size });
        }
        let id = ImageId::from(new.config.clone());
        let mut index = self.store.index();
        let before = index.images.get(&id);
        let made = before.map_or_else(WallTime::now, |image| image.made);
        let image =
            Arc::new(Image { id: id.clone(), manifest: new.manifest.clone(), layers, made });
        if before != Some(&image) {
            self.store.write_image(&mut index, &image)?;
        }
        for name in &new.names {
            self.store.write_name(&mut index, &id, name)?;
        }
        drop(index);
        self.store.touch(&id);
        Ok(image)
    }

    fn hold_layer(&self, id: &LayerId) {
        if self.held().layers.insert(id.clone()) {
            *self.store.index().held_layers.entry(id.clone()).or_default() += 1;
        }
    }

    fn hold_blob(&self, digest: &Digest) {
        let text = digest.to_string();
        if self.held().blobs.insert(text.clone()) {
            *self.store.index().held_blobs.entry(text).or_default() += 1;
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        let held = std::mem::take(&mut *self.held());
        let mut index = self.store.index();
        for id in held.layers {
            release(&mut index.held_layers, &id);
        }
        for blob in held.blobs {
            release(&mut index.held_blobs, &blob);
        }
    }
}

fn release<K: Ord>(held: &mut std::collections::BTreeMap<K, usize>, key: &K) {
    if let Some(count) = held.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            held.remove(key);
        }
    }
}

/// The right to unpack a layer. Images share layers, and several may come at once.
struct Turn<'a> {
    store: &'a Store,
    id: LayerId,
}

impl<'a> Turn<'a> {
    fn wait(store: &'a Store, id: LayerId) -> Self {
        let waiting =
            store.inner.unpacked.wait_while(store.index(), |index| index.unpacking.contains(&id));
        let mut index = waiting.unwrap_or_else(PoisonError::into_inner);
        index.unpacking.insert(id.clone());
        Self { store, id }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.store.index().unpacking.remove(&self.id);
        self.store.inner.unpacked.notify_all();
    }
}

fn write_durably(temp: &Path, bytes: &[u8], path: &Path) -> Result<(), StoreError> {
    let written = File::create_new(temp).and_then(|mut file| {
        file.write_all(bytes)?;
        step();
        file.sync_all()?;
        step();
        std::fs::rename(temp, path)
    });
    step();
    written.map_err(|error| {
        // If it can't be removed now, it is when the store is opened next.
        drop(std::fs::remove_file(temp));
        failed("write", path)(error)
    })
}
