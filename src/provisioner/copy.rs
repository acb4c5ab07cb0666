//! The copying back end: layers merged into one plain directory, for hosts without overlay.
//!
//! Not here: making the layers (`unpack`), and mounting them where overlay is possible.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, Mode, OFlags, XattrFlags};

use super::tree::{self, DEPTH_MAX, Found, Merged, Node};

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
    /// The layers are not as `unpack` makes them.
    #[error("{} is deeper than {DEPTH_MAX} directories", path.display())]
    TooDeep {
        /// Where.
        path: PathBuf,
    },
}

/// What was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Copied {
    /// Files, directories, links and so on.
    pub entries: u64,
    /// Bytes of files, those that share their data with the layer too.
    pub bytes: u64,
}

/// Gives a directory the extended attributes of another, but those that make overlays.
///
/// # Errors
/// When they can't be read or set.
pub fn copy_xattrs(from: &Path, to: &Path) -> io::Result<()> {
    for (key, value) in tree::xattrs_of(from.as_os_str().as_bytes())? {
        if !key.starts_with(b"trusted.overlay.") {
            rustix::fs::lsetxattr(to, key.as_slice(), &value, XattrFlags::empty())?;
        }
    }
    Ok(())
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
    let open = |path: &Path| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).map_err(|e| failed("open", path, e))
    };
    let layers = layers.iter().rev().map(|layer| open(layer).map(Rc::new));
    let merged = Merged::root(layers.collect::<Result<_, _>>()?);
    let target = Rc::new(open(target)?);
    let mut copy =
        Copy { target: Rc::clone(&target), linked: BTreeMap::new(), done: Copied::default() };
    if !merged.layers.is_empty() {
        copy.directory(&merged, &target, Path::new(""), 0)?;
    }
    Ok(copy.done)
}

struct Copy {
    target: Rc<OwnedFd>,
    /// Where the first name of a file with several was copied to, by device and inode.
    linked: BTreeMap<(u64, u64), PathBuf>,
    done: Copied,
}

impl Copy {
    fn directory(
        &mut self,
        from: &Merged,
        to: &OwnedFd,
        path: &Path,
        depth: usize,
    ) -> Result<(), CopyError> {
        if depth > DEPTH_MAX {
            return Err(CopyError::TooDeep { path: path.to_owned() });
        }
        for name in from.names().map_err(|e| failed("list", path, e))? {
            let inside = path.join(OsStr::from_bytes(&name));
            let found = from.lookup(&name).map_err(|e| failed("look at", &inside, e))?;
            self.entry(found, to, &name, &inside, depth)?;
        }
        // Its own metadata last: its times change with its entries.
        from.copy_metadata_to(to).map_err(|e| failed("set the metadata of", path, e))?;
        Ok(())
    }

    fn entry(
        &mut self,
        found: Found,
        to: &OwnedFd,
        name: &[u8],
        path: &Path,
        depth: usize,
    ) -> Result<(), CopyError> {
        match found {
            Found::Nothing => return Ok(()),
            Found::Directory(merged) => {
                rustix::fs::mkdirat(to, name, Mode::RWXU)
                    .map_err(|e| failed("make the directory", path, e))?;
                let inside = tree::open_beneath(to, name).map_err(|e| failed("open", path, e))?;
                self.directory(&merged, &inside, path, depth + 1)?;
            }
            Found::Other(node) => self.file(&node, to, name, path)?,
        }
        self.done.entries += 1;
        Ok(())
    }

    fn file(
        &mut self,
        node: &Node,
        to: &OwnedFd,
        name: &[u8],
        path: &Path,
    ) -> Result<(), CopyError> {
        let key = (node.stat.st_dev, node.stat.st_ino);
        if let Some(first) = self.linked.get(&key) {
            return rustix::fs::linkat(&self.target, first, to, name, AtFlags::empty())
                .map_err(|e| failed("link", path, e));
        }
        tree::copy_node(node, to, name).map_err(|e| failed("copy", path, e))?;
        if node.stat.st_nlink > 1 {
            self.linked.insert(key, path.to_owned());
        }
        self.done.bytes += u64::try_from(node.stat.st_size).unwrap_or(0);
        Ok(())
    }
}

fn failed(attempted: &'static str, path: &Path, source: impl Into<io::Error>) -> CopyError {
    // The root has no name of its own.
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    CopyError::Io { attempted, path: path.to_owned(), source: source.into() }
}
