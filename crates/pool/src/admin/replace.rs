//! Another store in a member's place, or the same place made anew (protocol §1.7, §2.8; models `generation`, `repair`).
//!
//! Steps, each done by whoever comes, again after a kill: *plan* (its store labelled, the pool register sealed: `next_generation`),
//! *follow*: every other register is sealed and
//! its value known chosen in the new generation; then the volumes *admit* the store (their walks, in `volume`); *fill*:
//! its shards, from the old store or from the others; *labels* of the others say whom to ask; *settle*: the pool register
//! says that nothing is left in the generation before. Until then reads look at the new place, then at the old one.
//!
//! The next plan begins only when one is settled, so no register is ever more than one generation behind.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream;

use super::handle::Pool;
use super::next_generation::{Plan, check_free};
use crate::chunk::Inventory;
use crate::chunk::ShardSet;
use crate::chunk::with_footer_of;
use crate::local::{Progress, Watch};
use crate::register::Change;
use crate::repair::{Holdings, predecessors, put_back};
use crate::stores::Membership;
use crate::stores::PROBES;
use crate::stores::PoolStore;
use crate::stores::labelled;
use crate::stores::{At, How};
use crate::stores::{Label, label_key};
use crate::stores::{Member, PoolMark, Standing};
use crate::stores::{Named, parse, place, shard_on};
use crate::stores::{PoolConfig, StoreEntry};
use windlass_base::units::{show_bytes, show_count};
use windlass_base::{ChunkId, Error, Generation, Incarnation, Kind, PoolId, RegisterId, Result, VolumeId};
use windlass_store::{Cause, ConditionalPuts, List, When};

/// What has come to a new store, in shards.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Filled {
    /// There, whoever brought them.
    pub there: u64,
    /// Could not be brought yet.
    pub left: u64,
    /// Of these, the ones that nothing can have but stores which were replaced and do not answer.
    pub of_old: u64,
    /// Why the first of them could not.
    pub why: Option<String>,
}

/// Shards brought at a time: each is held in memory whole.
const AT_ONCE: usize = 3;
const LIVE_PAGE: usize = 1024;
const LIST_PAGE: usize = 1000;
/// Registers brought at a time.
const REGISTERS_AT_ONCE: usize = 8;

/// What is looked at before a store is put in another's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Care {
    /// Zones, what may be lost meanwhile, and what the others hold.
    All,
    /// What the others hold: the place was emptied, and stays where it is.
    Data,
    /// Nothing: the user says that what is away is gone for good.
    None,
}

/// How a replacement stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replacement {
    /// Nothing is to be done: the new store is the pool's already.
    Done,
    /// It is the pool's plan now: it is to be finished.
    Planned,
    /// Another is under way, which must be finished first.
    Other,
}

impl Pool {
    /// A replacement is under way: some of what its stores held has not come along yet.
    pub fn is_moving(&self) -> bool {
        self.context().membership().before.is_some()
    }

    /// Learns what other hosts have made of the pool's stores.
    pub fn hear(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.description().await.map(|_| ()) })
    }

    pub(crate) async fn description(&self) -> Result<PoolConfig> {
        let value = self.register(PoolConfig::register(self.id())).confirm().await?;
        let lost = || Error::new(Kind::Corrupt, format!("pool {} has lost its description", self.name()));
        let value = value.ok_or_else(lost)?;
        self.context().roster().learn(&value).await?;
        PoolConfig::decode(&value)
    }

    /// Makes `new` the pool's store in the place of `old` (by their URLs, which may be the same: a place that was emptied).
    pub fn plan_replacement<'f>(
        &'f self,
        old: &'f str,
        new: &'f PoolStore,
        inventory: &'f dyn Inventory,
        care: Care,
        watch: Watch<'f>,
    ) -> BoxFuture<'f, Result<Replacement>> {
        Box::pin(async move {
            self.context().roster().know(new);
            let now = self.description().await?;
            if let Some(before) = &now.before {
                if self.is_lost_midway(&now, old).await {
                    return self
                        .plan_again(vec![(old.to_owned(), new.clone())], inventory, care, watch)
                        .await;
                }
                let ours = |(was, is): (&StoreEntry, &StoreEntry)| {
                    was.url == old && is.url == new.url && was.incarnation != is.incarnation
                };
                let ours = before.iter().zip(&now.stores).any(ours);
                return Ok(if ours { Replacement::Planned } else { Replacement::Other });
            }
            let Some(index) = now.stores.iter().position(|s| s.url == old) else {
                return match now.stores.iter().any(|s| s.url == new.url) {
                    true => Ok(Replacement::Done),
                    false => Err(unknown_store(&now, old)),
                };
            };
            if now.stores.iter().enumerate().any(|(i, s)| i != index && s.url == new.url) {
                let text = format!("store {} is one of the pool's already: give an empty one", new.url);
                return Err(Error::new(Kind::Refused, text));
            }
            let incarnation = Incarnation(self.rt().random128());
            let zone = new.zone.clone().or_else(|| now.stores[index].zone.clone());
            let held = ConditionalPuts::Held;
            let mut entry = StoreEntry { url: new.url.clone(), zone, incarnation, conditions: held };
            if care == Care::All {
                now.with_store(index, entry.clone())?.zoning()?.check()?;
                self.check_spare(index).await?;
            }
            let Some(place) = self.judge(new, index, &now).await? else {
                self.check_same_kind(new, &now.stores[index]).await?;
                return Ok(Replacement::Done);
            };
            entry.conditions = place.conditions();
            check_kind(&entry, &now.stores[index], care)?;
            let next = now.with_store(index, entry)?;
            if care == Care::All {
                check_holders(&next)?;
            }
            if care != Care::None {
                let holdings = self.check_others(&[(index, new)], inventory, care).await?;
                if place.is_free() {
                    check_room(new, holdings.bytes_for(index, &self.membership())).await?;
                }
            }
            let plan = Plan { now: &now, next: &next, hint: &next, places: vec![place] };
            self.carry_out_filled(&plan, inventory, watch).await
        })
    }

    /// Of a store that is the pool's already: refuses to pass over that it keeps conditions now, or none any more. What it is stands
    /// for its incarnation, so it would have to leave the pool and come back.
    async fn check_same_kind(&self, store: &PoolStore, listed: &StoreEntry) -> Result<()> {
        let trial = self.context().roster().trial();
        let found = windlass_store::probe_fitness(self.rt(), &*store.bucket, PROBES, trial).await?.conditions;
        if found.are_held() == listed.conditions.are_held() {
            return Ok(());
        }
        let (now, is) = match found.are_held() {
            true => ("keeps the conditions of writes now", "holds data only"),
            false => ("does not keep the conditions of writes any more", "may hold registers"),
        };
        let text = format!(
            "store {} {now}, and {is} in the pool: put another store in its place, and then, emptied, this one back",
            store.url
        );
        Err(Error::new(Kind::Refused, text))
    }

    /// Another store for a replacement's new one that answers, and to which not all can be brought: it is too small, say. Only what the
    /// others and that one have comes along: the store that was replaced first is not known any more then.
    ///
    /// # Errors
    /// `NotFound`: no such replacement is under way.
    pub async fn plan_instead(
        &self,
        old: &str,
        new: &PoolStore,
        inventory: &dyn Inventory,
        care: Care,
        watch: Watch<'_>,
    ) -> Result<Replacement> {
        let now = self.description().await?;
        let index = now.stores.iter().position(|s| s.url == old);
        if now.before.is_none() || !index.is_some_and(|index| self.membership().is_new(index)) {
            return Err(unknown_store(&now, old));
        }
        self.plan_again(vec![(old.to_owned(), new.clone())], inventory, care, watch).await
    }

    /// Whether a replacement's new store of this URL is away before all has come along to it.
    async fn is_lost_midway(&self, now: &PoolConfig, url: &str) -> bool {
        let Some(index) = now.stores.iter().position(|s| s.url == url) else { return false };
        let membership = self.membership();
        membership.is_new(index) && membership.members[index].attest().await.is_err()
    }

    /// Other stores, or what lies in their places now, for those that were to take others' places and are lost before all had come
    /// along to them: the next generation begins before this one is settled. Every register comes along first, so that none is
    /// more than one generation behind.
    pub async fn plan_again(
        &self,
        places: Vec<(String, PoolStore)>,
        inventory: &dyn Inventory,
        care: Care,
        watch: Watch<'_>,
    ) -> Result<Replacement> {
        let generation = self.follow().await?;
        let now = self.description().await?;
        if now.generation != generation || now.before.is_none() {
            return Ok(Replacement::Other);
        }
        let (mut stores, mut judged, mut taken) = (now.stores.clone(), Vec::new(), Vec::new());
        for (old, new) in &places {
            let index = now.stores.iter().position(|s| s.url == *old);
            let index = index.ok_or_else(|| unknown_store(&now, old))?;
            let incarnation = Incarnation(self.rt().random128());
            let zone = new.zone.clone().or_else(|| stores[index].zone.clone());
            let Some(place) = self.judge(new, index, &now).await? else { return Ok(Replacement::Planned) };
            let conditions = place.conditions();
            let entry = StoreEntry { url: new.url.clone(), zone, incarnation, conditions };
            check_kind(&entry, &now.stores[index], care)?;
            stores[index] = entry;
            judged.push(place);
            taken.push((index, new));
        }
        let next = now.with_again(stores)?;
        if care == Care::All {
            check_holders(&next)?;
        }
        // What answers is no one's to give up.
        let holdings = self.check_others(&taken, inventory, care).await?;
        let free = taken.iter().zip(&judged).filter(|(_, place)| care != Care::None && place.is_free());
        for ((index, new), _) in free {
            check_room(new, holdings.bytes_for(*index, &self.membership())).await?;
        }
        // What labels tell strangers is what holds now: of a generation that names the one before by number they would believe it.
        let plan = Plan { now: &now, next: &next, hint: &now, places: judged };
        self.carry_out_filled(&plan, inventory, watch).await
    }

    /// Where one store alone holds the registers (no parity), the one in its place decides alone from the seal on. What belongs there
    /// comes along before that: were it lost midway, nobody could decide any more, though the old one has all that the pool held.
    async fn carry_out_filled(
        &self,
        plan: &Plan<'_>,
        inventory: &dyn Inventory,
        watch: Watch<'_>,
    ) -> Result<Replacement> {
        let Some(nonce) = self.begin(plan).await? else { return Ok(Replacement::Other) };
        for place in plan.places.iter().filter(|place| plan.next.acceptors == [place.index()]) {
            let (rt, mark) = (self.rt().clone(), PoolMark { id: self.id(), key: self.key().cloned() });
            let (entry, bucket) = (&plan.next.stores[place.index()], Some(place.store().bucket.clone()));
            let new = Member::new(rt, mark, place.index(), entry.clone(), bucket);
            self.fill_ahead(&new, inventory, watch).await?;
        }
        let planned = self.seal(plan, nonce).await?;
        Ok(if planned { Replacement::Planned } else { Replacement::Other })
    }

    /// Brings what belongs on a store that is labelled and not the pool's yet. What can't be read is told once it is (`fill`).
    async fn fill_ahead(&self, new: &Member, inventory: &dyn Inventory, watch: Watch<'_>) -> Result<()> {
        let (mut after, mut progress) = (None, Progress { done: 0, of: 0 });
        loop {
            let page = inventory.live_after(after, LIVE_PAGE).await?;
            let ended = page.len() < LIVE_PAGE;
            after = page.last().copied();
            progress.of += page.len() as u64;
            let jobs = stream::iter(page).map(|id| async move { self.bring_ahead(&id, new).await });
            let mut jobs = jobs.buffer_unordered(AT_ONCE);
            while let Some(done) = jobs.next().await {
                done?;
                progress.done += 1;
                watch(progress);
            }
            if ended {
                return Ok(());
            }
        }
    }

    async fn bring_ahead(&self, id: &ChunkId, new: &Member) -> Result<()> {
        let context = self.context();
        let index = shard_on(id, new.index(), context.layout().n());
        let there = At { member: new, id, index };
        if there.footer(Cause::Repair).await.is_ok() {
            return Ok(());
        }
        for old in [Some(context.holder(id, index)), context.former_holder(id, index)].into_iter().flatten() {
            if let Ok((footer, bytes, _)) = (At { member: &old, id, index }).whole(Cause::Repair).await {
                let object = with_footer_of(&footer, bytes);
                return there.store(&footer.about, &object, How::Look, Cause::Repair).await;
            }
        }
        Ok(())
    }

    /// Of a replacement under way, the new stores that are away, and in whose places something lies that may be taken in: nothing,
    /// or a disk of the pool's that was not mounted when the place was taken in.
    pub async fn lost_places(&self) -> Vec<(String, PoolStore)> {
        let now = self.membership();
        let mut places = Vec::new();
        for new in now.members.iter().filter(|m| now.is_new(m.index())) {
            if new.attest().await.is_err()
                && let Some(place) = free_place(self.id(), new).await
            {
                places.push((new.url().to_owned(), place));
            }
        }
        places
    }

    /// Refuses a plan that may not end, or ends with less than there is: as long as stores that do not answer may hold what the
    /// others lack. What lies in the places that are taken in stays there, and counts; in the next plan the predecessors of the
    /// one under way are not known any more, and don't. `Care::None`: of those alone that answer, since what does not is gone.
    async fn check_others(
        &self,
        taken: &[(usize, &PoolStore)],
        inventory: &dyn Inventory,
        care: Care,
    ) -> Result<Holdings> {
        self.look().await;
        let (k, mut holdings) = (self.layout().k(), self.holdings(taken, care).await);
        let mut short = holdings.short_of(k, inventory).await?;
        if !short.is_empty() {
            // Volumes are written meanwhile. What was live before a listing began and is live after it lay in the stores all that
            // time: where it is short by that listing too, it lacks.
            holdings = self.holdings(taken, care).await;
            short = short.intersection(&holdings.short_of(k, inventory).await?).copied().collect();
        }
        let undecided = if care == Care::None { Vec::new() } else { inventory.undecided().await? };
        let why = match (short.len() as u64, undecided.iter().find(|e| e.is_transient())) {
            (0, None) => return Ok(holdings),
            (0, Some(first)) => first.to_string(),
            (objects, _) => {
                format!("too few shards of {} are on the stores that answer", show_count(objects, "object"))
            }
        };
        let members = &self.membership().members;
        let old: Vec<&str> = taken.iter().map(|(index, _)| members[*index].url()).collect();
        let way = match care {
            Care::None => "run `windlass pool repair` first".to_owned(),
            Care::All | Care::Data => format!(
                "Bring these back, or run `windlass pool repair` first; if they are gone for good, `windlass pool replace {} --old {} \
                 --new URL --force` goes on with what is left",
                self.name(),
                old.first().copied().unwrap_or_default()
            ),
        };
        let text = format!(
            "nothing is put in the place of {}: {why}. What is missing may be on stores that do not answer, on a disk that is not \
             mounted, or on a store that was replaced and not all of which has come along: {}. {way}",
            old.join(", "),
            holdings.silent.join("; "),
        );
        Err(Error::new(Kind::Refused, text))
    }

    async fn holdings(&self, taken: &[(usize, &PoolStore)], care: Care) -> Holdings {
        let now = self.membership();
        let own = taken.iter().filter(|(index, _)| now.members[*index].standing().reason().is_some());
        let own: Vec<_> = own.map(|(index, place)| (*index, place.bucket.clone())).collect();
        let urls: Vec<&str> = taken.iter().map(|(_, place)| place.url.as_str()).collect();
        let mut holdings = Holdings::look(&now.members, &own).await;
        holdings.look_at_former(&now, &urls).await;
        if care == Care::None {
            holdings.give_up_silent();
        }
        holdings
    }

    /// A store that is well is one more away until its shards have come along: not while others are.
    async fn check_spare(&self, index: usize) -> Result<()> {
        self.look().await;
        let (condition, old) = (self.condition(), self.membership().members[index].clone());
        if condition.away.is_empty() || !old.well() {
            return Ok(());
        }
        let risk = match self.layout().m().checked_sub(condition.away.len() + 1) {
            None => "volumes of a host that dies meanwhile can't be opened before stores are back".to_owned(),
            Some(0) => "no store more may be lost meanwhile".to_owned(),
            Some(n) => format!("only {} more may be lost meanwhile", show_count(n as u64, "store")),
        };
        let text = format!(
            "{}, and {} is well: bring back or replace what is away first. Until its shards have come along, a store that is replaced counts as away too: {risk}; --force does it all the same",
            condition.sentence(),
            old.url()
        );
        Err(Error::new(Kind::Refused, text))
    }

    /// Every register comes along into the pool's generation; which one that is, for `settle`.
    pub fn follow(&self) -> BoxFuture<'_, Result<Generation>> {
        Box::pin(async move {
            self.register(PoolConfig::register(self.id())).bring().await?;
            let now = self.context().membership();
            let names = self.bring_names().await?;
            let (mut brought, mut ids) = (BTreeSet::<RegisterId>::new(), BTreeSet::<RegisterId>::new());
            ids.extend(names.into_iter().map(|volume| RegisterId(volume.0)));
            loop {
                // Also those that have no name any more: what is removed must stay so. And again after all that is known came
                // along: until it met a head that had, a host that was behind may have made pins here, which then count.
                if let Some(before) = &now.before {
                    ids.extend(registers_of(before).await?);
                }
                ids.retain(|id| !brought.contains(id));
                if ids.is_empty() {
                    return Ok(now.generation);
                }
                let all = std::mem::take(&mut ids);
                brought.extend(&all);
                let bring = stream::iter(all).map(|id| async move { self.register(id).bring().await });
                let mut bring = bring.buffer_unordered(REGISTERS_AT_ONCE);
                while let Some(done) = bring.next().await {
                    done?;
                }
            }
        })
    }

    /// Brings every shard that belongs on a new store there.
    pub fn fill<'f>(
        &'f self,
        inventory: &'f dyn Inventory,
        watch: Watch<'f>,
    ) -> BoxFuture<'f, Result<Filled>> {
        Box::pin(async move {
            let (mut after, mut filled, mut progress) =
                (None, Filled::default(), Progress { done: 0, of: 0 });
            loop {
                let page = inventory.live_after(after, LIVE_PAGE).await?;
                let ended = page.len() < LIVE_PAGE;
                after = page.last().copied();
                progress.of += page.len() as u64;
                let jobs = stream::iter(page).map(|id| async move { (id, self.fill_chunk(&id).await) });
                let mut jobs = jobs.buffer_unordered(AT_ONCE);
                while let Some((id, out)) = jobs.next().await {
                    match out {
                        Ok(()) => filled.there += 1,
                        Err(_) if inventory.fate(id).await?.is_over() => {}
                        Err(e) => {
                            tracing::warn!("a shard of {id} was not brought to the new store: {e}");
                            self.not_brought(&id, &e, &mut filled).await;
                        }
                    }
                    progress.done += 1;
                    watch(progress);
                }
                if ended {
                    break;
                }
            }
            // Of volumes that can't be read nobody knows what is live: all that is there comes along.
            let unread: BTreeSet<VolumeId> = inventory.unread().into_iter().map(|(id, _)| id).collect();
            if !unread.is_empty() {
                let now = self.membership();
                let holdings = Holdings::look(&now.members, &predecessors(&now)).await;
                for id in holdings.chunks_of(&unread) {
                    match self.fill_chunk(&id).await {
                        Ok(()) => filled.there += 1,
                        Err(e) => self.not_brought(&id, &e, &mut filled).await,
                    }
                }
            }
            Ok(filled)
        })
    }

    async fn not_brought(&self, id: &ChunkId, why: &Error, filled: &mut Filled) {
        // What is damaged for good holds nothing up: scrub names it.
        if why.is(Kind::Corrupt) {
            return;
        }
        filled.left += 1;
        filled.why.get_or_insert_with(|| why.to_string());
        let context = self.context();
        let seen = context.probe(id, &context.incarnations(), Cause::Repair).await;
        let (gone, rotten) = seen.absent_and_rotten();
        let is_lost = seen.readable() < self.layout().k() && gone.or(rotten).count() > self.layout().m();
        filled.of_old += u64::from(is_lost);
    }

    /// Brings a chunk's shards to the stores that are to be filled, from those in whose places they are or rebuilt.
    pub async fn fill_chunk(&self, id: &ChunkId) -> Result<()> {
        let (context, now) = (self.context(), self.context().membership());
        let n = context.layout().n();
        for (store, new) in now.members.iter().enumerate() {
            if !now.is_new(store) {
                continue;
            }
            let index = shard_on(id, store, n);
            debug_assert_eq!(place(id, index, n), store);
            let there = At { member: new, id, index };
            if let Ok((_, _)) = there.footer(Cause::Repair).await {
                context.missing_shards().stored(id, ShardSet::default().with(index));
                continue;
            }
            if let Some(old) = now.predecessor(store).filter(|old| old.standing().usable())
                && let Ok((footer, bytes, _)) = (At { member: old, id, index }).whole(Cause::Repair).await
            {
                let object = with_footer_of(&footer, bytes);
                there.store(&footer.about, &object, How::Look, Cause::Repair).await?;
                context.missing_shards().remove(id, ShardSet::default().with(index));
                continue;
            }
            let wanted = ShardSet::default().with(index);
            let (stored, mut refusals) =
                put_back(context, id, wanted, ShardSet::default(), Cause::Repair).await?;
            if stored.is_empty() {
                let silent = || Error::new(Kind::Unavailable, format!("store {} did not take it", new.url()));
                return Err(refusals.pop().unwrap_or_else(silent));
            }
            context.missing_shards().remove(id, stored);
        }
        Ok(())
    }

    /// Nothing is left behind this generation, which was followed, and then filled: labels say so to those who know nothing,
    /// then the pool register does. False: others have begun another since, and what that one left behind is not known.
    pub fn settle(&self, followed: Generation) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async move {
            let now = self.description().await?;
            if now.generation != followed || now.before.is_none() {
                return Ok(now.generation == followed);
            }
            let settled = now.settled();
            self.update_labels(&settled).await;
            let step = |current: Option<&bytes::Bytes>| {
                let current = PoolConfig::decode(current.map(|b| b.as_ref()).unwrap_or_default())?;
                if current.generation != now.generation || current.before.is_none() {
                    return Ok(Change::Keep(current));
                }
                let settled = current.settled();
                Ok(Change::Put(settled.encode(), settled))
            };
            let current = self.register(PoolConfig::register(self.id())).change(step).await?;
            self.context().roster().learn(&current.encode()).await?;
            Ok(current.generation == followed)
        })
    }

    /// The URLs of stores to which not all may have come along.
    pub fn new_stores(&self) -> Vec<String> {
        let now = self.membership();
        now.members.iter().filter(|m| now.is_new(m.index())).map(|m| m.url().to_owned()).collect()
    }

    /// Stores that were to take others' places and are away before all has come along to them: without them what is under way
    /// does not end. Each with why it is away.
    pub async fn lost_midway(&self) -> Vec<(Arc<Member>, String)> {
        let now = self.membership();
        let new = now.members.iter().filter(|m| now.is_new(m.index()));
        let looks = new.map(|m| async move { m.attest().await.err().map(|e| (m.clone(), e.to_string())) });
        futures::future::join_all(looks).await.into_iter().flatten().collect()
    }

    pub(crate) async fn update_labels(&self, hint: &PoolConfig) {
        let members = self.context().members();
        let labels = members.iter().map(|member| update_label(member, hint));
        for out in futures::future::join_all(labels).await {
            // A hint only; its store is away, or another wrote a newer one.
            if let Err(e) = out {
                tracing::debug!("a label stays as it is: {e}");
            }
        }
    }

    /// Stores (by URL) whose place was emptied, or never became the pool's store again: out, and free to be taken in anew.
    pub fn emptied(&self) -> BoxFuture<'_, Vec<PoolStore>> {
        Box::pin(async move {
            let mut free = Vec::new();
            for member in self.context().members() {
                free.extend(free_place(self.id(), &member).await);
            }
            free
        })
    }
}

/// Refuses to take a place in by itself that kept the conditions of writes before and keeps them no more: the registers that it may
/// hold would have to move, or be fewer. That is for the user to decide.
fn check_kind(new: &StoreEntry, listed: &StoreEntry, care: Care) -> Result<()> {
    if care != Care::Data || new.conditions.are_held() || !listed.conditions.are_held() {
        return Ok(());
    }
    let text = format!(
        "store {} kept the conditions of writes when it came to the pool, and does not now: mend its server, or put a store in its \
         place with `windlass pool replace`, which may be this one",
        new.url
    );
    Err(Error::new(Kind::Refused, text))
}

/// Refuses a replacement after which one zone, or m stores, could take all that hold registers.
fn check_holders(next: &PoolConfig) -> Result<()> {
    let zoning = next.zoning()?;
    zoning.check()?;
    zoning.check_acceptors()
}

/// Refuses a store that tells of less room than the shards take that belong there: filling it would not end.
async fn check_room(new: &PoolStore, need: u64) -> Result<()> {
    let Some(space) = new.bucket.space().await.filter(|space| space.free_bytes < need) else {
        return Ok(());
    };
    let text = format!(
        "store {} has {} free, and what belongs there takes {}: give a larger one",
        new.url,
        show_bytes(space.free_bytes),
        show_bytes(need)
    );
    Err(Error::new(Kind::NoSpace, text))
}

/// The place of a store that is out, when it was emptied or never became the pool's store again.
pub async fn free_place(pool: PoolId, member: &Member) -> Option<PoolStore> {
    let (Standing::Out(_), Some(bucket)) = (member.standing(), member.raw()) else { return None };
    let (url, zone) = (member.url().to_owned(), member.zone().map(str::to_owned));
    let spec = PoolStore { url, zone, bucket: bucket.clone() };
    let ours = match labelled(&spec, pool, member.pool_key()).await {
        Ok(None) => check_free(&spec, pool, true).await.is_ok(),
        Ok(Some(label)) => {
            label.pool == pool && label.index == member.index() && label.incarnation != member.incarnation()
        }
        Err(_) => false,
    };
    ours.then_some(spec)
}

fn unknown_store(now: &PoolConfig, old: &str) -> Error {
    let urls: Vec<&str> = now.stores.iter().map(|s| s.url.as_str()).collect();
    let text = format!("{old} is no store of pool {}, whose stores are {}", now.name, urls.join(", "));
    Error::new(Kind::NotFound, text)
}

/// Every register of a generation that anything was chosen in.
async fn registers_of(membership: &Membership) -> Result<BTreeSet<RegisterId>> {
    let lists = futures::future::join_all(membership.deciding().map(list_registers)).await;
    let (mut ids, mut listed, mut missing) = (BTreeSet::new(), 0, None);
    for list in lists {
        match list {
            Ok(list) => {
                listed += 1;
                ids.extend(list);
            }
            Err(e) => missing = Some(e),
        }
    }
    match missing {
        // Each has told one of those that were listed.
        Some(e) if listed < membership.met_by_all() => Err(e.context("listing its registers")),
        _ => Ok(ids),
    }
}

/// The registers that a store knows of.
pub async fn list_registers(member: &Arc<Member>) -> Result<Vec<RegisterId>> {
    let mut list = List { prefix: "reg/".to_owned(), max: LIST_PAGE, ..List::default() };
    let mut ids = Vec::new();
    loop {
        let page = member.list(&list, Cause::Register).await?;
        ids.extend(page.objects.iter().filter_map(|o| match parse(&o.key) {
            Named::Register(id) => Some(id),
            _ => None,
        }));
        list.after = page.next;
        if list.after.is_none() {
            break;
        }
    }
    // A place that was emptied lists nothing.
    member.attest().await?;
    Ok(ids)
}

async fn update_label(member: &Arc<Member>, hint: &PoolConfig) -> Result<()> {
    let (Some(bucket), true) = (member.raw(), member.standing().usable()) else { return Ok(()) };
    let key = label_key(hint.pool);
    let Some(head) = bucket.head(&key, Cause::Label).await? else { return Ok(()) };
    member.attest().await?;
    let label = Label::new(hint.pool, member.index(), member.incarnation(), hint.clone());
    // Where conditions are not asked for, the label of another life that came since may be put over: see `put_first_label`.
    let when = member.asked(When::Matches(head.etag));
    bucket.put(&key, label.encode(member.pool_key()), when, Cause::Label).await?;
    Ok(())
}
