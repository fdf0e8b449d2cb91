//! Snapshots that a volume takes by itself: how often, and which of them stay for how long.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use windlass_base::units::{parse_duration, show_duration};
use windlass_base::{Error, Kind, Result};

/// Most tiers that a plan may have.
const TIERS_MAX: usize = 6;
/// Most snapshots that a plan may keep: the volume's own must have room beside them.
const KEPT_MAX: u64 = 8_192;

/// A tier of a plan: the first snapshot of each period of `every_ms` stays for `keep_ms`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Tier {
    every_ms: u64,
    keep_ms: u64,
}

/// A plan as people write it: `1m:1h,1h:1d,1d:30d`, the finest first; `none`: no snapshots are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct History {
    /// The plan's tiers, the finest first. A slot whose period is 0 is empty.
    tiers: [Tier; TIERS_MAX],
}

impl History {
    fn tiers(&self) -> impl Iterator<Item = &Tier> {
        self.tiers.iter().filter(|tier| tier.every_ms > 0)
    }

    /// Returns how often a snapshot is taken, in ms; `None`: the plan takes none.
    pub fn every_ms(&self) -> Option<u64> {
        self.tiers().next().map(|tier| tier.every_ms)
    }

    /// Returns which snapshots the plan keeps no longer, as indexes into `taken`, the times at which they
    /// were taken, in order. The newest snapshot always stays.
    pub fn outdated(&self, taken: &[u64], now_ms: u64) -> Vec<usize> {
        let mut stays: BTreeSet<usize> = taken.len().checked_sub(1).into_iter().collect();
        for tier in self.tiers() {
            let mut period = None;
            for (i, at) in taken.iter().enumerate() {
                let first = period.replace(at / tier.every_ms) != Some(at / tier.every_ms);
                if first && now_ms.saturating_sub(*at) <= tier.keep_ms {
                    stays.insert(i);
                }
            }
        }
        (0..taken.len()).filter(|i| !stays.contains(i)).collect()
    }
}

impl FromStr for History {
    type Err = Error;

    fn from_str(text: &str) -> Result<History> {
        let bad = |why: String| {
            let form = "write EVERY:FOR, the finest first, as 1m:1h,1h:1d,1d:30d, or none";
            Error::new(Kind::Usage, format!("history={text:?}: {why}: {form}"))
        };
        let mut history = History::default();
        if text == "none" {
            return Ok(history);
        }
        let (mut last, mut kept) = (Tier::default(), 0);
        for (i, tier) in text.split(',').enumerate() {
            let (every, keep) = tier.split_once(':').ok_or_else(|| bad(format!("{tier:?} has no FOR")))?;
            let ms = |text: &str| Ok::<_, Error>(parse_duration(text)?.as_millis() as u64);
            let tier = Tier { every_ms: ms(every)?, keep_ms: ms(keep)? };
            if tier.every_ms < 1000 || tier.keep_ms < tier.every_ms {
                return Err(bad("EVERY is at least 1s, FOR at least EVERY".into()));
            }
            if tier.every_ms <= last.every_ms || tier.keep_ms <= last.keep_ms {
                return Err(bad("both grow from one to the next".into()));
            }
            *history.tiers.get_mut(i).ok_or_else(|| bad(format!("at most {TIERS_MAX} are allowed")))? = tier;
            kept += tier.keep_ms / tier.every_ms;
            last = tier;
        }
        match kept {
            ..=KEPT_MAX => Ok(history),
            _ => Err(bad(format!("it would keep {kept} snapshots, of which {KEPT_MAX} are the most"))),
        }
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |t: &Tier| format!("{}:{}", show_duration(t.every_ms), show_duration(t.keep_ms));
        let tiers: Vec<String> = self.tiers().map(show).collect();
        f.write_str(if tiers.is_empty() { "none" } else { "" })?;
        f.write_str(&tiers.join(","))
    }
}

impl TryFrom<String> for History {
    type Error = Error;

    fn try_from(text: String) -> Result<History> {
        text.parse()
    }
}

impl From<History> for String {
    fn from(history: History) -> String {
        history.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_read_and_shown() {
        for text in ["none", "1m:1h,1h:1d,1d:30d", "1s:10s"] {
            assert_eq!(text.parse::<History>().unwrap().to_string(), text);
        }
        for bad in ["", "1m", "1m:", "500ms:1h", "1m:30s", "1h:1d,1m:1h", "1m:1d,1h:1d", "1s:30d", "x:y"] {
            assert!(bad.parse::<History>().unwrap_err().is(Kind::Usage), "{bad}");
        }
    }

    /// Takes a snapshot each minute for two days. At any time the plan has those that it promises, and few
    /// others.
    #[test]
    fn the_first_of_each_period_stays() {
        let plan: History = "1m:1h,1h:1d".parse().unwrap();
        let (minute, hour) = (60_000, 3_600_000);
        let mut taken: Vec<u64> = Vec::new();
        for now in (0..48 * hour).step_by(minute as usize) {
            taken.push(now + 7);
            let outdated = plan.outdated(&taken, now + 7);
            let mut i = 0;
            taken.retain(|_| {
                i += 1;
                !outdated.contains(&(i - 1))
            });
            assert!(taken.len() <= 61 + 25, "{} at {now}", taken.len());
            let minutes = taken.iter().filter(|at| now + 7 - **at <= hour).count() as u64;
            assert_eq!(minutes, now.min(hour) / minute + 1);
            // Any time of the last day has one that is no more than an hour older.
            for back in (0..now.min(23 * hour)).step_by(hour as usize / 3) {
                let wanted = now - back;
                let newest = taken.iter().rev().find(|at| **at <= wanted + 7).unwrap();
                assert!(wanted + 7 - newest <= hour, "{newest} for {wanted}");
            }
        }
        assert_eq!(History::default().outdated(&[1, 2, 3], 9), [0, 1]);
    }
}
