//! One pod with its executor, as the agent would have it.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use roost::cgroup::{CgroupBase, PodCgroup};
use roost::clock::Millis;
use roost::executor::boot::{Boot, LogLimits};
use roost::executor::client::{Connection, ExecutorProgram, Spawned, Welcome, connect};
use roost::executor::protocol::{
    ContainerReport, ContainerStatus, Goal, PodReport, ToAgent, ToExecutor, WantedPod,
};
use roost::ids::{Attempt, PodId};
use roost::manifest::pod::{
    BackoffPolicy, ContainerSpec, HostNamespaces, PodSpec, Resources, RestartPolicy, Volume,
    VolumeMount, VolumeSource,
};
use roost::state::checkpoint::{self, ExitFile};
use roost::state::paths::{Paths, PodPaths};
use roost::state::record::Exit;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Signal, WaitId, WaitIdOptions};

/// The program.
pub(crate) const EXECUTOR: &str = env!("CARGO_BIN_EXE_roost-executor");
/// Longer than anything here takes on a host.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much longer it may take in the emulated machine of `tests/vm/run`.
const EMULATED: u32 = 6;

/// Runs a test.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let emulated = std::env::var_os("ROOST_VM").is_some();
    let patience = if emulated { PATIENCE * EMULATED } else { PATIENCE };
    runtime.block_on(async { tokio::time::timeout(patience, test).await.expect("it is stuck") });
}

/// A container that runs a program of the host.
pub(crate) fn container(name: &str, argv: &[&str]) -> ContainerSpec {
    ContainerSpec {
        name: name.parse().unwrap(),
        image: None,
        command: argv.iter().map(|arg| (*arg).to_owned()).collect(),
        args: Vec::new(),
        env: Vec::new(),
        env_from: Vec::new(),
        working_dir: None,
        resources: Resources::default(),
        user: Some(0),
        group: Some(0),
        read_only_root: true,
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

/// A pod of containers that run scripts.
pub(crate) fn spec(scripts: &[(&str, &str)]) -> PodSpec {
    PodSpec {
        name: "test/pod".parse().unwrap(),
        labels: BTreeMap::new(),
        node_selector: Default::default(),
        security: Default::default(),
        names: Default::default(),
        network: Default::default(),
        image_pull_secrets: Vec::new(),
        restart_on_config_change: false,
        config: None,
        annotations: BTreeMap::new(),
        hostname: "pod".into(),
        host: HostNamespaces::default(),
        share_process_namespace: false,
        restart_policy: RestartPolicy::Always,
        termination_grace: Millis::from_secs(30),
        active_deadline: None,
        termination_policy: Default::default(),
        backoff: BackoffPolicy::default(),
        pids_limit: 1000,
        resources: Default::default(),
        after: Vec::new(),
        priority: 0,
        rollback_after: None,
        volumes: Vec::new(),
        init_containers: vec![],
        containers: scripts
            .iter()
            .map(|(name, script)| {
                let path = format!("PATH=/usr/bin:/bin; {script}");
                container(name, &["/bin/sh", "-c", &path])
            })
            .collect(),
    }
}

/// Gives all containers a volume at `/<name>`.
pub(crate) fn add_volume(spec: &mut PodSpec, name: &str, source: VolumeSource) {
    let volume: roost::ids::VolumeName = name.parse().unwrap();
    spec.volumes.push(Volume { name: volume.clone(), source });
    for container in &mut spec.containers {
        let path = format!("/{name}").parse().unwrap();
        container.mounts.push(VolumeMount {
            volume: volume.clone(),
            path,
            read_only: false,
            sub_path: None,
            propagation: Default::default(),
        });
    }
}

/// A pod with its executor. Nothing of it is left when this is dropped.
pub(crate) struct TestPod {
    root: tempfile::TempDir,
    program: ExecutorProgram,
    boot: Boot,
    spawned: Option<Spawned>,
    number: u64,
    connection: Option<Connection>,
}

impl TestPod {
    /// Starts an executor and connects to it. It was told nothing yet.
    pub(crate) fn start() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let base = format!("roost-executor-test-{}-{number}", std::process::id());
        let cgroups = CgroupBase::open(&base, None).unwrap();
        // A path that is too long for the address of a socket.
        let root = tempfile::Builder::new().prefix(&"long".repeat(30)).tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let id = PodId::from_random(u128::from(std::process::id()) << 32 | u128::from(number));
        let name = "test/pod".parse().unwrap();
        let paths = Paths::under(root.path());
        fs::create_dir_all(&paths.data).unwrap();
        fs::create_dir_all(&paths.logs).unwrap();
        let boot = Boot {
            id,
            paths: paths.pod(id, &name),
            name,
            cgroups,
            masked: vec![paths.data.clone(), paths.runtime.clone(), paths.logs.clone()],
            logs: LogLimits::default(),
        };
        fs::create_dir_all(&boot.paths.data).unwrap();
        boot.cgroups.pod(id).create().unwrap();
        let program = ExecutorProgram::open(EXECUTOR.as_ref()).unwrap();
        let spawned = program.spawn(&boot).unwrap();
        let connection = Some(connect(&boot.paths.runtime).unwrap());
        Self { root, program, boot, spawned: Some(spawned), number: 0, connection }
    }

    /// Starts another executor after the one before has ended.
    pub(crate) async fn spawn(&mut self) {
        self.spawned = Some(self.program.spawn(&self.boot).unwrap());
        drop(self.reconnect());
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn paths(&self) -> &PodPaths {
        &self.boot.paths
    }

    pub(crate) fn cgroup(&self) -> PodCgroup {
        self.boot.cgroups.pod(self.boot.id)
    }

    /// The newest connection.
    pub(crate) fn agent(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("nothing is said after it was closed")
    }

    /// Makes a new connection; the answer is the older one.
    pub(crate) fn reconnect(&mut self) -> Option<Connection> {
        self.connection.replace(connect(&self.boot.paths.runtime).unwrap())
    }

    /// Closes the connection.
    pub(crate) fn disconnect(&mut self) {
        self.connection = None;
    }

    pub(crate) async fn welcome(&mut self) -> Welcome {
        self.agent().hello(PATIENCE).await.unwrap()
    }

    /// Says that the pod shall run so.
    pub(crate) async fn set(&mut self, spec: PodSpec) {
        self.number += 1;
        let wanted = WantedPod { number: self.number, goal: Goal::Run, spec: spec.into() };
        self.agent().send(&ToExecutor::SetSpec(wanted), Vec::new()).await.unwrap();
        let number = self.number;
        self.report(|report| report.number == number).await;
    }

    /// Stops the pod, and waits for the end of the executor.
    pub(crate) async fn stop(&mut self, grace: Millis) {
        drop(self.reconnect());
        let wanted = self.welcome().await.wanted.expect("it was told before");
        let wanted = WantedPod { goal: Goal::Stop { grace }, ..wanted };
        self.agent().send(&ToExecutor::SetSpec(wanted), Vec::new()).await.unwrap();
        let mut last = None;
        while let Ok(Some(message)) = self.agent().next().await {
            last = Some(message);
        }
        let Some(ToAgent::Report(report)) = last else { panic!("{last:?}") };
        assert!(matches!(report.goal, Goal::Stop { .. }), "the last word is a report: {report:?}");
        self.wait_executor();
    }

    /// The next message of that kind.
    pub(crate) async fn message(&mut self, wanted: impl Fn(&ToAgent) -> bool) -> ToAgent {
        loop {
            let message = self.agent().next().await.unwrap();
            let message = message.unwrap_or_else(|| panic!("it has ended: {}", self.journal()));
            if wanted(&message) {
                return message;
            }
        }
    }

    /// Waits for a report like that.
    pub(crate) async fn report(&mut self, wanted: impl Fn(&PodReport) -> bool) -> PodReport {
        let wanted = |message: &ToAgent| matches!(message, ToAgent::Report(r) if wanted(r));
        match self.message(wanted).await {
            ToAgent::Report(report) => report,
            ToAgent::Welcome { .. } | ToAgent::NotUpgraded { .. } => unreachable!("see above"),
        }
    }

    /// Waits until a container stands like that. Asks for the report anew, so that it also sees
    /// what was reported before.
    pub(crate) async fn until(
        &mut self,
        name: &str,
        wanted: impl Fn(&ContainerReport) -> bool,
    ) -> ContainerReport {
        self.ask_again().await;
        let find = |report: &PodReport| {
            report.containers.iter().find(|c| c.name.as_str() == name && wanted(c)).cloned()
        };
        let report = self.report(|report| find(report).is_some()).await;
        find(&report).unwrap()
    }

    /// Waits until every container is through.
    pub(crate) async fn finished(&mut self) -> PodReport {
        self.ask_again().await;
        self.report(|report| report.finished.is_some()).await
    }

    /// Has the executor report, whatever it has reported.
    async fn ask_again(&mut self) {
        let hello = ToExecutor::Hello { protocol: 1 };
        self.agent().send(&hello, Vec::new()).await.unwrap();
        self.message(|message| matches!(message, ToAgent::Welcome { .. })).await;
    }

    /// Waits until a container runs; its process.
    pub(crate) async fn running(&mut self, name: &str) -> u32 {
        let running = |c: &ContainerReport| matches!(c.status, ContainerStatus::Running { .. });
        let ContainerStatus::Running { pid, .. } = self.until(name, running).await.status else {
            unreachable!("see above");
        };
        pid
    }

    /// Waits until the executor says that it is that build.
    pub(crate) async fn upgraded(&mut self, build: &str) -> u32 {
        let message = self
            .message(|message| {
                matches!(message, ToAgent::Welcome { .. } | ToAgent::NotUpgraded { .. })
            })
            .await;
        let ToAgent::Welcome { build: found, pid, .. } = message else {
            panic!("{message:?}: {}", self.journal());
        };
        assert_eq!(found, build);
        pid
    }

    /// The same program, as a file that differs.
    pub(crate) fn other_build(&self, more: &[u8]) -> ExecutorProgram {
        let path = self.root.path().join("other");
        let content = [fs::read(EXECUTOR).unwrap().as_slice(), more].concat();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let other = ExecutorProgram::open(&path).unwrap();
        assert_ne!(other.build(), self.program.build());
        other
    }

    pub(crate) fn executor_pid(&self) -> u32 {
        self.spawned.as_ref().unwrap().pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Kills the executor and nothing else.
    pub(crate) fn kill_executor(&mut self) {
        self.end_executor(Signal::KILL);
    }

    /// Sends the executor a signal that ends it.
    pub(crate) fn end_executor(&mut self, signal: Signal) {
        let pidfd = &self.spawned.as_ref().unwrap().pidfd;
        rustix::process::pidfd_send_signal(pidfd, signal).unwrap();
        self.wait_executor();
    }

    /// Kills the one child of the executor that is not in the cgroup of a container.
    pub(crate) fn kill_reaper(&self) {
        let executor = self.executor_pid();
        let children = fs::read_to_string(format!("/proc/{executor}/task/{executor}/children"));
        let children = children.unwrap();
        let pid = children.split_whitespace().find(|pid| {
            let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
            cgroup.lines().any(|line| line.starts_with("0::") && line.ends_with("/executor"))
        });
        let pid = rustix::process::Pid::from_raw(pid.unwrap().parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
    }

    /// Waits until the executor has ended.
    pub(crate) fn wait_executor(&mut self) {
        let Some(spawned) = self.spawned.take() else { return };
        let patience = Timespec::try_from(PATIENCE).unwrap();
        let mut fds = [PollFd::new(&spawned.pidfd, PollFlags::IN)];
        let ready = rustix::event::poll(&mut fds, Some(&patience)).unwrap();
        assert_eq!(ready, 1, "the executor does not end: {}", self.journal());
        reap(&spawned.pidfd);
    }

    /// Waits until no process of the pod is left.
    pub(crate) fn wait_empty(&self) {
        assert!(self.cgroup().wait_empty(PATIENCE).unwrap());
    }

    /// The log of a run, without the times.
    pub(crate) fn log(&self, name: &str, attempt: u32) -> Vec<String> {
        let path = self.paths().log(&name.parse().unwrap(), Attempt(attempt));
        let text = fs::read_to_string(&path).unwrap();
        // Whoever reads while it is written may see the beginning of a line.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    /// Waits for a line in a log.
    pub(crate) async fn until_logged(&self, name: &str, attempt: u32, line: &str) {
        let path = self.paths().log(&name.parse().unwrap(), Attempt(attempt));
        while !path.exists() || !self.log(name, attempt).iter().any(|found| found == line) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The recorded end of a run.
    pub(crate) fn exit_file(&self, name: &str, attempt: u32) -> Exit {
        let path = self.paths().exit(&name.parse().unwrap(), Attempt(attempt));
        checkpoint::read::<ExitFile>(&path).unwrap().unwrap().run.exit
    }

    fn journal(&self) -> String {
        fs::read_to_string(self.paths().runtime.join("executor.log")).unwrap_or_default()
    }
}

impl Drop for TestPod {
    fn drop(&mut self) {
        if std::thread::panicking() {
            use std::io::Write as _;
            writeln!(std::io::stderr(), "{}", self.journal()).ok();
        }
        let cgroup = self.cgroup();
        cgroup.kill_all().ok();
        cgroup.wait_empty(PATIENCE).ok();
        if let Some(spawned) = self.spawned.take() {
            reap(&spawned.pidfd);
        }
        let removed = cgroup.destroy().and_then(|()| self.boot.cgroups.remove());
        assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
    }
}

fn reap(pidfd: &OwnedFd) {
    rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).unwrap();
}
