//! Catalogs: several hosts at once, stores that lose answers, and a store that is replaced.

use std::collections::BTreeMap;

use futures::future::join_all;

use super::*;
use crate::base::RegisterId;

const ROOT: RegisterId = RegisterId(1234);

async fn entries(catalog: &Catalog) -> BTreeMap<Vec<u8>, u128> {
    let all = catalog.all().await.unwrap();
    let n = all.len();
    let map: BTreeMap<_, _> = all.into_iter().collect();
    assert_eq!(map.len(), n, "nothing twice");
    map
}

#[test]
fn two_hosts_fill_and_empty_one_at_once() {
    run("2+1", |yard| async move {
        let pool = yard.create().await.unwrap();
        let catalogs = [pool.catalog(ROOT), yard.open().await.unwrap().catalog(ROOT)];
        // Puts whose answers are lost: what became of them shows later.
        yard.stores.iter().for_each(|s| s.faults(|f| f.lost = 30));
        let work = (0..200u128).map(|i| {
            let (mine, other) = (&catalogs[i as usize % 2], &catalogs[1 - i as usize % 2]);
            async move {
                let key = format!("key{}", i / 2 * 2).into_bytes();
                // Both hosts want each key; one gets it.
                let has = mine.insert(&key, i).await.unwrap();
                assert_eq!(other.get(&key).await.unwrap(), Some(has));
                if i % 8 == 0 {
                    mine.remove(&key, i).await.unwrap();
                    mine.remove(&key, i + 1).await.unwrap();
                }
            }
        });
        let works: Vec<_> = work.collect();
        for some in works.into_iter().fold(Vec::<Vec<_>>::new(), |mut all, one| {
            match all.last_mut() {
                Some(last) if last.len() < 20 => last.push(one),
                _ => all.push(vec![one]),
            }
            all
        }) {
            join_all(some).await;
        }
        yard.stores.iter().for_each(|s| s.faults(|f| f.lost = 0));
        let seen = entries(&catalogs[0]).await;
        assert_eq!(seen, entries(&catalogs[1]).await);
        assert_eq!(seen, entries(&yard.open().await.unwrap().catalog(ROOT)).await);
        for i in (0..200u128).step_by(2).filter(|i| i % 8 != 0) {
            let has = seen[format!("key{i}").as_bytes()];
            assert!(has == i || has == i + 1, "{has}");
        }
        // Nodes are small, whatever is in the catalog.
        let (store, pools) = (yard.stores[0].contents(), register_key(PoolConfig::register(pool.id())));
        let nodes = store.keys().into_iter().filter(|key| key.starts_with("reg/") && *key != pools);
        let largest = nodes.map(|key| async move {
            let range = crate::store::ByteRange::Whole { max: 1 << 20 };
            store.get(&key, range, W).await.unwrap().unwrap().body.len()
        });
        let largest = join_all(largest).await.into_iter().max().unwrap();
        assert!(largest < 700, "{largest} bytes");
    });
}

fn run_with_spare<F: Future<Output = ()> + Send + 'static>(
    layout: &str,
    test: impl FnOnce(Yard, Arc<SimStore>) -> F,
) {
    let sim = Sim::new(7);
    let (mut yard, new) = (Yard::new(&sim, layout), SimStore::new(&sim, "new"));
    yard.spares.push(new.clone());
    sim.run(test(yard, new)).unwrap();
}

#[test]
fn all_of_one_comes_along_when_a_store_is_replaced() {
    run_with_spare("2+1", |yard, new| async move {
        let pool = yard.create().await.unwrap();
        let catalog = pool.catalog(ROOT);
        for i in 0..60u128 {
            catalog.insert(format!("k{i}").as_bytes(), i).await.unwrap();
            pool.insert(&format!("v{i}").parse().unwrap(), VolumeId(i)).await.unwrap();
        }
        let spec = StoreSpec { url: new.url().to_owned(), zone: None, bucket: new.clone() };
        let old = yard.stores[1].url().to_owned();
        assert_eq!(pool.plan_replacement(&old, &spec, true).await.unwrap(), Replacement::Planned);
        let followed = pool.follow().await.unwrap();
        assert!(pool.settle(followed).await.unwrap());
        yard.stores[1].contents().wipe();
        yard.reach(0, Reach::Refuses);
        assert_eq!(entries(&pool.catalog(ROOT)).await.len(), 60);
        assert_eq!(pool.list().await.unwrap().len(), 60);
    });
}
