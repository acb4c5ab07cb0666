//! `roost get containers`.

use serde_json::Value;

use super::pods::{Asked, Listed, restarts_text, tone};
use super::{as_list, structured};
use crate::api::kubernetes::types::{ContainerStatus, Pod};
use crate::cli::args::{ContainersArgs, Output};
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::screen::Screen;
use crate::cli::table::{Cell, Table};
use crate::cli::{output, time};
use crate::clock::WallTime;

/// Lists the containers of pods.
pub(in crate::cli) async fn run(
    client: &Client,
    screen: Screen,
    args: &ContainersArgs,
) -> Result<(), Failure> {
    let ContainersArgs { name, which, output } = args;
    let asked = Asked::of(name.as_deref(), which)?;
    if matches!(output, Output::Json | Output::Yaml) {
        let pods = asked.list::<Value>(client).await?.items;
        return output::print(&structured(*output, &objects(&pods)).unwrap_or_default());
    }
    let pods = asked.list::<Listed>(client).await?.items;
    if *output == Output::Name {
        return output::print(&names(&pods));
    }
    if pods.iter().all(|pod| pod.status.all_containers().next().is_none()) {
        output::note("No containers found.");
        return Ok(());
    }
    let everywhere = asked.is_everywhere();
    output::print(&text(screen, *output, &pods, everywhere, WallTime::now()))
}

/// Each container's status, with the pod that it belongs to.
pub(super) fn objects(pods: &[Value]) -> Value {
    let mut items = Vec::new();
    for pod in pods {
        let status = &pod["status"];
        let kinds =
            ["initContainerStatuses", "containerStatuses"].map(|kind| status[kind].as_array());
        for status in kinds.into_iter().flatten().flatten() {
            let mut item = status.clone();
            item["kind"] = "Container".into();
            for (name, key) in [("pod", "name"), ("namespace", "namespace"), ("podUID", "uid")] {
                item[name] = pod["metadata"][key].clone();
            }
            items.push(item);
        }
    }
    as_list(&items.into())
}

fn names(pods: &[Listed]) -> String {
    let mut text = String::new();
    for pod in pods {
        for container in pod.status.all_containers() {
            let name =
                format!("{}/{}/{}", pod.metadata.namespace, pod.metadata.name, container.name);
            text.push_str(&output::clean_line(&name));
            text.push('\n');
        }
    }
    text
}

pub(super) fn text<S>(
    screen: Screen,
    output: Output,
    pods: &[Pod<S>],
    everywhere: bool,
    now: WallTime,
) -> String {
    let namespace = everywhere || pods.iter().any(|pod| pod.metadata.namespace != "default");
    let mut head = vec!["POD", "NAME", "READY", "STATUS", "RESTARTS", "AGE"];
    if namespace {
        head.insert(0, "NAMESPACE");
    }
    if output == Output::Wide {
        head.extend(["PID", "EXIT", "IMAGE", "ID"]);
    }
    let mut rows = Vec::new();
    for pod in pods {
        for container in pod.status.all_containers() {
            let mut row = row(pod, container, now);
            if namespace {
                row.insert(0, pod.metadata.namespace.as_str().into());
            }
            if output == Output::Wide {
                row.extend(wide(container));
            }
            rows.push(row);
        }
    }
    Table::render(screen, &head, &rows).1
}

fn row<S>(pod: &Pod<S>, container: &ContainerStatus, now: WallTime) -> Vec<Cell> {
    let state = &container.state;
    let (status, since) = match (&state.waiting, &state.running, &state.terminated) {
        (Some(waiting), _, _) => (waiting.reason.as_str(), None),
        (None, Some(running), _) => ("Running", Some(running.started_at.as_str())),
        (None, None, Some(ended)) => (ended.reason.as_str(), ended.finished_at.as_deref()),
        (None, None, None) => ("Unknown", None),
    };
    let last = container.last_state.terminated.as_ref();
    let last = last.and_then(|last| last.finished_at.as_deref());
    let tone = tone(status, container.ready);
    vec![
        pod.metadata.name.as_str().into(),
        container.name.as_str().into(),
        if container.ready { "yes" } else { "no" }.into(),
        Cell::toned(tone, status),
        restarts_text(container.restart_count.into(), last, now).into(),
        since.map_or_else(|| "-".to_owned(), |since| time::age(Some(since), now)).into(),
    ]
}

fn wide(container: &ContainerStatus) -> [Cell; 4] {
    let none = || "<none>".to_owned();
    let pid = container.roost.as_ref().and_then(|extra| extra.pid);
    let ended = container.state.terminated.as_ref().or(container.last_state.terminated.as_ref());
    let image = if container.image.is_empty() { none() } else { container.image.clone() };
    [
        pid.map_or_else(none, |pid| pid.to_string()).into(),
        ended.map_or_else(none, |ended| ended.exit_code.to_string()).into(),
        image.into(),
        container.container_id.clone().unwrap_or_else(none).into(),
    ]
}
