use std::io::Write as _;

use super::super::lines::Form;
use super::*;

const STAMP: &str = "2023-11-14T22:13:20.000000000Z";

/// A log that is written as an executor does.
struct Log {
    directory: tempfile::TempDir,
    rotations: u64,
}

impl Log {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), rotations: 0 }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("3.log")
    }

    fn write(&self, lines: impl IntoIterator<Item = u32>) {
        let mut file = File::options().append(true).create(true).open(self.path()).unwrap();
        for line in lines {
            writeln!(file, "{STAMP} stdout F {line}").unwrap();
        }
        // As if it took a second: the clock of the file system is coarse.
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1000 + self.rotations);
        file.set_modified(at).unwrap();
    }

    /// The names say nothing about the order.
    fn rotate(&mut self) {
        self.rotations += 1;
        let name = format!("3.log.20231114-221320-{}", 100 - self.rotations);
        std::fs::rename(self.path(), self.directory.path().join(name)).unwrap();
    }

    fn reader(&self, tail: Option<u64>) -> Reader {
        self.reader_as(tail, Form::default())
    }

    fn reader_as(&self, tail: Option<u64>, form: Form) -> Reader {
        Reader::new(self.directory.path().to_owned(), Attempt(3), tail, Lines::new(form))
    }
}

/// Everything that there is now, as numbers.
fn read(reader: &mut Reader) -> Vec<u32> {
    let mut text = Vec::new();
    loop {
        let step = reader.step(false).unwrap();
        text.extend(step.text);
        if step.at_end {
            break;
        }
    }
    let text = String::from_utf8(text).unwrap();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

fn numbers(range: std::ops::Range<u32>) -> Vec<u32> {
    range.collect()
}

#[test]
fn all_files_of_a_run_are_read_as_one() {
    let mut log = Log::new();
    log.write(0..3);
    log.rotate();
    log.write(3..5);
    log.rotate();
    log.write(5..6);
    std::fs::write(log.directory.path().join("2.log"), "another run\n").unwrap();
    std::fs::write(log.directory.path().join("33.log"), "another run\n").unwrap();
    assert_eq!(read(&mut log.reader(None)), numbers(0..6));
}

#[test]
fn no_line_is_lost_or_doubled_over_rotations_while_it_is_read() {
    let mut log = Log::new();
    let mut reader = log.reader(None);
    assert_eq!(read(&mut reader), numbers(0..0), "there is nothing yet");
    log.write(0..2);
    assert_eq!(read(&mut reader), numbers(0..2));
    log.write(2..3);
    log.rotate();
    assert_eq!(read(&mut reader), [2], "the new file is not there yet");
    log.write(3..4);
    log.rotate();
    log.write(4..5);
    log.rotate();
    log.write(5..6);
    assert_eq!(read(&mut reader), numbers(3..6));
}

#[test]
fn what_was_removed_before_it_was_read_is_passed_over() {
    let mut log = Log::new();
    log.write(0..2);
    let mut reader = log.reader(None);
    assert_eq!(read(&mut reader), numbers(0..2));
    log.rotate();
    log.write(2..3);
    log.rotate();
    log.write(3..4);
    // Two files are kept, so the first is removed.
    std::fs::remove_file(log.directory.path().join("3.log.20231114-221320-99")).unwrap();
    assert_eq!(read(&mut reader), numbers(2..4));
}

#[test]
fn the_last_lines_are_found_in_whatever_file_they_begin() {
    let mut log = Log::new();
    // Far more than is read at a time.
    log.write(0..5000);
    log.rotate();
    log.write(5000..5001);
    log.rotate();
    log.write(5001..5003);
    for tail in [0, 1, 2, 3, 4, 1000, 4000, 5002, 5003, 9999] {
        let first = 5003_u32.saturating_sub(tail);
        let mut reader = log.reader(Some(tail.into()));
        assert_eq!(read(&mut reader), numbers(first..5003), "the last {tail}");
    }
    let mut reader = log.reader(Some(0));
    assert_eq!(read(&mut reader), numbers(0..0));
    log.write(5003..5004);
    assert_eq!(read(&mut reader), [5003], "followed from the end");
}

#[test]
fn the_last_lines_count_a_long_line_once() {
    let log = Log::new();
    let part = "x".repeat(16 << 10);
    let mut text = format!("{STAMP} stdout F first\n");
    for _ in 0..20 {
        text.push_str(&format!("{STAMP} stdout P {part}\n"));
    }
    text.push_str(&format!("{STAMP} stdout F end\n{STAMP} stdout F last\n"));
    std::fs::write(log.path(), text).unwrap();
    let len = |tail| {
        let mut reader = log.reader(Some(tail));
        let mut text = Vec::new();
        loop {
            let step = reader.step(true).unwrap();
            text.extend(step.text);
            if step.at_end {
                return text.len();
            }
        }
    };
    assert_eq!(len(1), "last\n".len());
    assert_eq!(len(2), 20 * part.len() + "end\nlast\n".len());
    assert_eq!(len(3), 20 * part.len() + "first\nend\nlast\n".len());
}

#[test]
fn files_that_are_too_old_are_not_opened() {
    let mut log = Log::new();
    // Their lines have times that are new enough: only the files are not.
    log.write(0..2);
    log.rotate();
    log.write(2..3);
    log.rotate();
    log.write(3..4);
    let form = Form { since: Some(WallTime(1_001_000_000_000)), ..Form::default() };
    assert_eq!(read(&mut log.reader_as(None, form)), numbers(2..4));
    let form = Form { since: Some(WallTime(2_000_000_000_000)), ..Form::default() };
    assert_eq!(read(&mut log.reader_as(None, form)), [3], "it may get new lines");
}

#[test]
fn a_link_is_not_followed() {
    let log = Log::new();
    let target = log.directory.path().join("target");
    std::fs::write(&target, "secret\n").unwrap();
    std::os::unix::fs::symlink(&target, log.path()).unwrap();
    log.reader(None).step(true).unwrap_err();
}
