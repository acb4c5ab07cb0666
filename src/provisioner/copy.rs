//! The copying back end: layers merged into one plain directory, for hosts without overlay.

use std::io;
use std::path::{Path, PathBuf};

/// Why layers could not be merged.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A system call failed.
    #[error("can't {attempted} {}", path.display())]
    Io {
        /// What was attempted, as a verb.
        attempted: &'static str,
        /// On what, within the tree.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// What was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Copied {
    /// Files, directories, links and so on.
    pub entries: u64,
    /// Bytes of files, shared ones (reflinks) too.
    pub bytes: u64,
}

/// Copies the tree that unpacked layers make (`layers`: their `fs` directories, the lowest first)
/// into `target`, a directory that is there and empty. Whiteouts and opaque directories are
/// applied; type, mode, owner, times, extended attributes and hard links are kept; data is shared
/// with the layers where the file system can do that. Not synced: it is as good as an overlay's
/// upper directory.
///
/// # Errors
/// What failed on what. What was copied so far is left.
pub fn merge(layers: &[PathBuf], target: &Path) -> Result<Copied, CopyError> {
    let _ = (layers, target);
    todo!()
}
