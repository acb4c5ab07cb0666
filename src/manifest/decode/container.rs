//! `spec.containers[]`.

use super::config::Around;
use super::fields::At;
use super::handler::Scope;
use super::probe::{self, Use};
use super::program::{self, Program};
use super::security::{self, Inherited};
use super::{image, lifecycle, mount, port, resources, restart, schema, termination};
use crate::ids::ContainerName;
use crate::manifest::diagnostic::{Faults, quote};
use crate::manifest::pod::{ContainerSpec, HostNamespaces, Resources};
use crate::manifest::quantity::{InvalidQuantity, Quantity};

/// More processors than any machine has; more is most often a slip, such as `500M` for `500m`.
const CPU_USUAL_MAX_MILLI: u64 = 10_000_000;
/// Smallest memory limit: a process can't be started in less, and less is most often a slip,
/// such as `128m` (milli) for `128M`.
const MEMORY_LIMIT_MIN: u64 = 1 << 20;
/// The name of local storage among resources.
const STORAGE: &str = "ephemeral-storage";
/// Smallest limit of local storage: a block. Less is a slip.
const STORAGE_LIMIT_MIN: u64 = 4096;

/// Reads a container.
pub(super) fn decode(
    at: At<'_>,
    inherited: &Inherited,
    host: HostNamespaces,
    around: Around<'_>,
    volumes: &mount::Volumes,
    faults: &mut Faults,
) -> Option<ContainerSpec> {
    let fields = at.fields(&schema::CONTAINER, faults)?;
    let name: Option<ContainerName> =
        fields.required("name", faults).and_then(|at| at.parse(faults));
    let around = Around { own: name.as_ref(), ..around };
    let Program { command, args, env, env_from } = program::decode(&fields, around, faults);
    let working_dir = fields.get("workingDir").and_then(|at| at.parse(faults));
    let resources = fields.get("resources").and_then(|at| own_resources(at, faults));
    let restarts_for = resources::resize_policy(&fields, faults);
    let own = security::of_container(&fields, inherited, faults);
    let mounts = mount::decode(&fields, own.security.privileged, volumes, faults);
    let ports = fields.get("ports");
    let ports = ports.map(|at| port::decode(at, host.network, faults));
    let ports = ports.unwrap_or_default();
    let scope = Scope { ports: &ports, env: Some(&env) };
    let mut probe =
        |name, usage| fields.get(name).and_then(|at| probe::decode(at, usage, scope, faults));
    let liveness = probe("livenessProbe", Use::Ends);
    let readiness = probe("readinessProbe", Use::Readiness);
    let startup = probe("startupProbe", Use::Ends);
    let restart = restart::decode(&fields, faults);
    let lifecycle = fields.get("lifecycle").and_then(|at| lifecycle::decode(at, scope, faults));
    let termination = termination::decode(&fields, &mounts, faults);
    let image = image::decode(&fields, faults);
    Some(ContainerSpec {
        name: name.clone()?,
        image,
        command,
        args,
        env,
        env_from,
        working_dir,
        resources: resources.unwrap_or_default(),
        user: own.user,
        group: own.group,
        read_only_root: own.read_only_root,
        security: own.security,
        mounts,
        ports,
        liveness,
        readiness,
        startup,
        // It stands in an annotation of the pod.
        check: None,
        restart,
        lifecycle: lifecycle.unwrap_or_default(),
        termination,
        restarts_for,
    })
}

fn own_resources(at: At<'_>, faults: &mut Faults) -> Option<Resources> {
    let fields = at.fields(&schema::RESOURCES, faults)?;
    let limits_at = fields.get("limits");
    let limits = limits_at
        .and_then(|at| amounts(at, &schema::RESOURCE_NAMES, Side::Limits, faults))
        .unwrap_or_default();
    let requests_at = fields.get("requests");
    let requests = requests_at
        .and_then(|at| amounts(at, &schema::RESOURCE_NAMES, Side::Requests, faults))
        .unwrap_or_default();
    let pairs = [
        ("cpu", requests.cpu_milli, limits.cpu_milli),
        ("memory", requests.memory_bytes, limits.memory_bytes),
        (STORAGE, requests.storage_bytes, limits.storage_bytes),
    ];
    for (name, request, limit) in pairs {
        let over = request.zip(limit).is_some_and(|(request, limit)| request > limit);
        if let Some(at) = requests_at.as_ref().and_then(|at| at.member(name)).filter(|_| over) {
            faults.push(at.error("must not be more than the limit"));
        }
    }
    Some(Resources {
        // As in Kubernetes, a limit without a request is requested.
        cpu_request_milli: requests.cpu_milli.or(limits.cpu_milli),
        cpu_limit_milli: limits.cpu_milli,
        memory_request_bytes: requests.memory_bytes.or(limits.memory_bytes),
        memory_limit_bytes: limits.memory_bytes,
        storage_request_bytes: requests.storage_bytes.or(limits.storage_bytes),
        storage_limit_bytes: limits.storage_bytes,
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Limits,
    Requests,
}

/// `limits` or `requests`.
#[derive(Debug, Default)]
pub(super) struct Amounts {
    pub(super) cpu_milli: Option<u64>,
    pub(super) memory_bytes: Option<u64>,
    pub(super) storage_bytes: Option<u64>,
}

/// Reads amounts whose names are in that table.
pub(super) fn amounts(
    at: At<'_>,
    names: &'static schema::Object,
    side: Side,
    faults: &mut Faults,
) -> Option<Amounts> {
    let fields = at.fields(names, faults)?;
    let (cpu_min, memory_min, storage_min) = match side {
        Side::Limits => (1, MEMORY_LIMIT_MIN, STORAGE_LIMIT_MIN),
        Side::Requests => (0, 0, 0),
    };
    Some(Amounts {
        cpu_milli: fields.get("cpu").and_then(|at| milli(&at, cpu_min, faults)),
        memory_bytes: fields.get("memory").and_then(|at| bytes(&at, memory_min, faults)),
        // Kubernetes has none of a whole pod.
        storage_bytes: names
            .field(STORAGE)
            .and_then(|_| fields.get(STORAGE))
            .and_then(|at| bytes(&at, storage_min, faults)),
    })
}

/// An amount of processors, in thousandths.
fn milli(at: &At<'_>, min: u64, faults: &mut Faults) -> Option<u64> {
    let (text, found) = quantity(at, Quantity::milli, faults)?;
    if found < min {
        let message = format!("{} must be more than 0", quote(text));
        faults.push(at.error(&message).with_help("leave it out for no limit"));
        return None;
    }
    if found > CPU_USUAL_MAX_MILLI {
        let message = format!("{} is {} processors", quote(text), found / 1000);
        faults.push(at.warning(&message).with_help("a thousandth of one is `m`"));
    }
    Some(found)
}

/// An amount of memory, in bytes.
pub(super) fn bytes(at: &At<'_>, min: u64, faults: &mut Faults) -> Option<u64> {
    let (text, found) = quantity(at, Quantity::units, faults)?;
    if found < min {
        let message = format!("{} is too little: at least {min} bytes are needed", quote(text));
        let fault = at.error(&message);
        faults.push(match thousandths(text) {
            Some(help) => fault.with_help(&help),
            None => {
                fault.with_help("write `M` or `Mi` for megabytes, or leave it out for no limit")
            }
        });
        return None;
    }
    // What tools write in thousandths of a byte is more than that.
    if let Some(help) = thousandths(text).filter(|_| found > 0 && found < MEMORY_LIMIT_MIN) {
        let bytes = if found == 1 { "a byte or less".to_owned() } else { format!("{found} bytes") };
        let message = format!("{} is {bytes}", quote(text));
        faults.push(at.warning(&message).with_help(&help));
    }
    Some(found)
}

/// What was probably meant by thousandths of a byte.
fn thousandths(text: &str) -> Option<String> {
    let number = text.strip_suffix('m')?;
    Some(format!("`m` means thousandths; did you mean `{number}Mi`?"))
}

/// A quantity, written as text or number, and its text.
fn quantity<'a>(
    at: &At<'a>,
    unit: fn(Quantity) -> Result<u64, InvalidQuantity>,
    faults: &mut Faults,
) -> Option<(&'a str, u64)> {
    // Numbers are as good as text here.
    let text = match at.node.as_text() {
        Some(text) => text,
        None => at.text(faults)?,
    };
    match text.parse().and_then(unit) {
        Ok(found) => Some((text, found)),
        Err(error) => {
            let fault = at.error(&format!("{} {error}", quote(text)));
            faults.push(match unit_slip(text).filter(|_| error == InvalidQuantity::Syntax) {
                Some(help) => fault.with_help(help),
                None => fault,
            });
            None
        }
    }
}

/// What was probably meant by a unit that is none.
fn unit_slip(text: &str) -> Option<&'static str> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    Some(match unit {
        "K" | "KB" | "kB" | "kb" | "KiB" | "ki" => "a thousand bytes are `k`, 1024 are `Ki`",
        "MB" | "mb" | "MiB" | "mi" => "a million bytes are `M`, 1024 × 1024 are `Mi`",
        "GB" | "gb" | "GiB" | "g" | "gi" => "a thousand million bytes are `G`, 1024³ are `Gi`",
        spaced if spaced.starts_with(' ') => "the unit follows the number without a space",
        _ => return None,
    })
}
