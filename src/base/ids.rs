//! Identities of the domain, each its own type so that none is taken for another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::{Error, Kind, Result};

macro_rules! id128 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u128);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:032x})"), self.0)
            }
        }
        impl FromStr for $name {
            type Err = Error;
            fn from_str(s: &str) -> Result<Self> {
                let hex = s.len() == 32 && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
                match u128::from_str_radix(s, 16) {
                    Ok(n) if hex => Ok($name(n)),
                    _ => Err(Error::new(Kind::Invalid, format!("{s:?} is not 32 lowercase hexadecimal digits"))),
                }
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id128!(
    /// A pool, drawn at its creation.
    PoolId
);
id128!(
    /// A volume, drawn at its creation and never used again; names live in the directory only.
    VolumeId
);
id128!(
    /// A register: a volume's id, or one of the pool's own.
    RegisterId
);
id128!(
    /// One life of a store's contents: a wiped and recreated store has another.
    Incarnation
);
id128!(
    /// One journal file set.
    JournalId
);
id128!(
    /// A state folder's host identity, drawn once a folder.
    HostId
);
id128!(
    /// Makes each claim, pin and put recognisable by its author.
    Nonce
);

/// Nobody counts so far, one by one. A higher number was written by nobody who follows the rules, and could not be counted on
/// from.
pub const COUNT_MAX: u64 = 1 << 62;

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);
        impl $name {
            /// The one after this. Counters never come near the end of 64 bits: what is read is held against `COUNT_MAX`.
            #[must_use]
            pub fn next(self) -> Self {
                $name(self.0 + 1)
            }

            /// Whether somebody can have counted to it.
            pub fn is_counted(self) -> bool {
                self.0 <= COUNT_MAX
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

counter!(
    /// One process run's ownership of a volume. 0 is "nobody yet": the first owner claims 1.
    Epoch
);
counter!(
    /// A chunk's place in a volume's log; grows by one from chunk to chunk over all epochs, the first is 1.
    Seq
);
counter!(
    /// What snapshots and rollbacks count up, to tell whose a dead frame was. The first is 1.
    Era
);
counter!(
    /// A record's place in a volume's history; grows over the whole volume, the first is 1.
    Lsn
);
counter!(
    /// A pool's membership, counted up by replace and repair in place.
    Generation
);
counter!(
    /// A state of a volume (tip, snapshot or hidden), never used again.
    StateId
);

/// One chunk of one volume's log, or a pack of what is left of several. Never written with two contents.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ChunkId {
    pub volume: VolumeId,
    pub epoch: Epoch,
    pub seq: Seq,
}

impl Seq {
    /// Set in the number of a pack, which counts by itself.
    const PACK: u64 = 1 << 63;

    /// The number of an epoch's n-th pack.
    pub fn pack(n: u64) -> Seq {
        debug_assert!(n < Seq::PACK);
        Seq(n | Seq::PACK)
    }

    /// Which pack this is; `None`: it is a chunk of the log.
    pub fn as_pack(self) -> Option<u64> {
        (self.0 & Seq::PACK != 0).then_some(self.0 & !Seq::PACK)
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.seq.as_pack() {
            Some(n) => write!(f, "{}/p-{}-{n}", self.volume, self.epoch),
            None => write!(f, "{}/c-{}-{}", self.volume, self.epoch, self.seq),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_and_parse() {
        let id = VolumeId(0x00ab);
        assert_eq!(id.to_string(), "000000000000000000000000000000ab");
        assert_eq!(id.to_string().parse::<VolumeId>().unwrap(), id);
        for bad in ["", "ab", "000000000000000000000000000000AB", "+00000000000000000000000000000ab"] {
            assert!(bad.parse::<VolumeId>().is_err(), "{bad}");
        }
    }
}
