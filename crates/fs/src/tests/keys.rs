//! Whatever keys a bucket holds, each object is found under exactly one name, and nothing else is.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;

use super::user::{READ, User};
use crate::object::{Shown, last, show, show_beside};
use crate::tree::ROOT;
use windlass_base::rt::sim::Sim;
use windlass_store::{Cause, MemStore, Store as _, When};

/// Every file below a directory, by the key that its bytes say.
async fn all(user: &User, dir: u64, plus: bool, depth: usize, out: &mut Vec<(String, Vec<u8>)>) {
    assert!(depth < 40, "a ring of directories");
    let items = user.list_at(dir, plus).await.unwrap();
    let mut names: Vec<_> = items.iter().map(|i| &i.name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), items.len(), "a name stands twice in one directory");
    for item in items {
        let entry = user.step(dir, &item.name).await.unwrap();
        assert_eq!(
            entry.attributes.is_dir(),
            item.dir,
            "{:?}",
            (String::from_utf8_lossy(&item.name), &item.key, item.dir)
        );
        if item.dir {
            Box::pin(all(user, entry.ino, plus, depth + 1, out)).await;
        } else {
            assert_eq!(entry.attributes.size, item.attributes.size);
            let handle = user.fs.open_file(entry.ino, READ).await.unwrap().handle;
            let bytes = user.read(handle, 0, 1 << 20).await.unwrap();
            user.close(handle).await.unwrap();
            out.push((item.key, bytes.to_vec()));
        }
    }
}

/// The one exception: its name would fit, and does not with what marks it beside a directory of that name.
fn is_too_long_beside(key: &str, keys: &[String]) -> bool {
    let (inside, component) = (format!("{key}/"), last(key));
    let fits = matches!(show(component), Shown::Name(_)) && show_beside(component).is_none();
    fits && keys.iter().any(|k| k.starts_with(&inside))
}

fn check(keys: Vec<String>, plus: bool) {
    let sim = Sim::new(keys.len() as u64);
    let world = sim.clone();
    sim.run(async move {
        let store = MemStore::new("keys");
        let mut want = BTreeMap::new();
        let hidden: BTreeSet<_> = keys.iter().filter(|k| is_too_long_beside(k, &keys)).cloned().collect();
        for key in keys {
            // A marker of no bytes is the directory itself; everything else has a name.
            let body =
                if key.ends_with('/') && key.len() % 2 == 0 { String::new() } else { format!("is {key}") };
            store.put(&key, Bytes::from(body.clone()), When::Always, Cause::File).await.unwrap();
            if !body.is_empty() && !hidden.contains(&key) {
                want.insert(key, body.into_bytes());
            }
        }
        let user = User::simulated(&world, store, "").await;
        let mut found = Vec::new();
        all(&user, ROOT, plus, 0, &mut found).await;
        let count = found.len();
        let found: BTreeMap<_, _> = found.into_iter().collect();
        assert_eq!(found.len(), count, "an object has two names");
        assert_eq!(found, want);
        user.forget_all();
    })
    .unwrap();
}

fn component() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[ab]{1,2}",
        2 => "[a!.%~+-]{0,4}",
        1 => Just(".".to_owned()),
        1 => Just("..".to_owned()),
        1 => Just(String::new()),
        1 => Just("%~caf%E9".to_owned()),
        1 => (250usize..300, "[a-c]{0,2}").prop_map(|(n, end)| "long".repeat(n / 4) + &end),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    /// Promise: Every object has exactly one name.
    #[test]
    fn every_object_has_one_name(
        keys in proptest::collection::vec(proptest::collection::vec(component(), 1..4), 0..14),
        plus in any::<bool>(),
    ) {
        let keys = keys.into_iter().map(|k| k.join("/")).filter(|k| !k.is_empty() && k.len() <= 1000).collect();
        check(keys, plus);
    }
}

#[test]
fn large_directories_come_page_by_page() {
    let mut keys: Vec<String> = (0..3500).map(|i| format!("d/f{i:05}")).collect();
    // An object and a directory of its name, pages apart.
    keys.extend(["d/f".to_owned(), "d/f/x".to_owned(), "d/f00007/y".to_owned()]);
    check(keys, true);
}
