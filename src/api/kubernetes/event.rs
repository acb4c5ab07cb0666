//! [`of`]: something that happened, as Kubernetes' `Event`.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::Context;
use super::types::{Event, EventSource, ObjectMeta, ObjectReference};
use crate::agent::service::{EventKind, EventRecord};

/// Who makes the events.
pub const COMPONENT: &str = "roost";

/// The event.
#[must_use]
pub fn of(record: &EventRecord, context: &Context) -> Event {
    let EventRecord { first_at, at, pod, id, kind: _, reason, message, count } = record;
    let object = match pod {
        Some(pod) => ObjectReference {
            kind: "Pod".to_owned(),
            api_version: "v1".to_owned(),
            name: pod.name.to_string(),
            namespace: pod.namespace.to_string(),
            uid: id.map(|id| id.to_string()).unwrap_or_default(),
        },
        None => ObjectReference {
            kind: "Node".to_owned(),
            api_version: "v1".to_owned(),
            name: context.node.clone(),
            namespace: String::new(),
            uid: String::new(),
        },
    };
    Event {
        kind: "Event".to_owned(),
        api_version: "v1".to_owned(),
        metadata: ObjectMeta {
            name: format!("{}.{:016x}", object.name, identity(record)),
            // As in Kubernetes, what has no namespace has its events in `default`.
            namespace: pod.as_ref().map_or("default", |pod| pod.namespace.as_str()).to_owned(),
            resource_version: count.to_string(),
            creation_timestamp: Some(first_at.rfc3339()),
            ..ObjectMeta::default()
        },
        involved_object: object,
        reason: reason.clone(),
        message: message.clone(),
        source: EventSource { component: COMPONENT.to_owned(), host: context.node.clone() },
        first_timestamp: first_at.rfc3339(),
        last_timestamp: at.rfc3339(),
        count: *count,
        severity: severity(record).to_owned(),
    }
}

/// `type`.
#[must_use]
pub fn severity(record: &EventRecord) -> &'static str {
    match record.kind {
        EventKind::Normal => "Normal",
        EventKind::Warning => "Warning",
    }
}

/// What tells the event from others; stays the same when it happens again.
#[must_use]
pub fn identity(record: &EventRecord) -> u64 {
    let mut hasher = DefaultHasher::new();
    (record.first_at, &record.pod, record.id, &record.reason, &record.message).hash(&mut hasher);
    hasher.finish()
}
