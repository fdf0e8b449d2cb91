//! What each operation asks of six stores, counted exactly. `docs/performance.md` has the table.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::site::Site;
use super::*;
use windlass_store::{Cause, Store as _, Verb};

/// Requests by verb and cause.
type Bill = BTreeMap<(Verb, Cause), u64>;

fn asked(site: &Site) -> Bill {
    let mut all = Bill::new();
    for line in site.counted.iter().flat_map(|s| s.counters().unwrap().snapshot()) {
        *all.entry((line.verb, line.cause)).or_default() += line.requests;
    }
    all
}

thread_local! {
    /// What took more than it may, all of it: each simulation runs in one thread.
    static OVER: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Runs an operation and what it leaves to the background; says what both asked for. No more than `most`.
async fn bill<T>(site: &Site, what: &str, most: u64, work: impl Future<Output = T>) -> T {
    let before = asked(site);
    let began = site.world.now();
    let out = work.await;
    let took = site.world.now().since(began);
    site.world.rt().sleep(Duration::from_secs(8)).await;
    let mut now = asked(site);
    for (key, n) in &mut now {
        *n -= before.get(key).copied().unwrap_or(0);
    }
    // What a store promises is tried once; `store::prove` counts that.
    now.retain(|(_, cause), n| *n > 0 && *cause != Cause::Probe);
    let total: u64 = now.values().sum();
    println!("{what:26} {took:8.1?} {total:4}  {now:?}");
    if total > most {
        OVER.with_borrow_mut(|over| {
            over.push(format!("{what}: {total} requests, more than {most}: {now:?}"))
        });
    }
    out
}

#[test]
fn operations_ask_for_no_more_than_they_need() {
    run(1, "4+2", |mut site| async move {
        site.count();
        let ms = Duration::from_millis(10);
        site.stores.iter().for_each(|s| s.faults(|f| f.latency = (ms, ms)));
        let life = bill(&site, "pool create", 123, site.machine(1).found()).await;
        let volumes = &life.volumes;
        let named = name("v");
        let create = volumes.create(&named, 64 * MIB, small(FlushMode::Pool));
        bill(&site, "create", 75, create).await.unwrap();
        let v = bill(&site, "open", 35, volumes.open(&named, OpenMode::Normal)).await.unwrap();
        bill(&site, "first write", 63, v.write(0, bytes(1, 4096))).await.unwrap();
        bill(&site, "flush", 5, v.flush()).await.unwrap();
        for i in 0..3 {
            let snap = name(&format!("a{i}"));
            v.write(0, bytes(i, 4096)).await.unwrap();
            let marks = [(v.clone(), snap.clone())];
            bill(&site, "snapshot after a write", 17, snapshot_group(&marks, true)).await.unwrap();
        }
        let (snap, one, two) = (name("a0"), name("c"), name("d"));
        let marks = [(v.clone(), name("b"))];
        bill(&site, "snapshot without a write", 17, snapshot_group(&marks, true)).await.unwrap();
        let clone = volumes.clone_snapshot(&named, &snap, &one);
        bill(&site, "clone with a checkpoint", 182, clone).await.unwrap();
        let clone = volumes.clone_snapshot(&named, &snap, &two);
        bill(&site, "clone", 40, clone).await.unwrap();
        v.write(0, bytes(9, 4096)).await.unwrap();
        bill(&site, "write, release", 71, v.release()).await.unwrap();
        drop(v);
        let pool_host = site.machine(2);
        let other = bill(&site, "pool open", 32, pool_host.start()).await;
        let v =
            bill(&site, "open elsewhere", 41, other.volumes.open(&named, OpenMode::Normal)).await.unwrap();
        bill(&site, "first write elsewhere", 108, v.write(0, bytes(9, 4096))).await.unwrap();
        bill(&site, "flush elsewhere", 5, v.flush()).await.unwrap();
        let take = volumes.take_over(&named, false);
        bill(&site, "take-over", 206, take).await.unwrap();
        other.process.kill();
        let grace = Duration::from_millis(site.grace_ms);
        bill(&site, "the look after it", 83, site.world.rt().sleep(grace)).await;
        let over = OVER.take();
        assert!(over.is_empty(), "{}", over.join("\n"));
    });
}
