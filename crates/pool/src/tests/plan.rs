//! Several plans for the same stores at once: what the pool lists is never labelled anew, and somebody gets through.

use std::time::Duration;

use super::*;
use crate::admin::{ForcedRecovery, StoreSwap};
use crate::admin::{Place, Plan};
use crate::stores::StoreEntry;
use windlass_base::rt::sim::Sim;
use windlass_base::{Error, Incarnation, Kind, Nonce, RegisterId, Result};
use windlass_store::{ByteRange, Cause, ConditionalPuts, SimStore, Store as _};

/// The place whose store is another afterwards.
const LOST: usize = 1;

/// One of those who plan: how it sees the stores, and the new one.
#[derive(Clone)]
struct Planner {
    yard: Yard,
    new: PoolStore,
}

impl Planner {
    /// The slower the way to the new store, the longer from what is read there to what is put there.
    fn new(yard: &Yard, slow: Duration) -> Planner {
        let bucket = yard.spares[0].by_another_way();
        bucket.faults(|f| f.latency.1 = slow);
        Planner { yard: yard.clone(), new: PoolStore { url: bucket.url().to_owned(), zone: None, bucket } }
    }

    fn old(&self) -> String {
        self.yard.stores[LOST].url().to_owned()
    }

    async fn replace(&self) -> Result<bool> {
        let pool = self.yard.open().await?;
        Ok(pool.plan_replacement(&self.old(), &self.new, &EMPTY, Care::None, &|_| {}).await?
            != Replacement::Other)
    }

    async fn recover(&self) -> Result<bool> {
        let swap = StoreSwap { old: self.old(), new: self.new.clone() };
        let found = ForcedRecovery::find(self.yard.host(), self.yard.specs(), vec![swap]).await?;
        let Some(recovery) = found else { return Ok(true) };
        recovery.recover().await.map(|()| true)
    }

    async fn plan(&self, layout: &str) -> Result<bool> {
        // A pool with half of its stores is decided by force.
        if layout == "1+1" { self.recover().await } else { self.replace().await }
    }
}

/// The label that the new store has is the one which the pool lists, at every moment from when it lists one.
async fn shown(yard: &Yard) -> Result<()> {
    let pool = yard.open().await?;
    pool.hear().await?;
    let listed = &pool.membership().members[LOST];
    if listed.url() != yard.spares[0].url() {
        return Err(Error::new(Kind::Unavailable, "not yet"));
    }
    let (spare, whole) = (&yard.spares[0], ByteRange::Whole { max: 1 << 20 });
    let key = label_at(spare);
    let found = spare.contents().get(&key, whole, Cause::Label);
    let label = Label::decode(&found.await?.expect("it has a label").body)?;
    assert_eq!(label.incarnation, listed.incarnation(), "what the pool lists was labelled anew");
    Ok(())
}

#[test]
fn of_plans_at_once_the_slower_never_puts_over_what_the_quicker_has_sealed() {
    for seed in 0..120 {
        let layout = ["1+1", "2+1"][seed as usize % 2];
        let sim = Sim::new(seed);
        let mut yard = Yard::new(&sim, layout);
        yard.spares = vec![SimStore::new(&sim, "spare")];
        let world = sim.clone();
        let run = async move {
            let pool = yard.create().await.unwrap();
            let step = |_: Option<&bytes::Bytes>| Ok(Change::Put(vec![7].into(), ()));
            pool.register(RegisterId(1)).change(step).await.unwrap();
            yard.settle(3000).await;
            pool.close().await;
            drop(pool);
            yard.reach(LOST, windlass_store::Reach::Refuses);
            let slow = || Duration::from_millis(50 + world.below(600));
            let quick = Planner::new(&yard, Duration::from_millis(50));
            let slower = Planner::new(&yard, slow());
            let begin = Duration::from_millis(world.below(600));
            let late = async {
                yard.rt.sleep(begin).await;
                slower.plan(layout).await
            };
            let (one, other) = futures::future::join(quick.plan(layout), late).await;
            for failed in [&one, &other].into_iter().filter_map(|out| out.as_ref().err()) {
                assert!(matches!(failed.kind(), Kind::Owned | Kind::Unavailable), "{failed}");
            }
            // Where each kept the other off, the next gets through.
            let mut tries = 0;
            while shown(&yard).await.is_err() {
                tries += 1;
                assert!(tries < 5, "nobody gets through");
                let _ = quick.plan(layout).await;
            }
            let done = yard.open().await.unwrap();
            let generation = done.follow().await.unwrap();
            assert_eq!(done.fill(&Counted { dead: 0, live: 0 }, &|_| {}).await.unwrap().left, 0);
            assert!(done.settle(generation).await.unwrap());
            assert_eq!(done.register(RegisterId(1)).read().await.unwrap().unwrap().as_ref(), [7]);
            // Puts that are still on their way.
            yard.settle(40_000).await;
            shown(&yard).await.unwrap();
        };
        sim.run(run).unwrap();
    }
}

/// A plan that is carried out step by step.
struct Steps {
    pool: std::sync::Arc<Pool>,
    new: PoolStore,
    now: PoolConfig,
    next: PoolConfig,
    nonce: Nonce,
    place: Option<Place>,
    /// The next step; `None`: it is through, or came to nothing.
    step: Option<usize>,
}

impl Steps {
    async fn new(yard: &Yard, number: u128) -> Steps {
        let pool = yard.open().await.unwrap();
        let now = pool.description().await.unwrap();
        let bucket = yard.spares[0].clone();
        let new = PoolStore { url: bucket.url().to_owned(), zone: None, bucket };
        let entry = StoreEntry {
            url: new.url.clone(),
            zone: None,
            incarnation: Incarnation(number),
            conditions: ConditionalPuts::Held,
        };
        let next = now.with_store(LOST, entry).unwrap();
        Steps { pool, new, now, next, nonce: Nonce(number), place: None, step: Some(0) }
    }

    /// Whether it has sealed.
    async fn go(&mut self) -> bool {
        let Some(step) = self.step.take() else { return false };
        let places: Vec<Place> = self.place.take().into_iter().collect();
        let mut plan = Plan { now: &self.now, next: &self.next, hint: &self.now, places };
        let done = match step {
            0 => {
                let judged = self.pool.judge(&self.new, LOST, plan.now).await;
                plan.places.extend(judged.ok().flatten());
                !plan.places.is_empty()
            }
            1 => self.pool.register_plan(plan.now, self.nonce).await.unwrap(),
            2 => self.pool.put_first_label(&plan.places[0], &plan).await.is_ok(),
            _ => return self.pool.seal(&plan, self.nonce).await.unwrap(),
        };
        self.place = plan.places.pop();
        self.step = done.then_some(step + 1);
        false
    }
}

#[test]
fn whatever_the_order_of_two_plans_steps_one_is_sealed_at_most_and_its_label_stands() {
    // Whose step is next: all orders of four steps each.
    let orders = (0_u32..256).filter(|order| order.count_ones() == 4);
    for order in orders {
        let sim = Sim::new(order.into());
        let mut yard = Yard::new(&sim, "2+1");
        yard.spares = vec![SimStore::new(&sim, "spare")];
        let run = async move {
            drop(yard.create().await.unwrap());
            // One that came to nothing has left its label.
            let mut dead = Steps::new(&yard, 1 << 100).await;
            for _ in 0..3 {
                dead.go().await;
            }
            let mut plans = [Steps::new(&yard, 2 << 100).await, Steps::new(&yard, 3 << 100).await];
            let mut sealed = 0;
            for turn in 0..8 {
                sealed += u32::from(plans[(order >> turn & 1) as usize].go().await);
                if sealed > 0 {
                    shown(&yard).await.unwrap();
                }
            }
            assert!(sealed <= 1, "two plans made the same generation");
            assert!(!dead.go().await, "one that others have registered over is sealed");
            if order == 0b1111_0000 {
                assert_eq!(sealed, 1, "one after the other, and the first is not sealed");
            }
        };
        sim.run(run).unwrap();
    }
}
