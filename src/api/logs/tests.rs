use std::io::Write as _;

use super::*;
use crate::agent::service::{ContainerReport, Exit};
use crate::api::samples::{Fake, ended, fake, pod, report, running, snapshot, with_report};

const STAMP: &str = "2023-11-14T22:13:20.000000000Z";

/// A container `web` with logs, and an agent that tells how it is.
struct Node {
    root: tempfile::TempDir,
    fake: Fake,
}

impl Node {
    fn new(web: ContainerReport) -> Self {
        let root = tempfile::tempdir().unwrap();
        let fake = fake(snapshot(1, vec![view(web)], root.path()));
        Self { root, fake }
    }

    fn directory(&self) -> PathBuf {
        let record = pod("hello", 1).record;
        let paths = crate::state::paths::Paths::under(self.root.path());
        paths.pod(record.id, &record.name).container_logs(&"web".parse().unwrap())
    }

    fn write(&self, run: u32, text: &str) {
        std::fs::create_dir_all(self.directory()).unwrap();
        let path = self.directory().join(format!("{run}.log"));
        let mut file = std::fs::File::options().create(true).append(true).open(path).unwrap();
        writeln!(file, "{STAMP} stdout F {text}").unwrap();
    }

    fn publish(&self, web: ContainerReport) {
        let next = snapshot(2, vec![view(web)], self.root.path());
        self.fake.snapshots.send_replace(Arc::new(next));
    }

    /// The body of the answer.
    async fn ask(&self, query: &str) -> Result<axum::body::Body, Failure> {
        let shared = Arc::new(Shared::of(self.fake.service.clone()));
        let uri: axum::http::Uri = format!("/?container=web&{query}").parse().unwrap();
        let query = axum::extract::Query::try_from_uri(&uri);
        let path = Path(("default".to_owned(), "hello".to_owned()));
        answer(State(shared), path, query).await.map(Response::into_body)
    }

    async fn text(&self, query: &str) -> String {
        let mut body = self.ask(query).await.unwrap();
        let mut text = String::new();
        while let Some(piece) = piece(&mut body).await {
            text.push_str(&piece);
        }
        text
    }
}

fn view(web: ContainerReport) -> crate::agent::service::PodView {
    with_report(pod("hello", 1), vec![web])
}

async fn piece(body: &mut axum::body::Body) -> Option<String> {
    use http_body_util::BodyExt as _;
    let frame = body.frame().await?.unwrap();
    Some(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())
}

fn backing_off(run: u32) -> ContainerReport {
    let status = ContainerStatus::BackingOff {
        until: crate::clock::BootTime(0),
        delay: crate::clock::Millis(0),
    };
    report("web", run, status, Some(ended(run, Exit::Code(1))))
}

#[tokio::test]
async fn the_newest_run_is_shown_and_the_one_before_on_demand() {
    let node = Node::new(running("web", 1, Some(ended(0, Exit::Code(1)))));
    node.write(0, "before");
    node.write(1, "now");
    assert_eq!(node.text("").await, "now\n");
    assert_eq!(node.text("previous=true").await, "before\n");
    assert_eq!(node.text("timestamps=true").await, format!("{STAMP} now\n"));
    assert_eq!(node.text("limitBytes=2").await, "no");
    assert_eq!(node.text("tailLines=0").await, "");
    assert_eq!(node.text("sinceSeconds=60").await, "");
    assert_eq!(node.text("sinceTime=2023-11-14T22:13:20Z").await, "now\n");
    node.publish(backing_off(1));
    assert_eq!(node.text("previous=true").await, "now\n", "as Kubernetes has it");
}

#[tokio::test]
async fn a_container_that_has_not_run_has_no_log_and_one_that_printed_nothing_an_empty_one() {
    let mut creating = report("web", 0, ContainerStatus::Creating, None);
    creating.attempt = None;
    let node = Node::new(creating);
    node.ask("").await.unwrap_err();
    node.publish(running("web", 0, None));
    assert_eq!(node.text("").await, "");
}

#[tokio::test]
async fn before_an_executor_reports_its_files_tell_the_newest_run() {
    let node = Node::new(running("web", 0, None));
    node.write(4, "four");
    node.write(5, "five");
    let mut silent = pod("hello", 1);
    silent.report = None;
    node.fake.snapshots.send_replace(Arc::new(snapshot(2, vec![silent], node.root.path())));
    assert_eq!(node.text("").await, "five\n");
    assert_eq!(node.text("previous=true").await, "four\n");
}

#[tokio::test]
async fn a_follower_gets_every_line_until_the_run_has_ended() {
    let mut creating = report("web", 0, ContainerStatus::Creating, None);
    creating.attempt = None;
    let node = Node::new(creating);
    let mut body = node.ask("follow=true").await.unwrap();
    // It waits for the first run.
    node.write(0, "one");
    node.publish(running("web", 0, None));
    assert_eq!(piece(&mut body).await.unwrap(), "one\n");
    node.write(0, "two");
    assert_eq!(piece(&mut body).await.unwrap(), "two\n");
    let log = node.directory().join("0.log");
    std::fs::rename(&log, node.directory().join("0.log.20231114-221320")).unwrap();
    node.write(0, "three");
    assert_eq!(piece(&mut body).await.unwrap(), "three\n");
    // What it printed last and that it ended are told in either order.
    node.write(0, "four");
    node.publish(backing_off(0));
    let mut rest = String::new();
    while let Some(piece) = piece(&mut body).await {
        rest.push_str(&piece);
    }
    assert_eq!(rest, "four\n");
}

#[tokio::test]
async fn following_ends_with_the_pod_and_with_the_client() {
    let node = Node::new(running("web", 0, None));
    node.write(0, "one");
    let mut body = node.ask("follow=true").await.unwrap();
    assert_eq!(piece(&mut body).await.unwrap(), "one\n");
    node.fake.snapshots.send_replace(Arc::new(snapshot(2, vec![], node.root.path())));
    assert_eq!(piece(&mut body).await, None);

    node.publish(running("web", 0, None));
    let receivers = node.fake.snapshots.receiver_count();
    let mut body = node.ask("follow=true").await.unwrap();
    assert_eq!(piece(&mut body).await.unwrap(), "one\n");
    drop(body);
    while node.fake.snapshots.receiver_count() > receivers {
        tokio::task::yield_now().await;
    }
}
