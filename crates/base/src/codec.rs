//! Bounded readers and writers for our binary formats: little-endian, every read checked, never a panic.

use super::error::{Error, Kind, Result};

/// Appends fixed-width little-endian fields to a buffer.
#[derive(Default, Debug)]
pub struct Writer {
    pub buf: Vec<u8>,
}

impl Writer {
    pub fn with_capacity(n: usize) -> Self {
        Writer { buf: Vec::with_capacity(n) }
    }
    pub fn u8(&mut self, v: u8) -> &mut Self {
        self.buf.push(v);
        self
    }
    pub fn u16(&mut self, v: u16) -> &mut Self {
        self.raw(&v.to_le_bytes())
    }
    pub fn u32(&mut self, v: u32) -> &mut Self {
        self.raw(&v.to_le_bytes())
    }
    pub fn u64(&mut self, v: u64) -> &mut Self {
        self.raw(&v.to_le_bytes())
    }
    pub fn u128(&mut self, v: u128) -> &mut Self {
        self.raw(&v.to_le_bytes())
    }
    /// Appends a number as LEB128, in 1 to 10 bytes.
    pub fn varint(&mut self, mut v: u64) -> &mut Self {
        while v >= 0x80 {
            self.buf.push(v as u8 | 0x80);
            v >>= 7;
        }
        self.buf.push(v as u8);
        self
    }
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.buf.extend_from_slice(bytes);
        self
    }
    /// Appends a length (u32) and the bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let len = u32::try_from(bytes.len()).expect("no field of ours comes near 4 GiB");
        self.u32(len).raw(bytes)
    }
}

/// Reads what `Writer` wrote; running out of bytes is `Kind::Invalid`, naming what was read.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Reader { rest: bytes, what }
    }
    pub fn left(&self) -> usize {
        self.rest.len()
    }
    pub fn bad(&self, why: &str) -> Error {
        Error::new(Kind::Invalid, format!("{} is malformed: {why}", self.what))
    }
    pub fn raw(&mut self, n: usize) -> Result<&'a [u8]> {
        if n > self.rest.len() {
            return Err(self.bad("it is too short"));
        }
        let (head, tail) = self.rest.split_at(n);
        self.rest = tail;
        Ok(head)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.raw(N)?.try_into().expect("raw(N) gives N bytes"))
    }
    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.raw(1)?[0])
    }
    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    pub fn u128(&mut self) -> Result<u128> {
        Ok(u128::from_le_bytes(self.array()?))
    }
    pub fn varint(&mut self) -> Result<u64> {
        let mut v = 0u64;
        for shift in (0..64).step_by(7) {
            let b = self.u8()?;
            let part = u64::from(b & 0x7f);
            if shift == 63 && part > 1 {
                return Err(self.bad("a number is too large"));
            }
            v |= part << shift;
            if b < 0x80 {
                return Ok(v);
            }
        }
        Err(self.bad("a number is too long"))
    }
    /// Reads a length (u32) and the bytes. A length above `max` is refused before anything is taken.
    pub fn bytes(&mut self, max: usize) -> Result<&'a [u8]> {
        let n = self.u32()? as usize;
        if n > max {
            return Err(self.bad(&format!("a field of {n} bytes is over its limit of {max}")));
        }
        self.raw(n)
    }
    /// Ends reading. Bytes that are left over are `Kind::Invalid`.
    pub fn end(&self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.bad("bytes are left over")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_round_trip_and_short_input_is_an_error() {
        let mut w = Writer::default();
        w.u8(1).u16(2).u32(3).u64(4).u128(5).varint(0).varint(127).varint(128).varint(u64::MAX).bytes(b"abc");
        let bytes = w.buf;
        let read = |b: &[u8]| -> Result<Vec<u8>> {
            let mut r = Reader::new(b, "test");
            assert_eq!((r.u8()?, r.u16()?, r.u32()?, r.u64()?, r.u128()?), (1, 2, 3, 4, 5));
            assert_eq!((r.varint()?, r.varint()?, r.varint()?, r.varint()?), (0, 127, 128, u64::MAX));
            let out = r.bytes(3)?.to_vec();
            r.end()?;
            Ok(out)
        };
        assert_eq!(read(&bytes).unwrap(), b"abc");
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut]).is_err(), "{cut}");
        }
        let mut long = bytes.clone();
        long.push(0);
        assert!(read(&long).is_err());
    }
}
