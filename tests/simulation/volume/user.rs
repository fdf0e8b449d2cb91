//! A host's users: they open the volume, work on it in several tasks at once, and tell the model what they were told.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use parking_lot::Mutex;
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result};
use windlass_pool::Need;
use windlass_volume::{FlushMode, OpenMode, Volume, Volumes, snapshot_group};

pub use super::model::written;
use super::model::{Coming, Cut, Session, Tags, tags};
use super::site::{Hazard, LANES, SIZE, SPAN, Site, Waiting, at, name};

/// Time longer than any confirm round: a held operation may take it during an outage.
pub const PATIENCE: Duration = Duration::from_secs(100);
/// Time for which a volume that is opened once more asks whether this host is still the owner. An outage must
/// not stop it, so it may go on, and show what it had, after another host has taken it over.
pub const LOOK_MAX: Duration = Duration::from_secs(3);
/// Operations of one lane, in one go.
const OPERATIONS: u64 = 25;
/// Half of max-tail, and the time that puts may take when nothing is wrong.
pub const TAIL_SLACK_MS: u64 = 2_000;

/// One life of a host.
#[derive(Clone)]
pub struct User {
    pub site: Arc<Site>,
    pub host: usize,
    pub rt: Rt,
}

pub type Owned = (Arc<Volume>, Arc<Mutex<Session>>);

/// Readiness to use force on a volume that another host owns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Force {
    /// The host takes the volume at times.
    Sometimes,
    Always,
    /// The host takes the volume also when it can't be told what was acknowledged.
    AcceptLoss,
}

/// The result of opening the volume.
pub enum Look {
    Owner(Owned),
    Refused,
    /// The process may be the owner, and could not look.
    Unclear,
}

/// The result of working on the volume.
pub enum After {
    /// The process is still the owner, as far as it knows.
    Goes(Owned),
    Over,
    /// Another host has the volume. Clients of this one may not know yet, and go on asking.
    ShutOut(Arc<Volume>),
    Unclear,
}

/// State that the tasks of an owner share.
#[derive(Clone)]
struct Owner {
    user: User,
    volumes: Volumes,
    volume: Arc<Volume>,
    session: Arc<Mutex<Session>>,
    stop: Arc<AtomicBool>,
    /// An operation failed: nobody knows whether it was done.
    erred: Arc<AtomicBool>,
    /// The volume said that it won't work any more.
    shut_out: Arc<AtomicBool>,
    /// Longest pause between two operations, in ms.
    pause_ms: u64,
}

/// Reads everything that the model knows of.
pub async fn look(volume: &Volume) -> Result<Tags> {
    Ok(tags(0, &volume.read(SPAN.start, SPAN.end - SPAN.start).await?))
}

/// Checks that the volume may give this error when nothing is broken but what the run broke.
fn expected(site: &Site, what: &str, error: &Error) {
    let disk = site.plan.hazard == Hazard::Disks && matches!(error.kind(), Kind::Io | Kind::NoSpace);
    let fine =
        disk || matches!(
            error.kind(),
            Kind::Fenced
                | Kind::Owned
                | Kind::Unavailable
                | Kind::Timeout
                | Kind::Closed
                | Kind::NotFound
                | Kind::Exists
                | Kind::Removed
        ) || is_of_mirror(site, error.kind());
    assert!(fine, "{what}: {:?}: {error}", error.kind());
}

/// Tells whether an error comes of mirroring: another host is named, or the journal mirrored here is not
/// whole since the disk failed.
fn is_of_mirror(site: &Site, kind: Kind) -> bool {
    let not_whole = site.plan.hazard == Hazard::Disks && kind == Kind::Corrupt;
    site.plan.is_mirrored() && (kind == Kind::Refused || not_whole)
}

/// Tells whether a refusal says that the journal of the head's peer will never be known.
pub fn is_lost_peer(site: &Site, why: &str) -> bool {
    let failed = site.plan.hazard == Hazard::Disks && why.contains("or its disk failed");
    why.contains("mirrors this volume") && (failed || why.contains("and the volume's description names"))
}

impl User {
    pub fn note(&self, what: impl FnOnce() -> String) {
        self.site.note(|| format!("host{}: {}", self.host, what()));
    }

    pub async fn sleep(&self, ms: u64) {
        self.rt.sleep(Duration::from_millis(self.rt.below(ms.max(1)))).await;
    }

    /// Works on the volume until the process is killed.
    pub async fn live(self) {
        let volumes = loop {
            match self.site.open(&self.rt, self.host).await {
                Ok(volumes) => break volumes,
                Err(error) => {
                    self.note(|| format!("no pool: {error}"));
                    expected(&self.site, "opening the pool", &error);
                }
            }
            self.sleep(1_000).await;
        };
        if self.site.plan.is_in_turn() {
            return self.live_in_turn(volumes).await;
        }
        let (mut held, mut shut_out) = (None, Vec::new());
        loop {
            if *self.site.over.lock() {
                // The engine goes on: what its tasks still do is waited for.
                return std::future::pending().await;
            }
            if held.is_none() {
                match self.become_owner(&volumes, Force::Sometimes).await {
                    Look::Owner(owned) => held = Some(owned),
                    Look::Refused => {}
                    Look::Unclear => return self.give_up().await,
                }
            }
            if let Some((volume, session)) = held.take() {
                match self.work(&volumes, volume, session).await {
                    After::Goes(owned) => held = Some(owned),
                    After::Over => self.ask_in_vain(&shut_out).await,
                    After::ShutOut(volume) => {
                        shut_out.push(volume);
                        self.ask_in_vain(&shut_out).await;
                    }
                    After::Unclear => return self.give_up().await,
                }
            }
            self.look_at_a_snapshot(&volumes).await;
            if self.rt.below(6) == 0 {
                self.clone_one(&volumes).await;
            }
            self.sleep(3_000).await;
        }
    }

    /// Checks that clients of a volume that was shut out get no flush answered: their writes may not be in
    /// what another owner left. That holds also when this host has had the volume again since, and has let go
    /// of it, so that anybody may claim it.
    pub async fn ask_in_vain(&self, shut_out: &[Arc<Volume>]) {
        for volume in shut_out {
            let done = self.rt.timeout(PATIENCE, volume.flush()).await;
            assert!(!matches!(done, Some(Ok(()))), "who was shut out flushes again as if nothing were lost");
        }
    }

    /// Stops working until the process is killed. From outside it can't be told whether the process owns the
    /// volume; only its end makes that clear.
    pub async fn give_up(&self) {
        self.note(|| "gives up".to_owned());
        self.site.unclear.lock().push(self.host);
        std::future::pending().await
    }

    /// Opens the volume, writes its first block to own it, and reads all.
    pub async fn become_owner(&self, volumes: &Volumes, force: Force) -> Look {
        let _turn = self.site.opening.lock().await;
        let (current, world) = (self.site.model.lock().current(), &self.site.world);
        let lacks = || volumes.engine().pool.condition().lacks(Need::Decide);
        let (began, away) = (self.rt.now(), lacks());
        let key = self.site.key(self.host);
        current.lock().tried_by(key);
        let chance = if force == Force::Sometimes { self.site.plan.force } else { 1000 };
        let guess = force == Force::AcceptLoss;
        let (forced, opened) = match volumes.open(&name("v"), OpenMode::Normal).await {
            Err(e) if (e.is(Kind::Owned) || guess) && world.per_mille(chance) => {
                self.note(|| format!("refused: {e}; takes over"));
                current.lock().disturb(self.rt.now());
                current.lock().forced_by(key);
                self.takes();
                self.site.mirrors.taken_over();
                let mode = OpenMode::TakeOver { accept_loss: guess };
                (true, volumes.open(&name("v"), mode).await)
            }
            // In the peer's place stands another host, or its disk failed: who knows that does without it, and misses nothing.
            Err(e) if is_lost_peer(&self.site, &e.to_string()) => {
                self.note(|| format!("refused: {e}; gives the peer up"));
                (false, volumes.open(&name("v"), OpenMode::TakeOver { accept_loss: true }).await)
            }
            other => (false, other),
        };
        let volume = match opened {
            Ok(volume) => volume,
            Err(e) => {
                self.refused("opening", &e);
                return Look::Refused;
            }
        };
        let tag = self.site.model.lock().fresh_tag();
        let hello = volume.write(0, written(&(0..8), tag));
        let all = async {
            hello.await?;
            let own = volume.read(0, 4096).await?;
            assert_eq!(tags(0, &own), [tag; 8], "the owner's own write");
            look(&volume).await
        };
        let seen = match self.rt.timeout(PATIENCE, all).await {
            Some(Ok(seen)) => seen,
            Some(Err(e)) => {
                self.refused("first look", &e);
                let failed = matches!(e.kind(), Kind::Fenced | Kind::Owned);
                return if failed { Look::Refused } else { Look::Unclear };
            }
            None => return Look::Unclear,
        };
        let others = { current.lock().is_of_others(key) } && !forced && !self.site.plan.is_in_turn();
        if others && (away || lacks() || self.rt.now().since(began) >= LOOK_MAX) {
            self.note(|| "goes on in an outage, and may have been shut out".to_owned());
            return Look::Refused;
        }
        let plan = &self.site.plan;
        let tail_ms = (plan.hazard == Hazard::Calm).then_some(plan.max_tail_ms + TAIL_SLACK_MS);
        let coming = Coming { host: key, at: self.host, force: forced, tail_ms, guess, now: self.rt.now() };
        let session = self.site.model.lock().observe(seen, coming);
        if forced {
            self.site.mirrors.taken_over();
        }
        self.note(|| format!("is session {} (force {forced})", session.lock().number));
        Look::Owner((volume, session))
    }

    /// Tells whether the last refusal said that another host's journal may have more.
    pub fn is_named_elsewhere(&self) -> bool {
        let refused = self.site.refused.lock();
        refused.as_ref().is_some_and(|(kind, _)| is_of_mirror(&self.site, *kind))
    }

    pub fn refused(&self, what: &str, error: &Error) {
        self.note(|| format!("{what}: {:?} {error}", error.kind()));
        *self.site.refused.lock() = Some((error.kind(), error.to_string()));
        expected(&self.site, what, error);
    }

    pub async fn work(&self, volumes: &Volumes, volume: Arc<Volume>, session: Arc<Mutex<Session>>) -> After {
        let pause_ms = 8 << self.rt.below(8);
        let (stop, erred, shut_out) = Default::default();
        let owner = Owner {
            user: self.clone(),
            volumes: volumes.clone(),
            volume,
            session,
            stop,
            erred,
            shut_out,
            pause_ms,
        };
        let lanes = self.site.lanes_of(self.host);
        let mut tasks: Vec<_> =
            lanes.into_iter().map(|lane| self.rt.spawn(owner.clone().write(lane))).collect();
        tasks.push(self.rt.spawn(owner.clone().flush()));
        tasks.push(self.rt.spawn(owner.clone().read()));
        tasks.push(self.rt.spawn(owner.clone().snapshot(volumes.clone())));
        if self.site.plan.rotates {
            tasks.push(self.rt.spawn(owner.clone().rotate()));
        }
        for _ in 0..self.rt.below(8) {
            self.sleep(2_000).await;
            if owner.stopped() {
                break;
            }
        }
        owner.stop.store(true, Ordering::Relaxed);
        for done in join_all(tasks).await {
            done.unwrap();
        }
        // Also what failed only now.
        let over = owner.erred.load(Ordering::Relaxed);
        self.note(|| {
            let session = owner.session.lock();
            format!("pauses session {} after {} operations", session.number, session.operations())
        });
        match () {
            () if owner.shut_out.load(Ordering::Relaxed) => After::ShutOut(owner.volume),
            () if over => After::Unclear,
            () if self.site.plan.is_in_turn() => owner.goes_on_in_turn().await,
            () if self.rt.below(2) == 0 => owner.release().await,
            () => After::Goes((owner.volume, owner.session)),
        }
    }

    pub async fn look_at_a_snapshot(&self, volumes: &Volumes) {
        let names: Vec<String> = self.site.model.lock().snapshots.keys().cloned().collect();
        if names.is_empty() {
            return;
        }
        let which = &names[self.rt.below(names.len() as u64) as usize];
        match self.rt.timeout(PATIENCE, self.read_snapshot(volumes, which)).await {
            Some(Ok(())) | None => {}
            Some(Err(error)) => self.refused(&format!("looking at snapshot {which}"), &error),
        }
    }

    pub async fn read_snapshot(&self, volumes: &Volumes, which: &str) -> Result<()> {
        let gone = self.site.model.lock().snapshot_gone(which);
        let view = volumes.open_snapshot(&name("v"), &name(which)).await?;
        assert!(!gone, "snapshot {which} was removed and is there");
        assert_eq!(view.size(), SIZE);
        let seen = tags(0, &view.read(SPAN.start, SPAN.end - SPAN.start).await?);
        self.note(|| format!("reads snapshot {which}"));
        self.site.model.lock().snapshot_seen(which, seen);
        Ok(())
    }
}

impl Owner {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
            || *self.user.site.over.lock()
            || self.user.site.is_era_over(&self.session)
    }

    fn failed(&self, what: &str, error: &Error) {
        self.user.note(|| format!("{what}: {:?} {error}", error.kind()));
        expected(&self.user.site, what, error);
        self.stop.store(true, Ordering::Relaxed);
        if self.user.site.plan.is_in_turn() {
            self.user.check_refusal(error);
            // One that goes unanswered was not done, and nothing that was is lost.
            let unanswered = error.is(Kind::Owned);
            self.user.site.ends_era(self.user.host, &self.session, !unanswered);
            if unanswered {
                return;
            }
        }
        self.erred.store(true, Ordering::Relaxed);
        if matches!(error.kind(), Kind::Fenced | Kind::Owned) {
            self.shut_out.store(true, Ordering::Relaxed);
        }
    }

    fn waits(&self, what: &str) -> Waiting {
        let (host, number) = (self.user.host, self.session.lock().number);
        self.user.site.waits(format!("{what} of host{host}, session {number}"))
    }

    async fn pause(&self, times: u64) {
        self.user.sleep(self.pause_ms * times).await;
    }

    fn begins(&self, lane: usize, sectors: Range<u64>, zero: bool) -> u32 {
        let mut model = self.user.site.model.lock();
        let tag = if zero { 0 } else { model.fresh_tag() };
        model.begin(&self.session, lane, sectors, tag);
        tag
    }

    /// Draws a write, or zeros, in a lane. Zeros are whole blocks or within one: anything else is several
    /// changes, not one.
    fn draw(&self, lane: usize) -> (Range<u64>, bool) {
        let rt = &self.user.rt;
        let Range { start, end } = LANES[lane].clone();
        let zero = rt.below(5) == 0;
        let most = [1, 8, 24, 60][rt.below(4) as usize];
        let len = 1 + rt.below(most);
        // Often in the blocks that two lanes share.
        let from = match rt.below(6) {
            0 => start,
            1 => end - len,
            _ => start + rt.below(end - start - len),
        };
        let within = (from + len).min((from / 8 + 1) * 8);
        let (first, last) = (from.next_multiple_of(8), (from + len) / 8 * 8);
        match zero {
            true if rt.below(2) == 0 => (from..within, true),
            true if first < last => (first..last, true),
            _ => (from..from + len, false),
        }
    }

    async fn write(self, lane: usize) {
        let rt = &self.user.rt;
        for _ in 0..OPERATIONS {
            self.pause(1).await;
            if self.stopped() {
                return;
            }
            let (sectors, zero) = self.draw(lane);
            let (offset, len) = (at(sectors.start), (sectors.end - sectors.start) * 512);
            let had = self.session.lock().of_others(self.user.host);
            let tag = self.begins(lane, sectors.clone(), zero);
            let _waits = self.waits("write");
            let done = match zero {
                true => self.volume.zero(offset, len).await,
                false => self.volume.write(offset, written(&sectors, tag)).await,
            };
            let done = match done {
                Ok(()) if self.user.site.plan.rotates => self.volume.keep().await,
                done => done,
            };
            match done {
                Ok(()) => {
                    self.user.site.model.lock().end(&self.session, lane, rt.now());
                    self.has_had(&had);
                }
                Err(e) => return self.failed("write", &e),
            }
        }
    }

    async fn flush(self) {
        let (site, host) = (&self.user.site, self.user.host);
        // Of a mirrored volume too: whoever takes it over, it is not lost.
        let pool = site.plan.flush != FlushMode::Local;
        while !self.stopped() {
            self.pause(3).await;
            let (upto, failures) = (self.flushes(), site.disk(host).sync_failures());
            let _waits = self.waits("flush");
            match self.volume.flush().await {
                Ok(()) => {
                    self.session.lock().promise(&upto, pool);
                    self.session.lock().promise_here(host, &upto);
                    let failed = site.disk(host).sync_failures() > failures;
                    site.mended(host).fetch_add(failed.into(), Ordering::Relaxed);
                    // Who is being shut out may still see its peer; who takes over has it all alone by then.
                    if !self.session.lock().is_disturbed() {
                        site.mirrors.look(&self.volumes);
                    }
                }
                Err(e) => return self.failed("flush", &e),
            }
        }
    }

    async fn read(self) {
        let rt = &self.user.rt;
        while !self.stopped() {
            self.pause(3).await;
            let last = (SPAN.end - SPAN.start) / 512;
            let first = rt.below(last);
            let len = (1 + rt.below(200)).min(last - first);
            let (least, had, safe) = {
                let session = self.session.lock();
                (session.ended(), session.of_others(self.user.host), session.pool.clone())
            };
            let _waits = self.waits("read");
            match self.volume.read(at(first), len * 512).await {
                Ok(data) => {
                    let session = self.session.lock();
                    // A host that has died since had acknowledged what nobody has any more.
                    let least = if session.is_shaken() { &safe } else { &least };
                    session.check_read(first, &tags(first, &data), least, &session.begun());
                    drop(session);
                    self.has_had(&had);
                }
                Err(e) => return self.failed("read", &e),
            }
        }
    }

    async fn snapshot(self, volumes: Volumes) {
        let rt = &self.user.rt;
        while !self.stopped() {
            self.pause(50).await;
            if self.user.site.is_era_over(&self.session) {
                return;
            }
            let which = format!("s{}", self.user.site.model.lock().fresh_tag());
            let waits = rt.below(3) > 0;
            self.user.site.model.lock().snapshot_begins(&which, &self.session);
            let _waits = self.waits("snapshot");
            match snapshot_group(&[(self.volume.clone(), name(&which))], waits).await {
                Ok(_) => self.user.site.model.lock().snapshot_made(&which, waits),
                Err(e) => return self.failed("snapshot", &e),
            }
            self.user.note(|| format!("made snapshot {which}, waited {waits}"));
            if rt.below(4) == 0
                && let Err(e) = self.user.remove_one(&volumes).await
            {
                // A command asks nobody for the volume: it is refused where another host has it, or is about to.
                if self.user.site.plan.is_in_turn() && matches!(e.kind(), Kind::Owned | Kind::Fenced) {
                    self.user.refused("removing a snapshot", &e);
                    continue;
                }
                return self.failed("removing a snapshot", &e);
            }
            if rt.below(2) == 0 && !self.user.site.model.lock().snapshot_gone(&which) {
                match self.user.read_snapshot(&volumes, &which).await {
                    Ok(()) => {}
                    Err(e) => return self.failed("reading a snapshot", &e),
                }
            }
        }
    }

    async fn rotate(self) {
        while !self.stopped() {
            self.pause(20).await;
            let _waits = self.waits("rotation");
            match self.volumes.rotate_keys(&name("v"), None).await {
                Ok(number) => self.user.note(|| format!("data key {number}")),
                // Older ones are on their way out yet.
                Err(e) if e.is(Kind::Refused) => {}
                Err(e) => return self.failed("rotation", &e),
            }
        }
    }

    /// Returns the operations that a flush promises: where hosts have the volume in turn, those of this host
    /// alone.
    fn flushes(&self) -> Cut {
        let session = self.session.lock();
        if self.user.site.plan.is_in_turn() { session.of_host(self.user.host) } else { session.ended() }
    }

    /// Promises what others had acknowledged: it is in the pool, now that this host has had the volume. That
    /// does not hold where one of them died before it let go of the volume.
    fn has_had(&self, of_others: &Cut) {
        if self.user.site.plan.is_in_turn() {
            let mut session = self.session.lock();
            session.host = self.user.site.key(self.user.host);
            if !session.is_shaken() {
                session.promise(of_others, true);
            }
        }
    }

    /// Keeps the volume attached; at times it lets go of it unasked.
    async fn goes_on_in_turn(&self) -> After {
        if self.user.rt.below(4) > 0 {
            return After::Goes((self.volume.clone(), self.session.clone()));
        }
        let (upto, _waits) = (self.flushes(), self.waits("release"));
        match self.volume.release().await {
            Ok(()) => {
                self.user.note(|| "released".to_owned());
                self.session.lock().promise(&upto, true);
                After::Over
            }
            Err(e) => {
                self.failed("release", &e);
                if e.is(Kind::Fenced) { After::ShutOut(self.volume.clone()) } else { After::Unclear }
            }
        }
    }

    async fn release(&self) -> After {
        let _waits = self.waits("release");
        match self.volume.release().await {
            Ok(()) => {
                self.user.note(|| "released".to_owned());
                self.user.site.model.lock().released(&self.session);
                After::Over
            }
            Err(e) => {
                self.failed("release", &e);
                After::Unclear
            }
        }
    }
}
