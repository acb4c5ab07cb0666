//! [`of`]: a [`PodSpec`] as the `spec` of a manifest. What is written here reads back as the same
//! specification, together with name, labels and annotations.

use serde_json::{Map, Value, json};

use crate::manifest::expansion::escape;
use crate::manifest::pod::{
    ContainerPort, ContainerSpec, HostPathType, PodSpec, Resources, RestartPolicy, Volume,
    VolumeSource,
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
        // Annotations have these.
        backoff: _,
        pids_limit: _,
        after: _,
        rollback_after: _,
        priority,
        node_selector,
        volumes,
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
    let restart_policy = match restart_policy {
        RestartPolicy::Always => "Always",
        RestartPolicy::OnFailure => "OnFailure",
        RestartPolicy::Never => "Never",
    };
    out.insert("hostname".into(), hostname.as_str().into());
    out.insert("restartPolicy".into(), restart_policy.into());
    out.insert("terminationGracePeriodSeconds".into(), (termination_grace.0 / 1000).into());
    if *priority != 0 {
        out.insert("priority".into(), (*priority).into());
    }
    if !node_selector.is_empty() {
        out.insert("nodeSelector".into(), json!(node_selector));
    }
    if !volumes.is_empty() {
        out.insert("volumes".into(), volumes.iter().map(volume).collect());
    }
    out.insert("containers".into(), containers.iter().map(container).collect());
    Value::Object(out)
}

fn volume(volume: &Volume) -> Value {
    let Volume { name, source } = volume;
    match source {
        VolumeSource::EmptyDir {} => json!({ "name": name, "emptyDir": {} }),
        VolumeSource::Memory { size_limit: None } => {
            json!({ "name": name, "emptyDir": { "medium": "Memory" } })
        }
        VolumeSource::Memory { size_limit: Some(bytes) } => {
            let limit = bytes.to_string();
            json!({ "name": name, "emptyDir": { "medium": "Memory", "sizeLimit": limit } })
        }
        VolumeSource::Image(image) => {
            let (reference, policy) = (image.source.to_string(), image.pull);
            json!({ "name": name, "image": { "reference": reference, "pullPolicy": policy } })
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
        command,
        args,
        env,
        working_dir,
        resources,
        user,
        group,
        read_only_root,
        mounts,
        ports,
    } = container;
    let mut out = Map::new();
    out.insert("name".into(), name.as_str().into());
    if let Some(image) = image {
        out.insert("image".into(), image.source.to_string().into());
        out.insert("imagePullPolicy".into(), json!(image.pull));
    }
    for (name, words) in [("command", command), ("args", args)] {
        if !words.is_empty() {
            out.insert(name.into(), words.iter().map(|word| escape(word)).collect());
        }
    }
    if !env.is_empty() {
        let env = env.iter().map(|var| json!({ "name": var.name, "value": escape(&var.value) }));
        out.insert("env".into(), env.collect());
    }
    if let Some(path) = working_dir {
        out.insert("workingDir".into(), path.as_str().into());
    }
    let resources = resources_of(*resources);
    if !resources.is_empty() {
        out.insert("resources".into(), resources.into());
    }
    let mut security = Map::new();
    security.extend(user.map(|user| ("runAsUser".to_owned(), user.into())));
    security.extend(group.map(|group| ("runAsGroup".to_owned(), group.into())));
    if *read_only_root {
        security.insert("readOnlyRootFilesystem".into(), true.into());
    }
    if !security.is_empty() {
        out.insert("securityContext".into(), security.into());
    }
    if !mounts.is_empty() {
        let mounts = mounts.iter().map(|mount| {
            let mut out = Map::new();
            out.insert("name".into(), mount.volume.as_str().into());
            out.insert("mountPath".into(), mount.path.as_str().into());
            if mount.read_only {
                out.insert("readOnly".into(), true.into());
            }
            Value::Object(out)
        });
        out.insert("volumeMounts".into(), mounts.collect());
    }
    if !ports.is_empty() {
        out.insert("ports".into(), ports.iter().map(port).collect());
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

fn resources_of(resources: Resources) -> Map<String, Value> {
    let Resources { cpu_request_milli, cpu_limit_milli, memory_request_bytes, memory_limit_bytes } =
        resources;
    let cpu = |milli: u64| {
        if milli.is_multiple_of(1000) { (milli / 1000).to_string() } else { format!("{milli}m") }
    };
    let group = |milli: Option<u64>, bytes: Option<u64>| {
        let mut out = Map::new();
        out.extend(milli.map(|milli| ("cpu".to_owned(), cpu(milli).into())));
        out.extend(bytes.map(|bytes| ("memory".to_owned(), memory(bytes).into())));
        out
    };
    let groups = [
        ("requests", group(cpu_request_milli, memory_request_bytes)),
        ("limits", group(cpu_limit_milli, memory_limit_bytes)),
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
