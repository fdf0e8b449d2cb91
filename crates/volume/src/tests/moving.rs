//! Volumes moved to another pool under a load that knows what it was promised: cut off at any moment, taken over by another host
//! meanwhile, with stores that go away.

use std::sync::Arc;

use parking_lot::Mutex;

use super::site::{Machine, Site};
use super::*;
use windlass_base::Result;
use windlass_base::format_limits::BLOCK;
use windlass_base::rt::Task;

/// One daemon with two pools.
struct Host {
    from: Life,
    to: Life,
}

impl Host {
    async fn start((from, to): (Machine, Machine)) -> Host {
        Host { from: from.start().await, to: to.start().await }
    }

    fn crash(self) -> (Machine, Machine) {
        (self.from.crash(), self.to.crash())
    }

    /// Where the volume is now, whatever its move has left to do.
    async fn open(&self) -> Result<Arc<Volume>> {
        let v = name("v");
        finish_move((&self.from.volumes, &v), &self.to.volumes).await?;
        match self.from.volumes.open(&v, OpenMode::Normal).await {
            Err(e) if e.is(Kind::NotFound) => self.to.volumes.open(&v, OpenMode::Normal).await,
            open => open,
        }
    }

    async fn make_move(&self, load: &Load, snapshots: bool) -> Result<MovedVolume> {
        let clients = load.users.clone();
        let how = Moving { snapshots, clients, progress: &|_, _, _| {} };
        move_volume((&self.from.volumes, &name("v")), &self.to.volumes, how).await
    }
}

/// Who has connected.
#[derive(Default)]
struct Users {
    passage: Arc<Passage>,
    moved: Mutex<Option<Arc<Volume>>>,
}

impl MovingClients for Users {
    fn passages(&self) -> Vec<Arc<Passage>> {
        vec![self.passage.clone()]
    }

    fn follow(&self, moved: &Arc<Volume>) {
        *self.moved.lock() = Some(moved.clone());
    }
}

const BLOCKS: u64 = 2048;

/// Writes one block after another, each with its number, and flushes now and then: what is there is a prefix of that.
#[derive(Default)]
struct Witness {
    /// The block of each write, in order.
    tried: Vec<u64>,
    acknowledged: usize,
    flushed: usize,
    failed: Option<String>,
    /// The longest that one request took.
    slowest: Duration,
    stop: bool,
}

impl Witness {
    fn answered(&mut self, after: Duration, done: &Result<()>) {
        self.slowest = self.slowest.max(after);
        self.failed = done.as_ref().err().map(ToString::to_string);
    }
}

/// A client.
struct Load {
    users: Arc<Users>,
    witness: Arc<Mutex<Witness>>,
    task: Option<Task<()>>,
}

fn stamped(number: usize) -> Bytes {
    [(number as u64).to_le_bytes(); BLOCK as usize / 8].concat().into()
}

impl Load {
    /// Goes on with what a witness has seen.
    fn start(life: &Life, volume: Arc<Volume>, witness: Arc<Mutex<Witness>>, pause_ms: u64) -> Load {
        let (users, seen) = (Arc::new(Users::default()), witness.clone());
        let (rt, world, passage) = (life.rt.clone(), life.machine.world(), users.passage.clone());
        let work = async move {
            loop {
                let (number, block) = {
                    let mut witness = seen.lock();
                    if witness.stop {
                        return;
                    }
                    let block = world.below(if world.below(3) == 0 { 20 } else { BLOCKS });
                    witness.tried.push(block);
                    (witness.tried.len(), block)
                };
                let began = rt.now();
                let done = async {
                    let pass = passage.enter().await;
                    pass.volume(&volume).write(block * BLOCK, stamped(number)).await
                };
                let mut done = done.await;
                seen.lock().acknowledged = number;
                if done.is_ok() && number % 16 == 0 {
                    let pass = passage.enter().await;
                    done = pass.volume(&volume).flush().await;
                    if done.is_ok() {
                        seen.lock().flushed = number;
                    }
                }
                seen.lock().answered(rt.now().since(began), &done);
                if done.is_err() {
                    return;
                }
                rt.sleep(Duration::from_millis(world.below(pause_ms + 1))).await;
            }
        };
        let task = Some(life.rt.spawn(work));
        Load { users, witness, task }
    }

    async fn stop(&mut self) {
        self.witness.lock().stop = true;
        if let Some(task) = self.task.take() {
            task.await.unwrap();
        }
        self.witness.lock().stop = false;
    }
}

/// The volume shows a prefix of what was written that has all that was promised; the rest was never written.
async fn check(volume: &Volume, witness: &Mutex<Witness>, least: usize) {
    let data = volume.read(0, BLOCKS * BLOCK).await.unwrap();
    let word =
        |block: usize| u64::from_le_bytes(data[block * 4096..block * 4096 + 8].try_into().unwrap()) as usize;
    let shown: Vec<usize> = (0..BLOCKS as usize).map(word).collect();
    let prefix = shown.iter().copied().max().unwrap();
    let mut witness = witness.lock();
    assert!(prefix >= least, "write {prefix} is the last, {least} were promised");
    let mut wanted = vec![0; BLOCKS as usize];
    for (at, block) in witness.tried[..prefix].iter().enumerate() {
        wanted[*block as usize] = at + 1;
    }
    assert!(shown == wanted, "not a prefix of {prefix}");
    for (block, number) in shown.iter().enumerate() {
        assert!(data[block * 4096..(block + 1) * 4096] == stamped(*number), "block {block}");
    }
    witness.tried.truncate(prefix);
    (witness.acknowledged, witness.flushed) = (prefix, witness.flushed.min(prefix));
}

async fn found(site: &Site, there: &Site, id: u128, flush: FlushMode) -> Host {
    let host = Host { from: site.machine(id).found().await, to: there.machine(id).found().await };
    host.from.volumes.create(&name("v"), 64 * MIB, small(flush)).await.unwrap();
    host
}

/// Before the move begins, and while it copies.
#[test]
fn a_volume_that_another_host_reads_does_not_move() {
    for late in [false, true] {
        run(5, "1+0", move |site| async move {
            let there = site.elsewhere_as("1+0");
            let host = found(&site, &there, 1, FlushMode::Local).await;
            let volume = host.from.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            volume.write(0, bytes(1, 8 * MIB as usize)).await.unwrap();
            host.from.volumes.release(&name("v")).await.unwrap();
            let other = site.machine(2).start().await;
            let read = other.volumes.open(&name("v"), OpenMode::Attach).await.unwrap();
            let mut reading = None;
            if !late {
                reading = Some(read.read_by_client(false).await.unwrap());
            }
            let mut load = Load::start(&host.from, volume.clone(), Arc::default(), 1);
            let comes = async {
                if late {
                    host.from.sleep(20).await;
                    reading = Some(read.read_by_client(false).await.unwrap());
                }
            };
            let (moved, ()) = futures::future::join(host.make_move(&load, true), comes).await;
            let refused = moved.unwrap_err();
            assert!(refused.is(Kind::Owned) && refused.to_string().contains("host id"), "{refused}");
            load.stop().await;
            assert_eq!(load.witness.lock().failed, None, "its own clients go on");
            drop(reading);
            host.from.sleep(1_000).await;
            host.make_move(&load, true).await.unwrap();
        });
    }
}

#[test]
fn a_volume_moves_with_its_clients_its_snapshots_and_its_settings() {
    for seed in 0..3 {
        run(seed, "1+0", move |site| async move {
            let there = site.elsewhere_as("4+2");
            let host = found(&site, &there, 1, FlushMode::Local).await;
            let (from, to, v) = (&host.from.volumes, &host.to.volumes, name("v"));
            let settings =
                ["iops=900000", "quota=60M", "compression=zstd", "history=1m:1h"].map(str::to_owned);
            from.set(&v, &settings).await.unwrap();
            let volume = from.open(&v, OpenMode::Normal).await.unwrap();
            volume.write(40 * MIB, bytes(1, 6 * MIB as usize)).await.unwrap();
            let mut load = Load::start(&host.from, volume.clone(), Arc::default(), 3);
            host.from.sleep(70_000).await;
            for s in ["a", "b"] {
                snapshot_group(&[(volume.clone(), name(s))], true).await.unwrap();
                host.from.sleep(500).await;
            }
            from.clone_snapshot(&v, &name("a"), &name("c")).await.unwrap();
            let shown = from.open_snapshot(&v, &name("a")).await.unwrap().read(0, 8 * MIB).await.unwrap();
            let moved = host.make_move(&load, seed != 1).await.unwrap();
            assert_eq!((moved.already, &moved.unfinished), (false, &None));
            assert!(moved.pause_ms < 1_000 && moved.copied_bytes > 6 * MIB, "{moved:?}");
            assert!(moved.held.as_ref().is_some_and(|held| held.contains("tank/c")), "{moved:?}");
            let named = |names: &[Name]| names.iter().filter(|n| n.as_str().len() == 1).count();
            assert_eq!(
                (named(&moved.snapshots), named(&moved.left)),
                if seed == 1 { (0, 2) } else { (2, 0) }
            );
            assert!(moved.left.iter().any(|left| left.as_str().starts_with("history-")), "{moved:?}");
            host.from.sleep(3_000).await;
            load.stop().await;
            let there = to.open(&v, OpenMode::Normal).await.unwrap();
            assert!(load.users.moved.lock().as_ref().is_some_and(|moved| Arc::ptr_eq(moved, &there)));
            let witness = load.witness.clone();
            let acknowledged = witness.lock().acknowledged;
            assert!(witness.lock().failed.is_none() && acknowledged > 1_000, "{:?}", witness.lock().failed);
            check(&there, &witness, acknowledged).await;
            assert!(there.read(40 * MIB, 6 * MIB).await.unwrap() == bytes(1, 6 * MIB as usize));
            assert_eq!(there.settings(), volume.settings());
            // Its own snapshots, and none of the move's.
            let names = to.snapshot_names(&v).await.unwrap();
            assert_eq!(names.len(), if seed == 1 { 0 } else { 2 }, "{names:?}");
            if seed != 1 {
                let copied = to.open_snapshot(&v, &name("a")).await.unwrap().read(0, 8 * MIB).await.unwrap();
                assert!(copied == shown);
            }
            // What it was is nowhere opened, and brought back only as another.
            for name in [&v, &v.while_moved(1)] {
                assert!(from.open(name, OpenMode::Normal).await.unwrap_err().is(Kind::NotFound));
            }
            assert!(volume.write(0, stamped(1)).await.unwrap_err().to_string().contains("moved to tank/v"));
            assert_eq!(moved_to(from, &v).await.unwrap().map(|moved| moved.volume), Some(there.id()));
            assert!(host.make_move(&load, true).await.unwrap().already);
            let refused = Trash(from).restore(&v, None).await.unwrap_err();
            assert!(refused.is(Kind::Refused) && refused.to_string().contains("--to"), "{refused}");
            Trash(from).restore(&v, Some(&name("old"))).await.unwrap();
            let old = from.open(&name("old"), OpenMode::Normal).await.unwrap();
            assert!(old.read(40 * MIB, 6 * MIB).await.unwrap() == bytes(1, 6 * MIB as usize));
            old.write(0, stamped(1)).await.unwrap();
            assert!(from.check(&name("old")).await.unwrap().wrong.is_empty());
            assert!(to.check(&v).await.unwrap().wrong.is_empty());
        });
    }
}

#[test]
fn what_can_not_be_moved_is_refused_by_name() {
    run(1, "2+1", |site| async move {
        let there = site.elsewhere();
        let host = found(&site, &there, 1, FlushMode::Local).await;
        let (from, to, v) = (&host.from.volumes, &host.to.volumes, name("v"));
        let load = Load { users: Arc::default(), witness: Arc::default(), task: None };
        let how = Moving { snapshots: true, clients: load.users.clone(), progress: &|_, _, _| {} };
        let same = move_volume((from, &v), from, how).await.unwrap_err();
        assert!(same.is(Kind::Usage) && same.to_string().contains("rename"), "{same}");
        to.create(&v, MIB, small(FlushMode::Local)).await.unwrap();
        let taken = host.make_move(&load, true).await.unwrap_err();
        assert!(taken.is(Kind::Exists), "{taken}");
        to.remove(&v).await.unwrap();
        from.set(&v, &["template=true".into()]).await.unwrap();
        assert!(host.make_move(&load, true).await.unwrap_err().is(Kind::Refused));
        from.set(&v, &["template=false".into()]).await.unwrap();
        // Smaller than one of its snapshots.
        let volume = from.open(&v, OpenMode::Normal).await.unwrap();
        snapshot_group(&[(volume.clone(), name("a"))], true).await.unwrap();
        from.resize(&v, 65 * MIB).await.unwrap();
        snapshot_group(&[(volume.clone(), name("b"))], true).await.unwrap();
        from.roll_back(&v, &name("a"), None).await.unwrap();
        let larger = host.make_move(&load, true).await.unwrap_err();
        assert!(larger.is(Kind::Refused) && larger.to_string().contains("--no-snapshots"), "{larger}");
        // Given up, nothing of it is left on either side; then it moves.
        let copied = async {
            while to.engine().pool.name_entries().await.unwrap().is_empty() {
                host.to.sleep(5).await;
            }
        };
        // Dropped with the block.
        let is_cut = {
            let (moving, copied) = (std::pin::pin!(host.make_move(&load, false)), std::pin::pin!(copied));
            let first = futures::future::select(moving, copied).await;
            matches!(first, futures::future::Either::Right(_))
        };
        assert!(is_cut);
        assert!(give_up_move((from, &v), to).await.unwrap());
        assert!(!give_up_move((from, &v), to).await.unwrap());
        assert_eq!(from.snapshot_names(&v).await.unwrap(), [name("a"), name("b")]);
        assert!(to.engine().pool.name_entries().await.unwrap().is_empty());
        let moved = host.make_move(&load, false).await.unwrap();
        assert_eq!((moved.left, moved.snapshots), (vec![name("a"), name("b")], Vec::new()));
        assert!(!give_up_move((from, &v), to).await.unwrap());
        assert_eq!(to.info(&v).await.unwrap().size, 64 * MIB);
    });
}

/// The daemon dies at a random moment, again and again: whenever it comes back the volume is in one of the two pools, with
/// all that was flushed.
#[test]
fn a_move_that_was_cut_off_goes_on_and_nothing_is_lost() {
    for seed in seeds("MOVING", "0..8") {
        eprintln!("MOVING={seed}");
        run(seed, ["1+0", "2+1"][seed as usize % 2], move |site| async move {
            let there = site.elsewhere_as(["2+1", "4+2", "1+0"][seed as usize % 3]);
            // A life of seconds has no time to merge thousands of blocks one by one.
            let eager = |site: Site| {
                let mut site = site.eager();
                site.tuning.merge_blocks = site.tuning.merge_blocks.max(40);
                site
            };
            let (site, there) = if seed % 4 == 3 { (eager(site), eager(there)) } else { (site, there) };
            let flush = if seed % 3 == 0 { FlushMode::Pool } else { FlushMode::Local };
            let mut machines = found(&site, &there, 1, flush).await.crash();
            let (witness, world) = (Arc::<Mutex<Witness>>::default(), site.world.clone());
            let mut moved = 0;
            for cut in 0.. {
                assert!(cut < 300, "it comes to an end");
                let latency = (Duration::from_millis(1), Duration::from_millis(1 + world.below(30)));
                site.stores.iter().chain(&there.stores).for_each(|s| s.faults(|f| f.latency = latency));
                let host = Host::start(machines).await;
                let volume = host.open().await.unwrap();
                let flushed = witness.lock().flushed;
                check(&volume, &witness, flushed).await;
                let mut load = Load::start(&host.from, volume, witness.clone(), world.below(20));
                if host.from.volumes.id(&name("v")).await.is_err() {
                    moved += 1;
                    // Whoever comes to the end of a move removes its own snapshots.
                    let left = host.to.volumes.snapshot_names(&name("v")).await.unwrap();
                    assert!(left.iter().all(|name| !name.as_str().starts_with("moving-")), "{left:?}");
                }
                let patience = Duration::from_millis(world.below(if cut % 8 == 7 { 60_000 } else { 6_000 }));
                let done = host.from.rt.timeout(patience, host.make_move(&load, true)).await;
                let failed = witness.lock().failed.take();
                assert!(failed.is_none(), "{failed:?}");
                assert!(done.as_ref().is_none_or(Result::is_ok), "{done:?}");
                if done.is_some() && world.below(2) == 0 {
                    host.from.sleep(world.below(3_000)).await;
                    load.stop().await;
                    let (volume, all) = (host.open().await.unwrap(), witness.lock().acknowledged);
                    check(&volume, &witness, all).await;
                }
                machines = host.crash();
                if moved > 2 {
                    return;
                }
            }
        });
    }
}

/// Another host takes the volume over at a random moment of its move, and moves it in turn.
#[test]
fn a_host_that_was_shut_out_midway_moves_nothing() {
    let mut by = [0, 0];
    for seed in seeds("MOVING", "0..10") {
        eprintln!("MOVING={seed}");
        let first = Arc::new(Mutex::new(false));
        let told = first.clone();
        run(seed, ["2+1", "1+0"][seed as usize % 2], move |site| async move {
            let (there, world) = (site.elsewhere(), site.world.clone());
            let host = found(&site, &there, 1, FlushMode::Pool).await;
            let other = Host { from: site.machine(2).start().await, to: there.machine(2).start().await };
            let (witness, v) = (Arc::<Mutex<Witness>>::default(), name("v"));
            let latency = (Duration::from_millis(1), Duration::from_millis(1 + world.below(40)));
            site.stores.iter().chain(&there.stores).for_each(|s| s.faults(|f| f.latency = latency));
            let volume = host.from.volumes.open(&v, OpenMode::Normal).await.unwrap();
            volume.write(40 * MIB, bytes(1, 3 * MIB as usize)).await.unwrap();
            volume.flush().await.unwrap();
            let mut load = Load::start(&host.from, volume, witness.clone(), 10);
            let taken = async {
                other.from.sleep(world.below(if seed % 2 == 0 { 600 } else { 6_000 })).await;
                other.from.volumes.take_over(&v, false).await
            };
            let (moved, taken) = futures::future::join(host.make_move(&load, true), taken).await;
            let here = match (&moved, &taken) {
                (Ok(_), Err(refused)) => {
                    assert!(refused.is(Kind::NotFound) || refused.is(Kind::Removed), "{refused}");
                    *told.lock() = true;
                    &host
                }
                (Err(_), Ok(_)) => &other,
                both => panic!("{both:?}"),
            };
            host.from.sleep(20_000).await;
            load.stop().await;
            let flushed = witness.lock().flushed;
            let volume = here.open().await.unwrap();
            check(&volume, &witness, flushed).await;
            assert!(volume.read(40 * MIB, 3 * MIB).await.unwrap() == bytes(1, 3 * MIB as usize));
            // Who has it now moves it; what the first one had copied is in nobody's way, and is given up by that one.
            let mut load = Load::start(&here.from, volume, witness.clone(), 10);
            assert_eq!(here.make_move(&load, true).await.unwrap().already, moved.is_ok());
            load.stop().await;
            let (volume, all) = (here.open().await.unwrap(), witness.lock().acknowledged);
            check(&volume, &witness, all).await;
            if moved.is_err() {
                give_up_move((&host.from.volumes, &v), &host.to.volumes).await.unwrap();
                assert_eq!(host.to.volumes.engine().pool.name_entries().await.unwrap().len(), 1);
            }
        });
        by[usize::from(*first.lock())] += 1;
    }
    assert!(by.iter().all(|by| *by > 0) || std::env::var("MOVING").is_ok(), "either was first: {by:?}");
}

/// The other pool's stores go away when the copy is about to take over, and this one's: clients are not held for long, and
/// get no error.
#[test]
fn stores_that_go_away_hold_the_move_up_and_not_its_clients() {
    for seed in seeds("MOVING", "0..6") {
        eprintln!("MOVING={seed}");
        run(seed, "2+1", move |site| async move {
            let (there, world) = (site.elsewhere(), site.world.clone());
            let host = found(&site, &there, 1, FlushMode::Local).await;
            let witness = Arc::<Mutex<Witness>>::default();
            let volume = host.from.volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
            // So slow that what it writes to stores that are away, once it has moved, finds room in memory.
            let mut load = Load::start(&host.from, volume, witness.clone(), 40);
            let away = async {
                for _ in 0..3 {
                    host.from.sleep(world.below(3_000)).await;
                    there.reach(0..3, Reach::Silent);
                    host.from.sleep(5_000 + world.below(30_000)).await;
                    there.reach(0..3, Reach::Up);
                }
            };
            // One that begins while they are away says so.
            let moving = async {
                loop {
                    match host.make_move(&load, true).await {
                        Err(e) if e.is_transient() => host.from.sleep(1_000).await,
                        done => return done,
                    }
                }
            };
            futures::future::join(moving, away).await.0.unwrap();
            let slowest = witness.lock().slowest;
            load.stop().await;
            assert!(witness.lock().failed.is_none());
            assert!(slowest < Duration::from_secs(5), "{slowest:?}");
            // They may have come back a moment ago, and nobody has noticed.
            host.to.volumes.engine().pool.ready(windlass_pool::Need::Decide).await;
            let (volume, all) = (host.open().await.unwrap(), witness.lock().acknowledged);
            check(&volume, &witness, all).await;
        });
    }
}
