//! The files and directories that cgroups are operated by: make, remove, read, write, wait.
//!
//! Not here: which of them, and why (`cgroup::tree`).

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};

use super::CgroupError;

/// Bytes of the longest file that is read often: `memory.stat` of cgroup v1 has some 1,100.
const COMMON_LEN_MAX: usize = 4096;

fn failed(action: &'static str, path: &Path, source: io::Error) -> CgroupError {
    CgroupError::Io { action, path: path.to_owned(), source }
}

/// The cgroup or the file is gone: ENODEV is what an open file of a removed cgroup says.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

/// Makes a directory whose parent exists; tells whether it is new.
pub(super) fn make_directory(path: &Path) -> Result<bool, CgroupError> {
    match fs::create_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed("make cgroup", path, error)),
    }
}

/// The names of the cgroups directly below one; none if it does not exist.
pub(super) fn directories(path: &Path) -> Result<Vec<String>, CgroupError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(failed("list cgroup", path, error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) if is_gone(&error) => break,
            Err(error) => return Err(failed("list cgroup", path, error)),
        };
        // The type comes with the entry: no system call for each of the many files.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            names.extend(entry.file_name().into_string());
        }
    }
    Ok(names)
}

/// Removes a cgroup and all below it, the deepest first. Not by recursion, because a container
/// that may make cgroups decides how deep they are.
pub(super) fn remove_tree(path: &Path) -> Result<(), CgroupError> {
    if remove_empty(path).is_ok() {
        return Ok(());
    }
    let mut found = vec![path.to_owned()];
    let mut next = 0;
    while let Some(parent) = found.get(next).cloned() {
        found.extend(directories(&parent)?.iter().map(|name| parent.join(name)));
        next += 1;
    }
    found.iter().rev().try_for_each(|path| remove_empty(path))
}

fn remove_empty(path: &Path) -> Result<(), CgroupError> {
    match fs::remove_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if is_gone(&error) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            Err(CgroupError::Populated { path: path.to_owned() })
        }
        Err(error) => Err(failed("remove cgroup", path, error)),
    }
}

/// The content of a small file.
pub(super) fn read(path: &Path) -> Result<String, CgroupError> {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        // The kernel does not say how long it is; this holds any that is read often, in one call.
        let mut text = String::with_capacity(COMMON_LEN_MAX);
        file.read_to_string(&mut text)?;
        Ok(text)
    };
    read().map_err(|error| failed("read", path, error))
}

/// The number after a key in a file of lines `key number`; 0 if it has none.
pub(super) fn read_key(path: &Path, key: &str) -> Result<u64, CgroupError> {
    Ok(find_key(&read(path)?, key).unwrap_or(0))
}

fn find_key(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// A file with one number.
pub(super) fn read_number(path: &Path) -> Result<u64, CgroupError> {
    let text = read(path)?;
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    text.trim().parse().map_err(|error| failed("read", path, invalid(error)))
}

/// Writes a value to a file that exists.
pub(super) fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    let written = File::options().write(true).open(path).and_then(|file| {
        // One call: the kernel takes each write as a whole value.
        file.write_all_at(value.as_bytes(), 0)
    });
    let wrap =
        |source| CgroupError::Write { value: value.to_owned(), path: path.to_owned(), source };
    written.map_err(wrap)
}

/// Writes a value unless the file or its cgroup is gone.
pub(super) fn write_if_present(path: &Path, value: &str) -> Result<(), CgroupError> {
    match write(path, value) {
        Err(CgroupError::Write { source, .. }) if is_gone(&source) => Ok(()),
        other => other,
    }
}

/// Opens a cgroup2 directory for CLONE_INTO_CGROUP.
pub(super) fn open_directory(path: &Path) -> Result<OwnedFd, CgroupError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|error| failed("open cgroup", path, error.into()))
}

/// Opens the file by which a thread enters a cgroup v1 directory.
pub(super) fn open_tasks(directory: &Path) -> Result<OwnedFd, CgroupError> {
    let path = directory.join("tasks");
    let opened = File::options().write(true).custom_flags(libc::O_CLOEXEC).open(&path);
    Ok(opened.map_err(|error| failed("open", &path, error))?.into())
}

/// Whether a cgroup2 directory or any below it has a process; a cgroup that is gone has none.
pub(super) fn is_populated(directory: &Path) -> Result<bool, CgroupError> {
    Events::open_if_present(directory)?.map_or(Ok(false), |events| events.is_populated())
}

/// Waits until a cgroup2 directory and all below it have no process; whether that came in time.
pub(super) fn wait_empty(directory: &Path, timeout: Duration) -> Result<bool, CgroupError> {
    Events::open_if_present(directory)?.map_or(Ok(true), |events| events.wait_empty(timeout))
}

/// `cgroup.events` of a cgroup2 directory: becomes ready for `POLLPRI` when the last process ends
/// or the first comes, since [`Events::is_populated`] was last asked of this very value.
#[derive(Debug)]
pub struct Events {
    file: File,
    path: PathBuf,
}

impl Events {
    /// Opens it; the cgroup must exist.
    pub(super) fn open(directory: &Path) -> Result<Self, CgroupError> {
        let path = directory.join("cgroup.events");
        let file = File::open(&path).map_err(|error| failed("open", &path, error))?;
        Ok(Self { file, path })
    }

    fn open_if_present(directory: &Path) -> Result<Option<Self>, CgroupError> {
        match Self::open(directory) {
            Ok(events) => Ok(Some(events)),
            Err(CgroupError::Io { source, .. }) if is_gone(&source) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether there is a process now; a cgroup that was removed has none.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn is_populated(&self) -> Result<bool, CgroupError> {
        /// The file has two lines of a word and a digit.
        const EVENTS_SIZE_MAX: usize = 256;
        let mut buffer = [0; EVENTS_SIZE_MAX];
        let length = match self.file.read_at(&mut buffer, 0) {
            Ok(length) => length,
            Err(error) if is_gone(&error) => return Ok(false),
            Err(error) => return Err(failed("read", &self.path, error)),
        };
        let text = String::from_utf8_lossy(&buffer[..length]);
        Ok(find_key(&text, "populated").is_some_and(|populated| populated != 0))
    }

    /// Blocks until there is no process; whether that came in time.
    ///
    /// # Errors
    /// If the file can't be read or waited for.
    pub fn wait_empty(&self, timeout: Duration) -> Result<bool, CgroupError> {
        let deadline = Instant::now() + timeout;
        while self.is_populated()? {
            if !poll_until(&[self.file.as_fd()], PollFlags::PRI, deadline)
                .map_err(|error| failed("wait for", &self.path, error))?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl From<Events> for OwnedFd {
    fn from(events: Events) -> OwnedFd {
        events.file.into()
    }
}

/// Waits until one of these descriptors is ready, or the deadline has passed: false.
pub(super) fn poll_until(
    fds: &[BorrowedFd<'_>],
    flags: PollFlags,
    deadline: Instant,
) -> io::Result<bool> {
    let mut polled: Vec<_> = fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, flags)).collect();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match rustix::event::poll(&mut polled, Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
