//! Pools deleted, at once and by pieces.

use bytes::Bytes;

use super::*;
use windlass_base::PoolId;
use windlass_base::rt::sim::Sim;
use windlass_keys::Secret;
use windlass_store::{ByteRange, Reach, When};

async fn find(yard: &Yard, begun: Option<PoolId>) -> Result<Destruction> {
    Destruction::find(yard.host(), &"tank".parse().unwrap(), yard.specs(), begun).await
}

fn keys(yard: &Yard) -> usize {
    yard.stores.iter().map(|store| store.contents().keys().len()).sum()
}

/// A pool with three chunks and twenty names.
async fn filled(yard: &Yard) -> Arc<Pool> {
    let pool = yard.create().await.unwrap();
    for seq in 1..=3 {
        store(&pool, &chunk(seq, &LENS[..2])).await;
    }
    for n in 0..20 {
        pool.insert(&format!("v{n}").parse().unwrap(), VolumeId(n)).await.unwrap();
    }
    yard.settle(3000).await;
    pool
}

#[test]
fn a_destruction_is_finished_wherever_it_was_broken_off() {
    let mut unopened = 0;
    for ms in (0..120).step_by(3) {
        let sim = Sim::new(ms);
        let yard = Yard::new(&sim, "2+1");
        let could_open = sim.run(async move {
            let pool = filled(&yard).await;
            let id = pool.id();
            pool.close().await;
            drop(pool);
            let first = find(&yard, None).await.unwrap();
            assert!(!first.begun && first.left.is_empty());
            let done = yard.rt.timeout(Duration::from_millis(ms), first.run(false, &|_| {})).await;
            // A host that knows nothing of it opens the pool whole, or not at all.
            let seen = yard.open().await;
            if let Err(e) = &seen {
                let told = e.is(Kind::Refused) || e.to_string().contains("being destroyed");
                assert!(told || keys(&yard) == 0 || e.is(Kind::NotFound), "{ms}: {e}");
            }
            let again = find(&yard, Some(id)).await.unwrap();
            assert!(again.left.is_empty(), "{ms}: {:?}", again.left);
            again.run(false, &|_| {}).await.unwrap();
            assert_eq!(keys(&yard), 0, "{ms}");
            assert!(done.is_none_or(|done| done.is_ok()));
            seen.is_ok()
        });
        unopened += u32::from(!could_open.unwrap());
    }
    assert!((5..40).contains(&unopened), "{unopened}: cut off in all states");
}

#[test]
fn a_place_that_has_another_pools_label_too_keeps_all() {
    run("2+1", |yard| async move {
        let pool = filled(&yard).await;
        let other = label_key(PoolId(pool.id().0 ^ 1));
        let place = yard.stores[1].contents();
        place.put(&other, Bytes::new(), When::Always, W).await.unwrap();
        let before = keys(&yard);
        let found = find(&yard, None).await.unwrap();
        let told = found.run(true, &|_| {}).await.unwrap_err();
        assert!(told.is(Kind::Refused) && told.to_string().contains(&other), "{told}");
        assert_eq!(keys(&yard), before, "nothing was deleted");
        pool.insert(&"late".parse().unwrap(), VolumeId(99)).await.unwrap();
        place.delete(&[other], W).await.unwrap();
        found.run(false, &|_| {}).await.unwrap();
        assert_eq!(keys(&yard), 0);
    });
}

#[test]
fn a_store_that_is_away_is_named_and_keeps_what_it_has() {
    run("2+1", |yard| async move {
        let pool = filled(&yard).await;
        yard.reach(1, Reach::Silent);
        let found = find(&yard, None).await.unwrap();
        assert_eq!(found.left.len(), 1, "{:?}", found.left);
        assert_eq!((found.left[0].0.as_str(), found.urls().count()), ("mem:s1", 2));
        let deleted = found.run(false, &|_| {}).await.unwrap();
        assert!(deleted.objects > 6 && deleted.bytes > 100_000, "{deleted:?}");
        assert!(yard.stores[0].contents().keys().is_empty() && !yard.stores[1].contents().keys().is_empty());
        yard.reach(1, Reach::Up);
        // Who has the pool open finds no majority any more.
        assert!(pool.insert(&"late".parse().unwrap(), VolumeId(99)).await.is_err());
        let rest = find(&yard, Some(pool.id())).await.unwrap();
        assert_eq!((rest.begun, rest.urls().count(), rest.empty.len()), (true, 1, 2));
        rest.run(false, &|_| {}).await.unwrap();
        assert_eq!(keys(&yard), 0);
    });
}

#[test]
fn another_pools_store_is_left_alone() {
    run("2+1", |yard| async move {
        let pool = filled(&yard).await;
        let id = pool.id();
        drop(pool);
        // In the place of one store there is another pool now.
        yard.stores[2].contents().wipe();
        let alone =
            Yard { stores: vec![yard.stores[2].clone()], layout: "1+0".parse().unwrap(), ..yard.clone() };
        alone.create().await.unwrap();
        let there = yard.stores[2].contents().keys();
        let found = find(&yard, None).await.unwrap();
        assert_eq!(found.id, id);
        assert!(found.left[0].1.contains("the label of a pool tank"), "{:?}", found.left);
        found.run(false, &|_| {}).await.unwrap();
        assert_eq!(yard.stores[2].contents().keys(), there);
    });
}

/// Makes a store's label say that the pool is being destroyed, as whoever writes to that store can.
async fn condemn(yard: &Yard, index: usize) {
    let store = yard.stores[index].contents();
    let whole = ByteRange::Whole { max: LABEL_MAX };
    let key = label_at(&yard.stores[index]);
    let found = store.get(&key, whole, Cause::Label).await.unwrap().unwrap();
    let label = Label::read(&found.body, yard.key.as_ref()).unwrap().condemned().encode(yard.key.as_ref());
    store.put(&key, label, When::Always, Cause::Label).await.unwrap();
}

/// With a key too: who starts anew finds what was stored since the destruction was broken off.
#[test]
fn one_store_alone_keeps_no_pool_closed() {
    for key in [None, Some(PoolKey::new(&Secret::new([1; 32])))] {
        let sim = Sim::new(1);
        let yard = Yard { key, ..Yard::new(&sim, "2+1") };
        let test = async move {
            filled(&yard).await.close().await;
            condemn(&yard, 0).await;
            let pool = yard.open().await.unwrap();
            assert_eq!(pool.list().await.unwrap().len(), 20);
            pool.look().await;
            let store = &pool.status().stores[0];
            assert_eq!(store.state, StoreState::Out);
            assert!(store.reason.as_ref().unwrap().contains("is being destroyed"), "{store:?}");
            pool.close().await;
            condemn(&yard, 2).await;
            let refused = yard.open().await.unwrap_err();
            assert!(
                refused.is(Kind::Refused) && refused.to_string().contains("pool destroy tank"),
                "{refused}"
            );
        };
        sim.run(test).unwrap();
    }
}

/// It takes no label that says more than the one that it has.
#[test]
fn a_full_store_is_emptied_without_a_new_label_where_the_others_have_one() {
    for (full, is_over) in [(vec![1], true), (vec![0, 1, 2], false), (vec![0, 2], false)] {
        run("2+1", move |yard| async move {
            filled(&yard).await.close().await;
            full.iter().for_each(|i| yard.stores[*i].faults(|f| f.longest_put = Some(0)));
            let found = find(&yard, None).await.unwrap();
            let done = found.run(false, &|_| {}).await;
            if !is_over {
                let refused = done.unwrap_err();
                assert!(refused.is(Kind::NoSpace) && refused.to_string().contains("--force"), "{refused}");
                let again = find(&yard, None).await.unwrap();
                assert!(!again.is_over());
                again.run(true, &|_| {}).await.unwrap();
            }
            assert_eq!(keys(&yard), 0);
        });
    }
}

/// While the others can decide and store, other hosts go on with the pool.
#[test]
fn a_destruction_is_over_once_the_stores_that_are_left_can_do_nothing() {
    for (layout, left) in [("2+1", 2), ("3+2", 3), ("1+2", 2), ("4+2", 4)] {
        run(layout, move |yard| async move {
            yard.create().await.unwrap().close().await;
            let n = yard.stores.len();
            for condemned in 1..n {
                condemn(&yard, condemned).await;
                let found = find(&yard, None).await.unwrap();
                assert_eq!((found.begun, found.is_over()), (true, n - condemned < left), "{layout}");
            }
        });
    }
}

/// Of the places that are empty beside a label that says nothing the disks may not be mounted here, and other hosts may have them.
#[test]
fn empty_places_count_as_finished_only_when_all_labels_say_so() {
    run("3+2", |yard| async move {
        let pool = yard.create().await.unwrap();
        pool.close().await;
        condemn(&yard, 0).await;
        yard.stores[1..3].iter().for_each(|store| store.contents().wipe());
        let found = find(&yard, Some(pool.id())).await.unwrap();
        assert_eq!((found.begun, found.empty.len(), found.is_over()), (true, 2, false));
        condemn(&yard, 3).await;
        condemn(&yard, 4).await;
        assert!(find(&yard, Some(pool.id())).await.unwrap().is_over());
    });
}
