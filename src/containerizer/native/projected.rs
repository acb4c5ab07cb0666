//! The files of a volume that are made of values, changed all at once: as the kubelet's
//! `AtomicWriter` has them, because programs rely on it.
//!
//! ```text
//! <volume>/
//! ├── ..2026_11_22_22_31_05.123456789/   the files as they are, in directories of their own
//! ├── ..data -> ..2026_11_22_22_31_05.123456789
//! ├── key -> ..data/key                  for every first part of a path
//! └── dir -> ..data/dir
//! ```
//!
//! A change makes a new directory and renames a link over `..data`, so a reader that opens
//! `..data` once sees files that belong together, and nobody ever sees half of one. The clock only
//! makes a name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown, symlink,
};
use std::path::{Path, PathBuf};

use crate::clock::WallTime;
use crate::manifest::resolve::File;

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";
const DIRECTORY_MODE: u32 = 0o755;
/// What the group of `fsGroup` may do with a file.
const GROUP_BITS: u32 = 0o440;

/// Puts exactly these files into a volume; nothing happens if they are what is there. Paths are
/// relative, without `..`. A group (`fsGroup`) may read all of them. Tells whether anything changed.
///
/// # Errors
/// What could not be made. A reader still sees the files as they were then, or the new ones.
pub fn write(
    volume: &Path,
    files: &BTreeMap<String, File>,
    group: Option<u32>,
) -> io::Result<bool> {
    let old = match fs::read_link(volume.join(DATA)) {
        Ok(name) => Some(volume.join(name)),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if let Some(old) = &old
        && is_same(old, files, group)?
    {
        return Ok(false);
    }
    let name = new_directory(volume)?;
    let directory = volume.join(&name);
    let made = files
        .iter()
        .try_for_each(|(path, file)| write_file(&directory.join(path), &directory, file, group));
    let made = made.and_then(|()| {
        remove_if_there(&volume.join(NEW_DATA))?;
        symlink(&name, volume.join(NEW_DATA))?;
        fs::rename(volume.join(NEW_DATA), volume.join(DATA))
    });
    if let Err(error) = made {
        // What was is still what is seen.
        drop(fs::remove_dir_all(&directory));
        return Err(error);
    }
    link_all(volume, files)?;
    if let Some(old) = old {
        fs::remove_dir_all(old)?;
    }
    Ok(true)
}

/// A directory of a name that was not there.
fn new_directory(volume: &Path) -> io::Result<String> {
    let time = WallTime::now().rfc3339_nanos();
    let stamp: String = time.trim_end_matches('Z').replace(['-', 'T', ':'], "_");
    for count in 0_u32.. {
        // A clock that was set back may have made it before.
        let name = if count == 0 { format!("..{stamp}") } else { format!("..{stamp}_{count}") };
        let path = volume.join(&name);
        match DirBuilder::new().mode(DIRECTORY_MODE).create(&path) {
            Ok(()) => {
                fs::set_permissions(&path, Permissions::from_mode(DIRECTORY_MODE))?;
                return Ok(name);
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

/// The bits of a file: with a group it reads what its owner reads, as with the kubelet
/// (`volume.SetVolumeOwnership` of what is read-only).
fn mode_of(file: &File, group: Option<u32>) -> u32 {
    file.mode | group.map_or(0, |_| GROUP_BITS)
}

fn write_file(path: &Path, top: &Path, file: &File, group: Option<u32>) -> io::Result<()> {
    let mut missing: Vec<&Path> = Vec::new();
    let above = path.ancestors().skip(1).take_while(|above| *above != top);
    missing.extend(above.filter(|above| !above.is_dir()));
    for above in missing.iter().rev() {
        DirBuilder::new().mode(DIRECTORY_MODE).create(above)?;
        fs::set_permissions(above, Permissions::from_mode(DIRECTORY_MODE))?;
    }
    let mut options = OpenOptions::new();
    let mut out = options.write(true).create_new(true).mode(0o600).open(path)?;
    out.write_all(&file.bytes)?;
    if group.is_some() {
        fchown(&out, None, group)?;
    }
    // Whatever the umask left.
    out.set_permissions(Permissions::from_mode(mode_of(file, group)))
}

/// Links to what is in `..data`, and none to what is not.
fn link_all(volume: &Path, files: &BTreeMap<String, File>) -> io::Result<()> {
    let first = |path: &String| path.split('/').next().unwrap_or_default().to_owned();
    let wanted: BTreeSet<String> = files.keys().map(first).collect();
    for name in &wanted {
        match symlink(Path::new(DATA).join(name), volume.join(name)) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    for entry in fs::read_dir(volume)? {
        let name = entry?.file_name();
        let is_ours = name.to_str().is_some_and(|name| name.starts_with(".."));
        if !is_ours && !name.to_str().is_some_and(|name| wanted.contains(name)) {
            remove_if_there(&volume.join(&name))?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether a directory has these files and no others.
fn is_same(
    directory: &Path,
    files: &BTreeMap<String, File>,
    group: Option<u32>,
) -> io::Result<bool> {
    let mut found = BTreeSet::new();
    let mut open: Vec<PathBuf> = vec![directory.to_owned()];
    while let Some(above) = open.pop() {
        for entry in fs::read_dir(&above)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
                continue;
            }
            let path = entry.path();
            let relative = path.strip_prefix(directory).ok().and_then(Path::to_str);
            let Some(wanted) = relative.and_then(|relative| files.get(relative)) else {
                return Ok(false);
            };
            let mode = entry.metadata()?.permissions().mode() & 0o7777;
            if mode != mode_of(wanted, group) || fs::read(&path)? != wanted.bytes {
                return Ok(false);
            }
            found.insert(path);
        }
    }
    Ok(found.len() == files.len())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn files(all: &[(&str, &str, u32)]) -> BTreeMap<String, File> {
        let file = |(path, text, mode): &(&str, &str, u32)| {
            ((*path).to_owned(), File { bytes: text.as_bytes().to_vec(), mode: *mode })
        };
        all.iter().map(file).collect()
    }

    fn names(directory: &Path) -> Vec<String> {
        let all = fs::read_dir(directory).unwrap();
        let mut all: Vec<String> =
            all.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        all.sort();
        all
    }

    #[test]
    fn files_are_swapped_all_at_once_and_stale_ones_go() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let first = [("a", "1", 0o644), ("dir/b", "2", 0o400)];
        assert!(write(root.path(), &files(&first), None).unwrap());
        assert_eq!(fs::read_link(at("dir")).unwrap(), Path::new("..data/dir"));
        assert_eq!(fs::read_to_string(at("dir/b")).unwrap(), "2");
        assert_eq!(fs::metadata(at("dir/b")).unwrap().permissions().mode() & 0o777, 0o400);
        let before = fs::read_link(at("..data")).unwrap();
        assert!(!write(root.path(), &files(&first), None).unwrap(), "it is the same");
        assert_eq!(fs::read_link(at("..data")).unwrap(), before);
        // Whoever holds the old directory sees it whole until it is gone.
        let held = fs::File::open(at("a")).unwrap();
        assert!(write(root.path(), &files(&[("a", "3", 0o644), ("c", "4", 0o600)]), None).unwrap());
        assert_eq!(io::read_to_string(held).unwrap(), "1");
        assert_eq!(fs::read_to_string(at("a")).unwrap(), "3");
        let data = fs::read_link(at("..data")).unwrap();
        let data = data.to_str().unwrap();
        assert_eq!(names(root.path()), [data, "..data", "a", "c"]);
        assert_eq!(names(&at(data)), ["a", "c"]);
        assert!(write(root.path(), &files(&[("a", "3", 0o644), ("c", "4", 0o640)]), None).unwrap());
        assert!(write(root.path(), &files(&[]), None).unwrap());
        assert_eq!(names(root.path()).len(), 2);
    }

    #[test]
    fn what_an_interrupted_write_left_is_in_nobody_s_way() {
        let root = tempfile::tempdir().unwrap();
        symlink("nowhere", root.path().join(NEW_DATA)).unwrap();
        assert!(write(root.path(), &files(&[("a", "1", 0o644)]), None).unwrap());
        assert_eq!(fs::read_to_string(root.path().join("a")).unwrap(), "1");
    }

    #[test]
    fn a_group_reads_what_its_owner_reads() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let group = Some(4711);
        let wanted = files(&[("key", "1", 0o400), ("text", "2", 0o644)]);
        assert!(write(root.path(), &wanted, group).unwrap());
        for (name, mode) in [("key", 0o440), ("text", 0o644)] {
            let found = fs::metadata(root.path().join(name)).unwrap();
            let found = (found.uid(), found.gid(), found.permissions().mode() & 0o777);
            assert_eq!(found, (0, 4711, mode), "{name}");
        }
        assert!(!write(root.path(), &wanted, group).unwrap(), "it is the same");
    }
}
