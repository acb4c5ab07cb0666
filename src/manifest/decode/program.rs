//! `command`, `args` and `env` of a container, with `$(NAME)` put in.

use std::collections::{BTreeMap, BTreeSet};

use super::config::{self, Around};
use super::fields::{At, Fields};
use super::schema;
use super::suggest::closest;
use crate::manifest::diagnostic::{Faults, quote};
use crate::manifest::expansion::{expand, references};
use crate::manifest::node::Kind;
use crate::manifest::pod::{EnvFrom, EnvVar};

/// Words of a command line, and variables.
const WORDS_MAX: usize = 10_000;
/// `MAX_ARG_STRLEN` of Linux (execve(2)): longest argument or variable with its NUL, in bytes.
const WORD_LEN_MAX: usize = 128 << 10;
/// All words and variables together, in bytes: what Linux allows with the usual stack of 8 MiB
/// (execve(2)). It also bounds what variables in variables can grow to.
const PROGRAM_LEN_MAX: usize = 2 << 20;

/// References that are looked for among a container's variables, their length, and variables that
/// are looked through: it costs time, and nobody reads more.
const LOOKED_FOR_MAX: usize = 20;
const NEAREST_LEN_MAX: usize = 32;
const NEAREST_MAX: usize = 64;

/// What is run, and with which variables.
#[derive(Debug, Default)]
pub(super) struct Program {
    pub(super) command: Vec<String>,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<EnvVar>,
    pub(super) env_from: Vec<EnvFrom>,
}

/// Reads the program of a container.
pub(super) fn decode(fields: &Fields<'_>, around: Around<'_>, faults: &mut Faults) -> Program {
    let env_from = fields.get("envFrom").map(|at| config::env_from(at, faults));
    let env_from = env_from.unwrap_or_default();
    let env_at = fields.get("env");
    let open = !env_from.is_empty() || env_at.as_ref().is_some_and(takes_values);
    let mut words = Words { open, ..Words::default() };
    let env = env_at.map(|at| words.env(at, around, faults)).unwrap_or_default();
    let [command, args] = words.argv(fields, faults);
    if words.len > PROGRAM_LEN_MAX {
        let message = format!(
            "`command`, `args` and `env` must be at most {PROGRAM_LEN_MAX} bytes together (a limit \
             of Linux), with their variables in place"
        );
        faults.push(fields.at.error(&message));
        return Program::default();
    }
    Program { command, args, env, env_from }
}

/// The variables so far, and the length of all that has been read.
#[derive(Debug, Default)]
struct Words {
    known: BTreeMap<String, String>,
    len: usize,
    /// References that were looked for among the known ones.
    looked_for: usize,
    /// Whether there are variables whose values are not known here. Then nothing is put in yet.
    open: bool,
}

impl Words {
    fn env(&mut self, at: At<'_>, around: Around<'_>, faults: &mut Faults) -> Vec<EnvVar> {
        let mut found: Vec<EnvVar> = Vec::new();
        let mut later = names(&at);
        for item in at.items(WORDS_MAX, faults) {
            let Some(fields) = item.fields(&schema::ENV_VAR, faults) else { continue };
            let name = fields.required("name", faults).and_then(|at| env_name(at, faults));
            let value_at = fields.get("value");
            let value = match value_at {
                Some(at) => self.word(at, &later, faults),
                None => Some(String::new()),
            };
            let from_at = fields.get("valueFrom");
            let from = from_at.and_then(|at| config::value_from(at, around, faults));
            if let (Some(at), Some(_)) = (from_at, value.as_ref().filter(|it| !it.is_empty())) {
                faults.push(at.error("can't be set together with `value`"));
            }
            let Some(name) = name else { continue };
            // Also where its value is faulty: that has been said.
            later.remove(name.as_str());
            let Some(value) = value else { continue };
            if self.known.insert(name.clone(), value.clone()).is_some() {
                let message = format!("{} is set twice; the later value counts", quote(&name));
                faults.push(item.warning(&message));
            }
            found.push(EnvVar { name, value, from });
        }
        found
    }

    /// `command` and `args`.
    fn argv(&mut self, fields: &Fields<'_>, faults: &mut Faults) -> [Vec<String>; 2] {
        let mark = faults.mark();
        let argv = ["command", "args"].map(|name| {
            let mut words = Vec::new();
            if let Some(list) = fields.get(name) {
                for item in list.items(WORDS_MAX, faults) {
                    words.extend(self.word(item, &BTreeSet::new(), faults));
                }
            }
            words
        });
        // An image may have a program of its own.
        let has_image = fields.at.member("image").is_some();
        let has_program = argv.iter().flatten().next().is_some_and(|program| !program.is_empty());
        let is_known = self.len <= PROGRAM_LEN_MAX && !faults.any_error_since(mark);
        if !has_program && !has_image && is_known {
            let message = "`command` or `args` must begin with a program to run";
            let help = "as in `command: [/bin/sh, -c, \"…\"]`";
            faults.push(fields.at.error(message).with_help(help));
        }
        argv
    }

    /// An argument or the value of a variable, with the variables that are read `later`.
    fn word(&mut self, at: At<'_>, later: &BTreeSet<&str>, faults: &mut Faults) -> Option<String> {
        let text = at.c_text(faults)?;
        // Once it is too much it is only counted.
        if self.len > PROGRAM_LEN_MAX {
            return None;
        }
        if self.open {
            self.len += text.len() + 1;
            return Some(text.to_owned());
        }
        match expand(text, WORD_LEN_MAX - 1, |name| self.known.get(name).map(String::as_str)) {
            Ok(word) => {
                self.len += word.len() + 1;
                self.advise(at, text, later, faults);
                Some(word)
            }
            Err(_) => {
                let message =
                    format!("must be shorter than {WORD_LEN_MAX} bytes (a limit of Linux)");
                let fault = at.error(&message);
                faults.push(if text.len() < WORD_LEN_MAX {
                    fault.with_help("it grows with the variables that are put in")
                } else {
                    fault
                });
                None
            }
        }
    }

    /// Warns of references that were probably meant to be put in and are not: they are left as
    /// they stand, which in a shell runs a program.
    fn advise(&mut self, at: At<'_>, text: &str, later: &BTreeSet<&str>, faults: &mut Faults) {
        let mut seen = BTreeSet::new();
        for name in references(text) {
            if self.known.contains_key(name) || !seen.insert(name) {
                continue;
            }
            let found = quote(&format!("$({name})"));
            if later.contains(name) {
                let message = format!("{found} is left as it stands: the variable comes later");
                let help = "variables are put in from top to bottom; move it before this one";
                faults.push(at.warning(&message).with_help(help));
            } else if let Some(near) = self.nearest(name) {
                let message = format!("{found} is left as it stands: there is no such variable");
                let help = format!("did you mean `$({near})`?");
                faults.push(at.warning(&message).with_help(&help));
            }
        }
    }

    /// The variable that was probably meant.
    fn nearest(&mut self, name: &str) -> Option<String> {
        if !is_variable(name) || self.looked_for == LOOKED_FOR_MAX {
            return None;
        }
        self.looked_for += 1;
        let known = self.known.keys().map(String::as_str).filter(|known| is_variable(known));
        closest(name, known.take(NEAREST_MAX)).map(str::to_owned)
    }
}

/// Whether a variable of the list has a `valueFrom`.
fn takes_values(at: &At<'_>) -> bool {
    let Kind::Sequence(items) = &at.node.kind else { return false };
    items.iter().any(|item| item.get("valueFrom").is_some_and(|from| !from.is_null()))
}

/// Whether it is written as variables are, and programs are not.
fn is_variable(name: &str) -> bool {
    name.len() <= NEAREST_LEN_MAX
        && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

/// The names of all variables of a list.
fn names<'a>(at: &At<'a>) -> BTreeSet<&'a str> {
    let Kind::Sequence(items) = &at.node.kind else { return BTreeSet::new() };
    items.iter().filter_map(|item| item.get("name")?.as_text()).take(WORDS_MAX).collect()
}

/// The name of a variable: printable ASCII without `=` (Kubernetes' relaxed rule).
fn env_name(at: At<'_>, faults: &mut Faults) -> Option<String> {
    let text = at.text(faults)?;
    let valid = !text.is_empty() && text.bytes().all(|b| matches!(b, b' '..=b'~') && b != b'=');
    if !valid || text.len() >= WORD_LEN_MAX {
        let message = format!(
            "{} is no name for a variable: printable ASCII without `=`, at least one character",
            quote(text)
        );
        faults.push(at.error(&message));
        return None;
    }
    Some(text.to_owned())
}
