//! The store lost or damaged while there is no agent. Invariants 1, 2, 3, 4 and 9.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::harness::{Asked, FOREVER, Node, Pod, alone, manifest, until_lines};

/// A node with pods of several kinds, whose agent is down.
struct Scene {
    node: Node,
    before: BTreeMap<String, Pod>,
}

const KEYS: [&str; 3] = ["default/one", "default/two", "default/three"];

impl Scene {
    fn new() -> Self {
        let mut node = Node::started();
        node.ask_for(&Asked::one("one", &alone("one", FOREVER)).sharing(&node.out()));
        node.put(
            "more.yaml",
            &[manifest("two", FOREVER), manifest("three", FOREVER)].join("---\n"),
        );
        let once = Asked::one("once", &alone("once", "exit 4")).policy("Never");
        node.ask_for(&once.sharing(&node.out()));
        let mut before = node.until_all_run(&KEYS.map(str::to_owned));
        before.insert("default/once".to_owned(), node.until_through("default/once"));
        // Its executor is gone: what is known of it is in the store and in its directory.
        node.until("rest", |_| (node.executors().len() == KEYS.len()).then_some(()));
        node.kill_agent();
        Self { node, before }
    }

    fn store(&self) -> PathBuf {
        self.node.root().join("data/state")
    }

    /// Every file of the store, those beside it included.
    fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut todo = vec![self.store()];
        while let Some(directory) = todo.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                let list = if entry.file_type().unwrap().is_dir() { &mut todo } else { &mut files };
                list.push(entry.path());
            }
        }
        let beside = fs::read_dir(self.node.root().join("data")).unwrap();
        let beside = beside.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
        files.extend(beside);
        files.sort();
        files
    }

    /// Starts the agent: everything runs as before, and nothing ran again.
    fn check(&mut self) {
        self.node.start();
        for (key, before) in &self.before {
            let after = self.node.until(&format!("adopted: {key}"), |pods| {
                let pod = pods.get(key)?;
                (pod.phase() == before.phase()).then(|| pod.clone())
            });
            assert_eq!(after.uid(), before.uid(), "{key}");
            assert_eq!(after.processes(), before.processes(), "{key}");
        }
        assert_eq!(self.node.pods().len(), self.before.len());
        for name in ["one", "once"] {
            let trace = self.node.out().join(format!("{name}.trace"));
            until_lines(&trace, 1);
            assert_eq!(fs::read_to_string(trace).unwrap(), "start\n", "{name}");
        }
        let once = self.node.pod("default/once");
        assert_eq!(once.ended("main")["exitCode"], 4, "{once:?}");
    }

    /// What the agent says to whoever asks.
    fn said(&self) -> String {
        // It ends with 1 if the store was rebuilt.
        let (_, status, _) = self.node.cli(&["status"]);
        let events = self.node.said(&["get", "events"]);
        format!("{status}\n{events}")
    }

    fn end(self) {
        self.node.end();
    }
}

#[test]
fn a_store_that_was_deleted_is_rebuilt_and_every_pod_is_adopted() {
    let mut scene = Scene::new();
    fs::remove_dir_all(scene.store()).unwrap();
    scene.check();
    let said = scene.said();
    assert!(said.contains("rebuilt"), "{said}");
    // What it knows now is durable.
    scene.node.kill_agent();
    scene.check();
    scene.end();
}

#[test]
fn a_store_that_was_deleted_with_everything_beside_it_is_rebuilt_and_every_pod_is_adopted() {
    let mut scene = Scene::new();
    let files = scene.files();
    fs::remove_dir_all(scene.store()).unwrap();
    for file in files.iter().filter(|file| file.exists()) {
        fs::remove_file(file).unwrap();
    }
    scene.check();
    let said = scene.said();
    assert!(said.contains("without a record") || said.contains("rebuilt"), "{said}");
    scene.end();
}

/// Damages each file of the store in turn.
fn damaged_in_turn(what: &str, damage: fn(&Path)) {
    let mut scene = Scene::new();
    let files = scene.files();
    assert!(!files.is_empty());
    for file in files {
        // A rebuilt store has other files.
        if !file.exists() {
            continue;
        }
        println!("{what}: {}", file.display());
        damage(&file);
        scene.check();
        scene.node.kill_agent();
    }
    scene.end();
}

#[test]
fn whichever_file_of_the_store_is_truncated_every_pod_is_adopted() {
    damaged_in_turn("emptied", |path| File::create(path).unwrap().set_len(0).unwrap());
    damaged_in_turn("halved", |path| {
        let file = File::options().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    });
}

#[test]
fn whichever_file_of_the_store_is_filled_with_garbage_every_pod_is_adopted() {
    damaged_in_turn("garbage", |path| {
        let len = fs::metadata(path).unwrap().len().max(100);
        let garbage: Vec<u8> = (0..len).map(|i| (i * 167 + i / 251).to_le_bytes()[0]).collect();
        File::options().write(true).open(path).unwrap().write_all_at(&garbage, 0).unwrap();
    });
    damaged_in_turn("zeros", |path| {
        let len = fs::metadata(path).unwrap().len().max(100);
        let zeros = vec![0; usize::try_from(len).unwrap()];
        File::options().write(true).open(path).unwrap().write_all_at(&zeros, 0).unwrap();
    });
    damaged_in_turn("a flipped bit", |path| {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let at = file.metadata().unwrap().len() / 3;
        let mut byte = [0];
        if file.read_at(&mut byte, at).unwrap() == 1 {
            file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        }
    });
}

#[test]
fn whichever_file_of_the_store_is_removed_every_pod_is_adopted() {
    damaged_in_turn("removed", |path| fs::remove_file(path).unwrap());
}

/// Invariant 4: without the handle of the directory, emptiness proves nothing.
#[test]
fn with_the_store_lost_and_no_manifest_in_sight_all_goes_on_with_an_alarm() {
    let mut scene = Scene::new();
    fs::remove_dir_all(scene.store()).unwrap();
    let away = scene.node.dir.path().join("away");
    fs::rename(scene.node.manifests(), &away).unwrap();
    fs::create_dir(scene.node.manifests()).unwrap();
    scene.check();
    let said = scene.said();
    assert!(said.contains("another one than before, and empty"), "{said}");
    fs::remove_dir(scene.node.manifests()).unwrap();
    fs::rename(&away, scene.node.manifests()).unwrap();
    scene.node.kill_agent();
    scene.check();
    scene.end();
}

/// What no manifest asks for is stopped when the store is lost and the manifests are readable.
#[test]
fn with_the_store_lost_what_no_manifest_asks_for_ends() {
    let mut scene = Scene::new();
    fs::remove_dir_all(scene.store()).unwrap();
    scene.node.remove("one.json");
    scene.node.put("more.yaml", &manifest("two", FOREVER));
    scene.node.start();
    scene.node.until_gone("default/one");
    scene.node.until_gone("default/three");
    let two = scene.node.until_running("default/two");
    assert_eq!(two.processes(), scene.before["default/two"].processes());
    scene.end();
}

/// The specification in a pod's directory is what is left of it when its manifest is broken too.
#[test]
fn with_the_store_lost_and_a_manifest_broken_the_last_good_revision_goes_on() {
    let mut scene = Scene::new();
    fs::remove_dir_all(scene.store()).unwrap();
    scene.node.put("one.json", "{ \"apiVersion\": ");
    let broken = format!("{}---\napiVersion: v1\nkind: Pod\n", manifest("two", FOREVER));
    scene.node.put("more.yaml", &broken);
    scene.check();
    let problems = scene.node.pod("default/one").problems();
    assert!(problems.contains("one.json:"), "{problems}");
    scene.end();
}

#[test]
fn directories_of_pods_that_mean_nothing_are_removed_and_what_lies_beside_them_is_not() {
    let mut scene = Scene::new();
    let pods = scene.node.root().join("data/pods");
    let unknown = pods.join("123e4567-e89b-42d3-a456-426614174000");
    fs::create_dir(&unknown).unwrap();
    fs::write(unknown.join("spec.json"), "{").unwrap();
    let beside = pods.join("notes.txt");
    fs::write(&beside, "not of Roost").unwrap();
    scene.check();
    scene.node.until("removed", |_| (!unknown.exists()).then_some(()));
    assert!(beside.exists());
    fs::remove_file(beside).unwrap();
    scene.end();
}

#[test]
fn a_second_agent_on_the_same_root_is_refused_and_says_why() {
    let node = Node::started();
    node.ask_for(&Asked::one("one", FOREVER));
    let before = node.until_running("default/one");
    let root = node.root();
    let pods = node.manifests();
    let arguments = ["agent", "--pods", pods.to_str().unwrap(), "--root", root.to_str().unwrap()];
    let (code, _, err) = node.cli_as_is(&arguments);
    assert_ne!(code, 0);
    assert!(err.contains("another agent"), "{err}");
    assert_eq!(node.pod("default/one").processes(), before.processes());
    node.said(&["status"]);
    node.end();
}
