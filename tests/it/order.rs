//! Init containers, sidecars, and the order in which the containers of a pod begin and end.

use serde_json::json;

use crate::harness::{Asked, FOREVER, Node, OUT, Pod, Process, until_lines};

/// Says that it runs, and when it is told to stop.
fn lasting(name: &str) -> String {
    format!(
        "trap 'echo {name} stops >> {OUT}/order; exit 0' TERM; echo {name} runs >> {OUT}/order; \
         while :; do sleep 0.1; done"
    )
}

#[test]
fn init_containers_come_first_and_sidecars_end_last() {
    let node = Node::started();
    let said = |what: &str| format!("sleep 0.2; echo {what} >> {OUT}/order");
    let pod = Asked::pod("order")
        .init("fetch", &said("fetched"))
        .sidecar("sidecar", &lasting("sidecar"))
        .init("check", &said("checked"))
        .sidecar("second", &lasting("second"))
        .container("web", &lasting("web"))
        .with("/spec/terminationGracePeriodSeconds", json!(20));
    node.ask_for(&pod.sharing(&node.out()));
    let pod = node.until_running("default/order");
    let order = node.out().join("order");
    let begun = until_lines(&order, 5);
    assert_eq!(begun[0], "fetched");
    // A sidecar has begun when its program was executed, not when it says so.
    let place = |what: &str| begun.iter().position(|line| line == what).unwrap();
    assert!(place("checked") > place("fetched") && place("web runs") > place("checked"));
    let inits = pod.0["status"]["initContainerStatuses"].clone();
    assert_eq!(inits[0]["state"]["terminated"]["reason"], "Completed", "{inits}");
    assert!(inits[1]["started"] == true && inits[1]["roost"]["sidecar"] == true, "{inits}");
    let table = node.said(&["get", "pods"]);
    assert!(table.contains("3/3") && table.contains("Running"), "{table}");
    assert!(node.said(&["describe", "pod", "order"]).contains("Init Containers"));
    assert_eq!(node.said(&["logs", "order", "-c", "fetch"]), "");

    // A sidecar that ends is started again, alone.
    let before = pod.processes();
    Process::of(inits[1]["roost"]["pid"].as_u64().unwrap().try_into().unwrap()).kill();
    until_lines(&order, 6);
    assert_eq!(node.pod("default/order").processes()["web"], before["web"]);

    node.remove("order.json");
    node.until_gone("default/order");
    let lines = until_lines(&order, 9);
    assert_eq!(&lines[6..], ["web stops", "second stops", "sidecar stops"], "{lines:?}");
    node.end();
}

#[test]
fn a_job_is_through_when_its_containers_are_and_its_sidecars_are_stopped() {
    let node = Node::started();
    let pod = Asked::pod("job")
        .sidecar("sidecar", &lasting("sidecar"))
        .container("work", "sleep 0.3; exit 0")
        .with("/spec/terminationGracePeriodSeconds", json!(20));
    node.ask_for(&pod.policy("Never").sharing(&node.out()));
    let pod = node.until_through("default/job");
    assert_eq!(pod.phase(), "Succeeded");
    let lines = until_lines(&node.out().join("order"), 2);
    assert_eq!(lines, ["sidecar runs", "sidecar stops"]);
    node.end();
}

#[test]
fn an_init_container_that_fails_keeps_the_others_from_running() {
    let node = Node::started();
    let pod = Asked::pod("failed").init("prepare", "exit 3").container("work", "exit 0");
    node.ask_for(&pod.policy("Never"));
    let pod = node.until_through("default/failed");
    assert_eq!(pod.phase(), "Failed");
    let status = &pod.0["status"];
    let end = &status["initContainerStatuses"][0]["state"]["terminated"];
    assert_eq!(end["exitCode"], 3, "{status}");
    assert_eq!(pod.waiting("work"), "PodInitializing", "{status}");
    let table = node.said(&["get", "pods"]);
    assert!(table.contains("Init:Error") && table.contains("0/1"), "{table}");

    node.ask_for(&Asked::pod("loop").init("prepare", "exit 1").container("work", "exit 0"));
    node.until("a back-off", |_| {
        node.said(&["get", "pods"]).contains("Init:CrashLoopBackOff").then_some(())
    });
    node.end();
}

#[test]
fn hooks_are_asked_in_the_container_and_the_signal_is_the_one_asked_for() {
    let node = Node::started();
    let script =
        format!("trap 'echo signal >> {OUT}/order; exit 0' USR1; while :; do sleep 0.1; done");
    let say = |what: &str| json!({ "exec": { "command": ["/bin/sh", "-c", format!("echo {what} >> {OUT}/order")] } });
    let lifecycle =
        json!({ "postStart": say("begun"), "preStop": say("asked"), "stopSignal": "SIGUSR1" });
    let pod = Asked::one("hooks", &script)
        .with("/spec/containers/0/lifecycle", lifecycle)
        .with("/spec/terminationGracePeriodSeconds", json!(20));
    node.ask_for(&pod.sharing(&node.out()));
    let order = node.out().join("order");
    until_lines(&order, 1);
    node.until("ready", |pods| {
        let container = pods.get("default/hooks")?.container("main");
        (container["ready"] == true).then_some(())
    });
    node.remove("hooks.json");
    node.until_gone("default/hooks");
    assert_eq!(until_lines(&order, 3), ["begun", "asked", "signal"]);
    node.end();
}

#[test]
fn a_pod_that_had_its_time_and_a_group_of_which_one_failed_are_stopped() {
    let node = Node::started();
    let deadline =
        Asked::one("deadline", "sleep 1000").with("/spec/activeDeadlineSeconds", json!(1));
    node.ask_for(&deadline);
    let group = Asked::pod("group")
        .container("fails", "sleep 0.2; exit 1")
        .container("waits", "sleep 1000")
        .annotation("roost/termination-policy", "group");
    node.ask_for(&group.policy("Never"));
    let long = Asked::one("long", "sleep 1000").annotation("roost/max-run-time.main", "300ms");
    node.ask_for(&long.policy("Never"));
    for key in ["default/deadline", "default/group", "default/long"] {
        assert_eq!(node.until_through(key).phase(), "Failed", "{key}");
    }
    node.until("the event", |_| {
        node.said(&["get", "events"]).contains("DeadlineExceeded").then_some(())
    });
    node.end();
}

#[test]
fn a_pod_waits_for_those_that_it_comes_after() {
    let node = Node::started();
    let file = |name: &str| node.out().join(name);
    let ready = json!({ "exec": { "command": ["test", "-e", format!("{OUT}/ready")] }, "periodSeconds": 1 });
    let web = Asked::one("web", FOREVER).annotation("roost/after", "schema=Succeeded, queue");
    node.ask_for(&web);
    let queue = Asked::one("queue", FOREVER).with("/spec/containers/0/readinessProbe", ready);
    node.ask_for(&queue.sharing(&node.out()));
    let script = format!("until [ -e {OUT}/done ]; do sleep 0.1; done");
    node.ask_for(&Asked::one("schema", &script).policy("Never").sharing(&node.out()));
    // It is told what it waits for.
    let waits_for = |what: &str| {
        node.until(&format!("web waits for {what}"), |pods| {
            let told = pods.get("default/web").map(|pod| pod.0["status"].to_string());
            told.filter(|told| told.contains(what))
        })
    };
    waits_for("schema");
    std::fs::write(file("done"), "").unwrap();
    assert_eq!(node.until_through("default/schema").phase(), "Succeeded");
    node.until("web waits for queue alone", |pods| {
        let told = pods.get("default/web")?.0["status"].to_string();
        (told.contains("queue") && !told.contains("schema")).then_some(())
    });
    assert!(node.pod("default/web").pids().is_empty());
    std::fs::write(file("ready"), "").unwrap();
    let web = node.until_running("default/web");
    // Later nothing of that counts.
    std::fs::remove_file(file("ready")).unwrap();
    node.until("queue is not ready any more", |pods| {
        (pods["default/queue"].container("main")["ready"] == false).then_some(())
    });
    assert_eq!(node.pod("default/web").processes(), web.processes());
    node.end();
}

#[test]
fn a_revision_that_does_not_get_ready_in_time_is_taken_back_and_not_tried_again() {
    let mut node = Node::started();
    let revision = |node: &Node, version: &str| {
        let ready = json!({ "exec": { "command": ["/bin/sh", "-c", "test $VERSION != bad"] }, "periodSeconds": 1 });
        let pod = Asked::one("web", FOREVER)
            .annotation("roost/rollback-after", "2s")
            .with("/spec/containers/0/readinessProbe", ready)
            .with("/spec/containers/0/env", json!([{ "name": "VERSION", "value": version }]));
        node.put("web.json", &pod.text());
    };
    let has = |node: &Node, version: &str| {
        node.until(&format!("{version} is ready"), |pods| {
            let pod = pods.get("default/web")?;
            let pid = *pod.pids().get("main")?;
            let env = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
            let wanted = format!("VERSION={version}");
            let is_it = env.split(|byte| *byte == 0).any(|line| line == wanted.as_bytes());
            (is_it && pod.container("main")["ready"] == true).then(|| pod.clone())
        })
    };
    revision(&node, "good");
    has(&node, "good");
    revision(&node, "bad");
    node.until("taken back", |pods| {
        pods["default/web"].0["status"].to_string().contains("RolledBack").then_some(())
    });
    let back = has(&node, "good");
    assert!(node.said(&["get", "events"]).contains("UpdateFailed"));
    // Nor by an agent that reads the same file for the first time.
    node.kill_agent();
    node.start();
    let seen = has(&node, "good");
    assert_eq!((seen.uid(), seen.processes()), (back.uid(), back.processes()));
    // An edit is another matter.
    revision(&node, "better");
    has(&node, "better");
    node.until("held no more", |pods| {
        (!pods["default/web"].0["status"].to_string().contains("RolledBack")).then_some(())
    });
    node.end();
}

/// What a ConfigMap says is a part of the revision of the pods that use it.
#[test]
fn a_config_map_with_which_a_pod_is_not_ready_any_more_is_taken_back_for_that_pod() {
    let node = Node::started();
    let put = |state: &str| {
        let config = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "settings" },
            "data": { "state": state },
        });
        node.put("settings.json", &config.to_string());
    };
    put("good");
    let probe = json!({
        "exec": { "command": ["/bin/sh", "-c", "test $(cat /settings/state) != bad"] },
        "periodSeconds": 1,
        // It has to fail before the time is over: at first the container is Ready as it was.
        "failureThreshold": 1,
    });
    let volume = json!({ "name": "settings", "configMap": { "name": "settings" } });
    let pod = Asked::one("web", FOREVER)
        .annotation("roost/rollback-after", "3s")
        .with("/spec/containers/0/readinessProbe", probe)
        .mounting(&volume, "/settings");
    node.ask_for(&pod);
    let is_ready = |pod: &Pod| pod.container("main")["ready"] == true;
    let before = node
        .until("it is ready", |pods| pods.get("default/web").filter(|pod| is_ready(pod)).cloned());
    put("bad");
    node.until("it is not ready", |pods| (!is_ready(&pods["default/web"])).then_some(()));
    let after = node.until("it is ready as it was", |pods| {
        let pod = &pods["default/web"];
        let is_back = pod.0["status"].to_string().contains("RolledBack");
        (is_back && is_ready(pod)).then(|| pod.clone())
    });
    assert_eq!(after.processes(), before.processes(), "only files changed, both times");
    put("better");
    node.until("what is new is tried", |pods| {
        let pod = &pods["default/web"];
        let is_held = pod.0["status"].to_string().contains("RolledBack");
        (!is_held && is_ready(pod)).then_some(())
    });
    node.end();
}
