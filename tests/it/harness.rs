//! A node: an agent with directories of its own, and questions to it.

// By their paths, because a bench has this module too.
#[path = "harness/asked.rs"]
mod asked;
#[path = "harness/process.rs"]
mod process;

pub use asked::{Asked, FOREVER, OUT, alone};
pub use process::{Dice, Process, command_line, stamped, until_lines, until_text, uptime};

use process::pids;
use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take that should be quick; generous, because machines are shared.
pub fn soon() -> Duration {
    Duration::from_secs(30) * slowness()
}

/// How many times longer everything may take here than on a host: `tests/vm/run` emulates its
/// machine, and says so.
pub fn slowness() -> u32 {
    if std::env::var_os("ROOST_VM").is_some() { 6 } else { 1 }
}

/// When a condition is looked at again although the API told of no change: some are on processes and
/// files, which it does not show.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// An agent with its own root, and its manifests.
pub struct Node {
    pub dir: tempfile::TempDir,
    agent: Option<Child>,
    environment: Vec<(String, String)>,
    /// The process whose network namespace the agent is started in, instead of the test's.
    pub inside: Option<u32>,
    /// Where the newest agent says that it is ready, until it was listened to.
    ready: RefCell<Option<UnixDatagram>>,
    /// The name of the cgroup of all its pods, once it was asked.
    cgroup: OnceCell<String>,
}

/// A pod as the API shows it.
#[derive(Debug, Clone)]
pub struct Pod(pub Value);

impl Node {
    /// Directories for a node; the agent is not started.
    pub fn new() -> Self {
        Self::in_directory(&std::env::temp_dir())
    }

    /// The same, in a directory that is there.
    pub fn in_directory(place: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("roost-it-").tempdir_in(place).unwrap();
        std::fs::create_dir(dir.path().join("pods.d")).unwrap();
        std::fs::create_dir(dir.path().join("out")).unwrap();
        let (ready, cgroup) = (RefCell::new(None), OnceCell::new());
        // How full the machine is must not matter where it is not what is tested.
        let limits = ["MEMORY_AVAILABLE", "DISK_AVAILABLE", "INODES_FREE"];
        let off = limits.map(|name| (format!("ROOST_PRESSURE_{name}"), "0".to_owned()));
        Self { dir, agent: None, environment: off.into(), inside: None, ready, cgroup }
    }

    /// A node with its agent running.
    pub fn started() -> Self {
        let mut node = Self::new();
        node.start();
        node
    }

    /// Adds to the environment of agents started from now on.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub fn manifests(&self) -> PathBuf {
        self.dir.path().join("pods.d")
    }

    /// The directory that containers share with the test ([`Asked::sharing`]).
    pub fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn socket(&self) -> PathBuf {
        self.root().join("run/roost.sock")
    }

    /// Starts the agent and waits until it says that it is ready.
    pub fn start(&mut self) {
        self.start_unready();
        self.wait_ready();
    }

    /// Starts the agent without waiting.
    pub fn start_unready(&mut self) {
        assert!(self.agent.is_none(), "the agent runs already");
        let notify = self.dir.path().join("notify");
        let _none_before = std::fs::remove_file(&notify);
        let ready = UnixDatagram::bind(&notify).unwrap();
        ready.set_read_timeout(Some(soon())).unwrap();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("agent.log"))
            .unwrap();
        let mut command = match self.inside {
            None => Command::new(env!("CARGO_BIN_EXE_roost")),
            Some(process) => {
                let mut command = Command::new("nsenter");
                command.args(["-n", "-t", &process.to_string(), "--"]);
                command.arg(env!("CARGO_BIN_EXE_roost"));
                command
            }
        };
        if self.inside.is_none() {
            // Tests leave the network of the machine alone.
            command.env("ROOST_NETWORK_BUILT_IN", "false");
        }
        let child = command
            .arg("agent")
            .arg("--pods")
            .arg(self.manifests())
            .arg("--root")
            .arg(self.root())
            .env("NOTIFY_SOCKET", &notify)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.agent = Some(child);
        *self.ready.borrow_mut() = Some(ready);
    }

    /// Waits until the newest agent says that it is ready, if that was not heard yet.
    pub fn wait_ready(&self) {
        let Some(socket) = self.ready.borrow_mut().take() else { return };
        let mut text = [0_u8; 512];
        loop {
            let len = socket.recv(&mut text).unwrap_or_else(|error| {
                panic!("the agent did not get ready: {error}\n{}", self.agent_log())
            });
            if std::str::from_utf8(&text[..len]).unwrap().lines().any(|line| line == "READY=1") {
                // Asked now, so that cleaning up needs no agent that answers.
                self.cgroup();
                return;
            }
        }
    }

    pub fn agent_log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("agent.log")).unwrap_or_default()
    }

    /// Ends the agent at once, as `kill -9` does. Its pods go on.
    pub fn kill_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().unwrap();
            agent.wait().unwrap();
        }
    }

    /// Ends the agent by SIGTERM. Its pods go on.
    pub fn stop_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            send(agent.id(), libc::SIGTERM);
            let ended = Process::of(agent.id()).ends_within(soon());
            if !ended {
                agent.kill().unwrap();
            }
            agent.wait().unwrap();
            assert!(ended, "the agent did not end when told to:\n{}", self.agent_log());
        }
    }

    /// The agent's process.
    pub fn agent_pid(&self) -> u32 {
        self.agent.as_ref().unwrap().id()
    }

    /// Puts a manifest into the directory as users should: written apart, then renamed.
    pub fn put(&self, file: &str, text: &str) {
        let draft = self.manifests().join(format!(".{file}.draft"));
        std::fs::write(&draft, text).unwrap();
        std::fs::rename(&draft, self.manifests().join(file)).unwrap();
    }

    /// Puts the manifest of one pod into a file of its name.
    pub fn ask_for(&self, pod: &Asked) {
        self.put(&pod.file(), &pod.text());
    }

    pub fn remove(&self, file: &str) {
        std::fs::remove_file(self.manifests().join(file)).unwrap();
    }

    /// Asks the API; the status and the body as JSON.
    pub fn ask(&self, method: &str, path: &str) -> (u16, Value) {
        self.ask_with(method, path, "")
    }

    /// The same, with a body.
    pub fn ask_with(&self, method: &str, path: &str, text: &str) -> (u16, Value) {
        let (status, body) = self.try_ask(method, path, text).unwrap();
        let value = serde_json::from_str(&body).unwrap_or(Value::String(body));
        (status, value)
    }

    fn try_ask(&self, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
        let mut stream = connect(&self.socket())?;
        stream.set_read_timeout(Some(soon()))?;
        let len = body.len();
        let head = format!("{method} {path} HTTP/1.0\r\nHost: roost\r\nContent-Length: {len}");
        write!(stream, "{head}\r\n\r\n{body}")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        Ok((status, body.to_owned()))
    }

    /// All pods, by `namespace/name`; of a pod with several instances the youngest.
    pub fn pods(&self) -> BTreeMap<String, Pod> {
        let (status, list) = self.ask("GET", "/api/v1/pods");
        assert_eq!(status, 200, "{list}");
        let items = list["items"].as_array().unwrap().clone();
        items.into_iter().map(|item| (Pod(item.clone()).key(), Pod(item))).collect()
    }

    pub fn pod(&self, key: &str) -> Pod {
        self.pods().remove(key).unwrap_or_else(|| panic!("there is no pod {key}"))
    }

    /// Waits until a condition on the pods holds: asked again at every change that the API's watch
    /// tells of.
    pub fn until<T>(
        &self,
        what: &str,
        condition: impl FnMut(&BTreeMap<String, Pod>) -> Option<T>,
    ) -> T {
        self.until_within(soon(), what, condition)
    }

    pub fn until_within<T>(
        &self,
        limit: Duration,
        what: &str,
        mut condition: impl FnMut(&BTreeMap<String, Pod>) -> Option<T>,
    ) -> T {
        let end = Instant::now() + limit;
        let mut stream = connect(&self.socket()).unwrap();
        write!(stream, "GET /api/v1/pods?watch=true HTTP/1.0\r\nHost: roost\r\n\r\n").unwrap();
        let mut lines = BufReader::new(stream);
        let mut line = String::new();
        loop {
            let pods = self.pods();
            if let Some(answer) = condition(&pods) {
                return answer;
            }
            let left = end.saturating_duration_since(Instant::now());
            lines.get_ref().set_read_timeout(Some(LOOK_AGAIN)).unwrap();
            line.clear();
            let waited = lines.read_line(&mut line);
            let is_over = match waited {
                Ok(len) => len == 0,
                Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
            };
            if is_over || left.is_zero() {
                let pods: Vec<String> = pods.values().map(|pod| pod.0.to_string()).collect();
                panic!("not {what} in {limit:?}:\n{}\n{}", pods.join("\n"), self.agent_log());
            }
        }
    }

    /// Waits until every container of the pod runs, and returns it.
    pub fn until_running(&self, key: &str) -> Pod {
        self.until(&format!("running: {key}"), |pods| {
            pods.get(key).filter(|pod| pod.is_running()).cloned()
        })
    }

    pub fn until_gone(&self, key: &str) {
        self.until(&format!("gone: {key}"), |pods| (!pods.contains_key(key)).then_some(()));
    }

    /// Waits until a pod's containers are all through.
    pub fn until_through(&self, key: &str) -> Pod {
        self.until(&format!("through: {key}"), |pods| {
            let is_through = |pod: &&Pod| ["Succeeded", "Failed"].contains(&&*pod.phase());
            pods.get(key).filter(is_through).cloned()
        })
    }

    /// Waits until all these pods run, and returns all there are.
    pub fn until_all_run(&self, keys: &[String]) -> BTreeMap<String, Pod> {
        self.until_within(soon() * 4, &format!("running: {keys:?}"), |pods| {
            let runs = |key: &String| pods.get(key).is_some_and(Pod::is_running);
            keys.iter().all(runs).then(|| pods.clone())
        })
    }

    /// The log file of a container's run.
    pub fn log(&self, pod: &Pod, container: &str, run: u32) -> PathBuf {
        let directory = format!("{}_{}", pod.key().replace('/', "_"), pod.uid());
        self.root().join("logs").join(directory).join(container).join(format!("{run}.log"))
    }

    /// What a container has written: the lines of its log without time, stream and mark.
    pub fn output(&self, pod: &Pod, container: &str, run: u32) -> Vec<String> {
        let text = std::fs::read_to_string(self.log(pod, container, run)).unwrap_or_default();
        text.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned()).collect()
    }

    /// Runs the command line, which must succeed; its standard output.
    pub fn said(&self, arguments: &[&str]) -> String {
        let (code, out, err) = self.cli(arguments);
        assert_eq!(code, 0, "{arguments:?}: {err}{out}");
        out
    }

    /// Runs the command line; its exit code, standard output and standard error.
    pub fn cli(&self, arguments: &[&str]) -> (i32, String, String) {
        let root = self.root();
        // First, because what follows `--` is for others.
        self.cli_as_is(&[&["--root", root.to_str().unwrap()], arguments].concat())
    }

    /// The same, without being told which node it is about.
    pub fn cli_as_is(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_roost"))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }

    /// What the agent says about itself.
    pub fn status(&self) -> Value {
        let (code, status) = self.ask("GET", "/roost/v1/status");
        assert_eq!(code, 200, "{status}");
        status
    }

    fn cgroup(&self) -> &str {
        self.cgroup.get_or_init(|| {
            let status = self.status();
            status["cgroup"].as_str().unwrap_or_else(|| panic!("{status}")).to_owned()
        })
    }

    /// Every cgroup of the node, in every hierarchy.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        cgroups_named(self.cgroup())
    }

    /// Removes every manifest, waits until all pods are gone, and proves that nothing is left.
    pub fn end(mut self) {
        if self.agent.is_none() {
            self.start();
        }
        for entry in std::fs::read_dir(self.manifests()).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
        self.until("gone: everything", |pods| pods.is_empty().then_some(()));
        // Status files follow what the API shows.
        self.until("gone: status files", |_| {
            let mut left = std::fs::read_dir(self.root().join("run/pods")).unwrap();
            let is_file = |name: &str| name.ends_with(".json") || name.ends_with(".draft");
            let has_file = left.any(|entry| is_file(entry.unwrap().file_name().to_str().unwrap()));
            (!has_file).then_some(())
        });
        let left = self.leftovers();
        assert!(left.is_empty(), "left over:\n{}\n{}", left.join("\n"), self.agent_log());
        self.stop_agent();
    }

    /// What is left of pods: processes, cgroups, directories, mounts.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        for place in ["data/pods", "data/configs", "run/pods", "logs"] {
            for entry in std::fs::read_dir(self.root().join(place)).into_iter().flatten() {
                left.push(format!("directory {}", entry.unwrap().path().display()));
            }
        }
        for cgroup in self.cgroups() {
            let is_pod = cgroup.file_name().is_some_and(|name| name.len() == 36);
            if is_pod {
                left.push(format!("cgroup {}", cgroup.display()));
            }
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = self.root().display().to_string();
        left.extend(mounts.lines().filter(|line| line.contains(&root)).map(str::to_owned));
        left.extend(self.processes());
        left
    }

    /// Processes of this node's executors, by the pod they are for.
    pub fn executors(&self) -> BTreeMap<String, u32> {
        let named = pids().filter(|pid| self.is_ours(*pid)).filter_map(|pid| {
            let line = command_line(pid);
            let is_executor = line.first().is_some_and(|word| word == "roost-executor");
            let pod = line.iter().skip_while(|word| *word != "--pod").nth(1)?;
            // Reapers, writers of checkpoints, checks of another build and containers that are
            // being set up look like their executor, and are its children.
            let is_copy = command_line(parent(pid)).first() == line.first();
            (is_executor && !is_copy).then(|| (pod.clone(), pid))
        });
        named.collect()
    }

    /// The builds of all executors, by the pod they are for.
    pub fn builds(&self) -> BTreeMap<String, String> {
        let build = |pid| {
            let line = command_line(pid);
            line.iter().skip_while(|word| *word != "--build").nth(1).cloned().unwrap_or_default()
        };
        self.executors().into_iter().map(|(pod, pid)| (pod, build(pid))).collect()
    }

    /// Processes in this node's cgroups.
    pub fn processes(&self) -> Vec<String> {
        // An executor that outlived the agent which started it is reaped by PID 1, in its own time.
        let left_to_others = |pid: u32| is_zombie(pid) && self.agent_pid() != parent(pid);
        pids()
            .filter(|pid| self.is_ours(*pid) && !left_to_others(*pid))
            .map(|pid| format!("process {pid}: {}", command_line(pid).join(" ")))
            .collect()
    }

    /// Every process of a container of this node.
    pub fn containers(&self) -> Vec<u32> {
        let executors: Vec<u32> = self.executors().into_values().collect();
        let is_container = |pid: &u32| {
            self.is_ours(*pid) && !executors.contains(pid) && !command_line(*pid).is_empty()
        };
        pids().filter(is_container).collect()
    }

    /// Whether a process is one of this node's pods.
    pub fn owns(&self, pid: u32) -> bool {
        self.is_ours(pid)
    }

    fn is_ours(&self, pid: u32) -> bool {
        let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let holder = format!("{}/holder", scope(self.cgroup()));
        cgroups.lines().any(|line| {
            line.split('/').any(|part| is_base(part, self.cgroup())) && !line.ends_with(&holder)
        })
    }
}

impl Drop for Node {
    /// A test that failed must not leave anything behind either.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.agent_log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!("the agent's log, newest first:\n{}", tail.join("\n"));
        }
        self.kill_agent();
        let Some(name) = self.cgroup.get() else { return };
        let mut cgroups = cgroups_named(name);
        let processes: Vec<Process> =
            pids().filter(|pid| self.is_ours(*pid)).filter_map(Process::find).collect();
        for cgroup in &cgroups {
            let _not_v2 = std::fs::write(cgroup.join("cgroup.kill"), "1");
        }
        // A cgroup can be removed when its processes have ended. Children before their parents.
        for process in &processes {
            process.ends_within(soon());
        }
        cgroups.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
        for cgroup in cgroups {
            let _in_use = std::fs::remove_dir(cgroup);
        }
    }
}

impl Pod {
    pub fn key(&self) -> String {
        let text = |field: &str| self.0["metadata"][field].as_str().unwrap().to_owned();
        format!("{}/{}", text("namespace"), text("name"))
    }

    pub fn name(&self) -> String {
        self.0["metadata"]["name"].as_str().unwrap().to_owned()
    }

    pub fn uid(&self) -> String {
        self.0["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    pub fn phase(&self) -> String {
        self.0["status"]["phase"].as_str().unwrap().to_owned()
    }

    pub fn containers(&self) -> Vec<Value> {
        self.0["status"]["containerStatuses"].as_array().cloned().unwrap_or_default()
    }

    pub fn container(&self, name: &str) -> Value {
        self.containers().into_iter().find(|c| c["name"] == name).unwrap_or(Value::Null)
    }

    pub fn is_running(&self) -> bool {
        let containers = self.containers();
        !containers.is_empty() && containers.iter().all(|c| c["state"]["running"].is_object())
    }

    /// The host pid of each running container.
    pub fn pids(&self) -> BTreeMap<String, u32> {
        let pid = |c: &Value| {
            let pid = c["roost"]["pid"].as_u64()?;
            Some((c["name"].as_str()?.to_owned(), u32::try_from(pid).ok()?))
        };
        self.containers().iter().filter_map(pid).collect()
    }

    pub fn restarts(&self, container: &str) -> u64 {
        self.container(container)["restartCount"].as_u64().unwrap_or(0)
    }

    /// What the API says about how a container ended last, in its present state or the one before.
    pub fn ended(&self, container: &str) -> Value {
        let container = self.container(container);
        let now = &container["state"]["terminated"];
        if now.is_object() { now.clone() } else { container["lastState"]["terminated"].clone() }
    }

    /// Why a container does not run.
    pub fn waiting(&self, container: &str) -> String {
        let reason = &self.container(container)["state"]["waiting"]["reason"];
        reason.as_str().unwrap_or_default().to_owned()
    }

    /// Pids with start times: two that are equal are the same processes.
    pub fn processes(&self) -> BTreeMap<String, (u32, Option<u64>)> {
        stamped(&self.pids())
    }

    pub fn problems(&self) -> String {
        self.0["status"]["message"].as_str().unwrap_or_default().to_owned()
    }
}

/// Connects to a socket however long its path is (unix(7): 108 bytes).
fn connect(path: &Path) -> std::io::Result<UnixStream> {
    use std::os::fd::AsRawFd;
    let directory = std::fs::File::open(path.parent().unwrap())?;
    let short = format!("/proc/self/fd/{}/roost.sock", directory.as_raw_fd());
    UnixStream::connect(short)
}

/// Sends a signal to a process that this test started.
pub fn send(pid: u32, signal: i32) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::try_from(signal).unwrap()).unwrap();
}

/// A line of a process's status (proc_pid_status(5)), without its name.
fn status_line(pid: u32, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    line.unwrap_or_default().to_owned()
}

fn is_zombie(pid: u32) -> bool {
    status_line(pid, "State").starts_with('Z')
}

fn parent(pid: u32) -> u32 {
    status_line(pid, "PPid").parse().unwrap_or(0)
}

/// The systemd scope of a base.
fn scope(name: &str) -> String {
    format!("{name}-pods.scope")
}

/// Whether a cgroup of that name is the one of all pods: a directory, or with systemd a scope.
fn is_base(part: &str, name: &str) -> bool {
    part == name || part == scope(name)
}

fn cgroups_named(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo: Vec<(PathBuf, u32)> = vec![("/sys/fs/cgroup".into(), 0)];
    while let Some((directory, depth)) = todo.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let path = entry.path();
            let is_part = |part: std::path::Component<'_>| {
                part.as_os_str().to_str().is_some_and(|part| is_base(part, name))
            };
            if path.components().any(is_part) {
                found.push(path.clone());
            }
            if depth < 7 {
                todo.push((path, depth + 1));
            }
        }
    }
    found
}

/// A manifest of one container that runs a shell script on the host's root.
pub fn manifest(name: &str, script: &str) -> String {
    with_policy(name, "Always", script)
}

pub fn with_policy(name: &str, policy: &str, script: &str) -> String {
    let script = serde_json::to_string(script).unwrap();
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  \
         terminationGracePeriodSeconds: 1\n  restartPolicy: {policy}\n  containers:\n  - name: main\n    \
         command: [\"/bin/sh\", \"-c\", {script}]\n"
    )
}
