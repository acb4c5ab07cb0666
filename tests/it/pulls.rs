//! Images from a registry, with the real agent and command line: Debian's docker-registry on
//! loopback, images as other tools make them, and pulls that are cut short.
//!
//! `ROOST_KILLS` sets how often a pull is killed (default 10).

#[path = "../registry/server.rs"]
mod server;
#[path = "../registry/tree.rs"]
mod tree;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Asked, Dice, FOREVER, Node, Process};
use crate::images::{Layout, pod, read_version, said_by};
use crate::terminal::{on_terminal, roost};
use server::{Kind, Registry, tool};
use tree::{assert_same, listing};

/// Bytes that no compression makes less of, the same ones for the same seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(len).collect()
}

/// Three layers with links, whiteouts and odd modes, big enough to be interrupted everywhere.
fn layers() -> Vec<Vec<u8>> {
    let entry = |kind: tar::EntryType, mode: u32, len: usize| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(1000);
        header.set_gid(1001);
        header.set_mtime(1_234_567_890);
        header.set_size(len as u64);
        header
    };
    let (file, directory) = (tar::EntryType::Regular, tar::EntryType::Directory);
    let mut layers = Vec::new();
    for layer in 0..3_u64 {
        let mut tar = tar::Builder::new(Vec::new());
        tar.append_data(&mut entry(directory, 0o1770, 0), "d", &[][..]).unwrap();
        for n in 0..150_u64 {
            let len = usize::try_from(n * n).unwrap();
            let mode = if n % 7 == 0 { 0o4755 } else { 0o640 };
            let data = noise(layer * 1000 + n, len);
            let name = format!("d/{layer}/{n}");
            tar.append_data(&mut entry(file, mode, len), &name, &data[..]).unwrap();
            let mut link = entry(tar::EntryType::Link, mode, 0);
            tar.append_link(&mut link, format!("d/{layer}/{n}-too"), &name).unwrap();
        }
        if layer > 0 {
            let gone = format!("d/{}/.wh.3", layer - 1);
            tar.append_data(&mut entry(file, 0o600, 0), gone, &[][..]).unwrap();
        }
        layers.push(tar.into_inner().unwrap());
    }
    layers
}

/// Everything of all layers that are unpacked: their trees, and what is written down of them. Without
/// any, nothing is on its way in or out either.
fn unpacked(node: &Node) -> BTreeMap<PathBuf, String> {
    let images = node.root().join("data/images");
    let mut all = BTreeMap::new();
    for layer in names_in(&images.join("layers")) {
        let path = images.join("layers").join(&layer);
        let mark = fs::read_to_string(path.join("layer.json")).unwrap();
        all.insert(Path::new(&layer).join("layer.json"), mark);
        let tree = listing(&path.join("fs")).into_iter();
        all.extend(tree.map(|(name, line)| (Path::new(&layer).join(name), line)));
    }
    if all.is_empty() {
        for on_its_way in ["partial", "trash"] {
            assert_eq!(names_in(&images.join(on_its_way)), Vec::<String>::new(), "{on_its_way}");
        }
    }
    all
}

fn names_in(directory: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let names = fs::read_dir(directory).unwrap().map(name);
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

fn kills() -> u64 {
    std::env::var("ROOST_KILLS").map_or(10, |text| text.parse().unwrap())
}

#[test]
fn a_pull_that_is_killed_at_random_moments_is_made_good_by_the_next() {
    let mut dice = Dice::new("killed pulls");
    let registry = Registry::start(Kind::Plain);
    let mut node = Node::started();
    let layout = Layout::make(node.out().join("layout"));
    layout.holds_layers(&layers(), &json!({}));
    registry.push(&layout.name(), "big:1");
    let image = registry.image("big:1");
    let began = Instant::now();
    node.said(&["image", "pull", &image]);
    let whole = began.elapsed();
    let expected = unpacked(&node);
    assert!(expected.len() > 900, "{}", expected.len());
    let mut half = 0;
    for kill in 0..kills() {
        node.said(&["image", "rm", &image]);
        assert_eq!(unpacked(&node), BTreeMap::new());
        let root = node.root();
        let mut pull = Command::new(env!("CARGO_BIN_EXE_roost"))
            .args(["image", "pull", &image, "--root", root.to_str().unwrap()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let micros = u64::try_from(whole.as_micros()).unwrap();
        let life = Duration::from_micros(dice.below(micros * 3 / 4));
        assert!(!Process::of(node.agent_pid()).ends_within(life), "{}", node.agent_log());
        node.kill_agent();
        half += u64::from(!pull.wait().unwrap().success());
        node.start();
        node.said(&["image", "pull", &image]);
        let found = unpacked(&node);
        assert!(found.len() == expected.len(), "kill {kill} after {life:?}");
        assert_same(&found, &expected);
    }
    println!("{} kills within {whole:?}, {half} of them before the pull was through", kills());
    assert!(half > 0, "no kill came in time");
    node.end();
}

#[test]
fn a_pull_shows_how_far_it_is_and_then_what_came() {
    let registry = Registry::start(Kind::Plain);
    let node = Node::started();
    let layout = Layout::make(node.out().join("layout"));
    layout.holds_layers(&layers(), &json!({}));
    registry.push(&layout.name(), "big:1");
    let (image, root) = (registry.image("big:1"), node.root());
    let text = on_terminal(roost(root.to_str().unwrap()).args(["image", "pull", &image]));
    let shown = text.contains("asks what it is") || text.contains("of 3 layers");
    assert!(shown, "{text:?}");
    // The last line is all that stays: from where the lines began, everything was erased.
    let last = text.rsplit("F\u{1b}[J").next().unwrap().trim_end().to_owned();
    assert!(last.starts_with(&format!("{image} ")), "{text:?}");
    assert!(last.ends_with(" bytes were fetched") && last.lines().count() == 1, "{text:?}");
    let (code, out, err) = node.cli(&["image", "pull", &image]);
    assert_eq!((code, err), (0, format!("pulling {image}\n")));
    assert!(out.starts_with(&format!("{image} ")) && out.contains("it was here already"), "{out}");
    let missing = registry.image("nothing:1");
    let (code, out, err) = node.cli(&["image", "pull", &missing]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains(&format!("can't pull {missing}")) && err.contains("does not have it"));
    node.end();
}

/// A layout with two images: `1` is a Debian root file system made by mmdebstrap, `2` is made of it
/// by buildah. Kept between runs, because making it takes half a minute.
fn debian() -> PathBuf {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("debian-2");
    if kept.exists() {
        return kept;
    }
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let (tar, layout) = (path("root.tar"), path("layout"));
    let suite = "--variant=essential --mode=root bookworm";
    let arguments: Vec<&str> = suite.split(' ').chain([tar.as_str()]).collect();
    tool("mmdebstrap", "mmdebstrap", &arguments);
    let buildah = |arguments: &[&str]| {
        let store = ["--root", &path("store"), "--runroot", &path("run")];
        let driver = ["--storage-driver", "vfs"];
        tool("buildah", "buildah", &[&store[..], &driver[..], arguments].concat());
    };
    buildah(&["from", "--name", "one", "scratch"]);
    buildah(&["add", "one", &tar, "/"]);
    buildah(&["config", "--cmd", "[\"cat\", \"/etc/debian_version\"]", "one"]);
    let first = format!("oci:{layout}:1");
    buildah(&["commit", "--quiet", "one", &first]);
    buildah(&["commit", "--quiet", "one", "first"]);
    buildah(&["from", "--name", "two", "localhost/first"]);
    // What is in the upper layer of a buildah that can't run anything here.
    let change = "chroot $(buildah $ROOST_BUILDAH mount two) sh -c 'rm -r /usr/share/perl5 \
        /etc/motd; chmod 4711 /bin/su; chown 7:8 /etc/fstab; ln /etc/passwd /etc/linked; \
        mkdir -m 1777 /new; date > /new/date'";
    let options =
        format!("--root {} --runroot {} --storage-driver vfs", path("store"), path("run"));
    let changed = Command::new("sh").args(["-ec", change]).env("ROOST_BUILDAH", options).status();
    assert!(changed.unwrap().success());
    buildah(&["config", "--entrypoint", "[\"/bin/sh\", \"-c\"]", "--user", "7:8", "two"]);
    buildah(&["commit", "--quiet", "two", &format!("oci:{layout}:2")]);
    buildah(&["umount", "--all"]);
    buildah(&["rm", "--all"]);
    fs::rename(&layout, &kept).unwrap();
    kept
}

#[test]
fn images_of_debian_by_mmdebstrap_and_buildah_are_pulled_run_listed_and_removed() {
    let registry = Registry::start(Kind::Plain);
    let node = Node::started();
    let layout = debian();
    for (tag, script) in [("1", "exec cat /etc/debian_version"), ("2", "id -u; cat /new/date")] {
        let image = registry.image(&format!("debian:{tag}"));
        registry.push(&format!("oci:{}:{tag}", layout.display()), &format!("debian:{tag}"));
        node.said(&["image", "pull", &image]);
        assert_same(&merged(&node), &by_umoci(&layout, tag));

        let asked = Asked::one(&format!("debian{tag}"), &format!("({script}); {FOREVER}"));
        let asked = asked.with("/spec/containers/0/image", image.as_str().into());
        node.ask_for(&asked);
        let pod = node.until_running(&asked.key());
        let said = said_by(&node, &pod);
        assert!(if tag == "1" { said.starts_with("12") } else { said == "7" }, "{said}");
        let listed = node.said(&["image", "ls"]);
        assert!(listed.contains(&format!("127.0.0.1:{}/debian", registry.port)), "{listed}");
        let (code, _, refused) = node.cli(&["image", "rm", &image]);
        assert!(code == 1 && refused.contains("is used by"), "{refused}");
        node.remove(&asked.file());
        node.until_gone(&asked.key());
        node.said(&["image", "rm", &image]);
        assert_eq!(unpacked(&node), BTreeMap::new());
    }
    node.end();
}

#[test]
fn a_pod_s_own_secret_opens_the_registry_to_it_as_soon_as_it_is_there() {
    let registry = Registry::start(Kind::Password);
    let node = Node::started();
    let layout = Layout::make(node.out().join("layout"));
    layout.holds("1", &json!({}));
    registry.push(&layout.name(), "team/web:1");
    let image = registry.image("team/web:1");
    let asked = pod("web", &image, &read_version());
    node.ask_for(&asked.with("/spec/imagePullSecrets", json!([{ "name": "login" }])));
    let why = node.until("refused", |pods| {
        let waiting = pods.get("default/web")?.container("main")["state"]["waiting"].clone();
        let failed = ["ErrImagePull", "ImagePullBackOff"].contains(&waiting["reason"].as_str()?);
        failed.then(|| waiting["message"].as_str().map(str::to_owned))?
    });
    assert!(why.contains("401") || why.contains("login") || why.contains("credentials"), "{why}");
    let host = format!("127.0.0.1:{}", registry.port);
    let login = json!({ "auths": { host: { "username": "me", "password": "s3cret" } } });
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
        "metadata": { "name": "login" }, "stringData": { ".dockerconfigjson": login.to_string() },
    });
    node.put("login.yaml", &secret.to_string());
    let running = node.until_running("default/web");
    assert_eq!(said_by(&node, &running), "1");
    let told = node.said(&["describe", "pod", "web"]) + &node.agent_log();
    assert!(!told.contains("s3cret"), "{told}");
    node.end();
}

/// The tree of the only image of a node, of at most two layers.
fn merged(node: &Node) -> BTreeMap<PathBuf, String> {
    let images = node.root().join("data/images");
    let [image] = &names_in(&images.join("images"))[..] else { panic!("there is one image") };
    let text = fs::read_to_string(images.join("images").join(image)).unwrap();
    let file: serde_json::Value = serde_json::from_str(&text).unwrap();
    let layers = file["layers"].as_array().unwrap().iter();
    let path = |layer: &serde_json::Value| {
        images.join("layers").join(layer["id"].as_str().unwrap()).join("fs")
    };
    let layers: Vec<PathBuf> = layers.map(path).collect();
    let target = tempfile::tempdir_in(node.dir.path()).unwrap();
    roost::provisioner::copy::merge(&layers, target.path()).unwrap();
    listing(target.path())
}

fn by_umoci(layout: &Path, tag: &str) -> BTreeMap<PathBuf, String> {
    let directory = tempfile::tempdir().unwrap();
    let bundle = directory.path().join("bundle");
    let image = format!("{}:{tag}", layout.display());
    tool("umoci", "umoci", &["unpack", "--image", &image, bundle.to_str().unwrap()]);
    listing(&bundle.join("rootfs"))
}
