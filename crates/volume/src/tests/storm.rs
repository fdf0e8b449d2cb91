//! Everything at once, by seed: one client's history against what is read after crashes, outages and takeovers.
//!
//! Each operation is one record, so a recovered volume must show the history up to some operation, never less than what
//! was promised, and the snapshots in it exactly as they were.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::site::{Machine, Site};
use super::*;
use windlass_base::VolumeId;
use windlass_base::rt::sim::World;
use windlass_store::SimStore;

const BLOCKS: u64 = 48;
const SIZE: u64 = BLOCKS * 4096;

#[derive(Clone, Debug)]
enum Step {
    Write {
        at: u64,
        len: u64,
        fill: u64,
    },
    Zero {
        block: u64,
        count: u64,
    },
    Snap(String),
    /// To what a snapshot holds; what was there is kept by a name.
    Back {
        image: Vec<u8>,
        keep: Option<String>,
    },
}

impl Step {
    /// The snapshot that it makes.
    fn makes(&self) -> Option<&String> {
        match self {
            Step::Snap(name) => Some(name),
            Step::Back { keep, .. } => keep.as_ref(),
            Step::Write { .. } | Step::Zero { .. } => None,
        }
    }
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

/// Fills of data that compress have this bit.
const TEXT: u64 = 1 << 63;

fn contents(fill: u64, len: usize) -> Bytes {
    match fill & TEXT {
        0 => bytes(fill, len),
        _ => text(fill, len),
    }
}

fn apply(image: &mut [u8], step: &Step) {
    match step {
        Step::Write { at, len, fill } => {
            image[*at as usize..(at + len) as usize].copy_from_slice(&contents(*fill, *len as usize));
        }
        Step::Zero { block, count } => {
            image[(block * 4096) as usize..((block + count) * 4096) as usize].fill(0)
        }
        Step::Snap(_) => {}
        Step::Back { image: to, .. } => image.copy_from_slice(to),
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
            let has = |s: &Step| s.makes().is_some_and(|name| names.contains(name));
            self.steps[..n].iter().all(|s| s.makes().is_none() || has(s)) && !self.steps[n..].iter().any(has)
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
    v: Option<Arc<Volume>>,
    id: VolumeId,
    /// By which it was found last.
    name: Name,
    claims: u32,
    flush: FlushMode,
    /// `TEXT` or 0.
    text: u64,
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

    /// What the newest checkpoint counts must be what its maps say.
    async fn check_books(&mut self) {
        let Some(life) = self.lives[self.owner].as_ref().filter(|l| l.process.alive()) else { return };
        // While stores fail it may not come to an end.
        let checked = life.rt.timeout(Duration::from_secs(20), life.volumes.check(&self.name)).await;
        if let Some(Ok(report)) = checked {
            assert!(report.wrong.is_empty(), "{report:#?} {:#?}", self.trace);
        }
    }

    async fn open(&mut self, force: bool) -> Arc<Volume> {
        let mode = if force { OpenMode::TakeOver { accept_loss: false } } else { OpenMode::Normal };
        for tries in 0.. {
            let life = self.lives[self.owner].as_ref().unwrap();
            match life.volumes.open(&self.name, mode).await {
                Ok(v) => return v,
                Err(e) => {
                    let why = format!("open: {e}");
                    assert!(tries < 40, "{why} {:#?}", self.trace);
                    assert!(
                        matches!(e.kind(), Kind::Unavailable | Kind::Timeout | Kind::Fenced | Kind::Io),
                        "{why} {:#?}",
                        self.trace
                    );
                    life.sleep(500).await;
                    self.note(why);
                    self.machines.iter().for_each(|m| m.disk.faults(|f| f.sync_fails = 0));
                    if tries > 4 {
                        self.calm();
                    }
                }
            }
        }
        unreachable!()
    }

    /// Opens at the present owner and finds out what is there.
    async fn recover(&mut self, force: bool, least: usize) {
        self.find_name().await;
        let v = self.open(force).await;
        let trace = format!("{:#?}", self.trace);
        // What was stored while stores were away may be out of reach when others are.
        let first = v.read(0, SIZE).await.inspect_err(|e| assert!(e.is(Kind::Unavailable), "{e}"));
        // Listings do not wait as I/O does.
        self.calm();
        let seen = match first {
            Ok(seen) => seen,
            Err(_) => v.read(0, SIZE).await.unwrap(),
        };
        let life = self.lives[self.owner].as_ref().unwrap();
        let names: Vec<_> = life
            .volumes
            .snapshots(&self.name)
            .await
            .unwrap()
            .into_iter()
            .map(|s| s.name.to_string())
            .collect();
        self.h.settle(&seen, least, &names, &trace);
        for (s, (_, image)) in &self.h.snaps {
            let view = life
                .volumes
                .open_snapshot(&self.name, &name(s))
                .await
                .unwrap_or_else(|e| panic!("{e}: {trace}"));
            assert!(view.read(0, SIZE).await.unwrap() == image, "snapshot {s} changed: {trace}");
        }
        let n = self.h.steps.len();
        self.note(format!("recovered at machine {} with {n} steps", self.owner));
        self.v = Some(v);
    }

    fn v(&self) -> Arc<Volume> {
        self.v.clone().unwrap()
    }

    /// Runs an operation in the owner's process: a crash ends it midway.
    async fn within<T, F>(&self, work: F) -> Result<T, windlass_base::Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, windlass_base::Error>> + Send + 'static,
    {
        self.lives[self.owner].as_ref().unwrap().rt.spawn(work).await?
    }

    /// The power fails a few steps from now, whatever is under way then.
    fn crash_soon(&mut self) {
        let life = self.lives[self.owner].as_ref().unwrap();
        let (process, disk) = (life.process.clone(), life.machine.disk.clone());
        let steps = 1 + self.world.below(400);
        self.note(format!("crash in {steps} steps"));
        self.world.after_steps(steps, move || {
            if process.alive() {
                process.kill();
                disk.power_loss();
            }
        });
    }

    /// Gives the volume another name, by either machine. What an error has left shows the next listing.
    async fn rename(&mut self) {
        let (at, to) = (self.world.below(2) as usize, name(["v", "w", "x"][self.world.below(3) as usize]));
        let Some(life) = self.lives[at].as_ref().filter(|life| life.process.alive()) else { return };
        let (volumes, from, new) = (life.volumes.clone(), self.name.clone(), to.clone());
        let done = life.rt.spawn(async move { rename(&volumes, &from, &new).await }).await;
        self.note(format!("machine {at} renames {} to {to}: {done:?}", self.name));
        match done {
            Ok(Ok(())) => self.name = to,
            _ => self.find_name().await,
        }
    }

    /// The one name under which it is listed.
    async fn find_name(&mut self) {
        for _ in 0..400 {
            let life = self.lives.iter().flatten().find(|life| life.process.alive());
            let Some(life) = life else { return };
            let listed = life.volumes.list(Duration::from_secs(20)).await.unwrap_or_default();
            let unread = listed.iter().any(|(_, info)| info.is_err());
            let own = |(name, info): &(Name, windlass_base::Result<VolumeInfo>)| {
                info.as_ref().is_ok_and(|info| info.id == self.id).then(|| name.clone())
            };
            let names: Vec<Name> = listed.iter().filter_map(own).collect();
            match &names[..] {
                [name] => return self.name.clone_from(name),
                [] => assert!(listed.is_empty() || unread, "it has no name: {listed:?} {:#?}", self.trace),
                _ => panic!("it has several names: {names:?} {:#?}", self.trace),
            }
            life.sleep(500).await;
        }
        panic!("it is not listed: {:#?}", self.trace);
    }

    /// Somebody claims the volume and gives up.
    async fn claim_and_withdraw(&mut self) {
        self.note("claim, withdrawn".into());
        self.claims += 1;
        self.lives[1 - self.owner].as_ref().unwrap().claim_and_withdraw_of(self.id).await;
    }

    async fn step(&mut self, i: u64) -> Done {
        let world = self.world.clone();
        let step = match world.below(8) {
            0 => {
                let block = world.below(BLOCKS);
                Step::Zero { block, count: 1 + world.below((BLOCKS - block).min(9)) }
            }
            1..4 => {
                let at = world.below(SIZE - 9000);
                Step::Write { at, len: 1 + world.below(9000), fill: self.text | (i + 1) }
            }
            _ => Step::Write {
                at: world.below(BLOCKS - 2) * 4096,
                len: 4096 * (1 + world.below(2)),
                fill: self.text | (i + 1),
            },
        };
        // In history before it is acknowledged: a crash in between may keep it.
        self.h.steps.push(step.clone());
        let volume = self.v();
        self.within(async move {
            match step {
                Step::Write { at, len, fill } => volume.write(at, contents(fill, len as usize)).await,
                Step::Zero { block, count } => volume.zero(block * 4096, count * 4096).await,
                Step::Snap(_) | Step::Back { .. } => Ok(()),
            }
        })
        .await?;
        let n = self.h.steps.len();
        if world.below(5) == 0 {
            let volume = self.v();
            self.within(async move { volume.flush().await }).await?;
            self.h.local = n;
            if self.flush == FlushMode::Pool {
                self.h.pool = n;
            }
        }
        Ok(())
    }

    async fn snap(&mut self, i: u64) -> Done {
        let s = format!("s{i}");
        let image = self.h.image(self.h.steps.len());
        self.h.steps.push(Step::Snap(s.clone()));
        let n = self.h.steps.len();
        self.h.snaps.insert(s.clone(), (n, image));
        self.note(format!("snapshot {s} at {n}"));
        let mark = [(self.v(), name(&s))];
        self.within(async move { snapshot_group(&mark, true).await }).await?;
        (self.h.local, self.h.pool) = (n, n);
        Ok(())
    }
}

type Done = Result<(), windlass_base::Error>;

impl Storm {
    async fn roll_back(&mut self, i: u64) -> Done {
        let snaps = self.h.snaps.len() as u64;
        if snaps == 0 {
            return Ok(());
        }
        let to = self.h.snaps.iter().nth(self.world.below(snaps) as usize);
        let (to, (_, image)) = to.map(|(name, of)| (name.clone(), of.clone())).unwrap();
        let keep = (self.world.below(2) == 0).then(|| format!("k{i}"));
        let before = self.h.image(self.h.steps.len());
        self.h.steps.push(Step::Back { image, keep: keep.clone() });
        let n = self.h.steps.len();
        self.note(format!("back to {to} at {n}, keeping {keep:?}"));
        if let Some(keep) = &keep {
            self.h.snaps.insert(keep.clone(), (n, before));
        }
        let (v, nonce) = (self.v(), windlass_base::Nonce(self.world.below(u64::MAX).into()));
        let (to, keep) = (name(&to), keep.map(|k| name(&k)));
        let back = async move {
            let (to, keep) = (&to, keep.as_ref());
            v.ask(|session| async move { session.roll_back(to, keep, nonce).await }).await
        };
        self.within(back).await?;
        (self.h.local, self.h.pool) = (n, n);
        Ok(())
    }
}

impl Storm {
    async fn crash(&mut self) {
        let (least, owner) = (self.h.local.max(self.h.pool), self.owner);
        self.note("crash".into());
        self.v = None;
        self.machines.iter().for_each(|m| m.disk.faults(|f| f.sync_fails = 0));
        let machine = self.lives[owner].take().unwrap().crash();
        self.calm();
        self.lives[owner] = Some(machine.start().await);
        self.fault();
        self.recover(false, least).await;
    }

    async fn take_over(&mut self) {
        self.owner = 1 - self.owner;
        self.note("takeover".into());
        let before = self.v.take().unwrap();
        let life = self.lives[self.owner].as_ref().unwrap();
        let owned = life.volumes.info(&self.name).await.is_ok_and(|i| !i.released);
        let least = self.h.pool;
        self.recover(true, least).await;
        self.h.local = self.h.pool;
        // One that was shut out: nothing it promises from now on may be true.
        if owned {
            let early = before.write(0, bytes(9, 4096)).await;
            if self.flush == FlushMode::Pool && early.is_ok() {
                assert!(before.flush().await.is_err(), "{:#?}", self.trace);
            }
        }
    }

    /// Gives the volume to the other machine.
    async fn hand_over(&mut self) -> Done {
        self.calm();
        self.release().await?;
        self.owner = 1 - self.owner;
        let least = self.h.pool;
        self.recover(false, least).await;
        Ok(())
    }

    async fn release(&mut self) -> Done {
        self.note("release".into());
        let volume = self.v();
        self.within(async move { volume.release().await }).await?;
        (self.h.local, self.h.pool) = (self.h.steps.len(), self.h.steps.len());
        Ok(())
    }

    async fn checkpoint(&mut self) -> Done {
        let volume = self.v();
        self.within(async move { volume.ask(|s| async move { s.checkpoint_surely(&[]).await }).await }).await
    }

    /// Goes on until the power fails.
    async fn until_crash(&mut self, i: u64) -> Done {
        self.crash_soon();
        // No name of a snapshot twice.
        for at in 1000 * (i + 1).. {
            match self.world.below(12) {
                0 => self.snap(at).await?,
                1 => self.checkpoint().await?,
                2 => self.release().await?,
                3 => self.roll_back(at).await?,
                4 => self.rename().await,
                _ => self.step(at).await?,
            }
        }
        Ok(())
    }

    async fn act(&mut self, i: u64) -> Done {
        match self.world.below(44) {
            0..3 => self.fault(),
            3 => self.snap(i).await?,
            4 => {
                let ms = self.world.below(9_000);
                self.lives[self.owner].as_ref().unwrap().sleep(ms).await;
            }
            5 => self.crash().await,
            6 => self.take_over().await,
            7 => self.hand_over().await?,
            8..10 => {
                // Whatever ends it: the power is about to fail.
                if let Err(e) = self.until_crash(i).await {
                    self.note(e.to_string());
                }
                self.crash().await;
            }
            10 => self.claim_and_withdraw().await,
            11 => {
                let fails = [0, 300][self.world.below(2) as usize];
                self.note(format!("disk fails {fails}"));
                self.machines.iter().for_each(|m| m.disk.faults(|f| f.sync_fails = fails));
            }
            12 => self.checkpoint().await?,
            13..15 => self.roll_back(i).await?,
            15 => self.rename().await,
            _ => self.step(i).await?,
        }
        Ok(())
    }
}

async fn storm(site: Site, flush: FlushMode, recompress: bool) {
    let machines: Vec<_> = (1..3).map(|i| site.machine(i)).collect();
    let life = machines[0].found().await;
    // At once: no hour passes here.
    let recompress_after_ms = recompress.then_some(0);
    let settings = VolumeSettings { recompress_after_ms, ..small(flush) };
    let id = life.volumes.create(&name("v"), SIZE, settings).await.unwrap().id;
    let (world, h) = (site.world.clone(), History::default());
    let lives = vec![Some(life), Some(machines[1].start().await)];
    let mut storm = Storm {
        site,
        world,
        machines,
        lives,
        owner: 0,
        v: None,
        id,
        name: name("v"),
        claims: 0,
        flush,
        text: if recompress { TEXT } else { 0 },
        h,
        trace: Vec::new(),
    };
    storm.recover(false, 0).await;
    for i in 0..120 {
        let was = storm.h.steps.len();
        if i % 8 == 0 {
            storm.check_books().await;
        }
        if let Err(e) = storm.act(i).await {
            storm.note(format!("step {i} ({was} before): {e}"));
            if storm.lives[storm.owner].as_ref().unwrap().process.alive() {
                // A claim that stood when it was looked at shuts out, even if it is withdrawn later.
                // A disk that fails while ownership is written down fails the write.
                // What a life before the crash had sent to the register may arrive after the next one has read it.
                let late = e.to_string().contains(&format!("changed by host{} (", storm.owner + 1));
                let excused = e.is(Kind::Fenced) && (storm.claims > 0 || late) || e.is(Kind::Io);
                assert!(excused, "{e}: {:#?}", storm.trace);
                storm.claims = 0;
                storm.machines.iter().for_each(|m| m.disk.faults(|f| f.sync_fails = 0));
                let least = storm.h.local.max(storm.h.pool);
                storm.recover(false, least).await;
            } else {
                storm.crash().await;
            }
        }
    }
    storm.crash().await;
}

#[test]
fn storms() {
    // STORM=SEED[..END] replays.
    let seeds: Vec<u64> = match std::env::var("STORM") {
        Ok(asked) => {
            let (first, end) = asked.split_once("..").map_or((asked.as_str(), None), |(a, b)| (a, Some(b)));
            let first: u64 = first.parse().unwrap();
            (first..end.map_or(first + 1, |e| e.parse().unwrap())).collect()
        }
        // 222: who was shut out is asked to open the volume while an older confirm read of its waits for a lost answer.
        Err(_) => (100..108).chain([222]).collect(),
    };
    for seed in seeds {
        storm_of(seed, false);
    }
}

/// The same of volumes that are encrypted.
pub fn encrypted(seeds: &[u64]) {
    seeds.iter().for_each(|seed| storm_of(*seed, true));
}

fn storm_of(seed: u64, encrypted: bool) {
    let (layout, flush) = [
        ("2+1", FlushMode::Local),
        ("1+2", FlushMode::Pool),
        ("1+0", FlushMode::Local),
        ("4+2", FlushMode::Pool),
    ][seed as usize % 4];
    eprintln!("STORM={seed}");
    let recompress = seed % 3 == 1;
    let eager = seed % 8 < 6;
    run(seed, layout, move |mut site| {
        site.encrypted = encrypted;
        storm(if eager { site.eager() } else { site }, flush, recompress)
    });
}
