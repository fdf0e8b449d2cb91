//! An owner that starts anew hears, before it goes on, what the host has that the head names (model `mirror`: hear).
//!
//! Its own journal may be an older state of itself: a snapshot of the machine that was put back, a copy of the folder, files
//! that were removed. What was flushed since is with that host alone. So it takes in what the session there has beyond its own
//! journal, and from then on the session takes no more records: what else runs under this host's name acknowledges nothing by
//! it any more.

use std::time::Duration;

use futures::future::BoxFuture;

use super::keep::{BEGIN, connect, hung_up, unexpected};
use super::serve::receive;
use crate::head::{Head, Mirror};
use crate::mirror::{Begin, Message};
use crate::read::EngineContext;
use windlass_base::log_record::Record;
use windlass_base::rt::{Link, LinkReceiver, LinkSender, Rt};
use windlass_base::{Error, Kind, Lsn, Result};

/// Time within which the next record has to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// The records that come from that host. While this lives the session there stays as it is.
#[derive(Debug)]
pub struct Heard {
    rt: Rt,
    named: Mirror,
    receiver: Box<dyn LinkReceiver>,
    _sender: Box<dyn LinkSender>,
    /// The last record of the session, or 0.
    end: Lsn,
    last: Lsn,
}

/// Asks the host that the head names for what it has beyond `after`. If that host has no such session, it has
/// nothing, and nobody else has anything.
///
/// # Errors
/// It can't be asked, or what it has is not whole: `refusal` says what to do.
pub fn hear<'f>(
    engine: &'f EngineContext,
    head: &'f Head,
    named: &'f Mirror,
    after: Lsn,
) -> BoxFuture<'f, Result<Heard>> {
    Box::pin(async move {
        let Link { mut sender, mut receiver } = connect(engine).await?;
        let hear = Begin {
            pool: engine.pool.id(),
            volume: head.volume,
            epoch: named.session,
            from: after,
            asked: Some(named.host.id),
            owner: engine.host.clone(),
        };
        sender.send(vec![Message::Hear(hear).frame()]).await?;
        receiver.expect_data();
        let (end, host) = match next(&engine.rt, &mut *receiver, BEGIN).await? {
            Message::Begun { end, host, .. } => (end, host),
            message => return Err(unexpected(message)),
        };
        if host.id != named.host.id {
            let why = format!("`--mirror` leads to {host}, which is another host");
            return Err(Error::new(Kind::Unavailable, why));
        }
        let (rt, named) = (engine.rt.clone(), named.clone());
        Ok(Heard { rt, named, receiver, _sender: sender, end, last: after })
    })
}

/// Makes the error that says what to do where that host can't be heard.
pub fn refusal(named: &Mirror, error: &Error) -> Error {
    let host = &named.host;
    let why = format!(
        "{host} mirrors this volume, and could not be asked for writes that this host's journal may lack: {error}. Start {host} \
         again; if it is lost, `windlass volume take-over --accept-loss` goes on without it"
    );
    Error::new(Kind::Unavailable, why)
}

async fn next(rt: &Rt, receiver: &mut dyn LinkReceiver, patience: Duration) -> Result<Message> {
    let late = || Error::new(Kind::Timeout, "it does not answer");
    let received = rt.timeout(patience, receive(receiver)).await.ok_or_else(late)??;
    received.map(|(message, _)| message).ok_or_else(hung_up)
}

impl Heard {
    /// Tells whether no more records come.
    pub fn is_over(&self) -> bool {
        self.end <= self.last
    }

    /// Returns the last write that comes.
    pub fn upto(&self) -> Lsn {
        self.end
    }

    /// Makes the error of a connection that broke, or on which nothing came.
    fn not_heard(&self, error: Error) -> Error {
        match error.kind() {
            Kind::Corrupt | Kind::Invalid | Kind::Unsupported => error,
            _ => refusal(&self.named, &error),
        }
    }

    /// Returns the next record, in the order of their lsns up to the last. `None` only when all have come.
    pub fn next(&mut self) -> BoxFuture<'_, Result<Option<Record>>> {
        Box::pin(async move {
            let received = next(&self.rt, &mut *self.receiver, PATIENCE).await;
            let record = match received.map_err(|e| self.not_heard(e))? {
                Message::Record(record) => record,
                Message::Ended if self.is_over() => return Ok(None),
                Message::Ended => {
                    let why = format!(
                        "the peer has writes up to {}, and sent them up to {} only",
                        self.end, self.last
                    );
                    return Err(Error::new(Kind::Corrupt, why));
                }
                message => return Err(unexpected(message)),
            };
            if record.lsn <= self.last || record.lsn > self.end {
                let why = format!("the peer sends write {} after {} of {}", record.lsn, self.last, self.end);
                return Err(Error::new(Kind::Invalid, why));
            }
            self.last = record.lsn;
            Ok(Some(record))
        })
    }
}
