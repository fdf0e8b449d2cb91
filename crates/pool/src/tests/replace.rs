//! Stores replaced and taken in again: whoever does it, however often it is broken off, whatever else goes on.

use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::*;
use windlass_base::rt::sim::{Sim, World};
use windlass_base::{Generation, Kind, RegisterId};
use windlass_store::{self as store, SimStore, Store as _};

fn run<F: Future<Output = ()> + Send + 'static>(
    seed: u64,
    layout: &str,
    test: impl FnOnce(World, Yard) -> F,
) {
    let sim = Sim::new(seed);
    let mut yard = Yard::new(&sim, layout);
    // Two more than the layout needs, to put in others' places.
    let spare = |i: usize| SimStore::new(&sim, &format!("spare{i}"));
    yard.spares = (0..2).map(spare).collect();
    let run = test(sim.clone(), yard);
    sim.run(run).unwrap();
}

fn spare(yard: &Yard, i: usize) -> PoolStore {
    let bucket = yard.spares[i].clone();
    PoolStore { url: bucket.url().to_owned(), zone: None, bucket }
}

async fn finish(pool: &Pool, inventory: &Counted) -> windlass_base::Result<()> {
    let generation = pool.follow().await?;
    assert_eq!(pool.fill(inventory, &|_| {}).await?.left, 0);
    pool.settle(generation).await.map(|_| ())
}

async fn add(register: &Register, byte: u8) -> windlass_base::Result<()> {
    register
        .change(|current| {
            let mut all = current.map(|b| b.to_vec()).unwrap_or_default();
            if all.contains(&byte) {
                return Ok(Change::Keep(()));
            }
            all.push(byte);
            Ok(Change::Put(all.into(), ()))
        })
        .await
}

#[test]
fn a_store_is_replaced_while_others_go_on_and_the_old_one_may_go() {
    for (seed, layout, lens) in [(1, "4+2", &[9000, 65_536, 1, 70_000][..]), (2, "2+1", &[9000, 80_000][..])]
    {
        run(seed, layout, |_, yard| async move {
            let pool = yard.create().await.unwrap();
            let other = yard.open().await.unwrap();
            let (kept, theirs) = (pool.register(RegisterId(1)), other.register(RegisterId(1)));
            add(&kept, 1).await.unwrap();
            let chunks: Vec<_> = (1..=5).map(|seq| chunk(seq, lens)).collect();
            for chunk in &chunks {
                store(&pool, chunk).await;
            }
            yard.settle(3000).await;
            let live = Counted { dead: 0, live: 5 };
            let old = yard.stores[1].url().to_owned();
            // It is well: not while another is away, unless that is meant.
            yard.reach(0, store::Reach::Refuses);
            let e =
                pool.plan_replacement(&old, &spare(&yard, 0), &EMPTY, Care::All, &|_| {}).await.unwrap_err();
            let risk = if layout == "4+2" { "no store more may be lost" } else { "can't be opened" };
            assert!(e.is(Kind::Refused) && e.to_string().contains(risk), "{e}");
            assert!(!pool.is_moving() && yard.spares[0].contents().keys().is_empty());
            yard.reach(0, store::Reach::Up);
            yard.settle(3000).await;
            assert_eq!(
                pool.plan_replacement(&old, &spare(&yard, 0), &EMPTY, Care::All, &|_| {}).await.unwrap(),
                Replacement::Planned
            );
            // Under way: reads find what has not come along, and others are told to finish it first.
            for chunk in &chunks {
                check(&pool, chunk).await;
            }
            assert_eq!(
                pool.plan_replacement(yard.stores[0].url(), &spare(&yard, 1), &EMPTY, Care::All, &|_| {})
                    .await
                    .unwrap(),
                Replacement::Other
            );
            add(&kept, 2).await.unwrap();
            finish(&pool, &live).await.unwrap();
            assert_eq!(
                pool.plan_replacement(&old, &spare(&yard, 0), &EMPTY, Care::All, &|_| {}).await.unwrap(),
                Replacement::Done
            );
            yard.stores[1].contents().wipe();
            assert!(
                pool.scrub(&live, ScrubOptions::default(), &|_| {}).await.unwrap().is_complete_and_clean()
            );
            // Who knew nothing of it goes on with its own handle.
            add(&theirs, 3).await.unwrap();
            assert_eq!(other.generation(), Generation(1));
            yard.settle(20_000).await;
            assert!(!other.is_moving(), "it hears that all has come along");
            assert_eq!(kept.read().await.unwrap().unwrap().as_ref(), [1, 2, 3]);
            for chunk in &chunks {
                check(&other, chunk).await;
            }
            // One of the old stores is enough to find the pool.
            let fresh = Pool::open(yard.host(), yard.specs()[..1].to_vec()).await.unwrap();
            assert_eq!(fresh.generation(), Generation(1));
            assert_eq!(fresh.register(RegisterId(1)).read().await.unwrap().unwrap().as_ref(), [1, 2, 3]);
            assert_eq!(fresh.register(RegisterId(9)).read().await.unwrap(), None);
            add(&fresh.register(RegisterId(9)), 9).await.unwrap();
            assert_eq!(other.register(RegisterId(9)).read().await.unwrap().unwrap().as_ref(), [9]);
        });
    }
}

#[test]
fn what_is_away_is_replaced_and_a_store_that_is_well_only_by_force() {
    run(6, "4+2", |_, yard| async move {
        let pool = yard.create().await.unwrap();
        store(&pool, &chunk(1, &[9000, 65_536, 1, 70_000])).await;
        yard.settle(2000).await;
        let url = |i: usize| yard.stores[i].url().to_owned();
        yard.reach(0, store::Reach::Refuses);
        yard.reach(3, store::Reach::Refuses);
        let live = Counted { dead: 0, live: 1 };
        let plan = pool.plan_replacement(&url(0), &spare(&yard, 0), &EMPTY, Care::All, &|_| {}).await;
        assert_eq!(plan.unwrap(), Replacement::Planned);
        let generation = pool.follow().await.unwrap();
        assert_eq!(pool.fill(&live, &|_| {}).await.unwrap(), Filled { there: 1, ..Filled::default() });
        assert!(pool.settle(generation).await.unwrap());
        let well = pool.plan_replacement(&url(1), &spare(&yard, 1), &EMPTY, Care::All, &|_| {}).await;
        assert!(well.unwrap_err().is(Kind::Refused));
        let forced = pool.plan_replacement(&url(1), &spare(&yard, 1), &EMPTY, Care::None, &|_| {}).await;
        assert_eq!(forced.unwrap(), Replacement::Planned);
    });
}

#[test]
fn an_emptied_store_is_taken_in_again_and_again() {
    run(3, "4+2", |_, yard| async move {
        let pool = yard.create().await.unwrap();
        let register = pool.register(RegisterId(1));
        let live = Counted { dead: 0, live: 3 };
        for seq in 1..=3 {
            store(&pool, &chunk(seq, &[9000, 65_536, 1, 70_000])).await;
        }
        yard.settle(2000).await;
        for round in 0..3u8 {
            add(&register, round).await.unwrap();
            let lost = usize::from(round) * 2 % 6;
            yard.stores[lost].contents().wipe();
            pool.look().await;
            let free = pool.emptied().await;
            assert_eq!(free.len(), 1);
            let url = free[0].url.clone();
            assert_eq!(
                pool.plan_replacement(&url, &free[0], &EMPTY, Care::All, &|_| {}).await.unwrap(),
                Replacement::Planned
            );
            finish(&pool, &live).await.unwrap();
            pool.look().await;
            let found = pool.scrub(&live, ScrubOptions::default(), &|_| {}).await.unwrap();
            assert!(found.is_complete_and_clean(), "{found:?}");
            assert_eq!(pool.generation(), Generation(u64::from(round) + 1));
        }
        assert_eq!(register.read().await.unwrap().unwrap().as_ref(), [0, 1, 2]);
    });
}

#[test]
fn what_waits_for_an_emptied_store_goes_to_the_one_in_its_place() {
    run(4, "2+1", |_, yard| async move {
        let pool = yard.create().await.unwrap();
        yard.stores[1].contents().wipe();
        pool.look().await;
        let upload = pool.put_chunk(chunk(1, &[9000, 8000]));
        yard.settle(1000).await;
        assert_eq!(upload.stored(), 2);
        let free = pool.emptied().await;
        pool.plan_replacement(&free[0].url.clone(), &free[0], &EMPTY, Care::All, &|_| {}).await.unwrap();
        finish(&pool, &Counted { dead: 0, live: 0 }).await.unwrap();
        let stored = pool.rt().timeout(Duration::from_secs(30), upload.wait(3)).await;
        stored.expect("it is stored without anybody's help").unwrap();
    });
}

#[test]
fn whoever_is_killed_at_whatever_step_another_finishes() {
    for seed in 0..24 {
        run(seed, ["2+1", "4+2"][seed as usize % 2], move |sim, yard| async move {
            let pool = yard.create().await.unwrap();
            let live = Counted { dead: 0, live: 4 };
            let lens: &[usize] = if seed % 2 == 0 { &[9000, 8000] } else { &[9000, 6000, 1, 7000] };
            for seq in 1..=4 {
                store(&pool, &chunk(seq, lens)).await;
            }
            let register = pool.register(RegisterId(1));
            add(&register, 1).await.unwrap();
            yard.settle(2000).await;
            let old = yard.stores[1].url().to_owned();
            // Another process begins, and dies at some step.
            let process = sim.process();
            let theirs = yard.on(&process.rt());
            let (from, new) = (old.clone(), spare(&yard, 0));
            process
                .rt()
                .spawn(async move {
                    let pool = theirs.open().await.unwrap();
                    if pool.plan_replacement(&from, &new, &EMPTY, Care::All, &|_| {}).await.unwrap()
                        == Replacement::Planned
                    {
                        let _ = finish(&pool, &Counted { dead: 0, live: 4 }).await;
                    }
                })
                .detach();
            yard.settle(sim.below(2500)).await;
            process.kill();
            add(&register, 2).await.unwrap();
            // Two others at once, with different plans for the same store.
            let second = yard.open().await.unwrap();
            let plans = [(&pool, 0), (&second, 1)].map(|(pool, i)| {
                let (old, new, live) = (&old, spare(&yard, i), &live);
                async move {
                    for _ in 0..20 {
                        match pool.plan_replacement(old, &new, &EMPTY, Care::All, &|_| {}).await {
                            Ok(Replacement::Done) => return true,
                            Ok(Replacement::Planned) => {
                                if finish(pool, live).await.is_ok() {
                                    return true;
                                }
                            }
                            Ok(Replacement::Other) => drop(finish(pool, live).await),
                            // The other's store has its place.
                            Err(e) if e.is(Kind::NotFound) || e.is(Kind::Refused) => return false,
                            Err(_) => {}
                        }
                    }
                    panic!("no end");
                }
            });
            let won = futures::future::join_all(plans).await;
            assert_eq!(won.iter().filter(|w| **w).count(), 1, "one wins: {won:?}");
            add(&second.register(RegisterId(1)), 3).await.unwrap();
            yard.stores[1].contents().wipe();
            yard.settle(3000).await;
            let fresh = yard.open().await.unwrap();
            assert!(!fresh.is_moving());
            let found = fresh.scrub(&live, ScrubOptions::default(), &|_| {}).await.unwrap();
            // The register that it changed last is on a majority.
            let lacks_copies = |f: &Located| f.what == "missing" && f.key.starts_with("reg/");
            if !found.is_complete_and_clean() {
                assert!(found.findings.iter().all(lacks_copies), "{found:?}");
                let done = fresh.repair(&live, ScrubOptions::default(), &|_| {}).await.unwrap();
                assert!(done.left.is_complete_and_clean(), "{done:?}");
            }
            let value: Bytes = fresh.register(RegisterId(1)).read().await.unwrap().unwrap();
            assert_eq!(value.as_ref(), [1, 2, 3]);
            for seq in 1..=4 {
                check(&fresh, &chunk(seq, lens)).await;
            }
        });
    }
}

#[test]
fn a_place_that_is_not_free_is_refused() {
    run(5, "2+1", |_, yard| async move {
        let pool = yard.create().await.unwrap();
        let old = yard.stores[1].url().to_owned();
        yard.spares[0]
            .contents()
            .put("x", Bytes::new(), store::When::Always, store::Cause::Walk)
            .await
            .unwrap();
        for (new, word) in [(spare(&yard, 0), "not empty"), (yard.specs()[2].clone(), "already")] {
            let e = pool.plan_replacement(&old, &new, &EMPTY, Care::All, &|_| {}).await.unwrap_err();
            assert!(e.is(Kind::Refused) && e.to_string().contains(word), "{e}");
        }
        let e = pool
            .plan_replacement("mem:nobody", &spare(&yard, 1), &EMPTY, Care::All, &|_| {})
            .await
            .unwrap_err();
        assert!(e.is(Kind::NotFound) && e.to_string().contains("mem:s0"), "{e}");
        assert!(pool.emptied().await.is_empty());
        assert_eq!(pool.generation(), Generation(0));
    });
}

#[test]
fn of_two_pools_that_take_one_place_at_once_at_most_one_does() {
    for seed in 0..100 {
        let sim = Sim::new(seed);
        let place = SimStore::new(&sim, "place");
        let contents = place.contents().clone();
        let place = PoolStore { url: place.url().to_owned(), zone: None, bucket: place };
        let (yard, other) = (Yard::new(&sim, "2+1"), Yard::new(&sim, "2+1"));
        let done = sim.run(async move {
            let pools = [yard.create().await.unwrap(), other.create().await.unwrap()];
            let old = yard.stores[1].url().to_owned();
            let plans =
                pools.iter().map(|pool| pool.plan_replacement(&old, &place, &EMPTY, Care::All, &|_| {}));
            let taken = futures::future::join_all(plans).await.into_iter().filter(Result::is_ok).count();
            assert!(taken <= 1, "seed {seed}: both have the place");
            let labels = contents.keys().iter().filter(|key| key.starts_with("label-")).count();
            assert_eq!(labels, taken, "seed {seed}: who is refused leaves no label");
        });
        done.unwrap();
    }
}

#[test]
fn what_has_yet_to_come_along_is_not_damaged() {
    run(3, "2+1", |_, yard| async move {
        let pool = yard.create().await.unwrap();
        let chunks: Vec<_> = (1..=4).map(|seq| chunk(seq, &[9000, 80_000])).collect();
        for chunk in &chunks {
            store(&pool, chunk).await;
        }
        yard.settle(3000).await;
        let (live, quiet) = (Counted { dead: 0, live: 4 }, |_: Progress| {});
        // Rot on a store that dies then.
        let index = (0..3).find(|i| place(&id(1), *i, 3) == 1).unwrap();
        let (contents, key) = yard.shard(&id(1), index);
        contents.rot(&key, |b| b[0] ^= 1);
        pool.scrub(&live, ScrubOptions::default(), &quiet).await.unwrap();
        assert_eq!(pool.status().damaged_shards, 1);
        yard.reach(1, Reach::Refuses);
        yard.settle(15_000).await;
        let old = yard.stores[1].url().to_owned();
        pool.plan_replacement(&old, &spare(&yard, 0), &EMPTY, Care::All, &|_| {}).await.unwrap();
        for chunk in &chunks {
            check(&pool, chunk).await;
        }
        yard.settle(20_000).await;
        pool.scrub(&live, ScrubOptions::default(), &quiet).await.unwrap();
        assert_eq!(pool.status().damaged_shards, 1, "what has not come along yet is not gone");
        finish(&pool, &live).await.unwrap();
        assert_eq!(pool.status().damaged_shards, 0, "what has come along is right");
        assert!(pool.scrub(&live, ScrubOptions::default(), &quiet).await.unwrap().is_complete_and_clean());
    });
}

/// Another store lacks a shard, which the old one has, and that does not answer for a while.
#[test]
fn a_replacement_waits_for_the_old_store_that_alone_has_what_is_needed() {
    run(8, "2+1", |_, yard| async move {
        let pool = yard.create().await.unwrap();
        let chunks: Vec<_> = (1..=4).map(|seq| chunk(seq, &[9000, 80_000])).collect();
        for chunk in &chunks {
            store(&pool, chunk).await;
        }
        yard.settle(3000).await;
        let index = (0..3).find(|i| place(&id(1), *i, 3) == 0).unwrap();
        let (contents, key) = yard.shard(&id(1), index);
        contents.delete(&[key], W).await.unwrap();
        let (live, old) = (Counted { dead: 0, live: 4 }, yard.stores[1].url().to_owned());
        pool.plan_replacement(&old, &spare(&yard, 0), &live, Care::All, &|_| {}).await.unwrap();
        let generation = pool.follow().await.unwrap();
        yard.reach(1, Reach::Refuses);
        let filled = pool.fill(&live, &|_| {}).await.unwrap();
        assert_eq!((filled.there, filled.left, filled.of_old), (3, 1, 1), "{filled:?}");
        yard.reach(1, Reach::Up);
        yard.settle(30_000).await;
        let filled = pool.fill(&live, &|_| {}).await.unwrap();
        assert_eq!(filled, Filled { there: 4, ..Filled::default() });
        assert!(pool.settle(generation).await.unwrap());
        yard.stores[1].contents().wipe();
        chunks_read(&pool, &chunks).await;
    });
}

async fn chunks_read(pool: &Pool, chunks: &[Chunk]) {
    for chunk in chunks {
        check(pool, chunk).await;
    }
}

const THREE: [usize; 3] = [9000, 65_536, 1];

/// A pool 3+1 with four chunks.
async fn three_and_one(yard: &Yard) -> Arc<Pool> {
    let pool = yard.create().await.unwrap();
    for seq in 1..=4 {
        store(&pool, &chunk(seq, &THREE)).await;
    }
    yard.settle(2_000).await;
    pool
}

async fn all_read(pool: &Pool) {
    for seq in 1..=4 {
        check(pool, &chunk(seq, &THREE)).await;
    }
}

async fn is_clean(pool: &Pool) {
    let live = Counted { dead: 0, live: 4 };
    let found = pool.scrub(&live, ScrubOptions::default(), &|_| {}).await.unwrap();
    assert!(found.is_complete_and_clean(), "{found:?}");
}

/// Two disks are not mounted, which is one more than the layout bears: nothing is begun that could not end.
#[test]
fn an_emptied_place_is_taken_in_only_while_the_others_hold_enough() {
    run(20, "3+1", |_, yard| async move {
        let (pool, live) = (three_and_one(&yard).await, Counted { dead: 0, live: 4 });
        let disks: Vec<_> =
            [2, 3].map(|i| yard.stores[i].contents().exchange(store::Backup::default())).into();
        pool.look().await;
        let free = pool.emptied().await;
        assert_eq!(free.len(), 2);
        for place in &free {
            let e = pool.plan_replacement(&place.url, place, &live, Care::Data, &|_| {}).await.unwrap_err();
            assert!(e.is(Kind::Refused) && e.to_string().contains("not mounted"), "{e}");
        }
        assert!(!pool.is_moving());
        assert!([2, 3].iter().all(|i| yard.stores[*i].contents().keys().is_empty()));
        yard.stores[2].contents().exchange(disks[0].clone());
        yard.settle(3_000).await;
        all_read(&pool).await;
        let free = pool.emptied().await;
        assert_eq!(free.len(), 1);
        let plan = pool.plan_replacement(&free[0].url, &free[0], &live, Care::Data, &|_| {}).await;
        assert_eq!(plan.unwrap(), Replacement::Planned);
        finish(&pool, &live).await.unwrap();
        is_clean(&pool).await;
    });
}

/// Of a pool that is written meanwhile: when it is asked, another chunk has been stored since the stores were listed.
struct Growing {
    pool: Arc<Pool>,
    live: Mutex<u64>,
}

#[async_trait]
impl Inventory for Growing {
    async fn fate(&self, id: ChunkId) -> Result<Fate> {
        Ok(if id.seq.0 <= *self.live.lock() { Fate::Live } else { Fate::Unknown })
    }
    async fn live_after(&self, after: Option<ChunkId>, max: usize) -> Result<Vec<ChunkId>> {
        let next = *self.live.lock() + 1;
        store(&self.pool, &chunk(next, &[9000])).await;
        *self.live.lock() = next;
        let from = after.map_or(0, |a| a.seq.0) + 1;
        Ok((from..=next).take(max).map(id).collect())
    }
    async fn learn_log_ends(&self) -> Result<Vec<Error>> {
        Ok(Vec::new())
    }
    async fn undecided(&self) -> Result<Vec<Error>> {
        Ok(Vec::new())
    }
    fn unread(&self) -> Vec<(VolumeId, String)> {
        Vec::new()
    }
}

#[test]
fn what_is_stored_while_an_emptied_place_is_judged_does_not_lack() {
    run(23, "1+2", |_, yard| async move {
        let pool = yard.create().await.unwrap();
        store(&pool, &chunk(1, &[9000])).await;
        yard.settle(2_000).await;
        yard.stores[2].contents().wipe();
        pool.look().await;
        let free = pool.emptied().await;
        let growing = Growing { pool: pool.clone(), live: Mutex::new(1) };
        let plan = pool.plan_replacement(&free[0].url, &free[0], &growing, Care::Data, &|_| {}).await;
        assert_eq!(plan.unwrap(), Replacement::Planned);
        let live = Counted { dead: 0, live: *growing.live.lock() };
        finish(&pool, &live).await.unwrap();
        let found = pool.scrub(&live, ScrubOptions::default(), &|_| {}).await.unwrap();
        assert!(found.is_complete_and_clean(), "{found:?}");
    });
}

/// The disk is mounted again over what a repair put under it: before all has come along there, or after.
#[test]
fn a_disk_that_is_mounted_again_is_read_and_taken_in_as_it_is() {
    for midway in [true, false] {
        run(21, "3+1", move |_, yard| async move {
            let (pool, live) = (three_and_one(&yard).await, Counted { dead: 0, live: 4 });
            let disk = yard.stores[2].contents().exchange(store::Backup::default());
            pool.look().await;
            let free = pool.emptied().await;
            let plan = pool.plan_replacement(&free[0].url, &free[0], &live, Care::Data, &|_| {}).await;
            assert_eq!(plan.unwrap(), Replacement::Planned);
            if midway {
                pool.follow().await.unwrap();
            } else {
                finish(&pool, &live).await.unwrap();
            }
            yard.stores[2].contents().exchange(disk);
            pool.look().await;
            // Now any other may be lost: also by who opens the pool anew.
            yard.reach(3, Reach::Refuses);
            yard.settle(3_000).await;
            all_read(&pool).await;
            all_read(&yard.open().await.unwrap()).await;
            yard.reach(3, Reach::Up);
            yard.settle(3_000).await;
            if midway {
                assert!(pool.fill(&live, &|_| {}).await.unwrap().left > 0, "the new store is away");
                let places = pool.lost_places().await;
                assert_eq!(places.len(), 1);
                let again = pool.plan_again(places, &live, Care::Data, &|_| {}).await.unwrap();
                assert_eq!(again, Replacement::Planned);
            } else {
                let free = pool.emptied().await;
                let plan = pool.plan_replacement(&free[0].url, &free[0], &live, Care::Data, &|_| {}).await;
                assert_eq!(plan.unwrap(), Replacement::Planned);
            }
            all_read(&pool).await;
            finish(&pool, &live).await.unwrap();
            assert_eq!(pool.generation(), Generation(2));
            is_clean(&pool).await;
            all_read(&yard.open().await.unwrap()).await;
        });
    }
}

/// A store that is replaced while another is away, by force; the new one is lost, and the old one is there still.
#[test]
fn the_replaced_store_takes_its_place_again_where_the_new_one_is_lost_midway() {
    run(22, "3+1", |_, yard| async move {
        let (pool, live) = (three_and_one(&yard).await, Counted { dead: 0, live: 4 });
        let (old, new) = (yard.stores[1].url().to_owned(), spare(&yard, 0));
        let plan = pool.plan_replacement(&old, &new, &live, Care::All, &|_| {}).await;
        assert_eq!(plan.unwrap(), Replacement::Planned);
        pool.follow().await.unwrap();
        yard.spares[0].contents().wipe();
        pool.look().await;
        all_read(&pool).await;
        // Whoever asks for another in its place gets it.
        let again = pool.plan_replacement(&new.url, &yard.specs()[1], &live, Care::All, &|_| {}).await;
        assert_eq!(again.unwrap(), Replacement::Planned);
        finish(&pool, &live).await.unwrap();
        is_clean(&pool).await;
        assert!(pool.membership().members.iter().any(|m| m.url() == old));
    });
}

/// The new store decides alone from the seal on, and is lost before all has come along: nobody could tell what the old one has.
#[test]
fn what_lies_on_the_only_store_that_decides_comes_along_before_another_decides() {
    for (seed, layout, lens) in [(30, "1+0", &[9000][..]), (31, "2+0", &[9000, 80_000][..])] {
        run(seed, layout, move |_, yard| async move {
            let pool = yard.create().await.unwrap();
            add(&pool.register(RegisterId(1)), 1).await.unwrap();
            let chunks: Vec<_> = (1..=5).map(|seq| chunk(seq, lens)).collect();
            for chunk in &chunks {
                store(&pool, chunk).await;
            }
            let (old, live) = (yard.stores[0].url().to_owned(), Counted { dead: 0, live: 5 });
            let shards =
                |i: usize| yard.spares[i].contents().keys().iter().filter(|k| k.contains("/c-")).count();
            // It takes its label, and then no shards.
            yard.spares[0].faults(|f| f.longest_put = Some(5000));
            let plan = pool.plan_replacement(&old, &spare(&yard, 0), &live, Care::All, &|_| {}).await;
            plan.unwrap_err();
            assert!(!pool.is_moving());
            yard.spares[0].faults(|f| f.reach = store::Reach::Refuses);
            pool.close().await;
            let pool = yard.open().await.unwrap();
            for chunk in &chunks {
                check(&pool, chunk).await;
            }
            assert_eq!(pool.register(RegisterId(1)).read().await.unwrap().unwrap().as_ref(), [1]);
            // Broken off midway, it is gone on with.
            yard.spares[0].faults(|f| (f.reach, f.longest_put) = (store::Reach::Up, None));
            let plan = async || {
                pool.plan_replacement(&old, &spare(&yard, 0), &live, Care::All, &|_| {}).await.unwrap()
            };
            assert_eq!(plan().await, Replacement::Planned);
            assert_eq!(shards(0), 5, "before it is the pool's");
            store(&pool, &chunk(6, lens)).await;
            finish(&pool, &Counted { dead: 0, live: 6 }).await.unwrap();
            yard.stores[0].contents().wipe();
            let live = Counted { dead: 0, live: 6 };
            let found = pool.scrub(&live, ScrubOptions::default(), &|_| {}).await.unwrap();
            assert!(found.is_complete_and_clean(), "{found:?}");
        });
    }
}

/// A process that goes on counts by the zones of now.
#[test]
fn a_flush_that_is_to_survive_a_zone_goes_by_the_zones_of_now() {
    run(33, "3+2", |_, mut yard| async move {
        yard.zones = Some("abcde");
        let pool = yard.create().await.unwrap();
        let other = yard.open().await.unwrap();
        let by_zone = |settings: &mut PoolSettings| settings.assign("ack=zone");
        pool.set(by_zone).await.unwrap();
        other.refresh_settings().await.unwrap();
        assert_eq!((pool.w(), other.w()), (4, 4));
        let new = PoolStore { zone: Some("a".to_owned()), ..spare(&yard, 0) };
        let old = yard.stores[1].url().to_owned();
        pool.plan_replacement(&old, &new, &EMPTY, Care::All, &|_| {}).await.unwrap();
        finish(&pool, &EMPTY).await.unwrap();
        other.hear().await.unwrap();
        assert_eq!((pool.w(), other.w()), (5, 5), "two stores lie in zone a now");
        store(&other, &chunk(1, &[9000, 8000, 1])).await;
    });
}
