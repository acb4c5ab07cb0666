//! [`question`]: the words that were typed → what the last of them may become. Pure: what only the
//! agent knows is named, not asked for.

use clap::{Arg, Command, CommandFactory as _};

use super::names::What;
use crate::cli::args::{Cli, Shell};
use crate::ids::{Namespace, PodName};

/// What is to be found for the last word.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// The value of `--root`, if it was typed.
    pub(super) root: Option<String>,
    /// What every candidate has before it, in the eyes of the shell.
    pub(super) before: String,
    /// How every candidate begins.
    pub(super) typed: String,
    pub(super) wanted: Wanted,
}

/// What may stand there.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Nothing,
    Files,
    Directories,
    These(Vec<Candidate>),
    Names(What),
}

/// One of them, with a word about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) value: String,
    pub(super) help: String,
}

/// What is asked by words of which the last one is being typed.
pub(super) fn question(shell: Shell, words: Vec<String>) -> Question {
    let mut root = Cli::command();
    root.build();
    let mut words = joined(words);
    let current = words.pop().unwrap_or_default();
    let mut typed = Typed::of(&root, &words);
    let (before, value) = match (typed.open.take(), current.split_once('=')) {
        (Some(option), _) => return typed.about(option, String::new(), current),
        (None, Some((option, value))) if option.starts_with("--") && !typed.is_escaped => {
            (option.to_owned(), value.to_owned())
        }
        (None, _) => return typed.word(current),
    };
    let option = typed.option(&before);
    // bash takes what follows `=` for a word of its own.
    let shown = match shell {
        Shell::Bash => String::new(),
        Shell::Zsh | Shell::Fish => format!("{before}="),
    };
    match option {
        Some(option) => typed.about(option, shown, value),
        None => typed.ask(String::new(), value, Wanted::Nothing),
    }
}

/// bash makes three words of `--option=value`, and of what contains a colon.
fn joined(words: Vec<String>) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut is_open = false;
    for word in words {
        match out.last_mut() {
            Some(last) if is_open => {
                last.push_str(&word);
                is_open = false;
            }
            Some(last) if word == "=" && last.starts_with("--") && !last.contains('=') => {
                last.push('=');
                is_open = true;
            }
            Some(_) | None => out.push(word),
        }
    }
    out
}

/// What has been typed before the last word.
struct Typed<'a> {
    command: &'a Command,
    /// Values of positional arguments of the command.
    values: Vec<String>,
    root: Option<String>,
    namespace: Option<String>,
    /// An option that waits for its value.
    open: Option<&'a Arg>,
    /// `--` has been typed.
    is_escaped: bool,
}

impl<'a> Typed<'a> {
    fn of(root: &'a Command, words: &[String]) -> Self {
        let mut typed = Self {
            command: root,
            values: Vec::new(),
            root: None,
            namespace: None,
            open: None,
            is_escaped: false,
        };
        words.iter().for_each(|word| typed.take(word));
        typed
    }

    fn take(&mut self, word: &str) {
        if let Some(option) = self.open.take() {
            return self.set(option, word);
        }
        if self.is_escaped || !word.starts_with('-') || word == "-" {
            let below = self.command.find_subcommand(word);
            match below.filter(|_| self.values.is_empty() && !self.is_escaped) {
                Some(command) => self.command = command,
                None => self.values.push(word.to_owned()),
            }
            return;
        }
        if word == "--" {
            self.is_escaped = true;
            return;
        }
        match word.split_once('=') {
            Some((name, value)) => {
                if let Some(option) = self.option(name) {
                    self.set(option, value);
                }
            }
            None => self.open = self.option(word).filter(|option| takes_value(option)),
        }
    }

    fn set(&mut self, option: &Arg, value: &str) {
        match option.get_id().as_str() {
            "root" => self.root = Some(value.to_owned()),
            "namespace" => self.namespace = Some(value.to_owned()),
            _ => {}
        }
    }

    /// The option of a word: `--name`, or of `-abc` the last one.
    fn option(&self, word: &str) -> Option<&'a Arg> {
        let mut options = self.command.get_arguments();
        if let Some(name) = word.strip_prefix("--") {
            return options.find(|option| option.get_long() == Some(name));
        }
        let letter = word.chars().last()?;
        options.find(|option| option.get_short() == Some(letter))
    }

    /// What a word may be that is no value of an option.
    fn word(self, current: String) -> Question {
        if current.starts_with('-') && !self.is_escaped {
            let options = self.command.get_arguments().filter(|option| !option.is_hide_set());
            let candidate = |option: &Arg| {
                let value = format!("--{}", option.get_long()?);
                let help = option.get_help().map(ToString::to_string).unwrap_or_default();
                Some(Candidate { value, help })
            };
            let candidates = options.filter_map(candidate).collect();
            return self.ask(String::new(), current, Wanted::These(candidates));
        }
        let commands: Vec<&Command> =
            self.command.get_subcommands().filter(|command| !command.is_hide_set()).collect();
        if !commands.is_empty() && self.values.is_empty() {
            let candidate = |command: &&Command| Candidate {
                value: command.get_name().to_owned(),
                help: command.get_about().map(ToString::to_string).unwrap_or_default(),
            };
            let candidates = commands.iter().map(candidate).collect();
            return self.ask(String::new(), current, Wanted::These(candidates));
        }
        let positionals: Vec<&'a Arg> = self.command.get_positionals().collect();
        let last = positionals.last().filter(|last| takes_several(last));
        match positionals.get(self.values.len()).or(last).copied() {
            Some(argument) => self.about(argument, String::new(), current),
            None => self.ask(String::new(), current, Wanted::Nothing),
        }
    }

    /// What the value of an argument may be.
    fn about(self, argument: &Arg, before: String, current: String) -> Question {
        let possible = argument.get_possible_values();
        let possible: Vec<Candidate> = possible
            .iter()
            .filter(|value| !value.is_hide_set())
            .map(|value| Candidate {
                value: value.get_name().to_owned(),
                help: value.get_help().map(ToString::to_string).unwrap_or_default(),
            })
            .collect();
        if !possible.is_empty() {
            return self.ask(before, current, Wanted::These(possible));
        }
        let names = argument.get_value_names().unwrap_or_default();
        let wanted = match names.first().map(|name| name.as_str()) {
            Some("FILE") => Wanted::Files,
            Some("DIR") => Wanted::Directories,
            Some("NAMESPACE") => Wanted::Names(What::Namespaces),
            Some("NAME") => self.pods(&current),
            Some("IMAGE") => Wanted::Names(What::Images),
            Some("CONTAINER") => self.of_pod(What::Containers),
            Some("REVISION") => self.of_pod(What::Revisions),
            Some("WHAT") => {
                let goals = ["condition=Ready", "phase=Succeeded", "delete"]
                    .map(|value| Candidate { value: value.to_owned(), help: String::new() });
                Wanted::These(goals.into())
            }
            Some(_) | None => Wanted::Nothing,
        };
        self.ask(before, current, wanted)
    }

    fn pods(&self, current: &str) -> Wanted {
        let namespace = self.namespace.as_deref().map(str::parse::<Namespace>);
        match namespace {
            Some(Ok(namespace)) => Wanted::Names(What::PodsOf(namespace)),
            Some(Err(_)) => Wanted::Nothing,
            None => Wanted::Names(What::Pods { qualified: current.contains('/') }),
        }
    }

    /// Something of the pod that has been named.
    fn of_pod(&self, what: fn(PodName) -> What) -> Wanted {
        let name = self.values.first().map(|name| match &self.namespace {
            Some(namespace) if !name.contains('/') => format!("{namespace}/{name}"),
            Some(_) | None => name.clone(),
        });
        match name.and_then(|name| name.parse().ok()) {
            Some(name) => Wanted::Names(what(name)),
            None => Wanted::Nothing,
        }
    }

    fn ask(self, before: String, typed: String, wanted: Wanted) -> Question {
        Question { root: self.root, before, typed, wanted }
    }
}

fn takes_value(option: &Arg) -> bool {
    option.get_action().takes_values()
}

fn takes_several(argument: &Arg) -> bool {
    matches!(argument.get_action(), clap::ArgAction::Append)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(shell: Shell, line: &str) -> Question {
        question(shell, line.split(' ').map(str::to_owned).collect())
    }

    #[track_caller]
    fn wanted(line: &str) -> Wanted {
        asked(Shell::Zsh, line).wanted
    }

    #[track_caller]
    fn values(line: &str) -> Vec<String> {
        let wanted = wanted(line);
        let Wanted::These(candidates) = wanted else { panic!("{line}: {wanted:?}") };
        candidates.into_iter().map(|it| it.value).collect()
    }

    #[test]
    fn commands_come_first_and_hidden_ones_do_not_come() {
        let commands = values("");
        assert!(commands.contains(&"get".to_owned()) && commands.contains(&"apply".to_owned()));
        assert!(!commands.contains(&"__complete".to_owned()), "{commands:?}");
        assert_eq!(values("get ")[..4], ["pods", "containers", "images", "events"]);
        assert!(values("--root x --color never ").contains(&"get".to_owned()));
    }

    #[test]
    fn options_are_those_of_the_command_and_the_common_ones() {
        let options = values("logs web --");
        for option in ["--follow", "--tail", "--root", "--color", "--namespace"] {
            assert!(options.contains(&option.to_owned()), "{options:?}");
        }
        assert!(!options.contains(&"--output".to_owned()), "{options:?}");
    }

    #[test]
    fn values_are_those_that_an_option_takes() {
        assert_eq!(values("get pods -o "), ["table", "wide", "json", "yaml", "name"]);
        assert_eq!(values("status --output "), ["table", "json", "yaml"]);
        assert_eq!(values("completion "), ["bash", "zsh", "fish"]);
        assert_eq!(values("top "), ["pods", "node"]);
        assert_eq!(values("wait pod web --for "), ["condition=Ready", "phase=Succeeded", "delete"]);
        assert_eq!(wanted("apply -f "), Wanted::Files);
        assert_eq!(wanted("validate a.yaml b.y"), Wanted::Files);
        assert_eq!(wanted("--root "), Wanted::Directories);
        assert_eq!(wanted("logs web --tail "), Wanted::Nothing);
    }

    #[test]
    fn names_are_asked_for_where_they_belong() {
        let names = |line: &str| {
            let wanted = wanted(line);
            let Wanted::Names(what) = wanted else { panic!("{line}: {wanted:?}") };
            what
        };
        let pods = What::Pods { qualified: false };
        for line in ["get pods ", "logs ", "describe pod w", "restart ", "delete pod ", "ps "] {
            assert_eq!(names(line), pods, "{line}");
        }
        assert_eq!(names("logs shop/"), What::Pods { qualified: true });
        assert_eq!(names("get po -n shop "), What::PodsOf("shop".parse().unwrap()));
        assert_eq!(names("get pods -n "), What::Namespaces);
        for line in ["image rm ", "image rm a ", "get images ", "image ls "] {
            assert_eq!(names(line), What::Images, "{line}");
        }
        assert_eq!(names("logs web -c "), What::Containers("web".parse().unwrap()));
        let of_shop = What::Containers("shop/web".parse().unwrap());
        assert_eq!(names("logs -n shop web --container "), of_shop);
        assert_eq!(names("rollback web --to "), What::Revisions("web".parse().unwrap()));
        assert_eq!(wanted("logs web "), Wanted::Nothing, "there is one pod only");
    }

    #[test]
    fn a_value_after_an_equals_sign_is_a_word_of_its_own_for_bash_only() {
        let zsh = asked(Shell::Zsh, "get pods --output=j");
        assert_eq!((zsh.before.as_str(), zsh.typed.as_str()), ("--output=", "j"));
        for line in ["get pods --output = j", "get pods --output=j"] {
            let bash = asked(Shell::Bash, line);
            assert_eq!((bash.before.as_str(), bash.typed.as_str()), ("", "j"), "{line}");
            assert!(matches!(bash.wanted, Wanted::These(_)));
        }
        assert_eq!(asked(Shell::Bash, "--root = /x logs ").root.as_deref(), Some("/x"));
        assert_eq!(asked(Shell::Bash, "--root /x logs ").root.as_deref(), Some("/x"));
    }

    #[test]
    fn whatever_is_typed_is_answered() {
        for line in [
            "-",
            "--",
            "-- --",
            "--x=",
            "=",
            "get = =",
            "no such command ",
            "-n -n -n",
            "get pods a b c",
        ] {
            asked(Shell::Bash, line);
            asked(Shell::Fish, line);
        }
    }
}
