//! The acceptor object, at `reg/ID` in each store that holds registers.
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | 8 | magic `WLREGIST` |
//! | 8 | 4 | format: 2; 3 in a pool that has a key |
//! | 12 | 16 | register id |
//! | 28 | 8 | generation of the pool's membership |
//! | 36 | 8, 16 | promised ballot: number, proposer |
//! | 60 | 8, 16 | accepted ballot: number, proposer |
//! | 84 | 16 | nonce, fresh in every put |
//! | 100 | 1 | 1: a value follows; 0: accepted was "no value" |
//! | 101 | 4 | the value's length, at most 256 KiB |
//! | 105 | | the value |
//! | | 4, … | seal: length, and the pool's description of the next generation; length 0: the value is not sealed |
//! | | 4, … | members: length, and the pool's description of this generation; length 0 in generation 0 |
//! | | 1 | 1: a base follows |
//! | | 4, … | base: length, and the value with which this generation began |
//! | | 32 | in format 3: the signature of all before, for this register and store (`keys`) |
//! | end − 8 | 8 | xxh3-64 of all before |
//!
//! A ballot's number is at most 2^62, and nothing is accepted above what is promised: other objects are damaged.
//!
//! Little-endian. An absent object is an acceptor that promised nothing and accepted its generation's base; so is one of
//! an earlier generation. A sealed value is its generation's last: the register goes on among the stores that the seal
//! lists, and every object there says who they are.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use crate::stores::PoolConfig;
use windlass_base::codec::{Reader, Writer};
use windlass_base::format_limits::HEAD_MAX;
use windlass_base::{Error, Generation, Kind, Nonce, Result};
use windlass_keys::{PoolKey, RegisterPlace, SIGNATURE};

const MAGIC: &[u8; 8] = b"WLREGIST";
const FORMAT: u32 = 2;
/// Format of an object in a pool that has a key.
const FORMAT_SIGNED: u32 = 3;
const BEFORE_VALUE: usize = 105;
const CHECKSUM: usize = 8;
/// Highest number of a ballot: ballots are counted one by one, and nobody comes so far.
const NUMBER_MAX: u64 = 1 << 62;
/// Distance between ballot numbers that attempts which follow the rules never leave. Each attempt that fails on all stores but
/// one counts on from that one's promise, but so many never fail in a row. A number further above what a majority shows was
/// written by nobody who follows the rules.
const LEAP: u64 = 1 << 40;
/// Length of the longest description of a pool, in bytes.
const MEMBERS_MAX: usize = 64 << 10;
/// Size of the largest acceptor object, in bytes.
pub(super) const OBJECT_MAX: u64 =
    (BEFORE_VALUE + 2 * HEAD_MAX + 2 * MEMBERS_MAX + 13 + SIGNATURE + CHECKSUM) as u64;

/// The order of attempts. The proposer is an attempt's own random id, so no two attempts share a ballot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct Ballot {
    pub number: u64,
    pub proposer: u128,
}

impl Ballot {
    /// Returns the ballot that an accept of this one promises to the same attempt.
    pub fn next(self) -> Ballot {
        Ballot { number: self.number + 1, ..self }
    }

    /// Tells whether this ballot is so far above `number` that nobody came here by counting on from there.
    pub fn is_leap_from(self, number: u64) -> bool {
        self.number > number.saturating_add(LEAP)
    }
}

/// The value of a register, and whether it is its generation's last.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Value {
    pub bytes: Option<Bytes>,
    /// The next generation's description: no change comes after this value in its generation.
    pub seal: Option<Bytes>,
}

/// An acceptor's state.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Acceptor {
    pub promised: Ballot,
    pub accepted: Ballot,
    pub value: Value,
}

/// The beginning of a register's generation: the pool's stores, and the value with which it began.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Opening {
    /// The pool's description; empty in generation 0.
    pub members: Bytes,
    pub base: Option<Bytes>,
}

impl Opening {
    /// Returns the state of an acceptor that has no object of this generation yet.
    pub fn acceptor(&self) -> Acceptor {
        Acceptor { value: Value { bytes: self.base.clone(), seal: None }, ..Acceptor::default() }
    }
}

/// An acceptor's object: its state, and in which generation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Object {
    pub generation: Generation,
    pub opening: Opening,
    pub state: Acceptor,
}

fn optional(w: &mut Writer, bytes: Option<&Bytes>) {
    w.u8(bytes.is_some().into()).bytes(bytes.map(|b| b.as_ref()).unwrap_or_default());
}

impl Object {
    /// Encodes the object for its place; signs it in a pool that has a key.
    pub fn encode(&self, place: RegisterPlace, nonce: Nonce, key: Option<&PoolKey>) -> Bytes {
        let (state, opening) = (&self.state, &self.opening);
        let long = |b: &Option<Bytes>| b.as_ref().map_or(0, Bytes::len);
        let room =
            long(&state.value.bytes) + long(&state.value.seal) + opening.members.len() + long(&opening.base);
        let mut w = Writer::with_capacity(BEFORE_VALUE + room + 13 + SIGNATURE + CHECKSUM);
        let format = if key.is_some() { FORMAT_SIGNED } else { FORMAT };
        w.raw(MAGIC).u32(format).u128(place.register.0).u64(self.generation.0);
        for ballot in [state.promised, state.accepted] {
            w.u64(ballot.number).u128(ballot.proposer);
        }
        w.u128(nonce.0);
        optional(&mut w, state.value.bytes.as_ref());
        w.bytes(state.value.seal.as_deref().unwrap_or_default());
        w.bytes(&opening.members);
        optional(&mut w, opening.base.as_ref());
        if let Some(key) = key {
            let signature = key.sign_register(place, &w.buf);
            w.raw(&signature);
        }
        let sum = xxh3_64(&w.buf);
        w.u64(sum);
        w.buf.into()
    }

    /// Decodes an object of a pool that has this key, or none.
    pub fn decode(bytes: &Bytes, place: RegisterPlace, key: Option<&PoolKey>) -> Result<Object> {
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
        check_format(format, key.is_some())?;
        if let Some(key) = key {
            let (signed, signature) = bytes[..body].split_at(body.saturating_sub(SIGNATURE));
            if !key.is_of_register(place, signed, signature) {
                let why = "it is not signed by the pool's key for this place: it is forged, or another store's or register's";
                return Err(r.bad(why));
            }
        }
        if r.u128()? != place.register.0 {
            return Err(r.bad("it belongs under another key"));
        }
        let generation = Generation(r.u64()?);
        let mut ballot = || Ok::<_, Error>(Ballot { number: r.u64()?, proposer: r.u128()? });
        let (promised, accepted) = (ballot()?, ballot()?);
        let _nonce = r.u128()?;
        let value = read_optional(&mut r, bytes)?;
        let seal = Some(bytes.slice_ref(r.bytes(MEMBERS_MAX)?)).filter(|seal| !seal.is_empty());
        let members = bytes.slice_ref(r.bytes(MEMBERS_MAX)?);
        let base = read_optional(&mut r, bytes)?;
        r.raw(if key.is_some() { SIGNATURE + CHECKSUM } else { CHECKSUM })?;
        r.end()?;
        if promised < accepted || promised.number > NUMBER_MAX {
            return Err(r.bad("no rounds lead to its ballots"));
        }
        let state = Acceptor { promised, accepted, value: Value { bytes: value, seal } };
        Ok(Object { generation, opening: Opening { members, base }, state })
    }
}

/// A pool's description as one store's copy of its register has it, and how new that is.
#[derive(Clone, Debug)]
pub struct Told {
    pub config: PoolConfig,
    /// The generation, and the ballot that was accepted: number, proposer.
    pub at: (Generation, u64, u128),
}

/// Returns the description in an acceptor's object, if it is one. Decided by nobody.
pub fn description_in(bytes: &Bytes, place: RegisterPlace, key: Option<&PoolKey>) -> Option<Told> {
    let object = Object::decode(bytes, place, key).ok()?;
    let value = object.state.value.bytes.as_ref().or(object.opening.base.as_ref())?;
    let config = PoolConfig::decode(value).ok()?;
    let own = PoolConfig::register(config.pool) == place.register;
    let accepted = object.state.accepted;
    own.then_some(Told { config, at: (object.generation, accepted.number, accepted.proposer) })
}

/// Refuses a format that does not fit the pool. An object that is not signed, in a pool that has a key, is `Invalid`, since
/// somebody forged it; formats of the future are not judged (`Unsupported`).
fn check_format(format: u32, has_key: bool) -> Result<()> {
    match (format, has_key) {
        (FORMAT, false) | (FORMAT_SIGNED, true) => Ok(()),
        (FORMAT, true) => {
            Err(Error::new(Kind::Invalid, "the object is not signed, and the pool has a key: it is forged"))
        }
        (FORMAT_SIGNED, false) => {
            Err(Error::new(Kind::Unsupported, "the object is one of a pool that has a key"))
        }
        _ => {
            let why = format!("the object has format {format}, this version knows {FORMAT_SIGNED}");
            Err(Error::new(Kind::Unsupported, why))
        }
    }
}

fn read_optional(r: &mut Reader<'_>, whole: &Bytes) -> Result<Option<Bytes>> {
    let there = r.u8()? == 1;
    let bytes = r.bytes(HEAD_MAX)?;
    Ok(there.then(|| whole.slice_ref(bytes)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use windlass_base::{PoolId, RegisterId};
    use windlass_keys::Secret;

    fn key() -> PoolKey {
        PoolKey::new(&Secret::new([9; 32]))
    }

    const HERE: RegisterPlace = RegisterPlace { pool: PoolId(6), register: RegisterId(7), index: 1 };

    fn sample() -> Object {
        let value = Value { bytes: Some(Bytes::from_static(b"v")), seal: Some(Bytes::from_static(b"s")) };
        let state = Acceptor {
            promised: Ballot { number: 3, proposer: 9 },
            accepted: Ballot { number: 2, proposer: 9 },
            value,
        };
        let opening = Opening { members: Bytes::from_static(b"m"), base: Some(Bytes::from_static(b"b")) };
        Object { generation: Generation(2), opening, state }
    }

    #[test]
    fn golden_bytes() {
        let bytes = sample().encode(HERE, Nonce(0xabc), None);
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "574c52454749535402000000\
             07000000000000000000000000000000\
             0200000000000000\
             030000000000000009000000000000000000000000000000\
             020000000000000009000000000000000000000000000000\
             bc0a0000000000000000000000000000\
             010100000076\
             0100000073\
             010000006d\
             010100000062\
             0350d03c1921f791"
        );
    }

    #[test]
    fn what_is_written_is_read_and_places_are_told_apart() {
        let bytes = sample().encode(HERE, Nonce(1), None);
        assert_eq!(Object::decode(&bytes, HERE, None).unwrap(), sample());
        assert!(
            Object::decode(&bytes, RegisterPlace { register: RegisterId(8), ..HERE }, None)
                .unwrap_err()
                .is(Kind::Invalid)
        );
        for value in [None, Some(Bytes::new())] {
            let mut object = Object { opening: Opening::default(), ..sample() };
            object.state.value = Value { bytes: value, seal: None };
            assert_eq!(Object::decode(&object.encode(HERE, Nonce(1), None), HERE, None).unwrap(), object);
        }
        assert!(bytes.len() as u64 <= OBJECT_MAX);
    }

    #[test]
    fn golden_bytes_of_a_signed_object() {
        let plain = sample().encode(HERE, Nonce(0xabc), None);
        let signed = sample().encode(HERE, Nonce(0xabc), Some(&key()));
        // But for its format it is the plain one, with a signature before the checksum.
        let body = plain.len() - CHECKSUM;
        assert_eq!((signed[8], &signed[9..body]), (3, &plain[9..body]));
        assert_eq!(signed.len(), plain.len() + SIGNATURE);
        let signature: String = signed[body..body + SIGNATURE].iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(signature, "a5a5e8460f2e083e84d6aa0ba6d1993cb96f2d43be22b8aea3733ff7720b5f7b");
    }

    #[test]
    fn a_signed_object_is_one_in_its_place_alone() {
        let signed = sample().encode(HERE, Nonce(1), Some(&key()));
        assert_eq!(Object::decode(&signed, HERE, Some(&key())).unwrap(), sample());
        assert!(Object::decode(&signed, HERE, None).unwrap_err().is(Kind::Unsupported));
        let refused = |bytes: &Bytes, place: RegisterPlace, key: &PoolKey| {
            let refused = Object::decode(bytes, place, Some(key)).unwrap_err();
            assert!(refused.is(Kind::Invalid) && refused.to_string().contains("forged"), "{refused}");
        };
        refused(&sample().encode(HERE, Nonce(1), None), HERE, &key());
        refused(&signed, HERE, &PoolKey::new(&Secret::new([8; 32])));
        for other in [
            RegisterPlace { pool: PoolId(5), ..HERE },
            RegisterPlace { register: RegisterId(8), ..HERE },
            RegisterPlace { index: 0, ..HERE },
        ] {
            refused(&signed, other, &key());
        }
        // Each byte before the checksum, with the checksum made right.
        for at in MAGIC.len() + 4..signed.len() - CHECKSUM {
            let mut bad = signed[..signed.len() - CHECKSUM].to_vec();
            bad[at] ^= 1;
            let sum = xxh3_64(&bad);
            bad.extend_from_slice(&sum.to_le_bytes());
            refused(&bad.into(), HERE, &key());
        }
        assert!(signed.len() as u64 <= OBJECT_MAX);
    }

    #[test]
    fn ballots_that_no_rounds_lead_to_are_errors() {
        let with = |promised, accepted| {
            let ballot = |number| Ballot { number, proposer: 9 };
            let (promised, accepted) = (ballot(promised), ballot(accepted));
            let state = Acceptor { promised, accepted, ..sample().state };
            Object::decode(&Object { state, ..sample() }.encode(HERE, Nonce(1), None), HERE, None).map(drop)
        };
        assert!(with(NUMBER_MAX, NUMBER_MAX).is_ok());
        for (promised, accepted) in [(u64::MAX, 2), (u64::MAX, u64::MAX), (NUMBER_MAX + 1, 2), (2, 3)] {
            assert!(with(promised, accepted).unwrap_err().is(Kind::Invalid), "{promised} {accepted}");
        }
    }

    #[test]
    fn a_changed_bit_or_a_cut_is_an_error() {
        let bytes = sample().encode(HERE, Nonce(1), None);
        for at in 0..bytes.len() * 8 {
            let mut bad = bytes.to_vec();
            bad[at / 8] ^= 1 << (at % 8);
            assert!(Object::decode(&bad.into(), HERE, None).is_err(), "bit {at}");
        }
        for cut in 0..bytes.len() {
            assert!(Object::decode(&bytes.slice(..cut), HERE, None).is_err(), "{cut}");
        }
    }

    proptest! {
        #[test]
        fn foreign_bytes_are_errors(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Object::decode(&bytes.into(), HERE, None).is_err());
        }
    }
}
