//! Networks of pods, by Debian's plugins and by a faulty one, on a "host" that is a network
//! namespace of the test's own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{Asked, Dice, FOREVER, Node, OUT, Pod, Process, until_text};

/// A network namespace that plays the host. It goes with this.
struct Host {
    holder: Child,
    /// What is outside: another namespace, with a server that says who has asked it.
    world: Child,
}

/// The address of the world, and the host's in it.
const WORLD: &str = "198.51.100.254";
const OUTSIDE: &str = "198.51.100.1";

impl Host {
    fn new() -> Self {
        let holder = in_a_namespace("echo up && exec sleep infinity");
        let world = in_a_namespace(&SERVER.replace("os.environ[\"POD_IP\"], 80", "\"\", 80"));
        let host = Self { holder, world };
        let world = host.world.id();
        host.run("ip link add outside type veth peer name world");
        host.run(&format!("ip link set world netns {world}"));
        run_in(world, &format!("ip addr add {WORLD}/24 dev world && ip link set world up"));
        host.run(&format!("ip addr add {OUTSIDE}/24 dev outside && ip link set outside up"));
        host.run(&format!("ip route add default via {WORLD}"));
        host
    }

    /// Runs a script on the host; what it prints.
    fn run(&self, script: &str) -> String {
        run_in(self.holder.id(), script)
    }

    /// What a server on that address and port says to the host.
    fn ask(&self, address: &str, port: u16) -> String {
        self.run(&asking(address, port))
    }

    /// What it says to the world.
    fn ask_from_outside(&self, port: u16) -> String {
        run_in(self.world.id(), &asking(OUTSIDE, port))
    }

    /// Of the built-in network: no interface, rule or record of any pod is left.
    fn is_clean_of_bridge(&self, node: &Node) {
        let links = self.run("ip -o link");
        assert!(!links.contains(" master "), "{links}");
        let rules = self.run("nft list ruleset");
        assert!(!rules.contains("dnat to") && rules.contains("masquerade"), "{rules}");
        assert_eq!(records(node), 0);
    }

    /// Links that no plugin had made before are gone, and so are rules and addresses.
    fn is_clean(&self, node: &Node) {
        let links = self.run("ip -o link");
        assert!(!links.contains("veth"), "{links}");
        let rules = self.run("iptables-save");
        for trace in ["10.77.", "CNI-DN-", "roost"] {
            assert!(!rules.contains(trace), "{trace}: {rules}");
        }
        assert_eq!(leases(node), Vec::<String>::new());
        assert_eq!(records(node), 0);
    }
}

fn asking(address: &str, port: u16) -> String {
    format!("exec 3<>/dev/tcp/{address}/{port} && timeout 10 cat <&3")
}

/// What the node has on record of networks.
fn records(node: &Node) -> usize {
    std::fs::read_dir(node.root().join("data/networks")).unwrap().count()
}

impl Drop for Host {
    fn drop(&mut self) {
        for child in [&mut self.holder, &mut self.world] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

/// A process in a network namespace of its own, which says `up`.
fn in_a_namespace(script: &str) -> Child {
    let mut child = Command::new("unshare")
        .args(["-n", "--", "bash", "-c", &format!("ip link set lo up && {script}")])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("POD_IP", "the world")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0_u8; 3];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
    child
}

/// Runs a script in the network namespace of a process; what it prints.
fn run_in(process: u32, script: &str) -> String {
    let output = Command::new("nsenter")
        .args(["-n", "-t", &process.to_string(), "--", "bash", "-c", script])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Addresses that host-local has given away.
fn leases(node: &Node) -> Vec<String> {
    let directory = node.dir.path().join("leases/office");
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let names = entries.map(|it| it.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|it| it.starts_with("10.")).collect();
    names.sort();
    names
}

fn write(path: PathBuf, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// A node on such a host, with the standard plugins in one chain.
fn node_on(host: &Host, masquerade: bool) -> Node {
    let mut node = Node::new();
    node.inside = Some(host.holder.id());
    let leases = node.dir.path().join("leases");
    let config = json!({"cniVersion": "1.0.0", "name": "office", "plugins": [
        {"type": "bridge", "bridge": "office0", "isGateway": true, "ipMasq": masquerade,
            "hairpinMode": true,
            "ipam": {"type": "host-local", "dataDir": leases, "routes": [{"dst": "0.0.0.0/0"}],
                "ranges": [[{"subnet": "10.77.0.0/24"}]]}},
        {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        {"type": "firewall"},
        {"type": "tuning"},
    ]});
    write(node.root().join("net.d/10-office.conflist"), &config.to_string());
    node.start();
    node
}

/// A server that says which host it is on, and is stopped at once.
const SERVER: &str = "exec python3 -c '
import os, socket
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((os.environ[\"POD_IP\"], 80))
s.listen()
print(\"up\", flush=True)
while True:
    c, peer = s.accept()
    c.sendall((os.environ[\"POD_IP\"] + \" to \" + peer[0] + \"\\n\").encode())
    c.close()
'";

fn server(name: &str, host_port: Option<u16>) -> Asked {
    let mut port = json!({"containerPort": 80});
    if let Some(number) = host_port {
        port["hostPort"] = json!(number);
    }
    let variable =
        json!([{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]);
    let probe = json!({"tcpSocket": {"port": 80}, "periodSeconds": 1});
    Asked::one(name, SERVER)
        .with("/spec/containers/0/env", variable)
        .with("/spec/containers/0/ports", json!([port]))
        .with("/spec/containers/0/readinessProbe", probe)
}

fn ip(pod: &Pod) -> String {
    pod.0["status"]["podIP"].as_str().unwrap_or_default().to_owned()
}

fn until_ready(node: &Node, key: &str) -> Pod {
    let is_ready = |pod: &&Pod| pod.0["status"]["containerStatuses"][0]["ready"] == json!(true);
    node.until(&format!("ready: {key}"), |pods| pods.get(key).filter(is_ready).cloned())
}

/// A node on such a host, with nothing but what it has built in.
fn bare_node_on(host: &Host) -> Node {
    let mut node = Node::new();
    node.inside = Some(host.holder.id());
    node.start();
    node
}

#[test]
fn pods_talk_and_are_reached_by_ports_of_the_host_with_the_standard_plugins() {
    let host = Host::new();
    let mut node = node_on(&host, true);
    pods_talk_and_are_reached(&host, &mut node, "10.77.0.");
    assert_eq!(leases(&node).len(), 2);
    remove_all(&node, &["web", "other"]);
    host.is_clean(&node);
    node.end();
}

#[test]
fn pods_talk_and_are_reached_by_ports_of_the_host_with_nothing_configured() {
    let host = Host::new();
    let mut node = bare_node_on(&host);
    pods_talk_and_are_reached(&host, &mut node, "10.213.0.");
    assert_eq!(records(&node), 2);

    let (_, metrics) = node.ask("GET", "/metrics");
    let received =
        r#"network_receive_bytes_total{namespace="default",pod="web",interface="eth0"} "#;
    let metrics = metrics.as_str().unwrap();
    let received = metrics.split(received).nth(1).unwrap().lines().next().unwrap();
    assert!(received.parse::<u64>().unwrap() > 0, "{metrics}");

    // No pod is a router of the host.
    let heard = host.run("cat /proc/sys/net/ipv6/conf/roost-*/accept_ra");
    assert_eq!(heard.trim(), "0");

    // What somebody flushes or removes is made good.
    host.run("nft flush ruleset");
    let is_back = || host.run("nft list ruleset").matches("dnat ip to").count() == 2;
    node.until("the rules are back", |_| is_back().then_some(()));
    assert!(host.ask("127.0.0.1", 18080).contains(" to 10.213.0.1"));
    host.run("ip link del $(ip -o link show type bridge | cut -d: -f2)");
    node.until("the bridge is back", |_| {
        let asked = format!("timeout 2 bash -c {:?} || true", asking("127.0.0.1", 18080));
        host.run(&asked).contains(" to 10.213.0.1").then_some(())
    });

    remove_all(&node, &["web", "other"]);
    host.is_clean_of_bridge(&node);
    node.end();
}

#[test]
fn the_sample_of_a_network_works_as_it_says() {
    let host = Host::new();
    let node = bare_node_on(&host);
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("specs/network.yaml");
    std::fs::copy(sample, node.manifests().join("network.yaml")).unwrap();
    until_ready(&node, "default/network");
    let get = "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && cat <&3";
    let answer = host.run(get);
    assert!(answer.starts_with("HTTP/1.0 200 OK"), "{answer}");
    node.remove("network.yaml");
    node.until_gone("default/network");
    node.end();
}

fn remove_all(node: &Node, names: &[&str]) {
    for name in names {
        node.remove(&format!("{name}.json"));
        node.until_gone(&format!("default/{name}"));
    }
}

/// Leaves two pods running: `web` with a port of the host, and `other`.
fn pods_talk_and_are_reached(host: &Host, node: &mut Node, subnet: &str) {
    node.ask_for(&server("web", Some(18080)));
    // Its server listens on the pod's address alone: that is where the probe asks.
    let web = until_ready(node, "default/web");
    let address = ip(&web);
    assert!(address.starts_with(subnet), "{web:?}");
    assert_eq!(web.0["status"]["podIPs"][0], json!({"ip": address}));
    assert_eq!(web.0["status"]["hostIP"], json!(OUTSIDE));

    let script = format!(
        "exec 3<>/dev/tcp/{address}/80 && cat <&3 >{OUT}/said; grep -w other /etc/hosts >{OUT}/hosts
        exec 3<>/dev/tcp/{WORLD}/80 && cat <&3 >{OUT}/world; {FOREVER}"
    );
    let aliases = json!([{"ip": "192.0.2.1", "hostnames": ["nobody"]}]);
    let other = Asked::pod("other").with("/spec/hostAliases", aliases);
    let container = json!([{"name": "main", "command": ["/bin/bash", "-c", script]}]);
    node.ask_for(&other.with("/spec/containers", container).sharing(&node.out()));
    let other = node.until_running("default/other");
    let line = |text: &str| text.ends_with('\n').then(|| text.to_owned());
    let said = until_text(&node.out().join("said"), "the answer", line);
    assert_eq!(said, format!("{address} to {}\n", ip(&other)));
    let said = until_text(&node.out().join("world"), "the answer of the world", line);
    assert_eq!(said, format!("the world to {OUTSIDE}\n"), "by the address of the host");
    let hosts = std::fs::read_to_string(node.out().join("hosts")).unwrap();
    assert!(hosts.starts_with(&format!("{}\tother\n", ip(&other))), "{hosts}");

    // Pods know each other by name, also those that come later, and not those that are gone.
    let known = |container: &Pod, name: &str| {
        let script = format!("getent ahostsv4 {name} | cut -d' ' -f1 | sort -u");
        let pid = container.pids()["main"].to_string();
        let mut entered = Command::new("nsenter");
        entered.args(["-m", "-t", &pid, "--", "sh", "-c", &script]);
        String::from_utf8(entered.output().unwrap().stdout).unwrap().trim().to_owned()
    };
    let is_known = |to: &Pod, name: &str, expected: &str| {
        node.until(&format!("{name} is known"), |_| (known(to, name) == expected).then_some(()));
    };
    is_known(&other, "web.default.pod.roost", &address);
    is_known(&web, "other.default.pod.roost", &ip(&other));
    node.ask_for(&Asked::one("brief", FOREVER));
    let brief = node.until_running("default/brief");
    is_known(&web, "brief.default.pod.roost", &ip(&brief));
    node.remove("brief.json");
    is_known(&web, "brief.default.pod.roost", "");

    let gateway = format!("{subnet}1");
    for way in [OUTSIDE, "127.0.0.1", &gateway] {
        assert!(host.ask(way, 18080).starts_with(&address), "by {way}");
    }
    assert_eq!(host.ask_from_outside(18080), format!("{address} to {WORLD}\n"));

    // A new agent finds all of it again.
    let before = web.processes();
    node.kill_agent();
    node.start();
    let after = until_ready(node, "default/web");
    assert_eq!((ip(&after), after.processes()), (address.clone(), before));
    assert!(host.ask(OUTSIDE, 18080).starts_with(&address));

    // A lost executor's pod is attached anew, and nothing of before is left.
    Process::of(node.executors()["default/web"]).kill();
    let again = node.until("back", |pods| {
        let pod = pods.get("default/web")?;
        (ip(pod) != address && pod.is_running()).then(|| pod.clone())
    });
    until_ready(node, "default/web");
    assert!(host.ask(OUTSIDE, 18080).starts_with(&ip(&again)));
}

#[test]
fn a_pod_has_the_address_that_it_asks_for_and_no_two_have_the_same() {
    let host = Host::new();
    let node = bare_node_on(&host);
    let asked = |name: &str, ip: &str| {
        Asked::one(name, FOREVER)
            .annotation("roost/ip", ip)
            .annotation("roost/mac", "02:00:5e:10:00:01")
    };
    node.ask_for(&asked("first", "10.213.9.9"));
    assert_eq!(ip(&node.until_running("default/first")), "10.213.9.9");
    let neighbours =
        host.run("(exec 3<>/dev/tcp/10.213.9.9/1) 2>/dev/null; ip neigh show 10.213.9.9");
    assert!(neighbours.contains("02:00:5e:10:00:01"), "{neighbours}");
    let fails = |name: &str, why: &str| {
        node.until(&format!("{name}: {why}"), |pods| {
            let pod = pods.get(&format!("default/{name}"))?;
            waiting(pod)["message"].as_str().unwrap_or_default().contains(why).then_some(())
        });
    };
    node.ask_for(&asked("second", "10.213.9.9"));
    fails("second", "can't have the address 10.213.9.9: pod default/first has it");
    node.ask_for(&asked("third", "192.0.2.1"));
    fails("third", "it must be one of 10.213.0.0/16");
    let limited =
        Asked::one("fourth", FOREVER).annotation("kubernetes.io/ingress-bandwidth", "10M");
    node.ask_for(&limited);
    fails("fourth", "network `roost` can't do what the pod asks for (capabilities: bandwidth)");
    node.ask_for(&asked("fifth", "10.213.9.10"));
    fails("fifth", "can't have the hardware address 02:00:5e:10:00:01: pod default/first has it");
    node.remove("fifth.json");
    node.until_gone("default/fifth");
    node.remove("first.json");
    assert_eq!(ip(&node.until_running("default/second")), "10.213.9.9");
    remove_all(&node, &["second", "third", "fourth"]);
    host.is_clean_of_bridge(&node);
    node.end();
}

/// A plugin that does what a file beside it says.
const FAULTY: &str = r#"#!/bin/sh
dir=$(dirname "$0")
cat >/dev/null
if [ -f "$dir/$CNI_COMMAND" ]; then . "$dir/$CNI_COMMAND"; fi
echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.9.8.7/24"}]}'
"#;

fn faulty_node(host: &Host) -> Node {
    use std::os::unix::fs::PermissionsExt as _;
    let mut node = Node::new();
    node.inside = Some(host.holder.id());
    let plugin = node.dir.path().join("bin/faulty");
    write(plugin.clone(), FAULTY);
    std::fs::set_permissions(plugin, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = r#"{"cniVersion": "1.0.0", "name": "office", "type": "faulty"}"#;
    write(node.root().join("net.d/10.conf"), config);
    node.set_env("ROOST_NETWORK_PLUGINS", node.dir.path().join("bin").to_str().unwrap());
    node
}

fn waiting(pod: &Pod) -> Value {
    pod.0["status"]["containerStatuses"][0]["state"]["waiting"].clone()
}

#[test]
fn a_faulty_plugin_is_quoted_and_tried_again_and_pods_that_need_no_network_run() {
    let host = Host::new();
    let mut node = faulty_node(&host);
    let say = |node: &Node, script: &str| write(node.dir.path().join("bin/ADD"), script);
    say(&node, r#"echo '{"code": 11, "msg": "the pool is empty"}'; exit 1"#);
    node.start();
    node.ask_for(&Asked::one("web", FOREVER));
    node.ask_for(&Asked::one("hosts", FOREVER).with("/spec/hostNetwork", json!(true)));
    node.ask_for(&Asked::one("alone", FOREVER).annotation("roost/networks", "none"));
    node.until_running("default/hosts");
    node.until_running("default/alone");
    let web = node.until("failed", |pods| {
        let pod = pods.get("default/web")?;
        let message = waiting(pod)["message"].as_str().unwrap_or_default().to_owned();
        message.contains("ADD failed: the pool is empty").then(|| pod.clone())
    });
    assert_eq!(waiting(&web)["reason"], json!("ContainerCreating"), "{web:?}");
    assert_eq!(ip(&web), "");
    let events = node.said(&["get", "events"]);
    assert!(events.contains("FailedCreatePodSandBox"), "{events}");
    std::fs::remove_file(node.dir.path().join("bin/ADD")).unwrap();
    assert_eq!(ip(&node.until_running("default/web")), "10.9.8.7");

    // One that hangs is not waited for when its pod is not wanted any more.
    say(&node, "echo >\"$dir/hangs\"; exec sleep 1000");
    node.ask_for(&Asked::one("late", FOREVER));
    until_text(&node.dir.path().join("bin/hangs"), "hanging", |_| Some(()));
    node.remove("late.json");
    node.until_gone("default/late");
    node.end();
}

#[test]
fn an_agent_killed_at_any_moment_leaks_no_address_of_plugins_and_gives_none_twice() {
    let host = Host::new();
    // What the plugin `bridge` masquerades it undoes only with the namespace that it was made for,
    // and that goes with the agent.
    let mut node = node_on(&host, false);
    let addresses = killed_at_any_moment(&mut node);
    // What earlier instances had is given back, soon if not at once.
    node.until("given back", |_| (leases(&node) == addresses).then_some(()));
    remove_all(&node, &["p0", "p1", "p2"]);
    node.until("undone", |_| (records(&node) == 0).then_some(()));
    node.until("no namespace is held", |_| holds_no_namespace(&node).then_some(()));
    host.is_clean(&node);
    node.end();
}

#[test]
fn an_agent_killed_at_any_moment_leaks_nothing_of_its_own_network() {
    let host = Host::new();
    let mut node = bare_node_on(&host);
    killed_at_any_moment(&mut node);
    node.until("given back", |_| (records(&node) == 3).then_some(()));
    remove_all(&node, &["p0", "p1", "p2"]);
    node.until("undone", |_| (records(&node) == 0).then_some(()));
    node.until("no namespace is held", |_| holds_no_namespace(&node).then_some(()));
    host.is_clean_of_bridge(&node);
    node.end();
}

/// How often the agent is killed: 12 times, or as often as `ROOST_NETWORK_KILLS` says.
fn kills() -> usize {
    let given = std::env::var("ROOST_NETWORK_KILLS").ok();
    given.map_or(12, |text| text.parse().unwrap())
}

/// The agent holds the network namespaces of pods that there are, and no others.
fn holds_no_namespace(node: &Node) -> bool {
    let fds = std::fs::read_dir(format!("/proc/{}/fd", node.agent_pid())).unwrap();
    let mut targets = fds.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    !targets.any(|target| target.to_string_lossy().starts_with("net:["))
}

/// No two pods have the same address.
fn all_differ(pods: &std::collections::BTreeMap<String, Pod>) {
    let mut all: Vec<String> = pods.values().map(ip).filter(|ip| !ip.is_empty()).collect();
    all.sort();
    let count = all.len();
    all.dedup();
    assert_eq!(all.len(), count, "{pods:?}");
}

/// Leaves three pods running; their addresses.
fn killed_at_any_moment(node: &mut Node) -> Vec<String> {
    let mut dice = Dice::new("network: killed at any moment");
    let asked = |number: usize, round: usize| {
        let port = json!([{"containerPort": 80, "hostPort": 18080 + number}]);
        Asked::one(&format!("p{number}"), FOREVER)
            .annotation("round", &round.to_string())
            .with("/spec/containers/0/ports", port)
    };
    for round in 0..kills() {
        let file = format!("p{}.json", round % 3);
        if round % 2 == 0 {
            node.ask_for(&asked(round % 3, round));
        } else if Path::new(&node.manifests().join(&file)).exists() {
            node.remove(&file);
        }
        std::thread::park_timeout(std::time::Duration::from_millis(dice.below(120)));
        node.kill_agent();
        node.start();
        all_differ(&node.pods());
    }
    for number in 0..3 {
        node.ask_for(&asked(number, 0));
    }
    let keys = ["default/p0", "default/p1", "default/p2"].map(str::to_owned);
    let pods = node.until_all_run(&keys);
    let mut addresses: Vec<String> = keys.iter().map(|key| ip(&pods[key])).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 3, "{addresses:?}");
    addresses
}
