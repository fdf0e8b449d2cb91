use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use futures::executor::block_on;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::page::{Entry, Page, SLOTS, address, encode};
use super::*;
use windlass_base::{ChunkId, Epoch, Error, Kind, Result, Seq, VolumeId};
use windlass_log::FrameRef;

/// Pages in memory; each has its own chunk offset.
#[derive(Default)]
struct Shelf {
    pages: Mutex<BTreeMap<u64, (u64, Bytes)>>,
    loads: Mutex<u64>,
}

#[async_trait]
impl Pages for Shelf {
    fn chunk(&self, at: &FrameRef) -> Result<ChunkId> {
        Ok(ChunkId { volume: VolumeId(at.volume.into()), epoch: at.epoch, seq: at.seq })
    }
    async fn load(&self, at: &FrameRef, address: u64) -> Result<Bytes> {
        *self.loads.lock() += 1;
        let (wrote, bytes) = self.pages.lock().get(&at.offset).cloned().expect("the page was written");
        assert_eq!((wrote, bytes.len()), (address, at.len as usize));
        Ok(bytes)
    }
}

/// Keeps what died.
struct Appender<'a>(&'a Shelf, Vec<FrameRef>);

#[async_trait]
impl PageSink for Appender<'_> {
    async fn append(&mut self, address: u64, raw: Bytes) -> Result<FrameRef> {
        let mut pages = self.0.pages.lock();
        let offset = pages.len() as u64 * 100_000;
        let len = raw.len() as u32;
        pages.insert(offset, (address, raw));
        Ok(FrameRef { volume: 0, epoch: Epoch(1), seq: Seq(1), offset, len })
    }

    fn died(&mut self, frame: &FrameRef) {
        self.1.push(*frame);
    }
}

fn frame(n: u64) -> FrameRef {
    FrameRef {
        volume: (n % 3) as u16,
        epoch: Epoch(1 + n % 5),
        seq: Seq(n % 1000),
        offset: n * 4000,
        len: 4000,
    }
}

fn mapped(block: u64, count: u64, n: u64, skip: u8) -> Extent {
    Extent { block, count, at: Some(Mapped { frame: frame(n), skip }) }
}

fn unmapped(block: u64, count: u64) -> Extent {
    Extent { block, count, at: None }
}

fn merge(tree: Tree, shelf: &Shelf, cache: &PageCache, updates: Vec<Extent>) -> Tree {
    merge_telling(tree, shelf, cache, updates).0
}

fn merge_telling(
    tree: Tree,
    shelf: &Shelf,
    cache: &PageCache,
    updates: Vec<Extent>,
) -> (Tree, Vec<FrameRef>) {
    let mut sink = Appender(shelf, Vec::new());
    let merged = block_on(tree.merge(shelf, cache, &mut sink, updates.into_iter())).unwrap();
    let loads = *shelf.loads.lock();
    let blocks = |tree| all(tree, shelf, cache).len() as i64;
    assert_eq!(merged.gained, blocks(merged.tree) - blocks(tree));
    *shelf.loads.lock() = loads;
    (merged.tree, sink.1)
}

/// All frames of a tree: its pages, and what they map.
fn frames(tree: Tree, shelf: &Shelf, cache: &PageCache) -> BTreeSet<FrameRef> {
    block_on(async {
        let mut out = BTreeSet::new();
        let mut walk = tree.walk(shelf, cache, 0..u64::MAX);
        while let Some(step) = walk.step().await.unwrap() {
            out.insert(match step {
                Step::Page { frame, .. } => frame,
                Step::Mapped(extent) => extent.at.unwrap().frame,
            });
        }
        out
    })
}

fn lookup(tree: Tree, shelf: &Shelf, cache: &PageCache, blocks: Range<u64>) -> Vec<Extent> {
    block_on(tree.lookup(shelf, cache, blocks)).unwrap()
}

fn all(tree: Tree, shelf: &Shelf, cache: &PageCache) -> BTreeMap<u64, Mapped> {
    block_on(async {
        let mut out = BTreeMap::new();
        let mut walk = tree.walk(shelf, cache, 0..u64::MAX);
        while let Some(e) = walk.next().await.unwrap() {
            for n in 0..e.count {
                let at = e.at.unwrap();
                assert!(out.insert(e.block + n, Mapped { skip: at.skip + n as u8, ..at }).is_none());
            }
        }
        out
    })
}

#[test]
fn golden_bytes() {
    let at = |volume, epoch, seq, offset, len| FrameRef {
        volume,
        epoch: Epoch(epoch),
        seq: Seq(seq),
        offset,
        len,
    };
    let entries = [
        Entry { start: 0, count: 16, skip: 0, frame: at(0, 1, 5, 0, 300) },
        Entry { start: 16, count: 1, skip: 0, frame: at(0, 1, 5, 300, 300) },
        Entry { start: 20, count: 2, skip: 14, frame: at(1, 2, 3, 70_000, 16) },
        Entry { start: 255, count: 1, skip: 0, frame: at(1, 2, 3, 70_016, 16) },
    ];
    let golden = [
        b"\x01\x00\x04\x00".to_vec(),
        b"\x5a\x10\x00\x01\x0a\xac\x02".to_vec(),
        b"\x00".to_vec(),
        b"\x7f\x03\x02\x0e\x01\x02\x03\xf0\xa2\x04\x10".to_vec(),
        b"\x01\xe9".to_vec(),
    ]
    .concat();
    assert_eq!(encode(0, &entries).1, golden);
    let page = Page::decode(golden.into(), 0).unwrap();
    assert_eq!(page.entries(0).collect::<Vec<_>>(), entries);
    assert_eq!(address(2, 0x0100_0000), 0x0200_0000_0100_0000);
    let mut w = windlass_base::codec::Writer::default();
    Root { frame: at(1, 2, 3, 70_000, 16), height: 3 }.encode(&mut w);
    assert_eq!(w.buf, b"\x01\x02\x03\xf0\xa2\x04\x10\x03");
}

#[test]
fn entries_are_as_short_as_the_module_says() {
    let mut n = 1u64;
    let mut random = |below: u64| {
        n = n.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (n >> 33) % below
    };
    let mut frame = |offset| FrameRef {
        volume: 0,
        epoch: Epoch(40),
        seq: Seq(100_000 + random(50_000)),
        offset: random(32 << 20).min(offset),
        len: 2000 + random(2000) as u32,
    };
    let scattered: Vec<_> =
        (0..256).map(|n| Entry { start: n, count: 1, skip: 0, frame: frame(u64::MAX) }).collect();
    let bytes = encode(0, &scattered).1.len();
    assert!((9 * 256..11 * 256).contains(&bytes), "{bytes}");
    let mut at = frame(0);
    let in_a_row: Vec<_> = (0..16)
        .map(|n| {
            at.offset += u64::from(at.len);
            at.len = 30_000 + u32::from(n);
            Entry { start: n * 16, count: 16, skip: 0, frame: at }
        })
        .collect();
    let bytes = encode(0, &in_a_row).1.len();
    assert!(bytes < 6 * 16, "{bytes}");
}

#[test]
fn a_tree_grows_shares_and_prunes() {
    let (shelf, cache) = (Shelf::default(), PageCache::new(1 << 20));
    let pages = || shelf.pages.lock().len();
    let one = merge(Tree::default(), &shelf, &cache, vec![mapped(5, 3, 1, 2)]);
    assert_eq!((one.root.unwrap().height, pages()), (0, 1));
    let high = (3u64 << 32) + 7;
    let two = merge(one, &shelf, &cache, vec![unmapped(300, 1 << 20), mapped(high, 1, 2, 0)]);
    assert_eq!(two.root.unwrap().height, 4);
    assert_eq!(
        pages(),
        1 + 3 + 4 + 1,
        "a spine above the old leaf, one above the new, the root; the leaf is shared"
    );
    assert_eq!(lookup(one, &shelf, &cache, 0..10), [unmapped(0, 5), mapped(5, 3, 1, 2), unmapped(8, 2)]);
    let ends = lookup(two, &shelf, &cache, 7..high + 2);
    assert_eq!(
        ends,
        [mapped(7, 1, 1, 4), unmapped(8, high - 8), mapped(high, 1, 2, 0), unmapped(high + 1, 1)]
    );
    assert_eq!(merge(two, &shelf, &cache, vec![unmapped(100, high - 100), unmapped(high + 1, 1 << 33)]), two);
    assert_eq!(merge(two, &shelf, &cache, vec![]), two);

    let none = merge(two, &shelf, &cache, vec![unmapped(0, 1 << 56)]);
    assert_eq!(none, Tree::default());
    let before = *shelf.loads.lock();
    let low = merge(two, &shelf, &PageCache::new(0), vec![unmapped(0, high)]);
    assert_eq!(
        *shelf.loads.lock() - before,
        12,
        "each page once, and those read ahead again: nothing is cached"
    );
    assert_eq!(all(low, &shelf, &cache).into_keys().collect::<Vec<_>>(), [high]);
}

#[test]
fn what_cannot_be_is_refused() {
    let (shelf, cache) = (Shelf::default(), PageCache::new(1 << 20));
    for bad in [
        vec![mapped(255, 2, 1, 0)],
        vec![mapped(0, 3, 1, 14)],
        vec![mapped(0, 0, 1, 0)],
        vec![mapped(5, 1, 1, 0), mapped(5, 1, 2, 0)],
        vec![unmapped(9, 1), unmapped(3, 1)],
        vec![unmapped(u64::MAX, 2)],
        vec![mapped(1 << 56, 1, 1, 0)],
    ] {
        let sink = &mut Appender(&shelf, Vec::new());
        let result = block_on(Tree::default().merge(&shelf, &cache, sink, bad.clone().into_iter()));
        assert!(result.unwrap_err().is(Kind::Internal), "{bad:?}");
    }
}

/// Fails or stalls on demand.
struct Flaky {
    shelf: Shelf,
    gate: tokio::sync::Semaphore,
    fails: Mutex<u32>,
}

#[async_trait]
impl Pages for Flaky {
    fn chunk(&self, at: &FrameRef) -> Result<ChunkId> {
        self.shelf.chunk(at)
    }
    async fn load(&self, at: &FrameRef, address: u64) -> Result<Bytes> {
        self.gate.acquire().await.unwrap().forget();
        if std::mem::take(&mut *self.fails.lock()) > 0 {
            return Err(Error::new(Kind::Unavailable, "away"));
        }
        self.shelf.load(at, address).await
    }
}

#[test]
fn a_page_is_loaded_once_whoever_waits_or_gives_up() {
    let shelf = Shelf::default();
    let tree = merge(Tree::default(), &shelf, &PageCache::new(1 << 20), vec![mapped(0, 1, 1, 0)]);
    let flaky = Flaky { shelf, gate: tokio::sync::Semaphore::new(0), fails: Mutex::new(1) };
    let cache = PageCache::new(1 << 20);
    let look = || Box::pin(tree.lookup(&flaky, &cache, 0..1));
    block_on(async {
        let (mut a, mut b, mut c) = (look(), look(), look());
        for task in [&mut a, &mut b, &mut c] {
            assert!(futures::poll!(task).is_pending());
        }
        drop(a);
        assert!(futures::poll!(&mut b).is_pending() && futures::poll!(&mut c).is_pending());
        flaky.gate.add_permits(1);
        let (b, c) = futures::join!(b, c);
        assert!(b.unwrap_err().is(Kind::Unavailable) && c.unwrap_err().is(Kind::Unavailable));
        flaky.gate.add_permits(1);
        let found = futures::future::join_all((0..5).map(|_| look())).await;
        assert!(found.into_iter().all(|f| f.unwrap() == [mapped(0, 1, 1, 0)]));
    });
    assert_eq!(*flaky.shelf.loads.lock(), 1);
    let stats = cache.stats();
    assert_eq!((stats.pages, stats.misses), (1, 3));
    cache.resize(0);
    assert_eq!((cache.stats().pages, cache.stats().bytes), (0, 0));
}

fn any_extent(high: u64) -> impl Strategy<Value = Extent> {
    let near = prop_oneof![0..1500u64, 0..high];
    let run = (near, 0..16u8, 1..17u64, any::<u32>()).prop_map(|(block, skip, count, n)| {
        let count = count.min(16 - u64::from(skip)).min(SLOTS - block % SLOTS);
        mapped(block, count, u64::from(n), skip)
    });
    let hole = (0..high, prop_oneof![1..300u64, 1..high]).prop_map(|(block, count)| unmapped(block, count));
    prop_oneof![4 => run, 1 => hole]
}

/// Sorted, each cut where the next begins.
fn sorted(mut updates: Vec<Extent>) -> Vec<Extent> {
    updates.sort_by_key(|e| e.block);
    for n in (1..updates.len()).rev() {
        let limit = updates[n].block;
        let before = &mut updates[n - 1];
        before.count = before.count.min(limit - before.block);
    }
    updates.retain(|e| e.count > 0);
    updates
}

fn apply(model: &mut BTreeMap<u64, Mapped>, e: &Extent) {
    let within: Vec<u64> = model.range(e.block..e.end()).map(|(b, _)| *b).collect();
    for block in within {
        model.remove(&block);
    }
    for (n, at) in (0..e.count).zip(std::iter::repeat(e.at)) {
        let Some(at) = at else { break };
        model.insert(e.block + n, Mapped { skip: at.skip + n as u8, ..at });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn trees_are_what_the_model_says_and_old_roots_stay(
        (high, small) in (prop_oneof![Just(1u64 << 12), Just(1 << 20), Just(1 << 34)], any::<bool>()),
        rounds in (0..u64::MAX).prop_flat_map(|_| prop::collection::vec(
            (prop::collection::vec(any_extent(1 << 34), 0..40), any::<prop::sample::Index>(), any::<u64>()), 1..8)),
    ) {
        let shelf = Shelf::default();
        let cache = PageCache::new(if small { 3000 } else { 1 << 20 });
        let mut states = vec![(Tree::default(), BTreeMap::new())];
        for (updates, from, probe) in rounds {
            let fold = |e: Extent| Extent { block: e.block % high, ..e };
            let updates = sorted(updates.into_iter().map(fold).collect());
            let mut updates: Vec<Extent> = updates;
            for e in &mut updates {
                if e.at.is_some() {
                    e.count = e.count.min(SLOTS - e.block % SLOTS);
                }
            }
            let (tree, mut model) = states[from.index(states.len())].clone();
            for e in &updates {
                apply(&mut model, e);
            }
            let (next, died) = merge_telling(tree, &shelf, &cache, updates.clone());
            let (before, after) = (frames(tree, &shelf, &cache), frames(next, &shelf, &cache));
            let told: BTreeSet<FrameRef> = died.iter().copied().collect();
            prop_assert_eq!(told.len(), died.len(), "each once");
            // The generator may give one frame to several leaves, which no log does.
            let alone = |f: &&FrameRef| !updates.iter().any(|e| e.at.is_some_and(|m| m.frame == **f));
            for lost in before.difference(&after).filter(alone) {
                prop_assert!(told.contains(lost), "{lost:?} died and nobody was told");
            }
            prop_assert!(told.iter().filter(alone).all(|f| !after.contains(f)));
            states.push((next, model));
            let start = probe % high;
            for (tree, model) in &states {
                prop_assert_eq!(&all(*tree, &shelf, &cache), model);
                let mut at = start;
                for e in lookup(*tree, &shelf, &cache, start..start + 700) {
                    prop_assert_eq!(e.block, at);
                    at = e.end();
                    for n in 0..e.count {
                        let found = e.at.map(|m| Mapped { skip: m.skip + n as u8, ..m });
                        prop_assert_eq!(found, model.get(&(e.block + n)).copied());
                    }
                }
                prop_assert_eq!(at, start + 700);
            }
        }
        prop_assert!(cache.stats().bytes <= 1 << 20);
    }

    #[test]
    fn any_bytes_are_harmless(level in 0..3u8, mut bytes in prop::collection::vec(any::<u8>(), 4..300), n in 1..40u8) {
        bytes[..4].copy_from_slice(&[1, level, n, 0]);
        for b in &mut bytes[4..] {
            *b &= 0x7f;
        }
        if let Ok(page) = Page::decode(bytes.into(), level) {
            let entries: Vec<Entry> = page.entries(0).collect();
            prop_assert_eq!(entries.len(), usize::from(n));
            for slot in 0..SLOTS as u16 {
                let expected = entries.iter().position(|e| e.end() > slot).map_or(&[][..], |n| &entries[n..]);
                prop_assert_eq!(&page.entries(slot).collect::<Vec<_>>()[..], expected);
            }
        }
    }

    #[test]
    fn pages_come_back(runs in prop::collection::vec((0..4u16, 1..17u16, any::<u64>(), any::<bool>()), 1..60)) {
        let (mut entries, mut at) = (Vec::new(), 0);
        for (gap, count, n, skip) in runs {
            let (start, count) = (at + gap, count.min(8));
            if start + count > 256 { break }
            at = start + count;
            entries.push(Entry { start, count, skip: if skip { 3 } else { 0 }, frame: frame(n >> 34) });
        }
        prop_assume!(!entries.is_empty());
        let (made, bytes) = encode(0, &entries);
        let page = Page::decode(bytes, 0).unwrap();
        prop_assert_eq!(&page, &made);
        prop_assert_eq!(page.entries(0).collect::<Vec<_>>(), entries);
    }
}

#[test]
fn a_walk_passes_over_pages_unread() {
    let (shelf, cache) = (Shelf::default(), PageCache::new(1 << 20));
    // Leaves in four parts of the disk, below two inner pages.
    let leaves = [0, 5 * SLOTS, SLOTS * SLOTS, SLOTS * SLOTS + 9 * SLOTS];
    let updates = leaves.iter().enumerate().map(|(n, block)| mapped(*block, 2, n as u64 * 3, 0));
    let tree = merge(Tree::default(), &shelf, &cache, updates.collect());
    let steps = |passed: &BTreeSet<FrameRef>| {
        let cache = PageCache::new(1 << 20);
        *shelf.loads.lock() = 0;
        let mut walk = tree.walk_where(&shelf, &cache, |page| !passed.contains(page));
        let (mut pages, mut blocks) = (Vec::new(), Vec::new());
        while let Some(step) = block_on(walk.step()).unwrap() {
            match step {
                Step::Page { frame, .. } => pages.push(frame),
                Step::Mapped(extent) => blocks.push(extent.block),
            }
        }
        drop(walk);
        (pages, blocks, *shelf.loads.lock())
    };
    let (pages, blocks, loads) = steps(&BTreeSet::new());
    assert_eq!((pages.len(), &blocks[..], loads), (7, &leaves[..], 7));
    let (_, blocks, loads) = steps(&[pages[3], pages[4]].into());
    assert_eq!((&blocks[..], loads), (&leaves[..1], 3), "a leaf, and an inner page with all below it");
    let (seen, blocks, loads) = steps(&[pages[0]].into());
    assert!(seen.is_empty() && blocks.is_empty() && loads == 0, "not even the root is read");
}

#[test]
fn what_is_known_without_loading_is_what_a_look_up_finds() {
    let (shelf, cache) = (Shelf::default(), PageCache::new(1 << 20));
    let starts = [0, 7, 250, 5 * SLOTS, SLOTS * SLOTS + 3];
    let updates = starts.iter().enumerate().map(|(n, block)| mapped(*block, 3, n as u64 * 3, 0));
    let tree = merge(Tree::default(), &shelf, &cache, updates.collect());
    let cold = PageCache::new(1 << 20);
    let ranges = [0..SLOTS, 1..2, 8..260, 0..2 * SLOTS * SLOTS, SLOTS * SLOTS + 4..SLOTS * SLOTS + 5];
    for range in ranges {
        let nothing = tree.known(&shelf, &PageCache::new(1 << 20), range.clone()).unwrap();
        assert!(nothing.lacks && nothing.extents.is_empty(), "not even the root is here");
        let found = lookup(tree, &shelf, &cold, range.clone());
        let loads = *shelf.loads.lock();
        let known = tree.known(&shelf, &cold, range.clone()).unwrap();
        assert_eq!(known.extents, found.iter().filter(|e| e.at.is_some()).copied().collect::<Vec<_>>());
        assert!(!known.lacks && lookup(tree, &shelf, &cold, range) == found && *shelf.loads.lock() == loads);
    }
    assert!(tree.known(&shelf, &cold, 1 << 40..1 << 41).unwrap().extents.is_empty(), "beyond the root");
    assert!(!Tree::default().known(&shelf, &cold, 0..9).unwrap().lacks, "nothing is mapped");
}
