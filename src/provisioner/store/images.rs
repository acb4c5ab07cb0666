//! Images and their names.

use oci_spec::image::Digest;

use super::{ChainId, DiffId, ImageId, ImageName, LayerId};
use crate::clock::WallTime;

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
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// When the image was used last, by the wall clock; if ever.
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
    /// Whether it pins the image. A pinned name that is set again stays pinned.
    pub pinned: bool,
}
