//! Targets of fuzzing: what this layer parses.

use windlass_fuzz::{Target, text, texts};

use super::{Name, units, utc};

pub const TARGETS: &[Target] =
    &[Target { name: "values", run: values, seeds: some_values, memory: 64 << 10 }];

fn some_values() -> Vec<Vec<u8>> {
    texts(&["12.5G", "1h30m", "tank", "2026-01-31T10:22:33.123Z", "0", "16EiB", "-1", "500ms"])
}

/// Parses sizes, durations, names and times, as commands and settings have them.
fn values(data: &[u8]) {
    text(data, |text| {
        if let Ok(bytes) = units::parse_size(text) {
            assert_eq!(units::parse_size(&units::show_size(bytes)).ok(), Some(bytes));
        }
        if let Ok(time) = units::parse_duration(text)
            && let Ok(ms) = u64::try_from(time.as_millis())
        {
            assert_eq!(units::parse_duration(&units::show_duration(ms)).ok(), Some(time));
        }
        if let Ok(name) = text.parse::<Name>() {
            assert_eq!(name.as_str(), text);
        }
        if let Some(ms) = utc::read_ms(text) {
            assert_eq!(utc::read_ms(&utc::show_ms(ms)), Some(ms));
        }
    });
}

#[test]
fn parsers_take_their_corpora_and_what_is_near_them() {
    windlass_fuzz::try_all(TARGETS);
}
