//! `roost restart`, `roost rollback`.

use serde_json::{Value, json};
use tokio::time::Instant;

use super::answers::Done;
use super::apply::Instance;
use super::args::{RestartArgs, RollbackArgs, WaitArg};
use super::client::Client;
use super::failure::Failure;
use super::get::{own_path, pod_path};
use super::live::{self, Step};
use super::output;
use super::screen::Screen;
use crate::api::kubernetes::types::Pod;
use crate::ids::PodName;

/// Starts a pod anew.
pub(super) async fn restart(
    client: &Client,
    screen: Screen,
    args: &RestartArgs,
) -> Result<(), Failure> {
    let name = args.pod.namespace.pod(&args.pod.name)?;
    let before = instance(client, &name).await?;
    let done = order(client, &name, "restart", &json!({})).await?;
    say(&done, &format!("pod {name} starts anew"))?;
    wait(client, screen, &name, &args.wait, |pod| before.is_all_anew(pod)).await
}

/// Takes a pod back to an earlier revision, or ends that.
pub(super) async fn rollback(
    client: &Client,
    screen: Screen,
    args: &RollbackArgs,
) -> Result<(), Failure> {
    let name = args.pod.namespace.pod(&args.pod.name)?;
    let before = instance(client, &name).await?;
    if args.release {
        let done = order(client, &name, "release", &json!({})).await?;
        say(&done, &format!("pod {name} follows its manifest again"))?;
        return wait(client, screen, &name, &args.wait, |pod| is_back(&before, None, pod)).await;
    }
    let done = order(client, &name, "rollback", &json!({ "to": args.to })).await?;
    let number = done.number.map(|number| format!(" to revision {number}")).unwrap_or_default();
    say(&done, &format!("pod {name} is taken back{number}"))?;
    wait(client, screen, &name, &args.wait, |pod| is_back(&before, done.number, pod)).await
}

async fn instance(client: &Client, name: &PodName) -> Result<Instance, Failure> {
    let pod: Option<Pod> = client.find(&pod_path(name)).await?;
    pod.as_ref().map(Instance::of).ok_or_else(|| Failure::not_found(name))
}

async fn order(client: &Client, name: &PodName, what: &str, body: &Value) -> Result<Done, Failure> {
    client.post(&own_path(name, what), body).await.map_err(|failure| failure.about(name))
}

/// The agent's words, or these.
fn say(done: &Done, otherwise: &str) -> Result<(), Failure> {
    let text = if done.message.is_empty() { otherwise } else { &done.message };
    output::print(&format!("{}\n", output::clean_line(text)))
}

async fn wait(
    client: &Client,
    screen: Screen,
    name: &PodName,
    args: &WaitArg,
    has_begun: impl Fn(&Pod) -> bool,
) -> Result<(), Failure> {
    if !args.wait {
        return Ok(());
    }
    let check = |pods: &[Pod]| match pods.last() {
        Some(pod) if !has_begun(pod) => Ok(Step::Waits("not begun yet".to_owned())),
        Some(_) | None => live::ready(name, pods),
    };
    let deadline = Instant::now() + args.timeout;
    let became = live::until(client, screen, name, deadline, check).await?;
    output::print(&format!("pod {name} {became}\n"))
}

/// Whether the pod runs what it was taken back to.
fn is_back(before: &Instance, number: Option<u64>, pod: &Pod) -> bool {
    let generation = pod.metadata.generation;
    let was_there = number == Some(before.generation);
    let is_another = generation != before.generation || before.is_other(pod);
    (was_there || is_another) && pod.status.observed_generation == generation
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kubernetes;
    use crate::api::samples::{context, pod as sample};

    #[test]
    fn a_pod_is_back_when_its_executor_says_so() {
        let old = kubernetes::pod::of(&sample("web", 1), &context());
        let before = Instance::of(&old);
        assert!(!is_back(&before, Some(3), &old));
        assert!(is_back(&before, Some(2), &old), "it has been there already");
        let mut new = old.clone();
        new.metadata.generation = 3;
        assert!(!is_back(&before, Some(3), &new));
        new.status.observed_generation = 3;
        assert!(is_back(&before, Some(3), &new) && is_back(&before, None, &new));
    }

    #[tokio::test]
    async fn a_pod_that_is_not_there_is_known_before_anything_is_ordered() {
        use crate::api::samples::{fake, snapshot};
        let root = tempfile::tempdir().unwrap();
        let fake = fake(snapshot(1, vec![], root.path()));
        let client = Client::serving(root.path(), fake.service);
        let failure = instance(&client, &"web".parse().unwrap()).await.unwrap_err();
        assert!(failure.missing().is_some());
    }
}
