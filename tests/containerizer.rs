//! The native containerizer with real namespaces, mounts and cgroups. Needs root.
//!
//! Each check runs in a process of its own, the pod's executor for its time, which is PID 1 of a
//! PID namespace: when it ends the kernel has killed and reaped all that it launched. An argument
//! selects checks by a part of their name; `--bench` times launches instead.
#![expect(clippy::print_stdout, reason = "it reports its results, as libtest does")]
#![expect(clippy::unwrap_used, reason = "a check fails by a panic")]

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use roost::cgroup::Entry;
use roost::clock::Millis;
use roost::containerizer::native::{HostFacts, Launched, Native, Network, enter_pod, plan};
use roost::ids::{PodId, PodName};
use roost::manifest::pod::{
    BackoffPolicy, ContainerSpec, EnvVar, HostNamespaces, HostPathType, PodSpec, Resources,
    RestartPolicy, Volume, VolumeMount, VolumeSource,
};
use roost::state::paths::{Paths, PodPaths};
use roost::sys::{self, CloneRequest, Cloned};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_send_signal, waitid};

#[path = "containerizer/images.rs"]
mod images;

/// A volume on disk without a limit.
const ON_DISK: VolumeSource = VolumeSource::EmptyDir { size_limit: None };

type Check = (&'static str, fn(&Scene));

macro_rules! checks {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), $name as fn(&Scene))),*] };
}

#[path = "containerizer/security.rs"]
mod security;
#[path = "containerizer/volumes.rs"]
mod volumes;

const CHECKS: &[Check] = checks![
    the_root_is_read_only_and_scratch_directories_are_private,
    a_read_only_root_leaves_the_sandbox_writable,
    a_user_has_no_groups_and_no_capabilities,
    root_has_the_default_capabilities_and_a_filter,
    nothing_of_the_executor_is_inherited,
    the_environment_is_exactly_what_was_asked_for,
    it_is_process_1_on_a_host_of_its_own_name,
    the_network_is_the_pods_own_with_loopback_up,
    a_pod_in_the_hosts_network_keeps_the_hosts_name,
    a_link_on_the_mount_path_stays_inside,
    what_a_run_leaves_in_a_volume_gives_the_next_no_way_to_the_kernel,
    the_input_is_the_null_device_whatever_is_mounted_on_dev,
    missing_mount_points_are_made_without_writing_to_the_host,
    files_can_be_mounted_on_missing_paths,
    host_paths_are_writable_or_not_as_asked,
    host_paths_of_the_wrong_type_are_refused,
    an_empty_dir_is_shared_by_the_containers_of_a_pod,
    a_memory_volume_is_a_limited_tmpfs,
    shared_memory_is_the_pods,
    shared_processes_have_a_reaper_that_can_not_be_looked_into,
    a_reaper_can_be_handed_over,
    a_program_that_is_not_there_is_named,
    a_dropped_gate_means_that_nothing_is_executed,
    a_failed_mount_is_named,
    the_kernel_is_masked,
    the_executor_can_not_be_reached_from_the_hosts_processes,
    devices_are_few_and_none_can_be_made,
    output_can_be_opened_anew_by_a_user,
    the_cgroup_is_the_root_of_what_it_sees,
    containers_die_with_the_executor,
];

/// A check that takes longer has failed: nothing here waits for time to pass.
const CHECK_TIMEOUT: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if !rustix::process::geteuid().is_root() {
        println!("containerizer: skipped, it needs root");
        let required = std::env::var_os("REQUIRE_ROOT").is_some();
        return if required { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    if arguments.iter().any(|argument| argument == "--bench") {
        return if run("bench", bench) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let all = CHECKS.iter().chain(images::CHECKS).chain(volumes::CHECKS).chain(security::CHECKS);
    let selected = all.filter(|(name, _)| filter.is_none_or(|part| name.contains(part)));
    let (passed, failed): (Vec<_>, Vec<_>) =
        selected.map(|(name, check)| (name, run(name, *check))).partition(|(_, passed)| *passed);
    for (name, _) in &failed {
        println!("FAILED {name}");
    }
    println!("containerizer: {} passed, {} failed", passed.len(), failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one check in a process of its own, and removes what it used.
fn run(name: &str, check: fn(&Scene)) -> bool {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let cgroups = Cgroups::make();
    let scene = Scene { directory: directory.path().to_owned(), cgroups };
    let flags = u64::from(libc::CLONE_NEWPID.unsigned_abs());
    let passed = match sys::clone_process(&CloneRequest { flags, into_cgroup: None }).unwrap() {
        Cloned::Child => {
            let passed = catch_unwind(std::panic::AssertUnwindSafe(|| check(&scene))).is_ok();
            sys::exit_now(i32::from(!passed))
        }
        Cloned::Parent { pidfd, .. } => {
            let in_time = readable(pidfd.as_fd());
            pidfd_send_signal(&pidfd, Signal::KILL).ok();
            in_time && wait(&pidfd).exit_status() == Some(0)
        }
    };
    println!("{} {name}", if passed { "ok    " } else { "FAILED" });
    scene.cgroups.remove();
    passed
}

fn readable(fd: std::os::fd::BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    poll(&mut fds, Some(&CHECK_TIMEOUT)).unwrap() == 1
}

fn wait(pidfd: &OwnedFd) -> WaitIdStatus {
    waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).unwrap().unwrap()
}

/// One cgroup2 directory and, where version 1 hierarchies are, one in each of two.
struct Cgroups {
    unified: PathBuf,
    others: Vec<PathBuf>,
}

impl Cgroups {
    fn make() -> Self {
        let name = format!("roost-check-{}", std::process::id());
        let root = Path::new("/sys/fs/cgroup");
        let hybrid = !root.join("cgroup.procs").exists();
        let unified = if hybrid { root.join("unified") } else { root.to_owned() }.join(&name);
        let others: Vec<PathBuf> = ["pids", "freezer"]
            .into_iter()
            .filter(|_| hybrid)
            .map(|controller| root.join(controller).join(&name))
            .collect();
        for directory in others.iter().chain([&unified]) {
            fs::create_dir(directory).unwrap();
        }
        Self { unified, others }
    }

    fn entry(&self) -> Entry {
        let open = |path: PathBuf| fs::OpenOptions::new().write(true).open(path).unwrap().into();
        Entry {
            into: fs::File::open(&self.unified).unwrap().into(),
            tasks: self.others.iter().map(|directory| open(directory.join("tasks"))).collect(),
        }
    }

    /// The same ones, for another scene.
    fn share(&self) -> Self {
        Self { unified: self.unified.clone(), others: self.others.clone() }
    }

    fn remove(&self) {
        for directory in self.others.iter().chain([&self.unified]) {
            fs::remove_dir(directory).unwrap();
        }
    }
}

/// What a check has.
struct Scene {
    directory: PathBuf,
    cgroups: Cgroups,
}

/// How a container ended.
#[derive(Debug)]
struct Outcome {
    stdout: String,
    stderr: String,
    status: String,
    code: Option<i32>,
}

impl Scene {
    fn paths(&self) -> Paths {
        Paths::under(&self.directory.join("root"))
    }

    fn pod_paths(&self, pod: &PodSpec) -> PodPaths {
        self.paths().pod(PodId::from_random(7), &pod.name)
    }

    fn enter(&self, pod: &PodSpec) -> Native {
        fs::create_dir_all(self.pod_paths(pod).data).unwrap();
        enter_pod(pod, &self.pod_paths(pod), Network::New).unwrap()
    }

    fn launch(&self, native: &mut Native, pod: &PodSpec, index: usize) -> Launched {
        let paths = self.paths();
        let mut facts = HostFacts::read(self.pod_paths(pod), &[&paths.data, &paths.logs]).unwrap();
        facts.read_files(pod, &pod.containers[index]);
        let plan = plan(pod, &pod.containers[index], &facts).unwrap();
        native.launch(&plan, self.cgroups.entry()).unwrap()
    }

    fn run_in(&self, native: &mut Native, pod: &PodSpec, index: usize) -> Outcome {
        let launched = self.launch(native, pod, index);
        // It may have failed before the gate; the status says so.
        launched.gate.open().ok();
        Outcome {
            stdout: read_all(launched.stdout),
            stderr: read_all(launched.stderr),
            status: read_all(launched.status),
            code: wait(&launched.pidfd).exit_status(),
        }
    }

    /// Runs a pod of one.
    fn run(&self, pod: &PodSpec) -> Outcome {
        self.run_in(&mut self.enter(pod), pod, 0)
    }

    /// A directory that containers can't see unless it is mounted.
    fn host_directory(&self, name: &str) -> PathBuf {
        let path = self.directory.join(name);
        fs::create_dir(&path).unwrap();
        path
    }
}

fn read_all(fd: OwnedFd) -> String {
    rustix::io::ioctl_fionbio(&fd, false).unwrap();
    let mut text = String::new();
    fs::File::from(fd).read_to_string(&mut text).unwrap();
    text
}

impl Outcome {
    #[track_caller]
    fn expect(&self, stdout: &str) {
        assert_eq!((self.stdout.as_str(), self.code), (stdout, Some(0)), "{self:?}");
    }
}

fn shell(script: &str) -> ContainerSpec {
    program(&["/bin/sh", "-c", script])
}

fn program(argv: &[&str]) -> ContainerSpec {
    ContainerSpec {
        name: "main".parse().unwrap(),
        image: None,
        command: argv.iter().map(|argument| (*argument).to_owned()).collect(),
        args: Vec::new(),
        env: Vec::new(),
        env_from: Vec::new(),
        working_dir: None,
        resources: Resources::default(),
        user: Some(0),
        group: Some(0),
        read_only_root: false,
        security: Default::default(),
        mounts: Vec::new(),
        ports: Vec::new(),
        liveness: None,
        readiness: None,
        startup: None,
        check: None,
        restart: None,
        lifecycle: Default::default(),
        termination: Default::default(),
        restarts_for: Default::default(),
    }
}

fn pod(container: ContainerSpec) -> PodSpec {
    PodSpec {
        name: "check/pod".parse::<PodName>().unwrap(),
        labels: Default::default(),
        node_selector: Default::default(),
        security: Default::default(),
        names: Default::default(),
        network: Default::default(),
        image_pull_secrets: Vec::new(),
        restart_on_config_change: false,
        config: None,
        annotations: Default::default(),
        hostname: "pod-of-check".to_owned(),
        host: HostNamespaces::default(),
        share_process_namespace: false,
        restart_policy: RestartPolicy::Never,
        termination_grace: Millis::from_secs(1),
        active_deadline: None,
        termination_policy: Default::default(),
        backoff: BackoffPolicy::default(),
        pids_limit: 100,
        resources: Default::default(),
        after: Vec::new(),
        priority: 0,
        rollback_after: None,
        volumes: Vec::new(),
        init_containers: vec![],
        containers: vec![container],
    }
}

fn add_volume(pod: &mut PodSpec, name: &str, source: VolumeSource, mount: &str, read_only: bool) {
    pod.volumes.push(Volume { name: name.parse().unwrap(), source });
    for container in &mut pod.containers {
        container.mounts.push(VolumeMount {
            volume: name.parse().unwrap(),
            path: mount.parse().unwrap(),
            read_only,
            sub_path: None,
            propagation: Default::default(),
        });
    }
}

fn host_path(path: &Path, kind: HostPathType) -> VolumeSource {
    VolumeSource::HostPath { path: path.to_str().unwrap().parse().unwrap(), kind }
}

fn the_root_is_read_only_and_scratch_directories_are_private(scene: &Scene) {
    let script = "for f in /x /etc/x /usr/x /var/x /mnt/x; do touch $f 2>/dev/null && echo $f; done
        ls -A /tmp /run
        touch $MESOS_SANDBOX/roost-check /tmp/roost-check /run/roost-check && echo written
        pwd; stat -c %a /tmp";
    let pod = pod(shell(script));
    let expected = "/run:\nsandbox\n\n/tmp:\nwritten\n/run/sandbox\n1777\n";
    scene.run(&pod).expect(expected);
    let sandbox = scene.pod_paths(&pod).sandbox(&pod.containers[0].name);
    assert!(sandbox.join("roost-check").exists());
    assert!(!Path::new("/tmp/roost-check").exists());
    assert!(!Path::new("/run/roost-check").exists());
}

fn a_read_only_root_leaves_the_sandbox_writable(scene: &Scene) {
    let script = "for d in /tmp /run /mnt $HOME /dev/shm; do
            touch $d/x 2>/dev/null && echo $d; done";
    let mut container = shell(script);
    container.read_only_root = true;
    let mut pod = pod(container);
    pod.containers[0].command[2].push_str("; touch /tmp/v/x && echo volume");
    add_volume(&mut pod, "v", ON_DISK, "/tmp/v", false);
    scene.run(&pod).expect("/run/sandbox\n/dev/shm\nvolume\n");
}

fn a_user_has_no_groups_and_no_capabilities(scene: &Scene) {
    let script = "id -u; id -g; id -G; touch $MESOS_SANDBOX/x && umask
        grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status | tr '\\t' ' '";
    let mut container = shell(script);
    container.user = Some(1234);
    container.group = Some(4321);
    scene.run(&pod(container)).expect(
        "1234\n4321\n4321\n0022\n\
         CapInh: 0000000000000000\nCapPrm: 0000000000000000\nCapEff: 0000000000000000\n\
         CapBnd: 00000000a80425fb\nCapAmb: 0000000000000000\n",
    );
}

fn root_has_the_default_capabilities_and_a_filter(scene: &Scene) {
    let script = "grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status | tr '\\t' ' '
        unshare -m true 2>/dev/null && echo unshared; mount -t tmpfs t /tmp 2>/dev/null && echo m
        chroot / true && echo chroot";
    scene.run(&pod(shell(script))).expect(
        "CapInh: 0000000000000000\nCapPrm: 00000000a80425fb\nCapEff: 00000000a80425fb\n\
         CapBnd: 00000000a80425fb\nCapAmb: 0000000000000000\nNoNewPrivs: 1\nSeccomp: 2\nchroot\n",
    );
}

fn nothing_of_the_executor_is_inherited(scene: &Scene) {
    // One that is not close-on-exec.
    let leaked = rustix::fs::open("/", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
    let _leaked = leaked.unwrap();
    let script = "ls /proc/1/fd; readlink /proc/1/fd/0; grep -E '^Sig(Blk|Ign)' /proc/1/status | tr '\\t' ' '
        ps -o sid= -p 1 | tr -d ' '";
    scene
        .run(&pod(shell(script)))
        .expect("0\n1\n2\n/dev/null\nSigBlk: 0000000000000000\nSigIgn: 0000000000000000\n1\n");
}

fn the_environment_is_exactly_what_was_asked_for(scene: &Scene) {
    let mut container = program(&["env"]);
    container.env = [("A", "1"), ("HOME", "/else"), ("A", "2"), ("EMPTY", "")]
        .map(|(name, value)| EnvVar { name: name.to_owned(), value: value.to_owned(), from: None })
        .into();
    scene.run(&pod(container)).expect(
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n\
         HOSTNAME=pod-of-check\nHOME=/else\nMESOS_SANDBOX=/run/sandbox\nA=2\nEMPTY=\n",
    );
}

fn it_is_process_1_on_a_host_of_its_own_name(scene: &Scene) {
    let outside = rustix::system::uname().nodename().to_owned();
    let script = "echo $$; cat /proc/sys/kernel/hostname; ls -d /proc/[0-9]* | head -1";
    scene.run(&pod(shell(script))).expect("1\npod-of-check\n/proc/1\n");
    assert_ne!(outside.to_bytes(), b"pod-of-check");
}

fn the_network_is_the_pods_own_with_loopback_up(scene: &Scene) {
    let script = "ls /sys/class/net; cat /sys/class/net/lo/flags; grep -c . /proc/net/route";
    scene.run(&pod(shell(script))).expect("lo\n0x9\n1\n");
}

fn a_pod_in_the_hosts_network_keeps_the_hosts_name(scene: &Scene) {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut pod =
        pod(shell("cat /proc/sys/kernel/hostname; echo $HOSTNAME; readlink /proc/1/ns/net"));
    pod.host.network = true;
    let network = fs::read_link("/proc/self/ns/net").unwrap();
    scene.run(&pod).expect(&format!("{name}\n{name}\n{}\n", network.display()));
}

fn a_link_on_the_mount_path_stays_inside(scene: &Scene) {
    let host = scene.host_directory("host");
    let target = scene.host_directory("target");
    fs::write(target.join("secret"), "").unwrap();
    symlink("/../../srv", host.join("link")).unwrap();
    symlink(&target, host.join("absent")).unwrap();
    symlink("/proc/self/root", host.join("magic")).unwrap();
    let attempt = |link: &str| {
        let mut pod = pod(shell("touch /srv/inside; ls /srv; ls /host"));
        add_volume(&mut pod, "host", host_path(&host, HostPathType::Directory), "/host", false);
        add_volume(&mut pod, "empty", ON_DISK, &format!("/host/{link}"), false);
        pod
    };
    let pod = attempt("link");
    let mut native = scene.enter(&pod);
    // The volume is on the container's own /srv.
    scene.run_in(&mut native, &pod, 0).expect("inside\nabsent\nlink\nmagic\n");
    let inside = scene.pod_paths(&pod).volume(&"empty".parse().unwrap()).join("inside");
    assert!(inside.exists() && !Path::new("/srv/inside").exists());
    // Through /proc no root can be reached, and a link to nowhere is not followed by making it.
    let outcome = scene.run_in(&mut native, &attempt("magic"), 0);
    assert_eq!(outcome.status, "look for /host/magic: Too many symbolic links encountered");
}

/// The masks of the next run must not be made of what this one put in the place of `/dev/null`
/// (as in CVE-2025-31133).
fn what_a_run_leaves_in_a_volume_gives_the_next_no_way_to_the_kernel(scene: &Scene) {
    let script = "if test -e /data/b; then
            for f in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts; do
                test -f $f && echo changed > $f; done
            cat /proc/sys/kernel/hostname
        else
            ln -s /proc/sys/kernel/hostname /data/a/cfg/null
            mv /data/a /data/b && mkdir /data/a && ln -s $TO /data/a/cfg && echo prepared
        fi";
    for to in ["/dev", "/proc"] {
        let mut pod = pod(shell(script));
        pod.name = format!("check/to{}", to.replace('/', "-")).parse().unwrap();
        pod.containers[0].env.push(EnvVar {
            name: "TO".to_owned(),
            value: to.to_owned(),
            from: None,
        });
        add_volume(&mut pod, "data", ON_DISK, "/data", false);
        add_volume(&mut pod, "cfg", ON_DISK, "/data/a/cfg", false);
        let name = format!("pod{}", to.replace('/', "-"));
        let scene =
            Scene { directory: scene.host_directory(&name), cgroups: scene.cgroups.share() };
        let mut native = scene.enter(&pod);
        scene.run_in(&mut native, &pod, 0).expect("prepared\n");
        let outcome = scene.run_in(&mut native, &pod, 0);
        if to == "/dev" {
            outcome.expect("pod-of-check\n");
        } else {
            let refused = "mount on /data/a/cfg: a link in a volume leads it to /proc";
            assert_eq!(outcome.status, refused, "{outcome:?}");
        }
    }
}

/// Root opens it before it becomes the container's user.
fn the_input_is_the_null_device_whatever_is_mounted_on_dev(scene: &Scene) {
    let host = scene.host_directory("host");
    let secret = scene.host_directory("closed").join("secret");
    fs::write(&secret, "secret").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    symlink(&secret, host.join("null")).unwrap();
    let mut container = program(&["/bin/cat"]);
    container.user = Some(1234);
    let mut pod = pod(container);
    add_volume(&mut pod, "dev", host_path(&host, HostPathType::Directory), "/dev", false);
    scene.run(&pod).expect("");
}

fn missing_mount_points_are_made_without_writing_to_the_host(scene: &Scene) {
    let script = "touch /roost-data/a/b/file && echo written
        for d in /roost-data /roost-data/a / /opt /opt/roost-x /sys/roost-y; do
            touch $d/x 2>/dev/null && echo writable $d; done
        touch /opt/roost-x/y/file && touch /sys/roost-y/file 2>&1
        readlink /bin || echo directory; test -x /usr/bin/env && echo usr
        test -c /dev/null && test -d /proc/1 && test -f /etc/passwd && echo complete
        ls /roost-data /opt/roost-x; stat -c %a /";
    let mut pod = pod(shell(script));
    add_volume(&mut pod, "a", ON_DISK, "/roost-data/a/b", false);
    add_volume(&mut pod, "b", ON_DISK, "/opt/roost-x/y", false);
    add_volume(&mut pod, "c", ON_DISK, "/sys/roost-y", false);
    let bin = fs::read_link("/bin").map_or("directory".to_owned(), |to| to.display().to_string());
    let mode = fs::metadata("/").unwrap().permissions().mode() & 0o7777;
    scene.run(&pod).expect(&format!(
        "written\nwritable /sys/roost-y\n{bin}\nusr\ncomplete\n/opt/roost-x:\ny\n\n/roost-data:\na\n{mode:o}\n"
    ));
    assert!(!Path::new("/roost-data").exists() && !Path::new("/opt/roost-x").exists());
}

fn files_can_be_mounted_on_missing_paths(scene: &Scene) {
    let file = scene.directory.join("file");
    fs::write(&file, "content\n").unwrap();
    let mut pod = pod(shell("cat /etc/roost.conf /etc/hostname; test -f /etc/passwd && echo etc"));
    for (name, path) in [("one", "/etc/roost.conf"), ("two", "/etc/hostname")] {
        add_volume(&mut pod, name, host_path(&file, HostPathType::File), path, true);
    }
    scene.run(&pod).expect("content\ncontent\netc\n");
    assert!(!Path::new("/etc/roost.conf").exists());
}

fn host_paths_are_writable_or_not_as_asked(scene: &Scene) {
    let host = scene.host_directory("host");
    let script = "touch /rw/a && echo written; touch /ro/b 2>/dev/null || echo refused; ls /ro";
    let mut pod = pod(shell(script));
    add_volume(&mut pod, "rw", host_path(&host, HostPathType::Directory), "/rw", false);
    add_volume(&mut pod, "ro", host_path(&host, HostPathType::Unchecked), "/ro", true);
    scene.run(&pod).expect("written\nrefused\na\n");
    assert!(host.join("a").exists());
}

fn host_paths_of_the_wrong_type_are_refused(scene: &Scene) {
    let mut pod = pod(shell("true"));
    let made = scene.directory.join("made/deep");
    add_volume(&mut pod, "made", host_path(&made, HostPathType::DirectoryOrCreate), "/a", false);
    let null = Path::new("/dev/null");
    add_volume(&mut pod, "null", host_path(null, HostPathType::Socket), "/b", false);
    let error = enter_pod(&pod, &scene.pod_paths(&pod), Network::New).unwrap_err();
    assert_eq!(
        error.to_string(),
        "volume `null`: hostPath /dev/null is a character device, but its type is `Socket`"
    );
    assert!(made.is_dir());
}

fn an_empty_dir_is_shared_by_the_containers_of_a_pod(scene: &Scene) {
    let mut writer = shell("echo text > /shared/file");
    writer.user = Some(1000);
    let mut pod = pod(writer);
    let mut reader = shell("cat /other/file");
    reader.name = "reader".parse().unwrap();
    reader.mounts.push(VolumeMount {
        volume: "v".parse().unwrap(),
        path: "/other".parse().unwrap(),
        read_only: true,
        sub_path: None,
        propagation: Default::default(),
    });
    add_volume(&mut pod, "v", ON_DISK, "/shared", false);
    pod.containers.push(reader);
    let mut native = scene.enter(&pod);
    scene.run_in(&mut native, &pod, 0).expect("");
    scene.run_in(&mut native, &pod, 1).expect("text\n");
}

fn a_memory_volume_is_a_limited_tmpfs(scene: &Scene) {
    let script = "stat -f -c %T /m; stat -c %a /m; head -c 100000 /dev/zero > /m/small && echo fits
        head -c 3000000 /dev/zero > /m/large 2>/dev/null || echo full";
    let mut pod = pod(shell(script));
    let source = VolumeSource::Memory { size_limit: Some(1 << 20) };
    add_volume(&mut pod, "m", source, "/m", false);
    scene.run(&pod).expect("tmpfs\n777\nfits\nfull\n");
    // In the executor's mount namespace, which is this one; the host has a bare directory.
    assert!(scene.pod_paths(&pod).volume(&"m".parse().unwrap()).join("small").exists());
}

fn shared_memory_is_the_pods(scene: &Scene) {
    let pod = pod(shell("ls /dev/shm; echo $$ > /dev/shm/x; stat -c %a /dev/shm"));
    let mut native = scene.enter(&pod);
    scene.run_in(&mut native, &pod, 0).expect("1777\n");
    scene.run_in(&mut native, &pod, 0).expect("x\n1777\n");
    assert!(!Path::new("/dev/shm/x").exists());
}

fn shared_processes_have_a_reaper_that_can_not_be_looked_into(scene: &Scene) {
    let script = "cat /proc/1/comm; ls /proc/1/root/ 2>/dev/null; cat /proc/1/environ 2>/dev/null
        echo x 2>/dev/null > /proc/1/exe; readlink /proc/1/fd/0; head -c1 /proc/1/mem 2>/dev/null
        kill -TERM 1; kill -KILL 1; test -d /proc/1 && echo alive
        (sh -c 'true' &); test $$ -gt 1 && echo beside";
    let mut pod = pod(shell(script));
    pod.share_process_namespace = true;
    let mut native = scene.enter(&pod);
    for _ in 0..2 {
        scene.run_in(&mut native, &pod, 0).expect("roost-reaper\nalive\nbeside\n");
    }
    // Children of the executor itself are not in the pod.
    let here = fs::read_link("/proc/self/ns/pid").unwrap();
    assert_eq!(fs::read_link("/proc/self/ns/pid_for_children").unwrap(), here);
}

fn a_reaper_can_be_handed_over(scene: &Scene) {
    let mut pod = pod(shell("cat /proc/1/comm"));
    pod.share_process_namespace = true;
    let native = scene.enter(&pod);
    let state = native.hand_over().unwrap();
    #[expect(clippy::mem_forget, reason = "the program after an exec in place knows no owner")]
    std::mem::forget(native);
    let mut native = Native::resume(&state).unwrap();
    scene.run_in(&mut native, &pod, 0).expect("roost-reaper\n");
    assert!(native.reaper_pidfd().is_some());
}

fn a_program_that_is_not_there_is_named(scene: &Scene) {
    let mut pod = pod(program(&["x"]));
    let script = scene.directory.join("script");
    fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    add_volume(&mut pod, "s", host_path(&script, HostPathType::File), "/script", true);
    let mut native = scene.enter(&pod);
    let mut attempt = |argv0: &str, cwd: Option<&str>| {
        pod.containers[0].command = vec![argv0.to_owned()];
        pod.containers[0].working_dir = cwd.map(|cwd| cwd.parse().unwrap());
        let outcome = scene.run_in(&mut native, &pod, 0);
        assert_eq!(outcome.code, Some(128), "{outcome:?}");
        outcome.status
    };
    assert_eq!(attempt("/bin/nope", None), "exec /bin/nope: No such file or directory");
    assert_eq!(
        attempt("nope", None),
        "exec nope: no such program in PATH \
         (/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)"
    );
    assert_eq!(attempt("/etc/passwd", None), "exec /etc/passwd: Permission denied");
    assert_eq!(
        attempt("/script", None),
        "exec /script: it exists, but the interpreter or loader it names does not: \
         No such file or directory"
    );
    assert_eq!(
        attempt("true", Some("/nowhere")),
        "change to working directory /nowhere: No such file or directory"
    );
    assert!(attempt(&format!("/{}", "é".repeat(100_000)), None).len() <= 2048);
}

fn a_dropped_gate_means_that_nothing_is_executed(scene: &Scene) {
    let pod = pod(shell("touch $MESOS_SANDBOX/executed"));
    let mut native = scene.enter(&pod);
    let first = scene.launch(&mut native, &pod, 0);
    // Another one that is still at its gate must not hold the first one's open.
    let second = scene.launch(&mut native, &pod, 0);
    drop(first.gate);
    assert_eq!(wait(&first.pidfd).exit_status(), Some(128));
    assert_eq!(read_all(first.status), "the launch was given up before the program was executed");
    let sandbox = scene.pod_paths(&pod).sandbox(&pod.containers[0].name);
    assert!(!sandbox.join("executed").exists());
    second.gate.open().unwrap();
    assert_eq!(wait(&second.pidfd).exit_status(), Some(0));
    assert!(sandbox.join("executed").exists());
}

fn a_failed_mount_is_named(scene: &Scene) {
    let mut pod = pod(shell("true"));
    let absent = Path::new("/no/such/path");
    add_volume(&mut pod, "v", host_path(absent, HostPathType::Unchecked), "/v", false);
    let outcome = scene.run(&pod);
    assert_eq!(outcome.status, "bind /no/such/path to /v: No such file or directory");
}

fn the_kernel_is_masked(scene: &Scene) {
    let masked = scene.paths().data;
    let script = format!(
        "head -c1 /proc/kcore | wc -c; head -c1 /proc/keys | wc -c; ls /proc/acpi /proc/scsi 2>/dev/null | grep -v :
         echo h 2>/dev/null > /proc/sysrq-trigger || echo no sysrq
         echo x 2>/dev/null > /proc/sys/kernel/hostname || echo no sysctl
         ls -A {masked}; touch {masked}/x 2>/dev/null || echo masked
         ls /sys/firmware; touch /sys/x 2>/dev/null || echo sys; ls /sys/fs/cgroup >/dev/null && echo ok",
        masked = masked.display()
    );
    let outcome = scene.run(&pod(shell(&script)));
    let stdout = outcome.stdout.trim_start_matches("0\n0\n").trim_start();
    assert_eq!(stdout, "no sysrq\nno sysctl\nmasked\nsys\nok\n", "{outcome:?}");
    assert!(outcome.stdout.starts_with("0\n0\n"));
}

fn the_executor_can_not_be_reached_from_the_hosts_processes(scene: &Scene) {
    // The executor is process 1 of what is the host here.
    let script = "echo x 2>/dev/null > /proc/1/exe && echo written
        ls /proc/1/root/ /proc/1/cwd/ 2>/dev/null; readlink /proc/1/fd/0 /proc/1/exe; cat /proc/1/environ 2>/dev/null
        test $$ -gt 1 && echo beside";
    let mut pod = pod(shell(script));
    pod.host.pid = true;
    scene.run(&pod).expect("beside\n");
}

fn devices_are_few_and_none_can_be_made(scene: &Scene) {
    let script = "cd /dev && ls -x -w 999; echo text > null; head -c3 zero | wc -c
        head -c3 urandom | wc -c; stat -c %a:%t:%T null
        for d in /dev /tmp $HOME; do
            mknod $d/disk b 8 0 2>/dev/null && echo made $d; mknod $d/n c 1 3 2>/dev/null && echo n
            mkfifo $d/fifo && echo fifo; done
        stat -f -c %T mqueue; test -c pts/ptmx && echo pts";
    let outcome = scene.run(&pod(shell(script)));
    let names: Vec<&str> = outcome.stdout.lines().next().unwrap().split_whitespace().collect();
    let expected = "fd full mqueue null ptmx pts random shm stderr stdin stdout \
                    termination-log tty urandom zero";
    assert_eq!(names.join(" "), expected);
    let rest = outcome.stdout.split_once('\n').unwrap().1;
    assert_eq!(rest, "3\n3\n666:1:3\nfifo\nfifo\nfifo\nmqueue\npts\n", "{outcome:?}");
}

fn output_can_be_opened_anew_by_a_user(scene: &Scene) {
    let mut container = shell("echo out > /dev/stdout; echo err > /dev/stderr");
    container.user = Some(1000);
    let outcome = scene.run(&pod(container));
    outcome.expect("out\n");
    assert_eq!(outcome.stderr, "err\n");
}

fn the_cgroup_is_the_root_of_what_it_sees(scene: &Scene) {
    let outcome = scene.run(&pod(shell("cat /proc/self/cgroup")));
    for hierarchy in ["0::/", ":pids:/", ":freezer:/"] {
        let known = scene.cgroups.others.is_empty() && hierarchy != "0::/";
        let found = outcome.stdout.lines().any(|line| line.ends_with(hierarchy));
        assert!(found || known, "{hierarchy}: {outcome:?}");
    }
}

fn containers_die_with_the_executor(scene: &Scene) {
    let fifo = scene.directory.join("fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
    let reader = rustix::fs::open(&fifo, flags, rustix::fs::Mode::empty()).unwrap();
    let mut container = shell("exec 3> /fifo; echo up >&3; exec sleep 1000");
    // Changing the user clears the parent-death signal; it must be set after that.
    container.user = Some(1000);
    let mut pod = pod(container);
    add_volume(&mut pod, "fifo", host_path(&fifo, HostPathType::Unchecked), "/fifo", false);
    fs::set_permissions(&fifo, fs::Permissions::from_mode(0o666)).unwrap();
    match sys::clone_process(&CloneRequest { flags: 0, into_cgroup: None }).unwrap() {
        Cloned::Child => {
            let launched = scene.launch(&mut scene.enter(&pod), &pod, 0);
            launched.gate.open().unwrap();
            // Until it is killed: the container does not end by itself.
            wait(&launched.pidfd);
            sys::exit_now(1)
        }
        Cloned::Parent { pidfd, .. } => {
            assert!(readable(reader.as_fd()), "the container did not begin");
            let mut buffer = [0; 16];
            assert_eq!(rustix::io::read(&reader, &mut buffer), Ok(3));
            pidfd_send_signal(&pidfd, Signal::KILL).unwrap();
            wait(&pidfd);
            // The end of file: its last process has ended.
            assert!(readable(reader.as_fd()), "the container lives on");
            assert_eq!(rustix::io::read(&reader, &mut buffer), Ok(0));
        }
    }
}

/// Launches of `true`, one after the other: until the gate, and until the exec.
fn bench(scene: &Scene) {
    const ROUNDS: usize = 200;
    let pod = pod(program(&["/bin/true"]));
    let mut native = scene.enter(&pod);
    let paths = scene.paths();
    let facts = HostFacts::read(scene.pod_paths(&pod), &[&paths.data]).unwrap();
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let begin = std::time::Instant::now();
        let plan = plan(&pod, &pod.containers[0], &facts).unwrap();
        let planned = begin.elapsed();
        let launched = native.launch(&plan, scene.cgroups.entry()).unwrap();
        let cloned = begin.elapsed();
        launched.gate.open().unwrap();
        assert_eq!(read_all(launched.status), "");
        let executed = begin.elapsed();
        wait(&launched.pidfd);
        times.push([planned, cloned, executed, begin.elapsed()]);
    }
    for (index, what) in ["planned", "cloned", "executed", "reaped"].into_iter().enumerate() {
        let mut column: Vec<_> = times.iter().map(|row| row[index]).collect();
        column.sort();
        println!("{what}: min {:?}, p50 {:?}", column[0], column[ROUNDS / 2]);
    }
}
