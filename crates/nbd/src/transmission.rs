//! The server's side of the transmission phase: one task a connection, no lock, no channel.
//!
//! The task turns through four steps until none gets on: take requests out of the window and start them, collect
//! those that finished, write replies, receive. A request is polled once where it is taken: one that needs no
//! waiting (the usual case for a write, and for a read that a cache answers) costs neither a task nor a wake-up, and
//! the replies of all that came in one receive leave in one write. What has to wait goes to a set and is answered
//! in the order in which it finishes.
//!
//! Bounds: `JOBS` requests and about `HELD` bytes (their payloads and replies) a connection; at either, no further
//! request is started, and then nothing more is received. What a connection holds above `memory_share::FLOOR` comes out of the
//! daemon's memory for requests, first come, first served.
//!
//! No request needs that memory to go on, so no client waits for another one. A write is done in pieces as they arrive,
//! one after the other, and each fits the connection's own memory. A read that is longer than that, and for which there
//! is no memory now, is done in parts, each when the one before has left. So what others hold costs speed alone, and
//! who takes no replies is hung up on while others ask for memory (`memory_share::STALL`).
//!
//! Where the export's rate is limited, requests wait for their turn before they take any of that memory: beside it a
//! connection holds the payload of `PARKED` bytes of writes and one piece. At that bound nothing more is received. Until
//! then reads and flushes go past writes that wait.
//!
//! The end (DISC, the peer's end, a broken magic, a broken socket, a server that stops) stops the taking. What was
//! begun is finished, and answered when there is still somebody to answer; but a client that went without DISC sends
//! again on another connection what was not answered, and goes on from there. Its writes, zeroes and trims that wait
//! are given up: done later, they would land on what it has written since. While nothing more is received only a broken
//! connection shows: an orderly end behind unread requests may be a client that has said all and still listens.
//!
//! A server that stops gives work `DRAIN`, then hangs up. It answers nothing with ESHUTDOWN, which the protocol would
//! allow: a client that reconnects (QEMU's reconnect-delay) sends again what a connection lost, but hands an error on to
//! its guest, whose filesystem ends there.
//!
//! A connection that another process is to go on with takes nothing any more, finishes what is under way within `SETTLE`,
//! and gives back the stream with all that it has received and not done. What takes longer is dropped, and done there.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tracing::{debug, warn};

use super::decoder::{Arrived, Facts, Intake, Piece, Refusal};
use super::export::{Export, HeldDisk};
use super::handover_state::{Entered, GivenBack, HeldExport, Unread};
use super::handshake::Session;
use super::job::{
    Extent, Job, Served, StatusContext, Waiting, is_write, payload, start, start_piece, weight,
    weight_of_piece, writes,
};
use super::listener::Stream;
use super::memory_share::{FLOOR, Share};
use super::output::Output;
use super::prefixed_stream::Ahead;
use super::receive_buffer::{WINDOW, Window};
use super::suspend_resume::{Begun, Paused, Until};
use super::wire::{self, Command, Errno, ReplyTo, Request, command_flag};
use windlass_base::rope::Run;
use windlass_base::rt::Rt;
use windlass_base::{Budget, Error, Kind, Result, Rope};

/// Most requests under way on a connection.
const JOBS: usize = 256;
/// Bytes at which a connection starts no further request, or a quarter of the memory for requests where that
/// is less. The last request started may exceed them by its own length.
const HELD: u64 = 32 << 20;
/// Payload bytes of writes waiting for their turn at which nothing more is received.
const PARKED: u64 = FLOOR / 2;
/// Time that a stopping server leaves to requests that are under way.
pub const DRAIN: Duration = Duration::from_secs(10);
/// Time for requests that are under way when another process is to go on with the connection.
pub const SETTLE: Duration = Duration::from_millis(500);
/// Least bytes of zeros side by side that are told as a hole and not sent, where the client understands that.
const HOLE_MIN: usize = 4 << 10;
/// Interval at which a connection is checked for a break while nothing more is received.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Time for a client to receive the end of the connection.
const LINGER: Duration = Duration::from_secs(1);

/// A read that is done in parts. Nothing else is started meanwhile.
#[derive(Clone, Copy, Debug)]
struct Reading {
    request: Request,
    /// Bytes of the read that were asked of the export: all of them once its last part is under way.
    asked: u64,
}

/// Checks the length of what a read returned. Any other length would shift the stream of replies.
fn of_length(read: Result<Rope>, len: u64) -> Result<Rope> {
    match read {
        Ok(data) if data.len() as u64 != len => {
            Err(Error::new(Kind::Internal, "the read gave another length than was asked for"))
        }
        other => other,
    }
}

struct Connection<'e, S> {
    rt: Rt,
    stream: Ahead<S>,
    window: Window,
    intake: Intake,
    /// A message that has arrived and is not started yet, for want of room.
    next: Option<Arrived>,
    /// Requests that wait for their turn. `turned` are those whose turn has come.
    waiting: FuturesUnordered<Waiting<'e>>,
    turned: VecDeque<Arrived>,
    /// Payload of `waiting` and `turned`, in bytes.
    parked: u64,
    /// `waiting` or `turned` hold the first piece of a write that is still arriving.
    parks_piece: bool,
    /// A piece of the write that is still arriving is under way.
    piece: bool,
    /// Error of a piece of that write; the pieces behind it are passed over.
    failed: Option<Error>,
    reading: Option<Reading>,
    output: Output,
    jobs: FuturesUnordered<Job<'e>>,
    /// Number that was given last to an entry of `waiting` or `jobs`: both sets give entries back in no
    /// order.
    number: u64,
    /// Bytes that the jobs weigh together.
    weight: u64,
    /// Bytes at which nothing more is started.
    held_max: u64,
    share: Share,
    session: &'e Session,
    export: &'e dyn Export,
    /// Requests are still taken.
    taking: bool,
    /// The client has said that it goes.
    goodbye: bool,
    /// The socket takes nothing any more.
    broken: bool,
    /// Nothing more is received, for want of room or for a pause.
    deaf: bool,
    /// Timer to the next look at a deaf connection.
    look: Option<BoxFuture<'static, ()>>,
    /// Requests that failed. The log warns of few of them: a client's misfortune must not fill it.
    failures: u64,
    /// Cancellations by the server, and by the export.
    stops: [Pin<Box<WaitForCancellationFutureOwned>>; 2],
    /// Timer that runs since one of `stops` came; the connection is over when it ends.
    drain: Option<BoxFuture<'static, ()>>,
    pause: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Timer that runs since `pause` came. Nothing is begun any more, and what is under way at its end is
    /// given back.
    settle: Option<BoxFuture<'static, ()>>,
}

/// The end of serving a connection, by how it came.
enum End<S> {
    /// The client can still hear: the connection is closed in an orderly way.
    HangUp(Ahead<S>),
    Broken,
    Paused(Box<Paused<S>>),
}

/// Serves one export to one client, to the end or until another process is to go on.
pub async fn transmit<S: Stream>(
    rt: &Rt,
    stream: Ahead<S>,
    begun: Begun,
    session: Session,
    memory: Budget,
    until: Until,
) -> Option<Paused<S>> {
    let end = converse(rt, stream, begun, &session, memory, until).await;
    // The export is let go before the connection closes: once the client notices the end, it counts as gone here.
    drop(session);
    match end {
        End::HangUp(stream) => {
            rt.timeout(LINGER, hang_up(stream)).await;
            None
        }
        End::Broken => None,
        End::Paused(paused) => Some(*paused),
    }
}

async fn converse<S: Stream>(
    rt: &Rt,
    stream: Ahead<S>,
    Begun { window, intake, output }: Begun,
    session: &Session,
    memory: Budget,
    Until { stop, pause }: Until,
) -> End<S> {
    let mut connection = Connection {
        rt: rt.clone(),
        stream,
        window,
        intake,
        next: None,
        waiting: FuturesUnordered::new(),
        turned: VecDeque::new(),
        parked: 0,
        parks_piece: false,
        piece: false,
        failed: None,
        reading: None,
        output,
        jobs: FuturesUnordered::new(),
        number: 0,
        weight: 0,
        held_max: HELD.min(memory.total() / 4),
        share: Share::new(memory),
        session,
        export: &*session.export,
        taking: true,
        goodbye: false,
        broken: false,
        deaf: false,
        look: None,
        failures: 0,
        stops: [stop, session.export.hang_up()].map(|stop| Box::pin(stop.cancelled_owned())),
        drain: None,
        pause: Box::pin(pause.cancelled_owned()),
        settle: None,
    };
    std::future::poll_fn(|cx| connection.poll(cx)).await;
    match connection.broken {
        true => End::Broken,
        false if connection.settle.is_some() && connection.taking => {
            connection.give_back().map_or(End::Broken, |paused| End::Paused(Box::new(paused)))
        }
        false => End::HangUp(connection.stream),
    }
}

/// Ends our direction, then waits for the client's end. Closing a socket with unread bytes in it would throw
/// away replies that are still on their way.
async fn hang_up(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    if stream.shutdown().await.is_ok() {
        let mut rest = [0; 4096];
        while stream.read(&mut rest).await.is_ok_and(|n| n > 0) {}
    }
}

impl<'e, S: Stream> Connection<'e, S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_stop(cx);
        self.poll_pause(cx);
        loop {
            let turned = self.collect_turns(cx);
            let took = self.take_requests(cx);
            let collected = self.collect(cx);
            let wrote = self.poll_write(cx);
            let received = self.poll_receive(cx);
            let asks = self.next.is_some() || self.reading.is_some();
            self.share.holds(self.holds(), asks);
            self.share.moved(wrote);
            if self.is_over() || self.is_settled(cx) {
                return Poll::Ready(());
            }
            if !(turned
                || took
                || collected
                || wrote > 0
                || received
                || self.poll_stall(cx)
                || self.poll_broken(cx))
            {
                return Poll::Pending;
            }
        }
    }

    /// Hangs up on a client that keeps what others wait for; says whether it did.
    fn poll_stall(&mut self, cx: &mut Context<'_>) -> bool {
        if self.broken || self.output.bytes() == 0 {
            self.share.rest();
            return false;
        }
        let stalled = self.share.poll_stall(&self.rt, cx);
        if stalled {
            let (export, bytes) = (&self.session.name, self.holds());
            warn!(
                ?export,
                bytes,
                "a client is dropped: it takes no replies while others wait for the memory that they hold"
            );
            self.lose();
        }
        stalled
    }

    /// Looks now and then whether a connection broke of which nothing more is received; says whether it did.
    fn poll_broken(&mut self, cx: &mut Context<'_>) -> bool {
        while self.deaf {
            let look = self.look.get_or_insert_with(|| self.rt.sleep(LOOK_EVERY));
            if look.poll_unpin(cx).is_pending() {
                return false;
            }
            self.look = None;
            if self.stream.is_broken() {
                debug!(export = ?self.session.name, "the client is gone");
                self.deaf = false;
                self.lose();
                return true;
            }
        }
        false
    }

    /// Ends the connection at once: nobody is there any more.
    fn lose(&mut self) {
        self.broken = true;
        self.end();
        self.waiting.clear();
        self.turned.clear();
        self.reading = None;
        self.output.discard();
    }

    /// Takes no more requests: the client is gone, or as good as gone. Without its goodbye all its writes,
    /// zeroes and trims that are not done are given up.
    fn end(&mut self) {
        self.taking = false;
        self.next = None;
        if self.goodbye {
            return;
        }
        self.turned.retain(|arrived| !is_write(arrived));
        for one in std::mem::take(&mut self.waiting) {
            if !one.arrived.as_ref().is_some_and(is_write) {
                self.waiting.push(one);
            }
        }
        (self.parked, self.parks_piece) = (0, false);
        let before = self.jobs.len();
        for job in std::mem::take(&mut self.jobs) {
            match writes(&job.request) {
                true => self.weight -= job.weight,
                false => self.jobs.push(job),
            }
        }
        let given_up = before - self.jobs.len();
        if given_up > 0 {
            debug!(export = ?self.session.name, given_up, "writes of a client that is gone are given up");
        }
    }

    fn holds(&self) -> u64 {
        self.weight + self.output.bytes() as u64
    }

    fn is_over(&self) -> bool {
        let begun = !self.jobs.is_empty() || self.reading.is_some() || !self.output.is_done();
        !self.taking && !begun && self.waiting.is_empty() && self.turned.is_empty()
    }

    fn poll_stop(&mut self, cx: &mut Context<'_>) {
        if self.drain.is_none() && self.stops.iter_mut().any(|stop| stop.as_mut().poll(cx).is_ready()) {
            self.drain = Some(self.rt.sleep(DRAIN));
            (self.taking, self.next) = (false, None);
            // Not begun either.
            self.waiting.clear();
            self.turned.clear();
        }
        if let Some(time) = &mut self.drain
            && time.poll_unpin(cx).is_ready()
        {
            warn!(export = ?self.session.name, requests = self.jobs.len(), "requests were given up: a client is hung up on");
            self.jobs.clear();
            self.reading = None;
            self.output.discard();
            self.broken = true;
        }
    }

    fn poll_pause(&mut self, cx: &mut Context<'_>) {
        if self.settle.is_none() && self.pause.as_mut().poll(cx).is_ready() {
            self.settle = Some(self.rt.sleep(SETTLE));
        }
    }

    /// Tells whether another process can go on now: nothing is under way any more, or something has been for
    /// too long.
    fn is_settled(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(time) = self.settle.as_mut().filter(|_| self.taking) else { return false };
        if self.jobs.is_empty() && self.reading.is_none() {
            return true;
        }
        if time.poll_unpin(cx).is_pending() {
            return false;
        }
        if self.reading.is_some() {
            warn!(export = ?self.session.name, "a client is dropped: it has a part of a read, and the rest takes too long");
            self.broken = true;
        }
        true
    }

    /// Returns the stream with all that was received and not done, and the replies that were not sent. None
    /// of the requests given back was answered. `None`: the state can't be told to another process.
    fn give_back(mut self) -> Option<Paused<S>> {
        let mut unread = Unread::new(self.session.headers, self.intake.resumed());
        let mut jobs: Vec<_> = std::mem::take(&mut self.jobs).into_iter().collect();
        // The set is in no order, and the next process is to start these requests as they came.
        jobs.sort_by_key(|job| job.number);
        for job in jobs {
            match &job.piece {
                Some(piece) => unread.piece(piece),
                None => unread.request(&job.request),
            }
        }
        let mut waiting: Vec<_> = std::mem::take(&mut self.waiting).into_iter().collect();
        waiting.sort_by_key(|waiting| waiting.number);
        let waiting = waiting.into_iter().filter_map(|waiting| waiting.arrived);
        // In the order in which they would be started. What goes on with a piece under way can only be `next`.
        let (next, turned) = (self.next.take(), std::mem::take(&mut self.turned));
        for arrived in next.into_iter().chain(turned).chain(waiting) {
            match arrived {
                Arrived::Request(request) => unread.request(&request),
                Arrived::Piece(piece) if self.failed.is_none() || piece.is_first() => unread.piece(&piece),
                Arrived::Piece(Piece { request, last: true, .. }) => {
                    let failed = self.failed.take();
                    self.reply(&request, failed.map_or_else(|| Ok(Rope::default()), Err));
                }
                Arrived::Piece(_) => {}
                Arrived::Refused { request, refusal: Refusal { errno, why } } => {
                    self.reply_error(&request, errno, &why);
                }
                Arrived::Disconnect => unread.request(&Request::disconnect()),
            }
        }
        let failed = self.failed.take().map(|e| {
            let why = wire::bounded(&e.to_string()).to_owned();
            Refusal { errno: Errno::of(e.kind()), why: why.into() }
        });
        let (ahead, stream) = self.stream.into_parts();
        let behind = [self.window.bytes(), &ahead].concat();
        let given_back = unread.finish(self.intake.take_rest(), failed, &behind);
        if given_back.is_none() {
            warn!(export = ?self.session.name, "a client is dropped: it is in the middle of a request that is refused, and others wait");
        }
        let GivenBack { unread, passed_over, resumed } = given_back?;
        // By the name that it has now: it may have been renamed since.
        let (asked, mut agreed) = (self.export.describe().name, self.session.agreed.clone());
        if agreed.contexts.of == self.session.asked {
            agreed.contexts.of.clone_from(&asked);
        }
        let since = self.session.contexts.iter().filter_map(StatusContext::held).collect();
        let (flags, size, holding) = (self.session.flags, self.export.size(), self.export.holding());
        // What it holds is asked of `holding` when it is told.
        let export = HeldExport::Held(HeldDisk::default());
        let entered = Entered { asked, export, size, flags, agreed, since, passed_over, resumed };
        Some(Paused { stream, entered, holding, unread, unsent: self.output.take() })
    }

    /// Returns the message to start next, if it has arrived and its turn has come. A request that came in
    /// full before the client's end is still started.
    fn arrived(&mut self, cx: &mut Context<'_>) -> Option<Arrived> {
        if self.next.is_some() {
            return self.next.take();
        }
        if let Some(turned) = self.turned.pop_front() {
            self.parked -= payload(&turned);
            self.parks_piece &= !matches!(turned, Arrived::Piece(Piece { last: false, .. }));
            return Some(turned);
        }
        while self.taking && !self.parks_enough() {
            let Session { flags, headers, contexts, .. } = self.session;
            let (size, status) = (self.export.size(), !contexts.is_empty());
            let facts = Facts { size, flags: *flags, status, headers: *headers };
            let next = self.intake.next(&mut self.window, facts).unwrap_or_else(|e| {
                warn!(export = ?self.session.name, error = %e, "a client is dropped");
                self.end();
                None
            });
            let ready = self.wait_turn(next?, cx);
            if ready.is_some() {
                return ready;
            }
        }
        None
    }

    /// Puts a message that has to wait for its turn into `waiting`. Returns it when it has nothing to wait
    /// for.
    fn wait_turn(&mut self, arrived: Arrived, cx: &mut Context<'_>) -> Option<Arrived> {
        let turn = match &arrived {
            Arrived::Request(Request { command: Command::Read, len, .. }) => self.export.turn(false, *len),
            Arrived::Request(request) if writes(request) => self.export.turn(true, 0),
            Arrived::Piece(piece) if piece.is_first() => self.export.turn(true, piece.request.len),
            _ => None,
        };
        let Some(mut turn) = turn else { return Some(arrived) };
        if turn.poll_unpin(cx).is_ready() {
            return Some(arrived);
        }
        self.parked += payload(&arrived);
        self.parks_piece |= matches!(arrived, Arrived::Piece(Piece { last: false, .. }));
        self.number += 1;
        self.waiting.push(Waiting { arrived: Some(arrived), turn, number: self.number });
        None
    }

    /// Tells whether so much waits for its turn that nothing more is taken in.
    fn parks_enough(&self) -> bool {
        let many = self.waiting.len() + self.turned.len() + self.jobs.len() >= JOBS;
        self.parks_piece || self.parked >= PARKED || many && !self.waiting.is_empty()
    }

    /// Moves messages whose turn has come to `turned`; says whether there were any.
    fn collect_turns(&mut self, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        while let Poll::Ready(Some(arrived)) = self.waiting.poll_next_unpin(cx) {
            self.turned.push_back(arrived);
            any = true;
        }
        any
    }

    /// Starts what has arrived; says whether anything was.
    fn take_requests(&mut self, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        while self.reading.is_none() && self.settle.is_none() {
            let Some(arrived) = self.arrived(cx) else { break };
            if !self.has_room(&arrived, cx) && !self.begin_reading(&arrived) {
                self.next = Some(arrived);
                break;
            }
            if self.reading.is_none() {
                self.take(arrived, cx);
            }
            any = true;
        }
        self.read_on(cx) || any
    }

    fn has_room(&mut self, arrived: &Arrived, cx: &mut Context<'_>) -> bool {
        let holds = self.holds();
        // Even the shortest reply is memory when there are many.
        let (more, in_turn) = match arrived {
            Arrived::Request(request) => (weight(request, &self.session.contexts), true),
            Arrived::Piece(piece) => (weight_of_piece(piece), !self.piece),
            _ => (0, true),
        };
        let bounded = self.jobs.len() < JOBS && holds < self.held_max;
        in_turn && bounded && self.share.reserve(holds, more.max(1), cx)
    }

    /// Begins a long read in parts, since there is no memory for all of it now; says whether it did. Nothing
    /// else may be under way.
    fn begin_reading(&mut self, arrived: &Arrived) -> bool {
        match arrived {
            Arrived::Request(request)
                if request.command == Command::Read
                    && request.len > FLOOR
                    && self.jobs.is_empty()
                    && self.output.bytes() == 0 =>
            {
                self.reading = Some(Reading { request: *request, asked: 0 });
                true
            }
            _ => false,
        }
    }

    /// Starts the next part of the read that is done in parts, when the one before has left.
    fn read_on(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(Reading { request, asked }) = self.reading else { return false };
        if asked == request.len {
            return false;
        }
        // Asked for in any case: so others know that somebody could do with more.
        let left = request.len - asked;
        let all = self.share.reserve(self.holds(), left, cx);
        if !self.jobs.is_empty() || self.output.bytes() > 0 {
            return false;
        }
        let len = if all { left } else { left.min(FLOOR) };
        let (offset, last) = (request.offset + asked, len == left);
        self.reading = Some(Reading { request, asked: asked + len });
        let mut job = start(&self.rt, self.served(), Request { offset, len, ..request });
        (job.request, job.extent) = (request, Extent::Part { offset, len, last });
        self.run(job, cx);
        true
    }

    fn served(&self) -> Served<'e> {
        let Session { contexts, headers, .. } = self.session;
        Served { export: self.export, contexts, headers: *headers }
    }

    fn take(&mut self, arrived: Arrived, cx: &mut Context<'_>) {
        match arrived {
            Arrived::Disconnect => (self.taking, self.goodbye) = (false, true),
            Arrived::Refused { request, refusal: Refusal { errno, why } } => {
                debug!(export = ?self.session.name, ?request, %why, "a request was refused");
                self.reply_error(&request, errno, &why);
            }
            Arrived::Request(request) => self.run(start(&self.rt, self.served(), request), cx),
            Arrived::Piece(piece) if self.failed.is_some() && !piece.is_first() => {
                if piece.last
                    && let Some(e) = self.failed.take()
                {
                    self.reply(&piece.request, Err(e));
                }
            }
            Arrived::Piece(piece) => {
                self.piece = !piece.last;
                self.run(start_piece(self.export, piece), cx);
            }
        }
    }

    fn run(&mut self, mut job: Job<'e>, cx: &mut Context<'_>) {
        match Pin::new(&mut job).poll(cx) {
            Poll::Ready((request, extent, _, result)) => self.finish(&request, extent, result),
            Poll::Pending => {
                self.weight += job.weight;
                self.number += 1;
                job.number = self.number;
                self.jobs.push(job);
            }
        }
    }

    fn finish(&mut self, request: &Request, extent: Extent, result: Result<Rope>) {
        match extent {
            Extent::End => self.reply(request, result),
            Extent::Piece => (self.piece, self.failed) = (false, result.err()),
            Extent::Part { offset, len, last } => {
                self.reply_part(request, offset, last, of_length(result, len));
            }
        }
    }

    /// Answers what has finished; says whether anything had.
    fn collect(&mut self, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        while let Poll::Ready(Some((request, extent, weight, result))) = self.jobs.poll_next_unpin(cx) {
            self.weight -= weight;
            self.finish(&request, extent, result);
            any = true;
        }
        any
    }

    fn reply(&mut self, request: &Request, result: Result<Rope>) {
        let reads = request.command == Command::Read;
        let result = if reads { of_length(result, request.len) } else { result };
        match result {
            Ok(data) => self.reply_done(request, reads, data),
            Err(e) => {
                self.log_failure(request, &e);
                let fast = request.flags & command_flag::FAST_ZERO != 0 && e.is(Kind::Unsupported);
                let errno = if fast { Errno::NotSup } else { Errno::of(e.kind()) };
                self.reply_error(request, errno, &e.to_string());
            }
        }
    }

    fn log_failure(&mut self, request: &Request, error: &Error) {
        self.failures += 1;
        if self.failures.is_power_of_two() {
            warn!(export = ?self.session.name, ?request, %error, failures = self.failures, "a request failed");
        } else {
            debug!(export = ?self.session.name, ?request, %error, "a request failed");
        }
    }

    fn reply_to(&self, request: &Request) -> ReplyTo {
        ReplyTo::new(self.session.headers, request)
    }

    fn reply_done(&mut self, request: &Request, reads: bool, data: Rope) {
        let Request { offset, len, flags, .. } = *request;
        let chunks = reads && self.session.headers.has_chunks();
        if chunks && len > 0 && flags & command_flag::DF == 0 {
            return self.reply_chunks(request, offset, data, true);
        }
        let reply = self.reply_to(request);
        self.output.header(|out| match (chunks, len) {
            // Its chunks are all there.
            _ if request.command == Command::BlockStatus => {}
            (false, _) => reply.put_done(out),
            (true, 0) => reply.put_none_chunk(out),
            (true, _) => reply.put_data_chunk(out, offset, len as u32, true),
        });
        data.into_iter().for_each(|piece| self.output.data(piece));
    }

    /// Adds a read's data from `offset` on as chunks; `last`: no others follow. Runs known to be zeros become
    /// holes.
    fn reply_chunks(&mut self, request: &Request, mut offset: u64, data: Rope, last: bool) {
        let reply = self.reply_to(request);
        let mut runs = data.into_runs(HOLE_MIN).into_iter().peekable();
        while let Some(run) = runs.next() {
            let done = last && runs.peek().is_none();
            match run {
                Run::Zeros(len) => {
                    self.output.header(|out| reply.put_hole_chunk(out, offset, len as u32, done));
                    offset += len as u64;
                }
                Run::Data(pieces) => {
                    let len: usize = pieces.iter().map(Bytes::len).sum();
                    self.output.header(|out| reply.put_data_chunk(out, offset, len as u32, done));
                    pieces.into_iter().for_each(|piece| self.output.data(piece));
                    offset += len as u64;
                }
            }
        }
    }

    /// Adds one part of a long read to the replies. With chunks each part is one or more of them. Otherwise
    /// the first part stands behind the header of the whole, and an error after that leaves nothing to say.
    fn reply_part(&mut self, request: &Request, offset: u64, last: bool, result: Result<Rope>) {
        if last {
            self.reading = None;
        }
        let first = offset == request.offset;
        let cut = self.session.headers.has_chunks() && request.flags & command_flag::DF == 0;
        match result {
            Ok(data) if cut => self.reply_chunks(request, offset, data, last),
            Ok(data) if first => self.reply_done(request, true, data),
            Ok(data) => data.into_iter().for_each(|piece| self.output.data(piece)),
            Err(e) if cut || first => {
                self.reading = None;
                self.reply(request, Err(e));
            }
            Err(error) => {
                warn!(export = ?self.session.name, ?request, %error,
                    "a client is dropped: a read failed when a part of it was sent already");
                self.lose();
            }
        }
    }

    fn reply_error(&mut self, request: &Request, errno: Errno, why: &str) {
        let reply = self.reply_to(request);
        self.output.header(|out| reply.put_error(out, errno, why));
    }

    /// Sends replies. Returns by how many bytes the output became shorter.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> usize {
        let before = self.output.bytes();
        if self.output.is_done() {
            return 0;
        }
        if self.broken {
            self.output.discard();
        } else if let Poll::Ready(Err(e)) = self.output.poll_write(cx, &mut self.stream) {
            debug!(export = ?self.session.name, error = %e, "the client is gone");
            self.lose();
        }
        before - self.output.bytes()
    }

    /// Receives bytes; says whether anything came. It receives only while all that came before is started.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> bool {
        let started = self.next.is_none() && self.reading.is_none() && !self.parks_enough();
        let hears =
            self.taking && self.settle.is_none() && started && self.window.bytes().len() <= WINDOW / 2;
        self.deaf = self.taking && !hears;
        if !hears {
            return false;
        }
        let received = match self.intake.direct() {
            Some(mut body) => {
                let read = self.stream.read_buf(&mut body);
                futures::pin_mut!(read);
                read.poll(cx)
            }
            None => self.window.poll_fill(cx, &mut self.stream),
        };
        match received {
            Poll::Pending => return false,
            Poll::Ready(Ok(0)) => self.end(),
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(e)) => {
                debug!(export = ?self.session.name, error = %e, "the client is gone");
                self.end();
            }
        }
        true
    }
}
