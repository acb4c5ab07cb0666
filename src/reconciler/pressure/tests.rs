use proptest::prelude::*;

use super::*;
use crate::executor::protocol::Goal;
use crate::manifest::pod::RestartPolicy;
use crate::reconciler::plan::{Action, WaitReason};
use crate::reconciler::tests::world::{World, connected, pod, report};
use crate::reconciler::{Asked, Reason};
use crate::state::record::{Evicted, Eviction, Outcome, RecordPhase, TerminationCause};

const MIB: u64 = 1 << 20;

fn memory(available: u64) -> Sample {
    let level = Level { capacity: 1000 * MIB, available };
    Sample { memory: Some(level), disks: vec![] }
}

fn judged(pressure: &Pressure, available: u64, at: u64) -> Pressure {
    pressure.judged(&memory(available), &Thresholds::default(), BootTime(at))
}

fn pressed() -> Pressure {
    judged(&Pressure::default(), 0, 0)
}

#[test]
fn pressure_ends_when_there_was_enough_for_the_whole_transition_however_little_more() {
    let calm = judged(&Pressure::default(), 100 * MIB, 0);
    assert_eq!(calm, Pressure::default(), "as much as shall be left is enough");
    let short = judged(&calm, 100 * MIB - 1, 1000);
    assert!(short.memory.as_ref().unwrap().met);
    assert_eq!(short.memory.as_ref().unwrap().shortage.missing(), 10 * MIB + 1);
    let enough = judged(&short, 100 * MIB, 300_999);
    assert_eq!(enough.memory.as_ref().map(|it| (it.met, it.last.0)), Some((false, 1000)));
    assert_eq!(judged(&enough, 100 * MIB, 301_000), Pressure::default());
    let again = judged(&enough, 0, 300_999);
    assert!(judged(&again, 200 * MIB, 301_000).is_any(), "it counts anew");
    let stands = |pressure: &Pressure| {
        [EvictionCause::Memory, EvictionCause::Disk, EvictionCause::Limit]
            .map(|it| pressure.stands(it))
    };
    assert_eq!(stands(&short), [true, false, true]);
    assert_eq!(stands(&enough), [false, false, true]);
}

#[test]
fn a_threshold_that_is_off_or_taken_away_makes_no_pressure() {
    let off = Thresholds { memory: Threshold::Off, ..Thresholds::default() };
    let found = pressed().judged(&memory(0), &off, BootTime(1));
    assert_eq!(found, Pressure::default());
    let unknown = |at| pressed().judged(&Sample::default(), &Thresholds::default(), BootTime(at));
    let met = unknown(299_999).memory.map(|strain| strain.met);
    assert_eq!(met, Some(false), "nobody is evicted for what is not known");
    assert_eq!(unknown(300_000), Pressure::default(), "nobody could say that it is over");
}

#[test]
fn bytes_and_inodes_of_every_file_system_count() {
    let level = |available| Level { capacity: 1000, available };
    let disk = |place: &str, bytes, inodes| DiskLevel {
        place: place.to_owned(),
        bytes: level(bytes),
        inodes: Some(level(inodes)),
    };
    let check = |disks: Vec<DiskLevel>, expected: Option<(Resource, &str, u64)>| {
        let sample = Sample { memory: None, disks };
        let found = Pressure::default().judged(&sample, &Thresholds::default(), BootTime(0));
        let found = found.disk.as_ref().map(|it| &it.shortage);
        let found = found.map(|it| (it.resource, it.place.as_deref().unwrap(), it.available));
        assert_eq!(found, expected);
    };
    check(vec![disk("/a", 100, 50), disk("/b", 100, 50)], None);
    check(vec![disk("/a", 100, 50), disk("/b", 99, 50)], Some((Resource::Disk, "/b", 99)));
    check(vec![disk("/a", 100, 49), disk("/b", 99, 50)], Some((Resource::Inodes, "/a", 49)));
    check(vec![DiskLevel { inodes: None, ..disk("/a", 100, 0) }], None);
}

fn candidate(n: u128, priority: i32, used: u64, requested: u64) -> Candidate {
    let container = "main".parse().unwrap();
    let uses = vec![Use { container, used, requested }];
    Candidate { id: PodId::from_random(n), revision: 1, priority, used, requested, uses }
}

#[test]
fn who_uses_more_than_requested_goes_first_then_the_least_important_then_the_largest() {
    let check = |candidates: &[Candidate], expected: Option<u128>| {
        let expected = expected.map(PodId::from_random);
        assert_eq!(victim(candidates).map(|pod| pod.id), expected, "{candidates:?}");
    };
    check(&[], None);
    check(&[candidate(1, 0, 50, 100), candidate(2, 9, 101, 100)], Some(2));
    check(&[candidate(1, 5, 900, 100), candidate(2, -1, 101, 100)], Some(2));
    check(&[candidate(1, 0, 300, 100), candidate(2, 0, 301, 100)], Some(2));
    check(&[candidate(1, 0, 90, 100), candidate(2, 0, 10, 100)], Some(1));
    check(&[candidate(1, CRITICAL_PRIORITY, 900, 0), candidate(2, 7, 1, 10)], Some(2));
    check(&[candidate(1, CRITICAL_PRIORITY + 1000, 900, 0)], None);
}

#[test]
fn the_message_is_that_of_the_kubelet() {
    let shortage = pressed().memory.unwrap().shortage;
    let text = message(&shortage, &candidate(1, 0, 300 * MIB, 100 * MIB));
    assert_eq!(
        text,
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 0. Container \
         main was using 300Mi, request is 100Mi, has larger consumption of memory."
    );
    let text = message(&shortage, &candidate(1, 0, 1, 2));
    assert!(text.ends_with("available: 0."), "{text}");
}

#[test]
fn an_evicted_pod_stays_away_longer_each_time_within_a_limit() {
    let delays: Vec<u64> = (1..8).map(|count| return_delay(count).0 / 1000).collect();
    assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
    assert_eq!(return_delay(u32::MAX), RETURN_DELAY_MAX);
}

fn verdict(cause: EvictionCause) -> Verdict {
    Verdict { cause, message: "The node was low on resource: memory.".to_owned() }
}

/// A pod that runs gets a verdict, which is carried out until nothing of it runs.
fn evicted(cause: EvictionCause, pressure: Pressure) -> World {
    evict(World::running(), cause, pressure)
}

fn evict(mut world: World, cause: EvictionCause, pressure: Pressure) -> World {
    let id = world.id();
    world.actual.pressure = pressure;
    world.actual.verdicts.insert(id, verdict(cause));
    let (action, reason) = world.only();
    assert!(matches!(&action, Action::Record(record) if matches!(
        record.phase,
        RecordPhase::Terminating { cause: TerminationCause::Evicted, .. }
    )));
    assert_eq!(reason, Reason::Evicted("The node was low on resource: memory.".to_owned()));
    world.act(action);
    world.actual.verdicts.clear();
    world.settle();
    assert_eq!(world.id(), id);
    let failed =
        RecordPhase::Finished { outcome: Outcome::Failed, because: None, containers: [].into() };
    assert_eq!(world.record().phase, failed);
    assert!(!world.one().has_runtime, "nothing of it is left");
    world
}

#[test]
fn an_evicted_pod_waits_for_the_end_of_pressure_and_comes_back_as_another_instance() {
    let mut world = evicted(EvictionCause::Memory, pressed());
    let id = world.id();
    let plan = world.plan();
    assert_eq!(plan.wake_at.map(|at| at.0), Some(1000 + RETURN_DELAY.0));
    world.now += RETURN_DELAY.0;
    world.nothing();
    let waits = world.plan().waits;
    let wait = waits.values().next().unwrap();
    assert_eq!(wait.reason, WaitReason::Pressure(PressureKind::Memory), "{wait:?}");
    world.actual.pressure = Pressure::default();
    let (action, reason) = world.only();
    assert!(matches!(action, Action::Retire { .. }), "{action:?}");
    assert_eq!(reason, Reason::Returned);
    world.settle();
    assert_ne!(world.id(), id);
    assert_eq!(world.record().phase, RecordPhase::Active);
    assert!(matches!(world.record().eviction, Some(Eviction::Returned { count: 1, .. })));
    assert!(world.plan().waits.is_empty());
}

#[test]
fn a_pod_that_runs_once_at_most_stays_away_until_somebody_asks_for_it() {
    let mut spec = pod("p", "p");
    spec.restart_policy = RestartPolicy::Never;
    let mut world = World::new();
    world.claim("1", &spec);
    world.settle();
    let mut world = evict(world, EvictionCause::Limit, Pressure::default());
    let id = world.id();
    assert_eq!(world.plan().wake_at, None);
    world.now += RETURN_DELAY_MAX.0;
    world.nothing();
    world.actual.asked.insert(id, Asked::Restart);
    world.settle();
    assert_ne!(world.id(), id);
    assert_eq!(world.record().phase, RecordPhase::Active);
}

#[test]
fn a_pod_over_its_own_limit_comes_back_after_a_while_and_later_each_time() {
    let mut world = evicted(EvictionCause::Limit, Pressure::default());
    let retry = |world: &mut World| match world.record().eviction.clone() {
        Some(Eviction::Evicted(Evicted { retry_at, count, .. })) => (retry_at.at.0, count),
        other => panic!("{other:?}"),
    };
    assert_eq!(retry(&mut world), (1000 + 10_000, 1));
    world.now += 10_000;
    world.settle();
    let id = world.id();
    world.actual.verdicts.insert(id, verdict(EvictionCause::Limit));
    world.settle();
    assert_eq!(retry(&mut world), (world.now + 20_000, 2));
    world.actual.verdicts.clear();
    world.now += 20_000;
    world.settle();
    // It was good for long enough.
    world.now += RETURN_RESET.0;
    let id = world.id();
    world.actual.verdicts.insert(id, verdict(EvictionCause::Limit));
    world.settle();
    assert_eq!(retry(&mut world), (world.now + 10_000, 1));
}

#[test]
fn evictions_before_a_boot_are_forgotten_when_it_was_good_for_long_enough_since_then() {
    for (since, expected) in [(RETURN_RESET.0 - 1, 2), (RETURN_RESET.0, 1)] {
        let mut world = evicted(EvictionCause::Limit, Pressure::default());
        world.now += 10_000;
        world.settle();
        world.actual.boot = "another".parse().unwrap();
        world.now = 0;
        world.settle();
        world.now = since;
        let id = world.id();
        world.actual.verdicts.insert(id, verdict(EvictionCause::Limit));
        world.settle();
        let count = match &world.record().eviction {
            Some(Eviction::Evicted(evicted)) => evicted.count,
            other => panic!("{other:?}"),
        };
        assert_eq!(count, expected);
    }
}

#[test]
fn what_has_finished_meanwhile_is_not_evicted_any_more() {
    let mut spec = pod("p", "p");
    spec.restart_policy = RestartPolicy::Never;
    let mut world = World::new();
    world.claim("1", &spec);
    world.settle();
    let id = world.id();
    world.actual.verdicts.insert(id, verdict(EvictionCause::Limit));
    let mut through = report(&world.record().clone(), Goal::Run);
    through.finished = Some(Outcome::Succeeded);
    world.one().executor = connected(Some(through));
    world.settle();
    assert!(matches!(
        world.record().phase,
        RecordPhase::Finished { outcome: Outcome::Succeeded, .. }
    ));
    assert_eq!(world.record().eviction, None);
}

#[test]
fn an_evicted_pod_whose_manifest_goes_is_gone_and_one_that_is_changed_is_tried_at_once() {
    let mut world = evicted(EvictionCause::Limit, Pressure::default());
    world.unclaim();
    world.settle();
    assert!(world.actual.pods.is_empty());

    let changes: [fn(&mut PodSpec); 2] = [
        |spec| spec.hostname = "other".to_owned(),
        |spec| spec.containers[0].resources.storage_limit_bytes = Some(20 << 20),
    ];
    for (change, policy) in
        changes.into_iter().zip([RestartPolicy::Always, RestartPolicy::Never].repeat(2))
    {
        let mut spec = pod("p", "p");
        spec.restart_policy = policy;
        let mut world = World::new();
        world.claim("1", &spec);
        world.settle();
        let mut world = evict(world, EvictionCause::Limit, Pressure::default());
        change(&mut spec);
        world.claim("1", &spec);
        world.settle();
        assert_eq!(world.record().phase, RecordPhase::Active);
    }
}

#[test]
fn under_pressure_only_what_the_kubelet_would_let_in_is_started() {
    let check = |pressure: Pressure, set: &dyn Fn(&mut PodSpec), expected: Option<PressureKind>| {
        let mut spec = pod("p", "p");
        set(&mut spec);
        let mut world = World::new();
        world.actual.pressure = pressure;
        world.claim("1", &spec);
        let reason = world.plan().waits.values().next().map(|wait| wait.reason);
        assert_eq!(reason, expected.map(WaitReason::Pressure));
        assert_eq!(world.plan().work.is_empty(), expected.is_some());
    };
    let disk = || Pressure { disk: pressed().memory, memory: None };
    let burstable = |spec: &mut PodSpec| {
        spec.containers[0].resources.memory_request_bytes = Some(1);
    };
    let critical = |spec: &mut PodSpec| spec.priority = CRITICAL_PRIORITY;
    check(pressed(), &|_| {}, Some(PressureKind::Memory));
    check(pressed(), &burstable, None);
    check(pressed(), &critical, None);
    check(disk(), &burstable, Some(PressureKind::Disk));
    check(disk(), &critical, None);
}

#[test]
fn what_runs_is_neither_stopped_nor_kept_from_a_change_by_pressure() {
    let mut world = World::running();
    world.actual.pressure = pressed();
    world.nothing();
    let mut other = pod("p", "p");
    other.hostname = "other".to_owned();
    world.claim("1", &other);
    world.settle();
    assert_eq!(world.record().phase, RecordPhase::Active);
    assert_eq!(world.record().accepted.number, 2);
}

fn any_candidate() -> impl Strategy<Value = Candidate> {
    let priority = prop_oneof![-3..3, Just(CRITICAL_PRIORITY)];
    (any::<u128>(), priority, 0..5_u64, 0..5_u64)
        .prop_map(|(n, priority, used, requested)| candidate(n, priority, used, requested))
}

proptest! {
    #[test]
    fn nobody_stays_who_should_go_before_the_victim(
        candidates in proptest::collection::vec(any_candidate(), 0..8),
    ) {
        let found = victim(&candidates);
        prop_assert_eq!(found.is_none(), candidates.iter().all(|it| it.priority >= CRITICAL_PRIORITY));
        for other in candidates.iter().filter(|it| it.priority < CRITICAL_PRIORITY) {
            let found = found.unwrap();
            let (over, other_over) = (found.used > found.requested, other.used > other.requested);
            prop_assert!(over || !other_over);
            prop_assert!(over != other_over || found.priority <= other.priority);
        }
    }

    #[test]
    fn pressure_never_flaps_faster_than_its_transition(levels in proptest::collection::vec(0..250_u64, 1..60)) {
        let mut pressure = Pressure::default();
        let mut last_short = None;
        for (at, level) in levels.into_iter().enumerate() {
            let now = at as u64 * 50_000;
            pressure = judged(&pressure, level * MIB, now);
            if level < 100 {
                last_short = Some(now);
            }
            prop_assert_eq!(pressure.memory.as_ref().is_some_and(|it| it.met), level < 100);
            let must_last = last_short.is_some_and(|short| now - short < 300_000);
            prop_assert!(!must_last || pressure.is_any());
            prop_assert!(last_short.is_some() || !pressure.is_any());
        }
    }
}
