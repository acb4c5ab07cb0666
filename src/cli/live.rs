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
use crate::api::kubernetes::types::{List, Pod};
use crate::ids::PodName;

/// How often the line shows a new time.
const TICK: Duration = Duration::from_secs(1);

/// How far a wait is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// It is over.
    Done,
    /// What is still missing.
    Waits(String),
}

/// Waits until `check` of all instances of a pod, the youngest last, says that it is over, but no
/// longer than until the deadline.
pub(super) async fn until(
    client: &Client,
    screen: Screen,
    name: &PodName,
    deadline: Instant,
    mut check: impl FnMut(&[Pod]) -> Result<Step, Failure>,
) -> Result<(), Failure> {
    let mut line = Line::new(screen, name);
    let watched = async {
        let mut watch = client.watch(&watch_path(name)).await?;
        let mut tick = tokio::time::interval_at(Instant::now() + TICK, TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let pods: List<Pod> = client.get(&instances_path(name)).await?;
            match check(&pods.items)? {
                Step::Done => return Ok(()),
                Step::Waits(missing) => line.missing = missing,
            }
            line.draw();
            loop {
                tokio::select! {
                    // Cancel-safe: what has been read of a change stays in the watch.
                    change = watch.next::<Value>() => { change?; break },
                    // Cancel-safe: ticks are not lost.
                    _ = tick.tick() => line.draw(),
                }
            }
        }
    };
    match tokio::time::timeout_at(deadline, watched).await {
        Ok(ended) => ended,
        Err(_) => {
            let line = format!("timed out waiting for pod {name}: {}", line.missing);
            let help = format!("`roost describe pod {name}` says more");
            Err(Failure::wrong(line).with_help(help))
        }
    }
}

/// Whether the youngest instance runs and is ready, or has ended well.
pub(super) fn ready(name: &PodName, pods: &[Pod]) -> Result<Step, Failure> {
    let Some(pod) = pods.last() else {
        return Ok(Step::Waits("there is no such pod yet".to_owned()));
    };
    let is_ready = pod.status.conditions.iter().any(|it| it.kind == "Ready" && it.status == "True");
    let is_ending = pod.metadata.deletion_timestamp.is_some();
    match pod.status.phase.as_str() {
        _ if is_ending => {}
        "Succeeded" => return Ok(Step::Done),
        "Failed" => {
            let help = format!("`roost logs {name}` and `roost describe pod {name}` may say why");
            return Err(Failure::wrong(format!("pod {name} has failed")).with_help(help));
        }
        _ if is_ready => return Ok(Step::Done),
        _ => {}
    }
    Ok(Step::Waits(missing(pod)))
}

/// Where a pod stands that is not ready, in a few words.
pub(super) fn missing(pod: &Pod) -> String {
    let containers = &pod.status.container_statuses;
    let ready = containers.iter().filter(|container| container.ready).count();
    let mut text = format!("{} ({ready}/{} ready)", status(pod), containers.len());
    if let Some(why) = pod.status.message.as_deref().and_then(|why| why.lines().next()) {
        text.push_str(", ");
        text.push_str(why);
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
        let waits = |pods: &[Pod]| Ok(Step::Waits(missing(&pods[0])));
        let deadline = Instant::now() + Duration::from_millis(100);
        let failure =
            until(&client, Screen::default(), &name(), deadline, waits).await.unwrap_err();
        assert_eq!(
            failure.to_string(),
            "error: timed out waiting for pod default/web: Running (2/2 ready)\n  \
             help: `roost describe pod default/web` says more\n"
        );
    }

    #[test]
    fn an_instance_that_ends_is_not_ready_whatever_it_says() {
        let mut shown = kubernetes::pod::of(&pod("web", 1), &context());
        assert_eq!(ready(&name(), std::slice::from_ref(&shown)), Ok(Step::Done));
        shown.metadata.deletion_timestamp = Some("2023-11-14T22:13:20Z".to_owned());
        let waits = ready(&name(), std::slice::from_ref(&shown)).unwrap();
        assert_eq!(waits, Step::Waits("Terminating (2/2 ready)".to_owned()));
        shown.metadata.deletion_timestamp = None;
        shown.status.phase = "Failed".to_owned();
        ready(&name(), &[shown]).unwrap_err();
    }

    #[tokio::test]
    async fn the_line_fits_the_terminal_and_is_written_over() {
        let mut line = Line::new(Screen::default(), &name());
        line.missing = "Pending (0/1 ready)".to_owned();
        assert_eq!(line.text(80), "\r\u{1b}[Kwaiting for default/web, 0s: Pending (0/1 ready)");
        assert_eq!(line.text(12), "\r\u{1b}[Kwaiting for");
    }
}
