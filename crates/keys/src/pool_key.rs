//! The key of a pool, and what it signs: labels and registers' objects.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::hkdf::Prk;
use aws_lc_rs::hmac;

use super::data_key_ciphers::{expand, extract};
use super::secret::{Secret, hex};
use windlass_base::{PoolId, RegisterId};

/// Bytes of a signature.
pub const SIGNATURE: usize = 32;

/// The key by which a pool's labels and registers are signed, HMAC-SHA256. Cheap to clone.
#[derive(Clone)]
pub struct PoolKey(Arc<Prk>);

impl fmt::Debug for PoolKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PoolKey")
    }
}

/// The place of a register's object. It is signed too: a signature for one place is none for another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegisterPlace {
    pub pool: PoolId,
    pub register: RegisterId,
    /// Index of the store in the pool.
    pub index: usize,
}

impl PoolKey {
    pub fn new(secret: &Secret) -> PoolKey {
        PoolKey(Arc::new(extract(b"windlass pool", secret.bytes())))
    }

    fn key(&self, what: &[u8], pool: PoolId) -> hmac::Key {
        let key = expand(&self.0, &[what, &pool.0.to_le_bytes()]);
        hmac::Key::new(hmac::HMAC_SHA256, &key[..])
    }

    fn of_register(&self, place: RegisterPlace, bytes: &[u8]) -> hmac::Context {
        let mut context = hmac::Context::with_key(&self.key(b"register", place.pool));
        context.update(&place.register.0.to_le_bytes());
        context.update(&(place.index as u64).to_le_bytes());
        context.update(bytes);
        context
    }

    pub fn sign_register(&self, place: RegisterPlace, bytes: &[u8]) -> [u8; SIGNATURE] {
        signature(&self.of_register(place, bytes).sign())
    }

    pub fn is_of_register(&self, place: RegisterPlace, bytes: &[u8], signed: &[u8]) -> bool {
        is_same(&self.of_register(place, bytes).sign(), signed)
    }

    /// Signs a label, in hexadecimal. `bytes`: they say which store the label is of.
    pub fn sign_label(&self, pool: PoolId, bytes: &[u8]) -> String {
        let tag = hmac::sign(&self.key(b"label", pool), bytes);
        tag.as_ref().iter().map(|b| format!("{b:02x}")).collect()
    }

    pub fn is_of_label(&self, pool: PoolId, bytes: &[u8], signed: &[u8]) -> bool {
        let mut tag = [0; SIGNATURE];
        hex(signed, &mut tag) && hmac::verify(&self.key(b"label", pool), bytes, &tag).is_ok()
    }
}

fn signature(tag: &hmac::Tag) -> [u8; SIGNATURE] {
    tag.as_ref().try_into().expect("HMAC-SHA256 gives 32 bytes")
}

fn is_same(tag: &hmac::Tag, signed: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(tag.as_ref(), signed).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, case 2.
    #[test]
    fn hmac_is_the_rfcs() {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"Jefe"), b"what do ya want for nothing?");
        let mut should = [0; 32];
        assert!(hex(b"5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843", &mut should));
        assert_eq!(tag.as_ref(), should);
    }

    #[test]
    fn a_signature_holds_in_its_place_alone() {
        let key = PoolKey::new(&Secret::new([1; 32]));
        let place = RegisterPlace { pool: PoolId(7), register: RegisterId(8), index: 2 };
        let signed = key.sign_register(place, b"value");
        assert!(key.is_of_register(place, b"value", &signed));
        for other in [
            RegisterPlace { pool: PoolId(6), ..place },
            RegisterPlace { register: RegisterId(9), ..place },
            RegisterPlace { index: 1, ..place },
        ] {
            assert!(!key.is_of_register(other, b"value", &signed), "{other:?}");
        }
        assert!(!key.is_of_register(place, b"valve", &signed));
        assert!(!key.is_of_register(place, b"value", &signed[1..]));
        assert!(!key.is_of_label(place.pool, b"value", &signed));
        assert!(!PoolKey::new(&Secret::new([2; 32])).is_of_register(place, b"value", &signed));
        let label = key.sign_label(PoolId(7), b"label");
        assert!(key.is_of_label(PoolId(7), b"label", label.as_bytes()));
        assert!(!key.is_of_label(PoolId(6), b"label", label.as_bytes()));
        assert!(!key.is_of_label(PoolId(7), b"lable", label.as_bytes()));
    }

    #[test]
    fn printing_it_shows_nothing() {
        assert_eq!(format!("{:?}", PoolKey::new(&Secret::new([0x5a; 32]))), "PoolKey");
    }
}
