//! The command line: what is typed, what is asked of the agent for it, and how the answer looks on
//! a terminal.
//!
//! Every command but `agent`, `validate`, `completion` and `version` is a client of the API and
//! knows its shapes only. Not here: what the answers mean (`api`), and how an agent works
//! (`agent`).
//!
//! Text that comes from manifests or from the API passes `output::clean` or a table's cell on its
//! way to a terminal; only logs and what programs write that are executed are printed as they are.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;

mod advice;
mod agent;
mod answers;
mod apply;
mod args;
mod client;
mod completion;
mod delete;
mod describe;
mod diff;
mod exec;
mod failure;
mod files;
mod forward;
mod get;
mod image;
mod live;
mod logs;
mod output;
mod plan;
mod restart;
mod screen;
mod status;
mod table;
mod time;
mod top;
mod validate;
mod version;
mod wait;
mod yaml;

use args::{Cli, Command, DeleteCommand, DescribeCommand, GetCommand, ImageCommand, WaitCommand};
use client::Client;
use failure::Failure;
use screen::Screen;

/// Does what the arguments say; the code is for the caller of the program.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args::with_kinds(arguments.collect())) {
        Ok(cli) => cli,
        Err(error) => {
            // Also the help that was asked for. Nothing can be said if this can't be written.
            error.print().ok();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(failure::USAGE));
        }
    };
    let screen = Screen::of(cli.color);
    match run(cli, screen) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            write!(std::io::stderr(), "{}", failure.text(screen.error_colors)).ok();
            ExitCode::from(failure.code())
        }
    }
}

fn run(cli: Cli, screen: Screen) -> Result<(), Failure> {
    let Cli { root, color: _, command } = cli;
    match command {
        Command::Agent(args) => agent::run(root, *args),
        Command::Validate(args) => validate::run(&args),
        Command::Completion(args) => output::print(completion::script(args.shell)),
        Command::Complete(args) => completion::answer(root.as_deref(), &args),
        Command::Version(args) if args.client => version::client(&args),
        Command::Get(_)
        | Command::Ps(_)
        | Command::Describe(_)
        | Command::Logs(_)
        | Command::Exec(_)
        | Command::PortForward(_)
        | Command::Events(_)
        | Command::Diff(_)
        | Command::Plan(_)
        | Command::Apply(_)
        | Command::Restart(_)
        | Command::Rollback(_)
        | Command::Revisions(_)
        | Command::Delete(_)
        | Command::Image(_)
        | Command::Wait(_)
        | Command::Top(_)
        | Command::Status(_)
        | Command::Version(_) => ask(root.as_deref(), screen, command),
    }
}

/// Does what needs an agent.
fn ask(root: Option<&Path>, screen: Screen, command: Command) -> Result<(), Failure> {
    let client = Client::of(root)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::wrong(format!("can't start: {error}")))?;
    let done = runtime.block_on(async {
        match answer(&client, screen, command).await {
            Ok(()) => Ok(()),
            Err(failure) => Err(advice::on(&client, failure).await),
        }
    });
    // What still blocks is for nobody.
    runtime.shutdown_background();
    done
}

async fn answer(client: &Client, screen: Screen, command: Command) -> Result<(), Failure> {
    match command {
        Command::Get(GetCommand::Pods(args)) | Command::Ps(args) => {
            get::pods::run(client, screen, &args).await
        }
        Command::Get(GetCommand::Containers(args)) => {
            get::containers::run(client, screen, &args).await
        }
        Command::Get(GetCommand::Events(args)) | Command::Events(args) => {
            get::events::run(client, screen, &args).await
        }
        Command::Get(GetCommand::Revisions(args)) | Command::Revisions(args) => {
            get::revisions::run(client, screen, &args).await
        }
        Command::Get(GetCommand::ConfigMaps(args)) => {
            get::documents::run(client, screen, get::documents::Kind::ConfigMaps, &args).await
        }
        Command::Get(GetCommand::Secrets(args)) => {
            get::documents::run(client, screen, get::documents::Kind::Secrets, &args).await
        }
        Command::Get(GetCommand::Images(args)) | Command::Image(ImageCommand::Ls(args)) => {
            image::ls::run(client, screen, &args).await
        }
        Command::Image(ImageCommand::Pull(args)) => image::pull::run(client, screen, &args).await,
        Command::Image(ImageCommand::Load(args)) => image::load(client, &args).await,
        Command::Image(ImageCommand::Rm(args)) => image::remove(client, &args).await,
        Command::Image(ImageCommand::Prune) => image::prune(client).await,
        Command::Describe(DescribeCommand::Pod(args)) => describe::pod(client, screen, &args).await,
        Command::Logs(args) => logs::run(client, screen, &args).await,
        Command::Exec(args) => exec::run(client, &args).await,
        Command::PortForward(args) => forward::run(client, &args).await,
        Command::Diff(args) => diff::run(client, screen, &args).await,
        Command::Plan(args) => plan::run(client, screen, &args).await,
        Command::Apply(args) => apply::run(client, screen, &args).await,
        Command::Restart(args) => restart::restart(client, screen, &args).await,
        Command::Rollback(args) => restart::rollback(client, screen, &args).await,
        Command::Delete(DeleteCommand::Pod(args)) => delete::pods(client, screen, &args).await,
        Command::Wait(WaitCommand::Pod(args)) => wait::pod(client, screen, &args).await,
        Command::Top(args) => top::run(client, screen, &args).await,
        Command::Status(args) => status::run(client, screen, &args).await,
        Command::Version(args) => version::run(client, &args).await,
        // These need none.
        Command::Agent(_)
        | Command::Validate(_)
        | Command::Completion(_)
        | Command::Complete(_) => Ok(()),
    }
}
