//! All stores put back from a backup: nothing of what the backup needs is deleted by what was remembered since.

use super::site::Site;
use super::*;
use crate::handle::Known;
use windlass_pool::ScrubOptions;
use windlass_store::{Backup, Store as _};

const GRACE: u64 = 5_000;
const BLOCKS: u64 = 200;

fn with_grace(mut site: Site) -> Site {
    site.grace_ms = GRACE;
    site
}

async fn write_all(v: &Volume, round: u64) {
    for i in 0..BLOCKS {
        v.write(i * 4096, bytes(round * BLOCKS + i, 4096)).await.unwrap();
    }
    v.flush().await.unwrap();
}

async fn all_read(v: &Volume, round: u64) {
    for i in 0..BLOCKS {
        assert!(v.read(i * 4096, 4096).await.unwrap() == bytes(round * BLOCKS + i, 4096), "block {i}");
    }
}

fn backup(site: &Site) -> Vec<Backup> {
    site.stores.iter().map(|s| s.contents().backup()).collect()
}

fn put_back(site: &Site, backup: &[Backup]) {
    site.stores.iter().zip(backup).for_each(|(s, b)| drop(s.contents().exchange(b.clone())));
}

/// A volume with round 1 in it, released, and its stores as they were then; then round 2 is written over it and recorded.
async fn written_over(site: &Site, life: &Life) -> (Arc<Volume>, Vec<Backup>) {
    let v = volume(life, FlushMode::Pool).await;
    write_all(&v, 1).await;
    v.release().await.unwrap();
    life.sleep(5_000).await;
    let backup = backup(site);
    write_all(&v, 2).await;
    let Known::Live(session) = v.known() else { panic!("it was written to") };
    session.checkpoint(&[]).await.unwrap();
    (v, backup)
}

/// What the stores show is taken, and all of it is there: a scrub misses nothing.
async fn takes_the_backup(life: &Life) {
    life.volumes.take_over(&name("v"), true).await.unwrap();
    let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
    all_read(&v, 1).await;
    life.sleep(60_000).await;
    let found = life.volumes.engine().pool.scrub(&life.volumes, ScrubOptions::default(), &|_| {}).await;
    let found = found.unwrap();
    assert!(found.missing.is_empty() && found.rotten.is_empty(), "{found:?}");
    all_read(&v, 1).await;
    v.write(0, bytes(9, 4096)).await.unwrap();
    v.flush().await.unwrap();
}

fn missed(life: &Life) -> usize {
    life.volumes.engine().pool.status().missed_deletes
}

/// A store was away when its shards were deleted. The deletion is remembered, and is not done on what was put back.
#[test]
fn a_remembered_deletion_is_not_done_on_stores_that_were_put_back() {
    for lost in 0..3 {
        run(300 + lost as u64, "2+1", |site| async move {
            let site = with_grace(site);
            let life = site.machine(1).found().await;
            let (v, backup) = written_over(&site, &life).await;
            site.reach(lost..lost + 1, Reach::Refuses);
            life.sleep(GRACE + 10_000).await;
            assert!(missed(&life) > 0, "something was deleted while the store was away");
            life.volumes.engine().pool.missing_written().await;
            drop(v);
            let machine = life.crash();
            put_back(&site, &backup);
            site.reach(0..3, Reach::Up);
            let life = machine.start().await;
            assert!(
                life.volumes.open(&name("v"), OpenMode::Normal).await.is_err(),
                "older than was confirmed"
            );
            life.sleep(60_000).await;
            assert!(missed(&life) > 0, "nothing is deleted while the head is behind");
            takes_the_backup(&life).await;
            assert_eq!(missed(&life), 0, "the list is forgotten");
        });
    }
}

/// The list may be another host's, which knows nothing of how far the volume had come.
#[test]
fn a_host_that_has_confirmed_nothing_asks_the_head_all_the_same() {
    run(310, "2+1", |site| async move {
        let site = with_grace(site);
        let life = site.machine(1).found().await;
        let (_v, backup) = written_over(&site, &life).await;
        site.reach(1..2, Reach::Refuses);
        life.sleep(GRACE + 10_000).await;
        assert!(missed(&life) > 0);
        let id = life.volumes.id(&name("v")).await.unwrap();
        life.volumes.engine().pool.missing_written().await;
        life.volumes.engine().confirmed(id).remove().await;
        let machine = life.crash();
        put_back(&site, &backup);
        site.reach(0..3, Reach::Up);
        let life = machine.start().await;
        life.sleep(60_000).await;
        takes_the_backup(&life).await;
    });
}

/// All stores are away for a while and put back meanwhile; the daemon runs on, and has its own list of what is dead.
#[test]
fn an_outage_in_which_all_were_put_back_deletes_nothing() {
    for away_at in [0, 2_000, 4_500] {
        run(320 + away_at, "2+1", move |site| async move {
            let site = with_grace(site);
            let life = site.machine(1).found().await;
            let (v, backup) = written_over(&site, &life).await;
            life.sleep(away_at).await;
            site.reach(0..3, Reach::Refuses);
            put_back(&site, &backup);
            life.sleep(GRACE + 10_000).await;
            site.reach(0..3, Reach::Up);
            life.sleep(60_000).await;
            let why = v.write(0, bytes(7, 4096)).await.unwrap_err();
            assert!(why.is(Kind::Fenced), "{why}");
            takes_the_backup(&life).await;
        });
    }
}

/// The backup is of the same ownership, earlier in it: the head that it has names the same owner.
#[test]
fn a_backup_of_the_same_ownership_ends_the_session() {
    run(330, "2+1", |site| async move {
        let site = with_grace(site);
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Pool).await;
        write_all(&v, 1).await;
        let Known::Live(session) = v.known() else { panic!("it was written to") };
        session.checkpoint(&[]).await.unwrap();
        life.sleep(5_000).await;
        let backup = backup(&site);
        write_all(&v, 2).await;
        session.checkpoint(&[]).await.unwrap();
        site.reach(0..3, Reach::Refuses);
        put_back(&site, &backup);
        life.sleep(GRACE + 10_000).await;
        site.reach(0..3, Reach::Up);
        life.sleep(60_000).await;
        let why = v.write(0, bytes(7, 4096)).await.unwrap_err();
        assert!(why.is(Kind::Fenced) && why.to_string().contains("set back"), "{why}");
        takes_the_backup(&life).await;
    });
}

/// Most stores, but not all, are put back: what they agree on is not believed by who knows nothing, and nothing is written.
#[test]
fn where_not_all_were_put_back_opening_is_refused_with_both_states_named() {
    for (seed, layout) in [(340, "2+1"), (341, "1+2")] {
        run(seed, layout, |site| async move {
            let life = site.machine(1).found().await;
            let (v, backup) = written_over(&site, &life).await;
            v.release().await.unwrap();
            life.sleep(5_000).await;
            let machine = life.crash();
            for store in [0, 1] {
                site.stores[store].contents().exchange(backup[store].clone());
            }
            let id = v.id();
            let key = windlass_pool::register_key(windlass_base::RegisterId(id.0));
            let copies = || {
                let all = site.stores.iter().map(|s| {
                    let mut copy = Vec::new();
                    assert!(s.contents().rot(&key, |bytes| copy.clone_from(bytes)));
                    copy
                });
                all.collect::<Vec<_>>()
            };
            let before = copies();
            for other in [machine, site.machine(2)] {
                let life = other.start().await;
                let refused = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap_err();
                let text = refused.to_string();
                assert!(refused.is(Kind::Refused) && text.contains("tank/v"), "{text}");
                assert!(text.contains("ownership 1-") && text.contains("ownership 2-"), "{text}");
                life.sleep(20_000).await;
                assert!(copies() == before, "nothing was written");
                life.crash();
            }
            let life = site.machine(3).start().await;
            life.volumes.take_over(&name("v"), true).await.unwrap();
            let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            all_read(&v, 1).await;
            v.write(0, bytes(9, 4096)).await.unwrap();
            v.flush().await.unwrap();
            life.sleep(20_000).await;
            // What the third store had can't come back: any two of them show the state that was chosen.
            life.crash();
            for away in 0..3 {
                site.reach(away..away + 1, Reach::Refuses);
                let life = site.machine(4 + away as u128).start().await;
                let head = life.volumes.head(&name("v"), id).await.unwrap();
                assert!(head.active.epoch > windlass_base::Epoch(1), "{:?}", head.active);
                site.reach(0..3, Reach::Up);
                life.crash();
            }
        });
    }
}

/// One store is put back: whoever opens the volume finds that, and what the store lacks comes there by itself.
#[test]
fn one_store_that_was_put_back_is_noticed_and_filled() {
    run(350, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let (v, backup) = written_over(&site, &life).await;
        v.release().await.unwrap();
        life.sleep(5_000).await;
        let machine = life.crash();
        site.stores[1].contents().exchange(backup[1].clone());
        let life = machine.start().await;
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        all_read(&v, 2).await;
        life.sleep(8_000).await;
        let pool = life.volumes.engine().pool.clone();
        assert!(pool.status().stores[1].older && !pool.status().stores[0].older, "status tells");
        life.sleep(120_000).await;
        assert!(!pool.status().stores[1].older);
        let found = pool.scrub(&life.volumes, ScrubOptions::default(), &|_| {}).await.unwrap();
        assert!(found.missing.is_empty() && found.rotten.is_empty(), "{found:?}");
    });
}

/// One head lies between: who was put back shows no promise that it forgot, as nobody had made one. What most show is had all the same
/// by who asks for it before the volume is opened.
#[test]
fn where_one_store_is_one_head_ahead_the_user_gets_what_most_show() {
    run(345, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Pool).await;
        write_all(&v, 1).await;
        let Known::Live(session) = v.known() else { panic!("it was written to") };
        session.checkpoint(&[]).await.unwrap();
        life.sleep(5_000).await;
        let backup = backup(&site);
        write_all(&v, 2).await;
        session.checkpoint(&[]).await.unwrap();
        life.sleep(2_000).await;
        drop((v, session));
        drop(life.crash());
        for store in [0, 1] {
            site.stores[store].contents().exchange(backup[store].clone());
        }
        let other = site.machine(2).start().await;
        let told = other.volumes.take_over(&name("v"), true).await.unwrap();
        assert!(
            told.notes.iter().any(|note| note.contains("put aside was what others show")),
            "{:?}",
            told.notes
        );
        let v = other.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        all_read(&v, 1).await;
        v.write(0, bytes(9, 4096)).await.unwrap();
        v.flush().await.unwrap();
        let found = other.volumes.engine().pool.scrub(&other.volumes, ScrubOptions::default(), &|_| {}).await;
        assert!(found.unwrap().rotten.is_empty());
    });
}

/// A store was away for one head, and another one's register alone was put back: most show the older head, and nothing of the newer one
/// is gone. It stays, whatever the user consents to for another reason.
#[test]
fn where_the_newer_head_can_be_read_consent_to_loss_loses_nothing() {
    run(346, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Pool).await;
        write_all(&v, 1).await;
        let Known::Live(session) = v.known() else { panic!("it was written to") };
        session.checkpoint(&[]).await.unwrap();
        life.sleep(5_000).await;
        let key = windlass_pool::register_key(windlass_base::RegisterId(v.id().0));
        let copies = [0, 1].map(|store| {
            let mut copy = Vec::new();
            assert!(site.stores[store].contents().rot(&key, |bytes| copy.clone_from(bytes)));
            copy
        });
        write_all(&v, 2).await;
        session.checkpoint(&[]).await.unwrap();
        life.sleep(2_000).await;
        drop((v, session));
        drop(life.crash());
        for (store, copy) in copies.iter().enumerate() {
            assert!(site.stores[store].contents().rot(&key, |bytes| bytes.clone_from(copy)));
        }
        let other = site.machine(2).start().await;
        other.volumes.take_over(&name("v"), true).await.unwrap();
        let v = other.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        all_read(&v, 2).await;
    });
}

/// A volume's creation that was killed leaves its register on one store too few: opening it mends that.
#[test]
fn a_register_that_is_on_one_store_too_few_is_mended_by_the_next_opening() {
    run(360, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Pool).await;
        life.sleep(5_000).await;
        let key = windlass_pool::register_key(windlass_base::RegisterId(v.id().0));
        drop(v);
        let machine = life.crash();
        site.stores[2]
            .contents()
            .delete(std::slice::from_ref(&key), windlass_store::Cause::Walk)
            .await
            .unwrap();
        let life = machine.start().await;
        life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        life.sleep(10_000).await;
        assert!(site.stores[2].contents().keys().contains(&key));
        let pool = life.volumes.engine().pool.clone();
        let found = pool.scrub(&life.volumes, ScrubOptions::default(), &|_| {}).await.unwrap();
        assert!(found.is_complete_and_clean(), "{found:?}");
    });
}
