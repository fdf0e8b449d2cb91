//! What scrub finds and repair mends: shards, copies of registers that are damaged or gone, stores that changed places,
//! things under a shard's key.

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::chunk::ShardSet;
use windlass_base::{Kind, RegisterId};
use windlass_store::{ByteRange, Cause, Reach, Store as _, When};

fn put(value: &'static [u8]) -> impl FnMut(Option<&Bytes>) -> windlass_base::Result<Change<()>> + Send {
    move |_| Ok(Change::Put(Bytes::from_static(value), ()))
}

async fn flip(yard: &Yard, store: usize, key: &str) {
    let contents = yard.stores[store].contents();
    let found = contents.get(key, ByteRange::Whole { max: 1 << 20 }, W).await.unwrap().unwrap();
    let mut bytes = found.body.to_vec();
    bytes[40] ^= 4;
    contents.put(key, bytes.into(), When::Always, W).await.unwrap();
}

#[test]
fn damaged_and_lost_copies_of_registers_are_named_and_mended() {
    run("4+2", |yard| async move {
        let pool = yard.create().await.unwrap();
        let id = RegisterId(77);
        pool.register(id).change(put(b"one")).await.unwrap();
        yard.settle(3000).await;
        let everything = Counted { dead: 0, live: 0 };
        assert!(
            pool.scrub(&everything, ScrubOptions::default(), &|_| {}).await.unwrap().is_complete_and_clean()
        );
        let key = register_key(id);
        let [lost, bad] = [pool.membership().acceptors[0], pool.membership().acceptors[1]];
        yard.stores[lost].contents().delete(std::slice::from_ref(&key), W).await.unwrap();
        flip(&yard, bad, &key).await;
        let found = pool.scrub(&everything, ScrubOptions::default(), &|_| {}).await.unwrap();
        let named: Vec<_> =
            found.findings.iter().map(|f| (&*f.what, f.key.clone(), f.store.clone())).collect();
        let url = |i: usize| yard.stores[i].url().to_owned();
        assert_eq!(named, [("rotten", key.clone(), url(bad)), ("missing", key.clone(), url(lost))]);
        // The owner goes on meanwhile.
        let owner = pool.register(id);
        owner.change(put(b"two")).await.unwrap();
        let done = pool.repair(&everything, ScrubOptions::default(), &|_| {}).await.unwrap();
        assert!(done.left.is_complete_and_clean(), "{done:?}");
        assert!(
            pool.scrub(&everything, ScrubOptions::default(), &|_| {}).await.unwrap().is_complete_and_clean()
        );
        owner.change(put(b"three")).await.unwrap();
        // What was mended decides: the two others are away now.
        let away: Vec<_> = pool.membership().acceptors[2..4].to_vec();
        away.iter().for_each(|i| yard.reach(*i, Reach::Refuses));
        let other = yard.open().await.unwrap();
        assert_eq!(other.register(id).read().await.unwrap().unwrap(), "three");
    });
}

/// It was away for the last change, and nobody changes the register again: with another store put back the change would be forgotten.
#[test]
fn copies_of_registers_that_missed_the_last_change_are_brought_up() {
    for layout in ["2+1", "4+2"] {
        run(layout, |yard| async move {
            let pool = yard.create().await.unwrap();
            let (id, everything) = (RegisterId(77), Counted { dead: 0, live: 0 });
            pool.register(id).change(put(b"one")).await.unwrap();
            yard.settle(3000).await;
            let [set_back, away, gone] = [0, 1, 2].map(|i| pool.membership().acceptors[i]);
            let backup = bytes_at(&yard, set_back, &register_key(id)).await;
            yard.reach(away, Reach::Refuses);
            pool.look().await;
            pool.register(id).change(put(b"two")).await.unwrap();
            yard.settle(3000).await;
            yard.reach(away, Reach::Up);
            pool.look().await;
            let found = pool.scrub(&everything, ScrubOptions::default(), &|_| {}).await.unwrap();
            assert!(found.is_complete_and_clean(), "{found:?}");
            let contents = yard.stores[set_back].contents();
            contents.put(&register_key(id), backup, When::Always, W).await.unwrap();
            let done = pool.repair(&everything, ScrubOptions::default(), &|_| {}).await.unwrap();
            assert!(done.left.is_complete_and_clean(), "{done:?}");
            yard.reach(gone, Reach::Refuses);
            let other = yard.open().await.unwrap();
            assert_eq!(other.register(id).read().await.unwrap().unwrap(), "two");
        });
    }
}

async fn bytes_at(yard: &Yard, store: usize, key: &str) -> Bytes {
    let contents = yard.stores[store].contents();
    contents.get(key, ByteRange::Whole { max: 1 << 20 }, W).await.unwrap().unwrap().body
}

/// Changes a copy's bytes and puts the checksum right, as only somebody who means it does.
async fn forge(yard: &Yard, store: usize, key: &str, change: impl Fn(&mut Vec<u8>)) {
    let contents = yard.stores[store].contents();
    let found = contents.get(key, ByteRange::Whole { max: 1 << 20 }, W).await.unwrap().unwrap();
    let mut bytes = found.body.to_vec();
    bytes.truncate(bytes.len() - 8);
    change(&mut bytes);
    bytes.extend(xxhash_rust::xxh3::xxh3_64(&bytes).to_le_bytes());
    contents.put(key, bytes.into(), When::Always, W).await.unwrap();
}

/// In the copy's bytes: its generation, the ballot's number that it promised, the one that it accepted.
const GENERATION: usize = 28;
const PROMISED: usize = 36;
const ACCEPTED: usize = 60;

fn set(bytes: &mut [u8], fields: &[usize], to: u64) {
    fields.iter().for_each(|at| bytes[*at..*at + 8].copy_from_slice(&to.to_le_bytes()));
}

/// Ballots that nobody can have come to, generations that nothing describes, bytes of any kind: the other copies decide, the
/// store is named with the key, and who writes next mends it, or repair does.
#[test]
fn a_copy_that_nobody_who_follows_the_rules_put_there_is_that_stores_damage() {
    run("2+1", |yard| async move {
        let pool = yard.create().await.unwrap();
        let everything = Counted { dead: 0, live: 0 };
        let forgeries: [fn(&mut Vec<u8>); 7] = [
            |b| set(b, &[PROMISED], u64::MAX),
            |b| set(b, &[PROMISED, ACCEPTED], u64::MAX),
            |b| set(b, &[PROMISED], 1 << 61),
            |b| set(b, &[PROMISED, ACCEPTED], 1 << 61),
            |b| set(b, &[ACCEPTED], 99),
            |b| set(b, &[GENERATION], 7),
            |b| b.truncate(50),
        ];
        for (case, forgery) in forgeries.into_iter().enumerate() {
            for store in 0..3 {
                let id = RegisterId(100 + (case * 3 + store) as u128);
                let (key, url) = (register_key(id), yard.stores[store].url().to_owned());
                pool.register(id).change(put(b"one")).await.unwrap();
                yard.settle(3000).await;
                forge(&yard, store, &key, forgery).await;
                let found = pool.scrub(&everything, ScrubOptions::default(), &|_| {}).await.unwrap();
                let named: Vec<_> =
                    found.findings.iter().map(|f| (&*f.what, f.key.clone(), f.store.clone())).collect();
                assert_eq!(named, [("rotten", key.clone(), url.clone())], "{case}");
                let began = yard.rt.now();
                assert_eq!(pool.register(id).read().await.unwrap().unwrap(), "one");
                assert!(yard.rt.now().since(began) < Duration::from_secs(1), "{case}: it held up a read");
                let told = pool.status().damaged_registers;
                assert_eq!((told.len(), &told[0].store, &told[0].key), (1, &url, &key), "{told:?}");
                assert!(told[0].reason.contains(&url) && told[0].reason.contains(&key), "{told:?}");
                if store == 0 {
                    let done = pool.repair(&everything, ScrubOptions::default(), &|_| {}).await.unwrap();
                    assert!(done.left.is_complete_and_clean(), "{case}: {done:?}");
                }
                let owner = pool.register(id);
                owner.change(put(b"two")).await.unwrap();
                yard.settle(3000).await;
                let found = pool.scrub(&everything, ScrubOptions::default(), &|_| {}).await.unwrap();
                assert!(found.is_complete_and_clean(), "{case}: {found:?}");
                assert!(pool.status().damaged_registers.is_empty());
                assert_eq!(pool.register(id).read().await.unwrap().unwrap(), "two");
            }
            // Neither does one of the pool's own description keep the pool from opening.
            let key = register_key(PoolConfig::register(pool.id()));
            forge(&yard, case % 3, &key, forgery).await;
            let other = yard.open().await.unwrap();
            other.set(|s| s.assign("grace=7s")).await.unwrap();
            other.set(|s| s.assign("grace=8s")).await.unwrap();
            yard.settle(3000).await;
        }
    });
}

/// Who runs on still wants to bring its write to the store that missed it. There it would be the newest that anybody shows.
#[test]
fn what_was_written_before_all_stores_were_put_back_is_brought_to_none() {
    run("2+1", |yard| async move {
        let pool = yard.create().await.unwrap();
        let (owner, key) = (pool.register(RegisterId(77)), register_key(RegisterId(77)));
        owner.change(put(b"one")).await.unwrap();
        yard.settle(3000).await;
        let copies = async || {
            let whole = ByteRange::Whole { max: 1 << 20 };
            let gets = yard.stores.iter().map(|store| store.contents().get(&key, whole, W));
            let found = futures::future::try_join_all(gets).await.unwrap();
            found.into_iter().map(|found| found.unwrap().body).collect::<Vec<Bytes>>()
        };
        let backup = copies().await;
        yard.reach(2, Reach::Refuses);
        owner.change(put(b"two")).await.unwrap();
        yard.settle(20_000).await;
        let now = copies().await;
        assert!(now[0] != backup[0] && now[1] != backup[1] && now[2] == backup[2]);
        for (store, body) in yard.stores.iter().zip(&backup) {
            store.contents().put(&key, body.clone(), When::Always, W).await.unwrap();
        }
        yard.reach(2, Reach::Up);
        yard.settle(120_000).await;
        assert_eq!(copies().await, backup);
    });
}

#[test]
fn too_few_readable_copies_are_not_guessed_from() {
    run("2+1", |yard| async move {
        let pool = yard.create().await.unwrap();
        let id = RegisterId(78);
        pool.register(id).change(put(b"one")).await.unwrap();
        yard.settle(3000).await;
        for store in [0, 1] {
            flip(&yard, store, &register_key(id)).await;
        }
        let everything = Counted { dead: 0, live: 0 };
        let done = pool.repair(&everything, ScrubOptions::default(), &|_| {}).await.unwrap();
        assert_eq!(done.left.rotten.len(), 2);
        assert!(done.reasons[0].contains("can be read"), "{:?}", done.reasons);
    });
}

#[test]
fn stores_that_change_places_are_found_again_while_the_pool_is_open() {
    run("4+2", |yard| async move {
        let pool = yard.create().await.unwrap();
        let chunk = chunk(1, &[200_000, 65_536, 1, 90_000]);
        store(&pool, &chunk).await;
        yard.settle(1000).await;
        pool.close().await;
        drop(pool);
        // Two folders are exchanged, and the pool is opened on them.
        let swap = |yard: &Yard| yard.stores[1].contents().swap(yard.stores[4].contents());
        swap(&yard);
        let pool = yard.open().await.unwrap();
        check(&pool, &chunk).await;
        pool.look().await;
        assert!(pool.status().stores.iter().all(|s| s.state == StoreState::In), "{:?}", pool.status());
        // Put back while it lives: each member finds its store again.
        swap(&yard);
        pool.look().await;
        yard.settle(2500).await;
        assert!(pool.status().stores.iter().all(|s| s.state == StoreState::In), "{:?}", pool.status());
        check(&pool, &chunk).await;
        pool.set(|s| s.assign("grace=5ms")).await.unwrap();
    });
}

#[test]
fn one_store_is_enough_to_find_a_pool_and_an_unknown_rest_is_told_at_once() {
    run("4+2", |yard| async move {
        drop(yard.create().await.unwrap());
        let began = yard.rt.now();
        let pool = Pool::open(yard.host(), yard.specs()[2..3].to_vec()).await.unwrap();
        assert_eq!(pool.membership().members.len(), 6);
        let alone = PoolHost { opener: std::sync::Arc::new(OnlyNamed), ..yard.host() };
        let e = Pool::open(alone, yard.specs()[2..3].to_vec()).await.unwrap_err();
        assert!(e.is(Kind::Usage) && e.to_string().contains("mem:s0"), "{e}");
        assert!(yard.rt.now().since(began) < Duration::from_secs(1));
    });
}

#[test]
fn too_few_stores_are_told_soon_and_their_return_is_noticed_soon() {
    run("2+1", |yard| async move {
        let pool = yard.create().await.unwrap();
        let register = pool.register(RegisterId(5));
        register.change(put(b"one")).await.unwrap();
        [1, 2].iter().for_each(|i| yard.reach(*i, Reach::Refuses));
        pool.look().await;
        for _ in 0..5 {
            let began = yard.rt.now();
            assert!(register.read().await.unwrap_err().is(Kind::Unavailable));
            let took = yard.rt.now().since(began);
            assert!(took < Duration::from_secs(4), "{took:?}");
        }
        yard.settle(60_000).await;
        [1, 2].iter().for_each(|i| yard.reach(*i, Reach::Up));
        let back = yard.rt.now();
        while register.read().await.is_err() {}
        let took = yard.rt.now().since(back);
        assert!(took < Duration::from_secs(2), "{took:?}");
    });
}

fn counts(r: &ScrubReport) -> [usize; 6] {
    [&r.rotten, &r.missing, &r.misplaced, &r.foreign, &r.orphans]
        .map(Vec::len)
        .iter()
        .copied()
        .chain([r.unreachable.len()])
        .collect::<Vec<_>>()
        .try_into()
        .unwrap()
}

#[test]
fn scrub_finds_and_repair_mends() {
    run("4+2", |yard| async move {
        let pool = yard.create().await.unwrap();
        let known = Counted { dead: 2, live: 5 };
        let chunks: Vec<Chunk> = (1..8).map(|seq| chunk(seq, &LENS)).collect();
        for chunk in &chunks {
            let upload = pool.put_chunk(chunk.clone());
            upload.wait(6).await.unwrap();
        }
        let quiet = |_: Progress| {};
        pool.delete(&[id(1), id(2)]).await.unwrap();
        let report = pool.scrub(&known, ScrubOptions::default(), &quiet).await.unwrap();
        assert!(report.is_complete_and_clean(), "{report:?}");
        assert_eq!(report.checked_shards, 30);
        // One of each kind.
        store(&pool, &chunks[1]).await;
        let (contents, key) = yard.shard(&id(3), 2);
        contents.rot(&key, |b| b[0] ^= 1);
        let (contents, key) = yard.shard(&id(4), 1);
        let object = contents.get(&key, windlass_store::ByteRange::Last(1 << 20), W).await.unwrap().unwrap();
        contents.delete(std::slice::from_ref(&key), W).await.unwrap();
        let wrong = yard.shard(&id(4), 5).0;
        wrong.put(&key, object.body, When::Absent, W).await.unwrap();
        let (contents, lost) = yard.shard(&id(5), 0);
        contents.delete(std::slice::from_ref(&lost), W).await.unwrap();
        contents.put("notes.txt", Bytes::from_static(b"mine"), When::Absent, W).await.unwrap();
        // Of a chunk that nobody decided on, shards may be missing.
        let (contents, open) = yard.shard(&id(7), 0);
        contents.delete(&[open], W).await.unwrap();
        let report = pool.scrub(&known, ScrubOptions::default(), &quiet).await.unwrap();
        assert_eq!(counts(&report), [1, 2, 1, 1, 6, 0], "{report:?}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["misplaced"], serde_json::json!([key]));
        assert_eq!(json["foreign"], serde_json::json!(["notes.txt"]));
        let done = pool.repair(&known, ScrubOptions::default(), &quiet).await.unwrap();
        assert!(done.left.is_complete_and_clean(), "{done:?}");
        assert_eq!((done.deleted, done.set_aside, done.moved), (6, 1, 1));
        let report = pool.scrub(&known, ScrubOptions::default(), &quiet).await.unwrap();
        assert!(report.is_complete_and_clean(), "{report:?}");
        assert!(yard.stores.iter().any(|s| s.contents().keys().contains(&"aside/notes.txt".to_owned())));
        for chunk in &chunks[2..] {
            check(&pool, chunk).await;
        }
        assert!((0..6).all(|i| !yard.has(&id(2), i)));
    });
}

/// Pending and damaged shards, and the first of what is said of the pool.
fn state(pool: &Pool) -> (usize, usize, String) {
    let status = pool.status();
    (status.pending_shards, status.damaged_shards, status.survives[0].clone())
}

#[test]
fn what_a_scrub_finds_is_counted_until_it_is_mended() {
    run("4+2", |yard| async move {
        let pool = yard.create().await.unwrap();
        for seq in 1..=4 {
            store(&pool, &chunk(seq, &LENS)).await;
        }
        yard.settle(1000).await;
        let (usual, known, quiet) = (state(&pool), Counted { dead: 0, live: 4 }, |_: Progress| {});
        let (contents, key) = yard.shard(&id(2), 1);
        contents.rot(&key, |b| b[0] ^= 1);
        let (contents, key) = yard.shard(&id(2), 3);
        contents.delete(&[key], W).await.unwrap();
        assert_eq!(state(&pool), usual);
        pool.scrub(&known, ScrubOptions::default(), &quiet).await.unwrap();
        let (pending, damaged, said) = state(&pool);
        assert_eq!((pending, damaged), (0, 2));
        assert!(said.contains("no store more may be lost until `pool repair`"), "{said}");
        // Another store away makes that chunk unreadable, and no other.
        yard.reach(place(&id(2), 0, 6), Reach::Refuses);
        pool.look().await;
        yard.settle(10_000).await;
        let said = pool.status().survives.join("; ");
        assert!(said.contains("1 object can't be read as a whole until stores are back"), "{said}");
        yard.reach(place(&id(2), 0, 6), Reach::Up);
        yard.settle(60_000).await;
        // A third shard: nothing brings it back.
        let (contents, key) = yard.shard(&id(2), 4);
        contents.delete(&[key], W).await.unwrap();
        pool.scrub(&known, ScrubOptions::default(), &quiet).await.unwrap();
        let said = pool.status().survives.join("; ");
        assert!(said.contains("1 object can't be read as a whole: more shards are gone"), "{said}");
        assert_eq!(pool.status().at_risk[0].missing_shards, 3);
        // Known to the next run on this host as well.
        pool.close().await;
        let pool = yard.open().await.unwrap();
        assert_eq!((state(&pool).0, state(&pool).1), (0, 3));
        // The rot turns out to be none, so that enough is left for the rest.
        let (contents, key) = yard.shard(&id(2), 1);
        contents.rot(&key, |b| b[0] ^= 1);
        pool.repair(&known, ScrubOptions::default(), &quiet).await.unwrap();
        assert_eq!(state(&pool), usual);
    });
}

#[test]
fn what_reads_could_not_use_is_looked_at_and_counted() {
    run("4+2", |yard| async move {
        let pool = yard.create().await.unwrap();
        let chunks: Vec<Chunk> = (1..=3).map(|seq| chunk(seq, &LENS)).collect();
        for chunk in &chunks {
            store(&pool, chunk).await;
        }
        yard.settle(1000).await;
        let usual = state(&pool);
        let (contents, key) = yard.shard(&id(1), 0);
        contents.rot(&key, |b| b[70_100] ^= 1);
        let (contents, key) = yard.shard(&id(2), 1);
        let object = contents.get(&key, ByteRange::Last(1 << 20), W).await.unwrap().unwrap();
        contents.delete(std::slice::from_ref(&key), W).await.unwrap();
        // A read that others answered sooner meets nothing.
        for chunk in chunks.iter().cycle().take(9) {
            check(&pool, chunk).await;
        }
        yard.settle(8000).await;
        assert_eq!((state(&pool).0, state(&pool).1), (0, 2));
        // Mended by another host: what was gone is seen to be back.
        contents.put(&key, object.body, When::Absent, W).await.unwrap();
        yard.settle(60_000).await;
        assert_eq!((state(&pool).0, state(&pool).1), (0, 1));
        let known = Counted { dead: 0, live: 3 };
        let done = pool.repair(&known, ScrubOptions::default(), &|_| {}).await.unwrap();
        assert_eq!((done.rebuilt, state(&pool)), (1, usual.clone()));
        // A footer that is right doesn't clear rot when a background mend puts the shard again, or thinks so.
        let (contents, key) = yard.shard(&id(1), 3);
        contents.rot(&key, |b| b[0] ^= 1);
        pool.scrub(&known, ScrubOptions::default(), &|_| {}).await.unwrap();
        pool.context().missing_shards().left(id(1), 3);
        yard.settle(10_000).await;
        assert_eq!(state(&pool), usual, "it is verified, and mended");
        assert!(pool.scrub(&known, ScrubOptions::default(), &|_| {}).await.unwrap().is_complete_and_clean());
        // More than can be made up for: a scrub knows that it is needed, a read does not.
        let mut lost = Vec::new();
        for index in 0..3 {
            let (contents, key) = yard.shard(&id(1), index);
            let object = contents.get(&key, ByteRange::Last(1 << 20), W).await.unwrap().unwrap();
            contents.delete(std::slice::from_ref(&key), W).await.unwrap();
            lost.push((contents, key, object.body));
        }
        let read = pool.read(&id(1), 0, 4096, Cause::Read, &|_| true).await;
        assert!(read.is_err_and(|e| e.is(Kind::Corrupt)));
        yard.settle(10_000).await;
        assert_eq!(state(&pool), usual);
        pool.scrub(&known, ScrubOptions::default(), &|_| {}).await.unwrap();
        let said = pool.status().survives.join("; ");
        assert!(pool.status().damaged_shards == 3 && said.contains("1 object can't be read"), "{said}");
        for (contents, key, object) in lost {
            contents.put(&key, object, When::Absent, W).await.unwrap();
        }
        yard.settle(60_000).await;
        assert_eq!(state(&pool), usual);
        // What is deleted meanwhile is nothing that is missing, also where a store keeps its shard.
        let (contents, key) = yard.shard(&id(3), 2);
        contents.delete(&[key], W).await.unwrap();
        check(&pool, &chunks[2]).await;
        yard.settle(8000).await;
        assert_eq!(state(&pool).1, 1);
        for index in (0..5).filter(|i| *i != 2) {
            let (contents, key) = yard.shard(&id(3), index);
            contents.delete(&[key], W).await.unwrap();
        }
        assert!(pool.read(&id(3), 0, 4096, Cause::Read, &|_| true).await.is_err());
        yard.settle(60_000).await;
        assert_eq!(state(&pool), usual);
    });
}

#[test]
fn repairs_at_one_time_do_not_stand_in_each_others_way() {
    for seed in 0..8 {
        let sim = Sim::new(seed);
        let yard = Yard::new(&sim, "4+2");
        sim.run(repairs_at_one_time(yard)).unwrap();
    }
}

async fn repairs_at_one_time(yard: Yard) {
    let pool = yard.create().await.unwrap();
    let known = Counted { dead: 0, live: 12 };
    for seq in 1..=12 {
        store(&pool, &chunk(seq, &LENS)).await;
    }
    yard.settle(1000).await;
    for seq in 1..=12 {
        let (contents, key) = yard.shard(&id(seq), seq as usize % 6);
        contents.delete(&[key], W).await.unwrap();
    }
    let quiet = |_: Progress| {};
    let (one, other) = futures::join!(
        pool.repair(&known, ScrubOptions::default(), &quiet),
        pool.repair(&known, ScrubOptions::default(), &quiet)
    );
    for done in [one.unwrap(), other.unwrap()] {
        assert!(done.left.is_complete_and_clean(), "{done:?}");
    }
    let report = pool.scrub(&known, ScrubOptions::default(), &quiet).await.unwrap();
    assert!(report.is_complete_and_clean(), "{report:?}");
}

#[test]
fn scrub_says_what_it_could_not_see_and_what_is_lost() {
    run("4+2", |yard| async move {
        let pool = yard.create().await.unwrap();
        let known = Counted { dead: 0, live: 2 };
        yard.needed.0.lock().insert(id(2));
        store(&pool, &chunk(1, &LENS)).await;
        yard.settle(1000).await;
        let quiet = |_: Progress| {};
        let report = pool.scrub(&known, ScrubOptions::default(), &quiet).await.unwrap();
        assert_eq!(counts(&report), [0, 6, 0, 0, 0, 0], "chunk 2 was never there: {report:?}");
        let done = pool.repair(&known, ScrubOptions::default(), &quiet).await.unwrap();
        assert_eq!(done.left.missing.len(), 6);
        assert!(done.reasons[0].contains("damaged"), "{done:?}");
        assert_eq!(done.left.lost(2, &[]), [id(2)].into());
        yard.reach(0, Reach::Refuses);
        let report =
            pool.scrub(&Counted { dead: 0, live: 1 }, ScrubOptions::default(), &quiet).await.unwrap();
        assert_eq!(counts(&report), [0, 0, 0, 0, 0, 1], "{report:?}");
        assert!(!report.is_complete_and_clean() && report.unreachable[0].contains("mem:s0"));
    });
}

#[test]
fn a_scrub_that_is_cut_off_is_taken_up_where_it_was() {
    let sim = Sim::new(5);
    let yard = Yard::new(&sim, "2+1");
    let world = sim.clone();
    sim.run(async move {
        let pool = yard.create().await.unwrap();
        for seq in 1..=40 {
            store(&pool, &chunk(seq, &[50_000, 50_000])).await;
        }
        yard.settle(2000).await;
        for seq in [2, 39] {
            let (contents, key) = yard.shard(&id(seq), 0);
            contents.put(&key, Bytes::from_static(b"rot"), When::Always, Cause::Walk).await.unwrap();
        }
        let live = Counted { dead: 0, live: 40 };
        // 120 shards of 50 kB at 200 kB/s: half a minute.
        let options = ScrubOptions { rate: Some(200_000), resume: true };
        let process = world.process();
        let theirs = yard.on(&process.rt());
        let begun = yard.rt.now();
        process
            .rt()
            .spawn(async move {
                let pool = theirs.open().await.unwrap();
                pool.scrub(&live, options, &|_| {}).await.unwrap();
            })
            .detach();
        yard.settle(20_000).await;
        process.kill();
        let resumed = yard.rt.now();
        let live = Counted { dead: 0, live: 40 };
        // What a read met behind the mark is read again.
        let (contents, key) = yard.shard(&id(5), 0);
        contents.put(&key, Bytes::from_static(b"rot"), When::Always, Cause::Walk).await.unwrap();
        pool.context().missing_shards().damaged(id(5), crate::local::Damage::rotten(0));
        let found = pool.scrub(&live, options, &|_| {}).await.unwrap();
        let took = yard.rt.now().since(resumed).as_secs();
        assert!((8..20).contains(&took), "the rest of it: {took} s");
        assert_eq!(found.rotten.iter().map(|f| f.shard.unwrap().0.seq.0).collect::<Vec<_>>(), [2, 39, 5]);
        assert_eq!(pool.status().damaged_shards, 3);
        // Done: the next one reads all, at its rate.
        let anew = yard.rt.now();
        assert_eq!(pool.scrub(&live, options, &|_| {}).await.unwrap().rotten.len(), 3);
        assert!(yard.rt.now().since(anew).as_secs() >= 25, "{:?}", yard.rt.now().since(begun));
    })
    .unwrap();
}

#[test]
fn what_lies_below_a_label_of_its_own_is_left_alone() {
    run("2+1", |yard| async move {
        let pool = yard.create().await.unwrap();
        let contents = yard.stores[0].contents();
        let label = "x/in/label-00000000000000000000000000000009";
        for key in [label, "x/in/c-00/1", "x/mine", "labels/mine"] {
            contents.put(key, Bytes::from_static(b"theirs"), When::Absent, W).await.unwrap();
        }
        let known = Counted { dead: 0, live: 0 };
        let done = pool.repair(&known, ScrubOptions::default(), &|_: Progress| {}).await.unwrap();
        let left: Vec<&str> = done.left.foreign.iter().map(|f| f.key.as_str()).collect();
        assert_eq!((done.set_aside, left), (2, vec!["x/in/c-00/1", label]));
        assert!(done.reasons.iter().any(|why| why.contains("x/in has a label")), "{done:?}");
        let keys = contents.keys();
        assert!(keys.contains(&label.to_owned()) && keys.contains(&"aside/x/mine".to_owned()));
    });
}

/// The shard that a store holds of a chunk.
fn on_store(yard: &Yard, id: &ChunkId, store: usize) -> usize {
    shard_on(id, store, yard.layout.n())
}

#[test]
fn what_was_deleted_while_a_store_was_away_goes_when_it_is_back() {
    run("4+2", |yard| async move {
        let pool = yard.create().await.unwrap();
        for seq in 1..4 {
            store(&pool, &chunk(seq, &LENS)).await;
        }
        yard.settle(2_000).await;
        yard.reach(1, Reach::Silent);
        pool.delete(&[id(1), id(2)]).await.unwrap();
        let kept = |seq| yard.has(&id(seq), on_store(&yard, &id(seq), 1));
        assert!(kept(1) && kept(2));
        assert_eq!((pool.status().missed_deletes, pool.pending()), (2, 0), "nothing is short of anything");
        pool.close().await;
        // Another process remembers.
        let pool = yard.open().await.unwrap();
        yard.settle(10_000).await;
        assert_eq!((pool.status().missed_deletes, kept(1)), (2, true));
        yard.reach(1, Reach::Up);
        yard.settle(60_000).await;
        assert_eq!((pool.status().missed_deletes, kept(1), kept(2), kept(3)), (0, false, false, true));
        let known = Counted { dead: 2, live: 3 };
        let found = pool.scrub(&known, ScrubOptions::default(), &|_| {}).await.unwrap();
        assert!(found.is_complete_and_clean(), "{found:?}");
    });
}

/// All stores were put back meanwhile, perhaps: what is needed by now stays, and is not remembered any more.
#[test]
fn what_was_deleted_while_a_store_was_away_stays_where_it_is_needed_again() {
    run("4+2", |yard| async move {
        let pool = yard.create().await.unwrap();
        for seq in 1..3 {
            store(&pool, &chunk(seq, &LENS)).await;
        }
        yard.settle(2_000).await;
        yard.reach(1, Reach::Silent);
        pool.delete(&[id(1), id(2)]).await.unwrap();
        yard.needed.0.lock().insert(id(2));
        yard.reach(1, Reach::Up);
        yard.settle(60_000).await;
        let kept = |seq| yard.has(&id(seq), on_store(&yard, &id(seq), 1));
        assert_eq!((pool.status().missed_deletes, kept(1), kept(2)), (0, false, true));
    });
}

#[test]
fn a_put_that_lands_after_its_chunk_was_deleted_does_not_stay() {
    run("4+2", |yard| async move {
        let pool = yard.create().await.unwrap();
        let slow = Duration::from_secs(3);
        yard.stores[1].faults(|f| (f.latency, f.patience) = ((slow, slow), 5 * slow));
        store(&pool, &chunk(1, &LENS)).await;
        let shard = on_store(&yard, &id(1), 1);
        assert!(!yard.has(&id(1), shard), "it is under way");
        yard.stores[1].faults(|f| f.latency = Default::default());
        pool.delete(&[id(1)]).await.unwrap();
        yard.settle(60_000).await;
        assert!((0..6).all(|i| !yard.has(&id(1), i)));
        assert_eq!((pool.status().missed_deletes, pool.pending()), (0, 0));
    });
}

#[test]
fn a_shard_that_is_rebuilt_while_its_chunk_is_deleted_does_not_stay() {
    let mended = Arc::new(parking_lot::Mutex::new(Vec::new()));
    for wait in 0..160 {
        let out = mended.clone();
        run("4+2", move |yard| async move {
            let pool = yard.create().await.unwrap();
            yard.reach(1, Reach::Refuses);
            pool.look().await;
            store(&pool, &chunk(1, &LENS)).await;
            let shard = on_store(&yard, &id(1), 1);
            let slow = Duration::from_millis(200);
            yard.stores.iter().for_each(|s| s.faults(|f| f.latency = (slow, slow)));
            yard.reach(1, Reach::Up);
            yard.settle(50 * wait).await;
            out.lock().push(yard.has(&id(1), shard));
            pool.delete(&[id(1)]).await.unwrap();
            yard.settle(60_000).await;
            assert!((0..6).all(|i| !yard.has(&id(1), i)), "deleted after {wait} x 50 ms");
            assert_eq!((pool.status().missed_deletes, pool.pending()), (0, 0));
        });
    }
    let mended = mended.lock();
    assert!(mended.contains(&false) && mended.contains(&true), "deleted before and after: {mended:?}");
}

/// By a repair that finds all the rest whole: nobody needs to know any more what was missing of the dead, and what is missing of a
/// chunk on which nobody has decided stays known. One store takes no puts all the while.
#[test]
fn a_repair_forgets_what_it_has_looked_into_and_nothing_else() {
    for rebuilds in [false, true] {
        run("2+1", move |yard| async move {
            let pool = yard.create().await.unwrap();
            for seq in 1..=4 {
                store(&pool, &chunk(seq, &LENS[..2])).await;
            }
            yard.settle(3_000).await;
            let lose = async |seq: u64, at: usize| {
                let shard = (0..3).find(|shard| place(&id(seq), *shard, 3) == at).unwrap();
                let (contents, key) = yard.shard(&id(seq), shard);
                contents.delete(&[key], Cause::Delete).await.unwrap();
                ShardSet::default().with(shard)
            };
            yard.reach(1, Reach::Frozen);
            let hints = pool.context().missing_shards();
            for seq in [1, 4] {
                hints.found(id(seq), lose(seq, 1).await);
            }
            if rebuilds {
                lose(2, 0).await;
            }
            let counted = Counted { dead: 1, live: 3 };
            let done = pool.repair(&counted, ScrubOptions::default(), &|_| {}).await.unwrap();
            assert_eq!(done.rebuilt, u64::from(rebuilds), "{done:?}");
            assert!(done.left.is_complete_and_clean(), "{done:?}");
            let known = [1, 4].map(|seq| hints.not_stored(&id(seq)).count());
            assert_eq!(known, [0, 1], "{rebuilds}");
        });
    }
}
