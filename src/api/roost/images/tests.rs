use super::*;
use crate::agent::service::nobody_uses_images;
use crate::api::tests::Api;

fn api() -> Api {
    let mut api = Api::serving_images();
    let mut requests = api.take_requests();
    tokio::spawn(async move { while requests.recv().await.is_some_and(nobody_uses_images) {} });
    api
}

fn asked(method: &str, path: &str, body: &str) -> String {
    format!("{method} {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn an_empty_store_has_no_images_and_nothing_is_pulled() {
    let api = api();
    let (status, answer) = api.say(&asked("GET", "/roost/v1/images", "")).await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((status, &answer["items"], &answer["pulls"]), (200, &json!([]), &json!([])));
    assert!(answer["usage"]["layersBytes"].is_u64(), "{answer}");
    let (status, answer) = api.say(&asked("GET", "/roost/v1/images/pulls", "")).await;
    assert_eq!((status, answer.as_str()), (200, r#"{"items":[]}"#));
    let (status, answer) = api.say(&asked("POST", "/roost/v1/images/prune", "")).await;
    assert_eq!((status, answer.as_str()), (200, r#"{"freedBytes":0,"images":[]}"#));
}

#[tokio::test]
async fn what_is_not_done_is_said_with_a_status_for_each_kind() {
    let api = api();
    let nowhere = "/nowhere/a.tar";
    for (method, path, body, code, part) in [
        ("DELETE", "images?name=nginx", "", 404, "there is no image nginx"),
        ("DELETE", "images?name=Bad%20Name", "", 422, "Bad Name"),
        ("DELETE", "images", "", 400, "?name=NAME"),
        ("POST", "images/pull", r#"{"source":"A B"}"#, 422, "A B"),
        ("POST", "images/pull", r#"{"image":"a"}"#, 400, "not as expected"),
        ("POST", "images/pull", r#"{"source":"localhost:1/a:1"}"#, 502, "ErrImagePull"),
        ("POST", "images/load", r#"{"path":"a.tar"}"#, 422, "must be absolute"),
        ("POST", "images/load", r#"{"path":"/nowhere/a.tar"}"#, 422, nowhere),
    ] {
        let (status, answer) = api.say(&asked(method, &format!("/roost/v1/{path}"), body)).await;
        assert_eq!(status, code, "{path} {body}: {answer}");
        assert!(answer.contains(part), "{path} {body}: {answer}");
        assert!(answer.contains(r#""kind":"Status""#), "{answer}");
    }
}

#[test]
fn pods_that_use_an_image_are_named() {
    let pods = ["shop/a", "web"].map(|pod| pod.parse().unwrap()).into();
    let used = ImagesRefused::Used { image: "nginx".to_owned(), pods };
    let status = failure(&used, "nginx").status();
    assert_eq!((status.code, status.details.unwrap().kind.as_str()), (409, "images"));
    assert!(status.message.contains("pod default/web, pod shop/a"), "{}", status.message);
}

#[tokio::test]
async fn the_end_of_the_agent_is_no_fault_of_the_image() {
    let mut api = Api::serving_images();
    drop(api.take_requests());
    let (status, _) = api.say(&asked("GET", "/roost/v1/images", "")).await;
    assert_eq!(status, 503);
}
