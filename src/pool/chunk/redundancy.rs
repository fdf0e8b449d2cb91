//! How many shards a chunk has, when it counts as stored, which stores are acceptors, and what all that survives.
//!
//! Owns the arithmetic of `k+m` and of zones; knows no store.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::base::format_limits::SHARDS_MAX;
use crate::base::{Error, Kind, Result};

/// `k` data and `m` parity shards a chunk, one a store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Layout {
    k: usize,
    m: usize,
}

impl Layout {
    /// At least one data shard, at most `SHARDS_MAX` shards.
    pub fn new(k: usize, m: usize) -> Result<Layout> {
        if k == 0 || k.saturating_add(m) > SHARDS_MAX {
            return Err(Error::new(
                Kind::Usage,
                format!(
                    "layout {k}+{m} is not possible: use 1 or more data shards and at most {SHARDS_MAX} shards in all"
                ),
            ));
        }
        Ok(Layout { k, m })
    }

    /// What `pool create` takes when no layout is given.
    pub fn for_stores(n: usize) -> Result<Layout> {
        match n {
            1 => Layout::new(1, 0),
            3 => Layout::new(2, 1),
            6 => Layout::new(4, 2),
            _ => Err(Error::new(
                Kind::Usage,
                format!(
                    "say with --layout K+M how to use {n} stores (without it 1, 3 or 6 stores make 1+0, 2+1 or 4+2)"
                ),
            )),
        }
    }

    pub fn k(self) -> usize {
        self.k
    }
    pub fn m(self) -> usize {
        self.m
    }
    /// Stores in the pool, and shards of a chunk.
    pub fn n(self) -> usize {
        self.k + self.m
    }
    /// Shards that make a chunk stored.
    pub fn w(self) -> usize {
        self.k + self.m.div_ceil(2)
    }
    /// How many stores hold registers.
    pub fn acceptors(self) -> usize {
        self.n().min(2 * self.m + 1)
    }
    /// How many acceptors decide.
    pub fn majority(self) -> usize {
        self.acceptors() / 2 + 1
    }
    /// Stores that may be lost for good with the pool still opening, once nothing is pending.
    pub fn survives_open(self) -> usize {
        self.m.min(self.acceptors().div_ceil(2) - 1)
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.k, self.m)
    }
}

impl FromStr for Layout {
    type Err = Error;
    fn from_str(s: &str) -> Result<Layout> {
        let number =
            |t: &str| t.bytes().all(|b| b.is_ascii_digit()).then(|| t.parse::<usize>().ok()).flatten();
        match s.split_once('+').map(|(k, m)| (number(k), number(m))) {
            Some((Some(k), Some(m))) => Layout::new(k, m),
            _ => Err(Error::new(Kind::Usage, format!("{s:?} is not a layout: write K+M, such as 4+2"))),
        }
    }
}

impl Serialize for Layout {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Layout {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A layout on stores with zones: who is an acceptor, what a lost zone costs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Zoning {
    layout: Layout,
    /// A store without a zone is a zone of its own.
    zones: Vec<Vec<usize>>,
    labelled: bool,
}

impl Zoning {
    /// `zones[i]` is the zone of store i.
    pub fn new(layout: Layout, zones: &[Option<String>]) -> Result<Zoning> {
        if zones.len() != layout.n() {
            return Err(Error::new(
                Kind::Usage,
                format!("layout {layout} needs {} stores, {} are given", layout.n(), zones.len()),
            ));
        }
        let mut by_name: BTreeMap<&str, usize> = BTreeMap::new();
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for (index, zone) in zones.iter().enumerate() {
            let fresh = groups.len();
            let at = zone.as_deref().map_or(fresh, |name| *by_name.entry(name).or_insert(fresh));
            if at == fresh {
                groups.push(Vec::new());
            }
            groups[at].push(index);
        }
        Ok(Zoning { layout, zones: groups, labelled: zones.iter().any(Option::is_some) })
    }

    /// Stores in the largest zone.
    pub fn largest(&self) -> usize {
        self.zones.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// Shards that make a chunk stored under `--ack zone`.
    pub fn w_zone(&self) -> usize {
        (self.layout.k() + self.largest()).min(self.layout.n())
    }

    /// The stores that hold registers, in order: taken from the zones in turn, so that no zone holds a majority where
    /// zones allow it.
    pub fn acceptors(&self) -> Vec<usize> {
        let deepest = self.largest();
        let turns = (0..deepest).flat_map(|turn| self.zones.iter().filter_map(move |zone| zone.get(turn)));
        let mut chosen: Vec<usize> = turns.copied().take(self.layout.acceptors()).collect();
        chosen.sort_unstable();
        chosen
    }

    /// Zones whose loss the data or the registers would not survive.
    fn deadly(&self) -> bool {
        let acceptors = self.acceptors();
        let spare = self.layout.acceptors() - self.layout.majority();
        self.zones.iter().any(|zone| {
            zone.len() > self.layout.m() || zone.iter().filter(|i| acceptors.contains(i)).count() > spare
        })
    }

    /// Refuses a layout that the loss of one labelled zone breaks.
    pub fn check(&self) -> Result<()> {
        if !self.labelled || !self.deadly() {
            return Ok(());
        }
        Err(Error::new(
            Kind::Refused,
            format!(
                "layout {} would not survive the loss of one zone ({} stores are in the largest): use more parity or spread the stores over more zones, or force it",
                self.layout,
                self.largest()
            ),
        ))
    }

    /// What the pool survives, for people, a line each.
    pub fn survives(&self, w: usize) -> Vec<String> {
        let (layout, open) = (self.layout, self.layout.survives_open());
        let any = |n: usize| if n == 1 { "any 1 store".to_owned() } else { format!("any {n} stores") };
        if layout.m() == 0 {
            return vec!["no redundancy: losing any store loses the pool".to_owned()];
        }
        let zone = if self.labelled && !self.deadly() { ", any 1 zone" } else { "" };
        let mut lines = Vec::new();
        if open == layout.m() {
            lines.push(format!("survives the loss of {}{zone}", any(open)));
        } else if open == 0 {
            lines.push(format!(
                "the data survive the loss of {}, but opening needs every one of the {} stores that hold registers: with one away only `pool force-recover` opens it",
                any(layout.m()),
                layout.acceptors()
            ));
        } else {
            lines.push(format!(
                "survives the loss of {}{zone}; the data that of {}, then opened with `pool force-recover`",
                any(open),
                any(layout.m())
            ));
        }
        lines.push(match w.saturating_sub(layout.k()) {
            spare if spare >= layout.m() => "that holds at any instant, for the newest data too".to_owned(),
            0 => "until all shards of the newest data are there, those survive no lost store".to_owned(),
            spare => {
                format!(
                    "until all shards of the newest data are there, those survive the loss of {}",
                    any(spare)
                )
            }
        });
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zoning(layout: &str, zones: &str) -> Zoning {
        let zones: Vec<_> = zones.chars().map(|c| (c != '-').then(|| c.to_string())).collect();
        Zoning::new(layout.parse().unwrap(), &zones).unwrap()
    }

    #[test]
    fn figures_of_the_usual_layouts() {
        // layout, n, w, acceptors, majority, losses that still open
        for (text, figures) in [
            ("1+0", (1, 1, 1, 1, 0)),
            ("4+0", (4, 4, 1, 1, 0)),
            ("1+1", (2, 2, 2, 2, 0)),
            ("1+2", (3, 2, 3, 2, 1)),
            ("2+1", (3, 3, 3, 2, 1)),
            ("4+2", (6, 5, 5, 3, 2)),
            ("10+4", (14, 12, 9, 5, 4)),
        ] {
            let l: Layout = text.parse().unwrap();
            assert_eq!((l.n(), l.w(), l.acceptors(), l.majority(), l.survives_open()), figures, "{text}");
            assert_eq!(l.to_string(), text);
        }
        for bad in ["", "4", "0+1", "+", "4+", "+2", "-1+2", "4+2+1", "64+1", "99999999999999999999+1"] {
            assert!(bad.parse::<Layout>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_lost_zone_costs_at_most_m_shards_and_no_majority() {
        assert!(zoning("4+2", "aabbcc").check().is_ok());
        assert!(zoning("4+2", "aaabbb").check().is_err());
        assert!(zoning("4+2", "------").check().is_ok());
        assert!(zoning("4+2", "aaa---").check().is_err());
        assert!(zoning("1+2", "aab").check().is_err(), "two of three acceptors in one zone");
        assert!(zoning("1+2", "abc").check().is_ok());
        assert_eq!(zoning("4+2", "aabbcc").acceptors(), [0, 1, 2, 3, 4]);
        assert_eq!(zoning("4+2", "ababab").w_zone(), 6);
        assert_eq!(zoning("4+2", "aabbcc").w_zone(), 6);
        // Registers avoid the crowded zone.
        assert_eq!(zoning("6+1", "aaaabcd").acceptors(), [0, 4, 5]);
    }

    #[test]
    fn survival_is_told() {
        let text = |l: &str, z: &str, w| zoning(l, z).survives(w).join("; ");
        assert!(text("4+2", "aabbcc", 5).starts_with("survives the loss of any 2 stores, any 1 zone"));
        assert!(text("4+2", "------", 5).contains("those survive the loss of any 1 store"));
        assert!(text("1+1", "--", 2).contains("force-recover"));
        assert!(text("1+0", "-", 1).contains("no redundancy"));
    }
}
