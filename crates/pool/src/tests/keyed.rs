//! A pool with a key: what its stores' writers forge, move or put back, and hosts without the key.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::*;
use windlass_base::RegisterId;
use windlass_keys::Secret;
use windlass_store::{ByteRange, When};

const NOTHING: Counted = Counted { dead: 0, live: 0 };

fn key(byte: u8) -> Option<PoolKey> {
    Some(PoolKey::new(&Secret::new([byte; 32])))
}

/// On a pool with a key, and as many spare stores.
fn run<F: Future<Output = ()> + Send + 'static>(layout: &str, test: impl FnOnce(Yard) -> F) {
    let sim = Sim::new(5);
    let plain = Yard::new(&sim, layout);
    let spares = (0..plain.stores.len()).map(|i| SimStore::new(&sim, &format!("spare{i}"))).collect();
    sim.run(test(Yard { key: key(1), spares, ..plain })).unwrap();
}

fn put(value: &'static [u8]) -> impl FnMut(Option<&Bytes>) -> Result<Change<()>> + Send {
    move |_| Ok(Change::Put(Bytes::from_static(value), ()))
}

async fn object(yard: &Yard, store: usize, key: &str) -> Bytes {
    let range = ByteRange::Whole { max: 1 << 20 };
    let found = yard.stores[store].contents().get(key, range, Cause::Register).await.unwrap();
    found.unwrap_or_else(|| panic!("store {store} has no {key}")).body
}

async fn replace(yard: &Yard, store: usize, key: &str, body: Bytes) {
    yard.stores[store].contents().put(key, body, When::Always, Cause::Register).await.unwrap();
}

/// With a right checksum, as whoever knows the format makes it.
fn sealed(mut body: Vec<u8>) -> Bytes {
    let sum = xxh3_64(&body);
    body.extend_from_slice(&sum.to_le_bytes());
    body.into()
}

/// The object as a pool without a key has it.
fn unsigned(object: &[u8]) -> Bytes {
    let mut body = object[..object.len() - 40].to_vec();
    body[8] = 2;
    sealed(body)
}

/// Another value, with the signature that was there.
fn changed(object: &[u8]) -> Bytes {
    let mut body = object[..object.len() - 8].to_vec();
    let at = body.windows(3).rposition(|w| w == b"one").unwrap();
    body[at..at + 3].copy_from_slice(b"two");
    sealed(body)
}

/// Each forgery is its store's damage, named with its key; the others decide, and repair mends it.
#[test]
fn what_is_not_signed_for_its_place_is_that_stores_damage() {
    run("1+2", |yard| async move {
        let other = Yard { stores: yard.spares.clone(), ..yard.clone() };
        let (pool, far) = (yard.create().await.unwrap(), other.create().await.unwrap());
        let (id, second) = (RegisterId(100), RegisterId(101));
        for (pool, id) in [(&pool, id), (&pool, second), (&far, id)] {
            pool.register(id).change(put(b"one")).await.unwrap();
        }
        yard.settle(3000).await;
        let (here, there) = (register_key(id), register_key(second));
        let good = object(&yard, 0, &here).await;
        let forged = [
            ("changed", changed(&good)),
            ("made without the key", unsigned(&good)),
            ("another store's", object(&yard, 1, &here).await),
            ("another register's", object(&yard, 0, &there).await),
            ("another pool's", object(&other, 0, &here).await),
        ];
        for (what, forgery) in forged {
            replace(&yard, 0, &here, forgery).await;
            let found = pool.scrub(&NOTHING, ScrubOptions::default(), &|_| {}).await.unwrap();
            let url = yard.stores[0].url();
            let named: Vec<_> = found.findings.iter().map(|f| (&*f.what, &*f.key, &*f.store)).collect();
            assert_eq!(named, [("rotten", &*here, url)], "{what}");
            assert_eq!(
                yard.open().await.unwrap().register(id).read().await.unwrap().unwrap(),
                "one",
                "{what}"
            );
            let told = pool.status().damaged_registers;
            assert_eq!((told.len(), &*told[0].store, &*told[0].key), (1, url, &*here), "{what}: {told:?}");
            assert!(told[0].reason.contains("forged"), "{what}: {told:?}");
            let done = pool.repair(&NOTHING, ScrubOptions::default(), &|_| {}).await.unwrap();
            assert!(done.left.is_complete_and_clean(), "{what}: {done:?}");
            assert!(pool.status().damaged_registers.is_empty(), "{what}");
            assert_eq!(pool.register(id).read().await.unwrap().unwrap(), "one", "{what}");
        }
        // Nor does the pool's own description lead anywhere that is not signed.
        let description = register_key(PoolConfig::register(pool.id()));
        let plain = unsigned(&object(&yard, 0, &description).await);
        replace(&yard, 0, &description, plain).await;
        yard.open().await.unwrap();
    });
}

/// A signature says nothing of when it was made: one store that is put back tells what it told before. The others outvote it.
#[test]
fn an_older_copy_in_one_store_is_outvoted_and_in_all_it_is_the_older_value() {
    run("1+2", |yard| async move {
        let pool = yard.create().await.unwrap();
        let (id, key) = (RegisterId(100), register_key(RegisterId(100)));
        pool.register(id).change(put(b"one")).await.unwrap();
        yard.settle(3000).await;
        let mut old = Vec::new();
        for store in 0..3 {
            old.push(object(&yard, store, &key).await);
        }
        pool.register(id).change(put(b"two")).await.unwrap();
        yard.settle(3000).await;
        for (store, old) in old.iter().enumerate() {
            let new = object(&yard, store, &key).await;
            replace(&yard, store, &key, old.clone()).await;
            let fresh = yard.open().await.unwrap();
            assert_eq!(fresh.register(id).read().await.unwrap().unwrap(), "two", "{store}");
            yard.settle(3000).await;
            replace(&yard, store, &key, new).await;
        }
        for (store, old) in old.into_iter().enumerate() {
            replace(&yard, store, &key, old).await;
        }
        assert_eq!(yard.open().await.unwrap().register(id).read().await.unwrap().unwrap(), "one");
    });
}

#[test]
fn a_forged_label_names_no_stores_and_takes_only_its_own_store_out() {
    run("1+2", |yard| async move {
        drop(yard.create().await.unwrap());
        let label = object(&yard, 0, &label_at(&yard.stores[0])).await;
        let text = String::from_utf8(label.to_vec()).unwrap();
        let url = yard.stores[1].url();
        assert!(text.contains(url), "{text}");
        let plain = format!("{}}}", text.split_once(r#","mac":"#).unwrap().0).replacen(
            "\"format\":2",
            "\"format\":1",
            1,
        );
        for forged in [text.replace(url, "s3://elsewhere/x"), plain] {
            replace(&yard, 0, &label_at(&yard.stores[0]), forged.into()).await;
            let pool = yard.open().await.unwrap();
            yard.settle(1000).await;
            let store = &pool.status().stores[0];
            let why = store.reason.clone().unwrap_or_default();
            assert!(why.contains("signed") && why.contains("forged"), "{store:?}");
            assert!(pool.status().stores[1..].iter().all(|s| s.reason.is_none()));
        }
    });
}

#[test]
fn without_its_key_or_with_another_a_pool_is_not_opened_and_a_plain_one_is_not_taken_for_it() {
    run("1+2", |yard| async move {
        assert!(yard.create().await.unwrap().has_key());
        let opened = |key| {
            let yard = Yard { key, ..yard.clone() };
            async move { yard.open().await.unwrap_err() }
        };
        let without = opened(None).await;
        assert!(without.is(Kind::Refused) && without.to_string().contains("[pool.tank]"), "{without}");
        let wrong = opened(key(2)).await;
        assert!(wrong.to_string().contains("not signed by the key"), "{wrong}");
        // All stores are made a plain pool, by who has no key.
        for store in 0..3 {
            let text = String::from_utf8(object(&yard, store, &label_at(&yard.stores[store])).await.to_vec())
                .unwrap();
            let plain = format!("{}}}", text.split_once(r#","mac":"#).unwrap().0).replacen(
                "\"format\":2",
                "\"format\":1",
                1,
            );
            replace(&yard, store, &label_at(&yard.stores[store]), plain.into()).await;
        }
        let stripped = opened(key(1)).await;
        assert!(stripped.to_string().contains("not signed, and a key is given"), "{stripped}");
    });
}

#[test]
fn a_store_of_a_pool_with_a_key_is_replaced_and_what_comes_along_is_signed() {
    run("1+2", |mut yard| async move {
        let pool = yard.create().await.unwrap();
        let id = RegisterId(100);
        pool.register(id).change(put(b"one")).await.unwrap();
        let spare = yard.spares[0].clone();
        let new = PoolStore { url: spare.url().to_owned(), zone: None, bucket: spare.clone() };
        let old = yard.stores[0].url().to_owned();
        pool.plan_replacement(&old, &new, &EMPTY, Care::All, &|_| {}).await.unwrap();
        let followed = pool.follow().await.unwrap();
        assert!(pool.settle(followed).await.unwrap());
        yard.settle(3000).await;
        yard.stores[0] = spare;
        let fresh = yard.open().await.unwrap();
        assert!(fresh.has_key() && fresh.status().damaged_registers.is_empty());
        assert_eq!(fresh.register(id).read().await.unwrap().unwrap(), "one");
        let found = fresh.scrub(&NOTHING, ScrubOptions::default(), &|_| {}).await.unwrap();
        assert!(found.is_complete_and_clean(), "{found:?}");
    });
}
