//! [`Failure`]: why a command did not do what it was asked: one line, then help, and an exit code.

use std::fmt;
use std::io;

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
}

impl Failure {
    /// The thing asked about is wrong or failed.
    pub(super) fn wrong(line: impl Into<String>) -> Self {
        Self { code: WRONG, line: line.into(), help: Vec::new() }
    }

    /// As [`Failure::wrong`], but everything has been said already.
    pub(super) fn told() -> Self {
        Self::wrong("")
    }

    /// The command was used wrongly.
    pub(super) fn usage(line: impl Into<String>) -> Self {
        Self { code: USAGE, line: line.into(), help: Vec::new() }
    }

    /// The agent can't be reached.
    pub(super) fn unreachable(line: impl Into<String>) -> Self {
        Self { code: UNREACHABLE, line: line.into(), help: Vec::new() }
    }

    /// Standard output can't be written. If nobody reads it any more, that is no failure.
    pub(super) fn output(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self { code: 0, line: String::new(), help: Vec::new() };
        }
        Self::wrong(format!("can't write to standard output: {error}"))
    }

    /// The same, with advice.
    pub(super) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    /// For the caller of the program.
    pub(super) fn code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line.is_empty() {
            return Ok(());
        }
        writeln!(f, "error: {}", self.line)?;
        self.help.iter().try_for_each(|help| writeln!(f, "  help: {help}"))
    }
}
