//! The executor's own log: plain lines on standard error, a file in the pod's runtime directory.
//!
//! Small on purpose: there is one executor per pod. Not here: the output of containers (`logs`).

use std::fmt;
use std::io;
use std::os::fd::AsFd;

use crate::clock::WallTime;
pub(super) use crate::errors::chain;

/// The file starts anew when it is as large as this.
const FILE_LEN_MAX: u64 = 1 << 20;
/// Longer lines are cut.
const LINE_LEN_MAX: usize = 4 << 10;

/// Writes one line. Never fails: there is nobody left to be told.
pub(super) fn note(text: fmt::Arguments<'_>) {
    let mut line = format!("{} {text}", WallTime::now().rfc3339_nanos()).replace('\n', " | ");
    while line.len() > LINE_LEN_MAX {
        line.pop();
    }
    line.push('\n');
    let stderr = io::stderr();
    let stderr = stderr.as_fd();
    if let Ok(stat) = rustix::fs::fstat(stderr)
        && rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file()
        && u64::try_from(stat.st_size).is_ok_and(|size| size >= FILE_LEN_MAX)
    {
        // It is open for appending.
        rustix::fs::ftruncate(stderr, 0).ok();
    }
    rustix::io::write(stderr, line.as_bytes()).ok();
}

/// A panic is written down, and ends the process at once: the agent starts the pod anew.
pub(super) fn abort_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        note(format_args!("{info}"));
        std::process::abort();
    }));
}
