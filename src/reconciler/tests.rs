//! One rule, one test, on a world that carries out its own plans.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::directory::AlarmKind;
use super::pod_plan::{LOSS_DELAY_MAX, LOSS_RESET, OVERDUE_MARGIN};
use super::*;
use crate::clock::Millis;
use crate::executor::protocol::Goal;
use crate::manifest::desired::DirectoryView;
use crate::state::record::{HISTORY_LEN_MAX, Moment, Outcome, RecordPhase, TerminationCause};

pub(super) mod world;
use world::{World, actual_pod, connected, file, labelled, new_record, pod, report, stored};

fn finished_world() -> World {
    let mut world = World::running();
    let mut told = report(world.record(), Goal::Run);
    told.finished = Some(Outcome::Succeeded);
    world.one().executor = connected(Some(told));
    world
}

#[test]
fn a_claim_without_an_instance_is_created_started_and_told() {
    let mut world = World::new();
    world.claim("1", &pod("p", "p"));
    let source = file("/m", "1");
    let (action, reason) = world.only();
    assert!(
        matches!(&action, Action::Create(it) if it.source == source && it.is_first),
        "{action:?}"
    );
    assert_eq!(reason, Reason::NewManifest(source));
    world.act(action);
    let id = world.id();
    assert_eq!(world.only(), (Action::Start(id), Reason::NoExecutor));
    world.act(Action::Start(id));
    let tell = Action::SetSpec { id, goal: Goal::Run };
    assert_eq!(world.only(), (tell.clone(), Reason::NotTold));
    world.act(tell);
    assert_eq!(world.plan(), Plan::default());
}

#[test]
fn a_change_of_labels_is_accepted_in_place() {
    let mut world = World::running();
    let id = world.id();
    world.claim("1", &labelled("2"));
    let (action, _) = world.only();
    let Action::Accept { record, .. } = &action else { panic!("{action:?}") };
    assert_eq!((record.id, record.accepted.number, record.history.len()), (id, 2, 1));
    world.act(action);
    assert_eq!(world.only(), (Action::SetSpec { id, goal: Goal::Run }, Reason::NotTold));
}

#[test]
fn the_history_is_bounded() {
    let mut world = World::running();
    for n in 0..30 {
        world.claim("1", &labelled(&n.to_string()));
        world.settle();
    }
    assert_eq!(world.record().accepted.number, 31);
    assert_eq!(world.record().history.len(), HISTORY_LEN_MAX);
    assert_eq!(world.record().history[0].number, 31 - 10);
}

#[test]
fn a_replacement_waits_until_the_old_instance_is_gone() {
    let mut world = World::running();
    let old = world.id();
    world.claim("1", &pod("p", "other"));
    let (action, reason) = world.only();
    assert_eq!(reason, Reason::Terminated(TerminationCause::Replaced));
    world.act(action);
    let goal = Goal::Stop { grace: Millis(5000) };
    let (action, _) = world.only();
    assert_eq!(action, Action::SetSpec { id: old, goal });
    world.one().executor = connected(Some(report(&world.record().clone(), goal)));
    world.nothing();
    world.one().executor = ExecutorState::Absent;
    let (action, _) = world.only();
    world.act(action);
    let steps: Vec<Action> =
        world.plan().work.into_values().flatten().map(|step| step.action).collect();
    let [Action::Destroy(_), Action::Create(new), forget] = steps.as_slice() else {
        panic!("{steps:?}")
    };
    assert_eq!(*forget, Action::Forget { id: old, revisions_of: None });
    assert_eq!((new.number, new.history.len(), new.is_first), (2, 1, false));
    // Cut off before the old one is forgotten: the new one is not made twice.
    world.act(steps[0].clone());
    world.act(steps[1].clone());
    let steps: Vec<Action> =
        world.plan().work.into_values().flatten().map(|step| step.action).collect();
    assert_eq!(steps, [Action::Destroy(old), forget.clone()]);
    world.settle();
    assert_ne!(world.id(), old);
    assert_eq!(world.one().spec.as_ref().unwrap().spec.hostname, "other");
}

#[test]
fn an_absent_claim_deletes_and_leaves_nothing() {
    let mut world = World::running();
    world.unclaim();
    assert_eq!(world.only().1, Reason::Terminated(TerminationCause::Removed));
    world.settle();
    assert!(world.actual.pods.is_empty());
}

#[test]
fn a_faulty_file_keeps_its_pod() {
    let mut world = World::running();
    world.unclaim();
    world.desired.faulty.insert(file("/m", "1"));
    assert_eq!(world.plan(), Plan::default());
    // Even from another file that asks for it.
    world.claim("0", &pod("p", "other"));
    world.nothing();
    // And another faulty file protects nothing.
    world.unclaim();
    world.desired.faulty = BTreeSet::from([file("/m", "2")]);
    assert_eq!(world.only().1, Reason::Terminated(TerminationCause::Removed));
}

#[test]
fn a_directory_that_can_not_be_read_keeps_its_pods_and_raises_an_alarm() {
    let mut world = World::running();
    world.unclaim();
    let fault = "gone".to_owned();
    let view = DirectoryView::Unavailable { fault: fault.clone() };
    world.desired.directories.insert("/m".to_owned(), view);
    let plan = world.plan();
    assert!(plan.work.is_empty() && plan.remember.is_empty());
    let kind = AlarmKind::Unavailable(fault);
    assert_eq!(plan.alarms, [Alarm { directory: "/m".to_owned(), kind }]);
}

#[test]
fn another_and_empty_directory_keeps_the_pods_and_raises_an_alarm() {
    let mut world = World::running();
    world.unclaim();
    world.see("/m", 2, true);
    let plan = world.plan();
    assert!(plan.work.is_empty() && plan.remember.is_empty());
    assert_eq!(plan.alarms.len(), 1);
    assert_eq!(plan.alarms[0].kind, AlarmKind::ReplacedByEmpty);
    // Put back: as before. With another manifest in it: it counts.
    world.see("/m", 1, false);
    world.claim("1", &pod("p", "p"));
    assert_eq!(world.plan(), Plan::default());
    world.unclaim();
    world.see("/m", 2, false);
    let plan = world.plan();
    assert_eq!(plan.remember, BTreeMap::from([("/m".to_owned(), vec![2])]));
    assert_eq!((plan.work.len(), plan.alarms.len()), (1, 0));
}

#[test]
fn another_and_empty_directory_is_told_of_also_when_no_pod_is_from_it() {
    let mut world = World::running();
    world.actual.pods.clear();
    world.unclaim();
    world.see("/m", 2, true);
    let plan = world.plan();
    assert!(plan.remember.is_empty());
    assert_eq!(plan.alarms.len(), 1);
}

#[test]
fn the_same_directory_made_empty_deletes() {
    let mut world = World::running();
    world.unclaim();
    world.see("/m", 1, true);
    assert_eq!(world.only().1, Reason::Terminated(TerminationCause::Removed));
}

#[test]
fn an_empty_directory_after_the_store_was_lost_proves_nothing() {
    let mut world = World::running();
    world.unclaim();
    world.actual.directories.clear();
    let record = world.one().record.take();
    world.one().adoptable = record;
    world.see("/m", 1, true);
    world.settle();
    assert_eq!(world.plan().alarms.len(), 1);
    assert_eq!(world.record().phase, RecordPhase::Active);
    // Not even under another name.
    world.desired.directories.clear();
    world.see("/other", 9, true);
    world.nothing();
    assert_eq!(world.plan().alarms.len(), 1);
}

#[test]
fn a_first_empty_directory_is_remembered() {
    let mut world = World::new();
    world.actual.directories.clear();
    world.see("/m", 7, true);
    let plan = world.plan();
    assert_eq!(plan.remember, BTreeMap::from([("/m".to_owned(), vec![7])]));
    assert_eq!(plan.alarms, []);
}

#[test]
fn nothing_is_deleted_before_every_directory_was_looked_at() {
    let mut world = World::running();
    world.unclaim();
    world.desired.directories.insert("/n".to_owned(), DirectoryView::Unread);
    world.nothing();
    world.see("/n", 3, false);
    world.claim_in(file("/n", "9"), &pod("p", "p"));
    assert_eq!(world.only().1, Reason::MovedManifest(file("/n", "9")));
}

#[test]
fn nothing_takes_the_place_of_an_instance_before_every_directory_was_looked_at() {
    let mut world = World::running();
    world.claim("1", &pod("p", "other"));
    let is_destroying = |action: &Action| matches!(action, Action::Record(it) if matches!(it.phase, RecordPhase::Destroying { .. }));
    world.act_until(is_destroying);
    // The agent is started again.
    let claims = std::mem::take(&mut world.desired.claims);
    let read = std::mem::take(&mut world.desired.directories);
    world.desired.directories.insert("/m".to_owned(), DirectoryView::Unread);
    world.nothing();
    world.desired.directories = read;
    world.desired.claims = claims;
    world.settle();
    assert_eq!(world.one().spec.as_ref().unwrap().spec.hostname, "other");
    // With its own manifest read, nothing is waited for.
    world.claim("1", &pod("p", "third"));
    world.act_until(is_destroying);
    world.desired.directories.insert("/n".to_owned(), DirectoryView::Unread);
    world.settle();
    assert_eq!(world.one().spec.as_ref().unwrap().spec.hostname, "third");
}

#[test]
fn a_manifest_that_changed_after_a_roll_back_was_asked_for_is_followed() {
    let mut world = World::running();
    let id = world.id();
    world.claim("1", &labelled("bad"));
    world.settle();
    let refused = world.record().accepted.digest;
    let asked = Asked::RollBack { to: 1, stored: stored(&pod("p", "p")), refused };
    world.actual.asked.insert(id, asked);
    assert_eq!(world.only().1, Reason::RolledBack(1));
    // It could not be recorded, and before it is tried again the manifest is mended.
    world.claim("1", &labelled("mended"));
    assert_eq!(world.only().1, Reason::ChangedManifest(file("/m", "1")));
    world.settle();
    assert_eq!(world.one().spec.as_ref().unwrap().spec.labels["v"], "mended");
    assert_eq!(world.record().held, None);
}

#[test]
fn a_pod_that_was_rolled_back_follows_its_manifest_when_somebody_asks_for_that() {
    let mut world = World::running();
    let id = world.id();
    world.actual.asked.insert(id, Asked::Release);
    world.nothing();
    world.claim("1", &labelled("bad"));
    world.settle();
    let refused = world.record().accepted.digest;
    let asked = Asked::RollBack { to: 1, stored: stored(&pod("p", "p")), refused };
    world.actual.asked.insert(id, asked);
    world.settle();
    assert_eq!(world.record().held.map(|held| held.to), Some(1));
    world.actual.asked.clear();
    world.nothing();
    world.actual.asked.insert(id, Asked::Release);
    assert_eq!(world.only().1, Reason::Released);
    world.settle();
    assert_eq!((world.id(), world.record().held), (id, None));
    assert_eq!(world.one().spec.as_ref().unwrap().spec.labels["v"], "bad");
}

#[test]
fn a_directory_spelt_in_another_way_restarts_nothing() {
    let mut world = World::running();
    let id = world.id();
    world.unclaim();
    world.desired.directories.clear();
    world.desired.directories.insert("/m/".to_owned(), DirectoryView::Unread);
    world.nothing();
    world.see("/m/", 1, false);
    world.claim_in(file("/m/", "1"), &pod("p", "p"));
    world.settle();
    assert_eq!((world.id(), &world.record().source.directory[..]), (id, "/m/"));
}

#[test]
fn the_pods_of_a_directory_taken_from_the_configuration_go_when_the_rest_is_clear() {
    let mut world = World::running();
    world.unclaim();
    world.desired.directories.clear();
    world.see("/n", 3, false);
    let view = DirectoryView::Unavailable { fault: "gone".to_owned() };
    world.desired.directories.insert("/o".to_owned(), view);
    world.nothing();
    world.desired.directories.remove("/o");
    assert_eq!(world.only().1, Reason::Terminated(TerminationCause::Removed));
}

#[test]
fn of_two_claims_the_first_counts_and_then_the_one_that_has_the_pod() {
    let mut world = World::new();
    world.claim("2", &labelled("two"));
    world.claim("1", &labelled("one"));
    world.settle();
    assert_eq!(world.record().source, file("/m", "1"));
    world.claim("0", &labelled("zero"));
    assert_eq!(world.plan(), Plan::default());
    let claims = world.desired.claims.values_mut().next().unwrap();
    claims.retain(|claim| claim.source.file != "1");
    world.settle();
    assert_eq!(world.record().source, file("/m", "0"));
}

#[test]
fn a_renamed_file_changes_only_the_source() {
    let mut world = World::running();
    let id = world.id();
    world.unclaim();
    world.claim("2", &pod("p", "p"));
    let (action, reason) = world.only();
    assert_eq!(reason, Reason::MovedManifest(file("/m", "2")));
    world.act(action);
    assert_eq!((world.id(), world.record().accepted.number), (id, 1));
    assert_eq!(world.plan(), Plan::default());
}

#[test]
fn a_found_instance_is_adopted_and_its_containers_run_on() {
    let mut world = World::running();
    let record = world.one().record.take();
    world.one().adoptable.clone_from(&record);
    let adopt = Action::Record(Box::new(record.unwrap()));
    assert_eq!(world.only(), (adopt.clone(), Reason::FoundWithoutRecord));
    world.act(adopt);
    assert_eq!(world.plan(), Plan::default());
}

#[test]
fn remains_that_nothing_identifies_are_removed() {
    let mut world = World::running();
    world.unclaim();
    world.one().record = None;
    assert_eq!(world.only(), (Action::Destroy(world.id()), Reason::Unidentifiable));
}

#[test]
fn of_two_instances_the_one_that_fits_is_kept_whatever_the_wall_clock_says() {
    let mut world = World::running();
    let kept = world.id();
    let other = PodId::from_random(u128::MAX);
    let mut record = new_record(other, file("/m", "1"), &labelled("old"));
    record.created_at = WallTime(u64::MAX);
    world.actual.pods.insert(other, actual_pod(record, &labelled("old")));
    let (action, reason) = world.only();
    assert_eq!(reason, Reason::Terminated(TerminationCause::Orphaned));
    assert!(matches!(action, Action::Record(record) if record.id == other));
    world.settle();
    assert_eq!(world.id(), kept);
}

/// A creation that failed half-way may leave a record alone; it must not win by chance.
#[test]
fn of_two_instances_one_without_its_specification_is_not_kept() {
    let mut world = World::running();
    let kept = world.id();
    let other = PodId::from_random(u128::MAX);
    let mut bare = world.one().clone();
    bare.record.as_mut().unwrap().id = other;
    bare.record.as_mut().unwrap().accepted.number += 1;
    bare.spec = None;
    world.actual.pods.insert(other, bare);
    let (action, reason) = world.only();
    assert_eq!(reason, Reason::Terminated(TerminationCause::Orphaned));
    let Action::Record(going) = action else { panic!("{action:?}") };
    assert_eq!(going.id, other, "{kept} stays");
}

#[test]
fn a_lost_executor_is_killed_noted_and_started_after_a_growing_delay() {
    let mut world = World::running();
    let id = world.id();
    for (count, delay) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 32), (7, 60), (8, 60)] {
        world.one().executor = ExecutorState::Lost { lived: Millis(LOSS_RESET.0 - 1) };
        let steps: Vec<Action> =
            world.plan().work.into_values().flatten().map(|step| step.action).collect();
        let [Action::Kill(killed), Action::NoteLoss(record)] = steps.as_slice() else {
            panic!("{steps:?}")
        };
        assert_eq!((*killed, record.losses.count), (id, count));
        world.act(steps[1].clone());
        let at = BootTime(world.now + delay * 1000);
        let plan = world.plan();
        assert_eq!((plan.work.len(), plan.wake_at), (0, Some(at)));
        world.now = at.0;
        assert_eq!(world.only().0, Action::Start(id));
    }
    // The agent is started again: the record holds it.
    world.record().losses.retry_at =
        Some(Moment { boot: "boot".parse().unwrap(), at: BootTime(world.now + 7) });
    world.nothing();
    // In another boot it is over.
    world.actual.boot = "next".parse().unwrap();
    assert_eq!(world.only().0, Action::Start(id));
}

#[test]
fn an_executor_that_lived_long_clears_the_count_of_losses() {
    let mut world = World::running();
    world.record().losses.count = u32::MAX;
    world.one().executor = ExecutorState::Lost { lived: Millis(1) };
    let plan = world.plan();
    let Some(Reason::ExecutorLost { delay, .. }) =
        plan.work.into_values().flatten().next().map(|step| step.reason)
    else {
        panic!("no loss")
    };
    assert_eq!(delay, LOSS_DELAY_MAX);
    world.one().executor = ExecutorState::Lost { lived: LOSS_RESET };
    world.settle();
    assert_eq!(world.record().losses.count, 1);
}

#[test]
fn a_finished_pod_is_recorded_stopped_and_released() {
    let mut world = finished_world();
    let id = world.id();
    let (action, reason) = world.only();
    assert_eq!(reason, Reason::Finished(Outcome::Succeeded));
    world.act(action);
    let goal = Goal::Stop { grace: Millis(0) };
    assert_eq!(world.only().0, Action::SetSpec { id, goal });
    world.one().executor = ExecutorState::Absent;
    assert_eq!(world.only().0, Action::Release(id));
    world.settle();
    assert_eq!(world.plan(), Plan::default());
    // Also after a reboot.
    world.actual.boot = "next".parse().unwrap();
    assert_eq!(world.plan(), Plan::default());
}

#[test]
fn a_finished_pod_that_is_edited_is_replaced_only_if_it_would_end_otherwise() {
    let mut world = finished_world();
    world.settle();
    world.claim("1", &labelled("new"));
    world.settle();
    assert_eq!(world.record().accepted.number, 2);
    assert!(matches!(world.record().phase, RecordPhase::Finished { .. }));
    let mut other = labelled("new");
    other.containers[0].command.push("1".to_owned());
    world.claim("1", &other);
    assert_eq!(world.only().1, Reason::Terminated(TerminationCause::Replaced));
}

#[test]
fn a_report_of_an_older_revision_finishes_nothing() {
    let mut world = finished_world();
    world.claim("1", &labelled("new"));
    let (action, _) = world.only();
    world.act(action);
    let id = world.id();
    assert_eq!(world.only().0, Action::SetSpec { id, goal: Goal::Run });
}

#[test]
fn what_does_not_stop_is_killed_a_margin_after_its_grace_period() {
    for silent in [false, true] {
        let mut world = World::running();
        let id = world.id();
        world.unclaim();
        let (action, _) = world.only();
        world.act(action);
        let goal = Goal::Stop { grace: Millis(5000) };
        let told = report(&world.record().clone(), goal);
        world.one().executor = if silent { ExecutorState::Silent } else { connected(Some(told)) };
        let at = BootTime(1000 + 5000 + OVERDUE_MARGIN.0);
        let plan = world.plan();
        assert_eq!((plan.work.len(), plan.wake_at), (0, Some(at)));
        world.now = at.0;
        assert_eq!(world.only(), (Action::Kill(id), Reason::Overdue));
    }
}

#[test]
fn the_deadline_of_a_stop_survives_the_agent_and_ends_with_the_boot() {
    let mut world = World::running();
    world.unclaim();
    let (action, _) = world.only();
    world.act(action);
    world.one().executor = ExecutorState::Silent;
    world.nothing();
    world.actual.boot = "next".parse().unwrap();
    world.now = 3;
    assert_eq!(world.only().1, Reason::Overdue);
}

#[test]
fn a_claim_that_comes_back_does_not_revive_what_is_going() {
    let mut world = World::running();
    let old = world.id();
    world.unclaim();
    let (action, _) = world.only();
    world.act(action);
    world.claim("1", &pod("p", "p"));
    let (action, _) = world.only();
    assert!(matches!(action, Action::SetSpec { goal: Goal::Stop { .. }, .. }), "{action:?}");
    world.settle();
    assert_ne!(world.id(), old);
}

#[test]
fn a_store_lost_while_a_pod_is_going_finds_it_again_and_tells_it_what_is_wanted_now() {
    let mut world = World::running();
    let id = world.id();
    let mut record = world.one().record.take().unwrap();
    record.phase = RecordPhase::Active;
    let told = report(&record, Goal::Stop { grace: Millis(5000) });
    world.one().adoptable = Some(record);
    world.one().executor = connected(Some(told));
    let (action, _) = world.only();
    world.act(action);
    assert_eq!(world.only().0, Action::SetSpec { id, goal: Goal::Run });
    world.unclaim();
    assert_eq!(world.only().1, Reason::Terminated(TerminationCause::Removed));
}

#[test]
fn a_silent_executor_is_left_alone() {
    let mut world = World::running();
    world.one().executor = ExecutorState::Silent;
    assert_eq!(world.plan(), Plan::default());
}

#[test]
fn an_executor_of_another_build_is_upgraded_before_it_is_told_and_never_twice() {
    let mut world = World::running();
    let id = world.id();
    world.actual.executor_build = "b2".to_owned();
    world.claim("1", &labelled("new"));
    let (action, _) = world.only();
    world.act(action);
    assert_eq!(world.only(), (Action::Upgrade(id), Reason::OtherBuild));
    let ExecutorState::Connected { refused_upgrade, .. } = &mut world.one().executor else {
        panic!("not connected")
    };
    *refused_upgrade = true;
    assert_eq!(world.only().0, Action::SetSpec { id, goal: Goal::Run });
}

#[test]
fn an_interrupted_acceptance_is_completed() {
    let mut world = World::running();
    let id = world.id();
    // The specification was written, the record was not; then the manifest broke.
    world.one().spec = Some(stored(&labelled("new")));
    world.unclaim();
    world.desired.faulty.insert(file("/m", "1"));
    let (action, reason) = world.only();
    assert_eq!(reason, Reason::AcceptanceInterrupted);
    world.act(action);
    assert_eq!(world.record().accepted.number, 2);
    assert_eq!(world.only().0, Action::SetSpec { id, goal: Goal::Run });
    world.settle();
}

#[test]
fn an_interrupted_acceptance_is_taken_back_with_the_manifest() {
    let mut world = World::running();
    world.one().spec = Some(stored(&labelled("new")));
    let (action, reason) = world.only();
    assert_eq!(reason, Reason::SpecificationMissing);
    world.act(action);
    assert_eq!(world.plan(), Plan::default());
}

#[test]
fn without_a_specification_nothing_is_started_until_a_claim_brings_one() {
    let mut world = World::running();
    world.one().executor = ExecutorState::Absent;
    for spec in [None, Some(stored(&pod("p", "of another instance")))] {
        world.one().spec = spec;
        let claims = std::mem::take(&mut world.desired.claims);
        world.desired.faulty.insert(file("/m", "1"));
        world.nothing();
        world.desired.claims = claims;
        world.desired.faulty.clear();
        assert_eq!(world.only().1, Reason::SpecificationMissing);
    }
}

#[test]
fn one_pod_in_trouble_does_not_delay_another() {
    let mut world = World::running();
    world.one().executor = ExecutorState::Silent;
    world.claim("2", &pod("q", "q"));
    assert_eq!(world.only().1, Reason::NewManifest(file("/m", "2")));
}

fn executor_states() -> impl Strategy<Value = u8> {
    0_u8..6
}

proptest! {
    /// From wherever a pod is found, carrying out the plans comes to rest, and there nothing is
    /// left to do and nobody is to be woken in the past.
    #[test]
    fn every_state_comes_to_rest(
        phase in 0_u8..4,
        executor in executor_states(),
        wanted in 0_u8..4,
        has_spec in any::<bool>(),
        has_record in any::<bool>(),
        faulty in any::<bool>(),
        losses in 0_u32..100,
    ) {
        let mut world = World::running();
        let boot: BootId = "boot".parse().unwrap();
        let record = world.record();
        record.losses.count = losses;
        let cause = TerminationCause::Removed;
        record.phase = match phase {
            0 => RecordPhase::Active,
            1 => RecordPhase::Finished {
                outcome: Outcome::Failed,
                because: None,
                containers: BTreeMap::new(),
            },
            2 => RecordPhase::Terminating {
                cause,
                grace: Millis(0),
                kill_at: Moment { boot, at: BootTime(0) },
            },
            _ => RecordPhase::Destroying { cause },
        };
        let record = record.clone();
        let pod_is = world.one();
        pod_is.executor = match executor {
            0 => ExecutorState::Absent,
            1 => ExecutorState::Lost { lived: Millis(5) },
            2 => ExecutorState::Silent,
            3 => connected(None),
            4 => connected(Some(report(&record, Goal::Run))),
            _ => ExecutorState::Connected {
                build: "old".to_owned(),
                refused_upgrade: false,
                report: Some(report(&record, Goal::Stop { grace: Millis(3) })),
            },
        };
        if !has_spec {
            pod_is.spec = None;
        }
        if !has_record {
            pod_is.adoptable = Some(PodRecord { phase: RecordPhase::Active, ..record });
            pod_is.record = None;
        }
        world.unclaim();
        match wanted {
            0 => {}
            1 => world.claim("1", &pod("p", "p")),
            2 => world.claim("1", &labelled("new")),
            _ => world.claim("0", &pod("p", "other")),
        }
        if faulty {
            world.desired.faulty.insert(file("/m", "1"));
        }
        world.settle();
        let plan = world.plan();
        prop_assert!(plan.work.is_empty());
        // What waits for a time goes on then.
        if let Some(at) = plan.wake_at {
            world.now = at.0;
            world.settle();
        }
        prop_assert!(world.actual.pods.len() <= 1);
    }
}
