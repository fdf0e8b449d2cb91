//! The server's side of the transmission phase: one task a connection, no lock, no channel.
//!
//! The task turns through four steps until none gets on: take requests out of the window and start them, collect
//! those that finished, write replies, receive. A request is polled once where it is taken: one that needs no
//! waiting (the usual case for a write, and for a read that a cache answers) costs neither a task nor a wake-up, and
//! the replies of all that came in one receive leave in one write. What has to wait goes to a set and is answered
//! in the order in which it finishes.
//!
//! Bounds: `JOBS` requests and about `HELD` bytes (their payloads and replies) a connection; at either, no further
//! request is taken, and then nothing more is received. What a connection holds above `share::FLOOR` comes out of the
//! daemon's memory for requests, first come, first served; a client that moves no byte for `share::STALL` while others
//! wait for memory that it holds is hung up on, so that nobody is stuck behind another's client.
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

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::{debug, warn};

use super::export::Export;
use super::handshake::Session;
use super::intake::{Arrived, Facts, Intake, Refusal};
use super::listener::Stream;
use super::output::Output;
use super::share::Share;
use super::window::{WINDOW, Window};
use super::wire::{self, Command, Errno, Request, command_flag};
use crate::base::rt::Rt;
use crate::base::{Budget, Error, Kind, Result, Rope};

/// Requests under way on a connection.
const JOBS: usize = 256;
/// Bytes at which a connection takes no further request; the last one taken may go past it by its own length.
const HELD: u64 = 32 << 20;
/// What a stopping server gives requests that are under way.
pub const DRAIN: Duration = Duration::from_secs(10);
/// How often a connection is looked at while nothing more is received.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What a client gets to hear the end.
const LINGER: Duration = Duration::from_secs(1);

/// What the work of a request comes to.
enum Work<'e> {
    Data(BoxFuture<'e, Result<Rope>>),
    Plain(BoxFuture<'e, Result<()>>),
}

struct Job<'e> {
    request: Request,
    work: Work<'e>,
}

impl Future for Job<'_> {
    type Output = (Request, Result<Rope>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = match &mut self.work {
            Work::Data(read) => ready!(read.as_mut().poll(cx)),
            Work::Plain(done) => ready!(done.as_mut().poll(cx)).map(|()| Rope::default()),
        };
        Poll::Ready((self.request, result))
    }
}

/// What it asks for is a change of the disk.
fn writes(request: &Request) -> bool {
    matches!(request.command, Command::Write | Command::Trim | Command::WriteZeroes)
}

fn start<'e>(export: &'e dyn Export, request: Request, payload: Bytes) -> Job<'e> {
    let Request { offset, len, flags, .. } = request;
    let long = u64::from(len);
    let work = match request.command {
        Command::Flush => Work::Plain(export.flush()),
        // What a cache request asks for is only a hope; an empty range asks for nothing.
        Command::Cache => Work::Plain(std::future::ready(Ok(())).boxed()),
        _ if len == 0 => Work::Plain(std::future::ready(Ok(())).boxed()),
        Command::Read => Work::Data(export.read(offset, len as usize)),
        Command::Write => Work::Plain(export.write(offset, payload)),
        Command::Trim => Work::Plain(export.trim(offset, long)),
        Command::WriteZeroes => Work::Plain(export.zero(offset, long, flags & command_flag::NO_HOLE != 0)),
        Command::Disconnect | Command::Unknown(_) => unreachable!("the intake lets none of these through"),
    };
    let work = match work {
        Work::Plain(write) if writes(&request) && flags & command_flag::FUA != 0 => Work::Plain(
            async move {
                write.await?;
                export.flush().await
            }
            .boxed(),
        ),
        other => other,
    };
    Job { request, work }
}

struct Connection<'e, S> {
    rt: Rt,
    stream: S,
    window: Window,
    intake: Intake,
    output: Output,
    jobs: FuturesUnordered<Job<'e>>,
    /// What the jobs weigh.
    weight: u64,
    share: Share,
    session: &'e Session,
    export: &'e dyn Export,
    /// Requests are still taken.
    taking: bool,
    /// The client has said that it goes.
    goodbye: bool,
    /// The socket takes nothing any more.
    broken: bool,
    /// Nothing more is received, for want of room.
    deaf: bool,
    /// When it is looked at next, if it is deaf then.
    look: Option<BoxFuture<'static, ()>>,
    /// For the log, which a client's misfortune must not fill.
    failures: u64,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    /// The server stops: all is over when this time is.
    drain: Option<BoxFuture<'static, ()>>,
}

/// Serves one export to one client, to the end.
pub async fn transmit<S: Stream>(
    rt: &Rt,
    stream: S,
    window: Window,
    session: Session,
    memory: Budget,
    stop: CancellationToken,
) {
    let rest = converse(rt, stream, window, &session, memory, stop).await;
    // The client counts as gone before it has noticed.
    drop(session);
    if let Some(stream) = rest {
        rt.timeout(LINGER, hang_up(stream)).await;
    }
}

/// Gives the stream back when the client can still hear.
async fn converse<S: Stream>(
    rt: &Rt,
    stream: S,
    window: Window,
    session: &Session,
    memory: Budget,
    stop: CancellationToken,
) -> Option<S> {
    let mut connection = Connection {
        rt: rt.clone(),
        stream,
        window,
        intake: Intake::default(),
        output: Output::default(),
        jobs: FuturesUnordered::new(),
        weight: 0,
        share: Share::new(memory),
        session,
        export: &*session.export,
        taking: true,
        goodbye: false,
        broken: false,
        deaf: false,
        look: None,
        failures: 0,
        stop: Box::pin(stop.cancelled_owned()),
        drain: None,
    };
    std::future::poll_fn(|cx| connection.poll(cx)).await;
    (!connection.broken).then_some(connection.stream)
}

/// Closing a socket with unread bytes in it throws away replies that are still on their way: end our direction, then
/// wait for the client's end.
async fn hang_up(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    if stream.shutdown().await.is_ok() {
        let mut rest = [0; 4096];
        while stream.read(&mut rest).await.is_ok_and(|n| n > 0) {}
    }
}

impl<S: Stream> Connection<'_, S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_stop(cx);
        loop {
            let took = self.take_requests(cx);
            let collected = self.collect(cx);
            let wrote = self.poll_write(cx);
            let received = self.poll_receive(cx);
            self.share.holds(self.holds());
            if wrote || received {
                self.share.moved();
            }
            if self.is_over() {
                return Poll::Ready(());
            }
            if !(took || collected || wrote || received || self.poll_stall(cx) || self.poll_broken(cx)) {
                return Poll::Pending;
            }
        }
    }

    /// The client keeps what others wait for: says whether it was hung up on.
    fn poll_stall(&mut self, cx: &mut Context<'_>) -> bool {
        let waits = !self.broken && (self.output.bytes() > 0 || self.intake.under_way());
        let stalled = waits && self.share.poll_stall(&self.rt, cx);
        if stalled {
            let (export, bytes) = (&self.session.name, self.holds());
            warn!(
                ?export,
                bytes, "a client is dropped: it moved nothing while others wait for the memory it holds"
            );
            self.lose();
        }
        stalled
    }

    /// Whether the connection broke behind what is not received yet.
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

    /// Nobody is there any more.
    fn lose(&mut self) {
        self.broken = true;
        self.end();
        self.output.discard();
    }

    /// The client is gone, or as good as that.
    fn end(&mut self) {
        self.taking = false;
        if self.goodbye {
            return;
        }
        let before = self.jobs.len();
        for job in std::mem::take(&mut self.jobs) {
            match writes(&job.request) {
                true => self.weight -= job.request.weight(),
                false => self.jobs.push(job),
            }
        }
        let given_up = before - self.jobs.len();
        if given_up > 0 {
            debug!(export = ?self.session.name, given_up, "writes of a client that is gone are given up");
        }
    }

    fn holds(&self) -> u64 {
        self.weight + (self.output.bytes() + self.intake.held()) as u64
    }

    fn is_over(&self) -> bool {
        !self.taking && self.jobs.is_empty() && self.output.bytes() == 0
    }

    fn poll_stop(&mut self, cx: &mut Context<'_>) {
        if self.drain.is_none() && self.stop.as_mut().poll(cx).is_ready() {
            self.drain = Some(self.rt.sleep(DRAIN));
            self.taking = false;
        }
        if let Some(time) = &mut self.drain
            && time.poll_unpin(cx).is_ready()
        {
            warn!(export = ?self.session.name, requests = self.jobs.len(), "requests were given up at shutdown");
            self.jobs.clear();
            self.output.discard();
            self.broken = true;
        }
    }

    /// A request that has begun to arrive is always taken to its end.
    fn may_take(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.taking || self.intake.under_way() {
            return self.taking;
        }
        let holds = self.holds();
        self.jobs.len() < JOBS
            && holds < HELD
            && self.share.reserve(holds, self.intake.wants(&self.window), cx)
    }

    /// Starts what has arrived; says whether anything had.
    fn take_requests(&mut self, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        while self.may_take(cx) {
            let facts = Facts { size: self.export.size(), flags: self.session.flags };
            match self.intake.next(&mut self.window, facts) {
                Ok(None) => break,
                Ok(Some(arrived)) => self.take(arrived, cx),
                Err(e) => {
                    warn!(export = ?self.session.name, error = %e, "a client is dropped");
                    self.end();
                }
            }
            any = true;
        }
        any
    }

    fn take(&mut self, arrived: Arrived, cx: &mut Context<'_>) {
        match arrived {
            Arrived::Disconnect => (self.taking, self.goodbye) = (false, true),
            Arrived::Refused { request, refusal: Refusal { errno, why } } => {
                debug!(export = ?self.session.name, ?request, why, "a request was refused");
                self.reply_error(&request, errno, why);
            }
            Arrived::Request { request, payload } => {
                let mut job = start(self.export, request, payload);
                match Pin::new(&mut job).poll(cx) {
                    Poll::Ready((request, result)) => self.reply(&request, result),
                    Poll::Pending => {
                        self.weight += job.request.weight();
                        self.jobs.push(job);
                    }
                }
            }
        }
    }

    /// Answers what has finished; says whether anything had.
    fn collect(&mut self, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        while let Poll::Ready(Some((request, result))) = self.jobs.poll_next_unpin(cx) {
            self.weight -= request.weight();
            self.reply(&request, result);
            any = true;
        }
        any
    }

    fn reply(&mut self, request: &Request, result: Result<Rope>) {
        let reads = request.command == Command::Read;
        let result = result.and_then(|data| {
            if reads && data.len() != request.len as usize {
                return Err(Error::new(Kind::Internal, "the read gave another length than was asked for"));
            }
            Ok(data)
        });
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

    fn reply_done(&mut self, request: &Request, reads: bool, data: Rope) {
        let Request { cookie, offset, len, .. } = *request;
        self.output.header(|out| match (reads && self.session.structured, len) {
            (false, _) => wire::put_simple(out, cookie, None),
            (true, 0) => wire::put_none_chunk(out, cookie),
            (true, _) => wire::put_data_chunk(out, cookie, offset, len),
        });
        data.into_iter().for_each(|piece| self.output.data(piece));
    }

    fn reply_error(&mut self, request: &Request, errno: Errno, why: &str) {
        let structured = self.session.structured;
        self.output.header(|out| match structured {
            true => wire::put_error_chunk(out, request.cookie, errno, why),
            false => wire::put_simple(out, request.cookie, Some(errno)),
        });
    }

    /// Says whether anything left.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> bool {
        let before = self.output.bytes();
        if before == 0 {
            return false;
        }
        if self.broken {
            self.output.discard();
        } else if let Poll::Ready(Err(e)) = self.output.poll_write(cx, &mut self.stream) {
            debug!(export = ?self.session.name, error = %e, "the client is gone");
            self.lose();
        }
        self.output.bytes() < before
    }

    /// Says whether anything came; only as long as a request could be taken.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> bool {
        // What fills the window waits for room, which another of the steps will make.
        let hears = self.may_take(cx) && self.window.bytes().len() <= WINDOW / 2;
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
