//! Blobs of layers, while they are fetched and until they are unpacked.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use oci_spec::image::Digest;

use super::{PARTIAL, Store, StoreError, failed, hasher, step};
use crate::provisioner::hash::Hasher;

/// A blob being fetched. Dropped, it stays and can be resumed.
#[derive(Debug)]
pub struct Partial {
    blob: FetchedBlob,
    file: File,
    len: u64,
    hasher: Hasher,
}

/// A blob that is there as a whole, verified. Dropped, it stays, and is verified again by the next
/// who asks for it.
#[derive(Debug)]
pub struct FetchedBlob {
    store: Store,
    digest: Digest,
    size: u64,
    path: PathBuf,
}

impl Partial {
    pub(super) fn open(store: &Store, digest: &Digest, size: u64) -> Result<Self, StoreError> {
        let hasher = hasher(digest)?;
        if !store.index().fetching.insert(digest.to_string()) {
            return Err(StoreError::Fetching { digest: digest.clone() });
        }
        let path = store.path(PARTIAL).join(digest.digest());
        // From here on its end gives the digest free.
        let blob = FetchedBlob { store: store.clone(), digest: digest.clone(), size, path };
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&blob.path).map_err(failed("open", &blob.path))?;
        let mut partial = Self { blob, file, len: 0, hasher };
        partial.hash_prefix()?;
        Ok(partial)
    }

    /// See [`Ingest::forget_partial`](super::Ingest::forget_partial).
    pub(super) fn forget(store: &Store, digest: &Digest) -> Result<(), StoreError> {
        let index = store.index();
        if index.fetching.contains(digest.as_ref()) {
            return Ok(());
        }
        let path = store.path(PARTIAL).join(digest.digest());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(failed("remove", &path)(error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// How many bytes are there: where to go on.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it is not a collection")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// How many there will be.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.blob.size
    }

    /// Adds what comes next.
    ///
    /// # Errors
    /// [`StoreError::TooLong`]: all of it is removed then, and [`Partial::len`] is 0 again. When
    /// it can't be written (a full disk): what was there before stays.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if bytes.len() as u64 > self.blob.size - self.len {
            self.restart()?;
            let (digest, limit) = (self.blob.digest.clone(), self.blob.size);
            return Err(StoreError::TooLong { digest, limit, what: "the size in its descriptor" });
        }
        if let Err(error) = self.file.write_all_at(bytes, self.len) {
            // What of it was written is cut off by the next resumption if it can't be now.
            drop(self.file.set_len(self.len));
            return Err(failed("write", &self.blob.path)(error));
        }
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        step();
        Ok(())
    }

    /// Throws away what is there: the other end can't resume, or began anew.
    ///
    /// # Errors
    /// When the file can't be cut.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        self.file.set_len(0).map_err(failed("cut", &self.blob.path))?;
        self.len = 0;
        self.hasher = hasher(&self.blob.digest)?;
        Ok(())
    }

    /// Verifies it as a whole.
    ///
    /// # Errors
    /// [`StoreError::Truncated`]: it stays. [`StoreError::WrongDigest`]: it is removed; if it was
    /// a resumed one, fetching it anew may help.
    pub fn finish(self) -> Result<FetchedBlob, StoreError> {
        let Self { blob, len, hasher, .. } = self;
        if len < blob.size {
            let (digest, expected) = (blob.digest.clone(), blob.size);
            return Err(StoreError::Truncated { digest, found: len, expected });
        }
        let found = hasher.finish();
        if found != blob.digest {
            let expected = blob.digest.clone();
            blob.discard()?;
            return Err(StoreError::WrongDigest { expected, found });
        }
        Ok(blob)
    }

    /// Removes it.
    ///
    /// # Errors
    /// When the file can't be removed.
    pub fn discard(self) -> Result<(), StoreError> {
        self.blob.discard()
    }

    /// What an earlier try left. It was never synced: after a power cut it may be anything, which
    /// the digest of the whole shows.
    fn hash_prefix(&mut self) -> Result<(), StoreError> {
        let mut buffer = vec![0; 256 << 10];
        loop {
            let read = match self.file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed("read", &self.blob.path)(error)),
            };
            self.len += read as u64;
            if self.len > self.blob.size {
                // Of something else.
                return self.restart();
            }
            self.hasher.update(&buffer[..read]);
        }
    }
}

impl FetchedBlob {
    /// What it is.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Its length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The file, at its beginning.
    ///
    /// # Errors
    /// When it can't be opened.
    pub fn open(&self) -> Result<File, StoreError> {
        File::open(&self.path).map_err(failed("open", &self.path))
    }

    /// Removes it.
    ///
    /// # Errors
    /// When the file can't be removed.
    pub fn discard(self) -> Result<(), StoreError> {
        fs::remove_file(&self.path).map_err(failed("remove", &self.path))
    }
}

impl Drop for FetchedBlob {
    fn drop(&mut self) {
        self.store.index().fetching.remove(self.digest.as_ref());
    }
}
