use super::*;
use crate::agent::service::{ContainerStatus, Exit};
use crate::api::kubernetes::{event, pod};
use crate::api::samples::{context, ended, pod as sample, report, running, with_report};
use crate::clock::{BootTime, Millis};

#[test]
fn a_pod_is_described_in_reading_order() {
    let until = BootTime(1_003_000);
    let status = ContainerStatus::BackingOff { until, delay: Millis::from_secs(8) };
    let mut sidecar = running("sidecar", 1, Some(ended(0, Exit::Signal(9))));
    sidecar.update_fault = Some("no room".to_owned());
    let web = report("web", 3, status, Some(ended(3, Exit::NotStarted("no such file".to_owned()))));
    let mut view = with_report(sample("shop/hello", 1), vec![web, sidecar]);
    view.problems =
        vec!["/etc/roost/pods.d/hello.yaml:3:1: error: spec: is wrong\n  help: mend it".to_owned()];
    let mut record = crate::api::samples::event(&view, "Started", "sidecar was started");
    record.count = 4;
    let events = [event::of(&record, &context())];
    let text = text(Screen::default(), &pod::of(&view, &context()), &[], &events, context().wall);
    insta::assert_snapshot!(text);
}

#[test]
fn what_stands_in_a_manifest_cannot_drive_the_terminal() {
    let mut shown = pod::of(&sample("hello", 1), &context());
    shown
        .metadata
        .annotations
        .insert("note".to_owned(), "\u{1b}[2J\u{202e}\nStatus: fine".to_owned());
    shown.status.message = Some("\u{7}bad".to_owned());
    let text = text(Screen::default(), &shown, &[], &[], context().wall);
    let evil = |c: char| c != '\n' && (c.is_control() || output::is_invisible(c));
    assert!(!text.contains(evil), "{text}");
    assert!(text.contains("\n                    Status: fine\n"), "{text}");
}

#[test]
fn an_image_is_shown_with_its_id_and_while_it_is_waited_for_with_its_pull() {
    let mut creating = report("web", 0, ContainerStatus::Creating, None);
    creating.attempt = None;
    let view = with_report(sample("hello", 1), vec![creating, running("sidecar", 0, None)]);
    let mut shown = pod::of(&view, &context());
    let pull = |source: &str| Pull {
        source: source.to_owned(),
        phase: "Layers".to_owned(),
        layers_done: 1,
        layers_total: 3,
        bytes_done: 1_500_000,
        bytes_total: 6_000_000,
    };
    for status in &mut shown.status.container_statuses {
        status.image = "docker.io/library/nginx:1.2".to_owned();
    }
    shown.status.container_statuses[1].image_id = format!("sha256:{}", "a".repeat(64));
    let of = |source: &str| text(Screen::default(), &shown, &[pull(source)], &[], context().wall);
    let at_digest = format!("docker.io/library/nginx@sha256:{}", "b".repeat(64));
    for source in ["docker.io/library/nginx:1.2", at_digest.as_str()] {
        let text = of(source);
        let progress = "    Pull:               1.50MB of 6.00MB (25%), 1 of 3 layers\n";
        assert!(text.contains("    Image:              nginx:1.2\n"), "{text}");
        assert!(text.contains("    Image ID:           sha256:aaaa"), "{text}");
        assert_eq!(text.matches(progress).count(), 1, "one of them runs: {text}");
    }
    assert!(!of("docker.io/library/nginx:1.3").contains("Pull:"));
    let volume = serde_json::json!({ "name": "v", "image": { "reference": "quay.io/a/b:1" } });
    assert_eq!(volume_text(&volume), "image quay.io/a/b:1");
}

#[test]
fn a_pod_whose_manifest_was_refused_is_described_by_its_faults() {
    let fault = |file: &str, pod: Option<&str>| Fault {
        file: Some(file.to_owned()),
        pod: pod.map(str::to_owned),
        severity: "error".to_owned(),
        message: "is wrong".to_owned(),
        ..Fault::default()
    };
    let faults = [
        fault("/m/a.yaml", Some("default/web")),
        fault("/m/web.yaml", None),
        fault("/m/db.yml", None),
    ];
    let check = |name: &str, expected: &[usize]| {
        let expected: Vec<&Fault> = expected.iter().map(|at| &faults[*at]).collect();
        assert_eq!(faults_of(&name.parse().unwrap(), &faults), expected, "{name}");
    };
    check("web", &[0]);
    check("shop/web", &[1]);
    check("db", &[2]);
    check("other", &[]);
    let name = "web".parse().unwrap();
    let text = refused(Screen::default(), &name, &[&faults[0]], &[], context().wall);
    insta::assert_snapshot!(text, @r"
    Name:               web
    Namespace:          default
    Manifest:           /m/a.yaml
    Status:             refused: there is no such pod, for its manifest is faulty
    Problems:
      /m/a.yaml:0:0: error: is wrong
    Events:
      <none>
    ");
}
