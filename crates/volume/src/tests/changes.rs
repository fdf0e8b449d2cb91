//! What has changed since a snapshot, and what it costs to tell.

use super::*;
use windlass_base::format_limits::BLOCK;

/// Bytes that have changed, and the ranges that they lie in.
async fn changed<F>(size: u64, ask: impl Fn(u64, u64) -> F) -> (u64, Vec<(u64, u64)>)
where
    F: Future<Output = windlass_base::Result<Vec<(u64, bool)>>>,
{
    let (mut at, mut ranges) = (0, Vec::<(u64, u64)>::new());
    while at < size {
        for (len, dirty) in ask(at, size - at).await.unwrap() {
            match ranges.last_mut() {
                Some((from, before)) if dirty && *from + *before == at => *before += len,
                _ if dirty => ranges.push((at, len)),
                _ => {}
            }
            at += len;
        }
    }
    (ranges.iter().map(|(_, len)| len).sum(), ranges)
}

async fn snapshot(v: &std::sync::Arc<Volume>, s: &str) {
    snapshot_group(&[(v.clone(), name(s))], true).await.unwrap();
}

#[test]
fn what_was_written_since_is_told_and_little_else() {
    run(1, "2+1", |site| async move {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 8 * MIB as usize)).await.unwrap();
        v.write(40 * MIB, bytes(2, MIB as usize)).await.unwrap();
        snapshot(&v, "a").await;
        let a = v.since(&name("a")).await.unwrap();
        let since_a = |at, len| v.changed_since(&a, at, len, 100);
        assert_eq!(changed(v.size(), since_a).await, (0, vec![]));
        // In memory, then in the map; a trim of what is not there changes nothing.
        let ranges = vec![(BLOCK, 3 * BLOCK), (5 * MIB, BLOCK), (40 * MIB, BLOCK), (60 * MIB, 2 * BLOCK)];
        v.write(BLOCK + 7, bytes(3, 2 * BLOCK as usize)).await.unwrap();
        v.zero(5 * MIB, BLOCK).await.unwrap();
        v.zero(20 * MIB, 10 * MIB).await.unwrap();
        v.write(40 * MIB + 100, bytes(4, 5)).await.unwrap();
        v.write(60 * MIB, bytes(5, 2 * BLOCK as usize)).await.unwrap();
        assert_eq!(changed(v.size(), since_a).await, (7 * BLOCK, ranges.clone()));
        snapshot(&v, "b").await;
        v.since(&name("b")).await.unwrap();
        assert_eq!(changed(v.size(), since_a).await, (7 * BLOCK, ranges.clone()));
        // Parts of blocks are told as they are asked for.
        let part = v.changed_since(&a, BLOCK + 100, BLOCK, 9).await.unwrap();
        assert_eq!(part, [(BLOCK, true)]);
        assert_eq!(v.changed_since(&a, 0, v.size(), 1).await.unwrap(), [(BLOCK, false)]);
        // Between two snapshots.
        v.write(0, bytes(6, 4 * MIB as usize)).await.unwrap();
        let b = life.volumes.open_snapshot(&name("v"), &name("b")).await.unwrap();
        let since = b.since(&name("a")).await.unwrap();
        let between = |at, len| b.changed_since(&since, at, len, 2);
        assert_eq!(changed(b.size(), between).await, (7 * BLOCK, ranges));
        for none in ["b", "c"] {
            assert!(b.since(&name(none)).await.unwrap_err().is(Kind::NotFound));
        }
        assert!(v.since(&name("c")).await.unwrap_err().is(Kind::NotFound));
        // After a release the map alone is asked; after a way back to `a` nothing differs.
        let now = changed(v.size(), since_a).await;
        v.release().await.unwrap();
        let a_again = v.since(&name("a")).await.unwrap();
        let told = changed(v.size(), |at, len| v.changed_since(&a_again, at, len, 3)).await;
        assert_eq!((told.0, now.0), (now.0, 4 * MIB + 4 * BLOCK));
        life.volumes.roll_back(&name("v"), &name("a"), None).await.unwrap();
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        assert_eq!(changed(v.size(), |at, len| v.changed_since(&a, at, len, 3)).await, (0, vec![]));
        let since_b = v.since(&name("b")).await.unwrap();
        let (bytes, _) = changed(v.size(), |at, len| v.changed_since(&since_b, at, len, 3)).await;
        assert_eq!(bytes, 7 * BLOCK, "a state of another branch");
    });
}

#[test]
fn a_snapshot_that_was_removed_tells_nothing_or_so() {
    run(2, "1+0", |site| async move {
        let life = site.eager().machine(1).found().await;
        let v = volume(&life, FlushMode::Local).await;
        v.write(0, bytes(1, 8 * MIB as usize)).await.unwrap();
        snapshot(&v, "a").await;
        let a = v.since(&name("a")).await.unwrap();
        v.write(0, bytes(2, 8 * MIB as usize)).await.unwrap();
        life.volumes.remove_snapshot(&name("v"), &name("a")).await.unwrap();
        life.volumes.collect(&name("v")).await.unwrap();
        life.sleep(120_000).await;
        life.volumes.engine().memory.pages.resize(0);
        match v.changed_since(&a, 0, 8 * MIB, 9).await {
            Ok(told) => assert_eq!(told, [(8 * MIB, true)]),
            Err(e) => assert!(e.is(Kind::Removed) && e.to_string().contains("snapshot a"), "{e}"),
        }
    });
}

/// A comparison reads pages of the map where something was changed, and no others.
#[test]
fn telling_costs_what_was_changed() {
    run(3, "1+0", |site| async move {
        let life = site.machine(1).found().await;
        life.volumes.create(&name("v"), 4096 * MIB, small(FlushMode::Local)).await.unwrap();
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
        for at in 0..400 {
            v.write(at * 10 * MIB, bytes(at, BLOCK as usize)).await.unwrap();
        }
        snapshot(&v, "a").await;
        v.write(70 * MIB, bytes(9, BLOCK as usize)).await.unwrap();
        v.release().await.unwrap();
        let a = v.since(&name("a")).await.unwrap();
        let pages = &life.volumes.engine().memory.pages;
        pages.resize(0);
        pages.resize(64 << 20);
        let misses = || pages.stats().misses;
        let before = misses();
        let told = changed(v.size(), |at, len| v.changed_since(&a, at, len, 9)).await;
        assert_eq!(told, (BLOCK, vec![(70 * MIB, BLOCK)]));
        assert!(misses() - before <= 3 * 2, "{}", misses() - before);
        let before = misses();
        v.allocation(0, v.size(), 10_000).await.unwrap();
        assert!(misses() - before >= 390, "{}", misses() - before);
    });
}
