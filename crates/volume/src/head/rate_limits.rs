//! How much clients may ask of a volume in a time.

use serde::{Deserialize, Serialize};

use windlass_base::{Error, Kind, Result};

/// The direction of a request, by which limits are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    Read,
    /// Writes, and also trims and write-zeroes, which count as operations without bytes.
    Write,
}

/// A limit: `rate` operations or bytes a second.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rate {
    pub rate: u64,
    /// Operations or bytes that go through at once after a pause.
    pub burst: u64,
}

/// Divisor that makes a burst of a rate: a limit without a burst of its own lets through at once what it
/// allows in a tenth of a second.
const BURST: u64 = 10;

impl Rate {
    /// Parses `RATE[:BURST]`; `0` and `none` are no limit.
    pub(super) fn parse(text: &str, number: fn(&str) -> Result<u64>) -> Result<Option<Rate>> {
        if text == "none" {
            return Ok(None);
        }
        let (rate, burst) = match text.split_once(':') {
            Some((rate, burst)) => (number(rate)?, Some(number(burst)?)),
            None => (number(text)?, None),
        };
        match (rate, burst) {
            (0, None) => Ok(None),
            (0, Some(_)) | (_, Some(0)) => Err(Error::new(
                Kind::Usage,
                format!("{text:?} is no limit: write RATE or RATE:BURST, each 1 or more, or `none`"),
            )),
            _ => Ok(Some(Rate { rate, burst: burst.unwrap_or((rate / BURST).max(1)) })),
        }
    }

    pub(super) fn show(this: Option<Rate>, number: fn(u64) -> String) -> String {
        this.map_or_else(
            || "none".to_owned(),
            |Rate { rate, burst }| format!("{}:{}", number(rate), number(burst)),
        )
    }
}

/// Limits of operations and bytes a second, of reads and writes together and of each; `None`: as many as
/// there may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    pub iops: Option<Rate>,
    pub bps: Option<Rate>,
    pub read_iops: Option<Rate>,
    pub read_bps: Option<Rate>,
    pub write_iops: Option<Rate>,
    pub write_bps: Option<Rate>,
}

impl Limits {
    pub(super) const KEYS: &[&str] = &["iops", "bps", "read-iops", "read-bps", "write-iops", "write-bps"];

    /// Returns the limits of both directions together: operations, bytes.
    pub fn of_all(&self) -> [Option<Rate>; 2] {
        [self.iops, self.bps]
    }

    pub fn of(&self, direction: Direction) -> [Option<Rate>; 2] {
        match direction {
            Direction::Read => [self.read_iops, self.read_bps],
            Direction::Write => [self.write_iops, self.write_bps],
        }
    }

    /// Returns the limit that users know by this name.
    pub(super) fn named(&mut self, key: &str) -> Option<&mut Option<Rate>> {
        Some(match key {
            "iops" => &mut self.iops,
            "bps" => &mut self.bps,
            "read-iops" => &mut self.read_iops,
            "read-bps" => &mut self.read_bps,
            "write-iops" => &mut self.write_iops,
            "write-bps" => &mut self.write_bps,
            _ => return None,
        })
    }
}
