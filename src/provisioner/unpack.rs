//! Layers: from a tar file, compressed or not, to a directory that is one lowerdir of an overlay.

use std::io;

/// Bounds for one layer, and what is taken of it.
#[derive(Debug, Clone)]
pub struct UnpackOptions {
    /// Most bytes of the uncompressed tar file, and so on the disk; at most [`LAYER_LEN_MAX`].
    pub bytes_max: u64,
    /// Most entries; at most [`ENTRIES_MAX`].
    pub entries_max: u64,
    /// Device nodes.
    pub devices: Devices,
}

/// What to do with block and character devices in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Devices {
    /// They are made. Containers can't open them: their device cgroup forbids it.
    Make,
    /// The layer is refused.
    Refuse,
}

impl Default for UnpackOptions {
    fn default() -> Self {
        Self { bytes_max: LAYER_LEN_MAX, entries_max: ENTRIES_MAX, devices: Devices::Make }
    }
}

/// Longest uncompressed layer in bytes.
pub const LAYER_LEN_MAX: u64 = 64 << 30;
/// Most entries of a layer.
pub const ENTRIES_MAX: u64 = 1_000_000;

/// What was noteworthy about a layer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnpackReport {
    /// Entries that were read.
    pub entries: u64,
    /// Bytes that it takes on the disk, about.
    pub size: u64,
    /// What was left out and why (extended attributes that are not for images or that the file
    /// system does not take), one line a kind; bounded.
    pub ignored: Vec<String>,
}

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The input could not be read.
    #[error("can't read the layer")]
    Input {
        /// Why.
        source: io::Error,
    },
}
