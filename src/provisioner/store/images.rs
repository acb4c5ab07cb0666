//! Images and their names.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::image::Digest;
use serde::{Deserialize, Serialize};

use super::{
    ChainId, DiffId, IMAGES, ImageId, ImageName, LayerId, NAMES, Store, StoreError, USED, failed,
    in_file, sha256, step, sync_dir,
};
use crate::clock::{BootId, BootTime, Millis, WallTime};
use crate::state::checkpoint::{self, Checkpoint, CheckpointError, Format};

/// An image that is complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The digest of its configuration, which is a blob of the store.
    pub id: ImageId,
    /// The digest of the manifest that it was made from, which is a blob of the store as well.
    pub manifest: Digest,
    /// Its layers, the lowest first.
    pub layers: Vec<ImageLayer>,
    /// When it came here, by the wall clock.
    pub made: WallTime,
}

impl Image {
    /// The directories of its layers, the lowest first.
    pub fn layer_ids(&self) -> impl Iterator<Item = &LayerId> {
        self.layers.iter().map(|layer| &layer.id)
    }

    /// What its layers take on the disk, in bytes; images may share them.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageLayer {
    /// Its directory.
    pub id: LayerId,
    /// It and all those below it.
    pub chain: ChainId,
    /// Its uncompressed tar file.
    pub diff: DiffId,
    /// Its bytes on the disk, about.
    pub size: u64,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameEntry {
    /// The name.
    pub name: ImageName,
    /// The image.
    pub image: ImageId,
    /// What the name led to where the image came from: an index or a manifest.
    pub target: Digest,
    /// Whether the image is never collected because of this name.
    pub pinned: bool,
    /// When the name was set, by the wall clock.
    pub made: WallTime,
    /// When the image was used last, by the wall clock; none if that is not known.
    pub used: Option<WallTime>,
}

/// An image that is to be, all of whose parts are in the store.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// Its manifest: a blob of the store.
    pub manifest: Digest,
    /// Its configuration: a blob of the store.
    pub config: Digest,
    /// Its layers (`rootfs.diff_ids` of the configuration), the lowest first, all unpacked.
    pub layers: Vec<DiffId>,
    /// What it is to be called; at least one.
    pub names: Vec<NewName>,
}

/// A name that an image is to get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewName {
    /// The name. If it stands for another image, that image loses it.
    pub name: ImageName,
    /// What it led to: an index or a manifest. Kept with the image if it is a blob of the store.
    pub target: Digest,
    /// Whether it pins the image. A pinned name that is set again for the same image stays pinned.
    pub pinned: bool,
}

/// `images/<hex>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ImageFile {
    format: Format<1>,
    id: ImageId,
    manifest: Digest,
    layers: Vec<ImageLayer>,
    made: WallTime,
}

impl Checkpoint for ImageFile {
    const FORMAT: u32 = 1;
}

/// `names/<hex>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NameFile {
    format: Format<1>,
    pub(super) name: ImageName,
    pub(super) image: ImageId,
    pub(super) target: Digest,
    pub(super) pinned: bool,
    made: WallTime,
}

impl Checkpoint for NameFile {
    const FORMAT: u32 = 1;
}

/// `used/<hex>.json`. The wall clock is for showing; which was used before which is told by the
/// order, and how long ago by the time of the boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UsedFile {
    format: Format<1>,
    pub(super) order: u64,
    boot: BootId,
    at: BootTime,
    wall: WallTime,
}

impl Checkpoint for UsedFile {
    const FORMAT: u32 = 1;
}

impl UsedFile {
    /// How long ago it was, at least: of an earlier boot it is known that it was before this one.
    pub(super) fn age(&self, boot: &BootId, now: BootTime) -> Millis {
        if self.boot == *boot { now.since(self.at) } else { now.since(BootTime(0)) }
    }
}

/// What the small files say, and who needs what at the moment.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) images: BTreeMap<ImageId, Arc<Image>>,
    pub(super) names: BTreeMap<ImageName, NameFile>,
    pub(super) used: BTreeMap<ImageId, UsedFile>,
    /// Layers that somebody works with, and how many do.
    pub(super) held_layers: BTreeMap<LayerId, usize>,
    /// Blobs, by their text, and how many work with them.
    pub(super) held_blobs: BTreeMap<String, usize>,
    /// Blobs that are being fetched, or fetched and not given up yet.
    pub(super) fetching: BTreeSet<String>,
    /// Layers that are being unpacked.
    pub(super) unpacking: BTreeSet<LayerId>,
}

impl Index {
    pub(super) fn entry(&self, file: &NameFile) -> NameEntry {
        NameEntry {
            name: file.name.clone(),
            image: file.image.clone(),
            target: file.target.clone(),
            pinned: file.pinned,
            made: file.made,
            used: self.used.get(&file.image).map(|used| used.wall),
        }
    }
}

impl Store {
    /// Notes that an image is used now. Nobody waits for the disk: after a power cut an older use
    /// may count, which makes a guess of [`Store::collect`] worse and nothing wrong.
    pub fn touch(&self, id: &ImageId) {
        let mut index = self.index();
        let newest = index.used.values().map(|used| used.order).max().unwrap_or(0);
        let now = BootTime::now();
        let fresh = |used: &UsedFile| {
            used.order == newest && used.age(&self.inner.boot, now) < TOUCH_INTERVAL
        };
        if !index.images.contains_key(id) || index.used.get(id).is_some_and(fresh) {
            return;
        }
        let used = UsedFile {
            format: Format,
            order: newest + 1,
            boot: self.inner.boot.clone(),
            at: now,
            wall: WallTime::now(),
        };
        let bytes = serde_json::to_vec(&used).expect("numbers and text are JSON");
        if let Err(error) = fs::write(self.used_path(id), bytes) {
            tracing::warn!(image = %id, error = %error, "can't note that an image is used");
        }
        index.used.insert(id.clone(), used);
    }

    /// Gives an image that is there one more name, or moves a name to it; durable on return.
    ///
    /// # Errors
    /// [`StoreError::Refused`] if there is no such image; when it can't be written.
    pub fn set_name(&self, id: &ImageId, name: &NewName) -> Result<(), StoreError> {
        let mut index = self.index();
        if !index.images.contains_key(id) {
            return Err(StoreError::Refused { why: format!("there is no image {id}") });
        }
        self.write_name(&mut index, id, name)
    }

    /// Takes a name away; whether there was one. An image without a name goes with the next
    /// [`Store::collect`] that is not told to keep it.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn remove_name(&self, name: &ImageName) -> Result<bool, StoreError> {
        let mut index = self.index();
        if !index.names.contains_key(name) {
            return Ok(false);
        }
        self.unlink_name(&mut index, name)?;
        sync_dir(&self.path(NAMES))?;
        Ok(true)
    }

    /// Takes all names of an image away, as [`Store::remove_name`]; whether there was such an
    /// image.
    ///
    /// # Errors
    /// When one can't be removed.
    pub fn remove_image(&self, id: &ImageId) -> Result<bool, StoreError> {
        let mut index = self.index();
        self.unlink_names_of(&mut index, id)?;
        sync_dir(&self.path(NAMES))?;
        Ok(index.images.contains_key(id))
    }

    /// The images that no one in `keep` is and no pinned name has: what may be collected.
    #[must_use]
    pub fn unused(&self, keep: &BTreeSet<ImageId>) -> Vec<Arc<Image>> {
        let index = self.index();
        let pinned: BTreeSet<_> =
            index.names.values().filter(|name| name.pinned).map(|name| &name.image).collect();
        let may_go = |image: &&Arc<Image>| !keep.contains(&image.id) && !pinned.contains(&image.id);
        index.images.values().filter(may_go).cloned().collect()
    }

    /// Writes an image and makes it visible.
    pub(super) fn write_image(
        &self,
        index: &mut Index,
        image: &Arc<Image>,
    ) -> Result<(), StoreError> {
        let file = ImageFile {
            format: Format,
            id: image.id.clone(),
            manifest: image.manifest.clone(),
            layers: image.layers.clone(),
            made: image.made,
        };
        checkpoint::write(&self.image_path(&image.id), &file).map_err(in_file)?;
        step();
        index.images.insert(image.id.clone(), Arc::clone(image));
        Ok(())
    }

    pub(super) fn write_name(
        &self,
        index: &mut Index,
        id: &ImageId,
        new: &NewName,
    ) -> Result<(), StoreError> {
        let before = index.names.get(&new.name).filter(|file| file.image == *id);
        let file = NameFile {
            format: Format,
            name: new.name.clone(),
            image: id.clone(),
            target: new.target.clone(),
            pinned: new.pinned || before.is_some_and(|file| file.pinned),
            made: before.map_or_else(WallTime::now, |file| file.made),
        };
        if before == Some(&file) {
            return Ok(());
        }
        checkpoint::write(&self.name_path(&new.name), &file).map_err(in_file)?;
        step();
        index.names.insert(new.name.clone(), file);
        Ok(())
    }

    pub(super) fn unlink_names_of(
        &self,
        index: &mut Index,
        id: &ImageId,
    ) -> Result<(), StoreError> {
        let names: Vec<_> = index
            .names
            .values()
            .filter(|file| file.image == *id)
            .map(|file| file.name.clone())
            .collect();
        names.iter().try_for_each(|name| self.unlink_name(index, name))
    }

    fn unlink_name(&self, index: &mut Index, name: &ImageName) -> Result<(), StoreError> {
        remove_file(&self.name_path(name))?;
        step();
        index.names.remove(name);
        Ok(())
    }

    /// Removes an image with its names. Its layers and blobs are left for the sweep.
    pub(super) fn unlink_image(&self, index: &mut Index, id: &ImageId) -> Result<(), StoreError> {
        self.unlink_names_of(index, id)?;
        remove_file(&self.image_path(id))?;
        step();
        index.images.remove(id);
        remove_file(&self.used_path(id))?;
        index.used.remove(id);
        Ok(())
    }

    fn image_path(&self, id: &ImageId) -> PathBuf {
        self.path(IMAGES).join(format!("{}.json", id.digest().digest()))
    }

    fn name_path(&self, name: &ImageName) -> PathBuf {
        // Names may be longer than a file's, and contain anything.
        self.path(NAMES).join(format!("{}.json", sha256(name.as_str().as_bytes()).digest()))
    }

    fn used_path(&self, id: &ImageId) -> PathBuf {
        self.path(USED).join(format!("{}.json", id.digest().digest()))
    }
}

/// An image that is used again and again is noted this often.
const TOUCH_INTERVAL: Millis = Millis::from_secs(600);

fn remove_file(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(failed("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Reads all images, names and uses. Files that are damaged, or stand for something that is gone,
/// are moved away.
pub(super) fn read_index(store: &Store) -> Result<Index, StoreError> {
    let mut index = Index::default();
    read_all(store, IMAGES, |path, file: ImageFile| {
        let ImageFile { format: Format, id, manifest, layers, made } = file;
        let sound = path == store.image_path(&id);
        let image = Image { id: id.clone(), manifest, layers, made };
        index.images.insert(id, Arc::new(image));
        sound
    })?;
    let (images, names) = (&index.images, &mut index.names);
    read_all(store, NAMES, |path, file: NameFile| {
        let sound = path == store.name_path(&file.name) && images.contains_key(&file.image);
        if sound {
            names.insert(file.name.clone(), file);
        }
        sound
    })?;
    let used = &mut index.used;
    read_all(store, USED, |path, file: UsedFile| {
        let id = images.keys().find(|id| path == store.used_path(id));
        id.is_some_and(|id| {
            used.insert(id.clone(), file);
            true
        })
    })?;
    Ok(index)
}

fn read_all<T: Checkpoint>(
    store: &Store,
    name: &str,
    mut add: impl FnMut(&Path, T) -> bool,
) -> Result<(), StoreError> {
    let directory = store.path(name);
    checkpoint::sweep(&directory).map_err(in_file)?;
    let list = failed("list", &directory);
    let entries = fs::read_dir(&directory).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    for entry in entries.map_err(list)? {
        let path = entry.path();
        let why = match checkpoint::read::<T>(&path) {
            Ok(Some(file)) if path.extension() == Some(OsStr::new("json")) => {
                if add(&path, file) {
                    continue;
                }
                "it stands for nothing that is there".to_owned()
            }
            Ok(_) => "it is not one of the store's".to_owned(),
            // Whoever wrote it is to be asked, and not to lose it.
            Err(error @ (CheckpointError::Newer { .. } | CheckpointError::Io { .. })) => {
                return Err(in_file(error));
            }
            Err(error) => error.to_string(),
        };
        // A power cut may leave a use half, which is of no interest to anybody.
        if name != USED {
            tracing::warn!(path = %path.display(), why, "removed a file of the image store");
        }
        store.to_trash(&path)?;
    }
    Ok(())
}
