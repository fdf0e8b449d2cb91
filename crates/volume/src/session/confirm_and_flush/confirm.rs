//! Confirm reads (protocol.md §1.5): is this epoch still the owner, judged by a register read that began after what is to be
//! promised was stored. One read serves all who wait.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::head::Stop;
use crate::head::{HandoverPolicy, Head, Move, is_no_older};
use crate::session::Session;
use crate::space::Object;
use windlass_base::rt::Instant;
use windlass_base::{ChunkId, Error, Generation, Incarnation, Kind, Result, Seq};
use windlass_keys::VolumeKey;
use windlass_store::Cause;

/// Longest pause between rounds that fail.
const ROUND_PAUSE_MAX: Duration = Duration::from_secs(1);

/// The extent of what was counted: chunks up to `upto` are confirmed, and what is stored was counted on the
/// stores of `generation`.
struct Counted {
    generation: Generation,
    /// Number of times that the pool's registers had been decided by guess when the chunks were counted.
    guesses: u64,
    upto: Seq,
}

/// Runs rounds as they are asked for. A round is tried again until it says something, also through an outage.
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
        // Taken before the head is read: a round confirms only what was stored before its read began.
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
                session.rounds.succeeded(round, looked, stored);
                pause = session.pause();
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

/// Waits until this session is seen to be the owner still, by a register read that began after this call.
pub async fn confirm(session: &Session) -> Result<(), Stop> {
    let round = session.rounds.ask();
    session.or_end(session.rounds.wait(round)).await
}

impl Session {
    /// Tells whether the head still shows this epoch as the owner's, by a register read that began after this
    /// call. A head that doesn't ends the session. `None`: no answer tells.
    ///
    /// Unlike `confirm` this waits for no round that is under way (one of its requests may be lost) and
    /// counts nothing: a new client waits for it.
    ///
    /// # Errors
    /// `Refused`: the stores show an older head than this host has seen recorded.
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
                // Not for a claim that was withdrawn: that ends the session.
                let is_older = error.is(Kind::Refused).then(|| Err(Stop::Failed(error.share())));
                self.lost(error).await;
                self.closed().map(Err).or(is_older)
            }
        }
    }

    pub fn generation(&self) -> Generation {
        self.context.engine.pool.generation()
    }

    /// Tells whether what is stored was counted on the pool's stores of now.
    pub fn is_counted(&self) -> bool {
        self.generation().0 == self.rounds.counted_in.load(Ordering::Relaxed)
    }

    /// Lets a change of the head through that rests on what is stored, and names these packs for the first
    /// time. `Unavailable` unless both were counted on the pool's stores of now.
    pub fn if_counted(&self, change: Move, packs: &[Object]) -> Result<Move> {
        match change {
            Move::To(_) if !self.is_counted() || !self.are_counted(packs) => Err(Error::new(
                Kind::Unavailable,
                "the pool's stores were changed: what is stored is counted again",
            )),
            change => Ok(change),
        }
    }

    /// Reads the head as of a moment after this call, in a generation of the pool in which all that is stored
    /// was counted with the w of that head. What lay on a store that was replaced is void (§1.5), and a guess
    /// may have forgotten that w was lowered.
    async fn confirmed_as_counted(&self, counted: &mut Counted) -> Result<Head> {
        loop {
            // Before the head is read: what is recorded or sealed meanwhile need not be in it.
            let position = self.head.lock().checkpoint.position;
            let sealed_by = self.context.key.as_ref().map_or(0, VolumeKey::number);
            let head = self.context.cell.confirm().await?;
            let (now, guesses) = (self.generation(), self.context.engine.pool.guesses());
            // Who is shut out must hear of it, also where counting fails for good.
            head.owned(self.epoch)?;
            is_no_older(&head, (position, sealed_by), guesses)?;
            if guesses > 0 && self.head.lock().checkpoint.position > head.checkpoint.position {
                // Recorded while this read was under way: perhaps by stores that are given up now. The next one tells.
                continue;
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

    /// Completes every chunk that no confirm has covered to `w` on the stores of now.
    async fn count_again(&self, after: Seq, w: usize, head: &Head) -> Result<()> {
        let upto = self.writer.given();
        self.writer.wait_seq(upto).await?;
        for seq in after.0 + 1..=upto.0 {
            let seq = Seq(seq);
            let id = ChunkId { volume: self.context.id, epoch: head.epoch_of(seq), seq };
            if !self.chunk_table.lock().has_left(id.seq) {
                self.count_one(id, w, &head.witnesses).await?;
            }
        }
        Ok(())
    }

    /// Completes a chunk or pack to `w` on the stores of now. What other stores lack of it is remembered.
    async fn count_one(&self, id: ChunkId, w: usize, witnesses: &[Incarnation]) -> Result<()> {
        let pool = &self.context.engine.pool;
        let probe = pool.probe(&id, witnesses, Cause::Repair).await;
        if probe.good < w {
            // Where a store does not take it fewer shards come to count, as they do for what is written.
            let _putting = self.writer.puts();
            let payload = pool.payload(&id, &probe, Cause::Repair).await?;
            self.completed_to(w, &pool.complete(&payload)).await?;
        }
        pool.remember_missing(id, &probe);
        Ok(())
    }

    /// Completes the packs that the next change of the head names, and that were stored in an earlier
    /// generation of the pool, on the stores of now. No log tells of a pack, so whoever replaces a store
    /// meanwhile can't bring it along.
    ///
    /// # Errors
    /// `Corrupt`: a pack is lost. The next checkpoint is made without it, and its sources stay.
    pub async fn count_packs(&self, named: &[Object]) -> Result<()> {
        for pack in named {
            let (now, id) = (self.generation(), pack.of(self.context.id));
            let known = self.packed.lock().iter().find(|p| p.pack == *pack).map(|p| p.is_counted_in(now));
            if known == Some(true) {
                continue;
            }
            let witnesses = self.head.lock().witnesses.clone();
            let counted = match known {
                Some(_) => self.count_one(id, self.w_of_all(), &witnesses).await,
                None => Err(Error::new(Kind::Corrupt, format!("pack {id} is lost: another is made"))),
            };
            let mut packed = self.packed.lock();
            match &counted {
                Ok(()) => packed.iter_mut().filter(|p| p.pack == *pack).for_each(|p| p.counted_in = now),
                Err(e) if e.is(Kind::Corrupt) => packed.retain(|p| p.pack != *pack),
                Err(_) => {}
            }
            drop(packed);
            counted?;
        }
        Ok(())
    }

    /// Tells whether these packs were counted on the pool's stores of now.
    fn are_counted(&self, named: &[Object]) -> bool {
        let (now, packed) = (self.generation(), self.packed.lock());
        named.iter().all(|pack| packed.iter().any(|p| p.pack == *pack && p.is_counted_in(now)))
    }

    /// Takes in what the head says of other hosts. When one attaches the volume, the cutter and the
    /// checkpointer are woken, so that little stays unsent from then on.
    fn attend_others(&self, head: &Head) {
        let now = self.context.rt().now();
        if self.rounds.others.saw(head, self.context.engine.host.id, now) {
            self.work.notify_one();
            self.ripe.notify_one();
        }
    }

    /// Waits until a round is due. `looked`: when the last round began. A volume that another host may ask
    /// for is looked at also when nothing was written.
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
}
