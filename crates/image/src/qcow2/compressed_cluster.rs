//! Compressed clusters.

use flate2::{Decompress, FlushDecompress, Status};
use zstd::zstd_safe;

use super::header::ClusterCompression;
use windlass_base::{Error, Kind, Result};

/// Decompresses the cluster that `packed` begins with: all of `cluster` bytes, or an error. What follows it
/// in `packed` belongs to another cluster.
pub fn unpack(by: ClusterCompression, packed: &[u8], cluster: usize) -> Result<Vec<u8>> {
    let mut out = vec![0; cluster];
    let whole = match by {
        ClusterCompression::Zlib => inflate(packed, &mut out),
        ClusterCompression::Zstd => unzstd(packed, &mut out),
    };
    match whole {
        true => Ok(out),
        false => Err(Error::new(Kind::Invalid, "a compressed cluster can't be decompressed")),
    }
}

fn inflate(packed: &[u8], out: &mut [u8]) -> bool {
    let mut inflate = Decompress::new(false);
    let done = inflate.decompress(packed, out, FlushDecompress::Finish);
    let full = inflate.total_out() == out.len() as u64;
    matches!(done, Ok(Status::StreamEnd | Status::BufError | Status::Ok)) && full
}

/// Decompresses a zstd frame in one step into the memory that is there: the window that the frame asks for is
/// not allocated.
fn unzstd(packed: &[u8], out: &mut [u8]) -> bool {
    let frame = zstd_safe::find_frame_compressed_size(packed).ok().and_then(|len| packed.get(..len));
    let Some(frame) = frame else { return false };
    zstd::bulk::decompress_to_buffer(frame, out).is_ok_and(|len| len == out.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::DeflateEncoder;
    use std::io::Write as _;

    #[test]
    fn what_follows_a_cluster_is_left() {
        let cluster: Vec<u8> = (0..65_536u32).map(|n| (n / 100) as u8).collect();
        let mut deflate = DeflateEncoder::new(Vec::new(), Compression::default());
        deflate.write_all(&cluster).unwrap();
        let deflated = [deflate.finish().unwrap(), vec![0xaa; 300]].concat();
        let zstd = [zstd::bulk::compress(&cluster, 3).unwrap(), vec![0xaa; 300]].concat();
        for (by, packed) in [(ClusterCompression::Zlib, deflated), (ClusterCompression::Zstd, zstd)] {
            assert_eq!(unpack(by, &packed, cluster.len()).unwrap(), cluster);
            assert!(unpack(by, &packed, cluster.len() * 2).is_err(), "shorter than a cluster");
            assert!(unpack(by, &packed[..100], cluster.len()).is_err());
            assert!(unpack(by, &[0xff; 64], cluster.len()).is_err());
            assert!(unpack(by, &[], cluster.len()).is_err());
        }
    }
}
