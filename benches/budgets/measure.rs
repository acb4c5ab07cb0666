//! Clocks, counters and samples: what a figure of the table is made from.
//!
//! Not here: what is measured (`starts`, `density`, `exits`, `manifests`).

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// How long a start, a removal or a restart may take before it is a failure.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

/// What a measurement of a peer comes to: a failure is told, and the peer left out from there on.
pub(crate) type Outcome<T> = Result<T, String>;

/// Nanoseconds of the clock that all processes share.
pub(crate) fn nanos() -> u64 {
    let t = clock_gettime(ClockId::Monotonic);
    u64::try_from(t.tv_sec * 1_000_000_000 + t.tv_nsec).expect("the clock is past 0")
}

/// So that one start does not pay for the end of another: starts are measured isolated.
pub(crate) fn pause() {
    rest(Duration::from_millis(200));
}

/// Does nothing for so long.
pub(crate) fn rest(span: Duration) {
    let end = Instant::now() + span;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}

/// Times in nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Samples(Vec<u64>);

impl Samples {
    pub(crate) fn push(&mut self, nanos: u64) {
        self.0.push(nanos);
    }

    /// The median in milliseconds; none of nothing.
    pub(crate) fn median(&self) -> Option<f64> {
        self.percentile(50)
    }

    /// The smallest value that so many percent do not exceed, in milliseconds.
    pub(crate) fn percentile(&self, percent: usize) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().map(ms)
    }

    /// Milliseconds of all of them.
    pub(crate) fn sum(&self) -> f64 {
        ms(self.0.iter().sum())
    }

    /// How much longer the last of them took than the first, of which `part` are compared.
    pub(crate) fn growth(&self, part: usize) -> Option<f64> {
        let part = part.min(self.0.len() / 2);
        let sum = |of: &[u64]| of.iter().sum::<u64>() as f64;
        (part > 0).then(|| sum(&self.0[self.0.len() - part..]) / sum(&self.0[..part]))
    }
}

/// Milliseconds.
pub(crate) fn ms(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

/// The text of a file of the kernel; nothing if it is gone.
pub(crate) fn read(path: impl AsRef<Path>) -> String {
    std::fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

/// All processes.
pub(crate) fn pids() -> impl Iterator<Item = u32> {
    std::fs::read_dir("/proc")
        .expect("/proc is mounted")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The arguments of a process, separated by spaces.
pub(crate) fn command_line(pid: u32) -> String {
    read(format!("/proc/{pid}/cmdline")).replace('\0', " ")
}

/// Proportional set sizes in KiB, summed.
pub(crate) fn pss(pids: &[u32]) -> u64 {
    pids.iter().map(|pid| field(&read(format!("/proc/{pid}/smaps_rollup")), "Pss:")).sum()
}

/// Bytes that those processes had written to disks.
pub(crate) fn written(pids: &[u32]) -> u64 {
    pids.iter().map(|pid| field(&read(format!("/proc/{pid}/io")), "write_bytes:")).sum()
}

/// Nanoseconds on a processor, all threads (schedstat of each, which counts exactly).
pub(crate) fn cpu(pids: &[u32]) -> u64 {
    let of = |pid: &u32| -> u64 {
        std::fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|task| number(&read(task.path().join("schedstat")), 0))
            .sum()
    };
    pids.iter().map(of).sum()
}

/// Nanoseconds that all processors spent on processes, ended ones included, since the machine
/// started; differences count.
///
/// The root of the v1 controller `cpuacct` counts exactly, and so does `/proc/schedstat` (seventh
/// number of each processor: kernel `Documentation/scheduler/sched-stats.rst`), where the kernel
/// has it. `/proc/stat` counts in ticks.
pub(crate) fn machine_cpu() -> u64 {
    let exact = number(&read("/sys/fs/cgroup/cpuacct/cpuacct.usage"), 0);
    if exact > 0 {
        return exact;
    }
    let exact: u64 = read("/proc/schedstat")
        .lines()
        .filter(|line| line.starts_with("cpu"))
        .map(|line| number(line, 7))
        .sum();
    if exact > 0 {
        return exact;
    }
    let stat = read("/proc/stat");
    // user, nice, system, and interrupts; not idle and iowait. 100 ticks a second (USER_HZ).
    let ticks = |line: &str| [1, 2, 3, 6, 7].iter().map(|at| number(line, *at)).sum::<u64>();
    stat.lines().next().map_or(0, ticks) * 10_000_000
}

/// What share of one processor the machine uses while nothing is asked of it.
pub(crate) fn background(span: Duration) -> f64 {
    let (begin, before) = (nanos(), machine_cpu());
    rest(span);
    machine_cpu().saturating_sub(before) as f64 / nanos().saturating_sub(begin) as f64
}

/// Writes a small file as the checkpoint of an exit is written, and says how long that took.
pub(crate) fn durable_write(directory: &Path) -> io::Result<u64> {
    const LIKE_A_CHECKPOINT: [u8; 200] = [b'x'; 200];
    let (draft, path) = (directory.join("fsync.draft"), directory.join("fsync"));
    let begin = nanos();
    let mut file = File::create(&draft)?;
    file.write_all(&LIKE_A_CHECKPOINT)?;
    file.sync_all()?;
    std::fs::rename(&draft, &path)?;
    File::open(directory)?.sync_all()?;
    Ok(nanos().saturating_sub(begin))
}

/// The number after `name` in a file of lines.
fn field(text: &str, name: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(name)).map_or(0, |rest| number(rest, 0))
}

/// The word at that place, as a number.
fn number(line: &str, at: usize) -> u64 {
    line.split_whitespace().nth(at).and_then(|word| word.parse().ok()).unwrap_or(0)
}
