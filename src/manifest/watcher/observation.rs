//! What the watcher reports: the words between it and whoever turns files into desired state.
//!
//! Data only. Not here: what an observation means for pods (invariants 3 and 4 are kept by whoever
//! compares it with what runs).

use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;

/// Largest manifest that is read, as with the kubelet.
pub const MAX_FILE_BYTES: u64 = 10 * 1024 * 1024;
/// Most bytes that are held of one directory; files beyond it get a fault of their own.
pub const MAX_DIRECTORY_BYTES: u64 = 64 * 1024 * 1024;
/// Most manifests in one directory.
pub const MAX_FILES: usize = 4096;
/// Most names of any kind that are looked at in one directory.
pub const MAX_ENTRIES: usize = 65_536;
/// Most ignored names that are reported.
pub const MAX_IGNORED_NAMES: usize = 64;

/// One manifest directory, as it is now. Always complete: it replaces the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryObservation {
    /// The path as configured.
    pub directory: String,
    /// What is there.
    pub state: DirectoryState,
}

/// What is at the path of a manifest directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectoryState {
    /// The directory could be listed. A file that is not in `files` is absent.
    Read {
        /// `sys::directory_handle` of the directory that the path leads to: another directory at
        /// the same path has another handle.
        handle: Vec<u8>,
        /// Every manifest by its name. Bytes that did not change stay in the same allocation.
        files: BTreeMap<String, Content>,
        /// Names that look like a user's file but are not read (`README`, `a.yaml.bak`), sorted, at
        /// most [`MAX_IGNORED_NAMES`]. Dotfiles are not named.
        ignored: Vec<String>,
    },
    /// Nothing is known about the files. It deletes nothing.
    Unavailable {
        /// Why.
        fault: DirectoryFault,
    },
}

/// The bytes of a manifest, or why there are none. A fault is not absence: the file's pods stay.
pub type Content = Result<Arc<[u8]>, FileFault>;

/// Why one file can't be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FileFault {
    /// It was found half-written when the directory was listed first.
    #[error("is still being written")]
    BeingWritten,
    /// A pipe, device, socket or directory.
    #[error("is a {kind}, not a regular file")]
    NotRegular {
        /// What it is.
        kind: &'static str,
    },
    /// A symbolic link whose target does not exist.
    #[error("is a symbolic link that leads nowhere")]
    DanglingLink,
    /// Larger than [`MAX_FILE_BYTES`].
    #[error("has {bytes} bytes; at most {limit} are read")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The files of the directory have more than [`MAX_DIRECTORY_BYTES`] together.
    #[error("does not fit: the manifests of a directory may have {limit} bytes together")]
    DirectoryTooLarge {
        /// The limit.
        limit: u64,
    },
    /// A system call failed.
    #[error("can't be {attempt}: {reason}")]
    Unreadable {
        /// What was attempted: `opened`, `read`, `examined`.
        attempt: &'static str,
        /// The system's own words.
        reason: String,
    },
}

/// Why a directory can't be listed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DirectoryFault {
    /// Nothing is there, or a link leads nowhere.
    #[error("the directory does not exist")]
    Missing,
    /// Something else is there.
    #[error("the path does not lead to a directory")]
    NotADirectory,
    /// More than [`MAX_FILES`] manifests. Serving some of them would look like the deletion of
    /// the others.
    #[error("the directory holds more than {limit} manifests")]
    TooManyFiles {
        /// The limit.
        limit: usize,
    },
    /// More than [`MAX_ENTRIES`] names.
    #[error("the directory holds more than {limit} names")]
    TooManyEntries {
        /// The limit.
        limit: usize,
    },
    /// A system call failed.
    #[error("the directory can't be {attempt}: {reason}")]
    Unreadable {
        /// What was attempted: `opened`, `identified`, `listed`.
        attempt: &'static str,
        /// The system's own words.
        reason: String,
    },
}
