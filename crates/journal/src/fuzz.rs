//! A journal's files: header, heads of segments, batches, and the whole folder, opened again after it was changed here and
//! there.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::format::{ALIGN, BATCH_HEAD, BatchHead, Entry, Header, SegmentHead, sum_batch};
use super::{Journal, JournalConfig};
use windlass_base::codec::Writer;
use windlass_base::log_record::{Mark, Op, Record};
use windlass_base::rt::sim::{Sim, SimDisk};
use windlass_base::rt::{Disk, Rt};
use windlass_base::{Epoch, JournalId, Lsn, Nonce, Result, StateId, VolumeId};
use windlass_fuzz::{Target, apply, choice, edit, edits, with_xxh3};

pub const TARGETS: &[Target] = &[
    Target { name: "journal_header", run: header, seeds: some_headers, memory: 128 << 10 },
    Target { name: "journal_batch", run: batch, seeds: some_batches, memory: 512 << 10 },
    Target { name: "journal_folder", run: folder, seeds: some_edits, memory: 8 << 20 },
];

const ID: JournalId = JournalId(5);

fn some_headers() -> Vec<Vec<u8>> {
    let header = Header {
        volume: VolumeId(9),
        journal: ID,
        first_lsn: Lsn(1),
        mark: Lsn(0),
        segment: 32 << 10,
        place: 3,
        sealed: false,
        lineage: vec![Epoch(1), Epoch(2)],
    };
    let mut w = Writer::default();
    let before = Lsn(7);
    SegmentHead { lap: 1, salt: 2, before, before_end: 0, mark: Lsn(3), bytes: 8192 }.encode(ID, &mut w);
    let header = header.encode();
    vec![header[..header.len() - 8].to_vec(), w.buf[..72].to_vec()]
}

/// Decodes `data` as a header and as the head of a segment, each with its checksum behind it.
fn header(data: &[u8]) {
    let bytes = with_xxh3(data);
    if let Ok(header) = Header::decode(&bytes) {
        assert_eq!(header.encode(), bytes);
    }
    let _ = Header::decode(data);
    let head = with_xxh3(&data[..data.len().min(72)]);
    if let Some(head) = SegmentHead::decode(&head, ID) {
        let mut w = Writer::default();
        head.encode(ID, &mut w);
        assert_eq!(SegmentHead::decode(&w.buf, ID), Some(head));
    }
}

fn records() -> Vec<Record> {
    let mark = Mark {
        state: StateId(1),
        name: "s".parse().expect("a name"),
        group: Nonce(1),
        group_size: 1,
        created_ms: 9,
        size: 1 << 20,
        history: false,
    };
    let data = Bytes::from(vec![7; 4096]);
    let ops = [Op::Write { block: 3, data }, Op::Zero { block: 5, blocks: 2 }, Op::Mark(mark)];
    ops.into_iter().zip(1..).map(|(op, lsn)| Record { lsn: Lsn(lsn), op }).collect()
}

fn some_batches() -> Vec<Vec<u8>> {
    let entries: Vec<Entry> = records().iter().skip(1).map(|record| Entry::of(record, None)).collect();
    let body = entries.iter().map(|e| e.head.len).sum();
    let (records, sealed) = (entries.len() as u16, None);
    let (before, synced, mark) = (Lsn(1), Lsn(0), Lsn(0));
    let head = BatchHead { lap: 1, salt: 2, records, body, sealed, before, synced, mark };
    let mut w = Writer::default();
    head.encode(ID, 4096, entries.iter().map(|e| &e.head), &mut w);
    let bodies = entries.iter().flat_map(|e| e.body.iter().copied());
    let plain: Vec<u8> = w.buf.iter().copied().chain(bodies).collect();
    let sealed = [&plain[..4], &(BATCH_HEAD as u32 + 40 * 3).to_le_bytes(), &plain[8..]].concat();
    vec![plain, sealed]
}

/// Decodes `data` as the heads of a batch with the bodies right behind them.
fn batch(data: &[u8]) {
    let _ = BatchHead::decode(data, ID, 4096);
    let Some(heads) = BatchHead::claims(data).filter(|heads| *heads <= data.len()) else { return };
    // As it lies in a segment.
    let bodies = heads.next_multiple_of(ALIGN as usize);
    let mut segment = vec![0; 4096 + bodies];
    segment[4096..4096 + heads].copy_from_slice(&data[..heads]);
    segment.extend_from_slice(&data[heads..]);
    sum_batch(&mut segment, 4096, ID);
    let Some((head, records)) = BatchHead::decode(&segment[4096..], ID, 4096) else { return };
    assert_eq!(head.heads(), heads);
    let _ = head.size();
    let mut body = Bytes::copy_from_slice(&data[heads..]);
    for head in records {
        let body = body.split_to(body.len().min(head.len as usize));
        if let Some(record) = (Entry { head, body }).record(ID, None) {
            let again = Entry::of(&record, None);
            assert_eq!(again.record(ID, None), Some(record));
        }
    }
}

/// Paths of files, and their contents.
type Files = Vec<(PathBuf, Vec<u8>)>;

const DIR: &str = "/v";

fn config() -> JournalConfig {
    JournalConfig {
        dir: PathBuf::from(DIR),
        size: 4 * 32 * 1024,
        segment: Some((32 << 10, 32 << 10)),
        key: None,
    }
}

async fn put(journal: &Journal, record: &Record) -> Result<()> {
    let mut room = journal.reserve(journal.cost(record.op.payload().len().max(200) as u64)).await?;
    journal.append(&mut room, record)
}

async fn replayed(journal: &Journal, after: Lsn) -> Result<Vec<Record>> {
    let (mut replay, mut all) = (journal.replay(after), Vec::new());
    while let Some(record) = replay.next().await? {
        all.push(record);
    }
    Ok(all)
}

/// Makes the files of a journal with nine records, of which the first three are trimmed.
fn written() -> Files {
    let sim = Sim::new(1);
    let (rt, disk) = (sim.rt(), Arc::new(SimDisk::new(&sim)));
    let its = disk.clone();
    let run = sim.run(async move {
        let made = Journal::create(rt, its.clone(), config(), VolumeId(9), vec![Epoch(1)], Lsn(1)).await;
        let journal = made.expect("an empty disk");
        for lsn in 1..10 {
            let record = &records()[lsn as usize % 3];
            put(&journal, &Record { lsn: Lsn(lsn), ..record.clone() }).await.expect("there is room");
            journal.sync(None).await.expect("a disk that works");
        }
        journal.trim(Lsn(3));
        journal.close().await.expect("a disk that works");
        let mut all = Vec::new();
        for (path, _) in its.files() {
            let bytes = its.read(&path, 1 << 20).await.expect("it is there");
            all.push((path, bytes.to_vec()));
        }
        all
    });
    run.unwrap_or_else(|stall| panic!("{stall}"))
}

thread_local! {
    static WRITTEN: RefCell<Option<Files>> = const { RefCell::new(None) };
}

fn some_edits() -> Vec<Vec<u8>> {
    let with = |sums: u8, edits: &[Vec<u8>]| [vec![sums], edits.concat()].concat();
    let most = u64::MAX.to_le_bytes();
    let mut all = vec![with(0, &[])];
    for file in 0..4 {
        // The last lsn before the segment, and before its first batch.
        all.push(with(1, &[edit(file, 40, &most)]));
        all.push(with(1, &[edit(file, 4096 + 32, &most), edit(file, 4096 + 64, &most)]));
        all.push(with(0, &[edit(file, 4096 + 64, b"x")]));
    }
    all
}

fn resum(path: &Path, bytes: &mut Vec<u8>, journal: JournalId) {
    if path.ends_with("header") {
        let body = bytes.len().saturating_sub(8);
        *bytes = with_xxh3(&bytes[..body]);
    } else if bytes.len() > 4096 {
        let hash = xxh3_64(&bytes[..72]).to_le_bytes();
        bytes[72..80].copy_from_slice(&hash);
        (4096..bytes.len()).step_by(ALIGN as usize).for_each(|at| sum_batch(bytes, at, journal));
    }
}

/// Applies edits to the files of a journal, makes the checksums right where the input says so, and opens the folder.
fn folder(data: &[u8]) {
    let mut files = WRITTEN.with_borrow_mut(|kept| kept.get_or_insert_with(written).clone());
    let (sums, rest) = choice(data);
    let count = files.len();
    edits(rest, |file, offset, bytes| apply(&mut files[file % count].1, offset, bytes));
    if sums & 1 == 1 {
        let is_header = |(path, _): &&(PathBuf, Vec<u8>)| path.ends_with("header");
        let id = files.iter().find(is_header).and_then(|(_, bytes)| bytes.get(24..40)?.try_into().ok());
        let id = JournalId(id.map_or(0, u128::from_le_bytes));
        files.iter_mut().for_each(|(path, bytes)| resum(path, bytes, id));
    }
    let sim = Sim::new(1);
    let (rt, disk) = (sim.rt(), Arc::new(SimDisk::new(&sim)));
    let run = sim.run(async move {
        disk.create_dir(Path::new(DIR)).await.expect("an empty disk");
        for (path, bytes) in files {
            disk.write_atomic(&path, bytes.into()).await.expect("an empty disk");
        }
        let _ = super::peek(&*disk, Path::new(DIR), Lsn(3)).await;
        opened(&rt, &disk).await
    });
    let _: Result<()> = run.unwrap_or_else(|stall| panic!("{stall}"));
}

/// Opens the journal, adds a record and opens it again: the second opening must find what the first one found.
async fn opened(rt: &Rt, disk: &Arc<SimDisk>) -> Result<()> {
    let Some((journal, found)) = Journal::open(rt.clone(), disk.clone(), config()).await? else {
        return Ok(());
    };
    let after = Lsn(found.first_lsn.0 - 1);
    let before = replayed(&journal, after).await?;
    if journal.failed().is_none() {
        let record = Record { lsn: journal.end().next(), op: Op::Zero { block: 1, blocks: 1 } };
        put(&journal, &record).await?;
        journal.sync(None).await?;
        let now = replayed(&journal, after).await?;
        assert!(now.starts_with(&before), "{} records became {}", before.len(), now.len());
    }
    journal.close().await?;
    drop(journal);
    if let Some((journal, again)) = Journal::open(rt.clone(), disk.clone(), config()).await? {
        assert_eq!((again.journal, again.volume), (found.journal, found.volume));
        let now = replayed(&journal, Lsn(again.first_lsn.0 - 1)).await?;
        assert!(before.iter().all(|record| record.lsn < again.first_lsn || now.contains(record)));
        journal.close().await?;
    }
    Ok(())
}

#[test]
fn parsers_take_their_corpora_and_what_is_near_them() {
    windlass_fuzz::try_all(TARGETS);
}
