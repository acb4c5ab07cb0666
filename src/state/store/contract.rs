//! What every [`Store`] must do, run over each of them.

use super::*;
use crate::clock::WallTime;
use crate::manifest::pod::PodSpec;
use crate::state::record::{RecordPhase, TerminationCause};
use crate::state::samples;

/// Closes a store and opens it again.
pub(in crate::state) type Reopen<'a> = &'a mut dyn FnMut(Box<dyn Store>) -> Box<dyn Store>;

/// Runs the suite over a store that is new.
pub(in crate::state) fn run(store: Box<dyn Store>, reopen: Reopen<'_>) {
    let store = starts_empty(store);
    let store = keeps_what_was_committed(store, reopen);
    let store = makes_changes_in_order(store, reopen);
    let store = refuses_a_batch_as_a_whole(store, reopen);
    let store = keeps_the_newest_revisions_of_a_pod(store, reopen);
    keeps_the_newest_events(store, reopen);
}

fn starts_empty(mut store: Box<dyn Store>) -> Box<dyn Store> {
    assert_eq!(store.load().unwrap(), Contents::default());
    store.commit(&[]).unwrap();
    assert_eq!(store.load().unwrap().sequence, 0, "an empty batch is no commit");
    store
}

#[track_caller]
fn reopened(mut store: Box<dyn Store>, reopen: Reopen<'_>) -> (Box<dyn Store>, Contents) {
    let before = store.load().unwrap();
    let mut store = reopen(store);
    assert_eq!(store.load().unwrap(), before, "reopened");
    (store, before)
}

fn keeps_what_was_committed(mut store: Box<dyn Store>, reopen: Reopen<'_>) -> Box<dyn Store> {
    let records = samples::records().map(|(_, record)| record);
    store.commit(&records.clone().map(Change::PutPod)).unwrap();
    let directory = "/etc/roost/pods.d".to_owned();
    store
        .commit(&[
            Change::PutDirectory { directory: directory.clone(), handle: vec![0, 255, 7] },
            Change::PutEvent(samples::event(1)),
        ])
        .unwrap();
    store.settle().unwrap();
    let (store, found) = reopened(store, reopen);
    assert_eq!(found.sequence, 2);
    assert_eq!(found.pods, records.into_iter().map(|r| (r.id, r)).collect());
    assert_eq!(found.directories, BTreeMap::from([(directory, vec![0, 255, 7])]));
    assert_eq!(found.events, [samples::event(1)]);
    store
}

fn makes_changes_in_order(mut store: Box<dyn Store>, reopen: Reopen<'_>) -> Box<dyn Store> {
    let first = samples::record(1);
    let mut changed = first.clone();
    changed.phase = RecordPhase::Destroying { cause: TerminationCause::Removed };
    let second = samples::record(2);
    let handle = |byte| Change::PutDirectory { directory: "d".into(), handle: vec![byte] };
    store
        .commit(&[
            Change::ForgetPod(first.id),
            Change::PutPod(first),
            handle(1),
            Change::PutPod(changed.clone()),
            handle(2),
            Change::PutPod(second.clone()),
            Change::ForgetPod(second.id),
            Change::ForgetPod(samples::record(99).id),
        ])
        .unwrap();
    let (store, found) = reopened(store, reopen);
    assert_eq!(found.pods.get(&changed.id), Some(&changed));
    assert_eq!(found.pods.get(&second.id), None);
    assert_eq!(found.directories["d"], [2]);
    store
}

fn refuses_a_batch_as_a_whole(mut store: Box<dyn Store>, reopen: Reopen<'_>) -> Box<dyn Store> {
    let (_, before) = (store.commit(&[]), store.load().unwrap());
    let mut long = samples::record(5);
    long.source.file = "x".repeat(100_000);
    let good = Change::PutPod(samples::record(6));
    for bad in [
        Change::PutPod(long),
        Change::PutDirectory { directory: "d".into(), handle: vec![0; HANDLE_LEN_MAX + 1] },
        Change::PutDirectory { directory: "d".repeat(5000), handle: vec![] },
    ] {
        let refused = store.commit(&[good.clone(), bad]);
        assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
    }
    let many = vec![good; BATCH_LEN_MAX + 1];
    assert!(matches!(store.commit(&many), Err(StoreError::Refused { .. })));
    let (store, after) = reopened(store, reopen);
    assert_eq!(after, before);
    store
}

fn keeps_the_newest_revisions_of_a_pod(
    mut store: Box<dyn Store>,
    reopen: Reopen<'_>,
) -> Box<dyn Store> {
    let most = REVISIONS_MAX as u64;
    let revision = |number| samples::revision(number);
    let put = |revision| Change::PutRevision(Box::new(revision));
    // A name that begins like the other.
    let other = KeptRevision { name: "shop/web-10".parse().unwrap(), ..revision(7) };
    store.commit(&[put(other.clone())]).unwrap();
    let numbers = |found: Vec<KeptRevision>| -> Vec<u64> {
        found.iter().map(|revision| revision.accepted.number).collect()
    };
    let name = revision(1).name;
    let all: Vec<Change> = (1..=most + 2).map(|number| put(revision(number))).collect();
    // Within a batch, and over several.
    store.commit(&all[..usize::try_from(most).unwrap() + 1]).unwrap();
    store.commit(&all[usize::try_from(most).unwrap() + 1..]).unwrap();
    let (mut store, _) = reopened(store, reopen);
    let kept = store.revisions(&name).unwrap();
    assert_eq!(numbers(kept.clone()), (3..=most + 2).collect::<Vec<u64>>());
    assert_eq!(kept[0], revision(3));
    let mut long = revision(99);
    let mut spec = PodSpec::clone(long.spec.as_ref().unwrap());
    spec.hostname = "x".repeat(REVISION_LEN_MAX);
    long.spec = Some(Arc::new(spec));
    store.commit(&[put(long)]).unwrap();
    assert_eq!(store.revisions(&name).unwrap(), kept, "too long: it is left out");
    store.commit(&[put(revision(50)), Change::ForgetRevisions(name.clone())]).unwrap();
    let (mut store, _) = reopened(store, reopen);
    assert_eq!(store.revisions(&name).unwrap(), []);
    assert_eq!(store.revisions(&other.name).unwrap(), [other]);
    store
}

fn keeps_the_newest_events(mut store: Box<dyn Store>, reopen: Reopen<'_>) {
    let node = |n: u64, text: &str| {
        EventRecord::once(WallTime(n), None, EventKind::Normal, "Started", text)
    };
    for hundred in 0..(EVENTS_MAX as u64 / 100 + 1) {
        let batch: Vec<Change> = (0..100)
            .map(|n| hundred * 100 + n)
            .map(|n| Change::PutEvent(node(n, &n.to_string())))
            .collect();
        store.commit(&batch).unwrap();
    }
    let (mut store, found) = reopened(store, reopen);
    assert_eq!(found.events.len(), EVENTS_MAX);
    assert_eq!(found.events[0].message, "100");
    // Twice in one batch, and again after that.
    store.commit(&[Change::PutEvent(node(8, "500")), Change::PutEvent(node(9, "500"))]).unwrap();
    let (mut store, _) = reopened(store, reopen);
    store.commit(&[Change::PutEvent(node(10, "500"))]).unwrap();
    let (_, found) = reopened(store, reopen);
    assert_eq!(found.events.len(), EVENTS_MAX);
    let newest = found.events.last().unwrap();
    assert_eq!((newest.message.as_str(), newest.count), ("500", 4));
    assert_eq!((newest.first_at, newest.at), (WallTime(500), WallTime(10)));
}

mod tests {
    use super::*;

    #[test]
    fn the_store_in_memory_keeps_the_contract() {
        run(Box::<MemoryStore>::default(), &mut |store| store);
    }

    #[test]
    fn a_failing_store_that_is_off_keeps_the_contract() {
        run(Box::new(FailingStore::on_demand(MemoryStore::default()).0), &mut |store| store);
    }

    #[test]
    fn a_failing_store_changes_nothing_while_it_fails() {
        let (mut store, fails) = FailingStore::on_demand(MemoryStore::default());
        let put = [Change::PutPod(samples::record(1))];
        fails.store(true, Ordering::SeqCst);
        assert!(matches!(store.commit(&put), Err(StoreError::Io { .. })));
        assert!(matches!(store.load(), Err(StoreError::Io { .. })));
        fails.store(false, Ordering::SeqCst);
        assert_eq!(store.load().unwrap(), Contents::default());
        store.commit(&put).unwrap();
        assert_eq!(store.load().unwrap().pods.len(), 1);
        FailingStore::always().commit(&put).unwrap_err();
    }
}
