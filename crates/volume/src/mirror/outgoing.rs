//! What the owner of a volume has yet to bring to its peer, and what the peer is known to have.
//!
//! The order that this keeps (model `mirror`): records are sent in the order of their lsns, and none behind a gap unless the
//! pool has what lies in the gap. A flush counts on the peer only for what the peer has synced while the head is known to name
//! it. A record is kept until the peer's disk has it or the pool does, so that a link that flaps is taken up where it broke.
//!
//! It does no I/O; `mirroring::keep` does. The lock is taken for moments, beneath that of the tip.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use windlass_base::log_record::Record;
use windlass_base::{Error, HostId, Kind, Lsn, Result};

/// Most bytes of records that wait for the peer or for the pool. A peer that is further behind begins anew.
const KEPT_MAX: u64 = 64 << 20;
/// Bytes counted for a record beside its data; also the least that it takes in the peer's journal.
const RECORD_COST: u64 = 4096;
/// Bytes that may be sent and not synced: beyond them a sync is asked for, so that both sides can let go of
/// them.
const UNSYNCED_MAX: u64 = 4 << 20;
/// Bytes of records that are counted together in what the peer's session holds.
const BUCKET: u64 = 1 << 20;

/// The messages that are to be sent next.
#[derive(Debug, Default)]
pub struct Batch {
    pub trim: Option<Lsn>,
    pub records: Vec<Record>,
    pub sync: Option<Lsn>,
    /// Is true if the peer has no room for more until the pool has some of what the peer holds.
    pub is_short: bool,
}

/// The answer to a flush: whether the peer has what is flushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The peer has it, or the pool.
    Has,
    /// The peer is about to have it.
    Waits,
    /// There is no peer that counts.
    Lost,
}

/// The state of the mirror, as people are told it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// Is true if the head names the peer, and the peer takes records.
    pub named: bool,
    pub connected: bool,
    pub why: Option<String>,
    pub lag_bytes: u64,
}

/// The state of one connection.
#[derive(Debug)]
struct LinkState {
    /// The last record that was sent, or that the peer or the pool has; the next record behind it is the
    /// first unsent one.
    sent: Lsn,
    trimmed: Lsn,
    sync_sent: Lsn,
    unsynced: u64,
    /// Contents of the session in buckets, each with its last lsn and its bytes.
    holds: VecDeque<(Lsn, u64)>,
    held: u64,
    room: u64,
}

#[derive(Debug, Default)]
struct State {
    /// Records behind `from` that neither the peer nor the pool has.
    records: VecDeque<Record>,
    bytes: u64,
    from: Lsn,
    /// Record up to which the pool has all, confirmed.
    stored: Lsn,
    /// Record up to which the peer's disk has all that the pool has not.
    synced: Lsn,
    /// Record up to which the peer's disk has all that the pool has not, while the head was known to name the
    /// peer.
    acked: Lsn,
    wanted: Lsn,
    named: bool,
    /// The host whose session the head was asked to name, and may name.
    asked: Option<HostId>,
    /// The peer whose sessions `acked` and `synced` are of.
    peer: Option<HostId>,
    /// The last record that was ever given to the network for each host.
    given: BTreeMap<HostId, Lsn>,
    link: Option<LinkState>,
    overflowed: bool,
    why: Option<String>,
}

/// The owner's side of a mirror, without I/O, as the module describes it.
#[derive(Debug, Default)]
pub struct Mirroring {
    collects: AtomicBool,
    state: Mutex<State>,
    /// Wakes the sender: there is something to send, or the link is to end.
    pub work: Notify,
    /// Wakes flushes, since what they wait for may have changed.
    pub news: Notify,
}

fn cost(record: &Record) -> u64 {
    RECORD_COST + record.op.payload().len() as u64
}

impl State {
    fn drop_upto(&mut self, lsn: Lsn) {
        while let Some(record) = self.records.pop_front_if(|record| record.lsn <= lsn) {
            self.bytes -= cost(&record);
        }
        self.from = self.from.max(lsn);
    }

    fn clear(&mut self) {
        self.records.clear();
        self.bytes = 0;
    }

    fn counts(&mut self) {
        if self.named {
            self.acked = self.acked.max(self.synced);
        }
    }

    /// Returns the index of the first record that was not sent.
    fn unsent(&self, sent: Lsn) -> usize {
        self.records.partition_point(|record| record.lsn <= sent)
    }
}

impl LinkState {
    fn note(&mut self, lsn: Lsn, cost: u64) {
        (self.sent, self.unsynced, self.held) = (lsn, self.unsynced + cost, self.held + cost);
        match self.holds.back_mut() {
            Some((last, bytes)) if *bytes < BUCKET => (*last, *bytes) = (lsn, *bytes + cost),
            _ => self.holds.push_back((lsn, cost)),
        }
    }

    fn trim(&mut self, upto: Lsn) {
        while let Some((_, bytes)) = self.holds.pop_front_if(|(last, _)| *last <= upto) {
            self.held -= bytes;
        }
        (self.trimmed, self.sent) = (self.trimmed.max(upto), self.sent.max(upto));
    }
}

impl Mirroring {
    /// Tells whether records are to be given to `push`. A volume without a mirror pays for nothing but this
    /// question.
    pub fn collects(&self) -> bool {
        self.collects.load(Ordering::Relaxed)
    }

    /// Takes in a record that was just written. Called under the tip's lock, which keeps the order.
    pub fn push(&self, record: &Record) {
        let mut state = self.state.lock();
        if !self.collects() {
            return;
        }
        state.bytes += cost(record);
        state.records.push_back(record.clone());
        if state.bytes > KEPT_MAX {
            self.collects.store(false, Ordering::Relaxed);
            state.clear();
            state.overflowed = true;
            state.named = false;
            drop(state);
            self.news.notify_waiters();
            self.work.notify_one();
            return;
        }
        let sends = state.link.is_some();
        drop(state);
        if sends {
            self.work.notify_one();
        }
    }

    /// Begins a connection, `tip` being the last record. Returns the record behind which everything comes,
    /// and the host whose session the head may name already. Called under the tip's lock.
    pub fn begin(&self, tip: Lsn) -> (Lsn, Option<HostId>) {
        let mut state = self.state.lock();
        if !self.collects() {
            state.clear();
            (state.from, state.overflowed) = (tip, false);
            self.collects.store(true, Ordering::Relaxed);
        }
        (state.named, state.link) = (false, None);
        (state.from, state.asked)
    }

    /// Notes that the head is to be asked to name the session of this host. From now on that session must not
    /// be begun again where it is lost: a take-over by what took its place would miss what was flushed.
    pub fn asks(&self, host: HostId) {
        self.state.lock().asked = Some(host);
    }

    /// Notes that the head names nobody, for certain.
    pub fn ended(&self) {
        self.state.lock().asked = None;
    }

    /// Notes that the peer's session holds all up to `end`, and has so much room.
    ///
    /// # Errors
    /// `Closed`: the session has lost what it had synced, or has what this owner never sent. Then it is
    /// another ownership's of the same number, in a history that the pool knows no more.
    pub fn begun(&self, end: Lsn, room: u64, peer: HostId) -> Result<()> {
        let mut state = self.state.lock();
        if state.peer.replace(peer) != Some(peer) {
            // Nothing of what another host had counts any more, before this one is named.
            (state.acked, state.synced) = (Lsn(0), Lsn(0));
        }
        if end > state.given.get(&peer).copied().unwrap_or(Lsn(0)) {
            let why = format!(
                "the peer has writes up to {end} of an earlier owner that had this one's number: the pool's stores were put back"
            );
            return Err(Error::new(Kind::Closed, why));
        }
        if end.max(state.stored) < state.synced {
            return Err(Error::new(Kind::Closed, "the peer has lost writes that it had on its disk"));
        }
        let (sent, trimmed) = (end, Lsn(0));
        let (sync_sent, unsynced, holds, held) = (Lsn(0), 0, VecDeque::new(), 0);
        state.link = Some(LinkState { sent, trimmed, sync_sent, unsynced, holds, held, room });
        Ok(())
    }

    /// Returns the record up to which the pool must have all before anything is sent: there is a gap between
    /// what the peer has and what comes. `None`: there is no gap.
    pub fn gap(&self) -> Option<Lsn> {
        let state = self.state.lock();
        let sent = state.link.as_ref().map_or(Lsn(0), |link| link.sent);
        (state.from > sent.max(state.stored)).then_some(state.from)
    }

    /// Takes the messages that are to be sent next, with `max` bytes of records or a little more.
    pub fn next(&self, max: u64) -> Result<Batch> {
        let mut state = self.state.lock();
        if state.overflowed {
            return Err(Error::new(
                Kind::Unavailable,
                "the peer and the pool are too slow for what is written",
            ));
        }
        let State { records, stored, wanted, link, from, given, peer, .. } = &mut *state;
        let Some(link) = link else { return Ok(Batch::default()) };
        let mut batch = Batch::default();
        if *stored > link.trimmed {
            link.trim(*stored);
            batch.trim = Some(*stored);
        }
        // Behind a gap nothing is sent.
        if *from > link.sent.max(*stored) {
            return Ok(batch);
        }
        let first = records.partition_point(|record| record.lsn <= link.sent);
        let mut bytes = 0;
        for record in records.range(first..) {
            if bytes >= max {
                break;
            }
            if link.held + cost(record) > link.room {
                batch.is_short = true;
                break;
            }
            bytes += cost(record);
            link.note(record.lsn, cost(record));
            batch.records.push(record.clone());
        }
        if let (Some(peer), Some(last)) = (peer, batch.records.last()) {
            given.insert(*peer, last.lsn);
        }
        let asked = *wanted > link.sync_sent && *wanted <= link.sent;
        if (asked || link.unsynced > UNSYNCED_MAX) && link.sent > link.sync_sent {
            (link.sync_sent, link.unsynced) = (link.sent, 0);
            batch.sync = Some(link.sent);
        }
        Ok(batch)
    }

    /// Returns the record up to which a sync of all that was sent goes. The answer also shows whether the
    /// peer is there.
    pub fn sync_all(&self) -> Option<Lsn> {
        let mut state = self.state.lock();
        let link = state.link.as_mut()?;
        (link.sync_sent, link.unsynced) = (link.sent, 0);
        Some(link.sent)
    }

    /// Takes in the peer's answer to a sync. `Invalid`: no such sync was asked for.
    pub fn synced(&self, lsn: Lsn) -> Result<()> {
        let mut state = self.state.lock();
        let Some(link) = &state.link else { return Ok(()) };
        if lsn > link.sync_sent {
            let why = format!("the peer says that it has writes up to {lsn}, of which it was sent less");
            return Err(Error::new(Kind::Invalid, why));
        }
        state.synced = state.synced.max(lsn);
        state.counts();
        state.drop_upto(lsn);
        drop(state);
        self.news.notify_waiters();
        Ok(())
    }

    /// Tells whether the peer's disk has all up to `lsn`, or the pool does.
    pub fn has(&self, lsn: Lsn) -> bool {
        let state = self.state.lock();
        state.synced.max(state.stored) >= lsn
    }

    /// Asks for a sync of all up to `lsn`.
    pub fn want(&self, lsn: Lsn) {
        let mut state = self.state.lock();
        state.wanted = state.wanted.max(lsn);
        drop(state);
        self.work.notify_one();
    }

    /// Notes that the head names the peer: what the peer has counts from now on, and what it syncs later.
    pub fn named(&self) {
        let mut state = self.state.lock();
        if state.link.is_some() && !state.overflowed {
            (state.named, state.why) = (true, None);
            state.counts();
        }
        drop(state);
        self.news.notify_waiters();
    }

    /// Makes flushes count on the peer no more.
    pub fn suspend(&self) {
        self.state.lock().named = false;
        self.news.notify_waiters();
    }

    /// Notes that the connection has ended, or that none came to be.
    pub fn lost(&self, why: String) {
        let mut state = self.state.lock();
        (state.named, state.link, state.why) = (false, None, Some(why));
        drop(state);
        self.news.notify_waiters();
    }

    /// Ends the collecting of records, since no peer is wanted any more.
    pub fn stop(&self) {
        let mut state = self.state.lock();
        self.collects.store(false, Ordering::Relaxed);
        state.clear();
        (state.named, state.link, state.why) = (false, None, None);
        drop(state);
        self.news.notify_waiters();
    }

    /// Notes that the pool has all up to `lsn`, and that this owner was still the owner after that.
    pub fn stored(&self, lsn: Lsn) {
        if !self.collects() {
            return;
        }
        let mut state = self.state.lock();
        state.stored = state.stored.max(lsn);
        state.drop_upto(lsn);
        let sends = state.link.is_some();
        drop(state);
        if sends {
            self.work.notify_one();
        }
    }

    /// Tells a flush of all up to `upto` whether the peer has it, is about to, or does not count. The peer is
    /// asked for a sync.
    pub fn ask(&self, upto: Lsn) -> Answer {
        let mut state = self.state.lock();
        if state.acked >= upto {
            return Answer::Has;
        }
        if !state.named {
            return Answer::Lost;
        }
        let first = state.wanted < upto;
        state.wanted = state.wanted.max(upto);
        drop(state);
        if first {
            self.work.notify_one();
        }
        Answer::Waits
    }

    pub fn standing(&self) -> Standing {
        let state = self.state.lock();
        let lag = |record: &Record| record.op.payload().len() as u64;
        Standing {
            named: state.named,
            connected: state.link.is_some(),
            why: state.why.clone(),
            lag_bytes: state.records.range(state.unsent(state.synced)..).map(lag).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_base::log_record::Op;

    fn record(lsn: u64) -> Record {
        Record { lsn: Lsn(lsn), op: Op::Zero { block: lsn, blocks: 1 } }
    }

    fn lsns(batch: &Batch) -> Vec<u64> {
        batch.records.iter().map(|record| record.lsn.0).collect()
    }

    const ROOM: u64 = 1 << 30;
    const PEER: HostId = HostId(2);

    #[test]
    fn what_the_peer_synced_counts_once_it_is_named() {
        let m = Mirroring::default();
        assert!(!m.collects() && m.ask(Lsn(0)) == Answer::Has && m.ask(Lsn(1)) == Answer::Lost);
        assert_eq!(m.begin(Lsn(5)), (Lsn(5), None));
        (6..9).for_each(|lsn| m.push(&record(lsn)));
        m.begun(Lsn(0), ROOM, PEER).unwrap();
        assert_eq!(m.gap(), Some(Lsn(5)));
        m.stored(Lsn(5));
        assert_eq!(m.gap(), None);
        let batch = m.next(u64::MAX).unwrap();
        assert_eq!((lsns(&batch), batch.sync), (vec![6, 7, 8], None));
        m.want(Lsn(8));
        assert_eq!(m.next(u64::MAX).unwrap().sync, Some(Lsn(8)));
        assert!(m.synced(Lsn(9)).unwrap_err().is(Kind::Invalid), "it was not sent so much");
        m.synced(Lsn(8)).unwrap();
        assert!(m.has(Lsn(8)) && m.ask(Lsn(8)) == Answer::Lost, "the head does not name it yet");
        m.named();
        assert_eq!((m.ask(Lsn(8)), m.ask(Lsn(9))), (Answer::Has, Answer::Waits));
        m.push(&record(9));
        let batch = m.next(u64::MAX).unwrap();
        assert_eq!((lsns(&batch), batch.sync), (vec![9], Some(Lsn(9))), "a flush waits for it");
        m.lost("it broke".into());
        assert_eq!((m.ask(Lsn(8)), m.ask(Lsn(9))), (Answer::Has, Answer::Lost));
        assert_eq!(m.standing().why.as_deref(), Some("it broke"));
    }

    #[test]
    fn a_link_is_taken_up_where_it_broke_and_never_behind_a_gap() {
        let m = Mirroring::default();
        m.begin(Lsn(0));
        m.begun(Lsn(0), ROOM, PEER).unwrap();
        (1..5).for_each(|lsn| m.push(&record(lsn)));
        m.next(u64::MAX).unwrap();
        m.sync_all();
        m.synced(Lsn(2)).unwrap();
        m.lost(String::new());
        assert_eq!(m.begin(Lsn(4)).0, Lsn(2), "what is not synced comes again");
        m.begun(Lsn(3), ROOM, PEER).unwrap();
        assert_eq!(lsns(&m.next(u64::MAX).unwrap()), [4]);
        // Lost with its disk.
        m.lost(String::new());
        m.begin(Lsn(4));
        assert!(m.begun(Lsn(0), ROOM, PEER).unwrap_err().is(Kind::Closed));
        m.begun(Lsn(0), ROOM, HostId(9)).unwrap();
        m.named();
        assert_eq!(m.ask(Lsn(1)), Answer::Waits, "nothing of what the one before had counts");
        m.lost(String::new());
        m.begun(Lsn(0), ROOM, PEER).unwrap();
        // But what the pool has it need not have. What it never synced the pool must have first.
        m.stored(Lsn(2));
        m.begun(Lsn(0), ROOM, PEER).unwrap();
        assert_eq!((m.gap(), lsns(&m.next(u64::MAX).unwrap())), (None, vec![3, 4]));
        m.lost(String::new());
        (5..7).for_each(|lsn| m.push(&record(lsn)));
        m.stored(Lsn(3));
        m.begin(Lsn(6));
        m.begun(Lsn(0), ROOM, PEER).unwrap();
        let batch = m.next(u64::MAX).unwrap();
        assert_eq!((m.gap(), batch.trim, lsns(&batch)), (None, Some(Lsn(3)), vec![4, 5, 6]));
    }

    /// The pool's stores were put back, and an ownership of the same number was mirrored before that.
    #[test]
    fn what_a_session_has_that_this_owner_never_sent_counts_for_nothing() {
        let m = Mirroring::default();
        m.begin(Lsn(0));
        (1..5).for_each(|lsn| m.push(&record(lsn)));
        assert!(m.begun(Lsn(900), ROOM, PEER).unwrap_err().is(Kind::Closed));
        assert_eq!(m.next(u64::MAX).unwrap().records.len(), 0);
        m.begun(Lsn(0), ROOM, PEER).unwrap();
        m.next(3 * RECORD_COST).unwrap();
        m.lost(String::new());
        m.begin(Lsn(4));
        assert!(m.begun(Lsn(4), ROOM, PEER).unwrap_err().is(Kind::Closed), "3 were sent");
        m.begun(Lsn(3), ROOM, PEER).unwrap();
        // One host's session says nothing of another's.
        m.lost(String::new());
        assert!(m.begun(Lsn(1), ROOM, HostId(9)).unwrap_err().is(Kind::Closed));
        m.begun(Lsn(3), ROOM, PEER).unwrap();
    }

    #[test]
    fn a_session_that_the_head_may_name_is_known_until_the_head_names_nobody() {
        let m = Mirroring::default();
        assert_eq!(m.begin(Lsn(0)).1, None);
        m.asks(PEER);
        m.lost(String::new());
        m.stop();
        assert_eq!(m.begin(Lsn(0)).1, Some(PEER), "the answer may be lost");
        m.ended();
        assert_eq!(m.begin(Lsn(0)).1, None);
    }

    #[test]
    fn what_is_kept_is_bounded_and_so_is_what_the_peer_holds() {
        let m = Mirroring::default();
        m.begin(Lsn(0));
        m.begun(Lsn(0), 3 * RECORD_COST, PEER).unwrap();
        (1..6).for_each(|lsn| m.push(&record(lsn)));
        let batch = m.next(u64::MAX).unwrap();
        assert!(lsns(&batch) == [1, 2, 3] && batch.is_short);
        m.stored(Lsn(3));
        assert_eq!(lsns(&m.next(u64::MAX).unwrap()), [4, 5]);
        m.named();
        (6..6 + KEPT_MAX / RECORD_COST).for_each(|lsn| m.push(&record(lsn)));
        assert!(!m.collects() && m.next(1).is_err() && m.ask(Lsn(6)) == Answer::Lost);
        assert_eq!(m.begin(Lsn(99_999)).0, Lsn(99_999));
        assert!(m.next(1).is_ok());
    }
}
