//! Confirm reads (protocol.md §1.5), and the promises that stand on them: flushes, and the journal that failed.
//!
//! Is this epoch still the owner, judged by a register read that began after what is to be promised was stored. One
//! read serves all who wait.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join;

use crate::base::rt::Instant;
use crate::base::{ChunkId, Error, Generation, Kind, Lsn, Result, Seq};
use crate::journal::Ready;
use crate::keys::VolumeKey;
use crate::store::Cause;
use crate::volume::head::Stop;
use crate::volume::head::{FlushMode, HandoverPolicy, MirrorLoss};
use crate::volume::head::{Head, Move};
use crate::volume::mirror::Answer;
use crate::volume::session::Session;

/// How long flushes wait for a journal that can't be begun anew although all is in the pool.
const MEND_PATIENCE: Duration = Duration::from_secs(30);
/// Between rounds that fail, at most.
const ROUND_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Between attempts, at most.
const MEND_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Chunks up to here are confirmed; what is stored was counted on the stores of this generation.
struct Counted {
    generation: Generation,
    /// As often the pool's registers had been decided by guess then.
    guesses: u64,
    upto: Seq,
}

/// Runs rounds as they are asked for. An outage holds: a round is tried again until it says something.
pub async fn confirm_when_asked(session: Arc<Session>) {
    let guesses = session.context.engine.pool.guesses();
    session.rounds.counted_in.store(session.generation().0, Ordering::Relaxed);
    let mut counted =
        Counted { generation: session.generation(), guesses, upto: session.writer.prefix().seq };
    let (mut pause, mut looked) = (session.pause(), session.context.rt().now());
    loop {
        session.wait_for_round(looked).await;
        let (round, dirty) = session.rounds.begin();
        looked = session.context.rt().now();
        let prefix = session.writer.prefix();
        let stored = prefix.lsn;
        let changes = session.changes.load(Ordering::Relaxed);
        let seen = session.confirmed_as_counted(&mut counted).await;
        match seen.and_then(|head| head.owned(session.epoch).map(|()| head)) {
            Ok(head) => {
                counted.upto = counted.upto.max(prefix.seq);
                session.context.follow_name(&head);
                session.attend_others(&head);
                let mut known = session.head.lock();
                let newest = session.changes.load(Ordering::Relaxed) == changes;
                if newest && head.checkpoint.position >= known.checkpoint.position {
                    *known = head;
                }
                drop(known);
                session.mirror.stored(stored);
                session.rounds.succeeded(round);
                pause = session.pause();
                session.journal.trim(stored);
                // What was stored meanwhile, or is under way, is trimmed by a later round.
                if session.tip.lock().lsn > stored {
                    session.rounds.dirty(session.context.rt().now());
                }
            }
            Err(error) => {
                session.rounds.failed(dirty);
                tracing::debug!(volume = %session.context.name(), %error, "not confirmed");
                session.lost(error).await;
                session.context.rt().sleep(pause).await;
                // To count again may cost as many requests as chunks were stored since the checkpoint.
                pause = (pause * 2).min(ROUND_PAUSE_MAX);
            }
        }
    }
}

/// A journal that failed is never trusted again (§3.6): everything is stored and confirmed, then a new file begins, or
/// none for as long as the disk takes none.
pub async fn mend_journal(session: Arc<Session>) {
    loop {
        session.mending.wanted.notified().await;
        let (mut pause, mut ready, mut said) = (session.pause(), None, false);
        while session.journal.failed().is_some() {
            if let Err(stop) = session.mend_once(&mut ready).await {
                let error = stop.error();
                if std::mem::replace(&mut said, true) {
                    tracing::debug!(volume = %session.context.name(), %error, "the journal is not mended yet");
                } else {
                    tracing::warn!(volume = %session.context.name(), %error, "the journal is not mended yet");
                }
                if session.journal.is_void() || session.unmended().is_some() {
                    session.mending.news.notify_waiters();
                }
                session.context.rt().sleep(pause).await;
                pause = (pause * 2).min(MEND_PAUSE_MAX);
            }
        }
        session.mending.news.notify_waiters();
    }
}

impl Session {
    /// Still the owner, seen by a register read that began after this call.
    pub async fn confirm(&self) -> Result<(), Stop> {
        let round = self.rounds.ask();
        self.or_end(self.rounds.wait(round)).await
    }

    /// Whether the head still shows this epoch as the owner's, by a register read that began after this call; a head that
    /// doesn't ends the session. `None`: no answer tells. Other than `confirm` this waits for no round that is under way
    /// (one of its requests may be lost) and counts nothing: a new client waits for it.
    pub async fn is_owner(self: &Arc<Self>) -> Option<Result<(), Stop>> {
        let told = match self.context.cell.confirm().await {
            Ok(head) => {
                self.context.follow_name(&head);
                head.owned(self.epoch)
            }
            Err(error) => Err(error),
        };
        match told {
            Ok(()) => Some(Ok(())),
            Err(error) => {
                self.lost(error).await;
                self.closed().map(Err)
            }
        }
    }

    fn generation(&self) -> Generation {
        self.context.engine.pool.generation()
    }

    /// Whether what is stored was counted on the pool's stores of now.
    pub fn is_counted(&self) -> bool {
        self.generation().0 == self.rounds.counted_in.load(Ordering::Relaxed)
    }

    /// A change of the head that rests on what is stored: only where that was counted on the pool's stores of now.
    pub fn if_counted(&self, change: Move) -> Result<Move> {
        match change {
            Move::To(_) if !self.is_counted() => Err(Error::new(
                Kind::Unavailable,
                "the pool's stores were changed: what is stored is counted again",
            )),
            change => Ok(change),
        }
    }

    /// The head as of a moment after this call, in a generation of the pool in which all that is stored was counted, and with
    /// the w of that head: what lay on a store that was replaced is void (§1.5), and a guess may have forgotten that w was
    /// lowered.
    async fn confirmed_as_counted(&self, counted: &mut Counted) -> Result<Head> {
        loop {
            let known = self.head.lock().checkpoint.position;
            let head = self.context.cell.confirm().await?;
            let (now, guesses) = (self.generation(), self.context.engine.pool.guesses());
            // Who is shut out must hear of it, also where counting fails for good.
            head.owned(self.epoch)?;
            if guesses > 0 {
                self.is_no_older(&head, known)?;
                if self.head.lock().checkpoint.position > head.checkpoint.position {
                    // Recorded while this read was under way: perhaps by stores that are given up now. The next one tells.
                    continue;
                }
            }
            let w = usize::from(head.active.w);
            let thin = self.w_of_all() < w;
            if now == counted.generation && !thin {
                return Ok(head);
            }
            if guesses > counted.guesses || thin {
                // What was confirmed may have been so by stores that are given up: what comes now must not stand behind a gap.
                counted.upto = head.checkpoint.position;
            }
            let done = match thin {
                true => self.count_with_more(w, self.count_again(counted.upto, w, &head)).await,
                false => self.count_again(counted.upto, w, &head).await,
            };
            done?;
            (counted.generation, counted.guesses) = (now, guesses);
            self.rounds.counted_in.store(now.0, Ordering::Relaxed);
        }
    }

    /// A guess may have taken an older head, which needs chunks that were deleted since: nothing that is stored now would be
    /// found behind them.
    fn is_no_older(&self, head: &Head, known: Seq) -> Result<()> {
        // Nor would what a data key has sealed be opened that such a head does not have.
        let sealed_by = self.context.key.as_ref().map_or(0, VolumeKey::number);
        if head.checkpoint.position >= known && head.data_keys().0 >= sealed_by {
            return Ok(());
        }
        Err(Error::new(
            Kind::Fenced,
            "the pool's stores were decided by guess (`pool force-recover`), and what they know of this volume is older than \
             what was recorded from here; open it again to see what is left",
        ))
    }

    /// Every chunk that no confirm has covered is completed to `w` on the stores of now.
    async fn count_again(&self, after: Seq, w: usize, head: &Head) -> Result<()> {
        let pool = &self.context.engine.pool;
        let upto = self.writer.given();
        self.writer.wait_seq(upto).await?;
        for seq in after.0 + 1..=upto.0 {
            let seq = Seq(seq);
            let id = ChunkId { volume: self.context.id, epoch: head.epoch_of(seq), seq };
            if self.chunk_table.lock().has_left(id.seq) {
                continue;
            }
            let probe = pool.probe(&id, &head.witnesses, Cause::Repair).await;
            if probe.good < w {
                let payload = pool.payload(&id, &probe, Cause::Repair).await?;
                self.completed_to(w, &pool.complete(&payload)).await?;
            }
            pool.remember_missing(id, &probe);
        }
        Ok(())
    }

    /// What the head says of other hosts. What is unsent is little from the moment on when one has the volume attached.
    fn attend_others(&self, head: &Head) {
        let now = self.context.rt().now();
        if self.rounds.others.saw(head, self.context.engine.host.id, now) {
            self.work.notify_one();
            self.ripe.notify_one();
        }
    }

    /// `looked`: when the last round began. A volume that another host may ask for is looked at also when nothing was written.
    async fn wait_for_round(&self, looked: Instant) {
        loop {
            let news = self.rounds.news();
            let now = self.context.rt().now();
            let may_be_asked = self.context.settings().handover == HandoverPolicy::Ask;
            let look = may_be_asked.then(|| looked + self.rounds.others.look_after(now));
            match self.rounds.due().into_iter().chain(look).min() {
                Some(at) if at <= now => return,
                Some(at) => {
                    self.context.rt().timeout(at.since(now), news).await;
                }
                None => news.await,
            }
        }
    }

    /// What the volume's flush promises for all that was acknowledged before. A session that is over promises nothing more: what
    /// was written to it may not be in what the volume's owner has.
    pub async fn flush(&self) -> Result<(), Stop> {
        if let Some(stop) = self.closed() {
            return Err(stop);
        }
        match self.context.settings().flush {
            FlushMode::Local => self.sync_journal(None).await,
            FlushMode::Pool => {
                let upto = self.tip.lock().lsn;
                if self.journal.mark() >= upto && self.closed().is_none() {
                    return Ok(());
                }
                self.promise(upto).await
            }
            FlushMode::Mirror => {
                let upto = self.tip.lock().lsn;
                let (local, mirrored) = join(self.sync_journal(None), self.mirrored(upto)).await;
                local.and(mirrored)
            }
        }
    }

    /// On a peer's disk that the head names, or what `mirror-loss` says (model `mirror`: ack).
    async fn mirrored(&self, upto: Lsn) -> Result<(), Stop> {
        loop {
            let news = self.mirror.news.notified();
            let mut news = std::pin::pin!(news);
            news.as_mut().enable();
            let settings = self.context.settings();
            let waits = settings.flush == FlushMode::Mirror && settings.mirror_loss == MirrorLoss::Hold;
            match self.mirror.ask(upto) {
                Answer::Has => return self.closed().map_or(Ok(()), Err),
                Answer::Lost if self.journal.mark() >= upto => return self.closed().map_or(Ok(()), Err),
                Answer::Lost if !waits => return self.promise(upto).await,
                Answer::Waits | Answer::Lost => self.or_end(news).await?,
            }
        }
    }

    /// Stored, then confirmed, then the mark in the journal: survives the loss of this host (§1.5, §3.2).
    pub async fn promise(&self, upto: Lsn) -> Result<(), Stop> {
        self.store(upto).await?;
        self.confirm().await?;
        self.sync_journal(Some(upto)).await
    }

    /// Cuts and waits until all up to here is stored.
    pub async fn store(&self, upto: Lsn) -> Result<(), Stop> {
        {
            let mut tip = self.tip.lock();
            if let Some(stop) = &tip.closed {
                return Err(stop.share());
            }
            tip.pending.want(upto);
        }
        self.work.notify_one();
        match self.or_end(self.writer.wait_lsn(upto)).await? {
            Ok(()) => Ok(()),
            Err(e) => Err(self.explain(e)),
        }
    }

    /// Durable on this host's disk. When that has failed for good: stored and confirmed instead, and a new file begun, or
    /// none while the disk takes none. An error when the disk takes neither for `MEND_PATIENCE`: other than stores, a disk
    /// seldom comes back by itself. What is marked is stored and confirmed already.
    pub async fn sync_journal(&self, mark: Option<Lsn>) -> Result<(), Stop> {
        let upto = self.tip.lock().lsn;
        loop {
            let id = self.journal.id();
            let news = self.mending.news.notified();
            let mut news = std::pin::pin!(news);
            news.as_mut().enable();
            match self.or_end(self.journal.sync(mark)).await? {
                Ok(()) => return Ok(()),
                Err(_) if self.journal.is_void() && mark.is_some() => return Ok(()),
                Err(_) if self.journal.is_void() => {
                    self.store(upto).await?;
                    return self.confirm().await;
                }
                // Begun anew meanwhile.
                Err(_) if self.journal.id() != id => {}
                Err(error) if self.journal.failed().is_some() => {
                    tracing::debug!(volume = %self.context.name(), %error, "a flush waits until all is in the pool");
                    self.mending.want();
                    self.or_end(news).await?;
                    if let Some(error) = self.unmended() {
                        return Err(self.explain(error));
                    }
                }
                Err(error) => return Err(self.explain(error)),
            }
        }
    }

    /// `ready`: the files to begin with, once they are made.
    async fn mend_once(self: &Arc<Self>, ready: &mut Option<Ready>) -> Result<(), Stop> {
        let refused = match ready {
            Some(_) => None,
            None => match self.journal.make_ready().await {
                Ok(made) => {
                    *ready = Some(made);
                    None
                }
                Err(error) => Some(error),
            },
        };
        if let Some(error) = refused.as_ref().filter(|_| self.journal.is_void()) {
            // Nothing changes: writes need not wait for it.
            return Err(error.share().into());
        }
        // Most of it while writes go on; the rest while they wait.
        let upto = self.tip.lock().lsn;
        self.store(upto).await?;
        let _barrier = self.close_gate().await;
        let upto = self.tip.lock().lsn;
        self.store(upto).await?;
        self.confirm().await?;
        let (first, begun) = (upto.next(), ready.take());
        let key = self.context.key.as_ref().map_or(0, VolumeKey::number);
        // A task of its own: cut off midway, what it still removes would be of the journal that is opened next.
        let session = self.clone();
        let begin = self.context.rt().spawn(async move {
            match begun {
                Some(made) => session.journal.restart(made, first, upto).await.map(Some),
                None => session.journal.give_up(first).await.map(|()| None),
            }
        });
        let done = begin.await?;
        match done {
            Ok(None) => {
                self.mending.key.store(key, Ordering::Release);
                *self.mending.held_up.lock() = None;
                let why = refused.map_or_else(String::new, |e| format!(" ({e})"));
                tracing::warn!(
                    volume = %self.context.name(),
                    "the journal takes no writes for now{why}: a flush waits until all is in the pool"
                );
            }
            Ok(Some(id)) => {
                self.writer.set_journal(id);
                self.mending.key.store(key, Ordering::Release);
                *self.mending.held_up.lock() = None;
                tracing::info!(volume = %self.context.name(), "the journal was begun anew");
            }
            Err(error) => {
                // Room comes back, other than a disk that fails: flushes wait for it and say so.
                if !error.is(Kind::NoSpace) {
                    self.mending.held_up.lock().get_or_insert_with(|| self.context.rt().now());
                }
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Why flushes fail: for long enough nothing but the journal's disk was in their way.
    pub fn unmended(&self) -> Option<Error> {
        let since = (*self.mending.held_up.lock())?;
        let error = self.journal.failed().filter(|_| !self.journal.is_void())?;
        (self.context.rt().now().since(since) >= MEND_PATIENCE).then(|| {
            error.context(format!(
                "{}: no flush can be promised, since the journal can't be written, though writes still go to the pool: mend \
                 the disk of the state folder, or stop the daemon and take the volume over from another state folder \
                 (`windlass volume take-over`)",
                self.context.title()
            ))
        })
    }

    /// Writes wait from the session's beginning, until `gate_of_the_start` is dropped: before anybody has the session.
    pub fn begin_gated(&self) {
        self.tip.lock().barrier = true;
    }

    /// Of `begin_gated`, once.
    pub fn gate_of_the_start(&self) -> Gate<'_> {
        Gate { session: self }
    }

    /// Writes wait from here on, until the gate is dropped. One at a time.
    pub async fn close_gate(&self) -> Gate<'_> {
        loop {
            let opened = self.opened.notified();
            let mut opened = std::pin::pin!(opened);
            opened.as_mut().enable();
            {
                let mut tip = self.tip.lock();
                if !tip.barrier {
                    tip.barrier = true;
                    return Gate { session: self };
                }
            }
            opened.await;
        }
    }
}

/// While it lives no write is taken in.
#[derive(Debug)]
pub struct Gate<'a> {
    session: &'a Session,
}

impl Drop for Gate<'_> {
    fn drop(&mut self) {
        self.session.tip.lock().barrier = false;
        self.session.opened.notify_waiters();
    }
}
