//! `roost get pods`, `roost get events`.

use serde_json::{Value, json};

use super::args::{EventsArgs, Output, PodsArgs};
use super::client::Client;
use super::failure::Failure;
use super::table::Table;
use super::{output, time};
use crate::api::kubernetes::pod::SOURCE_ANNOTATION;
use crate::api::kubernetes::types::{Event, List, Pod, WatchEvent};
use crate::api::overview::Overview;
use crate::clock::WallTime;
use crate::ids::{Namespace, PodName};

/// Lists pods.
pub(super) async fn pods(client: &Client, args: &PodsArgs) -> Result<(), Failure> {
    let PodsArgs { name, namespace, output, watch } = args;
    let name = name.as_deref().map(|name| namespace.pod(name)).transpose()?;
    let path = match &name {
        Some(name) => pods_path(Some(&name.namespace)),
        None => pods_path(namespace.namespace.as_ref()),
    };
    let selector = name.as_ref().map(|name| format!("fieldSelector=metadata.name={}", name.name));
    let list_path = with_query(&path, std::slice::from_ref(&selector));
    let mut list: Value = client.get(&list_path).await?;
    if let Some(name) = &name {
        only_youngest(&mut list, name)?;
    }
    let pods: List<Pod> = understood(&list)?;
    let mut view =
        View { output: *output, columns: Columns::of(*output, &pods.items), table: None };
    view.first(&list, &pods.items, name.is_some())?;
    if *output == Output::Table || *output == Output::Wide {
        remark(client, &pods.items, name.is_none()).await?;
    }
    if !*watch {
        return Ok(());
    }
    let watch_path = with_query(&path, &[selector, Some("watch=true".to_owned())]);
    let mut watch = client.watch(&watch_path).await?;
    loop {
        let WatchEvent { kind, object } = watch.next::<Value>().await?;
        let pod: Pod = understood(&object)?;
        let is_listed = pods.items.iter().any(|listed| {
            let (known, new) = (&listed.metadata, &pod.metadata);
            known.uid == new.uid && known.resource_version == new.resource_version
        });
        if kind == "ADDED" && is_listed {
            continue;
        }
        view.next(&object, &pod)?;
    }
}

/// Of several instances of one pod the youngest counts, as when it is asked for by its name.
fn only_youngest(list: &mut Value, name: &PodName) -> Result<(), Failure> {
    let items = list.get_mut("items").and_then(Value::as_array_mut);
    let youngest = items.as_ref().and_then(|items| items.last().cloned());
    match (items, youngest) {
        (Some(items), Some(youngest)) => {
            *items = vec![youngest];
            Ok(())
        }
        (_, _) => Err(not_found(name)),
    }
}

/// There is no such pod.
pub(super) fn not_found(name: &PodName) -> Failure {
    Failure::wrong(format!("pod {name} not found"))
        .with_help("`roost get pods` lists what there is, `roost status` manifests with faults")
}

/// The path of all pods, or those of a namespace.
pub(super) fn pods_path(namespace: Option<&Namespace>) -> String {
    match namespace {
        Some(namespace) => format!("/api/v1/namespaces/{namespace}/pods"),
        None => "/api/v1/pods".to_owned(),
    }
}

/// The path of one pod.
pub(super) fn pod_path(name: &PodName) -> String {
    format!("{}/{}", pods_path(Some(&name.namespace)), name.name)
}

/// The path with those parts of a query that there are.
pub(super) fn with_query(path: &str, parts: &[Option<String>]) -> String {
    let parts: Vec<&str> = parts.iter().flatten().map(String::as_str).collect();
    if parts.is_empty() { path.to_owned() } else { format!("{path}?{}", parts.join("&")) }
}

fn understood<T: serde::de::DeserializeOwned>(value: &Value) -> Result<T, Failure> {
    T::deserialize(value).map_err(|error| {
        Failure::unreachable(format!("the agent's answer can't be understood: {error}"))
    })
}

/// How the list is shown, and goes on being shown while it is watched.
struct View {
    output: Output,
    columns: Columns,
    table: Option<Table>,
}

impl View {
    fn first(&mut self, list: &Value, pods: &[Pod], is_one: bool) -> Result<(), Failure> {
        let now = WallTime::now();
        let text = match self.output {
            Output::Json => pretty(&if is_one { list["items"][0].clone() } else { as_list(list) }),
            Output::Name => pods.iter().map(|pod| format!("{}\n", full_name(pod))).collect(),
            Output::Table | Output::Wide if pods.is_empty() => String::new(),
            Output::Table | Output::Wide => {
                let rows: Vec<_> = pods.iter().map(|pod| self.columns.row(pod, now)).collect();
                let (table, text) = Table::render(&self.columns.head(), &rows);
                self.table = Some(table);
                text
            }
        };
        output::print(&text)
    }

    fn next(&mut self, object: &Value, pod: &Pod) -> Result<(), Failure> {
        let row = self.columns.row(pod, WallTime::now());
        let text = match (self.output, &self.table) {
            (Output::Json, _) => pretty(object),
            (Output::Name, _) => format!("{}\n", full_name(pod)),
            (Output::Table | Output::Wide, Some(table)) => table.row(&row),
            (Output::Table | Output::Wide, None) => {
                let (table, text) = Table::render(&self.columns.head(), &[row]);
                self.table = Some(table);
                text
            }
        };
        output::print(&text)
    }
}

/// What `kubectl get -o json` prints for several objects.
fn as_list(list: &Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "List", "items": list["items"], "metadata": {} })
}

fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

fn full_name(pod: &Pod) -> String {
    if pod.metadata.namespace == "default" {
        format!("pod/{}", pod.metadata.name)
    } else {
        // As names are given to this program.
        format!("{}/{}", pod.metadata.namespace, pod.metadata.name)
    }
}

/// Says what a table can't show.
async fn remark(client: &Client, pods: &[Pod], is_all: bool) -> Result<(), Failure> {
    for pod in pods.iter().filter(|pod| pod.status.message.is_some()) {
        let name = named(pod)?;
        output::note(&format!(
            "warning: something is wrong with {name}; `roost describe pod {name}` says what"
        ));
    }
    if !(pods.is_empty() && is_all) {
        return Ok(());
    }
    output::note("No pods found.");
    let overview: Overview = client.get("/roost/v1/status").await?;
    if !overview.faults.is_empty() || !overview.alarms.is_empty() {
        output::note("warning: manifests have faults; `roost status` says which");
    }
    Ok(())
}

fn named(pod: &Pod) -> Result<PodName, Failure> {
    let text = format!("{}/{}", pod.metadata.namespace, pod.metadata.name);
    text.parse().map_err(|error| Failure::unreachable(format!("the agent answers {error}")))
}

/// Which columns a table of pods has.
#[derive(Debug, Clone, Copy)]
struct Columns {
    namespace: bool,
    wide: bool,
}

impl Columns {
    fn of(output: Output, pods: &[Pod]) -> Self {
        let namespace = pods.iter().any(|pod| pod.metadata.namespace != "default");
        Self { namespace, wide: output == Output::Wide }
    }

    fn head(self) -> Vec<&'static str> {
        let namespace = self.namespace.then_some("NAMESPACE");
        let wide: &[&str] = if self.wide { &["UID", "PIDS", "MANIFEST"] } else { &[] };
        namespace
            .into_iter()
            .chain(["NAME", "READY", "STATUS", "RESTARTS", "AGE"])
            .chain(wide.iter().copied())
            .collect()
    }

    fn row(self, pod: &Pod, now: WallTime) -> Vec<String> {
        let containers = &pod.status.container_statuses;
        let ready = containers.iter().filter(|container| container.ready).count();
        let mut row = Vec::new();
        if self.namespace {
            row.push(pod.metadata.namespace.clone());
        }
        row.extend([
            pod.metadata.name.clone(),
            format!("{ready}/{}", containers.len()),
            status(pod),
            restarts(pod, now),
            time::age(pod.metadata.creation_timestamp.as_deref(), now),
        ]);
        if self.wide {
            let pids = containers.iter().filter_map(|container| container.roost.as_ref()?.pid);
            let pids: Vec<String> = pids.map(|pid| pid.to_string()).collect();
            let pids = if pids.is_empty() { "-".to_owned() } else { pids.join(",") };
            let source =
                pod.metadata.annotations.get(SOURCE_ANNOTATION).cloned().unwrap_or_default();
            row.extend([pod.metadata.uid.clone(), pids, output::clean(&source)]);
        }
        row
    }
}

/// The rules are those of kubectl's table of pods.
pub(super) fn status(pod: &Pod) -> String {
    if pod.metadata.deletion_timestamp.is_some() {
        return "Terminating".to_owned();
    }
    let mut status = pod.status.phase.as_str();
    let mut any_runs = false;
    // The first container counts most.
    for container in pod.status.container_statuses.iter().rev() {
        if let Some(waiting) = &container.state.waiting {
            status = &waiting.reason;
        } else if let Some(terminated) = &container.state.terminated {
            status = &terminated.reason;
        } else if container.state.running.is_some() {
            any_runs = true;
        }
    }
    if status == "Completed" && any_runs { "Running" } else { status }.to_owned()
}

fn restarts(pod: &Pod, now: WallTime) -> String {
    let containers = &pod.status.container_statuses;
    let count: u64 = containers.iter().map(|container| u64::from(container.restart_count)).sum();
    let ends = containers.iter().filter(|container| container.restart_count > 0);
    let ends = ends.filter_map(|c| c.last_state.terminated.as_ref()?.finished_at.as_deref());
    match ends.max() {
        Some(last) if count > 0 => format!("{count} ({} ago)", time::age(Some(last), now)),
        Some(_) | None => count.to_string(),
    }
}

/// Lists events.
pub(super) async fn events(client: &Client, args: &EventsArgs) -> Result<(), Failure> {
    let EventsArgs { namespace, output, watch } = args;
    let path = match &namespace.namespace {
        Some(namespace) => format!("/api/v1/namespaces/{namespace}/events"),
        None => "/api/v1/events".to_owned(),
    };
    let list: Value = client.get(&path).await?;
    let events: List<Event> = understood(&list)?;
    let now = WallTime::now();
    let rows: Vec<_> = events.items.iter().map(|event| event_row(event, now)).collect();
    let (table, text) = Table::render(EVENT_HEAD, &rows);
    match output {
        Output::Json => output::print(&pretty(&as_list(&list)))?,
        Output::Name => {
            let names = events.items.iter().map(|event| format!("event/{}\n", event.metadata.name));
            output::print(&names.collect::<String>())?;
        }
        Output::Table | Output::Wide if events.items.is_empty() && !*watch => {
            output::note("No events found.");
        }
        Output::Table | Output::Wide => output::print(&text)?,
    }
    if !*watch {
        return Ok(());
    }
    let mut watch = client.watch(&with_query(&path, &[Some("watch=true".to_owned())])).await?;
    loop {
        let WatchEvent { kind, object } = watch.next::<Value>().await?;
        let event: Event = understood(&object)?;
        // Old events make room for new ones; that is no news.
        if kind == "DELETED" || events.items.contains(&event) {
            continue;
        }
        let text = match output {
            Output::Json => pretty(&object),
            Output::Name => format!("event/{}\n", event.metadata.name),
            Output::Table | Output::Wide => table.row(&event_row(&event, WallTime::now())),
        };
        output::print(&text)?;
    }
}

const EVENT_HEAD: &[&str] = &["LAST SEEN", "TYPE", "REASON", "OBJECT", "COUNT", "MESSAGE"];

fn event_row(event: &Event, now: WallTime) -> Vec<String> {
    let object = &event.involved_object;
    let is_default = object.namespace.is_empty() || object.namespace == "default";
    let name = if is_default {
        format!("{}/{}", object.kind.to_lowercase(), object.name)
    } else {
        format!("{}/{}/{}", object.kind.to_lowercase(), object.namespace, object.name)
    };
    vec![
        time::age(Some(&event.last_timestamp), now),
        event.severity.clone(),
        event.reason.clone(),
        name,
        event.count.to_string(),
        output::clean(&event.message).replace('\n', " "),
    ]
}

#[cfg(test)]
mod tests;
