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
    /// A random number by which the author of a claim, pin or put recognises it.
    Nonce
);

/// Largest number that counting one by one can reach in practice. A higher number was written by somebody who
/// breaks the rules, and counting on from it could overflow.
pub const COUNT_MAX: u64 = 1 << 62;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);
        impl $name {
            /// Tells whether counting can have reached this number, see `COUNT_MAX`.
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

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        number!($(#[$doc])* $name);
        impl $name {
            /// Returns the next number. Counters never come near the end of 64 bits: what is read is held
            /// against `COUNT_MAX`.
            #[must_use]
            pub fn next(self) -> Self {
                $name(self.0 + 1)
            }
        }
    };
}

number!(
    /// An ownership of a volume by one run of a process. Ownerships are ordered as they were claimed; 0 is
    /// "nobody yet".
    ///
    /// The upper 32 bits count claims, the lower ones are drawn for each claim. After a volume's stores were
    /// put back from a backup the volume has two histories. They have no ownership in common but those from
    /// before they parted. So whatever is named by an ownership (chunks, cached frames, journals, what a
    /// client has read) is never taken for another's.
    Epoch
);

impl Epoch {
    const DRAWN_BITS: u32 = 32;

    /// Returns the ownership that a claim begins after this one. `nonce`: the number that was drawn for the
    /// claim.
    #[must_use]
    pub fn after(self, nonce: Nonce) -> Epoch {
        Epoch(((self.claims() + 1) << Self::DRAWN_BITS) | u64::from(nonce.0 as u32))
    }

    /// Shows the epoch in messages: the count of claims and, in hexadecimal, what was drawn.
    pub fn shown(self) -> String {
        format!("{}-{:08x}", self.claims(), self.0 as u32)
    }

    /// Number of claims up to this one. It is 0 for epochs that versions before this one have counted.
    pub fn claims(self) -> u64 {
        self.0 >> Self::DRAWN_BITS
    }
}
counter!(
    /// A chunk's place in a volume's log; grows by one from chunk to chunk over all epochs, the first is 1.
    Seq
);
counter!(
    /// A number that each snapshot and rollback counts up, by which is told to which state a dead frame
    /// belonged. The first is 1.
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
    /// Bit that is set in the number of a pack. Packs are counted by themselves.
    const PACK: u64 = 1 << 63;

    /// Returns the number of an epoch's n-th pack.
    pub fn pack(n: u64) -> Seq {
        debug_assert!(n < Seq::PACK);
        Seq(n | Seq::PACK)
    }

    /// Returns which pack this is. `None`: it is a chunk of the log.
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
    fn ownerships_of_two_histories_are_never_the_same() {
        let (before, one, other) = (Epoch(7), Nonce(1 << 90 | 5), Nonce(6));
        assert!(before.after(one) > before && before.after(one) != before.after(other));
        assert_eq!((before.after(one).claims(), before.after(one).after(other).claims()), (1, 2));
        assert!(before.after(other).after(one) > before.after(other));
        let last = Epoch(COUNT_MAX - 1);
        assert!(last.is_counted() && !last.after(other).after(other).is_counted());
    }

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
