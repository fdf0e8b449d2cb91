//! What a volume's history is made of: the records that journal and log both carry.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::codec::{Reader, Writer};
use super::error::Result;
use super::format_limits::BLOCK;
use super::ids::{Lsn, Nonce, StateId};
use super::name::Name;

/// A snapshot's mark: everything before it belongs to the snapshot, nothing after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The state that this mark freezes (the tip's id before it).
    pub state: StateId,
    pub name: Name,
    /// Number that the marks of one group share; `group_size` tells whether all are there. A group of 0
    /// members: the mark was set by a take-over, see `volume::session::snapshots`.
    pub group: Nonce,
    pub group_size: u32,
    /// Wall clock, ms since 1970, for listings only.
    pub created_ms: u64,
    /// Size of the volume when the mark was made, in bytes. The volume may have grown by the time that the
    /// mark is read.
    pub size: u64,
    /// The volume took the snapshot by itself.
    pub history: bool,
}

/// One change of a volume. Blocks are whole: partial writes were merged before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// The blocks from `block` on hold `data`, which is a whole number of blocks.
    Write {
        block: u64,
        data: Bytes,
    },
    /// These blocks read as zeros from now on (trim and write-zeroes alike).
    Zero {
        block: u64,
        blocks: u64,
    },
    Mark(Mark),
}

/// One change and its place in history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub lsn: Lsn,
    pub op: Op,
}

impl Op {
    /// Returns the blocks that the record changes, as (first, count).
    pub fn blocks(&self) -> (u64, u64) {
        match self {
            Op::Write { block, data } => (*block, data.len() as u64 / BLOCK),
            Op::Zero { block, blocks } => (*block, *blocks),
            Op::Mark(_) => (0, 0),
        }
    }
    /// Returns the bytes of user data that the record carries.
    pub fn payload(&self) -> &[u8] {
        match self {
            Op::Write { data, .. } => data,
            _ => &[],
        }
    }
}

impl Mark {
    /// Most bytes that `encode` makes of a mark.
    pub const BYTES_MAX: u64 = 8 + 16 + 4 + 8 + 8 + 1 + 4 + 63;

    /// Appends the fixed fields, then the name.
    pub fn encode(&self, w: &mut Writer) {
        w.u64(self.state.0).u128(self.group.0).u32(self.group_size).u64(self.created_ms).u64(self.size);
        w.u8(self.history.into());
        w.bytes(self.name.as_str().as_bytes());
    }
    pub fn decode(r: &mut Reader<'_>) -> Result<Mark> {
        let state = StateId(r.u64()?);
        let group = Nonce(r.u128()?);
        let group_size = r.u32()?;
        let (created_ms, size) = (r.u64()?, r.u64()?);
        let history = match r.u8()? {
            0 => false,
            1 => true,
            _ => return Err(r.bad("a mark is of an unknown kind")),
        };
        let name = std::str::from_utf8(r.bytes(63)?).map_err(|_| r.bad("a name is not UTF-8"))?;
        Ok(Mark { state, group, group_size, created_ms, size, history, name: name.parse()? })
    }
}
