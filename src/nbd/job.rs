//! The work on one request, from what the export is asked to what is answered.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::future::{BoxFuture, FutureExt as _};

use super::decoder::Piece;
use super::export::{ChangedExtent, Changes, Export, StatusExtent};
use super::wire::{self, Command, Request, command_flag};
use crate::base::size::BLOCK;
use crate::base::{Error, Kind, Result, Rope};

/// Extents in one answer to BLOCK_STATUS, in all contexts; the client asks on behind them. And what each takes there.
const EXTENTS_MAX: u64 = 32 << 10;
const EXTENT: u64 = 8;

/// Something that BLOCK_STATUS tells.
pub enum StatusContext {
    Allocation,
    /// Since a snapshot.
    Changes(Box<dyn Changes>),
}

/// What the work of a request comes to.
enum Work<'e> {
    Data(BoxFuture<'e, Result<Rope>>),
    Plain(BoxFuture<'e, Result<()>>),
}

/// What a job is of its request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Extent {
    /// What ends it: all of it, or a write's last piece.
    End,
    /// A piece of a write that others follow.
    Piece,
    /// A part of `Connection::reading`.
    Part { offset: u64, len: u32, last: bool },
}

pub(super) struct Job<'e> {
    pub request: Request,
    pub extent: Extent,
    /// Bytes that it holds.
    pub weight: u64,
    /// Of a write, for one that is to be done elsewhere.
    pub piece: Option<Piece>,
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

/// The whole answer to BLOCK_STATUS: a chunk a context.
async fn status(export: &dyn Export, contexts: &[StatusContext], request: Request) -> Result<Rope> {
    let (offset, len) = (request.offset, u64::from(request.len));
    let max = extents_max(&request, contexts.len() as u64) as usize;
    let mut answer = Rope::default();
    for (n, context) in contexts.iter().enumerate() {
        let extents: Vec<(u64, u32)> = match context {
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
        let (done, extents) = (n + 1 == contexts.len(), within(&extents, request.len)?);
        let mut chunk = Vec::with_capacity(24 + extents.len() * EXTENT as usize);
        wire::put_status(&mut chunk, done, request.cookie, context_id(n), &extents);
        answer.push(chunk.into());
    }
    Ok(answer)
}

/// The number that answers have in the nth context.
pub(super) fn context_id(n: usize) -> u32 {
    n as u32 + 1
}

/// At least one extent, none behind the range.
fn within(extents: &[(u64, u32)], asked: u32) -> Result<Vec<(u32, u32)>> {
    let told: u64 = extents.iter().map(|(len, _)| len).sum();
    if told == 0 || told > asked.into() || extents.iter().any(|(len, _)| *len == 0) {
        return Err(Error::new(Kind::Internal, "block status gave another range than was asked for"));
    }
    // None is longer than what was asked for, which has 32 bits.
    Ok(extents.iter().map(|(len, flags)| (*len as u32, *flags)).collect())
}

/// How many extents an answer has at most in each context.
fn extents_max(request: &Request, contexts: u64) -> u64 {
    match request.flags & command_flag::REQ_ONE != 0 {
        true => 1,
        false => (u64::from(request.len) / BLOCK + 2).min(EXTENTS_MAX / contexts.max(1)),
    }
}

/// Bytes of the longest answer to BLOCK_STATUS.
pub(super) fn status_bytes(request: &Request, contexts: &[StatusContext]) -> u64 {
    let many = contexts.len() as u64;
    extents_max(request, many) * many * EXTENT
}

/// What it asks for is a change of the disk.
pub(super) fn writes(request: &Request) -> bool {
    matches!(request.command, Command::Write | Command::Trim | Command::WriteZeroes)
}

pub(super) fn start<'e>(export: &'e dyn Export, contexts: &'e [StatusContext], request: Request) -> Job<'e> {
    let Request { offset, len, flags, .. } = request;
    let long = u64::from(len);
    let work = match request.command {
        Command::Flush => Work::Plain(export.flush()),
        // What a cache request asks for is only a hope; an empty range asks for nothing.
        Command::Cache => Work::Plain(std::future::ready(Ok(())).boxed()),
        _ if len == 0 => Work::Plain(std::future::ready(Ok(())).boxed()),
        Command::Read => Work::Data(export.read(offset, len as usize)),
        Command::Trim => Work::Plain(export.trim(offset, long)),
        Command::WriteZeroes => Work::Plain(export.zero(offset, long, flags & command_flag::NO_HOLE != 0)),
        Command::BlockStatus => Work::Data(status(export, contexts, request).boxed()),
        Command::Write | Command::Disconnect | Command::Unknown(_) => {
            unreachable!("the intake lets none of these through")
        }
    };
    let weight = match request.command {
        Command::Read => long,
        Command::BlockStatus => status_bytes(&request, contexts),
        _ => 0,
    };
    Job { request, extent: Extent::End, weight, piece: None, work: flushed(export, &request, work) }
}

pub(super) fn start_piece(export: &dyn Export, piece: Piece) -> Job<'_> {
    let Piece { request, offset, data, last } = piece.clone();
    let (weight, piece) = (data.len() as u64, Some(piece));
    let work = match data.is_empty() {
        true => std::future::ready(Ok(())).boxed(),
        false => export.write(offset, data),
    };
    match last {
        // Those before are done: the flush covers them.
        true => {
            let work = flushed(export, &request, Work::Plain(work));
            Job { request, extent: Extent::End, weight, piece, work }
        }
        false => Job { request, extent: Extent::Piece, weight, piece, work: Work::Plain(work) },
    }
}

fn flushed<'e>(export: &'e dyn Export, request: &Request, work: Work<'e>) -> Work<'e> {
    match work {
        Work::Plain(write)
            if writes(request) && request.len > 0 && request.flags & command_flag::FUA != 0 =>
        {
            Work::Plain(
                async move {
                    write.await?;
                    export.flush().await
                }
                .boxed(),
            )
        }
        other => other,
    }
}
