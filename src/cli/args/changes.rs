//! What can be typed to change things, or to see what would change.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args};

use super::PodArgs;
use super::lists::{self, Output};

#[derive(Debug, Args)]
#[command(after_help = "\
Without files: what the manifest directory as it is now would change.
Ends with 1 if a manifest is faulty.")]
pub(in crate::cli) struct DiffArgs {
    #[command(flatten)]
    pub(in crate::cli) files: FilesArg,
    /// How it is shown
    #[arg(short, long, default_value = "table", value_name = "FORM", value_parser = lists::plain())]
    pub(in crate::cli) output: Output,
}

#[derive(Debug, Args)]
#[command(after_help = "Ends with 1 if a manifest is faulty.")]
pub(in crate::cli) struct PlanArgs {
    /// How it is shown
    #[arg(short, long, default_value = "table", value_name = "FORM", value_parser = lists::plain())]
    pub(in crate::cli) output: Output,
}

/// Which files. With and without `-f`: kubectl's users type it everywhere.
#[derive(Debug, Args)]
#[group(id = "which", multiple = true)]
pub(in crate::cli) struct FilesArg {
    /// Manifests, or directories of them; `-` is standard input
    #[arg(value_name = "FILE")]
    bare: Vec<PathBuf>,
    /// The same
    #[arg(short = 'f', long = "filename", num_args = 1.., value_name = "FILE")]
    named: Vec<PathBuf>,
}

impl FilesArg {
    /// All of them.
    pub(in crate::cli) fn paths(&self) -> Vec<PathBuf> {
        self.bare.iter().chain(&self.named).cloned().collect()
    }
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("apply_which").args(["bare", "named"]).required(true).multiple(true))]
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
    /// Returns when it is done: pods are ready and stay so for 2 s; those whose restartPolicy is
    /// Never or OnFailure have succeeded
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
#[command(after_help = "\
The manifest is not touched. The pod is held at the earlier revision until its manifest changes, or \
until `roost rollback POD --release`.")]
pub(in crate::cli) struct RollbackArgs {
    #[command(flatten)]
    pub(in crate::cli) pod: PodArgs,
    /// The revision, as `roost revisions` numbers them [default: the one before]
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(u64).range(1..))]
    pub(in crate::cli) to: Option<u64>,
    /// Ends an earlier rollback: the pod follows its manifest again, as it is now
    #[arg(long, conflicts_with = "to")]
    pub(in crate::cli) release: bool,
    #[command(flatten)]
    pub(in crate::cli) wait: WaitArg,
}
