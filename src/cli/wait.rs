//! `roost wait pod`.

use super::args::{Goal, WaitArgs};
use super::client::Client;
use super::delete::watch_path;
use super::failure::Failure;
use super::get::{pod_path, status};
use super::output;
use crate::api::kubernetes::types::Pod;
use crate::ids::PodName;

/// Waits until something holds of a pod.
pub(super) async fn pod(client: &Client, args: &WaitArgs) -> Result<(), Failure> {
    let name = args.pod.namespace.pod(&args.pod.name)?;
    let WaitArgs { pod: _, goal, timeout } = args;
    match tokio::time::timeout(*timeout, until(client, &name, goal)).await {
        Ok(ended) => {
            ended?;
            let what = match goal {
                Goal::Condition { kind, status: true } => kind.clone(),
                Goal::Condition { kind, status: false } => format!("not {kind}"),
                Goal::Delete => "gone".to_owned(),
            };
            output::print(&format!("pod {name} is {what}\n"))
        }
        Err(_) => {
            let found: Option<Pod> = client.find(&pod_path(&name)).await?;
            let found = found.as_ref().map_or_else(|| "there is no such pod".to_owned(), status);
            let timeout = humantime::format_duration(*timeout);
            let line = format!("timed out after {timeout} waiting for pod {name}: {found}");
            Err(Failure::wrong(line).with_help(format!("`roost describe pod {name}` says more")))
        }
    }
}

async fn until(client: &Client, name: &PodName, goal: &Goal) -> Result<(), Failure> {
    let mut watch = client.watch(&watch_path(name)).await?;
    loop {
        let pod: Option<Pod> = client.find(&pod_path(name)).await?;
        if holds(goal, name, pod.as_ref())? {
            return Ok(());
        }
        watch.next::<Pod>().await?;
    }
}

/// Whether it holds; an error if it never will.
fn holds(goal: &Goal, name: &PodName, pod: Option<&Pod>) -> Result<bool, Failure> {
    let (kind, wanted, pod) = match (goal, pod) {
        (Goal::Delete, pod) => return Ok(pod.is_none()),
        // It may come yet.
        (Goal::Condition { .. }, None) => return Ok(false),
        (Goal::Condition { kind, status }, Some(pod)) => (kind, *status, pod),
    };
    let condition =
        pod.status.conditions.iter().find(|found| found.kind.eq_ignore_ascii_case(kind));
    if condition.is_some_and(|found| found.status == "True") == wanted {
        return Ok(true);
    }
    let phase = pod.status.phase.as_str();
    if kind.eq_ignore_ascii_case("Ready") && matches!(phase, "Succeeded" | "Failed") {
        let line = format!("pod {name} has ended and will not get ready: {phase}");
        return Err(Failure::wrong(line));
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kubernetes::types::Condition;

    fn pod(phase: &str, ready: &str) -> Pod {
        let mut pod = Pod::default();
        pod.status.phase = phase.to_owned();
        let kind = "Ready".to_owned();
        pod.status.conditions =
            vec![Condition { kind, status: ready.to_owned(), ..Condition::default() }];
        pod
    }

    #[test]
    fn what_holds_is_told_from_what_may_and_what_will_not() {
        let name = "web".parse().unwrap();
        let ready = |status| Goal::Condition { kind: "ready".to_owned(), status };
        let check = |goal: &Goal, pod: Option<&Pod>| holds(goal, &name, pod);
        assert_eq!(check(&ready(true), None), Ok(false));
        assert_eq!(check(&ready(true), Some(&pod("Pending", "False"))), Ok(false));
        assert_eq!(check(&ready(true), Some(&pod("Running", "True"))), Ok(true));
        assert_eq!(check(&ready(false), Some(&pod("Failed", "False"))), Ok(true));
        check(&ready(true), Some(&pod("Failed", "False"))).unwrap_err();
        assert_eq!(check(&Goal::Delete, Some(&pod("Failed", "False"))), Ok(false));
        assert_eq!(check(&Goal::Delete, None), Ok(true));
    }

    #[tokio::test]
    async fn a_pod_that_is_not_there_yet_is_waited_for() {
        use crate::api::samples::{fake, pod, snapshot};
        let root = tempfile::tempdir().unwrap();
        let fake = fake(snapshot(1, vec![], root.path()));
        let client = Client::serving(root.path(), fake.service);
        let ended = tokio::spawn(async move {
            let goal = Goal::Condition { kind: "Ready".to_owned(), status: true };
            until(&client, &"web".parse().unwrap(), &goal).await
        });
        tokio::task::yield_now().await;
        assert!(!ended.is_finished());
        let next = snapshot(2, vec![pod("web", 1)], root.path());
        fake.snapshots.send_replace(std::sync::Arc::new(next));
        ended.await.unwrap().unwrap();
    }
}
