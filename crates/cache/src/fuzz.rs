//! The cache on the local disk.

use super::disk::fuzz as disk;
use windlass_fuzz::Target;

pub const TARGETS: &[Target] = &[
    Target { name: "cache_parts", run: disk::parts, seeds: disk::some_parts, memory: 64 << 10 },
    Target { name: "cache_file", run: disk::file, seeds: disk::some_edits, memory: 4 << 20 },
];

#[test]
fn parsers_take_their_corpora_and_what_is_near_them() {
    windlass_fuzz::try_all(TARGETS);
}
