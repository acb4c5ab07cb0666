//! Waiting for pods, with one line on a terminal that says how far it is.
//!
//! The line is on standard error: what is printed when the wait is over can still be piped. Where
//! that is no terminal, nothing is shown.

use std::io::{self, Write as _};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior};

use super::client::Client;
use super::failure::Failure;
use super::get::{instances_path, status, watch_path};
use super::output;
use super::screen::{Screen, Size, Tone};
use super::time;
use crate::api::kubernetes::types::{ContainerState, ContainerStatus, List, Pod};
use crate::ids::PodName;

/// How often the line shows a new time.
const TICK: Duration = Duration::from_secs(1);
/// How long a pod must have been ready without a restart to be called so: what fails as soon as it
/// has read its configuration runs for a moment, too.
const STEADY: Duration = Duration::from_secs(2);

/// How far a wait is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// It is over: what the pod did or became.
    Done(&'static str),
    /// It is over if these runs go on for [`STEADY`].
    Steady {
        /// The instance and the runs of its containers.
        runs: String,
        /// What the pod has become then.
        became: &'static str,
    },
    /// What is still missing.
    Waits(String),
}

/// What a pod is that runs as it should.
pub(super) const READY: &str = "is ready";
/// What a pod did that has ended well.
pub(super) const SUCCEEDED: &str = "has succeeded";
/// What a pod is that was waited for to end.
pub(super) const GONE: &str = "is gone";

/// Waits until `check` of all instances of a pod, the youngest last, says that it is over, but no
/// longer than until the deadline. Returns what the pod did or became.
pub(super) async fn until(
    client: &Client,
    screen: Screen,
    name: &PodName,
    deadline: Instant,
    check: impl FnMut(&[Pod]) -> Result<Step, Failure>,
) -> Result<&'static str, Failure> {
    until_over(client, screen, name, tokio::time::sleep_until(deadline), check).await
}

async fn until_over(
    client: &Client,
    screen: Screen,
    name: &PodName,
    time_is_over: impl Future<Output = ()>,
    mut check: impl FnMut(&[Pod]) -> Result<Step, Failure>,
) -> Result<&'static str, Failure> {
    let mut line = Line::new(screen, name);
    let watched = async {
        let mut watch = client.watch(&watch_path(name)).await?;
        let mut tick = tokio::time::interval_at(Instant::now() + TICK, TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut steady: Option<Steady> = None;
        loop {
            let pods: List<Pod> = client.get(&instances_path(name)).await?;
            steady = match check(&pods.items)? {
                Step::Done(became) => return Ok(became),
                Step::Waits(missing) => {
                    line.missing = missing;
                    None
                }
                Step::Steady { runs, became } => {
                    "ready, if it stays so".clone_into(&mut line.missing);
                    let same = steady.filter(|known| known.runs == runs);
                    let until = || Instant::now() + STEADY;
                    Some(same.unwrap_or_else(|| Steady { runs, became, until: until() }))
                }
            };
            line.draw();
            loop {
                let ends_at = steady.as_ref().map_or_else(Instant::now, |steady| steady.until);
                tokio::select! {
                    // What has come counts before what time has told.
                    biased;
                    // Cancel-safe: what has been read of a change stays in the watch.
                    change = watch.next::<Value>() => { change?; break },
                    // Cancel-safe: the moment is kept.
                    () = tokio::time::sleep_until(ends_at), if steady.is_some() => {
                        return Ok(steady.map_or(READY, |steady| steady.became));
                    }
                    // Cancel-safe: ticks are not lost.
                    _ = tick.tick() => line.draw(),
                }
            }
        }
    };
    tokio::select! {
        // What is over in the last moment is over. Cancel-safe: whoever waits only reads.
        biased;
        ended = watched => ended,
        () = time_is_over => {
            let line = format!("timed out waiting for pod {name}: {}", line.missing);
            let help = format!("`roost describe pod {name}` says more");
            Err(Failure::wrong(line).with_help(help))
        }
    }
}

/// Since when a pod has been as it should be.
struct Steady {
    runs: String,
    became: &'static str,
    until: Instant,
}

/// Whether the youngest instance is as it should be: one that runs for ever is ready and stays so,
/// any other has ended well.
pub(super) fn ready(name: &PodName, pods: &[Pod]) -> Result<Step, Failure> {
    let Some(pod) = pods.last() else {
        return Ok(Step::Waits("there is no such pod yet".to_owned()));
    };
    let is_ready = pod.status.conditions.iter().any(|it| it.kind == "Ready" && it.status == "True");
    let is_ending = pod.metadata.deletion_timestamp.is_some();
    let runs_for_ever = pod.spec["restartPolicy"].as_str().is_none_or(|it| it == "Always");
    match pod.status.phase.as_str() {
        _ if is_ending => {}
        "Succeeded" => return Ok(Step::Done(SUCCEEDED)),
        "Failed" => return Err(failed(name, pod)),
        _ if is_ready && runs_for_ever => {
            return Ok(Step::Steady { runs: runs(pod), became: READY });
        }
        _ => {}
    }
    Ok(Step::Waits(missing(pod)))
}

/// A pod that will not run again, and why.
pub(super) fn failed(name: &PodName, pod: &Pod) -> Failure {
    let ends: Vec<String> =
        pod.status.all_containers().filter_map(|it| bad_end(it, &it.state)).collect();
    let why = if ends.is_empty() { String::new() } else { format!(": {}", ends.join(", ")) };
    let help = format!("`roost logs {name}` and `roost describe pod {name}` may say more");
    let line = output::clean_line(&format!("pod {name} has failed{why}"));
    Failure::wrong(line).with_help(help)
}

/// How a container ended, if not well.
fn bad_end(container: &ContainerStatus, state: &ContainerState) -> Option<String> {
    let ended = state.terminated.as_ref().filter(|ended| ended.exit_code != 0)?;
    let name = &container.name;
    Some(match (&ended.message, ended.reason.as_str()) {
        (Some(message), _) => format!("container {name}: {message}"),
        (None, "Error" | "") => {
            format!("container {name} ended with exit code {}", ended.exit_code)
        }
        (None, reason) => {
            format!("container {name} ended with exit code {} ({reason})", ended.exit_code)
        }
    })
}

/// What tells the runs of a pod's containers from others.
fn runs(pod: &Pod) -> String {
    let ids = pod.status.lasting_containers().filter_map(|it| it.container_id.as_deref());
    std::iter::once(pod.metadata.uid.as_str()).chain(ids).collect::<Vec<_>>().join(" ")
}

/// Where a pod stands that is not ready, in a few words.
pub(super) fn missing(pod: &Pod) -> String {
    let lasting = pod.status.lasting_containers();
    let ready = lasting.clone().filter(|container| container.ready).count();
    let mut text = format!("{} ({ready}/{} ready)", status(pod), lasting.count());
    if let Some(why) = pod.status.message.as_deref().and_then(|why| why.lines().next()) {
        text.push_str(", ");
        text.push_str(why);
    }
    let waiting = pod.status.all_containers().filter(|it| it.state.waiting.is_some());
    for end in waiting.filter_map(|container| bad_end(container, &container.last_state)) {
        text.push_str(", ");
        text.push_str(&end);
    }
    output::clean_line(&text)
}

/// A line on a terminal that is written over itself, and is gone when it is dropped.
struct Line {
    screen: Screen,
    what: String,
    missing: String,
    started: Instant,
    is_drawn: bool,
}

impl Line {
    fn new(screen: Screen, name: &PodName) -> Self {
        let what = format!("waiting for {name}");
        Self { screen, what, missing: String::new(), started: Instant::now(), is_drawn: false }
    }

    fn draw(&mut self) {
        if !self.screen.error_is_live {
            return;
        }
        let text = self.text(Size::of(io::stderr()).columns);
        // Nothing can be done if nobody looks.
        write!(io::stderr(), "{text}").ok();
        self.is_drawn = true;
    }

    /// It must not wrap: what has wrapped can't be written over.
    fn text(&self, columns: usize) -> String {
        let Self { what, missing, started, .. } = self;
        let text = format!("{what}, {}: {missing}", time::span(started.elapsed().as_secs()));
        let text: String = text.chars().take(columns.saturating_sub(1)).collect();
        format!("\r\u{1b}[K{}", Tone::Dim.paint(&text, self.screen.error_colors))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.is_drawn {
            write!(io::stderr(), "\r\u{1b}[K").ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::api::kubernetes;
    use crate::api::kubernetes::types::StateTerminated;
    use crate::api::samples::{context, fake, pod, snapshot};

    fn name() -> PodName {
        "web".parse().unwrap()
    }

    #[tokio::test]
    async fn what_comes_later_is_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let fake = fake(snapshot(1, vec![], root.path()));
        let client = Client::serving(root.path(), fake.service);
        let ended = tokio::spawn(async move {
            let deadline = Instant::now() + Duration::from_secs(60);
            until(&client, Screen::default(), &name(), deadline, |pods| ready(&name(), pods)).await
        });
        tokio::task::yield_now().await;
        assert!(!ended.is_finished());
        let next = snapshot(2, vec![pod("web", 1)], root.path());
        fake.snapshots.send_replace(Arc::new(next));
        ended.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_does_not_come_in_time_is_told_with_where_it_stands() {
        let root = tempfile::tempdir().unwrap();
        let fake = fake(snapshot(1, vec![pod("web", 1)], root.path()));
        let client = Client::serving(root.path(), fake.service);
        let (looked, mut has_looked) = tokio::sync::watch::channel(false);
        let waits = |pods: &[Pod]| {
            looked.send_replace(true);
            Ok(Step::Waits(missing(&pods[0])))
        };
        let over = async { drop(has_looked.wait_for(|looked| *looked).await) };
        let (screen, name) = (Screen::default(), name());
        let failure = until_over(&client, screen, &name, over, waits).await.unwrap_err();
        assert_eq!(
            failure.to_string(),
            "error: timed out waiting for pod default/web: Running (2/2 ready)\n  \
             help: `roost describe pod default/web` says more\n"
        );
    }

    #[test]
    fn an_instance_that_ends_is_not_ready_whatever_it_says() {
        let mut shown = kubernetes::pod::of(&pod("web", 1), &context());
        let steady = ready(&name(), std::slice::from_ref(&shown)).unwrap();
        assert!(matches!(steady, Step::Steady { became: READY, .. }), "{steady:?}");
        shown.metadata.deletion_timestamp = Some("2023-11-14T22:13:20Z".to_owned());
        let waits = ready(&name(), std::slice::from_ref(&shown)).unwrap();
        assert_eq!(waits, Step::Waits("Terminating (2/2 ready)".to_owned()));
        shown.metadata.deletion_timestamp = None;
        shown.status.phase = "Failed".to_owned();
        ready(&name(), &[shown]).unwrap_err();
    }

    #[test]
    fn a_run_once_pod_is_through_when_it_has_succeeded_and_not_while_it_runs() {
        let mut shown = kubernetes::pod::of(&pod("web", 1), &context());
        shown.spec["restartPolicy"] = "OnFailure".into();
        let check = |pod: &Pod| ready(&name(), std::slice::from_ref(pod));
        assert_eq!(check(&shown), Ok(Step::Waits("Running (2/2 ready)".to_owned())));
        shown.status.phase = "Succeeded".to_owned();
        assert_eq!(check(&shown), Ok(Step::Done(SUCCEEDED)));
        shown.status.phase = "Failed".to_owned();
        let ended = StateTerminated {
            exit_code: 3,
            reason: "Error".to_owned(),
            ..StateTerminated::default()
        };
        shown.status.container_statuses[0].state =
            ContainerState { terminated: Some(ended), ..ContainerState::default() };
        let failure = check(&shown).unwrap_err();
        assert!(
            failure.to_string().starts_with(
                "error: pod default/web has failed: container web ended with exit code 3\n"
            ),
            "{failure}"
        );
    }

    #[tokio::test]
    async fn what_crashes_again_at_once_was_not_ready() {
        let root = tempfile::tempdir().unwrap();
        let fake = fake(snapshot(1, vec![pod("web", 1)], root.path()));
        let client = Client::serving(root.path(), fake.service);
        let mut runs = 0;
        let check = |_: &[Pod]| {
            runs += 1;
            let step = Step::Steady { runs: runs.to_string(), became: READY };
            Ok(if runs < 3 { step } else { Step::Done(SUCCEEDED) })
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        let snapshots = fake.snapshots;
        let root = root.path().to_owned();
        let changing = tokio::spawn(async move {
            for version in 2..4_u32 {
                tokio::time::sleep(STEADY / 8).await;
                let next = snapshot(version.into(), vec![pod("web", version)], &root);
                snapshots.send_replace(Arc::new(next));
            }
            snapshots
        });
        let became = until(&client, Screen::default(), &name(), deadline, check).await;
        assert_eq!(became.unwrap(), SUCCEEDED);
        changing.await.unwrap();
    }

    #[tokio::test]
    async fn the_line_fits_the_terminal_and_is_written_over() {
        let mut line = Line::new(Screen::default(), &name());
        line.missing = "Pending (0/1 ready)".to_owned();
        assert_eq!(line.text(80), "\r\u{1b}[Kwaiting for default/web, 0s: Pending (0/1 ready)");
        assert_eq!(line.text(12), "\r\u{1b}[Kwaiting for");
    }
}
