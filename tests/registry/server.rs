//! A registry of Debian's package docker-registry on loopback, for tests of several programs.
//! Needs skopeo, umoci, apache2-utils and openssl besides (`tests/run` installs them).
#![allow(unreachable_pub, reason = "in a test program `pub` says what other modules use")]
#![allow(dead_code, reason = "not every program uses all of it")]
#![allow(clippy::unwrap_used, reason = "what tests stand on panics when it is not there")]

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Longest time for a registry to answer for the first time, on a busy machine.
const START_TIME_MAX: Duration = Duration::from_secs(60);

/// How a registry is set up.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    /// Plain HTTP.
    Plain,
    /// Plain HTTP, with `me` and `s3cret`.
    Password,
    /// TLS, by a private authority (`ca.crt`).
    Certificate,
    /// TLS, with a certificate that is its own authority (`ca.crt`).
    SelfSigned,
}

/// A running registry; ended when it is dropped.
pub struct Registry {
    process: Child,
    /// On 127.0.0.1.
    pub port: u16,
    /// What it needs, and `ca.crt`.
    pub directory: TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Runs a program of a package.
#[track_caller]
pub fn tool(package: &str, program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| {
        panic!("`{program}` can't be run ({e}): install Debian's package {package}")
    });
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}

impl Registry {
    /// Without images.
    pub fn start(kind: Kind) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut text = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {0}/data\nhttp:\n  addr: \
             127.0.0.1:{port}\n",
            place.display()
        );
        if kind == Kind::Certificate || kind == Kind::SelfSigned {
            let (certificate, key) = make_certificate(place, kind);
            text.push_str(&format!("  tls:\n    certificate: {certificate}\n    key: {key}\n"));
        }
        if kind == Kind::Password {
            let file = place.join("htpasswd");
            tool("apache2-utils", "htpasswd", &["-Bbc", file.to_str().unwrap(), "me", "s3cret"]);
            let file = file.display();
            text.push_str(&format!("auth:\n  htpasswd:\n    realm: test\n    path: {file}\n"));
        }
        let config = place.join("config.yml");
        fs::write(&config, text).unwrap();
        let log = fs::File::create(place.join("log")).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdin(Stdio::null());
        let process = command.stdout(log.try_clone().unwrap()).stderr(log).spawn();
        let process = process.expect("install Debian's package docker-registry");
        let registry = Self { process, port, directory };
        registry.answers();
        registry
    }

    /// With an image `team/web:1` of two layers, the upper one with a whiteout.
    pub fn with_web(kind: Kind) -> Self {
        let registry = Self::start(kind);
        let layout = make_layout(registry.directory.path());
        registry.push(&format!("oci:{}:1", layout.display()), "team/web:1");
        registry
    }

    /// Waits until it listens.
    fn answers(&self) {
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = fs::read_to_string(self.directory.path().join("log")).unwrap();
            assert!(start.elapsed() < START_TIME_MAX, "docker-registry does not start: {log}");
            std::thread::yield_now();
        }
    }

    /// Puts an image there that skopeo finds at `source`.
    pub fn push(&self, source: &str, name: &str) {
        let target = format!("docker://{}", self.image(name));
        let credentials = ["--dest-creds", "me:s3cret", "--dest-tls-verify=false"];
        let arguments = [&["copy", "-q"][..], &credentials[..], &[source, target.as_str()][..]];
        tool("skopeo", "skopeo", &arguments.concat());
    }

    /// What an image is called for clients.
    pub fn image(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }
}

/// A certificate for the server and its key, as paths; `ca.crt` is who vouches for it.
fn make_certificate(place: &Path, kind: Kind) -> (String, String) {
    let path = |name: &str| place.join(name).to_str().unwrap().to_owned();
    let (ca, ca_key) = (path("ca.crt"), path("ca.key"));
    let openssl = |arguments: String| {
        tool("openssl", "openssl", &arguments.split(' ').collect::<Vec<_>>());
    };
    let new = "req -x509 -newkey rsa:2048 -nodes -days 2";
    let server = "-addext subjectAltName=IP:127.0.0.1";
    if kind == Kind::SelfSigned {
        openssl(format!("{new} -subj /CN=server {server} -keyout {ca_key} -out {ca}"));
        return (ca, ca_key);
    }
    let (certificate, key) = (path("server.crt"), path("server.key"));
    openssl(format!("{new} -subj /CN=authority -keyout {ca_key} -out {ca}"));
    openssl(format!(
        "{new} -subj /CN=server {server} -addext basicConstraints=CA:FALSE -CA {ca} -CAkey \
         {ca_key} -keyout {key} -out {certificate}"
    ));
    (certificate, key)
}

/// A layout with one image, `1`, made by umoci.
pub fn make_layout(place: &Path) -> PathBuf {
    let layout = place.join("layout");
    let (image, bundle) = (format!("{}:1", layout.display()), place.join("bundle"));
    let path = bundle.to_str().unwrap();
    let umoci = |arguments: &[&str]| tool("umoci", "umoci", arguments);
    umoci(&["init", "--layout", layout.to_str().unwrap()]);
    umoci(&["new", "--image", &image]);
    umoci(&["unpack", "--image", &image, path]);
    let root = bundle.join("rootfs");
    fs::create_dir(root.join("bin")).unwrap();
    fs::write(root.join("bin/hello"), "#!/bin/sh\necho hello\n").unwrap();
    fs::write(root.join("gone"), vec![7; 300_000]).unwrap();
    umoci(&["repack", "--refresh-bundle", "--image", &image, path]);
    fs::remove_file(root.join("gone")).unwrap();
    std::os::unix::fs::symlink("bin/hello", root.join("link")).unwrap();
    umoci(&["repack", "--image", &image, path]);
    let entrypoint = ["config", "--image", &image, "--config.entrypoint", "/bin/hello"];
    umoci(&[&entrypoint[..], &["--config.env", "A=1", "--config.user", "1000:1000"]].concat());
    layout
}
