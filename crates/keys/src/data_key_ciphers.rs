//! A volume's data keys, and what is sealed by keys that come from them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use parking_lot::{Mutex, RwLock};
use zeroize::Zeroizing;

use super::secret::Secret;
use windlass_base::{ChunkId, Error, Kind, Name, Result, StateId, VolumeId};

/// Bytes of a salt and of a tag.
pub const SALT: usize = 16;
pub const TAG: usize = 16;
/// Bytes that a name and its length (1 byte before it) are filled up to, so that its length does not show.
const NAME_PADDED: usize = 80;
/// Bytes of a sealed name: the data key's number, the name, the tag.
pub const NAME_SEALED: usize = 1 + NAME_PADDED + TAG;
/// Number of chunks' keys that are kept: reads come back to the same few.
const KEPT: usize = 8;

const _: () = assert!(Name::BYTES_MAX < NAME_PADDED);

/// The output length that HKDF is asked for: 32 bytes.
struct Bytes32;

impl KeyType for Bytes32 {
    fn len(&self) -> usize {
        32
    }
}

pub(super) fn extract(salt: &[u8], secret: &[u8]) -> Prk {
    Salt::new(HKDF_SHA256, salt).extract(secret)
}

pub(super) fn expand(prk: &Prk, info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0; 32]);
    let expanded = prk.expand(info, Bytes32).and_then(|okm| okm.fill(&mut out[..]));
    expanded.expect("HKDF gives up to 8160 bytes");
    out
}

pub(super) fn gcm(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("a key of 32 bytes"))
}

/// Makes a nonce of a number, little-endian, and four zeros.
pub(super) fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// The data keys of one volume, by number. The one of the highest number seals what is written; the others
/// open what was sealed before a rotation. Cheap to clone; all clones learn and forget together.
#[derive(Clone)]
pub struct VolumeKey(Arc<Inner>);

fn extracted((number, secret): (u8, Secret)) -> (u8, Prk) {
    (number, extract(b"windlass", secret.bytes()))
}

fn chunk_key(prk: &Prk, chunk: &ChunkId, salt: u128) -> LessSafeKey {
    let (volume, epoch) = (chunk.volume.0.to_le_bytes(), chunk.epoch.0.to_le_bytes());
    let (seq, salt) = (chunk.seq.0.to_le_bytes(), salt.to_le_bytes());
    gcm(&expand(prk, &[b"chunk", &volume, &epoch, &seq, &salt]))
}

/// A chunk, the number of the data key and the salt that the chunk's key was made of, and that key.
type KeptKey = (ChunkId, u8, u128, Arc<LessSafeKey>);

struct Inner {
    volume: VolumeId,
    /// The data keys by number. Never empty.
    data: RwLock<BTreeMap<u8, Prk>>,
    kept: Mutex<Vec<KeptKey>>,
}

impl fmt::Debug for VolumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VolumeKey of {}", self.0.volume)
    }
}

impl VolumeKey {
    /// Makes the keys of a volume. The newest one seals what is written from now on. `None`: there are none.
    pub fn new(volume: VolumeId, data: impl IntoIterator<Item = (u8, Secret)>) -> Option<VolumeKey> {
        let data: BTreeMap<u8, Prk> = data.into_iter().map(extracted).collect();
        let inner = |data| Inner { volume, data: RwLock::new(data), kept: Mutex::default() };
        (!data.is_empty()).then(|| VolumeKey(Arc::new(inner(data))))
    }

    /// Returns the number of the data key that seals what is written from now on.
    pub fn number(&self) -> u8 {
        self.newest(|number, _| number)
    }

    /// Takes in data keys that are in the head: a new one seals from now on. Returns whether one was news.
    pub fn learn(&self, data: impl IntoIterator<Item = (u8, Secret)>) -> bool {
        let mut known = self.0.data.write();
        let before = known.len();
        for (number, secret) in data {
            known.entry(number).or_insert_with(|| extracted((number, secret)).1);
        }
        known.len() > before
    }

    /// Takes over the head's data keys: from now on it has these and no others. An empty list changes
    /// nothing.
    pub fn follow(&self, data: Vec<(u8, Secret)>) {
        let mut known = self.0.data.write();
        if data.is_empty() {
            return;
        }
        known.retain(|number, _| data.iter().any(|(n, _)| n == number));
        for (number, secret) in data {
            known.entry(number).or_insert_with(|| extracted((number, secret)).1);
        }
        drop(known);
        self.0.kept.lock().clear();
    }

    /// Drops data keys of lower numbers. They are gone from the head: nothing that is left was sealed by
    /// them.
    pub fn forget_below(&self, number: u8) {
        let mut known = self.0.data.write();
        let newest = known.keys().next_back().copied();
        known.retain(|n, _| *n >= number || Some(*n) == newest);
        drop(known);
        self.0.kept.lock().retain(|kept| kept.1 >= number);
    }

    /// Makes something of the newest data key and its number, in one look: both are of one moment.
    fn newest<T>(&self, make: impl FnOnce(u8, &Prk) -> T) -> T {
        let data = self.0.data.read();
        let (number, prk) = data.last_key_value().expect("a volume has a data key");
        make(*number, prk)
    }

    fn chunk_key(&self, number: u8, chunk: &ChunkId, salt: u128) -> Option<LessSafeKey> {
        Some(chunk_key(self.0.data.read().get(&number)?, chunk, salt))
    }

    /// Begins to seal what lies in a chunk. `salt`: 128 random bits, of this pass alone.
    pub fn chunk(&self, chunk: &ChunkId, salt: u128) -> ChunkSeal {
        self.newest(|number, prk| {
            ChunkSeal(Arc::new(Pass { key: chunk_key(prk, chunk, salt), number, salt }))
        })
    }

    /// Returns the key by which something in a chunk was sealed.
    fn kept_chunk_key(&self, number: u8, chunk: &ChunkId, salt: u128) -> Result<Arc<LessSafeKey>> {
        let mut kept = self.0.kept.lock();
        let is = |k: &KeptKey| (k.2, k.1, &k.0) == (salt, number, chunk);
        if let Some(at) = kept.iter().position(is) {
            kept[..=at].rotate_right(1);
            return Ok(kept[0].3.clone());
        }
        drop(kept);
        let Some(key) = self.chunk_key(number, chunk, salt) else { return Err(self.unknown(number)) };
        let (key, mut kept) = (Arc::new(key), self.0.kept.lock());
        kept.truncate(KEPT - 1);
        kept.insert(0, (*chunk, number, salt, key.clone()));
        Ok(key)
    }

    fn unknown(&self, number: u8) -> Error {
        let why = format!(
            "it was sealed by data key {number}, which volume {} does not have, or has no more after a rotation",
            self.0.volume
        );
        Error::new(Kind::Denied, why)
    }

    /// Opens what `ChunkSeal::seal` sealed at this offset of the chunk. `None`: the bytes are not what was
    /// sealed there.
    pub fn open_in_chunk(
        &self,
        (number, salt): (u8, u128),
        chunk: &ChunkId,
        offset: u64,
        aad: &[u8],
        (sealed, tag): (&[u8], &[u8]),
    ) -> Result<Option<Vec<u8>>> {
        let key = self.kept_chunk_key(number, chunk, salt)?;
        let mut out = vec![0; sealed.len()];
        let opened = key.open_separate_gather(nonce(offset), Aad::from(aad), sealed, tag, &mut out);
        Ok(opened.is_ok().then_some(out))
    }

    /// Tells whether `ChunkSeal::sign` signed these bytes at this offset of the chunk.
    pub fn is_signed_in_chunk(
        &self,
        (number, salt): (u8, u128),
        chunk: &ChunkId,
        offset: u64,
        signed: &[u8],
        tag: &[u8],
    ) -> Result<bool> {
        let key = self.kept_chunk_key(number, chunk, salt)?;
        Ok(key.open_separate_gather(nonce(offset), Aad::from(signed), &[], tag, &mut []).is_ok())
    }

    fn name_key(&self, number: u8) -> Option<LessSafeKey> {
        Some(self.name_key_by(self.0.data.read().get(&number)?))
    }

    fn name_key_by(&self, prk: &Prk) -> LessSafeKey {
        let key = expand(prk, &[b"name", &self.0.volume.0.to_le_bytes()]);
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, &key[..]).expect("a key of 32 bytes"))
    }

    /// Seals a state's name. The same name gives the same bytes.
    pub fn seal_name(&self, state: StateId, name: &Name) -> Vec<u8> {
        let (number, key) = self.newest(|number, prk| (number, self.name_key_by(prk)));
        let text = name.as_str().as_bytes();
        let mut out = vec![0; NAME_PADDED];
        out[0] = text.len() as u8;
        out[1..=text.len()].copy_from_slice(text);
        key.seal_in_place_append_tag(nonce(state.0), Aad::from([number]), &mut out)
            .expect("a name is short enough for any cipher");
        out.insert(0, number);
        out
    }

    pub fn open_name(&self, state: StateId, sealed: &[u8]) -> Result<Name> {
        let bad = || {
            let why = format!("the name of a snapshot of volume {} is not what was sealed", self.0.volume);
            Error::new(Kind::Corrupt, why)
        };
        let (number, rest) = sealed.split_first().ok_or_else(bad)?;
        let key = self.name_key(*number).ok_or_else(|| self.unknown(*number))?;
        let mut bytes = rest.to_vec();
        let opened =
            key.open_in_place(nonce(state.0), Aad::from([*number]), &mut bytes).map_err(|_| bad())?;
        let (len, text) = opened.split_first().ok_or_else(bad)?;
        let text = text.get(..usize::from(*len)).and_then(|text| std::str::from_utf8(text).ok());
        Name::stored(text.ok_or_else(bad)?)
    }
}

/// A key that was derived for one pass, and what it was derived with.
struct Pass {
    key: LessSafeKey,
    number: u8,
    salt: u128,
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pass").field("number", &self.number).finish_non_exhaustive()
    }
}

/// One pass of sealing what lies in one chunk. Nothing may be sealed twice at one offset. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ChunkSeal(Arc<Pass>);

impl ChunkSeal {
    /// Returns the number of the data key.
    pub fn number(&self) -> u8 {
        self.0.number
    }

    pub fn salt(&self) -> [u8; SALT] {
        self.0.salt.to_le_bytes()
    }

    /// Seals in place and returns the tag. `aad`: bytes that are not stored or not secret, and must be the
    /// same when the sealed bytes are opened.
    pub fn seal(&self, offset: u64, aad: &[u8], in_out: &mut [u8]) -> [u8; TAG] {
        let sealed = self.0.key.seal_in_place_separate_tag(nonce(offset), Aad::from(aad), in_out);
        tag(sealed)
    }

    /// Returns the tag of bytes that stay readable.
    pub fn sign(&self, offset: u64, signed: &[u8]) -> [u8; TAG] {
        tag(self.0.key.seal_in_place_separate_tag(nonce(offset), Aad::from(signed), &mut []))
    }
}

fn tag(sealed: Result<aws_lc_rs::aead::Tag, aws_lc_rs::error::Unspecified>) -> [u8; TAG] {
    let sealed = sealed.expect("what is sealed at once is far below 64 GiB");
    sealed.as_ref().try_into().expect("a tag of GCM has 16 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_base::{Epoch, Seq};

    fn bytes(hex: &str) -> Vec<u8> {
        let mut out = vec![0; hex.len() / 2];
        assert!(super::super::secret::hex(hex.as_bytes(), &mut out));
        out
    }

    fn array<const N: usize>(hex: &str) -> [u8; N] {
        bytes(hex).try_into().unwrap()
    }

    /// McGrew and Viega, "The Galois/Counter Mode of Operation" (NIST's submission), cases 13, 14 and 16.
    #[test]
    fn aes_256_gcm_is_nists() {
        let seal = |key: &str, iv: &str, aad: &str, plain: &str| {
            let mut out = bytes(plain);
            let nonce = Nonce::assume_unique_for_key(array(iv));
            let tag = gcm(&array(key)).seal_in_place_separate_tag(nonce, Aad::from(bytes(aad)), &mut out);
            (out, tag.unwrap().as_ref().to_vec())
        };
        let zeros = "0".repeat(64);
        let iv = "0".repeat(24);
        let empty = seal(&zeros, &iv, "", "");
        assert_eq!(empty, (vec![], bytes("530f8afbc74536b9a963b4f1c4cb738b")));
        let block = seal(&zeros, &iv, "", &"0".repeat(32));
        assert_eq!(
            block,
            (bytes("cea7403d4d606b6e074ec5d3baf39d18"), bytes("d0d1c8a799996bf0265b98b5d48ab919"))
        );
        let long = seal(
            "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
            "cafebabefacedbaddecaf888",
            "feedfacedeadbeeffeedfacedeadbeefabaddad2",
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
             1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        );
        let should = "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
                      8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662";
        assert_eq!(long, (bytes(should), bytes("76fc6ece0f4e1768cddf8853bb2d551b")));
    }

    /// RFC 5869, case 1, as far as 32 bytes.
    #[test]
    fn hkdf_is_the_rfcs() {
        let prk = extract(&bytes("000102030405060708090a0b0c"), &[0x0b; 22]);
        let okm = expand(&prk, &[&bytes("f0f1f2f3f4"), &bytes("f5f6f7f8f9")]);
        let should = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf";
        assert_eq!(okm[..], bytes(should)[..]);
    }

    fn key(numbers: &[u8]) -> VolumeKey {
        VolumeKey::new(VolumeId(7), numbers.iter().map(|n| (*n, Secret::new([*n; 32])))).unwrap()
    }

    fn chunk(seq: u64) -> ChunkId {
        ChunkId { volume: VolumeId(7), epoch: Epoch(2), seq: Seq(seq) }
    }

    #[test]
    fn clones_of_a_key_learn_forget_and_follow_together() {
        let (one, c, state) = (key(&[1]), chunk(1), StateId(3));
        let other = one.clone();
        let old = one.chunk(&c, 5);
        let mut text = b"text".to_vec();
        let tag = old.seal(0, b"", &mut text);
        let opened =
            |k: &VolumeKey| k.open_in_chunk((1, 5), &c, 0, b"", (&text, &tag)).map(|raw| raw.is_some());
        let named = one.seal_name(state, &"s".parse().unwrap());
        assert!(other.learn([(1, Secret::new([9; 32])), (2, Secret::new([2; 32]))]));
        assert!(!other.learn([(2, Secret::new([9; 32]))]), "what is known stays");
        assert_eq!((one.number(), one.chunk(&c, 6).number()), (2, 2));
        assert_eq!(old.number(), 1, "a pass is of one key");
        assert!(opened(&one).unwrap());
        assert_ne!(one.seal_name(state, &"s".parse().unwrap()), named);
        assert_eq!(one.open_name(state, &named).unwrap().as_str(), "s");
        other.forget_below(2);
        assert!(opened(&one).unwrap_err().is(Kind::Denied), "the key of a chunk that was kept is gone too");
        assert!(one.open_name(state, &named).unwrap_err().is(Kind::Denied));
        other.forget_below(9);
        assert_eq!(one.number(), 2, "the newest stays");
        one.follow(vec![(3, Secret::new([3; 32]))]);
        assert_eq!(other.number(), 3);
        one.follow(vec![(1, Secret::new([1; 32]))]);
        assert_eq!(other.number(), 1, "a head that went back counts");
    }

    #[test]
    fn what_is_sealed_opens_in_its_place_alone() {
        let key = key(&[1, 2]);
        let pass = key.chunk(&chunk(5), 99);
        let mut sealed = b"twelve bytes".to_vec();
        let tag = pass.seal(64, b"aad", &mut sealed);
        assert!(sealed != b"twelve bytes" && pass.number() == 2);
        let open = |seq, salt, offset, aad: &[u8], sealed: &[u8], tag: &[u8]| {
            key.open_in_chunk((2, salt), &chunk(seq), offset, aad, (sealed, tag)).unwrap()
        };
        assert_eq!(open(5, 99, 64, b"aad", &sealed, &tag).as_deref(), Some(&b"twelve bytes"[..]));
        for bad in [
            open(6, 99, 64, b"aad", &sealed, &tag),
            open(5, 98, 64, b"aad", &sealed, &tag),
            open(5, 99, 65, b"aad", &sealed, &tag),
            open(5, 99, 64, b"aae", &sealed, &tag),
            open(5, 99, 64, b"aad", &sealed[1..], &tag),
            open(5, 99, 64, b"aad", &sealed, &tag[1..]),
        ] {
            assert_eq!(bad, None);
        }
        let other = key.open_in_chunk((3, 99), &chunk(5), 64, b"aad", (&sealed, &tag)).unwrap_err();
        assert!(other.is(Kind::Denied) && other.to_string().contains("data key 3"), "{other}");
        let signed = pass.sign(80, b"shown");
        assert!(key.is_signed_in_chunk((2, 99), &chunk(5), 80, b"shown", &signed).unwrap());
        assert!(!key.is_signed_in_chunk((2, 99), &chunk(5), 80, b"shewn", &signed).unwrap());
    }

    #[test]
    fn passes_of_one_chunk_have_keys_of_their_own() {
        let key = key(&[1]);
        let seal = |salt, seq| {
            let mut sealed = vec![0; 32];
            key.chunk(&chunk(seq), salt).seal(0, b"", &mut sealed);
            sealed
        };
        let all = [seal(1, 5), seal(2, 5), seal(1, 6)];
        for (n, one) in all.iter().enumerate() {
            assert!(all[n + 1..].iter().all(|other| other != one), "{n}");
        }
    }

    #[test]
    fn keys_that_are_kept_are_the_same_keys() {
        let key = key(&[1]);
        for round in 0..3 {
            for salt in 0..20u128 {
                let mut sealed = vec![salt as u8; 40];
                let tag = key.chunk(&chunk(1), salt).seal(round, b"", &mut sealed);
                let opened = key.open_in_chunk((1, salt), &chunk(1), round, b"", (&sealed, &tag)).unwrap();
                assert_eq!(opened, Some(vec![salt as u8; 40]));
                assert!(key.0.kept.lock().len() <= KEPT);
            }
        }
    }

    #[test]
    fn a_name_is_sealed_to_its_state_and_shows_no_length() {
        let (key, name): (_, Name) = (key(&[1]), "before-upgrade".parse().unwrap());
        let sealed = key.seal_name(StateId(3), &name);
        assert_eq!(sealed, key.seal_name(StateId(3), &name));
        let trashed = "a".repeat(63).parse::<Name>().unwrap().in_trash(0);
        let long = key.seal_name(StateId(3), &trashed);
        assert_eq!((sealed.len(), long.len()), (NAME_SEALED, NAME_SEALED));
        assert_eq!(key.open_name(StateId(3), &sealed).unwrap(), name);
        assert_eq!(key.open_name(StateId(3), &long).unwrap(), trashed);
        assert!(key.open_name(StateId(4), &sealed).unwrap_err().is(Kind::Corrupt));
        assert!(key.open_name(StateId(3), b"").is_err() && key.open_name(StateId(3), &sealed[..9]).is_err());
        // Rotated keys open what the older ones sealed.
        let newer = super::tests::key(&[1, 2]);
        assert_eq!(newer.open_name(StateId(3), &sealed).unwrap(), name);
    }
}
