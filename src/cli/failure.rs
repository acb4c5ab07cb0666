//! [`Failure`]: why a command did not do what it was asked: one line, then help, and an exit code.

use std::fmt;
use std::io;

use super::screen::Tone;
use crate::ids::PodName;

/// The thing asked about is wrong or failed.
const WRONG: u8 = 1;
/// Wrong usage.
pub(super) const USAGE: u8 = 2;
/// The agent can't be reached.
const UNREACHABLE: u8 = 3;

/// Why a command failed. Its text is what stands on standard error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    code: u8,
    /// Empty if there is nothing to say.
    line: String,
    help: Vec<String>,
    missing: Missing,
}

/// Whether it failed because there is no such pod.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Missing {
    Nothing,
    /// The agent says so of the pod that it was asked about.
    ThePod,
    Pod(PodName),
}

impl Failure {
    fn new(code: u8, line: impl Into<String>) -> Self {
        Self { code, line: line.into(), help: Vec::new(), missing: Missing::Nothing }
    }

    /// The thing asked about is wrong or failed.
    pub(super) fn wrong(line: impl Into<String>) -> Self {
        Self::new(WRONG, line)
    }

    /// As [`Failure::wrong`], but everything has been said already.
    pub(super) fn told() -> Self {
        Self::wrong("")
    }

    /// A program that was executed for the caller ended so; it has said itself what there is to say.
    pub(super) fn ended(code: u8) -> Self {
        Self::new(code, "")
    }

    /// The command was used wrongly.
    pub(super) fn usage(line: impl Into<String>) -> Self {
        Self::new(USAGE, line)
    }

    /// The agent can't be reached.
    pub(super) fn unreachable(line: impl Into<String>) -> Self {
        Self::new(UNREACHABLE, line)
    }

    /// The agent's answer has another form than this program knows.
    pub(super) fn not_understood(error: &serde_json::Error) -> Self {
        Self::unreachable(format!("the agent's answer can't be understood: {error}"))
            .with_help("is it of another version? `roost version` says")
    }

    /// Standard output can't be written. If nobody reads it any more, that is no failure.
    pub(super) fn output(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(0, "");
        }
        Self::wrong(format!("can't write to standard output: {error}"))
    }

    /// There is no such pod. Help comes when it is known what pods there are.
    pub(super) fn not_found(name: &PodName) -> Self {
        let failure = Self::wrong(format!("pod {name} not found"));
        Self { missing: Missing::Pod(name.clone()), ..failure }
    }

    /// The agent's word for it; see [`Failure::about`].
    pub(super) fn no_such_pod(line: impl Into<String>) -> Self {
        Self { missing: Missing::ThePod, ..Self::wrong(line) }
    }

    /// The same, if it is that there is no such pod, by its name.
    pub(super) fn about(self, name: &PodName) -> Self {
        match self.missing {
            Missing::ThePod => Self::not_found(name),
            Missing::Nothing | Missing::Pod(_) => self,
        }
    }

    /// The pod that there is not.
    pub(super) fn missing(&self) -> Option<&PodName> {
        match &self.missing {
            Missing::Pod(name) => Some(name),
            Missing::Nothing | Missing::ThePod => None,
        }
    }

    /// The same, with advice.
    pub(super) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    /// Whether no agent could be asked.
    pub(super) fn is_unreachable(&self) -> bool {
        self.code == UNREACHABLE
    }

    /// For the caller of the program.
    pub(super) fn code(&self) -> u8 {
        self.code
    }

    /// What stands on standard error.
    pub(super) fn text(&self, colors: bool) -> String {
        if self.line.is_empty() {
            return String::new();
        }
        let mut text = format!("{} {}\n", Tone::Bad.paint("error:", colors), self.line.trim_end());
        for help in &self.help {
            let label = Tone::Hint.paint("help:", colors);
            text.push_str(&format!("  {label} {}\n", help.replace('\n', "\n        ")));
        }
        text
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_and_then_help() {
        let failure = Failure::usage("it is wrong").with_help("mend it\nor not");
        assert_eq!(failure.to_string(), "error: it is wrong\n  help: mend it\n        or not\n");
        assert!(failure.text(true).starts_with("\u{1b}[31merror:\u{1b}[0m it is wrong\n"));
        assert_eq!(failure.code(), USAGE);
    }

    #[test]
    fn nobody_listening_is_no_failure() {
        let failure = Failure::output(&io::ErrorKind::BrokenPipe.into());
        assert_eq!((failure.code(), failure.to_string().as_str()), (0, ""));
        assert_eq!(Failure::output(&io::ErrorKind::StorageFull.into()).code(), WRONG);
    }

    #[test]
    fn the_pod_that_is_missing_is_known_by_name() {
        let name: PodName = "web".parse().unwrap();
        assert_eq!(Failure::no_such_pod("x").about(&name).missing(), Some(&name));
        assert_eq!(Failure::wrong("x").about(&name).missing(), None);
    }
}
