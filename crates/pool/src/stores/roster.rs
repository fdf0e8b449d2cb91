//! Who the pool's stores are, as far as this process knows, and which bucket each is reached by.
//!
//! Owns the membership that all others of the pool ask for anew with every operation. A `Member` stands for one store in
//! one place for ever: a store that is found in another place, or another store in a member's stead, is another `Member`,
//! so that an answer and the label that makes it count always come from the same bucket.
//!
//! Two folders or buckets that were exchanged are each out, because a label says which store of the pool it belongs to.
//! While a store is out by its label, the places that this host knows are looked through again for its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::config::{PoolConfig, StoreEntry};
use super::find_by_label::{Found, read_own_label};
use super::host_resources::{OnlyNamed, Opener, PoolHost, PoolStore};
use super::label::Label;
use super::member::{Member, PoolMark};
use super::membership::Membership;
use windlass_base::rt::Rt;
use windlass_base::watched_state::Watched;
use windlass_base::{Error, Generation, Kind, PoolId, Result};
use windlass_keys::PoolKey;
use windlass_store::Effort;

/// Between two looks for stores that are out.
const PAUSE: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug)]
pub struct Roster {
    rt: Rt,
    pool: PoolMark,
    opener: Arc<dyn Opener>,
    /// How much is asked of a store before the pool uses it.
    trial: Effort,
    /// Held while another generation is learned of.
    learning: tokio::sync::Mutex<()>,
    /// Places that this host knows of; grows as the pool lists others.
    places: Mutex<Vec<PoolStore>>,
    current: Mutex<Arc<Membership>>,
    /// Rung by members that are out.
    bell: Arc<Notify>,
    /// Rung by members whose server calls itself otherwise than before.
    server_bell: Arc<Notify>,
    /// What is still brought to stores though nobody waits for it.
    busy: Arc<Watched<usize>>,
    /// Nothing is written any more.
    ending: AtomicBool,
}

/// One such piece of work, as long as it lives.
#[derive(Debug)]
pub struct Busy(Arc<Watched<usize>>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.update(|n| *n -= 1);
    }
}

impl Roster {
    pub(crate) fn new(
        host: &PoolHost,
        config: &PoolConfig,
        places: Vec<PoolStore>,
        seats: &[Option<usize>],
    ) -> Arc<Roster> {
        let (rt, pool) = (&host.rt, PoolMark { id: config.pool, key: host.key.clone() });
        let bells = [Arc::new(Notify::new()), Arc::new(Notify::new())];
        let members = config.stores.iter().zip(seats).enumerate().map(|(index, (entry, seat))| {
            let place = seat.and_then(|at| places.get(at));
            member_at(rt, &pool, index, entry, place, [&bells[0], &bells[1]])
        });
        let membership = Membership {
            generation: config.generation,
            members: members.collect(),
            acceptors: config.acceptors.clone(),
            description: config.encode(),
            before: None,
            given_up: BTreeSet::new(),
            unfilled: BTreeSet::new(),
        };
        let [bell, server_bell] = bells;
        Arc::new(Roster {
            rt: rt.clone(),
            pool,
            opener: host.opener.clone(),
            trial: host.trial,
            places: Mutex::new(places),
            learning: tokio::sync::Mutex::default(),
            current: Mutex::new(Arc::new(membership)),
            bell,
            server_bell,
            busy: Arc::default(),
            ending: AtomicBool::new(false),
        })
    }

    /// Of stores that stay where they are.
    pub fn fixed(rt: &Rt, pool: PoolId, membership: Membership) -> Arc<Roster> {
        Arc::new(Roster {
            rt: rt.clone(),
            pool: pool.into(),
            opener: Arc::new(OnlyNamed),
            trial: Effort::SHORT,
            places: Mutex::default(),
            learning: tokio::sync::Mutex::default(),
            current: Mutex::new(Arc::new(membership)),
            bell: Arc::default(),
            server_bell: Arc::default(),
            busy: Arc::default(),
            ending: AtomicBool::new(false),
        })
    }

    pub(crate) fn pool(&self) -> PoolId {
        self.pool.id
    }

    /// What labels and registers are signed by; `None` in a pool that has no key.
    pub(crate) fn pool_key(&self) -> Option<&PoolKey> {
        self.pool.key.as_ref()
    }

    pub(crate) fn trial(&self) -> Effort {
        self.trial
    }

    pub fn current(&self) -> Arc<Membership> {
        self.current.lock().clone()
    }

    /// Another place, which the pool may come to list.
    pub(crate) fn know(&self, place: &PoolStore) {
        let mut places = self.places.lock();
        if places.iter().all(|p| p.url != place.url) {
            places.push(place.clone());
        }
    }

    /// Goes on to what a description of the pool says, unless that is known already.
    pub async fn learn(&self, description: &Bytes) -> Result<()> {
        self.learn_of(description).await.map(|_| ())
    }

    /// The same; the description's generation.
    pub async fn learn_of(&self, description: &Bytes) -> Result<Generation> {
        let config = PoolConfig::decode(description)?;
        let _turn = self.learning.lock().await;
        let now = self.current();
        if config.pool != self.pool.id {
            return Err(Error::new(Kind::Corrupt, "a register names another pool's stores"));
        }
        // A generation that is through is never left behind again, whatever older objects say.
        let through = config.generation == now.generation && config.before.is_none() && now.before.is_some();
        if config.generation <= now.generation && !through {
            return Ok(config.generation);
        }
        let before = match config.predecessor() {
            None => None,
            Some(before) => {
                let mut before = self.seated(&before, &now, None).await;
                before.given_up = config.given_up();
                Some(Arc::new(before))
            }
        };
        let mut next = self.seated(&config, &now, before).await;
        if next.generation == now.generation {
            next.given_up = now.given_up.clone();
        }
        if config.generation > now.generation {
            tracing::info!("the pool's stores have changed");
        }
        *self.current.lock() = Arc::new(next);
        Ok(config.generation)
    }

    /// The members of a generation: those that are known already as they are.
    async fn seated(
        &self,
        config: &PoolConfig,
        now: &Membership,
        before: Option<Arc<Membership>>,
    ) -> Membership {
        let olds = [Some(now), now.before.as_deref(), before.as_deref()];
        let mut members = Vec::new();
        for (index, entry) in config.stores.iter().enumerate() {
            let known = olds.iter().flatten().filter_map(|m| m.members.get(index));
            let known = known.into_iter().find(|m| m.incarnation() == entry.incarnation);
            members.push(match known {
                Some(member) => member.clone(),
                None => {
                    let place = self.place(entry).await;
                    member_at(
                        &self.rt,
                        &self.pool,
                        index,
                        entry,
                        place.as_ref(),
                        [&self.bell, &self.server_bell],
                    )
                }
            });
        }
        Membership {
            generation: config.generation,
            members,
            acceptors: config.acceptors.clone(),
            description: config.encode(),
            before,
            given_up: BTreeSet::new(),
            unfilled: config.unfilled(),
        }
    }

    /// From now on this process asks no acceptor any more that doesn't answer, in generations whose majority is lost. For
    /// `force-recover` alone, before it uses a register.
    pub(crate) async fn give_up(&self) {
        let _turn = self.learning.lock().await;
        let now = self.current();
        let mut next = Membership { given_up: now.hopeless().await, ..Membership::clone(&now) };
        if let Some(before) = &now.before {
            let given_up = before.hopeless().await;
            next.before = Some(Arc::new(Membership { given_up, ..Membership::clone(before) }));
        }
        *self.current.lock() = Arc::new(next);
    }

    async fn place(&self, entry: &StoreEntry) -> Option<PoolStore> {
        let known = self.places.lock().iter().find(|p| p.url == entry.url).cloned();
        if known.is_some() {
            return known;
        }
        match self.opener.open(&entry.url).await {
            Ok(bucket) => {
                let place = PoolStore { url: entry.url.clone(), zone: entry.zone.clone(), bucket };
                self.places.lock().push(place.clone());
                Some(place)
            }
            Err(e) => {
                tracing::warn!("store {} can't be reached from this host: {e}", entry.url);
                None
            }
        }
    }

    pub(crate) fn busy(&self) -> Busy {
        self.busy.with(|n| *n += 1);
        Busy(self.busy.clone())
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// Nothing is written from now on.
    pub(crate) fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    /// Returns when nothing is on its way any more.
    pub(crate) async fn idle(&self) {
        self.busy.until(|n| (*n == 0).then_some(())).await;
    }

    /// Rung when a store's server calls itself otherwise than before, and when the roster is dropped.
    pub(crate) fn server_bell(&self) -> &Arc<Notify> {
        &self.server_bell
    }

    /// Looks for stores that are out, as long as the roster lives.
    pub(crate) fn keep_looking(self: &Arc<Self>) {
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
        let labels = futures::future::join_all(
            places.iter().map(|p| read_own_label(&self.rt, p, self.pool(), self.pool_key())),
        )
        .await;
        // A label that is in two places is in neither: one is a copy.
        let mut shown: BTreeMap<usize, Vec<(&PoolStore, &Label)>> = BTreeMap::new();
        for (place, found) in places.iter().zip(&labels) {
            if let Found::Label(label) = found
                && label.pool == self.pool.id
            {
                shown.entry(label.index).or_default().push((place, label));
            }
        }
        let moved = now.members.iter().filter(lost).filter_map(|member| {
            let mine = |(_, label): &&(&PoolStore, &Label)| label.incarnation == member.incarnation();
            let mut mine = shown.get(&member.index())?.iter().filter(mine);
            let (place, _) = mine.next()?;
            (mine.next().is_none() && !member.is_at(&place.bucket)).then(|| (member.index(), *place))
        });
        let moved: Vec<_> = moved.collect();
        self.replace(moved);
    }

    fn replace(&self, moved: Vec<(usize, &PoolStore)>) {
        let mut current = self.current.lock();
        let mut members = current.members.clone();
        for (index, place) in &moved {
            let Some(old) = members.get(*index).cloned() else { continue };
            let new = old.moved_to(place.url.clone(), place.bucket.clone());
            new.ring_when_out(&self.bell);
            new.ring_on_another_server(&self.server_bell);
            new.suspect();
            old.retire(&format!("store {} is reached at {} now", old.url(), place.url));
            tracing::info!("store {index} of the pool is found at {}", place.url);
            members[*index] = new;
        }
        if !moved.is_empty() {
            *current = Arc::new(Membership { members, ..Membership::clone(&current) });
        }
    }
}

fn member_at(
    rt: &Rt,
    pool: &PoolMark,
    index: usize,
    entry: &StoreEntry,
    place: Option<&PoolStore>,
    [bell, server_bell]: [&Arc<Notify>; 2],
) -> Arc<Member> {
    let url = place.map_or(&entry.url, |s| &s.url).clone();
    let bucket = place.map(|s| s.bucket.clone());
    let member = Member::new(rt.clone(), pool.clone(), index, StoreEntry { url, ..entry.clone() }, bucket);
    member.ring_when_out(bell);
    member.ring_on_another_server(server_bell);
    member
}

impl Drop for Roster {
    fn drop(&mut self) {
        self.bell.notify_one();
        self.server_bell.notify_one();
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
