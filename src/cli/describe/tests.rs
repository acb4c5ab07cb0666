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
    let text = text(Screen::default(), &pod::of(&view, &context()), &events, context().wall);
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
    let text = text(Screen::default(), &shown, &[], context().wall);
    let evil = |c: char| c != '\n' && (c.is_control() || output::is_invisible(c));
    assert!(!text.contains(evil), "{text}");
    assert!(text.contains("\n                    Status: fine\n"), "{text}");
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
