//! [`Node`]: an agent of this tree with a root of its own, as an [`Engine`].

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::engine::{Engine, Removal};
use crate::measure::{LIMIT, Outcome, command_line, nanos, pause, pids, read};
use crate::scene::{BUSYBOX, Fifo, LOUD_PROGRAM, MOUNT, Scene, cgroup_roots, remove_cgroups};
use crate::table::Who;

/// The environment's word for another `roost` than that of this tree.
const PROGRAM: &str = "ROOST_BENCH_PROGRAM";
/// How often something is looked for that nothing tells of.
const LOOK: Duration = Duration::from_micros(250);

/// The same of lists of all pods, which cost the agent something.
const LOOK_AT_LIST: Duration = Duration::from_millis(1);

/// More than any bench asks for.
const PODS_MAX: &str = "10000";

/// The agent, its manifests and its pods; nothing is left of them after it.
pub(crate) struct Node {
    pub(crate) dir: PathBuf,
    pub(crate) pods: PathBuf,
    out: PathBuf,
    agent: Child,
    network: bool,
    /// Name of the cgroup of all pods.
    cgroup: String,
    held: Held,
    /// Where programs say that they were told to end.
    pub(crate) ended: Fifo,
}

impl Node {
    pub(crate) fn start(scene: &Scene, name: &str) -> Self {
        let dir = scene.dir.join(name);
        let pods = dir.join("pods.d");
        std::fs::create_dir_all(&pods).expect("the temporary directory can be written");
        let network = scene.network;
        let (agent, ready) = spawn(&dir, &pods, network);
        let mut text = [0; 512];
        loop {
            let len = ready.recv(&mut text).expect("the agent gets ready; see its agent.log");
            if text[..len].starts_with(b"READY=1") {
                break;
            }
        }
        let mut held = Held::open(&dir).expect("the agent listens once it is ready");
        let cgroup = held.ask("/roost/v1/status").expect("the agent answers")["cgroup"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let ended = scene.fifo("ended").expect("the temporary directory can be written");
        Self { dir, pods, out: scene.out(), agent, network, cgroup, held, ended }
    }

    pub(crate) fn ask(&mut self, path: &str) -> Value {
        self.held.ask(path).expect("the agent answers")
    }

    /// How long the answer to a request takes on a connection that is kept.
    pub(crate) fn time(&mut self, path: &str) -> Outcome<u64> {
        let begin = nanos();
        self.held.get(path).map_err(|error| error.to_string())?;
        Ok(nanos() - begin)
    }

    /// A pod with so many containers.
    pub(crate) fn manifest(&self, pod: &str, containers: usize, program: &str) -> String {
        let command = serde_json::json!([BUSYBOX, "sh", "-c", program]);
        let mut text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}}}\nspec:\n  hostNetwork: {}\n  \
             terminationGracePeriodSeconds: 10\n  volumes:\n  - {{name: out, hostPath: {{path: {}}}}}\n  \
             containers:\n",
            !self.network,
            self.out.display()
        );
        for n in 0..containers {
            text.push_str(&format!(
                "  - name: c{n}\n    command: {command}\n    \
                 volumeMounts: [{{name: out, mountPath: {MOUNT}}}]\n"
            ));
        }
        text
    }

    /// Has a manifest ready, outside the directory that is watched.
    pub(crate) fn draft(&self, pod: &str, text: &str) {
        std::fs::write(self.draft_path(pod), text).expect("the directory is ours");
    }

    /// Moves it to where the agent sees it.
    pub(crate) fn drop_in(&self, pod: &str) {
        std::fs::rename(self.draft_path(pod), self.file(pod)).expect("it was drafted");
    }

    fn draft_path(&self, pod: &str) -> PathBuf {
        self.dir.join(format!("{pod}.draft"))
    }

    fn file(&self, pod: &str) -> PathBuf {
        self.pods.join(format!("{pod}.yaml"))
    }

    /// The id of a pod's instance.
    pub(crate) fn id(&mut self, pod: &str) -> String {
        let pod = self.ask(&format!("/api/v1/namespaces/default/pods/{pod}"));
        pod["metadata"]["uid"].as_str().expect("the pod is there").to_owned()
    }

    pub(crate) fn pod_directory(&self, id: &str) -> PathBuf {
        self.dir.join("root/data/pods").join(id)
    }

    /// The processes in the pods' cgroups whose command line begins so.
    pub(crate) fn processes(&self, command: &str) -> Vec<u32> {
        let all = in_cgroup(format!("/{}/", self.cgroup));
        all.filter(|pid| command_line(*pid).starts_with(command)).collect()
    }

    fn processes_of(&self, id: &str) -> Vec<u32> {
        in_cgroup(format!("/{}/{id}", self.cgroup)).collect()
    }

    fn cgroups(&self, id: &str) -> impl Iterator<Item = PathBuf> {
        let below = Path::new(&self.cgroup).join(id);
        cgroup_roots().into_iter().map(move |root| root.join(&below))
    }

    /// Waits until that many pods are running.
    fn until_running(&mut self, count: usize) -> Outcome<()> {
        // Not parsed: the agent that is measured needs the processors.
        let running = |list: &str| list.matches(r#""phase":"Running""#).count();
        self.until(&format!("{count} pods run"), |list| running(list) == count)
    }

    fn until(&mut self, what: &str, is_so: impl Fn(&str) -> bool) -> Outcome<()> {
        let end = nanos() + u64::try_from(LIMIT.as_nanos()).expect("minutes");
        while nanos() < end {
            // A new agent does not listen at once, and one that was killed has hung up.
            match self.held.get("/api/v1/pods") {
                Ok(list) if is_so(&String::from_utf8_lossy(&list)) => return Ok(()),
                Ok(_) => {}
                Err(_) => {
                    if let Ok(held) = Held::open(&self.dir) {
                        self.held = held;
                    }
                }
            }
            std::thread::park_timeout(LOOK_AT_LIST);
        }
        Err(format!("not so after {LIMIT:?}: {what}"))
    }
}

impl Engine for Node {
    fn who(&self) -> Who {
        Who::Roost
    }

    fn version(&self) -> String {
        env!("CARGO_PKG_VERSION").to_owned()
    }

    fn prepare(&mut self, pod: &str, containers: usize) -> Outcome<()> {
        self.draft(pod, &self.manifest(pod, containers, LOUD_PROGRAM));
        Ok(())
    }

    fn begin(&mut self, pods: &[String]) -> Outcome<()> {
        for pod in pods {
            self.drop_in(pod);
        }
        Ok(())
    }

    fn finish(&mut self) -> Outcome<()> {
        Ok(())
    }

    /// A pod is gone when its processes (executor and programs), cgroups and directory are.
    fn remove(&mut self, pod: &str) -> Outcome<Option<Removal>> {
        let id = self.id(pod);
        let mut traces: Vec<PathBuf> = self.cgroups(&id).filter(|cgroup| cgroup.exists()).collect();
        if traces.is_empty() {
            return Err(format!("{pod} has no cgroup"));
        }
        traces.push(self.pod_directory(&id));
        let processes = self.processes_of(&id);
        traces.extend(processes.iter().map(|pid| PathBuf::from(format!("/proc/{pid}"))));
        pause();
        self.ended.drain();
        let begin = nanos();
        let mut told = None;
        std::fs::remove_file(self.file(pod)).expect("the manifest is there");
        while !traces.is_empty() {
            if told.is_none() && self.ended.drain() > 0 {
                told = Some(nanos());
            }
            traces.retain(|trace| trace.exists());
            if nanos() - begin > u64::try_from(LIMIT.as_nanos()).expect("minutes") {
                return Err(format!("still there: {traces:?}"));
            }
            std::thread::park_timeout(LOOK);
        }
        let gone = nanos();
        let told = told.ok_or("the program was not told to end")?;
        Ok(Some(Removal { asked: gone - begin, told: gone - told }))
    }

    fn clear(&mut self) -> Outcome<()> {
        for entry in std::fs::read_dir(&self.pods).into_iter().flatten().flatten() {
            std::fs::remove_file(entry.path()).map_err(|e| e.to_string())?;
        }
        self.until("no pods", |list| list.contains(r#""items":[]"#))
    }

    fn daemon(&self) -> Option<u32> {
        Some(self.agent.id())
    }

    fn supervisors(&self) -> Vec<u32> {
        self.processes("roost-executor --pod")
    }

    fn list(&mut self) -> Outcome<Option<u64>> {
        self.time("/api/v1/pods").map(Some)
    }

    fn list_by_command(&mut self) -> Outcome<Option<u64>> {
        let begin = nanos();
        let status = Command::new(program())
            .args(["get", "pods", "--root"])
            .arg(self.dir.join("root"))
            .stdout(Stdio::null())
            .status()
            .map_err(|e| e.to_string())?;
        let taken = nanos() - begin;
        if status.success() { Ok(Some(taken)) } else { Err(format!("roost get pods: {status}")) }
    }

    fn restart(&mut self, running: usize) -> Outcome<Option<u64>> {
        self.agent.kill().expect("the agent is ours");
        self.agent.wait().expect("the agent is ours");
        let begin = nanos();
        self.agent = spawn(&self.dir, &self.pods, self.network).0;
        self.until_running(running)?;
        Ok(Some(nanos() - begin))
    }
}

impl Drop for Node {
    #[expect(clippy::print_stderr, reason = "whoever left it has to be told")]
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            eprintln!("pods of the bench may be left in cgroup {}: {error}", self.cgroup);
        }
        self.agent.kill().ok();
        self.agent.wait().ok();
        remove_cgroups(&self.cgroup);
        std::fs::remove_dir_all(&self.dir).ok();
    }
}

/// Every process with that in the path of a cgroup of its.
fn in_cgroup(part: String) -> impl Iterator<Item = u32> {
    pids().filter(move |pid| read(format!("/proc/{pid}/cgroup")).contains(&part))
}

/// The `roost` that is measured, with its executor beside it.
fn program() -> PathBuf {
    std::env::var_os(PROGRAM).map_or_else(|| env!("CARGO_BIN_EXE_roost").into(), PathBuf::from)
}

/// With `network`, on a host of its own.
fn spawn(dir: &Path, pods: &Path, network: bool) -> (Child, UnixDatagram) {
    let notify = dir.join("notify");
    std::fs::remove_file(&notify).ok();
    let ready = UnixDatagram::bind(&notify).expect("the directory can be written");
    ready.set_read_timeout(Some(LIMIT)).expect("a socket of ours");
    let log = std::fs::File::create(dir.join("agent.log")).expect("the directory can be written");
    let mut command = Command::new(if network { "unshare".into() } else { program() });
    if network {
        command.args(["--net", "--"]).arg(program());
    }
    let child = command
        .args(["agent", "--pods"])
        .arg(pods)
        .arg("--root")
        .arg(dir.join("root"))
        .args(["--max-pods", PODS_MAX])
        .args(["--network-built-in", if network { "true" } else { "false" }])
        .env("NOTIFY_SOCKET", &notify)
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("the agent can be started");
    (child, ready)
}

/// A connection to the API that is kept, as a dashboard would keep it.
struct Held {
    stream: BufReader<UnixStream>,
}

impl Held {
    fn open(dir: &Path) -> std::io::Result<Self> {
        Ok(Self { stream: BufReader::new(connect(dir)?) })
    }

    fn ask(&mut self, path: &str) -> std::io::Result<Value> {
        let body = self.get(path)?;
        Ok(serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// Only what the agent's answers need of HTTP: their bodies have a length.
    fn get(&mut self, path: &str) -> std::io::Result<Vec<u8>> {
        write!(self.stream.get_mut(), "GET {path} HTTP/1.1\r\nHost: roost\r\n\r\n")?;
        let mut length = None;
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().ok();
            }
        }
        let length = length.ok_or(std::io::ErrorKind::InvalidData)?;
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(body)
    }
}

/// A connection to the agent below that directory, whose path may be longer than a socket's may be.
pub(crate) fn connect(dir: &Path) -> std::io::Result<UnixStream> {
    let directory = std::fs::File::open(dir.join("root/run"))?;
    UnixStream::connect(format!("/proc/self/fd/{}/roost.sock", directory.as_raw_fd()))
}
