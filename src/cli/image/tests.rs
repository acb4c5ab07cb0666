use std::collections::BTreeMap;

use serde_json::json;

use super::pull::{done_text, progress_text, texts};
use super::*;
use crate::api::samples::{fake, later, snapshot};
use crate::cli::answers::{Image, Pull};
use crate::cli::args::{ImagesArgs, Output};
use crate::cli::screen::Screen;

fn images() -> Vec<Image> {
    let nginx = json!({
        "id": format!("sha256:{}", "0123456789abcdef".repeat(4)),
        "manifest": "sha256:fedc",
        "names": ["docker.io/library/nginx:latest", "localhost:5000/nginx:1"],
        "size": 187_654_321,
        "pinned": false,
        "made": later(0).rfc3339(),
        "used": later(290).rfc3339(),
        "usedBy": ["default/web", "shop/a", "shop/b", "shop/c"],
    });
    let nameless = json!({ "id": "sha256:ffff", "size": 999, "made": later(0).rfc3339(),
                           "pinned": true, "later": "unknown fields are passed over" });
    understood::<Images>(&json!({ "items": [nginx, nameless] })).unwrap().items
}

#[test]
fn images_are_listed_by_name_with_who_uses_them() {
    let of = |output| ls::text(Screen::default(), output, &images(), later(300));
    insta::assert_snapshot!(of(Output::Table), @r"
    NAME                     ID             SIZE    AGE   USED BY                  PINNED
    nginx:latest             0123456789ab   187MB   5m    web, shop/a and 2 more   no
    localhost:5000/nginx:1   0123456789ab   187MB   5m    web, shop/a and 2 more   no
    <none>                   ffff           999B    5m    <none>                   yes
    ");
    let wide = of(Output::Wide);
    let first = wide.lines().nth(1).unwrap();
    assert!(first.contains("web, shop/a, shop/b, shop/c   no"), "{wide}");
    assert!(first.ends_with("10s         sha256:fedc"), "{wide}");
    assert_eq!(of(Output::Name), "nginx:latest\nsha256:ffff\n");
}

#[test]
fn sizes_have_three_digits() {
    for (count, text) in [
        (0, "0B"),
        (999, "999B"),
        (1000, "1.00kB"),
        (12_345, "12.3kB"),
        (999_499, "999kB"),
        (999_500, "0.99MB"),
        (187_654_321, "187MB"),
        (u64::MAX, "18446744TB"),
    ] {
        assert_eq!(bytes(count), text, "{count}");
    }
}

#[test]
fn how_far_pulls_are_is_said_in_a_line_for_each() {
    let pull = |phase: &str, bytes_total| Pull {
        source: "docker.io/library/nginx:latest".to_owned(),
        phase: phase.to_owned(),
        layers_done: 1,
        layers_total: 2,
        bytes_done: 500_000,
        bytes_total,
    };
    let waiting: BTreeMap<String, String> =
        [("docker.io/library/nginx:latest", "nginx:latest"), ("quay.io/a/b:1", "quay.io/a/b:1")]
            .map(|(source, name)| (source.to_owned(), name.to_owned()))
            .into();
    assert_eq!(
        texts(&waiting, &[pull("Layers", 2_000_000)]),
        ["nginx:latest: 500kB of 2.00MB (25%), 1 of 2 layers", "quay.io/a/b:1: waits"]
    );
    assert_eq!(progress_text(&pull("Resolving", 0)), "asks what it is");
    assert_eq!(progress_text(&pull("Layers", 0)), "500kB of 0B, 1 of 2 layers");
    let got = Got {
        id: "sha256:0123456789abcdef".to_owned(),
        message: "a\u{1b}b".to_owned(),
        ..Got::default()
    };
    assert_eq!(
        done_text("docker.io/library/nginx:latest", &got),
        "nginx:latest 0123456789ab: a\\u{1b}b\n"
    );
}

#[tokio::test]
async fn without_an_agent_images_are_listed_by_the_store_itself_if_there_is_one() {
    let root = tempfile::tempdir().unwrap();
    let client = Client::of(Some(root.path())).unwrap();
    let args = ImagesArgs { name: None, output: Output::Table };
    let failure = ls::run(&client, Screen::default(), &args).await.unwrap_err();
    assert!(failure.is_unreachable(), "{failure}");
    assert!(!client.paths().data.exists(), "nothing is made");
    let store = IdleImages::open(client.paths()).unwrap();
    let failure = ls::run(&client, Screen::default(), &args).await.unwrap_err();
    assert!(failure.is_unreachable(), "somebody has the store: {failure}");
    drop(store);
    ls::run(&client, Screen::default(), &args).await.unwrap();
    let args = LoadArgs { files: vec![root.path().join("none.tar"), root.path().join("no.tar")] };
    let failure = load(&client, &args).await.unwrap_err();
    assert!(!failure.is_unreachable() && failure.to_string().contains("no.tar"), "{failure}");
}

#[tokio::test]
async fn what_the_agent_refuses_is_told_for_each_image() {
    let root = tempfile::tempdir().unwrap();
    let fake = fake(snapshot(1, vec![], root.path()));
    let service = fake.service.with_images_under(root.path());
    let client = Client::serving(root.path(), service);
    let mut requests = fake.requests;
    tokio::spawn(async move {
        while requests.recv().await.is_some_and(crate::agent::service::nobody_uses_images) {}
    });
    let args = RemoveArgs { names: vec!["nginx".to_owned(), "Bad Name".to_owned()] };
    let failure = remove(&client, &args).await.unwrap_err();
    assert!(failure.to_string().contains("Bad Name"), "{failure}");
    assert_eq!(failure.code(), 1);
    prune(&client).await.unwrap();
}
