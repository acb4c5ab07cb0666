//! `$(NAME)` in words of a command and in values of variables, as Kubernetes has it.
//!
//! `$(NAME)` is the value of a variable; of one that is not known it is left as it stands, since it
//! may be meant for a shell. `$$` is one `$`. What a value brings in is not looked at again. Not
//! here: which variables a container has (`manifest::decode`).

/// Why a text can't be expanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is longer than {most} bytes with its variables in place")]
pub(crate) struct TooLong {
    most: usize,
}

/// A text with the variables in place that `value_of` knows; at most that many bytes.
pub(crate) fn expand<'v>(
    text: &str,
    most: usize,
    value_of: impl Fn(&str) -> Option<&'v str>,
) -> Result<String, TooLong> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let (piece, after) = match reference(from) {
            Some((name, after)) => match value_of(name) {
                Some(value) => (value, after),
                None => from.split_at(from.len() - after.len()),
            },
            // One `$`, of one or of two.
            None => ("$", from.strip_prefix("$$").or(from.strip_prefix('$')).unwrap_or_default()),
        };
        out.push_str(piece);
        rest = after;
        if out.len() > most {
            return Err(TooLong { most });
        }
    }
    out.push_str(rest);
    if out.len() > most { Err(TooLong { most }) } else { Ok(out) }
}

/// The names of the variables that a text refers to.
pub(crate) fn references(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let (_, from) = rest.split_at(rest.find('$')?);
            match reference(from) {
                Some((name, after)) => {
                    rest = after;
                    return Some(name);
                }
                None => rest = from.strip_prefix("$$").or(from.strip_prefix('$'))?,
            }
        }
    })
}

/// The variable that a text begins with a reference to, and what comes after it.
fn reference(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix("$(")?.split_once(')')
}

/// A text that expands to this one whatever the variables are.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        out.push(c);
        if c == '$' && rest.as_str().starts_with(['$', '(']) {
            out.push('$');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn variable(name: &str) -> Option<&'static str> {
        match name {
            "A" => Some("1"),
            "B" => Some("$(A)"),
            "EMPTY" => Some(""),
            "" => Some("nameless"),
            _ => None,
        }
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(expand(text, 100, variable).as_deref(), Ok(expected), "{text}");
    }

    /// The cases of Kubernetes' own `third_party/forked/golang/expansion`, by their meaning.
    #[test]
    fn variables_are_put_in_as_kubernetes_does() {
        check("$(A)", "1");
        check("___$(A)___$(A)", "___1___1");
        check("$(EMPTY)$()", "nameless");
        check("$$(A)", "$(A)");
        check("$$$(A)", "$1");
        check("$$$$(A)", "$$(A)");
        check("f000-$$A", "f000-$A");
        check("$A ${A} $", "$A ${A} $");
        check("$(A", "$(A");
        check("$((A))", "$((A))");
        check("$(UNKNOWN) $(date +%s) $(A)", "$(UNKNOWN) $(date +%s) 1");
        check("$(UNKNOWN $(A))", "$(UNKNOWN $(A))");
        check("ä$(A)ä", "ä1ä");
    }

    #[test]
    fn a_value_is_not_expanded_again() {
        check("$(B)", "$(A)");
    }

    #[test]
    fn what_grows_beyond_the_limit_is_refused() {
        assert_eq!(expand("$(A)$(A)$(A)", 2, variable), Err(TooLong { most: 2 }));
        assert_eq!(expand("abc", 2, variable), Err(TooLong { most: 2 }));
    }

    #[test]
    fn references_are_found_where_they_are_put_in() {
        let found: Vec<&str> = references("$(A) $$(B) $(C $(D) $E $$$(F) $(").collect();
        assert_eq!(found, ["A", "C $(D", "F"]);
    }

    proptest! {
        #[test]
        fn an_escaped_text_expands_to_itself(text in "([$()AB]|\\$\\$|\\$\\(|ä){0,12}") {
            prop_assert_eq!(expand(&escape(&text), 1000, variable), Ok(text));
        }
    }
}
