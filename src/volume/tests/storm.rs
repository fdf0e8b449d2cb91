//! Everything at once, by seed: one client's history against what is read after crashes, outages and takeovers.
//!
//! Each operation is one record, so a recovered volume must show the history up to some operation, never less than what
//! was promised, and the snapshots in it exactly as they were.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::site::{Machine, Site};
use super::*;
use crate::base::rt::sim::World;
use crate::store::SimStore;

const BLOCKS: u64 = 48;
const SIZE: u64 = BLOCKS * 4096;

#[derive(Clone, Debug)]
enum Step {
    Write { at: u64, len: u64, fill: u64 },
    Zero { block: u64, count: u64 },
    Snap(String),
}

#[derive(Default, Debug)]
struct History {
    steps: Vec<Step>,
    /// Promised against a crash of the owner's machine, and against its loss.
    local: usize,
    pool: usize,
    /// Snapshots seen or promised, with what they hold.
    snaps: BTreeMap<String, (usize, Vec<u8>)>,
}

fn apply(image: &mut [u8], step: &Step) {
    match step {
        Step::Write { at, len, fill } => {
            image[*at as usize..(at + len) as usize].copy_from_slice(&bytes(*fill, *len as usize));
        }
        Step::Zero { block, count } => {
            image[(block * 4096) as usize..((block + count) * 4096) as usize].fill(0)
        }
        Step::Snap(_) => {}
    }
}

impl History {
    fn image(&self, n: usize) -> Vec<u8> {
        let mut image = vec![0; SIZE as usize];
        self.steps[..n].iter().for_each(|s| apply(&mut image, s));
        image
    }

    /// Which part of the history is this? The rest is forgotten.
    fn settle(&mut self, seen: &[u8], least: usize, names: &[String], trace: &str) {
        let mut image = self.image(least);
        let mut n = least;
        let marked = |n: usize| {
            let has = |s: &Step| matches!(s, Step::Snap(name) if names.contains(name));
            self.steps[..n].iter().all(|s| !matches!(s, Step::Snap(_)) || has(s))
                && !self.steps[n..].iter().any(has)
        };
        while image != seen || !marked(n) {
            if n == self.steps.len() {
                let fits: Vec<_> = (0..=n).filter(|n| self.image(*n) == seen).collect();
                let per_block: Vec<Vec<usize>> = (0..BLOCKS as usize)
                    .map(|b| {
                        (0..=n)
                            .filter(|k| self.image(*k)[b * 4096..][..4096] == seen[b * 4096..][..4096])
                            .collect()
                    })
                    .collect();
                eprintln!("{:#?}\n{per_block:?}", self.steps);
                panic!("{trace}: none of {n} steps from {least} on fits, but {fits:?}; snapshots {names:?}");
            }
            apply(&mut image, &self.steps[n]);
            n += 1;
        }
        self.steps.truncate(n);
        self.local = self.local.min(n);
        assert!(self.pool <= n, "{trace}");
        self.snaps.retain(|_, (at, _)| *at <= n);
    }
}

fn calm(stores: &[Arc<SimStore>]) {
    for s in stores {
        s.faults(|f| (f.errors, f.lost, f.reach) = (0, 0, Reach::Up));
    }
}

struct Storm {
    site: Site,
    world: World,
    machines: Vec<Machine>,
    lives: Vec<Option<Life>>,
    owner: usize,
    flush: FlushMode,
    h: History,
    trace: Vec<String>,
}

impl Storm {
    fn note(&mut self, what: String) {
        self.trace.push(format!("{:?} {what}", self.world.now().0));
    }

    fn fault(&mut self) {
        let n = self.site.stores.len();
        let chance = [0, 0, 20, 100][self.world.below(4) as usize];
        let out = self.world.below(n as u64 * 3) as usize;
        for (i, s) in self.site.stores.iter().enumerate() {
            s.faults(|f| {
                f.errors = chance;
                f.lost = chance;
                f.reach = if i == out { Reach::Refuses } else { Reach::Up };
            });
        }
        self.note(format!("faults {chance}, out {out}"));
        // Some operations wait as long as it takes.
        let stores = self.site.stores.clone();
        self.world.after(Duration::from_secs(40), move || calm(&stores));
    }

    fn calm(&self) {
        calm(&self.site.stores);
    }

    async fn open(&mut self, force: bool) -> Arc<Volume> {
        let mode = if force { OpenMode::TakeOver { accept_loss: false } } else { OpenMode::Normal };
        for tries in 0.. {
            let life = self.lives[self.owner].as_ref().unwrap();
            match life.volumes.open(&name("v"), mode).await {
                Ok(v) => return v,
                Err(e) => {
                    let why = format!("open: {e}");
                    assert!(tries < 40, "{why} {:#?}", self.trace);
                    assert!(
                        matches!(e.kind(), Kind::Unavailable | Kind::Timeout | Kind::Fenced),
                        "{why} {:#?}",
                        self.trace
                    );
                    life.sleep(500).await;
                    self.note(why);
                    if tries > 4 {
                        self.calm();
                    }
                }
            }
        }
        unreachable!()
    }

    /// Opens at the present owner and finds out what is there.
    async fn recover(&mut self, force: bool, least: usize) -> Arc<Volume> {
        let v = self.open(force).await;
        let trace = format!("{:#?}", self.trace);
        let seen = v.read(0, SIZE).await.unwrap();
        // Listings do not wait as I/O does.
        self.calm();
        let life = self.lives[self.owner].as_ref().unwrap();
        let names: Vec<_> = life
            .volumes
            .snapshots(&name("v"))
            .await
            .unwrap()
            .into_iter()
            .map(|s| s.name.to_string())
            .collect();
        self.h.settle(&seen, least, &names, &trace);
        for (s, (_, image)) in &self.h.snaps {
            let view = life.volumes.open_snapshot(&name("v"), &name(s)).await.unwrap();
            assert!(view.read(0, SIZE).await.unwrap() == image, "snapshot {s} changed: {trace}");
        }
        let n = self.h.steps.len();
        self.note(format!("recovered at machine {} with {n} steps", self.owner));
        v
    }

    async fn step(&mut self, v: &Volume, i: u64) -> Result<(), crate::base::Error> {
        let world = self.world.clone();
        let step = match world.below(8) {
            0 => {
                let block = world.below(BLOCKS);
                Step::Zero { block, count: 1 + world.below((BLOCKS - block).min(9)) }
            }
            1..4 => {
                let at = world.below(SIZE - 9000);
                Step::Write { at, len: 1 + world.below(9000), fill: i + 1 }
            }
            _ => Step::Write {
                at: world.below(BLOCKS - 2) * 4096,
                len: 4096 * (1 + world.below(2)),
                fill: i + 1,
            },
        };
        // In history before it is acknowledged: a crash in between may keep it.
        self.h.steps.push(step.clone());
        match step {
            Step::Write { at, len, fill } => v.write(at, bytes(fill, len as usize)).await?,
            Step::Zero { block, count } => v.zero(block * 4096, count * 4096).await?,
            Step::Snap(_) => {}
        }
        let n = self.h.steps.len();
        if world.below(5) == 0 {
            v.flush().await?;
            self.h.local = n;
            if self.flush == FlushMode::Pool {
                self.h.pool = n;
            }
        }
        Ok(())
    }

    async fn snap(&mut self, v: &Arc<Volume>, i: u64) -> Result<(), crate::base::Error> {
        let s = format!("s{i}");
        let image = self.h.image(self.h.steps.len());
        self.h.steps.push(Step::Snap(s.clone()));
        let n = self.h.steps.len();
        self.h.snaps.insert(s.clone(), (n, image));
        self.note(format!("snapshot {s} at {n}"));
        snapshot_group(&[(v.clone(), name(&s))], true).await?;
        (self.h.local, self.h.pool) = (n, n);
        Ok(())
    }
}

async fn storm(site: Site, flush: FlushMode) {
    let machines: Vec<_> = (1..3).map(|i| site.machine(i)).collect();
    let life = machines[0].found().await;
    life.volumes.create(&name("v"), SIZE, small(flush)).await.unwrap();
    let (world, h) = (site.world.clone(), History::default());
    let lives = vec![Some(life), Some(machines[1].start().await)];
    let mut storm =
        Storm { site, world: world.clone(), machines, lives, owner: 0, flush, h, trace: Vec::new() };
    let mut v = storm.recover(false, 0).await;
    for i in 0..120 {
        let was = storm.h.steps.len();
        let done = match world.below(40) {
            0..3 => {
                storm.fault();
                Ok(())
            }
            3 => storm.snap(&v, i).await,
            4 => {
                let ms = world.below(9_000);
                storm.lives[storm.owner].as_ref().unwrap().sleep(ms).await;
                Ok(())
            }
            5 => {
                let (least, owner) = (storm.h.local.max(storm.h.pool), storm.owner);
                storm.note("crash".into());
                drop(v);
                let machine = storm.lives[owner].take().unwrap().crash();
                storm.calm();
                storm.lives[owner] = Some(machine.start().await);
                storm.fault();
                v = storm.recover(false, least).await;
                Ok(())
            }
            6 => {
                let least = storm.h.pool;
                storm.owner = 1 - storm.owner;
                storm.note("takeover".into());
                let head = storm.lives[storm.owner].as_ref().unwrap();
                let owned = head.volumes.info(&name("v")).await.is_ok_and(|i| !i.released);
                let next = storm.recover(true, least).await;
                storm.h.local = storm.h.pool;
                // One that was shut out: nothing it promises from now on may be true.
                if owned {
                    let early = v.write(0, bytes(9, 4096)).await;
                    if flush == FlushMode::Pool && early.is_ok() {
                        assert!(v.flush().await.is_err(), "{:#?}", storm.trace);
                    }
                }
                v = next;
                Ok(())
            }
            7 => {
                storm.calm();
                storm.note("release".into());
                let done = v.release().await;
                if done.is_ok() {
                    (storm.h.local, storm.h.pool) = (storm.h.steps.len(), storm.h.steps.len());
                    storm.owner = 1 - storm.owner;
                    let least = storm.h.pool;
                    v = storm.recover(false, least).await;
                }
                Ok(())
            }
            _ => storm.step(&v, i).await,
        };
        if let Err(e) = done {
            storm.note(format!("step {i} ({was} before): {e}"));
            panic!("{e}: {:#?}", storm.trace);
        }
    }
    storm.calm();
    let (least, owner) = (storm.h.local.max(storm.h.pool), storm.owner);
    drop(v);
    let machine = storm.lives[owner].take().unwrap().crash();
    storm.lives[owner] = Some(machine.start().await);
    storm.recover(false, least).await;
    drop(storm.machines);
}

#[test]
fn storms() {
    // STORM=SEED[..END] replays.
    let asked = std::env::var("STORM").unwrap_or("100..108".into());
    let (first, end) = asked.split_once("..").map_or((asked.as_str(), None), |(a, b)| (a, Some(b)));
    let first: u64 = first.parse().unwrap();
    for seed in first..end.map_or(first + 1, |e| e.parse().unwrap()) {
        let (layout, flush) = [
            ("2+1", FlushMode::Local),
            ("1+2", FlushMode::Pool),
            ("1+0", FlushMode::Local),
            ("4+2", FlushMode::Pool),
        ][seed as usize % 4];
        eprintln!("STORM={seed}");
        run(seed, layout, move |site| storm(site, flush));
    }
}
