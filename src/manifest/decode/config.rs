//! What a pod takes from ConfigMaps, Secrets and itself: `valueFrom`, `envFrom`, and volumes of
//! files that are made of values.

use std::collections::BTreeSet;

use super::fields::{At, Fields};
use super::schema;
use crate::ids::{ContainerName, ObjectName};
use crate::manifest::diagnostic::{Faults, quote};
use crate::manifest::document::{DocumentKind, is_key};
use crate::manifest::node::{Kind, Meaning};
use crate::manifest::pod::{
    DownwardFile, EnvFrom, EnvSource, Field, KeyFile, KeyRef, Projected, ProjectedForm, Projection,
    ResourceField, ResourceName,
};
use crate::manifest::quantity::{InvalidQuantity, Quantity};

/// `envFrom`, sources of a volume, and files of a source.
const SOURCES_MAX: usize = 1000;
/// `defaultMode` of a volume that has none.
const MODE_DEFAULT: u32 = 0o644;
/// Longest path of a file in a volume, in bytes; what is above it counts against PATH_MAX too.
const PATH_LEN_MAX: usize = 1024;

/// Units that a resource can be asked for in (Kubernetes: `validateContainerResourceDivisor`).
const CPU_DIVISORS: [u64; 2] = [1, 1000];
const BYTES_DIVISORS: [u64; 13] = [
    1,
    1_000,
    1_000_000,
    1_000_000_000,
    1_000_000_000_000,
    1_000_000_000_000_000,
    1_000_000_000_000_000_000,
    1 << 10,
    1 << 20,
    1 << 30,
    1 << 40,
    1 << 50,
    1 << 60,
];

/// A quantity as a whole number of something.
type Unit = fn(Quantity) -> Result<u64, InvalidQuantity>;

/// What references to the pod itself depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Around<'a> {
    /// `spec.serviceAccountName`.
    pub(super) account: &'a str,
    /// All containers of the pod.
    pub(super) containers: &'a BTreeSet<ContainerName>,
    /// The one whose variable it is; none of a volume.
    pub(super) own: Option<&'a ContainerName>,
}

/// Where a value is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Into {
    Variable,
    File,
}

/// Reads `envFrom`.
pub(super) fn env_from(at: At<'_>, faults: &mut Faults) -> Vec<EnvFrom> {
    let mut found = Vec::new();
    for item in at.items(SOURCES_MAX, faults) {
        let Some(fields) = item.fields(&schema::ENV_FROM, faults) else { continue };
        let prefix = fields.get("prefix").and_then(|at| at.text(faults)).unwrap_or_default();
        if !prefix.bytes().all(|b| matches!(b, b' '..=b'~') && b != b'=') {
            let message = format!("{} can't begin the name of a variable", quote(prefix));
            faults.push(item.error(&message));
        }
        let sources = [
            (DocumentKind::ConfigMap, fields.get("configMapRef")),
            (DocumentKind::Secret, fields.get("secretRef")),
        ];
        let Some((kind, at)) = only_one(&fields, sources, "`configMapRef` or `secretRef`", faults)
        else {
            continue;
        };
        let Some(fields) = at.fields(&schema::OBJECT_REF, faults) else { continue };
        let name: Option<ObjectName> =
            fields.required("name", faults).and_then(|at| at.parse(faults));
        let optional = fields.flag("optional", faults);
        found.extend(name.map(|name| EnvFrom { prefix: prefix.to_owned(), kind, name, optional }));
    }
    found
}

/// The one that is set of several fields.
fn only_one<'a, T>(
    fields: &Fields<'_>,
    all: impl IntoIterator<Item = (T, Option<At<'a>>)>,
    names: &str,
    faults: &mut Faults,
) -> Option<(T, At<'a>)> {
    let mut set = all.into_iter().filter_map(|(of, at)| Some((of, at?)));
    let first = set.next();
    if let Some((_, second)) = set.next() {
        faults.push(second.error("only one source can be set"));
        return None;
    }
    // One that does not work has been refused by its name.
    let is_other = match &fields.at.node.kind {
        Kind::Mapping(entries) => {
            let others = ["prefix", "path", "mode"];
            entries
                .iter()
                .any(|(key, node)| !others.contains(&key.text.as_str()) && !node.is_null())
        }
        Kind::Scalar(_) | Kind::Sequence(_) => true,
    };
    if first.is_none() && !is_other {
        faults.push(fields.at.error("there is no source").with_help(&format!("add {names}")));
    }
    first
}

/// Reads `valueFrom`.
pub(super) fn value_from(at: At<'_>, around: Around<'_>, faults: &mut Faults) -> Option<EnvSource> {
    let fields = at.fields(&schema::VALUE_FROM, faults)?;
    let sources = ["configMapKeyRef", "secretKeyRef", "fieldRef", "resourceFieldRef"]
        .map(|name| (name, fields.get(name)));
    let names = "`configMapKeyRef`, `secretKeyRef`, `fieldRef` or `resourceFieldRef`";
    let (name, at) = only_one(&fields, sources, names, faults)?;
    match name {
        "configMapKeyRef" => key_ref(at, DocumentKind::ConfigMap, faults).map(EnvSource::Key),
        "secretKeyRef" => key_ref(at, DocumentKind::Secret, faults).map(EnvSource::Key),
        "fieldRef" => field_ref(at, around, Into::Variable, faults).map(EnvSource::Field),
        _ => resource_ref(at, around, faults).map(EnvSource::Resource),
    }
}

fn key_ref(at: At<'_>, kind: DocumentKind, faults: &mut Faults) -> Option<KeyRef> {
    let fields = at.fields(&schema::KEY_REF, faults)?;
    let name = fields.required("name", faults).and_then(|at| at.parse(faults));
    let key = fields.required("key", faults).and_then(|at| key(at, faults));
    let optional = fields.flag("optional", faults);
    Some(KeyRef { kind, name: name?, key: key?, optional })
}

fn key(at: At<'_>, faults: &mut Faults) -> Option<String> {
    let text = at.text(faults)?;
    if !is_key(text) {
        faults.push(at.error(&format!("{} can't be the key of a value", quote(text))));
        return None;
    }
    Some(text.to_owned())
}

fn field_ref(at: At<'_>, around: Around<'_>, into: Into, faults: &mut Faults) -> Option<Field> {
    let fields = at.fields(&schema::FIELD_REF, faults)?;
    if let Some(at) = fields.get("apiVersion") {
        at.choice(&[("v1", ())], faults);
    }
    let at = fields.required("fieldPath", faults)?;
    let text = at.text(faults)?;
    let keyed = |of: &str| {
        let rest = text.strip_prefix(of)?.strip_prefix("['")?;
        rest.strip_suffix("']").filter(|key| !key.is_empty()).map(str::to_owned)
    };
    let simple = match text {
        "metadata.name" => Some(Field::Name),
        "metadata.namespace" => Some(Field::Namespace),
        "metadata.uid" => Some(Field::Uid),
        "metadata.labels" if into == Into::File => Some(Field::Labels),
        "metadata.annotations" if into == Into::File => Some(Field::Annotations),
        "spec.nodeName" if into == Into::Variable => Some(Field::NodeName),
        "spec.serviceAccountName" if into == Into::Variable => {
            Some(Field::ServiceAccountName(around.account.to_owned()))
        }
        "status.hostIP" if into == Into::Variable => Some(Field::HostIp),
        "status.hostIPs" if into == Into::Variable => Some(Field::HostIps),
        "status.podIP" if into == Into::Variable => Some(Field::PodIp),
        "status.podIPs" if into == Into::Variable => Some(Field::PodIps),
        _ => None,
    };
    let found = simple
        .or_else(|| keyed("metadata.labels").map(Field::Label))
        .or_else(|| keyed("metadata.annotations").map(Field::Annotation));
    if found.is_none() {
        let known = match into {
            Into::Variable => {
                "metadata.name, metadata.namespace, metadata.uid, metadata.labels['KEY'], \
                 metadata.annotations['KEY'], spec.nodeName, spec.serviceAccountName, \
                 status.hostIP, status.hostIPs, status.podIP and status.podIPs"
            }
            Into::File => {
                "metadata.name, metadata.namespace, metadata.uid, metadata.labels, \
                 metadata.annotations, and both with ['KEY']"
            }
        };
        let message = format!("{} can't be taken from the pod here", quote(text));
        faults.push(at.error(&message).with_help(&format!("there are {known}")));
    }
    found
}

fn resource_ref(at: At<'_>, around: Around<'_>, faults: &mut Faults) -> Option<ResourceField> {
    let fields = at.fields(&schema::RESOURCE_FIELD_REF, faults)?;
    let container = match (fields.get("containerName"), around.own) {
        (Some(at), _) => {
            let name: Option<ContainerName> = at.parse(faults);
            if let Some(unknown) = name.as_ref().filter(|name| !around.containers.contains(name)) {
                faults.push(at.error(&format!("there is no container `{unknown}`")));
            }
            name
        }
        (None, Some(own)) => Some(own.clone()),
        (None, None) => {
            let fault = at.error("a file needs `containerName` with it");
            faults.push(fault);
            None
        }
    };
    let resources = [
        ("limits.cpu", ResourceName::LimitsCpu),
        ("limits.memory", ResourceName::LimitsMemory),
        ("requests.cpu", ResourceName::RequestsCpu),
        ("requests.memory", ResourceName::RequestsMemory),
        ("limits.ephemeral-storage", ResourceName::LimitsStorage),
        ("requests.ephemeral-storage", ResourceName::RequestsStorage),
    ];
    let resource = fields.required("resource", faults).and_then(|at| at.choice(&resources, faults));
    let divisor_at = fields.get("divisor");
    let resource = resource?;
    let (unit, known): (Unit, &[u64]) = match resource {
        ResourceName::LimitsCpu | ResourceName::RequestsCpu => (Quantity::milli, &CPU_DIVISORS),
        ResourceName::LimitsMemory
        | ResourceName::RequestsMemory
        | ResourceName::LimitsStorage
        | ResourceName::RequestsStorage => (Quantity::units, &BYTES_DIVISORS),
    };
    let usual = match resource {
        ResourceName::LimitsCpu | ResourceName::RequestsCpu => 1000,
        ResourceName::LimitsMemory
        | ResourceName::RequestsMemory
        | ResourceName::LimitsStorage
        | ResourceName::RequestsStorage => 1,
    };
    let divisor = match divisor_at {
        None => usual,
        Some(at) => {
            let text = at.node.as_text().or_else(|| at.text(faults))?;
            match text.parse().and_then(unit) {
                Ok(0) => usual,
                Ok(value) if known.contains(&value) => value,
                Ok(_) | Err(_) => {
                    let fault = at.error(&format!("{} is no unit of {resource}", quote(text)));
                    faults.push(fault.with_help(match usual {
                        1 => "for bytes: 1, k, M, G, T, P, E, Ki, Mi, Gi, Ti, Pi, Ei, as in 1Mi",
                        _ => "for processors: 1 or 1m",
                    }));
                    return None;
                }
            }
        }
    };
    Some(ResourceField { container: container?, resource, divisor })
}

/// Reads a volume of files that are made of values.
pub(super) fn projected(
    at: At<'_>,
    form: ProjectedForm,
    around: Around<'_>,
    faults: &mut Faults,
) -> Option<Projected> {
    let mut paths = BTreeSet::new();
    let (fields, sources) = match form {
        ProjectedForm::ConfigMap => {
            let fields = at.fields(&schema::CONFIG_MAP, faults)?;
            let keys = keys(&fields, DocumentKind::ConfigMap, "name", &mut paths, faults);
            (fields, keys.into_iter().collect())
        }
        ProjectedForm::Secret => {
            let fields = at.fields(&schema::SECRET, faults)?;
            let keys = keys(&fields, DocumentKind::Secret, "secretName", &mut paths, faults);
            (fields, keys.into_iter().collect())
        }
        ProjectedForm::DownwardApi => {
            let fields = at.fields(&schema::DOWNWARD, faults)?;
            let items = downward(&fields, around, &mut paths, faults);
            (fields, vec![Projection::Downward { items }])
        }
        ProjectedForm::Projected => {
            let fields = at.fields(&schema::PROJECTED, faults)?;
            let sources = fields.required("sources", faults);
            let sources = sources.map(|at| projections(at, around, &mut paths, faults));
            (fields, sources.unwrap_or_default())
        }
    };
    let default_mode = mode(&fields, "defaultMode", faults).unwrap_or(MODE_DEFAULT);
    Some(Projected { form, default_mode, sources })
}

fn projections(
    at: At<'_>,
    around: Around<'_>,
    paths: &mut BTreeSet<String>,
    faults: &mut Faults,
) -> Vec<Projection> {
    let mut found = Vec::new();
    for item in at.items(SOURCES_MAX, faults) {
        let Some(fields) = item.fields(&schema::PROJECTION, faults) else { continue };
        let sources = ["configMap", "secret", "downwardAPI"].map(|name| (name, fields.get(name)));
        let names = "`configMap`, `secret` or `downwardAPI`";
        let Some((name, at)) = only_one(&fields, sources, names, faults) else { continue };
        let kind = match name {
            "configMap" => Some(DocumentKind::ConfigMap),
            "secret" => Some(DocumentKind::Secret),
            _ => None,
        };
        match kind {
            Some(kind) => {
                let Some(fields) = at.fields(&schema::PROJECTED_KEYS, faults) else { continue };
                found.extend(keys(&fields, kind, "name", paths, faults));
            }
            None => {
                let table = &schema::PROJECTED_DOWNWARD;
                let Some(fields) = at.fields(table, faults) else { continue };
                let items = downward(&fields, around, paths, faults);
                found.push(Projection::Downward { items });
            }
        }
    }
    found
}

fn keys(
    fields: &Fields<'_>,
    kind: DocumentKind,
    name: &'static str,
    paths: &mut BTreeSet<String>,
    faults: &mut Faults,
) -> Option<Projection> {
    let name: Option<ObjectName> = fields.required(name, faults).and_then(|at| at.parse(faults));
    let optional = fields.flag("optional", faults);
    let mut items = Vec::new();
    let list = fields.get("items");
    let list = list.as_ref().map(|at| at.items(SOURCES_MAX, faults)).unwrap_or_default();
    for item in list {
        let Some(fields) = item.fields(&schema::KEY_TO_PATH, faults) else { continue };
        let key = fields.required("key", faults).and_then(|at| key(at, faults));
        let path = fields.required("path", faults).and_then(|at| path(at, paths, faults));
        let mode = mode(&fields, "mode", faults);
        if let (Some(key), Some(path)) = (key, path) {
            items.push(KeyFile { key, path, mode });
        }
    }
    Some(Projection::Keys { kind, name: name?, items, optional })
}

fn downward(
    fields: &Fields<'_>,
    around: Around<'_>,
    paths: &mut BTreeSet<String>,
    faults: &mut Faults,
) -> Vec<DownwardFile> {
    let mut found = Vec::new();
    let list = fields.get("items");
    let list = list.as_ref().map(|at| at.items(SOURCES_MAX, faults)).unwrap_or_default();
    for item in list {
        let Some(fields) = item.fields(&schema::DOWNWARD_ITEM, faults) else { continue };
        let path = fields.required("path", faults).and_then(|at| path(at, paths, faults));
        let sources = ["fieldRef", "resourceFieldRef"].map(|name| (name, fields.get(name)));
        let names = "`fieldRef` or `resourceFieldRef`";
        let mode = mode(&fields, "mode", faults);
        let Some((name, at)) = only_one(&fields, sources, names, faults) else { continue };
        let value = match name {
            "fieldRef" => field_ref(at, around, Into::File, faults).map(EnvSource::Field),
            _ => resource_ref(at, around, faults).map(EnvSource::Resource),
        };
        if let (Some(path), Some(value)) = (path, value) {
            found.push(DownwardFile { path, mode, value });
        }
    }
    found
}

/// The path of a file in a volume: relative, and not out of it.
fn path(at: At<'_>, paths: &mut BTreeSet<String>, faults: &mut Faults) -> Option<String> {
    let text = at.c_text(faults)?;
    let is_part = |part: &str| !matches!(part, "" | "." | "..");
    if text.starts_with("..") || text.len() > PATH_LEN_MAX || !text.split('/').all(is_part) {
        let message = format!(
            "{} must be a path in the volume: relative, without `.` and `..`, not beginning with \
             `..`, at most {PATH_LEN_MAX} bytes",
            quote(text)
        );
        faults.push(at.error(&message));
        return None;
    }
    let is_within = |known: &String| {
        known
            .strip_prefix(text)
            .or(text.strip_prefix(known.as_str()))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if let Some(other) = paths.iter().find(|known| is_within(known)) {
        let message = format!("{} is in the way of {}", quote(text), quote(other));
        faults.push(at.error(&message));
        return None;
    }
    paths.insert(text.to_owned());
    Some(text.to_owned())
}

/// The mode of a file. `644` without a 0 before it is decimal, which nobody means.
fn mode(fields: &Fields<'_>, name: &'static str, faults: &mut Faults) -> Option<u32> {
    let at = fields.get(name)?;
    if let Kind::Scalar(scalar) = &at.node.kind
        && let Meaning::Int(Some(value @ 512..=777)) = scalar.meaning()
        && value.to_string().bytes().all(|digit| digit < b'8')
    {
        let message = format!("{value} is decimal, and no mode of a file");
        faults.push(at.error(&message).with_help(&format!("in YAML write 0{value}")));
        return None;
    }
    let value = at.integer(0..=0o777, faults)?;
    u32::try_from(value).ok()
}
