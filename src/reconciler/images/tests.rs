use std::sync::Arc;

use oci_spec::image::Digest;

use super::super::tests::world::*;
use super::super::*;
use super::*;
use crate::manifest::pod::{Image, PodSpec, ResolvedImage};
use crate::provisioner::reference::PullPolicy;

fn id(byte: u8) -> ImageId {
    digest(byte).into()
}

fn digest(byte: u8) -> Digest {
    format!("sha256:{}", format!("{byte:02x}").repeat(32)).parse().unwrap()
}

/// The pod `p` with an image; which one it is is known where `id` says so.
fn with_image(name: &str, id: Option<u8>) -> PodSpec {
    let mut spec = pod("p", "p");
    let resolved = id.map(|id| ResolvedImage {
        id: self::id(id),
        manifest: digest(id),
        layers: vec![],
        entrypoint: vec![],
        cmd: vec![],
        env: vec![],
        user: String::new(),
        working_dir: None,
        stop_signal: None,
    });
    let (source, pull) = (name.parse().unwrap(), PullPolicy::IfNotPresent);
    spec.containers[0].image = Some(Image { source, pull, resolved: resolved.map(Arc::new) });
    spec
}

/// What the agent does when the search has ended.
fn find(world: &mut World, name: &str, is: u8) {
    world.actual.images.sought.clear();
    world.actual.images.here.insert(id(is));
    world.claim("1", &with_image(name, Some(is)));
}

/// The pod with that image, running; its manifest is read anew, so what it names is not known.
fn running(name: &str, id: u8) -> World {
    let mut world = World::new();
    find(&mut world, name, id);
    world.settle();
    world.claim("1", &with_image(name, None));
    world.nothing();
    world
}

fn fail(world: &mut World) {
    let text = "no such host".to_owned();
    let failed = Sought::Failed { trouble: ImageTrouble::ErrImagePull, text };
    world.actual.images.sought.insert("p".parse().unwrap(), failed);
}

fn sought(world: &World) -> Option<PodSpec> {
    let plan = world.plan();
    assert!(plan.seek.len() <= 1);
    plan.seek.into_values().next().map(|spec| (*spec).clone())
}

fn wait(world: &World) -> (String, WaitReason) {
    let wait = world.plan().waits.into_values().next().unwrap();
    (wait.why, wait.reason)
}

#[test]
fn a_pod_waits_for_its_images_and_is_made_when_they_are_here() {
    let mut world = World::new();
    world.claim("1", &with_image("web", None));
    world.nothing();
    assert_eq!(sought(&world), Some(with_image("web", None)));
    assert_eq!(wait(&world).1, WaitReason::Images { is_pulling: false });
    fail(&mut world);
    let trouble = WaitReason::Trouble(ImageTrouble::ErrImagePull);
    assert_eq!(wait(&world), ("no such host".to_owned(), trouble));
    // It goes on being sought.
    assert!(sought(&world).is_some());
    find(&mut world, "web", 1);
    assert_eq!(sought(&world), None);
    let (action, _) = world.only();
    assert!(matches!(action, Action::Create(_)), "{action:?}");
}

#[test]
fn what_has_no_room_asks_no_registry() {
    let mut world = World::new();
    world.actual.node.max_pods = 0;
    world.claim("1", &with_image("web", None));
    assert_eq!(wait(&world).1, WaitReason::Room);
    assert_eq!(sought(&world), None);
}

#[test]
fn an_image_that_is_known_but_gone_is_sought_again_before_anything_is_made_of_it() {
    let mut world = World::new();
    world.claim("1", &with_image("web", Some(1)));
    world.nothing();
    assert!(sought(&world).is_some());
}

#[test]
fn another_image_ends_nothing_before_it_is_here() {
    let mut world = running("web:1", 1);
    world.claim("1", &with_image("web:2", None));
    world.nothing();
    fail(&mut world);
    world.nothing();
    find(&mut world, "web:2", 2);
    let (action, _) = world.only();
    let Action::Accept { spec, .. } = action else { panic!("{action:?}") };
    assert_eq!(*spec, with_image("web:2", Some(2)));
}

#[test]
fn a_file_that_is_renamed_keeps_the_image_that_runs() {
    let mut world = running("web", 1);
    world.unclaim();
    world.claim("2", &with_image("web", None));
    let (action, _) = world.only();
    let Action::Accept { spec, .. } = action else { panic!("{action:?}") };
    assert_eq!(*spec, with_image("web", Some(1)));
}

#[test]
fn a_pod_whose_image_was_lost_runs_on_and_is_not_started_before_it_is_back() {
    let mut world = running("web", 1);
    world.actual.images.here.clear();
    world.nothing();
    assert_eq!(sought(&world), Some(with_image("web", Some(1))));
    assert_eq!(wait(&world).1, WaitReason::Images { is_pulling: false });
    world.one().executor = ExecutorState::Absent;
    world.nothing();
    fail(&mut world);
    assert_eq!(wait(&world).0, "no such host");
    world.actual.images.here.insert(id(1));
    assert!(matches!(world.only().0, Action::Start(_)));
}

#[test]
fn who_asks_for_a_restart_gets_what_the_name_means_now() {
    let mut world = running("web", 1);
    let id = world.id();
    world.actual.asked.insert(id, Asked::Restart);
    world.nothing();
    assert_eq!(sought(&world), Some(with_image("web", None)));
    find(&mut world, "web", 2);
    world.settle();
    let spec = world.one().spec.clone().unwrap().spec;
    assert_eq!(*spec, with_image("web", Some(2)));
}

/// A pod that was to be replaced when the agent ended, and whose old instance is gone by now.
fn half_replaced() -> World {
    let mut world = running("web:1", 1);
    let mut other = with_image("web:2", Some(2));
    other.hostname = "other".to_owned();
    world.actual.images.here.insert(id(2));
    world.claim("1", &other);
    world.act_until(|action| {
        let Action::Record(record) = action else { return false };
        matches!(record.phase, crate::state::record::RecordPhase::Destroying { .. })
    });
    other.images_mut().for_each(|image| image.resolved = None);
    world.claim("1", &other);
    world
}

#[test]
fn a_replacement_under_way_waits_a_moment_for_what_is_known_of_its_images() {
    let world = half_replaced();
    world.nothing();
    assert!(sought(&world).is_some());
}

#[test]
fn a_replacement_whose_images_can_not_be_got_any_more_falls_back_to_what_was() {
    let mut world = half_replaced();
    fail(&mut world);
    world.act_until(|action| matches!(action, Action::Create(_)));
    let spec = world.actual.pods.values().find_map(|pod| pod.spec.clone()).unwrap().spec;
    assert_eq!(*spec, with_image("web:1", Some(1)));
}
