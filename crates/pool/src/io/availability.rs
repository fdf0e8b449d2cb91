//! What a pool can do at this moment: which stores are away and since when, whether those are too many, and how many
//! more it would bear. Judged from what is known; asks nobody.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

use crate::chunk::Layout;
use crate::chunk::ShardSet;
use crate::stores::Membership;
use crate::stores::place;
use crate::stores::{Member, Standing};
use windlass_base::ChunkId;
use windlass_base::rt::Instant;
use windlass_base::units::show_count;

/// A store that can't be used, or takes no writes.
#[derive(Clone, Debug)]
pub struct Away {
    pub index: usize,
    pub url: String,
    /// `down`, `out` or `failing`, as in `pool status`.
    pub state: &'static str,
    pub since: Instant,
}

/// What an operation needs of the stores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// A majority of those that hold registers.
    Decide,
    /// Also enough of all for a chunk to be stored.
    Store,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Condition {
    layout: Layout,
    /// Stores that must take a shard for a chunk to count as stored.
    stored_at: usize,
    /// Of those that hold registers, how many must answer.
    majority: usize,
    pub away: Vec<Away>,
    /// Since when registers can't be read or changed: volumes can't be opened, nothing is certain.
    pub undecided: Option<Instant>,
    /// Since when no chunk can be stored.
    pub unstorable: Option<Instant>,
    /// Too few stores answer for everything to be readable.
    pub unreadable: bool,
    /// Stores that may be lost on top of those.
    spare: usize,
    /// Stores from which not everything can be read that belongs on them: away, or not filled yet.
    unusable: ShardSet,
    /// Chunks lack shards besides those on stores that are away.
    damaged: bool,
    /// Of them, those that can't be read now; and those that no return of a store makes readable.
    out_of_reach: usize,
    lost: usize,
    /// What stores have in archives, by store.
    archived: Vec<String>,
}

/// The moment from which on fewer than `need` of `all` were left; `None` while there are enough.
fn short(all: usize, need: usize, mut lost: Vec<Instant>) -> Option<Instant> {
    lost.sort();
    lost.get(all.saturating_sub(need)).copied()
}

impl Condition {
    pub(crate) fn of(membership: &Membership, layout: Layout, stored_at: usize) -> Condition {
        let members = &membership.members;
        let away: Vec<Away> = members.iter().filter_map(away).collect();
        let gone = |a: &&Away| a.state != "failing";
        let acceptors = membership.acceptors.len();
        let silent: Vec<Instant> = away
            .iter()
            .filter(gone)
            .filter(|a| membership.acceptors.contains(&a.index))
            .map(|a| a.since)
            .collect();
        let n = layout.n();
        let gone: ShardSet = away.iter().filter(gone).map(|a| a.index).collect();
        // What has not come along to a store yet is read where it was before, as long as that answers.
        let is_kept = |i: &usize| membership.also_read(*i).is_some_and(|old| old.standing() == Standing::In);
        let lacks = |i: &usize| (gone.has(*i) || membership.is_new(*i)) && !is_kept(i);
        let unusable: ShardSet = (0..n).filter(lacks).collect();
        let majority = acceptors / 2 + 1;
        let deciding = (acceptors - silent.len()).saturating_sub(majority);
        Condition {
            layout,
            stored_at,
            majority,
            undecided: short(acceptors, majority, silent),
            unstorable: short(n, stored_at, away.iter().map(|a| a.since).collect()),
            unreadable: unusable.count() > layout.m(),
            spare: layout.m().saturating_sub(unusable.count()).min(deciding),
            unusable,
            damaged: !unusable.minus(gone).is_empty(),
            out_of_reach: 0,
            lost: 0,
            archived: members.iter().filter_map(|member| member.archived()).collect(),
            away,
        }
    }

    /// With what is known of single chunks: shards left out, and shards damaged.
    pub(crate) fn add(&mut self, id: &ChunkId, left_out: ShardSet, damaged: ShardSet) {
        let (n, m) = (self.layout.n(), self.layout.m());
        let stores: ShardSet = left_out.or(damaged).iter().map(|shard| place(id, shard, n)).collect();
        let lacks = stores.or(self.unusable).count();
        self.spare = self.spare.min(m.saturating_sub(lacks));
        self.damaged |= lacks > self.unusable.count();
        self.out_of_reach += usize::from(lacks > m);
        self.lost += usize::from(damaged.count() > m);
    }

    /// Whether what needs this would have to wait.
    pub fn lacks(&self, need: Need) -> bool {
        self.undecided.is_some() || (need == Need::Store && self.unstorable.is_some())
    }

    /// "3 of 6 stores are away (file:///a down, file:///b out)", "1 of 6 stores takes no writes (file:///c)", or both.
    pub fn sentence(&self) -> String {
        let (failing, gone): (Vec<_>, Vec<_>) = self.away.iter().partition(|a| a.state == "failing");
        let of = self.layout.n();
        let said = |all: &[String], (one, many): (&str, &str)| {
            let (n, verb) = (all.len(), if all.len() == 1 { one } else { many });
            (n > 0).then(|| format!("{n} of {of} stores {verb} ({})", all.join(", ")))
        };
        let gone: Vec<String> = gone.iter().map(|a| format!("{} {}", a.url, a.state)).collect();
        let failing: Vec<String> = failing.iter().map(|a| a.url.clone()).collect();
        let said =
            [said(&gone, ("is away", "are away")), said(&failing, ("takes no writes", "take no writes"))];
        said.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    /// Why nothing can be stored, and since when; `None` while things can.
    pub fn trouble(&self) -> Option<(Instant, String)> {
        let since = [self.undecided, self.unstorable].into_iter().flatten().min()?;
        Some((since, format!("nothing can be stored: {}", self.sentence())))
    }

    /// What the stores that answer have in archives.
    pub fn archived(&self) -> Option<String> {
        (!self.archived.is_empty()).then(|| {
            let all = self.archived.join(", ");
            format!("in an archive: {all}: restore them, and end the rule that archives a pool's objects")
        })
    }

    /// Why some data can't be read now; `None` while all can.
    pub fn loss(&self) -> Option<String> {
        if self.unreadable {
            return Some(format!("not all data can be read: {}", self.sentence()));
        }
        if let Some(archived) = self.archived() {
            return Some(archived);
        }
        let objects = show_count(self.out_of_reach as u64, "object");
        (self.out_of_reach > 0)
            .then(|| format!("{objects} can't be read as a whole: too many of their shards are gone or away"))
    }

    /// Why it bears fewer losses now than its layout says; `None` while it bears all of them.
    pub fn shortage(&self) -> Option<String> {
        match self.away.is_empty() {
            false => Some(self.sentence()),
            true => self.damaged.then(|| "shards are missing or damaged".to_owned()),
        }
    }

    /// What is true of it now, for people; `usual` is what is when nothing is away or missing.
    pub fn survives(&self, usual: Vec<String>) -> Vec<String> {
        if self.away.is_empty() && !self.damaged {
            return usual;
        }
        let mut now = Vec::new();
        if self.trouble().is_some() {
            let need = if self.undecided.is_some() { self.majority } else { self.stored_at };
            let of = if self.undecided.is_some() { "those that hold registers" } else { "them" };
            now.push(format!("now: nothing can be stored: {}; {need} of {of} must answer", self.sentence()));
            if self.undecided.is_some() {
                now.push("no volume can be opened or taken over".to_owned());
            }
            now.push(match self.unreadable || self.out_of_reach > 0 {
                true if !self.unreadable => "everything else can be read".to_owned(),
                true => "what lies only on the stores that are away can't be read".to_owned(),
                false => "everything can be read".to_owned(),
            });
        } else {
            let what = if self.away.is_empty() {
                "shards are missing or damaged".to_owned()
            } else {
                self.sentence()
            };
            let more = match self.spare {
                0 => "no store more may be lost".to_owned(),
                1 => "any 1 store more may be lost".to_owned(),
                n => format!("any {n} stores more may be lost"),
            };
            let until = if self.damaged { " until `pool repair` has put what is missing" } else { "" };
            now.push(format!("now: {what}: {more}{until}"));
        }
        let objects = |n| show_count(n as u64, "object");
        if self.lost > 0 {
            now.push(format!(
                "{} can't be read as a whole: more shards are gone or damaged than the {} that parity makes up for; \
                 `pool scrub` names them",
                objects(self.lost),
                self.layout.m()
            ));
        }
        if self.out_of_reach > self.lost && !self.unreadable {
            let waiting = objects(self.out_of_reach - self.lost);
            now.push(format!(
                "{waiting} can't be read as a whole until stores are back: other shards are missing"
            ));
        }
        now.extend(usual.first().map(|usual| format!("when all are back and nothing is pending: {usual}")));
        now
    }
}

fn away(member: &Arc<Member>) -> Option<Away> {
    let (since, _) = member.failing()?;
    let state = match member.standing() {
        Standing::Out(_) => "out",
        Standing::Down(_) => "down",
        Standing::Unknown | Standing::In => "failing",
    };
    Some(Away { index: member.index(), url: member.url().to_owned(), state, since })
}

/// Whether enough of them have shown just now, by their labels, that they are there; as soon as that can be told.
pub async fn there(membership: &Membership, stored_at: usize, need: Need) -> bool {
    let asks = membership.members.iter().map(|m| async move { (m.index(), m.attest().await.is_ok()) });
    let mut asks: FuturesUnordered<_> = asks.collect();
    let mut there = BTreeSet::new();
    while let Some((index, answers)) = asks.next().await {
        if answers {
            there.insert(index);
        }
        let deciding = membership.acceptors.iter().filter(|i| there.contains(i)).count();
        let decided = deciding > membership.acceptors.len() / 2;
        if decided && (need == Need::Decide || there.len() >= stored_at) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(s: u64) -> Instant {
        Instant(Duration::from_secs(s))
    }

    fn condition(layout: &str, away: &[(usize, &'static str, u64)]) -> Condition {
        let layout: Layout = layout.parse().unwrap();
        let away: Vec<Away> = away
            .iter()
            .map(|(index, state, s)| Away { index: *index, url: format!("s{index}"), state, since: at(*s) })
            .collect();
        let lost =
            |n: usize| away.iter().filter(|a| a.index < n && a.state != "failing").map(|a| a.since).collect();
        let gone = away.iter().filter(|a| a.state != "failing").count();
        let acceptors = layout.acceptors_max();
        let majority = acceptors / 2 + 1;
        Condition {
            majority,
            undecided: short(acceptors, majority, lost(acceptors)),
            unstorable: short(layout.n(), layout.k(), away.iter().map(|a| a.since).collect()),
            unreadable: gone > layout.m(),
            spare: layout.m().saturating_sub(gone),
            unusable: away.iter().filter(|a| a.state != "failing").map(|a| a.index).collect(),
            damaged: false,
            out_of_reach: 0,
            lost: 0,
            archived: Vec::new(),
            stored_at: layout.k(),
            layout,
            away,
        }
    }

    #[test]
    fn the_moment_of_the_store_too_many_counts() {
        assert_eq!(short(6, 4, vec![at(9), at(3)]), None);
        assert_eq!(short(6, 4, vec![at(9), at(3), at(5)]), Some(at(9)));
        assert_eq!(short(6, 4, vec![at(9), at(3), at(5), at(10)]), Some(at(9)));
        assert_eq!(short(1, 1, vec![at(2)]), Some(at(2)));
    }

    #[test]
    fn what_is_said_is_what_is_true_now() {
        let usual = || vec!["survives the loss of any 2 stores".to_owned()];
        assert_eq!(condition("4+2", &[]).survives(usual()), usual());
        let one = condition("4+2", &[(1, "down", 1)]);
        assert!(!one.lacks(Need::Store) && one.trouble().is_none());
        let said = one.survives(usual());
        assert_eq!(said[0], "now: 1 of 6 stores is away (s1 down): any 1 store more may be lost");
        assert!(said[1].ends_with("survives the loss of any 2 stores"), "{said:?}");
        let three = condition("4+2", &[(0, "down", 4), (1, "out", 2), (5, "down", 3)]);
        assert!(three.lacks(Need::Store) && !three.lacks(Need::Decide));
        let (since, why) = three.trouble().unwrap();
        assert_eq!(since, at(4));
        assert_eq!(why, "nothing can be stored: 3 of 6 stores are away (s0 down, s1 out, s5 down)");
        assert!(three.survives(usual()).iter().any(|l| l.contains("can't be read")));
        let four = condition("4+2", &[(0, "down", 1), (1, "down", 2), (2, "down", 3), (3, "down", 4)]);
        assert!(four.lacks(Need::Decide));
        let full = condition("4+2", &[(0, "failing", 1), (1, "failing", 2), (2, "failing", 3)]);
        assert_eq!(full.sentence(), "3 of 6 stores take no writes (s0, s1, s2)");
        let both = condition("4+2", &[(0, "down", 1), (1, "failing", 2)]).sentence();
        assert_eq!(both, "1 of 6 stores is away (s0 down), 1 of 6 stores takes no writes (s1)");
        assert!(
            full.lacks(Need::Store) && full.survives(usual()).contains(&"everything can be read".to_owned())
        );
    }
}
