//! [`of`]: a [`PodSpec`] as the `spec` of a manifest. What is written here reads back as the same
//! specification, together with name, labels and annotations.

mod config;
mod security;

use serde_json::{Map, Value, json};

use security::{container_security, names_of, pod_security};

use crate::clock::Millis;
use crate::manifest::expansion::escape;
use crate::manifest::pod::{
    ContainerPort, ContainerRestart, ContainerSpec, ExitCodes, Handler, HostPathType, HttpGet,
    Lifecycle, MessagePolicy, PodSpec, Probe, Propagation, Resources, RestartAction, RestartPolicy,
    RestartRule, SubPath, TerminationMessage, Volume, VolumeMount, VolumeSource,
};

/// `spec` of core/v1.
#[must_use]
pub fn of(spec: &PodSpec) -> Value {
    let PodSpec {
        name: _,
        labels: _,
        annotations: _,
        hostname,
        host,
        share_process_namespace,
        restart_policy,
        termination_grace,
        active_deadline,
        // Annotations have these.
        termination_policy: _,
        backoff: _,
        pids_limit: _,
        resources: of_pod,
        after: _,
        rollback_after: _,
        priority,
        restart_on_config_change: _,
        node_selector,
        security,
        names,
        // It comes from annotations.
        network: _,
        image_pull_secrets,
        // Only hashes, and no manifest says them.
        config: _,
        volumes,
        init_containers,
        containers,
    } = spec;
    let mut out = Map::new();
    let flags = [
        ("hostNetwork", host.network),
        ("hostPID", host.pid),
        ("hostIPC", host.ipc),
        ("shareProcessNamespace", *share_process_namespace),
    ];
    for (name, _) in flags.iter().filter(|(_, is_set)| *is_set) {
        out.insert((*name).to_owned(), true.into());
    }
    names_of(hostname, names, &mut out);
    let security = pod_security(security);
    if !security.is_empty() {
        out.insert("securityContext".into(), security.into());
    }
    out.insert("restartPolicy".into(), policy(*restart_policy).into());
    out.insert("terminationGracePeriodSeconds".into(), (termination_grace.0 / 1000).into());
    if let Some(deadline) = active_deadline {
        out.insert("activeDeadlineSeconds".into(), (deadline.0 / 1000).into());
    }
    if *priority != 0 {
        out.insert("priority".into(), (*priority).into());
    }
    let of_pod = resources_of(*of_pod);
    if !of_pod.is_empty() {
        out.insert("resources".into(), of_pod.into());
    }
    if !node_selector.is_empty() {
        out.insert("nodeSelector".into(), json!(node_selector));
    }
    if !image_pull_secrets.is_empty() {
        let names = image_pull_secrets.iter().map(|name| json!({ "name": name }));
        out.insert("imagePullSecrets".into(), names.collect());
    }
    if !volumes.is_empty() {
        out.insert("volumes".into(), volumes.iter().map(volume).collect());
    }
    if !init_containers.is_empty() {
        out.insert("initContainers".into(), init_containers.iter().map(container).collect());
    }
    out.insert("containers".into(), containers.iter().map(container).collect());
    Value::Object(out)
}

fn policy(policy: RestartPolicy) -> &'static str {
    match policy {
        RestartPolicy::Always => "Always",
        RestartPolicy::OnFailure => "OnFailure",
        RestartPolicy::Never => "Never",
    }
}

fn rule(rule: &RestartRule) -> Value {
    let RestartRule { action, when, values } = rule;
    let action = match action {
        RestartAction::Restart => "Restart",
        RestartAction::RestartAllContainers => "RestartAllContainers",
    };
    let operator = match when {
        ExitCodes::In => "In",
        ExitCodes::NotIn => "NotIn",
    };
    json!({ "action": action, "exitCodes": { "operator": operator, "values": values } })
}

fn volume(volume: &Volume) -> Value {
    let Volume { name, source } = volume;
    match source {
        VolumeSource::EmptyDir { size_limit: None } => json!({ "name": name, "emptyDir": {} }),
        VolumeSource::EmptyDir { size_limit: Some(bytes) } => {
            json!({ "name": name, "emptyDir": { "sizeLimit": bytes.to_string() } })
        }
        VolumeSource::Memory { size_limit: None } => {
            json!({ "name": name, "emptyDir": { "medium": "Memory" } })
        }
        VolumeSource::Memory { size_limit: Some(bytes) } => {
            let limit = bytes.to_string();
            json!({ "name": name, "emptyDir": { "medium": "Memory", "sizeLimit": limit } })
        }
        VolumeSource::Claim { claim, read_only } => {
            let source = json!({ "claimName": claim.as_str(), "readOnly": read_only });
            json!({ "name": name, "persistentVolumeClaim": source })
        }
        VolumeSource::Image(image) => {
            let (reference, policy) = (image.source.to_string(), image.pull);
            json!({ "name": name, "image": { "reference": reference, "pullPolicy": policy } })
        }
        VolumeSource::Projected(projected) => {
            let mut out = config::volume(projected);
            out.insert("name".to_owned(), json!(name));
            Value::Object(out)
        }
        VolumeSource::HostPath { path, kind } => {
            let kind = match kind {
                HostPathType::Unchecked => "",
                HostPathType::DirectoryOrCreate => "DirectoryOrCreate",
                HostPathType::Directory => "Directory",
                HostPathType::FileOrCreate => "FileOrCreate",
                HostPathType::File => "File",
                HostPathType::Socket => "Socket",
                HostPathType::CharDevice => "CharDevice",
                HostPathType::BlockDevice => "BlockDevice",
            };
            json!({ "name": name, "hostPath": { "path": path, "type": kind } })
        }
    }
}

fn container(container: &ContainerSpec) -> Value {
    let ContainerSpec {
        name,
        image,
        command: _,
        args: _,
        env: _,
        env_from: _,
        working_dir,
        resources,
        user,
        group,
        read_only_root,
        security: may,
        mounts,
        ports,
        // `life` has these.
        liveness: _,
        readiness: _,
        startup: _,
        restart: _,
        lifecycle: _,
        termination: _,
        // It stands in an annotation.
        check: _,
        restarts_for,
    } = container;
    let mut out = Map::new();
    out.insert("name".into(), name.as_str().into());
    if let Some(image) = image {
        out.insert("image".into(), image.source.to_string().into());
        out.insert("imagePullPolicy".into(), json!(image.pull));
    }
    program(container, &mut out);
    if let Some(path) = working_dir {
        out.insert("workingDir".into(), path.as_str().into());
    }
    let resources = resources_of(*resources);
    if !resources.is_empty() {
        out.insert("resources".into(), resources.into());
    }
    if !restarts_for.is_empty() {
        let policies = restarts_for.iter().map(|resized| {
            let name = resized.as_str();
            json!({ "resourceName": name, "restartPolicy": "RestartContainer" })
        });
        out.insert("resizePolicy".into(), policies.collect());
    }
    let mut security = Map::new();
    security.extend(user.map(|user| ("runAsUser".to_owned(), user.into())));
    security.extend(group.map(|group| ("runAsGroup".to_owned(), group.into())));
    if *read_only_root {
        security.insert("readOnlyRootFilesystem".into(), true.into());
    }
    container_security(may, &mut security);
    if !security.is_empty() {
        out.insert("securityContext".into(), security.into());
    }
    if !mounts.is_empty() {
        out.insert("volumeMounts".into(), mounts.iter().map(mount).collect());
    }
    if !ports.is_empty() {
        out.insert("ports".into(), ports.iter().map(port).collect());
    }
    life(container, &mut out);
    Value::Object(out)
}

/// How it is asked, begins, ends and is started again.
fn life(container: &ContainerSpec, out: &mut Map<String, Value>) {
    let ContainerSpec { liveness, readiness, startup, restart, lifecycle, termination, .. } =
        container;
    let probes =
        [("livenessProbe", liveness), ("readinessProbe", readiness), ("startupProbe", startup)];
    for (name, found) in probes {
        out.extend(found.as_ref().map(|found| (name.to_owned(), probe(found))));
    }
    let lifecycle = lifecycle_of(lifecycle);
    if !lifecycle.is_empty() {
        out.insert("lifecycle".into(), lifecycle.into());
    }
    let TerminationMessage { own_path, policy: message_policy } = termination;
    if let Some(path) = own_path {
        out.insert("terminationMessagePath".into(), path.as_str().into());
    }
    if *message_policy != MessagePolicy::default() {
        out.insert("terminationMessagePolicy".into(), json!(message_policy));
    }
    if let Some(ContainerRestart { policy: own, rules }) = restart {
        out.insert("restartPolicy".into(), policy(*own).into());
        if !rules.is_empty() {
            out.insert("restartPolicyRules".into(), rules.iter().map(rule).collect());
        }
    }
}

fn lifecycle_of(lifecycle: &Lifecycle) -> Map<String, Value> {
    // Annotations have the last two.
    let Lifecycle { post_start, pre_stop, stop_signal, stop_grace: _, max_run_time: _ } = lifecycle;
    let mut out = Map::new();
    for (name, hook) in [("postStart", post_start), ("preStop", pre_stop)] {
        if let Some((kind, value)) = hook.as_ref().map(|hook| handler_of(hook, str::to_owned)) {
            out.insert(name.into(), json!({ kind: value }));
        }
    }
    out.extend(stop_signal.map(|signal| ("stopSignal".to_owned(), signal.to_string().into())));
    out
}

/// What is run, and with which variables.
fn program(container: &ContainerSpec, out: &mut Map<String, Value>) {
    let ContainerSpec { command, args, env, env_from, .. } = container;
    // With variables that are known only at the start nothing was put in yet.
    let open = container.has_open_variables();
    let written = |word: &String| if open { word.clone() } else { escape(word) };
    for (name, words) in [("command", command), ("args", args)] {
        if !words.is_empty() {
            out.insert(name.into(), words.iter().map(written).collect());
        }
    }
    if !env_from.is_empty() {
        out.insert("envFrom".into(), env_from.iter().map(config::env_from).collect());
    }
    if !env.is_empty() {
        let env = env.iter().map(|var| match &var.from {
            Some(source) => json!({ "name": var.name, "valueFrom": config::value_from(source) }),
            None => json!({ "name": var.name, "value": written(&var.value) }),
        });
        out.insert("env".into(), env.collect());
    }
}

fn mount(mount: &VolumeMount) -> Value {
    let VolumeMount { volume, path, read_only, sub_path, propagation } = mount;
    let mut out = Map::new();
    out.insert("name".into(), volume.as_str().into());
    out.insert("mountPath".into(), path.as_str().into());
    if *read_only {
        out.insert("readOnly".into(), true.into());
    }
    match sub_path {
        None => {}
        Some(SubPath::Path(path)) => drop(out.insert("subPath".into(), path.as_str().into())),
        Some(SubPath::Expression(text)) => {
            out.insert("subPathExpr".into(), text.as_str().into());
        }
    }
    match propagation {
        Propagation::None => {}
        Propagation::HostToContainer => {
            out.insert("mountPropagation".into(), "HostToContainer".into());
        }
        Propagation::Bidirectional => {
            out.insert("mountPropagation".into(), "Bidirectional".into());
        }
    }
    Value::Object(out)
}

fn port(port: &ContainerPort) -> Value {
    let ContainerPort { name, container_port, host_port, host_ip, protocol } = port;
    let mut out = Map::new();
    out.extend(name.as_deref().map(|name| ("name".to_owned(), name.into())));
    out.insert("containerPort".into(), (*container_port).into());
    out.extend(host_port.map(|port| ("hostPort".to_owned(), port.into())));
    out.extend(host_ip.map(|ip| ("hostIP".to_owned(), ip.to_string().into())));
    out.insert("protocol".into(), protocol.to_string().into());
    Value::Object(out)
}

fn probe(probe: &Probe) -> Value {
    let Probe {
        handler,
        initial_delay,
        period,
        timeout,
        success_threshold,
        failure_threshold,
        termination_grace,
    } = probe;
    let mut out = Map::new();
    let (kind, value) = handler_of(handler, escape);
    out.insert(kind.into(), value);
    let whole_seconds = |span: Millis| span.0 / 1000;
    if *initial_delay > Millis(0) {
        out.insert("initialDelaySeconds".into(), whole_seconds(*initial_delay).into());
    }
    out.insert("periodSeconds".into(), whole_seconds(*period).into());
    out.insert("timeoutSeconds".into(), whole_seconds(*timeout).into());
    out.insert("successThreshold".into(), (*success_threshold).into());
    out.insert("failureThreshold".into(), (*failure_threshold).into());
    if let Some(grace) = termination_grace {
        out.insert("terminationGracePeriodSeconds".into(), whole_seconds(*grace).into());
    }
    Value::Object(out)
}

/// The kind of a handler, and what stands in it,
/// with the words of a program as `written` makes them: those of probes are escaped, because
/// references are replaced in them, and those of hooks stand as they are.
pub(super) fn handler_of(
    handler: &Handler,
    written: impl Fn(&str) -> String,
) -> (&'static str, Value) {
    let mut out = Map::new();
    let kind = match handler {
        Handler::Exec { command } => {
            out.insert("command".into(), command.iter().map(|word| written(word)).collect());
            "exec"
        }
        Handler::Http(HttpGet { host, port, path, scheme, headers }) => {
            out.extend(host.map(|host| ("host".to_owned(), host.to_string().into())));
            out.insert("path".into(), path.as_str().into());
            out.insert("port".into(), (*port).into());
            out.insert("scheme".into(), scheme.to_string().to_uppercase().into());
            if !headers.is_empty() {
                let pairs = headers.iter();
                let pairs = pairs.map(|(name, value)| json!({ "name": name, "value": value }));
                out.insert("httpHeaders".into(), pairs.collect());
            }
            "httpGet"
        }
        Handler::Tcp { host, port } => {
            out.extend(host.map(|host| ("host".to_owned(), host.to_string().into())));
            out.insert("port".into(), (*port).into());
            "tcpSocket"
        }
        Handler::Grpc { port, service } => {
            out.insert("port".into(), (*port).into());
            out.insert("service".into(), service.as_str().into());
            "grpc"
        }
        Handler::Sleep(span) => {
            out.insert("seconds".into(), (span.0 / 1000).into());
            "sleep"
        }
    };
    (kind, Value::Object(out))
}

fn resources_of(resources: Resources) -> Map<String, Value> {
    let Resources {
        cpu_request_milli,
        cpu_limit_milli,
        memory_request_bytes,
        memory_limit_bytes,
        storage_request_bytes,
        storage_limit_bytes,
    } = resources;
    let cpu = |milli: u64| {
        if milli.is_multiple_of(1000) { (milli / 1000).to_string() } else { format!("{milli}m") }
    };
    let group = |milli: Option<u64>, bytes: Option<u64>, storage: Option<u64>| {
        let mut out = Map::new();
        out.extend(milli.map(|milli| ("cpu".to_owned(), cpu(milli).into())));
        out.extend(bytes.map(|bytes| ("memory".to_owned(), memory(bytes).into())));
        let storage = storage.map(|bytes| ("ephemeral-storage".to_owned(), memory(bytes).into()));
        out.extend(storage);
        out
    };
    let groups = [
        ("requests", group(cpu_request_milli, memory_request_bytes, storage_request_bytes)),
        ("limits", group(cpu_limit_milli, memory_limit_bytes, storage_limit_bytes)),
    ];
    let groups = groups.into_iter().filter(|(_, group)| !group.is_empty());
    groups.map(|(name, group)| (name.to_owned(), group.into())).collect()
}

/// Bytes as a quantity, with the largest binary suffix that loses nothing.
fn memory(bytes: u64) -> String {
    let units = [("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1_u64 << 10)];
    let fitting = units.iter().find(|(_, size)| bytes > 0 && bytes.is_multiple_of(*size));
    match fitting {
        Some((suffix, size)) => format!("{}{suffix}", bytes / size),
        None => bytes.to_string(),
    }
}
