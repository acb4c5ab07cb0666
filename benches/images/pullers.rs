//! [`Puller`]: what pulls images, each with directories of its own.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::measure::{LIMIT, Outcome, read};
use crate::scene::{BUSYBOX, MOUNT, PROGRAM, Scene, remove_cgroups};
use crate::{output, text};

/// Between two looks at something that nothing tells of.
const LOOK: Duration = Duration::from_millis(2);

/// Something that pulls images and runs programs in them.
pub(crate) trait Puller {
    /// With its version.
    fn name(&self) -> String;
    /// Returns when the image can be run.
    fn pull(&mut self, image: &str) -> Outcome<()>;
    /// Has nothing of it any more.
    fn forget(&mut self, image: &str) -> Outcome<()>;
    /// Asks for the program to run in an image that may have to be pulled.
    fn begin(&mut self, image: &str, scene: &Scene) -> Outcome<()>;
    /// Ends what was begun.
    fn end(&mut self) -> Outcome<()>;
}

/// Of this tree, unless `ROOST_BENCH_PROGRAM` says which.
fn program() -> std::ffi::OsString {
    let other = std::env::var_os("ROOST_BENCH_PROGRAM");
    other.unwrap_or_else(|| env!("CARGO_BIN_EXE_roost").into())
}

/// The agent of this tree.
pub(crate) struct Agent {
    dir: PathBuf,
    process: Child,
    cgroup: String,
}

impl Agent {
    pub(crate) fn boxed(scene: &Scene) -> Outcome<Box<dyn Puller>> {
        Ok(Box::new(Self::start(scene)?))
    }

    pub(crate) fn start(scene: &Scene) -> Outcome<Self> {
        let dir = scene.dir.join("agent");
        std::fs::create_dir_all(dir.join("pods.d")).map_err(|error| error.to_string())?;
        let ready = UnixDatagram::bind(dir.join("notify")).map_err(|error| error.to_string())?;
        ready.set_read_timeout(Some(LIMIT)).map_err(|error| error.to_string())?;
        let log = std::fs::File::create(dir.join("log")).map_err(|error| error.to_string())?;
        let process = Command::new(program())
            .args(["agent", "--pods", &text(&dir.join("pods.d")), "--root", &text(&dir)])
            .args(["--network-built-in", "false"])
            .env("NOTIFY_SOCKET", dir.join("notify"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut agent = Self { dir, process, cgroup: String::new() };
        let mut message = [0; 512];
        while !message.starts_with(b"READY=1") {
            ready.recv(&mut message).map_err(|error| format!("the agent: {error}"))?;
        }
        let status = agent.ask(&["status"])?;
        let line = status.lines().find(|line| line.starts_with("Cgroups:")).unwrap_or_default();
        agent.cgroup = line.split('`').nth(1).ok_or("the agent tells no cgroup")?.to_owned();
        Ok(agent)
    }

    fn ask(&self, arguments: &[&str]) -> Outcome<String> {
        let mut command = Command::new(program());
        output(command.args(["--root", &text(&self.dir)]).args(arguments))
    }

    /// A line of its status (proc_pid_status(5)).
    pub(crate) fn status(&self, name: &str) -> String {
        let status = read(format!("/proc/{}/status", self.process.id()));
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or("?").trim().to_owned()
    }
}

impl Puller for Agent {
    fn name(&self) -> String {
        format!("roost {}", env!("CARGO_PKG_VERSION"))
    }

    fn pull(&mut self, image: &str) -> Outcome<()> {
        self.ask(&["image", "pull", image]).map(|_| ())
    }

    fn forget(&mut self, image: &str) -> Outcome<()> {
        self.ask(&["image", "rm", image]).map(|_| ())
    }

    fn begin(&mut self, image: &str, scene: &Scene) -> Outcome<()> {
        let manifest = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "bench" },
            "spec": {
                "hostNetwork": true,
                "volumes": [{ "name": "out", "hostPath": { "path": scene.out() } }],
                "containers": [{
                    "name": "main", "image": image, "command": [BUSYBOX, "sh", "-c", PROGRAM],
                    "volumeMounts": [{ "name": "out", "mountPath": MOUNT }],
                }],
            },
        });
        let draft = self.dir.join("draft");
        std::fs::write(&draft, manifest.to_string())
            .and_then(|()| std::fs::rename(draft, self.dir.join("pods.d/bench.json")))
            .map_err(|error| error.to_string())
    }

    fn end(&mut self) -> Outcome<()> {
        std::fs::remove_file(self.dir.join("pods.d/bench.json")).map_err(|e| e.to_string())?;
        let arguments = ["wait", "pod", "bench", "--for=delete", "--timeout", "60s"];
        self.ask(&arguments).map(|_| ())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if self.dir.join("pods.d/bench.json").exists() {
            self.end().ok();
        }
        self.process.kill().ok();
        self.process.wait().ok();
        remove_cgroups(&self.cgroup);
        std::fs::remove_dir_all(&self.dir).ok();
    }
}

/// The first process of namespaces of a daemon's or command's own, in which its mounts are. crun and
/// podman refuse hosts with both kinds of cgroups: of such a host only v1 is to be seen inside.
struct Space {
    unshare: Child,
    init: u32,
}

impl Space {
    fn new() -> Outcome<Self> {
        const INIT: &str = "mount -t proc proc /proc; umount /sys/fs/cgroup/unified 2>/dev/null; \
                            echo ready; exec >/dev/null; sleep 2147483 & while :; do wait; done";
        let mut unshare = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork"])
            .args(["--kill-child", "sh", "-c", INIT])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("setpriv and unshare can't be run: {error}"))?;
        let mut line = String::new();
        let stdout = unshare.stdout.take().expect("it is piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line)
            .map_err(|error| error.to_string())?;
        let pid = unshare.id();
        let children = read(format!("/proc/{pid}/task/{pid}/children"));
        let init = children.trim().parse().map_err(|_| "no namespaces".to_owned())?;
        Ok(Self { unshare, init })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--mount", "--pid", "--", program]);
        command
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        self.unshare.kill().ok();
        self.unshare.wait().ok();
        while Path::new(&format!("/proc/{}", self.init)).exists() {
            std::thread::park_timeout(LOOK);
        }
    }
}

/// containerd, by its own command `ctr`, which fetches; the daemon unpacks.
pub(crate) struct Containerd {
    dir: PathBuf,
    version: String,
    /// Its own name of a namespace, which is also that of the cgroup of its containers.
    namespace: String,
    space: Option<Space>,
    daemon: Child,
    runs: usize,
}

impl Containerd {
    pub(crate) fn boxed(scene: &Scene) -> Outcome<Box<dyn Puller>> {
        let version = version("containerd")?;
        let dir = scene.dir.join("containerd");
        std::fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
        let config = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/run\"\ndisabled_plugins = \
             [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.tracing\"]\n[grpc]\n\
             address = \"{0}/sock\"\n[plugins.\"io.containerd.internal.v1.opt\"]\n\
             path = \"{0}/opt\"\n",
            text(&dir)
        );
        std::fs::write(dir.join("config.toml"), config).map_err(|error| error.to_string())?;
        let log = std::fs::File::create(dir.join("log")).map_err(|error| error.to_string())?;
        let space = Space::new()?;
        let mut command = space.command("containerd");
        command.arg("--config").arg(dir.join("config.toml")).stdin(Stdio::null());
        let daemon = command.stdout(Stdio::null()).stderr(log).spawn();
        let daemon = daemon.map_err(|error| error.to_string())?;
        let (namespace, space) = (scene.name(), Some(space));
        let containerd = Self { dir, version, namespace, space, daemon, runs: 0 };
        let begin = Instant::now();
        while containerd.ask(&["version"]).is_err() {
            if begin.elapsed() > LIMIT {
                return Err(format!("containerd: {}", read(containerd.dir.join("log"))));
            }
            std::thread::park_timeout(LOOK);
        }
        Ok(Box::new(containerd))
    }

    fn ask(&self, arguments: &[&str]) -> Outcome<String> {
        let space = self.space.as_ref().ok_or("it has ended")?;
        let mut ctr = space.command("ctr");
        ctr.arg("--address").arg(self.dir.join("sock")).args(["--namespace", &self.namespace]);
        output(ctr.args(arguments))
    }

    fn container(&self) -> String {
        format!("bench{}", self.runs)
    }
}

impl Puller for Containerd {
    fn name(&self) -> String {
        format!("containerd {} (ctr)", self.version)
    }

    fn pull(&mut self, image: &str) -> Outcome<()> {
        self.ask(&["images", "pull", "--plain-http", image]).map(|_| ())
    }

    fn forget(&mut self, image: &str) -> Outcome<()> {
        self.ask(&["images", "rm", "--sync", image]).map(|_| ())
    }

    fn begin(&mut self, image: &str, scene: &Scene) -> Outcome<()> {
        self.pull(image)?;
        self.runs += 1;
        let mount = format!("type=bind,src={},dst={MOUNT},options=rbind:rw", text(&scene.out()));
        let container = self.container();
        let run = ["run", "--detach", "--null-io", "--mount", &mount, image, &container];
        self.ask(&[&run[..], &[BUSYBOX, "sh", "-c", PROGRAM]].concat()).map(|_| ())
    }

    fn end(&mut self) -> Outcome<()> {
        let container = self.container();
        self.ask(&["task", "rm", "--force", &container])?;
        self.ask(&["container", "rm", &container]).map(|_| ())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.space = None;
        self.daemon.wait().ok();
        remove_cgroups(&self.namespace);
        std::fs::remove_dir_all(&self.dir).ok();
    }
}

/// podman, which has no daemon.
pub(crate) struct Podman {
    dir: PathBuf,
    version: String,
    space: Option<Space>,
}

impl Podman {
    pub(crate) fn boxed(scene: &Scene) -> Outcome<Box<dyn Puller>> {
        let (dir, version) = (scene.dir.join("podman"), version("podman")?);
        std::fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
        let podman = Self { dir, version, space: Some(Space::new()?) };
        podman.ask(&["images"])?;
        Ok(Box::new(podman))
    }

    fn ask(&self, arguments: &[&str]) -> Outcome<String> {
        let space = self.space.as_ref().ok_or("it has ended")?;
        let dir = text(&self.dir);
        let options = format!(
            "--root {dir}/root --runroot {dir}/run --tmpdir {dir}/tmp --storage-driver overlay \
             --cgroup-manager cgroupfs --events-backend none --runtime crun"
        );
        let mut command = space.command("podman");
        output(command.args(options.split(' ')).args(arguments))
    }
}

impl Puller for Podman {
    fn name(&self) -> String {
        format!("podman {}", self.version)
    }

    fn pull(&mut self, image: &str) -> Outcome<()> {
        self.ask(&["pull", "--quiet", "--tls-verify=false", image]).map(|_| ())
    }

    fn forget(&mut self, image: &str) -> Outcome<()> {
        self.ask(&["rmi", "--force", image]).map(|_| ())
    }

    fn begin(&mut self, image: &str, scene: &Scene) -> Outcome<()> {
        let mount = format!("{}:{MOUNT}", text(&scene.out()));
        let run =
            ["run", "--detach", "--name", "bench", "--network", "none", "--cgroups", "disabled"];
        let more = ["--tls-verify=false", "--log-driver", "k8s-file", "--volume", &mount, image];
        self.ask(&[&run[..], &more, &[BUSYBOX, "sh", "-c", PROGRAM]].concat()).map(|_| ())
    }

    fn end(&mut self) -> Outcome<()> {
        self.ask(&["rm", "--force", "--time", "1", "bench"]).map(|_| ())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.space = None;
        std::fs::remove_dir_all(&self.dir).ok();
    }
}

fn version(program: &str) -> Outcome<String> {
    let text = output(Command::new(program).arg("--version"))?;
    let mut words = text.split_whitespace();
    let word = words.find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    Ok(word.unwrap_or("?").to_owned())
}
