//! One volume that has lost more than parity makes up for, beside others that are well.

use super::*;
use windlass_base::{ChunkId, VolumeId};
use windlass_pool::ScrubOptions;
use windlass_store::{Cause, Store as _};

async fn written(life: &Life, at: &str) -> VolumeId {
    life.volumes.create(&name(at), 64 * MIB, small(FlushMode::Pool)).await.unwrap();
    let v = life.volumes.open(&name(at), OpenMode::Normal).await.unwrap();
    for i in 0..8 {
        v.write(i * 4096, bytes(i, 4096)).await.unwrap();
    }
    v.flush().await.unwrap();
    snapshot_group(&[(v.clone(), name("s"))], true).await.unwrap();
    v.write(0, bytes(99, 4096)).await.unwrap();
    v.flush().await.unwrap();
    v.release().await.unwrap();
    v.id()
}

/// Deletes the shards of an object on so many stores.
async fn lose(site: &site::Site, id: &ChunkId, stores: usize) {
    let (volume, object) = (id.volume.to_string(), format!("/c-{}-{}.", id.epoch.0, id.seq.0));
    let mut left = stores;
    for store in &site.stores {
        let keys = store.contents().keys().into_iter();
        let shard: Vec<_> = keys.filter(|key| key.contains(&volume) && key.contains(&object)).collect();
        if left > 0 && !shard.is_empty() {
            store.contents().delete(&shard, Cause::Walk).await.unwrap();
            left -= 1;
        }
    }
    assert_eq!(left, 0, "{id} is not there");
}

async fn newest_page(life: &Life, at: &str, id: VolumeId) -> ChunkId {
    let head = life.volumes.head(&name(at), id).await.unwrap();
    let page = head.checkpoint.tables.unwrap();
    ChunkId { volume: id, epoch: page.epoch, seq: page.seq }
}

/// What names all else of one volume is gone. Whoever walks over all volumes names it, and mends the other.
#[test]
fn a_volume_that_cannot_be_walked_stops_no_repair_of_the_others() {
    run(900, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let (v, w) = (written(&life, "v").await, written(&life, "w").await);
        life.sleep(60_000).await;
        let life = life.crash().start().await;
        lose(&site, &newest_page(&life, "v", v).await, 2).await;
        lose(&site, &newest_page(&life, "w", w).await, 1).await;
        let pool = life.volumes.engine().pool.clone();
        let found = pool.scrub(&life.volumes, ScrubOptions::default(), &|_| {}).await.unwrap();
        let names_v = |unread: &[String]| unread.iter().all(|why| why.contains(&v.to_string()));
        assert!(!found.unread_volumes.is_empty() && names_v(&found.unread_volumes), "{found:?}");
        assert_eq!(found.missing.len(), 1, "{found:?}");
        let done = pool.repair(&life.volumes, ScrubOptions::default(), &|_| {}).await.unwrap();
        assert!(done.rebuilt == 1 && !done.left.is_complete_and_clean(), "{done:?}");
        assert!(!done.left.unread_volumes.is_empty() && names_v(&done.left.unread_volumes), "{done:?}");
        let refused = life.volumes.open_snapshot(&name("v"), &name("s")).await.unwrap_err();
        assert!(refused.is(Kind::Corrupt), "{refused}");
        // As many stores are lost as the layout bears: what was rebuilt is there.
        for away in 0..3 {
            site.reach(away..away + 1, Reach::Refuses);
            let w = life.volumes.open(&name("w"), OpenMode::Normal).await.unwrap();
            assert!(w.read(4096, 4096).await.unwrap() == bytes(1, 4096), "store {away} is away");
            site.reach(0..3, Reach::Up);
            life.sleep(30_000).await;
        }
    });
}

/// All stores answer, and a part of the log is gone for good: that is damage, which no store brings back. What a snapshot shows
/// can be had by a clone of it.
#[test]
fn what_is_gone_is_not_said_to_wait_for_stores() {
    run(901, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let id = written(&life, "v").await;
        life.sleep(60_000).await;
        let life = life.crash().start().await;
        let head = life.volumes.head(&name("v"), id).await.unwrap();
        let page = head.checkpoint.tables.unwrap().seq;
        let top = head.checkpoint.top;
        assert!(top > page || head.checkpoint.position < top, "{:?}", head.checkpoint);
        let lost = (head.checkpoint.position.0 + 1..=top.0).map(windlass_base::Seq).find(|seq| *seq != page);
        let lost = ChunkId { volume: id, epoch: head.active.epoch, seq: lost.unwrap() };
        lose(&site, &lost, 2).await;
        life.crash();
        let other = site.machine(2).start().await;
        let v = other.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        let told = v.write(0, bytes(1, 4096)).await.unwrap_err();
        let text = told.to_string();
        assert!(told.is(Kind::Corrupt) && !text.contains("too few stores answer"), "{text}");
        assert!(text.contains(&lost.to_string()), "{text}");
    });
}
