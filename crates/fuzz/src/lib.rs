//! Targets of fuzzing: each parser of bytes that come from outside, as one function of bytes.
//!
//! A layer lists its targets in a file `fuzz.rs`, and `fuzz/parsers.rs` lists them all. They are there in tests, which run them
//! by `try_all`, and in builds with `cfg(fuzzing)`, which `fuzz/run` makes. A released program has none of them.

use xxhash_rust::xxh3::xxh3_64;

mod harness;

pub use harness::try_all;

/// A target: one parser, or several of one format.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub name: &'static str,
    /// Runs the parser. It panics on what must not happen: where the parser itself panics, or where a promise
    /// of the parser does not hold.
    pub run: fn(&[u8]),
    /// Inputs that lead into the parser, as its own encoder makes them.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Bytes of memory that a run may hold at a time, beside `MEMORY_PER_BYTE` for each byte of the input.
    pub memory: usize,
}

/// Bytes of memory for a byte of input: a small entry becomes a node of a map.
pub const MEMORY_PER_BYTE: usize = 64;

/// Returns the body with its CRC-32C behind it. The parser rejects bytes that were damaged by chance at this
/// checksum; forged bytes get past it.
pub fn with_crc(body: &[u8]) -> Vec<u8> {
    [body, &crc_fast::crc32_iscsi(body).to_le_bytes()].concat()
}

/// Returns the body with its XXH3-64 behind it.
pub fn with_xxh3(body: &[u8]) -> Vec<u8> {
    [body, &xxh3_64(body).to_le_bytes()].concat()
}

/// Splits off the first byte. An empty input gives 0 and nothing.
pub fn choice(data: &[u8]) -> (u8, &[u8]) {
    data.split_first().map_or((0, data), |(first, rest)| (*first, rest))
}

/// Splits off the first eight bytes as a number. A shorter input gives its length, and nothing.
pub fn number(data: &[u8]) -> (u64, &[u8]) {
    match data.split_first_chunk() {
        Some((first, rest)) => (u64::from_le_bytes(*first), rest),
        None => (data.len() as u64, &[]),
    }
}

/// Reads changes of files that are kept as a start, and calls `change` for each. A change is the file's
/// number and the number of its bytes (3 and 5 bits), the offset (3 bytes), and the bytes.
pub fn edits(mut data: &[u8], mut change: impl FnMut(usize, usize, &[u8])) {
    while let Some(([what, low, middle, high], rest)) = data.split_first_chunk() {
        let (bytes, behind) = rest.split_at(usize::from(what & 31).min(rest.len()));
        change(usize::from(what >> 5), u32::from_le_bytes([*low, *middle, *high, 0]) as usize, bytes);
        data = behind;
    }
}

/// Encodes one change of a file as `edits` reads it.
pub fn edit(file: u8, offset: usize, bytes: &[u8]) -> Vec<u8> {
    let at = (offset as u32).to_le_bytes();
    [&[file << 5 | bytes.len() as u8, at[0], at[1], at[2]], bytes].concat()
}

/// Overwrites the bytes at `offset`, as far as `to` reaches.
pub fn apply(to: &mut [u8], offset: usize, bytes: &[u8]) {
    let end = to.len().min(offset.saturating_add(bytes.len()));
    if let Some(part) = to.get_mut(offset..end) {
        part.copy_from_slice(&bytes[..end - offset]);
    }
}

/// Runs the parser of a text, where the input is one.
pub fn text(data: &[u8], run: impl FnOnce(&str)) {
    if let Ok(text) = std::str::from_utf8(data) {
        run(text);
    }
}

pub fn texts(all: &[&str]) -> Vec<Vec<u8>> {
    all.iter().map(|text| text.as_bytes().to_vec()).collect()
}
