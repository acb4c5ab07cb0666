//! `roost completion`: scripts for shells, and what they ask while somebody types.
//!
//! The scripts know nothing: they hand over the words and show what comes back, so that they fit
//! every later version. What can be typed comes from the definition of the arguments; names of
//! pods, containers and namespaces come from the agent, if it answers at once.

mod engine;
mod names;

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::args::{CompleteArgs, Shell};
use super::client::Client;
use super::failure::Failure;
use super::output;
use engine::{Candidate, Wanted};

/// How long an agent may take: somebody has pressed a key, and waits.
const PATIENCE: Duration = Duration::from_secs(1);

/// The script for a shell.
pub(super) fn script(shell: Shell) -> &'static str {
    match shell {
        Shell::Bash => include_str!("completion/roost.bash"),
        Shell::Zsh => include_str!("completion/roost.zsh"),
        Shell::Fish => include_str!("completion/roost.fish"),
    }
}

/// Prints what the last word may become, one a line; `:files` and `:directories` leave it to the
/// shell. Silent about everything that goes wrong: nobody types to read errors.
pub(super) fn answer(root: Option<&Path>, args: &CompleteArgs) -> Result<(), Failure> {
    let words = args.words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let question = engine::question(args.shell, words);
    let root = question.root.clone().map(PathBuf::from).or_else(|| root.map(Path::to_owned));
    let candidates = match question.wanted {
        Wanted::Files => return output::print(":files\n"),
        Wanted::Directories => return output::print(":directories\n"),
        Wanted::Nothing => return Ok(()),
        Wanted::These(candidates) => candidates,
        Wanted::Names(what) => asked(root.as_deref(), &what)
            .into_iter()
            .map(|value| Candidate { value, help: String::new() })
            .collect(),
    };
    let fits = |it: &&Candidate| it.value.starts_with(&question.typed);
    let lines = candidates.iter().filter(fits).map(|it| line(args.shell, &question.before, it));
    output::print(&lines.collect::<String>())
}

/// The names that the agent knows; none if it does not say so at once.
fn asked(root: Option<&Path>, what: &names::What) -> Vec<String> {
    let Ok(client) = Client::of(root) else { return Vec::new() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return Vec::new() };
    let names = runtime.block_on(async {
        tokio::time::timeout(PATIENCE, names::ask(&client, what)).await.ok()?.ok()
    });
    // One that hangs is not waited for.
    runtime.shutdown_background();
    names.unwrap_or_default()
}

/// A candidate as the script of the shell takes it.
fn line(shell: Shell, before: &str, candidate: &Candidate) -> String {
    let value = output::clean_line(&candidate.value);
    let help = output::clean_line(&candidate.help);
    match shell {
        Shell::Bash => format!("{before}{value}\n"),
        Shell::Zsh | Shell::Fish if help.is_empty() => format!("{before}{value}\n"),
        Shell::Zsh | Shell::Fish => format!("{before}{value}\t{help}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_is_not_there_leaves_silence() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(asked(Some(root.path()), &names::What::Pods { qualified: false }), [""; 0]);
    }

    #[test]
    fn an_agent_that_hangs_is_not_waited_for() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("run")).unwrap();
        let socket = root.path().join("run/roost.sock");
        // Accepts nothing: whoever connects waits.
        let _deaf = std::os::unix::net::UnixListener::bind(socket).unwrap();
        let began = std::time::Instant::now();
        assert_eq!(asked(Some(root.path()), &names::What::Namespaces), [""; 0]);
        assert!(began.elapsed() < 5 * PATIENCE);
    }

    #[test]
    fn shells_get_the_help_that_they_can_show() {
        let candidate = Candidate { value: "get".to_owned(), help: "Lists\u{7}".to_owned() };
        assert_eq!(line(Shell::Bash, "", &candidate), "get\n");
        assert_eq!(line(Shell::Zsh, "", &candidate), "get\tLists\\u{7}\n");
        assert_eq!(line(Shell::Fish, "--x=", &candidate), "--x=get\tLists\\u{7}\n");
    }
}
