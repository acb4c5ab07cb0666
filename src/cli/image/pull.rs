//! `roost image pull`: all images at once, with a line for each on a terminal.
//!
//! The lines are on standard error; what came of it is on standard output, a line for each image.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::{PATH, all_told, bytes, familiar, short_id};
use crate::cli::answers::{Got, Items, Pull};
use crate::cli::args::PullArgs;
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::cli::screen::{Screen, Size};
use crate::provisioner::reference::ImageSource;

/// How often the lines are drawn.
const TICK: Duration = Duration::from_millis(250);

/// Pulls images.
pub(in crate::cli) async fn run(
    client: &Client,
    screen: Screen,
    args: &PullArgs,
) -> Result<(), Failure> {
    let mut pulls = JoinSet::new();
    let mut waiting: BTreeMap<String, String> = BTreeMap::new();
    for name in &args.names {
        let source: ImageSource =
            name.parse().map_err(|error| Failure::wrong(format!("{error}")))?;
        if waiting.insert(source.to_string(), source.familiar()).is_some() {
            continue;
        }
        if !screen.error_is_live {
            output::note(&format!("pulling {}", output::clean_line(&source.familiar())));
        }
        let client = client.clone();
        pulls.spawn(async move {
            let source = source.to_string();
            let body = json!({ "source": &source });
            let got: Result<Got, Failure> =
                client.post_patiently(&format!("{PATH}/pull"), &body).await;
            (source, got)
        });
    }
    let mut lines = Lines { is_live: screen.error_is_live, drawn: 0 };
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failures = Vec::new();
    loop {
        tokio::select! {
            // Cancel-safe: a task that has ended is not lost.
            done = pulls.join_next() => {
                let Some(done) = done else { break };
                let (source, got) =
                    done.map_err(|error| Failure::wrong(format!("a pull broke off: {error}")))?;
                waiting.remove(&source);
                lines.erase();
                match got {
                    Ok(got) => output::print(&done_text(&source, &got))?,
                    Err(failure) if failure.is_unreachable() => return Err(failure),
                    Err(failure) => failures.push(failure),
                }
            }
            // Cancel-safe: ticks are not lost, and a question that was not answered is asked again.
            answer = progress(client, &mut tick), if screen.error_is_live => {
                lines.draw(&texts(&waiting, &answer));
            }
        }
    }
    all_told(failures)
}

/// How far all pulls are at the next tick. What can't be asked for is not shown: the pulls
/// themselves will say why.
async fn progress(client: &Client, tick: &mut tokio::time::Interval) -> Vec<Pull> {
    tick.tick().await;
    let answer: Result<Items<Pull>, Failure> = client.get(&format!("{PATH}/pulls")).await;
    answer.map(|answer| answer.items).unwrap_or_default()
}

/// A line for each image that is waited for.
pub(super) fn texts(waiting: &BTreeMap<String, String>, pulls: &[Pull]) -> Vec<String> {
    let text = |(source, name): (&String, &String)| {
        let pull = pulls.iter().find(|pull| pull.source == *source);
        let how = pull.map_or_else(|| "waits".to_owned(), progress_text);
        output::clean_line(&format!("{name}: {how}"))
    };
    waiting.iter().map(text).collect()
}

/// How far a pull is, in words.
pub(in crate::cli) fn progress_text(pull: &Pull) -> String {
    let Pull { phase, layers_done, layers_total, bytes_done, bytes_total, .. } = pull;
    match phase.as_str() {
        "Resolving" => "asks what it is".to_owned(),
        "Finishing" => "makes it durable".to_owned(),
        _ => {
            let percent = (*bytes_total > 0).then(|| {
                format!(" ({}%)", u128::from(*bytes_done) * 100 / u128::from(*bytes_total))
            });
            format!(
                "{} of {}{}, {layers_done} of {layers_total} layers",
                bytes(*bytes_done),
                bytes(*bytes_total),
                percent.unwrap_or_default()
            )
        }
    }
}

pub(super) fn done_text(source: &str, got: &Got) -> String {
    let text = format!("{} {}: {}", familiar(source), short_id(&got.id), got.message);
    output::clean_line(&text) + "\n"
}

/// The lines at the end of a terminal.
struct Lines {
    is_live: bool,
    drawn: usize,
}

impl Lines {
    fn draw(&mut self, texts: &[String]) {
        let Size { rows, columns } = Size::of(std::io::stderr());
        let mut out = self.up();
        // What does not fit is not drawn: a line that scrolled away can't be erased.
        for text in texts.iter().take(rows.saturating_sub(1)) {
            out.extend(text.chars().take(columns.saturating_sub(1)));
            out.push('\n');
        }
        self.drawn = texts.len().min(rows.saturating_sub(1));
        write!(std::io::stderr(), "{out}").ok();
    }

    fn erase(&mut self) {
        if self.is_live && self.drawn > 0 {
            let out = self.up();
            self.drawn = 0;
            write!(std::io::stderr(), "{out}").ok();
        }
    }

    /// To the first line, and everything below gone (ECMA-48: CPL, ED).
    fn up(&self) -> String {
        if self.drawn == 0 { String::new() } else { format!("\u{1b}[{}F\u{1b}[J", self.drawn) }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.erase();
    }
}
