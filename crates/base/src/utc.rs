//! Times as people read them.

/// Shows a time in UTC, to the second: `2026-11-20T09:15:00Z`. The civil-from-days algorithm is Howard
/// Hinnant's (<https://howardhinnant.github.io/date_algorithms.html>).
pub fn show(ms: u64) -> String {
    let seconds = (ms / 1000) as i64;
    let (days, day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    let day_of_month = doy - (153 * mp + 2) / 5 + 1;
    format!("{year:04}-{month:02}-{day_of_month:02}T{:02}:{:02}:{:02}Z", day / 3600, day / 60 % 60, day % 60)
}

/// Shows a time in UTC, to the millisecond: `2026-11-20T09:15:00.123Z`. Up to the year 9999 the order of
/// texts is that of times.
pub fn show_ms(ms: u64) -> String {
    format!("{}.{:03}Z", show(ms).trim_end_matches('Z'), ms % 1000)
}

/// Reads a time as people write it, in UTC: `2026-11-24T07:15`, with seconds and a Z or without.
pub fn read(text: &str) -> Option<u64> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let seconds = if text.len() == 16 { ":00" } else { "" };
    read_ms(&format!("{text}{seconds}.000Z"))
}

/// Reads exactly what `show_ms` shows, as milliseconds since 1970. `None`: the text is anything else.
pub fn read_ms(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    if !(1..=12).contains(&month) || year < 1970 {
        return None;
    }
    // Days before a civil date, by the same author.
    let y = year - i64::from(month <= 2);
    let (era, mp) = (y.div_euclid(400), (month + 9) % 12);
    let yoe = y.rem_euclid(400);
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + (153 * mp + 2) / 5 + day - 1;
    let days = era * 146_097 + doe - 719_468;
    let seconds = days * 86_400 + number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?;
    let ms = u64::try_from(seconds * 1000 + number(20, 23)?).ok()?;
    (show_ms(ms) == text).then_some(ms)
}

/// Shows a time to the second as a part of a name: `20261120-091500`.
pub fn compact(ms: u64) -> String {
    show(ms)
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect::<String>()
        .replace('T', "-")
        .replace('Z', "")
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_are_shown_in_utc() {
        assert_eq!(super::show(0), "1970-01-01T00:00:00Z");
        assert_eq!(super::show(951_782_400_000), "2000-02-29T00:00:00Z");
        assert_eq!(super::compact(1_795_166_100_999), "20261120-091500");
        assert_eq!(super::show(1_795_166_100_999), "2026-11-20T09:15:00Z");
        assert_eq!(super::show_ms(1_795_166_100_009), "2026-11-20T09:15:00.009Z");
    }

    #[test]
    fn times_are_read_as_they_are_shown() {
        for ms in [0, 1, 951_782_399_999, 951_782_400_000, 1_795_166_100_009, 253_402_300_799_999] {
            assert_eq!(super::read_ms(&super::show_ms(ms)), Some(ms), "{ms}");
        }
        for bad in [
            "",
            "2026-11-20T09:15:00Z",
            "2026-13-20T09:15:00.000Z",
            "2026-02-30T09:15:00.000Z",
            "2026-11-20T24:15:00.000Z",
            "1969-11-20T09:15:00.000Z",
            "+026-11-20T09:15:00.000Z",
            "2026-11-20T09:15:00.000é",
        ] {
            assert_eq!(super::read_ms(bad), None, "{bad}");
        }
    }
}
