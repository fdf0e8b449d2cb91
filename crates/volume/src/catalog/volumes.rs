//! A pool's volumes, by name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::{BoxFuture, join_all};
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;

use super::space::{LogEnd, Tally};
use crate::handle::{Claiming, Known, Shown, Volume, keep_notes, keep_notes_no_more, lineage};
use crate::head::{HandoverPolicy, Stop, VolumeSettings};
use crate::head::{Head, HeadRegister, Naming};
use crate::read::{EngineContext, VolumeContext, passes};
use crate::session::Session;
use crate::session::store_upto;
use crate::space::{Liveness, Tables, name_of_sealed};
use windlass_base::rt::Instant;
use windlass_base::units::show_bytes;
use windlass_base::{Epoch, Error, Kind, Name, Nonce, PoolId, Result, ResultExt as _, StateId, VolumeId};
use windlass_pool::{Catalog, NameEntry, Need};

/// Time for which the stores are asked about a volume that is open here: what it is, and whether it is still ours.
const LOOK_MAX: Duration = Duration::from_secs(3);

/// Times within `LOOK_MAX` at which the stores are asked whether a volume is still ours, until an answer comes.
const LOOKS: [Duration; 3] = [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(2)];

/// Pause after a volume was opened of whose head some stores had an older copy. Then it is looked for what these stores lack.
const LOOK_AT_OLDER: Duration = Duration::from_secs(15);

/// Time for which opening a volume that nobody owns waits for stores: whoever opens it learns why not, and may ask again.
const OPENING: Duration = Duration::from_secs(4);

/// Way in which a volume is opened for writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OpenMode {
    /// A released volume opens inertly and is claimed by its first write; one that this state folder owns is claimed
    /// at once; one that another owns is refused (`Kind::Owned`).
    #[default]
    Normal,
    /// The volume is opened for a client: where it may be handed over, it stays its owner's until the client uses it.
    Attach,
    /// The volume is opened also when another host owns it. `accept_loss`: also when it cannot be told what was acknowledged.
    TakeOver { accept_loss: bool },
}

/// A snapshot's volume as it was when it was looked at last. A pin counts by the look after it, so this may be old.
#[derive(Clone, Debug)]
pub struct Template {
    pub parent: VolumeId,
    pub cell: HeadRegister,
    /// The serial of the name that it was found by, and what the head said of the volume's name then.
    pub named: (u64, Naming),
    pub seen: Arc<(Head, Tables)>,
}

/// Place of one volume in this engine: the open volume, if any, and the turn to open it.
#[derive(Debug, Default)]
pub(in crate::catalog) struct Seat {
    /// Lock of whoever opens the volume: one opening at a time.
    pub(in crate::catalog) turn: tokio::sync::Mutex<()>,
    pub(in crate::catalog) volume: Mutex<Option<Arc<Volume>>>,
}

/// All volumes of one pool in one engine; one `Volume` a volume, shared by its sessions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Volumes {
    pub(crate) engine: Arc<EngineContext>,
    seats: Arc<Mutex<BTreeMap<VolumeId, Arc<Seat>>>>,
    /// Liveness of chunks as it was told a moment ago, and when, by volume.
    pub(crate) logbooks: Arc<Mutex<BTreeMap<VolumeId, (Instant, Liveness)>>>,
    /// Volumes whose tables could not be read when a scrub asked for them last, when that was, and why.
    pub(crate) unread: Arc<Mutex<BTreeMap<VolumeId, (Instant, String)>>>,
    /// Ends of the logs of volumes that others have written, as found when a scrub looked last.
    pub(super) log_ends: Arc<Mutex<BTreeMap<VolumeId, LogEnd>>>,
    /// Groups of snapshots whose members are known to be stored, all of them.
    pub(crate) whole: Arc<Mutex<BTreeSet<Nonce>>>,
    pub(crate) pins: Arc<Mutex<BTreeMap<(VolumeId, StateId), Catalog>>>,
    pub(super) tally: Arc<Tally>,
    /// Snapshots that were cloned a moment ago, by volume and name.
    pub(crate) templates: Arc<Mutex<BTreeMap<(Name, Name), Template>>>,
}

impl Volumes {
    pub fn new(engine: EngineContext) -> Volumes {
        let engine = Arc::new(engine);
        let check = Arc::downgrade(&engine);
        engine.pool.check_deletions_by(check);
        let caches = Arc::downgrade(&engine);
        engine.pool.empties(caches);
        Volumes {
            engine,
            seats: Arc::default(),
            logbooks: Arc::default(),
            unread: Arc::default(),
            log_ends: Arc::default(),
            whole: Arc::default(),
            pins: Arc::default(),
            tally: Arc::default(),
            templates: Arc::default(),
        }
    }

    pub fn engine(&self) -> &EngineContext {
        &self.engine
    }

    pub fn shared_engine(&self) -> Arc<EngineContext> {
        self.engine.clone()
    }

    pub(in crate::catalog) fn seat(&self, id: VolumeId) -> Arc<Seat> {
        self.seats.lock().entry(id).or_default().clone()
    }

    /// Returns the volume, if it is open in this engine.
    pub(crate) fn here(&self, id: VolumeId) -> Option<Arc<Volume>> {
        let seat = self.seats.lock().get(&id).cloned()?;
        seat.volume.lock().clone()
    }

    /// Returns all volumes that are open in this engine, in no order that means anything.
    pub(crate) fn open_now(&self) -> Vec<Arc<Volume>> {
        let seats: Vec<_> = self.seats.lock().values().cloned().collect();
        seats.iter().filter_map(|s| s.volume.lock().clone()).collect()
    }

    /// Returns `POOL/VOLUME` of each volume that is open in this engine and whose key only this process has, since a user has
    /// given it.
    pub fn opened_by_given_keys(&self) -> Vec<String> {
        let engine = &self.engine;
        let titles = self.open_now().into_iter().filter(|volume| engine.keys.get(volume.id()).is_some());
        let titles = titles.map(|volume| volume.title());
        titles.filter(|title| !engine.keys.source().is_some_and(|source| source.has(title))).collect()
    }

    /// Returns the volume of this name, if it is open in this engine.
    pub fn open_here(&self, name: &Name) -> Option<Arc<Volume>> {
        self.open_now().into_iter().find(|volume| volume.name() == *name)
    }

    /// Returns the volume of this name that this engine writes, as far as it knows.
    pub fn owned_here(&self, name: &Name) -> Option<Arc<Volume>> {
        let live = |v: &Arc<Volume>| v.name() == *name && matches!(v.known(), Known::Live(_));
        self.open_now().into_iter().find(live)
    }

    /// Follows a volume that has another name now: what this engine has by the names concerned is looked up anew.
    pub(crate) fn renamed(&self, head: &Head, names: [&Name; 2]) {
        self.templates.lock().retain(|(volume, _), _| !names.contains(&volume));
        self.tally.named(head.volume, names[1]);
        if let Some(open) = self.here(head.volume) {
            open.follow_name(head);
        }
    }

    pub(crate) fn forget(&self, id: VolumeId) {
        self.seats.lock().remove(&id);
    }

    pub(crate) async fn id(&self, name: &Name) -> Result<VolumeId> {
        Ok(self.entry(name).await?.volume)
    }

    /// Returns the volume that the name leads to now, if it does to one.
    pub fn key_of<'f>(&'f self, name: &'f Name) -> BoxFuture<'f, Result<Option<(PoolId, VolumeId)>>> {
        Box::pin(async move {
            let entry = self.engine.pool.name_entry(name).await?;
            Ok(entry.map(|entry| (self.engine.pool.id(), entry.volume)))
        })
    }

    /// Returns the directory's entry for the name. `NotFound`: it has none.
    pub(crate) async fn entry(&self, name: &Name) -> Result<NameEntry> {
        match self.engine.pool.name_entry(name).await? {
            Some(entry) => Ok(entry),
            None => {
                Err(Error::new(Kind::NotFound, format!("there is no volume {}", self.engine.title(name))))
            }
        }
    }

    /// Checks that the name leads to the volume that was meant. `Owned`: it leads to another one, since another host has just
    /// given it to that one.
    pub(crate) fn check_this(&self, name: &Name, id: VolumeId, this: Option<VolumeId>) -> Result<()> {
        if this.is_none_or(|this| this == id) {
            return Ok(());
        }
        let why = format!(
            "{} is another volume by now, as somebody has renamed both: try again",
            self.engine.title(name)
        );
        Err(Error::new(Kind::Owned, why))
    }

    /// Returns what `id` does; when the stores don't answer, the id of the volume that is open here under this name. A session
    /// that isn't the owner any more finds that out by itself.
    pub(crate) async fn id_in_an_outage(&self, name: &Name) -> Result<VolumeId> {
        let Some(here) = self.owned_here(name) else { return self.id(name).await };
        match self.unless_away(self.id(name)).await {
            Some(Err(e)) if !passes(&e) => Err(e),
            Some(Ok(id)) => Ok(id),
            None | Some(Err(_)) => Ok(here.id()),
        }
    }

    /// Waits for `work` where the caller can do without an answer: `None` when too few stores answer, at once when that is
    /// known.
    pub(crate) async fn unless_away<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        if self.engine.pool.condition().lacks(Need::Decide) {
            return None;
        }
        self.engine.rt.timeout(LOOK_MAX, work).await
    }

    /// Reads the head of a volume that exists.
    pub(crate) async fn head(&self, name: &Name, id: VolumeId) -> Result<Head> {
        self.existing(name, self.engine.cell_above(name, id).await.read().await?)
    }

    /// Returns the head of a volume that exists. `NotFound`: there is no volume of this name any more, or it went on in another
    /// pool.
    pub(crate) fn existing(&self, name: &Name, head: Option<Head>) -> Result<Head> {
        let head = self.existing_or_moved(name, head)?;
        match head.moved.as_ref().filter(|_| name.trashed().is_none()) {
            Some(moved) => {
                let why = moved.refusal().context(format!("volume {}", self.engine.title(name)));
                Err(Error::new(Kind::NotFound, why.to_string()))
            }
            None => Ok(head),
        }
    }

    /// Returns the head of a volume that went on in another pool. `NotFound`: it did not, or is gone.
    pub(crate) fn existing_moved(&self, name: &Name, head: Option<Head>) -> Result<Head> {
        let head = self.existing_or_moved(name, head)?;
        match head.moved {
            Some(_) => Ok(head),
            None => {
                let why = format!("volume {} is another one by now", self.engine.title(name));
                Err(Error::new(Kind::NotFound, why))
            }
        }
    }

    fn existing_or_moved(&self, name: &Name, head: Option<Head>) -> Result<Head> {
        match head {
            Some(head) if head.removed => {
                Err(Error::new(Kind::NotFound, format!("volume {} was removed", self.engine.title(name))))
            }
            Some(head) if head.naming.in_trash() && head.moved.is_none() && name.trashed().is_none() => {
                let title = self.engine.title(name);
                let why = format!(
                    "volume {title} is in the trash: `windlass volume restore {title}` brings it back"
                );
                Err(Error::new(Kind::NotFound, why))
            }
            Some(head) => Ok(head),
            None => Err(Error::new(
                Kind::NotFound,
                format!(
                    "volume {} is not there: it is being created, or its creation was broken off",
                    self.engine.title(name)
                ),
            )),
        }
    }

    /// Opens a volume: returns the one `Volume` of this engine. A session that failed before is replaced by a new one.
    pub fn open<'f>(&'f self, name: &'f Name, mode: OpenMode) -> BoxFuture<'f, Result<Arc<Volume>>> {
        Box::pin(async move {
            let id = self.id_in_an_outage(name).await?;
            self.open_as(name, id, mode, None).await
        })
    }

    /// Opens the volume for a client of another process of this host, as that process told it (`Volume::held`), whatever it is
    /// called by now.
    ///
    /// # Errors
    /// `Fenced`: others have had it since. `NotFound`: it is gone.
    pub fn open_again<'f>(
        &'f self,
        id: VolumeId,
        called: &'f Name,
        held: Option<&'f [Epoch]>,
    ) -> BoxFuture<'f, Result<Arc<Volume>>> {
        Box::pin(async move {
            let name = self.name_now(id, called).await?;
            self.open_as(&name, id, OpenMode::Attach, held).await
        })
    }

    /// Returns the name by now of a volume that was called `called` a moment ago.
    ///
    /// # Errors
    /// `NotFound`: it is gone.
    pub fn name_now<'f>(&'f self, id: VolumeId, called: &'f Name) -> BoxFuture<'f, Result<Name>> {
        Box::pin(async move {
            let head = self.head(called, id).await?;
            Ok(head.naming.name.unwrap_or_else(|| called.clone()))
        })
    }

    /// Opens the volume of this id. `held`: who is to use it goes on from one of these ownerships.
    async fn open_as(
        &self,
        name: &Name,
        id: VolumeId,
        mode: OpenMode,
        held: Option<&[Epoch]>,
    ) -> Result<Arc<Volume>> {
        let seat = self.seat(id);
        let _turn = seat.turn.lock().await;
        let open = seat.volume.lock().clone();
        if let Some(Known::Live(session)) = open.as_ref().map(|v| v.known()) {
            // Who was shut out and hasn't noticed must not show new clients an old state; an outage must not stop them.
            let confirmed = self.engine.rt.timeout(LOOK_MAX, self.confirmed(&session)).await.flatten();
            if let Some(Err(Stop::Failed(older))) = &confirmed
                && older.is(Kind::Refused)
            {
                return Err(older.share());
            }
            if confirmed.is_none() && matches!(mode, OpenMode::TakeOver { .. }) {
                let why = format!(
                    "too few stores answer to tell whether volume {} is still this host's: try again",
                    self.engine.title(name)
                );
                return Err(Error::new(Kind::Unavailable, why));
            }
        }
        let current = match &open {
            Some(volume) => self.is_current(name, volume).await?,
            None => false,
        };
        let volume = match open.filter(|v| !v.is_failed()) {
            Some(volume) if current => volume,
            // Others have written since: sessions that read the older state keep theirs, new ones see the new one.
            Some(older) => {
                older.let_go().await;
                Arc::new(Box::pin(self.begin(name, id, held)).await?)
            }
            None => {
                // The old one's tasks must be over before its journal is opened again.
                let before = seat.volume.lock().take();
                if let Some(before) = before {
                    before.let_go().await;
                }
                Arc::new(Box::pin(self.begin(name, id, held)).await?)
            }
        };
        if held.is_some_and(|held| !volume.goes_on_from(held)) {
            let why = "others have had it since it was opened, or what was opened is over: connect again";
            return Err(Error::new(Kind::Fenced, why).context(format!("volume {}", self.engine.title(name))));
        }
        // In its seat before it becomes the owner, which goes on when nobody waits for it any more: what comes of it must be
        // found by who opens the volume next.
        let before = seat.volume.lock().replace(volume.clone());
        let owned = match (volume.known(), mode) {
            (Known::Nothing, OpenMode::Attach) if volume.stands_by() => Ok(()),
            (Known::Live(_) | Known::Inert(_), _) => Ok(()),
            (_, OpenMode::Normal | OpenMode::Attach) => volume.own(Claiming::ByRight).await,
            (_, OpenMode::TakeOver { accept_loss }) => volume.own(Claiming::ByForce { accept_loss }).await,
        };
        match owned {
            Ok(()) if mode == OpenMode::Attach => volume.check_whole().await.map(|_| volume),
            Ok(()) => Ok(volume),
            // It alone knows which of its claims may have been recorded: who holds what was shown before them asks again.
            Err(error) if held.is_some() && error.is_transient() => Err(error),
            Err(error) => {
                *seat.volume.lock() = before;
                Err(error)
            }
        }
    }

    /// Tells whether the session is still the owner, as the stores say now: a store that was away a moment ago may be back.
    /// `None`: too few answer.
    async fn confirmed(&self, session: &Arc<Session>) -> Option<Result<(), Stop>> {
        let pool = &self.engine.pool;
        if pool.condition().lacks(Need::Decide) && !pool.is_there(Need::Decide).await {
            return None;
        }
        // One request whose answer is lost must not decide what a new client is shown.
        let look = |delay| async move {
            self.engine.rt.sleep(delay).await;
            session.is_owner().await
        };
        let mut looks: FuturesUnordered<_> = LOOKS.into_iter().map(look).collect();
        while let Some(found) = looks.next().await {
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Tells whether an open volume may be shown to new clients. An inert volume must show what is still the newest. What a
    /// volume that is to be claimed again has shown must be in force. A volume that stands by is what it was as long as it may
    /// be handed over.
    async fn is_current(&self, name: &Name, volume: &Volume) -> Result<bool> {
        if volume.stands_by() {
            return Ok(self.head(name, volume.id()).await?.settings.handover == HandoverPolicy::Ask);
        }
        loop {
            let inert = match volume.known() {
                Known::Inert(inert) => inert,
                Known::Ended(shown) => return Ok(shown.check(&self.head(name, volume.id()).await?).is_ok()),
                Known::Live(_) | Known::Nothing => return Ok(true),
            };
            let head = self.head(name, volume.id()).await?;
            if inert.shown.is_newest(&head) {
                return Ok(true);
            }
            // Its own first write may have claimed it, and not be ready. That is waited for only when the stores have just
            // answered: in an outage many attempts to claim stand in a row.
            match volume.settled().await {
                Known::Inert(same) if Arc::ptr_eq(&same, &inert) => return Ok(inert.shown.is_newest(&head)),
                _ => {}
            }
        }
    }

    /// Checks that those who were shown the volume go on with what it is now. An ownership that they were not told of may be
    /// this host's own (a lost answer, a daemon that ended): nothing was missed where the lineage of one journal has both.
    async fn check_shown(&self, name: &Name, shown: &Shown, head: &Head) -> Result<()> {
        let Err(changed) = shown.check(head) else { return Ok(()) };
        let cell = self.engine.cell(head.volume);
        let context = VolumeContext::new(self.engine.clone(), name.clone(), head, cell);
        let (lineage, active) = (lineage(&context).await?, head.active.epoch);
        if head.active.released
            || !lineage.contains(&active)
            || !shown.all().iter().any(|epoch| lineage.contains(epoch))
        {
            return Err(changed);
        }
        shown.try_next(Some(active));
        Ok(())
    }

    async fn begin(&self, name: &Name, id: VolumeId, held: Option<&[Epoch]>) -> Result<Volume> {
        let shown = held.and_then(Shown::told);
        let cell = self.engine.cell_above(name, id).await;
        let title = self.engine.title(name);
        let (read, compared) = futures::join!(cell.read(), cell.compare(&self.engine.rt, &title));
        let head = self.existing(name, read?)?;
        // Before anything is shown or written: what most stores agree on may be what a backup had.
        if compared? {
            self.look_at_older_in_time();
        }
        if let Some(shown) = &shown {
            self.check_shown(name, shown, &head).await.context(|| format!("volume {title}"))?;
        }
        self.engine.check_open(name, &head).await?;
        // What this host has not let go of may have a journal yet: it becomes the owner at once.
        let is_mine = !head.active.released && self.engine.host_owns(&head);
        if head.settings.handover == HandoverPolicy::Ask && !is_mine {
            // Not inert where it is released: what it shows would be another's to change before anybody here wrote to it.
            let context = VolumeContext::new(self.engine.clone(), name.clone(), &head, cell);
            return Ok(Volume::standby(context, shown));
        }
        if !head.active.released {
            let context = VolumeContext::new(self.engine.clone(), name.clone(), &head, cell);
            return Ok(Volume::unowned(context, shown));
        }
        let Some(recorded) = self.engine.rt.timeout(OPENING, self.recorded(name, id)).await else {
            return Err(Error::new(
                Kind::Unavailable,
                format!(
                    "too few stores answer to read what volume {name} holds: `windlass pool status` names them"
                ),
            ));
        };
        let (head, tables) = recorded?;
        let head = cell.check(head).await?;
        self.engine.check_open(name, &head).await?;
        let context = VolumeContext::new(self.engine.clone(), name.clone(), &head, cell);
        Ok(if head.active.released {
            Volume::inert(context, &head, tables)
        } else {
            Volume::unowned(context, shown)
        })
    }

    /// Starts a task that looks for what stores lack that were away or put back, a while after the first volume shows it.
    fn look_at_older_in_time(&self) {
        let (volumes, rt) = (self.clone(), self.engine.rt.clone());
        let task = rt.clone();
        task.spawn(async move {
            rt.sleep(LOOK_AT_OLDER).await;
            if volumes.engine.pool.has_older()
                && let Err(error) = volumes.engine.pool.look_at_older(&volumes).await
            {
                tracing::debug!(%error, "what stores lack that were away is looked for later");
            }
        })
        .detach();
    }

    /// Drains and releases the volume if it is open here or owned by this state folder; nothing to do otherwise.
    pub fn release<'f>(&'f self, name: &'f Name) -> BoxFuture<'f, Result<()>> {
        Box::pin(async move {
            let id = self.id(name).await?;
            if self.here(id).is_none_or(|volume| volume.stands_by()) {
                let head = self.head(name, id).await?;
                if head.active.released {
                    return Ok(());
                }
            }
            self.open(name, OpenMode::Normal).await?.release().await
        })
    }

    /// Stores what is unsent of all open volumes, as far as `limit` lasts, while they go on: to let go of them soon after is
    /// quick.
    pub fn store_unsent(&self, limit: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let open = self.open_now();
            let stored = open.iter().map(|volume| async {
            let Known::Live(session) = volume.known() else { return };
            let upto = session.tip.lock().lsn;
            if let Err(stop) = store_upto(&session, upto).await {
                tracing::debug!(volume = %volume.title(), error = %stop.error(), "not all of it is stored");
            }
        });
            let _ = self.engine.rt.timeout(limit, join_all(stored)).await;
        })
    }

    /// Releases the open volumes that are not used, as far as `drain` lasts.
    pub async fn release_unless(&self, used: &(dyn Fn(&Volume) -> bool + Sync), drain: Duration) {
        let unused = self.open_now().into_iter().filter(|volume| !used(volume));
        let released = unused.map(|volume| async move {
            match self.engine.rt.timeout(drain, volume.release()).await {
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    tracing::debug!(volume = %volume.title(), %error, "it stays as it is for the next daemon");
                }
                None => tracing::debug!(volume = %volume.title(), "not stored in time: it stays this host's"),
            }
        });
        join_all(released).await;
    }

    /// Keeps the readers' notes of this host until `stay`: other hosts know of its clients all the same. Called before clients
    /// leave for another process of this state folder.
    pub fn keep_notes(&self) {
        keep_notes(&self.engine);
    }

    /// Lets go of all open volumes, for another process of this state folder to go on with: their journals are written out, and
    /// what this host owns stays its own, so that no other host gets it in between. None is claimed here after that, until
    /// `stay`.
    pub fn leave(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.keep_notes();
            self.engine.left.store(true, Ordering::Relaxed);
            let open = self.open_now();
            join_all(open.iter().map(|volume| volume.let_go())).await;
        })
    }

    /// Opens volumes here again, since the other process does not come.
    pub fn stay(&self) {
        self.engine.left.store(false, Ordering::Relaxed);
        keep_notes_no_more(&self.engine);
    }

    /// Releases all open volumes, as far as `drain` lasts. Returns a sentence for each that stays unreleased.
    pub fn shutdown(&self, drain: Duration) -> BoxFuture<'_, Vec<String>> {
        Box::pin(async move {
            let open = self.open_now();
            let released = open.iter().map(|v| async {
            let done = match self.engine.rt.timeout(drain, v.release()).await {
                Some(done) => done,
                None => Err(Error::new(Kind::Timeout, "its writes could not all be stored in time")),
            };
            let unsent = match v.known() {
                Known::Live(session) => session.tip.lock().unsent().0,
                _ => 0,
            };
            v.let_go().await;
            // One that another host has taken, or that is gone, was told of when that showed.
            let stays =
                done.err().filter(|e| !matches!(e.kind(), Kind::Fenced | Kind::Removed | Kind::Owned));
            stays.map(|e| {
                let unsent = match unsent {
                    0 => String::new(),
                    bytes => format!("; {} of them are in this host's journal alone, and are stored once it runs again and its stores answer", show_bytes(bytes)),
                };
                format!("volume {} stays owned by this host: {e}{unsent}", v.title())
            })
        });
            join_all(released).await.into_iter().flatten().collect()
        })
    }

    /// Returns all names, by the volumes that have them.
    pub(crate) async fn names(&self) -> Result<BTreeMap<VolumeId, Name>> {
        Ok(self.engine.pool.list().await?.into_iter().map(|(name, id)| (id, name)).collect())
    }

    /// Returns the head of a new volume.
    pub(crate) fn new_head(&self, id: VolumeId, size: u64, settings: VolumeSettings) -> Result<Head> {
        let pool = &self.engine.pool;
        let w = u8::try_from(pool.w())
            .map_err(|_| Error::new(Kind::Internal, "a layout has at most 64 shards"))?;
        Ok(Head::new(id, self.engine.rt.wall_ms(), size, settings, w, pool.incarnations()))
    }

    /// Returns the head, and the tables under its checkpoint.
    pub(crate) async fn recorded(&self, name: &Name, id: VolumeId) -> Result<(Head, Tables)> {
        let newest = self.engine.newest(id).await?;
        let (head, tables) = newest.map_or((None, None), |(head, tables)| (Some(head), Some(tables)));
        let head = self.existing(name, head)?;
        Ok((head, tables.expect("a head comes with its tables")))
    }

    /// Returns what `recorded` does, with the names of an encrypted volume where its key can be found.
    pub(crate) async fn recorded_with_names(&self, name: &Name, id: VolumeId) -> Result<(Head, Tables)> {
        let (head, tables) = self.recorded(name, id).await?;
        // The tables tell: a key that came after they were read has opened none of these names.
        let is_locked =
            head.keys.is_some() && tables.with_trash().any(|(name, s)| *name == name_of_sealed(s.id));
        match is_locked && self.engine.check_open(name, &head).await.is_ok() {
            true => self.recorded(name, id).await,
            false => Ok((head, tables)),
        }
    }

    /// Returns the tables as this engine knows them when it is the owner, else as they are recorded. Opens nothing.
    pub(crate) async fn newest_tables(&self, volume: &Name, id: VolumeId) -> Result<Tables> {
        if let Some(Known::Live(session)) = self.here(id).map(|volume| volume.known())
            && !self.is_over(&session).await
        {
            return Ok(session.tip.lock().tables.clone());
        }
        Ok(self.recorded_with_names(volume, id).await?.1)
    }

    /// Tells whether another host has the volume, which the session may not have noticed. False in an outage, which tells
    /// nothing.
    pub(crate) async fn is_over(&self, session: &Arc<Session>) -> bool {
        matches!(self.unless_away(session.is_owner()).await.flatten(), Some(Err(_)))
    }

    /// Returns the tables as this engine knows them, where it is the owner by this head.
    pub(crate) fn newer_here(&self, head: &Head) -> Option<Tables> {
        match self.here(head.volume).map(|v| v.known()) {
            Some(Known::Live(session)) if session.epoch == head.active.epoch => {
                Some(session.tip.lock().tables.clone())
            }
            _ => None,
        }
    }

    /// Frees what nobody needs, and returns when that is done.
    pub fn collect<'f>(&'f self, volume: &'f Name) -> BoxFuture<'f, Result<()>> {
        Box::pin(async move {
            let open = self.open(volume, OpenMode::Normal).await?;
            open.ask(|session| async move { session.collect_all().await }).await
        })
    }
}
