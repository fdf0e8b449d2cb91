//! An open volume: inert, standing by, owned, or failed; and the way from one to the next.
//!
//! Operations go to the session of the moment and are asked again when that has ended without a reason of its own (a
//! withdrawn claim, a release). Transitions take turns and run to their end even if nobody waits any more: a claim that
//! was recorded must not lose its session. Who lets go of the volume ends what may last as long as an outage: a release
//! that waits for stores, an opening whose journal has no memory to come back into.
//!
//! Writes that overlap are done as they came, across sessions too.

use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::become_owner::{ClaimRequest, Failed, own};
use super::first_boot::attend;
use super::hand_over::hand_over_when_asked;
use super::limiter::Limiter;
use super::outage_timeout::unless_outage;
use super::standby::{Attached, Attachment, Inert, Queue, Standby};
use super::waiters::{Leaver, Leavers, Trouble, Waiter};
use crate::base::rt::Instant;
use crate::base::{Epoch, Error, JournalId, Kind, Name, Nonce, Result, Rope, VolumeId};
use crate::log::ReadCounts;
use crate::volume::head::Direction;
use crate::volume::head::HandoverPolicy;
use crate::volume::head::Head;
use crate::volume::head::Record;
use crate::volume::head::Stop;
use crate::volume::head::{VolumeSettings, is_template};
use crate::volume::read::VolumeContext;
use crate::volume::read::{Fetch, Trail};
use crate::volume::read::{Run, blocks_of, in_bytes};
use crate::volume::session::Arrivals;
use crate::volume::session::Session;
use crate::volume::session::takeover::Notes;
use crate::volume::session::{LastAct, Released};
use crate::volume::space::Tables;

/// Pause between attempts to become the owner for a write that waits.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
enum State {
    Inert(Arc<Inert>),
    Live(Arc<Session>),
    /// Attached, and perhaps another host's: the next use asks for it. All that was acknowledged here is in the pool.
    Standby(Standby),
    /// The last session is over: the next use claims again.
    Ended,
    /// For good; opening the volume anew makes another `Volume`. With the session that is to be let go.
    Failed(Arc<Error>, Option<Arc<Session>>),
}

#[derive(Debug)]
struct Inner {
    context: Arc<VolumeContext>,
    state: Mutex<State>,
    /// One transition at a time.
    turn: tokio::sync::Mutex<()>,
    leavers: Leavers,
    queue: Queue,
    attached: Attached,
    arrivals: Arrivals,
    trouble: Mutex<Trouble>,
    /// For the user, of the last takeover.
    notes: Mutex<Notes>,
    trail: Trail,
    limiter: Limiter,
}

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

/// What an open volume knows beside its head.
pub enum Known {
    Live(Arc<Session>),
    /// Opened when it was released.
    Inert(Arc<Inert>),
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

    /// To be claimed by the first use; `take` does it at once.
    pub fn unowned(context: Arc<VolumeContext>) -> Volume {
        Volume::with(context, State::Ended)
    }

    /// That may be another host's, which is asked for it by the first use.
    pub fn standby(context: Arc<VolumeContext>) -> Volume {
        Volume::with(context, State::Standby(Standby::default()))
    }

    fn with(context: Arc<VolumeContext>, state: State) -> Volume {
        let (turn, leavers, arrivals, trouble, notes, limiter) = Default::default();
        let (queue, attached) = Default::default();
        let trail = context.engine.memory.ahead.trail();
        let state = Mutex::new(state);
        let inner = Inner {
            context,
            state,
            turn,
            leavers,
            queue,
            attached,
            arrivals,
            trouble,
            notes,
            trail,
            limiter,
        };
        Volume { inner: Arc::new(inner) }
    }

    pub fn id(&self) -> VolumeId {
        self.inner.context.id
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

    /// As far as this host knows: another may have renamed it a moment ago.
    pub fn name(&self) -> Name {
        self.inner.context.name()
    }

    pub(in crate::volume) fn follow_name(&self, head: &Head) {
        self.inner.context.follow_name(head);
    }

    pub fn title(&self) -> String {
        self.inner.context.title()
    }

    /// A client uses it until that is dropped: its owner, where that is another host, may be asked for it any moment.
    pub fn attach(&self) -> Arc<Attachment> {
        let inner = Arc::downgrade(&self.inner);
        let stands_by = move || inner.upgrade().map(|inner| inner.stands_by().is_some());
        self.inner.attached.attach(&self.inner.context, stands_by)
    }

    pub(in crate::volume) fn stands_by(&self) -> bool {
        self.inner.stands_by().is_some()
    }

    /// It will not work any more.
    pub(in crate::volume) fn is_failed(&self) -> bool {
        match &*self.inner.state.lock() {
            State::Failed(..) => true,
            State::Live(session) => matches!(session.closed(), Some(Stop::Failed(_))),
            _ => false,
        }
    }

    pub(in crate::volume) fn known(&self) -> Known {
        match &*self.inner.state.lock() {
            State::Live(session) if session.closed().is_none() => Known::Live(session.clone()),
            State::Inert(inert) => Known::Inert(inert.clone()),
            _ => Known::Nothing,
        }
    }

    /// All members of a group of snapshots are stored: the tables say so from now on.
    pub(in crate::volume) fn settle_group(&self, group: Nonce) {
        if let Known::Live(session) = self.known() {
            session.tip.lock().tables.settle(group);
        }
    }

    /// The same once the transition that is under way, if one is, has come to its end.
    pub(in crate::volume) async fn settled(&self) -> Known {
        let _turn = self.inner.turn.lock().await;
        self.known()
    }

    /// The journal that the session holds, or that one which was shut out is still putting aside. Not that of an ended one:
    /// when it could not be put aside, it stays where it is.
    pub(in crate::volume) fn held_journal(&self) -> Option<JournalId> {
        let session = match &*self.inner.state.lock() {
            State::Live(session) | State::Failed(_, Some(session)) => session.clone(),
            _ => return None,
        };
        (session.journal.is_held() && !session.has_ended()).then(|| session.journal.id())
    }

    /// Where what it read came from.
    pub(in crate::volume) fn reads(&self) -> ReadCounts {
        self.inner.context.view.reads()
    }

    pub(in crate::volume) fn now(&self) -> Instant {
        self.inner.context.rt().now()
    }

    /// Why I/O fails or waits, and since when it waits.
    pub(in crate::volume) fn trouble(&self) -> Option<(Option<Instant>, String)> {
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

    /// `on-outage`: see `outage_timeout`.
    pub(super) async fn unless_outage<T>(
        &self,
        work: Pin<&mut impl Future<Output = Result<T>>>,
    ) -> Result<T> {
        let stores = |patience, now| self.waits_for_stores(patience, now);
        unless_outage(&self.inner.context, stores, work).await
    }

    /// Why stores hold requests up, if they do.
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

    /// As `read_parts`, in one.
    pub async fn read(&self, offset: u64, len: u64) -> Result<Bytes> {
        Ok(self.read_parts(offset, len).await?.into_bytes())
    }

    /// What a client's request of so many bytes waits for before it is begun; `None` where the volume has no limits.
    pub fn turn(&self, direction: Direction, bytes: u64) -> Option<impl Future<Output = ()> + Send> {
        self.inner.limiter.turn(&self.inner.context, direction, bytes)
    }

    /// What is there now; large parts lie in memory that the cache has too.
    pub async fn read_parts(&self, offset: u64, len: u64) -> Result<Rope> {
        self.check(offset, len)?;
        if len == 0 {
            return Ok(Rope::default());
        }
        self.inner.trail.step(offset..offset + len, self.now());
        self.unless_outage(pin!(self.read_now(offset, len))).await
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
                        Err(e) if e.is(Kind::Corrupt) => Err(self.superseded(inert.seen).await.unwrap_or(e)),
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

    /// What of a range reads as data, and what as zeros that take no space: bytes side by side from its start on, and whether
    /// they are data. `max` of them at most, so that they may end before the range does.
    pub async fn allocation(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Run>> {
        self.check(offset, len)?;
        let runs = self.unless_outage(pin!(self.allocation_now(offset, len, max))).await?;
        Ok(in_bytes(runs, offset, len))
    }

    async fn allocation_now(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Run>> {
        let state = self.inner.state.lock().clone();
        if let State::Inert(inert) = state {
            let (tree, found) = (inert.tables.tip().tree, vec![(blocks_of(offset, len), None)]);
            return match self.inner.context.view.allocation(found, &tree, max).await {
                Err(e) if e.is(Kind::Corrupt) => Err(self.superseded(inert.seen).await.unwrap_or(e)),
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

    /// What a released volume showed may be collected when others have written since.
    pub(super) async fn superseded(&self, seen: Epoch) -> Option<Error> {
        let head = Box::pin(self.inner.context.cell.read()).await.ok()??;
        head.changed_since(seen).err().map(|e| e.context(format!("volume {}", self.name())))
    }

    /// Does `work` with the session that owns the volume, again with the next one when that ended meanwhile.
    pub(in crate::volume) async fn ask<T, F>(&self, work: impl Fn(Arc<Session>) -> F) -> Result<T>
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

    /// In memory on return: see `keep` and `flush`. One that overlaps it and came later is done later.
    pub async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        self.check_writable(offset, data.len() as u64)?;
        if data.is_empty() {
            return Ok(());
        }
        let (blocks, data) = (blocks_of(offset, data.len() as u64), &data);
        let write = pin!(self.ask(|session| async move { session.write(offset, data.clone()).await }));
        self.unless_outage(pin!(self.inner.arrivals.in_order(blocks, write))).await
    }

    /// Reads as zeros from then on; whole blocks take no space (trim and write-zeroes alike).
    pub async fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.check_writable(offset, len)?;
        if len == 0 {
            return Ok(());
        }
        let zero = pin!(self.ask(|session| async move { session.zero(offset, len).await }));
        self.unless_outage(pin!(self.inner.arrivals.in_order(blocks_of(offset, len), zero))).await
    }

    /// What was written before outlives this process: who connects anew is not told of its death, and would flush for it, too.
    pub async fn keep(&self) {
        let State::Live(session) = self.inner.state.lock().clone() else { return };
        session.journal.written().await;
    }

    /// What was acknowledged before this call survives what the volume's `FlushMode` says.
    pub async fn flush(&self) -> Result<()> {
        self.unless_outage(pin!(self.flush_now())).await
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

    /// The session that owns the volume; becomes the owner first where that is allowed. An outage holds: it waits. What is
    /// rare is on the heap, here and in other steps of a request: it would make each request's future larger by all of it.
    pub(in crate::volume) async fn session(&self) -> Result<Arc<Session>> {
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
                false => Box::pin(self.own(false, false)).await,
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
            asker.let_first(&standby).await?;
            match self.own(false, false).await {
                // Another host has it, or was faster.
                Err(e) if matches!(e.kind(), Kind::Owned | Kind::Fenced) && self.stands_by() => {
                    asker.ask(&waits).await?;
                }
                done => return done,
            }
        }
        Ok(())
    }

    /// Becomes the owner, unless it is already. Goes on to its end if this is dropped.
    pub(in crate::volume) async fn own(&self, force: bool, accept_loss: bool) -> Result<()> {
        let inner = self.inner.clone();
        self.inner.context.rt().spawn(async move { inner.own(force, accept_loss).await }).await?
    }

    /// Stores everything, lets go of the volume; the next write claims it again. Dropped before its last act it is not
    /// done, and writes go on.
    pub async fn release(&self) -> Result<()> {
        loop {
            match self.end_by(LastAct::Release, &CancellationToken::new()).await {
                Err(Stop::Again) if self.stands_by() => {
                    // Where the last act was not answered the volume may still be this host's: then it is claimed, and
                    // let go of again. Another host is not asked for that.
                    if self.own(false, false).await.is_err() {
                        self.inner.context.rt().sleep(AGAIN).await;
                    }
                }
                // A claim came in between and was withdrawn, or nothing is claimed yet: the next session has what there is.
                Err(Stop::Again) => drop(self.session().await?),
                done => return done.map_err(Stop::error),
            }
        }
    }

    /// Ends the session by its last act, which is given up when this is dropped, or by the token, before it is come to.
    pub(super) async fn end_by(&self, act: LastAct, given_up: &CancellationToken) -> Result<(), Stop> {
        let (inner, given_up) = (self.inner.clone(), given_up.child_token());
        let _dropped = given_up.clone().drop_guard();
        let task = self.inner.context.rt().spawn(async move { inner.release(&act, &given_up).await });
        task.await?
    }

    /// Stops without draining; what is acknowledged stays in the journal.
    pub(in crate::volume) async fn let_go(&self) {
        let inner = self.inner.clone();
        // An error says that the runtime has ended: then nothing runs anyway.
        let _ = self.inner.context.rt().spawn(async move { inner.let_go().await }).await;
    }

    /// What the last takeover had to say.
    pub(in crate::volume) fn take_notes(&self) -> Notes {
        std::mem::take(&mut *self.inner.notes.lock())
    }

    /// How far this host has seen it come.
    pub(in crate::volume) fn confirmed(&self) -> &Record {
        &self.inner.context.confirmed
    }

    /// An older state is the volume's from now on: all I/O of those who see this one fails.
    pub(in crate::volume) async fn forgotten(&self) {
        let why = format!(
            "volume {}: `take-over --accept-loss` took an older state of it: connect anew",
            self.title()
        );
        self.inner.fail(Error::new(Kind::Fenced, why));
        self.let_go().await;
    }

    /// The volume is gone: all I/O fails. Of one that was left for another pool it stays known where it went.
    pub(in crate::volume) fn removed(&self) {
        if matches!(&*self.inner.state.lock(), State::Failed(error, _) if error.is(Kind::Removed)) {
            return;
        }
        self.inner.fail(Error::new(Kind::Removed, format!("volume {} was removed", self.title())));
    }
}

impl Inner {
    async fn prefetch_map(&self, blocks: Range<u64>) {
        let state = self.state.lock().clone();
        let tree = match state {
            State::Inert(inert) => inert.tables.tip().tree,
            State::Live(session) => session.tip.lock().tables.tip().tree,
            State::Standby(_) | State::Ended | State::Failed(..) => return,
        };
        self.context.view.prefetch_map(&tree, blocks).await;
    }

    async fn prefetch(&self, fetch: Fetch) {
        let state = self.state.lock().clone();
        match state {
            State::Inert(inert) => {
                let found = vec![(fetch.blocks(), None)];
                self.context.view.prefetch(&fetch, found, &inert.tables.tip().tree).await;
            }
            State::Live(session) => session.prefetch(&fetch).await,
            State::Standby(_) | State::Ended | State::Failed(..) => {}
        }
    }

    fn stands_by(&self) -> Option<Standby> {
        match &*self.state.lock() {
            State::Standby(standby) => Some(*standby),
            _ => None,
        }
    }

    /// What was under way has come to this, unless the volume has failed meanwhile: that is for good.
    fn becomes(&self, next: State) {
        let mut state = self.state.lock();
        match (&*state, next) {
            (State::Failed(error, _), State::Live(session)) => {
                session.stop(Stop::Failed(error.share()));
                *state = State::Failed(error.clone(), Some(session));
            }
            (State::Failed(..), _) => {}
            (_, next) => *state = next,
        }
    }

    fn fail(&self, error: Error) {
        let mut state = self.state.lock();
        let session = match &*state {
            State::Live(session) => Some(session.clone()),
            _ => None,
        };
        if let Some(session) = &session {
            session.stop(Stop::Failed(error.share()));
        }
        *state = State::Failed(Arc::new(error), session);
    }

    /// Stops what runs, and lets go of the journal.
    async fn let_go(self: Arc<Inner>) {
        let _leaver = Leaver::new(&self.leavers);
        // A release that waits for stores has the turn, or an opening that waits for memory: this ends them.
        if let State::Live(session) = &*self.state.lock() {
            session.stop(Stop::Again);
        }
        let _turn = self.turn.lock().await;
        let session = match &*self.state.lock() {
            State::Live(session) => Some(session.clone()),
            State::Failed(_, session) => session.clone(),
            _ => None,
        };
        let Some(session) = session else { return };
        session.stop(Stop::Again);
        let left = session.leave_journal().await;
        let mut state = self.state.lock();
        // Who was shut out stays so: what its clients wrote is not in what another owner left.
        *state = match (&*state, session.closed(), left) {
            (State::Failed(e, _), ..) => State::Failed(e.clone(), None),
            (_, Some(Stop::Failed(e)), _) => State::Failed(Arc::new(e), None),
            (.., Err(e)) => State::Failed(Arc::new(self.forgets(e)), None),
            _ => State::Ended,
        };
    }

    async fn own(self: Arc<Inner>, force: bool, accept_loss: bool) -> Result<()> {
        let _turn = self.turn.lock().await;
        let state = self.state.lock().clone();
        let inert = match state {
            State::Failed(e, _) => return Err(e.share()),
            State::Inert(inert) => Some(inert),
            State::Standby(_) | State::Ended => None,
            State::Live(session) => match session.closed() {
                None => return Ok(()),
                Some(Stop::Failed(e)) => return Err(e),
                Some(Stop::Again) => {
                    // Its journal is opened again by the next session.
                    if let Err(error) = session.leave_journal().await {
                        let error = self.forgets(error);
                        self.fail(error.share());
                        return Err(error);
                    }
                    *self.state.lock() = State::Ended;
                    None
                }
            },
        };
        let seen = inert.as_ref().map(|i| i.seen);
        let tried = inert.as_ref().map_or_else(Vec::new, |i| i.tried.lock().clone());
        if self.leavers.any() || self.context.engine.left.load(Ordering::Relaxed) {
            let why = format!("volume {} is being let go", self.context.title());
            return Err(Error::new(Kind::Unavailable, why));
        }
        let claim_request = ClaimRequest { seen, tried, force, accept_loss };
        match own(&self.context, claim_request, self.leavers.come()).await {
            Ok(owned) => {
                if self.queue.take_asked() {
                    owned.session.rounds.expect_others(self.context.rt().now());
                }
                self.becomes(State::Live(owned.session.clone()));
                self.trouble.lock().said = None;
                self.revive_after(owned.session.clone());
                self.attend_asks(owned.session);
                *self.notes.lock() = owned.notes;
                Ok(())
            }
            Err(Failed { error, tried }) => {
                let e = error.context(format!("volume {}", self.context.title()));
                if let Some(inert) = inert {
                    inert.tried.lock().extend(tried);
                }
                // Whoever asks again gets the same answer, until the volume is opened anew. Not where nothing that was
                // acknowledged here can be missing: there another's ownership ends, and this host's may come.
                let stands_by = self.stands_by().is_some();
                if tried.is_some() && stands_by {
                    self.becomes(State::Standby(Standby::unsure()));
                }
                if e.is(Kind::Removed) || matches!(e.kind(), Kind::Owned | Kind::Fenced) && !stands_by {
                    self.fail(e.share());
                }
                Err(e)
            }
        }
    }

    /// A session ended and could not write its journal out. A restart would have no more, but clients that see one know
    /// that what they had not flushed may be gone. Going on, a later flush would promise them what is not there.
    fn forgets(&self, error: Error) -> Error {
        // Not of the cause's kind: nothing is to be waited for.
        let why = format!(
            "volume {}: its journal can't be written out, and writes that were acknowledged and not flushed are lost; what was \
             flushed is there when it is opened again: check the disk, then restart what uses it",
            self.context.title()
        );
        Error::new(Kind::Io, why).because(error)
    }

    /// When a claim on the volume was withdrawn, the volume takes over from itself, also if nobody asks for anything: what
    /// it has acknowledged is to reach the pool.
    fn revive_after(self: &Arc<Inner>, session: Arc<Session>) {
        let (inner, rt) = (Arc::downgrade(self), self.context.rt().clone());
        let again = rt.clone();
        rt.spawn(async move {
            session.ended().await;
            while session.goes_on() {
                let Some(inner) = inner.upgrade() else { return };
                match inner.own(false, false).await {
                    Err(e) if e.is_transient() || e.is(Kind::NoSpace) => {
                        again.sleep(AGAIN).await;
                    }
                    _ => return,
                }
            }
        })
        .detach();
    }

    /// Hands the volume over when another host asks for it.
    fn attend_asks(self: &Arc<Self>, session: Arc<Session>) {
        let inner = Arc::downgrade(self);
        let let_go = move || {
            let inner = inner.upgrade();
            async move {
                match inner {
                    Some(inner) => inner.release(&LastAct::Release, &CancellationToken::new()).await,
                    None => Err(Stop::Again),
                }
            }
        };
        self.context.rt().spawn(hand_over_when_asked(session, let_go)).detach();
    }

    async fn release(self: Arc<Inner>, act: &LastAct, given_up: &CancellationToken) -> Result<(), Stop> {
        let _turn = self.turn.lock().await;
        let state = self.state.lock().clone();
        let stands_by = matches!(state, State::Standby(_));
        let session = match state {
            State::Live(session) => session,
            State::Inert(_) => {
                return if matches!(act, LastAct::Release) { Ok(()) } else { Err(Stop::Again) };
            }
            State::Standby(standby) if !standby.unsure && matches!(act, LastAct::Release) => return Ok(()),
            State::Standby(_) if matches!(act, LastAct::Leave(_)) => return Err(Stop::Again),
            // The volume may still be this host's, with a journal that nobody has replayed.
            State::Standby(_) | State::Ended => {
                let head = self.context.cell.confirm().await;
                let is_mine = |head: &Head| self.context.engine.host_owns(head);
                let free = head.is_ok_and(|head| head.active.released || stands_by && !is_mine(&head));
                return if free { Ok(()) } else { Err(Stop::Again) };
            }
            // Not as if all that was written were in the pool.
            State::Failed(error, _) => return Err(Stop::Failed(error.share())),
        };
        let may_be_asked = self.context.settings().handover == HandoverPolicy::Ask;
        match (session.release(act, given_up).await, act) {
            (Released::Done(_), LastAct::Leave(left)) => {
                let moved = left.to.refusal().context(format!("volume {}", self.context.title()));
                self.becomes(State::Failed(Arc::new(moved), None));
                Ok(())
            }
            (Released::Done(head), LastAct::Release) if may_be_asked => {
                self.becomes(State::Standby(Standby::after(&head, self.context.rt().now())));
                Ok(())
            }
            (Released::Done(head), LastAct::Release) => {
                let tables = self.context.view.tables(&head).await;
                self.becomes(match tables {
                    Ok(tables) => State::Inert(Inert::new(&head, tables)),
                    Err(_) => State::Ended,
                });
                Ok(())
            }
            (Released::NotYet(stop), _) => Err(stop),
            (Released::Unknown(stop), _) => {
                // All that was acknowledged is under the checkpoint, whatever came of the last act.
                self.becomes(if may_be_asked { State::Standby(Standby::unsure()) } else { State::Ended });
                Err(stop)
            }
        }
    }
}
