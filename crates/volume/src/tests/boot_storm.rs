//! Many clones of one template that boot at once on one host: what is fetched, and how long the last one takes.

use std::sync::Arc;

use futures::future::join_all;

use super::site::Site;
use super::*;
use windlass_store::Store as _;

/// What of a clone one boot reads, out of so much of it.
const SIZE: u64 = 256 * MIB;
const MAPPED: u64 = 24 * MIB;
const BOOT: u64 = 4 * MIB;
const CLONES: usize = 100;

/// A boot's reads, one after another: files here and there, each in order, of no size or place that repeats.
fn boot() -> Vec<(u64, u64)> {
    let (mut reads, mut total, mut state) = (Vec::new(), 0, 7u64);
    let mut draw = |below: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % below
    };
    while total < BOOT {
        let (file, step) = ((1 + draw(128)) * 4096, (1 + draw(32)) * 4096);
        let at = draw((MAPPED - file) / 4096) * 4096;
        for from in (0..file).step_by(step as usize) {
            let len = step.min(file - from);
            reads.push((at + from, len));
            total += len;
        }
    }
    reads
}

fn clone_name(i: usize) -> Name {
    name(&format!("c{i}"))
}

/// A template that another host has written, and clones of it; stores that take 20 ms.
async fn template(site: &mut Site) {
    let writer = site.machine(1).found().await;
    writer.volumes.create(&name("t"), SIZE, small(FlushMode::Local)).await.unwrap();
    let t = writer.volumes.open(&name("t"), OpenMode::Normal).await.unwrap();
    for i in 0..MAPPED / MIB {
        t.write(i * MIB, bytes(i, MIB as usize)).await.unwrap();
    }
    snapshot_group(&[(t.clone(), name("s"))], true).await.unwrap();
    t.release().await.unwrap();
    for i in 0..CLONES {
        writer.volumes.clone_snapshot(&name("t"), &name("s"), &clone_name(i)).await.unwrap();
    }
    // The last heads are brought to all stores.
    writer.sleep(5_000).await;
    writer.process.kill();
    let half = Duration::from_millis(10);
    site.stores.iter().for_each(|s| s.faults(|f| f.latency = (half, half)));
    site.count();
}

/// Requests, and bytes that came.
fn asked(site: &Site) -> (u64, u64) {
    let lines = || site.counted.iter().flat_map(|s| s.counters().unwrap().snapshot());
    (lines().map(|l| l.requests).sum(), lines().map(|l| l.received_bytes).sum())
}

/// What was asked for while something went on, and how long that took.
struct Bill {
    requests: u64,
    bytes: u64,
    took: Duration,
}

async fn bill<T>(site: &Site, what: &str, work: impl Future<Output = T>) -> (T, Bill) {
    let (before, began) = (asked(site), site.world.now());
    let out = work.await;
    let (after, took) = (asked(site), site.world.now().since(began));
    let bill = Bill { requests: after.0 - before.0, bytes: after.1 - before.1, took };
    println!("{what:20} {:6} requests {:9} bytes {:8.1?}", bill.requests, bill.bytes, bill.took);
    (out, bill)
}

async fn opened(life: &Life, many: usize) -> Vec<Arc<Volume>> {
    let opens = (0..many).map(|i| {
        let volumes = life.volumes.clone();
        async move { volumes.open(&clone_name(i), OpenMode::Normal).await.unwrap() }
    });
    join_all(opens).await
}

/// All of them boot at once; how long the longest read took.
async fn boots(life: &Life, clones: &[Arc<Volume>]) -> Duration {
    let reads = Arc::new(boot());
    let boots = clones.iter().enumerate().map(|(i, clone)| {
        let (clone, reads) = (clone.clone(), reads.clone());
        life.rt.spawn(async move {
            let mut longest = Duration::ZERO;
            for (at, len) in &*reads {
                let began = clone.now();
                let got = clone.read(*at, *len).await.unwrap();
                longest = longest.max(clone.now().since(began));
                assert!(
                    i % 50 > 0 || got[..16] == bytes(at / MIB, MIB as usize)[(at % MIB) as usize..][..16]
                );
            }
            longest
        })
    });
    let boots = join_all(boots.collect::<Vec<_>>()).await;
    boots.into_iter().map(Result::unwrap).max().unwrap_or_default()
}

async fn opened_and_booted(life: &Life, many: usize) -> Vec<Arc<Volume>> {
    let clones = opened(life, many).await;
    boots(life, &clones).await;
    clones
}

#[test]
fn clones_that_boot_at_once_fetch_what_one_does() {
    run(1, "4+2", |mut site| async move {
        template(&mut site).await;
        let lonely = site.machine(2).start().await;
        let (_, one) = bill(&site, "one", opened_and_booted(&lonely, 1)).await;
        assert!(one.bytes >= BOOT / 2, "{}", one.bytes);
        lonely.process.kill();
        let life = site.machine(3).start().await;
        let (clones, all) = bill(&site, "all at once", opened_and_booted(&life, CLONES)).await;
        let from_stores = || clones.iter().map(|clone| clone.reads().stores).sum::<u64>();
        // What the last reads had fetched ahead is on its way.
        life.sleep(1_000).await;
        let before = from_stores();
        let (longest, again) = bill(&site, "again", boots(&life, &clones)).await;
        assert_eq!(from_stores(), before);
        // What opening a clone takes is its own.
        let heads = (CLONES * 8) as u64 * 1024;
        assert!(all.bytes * 10 <= one.bytes * 11 + heads * 10, "{} of {}", all.bytes, one.bytes);
        // The slowest of all, by hops of 10 ms.
        assert!(all.took * 5 <= one.took * 7, "{:?} of {:?}", all.took, one.took);
        // Time may pass between them: what the host does beside it has its own hours.
        assert_eq!((again.requests, longest), (0, Duration::ZERO));
    });
}

async fn set(life: &Life, assignment: &str) -> BootTrace {
    life.volumes.set(&name("t"), &[assignment.to_owned()]).await.unwrap();
    boot_trace(life).await
}

async fn boot_trace(life: &Life) -> BootTrace {
    life.volumes.info(&name("t")).await.unwrap().boot_trace
}

#[test]
fn a_first_boot_is_recorded_and_others_are_fetched_ahead() {
    run(1, "4+2", |mut site| async move {
        template(&mut site).await;
        let life = site.machine(2).start().await;
        let (clones, plain) = bill(&site, "one", opened_and_booted(&life, 1)).await;
        drop(clones);
        assert_eq!(set(&life, "boot-trace=record").await, BootTrace::Record);
        let recorder = site.machine(3).start().await;
        let (clones, recorded) = bill(&site, "one that is recorded", opened_and_booted(&recorder, 1)).await;
        assert!(recorded.took * 10 <= plain.took * 11, "{:?}", recorded.took);
        recorder.sleep(130_000).await;
        let BootTrace::Kept { bytes, ranges } = boot_trace(&life).await else { panic!("not recorded") };
        assert!(bytes > BOOT / 2 && bytes < 2 * BOOT && ranges > 10, "{bytes} {ranges}");
        drop(clones);
        recorder.process.kill();
        // Of another host, whose caches have nothing: of the second clone, and of all at once.
        for (i, many) in [1, CLONES].into_iter().enumerate() {
            let other = site.machine(4 + i as u128).start().await;
            let (_, ahead) = bill(&site, "fetched ahead", opened_and_booted(&other, many)).await;
            // The slowest of all, by hops of 10 ms.
            assert!(ahead.took * 9 < plain.took * 5, "{:?} of {:?}", ahead.took, plain.took);
            let heads = (many * 8) as u64 * 1024;
            assert!(ahead.bytes <= plain.bytes + heads, "{} of {}", ahead.bytes, plain.bytes);
            other.process.kill();
        }
        assert_eq!(set(&life, "boot-trace=off").await, BootTrace::Off);
        let other = site.machine(9).start().await;
        let (_, off) = bill(&site, "off", opened_and_booted(&other, 1)).await;
        assert!(off.took * 10 > plain.took * 9, "{:?}", off.took);
    });
}

/// The template is in use meanwhile, and several hosts record: one boot is kept, and its owner's changes keep it.
#[test]
fn one_boot_is_kept_whoever_owns_the_template() {
    run(3, "2+1", |mut site| async move {
        template(&mut site).await;
        let owner = site.machine(2).start().await;
        let t = owner.volumes.open(&name("t"), OpenMode::Normal).await.unwrap();
        t.write(SIZE - MIB, bytes(1, 4096)).await.unwrap();
        assert_eq!(set(&owner, "boot-trace=record").await, BootTrace::Record);
        let others = [site.machine(3).start().await, site.machine(4).start().await];
        let clones: Vec<_> = join_all(others.iter().map(|life| opened(life, 2))).await;
        clones[0][0].read(MIB, 100_000).await.unwrap();
        clones[1][1].read(3 * MIB, 300_000).await.unwrap();
        // Its own is nothing of the template's.
        clones[0][0].write(9 * MIB, bytes(2, 131_072)).await.unwrap();
        clones[0][0].read(9 * MIB, 65_536).await.unwrap();
        owner.sleep(150_000).await;
        let kept = boot_trace(&owner).await;
        assert!(matches!(kept, BootTrace::Kept { bytes: 131_072 | 327_680, ranges: 1 }), "{kept:?}");
        t.write(SIZE - MIB, bytes(2, 4096)).await.unwrap();
        t.flush().await.unwrap();
        assert_eq!(set(&owner, "max-tail=1s").await, kept);
        t.release().await.unwrap();
        assert_eq!(boot_trace(&others[0]).await, kept);
        owner.volumes.clone_snapshot(&name("t"), &name("s"), &name("x")).await.unwrap();
        assert_eq!(owner.volumes.info(&name("x")).await.unwrap().boot_trace, BootTrace::Off);
        assert_eq!(set(&others[0], "boot-trace=record").await, BootTrace::Record);
    });
}

/// Stores that go away while a boot is fetched ahead, and a clone that is removed then, leave nothing behind.
#[test]
fn fetching_ahead_by_a_trace_is_given_up_without_harm() {
    for seed in 10..16 {
        run(seed, "2+1", |mut site| async move {
            template(&mut site).await;
            let life = site.machine(2).start().await;
            set(&life, "boot-trace=record").await;
            opened_and_booted(&life, 1).await;
            life.sleep(130_000).await;
            assert!(matches!(boot_trace(&life).await, BootTrace::Kept { .. }));
            life.process.kill();
            let life = site.machine(3).start().await;
            let clones = opened(&life, 2).await;
            life.sleep(site.world.below(200)).await;
            if seed % 2 == 0 {
                site.reach(0..3, Reach::Silent);
                life.sleep(7_000).await;
                site.reach(0..3, Reach::Up);
            } else {
                life.volumes.remove(&clone_name(0)).await.unwrap();
            }
            life.sleep(30_000).await;
            assert_eq!(life.volumes.engine().memory.ahead.budget.used(), 0);
            boots(&life, &clones[1..]).await;
        });
    }
}
