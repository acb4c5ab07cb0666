//! Checkpoints: files that hold one fact each, and are there as a whole or not at all.
//!
//! ```text
//! write:  .<name>.<pid>-<n>.tmp ─► fsync ─► rename to <name> ─► fsync of the directory
//! ```
//!
//! They are JSON, with `"format"` first. Compatibility: a new field gets `#[serde(default)]` and
//! raises the format, because unknown fields are refused; so an older Roost says "written by a
//! newer one" and not "damaged". Every format ever written has a golden file (`state/golden`).
//!
//! All of this blocks until the disk has it: not to be called where nothing may stall. Each
//! directory has one writer. Not here: the agent's store (`store`), and where files lie (`paths`).

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

mod files;

pub use files::{AttemptFile, ConfigFile, ConfigKeyFile, ExitFile, Format, SpecFile};

/// Longest checkpoint in bytes. A specification comes from a manifest, which is far smaller.
pub const CHECKPOINT_LEN_MAX: u64 = 4 << 20;

/// A type that is kept in checkpoints. It has a field `format` of type [`Format`].
pub trait Checkpoint: Serialize + DeserializeOwned {
    /// The newest format, which is written.
    const FORMAT: u32;
    /// Longest file in bytes.
    const LEN_MAX: u64 = CHECKPOINT_LEN_MAX;
}

/// Why a checkpoint could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A system call failed.
    #[error("can't {attempted} {}", path.display())]
    Io {
        /// What was attempted, as a verb.
        attempted: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The file is there, and is not what was written: empty, cut off, or something else.
    #[error("{} is damaged: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file has a format that this program does not know.
    #[error(
        "{} was written by a newer Roost (format {found}; the newest known here is {known})",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format known here.
        known: u32,
    },
    /// The value does not fit into a checkpoint; nothing was written.
    #[error("refused to write {}: {why}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
}

/// Writes a checkpoint; durable on return. Whoever reads sees the old one or the new one. The
/// directory must be there.
///
/// # Errors
/// [`CheckpointError::Io`] or [`CheckpointError::Refused`]. The old one is still there then, or
/// (when only the last step, the sync of the directory, failed) the new one already.
pub fn write<T: Checkpoint>(path: &Path, value: &T) -> Result<(), CheckpointError> {
    let bytes = encode(path, value)?;
    let name = path.file_name().ok_or_else(|| CheckpointError::Refused {
        path: path.to_owned(),
        why: "it has no name".into(),
    })?;
    let directory = directory_of(path);
    let (temp, mut file) = create_temp(directory, name)
        .map_err(|e| io_error("make a temporary file in", directory, e))?;
    let written = file
        .write_all(&bytes)
        .and_then(|()| file.sync_all())
        .map_err(|e| io_error("write", &temp, e))
        .and_then(|()| fs::rename(&temp, path).map_err(|e| io_error("rename to", path, e)));
    if let Err(error) = written {
        // If it can't be removed now, `sweep` removes it.
        drop(fs::remove_file(&temp));
        return Err(error);
    }
    sync_dir(directory).map_err(|e| io_error("sync", directory, e))
}

/// Writes a checkpoint under a name that had none; durable on return. There is nothing to be
/// replaced, so it is written in place: the file system commits once, and not once for the file
/// and once for its name, which was most of the time of a start. What a power cut leaves of it
/// before that is missing or [`CheckpointError::Damaged`].
///
/// # Errors
/// As [`write()`].
pub fn create<T: Checkpoint>(path: &Path, value: &T) -> Result<(), CheckpointError> {
    let bytes = encode(path, value)?;
    let directory = directory_of(path);
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o600);
    let mut file = match options.open(path) {
        Ok(file) => file,
        // An earlier try of the same.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return write(path, value),
        Err(error) => return Err(io_error("make", path, error)),
    };
    let written = file.write_all(&bytes).and_then(|()| file.sync_all());
    if let Err(error) = written {
        drop(fs::remove_file(path));
        return Err(io_error("write", path, error));
    }
    sync_dir(directory).map_err(|e| io_error("sync", directory, e))
}

fn encode<T: Checkpoint>(path: &Path, value: &T) -> Result<Vec<u8>, CheckpointError> {
    let refused = |why: String| CheckpointError::Refused { path: path.to_owned(), why };
    let mut bytes = serde_json::to_vec(value).map_err(|e| refused(e.to_string()))?;
    bytes.push(b'\n');
    let most = T::LEN_MAX;
    if bytes.len() as u64 > most {
        let len = bytes.len();
        return Err(refused(format!("it would be {len} bytes; {most} are the most")));
    }
    Ok(bytes)
}

/// Reads a checkpoint; none if there is no such file.
///
/// # Errors
/// [`CheckpointError::Damaged`], [`CheckpointError::Newer`], or [`CheckpointError::Io`].
pub fn read<T: Checkpoint>(path: &Path) -> Result<Option<T>, CheckpointError> {
    let Some(bytes) = read_bounded(path, T::LEN_MAX)? else {
        return Ok(None);
    };
    let damaged = |why: String| CheckpointError::Damaged { path: path.to_owned(), why };
    if bytes.is_empty() {
        return Err(damaged("it is empty".into()));
    }
    // First the format alone: what else is in a newer file can't be known.
    let Head { format } = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
    if format > T::FORMAT {
        let path = path.to_owned();
        return Err(CheckpointError::Newer { path, found: format, known: T::FORMAT });
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|e| damaged(e.to_string()))
}

/// Removes the temporary files that writers left behind which did not live to rename them;
/// returns how many. Only the directory's writer may call it.
///
/// # Errors
/// When the directory can't be listed, or a file in it can't be removed.
pub fn sweep(directory: &Path) -> Result<usize, CheckpointError> {
    let failed = |e| io_error("list", directory, e);
    let mut removed = 0;
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if is_temp_name(&entry.file_name()) {
            let path = entry.path();
            fs::remove_file(&path).map_err(|e| io_error("remove", &path, e))?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Makes a directory and those above it that are missing (mode 0755, less the umask), with their
/// entries durable. Nothing happens if it is there.
///
/// # Errors
/// When one can't be made or synced, or something else has its name.
pub fn create_dir_durable(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = directory_of(path);
    if parent != path {
        create_dir_durable(parent)?;
    }
    match DirBuilder::new().mode(0o755).create(path) {
        Ok(()) => {}
        // Somebody else was faster; its entry is to be durable all the same.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(error),
    }
    sync_dir(parent)
}

/// Makes what was made, renamed or removed in a directory durable (fsync(2), notes).
///
/// # Errors
/// When it can't be opened or synced.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The directory that a path's last part is an entry of.
fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

/// The part of every checkpoint that is never changed.
#[derive(Deserialize)]
struct Head {
    format: u32,
}

fn read_bounded(path: &Path, most: u64) -> Result<Option<Vec<u8>>, CheckpointError> {
    let failed = |e| io_error("read", path, e);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > most {
        let why = format!("it is longer than {most} bytes");
        return Err(CheckpointError::Damaged { path: path.to_owned(), why });
    }
    Ok(Some(bytes))
}

const TEMP_SUFFIX: &str = ".tmp";

/// Makes a file of a name that nobody else uses: the process and a count are in it.
fn create_temp(directory: &Path, name: &OsStr) -> io::Result<(PathBuf, File)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    loop {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut temp = OsStr::new(".").to_owned();
        temp.push(name);
        temp.push(format!(".{}-{count}{TEMP_SUFFIX}", std::process::id()));
        let path = directory.join(temp);
        match options.open(&path) {
            Ok(file) => return Ok((path, file)),
            // Left by a process that had our pid; the next number is free or nearer to it.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether [`create_temp`] makes such names: `.<name>.<pid>-<count>.tmp`.
fn is_temp_name(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    let numbers = name
        .strip_prefix('.')
        .and_then(|name| name.strip_suffix(TEMP_SUFFIX))
        .and_then(|name| name.rsplit_once('.'))
        .and_then(|(_, numbers)| numbers.split_once('-'));
    let is_number = |text: &str| text.parse::<u64>().is_ok();
    numbers.is_some_and(|(pid, count)| is_number(pid) && is_number(count))
}

fn io_error(attempted: &'static str, path: &Path, source: io::Error) -> CheckpointError {
    CheckpointError::Io { attempted, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
