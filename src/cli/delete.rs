//! `roost delete pod`: of one or several.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::advice;
use super::args::DeleteArgs;
use super::client::Client;
use super::failure::Failure;
use super::get::{instances_path, pod_path};
use super::live::{self, Step};
use super::output;
use super::screen::Screen;
use crate::api::kubernetes::types::{List, Pod};
use crate::ids::PodName;

/// Removes pods. One that can't be removed keeps no other from it.
pub(super) async fn pods(
    client: &Client,
    screen: Screen,
    args: &DeleteArgs,
) -> Result<(), Failure> {
    let DeleteArgs { names, namespace, wait, timeout } = args;
    let names: Result<Vec<PodName>, Failure> = names.iter().map(|it| namespace.pod(it)).collect();
    let names: BTreeSet<PodName> = names?.into_iter().collect();
    let deadline = Instant::now() + *timeout;
    let mut deleted = Vec::new();
    let mut failures = Vec::new();
    for name in names {
        match delete(client, &name).await {
            Ok(instances) => deleted.push((name, instances)),
            Err(failure) => failures.push(failure),
        }
    }
    for (name, before) in deleted.iter().filter(|_| *wait) {
        if let Err(failure) = until_gone(client, screen, name, before, deadline).await {
            failures.push(failure);
        }
    }
    let Some(last) = failures.pop() else { return Ok(()) };
    for failure in failures {
        let failure = advice::on(client, failure).await;
        output::note(failure.text(screen.error_colors).trim_end());
    }
    Err(last)
}

/// Removes a pod; says which instances there were.
async fn delete(client: &Client, name: &PodName) -> Result<BTreeSet<String>, Failure> {
    let before: List<Pod> = client.get(&instances_path(name)).await?;
    let status = client.delete(&pod_path(name)).await.map_err(|failure| failure.about(name))?;
    output::print(&format!("pod {name} deleted ({})\n", output::clean_line(&status.message)))?;
    Ok(before.items.into_iter().map(|pod| pod.metadata.uid).collect())
}

/// Waits until nothing is left of the instances. Whoever puts the manifest back gets another one,
/// which is not waited for.
async fn until_gone(
    client: &Client,
    screen: Screen,
    name: &PodName,
    before: &BTreeSet<String>,
    deadline: Instant,
) -> Result<(), Failure> {
    let gone = |pods: &[Pod]| {
        let left = pods.iter().find(|pod| before.contains(&pod.metadata.uid));
        Ok(left.map_or(Step::Done(live::GONE), |pod| Step::Waits(live::missing(pod))))
    };
    live::until(client, screen, name, deadline, gone).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

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
            let deadline = Instant::now() + Duration::from_secs(60);
            until_gone(&client, Screen::default(), &name, &before, deadline).await
        });
        tokio::task::yield_now().await;
        assert!(!ended.is_finished());
        let next = snapshot(2, vec![sample("web", 2)], root.path());
        fake.snapshots.send_replace(Arc::new(next));
        ended.await.unwrap().unwrap();
    }
}
