//! The work on one request, from what the export is asked to what is answered.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::future::{BoxFuture, FutureExt as _};

use super::decoder::{Arrived, Piece};
use super::export::{ChangedExtent, Changes, Export, HeldDisk, StatusExtent};
use super::wire::{self, Command, Headers, ReplyTo, Request, command_flag};
use windlass_base::format_limits::BLOCK;
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result, Rope};

/// Most extents in one answer to BLOCK_STATUS, in all contexts together; the client asks on behind them.
const EXTENTS_MAX: u64 = 32 << 10;
/// Bytes of a longer range that the export is asked for at a time. For an answer no more is read than their
/// map.
const STATUS_STEP: u64 = 4 << 30;
/// Most steps in one answer. Clients ask for all up to the end of the disk and may use only the beginning of
/// the answer, so it must cost little.
const STATUS_STEPS: usize = 8;

/// A context that BLOCK_STATUS reports.
pub enum StatusContext {
    Allocation,
    /// Changes since a snapshot.
    Changes(Box<dyn Changes>),
}

/// The export and the agreement that the requests of a connection are for.
#[derive(Clone, Copy)]
pub(super) struct Served<'e> {
    pub export: &'e dyn Export,
    pub contexts: &'e [StatusContext],
    pub headers: Headers,
}

/// The running work of a request, by what it returns.
enum Work<'e> {
    Data(BoxFuture<'e, Result<Rope>>),
    Plain(BoxFuture<'e, Result<()>>),
}

/// The part of its request that a job does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Extent {
    /// The job ends its request: it does all of it, or a write's last piece.
    End,
    /// A piece of a write that others follow.
    Piece,
    /// A part of the long read in `Connection::reading`.
    Part { offset: u64, len: u64, last: bool },
}

pub(super) struct Job<'e> {
    pub request: Request,
    pub extent: Extent,
    /// Bytes of memory that the job holds.
    pub weight: u64,
    /// The piece that a job of a write carries out, for the process that is to do it instead.
    pub piece: Option<Piece>,
    /// Number of a job under way: those started earlier have lower ones. 0 for a job that was never put among
    /// them.
    pub number: u64,
    work: Work<'e>,
}

impl Future for Job<'_> {
    type Output = (Request, Extent, u64, Result<Rope>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = match &mut self.work {
            Work::Data(read) => ready!(read.as_mut().poll(cx)),
            Work::Plain(done) => ready!(done.as_mut().poll(cx)).map(|()| Rope::default()),
        };
        Poll::Ready((self.request, self.extent, self.weight, result))
    }
}

impl StatusContext {
    /// Returns the identity of the snapshot since which the context tells changes; `None` for the allocation.
    pub(super) fn held(&self) -> Option<HeldDisk> {
        match self {
            StatusContext::Allocation => None,
            StatusContext::Changes(changes) => Some(changes.held()),
        }
    }

    /// Returns the flags of ranges that a map leaves out. Such a range costs little to report, however long
    /// it is.
    fn usual(&self) -> u32 {
        match self {
            StatusContext::Allocation => wire::STATUS_HOLE,
            StatusContext::Changes(_) => 0,
        }
    }

    /// Returns the extents of the range with their flags, at most `max` of them.
    async fn extents(&self, export: &dyn Export, range: Range<u64>, max: usize) -> Result<Vec<(u64, u32)>> {
        let (offset, len) = (range.start, range.end - range.start);
        let extents: Vec<(u64, u32)> = match self {
            StatusContext::Allocation => {
                let flags =
                    |extent: StatusExtent| (extent.len, if extent.hole { wire::STATUS_HOLE } else { 0 });
                export.extents(offset, len, max).await?.into_iter().map(flags).collect()
            }
            StatusContext::Changes(changes) => {
                let flags = |extent: ChangedExtent| {
                    (extent.len, if extent.changed { wire::STATUS_CHANGED } else { 0 })
                };
                changes.extents(offset, len, max).await?.into_iter().map(flags).collect()
            }
        };
        within(&extents, len)?;
        Ok(extents)
    }

    /// Returns the extents of a range of any length, asking for it in steps. It ends behind the first step
    /// with other flags than the usual, or after `STATUS_STEPS` steps. Other requests go on between two
    /// steps.
    async fn told(
        &self,
        rt: &Rt,
        export: &dyn Export,
        range: Range<u64>,
        max: usize,
    ) -> Result<Vec<(u64, u32)>> {
        let (mut told, mut at) = (Vec::<(u64, u32)>::new(), range.start);
        for step in 1.. {
            let end = range.end.min(at.saturating_add(STATUS_STEP));
            let extents = self.extents(export, at..end, max).await?;
            let is_usual = extents == [(end - at, self.usual())];
            for (len, flags) in extents {
                match told.last_mut() {
                    Some((before, same)) if *same == flags => *before += len,
                    _ => told.push((len, flags)),
                }
            }
            if step == STATUS_STEPS || end == range.end || !is_usual {
                break;
            }
            at = end;
            rt.give_way().await;
        }
        told.truncate(max);
        Ok(told)
    }
}

/// Makes the whole answer to BLOCK_STATUS, with one chunk for each context.
async fn status(rt: Rt, served: Served<'_>, request: Request) -> Result<Rope> {
    let range = request.offset..request.offset + request.len;
    let (contexts, reply) = (served.contexts, ReplyTo::new(served.headers, &request));
    let max = extents_max(&request, contexts.len() as u64) as usize;
    let mut answer = Rope::default();
    for (n, context) in contexts.iter().enumerate() {
        let extents = context.told(&rt, served.export, range.clone(), max).await?;
        let mut chunk = Vec::with_capacity(64 + extents.len() * wire::EXTENT_BYTES);
        reply.put_status(&mut chunk, n + 1 == contexts.len(), context_id(n), &extents);
        answer.push(chunk.into());
    }
    Ok(answer)
}

/// Returns the number of the nth context in answers.
pub(super) fn context_id(n: usize) -> u32 {
    n as u32 + 1
}

/// Checks an export's answer: at least one extent, none of them empty, none beyond the range.
fn within(extents: &[(u64, u32)], asked: u64) -> Result<()> {
    let told: u64 = extents.iter().map(|(len, _)| len).sum();
    if told == 0 || told > asked || extents.iter().any(|(len, _)| *len == 0) {
        return Err(Error::new(Kind::Internal, "block status gave another range than was asked for"));
    }
    Ok(())
}

/// Returns how many extents an answer has at most in each context.
fn extents_max(request: &Request, contexts: u64) -> u64 {
    match request.flags & command_flag::REQ_ONE != 0 {
        true => 1,
        false => (request.len / BLOCK + 2).min(EXTENTS_MAX / contexts.max(1)),
    }
}

/// Returns the bytes of the longest possible answer to BLOCK_STATUS.
fn status_bytes(request: &Request, contexts: &[StatusContext]) -> u64 {
    let many = contexts.len() as u64;
    extents_max(request, many) * many * wire::EXTENT_BYTES as u64
}

/// Bytes that a change takes beside its payload while it waits for others' blocks or reads a block that it
/// changes in part. `READING` is what a read or a BLOCK_STATUS takes beside its answer.
const WORK: u64 = 32 << 10;
const READING: u64 = 8 << 10;

/// Returns how many bytes a request without payload takes at most, from its start until its reply has left.
pub(super) fn weight(request: &Request, contexts: &[StatusContext]) -> u64 {
    match request.command {
        Command::Read => request.len + READING,
        Command::BlockStatus => status_bytes(request, contexts) + READING,
        Command::Trim | Command::WriteZeroes => WORK,
        _ => 0,
    }
}

/// Returns how many bytes a piece of a write takes at most, from its start until its reply has left.
pub(super) fn weight_of_piece(piece: &Piece) -> u64 {
    let len = piece.data.len() as u64;
    let whole_blocks = piece.offset.is_multiple_of(BLOCK) && len.is_multiple_of(BLOCK);
    if whole_blocks { len } else { len + WORK }
}

/// A request that waits for its turn, and the payload that came with it.
pub(super) struct Waiting<'e> {
    pub arrived: Option<Arrived>,
    pub turn: BoxFuture<'e, ()>,
    /// Number of the request: those that came earlier have lower ones.
    pub number: u64,
}

impl Future for Waiting<'_> {
    type Output = Arrived;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Arrived> {
        ready!(self.turn.as_mut().poll(cx));
        Poll::Ready(self.arrived.take().expect("it is ready once"))
    }
}

pub(super) fn is_write(arrived: &Arrived) -> bool {
    match arrived {
        Arrived::Request(request) => writes(request),
        Arrived::Piece(_) => true,
        Arrived::Refused { .. } | Arrived::Disconnect => false,
    }
}

/// Returns the payload bytes that a waiting request or piece holds.
pub(super) fn payload(arrived: &Arrived) -> u64 {
    match arrived {
        Arrived::Piece(piece) => piece.data.len() as u64,
        _ => 0,
    }
}

/// Tells whether the request changes the disk.
pub(super) fn writes(request: &Request) -> bool {
    matches!(request.command, Command::Write | Command::Trim | Command::WriteZeroes)
}

pub(super) fn start<'e>(rt: &Rt, served: Served<'e>, request: Request) -> Job<'e> {
    let Request { offset, len, flags, .. } = request;
    let export = served.export;
    let work = match request.command {
        Command::Flush => Work::Plain(export.flush()),
        // What a cache request asks for is only a hope; an empty range asks for nothing.
        Command::Cache => Work::Plain(std::future::ready(Ok(())).boxed()),
        _ if len == 0 => Work::Plain(std::future::ready(Ok(())).boxed()),
        Command::Read => Work::Data(export.read(offset, len as usize)),
        Command::Trim => Work::Plain(export.trim(offset, len)),
        Command::WriteZeroes => Work::Plain(export.zero(offset, len, flags & command_flag::NO_HOLE != 0)),
        Command::BlockStatus => Work::Data(status(rt.clone(), served, request).boxed()),
        Command::Write | Command::Disconnect | Command::Unknown(_) => {
            unreachable!("the intake lets none of these through")
        }
    };
    let weight = weight(&request, served.contexts);
    Job {
        request,
        extent: Extent::End,
        weight,
        piece: None,
        number: 0,
        work: flushed(export, &request, work),
    }
}

pub(super) fn start_piece(export: &dyn Export, piece: Piece) -> Job<'_> {
    let weight = weight_of_piece(&piece);
    let Piece { request, offset, data, last } = piece.clone();
    let piece = Some(piece);
    let work = match data.is_empty() {
        true => std::future::ready(Ok(())).boxed(),
        false => export.write(offset, data),
    };
    match last {
        // Those before are done: the flush covers them.
        true => {
            let work = flushed(export, &request, Work::Plain(work));
            Job { request, extent: Extent::End, weight, piece, number: 0, work }
        }
        false => Job { request, extent: Extent::Piece, weight, piece, number: 0, work: Work::Plain(work) },
    }
}

/// Adds the last step to a change: with FUA it is answered once it is durable, else once it outlives this
/// process.
fn flushed<'e>(export: &'e dyn Export, request: &Request, work: Work<'e>) -> Work<'e> {
    let fua = request.flags & command_flag::FUA != 0;
    match work {
        Work::Plain(write) if writes(request) && request.len > 0 => Work::Plain(
            async move {
                write.await?;
                match fua {
                    true => export.flush().await,
                    false => export.keep().await,
                }
            }
            .boxed(),
        ),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn what_may_wait_for_blocks_weighs_something() {
        let request = |command| Request::new(0, command, 1, 0, 4096);
        for command in [Command::Trim, Command::WriteZeroes] {
            assert!(weight(&request(command), &[]) >= 32 << 10);
        }
        assert!(weight(&request(Command::Read), &[]) > 4096);
        let piece = |offset, len: usize| Piece {
            request: request(Command::Write),
            offset,
            data: Bytes::from(vec![0; len]),
            last: true,
        };
        assert_eq!(weight_of_piece(&piece(8192, 4096)), 4096);
        assert!(weight_of_piece(&piece(512, 512)) > 32 << 10);
        assert!(weight_of_piece(&piece(0, 5000)) > 32 << 10);
    }
}
