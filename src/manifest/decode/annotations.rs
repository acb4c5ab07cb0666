//! The annotations of Roost: what Kubernetes' fields have no word for.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::fields::At;
use super::suggest::closest;
use crate::clock::Millis;
use crate::manifest::diagnostic::{Diagnostic, Faults};
use crate::manifest::pod::{BackoffPolicy, PIDS_LIMIT_DEFAULT, TerminationPolicy};

/// What all annotations of Roost begin with.
const PREFIX: &str = "roost/";
const BACKOFF_INITIAL: &str = "roost/backoff-initial";
const BACKOFF_MAX: &str = "roost/backoff-max";
const BACKOFF_RESET: &str = "roost/backoff-reset";
const PIDS_LIMIT: &str = "roost/pids-limit";
/// What is followed by the name of a container. `decode::probe` reads it.
pub(super) const CHECK: &str = "roost/check.";
/// Likewise; `decode::lifecycle` reads them.
pub(super) const STOP_GRACE: &str = "roost/stop-grace.";
pub(super) const MAX_RUN_TIME: &str = "roost/max-run-time.";
const TERMINATION_POLICY: &str = "roost/termination-policy";
const KNOWN: [&str; 8] = [
    BACKOFF_INITIAL,
    BACKOFF_MAX,
    BACKOFF_RESET,
    PIDS_LIMIT,
    CHECK,
    STOP_GRACE,
    MAX_RUN_TIME,
    TERMINATION_POLICY,
];
const TERMINATION_POLICIES: [(&str, TerminationPolicy); 2] =
    [("container", TerminationPolicy::Container), ("group", TerminationPolicy::Group)];

/// Shortest and longest delay before a container is started again: no busy loop, no forgetting.
const BACKOFF_RANGE: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(3600);
/// How long a run may have to last at most to clear the back-off.
const RESET_RANGE: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
/// `PID_MAX_LIMIT` of 64-bit kernels, proc_sys_kernel(5).
const PIDS_MAX: u32 = 4 << 20;

/// What the annotations ask for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) backoff: BackoffPolicy,
    pub(super) pids_limit: u32,
    pub(super) termination_policy: TerminationPolicy,
}

impl Default for Settings {
    fn default() -> Self {
        let (backoff, termination_policy) = Default::default();
        Self { backoff, pids_limit: PIDS_LIMIT_DEFAULT, termination_policy }
    }
}

/// Reads the annotations of Roost out of `metadata.annotations`.
pub(super) fn decode(at: At<'_>, faults: &mut Faults) -> Settings {
    let mut settings = Settings::default();
    // What is wrong with the mapping itself is said where it is read as a mapping of texts.
    let entries = at.entries(&mut Faults::default());
    let mut initial_or_max = None;
    for (key, value) in entries.into_iter().filter(|(key, _)| key.text.starts_with(PREFIX)) {
        let quiet = &mut Faults::default();
        let Some(text) = value.text(quiet) else { continue };
        let backoff = &mut settings.backoff;
        match key.text.as_str() {
            BACKOFF_INITIAL => {
                set(&mut backoff.initial, duration(&value, text, BACKOFF_RANGE, faults));
                initial_or_max = initial_or_max.or(Some(value));
            }
            BACKOFF_MAX => {
                set(&mut backoff.max, duration(&value, text, BACKOFF_RANGE, faults));
                initial_or_max = Some(value);
            }
            BACKOFF_RESET => {
                set(&mut backoff.reset, duration(&value, text, RESET_RANGE, faults));
            }
            PIDS_LIMIT => match text.parse() {
                Ok(limit @ 1..=PIDS_MAX) => settings.pids_limit = limit,
                Ok(_) | Err(_) => {
                    let message = format!("must be a whole number from 1 to {PIDS_MAX}");
                    faults.push(value.error(&message));
                }
            },
            TERMINATION_POLICY => {
                let found = value.choice(&TERMINATION_POLICIES, faults);
                settings.termination_policy = found.unwrap_or_default();
            }
            one if [CHECK, STOP_GRACE, MAX_RUN_TIME].iter().any(|it| one.starts_with(it)) => {}
            unknown => {
                let severity = faults.of_unknown();
                let fault = Diagnostic { severity, ..value.error("unknown annotation of Roost") };
                let help = match closest(unknown, KNOWN) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("known are {}", KNOWN.join(", ")),
                };
                faults.push(fault.with_help(&help));
            }
        }
    }
    let BackoffPolicy { initial, max, reset: _ } = settings.backoff;
    if let Some(value) = initial_or_max.filter(|_| initial > max) {
        let message =
            format!("the first delay ({initial}) must not be longer than the longest ({max})");
        let help = format!("set both {BACKOFF_INITIAL} and {BACKOFF_MAX}");
        faults.push(value.error(&message).with_help(&help));
    }
    settings
}

fn set(field: &mut Millis, value: Option<Millis>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// A span of time as a person writes it.
pub(super) fn duration(
    at: &At<'_>,
    text: &str,
    range: RangeInclusive<Duration>,
    faults: &mut Faults,
) -> Option<Millis> {
    let (least, most) = (Millis::from(*range.start()), Millis::from(*range.end()));
    match humantime::parse_duration(text) {
        Ok(value) if range.contains(&value) => Some(value.into()),
        Ok(_) | Err(_) => {
            let message = format!("must be a time from {least} to {most}");
            faults.push(at.error(&message).with_help("write it as in 500ms, 10s, 5min or 1h"));
            None
        }
    }
}
