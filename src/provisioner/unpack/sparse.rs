//! Maps of sparse files: which parts of a file are there. All other parts are holes.

use super::pax::{decimal, header_number};

/// Most parts of one file.
pub(super) const SEGMENTS_MAX: usize = 1 << 16;

/// A part of a file with data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) offset: u64,
    pub(super) len: u64,
}

const TOO_MANY: &str = "a sparse file has too many parts";

/// Adds the entries of an old GNU header or of a block after it, 24 bytes each; whether all of them
/// are used, so that there may be more.
pub(super) fn old_map(entries: &[u8], map: &mut Vec<Segment>) -> Result<bool, &'static str> {
    for entry in entries.chunks_exact(24) {
        let (offset, len) = entry.split_at(12);
        if offset[0] == 0 || len[0] == 0 {
            return Ok(false);
        }
        if map.len() >= SEGMENTS_MAX {
            return Err(TOO_MANY);
        }
        let number = |field| u64::try_from(header_number(field)?).map_err(|_| "negative offset");
        map.push(Segment { offset: number(offset)?, len: number(len)? });
    }
    Ok(true)
}

/// Offsets and lengths in turn.
pub(super) fn from_numbers(numbers: &[u64]) -> Result<Vec<Segment>, &'static str> {
    if numbers.len() > 2 * SEGMENTS_MAX {
        return Err(TOO_MANY);
    }
    let (pairs, rest) = numbers.as_chunks::<2>();
    if !rest.is_empty() {
        return Err("the map of a sparse file has an odd number of numbers");
    }
    Ok(pairs.iter().map(|[offset, len]| Segment { offset: *offset, len: *len }).collect())
}

/// The parts come in order, end within the file, and have as much data as the entry.
pub(super) fn check(map: &[Segment], size: u64, data: u64) -> Result<(), &'static str> {
    let mut end = 0_u64;
    let mut sum = 0_u64;
    for part in map {
        if part.offset < end {
            return Err("the parts of a sparse file are not in order");
        }
        end = part.offset.checked_add(part.len).ok_or("a sparse file is too long")?;
        sum = sum.checked_add(part.len).ok_or("a sparse file is too long")?;
    }
    if end > size {
        return Err("a sparse file has a part after its end");
    }
    if sum != data {
        return Err("a sparse file does not have as much data as its map says");
    }
    Ok(())
}

/// The map of format 1.0, read block by block.
#[derive(Debug, Default)]
pub(super) struct MapInData {
    line: Vec<u8>,
    /// How many parts there will be; none before the first line.
    count: Option<usize>,
    numbers: Vec<u64>,
    pub(super) map: Vec<Segment>,
}

impl MapInData {
    /// Whether it is complete with this block.
    pub(super) fn add(&mut self, block: &[u8]) -> Result<bool, &'static str> {
        const DIGITS_MAX: usize = 20;
        for byte in block {
            if *byte != b'\n' {
                self.line.push(*byte);
                if self.line.len() > DIGITS_MAX {
                    return Err("the map of a sparse file is malformed");
                }
                continue;
            }
            let number = decimal(&self.line).ok_or("the map of a sparse file is malformed")?;
            self.line.clear();
            match self.count {
                None => {
                    let count = usize::try_from(number).unwrap_or(usize::MAX);
                    if count > SEGMENTS_MAX {
                        return Err(TOO_MANY);
                    }
                    self.count = Some(count);
                }
                Some(_) => self.numbers.push(number),
            }
            if self.count.is_some_and(|count| self.numbers.len() == 2 * count) {
                self.map = from_numbers(&self.numbers)?;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(offset: u64, len: u64) -> Segment {
        Segment { offset, len }
    }

    #[test]
    fn a_map_that_does_not_fit_its_file_is_refused() {
        check(&[part(0, 1), part(5, 2), part(9, 0)], 9, 3).unwrap();
        check(&[part(5, 1), part(5, 1)], 9, 2).unwrap_err();
        check(&[part(8, 2)], 9, 2).unwrap_err();
        check(&[part(0, 2)], 9, 3).unwrap_err();
        check(&[part(u64::MAX, 2)], 9, 2).unwrap_err();
    }

    #[test]
    fn a_map_in_the_data_ends_with_its_last_number() {
        let mut parser = MapInData::default();
        assert_eq!(parser.add(b"2\n0\n5"), Ok(false));
        assert_eq!(parser.add(b"12\n1024\n3\n\0\0\0"), Ok(true));
        assert_eq!(parser.map, [part(0, 512), part(1024, 3)]);
        MapInData::default().add(b"99999999\n").unwrap_err();
        MapInData::default().add(b"-1\n").unwrap_err();
    }
}
