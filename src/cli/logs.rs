//! `roost logs`: what containers printed, passed on as it is.
//!
//! Of several containers each line follows the name of its container. What there is already is
//! merged by time; what is followed is printed as it comes.

use hyper::body::Incoming;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::args::LogsArgs;
use super::client::Client;
use super::failure::Failure;
use super::get::{pod_path, with_query};
use super::output;
use super::screen::{Screen, Tone};
use crate::ids::PodName;

/// Longest line that is kept together; the API passes on longer ones in parts.
const LINE_LEN_MAX: usize = 1 << 20;
/// Lines of all containers that wait to be printed.
const LINES_MAX: usize = 64;
/// One for each container, in turn.
const TONES: [Tone; 4] = [Tone::Hint, Tone::Warning, Tone::Good, Tone::Strong];

/// Prints what containers printed.
pub(super) async fn run(client: &Client, screen: Screen, args: &LogsArgs) -> Result<(), Failure> {
    let name = args.pod.namespace.pod(&args.pod.name)?;
    if args.all_containers {
        return several(client, screen, &name, args).await;
    }
    let container = args.container.as_ref().map(ToString::to_string);
    let path = path(&name, container.as_deref(), args.timestamps, args);
    let mut body = match client.open(&path).await {
        Ok(response) => response.into_body(),
        Err(failure) => return Err(explained(client, &name, args, failure).await),
    };
    while let Some(piece) = client.piece(&mut body).await? {
        output::print_bytes(&piece)?;
    }
    Ok(())
}

fn path(name: &PodName, container: Option<&str>, timestamps: bool, args: &LogsArgs) -> String {
    let LogsArgs { follow, previous, tail, since, .. } = args;
    let flag = |name: &str, is_set: bool| is_set.then(|| format!("{name}=true"));
    with_query(
        &format!("{}/log", pod_path(name)),
        &[
            container.map(|name| format!("container={name}")),
            flag("follow", *follow),
            flag("previous", *previous),
            flag("timestamps", timestamps),
            tail.map(|lines| format!("tailLines={lines}")),
            // The API knows whole seconds; rather a little more than too little.
            since.map(|since| format!("sinceSeconds={}", since.as_millis().div_ceil(1000).max(1))),
        ],
    )
}

/// The failure, with what to type if it is not clear whose log is meant.
async fn explained(client: &Client, name: &PodName, args: &LogsArgs, failure: Failure) -> Failure {
    let failure = failure.about(name);
    if args.container.is_some() || failure.missing().is_some() {
        return failure;
    }
    match containers(client, name).await {
        Ok(names) if names.len() > 1 => failure
            .with_help(format!("`roost logs {name} -c {}` shows one of them", names[0]))
            .with_help("--all-containers shows all"),
        Ok(_) | Err(_) => failure,
    }
}

/// The names of the containers of a pod, in the order of its manifest.
async fn containers(client: &Client, name: &PodName) -> Result<Vec<String>, Failure> {
    let pod: Option<Value> = client.find(&pod_path(name)).await?;
    let pod = pod.ok_or_else(|| Failure::not_found(name))?;
    let statuses = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    Ok(statuses.filter_map(|status| status["name"].as_str()).map(str::to_owned).collect())
}

async fn several(
    client: &Client,
    screen: Screen,
    name: &PodName,
    args: &LogsArgs,
) -> Result<(), Failure> {
    let names = containers(client, name).await?;
    let mut sources = Vec::new();
    let mut refused = None;
    for (at, container) in names.iter().enumerate() {
        // What is merged needs the times.
        let timestamps = args.timestamps || !args.follow;
        let body = match client.open(&path(name, Some(container), timestamps, args)).await {
            Ok(response) => response.into_body(),
            // One that has not run (before) has no log; the others have.
            Err(failure) => {
                refused = Some(failure);
                continue;
            }
        };
        let label = screen.paint(TONES[at % TONES.len()], &format!("[{container}]"));
        sources.push(Source { label, lines: Lines { body: Some(body), buffer: Vec::new() } });
    }
    match refused {
        Some(failure) if sources.is_empty() => return Err(failure.about(name)),
        Some(_) | None => {}
    }
    if args.follow {
        follow(client, sources).await
    } else {
        merge(client, sources, args.timestamps).await
    }
}

/// The log of one container.
struct Source {
    label: String,
    lines: Lines,
}

fn print(label: &str, line: &[u8]) -> Result<(), Failure> {
    let mut out = label.as_bytes().to_vec();
    out.push(b' ');
    out.extend_from_slice(line);
    if !line.ends_with(b"\n") {
        out.push(b'\n');
    }
    output::print_bytes(&out)
}

/// The oldest line first.
async fn merge(client: &Client, sources: Vec<Source>, timestamps: bool) -> Result<(), Failure> {
    let mut heads = Vec::new();
    for mut source in sources {
        if let Some(line) = source.lines.next(client).await? {
            heads.push((line, source));
        }
    }
    // Times are of one form, so that their order as text is their order.
    while let Some(at) = oldest(heads.iter().map(|(line, _)| stamped(line).0)) {
        let (line, source) = &mut heads[at];
        let text = if timestamps { line.as_slice() } else { stamped(line).1 };
        print(&source.label, text)?;
        match source.lines.next(client).await? {
            Some(next) => *line = next,
            None => drop(heads.remove(at)),
        }
    }
    Ok(())
}

/// Where the smallest is; of several the first.
fn oldest<'a>(stamps: impl Iterator<Item = &'a [u8]>) -> Option<usize> {
    stamps.enumerate().min_by_key(|(_, stamp)| *stamp).map(|(at, _)| at)
}

/// The time that a line begins with, and the rest.
fn stamped(line: &[u8]) -> (&[u8], &[u8]) {
    match line.iter().position(|byte| *byte == b' ') {
        Some(at) => (&line[..at], &line[at + 1..]),
        None => (line, &[]),
    }
}

/// As they come, until every container has ended.
async fn follow(client: &Client, sources: Vec<Source>) -> Result<(), Failure> {
    let (sender, mut printed) = mpsc::channel(LINES_MAX);
    // Ends those that still read when this does.
    let mut readers = JoinSet::new();
    let mut labels = Vec::new();
    for (at, Source { label, lines }) in sources.into_iter().enumerate() {
        labels.push(label);
        readers.spawn(read(client.clone(), at, lines, sender.clone()));
    }
    drop(sender);
    while let Some(line) = printed.recv().await {
        let (at, line) = line?;
        print(&labels[at], &line)?;
    }
    Ok(())
}

async fn read(
    client: Client,
    at: usize,
    mut lines: Lines,
    sender: mpsc::Sender<Result<(usize, Vec<u8>), Failure>>,
) {
    loop {
        let line = match lines.next(&client).await {
            Ok(Some(line)) => Ok((at, line)),
            Ok(None) => return,
            Err(failure) => Err(failure),
        };
        let is_last = line.is_err();
        if sender.send(line).await.is_err() || is_last {
            return;
        }
    }
}

/// The lines of a log.
struct Lines {
    /// None when it has ended.
    body: Option<Incoming>,
    buffer: Vec<u8>,
}

impl Lines {
    async fn next(&mut self, client: &Client) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            if let Some(line) = cut(&mut self.buffer) {
                return Ok(Some(line));
            }
            let Some(body) = &mut self.body else {
                let rest = std::mem::take(&mut self.buffer);
                return Ok((!rest.is_empty()).then_some(rest));
            };
            match client.piece(body).await? {
                Some(piece) => self.buffer.extend_from_slice(&piece),
                None => self.body = None,
            }
        }
    }
}

/// Takes the first line out, if all of it, or as much as is kept together, is there.
fn cut(buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let end = buffer.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
    let end = end.or_else(|| (buffer.len() >= LINE_LEN_MAX).then_some(LINE_LEN_MAX))?;
    Some(buffer.drain(..end).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_lines_that_come_next_the_oldest_is_first() {
        let lines: [&[u8]; 3] = [b"2026-01-02T03:04:05.2Z b", b"2026-01-02T03:04:05.1Z a c", b"x"];
        assert_eq!(oldest(lines.iter().map(|line| stamped(line).0)), Some(1));
        assert_eq!(stamped(lines[1]), (&b"2026-01-02T03:04:05.1Z"[..], &b"a c"[..]));
        assert_eq!(oldest(std::iter::empty()), None);
    }

    #[test]
    fn lines_are_cut_where_they_end_and_never_get_too_long() {
        let mut buffer = b"one\ntw".to_vec();
        assert_eq!(cut(&mut buffer).as_deref(), Some(&b"one\n"[..]));
        assert_eq!(cut(&mut buffer), None);
        let mut buffer = vec![b'x'; LINE_LEN_MAX + 1];
        assert_eq!(cut(&mut buffer).unwrap().len(), LINE_LEN_MAX);
        assert_eq!(buffer, b"x");
    }

    #[tokio::test]
    async fn a_pod_of_several_containers_needs_a_name_and_help_says_how() {
        use crate::api::samples::{fake, pod, snapshot};
        use crate::cli::args::{NamespaceArg, PodArgs};
        let root = tempfile::tempdir().unwrap();
        let fake = fake(snapshot(1, vec![pod("web", 1)], root.path()));
        let client = Client::serving(root.path(), fake.service);
        let namespace = NamespaceArg { namespace: None };
        let mut args = LogsArgs {
            pod: PodArgs { name: "web".to_owned(), namespace },
            container: None,
            all_containers: false,
            follow: false,
            previous: false,
            tail: None,
            since: None,
            timestamps: false,
        };
        let failure = run(&client, Screen::default(), &args).await.unwrap_err().to_string();
        assert!(failure.contains("choose one of: [web sidecar]"), "{failure}");
        assert!(failure.contains("-c web` shows one of them"), "{failure}");
        assert!(failure.contains("--all-containers shows all"), "{failure}");
        args.pod.name = "other".to_owned();
        let failure = run(&client, Screen::default(), &args).await.unwrap_err();
        assert!(failure.missing().is_some());
    }
}
