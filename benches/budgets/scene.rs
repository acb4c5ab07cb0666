//! [`Scene`]: the directory of one run of the bench, the program that runs in every container of
//! every engine, and the pipes by which it says that it runs.
//!
//! The program is a shell in one static busybox, which needs nothing from its image: it writes a
//! byte to a pipe that the bench holds open, and waits. So a start ends when a byte can be read,
//! whichever engine made it, and nobody's own report is believed.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::io::Errno;

use crate::measure::{LIMIT, Outcome, nanos};

/// The program: Debian's `busybox-static`, on the host and in the image of the peers.
pub(crate) const BUSYBOX: &str = "/bin/busybox";
/// Where every container sees [`Scene::out`]. It exists on the host, whose root is read-only.
pub(crate) const MOUNT: &str = "/mnt";

/// What the program of a container does; it ends at once when it is told to.
pub(crate) const PROGRAM: &str = "trap 'exit 0' TERM; echo >>/mnt/begun; read x 4<>/mnt/never <&4";
/// The same, but it tells as well when it is told to end.
pub(crate) const LOUD_PROGRAM: &str =
    "trap 'echo >>/mnt/ended; exit 0' TERM; echo >>/mnt/begun; read x 4<>/mnt/never <&4";

/// Everything lies in one directory, which goes with this.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) dir: PathBuf,
    /// Whether pods are on a bridge of their own, and not in the network of the host.
    pub(crate) network: bool,
}

impl Scene {
    pub(crate) fn new() -> std::io::Result<Self> {
        let dir = std::env::temp_dir().join(format!("roost-bench-{}", std::process::id()));
        std::fs::create_dir(&dir)?;
        let scene = Self { dir, network: false };
        std::fs::create_dir(scene.out())?;
        let never = scene.out().join("never");
        mknodat(CWD, &never, FileType::Fifo, Mode::from_raw_mode(0o666), 0)?;
        // What the crun of the peers runs, and the only layer of the image.
        for name in ["bin", "mnt", "proc", "dev", "sys", "etc", "tmp"] {
            std::fs::create_dir_all(scene.rootfs().join(name))?;
        }
        std::fs::copy(BUSYBOX, scene.rootfs().join("bin/busybox"))?;
        // Programs may run as somebody else than the bench.
        for open in [scene.dir.clone(), scene.out(), never] {
            std::fs::set_permissions(&open, PermissionsExt::from_mode(0o777))?;
        }
        Ok(scene)
    }

    /// What containers see as [`MOUNT`].
    pub(crate) fn out(&self) -> PathBuf {
        self.dir.join("out")
    }

    /// A root filesystem with the program and nothing else.
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// A pipe in [`Scene::out`].
    pub(crate) fn fifo(&self, name: &str) -> std::io::Result<Fifo> {
        Fifo::new(&self.out().join(name))
    }

    /// A name for what the kernel keeps outside the directory.
    pub(crate) fn name(&self) -> String {
        self.dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.dir).ok();
    }
}

/// A pipe with a name, held open, on which each byte says that something happened.
#[derive(Debug)]
pub(crate) struct Fifo {
    file: File,
}

impl Fifo {
    fn new(path: &Path) -> std::io::Result<Self> {
        match mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o666), 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o666))?;
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).expect("a small number");
        // For writing too, so that it has no end when a writer goes.
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
        Ok(Self { file })
    }

    /// Forgets what came so far, and says how much that was.
    pub(crate) fn drain(&mut self) -> usize {
        let mut all = 0;
        loop {
            match self.take() {
                0 => return all,
                some => all += some,
            }
        }
    }

    /// Waits for so many bytes; the time at which the last of them was here.
    pub(crate) fn wait(&mut self, count: usize) -> Outcome<u64> {
        let end = nanos() + u64::try_from(LIMIT.as_nanos()).expect("minutes");
        let mut seen = 0;
        loop {
            let now = nanos();
            seen += self.take();
            if seen >= count {
                return Ok(now);
            }
            if now > end {
                return Err(format!("{seen} of {count} programs ran after {LIMIT:?}"));
            }
            wait_readable(&self.file, Duration::from_millis(100));
        }
    }

    fn take(&mut self) -> usize {
        self.file.read(&mut [0; 4096]).unwrap_or(0)
    }
}

fn wait_readable(file: &File, most: Duration) {
    let most = Timespec { tv_sec: 0, tv_nsec: i64::from(most.subsec_nanos()) };
    // Interrupted or not, the caller looks again.
    poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&most)).ok();
}

/// Removes cgroups of that name, and what is below them, in every hierarchy; only what is empty
/// can be removed.
pub(crate) fn remove_cgroups(name: &str) {
    for root in cgroup_roots() {
        remove_tree(&root.join(name));
    }
}

/// Where cgroups are mounted.
pub(crate) fn cgroup_roots() -> Vec<PathBuf> {
    let mounts = crate::measure::read("/proc/self/mounts");
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (path, kind) = (words.nth(1)?, words.next()?);
            kind.starts_with("cgroup").then(|| PathBuf::from(path))
        })
        .collect()
}

fn remove_tree(cgroup: &Path) {
    for entry in std::fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    std::fs::remove_dir(cgroup).ok();
}
