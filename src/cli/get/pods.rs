//! `roost get pods`.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior};

use super::{
    as_list, encoded, field, pods_path, structured, structured_next, understood, with_query,
};
use crate::api::kubernetes::pod::SOURCE_ANNOTATION;
use crate::api::kubernetes::types::{
    Condition, ContainerState, ContainerStatus, List, Pod, WatchEvent,
};
use crate::api::overview::Overview;
use crate::cli::advice::name_of;
use crate::cli::args::{Output, PodsArgs, Which};
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::screen::{Screen, Size, Tone};
use crate::cli::table::{Cell, Table};
use crate::cli::{output, time};
use crate::clock::WallTime;
use crate::ids::{Namespace, PodName};

/// How often a live table shows new ages.
const TICK: Duration = Duration::from_secs(1);

/// Lists pods.
pub(in crate::cli) async fn run(
    client: &Client,
    screen: Screen,
    args: &PodsArgs,
) -> Result<(), Failure> {
    let PodsArgs { name, which, output, watch } = args;
    let asked = Asked::of(name.as_deref(), which)?;
    let mut overview = Ok(None);
    let (objects, pods) = match output {
        Output::Json | Output::Yaml => {
            let list = asked.list::<Value>(client).await?;
            let pods = list.items.iter().map(understood).collect::<Result<Vec<Listed>, _>>()?;
            (Value::Array(list.items), pods)
        }
        Output::Name => (Value::Null, asked.list::<Listed>(client).await?.items),
        // Both are asked for at once: half of the time is the agent's.
        Output::Table | Output::Wide => {
            let (list, more) = tokio::join!(asked.list::<Listed>(client), asked.overview(client));
            overview = more;
            (Value::Null, list?.items)
        }
    };
    let columns = Columns::of(*output, &pods, asked.is_everywhere());
    let has_table = matches!(output, Output::Table | Output::Wide);
    if *watch && has_table && screen.is_live {
        return live(client, screen, &asked, columns, pods.len()).await;
    }
    let mut view = View { output: *output, screen, columns, table: None };
    view.first(&objects, &pods, asked.name.is_some())?;
    if has_table {
        remark(screen, &asked, &pods, overview?);
    }
    if !*watch {
        return Ok(());
    }
    let mut watch = client.watch(&asked.watch_path()).await?;
    loop {
        let WatchEvent { kind, object } = watch.next::<Value>().await?;
        let pod: Listed = understood(&object)?;
        let is_listed = pods.iter().any(|listed| {
            let (known, new) = (&listed.metadata, &pod.metadata);
            known.uid == new.uid && known.resource_version == new.resource_version
        });
        if kind == "ADDED" && is_listed {
            continue;
        }
        view.next(&object, &pod)?;
    }
}

/// A pod as a table shows it. Whole objects of hundreds of pods would be most of the time that a
/// list takes.
pub(super) type Listed = Pod<IgnoredAny>;

/// Which pods are asked for.
pub(super) struct Asked {
    pub(super) name: Option<PodName>,
    namespace: Option<Namespace>,
    all_namespaces: bool,
    selector: Option<String>,
}

impl Asked {
    pub(super) fn of(name: Option<&str>, which: &Which) -> Result<Self, Failure> {
        let Which { space, selector } = which;
        let name = name.map(|name| space.namespace.pod(name)).transpose()?;
        let given = space.namespace.namespace.clone();
        let namespace = name.as_ref().map(|name| name.namespace.clone()).or(given);
        let selector = selector.as_ref().map(|text| format!("labelSelector={}", encoded(text)));
        Ok(Self { name, namespace, all_namespaces: space.all_namespaces, selector })
    }

    /// The pods; of several instances of one that is named the youngest counts, as when it is asked
    /// for by its name.
    pub(super) async fn list<T: DeserializeOwned>(
        &self,
        client: &Client,
    ) -> Result<List<T>, Failure> {
        let mut list: List<T> = client.get(&self.path(None)).await?;
        if let Some(name) = &self.name {
            let youngest = list.items.pop().ok_or_else(|| Failure::not_found(name))?;
            list.items = vec![youngest];
        }
        Ok(list)
    }

    /// How the agent is, which says what a list can't show; only if nothing was left out of it.
    async fn overview(&self, client: &Client) -> Result<Option<Overview>, Failure> {
        if self.is_all() { client.get("/roost/v1/status").await.map(Some) } else { Ok(None) }
    }

    fn watch_path(&self) -> String {
        self.path(Some("watch=true".to_owned()))
    }

    fn path(&self, watch: Option<String>) -> String {
        let name = self.name.as_ref().map(|name| field("metadata.name", &name.name));
        with_query(&pods_path(self.namespace.as_ref()), &[name, self.selector.clone(), watch])
    }

    pub(super) fn is_everywhere(&self) -> bool {
        self.all_namespaces
    }

    /// Whether nothing at all was left out.
    fn is_all(&self) -> bool {
        self.name.is_none() && self.namespace.is_none() && self.selector.is_none()
    }
}

/// How the list is shown, and goes on being shown while it is watched.
struct View {
    output: Output,
    screen: Screen,
    columns: Columns,
    table: Option<Table>,
}

impl View {
    /// `objects` are there if objects are wanted.
    fn first(&mut self, objects: &Value, pods: &[Listed], is_one: bool) -> Result<(), Failure> {
        let all = || if is_one { objects[0].clone() } else { as_list(objects) };
        if !objects.is_null()
            && let Some(text) = structured(self.output, &all())
        {
            return output::print(&text);
        }
        if self.output == Output::Name {
            let names = pods.iter().map(|pod| format!("{}\n", full_name(pod)));
            return output::print(&names.collect::<String>());
        }
        if pods.is_empty() {
            return Ok(());
        }
        let rows: Vec<_> = pods.iter().map(|pod| self.columns.row(pod, WallTime::now())).collect();
        let (table, text) = Table::render(self.screen, &self.columns.head(), &rows);
        self.table = Some(table);
        output::print(&text)
    }

    fn next(&mut self, object: &Value, pod: &Listed) -> Result<(), Failure> {
        if let Some(text) = structured_next(self.output, object) {
            return output::print(&text);
        }
        if self.output == Output::Name {
            return output::print(&format!("{}\n", full_name(pod)));
        }
        let row = self.columns.row(pod, WallTime::now());
        let text = match &self.table {
            Some(table) => table.row(&row),
            None => {
                let (table, text) = Table::render(self.screen, &self.columns.head(), &[row]);
                self.table = Some(table);
                text
            }
        };
        output::print(&text)
    }
}

/// Shows a table that is always up to date, until it is interrupted; for the first time when it has
/// as many pods as there were.
async fn live(
    client: &Client,
    screen: Screen,
    asked: &Asked,
    columns: Columns,
    expected: usize,
) -> Result<(), Failure> {
    let mut watch = client.watch(&asked.watch_path()).await?;
    let mut shown = Live { screen, columns, pods: BTreeMap::new(), lines: 0 };
    let mut tick = tokio::time::interval_at(Instant::now() + TICK, TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_whole = false;
    loop {
        tokio::select! {
            // Cancel-safe: what has been read of a change stays in the watch.
            change = watch.next::<Listed>() => {
                shown.take(change?);
                is_whole |= shown.pods.len() >= expected;
            }
            // Cancel-safe: ticks are not lost. One that has gone meanwhile is not waited for.
            _ = tick.tick() => is_whole = true,
        }
        if !is_whole {
            continue;
        }
        output::print(&shown.draw(Size::of(io::stdout()), WallTime::now()))?;
    }
}

/// A table that is drawn over itself.
pub(super) struct Live {
    pub(super) screen: Screen,
    pub(super) columns: Columns,
    /// By namespace, name, and since when there is the instance.
    pub(super) pods: BTreeMap<(String, String, Option<String>, String), Listed>,
    /// Lines of it on the screen.
    pub(super) lines: usize,
}

impl Live {
    pub(super) fn take(&mut self, change: WatchEvent<Listed>) {
        let WatchEvent { kind, object } = change;
        let meta = object.metadata.clone();
        let key = (meta.namespace, meta.name, meta.creation_timestamp, meta.uid);
        self.columns.namespace |= key.0 != "default";
        if kind == "DELETED" {
            self.pods.remove(&key);
        } else {
            self.pods.insert(key, object);
        }
    }

    /// What puts the new table over the old one. Its lines must not wrap, and not scroll away.
    pub(super) fn draw(&mut self, size: Size, now: WallTime) -> String {
        // The head, the line that says what does not fit, and the one that the cursor is in.
        let room = size.rows.saturating_sub(3).max(1);
        let rows: Vec<_> =
            self.pods.values().take(room).map(|pod| self.columns.row(pod, now)).collect();
        let head = self.columns.head();
        let (_, mut table) = Table::render_within(self.screen, Some(size.columns), &head, &rows);
        if self.pods.len() > rows.len() {
            let more = format!("… and {} more", self.pods.len() - rows.len());
            table.push_str(&self.screen.paint(Tone::Dim, &more));
            table.push('\n');
        }
        // To the first line of the old one, and nothing below (ECMA-48: CPL, ED).
        let back = match self.lines {
            0 => String::new(),
            lines => format!("\u{1b}[{lines}F\u{1b}[J"),
        };
        self.lines = table.lines().count();
        back + &table
    }
}

fn full_name(pod: &Listed) -> String {
    let name = match pod.metadata.namespace.as_str() {
        "default" => format!("pod/{}", pod.metadata.name),
        // As names are given to this program.
        namespace => format!("pod/{namespace}/{}", pod.metadata.name),
    };
    output::clean_line(&name)
}

/// Says what a table can't show.
fn remark(screen: Screen, asked: &Asked, pods: &[Listed], overview: Option<Overview>) {
    let warning = Tone::Warning.paint("warning:", screen.error_colors);
    let troubled = pods.iter().filter(|pod| pod.status.message.is_some());
    for name in troubled.filter_map(name_of) {
        output::note(&format!(
            "{warning} something is wrong with {name}; `roost describe pod {name}` says what"
        ));
    }
    if pods.is_empty() {
        match &asked.namespace {
            Some(namespace) => output::note(&format!("No pods found in namespace {namespace}.")),
            None => output::note("No pods found."),
        }
    }
    if let Some(overview) = overview {
        for alarm in &overview.alarms {
            output::note(&format!("{warning} {}", output::clean_line(alarm)));
        }
        match overview.faults.len() {
            0 => {}
            1 => output::note(&format!("{warning} a manifest has faults: `roost status`")),
            n => output::note(&format!("{warning} {n} manifests have faults: `roost status`")),
        }
    }
}

/// Which columns a table of pods has.
#[derive(Debug, Clone)]
pub(super) struct Columns {
    namespace: bool,
    wide: bool,
    /// The name of the machine that the agent is on: this one.
    pub(super) node: String,
}

impl Columns {
    pub(super) fn of<S>(output: Output, pods: &[Pod<S>], everywhere: bool) -> Self {
        let namespace = everywhere || pods.iter().any(|pod| pod.metadata.namespace != "default");
        let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { namespace, wide: output == Output::Wide, node }
    }

    pub(super) fn head(&self) -> Vec<&'static str> {
        let namespace = self.namespace.then_some("NAMESPACE");
        let wide: &[&str] =
            if self.wide { &["IP", "NODE", "REVISION", "UID", "PIDS", "MANIFEST"] } else { &[] };
        namespace
            .into_iter()
            .chain(["NAME", "READY", "STATUS", "RESTARTS", "AGE"])
            .chain(wide.iter().copied())
            .collect()
    }

    pub(super) fn row<S>(&self, pod: &Pod<S>, now: WallTime) -> Vec<Cell> {
        let containers: Vec<&ContainerStatus> = pod.status.lasting_containers().collect();
        let ready = containers.iter().filter(|container| container.ready).count();
        let mut row: Vec<Cell> = Vec::new();
        if self.namespace {
            row.push(pod.metadata.namespace.as_str().into());
        }
        let status = status(pod);
        let tone = tone(&status, ready == containers.len());
        row.extend([
            pod.metadata.name.as_str().into(),
            format!("{ready}/{}", containers.len()).into(),
            Cell::toned(tone, &status),
            restarts(pod, now).into(),
            time::age(pod.metadata.creation_timestamp.as_deref(), now).into(),
        ]);
        if self.wide {
            let pids = containers.iter().filter_map(|container| container.roost.as_ref()?.pid);
            let pids: Vec<String> = pids.map(|pid| pid.to_string()).collect();
            let pids = if pids.is_empty() { "<none>".to_owned() } else { pids.join(",") };
            let source =
                pod.metadata.annotations.get(SOURCE_ANNOTATION).cloned().unwrap_or_default();
            row.extend([
                // Not done: no pod has an address of its own, because there is no network of pods.
                "<none>".into(),
                self.node.as_str().into(),
                pod.metadata.generation.to_string().into(),
                pod.metadata.uid.as_str().into(),
                pids.into(),
                source.into(),
            ]);
        }
        row
    }
}

/// What a status means to whoever looks after the pod.
pub(in crate::cli) fn tone(status: &str, is_ready: bool) -> Tone {
    match status {
        "Running" if is_ready => Tone::Good,
        "Running" => Tone::Warning,
        "Completed" | "Succeeded" => Tone::Dim,
        "Pending"
        | "ContainerCreating"
        | "PodInitializing"
        | "Terminating"
        | "Unknown"
        | "ContainerStatusUnknown"
        | "RecordingExit" => Tone::Warning,
        // What kubectl shows that begins so is under way.
        init if init.starts_with("Init:") && !init.contains("Error") && !init.contains("Crash") => {
            Tone::Warning
        }
        _ => Tone::Bad,
    }
}

/// The rules are those of kubectl's table of pods.
pub(in crate::cli) fn status<S>(pod: &Pod<S>) -> String {
    if pod.metadata.deletion_timestamp.is_some() {
        return "Terminating".to_owned();
    }
    // How its containers ended is of little interest then.
    if pod.status.reason.as_deref() == Some("Evicted") {
        return "Evicted".to_owned();
    }
    if let Some(status) = initialization(pod) {
        return status;
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

/// How far the initialization is, as long as it is not over.
fn initialization<S>(pod: &Pod<S>) -> Option<String> {
    let of_kind = |condition: &&Condition| condition.kind == "Initialized";
    if pod.status.conditions.iter().find(of_kind).is_none_or(|found| found.status == "True") {
        return None;
    }
    let all = &pod.status.init_container_statuses;
    let is_done = |it: &ContainerStatus| {
        let end = it.state.terminated.as_ref();
        end.is_some_and(|end| end.exit_code == 0) || (it.is_sidecar() && it.started)
    };
    let (index, undone) = all.iter().enumerate().find(|(_, container)| !is_done(container))?;
    let ContainerState { waiting, running: _, terminated } = &undone.state;
    if let Some(end) = terminated {
        return Some(format!("Init:{}", end.reason));
    }
    match waiting.as_ref().map(|waiting| waiting.reason.as_str()) {
        // There is nothing of it yet.
        Some("Pending") => Some("Pending".to_owned()),
        Some(reason) if reason != "PodInitializing" && reason != "ContainerCreating" => {
            Some(format!("Init:{reason}"))
        }
        Some(_) | None => Some(format!("Init:{index}/{}", all.len())),
    }
}

fn restarts<S>(pod: &Pod<S>, now: WallTime) -> String {
    let status = &pod.status;
    // As kubectl has it: until the pod is initialized, what counts is that.
    let containers: Vec<&ContainerStatus> = match initialization(pod) {
        Some(_) => status.init_container_statuses.iter().collect(),
        None => pod.status.lasting_containers().collect(),
    };
    let count: u64 = containers.iter().map(|container| u64::from(container.restart_count)).sum();
    let ends = containers.iter().filter(|container| container.restart_count > 0);
    let ends = ends.filter_map(|c| c.last_state.terminated.as_ref()?.finished_at.as_deref());
    restarts_text(count, ends.max(), now)
}

/// How often, and how long ago it was.
pub(super) fn restarts_text(count: u64, last: Option<&str>, now: WallTime) -> String {
    match last {
        Some(last) if count > 0 => format!("{count} ({} ago)", time::age(Some(last), now)),
        Some(_) | None => count.to_string(),
    }
}
