//! The behaviour of CNI, as the tests of Mesos' isolator have it, with a plugin of the test's own
//! that is as faulty as it is told to be.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

use super::*;
use crate::manifest::pod::WantedNetworks;
use crate::network::request::Runtime;
use crate::state::samples;

/// A plugin that writes down what it is told, and then does what a file says, if there is one.
const PLUGIN: &str = r#"#!/bin/sh
dir=$(dirname "$0")
input=$(cat)
echo "$CNI_COMMAND $CNI_IFNAME ${CNI_NETNS:+netns} $CNI_CONTAINERID" >>"$dir/../calls"
echo "$input" >>"$dir/../$CNI_COMMAND.inputs"
if [ -f "$dir/../$CNI_COMMAND" ]; then . "$dir/../$CNI_COMMAND"; fi
if [ "$CNI_COMMAND" = ADD ]; then
    echo '{"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/x"}],
        "ips": [{"address": "10.9.8.7/24", "interface": 0}]}'
fi
"#;
const CONFIG: &str = r#"{"cniVersion": "1.0.0", "name": "office", "plugins": [
    {"type": "faulty", "number": 1}, {"type": "faulty", "number": 2}]}"#;

/// A node with such a plugin.
struct Scene {
    dir: tempfile::TempDir,
    time_max: Duration,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["bin", "net.d"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let plugin = dir.path().join("bin/faulty");
        fs::write(&plugin, PLUGIN).unwrap();
        fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
        let scene = Self { dir, time_max: PLUGIN_TIME_MAX };
        scene.write("net.d/10-office.conflist", CONFIG);
        scene
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.dir.path().join(name)).unwrap();
    }

    fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// What was asked of the plugin, without the ids.
    fn calls(&self) -> Vec<String> {
        let calls = self.lines("calls");
        calls.iter().map(|it| it.rsplit_once(' ').unwrap().0.trim_end().to_owned()).collect()
    }

    fn records(&self) -> usize {
        fs::read_dir(self.dir.path().join("records")).unwrap().count()
    }

    /// An agent that was just started, and finds these instances running.
    fn agent(&self, live: &[PodId]) -> Networks {
        let settings = NetworkSettings {
            configs: self.dir.path().join("net.d"),
            plugins: vec![self.dir.path().join("bin")],
            time_max: self.time_max,
            // That would be the host's: it is tested elsewhere.
            built_in: false,
            bridge: BridgeSettings {
                name: "roost-none".to_owned(),
                subnets: Vec::new(),
                forwarding: self.dir.path().join("forwarding.json"),
            },
            names: self.dir.path().join("names"),
            others: self.dir.path().join("others"),
        };
        let live = live.iter().copied().collect();
        let boot = "a-boot".parse().unwrap();
        Networks::open(settings, self.dir.path().join("records"), boot, &live).unwrap()
    }
}

fn id() -> PodId {
    PodId::from_random(1)
}

fn pod(change: impl FnOnce(&mut PodSpec)) -> PodRequest {
    let mut spec = samples::spec();
    spec.host.network = false;
    change(&mut spec);
    for container in &mut spec.containers {
        container.ports.retain(|port| port.host_port.is_some_and(|port| port == 8080));
    }
    PodRequest { id: id(), spec: Arc::new(spec), entry: None }
}

fn plain() -> PodRequest {
    pod(|_| {})
}

fn text(error: &NetworkError) -> String {
    chain(error)
}

#[tokio::test]
async fn a_pod_is_attached_by_all_plugins_of_the_chain_and_each_sees_the_result_before() {
    let scene = Scene::new();
    let agent = scene.agent(&[]);
    let attached = agent.attach(plain()).await.unwrap().unwrap();
    let expected: Vec<IpAddr> = vec!["10.9.8.7".parse().unwrap()];
    assert_eq!(attached.addresses, expected);
    assert_eq!(agent.addresses(id()), expected);
    assert_eq!(scene.calls(), ["ADD eth0 netns", "ADD eth0 netns"]);
    let inputs = scene.lines("ADD.inputs");
    assert!(
        !inputs[0].contains("prevResult") && inputs[1].contains("\"prevResult\""),
        "{inputs:?}"
    );
    assert_eq!(scene.records(), 1);

    agent.detach(id()).await.unwrap();
    assert_eq!(scene.calls()[2..], ["DEL eth0 netns", "DEL eth0 netns"]);
    let inputs = scene.lines("DEL.inputs");
    assert!(inputs[0].contains("\"number\":2") && inputs[0].contains("10.9.8.7"), "{inputs:?}");
    assert_eq!((scene.records(), agent.addresses(id())), (0, vec![]));
}

#[tokio::test]
async fn an_attempt_is_on_disk_before_its_first_plugin_runs() {
    let scene = Scene::new();
    scene.write("ADD", "ls \"$dir/../records\" >\"$dir/../seen\"");
    scene.agent(&[]).attach(plain()).await.unwrap().unwrap();
    let seen = scene.lines("seen");
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(seen[0].ends_with(".json") && seen[0].starts_with(&id().to_string()));
}

#[tokio::test]
async fn a_failed_plugin_fails_the_pod_in_its_own_words_and_what_was_done_is_undone() {
    let scene = Scene::new();
    let fail =
        "case $input in *'\"number\":2'*) echo '{\"code\": 100, \"msg\": \"full\"}'; exit 1;; esac";
    scene.write("ADD", fail);
    let agent = Arc::new(scene.agent(&[]));
    let keeper = tokio::spawn(agent.clone().keep());
    let error = text(&agent.attach(plain()).await.unwrap_err());
    assert_eq!(error, "plugin `faulty` of network `office`: ADD failed: full");
    until(|| scene.records() == 0).await;
    let expected = ["ADD eth0 netns", "ADD eth0 netns", "DEL eth0 netns", "DEL eth0 netns"];
    assert_eq!(scene.calls(), expected);

    // The next attempt has an id of its own, so nothing of the first can touch it.
    scene.remove("ADD");
    agent.attach(plain()).await.unwrap().unwrap();
    let ids: BTreeSet<String> =
        scene.lines("calls").iter().map(|it| it.rsplit_once(' ').unwrap().1.to_owned()).collect();
    assert_eq!(ids.len(), 2);
    keeper.abort();
}

/// Waits for a condition on files, which tell nobody.
async fn until(holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(30), "it does not come true");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn rubbish_a_crash_and_a_missing_plugin_are_told_apart() {
    let scene = Scene::new();
    let agent = scene.agent(&[]);
    for (behaviour, words) in [
        ("echo rubbish; exit 0", "it printed no result"),
        ("kill -SEGV $$", "it was killed by signal 11"),
        ("echo '{\"ips\": [{\"address\": \"what\"}]}'; exit 0", "has the address \"what\""),
        ("echo oh dear >&2; exit 3", "exit code 3: oh dear"),
    ] {
        scene.write("ADD", behaviour);
        let error = text(&agent.attach(plain()).await.unwrap_err());
        assert!(error.contains(words), "{error}");
    }
    scene.remove("bin/faulty");
    let error = text(&agent.attach(plain()).await.unwrap_err());
    assert!(error.contains("there is no such program"), "{error}");
}

#[tokio::test]
async fn a_plugin_that_hangs_holds_up_its_own_pod_for_a_bounded_time_and_no_other() {
    let mut scene = Scene::new();
    scene.time_max = Duration::from_millis(400);
    scene.write("ADD", "case $CNI_ARGS in *=slow*) sleep 1000;; esac");
    let agent = scene.agent(&[]);
    let slow = pod(|spec| spec.name = "default/slow".parse().unwrap());
    let slow = PodRequest { id: PodId::from_random(2), ..slow };
    let (slow, quick) = tokio::join!(agent.attach(slow), agent.attach(plain()));
    assert!(text(&slow.unwrap_err()).contains("did not end within"));
    assert!(quick.unwrap().is_some());
}

#[tokio::test]
async fn a_pod_that_is_not_wanted_any_more_is_not_waited_for() {
    let scene = Scene::new();
    scene.write("ADD", "echo $$ >\"$dir/../pid\"; exec sleep 1000");
    let agent = scene.agent(&[]);
    let request = plain();
    let name = request.spec.name.clone();
    let interrupt = async {
        until(|| !scene.lines("pid").is_empty()).await;
        agent.interrupt(&name);
    };
    let (attached, ()) = tokio::join!(agent.attach(request), interrupt);
    assert!(text(&attached.unwrap_err()).contains("not wanted like this any more"));
}

#[tokio::test]
async fn what_a_crash_left_is_undone_by_the_next_agent_with_what_it_was_made_by() {
    let scene = Scene::new();
    // The plugin's end is the crash: the first agent never hears of it.
    scene.agent(&[]).attach(plain()).await.unwrap().unwrap();
    // The configuration is gone meanwhile.
    scene.remove("net.d/10-office.conflist");
    let agent = Arc::new(scene.agent(&[]));
    let keeper = tokio::spawn(agent.clone().keep());
    until(|| scene.records() == 0).await;
    assert_eq!(scene.calls()[2..], ["DEL eth0", "DEL eth0"], "its namespace is gone");
    assert!(scene.lines("DEL.inputs")[0].contains("\"number\":2"));
    keeper.abort();
}

#[tokio::test]
async fn what_runs_keeps_its_network_when_the_agent_is_restarted() {
    let scene = Scene::new();
    scene.agent(&[]).attach(plain()).await.unwrap().unwrap();
    let agent = Arc::new(scene.agent(&[id()]));
    let keeper = tokio::spawn(agent.clone().keep());
    agent.hold(id(), std::process::id());
    assert_eq!(agent.addresses(id()).len(), 1);
    until(|| scene.lines("CHECK.inputs").len() == 2).await;
    let inputs = scene.lines("CHECK.inputs");
    assert!(inputs[0].contains("\"number\":1") && inputs[0].contains("10.9.8.7"), "{inputs:?}");
    agent.detach(id()).await.unwrap();
    let expected = ["CHECK eth0 netns", "CHECK eth0 netns", "DEL eth0 netns", "DEL eth0 netns"];
    assert_eq!(scene.calls()[2..], expected);
    keeper.abort();
}

#[tokio::test]
async fn a_release_that_fails_is_tried_again_and_keeps_nobody_waiting() {
    let scene = Scene::new();
    let agent = Arc::new(scene.agent(&[]));
    agent.attach(plain()).await.unwrap().unwrap();
    scene.write("DEL", "echo busy >&2; exit 1");
    let keeper = tokio::spawn(agent.clone().keep());
    let error = text(&agent.detach(id()).await.unwrap_err());
    assert!(error.ends_with("DEL failed: exit code 1: busy"), "{error}");
    // The pod may be attached again meanwhile.
    agent.attach(plain()).await.unwrap().unwrap();
    assert_eq!(agent.addresses(id()).len(), 1);
    scene.remove("DEL");
    until(|| scene.records() == 1).await;
    keeper.abort();
}

#[tokio::test]
async fn configurations_are_read_anew_for_each_pod() {
    let scene = Scene::new();
    let agent = scene.agent(&[]);
    scene.remove("net.d/10-office.conflist");
    assert!(agent.attach(plain()).await.unwrap().is_none(), "without one there is no network");
    scene.write("net.d/20-late.conf", r#"{"name": "late", "type": "faulty"}"#);
    assert!(agent.attach(plain()).await.unwrap().is_some());
    // The first in lexical order counts, and if it is faulty nobody guesses.
    scene.write("net.d/05-bad.conflist", "{");
    let error = text(&agent.attach(plain()).await.unwrap_err());
    assert!(error.contains("05-bad.conflist can't be used: no JSON"), "{error}");
}

#[tokio::test]
async fn a_pod_is_in_the_networks_that_it_names_in_that_order() {
    let scene = Scene::new();
    scene.write("net.d/99-lab.conf", r#"{"cniVersion": "0.4.0", "name": "lab", "type": "faulty"}"#);
    let agent = scene.agent(&[]);
    let named = |names: &[&str]| {
        let names = names.iter().map(|it| (*it).to_owned()).collect();
        pod(|spec| spec.network.networks = WantedNetworks::Named(names))
    };
    agent.attach(named(&["lab", "office"])).await.unwrap().unwrap();
    assert_eq!(scene.calls(), ["ADD eth0 netns", "ADD eth1 netns", "ADD eth1 netns"]);
    let error = text(&agent.attach(named(&["attic"])).await.unwrap_err());
    assert!(error.contains("no network `attic`") && error.contains("lab"), "{error}");
    let none = pod(|spec| spec.network.networks = WantedNetworks::None);
    assert!(agent.attach(none).await.unwrap().is_none());
    let of_host = pod(|spec| spec.host.network = true);
    assert!(agent.attach(of_host).await.unwrap().is_none());
}

#[tokio::test]
async fn what_no_plugin_can_do_is_refused_before_any_is_run() {
    let scene = Scene::new();
    let agent = scene.agent(&[]);
    let limited = || pod(|spec| spec.network.ingress_bits = Some(1_000_000));
    let error = text(&agent.attach(limited()).await.unwrap_err());
    assert!(error.contains("capabilities: bandwidth"), "{error}");
    assert_eq!((scene.calls().len(), scene.records()), (0, 0));
    let config = CONFIG.replace("\"number\": 2", "\"capabilities\": {\"bandwidth\": true}");
    scene.write("net.d/10-office.conflist", &config);
    agent.attach(limited()).await.unwrap().unwrap();
    let inputs = scene.lines("ADD.inputs");
    assert!(inputs[1].contains("\"ingressRate\":1000000"), "{inputs:?}");
    assert!(!inputs[0].contains("runtimeConfig") && !inputs[1].contains("capabilities"));
}

#[tokio::test]
async fn garbage_is_collected_by_plugins_of_version_1_1() {
    let scene = Scene::new();
    scene.write("net.d/10-office.conflist", &CONFIG.replace("1.0.0", "1.1.0"));
    scene.agent(&[]).attach(plain()).await.unwrap().unwrap();
    let agent = Arc::new(scene.agent(&[id()]));
    let keeper = tokio::spawn(agent.clone().keep());
    until(|| scene.lines("GC.inputs").len() == 2).await;
    until(|| scene.lines("STATUS.inputs").len() == 2).await;
    let input = scene.lines("GC.inputs").remove(0);
    assert!(input.contains("cni.dev/valid-attachments") && input.contains(&id().to_string()));
    keeper.abort();
}

fn network_with_gc() -> NetworkConfig {
    NetworkConfig::parse(&CONFIG.replace("1.0.0", "1.1.0")).unwrap()
}

#[tokio::test]
async fn no_garbage_is_collected_where_it_is_not_known_what_is_in_use() {
    let scene = Scene::new();
    let collected = async || {
        Arc::new(scene.agent(&[])).collect_at_last(network_with_gc()).await;
        scene.lines("GC.inputs").len()
    };
    let others = scene.dir.path().join("others");
    fs::create_dir(&others).unwrap();
    for name in ["office-0815-eth0", "attic-0815-eth0"] {
        fs::write(others.join(name), "{}").unwrap();
    }
    assert_eq!(collected().await, 0, "another runtime has a pod in it");
    fs::remove_file(others.join("office-0815-eth0")).unwrap();
    scene.agent(&[]);
    scene.write("records/damaged.json", "{");
    assert_eq!(collected().await, 0, "a record can't be read");
    scene.remove("records/damaged.json");
    assert_eq!(collected().await, 2);
}

#[tokio::test]
async fn a_plugin_that_hangs_while_it_collects_garbage_keeps_no_pod_waiting() {
    let scene = Scene::new();
    scene.write("GC", "echo >\"$dir/../hangs\"; exec sleep 1000");
    let agent = Arc::new(scene.agent(&[]));
    let collecting = tokio::spawn(agent.clone().collect_at_last(network_with_gc()));
    until(|| !scene.lines("hangs").is_empty()).await;
    let attached = tokio::time::timeout(PLUGIN_TIME_MAX / 2, agent.attach(plain())).await;
    attached.unwrap().unwrap().unwrap();
    // It is done later.
    scene.remove("GC");
    collecting.await.unwrap();
    assert!(scene.lines("GC.inputs").last().unwrap().contains(&id().to_string()));
}

#[tokio::test]
async fn what_pods_are_called_is_told_when_they_come_and_go() {
    let scene = Scene::new();
    let agent = Arc::new(scene.agent(&[]));
    let mut named = agent.named();
    let keeper = tokio::spawn(agent.clone().keep());
    let mut told = async || {
        tokio::time::timeout(PLUGIN_TIME_MAX, named.changed()).await.unwrap().unwrap();
        scene.lines("names")
    };
    assert_eq!(told().await, Vec::<String>::new());
    let request = plain();
    let name = request.spec.name.clone();
    agent.attach(request).await.unwrap().unwrap();
    let expected = format!("10.9.8.7\t{}.{}.pod.roost", name.name, name.namespace);
    assert_eq!(told().await, [expected]);
    agent.detach(id()).await.unwrap();
    assert_eq!(told().await, Vec::<String>::new());
    keeper.abort();
}

#[test]
fn what_a_record_that_cannot_be_read_is_about_is_given_to_nobody() {
    let record = br#"{"format": 7, "was": ["10.1.0.2/29", "fd00::3", broken"#;
    let unreadable = BTreeMap::from([("damaged".to_owned(), addresses_in(record))]);
    let mut state = State { unreadable, ..State::default() };
    let subnets = ["10.1.0.0/29".parse().unwrap(), "fd00::/64".parse().unwrap()];
    let given = state.lease(&subnets, &[]).unwrap();
    assert_eq!(given[0], "10.1.0.4".parse::<IpAddr>().unwrap());
    let error = text(&state.lease(&subnets, &["10.1.0.2".parse().unwrap()]).unwrap_err());
    assert!(error.contains("the record damaged, which can't be read"), "{error}");
}

#[test]
fn the_golden_record_of_every_format_is_read_and_the_newest_is_written_as_ever() {
    let network = NetworkConfig::parse(CONFIG).unwrap();
    let port = request::PortMapping {
        host_port: 8080,
        container_port: 80,
        protocol: "tcp".to_owned(),
        host_ip: Some("127.0.0.1".parse().unwrap()),
    };
    let runtime = Runtime { ports: vec![port], ..Runtime::default() };
    let result = Some(serde_json::json!({"ips": [{"address": "10.9.8.7/24"}]}));
    let added = ByPlugins { network, runtime, result };
    let begun = ByBridge {
        link: "roost0000002a".to_owned(),
        subnets: vec!["10.213.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap()],
        addresses: vec!["10.213.0.7".parse().unwrap(), "fd00::7".parse().unwrap()],
        mac: Some("02:00:5e:10:00:01".to_owned()),
        ports: added.runtime.ports.clone(),
    };
    let attachment = |interface: &str, progress, way| Attachment {
        interface: interface.to_owned(),
        progress,
        way,
    };
    let attachments = vec![
        attachment("eth0", Progress::Done, Way::Plugins(added)),
        attachment("eth1", Progress::Begun, Way::Bridge(begun)),
    ];
    let file = NetworkFile {
        format: Format,
        attempt: format!("{}.0000002a", id()),
        id: id(),
        name: "shop/web".parse().unwrap(),
        boot: "a-boot".parse().unwrap(),
        attachments,
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fact.json");
    checkpoint::write(&path, &file).unwrap();
    let fresh = fs::read(&path).unwrap();
    let kept = samples::golden("v1/network.json", &fresh);
    fs::write(&path, &kept).unwrap();
    assert_eq!(checkpoint::read::<NetworkFile>(&path).unwrap(), Some(file));
    assert_eq!(String::from_utf8(fresh).unwrap(), String::from_utf8(kept).unwrap());
}
