// SPDX-License-Identifier: GPL-2.0

//! Sizes and times, as profiles and options have them.

use std::time::Duration;

use crate::PAGE_SIZE;

/// The longest time: a year is as good as no end.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// The digits and the unit behind them.
fn parts(text: &str) -> (&str, &str) {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    text.split_at(digits.len())
}

/// Reads a size with or without a unit, such as `64M`.
pub fn size(text: &str) -> Result<u64, String> {
    let (digits, unit) = parts(text);
    let shift = match unit {
        "" => 0,
        "K" | "k" | "KiB" => 10,
        "M" | "m" | "MiB" => 20,
        "G" | "g" | "GiB" => 30,
        unit => return Err(format!("{unit} is no unit of a size; K, M and G are")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "a size is a whole number, with K, M or G behind it or not".to_owned())?;
    number
        .checked_mul(1 << shift)
        .filter(|&bytes| bytes >= PAGE_SIZE)
        .ok_or_else(|| "a size is at least a page, and less than 2^64".to_owned())
}

/// Reads a time with its unit, such as `10s`.
pub fn time(text: &str) -> Result<Duration, String> {
    let (digits, unit) = parts(text);
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "" => return Err("a time has a unit behind it: ms, s, m or h".into()),
        unit => return Err(format!("{unit} is no unit of a time; ms, s, m and h are")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "a time is a whole number with ms, s, m or h behind it".to_owned())?;
    number
        .checked_mul(milliseconds)
        .map(Duration::from_millis)
        .filter(|time| !time.is_zero() && *time <= LONGEST)
        .ok_or_else(|| "a time is more than nothing, and at most a year".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("64M"), Ok(64 << 20));
        assert_eq!(size("2GiB"), Ok(2 << 30));
        for text in [
            "",
            "M",
            "1",
            "1T",
            "-1",
            "+ 1M",
            "1.5G",
            "99999999999G",
            "1\u{e4}M",
        ] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_have_units() {
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(time("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(time("1m"), time("60s"));
        assert_eq!(time("8760h"), Ok(LONGEST));
        for text in [
            "",
            "s",
            "1",
            "0s",
            "1.5s",
            "-1s",
            "1d",
            "8761h",
            "99999999999999999999s",
        ] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
