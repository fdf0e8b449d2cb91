//! Catalogs: several hosts at once, stores that lose answers, and a store that is replaced.

use std::collections::BTreeMap;

use futures::future::join_all;

use super::*;
use windlass_base::RegisterId;

const ROOT: RegisterId = RegisterId(1234);

async fn entries(catalog: &Catalog) -> BTreeMap<Vec<u8>, u128> {
    catalog.all().await.unwrap().into_iter().map(|(key, entry)| (key, entry.value)).collect()
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
                let has = mine.insert(&key, CatalogEntry::of(i)).await.unwrap().value;
                // Of a key that is removed again, perhaps by now.
                let seen = other.get(&key).await.unwrap().map(|entry| entry.value);
                assert!(seen == Some(has) || seen.is_none() && (i / 2 * 2) % 8 == 0, "{i}: {seen:?} {has}");
                if i % 8 == 0 {
                    mine.remove(&key, CatalogEntry::of(i)).await.unwrap();
                    mine.remove(&key, CatalogEntry::of(i + 1)).await.unwrap();
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
            let range = windlass_store::ByteRange::Whole { max: 1 << 20 };
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
            catalog.insert(format!("k{i}").as_bytes(), CatalogEntry::of(i)).await.unwrap();
            pool.insert(&format!("v{i}").parse().unwrap(), VolumeId(i)).await.unwrap();
        }
        let spec = PoolStore { url: new.url().to_owned(), zone: None, bucket: new.clone() };
        let old = yard.stores[1].url().to_owned();
        assert_eq!(
            pool.plan_replacement(&old, &spec, &EMPTY, Care::None, &|_| {}).await.unwrap(),
            Replacement::Planned
        );
        let followed = pool.follow().await.unwrap();
        assert!(pool.settle(followed).await.unwrap());
        yard.stores[1].contents().wipe();
        yard.reach(0, Reach::Refuses);
        assert_eq!(entries(&pool.catalog(ROOT)).await.len(), 60);
        assert_eq!(pool.list().await.unwrap().len(), 60);
    });
}

/// Nodes are split by several hosts that are killed midway, while others list and look.
#[test]
fn what_is_there_all_the_while_is_listed_and_found_whoever_is_killed() {
    for seed in 0..12 {
        let sim = Sim::new(seed);
        let world: windlass_base::rt::sim::World = (*sim).clone();
        let yard = Yard::new(&sim, ["2+1", "1+0"][seed as usize % 2]);
        sim.run(async move {
            let pool = yard.create().await.unwrap();
            let mine = pool.catalog(ROOT);
            let mut told: BTreeMap<Vec<u8>, u128> = BTreeMap::new();
            for i in 0..14u128 {
                let key = format!("old{i}").into_bytes();
                mine.insert(&key, CatalogEntry::of(i)).await.unwrap();
                told.insert(key, i);
            }
            for round in 0..10u128 {
                let process = world.process();
                let theirs = yard.on(&process.rt()).open().await.unwrap().catalog(ROOT);
                let done: Arc<parking_lot::Mutex<BTreeMap<Vec<u8>, u128>>> = Arc::default();
                let steps = 1 + world.below(700);
                let kill = process.clone();
                world.after_steps(steps, move || kill.kill());
                let (work, seen) = (theirs.clone(), done.clone());
                let filling = process.rt().spawn(async move {
                    for i in 0..12u128 {
                        let key = format!("r{round}-{i}").into_bytes();
                        work.insert(&key, CatalogEntry::of(i)).await?;
                        seen.lock().insert(key.clone(), i);
                        // Created and removed at once.
                        let brief = format!("brief{round}-{i}").into_bytes();
                        work.insert(&brief, CatalogEntry::of(i)).await?;
                        work.remove(&brief, CatalogEntry::of(i)).await?;
                        assert_eq!(work.get(&brief).await?, None);
                    }
                    Ok::<_, Error>(())
                });
                for _ in 0..4 {
                    let before = done.lock().clone();
                    let all = entries(&mine).await;
                    for (key, value) in told.iter().chain(&before) {
                        let key_text = String::from_utf8_lossy(key);
                        assert_eq!(all.get(key), Some(value), "seed {seed}: {key_text}");
                        let found = mine.get(key).await.unwrap();
                        assert_eq!(found, Some(CatalogEntry::of(*value)), "seed {seed}: {key_text}");
                    }
                }
                let _ = filling.await;
                told.append(&mut done.lock());
            }
            // Nobody is left who would finish it: a change does.
            for i in 0..40u128 {
                let key = format!("new{i}").into_bytes();
                mine.insert(&key, CatalogEntry::of(i)).await.unwrap();
                told.insert(key, i);
            }
            let all = entries(&mine).await;
            assert!(told.iter().all(|(key, value)| all.get(key) == Some(value)), "seed {seed}");
        })
        .unwrap();
    }
}
