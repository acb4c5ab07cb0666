//! [`DesiredState`]: what all manifest directories ask for together. PURE.
//!
//! It holds claims, not decisions: which of two claims counts, and whether an absence may be
//! taken for a deletion, depends on what runs and is decided by the reconciler.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::pod::PodSpec;
use super::revision::Revision;
use crate::ids::PodName;
use crate::state::record::ManifestFile;

/// What all manifest directories ask for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DesiredState {
    /// Every configured directory, by its name as configured.
    pub directories: BTreeMap<String, DirectoryView>,
    /// Who asks for which pod, in the order of the files' names.
    pub claims: BTreeMap<PodName, Vec<Claim>>,
    /// Files with a fault in them: what is missing in one of these was not deleted.
    pub faulty: BTreeSet<ManifestFile>,
}

impl DesiredState {
    /// Whether every directory has been looked at.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.directories.values().all(|view| *view != DirectoryView::Unread)
    }
}

/// What was seen of a manifest directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectoryView {
    /// Not yet read.
    Unread,
    /// It can't be read.
    Unavailable {
        /// Why.
        fault: String,
    },
    /// It was read completely.
    Read {
        /// Which directory it is, whatever its name (name_to_handle_at(2)).
        handle: Vec<u8>,
        /// Whether no manifest file is in it.
        empty: bool,
    },
}

/// One manifest's wish for a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The file.
    pub source: ManifestFile,
    /// What it asks for.
    pub spec: Arc<PodSpec>,
    /// The hashes of that.
    pub revision: Revision,
    /// Why it can't be had now: a ConfigMap or Secret is missing.
    pub lacks: Option<Arc<str>>,
}
