use super::*;
use crate::agent::service::{Done, ManifestFile, PutRefused, Request, Written};
use crate::api::tests::Api;

fn asked(method: &str, path: &str, body: &str) -> String {
    format!("{method} {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_manifest_of_the_greatest_length_is_taken_and_a_longer_one_is_not() {
    let mut api = Api::serving(vec![]);
    let path = "/roost/v1/manifests/a%20b.yaml";
    let (status, _) = api.say(&asked("PUT", path, &"x".repeat(FILE_LEN_MAX + 1))).await;
    assert_eq!(status, 413);
    let body = "x".repeat(FILE_LEN_MAX);
    let mut requests = api.take_requests();
    let answering = tokio::spawn(async move {
        let Some(Request::Put { new, answer, .. }) = requests.recv().await else {
            panic!("another request")
        };
        let source = ManifestFile { directory: "/d".to_owned(), file: new.file.clone() };
        let pods = vec!["shop/web".parse().unwrap()];
        answer.send(Ok(Written { file: source, pods, warnings: vec![] })).unwrap();
        (new.file, new.text.len())
    });
    let (status, answer) = api.say(&asked("PUT", path, &body)).await;
    assert_eq!((status, answer.contains("shop/web")), (200, true), "{answer}");
    assert_eq!(answering.await.unwrap(), ("a b.yaml".to_owned(), FILE_LEN_MAX));
}

#[tokio::test]
async fn why_a_manifest_is_not_put_is_said_with_a_status_for_each_kind() {
    let owner = ManifestFile { directory: "/d".to_owned(), file: "other.yaml".to_owned() };
    let name = "shop/web".parse().unwrap();
    for (refused, code) in [
        (PutRefused::Name { name: "x".to_owned(), why: "bad" }, 400),
        (PutRefused::Faulty(vec!["x.yaml:1:1: error: wrong".to_owned()]), 422),
        (PutRefused::Owned { name, owner: owner.clone() }, 409),
        (PutRefused::NotWritten { file: owner, why: "full".to_owned() }, 500),
    ] {
        let mut api = Api::serving(vec![]);
        let mut requests = api.take_requests();
        let text = refused.to_string();
        tokio::spawn(async move {
            let Some(Request::Put { answer, .. }) = requests.recv().await else {
                panic!("another request")
            };
            answer.send(Err(refused)).unwrap();
        });
        let (status, answer) = api.say(&asked("PUT", "/roost/v1/manifests/x.yaml", "")).await;
        assert_eq!(status, code);
        assert!(answer.contains(&serde_json::json!(text).to_string()), "{answer}");
    }
}

#[tokio::test]
async fn a_roll_back_is_asked_for_with_or_without_a_number() {
    for (body, wanted) in
        [("", None), ("{}", None), (r#"{"to":null}"#, None), (r#"{"to":3}"#, Some(3))]
    {
        let mut api = Api::serving(vec![]);
        let mut requests = api.take_requests();
        let answering = tokio::spawn(async move {
            let Some(Request::RollBack { to, answer, .. }) = requests.recv().await else {
                panic!("another request")
            };
            answer.send(Ok(Done { message: "done".to_owned(), number: 9 })).unwrap();
            to
        });
        let path = "/roost/v1/namespaces/shop/pods/web/rollback";
        let (status, answer) = api.say(&asked("POST", path, body)).await;
        assert_eq!((status, answer.as_str()), (200, r#"{"message":"done","number":9}"#));
        assert_eq!(answering.await.unwrap(), wanted);
    }
    let api = Api::serving(vec![]);
    let path = "/roost/v1/namespaces/shop/pods/web/rollback";
    let (status, _) = api.say(&asked("POST", path, r#"{"too":3}"#)).await;
    assert_eq!(status, 400);
}
