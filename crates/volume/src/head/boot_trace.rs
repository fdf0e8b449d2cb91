//! What a template's first boot has read, in order: clones are fetched ahead by it (`volume set boot-trace=record`).
//!
//! A trace is a hint: ranges of the disk, in units of 64 KiB, in the order in which they were first read. It is part of the
//! head (`transitions` tells how it is written there), so it is as safe as that, and never larger than `CODE_MAX`.

use std::fmt;
use std::ops::Range;

use base64::prelude::*;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use windlass_base::codec::{Reader, Writer};
use windlass_base::format_limits::{BLOCK, FRAME_BLOCKS, VOLUME_MAX};
use windlass_base::units::{show_bytes, show_count};
use windlass_base::{Error, Kind, Result};

/// Bytes of a trace before base64: some 5,000 ranges.
const CODE_MAX: usize = 16 << 10;
/// Number of units of the largest volume.
const UNITS_MAX: u64 = VOLUME_MAX / UNIT;
const UNIT: u64 = FRAME_BLOCKS * BLOCK;

/// The setting `boot-trace`: what the user asked for, or what has been recorded since.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum BootTrace {
    #[default]
    Off,
    /// The next clone that is opened for the first time records.
    Record,
    /// A clone has recorded its first boot: `bytes` of the disk in `ranges` ranges.
    Kept { bytes: u64, ranges: u64 },
}

impl BootTrace {
    pub(super) fn parse(value: &str) -> Result<BootTrace> {
        match value {
            "off" | "none" => Ok(BootTrace::Off),
            "record" => Ok(BootTrace::Record),
            _ => Err(Error::new(
                Kind::Usage,
                format!(
                    "boot-trace={value:?} is unknown: use record, which forgets what was recorded before, or off"
                ),
            )),
        }
    }

    pub(super) fn is_kept(&self) -> bool {
        matches!(self, BootTrace::Kept { .. })
    }
}

impl fmt::Display for BootTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BootTrace::Off => f.write_str("off"),
            BootTrace::Record => f.write_str("record"),
            BootTrace::Kept { bytes, ranges } => {
                write!(f, "{} in {}", show_bytes(*bytes), show_count(*ranges, "range"))
            }
        }
    }
}

/// A recorded boot trace, as the module describes it. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Trace {
    /// The encoded ranges, before base64. They were checked when the trace was read, or made here, so decoding
    /// them cannot fail.
    code: Bytes,
}

/// Codes a number that may be negative as an unsigned one, small where its absolute value is small.
fn zigzag(n: i64) -> u64 {
    (n << 1 ^ n >> 63) as u64
}

fn unzigzag(n: u64) -> i64 {
    (n >> 1) as i64 ^ -((n & 1) as i64)
}

impl Trace {
    /// Makes the trace of these ranges, which are in units of `FRAME_BLOCKS` blocks. Ranges at the end for
    /// which there is no room are left out.
    pub fn of(units: &[Range<u64>]) -> Trace {
        let (mut code, mut end) = (Writer::default(), 0);
        for range in units {
            let len = code.buf.len();
            code.varint(zigzag(range.start as i64 - end as i64)).varint(range.end - range.start - 1);
            if code.buf.len() > CODE_MAX {
                code.buf.truncate(len);
                break;
            }
            end = range.end;
        }
        Trace { code: code.buf.into() }
    }

    /// Decodes a trace into ranges of blocks, in the order in which they were read.
    fn decode(code: &[u8]) -> Result<Vec<Range<u64>>> {
        let mut reader = Reader::new(code, "the volume's boot trace");
        let (mut end, mut ranges) = (0, Vec::new());
        if code.len() > CODE_MAX {
            return Err(reader.bad("it is too large"));
        }
        while reader.left() > 0 {
            let (skip, more) = (unzigzag(reader.varint()?), reader.varint()?);
            let start = i64::checked_add(end, skip).and_then(|start| u64::try_from(start).ok());
            let range = start.and_then(|start| Some(start..start.checked_add(more)?.checked_add(1)?));
            let Some(range) = range.filter(|range| range.end <= UNITS_MAX) else {
                return Err(reader.bad("a range is outside of every volume"));
            };
            end = range.end as i64;
            ranges.push(range.start * FRAME_BLOCKS..range.end * FRAME_BLOCKS);
        }
        Ok(ranges)
    }

    /// Returns the ranges of blocks, in the order in which they were read.
    pub fn ranges(&self) -> Vec<Range<u64>> {
        Trace::decode(&self.code).expect("it was checked, or written here")
    }

    pub fn is_empty(&self) -> bool {
        self.code.is_empty()
    }

    /// Returns the value that the setting `boot-trace` has while the head keeps this trace.
    pub(super) fn kept(&self) -> BootTrace {
        let ranges = self.ranges();
        let blocks: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        BootTrace::Kept { bytes: blocks * BLOCK, ranges: ranges.len() as u64 }
    }
}

impl TryFrom<String> for Trace {
    type Error = Error;

    fn try_from(text: String) -> Result<Trace> {
        let code = BASE64_STANDARD.decode(text).map_err(|e| {
            Error::new(Kind::Invalid, "the volume's boot trace is malformed: it is no base64").because(e)
        })?;
        Trace::decode(&code)?;
        Ok(Trace { code: code.into() })
    }
}

impl From<Trace> for String {
    fn from(trace: Trace) -> String {
        BASE64_STANDARD.encode(&trace.code)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn traces_survive_their_bytes(ranges in prop::collection::vec((0..UNITS_MAX - 5_000, 1u64..5_000), 0..3_000)) {
            let units: Vec<_> = ranges.into_iter().map(|(start, len)| start..start + len).collect();
            let trace = Trace::of(&units);
            let told = trace.ranges();
            prop_assert!(trace.code.len() <= CODE_MAX);
            prop_assert!(told.len() == units.len() || trace.code.len() > CODE_MAX - 20);
            let blocks = |r: &Range<u64>| r.start * FRAME_BLOCKS..r.end * FRAME_BLOCKS;
            prop_assert!(told.iter().zip(&units).all(|(told, units)| *told == blocks(units)));
            let text = serde_json::to_string(&trace).unwrap();
            prop_assert_eq!(serde_json::from_str::<Trace>(&text).unwrap(), trace);
        }

        #[test]
        fn bad_bytes_are_errors_or_ranges_of_a_volume(code in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(ranges) = Trace::decode(&code) {
                prop_assert!(ranges.iter().all(|r| r.start < r.end && r.end <= VOLUME_MAX / BLOCK));
            }
        }
    }

    #[test]
    fn it_is_set_and_shown() {
        for (text, shown) in [("off", "off"), ("none", "off"), ("record", "record")] {
            assert_eq!(BootTrace::parse(text).unwrap().to_string(), shown);
        }
        assert!(BootTrace::parse("kept").unwrap_err().is(Kind::Usage));
        let kept = Trace::of(&[5..7, 0..1]).kept();
        assert_eq!(kept, BootTrace::Kept { bytes: 3 * UNIT, ranges: 2 });
        assert_eq!(serde_json::to_value(kept).unwrap()["state"], "kept");
        assert!(kept.to_string().ends_with("in 2 ranges"), "{kept}");
    }
}
