//! What an open volume is to this host: inert, standing by, owned, or failed; and the way from one to the next.
//!
//! Transitions take turns and run to their end even if nobody waits any more: a claim that was recorded must not lose its
//! session. Who lets go of the volume ends what may last as long as an outage: a release that waits for stores, an opening
//! whose journal has no memory to come back into.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::become_owner::{ClaimRequest, Failed, own};
use super::filling::Fillings;
use super::hand_over::hand_over_when_asked;
use super::readers::note_before_release;
use super::shown::{Lives, Shown};
use super::standby::{Attached, Inert, Queue, Standby};
use crate::handle::limiter::Limiter;
use crate::handle::waiters::{Leaver, Leavers, Trouble};
use crate::head::HandoverPolicy;
use crate::head::Head;
use crate::head::Stop;
use crate::read::VolumeContext;
use crate::read::{Fetch, Trail};
use crate::session::Arrivals;
use crate::session::Session;
use crate::session::takeover::Notes;
use crate::session::{LastAct, Released};
use windlass_base::{Error, Kind, Result};

/// Pause between attempts to become the owner for a write that waits.
pub const AGAIN: Duration = Duration::from_secs(1);

/// Party on whose behalf a volume is to become this host's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claiming {
    /// Anybody who goes on with what this host has, and commands.
    ByRight,
    /// Clients that stood by until now: what the claim gives is the first that they see of the volume.
    ForStandby,
    /// The user, who takes over.
    ByForce { accept_loss: bool },
}

#[derive(Clone, Debug)]
pub enum State {
    Inert(Arc<Inert>),
    Live(Arc<Session>),
    /// The volume is attached, and perhaps another host's: the next use asks for it. All that was acknowledged here is in the
    /// pool.
    Standby(Standby),
    /// The last session is over: the next use claims again, if the volume is still what that one left. `None`: there was none
    /// yet, and nobody has seen anything.
    Ended(Option<Arc<Shown>>),
    /// The volume has failed for good; opening it anew makes another `Volume`. With the session that is to be let go.
    Failed(Arc<Error>, Option<Arc<Session>>),
}

#[derive(Debug)]
pub struct Inner {
    pub context: Arc<VolumeContext>,
    pub state: Mutex<State>,
    /// Lock by which one transition runs at a time.
    pub turn: tokio::sync::Mutex<()>,
    leavers: Leavers,
    /// Ownerships whose clients may go on here.
    pub lives: Lives,
    pub queue: Queue,
    pub attached: Attached,
    /// Commands that have the volume to themselves.
    pub fillings: Arc<Fillings>,
    pub arrivals: Arrivals,
    pub trouble: Mutex<Trouble>,
    /// Notes of the last takeover, for the user.
    pub notes: Mutex<Notes>,
    pub trail: Trail,
    pub limiter: Limiter,
}

impl Inner {
    pub fn new(context: Arc<VolumeContext>, state: State) -> Arc<Inner> {
        let (turn, leavers, arrivals, trouble, notes, limiter) = Default::default();
        let (queue, attached, fillings, lives) = <(_, _, _, Lives)>::default();
        match &state {
            State::Inert(inert) => lives.begin(inert.shown.all()),
            State::Ended(shown) => lives.begin(shown.iter().flat_map(|shown| shown.all())),
            _ => {}
        }
        let trail = context.engine.memory.ahead.trail();
        let state = Mutex::new(state);
        Arc::new(Inner {
            context,
            state,
            turn,
            leavers,
            lives,
            queue,
            attached,
            fillings,
            arrivals,
            trouble,
            notes,
            trail,
            limiter,
        })
    }

    pub async fn prefetch_map(&self, blocks: Range<u64>) {
        let state = self.state.lock().clone();
        let tree = match state {
            State::Inert(inert) => inert.tables.tip().tree,
            State::Live(session) => session.tip.lock().tables.tip().tree,
            State::Standby(_) | State::Ended(_) | State::Failed(..) => return,
        };
        self.context.view.prefetch_map(&tree, blocks).await;
    }

    pub async fn prefetch(&self, fetch: Fetch) {
        let state = self.state.lock().clone();
        match state {
            State::Inert(inert) => {
                let found = vec![(fetch.blocks(), None)];
                self.context.view.prefetch(&fetch, found, &inert.tables.tip().tree).await;
            }
            State::Live(session) => session.prefetch(&fetch).await,
            State::Standby(_) | State::Ended(_) | State::Failed(..) => {}
        }
    }

    pub fn stands_by(&self) -> Option<Standby> {
        match &*self.state.lock() {
            State::Standby(standby) => Some(*standby),
            _ => None,
        }
    }

    /// Sets the state that a transition has come to, unless the volume has failed meanwhile: that is for good.
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

    pub fn fail(&self, error: Error) {
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

    /// Stops the session that runs, and lets go of the journal.
    pub async fn let_go(self: Arc<Inner>) {
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
            _ => State::Ended(Some(Shown::under(session.epoch))),
        };
    }

    pub async fn own(self: Arc<Inner>, claiming: Claiming) -> Result<()> {
        let _turn = self.turn.lock().await;
        self.own_in_turn(claiming).await
    }

    async fn own_in_turn(self: &Arc<Inner>, claiming: Claiming) -> Result<()> {
        let state = self.state.lock().clone();
        let shown = match state {
            State::Failed(e, _) => return Err(e.share()),
            State::Inert(inert) => Some(inert.shown.clone()),
            State::Standby(_) => None,
            State::Ended(shown) => shown,
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
                    let shown = Some(Shown::under(session.epoch));
                    *self.state.lock() = State::Ended(shown.clone());
                    shown
                }
            },
        };
        if self.leavers.any() || self.context.engine.left.load(Ordering::Relaxed) {
            let why = format!("volume {} is being let go", self.context.title());
            return Err(Error::new(Kind::Unavailable, why));
        }
        let others = self.queue.others.clone();
        let (force, accept_loss) = match claiming {
            Claiming::ByForce { accept_loss } => (true, accept_loss),
            Claiming::ByRight | Claiming::ForStandby => (false, false),
        };
        // A command or the user claims it for clients too, where there are some.
        let shows = claiming == Claiming::ForStandby || self.stands_by().is_some() && self.attached.any();
        let claim_request = ClaimRequest { shown: shown.clone(), others, force, accept_loss, shows };
        match own(&self.context, claim_request, self.leavers.come()).await {
            Ok(owned) => {
                if self.queue.take_asked() {
                    owned.session.rounds.expect_others(self.context.rt().now());
                }
                self.lives.take_in(owned.lives, shown.is_some());
                self.becomes(State::Live(owned.session.clone()));
                self.trouble.lock().said = None;
                self.revive_after(owned.session.clone());
                self.attend_asks(owned.session);
                *self.notes.lock() = owned.notes;
                Ok(())
            }
            Err(Failed { error, tried }) => {
                let e = error.context(format!("volume {}", self.context.title()));
                if let Some(shown) = shown {
                    shown.try_next(tried);
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

    /// Returns the error for a session that ended and could not write its journal out. A restart would have no more, but
    /// clients that see one know that what they had not flushed may be gone. Going on, a later flush would promise them what is
    /// not there.
    fn forgets(&self, error: Error) -> Error {
        // Not of the cause's kind: nothing is to be waited for.
        let why = format!(
            "volume {}: its journal can't be written out, and writes that were acknowledged and not flushed are lost; what was \
             flushed is there when it is opened again: check the disk, then restart what uses it",
            self.context.title()
        );
        Error::new(Kind::Io, why).because(error)
    }

    /// Lets the volume take over from itself when a claim on it was withdrawn, also if nobody asks for anything: what it has
    /// acknowledged is to reach the pool.
    fn revive_after(self: &Arc<Inner>, session: Arc<Session>) {
        let (inner, rt) = (Arc::downgrade(self), self.context.rt().clone());
        let again = rt.clone();
        rt.spawn(async move {
            session.ended().await;
            while session.goes_on() {
                let Some(inner) = inner.upgrade() else { return };
                match inner.own_after(&session).await {
                    Err(e) if e.is_transient() || e.is(Kind::NoSpace) => {
                        again.sleep(AGAIN).await;
                    }
                    _ => return,
                }
            }
        })
        .detach();
    }

    /// Goes on after a session that ended, if nothing has come since: what a client claimed meanwhile, and released, is
    /// nobody's to claim by a timer.
    async fn own_after(self: Arc<Inner>, session: &Arc<Session>) -> Result<()> {
        let _turn = self.turn.lock().await;
        let is_last = match &*self.state.lock() {
            State::Live(now) => Arc::ptr_eq(now, session),
            State::Ended(Some(shown)) => shown.is_under(session.epoch),
            _ => false,
        };
        if is_last { self.own_in_turn(Claiming::ByRight).await } else { Ok(()) }
    }

    /// Hands the volume over when another host asks for it.
    fn attend_asks(self: &Arc<Self>, session: Arc<Session>) {
        let (inner, asked) = (Arc::downgrade(self), session.clone());
        let let_go = move || {
            let (inner, session) = (inner.upgrade(), asked.clone());
            async move {
                match inner {
                    Some(inner) => inner.hand_over(&session).await,
                    None => Err(Stop::Again),
                }
            }
        };
        self.context.rt().spawn(hand_over_when_asked(session, let_go)).detach();
    }

    /// Releases the volume that this session owns, once no command fills it.
    async fn hand_over(self: Arc<Inner>, session: &Arc<Session>) -> Result<(), Stop> {
        loop {
            session.or_end(self.fillings.over()).await?;
            let turn = self.turn.lock().await;
            // A command that came meanwhile waits for this turn, and then takes the volume to be its own.
            if self.fillings.any() {
                continue;
            }
            // The process that is to go on with this host's clients claims what this host owns now.
            if self.context.engine.readers.keeps.load(Ordering::SeqCst) {
                return Err(Error::new(Kind::Unavailable, "another process is about to own it").into());
            }
            // The session that was asked has ended, and another one owns the volume: that one is asked itself.
            if !matches!(&*self.state.lock(), State::Live(now) if Arc::ptr_eq(now, session)) {
                return Err(Stop::Again);
            }
            let done = self.release_in_turn(&LastAct::Release, &CancellationToken::new()).await;
            drop(turn);
            return done;
        }
    }

    pub async fn release(self: Arc<Inner>, act: &LastAct, given_up: &CancellationToken) -> Result<(), Stop> {
        let _turn = self.turn.lock().await;
        self.release_in_turn(act, given_up).await
    }

    async fn release_in_turn(&self, act: &LastAct, given_up: &CancellationToken) -> Result<(), Stop> {
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
            State::Standby(_) | State::Ended(_) => {
                let head = self.context.cell.confirm().await;
                let is_mine = |head: &Head| self.context.engine.host_owns(head);
                let free = head.is_ok_and(|head| head.active.released || stands_by && !is_mine(&head));
                return if free { Ok(()) } else { Err(Stop::Again) };
            }
            // Not as if all that was written were in the pool.
            State::Failed(error, _) => return Err(Stop::Failed(error.share())),
        };
        if matches!(act, LastAct::Release) {
            note_before_release(&self.context).await;
        }
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
                    Err(_) => State::Ended(Some(Shown::under(session.epoch))),
                });
                Ok(())
            }
            (Released::NotYet(stop), _) => Err(stop),
            (Released::Unknown(stop), _) => {
                // All that was acknowledged is under the checkpoint, whatever came of the last act.
                self.becomes(match may_be_asked {
                    true => State::Standby(Standby::unsure()),
                    false => State::Ended(Some(Shown::under(session.epoch))),
                });
                Err(stop)
            }
        }
    }
}
