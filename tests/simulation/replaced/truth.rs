//! What a volume holds, by all that was acknowledged.

use bytes::Bytes;
use windlass_base::{Name, Result};
use windlass_volume::Volume;

pub const BLOCK: u64 = 4096;
pub const BLOCKS: usize = 12;
pub const SIZE: u64 = BLOCKS as u64 * BLOCK;

/// The tag of each block.
pub type Blocks = [u32; BLOCKS];

/// The host that has a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    Nobody,
    A,
    B,
}

#[derive(Clone, Debug)]
pub struct Truth {
    /// Name of the volume; `None`: it was removed.
    pub name: Option<Name>,
    pub owner: Owner,
    /// The state that was flushed, and all states since; the last one is the present.
    states: Vec<Blocks>,
}

impl Truth {
    pub fn new(name: Name) -> Truth {
        Truth { name: Some(name), owner: Owner::Nobody, states: vec![[0; BLOCKS]] }
    }

    pub fn now(&self) -> Blocks {
        *self.states.last().unwrap()
    }

    pub fn written(&mut self, at: usize, tag: u32) {
        let mut next = self.now();
        next[at] = tag;
        self.states.push(next);
    }

    pub fn flushed(&mut self) {
        self.states.drain(..self.states.len() - 1);
    }

    /// Checks what another owner shows: nothing that was flushed is missing, and the state was there once.
    /// `all`: nothing at all is missing.
    pub fn shown(&mut self, seen: Blocks, all: bool) {
        let is_one = self.states.contains(&seen) && (!all || seen == self.now());
        assert!(is_one, "{:?} shows {seen:?}, and has been {:?}", self.name, self.states);
        self.states = vec![seen];
    }
}

pub fn block(tag: u32) -> Bytes {
    Bytes::from(tag.to_le_bytes().repeat(BLOCK as usize / 4))
}

/// Returns the tags of all blocks; each block must be of one write.
pub fn tags(bytes: &[u8]) -> Blocks {
    let mut seen = [0; BLOCKS];
    for (at, bytes) in bytes.chunks(BLOCK as usize).enumerate() {
        seen[at] = u32::from_le_bytes(bytes[..4].try_into().unwrap());
        assert!(bytes.chunks(4).all(|word| word == &bytes[..4]), "block {at} is torn");
    }
    seen
}

pub async fn look(volume: &Volume) -> Result<Blocks> {
    Ok(tags(&volume.read(0, SIZE).await?))
}
