//! `roost describe pod`: everything known, in reading order, the newest events last.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::Path;

use serde_json::Value;

use super::answers::{Fault, Items, Plan, Pull};
use super::args::PodArgs;
use super::client::Client;
use super::failure::Failure;
use super::get::events::tone as event_tone;
use super::get::pods::tone;
use super::get::{field, pod_path, status, with_query};
use super::screen::{Screen, Tone};
use super::table::{Cell, Table};
use super::{image, output, time};
use crate::api::kubernetes::pod::SOURCE_ANNOTATION;
use crate::api::kubernetes::types::{ContainerState, ContainerStatus, Event, List, Pod, PodStatus};
use crate::clock::WallTime;
use crate::ids::PodName;
use crate::provisioner::reference::{ImageSource, Reference};

/// Describes a pod.
pub(super) async fn pod(client: &Client, screen: Screen, args: &PodArgs) -> Result<(), Failure> {
    let name = args.namespace.pod(&args.name)?;
    let pod: Option<Pod> = client.find(&pod_path(&name)).await?;
    let path = format!("/api/v1/namespaces/{}/events", name.namespace);
    let selector = field("involvedObject.name", &name.name);
    let events: List<Event> = client.get(&with_query(&path, &[Some(selector)])).await?;
    if let Some(pod) = pod {
        let pulls = pulls(client, &pod).await;
        return output::print(&text(screen, &pod, &pulls, &events.items, WallTime::now()));
    }
    let plan: Plan = client.get("/roost/v1/plan").await?;
    let faults = faults_of(&name, &plan.faults);
    if faults.is_empty() {
        return Err(Failure::not_found(&name));
    }
    output::print(&refused(screen, &name, &faults, &events.items, WallTime::now()))?;
    Err(Failure::told())
}

/// The pulls that go on, if the pod may wait for one. How far they are is not worth a failure.
async fn pulls(client: &Client, pod: &Pod) -> Vec<Pull> {
    let may_wait =
        |status: &ContainerStatus| status.state.waiting.is_some() && !status.image.is_empty();
    if !pod.status.all_containers().any(may_wait) {
        return Vec::new();
    }
    let answer: Result<Items<Pull>, Failure> = client.get(&format!("{}/pulls", image::PATH)).await;
    answer.map(|answer| answer.items).unwrap_or_default()
}

/// The faults for which there is no such pod. Where a file can't even be told to have it, its name
/// may tell.
fn faults_of<'a>(name: &PodName, faults: &'a [Fault]) -> Vec<&'a Fault> {
    let key = name.to_string();
    let is_named_after = |fault: &&Fault| {
        let path = fault.file.as_deref().map(Path::new);
        let stem = path.and_then(Path::file_stem).and_then(OsStr::to_str);
        fault.pod.is_none() && stem == Some(name.name.as_str())
    };
    let of_pod: Vec<&Fault> =
        faults.iter().filter(|fault| fault.pod.as_deref() == Some(&key)).collect();
    if of_pod.is_empty() { faults.iter().filter(is_named_after).collect() } else { of_pod }
}

/// What there is instead of a pod whose manifest was never accepted.
fn refused(
    screen: Screen,
    name: &PodName,
    faults: &[&Fault],
    events: &[Event],
    now: WallTime,
) -> String {
    let mut page = Page { screen, text: String::new() };
    page.line(0, "Name", name.name.as_str());
    page.line(0, "Namespace", name.namespace.as_str());
    let files: BTreeSet<&str> = faults.iter().filter_map(|fault| fault.file.as_deref()).collect();
    page.line(0, "Manifest", &files.into_iter().collect::<Vec<_>>().join("\n"));
    page.toned(0, "Status", Tone::Bad, "refused: there is no such pod, for its manifest is faulty");
    let texts: Vec<String> = faults.iter().map(|fault| fault.text()).collect();
    page.block(0, "Problems", &texts.join("\n"));
    page.events(events, now);
    page.text
}

/// What is printed.
fn text(screen: Screen, pod: &Pod, pulls: &[Pull], events: &[Event], now: WallTime) -> String {
    let mut page = Page { screen, text: String::new() };
    head(&mut page, pod, now);
    page.title("Conditions");
    for condition in &pod.status.conditions {
        let reason = condition.reason.as_deref().map(|reason| format!(" ({reason})"));
        let mut value = format!("{}{}", condition.status, reason.unwrap_or_default());
        // Nothing else says that it is not what its manifest asks for.
        if let Some(why) = condition.message.as_ref().filter(|_| condition.kind == "UpToDate") {
            value.push_str(&format!("\n{why}"));
        }
        let tone = match (condition.kind.as_str(), condition.status.as_str()) {
            // The one that is good if it does not hold.
            ("ManifestInvalid", _) => Tone::Bad,
            (_, "True") => Tone::Good,
            (_, _) => Tone::Warning,
        };
        page.toned(1, &condition.kind, tone, &value);
    }
    let PodStatus { init_container_statuses: init, container_statuses: main, .. } = &pod.status;
    for (title, key, statuses) in
        [("Init Containers", "initContainers", init), ("Containers", "containers", main)]
    {
        if !statuses.is_empty() || key == "containers" {
            page.title(title);
        }
        let specs = pod.spec[key].as_array().map(Vec::as_slice).unwrap_or_default();
        for status in statuses {
            page.line(1, &status.name, if status.is_sidecar() { "(sidecar)" } else { "" });
            image_of(&mut page, status, pulls);
            container(&mut page, status, now);
            if let Some(spec) = specs.iter().find(|spec| spec["name"] == status.name.as_str()) {
                wanted(&mut page, spec);
            }
        }
    }
    let volumes = pod.spec["volumes"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !volumes.is_empty() {
        page.title("Volumes");
    }
    for volume in volumes {
        page.line(1, volume["name"].as_str().unwrap_or_default(), &volume_text(volume));
    }
    page.events(events, now);
    page.text
}

fn head(page: &mut Page, pod: &Pod, now: WallTime) {
    let meta = &pod.metadata;
    page.line(0, "Name", &meta.name);
    page.line(0, "Namespace", &meta.namespace);
    page.line(0, "UID", &meta.uid);
    let mut annotations = meta.annotations.clone();
    page.line(0, "Manifest", &annotations.remove(SOURCE_ANNOTATION).unwrap_or_default());
    page.line(0, "Revision", &meta.generation.to_string());
    page.line(0, "Created", &when(meta.creation_timestamp.as_deref(), now));
    page.line(0, "Labels", &pairs(&meta.labels));
    page.line(0, "Annotations", &pairs(&annotations));
    let status = status(pod);
    page.toned(0, "Status", tone(&status, true), &status);
    page.line(0, "Phase", &pod.status.phase);
    if let Some(problems) = &pod.status.message {
        page.block(0, "Problems", problems);
    }
    if let Some(grace) = meta.deletion_grace_period_seconds {
        page.line(0, "Grace Period", &format!("{grace}s"));
    }
    if let Some(extra) = &pod.status.roost {
        if let Some(cause) = &extra.termination_cause {
            page.line(0, "Ends Because", cause);
        }
        let pid = extra.executor_pid.map(|pid| format!(", process {pid}")).unwrap_or_default();
        page.line(0, "Executor", &format!("{}{pid}", extra.executor));
        if extra.executor_losses > 0 {
            page.line(0, "Executor Lost", &extra.executor_losses.to_string());
        }
    }
    if let Some(qos) = &pod.status.qos_class {
        page.line(0, "QoS Class", qos);
    }
    let spec = &pod.spec;
    if let Some(policy) = spec["restartPolicy"].as_str() {
        page.line(0, "Restart Policy", policy);
    }
    let flags = ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"];
    let set: Vec<&str> = flags.into_iter().filter(|flag| spec[*flag] == true).collect();
    if !set.is_empty() {
        page.line(0, "Namespaces", &set.join(", "));
    }
}

/// Which image a container has, and how far its pull is.
fn image_of(page: &mut Page, status: &ContainerStatus, pulls: &[Pull]) {
    if status.image.is_empty() {
        return;
    }
    page.line(2, "Image", &image::familiar(&status.image));
    if !status.image_id.is_empty() {
        page.line(2, "Image ID", &status.image_id);
    }
    let pull = pulls.iter().find(|pull| is_of(pull, &status.image));
    if let (Some(pull), Some(_)) = (pull, &status.state.waiting) {
        page.toned(2, "Pull", Tone::Warning, &image::pull::progress_text(pull));
    }
}

/// Whether an image is what is pulled: by its name, or at the digest that the name meant before.
fn is_of(pull: &Pull, name: &str) -> bool {
    let reference = |text: &str| text.parse::<ImageSource>().ok()?.reference().cloned();
    let is_at = |wanted: &Reference, pulled: &Reference| {
        wanted.name() == pulled.name() && pulled.tag().is_none() && pulled.digest().is_some()
    };
    pull.source == name
        || matches!((reference(name), reference(&pull.source)), (Some(a), Some(b)) if is_at(&a, &b))
}

/// What a container is.
fn container(page: &mut Page, status: &ContainerStatus, now: WallTime) {
    if let Some(pid) = status.roost.as_ref().and_then(|extra| extra.pid) {
        page.line(2, "Process", &pid.to_string());
    }
    state(page, "State", &status.state, now);
    if status.last_state != ContainerState::default() {
        state(page, "Last State", &status.last_state, now);
    }
    page.line(2, "Ready", if status.ready { "True" } else { "False" });
    page.line(2, "Restart Count", &status.restart_count.to_string());
    if let Some(extra) = &status.roost {
        for fault in &extra.probe_faults {
            let tone = if fault.failed { Tone::Bad } else { Tone::Warning };
            let text = format!("{} ({} in a row)", fault.message, fault.count);
            page.toned(2, &fault.probe, tone, &text);
        }
        if let Some(check) = &extra.check {
            page.line(2, "Check", check.result().as_deref().unwrap_or("no result"));
        }
    }
    if let Some(fault) = status.roost.as_ref().and_then(|extra| extra.update_fault.as_deref()) {
        page.toned(2, "Limits Not Applied", Tone::Bad, fault);
    }
}

fn state(page: &mut Page, name: &str, state: &ContainerState, now: WallTime) {
    if let Some(waiting) = &state.waiting {
        page.toned(2, name, Tone::Warning, "Waiting");
        page.toned(3, "Reason", tone(&waiting.reason, true), &waiting.reason);
        if let Some(message) = &waiting.message {
            page.line(3, "Message", message);
        }
    } else if let Some(running) = &state.running {
        page.toned(2, name, Tone::Good, "Running");
        page.line(3, "Started", &when(Some(&running.started_at), now));
    } else if let Some(ended) = &state.terminated {
        page.line(2, name, "Terminated");
        page.toned(3, "Reason", tone(&ended.reason, true), &ended.reason);
        if let Some(message) = &ended.message {
            page.line(3, "Message", message.trim_end());
        }
        page.line(3, "Exit Code", &ended.exit_code.to_string());
        if let Some(signal) = ended.signal {
            page.line(3, "Signal", &signal.to_string());
        }
        if ended.started_at.is_some() {
            page.line(3, "Started", &when(ended.started_at.as_deref(), now));
        }
        if ended.finished_at.is_some() {
            page.line(3, "Finished", &when(ended.finished_at.as_deref(), now));
        }
    }
}

/// What a container shall be.
fn wanted(page: &mut Page, spec: &Value) {
    let texts = |value: &Value| -> Vec<String> {
        let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
        items.iter().filter_map(Value::as_str).map(|text| format!("{text:?}")).collect()
    };
    // As it is run where there is no image.
    let command = texts(&spec["command"]);
    match (spec["image"].as_str(), texts(&spec["args"])) {
        (None, args) => page.line(2, "Command", &[command, args].concat().join(" ")),
        (Some(image), args) => {
            page.line(2, "Image", image);
            for (name, words) in [("Command", command), ("Args", args)] {
                if !words.is_empty() {
                    page.line(2, name, &words.join(" "));
                }
            }
        }
    }
    if let Some(directory) = spec["workingDir"].as_str() {
        page.line(2, "Working Directory", directory);
    }
    let security = &spec["securityContext"];
    let is_root = |id: &Value| id.is_null() || *id == 0;
    if !is_root(&security["runAsUser"]) || !is_root(&security["runAsGroup"]) {
        page.line(2, "User", &format!("{}:{}", security["runAsUser"], security["runAsGroup"]));
    }
    for (name, key) in [("Requests", "requests"), ("Limits", "limits")] {
        if let Some(values) = spec["resources"][key].as_object() {
            let values = values.iter().map(|(key, value)| format!("{key} {}", plain(value)));
            page.line(2, name, &values.collect::<Vec<_>>().join(", "));
        }
    }
    for (at, var) in spec["env"].as_array().into_iter().flatten().enumerate() {
        let name = if at == 0 { "Environment" } else { "" };
        let from = &var["valueFrom"];
        let value = if from.is_null() {
            format!("={}", plain(&var["value"]))
        } else {
            format!(": {}", value_text(from))
        };
        page.line(2, name, &format!("{}{value}", plain(&var["name"])));
    }
    for (at, from) in spec["envFrom"].as_array().into_iter().flatten().enumerate() {
        let name = if at == 0 { "Environment From" } else { "" };
        let kinds = [("configMapRef", "ConfigMap"), ("secretRef", "Secret")];
        let found = kinds.iter().find(|(key, _)| !from[*key].is_null());
        let (key, kind) = found.unwrap_or(&kinds[0]);
        let prefix = from["prefix"].as_str().map(|prefix| format!(", prefix {prefix}"));
        let text = document_text(kind, &from[*key]["name"], &from[*key]["optional"]);
        page.line(2, name, &format!("{text}{}", prefix.unwrap_or_default()));
    }
    for (at, mount) in spec["volumeMounts"].as_array().into_iter().flatten().enumerate() {
        let name = if at == 0 { "Mounts" } else { "" };
        let mode = if mount["readOnly"] == true { "read-only" } else { "read-write" };
        let text =
            format!("{} from {} ({mode})", plain(&mount["mountPath"]), plain(&mount["name"]));
        page.line(2, name, &text);
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A ConfigMap or Secret in words.
fn document_text(kind: &str, name: &Value, optional: &Value) -> String {
    let optional = if *optional == true { " (optional)" } else { "" };
    format!("{kind} {}{optional}", plain(name))
}

/// Where the value of a variable comes from.
fn value_text(from: &Value) -> String {
    for (key, kind) in [("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")] {
        let of = &from[key];
        if !of.is_null() {
            let document = document_text(kind, &of["name"], &of["optional"]);
            return format!("key {} of {document}", plain(&of["key"]));
        }
    }
    match from["fieldRef"]["fieldPath"].as_str() {
        Some(path) => path.to_owned(),
        None => {
            let of = &from["resourceFieldRef"];
            let (resource, divisor) = (plain(&of["resource"]), plain(&of["divisor"]));
            format!("{resource} of {} in units of {divisor}", plain(&of["containerName"]))
        }
    }
}

/// A source of files in words.
fn source_text(source: &Value) -> Option<String> {
    let of = |kind: &str, name: &str, of: &Value| {
        (!of.is_null()).then(|| document_text(kind, &of[name], &of["optional"]))
    };
    of("ConfigMap", "name", &source["configMap"])
        .or_else(|| {
            let secret = &source["secret"];
            let name = if secret["secretName"].is_null() { "name" } else { "secretName" };
            of("Secret", name, secret)
        })
        .or_else(|| (!source["downwardAPI"].is_null()).then(|| "the pod itself".to_owned()))
}

fn volume_text(volume: &Value) -> String {
    if let Some(text) = source_text(volume) {
        return format!("files of {text}");
    }
    if let Some(sources) = volume["projected"]["sources"].as_array() {
        let texts: Vec<String> = sources.iter().filter_map(source_text).collect();
        return format!("files of {}", texts.join(", "));
    }
    if let Some(source) = volume["hostPath"].as_object() {
        let path = source.get("path").map(plain).unwrap_or_default();
        let kind = source.get("type").map(plain).filter(|kind| !kind.is_empty());
        return format!(
            "host path {path}{}",
            kind.map(|kind| format!(" ({kind})")).unwrap_or_default()
        );
    }
    if let Some(name) = volume["image"]["reference"].as_str() {
        return format!("image {}", image::familiar(name));
    }
    let source = &volume["emptyDir"];
    match (source["medium"].as_str(), source["sizeLimit"].as_str()) {
        (Some("Memory"), Some(limit)) => {
            format!("empty directory in memory, at most {limit} bytes")
        }
        (Some("Memory"), None) => "empty directory in memory".to_owned(),
        (_, Some(limit)) => format!("empty directory, at most {limit} bytes"),
        (_, None) => "empty directory".to_owned(),
    }
}

fn event_row(event: &Event, now: WallTime) -> Vec<Cell> {
    let age = time::age(Some(&event.last_timestamp), now);
    let times = if event.count > 1 { format!(" (x{})", event.count) } else { String::new() };
    vec![
        format!("  {age}{times}").into(),
        Cell::toned(event_tone(event), &event.severity),
        event.reason.as_str().into(),
        event.message.as_str().into(),
    ]
}

fn when(text: Option<&str>, now: WallTime) -> String {
    match text {
        Some(text) => format!("{text} ({} ago)", time::age(Some(text), now)),
        None => "<unknown>".to_owned(),
    }
}

fn pairs(pairs: &BTreeMap<String, String>) -> String {
    if pairs.is_empty() {
        return "<none>".to_owned();
    }
    let pairs: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join("\n")
}

/// Names and values, the values in a column. Neither can drive a terminal.
struct Page {
    screen: Screen,
    text: String,
}

impl Page {
    /// Where values begin, from the indentation of their names.
    const COLUMN: usize = 19;

    fn title(&mut self, title: &str) {
        let title = self.screen.paint(Tone::Strong, &format!("{title}:"));
        self.push(&title);
    }

    /// What happened.
    fn events(&mut self, events: &[Event], now: WallTime) {
        self.title("Events");
        if events.is_empty() {
            return self.push("  <none>");
        }
        let rows: Vec<Vec<Cell>> = events.iter().map(|event| event_row(event, now)).collect();
        let head = ["  LAST SEEN", "TYPE", "REASON", "MESSAGE"];
        self.text.push_str(&Table::render(self.screen, &head, &rows).1);
    }

    /// A name and its value; further lines of the value stand below its first.
    fn line(&mut self, depth: usize, name: &str, value: &str) {
        self.toned(depth, name, Tone::Plain, value);
    }

    /// The same with a value that means something.
    fn toned(&mut self, depth: usize, name: &str, tone: Tone, value: &str) {
        let indent = "  ".repeat(depth);
        let name = output::clean_line(name);
        let label = if name.is_empty() { String::new() } else { format!("{name}:") };
        let mut label = format!("{indent}{label:<width$}", width = Self::COLUMN);
        for part in output::clean(value).split('\n') {
            let part = self.screen.paint(tone, part);
            self.push(format!("{label} {part}").trim_end());
            label = format!("{indent}{:width$}", "", width = Self::COLUMN);
        }
    }

    /// A name, and its value, which is trouble, in lines of their own.
    fn block(&mut self, depth: usize, name: &str, value: &str) {
        self.line(depth, name, "");
        let indent = "  ".repeat(depth + 1);
        for part in output::clean(value).split('\n') {
            let is_head = !part.starts_with(' ');
            let part = self.screen.paint(if is_head { Tone::Bad } else { Tone::Plain }, part);
            self.push(format!("{indent}{part}").trim_end());
        }
    }

    fn push(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }
}

#[cfg(test)]
mod tests;
