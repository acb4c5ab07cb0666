//! [`Lines`]: the log format of CRI → what the container printed. PURE.
//!
//! ```text
//! 2026-01-02T03:04:05.123456789Z stdout F a whole line
//! 2026-01-02T03:04:05.123456789Z stderr P the beginning of a long line
//! ```

use crate::clock::WallTime;

/// Longest line of a file; a writer makes them at most 16 KiB long, and the head.
const PHYSICAL_LEN_MAX: usize = 64 << 10;
/// A long line is put together up to this many bytes; what comes after is passed on as it comes.
const JOINED_LEN_MAX: usize = 256 << 10;

/// What is wanted of a log, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Form {
    /// Begins each line with its time.
    pub(super) timestamps: bool,
    /// Nothing that is older.
    pub(super) since: Option<WallTime>,
    /// Most bytes in all.
    pub(super) limit: Option<u64>,
}

/// Turns the bytes of log files into text.
#[derive(Debug)]
pub(super) struct Lines {
    timestamps: bool,
    /// Times are of one form, so that their order as text is their order.
    since: Option<String>,
    left: Option<u64>,
    /// The beginning of a line of the file.
    physical: Vec<u8>,
    stdout: Joined,
    stderr: Joined,
}

/// The parts of a long line of one stream.
#[derive(Debug, Default)]
struct Joined {
    text: Vec<u8>,
    state: JoinState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum JoinState {
    /// No line has begun.
    #[default]
    Between,
    /// Its beginning is in `text`, with its time if that is wanted.
    Begun,
    /// It is older than wanted.
    Skipped,
}

impl Lines {
    /// Begins with nothing.
    pub(super) fn new(form: Form) -> Self {
        let Form { timestamps, since, limit } = form;
        Self {
            timestamps,
            since: since.map(WallTime::rfc3339_nanos),
            left: limit,
            physical: Vec::new(),
            stdout: Joined::default(),
            stderr: Joined::default(),
        }
    }

    /// Nothing older is wanted.
    pub(super) fn since(&self) -> Option<&str> {
        self.since.as_deref()
    }

    /// Whether as much has come out as was wanted.
    pub(super) fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    /// Takes in bytes of a file; what they are is added to `out`.
    pub(super) fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.physical.is_empty() && piece.ends_with(b"\n") {
                self.line(&piece[..piece.len() - 1], out);
                continue;
            }
            self.physical.extend_from_slice(piece);
            let ended = self.physical.ends_with(b"\n");
            if ended || self.physical.len() > PHYSICAL_LEN_MAX {
                self.end_physical(out);
            }
        }
    }

    /// A file has ended: what follows is another one.
    pub(super) fn end_file(&mut self, out: &mut Vec<u8>) {
        if !self.physical.is_empty() {
            self.end_physical(out);
        }
    }

    /// Nothing follows: lines without an end get one.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        self.end_file(out);
        for is_stderr in [false, true] {
            if self.joined(is_stderr).state == JoinState::Begun {
                self.emit(is_stderr, true, out);
            }
            *self.joined(is_stderr) = Joined::default();
        }
    }

    fn end_physical(&mut self, out: &mut Vec<u8>) {
        let line = std::mem::take(&mut self.physical);
        self.line(line.strip_suffix(b"\n").unwrap_or(&line), out);
    }

    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(Parsed { stamp, is_stderr, is_whole, text }) = parse(line) else {
            // Not of our making. It is shown as it is, so that nothing is lost.
            self.put(line, out);
            self.put(b"\n", out);
            return;
        };
        let too_old = self.since.as_deref().is_some_and(|since| stamp < since.as_bytes());
        let with_stamp = self.timestamps;
        let joined = self.joined(is_stderr);
        if joined.state == JoinState::Between {
            joined.state = if too_old { JoinState::Skipped } else { JoinState::Begun };
            if with_stamp && !too_old {
                joined.text.extend_from_slice(stamp);
                joined.text.push(b' ');
            }
        }
        if joined.state == JoinState::Begun {
            joined.text.extend_from_slice(text);
            if is_whole || joined.text.len() > JOINED_LEN_MAX {
                self.emit(is_stderr, is_whole, out);
            }
        }
        if is_whole {
            self.joined(is_stderr).state = JoinState::Between;
        }
    }

    /// Passes on what has been put together.
    fn emit(&mut self, is_stderr: bool, with_end: bool, out: &mut Vec<u8>) {
        let mut text = std::mem::take(&mut self.joined(is_stderr).text);
        if with_end {
            text.push(b'\n');
        }
        self.put(&text, out);
        text.clear();
        // The room is used again, if it is not out of the ordinary.
        if text.capacity() <= PHYSICAL_LEN_MAX {
            self.joined(is_stderr).text = text;
        }
    }

    fn put(&mut self, text: &[u8], out: &mut Vec<u8>) {
        let Some(left) = &mut self.left else {
            out.extend_from_slice(text);
            return;
        };
        let len = usize::try_from(*left).unwrap_or(usize::MAX).min(text.len());
        *left -= u64::try_from(len).unwrap_or(0);
        out.extend_from_slice(&text[..len]);
    }

    fn joined(&mut self, is_stderr: bool) -> &mut Joined {
        if is_stderr { &mut self.stderr } else { &mut self.stdout }
    }
}

struct Parsed<'a> {
    stamp: &'a [u8],
    is_stderr: bool,
    is_whole: bool,
    text: &'a [u8],
}

/// The parts of a line of a log file, if it is one.
fn parse(line: &[u8]) -> Option<Parsed<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let stamp = parts.next()?;
    let is_stderr = match parts.next()? {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    // More tags may follow, after colons.
    let is_whole = match parts.next()?.split(|byte| *byte == b':').next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    Some(Parsed { stamp, is_stderr, is_whole, text: parts.next().unwrap_or_default() })
}

/// Whether the line of a file ends a line that was printed.
pub(super) fn is_whole(line: &[u8]) -> bool {
    parse(line.strip_suffix(b"\n").unwrap_or(line)).is_none_or(|parsed| parsed.is_whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMPS: [&str; 3] = [
        "2023-11-14T22:13:20.000000000Z",
        "2023-11-14T22:13:21.000000000Z",
        "2023-11-14T22:13:22.000000000Z",
    ];

    fn text(form: Form, log: &str) -> String {
        // In small pieces, so that every line is cut somewhere.
        let mut lines = Lines::new(form);
        let mut out = Vec::new();
        for piece in log.as_bytes().chunks(7) {
            lines.feed(piece, &mut out);
        }
        lines.finish(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn parts_of_a_line_are_joined_also_when_the_other_stream_is_between_them() {
        let [a, b, c] = STAMPS;
        let log = format!("{a} stdout P one \n{b} stderr F err\n{c} stdout F two\n{c} stdout F \n");
        assert_eq!(text(Form::default(), &log), "err\none two\n\n");
        let form = Form { timestamps: true, ..Form::default() };
        assert_eq!(text(form, &log), format!("{b} err\n{a} one two\n{c} \n"));
    }

    #[test]
    fn what_is_too_old_is_left_out_whole() {
        let [a, b, c] = STAMPS;
        let log =
            format!("{a} stdout P old \n{c} stdout F too\n{b} stderr F edge\n{c} stdout F x\n");
        let since = Some(WallTime(1_700_000_001_000_000_000));
        assert_eq!(text(Form { since, ..Form::default() }, &log), "edge\nx\n");
    }

    #[test]
    fn no_more_bytes_come_out_than_were_wanted() {
        let log = format!("{0} stdout F hello\n{0} stdout F world\n", STAMPS[0]);
        let form = Form { limit: Some(8), ..Form::default() };
        assert_eq!(text(form, &log), "hello\nwo");
    }

    #[test]
    fn a_line_that_never_ends_is_passed_on_and_not_kept() {
        let part = format!("{} stdout P {}\n", STAMPS[0], "x".repeat(16 << 10));
        let mut lines = Lines::new(Form::default());
        let mut out = Vec::new();
        for _ in 0..100 {
            lines.feed(part.as_bytes(), &mut out);
            assert!(lines.stdout.text.len() <= JOINED_LEN_MAX);
        }
        assert!(!out.is_empty());
        lines.finish(&mut out);
        assert_eq!(out.len(), 100 * (16 << 10) + 1, "one line, and its end");
    }

    #[test]
    fn what_is_no_log_line_is_shown_as_it_is() {
        assert_eq!(text(Form::default(), "torn\n"), "torn\n");
        let huge = "y".repeat(3 * PHYSICAL_LEN_MAX);
        assert_eq!(text(Form::default(), &huge).replace('\n', ""), huge);
    }
}
