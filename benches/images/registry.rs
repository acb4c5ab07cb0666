//! [`Registry`]: Debian's docker-registry on loopback, with images of this machine's own files.

use std::fmt;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::measure::{LIMIT, Outcome};
use crate::scene::Scene;
use crate::{output, text};

/// A registry, ended when it is dropped.
pub(crate) struct Registry {
    process: Child,
    port: u16,
    dir: PathBuf,
    rootfs: PathBuf,
}

/// How big an image is.
pub(crate) struct Content {
    layers: usize,
    entries: usize,
    packed: u64,
    unpacked: u64,
}

impl Content {
    /// Of its layers without compression.
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    pub(crate) fn mib(&self) -> f64 {
        self.unpacked as f64 / f64::from(1 << 20)
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layers, entries, packed, .. } = self;
        let mib = self.mib();
        write!(f, "{layers} layers, {entries} entries, {packed} bytes (gzip) of {mib:.0} MiB")
    }
}

impl Registry {
    pub(crate) fn start(scene: &Scene) -> Outcome<Self> {
        let dir = scene.dir.join("registry");
        std::fs::create_dir(&dir).map_err(|error| error.to_string())?;
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        let port = listener.local_addr().map_err(|error| error.to_string())?.port();
        drop(listener);
        let config = json!({
            "version": "0.1", "log": { "level": "error", "accesslog": { "disabled": true } },
            "storage": { "filesystem": { "rootdirectory": text(&dir.join("data")) } },
            "http": { "addr": format!("127.0.0.1:{port}") },
        });
        let path = dir.join("config.yml");
        std::fs::write(&path, config.to_string()).map_err(|error| error.to_string())?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(path).stdin(Stdio::null());
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let process = process.map_err(|error| format!("docker-registry can't be run: {error}"))?;
        let registry = Self { process, port, dir, rootfs: scene.rootfs() };
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if begin.elapsed() > LIMIT {
                return Err("docker-registry does not listen".into());
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        Ok(registry)
    }

    /// What an image is called for clients.
    pub(crate) fn name(&self, image: &str) -> String {
        format!("127.0.0.1:{}/{image}", self.port)
    }

    /// Makes an image of busybox and these directories, a layer for each list, and puts it there.
    pub(crate) fn put(&self, image: &str, layers: &[&[&str]]) -> Outcome<Content> {
        let layout = self.dir.join("layout");
        let blobs = layout.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).map_err(|error| error.to_string())?;
        let mut content = Content { layers: 0, entries: 0, packed: 0, unpacked: 0 };
        let (mut diffs, mut described) = (Vec::new(), Vec::new());
        let rootfs = text(&self.rootfs);
        let busybox: (&str, &[&str]) = (&rootfs, &["."]);
        for (root, parts) in [busybox].into_iter().chain(layers.iter().map(|parts| ("/", *parts))) {
            let tar = self.dir.join("layer.tar");
            let mut command = Command::new("tar");
            command.args(["-C", root, "--sort=name", "-cf"]).arg(&tar).args(parts);
            output(&mut command)?;
            content.layers += 1;
            content.unpacked += tar.metadata().map_err(|error| error.to_string())?.len();
            content.entries += output(Command::new("tar").arg("-tf").arg(&tar))?.lines().count();
            diffs.push(format!("sha256:{}", sum(&tar)?));
            output(Command::new("gzip").arg("-f").arg(&tar))?;
            let layer = keep(&blobs, &self.dir.join("layer.tar.gz"), "layer.v1.tar+gzip")?;
            content.packed += layer["size"].as_u64().unwrap_or(0);
            described.push(layer);
        }
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": diffs },
        });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self.keep_json(&blobs, &config, "config.v1+json")?,
            "layers": described,
        });
        let manifest = self.keep_json(&blobs, &manifest, "manifest.v1+json")?;
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        for (name, value) in
            [("index.json", index), ("oci-layout", json!({ "imageLayoutVersion": "1.0.0" }))]
        {
            let written = std::fs::write(layout.join(name), value.to_string());
            written.map_err(|error| error.to_string())?;
        }
        let (from, to) = (format!("oci:{}", text(&layout)), self.name(image));
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["copy", "-q", "--dest-tls-verify=false"]);
        output(skopeo.arg(from).arg(format!("docker://{to}")))?;
        std::fs::remove_dir_all(layout).map_err(|error| error.to_string())?;
        Ok(content)
    }

    fn keep_json(&self, blobs: &Path, value: &Value, kind: &str) -> Outcome<Value> {
        let path = self.dir.join("blob");
        std::fs::write(&path, value.to_string()).map_err(|error| error.to_string())?;
        keep(blobs, &path, kind)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Moves a file to the blobs; its descriptor.
fn keep(blobs: &Path, file: &Path, kind: &str) -> Outcome<Value> {
    let (hex, len) = (sum(file)?, file.metadata().map_err(|error| error.to_string())?.len());
    std::fs::rename(file, blobs.join(&hex)).map_err(|error| error.to_string())?;
    let kind = format!("application/vnd.oci.image.{kind}");
    Ok(json!({ "mediaType": kind, "digest": format!("sha256:{hex}"), "size": len }))
}

fn sum(path: &Path) -> Outcome<String> {
    let text = output(Command::new("sha256sum").arg(path))?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}
