//! Directories as nobody should fill them: much, too much, and rubbish. What runs is not disturbed,
//! each fault is told, and the agent's memory stays bounded.

use std::fs;

use serde_json::json;

use crate::harness::{Asked, FOREVER, Node, OUT, until_lines};

/// What the agent may use at most with all of this in its directory, in KiB of proportional set
/// size. A debug build with a thousand manifests uses about a quarter of it.
const PSS_MAX_KIB: u64 = 256 << 10;

fn pss(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Aliases that stand for more and more: ten to the power of `depth` items.
fn bomb(depth: u32) -> String {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..depth {
        let aliases = vec![format!("*a{}", n - 1); 10].join(", ");
        text.push_str(&format!("a{n}: &a{n} [{aliases}]\n"));
    }
    text
}

/// Merge keys that stand for more and more.
fn merge_bomb(depth: u32) -> String {
    let mut text = "m0: &m0 {k: v}\n".to_owned();
    for n in 1..depth {
        let last = n - 1;
        text.push_str(&format!("m{n}: &m{n} {{a{n}: {{<<: *m{last}}}, b{n}: {{<<: *m{last}}}}}\n"));
    }
    text
}

/// Files that are no manifests, in every way that was thought of.
fn rubbish() -> Vec<(&'static str, Vec<u8>)> {
    let random: Vec<u8> =
        (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    vec![
        ("big.yaml", vec![b' '; (10 << 20) + 1]),
        ("long.yaml", [b"kind: ".as_slice(), &vec![b'x'; 2 << 20]].concat()),
        ("bomb.yaml", bomb(9).into_bytes()),
        ("merge.yaml", merge_bomb(40).into_bytes()),
        ("rubbish.yaml", random.clone()),
        ("rubbish.json", random),
        ("deep.yaml", [vec![b'['; 200], vec![b']'; 200]].concat()),
        ("deep.json", [b"{\"a\":".repeat(200), b"1".to_vec(), vec![b'}'; 200]].concat()),
        ("nul.yaml", vec![0; 4096]),
        ("half.yaml", b"apiVersion: v1\nkind: Pod\nmetadata: {name: half".to_vec()),
    ]
}

#[test]
fn rubbish_in_the_directory_is_told_file_by_file_and_disturbs_nothing() {
    let node = Node::started();
    node.ask_for(&Asked::one("calm", FOREVER));
    let calm = node.until_running("default/calm").processes();
    for (name, content) in rubbish() {
        let draft = node.manifests().join(".draft");
        fs::write(&draft, content).unwrap();
        fs::rename(draft, node.manifests().join(name)).unwrap();
    }
    node.until("told of each", |_| {
        let status = node.status().to_string();
        rubbish().iter().all(|(name, _)| status.contains(name)).then_some(())
    });
    // Meanwhile a good one starts as ever.
    node.ask_for(&Asked::one("late", FOREVER));
    node.until_running("default/late");
    assert_eq!(node.pod("default/calm").processes(), calm);
    let used = pss(node.agent_pid());
    println!("with {} kinds of rubbish: {used} KiB PSS", rubbish().len());
    assert!(used < PSS_MAX_KIB, "{used} KiB");
    node.end();
}

#[test]
fn of_a_thousand_manifests_at_once_what_fits_runs_and_the_others_say_why_not() {
    let node = Node::started();
    let script = format!("echo start >> {OUT}/crowd.trace; {FOREVER}");
    let cpus = std::thread::available_parallelism().unwrap().get();
    // Two of them fill a processor.
    let resources = json!({ "requests": { "cpu": "500m" } });
    let drafts = node.dir.path().join("drafts");
    fs::create_dir(&drafts).unwrap();
    for n in 0..1000 {
        let pod = Asked::one(&format!("crowd{n:03}"), &script)
            .sharing(&node.out())
            .with("/spec/containers/0/resources", resources.clone());
        fs::write(drafts.join(pod.file()), pod.text()).unwrap();
    }
    for n in 0..1000 {
        let file = format!("crowd{n:03}.json");
        fs::rename(drafts.join(&file), node.manifests().join(&file)).unwrap();
    }
    let pods = node.until("all told", |pods| {
        let waiting = pods.values().filter(|pod| pod.0["status"]["reason"] == "Unschedulable");
        let running = pods.values().filter(|pod| pod.is_running());
        (waiting.count() == 1000 - cpus * 2 && running.count() == cpus * 2).then(|| pods.clone())
    });
    // Those that came first in the directory, and none of the others for a moment.
    for (n, (key, pod)) in pods.iter().enumerate() {
        assert_eq!(pod.is_running(), n < cpus * 2, "{key}");
    }
    assert_eq!(until_lines(&node.out().join("crowd.trace"), cpus * 2).len(), cpus * 2);
    let used = pss(node.agent_pid());
    println!("with a thousand manifests: {used} KiB PSS");
    assert!(used < PSS_MAX_KIB, "{used} KiB");
    // Room is used as soon as there is some.
    node.remove("crowd000.json");
    node.until_running(&format!("default/crowd{:03}", cpus * 2));
    node.end();
}
