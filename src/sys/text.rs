//! [`let_go_of_text`]: the program's own code, as far as it is in memory only because it was used
//! once.
//!
//! A page fault in a file maps the pages around it as well, if they are in memory
//! (`fault_around_bytes`, 64 KiB): what a start uses of a large program, here and there, is most of
//! it. What goes on being used is mapped again by faults that read nothing from the disk.

use std::fs;
use std::io;
use std::ops::Range;

use super::checked;

/// Code that is executed and was never written: a private mapping, as the linker made it.
const TEXT: &str = "r-xp";

/// Takes the pages of the program's code out of this process; they stay in the page cache until
/// that memory is needed.
///
/// # Errors
/// What can't be read or is refused: nothing relies on it.
pub fn let_go_of_text() -> io::Result<()> {
    let program = fs::read_link("/proc/self/exe")?;
    let Some(program) = program.to_str() else { return Ok(()) };
    for range in text_of(&fs::read_to_string("/proc/self/maps")?, program) {
        let start = std::ptr::without_provenance_mut(range.start);
        // SAFETY: the mapping is one of the program's file, and cannot be and was not written: a
        // page that is used again is read from the file as it was (madvise(2), MADV_DONTNEED).
        // Pages of code are no objects of the language.
        let result = unsafe { libc::madvise(start, range.len(), libc::MADV_DONTNEED) };
        checked(result.into())?;
    }
    Ok(())
}

/// Where a program's code is mapped, by proc_pid_maps(5).
fn text_of(maps: &str, program: &str) -> Vec<Range<usize>> {
    let text = maps.lines().filter_map(|line| {
        // The name is the rest of the line, whatever is in it.
        let (fields, name) = line.split_at_checked(line.find('/')?)?;
        let mut fields = fields.split_ascii_whitespace();
        let (from, to) = fields.next()?.split_once('-')?;
        let number = |text| usize::from_str_radix(text, 16).ok();
        let range = number(from)?..number(to)?;
        (fields.next()? == TEXT && name == program).then_some(range)
    });
    text.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_code_of_the_program_itself_is_let_go() {
        let maps = "\
            1000-3000 r--p 00000000 fe:00 17   /opt/a program\n\
            3000-9000 r-xp 00002000 fe:00 17   /opt/a program\n\
            9000-a000 r--p 00008000 fe:00 17   /opt/a program\n\
            a000-b000 rwxp 00009000 fe:00 17   /opt/a program\n\
            b000-c000 rw-p 00000000 00:00 0    [heap]\n\
            d000-e000 r-xp 00000000 fe:00 18   /opt/a program (deleted)\n\
            e000-f000 r-xp 00000000 fe:00 19   /lib/other\n";
        let places = |program| {
            let ranges = text_of(maps, program).into_iter();
            ranges.map(|range| (range.start, range.end)).collect::<Vec<_>>()
        };
        assert_eq!(places("/opt/a program"), [(0x3000, 0x9000)]);
        assert_eq!(places("/opt/a program (deleted)"), [(0xd000, 0xe000)]);
    }

    #[test]
    fn a_program_goes_on_without_its_pages() {
        let program = fs::read_link("/proc/self/exe").unwrap();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        assert_eq!(text_of(&maps, program.to_str().unwrap()).len(), 1, "{maps}");
        let_go_of_text().unwrap();
        let_go_of_text().unwrap();
    }
}
