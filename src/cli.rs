//! The command line: what is typed, what is asked of the agent for it, and how the answer looks on
//! a terminal.
//!
//! Every command but `agent`, `validate` and `version` is a client of the API and knows its shapes
//! only. Not here: what the answers mean (`api`), and how an agent works (`agent`).

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;

mod agent;
mod args;
mod client;
mod delete;
mod describe;
mod failure;
mod get;
mod logs;
mod output;
mod status;
mod table;
mod time;
mod validate;
mod wait;

use args::{Cli, Command, DeleteCommand, DescribeCommand, GetCommand, WaitCommand};
use client::Client;
use failure::Failure;

/// Does what the arguments say; the code is for the caller of the program.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Also the help that was asked for. Nothing can be said if this can't be written.
            error.print().ok();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(failure::USAGE));
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            write!(std::io::stderr(), "{failure}").ok();
            ExitCode::from(failure.code())
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { root, command } = cli;
    match command {
        Command::Agent(args) => agent::run(root, args),
        Command::Validate(args) => validate::run(&args),
        Command::Version => output::print(&format!("roost {}\n", env!("CARGO_PKG_VERSION"))),
        Command::Get(_)
        | Command::Ps(_)
        | Command::Describe(_)
        | Command::Logs(_)
        | Command::Delete(_)
        | Command::Wait(_)
        | Command::Status(_) => ask(root.as_deref(), command),
    }
}

/// Does what needs an agent.
fn ask(root: Option<&Path>, command: Command) -> Result<(), Failure> {
    let client = Client::of(root)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::wrong(format!("can't start: {error}")))?;
    runtime.block_on(async {
        match command {
            Command::Get(GetCommand::Pods(args)) | Command::Ps(args) => {
                get::pods(&client, &args).await
            }
            Command::Get(GetCommand::Events(args)) => get::events(&client, &args).await,
            Command::Describe(DescribeCommand::Pod(args)) => describe::pod(&client, &args).await,
            Command::Logs(args) => logs::run(&client, &args).await,
            Command::Delete(DeleteCommand::Pod(args)) => delete::pod(&client, &args).await,
            Command::Wait(WaitCommand::Pod(args)) => wait::pod(&client, &args).await,
            Command::Status(args) => status::run(&client, &args).await,
            Command::Agent(_) | Command::Validate(_) | Command::Version => Ok(()),
        }
    })
}
