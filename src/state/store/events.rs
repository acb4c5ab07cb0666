//! Events: what happened, for people to read; the newest [`EVENTS_MAX`] of them. PURE.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock::WallTime;
use crate::ids::{PodId, PodName};

/// Events kept.
pub const EVENTS_MAX: usize = 1000;
/// Longest [`EventRecord::message`] in bytes, as Kubernetes has it; what is longer is cut.
pub const EVENT_MESSAGE_LEN_MAX: usize = 1024;
/// Longest [`EventRecord::reason`] in bytes, as Kubernetes has it; what is longer is cut.
pub const EVENT_REASON_LEN_MAX: usize = 128;

/// Something that happened, once or repeatedly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// When it happened first.
    pub first_at: WallTime,
    /// When it happened last.
    pub at: WallTime,
    /// The pod it is about; none if it is about the node.
    pub pod: Option<PodName>,
    /// The instance it is about.
    pub id: Option<PodId>,
    /// Whether somebody should look at it.
    pub kind: EventKind,
    /// What happened, in one CamelCase word.
    pub reason: String,
    /// What happened, for people.
    pub message: String,
    /// How often.
    pub count: u32,
}

/// Kubernetes' `type` of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// As it should be.
    Normal,
    /// Somebody should look at it.
    Warning,
}

impl EventRecord {
    /// An event that happened once, at `at`.
    #[must_use]
    pub fn once(
        at: WallTime,
        about: Option<(&PodName, Option<PodId>)>,
        kind: EventKind,
        reason: &str,
        message: &str,
    ) -> Self {
        Self {
            first_at: at,
            at,
            pod: about.map(|(name, _)| name.clone()),
            id: about.and_then(|(_, id)| id),
            kind,
            reason: cut(reason, EVENT_REASON_LEN_MAX),
            message: cut(message, EVENT_MESSAGE_LEN_MAX),
            count: 1,
        }
    }

    /// Whether the other says the same of the same, at whatever time.
    #[must_use]
    pub fn repeats(&self, other: &Self) -> bool {
        let Self { first_at: _, at: _, pod, id, kind, reason, message, count: _ } = self;
        *pod == other.pod
            && *id == other.id
            && *kind == other.kind
            && *reason == other.reason
            && *message == other.message
    }
}

const ELLIPSIS: char = '…';

/// The text, or as much of its beginning as fits together with an ellipsis.
fn cut(text: &str, len_max: usize) -> String {
    if text.len() <= len_max {
        return text.to_owned();
    }
    let room = len_max - ELLIPSIS.len_utf8();
    let end = (0..=room).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let mut short = text[..end].to_owned();
    short.push(ELLIPSIS);
    short
}

/// The events by number; a number is given once, and the highest is the newest.
#[derive(Debug, Clone, Default)]
pub(super) struct EventRing {
    events: BTreeMap<u64, EventRecord>,
}

/// What [`EventRing::put`] did.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EventPut {
    /// The number the event got.
    pub(super) number: u64,
    /// The event as it is kept.
    pub(super) event: EventRecord,
    /// The number that is free now: of the event it repeats, or of the oldest.
    pub(super) removed: Option<u64>,
}

impl EventRing {
    pub(super) fn restored(events: BTreeMap<u64, EventRecord>) -> Self {
        Self { events }
    }

    pub(super) fn to_vec(&self) -> Vec<EventRecord> {
        self.events.values().cloned().collect()
    }

    /// Adds an event as the newest. One that is there already and says the same is replaced, and
    /// counted on; else the oldest makes room.
    pub(super) fn put(&mut self, event: &EventRecord) -> EventPut {
        let mut event = EventRecord {
            reason: cut(&event.reason, EVENT_REASON_LEN_MAX),
            message: cut(&event.message, EVENT_MESSAGE_LEN_MAX),
            ..event.clone()
        };
        let number = self.events.last_key_value().map_or(0, |(last, _)| last + 1);
        // From the newest: what repeats has mostly happened a moment ago.
        let repeated =
            self.events.iter().rev().find(|(_, old)| old.repeats(&event)).map(|(n, _)| *n);
        let removed = repeated.or_else(|| {
            let full = self.events.len() >= EVENTS_MAX;
            full.then(|| self.events.first_key_value().map(|(n, _)| *n)).flatten()
        });
        let old = removed.and_then(|number| self.events.remove(&number));
        if let (Some(_), Some(old)) = (repeated, old) {
            event.first_at = old.first_at;
            event.count = old.count.saturating_add(event.count);
        }
        self.events.insert(number, event.clone());
        EventPut { number, event, removed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at: u64, message: &str) -> EventRecord {
        let name = "web".parse().unwrap();
        EventRecord::once(
            WallTime(at),
            Some((&name, Some(PodId::from_random(1)))),
            EventKind::Warning,
            "BackOff",
            message,
        )
    }

    #[test]
    fn a_repeated_event_is_counted_and_becomes_the_newest() {
        let mut ring = EventRing::default();
        ring.put(&event(1, "a"));
        ring.put(&event(2, "b"));
        let put = ring.put(&event(3, "a"));
        assert_eq!((put.number, put.removed), (2, Some(0)));
        let kept = ring.to_vec();
        assert_eq!(kept.iter().map(|e| e.message.as_str()).collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!((kept[1].first_at, kept[1].at, kept[1].count), (WallTime(1), WallTime(3), 2));
    }

    #[test]
    fn events_of_different_instances_are_not_counted_together() {
        let mut ring = EventRing::default();
        ring.put(&event(1, "a"));
        ring.put(&EventRecord { id: Some(PodId::from_random(2)), ..event(2, "a") });
        assert_eq!(ring.to_vec().len(), 2);
    }

    #[test]
    fn the_oldest_event_makes_room() {
        let mut ring = EventRing::default();
        for n in 0..EVENTS_MAX as u64 + 2 {
            ring.put(&event(n, &n.to_string()));
        }
        let kept = ring.to_vec();
        assert_eq!(kept.len(), EVENTS_MAX);
        assert_eq!(kept[0].message, "2");
        assert_eq!(kept[EVENTS_MAX - 1].message, (EVENTS_MAX + 1).to_string());
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let long = "ü".repeat(EVENT_MESSAGE_LEN_MAX);
        let cut = event(1, &long).message;
        assert!(cut.len() <= EVENT_MESSAGE_LEN_MAX && cut.ends_with("ü…"), "{cut}");
        let mut raw = event(1, "");
        raw.message = long;
        assert_eq!(EventRing::default().put(&raw).event.message, cut);
    }
}
