//! Who gets room, on the world that carries out its own plans.

use proptest::prelude::*;

use super::super::tests::world::{World, file, pod};
use super::super::*;
use super::*;
use crate::manifest::pod::{HostPathType, Protocol, Volume};
use crate::state::record::{Outcome, RecordPhase, TerminationCause};

const GI: u64 = 1 << 30;

fn node(cpu_milli: u64) -> Node {
    Node {
        capacity: Requests { cpu_milli, memory_bytes: 4 * GI },
        reserve: Requests { cpu_milli: 200, memory_bytes: 0 },
        ..Node::default()
    }
}

/// A world on a node of that many thousandths, 200 of which are reserved.
fn world(cpu_milli: u64) -> World {
    let mut world = World::new();
    world.actual.node = node(cpu_milli);
    world
}

fn cpu(name: &str, milli: u64) -> PodSpec {
    let mut spec = pod(name, name);
    spec.containers[0].resources.cpu_request_milli = Some(milli);
    spec
}

fn port(name: &str, number: u16, ip: Option<&str>) -> PodSpec {
    let mut spec = pod(name, name);
    spec.containers[0].ports.push(ContainerPort {
        name: None,
        container_port: number,
        host_port: Some(number),
        host_ip: ip.map(|ip| ip.parse().unwrap()),
        protocol: Protocol::Tcp,
    });
    spec
}

fn key(name: &str) -> PodName {
    name.parse().unwrap()
}

/// Why that pod waits.
#[track_caller]
fn waits(world: &World, name: &str) -> String {
    let plan = world.plan();
    plan.waits
        .get(&key(name))
        .unwrap_or_else(|| panic!("{name} does not wait: {plan:?}"))
        .why
        .clone()
}

fn running(world: &World) -> Vec<String> {
    let records = world.actual.pods.values().filter_map(|pod| pod.record.as_ref());
    let mut names: Vec<String> = records.map(|record| record.name.name.to_string()).collect();
    names.sort();
    names
}

#[test]
fn what_does_not_fit_waits_and_says_why_and_starts_when_there_is_room() {
    let mut world = world(4000);
    world.claim("1", &cpu("a", 3300));
    world.claim("2", &cpu("b", 2000));
    world.settle();
    assert_eq!(running(&world), ["a"]);
    assert_eq!(waits(&world, "b"), "needs 2 cpu, 0.5 of 4 are free (reserve 0.2)");
    // A smaller one passes it.
    world.claim("3", &cpu("c", 500));
    world.settle();
    assert_eq!(running(&world), ["a", "c"]);
    world.desired.claims.remove(&key("a"));
    world.settle();
    assert_eq!(running(&world), ["b", "c"]);
}

#[test]
fn the_files_names_decide_who_comes_first_and_not_the_pods() {
    let mut world = world(1200);
    world.claim("2", &cpu("a", 1000));
    world.claim("1", &cpu("z", 1000));
    world.settle();
    assert_eq!(running(&world), ["z"]);
}

#[test]
fn a_higher_priority_comes_first() {
    let mut world = world(1200);
    world.claim("1", &cpu("a", 1000));
    world.claim("2", &PodSpec { priority: 1, ..cpu("z", 1000) });
    world.settle();
    assert_eq!(running(&world), ["z"]);
}

#[test]
fn what_runs_is_never_stopped_for_want_of_room() {
    let mut world = world(4200);
    world.claim("1", &cpu("a", 2000));
    world.claim("2", &cpu("b", 2000));
    world.settle();
    world.actual.node = node(1200);
    world.claim("0", &cpu("c", 100));
    world.settle();
    assert_eq!(running(&world), ["a", "b"]);
    assert!(waits(&world, "c").contains("0 of 1.2 are free"), "{}", waits(&world, "c"));
    // What asks for nothing, or for less than it has, needs no room.
    world.claim("0", &cpu("c", 0));
    world.claim("1", &cpu("a", 1500));
    world.settle();
    assert_eq!((running(&world).len(), world.plan().waits.len()), (3, 0));
}

#[test]
fn a_change_that_does_not_fit_leaves_the_last_good_revision_running() {
    for is_replaced in [false, true] {
        let mut world = world(1200);
        world.claim("1", &cpu("a", 500));
        world.settle();
        let id = world.id();
        let mut other = cpu("a", 2000);
        if is_replaced {
            other.hostname = "other".to_owned();
        }
        world.claim("1", &other);
        world.settle();
        assert_eq!((world.id(), world.record().accepted.number), (id, 1));
        assert!(waits(&world, "a").starts_with("needs 2 cpu"));
        world.actual.node = node(4000);
        world.settle();
        assert_eq!(world.record().accepted.number, 2);
        assert_eq!(world.id() != id, is_replaced);
    }
}

/// Invariant 5: a replacement was admitted before anything was stopped for it, and keeps its room.
#[test]
fn nobody_takes_the_room_of_a_replacement_in_between() {
    let mut world = world(1200);
    world.claim("5", &cpu("a", 1000));
    world.settle();
    let mut other = cpu("a", 1000);
    other.hostname = "other".to_owned();
    world.claim("5", &other);
    let old = world.id();
    world.act_until(|action| matches!(action, Action::Retire { .. }));
    world.claim("0", &cpu("b", 1000));
    while world.actual.pods.contains_key(&old) {
        for step in world.plan().work.into_values().flatten() {
            assert!(!matches!(&step.action, Action::Create(new) if new.spec.name == key("b")));
            world.act(step.action);
        }
    }
    world.settle();
    assert_eq!(running(&world), ["a"]);
    waits(&world, "b");
}

#[test]
fn a_replacement_that_grew_too_large_meanwhile_does_not_end_the_pod() {
    let mut world = world(1200);
    world.claim("1", &cpu("a", 1000));
    world.settle();
    let mut other = cpu("a", 1000);
    other.hostname = "other".to_owned();
    world.claim("1", &other);
    world.act_until(|action| matches!(action, Action::Retire { .. }));
    other.containers[0].resources.cpu_request_milli = Some(9000);
    world.claim("1", &other);
    world.settle();
    assert_eq!(world.one().spec.as_ref().unwrap().spec.hostname, "a");
    waits(&world, "a");
}

#[test]
fn what_a_worker_is_out_for_is_taken() {
    let mut world = world(1200);
    world.claim("5", &cpu("a", 1000));
    let plan = world.plan();
    assert_eq!(plan.promised.len(), 1);
    world.actual.under_way = plan.promised;
    // It comes first by its name, and too late.
    world.claim("0", &cpu("b", 1000));
    waits(&world, "b");
}

#[test]
fn what_a_worker_is_out_for_is_taken_even_if_its_manifest_is_gone_meanwhile() {
    let mut world = world(1200);
    world.claim("5", &cpu("a", 1000));
    world.actual.under_way = world.plan().promised;
    world.unclaim();
    world.claim("5", &cpu("b", 1000));
    waits(&world, "b");
    world.actual.under_way.clear();
    world.settle();
    assert_eq!(running(&world), ["b"]);
}

#[test]
fn a_pod_that_is_through_takes_nothing_although_its_executor_was_lost() {
    let mut world = world(1200);
    world.claim("1", &cpu("a", 1000));
    world.settle();
    let phase = RecordPhase::Finished {
        outcome: Outcome::Failed,
        because: None,
        containers: BTreeMap::new(),
    };
    world.record().phase = phase;
    world.one().executor = ExecutorState::Lost { lived: Millis(1) };
    world.claim("2", &cpu("b", 1000));
    waits(&world, "b");
    // What may be left of its processes is cleared away first.
    world.settle();
    assert_eq!(running(&world), ["a", "b"]);
    assert!(world.plan().waits.is_empty());
}

#[test]
fn a_request_that_is_left_out_is_the_limit_and_else_nothing() {
    let mut spec = pod("p", "p");
    assert_eq!(Requests::of(&spec), Requests::default());
    let mut second = spec.containers[0].clone();
    spec.containers[0].resources.cpu_limit_milli = Some(700);
    spec.containers[0].resources.cpu_request_milli = Some(100);
    second.resources.cpu_limit_milli = Some(30);
    second.resources.memory_limit_bytes = Some(5);
    spec.containers.push(second);
    assert_eq!(Requests::of(&spec), Requests { cpu_milli: 130, memory_bytes: 5 });
}

#[test]
fn a_pod_that_is_through_takes_nothing_and_needs_room_to_run_again() {
    let mut world = world(1200);
    world.claim("1", &cpu("a", 1000));
    world.settle();
    world.record().phase = RecordPhase::Finished {
        outcome: Outcome::Succeeded,
        because: None,
        containers: BTreeMap::new(),
    };
    world.claim("2", &cpu("b", 1000));
    world.settle();
    assert_eq!(running(&world), ["a", "b"]);
    // Nor does it when it goes.
    let claim = world.desired.claims.remove(&key("a")).unwrap();
    world.act_until(|action| matches!(action, Action::Record(_)));
    assert_eq!(world.plan().requested.cpu_milli, 1000);
    world.desired.claims.insert(key("a"), claim);
    let record = world.actual.pods.values_mut().find(|pod| pod.name() == Some(&key("a")));
    record.unwrap().record.as_mut().unwrap().phase = RecordPhase::Finished {
        outcome: Outcome::Succeeded,
        because: None,
        containers: BTreeMap::new(),
    };
    let mut other = cpu("a", 1000);
    other.containers[0].command.push("again".to_owned());
    world.claim("1", &other);
    waits(&world, "a");
    world.settle();
    assert_eq!(running(&world), ["a", "b"]);
}

/// A restart needs what is to run again: without it there is only the manifest to follow.
#[test]
fn a_restart_that_can_t_be_done_lets_nothing_in_that_was_not_admitted() {
    let mut world = world(1200);
    world.claim("1", &cpu("a", 100));
    world.settle();
    world.actual.pods.values_mut().next().unwrap().spec = None;
    let id = *world.actual.pods.keys().next().unwrap();
    world.actual.asked.insert(id, Asked::Restart);
    world.claim("1", &cpu("a", 3000));
    waits(&world, "a");
    assert!(world.plan().work.is_empty(), "{:?}", world.plan().work);
}

/// A pod that was through when its manifest asked for something else, and goes for that.
fn edited_when_through() -> (World, PodSpec) {
    let mut world = world(1200);
    world.claim("1", &cpu("a", 1000));
    world.settle();
    world.record().phase = RecordPhase::Finished {
        outcome: Outcome::Succeeded,
        because: None,
        containers: BTreeMap::new(),
    };
    world.settle();
    let mut other = cpu("a", 100);
    other.hostname = "other".to_owned();
    world.claim("1", &other);
    world.act_until(|action| matches!(action, Action::Retire { .. }));
    (world, other)
}

/// A run-once pod that is edited is not run again as it was, and takes no room for that.
#[test]
fn what_is_through_has_nothing_to_fall_back_to() {
    let (mut world, _) = edited_when_through();
    assert_eq!(world.plan().requested.cpu_milli, 100);
    world.desired.claims.clear();
    world.desired.faulty.insert(file("/m", "1"));
    world.settle();
    assert!(world.actual.pods.is_empty());
}

/// What comes later begins anew, and finds no revisions of a pod that it is not.
#[test]
fn what_goes_without_a_successor_leaves_no_revisions() {
    let (mut world, mut other) = edited_when_through();
    assert_eq!(world.kept.len(), 1);
    other.containers[0].resources.cpu_request_milli = Some(9000);
    world.claim("1", &other);
    world.settle();
    assert_eq!((world.actual.pods.len(), world.kept.len()), (0, 0));
    waits(&world, "a");
    world.actual.node = node(20_000);
    let (action, _) = world.only();
    let Action::Create(creation) = action else { panic!("{action:?}") };
    assert!(creation.is_first && creation.number == 1);
}

#[test]
fn of_two_pods_with_one_host_port_the_one_that_has_it_keeps_it() {
    let mut world = world(4000);
    world.claim("5", &port("a", 80, None));
    world.settle();
    world.claim("0", &port("b", 80, Some("127.0.0.1")));
    world.claim("1", &port("c", 81, None));
    world.settle();
    assert_eq!(running(&world), ["a", "c"]);
    assert_eq!(waits(&world, "b"), "host port 80/TCP of 127.0.0.1 is taken by pod default/a");
    world.desired.claims.remove(&key("a"));
    world.settle();
    assert_eq!(running(&world), ["b", "c"]);
    // Different addresses, and different protocols, do not meet.
    world.claim("6", &port("d", 80, Some("127.0.0.2")));
    let mut udp = port("e", 80, None);
    udp.containers[0].ports[0].protocol = Protocol::Udp;
    world.claim("7", &udp);
    world.settle();
    assert_eq!(running(&world), ["b", "c", "d", "e"]);
}

#[test]
fn there_are_not_more_pods_than_the_most() {
    let mut world = world(4000);
    world.actual.node.max_pods = 1;
    world.claim("1", &pod("a", "a"));
    world.claim("2", &pod("b", "b"));
    world.settle();
    assert_eq!(running(&world), ["a"]);
    assert_eq!(waits(&world, "b"), "there are 1 pods, and 1 are the most");
}

/// A world on a node of zone a with the pod `p`, and a manifest of it for zone b.
fn elsewhere(world: &mut World) -> PodSpec {
    let mut elsewhere = pod("p", "p");
    elsewhere.node_selector.insert("zone".to_owned(), "b".to_owned());
    world.actual.node.labels.insert("zone".to_owned(), "a".to_owned());
    world.claim("1", &elsewhere);
    elsewhere
}

#[test]
fn a_pod_for_another_node_is_passed_over() {
    let mut world = World::new();
    elsewhere(&mut world);
    let plan = world.plan();
    assert!(plan.work.is_empty() && plan.waits.is_empty(), "{plan:?}");
    assert!(!plan.passed_over[0].stays);
    assert!(plan.passed_over[0].to_string().contains("zone=b"), "{}", plan.passed_over[0]);
    world.actual.node.labels.insert("zone".to_owned(), "b".to_owned());
    assert_eq!(world.only().1, Reason::NewManifest(file("/m", "1")));
}

#[test]
fn a_pod_that_is_for_another_node_now_stays_as_it_is_until_its_manifest_is_gone() {
    let mut world = World::running();
    let id = world.id();
    elsewhere(&mut world);
    // Another file that asks for it here does not get it.
    world.claim("2", &pod("p", "other"));
    let plan = world.plan();
    assert!(plan.work.is_empty(), "{:?}", plan.work);
    assert_eq!((plan.passed_over.len(), plan.passed_over[0].stays), (1, true));
    // What is lost of it is started again.
    world.one().executor = ExecutorState::Absent;
    world.settle();
    assert_eq!((world.id(), world.record().phase.clone()), (id, RecordPhase::Active));
    world.unclaim();
    assert_eq!(world.only().1, Reason::Terminated(TerminationCause::Removed));
    world.settle();
    assert!(world.actual.pods.is_empty());
}

#[test]
fn a_pod_that_is_for_another_node_while_it_is_replaced_falls_back_to_what_it_was() {
    let mut world = World::running();
    world.claim("1", &pod("p", "other"));
    world.act_until(|action| matches!(action, Action::Retire { .. }));
    elsewhere(&mut world);
    world.settle();
    assert_eq!(world.one().spec.as_ref().unwrap().spec.hostname, "p");
}

#[test]
fn amounts_are_written_as_people_write_them() {
    let cpus = [0, 5, 200, 1000, 1250].map(|milli| Cpu(milli).to_string());
    assert_eq!(cpus, ["0", "0.005", "0.2", "1", "1.25"]);
    let bytes = [7, 1024, 64 << 20, 3 << 29, u64::MAX].map(|bytes| Bytes(bytes).to_string());
    assert_eq!(bytes, ["7", "1Ki", "64Mi", "1.5Gi", "16777215.9Ti"]);
}

#[derive(Debug, Clone)]
enum Event {
    Ask { pod: usize, file: usize, milli: u64, port: Option<u16>, host: bool },
    Remove { pod: usize },
    Shrink { milli: u64 },
    Work { steps: usize },
}

fn event() -> impl Strategy<Value = Event> {
    let ask = (0..5_usize, 0..9_usize, 0..1500_u64, prop::option::of(80..82_u16), any::<bool>());
    prop_oneof![
        4 => ask.prop_map(|(pod, file, milli, port, host)| {
            Event::Ask { pod, file, milli, port, host }
        }),
        2 => (0..5_usize).prop_map(|pod| Event::Remove { pod }),
        1 => (500..3000_u64).prop_map(|milli| Event::Shrink { milli }),
        4 => (1..9_usize).prop_map(|steps| Event::Work { steps }),
    ]
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// What runs of all pods but that one, together with a specification of it.
fn with(world: &World, spec: &PodSpec) -> (Requests, Vec<HostPort>) {
    let others = world.actual.pods.values().filter(|pod| {
        let record = pod.record.as_ref().unwrap();
        record.phase == RecordPhase::Active && record.name != spec.name
    });
    let specs = others.map(|pod| &*pod.spec.as_ref().unwrap().spec).chain([spec]);
    specs.fold((Requests::default(), Vec::new()), |(sum, mut ports), spec| {
        ports.extend(host_ports(spec));
        (sum.plus(Requests::of(spec)), ports)
    })
}

proptest! {
    /// However manifests and the node change, and wherever carrying out a plan is cut off: nothing
    /// that asks for more than before is started without room, no port is given twice, and in the
    /// end whoever fits runs.
    #[test]
    fn what_is_started_fits(events in prop::collection::vec(event(), 1..40)) {
        let mut world = world(1700);
        for event in events {
            match event {
                Event::Ask { pod, file, milli, port: number, host } => {
                    let mut spec = number.map_or_else(
                        || cpu(NAMES[pod], milli),
                        |number| port(NAMES[pod], number, None),
                    );
                    spec.containers[0].resources.cpu_request_milli = Some(milli);
                    if host {
                        spec.hostname = "other".to_owned();
                    }
                    world.desired.claims.remove(&spec.name);
                    world.claim(&file.to_string(), &spec);
                }
                Event::Remove { pod } => {
                    world.desired.claims.remove(&key(NAMES[pod]));
                }
                Event::Shrink { milli } => world.actual.node = node(milli),
                Event::Work { steps } => {
                    let mut done = 0;
                    while done < steps {
                        let plan = world.plan();
                        let Some(step) = plan.work.into_values().flatten().next() else { break };
                        let spec = match &step.action {
                            Action::Create(creation) => Some(creation.spec.clone()),
                            Action::Accept { spec, .. } => Some(spec.clone()),
                            Action::Retire { .. }
                            | Action::Record(_)
                            | Action::NoteLoss(_)
                            | Action::Start(_)
                            | Action::SetSpec { .. }
                            | Action::Upgrade(_)
                            | Action::Kill(_)
                            | Action::Release(_)
                            | Action::Destroy(_)
                            | Action::Forget { .. } => None,
                        };
                        if let Some(spec) = spec {
                            let (sum, mut ports) = with(&world, &spec);
                            let mine = |pod: &&ActualPod| pod.name() == Some(&spec.name);
                            let before = world.actual.pods.values().filter(mine).flat_map(|pod| {
                                pod.spec.iter().chain(&pod.successor)
                            });
                            let before = before
                                .map(|stored| Requests::of(&stored.spec).cpu_milli)
                                .max();
                            let free = world.actual.node.allocatable().cpu_milli;
                            let asks = Requests::of(&spec).cpu_milli;
                            prop_assert!(
                                asks == 0 || sum.cpu_milli <= free || before >= Some(asks),
                                "{} of {free} with {}", sum.cpu_milli, spec.name
                            );
                            ports.sort_by_key(|port| port.number);
                            prop_assert!(ports.windows(2).all(|two| two[0] != two[1]));
                        }
                        world.act(step.action);
                        done += 1;
                    }
                }
            }
        }
        world.settle();
        let plan = world.plan();
        for (name, claims) in &world.desired.claims {
            let runs = world.actual.pods.values().any(|pod| {
                pod.record.as_ref().is_some_and(|record| {
                    record.accepted.digest == claims[0].revision.digest() && record.name == *name
                })
            });
            prop_assert_eq!(runs, !plan.waits.contains_key(name), "{}", name);
            if let Some(wait) = plan.waits.get(name) {
                let (sum, ports) = with(&world, &wait.spec);
                let is_full = !sum.is_within(world.actual.node.allocatable());
                let mut numbers: Vec<u16> = ports.iter().map(|port| port.number).collect();
                numbers.sort_unstable();
                let is_taken = numbers.windows(2).any(|two| two[0] == two[1]);
                prop_assert!(is_full || is_taken, "{name} waits for nothing: {}", wait.why);
            }
        }
    }
}

#[test]
fn a_setting_of_the_kernel_that_is_not_safe_waits_until_the_node_allows_it() {
    let with = |name: &str, setting: &str| {
        let mut spec = cpu(name, 1);
        spec.security.sysctls = [(setting.parse().unwrap(), "1".to_owned())].into();
        spec
    };
    let mut world = world(1000);
    world.claim("1", &with("safe", "net.ipv4.tcp_syncookies"));
    world.claim("2", &with("backlog", "net.core.somaxconn"));
    assert!(waits(&world, "backlog").starts_with("sysctl net.core.somaxconn is not safe"));
    assert!(!world.plan().waits.contains_key(&key("safe")));
    for (pattern, allows) in [
        ("net.core", false),
        ("net.ipv4.*", false),
        ("net.core.*", true),
        ("net.core.somaxconn", true),
    ] {
        world.actual.node.sysctls = vec![pattern.to_owned()];
        let waits = world.plan().waits.contains_key(&key("backlog"));
        assert_eq!(waits, !allows, "{pattern}");
    }
}

#[test]
fn a_path_of_the_host_waits_until_the_node_allows_it() {
    let mut spec = cpu("data", 1);
    let source = VolumeSource::HostPath {
        path: "/srv/data/db".parse().unwrap(),
        kind: HostPathType::Unchecked,
    };
    let name = "db".parse().unwrap();
    spec.volumes.push(Volume { name, source });
    let mut world = world(1000);
    world.claim("1", &spec);
    let mut check = |allowed: Option<&[&str]>, expected: bool| {
        world.actual.node.host_paths = allowed.map(|all| all.iter().map(Into::into).collect());
        let waits = world.plan().waits.get(&key("data")).map(|wait| wait.why.clone());
        assert_eq!(waits.is_none(), expected, "{allowed:?} {waits:?}");
    };
    check(None, true);
    check(Some(&[]), false);
    check(Some(&["/srv/dat", "/srv/data/db/x"]), false);
    check(Some(&["/opt", "/srv/data"]), true);
    check(Some(&["/srv/data/db"]), true);
    check(Some(&["/"]), true);
}

#[test]
fn what_lacks_a_config_map_takes_nobodys_room() {
    let mut world = world(1200);
    world.claim("1", &cpu("a", 800));
    let claims = world.desired.claims.get_mut(&key("default/a")).unwrap();
    claims[0].lacks = Some("ConfigMap m is missing".into());
    world.claim("2", &cpu("b", 800));
    world.settle();
    assert_eq!(waits(&world, "default/a"), "ConfigMap m is missing");
    assert_eq!(world.plan().waits.len(), 1);
}
