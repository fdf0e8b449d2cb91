use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::*;
use crate::base::record::{Mark, Op, Record};
use crate::base::rt::sim::{Process, Sim, SimDisk};
use crate::base::rt::{Disk, RealDisk, RealRuntime, Rt};
use crate::base::{Epoch, Kind, Lsn, Nonce, StateId, VolumeId};

const DIR: &str = "/state/journals/v";

fn config() -> JournalConfig {
    JournalConfig { dir: PathBuf::from(DIR), size: 5 * 96 * 1024, segment: Some(96 * 1024) }
}

/// A record whose contents follow from its lsn and a variant.
fn record(lsn: u64, variant: u64) -> Record {
    let op = match (lsn * 7 + variant) % 10 {
        0 => Op::Zero { block: lsn, blocks: variant % (1 << 40) + 1 },
        1 => Op::Mark(Mark {
            state: StateId(lsn),
            name: format!("snap-{lsn}").parse().unwrap(),
            group: Nonce(variant.into()),
            group_size: 1,
            created_ms: variant,
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

async fn put(journal: &Journal, record: &Record) -> crate::base::Result<()> {
    let cost = journal.cost(match &record.op {
        Op::Write { data, .. } => data.len() as u64,
        _ => 200,
    });
    journal.append(&mut journal.reserve(cost).await?, record)
}

async fn replayed(journal: &Journal, after: u64) -> crate::base::Result<Vec<Record>> {
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

async fn open(rt: Rt, disk: &SimDisk) -> crate::base::Result<Option<(Journal, Recovered)>> {
    Journal::open(rt, Arc::new(disk.clone()), config()).await
}

/// What must hold of a volume's journal, whatever happens to its host.
#[derive(Default)]
struct Model {
    made: bool,
    records: BTreeMap<u64, Record>,
    synced: u64,
    mark: u64,
    /// Stored and confirmed up to here.
    log_end: u64,
    lives: u64,
    restarts: u64,
}

type Shared = Arc<Mutex<Model>>;

/// Opens (or makes) the journal and checks what it says against the model.
async fn begin(rt: &Rt, disk: &SimDisk, model: &Shared) -> crate::base::Result<Journal> {
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
    let mut m = model.lock();
    assert_eq!(found.volume, VolumeId(9));
    let end = found.end.0;
    assert!(end >= m.synced || end + 1 == found.first_lsn.0, "{} was synced, {end} is left", m.synced);
    assert!(found.mark.0 >= m.mark, "{} was marked, {} is left", m.mark, found.mark);
    assert!(found.first_lsn.0 <= after + 1, "records from {} are kept, {after} is stored", found.first_lsn);
    m.records.split_off(&(end + 1));
    let expected: Vec<_> = m.records.range(after + 1..).map(|(_, r)| r.clone()).collect();
    assert_eq!(records, expected, "a prefix, and all of it");
    m.synced = m.synced.min(end);
    m.lives += 1;
    Ok(journal)
}

/// One step of a volume's life.
async fn act(rt: &Rt, journal: &Arc<Journal>, model: &Shared, next: &mut u64) -> crate::base::Result<()> {
    match rt.below(20) {
        0..10 => {
            let record = record(*next, rt.random());
            model.lock().records.insert(*next, record.clone());
            *next += 1 + rt.below(30) / 29;
            put(journal, &record).await?;
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
            rt.spawn(async move { sync.await.map_err(|e: crate::base::Error| e) }).detach();
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
    let Ok(journal) = begin(&rt, &disk, &model).await.map_err(|e| assert!(e.is(Kind::Io), "{e}")) else {
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
        assert!(error.is(Kind::Io), "{error}");
        loop {
            let (first, mark) = {
                let mut m = model.lock();
                m.log_end = next - 1;
                (next, m.mark)
            };
            match journal.restart(Lsn(first), Lsn(mark)).await {
                Ok(_) => break,
                Err(e) => assert!(e.is(Kind::Io), "{e}"),
            }
        }
        let mut m = model.lock();
        m.synced = next - 1;
        m.restarts += 1;
    }
    if rt.below(3) == 0 {
        let upto = model.lock().records.keys().next_back().copied().unwrap_or(0);
        match journal.close().await {
            Ok(()) => model.lock().synced = upto,
            Err(e) => assert!(e.is(Kind::Io), "{e}"),
        }
    }
}

fn crash_run(seed: u64) -> (u64, u64) {
    let sim = Sim::new(seed);
    let world = (*sim).clone();
    let disk = SimDisk::new(&world);
    let model = Shared::default();
    if seed % 3 == 0 {
        disk.faults(|f| f.sync_fails = 15);
    }
    let m = model.clone();
    sim.run(async move {
        for _ in 0..6 {
            let process: Process = world.process();
            let rt = process.rt();
            let life = rt.clone().spawn(live(rt, disk.clone(), m.clone()));
            let (disk2, power, ours) = (disk.clone(), world.below(2) == 0, process.clone());
            let kill = move || {
                if ours.alive() {
                    ours.kill();
                    if power {
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
    (m.lives, m.restarts)
}

#[test]
fn whatever_was_synced_comes_back_as_a_prefix() {
    let (mut lives, mut restarts) = (0, 0);
    for seed in 0..300 {
        let (l, r) = crash_run(seed);
        lives += l;
        restarts += r;
    }
    assert!(lives > 600 && restarts > 20, "{lives} lives, {restarts} restarts");
}
