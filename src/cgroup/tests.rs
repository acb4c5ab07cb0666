//! Against the hierarchies of this host.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use super::testing::testing_base;
use super::*;
use crate::ids::{Attempt, ContainerName};
use crate::sys::testing::{exit, in_one_thread, stderr, wait_pidfd};
use crate::sys::{self, CloneRequest, Cloned, SpawnRequest};

const SOON: Duration = Duration::from_secs(10);
const MIB: u64 = 1 << 20;
const KILLED: i32 = 128 + 9;

fn pod_id() -> PodId {
    PodId::from_random(7)
}

fn container_name() -> ContainerName {
    "web".parse().unwrap()
}

/// A program in that cgroup which ends when it is killed.
fn start(entry: &Entry) -> (String, OwnedFd) {
    let exe = File::open("/bin/sleep").unwrap();
    let request = SpawnRequest {
        exe: exe.as_fd(),
        argv: &[c"sleep".into(), c"999".into()],
        env: &[],
        fds: &[],
        stderr: stderr(),
        entry: Some(entry),
    };
    let (pid, pidfd) = sys::spawn_detached(&request).unwrap();
    (pid.as_raw_nonzero().to_string(), pidfd)
}

/// Runs `body` as the executor starts a container: cloned into the cgroup, and the child enters
/// the hierarchies of cgroup v1 by itself. Returns its exit status.
fn run_inside(entry: &Entry, body: impl FnOnce() -> i32) -> i32 {
    in_one_thread(|| {
        let request = CloneRequest { flags: 0, into_cgroup: Some(entry.into.as_fd()) };
        match sys::clone_process(&request).unwrap() {
            Cloned::Parent { pidfd, .. } => wait_pidfd(pidfd),
            Cloned::Child => {
                for tasks in &entry.tasks {
                    rustix::io::write(tasks, b"0").unwrap();
                }
                exit(body())
            }
        }
    })
}

/// Since Linux 6.14 cloning into it does not do; nor does cloning from such a cgroup into another.
#[test]
fn a_program_can_be_started_in_a_cgroup_that_was_killed_before() {
    let base = testing_base();
    let pod = base.pod(pod_id());
    pod.create().unwrap();
    pod.kill_all().unwrap();
    let (pid, pidfd) = start(&pod.executor_entry().unwrap());
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
    assert!(own.ends_with(&format!("{}/executor", pod_id())), "{cgroups}");
    pod.kill_all().unwrap();
    assert_eq!(wait_pidfd(pidfd), KILLED);
    assert!(pod.wait_empty(SOON).unwrap());
    pod.destroy().unwrap();
}

/// What a limit is now, in the hierarchy that has the controller.
#[track_caller]
fn limit(base: &CgroupBase, controller: Controller, below: &str, v1: &str, v2: &str) -> String {
    let (version, hierarchy) = base
        .hierarchies()
        .find(|(_, hierarchy)| hierarchy.controllers.contains(&controller))
        .unwrap();
    let file = if version == Version::V1 { v1 } else { v2 };
    let path = hierarchy.directory.join(pod_id().to_string()).join(below).join(file);
    fs::read_to_string(path).unwrap().trim().to_owned()
}

fn directories_of_pod(base: &CgroupBase) -> Vec<bool> {
    base.hierarchies().map(|(_, h)| h.directory.join(pod_id().to_string()).exists()).collect()
}

#[test]
fn a_pod_is_made_found_and_removed_in_every_hierarchy() {
    let base = testing_base();
    let pod = base.pod(pod_id());
    for _ in 0..2 {
        pod.create().unwrap();
        pod.container(&container_name(), Attempt(3)).create(&ContainerLimits::default()).unwrap();
    }
    assert!(directories_of_pod(&base).iter().all(|exists| *exists));
    assert_eq!(base.pods().unwrap(), [pod_id()].into());
    assert_eq!(pod.containers().unwrap(), [(container_name(), Attempt(3))].into());
    for _ in 0..2 {
        pod.destroy().unwrap();
    }
    assert!(directories_of_pod(&base).iter().all(|exists| !exists));
    assert_eq!(base.pods().unwrap(), BTreeSet::new());
}

#[test]
fn a_pod_that_only_an_old_hierarchy_has_is_found() {
    let base = testing_base();
    let Some(legacy) = base.legacy.last() else { return };
    fs::create_dir(legacy.directory.join(pod_id().to_string())).unwrap();
    assert_eq!(base.pods().unwrap(), [pod_id()].into());
    base.pod(pod_id()).destroy().unwrap();
    assert_eq!(base.pods().unwrap(), BTreeSet::new());
}

#[test]
fn what_is_gone_can_be_killed_waited_for_and_removed() {
    let base = testing_base();
    let pod = base.pod(pod_id());
    let container = pod.container(&container_name(), Attempt(0));
    pod.kill_all().unwrap();
    pod.kill_containers().unwrap();
    container.kill().unwrap();
    assert!(pod.wait_empty(SOON).unwrap() && container.wait_empty(SOON).unwrap());
    assert!(!pod.is_populated().unwrap() && !container.is_populated().unwrap());
    container.remove().unwrap();
    assert_eq!(pod.containers().unwrap(), BTreeSet::new());
    assert!(matches!(container.entry(), Err(CgroupError::Io { .. })));
}

#[test]
fn a_process_enters_every_hierarchy_by_itself() {
    let base = testing_base();
    let pod = base.pod(pod_id());
    pod.create().unwrap();
    let container = pod.container(&container_name(), Attempt(0));
    let entry = container.create(&ContainerLimits::default()).unwrap();
    let name = base.unified.directory.file_name().unwrap().to_str().unwrap().to_owned();
    let check = |text: String, below: &str| {
        let inside = text.lines().filter(|line| line.contains(&name));
        let expected = format!("{name}/{}/{below}", pod_id());
        for line in inside.clone() {
            // A hierarchy of `pids` alone has no directories of containers.
            let in_pod = line.contains(":pids:") && below != "executor";
            let expected = if in_pod { expected.trim_end_matches("/web-0") } else { &expected };
            assert!(line.ends_with(expected), "{line}");
        }
        inside.count()
    };
    let all = 1 + base.legacy.len();
    let (pid, _pidfd) = start(&entry);
    let read = |pid: &str| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert_eq!(check(read(&pid), "pod/web-0"), all);
    let (executor, _pidfd) = start(&pod.executor_entry().unwrap());
    assert_eq!(check(read(&executor), "executor"), all);
    let status = run_inside(&container.entry().unwrap(), || {
        i32::try_from(check(read("self"), "pod/web-0")).unwrap()
    });
    assert_eq!(usize::try_from(status).unwrap(), all);
}

#[test]
fn containers_are_killed_without_the_executor_and_all_with_it() {
    let base = testing_base();
    let pod = base.pod(pod_id());
    pod.create().unwrap();
    let limits = ContainerLimits::default();
    let first = pod.container(&container_name(), Attempt(0));
    let second = pod.container(&container_name(), Attempt(1));
    let (_, first_process) = start(&first.create(&limits).unwrap());
    let (_, second_process) = start(&second.create(&limits).unwrap());
    let (_, executor) = start(&pod.executor_entry().unwrap());

    first.kill().unwrap();
    assert!(first.wait_empty(SOON).unwrap());
    assert_eq!(wait_pidfd(first_process), KILLED);
    assert!(second.is_populated().unwrap());
    first.remove().unwrap();

    pod.kill_containers().unwrap();
    assert!(pod.wait_containers_empty(SOON).unwrap());
    assert_eq!(wait_pidfd(second_process), KILLED);
    assert!(pod.is_populated().unwrap());
    assert!(!pod.wait_empty(Duration::ZERO).unwrap());
    assert!(matches!(pod.destroy(), Err(CgroupError::Populated { .. })));
    assert_eq!(base.pods().unwrap(), [pod_id()].into());

    pod.kill_all().unwrap();
    assert!(pod.wait_empty(SOON).unwrap());
    assert_eq!(wait_pidfd(executor), KILLED);
    pod.destroy().unwrap();
}

#[test]
fn the_end_of_the_last_process_is_an_event() {
    let base = testing_base();
    let pod = base.pod(pod_id());
    pod.create().unwrap();
    let container = pod.container(&container_name(), Attempt(0));
    let (_, process) = start(&container.create(&ContainerLimits::default()).unwrap());
    let events = container.events_fd().unwrap();
    assert!(events.is_populated().unwrap());
    let flags = rustix::event::PollFlags::PRI;
    let poll = |wait| files::poll_until(&[events.as_fd()], flags, std::time::Instant::now() + wait);
    assert!(!poll(Duration::ZERO).unwrap());
    rustix::process::pidfd_send_signal(&process, rustix::process::Signal::KILL).unwrap();
    assert!(poll(SOON).unwrap());
    assert!(!events.is_populated().unwrap());
    assert_eq!(wait_pidfd(process), KILLED);
    container.remove().unwrap();
    assert!(!events.is_populated().unwrap(), "of a cgroup that is gone");
}

#[test]
fn limits_are_set_changed_and_cleared() {
    let base = testing_base();
    let pod = base.pod(pod_id());
    pod.create().unwrap();
    let container = pod.container(&container_name(), Attempt(0));
    let check = |memory: &[&str], quota: &[&str], weight: &[&str]| {
        let get = |controller, v1, v2| limit(&base, controller, "pod/web-0", v1, v2);
        let found = get(Controller::Memory, "memory.limit_in_bytes", "memory.max");
        assert!(memory.contains(&found.as_str()), "{found}");
        let found = get(Controller::Cpu, "cpu.cfs_quota_us", "cpu.max");
        assert!(quota.contains(&found.as_str()), "{found}");
        let found = get(Controller::Cpu, "cpu.shares", "cpu.weight");
        assert!(weight.contains(&found.as_str()), "{found}");
    };
    let mut limits = ContainerLimits {
        cpu_request_milli: Some(500),
        cpu_limit_milli: Some(250),
        memory_limit_bytes: Some(64 * MIB),
    };
    container.create(&limits).unwrap();
    check(&["67108864"], &["25000", "25000 100000"], &["512", "20"]);
    for bytes in [32 * MIB, 128 * MIB] {
        limits.memory_limit_bytes = Some(bytes);
        limits.cpu_limit_milli = Some(2000);
        container.update(&limits).unwrap();
        check(&[&bytes.to_string()], &["200000", "200000 100000"], &["512", "20"]);
    }
    let none = ["-1", "max 100000"];
    let unlimited = ["9223372036854771712", "max"];
    container.update(&ContainerLimits::default()).unwrap();
    check(&unlimited, &none, &["2", "1"]);
    // What an earlier incarnation left behind is not taken over.
    container.update(&limits).unwrap();
    container.create(&ContainerLimits::default()).unwrap();
    check(&unlimited, &none, &["2", "1"]);
}

#[test]
fn a_pod_has_its_weight_and_its_limit_of_processes() {
    let base = testing_base();
    let pod = base.pod(pod_id());
    pod.create().unwrap();
    pod.set_limits(&PodLimits {
        pids_max: Some(3),
        cpu_request_milli: Some(500),
        cpu_limit_milli: Some(1500),
        memory_limit_bytes: Some(64 << 20),
    })
    .unwrap();
    let weight = limit(&base, Controller::Cpu, "", "cpu.shares", "cpu.weight");
    assert!(["512", "20"].contains(&weight.as_str()), "{weight}");
    assert_eq!(limit(&base, Controller::Pids, "pod", "pids.max", "pids.max"), "3");
    let of_memory = || {
        let (v1, v2) = ("memory.limit_in_bytes", "memory.max");
        limit(&base, Controller::Memory, "pod", v1, v2)
    };
    assert_eq!(of_memory(), (64 << 20).to_string());
    let of_cpu = || limit(&base, Controller::Cpu, "pod", "cpu.cfs_quota_us", "cpu.max");
    assert!(["150000", "150000 100000"].contains(&of_cpu().as_str()), "{}", of_cpu());

    let container = pod.container(&container_name(), Attempt(0));
    let entry = container.create(&ContainerLimits::default()).unwrap();
    let (_, _sleeper) = start(&entry);
    let status = run_inside(&entry, || {
        let request = CloneRequest { flags: 0, into_cgroup: None };
        let clone = || match sys::clone_process(&request) {
            Ok(Cloned::Child) => loop {
                nix::unistd::pause();
            },
            Ok(Cloned::Parent { .. }) => None,
            Err(error) => error.raw_os_error(),
        };
        let third_and_fourth = (clone(), clone());
        if third_and_fourth == (None, Some(libc::EAGAIN)) { 0 } else { 1 }
    });
    assert_eq!(status, 0);
    pod.set_limits(&PodLimits::default()).unwrap();
    assert_eq!(limit(&base, Controller::Pids, "pod", "pids.max", "pids.max"), "max");
    assert!(["-1", "max 100000"].contains(&of_cpu().as_str()), "{}", of_cpu());
    assert_ne!(of_memory(), (64 << 20).to_string());
}

#[test]
fn a_process_that_needs_more_memory_than_its_limit_is_killed_and_counted() {
    let base = testing_base();
    let pod = base.pod(pod_id());
    pod.create().unwrap();
    let container = pod.container(&container_name(), Attempt(0));
    let limits =
        ContainerLimits { memory_limit_bytes: Some(16 * MIB), ..ContainerLimits::default() };
    let entry = container.create(&limits).unwrap();
    assert_eq!(container.oom_kills().unwrap(), 0);
    let touch = |mib: usize| {
        let memory = std::hint::black_box(vec![1u8; mib << 20]);
        i32::from(memory.iter().all(|byte| *byte != 1))
    };
    assert_eq!(run_inside(&entry, || touch(4)), 0);
    assert_eq!(container.oom_kills().unwrap(), 0);
    assert_eq!(run_inside(&entry, || touch(64)), KILLED);
    // With memory.oom.group the kernel counts the process that it chose twice.
    assert!((1..=2).contains(&container.oom_kills().unwrap()));
}

#[test]
fn usage_counts_what_the_processes_of_a_container_took() {
    let base = testing_base();
    let pod = base.pod(pod_id());
    pod.create().unwrap();
    let container = pod.container(&container_name(), Attempt(0));
    let entry = container.create(&ContainerLimits::default()).unwrap();
    let used = run_inside(&entry, || {
        let memory = std::hint::black_box(vec![1u8; 8 << 20]);
        let used = container.usage().unwrap().memory_bytes.unwrap();
        i32::from(used >= 8 * MIB && memory[0] == 1)
    });
    assert_eq!(used, 1);
    let usage = container.usage().unwrap();
    assert!(usage.cpu_us > 0);
    assert!(usage.memory_working_set_bytes <= usage.memory_bytes);
}

#[test]
fn cgroups_that_a_container_made_go_with_it() {
    let base = testing_base();
    let pod = base.pod(pod_id());
    pod.create().unwrap();
    let container = pod.container(&container_name(), Attempt(0));
    container.create(&ContainerLimits::default()).unwrap();
    let below = format!("{}/pod/web-0", pod_id());
    let own = |h: &Hierarchy| h.directory.join(&below);
    for (_, hierarchy) in base.hierarchies().filter(|(_, h)| own(h).exists()) {
        for made in ["a/b/c", "a/d", "e"] {
            fs::create_dir_all(own(hierarchy).join(made)).unwrap();
        }
    }
    container.remove().unwrap();
    assert!(base.hierarchies().all(|(_, hierarchy)| !own(hierarchy).exists()));
    assert!(Path::new(&base.unified.directory).join(pod_id().to_string()).exists());
}

#[test]
fn an_executor_gets_the_base_as_json() {
    let base = testing_base();
    let json = serde_json::to_string(&*base).unwrap();
    assert_eq!(serde_json::from_str::<CgroupBase>(&json).unwrap(), *base);
    assert_eq!(CgroupBase::open(&name_of(&base), None).unwrap(), *base, "opened again");
    assert_eq!(base.unsupported(), BTreeSet::new(), "this host has every controller");
}

fn name_of(base: &CgroupBase) -> String {
    base.unified.directory.file_name().unwrap().to_str().unwrap().to_owned()
}
