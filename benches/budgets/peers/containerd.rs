//! [`Containerd`]: its CRI on a held connection, which is the kubelet's own path without the kubelet.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::space::Space;
use super::{IMAGE, PYTHON, helper, output};
use crate::engine::{Engine, Removal};
use crate::measure::{LIMIT, Outcome, nanos, pause};
use crate::scene::{BUSYBOX, MOUNT, PROGRAM, Scene, remove_cgroups};
use crate::table::Who;

/// containerd with directories and a socket of its own, and `cri.py`, which speaks to it.
pub(crate) struct Containerd {
    dir: PathBuf,
    daemon: Daemon,
    client: Client,
    /// How many containers the prepared pods have.
    containers: BTreeMap<String, usize>,
    version: String,
    cgroup: String,
    space: Option<Space>,
}

impl Containerd {
    pub(crate) fn start(scene: &Scene) -> Outcome<Self> {
        let version = super::version("containerd", &["--version"])?;
        let image = super::image(scene)?;
        let dir = scene.dir.join("containerd");
        std::fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
        std::fs::write(dir.join("config.toml"), config(&dir)).map_err(|error| error.to_string())?;
        let networks = dir.join("net.d");
        std::fs::create_dir_all(&networks).map_err(|error| error.to_string())?;
        let bridge = BRIDGE.replace("DIR", &dir.display().to_string());
        std::fs::write(networks.join("10-bench.conflist"), bridge)
            .map_err(|error| error.to_string())?;
        let space = Space::new()?;
        let daemon = Daemon::start(&space, &dir)?;
        let cgroup = format!("{}-cri", scene.name());
        let client = Client::start(&dir, scene, &cgroup)?;
        let mut containerd = Self {
            dir,
            daemon,
            client,
            containers: BTreeMap::new(),
            version,
            cgroup,
            space: Some(space),
        };
        containerd.client.ask("until 0")?;
        let socket = containerd.dir.join("sock");
        let mut ctr = Command::new("ctr");
        ctr.arg("--address").arg(socket).args(["--namespace", "k8s.io", "images", "import"]);
        output(ctr.arg(image))?;
        containerd.client.ask(&format!("image {IMAGE}"))?;
        Ok(containerd)
    }
}

/// A bridge by the standard plugins, for pods that do not use the network of the namespace that
/// it is in.
const BRIDGE: &str = r#"{"cniVersion": "1.0.0", "name": "bench", "plugins": [
    {"type": "bridge", "bridge": "bench0", "isGateway": true, "ipMasq": true,
        "ipam": {"type": "host-local", "dataDir": "DIR/leases",
            "ranges": [[{"subnet": "10.88.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}]}"#;

fn config(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "version = 2\n\
         root = \"{dir}/root\"\n\
         state = \"{dir}/run\"\n\
         disabled_plugins = [\"io.containerd.snapshotter.v1.aufs\", \
         \"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.snapshotter.v1.devmapper\", \
         \"io.containerd.snapshotter.v1.zfs\", \"io.containerd.internal.v1.tracing\"]\n\
         [grpc]\n\
         address = \"{dir}/sock\"\n\
         [plugins.\"io.containerd.internal.v1.opt\"]\n\
         path = \"{dir}/opt\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\n\
         sandbox_image = \"{IMAGE}\"\n\
         disable_apparmor = true\n\
         restrict_oom_score_adj = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\n\
         bin_dir = \"/usr/lib/cni\"\n\
         conf_dir = \"{dir}/net.d\"\n"
    )
}

impl Engine for Containerd {
    fn who(&self) -> Who {
        Who::Cri
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    fn prepare(&mut self, pod: &str, containers: usize) -> Outcome<()> {
        // The kubelet makes the directories of logs.
        let logs = self.dir.join("logs").join(pod);
        std::fs::create_dir_all(logs).map_err(|error| error.to_string())?;
        self.containers.insert(pod.to_owned(), containers);
        Ok(())
    }

    fn begin(&mut self, pods: &[String]) -> Outcome<()> {
        let containers = pods.first().and_then(|pod| self.containers.get(pod)).unwrap_or(&1);
        self.client.send(&format!("start {containers} {}", pods.join(" ")))
    }

    fn finish(&mut self) -> Outcome<()> {
        self.client.receive().map(|_| ())
    }

    fn remove(&mut self, pod: &str) -> Outcome<Option<Removal>> {
        pause();
        let asked = self.client.ask(&format!("remove {pod}"))?;
        Ok(Some(Removal { asked, told: asked }))
    }

    fn clear(&mut self) -> Outcome<()> {
        self.client.ask("clear").map(|_| ())
    }

    fn daemon(&self) -> Option<u32> {
        self.daemon_process()
    }

    fn supervisors(&self) -> Vec<u32> {
        let shims = self.space.as_ref().map(|space| space.processes("containerd-shim"));
        shims.unwrap_or_default()
    }

    fn list(&mut self) -> Outcome<Option<u64>> {
        self.client.ask("list").map(Some)
    }

    /// `ctr` has no command for pods: its list of tasks is less than what a user wants to see.
    fn list_by_command(&mut self) -> Outcome<Option<u64>> {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address").arg(self.dir.join("sock")).args([
            "--namespace",
            "k8s.io",
            "task",
            "ls",
        ]);
        let begin = nanos();
        output(&mut ctr)?;
        Ok(Some(nanos() - begin))
    }

    fn restart(&mut self, running: usize) -> Outcome<Option<u64>> {
        let (Some(space), Some(pid)) = (&self.space, self.daemon_process()) else {
            return Ok(None);
        };
        self.daemon.kill(pid)?;
        let begin = nanos();
        self.daemon = Daemon::start(space, &self.dir)?;
        self.client.ask(&format!("until {running}"))?;
        Ok(Some(nanos() - begin))
    }
}

impl Containerd {
    fn daemon_process(&self) -> Option<u32> {
        self.space.as_ref()?.processes("containerd --config").first().copied()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // Whatever runs in it, shims included; their mounts are in its mount namespace.
        self.space = None;
        self.daemon.nsenter.wait().ok();
        remove_cgroups(&self.cgroup);
        std::fs::remove_dir_all(&self.dir).ok();
    }
}

struct Daemon {
    /// Ends when the daemon does.
    nsenter: Child,
}

impl Daemon {
    fn start(space: &Space, dir: &Path) -> Outcome<Self> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(dir.join("log"))
            .map_err(|error| error.to_string())?;
        let nsenter = space
            .command("containerd")
            .arg("--config")
            .arg(dir.join("config.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| format!("containerd can't be run: {error}"))?;
        Ok(Self { nsenter })
    }

    fn kill(&mut self, pid: u32) -> Outcome<()> {
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        let pid = pid.ok_or("containerd has no pid")?;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)
            .map_err(|error| error.to_string())?;
        self.nsenter.wait().map_err(|error| error.to_string())?;
        Ok(())
    }
}

/// `cri.py`, one line for a request and one for its answer.
struct Client {
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    python: Child,
}

impl Client {
    fn start(dir: &Path, scene: &Scene, cgroup: &str) -> Outcome<Self> {
        let network = if scene.network { "pod" } else { "node" };
        let program = serde_json::json!([BUSYBOX, "sh", "-c", PROGRAM]).to_string();
        let mut python = Command::new(PYTHON)
            .arg(helper("cri.py"))
            .arg(dir.join("sock"))
            .arg(dir.join("logs"))
            .args([IMAGE, cgroup])
            .arg(scene.out())
            .args([MOUNT, &program, &LIMIT.as_secs().to_string(), network])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{PYTHON} can't be run: {error}"))?;
        let stdin = python.stdin.take().expect("it is piped");
        let stdout = BufReader::new(python.stdout.take().expect("it is piped"));
        Ok(Self { stdin, stdout, python })
    }

    fn send(&mut self, line: &str) -> Outcome<()> {
        writeln!(self.stdin, "{line}").map_err(|error| error.to_string())
    }

    /// The nanoseconds that the request took, as seen by the client.
    fn receive(&mut self) -> Outcome<u64> {
        let mut line = String::new();
        self.stdout.read_line(&mut line).map_err(|error| error.to_string())?;
        match line.trim().split_once(' ') {
            Some(("ok", nanos)) => nanos.parse().map_err(|_| line.clone()),
            _ => Err(format!("CRI: {}", line.trim())),
        }
    }

    fn ask(&mut self, line: &str) -> Outcome<u64> {
        self.send(line)?;
        self.receive()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.python.kill().ok();
        self.python.wait().ok();
    }
}
