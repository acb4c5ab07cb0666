//! What is asked of an agent beside its manifests, and what does not fit on its node.

use serde_json::{Value, json};

use crate::harness::{Asked, FOREVER, Node, Pod, alone, until_lines};

/// A condition of a pod.
fn condition(pod: &Pod, kind: &str) -> Value {
    let conditions = pod.0["status"]["conditions"].as_array().unwrap();
    conditions.iter().find(|it| it["type"] == kind).cloned().unwrap_or_default()
}

fn asking(name: &str, cpu: &str) -> Asked {
    let request = json!({ "requests": { "cpu": cpu } });
    Asked::one(name, FOREVER).with("/spec/containers/0/resources", request)
}

/// Thousandths of a processor that a half of this machine has, and a little more.
fn more_than_half() -> String {
    let cpus = std::thread::available_parallelism().unwrap().get();
    format!("{}m", cpus * 1000 / 2 + 1)
}

/// Why a pod is not placed, once it says so.
fn until_waiting(node: &Node, key: &str) -> String {
    node.until(&format!("waiting: {key}"), |pods| {
        let scheduled = condition(pods.get(key)?, "PodScheduled");
        (scheduled["reason"] == "Unschedulable")
            .then(|| scheduled["message"].as_str().unwrap().to_owned())
    })
}

#[test]
fn what_does_not_fit_waits_and_says_why_and_starts_when_there_is_room() {
    let mut node = Node::started();
    node.ask_for(&asking("first", &more_than_half()));
    let first = node.until_running("default/first");
    node.ask_for(&asking("second", &more_than_half()));
    let why = until_waiting(&node, "default/second");
    assert!(why.contains(" cpu, ") && why.contains(" are free (reserve 0)"), "{why}");
    let waiting = node.pod("default/second");
    assert_eq!(
        (waiting.phase().as_str(), &waiting.0["status"]["reason"]),
        ("Pending", &json!("Unschedulable"))
    );
    let (status, plan) = node.ask("GET", "/roost/v1/plan");
    assert_eq!((status, &plan["items"][0]["waits"]), (200, &json!(why)), "{plan}");

    // A change that does not fit leaves the revision before running, and says so.
    node.ask_for(&asking("first", "100000"));
    let kept = node.until("kept", |pods| {
        let pod = pods.get("default/first")?;
        (condition(pod, "UpToDate")["reason"] == "Unschedulable").then(|| pod.clone())
    });
    assert_eq!(kept.processes(), first.processes());

    // Also over a restart of the agent.
    node.kill_agent();
    node.start();
    until_waiting(&node, "default/second");
    assert_eq!(node.pod("default/first").processes(), first.processes());
    node.remove("first.json");
    node.until_running("default/second");
    node.remove("second.json");
    node.until_gone("default/second");
    node.end();
}

#[test]
fn of_two_pods_with_one_host_port_the_second_waits_and_names_the_first() {
    let node = Node::started();
    let ports = json!([{ "containerPort": 18080 }]);
    let asked = |name| {
        let pod = Asked::one(name, FOREVER).with("/spec/hostNetwork", json!(true));
        pod.with("/spec/containers/0/ports", ports.clone())
    };
    node.ask_for(&asked("b"));
    node.until_running("default/b");
    // It comes first by its name, but the other one has it.
    node.ask_for(&asked("a"));
    let why = until_waiting(&node, "default/a");
    assert_eq!(why, "host port 18080/TCP is taken by pod default/b");
    node.remove("b.json");
    node.until_running("default/a");
    node.end();
}

#[test]
fn a_pod_that_is_restarted_is_a_new_instance_and_a_run_once_pod_runs_again() {
    let node = Node::started();
    node.ask_for(&Asked::one("web", FOREVER));
    let trace = node.out().join("once.trace");
    let once = Asked::one("once", &alone("once", "exit 0")).policy("Never").sharing(&node.out());
    node.ask_for(&once);
    let web = node.until_running("default/web");
    let through = node.until_through("default/once");
    for (name, old) in [("web", web), ("once", through)] {
        let path = format!("/roost/v1/namespaces/default/pods/{name}/restart");
        let (status, answer) = node.ask("POST", &path);
        assert_eq!(status, 200, "{answer}");
        let key = format!("default/{name}");
        node.until("another instance", |pods| (pods.get(&key)?.uid() != old.uid()).then_some(()));
    }
    node.until_running("default/web");
    until_lines(&trace, 2);
    node.until_through("default/once");
    assert_eq!(std::fs::read_to_string(&trace).unwrap().lines().count(), 2);
    let (status, _) = node.ask("POST", "/roost/v1/namespaces/default/pods/none/restart");
    assert_eq!(status, 404);
    node.end();
}

/// Asks for a pod that says its version, in a file put by the API.
fn put_version(node: &Node, version: &str, hostname: &str) -> (u16, Value) {
    let pod = Asked::one("web", &format!("echo v{version}; {FOREVER}"));
    let pod = pod.with("/spec/hostname", json!(hostname));
    node.ask_with("PUT", "/roost/v1/manifests/web.json", &pod.text())
}

fn numbers(node: &Node) -> Vec<(u64, bool)> {
    let (status, list) = node.ask("GET", "/roost/v1/namespaces/default/pods/web/revisions");
    assert_eq!(status, 200, "{list}");
    let items = list["items"].as_array().unwrap().iter();
    items.map(|it| (it["number"].as_u64().unwrap(), it["current"] == true)).collect()
}

/// Waits until the pod runs that version's program.
fn until_version(node: &Node, version: &str) -> Pod {
    node.until(&format!("version {version}"), |pods| {
        let pod = pods.get("default/web").filter(|pod| pod.is_running())?;
        let said = pod.0["spec"]["containers"][0]["command"][2].as_str()?;
        said.starts_with(&format!("echo v{version};")).then(|| pod.clone())
    })
}

#[test]
fn a_pod_that_is_rolled_back_stays_so_until_its_manifest_changes() {
    let mut node = Node::started();
    let (status, answer) = put_version(&node, "1", "one");
    assert_eq!((status, &answer["pods"]), (200, &json!(["default/web"])), "{answer}");
    until_version(&node, "1");
    assert_eq!(put_version(&node, "2", "one").0, 200);
    until_version(&node, "2");
    // Another host name makes another instance.
    assert_eq!(put_version(&node, "3", "three").0, 200);
    let third = until_version(&node, "3");
    node.until("settled", |_| {
        (numbers(&node) == [(1, false), (2, false), (3, true)]).then_some(())
    });

    let rollback = "/roost/v1/namespaces/default/pods/web/rollback";
    let (status, answer) = node.ask_with("POST", rollback, "{}");
    assert_eq!((status, &answer["number"]), (200, &json!(4)), "{answer}");
    let second = until_version(&node, "2");
    assert_ne!(second.uid(), third.uid());
    for restarted in [false, true] {
        if restarted {
            node.kill_agent();
            node.start();
        }
        let pod = until_version(&node, "2");
        let behind = condition(&pod, "UpToDate");
        assert_eq!(behind["reason"], "RolledBack", "{pod:?}");
        assert!(behind["message"].as_str().unwrap().contains("waiting for a change of"));
        assert_eq!(pod.processes(), second.processes());
    }
    // Once more goes further back, in place this time.
    let (status, answer) = node.ask_with("POST", rollback, "{\"to\":null}");
    assert_eq!((status, &answer["number"]), (200, &json!(5)), "{answer}");
    assert_eq!(until_version(&node, "1").uid(), second.uid());
    let (status, answer) = node.ask_with("POST", rollback, "{\"to\":17}");
    assert_eq!(status, 409, "{answer}");
    // The same manifest again changes nothing; another one counts.
    assert_eq!(put_version(&node, "3", "three").0, 200);
    assert_eq!(put_version(&node, "4", "one").0, 200);
    let fourth = until_version(&node, "4");
    assert_eq!((fourth.uid(), condition(&fourth, "UpToDate")), (second.uid(), Value::Null));
    node.end();
}

#[test]
fn a_manifest_is_put_only_if_it_is_good_and_what_it_would_change_is_told() {
    let node = Node::started();
    let (status, _) = put_version(&node, "1", "one");
    assert_eq!(status, 200);
    until_version(&node, "1");
    let diff = |pod: &Asked| {
        let files = json!({ "files": [{ "name": "web.json", "text": pod.text() }] });
        let (status, answer) = node.ask_with("POST", "/roost/v1/diff", &files.to_string());
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let base = Asked::one("web", &format!("echo v1; {FOREVER}"));
    let base = base.with("/spec/hostname", json!("one"));
    let answer = diff(&base);
    assert_eq!(answer["items"][0]["change"], "none", "{answer}");
    let answer = diff(&base.clone().with("/spec/hostname", json!("two")));
    let item = &answer["items"][0];
    assert_eq!((&item["change"], &item["containers"]), (&json!("replace"), &json!(["main"])));
    assert_eq!(item["before"]["spec"]["hostname"], "one", "{answer}");
    assert_eq!(item["after"]["spec"]["hostname"], "two");
    let answer = diff(&base.clone().with("/spec/hostnam", json!("two")));
    assert_eq!(answer["faults"][0]["file"], "web.json", "{answer}");

    let other = base.with("/spec/hostname", json!("other"));
    let put = |path: &str, text: &str| node.ask_with("PUT", path, text);
    let (status, answer) = put("/roost/v1/manifests/other.json", &other.text());
    assert_eq!(status, 409, "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("web.json"), "{answer}");
    let (status, answer) = put("/roost/v1/manifests/web.json", "kind: Pod\nspec: 3\n");
    assert_eq!(status, 422, "{answer}");
    for name in ["..%2Fweb.json", ".web.json", "web.txt", "a%00.json", "a%0a.json"] {
        let (status, answer) = put(&format!("/roost/v1/manifests/{name}"), &other.text());
        assert_eq!(status, 400, "{name}: {answer}");
    }
    let entries = std::fs::read_dir(node.manifests()).unwrap();
    let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["web.json"]);
    node.end();
}
