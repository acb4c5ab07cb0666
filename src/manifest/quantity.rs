//! [`Quantity`]: Kubernetes' numbers with a unit (`500m`, `1.5Gi`, `2e3`), exactly.
//!
//! Integer arithmetic throughout: `0.1` is a tenth. Rounding is up, as in Kubernetes, so that
//! nothing asked for becomes nothing given. Not here: which quantities a field accepts.

use std::str::FromStr;

/// Most significant digits; 19 hold every 63-bit number and keep the arithmetic in 128
/// bits.
pub const DIGITS_MAX: usize = 19;
/// Longest text of a quantity.
const TEXT_LEN_MAX: usize = 64;

/// A number that is not negative: `mantissa` × 10^`ten` × 2^`two`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantity {
    mantissa: u128,
    ten: i32,
    two: u32,
}

/// Why a text is no quantity, or not one that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidQuantity {
    /// It is not a number with an optional unit.
    #[error(
        "is not a quantity: a number, and after it one of n u m k M G T P E Ki Mi Gi Ti Pi Ei, \
         or an exponent as in 1e3"
    )]
    Syntax,
    /// It begins with a minus.
    #[error("must not be negative")]
    Negative,
    /// It has more than [`DIGITS_MAX`] significant digits.
    #[error("has more than 19 significant digits")]
    TooPrecise,
    /// It is more than a signed 64-bit number holds.
    #[error("is too large")]
    TooLarge,
}

impl Quantity {
    /// In whole units (bytes), rounded up.
    ///
    /// # Errors
    /// When it is more than `i64::MAX`.
    pub fn units(self) -> Result<u64, InvalidQuantity> {
        self.scaled(0)
    }

    /// In thousandths (of a processor), rounded up.
    ///
    /// # Errors
    /// When it is more than `i64::MAX` thousandths.
    pub fn milli(self) -> Result<u64, InvalidQuantity> {
        self.scaled(3)
    }

    /// The number times 10^`shift`, rounded up.
    fn scaled(self, shift: i32) -> Result<u64, InvalidQuantity> {
        if self.mantissa == 0 {
            return Ok(0);
        }
        // At most 19 digits (2^64) times 2^60.
        let whole = self.mantissa << self.two;
        let ten = self.ten.saturating_add(shift);
        let power = 10u128.checked_pow(ten.unsigned_abs());
        let value = if ten >= 0 {
            power.and_then(|p| whole.checked_mul(p)).ok_or(InvalidQuantity::TooLarge)?
        } else {
            // A divisor past 128 bits leaves a fraction of one, which is rounded up to one.
            power.map_or(1, |p| whole.div_ceil(p))
        };
        i64::try_from(value).map_err(|_| InvalidQuantity::TooLarge).map(i64::unsigned_abs)
    }
}

impl FromStr for Quantity {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        if text.len() > TEXT_LEN_MAX {
            return Err(InvalidQuantity::Syntax);
        }
        let (negative, number) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let unit_at =
            number.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(number.len());
        let (digits, unit) = number.split_at(unit_at);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(InvalidQuantity::Syntax);
        }
        let (unit_ten, two) = unit_of(unit).ok_or(InvalidQuantity::Syntax)?;

        let fraction = fraction.trim_end_matches('0');
        let significant = format!("{whole}{fraction}");
        let significant = significant.trim_start_matches('0');
        if significant.is_empty() {
            return Ok(Self { mantissa: 0, ten: 0, two: 0 });
        }
        if negative {
            return Err(InvalidQuantity::Negative);
        }
        if significant.len() > DIGITS_MAX {
            return Err(InvalidQuantity::TooPrecise);
        }
        let mantissa = significant.parse().map_err(|_| InvalidQuantity::Syntax)?;
        let places = i32::try_from(fraction.len()).map_err(|_| InvalidQuantity::Syntax)?;
        Ok(Self { mantissa, ten: unit_ten.saturating_sub(places), two })
    }
}

/// A unit as powers of ten and of two.
fn unit_of(unit: &str) -> Option<(i32, u32)> {
    Some(match unit {
        "n" => (-9, 0),
        "u" => (-6, 0),
        "m" => (-3, 0),
        "" => (0, 0),
        "k" => (3, 0),
        "M" => (6, 0),
        "G" => (9, 0),
        "T" => (12, 0),
        "P" => (15, 0),
        "E" => (18, 0),
        "Ki" => (0, 10),
        "Mi" => (0, 20),
        "Gi" => (0, 30),
        "Ti" => (0, 40),
        "Pi" => (0, 50),
        "Ei" => (0, 60),
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            (digits.parse().ok()?, 0)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, units: u64, milli: u64) {
        let quantity: Quantity = text.parse().unwrap();
        assert_eq!((quantity.units(), quantity.milli()), (Ok(units), Ok(milli)), "{text}");
    }

    #[test]
    fn every_suffix_means_what_it_means_in_kubernetes() {
        check("0", 0, 0);
        check("-0", 0, 0);
        check("1", 1, 1000);
        check("+1.5", 2, 1500);
        check("0.5", 1, 500);
        check(".5", 1, 500);
        check("5.", 5, 5000);
        check("500m", 1, 500);
        check("1u", 1, 1);
        check("1n", 1, 1);
        check("2k", 2000, 2_000_000);
        check("1M", 1_000_000, 1_000_000_000);
        check("1G", 1_000_000_000, 1_000_000_000_000);
        check("1T", 10u64.pow(12), 10u64.pow(15));
        check("1P", 10u64.pow(15), 10u64.pow(18));
        check("1Ki", 1024, 1_024_000);
        check("1.5Mi", 1_572_864, 1_572_864_000);
        check("1Ti", 1 << 40, (1 << 40) * 1000);
        check("1e3", 1000, 1_000_000);
        check("1E+3", 1000, 1_000_000);
        check("1500e-3", 2, 1500);
        check("1e-300", 1, 1);
        check("0e999999", 0, 0);
    }

    #[test]
    fn arithmetic_is_exact_and_rounds_up() {
        check("0.1", 1, 100);
        check("0.0001", 1, 1);
        check("100.0000000000000000", 100, 100_000);
        check("0.1Ki", 103, 102_400);
        assert_eq!("1E".parse::<Quantity>().unwrap().units(), Ok(10u64.pow(18)));
        assert_eq!("1Ei".parse::<Quantity>().unwrap().units(), Ok(1 << 60));
        let most: Quantity = "9223372036854775.807k".parse().unwrap();
        assert_eq!(most.units(), Ok(i64::MAX.unsigned_abs()));
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for (text, error) in [
            ("", InvalidQuantity::Syntax),
            (".", InvalidQuantity::Syntax),
            ("1.2.3", InvalidQuantity::Syntax),
            ("1 Gi", InvalidQuantity::Syntax),
            ("1GB", InvalidQuantity::Syntax),
            ("1K", InvalidQuantity::Syntax),
            ("1e", InvalidQuantity::Syntax),
            ("1e3Ki", InvalidQuantity::Syntax),
            ("0x10", InvalidQuantity::Syntax),
            ("1e99999999999", InvalidQuantity::Syntax),
            ("--1", InvalidQuantity::Syntax),
            ("-1", InvalidQuantity::Negative),
            ("12345678901234567891", InvalidQuantity::TooPrecise),
        ] {
            assert_eq!(text.parse::<Quantity>(), Err(error), "{text}");
        }
        for text in ["9223372036854775808", "8Ei", "10E", "1e30", "1e300", "999999999999999999Ei"] {
            let quantity: Quantity = text.parse().unwrap();
            assert_eq!(quantity.units(), Err(InvalidQuantity::TooLarge), "{text}");
        }
    }
}
