//! Secrets in memory: overwritten when they are dropped, never printed.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use zeroize::Zeroizing;

use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result};

/// A key of 256 bits. Clones share its one copy.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<Zeroizing<[u8; 32]>>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    pub fn new(bytes: [u8; 32]) -> Secret {
        Secret(Arc::new(Zeroizing::new(bytes)))
    }

    /// Draws a random key.
    pub fn drawn(rt: &Rt) -> Secret {
        let mut bytes = Zeroizing::new([0; 32]);
        for part in bytes.chunks_exact_mut(8) {
            part.copy_from_slice(&rt.random().to_le_bytes());
        }
        Secret(Arc::new(bytes))
    }

    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads a key from what a key file holds or a key command prints: 32 bytes, or a line that is those in
    /// hexadecimal or base64.
    pub fn read(bytes: &[u8]) -> Result<Secret> {
        let text = bytes.trim_ascii();
        let mut key = Zeroizing::new([0; 32]);
        let read = match (bytes.len(), text.len()) {
            (32, _) => {
                key.copy_from_slice(bytes);
                true
            }
            (_, 64) => hex(text, &mut *key),
            (_, 44) => base64::engine::general_purpose::STANDARD
                .decode_slice(text, &mut *key)
                .is_ok_and(|len| len == 32),
            _ => false,
        };
        match read {
            true => Ok(Secret(Arc::new(key))),
            false => Err(Error::new(
                Kind::Usage,
                "it holds no key: a key is 32 bytes, or a line that is those in hexadecimal or base64 (`head -c 32 \
                 /dev/urandom` makes one)",
            )),
        }
    }
}

/// Decodes as many bytes as `out` has. False: the text is something else.
pub(super) fn hex(text: &[u8], out: &mut [u8]) -> bool {
    let digit = |b: u8| char::from(b).to_digit(16);
    let mut pairs = text.chunks_exact(2);
    let decoded = out.iter_mut().zip(&mut pairs).all(|(to, pair)| {
        let byte = digit(pair[0]).zip(digit(pair[1])).map(|(high, low)| (high << 4 | low) as u8);
        *to = byte.unwrap_or_default();
        byte.is_some()
    });
    decoded && text.len() == 2 * out.len()
}

/// A secret that a person remembers.
#[derive(Clone, PartialEq, Eq)]
pub struct Passphrase(Arc<Zeroizing<Vec<u8>>>);

/// Bytes of the longest passphrase.
const PASSPHRASE_MAX: usize = 4096;

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase")
    }
}

impl Passphrase {
    /// Reads a passphrase from the bytes of a passphrase file: all of them but one line end.
    pub fn read(bytes: &[u8]) -> Result<Passphrase> {
        let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        Passphrase::of(line.strip_suffix(b"\r").unwrap_or(line))
    }

    /// Takes all of these bytes as a passphrase. `Usage`: they are none, or too many.
    pub fn of(text: &[u8]) -> Result<Passphrase> {
        if text.is_empty() || text.len() > PASSPHRASE_MAX {
            let why = format!("it holds no passphrase: one is 1 to {PASSPHRASE_MAX} bytes");
            return Err(Error::new(Kind::Usage, why));
        }
        Ok(Passphrase(Arc::new(Zeroizing::new(text.to_vec()))))
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_from_bytes_hexadecimal_and_base64() {
        let bytes: Vec<u8> = (0..32).collect();
        let should = Secret::read(&bytes).unwrap();
        assert_eq!(should.bytes()[..], bytes[..]);
        let hex: String = bytes.iter().map(|b| format!("{b:02X}")).collect();
        assert_eq!(Secret::read(format!("{hex}\n").as_bytes()).unwrap(), should);
        let text = base64::engine::general_purpose::STANDARD.encode(&bytes);
        assert_eq!(Secret::read(format!("{text}\n").as_bytes()).unwrap(), should);
        for bad in [&b""[..], &bytes[1..], &hex.as_bytes()[1..], b"not a key", &[b'x'; 64], &[b'!'; 44]] {
            assert!(Secret::read(bad).unwrap_err().is(Kind::Usage), "{bad:?}");
        }
    }

    #[test]
    fn a_passphrase_is_a_line() {
        let read = |text: &str| Passphrase::read(text.as_bytes()).unwrap();
        assert_eq!(read("correct horse\n"), read("correct horse"));
        assert_eq!(read("correct horse\r\n"), read("correct horse"));
        assert_ne!(read(" correct horse"), read("correct horse"));
        assert!(Passphrase::read(b"\n").is_err() && Passphrase::read(&[b'x'; 4097]).is_err());
    }

    #[test]
    fn printing_a_secret_shows_nothing() {
        let (key, words) = (Secret::new([0x5a; 32]), Passphrase::read(b"hunter2").unwrap());
        assert_eq!(format!("{key:?} {words:?}"), "Secret Passphrase");
    }
}
