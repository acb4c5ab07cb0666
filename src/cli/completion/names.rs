//! [`ask`]: the names that only the agent knows.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::client::Client;
use super::super::failure::Failure;
use super::super::get::{pod_path, pods_path};
use crate::ids::{Namespace, PodName};

/// Which names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// Of pods; `qualified` with their namespace, whichever it is.
    Pods {
        /// A slash has been typed.
        qualified: bool,
    },
    /// Of the pods of a namespace.
    PodsOf(Namespace),
    /// Of the containers of a pod.
    Containers(PodName),
    /// Of the images of the node.
    Images,
    /// Of namespaces that have pods.
    Namespaces,
    /// The numbers of the revisions of a pod.
    Revisions(PodName),
}

/// Asks for them.
pub(super) async fn ask(client: &Client, what: &What) -> Result<Vec<String>, Failure> {
    let path = match what {
        What::Pods { .. } | What::Namespaces => pods_path(None),
        What::PodsOf(namespace) => pods_path(Some(namespace)),
        What::Containers(pod) => pod_path(pod),
        What::Images => super::super::image::PATH.to_owned(),
        What::Revisions(pod) => super::super::get::own_path(pod, "revisions"),
    };
    let answer: Value = client.get(&path).await?;
    Ok(found(what, &answer))
}

fn found(what: &What, answer: &Value) -> Vec<String> {
    let items = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let pods = items(&answer["items"]);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let names: BTreeSet<String> = match what {
        What::Pods { qualified } => pods
            .iter()
            .filter_map(|pod| {
                let (namespace, name) =
                    (pod["metadata"]["namespace"].as_str()?, pod["metadata"]["name"].as_str()?);
                let is_plain = namespace == "default" && !qualified;
                Some(if is_plain { name.to_owned() } else { format!("{namespace}/{name}") })
            })
            .collect(),
        What::PodsOf(_) => pods.iter().filter_map(|it| text(&it["metadata"]["name"])).collect(),
        What::Namespaces => {
            pods.iter().filter_map(|it| text(&it["metadata"]["namespace"])).collect()
        }
        What::Containers(_) => {
            let statuses = items(&answer["status"]["containerStatuses"]);
            return statuses.iter().filter_map(|it| text(&it["name"])).collect();
        }
        What::Images => pods
            .iter()
            .flat_map(|it| items(&it["names"]))
            .filter_map(|it| it.as_str().map(super::super::image::familiar))
            .collect(),
        What::Revisions(_) => {
            return pods
                .iter()
                .filter_map(|it| it["number"].as_u64())
                .map(|n| n.to_string())
                .collect();
        }
    };
    names.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_are_as_they_can_be_typed() {
        use crate::api::samples::{fake, pod, snapshot};
        let root = tempfile::tempdir().unwrap();
        let pods = vec![pod("web", 1), pod("web", 2), pod("shop/db", 3)];
        let fake = fake(snapshot(1, pods, root.path()));
        let client = Client::serving(root.path(), fake.service);
        let check = async |what: What, expected: &[&str]| {
            assert_eq!(ask(&client, &what).await.unwrap(), expected, "{what:?}");
        };
        check(What::Pods { qualified: false }, &["shop/db", "web"]).await;
        check(What::Pods { qualified: true }, &["default/web", "shop/db"]).await;
        check(What::PodsOf("shop".parse().unwrap()), &["db"]).await;
        check(What::Containers("web".parse().unwrap()), &["web", "sidecar"]).await;
        check(What::Namespaces, &["default", "shop"]).await;
        let images = serde_json::json!({ "items": [
            { "names": ["docker.io/library/nginx:latest", "ghcr.io/a/b:1"] }, { "names": [] },
        ]});
        assert_eq!(found(&What::Images, &images), ["ghcr.io/a/b:1", "nginx:latest"]);
        let revisions = serde_json::json!({ "items": [{ "number": 3 }, { "number": 10 }] });
        let what = What::Revisions("web".parse().unwrap());
        assert_eq!(found(&what, &revisions), ["3", "10"]);
    }
}
