//! How users write sizes and times, and how they are shown.

use super::error::{Error, Kind, Result};

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// Most digits behind a size's point.
const FRACTION_MAX: u32 = 9;

/// Reads `10G`, `512M`, `4k`, `1.5T`, `4096`; units are powers of 1024, with or without `iB`. With a `B` alone (`20GB`) they are
/// powers of 1000.
pub fn parse_size(text: &str) -> Result<u64> {
    let bad = || {
        Error::new(
            Kind::Usage,
            format!(
                "{text:?} is not a size: write a number with K, M, G or T (powers of 1024) or with KB, MB, GB or TB (of 1000), \
                 as 20G or 1.5T"
            ),
        )
    };
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].to_ascii_lowercase());
    let mut letters = unit.chars();
    let power = match letters.next() {
        None | Some('b') => 0,
        Some('k') => 1,
        Some('m') => 2,
        Some('g') => 3,
        Some('t') => 4,
        Some('p') => 5,
        Some(_) => return Err(bad()),
    };
    let base: u128 = match letters.as_str() {
        "" | "ib" => 1024,
        "b" => 1000,
        _ => return Err(bad()),
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let digits = u32::try_from(part.len()).ok().filter(|digits| *digits <= FRACTION_MAX).ok_or_else(bad)?;
    let read = |digits: &str| digits.parse::<u64>().map(u128::from).map_err(|_| bad());
    let scale = 10u128.pow(digits);
    let parts = (read(whole)? * scale + read(part)?).checked_mul(base.pow(power)).ok_or_else(bad)?;
    // A part of a byte is no size.
    let bytes = (parts % scale == 0).then(|| parts / scale).ok_or_else(bad)?;
    u64::try_from(bytes).map_err(|_| bad())
}

/// Prints bytes the way `parse_size` reads them back, exactly: `10G`, `1536M`, `1000`.
pub fn show_size(bytes: u64) -> String {
    for (shift, unit) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// Shows a number with its noun: "1 shard", "2 shards".
pub fn show_count(n: u64, one: &str) -> String {
    format!("{n} {one}{}", if n == 1 { "" } else { "s" })
}

/// Prints bytes for people, rounded: `1.4 GiB`.
pub fn show_bytes(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >= 1 << shift {
            return format!("{:.1} {unit}", bytes as f64 / (1u64 << shift) as f64);
        }
    }
    format!("{bytes} B")
}

/// Prints a time for people, rounded down: `250 ms`, `34 s`, `3 min`, `2 h`, `5 days`.
pub fn show_time(ms: u64) -> String {
    match ms / 1000 {
        0 => format!("{ms} ms"),
        s @ 1..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}

/// Reads a time: `5s`, `250ms`, `2m`, `1h`.
pub fn parse_duration(text: &str) -> Result<std::time::Duration> {
    let bad =
        || Error::new(Kind::Usage, format!("{text:?} is not a duration: write 250ms, 5s, 2m, 1h or 1d"));
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| bad())?;
    let ms = match &text[digits..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(bad()),
    };
    number.checked_mul(ms).map(std::time::Duration::from_millis).ok_or_else(bad)
}

/// Prints a time the way `parse_duration` reads it back, exactly: `5s`, `250ms`.
pub fn show_duration(ms: u64) -> String {
    for (unit, name) in [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")] {
        if ms >= unit && ms.is_multiple_of(unit) {
            return format!("{}{name}", ms / unit);
        }
    }
    format!("{ms}ms")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format_limits::VOLUME_MAX;

    #[test]
    fn sizes_round_trip() {
        for (text, bytes) in
            [("10G", 10 * GIB), ("1536M", 1536 * MIB), ("4K", 4096), ("1000", 1000), ("64T", VOLUME_MAX)]
        {
            assert_eq!(parse_size(text).unwrap(), bytes);
            assert_eq!(show_size(bytes), text);
        }
        for (text, bytes) in [
            ("10GiB", 10 * GIB),
            ("20GB", 20_000_000_000),
            ("1.5G", 1536 * MIB),
            ("0.5kb", 500),
            ("7b", 7),
            ("1P", 1 << 50),
        ] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for bad in [
            "",
            "G",
            "-1",
            "10X",
            "10Gi",
            "99999999999T",
            "1.5",
            "1.",
            ".5G",
            "1.2.3G",
            "1.0000000000001G",
            "1é",
        ] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_rounded() {
        let all = [(0, "0 ms"), (999, "999 ms"), (34_999, "34 s"), (180_000, "3 min"), (7_200_000, "2 h")];
        for (ms, text) in all {
            assert_eq!(show_time(ms), text);
        }
        assert_eq!(show_time(5 * 86_400_000), "5 days");
        assert_eq!([0, 1, 2].map(|n| show_count(n, "shard")), ["0 shards", "1 shard", "2 shards"]);
    }

    #[test]
    fn durations_parse() {
        assert_eq!(parse_duration("250ms").unwrap().as_millis(), 250);
        assert_eq!(parse_duration("2m").unwrap().as_secs(), 120);
        assert!(parse_duration("5").is_err());
    }
}
