//! What is known and is no raw disk: images of formats that are not read, archives, packages, text. Taken for a disk, its bytes
//! would become one that holds nothing of what it was.

use super::rbd_diff_codec;
use windlass_base::{Error, Kind};

/// Ways to make a disk out of a file that is refused.
#[derive(Clone, Copy)]
enum Cure {
    /// `qemu-img` reads the format.
    Convert,
    /// The disk lies in the file as a file of its own; the command unpacks it.
    Unpack(&'static str),
    /// The sentence says what to do.
    Do(&'static str),
}

const TAR: Cure = Cure::Unpack("tar -xOf FILE disk.raw");

/// Marks of formats that are not read: the offset of the mark, the mark, the format's name, and the cure.
const OTHERS: &[(usize, &[u8], &str, Cure)] = &[
    (0, b"KDMV", "VMDK", Cure::Convert),
    (0, b"COWD", "VMDK", Cure::Convert),
    (0, b"# Disk DescriptorFile", "VMDK", Cure::Convert),
    (0, b"vhdxfile", "VHDX", Cure::Convert),
    (0, b"conectix", "VHD", Cure::Convert),
    (64, b"\x7f\x10\xda\xbe", "VDI", Cure::Convert),
    (0, b"QED\0", "QED", Cure::Convert),
    (0, b"WithoutFreeSpace", "Parallels", Cure::Convert),
    (0, b"WithouFreSpacExt", "Parallels", Cure::Convert),
    (0, b"LUKS\xba\xbe", "LUKS (encrypted)", Cure::Convert),
    (0, b"BZh", "bzip2", Cure::Unpack("bunzip2 -c FILE")),
    (0, b"PK\x03\x04", "zip", Cure::Unpack("unzip -p FILE")),
    (0, b"7z\xbc\xaf\x27\x1c", "7-Zip", Cure::Unpack("7z x -so FILE")),
    (0, b"Rar!\x1a\x07", "RAR", Cure::Unpack("unrar p -inul FILE")),
    (0, b"\x04\x22\x4d\x18", "LZ4", Cure::Unpack("lz4 -dc FILE")),
    (0, b"\x89LZO\0\r\n\x1a\n", "LZO", Cure::Unpack("lzop -dc FILE")),
    (0, b"LZIP\x01", "lzip", Cure::Unpack("lzip -dc FILE")),
    (0, b"070701", "cpio", Cure::Unpack("cpio")),
    (0, b"070702", "cpio", Cure::Unpack("cpio")),
    (0, b"070707", "cpio", Cure::Unpack("cpio")),
    (0, b"!<arch>\n", "an ar archive or a Debian package", Cure::Do("it holds files")),
    (0, b"\xed\xab\xee\xdb", "an RPM package", Cure::Do("it holds files")),
    (0, b"MSCF\0\0\0\0", "a cabinet file", Cure::Do("it holds files")),
    (0, b"MSWIM\0\0\0", "WIM", Cure::Do("it holds files: apply it to a disk (`wimapply`)")),
    (0, b"\x3a\xff\x26\xed", "an Android sparse image", Cure::Unpack("simg2img FILE /dev/stdout")),
    (0, b"EVF\x09\x0d\x0a\xff\x00", "EWF", Cure::Unpack("ewfexport -t - FILE")),
    (0, b"\x7fELF", "a program (ELF)", Cure::Do("it is no disk")),
    (0, b"%PDF-", "PDF", Cure::Do("it is no disk")),
    (0, b"SQLite format 3\0", "an SQLite database", Cure::Do("it is no disk")),
    (0, b"btrfs-stream\0", "what `btrfs send` wrote", Cure::Do("`btrfs receive` takes it")),
    (8, b"\xac\xcb\xba\xf5\x02\0\0\0", "what `zfs send` wrote", Cure::Do("`zfs receive` takes it")),
    (0, b"partclone-image", "partclone", Cure::Unpack("partclone.restore -C -s FILE -O -")),
    (
        0,
        b"rbd diff v2\n",
        "an rbd diff of version 2",
        Cure::Do("`rbd export-diff` writes version 1 by default"),
    ),
    (
        0,
        b"rbd image v2\n",
        "an rbd export of version 2",
        Cure::Do("write it again with `rbd export --export-format 1`"),
    ),
];
/// Marks of footers: the end of a disk with a footer is no sector of the disk.
const FOOTERS: &[(&[u8], &str)] =
    &[(b"conectix", "VHD of a fixed size"), (b"koly", "a disk image of macOS (DMG)")];

/// Number of first bytes by which text is told.
const TEXT_BYTES: usize = 512;

/// Returns the reason why a file that begins so is no raw disk, if it is known. `marked`: something speaks
/// for a disk, which weak marks don't outweigh.
pub fn other(head: &[u8], marked: bool) -> Option<Error> {
    if head.starts_with(rbd_diff_codec::MAGIC) {
        let why = "the image is an rbd-diff, which tells what changed in a volume: import it into a volume that stands where it \
                   begins (from a pipe: `windlass volume apply-diff POOL/VOL -`)";
        return Some(Error::new(Kind::Unsupported, why));
    }
    let is_marked = |at: usize, mark: &[u8]| head.get(at..).is_some_and(|rest| rest.starts_with(mark));
    if let Some((_, _, name, cure)) = OTHERS.iter().find(|(at, mark, ..)| is_marked(*at, mark)) {
        return Some(refused(name, *cure));
    }
    if is_tar(head) {
        return Some(refused("a tar archive", TAR));
    }
    if marked {
        return None;
    }
    if is_lzma(head) {
        return Some(refused("LZMA", Cure::Unpack("unlzma -c FILE")));
    }
    text(head)
}

/// Returns the reason why a file that ends so is no raw disk, if it has a footer.
pub fn footer_of(tail: &[u8]) -> Option<Error> {
    let last = tail.len().checked_sub(512).map_or(tail, |at| &tail[at..]);
    // Old ones have 511 bytes.
    let starts =
        |mark: &[u8]| last.starts_with(mark) || last.get(1..).is_some_and(|rest| rest.starts_with(mark));
    FOOTERS.iter().find(|(mark, _)| starts(mark)).map(|(_, name)| unread(name))
}

/// Makes the error for a format that is not read here, but by `qemu-img`.
pub fn unread(name: &str) -> Error {
    refused(name, Cure::Convert)
}

fn refused(name: &str, cure: Cure) -> Error {
    let what = match cure {
        Cure::Convert => "convert it first (`qemu-img convert -O qcow2`)".to_owned(),
        Cure::Unpack(command) => format!("unpack it first (`{command} | windlass import - …`)"),
        Cure::Do(what) => what.to_owned(),
    };
    let why = format!(
        "the image is {name}, which is not read: {what}, or say --format raw if these bytes are the disk's own"
    );
    Error::new(Kind::Unsupported, why)
}

/// Tells whether the file is a tar archive. The first header's own sum shows it, also where an old archive
/// has no mark.
fn is_tar(head: &[u8]) -> bool {
    const SUM: std::ops::Range<usize> = 148..156;
    let Some(header) = head.get(..512) else { return false };
    let digits: String = header[SUM].iter().map(|byte| char::from(*byte)).collect();
    let Ok(told) = u32::from_str_radix(digits.trim_matches([' ', '\0']), 8) else { return false };
    let byte = |(at, byte): (usize, &u8)| u32::from(if SUM.contains(&at) { b' ' } else { *byte });
    header[0] != 0 && told == header.iter().enumerate().map(byte).sum::<u32>()
}

/// Tells whether the file is LZMA, which has no mark. Its properties, a dictionary of a size that encoders
/// choose, and a length that is one or unknown show it.
fn is_lzma(head: &[u8]) -> bool {
    let (Some(properties), Some(dictionary), Some(len)) = (
        head.first(),
        head.get(1..5).and_then(<[u8]>::first_chunk),
        head.get(5..13).and_then(<[u8]>::first_chunk),
    ) else {
        return false;
    };
    let dictionary = u32::from_le_bytes(*dictionary);
    let len = u64::from_le_bytes(*len);
    let usual = dictionary >= 4096
        && (dictionary.is_power_of_two()
            || (dictionary / 3).is_power_of_two() && dictionary.is_multiple_of(3));
    *properties == 0x5d && usual && (len == u64::MAX || (1..1 << 48).contains(&len))
}

/// Returns the refusal of a file that begins with lines of text. Such a file is a page of a web server that
/// answers 200, the pointer of Git LFS, or a list of sums: no disk begins so.
fn text(head: &[u8]) -> Option<Error> {
    let head = &head[..head.len().min(TEXT_BYTES)];
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // A character that is cut off at the end.
        Err(e) if e.error_len().is_none() => std::str::from_utf8(&head[..e.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    let is_text = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t' | '\u{c}');
    if text.trim().is_empty() || !text.chars().all(is_text) {
        return None;
    }
    let begin = text.trim_start_matches('\u{feff}').trim_start();
    let lower = begin.to_ascii_lowercase();
    let what = if lower.starts_with("<!doctype html") || lower.starts_with("<html") {
        "a page of HTML: look what the URL leads to".to_owned()
    } else if begin.starts_with("version https://git-lfs") {
        "the pointer of a file in Git LFS, not the file: `git lfs pull`".to_owned()
    } else {
        let line: String = begin.lines().next().unwrap_or_default().chars().take(60).collect();
        format!("text, which begins {line:?}")
    };
    let why = format!("the image is {what}; say --format raw if these bytes are the disk's own");
    Some(Error::new(Kind::Unsupported, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(head: &[u8]) -> String {
        let refused = other(head, false).unwrap_or_else(|| panic!("{head:?} is taken for a disk"));
        assert!(refused.is(Kind::Unsupported), "{refused}");
        refused.to_string()
    }

    /// A header as tar(1) writes it; `mark`: of the later formats.
    fn tar(mark: &[u8]) -> Vec<u8> {
        let mut header = vec![0; 512];
        header[..8].copy_from_slice(b"disk.raw");
        header[100..107].copy_from_slice(b"0000644");
        header[124..135].copy_from_slice(b"00000010000");
        header[257..257 + mark.len()].copy_from_slice(mark);
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
        header[154..156].copy_from_slice(b"\0 ");
        header
    }

    #[test]
    fn what_is_no_disk_is_told_by_name() {
        let long = |mark: &[u8]| [mark, &[0; 600]].concat();
        for (head, name) in [
            (tar(b"ustar\x0000"), "tar archive"),
            (tar(b"ustar  \0"), "tar archive"),
            (tar(b""), "tar archive"),
            (long(b"MSWIM\0\0\0\xd0\0\0\0"), "WIM"),
            (long(b"\x3a\xff\x26\xed\x01\0\0\0"), "Android sparse"),
            (long(b"rbd diff v2\n"), "rbd diff of version 2"),
            (long(b"\x5d\0\0\x80\0\xff\xff\xff\xff\xff\xff\xff\xff"), "LZMA"),
            (long(b"\x5d\0\0\x10\0\0\0\x40\0\0\0\0\0"), "LZMA"),
            (long(b"\x04\x22\x4d\x18"), "LZ4"),
            (b"<!DOCTYPE html>\n<html><title>Not found</title>".to_vec(), "page of HTML"),
            (b"\n\n<HTML>".to_vec(), "page of HTML"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n".to_vec(),
                "Git LFS",
            ),
            (b"{\"error\": \"no such object\"}".to_vec(), "begins \"{"),
            ("Schl\u{fc}ssel ".repeat(80).into_bytes(), "text"),
        ] {
            assert!(said(&head).contains(name), "{name}: {}", said(&head));
        }
        for (at, mark, name, _) in OTHERS {
            assert!(said(&[&vec![0; *at][..], mark, &[0; 16]].concat()).contains(name));
        }
    }

    #[test]
    fn what_may_be_a_disk_is_left_to_be_one() {
        let mut boot = vec![0; 512];
        boot[..3].copy_from_slice(b"\xeb\x63\x90");
        boot[510..].copy_from_slice(b"\x55\xaa");
        let mut damaged_tar = tar(b"");
        damaged_tar[0] ^= 1;
        for head in [&[0; 512][..], &boot, b"", b"   \n", &[0xff; 512], &damaged_tar, b"\x5d\0\0\x80\0"] {
            assert!(other(head, false).is_none(), "{head:?}");
        }
        // Something speaks for a disk whose first bytes are somebody's code.
        assert!(
            other(&[&b"\x5d\0\0\x80\0\xff\xff\xff\xff\xff\xff\xff\xff"[..], &[0; 500]].concat(), true)
                .is_none()
        );
        assert!(footer_of(&[0; 512]).is_none() && footer_of(b"").is_none());
        let footer = [&[7; 100][..], b"conectix", &[0; 504]].concat();
        assert!(footer_of(&footer).is_some(), "as it is made today");
        assert!(footer_of(&footer[..footer.len() - 1]).is_some(), "as it was once");
    }
}
