//! [`Screen`]: what the two outputs are: a terminal or not, with colours or without.

use std::io::IsTerminal as _;

use clap::ValueEnum;

/// When to print in colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Into files and pipes as well
    Always,
    /// Plain text
    Never,
}

/// What is known of the outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Screen {
    /// Standard output takes colours.
    pub(super) colors: bool,
    /// Standard error takes colours.
    pub(super) error_colors: bool,
    /// Standard output is a terminal whose cursor can be moved.
    pub(super) is_live: bool,
    /// The same of standard error.
    pub(super) error_is_live: bool,
}

/// What a piece of text means to whoever reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Tone {
    /// Nothing special.
    #[default]
    Plain,
    /// All is well.
    Good,
    /// Not yet well, or no more.
    Warning,
    /// Wrong.
    Bad,
    /// Of less interest.
    Dim,
    /// A head.
    Strong,
    /// Advice.
    Hint,
}

impl Tone {
    /// The parameter of "select graphic rendition" (ECMA-48, 8.3.117).
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("32"),
            Self::Warning => Some("33"),
            Self::Bad => Some("31"),
            Self::Dim => Some("2"),
            Self::Strong => Some("1"),
            Self::Hint => Some("36"),
        }
    }

    /// The text in this tone.
    pub(super) fn paint(self, text: &str, colors: bool) -> String {
        match self.code() {
            Some(code) if colors && !text.is_empty() => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            Some(_) | None => text.to_owned(),
        }
    }
}

impl Screen {
    /// The outputs of this process.
    pub(super) fn of(choice: ColorChoice) -> Self {
        // https://no-color.org: set and not empty, whatever it is.
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_none_or(|value| value == "dumb");
        let out = std::io::stdout().is_terminal();
        let error = std::io::stderr().is_terminal();
        let colors = |is_terminal: bool| match choice {
            ColorChoice::Auto => is_terminal && !refused && !is_dumb,
            ColorChoice::Always => true,
            ColorChoice::Never => false,
        };
        Self {
            colors: colors(out),
            error_colors: colors(error),
            is_live: out && !is_dumb,
            error_is_live: error && !is_dumb,
        }
    }

    /// The text in a tone, for standard output.
    pub(super) fn paint(self, tone: Tone, text: &str) -> String {
        tone.paint(text, self.colors)
    }
}

/// Lines and columns of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    /// Lines.
    pub(super) rows: usize,
    /// Columns.
    pub(super) columns: usize,
}

impl Size {
    /// What a terminal has that does not say.
    const COMMON: Self = Self { rows: 24, columns: 80 };

    /// The size of a terminal now; users change it.
    pub(super) fn of(terminal: impl std::os::fd::AsFd) -> Self {
        match rustix::termios::tcgetwinsize(terminal) {
            Ok(size) if size.ws_row > 0 && size.ws_col > 0 => {
                Self { rows: size.ws_row.into(), columns: size.ws_col.into() }
            }
            Ok(_) | Err(_) => Self::COMMON,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_put_around_text_and_only_where_they_are_taken() {
        assert_eq!(Tone::Bad.paint("Error", true), "\u{1b}[31mError\u{1b}[0m");
        assert_eq!(Tone::Bad.paint("Error", false), "Error");
        assert_eq!(Tone::Bad.paint("", true), "");
        assert_eq!(Tone::Plain.paint("Error", true), "Error");
    }

    #[test]
    fn a_choice_of_colours_overrides_what_the_outputs_are() {
        let always = Screen::of(ColorChoice::Always);
        assert!(always.colors && always.error_colors);
        let never = Screen::of(ColorChoice::Never);
        assert!(!never.colors && !never.error_colors);
    }

    #[test]
    fn what_is_no_terminal_has_a_common_size() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(Size::of(&file), Size::COMMON);
    }
}
