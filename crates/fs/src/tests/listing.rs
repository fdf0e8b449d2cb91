//! Directories of very many names: how fast they are listed, at how many requests, and that each name comes once,
//! whatever order the server keeps to and whatever changes meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::user::User;
use crate::tree::{ListedEntry, PageSource, ParallelListing, ROOT};
use windlass_base::rt::sim::Sim;
use windlass_base::{Error, Kind, Result};
use windlass_store::{Cause, Etag, Listed, MemStore, Page, SimStore, Store as _, When};

const MS: Duration = Duration::from_millis(1);

fn hash(i: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64(&i.to_le_bytes())
}

async fn fill(store: &MemStore, keys: impl Iterator<Item = String>) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for key in keys {
        store.put(&key, Bytes::new(), When::Always, Cause::File).await.unwrap();
        all.insert(key);
    }
    all
}

/// Lists `d/` over a store of 20 ms: keys a second, and requests.
fn listed(keys: impl Iterator<Item = String> + Send + 'static) -> (usize, f64, u64) {
    let sim = Sim::new(3);
    let world = sim.clone();
    let out = sim.run(async move {
        let store = SimStore::new(&world, "far");
        store.faults(|f| f.latency = (10 * MS, 10 * MS));
        let keys = fill(store.contents(), keys.map(|k| format!("d/{k}"))).await;
        let want: Vec<Vec<u8>> = keys.iter().map(|k| k.as_bytes()[2..].to_vec()).collect();
        let user = User::simulated(&world, store.clone(), "").await;
        let ino = user.walk("d").await.unwrap();
        let (begun, before) = (world.rt().now(), store.requests());
        let items = user.list_at(ino, false).await.unwrap();
        let took = world.rt().now().since(begun).as_secs_f64();
        let got: Vec<Vec<u8>> = items.into_iter().map(|i| i.name).collect();
        assert!(got == want, "{} names instead of {}, or in another order", got.len(), want.len());
        user.forget_all();
        (want.len(), want.len() as f64 / took, store.requests() - before)
    });
    out.unwrap()
}

/// Promise: A directory of very many names is listed over ranges of them at once.
#[test]
fn large_directories_are_listed_in_parallel() {
    type Keys = Box<dyn Iterator<Item = String> + Send>;
    let shapes: [(&str, f64, Keys); 6] = [
        ("numbers with zeros", 1e5, Box::new((0..100_000).map(|i| format!("f{i:07}")))),
        ("names with an end", 1e5, Box::new((0..100_000).map(|i| format!("IMG_{i:06}.jpeg")))),
        ("bare numbers", 1e5, Box::new((0..100_000).map(|i| i.to_string()))),
        ("hashes", 1e5, Box::new((0..100_000).map(|i| format!("{:016x}", hash(i))))),
        (
            "days and hours",
            75e3,
            Box::new((0..100_000).map(|i| {
                format!(
                    "2026-{:02}-{:02}T{:02}-{:06x}",
                    i / 24 / 28 / 60 + 1,
                    i / 60 / 24 % 28 + 1,
                    i / 60 % 24,
                    hash(i) as u32 >> 8
                )
            })),
        ),
        // No order is known of these: nothing is guessed.
        (
            "Chinese",
            45e3,
            Box::new(
                (0..50_000u32)
                    .map(|i| format!("{}{}", char::from_u32(0x4e00 + i % 20_000).unwrap(), i / 20_000)),
            ),
        ),
    ];
    for (what, least, keys) in shapes {
        let (count, rate, requests) = listed(keys);
        let pages = count.div_ceil(1000) as u64;
        println!("{what}: {count} names, {rate:.0} a second, {requests} requests for {pages} pages");
        assert!(rate >= least, "{what}: {rate:.0} names a second");
        assert!(requests <= pages * 11 / 10 + 8, "{what}: {requests} requests for {pages} pages");
    }
}

/// Promise: A directory of very many names is listed over ranges of them at once.
#[test]
fn smaller_directories_cost_no_request_more() {
    for (count, most) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (2000, 2), (2001, 4), (3500, 6), (12_000, 20)]
    {
        for seed in 0..20 {
            let sim = Sim::new(seed);
            let world = sim.clone();
            let requests = sim.run(async move {
                let store = SimStore::new(&world, "far");
                fill(store.contents(), (0..count).map(|i| format!("f{i:05}"))).await;
                let user = User::simulated(&world, store.clone(), "").await;
                let before = store.requests();
                assert_eq!(user.list_at(ROOT, false).await.unwrap().len(), count);
                store.requests() - before
            });
            let requests = requests.unwrap();
            assert!(requests <= most, "{count} names, seed {seed}: {requests} requests instead of {most}");
        }
    }
}

/// A reader that stops early causes no requests that are for the rest, and what is on its way is given up.
#[test]
fn a_listing_given_up_asks_no_further() {
    let sim = Sim::new(7);
    let world = sim.clone();
    let out = sim.run(async move {
        let store = SimStore::new(&world, "far");
        fill(store.contents(), (0..200_000).map(|i| format!("f{i:06}"))).await;
        let user = User::simulated(&world, store.clone(), "").await;
        for (read, most) in [(1, 1), (1990, 2), (4000, 40)] {
            let before = store.requests();
            let handle = user.fs.opendir(ROOT).unwrap();
            let mut had = 0;
            while had < read {
                had += user.fs.readdir(handle, had, false).await.unwrap().len() as u64;
            }
            let soon = store.requests() - before;
            assert!(soon <= most, "{soon} requests to read {read} names");
            // A reader that pauses: what waits for it is bounded.
            world.rt().sleep(Duration::from_secs(60)).await;
            let paused = store.requests();
            assert!(paused - before <= 100, "{} requests while nobody reads", paused - before);
            user.fs.releasedir(handle);
            world.rt().sleep(Duration::from_secs(60)).await;
            assert!(store.requests() <= paused + 1, "it is listed on though nobody will read");
        }
    });
    out.unwrap();
}

/// Promise: A name that stays while its directory is listed is listed once, whatever changes beside it.
#[test]
fn names_that_stay_are_listed_once_whatever_changes_meanwhile() {
    for seed in 0..8 {
        let sim = Sim::new(seed);
        let world = sim.clone();
        let out = sim.run(async move {
            let store = SimStore::new(&world, "busy");
            store.faults(|f| f.latency = (5 * MS, 60 * MS));
            let stay = fill(store.contents(), (0..30_000).map(|i| format!("d/{:05}a", i))).await;
            fill(store.contents(), (0..30_000).step_by(3).map(|i| format!("d/{:05}b", i))).await;
            let (one, two) = (User::simulated(&world, store.clone(), "").await, store.contents().clone());
            let rt = world.rt();
            let others = rt.clone().spawn(async move {
                for i in (0..30_000u64).cycle().take(60_000) {
                    let i = hash(i) % 30_000;
                    let (old, new) = (format!("d/{i:05}b"), format!("d/{i:05}a-{}/x", hash(i) % 7));
                    two.delete(&[old], Cause::File).await.unwrap();
                    two.put(&new, Bytes::new(), When::Always, Cause::File).await.unwrap();
                    if i.is_multiple_of(50) {
                        rt.sleep(MS).await;
                    }
                }
            });
            let items = one.list("d", false).await.unwrap();
            let mut names: Vec<Vec<u8>> = items.iter().map(|i| i.name.clone()).collect();
            names.sort();
            let all = names.len();
            names.dedup();
            assert_eq!(all, names.len(), "a name came twice");
            let names: BTreeSet<Vec<u8>> = names.into_iter().collect();
            let lost = stay.iter().find(|k| !names.contains(&k.as_bytes()[2..]));
            assert_eq!(lost, None, "of {all} names");
            others.await.unwrap();
            one.forget_all();
        });
        out.unwrap();
    }
}

/// An order that servers list in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    Bytes,
    Tree,
    /// The server lists by bytes, but takes the name at which it is to begin for a hint.
    Deaf,
    None,
}

/// A directory of small pages.
struct StagingDir {
    order: Order,
    /// Component, and whether it is a group.
    names: Vec<(String, bool)>,
    most: usize,
    /// Pages that fail, counted down.
    failing: Mutex<BTreeMap<u64, ()>>,
    asked: Mutex<u64>,
}

impl StagingDir {
    fn new(order: Order, names: BTreeSet<(String, bool)>, most: usize) -> StagingDir {
        let mut names: Vec<_> = names.into_iter().collect();
        let whole = |(c, group): &(String, bool)| format!("{c}{}", if *group { "/" } else { "" });
        match order {
            Order::Bytes | Order::Deaf => names.sort_by_key(whole),
            Order::Tree => names.sort(),
            Order::None => names.sort_by_key(|n| hash(xxhash_rust::xxh3::xxh3_64(n.0.as_bytes()))),
        }
        StagingDir { order, names, most, failing: Mutex::default(), asked: Mutex::default() }
    }

    fn begin(&self, after: &str) -> usize {
        let comes_after = |(c, group): &(String, bool)| match self.order {
            Order::Bytes => format!("p/{c}{}", if *group { "/" } else { "" }).as_str() > after,
            Order::Tree => format!("p/{c}").as_str() > after,
            Order::Deaf | Order::None => true,
        };
        self.names.iter().position(comes_after).unwrap_or(self.names.len())
    }
}

#[async_trait]
impl PageSource for StagingDir {
    async fn page(&self, after: Option<String>) -> Result<Page> {
        let n = {
            let mut asked = self.asked.lock();
            *asked += 1;
            *asked
        };
        if self.failing.lock().remove(&n).is_some() {
            return Err(Error::new(Kind::Unavailable, "away"));
        }
        let at = match &after {
            None => 0,
            Some(token) if token.starts_with('\0') => token[1..].parse().unwrap(),
            Some(name) => self.begin(name),
        };
        let mut page = Page::default();
        for (component, group) in self.names.iter().skip(at).take(self.most) {
            let key = format!("p/{component}");
            if *group {
                page.prefixes.push(format!("{key}/"));
            } else {
                page.objects.push(Listed { key, size: 1, etag: Etag("e".into()), modified_ms: Some(1) });
            }
        }
        page.objects.sort_by(|a, b| a.key.cmp(&b.key));
        page.prefixes.sort();
        page.next = (at + self.most < self.names.len()).then(|| format!("\0{}", at + self.most));
        Ok(page)
    }
    fn prefix(&self) -> &str {
        "p/"
    }
    fn most(&self) -> u64 {
        self.most as u64
    }
}

/// Returns what a parallel listing gives of a folder, names with their slashes; and how many requests it
/// took.
fn fed(folder: StagingDir) -> (Vec<String>, u64) {
    let sim = Sim::new(11);
    let world = sim.clone();
    let out = sim.run(async move {
        let folder = Arc::new(folder);
        let mut listing = ParallelListing::new(world.rt(), folder.clone());
        let mut out = Vec::new();
        loop {
            match listing.next().await {
                Ok((lines, ended)) => {
                    out.extend(lines.iter().map(|l: &ListedEntry| l.key()["p/".len()..].to_owned()));
                    if ended {
                        break;
                    }
                }
                Err(why) => assert_eq!(why.kind(), Kind::Unavailable),
            }
        }
        assert!(listing.next().await.unwrap().1, "the end stays the end");
        let asked = *folder.asked.lock();
        (out, asked)
    });
    out.unwrap()
}

fn names() -> impl Strategy<Value = BTreeSet<(String, bool)>> {
    let name = prop_oneof![
        4 => "[0-9]{1,3}",
        3 => "[ab][-.!~]{0,2}[0-9]{0,2}",
        2 => "[0-9a-f]{3}",
        1 => "[a-c ~é大]{1,3}",
    ];
    proptest::collection::btree_set((name, any::<bool>()), 0..400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]
    /// Promise: A directory of very many names is listed over ranges of them at once.
    #[test]
    fn each_name_comes_once_in_any_servers_order(
        names in names(),
        most in 1usize..6,
        order in prop_oneof![Just(Order::Bytes), Just(Order::Tree), Just(Order::Deaf)],
        failing in proptest::collection::btree_set(1u64..60, 0..6),
    ) {
        let want: Vec<String> =
            names.iter().map(|(c, group)| format!("{c}{}", if *group { "/" } else { "" })).collect();
        let folder = StagingDir::new(order, names, most);
        *folder.failing.lock() = failing.iter().map(|n| (*n, ())).collect();
        let (mut got, asked) = fed(folder);
        got.sort();
        let mut want = want;
        want.sort();
        let pages = want.len().div_ceil(most).max(1) as u64;
        prop_assert_eq!(got, want);
        // Each failure may cost a range what it had listed ahead.
        let most = if order == Order::Deaf { pages * 3 } else { pages * 11 / 10 } + 8 + failing.len() as u64 * 13;
        prop_assert!(asked <= most, "{asked} requests for {pages} pages");
    }
}

/// A server that lists in no order at all is noticed by its second page, and loses nothing.
#[test]
fn without_an_order_nothing_is_divided() {
    let names: BTreeSet<_> = (0..500).map(|i| (format!("{i:03}"), false)).collect();
    let (mut got, asked) = fed(StagingDir::new(Order::None, names.clone(), 10));
    got.sort();
    assert_eq!(got, names.into_iter().map(|(c, _)| c).collect::<Vec<_>>());
    assert_eq!(asked, 50);
}

/// A page of names that ends with the object `g`; the directory of this name begins the next one, and hides it.
#[test]
fn a_page_tells_nothing_of_a_name_that_goes_on_behind_it() {
    let sim = Sim::new(5);
    let world = sim.clone();
    sim.run(async move {
        let store = MemStore::new("many");
        let files = (0..999).map(|i| format!("d/f{i:03}"));
        for key in files.chain(["d/g".to_owned(), "d/g/y".to_owned()]) {
            store.put(&key, Bytes::from_static(b"x"), When::Always, Cause::File).await.unwrap();
        }
        let user = User::simulated(&world, store, "").await;
        for i in 0..3 {
            user.stat(&format!("d/f{i:03}")).await.unwrap();
        }
        assert!(user.stat("d/g").await.unwrap().attributes.is_dir());
        assert!(!user.stat("d/f998").await.unwrap().attributes.is_dir());
    })
    .unwrap();
}
