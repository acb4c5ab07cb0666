//! [`HostFacts`]: what a launch plan depends on besides the pod. Reading them is here, so that
//! planning is pure.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::files::HostFiles;
use super::hosts;
use crate::ids::Attempt;
use crate::manifest::pod::{ContainerSpec, PodSpec};
use crate::state::paths::PodPaths;

/// What a launch plan depends on besides the pod.
#[derive(Debug, Clone, PartialEq)]
pub struct HostFacts {
    /// The pod instance's own directories.
    pub paths: PodPaths,
    /// Directories that exist and that containers on the host's root file system must not see:
    /// Roost's data, runtime and logs.
    pub masked_dirs: Vec<PathBuf>,
    /// The machine's architecture.
    pub arch: Arch,
    /// The host's name, which pods in the host's network keep.
    pub hostname: String,
    /// Memory of the machine, for out-of-memory scores.
    pub memory_bytes: u64,
    /// What is mounted at `/sys/fs/cgroup`.
    pub cgroups: CgroupMode,
    /// What files of it say.
    pub files: HostFiles,
    /// Which run of the container it is.
    pub attempt: Attempt,
    /// The pod's own addresses, if it is in a network.
    pub addresses: Vec<IpAddr>,
}

/// An architecture that there are system call tables for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Arch {
    /// x86-64.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
}

/// What is mounted at `/sys/fs/cgroup`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupMode {
    /// cgroup2: a container sees its own part of it.
    Unified,
    /// A directory of version 1 hierarchies, which containers do not see.
    Hybrid,
}

impl HostFacts {
    /// Reads them. Of `masked`, those that are directories now are taken.
    ///
    /// # Errors
    /// If the machine is of an unknown architecture, or `/proc` can't be read.
    pub fn read(paths: PodPaths, masked: &[&Path]) -> io::Result<Self> {
        let masked_dirs = masked
            .iter()
            .filter_map(|dir| fs::canonicalize(dir).ok())
            .filter(|dir| dir.is_dir())
            .collect();
        let name = rustix::system::uname();
        Ok(Self {
            paths,
            masked_dirs,
            arch: Arch::of_this_machine()?,
            hostname: name.nodename().to_string_lossy().into_owned(),
            memory_bytes: memory_bytes(&fs::read_to_string("/proc/meminfo")?)?,
            cgroups: CgroupMode::read()?,
            files: HostFiles::default(),
            attempt: Attempt::default(),
            addresses: Vec::new(),
        })
    }

    /// Reads the files that matter for a launch of the container. To be called before each.
    pub fn read_files(&mut self, pod: &PodSpec, container: &ContainerSpec) {
        self.files = HostFiles::read(pod, container, &self.paths, self.arch);
        if container.image.is_some() || !self.addresses.is_empty() {
            self.files.pods = hosts::names(&self.paths);
        }
    }
}

impl Arch {
    fn of_this_machine() -> io::Result<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::X86_64),
            "aarch64" => Ok(Self::Aarch64),
            other => {
                let text = format!("there is no system call table for {other}");
                Err(io::Error::new(io::ErrorKind::Unsupported, text))
            }
        }
    }
}

impl CgroupMode {
    /// `CGROUP2_SUPER_MAGIC` of `linux/magic.h`.
    const CGROUP2_MAGIC: u64 = 0x6367_7270;

    fn read() -> io::Result<Self> {
        let file_system = rustix::fs::statfs("/sys/fs/cgroup")?;
        // The type of the field differs by architecture.
        #[expect(clippy::cast_sign_loss, reason = "a magic number is a bit pattern")]
        let magic = file_system.f_type as u64;
        Ok(if magic == Self::CGROUP2_MAGIC { Self::Unified } else { Self::Hybrid })
    }
}

/// `MemTotal` of proc_meminfo(5).
fn memory_bytes(meminfo: &str) -> io::Result<u64> {
    meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .and_then(|kib| kib.trim().parse::<u64>().ok())
        .map(|kib| kib.saturating_mul(1024))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/meminfo has no MemTotal"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_memory_is_read_in_bytes() {
        let text = "MemTotal:       24684084 kB\nMemFree: 1 kB\n";
        assert_eq!(memory_bytes(text).unwrap(), 24_684_084 * 1024);
        memory_bytes("MemFree: 1 kB\n").unwrap_err();
    }
}
