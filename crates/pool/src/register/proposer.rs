//! The register: reading and changing its value through rounds of its acceptors.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use parking_lot::Mutex;

use super::acceptor::{Cell, Seen, Shown, Stage};
use super::gather_answers::{gather, gather_news};
use super::object::{Acceptor, Ballot, Value};
use crate::stores::register_key;
use crate::stores::{Busy, Roster};
use crate::stores::{PoolConfig, guesses};
use windlass_base::format_limits::HEAD_MAX;
use windlass_base::rt::{Instant, Rt, Task};
use windlass_base::{Error, Generation, Kind, Nonce, RegisterId, Result};
use windlass_store::Etag;

/// Time for which an operation tries before it says who does not answer.
const DEADLINE: Duration = Duration::from_secs(30);
/// Longest pause between attempts; pauses grow up to this.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Time after which an operation no longer waits while too few stores are known to be there.
const AWAY_MAX: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Time after which acceptors that a write did not reach are caught up with.
const CATCH_UP_AFTER: Duration = Duration::from_secs(1);
const CATCH_UP_LOOK: Duration = Duration::from_millis(50);
/// Longest pause before those that were out are caught up with once more; pauses grow up to this.
const CATCH_UP_AGAIN_MAX: Duration = Duration::from_secs(30);
/// Number of looks at acceptors that are being changed before a reader settles the value itself.
const GLANCES: u32 = 3;

/// The decision of a change about the current value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change<T> {
    /// Write this, and return that once it is chosen.
    Put(Bytes, T),
    /// Leave it, and return that once it is certain that the value was the current one.
    Keep(T),
    /// Put nothing, for this reason: the value can't be the current one, whatever the acceptors say, and what they hold stays.
    Refuse(String),
}

/// The function that makes a change of the current value; what its caller gets, it keeps itself.
pub(super) type Step<'a> = dyn FnMut(Option<&Bytes>) -> Result<Change<()>> + Send + 'a;

/// An accept under way or done: the value, and the acceptors whose put was answered.
#[derive(Debug)]
pub(super) struct Accepted {
    pub stage: Arc<Stage>,
    pub value: Value,
    pub ballot: Ballot,
    /// The ballot that the accept promised to itself on every acceptor that took it.
    pub next: Ballot,
    /// The stores that were asked to take it.
    pub asked: BTreeSet<usize>,
    /// Etags of the answered puts, by store; grows while late answers come in.
    pub etags: Mutex<BTreeMap<usize, Etag>>,
}

/// The acceptors as one attempt asks them.
#[derive(Debug)]
pub(super) struct Bench {
    pub stage: Arc<Stage>,
    /// The acceptors by the index of their store in the pool. Which are asked may change within a generation
    /// (`Roster::give_up`).
    pub cells: BTreeMap<usize, Cell>,
    pub majority: usize,
    /// The pool is a generation ahead: before anything is changed here the register is sealed.
    pub behind: bool,
}

/// The outcome of two rounds.
pub(super) enum Outcome<T> {
    Done(T),
    /// The register is in another generation now.
    WentOn,
    /// Others were there, or it is unknown what became of the rounds.
    Lost,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub rt: Rt,
    pub id: RegisterId,
    pub roster: Arc<Roster>,
    /// The generation that the register was seen in last.
    pub stage: Mutex<Option<Arc<Stage>>>,
    /// A lock for one change at a time: a second one would only fight the first for the same etags.
    pub turn: tokio::sync::Mutex<()>,
    /// Our last write, when it was the last thing we did and known chosen.
    pub held: Mutex<Option<Arc<Accepted>>>,
    /// Each acceptor's last failure, for the error that names them.
    troubles: Mutex<BTreeMap<usize, String>>,
}

type Judge = dyn Fn(&Bytes) -> Option<String> + Send + Sync;

/// A caller's judgement on which values can't be the current one, by what it knows; gives the reason.
#[derive(Clone)]
pub struct Veto(Arc<Judge>);

impl Veto {
    pub fn new(judge: impl Fn(&Bytes) -> Option<String> + Send + Sync + 'static) -> Veto {
        Veto(Arc::new(judge))
    }
}

impl std::fmt::Debug for Veto {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Veto")
    }
}

/// A handle on one register; clones share what is known. Everything is safe to drop midway; a dropped change is one
/// of unknown outcome.
#[derive(Clone, Debug)]
pub struct Register {
    pub(super) shared: Arc<Shared>,
    deadline: Duration,
    veto: Option<Veto>,
}

impl Register {
    /// Makes a handle on a register of the pool's stores that hold registers.
    pub fn new(rt: Rt, roster: Arc<Roster>, id: RegisterId) -> Register {
        let shared = Shared {
            rt,
            id,
            roster,
            stage: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            held: Mutex::default(),
            troubles: Mutex::default(),
        };
        Register { shared: Arc::new(shared), deadline: DEADLINE, veto: None }
    }

    /// Returns a handle on this register whose rounds choose no value that can't be the current one: then the operation fails
    /// (`Refused`), and the acceptors keep what they hold. A value that a majority shows already is returned all the same.
    #[must_use]
    pub fn with_veto(&self, veto: Veto) -> Register {
        Register { veto: Some(veto), ..self.clone() }
    }

    /// Returns how often the pool was decided by guess by now.
    pub fn guesses(&self) -> u64 {
        guesses(self.shared.roster.current().generation)
    }

    /// Returns the key of the register's copies.
    pub fn key(&self) -> String {
        register_key(self.shared.id)
    }

    fn judge(&self, current: Option<&Bytes>) -> Option<String> {
        self.veto.as_ref().zip(current).and_then(|(veto, current)| veto.0(current))
    }

    /// Returns a handle on this register with another time after which an operation fails with `Unavailable`.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Register {
        Register { deadline, ..self.clone() }
    }

    /// Reads the current value (linearizable); `None` when nothing was ever put. Takes one round trip while the last write was
    /// ours.
    pub async fn read(&self) -> Result<Option<Bytes>> {
        self.by_deadline(self.shared.read(self), "").await
    }

    /// Returns the value as of a moment after this call: what a flush waits for (protocol §1.5). Costs one small request to
    /// each acceptor while they still have what we wrote, and is a read otherwise. Where the pool has another generation by
    /// now, the register is there too afterwards.
    pub async fn confirm(&self) -> Result<Option<Bytes>> {
        self.by_deadline(self.shared.confirm(self), "").await
    }

    /// Replaces the value by a function of itself. `f` is called again, with the value current then, whenever an attempt
    /// was lost or its outcome is unknown: it must recognise its own earlier success in the value (by a nonce) and answer
    /// `Keep`. Its error ends the change, once it is certain that the value which it judged was the current one.
    /// Any other error leaves open whether a put was chosen or will be.
    pub async fn change<T: Send>(
        &self,
        mut f: impl FnMut(Option<&Bytes>) -> Result<Change<T>> + Send,
    ) -> Result<T> {
        let mut out = None;
        let mut step = |current: Option<&Bytes>| match self.judge(current) {
            Some(why) => Ok(Change::Refuse(why)),
            None => f(current).map(|change| change.keep_in(&mut out)),
        };
        self.take_turn(&mut step, false).await?;
        out.ok_or_else(undecided)
    }

    /// Makes the change behind all others. It knows nothing of what callers make of it, so that it is compiled once.
    pub(super) async fn take_turn(&self, step: &mut Step<'_>, seals: bool) -> Result<()> {
        let run = async {
            let _turn = self.shared.turn.lock().await;
            self.shared.change(step, seals).await
        };
        self.by_deadline(run, "; whether the change was made shows when they answer").await
    }

    pub(super) async fn by_deadline<T>(
        &self,
        run: impl Future<Output = Result<T>>,
        after: &str,
    ) -> Result<T> {
        let begun = self.shared.rt.now();
        // Boxed: whoever asks a register is deep already, and the type of all that together is too long for the compiler.
        let run = self.shared.rt.timeout(self.deadline, Box::pin(run));
        let away = self.shared.away();
        futures::pin_mut!(run, away);
        match select(run, away).await {
            Either::Left((Some(out), _)) => out,
            _ => Err(self.shared.unavailable(self.shared.rt.now().since(begun), after)),
        }
    }
}

impl Shared {
    /// Ends when too few stores have been there for a while: who waits longer learns nothing more.
    async fn away(&self) {
        let mut since = None;
        loop {
            self.rt.sleep(LOOK_EVERY).await;
            let membership = self.roster.current();
            let there = membership.deciding().filter(|m| m.standing().usable()).count();
            if there >= membership.majority() {
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
        let request = bench.cells.get(&index).cloned().map(request);
        let shared = self.clone();
        self.rt.spawn(async move {
            let out = match request {
                Some(request) => request.await,
                None => Err(Error::new(Kind::Refused, "its store was given up")),
            };
            let mut troubles = shared.troubles.lock();
            match &out {
                Err(e) if !e.is(Kind::Refused) => troubles.insert(index, e.to_string()),
                _ => troubles.remove(&index),
            };
            drop(troubles);
            out
        })
    }

    async fn read(self: &Arc<Self>, register: &Register) -> Result<Option<Bytes>> {
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
        self.change(
            &mut |current| {
                value = current.cloned();
                Ok(register.judge(current).map_or(Change::Keep(()), Change::Refuse))
            },
            false,
        )
        .await?;
        Ok(value)
    }

    /// Reads the value; takes a register that a seal of the pool's has not reached into the pool's generation.
    async fn confirm(self: &Arc<Self>, register: &Register) -> Result<Option<Bytes>> {
        loop {
            let before = self.roster.current().generation;
            let value = self.read(register).await?;
            let now = self.stage.lock().as_ref().map_or(Generation(0), |stage| stage.generation);
            if now >= before {
                return Ok(value);
            }
            let _turn = self.turn.lock().await;
            let keep = |current: Option<&Bytes>| {
                Ok(register.judge(current).map_or(Change::Keep(()), Change::Refuse))
            };
            self.change(&mut { keep }, false).await?;
        }
    }

    /// Returns the value, when it can be told without a put.
    pub async fn glance(self: &Arc<Self>) -> Result<Option<Option<Bytes>>> {
        let held = self.held.lock().clone();
        if let Some(held) = held
            && let Some(bench) = self.bench_of(&held.stage)
            && self.unchanged(&bench, &held).await
        {
            return Ok(Some(held.value.bytes.clone()));
        }
        let Some(bench) = self.bench().await? else { return Ok(None) };
        let seen = self.look(&bench, |seen| bench.agreed(seen).is_some()).await?;
        if self.meets_newer(&seen).await? {
            return Ok(None);
        }
        match bench.agreed(&seen) {
            Some(state) if state.value.seal.is_some() => {
                self.go_on(&state.value).await?;
                Ok(None)
            }
            agreed => Ok(agreed.map(|state| state.value.bytes.clone())),
        }
    }

    /// Tells whether a majority of acceptors still have what this write put there.
    async fn unchanged(self: &Arc<Self>, bench: &Bench, held: &Arc<Accepted>) -> bool {
        let etags = held.etags.lock().clone();
        let Some(spare) = etags.len().checked_sub(bench.majority) else { return false };
        let count =
            |answers: &[(usize, bool)], what: bool| answers.iter().filter(|(_, same)| *same == what).count();
        let done = |a: &[(usize, bool)]| count(a, true) >= bench.majority || count(a, false) > spare;
        let asks = etags.into_iter().map(|(index, etag)| {
            self.ask(bench, index, move |cell| async move { Ok((index, cell.still(&etag).await?)) })
        });
        let asks: Vec<_> = asks.collect();
        let answers = gather(&self.rt, asks, bench.majority, done).await;
        if count(&answers, false) > spare {
            // An etag never comes back: not worth asking again.
            self.held.lock().take_if(|now| Arc::ptr_eq(now, held));
        }
        let others = answers.iter().filter(|(_, same)| !same).map(|(index, _)| *index);
        count(&answers, true) >= bench.majority && !self.was_given_up(bench, others.collect()).await
    }

    /// Tells whether a majority of the acceptors that decide now still have this write.
    async fn is_newest(self: &Arc<Self>, accepted: &Arc<Accepted>) -> bool {
        match self.bench_of(&accepted.stage) {
            Some(bench) => self.unchanged(&bench, accepted).await,
            None => false,
        }
    }

    /// Tells whether the pool has given up the acceptors that did not notice another's write (`force-recover`), perhaps a
    /// majority. A newer object that can't be understood counts as such.
    async fn was_given_up(self: &Arc<Self>, bench: &Bench, changed: Vec<usize>) -> bool {
        let looks = changed
            .into_iter()
            .map(|index| self.ask(bench, index, move |cell| async move { Ok((index, cell.look().await?)) }));
        let seen: Vec<_> = futures::future::join_all(looks.collect::<Vec<_>>()).await;
        let seen: Vec<_> = seen.into_iter().filter_map(|out| out.and_then(|out| out).ok()).collect();
        // What can't be understood is no reason to go on.
        self.meets_newer(&seen).await.unwrap_or(true)
    }

    /// Looks at what the acceptors hold; each answer stands beside its acceptor's index.
    pub async fn look(
        self: &Arc<Self>,
        bench: &Bench,
        done: impl Fn(&[(usize, Shown)]) -> bool,
    ) -> Result<Vec<(usize, Shown)>> {
        let asks = bench
            .stores()
            .map(|index| self.ask(bench, index, move |cell| async move { Ok((index, cell.look().await?)) }));
        let asks: Vec<_> = asks.collect();
        let enough = |seen: &[(usize, Shown)]| seen.iter().any(|(_, s)| s.good().is_none()) || done(seen);
        let mut seen = gather_news(&self.rt, asks, bench.majority, enough).await;
        let damaged = bench.take_damaged(&mut seen);
        self.troubles.lock().extend(damaged.into_iter().map(|(index, _, e)| (index, e.to_string())));
        Ok(seen)
    }

    /// Changes the value. `seals`: what is put is the pool's description of its next generation, and the last value of this
    /// one.
    async fn change(self: &Arc<Self>, step: &mut Step<'_>, seals: bool) -> Result<()> {
        // Gone until the end is known: if this is dropped midway, the next change takes both rounds.
        let held = self.held.lock().take();
        if let Some(held) = held
            && !seals
            && let Some(out) = self.change_at_once(held, step).await
        {
            return out;
        }
        let mut pauses = Pauses::new(&self.rt);
        loop {
            match self.change_in_two_rounds(step, seals).await? {
                Outcome::Done(ended) => return ended,
                Outcome::WentOn => {}
                Outcome::Lost => pauses.pause().await,
            }
        }
    }

    /// Changes the value in one round, by the ballot that our last write promised itself. `None`: others were there, or it is
    /// unknown.
    async fn change_at_once(
        self: &Arc<Self>,
        held: Arc<Accepted>,
        step: &mut Step<'_>,
    ) -> Option<Result<()>> {
        let bench = self.bench_of(&held.stage)?;
        match call(step, held.value.bytes.as_ref()) {
            Ok(Change::Put(value, ())) => {
                let over = held.etags.lock().clone();
                let over = over.into_iter().map(|(index, etag)| (index, Some(etag)));
                let value = Value { bytes: Some(value), seal: None };
                self.accept(&bench, held.next, value, over).await.then_some(Ok(()))
            }
            Ok(Change::Refuse(why)) => Some(Err(Error::new(Kind::Refused, why))),
            // Judged by what we wrote last: fine if that is still the value.
            kept => {
                if !self.unchanged(&bench, &held).await {
                    return None;
                }
                *self.held.lock() = Some(held);
                Some(kept.and_then(Change::judged))
            }
        }
    }

    async fn change_in_two_rounds(
        self: &Arc<Self>,
        step: &mut Step<'_>,
        seals: bool,
    ) -> Result<Outcome<Result<()>>> {
        let Some(bench) = self.bench().await? else { return Ok(Outcome::Lost) };
        if bench.behind {
            // Sealed by whoever comes first, always to what the pool register says.
            let seal = self.roster.current().description.clone();
            // The pool's own is behind only where its seal is lost, and another register told of it.
            let tells = self.id == PoolConfig::register(self.roster.pool());
            let decide = |current: Value| {
                let bytes = if tells { Some(seal.clone()) } else { current.bytes };
                Ok((Value { bytes, seal: Some(seal) }, ()))
            };
            return Ok(match self.two_rounds(&bench, decide).await? {
                Outcome::Done(()) => Outcome::WentOn,
                Outcome::WentOn => Outcome::WentOn,
                Outcome::Lost => Outcome::Lost,
            });
        }
        let decide = |current: Value| {
            let wanted = call(step, current.bytes.as_ref());
            // Also what is kept is put: an answer must not rest on a value that is yet to be chosen.
            let value = match &wanted {
                Ok(Change::Put(value, _)) => {
                    Value { bytes: Some(value.clone()), seal: seals.then(|| value.clone()) }
                }
                Ok(Change::Refuse(why)) => return Err(Error::new(Kind::Refused, why.clone())),
                _ => current,
            };
            Ok((value, wanted.and_then(Change::judged)))
        };
        self.two_rounds(&bench, decide).await
    }

    /// Runs prepare and accept, both as puts, above everything read. A value that ends in a seal is chosen as it is.
    async fn two_rounds<T>(
        self: &Arc<Self>,
        bench: &Bench,
        decide: impl FnOnce(Value) -> Result<(Value, T)>,
    ) -> Result<Outcome<T>> {
        let seen = self.look(bench, |_| false).await?;
        if self.meets_newer(&seen).await? {
            return Ok(Outcome::WentOn);
        }
        let seen = seen.into_iter().filter_map(|(index, shown)| Some((index, shown.good()?.clone())));
        self.rounds_over(bench, seen.collect(), decide).await
    }

    pub async fn rounds_over<T>(
        self: &Arc<Self>,
        bench: &Bench,
        seen: Vec<(usize, Seen)>,
        decide: impl FnOnce(Value) -> Result<(Value, T)>,
    ) -> Result<Outcome<T>> {
        let Some(number) = seen.iter().map(|(_, s)| s.state.promised.max(s.state.accepted).number).max()
        else {
            return Ok(Outcome::Lost);
        };
        let ballot = Ballot { number: number + 1, proposer: self.rt.random128() };
        let promises = self.prepare(bench, ballot, seen).await;
        if promises.len() < bench.majority {
            return Ok(Outcome::Lost);
        }
        let newest = promises.iter().map(|(_, _, state)| state).max_by_key(|state| state.accepted);
        let current = newest.map(|state| state.value.clone()).unwrap_or_default();
        let (value, out) = match current.seal.is_some() {
            true => (current, None),
            false => {
                let (value, out) = decide(current)?;
                (value, Some(out))
            }
        };
        let over = promises.into_iter().map(|(index, etag, _)| (index, Some(etag)));
        let chosen = self.accept(bench, ballot, value.clone(), over).await;
        if chosen && value.seal.is_some() {
            self.go_on(&value).await?;
        }
        Ok(match out {
            _ if !chosen => Outcome::Lost,
            Some(out) => Outcome::Done(out),
            None => Outcome::WentOn,
        })
    }

    /// Runs the first round; returns each acceptor that promises, with its etag and the state that its promise covers.
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

    /// Runs the second round; true when the value is chosen. Then it is what the next change builds on.
    pub async fn accept(
        self: &Arc<Self>,
        bench: &Bench,
        ballot: Ballot,
        value: Value,
        over: impl IntoIterator<Item = (usize, Option<Etag>)>,
    ) -> bool {
        let next = ballot.next();
        let state = Acceptor { promised: next, accepted: ballot, value: value.clone() };
        let over: Vec<_> = over.into_iter().collect();
        let (stage, asked) = (bench.stage.clone(), over.iter().map(|(index, _)| *index).collect());
        let accepted = Arc::new(Accepted { stage, value, ballot, next, asked, etags: Mutex::default() });
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
            // Counted from now on, not from its first turn: who ends at once waits for it too.
            self.rt.spawn(self.clone().catch_up(accepted, self.roster.busy())).detach();
        }
        chosen
    }

    /// Brings a chosen write to the acceptors that missed it and promised nothing above it; without that, each slow
    /// answer would leave one more behind until every write needs all that are left. And who confirms cheaply would never
    /// hear what is told by one that has nothing of ours (`was_given_up`).
    async fn catch_up(self: Arc<Self>, accepted: Arc<Accepted>, busy: Busy) {
        // Late answers come by themselves, and who was not asked may be by the next write. At the end there is none.
        let begun = self.rt.now();
        let may_come = |index: &usize| accepted.asked.contains(index) || !self.roster.is_ending();
        while self.missed(&accepted).iter().any(may_come) && self.rt.now().since(begun) < CATCH_UP_AFTER {
            self.rt.sleep(CATCH_UP_LOOK).await;
        }
        self.bring_to_all(&accepted, true).await;
        drop(busy);
        // Whoever dropped the register needs nothing more.
        let (rt, gone) = (self.rt.clone(), Arc::downgrade(&self));
        drop(self);
        let mut pause = CATCH_UP_AFTER;
        while gone.upgrade().is_some_and(|me| !me.missed(&accepted).is_empty()) {
            rt.sleep(pause).await;
            pause = (pause * 2).min(CATCH_UP_AGAIN_MAX);
            if let Some(me) = gone.upgrade() {
                me.bring_to_all(&accepted, false).await;
            }
        }
    }

    /// Returns the acceptors that are not known to have what was written last. None once something else was.
    fn missed(&self, accepted: &Arc<Accepted>) -> Vec<usize> {
        let current = self.held.lock().as_ref().is_some_and(|held| Arc::ptr_eq(held, accepted));
        let Some(bench) = self.bench_of(&accepted.stage).filter(|_| current) else { return Vec::new() };
        let etags = accepted.etags.lock();
        bench.stores().filter(|index| !etags.contains_key(index)).collect()
    }

    async fn bring_to_all(self: &Arc<Self>, accepted: &Arc<Accepted>, mends: bool) {
        for index in self.missed(accepted) {
            let Some(bench) = self.bench_of(&accepted.stage) else { return };
            let there = bench.cells.get(&index).is_some_and(|cell| cell.member.standing().usable());
            if there && self.missed(accepted).contains(&index) {
                // Whoever is still out is caught up with later.
                let _ = self.bring_up(&bench, index, accepted.clone(), mends).await;
            }
        }
    }

    /// Puts a chosen write on an acceptor that did not take part in it, while a majority still has it, asked once it was seen what
    /// is there (model `catchup`). Else all stores may have been put back meanwhile, and one that shows what is gone would be
    /// believed. `mends`: also in the place of what can't be one of ours. A damaged copy may have been one of the majority that
    /// accepted a newer value; but whoever had another value chosen has changed one of those that had ours.
    pub fn bring_up(
        self: &Arc<Self>,
        bench: &Bench,
        index: usize,
        accepted: Arc<Accepted>,
        mends: bool,
    ) -> Task<Result<()>> {
        let nonce = Nonce(self.rt.random128());
        let me = self.clone();
        self.ask(bench, index, move |cell| async move {
            let (etag, promised) = match cell.inspect().await? {
                // What it promised is forgotten; who holds that promise can't use it over another etag.
                Shown::Damaged(etag, _) if mends => (Some(etag), Ballot::default()),
                Shown::Damaged(..) => return Err(taken()),
                // The same.
                Shown::Good(Seen { etag, state, .. })
                    if mends && state.promised.is_leap_from(accepted.ballot.number) =>
                {
                    (etag, Ballot::default())
                }
                Shown::Good(seen) => (seen.etag, seen.state.promised),
                // What was chosen here without it was chosen by stores that the pool has given up.
                Shown::Newer(object) => {
                    me.learn_newer(&object).await?;
                    return Err(taken());
                }
            };
            if promised > accepted.ballot && promised != accepted.next || !me.is_newest(&accepted).await {
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
        let membership = self.roster.current();
        let all = membership.deciding().count();
        let waited = Duration::from_secs(waited.as_secs().max(1));
        let out: Vec<String> = membership
            .deciding()
            .filter_map(|m| m.failing().map(|(_, why)| why).or_else(|| troubles.get(&m.index()).cloned()))
            .collect();
        let why = if out.is_empty() {
            format!(
                "the {all} stores that decide were changed by others all the time for {waited:?}; try again"
            )
        } else {
            format!(
                "too few of the {all} stores that decide answered within {waited:?} ({} needed): {}",
                membership.majority(),
                out.join("; ")
            )
        };
        Error::new(Kind::Unavailable, why + after)
    }
}

impl Bench {
    /// Returns the acceptors that are asked, by the index of their store.
    pub fn stores(&self) -> impl Iterator<Item = usize> {
        self.cells.keys().copied()
    }

    /// Takes out those whose ballot nobody who follows the rules can have come to, and says why. Never asked, they
    /// hinder nobody, as those that are away: what they promised is not needed by a majority of the others.
    pub fn take_damaged(&self, seen: &mut Vec<(usize, Shown)>) -> Vec<(usize, Shown, Error)> {
        let number = |shown: &Shown| shown.good().map_or(0, |s| s.state.promised.number);
        let mut numbers: Vec<u64> = seen.iter().map(|(_, shown)| number(shown)).collect();
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        // What most have come to. Of fewer nothing is decided anyway.
        let Some(usual) = numbers.get(self.majority - 1) else { return Vec::new() };
        let leaps = |shown: &Shown| shown.good().is_some_and(|s| s.state.promised.is_leap_from(*usual));
        let damaged: Vec<_> = seen.extract_if(.., |(_, shown)| leaps(shown)).collect();
        for (index, _) in seen.iter() {
            self.cells.get(index).inspect(|cell| cell.is_sound());
        }
        let named = damaged.into_iter().filter_map(|(index, shown)| {
            let why = format!("its ballot {} is far above the {usual} that most show", number(&shown));
            let e = self.cells.get(&index)?.damage(&Error::new(Kind::Invalid, why));
            Some((index, shown, e))
        });
        named.collect()
    }

    /// Returns the state that a majority has accepted, whatever was promised since.
    pub fn most_show<'a>(&self, seen: &'a [(usize, Shown)]) -> Option<&'a Acceptor> {
        let states = || seen.iter().filter_map(|(_, shown)| Some(&shown.good()?.state));
        let same = |a: &Acceptor| states().filter(|s| s.accepted == a.accepted).count() >= self.majority;
        states().find(|state| same(state))
    }

    /// Returns the state that a majority holds, with no promise above it but its own.
    pub fn agreed<'a>(&self, seen: &'a [(usize, Shown)]) -> Option<&'a Acceptor> {
        let calm = |s: &Acceptor| s.promised <= s.accepted || s.promised == s.accepted.next();
        let states = || seen.iter().filter_map(|(_, shown)| Some(&shown.good()?.state));
        let same =
            |a: &Acceptor| states().filter(|s| s.accepted == a.accepted && calm(s)).count() >= self.majority;
        states().find(|state| same(state))
    }
}

impl<T> Change<T> {
    /// Leaves in `out` what the caller gets should this be the attempt that decides.
    pub(super) fn keep_in(self, out: &mut Option<T>) -> Change<()> {
        match self {
            Change::Put(value, made) => {
                *out = Some(made);
                Change::Put(value, ())
            }
            Change::Keep(made) => {
                *out = Some(made);
                Change::Keep(())
            }
            Change::Refuse(why) => Change::Refuse(why),
        }
    }
}

impl Change<()> {
    fn judged(self) -> Result<()> {
        match self {
            Change::Put(..) | Change::Keep(()) => Ok(()),
            Change::Refuse(why) => Err(Error::new(Kind::Refused, why)),
        }
    }
}

/// Returns the error for a bug: a change that ends well was decided by the last call of its step, which left what it made.
pub(super) fn undecided() -> Error {
    Error::new(Kind::Internal, "a register's change ended without a decision: this is a bug")
}

pub(super) fn taken() -> Error {
    Error::new(Kind::Refused, "another was there first")
}

fn call(step: &mut Step<'_>, current: Option<&Bytes>) -> Result<Change<()>> {
    match step(current)? {
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
