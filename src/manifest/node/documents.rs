//! [`documents`]: a file's bytes → its documents, so that a broken one hides no other.
//!
//! The split is by lines that begin with `---` (or end with `...`), which YAML forbids inside
//! any content (YAML 1.2.2, rule 206, `c-forbidden`), whatever else is wrong with it.

use crate::manifest::diagnostic::{Diagnostic, Faults, Position};

const BOM: &[u8] = b"\xef\xbb\xbf";

/// A document with something in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Document<'a> {
    /// The line of the file that its text begins with, from 1.
    pub(crate) first_line: u32,
    /// Its text, with the `---` before it.
    pub(crate) bytes: &'a [u8],
}

impl<'a> Document<'a> {
    /// The document as text; otherwise says what is wrong with it and where.
    pub(crate) fn text(&self, faults: &mut Faults) -> Option<&'a str> {
        let text = match std::str::from_utf8(self.bytes) {
            Ok(text) => text,
            Err(error) => {
                let valid = self.bytes.get(..error.valid_up_to()).unwrap_or_default();
                let position = self.place(&String::from_utf8_lossy(valid));
                faults.push(
                    Diagnostic::error(position, "", "this byte is not UTF-8 text")
                        .with_help("save the file in the encoding UTF-8"),
                );
                return None;
            }
        };
        if let Some((at, c)) = text.char_indices().find(|(_, c)| is_forbidden(*c)) {
            let position = self.place(text.get(..at).unwrap_or_default());
            let code = u32::from(c);
            let message = format!("the character U+{code:04X} must not stand in YAML");
            let help = "is this a text file? In double quotes it can be written as an escape";
            faults.push(Diagnostic::error(position, "", &message).with_help(help));
            return None;
        }
        Some(text)
    }

    /// The place in the file after this much of the document.
    fn place(&self, before: &str) -> Position {
        let lines: Vec<Line> = lines(before.as_bytes()).collect();
        let ended = lines.last().is_none_or(|line| line.text.len() < line.len);
        let full = lines.len() - usize::from(!ended);
        let column = if ended {
            0
        } else {
            lines.last().map_or(0, |line| String::from_utf8_lossy(line.text).chars().count())
        };
        Position {
            line: self.first_line.saturating_add(u32::try_from(full).unwrap_or(u32::MAX)),
            column: u32::try_from(column).unwrap_or(u32::MAX).saturating_add(1),
        }
    }
}

/// What `c-printable` of YAML 1.2.2 leaves out.
fn is_forbidden(c: char) -> bool {
    (c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}'))
        || matches!(c, '\u{fffe}' | '\u{ffff}')
}

/// The documents of a file that hold more than comments, in order.
pub(crate) fn documents(bytes: &[u8]) -> Vec<Document<'_>> {
    let bytes = bytes.strip_prefix(BOM).unwrap_or(bytes);
    let mut found = Vec::new();
    let mut open = Open::at(0, 1);
    let mut offset = 0;
    let mut number: u32 = 1;
    for line in lines(bytes) {
        let end = offset + line.len;
        if is_marker(line.text, b"---") {
            if open.marked || open.filled {
                found.extend(open.close(bytes, offset));
                open = Open::at(offset, number);
            }
            open.marked = true;
            open.filled |= !is_blank(line.text.get(3..).unwrap_or_default());
        } else if is_marker(line.text, b"...") {
            found.extend(open.close(bytes, end));
            open = Open::at(end, number.saturating_add(1));
        } else if !is_blank(line.text) {
            // Directives (`%YAML 1.1`) belong to the `---` that follows them.
            let directive = line.text.starts_with(b"%") && !open.marked && !open.filled;
            open.directives |= directive;
            open.filled |= !directive;
        }
        offset = end;
        number = number.saturating_add(1);
    }
    found.extend(open.close(bytes, bytes.len()));
    found
}

/// The document that is being looked through.
struct Open {
    start: usize,
    first_line: u32,
    marked: bool,
    directives: bool,
    filled: bool,
}

impl Open {
    fn at(start: usize, first_line: u32) -> Self {
        Self { start, first_line, marked: false, directives: false, filled: false }
    }

    fn close<'a>(&self, bytes: &'a [u8], end: usize) -> Option<Document<'a>> {
        let bytes = bytes.get(self.start..end)?;
        let bytes = bytes.strip_prefix(BOM).unwrap_or(bytes);
        (self.filled || self.directives).then_some(Document { first_line: self.first_line, bytes })
    }
}

/// A line without its break, and its length with it.
struct Line<'a> {
    text: &'a [u8],
    len: usize,
}

/// The lines of a text. YAML's line breaks are `\n`, `\r\n` and `\r`.
fn lines(bytes: &[u8]) -> impl Iterator<Item = Line<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let at = rest.iter().position(|b| matches!(b, b'\n' | b'\r')).unwrap_or(rest.len());
        let (text, after) = rest.split_at(at);
        let break_len = match after {
            [b'\r', b'\n', ..] => 2,
            [_, ..] => 1,
            [] => 0,
        };
        rest = after.get(break_len..).unwrap_or_default();
        Some(Line { text, len: at + break_len })
    })
}

fn is_marker(line: &[u8], marker: &[u8]) -> bool {
    let line = line.strip_prefix(BOM).unwrap_or(line);
    line.strip_prefix(marker).is_some_and(|rest| matches!(rest, [] | [b' ' | b'\t', ..]))
}

fn is_blank(line: &[u8]) -> bool {
    let line = line.strip_prefix(BOM).unwrap_or(line);
    matches!(line.trim_ascii_start(), [] | [b'#', ..])
}
