//! [`of`]: JSON as YAML, in the form that `kubectl` prints.
//!
//! What is written means the same to readers of YAML 1.1 and 1.2: whatever one of them might take
//! for something else than text stands in quotes. Not here: reading (`manifest::node`).

use std::fmt::Write as _;

use serde_json::Value;

use super::output::is_invisible;

/// The value as a document without a marker, with a line break at its end.
pub(super) fn of(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(_) | Value::Array(_) => block(&mut out, value, 0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            out.push_str(&flow(value));
            out.push('\n');
        }
    }
    out
}

/// A value that begins a line; its first line is indented by whoever calls.
fn block(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (at, (key, value)) in fields.iter().enumerate() {
                if at > 0 {
                    indent(out, depth);
                }
                out.push_str(&scalar(key));
                out.push(':');
                after_key(out, value, depth);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    indent(out, depth);
                }
                out.push('-');
                if is_nested(item) {
                    out.push(' ');
                    block(out, item, depth + 1);
                } else {
                    in_line(out, item, depth + 1);
                }
            }
        }
        Value::Object(_)
        | Value::Array(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_) => {
            out.push_str(&flow(value));
            out.push('\n');
        }
    }
}

fn after_key(out: &mut String, value: &Value, depth: usize) {
    if !is_nested(value) {
        return in_line(out, value, depth + 1);
    }
    out.push('\n');
    // A list stands below its key, not to the right of it.
    let depth = if value.is_array() { depth } else { depth + 1 };
    indent(out, depth);
    block(out, value, depth);
}

/// A value that ends the line, or a text of several lines below it.
fn in_line(out: &mut String, value: &Value, depth: usize) {
    match value.as_str().filter(|text| is_literal(text)) {
        None => writeln!(out, " {}", flow(value)).expect("a string takes everything"),
        Some(text) => {
            let keep = match (text.ends_with('\n'), text.ends_with("\n\n")) {
                (_, true) => "+",
                (true, false) => "",
                (false, false) => "-",
            };
            writeln!(out, " |{keep}").expect("a string takes everything");
            for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
                if !line.is_empty() {
                    indent(out, depth);
                    out.push_str(line);
                }
                out.push('\n');
            }
        }
    }
}

fn indent(out: &mut String, depth: usize) {
    out.extend(std::iter::repeat_n("  ", depth));
}

/// Whether it takes lines of its own.
fn is_nested(value: &Value) -> bool {
    match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// A value without lines of its own.
fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        Value::Object(_) => "{}".to_owned(),
        Value::Array(_) => "[]".to_owned(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// Whether the text can stand as a literal block: several lines, of which the first one says how
/// far they are indented, and nothing that needs an escape.
fn is_literal(text: &str) -> bool {
    text.trim_end_matches('\n').contains('\n')
        && !text.starts_with(char::is_whitespace)
        && !text.chars().any(|c| c != '\n' && needs_escape(c))
        // A blank line of blanks is read by some as one without.
        && !text.split('\n').any(|line| !line.is_empty() && line.trim().is_empty())
}

/// Text as a plain scalar where nobody can mistake it, else in double quotes.
fn scalar(text: &str) -> String {
    if is_plain(text) { text.to_owned() } else { quoted(text) }
}

fn is_plain(text: &str) -> bool {
    // `=` and words that are booleans or nothing in YAML 1.1 (yaml.org/type).
    const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    let first = text.chars().next().unwrap_or_default();
    (first.is_ascii_alphabetic() || first == '/' || first == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || " _-./:@%+=,;$()".contains(c))
        && !text.contains(": ")
        && !text.ends_with([':', ' '])
        && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// In double quotes: the escapes of JSON are YAML's too, but it leaves some characters as they
/// are that YAML does not allow or a terminal would not show.
fn quoted(text: &str) -> String {
    let json = Value::from(text).to_string();
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if needs_escape(c) {
            write!(out, "\\u{:04x}", u32::from(c)).expect("a string takes everything");
        } else {
            out.push(c);
        }
    }
    out
}

/// All of them are below U+10000.
fn needs_escape(c: char) -> bool {
    c.is_control() || is_invisible(c) || matches!(c, '\u{fffe}' | '\u{ffff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::manifest::file;

    #[test]
    fn objects_look_as_kubectl_prints_them() {
        let value = json!({
            "kind": "Pod",
            "empty": {},
            "none": [],
            "null": null,
            "metadata": { "labels": { "app": "web", "yes": "no" }, "at": "2023-11-14T22:13:20Z" },
            "list": [{ "args": ["-c", "one\ntwo\n", ""], "name": "a" }, [1, [2]], "x: y", true],
        });
        insta::assert_snapshot!(of(&value), @r#"
        empty: {}
        kind: Pod
        list:
        - args:
          - "-c"
          - |
            one
            two
          - ""
          name: a
        - - 1
          - - 2
        - "x: y"
        - true
        metadata:
          at: "2023-11-14T22:13:20Z"
          labels:
            app: web
            "yes": "no"
        none: []
        "null": null
        "#);
        assert_eq!(of(&json!("a\nb")), "\"a\\nb\"\n");
    }

    /// Reads the text back as the value of a variable and as an annotation, by the parser of
    /// manifests.
    #[track_caller]
    fn check(text: &str) {
        let without_variables = text.replace('$', "");
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": "web", "annotations": { "note": text } },
            "spec": { "containers": [{
                "name": "main",
                "command": ["/bin/true"],
                "env": [{ "name": "A", "value": without_variables }],
            }]},
        });
        let yaml = of(&pod);
        let found = file::parse(yaml.as_bytes());
        let spec = found.pods.first().map(|pod| pod.spec.clone());
        let spec = spec.unwrap_or_else(|| panic!("{text:?}\n{yaml}\n{:?}", found.diagnostics));
        assert_eq!(spec.annotations["note"], text, "{yaml}");
        assert_eq!(spec.containers[0].env[0].value, without_variables, "{yaml}");
    }

    #[test]
    fn texts_that_look_like_something_else_read_back_as_they_were() {
        let long = "x ".repeat(2000);
        for text in [
            "",
            " ",
            "~",
            "null",
            "Yes",
            "off",
            "0644",
            "1e3",
            ".5",
            ".inf",
            "0x1f",
            "1:30",
            "=",
            "-",
            "- a",
            "? b",
            "a: b",
            "a:",
            "a #b",
            "#c",
            "&a",
            "*a",
            "!t",
            "|",
            ">",
            "%d",
            "@x",
            "`x`",
            "'q'",
            "\"q\"",
            "{}",
            "[]",
            "a\\b",
            "tab\tin",
            "\tfirst",
            "a\nb",
            "a\nb\n",
            "a\n\n\n",
            "\na",
            " a\nb",
            "a\n  b\n",
            "a\n \nb",
            "a\r\nb",
            "---\na",
            "a\n---\nb",
            "a\n...\n",
            "é",
            "\u{85}x",
            "\u{2028}",
            "\u{feff}x",
            "\u{1b}[2J",
            "😀",
            "a\nb\u{7f}",
            "<<",
            "2023-11-14",
            "key: |\n  x",
            long.as_str(),
        ] {
            check(text);
        }
    }

    proptest! {
        #[test]
        fn any_text_reads_back_as_it_was(text in "[^\u{0}]{0,40}") {
            check(&text);
        }

        #[test]
        fn any_lines_read_back_as_they_were(text in "[ab:#\\- \t\n'\"|>]{0,20}") {
            check(&text);
        }
    }
}
