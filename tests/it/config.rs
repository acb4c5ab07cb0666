//! ConfigMaps and Secrets: in variables and files, changed while they are used, missing, and never
//! where they do not belong.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Asked, FOREVER, Node, OUT, Pod, Process, soon, until_text};

/// How soon an edit is to be seen by a container, on a machine that has time for it.
const LIVE_UPDATE_MAX: Duration = Duration::from_secs(2);

fn document(kind: &str, name: &str, data: &Value) -> String {
    let field = if kind == "Secret" { "stringData" } else { "data" };
    let (api, meta) = ("v1", json!({ "name": name }));
    json!({ "apiVersion": api, "kind": kind, "metadata": meta, field: data }).to_string()
}

fn volume(source: &Value) -> Value {
    let mut volume = json!({ "name": "conf" });
    let map = volume.as_object_mut().unwrap();
    map.extend(source.as_object().unwrap().clone());
    volume
}

fn file(node: &Node, name: &str) -> String {
    until_text(&node.out().join(name), name, |text| text.ends_with('\n').then(|| text.to_owned()))
}

/// Waits until a container sees something in its volume, without going in: its root is that of
/// its process.
fn seen_by(pod: &Pod, path: &str) -> std::path::PathBuf {
    Path::new("/proc").join(pod.pids()["main"].to_string()).join("root").join(path)
}

fn until(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "not {what} within {limit:?}");
        std::thread::yield_now();
    }
    start.elapsed()
}

#[test]
fn a_pod_waits_for_its_config_map_and_starts_when_it_comes() {
    let node = Node::started();
    let var = json!([{
        "name": "GREETING", "valueFrom": { "configMapKeyRef": { "name": "app", "key": "greeting" } },
    }]);
    let script = format!("echo $GREETING > {OUT}/said; {FOREVER}");
    let pod = Asked::one("web", &script).sharing(&node.out()).with("/spec/containers/0/env", var);
    node.ask_for(&pod);
    let waits = |what: &str| {
        node.until(what, |pods| {
            let pod = pods.get("default/web")?;
            let waiting = &pod.container("main")["state"]["waiting"];
            let says = waiting["message"].as_str()?.contains(what);
            (says && waiting["reason"] == "CreateContainerConfigError").then_some(())
        });
    };
    waits("waits for ConfigMap default/app");
    node.put("app.json", &document("ConfigMap", "app", &json!({ "other": "x" })));
    waits("to have the key `greeting`");
    assert!(node.said(&["describe", "pod", "web"]).contains("greeting"));
    node.put("app.json", &document("ConfigMap", "app", &json!({ "greeting": "hello" })));
    let first = node.until_running("default/web");
    assert_eq!(file(&node, "said"), "hello\n");
    // What runs goes on without it, and is started again with what it had.
    node.remove("app.json");
    node.until("it says so", |pods| {
        let conditions = pods.get("default/web")?.0["status"]["conditions"].to_string();
        conditions.contains("waits for ConfigMap default/app").then_some(())
    });
    std::fs::remove_file(node.out().join("said")).unwrap();
    Process::of(first.pids()["main"]).kill();
    node.until("back", |pods| {
        let pod = pods.get("default/web")?;
        (pod.restarts("main") == 1 && pod.is_running()).then_some(())
    });
    assert_eq!(file(&node, "said"), "hello\n");
    node.end();
}

#[test]
fn an_edit_is_in_the_files_at_once_and_in_variables_after_a_restart() {
    let node = Node::started();
    let env = json!([{
        "name": "LEVEL", "valueFrom": { "configMapKeyRef": { "name": "app", "key": "level" } },
    }]);
    let script = format!("echo $LEVEL $(cat /mnt/level) >> {OUT}/said; {FOREVER}");
    let pod = Asked::one("web", &script)
        .with("/spec/containers/0/env", env)
        .sharing(&node.out())
        .mounting(
            &volume(&json!({ "configMap": { "name": "app", "defaultMode": 0o440 } })),
            "/mnt",
        );
    let config = |level: &str, more: &str| {
        document("ConfigMap", "app", &json!({ "level": level, more: "x" }))
    };
    node.put("app.json", &config("info", "old"));
    node.ask_for(&pod);
    let before = node.until_running("default/web");
    assert_eq!(file(&node, "said"), "info info\n");
    let level = seen_by(&before, "mnt/level");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&level).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o440);
    node.put("app.json", &config("debug", "new"));
    let took = until(soon(), "in the file", || std::fs::read_to_string(&level).unwrap() == "debug");
    println!("an edit was in the container after {took:?}");
    assert!(took < LIVE_UPDATE_MAX * crate::harness::slowness(), "{took:?}");
    let links = || {
        let all = std::fs::read_dir(seen_by(&before, "mnt")).unwrap();
        let mut names: Vec<_> = all.map(|it| it.unwrap().file_name()).collect();
        names.retain(|name| !name.to_str().unwrap().starts_with(".."));
        names.sort();
        names
    };
    until(soon(), "without stale keys", || links() == ["level", "new"]);
    let same =
        node.until("told", |pods| pods.get("default/web").filter(|p| p.is_running()).cloned());
    assert_eq!(same.processes(), before.processes());
    // A document that gets a fault changes nothing.
    node.put("app.json", &config("debug", "new").replace("\"v1\"", "\"v2\""));
    node.until("the fault is told", |_| {
        node.said(&["events"]).contains("must be `v1` for a ConfigMap").then_some(())
    });
    assert_eq!(std::fs::read_to_string(&level).unwrap(), "debug");
    Process::of(before.pids()["main"]).kill();
    let text = until_text(&node.out().join("said"), "the second line", |text| {
        (text.lines().count() == 2).then(|| text.to_owned())
    });
    assert_eq!(text, "info info\ndebug debug\n");
    node.end();
}

#[test]
fn containers_that_ask_for_it_start_anew_when_their_configuration_changes() {
    let node = Node::started();
    let from = json!([{ "configMapRef": { "name": "app" } }]);
    let pod = Asked::one("web", &format!("echo $LEVEL >> {OUT}/said; {FOREVER}"))
        .with("/spec/containers/0/envFrom", from)
        .container("side", FOREVER)
        .sharing(&node.out())
        .with("/metadata/annotations", json!({ "roost/restart-on-config-change": "true" }));
    node.put("app.json", &document("ConfigMap", "app", &json!({ "LEVEL": "info" })));
    node.ask_for(&pod);
    let before = node.until_running("default/web");
    let draft = node.dir.path().join("app.json");
    std::fs::write(&draft, document("ConfigMap", "app", &json!({ "LEVEL": "debug" }))).unwrap();
    let said = node.said(&["diff", "-f", draft.to_str().unwrap()]);
    assert!(said.contains("these containers will be restarted: main"), "{said}");
    node.said(&["apply", "-f", draft.to_str().unwrap()]);
    let text = until_text(&node.out().join("said"), "the second line", |text| {
        (text.lines().count() == 2).then(|| text.to_owned())
    });
    assert_eq!(text, "info\ndebug\n");
    let after = node.until_running("default/web");
    assert_eq!(after.processes()["side"], before.processes()["side"]);
    assert_eq!(after.uid(), before.uid());
    node.end();
}

#[test]
fn what_a_pod_uses_survives_the_agent_the_executor_and_a_lost_document() {
    let mut node = Node::started();
    let env = json!([{
        "name": "PASSWORD", "valueFrom": { "secretKeyRef": { "name": "db", "key": "password" } },
    }]);
    let pod =
        Asked::one("web", &format!("echo $PASSWORD $(cat /mnt/password) >> {OUT}/said; {FOREVER}"))
            .with("/spec/containers/0/env", env)
            .sharing(&node.out())
            .mounting(&volume(&json!({ "secret": { "secretName": "db" } })), "/mnt");
    node.put("db.json", &document("Secret", "db", &json!({ "password": "s3cret" })));
    node.ask_for(&pod);
    let first = node.until_running("default/web");
    let lines = |count: usize| {
        until_text(&node.out().join("said"), "so many lines", |text| {
            (text.lines().count() == count).then(|| text.to_owned())
        })
    };
    lines(1);
    let executor = node.executors().into_values().next().unwrap();
    node.kill_agent();
    Process::of(first.pids()["main"]).kill();
    let text = until_text(&node.out().join("said"), "without an agent", |text| {
        (text.lines().count() == 2).then(|| text.to_owned())
    });
    assert_eq!(text, "s3cret s3cret\n".repeat(2));
    Process::of(executor).kill();
    node.put("db.json", "kind: [");
    node.start();
    let text = until_text(&node.out().join("said"), "by another executor", |text| {
        (text.lines().count() == 3).then(|| text.to_owned())
    });
    assert_eq!(text, "s3cret s3cret\n".repeat(3));
    node.end();
}

/// Every file below a directory that has one of the texts in it.
fn files_with(directory: &Path, texts: &[&str]) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files_with(&path, texts));
        } else if kind.is_file() {
            let bytes = std::fs::read(&path).unwrap_or_default();
            let has = |text: &&str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
            if texts.iter().any(|text| has(text)) {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn the_value_of_a_secret_is_nowhere_but_where_it_belongs() {
    const VALUE: &str = "correct-horse-7";
    const OTHER: &str = "battery-staple-9";
    let node = Node::started();
    let base64 = |text: &str| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, text);
    let texts = [VALUE, OTHER, &base64(VALUE), &base64(OTHER)];
    let env = json!([
        { "name": "A", "valueFrom": { "secretKeyRef": { "name": "db", "key": "password" } } },
        { "name": "B", "value": "x$(A)" },
    ]);
    let script =
        format!("test \"$B\" = x{VALUE} && test \"$1\" = {VALUE}; echo $? > {OUT}/code; {FOREVER}");
    // Not in the script that is shown: only whether it is right.
    let script = script.replace(VALUE, "$(cat /mnt/password)");
    let pod = Asked::one("web", &script)
        .with("/spec/containers/0/env", env)
        .with("/spec/containers/0/args", json!(["sh", "$(A)"]))
        .sharing(&node.out())
        .mounting(&volume(&json!({ "secret": { "secretName": "db" } })), "/mnt");
    let secret = |value: &str| document("Secret", "db", &json!({ "password": value }));
    node.put("db.json", &secret(VALUE));
    node.ask_for(&pod);
    let running = node.until_running("default/web");
    assert_eq!(file(&node, "code"), "0\n");
    // A fault beside the value, a change, a start that fails.
    let faulty = secret(OTHER).replace("\"stringData\"", "\"immutable\":3,\"data\"");
    node.put("db.json", &faulty);
    node.until("the fault is told", |_| node.said(&["events"]).contains("base64").then_some(()));
    let draft = node.dir.path().join("db.json");
    std::fs::write(&draft, secret(OTHER)).unwrap();
    let mut said = node.said(&["diff", "-f", draft.to_str().unwrap()]);
    let password = seen_by(&running, "mnt/password");
    node.put("db.json", &secret(OTHER));
    until(soon(), "swapped", || std::fs::read_to_string(&password).unwrap() == OTHER);
    node.put("web2.json", &Asked::one("web2", "x")
        .with("/spec/containers/0/command", json!(["/no/such/$(A)"]))
        .with("/spec/containers/0/env", json!([{
            "name": "A", "valueFrom": { "secretKeyRef": { "name": "db", "key": "password" } },
        }]))
        .text());
    for asked in [
        &["get", "pods", "-o", "json"][..],
        &["get", "pods", "-o", "yaml"],
        &["describe", "pod", "web"],
        &["events"],
        &["get", "revisions", "web", "-o", "json"],
        &["plan"],
        &["diff"],
        &["status"],
    ] {
        said.push_str(&node.cli(asked).1);
        said.push_str(&node.cli(asked).2);
    }
    for path in ["/api/v1/pods", "/api/v1/events", "/metrics", "/roost/v1/status", "/roost/v1/plan"]
    {
        said.push_str(&node.ask("GET", path).1.to_string());
    }
    let shown = texts.iter().find(|text| said.contains(**text));
    assert_eq!(shown, None, "{said}");
    let log = node.agent_log();
    assert!(!texts.iter().any(|text| log.contains(text)), "{log}");
    let configs = node.root().join("data/configs");
    let elsewhere: Vec<_> = files_with(&node.root(), &texts)
        .into_iter()
        .filter(|path| !path.starts_with(&configs))
        .collect();
    assert_eq!(elsewhere, Vec::<std::path::PathBuf>::new());
    for path in files_with(&configs, &texts) {
        let mode = std::fs::metadata(&path).unwrap().permissions();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
    }
    node.end();
}
