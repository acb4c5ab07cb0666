//! [`add`]: the lines of a manifest that its diagnostics are about.
//!
//! Not here: how they are shown (`manifest::diagnostic`).

use super::diagnostic::{Diagnostic, Snippet, steers};
use super::node::{Document, documents};

/// Characters of a line that are shown.
const SHOWN_MAX: usize = 100;
/// Characters that are shown before the place in a line that is longer.
const BEFORE_MAX: usize = 40;

/// Adds to each diagnostic the line that it is about; `diagnostics` are in the order of the file.
/// Of documents that may hold secrets no line is shown, since diagnostics get into logs.
pub(super) fn add(diagnostics: &mut [Diagnostic], text: &[u8]) {
    if diagnostics.is_empty() {
        return;
    }
    let mut secret = secret_lines(text);
    let mut lines = lines(text).zip(1_u32..).peekable();
    for diagnostic in diagnostics {
        let position = diagnostic.position;
        while lines.next_if(|(_, number)| *number < position.line).is_some() {}
        let Some((line, _)) = lines.peek().filter(|(_, number)| *number == position.line) else {
            continue;
        };
        while secret.next_if(|(_, last)| *last < position.line).is_some() {}
        if secret.peek().is_some_and(|(first, _)| *first <= position.line) {
            continue;
        }
        let column = usize::try_from(position.column).unwrap_or(usize::MAX).saturating_sub(1);
        diagnostic.snippet = snippet(line, column);
    }
}

/// First and last lines of the documents that may hold secrets.
fn secret_lines(text: &[u8]) -> std::iter::Peekable<impl Iterator<Item = (u32, u32)>> {
    let documents = documents(text);
    let ends: Vec<u32> = documents.iter().skip(1).map(|next| next.first_line - 1).collect();
    let ends = ends.into_iter().chain([u32::MAX]);
    let secret = documents.into_iter().zip(ends).filter(|(document, _)| may_be_secret(document));
    secret
        .map(|(document, last)| (document.first_line, last))
        .collect::<Vec<_>>()
        .into_iter()
        .peekable()
}

/// Whether something in a document is, or looks like, a Secret: it need not be valid YAML.
fn may_be_secret(document: &Document<'_>) -> bool {
    let mut rest = document.bytes;
    while let Some(at) = rest.windows(4).position(|word| word == b"kind") {
        rest = rest.get(at + 4..).unwrap_or_default();
        let value = rest.iter().position(|b| !b" \t\r\n\"':".contains(b)).unwrap_or(rest.len());
        if rest.get(value..).is_some_and(|value| value.starts_with(b"Secret")) {
            return true;
        }
    }
    false
}

/// The lines of a file; the last may be empty.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text));
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(at) = text.iter().position(|b| matches!(b, b'\n' | b'\r')) else {
            rest = None;
            return Some(text);
        };
        let (line, after) = text.split_at(at);
        rest = after.strip_prefix(b"\r\n").or(after.get(1..));
        Some(line)
    })
}

/// A line with the part from that character marked.
fn snippet(line: &[u8], column: usize) -> Option<Snippet> {
    // Of a line of a megabyte no more is looked at than could be shown.
    let decoded = String::from_utf8_lossy(line);
    // The YAML parser miscounts some columns after line breaks in odd places.
    let column = decoded.chars().take(column).count();
    let start = column.saturating_sub(BEFORE_MAX);
    let length = decoded.chars().take(column + SHOWN_MAX + 1).count();
    let start = if length > SHOWN_MAX { start } else { 0 };
    let cut = decoded.chars().skip(start).nth(SHOWN_MAX).is_some();
    let all: Vec<char> = decoded.chars().skip(start).take(SHOWN_MAX).collect();
    if all.iter().all(|c| c.is_whitespace()) {
        return None;
    }
    let before = column - start;
    let marked = mark(&all, before);
    let shown = |c: &char| match c {
        '\t' => ' ',
        c if steers(*c) => '\u{fffd}',
        c => *c,
    };
    let mut text: String = all.iter().map(shown).collect();
    let mut before = before;
    if start > 0 {
        text.insert(0, '…');
        before += 1;
    }
    let text = if cut { text + "…" } else { text.trim_end().to_owned() };
    Some(Snippet { text, before, marked })
}

/// How many characters belong to the value or key that begins there.
fn mark(line: &[char], at: usize) -> usize {
    let Some(rest) = line.get(at..) else { return 1 };
    let in_brackets = line.iter().take(at).any(|c| matches!(c, '[' | '{'));
    let ends = |index: usize, c: char| {
        let next = rest.get(index + 1).copied().unwrap_or(' ');
        match c {
            ':' => next == ' ',
            ' ' => next == '#' || rest.iter().skip(index).all(|c| c.is_whitespace()),
            ',' | ']' | '}' => in_brackets,
            _ => false,
        }
    };
    let length = match rest.first() {
        Some(quote @ ('"' | '\'')) => {
            rest.iter().skip(1).position(|c| c == quote).map_or(1, |at| at + 2)
        }
        Some('[' | '{' | '-' | '|' | '>' | '#' | ',' | ']' | '}') => 1,
        Some(_) => {
            let end = rest.iter().enumerate().position(|(index, c)| ends(index, *c));
            end.unwrap_or(rest.len())
        }
        None => 1,
    };
    length.max(1)
}

#[cfg(test)]
mod tests {
    use super::super::diagnostic::Position;
    use super::*;

    fn shown(text: &str, line: u32, column: u32) -> Option<(String, String)> {
        let mut all = [Diagnostic::error(Position { line, column }, "", "wrong")];
        add(&mut all, text.as_bytes());
        let Snippet { text, before, marked } = all[0].snippet.clone()?;
        Some((text, format!("{}{}", " ".repeat(before), "^".repeat(marked))))
    }

    #[track_caller]
    fn check(line: &str, column: u32, mark: &str) {
        assert_eq!(
            shown(&format!("# x\n{line}\n"), 2, column),
            Some((line.to_owned(), mark.to_owned()))
        );
    }

    #[test]
    fn the_key_or_value_at_the_place_is_marked() {
        check("comand: [a]", 1, "^^^^^^");
        check("cpu: 12 MB # much", 6, "     ^^^^^");
        check("{a: b, c: d}", 5, "    ^");
        check("a: 'x y' # z", 4, "   ^^^^^");
        check("a: http://x", 4, "   ^^^^^^^^");
        check("- name: x", 1, "^");
        check("a: b", 9, "    ^");
    }

    #[test]
    fn a_long_line_is_cut_and_steering_characters_are_replaced() {
        let long = format!("{}here{}", "x".repeat(5000), "y".repeat(5000));
        let (text, mark) = shown(&long, 1, 5001).unwrap();
        assert_eq!(text.chars().count(), SHOWN_MAX + 2);
        assert_eq!(text.chars().nth(mark.find('^').unwrap()), Some('h'));
        assert_eq!(shown("a:\tb\u{1b}[2J\u{202e}", 1, 4).unwrap().0, "a: b\u{fffd}[2J\u{fffd}");
    }

    #[test]
    fn nothing_is_shown_of_documents_that_may_hold_secrets() {
        let text =
            "a: 1\n---\nkind: Secret\ndata: {x: y}\n---\nb: 2\n--- {\"kind\" : \"Secret\",\nx: [\n";
        let visible = (1..=8).filter(|line| shown(text, *line, 1).is_some());
        assert_eq!(visible.collect::<Vec<_>>(), [1, 5, 6]);
    }
}
