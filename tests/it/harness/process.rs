//! Processes and files, watched without asking again and again.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::soon;

/// A process, certainly the same one for as long as this value lives.
#[derive(Debug)]
pub struct Process {
    pub pid: u32,
    handle: OwnedFd,
}

impl Process {
    /// None if there is none of that number any more.
    pub fn find(pid: u32) -> Option<Self> {
        let number = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        let handle = pidfd_open(number, PidfdFlags::empty()).ok()?;
        Some(Self { pid, handle })
    }

    /// A process that must be there.
    pub fn of(pid: u32) -> Self {
        Self::find(pid).unwrap_or_else(|| panic!("there is no process {pid}"))
    }

    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    pub fn signal(&self, signal: Signal) {
        pidfd_send_signal(&self.handle, signal).unwrap();
    }

    pub fn is_alive(&self) -> bool {
        !self.ends_within(Duration::ZERO)
    }

    /// Waits for it to end, for at most that long.
    pub fn ends_within(&self, limit: Duration) -> bool {
        readable_within(self.handle.as_fd(), limit)
    }

    /// Waits until it has ended.
    pub fn wait_end(&self) {
        assert!(self.ends_within(soon()), "process {} did not end in {:?}", self.pid, soon());
    }
}

fn readable_within(fd: std::os::fd::BorrowedFd<'_>, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap();
        match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&left)) {
            Ok(count) => return count > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}

/// When a process was started, in ticks since the boot (proc_pid_stat(5)): with its number it
/// names the process for ever.
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(19)?.parse().ok()
}

/// Seconds since the boot, as `/proc/uptime` tells them to containers.
pub fn uptime() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(now).unwrap().as_secs_f64()
}

/// Waits until a file's text meets a condition; looked at again whenever something happens in its
/// directory, which must exist.
pub fn until_text<T>(path: &Path, what: &str, mut condition: impl FnMut(&str) -> Option<T>) -> T {
    let end = Instant::now() + soon() * 2;
    let watch =
        inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).unwrap();
    let flags = inotify::WatchFlags::MODIFY
        | inotify::WatchFlags::CREATE
        | inotify::WatchFlags::MOVED_TO
        | inotify::WatchFlags::CLOSE_WRITE;
    inotify::add_watch(&watch, path.parent().unwrap(), flags).unwrap();
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if let Some(answer) = condition(&text) {
            return answer;
        }
        let left = end.saturating_duration_since(Instant::now());
        assert!(readable_within(watch.as_fd(), left), "{}: not {what}:\n{text}", path.display());
        let mut events = [0_u8; 4096];
        while rustix::io::read(&watch, &mut events).is_ok_and(|len| len > 0) {}
    }
}

/// Waits until a file has at least that many lines, and returns them.
pub fn until_lines(path: &Path, count: usize) -> Vec<String> {
    until_text(path, &format!("{count} lines long"), |text| {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        (lines.len() >= count).then_some(lines)
    })
}

/// Every process that is there.
pub fn pids() -> impl Iterator<Item = u32> {
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The words of a process's command line.
pub fn command_line(pid: u32) -> Vec<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}

/// Pids with start times, so that a number that came to another process counts as changed.
pub fn stamped(pids: &BTreeMap<String, u32>) -> BTreeMap<String, (u32, Option<u64>)> {
    pids.iter().map(|(name, pid)| (name.clone(), (*pid, start_time(*pid)))).collect()
}

/// Numbers that look random, the same ones for the same seed (xorshift64*).
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// The seed comes from `ROOST_SEED`, or else from the clock; it is printed.
    pub fn new(test: &str) -> Self {
        let given = std::env::var("ROOST_SEED").ok().and_then(|text| text.parse().ok());
        let clock = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seed = given.unwrap_or(clock.tv_nsec.unsigned_abs() | 1);
        println!("{test}: ROOST_SEED={seed}");
        Self(seed)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}
