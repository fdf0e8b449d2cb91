//! Hosts that have a volume attached and use it in turn, asking each other for it (model `handover`).
//!
//! They work in *eras*. In an era nothing may be lost, so that all that is read is judged by all that was acknowledged,
//! wherever. A host that dies ends the era: what others have under way comes to its end, on whatever is left. When nobody
//! works any more one host looks at all, and the next era begins with what it has seen.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use windlass_base::Kind;
use windlass_base::rt::Instant;
use windlass_pool::Need;
use windlass_volume::{OpenMode, Volume, Volumes};

use super::model::{Coming, Session, tags, written};
use super::name;
use super::site::{Hazard, Site};
use super::user::{After, LOOK_MAX, Look, PATIENCE, TAIL_SLACK_MS, User, look};

/// Time in ms within which an owner that is asked answers, or the request fails.
const UNANSWERED_MS: u64 = 30_000;

/// The present era of a run; see the module.
#[derive(Default)]
pub struct Era {
    number: u64,
    /// The session that its hosts work on; none before the first era, and when it is over.
    session: Option<Arc<Mutex<Session>>>,
    /// Hosts whose users have something under way.
    busy: BTreeSet<usize>,
    /// Somebody has tried to take the volume by force.
    forced: bool,
    /// Time when a host last had trouble.
    trouble: Option<Instant>,
}

impl Site {
    /// Notes that a host's process has ended, which ends the era.
    pub fn leaves(&self, host: usize, now: Instant) {
        self.model.lock().crashed(host, now);
        let mut era = self.era.lock();
        era.busy.remove(&host);
        (era.session, era.trouble) = (None, era.trouble.max(Some(now)));
    }

    /// Notes that a host may not answer until then.
    pub fn troubled_until(&self, then: Instant) {
        let mut era = self.era.lock();
        era.trouble = era.trouble.max(Some(then));
    }

    /// Ends the era, since an operation of this host has failed: it works no more on what it had. `lossy`:
    /// what it acknowledged may be gone.
    pub fn ends_era(&self, host: usize, session: &Arc<Mutex<Session>>, lossy: bool) {
        if !self.is_era_over(session) {
            self.era.lock().session = None;
        }
        if lossy {
            self.model.lock().crashed(host, self.world.now());
        }
    }

    pub fn is_era_over(&self, session: &Arc<Mutex<Session>>) -> bool {
        self.plan.is_in_turn()
            && !self.era.lock().session.as_ref().is_some_and(|current| Arc::ptr_eq(current, session))
    }
}

impl User {
    /// Works on the volume in turn with others until the process is killed.
    pub async fn live_in_turn(self, volumes: Volumes) {
        let (mut shut_out, mut attached) = (Vec::new(), None);
        let attaches = self.rt.below(3) > 0;
        loop {
            // Attached, it answers who asks: also while another host looks, and at the end.
            match volumes.open(&name("v"), OpenMode::Attach).await {
                Ok(volume) if attaches => attached = Some(volume.attach()),
                Ok(_) => {}
                Err(e) => {
                    self.refused("attaching", &e);
                    self.sleep(1_000).await;
                    continue;
                }
            }
            if *self.site.over.lock() {
                return std::future::pending().await;
            }
            let (volume, session) = match self.join(&volumes).await {
                Look::Owner(owned) => owned,
                Look::Refused => {
                    self.sleep(1_000).await;
                    continue;
                }
                Look::Unclear => return self.give_up().await,
            };
            let after = self.work(&volumes, volume, session).await;
            self.site.era.lock().busy.remove(&self.host);
            match after {
                After::Goes(_) | After::Over => {}
                After::ShutOut(volume) => shut_out.push(volume),
                After::Unclear => {
                    // Whether the last operation was done, and when, is clear only when its process has ended.
                    self.site.era.lock().busy.insert(self.host);
                    return self.give_up().await;
                }
            }
            self.ask_in_vain(&shut_out).await;
            self.look_at_a_snapshot(&volumes).await;
            if self.rt.below(6) == 0 {
                self.clone_one(&volumes).await;
            }
            self.sleep(1_000).await;
            drop(attached.take_if(|_| self.rt.below(4) == 0));
        }
    }

    /// Joins those who work on the volume; the first of them looks at it.
    async fn join(&self, volumes: &Volumes) -> Look {
        let _turn = self.site.opening.lock().await;
        let lacks = || volumes.engine().pool.condition().lacks(Need::Decide);
        let (began, away) = (self.rt.now(), lacks());
        // One that was shut out, and has not noticed, is told so here, but for an outage.
        let volume = match volumes.open(&name("v"), OpenMode::Attach).await {
            Ok(volume) => volume,
            Err(e) => {
                self.refused("attaching", &e);
                return Look::Refused;
            }
        };
        if away || lacks() || self.rt.now().since(began) >= LOOK_MAX {
            return Look::Refused;
        }
        {
            let mut era = self.site.era.lock();
            if let Some(session) = era.session.clone() {
                era.busy.insert(self.host);
                return Look::Owner((volume, session));
            }
            if !era.busy.is_empty() {
                return Look::Refused;
            }
        }
        let found = self.begin_era(volumes, volume).await;
        if let Look::Owner((_, session)) = &found {
            let mut era = self.site.era.lock();
            (era.number, era.trouble) = (era.number + 1, Some(self.rt.now()));
            era.session = Some(session.clone());
            era.busy.insert(self.host);
            self.note(|| format!("era {} begins", era.number));
        }
        found
    }

    /// Writes the volume's first block, for which its owner is asked, or shut out, and looks at all.
    async fn begin_era(&self, volumes: &Volumes, mut volume: Arc<Volume>) -> Look {
        let (site, world) = (&self.site, &self.site.world);
        let mut force = world.per_mille(site.plan.force / 8);
        loop {
            if force {
                self.note(|| "takes over".to_owned());
                self.takes();
                volume = match volumes.open(&name("v"), OpenMode::TakeOver { accept_loss: false }).await {
                    Ok(volume) => volume,
                    Err(e) => {
                        self.refused("taking over", &e);
                        return Look::Refused;
                    }
                };
            }
            let tag = site.model.lock().fresh_tag();
            let hello = volume.write(0, written(&(0..8), tag));
            let all = async {
                hello.await?;
                let own = volume.read(0, 4096).await?;
                assert_eq!(tags(0, &own), [tag; 8], "the host's own write");
                look(&volume).await
            };
            match self.rt.timeout(PATIENCE, all).await {
                Some(Ok(seen)) => return Look::Owner((volume, self.observed(seen))),
                Some(Err(e)) => {
                    self.check_refusal(&e);
                    self.refused("first look", &e);
                    match e.kind() {
                        Kind::Owned if !force && world.per_mille(500.max(site.plan.force)) => force = true,
                        Kind::Owned | Kind::Fenced => return Look::Refused,
                        _ => return Look::Unclear,
                    }
                }
                None => return Look::Unclear,
            }
        }
    }

    fn observed(&self, seen: Vec<u32>) -> Arc<Mutex<Session>> {
        let plan = &self.site.plan;
        let tail_ms = (plan.hazard == Hazard::Calm).then_some(plan.max_tail_ms + TAIL_SLACK_MS);
        let (host, at, now) = (self.site.key(self.host), self.host, self.rt.now());
        let coming = Coming { host, at, force: false, tail_ms, guess: false, now };
        self.site.model.lock().observe(seen, coming)
    }

    /// Begins to take the volume by force: from here on others may lose what was not promised, whatever comes
    /// of it.
    pub fn takes(&self) {
        self.site.era.lock().forced = true;
        self.site.model.lock().current().lock().taken_by(self.host, self.rt.now());
    }

    /// Checks an error: a host is failed only where another has used force, and goes unanswered only where
    /// something is wrong.
    pub fn check_refusal(&self, error: &windlass_base::Error) {
        if !self.site.plan.is_in_turn() {
            return;
        }
        let era = self.site.era.lock();
        assert!(era.forced || !error.is(Kind::Fenced), "nobody has used force, and yet: {error}");
        let since = era.trouble.map_or(u64::MAX, |at| self.rt.now().since(at).as_millis() as u64);
        let is_calm = self.site.plan.hazard == Hazard::Calm && since > UNANSWERED_MS + 5_000;
        assert!(!is_calm || !error.is(Kind::Owned), "all hosts are well, and yet: {error}");
    }
}
