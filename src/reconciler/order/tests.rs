use super::super::tests::world::{World, connected, file, pod, report_on, running};
use super::super::*;
use crate::executor::protocol::ContainerStatus;
use crate::manifest::pod::{After, Until};
use crate::state::record::{Outcome, RecordPhase};

fn after(name: &str, other: &str, until: Until) -> PodSpec {
    let after = After { pod: other.parse().unwrap(), until };
    PodSpec { after: vec![after], ..pod(name, name) }
}

/// A world with a pod `db` that runs, and one that waits for it.
fn world(until: Until) -> World {
    let mut world = World::new();
    world.claim("1", &pod("db", "db"));
    world.claim("2", &after("web", "db", until));
    world.settle();
    world
}

fn why(world: &World) -> Option<(String, WaitReason)> {
    let wait = world.plan().waits.remove(&"web".parse().unwrap())?;
    Some((wait.why, wait.reason))
}

fn instance<'a>(world: &'a mut World, name: &str) -> &'a mut ActualPod {
    let name = name.parse().unwrap();
    world.actual.pods.values_mut().find(|pod| pod.name() == Some(&name)).unwrap()
}

fn report(world: &mut World, name: &str, status: ContainerStatus) {
    let pod = instance(world, name);
    pod.executor = connected(Some(report_on(pod.record.as_ref().unwrap(), status)));
}

#[test]
fn a_pod_is_not_started_before_the_one_that_it_waits_for_is_ready() {
    let mut world = world(Until::Ready);
    assert_eq!(world.actual.pods.len(), 1);
    let waits = ("waits for pod default/db to be Ready".to_owned(), WaitReason::Order);
    assert_eq!(why(&world), Some(waits));
    report(&mut world, "db", ContainerStatus::Creating);
    world.nothing();
    report(&mut world, "db", running());
    world.settle();
    assert_eq!(world.actual.pods.len(), 2);
    assert_eq!(why(&world), None);
}

#[test]
fn a_pod_is_not_started_before_the_one_that_it_waits_for_has_succeeded() {
    let mut world = world(Until::Succeeded);
    report(&mut world, "db", running());
    world.nothing();
    for (outcome, pods) in [(Outcome::Failed, 1), (Outcome::Succeeded, 2)] {
        let record = instance(&mut world, "db").record.as_mut().unwrap();
        record.phase =
            RecordPhase::Finished { outcome, because: None, containers: BTreeMap::new() };
        world.settle();
        assert_eq!(world.actual.pods.len(), pods);
    }
}

#[test]
fn one_that_nobody_asks_for_is_named() {
    let mut world = World::new();
    world.claim("2", &after("web", "shop/db", Until::Ready));
    world.settle();
    let why = why(&world).unwrap().0;
    assert_eq!(why, "waits for pod shop/db to be Ready, which no manifest asks for");
}

/// After a reboot there is a record and no executor.
#[test]
fn the_order_holds_for_each_start_and_for_starts_alone() {
    let mut world = world(Until::Ready);
    report(&mut world, "db", running());
    world.settle();
    report(&mut world, "web", running());
    report(&mut world, "db", ContainerStatus::Creating);
    world.nothing();
    instance(&mut world, "web").executor = ExecutorState::Absent;
    world.nothing();
    assert_eq!(why(&world).unwrap().1, WaitReason::Order);
    report(&mut world, "db", running());
    assert!(matches!(world.only().0, Action::Start(_)));
}

#[test]
fn a_new_revision_of_what_runs_does_not_wait() {
    let mut world = world(Until::Ready);
    report(&mut world, "db", running());
    world.settle();
    report(&mut world, "web", running());
    report(&mut world, "db", ContainerStatus::Creating);
    let mut changed = after("web", "db", Until::Ready);
    changed.labels.insert("a".to_owned(), "b".to_owned());
    world.claim_in(file("/m", "2"), &changed);
    assert!(matches!(world.only().0, Action::Accept { .. }));
}

/// What can't be started yet takes nobody's room.
#[test]
fn a_pod_that_waits_for_another_leaves_its_room_to_others() {
    let mut world = World::new();
    world.actual.node.max_pods = 1;
    world.claim("1", &after("web", "db", Until::Ready));
    world.claim("2", &pod("db", "db"));
    world.settle();
    assert_eq!(instance(&mut world, "db").name().unwrap().to_string(), "default/db");
}
