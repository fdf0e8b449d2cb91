//! The owner's side of a mirror, for as long as a session lives: connects to the peer, brings it what is written, has the head
//! name it, and takes it out of the head when it is lost (model `mirror`: begin, name, send, ack, end, open).
//!
//! Three things run on a connection beside each other: sending, hearing what the peer has synced, and naming. The first that
//! fails ends all; then flushes mean what `mirror-loss` says, and it is tried again.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};

use super::serve::receive;
use crate::head::{FlushMode, Head, Host, MirrorLoss, Move, Stop};
use crate::mirror::{Begin, Message};
use crate::read::EngineContext;
use crate::session::{Gate, Session, confirm, store_upto};
use windlass_base::rt::{Link, LinkReceiver, LinkSender};
use windlass_base::{Error, Kind, Lsn, Nonce, Result};

/// Time after which a peer that has not answered a connection is taken for one that is not there.
const CONNECT: Duration = Duration::from_secs(3);
/// Time that the peer has for its first answer: it looks at the volume's head before.
pub(super) const BEGIN: Duration = Duration::from_secs(10);
/// Time after which a peer that answers no sync is lost: flushes wait no longer for it.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest time between two questions that the peer has to answer.
const PING: Duration = Duration::from_millis(500);
/// Pause after the first failed attempt, doubled with each up to `PAUSE_MAX`.
const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Bytes of records that are given to the network at once.
const BATCH: u64 = 256 << 10;
/// Time that a peer that has begun to take the volume over has to claim it.
const CLAIM: Duration = Duration::from_secs(1);

/// Mirrors the session's journal for as long as the settings want that. Runs with the session. `gated`: the
/// gate is closed since the session began, as the head names another host.
pub async fn keep_mirror(session: Arc<Session>, gated: bool) {
    let context = session.context.clone();
    let rt = context.rt().clone();
    let mut gate = gated.then(|| session.gate_of_the_start());
    let (mut pause, mut said) = (PAUSE, false);
    loop {
        let changed = context.settings_changed.notified();
        let mut changed = std::pin::pin!(changed);
        changed.as_mut().enable();
        if !is_wanted(&session) {
            session.mirror.stop();
            match end(&session).await {
                Ok(()) => {
                    gate = None;
                    changed.await;
                }
                Err(_) => rt.sleep(PAUSE_MAX).await,
            }
            continue;
        }
        let began = rt.now();
        let error = match connect(&session.context.engine).await {
            Ok(link) => {
                said = false;
                run_link(&session, link, &mut gate).await
            }
            Err(error) => error,
        };
        session.mirror.lost(error.to_string());
        if !is_wanted(&session) {
            continue;
        }
        if !std::mem::replace(&mut said, true) {
            tracing::warn!(volume = %context.title(), "the journal is not mirrored for now: {error}");
        }
        if error.is(Kind::Closed) {
            begin_anew(&session).await;
        }
        // What was acknowledged by the peer alone is brought to the pool; then anybody may take the volume over.
        let ends =
            context.settings().mirror_loss == MirrorLoss::Pool || gate.is_some() || names_itself(&session);
        // Not longer than that: the peer may be back before the pool.
        if ends && matches!(rt.timeout(PAUSE_MAX, end(&session)).await, Some(Ok(()))) {
            gate = None;
        }
        if rt.now().since(began) > PAUSE_MAX {
            pause = PAUSE;
        }
        rt.sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn is_wanted(session: &Session) -> bool {
    session.context.settings().flush == FlushMode::Mirror
}

/// Tells whether the head names this host itself. What it took over by its mirror may be in its journal
/// alone, also after that.
fn names_itself(session: &Session) -> bool {
    let head = session.head.lock();
    head.mirror.is_some() && !head.is_mirrored_elsewhere(session.context.engine.host.id)
}

pub(super) async fn connect(engine: &EngineContext) -> Result<Link> {
    let Some(dial) = engine.mirror.dial.clone() else {
        let why = "this host knows no peer: start the daemon with `windlass serve --mirror HOST:PORT`, or write `mirror` into \
                   windlass.toml";
        return Err(Error::new(Kind::Unavailable, why));
    };
    let late = || Error::new(Kind::Timeout, format!("{} does not answer", dial.place()));
    engine.rt.timeout(CONNECT, dial.dial()).await.unwrap_or_else(|| Err(late()))
}

/// Uses a connection until it fails, and returns the reason.
async fn run_link(session: &Arc<Session>, link: Link, gate: &mut Option<Gate<'_>>) -> Error {
    let Link { mut sender, mut receiver } = link;
    let (tip, host) = match begin(session, &mut *sender, &mut *receiver).await {
        Ok(begun) => begun,
        Err(error) => return error,
    };
    let sending = std::pin::pin!(send(session, &mut *sender));
    let hearing = std::pin::pin!(hear(session, &mut *receiver));
    let naming = std::pin::pin!(name(session, tip, &host, gate));
    let error = match select(select(sending, hearing), naming).await {
        Either::Left((Either::Left((error, _)) | Either::Right((error, _)), _))
        | Either::Right((error, _)) => error,
    };
    error.err().unwrap_or_else(|| Error::new(Kind::Internal, "a mirror ended without a reason"))
}

/// Begins a session on the peer (model: begin). Returns the last record at that moment, and who the peer is.
async fn begin(
    session: &Session,
    sender: &mut dyn LinkSender,
    receiver: &mut dyn LinkReceiver,
) -> Result<(Lsn, Host)> {
    let engine = &session.context.engine;
    let (tip, (from, asked)) = {
        let tip = session.tip.lock();
        (tip.lsn, session.mirror.begin(tip.lsn))
    };
    let begin = Begin {
        pool: engine.pool.id(),
        volume: session.context.id,
        epoch: session.epoch,
        from,
        asked,
        owner: engine.host.clone(),
    };
    sender.send(vec![Message::Begin(begin).frame()]).await?;
    let late = || Error::new(Kind::Timeout, "the peer does not answer");
    let (end, room, host) = match engine.rt.timeout(BEGIN, receive(receiver)).await.ok_or_else(late)?? {
        Some((Message::Begun { end, room, host }, _)) => (end, room, host),
        Some((message, _)) => return Err(unexpected(message)),
        None => return Err(hung_up()),
    };
    if host.id == engine.host.id {
        return Err(Error::new(Kind::Usage, "the peer is this host itself: it mirrors nothing"));
    }
    session.mirror.begun(end, room, host.id)?;
    Ok((tip, host))
}

pub(super) fn unexpected(message: Message) -> Error {
    match message {
        Message::Refused { closed, why } => Error::new(
            if closed { Kind::Closed } else { Kind::Unavailable },
            format!("the peer refuses: {why}"),
        ),
        _ => Error::new(Kind::Invalid, "the peer says what it may not say now"),
    }
}

pub(super) fn hung_up() -> Error {
    Error::new(Kind::Unavailable, "the peer has hung up")
}

/// Sends records, syncs and trims until the connection fails or no mirror is wanted (model: send).
async fn send(session: &Arc<Session>, sender: &mut dyn LinkSender) -> Result<()> {
    let (rt, mirror) = (session.context.rt(), &session.mirror);
    let mut asked = rt.now();
    loop {
        if !is_wanted(session) {
            // What is acknowledged from here on is not by the peer.
            mirror.suspend();
            end(session).await.map_err(Stop::error)?;
            sender.send(vec![Message::Ended.frame()]).await?;
            return Err(Error::new(Kind::Closed, "the volume is not to be mirrored any more"));
        }
        let batch = mirror.next(BATCH)?;
        if batch.is_short {
            // Room in the session comes from what is stored and confirmed.
            session.hurry();
            session.rounds.ask();
        }
        let pings = rt.now().since(asked) >= PING;
        let sync = batch.sync.or_else(|| if pings { mirror.sync_all() } else { None });
        let trim = batch.trim.map(|lsn| Message::Trim(lsn).frame());
        let records = batch.records.into_iter().map(|record| Message::Record(record).frame());
        let all = trim.into_iter().chain(records).chain(sync.map(|lsn| Message::Sync(lsn).frame()));
        let frames: Vec<_> = all.collect();
        if sync.is_some() {
            asked = rt.now();
        }
        if frames.is_empty() {
            rt.timeout(PING, mirror.work.notified()).await;
        } else {
            sender.send(frames).await?;
        }
    }
}

/// Takes in the peer's answers (model: ack).
async fn hear(session: &Session, receiver: &mut dyn LinkReceiver) -> Result<()> {
    let late =
        || Error::new(Kind::Timeout, format!("the peer has not answered for {} s", PATIENCE.as_secs()));
    loop {
        match session.context.rt().timeout(PATIENCE, receive(receiver)).await.ok_or_else(late)?? {
            Some((Message::Synced(lsn), _)) => session.mirror.synced(lsn)?,
            Some((message, _)) => return Err(unexpected(message)),
            None => return Err(hung_up()),
        }
    }
}

/// Has the head name the peer once it lacks nothing that the pool lacks (model: name). After that it waits
/// for as long as the connection lasts.
async fn name(session: &Arc<Session>, tip: Lsn, host: &Host, gate: &mut Option<Gate<'_>>) -> Result<()> {
    let mirror = &session.mirror;
    while let Some(upto) = mirror.gap() {
        store_upto(session, upto).await.map_err(Stop::error)?;
        confirm(session).await.map_err(Stop::error)?;
    }
    mirror.want(tip);
    loop {
        let news = mirror.news.notified();
        let mut news = std::pin::pin!(news);
        news.as_mut().enable();
        if mirror.has(tip) {
            break;
        }
        news.await;
    }
    let nonce = Nonce(session.context.rt().random128());
    // Noted before the head is changed: the change may be chosen although its answer is lost.
    mirror.asks(host.id);
    change(session, |head| head.name_mirror(session.epoch, host, nonce)).await.map_err(Stop::error)?;
    mirror.named();
    tracing::info!(volume = %session.context.title(), peer = %host, "the journal is mirrored");
    *gate = None;
    forget_own(session).await;
    std::future::pending().await
}

/// Makes a change of the head that rests on what is stored: where the pool's stores were changed it is
/// counted again first.
async fn change(
    session: &Arc<Session>,
    step: impl Fn(&Head) -> Result<Move> + Send + Sync,
) -> Result<(), Stop> {
    loop {
        let mut uncounted = false;
        let counted = |head: &Head| {
            let done = session.if_counted(step(head)?, &[]);
            uncounted = done.is_err();
            done
        };
        let done = session.change(counted).await;
        match done {
            Err(_) if uncounted => confirm(session).await?,
            done => return done.map(drop),
        }
    }
}

/// Takes the peer out of the head (model: end). The caller sees to it that nothing counts on the peer any
/// more, or only what is stored by then.
async fn end(session: &Arc<Session>) -> Result<(), Stop> {
    if session.head.lock().mirror.is_none() {
        return Ok(());
    }
    let upto = session.tip.lock().lsn;
    store_upto(session, upto).await?;
    confirm(session).await?;
    change(session, |head| head.end_mirror(session.epoch)).await?;
    session.mirror.ended();
    forget_own(session).await;
    Ok(())
}

/// Removes what was mirrored to this host before it became the owner: all of it is in its own journal, and
/// the head does not name it.
async fn forget_own(session: &Session) {
    let engine = &session.context.engine;
    let forgotten = async {
        let _seat = engine.mirror.sit(session.context.id).await?;
        engine.sessions(session.context.id).keep_only(&[]).await
    };
    if let Err(error) = forgotten.await {
        tracing::debug!(volume = %session.context.name(), %error, "an old session of a mirror stays for now");
    }
}

/// Begins anew under another claim, since the peer takes no more records of this ownership. The peer has some
/// time to claim the volume before that.
async fn begin_anew(session: &Arc<Session>) {
    session.context.rt().sleep(CLAIM).await;
    if let Some(Ok(())) = session.is_owner().await {
        tracing::warn!(volume = %session.context.title(), "the peer began to take it over and gave up: going on under a new claim");
        session.go_on_anew();
    }
}
