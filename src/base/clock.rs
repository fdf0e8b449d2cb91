//! Times as people read them.

/// UTC, to the second: `2026-11-20T09:15:00Z`. The civil-from-days algorithm is Howard Hinnant's
/// (<https://howardhinnant.github.io/date_algorithms.html>).
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

/// The same as a part of a name: `20261120-091500`.
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
    }
}
