//! A staging folder that an earlier run left: notes, logs of edits, slabs, notes of renames.

use std::path::Path;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::file_stage::record;
use super::found_stages::FoundStages;
use super::note::{Mark, NOTE_FORMAT, Note, NoteRing, encode_entry};
use super::slab::Extent;
use super::unsynced_removals::StagingDir;
use crate::object::Base;
use windlass_base::Result;
use windlass_base::rt::Disk;
use windlass_base::rt::sim::{Sim, SimDisk};
use windlass_fuzz::choice;
use windlass_store::Etag;

fn note() -> Note {
    Note {
        format: NOTE_FORMAT,
        url: "mem:x".into(),
        key: "k".into(),
        base: Some(Base { size: 500, etag: Etag("e".into()) }),
        upload: None,
        size: 40,
        partly: false,
        begun_anew: Some(false),
        mark: Mark::Closed,
        unsent_close: true,
        rewrites: None,
        outgrown_slot: None,
        checksum: Some(7),
        generation: 3,
        boot: None,
        synced: true,
        sending: Vec::new(),
        removed_object: None,
        content_type: None,
        user: [("mode".to_owned(), "33188".to_owned())].into(),
        base_said: Some([("mode".to_owned(), None), ("uid".to_owned(), Some("7".to_owned()))].into()),
        carried: Default::default(),
    }
}

/// A byte that says which file it is, and its bytes: a note's JSON, with its head made right; a log of edits; a slab's head;
/// a note of a rename; a log of removals.
pub fn some_folders() -> Vec<Vec<u8>> {
    let json = |note: &Note| serde_json::to_vec(note).expect("it has only string keys");
    let partly = Note { partly: true, mark: Mark::Open, checksum: None, ..note() };
    let rename = br#"{"format":2,"act":"0123456789abcdef0123456789abcdef","from":"a/","to":"b/","over":true,"stage":"moved"}"#;
    let removals = br#"{"key":"a","etag":"e","modified_ms":5}
{"key":"b","etag":"f"}
{"key":"a"}
"#;
    let edits = [record(0, 9, 0), record(100, 5000, 1)].concat();
    let slab = Extent { len: 40, touched: 0 }.bytes();
    let extent = [&slab[..16], &json(&note())].concat();
    [
        (0, json(&note())),
        (1, json(&partly)),
        (2, edits),
        (3, extent),
        (4, rename.to_vec()),
        (5, removals.to_vec()),
    ]
    .map(|(which, bytes)| [vec![which], bytes].concat())
    .into()
}

/// An entry of a note whose head is made right, whatever its body says.
fn entry(body: &[u8]) -> Vec<u8> {
    let good = encode_entry(9, &note()).expect("a short note");
    let (magic, number) = (&good[..8], &good[8..16]);
    let hashed = [number, &(body.len() as u64).to_le_bytes(), body].concat();
    [magic, &hashed[..16], &xxh3_64(&hashed).to_le_bytes(), body].concat()
}

pub fn folder(data: &[u8]) {
    let (which, bytes) = choice(data);
    let _ = NoteRing::read(0, bytes);
    let mut files: Vec<(&str, Vec<u8>)> = Vec::new();
    let stage = |body: &[u8], more: usize| {
        let mut file = entry(body);
        file.resize(file.len().max(40 << 10) + more, 5);
        file
    };
    match which % 6 {
        0 => files.push(("1.stage", stage(bytes, 40))),
        1 => files.extend([("1.stage", stage(bytes, 40)), ("1.edits", record(3, 9, 0).to_vec())]),
        2 => {
            let partly = Note { partly: true, checksum: None, ..note() };
            let json = serde_json::to_vec(&partly).expect("it has only string keys");
            // The last word of each record is its sum.
            let mut edits = bytes.to_vec();
            for (place, one) in edits.chunks_exact_mut(24).enumerate() {
                let word = |at: usize| u64::from_le_bytes(one[at..at + 8].try_into().expect("eight bytes"));
                let right = record(word(0), word(8), place as u64);
                one.copy_from_slice(&right);
            }
            files.extend([("1.stage", stage(&json, 40)), ("1.edits", edits)]);
        }
        3 => {
            let (extent, body) = bytes.split_at(bytes.len().min(16));
            let mut head = extent.to_vec();
            head.resize(16, 0);
            let sum = xxh3_64(&head);
            let mut slab = [&head[..], &sum.to_le_bytes(), &[0; 8], &entry(body)].concat();
            slab.resize(slab.len().max(40 << 10), 6);
            files.push(("1.slab", slab));
        }
        4 => files.push(("1.rename", bytes.to_vec())),
        _ => files.push(("1.removals", bytes.to_vec())),
    }
    let sim = Sim::new(1);
    let disk = Arc::new(SimDisk::new(&sim));
    let run = sim.run(async move {
        let dir = Path::new("/s");
        disk.create_dir(dir).await?;
        for (name, bytes) in files {
            disk.write_atomic(&dir.join(name), bytes.into()).await?;
        }
        let disk: Arc<dyn Disk> = disk;
        let mut found = FoundStages::default();
        found.look(&StagingDir::on(&disk), dir).await?;
        for file in &found.files {
            assert!(file.edits.base_len <= file.edits.size, "{:?}", file.edits);
            let _ = file.stage.read(0, 4096).await;
        }
        Ok(())
    });
    let _: Result<()> = run.unwrap_or_else(|stall| panic!("{stall}"));
}
