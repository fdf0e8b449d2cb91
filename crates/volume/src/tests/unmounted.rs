//! What can't be undone, while more stores are missing than the layout bears: disks that are not mounted, stores that do not
//! answer, disks that are gone. Commands run meanwhile, the others come back in every order, and commands run again. While no
//! more than m disks are gone, all is readable in the end and the pool is made whole by what it names.

use super::site::{Machine, Site};
use super::*;
use windlass_base::Result;
use windlass_pool::{Care, ScrubOptions};
use windlass_store::{Backup, Store as _};

const BLOCKS: u64 = 24;

/// Where a store is when a command runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Missing {
    No,
    /// Its mount point is empty, and its disk is well.
    Unmounted,
    /// It does not answer.
    Down,
    /// Its mount point is empty, and its disk is gone.
    Gone,
}

const ALL: [Missing; 4] = [Missing::No, Missing::Unmounted, Missing::Down, Missing::Gone];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Command {
    Repair,
    /// The first store that is missing, by another.
    Replace,
    ForceRecover,
}

struct World {
    site: Site,
    machine: Machine,
    /// Disks that are not mounted, by store.
    disks: Vec<Option<Backup>>,
    said: Vec<String>,
}

impl World {
    /// A pool with a released volume.
    async fn new(site: Site) -> World {
        let life = site.machine(1).found().await;
        let v = volume(&life, FlushMode::Pool).await;
        for i in 0..BLOCKS {
            v.write(i * 4096, bytes(i, 4096)).await.unwrap();
        }
        v.release().await.unwrap();
        life.sleep(5_000).await;
        let disks = site.stores.iter().map(|_| None).collect();
        let machine = life.crash();
        World { site, machine, disks, said: Vec::new() }
    }

    fn goes(&mut self, store: usize, how: Missing) {
        let contents = self.site.stores[store].contents();
        match how {
            Missing::No => {}
            Missing::Down => self.site.reach(store..store + 1, Reach::Refuses),
            Missing::Unmounted => self.disks[store] = Some(contents.exchange(Backup::default())),
            Missing::Gone => drop(contents.exchange(Backup::default())),
        }
    }

    fn comes_back(&mut self, store: usize) {
        self.site.reach(store..store + 1, Reach::Up);
        if let Some(disk) = self.disks[store].take() {
            self.site.stores[store].contents().exchange(disk);
        }
    }

    fn say(&mut self, what: String) {
        self.said.push(what);
    }

    /// A command in a process of its own; whether it ended well.
    async fn run(&mut self, command: Command, missing: &[usize]) -> bool {
        let done = match command {
            Command::Repair => self.repair().await,
            Command::Replace => self.replace(missing[0]).await,
            Command::ForceRecover => self.force_recover().await,
        };
        self.say(format!("{command:?}: {done:?}"));
        done.is_ok_and(|whole| whole)
    }

    async fn repair(&self) -> Result<bool> {
        let life = self.machine.try_start().await?;
        let taken = life.volumes.take_in_stores(&|_| {}).await?;
        let pool = life.volumes.engine().pool.clone();
        let done = pool.repair(&life.volumes, ScrubOptions::default(), &|_| {}).await?;
        let whole = !taken.is_short && done.left.is_complete_and_clean() && !pool.is_moving();
        pool.close().await;
        life.process.kill();
        Ok(whole)
    }

    async fn replace(&self, store: usize) -> Result<bool> {
        let life = self.machine.try_start().await?;
        let (old, new) = (self.site.stores[store].url(), self.site.spare_spec());
        let done = life.volumes.replace_store(old, &new, Care::All, &|_| {}).await;
        life.volumes.engine().pool.close().await;
        life.process.kill();
        done.map(|_| true)
    }

    async fn force_recover(&self) -> Result<bool> {
        self.machine.force_recover(Vec::new()).await?;
        let life = self.machine.try_start().await?;
        let done = match life.volumes.engine().pool.is_moving() {
            true => life.volumes.finish_replacement(&|_| {}).await.map(|_| true),
            false => Ok(true),
        };
        life.volumes.engine().pool.close().await;
        life.process.kill();
        done
    }

    /// All blocks, as a process reads them that opens the pool now.
    async fn reads(&self) -> Result<bool> {
        let life = self.machine.try_start().await?;
        let v = life.volumes.open(&name("v"), OpenMode::Normal).await?;
        let mut right = true;
        for i in 0..BLOCKS {
            let read = life.rt.timeout(Duration::from_secs(60), v.read(i * 4096, 4096)).await;
            let read = read.ok_or_else(|| windlass_base::Error::new(Kind::Timeout, "no answer"))??;
            right &= read == bytes(i, 4096);
        }
        life.volumes.engine().pool.close().await;
        life.process.kill();
        Ok(right)
    }

    /// With what is gone no more than the layout bears, and all else back.
    async fn is_made_whole(&mut self) -> bool {
        for _ in 0..3 {
            if self.run(Command::Repair, &[]).await {
                return true;
            }
            // Named where too few stores can decide.
            if self.machine.try_start().await.is_err() {
                self.run(Command::ForceRecover, &[]).await;
            }
        }
        false
    }
}

/// One course: these stores are missing, the command runs, they come back in this order with a repair after each, and in the end all
/// is there.
fn course(layout: &'static str, m: usize, missing: Vec<Missing>, order: Vec<usize>, command: Command) {
    let told = format!("{layout} {missing:?}, {command:?}, back in the order {order:?}");
    run(400, layout, move |site| async move {
        let mut world = World::new(site).await;
        let away: Vec<usize> = (0..missing.len()).filter(|i| missing[*i] != Missing::No).collect();
        away.iter().for_each(|i| world.goes(*i, missing[*i]));
        world.run(command, &away).await;
        let gone = missing.iter().filter(|how| **how == Missing::Gone).count();
        let mut still = away.len();
        for store in order {
            world.comes_back(store);
            world.say(format!("{store} is back"));
            still -= 1;
            if still <= m {
                let read = world.reads().await;
                assert!(matches!(read, Ok(true)), "{told}: not readable: {read:?}; {:#?}", world.said);
            }
            world.run(Command::Repair, &[]).await;
        }
        assert_eq!(still, gone);
        assert!(world.is_made_whole().await, "{told}: not whole: {:#?}", world.said);
        let read = world.reads().await;
        assert!(matches!(read, Ok(true)), "{told}: {read:?}; {:#?}", world.said);
    });
}

/// All ways in which some of `places` interchangeable stores are missing.
fn kinds(places: usize) -> Vec<Vec<Missing>> {
    let mut all = vec![Vec::new()];
    for _ in 0..places {
        let longer = all.iter().flat_map(|some: &Vec<Missing>| {
            let last = some.last().copied().unwrap_or(Missing::No);
            let next = ALL.into_iter().filter(move |how| *how >= last);
            next.map(move |how| [some.as_slice(), &[how]].concat())
        });
        all = longer.collect();
    }
    all
}

/// Every order of these, but of stores that are missing in one way only once.
fn orders(back: &[usize], missing: &[Missing]) -> Vec<Vec<usize>> {
    if back.is_empty() {
        return vec![Vec::new()];
    }
    let mut all: Vec<Vec<usize>> = Vec::new();
    let mut tried: Vec<(Missing, bool)> = Vec::new();
    for first in back {
        // Those that hold registers are like each other.
        let like = (missing[*first], *first + 1 == missing.len());
        if tried.contains(&like) {
            continue;
        }
        tried.push(like);
        let rest: Vec<usize> = back.iter().copied().filter(|i| i != first).collect();
        all.extend(orders(&rest, missing).into_iter().map(|order| [vec![*first], order].concat()));
    }
    all
}

/// Courses with more stores missing than the layout bears; each `every`-th, from a first one on.
fn courses(layout: &'static str, m: usize, n: usize, (first, every): (usize, usize)) -> usize {
    let (mut number, mut ran) = (0, 0);
    for deciding in kinds(n - 1) {
        for last in ALL {
            let missing = [deciding.as_slice(), &[last]].concat();
            let count = |how: Missing| missing.iter().filter(|m| **m == how).count();
            if count(Missing::Gone) > m || n - count(Missing::No) <= m {
                continue;
            }
            let back: Vec<usize> =
                (0..n).filter(|i| matches!(missing[*i], Missing::Unmounted | Missing::Down)).collect();
            for order in orders(&back, &missing) {
                for command in [Command::Repair, Command::Replace, Command::ForceRecover] {
                    number += 1;
                    if number % every == first % every {
                        course(layout, m, missing.clone(), order.clone(), command);
                        ran += 1;
                    }
                }
            }
        }
    }
    ran
}

/// `UNMOUNTED=1` runs all, `UNMOUNTED=FIRST/EVERY` each so many, from that one on.
fn share(usual: usize) -> (usize, usize) {
    match std::env::var("UNMOUNTED") {
        Ok(text) => {
            let (first, every) = text.split_once('/').unwrap_or(("0", &text));
            (first.parse().unwrap(), every.parse().unwrap())
        }
        Err(_) => (0, usual),
    }
}

#[test]
fn disks_that_were_not_mounted_lose_nothing_3_1() {
    assert!(courses("3+1", 1, 4, share(9)) > 20);
}

#[test]
fn disks_that_were_not_mounted_lose_nothing_4_2() {
    assert!(courses("4+2", 2, 6, share(150)) > 20);
}
