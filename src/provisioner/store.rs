//! The content store: images on a disk that may lose power at any moment.
//!
//! ```text
//! <data>/images                    root only: what is in here may be setuid, or secret
//! ├── lock                         held by the one process that has the store open
//! ├── blobs/<algorithm>/<hex>      manifests, indexes, configurations: small, verified when read
//! ├── partial/<hex>                layer blobs being fetched, and fetched ones until unpacked
//! ├── layers/
//! │   ├── <LayerId>/fs/            an unpacked layer: one lowerdir of an overlay
//! │   ├── <LayerId>/layer.json     what it is; written last
//! │   └── tmp-<n>/                 a layer being unpacked
//! ├── images/<hex>.json            an image: its manifest, its configuration, its layers
//! ├── names/<hex>.json             a name (hex: its hash), and what it stands for
//! ├── used/<hex>.json              when an image was used last; a guess if it is lost
//! └── trash/<n>                    what is being deleted
//! ```
//!
//! One fact a file, and each is there as a whole or not at all: small files by
//! `state::checkpoint`, a layer by one rename after one `syncfs`. What a crash leaves half is
//! removed by [`Store::open`], but for partial downloads, whose prefix is hashed again when they
//! are resumed. Everything that is read is checked as far as that is cheap; damage is an error that
//! names the image, and loading or pulling it again repairs it.
//!
//! All calls block: they belong on a blocking thread. Not here: what a reference means, registries
//! and archives, and which image is needed.

mod collect;
mod ids;
mod images;
mod ingest;
mod layers;
mod partial;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::image::Digest;

pub use collect::{Collected, Collection, Usage};
pub use ids::{
    ChainId, DiffId, IMAGE_NAME_LEN_MAX, ImageId, ImageName, InvalidStoreId, LAYER_ID_LEN, LayerId,
    sha256,
};
pub use images::{Image, ImageLayer, NameEntry, NewImage, NewName};
pub use ingest::{Ingest, UnpackedLayer};
pub use partial::{FetchedBlob, Partial};

use crate::provisioner::unpack::UnpackError;
use crate::state::checkpoint::CheckpointError;

/// Longest manifest, index or configuration in bytes: registries refuse manifests of more than
/// 4 MiB (OCI distribution specification, "Pushing Manifests"), and containerd reads no more.
pub const BLOB_LEN_MAX: u64 = 8 << 20;
/// Most layers of an image. Overlay takes 500 (`OVL_MAX_STACK`), one page of options 127.
pub const LAYERS_MAX: usize = 500;

/// What to do when another process has the store open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contention {
    /// Fail with [`StoreError::Locked`].
    Refuse,
    /// Wait until it is free, which may take long.
    Wait,
}

/// Why something could not be done with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A system call failed.
    #[error("can't {attempted} {}", path.display())]
    Io {
        /// What was attempted, as a verb.
        attempted: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// One of the small files could not be written or read.
    #[error("the image store has a problem with one of its files")]
    File {
        /// Which, and what is wrong with it.
        source: CheckpointError,
    },
    /// Another process has it open.
    #[error("the image store in {} is in use by another process", path.display())]
    Locked {
        /// The store.
        path: PathBuf,
    },
    /// The digest is of an algorithm that can't be verified.
    #[error("can't verify {digest}: only sha256, sha384 and sha512 are known")]
    UnknownAlgorithm {
        /// The digest.
        digest: Digest,
    },
    /// The content is not what its digest says; it was thrown away.
    #[error("the content of {expected} is {found}: it was damaged on its way, or is another's")]
    WrongDigest {
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// More came than the descriptor says, or than is ever taken; it was thrown away.
    #[error("{digest} is longer than {limit} bytes, which is {what}")]
    TooLong {
        /// What was asked for.
        digest: Digest,
        /// The most that was expected.
        limit: u64,
        /// Where the limit is from.
        what: &'static str,
    },
    /// The content ended early; what there is can be resumed.
    #[error("{digest} ends after {found} of {expected} bytes")]
    Truncated {
        /// What was asked for.
        digest: Digest,
        /// How much came.
        found: u64,
        /// The size in its descriptor.
        expected: u64,
    },
    /// Somebody else in this process is fetching the blob.
    #[error("{digest} is being fetched already")]
    Fetching {
        /// The blob.
        digest: Digest,
    },
    /// A layer could not be unpacked; nothing is left of it.
    #[error("can't unpack layer {layer}")]
    Unpack {
        /// The layer's diff id.
        layer: DiffId,
        /// Why.
        source: UnpackError,
    },
    /// Layers are unpacked from the lowest up, and one below is not there.
    #[error("layer {missing} is not unpacked")]
    NoLayer {
        /// The chain that ends with it.
        missing: ChainId,
    },
    /// Two layers have the same short name, which happens by chance to nobody.
    #[error(
        "the layers {wanted} and {found} have the same directory, {id}; remove the image of the other one"
    )]
    Collision {
        /// The directory of both.
        id: LayerId,
        /// The one that is asked for.
        wanted: ChainId,
        /// The one that is there.
        found: ChainId,
    },
    /// What was asked for makes no sense.
    #[error("refused: {why}")]
    Refused {
        /// Why.
        why: String,
    },
    /// Something of the image is gone or damaged. Pulling or loading it again repairs it.
    #[error("the image {image} is damaged ({what}): pull or load it again")]
    Damaged {
        /// The image.
        image: ImageId,
        /// What is wrong.
        what: String,
    },
}

/// The store, open; clones share it. It is locked against other processes until the last clone and
/// everything made with it ([`Ingest`], [`Partial`]) is dropped.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
}

impl Store {
    /// Opens the store in a directory, which is made if it is not there, and clears away what a
    /// crash left half (into `trash`: see [`Store::empty_trash`]).
    ///
    /// # Errors
    /// [`StoreError::Locked`]; when the directory can't be made, locked or read. A damaged file of
    /// an image or a name is no error: it is moved away, told in the log, and the image is not
    /// there.
    pub fn open(directory: &Path, contention: Contention) -> Result<Self, StoreError> {
        let _ = (directory, contention);
        todo!()
    }

    /// Where the store is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.inner.directory
    }

    /// The directory of all layers. To be mounted with relative names (`<LayerId>/fs`), so that
    /// many fit into the options of one mount.
    #[must_use]
    pub fn layers_directory(&self) -> PathBuf {
        self.inner.directory.join("layers")
    }

    /// The root of an unpacked layer.
    #[must_use]
    pub fn layer_fs(&self, layer: &LayerId) -> PathBuf {
        self.layers_directory().join(layer.as_str()).join("fs")
    }

    /// Begins to bring an image in. Whatever is put in or found through it is not collected while
    /// it lives.
    #[must_use]
    pub fn ingest(&self) -> Ingest {
        todo!()
    }

    /// A manifest, index or configuration; none if it is not there. It is verified: a damaged one
    /// is removed, and not there.
    ///
    /// # Errors
    /// When it can't be read; [`StoreError::UnknownAlgorithm`].
    pub fn blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let _ = digest;
        todo!()
    }

    /// All images, by id.
    #[must_use]
    pub fn images(&self) -> Vec<Arc<Image>> {
        todo!()
    }

    /// One image.
    #[must_use]
    pub fn image(&self, id: &ImageId) -> Option<Arc<Image>> {
        let _ = id;
        todo!()
    }

    /// All names, in their order.
    #[must_use]
    pub fn names(&self) -> Vec<NameEntry> {
        todo!()
    }

    /// What a name stands for. Costs no system call.
    #[must_use]
    pub fn by_name(&self, name: &ImageName) -> Option<(NameEntry, Arc<Image>)> {
        let _ = name;
        todo!()
    }

    /// Looks whether everything of an image is there, as far as that is cheap: its configuration
    /// is read and verified, and each layer's `layer.json` is compared.
    ///
    /// # Errors
    /// [`StoreError::Damaged`]; when something can't be read.
    pub fn verify(&self, id: &ImageId) -> Result<(), StoreError> {
        let _ = id;
        todo!()
    }

    /// Notes that an image is used now. Not durable at once, and not on the way of anything.
    pub fn touch(&self, id: &ImageId) {
        let _ = id;
        todo!()
    }

    /// Gives an image that is there one more name, or moves a name to it; durable on return.
    ///
    /// # Errors
    /// [`StoreError::Refused`] if there is no such image; when it can't be written.
    pub fn set_name(&self, id: &ImageId, name: &NewName) -> Result<(), StoreError> {
        let _ = (id, name);
        todo!()
    }

    /// Takes a name away; whether there was one. An image that loses its last name goes with it,
    /// and with the next [`Store::collect`] its layers.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn remove_name(&self, name: &ImageName) -> Result<bool, StoreError> {
        let _ = name;
        todo!()
    }

    /// Takes an image away with all its names; whether there was one.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn remove_image(&self, id: &ImageId) -> Result<bool, StoreError> {
        let _ = id;
        todo!()
    }

    /// Gives disk back, see [`Collection`]: images by least recent use, then every layer and blob
    /// that no image needs any more.
    ///
    /// # Errors
    /// When something can't be removed; what was removed before is gone.
    pub fn collect(&self, collection: &Collection<'_>) -> Result<Collected, StoreError> {
        let _ = collection;
        todo!()
    }

    /// Deletes what was moved to the trash, which may take long; the bytes of it.
    ///
    /// # Errors
    /// When something can't be removed.
    pub fn empty_trash(&self) -> Result<u64, StoreError> {
        todo!()
    }

    /// How much of the disk the store takes, from what is known about each layer: nothing is
    /// walked through.
    ///
    /// # Errors
    /// When a directory can't be listed.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        todo!()
    }

    /// What lies in images that nobody in `keep` needs: what a prune would give back.
    #[must_use]
    pub fn unused(&self, keep: &BTreeSet<ImageId>) -> Vec<Arc<Image>> {
        let _ = keep;
        todo!()
    }
}
