//! What stores hold of a pool beside volumes' data: labels, registers, catalogs, footers of shards, names of objects; and the
//! list of missing shards on this host.

use super::chunk::{About, Footer};
use super::io::fuzz as catalog;
use super::local::fuzz as local;
use super::register::fuzz as register;
use super::stores::{Named, parse};
use super::{
    ChunkKind, Label, Layout, PoolConfig, PoolSettings, StoreEntry, label_key, register_key, shard_key,
};
use windlass_base::sum::crc32c;
use windlass_base::{ChunkId, Epoch, Era, Incarnation, PoolId, Seq, VolumeId};
use windlass_fuzz::{Target, number, text, texts};
use windlass_keys::{PoolKey, Secret};

pub const TARGETS: &[Target] = &[
    Target { name: "chunk_footer", run: footer, seeds: some_footers, memory: 64 << 10 },
    Target { name: "label", run: label, seeds: some_labels, memory: 256 << 10 },
    Target { name: "pool_config", run: config, seeds: some_configs, memory: 256 << 10 },
    Target {
        name: "register_object",
        run: register::object,
        seeds: register::some_objects,
        memory: 256 << 10,
    },
    Target { name: "catalog_node", run: catalog::node, seeds: catalog::some_nodes, memory: 64 << 10 },
    Target { name: "missing_shards", run: local::list, seeds: local::some_lists, memory: 64 << 10 },
    Target { name: "object_key", run: key, seeds: some_keys, memory: 64 << 10 },
];

fn some_footers() -> Vec<Vec<u8>> {
    let about = About {
        id: ChunkId { volume: VolumeId(0x1122), epoch: Epoch(3), seq: Seq(77) },
        era: Era(5),
        kind: ChunkKind::Map,
        layout: Layout::new(2, 1).expect("two and one"),
        lengths: vec![100_000, 7],
        toc_offset: 1 << 24,
        toc_len: 7,
        payload_hash: 0xaabb,
    };
    let of = |index: usize, checks: &[u32]| {
        Footer { about: about.clone(), index, shard_hash: 0xccdd, checks: checks.into() }.encode()
    };
    [of(2, &[1, 2]), of(1, &[3])]
        .into_iter()
        .map(|footer| [&[0; 8], &footer[..footer.len() - 16]].concat())
        .collect()
}

/// The object's size, and the footer's fields. With length, checksum and magic behind them they are a footer.
fn footer(data: &[u8]) {
    let (size, fields) = number(data);
    let _ = Footer::decode(data, size);
    let mut bytes = [fields, &(fields.len() as u32 + 16).to_le_bytes()].concat();
    let sum = crc32c(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes.extend_from_slice(b"WLSHARD1");
    // Of any size that fits: the longest shard has 16 MiB.
    let of = |size: u64| Footer::decode(&bytes, size);
    let _ = of(size);
    let Some(lengths) = fields.get(96..) else { return };
    for shard in lengths.chunks_exact(4).take(64) {
        let shard = u32::from_le_bytes(shard.try_into().expect("four bytes"));
        let Ok(footer) = of(u64::from(shard) + bytes.len() as u64) else { continue };
        let again = footer.encode();
        let size = footer.about.shard_len(footer.index) as u64 + again.len() as u64;
        assert_eq!(Footer::decode(&again, size).ok().as_ref(), Some(&footer));
        let hashes = vec![7; footer.about.lengths.len()];
        let _ = footer.about.hash(&hashes);
        assert!(!footer.is_whole(&data[..data.len().min(9)]) || footer.shard_hash != 0);
        let _ = footer.covers(0, data);
        return;
    }
}

fn pool_key() -> PoolKey {
    PoolKey::new(&Secret::new([5; 32]))
}

fn some_config() -> PoolConfig {
    let store = |n: u128| StoreEntry {
        url: format!("file:///s{n}"),
        zone: Some(format!("z{n}")),
        incarnation: Incarnation(n),
        conditions: windlass_store::ConditionalPuts::Held,
    };
    let (name, layout) = ("tank".parse().expect("a name"), "1+2".parse().expect("a layout"));
    let stores = vec![store(1), store(2), store(3)];
    PoolConfig::new(PoolId(7), name, layout, stores, PoolSettings::default()).expect("three stores for 1+2")
}

fn some_labels() -> Vec<Vec<u8>> {
    let label = Label::new(PoolId(7), 1, Incarnation(2), some_config());
    let all =
        [label.clone().encode(None), label.clone().condemned().encode(None), label.encode(Some(&pool_key()))];
    all.into_iter().map(Vec::from).collect()
}

/// As it lies there, and as one that who has the key would have signed.
fn label(data: &[u8]) {
    let key = pool_key();
    for key in [None, Some(&key)] {
        let Ok(label) = Label::read(data, key) else { continue };
        assert_eq!(Label::read(&label.encode(key), key).ok(), Some(label));
    }
    let Ok(label) = Label::decode(data) else { return };
    judged(&label.hint);
    let signed = label.encode(Some(&key));
    assert!(Label::read(&signed, Some(&key)).is_ok());
    assert!(Label::read(&signed, None).is_err());
}

fn some_configs() -> Vec<Vec<u8>> {
    let first = some_config();
    let mut stores = first.stores.clone();
    stores[1].incarnation = Incarnation(9);
    let next = first.with_store(1, stores[1].clone()).expect("all keep conditions");
    let forced = first.with_forced(stores, [2].into(), true).expect("all keep conditions");
    [first, next, forced].iter().map(|config| config.encode().into()).collect()
}

fn config(data: &[u8]) {
    if let Ok(config) = PoolConfig::decode(data) {
        assert_eq!(PoolConfig::decode(&config.encode()).ok().as_ref(), Some(&config));
        judged(&config);
        let stores = config.stores.clone();
        let _ = config.with_forced(stores, Default::default(), true);
    }
}

/// What hosts work out of a description, before and after it was checked.
fn judged(config: &PoolConfig) {
    let is_sound = config.check().is_ok();
    let _ = (config.w(), config.check_settings(), config.settled(), config.given_up());
    if let (true, Some(before)) = (is_sound, config.predecessor()) {
        assert!(before.generation < config.generation);
        assert_eq!(before.stores.len(), config.stores.len());
    }
}

fn some_keys() -> Vec<Vec<u8>> {
    let id = |seq| ChunkId { volume: VolumeId(0x0123_4567_89ab_cdef), epoch: Epoch(3), seq };
    let (chunk, pack) = (shard_key(&id(Seq(42)), 5), shard_key(&id(Seq::pack(9)), 0));
    texts(&[
        &chunk,
        &pack,
        "reg/00000000000000000000000000000007",
        "label-00000000000000000000000000000007",
        "aside/x",
        "probe/y",
    ])
}

/// One key names one thing.
fn key(data: &[u8]) {
    text(data, |key| match parse(key) {
        Named::Shard(id, shard) => assert_eq!(shard_key(&id, shard), key),
        Named::Register(id) => assert_eq!(parse(&register_key(id)), Named::Register(id)),
        Named::Label(pool) => assert_eq!(label_key(pool), key),
        Named::Other | Named::Foreign => {}
    });
}

#[test]
fn parsers_take_their_corpora_and_what_is_near_them() {
    windlass_fuzz::try_all(TARGETS);
}
