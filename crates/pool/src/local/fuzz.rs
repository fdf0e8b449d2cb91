//! The list of missing shards in the state folder.

use super::missing_shards::decode;
use windlass_base::PoolId;
use windlass_base::codec::Writer;
use windlass_fuzz::with_crc;

const POOL: PoolId = PoolId(1);

pub fn some_lists() -> Vec<Vec<u8>> {
    let mut w = Writer::default();
    w.raw(b"WLHINTS3").u128(POOL.0).u8(2).u64(3).u32(1);
    w.u128(7).u64(1).u64(2).u64(5).u64(4).u64(1).u64(10);
    vec![w.buf]
}

/// Decodes the data as a list of missing shards, once as it is and once with its checksum behind it.
pub fn list(data: &[u8]) {
    let _ = decode(data, POOL);
    if let Ok(known) = decode(&with_crc(data), POOL) {
        let _ = format!("{known:?}");
    }
}
