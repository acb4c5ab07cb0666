//! `roost delete pod`.

use std::collections::BTreeSet;

use super::args::DeleteArgs;
use super::client::Client;
use super::failure::Failure;
use super::get::{pod_path, pods_path, with_query};
use super::output;
use crate::api::kubernetes::types::{List, Pod};
use crate::ids::PodName;

/// Removes a pod.
pub(super) async fn pod(client: &Client, args: &DeleteArgs) -> Result<(), Failure> {
    let name = args.pod.namespace.pod(&args.pod.name)?;
    let before = instances(client, &name).await?;
    let status = client.delete(&pod_path(&name)).await?;
    output::print(&format!("pod {name} deleted ({})\n", output::clean(&status.message)))?;
    if args.wait { until_gone(client, &name, &before).await } else { Ok(()) }
}

/// Waits until nothing is left of the instances. Whoever puts the manifest back gets another one,
/// which is not waited for.
async fn until_gone(
    client: &Client,
    name: &PodName,
    before: &BTreeSet<String>,
) -> Result<(), Failure> {
    let mut watch = client.watch(&watch_path(name)).await?;
    while !instances(client, name).await?.is_disjoint(before) {
        watch.next::<Pod>().await?;
    }
    Ok(())
}

/// The path that tells of every change of a pod.
pub(super) fn watch_path(name: &PodName) -> String {
    let selector = format!("fieldSelector=metadata.name={}", name.name);
    let parts = [Some(selector), Some("watch=true".to_owned())];
    with_query(&pods_path(Some(&name.namespace)), &parts)
}

async fn instances(client: &Client, name: &PodName) -> Result<BTreeSet<String>, Failure> {
    let selector = format!("fieldSelector=metadata.name={}", name.name);
    let path = with_query(&pods_path(Some(&name.namespace)), &[Some(selector)]);
    let pods: List<Pod> = client.get(&path).await?;
    Ok(pods.items.into_iter().map(|pod| pod.metadata.uid).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::api::samples::{fake, pod as sample, snapshot};

    #[tokio::test]
    async fn the_instance_that_was_deleted_is_waited_for_and_no_other() {
        let root = tempfile::tempdir().unwrap();
        let name: PodName = "web".parse().unwrap();
        let both = vec![sample("web", 1), sample("web", 2)];
        let fake = fake(snapshot(1, both, root.path()));
        let client = Client::serving(root.path(), fake.service);
        let before = BTreeSet::from([sample("web", 1).record.id.to_string()]);
        let ended = tokio::spawn(async move { until_gone(&client, &name, &before).await });
        tokio::task::yield_now().await;
        assert!(!ended.is_finished());
        let next = snapshot(2, vec![sample("web", 2)], root.path());
        fake.snapshots.send_replace(Arc::new(next));
        ended.await.unwrap().unwrap();
    }
}
