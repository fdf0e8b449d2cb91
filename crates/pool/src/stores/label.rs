//! The label that says what a store is: which pool's, at which place, in which life of its contents.
//!
//! Key `label-POOL`, by the pool's id, JSON: `{"format": 1, "pool": ID, "index": N, "incarnation": ID, "hint": POOL REGISTER VALUE,
//! "destroyed": true, "mac": HEX}`. Only pool, index and incarnation are compared; the hint tells a host that knows nothing yet
//! whom to ask. `destroyed` is there only while the pool is being deleted (`pool destroy`): the store is out for every host then.
//!
//! The key is the pool's own: a deletion of another pool's label that arrives late, after this pool was made in the same place,
//! does not meet it (protocol.md §2.7). A host that does not know the pool's id lists what begins with `label-`. Where nothing
//! does, an object `label` is one of before, and is brought to its pool's key.
//!
//! In a pool that has a key, `format` is 2, and `mac`, the last member, is the signature of all bytes before `,"mac":"`
//! (`keys`). In others there is none, and `format` is 1.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::config::PoolConfig;
use windlass_base::{Error, Incarnation, Kind, Name, PoolId, Result};
use windlass_keys::{PoolKey, SIGNATURE};

/// How the keys of labels begin.
pub const LABELS: &str = "label-";
/// The key of every pool's label in pools of before 2026-11-29.
pub const LABEL_BEFORE: &str = "label";
/// Larger objects under the label's key are somebody else's.
pub const LABEL_MAX: u64 = 256 << 10;
const FORMAT: u32 = 1;
/// Of a pool that has a key.
const FORMAT_SIGNED: u32 = 2;
/// What stands before a label's signature, and behind it.
const MAC: (&str, &str) = (r#","mac":""#, r#""}"#);

/// The key of a pool's label in every store.
pub fn label_key(pool: PoolId) -> String {
    format!("{LABELS}{pool}")
}

/// Whose label has this key.
pub fn pool_of_label(key: &str) -> Option<PoolId> {
    let id = key.strip_prefix(LABELS)?.parse().ok()?;
    (label_key(id) == key).then_some(id)
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Label {
    format: u32,
    pub pool: PoolId,
    pub index: usize,
    pub incarnation: Incarnation,
    /// The pool register's value when the label was written: where to begin, never what counts.
    pub hint: PoolConfig,
    /// The pool is being deleted: what is here does not count any more.
    #[serde(default, skip_serializing_if = "is_false")]
    pub destroyed: bool,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

impl Label {
    pub fn new(pool: PoolId, index: usize, incarnation: Incarnation, hint: PoolConfig) -> Label {
        Label { format: FORMAT, pool, index, incarnation, hint, destroyed: false }
    }

    /// Whose label this is, whether it is believed or not.
    pub fn pool_in(bytes: &[u8]) -> Option<PoolId> {
        serde_json::from_slice::<Label>(bytes).ok().map(|label| label.pool)
    }

    /// The same, saying that the pool is being deleted.
    pub fn condemned(self) -> Label {
        Label { destroyed: true, ..self }
    }

    /// Signed, in a pool that has a key.
    pub fn encode(&self, key: Option<&PoolKey>) -> Bytes {
        let format = if key.is_some() { FORMAT_SIGNED } else { FORMAT };
        let label = Label { format, ..self.clone() };
        let mut bytes = serde_json::to_vec(&label).expect("a label has only string keys");
        if let Some(key) = key {
            bytes.pop();
            let signature = key.sign_label(self.pool, &bytes);
            bytes.extend_from_slice([MAC.0, &signature, MAC.1].concat().as_bytes());
        }
        bytes.into()
    }

    /// As a host sees it that has this key for its pool, or none. `Refused`: the label's pool has a key, and none is given.
    pub fn read(bytes: &[u8], key: Option<&PoolKey>) -> Result<Label> {
        let label = Label::decode(bytes)?;
        match (key, label.format) {
            (None, FORMAT) => Ok(label),
            (None, _) => Err(lacks_key(&label.hint.name)),
            (Some(_), FORMAT) => Err(Error::new(
                Kind::Invalid,
                "its label is not signed, and a key is given for its pool: the label is forged, or the pool was made without a key",
            )),
            (Some(key), _) if label.is_signed_by(key, bytes) => Ok(label),
            (Some(_), _) => Err(Error::new(
                Kind::Invalid,
                "its label is not signed by the key that is given: the label is forged, or the key is another pool's",
            )),
        }
    }

    fn is_signed_by(&self, key: &PoolKey, bytes: &[u8]) -> bool {
        let signature = bytes.len().checked_sub(MAC.1.len() + 2 * SIGNATURE + MAC.0.len());
        let Some((signed, end)) = signature.map(|at| bytes.split_at(at)) else { return false };
        let signature = end.strip_prefix(MAC.0.as_bytes()).and_then(|end| end.strip_suffix(MAC.1.as_bytes()));
        signature.is_some_and(|signature| key.is_of_label(self.pool, signed, signature))
    }

    /// Whoever wrote it: nothing says that its pool's owner did.
    pub fn decode(bytes: &[u8]) -> Result<Label> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let bad = |why: String| Error::new(Kind::Invalid, format!("the label is malformed: {why}"));
        let version: Version = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
        if ![FORMAT, FORMAT_SIGNED].contains(&version.format) {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "the label has format {}, this version knows {FORMAT_SIGNED}: use a newer windlass",
                    version.format
                ),
            ));
        }
        serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))
    }
}

/// What a host hears that is given no key for a pool which has one.
pub fn lacks_key(pool: &Name) -> Error {
    let why = format!(
        "pool {pool} has a key, and it is not here: set `key_file` or `key_command` under [pool.{pool}] in windlass.toml"
    );
    Error::new(Kind::Refused, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::config::{PoolSettings, StoreEntry};

    fn sample() -> Label {
        let store = |n: u128, zone: Option<&str>| StoreEntry {
            url: format!("file:///s{n}"),
            zone: zone.map(str::to_owned),
            incarnation: Incarnation(n),
            conditions: windlass_store::ConditionalPuts::Held,
        };
        let name = "tank".parse().unwrap();
        let stores = vec![store(1, Some("a")), store(2, None)];
        let hint = PoolConfig::new(PoolId(7), name, "1+1".parse().unwrap(), stores, PoolSettings::default());
        Label::new(PoolId(7), 1, Incarnation(2), hint.unwrap())
    }

    #[test]
    fn golden_bytes() {
        let text = concat!(
            r#"{"format":1,"pool":"00000000000000000000000000000007","index":1,"#,
            r#""incarnation":"00000000000000000000000000000002","hint":{"format":2,"#,
            r#""pool":"00000000000000000000000000000007","name":"tank","layout":"1+1","acceptors":[0,1],"#,
            r#""generation":0,"stores":[{"url":"file:///s1","zone":"a","#,
            r#""incarnation":"00000000000000000000000000000001"},{"url":"file:///s2","zone":null,"#,
            r#""incarnation":"00000000000000000000000000000002"}],"#,
            r#""settings":{"ack_zone":false,"degrade_after_ms":3000,"grace_ms":30000}}}"#,
        );
        assert_eq!(sample().encode(None), text.as_bytes());
        assert_eq!(Label::decode(text.as_bytes()).unwrap(), sample());
        assert_eq!(PoolConfig::decode(&sample().hint.encode()).unwrap(), sample().hint);
        let condemned = format!(r#"{},"destroyed":true}}"#, text.strip_suffix('}').unwrap());
        let label = sample().condemned();
        assert_eq!(
            (label.encode(None).as_ref(), &Label::decode(condemned.as_bytes()).unwrap()),
            (condemned.as_bytes(), &label)
        );
    }

    #[test]
    fn a_label_is_believed_as_it_was_signed_and_not_where_its_signature_was_taken_out() {
        let key = PoolKey::new(&windlass_keys::Secret::new([5; 32]));
        let signed = sample().encode(Some(&key));
        let text = String::from_utf8(signed.to_vec()).unwrap();
        let plain = String::from_utf8(sample().encode(None).to_vec()).unwrap();
        let body = plain.replacen(r#"{"format":1,"#, r#"{"format":2,"#, 1);
        let mac = "a514eec0cd3d7695aef2f7740b14358571f38ad38a97507621a3bc3898102bd1";
        assert_eq!(text, format!(r#"{},"mac":"{mac}"}}"#, body.strip_suffix('}').unwrap()));
        let read = Label::read(&signed, Some(&key)).unwrap();
        assert_eq!(Label { format: FORMAT, ..read }, sample());
        let refused = |bytes: &[u8], key: Option<&PoolKey>| Label::read(bytes, key).unwrap_err();
        assert!(refused(&signed, None).is(Kind::Refused));
        assert!(refused(&sample().encode(None), Some(&key)).to_string().contains("not signed"));
        let other = PoolKey::new(&windlass_keys::Secret::new([6; 32]));
        assert!(refused(&signed, Some(&other)).to_string().contains("not signed by the key"));
        for (from, to) in [("\"index\":1", "\"index\":0"), ("file:///s2", "file:///s3"), ("0007", "0008")] {
            assert!(text.contains(from), "{text}");
            assert!(refused(text.replace(from, to).as_bytes(), Some(&key)).is(Kind::Invalid), "{from}");
        }
        let bare = format!("{}}}", text.split_once(MAC.0).unwrap().0);
        assert!(refused(bare.as_bytes(), Some(&key)).is(Kind::Invalid));
        for cut in 0..signed.len() {
            assert!(Label::read(&signed[..cut], Some(&key)).is_err(), "{cut}");
        }
    }

    #[test]
    fn other_bytes_are_errors() {
        let text = String::from_utf8(sample().encode(None).to_vec()).unwrap();
        for cut in 0..text.len() {
            assert!(Label::decode(&text.as_bytes()[..cut]).unwrap_err().is(Kind::Invalid));
        }
        let newer = text.replace("\"format\":1", "\"format\":3");
        assert!(Label::decode(newer.as_bytes()).unwrap_err().is(Kind::Unsupported));
        let config = String::from_utf8(sample().hint.encode().to_vec()).unwrap();
        for (from, to) in [
            ("[0,1]", "[0]"),
            ("[0,1]", "[]"),
            ("[0,1]", "[1,0]"),
            ("[0,1]", "[0,9]"),
            ("1+1", "2+1"),
            ("1+1", "0+2"),
            ("0002", "0001"),
        ] {
            assert!(PoolConfig::decode(config.replace(from, to).as_bytes()).is_err(), "{from} {to}");
        }
    }
}
