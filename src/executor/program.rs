//! `roost-executor`: what the program does before the loop, and what becomes of its end.
//!
//! Nobody calls it by hand. `ps` shows `roost-executor --pod <namespace/name> --build <build>`, and
//! where systemd owns the cgroups one `roost-executor park`, which keeps the scope of all pods.

use std::io::Read;
use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};
use rustix::process::DumpableBehavior;

use super::boot::{BOOT_FD, Boot, LISTENER_FD};
use super::handover::{Handover, HandoverError};
use super::journal::{self, chain};
use super::shell::{Shell, ShellError};
use super::upgrade::PROGRAM;
use crate::sys;

/// Why the program ended other than by having nothing left to do.
#[derive(Debug, thiserror::Error)]
enum ProgramError {
    #[error(
        "{PROGRAM} is started by the agent only, as `--pod NAME --build BUILD` or `{PARK}`: \
         unexpected {what}"
    )]
    Usage { what: String },
    #[error("preparing the process failed: {what}")]
    Prepare { what: &'static str, source: std::io::Error },
    #[error("what the agent says about the pod can't be understood")]
    Boot(#[source] serde_json::Error),
    #[error("the state of the build before can't be taken over")]
    Handover(#[source] HandoverError),
    #[error("the executor of the pod has failed")]
    Shell(#[source] ShellError),
}

/// The only argument of the process that keeps a systemd scope alive and does nothing else.
pub const PARK: &str = "park";

/// How the program was called.
#[derive(Debug, PartialEq, Eq)]
struct Arguments {
    build: String,
    mode: Mode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// A new executor.
    Start,
    /// The one before goes on as this; the state is in that descriptor.
    Resume(i32),
    /// Only find out whether that would be possible.
    Check(i32),
}

/// The whole program.
pub fn main(arguments: impl Iterator<Item = String>) -> ExitCode {
    journal::abort_on_panic();
    match run(arguments.skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            journal::note(format_args!("{}", chain(&error)));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: impl Iterator<Item = String>) -> Result<(), ProgramError> {
    let mut arguments = arguments.peekable();
    if arguments.next_if(|argument| argument == PARK).is_some() {
        return arguments
            .next()
            .map_or_else(park, |more| Err(ProgramError::Usage { what: format!("`{more}`") }));
    }
    let Arguments { build, mode } = parse(arguments)?;
    prepare()?;
    let shell = match mode {
        Mode::Check(fd) => return handover(fd).map(drop),
        Mode::Resume(fd) => Shell::resume(handover(fd)?, build),
        Mode::Start => {
            let take = |fd| {
                let what = "its descriptors";
                sys::inherited_fd(fd).map_err(|source| ProgramError::Prepare { what, source })
            };
            let (listener, file) = (take(LISTENER_FD)?, take(BOOT_FD)?);
            let mut json = Vec::new();
            std::fs::File::from(file).read_to_end(&mut json).map_err(|source| {
                ProgramError::Prepare { what: "reading what the agent says", source }
            })?;
            let boot: Boot = serde_json::from_slice(&json).map_err(ProgramError::Boot)?;
            Shell::start(boot, build, listener)
        }
    };
    shell.and_then(Shell::run).map_err(ProgramError::Shell)
}

/// Waits to be killed. Signals keep their default effect: systemd ends the scope by SIGTERM.
fn park() -> Result<(), ProgramError> {
    name_process()?;
    loop {
        std::thread::park();
    }
}

fn handover(fd: i32) -> Result<Handover, ProgramError> {
    let what = "taking over the state";
    let file = sys::inherited_fd(fd).map_err(|source| ProgramError::Prepare { what, source })?;
    Handover::read(file).map_err(ProgramError::Handover)
}

/// Nothing but the agent's protocol and SIGKILL ends an executor, and nobody reads its memory.
fn prepare() -> Result<(), ProgramError> {
    let failed = |what| move |source: std::io::Error| ProgramError::Prepare { what, source };
    // Blocked, which exec and clone keep; containers begin with an empty mask. SIGPIPE is ignored
    // by the runtime of Rust.
    let blocked: SigSet = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    blocked.thread_block().map_err(|error| failed("blocking signals")(error.into()))?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| failed("guarding its memory")(error.into()))?;
    name_process()
}

/// Its own program is executed through a descriptor, whose number would be its name.
fn name_process() -> Result<(), ProgramError> {
    let name = std::ffi::CString::new(PROGRAM).expect("there is no NUL in it");
    let what = "naming the process";
    rustix::thread::set_name(&name)
        .map_err(|error| ProgramError::Prepare { what, source: error.into() })
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Arguments, ProgramError> {
    let (mut pod, mut build, mut mode) = (None, None, Mode::Start);
    let usage = |what: String| ProgramError::Usage { what };
    while let Some(flag) = arguments.next() {
        let value = arguments.next().ok_or_else(|| usage(format!("end after `{flag}`")))?;
        let number = || value.parse().map_err(|_| usage(format!("`{value}`")));
        match flag.as_str() {
            "--pod" => pod = Some(value),
            "--build" => build = Some(value),
            "--resume" => mode = Mode::Resume(number()?),
            "--check-handover" => mode = Mode::Check(number()?),
            _ => return Err(usage(format!("`{flag}`"))),
        }
    }
    // The name is for `ps` alone: what counts is what the agent says.
    let (Some(_), Some(build)) = (pod, build) else {
        return Err(usage("end of the arguments".to_owned()));
    };
    Ok(Arguments { build, mode })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(&str, Mode)>) {
        let found = parse(text.split_whitespace().map(str::to_owned));
        let expected = expected.map(|(build, mode)| Arguments { build: build.to_owned(), mode });
        assert_eq!(found.ok(), expected);
    }

    #[test]
    fn only_what_the_agent_says_is_understood() {
        check("--pod a/b --build 1", Some(("1", Mode::Start)));
        check("--pod a/b --build 2 --resume 7", Some(("2", Mode::Resume(7))));
        check("--pod a/b --build 2 --check-handover 9", Some(("2", Mode::Check(9))));
        for wrong in ["", "--help", "--pod a/b", "--pod a --build", "--pod a --build 1 --resume x"]
        {
            check(wrong, None);
        }
    }
}
