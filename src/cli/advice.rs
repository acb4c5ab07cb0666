//! [`on`]: what to say to somebody who named a pod that there is not.

use serde::Deserialize as _;
use serde_json::Value;

use super::client::Client;
use super::failure::Failure;
use super::get::pods_path;
use crate::api::kubernetes::types::{List, Pod};
use crate::ids::PodName;

/// How alike two names must be to be taken for each other (Jaro-Winkler, 1 is the same).
const ALIKE: f64 = 0.85;

/// The failure with advice, if it is that there is no such pod.
pub(super) async fn on(client: &Client, failure: Failure) -> Failure {
    let Some(name) = failure.missing().cloned() else { return failure };
    // Who fails to give advice says no more than what was wrong.
    let Ok(list) = client.get::<Value>(&pods_path(None)).await else { return failure };
    let Ok(list) = List::<Pod>::deserialize(list) else { return failure };
    let pods: Vec<PodName> = list.items.iter().filter_map(name_of).collect();
    failure.with_help(text(&name, &pods))
}

/// The name under which a pod is asked for.
pub(super) fn name_of<S>(pod: &Pod<S>) -> Option<PodName> {
    format!("{}/{}", pod.metadata.namespace, pod.metadata.name).parse().ok()
}

fn text(name: &PodName, pods: &[PodName]) -> String {
    let elsewhere = pods.iter().find(|pod| pod.name == name.name);
    if let Some(PodName { namespace, name }) = elsewhere {
        return format!("it is in namespace `{namespace}`: say `{namespace}/{name}`");
    }
    let closest = pods
        .iter()
        .map(|pod| (strsim::jaro_winkler(pod.name.as_str(), name.name.as_str()), pod))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    match closest {
        Some((_, pod)) if pod.namespace.as_str() == "default" => {
            format!("did you mean `{}`?", pod.name)
        }
        Some((_, pod)) => format!("did you mean `{pod}`?"),
        None => {
            "`roost get pods` lists what there is, `roost status` manifests with faults".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_who_slips_is_told_what_there_is() {
        let pods: Vec<PodName> = ["web-frontend", "shop/db", "shop/cache"]
            .iter()
            .map(|it| it.parse().unwrap())
            .collect();
        let check = |name: &str, expected: &str| {
            assert_eq!(text(&name.parse().unwrap(), &pods), expected, "{name}");
        };
        check("web-fronted", "did you mean `web-frontend`?");
        check("db", "it is in namespace `shop`: say `shop/db`");
        check("cahce", "did you mean `shop/cache`?");
        let all = "`roost get pods` lists what there is, `roost status` manifests with faults";
        check("nothing", all);
    }

    #[tokio::test]
    async fn the_agent_is_asked_what_there_is() {
        use crate::api::samples::{fake, pod, snapshot};
        let root = tempfile::tempdir().unwrap();
        let fake = fake(snapshot(1, vec![pod("shop/web", 1)], root.path()));
        let client = Client::serving(root.path(), fake.service);
        let failure = on(&client, Failure::not_found(&"web".parse().unwrap())).await;
        assert_eq!(
            failure.to_string(),
            "error: pod default/web not found\n  help: it is in namespace `shop`: say `shop/web`\n"
        );
    }
}
