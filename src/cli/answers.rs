//! What the agent answers under `/roost/v1`, as far as it is shown. Unknown fields are passed
//! over: an agent may be newer than this program.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// Several things.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Items<T> {
    pub(super) items: Vec<T>,
}

/// What the agent would do, and what is wrong in its manifests.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Plan {
    pub(super) items: Vec<PlanItem>,
    #[serde(default)]
    pub(super) faults: Vec<Fault>,
}

/// What the agent would do for a pod.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PlanItem {
    pub(super) pod: String,
    #[serde(default)]
    pub(super) actions: Vec<PlanAction>,
    /// Why it does nothing, or not more, now.
    #[serde(default)]
    pub(super) waits: Option<String>,
    /// The revision that it was rolled back to, while that keeps it from following its manifest.
    #[serde(default)]
    pub(super) held_at: Option<u64>,
}

/// One step.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct PlanAction {
    pub(super) action: String,
    #[serde(default)]
    pub(super) reason: String,
}

/// What manifests would change.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Difference {
    pub(super) items: Vec<DifferenceItem>,
    #[serde(default)]
    pub(super) faults: Vec<Fault>,
}

/// What would change of a pod.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DifferenceItem {
    pub(super) pod: String,
    pub(super) change: Change,
    /// Those that are concerned, if not all are.
    #[serde(default)]
    pub(super) containers: Vec<String>,
    #[serde(default)]
    pub(super) before: Value,
    #[serde(default)]
    pub(super) after: Value,
    /// The revision that it was rolled back to, if that keeps it from following its manifest.
    #[serde(default)]
    pub(super) held_at: Option<u64>,
}

/// How far a change goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Change {
    Create,
    Replace,
    Restart,
    Update,
    Delete,
    None,
}

/// Something wrong, or worth a word, in a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Fault {
    pub(super) file: Option<String>,
    /// The pod that it is about, if that can be told.
    pub(super) pod: Option<String>,
    pub(super) severity: String,
    pub(super) position: Place,
    pub(super) path: String,
    pub(super) message: String,
    pub(super) help: Option<String>,
    /// The line with the place marked.
    pub(super) snippet: Option<Snippet>,
}

/// A place in a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Place {
    pub(super) line: u32,
    pub(super) column: u32,
}

/// A line of a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Snippet {
    pub(super) text: String,
    /// Characters before the mark.
    pub(super) before: usize,
    pub(super) marked: usize,
}

/// A manifest lies in its directory.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Placed {
    pub(super) directory: String,
    pub(super) file: String,
    pub(super) pods: Vec<String>,
    pub(super) warnings: Vec<Value>,
}

/// Something was done.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Done {
    pub(super) message: String,
    /// Of the revision, after a rollback.
    pub(super) number: Option<u64>,
}

/// A revision that is kept.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Revision {
    pub(super) number: u64,
    pub(super) digest: String,
    pub(super) accepted_at: String,
    pub(super) source: String,
    pub(super) current: bool,
}

/// What is used, at one moment.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Stats {
    pub(super) node: NodeStats,
    pub(super) pods: Vec<PodStats>,
}

/// What the machine has, and how much of it is spoken for.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct NodeStats {
    pub(super) cpu_millis: u64,
    pub(super) memory_bytes: u64,
    pub(super) reserved_cpu_millis: u64,
    pub(super) reserved_memory_bytes: u64,
    pub(super) requested_cpu_millis: u64,
    pub(super) requested_memory_bytes: u64,
}

/// What a pod uses.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct PodStats {
    pub(super) pod: String,
    pub(super) uid: String,
    pub(super) containers: Vec<ContainerStats>,
}

/// What a container uses.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ContainerStats {
    pub(super) name: String,
    /// Since it began.
    pub(super) cpu_nanos: u64,
    pub(super) memory_bytes: u64,
    pub(super) memory_limit_bytes: Option<u64>,
    pub(super) pids: u64,
}

/// The images of the node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Images {
    pub(super) items: Vec<Image>,
}

/// An image of the node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Image {
    pub(super) id: String,
    pub(super) manifest: String,
    pub(super) names: Vec<String>,
    pub(super) size: u64,
    pub(super) pinned: bool,
    pub(super) made: String,
    pub(super) used: Option<String>,
    pub(super) used_by: Vec<String>,
}

/// How far a pull is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Pull {
    pub(super) source: String,
    pub(super) phase: String,
    pub(super) layers_done: u32,
    pub(super) layers_total: u32,
    pub(super) bytes_done: u64,
    pub(super) bytes_total: u64,
}

/// An image was got.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Got {
    pub(super) id: String,
    pub(super) names: Vec<String>,
    pub(super) message: String,
}

/// Images were collected.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Pruned {
    pub(super) images: Vec<String>,
    pub(super) freed_bytes: u64,
}

/// By pod and container.
pub(super) type CpuNanos = BTreeMap<(String, String), u64>;

impl Fault {
    /// As `roost validate` shows it.
    pub(super) fn text(&self) -> String {
        let Self { file, pod: _, severity, position, path, message, help, snippet } = self;
        let file = file.as_ref().map(|file| format!("{file}:")).unwrap_or_default();
        let Place { line, column } = position;
        let path = if path.is_empty() { String::new() } else { format!("{path}: ") };
        let help = help.as_ref().map(|help| format!("\n  help: {help}")).unwrap_or_default();
        let snippet = snippet.as_ref().map(|it| it.text_at(*line)).unwrap_or_default();
        format!("{file}{line}:{column}: {severity}: {path}{message}{snippet}{help}")
    }

    /// Whether its document is refused for it.
    pub(super) fn is_error(&self) -> bool {
        self.severity != "warning"
    }
}

impl Snippet {
    /// Two lines below the message.
    fn text_at(&self, line: u32) -> String {
        let Self { text, before, marked } = self;
        let margin = line.to_string().len();
        // No line is that long; an agent that says so is not believed.
        let (before, marked) = ((*before).min(text.len()), (*marked).clamp(1, text.len().max(1)));
        let mark = "^".repeat(marked);
        format!("\n  {line} | {text}\n  {:margin$} | {:before$}{mark}", "", "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diagnostics_of_this_program_s_agent_are_understood() {
        use crate::manifest::diagnostic::{Diagnostic, Position};
        let position = Position { line: 3, column: 5 };
        let sample = Diagnostic::error(position, "spec.x", "is wrong").with_help("mend it");
        let mut value = serde_json::to_value(&sample).unwrap();
        value["file"] = "web.yaml".into();
        let fault: Fault = serde_json::from_value(value).unwrap();
        assert!(fault.is_error());
        assert_eq!(fault.text(), "web.yaml:3:5: error: spec.x: is wrong\n  help: mend it");
        let snippet = Snippet { text: "  x: 1".to_owned(), before: 2, marked: 1 };
        let fault = Fault { snippet: Some(snippet), ..fault };
        insta::assert_snapshot!(fault.text(), @r"
        web.yaml:3:5: error: spec.x: is wrong
          3 |   x: 1
            |   ^
          help: mend it
        ");
    }
}
