//! What happens when, and what must be there at the end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use windlass_base::rt::Rt;
use windlass_base::rt::sim::Process;
use windlass_base::{Error, Kind};
use windlass_pool::{Care, Pool, ScrubOptions};
use windlass_volume::{OpenMode, Volume, Volumes, snapshot_group};

use super::admin::{Admin, finish};
use super::site::{ADMINS, HEIR, OWNER, SECTORS, Side, Site, at, name};
use super::users::{Client, Owner, begin, look};
use crate::volume::model::{tags, written};

/// Time after which no request can land any more.
const LATE: Duration = Duration::from_secs(40);
/// Time by which everything that can be done is done.
const LONG: Duration = Duration::from_secs(3_600);
const LOOK: Duration = Duration::from_millis(500);

/// Directs a whole run.
pub async fn direct(site: Arc<Site>) {
    site.found().await;
    let rt = site.world.rt();
    rt.spawn(site.clone().watch(rt.clone())).detach();
    let (owner, pool) = start_owner(&site).await;
    let clients = [start_client(&site, 0, Side::Far), start_client(&site, 1, Side::Near)];
    rt.sleep(Duration::from_millis(500 + site.world.below(6_000))).await;
    if site.plan.is_hushed() {
        hush(&site, &rt, &pool).await;
    }
    if let Some(place) = site.plan.moving {
        move_a_store(&site, &rt, place).await;
    }
    site.lose();
    site.hush.store(false, Ordering::Relaxed);
    if site.plan.owner_dies {
        let later = site.world.below(3) * site.world.below(3_000);
        let (doomed, inner) = (owner.clone(), site.clone());
        site.world.after(Duration::from_millis(later), move || {
            inner.note(|| "the owner dies".to_owned());
            doomed.kill();
        });
    }
    drop(pool);
    rt.sleep(Duration::from_millis(site.world.below(8_000))).await;
    recover(&site, &rt).await;
    site.heal();
    rt.sleep(LATE).await;
    clients.iter().for_each(Process::kill);
    settle(&site, &rt, owner.alive()).await;
}

async fn start_owner(site: &Arc<Site>) -> (Process, Arc<Pool>) {
    let process = site.world.process();
    let rt = process.rt();
    let volumes = loop {
        match site.open(&rt, OWNER, Side::Far).await {
            Ok(volumes) => break volumes,
            Err(e) => site.note(|| format!("no pool yet: {e}")),
        }
    };
    let pool = volumes.engine().pool.clone();
    rt.spawn(Owner { site: site.clone(), rt: rt.clone(), volumes, anew: 0.into() }.live()).detach();
    (process, pool)
}

fn start_client(site: &Arc<Site>, number: usize, side: Side) -> Process {
    let process = site.world.process();
    let (rt, site) = (process.rt(), site.clone());
    let inner = rt.clone();
    rt.spawn(async move {
        loop {
            match Client::open(&site, &inner, number, side).await {
                Ok(client) => return client.live().await,
                Err(_) => inner.sleep(LOOK).await,
            }
        }
    })
    .detach();
    process
}

/// Lets the owner begin nothing new until all that was acknowledged is in every store.
async fn hush(site: &Site, rt: &Rt, pool: &Pool) {
    site.hush.store(true, Ordering::Relaxed);
    rt.sleep(LATE).await;
    while pool.pending() > 0 {
        rt.sleep(LOOK).await;
    }
}

/// Begins to replace a store by a process that is killed on the way. Sometimes the store was well, sometimes
/// it is away already.
async fn move_a_store(site: &Arc<Site>, rt: &Rt, place: usize) {
    let process = site.world.process();
    let (theirs, inner) = (process.rt(), site.clone());
    let task = theirs.clone();
    theirs
        .spawn(async move {
            let volumes = inner.open(&task, ADMINS[1], Side::Near).await?;
            let pool = &volumes.engine().pool;
            let (old, new) = (inner.url(place), inner.spare(place, 0, Side::Near));
            pool.plan_replacement(&old, &new, &volumes, Care::None, &|_| {}).await?;
            inner.note(|| format!("the replacement of {old} is planned"));
            finish(&volumes).await?;
            inner.note(|| "it is finished".to_owned());
            Ok::<_, Error>(())
        })
        .detach();
    rt.sleep(Duration::from_millis(site.world.below(1_500))).await;
    process.kill();
}

/// Lets administrators put the pool right, killed now and then, until each finds that it is.
async fn recover(site: &Arc<Site>, rt: &Rt) {
    let mut lives = Vec::new();
    for number in 0..site.plan.admins {
        lives.push((number, start_admin(site, number)));
    }
    for _ in 0..site.world.below(4) {
        rt.sleep(Duration::from_millis(site.world.below(2_500))).await;
        let struck = site.world.below(lives.len() as u64) as usize;
        let (number, process) = &mut lives[struck];
        site.note(|| format!("admin{} is killed", ADMINS[*number]));
        process.kill();
        rt.sleep(Duration::from_millis(site.world.below(1_500))).await;
        *process = start_admin(site, *number);
    }
    if site.plan.again {
        rt.sleep(Duration::from_millis(site.world.below(4_000))).await;
        site.lose_again();
    }
    let all = |site: &Site| (0..site.plan.admins).all(|number| site.turns.done(ADMINS[number]));
    let end = async {
        while !all(site) {
            rt.sleep(LOOK).await;
        }
    };
    // Without the owner's side nothing may be wrong with them, but its newest writes may be missing.
    rt.timeout(LONG, end).await.expect("the pool is recovered in time");
    lives.iter().for_each(|(_, process)| process.kill());
}

fn start_admin(site: &Arc<Site>, number: usize) -> Process {
    let process = site.world.process();
    let spare = if site.plan.agree { 1 } else { 1 + number };
    let admin = Admin { site: site.clone(), rt: process.rt(), host: ADMINS[number], spare };
    process.rt().spawn(admin.live()).detach();
    process
}

/// Checks that everybody is in one pool that holds what was acknowledged, and that it works.
async fn settle(site: &Arc<Site>, rt: &Rt, owner_lives: bool) {
    let volumes = whole(site, rt).await;
    let pool = volumes.engine().pool.clone();
    assert!(!site.guessed() || site.told_of_guess.load(Ordering::Relaxed), "nobody was told of the guess");
    assert!(!site.guessed() || site.plan.guess, "a guess without need");
    site.keep_promises(site.guesses());
    let volume = take_over(site, rt, &volumes).await;
    snapshots(site, &volumes).await;
    works(site, rt, &volumes, &volume).await;
    if owner_lives {
        // It writes all the time, so it must have noticed.
        rt.sleep(Duration::from_secs(120)).await;
        assert!(site.is_shut_out(), "the volume's former owner goes on");
    }
    for (number, side) in [Side::Far, Side::Near].into_iter().enumerate() {
        let client = Client::open(site, rt, number, side).await.unwrap();
        client.append().await.unwrap();
        assert_eq!(client.pool.generation(), pool.generation());
    }
    site.history.lock().check();
    mended(rt, &volumes).await;
}

/// Has a host that knows nothing find the pool recovered, or do the little that is left.
async fn whole(site: &Arc<Site>, rt: &Rt) -> Volumes {
    let admin = Admin { site: site.clone(), rt: rt.clone(), host: HEIR, spare: 1 };
    rt.timeout(LONG, admin.live()).await.expect("all is well, and yet the pool is not right");
    site.open(rt, HEIR, Side::Near).await.unwrap()
}

async fn take_over(site: &Site, rt: &Rt, volumes: &Volumes) -> Arc<Volume> {
    let mut tries = 0;
    let volume = loop {
        match volumes.open(&name("v"), OpenMode::TakeOver { accept_loss: tries > 4 }).await {
            Ok(volume) => break volume,
            Err(e) => {
                site.note(|| format!("not taken over: {e}"));
                assert!(e.is(Kind::Unavailable) && tries < 20, "{e}");
            }
        }
        tries += 1;
        rt.sleep(Duration::from_secs(1)).await;
    };
    begin(site, rt, &volume, HEIR).await.unwrap();
    volume
}

/// Reads all snapshots: those that were promised are there, and show what they must.
async fn snapshots(site: &Site, volumes: &Volumes) {
    let known = site.model.lock().snapshots_promised();
    for (which, promised) in known {
        let seen = async {
            let view = volumes.open_snapshot(&name("v"), &name(&which)).await?;
            Ok::<_, Error>(tags(0, &view.read(at(0), SECTORS * 512).await?))
        };
        match seen.await {
            Ok(seen) => site.model.lock().snapshot_seen(&which, seen),
            Err(e) => assert!(!promised, "snapshot {which} was promised, but: {e}"),
        }
    }
}

/// Writes, flushes, makes a snapshot, and checks what is read then.
async fn works(site: &Site, rt: &Rt, volumes: &Volumes, volume: &Arc<Volume>) {
    let mut now = look(volume).await.unwrap();
    let (sectors, tag) = (3..90, site.model.lock().fresh_tag());
    volume.write(at(sectors.start), written(&sectors, tag)).await.unwrap();
    now[sectors.start as usize..sectors.end as usize].fill(tag);
    let done = async {
        volume.flush().await?;
        snapshot_group(&[(volume.clone(), name("last"))], true).await
    };
    rt.timeout(LATE, done).await.expect("the recovered pool takes writes").unwrap();
    let view = volumes.open_snapshot(&name("v"), &name("last")).await.unwrap();
    assert!(tags(0, &view.read(at(0), SECTORS * 512).await.unwrap()) == now);
    assert!(look(volume).await.unwrap() == now);
}

/// Repairs until scrub finds nothing; that must come to an end.
async fn mended(rt: &Rt, volumes: &Volumes) {
    let (pool, mut last) = (&volumes.engine().pool, String::new());
    for _ in 0..10 {
        let left = pool.repair(volumes, ScrubOptions::default(), &|_| {}).await;
        let found = pool.scrub(volumes, ScrubOptions::default(), &|_| {}).await;
        if found.as_ref().is_ok_and(|found| found.is_complete_and_clean()) {
            return;
        }
        last = format!("{left:?}, {found:?}");
        rt.sleep(Duration::from_secs(5)).await;
    }
    panic!("repair does not get the recovered pool right: {last}");
}
