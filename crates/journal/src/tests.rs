use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::*;
use windlass_base::log_record::{Mark, Op, Record};
use windlass_base::rt::sim::{Process, Sim, SimDisk};
use windlass_base::rt::{Disk, Rt};
use windlass_base::{Epoch, Kind, Lsn, Nonce, StateId, VolumeId};
use windlass_keys::{JournalKey, Secret};

const DIR: &str = "/state/journals/v";

/// Returns the key of the journals: with WINDLASS_TEST_ENCRYPTED set all of them are an encrypted volume's.
fn key() -> Option<JournalKey> {
    std::env::var_os("WINDLASS_TEST_ENCRYPTED")?;
    Some(JournalKey::new(VolumeId(7), Secret::new([9; 32])))
}

fn config() -> JournalConfig {
    JournalConfig {
        dir: PathBuf::from(DIR),
        size: 5 * 96 * 1024,
        segment: Some((96 * 1024, 96 * 1024)),
        key: key(),
    }
}

/// Makes a record whose contents follow from its lsn and a variant.
fn record(lsn: u64, variant: u64) -> Record {
    let op = match (lsn * 7 + variant) % 10 {
        0 => Op::Zero { block: lsn, blocks: variant % (1 << 40) + 1 },
        1 => Op::Mark(Mark {
            state: StateId(lsn),
            name: format!("snap-{lsn}").parse().unwrap(),
            group: Nonce(variant.into()),
            group_size: 1,
            created_ms: variant,
            size: 4096 * lsn,
            history: lsn.is_multiple_of(3),
        }),
        n => {
            let mut data = vec![(lsn ^ variant) as u8; 4096 * (n as usize % 3 + 1)];
            data[..8].copy_from_slice(&lsn.to_le_bytes());
            Op::Write { block: lsn * 5, data: data.into() }
        }
    };
    Record { lsn: Lsn(lsn), op }
}

fn write(lsn: u64) -> Record {
    Record { lsn: Lsn(lsn), op: Op::Write { block: lsn, data: Bytes::from(vec![lsn as u8; 4096]) } }
}

async fn put(journal: &Journal, record: &Record) -> windlass_base::Result<()> {
    let cost = journal.cost(match &record.op {
        Op::Write { data, .. } => data.len() as u64,
        _ => 200,
    });
    journal.append(&mut journal.reserve(cost).await?, record)
}

async fn replayed(journal: &Journal, after: u64) -> windlass_base::Result<Vec<Record>> {
    let mut replay = journal.replay(Lsn(after));
    let mut out = Vec::new();
    while let Some(record) = replay.next().await? {
        out.push(record);
    }
    Ok(out)
}

async fn create(rt: Rt, disk: &SimDisk) -> Journal {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Journal::create(rt, disk, config(), VolumeId(9), vec![Epoch(1)], Lsn(1)).await.unwrap()
}

async fn open(rt: Rt, disk: &SimDisk) -> windlass_base::Result<Option<(Journal, Recovered)>> {
    Journal::open(rt, Arc::new(disk.clone()), config()).await
}

/// A model of a volume's journal: what must hold of it, whatever happens to its host.
#[derive(Default)]
struct Model {
    made: bool,
    records: BTreeMap<u64, Record>,
    synced: u64,
    /// Last lsn that the kernel has, until the power fails.
    written: u64,
    mark: u64,
    /// Last lsn that is stored and confirmed.
    log_end: u64,
    lives: u64,
    restarts: u64,
    /// Number of times that the journal was given up for want of room.
    voids: u64,
}

/// Tells whether the error is that of a disk that fails to sync or has no room.
fn full(e: &windlass_base::Error) -> bool {
    e.is(Kind::Io) || e.is(Kind::NoSpace)
}

type Shared = Arc<Mutex<Model>>;

/// Opens (or makes) the journal and checks what it says against the model.
async fn begin(rt: &Rt, disk: &SimDisk, model: &Shared) -> windlass_base::Result<Journal> {
    let stored = Lsn(model.lock().log_end);
    let seen = peek(disk, &config().dir, stored).await;
    let (journal, found) = match open(rt.clone(), disk).await? {
        Some(found) => found,
        None => {
            assert!(!model.lock().made, "the journal is gone");
            let disk: Arc<dyn Disk> = Arc::new(disk.clone());
            let journal =
                Journal::create(rt.clone(), disk, config(), VolumeId(9), vec![Epoch(1)], Lsn(1)).await?;
            model.lock().made = true;
            return Ok(journal);
        }
    };
    model.lock().made = true;
    let after = model.lock().log_end;
    let records = replayed(&journal, after).await?;
    // What it says that it has, it has, trimmed or not: a volume may need it when stores can't tell what is stored.
    let since = found.first_lsn.0 - 1;
    let all = replayed(&journal, since.min(after)).await?;
    let mut m = model.lock();
    assert_eq!(found.volume, VolumeId(9));
    let end = found.end.0;
    assert!(end >= m.synced || end + 1 == found.first_lsn.0, "{} was synced, {end} is left", m.synced);
    assert!(end >= m.written || end + 1 == found.first_lsn.0, "{} was written, {end} is left", m.written);
    assert!(found.mark.0 >= m.mark, "{} was marked, {} is left", m.mark, found.mark);
    assert!(found.first_lsn.0 <= after + 1, "records from {} are kept, {after} is stored", found.first_lsn);
    m.records.split_off(&(end + 1));
    let expected: Vec<_> = m.records.range(after + 1..).map(|(_, r)| r.clone()).collect();
    assert_eq!(records, expected, "a prefix, and all of it");
    let expected: Vec<_> = m.records.range(since.min(after) + 1..).map(|(_, r)| r.clone()).collect();
    assert_eq!(all, expected, "what is trimmed and still here");
    let seen = seen.unwrap().expect("a look sees the journal that opening finds");
    assert!(seen.any_after || records.is_empty(), "a look misses no record");
    let payload: u64 = records.iter().map(|r| r.op.payload().len() as u64).sum();
    assert!(seen.after >= payload && seen.used >= seen.after, "{seen:?}, {payload}");
    (m.synced, m.written) = (m.synced.min(end), m.written.min(end));
    m.lives += 1;
    Ok(journal)
}

/// Does one step of a volume's life.
async fn act(rt: &Rt, journal: &Arc<Journal>, model: &Shared, next: &mut u64) -> windlass_base::Result<()> {
    match rt.below(20) {
        0..10 => {
            let record = record(*next, rt.random());
            model.lock().records.insert(*next, record.clone());
            *next += 1 + rt.below(30) / 29;
            let lsn = record.lsn.0;
            put(journal, &record).await?;
            if rt.below(2) == 0 {
                journal.written().await;
                if journal.failed().is_none() {
                    let mut m = model.lock();
                    m.written = m.written.max(lsn);
                }
            }
        }
        10..14 => {
            let (journal, model, upto) = (journal.clone(), model.clone(), *next - 1);
            let mark = (rt.below(3) == 0).then(|| Lsn(model.lock().log_end));
            let sync = async move {
                journal.sync(mark).await?;
                let mut m = model.lock();
                let appended = m.records.range(..=upto).next_back().map_or(0, |(lsn, _)| *lsn);
                m.synced = m.synced.max(appended);
                m.mark = m.mark.max(mark.map_or(0, |l| l.0));
                Ok(())
            };
            if rt.below(2) == 0 {
                return sync.await;
            }
            rt.spawn(async move { sync.await.map_err(|e: windlass_base::Error| e) }).detach();
        }
        14..17 => {
            let upto = {
                let mut m = model.lock();
                m.log_end += rt.below(*next - m.log_end);
                m.log_end
            };
            journal.trim(Lsn(upto));
        }
        17 => rt.sleep(Duration::from_micros(rt.below(5000))).await,
        18 => drop(rt.timeout(Duration::from_micros(500), journal.reserve(rt.below(20_000))).await),
        _ => assert!(journal.usage().used <= journal.usage().size),
    }
    Ok(())
}

async fn live(rt: Rt, disk: SimDisk, model: Shared) {
    let Ok(journal) = begin(&rt, &disk, &model).await.map_err(|e| assert!(full(&e), "{e}")) else {
        return;
    };
    let journal = Arc::new(journal);
    // Stands for a volume that stores what waits, so that no reservation waits for ever.
    let (trimmer, m, rt2) = (Arc::downgrade(&journal), model.clone(), rt.clone());
    let mut next = {
        let m = model.lock();
        journal.end().0.max(m.log_end) + 1
    };
    rt.spawn(async move {
        loop {
            rt2.sleep(Duration::from_millis(40)).await;
            let Some(journal) = trimmer.upgrade() else { return };
            let end = journal.end();
            let upto = {
                let mut m = m.lock();
                m.log_end = m.log_end.max(end.0);
                m.log_end
            };
            journal.trim(Lsn(upto));
        }
    })
    .detach();
    for _ in 0..rt.below(400) {
        let Err(error) = act(&rt, &journal, &model, &mut next).await else { continue };
        assert!(full(&error), "{error}");
        loop {
            let (first, mark) = {
                let mut m = model.lock();
                m.log_end = next - 1;
                (next, m.mark)
            };
            let begun = match journal.make_ready().await {
                Ok(ready) => journal.restart(ready, Lsn(first), Lsn(mark)).await.map(Some),
                Err(_) => journal.give_up(Lsn(first)).await.map(|()| None),
            };
            match begun {
                Ok(Some(_)) => break,
                Ok(None) => model.lock().voids += 1,
                Err(e) => assert!(full(&e), "{e}"),
            }
            rt.sleep(Duration::from_millis(rt.below(100))).await;
        }
        let mut m = model.lock();
        m.synced = next - 1;
        m.restarts += 1;
    }
    if rt.below(3) == 0 {
        let upto = model.lock().records.keys().next_back().copied().unwrap_or(0);
        match journal.close().await {
            Ok(()) => model.lock().synced = upto,
            Err(e) => assert!(full(&e), "{e}"),
        }
    }
}

fn crash_run(seed: u64) -> (u64, u64, u64) {
    let sim = Sim::new(seed);
    let world = (*sim).clone();
    let disk = SimDisk::new(&world);
    let model = Shared::default();
    if seed.is_multiple_of(3) {
        disk.faults(|f| f.sync_fails = 15);
    }
    if seed.is_multiple_of(4) {
        // Fills and empties, as somebody else's files come and go.
        let (world, disk, start) = (world.clone(), disk.clone(), world.below(100));
        world
            .clone()
            .process()
            .rt()
            .spawn(async move {
                let rt = world.process().rt();
                rt.sleep(Duration::from_millis(start)).await;
                loop {
                    let used: u64 = disk.files().iter().map(|(_, len)| len).sum();
                    disk.faults(|f| f.capacity = used + world.below(200 << 10));
                    rt.sleep(Duration::from_millis(world.below(400))).await;
                    disk.faults(|f| f.capacity = u64::MAX);
                    rt.sleep(Duration::from_millis(world.below(200))).await;
                }
            })
            .detach();
    }
    let m = model.clone();
    sim.run(async move {
        for _ in 0..6 {
            let process: Process = world.process();
            let rt = process.rt();
            let life = rt.clone().spawn(live(rt, disk.clone(), m.clone()));
            let (disk2, power, ours) = (disk.clone(), world.below(2) == 0, process.clone());
            let m2 = m.clone();
            let kill = move || {
                if ours.alive() {
                    ours.kill();
                    if power {
                        m2.lock().written = 0;
                        disk2.power_loss();
                    }
                }
            };
            let (now, later) = (kill.clone(), kill);
            world.after_steps(world.below(6000), later);
            let _ = life.await;
            now();
        }
    })
    .unwrap();
    let m = model.lock();
    (m.lives, m.restarts, m.voids)
}

#[test]
fn whatever_was_synced_comes_back_as_a_prefix() {
    let (mut lives, mut restarts, mut voids) = (0, 0, 0);
    for seed in 0..300 {
        let (l, r, v) = crash_run(seed);
        lives += l;
        restarts += r;
        voids += v;
    }
    assert!(lives > 400 && restarts > 10 && voids > 10, "{lives} lives, {restarts} restarts, {voids} voids");
}

fn run<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    seed: u64,
    main: impl FnOnce(Rt, SimDisk) -> F,
) -> T {
    let sim = Sim::new(seed);
    let disk = SimDisk::new(&sim);
    sim.run(main(sim.rt(), disk)).unwrap()
}

#[test]
fn golden_bytes() {
    use super::format::*;
    use windlass_base::JournalId;
    use windlass_base::codec::Writer;
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let lineage = vec![Epoch(3), Epoch(4)];
    let header = Header {
        volume: VolumeId(0x11),
        journal: JournalId(0x22),
        first_lsn: Lsn(5),
        mark: Lsn(4),
        segment: 1 << 20,
        place: 6,
        sealed: false,
        lineage,
    };
    let golden = "776c4a680600000011000000000000000000000000000000220000000000000000000000000000000500000000000000\
                  0400000000000000000010000000000006000000000000000200000003000000000000000400000000000000\
                  b137494e15bd436c";
    assert_eq!(hex(&header.encode()), golden);
    assert_eq!(Header::decode(&header.encode()).unwrap(), header);

    let segment =
        SegmentHead { lap: 7, salt: 0x5a17, before: Lsn(9), before_end: 8192, mark: Lsn(8), bytes: 65536 };
    let mut w = Writer::default();
    segment.encode(JournalId(0x22), &mut w);
    let golden = "776c4a7304000000220000000000000000000000000000000700000000000000175a000000000000\
                  09000000000000000020000000000000080000000000000000000100000000000df2f2263c51e8d8";
    assert_eq!((hex(&w.buf[..80]).as_str(), w.buf.len()), (golden, 4096));
    assert_eq!(SegmentHead::decode(&w.buf, JournalId(0x22)), Some(segment));
    assert_eq!(SegmentHead::decode(&w.buf, JournalId(0x23)), None);

    let entry = Entry::of(&write(10), None);
    let batch = BatchHead {
        lap: 7,
        salt: 0x5a17,
        records: 1,
        body: 4096,
        sealed: None,
        before: Lsn(9),
        synced: Lsn(6),
        mark: Lsn(8),
    };
    let mut w = Writer::default();
    batch.encode(JournalId(0x22), 4096, [&entry.head].into_iter(), &mut w);
    let golden = "776c4a626800000000100000010000000700000000000000175a0000000000000900000000000000\
                  060000000000000008000000000000006ed83a97e4bf58eb\
                  0a000000000000000a0000000000000001000000000000000010000001000000516575365b4dba18";
    assert_eq!(hex(&w.buf), golden);
    assert_eq!(BatchHead::decode(&w.buf, JournalId(0x22), 4096), Some((batch, vec![entry.head])));
    assert_eq!(BatchHead::decode(&w.buf, JournalId(0x22), 8192), None);
    assert_eq!(BatchHead::decode(&w.buf, JournalId(0x23), 4096), None);
}

/// The expected bytes were sealed and hashed by another program (Python's `cryptography` and `xxhash`).
#[test]
fn golden_bytes_of_a_sealed_batch() {
    use super::format::*;
    use windlass_base::JournalId;
    use windlass_base::codec::Writer;
    let key = JournalKey::new(VolumeId(0x11), Secret::new([9; 32]));
    let (journal, seal) = (JournalId(0x22), key.seal(0x77));
    let entry = Entry::of(&write(10), Some((&seal, journal)));
    let batch = BatchHead {
        lap: 7,
        salt: 0x5a17,
        records: 1,
        body: 4096,
        sealed: Some(0x77),
        before: Lsn(9),
        synced: Lsn(6),
        mark: Lsn(8),
    };
    let mut w = Writer::default();
    batch.encode(journal, 4096, [&entry.head].into_iter(), &mut w);
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let golden = "776c4a62b800000000100000010001000700000000000000175a0000000000000900000000000000\
                  0600000000000000080000000000000006164ef3e22ec798\
                  77000000000000000000000000000000000000000000000000000000000000000000000000000000\
                  0a00000000000000000000000000000000000000000000000010000000000000bf2357ff161ea80f\
                  d608792951b8937dea5154087b528b802c3b5dd68f667f562d49fbacaa26e596f10958ce00000000";
    assert_eq!(hex(&w.buf), golden);
    assert_eq!(hex(&entry.body[..16]), "2e56dc6ea48bac73a2e6ac4a9a207e1e");
    assert_eq!(hex(&entry.body[4080..]), "ace7e3ad3c201430d74824d59d3ee705");
    assert_eq!(BatchHead::decode(&w.buf, journal, 4096), Some((batch, vec![entry.head])));
    assert_eq!(entry.record(journal, Some(&seal)), Some(write(10)));
    // Not another journal's, nor with another record's fields, nor without the key.
    assert_eq!(entry.record(JournalId(0x23), Some(&seal)), None);
    assert_eq!(entry.record(journal, None), None);
    let other = Entry::of(&write(11), Some((&seal, journal)));
    let mixed = Entry { head: RecordHead { sealed: other.head.sealed, ..entry.head }, ..entry.clone() };
    assert_eq!(mixed.record(journal, Some(&seal)), None);
}

#[test]
fn damage_is_seen_and_nothing_is_changed() {
    let mut refused = 0;
    for seed in 0..120 {
        refused += run(seed, move |rt, disk| async move {
            let journal = create(rt.clone(), &disk).await;
            for lsn in 1..=60 {
                put(&journal, &write(lsn)).await.unwrap();
                if lsn % 3 == 0 {
                    journal.sync(None).await.unwrap();
                }
            }
            drop(journal);
            rt.sleep(Duration::from_millis(10)).await;
            let files: Vec<_> = disk.files().into_iter().filter(|(p, _)| !p.ends_with("lock")).collect();
            let (path, len) = files[rt.below(files.len() as u64) as usize].clone();
            let at = rt.below(len);
            let old = disk.read(&path, 1 << 20).await.unwrap();
            assert!(disk.rot(&path, at, &[old[at as usize] ^ 1 << rt.below(8)]));
            let before = disk.read(&path, 1 << 20).await.unwrap();
            let all = match open(rt.clone(), &disk).await {
                Ok(found) => replayed(&found.unwrap().0, 0).await,
                Err(e) => Err(e),
            };
            match all {
                // Damage where nothing lies, or in the last group: no later one says that it was synced.
                Ok(all) => {
                    assert!(all.len() == 60 || all.len() == 57, "{} records at {at} of {path:?}", all.len());
                    assert!(all.iter().zip(1..).all(|(r, lsn)| *r == write(lsn)));
                    0
                }
                Err(e) => {
                    assert!(e.is(Kind::Corrupt) && e.to_string().contains(path.to_str().unwrap()), "{e}");
                    assert!(
                        !e.to_string().contains("folder away"),
                        "who opens it knows what it can do without: {e}"
                    );
                    assert_eq!(disk.read(&path, 1 << 20).await.unwrap(), before);
                    1
                }
            }
        });
    }
    assert!((60..118).contains(&refused), "{refused}");
}

#[test]
fn leftovers_of_a_torn_tail_never_follow_new_records() {
    run(8, |rt, disk| async move {
        let config = JournalConfig { segment: Some((4 << 20, 4 << 20)), size: 16 << 20, ..config() };
        let big = |lsn: u64, fill: u8| {
            let data = Bytes::from(vec![fill; 128 << 10]);
            Record { lsn: Lsn(lsn), op: Op::Write { block: lsn * 32, data } }
        };
        let open = async || {
            let disk: Arc<dyn Disk> = Arc::new(disk.clone());
            Journal::open(rt.clone(), disk, config.clone()).await.unwrap().unwrap()
        };
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let journal =
            Journal::create(rt.clone(), shared, config.clone(), VolumeId(9), vec![], Lsn(1)).await.unwrap();
        put(&journal, &big(1, 1)).await.unwrap();
        journal.sync(None).await.unwrap();
        // Two groups that are written out for their size, not synced.
        for lsn in 2..18 {
            put(&journal, &big(lsn, 1)).await.unwrap();
            rt.sleep(Duration::from_millis(20)).await;
        }
        drop(journal);
        rt.sleep(Duration::from_millis(20)).await;
        let path = config.dir.join("segment-00000001");
        assert!(disk.rot(&path, 300 << 10, &[9]), "in the first of them");
        let (journal, found) = open().await;
        assert_eq!(found.end, Lsn(1));
        for lsn in 2..10 {
            put(&journal, &big(lsn, 2)).await.unwrap();
        }
        journal.sync(None).await.unwrap();
        drop(journal);
        rt.sleep(Duration::from_millis(20)).await;
        let (journal, found) = open().await;
        assert_eq!(found.end, Lsn(9));
        let expected: Vec<_> = (1..10).map(|lsn| big(lsn, if lsn == 1 { 1 } else { 2 })).collect();
        assert!(replayed(&journal, 0).await.unwrap() == expected);
    });
}

#[test]
fn what_a_failed_sync_dropped_is_not_believed_because_it_reads_well() {
    for seed in 0..20 {
        run(seed, |rt, disk| async move {
            let journal = create(rt.clone(), &disk).await;
            put(&journal, &write(1)).await.unwrap();
            journal.sync(None).await.unwrap();
            put(&journal, &write(2)).await.unwrap();
            disk.faults(|f| f.sync_fails = 1000);
            assert!(journal.sync(None).await.is_err());
            disk.faults(|f| f.sync_fails = 0);
            drop(journal);
            rt.sleep(Duration::from_millis(200)).await;
            let (journal, found) = open(rt.clone(), &disk).await.unwrap().unwrap();
            assert_eq!(found.end, Lsn(2), "the page cache still has it");
            journal.sync(None).await.unwrap();
            drop(journal);
            rt.sleep(Duration::from_millis(200)).await;
            disk.power_loss();
            let (journal, found) = open(rt, &disk).await.unwrap().unwrap();
            assert_eq!(found.end, Lsn(2));
            assert_eq!(replayed(&journal, 0).await.unwrap(), [write(1), write(2)]);
        });
    }
}

#[test]
fn a_mark_that_a_failed_sync_dropped_is_not_believed_either() {
    for seed in 0..20 {
        run(seed, |rt, disk| async move {
            let journal = create(rt.clone(), &disk).await;
            put(&journal, &write(1)).await.unwrap();
            journal.sync(None).await.unwrap();
            disk.faults(|f| f.sync_fails = 1000);
            assert!(journal.sync(Some(Lsn(1))).await.is_err());
            disk.faults(|f| f.sync_fails = 0);
            drop(journal);
            rt.sleep(Duration::from_millis(200)).await;
            let (journal, found) = open(rt.clone(), &disk).await.unwrap().unwrap();
            assert_eq!((found.mark, journal.mark()), (Lsn(1), Lsn(1)));
            drop(journal);
            rt.sleep(Duration::from_millis(200)).await;
            disk.power_loss();
            let (_, found) = open(rt, &disk).await.unwrap().unwrap();
            assert_eq!((found.mark, found.end), (Lsn(1), Lsn(1)));
        });
    }
}

#[test]
fn a_clean_close_leaves_no_doubt_about_the_end() {
    run(1, |rt, disk| async move {
        let journal = create(rt.clone(), &disk).await;
        put(&journal, &write(1)).await.unwrap();
        journal.close().await.unwrap();
        assert!(journal.sync(None).await.unwrap_err().is(Kind::Closed));
        let (path, _) = disk.files().into_iter().find(|(p, _)| p.ends_with("segment-00000001")).unwrap();
        assert!(disk.rot(&path, 8192 + 300, &[9]));
        assert!(open(rt, &disk).await.unwrap_err().is(Kind::Corrupt));
    });
}

#[test]
fn a_missing_file_is_seen() {
    run(2, |rt, disk| async move {
        let journal = create(rt.clone(), &disk).await;
        for lsn in 1..=30 {
            put(&journal, &write(lsn)).await.unwrap();
            journal.sync(None).await.unwrap();
        }
        journal.close().await.unwrap();
        disk.remove(&config().dir.join("segment-00000002")).await.unwrap();
        let (journal, found) = open(rt, &disk).await.unwrap().unwrap();
        assert!(found.first_lsn > Lsn(12));
        assert_eq!(
            replayed(&journal, found.first_lsn.0 - 1).await.unwrap().len() as u64,
            31 - found.first_lsn.0
        );
        assert!(replayed(&journal, 3).await.unwrap_err().is(Kind::Corrupt));
    });
}

#[test]
fn a_header_whose_segments_are_all_gone_is_no_empty_journal() {
    run(2, |rt, disk| async move {
        let journal = create(rt.clone(), &disk).await;
        journal.close().await.unwrap();
        assert!(open(rt.clone(), &disk).await.unwrap().is_some(), "with nothing in them it is empty");
        for name in disk.list(&config().dir).await.unwrap() {
            if name.starts_with("segment-") {
                disk.remove(&config().dir.join(name)).await.unwrap();
            }
        }
        assert!(open(rt, &disk).await.unwrap_err().is(Kind::Corrupt));
    });
}

#[test]
fn full_means_waiting_and_trimming_lets_in() {
    run(3, |rt, disk| async move {
        let journal = Arc::new(create(rt.clone(), &disk).await);
        let (writer, rt2) = (journal.clone(), rt.clone());
        let task = rt.spawn(async move {
            for lsn in 1..=400 {
                put(&writer, &write(lsn)).await.unwrap();
                if rt2.below(3) == 0 {
                    writer.sync(Some(Lsn(lsn - 1))).await.unwrap();
                }
            }
        });
        rt.sleep(Duration::from_secs(5)).await;
        let (stuck, usage) = (journal.end(), journal.usage());
        assert!((20..110).contains(&stuck.0), "{stuck} writes of 8 KiB fit");
        assert!(
            usage.used <= usage.size && usage.used > usage.size / 2 && usage.allocated == usage.size,
            "{usage:?}"
        );
        journal.sync(Some(stuck)).await.unwrap();
        for _ in 0..3 {
            // Whoever gives up waiting takes nothing along.
            assert!(rt.timeout(Duration::from_millis(1), journal.reserve(8192)).await.is_none());
        }
        let trimmer = journal.clone();
        let rt2 = rt.clone();
        rt.spawn(async move {
            loop {
                rt2.sleep(Duration::from_millis(5)).await;
                trimmer.trim(trimmer.end());
            }
        })
        .detach();
        task.await.unwrap();
        journal.sync(None).await.unwrap();
        let files = disk.files().iter().filter(|(p, _)| p.to_string_lossy().contains("segment-")).count();
        assert_eq!(files, 5, "laps, not new files");
        assert!(journal.reserve(1 << 20).await.unwrap_err().is(Kind::Internal), "it could never fit");
    });
}

#[test]
fn one_sync_serves_all_who_wait() {
    run(4, |rt, disk| async move {
        disk.faults(|f| f.latency = (Duration::from_millis(1), Duration::from_millis(1)));
        let journal = Arc::new(create(rt.clone(), &disk).await);
        let start = rt.now();
        let mut tasks = Vec::new();
        for lsn in 1..=64 {
            put(&journal, &write(lsn)).await.unwrap();
            let journal = journal.clone();
            tasks.push(rt.spawn(async move { journal.sync(None).await }));
        }
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        let took = rt.now().since(start);
        assert!(took < Duration::from_millis(100), "64 groups of their own would take 256 ms: {took:?}");
        assert_eq!(journal.sync(None).await.map(|()| rt.now().since(start)).unwrap(), took, "nothing to do");
    });
}

#[test]
fn a_failed_sync_is_final_until_a_new_start() {
    run(5, |rt, disk| async move {
        let journal = create(rt.clone(), &disk).await;
        let id = journal.id();
        put(&journal, &write(1)).await.unwrap();
        journal.sync(Some(Lsn(1))).await.unwrap();
        let ready = journal.make_ready().await.unwrap();
        assert!(journal.restart(ready, Lsn(2), Lsn(1)).await.unwrap_err().is(Kind::Internal));
        put(&journal, &write(2)).await.unwrap();
        disk.faults(|f| f.sync_fails = 1000);
        let mut room = journal.reserve(8192).await.unwrap();
        let error = journal.sync(None).await.unwrap_err();
        assert!(error.is(Kind::Io) && error.to_string().contains(DIR), "{error}");
        disk.faults(|f| f.sync_fails = 0);
        assert!(journal.sync(None).await.is_err() && journal.reserve(1).await.is_err());
        assert!(journal.append(&mut room, &write(3)).is_err());
        assert!(journal.failed().is_some());
        let ready = journal.make_ready().await.unwrap();
        assert_ne!(journal.restart(ready, Lsn(3), Lsn(2)).await.unwrap(), id);
        assert!(journal.append(&mut room, &write(3)).unwrap_err().is(Kind::Closed), "room of the old file");
        drop(room);
        put(&journal, &write(3)).await.unwrap();
        journal.sync(None).await.unwrap();
        journal.close().await.unwrap();
        let (journal, found) = open(rt, &disk).await.unwrap().unwrap();
        assert_eq!((found.first_lsn, found.mark, found.end), (Lsn(3), Lsn(2), Lsn(3)));
        assert_eq!(replayed(&journal, 2).await.unwrap(), [write(3)]);
        assert!(replayed(&journal, 1).await.unwrap_err().is(Kind::Corrupt));
    });
}

#[test]
fn locked_announced_and_kept_aside() {
    run(6, |rt, disk| async move {
        assert!(open(rt.clone(), &disk).await.unwrap().is_none());
        let journal = create(rt.clone(), &disk).await;
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let again = Journal::create(rt.clone(), shared, config(), VolumeId(9), vec![], Lsn(1)).await;
        assert!(again.unwrap_err().is(Kind::Owned));
        let error = open(rt.clone(), &disk).await.unwrap_err();
        assert!(error.is(Kind::Owned) && error.to_string().contains("process"), "{error}");
        put(&journal, &write(1)).await.unwrap();
        journal.announce(Epoch(1), Epoch(2)).await.unwrap();
        journal.announce(Epoch(2), Epoch(5)).await.unwrap();
        journal.sync(Some(Lsn(1))).await.unwrap();
        drop(journal);
        rt.sleep(Duration::from_millis(10)).await;
        let (journal, found) = open(rt.clone(), &disk).await.unwrap().unwrap();
        assert_eq!((found.lineage.as_slice(), found.mark), (&[Epoch(2), Epoch(5)][..], Lsn(1)));
        put(&journal, &write(2)).await.unwrap();
        let kept = journal.set_aside("not-ours").await.unwrap();
        assert!(kept.to_string_lossy().starts_with("/state/journals/v.not-ours."), "{kept:?}");
        assert!(open(rt.clone(), &disk).await.unwrap().is_none());
        let config = JournalConfig { dir: kept, ..config() };
        let (kept, _) = Journal::open(rt, Arc::new(disk), config).await.unwrap().unwrap();
        assert_eq!(replayed(&kept, 0).await.unwrap(), [write(1), write(2)]);
    });
}

#[test]
fn a_copy_is_known_until_it_is_settled() {
    run(8, |rt, disk| async move {
        let journal = create(rt.clone(), &disk).await;
        journal.announce(Epoch(1), Epoch(2)).await.unwrap();
        journal.close().await.unwrap();
        let copy = disk.copied();
        assert!(!open(rt.clone(), &disk).await.unwrap().unwrap().1.copied);
        let (journal, found) = open(rt.clone(), &copy).await.unwrap().unwrap();
        assert!(found.copied);
        journal.announce(Epoch(2), Epoch(3)).await.unwrap();
        journal.close().await.unwrap();
        let (journal, found) = open(rt.clone(), &copy).await.unwrap().unwrap();
        assert!(found.copied, "claiming alone does not settle it");
        journal.settle_here().await.unwrap();
        journal.close().await.unwrap();
        assert!(!open(rt, &copy).await.unwrap().unwrap().1.copied);
    });
}

#[test]
fn no_space_for_more_segments_is_less_room_not_an_error() {
    run(7, |rt, disk| async move {
        disk.faults(|f| f.capacity = 250 << 10);
        let journal = Arc::new(create(rt.clone(), &disk).await);
        let writer = journal.clone();
        let task = rt.spawn(async move {
            for lsn in 1..=100 {
                put(&writer, &write(lsn)).await.unwrap();
                writer.sync(None).await.unwrap();
                if lsn % 4 == 0 {
                    writer.trim(Lsn(lsn));
                }
            }
        });
        task.await.unwrap();
        let usage = journal.usage();
        assert!(usage.allocated < config().size && usage.size == usage.allocated, "{usage:?}");
    });
}

/// A journal that grows from segments of 32 KiB.
fn growing() -> JournalConfig {
    JournalConfig { segment: Some((32 << 10, 256 << 10)), size: 1 << 20, ..config() }
}

#[test]
fn it_grows_with_what_is_not_trimmed_and_begins_small_again() {
    run(10, |rt, disk| async move {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let journal = Journal::create(rt.clone(), shared.clone(), growing(), VolumeId(9), vec![], Lsn(1))
            .await
            .unwrap();
        for lsn in 1..=100 {
            put(&journal, &write(lsn)).await.unwrap();
            journal.sync(None).await.unwrap();
            journal.trim(Lsn(lsn));
        }
        assert!(
            journal.usage().allocated <= 128 << 10,
            "what is trimmed is used again: {:?}",
            journal.usage()
        );
        for lsn in 101..=180 {
            put(&journal, &write(lsn)).await.unwrap();
            journal.sync(None).await.unwrap();
        }
        let usage = journal.usage();
        assert!(usage.used <= usage.allocated && usage.allocated <= usage.size, "{usage:?}");
        assert!(usage.allocated >= 80 * 8192, "{usage:?}");
        let mut sizes: Vec<u64> = disk
            .files()
            .iter()
            .filter(|(p, _)| p.to_string_lossy().contains("segment-"))
            .map(|f| f.1)
            .collect();
        sizes.sort_unstable();
        assert!(sizes.len() < 8 && sizes.last() == Some(&(256 << 10)), "{sizes:?}");
        journal.trim(Lsn(175));
        drop(journal);
        rt.sleep(Duration::from_millis(50)).await;
        let (journal, found) = Journal::open(rt.clone(), shared.clone(), growing()).await.unwrap().unwrap();
        assert_eq!(found.end, Lsn(180));
        let all = replayed(&journal, 175).await.unwrap();
        assert!(all.iter().zip(176..).all(|(r, lsn)| *r == write(lsn)) && all.len() == 5);
        for lsn in 181..=400 {
            put(&journal, &write(lsn)).await.unwrap();
            journal.trim(Lsn(lsn - 1));
        }
        journal.close().await.unwrap();
        let (journal, found) = Journal::open(rt, shared, growing()).await.unwrap().unwrap();
        assert_eq!((found.end, replayed(&journal, 399).await.unwrap()), (Lsn(400), vec![write(400)]));
    });
}

#[test]
fn its_size_is_changed_while_it_is_written_to() {
    run(14, |rt, disk| async move {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let (small, large) = (JournalConfig { size: 256 << 10, ..growing() }, growing());
        let journal = Journal::create(rt.clone(), shared.clone(), small.clone(), VolumeId(9), vec![], Lsn(1));
        let journal = journal.await.unwrap();
        let mut lsn = 0;
        let mut fill = async |upto: u64| {
            while journal.usage().used + 16384 <= upto {
                let one = rt.timeout(Duration::from_secs(5), put(&journal, &write(lsn + 1))).await;
                let Some(done) = one else { break };
                done.unwrap();
                lsn += 1;
            }
            journal.sync(None).await.unwrap();
            lsn
        };
        fill(1 << 20).await;
        assert!(journal.usage().allocated <= 256 << 10, "{:?}", journal.usage());
        journal.resize(&large);
        let last = fill(900 << 10).await;
        let usage = journal.usage();
        assert!(usage.size == 1 << 20 && usage.used > 600 << 10, "{usage:?}");
        // Made smaller it keeps what it has until it is opened again.
        journal.resize(&small);
        journal.trim(Lsn(last));
        let last = fill(512 << 10).await;
        let smaller = journal.usage();
        assert!(smaller.allocated <= usage.allocated && smaller.size == smaller.allocated, "{smaller:?}");
        journal.trim(Lsn(last));
        journal.close().await.unwrap();
        let (journal, found) = Journal::open(rt.clone(), shared, small).await.unwrap().unwrap();
        assert_eq!((found.end, journal.usage().size >= 256 << 10), (Lsn(last), true));
    });
}

#[test]
fn a_full_disk_leaves_two_segments_that_go_round() {
    run(11, |rt, disk| async move {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let journal =
            Journal::create(rt.clone(), shared, growing(), VolumeId(9), vec![], Lsn(1)).await.unwrap();
        disk.faults(|f| f.capacity = 0);
        let largest = Record {
            lsn: Lsn(1),
            op: Op::Write { block: 0, data: vec![1; journal.record_max() as usize].into() },
        };
        for lsn in 1..=50 {
            let mut room = rt
                .timeout(Duration::from_secs(9), journal.reserve(journal.room_max()))
                .await
                .unwrap()
                .unwrap();
            journal.append(&mut room, &Record { lsn: Lsn(lsn), ..largest.clone() }).unwrap();
            drop(room);
            journal.sync(None).await.unwrap();
            // As late as a store may be.
            rt.sleep(Duration::from_millis(50)).await;
            journal.trim(Lsn(lsn));
        }
        assert_eq!(journal.usage().allocated, 64 << 10);
    });
}

#[test]
fn opening_removes_nothing_while_laps_are_missing() {
    run(13, |rt, disk| async move {
        let journal = create(rt.clone(), &disk).await;
        let id = journal.id();
        let segments = async || {
            let mut found = Vec::new();
            for (path, len) in disk.files() {
                if path.to_string_lossy().contains("segment-") {
                    let bytes = disk.read(&path, 1 << 20).await.unwrap();
                    let lap = super::format::SegmentHead::decode(&bytes[..4096], id).map(|head| head.lap);
                    found.push((path, len, lap, bytes));
                }
            }
            found
        };
        let (mut last, mut trimmed) = (0, 0);
        // All five are in use and none of them is trimmed.
        loop {
            let laps: Vec<u64> = segments().await.iter().filter_map(|s| s.2).collect();
            if laps.len() == 5 && laps.iter().max() == Some(&7) {
                break;
            }
            last += 1;
            put(&journal, &write(last)).await.unwrap();
            journal.sync(None).await.unwrap();
            if laps.iter().max() == Some(&3) && trimmed == 0 {
                trimmed = last - 2;
                journal.trim(Lsn(trimmed));
            }
        }
        drop(journal);
        rt.sleep(Duration::from_millis(20)).await;
        let before = segments().await;
        let (path, _, _, bytes) = before.iter().find(|s| s.2 == Some(5)).unwrap();
        assert!(disk.rot(path, 30, &[bytes[30] ^ 1]));
        let (journal, found) = open(rt.clone(), &disk).await.unwrap().unwrap();
        assert!(found.first_lsn > Lsn(trimmed + 1));
        assert!(replayed(&journal, trimmed).await.unwrap_err().is(Kind::Corrupt));
        drop(journal);
        rt.sleep(Duration::from_millis(20)).await;
        let names = |list: &[(PathBuf, u64, Option<u64>, Bytes)]| -> Vec<PathBuf> {
            list.iter().map(|s| s.0.clone()).collect()
        };
        assert_eq!(names(&segments().await), names(&before), "what is needed stays");
        assert!(disk.rot(path, 30, &[bytes[30]]));
        let (journal, _) = open(rt, &disk).await.unwrap().unwrap();
        let all = replayed(&journal, trimmed).await.unwrap();
        assert!(all.len() as u64 == last - trimmed && all.last() == Some(&write(last)));
    });
}

/// Each loss of power may leave the segment that was being overwritten half overwritten.
#[test]
fn several_spoilt_segments_in_front_are_passed_over() {
    run(16, |rt, disk| async move {
        let journal = create(rt.clone(), &disk).await;
        let id = journal.id();
        for lsn in 1..=60 {
            put(&journal, &write(lsn)).await.unwrap();
            if lsn % 3 == 0 {
                journal.sync(None).await.unwrap();
            }
        }
        drop(journal);
        rt.sleep(Duration::from_millis(20)).await;
        let mut laps = Vec::new();
        for (path, _) in disk.files().into_iter().filter(|(p, _)| p.to_string_lossy().contains("segment-")) {
            let bytes = disk.read(&path, 1 << 20).await.unwrap();
            if let Some(head) = super::format::SegmentHead::decode(&bytes[..4096], id) {
                laps.push((head.lap, head.before, path, bytes));
            }
        }
        laps.sort_by_key(|(lap, ..)| *lap);
        assert!(laps.len() > 2, "{} laps", laps.len());
        for (_, _, path, bytes) in &laps[..2] {
            assert!(disk.rot(path, 4100, &[bytes[4100] ^ 1]));
        }
        let (journal, found) = open(rt.clone(), &disk).await.unwrap().unwrap();
        let after = laps[2].1;
        assert_eq!((found.first_lsn, found.end), (after.next(), Lsn(60)));
        assert_eq!(replayed(&journal, after.0).await.unwrap().len() as u64, 60 - after.0);
        assert!(replayed(&journal, after.0 - 1).await.unwrap_err().is(Kind::Corrupt));
    });
}

#[test]
fn damage_of_any_length_is_no_torn_tail() {
    run(14, |rt, disk| async move {
        let config = JournalConfig { segment: Some((16 << 20, 16 << 20)), size: 32 << 20, ..config() };
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let journal =
            Journal::create(rt.clone(), shared.clone(), config.clone(), VolumeId(9), vec![], Lsn(1))
                .await
                .unwrap();
        for lsn in 1..=15 {
            let op = Op::Write { block: lsn, data: vec![lsn as u8; 1 << 20].into() };
            put(&journal, &Record { lsn: Lsn(lsn), op }).await.unwrap();
            journal.sync(None).await.unwrap();
        }
        drop(journal);
        rt.sleep(Duration::from_millis(20)).await;
        let path = config.dir.join("segment-00000001");
        assert!(disk.rot(&path, 2 << 20, &vec![0; 11 << 20]));
        assert!(Journal::open(rt, shared, config).await.unwrap_err().is(Kind::Corrupt));
    });
}

#[test]
fn its_header_changes_on_a_disk_without_a_free_byte() {
    run(15, |rt, disk| async move {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let lineage = vec![Epoch(1)];
        let journal = Journal::create(rt.clone(), shared.clone(), growing(), VolumeId(9), lineage, Lsn(1))
            .await
            .unwrap();
        let full = disk.files().iter().map(|f| f.1).sum();
        disk.faults(|f| f.capacity = full);
        for epoch in 1..9 {
            journal.announce(Epoch(1), Epoch(epoch + 1)).await.unwrap();
        }
        drop(journal);
        rt.sleep(Duration::from_millis(50)).await;
        let (journal, found) = Journal::open(rt.clone(), shared, growing()).await.unwrap().unwrap();
        assert_eq!(found.lineage.len(), 9);
        journal.announce(Epoch(1), Epoch(99)).await.unwrap();
        put(&journal, &write(1)).await.unwrap();
        journal.sync(Some(Lsn(1))).await.unwrap();
        disk.faults(|f| f.sync_fails = 1000);
        put(&journal, &write(2)).await.unwrap();
        assert!(journal.sync(None).await.is_err());
        disk.faults(|f| f.sync_fails = 0);
        journal.give_up(Lsn(3)).await.unwrap();
        assert!(journal.is_void());
        let ready = journal.make_ready().await.expect("its own segments have gone");
        journal.restart(ready, Lsn(3), Lsn(2)).await.unwrap();
        put(&journal, &write(3)).await.unwrap();
        journal.close().await.unwrap();
    });
}

#[test]
fn where_there_is_no_room_for_it_it_is_void_until_there_is() {
    run(12, |rt, disk| async move {
        disk.faults(|f| f.capacity = 50 << 10);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let open = async || Journal::open(rt.clone(), shared.clone(), growing()).await.unwrap().unwrap();
        let journal =
            Journal::create(rt.clone(), shared.clone(), growing(), VolumeId(9), vec![Epoch(1)], Lsn(1))
                .await
                .unwrap();
        assert!(journal.is_void() && journal.failed().unwrap().is(Kind::NoSpace));
        assert!(journal.reserve(8192).await.unwrap_err().is(Kind::NoSpace));
        assert!(journal.sync(None).await.unwrap_err().is(Kind::NoSpace));
        assert_eq!((journal.mark(), journal.usage().allocated), (Lsn(0), 0));
        journal.announce(Epoch(1), Epoch(2)).await.unwrap();
        drop(journal);
        rt.sleep(Duration::from_millis(50)).await;
        let (journal, found) = open().await;
        assert_eq!((found.lineage, found.end), (vec![Epoch(1), Epoch(2)], Lsn(0)));
        assert!(found.mark > Lsn(1 << 60) && journal.is_void(), "it vouches for nothing");
        assert_eq!(journal.mark(), Lsn(0), "and promises nothing");
        assert!(journal.make_ready().await.unwrap_err().is(Kind::NoSpace));
        assert!(disk.files().iter().all(|(_, len)| *len < 4096), "{:?}", disk.files());
        disk.faults(|f| f.capacity = u64::MAX);
        let ready = journal.make_ready().await.unwrap();
        disk.faults(|f| f.sync_fails = 1000);
        assert!(journal.restart(ready, Lsn(8), Lsn(7)).await.unwrap_err().is(Kind::Io));
        assert!(!journal.is_void(), "who knows what the header says now");
        disk.faults(|f| f.sync_fails = 0);
        journal.give_up(Lsn(8)).await.unwrap();
        assert!(journal.is_void());
        let ready = journal.make_ready().await.unwrap();
        journal.restart(ready, Lsn(8), Lsn(7)).await.unwrap();
        assert!(!journal.is_void() && journal.mark() == Lsn(7));
        put(&journal, &write(8)).await.unwrap();
        journal.close().await.unwrap();
        let (journal, found) = open().await;
        assert_eq!((found.first_lsn, found.mark, found.end), (Lsn(8), Lsn(7), Lsn(8)));
        assert_eq!(replayed(&journal, 7).await.unwrap(), [write(8)]);
    });
}
