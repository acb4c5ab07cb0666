use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::samples::{Fake, event, fake, pod, snapshot};
use super::*;
use crate::agent::service::{DeleteRefused, ManifestFile, Notice, PodView, Request, Snapshot};

/// A served API on a socket of its own.
pub(super) struct Api {
    root: tempfile::TempDir,
    fake: Fake,
    version: u64,
}

impl Api {
    pub(super) fn serving(pods: Vec<PodView>) -> Self {
        let root = tempfile::tempdir().unwrap();
        let fake = fake(snapshot(1, pods, root.path()));
        let listener = listen(&socket(root.path())).unwrap();
        tokio::spawn(serve(listener, fake.service.clone()));
        Self { root, fake, version: 1 }
    }

    /// The same, with a store of images.
    pub(super) fn serving_images() -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut fake = fake(snapshot(1, vec![], root.path()));
        fake.service = fake.service.with_images_under(root.path());
        let listener = listen(&socket(root.path())).unwrap();
        tokio::spawn(serve(listener, fake.service.clone()));
        Self { root, fake, version: 1 }
    }

    fn publish(&mut self, pods: Vec<PodView>, change: impl FnOnce(&mut Snapshot)) {
        self.version += 1;
        let mut next = snapshot(self.version, pods, self.root.path());
        change(&mut next);
        self.fake.snapshots.send_replace(Arc::new(next));
    }

    /// What is asked of the agent from now on, to be answered apart.
    pub(super) fn take_requests(&mut self) -> tokio::sync::mpsc::Receiver<Request> {
        let (_, nothing) = tokio::sync::mpsc::channel(1);
        std::mem::replace(&mut self.fake.requests, nothing)
    }

    async fn connect(&self) -> UnixStream {
        let stream = socket::connect(&socket(self.root.path())).unwrap();
        stream.set_nonblocking(true).unwrap();
        UnixStream::from_std(stream).unwrap()
    }

    /// Says it literally, and reads until the end.
    pub(super) async fn say(&self, text: &str) -> (u16, String) {
        let mut stream = self.connect().await;
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // What was not read of a request is a reset after the answer.
        stream.read_to_end(&mut answer).await.ok();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        (head.split(' ').nth(1).unwrap_or("0").parse().unwrap(), body.to_owned())
    }

    async fn ask(&self, method: &str, path: &str) -> (u16, Value) {
        let (status, body) = self.say(&format!("{method} {path} HTTP/1.0\r\n\r\n")).await;
        (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }

    async fn watch(&self, path: &str) -> BufReader<UnixStream> {
        let mut stream = self.connect().await;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
        let mut lines = BufReader::new(stream);
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            lines.read_line(&mut line).await.unwrap();
        }
        lines
    }
}

fn socket(root: &Path) -> PathBuf {
    root.join("roost.sock")
}

async fn next(lines: &mut BufReader<UnixStream>) -> (String, Value) {
    let mut line = String::new();
    lines.read_line(&mut line).await.unwrap();
    let mut event: Value = serde_json::from_str(&line).unwrap();
    (event["type"].as_str().unwrap().to_owned(), event["object"].take())
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap();
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn pods_are_listed_by_namespace_and_selector() {
    let api = Api::serving(vec![pod("a", 1), pod("b", 2), pod("shop/c", 3)]);
    let (status, list) = api.ask("GET", "/api/v1/pods").await;
    assert_eq!((status, names(&list)), (200, vec!["a", "b", "c"]));
    assert_eq!(
        (&list["kind"], &list["metadata"]["resourceVersion"]),
        (&"PodList".into(), &"1".into())
    );
    let (_, list) = api.ask("GET", "/api/v1/namespaces/shop/pods").await;
    assert_eq!(names(&list), ["c"]);
    let (_, list) = api.ask("GET", "/api/v1/pods?fieldSelector=metadata.name%3Db").await;
    assert_eq!(names(&list), ["b"]);
    let (_, list) = api.ask("GET", "/api/v1/pods?labelSelector=app!=hello&limit=500").await;
    assert!(names(&list).is_empty());
}

#[tokio::test]
async fn of_several_instances_of_a_pod_the_youngest_is_found_by_name() {
    let api = Api::serving(vec![pod("web", 1), pod("web", 2)]);
    let (status, found) = api.ask("GET", "/api/v1/namespaces/default/pods/web").await;
    assert_eq!(status, 200);
    assert_eq!(found["metadata"]["uid"], pod("web", 2).record.id.to_string());
    let (_, list) = api.ask("GET", "/api/v1/pods").await;
    assert_eq!(names(&list), ["web", "web"]);
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_in_kubernetes_shape() {
    let api = Api::serving(vec![pod("web", 1)]);
    for (method, path, code, reason) in [
        ("GET", "/api/v1/namespaces/default/pods/other", 404, "NotFound"),
        ("GET", "/api/v1/namespaces/default/pods/other/log", 404, "NotFound"),
        ("GET", "/api/v1/nodes", 404, "NotFound"),
        ("GET", "/", 404, "NotFound"),
        ("POST", "/api/v1/pods", 405, "MethodNotAllowed"),
        ("DELETE", "/api/v1/namespaces/default/pods", 405, "MethodNotAllowed"),
        ("GET", "/api/v1/pods?watch=perhaps", 400, "BadRequest"),
        ("GET", "/api/v1/pods?fieldSelector=spec.nodeName=x", 400, "BadRequest"),
        ("GET", "/api/v1/namespaces/default/pods/web/log", 400, "BadRequest"),
        ("GET", "/api/v1/namespaces/default/pods/web/log?container=x", 400, "BadRequest"),
        (
            "GET",
            "/api/v1/namespaces/default/pods/web/log?container=web&tailLines=-1",
            400,
            "BadRequest",
        ),
        (
            "GET",
            "/api/v1/namespaces/default/pods/web/log?container=web&previous=true",
            400,
            "BadRequest",
        ),
        ("DELETE", "/api/v1/namespaces/default/pods/web?gracePeriodSeconds=0", 400, "BadRequest"),
        ("DELETE", "/api/v1/namespaces/default/pods/We%2fb", 404, "NotFound"),
    ] {
        let (status, found) = api.ask(method, path).await;
        assert_eq!((status, &found["kind"]), (code, &"Status".into()), "{method} {path}: {found}");
        assert_eq!(found["reason"], reason, "{method} {path}");
        assert_eq!(found["code"], code);
        assert!(!found["message"].as_str().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_watch_begins_with_everything_and_tells_of_every_change() {
    let mut api = Api::serving(vec![pod("a", 1), pod("b", 2)]);
    let mut lines = api.watch("/api/v1/pods?watch=true").await;
    for name in ["a", "b"] {
        let (kind, object) = next(&mut lines).await;
        assert_eq!((kind.as_str(), &object["metadata"]["name"]), ("ADDED", &name.into()));
    }
    let mut changed = pod("a", 1);
    changed.version = 7;
    changed.problems = vec!["odd".to_owned()];
    api.publish(vec![changed, pod("b", 2), pod("c", 8)], |_| {});
    let (kind, object) = next(&mut lines).await;
    assert_eq!((kind.as_str(), &object["status"]["message"]), ("MODIFIED", &"odd".into()));
    assert_eq!(next(&mut lines).await.0, "ADDED");
    api.publish(vec![pod("c", 8)], |_| {});
    let mut gone = [next(&mut lines).await, next(&mut lines).await];
    gone.sort_by_key(|(_, object)| object["metadata"]["name"].to_string());
    let gone = gone.map(|(kind, object)| (kind, object["metadata"]["name"].clone()));
    assert_eq!(gone, [("DELETED".to_owned(), "a".into()), ("DELETED".to_owned(), "b".into())]);
}

#[tokio::test]
async fn a_watch_goes_on_from_a_list_or_says_that_it_cannot() {
    let mut api = Api::serving(vec![pod("a", 1)]);
    api.publish(vec![pod("a", 1)], |_| {});
    let mut lines = api.watch("/api/v1/pods?watch=true&resourceVersion=2").await;
    api.publish(vec![pod("a", 1), pod("b", 3)], |_| {});
    let (kind, object) = next(&mut lines).await;
    assert_eq!((kind.as_str(), &object["metadata"]["name"]), ("ADDED", &"b".into()));
    for version in [2, 99] {
        let path = format!("/api/v1/pods?watch=true&resourceVersion={version}");
        let (kind, object) = next(&mut api.watch(&path).await).await;
        assert_eq!((kind.as_str(), &object["code"]), ("ERROR", &410.into()));
    }
    let (_, body) = api.ask("GET", "/api/v1/pods?watch=true&timeoutSeconds=0").await;
    assert_eq!(body.as_str().unwrap().lines().count(), 2, "and it ended by itself");
}

#[tokio::test]
async fn watching_a_name_tells_of_that_pod_only() {
    let mut api = Api::serving(vec![pod("a", 1), pod("b", 2)]);
    let path = "/api/v1/namespaces/default/pods?watch=true&fieldSelector=metadata.name=b";
    let mut lines = api.watch(path).await;
    assert_eq!(next(&mut lines).await.1["metadata"]["name"], "b");
    api.publish(vec![pod("b", 2)], |_| {});
    api.publish(vec![], |_| {});
    let (kind, object) = next(&mut lines).await;
    assert_eq!((kind.as_str(), &object["metadata"]["name"]), ("DELETED", &"b".into()));
}

#[tokio::test]
async fn events_are_listed_and_watched() {
    let mut api = Api::serving(vec![]);
    let shop = pod("shop/web", 1);
    let first = event(&shop, "Started", "web was started");
    let mut lines = api.watch("/api/v1/events?watch=true").await;
    let again = |count| {
        let mut event = first.clone();
        event.count = count;
        move |next: &mut Snapshot| next.events = Arc::new([Arc::new(event)].into())
    };
    api.publish(vec![], again(1));
    let (kind, object) = next(&mut lines).await;
    assert_eq!((kind.as_str(), &object["reason"]), ("ADDED", &"Started".into()));
    api.publish(vec![], again(2));
    let (kind, object) = next(&mut lines).await;
    assert_eq!((kind.as_str(), &object["count"]), ("MODIFIED", &2.into()));
    for (path, count) in [
        ("/api/v1/events", 1),
        ("/api/v1/namespaces/shop/events", 1),
        ("/api/v1/namespaces/default/events", 0),
        ("/api/v1/events?fieldSelector=involvedObject.name=web,type=Normal", 1),
        ("/api/v1/events?fieldSelector=involvedObject.name=other", 0),
        ("/api/v1/events?fieldSelector=involvedObject.kind=Node", 0),
    ] {
        let (status, list) = api.ask("GET", path).await;
        assert_eq!((status, names(&list).len()), (200, count), "{path}");
    }
}

/// Answers one request to delete a pod.
async fn answer(fake: &mut Fake, answered: Result<ManifestFile, DeleteRefused>) -> String {
    let Some(Request::Delete { name, answer, .. }) = fake.requests.recv().await else {
        panic!("another request")
    };
    answer.send(answered).unwrap();
    name.to_string()
}

#[tokio::test]
async fn a_pod_is_deleted_or_it_is_said_why_not() {
    let mut api = Api::serving(vec![pod("shop/web", 1)]);
    let source = || ManifestFile { directory: "/d".to_owned(), file: "f.yaml".to_owned() };
    let name: crate::ids::PodName = "shop/web".parse().unwrap();
    let shared = DeleteRefused::SharedFile { name: name.clone(), source_file: source() };
    let why = "read-only".to_owned();
    let failed = DeleteRefused::NotRemoved { name: name.clone(), source_file: source(), why };
    for (answered, code, text) in [
        (Ok(source()), 200, "removed /d/f.yaml"),
        (Err(DeleteRefused::NotFound(name)), 404, "not found"),
        (Err(shared), 409, "several documents"),
        (Err(failed), 500, "read-only"),
    ] {
        let socket = socket(api.root.path());
        let asked = tokio::spawn(async move {
            let stream = socket::connect(&socket).unwrap();
            stream.set_nonblocking(true).unwrap();
            let mut stream = UnixStream::from_std(stream).unwrap();
            let body =
                r#"{"kind":"DeleteOptions","apiVersion":"v1","propagationPolicy":"Background"}"#;
            let head = "DELETE /api/v1/namespaces/shop/pods/web HTTP/1.0\r\nContent-Length: ";
            let text = format!("{head}{}\r\n\r\n{body}", body.len());
            stream.write_all(text.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        });
        assert_eq!(answer(&mut api.fake, answered).await, "shop/web");
        let found = asked.await.unwrap();
        assert!(found.starts_with(&format!("HTTP/1.0 {code} ")), "{found}");
        assert!(found.contains(text), "{found}");
    }
    let body = format!(r#"{{"preconditions":{{"uid":"{}"}}}}"#, pod("x", 9).record.id);
    let head = "DELETE /api/v1/namespaces/shop/pods/web HTTP/1.0\r\nContent-Length: ";
    let (status, _) = api.say(&format!("{head}{}\r\n\r\n{body}", body.len())).await;
    assert_eq!(status, 409, "another instance was meant");
    // The agent is gone.
    api.fake.requests.close();
    let (status, _) = api.ask("DELETE", "/api/v1/namespaces/shop/pods/web").await;
    assert_eq!(status, 503);
}

#[tokio::test]
async fn the_agent_says_how_it_is() {
    let mut api = Api::serving(vec![pod("a", 1)]);
    assert_eq!(api.ask("GET", "/healthz").await, (200, "ok".into()));
    assert_eq!(api.ask("GET", "/readyz").await, (200, "ok".into()));
    let file = ManifestFile { directory: "/d".to_owned(), file: "f.yaml".to_owned() };
    api.publish(vec![pod("a", 1)], |next| {
        next.recovered = false;
        let notice = |is_fault, text: &str| Notice {
            is_fault,
            pod: None,
            text: text.to_owned(),
            line: String::new(),
        };
        next.notices.insert(file, vec![notice(true, "wrong"), notice(false, "odd")]);
    });
    assert_eq!(api.ask("GET", "/readyz").await.0, 503);
    assert_eq!(api.ask("GET", "/livez").await.0, 200);
    let (status, found) = api.ask("GET", "/roost/v1/status").await;
    assert_eq!((status, &found["cgroup"]), (200, &"roost-test".into()));
    assert_eq!(found["faults"]["/d/f.yaml"], serde_json::json!(["wrong"]));
    assert_eq!(found["warnings"]["/d/f.yaml"], serde_json::json!(["odd"]));
    assert_eq!((&found["pods"]["running"], &found["recovered"]), (&1.into(), &false.into()));
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let api = Api::serving(vec![pod("web", 1)]);
    let get = "GET /api/v1/pods HTTP/1.0\r\n";
    let (status, _) = api.say(&format!("{get}X: {}\r\n\r\n", "x".repeat(20 << 10))).await;
    assert_eq!(status, 431);
    let (status, _) = api.say(&format!("{get}{}\r\n", "X: y\r\n".repeat(100))).await;
    assert_eq!(status, 431);
    let body = " ".repeat(routes::BODY_LEN_MAX + 1);
    let head = "DELETE /api/v1/namespaces/default/pods/web HTTP/1.0\r\nContent-Length: ";
    let (status, _) = api.say(&format!("{head}{}\r\n\r\n{body}", body.len())).await;
    assert_eq!(status, 413);
    let (status, _) = api.say("nonsense\r\n\r\n").await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn too_many_connections_are_refused_and_room_is_made_by_those_that_end() {
    let api = Api::serving(vec![]);
    let mut open = Vec::new();
    for _ in 0..server::CONNECTIONS_MAX {
        // One that is answered is surely counted.
        open.push(api.watch("/api/v1/pods?watch=true").await);
    }
    assert_eq!(api.ask("GET", "/healthz").await.0, 503);
    open.clear();
    // That they are closed is noticed soon after.
    while api.ask("GET", "/healthz").await.0 != 200 {
        tokio::task::yield_now().await;
    }
}
