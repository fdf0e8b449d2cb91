//! What the NBD face asks of the house: names that can be opened, and a disk behind each.
//!
//! The daemon implements both over volumes and snapshots; this face never sees storage.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::base::{Error, Kind, Result, Rope};

/// One line of a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedExport {
    pub name: String,
    /// For people; may be empty.
    pub text: String,
}

/// What a client is told about an export before and when it opens it. `Exports::describe` and the
/// `Export::describe` of what `open` gives must agree: the protocol promises the same answer to INFO and GO.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Description {
    /// The canonical name (the empty name may stand for a default).
    pub name: String,
    /// For people; may be empty.
    pub text: String,
    pub size: u64,
    pub read_only: bool,
    /// Set only when a flush on any connection covers what was answered on every connection.
    pub multi_conn: bool,
    /// Set only when zeroing never costs what writing the zeros would.
    pub fast_zero: bool,
}

/// Bytes side by side that are alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusExtent {
    pub len: u64,
    /// It takes no space, and reads as zeros.
    pub hole: bool,
}

/// Bytes side by side that may all have changed, or have not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChangedExtent {
    pub len: u64,
    pub changed: bool,
}

/// What has changed in an export since a snapshot.
#[async_trait]
pub trait Changes: Send + Sync {
    /// As `Export::extents`.
    async fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<ChangedExtent>>;
}

#[async_trait]
pub trait Exports: Send + Sync + 'static {
    /// All that a client may open, in the order to show.
    async fn list(&self) -> Result<Vec<ListedExport>>;

    /// Describes without opening: nothing is claimed, nobody counts as a client. Unknown is `Kind::NotFound`.
    async fn describe(&self, name: &str) -> Result<Description>;

    /// Snapshots since which the export can tell what has changed, those to be listed first at the beginning.
    async fn changes_since(&self, name: &str) -> Result<Vec<String>> {
        let _ = name;
        Ok(Vec::new())
    }

    /// Opens for one connection. Unknown is `Kind::NotFound`; a refusal (`Kind::Owned`, say) reaches the client
    /// with its sentence. The handle is dropped when the client has gone and its work is done.
    /// Driven to its end, but for a server that stops. `peer`: the client's address, or `process` and its number.
    async fn open(&self, name: &str, peer: &str) -> Result<Arc<dyn Export>>;
}

/// A disk. Ranges are inside `size()`, of any alignment, never empty; requests run concurrently and in no order.
/// A future given out here is driven to its end, but for two cases: those of `write`, `zero` and `trim` (with the flush
/// that belongs to it) are dropped half-way when their client is gone without a goodbye, and all of them by a server
/// that stops and has waited its full drain time. One that is dropped changes nothing any more.
#[async_trait]
pub trait Export: Send + Sync + 'static {
    fn describe(&self) -> Description;

    /// The size right now; may grow while clients are connected.
    fn size(&self) -> u64;

    /// Where the rate is limited, what one request waits for before it is begun: a read or write of so many bytes (all
    /// pieces of a write together), a zeroing or trim of none. Those that are polled first are ready first.
    fn turn(&self, writes: bool, bytes: u64) -> Option<BoxFuture<'_, ()>> {
        let _ = (writes, bytes);
        None
    }

    /// Exactly `len` bytes.
    async fn read(&self, offset: u64, len: usize) -> Result<Rope>;

    /// What of the range is data and what holes, from its start on: `max` extents at most, so that they may end before the
    /// range does. At least one. No data is read for it. A disk that can't tell is data all over.
    async fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<StatusExtent>> {
        let _ = (offset, max);
        Ok(vec![StatusExtent { len, hole: false }])
    }

    /// What has changed since a snapshot, for as long as the client is there: whatever has that name later.
    async fn changes(&self, snapshot: &str) -> Result<Box<dyn Changes>> {
        Err(Error::new(Kind::NotFound, format!("there is no snapshot {snapshot} to compare to")))
    }

    /// A client's long write comes as several, one after the other; each begins and ends between blocks, but for the
    /// first one's begin and the last one's end.
    async fn write(&self, offset: u64, data: Bytes) -> Result<()>;

    /// The range reads as zeros from the answer on. `no_hole` asks to keep the space provisioned.
    async fn zero(&self, offset: u64, len: u64, no_hole: bool) -> Result<()>;

    /// A hint that the range's contents no longer matter.
    async fn trim(&self, offset: u64, len: u64) -> Result<()>;

    /// What `write`, `zero` and `trim` have done by now outlives this process from here on: before each answer to one of them, since
    /// a client that connects anew after this process was killed does not hear of that.
    async fn keep(&self) -> Result<()> {
        Ok(())
    }

    /// Cancelled when the clients are to be hung up on, as by a server that stops.
    fn hang_up(&self) -> CancellationToken {
        CancellationToken::new()
    }

    /// Makes durable all that was answered before, on every connection. A write with FUA is that write, then this.
    async fn flush(&self) -> Result<()>;
}
