//! What raw disks begin with: boot records, tables of partitions, filesystems, and what is built on disks.

/// Marks of disks: the offset of the mark, the mark, and what it belongs to.
const MARKS: &[(usize, &[u8], &str)] = &[
    (510, b"\x55\xaa", "a boot record"),
    (512, b"EFI PART", "GPT"),
    (4096, b"EFI PART", "GPT"),
    (512, b"PM\0\0", "an Apple partition map"),
    (508, b"\xda\xbe", "a Sun label"),
    (0, b"LUKS\xba\xbe", "LUKS"),
    (1080, b"\x53\xef", "ext2, ext3 or ext4"),
    (0, b"XFSB", "XFS"),
    (0x1_0040, b"_BHRfS_M", "btrfs"),
    (1024, b"\x10\x20\xf5\xf2", "F2FS"),
    (1024, b"\xe2\xe1\xf5\xe0", "EROFS"),
    (0, b"hsqs", "squashfs"),
    (0x8001, b"CD001", "ISO 9660"),
    (0x8001, b"BEA01", "UDF"),
    (0x1_0034, b"ReIsErFs", "ReiserFS"),
    (0x1_0034, b"ReIsEr2Fs", "ReiserFS"),
    (0x8000, b"JFS1", "JFS"),
    (1030, b"\x34\x34", "NILFS2"),
    (32, b"NXSB", "APFS"),
    (1024, b"H+\0\x04", "HFS+"),
    (0x1_0000, b"\x01\x16\x19\x70", "GFS2"),
    (0x2000, b"OCFSV2", "OCFS2"),
    (32, b"ORCLDISK", "Oracle ASM"),
    (0, b"bluestore block device", "Ceph BlueStore"),
    (0, b"ReFS", "ReFS"),
    (4086, b"SWAPSPACE2", "swap space"),
    (4096, b"\xfc\x4e\x2b\xa9", "a member of an array"),
    (0, b"\xfc\x4e\x2b\xa9", "a member of an array"),
    (4120, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca", "bcache"),
];
/// Mark of LVM, which puts its label into one of the first sectors.
const LVM: &[u8] = b"LABELONE";

/// Names the reason to take bytes for a disk that begins so. `None`: it has no known mark.
pub fn is_marked_disk(head: &[u8]) -> Option<&'static str> {
    let has = |at: usize, mark: &[u8]| head.get(at..).is_some_and(|rest| rest.starts_with(mark));
    let found = MARKS.iter().find(|(at, mark, _)| has(*at, mark)).map(|(.., name)| *name);
    found.or_else(|| (0..4).any(|sector| has(sector * 512, LVM)).then_some("LVM"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mark_is_found_where_it_lies() {
        for (at, mark, name) in MARKS {
            let head = [&vec![0; *at][..], mark, &[0; 8]].concat();
            assert_eq!(is_marked_disk(&head), Some(*name));
            assert_eq!(is_marked_disk(&head[..at + mark.len() - 1]), None, "{name}, cut off");
        }
        assert_eq!(is_marked_disk(&[&[0; 512][..], LVM].concat()), Some("LVM"));
        assert_eq!(is_marked_disk(&[0; 128 << 10]), None);
    }
}
