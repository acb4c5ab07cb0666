//! `roost apply`: puts manifest files into the manifest directory, if nothing is wrong with any of
//! them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize as _;
use serde_json::Value;
use tokio::time::Instant;

use super::advice::name_of;
use super::answers::{Change, Difference, Fault, Placed};
use super::args::ApplyArgs;
use super::client::Client;
use super::diff;
use super::failure::Failure;
use super::files::{self, Manifest};
use super::get::{encoded, pods_path, understood};
use super::live::{self, Step};
use super::output;
use super::screen::{Screen, Tone};
use crate::api::kubernetes::pod::SOURCE_ANNOTATION;
use crate::api::kubernetes::types::{List, Pod};
use crate::ids::PodName;

/// Applies files.
pub(super) async fn run(client: &Client, screen: Screen, args: &ApplyArgs) -> Result<(), Failure> {
    let deadline = Instant::now() + args.wait.timeout;
    let mut files = files::read(&args.files.paths())?;
    files::check(screen, &files)?;
    let before: Value = client.get(&pods_path(None)).await?;
    let before = Before::of(&understood::<List<Pod>>(&before)?.items);
    for file in &mut files {
        let place = before.place(file)?;
        file.file = Some(place);
    }
    unique(&files)?;
    let difference: Difference = understood(&diff::ask(client, &files).await?)?;
    diff::tell(&files, &difference.faults)?;
    if !args.prune {
        keep_all(&difference)?;
    }
    let mut sources = BTreeMap::new();
    for file in &files {
        let placed = put(client, screen, file, args.prune).await?;
        let source = format!("{}/{}", placed.directory, placed.file);
        sources.extend(placed.pods.into_iter().map(|pod| (pod, source.clone())));
    }
    let (mut changes, mut is_held) = (Vec::new(), false);
    for item in &difference.items {
        let name: PodName = item.pod.parse().map_err(|error| {
            Failure::unreachable(format!("the agent's answer can't be understood: {error}"))
        })?;
        let source = sources.get(&item.pod).map(|source| format!(" ({source})"));
        let line = format!("pod {name} {}{}", done(item.change), source.unwrap_or_default());
        output::print(&format!("{}\n", output::clean_line(&line)))?;
        if let Some(revision) = item.held_at {
            let label = Tone::Warning.paint("warning:", screen.error_colors);
            let text = output::clean(&diff::held_text(&item.pod, revision));
            output::note(&format!("{label} {text}"));
            is_held = true;
            continue;
        }
        changes.push((name, item.change));
    }
    if !args.wait.wait {
        return Ok(());
    }
    for (name, change) in changes {
        let check = |pods: &[Pod]| settled(&name, change, before.pods.get(&name), pods);
        let became = live::until(client, screen, &name, deadline, check).await?;
        output::print(&format!("pod {name} {became}\n"))?;
    }
    // What was applied does not run.
    if is_held { Err(Failure::told()) } else { Ok(()) }
}

/// Puts a file into its place.
async fn put(
    client: &Client,
    screen: Screen,
    file: &Manifest,
    prune: bool,
) -> Result<Placed, Failure> {
    let place = file.file.as_deref().unwrap_or_default();
    let path = format!("/roost/v1/manifests/{}?prune={prune}", encoded(place));
    let placed: Placed = client.put(&path, file.text.clone()).await?;
    for warning in &placed.warnings {
        let text = warning.as_str().map(str::to_owned).unwrap_or_else(|| {
            Fault::deserialize(warning).map_or_else(|_| warning.to_string(), |it| it.text())
        });
        // What this program saw has been said.
        if file.parsed.diagnostics.is_empty() {
            let label = Tone::Warning.paint("warning:", screen.error_colors);
            output::note(&format!("{label} {}", output::clean(&text)));
        }
    }
    Ok(placed)
}

/// Refuses to end pods that nobody spoke of.
fn keep_all(difference: &Difference) -> Result<(), Failure> {
    let ending = difference.items.iter().filter(|item| item.change == Change::Delete);
    let ending: Vec<&str> = ending.map(|item| item.pod.as_str()).collect();
    if ending.is_empty() {
        return Ok(());
    }
    let line = format!("pods would end that the file has now: {}", ending.join(", "));
    Err(Failure::wrong(line).with_help("`--prune` applies it all the same; nothing was changed"))
}

/// Two files that would lie in one place.
fn unique(files: &[Manifest]) -> Result<(), Failure> {
    let mut places = BTreeSet::new();
    for file in files {
        let place = file.file.as_deref().unwrap_or_default();
        if !places.insert(place) {
            let line = format!("two of the files are named {place}: one would replace the other");
            return Err(Failure::usage(line).with_help("apply them one after the other, renamed"));
        }
    }
    Ok(())
}

/// What has been done, in the words of `kubectl apply`.
fn done(change: Change) -> &'static str {
    match change {
        Change::Create => "created",
        Change::Replace => "configured, all of it starts anew",
        Change::Restart => "configured, changed containers start anew",
        Change::Update => "configured as it runs",
        Change::Delete => "deleted",
        Change::None => "unchanged",
    }
}

/// The pods before anything was changed.
pub(super) struct Before {
    pub(super) pods: BTreeMap<PodName, Instance>,
}

/// What tells an instance and what it runs from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Instance {
    uid: String,
    pub(super) generation: u64,
    /// The run of each container.
    runs: BTreeMap<String, Option<String>>,
    source: String,
}

impl Instance {
    pub(super) fn of(pod: &Pod) -> Self {
        let runs = pod.status.lasting_containers();
        Self {
            uid: pod.metadata.uid.clone(),
            generation: pod.metadata.generation,
            runs: runs.map(|it| (it.name.clone(), it.container_id.clone())).collect(),
            source: pod.metadata.annotations.get(SOURCE_ANNOTATION).cloned().unwrap_or_default(),
        }
    }

    /// Whether this is an instance that came later.
    pub(super) fn is_other(&self, pod: &Pod) -> bool {
        pod.metadata.uid != self.uid
    }

    /// Whether none of the runs from then goes on.
    pub(super) fn is_all_anew(&self, pod: &Pod) -> bool {
        self.is_other(pod)
            || pod.status.lasting_containers().all(|container| {
                self.runs.get(&container.name).is_none_or(|run| *run != container.container_id)
            })
    }
}

impl Before {
    /// Of several instances of a pod the youngest counts, which comes last.
    pub(super) fn of(pods: &[Pod]) -> Self {
        let instance = |pod: &Pod| Some((name_of(pod)?, Instance::of(pod)));
        Self { pods: pods.iter().filter_map(instance).collect() }
    }

    /// The name that a file gets in the manifest directory: its own. What comes from standard input
    /// gets that of the file which has the very same pods, or that of its first pod.
    fn place(&self, file: &Manifest) -> Result<String, Failure> {
        if let Some(name) = &file.file {
            return Ok(name.clone());
        }
        let pods: BTreeSet<&PodName> = file.pods().collect();
        let Some(first) = file.pods().next() else {
            return Err(Failure::wrong(format!("there is no pod in {}", file.name)));
        };
        if let Some(Instance { source, .. }) = self.pods.get(first) {
            let is_of = |(_, instance): &(&PodName, &Instance)| instance.source == *source;
            let there: BTreeSet<&PodName> =
                self.pods.iter().filter(is_of).map(|(name, _)| name).collect();
            if let Some((_, last)) = source.rsplit_once('/').filter(|_| there == pods) {
                return Ok(last.to_owned());
            }
        }
        let is_json = file.text.trim_ascii_start().starts_with(b"{");
        let ending = if is_json { "json" } else { "yaml" };
        let PodName { namespace, name } = first;
        Ok(match namespace.as_str() {
            "default" => format!("{name}.{ending}"),
            namespace => format!("{namespace}_{name}.{ending}"),
        })
    }
}

/// Whether a change is through.
fn settled(
    name: &PodName,
    change: Change,
    before: Option<&Instance>,
    pods: &[Pod],
) -> Result<Step, Failure> {
    let waits = |text: &str| Ok(Step::Waits(text.to_owned()));
    let Some(pod) = pods.last() else {
        return if change == Change::Delete {
            Ok(Step::Done(live::GONE))
        } else {
            waits("not begun yet")
        };
    };
    let is_taken_up = match (change, before) {
        (Change::Delete, _) => return Ok(Step::Waits(live::missing(pod))),
        (Change::None, _) | (_, None) => true,
        (Change::Create | Change::Replace, Some(before)) => before.is_other(pod),
        (Change::Restart | Change::Update, Some(before)) => {
            let meta = &pod.metadata;
            let is_newer = meta.generation != before.generation;
            before.is_other(pod) || (is_newer && pod.status.observed_generation == meta.generation)
        }
    };
    if is_taken_up { live::ready(name, pods) } else { waits("not begun yet") }
}

#[cfg(test)]
mod tests;
