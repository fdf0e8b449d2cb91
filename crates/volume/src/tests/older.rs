//! Stores that show an older state of a volume than this host has seen recorded.

use super::site::Site;
use super::*;
use windlass_base::RegisterId;
use windlass_pool::register_key;
use windlass_store::{ByteRange, Cause, Store as _, When};

const GET: ByteRange = ByteRange::Whole { max: 1 << 20 };

/// Where a copy has the numbers of the ballots that it promised and accepted.
const PROMISED: usize = 36;
const ACCEPTED: usize = 60;

fn promised(copy: &[u8]) -> u64 {
    u64::from_le_bytes(copy[PROMISED..PROMISED + 8].try_into().unwrap())
}

async fn copy(site: &Site, store: usize, key: &str) -> Bytes {
    site.stores[store].contents().get(key, GET, Cause::Walk).await.unwrap().unwrap().body
}

async fn set_back(site: &Site, store: usize, key: &str, to: Bytes) {
    site.stores[store].contents().put(key, to, When::Always, Cause::Walk).await.unwrap();
}

/// A volume with `one` in it and then `two`, released each time, and its register's copies as they were in between.
async fn written_twice(site: &Site) -> (Life, String, Vec<Bytes>) {
    let life = site.machine(1).found().await;
    let v = volume(&life, FlushMode::Pool).await;
    v.write(0, Bytes::from(vec![1; 4096])).await.unwrap();
    v.release().await.unwrap();
    life.sleep(3_000).await;
    let key = register_key(RegisterId(v.id().0));
    let mut earlier = Vec::new();
    for store in 0..3 {
        earlier.push(copy(site, store, &key).await);
    }
    v.write(0, Bytes::from(vec![2; 4096])).await.unwrap();
    v.release().await.unwrap();
    life.sleep(3_000).await;
    (life, key, earlier)
}

/// All stores come back from a backup: nothing older is shown for the newest, until the user says so.
#[test]
fn an_older_state_than_was_confirmed_here_is_refused_by_name() {
    run(41, "2+1", |site| async move {
        let (life, key, earlier) = written_twice(&site).await;
        let machine = life.crash();
        for (store, bytes) in earlier.iter().enumerate() {
            set_back(&site, store, &key, bytes.clone()).await;
        }
        let life = machine.start().await;
        let refused = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap_err();
        let text = refused.to_string();
        assert!(
            refused.is(Kind::Refused) && text.contains("tank/v") && text.contains("ownership 1-"),
            "{text}"
        );
        assert!(text.contains("recorded (ownership 2-") && text.contains(&key), "{text}");
        assert!(site.stores.iter().all(|s| text.contains(&format!("{}: ownership 1-", s.url()))), "{text}");
        life.volumes.take_over(&name("v"), true).await.unwrap();
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        assert!(v.read(0, 4096).await.unwrap() == vec![1; 4096]);
        // The chunks of the forgotten ownership are there still, under its number: another number is claimed.
        v.write(0, Bytes::from(vec![3; 4096])).await.unwrap();
        v.flush().await.unwrap();
        let life = life.crash().start().await;
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        assert!(v.read(0, 4096).await.unwrap() == vec![3; 4096]);
    });
}

/// The same while the newer state is open here: it ends when the user takes the older one.
#[test]
fn what_is_open_here_ends_when_an_older_state_is_taken() {
    run(43, "2+1", |site| async move {
        let (life, key, earlier) = written_twice(&site).await;
        let open = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        open.write(0, Bytes::from(vec![3; 4096])).await.unwrap();
        open.flush().await.unwrap();
        for (store, bytes) in earlier.iter().enumerate() {
            set_back(&site, store, &key, bytes.clone()).await;
        }
        life.volumes.take_over(&name("v"), true).await.unwrap();
        let why = open.write(0, Bytes::from(vec![4; 4096])).await.unwrap_err();
        assert!(why.is(Kind::Fenced), "{why}");
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        assert!(v.read(0, 4096).await.unwrap() == vec![1; 4096]);
        v.write(0, Bytes::from(vec![5; 4096])).await.unwrap();
        v.flush().await.unwrap();
        let life = life.crash().start().await;
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        assert!(v.read(0, 4096).await.unwrap() == vec![5; 4096]);
    });
}

/// Who opened the volume long ago claims above all that this host has seen since: no ownership's number is given twice.
#[test]
fn who_opened_it_long_ago_claims_above_what_was_forgotten() {
    run(44, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let first = volume(&life, FlushMode::Pool).await;
        first.write(0, Bytes::from(vec![1; 4096])).await.unwrap();
        first.release().await.unwrap();
        life.sleep(3_000).await;
        let key = register_key(RegisterId(first.id().0));
        let mut earlier = Vec::new();
        for store in 0..3 {
            earlier.push(copy(&site, store, &key).await);
        }
        let other = site.machine(2).start().await;
        for volumes in [&other.volumes, &life.volumes] {
            let v = volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            v.write(0, Bytes::from(vec![2; 4096])).await.unwrap();
            v.release().await.unwrap();
            life.sleep(3_000).await;
        }
        let before = life.ownership(first.id()).await;
        for (store, bytes) in earlier.iter().enumerate() {
            set_back(&site, store, &key, bytes.clone()).await;
        }
        life.volumes.take_over(&name("v"), true).await.unwrap();
        first.write(0, Bytes::from(vec![4; 4096])).await.unwrap();
        first.flush().await.unwrap();
        assert_eq!(life.ownership(first.id()).await.claims(), before.claims() + 1);
    });
}

/// One store's copy is an older one, under a ballot above all others, as only somebody forges it who can write there. Whoever
/// has seen the newer state takes nothing from it, and leaves the good copies as they are.
#[test]
fn a_forged_older_copy_is_refused_and_the_others_stay() {
    run(42, "2+1", |site| async move {
        let (life, key, earlier) = written_twice(&site).await;
        for (store, earlier) in earlier.iter().enumerate() {
            // What was chosen a moment ago may still be on its way to some.
            life.sleep(5_000).await;
            let good = copy(&site, store, &key).await;
            let mut highest = 0;
            for other in 0..3 {
                highest = highest.max(promised(&copy(&site, other, &key).await));
            }
            let mut forged = earlier.to_vec();
            // The numbers of the ballots that it promised and accepted, and the checksum.
            let end = forged.len() - 8;
            for at in [PROMISED, ACCEPTED] {
                forged[at..at + 8].copy_from_slice(&(highest + 20).to_le_bytes());
            }
            let sum = xxhash_rust::xxh3::xxh3_64(&forged[..end]);
            forged[end..].copy_from_slice(&sum.to_le_bytes());
            set_back(&site, store, &key, forged.into()).await;
            let other = (store + 1) % 3;
            // Without it a majority needs the forged one.
            site.reach((store + 2) % 3..(store + 2) % 3 + 1, Reach::Refuses);
            let refused = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap_err();
            let text = refused.to_string();
            assert!(refused.is(Kind::Refused) && text.contains("older state"), "{text}");
            assert!(text.contains(&format!("{}: ownership 1-", site.stores[store].url())), "{text}");
            assert!(text.contains(&format!("{}: ownership 2-", site.stores[other].url())), "{text}");
            site.reach(0..3, Reach::Up);
            life.sleep(3_000).await;
            // As the message says.
            let contents = site.stores[store].contents();
            contents.delete(std::slice::from_ref(&key), Cause::Walk).await.unwrap();
            let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            assert!(v.read(0, 4096).await.unwrap() == vec![2; 4096]);
            set_back(&site, store, &key, good).await;
        }
    });
}
