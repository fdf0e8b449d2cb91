//! Pages of maps, and their roots.

use super::Root;
use super::page::{Entry, LEVEL_MAX, PAGE_MAX, Page, encode};
use windlass_base::codec::{Reader, Writer};
use windlass_base::{Epoch, Seq};
use windlass_fuzz::{Target, choice};
use windlass_log::FrameRef;

pub const TARGETS: &[Target] = &[
    Target { name: "map_page", run: page, seeds: some_pages, memory: 64 << 10 },
    Target { name: "map_root", run: root, seeds: some_roots, memory: 16 << 10 },
];

fn frame(n: u64) -> FrameRef {
    FrameRef { volume: 1, epoch: Epoch(2), seq: Seq(n), offset: 4096 * n, len: 900 }
}

fn some_pages() -> Vec<Vec<u8>> {
    let leaf = |n: u16| Entry { start: n * 20, count: 4, skip: (n % 3) as u8, frame: frame(n.into()) };
    let inner = |n: u16| Entry { start: n, count: 1, skip: 0, frame: frame(n.into()) };
    let leaves: Vec<Entry> = (0..12).map(leaf).collect();
    let inners: Vec<Entry> = (0..40).map(inner).collect();
    [(0, leaves), (2, inners)].map(|(level, all)| [&[level], &encode(level, &all).1[..]].concat()).into()
}

/// Decodes `data` as a level and the bytes of a page of that level.
fn page(data: &[u8]) {
    let (level, bytes) = choice(data);
    let level = level % (LEVEL_MAX + 1);
    let Ok(page) = Page::decode(bytes.to_vec().into(), level) else { return };
    let entries: Vec<Entry> = page.entries(0).collect();
    assert!(!entries.is_empty() && entries.is_sorted_by(|a, b| a.end() <= b.start));
    for slot in [0, 1, 100, 255] {
        let rest: Vec<Entry> = page.entries(slot).collect();
        assert!(entries.ends_with(&rest) && rest.iter().all(|e| e.end() > slot));
    }
    let (again, bytes) = encode(level, &entries);
    assert!(bytes.len() <= PAGE_MAX && again.cost() > 0);
    assert_eq!(again.entries(0).collect::<Vec<_>>(), entries);
}

fn some_roots() -> Vec<Vec<u8>> {
    let mut w = Writer::default();
    Root { frame: frame(7), height: 3 }.encode(&mut w);
    vec![w.buf]
}

fn root(data: &[u8]) {
    let mut r = Reader::new(data, "a root");
    if let Ok(root) = Root::decode(&mut r) {
        assert!(root.height <= LEVEL_MAX);
        let mut w = Writer::default();
        root.encode(&mut w);
        assert_eq!(Root::decode(&mut Reader::new(&w.buf, "a root")).ok(), Some(root));
    }
}

#[test]
fn parsers_take_their_corpora_and_what_is_near_them() {
    windlass_fuzz::try_all(TARGETS);
}
