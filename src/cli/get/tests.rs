use super::containers;
use super::events::{HEAD, row};
use super::pods::{Columns, Live};
use super::revisions;
use super::*;
use crate::agent::service::{
    ContainerStatus, Exit, Moment, Outcome, PodView, RecordPhase, TerminationCause,
};
use crate::api::kubernetes::pod;
use crate::api::kubernetes::types::{Event, Pod, WatchEvent};
use crate::api::samples::{BOOT, context, ended, pod as sample, report, running, with_report};
use crate::cli::answers::Revision;
use crate::cli::screen::{Screen, Size};
use crate::cli::table::Table;
use crate::clock::{BootTime, Millis};

fn finished(mut view: PodView, outcome: Outcome, exit: &Exit) -> PodView {
    let last = |run| ended(run, exit.clone());
    let containers = [("web".parse().unwrap(), last(0)), ("sidecar".parse().unwrap(), last(0))];
    view.record.phase =
        RecordPhase::Finished { outcome, because: None, containers: containers.into() };
    view
}

fn table(views: &[PodView], output: Output) -> String {
    let pods: Vec<Pod> = views.iter().map(|view| pod::of(view, &context())).collect();
    let node = "gateway".to_owned();
    let mut columns = Columns::of(output, &pods, false);
    columns.node = node;
    let rows: Vec<_> = pods.iter().map(|pod| columns.row(pod, context().wall)).collect();
    Table::render(Screen::default(), &columns.head(), &rows).1
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
    NAMESPACE   NAME    READY   STATUS    RESTARTS   AGE    IP       NODE      REVISION   UID                                    PIDS        MANIFEST
    default     fine    2/2     Running   0          100s   <none>   gateway   2          00000000-0000-4000-8000-000000000001   4000,4000   /etc/roost/pods.d/hello.yaml
    shop        other   2/2     Running   0          100s   <none>   gateway   2          00000000-0000-4000-8000-000000000002   4000,4000   /etc/roost/pods.d/hello.yaml
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
    let (_, text) = Table::render(Screen::default(), HEAD, &[row(&event, context().wall)]);
    insta::assert_snapshot!(text, @r"
    LAST SEEN   TYPE      REASON   OBJECT         COUNT   MESSAGE
    10s         Warning   Failed   pod/shop/web   3       two lines\u{1b}[2J
    ");
}

#[tokio::test]
async fn of_the_instances_of_a_pod_the_youngest_counts() {
    use crate::api::samples::{fake, snapshot};
    use crate::cli::args::{NamespaceArg, Space, Which};
    use crate::cli::client::Client;
    let root = tempfile::tempdir().unwrap();
    let both = vec![sample("web", 1), sample("web", 2)];
    let fake = fake(snapshot(1, both, root.path()));
    let client = Client::serving(root.path(), fake.service);
    let space = Space { namespace: NamespaceArg { namespace: None }, all_namespaces: false };
    let mut which = Which { space, selector: Some("app in (a)".to_owned()) };
    fn asked(name: Option<&str>, which: &Which) -> pods::Asked {
        pods::Asked::of(name, which).unwrap()
    }
    let failure = asked(None, &which).list::<pods::Listed>(&client).await.unwrap_err();
    assert!(failure.to_string().contains("selectors with sets"), "{failure}");
    which.selector = Some("app=hello,!tier".to_owned());
    let list = asked(Some("web"), &which).list::<pods::Listed>(&client).await.unwrap();
    let uids: Vec<&str> = list.items.iter().map(|it| it.metadata.uid.as_str()).collect();
    assert_eq!(uids, ["00000000-0000-4000-8000-000000000002"]);
    let failure = asked(Some("other"), &which).list::<pods::Listed>(&client).await.unwrap_err();
    assert!(failure.missing().is_some());
}

#[test]
fn containers_are_listed_with_where_they_stand() {
    let killed = report("web", 2, ContainerStatus::Terminated, Some(ended(2, Exit::OutOfMemory)));
    let views = [
        with_report(
            sample("fine", 1),
            vec![killed, running("sidecar", 1, Some(ended(0, Exit::Code(3))))],
        ),
        sample("shop/other", 2),
    ];
    let pods: Vec<Pod> = views.iter().map(|view| pod::of(view, &context())).collect();
    let text = containers::text(Screen::default(), Output::Wide, &pods, false, context().wall);
    insta::assert_snapshot!(text, @r"
    NAMESPACE   POD     NAME      READY   STATUS      RESTARTS      AGE   PID      EXIT     IMAGE    ID
    default     fine    web       no      OOMKilled   2             80s   <none>   137      <none>   roost://00000000-0000-4000-8000-000000000001/web/2
    default     fine    sidecar   yes     Running     1 (80s ago)   70s   4001     3        <none>   roost://00000000-0000-4000-8000-000000000001/sidecar/1
    shop        other   web       yes     Running     0             70s   4000     <none>   <none>   roost://00000000-0000-4000-8000-000000000002/web/0
    shop        other   sidecar   yes     Running     0             70s   4000     <none>   <none>   roost://00000000-0000-4000-8000-000000000002/sidecar/0
    ");
    let objects = containers::objects(&[serde_json::to_value(&pods[0]).unwrap()]);
    assert_eq!(objects["items"][0]["name"], "web");
    assert_eq!(objects["items"][0]["pod"], "fine");
    assert_eq!(objects["items"][1]["state"]["running"]["startedAt"], "2023-11-14T22:13:50Z");
}

#[test]
fn revisions_are_listed_with_the_one_that_counts() {
    let revision = |number: u64, current| Revision {
        number,
        digest: "0123456789abcdef0123".to_owned(),
        accepted_at: "2023-11-14T22:13:50Z".to_owned(),
        source: "/etc/roost/pods.d/web.yaml".to_owned(),
        current,
    };
    let revisions = [revision(9, false), revision(10, true)];
    let text = |output| revisions::text(Screen::default(), output, &revisions, context().wall);
    insta::assert_snapshot!(text(Output::Table), @r"
    REVISION             AGE   DIGEST         MANIFEST
    9                    70s   0123456789ab   /etc/roost/pods.d/web.yaml
    10         current   70s   0123456789ab   /etc/roost/pods.d/web.yaml
    ");
    assert_eq!(text(Output::Name), "9\n10\n");
}

#[test]
fn a_live_table_is_drawn_over_itself_and_stays_within_the_terminal() {
    let columns = Columns::of::<()>(Output::Table, &[], false);
    let mut live = Live { screen: Screen::default(), columns, pods: Default::default(), lines: 0 };
    let take = |live: &mut Live, kind: &str, number: u32| {
        let pod = pod::of(&sample(&format!("p{number}"), number), &context());
        let object = serde_json::from_value(serde_json::to_value(&pod).unwrap()).unwrap();
        live.take(WatchEvent { kind: kind.to_owned(), object });
    };
    for number in 1..=5 {
        take(&mut live, "ADDED", number);
    }
    let small = Size { rows: 5, columns: 20 };
    let first = live.draw(small, context().wall);
    assert_eq!(
        first,
        "NAME   READY   STATU\np1     2/2     Runni\np2     2/2     Runni\n… and 3 more\n"
    );
    for number in 2..=5 {
        take(&mut live, "DELETED", number);
    }
    let second = live.draw(small, context().wall);
    assert_eq!(second, "\u{1b}[4F\u{1b}[JNAME   READY   STATU\np1     2/2     Runni\n");
    assert!(live.draw(small, context().wall).starts_with("\u{1b}[2F"));
}

#[test]
fn parts_of_paths_are_encoded() {
    assert_eq!(encoded("a-b_c.d~e"), "a-b_c.d~e");
    assert_eq!(encoded("a b/ü&="), "a%20b%2F%C3%BC%26%3D");
}
