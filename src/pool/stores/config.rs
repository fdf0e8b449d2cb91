//! The pool register's value: who the members are, and the pool's settings.
//!
//! JSON: `{"format": 2, "pool": ID, "name": NAME, "layout": "4+2", "acceptors": [INDEX…], "generation": N,
//! "stores": [{"url": URL, "zone": ZONE|null, "incarnation": ID}…], "settings": {…}, "before": [stores of the generation
//! before, only while a replacement is under way], "forced": {"from": N, "lost": [INDEX…], "unfilled": [INDEX…]},
//! "plan": ID}`. `forced` only beside `before`, when `force-recover` made the generation: which one was before, which of its
//! acceptors were given up, and to which stores, new already then, not all had come along. `plan` only while one is under way,
//! or came to nothing: the one that may seal this generation.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::base::units::{parse_duration, parse_size};
use crate::base::{Error, Generation, Incarnation, Kind, Name, Nonce, PoolId, RegisterId, Result};
use crate::pool::chunk::{Layout, Zoning};

const FORMAT: u32 = 2;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StoreEntry {
    pub url: String,
    pub zone: Option<String>,
    pub incarnation: Incarnation,
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
    /// Indices of the stores that hold registers; fixed at creation.
    pub acceptors: Vec<usize>,
    pub generation: Generation,
    pub stores: Vec<StoreEntry>,
    pub settings: PoolSettings,
    /// The stores of the generation before, while not everything that they held has come along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Vec<StoreEntry>>,
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
            forced: None,
            plan: None,
        };
        config.acceptors = config.zoning()?.acceptors();
        Ok(config)
    }

    pub fn zoning(&self) -> Result<Zoning> {
        let zones: Vec<_> = self.stores.iter().map(|s| s.zone.clone()).collect();
        Zoning::new(self.layout, &zones)
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
    pub fn with_store(&self, index: usize, entry: StoreEntry) -> PoolConfig {
        let mut stores = self.stores.clone();
        stores[index] = entry;
        let next = self.settled();
        let generation = Generation(self.generation.0 + 1);
        PoolConfig { stores, before: Some(self.stores.clone()), generation, ..next }
    }

    /// The next generation, in which some stores are others while not all has come along to this one's. `unfilled`: the stores to
    /// which it has yet to.
    pub fn with_again(&self, stores: Vec<StoreEntry>) -> PoolConfig {
        self.with_forced(stores, BTreeSet::new(), false)
    }

    /// The next generation, in which some stores are others, when of this one's acceptors `lost` are given up.
    pub fn with_forced(&self, stores: Vec<StoreEntry>, lost: BTreeSet<usize>, guess: bool) -> PoolConfig {
        let mut next = self.settled();
        next.before = Some(std::mem::replace(&mut next.stores, stores));
        let unfilled = (0..self.stores.len()).filter(|i| self.is_unfilled(*i)).collect();
        next.generation = match guess {
            true => Generation((guesses(self.generation) + 1) << GUESS),
            false => Generation(self.generation.0 + 1),
        };
        next.forced = Some(Forced { from: self.generation, lost, unfilled });
        next
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
        PoolConfig { before: None, forced: None, plan: None, ..self.clone() }
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
        Some(PoolConfig { stores, generation, ..self.settled() })
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
        if version.format != FORMAT {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "the pool has format {}, this version knows {FORMAT}: use the windlass that made it",
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
        let sorted = self.acceptors.windows(2).all(|p| p[0] < p[1]);
        if !sorted
            || self.acceptors.len() != self.layout.acceptors()
            || self.acceptors.iter().any(|i| *i >= self.layout.n())
        {
            return bad("the list of stores that hold registers does not fit the layout");
        }
        if let Some(forced) = &self.forced {
            let known = |i: &usize| self.acceptors.contains(i);
            let some_left = forced.lost.len() < self.acceptors.len() && forced.lost.iter().all(known);
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
        let store =
            |n: u128| StoreEntry { url: format!("file:///s{n}"), zone: None, incarnation: Incarnation(n) };
        let (name, layout) = ("tank".parse().unwrap(), "1+1".parse().unwrap());
        PoolConfig::new(PoolId(7), name, layout, vec![store(1), store(2)], PoolSettings::default()).unwrap()
    }

    #[test]
    fn a_forced_generation_says_what_was_before_and_counts_above_every_guess() {
        let first = mirror();
        let mut stores = first.stores.clone();
        stores[1].incarnation = Incarnation(3);
        let certain = first.with_forced(stores.clone(), BTreeSet::from([1]), false);
        assert_eq!((certain.generation, guesses(certain.generation)), (Generation(1), 0));
        assert_eq!(
            (certain.predecessor().unwrap(), certain.given_up()),
            (first.clone(), BTreeSet::from([1]))
        );
        assert_eq!(PoolConfig::decode(&certain.encode()).unwrap(), certain);
        // Broken off and forced again: what store 1 lacks is not forgotten.
        stores[0].incarnation = Incarnation(4);
        let guess = certain.with_forced(stores, BTreeSet::from([0]), true);
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
