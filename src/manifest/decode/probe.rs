//! `livenessProbe`, `readinessProbe` and `startupProbe`, and the annotation `roost/check.…`.
//!
//! Defaults and limits of probes are those of Kubernetes (`SetDefaults_Probe`, `validateProbe`),
//! where 0 means the default; those of checks are those of Mesos (`CheckInfo`).

use std::ops::RangeInclusive;
use std::time::Duration;

use super::annotations::{self, CHECK};
use super::fields::{At, Fields, Path};
use super::handler::{self, Scope};
use super::pod::TERMINATION_GRACE_MAX_SECONDS;
use super::schema;
use super::suggest::closest;
use crate::clock::Millis;
use crate::manifest::diagnostic::{Diagnostic, Faults, Position, quote};
use crate::manifest::node::{self, Kind, Node};
use crate::manifest::pod::{Check, ContainerSpec, Probe};

/// `periodSeconds`, `timeoutSeconds`, `successThreshold` and `failureThreshold` of a probe that
/// has none.
const PERIOD_DEFAULT: u32 = 10;
const TIMEOUT_DEFAULT: u32 = 1;
const SUCCESSES_DEFAULT: u32 = 1;
const FAILURES_DEFAULT: u32 = 3;

/// Times of a check that names none, and the longest.
const CHECK_DELAY_DEFAULT: Millis = Millis::from_secs(15);
const CHECK_INTERVAL_DEFAULT: Millis = Millis::from_secs(10);
const CHECK_TIMEOUT_DEFAULT: Millis = Millis::from_secs(20);
const CHECK_DELAY_RANGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(24 * 3600);
/// Not shorter, so that a slip keeps no processor busy.
const CHECK_TIME_RANGE: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(24 * 3600);

/// Which probe it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// `livenessProbe` or `startupProbe`: its failure ends the container.
    Ends,
    /// `readinessProbe`.
    Readiness,
}

/// Reads a probe.
pub(super) fn decode(
    at: At<'_>,
    usage: Use,
    scope: Scope<'_>,
    faults: &mut Faults,
) -> Option<Probe> {
    let fields = at.fields(&schema::PROBE, faults)?;
    let handler = handler::decode(&fields, handler::OF_PROBES, scope, faults);
    let initial_delay = number(&fields, "initialDelaySeconds", 0, faults);
    let period = number(&fields, "periodSeconds", PERIOD_DEFAULT, faults);
    let timeout = number(&fields, "timeoutSeconds", TIMEOUT_DEFAULT, faults);
    let successes = number(&fields, "successThreshold", SUCCESSES_DEFAULT, faults);
    let failures = number(&fields, "failureThreshold", FAILURES_DEFAULT, faults);
    if let Some(at) = fields.get("successThreshold")
        && usage == Use::Ends
        && successes.is_some_and(|count| count != 1)
    {
        faults.push(at.error("must be 1, but for a readiness probe"));
    }
    let grace_at = fields.get("terminationGracePeriodSeconds");
    let grace = grace_at.and_then(|at| at.integer(1..=TERMINATION_GRACE_MAX_SECONDS, faults));
    if let Some(at) = grace_at
        && usage == Use::Readiness
    {
        let message = "is not for a readiness probe, which never ends a container";
        faults.push(at.error(message).with_help("leave it out"));
    }
    Some(Probe {
        handler: handler?,
        initial_delay: seconds(initial_delay?),
        period: seconds(period?),
        timeout: seconds(timeout?),
        success_threshold: successes?,
        failure_threshold: failures?,
        termination_grace: grace.map(|grace| Millis::from_secs(grace.unsigned_abs())),
    })
}

fn number(
    fields: &Fields<'_>,
    name: &'static str,
    default: u32,
    faults: &mut Faults,
) -> Option<u32> {
    let Some(at) = fields.get(name) else { return Some(default) };
    let found = at.integer(0..=i64::from(i32::MAX), faults)?;
    u32::try_from(found).ok().map(|found| if found == 0 { default } else { found })
}

fn seconds(count: u32) -> Millis {
    Millis::from_secs(u64::from(count))
}

/// Reads the generalized checks out of `metadata.annotations` into the containers that they are
/// of.
pub(super) fn checks(at: At<'_>, containers: &mut [&mut ContainerSpec], faults: &mut Faults) {
    // What is wrong with the mapping itself is said where it is read as a mapping of texts.
    for (key, value) in at.entries(&mut Faults::default()) {
        let Some(name) = key.text.strip_prefix(CHECK) else { continue };
        let Some(text) = value.text(&mut Faults::default()) else { continue };
        let Some(container) = containers.iter_mut().find(|it| it.name.as_str() == name) else {
            let message = format!("there is no container {} in the pod", quote(name));
            let names = containers.iter().map(|container| container.name.as_str());
            faults.push(match closest(name, names) {
                Some(near) => {
                    value.error(&message).with_help(&format!("did you mean `{CHECK}{near}`?"))
                }
                None => value.error(&message),
            });
            continue;
        };
        let Some(tree) = parse(value, text, faults) else { continue };
        let path = value.path.render();
        let scope = Scope { ports: &container.ports, env: Some(&container.env) };
        container.check = check(At { node: &tree, path: Path::named(&path) }, scope, faults);
    }
}

/// The value of an annotation as a document of its own. All of it stands where the annotation
/// does: which line that is depends on how the text is written.
fn parse(at: At<'_>, text: &str, faults: &mut Faults) -> Option<Node> {
    let mut inner = Faults::default();
    let tree = node::parse(text, 1, &mut inner);
    for fault in inner.into_diagnostics() {
        let message = format!("line {} of it: {}", fault.position.line, fault.message);
        let (severity, help) = (fault.severity, fault.help);
        faults.push(Diagnostic { severity, help, ..at.error(&message) });
    }
    let mut root = tree.root.filter(|_| tree.whole)?;
    place(&mut root, at.position());
    Some(root)
}

fn place(node: &mut Node, position: Position) {
    node.position = position;
    match &mut node.kind {
        Kind::Scalar(_) => {}
        Kind::Sequence(items) => items.iter_mut().for_each(|item| place(item, position)),
        Kind::Mapping(entries) => {
            for (key, value) in entries {
                key.position = position;
                place(value, position);
            }
        }
    }
}

fn check(at: At<'_>, scope: Scope<'_>, faults: &mut Faults) -> Option<Check> {
    let fields = at.fields(&schema::CHECK, faults)?;
    let handler = handler::decode(&fields, handler::OF_CHECKS, scope, faults);
    let mut time = |name, range, default| match fields.get(name) {
        Some(at) => {
            let text = at.node.as_text().or_else(|| at.text(faults))?;
            annotations::duration(&at, text, range, faults)
        }
        None => Some(default),
    };
    let delay = time("delay", CHECK_DELAY_RANGE, CHECK_DELAY_DEFAULT);
    let interval = time("interval", CHECK_TIME_RANGE, CHECK_INTERVAL_DEFAULT);
    let timeout = time("timeout", CHECK_TIME_RANGE, CHECK_TIMEOUT_DEFAULT);
    Some(Check { handler: handler?, delay: delay?, interval: interval?, timeout: timeout? })
}
