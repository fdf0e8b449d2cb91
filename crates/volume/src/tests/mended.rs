//! What failed midway and is done again: a checkpoint that is given up, a journal that is begun anew.

use std::collections::BTreeSet;

use futures::future::{join, join_all, join3};

use super::*;
use crate::handle::Known;
use windlass_base::log_record::{Op, Record};
use windlass_pool::{PoolStore, ScrubOptions};
use windlass_store::{SimStore, Store as _};

/// Of a map's leaf.
const LEAF: u64 = MIB;
/// Leaves that a merge loads at once.
const LOADED_AT_ONCE: u64 = 32;

/// The pages that it made lie in a chunk that is still open, whose memory the next chunk may need.
#[test]
fn a_checkpoint_that_is_given_up_gives_its_memory_back() {
    run(110, "2+1", |mut site| async move {
        site.memory = 4 * MIB;
        let life = site.machine(1).found().await;
        life.volumes.create(&name("v"), 256 * MIB, small(FlushMode::Pool)).await.unwrap();
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        // Leaves in several chunks: the next merge gets them by several requests, one after another.
        for part in 0..4 {
            for leaf in part * LOADED_AT_ONCE..(part + 1) * LOADED_AT_ONCE {
                v.write(leaf * LEAF, bytes(leaf, 4096)).await.unwrap();
            }
            v.flush().await.unwrap();
            let Known::Live(session) = v.known() else { panic!("it was written to") };
            session.checkpoint(&[]).await.unwrap();
        }
        let life = life.crash().start().await;
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        for leaf in 0..4 * LOADED_AT_ONCE {
            v.write(leaf * LEAF + 4096, bytes(leaf, 4096)).await.unwrap();
        }
        v.flush().await.unwrap();
        let Known::Live(session) = v.known() else { panic!("it was written to") };
        let encode = &life.volumes.engine().memory.encode;
        while encode.used() > 0 {
            life.sleep(1).await;
        }
        let cut_off = async {
            while encode.used() == 0 {
                life.sleep(1).await;
            }
            site.reach(0..3, Reach::Refuses);
        };
        let (given_up, ()) = join(session.checkpoint(&[]), cut_off).await;
        assert!(given_up.is_err(), "it had pages to get");
        // A checkpoint that is tried again stores this before it begins.
        v.write(0, bytes(999, 4096)).await.unwrap();
        site.reach(0..3, Reach::Up);
        let flushed = life.rt.timeout(Duration::from_secs(120), v.flush()).await;
        flushed.expect("memory comes back").unwrap();
        session.checkpoint(&[]).await.unwrap();
        assert!(v.read(0, 4096).await.unwrap() == bytes(999, 4096));
        assert!(v.read(4096, 4096).await.unwrap() == bytes(0, 4096));
        assert!(life.volumes.check(&name("v")).await.unwrap().wrong.is_empty());
    });
}

/// Some writes are under way while the journal fails, and wait at the gate behind which it is begun anew.
#[test]
fn a_write_that_waits_for_a_new_journal_is_in_it() {
    run(111, "2+1", |site| async move {
        const WRITES: u64 = 200;
        let machine = site.machine(1);
        let life = machine.found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(0, 4096)).await.unwrap();
        v.flush().await.unwrap();
        let slow = Duration::from_millis(100);
        site.stores.iter().for_each(|s| s.faults(|f| f.latency = (slow, slow)));
        let Known::Live(session) = v.known() else { panic!("it was written to") };
        machine.disk.faults(|f| f.sync_fails = 1000);
        let failed = async {
            while session.journal.failed().is_none() {
                life.sleep(1).await;
            }
            machine.disk.faults(|f| f.sync_fails = 0);
        };
        let writes = (1..WRITES).map(|n| {
            let (v, life) = (&v, &life);
            async move {
                life.sleep(n * 5).await;
                v.write(n * 4096, bytes(n, 4096)).await.unwrap();
            }
        });
        let flush = async {
            life.sleep(20).await;
            v.flush().await.unwrap();
        };
        join3(failed, join_all(writes), flush).await;
        assert!(session.journal.failed().is_none(), "it was begun anew");
        let stored = session.writer.prefix().lsn;
        assert!(session.tip.lock().lsn.0 > stored.0 + 10, "the last of them are in the journal alone");
        site.reach(0..3, Reach::Silent);
        v.flush().await.unwrap();
        let machine = life.crash();
        site.reach(0..3, Reach::Up);
        let life = machine.start().await;
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        for n in 0..WRITES {
            assert!(v.read(n * 4096, 4096).await.unwrap() == bytes(n, 4096), "write {n}");
        }
    });
}

/// A killed process comes back with that journal, and without what came later.
#[test]
fn nothing_is_acknowledged_past_a_journal_that_failed_while_it_alone_has_something() {
    for seed in 112..116 {
        run(seed, "2+1", move |site| async move {
            let life = site.machine(1).found().await;
            let v = volume(&life, FlushMode::Local).await;
            v.write(0, bytes(0, 4096)).await.unwrap();
            v.flush().await.unwrap();
            life.sleep(20_000).await;
            site.reach(0..3, Reach::Silent);
            v.write(4096, bytes(1, 4096)).await.unwrap();
            v.flush().await.unwrap();
            v.write(8192, bytes(2, 4096)).await.unwrap();
            v.keep().await.unwrap();
            let Known::Live(session) = v.known() else { panic!("it was written to") };
            life.machine.disk.faults(|f| f.sync_fails = 1000);
            let flush = life.rt.timeout(Duration::from_secs(1), v.flush()).await;
            assert!(flush.is_none() && session.journal.failed().is_some(), "{flush:?}");
            life.machine.disk.faults(|f| f.sync_fails = 0);
            let write = async {
                v.write(12_288, bytes(3, 4096)).await.unwrap();
                v.keep().await.unwrap();
            };
            let acknowledged = life.rt.timeout(Duration::from_secs(20), write).await.is_some();
            // A read shows what is there meanwhile.
            assert!(v.read(8192, 4096).await.unwrap() == bytes(2, 4096));
            let back = seed % 2 == 0;
            if back {
                // The pool takes all that the journal had; then another begins, and the write goes on.
                site.reach(0..3, Reach::Up);
                let write = async {
                    v.write(16_384, bytes(4, 4096)).await.unwrap();
                    v.flush().await.unwrap();
                };
                life.rt.timeout(Duration::from_secs(20), write).await.expect("writes go on");
            }
            drop((session, v));
            let machine = life.kill();
            site.reach(0..3, Reach::Up);
            let life = machine.start().await;
            let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            for n in (0..3).chain(acknowledged.then_some(3)).chain(back.then_some(4)) {
                assert!(v.read(n * 4096, 4096).await.unwrap() == bytes(n, 4096), "block {n}");
            }
        });
    }
}

/// Where its disk takes no other either, the volume goes on without a journal once the pool has all that was in it.
#[test]
fn writes_go_on_without_a_journal_when_the_pool_has_what_it_had() {
    run(117, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(0, 4096)).await.unwrap();
        life.machine.disk.faults(|f| f.sync_fails = 1000);
        let flush = life.rt.timeout(Duration::from_secs(1), v.flush()).await;
        assert!(flush.is_none());
        let write = async {
            v.write(4096, bytes(1, 4096)).await.unwrap();
            v.keep().await.unwrap();
        };
        life.rt.timeout(Duration::from_secs(30), write).await.expect("writes go on");
        assert!(v.read(4096, 4096).await.unwrap() == bytes(1, 4096));
    });
}

/// A record for which there was room, and that the journal did not take, is one of those that nobody hears of before the pool
/// has it.
#[test]
fn a_record_that_the_journal_did_not_take_fails_it() {
    run(118, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(0, 4096)).await.unwrap();
        v.flush().await.unwrap();
        life.sleep(20_000).await;
        let Known::Live(session) = v.known() else { panic!("it was written to") };
        site.reach(0..3, Reach::Silent);
        // As if another had taken the record's number.
        let next = session.tip.lock().lsn.next();
        let mut room = session.room(session.journal.cost(0)).await.unwrap().unwrap();
        let op = Op::Zero { block: 9, blocks: 1 };
        session.journal.append(&mut room, &Record { lsn: next, op }).unwrap();
        drop(room);
        v.write(4096, bytes(1, 4096)).await.unwrap();
        let kept = life.rt.timeout(Duration::from_secs(20), v.keep()).await;
        assert!(kept.is_none() && session.journal.failed().is_some());
        let flush = life.rt.timeout(Duration::from_secs(1), v.flush()).await;
        assert!(flush.is_none());
        site.reach(0..3, Reach::Up);
        v.flush().await.unwrap();
        drop(session);
        let life = life.crash().start().await;
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        assert!(v.read(4096, 4096).await.unwrap() == bytes(1, 4096));
    });
}

/// A journal that the disk had no room for is begun anew while the state is marked that a take-over found: the mark is in it, or in
/// the pool.
#[test]
fn what_a_take_over_marks_is_in_a_journal_that_begins_anew_meanwhile() {
    for seed in 200..240 {
        run(seed, "2+1", move |site| async move {
            let life = site.machine(1).found().await;
            let v = volume(&life, FlushMode::Local).await;
            v.write(0, bytes(0, 4096)).await.unwrap();
            v.flush().await.unwrap();
            life.crash();
            let machine = site.machine(2);
            machine.disk.faults(|f| f.capacity = 40 << 10);
            let other = machine.start().await;
            let slow = Duration::from_millis(10);
            site.stores.iter().for_each(|s| s.faults(|f| f.latency = (slow, slow)));
            let room = async {
                // The journal is there, and void.
                while machine.disk.files().iter().all(|(path, _)| !path.ends_with("journal/header")) {
                    other.sleep(1).await;
                }
                other.sleep(site.world.below(200)).await;
                machine.disk.faults(|f| f.capacity = u64::MAX);
            };
            let name_v = name("v");
            let (taken, ()) = join(other.volumes.take_over(&name_v, false), room).await;
            assert!(taken.unwrap().notes.iter().any(|note| note.contains("taken-over-")));
            let w = other.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            w.write(4096, bytes(1, 4096)).await.unwrap();
            w.flush().await.unwrap();
            let life = other.crash().start().await;
            let w = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            assert!(w.read(4096, 4096).await.unwrap() == bytes(1, 4096));
            let marks = life.volumes.snapshots(&name("v")).await.unwrap();
            assert!(
                marks.iter().any(|s| s.name.as_str().starts_with("taken-over-")),
                "seed {seed}: {marks:?}"
            );
        });
    }
}

/// A store takes another's place by a host that only knows the volume's tables, and that ends right after; the new store takes nothing
/// for a moment. What was written since the last checkpoint comes along too.
#[test]
fn a_new_store_gets_what_no_table_names_yet() {
    for seed in 130..160 {
        run(seed, "4+2", |site| async move {
            let life = site.machine(1).found().await;
            let v = volume(&life, FlushMode::Pool).await;
            for i in 0..60 {
                v.write(i * 4096, bytes(i, 4096)).await.unwrap();
                v.flush().await.unwrap();
            }
            life.sleep(1_000).await;
            let (rt, world, spare) = (site.world.rt(), site.world.clone(), site.spare.clone());
            let hiccup = rt.clone().spawn(async move {
                rt.sleep(Duration::from_millis(3_000 + world.below(5_000))).await;
                spare.faults(|f| f.reach = Reach::Refuses);
                rt.sleep(Duration::from_millis(1_000)).await;
                spare.faults(|f| f.reach = Reach::Up);
            });
            life.process.kill();
            let other = site.machine(2).start().await;
            let (old, new) = (site.stores[4].url(), site.spare_spec());
            while other.volumes.replace_store(old, &new, windlass_pool::Care::All, &|_| {}).await.is_err() {
                other.sleep(100).await;
            }
            other.process.kill();
            hiccup.await.unwrap();
            // The shard's name without its number, of each.
            let shards = |keys: Vec<String>| -> BTreeSet<String> {
                let shards = keys.iter().filter_map(|key| key.split_once('/')?.1.rsplit_once('.'));
                shards.filter(|(id, _)| id.contains("/c-")).map(|(id, _)| id.to_owned()).collect()
            };
            let (all, come) =
                (shards(site.stores[3].contents().keys()), shards(site.spare.contents().keys()));
            let lacking: Vec<_> = all.difference(&come).collect();
            assert!(all.len() >= 50 && lacking.is_empty(), "{lacking:?} of {} chunks", all.len());
        });
    }
}

/// Its owner was killed while stores were away, and stays down: what no checkpoint names is missed, and mended, like the rest.
#[test]
fn what_a_killed_owner_wrote_while_stores_were_away_is_mended_by_another_host() {
    for (seed, layout, away) in [(170, "3+2", 2), (171, "3+2", 1), (172, "2+1", 1), (173, "4+2", 2)] {
        run(seed, layout, move |site| async move {
            let life = site.machine(1).found().await;
            let v = volume(&life, FlushMode::Pool).await;
            v.write(0, bytes(0, 4096)).await.unwrap();
            v.flush().await.unwrap();
            let Known::Live(session) = v.known() else { panic!("it was written to") };
            session.checkpoint(&[]).await.unwrap();
            let all = site.stores.len();
            site.reach(all - away..all, Reach::Silent);
            for i in 1..6 {
                v.write(i * 4096, bytes(i, 4096)).await.unwrap();
                v.flush().await.unwrap();
            }
            drop((session, v));
            life.process.kill();
            site.reach(all - away..all, Reach::Up);
            let other = site.machine(2).start().await;
            let pool = other.volumes.engine().pool.clone();
            let found = pool.scrub(&other.volumes, ScrubOptions::default(), &|_| {}).await.unwrap();
            assert!(found.missing.len() >= 5 * away && found.unread_volumes.is_empty(), "{found:?}");
            assert!(pool.status().damaged_shards >= 5 * away, "{:?}", pool.status());
            let done = pool.repair(&other.volumes, ScrubOptions::default(), &|_| {}).await.unwrap();
            assert!(done.rebuilt >= 5 * away as u64 && done.left.is_complete_and_clean(), "{done:?}");
            assert_eq!(pool.status().damaged_shards, 0);
            // As many others are lost as the layout bears.
            site.reach(0..pool.layout().m(), Reach::Refuses);
            other.volumes.take_over(&name("v"), false).await.unwrap();
            let w = other.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            for i in 0..6 {
                assert!(w.read(i * 4096, 4096).await.unwrap() == bytes(i, 4096), "block {i}");
            }
        });
    }
}

/// Its filling does not end, and the store answers: the user puts another there.
#[test]
fn another_store_takes_the_place_of_a_new_one_that_is_too_small() {
    for (seed, layout, away) in [(180, "2+1", false), (181, "3+2", false), (182, "3+2", true)] {
        run(seed, layout, move |site| async move {
            let life = site.machine(1).found().await;
            let v = volume(&life, FlushMode::Pool).await;
            let data = bytes(1, 4 * MIB as usize);
            v.write(0, data.clone()).await.unwrap();
            v.flush().await.unwrap();
            let (volumes, pool) = (life.volumes.clone(), life.volumes.engine().pool.clone());
            let replace = async |old: &str, new: &PoolStore| {
                volumes.replace_store(old, new, windlass_pool::Care::All, &|_| {}).await
            };
            let (old, small) = (site.stores[0].url(), site.spare_spec());
            // Where it tells so, nothing is begun.
            site.spare.faults(|f| f.free_bytes = Some(100_000));
            let refused = replace(old, &small).await.unwrap_err();
            assert!(
                refused.is(Kind::NoSpace) && refused.to_string().contains("give a larger one"),
                "{refused}"
            );
            assert!(
                !pool.is_moving() && site.spare.contents().keys().iter().all(|key| !key.contains("label"))
            );
            site.spare.faults(|f| (f.free_bytes, f.longest_put) = (None, Some(100_000)));
            let stuck = replace(old, &small).await.unwrap_err().to_string();
            assert!(pool.is_moving() && stuck.contains("--old mem:spare --new URL"), "{stuck}");
            assert!(replace(old, &small).await.is_err(), "it does not end");
            if away {
                site.reach(4..5, Reach::Refuses);
                pool.look().await;
            }
            let large = SimStore::new(&site.world, "large");
            let spec = PoolStore { url: large.url().to_owned(), zone: None, bucket: large.clone() };
            let done = replace(small.url.as_str(), &spec).await;
            site.reach(0..site.stores.len(), Reach::Up);
            let done = if done.is_err() { replace(small.url.as_str(), &spec).await } else { done };
            done.unwrap();
            assert!(!pool.is_moving() && pool.status().finishing().is_empty());
            let found = pool.repair(&volumes, ScrubOptions::default(), &|_| {}).await.unwrap();
            assert!(found.left.is_complete_and_clean(), "{found:?}");
            site.reach(1..1 + pool.layout().m(), Reach::Refuses);
            assert!(v.read(0, 4 * MIB).await.unwrap() == data);
        });
    }
}

/// While a new store can't take all, the one that was replaced may alone have what is needed: it is not left behind.
#[test]
fn what_only_a_replaced_store_has_is_not_left_behind_with_a_new_one_that_is_too_small() {
    run(185, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Pool).await;
        let data = bytes(1, 2 * MIB as usize);
        v.write(0, data.clone()).await.unwrap();
        v.flush().await.unwrap();
        let Known::Live(session) = v.known() else { panic!("it was written to") };
        session.checkpoint(&[]).await.unwrap();
        life.sleep(5_000).await;
        let (volumes, pool) = (life.volumes.clone(), life.volumes.engine().pool.clone());
        let (old, small) = (site.stores[0].url(), site.spare_spec());
        site.spare.faults(|f| f.longest_put = Some(100_000));
        let replace = async |old: &str, new: &PoolStore| {
            volumes.replace_store(old, new, windlass_pool::Care::None, &|_| {}).await
        };
        assert!(replace(old, &small).await.is_err());
        // Of another store shards are gone.
        let contents = site.stores[2].contents();
        let shards: Vec<String> = contents.keys().into_iter().filter(|key| key.contains("/c-")).collect();
        contents.delete(&shards, windlass_store::Cause::Write).await.unwrap();
        let large = SimStore::new(&site.world, "large");
        let spec = PoolStore { url: large.url().to_owned(), zone: None, bucket: large.clone() };
        let refused = replace(&small.url, &spec).await.unwrap_err().to_string();
        assert!(refused.contains("too few shards of"), "{refused}");
        assert!(v.read(0, 2 * MIB).await.unwrap() == data);
        pool.repair(&volumes, ScrubOptions::default(), &|_| {}).await.unwrap();
        replace(&small.url, &spec).await.unwrap();
        site.reach(1..2, Reach::Refuses);
        assert!(v.read(0, 2 * MIB).await.unwrap() == data);
    });
}

/// It was slow, or stopped, while another host went on: what it has put in a place is none of the pool's any more.
#[test]
fn who_is_overtaken_by_another_replacement_does_not_say_that_its_own_is_done() {
    for (seed, layout) in [(190, "2+1"), (191, "3+2")] {
        run(seed, layout, move |site| async move {
            let life = site.machine(1).found().await;
            let v = volume(&life, FlushMode::Pool).await;
            v.write(0, bytes(1, MIB as usize)).await.unwrap();
            v.flush().await.unwrap();
            let (volumes, pool) = (life.volumes.clone(), life.volumes.engine().pool.clone());
            let (old, small) = (site.stores[0].url(), site.spare_spec());
            let care = windlass_pool::Care::All;
            pool.plan_replacement(old, &small, &volumes, care, &|_| {}).await.unwrap();
            let other = site.machine(2).start().await;
            // The very store that was replaced.
            let new = PoolStore { url: old.to_owned(), zone: None, bucket: site.stores[0].clone() };
            other.volumes.replace_store(&small.url, &new, care, &|_| {}).await.unwrap().unwrap();
            let said = volumes.finish_ours(&small, care, &|_| {}).await.unwrap_err();
            assert!(said.is(Kind::Owned) && said.to_string().contains(new.url.as_str()), "{said}");
            other.volumes.finish_ours(&new, care, &|_| {}).await.unwrap();
        });
    }
}

/// What a repair is about to rebuild is needed no more: that is no damage.
#[test]
fn a_volume_that_is_removed_while_a_repair_runs_is_not_told_to_be_damaged() {
    for (seed, ms) in [(195, 1_000), (196, 2_000), (197, 2_900), (198, 3_100)] {
        run(seed, "3+2", move |site| async move {
            let life = site.machine(1).found().await;
            let v = volume(&life, FlushMode::Pool).await;
            for i in 0..30 {
                v.write(i * 4096, bytes(i, 4096)).await.unwrap();
                v.flush().await.unwrap();
            }
            v.release().await.unwrap();
            drop(v);
            let contents = site.stores[0].contents();
            let shards: Vec<String> = contents.keys().into_iter().filter(|key| key.contains("/c-")).collect();
            contents.delete(&shards, windlass_store::Cause::Write).await.unwrap();
            let other = site.machine(2).start().await;
            let pool = other.volumes.engine().pool.clone();
            let removed = async {
                life.sleep(ms).await;
                life.volumes.remove(&name("v")).await.unwrap();
            };
            let repaired = pool.repair(&other.volumes, ScrubOptions::default(), &|_| {});
            let (done, ()) = join(repaired, removed).await;
            let done = done.unwrap();
            assert!(done.left.missing.is_empty() && done.reasons.is_empty(), "{ms}: {done:?}");
            assert_eq!(pool.status().damaged_shards, 0);
        });
    }
}

/// What was stored is counted again on the stores of now, and the new one takes nothing: nobody but that waits for it.
#[test]
fn a_flush_beside_a_replacement_onto_a_full_store_comes_back() {
    for seed in [200, 201, 202] {
        run(seed, "2+1", |site| async move {
            let life = site.machine(1).found().await;
            let v = volume(&life, FlushMode::Pool).await;
            v.write(0, bytes(0, 4096)).await.unwrap();
            v.flush().await.unwrap();
            let other = site.machine(2).start().await;
            let pool = other.volumes.engine().pool.clone();
            site.spare.faults(|f| f.longest_put = Some(100_000));
            let (old, new) = (site.stores[0].url(), site.spare_spec());
            let care = windlass_pool::Care::All;
            pool.plan_replacement(old, &new, &other.volumes, care, &|_| {}).await.unwrap();
            pool.follow().await.unwrap();
            let data = bytes(1, MIB as usize);
            v.write(0, data.clone()).await.unwrap();
            let flush = life.rt.timeout(std::time::Duration::from_secs(30), v.flush()).await;
            flush.expect("the other stores take it").unwrap();
            assert!(v.read(0, MIB).await.unwrap() == data);
        });
    }
}
