//! The pool register's value: who the members are, and the pool's settings.
//!
//! JSON: `{"format": 2, "pool": ID, "name": NAME, "layout": "4+2", "acceptors": [INDEX…], "generation": N,
//! "stores": [{"url": URL, "zone": ZONE|null, "incarnation": ID}…], "settings": {…}, "before": [stores of the generation
//! before, only while a replacement is under way], "forced": {"from": N, "lost": [INDEX…], "unfilled": [INDEX…]},
//! "plan": ID}`. A store that holds data only has `"conditions": "racing"|"none"` too, as was found when it was taken in, and the
//! format is 3 then: other versions would put by conditions there. `"acceptors_before": [INDEX…]` beside `before`, where other
//! stores held registers in the generation before; format 3 too. `forced` only beside `before`, when `force-recover` made the generation: which one was before, which of its
//! acceptors were given up, and to which stores, new already then, not all had come along. `plan` only while one is under way,
//! or came to nothing: the one that may seal this generation.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::chunk::{Layout, Zoning};
use windlass_base::units::{parse_duration, parse_size};
use windlass_base::{Error, Generation, Incarnation, Kind, Name, Nonce, PoolId, RegisterId, Result};
use windlass_store::ConditionalPuts;

/// Of a pool whose stores may all hold registers.
const FORMAT: u32 = 2;
/// Of one with stores that hold data only, or fewer that hold registers than its layout has.
const FORMAT_DATA_ONLY: u32 = 3;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StoreEntry {
    pub url: String,
    pub zone: Option<String>,
    pub incarnation: Incarnation,
    /// How it keeps the conditions of writes, as was found when it was taken in. Of an incarnation it stays the same.
    #[serde(default, skip_serializing_if = "ConditionalPuts::are_held")]
    pub conditions: ConditionalPuts,
}

impl StoreEntry {
    /// It holds shards alone, never registers, and is asked for no conditions.
    pub fn is_data_only(&self) -> bool {
        !self.conditions.are_held()
    }
}

/// What `pool create` and `pool set` say.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolSettings {
    /// Stored means: also with the largest zone lost.
    pub ack_zone: bool,
    /// How long too many stores must be out before fewer shards count as stored; `None` = never.
    pub degrade_after_ms: Option<u64>,
    /// How long a chunk that nobody needs is kept before it is deleted.
    pub grace_ms: u64,
    /// Bytes that all its stores together may hold, parity included, where the user has said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity_bytes: Option<u64>,
    /// What its volumes may store together, parity included: writes that need space above it fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<u64>,
    /// How long removed volumes and snapshots can be brought back; 0: they are removed at once.
    #[serde(skip_serializing_if = "is_zero")]
    pub trash_ms: u64,
}

fn is_zero(ms: &u64) -> bool {
    *ms == 0
}

impl Default for PoolSettings {
    fn default() -> PoolSettings {
        PoolSettings {
            ack_zone: false,
            degrade_after_ms: Some(3000),
            grace_ms: 30_000,
            capacity_bytes: None,
            quota_bytes: None,
            trash_ms: 0,
        }
    }
}

impl PoolSettings {
    /// Sets one by the name that users know it by.
    pub fn assign(&mut self, assignment: &str) -> Result<()> {
        let bad = |why: String| Error::new(Kind::Usage, why);
        let known = "use ack=zone|none, degrade-after=TIME|never, grace=TIME, capacity=SIZE|none, quota=SIZE|none or trash=TIME|0";
        let (key, value) = assignment
            .split_once('=')
            .ok_or_else(|| bad(format!("{assignment:?} is no KEY=VALUE: {known}")))?;
        let ms = || parse_duration(value).map(|d| d.as_millis() as u64);
        match (key, value) {
            ("ack", "zone") => self.ack_zone = true,
            ("ack", "none") => self.ack_zone = false,
            ("degrade-after", "never") => self.degrade_after_ms = None,
            ("degrade-after", _) => self.degrade_after_ms = Some(ms()?),
            ("grace", _) => self.grace_ms = ms()?,
            ("quota", "none" | "0") => self.quota_bytes = None,
            ("quota", _) => self.quota_bytes = Some(parse_size(value)?),
            ("trash", "0" | "none") => self.trash_ms = 0,
            ("trash", _) => self.trash_ms = ms()?,
            ("capacity", "none") => self.capacity_bytes = None,
            ("capacity", _) => match parse_size(value)? {
                0 => return Err(bad("a capacity of 0 is none: use capacity=none to take it back".into())),
                bytes => self.capacity_bytes = Some(bytes),
            },
            _ => return Err(bad(format!("a pool has no setting {assignment:?}: {known}"))),
        }
        Ok(())
    }

    pub fn degrade_after(&self) -> Option<Duration> {
        self.degrade_after_ms.map(Duration::from_millis)
    }
    /// How long what is removed can be brought back; `None`: it can't.
    pub fn trash(&self) -> Option<Duration> {
        (self.trash_ms > 0).then(|| Duration::from_millis(self.trash_ms))
    }
    pub fn grace(&self) -> Duration {
        Duration::from_millis(self.grace_ms)
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PoolConfig {
    format: u32,
    pub pool: PoolId,
    pub name: Name,
    pub layout: Layout,
    /// Indices of the stores that hold registers: as many as the layout has, or as keep the conditions of writes.
    pub acceptors: Vec<usize>,
    pub generation: Generation,
    pub stores: Vec<StoreEntry>,
    pub settings: PoolSettings,
    /// The stores of the generation before, while not everything that they held has come along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Vec<StoreEntry>>,
    /// Which of these held registers, where others do now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acceptors_before: Option<Vec<usize>>,
    /// The generation before had lost its majority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forced: Option<Forced>,
    /// The plan that may seal this generation, when any was registered since it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Nonce>,
}

/// How a generation began for which no majority of the one before was left.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Forced {
    /// The generation before.
    pub from: Generation,
    /// Its acceptors that are not asked any more, by index.
    pub lost: BTreeSet<usize>,
    /// Stores that were new already in that generation, and to which not all had come along.
    pub unfilled: BTreeSet<usize>,
}

/// Generations of one guess: where registers were decided by guess, whatever the stores that were given up hold is of
/// a lower generation for ever.
const GUESS: u32 = 16;

/// How often the pool's registers were decided by guess.
pub fn guesses(generation: Generation) -> u64 {
    generation.0 >> GUESS
}

impl PoolConfig {
    pub fn new(
        pool: PoolId,
        name: Name,
        layout: Layout,
        stores: Vec<StoreEntry>,
        settings: PoolSettings,
    ) -> Result<PoolConfig> {
        let mut config = PoolConfig {
            format: FORMAT,
            pool,
            name,
            layout,
            acceptors: Vec::new(),
            generation: Generation(0),
            stores,
            settings,
            before: None,
            acceptors_before: None,
            forced: None,
            plan: None,
        };
        config.choose_acceptors()?;
        Ok(config)
    }

    /// The same pool, before it is made, as its stores were found to keep conditions.
    ///
    /// # Errors
    /// `Refused`: none does.
    pub fn with_conditions(mut self, found: impl Iterator<Item = ConditionalPuts>) -> Result<PoolConfig> {
        for (store, conditions) in self.stores.iter_mut().zip(found) {
            store.conditions = conditions;
        }
        self.acceptors.clear();
        self.choose_acceptors()?;
        Ok(self)
    }

    pub fn zoning(&self) -> Result<Zoning> {
        let zones: Vec<_> = self.stores.iter().map(|s| s.zone.clone()).collect();
        Ok(Zoning::new(self.layout, &zones)?.with_acceptors(&self.acceptors))
    }

    /// Those that are some and keep conditions stay; others that keep them join, up to the layout's number.
    fn choose_acceptors(&mut self) -> Result<()> {
        let zoning = self.zoning()?.chosen(&self.acceptors, |index| !self.stores[index].is_data_only());
        self.acceptors = zoning.acceptors().to_vec();
        self.format = self.needed_format();
        if self.acceptors.is_empty() {
            let why = format!(
                "no store of pool {} would keep the conditions of writes, and its registers need one that does: give one or more \
                 that do (`windlass store prove URL` tells), beside those that hold data only",
                self.name
            );
            return Err(Error::new(Kind::Refused, why));
        }
        Ok(())
    }

    fn needed_format(&self) -> u32 {
        let listed = self.stores.iter().chain(self.before.iter().flatten());
        let is_usual = self.acceptors.len() == self.layout.acceptors_max() && self.acceptors_before.is_none();
        if is_usual && !listed.into_iter().any(StoreEntry::is_data_only) { FORMAT } else { FORMAT_DATA_ONLY }
    }

    /// Shards that make a chunk stored in this pool while it isn't degraded.
    pub fn w(&self) -> usize {
        match self.zoning() {
            Ok(zoning) if self.settings.ack_zone => zoning.w_zone(),
            _ => self.layout.w(),
        }
    }

    /// Refuses settings that need what these stores do not have.
    pub fn check_settings(&self) -> Result<()> {
        if self.settings.ack_zone && self.stores.iter().any(|s| s.zone.is_none()) {
            return Err(Error::new(
                Kind::Usage,
                "to acknowledge by zone every store needs one (URL,zone=NAME)",
            ));
        }
        Ok(())
    }

    /// The next generation, in which one store is another.
    ///
    /// # Errors
    /// `Refused`: no store would be left that holds registers.
    pub fn with_store(&self, index: usize, entry: StoreEntry) -> Result<PoolConfig> {
        let mut stores = self.stores.clone();
        stores[index] = entry;
        self.with_stores(stores)
    }

    fn with_stores(&self, stores: Vec<StoreEntry>) -> Result<PoolConfig> {
        let mut next = self.settled();
        next.before = Some(std::mem::replace(&mut next.stores, stores));
        next.generation = Generation(self.generation.0 + 1);
        next.choose_acceptors()?;
        next.acceptors_before = (next.acceptors != self.acceptors).then(|| self.acceptors.clone());
        next.format = next.needed_format();
        Ok(next)
    }

    /// The next generation, in which some stores are others while not all has come along to this one's. `unfilled`: the stores to
    /// which it has yet to.
    pub fn with_again(&self, stores: Vec<StoreEntry>) -> Result<PoolConfig> {
        self.with_forced(stores, BTreeSet::new(), false)
    }

    /// The next generation, in which some stores are others, when of this one's acceptors `lost` are given up.
    pub fn with_forced(
        &self,
        stores: Vec<StoreEntry>,
        lost: BTreeSet<usize>,
        guess: bool,
    ) -> Result<PoolConfig> {
        let mut next = self.with_stores(stores)?;
        let unfilled = (0..self.stores.len()).filter(|i| self.is_unfilled(*i)).collect();
        if guess {
            next.generation = Generation((guesses(self.generation) + 1) << GUESS);
        }
        next.forced = Some(Forced { from: self.generation, lost, unfilled });
        Ok(next)
    }

    /// Whether all that belongs on a store may not have come along to it.
    fn is_unfilled(&self, index: usize) -> bool {
        let is_new = |before: &Vec<StoreEntry>| before[index].incarnation != self.stores[index].incarnation;
        self.before.as_ref().is_some_and(is_new) || self.unfilled().contains(&index)
    }

    /// Stores that are to be filled though they were the pool's in the generation before.
    pub fn unfilled(&self) -> BTreeSet<usize> {
        self.forced.as_ref().map(|f| f.unfilled.clone()).unwrap_or_default()
    }

    /// Nothing is left in the generation before.
    pub fn settled(&self) -> PoolConfig {
        let mut settled = self.clone();
        (settled.before, settled.acceptors_before) = (None, None);
        (settled.forced, settled.plan) = (None, None);
        settled.format = settled.needed_format();
        settled
    }

    /// The acceptors of the generation before that are not asked any more.
    pub fn given_up(&self) -> BTreeSet<usize> {
        self.forced.as_ref().map(|f| f.lost.clone()).unwrap_or_default()
    }

    /// The generation before, as far as it matters while that one is left.
    pub fn predecessor(&self) -> Option<PoolConfig> {
        let stores = self.before.clone()?;
        let generation = match &self.forced {
            Some(forced) => forced.from,
            None => Generation(self.generation.0.checked_sub(1)?),
        };
        let acceptors = self.before_acceptors().to_vec();
        let mut before = PoolConfig { stores, generation, acceptors, ..self.settled() };
        before.format = before.needed_format();
        Some(before)
    }

    /// Which of the stores of the generation before held registers.
    fn before_acceptors(&self) -> &[usize] {
        self.acceptors_before.as_ref().unwrap_or(&self.acceptors)
    }

    /// The register that holds this value.
    pub fn register(pool: PoolId) -> RegisterId {
        RegisterId(pool.0)
    }

    pub fn encode(&self) -> Bytes {
        serde_json::to_vec(self).expect("a pool's value has only string keys").into()
    }

    pub fn decode(bytes: &[u8]) -> Result<PoolConfig> {
        let bad =
            |why: String| Error::new(Kind::Invalid, format!("the pool's description is malformed: {why}"));
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let version: Version = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
        if ![FORMAT, FORMAT_DATA_ONLY].contains(&version.format) {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "the pool has format {}, this version knows {FORMAT_DATA_ONLY}: use the windlass that made it",
                    version.format
                ),
            ));
        }
        let config: PoolConfig = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
        config.check()?;
        Ok(config)
    }

    /// What every value must hold, whoever wrote it.
    pub fn check(&self) -> Result<()> {
        let bad =
            |why: &str| Err(Error::new(Kind::Invalid, format!("the pool's description is malformed: {why}")));
        let before = self.before.as_ref().map_or(self.stores.len(), Vec::len);
        if self.stores.len() != self.layout.n() || before != self.stores.len() {
            return bad("the number of stores does not fit the layout");
        }
        let fits = |acceptors: &[usize], stores: &[StoreEntry]| {
            let holds = |i: &usize| stores.get(*i).is_some_and(|store| !store.is_data_only());
            let number = 1..=self.layout.acceptors_max();
            acceptors.windows(2).all(|p| p[0] < p[1])
                && number.contains(&acceptors.len())
                && acceptors.iter().all(holds)
        };
        let before = self.before.as_ref();
        if !fits(&self.acceptors, &self.stores)
            || before.is_some_and(|stores| !fits(self.before_acceptors(), stores))
            || before.is_none() && self.acceptors_before.is_some()
        {
            return bad("the list of stores that hold registers does not fit the layout");
        }
        // What needs the newer format must say so: others would judge it by less.
        if self.format < self.needed_format() {
            return bad("its stores need a newer format than it has");
        }
        if let Some(forced) = &self.forced {
            let known = |i: &usize| self.before_acceptors().contains(i);
            let some_left =
                forced.lost.len() < self.before_acceptors().len() && forced.lost.iter().all(known);
            if self.before.is_none() || forced.from >= self.generation || !some_left {
                return bad("what it says of stores that were given up does not fit");
            }
        }
        if guesses(self.generation) >> 32 != 0 {
            return bad("no pool had so many generations");
        }
        let mut lives: Vec<_> = self.stores.iter().map(|s| s.incarnation).collect();
        lives.sort_unstable();
        lives.dedup();
        if lives.len() != self.stores.len() {
            return bad("two stores share one identity");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror() -> PoolConfig {
        let store = |n: u128| StoreEntry {
            url: format!("file:///s{n}"),
            zone: None,
            incarnation: Incarnation(n),
            conditions: ConditionalPuts::Held,
        };
        let (name, layout) = ("tank".parse().unwrap(), "1+1".parse().unwrap());
        PoolConfig::new(PoolId(7), name, layout, vec![store(1), store(2)], PoolSettings::default()).unwrap()
    }

    #[test]
    fn a_forced_generation_says_what_was_before_and_counts_above_every_guess() {
        let first = mirror();
        let mut stores = first.stores.clone();
        stores[1].incarnation = Incarnation(3);
        let certain = first.with_forced(stores.clone(), BTreeSet::from([1]), false).unwrap();
        assert_eq!((certain.generation, guesses(certain.generation)), (Generation(1), 0));
        assert_eq!(
            (certain.predecessor().unwrap(), certain.given_up()),
            (first.clone(), BTreeSet::from([1]))
        );
        assert_eq!(PoolConfig::decode(&certain.encode()).unwrap(), certain);
        // Broken off and forced again: what store 1 lacks is not forgotten.
        stores[0].incarnation = Incarnation(4);
        let guess = certain.with_forced(stores, BTreeSet::from([0]), true).unwrap();
        assert_eq!((guess.generation, guesses(guess.generation)), (Generation(1 << 16), 1));
        assert_eq!(
            (guess.predecessor().unwrap(), guess.unfilled()),
            (certain.settled(), BTreeSet::from([1]))
        );
        assert_eq!(guess.settled().predecessor(), None);
        let text = String::from_utf8(guess.encode().to_vec()).unwrap();
        for (good, bad) in [
            (r#""lost":[0]"#, r#""lost":[0,1]"#),
            (r#""lost":[0]"#, r#""lost":[5]"#),
            (r#""from":1,"#, r#""from":65536,"#),
        ] {
            assert!(text.contains(good), "{text}");
            assert!(PoolConfig::decode(text.replace(good, bad).as_bytes()).unwrap_err().is(Kind::Invalid));
        }
    }

    #[test]
    fn registers_move_to_stores_that_keep_conditions() {
        let entry = |n: u128, conditions| StoreEntry {
            url: format!("file:///s{n}"),
            zone: None,
            incarnation: Incarnation(n),
            conditions,
        };
        let (name, layout) = ("tank".parse().unwrap(), "4+2".parse().unwrap());
        let stores: Vec<_> = (0..6).map(|n| entry(n, ConditionalPuts::Held)).collect();
        let first = PoolConfig::new(PoolId(7), name, layout, stores, PoolSettings::default()).unwrap();
        assert_eq!((first.format, &first.acceptors[..]), (FORMAT, &[0, 1, 2, 3, 4][..]));
        // The sixth store holds the registers in the place of the first.
        let moved = first.with_store(0, entry(10, ConditionalPuts::None)).unwrap();
        assert_eq!((moved.format, &moved.acceptors[..]), (FORMAT_DATA_ONLY, &[1, 2, 3, 4, 5][..]));
        assert_eq!(moved.predecessor().unwrap(), first);
        assert_eq!(PoolConfig::decode(&moved.encode()).unwrap(), moved);
        assert_eq!(moved.settled().format, FORMAT_DATA_ONLY);
        let fewer = moved.settled().with_store(1, entry(11, ConditionalPuts::Racing)).unwrap();
        assert_eq!(fewer.acceptors, [2, 3, 4, 5]);
        let more = fewer.settled().with_store(1, entry(12, ConditionalPuts::Held)).unwrap();
        assert_eq!((&more.acceptors[..], more.format), (&[1, 2, 3, 4, 5][..], FORMAT_DATA_ONLY));
        let whole = more.settled().with_store(0, entry(13, ConditionalPuts::Held)).unwrap();
        assert_eq!((whole.acceptors.as_slice(), whole.settled().format), (&more.acceptors[..], FORMAT));
        // Whoever is left of those that held registers is by the list of before.
        let forced = fewer.settled().with_forced(more.stores.clone(), BTreeSet::from([3, 4]), false).unwrap();
        assert_eq!(forced.predecessor().unwrap(), fewer.settled());
        let text = String::from_utf8(moved.encode().to_vec()).unwrap();
        for (good, bad) in [
            (r#""acceptors":[1,2,3,4,5]"#, r#""acceptors":[0,1,2,3,4]"#),
            (r#""acceptors":[1,2,3,4,5]"#, r#""acceptors":[]"#),
            (r#""acceptors_before":[0,1,2,3,4]"#, r#""acceptors_before":[0,1,2,3,6]"#),
            (r#""format":3"#, r#""format":2"#),
            (r#""conditions":"none""#, r#""conditions":"some""#),
        ] {
            assert!(text.contains(good), "{text}");
            assert!(
                PoolConfig::decode(text.replace(good, bad).as_bytes()).unwrap_err().is(Kind::Invalid),
                "{bad}"
            );
        }
        let lone = mirror().with_store(0, entry(10, ConditionalPuts::None)).unwrap();
        let none = lone.settled().with_store(1, entry(11, ConditionalPuts::None)).unwrap_err();
        assert!(none.is(Kind::Refused), "{none}");
    }

    #[test]
    fn settings_are_assigned_by_name() {
        let mut settings = PoolSettings::default();
        for text in ["ack=zone", "degrade-after=never", "grace=2m", "capacity=10T", "quota=5T", "trash=24h"] {
            settings.assign(text).unwrap();
        }
        assert_eq!(
            settings,
            PoolSettings {
                ack_zone: true,
                degrade_after_ms: None,
                grace_ms: 120_000,
                capacity_bytes: Some(10 << 40),
                quota_bytes: Some(5 << 40),
                trash_ms: 86_400_000,
            }
        );
        for text in ["ack=none", "degrade-after=3s", "grace=30s", "capacity=none", "quota=none", "trash=0"] {
            settings.assign(text).unwrap();
        }
        assert_eq!(settings, PoolSettings::default());
        for bad in [
            "",
            "ack",
            "ack=",
            "ack=all",
            "grace=never",
            "degrade-after=3",
            "capacity=0",
            "trash=1",
            "quota=much",
            "colour=blue",
        ] {
            assert!(settings.assign(bad).unwrap_err().is(Kind::Usage), "{bad}");
        }
        assert_eq!(settings, PoolSettings::default());
    }
}
