//! Names of a pool's objects (protocol §6.4); which store a shard belongs on: `placement`.
//!
//! `hh/VOLUMEID/c-EPOCH-SEQ.SHARD`, `hh/VOLUMEID/p-EPOCH-N.SHARD`, `reg/ID`, `label-POOL`, `aside/…`, `probe/…`. `hh` = the
//! first (most significant) byte of xxh3-64 of the rest, two hexadecimal digits; numbers are decimal, the volume id 32
//! digits.

use xxhash_rust::xxh3::xxh3_64;

use super::label::pool_of_label;
use windlass_base::{ChunkId, Epoch, PoolId, RegisterId, Seq, VolumeId};

/// Prefix of the keys to which `repair` moves objects that aren't the pool's.
pub const ASIDE: &str = "aside/";
/// Prefix of the keys at which stores are tried out.
pub const PROBES: &str = "probe/";
/// Prefix of the keys of registers.
pub const REGISTERS: &str = "reg/";

/// Returns the key of a chunk's shard.
pub fn shard_key(id: &ChunkId, shard: usize) -> String {
    with_prefix(format!("{id}.{shard}"))
}

/// Returns the key of a register's acceptor object.
pub fn register_key(id: RegisterId) -> String {
    format!("{REGISTERS}{id}")
}

fn with_prefix(rest: String) -> String {
    format!("{:02x}/{rest}", xxh3_64(rest.as_bytes()) >> 56)
}

/// The thing that a key names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Named {
    Shard(ChunkId, usize),
    Register(RegisterId),
    /// The label of this pool.
    Label(PoolId),
    /// An object that was moved aside, or that is there to try the store out.
    Other,
    Foreign,
}

/// Reads a key; only the very spelling that `shard_key` gives is a shard's.
pub fn parse(key: &str) -> Named {
    if key.starts_with(ASIDE) || key.starts_with(PROBES) {
        return Named::Other;
    }
    if let Some(pool) = pool_of_label(key) {
        return Named::Label(pool);
    }
    if let Some(id) = key.strip_prefix(REGISTERS) {
        return id.parse().map_or(Named::Foreign, Named::Register);
    }
    match parse_shard(key) {
        Some((id, shard)) if shard_key(&id, shard) == key => Named::Shard(id, shard),
        _ => Named::Foreign,
    }
}

fn parse_shard(key: &str) -> Option<(ChunkId, usize)> {
    let (_, rest) = key.split_once('/')?;
    let (volume, name) = rest.split_once('/')?;
    let volume: VolumeId = volume.parse().ok()?;
    let (kind, numbers) = name.split_once('-')?;
    let (epoch, rest) = numbers.split_once('-')?;
    let (seq, shard) = rest.split_once('.')?;
    let n = seq.parse().ok()?;
    let seq = match kind {
        "c" if Seq(n).as_pack().is_none() => Seq(n),
        "p" if Seq(n).as_pack().is_none() => Seq::pack(n),
        _ => return None,
    };
    let id = ChunkId { volume, epoch: Epoch(epoch.parse().ok()?), seq };
    Some((id, shard.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(seq: u64) -> ChunkId {
        ChunkId { volume: VolumeId(0x0123_4567_89ab_cdef), epoch: Epoch(3), seq: Seq(seq) }
    }

    #[test]
    fn keys_are_as_written_down() {
        assert_eq!(shard_key(&id(42), 5), "18/00000000000000000123456789abcdef/c-3-42.5");
        assert_eq!(register_key(RegisterId(7)), "reg/00000000000000000000000000000007");
    }

    #[test]
    fn keys_parse_back_in_one_spelling() {
        for seq in [1, 9, 10, u64::MAX / 2, Seq::pack(1).0, u64::MAX] {
            for shard in [0, 13] {
                assert_eq!(parse(&shard_key(&id(seq), shard)), Named::Shard(id(seq), shard));
            }
        }
        let key = shard_key(&id(42), 5);
        for bad in [
            key.replace("42", "042"),
            key.replace("18/", "19/"),
            key.replace(".5", ".+5"),
            format!("{key}x"),
            "x".into(),
            "reg/x".into(),
            String::new(),
        ] {
            assert_eq!(parse(&bad), Named::Foreign, "{bad}");
        }
        assert_eq!(parse("reg/00000000000000000000000000000007"), Named::Register(RegisterId(7)));
        for ours in ["probe/y", "aside/x"] {
            assert_eq!(parse(ours), Named::Other, "{ours}");
        }
        assert_eq!(parse("label-00000000000000000000000000000007"), Named::Label(PoolId(7)));
        for bad in ["label", "label-", "label-7", "label-0000000000000000000000000000000A"] {
            assert_eq!(parse(bad), Named::Foreign, "{bad}");
        }
    }
}
