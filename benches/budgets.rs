//! Measures budgets of the design on the machine it runs on, and prints them beside the goals.
//!
//! `cargo bench --bench budgets` as root; `-- --pods 100,300` sets how many pods there are for what
//! depends on it, `-- --starts 20` how often a start is measured. Where `crun` is installed, its
//! `run` is measured in turn with ours, so that a machine that changes its speed changes both.
//!
//! Times of a start are taken by the started program itself (this program again, as `stamp`), on
//! the steady clock that all processes share.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(120);
/// How long an idle node is watched.
const IDLE_SECS: u64 = 20;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("stamp") => return stamp(Path::new(&arguments[1])),
        Some("wait") => return wait_for_ever(),
        Some(_) | None => {}
    }
    let option = |name: &str, default: &str| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)).map_or(default, String::as_str).to_owned()
    };
    let starts: usize = option("--starts", "20").parse().expect("--starts takes a number");
    let counts = option("--pods", "100,300");
    let counts: Vec<usize> =
        counts.split(',').map(|n| n.parse().expect("--pods takes numbers")).collect();
    assert!(rustix::process::getuid().is_root(), "run it as root");
    println!("{} processors, {}", cpus(), read("/proc/version").trim());
    bench_starts(starts);
    let node = Node::started("empty");
    println!("budget 9   agent with 0 pods: {} KiB PSS (budget 11264)", pss(node.agent.id()));
    drop(node);
    for count in counts {
        bench_density(count);
    }
}

/// What a container runs: leaves the time at which it began.
fn stamp(path: &Path) {
    let now = nanos();
    let draft = path.with_extension("draft");
    std::fs::write(&draft, now.to_string()).expect("the place for the stamp can be written");
    std::fs::rename(&draft, path).expect("the place for the stamp can be written");
    wait_for_ever();
}

/// Until it is killed.
fn wait_for_ever() {
    loop {
        std::thread::park();
    }
}

/// Nanoseconds of the clock that all processes share.
fn nanos() -> u64 {
    let t = clock_gettime(ClockId::Monotonic);
    u64::try_from(t.tv_sec * 1_000_000_000 + t.tv_nsec).expect("the clock is past 0")
}

/// Budget 1: manifest renamed into place → the program runs.
fn bench_starts(count: usize) {
    let node = Node::started("starts");
    let crun = Crun::find(&node.dir);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for n in 0..count {
        let out = node.dir.join(format!("stamp-{n}"));
        let text = manifest(&format!("start-{n}"), &["stamp", "/mnt/stamp"], Some(&out));
        std::fs::create_dir(&out).expect("the directory is new");
        let draft = node.dir.join("draft.yaml");
        std::fs::write(&draft, text).expect("the directory can be written");
        pause();
        let begin = nanos();
        std::fs::rename(&draft, node.pods.join(format!("p{n}.yaml"))).expect("same file system");
        ours.push(stamped(&out.join("stamp")).saturating_sub(begin));
        if let Some(crun) = &crun {
            pause();
            theirs.push(crun.run(n));
        }
    }
    let ours = median(&mut ours);
    print!("budget 1   manifest → running: median {ours:.1} ms");
    if theirs.is_empty() {
        println!(" (budget 15 ms, or half of `crun run`, which is not installed here)");
    } else {
        let theirs = median(&mut theirs);
        println!("; `crun run` {theirs:.1} ms; ratio {:.2} (budget 0.50)", ours / theirs);
    }
}

/// Budgets 8 to 11: what many pods cost.
fn bench_density(count: usize) {
    let mut node = Node::started(&format!("density-{count}"));
    let empty = pss(node.agent.id());
    let begin = Instant::now();
    for n in 0..count {
        let draft = node.dir.join("draft.yaml");
        std::fs::write(&draft, manifest(&format!("pod-{n}"), &["wait"], None))
            .expect("the directory can be written");
        std::fs::rename(&draft, node.pods.join(format!("p{n}.yaml"))).expect("same file system");
    }
    node.until_running(count);
    println!("           {count} pods at once: all running after {:.2} s", secs(begin));
    pause();
    let agent = pss(node.agent.id());
    let executors = node.executors();
    assert_eq!(executors.len(), count, "one executor a pod");
    let supervision: u64 = executors.iter().copied().map(pss).sum();
    let number = u64::try_from(count).expect("a small number");
    let per_pod = (supervision + agent.saturating_sub(empty)) / number;
    println!(
        "budget 8   supervision of a pod of one at {count}: {per_pod} KiB PSS, of which the \
         executor {} (budget 358)",
        supervision / number
    );
    println!("budget 9   agent with {count} pods: {agent} KiB PSS (budget 100: 15360, 500: 40960)");
    bench_idle(&node, &executors, count);
    node.kill_agent();
    let begin = Instant::now();
    node.agent = spawn(&node.dir, &node.pods).0;
    node.until_running(count);
    let taken = begin.elapsed().as_millis();
    println!(
        "budget 11  agent restart with {count} pods → all right: {taken} ms (budget 100: 50, 300: 130)"
    );
}

/// Budget 10: what an idle node does.
fn bench_idle(node: &Node, executors: &[u32], count: usize) {
    let agent = [node.agent.id()];
    // Threads for what may block end 10 s after their last work, and events wait for 30 s for
    // company before they are written.
    rest(Duration::from_secs(35));
    let before = (cpu(&agent), cpu(executors), written(&agent), written(executors));
    rest(Duration::from_secs(IDLE_SECS));
    let after = (cpu(&agent), cpu(executors), written(&agent), written(executors));
    let rate =
        |before: u64, after: u64| after.saturating_sub(before) as f64 / 1e6 / IDLE_SECS as f64;
    println!(
        "budget 10  idle with {count} pods: agent {:.3} ms/s, all executors {:.3} ms/s (budget 1 \
         together); written {} and {} bytes (budget 0)",
        rate(before.0, after.0),
        rate(before.1, after.1),
        after.2 - before.2,
        after.3 - before.3
    );
}

/// An agent with a root of its own; everything is removed at the end.
struct Node {
    dir: PathBuf,
    pods: PathBuf,
    agent: Child,
}

impl Node {
    fn started(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("roost-bench-{}-{name}", std::process::id()));
        let pods = dir.join("pods.d");
        std::fs::create_dir_all(&pods).expect("the temporary directory can be written");
        // The program of the containers has to be seen by them: not below a private /tmp.
        let (agent, ready) = spawn(&dir, &pods);
        let mut text = [0; 512];
        loop {
            let len = ready.recv(&mut text).expect("the agent gets ready");
            if text[..len].starts_with(b"READY=1") {
                break;
            }
        }
        Self { dir, pods, agent }
    }

    fn socket(&self) -> std::io::Result<UnixStream> {
        let directory = std::fs::File::open(self.dir.join("root/run"))?;
        UnixStream::connect(format!("/proc/self/fd/{}/roost.sock", directory.as_raw_fd()))
    }

    fn ask(&self, path: &str) -> std::io::Result<Value> {
        let mut stream = self.socket()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: roost\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Ok(serde_json::from_str(body).unwrap_or(Value::Null))
    }

    /// Waits until that many pods are running; asks again as soon as it has an answer.
    fn until_running(&self, count: usize) {
        let end = Instant::now() + LIMIT;
        loop {
            let list = self.ask("/api/v1/pods").unwrap_or(Value::Null);
            let running = list["items"].as_array().map_or(0, |items| {
                items.iter().filter(|pod| pod["status"]["phase"] == "Running").count()
            });
            if running == count {
                return;
            }
            assert!(Instant::now() < end, "{running} of {count} pods run");
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    fn cgroup(&self) -> String {
        let status = self.ask("/roost/v1/status").unwrap_or(Value::Null);
        status["cgroup"].as_str().unwrap_or_default().to_owned()
    }

    fn executors(&self) -> Vec<u32> {
        let mark = format!("/{}/", self.cgroup());
        pids()
            .filter(|pid| {
                read(&format!("/proc/{pid}/cmdline")).starts_with("roost-executor\0--pod")
                    && read(&format!("/proc/{pid}/cgroup")).contains(&mark)
            })
            .collect()
    }

    fn kill_agent(&mut self) {
        self.agent.kill().expect("the agent is ours");
        self.agent.wait().expect("the agent is ours");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for entry in std::fs::read_dir(&self.pods).into_iter().flatten().flatten() {
            std::fs::remove_file(entry.path()).ok();
        }
        if !std::thread::panicking() {
            self.until_gone();
        }
        self.agent.kill().ok();
        self.agent.wait().ok();
        std::fs::remove_dir_all(&self.dir).ok();
    }
}

impl Node {
    fn until_gone(&self) {
        let end = Instant::now() + LIMIT;
        while self
            .ask("/api/v1/pods")
            .ok()
            .and_then(|list| list["items"].as_array().map(|items| !items.is_empty()))
            .unwrap_or(true)
        {
            assert!(Instant::now() < end, "pods do not go");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

fn spawn(dir: &Path, pods: &Path) -> (Child, UnixDatagram) {
    let notify = dir.join("notify");
    std::fs::remove_file(&notify).ok();
    let ready = UnixDatagram::bind(&notify).expect("the directory can be written");
    ready.set_read_timeout(Some(LIMIT)).expect("a socket of ours");
    let log = std::fs::File::create(dir.join("agent.log")).expect("the directory can be written");
    let child = Command::new(env!("CARGO_BIN_EXE_roost"))
        .args(["agent", "--pods"])
        .arg(pods)
        .arg("--root")
        .arg(dir.join("root"))
        .env("NOTIFY_SOCKET", &notify)
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("the agent can be started");
    (child, ready)
}

fn manifest(name: &str, arguments: &[&str], out: Option<&Path>) -> String {
    let exe = std::env::current_exe().expect("this program has a path");
    let mut command = vec![exe.display().to_string()];
    command.extend(arguments.iter().map(ToString::to_string));
    let command = serde_json::to_string(&command).expect("text");
    let mut text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  \
         terminationGracePeriodSeconds: 0\n  hostNetwork: true\n  containers:\n  - name: main\n    \
         command: {command}\n"
    );
    if let Some(out) = out {
        let mount = "    volumeMounts: [{name: out, mountPath: /mnt}]\n";
        let volume = format!("  volumes: [{{name: out, hostPath: {{path: {}}}}}]\n", out.display());
        text.push_str(mount);
        text.push_str(&volume);
    }
    text
}

/// Waits for the stamp of a program that was started.
fn stamped(path: &Path) -> u64 {
    let end = Instant::now() + LIMIT;
    loop {
        if let Ok(text) = std::fs::read_to_string(path) {
            return text.parse().expect("a stamp is a number");
        }
        assert!(Instant::now() < end, "{} does not come", path.display());
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// crun, run as its users would, with the same program on the same root.
struct Crun {
    bundle: PathBuf,
    /// Keeps the mount namespace in which crun works.
    namespace: Child,
}

impl Crun {
    fn find(dir: &Path) -> Option<Self> {
        Command::new("crun").arg("--version").stdout(Stdio::null()).status().ok()?;
        let bundle = dir.join("bundle");
        std::fs::create_dir_all(bundle.join("out")).ok()?;
        std::fs::create_dir(bundle.join("rootfs")).ok()?;
        std::fs::set_permissions(&bundle, std::fs::Permissions::from_mode(0o755)).ok()?;
        // It refuses hosts with both kinds of cgroups, so the newer kind is hidden from it; and it
        // can't make a root of what is one already.
        let script = format!(
            "umount /sys/fs/cgroup/unified 2>/dev/null; mount --bind / {}/rootfs && echo ready \
             && exec sleep infinity",
            bundle.display()
        );
        let mut namespace = Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        namespace.stdout.take()?.read_exact(&mut [0; 5]).ok()?;
        Some(Self { bundle, namespace })
    }

    fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &self.namespace.id().to_string(), "crun"]);
        command
    }

    fn run(&self, n: usize) -> u64 {
        let out = self.bundle.join("out").join(format!("stamp-{n}"));
        let exe = std::env::current_exe().expect("this program has a path");
        let mounts = serde_json::json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "mode=755"]},
            {"destination": "/mnt", "type": "bind", "source": self.bundle.join("out"),
             "options": ["bind", "rw"]},
        ]);
        let config = serde_json::json!({
            "ociVersion": "1.0.2",
            "process": {"cwd": "/", "user": {"uid": 0, "gid": 0}, "env": [], "terminal": false,
                "args": [exe, "stamp", format!("/mnt/stamp-{n}")]},
            "root": {"path": "rootfs", "readonly": true},
            "mounts": mounts,
            "linux": {"namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}]},
        });
        std::fs::write(self.bundle.join("config.json"), config.to_string()).expect("ours");
        let id = format!("roost-bench-{}-{n}", std::process::id());
        let begin = nanos();
        let status = self
            .command()
            .args(["run", "--detach", "--bundle"])
            .arg(&self.bundle)
            .arg(&id)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .expect("nsenter is there");
        assert!(status.success(), "crun run failed");
        let taken = stamped(&out).saturating_sub(begin);
        self.command().args(["delete", "--force", &id]).status().ok();
        taken
    }
}

impl Drop for Crun {
    fn drop(&mut self) {
        self.namespace.kill().ok();
        self.namespace.wait().ok();
    }
}

fn rest(span: Duration) {
    let end = Instant::now() + span;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}

/// So that one start does not pay for the end of another (design, budget 1: isolated starts).
fn pause() {
    std::thread::park_timeout(Duration::from_millis(200));
}

fn median(nanos: &mut [u64]) -> f64 {
    nanos.sort_unstable();
    nanos.get(nanos.len() / 2).map_or(f64::NAN, |n| *n as f64 / 1e6)
}

fn secs(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64()
}

fn read(path: &str) -> String {
    std::fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

fn pids() -> impl Iterator<Item = u32> {
    std::fs::read_dir("/proc")
        .expect("/proc is mounted")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Proportional set size in KiB.
fn pss(pid: u32) -> u64 {
    field(&read(&format!("/proc/{pid}/smaps_rollup")), "Pss:")
}

/// Bytes that those processes had written to disks.
fn written(pids: &[u32]) -> u64 {
    pids.iter().map(|pid| field(&read(&format!("/proc/{pid}/io")), "write_bytes:")).sum()
}

/// Nanoseconds on a processor, all threads (schedstat of each, which counts exactly).
fn cpu(pids: &[u32]) -> u64 {
    let of = |pid: &u32| -> u64 {
        std::fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|task| {
                let text = read(&task.path().join("schedstat").display().to_string());
                text.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
            })
            .sum()
    };
    pids.iter().map(of).sum()
}

fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
