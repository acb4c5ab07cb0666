//! [`Process`]: what the agent's own process uses.

use std::fs;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use rustix::process::{Resource, getrlimit};

/// What the agent's process uses; what can't be read is not there.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Process {
    pub(super) cpu_seconds: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) open_fds: Option<usize>,
    pub(super) max_fds: Option<u64>,
}

impl Process {
    /// Now.
    pub(super) fn own() -> Self {
        let used = getrusage(UsageWho::RUSAGE_SELF).ok();
        Self {
            cpu_seconds: used
                .map(|used| (span(used.user_time()) + span(used.system_time())).as_secs_f64()),
            resident_bytes: resident_bytes(),
            open_fds: fs::read_dir("/proc/self/fd").ok().map(Iterator::count),
            max_fds: getrlimit(Resource::Nofile).current,
        }
    }
}

fn span(time: TimeVal) -> Duration {
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(u64::try_from(time.tv_usec()).unwrap_or(0))
}

/// `VmRSS` of proc_pid_status(5), which is in units of 1024 bytes.
fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_what_it_uses() {
        let process = Process::own();
        assert!(process.cpu_seconds.is_some_and(|seconds| seconds < 1e6), "{process:?}");
        assert!(process.resident_bytes.is_some_and(|bytes| bytes > 1 << 20), "{process:?}");
        assert!(process.open_fds.is_some_and(|open| open > 2), "{process:?}");
    }
}
