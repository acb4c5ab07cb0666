//! A Pod and its `spec`.

use std::collections::{BTreeMap, BTreeSet};

use super::config::Around;
use super::container;
use super::fields::{At, Fields};
use super::names::HOSTNAME_LEN_MAX;
use super::port::HostPorts;
use super::restart::POLICIES;
use super::security::{self, Inherited};
use super::{annotations, lifecycle, metadata, mount, names, probe, resources, schema, volume};
use crate::clock::Millis;
use crate::ids::{ContainerName, ObjectName, VolumeName};
use crate::manifest::diagnostic::{Faults, quote};
use crate::manifest::node::{Kind, Node};
use crate::manifest::pod::{
    ContainerSpec, Domain, HostNamespaces, Names, PodSecurity, PodSpec, Resources, RestartPolicy,
    TERMINATION_GRACE_DEFAULT, Volume,
};

/// Containers of a pod.
pub(super) const CONTAINERS_MAX: usize = 128;
/// Volumes of a pod, and mounts of a container.
pub(super) const VOLUMES_MAX: usize = 256;
/// `terminationGracePeriodSeconds`: a week.
pub(super) const TERMINATION_GRACE_MAX_SECONDS: i64 = 7 * 24 * 3600;
/// `activeDeadlineSeconds`, as in Kubernetes (`validation.ValidatePodSpec`).
pub(super) const ACTIVE_DEADLINE_MAX_SECONDS: i64 = i32::MAX as i64;
/// `imagePullSecrets` of a pod.
const PULL_SECRETS_MAX: usize = 64;
/// Highest user and group (Kubernetes: `validation.IsValidUserID`).
pub(super) const ID_MAX: i64 = i32::MAX as i64;

/// Reads a Pod. Whether the result counts is for the caller to see: errors may stand beside it.
pub(super) fn decode(at: At<'_>, faults: &mut Faults) -> Option<PodSpec> {
    let fields = at.fields(&schema::POD, faults)?;
    if let Some(version) = fields.required("apiVersion", faults)
        && let Some(found) = version.text(faults).filter(|found| *found != "v1")
    {
        let message = format!("must be `v1` for a Pod, but this is {}", quote(found));
        faults.push(version.error(&message));
    }
    if let Some(kind) = fields.required("kind", faults) {
        // `decode::check_kind` has seen to what it says.
        kind.text(faults);
    }
    let metadata = fields.required("metadata", faults).and_then(|at| metadata::decode(at, faults));
    let settings = fields
        .get("metadata")
        .and_then(|at| {
            let name = metadata.as_ref().and_then(|metadata| metadata.name.as_ref());
            at.member("annotations").map(|at| annotations::decode(at, name, faults))
        })
        .unwrap_or_default();
    let mut spec = fields.required("spec", faults).and_then(|at| spec(at, faults));
    if let Some(at) = fields.get("metadata")
        && let Some(at) = at.member("annotations")
        && let Some(spec) = &mut spec
    {
        let all = spec.init_containers.iter_mut().chain(&mut spec.containers);
        probe::checks(at, &mut all.collect::<Vec<_>>(), faults);
        let all = spec.init_containers.iter_mut().chain(&mut spec.containers);
        lifecycle::annotations(at, all, faults);
    }

    let (metadata, spec) = (metadata?, spec?);
    let name = metadata.name?;
    let hostname = spec
        .hostname
        .unwrap_or_else(|| name.name.as_str().split('.').next().unwrap_or_default().to_owned());
    let full = spec.names.domain.full_name(&hostname, name.namespace.as_str());
    check_full_name(at, &spec.names.domain, full, faults);
    Some(PodSpec {
        name,
        labels: metadata.labels,
        annotations: metadata.annotations,
        hostname,
        host: spec.host,
        share_process_namespace: spec.share_process_namespace,
        restart_policy: spec.restart_policy,
        termination_grace: spec.termination_grace,
        active_deadline: spec.active_deadline,
        termination_policy: settings.termination_policy,
        backoff: settings.backoff,
        pids_limit: settings.pids_limit,
        resources: spec.resources,
        after: settings.after,
        priority: spec.priority,
        rollback_after: settings.rollback_after,
        node_selector: spec.node_selector,
        security: spec.security,
        names: spec.names,
        network: settings.network,
        image_pull_secrets: spec.image_pull_secrets,
        restart_on_config_change: settings.restart_on_config_change,
        config: None,
        volumes: spec.volumes,
        init_containers: spec.init_containers,
        containers: spec.containers,
    })
}

/// A full name that is to be the host's must fit.
fn check_full_name(at: At<'_>, domain: &Domain, full: Option<String>, faults: &mut Faults) {
    if let (Domain::Subdomain { in_hostname: true, .. }, Some(full)) = (domain, full)
        && full.len() > HOSTNAME_LEN_MAX
    {
        let message = format!(
            "`setHostnameAsFQDN`: {} has more than {HOSTNAME_LEN_MAX} characters (a limit of Linux)",
            quote(&full)
        );
        faults.push(at.error(&message));
    }
}

/// `spec`, with its defaults.
struct Spec {
    hostname: Option<String>,
    host: HostNamespaces,
    share_process_namespace: bool,
    restart_policy: RestartPolicy,
    termination_grace: Millis,
    active_deadline: Option<Millis>,
    resources: Resources,
    priority: i32,
    node_selector: BTreeMap<String, String>,
    security: PodSecurity,
    names: Names,
    image_pull_secrets: Vec<ObjectName>,
    volumes: Vec<Volume>,
    init_containers: Vec<ContainerSpec>,
    containers: Vec<ContainerSpec>,
}

fn spec(at: At<'_>, faults: &mut Faults) -> Option<Spec> {
    let fields = at.fields(&schema::POD_SPEC, faults)?;
    let host = HostNamespaces {
        network: fields.flag("hostNetwork", faults),
        pid: fields.flag("hostPID", faults),
        ipc: fields.flag("hostIPC", faults),
    };
    let (security, inherited) = security::of_pod(&fields, host, faults);
    let names = container_names(&at);
    let account = ["serviceAccountName", "serviceAccount"]
        .iter()
        .find_map(|name| at.node.get(name)?.as_text())
        .unwrap_or("default");
    let around = Around { account, containers: &names, own: None };
    let mut left_out = BTreeSet::new();
    let volumes = volumes(&fields, around, &mut left_out, faults);
    let volume_names = volume_names(&fields);
    let [mut init_containers, mut containers] =
        containers(&fields, (&inherited, host, around), &volume_names, faults);
    for container in init_containers.iter_mut().chain(&mut containers) {
        container.mounts.retain(|mount| !left_out.contains(&mount.volume));
    }
    let pull_secrets = fields.get("imagePullSecrets").map(|at| pull_secrets(at, faults));
    let node_selector =
        fields.get("nodeSelector").map(|at| metadata::texts(at, faults)).unwrap_or_default();
    let share_process_namespace = fields.flag("shareProcessNamespace", faults);
    if let Some(at) = fields.get("shareProcessNamespace").filter(|_| host.pid)
        && share_process_namespace
    {
        let message = "can't be true together with `hostPID: true`: the containers share the \
                       host's process namespace already";
        faults.push(at.error(message).with_help("leave one of the two out"));
    }
    if let Some(os) = fields.get("os").and_then(|at| at.fields(&schema::OS, faults))
        && let Some(name) = os.required("name", faults)
    {
        name.choice(&[("linux", ())], faults);
    }
    let restart_policy = fields.get("restartPolicy").and_then(|at| at.choice(&POLICIES, faults));
    let grace = fields
        .get("terminationGracePeriodSeconds")
        .and_then(|at| at.integer(0..=TERMINATION_GRACE_MAX_SECONDS, faults))
        .map(|seconds| Millis::from_secs(seconds.unsigned_abs()));
    let active_deadline = fields
        .get("activeDeadlineSeconds")
        .and_then(|at| at.integer(1..=ACTIVE_DEADLINE_MAX_SECONDS, faults))
        .map(|seconds| Millis::from_secs(seconds.unsigned_abs()));
    let resources = fields
        .get("resources")
        .and_then(|at| resources::of_pod(at, (&init_containers, &containers), faults))
        .unwrap_or_default();
    let (hostname, names) = names::decode(&fields, host, faults);
    Some(Spec {
        hostname,
        host,
        share_process_namespace,
        restart_policy: restart_policy.unwrap_or(RestartPolicy::Always),
        termination_grace: grace.unwrap_or(TERMINATION_GRACE_DEFAULT),
        active_deadline,
        resources,
        priority: priority(&fields, faults),
        node_selector,
        security,
        names,
        image_pull_secrets: pull_secrets.unwrap_or_default(),
        volumes,
        init_containers,
        containers,
    })
}

/// `priority`, or that of the two classes which every cluster has (Kubernetes:
/// `scheduling.SystemPriorityClasses`).
fn priority(fields: &Fields<'_>, faults: &mut Faults) -> i32 {
    const CLASSES: [(&str, i32); 2] =
        [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];
    let number = fields
        .get("priority")
        .and_then(|at| at.integer(i64::from(i32::MIN)..=i64::from(i32::MAX), faults))
        .and_then(|number| i32::try_from(number).ok());
    let Some(class) = fields.get("priorityClassName") else { return number.unwrap_or(0) };
    let Some(name) = class.text(faults) else { return number.unwrap_or(0) };
    match (CLASSES.iter().find(|(known, _)| *known == name), number) {
        (Some((_, of_class)), Some(number)) if number != *of_class => {
            let message = format!("means priority {of_class}, but `priority` is {number}");
            faults.push(class.error(&message).with_help("leave one of the two out"));
            number
        }
        (Some((_, of_class)), _) => *of_class,
        (None, Some(number)) => number,
        (None, None) => {
            let message =
                format!("there is no PriorityClass {}, so the priority is 0", quote(name));
            let help = "give the pod a `priority` of its own";
            faults.push(class.warning(&message).with_help(help));
            0
        }
    }
}

/// A user or group.
pub(super) fn id(fields: &Fields<'_>, name: &'static str, faults: &mut Faults) -> Option<u32> {
    let found = fields.get(name)?.integer(0..=ID_MAX, faults)?;
    u32::try_from(found).ok()
}

/// `spec.imagePullSecrets`.
fn pull_secrets(at: At<'_>, faults: &mut Faults) -> Vec<ObjectName> {
    let mut found = Vec::new();
    for item in at.items(PULL_SECRETS_MAX, faults) {
        let Some(fields) = item.fields(&schema::LOCAL_REFERENCE, faults) else { continue };
        found.extend(fields.required("name", faults).and_then(|at| at.parse::<ObjectName>(faults)));
    }
    found
}

/// The names of all containers, those included that are refused for something.
fn container_names(at: &At<'_>) -> BTreeSet<ContainerName> {
    let names = |field: &str| match at.node.get(field).map(|list| &list.kind) {
        Some(Kind::Sequence(items)) => items.as_slice(),
        Some(Kind::Scalar(_) | Kind::Mapping(_)) | None => &[],
    };
    let all = names("initContainers").iter().chain(names("containers")).take(2 * CONTAINERS_MAX);
    all.filter_map(|item| item.get("name").and_then(Node::as_text)?.parse().ok()).collect()
}

/// Reads the volumes; `left_out` gets the names of those that have no effect.
fn volumes(
    fields: &Fields<'_>,
    around: Around<'_>,
    left_out: &mut BTreeSet<VolumeName>,
    faults: &mut Faults,
) -> Vec<Volume> {
    let Some(list) = fields.get("volumes") else { return Vec::new() };
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for item in list.items(VOLUMES_MAX, faults) {
        if volume::is_api_access(item, faults) {
            left_out.extend(item.node.get("name").and_then(|name| name.as_text()?.parse().ok()));
            continue;
        }
        if let Some(volume) = volume::decode(item, around, faults) {
            if !seen.insert(volume.name.clone()) {
                let message = format!("two volumes have the name `{}`", volume.name);
                faults.push(item.error(&message));
            }
            found.push(volume);
        }
    }
    found
}

/// The names of all volumes, those included that are refused for something else.
fn volume_names(fields: &Fields<'_>) -> mount::Volumes {
    let Some(list) = fields.get("volumes") else { return mount::Volumes::new() };
    let items = list.items(VOLUMES_MAX, &mut Faults::default());
    let volume = |item: &At<'_>| {
        let has = |name: &str| item.node.get(name).is_some();
        let outlives = has("hostPath") || has("persistentVolumeClaim");
        Some((item.node.get("name")?.as_text()?.parse().ok()?, outlives))
    };
    items.iter().filter_map(volume).collect()
}

/// `initContainers` and `containers`.
fn containers(
    fields: &Fields<'_>,
    (inherited, host, around): (&Inherited, HostNamespaces, Around<'_>),
    volumes: &mount::Volumes,
    faults: &mut Faults,
) -> [Vec<ContainerSpec>; 2] {
    let mut seen = BTreeSet::new();
    let mut host_ports = HostPorts::default();
    let mut read = |list: At<'_>, is_init: bool, faults: &mut Faults| {
        let mut found = Vec::new();
        for item in list.items(CONTAINERS_MAX, faults) {
            let found_here = container::decode(item, inherited, host, around, volumes, faults);
            let Some(container) = found_here else { continue };
            if !seen.insert(container.name.clone()) {
                let message = format!("two containers have the name `{}`", container.name);
                faults.push(item.error(&message));
            }
            let policy = container.restart.as_ref().map(|restart| restart.policy);
            if is_init && policy != Some(RestartPolicy::Always) {
                // It is over before the others begin.
                HostPorts::default().add(&item, &container.ports, faults);
                refuse_in_init_container(item, faults);
            } else {
                host_ports.add(&item, &container.ports, faults);
            }
            found.push(container);
        }
        found
    };
    let init = fields.get("initContainers").map(|list| read(list, true, faults));
    let mut main = Vec::new();
    if let Some(list) = fields.required("containers", faults) {
        let mark = faults.mark();
        main = read(list, false, faults);
        if main.is_empty() && !faults.any_error_since(mark) {
            faults.push(list.error("must have at least one container"));
        }
    }
    [init.unwrap_or_default(), main]
}

/// What has a meaning only for what goes on running.
const NOT_IN_INIT_CONTAINERS: [&str; 4] =
    ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"];

fn refuse_in_init_container(container: At<'_>, faults: &mut Faults) {
    for at in NOT_IN_INIT_CONTAINERS.iter().filter_map(|name| container.member(name)) {
        let message = "has no meaning in an init container, which is over before the others start";
        let help = "leave it out, or make it a sidecar by `restartPolicy: Always`";
        faults.push(at.error(message).with_help(help));
    }
}
