//! Whose answers count: emptied and foreign stores, silent and slow ones, broken promises, credentials that expire.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use windlass_base::Result;
use windlass_base::rt::Rt;
use windlass_base::rt::sim::Sim;
use windlass_store::{Effort, Reach, Store as _, When};

#[test]
fn an_emptied_or_foreign_store_is_out_by_name_and_the_pool_goes_on() {
    run("4+2", |yard| async move {
        let pool = yard.create().await.unwrap();
        let first = chunk(1, &LENS);
        store(&pool, &first).await;
        yard.settle(1000).await;
        yard.stores[2].contents().wipe();
        // A label of another place in the same pool.
        let (label, key) = (yard.stores[4].contents(), label_at(&yard.stores[4]));
        let label = label.get(&key, windlass_store::ByteRange::Last(9999), W).await.unwrap().unwrap();
        yard.stores[3].contents().put(&key, label.body, When::Always, W).await.unwrap();
        check(&pool, &first).await;
        yard.settle(200).await;
        let second = chunk(2, &LENS);
        let upload = pool.put_chunk(second.clone());
        upload.wait(4).await.unwrap();
        assert_eq!(upload.stored(), 4);
        assert!(yard.stores[2].contents().keys().is_empty(), "nothing is put on a store without a label");
        check(&pool, &second).await;
        let status = pool.status();
        assert_eq!((status.stores[2].state, status.stores[3].state), (StoreState::Out, StoreState::Out));
        assert!(status.stores[2].reason.as_ref().unwrap().contains("mem:s2"));
        assert!(status.stores[3].reason.as_ref().unwrap().contains("store 4"));
        assert_eq!(pool.pending(), 2);
        assert_eq!(pool.out_for(Duration::ZERO), 2);
        let seen = pool.probe(&first.id, &pool.incarnations(), W).await;
        assert_eq!((seen.good, seen.absent, seen.unknown), (4, 0, 2));
        let seen = pool.probe(&id(99), &pool.incarnations(), W).await;
        assert_eq!((seen.good, seen.absent, seen.unknown), (0, 4, 2));
        let seen = pool.probe(&id(99), &pool.incarnations()[..1], W).await;
        assert_eq!((seen.good, seen.absent, seen.unknown), (0, 1, 5));
        drop(pool);
        let pool = yard.open().await.unwrap();
        check(&pool, &second).await;
    });
}

/// Emptied a moment ago, with a label that was read a moment before: what it says does not count (protocol §1.7).
#[test]
fn what_an_emptied_store_says_does_not_count() {
    run("1+2", |yard| async move {
        let pool = yard.create().await.unwrap();
        pool.look().await;
        yard.stores[1].contents().wipe();
        let seen = pool.probe(&id(9), &pool.incarnations(), W).await;
        assert_eq!((seen.good, seen.absent, seen.unknown), (0, 2, 1));
        drop(pool);
        let pool = yard.open().await.unwrap();
        yard.settle(3000).await;
        pool.look().await;
        yard.stores[2].contents().wipe();
        let upload = pool.put_chunk(chunk(1, &LENS[..1]));
        let both = yard.rt.timeout(Duration::from_secs(60), upload.wait(2)).await;
        assert!(both.is_none(), "one store is left");
        assert_eq!(upload.stored(), 1);
        let (contents, _) = yard.shard(&id(1), 0);
        assert!(!contents.keys().is_empty());
    });
}

/// A store that was emptied after a label get had begun is not attested by that get.
#[test]
fn attest_answers_only_from_a_label_get_begun_after_it() {
    let sim = Sim::new(3);
    let world = (*sim).clone();
    let yard = Yard::new(&sim, "1+0");
    sim.run(async move {
        let pool = yard.create().await.unwrap();
        let member = pool.membership().members[0].clone();
        let second = Duration::from_secs(1);
        yard.stores[0].faults(|f| f.latency = (second / 2, second / 2));
        let early = member.attest();
        let late = async {
            yard.rt.sleep(second * 3 / 4).await;
            // The first get has taken effect and is not answered yet.
            yard.stores[0].contents().wipe();
            let (one, two) = futures::future::join(member.attest(), member.attest()).await;
            (one, two, yard.rt.now())
        };
        let begun = world.now();
        let (early, (one, two, end)) = futures::future::join(early, late).await;
        assert!(early.is_ok());
        assert!(one.unwrap_err().to_string().contains("mem:s0") && two.is_err());
        // And one look says that no other pool is there.
        assert!(end.since(begun) < second * 13 / 4, "one get serves both: {:?}", end.since(begun));
        assert!(matches!(member.standing(), Standing::Out(_)));
        // Nothing is sent to it any more.
        assert!(member.put("x", Bytes::new(), When::Absent, W).await.is_err());
        assert!(member.get("x", windlass_store::ByteRange::Last(1), W).await.is_err());
    })
    .unwrap();
}

#[test]
fn a_store_whose_credentials_expire_is_down_by_name_and_taken_back() {
    run("4+2", |yard| async move {
        let pool = yard.create().await.unwrap();
        store(&pool, &chunk(1, &LENS)).await;
        yard.settle(1000).await;
        yard.reach(2, Reach::Denies);
        check(&pool, &chunk(1, &LENS)).await;
        let upload = pool.put_chunk(chunk(2, &LENS));
        upload.wait(5).await.unwrap();
        let status = &pool.status().stores[2];
        let reason = status.reason.as_deref().unwrap_or_default();
        assert_eq!(status.state, StoreState::Down, "{reason}");
        assert!(reason.contains("mem:s2") && reason.contains("check the credentials"), "{reason}");
        check(&pool, &chunk(2, &LENS)).await;
        yard.reach(2, Reach::Up);
        yard.settle(20_000).await;
        assert_eq!((pool.pending(), pool.status().stores[2].state), (0, StoreState::In));
    });
}

#[test]
fn a_silent_store_is_found_out_within_seconds_and_gives_up_what_waits() {
    run("2+2", |yard| async move {
        let pool = yard.create().await.unwrap();
        let one = chunk(1, &LENS[..2]);
        store(&pool, &one).await;
        yard.settle(1000).await;
        yard.stores[0].faults(|f| (f.reach, f.patience) = (Reach::Silent, Duration::from_secs(3600)));
        let begun = yard.rt.now();
        store(&pool, &chunk(2, &LENS[..2])).await;
        assert!(yard.rt.now().since(begun) < Duration::from_secs(1));
        check(&pool, &one).await;
        yard.settle(4000).await;
        assert_eq!(pool.out_for(Duration::from_secs(1)), 1);
        assert_eq!(pool.status().stores[0].state, StoreState::Down);
        yard.reach(0, Reach::Up);
        yard.settle(30_000).await;
        assert_eq!((pool.out_for(Duration::ZERO), pool.pending()), (0, 0));
    });
}

/// Its label is answered all the while, and a put may take its time where the line is slow.
#[test]
fn a_store_whose_puts_hang_is_found_out_however_large_the_shards_are() {
    run("2+1", |yard| async move {
        let pool = yard.create().await.unwrap();
        let one = chunk(1, &[4 << 20, 4 << 20]);
        yard.stores[0].faults(|f| (f.reach, f.patience) = (Reach::Frozen, Duration::from_secs(20)));
        let upload = pool.put_chunk(one.clone());
        yard.settle(3500).await;
        assert_eq!((pool.out_for(Duration::from_secs(3)), upload.stored()), (1, 2));
        upload.wait(2).await.unwrap();
        let store = &pool.status().stores[0];
        let reason = store.reason.clone().unwrap_or_default();
        assert!(
            store.state == StoreState::Failing && reason.contains("frozen"),
            "{:?}: {reason}",
            store.state
        );
        check(&pool, &one).await;
        yard.reach(0, Reach::Up);
        yard.settle(60_000).await;
        assert_eq!((pool.out_for(Duration::ZERO), pool.pending()), (0, 0));
    });
}

/// A link that is too slow is not a store that is down.
#[test]
fn a_slow_answer_among_quick_ones_is_no_outage() {
    run("1+0", |yard| async move {
        let pool = yard.create().await.unwrap();
        let member = pool.membership().members[0].clone();
        yard.stores[0].faults(|f| f.latency = (Duration::from_millis(1400), Duration::from_millis(1400)));
        // Label gets take longer than they may; other requests are answered all the time.
        for _ in 0..20 {
            let busy = (0..4u64).map(|i| {
                let (rt, member) = (yard.rt.clone(), member.clone());
                async move {
                    rt.sleep(Duration::from_millis(i * 700)).await;
                    member.head("x", W).await
                }
            });
            assert!(futures::future::join_all(busy).await.iter().all(Result::is_ok));
            assert!(member.standing().usable());
        }
    });
}

#[test]
fn a_store_that_breaks_a_promise_is_out() {
    run("1+2", |yard| async move {
        let pool = yard.create().await.unwrap();
        assert!(pool.check_promises().await.is_empty());
        assert!(yard.stores.iter().all(|s| !s.contents().keys().iter().any(|k| k.starts_with("probe/"))));
        yard.reach(1, Reach::Refuses);
        assert_eq!(pool.check_promises().await.len(), 1);
    });
}

/// An upgrade after which a server's conditional writes race, and the next one that mends it.
#[test]
fn a_store_is_tried_anew_when_its_server_calls_itself_otherwise() {
    run("1+2", |yard| async move {
        let yard = Yard { trial: Effort::SHORT, ..yard };
        yard.stores.iter().for_each(|s| s.faults(|f| f.server = Some("server 1")));
        let pool = yard.create().await.unwrap();
        let tried = || yard.stores[1].requests();
        yard.settle(30_000).await;
        let before = tried();
        pool.look().await;
        yard.settle(30_000).await;
        assert!(tried() - before < 10, "what was tried when the pool was made is known");
        yard.stores[1].faults(|f| (f.server, f.races) = (Some("server 2"), Duration::from_millis(200)));
        pool.look().await;
        yard.settle(30_000).await;
        let status = pool.status();
        let reason = status.stores[1].reason.clone().unwrap_or_default();
        assert!(status.stores[1].state == StoreState::Out && reason.contains("race"), "{reason}");
        assert_eq!((status.stores[0].state, status.stores[2].state), (StoreState::In, StoreState::In));
        store(&pool, &chunk(1, &LENS[..1])).await;
        yard.stores[1].faults(|f| (f.server, f.races) = (Some("server 3"), Duration::ZERO));
        yard.settle(60_000).await;
        assert_eq!((pool.status().stores[1].state, pool.pending()), (StoreState::In, 0));
        assert!(yard.stores.iter().all(|s| !s.contents().keys().iter().any(|k| k.starts_with("probe/"))));
        // Another process of this host knows what was tried.
        drop(pool);
        let before = tried();
        let pool = yard.open().await.unwrap();
        yard.settle(30_000).await;
        assert!(tried() - before < 40 && pool.status().stores[1].state == StoreState::In);
    });
}

/// Real folders: moved away and back, emptied and made again.
#[tokio::test]
async fn folders_come_and_go() {
    use windlass_base::rt::{RealDisk, RealRuntime};
    let dir = tempfile::tempdir().unwrap();
    let rt = Rt::new(RealRuntime::current());
    let disk = RealDisk::start();
    let path = |i: usize| dir.path().join(format!("s{i}"));
    let specs = async || {
        let mut specs = Vec::new();
        for i in 0..6 {
            let url: windlass_store::StoreUrl = format!("file://{}", path(i).display()).parse().unwrap();
            let bucket = windlass_store::expect(&rt, &url).await.unwrap();
            specs.push(PoolStore { url: url.to_string(), zone: None, bucket });
        }
        specs
    };
    let host = || PoolHost {
        rt: rt.clone(),
        disk: disk.clone(),
        folder: dir.path().join("home"),
        opener: Arc::new(OnlyNamed),
        pool: None,
        key: None,
        trial: Effort::LEAST,
    };
    let rename = |from: std::path::PathBuf, to: std::path::PathBuf| {
        let disk = disk.clone();
        async move { windlass_base::rt::Disk::rename(&*disk, &from, &to).await.unwrap() }
    };
    let until = async |pool: &Arc<Pool>, what: fn(&Pool) -> bool| {
        for _ in 0..600 {
            if what(pool) {
                return;
            }
            rt.sleep(Duration::from_millis(20)).await;
        }
        panic!("{:?}", pool.status());
    };
    (0..6).for_each(|i| std::fs::create_dir(path(i)).unwrap());
    let layout = "4+2".parse().unwrap();
    let made = Pool::create(host(), "tank".parse().unwrap(), layout, specs().await, CreateOptions::default());
    let pool = made.await.unwrap();
    store(&pool, &chunk(1, &LENS)).await;
    for i in [1, 4] {
        rename(path(i), dir.path().join(format!("away{i}"))).await;
    }
    check(&pool, &chunk(1, &LENS)).await;
    let upload = pool.put_chunk(chunk(2, &LENS));
    upload.wait(4).await.unwrap();
    check(&pool, &chunk(2, &LENS)).await;
    assert!(!path(1).exists(), "nothing makes a store's folder");
    assert_eq!(pool.pending(), 2);
    pool.close().await;
    drop((pool, upload));
    let pool = Pool::open(host(), specs().await).await.unwrap();
    check(&pool, &chunk(2, &LENS)).await;
    for i in [1, 4] {
        rename(dir.path().join(format!("away{i}")), path(i)).await;
    }
    until(&pool, |p| p.pending() == 0 && p.out_for(Duration::ZERO) == 0).await;
    let known = Counted { dead: 0, live: 2 };
    let report = pool.scrub(&known, ScrubOptions::default(), &|_| {}).await.unwrap();
    assert!(report.is_complete_and_clean(), "{report:?}");
    // Something else under two shards' keys: nothing, and 5 GiB of it.
    for (shard, len) in [(0, 0), (1, 5 << 30)] {
        let at = path(place(&id(1), shard, 6)).join(shard_key(&id(1), shard));
        #[allow(clippy::disallowed_types)] // on a real folder
        std::fs::File::create(at).unwrap().set_len(len).unwrap();
    }
    check(&pool, &chunk(1, &LENS)).await;
    let report = pool.scrub(&known, ScrubOptions::default(), &|_| {}).await.unwrap();
    assert_eq!((report.rotten.len(), report.findings.len()), (2, 2), "{report:?}");
    let done = pool.repair(&known, ScrubOptions::default(), &|_| {}).await.unwrap();
    assert!(done.left.is_complete_and_clean() && done.rebuilt == 2, "{done:?}");
    rename(path(3), dir.path().join("gone")).await;
    std::fs::create_dir(path(3)).unwrap();
    pool.look().await;
    assert_eq!(pool.status().stores[3].state, StoreState::Out);
    check(&pool, &chunk(1, &LENS)).await;
    store(&pool, &chunk(3, &LENS)).await;
    assert_eq!(std::fs::read_dir(path(3)).unwrap().count(), 0, "nothing is put on a store without its label");
    let seen = pool.probe(&id(1), &pool.incarnations(), W).await;
    assert_eq!((seen.good, seen.absent, seen.unknown), (5, 0, 1));
}

/// One store of six that never answers, whichever it is, costs an opening a moment. A slow one is waited for.
#[test]
fn a_store_that_hangs_does_not_hold_up_who_opens_the_pool() {
    run("4+2", |yard| async move {
        let ms = Duration::from_millis;
        yard.stores.iter().for_each(|s| s.faults(|f| f.latency = (ms(5), ms(5))));
        drop(yard.create().await.unwrap());
        let rt = yard.rt.clone();
        let began = rt.now();
        drop(yard.open().await.unwrap());
        let healthy = rt.now().since(began);
        for hung in 0..6 {
            yard.reach(hung, Reach::Silent);
            yard.stores[hung].faults(|f| f.patience = Duration::from_secs(3600));
            let began = rt.now();
            let pool = yard.open().await.unwrap();
            let took = rt.now().since(began);
            assert!(took <= healthy + ms(1000), "store {hung} hangs: {took:?} where {healthy:?} is usual");
            let hanging = &pool.status().stores[hung];
            assert_eq!(hanging.state, StoreState::Down);
            assert!(hanging.reason.as_ref().unwrap().contains("does not answer"), "{hanging:?}");
            yard.reach(hung, Reach::Up);
            yard.settle(4000).await;
            assert_eq!(pool.status().stores[hung].state, StoreState::In, "as soon as it answers");
        }
        yard.stores[3].faults(|f| f.latency = (ms(100), ms(100)));
        let pool = yard.open().await.unwrap();
        assert!(pool.status().stores.iter().all(|s| s.state != StoreState::Down));
    });
}

/// Where those that answer may all have been given up by force, whoever could tell of it is waited for.
#[test]
fn few_that_answer_wait_for_who_could_tell_of_a_recovery() {
    run("1+2", |yard| async move {
        drop(yard.create().await.unwrap());
        yard.stores[2].faults(|f| f.latency = (Duration::from_millis(700), Duration::from_millis(700)));
        let began = yard.rt.now();
        let pool = yard.open().await.unwrap();
        assert!(yard.rt.now().since(began) >= Duration::from_millis(1400));
        assert!(pool.status().stores.iter().all(|s| s.state != StoreState::Down));
    });
}

/// As a program of before has left a store's label.
async fn relabel_as_before(store: &SimStore) {
    let (contents, key) = (store.contents(), label_at(store));
    let found = contents.get(&key, windlass_store::ByteRange::Last(9999), W).await.unwrap().unwrap();
    contents.put("label", found.body, When::Absent, W).await.unwrap();
    contents.delete(&[key], W).await.unwrap();
}

fn is_as_before(store: &SimStore) -> bool {
    let keys = store.contents().keys();
    keys.iter().any(|key| key == "label") && !keys.iter().any(|key| key.starts_with(LABELS))
}

/// Labels of before are brought to their pool's key by who means the pool, and by nobody else; also where a store comes late.
#[test]
fn labels_of_before_are_brought_to_their_keys_by_who_means_the_pool() {
    run("2+1", |yard| async move {
        let pool = yard.create().await.unwrap();
        let first = chunk(1, &LENS[..2]);
        store(&pool, &first).await;
        yard.settle(1000).await;
        drop(pool);
        for store in &yard.stores {
            relabel_as_before(store).await;
        }
        // A pool that is to be made there is refused, and leaves them alone.
        assert!(yard.create().await.is_err());
        assert!(yard.stores.iter().all(|store| is_as_before(store)));
        yard.reach(2, Reach::Silent);
        let pool = yard.open().await.unwrap();
        yard.settle(5000).await;
        check(&pool, &first).await;
        assert!(is_as_before(&yard.stores[2]) && !is_as_before(&yard.stores[0]));
        yard.reach(2, Reach::Up);
        yard.settle(30_000).await;
        pool.look().await;
        assert_eq!(pool.status().stores[2].state, StoreState::In);
        assert!(!is_as_before(&yard.stores[2]));
        check(&pool, &first).await;
    });
}
