//! Containers with images: layouts made here, as any tool would make them. Their programs are the
//! host's, mounted as a volume.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::harness::{Asked, FOREVER, Node, Pod, Process};

/// A directory in the form of the OCI image layout.
pub struct Layout {
    directory: PathBuf,
}

impl Layout {
    pub fn make(directory: PathBuf) -> Self {
        std::fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
        std::fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self { directory }
    }

    fn blob(&self, bytes: &[u8]) -> Value {
        let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        std::fs::write(self.directory.join("blobs/sha256").join(&hex), bytes).unwrap();
        json!({ "digest": format!("sha256:{hex}"), "size": bytes.len() })
    }

    /// The only image of the layout from now on, whose `/version` says so.
    pub fn holds(&self, version: &str, config: &Value) {
        self.holds_layers(&[root(version, 0)], config);
    }

    /// The same, with layers that are given.
    pub fn holds_layers(&self, layers: &[Vec<u8>], config: &Value) {
        let layers: Vec<Value> = layers.iter().map(|layer| self.blob(layer)).collect();
        let diffs: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
        let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({
            "architecture": arch, "os": "linux", "config": config,
            "rootfs": { "type": "layers", "diff_ids": diffs },
        });
        let typed = |mut blob: Value, kind: &str| {
            blob["mediaType"] = format!("application/vnd.oci.image.{kind}").into();
            blob
        };
        let manifest = json!({
            "schemaVersion": 2,
            "config": typed(self.blob(config.to_string().as_bytes()), "config.v1+json"),
            "layers": layers.into_iter().map(|l| typed(l, "layer.v1.tar")).collect::<Vec<_>>(),
        });
        let manifest = self.blob(manifest.to_string().as_bytes());
        let index = json!({
            "schemaVersion": 2, "manifests": [typed(manifest, "manifest.v1+json")],
        });
        std::fs::write(self.directory.join("index.json"), index.to_string()).unwrap();
    }

    pub fn name(&self) -> String {
        format!("oci:{}", self.directory.display())
    }
}

/// A layer with a file `/version` and as many bytes besides.
fn root(version: &str, filler: usize) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, target) in [("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, name, target).unwrap();
    }
    let passwd = "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/srv/app:/bin/sh\n";
    let filler = "x".repeat(filler);
    for (name, text) in [("version", version), ("etc/passwd", passwd), ("filler", &filler)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// A pod of one container `main` with an image; without a script it runs what that says.
pub fn pod(name: &str, image: &str, script: &str) -> Asked {
    let asked = Asked::one(name, script);
    let asked = if script.is_empty() {
        asked.with("/spec/containers/0/command", Value::Null)
    } else {
        asked
    };
    let usr = json!({ "name": "usr", "hostPath": { "path": "/usr", "type": "Directory" } });
    asked.with("/spec/containers/0/image", image.into()).mounting(&usr, "/usr")
}

pub fn said_by(node: &Node, pod: &Pod) -> String {
    let run = u32::try_from(pod.restarts("main")).unwrap();
    crate::harness::until_text(&node.log(pod, "main", run), "the first line", |text| {
        let line = text.lines().next()?;
        // The time, the stream and a mark stand before it.
        line.splitn(4, ' ').nth(3).map(str::to_owned)
    })
}

pub fn read_version() -> String {
    format!("cat /version; echo; {FOREVER}")
}

fn condition(pod: &Pod, kind: &str) -> Option<Value> {
    let all = pod.0["status"]["conditions"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|condition| condition["type"] == kind)
}

fn layers(node: &Node) -> PathBuf {
    node.root().join("data/images/layers")
}

fn count(directory: &Path) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

#[test]
fn an_image_says_what_runs_and_a_restarted_container_is_as_new() {
    let node = Node::started();
    let layout = Layout::make(node.out().join("web"));
    let script = "echo \"$A $(id -u) $(pwd) $(ls /new 2>&1)\"; touch /new; exec sleep 1000";
    layout.holds(
        "1",
        &json!({
            "Entrypoint": ["/bin/sh", "-c"], "Cmd": [script], "Env": ["A=image"],
            "WorkingDir": "/srv/here", "StopSignal": "SIGKILL",
        }),
    );
    node.ask_for(&pod("web", &layout.name(), ""));
    let pod = node.until_running("default/web");
    let first = "image 0 /srv/here ls: cannot access '/new': No such file or directory";
    assert_eq!(said_by(&node, &pod), first);
    assert_eq!(pod.container("main")["image"], layout.name());
    assert!(pod.container("main")["imageID"].as_str().unwrap().starts_with("sha256:"));
    Process::of(pod.pids()["main"]).kill();
    let again = node.until("back", |pods| {
        let pod = pods.get("default/web")?;
        (pod.restarts("main") == 1 && pod.is_running()).then(|| pod.clone())
    });
    assert_eq!(said_by(&node, &again), first);
    node.end();
}

#[test]
fn what_runs_goes_on_until_the_image_of_its_successor_is_here() {
    let node = Node::started();
    let (old, new) = (node.out().join("old"), node.out().join("new"));
    let old = Layout::make(old);
    old.holds("old", &json!({}));
    node.ask_for(&pod("web", &old.name(), &read_version()));
    let before = node.until_running("default/web");
    assert_eq!(said_by(&node, &before), "old");

    let missing = format!("oci:{}", new.display());
    node.ask_for(&pod("web", &missing, &read_version()));
    let waiting = node.until("it waits", |pods| {
        let pod = pods.get("default/web")?;
        let condition = condition(pod, "UpToDate")?;
        (condition["reason"] == "ErrImagePull").then(|| pod.clone())
    });
    assert_eq!(waiting.processes(), before.processes());
    assert!(waiting.problems().contains("new"), "{waiting:?}");
    assert!(node.said(&["describe", "pod", "web"]).contains("ErrImagePull"));

    let new = Layout::make(new);
    new.holds("new", &json!({}));
    // Looked for again at once, and not only when its time has come.
    node.ask_for(&pod("web", &missing, &format!("true; {}", read_version())));
    let after = node.until("it is replaced", |pods| {
        let pod = pods.get("default/web")?;
        let is_another = pod.restarts("main") > before.restarts("main");
        (pod.is_running() && is_another).then(|| pod.clone())
    });
    assert_eq!((said_by(&node, &after), after.uid()), ("new".to_owned(), before.uid()));
    node.end();
}

#[test]
fn a_pod_without_its_image_waits_alone_and_says_why() {
    let node = Node::started();
    let missing = format!("oci:{}", node.out().join("nothing").display());
    node.ask_for(&pod("waits", &missing, FOREVER));
    node.ask_for(&Asked::one("runs", FOREVER));
    node.until_running("default/runs");
    let waits = node.until("it says why", |pods| {
        let pod = pods.get("default/waits")?;
        (pod.waiting("main") == "ErrImagePull").then(|| pod.clone())
    });
    assert_eq!(waits.phase(), "Pending");
    let never = pod("never", &missing, FOREVER);
    node.ask_for(&never.with("/spec/containers/0/imagePullPolicy", "Never".into()));
    node.until("it must not be got", |pods| {
        let pod = pods.get("default/never")?;
        (pod.waiting("main") == "ErrImageNeverPull").then_some(())
    });
    node.end();
}

#[test]
fn a_restart_asks_anew_what_a_name_means_and_an_agent_does_not() {
    let mut node = Node::started();
    let layout = Layout::make(node.out().join("web"));
    layout.holds("1", &json!({}));
    node.ask_for(&pod("web", &layout.name(), &read_version()));
    let first = node.until_running("default/web");
    layout.holds("2", &json!({}));
    node.kill_agent();
    node.start();
    Process::of(first.pids()["main"]).kill();
    let same = node.until("back", |pods| {
        let pod = pods.get("default/web")?;
        (pod.restarts("main") == 1 && pod.is_running()).then(|| pod.clone())
    });
    assert_eq!(said_by(&node, &same), "1");
    node.said(&["restart", "web"]);
    let other = node.until("another instance", |pods| {
        let pod = pods.get("default/web")?;
        (pod.uid() != first.uid() && pod.is_running()).then(|| pod.clone())
    });
    assert_eq!(said_by(&node, &other), "2");
    node.end();
}

#[test]
fn images_that_were_lost_are_got_again_before_anything_is_started() {
    let mut node = Node::started();
    let layout = Layout::make(node.out().join("web"));
    layout.holds("1", &json!({}));
    node.ask_for(&pod("web", &layout.name(), &read_version()));
    let first = node.until_running("default/web");
    let executor = node.executors().into_values().next().unwrap();
    node.kill_agent();
    Process::of(executor).kill();
    Process::of(first.pids()["main"]).wait_end();
    // Half of it, as a disk that lost a directory has it.
    for layer in std::fs::read_dir(layers(&node)).unwrap() {
        std::fs::remove_file(layer.unwrap().path().join("layer.json")).unwrap();
    }
    node.start();
    let again = node.until_running("default/web");
    assert_eq!((said_by(&node, &again), again.uid()), ("1".to_owned(), first.uid()));
    assert_eq!(count(&layers(&node)), 1);
    node.end();
}

#[test]
fn a_removed_image_leaves_nothing_and_one_in_use_is_not_removed() {
    let node = Node::started();
    let layout = Layout::make(node.out().join("web"));
    layout.holds("1", &json!({}));
    node.ask_for(&pod("web", &layout.name(), &read_version()));
    node.until_running("default/web");
    let (code, _, refused) = node.cli(&["image", "rm", &layout.name()]);
    assert_eq!(code, 1);
    assert!(refused.contains("pod default/web"), "{refused}");
    assert!(node.said(&["image", "ls"]).contains("web"));
    node.remove("web.json");
    node.until_gone("default/web");
    node.said(&["image", "rm", &layout.name()]);
    assert_eq!(count(&layers(&node)), 0);
    node.end();
}

/// A file system in memory, gone when it is dropped.
pub struct SmallDisk(pub tempfile::TempDir);

impl SmallDisk {
    pub fn new(size: u64) -> Self {
        let directory = tempfile::Builder::new().prefix("roost-it-disk-").tempdir().unwrap();
        let flags = nix::mount::MsFlags::empty();
        let options = format!("size={size}");
        let (kind, options) = (Some("tmpfs"), Some(options.as_str()));
        nix::mount::mount(Some("roost-it"), directory.path(), kind, flags, options).unwrap();
        Self(directory)
    }

    /// How many bytes are used, and how many there are.
    fn used(&self) -> (u64, u64) {
        let disk = nix::sys::statvfs::statvfs(self.0.path()).unwrap();
        let (all, free) = (disk.blocks(), disk.blocks_free());
        ((all - free) * disk.fragment_size(), all * disk.fragment_size())
    }

    fn percent(&self) -> u64 {
        let (used, all) = self.used();
        used * 100 / all
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
}

/// Invariant 11.
#[test]
fn on_a_disk_that_is_nearly_full_images_go_that_nobody_needs_and_no_others() {
    const IMAGE_LEN: usize = 6 << 20;
    let (disk, elsewhere) = (SmallDisk::new(160 << 20), tempfile::tempdir().unwrap());
    let mut node = Node::in_directory(disk.0.path());
    node.set_env("ROOST_IMAGES_GC_MIN_AGE", "0s");
    node.start();
    let layout = |name: &str| {
        let layout = Layout::make(elsewhere.path().join(name));
        layout.holds_layers(&[root(name, IMAGE_LEN)], &json!({}));
        layout
    };
    let [oldest, old, new, loaded, pulled, removed] =
        ["oldest", "old", "new", "loaded", "pulled", "removed"].map(layout);
    node.ask_for(&pod("gone", &removed.name(), FOREVER));
    node.until_running("default/gone");
    for (run, version) in (0..).zip([&oldest, &old, &new]) {
        node.ask_for(&pod("web", &version.name(), &read_version()));
        node.until("the revision runs", |pods| {
            let pod = pods.get("default/web").filter(|pod| pod.is_running())?;
            (pod.restarts("main") == run).then_some(())
        });
    }
    node.remove("gone.json");
    node.until_gone("default/gone");
    node.said(&["image", "load", loaded.directory.to_str().unwrap()]);
    node.said(&["image", "pull", &pulled.name()]);
    let directory = layers(&node);
    let versions = || -> Vec<String> {
        let read = |layer: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(layer.unwrap().path().join("fs/version")).unwrap_or_default()
        };
        let mut all: Vec<String> = std::fs::read_dir(&directory).unwrap().map(read).collect();
        all.sort();
        all
    };
    assert_eq!(versions(), ["loaded", "new", "old", "oldest", "pulled", "removed"]);

    let (used, all) = disk.used();
    let filler = usize::try_from(all * 95 / 100 - used).unwrap();
    std::fs::write(disk.0.path().join("filler"), vec![1; filler]).unwrap();
    // The file system has needs of its own.
    assert!((92..=96).contains(&disk.percent()), "{} %", disk.percent());
    node.kill_agent();
    node.start();
    node.until("what nobody needs is gone", |_| {
        let is_right = versions() == ["loaded", "new", "old"];
        // What is out of sight is not yet removed.
        (is_right && disk.percent() < 90).then_some(())
    });
    println!("95 % of {all} bytes were used, {} % are now", disk.percent());
    // What was kept is whole: nothing is read from where it came.
    drop(elsewhere);
    node.said(&["rollback", "web"]);
    let back = node.until("the revision before runs", |pods| {
        let pod = pods.get("default/web").filter(|pod| pod.is_running())?;
        (pod.restarts("main") == 3).then(|| pod.clone())
    });
    assert_eq!(back.container("main")["image"], old.name());
    assert_eq!(said_by(&node, &back), "old");
    node.end();
}
