//! All stores of a pool are put back from a backup: nothing of the history that is gone gets into the one that goes on.

use super::site::Site;
use super::*;
use windlass_store::{ByteRange, Cause, Store as _, When};

const GET: ByteRange = ByteRange::Whole { max: 256 << 20 };

type Backup = Vec<Vec<(String, Bytes)>>;

async fn backup(site: &Site) -> Backup {
    let mut all = Vec::new();
    for store in &site.stores {
        let contents = store.contents();
        let mut objects = Vec::new();
        for key in contents.keys() {
            let found = contents.get(&key, GET, Cause::Walk).await.unwrap().unwrap();
            objects.push((key, found.body));
        }
        all.push(objects);
    }
    all
}

/// `left`: what is newer stays where the backup has nothing, as rsync leaves it.
async fn put_back(site: &Site, backup: &Backup, left: bool) {
    for (store, objects) in site.stores.iter().zip(backup) {
        let contents = store.contents();
        if !left {
            contents.wipe();
        }
        for (key, body) in objects {
            contents.put(key, body.clone(), When::Always, Cause::Walk).await.unwrap();
        }
    }
}

fn blocks(stamp: u64) -> Bytes {
    bytes(stamp, 200 * 4096)
}

/// A released volume with `blocks(1)`, backed up; then `blocks(2)`, by the same host.
async fn written_on(site: &Site) -> (Life, Arc<Volume>, Backup) {
    let life = site.machine(1).found().await;
    let v = volume(&life, FlushMode::Pool).await;
    v.write(0, blocks(1)).await.unwrap();
    v.release().await.unwrap();
    life.sleep(5_000).await;
    let copy = backup(site).await;
    v.write(0, blocks(2)).await.unwrap();
    v.flush().await.unwrap();
    (life, v, copy)
}

/// The host of the history that is gone has a journal, and a lineage as long as that of the live owner.
#[test]
fn the_host_of_a_lost_history_takes_nothing_from_the_owner_there_is() {
    for seed in 0..20 {
        run(seed, "2+1", move |site| async move {
            let (life, v, copy) = written_on(&site).await;
            v.write(0, bytes(7, 4096)).await.unwrap();
            let machine = life.kill();
            put_back(&site, &copy, seed % 2 == 0).await;
            // It has written down how far the volume had come; a disk may lose that.
            let confirmed = machine.confirmed_file(v.id());
            drop(v);
            windlass_base::rt::Disk::remove(&*machine.disk, &confirmed).await.unwrap();
            let owner = site.machine(2).start().await;
            let w = owner.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            assert!(w.read(0, 200 * 4096).await.unwrap() == blocks(1));
            w.write(0, blocks(3)).await.unwrap();
            w.flush().await.unwrap();
            let life = machine.start().await;
            let refused = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap_err();
            assert!(refused.is(Kind::Owned) && refused.to_string().contains("host2"), "{refused}");
            owner.sleep(20_000).await;
            w.write(4096, bytes(8, 4096)).await.unwrap();
            w.flush().await.unwrap();
            let owner = owner.crash().start().await;
            let w = owner.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            assert!(w.read(0, 4096).await.unwrap() == blocks(3)[..4096]);
            assert!(w.read(4096, 4096).await.unwrap() == bytes(8, 4096));
        });
    }
}

/// A daemon that has read the history that is gone, and has its blocks in memory, shows the one that goes on.
#[test]
fn a_daemon_that_ran_on_shows_nothing_of_a_lost_history() {
    for seed in 0..10 {
        run(seed, "2+1", move |site| async move {
            let (life, v, copy) = written_on(&site).await;
            v.release().await.unwrap();
            let reader = site.machine(3).start().await;
            let r = reader.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            assert!(r.read(0, 200 * 4096).await.unwrap() == blocks(2));
            let _gone = life.kill();
            put_back(&site, &copy, seed % 2 == 0).await;
            let owner = site.machine(2).start().await;
            let w = owner.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            w.write(0, blocks(3)).await.unwrap();
            w.release().await.unwrap();
            let now = reader.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            assert!(now.read(0, 200 * 4096).await.unwrap() == blocks(3));
            let refused = r.write(0, bytes(9, 4096)).await.unwrap_err();
            assert!(refused.is(Kind::Fenced), "{refused}");
        });
    }
}

/// What was left in place of the history that is gone is never taken for what the new owner wrote.
#[test]
fn newer_objects_that_were_left_are_not_adopted() {
    for seed in 0..20 {
        run(seed, "2+1", move |site| async move {
            let (life, v, copy) = written_on(&site).await;
            for i in 0..8 {
                v.write(i * MIB, bytes(100 + i, MIB as usize)).await.unwrap();
                v.flush().await.unwrap();
            }
            let _gone = life.kill();
            put_back(&site, &copy, true).await;
            let owner = site.machine(2).start().await;
            let w = owner.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            for i in 0..4 {
                w.write(i * 4096, bytes(200 + i, 4096)).await.unwrap();
                let flushed = owner.rt.timeout(Duration::from_secs(60), w.flush()).await;
                flushed.expect("no name is taken already").unwrap();
            }
            let _gone = owner.crash();
            let heir = site.machine(4).start().await;
            let take = OpenMode::TakeOver { accept_loss: false };
            let w = heir.volumes.open(&name("v"), take).await.unwrap();
            for i in 0..4 {
                assert!(w.read(i * 4096, 4096).await.unwrap() == bytes(200 + i, 4096), "{i}");
            }
            assert!(w.read(4 * 4096, 196 * 4096).await.unwrap() == blocks(1)[4 * 4096..]);
            heir.sleep(60_000).await;
            let check = heir.volumes.check(&name("v")).await.unwrap();
            assert!(check.wrong.is_empty(), "{check:?}");
        });
    }
}
