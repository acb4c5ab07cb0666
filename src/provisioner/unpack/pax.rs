//! Extended headers: records `<length> <key>=<value>\n`, and the numbers of all headers.

use rustix::fs::Timespec;

use super::sparse::{self, SEGMENTS_MAX, Segment};

const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// What the extended headers before an entry say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Extensions {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) modified: Option<Timespec>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The name of a sparse file: in `path` is one for those who can't read them.
    pub(super) sparse_name: Option<Vec<u8>>,
    pub(super) sparse_size: Option<u64>,
    /// Formats 0.0 and 0.1: offsets and lengths in turn.
    sparse_numbers: Option<Vec<u64>>,
    /// Format 1.0: the map stands before the data.
    pub(super) sparse_in_data: bool,
}

impl Extensions {
    /// Adds what one extended header says; of two records with one key the later one counts.
    pub(super) fn add(&mut self, mut text: &[u8]) -> Result<(), &'static str> {
        while !text.is_empty() {
            let (key, value, rest) = record(text).ok_or("an extended header is malformed")?;
            self.record(key, value)?;
            text = rest;
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let number = || decimal(value).ok_or("a number in an extended header is malformed");
        // An empty value takes back what was said before.
        let text = (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = text,
            b"linkpath" => self.link = text,
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(number()?),
            b"gid" => self.gid = Some(number()?),
            b"mtime" => {
                self.modified =
                    Some(time(value).ok_or("a time in an extended header is malformed")?);
            }
            b"GNU.sparse.name" => self.sparse_name = text,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse_size = Some(number()?),
            b"GNU.sparse.major" => self.sparse_in_data = number()? == 1,
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                let numbers = self.sparse_numbers.get_or_insert_default();
                if numbers.len() >= 2 * SEGMENTS_MAX {
                    return Err("a sparse file has too many parts");
                }
                numbers.push(number()?);
            }
            b"GNU.sparse.map" => {
                let numbers: Option<Vec<_>> =
                    value.split(|b| *b == b',').take(2 * SEGMENTS_MAX + 1).map(decimal).collect();
                let numbers = numbers.ok_or("the map of a sparse file is malformed")?;
                self.sparse_numbers = Some(if value.is_empty() { Vec::new() } else { numbers });
            }
            _ => {
                if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                    self.xattrs.retain(|(other, _)| other != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }

    /// The map of a sparse file in formats 0.0 and 0.1; none if it is not one.
    pub(super) fn sparse_map(&self) -> Result<Option<Vec<Segment>>, &'static str> {
        self.sparse_numbers.as_deref().map(sparse::from_numbers).transpose()
    }
}

/// Key, value and what comes after the first record.
fn record(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = text.iter().take(20).position(|b| *b == b' ')?;
    let len = usize::try_from(decimal(&text[..space])?).ok()?;
    let record = text.get(space + 1..len)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|b| *b == b'=')?;
    let key = &record[..equals];
    let sound = !key.is_empty() && !key.contains(&0);
    sound.then(|| (key, &record[equals + 1..], &text[len..]))
}

/// A decimal number without a sign.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    if digits { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

/// Seconds since 1970, with a sign and a fraction or without.
fn time(text: &[u8]) -> Option<Timespec> {
    const NANO_DIGITS: usize = 9;
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |text| (true, text));
    let mut parts = text.splitn(2, |b| *b == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let nanoseconds = match parts.next() {
        None | Some(b"") => 0,
        Some(digits) => {
            let mut fraction = [b'0'; NANO_DIGITS];
            // What is finer than a nanosecond is cut off.
            let len = digits.len().min(NANO_DIGITS);
            fraction[..len].copy_from_slice(&digits[..len]);
            let whole = digits.iter().all(u8::is_ascii_digit);
            if whole { i64::try_from(decimal(&fraction)?).ok()? } else { return None }
        }
    };
    Some(match (negative, nanoseconds) {
        (false, _) => Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
        (true, 0) => Timespec { tv_sec: -seconds, tv_nsec: 0 },
        // The fraction of a kernel's time always counts forward.
        (true, _) => Timespec { tv_sec: -seconds - 1, tv_nsec: 1_000_000_000 - nanoseconds },
    })
}

/// A number in a header: octal digits, or binary with the first bit set (GNU and star).
pub(super) fn header_number(field: &[u8]) -> Result<i64, &'static str> {
    const WRONG: &str = "a number in a header is malformed";
    let first = *field.first().ok_or(WRONG)?;
    if first & 0x80 != 0 {
        // Two's complement in 8 n - 1 bits.
        let bits = i128::from(first & 0x7f);
        let mut number = if first & 0x40 != 0 { bits - 0x80 } else { bits };
        for byte in &field[1..] {
            number = number.checked_mul(256).ok_or(WRONG)? | i128::from(*byte);
            if !(i128::from(i64::MIN)..=i128::from(i64::MAX)).contains(&number) {
                return Err(WRONG);
            }
        }
        return i64::try_from(number).map_err(|_| WRONG);
    }
    let text = field.trim_ascii_start();
    let end = text.iter().position(|b| matches!(b, 0 | b' ')).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    // Leading nulls and fields of nulls only are empty, which is 0.
    if digits.is_empty() && rest.iter().all(|b| matches!(b, 0 | b' ')) {
        return Ok(0);
    }
    let padded = rest.iter().all(|b| matches!(b, 0 | b' ')) || rest.first() == Some(&0);
    let octal = !digits.is_empty() && digits.iter().all(|b| (b'0'..=b'7').contains(b));
    if !octal || !padded {
        return Err(WRONG);
    }
    let text = std::str::from_utf8(digits).map_err(|_| WRONG)?;
    i64::from_str_radix(text, 8).map_err(|_| WRONG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_may_contain_anything_because_its_length_is_known() {
        let mut extensions = Extensions::default();
        extensions.add(b"31 SCHILY.xattr.user.a=x\n=y\n\0z\n").unwrap();
        assert_eq!(extensions.xattrs, [(b"user.a".to_vec(), b"x\n=y\n\0z".to_vec())]);
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [&b"9 path=a"[..], b"9 path=a\nx", b"99 path=a\n", b"0 a=b\n", b"x", b"6 pat\n"]
        {
            assert!(Extensions::default().add(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times_have_fractions_and_may_be_before_1970() {
        let check = |text: &[u8], seconds, nanoseconds| {
            let expected = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
            assert_eq!(time(text), Some(expected), "{text:?}");
        };
        check(b"1", 1, 0);
        check(b"1.5", 1, 500_000_000);
        check(b"1.0000000019", 1, 1);
        check(b"-1", -1, 0);
        check(b"-1.25", -2, 750_000_000);
        for bad in [&b""[..], b".5", b"1.x", b"+1", b"99999999999999999999"] {
            assert_eq!(time(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn numbers_are_octal_or_binary() {
        let check = |field: &[u8], expected| assert_eq!(header_number(field).ok(), expected);
        check(b"0000755\0", Some(0o755));
        check(b"   755 \0", Some(0o755));
        check(b"77777777", Some(0o77_777_777));
        check(b"\0\0\0\0\0\0\0\0", Some(0));
        check(b"        ", Some(0));
        check(&[0x80, 0, 0, 0, 0, 0, 1, 0], Some(256));
        check(&[0xff; 12], Some(-1));
        check(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe], Some(-2));
        check(&[0x81, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], None);
        check(b"0000789\0", None);
        check(b"-000755\0", None);
    }
}
