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
    if !args.wait {
        return Ok(());
    }
    let mut watch = client.watch(&watch_path(&name)).await?;
    loop {
        // Whoever puts the manifest back gets another instance, which is not waited for.
        if instances(client, &name).await?.is_disjoint(&before) {
            return Ok(());
        }
        watch.next::<Pod>().await?;
    }
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
