//! [`body`]: the changes of objects, one JSON object a line, for as long as the client wants.
//!
//! What is sent is the difference between what the client knows and what there is; a client that
//! reads slowly misses intermediate states, never the last one, and delays nobody.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper::body::Bytes;
use serde::Serialize;

use super::body::{self, Sender};
use super::failure::Failure;
use super::kubernetes::{event, pod, types::WatchEvent};
use super::query::{Query, Selector};
use super::routes::Shared;
use crate::agent::service::{EventRecord, PodView, Snapshot};

/// Which objects.
#[derive(Debug, Clone)]
pub(super) enum What {
    /// Pods.
    Pods(Selector),
    /// Events.
    Events(Selector),
}

/// From where, and until when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    /// The list that the client has; none to begin with everything.
    from: Option<u64>,
    /// When to end.
    limit: Option<Duration>,
}

impl Span {
    /// The span that a request asks for.
    pub(super) fn of(query: &Query) -> Result<Self, Failure> {
        Ok(Self {
            // 0 means any state (API concepts: resource versions).
            from: query.number("resourceVersion")?.filter(|version| *version > 0),
            limit: query.number("timeoutSeconds")?.map(Duration::from_secs),
        })
    }
}

/// One object, cheap to keep.
#[derive(Debug, Clone)]
pub(super) enum Object {
    Pod(Arc<PodView>),
    Event(Arc<EventRecord>),
}

/// What the client knows: of each object which state of it.
type Known = HashMap<u64, (u64, Object)>;

/// The body of the answer to a watch.
pub(super) fn body(shared: &Arc<Shared>, what: What, span: Span) -> Body {
    let (sender, body) = body::channel();
    let shared = shared.clone();
    tokio::spawn(async move { run(&shared, &what, span, &sender).await });
    body
}

async fn run(shared: &Shared, what: &What, span: Span, sender: &Sender) {
    let mut snapshots = shared.service.subscribe();
    let mut known = Known::new();
    if let Some(from) = span.from {
        let snapshot = snapshots.borrow_and_update().clone();
        if from != snapshot.version {
            // What went since then is not remembered, so the client has to list anew.
            let text = format!("too old resource version: {from} ({})", snapshot.version);
            let line = line("ERROR", &Failure::expired(text).status());
            drop(sender.send(Ok(line.into())).await);
            return;
        }
        known = what.of(&snapshot);
    }
    let end = async {
        match span.limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(end);
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        let lines = what.difference(&mut known, shared, &snapshot);
        if !lines.is_empty() && sender.send(Ok(Bytes::from(lines))).await.is_err() {
            return;
        }
        tokio::select! {
            // Cancel-safe: a change that was not waited for is still unseen at the next call.
            changed = snapshots.changed() => if changed.is_err() { return },
            () = sender.closed() => return,
            () = &mut end => return,
        }
    }
}

impl What {
    /// The objects that are meant, by what tells them apart.
    fn of(&self, snapshot: &Snapshot) -> Known {
        match self {
            Self::Pods(selector) => pods(snapshot, selector)
                .map(|view| {
                    let id = view.record.id.as_u128();
                    // Random bits: half of them do as well.
                    let key = u64::try_from(id & u128::from(u64::MAX)).unwrap_or_default();
                    (key, (view.version, Object::Pod(view.clone())))
                })
                .collect(),
            Self::Events(selector) => events(snapshot, selector)
                .map(|record| {
                    let key = event::identity(record);
                    (key, (record.count.into(), Object::Event(record.clone())))
                })
                .collect(),
        }
    }

    /// What changed, as lines; `known` is brought up to date.
    fn difference(&self, known: &mut Known, shared: &Shared, snapshot: &Snapshot) -> Vec<u8> {
        let mut now = self.of(snapshot);
        std::mem::swap(known, &mut now);
        let mut before = now;
        let mut changed: Vec<(&str, u64, Object)> = Vec::new();
        for (key, (version, object)) in known.iter() {
            match before.remove(key) {
                None => changed.push(("ADDED", *version, object.clone())),
                Some((old, _)) if old != *version => {
                    changed.push(("MODIFIED", *version, object.clone()));
                }
                Some(_) => {}
            }
        }
        // As they were last.
        let gone = before.into_values().map(|(version, object)| ("DELETED", version, object));
        let mut changes: Vec<(&str, u64, Object)> = gone.collect();
        changed.sort_by_key(|(_, version, _)| *version);
        changes.extend(changed);
        let mut lines = Vec::new();
        for (kind, _, object) in changes {
            lines.extend(match object {
                Object::Pod(view) => line(kind, &pod::of(&view, &shared.context(snapshot))),
                Object::Event(record) => line(kind, &event::of(&record, &shared.context(snapshot))),
            });
        }
        lines
    }
}

/// The pods that are meant, in order.
pub(super) fn pods<'a>(
    snapshot: &'a Snapshot,
    selector: &'a Selector,
) -> impl Iterator<Item = &'a Arc<PodView>> {
    snapshot.pods.iter().filter(|view| {
        let name = &view.record.name;
        let labels = view.spec.as_deref().map(|spec| &spec.labels);
        selector.matches(name.namespace.as_str(), labels, |field| match field {
            "metadata.namespace" => name.namespace.to_string(),
            _ => name.name.to_string(),
        })
    })
}

/// What a field selector of pods may ask for.
pub(super) const POD_FIELDS: &[&str] = &["metadata.name", "metadata.namespace"];

/// The events that are meant, oldest first.
pub(super) fn events<'a>(
    snapshot: &'a Snapshot,
    selector: &'a Selector,
) -> impl Iterator<Item = &'a Arc<EventRecord>> {
    snapshot.events.iter().filter(|event| {
        let pod = event.pod.as_ref();
        let namespace = pod.map_or("default", |pod| pod.namespace.as_str());
        let of_pod =
            |text: &dyn Fn(&crate::ids::PodName) -> String| pod.map(text).unwrap_or_default();
        selector.matches(namespace, None, |field| match field {
            "involvedObject.name" => of_pod(&|pod| pod.name.to_string()),
            "involvedObject.namespace" => of_pod(&|pod| pod.namespace.to_string()),
            "involvedObject.uid" => event.id.map(|id| id.to_string()).unwrap_or_default(),
            "reason" => event.reason.clone(),
            "type" => event::severity(event).to_owned(),
            _ => if pod.is_some() { "Pod" } else { "Node" }.to_owned(),
        })
    })
}

/// What a field selector of events may ask for.
pub(super) const EVENT_FIELDS: &[&str] = &[
    "involvedObject.name",
    "involvedObject.namespace",
    "involvedObject.uid",
    "involvedObject.kind",
    "reason",
    "type",
];

fn line<T: Serialize>(kind: &str, object: &T) -> Vec<u8> {
    let event = WatchEvent { kind: kind.to_owned(), object };
    let mut line = serde_json::to_vec(&event).expect("these types have string keys only");
    line.push(b'\n');
    line
}
