//! A pool that no majority of its acceptors can decide any more, decided by those that are left (`force-recover`,
//! protocol §2.8; model `recover`).
//!
//! It is a replacement of all that is lost at once, by stores in other places or by the same ones emptied, with one rule
//! broken: where a majority of a generation's acceptors is away, all that answer decide, one by one. The pool register's
//! seal says which ones were given up, so that everybody brings the other registers along by the same rule; from the new
//! generation on a majority decides as ever.
//!
//! Whether that is a guess can be told. As long as fewer than a majority are given up, every majority that there ever was
//! has one of those that are left: nothing that was chosen is forgotten, and nobody can choose anything without meeting
//! the seal. Else what was chosen by lost acceptors alone is forgotten: then the generation's number goes over all that
//! they can hold, and so do the numbers of new claims on volumes (`guesses`).
//!
//! Restartable at every step: *settle* (what a plan before began is chosen by those that are left), *follow* (the
//! registers of an unfinished move come along), *plan* (new stores labelled, the pool register sealed: `next_generation`),
//! *bring*. What comes then is a replacement like any other.
//!
//! It can't know that a store is lost. Two that each give up the other's stores make two pools of one; whoever still
//! reaches a majority of the lost ones goes on there. That is why a user must say so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream;

use super::handle::Pool;
use super::next_generation::Plan;
use super::replace::{free_place, list_registers};
use crate::chunk::ShardSet;
use crate::io::PoolContext;
use crate::local::HostClock;
use crate::local::MissingShards;
use crate::local::ProvenServers;
use crate::local::ScrubCursor;
use crate::register::{Change, Register};
use crate::repair::Holdings;
use crate::stores::Member;
use crate::stores::{Membership, Roster};
use crate::stores::{PoolConfig, StoreEntry};
use crate::stores::{PoolHost, PoolStore};
use crate::stores::{best_hint, find, read_label, refuse_destroyed};
use windlass_base::{Error, Incarnation, Kind, RegisterId, Result};
use windlass_store::ConditionalPuts;

/// Registers looked at at a time.
const REGISTERS_AT_ONCE: usize = 8;
/// Generations that are met one after the other, at most: one is left unfinished by each that was broken off.
const STEPS: usize = 8;

/// A store in the place of one that is lost.
#[derive(Clone, Debug)]
pub struct StoreSwap {
    /// The lost one's URL, as the pool lists it.
    pub old: String,
    pub new: PoolStore,
}

/// A store that does not answer as the pool's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lost {
    pub url: String,
    pub why: String,
    /// It was to take another's place, and not all had come along to it.
    pub midway: bool,
    /// The URL of what takes its place; `None`: it stays listed, and away.
    pub new: Option<String>,
}

/// A pool whose registers can't be decided by majorities: what is lost, and what would become of it. See the module.
#[derive(Debug)]
pub struct ForcedRecovery {
    host: PoolHost,
    roster: Arc<Roster>,
    config: PoolConfig,
    swaps: Vec<StoreSwap>,
    pub lost: Vec<Lost>,
    /// Registers that are known to those that are left.
    pub registers: usize,
    /// Those that are left don't know of everything that was ever acknowledged: an older state may be taken.
    pub guess: bool,
    /// A replacement was under way, or such a recovery: what has not come along to its new store may be lost.
    pub unfinished: bool,
}

impl ForcedRecovery {
    /// Looks at the pool of these stores. `None`: majorities answer, there is nothing to decide by force. Changes nothing.
    pub fn find(
        host: PoolHost,
        mut stores: Vec<PoolStore>,
        swaps: Vec<StoreSwap>,
    ) -> BoxFuture<'static, Result<Option<ForcedRecovery>>> {
        Box::pin(async move {
            let mut labels = futures::future::join_all(
                stores.iter().map(|s| read_label(&host.rt, s, host.key.as_ref(), host.pool)),
            )
            .await;
            refuse_destroyed(&labels)?;
            let hint = best_hint(&stores, &labels)?;
            let config = hint.predecessor().unwrap_or(hint);
            let (seats, _) = find(&host, &config, &mut stores, &mut labels).await?;
            let roster = Roster::new(&host, &config, stores, &seats);
            swaps.iter().for_each(|swap| roster.know(&swap.new));
            let register = Register::new(host.rt.clone(), roster.clone(), PoolConfig::register(config.pool));
            let mut config = config;
            for _ in 0..STEPS {
                let Some(newest) = register.newest_description().await? else { break };
                roster.learn(&newest.encode()).await?;
                let same = newest.generation == config.generation;
                config = newest;
                if same {
                    break;
                }
            }
            // What can't be understood is said when it is brought along.
            drop(register.hear_of_seal().await);
            hear_all(&host, &roster).await;
            let now = roster.current();
            if now.generation > config.generation {
                config = PoolConfig::decode(&now.description)?;
            }
            let hopeless = [Some(&now), now.before.as_ref()].into_iter().flatten();
            let mut given_up = Vec::new();
            for membership in hopeless {
                let lost = membership.hopeless().await;
                given_up.push((lost.len() > membership.acceptors.len() / 2, lost != membership.given_up));
            }
            let mut recovery = ForcedRecovery {
                lost: Vec::new(),
                registers: 0,
                guess: given_up.iter().any(|(guess, _)| *guess),
                unfinished: config.before.is_some(),
                host,
                roster,
                config,
                swaps,
            };
            let takers = recovery.takers(&now).await;
            if given_up.iter().all(|(_, more)| !more) && !recovery.is_stuck(&now, &takers).await {
                return Ok(None);
            }
            recovery.look(&now, &takers).await;
            recovery.check_swaps(&now)?;
            Ok(Some(recovery))
        })
    }

    async fn look(&mut self, now: &Membership, takers: &BTreeMap<usize, PoolStore>) {
        for member in away(now).await {
            let why = member.standing().reason().unwrap_or("it does not answer").to_owned();
            let new = takers.get(&member.index()).map(|spec| spec.url.clone());
            let midway = now.is_new(member.index());
            self.lost.push(Lost { url: member.url().to_owned(), why, midway, new });
        }
        self.registers = known_registers(now).await.len();
    }

    /// Decides the pool's registers by what is left, as the module says. Afterwards the pool opens, and is finished like
    /// after a replacement. Errors: `Refused` (too much is lost, or too little is there to go on with), `Owned` (another
    /// recovery came in between), `Unavailable`.
    pub fn recover(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let (host, config) = (&self.host, &self.config);
            let missing_shards =
                MissingShards::open(&host.rt, host.disk.clone(), &host.folder, config.pool).await?;
            let scrub_cursor = ScrubCursor::new(host.disk.clone(), &host.folder, config.pool);
            let context = PoolContext::new(
                host.rt.clone(),
                config.layout,
                self.roster.clone(),
                missing_shards,
                scrub_cursor,
                ProvenServers::new(host.disk.clone(), &host.folder, config.pool),
                HostClock::open(&host.rt, &host.disk, &host.folder).await,
            );
            let pool = Pool::still(config, context);
            let done = self.recover_with(&pool).await;
            pool.close().await;
            done
        })
    }

    async fn recover_with(&self, pool: &Pool) -> Result<()> {
        let register = pool.register(PoolConfig::register(pool.id()));
        self.settle(pool, &register).await?;
        let now = pool.description().await?;
        if now.before.is_some() {
            pool.follow().await?;
        }
        let membership = self.roster.current();
        let takers = self.takers(&membership).await;
        if membership.given_up.is_empty() && !self.is_stuck(&membership, &takers).await {
            return Ok(());
        }
        let away: BTreeSet<usize> = away(&membership).await.iter().map(|m| m.index()).collect();
        let mut places = Vec::new();
        for (index, spec) in &takers {
            let back =
                || Error::new(Kind::Owned, format!("store {} has come back meanwhile: try again", spec.url));
            places.push(pool.judge(spec, *index, &now).await?.ok_or_else(back)?);
        }
        let found = places.iter().map(|place| (place.index(), place.conditions())).collect();
        let next = self.plan(&now, &membership, &takers, &away, &found)?;
        // What labels tell strangers is what holds now: nobody may take the plan for more before it is chosen.
        if !pool.carry_out(&Plan { now: &now, next: &next, hint: &now, places }).await? {
            let why = format!("another recovery of pool {} came in between: run it again", now.name);
            return Err(Error::new(Kind::Owned, why));
        }
        register.bring().await?;
        // Stores that are back one day are not asked then by who finds the pool by one of these.
        pool.update_labels(&next).await;
        Ok(())
    }

    /// What earlier plans have begun is chosen by those that are left, one generation after the other.
    async fn settle(&self, pool: &Pool, register: &Register) -> Result<()> {
        for _ in 0..STEPS {
            let before = pool.generation();
            let now = self.roster.current();
            check_loss(&now, &self.takers(&now).await, &self.config).await?;
            self.roster.give_up().await;
            let now = self.roster.current();
            let both = || [Some(&now), now.before.as_ref()].into_iter().flatten();
            if both().any(|m| m.deciding().next().is_none()) {
                return Err(nobody_tells());
            }
            let guess = both().any(|m| m.is_guess());
            if guess && !self.guess {
                // Who asked for it was told that nothing would be guessed.
                let why =
                    "another store went away meanwhile, and nothing was decided: look again with --dry-run";
                return Err(Error::new(Kind::Unavailable, why));
            }
            self.bring_description(register, guess && before == self.config.generation).await?;
            if pool.generation() == before {
                return Ok(());
            }
        }
        Err(Error::new(Kind::Owned, format!("others change pool {} all the time: try again", pool.name())))
    }

    /// The pool's description is chosen by those that are left. They may never have heard of it in this generation: then what
    /// labels or other registers say is the newest that is left, if that is of the same.
    async fn bring_description(&self, register: &Register, guess_by_others: bool) -> Result<()> {
        register
            .change(|current| {
                Ok(match current {
                    None if guess_by_others => Change::Put(self.config.encode(), ()),
                    _ => Change::Keep(()),
                })
            })
            .await
    }

    /// For each place that is lost, what is there for it.
    async fn takers(&self, now: &Membership) -> BTreeMap<usize, PoolStore> {
        let mut takers = BTreeMap::new();
        for member in away(now).await {
            let swap = self.swaps.iter().find(|swap| swap.old == member.url());
            let taker = match swap {
                Some(swap) => Some(swap.new.clone()),
                None => free_place(self.config.pool, &member).await,
            };
            takers.extend(taker.map(|spec| (member.index(), spec)));
        }
        takers
    }

    /// Each swap is of a store that is lost, for one that is none of the pool's; or was made already.
    fn check_swaps(&self, now: &Membership) -> Result<()> {
        let listed = |url: &str| now.members.iter().any(|m| m.url() == url);
        for StoreSwap { old, new } in self.swaps.iter().filter(|swap| swap.old != swap.new.url) {
            let refused = match (listed(old), listed(&new.url)) {
                (true, false) if self.lost.iter().all(|lost| lost.url != *old) => format!(
                    "store {old} answers: it is replaced with `windlass pool replace` once the pool is recovered"
                ),
                (true, true) => {
                    format!("store {} is one of the pool's already: give an empty one", new.url)
                }
                (false, false) => {
                    let urls: Vec<&str> = now.members.iter().map(|m| m.url()).collect();
                    let name = &self.config.name;
                    format!("{old} is no store of pool {name}, whose stores are {}", urls.join(", "))
                }
                _ => continue,
            };
            return Err(Error::new(Kind::Refused, refused));
        }
        Ok(())
    }

    /// What was begun never ends: a store that was to take another's place was lost before all had come along to it, or
    /// fewer stores are left than take a chunk that is completed on the way.
    async fn is_stuck(&self, now: &Membership, takers: &BTreeMap<usize, PoolStore>) -> bool {
        let too_few = async || now.members.len() - away(now).await.len() < self.config.w();
        let is_new = takers.keys().any(|index| now.is_new(*index));
        is_new || now.before.is_some() && !takers.is_empty() && too_few().await
    }

    /// `found`: how those that take the places of lost ones were found to keep the conditions of writes.
    fn plan(
        &self,
        now: &PoolConfig,
        membership: &Membership,
        takers: &BTreeMap<usize, PoolStore>,
        away: &BTreeSet<usize>,
        found: &BTreeMap<usize, ConditionalPuts>,
    ) -> Result<PoolConfig> {
        let (mut stores, rt) = (now.stores.clone(), &self.host.rt);
        for (index, spec) in takers {
            let zone = spec.zone.clone().or_else(|| stores[*index].zone.clone());
            let incarnation = Incarnation(rt.random128());
            let conditions = found.get(index).copied().unwrap_or_default();
            stores[*index] = StoreEntry { url: spec.url.clone(), zone, incarnation, conditions };
        }
        let lost = membership.given_up.clone();
        let next = now.with_forced(stores, lost, self.guess || membership.is_guess())?;
        let there = |i: &&usize| !away.contains(i) || takers.contains_key(i);
        if next.acceptors.iter().filter(there).count() < next.acceptors.len() / 2 + 1 {
            return Err(nothing_in_place(away, now));
        }
        Ok(next)
    }

    /// Whether it could be done as things are; the error says what to do first.
    pub fn check(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let now = self.roster.current();
            let takers = self.takers(&now).await;
            check_loss(&now, &takers, &self.config).await?;
            let hopeless = now.hopeless().await;
            if hopeless == now.given_up {
                return Ok(());
            }
            if hopeless.len() == now.acceptors.len() {
                return Err(nobody_tells());
            }
            let away = away(&now).await.iter().map(|m| m.index()).collect();
            // How those in their places keep conditions is tried when it is done.
            self.plan(&self.config, &now, &takers, &away, &BTreeMap::new()).map(|_| ())
        })
    }
}

/// Registers that those know of that are left.
async fn known_registers(now: &Membership) -> BTreeSet<RegisterId> {
    let both = now.members.iter().chain(now.before.iter().flat_map(|b| &b.members));
    let there = both.filter(|m| m.standing().usable());
    let lists = futures::future::join_all(there.map(list_registers)).await;
    lists.into_iter().flatten().flatten().collect()
}

/// What is left of the pool register may not know of a generation that other registers are in: those who chose it are lost. A
/// recovery from the one before would leave such registers behind for ever.
async fn hear_all(host: &PoolHost, roster: &Arc<Roster>) {
    // One may tell of stores that know of others.
    for _ in 0..STEPS {
        let before = roster.current();
        let ids = known_registers(&before).await.into_iter();
        let heard = ids.map(|id| {
            let register = Register::new(host.rt.clone(), roster.clone(), id);
            // What can't be understood is found again when it is brought along, and said then.
            async move { drop(register.hear_of_newer().await) }
        });
        stream::iter(heard).buffer_unordered(REGISTERS_AT_ONCE).collect::<()>().await;
        if roster.current().generation == before.generation {
            return;
        }
    }
}

/// Its stores that are not the listed ones, or don't answer, by labels read after this call.
async fn away(now: &Membership) -> Vec<Arc<Member>> {
    let asks = now.members.iter().map(|m| async move { m.attest().await.is_err().then(|| m.clone()) });
    futures::future::join_all(asks).await.into_iter().flatten().collect()
}

/// With more lost than the layout bears nothing could be read afterwards. A store to which not all has come along is lost too: of
/// what its predecessor has nothing is known in the next generation. One that is taken in with its disk as it was is not.
async fn check_loss(
    now: &Membership,
    takers: &BTreeMap<usize, PoolStore>,
    config: &PoolConfig,
) -> Result<()> {
    let away: ShardSet = away(now).await.iter().map(|m| m.index()).collect();
    let places: Vec<_> = takers.iter().map(|(index, place)| (*index, place.bucket.clone())).collect();
    let holdings = Holdings::look(&now.members, &places).await;
    let new: ShardSet = now.members.iter().map(|m| m.index()).filter(|i| now.is_new(*i)).collect();
    let there = |index: &usize| !away.has(*index) || takers.contains_key(index);
    let taken: ShardSet = takers.keys().copied().collect();
    let unfilled = holdings.unfilled(new.or(taken).iter().filter(there).collect());
    let lost: Vec<&str> = now
        .members
        .iter()
        .filter(|m| unfilled.has(m.index()) || !there(&m.index()))
        .map(|m| m.url())
        .collect();
    if lost.len() <= config.layout.m() {
        return Ok(());
    }
    let text = format!(
        "{} of {} stores of pool {} are lost, or not all has come along to them ({}), its layout {} bears {}: no data could be read \
         afterwards; bring stores back, or make a new pool",
        lost.len(),
        now.members.len(),
        config.name,
        lost.join(", "),
        config.layout,
        config.layout.m(),
    );
    Err(Error::new(Kind::Refused, text))
}

fn nobody_tells() -> Error {
    let why = "none of the stores answers that could tell what was decided: bring one back, and look again";
    Error::new(Kind::Unavailable, why)
}

fn nothing_in_place(away: &BTreeSet<usize>, config: &PoolConfig) -> Error {
    let urls: Vec<&str> = away.iter().filter_map(|i| Some(config.stores.get(*i)?.url.as_str())).collect();
    let text = format!(
        "too few stores of pool {} would be left to decide: make an empty folder or bucket at the place of one that is lost \
         ({}), or name one elsewhere with --old URL --new URL",
        config.name,
        urls.join(", ")
    );
    Error::new(Kind::Refused, text)
}
