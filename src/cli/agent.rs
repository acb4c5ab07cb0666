//! `roost agent`.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use tracing_subscriber::EnvFilter;

use super::args::AgentArgs;
use super::failure::Failure;
use crate::config::{self, Given, LogFormat};

/// What is logged: sled says little that is of use, and much of it.
const FILTER_DEFAULT: &str = "info,sled=error";

/// Runs the agent until it is told to end.
pub(super) fn run(root: Option<PathBuf>, args: AgentArgs) -> Result<(), Failure> {
    let AgentArgs { pods, config, log_format, executor, relist } = args;
    let given = Given {
        pods,
        root,
        config,
        relist: relist.map(Into::into),
        executor,
        log_format: log_format.map(Into::into),
    };
    let (config, format) = config::load(given).map_err(|error| Failure::wrong(chain(&error)))?;
    log(format)?;
    crate::agent::run(config).map_err(|error| {
        // The log is what is kept of an agent that nobody looks at.
        tracing::error!(error = chain(&error), "the agent can't run");
        Failure::wrong(chain(&error))
    })
}

fn log(format: LogFormat) -> Result<(), Failure> {
    let named = ["ROOST_LOG", EnvFilter::DEFAULT_ENV];
    let text = named.iter().find_map(|name| std::env::var(name).ok());
    let text = text.filter(|text| !text.is_empty());
    let filter = EnvFilter::try_new(text.as_deref().unwrap_or(FILTER_DEFAULT))
        .map_err(|error| Failure::usage(format!("ROOST_LOG or RUST_LOG is wrong: {error}")))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let set = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    set.map_err(|error| Failure::wrong(format!("can't log: {error}")))
}

/// An error with everything that caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes
        .fold(error.to_string(), |text, cause| format!("{text}: {}", cause.to_string().trim_end()))
}
