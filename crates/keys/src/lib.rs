//! Keys of encrypted volumes: which there are, how each comes from the one above it, and what is sealed by which.
//!
//! ```text
//! key file, key command, passphrase (argon2id)          one of up to 8 slots
//!        └─ HKDF ─► slot key ── wraps ─► volume key      drawn once, 256 bits
//!                                           ├─ HKDF ─► keys of journals
//!                                           └─ HKDF ─► wraps ─► data keys: own ones by number, and ancestors'
//!                                                                   └─ HKDF ─► keys of chunks, names
//! ```
//!
//! Everything is sealed by AES-256-GCM, names by AES-256-GCM-SIV. No pair of key and nonce is ever used for two
//! messages, whatever crashes, is copied or is put back:
//!
//! | what | key: by HKDF-SHA256, of the data key unless another is named, with | nonce |
//! |---|---|---|
//! | frames, pages, contents of a chunk | `chunk`, volume, epoch, number, a salt of 128 random bits drawn for each pass of sealing | offset in the chunk: a pass seals each offset once |
//! | records of a journal | the volume key, volume, a salt of 128 random bits drawn whenever a journal is created, opened or started anew | lsn: it only grows until the next salt |
//! | names of snapshots | `name`, volume | id of the state; SIV: a name that changes may repeat it |
//! | data keys | the volume key, a random salt for each wrap | 0: the key wraps once |
//! | the volume key | the slot's secret, a random salt for each wrap | 0: the key wraps once |
//!
//! A counter alone would repeat: a frame that is compressed anew is another message at the old place, a torn tail of a journal
//! gives its lsns to other records, and a state folder that is put back goes on from an old count. None of them repeats a salt.
//!
//! What holds key material (`Secret`, `Passphrase`, what they are derived to) is overwritten when it is dropped, and shows
//! nothing of it when it is printed.
//!
//! # Bytes
//!
//! The part `keys` of a volume's head, JSON: `origin`, the volume that the volume key was drawn for (a clone has its parent's);
//! `slots`, each `{slot, kind, made_ms, salt, argon2?: {memory_kib, passes,
//! lanes}, wrapped}`, and `data`, each `{volume, number, made_ms?, salt, wrapped}`, of one volume
//! 4 at most, of which the one of the highest number seals; bytes are hexadecimal, `wrapped` 32 bytes and their
//! tag of 16.
//!
//! A slot key is HKDF-SHA256 with the slot's salt, of the 32 bytes of a key file, of what a key command prints, or of argon2id
//! over the passphrase with the same salt; its info, which is the associated data as well, is `windlass slot`, the origin's
//! id (16), slot (1), kind (1: 1 key, 2 passphrase), and the three parameters of argon2id (4 each, else 0). A data key is wrapped by
//! HKDF-SHA256 with its salt of the volume key; info and associated data are `windlass data`, id of the volume that holds it (16),
//! of the volume whose it is (16), number (1).
//!
//! From a data key: HKDF-Extract with the salt `windlass`, then HKDF-Expand with `chunk`, volume id (16), epoch (8), number
//! of the chunk (8), salt (16); or `name`, volume id. A journal's records are sealed by HKDF-SHA256 with the salt (16) that stands in
//! each batch, of the volume key; its info is `windlass journal` and the volume's id (16). So a change of the data key has nothing to do
//! with journals. Numbers are little-endian. Nonces are 12 bytes: the number, little-endian, and four zeros.
//!
//! # The key of a pool
//!
//! A pool that was made with a key has its labels and its registers' objects signed by HMAC-SHA256. From the 32 bytes of the
//! key file, or of what the key command prints: HKDF-Extract with the salt `windlass pool`, then HKDF-Expand with `register` or
//! `label`, and the pool's id (16). What is signed of a register's object is the register's id (16), the store's index in the
//! pool (8), and all bytes before the signature; of a label, all bytes before `,"mac":"`.
//!
//! There is no passphrase for a pool: whoever reads a store could try out words against a signature.

mod data_key_ciphers;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod journal_key;
mod key_access;
mod key_table;
mod pool_key;
mod secret;
mod unlocked_keys;

pub use data_key_ciphers::{ChunkSeal, NAME_SEALED, SALT, TAG, VolumeKey};
pub use journal_key::{JournalKey, JournalSeal};
pub use key_access::{FamilyKeys, KeyAccess};
pub use key_table::{Argon2Costs, DATA_KEYS_MAX, DataKey, KeyTable, Offered, SLOTS_MAX, Slot, SlotKind};
pub use pool_key::{PoolKey, RegisterPlace, SIGNATURE};
pub use secret::{Passphrase, Secret};
pub use unlocked_keys::{KeyFinder, OpenKeys};
