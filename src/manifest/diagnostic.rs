//! [`Diagnostic`]: one thing that is wrong, or worth a word, in a manifest, and where.
//!
//! Every fault of a file is collected, up to a limit, so that one edit can mend them all. Not
//! here: what is a fault (`manifest::decode`), and where a diagnostic is shown.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use crate::ids::PodName;

/// Diagnostics of one file, of each severity; the rest is counted.
pub const DIAGNOSTICS_MAX: usize = 100;
/// Longest message, path or help in characters: names in a manifest may be a megabyte long.
const TEXT_LEN_MAX: usize = 600;
/// Longest piece of a manifest quoted in a message, in characters.
const QUOTE_LEN_MAX: usize = 60;

/// A place in a file: line and column in characters, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// The line, from 1.
    pub line: u32,
    /// The character in the line, from 1.
    pub column: u32,
}

impl Position {
    /// The first character of a file.
    pub const START: Self = Self { line: 1, column: 1 };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Whether the document can be used in spite of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The document is refused.
    Error,
    /// The document is used.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One fault or warning. Its text is safe to print: no control characters, of bounded length.
///
/// `Display` is `12:9: error: spec.hostPID: message`, then the line of the manifest with the place
/// marked, then the help;
/// [`Diagnostic::in_file`] puts the file's name before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Diagnostic {
    /// Whether the document is refused for it.
    pub severity: Severity,
    /// Where in the file.
    pub position: Position,
    /// The pod of the document, where its name could be read.
    pub pod: Option<PodName>,
    /// The field, as in `spec.containers[0].image`; empty for the document itself.
    pub path: String,
    /// What is wrong, and what is allowed.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
    /// The line with the place marked; none where a secret may stand in it.
    pub snippet: Option<Snippet>,
}

/// A line of a manifest, or a part of a long one, with a place in it marked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snippet {
    /// The text, without control characters.
    pub text: String,
    /// Characters before the mark.
    pub before: usize,
    /// Characters marked, at least 1.
    pub marked: usize,
}

/// A diagnostic as tools get it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDiagnostic {
    /// The file's name.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// The character in the line, from 1.
    pub column: u32,
    /// Whether the document is refused for it.
    pub severity: Severity,
    /// The pod of the document, where its name could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
    /// The field; empty for the document itself.
    pub path: String,
    /// What is wrong, and what is allowed.
    pub message: String,
    /// What to write instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error at a place.
    #[must_use]
    pub fn error(position: Position, path: &str, message: &str) -> Self {
        Self {
            severity: Severity::Error,
            position,
            pod: None,
            path: printable(path, TEXT_LEN_MAX),
            message: printable(message, TEXT_LEN_MAX),
            help: None,
            snippet: None,
        }
    }

    /// A warning at a place.
    #[must_use]
    pub fn warning(position: Position, path: &str, message: &str) -> Self {
        Self { severity: Severity::Warning, ..Self::error(position, path, message) }
    }

    /// The same, with advice.
    #[must_use]
    pub fn with_help(mut self, help: &str) -> Self {
        self.help = Some(printable(help, TEXT_LEN_MAX));
        self
    }

    /// Whether the document is refused for it.
    #[must_use]
    pub fn is_error(&self) -> bool {
        match self.severity {
            Severity::Error => true,
            Severity::Warning => false,
        }
    }

    /// The diagnostic as tools get it.
    #[must_use]
    pub fn for_tools(&self, file: &str) -> FileDiagnostic {
        let Self { severity, position, pod, path, message, help, snippet: _ } = self;
        FileDiagnostic {
            file: file.to_owned(),
            line: position.line,
            column: position.column,
            severity: *severity,
            pod: pod.clone(),
            path: path.clone(),
            message: message.clone(),
            help: help.clone(),
        }
    }

    /// The diagnostic as text, after the name of its file.
    #[must_use]
    pub fn in_file<'a>(&'a self, file: &'a dyn fmt::Display) -> InFile<'a> {
        InFile { file, diagnostic: self }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: ", self.position, self.severity)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if let Some(Snippet { text, before, marked }) = &self.snippet {
            let line = self.position.line;
            let margin = line.to_string().len();
            let mark = "^".repeat(*marked);
            write!(f, "\n  {line} | {text}\n  {:margin$} | {:before$}{mark}", "", "")?;
        }
        match &self.help {
            Some(help) => write!(f, "\n  help: {help}"),
            None => Ok(()),
        }
    }
}

/// A diagnostic with the name of its file: `pods.d/web.yaml:12:9: error: …`.
pub struct InFile<'a> {
    file: &'a dyn fmt::Display,
    diagnostic: &'a Diagnostic,
}

impl fmt::Display for InFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.diagnostic)
    }
}

impl fmt::Debug for InFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The faults of one file while it is read.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Whether fields that nobody knows are errors.
    strict: bool,
    errors: Kept,
    warnings: Kept,
}

/// Diagnostics of one severity: the first ones, and how many more there were.
#[derive(Debug, Default)]
struct Kept {
    first: Vec<Diagnostic>,
    dropped: usize,
}

impl Kept {
    fn count(&self) -> usize {
        self.first.len() + self.dropped
    }
}

/// How much had been found at some moment: see [`Faults::mark`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    errors: usize,
    warnings: usize,
}

impl Faults {
    /// None so far. Fields that nobody knows are errors if it is `strict`, else warnings.
    pub(crate) fn new(strict: bool) -> Self {
        Self { strict, ..Self::default() }
    }

    /// How much a field weighs that nobody knows.
    pub(crate) fn of_unknown(&self) -> Severity {
        if self.strict { Severity::Error } else { Severity::Warning }
    }

    /// Adds one.
    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        let kept = match diagnostic.severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        if kept.first.len() < DIAGNOSTICS_MAX {
            kept.first.push(diagnostic);
        } else {
            kept.dropped += 1;
        }
    }

    /// Whether more of that severity are only counted, so that their advice need not be worked out.
    pub(crate) fn is_full(&self, severity: Severity) -> bool {
        let kept = match severity {
            Severity::Error => &self.errors,
            Severity::Warning => &self.warnings,
        };
        kept.first.len() >= DIAGNOSTICS_MAX
    }

    /// What has been found so far, to compare with later.
    pub(crate) fn mark(&self) -> Mark {
        Mark { errors: self.errors.count(), warnings: self.warnings.count() }
    }

    /// Whether there was an error since then.
    pub(crate) fn any_error_since(&self, mark: Mark) -> bool {
        self.errors.count() > mark.errors
    }

    /// Says of what was found since then that it belongs to this pod.
    pub(crate) fn attribute_since(&mut self, mark: Mark, pod: &PodName) {
        for (kept, from) in [(&mut self.errors, mark.errors), (&mut self.warnings, mark.warnings)] {
            for diagnostic in kept.first.iter_mut().skip(from) {
                diagnostic.pod.get_or_insert_with(|| pod.clone());
            }
        }
    }

    /// All of them in the order of the file; what was left out is said at the end.
    pub(crate) fn into_diagnostics(self) -> Vec<Diagnostic> {
        let Self { strict: _, errors, warnings } = self;
        let mut rest = Vec::new();
        for (kept, name) in [(&errors, "errors"), (&warnings, "warnings")] {
            if let Some(last) = kept.first.last().filter(|_| kept.dropped > 0) {
                let message = format!("{} more {name} are not shown", kept.dropped);
                rest.push(Diagnostic {
                    severity: last.severity,
                    ..Diagnostic::error(last.position, "", &message)
                });
            }
        }
        let mut all: Vec<Diagnostic> = errors.first.into_iter().chain(warnings.first).collect();
        all.sort_by_key(|diagnostic| diagnostic.position);
        all.extend(rest);
        all
    }
}

/// A piece of a manifest as it is quoted in messages: in backticks, shortened.
pub(crate) fn quote(text: &str) -> String {
    format!("`{}`", printable(text, QUOTE_LEN_MAX))
}

/// Adds a field to a path: `spec` + `hostPID`; keys that are no identifiers go into brackets.
pub(crate) fn push_field(path: &mut String, name: &str) {
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-$".contains(&b)) {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(name);
    } else {
        path.push('[');
        path.push_str(name);
        path.push(']');
    }
}

/// Adds an item of a list to a path.
pub(crate) fn push_index(path: &mut String, index: usize) {
    write!(path, "[{index}]").expect("writing to a string cannot fail");
}

/// Text with control and direction-changing characters escaped, cut to a length: what stands in
/// a manifest must not be able to drive the terminal that shows it.
fn printable(text: &str, len_max: usize) -> String {
    let mut out = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == len_max {
            out.push('…');
            break;
        }
        if steers(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Whether a character does something to a terminal other than to show itself.
pub(super) fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2028}' | '\u{2029}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Position = Position { line: 12, column: 9 };

    #[test]
    fn a_diagnostic_is_shown_with_file_place_field_and_help() {
        let diagnostic = Diagnostic::error(HERE, "spec.hostPID", "wrong").with_help("mend it");
        assert_eq!(
            diagnostic.in_file(&"pods.d/web.yaml").to_string(),
            "pods.d/web.yaml:12:9: error: spec.hostPID: wrong\n  help: mend it"
        );
        let diagnostic = Diagnostic::warning(HERE, "", "odd");
        assert_eq!(diagnostic.to_string(), "12:9: warning: odd");
    }

    #[test]
    fn what_stands_in_a_manifest_cannot_drive_the_terminal() {
        let diagnostic = Diagnostic::error(HERE, "a\u{1b}[2J", "b\u{202e}\nc");
        assert_eq!(diagnostic.to_string(), "12:9: error: a\\u{1b}[2J: b\\u{202e}\\nc");
        assert_eq!(quote(&"x".repeat(1000)).chars().count(), QUOTE_LEN_MAX + 3);
    }

    #[test]
    fn faults_over_the_limit_are_counted_and_warnings_do_not_displace_errors() {
        let mut faults = Faults::default();
        for _ in 0..DIAGNOSTICS_MAX + 7 {
            faults.push(Diagnostic::warning(HERE, "", "odd"));
        }
        let mark = faults.mark();
        faults.push(Diagnostic::error(Position::START, "", "wrong"));
        assert!(faults.any_error_since(mark));
        let all = faults.into_diagnostics();
        assert_eq!(all.len(), DIAGNOSTICS_MAX + 2);
        assert!(all[0].is_error(), "in the order of the file");
        assert_eq!(all.last().unwrap().message, "7 more warnings are not shown");
    }

    #[test]
    fn paths_read_like_kubernetes_own() {
        let mut path = String::new();
        push_field(&mut path, "metadata");
        push_field(&mut path, "annotations");
        push_field(&mut path, "roost/pids-limit");
        push_index(&mut path, 3);
        assert_eq!(path, "metadata.annotations[roost/pids-limit][3]");
    }
}
