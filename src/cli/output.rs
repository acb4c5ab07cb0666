//! Writing to standard output, and making text from elsewhere safe for it.

use std::io::Write as _;

use super::failure::Failure;

/// Prints the text, at once.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// Prints the bytes, at once.
pub(super) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| Failure::output(&error))
}

/// Says something that is no part of the answer. Nothing can be done if nobody listens.
pub(super) fn note(text: &str) {
    writeln!(std::io::stderr(), "{text}").ok();
}

/// The text with what could drive the terminal, or make it show something else than what is
/// there, escaped.
pub(super) fn clean(text: &str) -> String {
    escaped(text, |c| c == '\n')
}

/// The same, in one line.
pub(super) fn clean_line(text: &str) -> String {
    escaped(&text.trim_end().replace('\n', " "), |_| false)
}

fn escaped(text: &str, is_fine: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if !is_fine(c) && (c.is_control() || is_invisible(c)) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// Characters that change the order or the looks of others and are not seen themselves: marks of
/// direction (Unicode Standard Annex 9), of width zero, and separators of lines.
pub(super) fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{61c}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_cannot_drive_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\nc");
        assert_eq!(clean_line("a\nb\r\n"), "a b");
        assert_eq!(clean_line("a\tb\u{9b}2J"), "a\\u{9}b\\u{9b}2J");
    }

    #[test]
    fn what_turns_text_around_is_shown() {
        assert_eq!(clean("evil\u{202e}lmay.x"), "evil\\u{202e}lmay.x");
    }
}
