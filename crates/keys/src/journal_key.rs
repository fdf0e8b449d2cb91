//! The key of a volume's journals, which comes from the volume key: a change of the data key has nothing to do with them.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{Aad, LessSafeKey};

use super::data_key_ciphers::{expand, extract, gcm, nonce};
use super::secret::Secret;
use windlass_base::{Lsn, VolumeId};

/// Seals and opens the records of one volume's journals, on this host and where they were kept. Cheap to clone.
#[derive(Clone)]
pub struct JournalKey {
    volume: VolumeId,
    root: Secret,
}

impl fmt::Debug for JournalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JournalKey of {}", self.volume)
    }
}

impl JournalKey {
    /// Makes the key of a volume's journals. `root` is the volume key.
    pub fn new(volume: VolumeId, root: Secret) -> JournalKey {
        JournalKey { volume, root }
    }

    /// Derives the key of one use of a journal, whose lsns only grow. `salt`: 128 random bits, of this use
    /// alone.
    pub fn seal(&self, salt: u128) -> JournalSeal {
        let prk = extract(&salt.to_le_bytes(), self.root.bytes());
        let key = gcm(&expand(&prk, &[b"windlass journal", &self.volume.0.to_le_bytes()]));
        JournalSeal(Arc::new(Use { key, salt }))
    }
}

/// A derived key, and the salt that it was derived with.
struct Use {
    key: LessSafeKey,
    salt: u128,
}

impl fmt::Debug for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Use")
    }
}

/// Seals the records of a journal from one opening of it to the next. Cheap to clone.
#[derive(Clone, Debug)]
pub struct JournalSeal(Arc<Use>);

impl JournalSeal {
    pub fn salt(&self) -> u128 {
        self.0.salt
    }

    /// Seals a record and returns the sealed body. `fields`, sealed with the body, and the tag are appended
    /// to `out`.
    pub fn seal(&self, lsn: Lsn, aad: &[u8], body: &[u8], fields: &[u8], out: &mut [u8]) -> Vec<u8> {
        let mut sealed = vec![0; body.len()];
        self.0
            .key
            .seal_out_of_place_scatter(nonce(lsn.0), Aad::from(aad), body, &mut sealed, fields, out)
            .expect("the lengths are those of the fields, and a tag");
        sealed
    }

    /// Opens a sealed body, sealed fields and their tag. Returns the body with the fields behind it. `None`:
    /// the bytes are not what was sealed.
    pub fn open(&self, lsn: Lsn, aad: &[u8], body: &[u8], fields: &[u8], tag: &[u8]) -> Option<Vec<u8>> {
        let mut all = Vec::with_capacity(body.len() + fields.len());
        all.extend_from_slice(body);
        all.extend_from_slice(fields);
        let opened = self.0.key.open_in_place_separate_tag(nonce(lsn.0), Aad::from(aad), tag, &mut all);
        opened.ok()?;
        Some(all)
    }
}

#[cfg(test)]
mod tests {
    use super::super::TAG;
    use super::*;

    #[test]
    fn records_are_sealed_with_their_fields() {
        let key = JournalKey::new(VolumeId(7), Secret::new([1; 32]));
        let seal = key.seal(77);
        let mut tail = [0; 20 + TAG];
        let body = seal.seal(Lsn(9), b"aad", b"some blocks", &[3; 20], &mut tail);
        let (fields, tag) = tail.split_at(20);
        let again = key.seal(77);
        let opened = again.open(Lsn(9), b"aad", &body, fields, tag).unwrap();
        assert_eq!((&opened[..11], &opened[11..]), (&b"some blocks"[..], &[3; 20][..]));
        assert!(again.open(Lsn(10), b"aad", &body, fields, tag).is_none());
        assert!(again.open(Lsn(9), b"", &body, fields, tag).is_none());
        assert!(again.open(Lsn(9), b"aad", &body[1..], fields, tag).is_none());
        let others = [
            key.seal(78),
            JournalKey::new(VolumeId(8), Secret::new([1; 32])).seal(77),
            JournalKey::new(VolumeId(7), Secret::new([2; 32])).seal(77),
        ];
        assert!(others.iter().all(|o| o.open(Lsn(9), b"aad", &body, fields, tag).is_none()));
    }
}
