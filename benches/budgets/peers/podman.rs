//! [`Podman`]: `podman kube play`, which takes the same manifests.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::crun::IN_FLIGHT;
use super::space::{Shell, Space};
use super::{IMAGE, output};
use crate::engine::{Engine, Removal};
use crate::measure::{Outcome, nanos};
use crate::scene::{BUSYBOX, MOUNT, PROGRAM, Scene, cgroup_roots, remove_cgroups};
use crate::table::Who;

/// Where podman puts pods; it has no option for that.
const CGROUP: &str = "libpod_parent";

/// podman with storage of its own.
pub(crate) struct Podman {
    dir: PathBuf,
    image: PathBuf,
    out: PathBuf,
    network: &'static str,
    shells: Vec<Shell>,
    busy: usize,
    version: String,
    /// Whether somebody else's podman has the cgroup already.
    shares_cgroup: bool,
    space: Option<Space>,
}

impl Podman {
    pub(crate) fn start(scene: &Scene) -> Outcome<Self> {
        let mut podman = Self {
            dir: scene.dir.join("podman"),
            image: super::image(scene)?,
            out: scene.out(),
            network: if scene.network { "podman" } else { "none" },
            shells: Vec::new(),
            busy: 0,
            version: super::version("podman", &["--version"])?,
            shares_cgroup: cgroup_roots().iter().any(|root| root.join(CGROUP).exists()),
            space: None,
        };
        podman.open()?;
        Ok(podman)
    }

    /// An empty podman with the image, warmed up: its first pod builds the image of all pods.
    fn open(&mut self) -> Outcome<()> {
        let space = Space::new()?;
        std::fs::create_dir_all(&self.dir).map_err(|error| error.to_string())?;
        output(self.command(&space).args(["load", "--input"]).arg(&self.image))?;
        for _ in 0..IN_FLIGHT {
            self.shells.push(Shell::new(&space, &self.dir.join("log"))?);
        }
        self.space = Some(space);
        self.prepare("warm", 1)?;
        self.begin(&["warm".to_owned()])?;
        self.finish()
    }

    fn close(&mut self) {
        self.shells.clear();
        self.busy = 0;
        self.space = None;
        if !self.shares_cgroup {
            remove_cgroups(CGROUP);
        }
        std::fs::remove_dir_all(&self.dir).ok();
    }

    fn options(&self) -> Vec<String> {
        let dir = self.dir.display();
        let text = format!(
            "--root {dir}/root --runroot {dir}/run --tmpdir {dir}/tmp --storage-driver overlay \
             --cgroup-manager cgroupfs --events-backend none --runtime crun \
             --network-config-dir {dir}/net.d"
        );
        text.split(' ').map(str::to_owned).collect()
    }

    fn command(&self, space: &Space) -> Command {
        let mut command = space.command("podman");
        command.args(self.options());
        command
    }
}

impl Engine for Podman {
    fn who(&self) -> Who {
        Who::Podman
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    fn prepare(&mut self, pod: &str, containers: usize) -> Outcome<()> {
        let container = |n| {
            serde_json::json!({
                "name": format!("c{n}"), "image": IMAGE, "imagePullPolicy": "Never",
                "command": [BUSYBOX, "sh", "-c", PROGRAM],
                "volumeMounts": [{"name": "out", "mountPath": MOUNT}],
            })
        };
        let manifest = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod},
            "spec": {
                "volumes": [{"name": "out", "hostPath": {"path": self.out}}],
                "containers": (0..containers).map(container).collect::<Vec<_>>(),
            },
        });
        std::fs::write(self.dir.join(format!("{pod}.yaml")), manifest.to_string())
            .map_err(|error| error.to_string())
    }

    fn begin(&mut self, pods: &[String]) -> Outcome<()> {
        let podman = format!("podman {}", self.options().join(" "));
        let part = pods.len().div_ceil(IN_FLIGHT);
        for pods in pods.chunks(part) {
            let command = |pod: &String| {
                let file = self.dir.join(format!("{pod}.yaml"));
                format!(
                    "{podman} kube play --network {} --log-driver k8s-file {}",
                    self.network,
                    file.display()
                )
            };
            let commands: Vec<_> = pods.iter().map(command).collect();
            self.shells[self.busy].begin(&commands.join(" && "))?;
            self.busy += 1;
        }
        Ok(())
    }

    fn finish(&mut self) -> Outcome<()> {
        for shell in &mut self.shells[..std::mem::take(&mut self.busy)] {
            shell.finish("podman kube play")?;
        }
        Ok(())
    }

    /// On cgroup v1 podman 4.3 tries for 3 s to remove a cgroup: that is no fair figure, and a pod
    /// that waits disturbs nobody.
    fn remove(&mut self, _pod: &str) -> Outcome<Option<Removal>> {
        Ok(None)
    }

    fn clear(&mut self) -> Outcome<()> {
        self.close();
        self.open()
    }

    fn daemon(&self) -> Option<u32> {
        None
    }

    fn supervisors(&self) -> Vec<u32> {
        self.space.as_ref().map_or_else(Vec::new, |space| space.processes("conmon --api-version"))
    }

    fn list(&mut self) -> Outcome<Option<u64>> {
        Ok(None)
    }

    fn list_by_command(&mut self) -> Outcome<Option<u64>> {
        let Some(space) = &self.space else { return Ok(None) };
        let mut command = self.command(space);
        let begin = nanos();
        let status = command.arg("ps").stdout(Stdio::null()).status();
        let taken = nanos() - begin;
        match status {
            Ok(status) if status.success() => Ok(Some(taken)),
            other => Err(format!("podman ps: {other:?}")),
        }
    }

    fn restart(&mut self, _running: usize) -> Outcome<Option<u64>> {
        Ok(None)
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.close();
    }
}
