//! The file name of one version: `2026-01-31T10:22:33.123Z-VERSIONID`, of a mark that the object was deleted
//! `…-VERSIONID-deleted`. Names sort by time.
//!
//! An id that has other bytes than letters, digits and `.`, `_`, `~`, `+`, `=`, `-`, or that ends in `-deleted` itself, is
//! written with `%XX` for all but letters and digits, and the name then begins with `%~`, as every escape does.

use super::names::{MARK, NAME_MAX, spelled, unescaped};
use windlass_base::utc;

const DELETED: &str = "-deleted";
/// The length of `2026-01-31T10:22:33.123Z`.
const TIME: usize = 24;

/// File name of one version; the head of the module tells its form.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct VersionName {
    /// Time at which the version was stored, in milliseconds since 1970, as the store lists it.
    pub at_ms: u64,
    pub id: String,
    pub deleted: bool,
}

fn plain(id: &str) -> bool {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b".-_~+=".contains(&b);
    !id.is_empty() && id.bytes().all(fine) && !id.ends_with(DELETED)
}

impl VersionName {
    /// Returns the file name; `None` where it would be longer than a file name can be.
    pub fn show(&self) -> Option<Vec<u8>> {
        let at = utc::show_ms(self.at_ms);
        let end = if self.deleted { DELETED } else { "" };
        let name = match plain(&self.id) {
            true => format!("{at}-{}{end}", self.id),
            false => format!("{MARK}{at}-{}{end}", spelled(&self.id)),
        };
        (name.len() <= NAME_MAX).then(|| name.into_bytes())
    }

    /// Reads a file name; `None` for one that `show` never shows.
    pub fn read(name: &[u8]) -> Option<VersionName> {
        let text = std::str::from_utf8(name).ok()?;
        let (text, escaped) = text.strip_prefix(MARK).map_or((text, false), |rest| (rest, true));
        let (at, rest) = (text.get(..TIME)?, text.get(TIME..)?.strip_prefix('-')?);
        let (id, deleted) = rest.strip_suffix(DELETED).map_or((rest, false), |id| (id, true));
        let id = if escaped { String::from_utf8(unescaped(id)?).ok()? } else { id.to_owned() };
        let read = VersionName { at_ms: utc::read_ms(at)?, id, deleted };
        (read.show()? == name).then_some(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(id: &str, deleted: bool) -> String {
        let name = VersionName { at_ms: 1_795_166_100_009, id: id.into(), deleted };
        String::from_utf8(name.show().unwrap()).unwrap()
    }

    #[test]
    fn names_are_as_documented() {
        let id = "3sL4kqtJlcpXroDTDmJ+rmSpXd3dIbrHY-MTRCxf3vjVBH40Nr8X8gdRQBpUMLUo";
        assert_eq!(shown(id, false), format!("2026-11-20T09:15:00.009Z-{id}"));
        assert_eq!(shown("null", true), "2026-11-20T09:15:00.009Z-null-deleted");
        assert_eq!(shown("a/b", false), "%~2026-11-20T09:15:00.009Z-a%2Fb");
        assert_eq!(shown("x-deleted", false), "%~2026-11-20T09:15:00.009Z-x%2Ddeleted");
        let long = VersionName { at_ms: 0, id: "x".repeat(256), deleted: false };
        assert_eq!(long.show(), None);
        for bad in
            ["", "x", "2026-11-20T09:15:00.009Z", "2026-11-20T09:15:00Z-a", "2026-11-20T09:15:00.009Z-a/b"]
        {
            assert_eq!(VersionName::read(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_version_comes_back(id in "[a%~./é\u{0}-]{0,6}(-deleted)?", at_ms in 0u64..253_402_300_799_999, deleted: bool) {
            let name = VersionName { at_ms, id, deleted };
            let shown = name.show().unwrap();
            prop_assert!(!shown.contains(&b'/') && !shown.contains(&0));
            prop_assert_eq!(VersionName::read(&shown), Some(name));
        }
    }
}
