//! What can be typed.

use std::ffi::OsString;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand};

use super::agent::{AgentArgs, Format};
use super::failure::Failure;
use super::screen::ColorChoice;
use crate::ids::{ContainerName, Namespace, PodName};

mod changes;
mod images;
mod lists;

pub(super) use changes::{
    ApplyArgs, DiffArgs, FilesArg, PlanArgs, RestartArgs, RollbackArgs, WaitArg,
};
pub(super) use images::{ImageCommand, ImagesArgs, LoadArgs, PullArgs, RemoveArgs};
pub(super) use lists::{
    CompleteArgs, CompletionArgs, ContainersArgs, DocumentsArgs, EventsArgs, GetCommand, Output,
    PodsArgs, RevisionsArgs, Shell, TopArgs, TopWhat, VersionArgs, Which,
};

#[cfg(test)]
pub(super) use lists::Space;

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
    /// When to print in colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(super) color: ColorChoice,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// The daemon, in the foreground
    Agent(Box<AgentArgs>),
    /// Lists pods, containers, images, events or revisions
    #[command(subcommand)]
    Get(GetCommand),
    /// Lists pods, as `get pods` does
    Ps(PodsArgs),
    /// Everything known about a pod, its newest events last
    #[command(subcommand)]
    Describe(DescribeCommand),
    /// What containers printed
    Logs(LogsArgs),
    /// Executes a command in a container
    Exec(ExecArgs),
    /// Leads ports of this machine to ports of a pod, until it is stopped
    PortForward(ForwardArgs),
    /// What happened, oldest first, as `get events` does
    Events(EventsArgs),
    /// What manifest files would change, if they lay in the manifest directory
    Diff(DiffArgs),
    /// What the agent would do now
    Plan(PlanArgs),
    /// Puts manifest files into the manifest directory, if nothing is wrong with them
    Apply(ApplyArgs),
    /// Starts a pod anew
    Restart(RestartArgs),
    /// Takes a pod back to an earlier revision
    Rollback(RollbackArgs),
    /// The revisions of a pod, as `get revisions` does
    Revisions(RevisionsArgs),
    /// Removes pods by removing their manifests
    #[command(subcommand)]
    Delete(DeleteCommand),
    /// Pulls, loads, lists and removes images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Waits until something holds of a pod
    #[command(subcommand)]
    Wait(WaitCommand),
    /// How much cpu and memory pods use
    Top(TopArgs),
    /// How the agent itself is: alarms, refused files, store
    Status(StatusArgs),
    /// Checks manifests; needs no agent and touches nothing
    Validate(ValidateArgs),
    /// Prints a script that completes commands and names in a shell
    Completion(CompletionArgs),
    /// What such a script asks
    #[command(name = "__complete", hide = true)]
    Complete(CompleteArgs),
    /// Which build this is, and which the agent is
    Version(VersionArgs),
}

#[derive(Debug, Args)]
pub(super) struct NamespaceArg {
    /// The namespace [default: all for lists, `default` for names]
    #[arg(short, long = "namespace", value_name = "NAMESPACE")]
    pub(super) namespace: Option<Namespace>,
}

/// What a name of a pod may begin with.
const KINDS: [&str; 3] = ["pod/", "pods/", "po/"];

/// The arguments of the program, with `delete pod/web` as `delete pods pod/web`: where kubectl takes
/// a kind and a name in one word, so is it here.
pub(super) fn with_kinds(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let has_kind = |word: &OsString| {
        word.to_str().is_some_and(|word| KINDS.iter().any(|kind| word.starts_with(kind)))
    };
    let mut at = 1;
    // Options of every command, with their values.
    while let Some(word) = arguments.get(at).and_then(|word| word.to_str()) {
        match word {
            "--root" | "--color" => at += 2,
            option if option.starts_with('-') => at += 1,
            _ => break,
        }
    }
    let command = arguments.get(at).and_then(|word| word.to_str());
    let takes_kind = matches!(command, Some("get" | "describe" | "delete" | "wait" | "top"));
    let mut rest = arguments.iter().skip(at + 1).take_while(|word| *word != "--").peekable();
    // A word that is no option is the kind, if it is not the value of one.
    let is_bare =
        rest.peek().is_some_and(|next| has_kind(next) || next.as_bytes().starts_with(b"-"));
    if takes_kind && is_bare && rest.any(has_kind) {
        arguments.insert(at + 1, "pods".into());
    }
    arguments
}

impl NamespaceArg {
    /// Which pod `NAME` or `NAMESPACE/NAME` is, with or without `pod/` before it.
    pub(super) fn pod(&self, name: &str) -> Result<PodName, Failure> {
        let name = KINDS.iter().find_map(|kind| name.strip_prefix(kind)).unwrap_or(name);
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
    /// Of every container, each line after the name of its container
    #[arg(long, conflicts_with = "container")]
    pub(super) all_containers: bool,
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

#[derive(Debug, Args)]
#[command(after_help = "\
Ends as the command does: with its exit code, or 128 and the number of the signal that killed it. \
With 1 also if it can't be executed, and with 3 if the agent can't be reached.
The command, and whatever it has started, is killed when this ends.")]
pub(super) struct ExecArgs {
    #[command(flatten)]
    pub(super) pod: PodArgs,
    /// In which container; needed if the pod has several
    #[arg(short, long, value_name = "CONTAINER")]
    pub(super) container: Option<ContainerName>,
    /// Passes standard input on to the command
    #[arg(short = 'i', long)]
    pub(super) stdin: bool,
    /// Gives the command a terminal, with -i
    #[arg(short, long)]
    pub(super) tty: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(super) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(super) struct ForwardArgs {
    #[command(flatten)]
    pub(super) pod: PodArgs,
    /// [LOCAL:]REMOTE: the port here, any that is free if it is 0 or left out before the colon, and
    /// that of the pod
    #[arg(value_name = "PORTS", required = true, value_parser = super::forward::ports)]
    pub(super) ports: Vec<Forwarded>,
    /// The address of this machine to listen on: whoever reaches it reaches the pod
    #[arg(long, default_value = "localhost", value_parser = super::forward::address)]
    pub(super) address: IpAddr,
}

/// A port that is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Forwarded {
    /// Of this machine; 0 for any that is free.
    pub(super) local: u16,
    /// Of the pod.
    pub(super) remote: u16,
}

#[derive(Debug, Subcommand)]
pub(super) enum DeleteCommand {
    /// Removes pods by removing their manifests
    #[command(visible_aliases = ["pods", "po"])]
    Pod(DeleteArgs),
}

#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    /// The pods: NAME or NAMESPACE/NAME
    #[arg(value_name = "NAME", required = true)]
    pub(super) names: Vec<String>,
    #[command(flatten)]
    pub(super) namespace: NamespaceArg,
    /// Returns when nothing is left of the pods
    #[arg(long)]
    pub(super) wait: bool,
    /// How long at most, for all of them; a pod may use up its grace period
    #[arg(long, default_value = "10m", value_name = "SPAN", value_parser = humantime::parse_duration)]
    pub(super) timeout: Duration,
}

#[derive(Debug, Subcommand)]
pub(super) enum WaitCommand {
    /// Waits until something holds of a pod
    #[command(visible_aliases = ["pods", "po"])]
    Pod(WaitArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
A pod that there is not is waited for, too: its manifest may be about to come.
Ends with 1 when the time is up, and at once when it can't come true any more.")]
pub(super) struct WaitArgs {
    #[command(flatten)]
    pub(super) pod: PodArgs,
    /// condition=NAME, condition=NAME=false, phase=NAME, or delete
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
    /// The pod is in this phase.
    Phase(String),
    /// There is no such pod.
    Delete,
}

fn goal(text: &str) -> Result<Goal, String> {
    let rule = "it must be condition=NAME, condition=NAME=false, phase=NAME, or delete";
    if text == "delete" {
        return Ok(Goal::Delete);
    }
    if let Some(wanted) = text.strip_prefix("phase=") {
        let phases = ["Pending", "Running", "Succeeded", "Failed", "Unknown"];
        let known = phases.into_iter().find(|phase| phase.eq_ignore_ascii_case(wanted));
        let known = known.ok_or_else(|| format!("a phase is one of {}", phases.join(", ")))?;
        return Ok(Goal::Phase(known.to_owned()));
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
#[command(after_help = "\
Ends with 1 if something is wrong that somebody must act on: an alarm (a manifest directory or the \
configuration), a fault in a manifest, a pod that several manifests ask for, a store that can't be \
written, or one that had to be rebuilt when the agent started.
What is only odd does not count, nor does what pods do.")]
pub(super) struct StatusArgs {
    /// How it is shown
    #[arg(short, long, default_value = "table", value_name = "FORM", value_parser = lists::plain())]
    pub(super) output: Output,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("to_do").args(["bare", "named", "schema"]).required(true).multiple(true))]
pub(super) struct ValidateArgs {
    #[command(flatten)]
    pub(super) files: FilesArg,
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
        Cli::try_parse_from(with_kinds(words.map(Into::into).collect()))
            .map(|cli| cli.command)
            .map_err(|error| error.to_string())
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
            "--color never get pods hello -o wide -w",
            "get po -n shop -o json -l app=web,tier!=back",
            "get pods -A -o yaml",
            "get containers hello -o wide",
            "get events hello -w",
            "get revisions hello -o yaml",
            "get images nginx -o wide",
            "image pull nginx ghcr.io/example/web:1.2",
            "image load a.tar dir",
            "image ls -o json",
            "image rm nginx 0123456789ab",
            "image prune",
            "ps",
            "describe pod hello --root state",
            "logs hello -c visitor -f -p --tail 5 --since 10m --timestamps",
            "logs hello --all-containers",
            "exec hello -- true",
            "port-forward hello 8080:80 :443 9 --address 127.0.0.1",
            "exec -it pod/hello -c visitor -n shop -- sh -c -i",
            "events -w",
            "diff",
            "diff a.yaml - -o json",
            "plan",
            "apply -f a.yaml b.yaml -f - --wait --timeout 10s",
            "restart hello --wait",
            "rollback hello --to 3 --wait",
            "revisions hello",
            "top",
            "top pods --containers -n shop",
            "top node -o json",
            "delete pod shop/hello --wait",
            "wait pod hello --for=condition=Ready --timeout 60s",
            "wait pod hello --for=delete",
            "wait pod/hello --for delete",
            "--root state --color=never delete --wait pod/a pods/shop/b c",
            "delete pod -n shop a b",
            "delete -n shop pod/a",
            "describe po/hello",
            "get pod/hello -o yaml",
            "get containers pod/hello",
            "top pod/hello",
            "logs pods/hello",
            "rollback pod/hello --release",
            "validate -f a.yaml -f b",
            "diff -f a.yaml",
            "apply a.yaml b",
            "status -o json",
            "completion bash",
            "__complete bash -- get pods -",
            "validate a.yaml -",
            "version -o yaml",
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
        check("get pods -o xml", "table, wide, json, yaml, name");
        check("get pods -o jsn", "tip: a similar value exists: 'json'");
        check("status -o wide", "table, json, yaml");
        check("get pods -A -n shop", "cannot be used with");
        check("wait pod x --for=ready", "condition=NAME");
        check("get pods -n Shop", "DNS label");
        check("logs x --since never", "--since");
        check("logs x -c y --all-containers", "cannot be used with");
        check("exec x", "-- <COMMAND>...");
        check("port-forward x", "PORTS");
        check("port-forward x web:80", "is no port");
        check("exec x ls", "unexpected argument 'ls'");
        check("apply", "FILE");
        check("rollback x --to 0", "0 is not in 1..");
        check("rollback x --to 1 --release", "cannot be used with");
        check("image rm", "IMAGE");
        check("image pull", "IMAGE");
        check("delete pod", "NAME");
        check("wait pod x --for=phase=Ready", "Succeeded");
        check("desribe pod x", "tip: a similar subcommand exists: 'describe'");
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
        assert_eq!(none.pod("pod/web").unwrap().to_string(), "default/web");
        assert_eq!(none.pod("pod/shop/web").unwrap().to_string(), "shop/web");
        shop.pod("other/web").unwrap_err();
        none.pod("Web").unwrap_err();
    }

    #[test]
    fn what_is_waited_for_is_a_condition_or_the_end() {
        let ready = |status| Goal::Condition { kind: "Ready".to_owned(), status };
        assert_eq!(goal("condition=Ready").unwrap(), ready(true));
        assert_eq!(goal("condition=Ready=False").unwrap(), ready(false));
        assert_eq!(goal("delete").unwrap(), Goal::Delete);
        assert_eq!(goal("phase=succeeded").unwrap(), Goal::Phase("Succeeded".to_owned()));
        for bad in ["", "phase=Ready", "condition=", "condition=Ready=maybe", "Ready"] {
            goal(bad).unwrap_err();
        }
    }
}
