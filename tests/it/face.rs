//! What the command line says, and how it ends, as somebody at a terminal has it.

use serde_json::json;

use crate::harness::{Asked, FOREVER, Node, manifest};

#[test]
fn a_pod_that_is_held_says_so_wherever_somebody_wonders_and_can_be_released() {
    let node = Node::started();
    let version = |number: u32| {
        let pod = Asked::one("web", &format!("echo v{number}; {FOREVER}"));
        let path = node.out().join("web.json");
        std::fs::write(&path, pod.text()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let file = version(1);
    let said = node.said(&["apply", &file, "--wait"]);
    assert!(said.ends_with("pod default/web is ready\n"), "{said}");
    node.said(&["apply", "-f", &version(2), "--wait"]);
    node.said(&["rollback", "pod/web", "--wait"]);

    let way_out = "`roost rollback web --release` follows the manifest again";
    let said = node.said(&["diff"]);
    assert!(said.starts_with("Nothing would change.\npod default/web is held at"), "{said}");
    for said in [said, node.said(&["diff", "-f", &file]), node.said(&["plan"])] {
        assert!(said.contains("revision 1") && said.contains(way_out), "{said}");
    }
    let (code, _, told) = node.cli(&["apply", "-f", &file]);
    assert!(code == 0 && told.contains(way_out), "{told}");
    let (code, _, told) = node.cli(&["apply", "-f", &file, "--wait"]);
    assert!(code == 1 && told.contains(way_out), "{told}");

    let said = node.said(&["rollback", "web", "--release", "--wait"]);
    assert!(said.starts_with("pod default/web follows "), "{said}");
    let pod = node.pod("default/web");
    assert!(pod.0["spec"]["containers"][0]["command"][2].as_str().unwrap().contains("echo v2;"));
    assert_eq!(node.said(&["diff"]), "Nothing would change.\n");
    let (code, _, told) = node.cli(&["rollback", "web", "--release"]);
    assert!(code == 1 && told.contains("is not held"), "{told}");
    node.end();
}

#[test]
fn a_manifest_that_is_refused_is_told_of_by_every_command_that_looks_at_it() {
    let node = Node::started();
    assert_eq!(node.cli(&["status"]).0, 0);
    node.put(
        "bad.yaml",
        &manifest("bad", FOREVER).replace("restartPolicy", "restartPolicy: Now\n#"),
    );
    node.put("torn.yaml", "kind: Pod\nspec: [");
    node.ask_for(&Asked::one("web", FOREVER));
    node.until_running("default/web");
    node.until("refused", |_| (node.status()["faults"].as_object()?.len() == 2).then_some(()));

    for command in ["plan", "diff"] {
        let (code, _, told) = node.cli(&[command]);
        assert!(code == 1 && told.contains("torn.yaml:2:"), "{command}: {told}");
        let is_shown = told.contains("bad.yaml:") && told.contains("spec.restartPolicy: must be");
        assert!(is_shown, "{command}: {told}");
    }
    assert_eq!(node.cli(&["status"]).0, 1);
    assert_eq!(node.cli(&["status", "-o", "json"]).0, 1);
    let (code, said, _) = node.cli(&["describe", "pod/bad"]);
    assert!(code == 1 && said.contains("refused") && said.contains("must be one of"), "{said}");
    let (code, said, _) = node.cli(&["describe", "pod", "torn"]);
    assert!(code == 1 && said.contains("not valid YAML"), "{said}");
    let (code, said, told) = node.cli(&["describe", "pod", "nobody"]);
    assert!(code == 1 && said.is_empty() && told.contains("not found"), "{said}{told}");
    node.remove("bad.yaml");
    node.remove("torn.yaml");

    // The same pod in another file.
    let twice = Asked::one("web", FOREVER).with("/metadata/labels", json!({ "a": "b" }));
    node.put("zweb.json", &twice.text());
    node.until("contested", |_| {
        let status = node.status();
        (status["faults"].as_object()?.is_empty() && status["contested"][0].is_string())
            .then_some(())
    });
    let (code, said, _) = node.cli(&["status"]);
    assert!(code == 1 && said.contains("pod default/web is also in "), "{said}");
    assert!(said.contains("zweb.json"), "{said}");
    node.remove("zweb.json");
    node.until("calm", |_| node.status()["contested"].as_array()?.is_empty().then_some(()));
    assert_eq!(node.cli(&["status"]).0, 0);
    node.end();
}

#[test]
fn a_wait_ends_when_the_pod_is_what_it_is_to_be_and_not_before() {
    let node = Node::started();
    let put = |pod: &Asked| {
        let path = node.out().join("draft.json");
        std::fs::write(&path, pod.text()).unwrap();
        node.cli(&["apply", "-f", path.to_str().unwrap(), "--wait", "--timeout", "5s"])
    };
    // `apply` calls the file as it is called, so each pod takes the place of the one before.
    let applied = |pod: &Asked| {
        let answer = put(pod);
        node.remove("draft.json");
        node.until_gone(&pod.key());
        answer
    };
    let (code, said, told) = applied(&Asked::one("good", "sleep 0.1").policy("Never"));
    assert!(code == 0 && said.ends_with("pod default/good has succeeded\n"), "{said}{told}");
    let (code, _, told) = applied(&Asked::one("bad", "sleep 0.1; exit 3").policy("Never"));
    assert_eq!(code, 1);
    let why = "error: pod default/bad has failed: container main ended with exit code 3\n";
    assert!(told.starts_with(why), "{told}");
    let (code, said, told) = applied(&Asked::one("crash", "sleep 0.1; exit 4"));
    assert!(code == 1 && !said.contains("is ready"), "{said}");
    assert!(told.contains("container main ended with exit code 4"), "{told}");

    let (code, _, told) =
        node.cli(&["wait", "pod/none", "--for=condition=Ready", "--timeout", "100ms"]);
    assert_eq!(code, 1);
    let first = "There is no pod default/none yet; waiting for it.\nerror: timed out";
    assert!(told.starts_with(first), "{told}");
    node.end();
}

#[test]
fn several_pods_are_deleted_at_once_and_one_that_is_not_there_harms_no_other() {
    let node = Node::started();
    let names = ["a", "b", "c"];
    for name in names {
        let path = node.out().join(Asked::one(name, FOREVER).file());
        std::fs::write(path, Asked::one(name, FOREVER).text()).unwrap();
    }
    let out = node.out();
    let out = out.to_str().unwrap();
    let said = node.said(&["validate", out]);
    assert_eq!(said.lines().count(), 3, "{said}");
    assert_eq!(node.said(&["diff", "-f", out]).matches(" will be created").count(), 3);
    node.said(&["apply", "-f", out, "--wait"]);
    let (code, said, told) = node.cli(&["delete", "--wait", "pod/a", "nobody", "pods/default/b"]);
    assert_eq!((code, said.matches(" deleted (").count()), (1, 2), "{said}{told}");
    assert!(told.contains("pod default/nobody not found"), "{told}");
    assert_eq!(node.said(&["get", "pods", "-o", "name"]), "pod/c\n");
    node.said(&["delete", "pod", "c", "--wait"]);
    node.end();
}
