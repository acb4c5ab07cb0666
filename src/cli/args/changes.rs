//! What can be typed to change things, or to see what would change.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::PodArgs;
use super::lists::{self, Output};

#[derive(Debug, Args)]
pub(in crate::cli) struct DiffArgs {
    /// Manifests; `-` is standard input [default: the manifest directory as it is now]
    #[arg(value_name = "FILE")]
    pub(in crate::cli) files: Vec<PathBuf>,
    /// How it is shown
    #[arg(short, long, default_value = "table", value_name = "FORM", value_parser = lists::plain())]
    pub(in crate::cli) output: Output,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PlanArgs {
    /// How it is shown
    #[arg(short, long, default_value = "table", value_name = "FORM", value_parser = lists::plain())]
    pub(in crate::cli) output: Output,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct FilesArg {
    /// Manifests; `-` is standard input
    #[arg(
        short = 'f',
        long = "filename",
        required = true,
        num_args = 1..,
        value_name = "FILE"
    )]
    pub(in crate::cli) files: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ApplyArgs {
    #[command(flatten)]
    pub(in crate::cli) files: FilesArg,
    /// Also ends pods that a file has in the manifest directory, and not as it is applied
    #[arg(long)]
    pub(in crate::cli) prune: bool,
    #[command(flatten)]
    pub(in crate::cli) wait: WaitArg,
}

/// Whether and how long a change is waited for.
#[derive(Debug, Args)]
pub(in crate::cli) struct WaitArg {
    /// Returns when it is done: pods run and are ready, or have ended well
    #[arg(long)]
    pub(in crate::cli) wait: bool,
    /// How long at most
    #[arg(
        long,
        default_value = "60s",
        value_name = "SPAN",
        value_parser = humantime::parse_duration
    )]
    pub(in crate::cli) timeout: Duration,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RestartArgs {
    #[command(flatten)]
    pub(in crate::cli) pod: PodArgs,
    #[command(flatten)]
    pub(in crate::cli) wait: WaitArg,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RollbackArgs {
    #[command(flatten)]
    pub(in crate::cli) pod: PodArgs,
    /// The revision, as `roost revisions` numbers them [default: the one before]
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(u64).range(1..))]
    pub(in crate::cli) to: Option<u64>,
    #[command(flatten)]
    pub(in crate::cli) wait: WaitArg,
}
