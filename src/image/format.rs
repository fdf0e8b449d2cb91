//! What a file is, told by its first bytes. Names tell nothing: people rename files.

use std::str::FromStr;

use super::rbd_diff_codec;
use crate::base::{Error, Kind, Result};

/// So many first bytes are enough for `detect`.
pub const HEAD_BYTES: usize = 512;

/// What an image is.
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

const QCOW: &[u8] = b"QFI\xfb";

const COMPRESSED: &[(&[u8], Compression)] = &[
    (b"\x1f\x8b\x08", Compression::Gzip),
    (b"\xfd7zXZ\0", Compression::Xz),
    (b"\x28\xb5\x2f\xfd", Compression::Zstd),
];

/// Formats that are known and not read: where their mark lies, the mark, the name, and how `qemu-img` calls it.
const UNREAD: &[(usize, &[u8], &str)] = &[
    (0, b"KDMV", "VMDK"),
    (0, b"COWD", "VMDK"),
    (0, b"# Disk DescriptorFile", "VMDK"),
    (0, b"vhdxfile", "VHDX"),
    (0, b"conectix", "VHD"),
    (64, b"\x7f\x10\xda\xbe", "VDI"),
    (0, b"QED\0", "QED"),
    (0, b"WithoutFreeSpace", "Parallels"),
    (0, b"WithouFreSpacExt", "Parallels"),
    (0, b"LUKS\xba\xbe", "LUKS (encrypted)"),
    (0, b"BZh", "bzip2"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"7z\xbc\xaf\x27\x1c", "7-Zip"),
];

/// The format of what begins so.
///
/// # Errors
/// `Unsupported`: one that is not read. What bears no mark is a raw disk.
pub fn detect(head: &[u8]) -> Result<Format> {
    if head.starts_with(QCOW) {
        return match head.get(4..8) {
            Some([0, 0, 0, 1]) => Err(unread("qcow version 1")),
            _ => Ok(Format::Qcow2),
        };
    }
    if let Some((_, compression)) = COMPRESSED.iter().find(|(mark, _)| head.starts_with(mark)) {
        return Ok(Format::Compressed(*compression));
    }
    if head.starts_with(rbd_diff_codec::MAGIC) {
        let why = "the image is an rbd-diff, which tells what changed in a volume: import it into a volume that stands where it \
                   begins (from a pipe: `windlass volume apply-diff POOL/VOL -`)";
        return Err(Error::new(Kind::Unsupported, why));
    }
    let is_marked = |at: usize, mark: &[u8]| head.get(at..).is_some_and(|rest| rest.starts_with(mark));
    match UNREAD.iter().find(|(at, mark, _)| is_marked(*at, mark)) {
        Some((.., name)) => Err(unread(name)),
        None => Ok(Format::Raw),
    }
}

fn unread(name: &str) -> Error {
    let why = format!(
        "the image is {name}, which is not read: convert it first (`qemu-img convert -O qcow2`), or say --format raw if these \
         bytes are the disk's own"
    );
    Error::new(Kind::Unsupported, why)
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

    #[test]
    fn marks_tell_formats() {
        let long = |mark: &[u8]| [mark, &[0; 100]].concat();
        for (mark, format) in [
            (&b"QFI\xfb\0\0\0\x03"[..], Format::Qcow2),
            (b"QFI\xfb\0\0\0\x09", Format::Qcow2),
            (b"\x1f\x8b\x08", Format::Compressed(Compression::Gzip)),
            (b"\xfd7zXZ\0", Format::Compressed(Compression::Xz)),
            (b"\x28\xb5\x2f\xfd", Format::Compressed(Compression::Zstd)),
            (b"\xeb\x63\x90", Format::Raw),
            (b"QFI", Format::Raw),
        ] {
            assert_eq!(detect(&long(mark)).unwrap(), format);
        }
        for empty in [&b""[..], b"Q", b"\0\0"] {
            assert_eq!(detect(empty).unwrap(), Format::Raw);
        }
        for unread in [&b"KDMV"[..], b"vhdxfile", b"QFI\xfb\0\0\0\x01", b"BZh9"] {
            assert!(detect(&long(unread)).unwrap_err().is(Kind::Unsupported));
        }
        assert!(detect(&[&[0; 64][..], b"\x7f\x10\xda\xbe"].concat()).is_err(), "VDI");
    }
}
