//! The register: reading and changing its value through rounds of its acceptors.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use parking_lot::Mutex;

use super::acceptor::{Cell, Seen, Shown};
use super::object::{Acceptor, Ballot, Place};
use super::round::gather;
use crate::base::rt::{Instant, Rt, Task};
use crate::base::size::HEAD_MAX;
use crate::base::{Error, Kind, Nonce, RegisterId, Result};
use crate::pool::member::Member;
use crate::pool::roster::Roster;
use crate::store::Etag;

/// How long an operation tries before it says who does not answer.
const DEADLINE: Duration = Duration::from_secs(30);
/// Pauses between attempts grow up to this.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// With too few stores known to be there for so long an operation waits no more.
const AWAY_MAX: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Acceptors that a write did not reach by then are caught up with.
const CATCH_UP_AFTER: Duration = Duration::from_secs(1);
const CATCH_UP_LOOK: Duration = Duration::from_millis(50);
/// Looks at acceptors that are being changed before a reader settles the value itself.
const GLANCES: u32 = 3;

/// What a change makes of the current value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change<T> {
    /// Write this, and return that once it is chosen.
    Put(Bytes, T),
    /// Leave it, and return that once it is certain that the value was the current one.
    Keep(T),
}

/// An accept under way or done: the value, and the acceptors whose put was answered.
#[derive(Debug)]
pub(super) struct Accepted {
    pub value: Option<Bytes>,
    pub ballot: Ballot,
    /// What it promised to itself on every acceptor that took it.
    pub next: Ballot,
    /// Grows while late answers come in.
    pub etags: Mutex<BTreeMap<usize, Etag>>,
}

/// The acceptors as one attempt asks them.
#[derive(Debug)]
pub(super) struct Bench {
    pub cells: Vec<Cell>,
    pub majority: usize,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub rt: Rt,
    id: RegisterId,
    roster: Arc<Roster>,
    /// One change at a time: a second one would only fight the first for the same etags.
    pub turn: tokio::sync::Mutex<()>,
    /// Our last write, when it was the last thing we did and known chosen.
    pub held: Mutex<Option<Arc<Accepted>>>,
    /// Each acceptor's last failure, for the error that names them.
    troubles: Mutex<BTreeMap<usize, String>>,
}

/// A handle on one register; clones share what is known. Everything is safe to drop midway; a dropped change is one
/// of unknown outcome.
#[derive(Clone, Debug)]
pub struct Register {
    pub(super) shared: Arc<Shared>,
    deadline: Duration,
}

impl Register {
    /// On those of the pool's stores that hold registers.
    pub fn new(rt: Rt, roster: Arc<Roster>, id: RegisterId) -> Register {
        let shared = Shared {
            rt,
            id,
            roster,
            turn: tokio::sync::Mutex::default(),
            held: Mutex::default(),
            troubles: Mutex::default(),
        };
        Register { shared: Arc::new(shared), deadline: DEADLINE }
    }

    /// The same register with another time after which an operation fails with `Unavailable`.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Register {
        Register { deadline, ..self.clone() }
    }

    /// The current value (linearizable); `None` when nothing was ever put. One round trip while the last write was ours.
    pub async fn read(&self) -> Result<Option<Bytes>> {
        self.by_deadline(self.shared.read(), "").await
    }

    /// The value as of a moment after this call: what a flush waits for (protocol §1.5). Costs one small request to each
    /// acceptor while they still have what we wrote, and is a read otherwise.
    pub async fn confirm(&self) -> Result<Option<Bytes>> {
        self.read().await
    }

    /// Replaces the value by a function of itself. `f` is called again, with the value current then, whenever an attempt
    /// was lost or its outcome is unknown: it must recognise its own earlier success in the value (by a nonce) and answer
    /// `Keep`. Its error ends the change, once it is certain that the value which it judged was the current one.
    /// Any other error leaves open whether a put was chosen or will be.
    pub async fn change<T: Send>(
        &self,
        mut f: impl FnMut(Option<&Bytes>) -> Result<Change<T>> + Send,
    ) -> Result<T> {
        let run = async {
            let _turn = self.shared.turn.lock().await;
            self.shared.change(&mut f).await
        };
        self.by_deadline(run, "; whether the change was made shows when they answer").await
    }

    pub(super) async fn by_deadline<T>(
        &self,
        run: impl Future<Output = Result<T>>,
        after: &str,
    ) -> Result<T> {
        let begun = self.shared.rt.now();
        let run = self.shared.rt.timeout(self.deadline, run);
        let away = self.shared.away();
        futures::pin_mut!(run, away);
        match select(run, away).await {
            Either::Left((Some(out), _)) => out,
            _ => Err(self.shared.unavailable(self.shared.rt.now().since(begun), after)),
        }
    }
}

impl Shared {
    /// Those that hold the register now.
    pub fn bench(&self) -> Bench {
        let membership = self.roster.current();
        let place = Place { register: self.id, generation: membership.generation };
        let cell = |member: &Arc<Member>| Cell { member: member.clone(), place };
        let cells: Vec<Cell> = membership.acceptor_members().map(cell).collect();
        Bench { majority: cells.len() / 2 + 1, cells }
    }

    /// Ends when too few stores have been there for a while: who waits longer learns nothing more.
    async fn away(&self) {
        let mut since = None;
        loop {
            self.rt.sleep(LOOK_EVERY).await;
            let bench = self.bench();
            let there = bench.cells.iter().filter(|c| c.member.standing().usable()).count();
            if there >= bench.majority {
                since = None;
                continue;
            }
            let now = self.rt.now();
            if now.since(*since.get_or_insert(now)) >= AWAY_MAX {
                return;
            }
        }
    }

    /// Starts one request an acceptor; it goes on if nobody waits any more.
    pub fn ask<T: Send + 'static, F: Future<Output = Result<T>> + Send + 'static>(
        self: &Arc<Self>,
        bench: &Bench,
        index: usize,
        request: impl FnOnce(Cell) -> F,
    ) -> Task<Result<T>> {
        let request = request(bench.cells[index].clone());
        let shared = self.clone();
        self.rt.spawn(async move {
            let out = request.await;
            let mut troubles = shared.troubles.lock();
            match &out {
                Err(e) if !e.is(Kind::Refused) => troubles.insert(index, e.to_string()),
                _ => troubles.remove(&index),
            };
            drop(troubles);
            out
        })
    }

    async fn read(self: &Arc<Self>) -> Result<Option<Bytes>> {
        let mut pauses = Pauses::new(&self.rt);
        for _ in 0..GLANCES {
            if let Some(value) = self.glance().await? {
                return Ok(value);
            }
            pauses.pause().await;
        }
        let _turn = self.turn.lock().await;
        if let Some(value) = self.glance().await? {
            return Ok(value);
        }
        let mut value = None;
        self.change(&mut |current| {
            value = current.cloned();
            Ok(Change::Keep(()))
        })
        .await?;
        Ok(value)
    }

    /// The value, when that can be told without a put.
    async fn glance(self: &Arc<Self>) -> Result<Option<Option<Bytes>>> {
        let bench = self.bench();
        let held = self.held.lock().clone();
        if let Some(held) = held
            && self.unchanged(&bench, &held).await
        {
            return Ok(Some(held.value.clone()));
        }
        let seen = self.look(&bench, |seen| bench.agreed(seen).is_some()).await?;
        Ok(bench.agreed(&seen).map(|state| state.value.clone()))
    }

    /// Do a majority of acceptors still have what this write put there?
    async fn unchanged(self: &Arc<Self>, bench: &Bench, held: &Arc<Accepted>) -> bool {
        let etags = held.etags.lock().clone();
        let spare = etags.len() - bench.majority;
        let count = |answers: &[bool], what: bool| answers.iter().filter(|same| **same == what).count();
        let done = |a: &[bool]| count(a, true) >= bench.majority || count(a, false) > spare;
        let asks = etags
            .into_iter()
            .map(|(index, etag)| self.ask(bench, index, move |cell| async move { cell.still(&etag).await }));
        let asks: Vec<_> = asks.collect();
        let answers = gather(&self.rt, asks, bench.majority, done).await;
        if count(&answers, false) > spare {
            // An etag never comes back: not worth asking again.
            self.held.lock().take_if(|now| Arc::ptr_eq(now, held));
        }
        count(&answers, true) >= bench.majority
    }

    /// What acceptors hold, each beside its index.
    async fn look(
        self: &Arc<Self>,
        bench: &Bench,
        done: impl Fn(&[(usize, Seen)]) -> bool,
    ) -> Result<Vec<(usize, Seen)>> {
        let asks = (0..bench.cells.len())
            .map(|index| self.ask(bench, index, move |cell| async move { Ok((index, cell.look().await?)) }));
        let asks: Vec<_> = asks.collect();
        Ok(gather(&self.rt, asks, bench.majority, done).await)
    }

    async fn change<T: Send>(
        self: &Arc<Self>,
        f: &mut (impl FnMut(Option<&Bytes>) -> Result<Change<T>> + Send),
    ) -> Result<T> {
        // Gone until the end is known: if this is dropped midway, the next change takes both rounds.
        let held = self.held.lock().take();
        if let Some(held) = held
            && let Some(out) = self.change_at_once(held, f).await
        {
            return out;
        }
        let mut pauses = Pauses::new(&self.rt);
        loop {
            if let Some(out) = self.change_in_two_rounds(f).await? {
                return out;
            }
            pauses.pause().await;
        }
    }

    /// By the ballot that our last write promised itself. `None`: others were there, or the outcome is unknown.
    async fn change_at_once<T>(
        self: &Arc<Self>,
        held: Arc<Accepted>,
        f: &mut impl FnMut(Option<&Bytes>) -> Result<Change<T>>,
    ) -> Option<Result<T>> {
        let bench = self.bench();
        match call(f, held.value.as_ref()) {
            Ok(Change::Put(value, out)) => {
                let over = held.etags.lock().clone();
                let over = over.into_iter().map(|(index, etag)| (index, Some(etag)));
                self.accept(&bench, held.next, Some(value), over).await.then_some(Ok(out))
            }
            // Judged by what we wrote last: fine if that is still the value.
            kept => {
                if !self.unchanged(&bench, &held).await {
                    return None;
                }
                *self.held.lock() = Some(held);
                Some(kept.map(Change::into_inner))
            }
        }
    }

    /// Prepare and accept, both as puts, above everything read. `None`: lost, or of unknown outcome.
    async fn change_in_two_rounds<T>(
        self: &Arc<Self>,
        f: &mut impl FnMut(Option<&Bytes>) -> Result<Change<T>>,
    ) -> Result<Option<Result<T>>> {
        let bench = self.bench();
        let seen = self.look(&bench, |_| false).await?;
        let Some(number) = seen.iter().map(|(_, s)| s.state.promised.max(s.state.accepted).number).max()
        else {
            return Ok(None);
        };
        let ballot = Ballot { number: number + 1, proposer: self.rt.random128() };
        let promises = self.prepare(&bench, ballot, seen).await;
        if promises.len() < bench.majority {
            return Ok(None);
        }
        let newest = promises.iter().map(|(_, _, state)| state).max_by_key(|state| state.accepted);
        let current = newest.and_then(|state| state.value.clone());
        let wanted = call(f, current.as_ref());
        // Also what is kept is put: an answer must not rest on a value that is yet to be chosen.
        let value = match &wanted {
            Ok(Change::Put(value, _)) => Some(value.clone()),
            _ => current,
        };
        let over = promises.into_iter().map(|(index, etag, _)| (index, Some(etag)));
        let chosen = self.accept(&bench, ballot, value, over).await;
        Ok(chosen.then(|| wanted.map(Change::into_inner)))
    }

    /// First round: each acceptor that promises, with its etag and the state that its promise covers.
    pub async fn prepare(
        self: &Arc<Self>,
        bench: &Bench,
        ballot: Ballot,
        seen: Vec<(usize, Seen)>,
    ) -> Vec<(usize, Etag, Acceptor)> {
        let asks = seen.into_iter().map(|(index, seen)| {
            let state = Acceptor { promised: ballot, ..seen.state };
            let nonce = Nonce(self.rt.random128());
            self.ask(bench, index, move |cell| async move {
                let etag = cell.write(&state, seen.etag, nonce).await?.ok_or_else(taken)?;
                Ok((index, etag, state))
            })
        });
        let asks: Vec<_> = asks.collect();
        gather(&self.rt, asks, bench.majority, |_| false).await
    }

    /// Second round; true when chosen. Then it is what the next change builds on.
    pub async fn accept(
        self: &Arc<Self>,
        bench: &Bench,
        ballot: Ballot,
        value: Option<Bytes>,
        over: impl IntoIterator<Item = (usize, Option<Etag>)>,
    ) -> bool {
        let next = ballot.next();
        let state = Acceptor { promised: next, accepted: ballot, value: value.clone() };
        let accepted = Arc::new(Accepted { value, ballot, next, etags: Mutex::default() });
        let asks = over.into_iter().map(|(index, over)| {
            let (state, accepted, nonce) = (state.clone(), accepted.clone(), Nonce(self.rt.random128()));
            self.ask(bench, index, move |cell| async move {
                let etag = cell.write(&state, over, nonce).await?.ok_or_else(taken)?;
                accepted.etags.lock().insert(index, etag);
                Ok(())
            })
        });
        let asks: Vec<_> = asks.collect();
        let done = |took: &[()]| took.len() >= bench.majority;
        let chosen = done(&gather(&self.rt, asks, bench.majority, done).await);
        if chosen {
            *self.held.lock() = Some(accepted.clone());
            self.rt.spawn(self.clone().catch_up(accepted)).detach();
        }
        chosen
    }

    /// Brings a chosen write to the acceptors that missed it and promised nothing above it; without that, each slow
    /// answer would leave one more behind until every write needs all that are left.
    async fn catch_up(self: Arc<Self>, accepted: Arc<Accepted>) {
        let _busy = self.roster.busy();
        let bench = self.bench();
        let current = || self.held.lock().as_ref().is_some_and(|held| Arc::ptr_eq(held, &accepted));
        let everywhere = || accepted.etags.lock().len() == bench.cells.len();
        // Late answers come by themselves.
        let begun = self.rt.now();
        while current() && !everywhere() && self.rt.now().since(begun) < CATCH_UP_AFTER {
            self.rt.sleep(CATCH_UP_LOOK).await;
        }
        for index in 0..bench.cells.len() {
            if !current() {
                return;
            }
            if accepted.etags.lock().contains_key(&index) {
                continue;
            }
            let ask = self.bring_up(&bench, index, accepted.clone());
            // Whoever is still out is caught up with after the next write.
            let _ = ask.await;
        }
    }

    /// Puts a chosen write on an acceptor that did not take part in it.
    pub fn bring_up(
        self: &Arc<Self>,
        bench: &Bench,
        index: usize,
        accepted: Arc<Accepted>,
    ) -> Task<Result<()>> {
        let nonce = Nonce(self.rt.random128());
        self.ask(bench, index, move |cell| async move {
            let (etag, promised) = match cell.inspect().await? {
                Shown::Good(seen) => (seen.etag, seen.state.promised),
                // What it promised is forgotten; who holds that promise can't use it over another etag.
                Shown::Damaged(etag, _) => (Some(etag), Ballot::default()),
            };
            if promised > accepted.ballot && promised != accepted.next {
                return Err(taken());
            }
            let (value, promised) = (accepted.value.clone(), accepted.next);
            let state = Acceptor { promised, accepted: accepted.ballot, value };
            let etag = cell.write(&state, etag, nonce).await?.ok_or_else(taken)?;
            accepted.etags.lock().insert(index, etag);
            Ok(())
        })
    }

    fn unavailable(&self, waited: Duration, after: &str) -> Error {
        let troubles = self.troubles.lock();
        let bench = self.bench();
        let all = bench.cells.len();
        let waited = Duration::from_secs(waited.as_secs().max(1));
        let out: Vec<String> = bench
            .cells
            .iter()
            .enumerate()
            .filter_map(|(index, cell)| {
                cell.member.failing().map(|(_, why)| why).or_else(|| troubles.get(&index).cloned())
            })
            .collect();
        let why = if out.is_empty() {
            format!(
                "the {all} stores that decide were changed by others all the time for {waited:?}; try again"
            )
        } else {
            format!(
                "too few of the {all} stores that decide answered within {waited:?} ({} needed): {}",
                bench.majority,
                out.join("; ")
            )
        };
        Error::new(Kind::Unavailable, why + after)
    }
}

impl Bench {
    /// The state that a majority holds, with no promise above it but its own.
    fn agreed<'a>(&self, seen: &'a [(usize, Seen)]) -> Option<&'a Acceptor> {
        let calm = |s: &Acceptor| s.promised <= s.accepted || s.promised == s.accepted.next();
        let same = |a: &Acceptor| {
            let equal = |(_, s): &&(usize, Seen)| s.state.accepted == a.accepted && calm(&s.state);
            seen.iter().filter(equal).count() >= self.majority
        };
        seen.iter().map(|(_, s)| &s.state).find(|state| same(state))
    }
}

impl<T> Change<T> {
    fn into_inner(self) -> T {
        match self {
            Change::Put(_, out) | Change::Keep(out) => out,
        }
    }
}

pub(super) fn taken() -> Error {
    Error::new(Kind::Refused, "another was there first")
}

fn call<T>(
    f: &mut impl FnMut(Option<&Bytes>) -> Result<Change<T>>,
    current: Option<&Bytes>,
) -> Result<Change<T>> {
    match f(current)? {
        Change::Put(value, _) if value.len() > HEAD_MAX => Err(Error::new(
            Kind::Refused,
            format!(
                "a description of {} bytes is over the limit of {HEAD_MAX}: remove clones or snapshots first",
                value.len()
            ),
        )),
        wanted => Ok(wanted),
    }
}

/// Pauses between attempts: random, growing with what an attempt takes, so that one of several proposers gets through.
pub(super) struct Pauses<'a> {
    rt: &'a Rt,
    begun: Instant,
    attempts: u32,
}

impl<'a> Pauses<'a> {
    pub fn new(rt: &'a Rt) -> Pauses<'a> {
        Pauses { rt, begun: rt.now(), attempts: 0 }
    }

    pub async fn pause(&mut self) {
        let took = self.rt.now().since(self.begun).max(Duration::from_millis(5));
        let most = (took * 2u32.saturating_pow(self.attempts.min(8))).min(PAUSE_MAX);
        self.attempts += 1;
        self.rt.sleep(Duration::from_nanos(self.rt.below(most.as_nanos() as u64))).await;
        self.begun = self.rt.now();
    }
}
