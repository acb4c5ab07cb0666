//! Giving disk back.

use std::collections::BTreeSet;

use super::ImageId;
use crate::clock::Millis;

/// What to collect. An image goes if it is not in `keep`, has no pinned name, was not used within
/// `min_age`, and there is still something to free.
#[derive(Debug, Clone)]
pub struct Collection<'a> {
    /// Never these, whatever else is said.
    pub keep: &'a BTreeSet<ImageId>,
    /// How many bytes are wanted. 0: no image goes, only what no image needs (layers and blobs left
    /// by removed images); `u64::MAX`: every image that may go. Above 0 also unfinished downloads
    /// that nobody works on.
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
