//! The label that says what a store is: which pool's, at which place, in which life of its contents.
//!
//! Key `label`, JSON: `{"format": 1, "pool": ID, "index": N, "incarnation": ID, "hint": POOL REGISTER VALUE}`.
//! Only pool, index and incarnation are compared; the hint tells a host that knows nothing yet whom to ask.

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
}

impl Label {
    pub fn new(pool: PoolId, index: usize, incarnation: Incarnation, hint: PoolConfig) -> Label {
        Label { format: FORMAT, pool, index, incarnation, hint }
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
