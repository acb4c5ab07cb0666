use super::*;
use crate::agent::service::{
    ContainerStatus, Exit, Moment, Outcome, PodView, RecordPhase, TerminationCause,
};
use crate::api::kubernetes::pod;
use crate::api::samples::{BOOT, context, ended, pod as sample, report, running, with_report};
use crate::clock::{BootTime, Millis};

fn finished(mut view: PodView, outcome: Outcome, exit: &Exit) -> PodView {
    let last = |run| ended(run, exit.clone());
    let containers = [("web".parse().unwrap(), last(0)), ("sidecar".parse().unwrap(), last(0))];
    view.record.phase = RecordPhase::Finished { outcome, containers: containers.into() };
    view
}

fn table(views: &[PodView], output: Output) -> String {
    let pods: Vec<Pod> = views.iter().map(|view| pod::of(view, &context())).collect();
    let columns = Columns::of(output, &pods);
    let rows: Vec<_> = pods.iter().map(|pod| columns.row(pod, context().wall)).collect();
    Table::render(&columns.head(), &rows).1
}

#[test]
fn a_table_of_pods_says_what_kubectl_would_say() {
    let side = || running("sidecar", 0, None);
    let until = BootTime(1_003_000);
    let backing_off = ContainerStatus::BackingOff { until, delay: Millis::from_secs(8) };
    let backing_off = report("web", 3, backing_off, Some(ended(3, Exit::Code(2))));
    let mut creating = report("web", 0, ContainerStatus::Creating, None);
    creating.attempt = None;
    let through = report("web", 0, ContainerStatus::Terminated, Some(ended(0, Exit::Code(0))));
    let killed = report("web", 0, ContainerStatus::Terminated, Some(ended(0, Exit::OutOfMemory)));
    let mut ending = sample("ending", 6);
    ending.record.phase = RecordPhase::Terminating {
        cause: TerminationCause::Removed,
        grace: Millis::from_secs(5),
        kill_at: Moment { boot: BOOT.parse().unwrap(), at: until },
    };
    let again = running("web", 2, Some(ended(1, Exit::Code(1))));
    let views = [
        sample("fine", 1),
        with_report(sample("again", 2), vec![again, side()]),
        with_report(sample("backing-off", 3), vec![backing_off, side()]),
        with_report(sample("creating", 4), vec![creating, side()]),
        with_report(sample("one-through", 5), vec![through, side()]),
        ending,
        with_report(sample("killed", 7), vec![killed, side()]),
        finished(sample("done", 8), Outcome::Succeeded, &Exit::Code(0)),
        finished(sample("failed", 9), Outcome::Failed, &Exit::Code(1)),
    ];
    insta::assert_snapshot!(table(&views, Output::Table), @r"
    NAME          READY   STATUS              RESTARTS      AGE
    fine          2/2     Running             0             100s
    again         2/2     Running             2 (80s ago)   100s
    backing-off   1/2     CrashLoopBackOff    3 (80s ago)   100s
    creating      1/2     ContainerCreating   0             100s
    one-through   1/2     Running             0             100s
    ending        2/2     Terminating         0             100s
    killed        1/2     OOMKilled           0             100s
    done          0/2     Completed           0             100s
    failed        0/2     Error               0             100s
    ");
}

#[test]
fn a_wide_table_has_processes_and_manifests_and_namespaces_where_there_are_several() {
    let views = [sample("fine", 1), sample("shop/other", 2)];
    insta::assert_snapshot!(table(&views, Output::Wide), @r"
    NAMESPACE   NAME    READY   STATUS    RESTARTS   AGE    UID                                    PIDS        MANIFEST
    default     fine    2/2     Running   0          100s   00000000-0000-4000-8000-000000000001   4000,4000   /etc/roost/pods.d/hello.yaml
    shop        other   2/2     Running   0          100s   00000000-0000-4000-8000-000000000002   4000,4000   /etc/roost/pods.d/hello.yaml
    ");
}

#[test]
fn events_are_rows_whatever_stands_in_their_message() {
    let event = Event {
        last_timestamp: "2023-11-14T22:14:50Z".to_owned(),
        severity: "Warning".to_owned(),
        reason: "Failed".to_owned(),
        message: "two\nlines\u{1b}[2J".to_owned(),
        count: 3,
        involved_object: crate::api::kubernetes::types::ObjectReference {
            kind: "Pod".to_owned(),
            name: "web".to_owned(),
            namespace: "shop".to_owned(),
            ..Default::default()
        },
        ..Event::default()
    };
    let (_, text) = Table::render(EVENT_HEAD, &[event_row(&event, context().wall)]);
    insta::assert_snapshot!(text, @r"
    LAST SEEN   TYPE      REASON   OBJECT         COUNT   MESSAGE
    10s         Warning   Failed   pod/shop/web   3       two lines\u{1b}[2J
    ");
}

#[test]
fn of_the_instances_of_a_pod_the_youngest_counts() {
    let name = "web".parse().unwrap();
    let mut list = json!({ "items": [1, 2] });
    only_youngest(&mut list, &name).unwrap();
    assert_eq!(list["items"], json!([2]));
    only_youngest(&mut json!({ "items": [] }), &name).unwrap_err();
}
