//! The peer's side of a mirror: keeps the records of a volume that another host owns, as a session beside its own journals.
//!
//! A connection harms nothing here, whatever comes over it: each message is parsed with bounds, each record takes memory of
//! the budget, and disk within the volume's journal size; a session takes records only of the owner that the head shows, in the
//! order of their lsns. What comes back is only that the disk has them.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};

use crate::head::Head;
use crate::mirror::{Begin, Message, Seat, Sessions, check_whole};
use crate::read::EngineContext;
use windlass_base::log_record::{Mark, Record};
use windlass_base::rt::{Link, LinkReceiver, LinkSender};
use windlass_base::{Epoch, Error, Held, Kind, Lsn, Result, ResultExt as _};
use windlass_journal::Journal;

/// Time within which a host that connects has to say what for.
const BEGIN: Duration = Duration::from_secs(10);
/// Time after which a silent owner is given up: it says something every second.
const SILENCE: Duration = Duration::from_secs(30);
/// Time for which the session's journal may be full: the owner is told how much room there is.
const ROOM: Duration = Duration::from_secs(10);
/// Bytes of records in the journal's buffer, about, beyond which they are synced though nobody has asked for
/// it. A record's memory goes back to the budget when the buffer has the record: else sessions that wait for
/// each other's memory would wait for ever.
const UNSYNCED_MAX: u64 = 4 << 20;

/// Serves one connection to its end. `engine`: of the pool that the owner names, where this host knows it.
///
/// # Errors
/// The reason for the connection's end, unless the owner ended it.
pub async fn serve_mirror<F>(
    rt: windlass_base::rt::Rt,
    engine: impl FnOnce(Begin) -> F,
    link: Link,
) -> Result<()>
where
    F: Future<Output = Result<Arc<EngineContext>>>,
{
    let Link { mut sender, mut receiver } = link;
    let first = rt.timeout(BEGIN, receive(&mut *receiver)).await.ok_or_else(silent)??;
    let (begin, tells) = match first {
        Some((Message::Begin(begin), _)) => (begin, false),
        Some((Message::Hear(hear), _)) => (hear, true),
        Some(_) => return Err(Error::new(Kind::Invalid, "a mirror did not begin with what it is for")),
        None => return Ok(()),
    };
    let served = async {
        let engine = engine(begin.clone()).await?;
        if tells {
            return tell(&engine, &begin, &mut *sender).await;
        }
        let mut session = Kept::begin(engine, begin).await?;
        let done = session.run(&mut *sender, &mut *receiver).await;
        // What is in it is synced as it was promised; nobody else has the folder afterwards.
        let _ = session.journal.close().await;
        done
    };
    let Err(error) = served.await else { return Ok(()) };
    let refused = Message::Refused { closed: error.is(Kind::Fenced), why: error.to_string() };
    let _ = rt.timeout(BEGIN, sender.send(vec![refused.frame()])).await;
    Err(error)
}

fn silent() -> Error {
    Error::new(Kind::Timeout, "the other side of a mirror says nothing")
}

pub(super) async fn receive(receiver: &mut dyn LinkReceiver) -> Result<Option<(Message, Option<Held>)>> {
    let Some(frame) = receiver.receive().await? else { return Ok(None) };
    Ok(Some((Message::parse(&frame.bytes)?, frame.held)))
}

/// A session that takes records.
struct Kept {
    engine: Arc<EngineContext>,
    seat: Seat,
    sessions: Sessions,
    begin: Begin,
    journal: Journal,
    /// Record up to which the session had all that the pool lacks, when the connection began.
    has: Lsn,
    /// The last record that is in the session, or known to be in the pool.
    end: Lsn,
    unsynced: u64,
}

impl Kept {
    /// Begins a session for an owner (model: begin).
    async fn begin(engine: Arc<EngineContext>, begin: Begin) -> Result<Kept> {
        let seat = engine.mirror.sit(begin.volume).await?;
        let head = owner_of(&engine, &begin).await?;
        let sessions = engine.sessions(begin.volume);
        if begin.epoch <= sessions.closed().await? {
            return Err(closed());
        }
        // Another host in the place of the one that was asked for begins as any other.
        if begin.asked == Some(engine.host.id) && !sessions.has(begin.epoch).await? {
            let why = "what was mirrored to this host before is not here any more";
            return Err(Error::new(Kind::Fenced, why));
        }
        let named =
            head.mirror.filter(|mirror| mirror.host.id == engine.host.id).map(|mirror| mirror.session);
        let kept: Vec<Epoch> = named.into_iter().chain([begin.epoch]).collect();
        sessions.keep_only(&kept).await?;
        let like = engine.journal(begin.volume, &head.settings);
        let (journal, has) = sessions.begin(like, &begin).await?;
        let end = journal.end();
        Ok(Kept { engine, seat, sessions, begin, journal, has, end, unsynced: 0 })
    }

    async fn run(&mut self, sender: &mut dyn LinkSender, receiver: &mut dyn LinkReceiver) -> Result<()> {
        let (rt, host) = (self.engine.rt.clone(), self.engine.host.clone());
        // Half: the rest is for what can't be used at the ends of segments.
        let room = self.journal.usage().size / 2;
        sender.send(vec![Message::Begun { end: self.has, room, host }.frame()]).await?;
        loop {
            let left = self.seat.left.clone();
            let (left, next) = (std::pin::pin!(left.cancelled()), std::pin::pin!(receive(receiver)));
            let message = match rt.timeout(SILENCE, select(left, next)).await.ok_or_else(silent)? {
                Either::Left(_) => return Err(self.why_left().await),
                Either::Right((message, _)) => message?,
            };
            let Some((message, held)) = message else { return Ok(()) };
            match message {
                Message::Record(record) => {
                    self.append(&record).await?;
                    drop((record, held));
                    if self.unsynced > UNSYNCED_MAX {
                        self.sync().await?;
                    }
                }
                Message::Trim(lsn) => {
                    self.journal.trim(lsn);
                    self.end = self.end.max(lsn);
                }
                // The disk has the records before the owner hears so: the owner acknowledges flushes on this
                // answer.
                Message::Sync(lsn) if lsn <= self.end => {
                    self.sync().await?;
                    sender.send(vec![Message::Synced(lsn).frame()]).await?;
                }
                Message::Ended => return self.forget().await,
                _ => return Err(Error::new(Kind::Invalid, "the owner says what it may not say now")),
            }
        }
    }

    async fn append(&mut self, record: &Record) -> Result<()> {
        if record.lsn <= self.end {
            let why = format!("record {} comes after {}", record.lsn, self.end);
            return Err(Error::new(Kind::Invalid, why));
        }
        let payload = record.op.payload().len() as u64;
        let cost = self.journal.cost(payload.max(Mark::BYTES_MAX));
        let full = || Error::new(Kind::NoSpace, "the session's journal is full");
        let mut room = self.engine.rt.timeout(ROOM, self.journal.reserve(cost)).await.ok_or_else(full)??;
        self.journal.append(&mut room, record)?;
        (self.end, self.unsynced) = (record.lsn, self.unsynced + payload);
        Ok(())
    }

    /// Syncs what the session has. It must come before a sync is answered.
    async fn sync(&mut self) -> Result<()> {
        self.journal.sync(None).await.context(|| "syncing what is mirrored".into())?;
        self.unsynced = 0;
        Ok(())
    }

    async fn why_left(&self) -> Error {
        match self.sessions.closed().await {
            Ok(mark) if self.begin.epoch > mark => {
                Error::new(Kind::Unavailable, "another connection has come for the same volume")
            }
            _ => closed(),
        }
    }

    /// Removes the sessions, as the owner says that the head names no mirror any more. The head is looked at
    /// first, since what it names must stay.
    async fn forget(&mut self) -> Result<()> {
        let head = self.engine.cell(self.begin.volume).read().await?;
        if head.is_some_and(|head| head.mirror.is_none()) {
            self.journal.close().await?;
            self.sessions.keep_only(&[]).await?;
        }
        Ok(())
    }
}

fn closed() -> Error {
    Error::new(Kind::Fenced, "this host has begun to take the volume over")
}

/// Reads the head, and checks that this ownership is in force in it and that no claim stands over it.
///
/// A host that has lost its disk has also lost its record of having taken the volume over, so the head is the
/// only witness.
async fn owner_of(engine: &EngineContext, begin: &Begin) -> Result<Head> {
    let head = engine.cell(begin.volume).confirm().await?;
    head.owned(begin.epoch)?;
    match head.keys.is_none() {
        true => Ok(head),
        false => Err(Error::new(Kind::Refused, "the volume is encrypted, and its records came in the open")),
    }
}

/// Tells an owner that starts anew what its journal lacks (model: hear). The session takes no more records
/// from here on, as the host that asks may be a copy of the one from which they came.
async fn tell(engine: &Arc<EngineContext>, hear: &Begin, sender: &mut dyn LinkSender) -> Result<()> {
    let _seat = engine.mirror.sit(hear.volume).await?;
    let head = engine.cell(hear.volume).confirm().await?;
    let named = head.mirror.as_ref().filter(|m| m.host.id == engine.host.id && m.session == hear.epoch);
    let owner = head.active.owner.as_ref().filter(|owner| owner.id == hear.owner.id);
    if named.is_none() || owner.is_none() {
        let named = head.mirror.map_or_else(|| "nobody".to_owned(), |mirror| mirror.host.to_string());
        let why = format!("it is {}, and the volume's description names {named}", engine.host);
        return Err(Error::new(Kind::Refused, why));
    }
    let sessions = engine.sessions(hear.volume);
    let begun = |end| Message::Begun { end, room: 0, host: engine.host.clone() }.frame();
    if !sessions.has(hear.epoch).await? {
        sender.send(vec![begun(Lsn(0)), Message::Ended.frame()]).await?;
        return Ok(());
    }
    // Must be durable before the first record is told: a record that came in later would be acknowledged and
    // missing at the asker.
    sessions.close(hear.epoch).await?;
    let (journal, found) = open_session(engine, &head, hear.epoch).await?;
    let end = if found.end < found.first_lsn { Lsn(0) } else { found.end };
    let told = tell_records(&journal, hear.from, begun(end), sender).await;
    let _ = journal.close().await;
    told
}

async fn tell_records(
    journal: &Journal,
    after: Lsn,
    begun: Vec<bytes::Bytes>,
    sender: &mut dyn LinkSender,
) -> Result<()> {
    sender.send(vec![begun]).await?;
    let mut records = journal.replay(after);
    while let Some(record) = records.next().await? {
        sender.send(vec![Message::Record(record).frame()]).await?;
    }
    sender.send(vec![Message::Ended.frame()]).await?;
    Ok(())
}

/// Opens a session that is mirrored here, for reading it back in a take-over.
pub async fn open_session(
    engine: &EngineContext,
    head: &Head,
    epoch: Epoch,
) -> Result<(Journal, windlass_journal::Recovered)> {
    let (sessions, like) = (engine.sessions(head.volume), engine.journal(head.volume, &head.settings));
    let opened = sessions.open(like, head.volume, epoch).await?;
    let gone = || Error::new(Kind::NotFound, "what was mirrored to this host is not here any more");
    let (journal, found) = opened.ok_or_else(gone)?;
    match check_whole(&journal, &found, &sessions.dir(epoch)) {
        Ok(()) => Ok((journal, found)),
        Err(error) => {
            let _ = journal.close().await;
            Err(error)
        }
    }
}
