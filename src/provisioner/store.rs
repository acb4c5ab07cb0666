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

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use oci_spec::image::Digest;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

pub use collect::{Collected, Collection, Usage};
pub use ids::{
    ChainId, DiffId, IMAGE_NAME_LEN_MAX, ImageId, ImageName, InvalidStoreId, LAYER_ID_LEN, LayerId,
    sha256,
};
pub use images::{Image, ImageLayer, NameEntry, NewImage, NewName};
pub use ingest::{Ingest, UnpackedLayer};
pub use partial::{FetchedBlob, Partial};

use images::Index;

use crate::clock::BootId;
use crate::provisioner::hash::Hasher;
use crate::provisioner::unpack::UnpackError;
use crate::state::checkpoint::{self, CheckpointError};

/// Longest manifest, index or configuration in bytes: registries refuse manifests of more than
/// 4 MiB (OCI distribution specification, "Pushing Manifests"), and containerd reads no more.
pub const BLOB_LEN_MAX: u64 = 8 << 20;
/// Most layers of an image: as many as fit into the one page that mount(2) takes for options.
/// Docker and containerd make 125 at most.
pub const LAYERS_MAX: usize = 127;

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
    #[error(transparent)]
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
        source: Box<UnpackError>,
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
    /// What is known of the small files, and what must not be collected now. Held while a layer
    /// is moved away, so that nobody finds one that is about to go.
    index: Mutex<Index>,
    /// Told when a layer is no longer being unpacked.
    unpacked: Condvar,
    /// One collection at a time.
    collecting: Mutex<()>,
    /// Numbers of directories in `trash` and of those being unpacked.
    count: AtomicU64,
    boot: BootId,
    /// Locked as long as it is open (flock(2)).
    _lock: File,
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
        create_dir(directory)?;
        // Setuid programs and secrets of images are nobody's business on the host.
        let private = fs::Permissions::from_mode(0o700);
        fs::set_permissions(directory, private).map_err(failed("protect", directory))?;
        let lock = lock(directory, contention)?;
        for name in [BLOBS, PARTIAL, LAYERS, IMAGES, NAMES, USED, TRASH] {
            create_dir(&directory.join(name))?;
        }
        let boot = BootId::current().map_err(failed("read the boot id for", directory))?;
        let inner = Inner {
            directory: directory.to_owned(),
            index: Mutex::default(),
            unpacked: Condvar::new(),
            collecting: Mutex::new(()),
            count: AtomicU64::new(1),
            boot,
            _lock: lock,
        };
        let store = Self { inner: Arc::new(inner) };
        store.sweep_halves()?;
        let index = images::read_index(&store)?;
        *store.index() = index;
        Ok(store)
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
        self.path(LAYERS)
    }

    /// The root of an unpacked layer.
    #[must_use]
    pub fn layer_fs(&self, layer: &LayerId) -> PathBuf {
        self.layers_directory().join(layer.as_str()).join(layers::FS)
    }

    /// Begins to bring an image in. Whatever is put in or found through it is not collected while
    /// it lives.
    #[must_use]
    pub fn ingest(&self) -> Ingest {
        Ingest::new(self.clone())
    }

    /// A manifest, index or configuration; none if it is not there. It is verified: a damaged one
    /// is removed, and not there.
    ///
    /// # Errors
    /// When it can't be read; [`StoreError::UnknownAlgorithm`].
    pub fn blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.blob_path(digest);
        let mut hasher = hasher(digest)?;
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("open", &path)(error)),
        };
        let mut bytes = Vec::new();
        file.take(BLOB_LEN_MAX + 1).read_to_end(&mut bytes).map_err(failed("read", &path))?;
        hasher.update(&bytes);
        if hasher.finish() == *digest {
            return Ok(Some(bytes));
        }
        tracing::warn!(%digest, "a blob of the image store was damaged; removed it");
        fs::remove_file(&path).map_err(failed("remove", &path))?;
        Ok(None)
    }

    /// All images, by id.
    #[must_use]
    pub fn images(&self) -> Vec<Arc<Image>> {
        self.index().images.values().cloned().collect()
    }

    /// One image.
    #[must_use]
    pub fn image(&self, id: &ImageId) -> Option<Arc<Image>> {
        self.index().images.get(id).cloned()
    }

    /// All names, in their order.
    #[must_use]
    pub fn names(&self) -> Vec<NameEntry> {
        let index = self.index();
        index.names.values().map(|file| index.entry(file)).collect()
    }

    /// What a name stands for. Costs no system call.
    #[must_use]
    pub fn by_name(&self, name: &ImageName) -> Option<(NameEntry, Arc<Image>)> {
        let index = self.index();
        let file = index.names.get(name)?;
        Some((index.entry(file), Arc::clone(index.images.get(&file.image)?)))
    }

    /// Looks whether everything of an image is there, as far as that is cheap: its configuration
    /// is read and verified, and each layer's `layer.json` is compared.
    ///
    /// # Errors
    /// [`StoreError::Damaged`]; when something can't be read.
    pub fn verify(&self, id: &ImageId) -> Result<(), StoreError> {
        let damaged = |what: String| Err(StoreError::Damaged { image: id.clone(), what });
        let Some(image) = self.image(id) else {
            return damaged("it is not there".into());
        };
        if self.blob(id.digest())?.is_none() {
            return damaged("its configuration is gone".into());
        }
        for layer in &image.layers {
            if self.read_layer(&layer.chain)?.is_none() {
                return damaged(format!("its layer {} is gone", layer.diff));
            }
        }
        Ok(())
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        // Whoever panicked with it had changed it as a whole or not at all.
        self.inner.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.inner.directory.join(name)
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path(BLOBS).join(digest.algorithm().as_ref()).join(digest.digest())
    }

    fn next_count(&self) -> u64 {
        self.inner.count.fetch_add(1, Ordering::Relaxed)
    }
}

const LOCK: &str = "lock";
const BLOBS: &str = "blobs";
const PARTIAL: &str = "partial";
const LAYERS: &str = "layers";
const IMAGES: &str = "images";
const NAMES: &str = "names";
const USED: &str = "used";
const TRASH: &str = "trash";

fn lock(directory: &Path, contention: Contention) -> Result<File, StoreError> {
    let path = directory.join(LOCK);
    let mut options = File::options();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(failed("open", &path))?;
    let operation = match contention {
        Contention::Refuse => FlockOperation::NonBlockingLockExclusive,
        Contention::Wait => FlockOperation::LockExclusive,
    };
    loop {
        match rustix::fs::flock(&file, operation) {
            Ok(()) => return Ok(file),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(StoreError::Locked { path: directory.to_owned() });
            }
            Err(errno) => return Err(failed("lock", &path)(errno)),
        }
    }
}

fn create_dir(path: &Path) -> Result<(), StoreError> {
    checkpoint::create_dir_durable(path).map_err(failed("make the directory", path))
}

fn sync_dir(path: &Path) -> Result<(), StoreError> {
    checkpoint::sync_dir(path).map_err(failed("sync", path))
}

fn hasher(digest: &Digest) -> Result<Hasher, StoreError> {
    Hasher::of(digest).ok_or_else(|| StoreError::UnknownAlgorithm { digest: digest.clone() })
}

fn failed<E: Into<io::Error>>(
    attempted: &'static str,
    path: &Path,
) -> impl FnOnce(E) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { attempted, path, source: source.into() }
}

fn in_file(source: CheckpointError) -> StoreError {
    StoreError::File { source }
}

/// A place where a crash may come, between two changes on the disk.
fn step() {
    #[cfg(test)]
    tests::step();
}

#[cfg(test)]
mod tests;
