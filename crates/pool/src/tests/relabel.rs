//! Labels that were lost: written anew where a store shows that it is the one, and nowhere else.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::*;
use windlass_base::{Name, RegisterId};

const KEPT: RegisterId = RegisterId(1);

async fn stocked(yard: &Yard) {
    let pool = yard.create().await.unwrap();
    for seq in 1..=6 {
        store(&pool, &chunk(seq, &LENS)).await;
    }
    pool.register(KEPT).change(|_| Ok(Change::Put(Bytes::from_static(b"kept"), ()))).await.unwrap();
    yard.settle(3_000).await;
    pool.close().await;
}

async fn lose_labels(yard: &Yard, stores: impl IntoIterator<Item = usize>) {
    for i in stores {
        let key = label_at(&yard.stores[i]);
        yard.stores[i].contents().delete(&[key], W).await.unwrap();
    }
}

async fn relabelled(yard: &Yard) -> Result<Relabelled> {
    let name: Name = "tank".parse().unwrap();
    relabel(&yard.host(), &name, &yard.specs(), &BTreeSet::new()).await
}

async fn sound(yard: &Yard) {
    let pool = yard.open().await.unwrap();
    for seq in 1..=6 {
        check(&pool, &chunk(seq, &LENS)).await;
    }
    assert_eq!(pool.register(KEPT).read().await.unwrap().unwrap().as_ref(), b"kept");
    let found = pool.scrub(&Counted { dead: 0, live: 6 }, ScrubOptions::default(), &|_| {}).await.unwrap();
    assert!(found.is_complete_and_clean(), "{found:?}");
}

#[test]
fn all_labels_are_written_anew_from_the_registers() {
    for keyed in [false, true] {
        run("4+2", move |mut yard| async move {
            yard.key = keyed.then(|| PoolKey::new(&windlass_keys::Secret::new([3; 32])));
            stocked(&yard).await;
            let before: Vec<String> = yard.stores.iter().map(|s| label_at(s)).collect();
            lose_labels(&yard, 0..6).await;
            assert!(yard.open().await.is_err());
            let done = relabelled(&yard).await.unwrap();
            assert_eq!((done.written.len(), done.right.len(), done.left), (6, 0, Vec::new()));
            assert_eq!(yard.stores.iter().map(|s| label_at(s)).collect::<Vec<_>>(), before);
            sound(&yard).await;
            assert_eq!(relabelled(&yard).await.unwrap().right.len(), 6, "once is enough");
        });
    }
}

/// An emptied place has forgotten what it promised: it is no store of the pool's, until it is taken in.
#[test]
fn no_label_is_written_in_an_emptied_place() {
    for emptied in [1, 5] {
        run("4+2", move |yard| async move {
            stocked(&yard).await;
            lose_labels(&yard, (0..6).filter(|i| *i != emptied)).await;
            yard.stores[emptied].contents().wipe();
            let done = relabelled(&yard).await.unwrap();
            assert_eq!((done.written.len(), done.left.len()), (5, 1), "{done:?}");
            assert_eq!(done.left[0].0, yard.stores[emptied].url());
            assert!(yard.stores[emptied].contents().keys().is_empty());
            yard.open().await.unwrap();
        });
    }
}

/// What was written before the label was missed has come to the emptied place: these few parts do not make it the store.
#[test]
fn no_label_is_written_in_an_emptied_place_to_which_some_shards_have_come() {
    run("4+2", |yard| async move {
        stocked(&yard).await;
        let late = shard_key(&id(6), (0..6).find(|i| place(&id(6), *i, 6) == 5).unwrap());
        let kept = yard.stores[5].contents().backup();
        let keys = yard.stores[5].contents().keys();
        lose_labels(&yard, 0..6).await;
        let others: Vec<String> =
            keys.into_iter().filter(|key| *key != late && !key.starts_with(LABELS)).collect();
        yard.stores[5].contents().delete(&others, W).await.unwrap();
        assert_eq!(yard.stores[5].contents().keys(), [late]);
        let done = relabelled(&yard).await.unwrap();
        assert_eq!((done.written.len(), done.left.len()), (5, 1), "{done:?}");
        let (url, why) = &done.left[0];
        assert!(
            url == yard.stores[5].url() && why.contains("of 6 objects") && why.contains("only 1"),
            "{why}"
        );
        yard.stores[5].contents().exchange(kept);
        lose_labels(&yard, [5]).await;
        assert_eq!(relabelled(&yard).await.unwrap().written, [yard.stores[5].url()]);
    });
}

/// Two folders that were exchanged, or what a backup had: nothing is written there.
#[test]
fn no_label_is_written_where_another_store_or_an_older_one_lies() {
    run("4+2", |yard| async move {
        stocked(&yard).await;
        let earlier = yard.stores[2].contents().backup();
        let pool = yard.open().await.unwrap();
        pool.set(|settings| settings.assign("grace=7s")).await.unwrap();
        yard.settle(3_000).await;
        pool.close().await;
        lose_labels(&yard, 0..6).await;
        yard.stores[2].contents().exchange(earlier);
        lose_labels(&yard, [2]).await;
        let (a, b) = (yard.stores[3].contents(), yard.stores[5].contents());
        b.exchange(a.exchange(b.backup()));
        let done = relabelled(&yard).await.unwrap();
        let left: Vec<&str> = done.left.iter().map(|(url, _)| url.as_str()).collect();
        assert_eq!(left, [yard.stores[2].url(), yard.stores[3].url(), yard.stores[5].url()], "{done:?}");
        assert_eq!(done.written.len(), 3);
    });
}

/// Whatever of a destroyed pool's deletions arrives late: the next pool in the same places has labels of its own.
#[test]
fn a_late_deletion_of_a_label_does_not_meet_the_next_pool() {
    run("2+1", |yard| async move {
        let pool = yard.create().await.unwrap();
        let late: Vec<String> = yard.stores.iter().map(|s| label_at(s)).collect();
        pool.close().await;
        let name: Name = "tank".parse().unwrap();
        let found = Destruction::find(yard.host(), &name, yard.specs(), None).await.unwrap();
        found.run(false, &|_| {}).await.unwrap();
        let pool = yard.create().await.unwrap();
        let one = chunk(1, &LENS[..2]);
        store(&pool, &one).await;
        yard.settle(2_000).await;
        for (store, key) in yard.stores.iter().zip(late) {
            store.contents().delete(&[key], W).await.unwrap();
        }
        pool.look().await;
        check(&pool, &one).await;
        pool.close().await;
        check(&yard.open().await.unwrap(), &one).await;
    });
}
