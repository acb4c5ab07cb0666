//! Unpacked layers on the disk, and what is half or on its way out.

use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    BLOBS, ChainId, DiffId, LAYERS, LayerId, Store, StoreError, TRASH, failed, in_file, step,
    sync_dir,
};
use crate::provisioner::unpack::{UnpackOptions, UnpackReport, unpack};
use crate::state::checkpoint::{self, Checkpoint, CheckpointError, Format};

/// The tree of a layer, in its directory.
pub(super) const FS: &str = "fs";
const MARK: &str = "layer.json";
const TMP_PREFIX: &str = "tmp-";

/// `layers/<LayerId>/layer.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LayerFile {
    format: Format<1>,
    pub(super) chain: ChainId,
    diff: DiffId,
    entries: u64,
    pub(super) size: u64,
}

impl Checkpoint for LayerFile {
    const FORMAT: u32 = 1;
}

impl Store {
    /// What is known of an unpacked layer; none if it is not there or damaged.
    pub(super) fn read_layer(&self, chain: &ChainId) -> Result<Option<LayerFile>, StoreError> {
        let id = LayerId::from(chain);
        let file = self.read_mark(&id)?;
        if let Some(file) = &file
            && file.chain != *chain
        {
            let (wanted, found) = (chain.clone(), file.chain.clone());
            return Err(StoreError::Collision { id, wanted, found });
        }
        Ok(file.filter(|_| self.layer_fs(&id).is_dir()))
    }

    pub(super) fn read_mark(&self, id: &LayerId) -> Result<Option<LayerFile>, StoreError> {
        match checkpoint::read(&self.layer_path(id).join(MARK)) {
            Err(CheckpointError::Damaged { path, why }) => {
                tracing::warn!(path = %path.display(), why, "a layer is damaged");
                Ok(None)
            }
            read => read.map_err(in_file),
        }
    }

    pub(super) fn layer_path(&self, id: &LayerId) -> PathBuf {
        self.layers_directory().join(id.as_str())
    }

    /// Unpacks a layer, and makes it visible when all of it is on the disk.
    pub(super) fn make_layer(
        &self,
        chain: &[DiffId],
        input: impl Read + Send,
        options: &UnpackOptions,
    ) -> Result<UnpackReport, StoreError> {
        let temp = self.layers_directory().join(format!("{TMP_PREFIX}{}", self.next_count()));
        // Left by a process that was killed while it moved things to the trash.
        self.remove_now(&temp)?;
        let made = self.fill_layer(&temp, chain, input, options);
        if made.is_err() {
            // The disk is given back at once; what can't be removed now is when the store is
            // opened next.
            if let Err(error) = self.remove_now(&temp) {
                tracing::warn!(path = %temp.display(), %error, "can't remove what is half");
            }
        }
        made
    }

    fn fill_layer(
        &self,
        temp: &Path,
        chain: &[DiffId],
        input: impl Read + Send,
        options: &UnpackOptions,
    ) -> Result<UnpackReport, StoreError> {
        let (diff, below) = chain.split_last().expect("the caller has looked");
        let whole = ChainId::of(chain).expect("the caller has looked");
        let tree = temp.join(FS);
        for path in [temp, &tree] {
            make_private(path)?;
            step();
        }
        let below: Vec<_> = (1..=below.len())
            .map(|len| ChainId::of(&below[..len]).expect("it has at least one layer"))
            .map(|chain| self.layer_fs(&LayerId::from(&chain)))
            .collect();
        let report = unpack(&tree, &below, input, diff.digest(), options)
            .map_err(|error| StoreError::Unpack { layer: diff.clone(), source: error.into() })?;
        step();
        let mark = LayerFile {
            format: Format,
            chain: whole.clone(),
            diff: diff.clone(),
            entries: report.entries,
            size: report.size,
        };
        let mut bytes = serde_json::to_vec(&mark).expect("numbers and text are JSON");
        bytes.push(b'\n');
        let path = temp.join(MARK);
        fs::write(&path, bytes).map_err(failed("write", &path))?;
        step();
        // Everything of the layer and its mark at once. Syncing file by file takes many times as
        // long (fsync commits the journal for each).
        let directory = File::open(temp).map_err(failed("open", temp))?;
        rustix::fs::syncfs(&directory).map_err(failed("sync", temp))?;
        step();
        self.publish_layer(temp, &LayerId::from(&whole))?;
        Ok(report)
    }

    fn publish_layer(&self, temp: &Path, id: &LayerId) -> Result<(), StoreError> {
        let path = self.layer_path(id);
        if path.symlink_metadata().is_ok() {
            // Damaged, or it would not have been unpacked again.
            self.to_trash(&path)?;
            step();
        }
        fs::rename(temp, &path).map_err(failed("rename to", &path))?;
        step();
        sync_dir(&self.layers_directory())
    }

    /// Moves something out of sight; it is gone for good with [`Store::empty_trash`].
    pub(super) fn to_trash(&self, path: &Path) -> Result<PathBuf, StoreError> {
        loop {
            let to = self.path(TRASH).join(self.next_count().to_string());
            match rustix::fs::renameat_with(
                rustix::fs::CWD,
                path,
                rustix::fs::CWD,
                &to,
                rustix::fs::RenameFlags::NOREPLACE,
            ) {
                Ok(()) => return Ok(to),
                // Left by a process that was killed.
                Err(rustix::io::Errno::EXIST) => {}
                Err(errno) => return Err(failed("move away", path)(errno)),
            }
        }
    }

    /// Deletes what was moved to the trash, which may take long.
    ///
    /// # Errors
    /// When something can't be removed.
    pub fn empty_trash(&self) -> Result<(), StoreError> {
        let trash = self.path(TRASH);
        for entry in list(&trash)? {
            self.remove_now(&entry)?;
        }
        Ok(())
    }

    fn remove_now(&self, path: &Path) -> Result<(), StoreError> {
        let removed = match path.symlink_metadata() {
            Ok(found) if found.is_dir() => fs::remove_dir_all(path),
            Ok(_) => fs::remove_file(path),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("remove", path)(error)),
            _ => Ok(()),
        }
    }

    /// After a crash: layers that were being unpacked, and blobs that were being written.
    pub(super) fn sweep_halves(&self) -> Result<(), StoreError> {
        for entry in list(&self.path(LAYERS))? {
            let name = entry.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.parse::<LayerId>().is_err() {
                self.to_trash(&entry)?;
            }
        }
        for directory in list(&self.path(BLOBS))? {
            checkpoint::sweep(&directory).map_err(in_file)?;
        }
        Ok(())
    }
}

fn make_private(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new().mode(0o700).create(path).map_err(failed("make the directory", path))
}

/// The paths in a directory.
pub(super) fn list(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = fs::read_dir(directory);
    let paths = entries.and_then(|entries| entries.map(|e| Ok(e?.path())).collect());
    paths.map_err(failed("list", directory))
}
