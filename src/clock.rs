//! Time as a value. Pure code takes it as an argument; only shells read it, here.
//!
//! Two kinds, which cannot be mixed up: [`BootTime`] runs steadily and decides (timeouts,
//! back-off, grace periods); [`WallTime`] may step at any moment and is only ever shown.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Milliseconds since the machine was booted, counted through suspend (`CLOCK_BOOTTIME`,
/// clock_gettime(2)). Comparable only between processes of one boot: see [`BootId`].
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct BootTime(pub u64);

impl BootTime {
    /// Reads the clock.
    #[must_use]
    pub fn now() -> Self {
        let t = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(t.tv_sec).unwrap_or(0);
        let millis = u64::try_from(t.tv_nsec / 1_000_000).unwrap_or(0);
        Self(seconds * 1000 + millis)
    }

    /// This time plus `span`; the far future where that is too much.
    #[must_use]
    pub fn plus(self, span: Millis) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Millis {
        Millis(self.0.saturating_sub(earlier.0))
    }
}

/// A span of time in milliseconds.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// A span of whole seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }
}

impl From<Millis> for Duration {
    fn from(span: Millis) -> Duration {
        Duration::from_millis(span.0)
    }
}

impl From<Duration> for Millis {
    fn from(span: Duration) -> Millis {
        Millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&humantime::format_duration((*self).into()), f)
    }
}

/// Nanoseconds since 1970 by the wall clock, which may be wrong and may step. Shown, never
/// compared to decide anything.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct WallTime(pub u64);

impl WallTime {
    /// Reads the clock.
    #[must_use]
    pub fn now() -> Self {
        let t = clock_gettime(ClockId::Realtime);
        let seconds = u64::try_from(t.tv_sec).unwrap_or(0);
        Self(seconds.saturating_mul(1_000_000_000) + u64::try_from(t.tv_nsec).unwrap_or(0))
    }

    fn to_system_time(self) -> std::time::SystemTime {
        std::time::UNIX_EPOCH + Duration::from_nanos(self.0)
    }

    /// RFC 3339 with seconds, as Kubernetes writes times.
    #[must_use]
    pub fn rfc3339(self) -> String {
        humantime::format_rfc3339_seconds(self.to_system_time()).to_string()
    }

    /// RFC 3339 with nanoseconds, as the CRI log format wants it.
    #[must_use]
    pub fn rfc3339_nanos(self) -> String {
        humantime::format_rfc3339_nanos(self.to_system_time()).to_string()
    }
}

/// One boot of the machine: `/proc/sys/kernel/random/boot_id` (random(4)). Pids, boot times and
/// sockets of another boot mean nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(String);

impl BootId {
    /// The id of this boot.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn current() -> std::io::Result<Self> {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Ok(Self(text.trim().to_owned()))
    }
}

impl FromStr for BootId {
    type Err = std::convert::Infallible;
    /// Takes any text; for tests and decoders.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_saturate_instead_of_wrapping() {
        assert_eq!(BootTime(5).since(BootTime(9)), Millis(0));
        assert_eq!(BootTime(u64::MAX).plus(Millis(9)), BootTime(u64::MAX));
    }

    /// Of the clocks of the kernel only this one is what `/proc/uptime` counts (proc_uptime(5)): a
    /// step of the wall clock does not move it, and it does not stand still in suspend.
    #[test]
    fn the_time_that_decides_is_the_uptime_of_the_machine() {
        let text = std::fs::read_to_string("/proc/uptime").unwrap();
        let (seconds, hundredths) = text.split(' ').next().unwrap().split_once('.').unwrap();
        let uptime = seconds.parse::<u64>().unwrap() * 1000;
        let uptime = BootTime(uptime + hundredths.parse::<u64>().unwrap() * 10);
        let now = BootTime::now();
        assert!(now >= uptime, "{now:?} is before {uptime:?}");
        assert!(now.since(uptime) < Millis::from_secs(60), "{now:?} is not about {uptime:?}");
    }

    #[test]
    fn times_are_written_as_kubernetes_does() {
        let t = WallTime(1_700_000_000_123_456_789);
        assert_eq!(t.rfc3339(), "2023-11-14T22:13:20Z");
        assert_eq!(t.rfc3339_nanos(), "2023-11-14T22:13:20.123456789Z");
    }
}
