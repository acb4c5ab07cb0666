//! `roost delete pod`.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::args::DeleteArgs;
use super::client::Client;
use super::failure::Failure;
use super::get::{instances_path, pod_path};
use super::live::{self, Step};
use super::output;
use super::screen::Screen;
use crate::api::kubernetes::types::{List, Pod};
use crate::ids::PodName;

/// Removes a pod.
pub(super) async fn pod(client: &Client, screen: Screen, args: &DeleteArgs) -> Result<(), Failure> {
    let name = args.pod.namespace.pod(&args.pod.name)?;
    let before: List<Pod> = client.get(&instances_path(&name)).await?;
    let before = before.items.into_iter().map(|pod| pod.metadata.uid).collect();
    let status = client.delete(&pod_path(&name)).await.map_err(|failure| failure.about(&name))?;
    output::print(&format!("pod {name} deleted ({})\n", output::clean_line(&status.message)))?;
    if args.wait { until_gone(client, screen, &name, &before, args.timeout).await } else { Ok(()) }
}

/// Waits until nothing is left of the instances. Whoever puts the manifest back gets another one,
/// which is not waited for.
async fn until_gone(
    client: &Client,
    screen: Screen,
    name: &PodName,
    before: &BTreeSet<String>,
    timeout: Duration,
) -> Result<(), Failure> {
    let gone = |pods: &[Pod]| {
        let left = pods.iter().find(|pod| before.contains(&pod.metadata.uid));
        Ok(left.map_or(Step::Done, |pod| Step::Waits(live::missing(pod))))
    };
    live::until(client, screen, name, Instant::now() + timeout, gone).await
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
        let ended = tokio::spawn(async move {
            let timeout = Duration::from_secs(60);
            until_gone(&client, Screen::default(), &name, &before, timeout).await
        });
        tokio::task::yield_now().await;
        assert!(!ended.is_finished());
        let next = snapshot(2, vec![sample("web", 2)], root.path());
        fake.snapshots.send_replace(Arc::new(next));
        ended.await.unwrap().unwrap();
    }
}
