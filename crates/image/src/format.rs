//! What a file is, told by its bytes. Names tell nothing: people rename files.
//!
//! A raw disk bears no mark of its own, so it needs a reason: what disks begin with (`disk_marks`), or at least a whole number
//! of sectors. What is known not to be one is refused by name (`other_marks`), and so is text.

use std::path::Path;
use std::str::FromStr;

use super::disk_marks::is_marked_disk;
use super::other_marks::{footer_of, other, unread};
use super::raw_source::SECTOR;
use windlass_base::{Error, Kind, Result};

/// Number of first bytes of a file that are enough for `detect`.
pub const HEAD_BYTES: usize = 128 << 10;
/// Number of last bytes of a file that are enough for `check_end`.
pub const TAIL_BYTES: usize = 512;

/// Formats of images that can be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Raw,
    Qcow2,
    /// A raw disk, compressed as a whole.
    Compressed(Compression),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    Gzip,
    Xz,
    Zstd,
}

/// The format that the first bytes of a file tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Detected {
    pub format: Format,
    /// The reason to take the file for a disk. `None`: nothing speaks for that and nothing against.
    pub reason: Option<&'static str>,
}

const QCOW: &[u8] = b"QFI\xfb";
const GZIP: &[u8] = b"\x1f\x8b\x08";
const XZ: &[u8] = b"\xfd7zXZ\0";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
/// The mark, without its first byte, of a skippable frame: a zstd stream may begin with such a frame, which
/// holds no data, as `pzstd` does. The upper half of the first byte is 5, its lower half may be anything.
const ZSTD_SKIPPED: &[u8] = b"\x2a\x4d\x18";

/// Returns how a file that begins so is compressed, if it is.
pub fn compression_of(head: &[u8]) -> Option<Compression> {
    let is_skipped = head.first().is_some_and(|byte| byte >> 4 == 5) && head[1..].starts_with(ZSTD_SKIPPED);
    match head {
        _ if head.starts_with(GZIP) => Some(Compression::Gzip),
        _ if head.starts_with(XZ) => Some(Compression::Xz),
        _ if head.starts_with(ZSTD) || is_skipped => Some(Compression::Zstd),
        _ => None,
    }
}

/// Returns how a file of this name is compressed, by the name's ending.
pub fn compression_named(name: &str) -> Option<Compression> {
    match Path::new(name).extension()?.to_str()? {
        "gz" => Some(Compression::Gzip),
        "xz" => Some(Compression::Xz),
        "zst" => Some(Compression::Zstd),
        _ => None,
    }
}

/// Returns the format of a file that begins so.
///
/// # Errors
/// `Unsupported`: the file has a format that is not read, or is no disk.
pub fn detect(head: &[u8]) -> Result<Detected> {
    if head.starts_with(QCOW) {
        return match head.get(4..8) {
            Some([0, 0, 0, 1]) => Err(unread("qcow version 1")),
            _ => Ok(Detected { format: Format::Qcow2, reason: Some("its mark") }),
        };
    }
    if let Some(compression) = compression_of(head) {
        return Ok(Detected { format: Format::Compressed(compression), reason: Some("its mark") });
    }
    let reason = is_marked_disk(head);
    match other(head, reason.is_some()) {
        Some(why) => Err(why),
        None => Ok(Detected { format: Format::Raw, reason }),
    }
}

/// Checks the end of a raw disk. `reason`: what the disk's first bytes said for it; `len`: its length;
/// `tail`: its last bytes.
///
/// # Errors
/// `Unsupported`: the file is no raw disk.
pub fn check_end(reason: Option<&'static str>, len: u64, tail: &[u8]) -> Result<()> {
    if let Some(why) = footer_of(tail) {
        return Err(why);
    }
    match reason.is_some() || len.is_multiple_of(SECTOR) {
        true => Ok(()),
        false => Err(Error::new(
            Kind::Unsupported,
            format!(
                "nothing in the image says that it is a disk, and its {len} bytes are no whole number of sectors: say --format \
                 raw if it is one"
            ),
        )),
    }
}

impl FromStr for Format {
    type Err = Error;
    fn from_str(s: &str) -> Result<Format> {
        match s {
            "raw" => Ok(Format::Raw),
            "qcow2" => Ok(Format::Qcow2),
            _ => Err(Error::new(Kind::Usage, format!("{s:?} is no format: use raw or qcow2"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format_of(head: &[u8]) -> Result<Format> {
        detect(head).map(|found| found.format)
    }

    #[test]
    fn marks_tell_formats() {
        let long = |mark: &[u8]| [mark, &[0; 100]].concat();
        for (mark, format) in [
            (&b"QFI\xfb\0\0\0\x03"[..], Format::Qcow2),
            (b"QFI\xfb\0\0\0\x09", Format::Qcow2),
            (b"\x1f\x8b\x08", Format::Compressed(Compression::Gzip)),
            (b"\xfd7zXZ\0", Format::Compressed(Compression::Xz)),
            (b"\x28\xb5\x2f\xfd", Format::Compressed(Compression::Zstd)),
            (b"\x50\x2a\x4d\x18\x04\0\0\0", Format::Compressed(Compression::Zstd)),
            (b"\x5f\x2a\x4d\x18\x04\0\0\0", Format::Compressed(Compression::Zstd)),
            (b"\xeb\x63\x90", Format::Raw),
            (b"QFI", Format::Raw),
        ] {
            assert_eq!(format_of(&long(mark)).unwrap(), format, "{mark:?}");
        }
        for empty in [&b""[..], b"\0", b"\0\0"] {
            assert_eq!(format_of(empty).unwrap(), Format::Raw);
        }
        assert!(format_of(&long(b"QFI\xfb\0\0\0\x01")).unwrap_err().is(Kind::Unsupported));
    }

    #[test]
    fn a_disk_without_a_mark_has_whole_sectors() {
        let noise: Vec<u8> = (0..4096u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let found = detect(&noise).unwrap();
        assert_eq!((found.format, found.reason), (Format::Raw, None));
        check_end(found.reason, 4096, &noise[..512]).unwrap();
        let odd = check_end(found.reason, 4097, &noise[..512]).unwrap_err();
        assert!(odd.is(Kind::Unsupported) && odd.to_string().contains("--format raw"), "{odd}");
        check_end(Some("a boot record"), 4097, &noise[..512]).unwrap();
        let mut vhd = noise[..512].to_vec();
        vhd[..8].copy_from_slice(b"conectix");
        let footer = check_end(Some("a boot record"), 4096, &vhd).unwrap_err();
        assert!(footer.is(Kind::Unsupported) && footer.to_string().contains("VHD"), "{footer}");
    }

    #[test]
    fn names_tell_how_a_file_is_compressed_that_is_said_to_be_raw() {
        for (name, how) in [
            ("x.gz", Some(Compression::Gzip)),
            ("a/b.raw.xz", Some(Compression::Xz)),
            ("disk.zst", Some(Compression::Zstd)),
            ("disk.raw", None),
            ("-", None),
            ("gz", None),
        ] {
            assert_eq!(compression_named(name), how, "{name}");
        }
    }
}
