//! Archived objects: what it takes to make them readable.

use std::fmt;
use std::str::FromStr;

use windlass_base::{Error, Kind};

/// The readable copy of an archived object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restored {
    Underway,
    /// The copy is there until this time, in milliseconds since 1970.
    Until(u64),
}

/// Haste with which an archived object is wanted, which decides what that costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tier {
    Expedited,
    Standard,
    Bulk,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The way to make an archived object readable: for how many days, and how soon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Restore {
    pub days: u16,
    /// The store's default where absent.
    pub tier: Option<Tier>,
}

/// A restoring is written `DAYS` or `DAYS:TIER`, the tier in any case.
impl FromStr for Restore {
    type Err = Error;

    fn from_str(text: &str) -> Result<Restore, Error> {
        let (days, tier) = text.split_once(':').map_or((text, None), |(days, tier)| (days, Some(tier)));
        let tiers = [Tier::Expedited, Tier::Standard, Tier::Bulk];
        let named = |name: &str| tiers.into_iter().find(|t| t.to_string().eq_ignore_ascii_case(name));
        let days = days.parse::<u16>().ok().filter(|days| *days > 0);
        match (days, tier, tier.and_then(named)) {
            (Some(days), None, _) => Ok(Restore { days, tier: None }),
            (Some(days), Some(_), Some(tier)) => Ok(Restore { days, tier: Some(tier) }),
            _ => Err(Error::new(
                Kind::Invalid,
                format!(
                    "{text:?} doesn't say for how long: write DAYS or DAYS:TIER, as in 7 or 7:Bulk; \
                     tiers are Expedited, Standard, Bulk"
                ),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_restore_is_read() {
        assert_eq!("7".parse::<Restore>().unwrap(), Restore { days: 7, tier: None });
        assert_eq!("30:bulk".parse::<Restore>().unwrap(), Restore { days: 30, tier: Some(Tier::Bulk) });
        for bad in ["", "0", "-1", "7d", "7:", "7:Fast", ":Bulk", "99999"] {
            assert!(bad.parse::<Restore>().unwrap_err().is(Kind::Invalid), "{bad}");
        }
    }
}
