//! Times and spans as `kubectl` shows them.

use std::time::UNIX_EPOCH;

use crate::clock::WallTime;

/// How long ago a time in RFC 3339 was; `<unknown>` if it can't be read.
pub(super) fn age(text: Option<&str>, now: WallTime) -> String {
    let parsed = text.and_then(|text| humantime::parse_rfc3339(text).ok());
    let since = parsed.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    match since {
        Some(since) => span((now.0 / 1_000_000_000).saturating_sub(since.as_secs())),
        None => "<unknown>".to_owned(),
    }
}

/// Seconds in at most two units: the same steps as `HumanDuration` of apimachinery.
pub(super) fn span(seconds: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    const YEAR: u64 = 365 * DAY;
    let two = |large: u64, large_name: &str, small: u64, small_name: &str| {
        let rest = seconds % large / small;
        let whole = seconds / large;
        if rest == 0 {
            format!("{whole}{large_name}")
        } else {
            format!("{whole}{large_name}{rest}{small_name}")
        }
    };
    match seconds {
        _ if seconds < 2 * MINUTE => format!("{seconds}s"),
        _ if seconds < 10 * MINUTE => two(MINUTE, "m", 1, "s"),
        _ if seconds < 3 * HOUR => format!("{}m", seconds / MINUTE),
        _ if seconds < 8 * HOUR => two(HOUR, "h", MINUTE, "m"),
        _ if seconds < 2 * DAY => format!("{}h", seconds / HOUR),
        _ if seconds < 8 * DAY => two(DAY, "d", HOUR, "h"),
        _ if seconds < 2 * YEAR => format!("{}d", seconds / DAY),
        _ if seconds < 8 * YEAR => two(YEAR, "y", DAY, "d"),
        _ => format!("{}y", seconds / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_written_as_kubectl_does() {
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (135, "2m15s"),
            (3599, "59m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_160, "3h6m"),
            (100_000, "27h"),
            (190_000, "2d4h"),
            (900_000, "10d"),
            (70_000_000, "2y80d"),
            (700_000_000, "22y"),
        ] {
            assert_eq!(span(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn a_time_in_the_future_is_now_and_no_time_is_unknown() {
        let now = WallTime(1_700_000_000_000_000_000);
        assert_eq!(age(Some("2023-11-14T22:13:10Z"), now), "10s");
        assert_eq!(age(Some("2030-01-01T00:00:00Z"), now), "0s");
        assert_eq!(age(None, now), "<unknown>");
    }
}
