//! The label that says what a store is: which pool's, at which place, in which life of its contents.
//!
//! Key `label`, JSON: `{"format": 1, "pool": ID, "index": N, "incarnation": ID, "hint": POOL REGISTER VALUE,
//! "destroyed": true}`. Only pool, index and incarnation are compared; the hint tells a host that knows nothing yet whom to
//! ask. `destroyed` is there only while the pool is being deleted (`pool destroy`): the store is out for every host then.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::config::PoolConfig;
use crate::base::{Error, Incarnation, Kind, PoolId, Result};

/// The label's key in every store.
pub const LABEL_KEY: &str = "label";
/// Larger objects under the label's key are somebody else's.
pub const LABEL_MAX: u64 = 256 << 10;
const FORMAT: u32 = 1;

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

    /// The same, saying that the pool is being deleted.
    pub fn condemned(self) -> Label {
        Label { destroyed: true, ..self }
    }

    pub fn encode(&self) -> Bytes {
        serde_json::to_vec(self).expect("a label has only string keys").into()
    }

    pub fn decode(bytes: &[u8]) -> Result<Label> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let bad = |why: String| Error::new(Kind::Invalid, format!("the label is malformed: {why}"));
        let version: Version = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
        if version.format != FORMAT {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "the label has format {}, this version knows {FORMAT}: use a newer windlass",
                    version.format
                ),
            ));
        }
        serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::stores::config::{PoolSettings, StoreEntry};

    fn sample() -> Label {
        let store = |n: u128, zone: Option<&str>| StoreEntry {
            url: format!("file:///s{n}"),
            zone: zone.map(str::to_owned),
            incarnation: Incarnation(n),
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
        assert_eq!(sample().encode(), text.as_bytes());
        assert_eq!(Label::decode(text.as_bytes()).unwrap(), sample());
        assert_eq!(PoolConfig::decode(&sample().hint.encode()).unwrap(), sample().hint);
        let condemned = format!(r#"{},"destroyed":true}}"#, text.strip_suffix('}').unwrap());
        let label = sample().condemned();
        assert_eq!(
            (label.encode().as_ref(), &Label::decode(condemned.as_bytes()).unwrap()),
            (condemned.as_bytes(), &label)
        );
    }

    #[test]
    fn other_bytes_are_errors() {
        let text = String::from_utf8(sample().encode().to_vec()).unwrap();
        for cut in 0..text.len() {
            assert!(Label::decode(&text.as_bytes()[..cut]).unwrap_err().is(Kind::Invalid));
        }
        let newer = text.replace("\"format\":1", "\"format\":2");
        assert!(Label::decode(newer.as_bytes()).unwrap_err().is(Kind::Unsupported));
        let config = String::from_utf8(sample().hint.encode().to_vec()).unwrap();
        for (from, to) in [
            ("[0,1]", "[0]"),
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
