//! The acceptor object, at `reg/ID` in each store that holds registers.
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | 8 | magic `WLREGIST` |
//! | 8 | 4 | format, 1 |
//! | 12 | 16 | register id |
//! | 28 | 8 | generation of the pool's membership |
//! | 36 | 8, 16 | promised ballot: number, proposer |
//! | 60 | 8, 16 | accepted ballot: number, proposer |
//! | 84 | 16 | nonce, fresh in every put |
//! | 100 | 1 | 1: a value follows; 0: accepted was "no value" |
//! | 101 | 4 | the value's length, at most 256 KiB |
//! | 105 | | the value |
//! | end − 8 | 8 | xxh3-64 of all before |
//!
//! Little-endian. An absent object is an acceptor that promised and accepted nothing.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use crate::base::codec::{Reader, Writer};
use crate::base::size::HEAD_MAX;
use crate::base::{Error, Generation, Kind, Nonce, RegisterId, Result};

const MAGIC: &[u8; 8] = b"WLREGIST";
const FORMAT: u32 = 1;
const BEFORE_VALUE: usize = 105;
const CHECKSUM: usize = 8;
/// No acceptor object is larger.
pub(super) const OBJECT_MAX: u64 = (BEFORE_VALUE + HEAD_MAX + CHECKSUM) as u64;

/// Orders attempts. The proposer is an attempt's own random id, so no two attempts share a ballot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct Ballot {
    pub number: u64,
    pub proposer: u128,
}

impl Ballot {
    /// The one that an accept of this ballot promises to the same attempt.
    pub fn next(self) -> Ballot {
        Ballot { number: self.number + 1, ..self }
    }
}

/// An acceptor's state.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Acceptor {
    pub promised: Ballot,
    pub accepted: Ballot,
    pub value: Option<Bytes>,
}

/// Whose acceptor an object is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub register: RegisterId,
    pub generation: Generation,
}

impl Acceptor {
    pub fn encode(&self, place: Place, nonce: Nonce) -> Bytes {
        let value = self.value.as_deref().unwrap_or_default();
        let mut w = Writer::with_capacity(BEFORE_VALUE + value.len() + CHECKSUM);
        w.raw(MAGIC).u32(FORMAT).u128(place.register.0).u64(place.generation.0);
        for ballot in [self.promised, self.accepted] {
            w.u64(ballot.number).u128(ballot.proposer);
        }
        w.u128(nonce.0).u8(self.value.is_some().into()).bytes(value);
        let sum = xxh3_64(&w.buf);
        w.u64(sum);
        w.buf.into()
    }

    /// The state as seen from `place`. An object of an earlier generation is as good as none.
    pub fn decode(bytes: &Bytes, place: Place) -> Result<Acceptor> {
        let mut r = Reader::new(bytes, "the object");
        if r.raw(MAGIC.len())? != MAGIC {
            return Err(r.bad("it is not one of ours"));
        }
        let format = r.u32()?;
        // All formats end in the checksum, so that a flipped bit doesn't look like a newer one.
        let body = bytes.len().saturating_sub(CHECKSUM);
        if xxh3_64(&bytes[..body]).to_le_bytes() != bytes[body..] {
            return Err(Error::new(Kind::Corrupt, "the object's checksum does not match"));
        }
        if format != FORMAT {
            let why = format!("the object has format {format}, this version knows {FORMAT}");
            return Err(Error::new(Kind::Unsupported, why));
        }
        if RegisterId(r.u128()?) != place.register {
            return Err(r.bad("it belongs under another key"));
        }
        let generation = Generation(r.u64()?);
        let mut ballot = || Ok::<_, Error>(Ballot { number: r.u64()?, proposer: r.u128()? });
        let (promised, accepted) = (ballot()?, ballot()?);
        let _nonce = r.u128()?;
        let has_value = r.u8()? == 1;
        let value = r.bytes(HEAD_MAX)?;
        let value = has_value.then(|| bytes.slice_ref(value));
        r.raw(CHECKSUM)?;
        r.end()?;
        match generation.cmp(&place.generation) {
            std::cmp::Ordering::Less => Ok(Acceptor::default()),
            std::cmp::Ordering::Equal => Ok(Acceptor { promised, accepted, value }),
            std::cmp::Ordering::Greater => Err(Error::new(
                Kind::Unavailable,
                "the pool's stores were changed since this process read their list: start it again",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HERE: Place = Place { register: RegisterId(7), generation: Generation(2) };

    fn sample() -> Acceptor {
        Acceptor {
            promised: Ballot { number: 3, proposer: 9 },
            accepted: Ballot { number: 2, proposer: 9 },
            value: Some(Bytes::from_static(b"v")),
        }
    }

    #[test]
    fn golden_bytes() {
        let bytes = sample().encode(HERE, Nonce(0xabc));
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "574c52454749535401000000\
             07000000000000000000000000000000\
             0200000000000000\
             030000000000000009000000000000000000000000000000\
             020000000000000009000000000000000000000000000000\
             bc0a0000000000000000000000000000\
             010100000076\
             7ef74aa67eafef4f"
        );
    }

    #[test]
    fn generations_and_places_are_told_apart() {
        let bytes = sample().encode(HERE, Nonce(1));
        assert_eq!(Acceptor::decode(&bytes, HERE).unwrap(), sample());
        let at = |generation| Place { generation: Generation(generation), ..HERE };
        assert_eq!(Acceptor::decode(&bytes, at(3)).unwrap(), Acceptor::default());
        assert!(Acceptor::decode(&bytes, at(1)).unwrap_err().is(Kind::Unavailable));
        let elsewhere = Place { register: RegisterId(8), ..HERE };
        assert!(Acceptor::decode(&bytes, elsewhere).unwrap_err().is(Kind::Invalid));
        let empty = Acceptor { value: Some(Bytes::new()), ..sample() };
        assert_eq!(Acceptor::decode(&empty.encode(HERE, Nonce(1)), HERE).unwrap(), empty);
        let none = Acceptor { value: None, ..sample() };
        assert_eq!(Acceptor::decode(&none.encode(HERE, Nonce(1)), HERE).unwrap(), none);
    }

    #[test]
    fn a_changed_bit_or_a_cut_is_an_error() {
        let bytes = sample().encode(HERE, Nonce(1));
        for at in 0..bytes.len() * 8 {
            let mut bad = bytes.to_vec();
            bad[at / 8] ^= 1 << (at % 8);
            assert!(Acceptor::decode(&bad.into(), HERE).is_err(), "bit {at}");
        }
        for cut in 0..bytes.len() {
            assert!(Acceptor::decode(&bytes.slice(..cut), HERE).is_err(), "{cut}");
        }
    }

    proptest! {
        #[test]
        fn foreign_bytes_are_errors(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Acceptor::decode(&bytes.into(), HERE).is_err());
        }
    }
}
