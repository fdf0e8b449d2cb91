//! CRC32C (Castagnoli; the CRC of iSCSI, RFC 3720), the checksum of what may rot at rest.

use crc_fast::{CrcAlgorithm, Digest};

pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// Returns the CRC-32 (ISO-HDLC, that of zip and Ethernet), which S3 servers take by default.
pub fn crc32(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iso_hdlc(bytes)
}

/// Returns the CRC32C of the parts as if they lay behind each other.
pub fn crc32c_of(parts: &[&[u8]]) -> u32 {
    let mut sum = Digest::new(CrcAlgorithm::Crc32Iscsi);
    parts.iter().for_each(|part| sum.update(part));
    sum.finalize() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_sums() {
        // RFC 3720, B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(b""), 0);
        // The catalogue's check value.
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32c_of(&[b"123", b"", b"4567", b"89"]), 0xe306_9283);
        let long: Vec<u8> = (0..100_000u32).map(|i| ((i * 7) >> 3) as u8).collect();
        for at in [0, 1, 63, 4096, 65_537, 100_000] {
            assert_eq!(crc32c_of(&[&long[..at], &long[at..]]), crc32c(&long));
        }
    }
}
