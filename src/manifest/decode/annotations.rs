//! The annotations of Roost: what Kubernetes' fields have no word for.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::fields::At;
use super::network;
use super::suggest::closest;
use crate::clock::Millis;
use crate::ids::{Namespace, PodName};
use crate::manifest::diagnostic::{Diagnostic, Faults, quote};
use crate::manifest::pod::{
    After, BackoffPolicy, NetworkWish, PIDS_LIMIT_DEFAULT, TerminationPolicy, Until,
};

/// What all annotations of Roost begin with.
const PREFIX: &str = "roost/";
const AFTER: &str = "roost/after";
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
const ROLLBACK_AFTER: &str = "roost/rollback-after";
const RESTART_ON_CONFIG: &str = "roost/restart-on-config-change";
const KNOWN: [&str; 14] = [
    AFTER,
    BACKOFF_INITIAL,
    BACKOFF_MAX,
    BACKOFF_RESET,
    PIDS_LIMIT,
    RESTART_ON_CONFIG,
    ROLLBACK_AFTER,
    CHECK,
    STOP_GRACE,
    MAX_RUN_TIME,
    TERMINATION_POLICY,
    network::NETWORKS,
    network::IP,
    network::MAC,
];
const TERMINATION_POLICIES: [(&str, TerminationPolicy); 2] =
    [("container", TerminationPolicy::Container), ("group", TerminationPolicy::Group)];

/// Shortest and longest delay before a container is started again: no busy loop, no forgetting.
const BACKOFF_RANGE: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(3600);
/// How long a run may have to last at most to clear the back-off.
const RESET_RANGE: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
/// How long a revision may be given to get Ready.
const ROLLBACK_RANGE: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
/// Pods that one pod may wait for.
const AFTER_MAX: usize = 64;
/// `PID_MAX_LIMIT` of 64-bit kernels, proc_sys_kernel(5).
const PIDS_MAX: u32 = 4 << 20;

/// What the annotations ask for.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) backoff: BackoffPolicy,
    pub(super) pids_limit: u32,
    pub(super) termination_policy: TerminationPolicy,
    pub(super) after: Vec<After>,
    pub(super) rollback_after: Option<Millis>,
    pub(super) restart_on_config_change: bool,
    pub(super) network: NetworkWish,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            backoff: BackoffPolicy::default(),
            pids_limit: PIDS_LIMIT_DEFAULT,
            termination_policy: TerminationPolicy::default(),
            after: Vec::new(),
            rollback_after: None,
            restart_on_config_change: false,
            network: NetworkWish::default(),
        }
    }
}

/// Reads the annotations of Roost out of `metadata.annotations` of a pod, as far as its name is
/// known.
pub(super) fn decode(at: At<'_>, pod: Option<&PodName>, faults: &mut Faults) -> Settings {
    let mut settings = Settings::default();
    // What is wrong with the mapping itself is said where it is read as a mapping of texts.
    let entries = at.entries(&mut Faults::default());
    let mut initial_or_max = None;
    for (key, value) in entries {
        let quiet = &mut Faults::default();
        let Some(text) = value.text(quiet) else { continue };
        if network::annotation(&key.text, &value, text, &mut settings.network, faults)
            || !key.text.starts_with(PREFIX)
        {
            continue;
        }
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
            AFTER => settings.after = after(&value, text, pod, faults),
            ROLLBACK_AFTER => {
                settings.rollback_after = duration(&value, text, ROLLBACK_RANGE, faults);
            }
            RESTART_ON_CONFIG => match text {
                "true" => settings.restart_on_config_change = true,
                "false" => settings.restart_on_config_change = false,
                _ => faults.push(value.error("must be `\"true\"` or `\"false\"`")),
            },
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

/// Reads `roost/after`: `[namespace/]pod[=Ready|Succeeded]`, several with commas between.
fn after(at: &At<'_>, text: &str, pod: Option<&PodName>, faults: &mut Faults) -> Vec<After> {
    const HELP: &str = "write it as in `db`, `db=Ready` or `db=Ready, setup/schema=Succeeded`";
    let mut found = Vec::new();
    for item in text.split(',').map(str::trim) {
        let (name, until) = item.split_once('=').unwrap_or((item, "Ready"));
        let until = match until.trim() {
            "Ready" => Until::Ready,
            "Succeeded" => Until::Succeeded,
            other => {
                let message = format!("{} must be `Ready` or `Succeeded`", quote(other));
                faults.push(at.error(&message).with_help(HELP));
                continue;
            }
        };
        let namespace = pod.map(|pod| &pod.namespace);
        match named(name.trim(), namespace) {
            Ok(name) if Some(&name) == pod => {
                faults.push(at.error("a pod can't wait for itself").with_help(HELP));
            }
            Ok(pod) => found.push(After { pod, until }),
            Err(why) => faults.push(at.error(&why).with_help(HELP)),
        }
    }
    if found.len() > AFTER_MAX {
        faults.push(at.error(&format!("names {} pods; {AFTER_MAX} are the most", found.len())));
    }
    found.sort();
    found.dedup();
    found
}

/// A pod; a plain name is one in the same namespace.
fn named(text: &str, namespace: Option<&Namespace>) -> Result<PodName, String> {
    let parsed = match (text.contains('/'), namespace) {
        (false, Some(namespace)) => format!("{namespace}/{text}").parse::<PodName>(),
        (true, _) | (false, None) => text.parse(),
    };
    parsed.map_err(|error| error.to_string())
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
