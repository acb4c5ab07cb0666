//! Images are asked for here: those that are present are had at once, others are pulled or read,
//! once for everybody who waits for them.

use std::path::{Path, PathBuf};

use super::auth::Credentials;
use super::failure::ProvisionError;
use super::image::Image;
use super::reference::{ImageSource, PullPolicy};

/// How this node pulls.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// Docker's `config.json`s with credentials for everybody on this node; those that are missing
    /// are passed over. Read at each pull.
    pub auth_files: Vec<PathBuf>,
    /// Directories with `<host>/hosts.toml`, the first that has the host wins. Read at each pull.
    pub hosts_dirs: Vec<PathBuf>,
}

/// How an image was had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Had {
    /// It was here, and nobody was asked.
    Present,
    /// It was here, and the source has the same.
    Unchanged,
    /// It was here, and what the source has now could not be asked.
    Unreachable {
        /// Why, for an event: the policy was `Always`.
        why: String,
    },
    /// It was pulled or read now.
    Pulled {
        /// Bytes that were fetched.
        bytes: u64,
    },
}

/// An image, and how it was had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The image.
    pub image: Image,
    /// How.
    pub had: Had,
}

/// What a pull is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPhase {
    /// The manifest and the configuration are asked for.
    Resolving,
    /// Layers are fetched and unpacked.
    Layers,
    /// Everything is made durable.
    Finishing,
}

/// How far a pull is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullProgress {
    /// What is pulled.
    pub source: ImageSource,
    /// What it is doing.
    pub phase: PullPhase,
    /// Layers that are here, of `layers_total`; both 0 while they are unknown.
    pub layers_done: u32,
    /// All its layers.
    pub layers_total: u32,
    /// Bytes fetched or found here, of `bytes_total`.
    pub bytes_done: u64,
    /// All its bytes, as they are transferred.
    pub bytes_total: u64,
}

/// Turns names into images. Clones are the same provisioner.
#[derive(Debug, Clone)]
pub struct Provisioner {
    options: PullOptions,
}

impl Provisioner {
    /// The image of `source`. Others who ask for the same with the same credentials share one pull,
    /// which is cancelled when the last of them drops its future.
    ///
    /// # Errors
    /// With a reason for the pod's status.
    pub async fn resolve(
        &self,
        _source: &ImageSource,
        _policy: PullPolicy,
        _credentials: &Credentials,
    ) -> Result<Resolved, ProvisionError> {
        Err(ProvisionError::passing(format!("{:?} has no store", self.options)))
    }

    /// Every image of an archive or layout, pinned.
    ///
    /// # Errors
    /// When it can't be read, or one of its images is damaged; the ones before that are loaded.
    pub async fn load(&self, path: &Path) -> Result<Vec<Image>, ProvisionError> {
        Err(ProvisionError::passing(format!("{} has no store", path.display())))
    }

    /// The pulls that go on.
    #[must_use]
    pub fn progress(&self) -> Vec<PullProgress> {
        Vec::new()
    }
}

impl Provisioner {
    /// tmp
    pub fn new(_store: super::store::Store, options: PullOptions) -> Self {
        Self { options }
    }
}
