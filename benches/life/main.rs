//! The life of pods, measured on this host: how late probes, back-off, deadlines and the end of
//! containers come (never early, which is asserted), and for how long a pod is without service
//! while it is updated. `benches/README.md` says how to run it.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]
#![allow(unreachable_pub, reason = "the harness is that of the host tests")]
#![allow(clippy::unwrap_used, reason = "likewise: what goes wrong ends the measurement")]

mod downtime;
#[path = "../../tests/it/harness.rs"]
#[allow(dead_code, unused_imports, reason = "the host tests need more of it")]
mod harness;
mod timing;

use std::time::Duration;

/// Seconds since the boot.
fn now() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(now).unwrap().as_secs_f64()
}

/// The value of an option, or what it is without.
fn option(name: &str, default: usize) -> usize {
    let mut arguments = std::env::args().skip_while(|argument| argument != name).skip(1);
    arguments.next().map_or(default, |text| text.parse().expect("a number"))
}

/// The value that `part` of the samples do not exceed.
fn quantile(samples: &mut [f64], part: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    #[expect(clippy::cast_precision_loss, reason = "there are few samples")]
    let at = (samples.len() as f64 * part).ceil() as usize;
    samples[at.clamp(1, samples.len()) - 1]
}

fn main() {
    let only: Option<String> = std::env::args().skip_while(|argument| argument != "--only").nth(1);
    let is_wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    if is_wanted("timing") {
        timing::run(option("--pods", 8), option("--seconds", 20));
    }
    if is_wanted("downtime") {
        downtime::run(option("--rounds", 5));
    }
}
