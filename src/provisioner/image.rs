//! Manifests, indexes and configurations: from untrusted JSON to what an image is. PURE.
//!
//! OCI images and Docker's schema 2 are the same but for their media types; Docker's schema 1 and
//! artifacts that are no images are refused. Not here: where the bytes come from (`registry`,
//! `archive`), and that they have the digest they should have (whoever read them has checked).

use serde::{Deserialize, Serialize};

use super::reference::{Digest, ImageSource};

/// Largest manifest or index, as registries themselves limit it.
pub const MANIFEST_LEN_MAX: u64 = 4 << 20;
/// Largest configuration.
pub const CONFIG_LEN_MAX: u64 = 4 << 20;
/// Most layers of an image; overlayfs takes 500 of them.
pub const LAYERS_MAX: usize = 500;
/// Most images in an index.
pub const INDEX_ENTRIES_MAX: usize = 1000;
/// Most entries of a list in a configuration.
pub const CONFIG_ITEMS_MAX: usize = 10_000;
/// Longest text in a configuration: the kernel takes no longer argument (`MAX_ARG_STRLEN`).
pub const CONFIG_TEXT_LEN_MAX: usize = 131_071;

/// The media types that a registry is asked for.
pub const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// An image that is here, and can be run at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The digest of its configuration, which names its content: the image's id.
    pub id: Digest,
    /// The digest of its manifest. For an image of `docker save`, of one made from it.
    pub manifest: Digest,
    /// What it was pulled or loaded as.
    pub names: Vec<ImageSource>,
    /// The layers, the lowest first, each by the digest of its tar stream (`diff_id`).
    pub layers: Vec<Digest>,
    /// How its programs are meant to be run.
    pub config: ImageConfig,
    /// Bytes on this disk, of its layers; some may be other images' as well.
    pub size: u64,
    /// Loaded from a file, so never collected.
    pub pinned: bool,
    /// When it was built (RFC 3339), as it says itself.
    pub created: Option<String>,
}

/// What a configuration says about running the image. Texts have no NUL and bounded lengths.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImageConfig {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// More arguments, or the program if there is no entrypoint.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// `user[:group]`, names or numbers; empty is root.
    pub user: String,
    /// Absolute; empty is `/`.
    pub working_dir: String,
    /// A name or number; empty is SIGTERM.
    pub stop_signal: String,
    /// Directories that the image wants to be volumes.
    pub volumes: Vec<String>,
    /// `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// Whether there is a health check of Docker's, which is not run.
    pub healthcheck: bool,
}
