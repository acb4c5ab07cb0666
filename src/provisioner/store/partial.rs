//! Blobs of layers, while they are fetched and until they are unpacked.

use std::fs::File;

use oci_spec::image::Digest;

use super::StoreError;

/// A blob being fetched. Dropped, it stays and can be resumed.
#[derive(Debug)]
pub struct Partial {}

impl Partial {
    /// How many bytes are there: where to go on.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it is not a collection")]
    pub fn len(&self) -> u64 {
        todo!()
    }

    /// How many there will be.
    #[must_use]
    pub fn size(&self) -> u64 {
        todo!()
    }

    /// Adds what comes next.
    ///
    /// # Errors
    /// [`StoreError::TooLong`]: all of it is removed then, and [`Partial::len`] is 0 again. When
    /// it can't be written (a full disk): what was there before stays.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let _ = bytes;
        todo!()
    }

    /// Throws away what is there: the other end can't resume, or began anew.
    ///
    /// # Errors
    /// When the file can't be cut.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        todo!()
    }

    /// Verifies it as a whole.
    ///
    /// # Errors
    /// [`StoreError::Truncated`]: it stays. [`StoreError::WrongDigest`]: it is removed; if it was
    /// a resumed one, fetching it anew may help.
    pub fn finish(self) -> Result<FetchedBlob, StoreError> {
        todo!()
    }

    /// Removes it.
    ///
    /// # Errors
    /// When the file can't be removed.
    pub fn discard(self) -> Result<(), StoreError> {
        todo!()
    }
}

/// A blob that is there as a whole, verified. Dropped, it stays, and is verified again by the next
/// who asks for it.
#[derive(Debug)]
pub struct FetchedBlob {}

impl FetchedBlob {
    /// What it is.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        todo!()
    }

    /// Its length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        todo!()
    }

    /// The file, at its beginning.
    ///
    /// # Errors
    /// When it can't be opened.
    pub fn open(&self) -> Result<File, StoreError> {
        todo!()
    }

    /// Removes it.
    ///
    /// # Errors
    /// When the file can't be removed.
    pub fn discard(self) -> Result<(), StoreError> {
        todo!()
    }
}
