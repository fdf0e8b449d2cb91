//! The stores of one generation of the pool: who is asked, how many decide, and which of them have yet to be filled.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::member::Member;
use windlass_base::Generation;

/// The stores of one generation.
#[derive(Clone, Debug)]
pub struct Membership {
    pub generation: Generation,
    pub members: Vec<Arc<Member>>,
    /// Indices of the stores that hold registers.
    pub acceptors: Vec<usize>,
    /// The description of the pool that the pool's register holds, or held when this generation began.
    pub description: Bytes,
    /// The generation before, while registers and shards may still be there only.
    pub before: Option<Arc<Membership>>,
    /// Acceptors that are not asked any more: they are lost for good, with so many others that no majority is left.
    pub given_up: BTreeSet<usize>,
    /// Stores that are to be filled like new ones, though the generation before has them.
    pub unfilled: BTreeSet<usize>,
}

impl Membership {
    /// Makes the membership of a pool that never changed.
    pub fn first(members: Vec<Arc<Member>>, acceptors: Vec<usize>) -> Membership {
        Membership {
            generation: Generation(0),
            members,
            acceptors,
            description: Bytes::new(),
            before: None,
            given_up: BTreeSet::new(),
            unfilled: BTreeSet::new(),
        }
    }

    /// Returns the store that had this place before, while not all of its shards have come along.
    pub(crate) fn predecessor(&self, index: usize) -> Option<&Arc<Member>> {
        let old = self.before.as_ref()?.members.get(index)?;
        (old.incarnation() != self.members[index].incarnation()).then_some(old)
    }

    /// Returns what a store's shards can be read from beside the store: its predecessor, or what lies in its place and was the
    /// pool's once (a disk that was not mounted when its place was taken in). Shards never change, so it does not matter how
    /// old these are. None that is away.
    pub(crate) fn also_read(&self, index: usize) -> Option<Arc<Member>> {
        let old = self.predecessor(index).filter(|old| old.standing().usable()).cloned();
        old.or_else(|| self.members[index].other_life().filter(|other| other.standing().usable()))
    }

    /// Returns what may have shards that a store lacks, whether it answers now or not: the store's predecessor, until all has
    /// come along. None where the store is in its predecessor's own place, or where the predecessor's generation gave stores
    /// up for good.
    pub(crate) fn may_still_have(&self, index: usize) -> Option<Arc<Member>> {
        let old = self.predecessor(index).filter(|old| old.url() != self.members[index].url());
        let is_given_up = self.before.as_ref().is_some_and(|before| !before.given_up.is_empty());
        old.filter(|_| !is_given_up).cloned()
    }

    /// Tells whether all that belongs on a store has yet to come along to it.
    pub(crate) fn is_new(&self, index: usize) -> bool {
        self.predecessor(index).is_some() || self.unfilled.contains(&index)
    }

    pub fn acceptor_members(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.acceptors.iter().filter_map(|i| self.members.get(*i))
    }

    /// Returns the acceptors that are asked.
    pub fn deciding(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.acceptor_members().filter(|m| !self.given_up.contains(&m.index()))
    }

    /// Returns how many of the deciding acceptors decide: all, once some were given up. A majority of what is left would not
    /// meet every majority that there was before.
    pub fn majority(&self) -> usize {
        match self.given_up.is_empty() {
            true => self.acceptors.len() / 2 + 1,
            false => self.deciding().count(),
        }
    }

    /// Returns how many of the deciding acceptors are enough that every value which was ever chosen is known to one of them.
    pub(crate) fn met_by_all(&self) -> usize {
        match self.given_up.is_empty() {
            true => self.acceptors.len() - self.majority() + 1,
            false => self.majority(),
        }
    }

    /// Tells whether a majority was given up: those that are left may not know what was chosen without them.
    pub(crate) fn is_guess(&self) -> bool {
        self.given_up.len() > self.acceptors.len() / 2
    }

    /// Acceptors that don't show their label for a while.
    async fn silent(&self) -> BTreeSet<usize> {
        let asks =
            self.acceptor_members().map(|m| async move { (m.index(), m.attest_patiently().await.is_err()) });
        let asked = futures::future::join_all(asks).await;
        asked.into_iter().filter(|(_, silent)| *silent).map(|(index, _)| index).collect()
    }

    /// Returns the acceptors that are to be given up for the generation's registers to be decided; no others than before while
    /// those that are asked answer in sufficient number.
    pub(crate) async fn hopeless(&self) -> BTreeSet<usize> {
        let silent = self.silent().await;
        let given_up: BTreeSet<usize> = silent.union(&self.given_up).copied().collect();
        let enough = match self.given_up.is_empty() {
            true => self.acceptors.len() - silent.len() >= self.majority(),
            false => given_up == self.given_up,
        };
        if enough { self.given_up.clone() } else { given_up }
    }
}
