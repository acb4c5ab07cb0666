//! What can be typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use super::agent::{AgentArgs, Format};
use super::failure::Failure;
use crate::ids::{ContainerName, Namespace, PodName};

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 the thing asked about is wrong or failed, 2 wrong usage, 3 the agent can't \
be reached.";

/// Runs pods of containers on this machine: put a manifest into a directory, and they run.
#[derive(Debug, Parser)]
#[command(name = "roost", version, after_help = AFTER_HELP, subcommand_required = true)]
pub(super) struct Cli {
    /// Everything of the agent lies under this directory, instead of in the places of an
    /// installed one
    #[arg(long, global = true, env = "ROOST_ROOT", value_name = "DIR")]
    pub(super) root: Option<PathBuf>,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// The daemon, in the foreground
    Agent(AgentArgs),
    /// Lists pods or events
    #[command(subcommand)]
    Get(GetCommand),
    /// Lists pods, as `get pods` does
    Ps(PodsArgs),
    /// Everything known about a pod, its newest events last
    #[command(subcommand)]
    Describe(DescribeCommand),
    /// What a container printed
    Logs(LogsArgs),
    /// Removes a pod by removing its manifest
    #[command(subcommand)]
    Delete(DeleteCommand),
    /// Waits until something holds of a pod
    #[command(subcommand)]
    Wait(WaitCommand),
    /// How the agent itself is: alarms, refused files, store
    Status(StatusArgs),
    /// Checks manifests; needs no agent and touches nothing
    Validate(ValidateArgs),
    /// Which build this is
    Version,
}

#[derive(Debug, Subcommand)]
pub(super) enum GetCommand {
    /// Lists pods
    #[command(visible_aliases = ["pod", "po"])]
    Pods(PodsArgs),
    /// Lists what happened, oldest first
    #[command(visible_aliases = ["event", "ev"])]
    Events(EventsArgs),
}

#[derive(Debug, Args)]
pub(super) struct PodsArgs {
    /// Only this pod: NAME or NAMESPACE/NAME
    #[arg(value_name = "NAME")]
    pub(super) name: Option<String>,
    #[command(flatten)]
    pub(super) namespace: NamespaceArg,
    /// table, wide, json or name
    #[arg(short, long, default_value = "table", value_name = "FORM", value_parser = output)]
    pub(super) output: Output,
    /// Goes on, and prints a line at every change
    #[arg(short, long)]
    pub(super) watch: bool,
}

#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    #[command(flatten)]
    pub(super) namespace: NamespaceArg,
    /// table, wide, json or name
    #[arg(short, long, default_value = "table", value_name = "FORM", value_parser = output)]
    pub(super) output: Output,
    /// Goes on, and prints a line at every event
    #[arg(short, long)]
    pub(super) watch: bool,
}

/// How a list is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    Table,
    Wide,
    Json,
    Name,
}

fn output(text: &str) -> Result<Output, String> {
    match text {
        "table" => Ok(Output::Table),
        "wide" => Ok(Output::Wide),
        "json" => Ok(Output::Json),
        "name" => Ok(Output::Name),
        "yaml" => Err("yaml is not supported yet; json shows the same objects".to_owned()),
        _ => Err("it must be table, wide, json or name".to_owned()),
    }
}

#[derive(Debug, Args)]
pub(super) struct NamespaceArg {
    /// The namespace [default: all for lists, `default` for names]
    #[arg(short, long = "namespace", value_name = "NAMESPACE")]
    pub(super) namespace: Option<Namespace>,
}

impl NamespaceArg {
    /// Which pod `NAME` or `NAMESPACE/NAME` is.
    pub(super) fn pod(&self, name: &str) -> Result<PodName, Failure> {
        let found: PodName = name.parse().map_err(|error| Failure::usage(format!("{error}")))?;
        let Some(namespace) = &self.namespace else { return Ok(found) };
        if name.contains('/') && found.namespace != *namespace {
            let text = format!("`{name}` says another namespace than `-n {namespace}`");
            return Err(Failure::usage(text));
        }
        Ok(PodName { namespace: namespace.clone(), name: found.name })
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum DescribeCommand {
    /// Everything known about a pod
    #[command(visible_aliases = ["pods", "po"])]
    Pod(PodArgs),
}

#[derive(Debug, Args)]
pub(super) struct PodArgs {
    /// The pod: NAME or NAMESPACE/NAME
    #[arg(value_name = "NAME")]
    pub(super) name: String,
    #[command(flatten)]
    pub(super) namespace: NamespaceArg,
}

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    #[command(flatten)]
    pub(super) pod: PodArgs,
    /// Of which container; needed if the pod has several
    #[arg(short, long, value_name = "CONTAINER")]
    pub(super) container: Option<ContainerName>,
    /// Goes on with what it prints from now on, until the container ends
    #[arg(short, long)]
    pub(super) follow: bool,
    /// Of the run before the newest one
    #[arg(short, long)]
    pub(super) previous: bool,
    /// Only the last so many lines
    #[arg(long, value_name = "LINES")]
    pub(super) tail: Option<u64>,
    /// Only what is not older than this, as in 10m
    #[arg(long, value_name = "SPAN", value_parser = humantime::parse_duration)]
    pub(super) since: Option<Duration>,
    /// Begins each line with its time
    #[arg(long)]
    pub(super) timestamps: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum DeleteCommand {
    /// Removes a pod by removing its manifest
    #[command(visible_aliases = ["pods", "po"])]
    Pod(DeleteArgs),
}

#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    #[command(flatten)]
    pub(super) pod: PodArgs,
    /// Returns when nothing is left of the pod
    #[arg(long)]
    pub(super) wait: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum WaitCommand {
    /// Waits until something holds of a pod
    #[command(visible_aliases = ["pods", "po"])]
    Pod(WaitArgs),
}

#[derive(Debug, Args)]
pub(super) struct WaitArgs {
    #[command(flatten)]
    pub(super) pod: PodArgs,
    /// condition=NAME, condition=NAME=false, or delete
    #[arg(long = "for", value_name = "WHAT", value_parser = goal)]
    pub(super) goal: Goal,
    /// How long at most
    #[arg(long, default_value = "60s", value_name = "SPAN", value_parser = humantime::parse_duration)]
    pub(super) timeout: Duration,
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Goal {
    /// A condition of the pod has this status.
    Condition { kind: String, status: bool },
    /// There is no such pod.
    Delete,
}

fn goal(text: &str) -> Result<Goal, String> {
    let rule = "it must be condition=NAME, condition=NAME=false, or delete";
    if text == "delete" {
        return Ok(Goal::Delete);
    }
    let condition = text.strip_prefix("condition=").ok_or(rule)?;
    let (kind, status) = condition.split_once('=').unwrap_or((condition, "true"));
    let status = match status.to_ascii_lowercase().as_str() {
        "true" => true,
        "false" => false,
        _ => return Err(rule.to_owned()),
    };
    if kind.is_empty() {
        return Err(rule.to_owned());
    }
    Ok(Goal::Condition { kind: kind.to_owned(), status })
}

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// table or json
    #[arg(short, long, default_value = "table", value_name = "FORM", value_parser = status_output)]
    pub(super) output: Output,
}

fn status_output(text: &str) -> Result<Output, String> {
    match output(text)? {
        found @ (Output::Table | Output::Json) => Ok(found),
        Output::Wide | Output::Name => Err("it must be table or json".to_owned()),
    }
}

#[derive(Debug, Args)]
pub(super) struct ValidateArgs {
    /// Manifests; `-` is standard input
    #[arg(required_unless_present = "schema", value_name = "FILE")]
    pub(super) files: Vec<PathBuf>,
    /// Refuse fields that nobody knows, instead of a warning
    #[arg(long)]
    pub(super) strict: bool,
    /// How to show the result
    #[arg(short, long, value_enum, default_value = "text", value_name = "FORMAT")]
    pub(super) output: Format,
    /// Print the JSON Schema of manifests, for editors, and do nothing else
    #[arg(long, exclusive = true)]
    pub(super) schema: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Command, String> {
        let words = std::iter::once("roost").chain(line.split_whitespace());
        Cli::try_parse_from(words).map(|cli| cli.command).map_err(|error| error.to_string())
    }

    #[test]
    fn the_definition_of_the_arguments_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_are_understood_as_the_readme_shows_them() {
        for line in [
            "agent --pods a --pods b --root r --relist 5s --log-format json --executor x",
            "--root state get pods",
            "get pods hello -o wide -w",
            "get po -n shop -o json",
            "get events",
            "ps",
            "describe pod hello --root state",
            "logs hello -c visitor -f -p --tail 5 --since 10m --timestamps",
            "delete pod shop/hello --wait",
            "wait pod hello --for=condition=Ready --timeout 60s",
            "wait pod hello --for=delete",
            "status -o json",
            "validate a.yaml -",
            "version",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn wrong_arguments_are_refused_with_what_is_right() {
        let check = |line: &str, expected: &str| {
            let error = parse(line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        };
        check("get pods -o yaml", "json shows the same");
        check("get pods -o xml", "table, wide, json or name");
        check("wait pod x --for=ready", "condition=NAME");
        check("get pods -n Shop", "DNS label");
        check("logs x --since never", "--since");
        check("validate", "FILE");
    }

    #[test]
    fn a_pod_can_be_named_in_two_ways_that_must_agree() {
        let shop = NamespaceArg { namespace: Some("shop".parse().unwrap()) };
        let none = NamespaceArg { namespace: None };
        assert_eq!(none.pod("web").unwrap().to_string(), "default/web");
        assert_eq!(none.pod("shop/web").unwrap().to_string(), "shop/web");
        assert_eq!(shop.pod("web").unwrap().to_string(), "shop/web");
        assert_eq!(shop.pod("shop/web").unwrap().to_string(), "shop/web");
        shop.pod("other/web").unwrap_err();
        none.pod("Web").unwrap_err();
    }

    #[test]
    fn what_is_waited_for_is_a_condition_or_the_end() {
        let ready = |status| Goal::Condition { kind: "Ready".to_owned(), status };
        assert_eq!(goal("condition=Ready").unwrap(), ready(true));
        assert_eq!(goal("condition=Ready=False").unwrap(), ready(false));
        assert_eq!(goal("delete").unwrap(), Goal::Delete);
        for bad in ["", "condition=", "condition=Ready=maybe", "Ready"] {
            goal(bad).unwrap_err();
        }
    }
}
