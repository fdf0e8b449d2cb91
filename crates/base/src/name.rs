//! Names that users give, and what they are called while they are imported, moved or in the trash.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

use super::error::{Error, Kind, Result};

/// A pool's, volume's or snapshot's name: `[a-z0-9][a-z0-9._-]{0,62}`.
///
/// Some names begin with `~`, which no user can give. Of something in the trash: `~`, the time since when in
/// ms (12 hexadecimal digits), `~`, the name that it had. Of a volume that is being imported: `~import~`, the
/// name that it will have. Of a volume that is being moved here from another pool: `~mv-`, what tells the
/// host that moves it (8 hexadecimal digits), `~`, the name that it will have.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(transparent)]
pub struct Name(String);

impl Name {
    /// Bytes of the longest name.
    pub const BYTES_MAX: usize = 63 + Name::TRASH_BYTES;
    /// Bytes that stand before the old name in the name of something in the trash.
    const TRASH_BYTES: usize = 14;

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Prefix of the name of a volume that is being imported.
    const IMPORT: &'static str = "~import~";

    /// Returns the name of a volume until all of its image is in it. Listings leave such volumes out.
    #[must_use]
    pub fn while_imported(&self) -> Name {
        Name(format!("{}{}", Name::IMPORT, self.0))
    }

    /// Returns the name that a volume will have once it is imported. `None`: this is not the name of a volume
    /// that is being imported.
    pub fn imported_as(&self) -> Option<Name> {
        self.0.strip_prefix(Name::IMPORT).map(|name| Name(name.to_owned()))
    }

    /// Prefix of the name of a volume that is being moved here from another pool.
    const MOVE: &'static str = "~mv-";

    /// Returns the name of a volume until it has moved here from another pool. Each host that moves the
    /// volume fills one of its own, told apart by `host`.
    #[must_use]
    pub fn while_moved(&self, host: u32) -> Name {
        Name(format!("{}{host:08x}~{}", Name::MOVE, self.0))
    }

    /// Returns the name that a volume will have once it has moved here. `None`: this is not the name of a
    /// volume that is being moved here.
    pub fn moved_as(&self) -> Option<Name> {
        let (_, name) = self.0.strip_prefix(Name::MOVE)?.split_once('~')?;
        Some(Name(name.to_owned()))
    }

    /// Parses the name of a volume that can be opened: one that a user gives, or one that is being imported
    /// or moved here.
    pub fn of_volume(text: &str) -> Result<Name> {
        if let Some((host, name)) = text.strip_prefix(Name::MOVE).and_then(|rest| rest.split_once('~')) {
            let name: Name = name.parse()?;
            let host = u32::from_str_radix(host, 16).ok();
            let moved = host.map(|host| name.while_moved(host)).filter(|moved| moved.0 == text);
            return moved.ok_or_else(|| Error::new(Kind::Invalid, format!("{text:?} is no volume's name")));
        }
        match text.strip_prefix(Name::IMPORT) {
            Some(name) => name.parse().map(|name: Name| name.while_imported()),
            None => text.parse(),
        }
    }

    /// Returns the name that this one becomes in the trash; `since_ms` is the time of removal, in ms since
    /// 1970.
    #[must_use]
    pub fn in_trash(&self, since_ms: u64) -> Name {
        Name(format!("~{:012x}~{}", since_ms.min((1 << 48) - 1), self.0))
    }

    /// Returns when something went into the trash, in ms since 1970, and the name that it had. `None`: this
    /// is no name of the trash.
    pub fn trashed(&self) -> Option<(u64, Name)> {
        let (since, name) = self.0.strip_prefix('~')?.split_once('~')?;
        Some((u64::from_str_radix(since, 16).ok()?, Name(name.to_owned())))
    }

    /// Parses a name that was written down. Unlike a name that a user gives it may stand for something in the
    /// trash, or for a volume that is being imported or moved here.
    pub fn stored(text: &str) -> Result<Name> {
        let Some((since, name)) = text.strip_prefix('~').and_then(|rest| rest.split_once('~')) else {
            return text.parse();
        };
        if text.starts_with(Name::IMPORT) || text.starts_with(Name::MOVE) {
            return Name::of_volume(text);
        }
        match (u64::from_str_radix(since, 16), name.parse::<Name>()) {
            (Ok(since), Ok(name)) if name.in_trash(since).0 == text => Ok(Name(text.to_owned())),
            _ => Err(Error::new(Kind::Invalid, format!("{text:?} is no name of what is in the trash"))),
        }
    }

    /// Parses a name as `stored` does, for serde.
    pub fn deserialize_stored<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Name>, D::Error> {
        let text = Option::<String>::deserialize(d)?;
        text.map(|text| Name::stored(&text)).transpose().map_err(serde::de::Error::custom)
    }
}

impl FromStr for Name {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let ok = s.len() <= 63
            && s.bytes().next().is_some_and(word)
            && s.bytes().all(|b| word(b) || matches!(b, b'.' | b'_' | b'-'));
        if ok {
            return Ok(Name(s.to_owned()));
        }
        Err(Error::new(
            Kind::Usage,
            format!(
                "{s:?} is not a name: use 1 to 63 of a-z, 0-9, '.', '_', '-', the first a letter or digit"
            ),
        ))
    }
}

impl JsonSchema for Name {
    fn schema_name() -> Cow<'static, str> {
        "Name".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,62}$" })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.trashed() {
            Some((_, name)) => write!(f, "{} (in the trash)", name.0),
            None => f.write_str(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "0", "vm-1.disk_2", &"a".repeat(63)] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "A", "a/b", "a@b", "a b", &"a".repeat(64), "ü"] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_in_the_trash_has_a_name_that_nobody_can_give() {
        let name: Name = "web".parse().unwrap();
        let gone = name.in_trash(1_764_000_000_000);
        assert_eq!(gone.as_str(), "~019ab697e800~web");
        assert_eq!(gone.trashed(), Some((1_764_000_000_000, name.clone())));
        assert_eq!(gone.to_string(), "web (in the trash)");
        assert!(gone.as_str().parse::<Name>().is_err());
        assert_eq!(Name::stored(gone.as_str()).unwrap(), gone);
        assert_eq!(Name::stored("web").unwrap(), name);
        assert_eq!((name.trashed(), name.in_trash(u64::MAX).as_str()), (None, "~ffffffffffff~web"));
        let importing = name.while_imported();
        assert_eq!((importing.as_str(), importing.trashed()), ("~import~web", None));
        assert_eq!(Name::stored(importing.as_str()).unwrap(), importing);
        assert_eq!(Name::of_volume(importing.as_str()).unwrap().imported_as(), Some(name.clone()));
        assert!(importing.as_str().parse::<Name>().is_err() && Name::of_volume(gone.as_str()).is_err());
        assert!(Name::stored("~import~~import~web").is_err() && name.imported_as().is_none());
        let moving = name.while_moved(0xab);
        assert_eq!(
            (moving.as_str(), moving.trashed(), moving.imported_as()),
            ("~mv-000000ab~web", None, None)
        );
        assert_eq!(Name::stored(moving.as_str()).unwrap().moved_as(), Some(name.clone()));
        for bad in ["~mv-ab~web", "~mv-000000ab~~mv-000000ab~web", "~mv-000000AB~web", "~mv-000000ab"] {
            assert!(Name::stored(bad).is_err() && Name::of_volume(bad).is_err(), "{bad}");
        }
        assert_eq!("a".repeat(63).parse::<Name>().unwrap().in_trash(0).as_str().len(), Name::BYTES_MAX);
        for bad in [
            "~",
            "~~web",
            "~12~web",
            "~019AB697E800~web",
            "~019ab697e800~",
            "~019ab697e800~W",
            "~+19ab697e800~web",
        ] {
            assert!(Name::stored(bad).is_err(), "{bad}");
        }
    }
}
