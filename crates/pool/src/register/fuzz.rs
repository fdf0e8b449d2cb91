//! Acceptors' objects, as they lie in a store, and as one that who has the pool's key would have signed.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::object::{Acceptor, Ballot, Object, Opening, Value};
use windlass_base::{Generation, Nonce, PoolId, RegisterId};
use windlass_keys::{PoolKey, RegisterPlace, Secret};

const HERE: RegisterPlace = RegisterPlace { pool: PoolId(6), register: RegisterId(7), index: 1 };

fn key() -> PoolKey {
    PoolKey::new(&Secret::new([9; 32]))
}

pub fn some_objects() -> Vec<Vec<u8>> {
    let value = Value { bytes: Some(Bytes::from_static(b"v")), seal: Some(Bytes::from_static(b"s")) };
    let ballot = |number| Ballot { number, proposer: 9 };
    let state = Acceptor { promised: ballot(3), accepted: ballot(2), value };
    let opening = Opening { members: Bytes::from_static(b"m"), base: Some(Bytes::from_static(b"b")) };
    let full = Object { generation: Generation(2), opening, state };
    let empty = Object { generation: Generation(0), opening: Opening::default(), state: Acceptor::default() };
    let of = |object: &Object| object.encode(HERE, Nonce(0xabc), None).to_vec();
    let whole = [of(&full), of(&empty), full.encode(HERE, Nonce(0xabc), Some(&key())).to_vec()];
    // Without the checksum, which each run makes anew.
    whole.into_iter().map(|object| object[..object.len() - 8].to_vec()).collect()
}

fn summed(body: &[u8]) -> Bytes {
    [body, &xxh3_64(body).to_le_bytes()].concat().into()
}

pub fn object(data: &[u8]) {
    let key = key();
    let _ = Object::decode(&Bytes::copy_from_slice(data), HERE, None);
    let signed = [data, &key.sign_register(HERE, data)].concat();
    for (bytes, key) in [(summed(data), None), (summed(data), Some(&key)), (summed(&signed), Some(&key))] {
        let Ok(object) = Object::decode(&bytes, HERE, key) else { continue };
        assert!(object.state.promised >= object.state.accepted);
        let _ =
            (object.state.promised.next(), object.state.promised.is_leap_from(object.state.accepted.number));
        let again = object.encode(HERE, Nonce(1), key);
        assert_eq!(Object::decode(&again, HERE, key).ok().as_ref(), Some(&object));
        let elsewhere = RegisterPlace { index: 0, ..HERE };
        assert!(key.is_none() || Object::decode(&bytes, elsewhere, key).is_err());
    }
}
