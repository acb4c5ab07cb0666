//! For tests: tar files made by hand, sound or not, and trees as text.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::image::Digest;

use super::{UnpackError, UnpackOptions, UnpackReport, unpack};
use crate::provisioner::store::sha256;
use crate::provisioner::tree;

/// A tar file being written.
#[derive(Clone)]
pub(in crate::provisioner) struct Tar {
    bytes: Vec<u8>,
    pub(in crate::provisioner) mode: u32,
    pub(in crate::provisioner) owner: (u32, u32),
    pub(in crate::provisioner) mtime: u64,
}

impl Tar {
    pub(in crate::provisioner) fn new() -> Self {
        Self { bytes: Vec::new(), mode: 0o644, owner: (0, 0), mtime: 1_000_000_000 }
    }

    pub(in crate::provisioner) fn dir(self, name: &str) -> Self {
        let mode = self.mode;
        self.mode(0o755).entry(b'5', name.as_bytes(), b"", b"").mode(mode)
    }

    pub(in crate::provisioner) fn file(self, name: &str, data: &[u8]) -> Self {
        self.entry(b'0', name.as_bytes(), b"", data)
    }

    pub(in crate::provisioner) fn link(self, name: &str, target: &str) -> Self {
        self.entry(b'1', name.as_bytes(), target.as_bytes(), b"")
    }

    pub(in crate::provisioner) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(b'2', name.as_bytes(), target.as_bytes(), b"")
    }

    pub(in crate::provisioner) fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub(in crate::provisioner) fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.owner = (uid, gid);
        self
    }

    pub(in crate::provisioner) fn mtime(mut self, mtime: u64) -> Self {
        self.mtime = mtime;
        self
    }

    /// An extended header for the next entry.
    pub(in crate::provisioner) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut len = rest + 1;
            while len != rest + len.to_string().len() {
                len = rest + len.to_string().len();
            }
            data.extend_from_slice(format!("{len} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.entry(b'x', b"pax", b"", &data)
    }

    pub(in crate::provisioner) fn entry(
        self,
        kind: u8,
        name: &[u8],
        link: &[u8],
        data: &[u8],
    ) -> Self {
        let header = self.header(kind, name, link, data.len() as u64);
        self.with(header, data)
    }

    pub(in crate::provisioner) fn device(self, kind: u8, name: &str, device: (u32, u32)) -> Self {
        let mut header = self.header(kind, name.as_bytes(), b"", 0);
        header[329..337].copy_from_slice(format!("{:07o}\0", device.0).as_bytes());
        header[337..345].copy_from_slice(format!("{:07o}\0", device.1).as_bytes());
        self.with(header, b"")
    }

    pub(in crate::provisioner) fn header(
        &self,
        kind: u8,
        name: &[u8],
        link: &[u8],
        size: u64,
    ) -> [u8; 512] {
        let mut header = [0; 512];
        header[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        header[100..108].copy_from_slice(format!("{:07o}\0", self.mode).as_bytes());
        header[108..116].copy_from_slice(format!("{:07o}\0", self.owner.0).as_bytes());
        header[116..124].copy_from_slice(format!("{:07o}\0", self.owner.1).as_bytes());
        header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        header[136..148].copy_from_slice(format!("{:011o}\0", self.mtime).as_bytes());
        header[156] = kind;
        header[157..157 + link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
        header[257..265].copy_from_slice(b"ustar\x0000");
        header
    }

    /// Adds a header, with its checksum, and data.
    pub(in crate::provisioner) fn with(mut self, mut header: [u8; 512], data: &[u8]) -> Self {
        header[148..156].copy_from_slice(b"        ");
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&header);
        self.raw(data)
    }

    /// Adds bytes, filled up to a block.
    pub(in crate::provisioner) fn raw(mut self, data: &[u8]) -> Self {
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    /// Without the end that a tar file has.
    pub(in crate::provisioner) fn open_end(self) -> Vec<u8> {
        self.bytes
    }

    pub(in crate::provisioner) fn end(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&[0; 1024]);
        self.bytes
    }
}

/// Layers unpacked one on top of the other in a directory of their own, with something beside it
/// that must not change.
pub(in crate::provisioner) struct Stack {
    pub(in crate::provisioner) directory: tempfile::TempDir,
    pub(in crate::provisioner) layers: Vec<PathBuf>,
}

impl Stack {
    pub(in crate::provisioner) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("outside")).unwrap();
        fs::write(directory.path().join("outside/victim"), b"untouched").unwrap();
        Self { directory, layers: Vec::new() }
    }

    pub(in crate::provisioner) fn of(layers: &[Vec<u8>]) -> Self {
        let mut stack = Self::new();
        for layer in layers {
            stack.push(layer).unwrap();
        }
        stack
    }

    pub(in crate::provisioner) fn push(&mut self, tar: &[u8]) -> Result<UnpackReport, UnpackError> {
        self.push_as(tar, &sha256(tar), &UnpackOptions::default())
    }

    pub(in crate::provisioner) fn push_as(
        &mut self,
        input: &[u8],
        diff: &Digest,
        options: &UnpackOptions,
    ) -> Result<UnpackReport, UnpackError> {
        let layer = self.directory.path().join(format!("layer-{}", self.layers.len()));
        fs::create_dir(&layer).unwrap();
        let report = unpack(&layer, &self.layers, input, diff, options);
        match &report {
            Ok(_) => self.layers.push(layer),
            Err(_) => fs::remove_dir_all(layer).unwrap(),
        }
        let outside: Vec<_> = fs::read_dir(self.directory.path().join("outside"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(outside, ["victim"], "something was made outside");
        let victim = self.directory.path().join("outside/victim");
        assert_eq!(fs::read(&victim).unwrap(), b"untouched");
        assert_eq!(victim.metadata().unwrap().nlink(), 1, "something outside was linked");
        report
    }

    /// The tree that all of them make.
    pub(in crate::provisioner) fn merged(&self) -> BTreeMap<String, String> {
        let target = tempfile::tempdir_in(self.directory.path()).unwrap();
        crate::provisioner::copy::merge(&self.layers, target.path()).unwrap();
        listing(target.path())
    }

    /// The tree of the topmost one, whiteouts and all.
    pub(in crate::provisioner) fn top(&self) -> BTreeMap<String, String> {
        listing(self.layers.last().unwrap())
    }
}

/// Everything about each file of a tree but inode numbers: of files with several names, each says
/// which of them is the first.
pub(in crate::provisioner) fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut first = BTreeMap::new();
    list_into(root, Path::new("."), &mut all, &mut first);
    all
}

fn list_into(
    root: &Path,
    path: &Path,
    all: &mut BTreeMap<String, String>,
    first: &mut BTreeMap<u64, String>,
) {
    let full = root.join(path);
    let found = full.symlink_metadata().unwrap();
    let name = String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned();
    let kind = found.file_type();
    let mut line = if kind.is_dir() {
        "dir".to_owned()
    } else if kind.is_symlink() {
        format!("symlink to {}", fs::read_link(&full).unwrap().display())
    } else if kind.is_file() {
        let content = fs::read(&full).unwrap();
        let text = if content.len() < 40 {
            String::from_utf8_lossy(&content).into_owned()
        } else {
            sha256(&content).to_string()
        };
        format!("file of {}: {text:?}", content.len())
    } else if kind.is_fifo() {
        "fifo".to_owned()
    } else {
        let letter = if kind.is_char_device() { 'c' } else { 'b' };
        let device = found.rdev();
        format!("{letter} {}:{}", rustix::fs::major(device), rustix::fs::minor(device))
    };
    write!(line, ", {:04o} {}:{}", found.mode() & 0o7777, found.uid(), found.gid()).unwrap();
    write!(line, ", {}.{:09}", found.mtime(), found.mtime_nsec()).unwrap();
    for (key, value) in tree::xattrs_of(full.as_os_str().as_bytes()).unwrap() {
        let key = String::from_utf8_lossy(&key).into_owned();
        write!(line, ", {key}={value:?}").unwrap();
    }
    if !kind.is_dir() && found.nlink() > 1 {
        let first = first.entry(found.ino()).or_insert_with(|| name.clone());
        write!(line, ", one with {first}").unwrap();
    }
    all.insert(name, line);
    if kind.is_dir() {
        let mut names: Vec<_> =
            fs::read_dir(&full).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        for name in names {
            list_into(root, &path.join(OsStr::new(&name)), all, first);
        }
    }
}
