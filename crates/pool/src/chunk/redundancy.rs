//! How many shards a chunk has, when it counts as stored, which stores are acceptors, and what all that survives.
//!
//! Owns the arithmetic of `k+m` and of zones; knows no store.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use windlass_base::format_limits::SHARDS_MAX;
use windlass_base::{Error, Kind, Result};

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
    /// How many stores hold registers, at most: fewer where fewer keep the conditions of writes.
    pub fn acceptors_max(self) -> usize {
        self.n().min(2 * self.m + 1)
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
    /// The stores that hold registers, in order.
    acceptors: Vec<usize>,
}

impl Zoning {
    /// `zones[i]` is the zone of store i. Any store may hold registers.
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
        let labelled = zones.iter().any(Option::is_some);
        let any = Zoning { layout, zones: groups, labelled, acceptors: Vec::new() };
        Ok(any.chosen(&[], |_| true))
    }

    /// The same with these stores as acceptors.
    pub fn with_acceptors(self, acceptors: &[usize]) -> Zoning {
        Zoning { acceptors: acceptors.to_vec(), ..self }
    }

    /// The same with acceptors among the stores that may be some. Those that are `kept` stay; others are taken from the zones
    /// in turn, so that no zone holds a majority where zones allow it. As many as may, up to the layout's number.
    pub fn chosen(self, kept: &[usize], may: impl Fn(usize) -> bool) -> Zoning {
        let turns =
            (0..self.largest()).flat_map(|turn| self.zones.iter().filter_map(move |zone| zone.get(turn)));
        let mut acceptors: Vec<usize> = kept.iter().copied().filter(|index| may(*index)).collect();
        let others: Vec<usize> = turns.copied().filter(|i| may(*i) && !acceptors.contains(i)).collect();
        acceptors.extend(others);
        acceptors.truncate(self.layout.acceptors_max());
        acceptors.sort_unstable();
        Zoning { acceptors, ..self }
    }

    /// Stores in the largest zone.
    pub fn largest(&self) -> usize {
        self.zones.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// Shards that make a chunk stored under `--ack zone`.
    pub fn w_zone(&self) -> usize {
        (self.layout.k() + self.largest()).min(self.layout.n())
    }

    /// The stores that hold registers, in order.
    pub fn acceptors(&self) -> &[usize] {
        &self.acceptors
    }

    /// Acceptors that may be away while registers can be read and changed.
    fn spare_acceptors(&self) -> usize {
        self.acceptors.len().saturating_sub(self.acceptors.len() / 2 + 1)
    }

    /// Stores that may be lost for good with the pool still opening, once nothing is pending.
    fn survives_open(&self) -> usize {
        self.layout.m().min(self.spare_acceptors())
    }

    /// Zones whose loss the data or the registers would not survive.
    fn deadly(&self) -> bool {
        let spare = self.spare_acceptors();
        self.zones.iter().any(|zone| {
            zone.len() > self.layout.m() || zone.iter().filter(|i| self.acceptors.contains(i)).count() > spare
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
                "layout {} would not survive the loss of one zone ({} stores are in the largest, {} hold registers): use more \
                 parity or spread the stores over more zones, or force it",
                self.layout,
                self.largest(),
                self.acceptors.len()
            ),
        ))
    }

    /// Refuses so few acceptors that the loss of m stores can take all of them: nobody could tell then which data are whose.
    pub fn check_acceptors(&self) -> Result<()> {
        if self.acceptors.len() > self.layout.m() {
            return Ok(());
        }
        Err(Error::new(
            Kind::Refused,
            format!(
                "only {} of {} stores keep the conditions of writes and can hold registers: with these lost all is lost, though \
                 the data of layout {} survive the loss of {}; give {} or more that keep conditions, or force it",
                self.acceptors.len(),
                self.layout.n(),
                self.layout,
                any(self.layout.m()),
                self.layout.m() + 1
            ),
        ))
    }

    /// What the pool survives, for people, a line each.
    pub fn survives(&self, w: usize) -> Vec<String> {
        let layout = self.layout;
        if layout.m() == 0 {
            return vec!["no redundancy: losing any store loses the pool".to_owned()];
        }
        let mut lines = match self.acceptors.len() < layout.acceptors_max() {
            true => self.survives_with_few(),
            false => vec![self.survives_with_all()],
        };
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

    /// With as many acceptors as the layout has.
    fn survives_with_all(&self) -> String {
        let (layout, open) = (self.layout, self.survives_open());
        let zone = if self.labelled && !self.deadly() { ", any 1 zone" } else { "" };
        if open == layout.m() {
            format!("survives the loss of {}{zone}", any(open))
        } else if open == 0 {
            format!(
                "the data survive the loss of {}, but opening needs every one of the {} stores that hold registers: with one away only `pool force-recover` opens it",
                any(layout.m()),
                self.acceptors.len()
            )
        } else {
            format!(
                "survives the loss of {}{zone}; the data that of {}, then opened with `pool force-recover`",
                any(open),
                any(layout.m())
            )
        }
    }

    /// With fewer, since other stores keep no conditions.
    fn survives_with_few(&self) -> Vec<String> {
        let (m, all, spare) = (self.layout.m(), self.acceptors.len(), self.spare_acceptors());
        let zone = if self.labelled && !self.deadly() { ", any 1 zone" } else { "" };
        let data = format!("the data survive the loss of {}{zone}", any(m));
        let open = match spare {
            0 => format!("opening and flushing to the pool need every one of the {all} that hold registers"),
            _ => format!(
                "opening and flushing to the pool go on without any {spare} of the {all} that hold registers"
            ),
        };
        // Each majority has one of those that are left while fewer than a majority are lost.
        let certain = all / 2;
        let lost = if all == 1 {
            "the 1 store that holds registers must not be lost: all is lost with it".to_owned()
        } else if certain + 1 == all {
            format!(
                "with 1 of these {all} lost for good `pool force-recover` opens it; with all of them lost all is lost"
            )
        } else if certain >= m {
            format!("with {} of these lost for good `pool force-recover` opens it", spare + 1)
        } else {
            format!(
                "with {} of these {all} lost for good `pool force-recover` opens it with the newest state that is left, which may \
                 be an older one; with all of them lost all is lost",
                certain + 1
            )
        };
        vec![data, open, lost]
    }
}

fn any(n: usize) -> String {
    if n == 1 { "any 1 store".to_owned() } else { format!("any {n} stores") }
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
            let all = Zoning::new(l, &vec![None; l.n()]).unwrap();
            let majority = all.acceptors().len() - all.spare_acceptors();
            assert_eq!((l.n(), l.w(), l.acceptors_max(), majority, all.survives_open()), figures, "{text}");
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

    #[test]
    fn stores_without_conditions_hold_no_registers() {
        let only = |layout: &str, zones: &str, may: &[usize]| {
            let zoning = zoning(layout, zones);
            zoning.chosen(&[], |index| may.contains(&index))
        };
        assert_eq!(only("4+2", "------", &[1, 3, 5]).acceptors(), [1, 3, 5]);
        assert_eq!(only("1+0", "-", &[]).acceptors(), [0; 0]);
        // Those that are acceptors stay some, and others join while there is room.
        let kept = zoning("4+2", "------").chosen(&[1, 2, 3, 4], |index| index != 0);
        assert_eq!(kept.acceptors(), [1, 2, 3, 4, 5]);
        assert_eq!(kept.clone().chosen(&[1, 5], |_| true).acceptors(), [0, 1, 2, 3, 5]);
        // Two of three in one zone would decide without the others.
        assert!(only("4+2", "aabbcc", &[0, 1, 2]).check().is_err());
        assert!(only("4+2", "aabbcc", &[0, 2, 4]).check().is_ok());
        for (layout, may, enough) in [
            ("4+2", &[0, 1, 2][..], true),
            ("4+2", &[0, 1][..], false),
            ("2+1", &[0, 2][..], true),
            ("2+1", &[0][..], false),
            ("1+0", &[0][..], true),
        ] {
            let zones = "-".repeat(layout.parse::<Layout>().unwrap().n());
            assert_eq!(only(layout, &zones, may).check_acceptors().is_ok(), enough, "{layout} {may:?}");
        }
        let said = only("4+2", "------", &[0, 1, 2]).survives(5);
        assert_eq!(said[0], "the data survive the loss of any 2 stores");
        assert_eq!(
            said[1],
            "opening and flushing to the pool go on without any 1 of the 3 that hold registers"
        );
        assert!(said[2].contains("with 2 of these 3 lost") && said[2].contains("older"), "{said:?}");
        let said = only("4+2", "------", &[0, 1, 2, 3]).survives(5);
        assert!(said[1].contains("any 1 of the 4") && !said[2].contains("older"), "{said:?}");
        let said = only("2+1", "---", &[0, 1]).survives(3);
        assert!(
            said[1].contains("need every one of the 2") && said[2].contains("with 1 of these"),
            "{said:?}"
        );
    }
}
