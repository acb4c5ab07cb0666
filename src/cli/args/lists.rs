//! What can be typed to see things.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand, ValueEnum};

use super::{ImagesArgs, NamespaceArg, PodArgs};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum GetCommand {
    /// Lists pods
    #[command(visible_aliases = ["pod", "po"])]
    Pods(PodsArgs),
    /// Lists containers of pods
    #[command(visible_aliases = ["container"])]
    Containers(ContainersArgs),
    /// Lists the images of this node
    #[command(visible_aliases = ["image"])]
    Images(ImagesArgs),
    /// Lists what happened, oldest first
    #[command(visible_aliases = ["event", "ev"])]
    Events(EventsArgs),
    /// Lists the revisions of a pod that are kept, oldest first
    #[command(visible_aliases = ["revision"])]
    Revisions(RevisionsArgs),
    /// Lists the ConfigMaps of the manifests, without their values
    #[command(name = "configmaps", visible_aliases = ["configmap", "cm"])]
    ConfigMaps(DocumentsArgs),
    /// Lists the Secrets of the manifests, without their values
    #[command(visible_aliases = ["secret"])]
    Secrets(DocumentsArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
RESTARTS counts every run of a container but its first, as Kubernetes does: also one that a change \
of its manifest, and not a failure, was the cause of.")]
pub(in crate::cli) struct PodsArgs {
    /// Only this pod: NAME or NAMESPACE/NAME
    #[arg(value_name = "NAME")]
    pub(in crate::cli) name: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) which: Which,
    /// How they are shown
    #[arg(short, long, default_value = "table", value_name = "FORM", value_parser = any())]
    pub(in crate::cli) output: Output,
    /// Goes on: a live table on a terminal, else a line at every change
    #[arg(short, long)]
    pub(in crate::cli) watch: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ContainersArgs {
    /// Only those of this pod: NAME or NAMESPACE/NAME
    #[arg(value_name = "NAME")]
    pub(in crate::cli) name: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) which: Which,
    /// How they are shown
    #[arg(short, long, default_value = "table", value_name = "FORM", value_parser = any())]
    pub(in crate::cli) output: Output,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct EventsArgs {
    /// Only those of this pod: NAME or NAMESPACE/NAME
    #[arg(value_name = "NAME")]
    pub(in crate::cli) name: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) space: Space,
    /// How they are shown
    #[arg(short, long, default_value = "table", value_name = "FORM", value_parser = any())]
    pub(in crate::cli) output: Output,
    /// Goes on, and prints a line at every event
    #[arg(short, long)]
    pub(in crate::cli) watch: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RevisionsArgs {
    #[command(flatten)]
    pub(in crate::cli) pod: PodArgs,
    /// How they are shown
    #[arg(short, long, default_value = "table", value_name = "FORM", value_parser = any())]
    pub(in crate::cli) output: Output,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DocumentsArgs {
    /// Only this one: NAME or NAMESPACE/NAME
    #[arg(value_name = "DOCUMENT")]
    pub(in crate::cli) name: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) space: Space,
    /// How they are shown
    #[arg(short, long, default_value = "table", value_name = "FORM", value_parser = any())]
    pub(in crate::cli) output: Output,
}

/// Of which namespaces.
#[derive(Debug, Args)]
pub(in crate::cli) struct Space {
    #[command(flatten)]
    pub(in crate::cli) namespace: NamespaceArg,
    /// Of all namespaces, as without -n
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub(in crate::cli) all_namespaces: bool,
}

/// Which pods.
#[derive(Debug, Args)]
pub(in crate::cli) struct Which {
    #[command(flatten)]
    pub(in crate::cli) space: Space,
    /// Only pods with these labels: key=value, key!=value, key or !key, with commas between
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub(in crate::cli) selector: Option<String>,
}

/// How something is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Output {
    /// A table
    Table,
    /// A table with more columns
    Wide,
    /// As objects of Kubernetes where it has such
    Json,
    /// The same in YAML
    Yaml,
    /// Names only, one a line
    Name,
}

/// Every form.
pub(super) fn any() -> impl TypedValueParser<Value = Output> {
    forms(&[Output::Table, Output::Wide, Output::Json, Output::Yaml, Output::Name])
}

/// The forms of what has no names.
pub(super) fn plain() -> impl TypedValueParser<Value = Output> {
    forms(&[Output::Table, Output::Json, Output::Yaml])
}

fn forms(allowed: &[Output]) -> impl TypedValueParser<Value = Output> {
    let values = allowed.iter().filter_map(Output::to_possible_value);
    PossibleValuesParser::new(values).map(|text| {
        Output::from_str(&text, false).expect("the values that are possible are those of the enum")
    })
}

#[derive(Debug, Args)]
pub(in crate::cli) struct TopArgs {
    /// Of what
    #[arg(value_name = "WHAT", default_value = "pods")]
    pub(in crate::cli) what: TopWhat,
    /// Only this pod: NAME or NAMESPACE/NAME
    #[arg(value_name = "NAME")]
    pub(in crate::cli) name: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) space: Space,
    /// A line for every container
    #[arg(long)]
    pub(in crate::cli) containers: bool,
    /// How it is shown
    #[arg(short, long, default_value = "table", value_name = "FORM", value_parser = plain())]
    pub(in crate::cli) output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum TopWhat {
    /// Each pod, the busiest first
    #[value(aliases = ["pod", "po"])]
    Pods,
    /// This machine
    #[value(alias = "nodes")]
    Node,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct VersionArgs {
    /// Of this program only; the agent is not asked
    #[arg(long)]
    pub(in crate::cli) client: bool,
    /// How it is shown
    #[arg(short, long, default_value = "table", value_name = "FORM", value_parser = plain())]
    pub(in crate::cli) output: Output,
}

#[derive(Debug, Args)]
#[command(after_help = "\
For this session:       source <(roost completion bash)
For all, with bash:     roost completion bash > /etc/bash_completion.d/roost
For all, with zsh:      roost completion zsh > /usr/local/share/zsh/site-functions/_roost
For all, with fish:     roost completion fish > /etc/fish/completions/roost.fish")]
pub(in crate::cli) struct CompletionArgs {
    /// Which shell
    #[arg(value_name = "SHELL")]
    pub(in crate::cli) shell: Shell,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CompleteArgs {
    /// Which shell asks
    #[arg(value_name = "SHELL")]
    pub(in crate::cli) shell: Shell,
    /// What was typed after the name of the program, up to the cursor
    #[arg(last = true, value_name = "WORD")]
    pub(in crate::cli) words: Vec<std::ffi::OsString>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Shell {
    /// GNU bash
    Bash,
    /// The Z shell
    Zsh,
    /// The friendly interactive shell
    Fish,
}
