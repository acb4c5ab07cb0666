//! `pods/{name}/log`: what a container printed, from the log files that its executor writes.
//!
//! A follower waits for two things: inotify(7), which tells that there may be more to read, and
//! the agent's snapshots, which tell that the run has ended. Whether it has is asked before the
//! files are read to their end, so nothing is missed.

mod changes;
mod files;
mod lines;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::body::{self, Sender};
use super::failure::Failure;
use super::query::{Query, RawQuery};
use super::routes::{Shared, find};
use crate::agent::service::{ContainerStatus, PodView, RecordPhase, Snapshot};
use crate::clock::WallTime;
use crate::ids::{Attempt, ContainerName, PodId};
use changes::Changes;
use files::Reader;
use lines::{Form, Lines};

/// Answers a request for a log.
pub(super) async fn answer(
    State(shared): State<Arc<Shared>>,
    Path((namespace, name)): Path<(String, String)>,
    query: RawQuery,
) -> Result<Response, Failure> {
    let query = Query::of(query)?;
    let snapshot = shared.service.snapshot();
    let view = find(&snapshot, &namespace, &name)?;
    let container = container(view, query.text("container"))?;
    let paths = snapshot.agent.paths.pod(view.record.id, &view.record.name);
    let directory = paths.container_logs(&container);
    let mut standing = Standing::of(view, &container);
    if standing.newest.is_none() && view.report.is_none() {
        // Its executor has not said yet; the files know as well.
        let directory = directory.clone();
        let newest = tokio::task::spawn_blocking(move || files::newest_run(&directory)).await;
        standing.newest = newest.unwrap_or_default();
        standing.previous = standing.previous.or(standing.newest.and_then(before));
    }
    let wanted = Wanted {
        follow: query.flag("follow")?,
        tail: query.number("tailLines")?,
        form: form(&query)?,
        run: standing.run(view, &container, query.flag("previous")?)?,
        directory,
        pod: view.record.id,
        container,
    };
    if wanted.run.is_none() && !wanted.follow {
        let text = format!(
            "container {:?} in pod {name:?} is waiting to start: ContainerCreating",
            wanted.container
        );
        return Err(Failure::bad_request(text));
    }
    let (sender, body) = body::channel();
    tokio::spawn(async move {
        if let Err(error) = send(&shared, wanted, &sender).await {
            tracing::debug!(%error, "a log can't be read");
            // The client sees that it broke off.
            sender.send(Err(error)).await.ok();
        }
    });
    Ok(([(CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response())
}

/// What a request asks for.
#[derive(Debug)]
struct Wanted {
    pod: PodId,
    container: ContainerName,
    /// None if it has not run yet.
    run: Option<Attempt>,
    directory: PathBuf,
    follow: bool,
    tail: Option<u64>,
    form: Form,
}

fn form(query: &Query) -> Result<Form, Failure> {
    let nanos = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    let since = match (query.number("sinceSeconds")?, query.text("sinceTime")) {
        (Some(_), Some(_)) => {
            return Err(Failure::bad_request(
                "only one of sinceSeconds and sinceTime may be given",
            ));
        }
        (Some(seconds), None) => {
            let span = nanos(Duration::from_secs(seconds));
            Some(WallTime(WallTime::now().0.saturating_sub(span)))
        }
        (None, Some(text)) => {
            let refused =
                |error| Failure::bad_request(format!("sinceTime is `{text}`: {error} (RFC 3339)"));
            let time = humantime::parse_rfc3339(text).map_err(refused)?;
            Some(WallTime(time.duration_since(UNIX_EPOCH).map(nanos).unwrap_or(0)))
        }
        (None, None) => None,
    };
    let limit = query.number("limitBytes")?;
    if limit == Some(0) {
        return Err(Failure::bad_request("limitBytes must be greater than 0"));
    }
    Ok(Form { timestamps: query.flag("timestamps")?, since, limit })
}

/// Which container is meant; a pod of one needs no name for it, whatever comes before it.
pub(super) fn container(view: &PodView, wanted: Option<&str>) -> Result<ContainerName, Failure> {
    let (main, init): (Vec<&ContainerName>, Vec<&ContainerName>) = match (&view.spec, &view.report)
    {
        (Some(spec), _) => (
            spec.containers.iter().map(|container| &container.name).collect(),
            spec.init_containers.iter().map(|container| &container.name).collect(),
        ),
        (None, Some(report)) => {
            (report.containers.iter().map(|report| &report.name).collect(), Vec::new())
        }
        (None, None) => Default::default(),
    };
    let pod = &view.record.name.name;
    let words = |names: &[&ContainerName]| {
        format!("[{}]", names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" "))
    };
    let all = || match init.as_slice() {
        [] => words(&main),
        init => format!("{} or one of the init containers: {}", words(&main), words(init)),
    };
    match (wanted, main.as_slice()) {
        (Some(wanted), _) => {
            let found = main.iter().chain(&init).find(|name| name.as_str() == wanted);
            found.map(|name| (*name).clone()).ok_or_else(|| {
                let text = format!("container {wanted:?} is not valid for pod {pod:?}: it has");
                Failure::bad_request(format!("{text} {}", all()))
            })
        }
        (None, [only]) => Ok((*only).clone()),
        (None, _) => {
            let text = format!("a container name must be specified for pod {pod}, choose one of:");
            Err(Failure::bad_request(format!("{text} {}", all())))
        }
    }
}

/// Where a container stands, as far as its log is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Standing {
    newest: Option<Attempt>,
    /// Whether the newest run has ended and everything that it printed is in its log.
    ended: bool,
    previous: Option<Attempt>,
}

impl Standing {
    fn of(view: &PodView, container: &ContainerName) -> Self {
        if let RecordPhase::Finished { containers, .. } = &view.record.phase {
            let newest = containers.get(container).map(|last| last.attempt);
            return Self { newest, ended: true, previous: newest.and_then(before) };
        }
        let reports = view.report.iter().flat_map(|report| &report.containers);
        let Some(report) = reports.into_iter().find(|report| report.name == *container) else {
            return Self { newest: None, ended: false, previous: None };
        };
        let last = report.last.as_ref().map(|last| last.attempt);
        let (ended, previous) = match &report.status {
            ContainerStatus::Creating
            | ContainerStatus::Running { .. }
            | ContainerStatus::Stopping { .. }
            | ContainerStatus::Recording { .. } => (false, last),
            // Kubernetes: what is waited for is the current one, what ended is the previous one.
            ContainerStatus::BackingOff { .. } => (true, last),
            ContainerStatus::Terminated => (true, report.attempt.and_then(before)),
        };
        Self { newest: report.attempt, ended, previous }
    }

    /// Which run is meant: the newest, or the last one that ended before it. None if there is none
    /// yet.
    fn run(
        self,
        view: &PodView,
        container: &ContainerName,
        previous: bool,
    ) -> Result<Option<Attempt>, Failure> {
        if !previous {
            return Ok(self.newest);
        }
        self.previous.map(Some).ok_or_else(|| {
            let pod = &view.record.name.name;
            let text = "previous terminated container";
            Failure::bad_request(format!("{text} {container:?} in pod {pod:?} not found"))
        })
    }
}

/// The run before.
fn before(run: Attempt) -> Option<Attempt> {
    run.0.checked_sub(1).map(Attempt)
}

impl Wanted {
    fn standing(&self, snapshot: &Snapshot) -> Option<Standing> {
        let view = snapshot.pods.iter().find(|view| view.record.id == self.pod)?;
        Some(Standing::of(view, &self.container))
    }

    /// Whether the run will print no more.
    fn has_ended(&self, run: Attempt, snapshot: &Snapshot) -> bool {
        self.standing(snapshot).is_none_or(|standing| match standing.newest {
            Some(newest) => newest > run || standing.ended,
            None => standing.ended,
        })
    }
}

async fn send(shared: &Shared, wanted: Wanted, sender: &Sender) -> std::io::Result<()> {
    let mut snapshots = shared.service.subscribe();
    let mut run = wanted.run;
    // It has not run yet, and is followed.
    while run.is_none() {
        let standing = wanted.standing(&snapshots.borrow_and_update());
        match standing {
            None => return Ok(()),
            Some(Standing { newest: Some(newest), .. }) => run = Some(newest),
            Some(Standing { ended: true, .. }) => return Ok(()),
            Some(Standing { newest: None, .. }) => {
                tokio::select! {
                    // Cancel-safe: a change that was not waited for is unseen at the next call.
                    changed = snapshots.changed() => if changed.is_err() { return Ok(()) },
                    () = sender.closed() => return Ok(()),
                }
            }
        }
    }
    let Some(run) = run else { return Ok(()) };
    let lines = Lines::new(wanted.form);
    let mut reader = Reader::new(wanted.directory.clone(), run, wanted.tail, lines);
    let mut changes = wanted.follow.then(|| Changes::of(wanted.directory.clone())).transpose()?;
    loop {
        let ended = !wanted.follow || wanted.has_ended(run, &snapshots.borrow_and_update());
        if let Some(changes) = &mut changes {
            changes.begin()?;
        }
        let (whole, text) = read_to_end(reader, sender, ended).await?;
        reader = whole;
        let is_unread = !text.is_empty() && sender.send(Ok(text.into())).await.is_err();
        if is_unread || ended || reader.is_full() {
            return Ok(());
        }
        let Some(changes) = &mut changes else { return Ok(()) };
        tokio::select! {
            // Cancel-safe: as above; what inotify has told stays readable.
            changed = snapshots.changed() => if changed.is_err() { return Ok(()) },
            changed = changes.next() => changed?,
            () = sender.closed() => return Ok(()),
        }
    }
}

/// Sends everything that is there; what comes last is returned, with the end of a line that has
/// none if there will be no more.
async fn read_to_end(
    mut reader: Reader,
    sender: &Sender,
    ended: bool,
) -> std::io::Result<(Reader, Vec<u8>)> {
    loop {
        let step;
        // A slow disk must not hold up others.
        (reader, step) = tokio::task::spawn_blocking(move || {
            let step = reader.step(ended);
            (reader, step)
        })
        .await
        .map_err(std::io::Error::other)?;
        let step = step?;
        if step.at_end || reader.is_full() {
            return Ok((reader, step.text));
        }
        if !step.text.is_empty() && sender.send(Ok(step.text.into())).await.is_err() {
            // Nobody reads it any more; the caller sees that too.
            return Ok((reader, Vec::new()));
        }
    }
}

#[cfg(test)]
mod tests;
