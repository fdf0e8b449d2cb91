//! A file that can be read anywhere.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result};

/// Bytes of one read of a file that is read from end to end.
const STEP: usize = 4 << 20;

#[async_trait]
pub trait ReadAt: Send + Sync + fmt::Debug {
    /// Returns the bytes of the file. They do not change while the file is read: a read that finds that they
    /// did fails.
    fn size(&self) -> u64;

    /// Reads up to `len` bytes; fewer only at the end of the file, as `size` tells it.
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes>;

    /// Returns the first run of bytes from `offset` on that is no hole. `None`: there is nothing but a hole
    /// up to the end.
    async fn data_after(&self, offset: u64) -> Result<Option<Range<u64>>> {
        Ok((offset < self.size()).then(|| offset..self.size()))
    }

    /// Returns how many reads at a time are of use. More would be served in any order, and the first bytes come late.
    fn reads_max(&self) -> usize {
        usize::MAX
    }

    /// Returns a text that tells the file from others, and from what it may become: whoever goes on with the
    /// file later compares it. `None`: nothing tells.
    fn identity(&self) -> Option<String>;

    /// Checks that the file is still the one that was opened. A caller that has read all of it waits for this
    /// answer before it uses what it read.
    ///
    /// # Errors
    /// `Invalid`: the file changed since it was opened. A file whose reads tell of a change has nothing to
    /// add.
    async fn unchanged(&self) -> Result<()> {
        Ok(())
    }

    /// Returns the name by which messages call the file.
    fn name(&self) -> String;
}

/// Reads exactly `len` bytes. Zeros stand where the file ends before, but only up to the end of the unit of
/// `unit` bytes that the file ends in.
///
/// # Errors
/// `Invalid`: the range begins or ends beyond that unit. Nothing was allocated then.
pub(super) async fn read_padded(file: &dyn ReadAt, offset: u64, len: u64, unit: u64) -> Result<Bytes> {
    let end = offset.checked_add(len).filter(|end| *end <= file.size().next_multiple_of(unit));
    let len = end.and_then(|_| usize::try_from(len).ok()).ok_or_else(|| {
        let why = format!("it needs {len} bytes at {offset}, where the file has ended");
        Error::new(Kind::Invalid, why)
    })?;
    let bytes = file.read_at(offset, len).await?;
    if bytes.len() == len {
        return Ok(bytes);
    }
    let mut padded = bytes.to_vec();
    padded.resize(len, 0);
    Ok(padded.into())
}

/// Returns the SHA-256 of the whole file, as hexadecimal digits; `step` is told of each read.
pub async fn sha256(rt: &Rt, file: &Arc<dyn ReadAt>, mut step: impl FnMut(u64)) -> Result<String> {
    let mut hash = Sha256::new();
    let mut next = read_ahead(rt, file, 0);
    let mut offset = 0;
    while offset < file.size() {
        let bytes = next.await??;
        if bytes.is_empty() {
            return Err(Error::new(
                Kind::Invalid,
                format!("{} became shorter while it was read", file.name()),
            ));
        }
        offset += bytes.len() as u64;
        next = read_ahead(rt, file, offset);
        hash = rt.cpu(move || hash.chain_update(&bytes)).await?;
        step(offset);
    }
    Ok(hex(&hash.finalize()))
}

fn read_ahead(rt: &Rt, file: &Arc<dyn ReadAt>, offset: u64) -> windlass_base::rt::Task<Result<Bytes>> {
    let file = file.clone();
    rt.spawn(async move { file.read_at(offset, STEP).await })
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An image in memory.
#[cfg(any(test, fuzzing))]
#[derive(Debug)]
pub(super) struct InMemory(pub Bytes);

#[cfg(any(test, fuzzing))]
#[async_trait]
impl ReadAt for InMemory {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        Ok(self.0.slice(start..start.saturating_add(len).min(self.0.len())))
    }
    fn identity(&self) -> Option<String> {
        Some("memory".into())
    }
    fn name(&self) -> String {
        "memory".into()
    }
}
