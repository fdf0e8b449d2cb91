//! Those who use the pool and know nothing of what administrators do: a volume's owner, and clients of a register.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, RegisterId, Result};
use windlass_pool::{Change, Pool, Register};
use windlass_volume::{OpenMode, Volume, Volumes, snapshot_group};

use super::site::{CLIENTS, OWNER, SECTORS, Side, Site, at, name};
use crate::register::{decode, encode};
use crate::volume::model::{Coming, Session, Tags, tags, written};

/// The register that clients change.
const SHARED: RegisterId = RegisterId(77);
/// Time for which a client tries one operation.
const PATIENCE: Duration = Duration::from_secs(10);

/// Checks that an error may come of what the run does.
pub fn expected(what: &str, error: &Error) {
    let fine = matches!(
        error.kind(),
        Kind::Fenced
            | Kind::Owned
            | Kind::Unavailable
            | Kind::Timeout
            | Kind::Refused
            | Kind::Closed
            | Kind::NotFound
    );
    assert!(fine, "{what}: {:?}: {error}", error.kind());
}

/// Pauses a user: short at first, when things go wrong, and ever longer later, when it need only go on.
async fn pause(rt: &Rt, n: u64) {
    rt.sleep(Duration::from_millis(rt.below((40 + 3 * n * n).min(20_000)))).await;
}

/// Reads everything that the model knows of.
pub async fn look(volume: &Volume) -> Result<Tags> {
    Ok(tags(0, &volume.read(at(0), SECTORS * 512).await?))
}

/// Writes the block that makes the host the owner, looks at everything, and tells the model.
pub async fn begin(site: &Site, rt: &Rt, volume: &Volume, host: usize) -> Result<Arc<Mutex<Session>>> {
    let tag = site.model.lock().fresh_tag();
    volume.write(0, written(&(0..8), tag)).await?;
    let seen = look(volume).await?;
    let force = host != OWNER;
    let coming = Coming { host, at: host, force, tail_ms: None, guess: false, now: rt.now() };
    Ok(site.model.lock().observe(seen, coming))
}

/// The volume's first owner.
pub struct Owner {
    pub site: Arc<Site>,
    pub rt: Rt,
    pub volumes: Volumes,
    /// Number of guesses when the last write began. A flush without a write since the last guess may rest on
    /// what was promised before.
    pub anew: AtomicU64,
}

impl Owner {
    /// Writes until it is shut out.
    pub async fn live(self) {
        let Owner { site, rt, volumes, .. } = &self;
        let opened = async {
            let volume = volumes.open(&name("v"), OpenMode::Normal).await?;
            let session = begin(site, rt, &volume, OWNER).await?;
            Ok::<_, Error>((volume, session))
        };
        // An outage may come before it has begun.
        let (volume, session) = match opened.await {
            Ok(owned) => owned,
            Err(e) => return self.ends(&e),
        };
        for n in 0.. {
            pause(rt, n).await;
            if site.hush.load(Ordering::Relaxed) {
                continue;
            }
            let done = match rt.below(12) {
                0..=6 => self.write(&volume, &session).await,
                11 => self.snapshot(&volume, &session).await,
                _ => self.flush(&volume, &session).await,
            };
            site.saw(&volumes.engine().pool);
            if let Err(e) = done {
                return self.ends(&e);
            }
        }
    }

    fn ends(&self, error: &Error) {
        self.site.note(|| format!("the owner ends: {:?} {error}", error.kind()));
        expected("owner", error);
        self.site.shut_out.store(true, Ordering::Relaxed);
    }

    async fn write(&self, volume: &Volume, session: &Mutex<Session>) -> Result<()> {
        let (model, rt) = (&self.site.model, &self.rt);
        let from = rt.below(SECTORS - 1);
        let sectors = from..(from + 1 + rt.below(30)).min(SECTORS);
        let tag = model.lock().fresh_tag();
        model.lock().begin(session, 0, sectors.clone(), tag);
        let guesses = self.volumes.engine().pool.guesses();
        volume.write(at(sectors.start), written(&sectors, tag)).await?;
        model.lock().end(session, 0, rt.now());
        self.anew.store(guesses, Ordering::Relaxed);
        Ok(())
    }

    async fn flush(&self, volume: &Volume, session: &Arc<Mutex<Session>>) -> Result<()> {
        let upto = session.lock().ended();
        let guesses = self.volumes.engine().pool.guesses();
        let anew = self.anew.load(Ordering::Relaxed) == guesses;
        volume.flush().await?;
        if anew && self.site.bears(&self.volumes.engine().pool) {
            self.site.note(|| format!("the owner has flushed {upto:?}"));
            let session = session.clone();
            self.site.promised(guesses, move || session.lock().promise(&upto, true));
        }
        Ok(())
    }

    async fn snapshot(&self, volume: &Arc<Volume>, session: &Arc<Mutex<Session>>) -> Result<()> {
        let which = format!("s{}", self.site.model.lock().fresh_tag());
        self.site.model.lock().snapshot_begins(&which, session);
        let guesses = self.volumes.engine().pool.guesses();
        snapshot_group(&[(volume.clone(), name(&which))], true).await?;
        let bears = self.site.bears(&self.volumes.engine().pool);
        self.site.note(|| format!("the owner has made {which}, promised: {bears}"));
        let site = self.site.clone();
        self.site.promised(guesses, move || site.model.lock().snapshot_made(&which, bears));
        Ok(())
    }
}

/// A client of the register.
#[derive(Clone)]
pub struct Client {
    pub site: Arc<Site>,
    pub rt: Rt,
    pub pool: Arc<Pool>,
    register: Register,
}

impl Client {
    pub async fn open(site: &Arc<Site>, rt: &Rt, at: usize, side: Side) -> Result<Client> {
        let volumes = site.open(rt, CLIENTS[at], side).await?;
        let pool = volumes.engine().pool.clone();
        Ok(Client { site: site.clone(), rt: rt.clone(), register: pool.register(SHARED), pool })
    }

    /// Works on the register until the process is killed.
    pub async fn live(self) {
        for n in 0.. {
            pause(&self.rt, n).await;
            let done = match self.rt.below(3) {
                0 => self.read().await,
                _ => self.append().await,
            };
            self.site.saw(&self.pool);
            if let Err(e) = done {
                expected("client", &e);
            }
        }
    }

    fn ended(&self, op: usize, guesses: u64, value: Tags) {
        let at = self.site.history.lock().now();
        let site = self.site.clone();
        self.site.promised(guesses, move || site.history.lock().end_at(op, at, value));
    }

    async fn read(&self) -> Result<()> {
        let (op, guesses) = (self.site.history.lock().begin(None), self.pool.guesses());
        let value = self.register.with_deadline(PATIENCE).confirm().await?;
        self.ended(op, guesses, decode(value.as_ref()));
        Ok(())
    }

    pub async fn append(&self) -> Result<()> {
        let tag = self.site.model.lock().fresh_tag();
        let (op, guesses) = (self.site.history.lock().begin(Some(tag)), self.pool.guesses());
        let change = |current: Option<&bytes::Bytes>| {
            let mut all = decode(current);
            if all.contains(&tag) {
                return Ok(Change::Keep(all));
            }
            all.push(tag);
            Ok(Change::Put(encode(&all), all))
        };
        let value = self.register.with_deadline(PATIENCE).change(change).await?;
        self.ended(op, guesses, value);
        Ok(())
    }
}
