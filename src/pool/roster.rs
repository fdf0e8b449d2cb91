//! Who the pool's stores are, as far as this process knows, and which bucket each is reached by.
//!
//! Owns the membership that all others of the pool ask for anew with every operation. A `Member` stands for one store in
//! one place for ever: a store that is found in another place, or another store in a member's stead, is another `Member`,
//! so that an answer and the label that makes it count always come from the same bucket.
//!
//! Two folders or buckets that were exchanged are each out, because a label says which store of the pool it belongs to.
//! While a store is out by its label, the places that this host knows are looked through again for its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::config::PoolConfig;
use super::host::StoreSpec;
use super::label::Label;
use super::member::Member;
use super::seats::{Found, read_label};
use super::watched::Watched;
use crate::base::rt::Rt;
use crate::base::{Generation, PoolId};

/// Between two looks for stores that are out.
const PAUSE: Duration = Duration::from_millis(500);

/// The stores of one generation.
#[derive(Debug)]
pub struct Membership {
    pub generation: Generation,
    pub members: Vec<Arc<Member>>,
    /// Indices of those that hold registers.
    pub acceptors: Vec<usize>,
}

impl Membership {
    pub fn acceptor_members(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.acceptors.iter().filter_map(|i| self.members.get(*i))
    }
}

/// See the module.
#[derive(Debug)]
pub struct Roster {
    rt: Rt,
    pool: PoolId,
    /// Places that this host knows of; grows as the pool lists others.
    places: Mutex<Vec<StoreSpec>>,
    current: Mutex<Arc<Membership>>,
    /// Rung by members that are out.
    bell: Arc<Notify>,
    /// What is still brought to stores though nobody waits for it.
    busy: Arc<Watched<usize>>,
}

/// One such piece of work, as long as it lives.
#[derive(Debug)]
pub(super) struct Busy(Arc<Watched<usize>>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.update(|n| *n -= 1);
    }
}

impl Roster {
    pub(super) fn new(
        rt: &Rt,
        config: &PoolConfig,
        places: Vec<StoreSpec>,
        seats: &[Option<usize>],
    ) -> Arc<Roster> {
        let bell = Arc::new(Notify::new());
        let members = config.stores.iter().zip(seats).enumerate().map(|(index, (entry, seat))| {
            let spec = seat.and_then(|at| places.get(at));
            let url = spec.map_or(&entry.url, |s| &s.url).clone();
            let bucket = spec.map(|s| s.bucket.clone());
            let member = Member::new(
                rt.clone(),
                config.pool,
                index,
                entry.incarnation,
                entry.zone.clone(),
                url,
                bucket,
            );
            member.ring_when_out(&bell);
            member
        });
        let membership = Membership {
            generation: config.generation,
            members: members.collect(),
            acceptors: config.acceptors.clone(),
        };
        Arc::new(Roster {
            rt: rt.clone(),
            pool: config.pool,
            places: Mutex::new(places),
            current: Mutex::new(Arc::new(membership)),
            bell,
            busy: Arc::default(),
        })
    }

    /// Of stores that stay where they are.
    pub fn fixed(rt: &Rt, pool: PoolId, membership: Membership) -> Arc<Roster> {
        Arc::new(Roster {
            rt: rt.clone(),
            pool,
            places: Mutex::default(),
            current: Mutex::new(Arc::new(membership)),
            bell: Arc::default(),
            busy: Arc::default(),
        })
    }

    pub fn current(&self) -> Arc<Membership> {
        self.current.lock().clone()
    }

    pub(super) fn busy(&self) -> Busy {
        self.busy.with(|n| *n += 1);
        Busy(self.busy.clone())
    }

    /// Returns when nothing is on its way any more.
    pub(super) async fn idle(&self) {
        self.busy.until(|n| (*n == 0).then_some(())).await;
    }

    /// Looks for stores that are out, as long as the roster lives.
    pub(super) fn keep_looking(self: &Arc<Self>) {
        let (rt, bell, roster) = (self.rt.clone(), self.bell.clone(), Arc::downgrade(self));
        self.rt.spawn(look_when_rung(rt, bell, roster)).detach();
    }

    /// Puts those members right that are out because their store lies in another place now.
    async fn reseat(&self) {
        let now = self.current();
        let lost = |m: &&Arc<Member>| matches!(m.standing(), super::member::Standing::Out(_));
        if now.members.iter().filter(lost).count() == 0 {
            return;
        }
        let places = self.places.lock().clone();
        let labels = futures::future::join_all(places.iter().map(|p| read_label(&self.rt, p))).await;
        // A label that is in two places is in neither: one is a copy.
        let mut shown: BTreeMap<usize, Vec<(&StoreSpec, &Label)>> = BTreeMap::new();
        for (place, found) in places.iter().zip(&labels) {
            if let Found::Label(label) = found
                && label.pool == self.pool
            {
                shown.entry(label.index).or_default().push((place, label));
            }
        }
        let moved = now.members.iter().filter(lost).filter_map(|member| {
            let mine = |(_, label): &&(&StoreSpec, &Label)| label.incarnation == member.incarnation();
            let mut mine = shown.get(&member.index())?.iter().filter(mine);
            let (place, _) = mine.next()?;
            (mine.next().is_none() && !member.is_at(&place.bucket)).then(|| (member.index(), *place))
        });
        let moved: Vec<_> = moved.collect();
        self.replace(moved);
    }

    fn replace(&self, moved: Vec<(usize, &StoreSpec)>) {
        let mut current = self.current.lock();
        let mut members = current.members.clone();
        for (index, place) in &moved {
            let Some(old) = members.get(*index).cloned() else { continue };
            let new = old.moved_to(place.url.clone(), place.bucket.clone());
            new.ring_when_out(&self.bell);
            new.suspect();
            old.retire(&format!("store {} is reached at {} now", old.url(), place.url));
            tracing::info!("store {index} of the pool is found at {}", place.url);
            members[*index] = new;
        }
        if !moved.is_empty() {
            let (generation, acceptors) = (current.generation, current.acceptors.clone());
            *current = Arc::new(Membership { generation, members, acceptors });
        }
    }
}

impl Drop for Roster {
    fn drop(&mut self) {
        self.bell.notify_one();
    }
}

async fn look_when_rung(rt: Rt, bell: Arc<Notify>, roster: Weak<Roster>) {
    loop {
        bell.notified().await;
        let Some(roster) = roster.upgrade() else { return };
        roster.reseat().await;
        drop(roster);
        rt.sleep(PAUSE).await;
    }
}
