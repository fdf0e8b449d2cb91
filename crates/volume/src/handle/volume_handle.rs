//! The handle of an open volume: what clients read and write, whoever owns the volume at the moment.
//!
//! Operations go to the session of the moment and are asked again when that has ended without a reason of its own (a
//! withdrawn claim, a release). Writes that overlap are done as they came, across sessions too.

use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::first_boot::attend;
use super::outage_timeout::unless_outage;
use super::ownership::{
    AGAIN, Attachment, Claiming, Filling, Inert, Inner, Reading, Shown, Standby, State, read_by_client,
    read_by_moved, whole,
};
use super::waiters::Waiter;
use crate::head::Direction;
use crate::head::Head;
use crate::head::Record;
use crate::head::Stop;
use crate::head::{VolumeSettings, is_template};
use crate::read::VolumeContext;
use crate::read::{Run, blocks_of, in_bytes};
use crate::session::LastAct;
use crate::session::Session;
use crate::session::takeover::Notes;
use crate::space::Tables;
use windlass_base::rt::Instant;
use windlass_base::{Epoch, Error, JournalId, Kind, Name, Nonce, PoolId, Result, Rope, VolumeId};
use windlass_log::ReadCounts;

/// An open virtual disk. Any offset and length inside its size may be read and written, concurrently.
#[derive(Debug)]
pub struct Volume {
    inner: Arc<Inner>,
}

impl Drop for Volume {
    fn drop(&mut self) {
        if let State::Live(session) = &*self.inner.state.lock() {
            session.stop(Stop::Again);
        }
    }
}

/// Standing of an open volume, with what is known of it beside its head.
pub enum Known {
    Live(Arc<Session>),
    /// The volume was opened when it was released.
    Inert(Arc<Inert>),
    /// The volume is to be claimed again, and only while it is what was shown.
    Ended(Arc<Shown>),
    Nothing,
}

impl Volume {
    /// Opens a released volume: reads only, until the first write.
    pub fn inert(context: Arc<VolumeContext>, head: &Head, tables: Tables) -> Volume {
        let tree = tables.tip().tree;
        let volume = Volume::with(context, State::Inert(Inert::new(head, tables)));
        attend(&volume.inner.context, head, tree, Arc::downgrade(&volume.inner));
        volume
    }

    /// Opens a volume that is to be claimed by the first use; `own` does it at once. `shown`: what those are to go on with who
    /// used it in another process of this host.
    pub fn unowned(context: Arc<VolumeContext>, shown: Option<Arc<Shown>>) -> Volume {
        Volume::with(context, State::Ended(shown))
    }

    /// Opens a volume that may be another host's, which is asked for it by the first use. `shown`: as of `unowned`.
    pub fn standby(context: Arc<VolumeContext>, shown: Option<Arc<Shown>>) -> Volume {
        let volume = Volume::with(context, State::Standby(Standby::default()));
        volume.inner.lives.begin(shown.iter().flat_map(|shown| shown.all()));
        volume
    }

    fn with(context: Arc<VolumeContext>, state: State) -> Volume {
        Volume { inner: Inner::new(context, state) }
    }

    pub fn id(&self) -> VolumeId {
        self.inner.context.id
    }

    pub fn pool(&self) -> PoolId {
        self.inner.context.engine.pool.id()
    }

    pub fn size(&self) -> u64 {
        self.inner.context.size()
    }

    pub fn settings(&self) -> VolumeSettings {
        self.inner.context.settings()
    }

    pub fn is_encrypted(&self) -> bool {
        self.inner.context.key.is_some()
    }

    pub(super) fn context(&self) -> &Arc<VolumeContext> {
        &self.inner.context
    }

    /// Returns the name as far as this host knows: another may have renamed the volume a moment ago.
    pub fn name(&self) -> Name {
        self.inner.context.name()
    }

    pub(crate) fn follow_name(&self, head: &Head) {
        self.inner.context.follow_name(head);
    }

    pub fn title(&self) -> String {
        self.inner.context.title()
    }

    /// Attaches a client, which uses the volume until the result is dropped. The volume's owner, where that is another host,
    /// may be asked for it any moment.
    pub fn attach(&self) -> Arc<Attachment> {
        let inner = Arc::downgrade(&self.inner);
        let stands_by = move || inner.upgrade().map(|inner| inner.stands_by().is_some());
        self.inner.attached.attach(&self.inner.context, stands_by)
    }

    /// Counts a client, which uses the volume until the result is dropped, and lets other hosts know: nobody removes the volume
    /// meanwhile. `again`: another process of this host had the client before.
    ///
    /// # Errors
    /// `NotFound`: the volume is gone.
    pub fn read_by_client(&self, again: bool) -> BoxFuture<'_, Result<Reading>> {
        Box::pin(async move {
            let inner = self.inner.clone();
            // A release that is under way may have looked for clients before this one came: its end is waited for.
            let is_owner = async move {
                let _turn = inner.turn.lock().await;
                matches!(&*inner.state.lock(), State::Live(session) if session.closed().is_none())
            };
            read_by_client(&self.inner.context, is_owner, again).await
        })
    }

    /// Counts the clients who have come to the volume by its move to this pool, until the result is dropped: other hosts know
    /// of them as of those who have connected to it.
    pub fn used_by_moved(&self) -> (Arc<Attachment>, Reading) {
        (self.attach(), read_by_moved(&self.inner.context))
    }

    /// Returns what the volume's clients go on with in another process of this host: ownerships of which any may be in force.
    /// `None`: whatever the volume is then, as where it is handed over between hosts.
    ///
    /// # Errors
    /// The volume has failed: some of what its clients were told may not be so any more.
    pub fn held(&self) -> Result<Option<Vec<Epoch>>> {
        match &*self.inner.state.lock() {
            State::Failed(error, _) => Err(error.share()),
            State::Live(session) => match session.closed() {
                Some(Stop::Failed(error)) => Err(error),
                None | Some(Stop::Again) => Ok(Some(vec![session.epoch])),
            },
            State::Inert(inert) => Ok(Some(inert.shown.all())),
            State::Ended(shown) => Ok(shown.as_ref().map(|shown| shown.all())),
            State::Standby(_) => Ok(None),
        }
    }

    /// Tells whether those who hold the volume so, from another process of this host, have missed nothing of what it is here.
    pub fn goes_on_from(&self, held: &[Epoch]) -> bool {
        self.inner.lives.continue_any(held)
    }

    pub(crate) fn stands_by(&self) -> bool {
        self.inner.stands_by().is_some()
    }

    /// Tells whether the volume has failed, and will not work any more.
    pub(crate) fn is_failed(&self) -> bool {
        match &*self.inner.state.lock() {
            State::Failed(..) => true,
            State::Live(session) => matches!(session.closed(), Some(Stop::Failed(_))),
            _ => false,
        }
    }

    pub(crate) fn known(&self) -> Known {
        match &*self.inner.state.lock() {
            State::Live(session) => match session.closed() {
                None => Known::Live(session.clone()),
                Some(_) => Known::Ended(Shown::under(session.epoch)),
            },
            State::Inert(inert) => Known::Inert(inert.clone()),
            State::Ended(Some(shown)) => Known::Ended(shown.clone()),
            _ => Known::Nothing,
        }
    }

    /// Notes in the tables that all members of a group of snapshots are stored.
    pub(crate) fn settle_group(&self, group: Nonce) {
        if let Known::Live(session) = self.known() {
            session.tip.lock().tables.settle(group);
        }
    }

    /// Returns what `known` does, once the transition that is under way, if one is, has come to its end.
    pub(crate) async fn settled(&self) -> Known {
        let _turn = self.inner.turn.lock().await;
        self.known()
    }

    /// Returns the journal that the session holds, or that one which was shut out is still putting aside. The journal of an
    /// ended one is not told: when it could not be put aside, it stays where it is.
    pub(crate) fn held_journal(&self) -> Option<JournalId> {
        let session = match &*self.inner.state.lock() {
            State::Live(session) | State::Failed(_, Some(session)) => session.clone(),
            _ => return None,
        };
        (session.journal.is_held() && !session.has_ended()).then(|| session.journal.id())
    }

    /// Returns the counts of where that came from which the volume's clients read.
    pub(crate) fn reads(&self) -> ReadCounts {
        self.inner.context.view.reads()
    }

    pub(crate) fn now(&self) -> Instant {
        self.inner.context.rt().now()
    }

    /// Returns why I/O fails or waits, and since when it waits.
    pub(crate) fn trouble(&self) -> Option<(Option<Instant>, String)> {
        let waits = || self.inner.trouble.lock().said.clone().map(|(since, why)| (Some(since), why));
        match &*self.inner.state.lock() {
            State::Failed(e, _) => Some((None, e.to_string())),
            State::Live(session) => match session.closed() {
                Some(Stop::Failed(e)) => Some((None, e.to_string())),
                _ => waits(),
            },
            _ => waits(),
        }
    }

    /// Returns why all I/O fails from here on, if it does: another host has taken the volume, or it is gone.
    pub fn failure(&self) -> Option<String> {
        if self.is_failed() { self.trouble().map(|(_, why)| why) } else { None }
    }

    pub(super) fn check(&self, offset: u64, len: u64) -> Result<()> {
        if offset.checked_add(len).is_some_and(|end| end <= self.size()) {
            return Ok(());
        }
        let (name, size) = (self.title(), self.size());
        Err(Error::new(
            Kind::Invalid,
            format!("{len} bytes at {offset} are beyond the end of volume {name} ({size} bytes)"),
        ))
    }

    /// Does `work`, unless it is given up in an outage by the setting `on-outage`: see `outage_timeout`.
    pub(super) async fn unless_outage<T>(
        &self,
        work: Pin<&mut impl Future<Output = Result<T>>>,
    ) -> Result<T> {
        let stores = |patience, now| self.waits_for_stores(patience, now);
        unless_outage(&self.inner.context, stores, work).await
    }

    /// Returns why stores hold requests up, if they do.
    fn waits_for_stores(&self, patience: Duration, now: Instant) -> Option<String> {
        if let Some((_, why)) = self.inner.context.engine.pool.condition().trouble() {
            return Some(why);
        }
        let Known::Live(session) = self.known() else { return self.trouble().map(|(_, why)| why) };
        let oldest = session.tip.lock().unsent().1?;
        (now.since(oldest) > patience).then(|| "the stores do not keep up".to_owned())
    }

    fn check_writable(&self, offset: u64, len: u64) -> Result<()> {
        if self.settings().template {
            return Err(Error::new(Kind::ReadOnly, is_template(&self.title())));
        }
        self.check(offset, len)
    }

    /// Reads as `read_parts` does, into one piece.
    pub fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move { Ok(self.read_parts(offset, len).await?.into_bytes()) })
    }

    /// Returns a future that waits until a client's request of so many bytes may begin; `None` where the volume has no limits.
    pub fn turn(&self, direction: Direction, bytes: u64) -> Option<impl Future<Output = ()> + Send> {
        self.inner.limiter.turn(&self.inner.context, direction, bytes)
    }

    /// Reads what is there now; large parts lie in memory that the cache has too.
    pub fn read_parts(&self, offset: u64, len: u64) -> impl Future<Output = Result<Rope>> + Send {
        async move {
            self.check(offset, len)?;
            if len == 0 {
                return Ok(Rope::default());
            }
            self.inner.trail.step(offset..offset + len, self.now());
            self.unless_outage(pin!(self.read_now(offset, len))).await
        }
    }

    async fn read_now(&self, offset: u64, len: u64) -> Result<Rope> {
        let news = || self.read_ahead(offset..offset + len);
        loop {
            let state = self.inner.state.lock().clone();
            let session = match state {
                State::Inert(inert) => {
                    let tree = inert.tables.tip().tree;
                    let found = vec![(blocks_of(offset, len), None)];
                    return match self.inner.context.view.read(found, &tree, (offset, len), &news).await {
                        Err(e) if e.is(Kind::Corrupt) => Err(self.superseded(&inert).await.unwrap_or(e)),
                        done => done,
                    };
                }
                _ => self.session().await?,
            };
            match session.read((offset, len), &news).await {
                Err(Stop::Again) => continue,
                done => return done.map_err(Stop::error),
            }
        }
    }

    /// Returns which parts of a range read as data, and which as zeros that take no space: bytes side by side from its start
    /// on, and whether they are data. `max` of them at most, so that they may end before the range does.
    pub fn allocation(
        &self,
        offset: u64,
        len: u64,
        max: usize,
    ) -> impl Future<Output = Result<Vec<Run>>> + Send {
        async move {
            self.check(offset, len)?;
            let runs = self.unless_outage(pin!(self.allocation_now(offset, len, max))).await?;
            Ok(in_bytes(runs, offset, len))
        }
    }

    async fn allocation_now(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Run>> {
        let state = self.inner.state.lock().clone();
        if let State::Inert(inert) = state {
            let (tree, found) = (inert.tables.tip().tree, vec![(blocks_of(offset, len), None)]);
            return match self.inner.context.view.allocation(found, &tree, max).await {
                Err(e) if e.is(Kind::Corrupt) => Err(self.superseded(&inert).await.unwrap_or(e)),
                done => done,
            };
        }
        self.ask(|session| async move { session.allocation(offset, len, max).await }).await
    }

    /// Begins to fetch what will be read next, if that can be told.
    fn read_ahead(&self, read: Range<u64>) {
        let rt = self.inner.context.rt();
        let Some(fetch) = self.inner.trail.fetch(&read, self.size(), rt.now()) else { return };
        if let Some(map) = fetch.map.clone() {
            let inner = self.inner.clone();
            rt.spawn(async move { inner.prefetch_map(blocks_of(map.start, map.end - map.start)).await })
                .detach();
        }
        let inner = self.inner.clone();
        rt.spawn(async move { inner.prefetch(fetch).await }).detach();
    }

    /// Returns the error for a released volume to which others have written since: what it showed may be collected by then.
    pub(super) async fn superseded(&self, inert: &Inert) -> Option<Error> {
        let head = Box::pin(self.inner.context.cell.read()).await.ok()??;
        inert.shown.check(&head).err().map(|e| e.context(format!("volume {}", self.name())))
    }

    /// Does `work` with the session that owns the volume, again with the next one when that ended meanwhile.
    pub(crate) async fn ask<T, F>(&self, work: impl Fn(Arc<Session>) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, Stop>>,
    {
        loop {
            match work(self.session().await?).await {
                Err(Stop::Again) => continue,
                done => return done.map_err(Stop::error),
            }
        }
    }

    /// Writes data, which is in memory on return: see `keep` and `flush`. A write that overlaps this one and came later is done
    /// later.
    pub fn write(&self, offset: u64, data: Bytes) -> impl Future<Output = Result<()>> + Send {
        async move {
            self.check_writable(offset, data.len() as u64)?;
            if data.is_empty() {
                return Ok(());
            }
            let (blocks, data) = (blocks_of(offset, data.len() as u64), &data);
            let write = pin!(self.ask(|session| async move { session.write(offset, data.clone()).await }));
            self.unless_outage(pin!(self.inner.arrivals.in_order(blocks, write))).await
        }
    }

    /// Makes a range read as zeros from then on; whole blocks take no space (trim and write-zeroes alike).
    pub fn zero(&self, offset: u64, len: u64) -> impl Future<Output = Result<()>> + Send {
        async move {
            self.check_writable(offset, len)?;
            if len == 0 {
                return Ok(());
            }
            let zero = pin!(self.ask(|session| async move { session.zero(offset, len).await }));
            self.unless_outage(pin!(self.inner.arrivals.in_order(blocks_of(offset, len), zero))).await
        }
    }

    /// Makes what was written before outlive this process: who connects anew is not told of its death, and would flush for it,
    /// too.
    pub fn keep(&self) -> impl Future<Output = Result<()>> + Send {
        async move {
            let state = self.inner.state.lock().clone();
            if let State::Live(session) = state {
                session.journal.written().await;
                if session.journal.failed().is_none() {
                    return Ok(());
                }
            }
            // Rare, and large: not a part of each write's future.
            Box::pin(async { self.unless_outage(pin!(self.keep_now())).await }).await
        }
    }

    async fn keep_now(&self) -> Result<()> {
        loop {
            let session = match &*self.inner.state.lock() {
                State::Live(session) => session.clone(),
                State::Failed(error, _) => return Err(error.share()),
                // It was let go of with all that it had.
                State::Inert(_) | State::Standby(_) | State::Ended(_) => return Ok(()),
            };
            match session.kept().await {
                // The next one has it, if the journal of this one does.
                Err(Stop::Again) => {}
                done => return done.map_err(Stop::error),
            }
            drop(Box::pin(self.settled()).await);
            if matches!(&*self.inner.state.lock(), State::Live(next) if Arc::ptr_eq(next, &session)) {
                drop(Box::pin(self.session()).await?);
            }
        }
    }

    /// Makes what was acknowledged before this call survive what the volume's `FlushMode` says.
    pub fn flush(&self) -> impl Future<Output = Result<()>> + Send {
        async move { self.unless_outage(pin!(self.flush_now())).await }
    }

    async fn flush_now(&self) -> Result<()> {
        loop {
            let state = self.inner.state.lock().clone();
            match state {
                // All that was acknowledged is in the pool: another host's ownership need not end for a flush.
                State::Inert(_) | State::Standby(_) => return Ok(()),
                State::Live(session) if matches!(session.closed(), Some(Stop::Again)) => {
                    // It may be about to stand by.
                    drop(Box::pin(self.settled()).await);
                    if self.stands_by() {
                        continue;
                    }
                }
                _ => {}
            }
            match self.session().await?.flush().await {
                Err(Stop::Again) => continue,
                done => return done.map_err(Stop::error),
            }
        }
    }

    /// Returns the session that owns the volume; becomes the owner first where that is allowed, and waits through an outage.
    /// What is rare is on the heap, here and in other steps of a request: it would make each request's future larger by all of
    /// it.
    pub(crate) async fn session(&self) -> Result<Arc<Session>> {
        let mut waiter = None;
        loop {
            if let State::Live(session) = &*self.inner.state.lock()
                && !matches!(session.closed(), Some(Stop::Again))
            {
                return Ok(session.clone());
            }
            // A session that has ended may be about to stand by, for another host that comes first then.
            drop(Box::pin(self.settled()).await);
            let owned = match self.stands_by() {
                true => Box::pin(self.own_in_turn()).await,
                false => Box::pin(self.own(Claiming::ByRight)).await,
            };
            match owned {
                Ok(_) => {}
                // A disk without room holds up as stores do: nothing of it is an error of this volume.
                Err(e) if e.is_transient() || e.is(Kind::NoSpace) => {
                    let then =
                        if e.is(Kind::NoSpace) { "; it goes on when that disk has space again" } else { "" };
                    let why = format!("I/O waits: {e}{then}");
                    waiter.get_or_insert_with(|| Waiter::new(&self.inner.trouble));
                    let began = {
                        let mut trouble = self.inner.trouble.lock();
                        let since = trouble.said.take().map(|(since, _)| since);
                        trouble.said = Some((since.unwrap_or(self.now()), why.clone()));
                        since.is_none()
                    };
                    // Said once; the rest is for those who look closely.
                    if began {
                        tracing::warn!(volume = %self.name(), "{why}");
                    } else {
                        tracing::debug!(volume = %self.name(), "{why}");
                    }
                    self.inner.context.rt().sleep(AGAIN).await;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Becomes the owner, once whoever is has been asked for the volume and has let go of it.
    async fn own_in_turn(&self) -> Result<()> {
        let asker = self.inner.queue.enter(&self.inner.context).await?;
        let waiter = Mutex::new(None);
        let waits = |why: String| {
            tracing::info!(volume = %self.name(), "{why}");
            *waiter.lock() = Some(Waiter::new(&self.inner.trouble));
            self.inner.trouble.lock().said.get_or_insert((self.now(), why));
        };
        while let Some(standby) = self.inner.stands_by() {
            if self.inner.fillings.any() {
                let why = format!(
                    "volume {} went to another host while a command filled it: what is there now is not what the command began with",
                    self.title()
                );
                return Err(Error::new(Kind::Refused, why));
            }
            asker.let_first(&standby).await?;
            match self.own(Claiming::ForStandby).await {
                // Another host has it, or was faster.
                Err(e) if matches!(e.kind(), Kind::Owned | Kind::Fenced) && self.stands_by() => {
                    asker.ask(&waits).await?;
                }
                Err(e) if e.is(Kind::Refused) && self.stands_by() => {
                    if !Box::pin(self.check_whole()).await? {
                        return Err(e);
                    }
                }
                done => return done,
            }
        }
        Ok(())
    }

    /// Ends a copy's round of which only the end was cut off. Returns whether there was one.
    ///
    /// # Errors
    /// `Refused`: the copy shows no state that ever was, and is shown to no client.
    pub(crate) async fn check_whole(&self) -> Result<bool> {
        let (round, tables) = match self.known() {
            Known::Live(session) => {
                let round = session.head.lock().round;
                (round, session.tip.lock().tables.clone())
            }
            Known::Inert(inert) => (inert.round, inert.tables.clone()),
            Known::Ended(_) | Known::Nothing => {
                match self.inner.context.engine.newest(self.id()).await? {
                    Some((head, tables)) => (head.round, tables),
                    // Whoever opens it is told so.
                    None => return Ok(false),
                }
            }
        };
        let Some(round) = round else { return Ok(false) };
        let snapshot = whole(round, &tables, &self.title())?;
        let ended = move |head: &Head| head.end_round(snapshot);
        match self.known() {
            Known::Live(_) => {
                self.ask(|session| async move { session.change(ended).await.map(drop) }).await?;
            }
            _ => drop(self.inner.context.engine.cell(self.id()).change(ended).await?),
        }
        Ok(true)
    }

    /// Gives a command the volume to itself: no other host gets it until the result is dropped, and what the command does goes
    /// on only from what is here now.
    ///
    /// # Errors
    /// `Owned`: another host has it.
    pub fn fill(&self) -> BoxFuture<'_, Result<Filling>> {
        Box::pin(async move {
            let filling = Filling::begin(&self.inner.fillings);
            // An ask that was heeded before comes to its end first; from here on none is.
            drop(Box::pin(self.settled()).await);
            if self.stands_by() {
                self.own(Claiming::ByRight).await?;
            }
            Ok(filling)
        })
    }

    /// Becomes the owner, unless it is already. Goes on to its end if this is dropped.
    pub(crate) async fn own(&self, claiming: Claiming) -> Result<()> {
        let inner = self.inner.clone();
        self.inner.context.rt().spawn(async move { inner.own(claiming).await }).await?
    }

    /// Stores everything, and lets go of the volume; the next write claims it again. Dropped before its last act it is not
    /// done, and writes go on.
    pub fn release(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            loop {
                match self.end_by(LastAct::Release, &CancellationToken::new()).await {
                    Err(Stop::Again) if self.stands_by() => {
                        // Where the last act was not answered the volume may still be this host's: then it is claimed, and
                        // let go of again. Another host is not asked for that.
                        if self.own(Claiming::ByRight).await.is_err() {
                            self.inner.context.rt().sleep(AGAIN).await;
                        }
                    }
                    // A claim came in between and was withdrawn, or nothing is claimed yet: the next session has what there is.
                    Err(Stop::Again) => drop(self.session().await?),
                    done => return done.map_err(Stop::error),
                }
            }
        })
    }

    /// Ends the session by its last act. It is given up when this is dropped, or by the token, before the act is come to.
    pub(super) async fn end_by(&self, act: LastAct, given_up: &CancellationToken) -> Result<(), Stop> {
        let (inner, given_up) = (self.inner.clone(), given_up.child_token());
        let _dropped = given_up.clone().drop_guard();
        let task = self.inner.context.rt().spawn(async move { inner.release(&act, &given_up).await });
        task.await?
    }

    /// Stops without draining; what is acknowledged stays in the journal.
    pub(crate) async fn let_go(&self) {
        let inner = self.inner.clone();
        // An error says that the runtime has ended: then nothing runs anyway.
        let _ = self.inner.context.rt().spawn(async move { inner.let_go().await }).await;
    }

    /// Takes the notes of the last takeover, for the user.
    pub(crate) fn take_notes(&self) -> Notes {
        std::mem::take(&mut *self.inner.notes.lock())
    }

    /// Returns the record of how far this host has seen the volume come.
    pub(crate) fn confirmed(&self) -> &Record {
        &self.inner.context.confirmed
    }

    /// Fails all I/O of those who see this state, since an older one is the volume's from now on.
    pub(crate) async fn forgotten(&self) {
        let why = format!(
            "volume {}: `take-over --accept-loss` took an older state of it: connect anew",
            self.title()
        );
        self.inner.fail(Error::new(Kind::Fenced, why));
        self.let_go().await;
    }

    /// Fails all I/O, since the volume is gone. Of one that was left for another pool it stays known where it went.
    pub(crate) fn removed(&self) {
        if matches!(&*self.inner.state.lock(), State::Failed(error, _) if error.is(Kind::Removed)) {
            return;
        }
        self.inner.fail(Error::new(Kind::Removed, format!("volume {} was removed", self.title())));
    }
}
