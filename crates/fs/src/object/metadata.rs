//! What a file has beside its bytes, kept as object metadata under the names that s3fs uses, so that buckets move
//! between the two.
//!
//! | header (behind `x-amz-meta-`) | value |
//! |---|---|
//! | `mode` | decimal, file type included (a leading 0 is read as octal) |
//! | `uid`, `gid` | decimal |
//! | `mtime`, `ctime`, `atime` | seconds since 1970, a dot, up to nine digits |
//! | `xattr` | JSON {name: base64}, percent-encoded |
//!
//! What s3fs doesn't know it leaves as it is: `windlass-upload` (see `upload_token`), `windlass-written` (see `conflict_copy`).

use std::collections::BTreeMap;

use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{alphabet, prelude::*};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use windlass_store::Attrs;

pub const S_IFMT: u32 = 0o170000;
pub const S_IFDIR: u32 = 0o040000;
pub const S_IFREG: u32 = 0o100000;
pub const S_IFLNK: u32 = 0o120000;
pub const S_IFIFO: u32 = 0o010000;
pub const S_IFSOCK: u32 = 0o140000;

/// Nanoseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Ns(pub i64);

impl Ns {
    pub fn from_ms(ms: u64) -> Ns {
        Ns(i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1_000_000))
    }

    /// Returns the time at which the store says that an object was stored: 1970 where the store does not say.
    pub fn of_store(ms: Option<u64>) -> Ns {
        ms.map_or(Ns(0), Ns::from_ms)
    }

    /// Whole milliseconds; none before 1970.
    pub fn ms(self) -> Option<u64> {
        u64::try_from(self.0 / 1_000_000).ok()
    }

    fn show(self) -> String {
        let (secs, ns) = (self.0.div_euclid(1_000_000_000), self.0.rem_euclid(1_000_000_000));
        format!("{secs}.{ns:09}")
    }

    fn parse(text: &str) -> Option<Ns> {
        let (secs, fraction) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
        let secs: i64 = secs.parse().ok()?;
        if !fraction.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let digits = &fraction[..fraction.len().min(9)];
        let ns: i64 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
        let ns = ns * 10i64.pow(9 - digits.len() as u32);
        Some(Ns(secs.checked_mul(1_000_000_000)?.checked_add(ns)?))
    }
}

/// A typed view of an object's metadata.
pub trait Meta {
    fn mode(&self) -> Option<u32>;
    fn set_mode(&mut self, mode: u32);
    fn id(&self, which: &str) -> Option<u32>;
    fn set_id(&mut self, which: &str, id: u32);
    fn time(&self, which: &str) -> Option<Ns>;
    fn set_time(&mut self, which: &str, at: Ns);
    fn xattrs(&self) -> BTreeMap<String, Vec<u8>>;
    fn set_xattrs(&mut self, all: &BTreeMap<String, Vec<u8>>);
}

impl Meta for Attrs {
    fn mode(&self) -> Option<u32> {
        let text = self.user.get("mode")?.trim();
        match text.strip_prefix('0').filter(|t| !t.is_empty()) {
            Some(octal) => u32::from_str_radix(octal, 8).ok(),
            None => text.parse().ok(),
        }
    }
    fn set_mode(&mut self, mode: u32) {
        self.user.insert("mode".into(), mode.to_string());
    }
    fn id(&self, which: &str) -> Option<u32> {
        self.user.get(which)?.trim().parse().ok()
    }
    fn set_id(&mut self, which: &str, id: u32) {
        self.user.insert(which.into(), id.to_string());
    }
    fn time(&self, which: &str) -> Option<Ns> {
        Ns::parse(self.user.get(which)?)
    }
    fn set_time(&mut self, which: &str, at: Ns) {
        self.user.insert(which.into(), at.show());
    }
    fn xattrs(&self) -> BTreeMap<String, Vec<u8>> {
        let Some(text) = self.user.get("xattr") else { return BTreeMap::new() };
        let text = percent_decode_str(text).decode_utf8_lossy();
        let all: BTreeMap<String, String> = serde_json::from_str(&text).unwrap_or_default();
        all.into_iter().filter_map(|(name, value)| Some((name, BASE64.decode(value).ok()?))).collect()
    }
    fn set_xattrs(&mut self, all: &BTreeMap<String, Vec<u8>>) {
        if all.is_empty() {
            self.user.remove("xattr");
            return;
        }
        let all: BTreeMap<&String, String> =
            all.iter().map(|(name, value)| (name, BASE64.encode(value))).collect();
        let text = serde_json::to_string(&all).expect("names and values are strings");
        self.user.insert("xattr".into(), utf8_percent_encode(&text, NON_ALPHANUMERIC).to_string());
    }
}

/// Base64 engine that reads what other tools wrote, padded or not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Promise: Mode, owner, times, links and xattrs are kept under the names that s3fs uses.
    #[test]
    fn s3fs_headers_are_read_and_written() {
        let mut attrs = Attrs::default();
        attrs.set_mode(S_IFREG | 0o644);
        assert_eq!(attrs.user["mode"], "33188");
        attrs.user.insert("mode".into(), "0100600".into());
        assert_eq!(attrs.mode(), Some(S_IFREG | 0o600));
        for (text, ns) in [
            ("1700000000", 1_700_000_000_000_000_000),
            ("1700000000.5", 1_700_000_000_500_000_000),
            ("1700000000.000000001", 1_700_000_000_000_000_001),
        ] {
            attrs.user.insert("mtime".into(), text.into());
            assert_eq!(attrs.time("mtime"), Some(Ns(ns)), "{text}");
        }
        for bad in ["", "x", "1.x", "99999999999999999999"] {
            attrs.user.insert("mtime".into(), bad.into());
            assert_eq!(attrs.time("mtime"), None, "{bad}");
        }
        attrs.set_time("mtime", Ns(1_500_000_007));
        assert_eq!(attrs.user["mtime"], "1.500000007");
        attrs.user.insert("xattr".into(), "%7B%22user.a%22%3A%22aGk%3D%22%7D".into());
        assert_eq!(attrs.xattrs()["user.a"], b"hi");
    }

    proptest! {
        #[test]
        fn xattrs_come_back(all in proptest::collection::btree_map("[a-z.é\"]{1,8}", proptest::collection::vec(any::<u8>(), 0..20), 0..4)) {
            let mut attrs = Attrs::default();
            attrs.set_xattrs(&all);
            prop_assert!(attrs.user.values().all(|v| v.is_ascii()));
            prop_assert_eq!(attrs.xattrs(), all);
        }
    }
}
