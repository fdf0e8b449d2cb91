//! Those who know that stores are lost: they force the pool, finish what is begun, and take stores in until none is away.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result};
use windlass_pool::{Care, ForcedRecovery, Pool, PoolStore, Replacement, StoreSwap};
use windlass_volume::Volumes;

use super::site::{Loss, Side, Site, name};
use super::users::expected;

/// Tries after which a volume whose newest writes can't be told is taken over as it is.
const PATIENT: u32 = 1;
/// Part of an error that tells of such a volume.
const UNTOLD: &str = "--accept-loss";

/// Administrators that have found everything right.
#[derive(Debug, Default)]
pub struct Turns(Mutex<BTreeSet<usize>>);

impl Turns {
    pub fn done(&self, host: usize) -> bool {
        self.0.lock().contains(&host)
    }
}

/// One life of an administrator.
#[derive(Clone)]
pub struct Admin {
    pub site: Arc<Site>,
    pub rt: Rt,
    pub host: usize,
    /// Number of the spare stores that the administrator puts in the place of lost ones.
    pub spare: usize,
}

impl Admin {
    /// Works until the pool is whole, or the process is killed.
    pub async fn live(self) {
        let (mut untold, mut useless) = (0, BTreeSet::new());
        loop {
            match self.put_right(&useless, untold > PATIENT).await {
                Ok(true) => break,
                Ok(false) => {}
                Err(e) => {
                    self.note(|| format!("{:?} {e}", e.kind()));
                    expected("administrator", &e);
                    untold += u32::from(e.to_string().contains(UNTOLD));
                    self.heed(&e, &mut useless);
                }
            }
            self.rt.sleep(Duration::from_millis(self.rt.below(3_000))).await;
        }
        self.note(|| "all is right".to_owned());
        self.site.turns.0.lock().insert(self.host);
    }

    fn note(&self, what: impl FnOnce() -> String) {
        self.site.note(|| format!("admin{}: {}", self.host, what()));
    }

    /// Takes note of stores that need none in their place: the pool does not list them, or they answer. That
    /// may change: surely where an error says that another must be named.
    fn heed(&self, error: &Error, useless: &mut BTreeSet<String>) {
        let text = error.to_string();
        let named = self.swaps(&BTreeSet::new()).into_iter().map(|swap| swap.old);
        let refused = |url: &String| {
            text.contains(&format!("{url} is no store")) || text.contains(&format!("{url} answers"))
        };
        match named.into_iter().find(refused) {
            Some(url) => drop(useless.insert(url)),
            None if text.contains("--old URL") || self.rt.below(4) == 0 => useless.clear(),
            None => {}
        }
    }

    /// Does what can be done. `false`: something is still to be done.
    async fn put_right(&self, useless: &BTreeSet<String>, accept_loss: bool) -> Result<bool> {
        self.decide(useless).await?;
        let volumes = self.site.open(&self.rt, self.host, Side::Near).await?;
        if accept_loss {
            self.note(|| "takes the volume over as it is".to_owned());
            self.site.model.lock().current().lock().tried_by(self.host);
            volumes.take_over(&name("v"), true).await?;
            volumes.release(&name("v")).await?;
        }
        let done = self.make_whole(&volumes).await;
        self.site.saw(&volumes.engine().pool);
        volumes.engine().pool.close().await;
        done
    }

    /// Returns the stores that are put in the place of the lost ones.
    fn swaps(&self, useless: &BTreeSet<String>) -> Vec<StoreSwap> {
        let site = &self.site;
        if site.plan.loss == Loss::Emptied {
            return Vec::new();
        }
        let new = |place: usize| site.spare(place, self.spare, Side::Near);
        let lost = site.plan.lost.iter().map(|place| StoreSwap { old: site.url(*place), new: new(*place) });
        let moving = site.plan.moving.map(|place| {
            let old = site.spare(place, 0, Side::Near).url;
            StoreSwap { old, new: new(place) }
        });
        lost.chain(moving).filter(|swap| !useless.contains(&swap.old)).collect()
    }

    /// Decides by force, where no majority is left.
    async fn decide(&self, useless: &BTreeSet<String>) -> Result<()> {
        let (site, mut swaps) = (&self.site, self.swaps(useless));
        if self.rt.below(5) == 0 {
            // At times it names fewer than it should.
            swaps.pop();
        }
        let (host, specs) = site.host(&self.rt, self.host, Side::Near);
        let Some(wreck) = ForcedRecovery::find(host, specs, swaps).await? else { return Ok(()) };
        let lost: Vec<_> = wreck.lost.iter().map(|lost| (&lost.url, &lost.new)).collect();
        self.note(|| format!("guess {}, unfinished {}, {lost:?}", wreck.guess, wreck.unfinished));
        if wreck.guess && !site.plan.guess {
            // It knows that not so many are lost: some did not answer this time.
            return Ok(());
        }
        if wreck.guess {
            site.told_of_guess.store(true, Ordering::Relaxed);
        } else if site.plan.guess && site.plan.moving.is_none() {
            assert!(site.guessed(), "what must be a guess is said to be certain: {:?}", wreck.lost);
        }
        wreck.check().await?;
        wreck.recover().await?;
        self.note(|| "has decided".to_owned());
        Ok(())
    }

    async fn make_whole(&self, volumes: &Volumes) -> Result<bool> {
        let pool = &volumes.engine().pool;
        if pool.is_moving() {
            finish(volumes).await?;
        }
        pool.look().await;
        for free in pool.emptied().await {
            self.replace(volumes, &free.url, &free).await?;
        }
        for member in pool.membership().members.clone() {
            if self.site.is_lost(member.url()) && !member.standing().usable() {
                let new = self.site.spare(member.index(), self.spare, Side::Near);
                self.replace(volumes, member.url(), &new).await?;
            }
        }
        pool.look().await;
        Ok(!pool.is_moving() && pool.membership().members.iter().all(|m| m.standing().usable()))
    }

    async fn replace(&self, volumes: &Volumes, old: &str, new: &PoolStore) -> Result<()> {
        match volumes.engine().pool.plan_replacement(old, new, volumes, Care::None, &|_| {}).await? {
            Replacement::Done => Ok(()),
            Replacement::Planned | Replacement::Other => finish(volumes).await,
        }
    }
}

/// Does what is left to do of a replacement, whoever began it.
pub async fn finish(volumes: &Volumes) -> Result<()> {
    let pool: &Pool = &volumes.engine().pool;
    let generation = pool.follow().await?;
    if let Some(e) = volumes.admit_stores().await?.into_iter().next() {
        return Err(e);
    }
    let filled = pool.fill(volumes, &|_| {}).await?;
    // What is lost here is lost for good.
    if filled.left > filled.of_old {
        return Err(Error::new(Kind::Unavailable, "not all has come along"));
    }
    // Where others have begun another plan, the next look finds it.
    pool.settle(generation).await.map(|_| ())
}
