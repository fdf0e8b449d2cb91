//! Files of keys, and the keys in a volume's head.

use super::{KeyTable, Offered, Passphrase, PoolKey, Secret};
use windlass_base::rt::sim::Sim;
use windlass_base::{PoolId, VolumeId};
use windlass_fuzz::{Target, choice};

pub const TARGETS: &[Target] = &[
    Target { name: "key_file", run: key_files, seeds: some_key_files, memory: 64 << 10 },
    Target { name: "key_slots", run: key_slots, seeds: some_key_slots, memory: 256 << 10 },
    Target { name: "pool_signature", run: signatures, seeds: some_signatures, memory: 64 << 10 },
];

fn some_key_files() -> Vec<Vec<u8>> {
    let base64 = b"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
    [&[7; 32][..], &[b"07".repeat(32), b"\n".to_vec()].concat(), base64, b"a passphrase\r\n"]
        .map(Vec::from)
        .into()
}

/// Parses key files. A pool's and a volume's have one form.
fn key_files(data: &[u8]) {
    if let Ok(secret) = Secret::read(data) {
        assert_eq!(Secret::read(secret.bytes()).ok(), Some(secret.clone()));
        let text: String =
            secret.bytes().iter().map(|b| format!("{b:02x}\n")).collect::<String>().replace('\n', "");
        assert_eq!(Secret::read(text.as_bytes()).ok(), Some(secret));
    }
    if let Ok(words) = Passphrase::read(data) {
        assert!(data.starts_with(words.bytes()));
    }
}

const VOLUME: VolumeId = VolumeId(7);

fn offered() -> Offered {
    Offered::Key(Secret::new([9; 32]))
}

fn some_key_slots() -> Vec<Vec<u8>> {
    let rt = Sim::new(1).rt();
    let (table, key) =
        KeyTable::drawn(&rt, VOLUME, &offered(), Default::default()).expect("a key is offered");
    let clone = table.of_clone(&rt, (VOLUME, &key), VolumeId(8)).expect("its own keys");
    [table, clone].iter().map(|table| serde_json::to_vec(table).expect("it has only string keys")).collect()
}

/// Opens key slots by a key. What a passphrase would cost is bounded by `Argon2Costs`.
fn key_slots(data: &[u8]) {
    let Ok(table) = serde_json::from_slice::<KeyTable>(data) else { return };
    let text = serde_json::to_vec(&table).expect("it has only string keys");
    assert_eq!(serde_json::from_slice::<KeyTable>(&text).ok(), Some(table.clone()));
    if KeyTable::check(Some(&table), false).is_err() {
        return;
    }
    let _ = table.current(VOLUME);
    let _ = table.keyring(VOLUME, None);
    if let Ok((key, _)) = table.unlock(&offered()) {
        let _ = table.keyring(VOLUME, Some(&key));
        let _ = table.without_below(VOLUME, 2);
    }
}

fn some_signatures() -> Vec<Vec<u8>> {
    let key = PoolKey::new(&Secret::new([5; 32]));
    vec![[&[64], key.sign_label(PoolId(1), b"{}").as_bytes(), b"{}"].concat()]
}

/// Checks signatures. The input is a length, so much of a signature, and what is signed.
fn signatures(data: &[u8]) {
    let (len, rest) = choice(data);
    let (signature, bytes) = rest.split_at(usize::from(len).min(rest.len()));
    let key = PoolKey::new(&Secret::new([5; 32]));
    let right = key.sign_label(PoolId(1), bytes);
    let is_right = signature.eq_ignore_ascii_case(right.as_bytes());
    assert_eq!(key.is_of_label(PoolId(1), bytes, signature), is_right);
}

#[test]
fn parsers_take_their_corpora_and_what_is_near_them() {
    windlass_fuzz::try_all(TARGETS);
}
