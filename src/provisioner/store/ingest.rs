//! Bringing an image in.

use std::io::Read;
use std::sync::Arc;

use oci_spec::image::Digest;

use super::{DiffId, FetchedBlob, Image, LayerId, NewImage, Partial, StoreError};
use crate::provisioner::unpack::{UnpackOptions, UnpackReport};

/// An image on its way into the store. Shared by whoever works on it; what was put in or found
/// through it is not collected until it is dropped. Dropped without [`Ingest::commit`], all of it
/// stays for the next try, until it is collected.
#[derive(Debug)]
pub struct Ingest {}

/// A layer that [`Ingest::unpack`] made, or found.
#[derive(Debug, Clone)]
pub struct UnpackedLayer {
    /// Its directory.
    pub id: LayerId,
    /// What was noteworthy about it; nothing if it was there already.
    pub report: UnpackReport,
}

impl Ingest {
    /// A manifest, index or configuration, as [`super::Store::blob`].
    ///
    /// # Errors
    /// As [`super::Store::blob`].
    pub fn blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let _ = digest;
        todo!()
    }

    /// Puts a manifest, index or configuration in; durable on return.
    ///
    /// # Errors
    /// [`StoreError::WrongDigest`], [`StoreError::TooLong`] ([`super::BLOB_LEN_MAX`]),
    /// [`StoreError::UnknownAlgorithm`]; when it can't be written.
    pub fn put_blob(&self, bytes: &[u8], digest: &Digest) -> Result<(), StoreError> {
        let _ = (bytes, digest);
        todo!()
    }

    /// Begins to fetch a layer's blob, or goes on with it: what an earlier try left is hashed
    /// again, and its length is [`Partial::len`].
    ///
    /// # Errors
    /// [`StoreError::Fetching`], [`StoreError::UnknownAlgorithm`]; when the file can't be made or
    /// read.
    pub fn partial(&self, digest: &Digest, size: u64) -> Result<Partial, StoreError> {
        let _ = (digest, size);
        todo!()
    }

    /// The topmost of these layers (the lowest first), if it is unpacked and in order. A pull asks
    /// for each, from the lowest up, and fetches what is missing.
    ///
    /// # Errors
    /// [`StoreError::Collision`]; when its files can't be read.
    pub fn layer(&self, chain: &[DiffId]) -> Result<Option<LayerId>, StoreError> {
        let _ = chain;
        todo!()
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
        let _ = (chain, input, options);
        todo!()
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
        let _ = (chain, blob, options);
        todo!()
    }

    /// Makes the image and its names visible; durable on return. May be called again.
    ///
    /// # Errors
    /// [`StoreError::Refused`] if a part of it is missing, or it has no name or too many layers
    /// ([`super::LAYERS_MAX`]); when it can't be written.
    pub fn commit(&self, image: &NewImage) -> Result<Arc<Image>, StoreError> {
        let _ = image;
        todo!()
    }
}
