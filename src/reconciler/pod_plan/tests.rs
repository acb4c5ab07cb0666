//! Revisions on trial (`roost/rollback-after`).

use super::super::tests::world::{World, connected, file, pod, report, report_on, running, stored};
use super::super::*;
use crate::clock::Millis;
use crate::executor::protocol::{ContainerStatus, Goal};
use crate::reconciler::pressure::Verdict;
use crate::state::record::{EvictionCause, RecordPhase, Trial};

/// Revisions of a pod that have ten seconds to get Ready; those of another host name need another
/// instance.
fn revision(hostname: &str, label: &str) -> PodSpec {
    let mut spec = PodSpec { rollback_after: Some(Millis::from_secs(10)), ..pod("p", hostname) };
    spec.labels.insert("v".to_owned(), label.to_owned());
    spec
}

fn tell(world: &mut World, status: ContainerStatus) {
    let report = report_on(world.record(), status);
    world.one().executor = connected(Some(report));
}

fn get_ready(world: &mut World) {
    tell(world, running());
}

/// Revision 1 is Ready, and 2 is accepted.
fn world(hostname: &str) -> World {
    let mut world = World::new();
    world.claim("1", &revision("p", "1"));
    world.settle();
    get_ready(&mut world);
    world.nothing();
    assert_eq!(world.record().trial, None, "there is nothing to go back to");
    world.claim("1", &revision(hostname, "2"));
    world.settle();
    world
}

fn trial(world: &mut World) -> Option<(u64, u64)> {
    world.record().trial.clone().map(|Trial { until, back_to }| (until.at.0, back_to))
}

fn retreats(world: &World) -> Vec<u64> {
    world.plan().retreats.into_values().collect()
}

/// What the shell does with `Plan::retreats`.
fn retreat(world: &mut World) {
    let (id, to) = world.plan().retreats.pop_first().unwrap();
    let kept = world.kept.iter().find(|kept| kept.accepted.number == to).unwrap();
    let stored = stored(kept.spec.as_ref().unwrap());
    let refused = world.desired.claims[&kept.name][0].revision.digest();
    world.actual.asked.insert(id, Asked::RollBack { to, stored, refused });
    world.settle();
    world.actual.asked.clear();
}

#[test]
fn a_revision_that_gets_ready_in_time_stays() {
    for hostname in ["p", "q"] {
        let mut world = world(hostname);
        assert_eq!(trial(&mut world), Some((11_000, 1)));
        assert_eq!(world.plan().wake_at, Some(BootTime(11_000)));
        get_ready(&mut world);
        world.now = 10_999;
        world.nothing();
        assert!(retreats(&world).is_empty());
        world.now = 11_000;
        assert_eq!(world.only().1, Reason::Proven);
        world.settle();
        tell(&mut world, ContainerStatus::Creating);
        world.now = 99_999;
        world.nothing();
        assert!(retreats(&world).is_empty());
    }
}

#[test]
fn a_revision_that_does_not_get_ready_in_time_is_rolled_back_until_its_manifest_changes() {
    for hostname in ["p", "q"] {
        let mut world = world(hostname);
        world.now = 11_000;
        assert_eq!(retreats(&world), [1]);
        retreat(&mut world);
        let (first, second) = (revision("p", "1"), revision(hostname, "2"));
        assert_eq!(*world.one().spec.as_ref().unwrap().spec, first);
        assert_eq!(world.record().held.unwrap().to, 1);
        assert_eq!((trial(&mut world), retreats(&world)), (None, vec![]));
        world.claim("1", &second);
        world.nothing();
        world.claim("1", &revision(hostname, "3"));
        world.settle();
        assert_eq!(*world.one().spec.as_ref().unwrap().spec, revision(hostname, "3"));
        assert_eq!(trial(&mut world).map(|trial| trial.0), Some(21_000));
    }
}

/// What runs goes for that.
fn evict(world: &mut World, cause: EvictionCause) {
    let id = world.id();
    let message = "too much".to_owned();
    world.actual.verdicts.insert(id, Verdict { cause, message });
    world.settle();
    world.actual.verdicts.clear();
}

#[test]
fn a_revision_that_is_evicted_for_what_it_has_itself_gets_no_more_time() {
    let mut world = world("p");
    world.now = 6000;
    evict(&mut world, EvictionCause::Limit);
    assert!(retreats(&world).is_empty());
    world.now = 16_000;
    world.settle();
    assert_eq!(trial(&mut world), Some((11_000, 1)));
    assert_eq!(retreats(&world), [1], "before it overfills its volume again");
    retreat(&mut world);
    assert_eq!(*world.one().spec.as_ref().unwrap().spec, revision("p", "1"));
}

#[test]
fn a_revision_that_is_evicted_on_trial_has_all_its_time_again_but_once_only() {
    for keeps_manifest in [true, false] {
        let mut world = world("p");
        world.now = 6000;
        let id = world.id();
        evict(&mut world, EvictionCause::Memory);
        assert!(retreats(&world).is_empty());
        if !keeps_manifest {
            world.unclaim();
            world.desired.faulty.insert(file("/m", "1"));
        }
        world.now = 16_000;
        assert!(retreats(&world).is_empty(), "nothing of it runs");
        world.settle();
        assert_ne!(world.id(), id);
        assert_eq!(trial(&mut world), Some((26_000, 1)));
        world.now = 20_000;
        evict(&mut world, EvictionCause::Disk);
        world.now = 40_000;
        world.settle();
        assert_eq!(trial(&mut world), Some((26_000, 1)));
        assert_eq!(retreats(&world), [1]);
    }
}

#[test]
fn what_never_got_ready_is_not_gone_back_to() {
    let mut world = world("p");
    world.claim("1", &revision("p", "3"));
    world.settle();
    assert_eq!(trial(&mut world), Some((11_000, 1)));
    world.now = 11_000;
    assert_eq!(retreats(&world), [1]);
}

#[test]
fn in_another_boot_the_time_begins_anew() {
    let mut world = world("p");
    world.actual.boot = "another".parse().unwrap();
    world.one().executor = ExecutorState::Absent;
    world.now = 500;
    assert_eq!(world.only().1, Reason::TrialBegunAnew);
    world.settle();
    assert_eq!(trial(&mut world), Some((10_500, 1)));
}

#[test]
fn what_has_nothing_to_go_back_to_stays() {
    let mut world = world("p");
    world.now = 11_000;
    let id = world.id();
    world.actual.asked.insert(id, Asked::Persist);
    assert_eq!(world.only().1, Reason::NothingToGoBackTo);
    world.settle();
    assert_eq!((trial(&mut world), retreats(&world)), (None, vec![]));
}

#[test]
fn a_pod_that_is_through_is_not_rolled_back() {
    let mut world = world("p");
    let record = world.record().clone();
    let through = PodReport {
        finished: Some(crate::state::record::Outcome::Failed),
        ..report(&record, Goal::Run)
    };
    world.one().executor = connected(Some(through));
    world.settle();
    assert!(matches!(world.record().phase, RecordPhase::Finished { .. }));
    world.now = 99_999;
    assert_eq!((trial(&mut world), retreats(&world)), (None, vec![]));
}

/// The specification is written first; the agent was killed before the record was, and the
/// manifest can't be read any more.
#[test]
fn an_acceptance_that_was_interrupted_is_on_trial_too() {
    let mut world = world("p");
    get_ready(&mut world);
    world.now = 11_000;
    world.settle();
    let newer = revision("p", "3");
    world.unclaim();
    world.desired.faulty.insert(file("/m", "1"));
    world.one().spec = Some(stored(&newer));
    let (action, reason) = world.only();
    assert_eq!(reason, Reason::AcceptanceInterrupted);
    world.act(action);
    assert_eq!(trial(&mut world), Some((21_000, 2)));
}

#[test]
fn an_agent_that_has_heard_nothing_of_a_pod_yet_takes_nothing_back() {
    let mut world = world("p");
    get_ready(&mut world);
    world.now = 11_000;
    for executor in [ExecutorState::Silent, connected(None)] {
        let heard = std::mem::replace(&mut world.one().executor, executor);
        assert!(retreats(&world).is_empty());
        world.one().executor = heard;
    }
    assert_eq!(world.only().1, Reason::Proven);
}
