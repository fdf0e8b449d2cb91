//! Writing past the page cache: for what is written once and read rarely, or never, from the same place. Filling the cache
//! with it costs more than the write itself, and drops what others read from there (docs/decisions.md, "Direct writes").
//!
//! The kernel wants offsets, lengths and memory in multiples of the device's blocks. What lies so in memory already (large
//! buffers and blocks do, with our allocator) goes as it is, all else through a buffer of ours. A filesystem that refuses is
//! written to as usual.

use std::os::fd::AsFd;

use bytes::Bytes;
use parking_lot::Mutex;

use super::write_parts::write_parts;

/// Offsets and lengths of direct writes are multiples of this. Devices have blocks of 512 or 4096 bytes.
pub const ALIGN: usize = 4096;
/// Fewest bytes for which a direct write is worth its cost.
const LEAST: usize = 256 << 10;
/// Bytes of one write.
const BUFFER: usize = 1 << 20;
/// Most buffers that wait for the next writer.
const SPARE_MAX: usize = 8;

/// Buffers that writers gave back. Fresh memory would be zeroed by the kernel each time.
static SPARE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// A buffer that a device can read from.
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    fn take() -> Buffer {
        let spare = SPARE.lock().pop();
        let bytes = spare.unwrap_or_else(|| vec![0; BUFFER + ALIGN]);
        let start = bytes.as_ptr().align_offset(ALIGN);
        Buffer { bytes, start, len: 0 }
    }

    fn room(&self) -> usize {
        BUFFER - self.len
    }

    fn push(&mut self, part: &[u8]) {
        let at = self.start + self.len;
        self.bytes[at..at + part.len()].copy_from_slice(part);
        self.len += part.len();
    }

    /// Writes the buffer's bytes and empties it.
    fn flush(&mut self, file: impl AsFd, offset: &mut u64) -> rustix::io::Result<()> {
        let all = &self.bytes[self.start..self.start + self.len];
        write_parts(file, *offset, &[all])?;
        *offset += self.len as u64;
        self.len = 0;
        Ok(())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut spare = SPARE.lock();
        if spare.len() < SPARE_MAX {
            spare.push(std::mem::take(&mut self.bytes));
        }
    }
}

/// Tells whether all of this can and should be written past the page cache. A smaller write is done sooner by
/// a copy into the cache.
pub fn fits(offset: u64, parts: &[Bytes]) -> bool {
    let len: usize = parts.iter().map(Bytes::len).sum();
    offset.is_multiple_of(ALIGN as u64) && len.is_multiple_of(ALIGN) && len >= LEAST
}

/// Tells whether a device can read the part from where it lies in memory.
fn is_aligned(part: &[u8]) -> bool {
    part.is_empty() || part.as_ptr().addr().is_multiple_of(ALIGN) && part.len().is_multiple_of(ALIGN)
}

/// Writes the parts, one after another, to a file that was opened with `O_DIRECT`. `fits` must hold for them.
pub fn write(file: impl AsFd, mut offset: u64, parts: &[impl AsRef<[u8]>]) -> rustix::io::Result<()> {
    if parts.iter().all(|part| is_aligned(part.as_ref())) {
        return write_parts(file, offset, parts);
    }
    let mut buffer = Buffer::take();
    for part in parts {
        let mut left = part.as_ref();
        while !left.is_empty() {
            let (some, rest) = left.split_at(left.len().min(buffer.room()));
            buffer.push(some);
            left = rest;
            if buffer.room() == 0 {
                buffer.flush(&file, &mut offset)?;
            }
        }
    }
    buffer.flush(&file, &mut offset)
}
