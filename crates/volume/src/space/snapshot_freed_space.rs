//! What comes back when snapshots go, from the byte sums of what died in each state: no map is read.
//!
//! A state's list of deaths is what its parent holds and it does not. With the state goes what its only child lists there,
//! as far as no older state holds it: deaths of eras after the parent's (protocol.md §5.4). Of several that follow each
//! other it is the sum over their children, of eras after the first one's parent. As of one checkpoint, without parity.

use std::collections::BTreeMap;

use super::dead_runs::{Part, RunIndex};
use super::state_table::{State, Tables};
use windlass_base::{Era, StateId};

/// Bytes that died in each state, by the era of the frames that died.
#[derive(Debug, Default)]
pub struct DeadBytes(BTreeMap<StateId, Vec<(Era, u64)>>);

impl DeadBytes {
    /// Adds one entry of a state's list.
    pub fn add(&mut self, state: StateId, part: &Part, index: &RunIndex) {
        let within = index.sums.iter().filter(|(era, _)| (part.from..=part.to).contains(era));
        self.0.entry(state).or_default().extend(within);
    }

    fn after(&self, state: StateId, era: Era) -> u64 {
        let all = self.0.get(&state).into_iter().flatten();
        all.filter(|(of, _)| *of > era).fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }
}

/// Bytes that come back when a snapshot goes; `None`: they can't be told without reading its map. `alone`:
/// the snapshot goes, and no other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Freed {
    pub alone: Option<u64>,
    /// Bytes that come back when all older snapshots go with it, or those from a given one on.
    pub with_older: Option<u64>,
}

/// Computes what comes back for each state that is not the tip. `from`: the state at which `with_older`
/// begins.
pub fn freed(tables: &Tables, dead: &DeadBytes, from: Option<StateId>) -> BTreeMap<StateId, Freed> {
    let mut children: BTreeMap<StateId, Vec<StateId>> = BTreeMap::new();
    for state in tables.states.values() {
        children.entry(state.parent.unwrap_or(state.id)).or_default().extend(state.parent.map(|_| state.id));
    }
    let parent_era =
        |state: &State| state.parent.and_then(|p| tables.states.get(&p)).map_or(Era(0), |p| p.era);
    let floor = from.and_then(|from| tables.states.get(&from)).map_or(Era(0), parent_era);
    let mut all: BTreeMap<StateId, Freed> = BTreeMap::new();
    // Parents have the lower ids.
    for (id, state) in tables.states.iter().filter(|(id, _)| **id != tables.tip) {
        let child = match children.get(id).map_or(&[][..], |all| all) {
            [child] => *child,
            // It stays, hidden, as long as several need it.
            [_, _, ..] => {
                all.insert(*id, Freed { alone: Some(0), with_older: None });
                continue;
            }
            [] => {
                all.insert(*id, Freed::default());
                continue;
            }
        };
        let first = from.map_or(state.parent.is_none(), |from| from == *id);
        let older = if first { Some(0) } else { state.parent.and_then(|p| all.get(&p)?.with_older) };
        let with_older = older.map(|older| older.saturating_add(dead.after(child, floor)));
        all.insert(*id, Freed { alone: Some(dead.after(child, parent_era(state))), with_older });
    }
    all
}
