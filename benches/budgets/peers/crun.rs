//! [`Crun`]: the fastest of the low-level runtimes, used as its users would, with nothing above it.

use std::path::PathBuf;

use super::space::{Shell, Space};
use crate::engine::{Engine, Removal};
use crate::measure::Outcome;
use crate::scene::{BUSYBOX, MOUNT, PROGRAM, Scene, remove_cgroups};
use crate::table::Who;

/// How many commands are in flight at once when many are asked for.
pub(super) const IN_FLIGHT: usize = 8;

/// crun has no daemon and no pods: a pod of several containers is not measured of it.
pub(crate) struct Crun {
    dir: PathBuf,
    rootfs: PathBuf,
    out: PathBuf,
    cgroup: String,
    shells: Vec<Shell>,
    /// Which of the shells have been asked.
    busy: usize,
    pods: Vec<String>,
    version: String,
    space: Option<Space>,
}

impl Crun {
    pub(crate) fn start(scene: &Scene) -> Outcome<Self> {
        let version = super::version("crun", &["--version"])?;
        let space = Space::new()?;
        let dir = scene.dir.join("crun");
        std::fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
        let shells = (0..IN_FLIGHT)
            .map(|_| Shell::new(&space, &dir.join("log")))
            .collect::<Outcome<Vec<_>>>()?;
        Ok(Self {
            dir,
            rootfs: scene.rootfs(),
            out: scene.out(),
            cgroup: format!("{}-crun", scene.name()),
            shells,
            busy: 0,
            pods: Vec::new(),
            version,
            space: Some(space),
        })
    }

    fn crun(&self) -> String {
        format!("crun --root {}/run", self.dir.display())
    }
}

impl Engine for Crun {
    fn who(&self) -> Who {
        Who::Crun
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    fn prepare(&mut self, pod: &str, containers: usize) -> Outcome<()> {
        if containers != 1 {
            return Err("it has no pods".to_owned());
        }
        let mounts = serde_json::json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "mode=755"]},
            {"destination": MOUNT, "type": "bind", "source": self.out, "options": ["bind", "rw"]},
        ]);
        let config = serde_json::json!({
            "ociVersion": "1.0.2",
            "process": {"cwd": "/", "user": {"uid": 0, "gid": 0}, "env": [], "terminal": false,
                "args": [BUSYBOX, "sh", "-c", PROGRAM]},
            "root": {"path": self.rootfs, "readonly": true},
            "mounts": mounts,
            "linux": {"cgroupsPath": format!("/{}/{pod}", self.cgroup), "namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}]},
        });
        let bundle = self.dir.join(pod);
        std::fs::create_dir(&bundle).map_err(|error| error.to_string())?;
        std::fs::write(bundle.join("config.json"), config.to_string()).map_err(|e| e.to_string())
    }

    fn begin(&mut self, pods: &[String]) -> Outcome<()> {
        self.pods.extend_from_slice(pods);
        let crun = self.crun();
        let part = pods.len().div_ceil(IN_FLIGHT);
        for pods in pods.chunks(part) {
            let command = |pod: &String| {
                format!("{crun} run --detach --bundle {}/{pod} {pod}", self.dir.display())
            };
            let commands: Vec<_> = pods.iter().map(command).collect();
            self.shells[self.busy].begin(&commands.join(" && "))?;
            self.busy += 1;
        }
        Ok(())
    }

    fn finish(&mut self) -> Outcome<()> {
        for shell in &mut self.shells[..std::mem::take(&mut self.busy)] {
            shell.finish("crun run")?;
        }
        Ok(())
    }

    /// It would have to be told three times (kill, wait, delete), so it is not compared.
    fn remove(&mut self, pod: &str) -> Outcome<Option<Removal>> {
        let command = format!("{} delete --force {pod}", self.crun());
        self.shells[0].begin(&command)?;
        self.shells[0].finish("crun delete")?;
        self.pods.retain(|known| known != pod);
        Ok(None)
    }

    fn clear(&mut self) -> Outcome<()> {
        for pod in self.pods.clone() {
            self.remove(&pod)?;
        }
        Ok(())
    }

    fn daemon(&self) -> Option<u32> {
        None
    }

    fn supervisors(&self) -> Vec<u32> {
        Vec::new()
    }

    fn list(&mut self) -> Outcome<Option<u64>> {
        Ok(None)
    }

    fn list_by_command(&mut self) -> Outcome<Option<u64>> {
        Ok(None)
    }

    fn restart(&mut self, _running: usize) -> Outcome<Option<u64>> {
        Ok(None)
    }
}

impl Drop for Crun {
    fn drop(&mut self) {
        // What could not be removed ends with the namespaces, and its cgroups here.
        self.clear().ok();
        self.shells.clear();
        self.space = None;
        remove_cgroups(&self.cgroup);
        std::fs::remove_dir_all(&self.dir).ok();
    }
}
