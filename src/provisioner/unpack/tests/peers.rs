//! What comes out, side by side with what others make of the same layers.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::provisioner::store::sha256;
use crate::provisioner::unpack::testing::{Stack, Tar, listing};

/// Layers with everything in them that Go's tar and umoci 0.4 know, hostile names among it.
fn layers() -> Vec<Vec<u8>> {
    let capability = [1, 0, 0, 2, b'\n', 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let long = "l/".to_owned() + &"n".repeat(180);
    let base = Tar::new()
        .dir("./")
        .dir("usr/")
        .dir("usr/lib/")
        .symlink("lib", "usr/lib")
        .mode(0o4755)
        .file("usr/lib/setuid", b"setuid")
        .mode(0o1777)
        .entry(b'5', b"tmp/", b"", b"")
        .mode(0o644)
        .owner(1000, 1001)
        .mtime(1_234_567)
        .dir("data")
        .file("data/a", b"a")
        .link("data/a2", "data/a")
        .file("data/c", b"c")
        .file("data/b", &[7; 70_000])
        .pax(&[("SCHILY.xattr.security.capability", &capability)])
        .file("ping", b"")
        .pax(&[("mtime", b"1234.123456789"), ("SCHILY.xattr.user.a", b"1")])
        .file("fraction", b"")
        .entry(b'6', b"fifo", b"", b"")
        .device(b'3', "null", (1, 3))
        .device(b'4', "disk", (8, 1))
        .dir("l")
        .entry(b'L', b"././@LongLink", b"", format!("{long}\0").as_bytes())
        .file("short", b"gnu")
        .symlink("dangling", "/no/where")
        .dir("gone")
        .file("gone/x", b"")
        .dir("opaque")
        .file("opaque/x", b"")
        .dir("again")
        .file("again/below", b"");
    let names = Tar::new()
        .mtime(99)
        .file("../escaped", b"1")
        .file("/absolute", b"2")
        .file("usr/../dots", b"3")
        .file("lib/through-a-link", b"4")
        .link("hard", "/data/b")
        .link("hard2", "../../data/c")
        .file(".wh.gone", b"")
        .dir("opaque")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/y", b"")
        .file(".wh.again", b"")
        .dir("again")
        .file("again/new", b"")
        .file("data/.wh.a", b"")
        .file("data/.wh.c", b"");
    let changes = Tar::new()
        .mtime(100)
        .owner(5, 6)
        .file("ping", b"no capability any more")
        .symlink("data/b", "/etc/passwd")
        .dir("fifo")
        .file("fifo/x", b"")
        .file("opaque", b"a file now")
        .mode(0o700)
        .entry(b'5', b"tmp", b"", b"")
        .file("twice", b"first")
        .file("twice", b"second");
    vec![base.end(), names.end(), changes.end()]
}

/// `umoci unpack` of an image of these layers; none if it is not installed.
fn by_umoci(layers: &[Vec<u8>]) -> Option<BTreeMap<String, String>> {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    fs::create_dir_all(image.join("blobs/sha256")).unwrap();
    let blob = |bytes: &[u8]| {
        let digest = sha256(bytes);
        fs::write(image.join("blobs/sha256").join(digest.digest()), bytes).unwrap();
        (digest.to_string(), bytes.len())
    };
    let described = |kind: &str, (digest, size): &(String, usize)| {
        let kind = format!("application/vnd.oci.image.{kind}");
        serde_json::json!({ "mediaType": kind, "digest": digest, "size": size })
    };
    let blobs: Vec<_> = layers.iter().map(|layer| blob(layer)).collect();
    let diffs: Vec<_> = blobs.iter().map(|(digest, _)| digest).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": diffs },
    });
    let config = blob(config.to_string().as_bytes());
    let layers: Vec<_> = blobs.iter().map(|layer| described("layer.v1.tar", layer)).collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "config": described("config.v1+json", &config), "layers": layers,
    });
    let manifest = blob(manifest.to_string().as_bytes());
    let mut described = described("manifest.v1+json", &manifest);
    described["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": "t" });
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [described] });
    fs::write(image.join("index.json"), index.to_string()).unwrap();
    fs::write(image.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let bundle = directory.path().join("bundle");
    let umoci = Command::new("umoci")
        .args(["unpack", "--image", &format!("{}:t", image.display())])
        .arg(&bundle)
        .output()
        .ok()?;
    assert!(umoci.status.success(), "{}", String::from_utf8_lossy(&umoci.stderr));
    Some(listing(&bundle.join("rootfs")))
}

/// The tree as overlayfs shows it, mounted where nobody else sees it.
fn by_overlayfs(stack: &Stack) -> BTreeMap<String, String> {
    let target = tempfile::tempdir().unwrap();
    let lower: Vec<_> =
        stack.layers.iter().rev().map(|layer| layer.display().to_string()).collect();
    let options = format!("lowerdir={}", lower.join(":"));
    let show = || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let options = Some(options.as_str());
        mount(Some("o"), target.path(), Some("overlay"), MsFlags::MS_RDONLY, options).unwrap();
        listing(target.path())
    };
    // The mount namespace is that of the thread, and ends with it.
    std::thread::scope(|scope| scope.spawn(show).join().unwrap())
}

#[track_caller]
fn same(ours: &BTreeMap<String, String>, theirs: &BTreeMap<String, String>) {
    let names = ours.keys().chain(theirs.keys());
    let differs: Vec<_> = names
        .filter(|name| ours.get(*name) != theirs.get(*name))
        .map(|name| {
            format!("{name}\n  ours   {:?}\n  theirs {:?}", ours.get(name), theirs.get(name))
        })
        .collect();
    assert!(differs.is_empty(), "{}", differs.join("\n"));
}

#[test]
fn what_comes_out_is_what_umoci_makes() {
    if let Some(theirs) = by_umoci(&layers()) {
        same(&Stack::of(&layers()).merged(), &theirs);
    }
}

#[test]
fn a_copy_is_what_overlayfs_shows() {
    if !rustix::process::geteuid().is_root() || !Path::new("/sys/module/overlay").exists() {
        return;
    }
    let stack = Stack::of(&layers());
    // The layer below has a second name for a file that a layer above took over: overlayfs still
    // counts it.
    let plain = |tree: BTreeMap<String, String>| -> BTreeMap<String, String> {
        let cut = |line: String| line.split(", one with").next().unwrap().to_owned();
        tree.into_iter().map(|(name, line)| (name, cut(line))).collect()
    };
    same(&plain(stack.merged()), &plain(by_overlayfs(&stack)));
}
