//! What the NBD face asks of the house: names that can be opened, and a disk behind each.
//!
//! The daemon implements both over volumes and snapshots; this face never sees storage.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use windlass_base::{Error, Kind, Result, Rope};

/// One line of a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedExport {
    pub name: String,
    /// Description for people; may be empty.
    pub text: String,
}

/// Properties of an export, as a client is told them before and when it opens the export. `Exports::describe`
/// and the `Export::describe` of what `open` gives must agree: the protocol promises the same answer to INFO
/// and GO.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Description {
    /// The canonical name (the empty name may stand for a default).
    pub name: String,
    /// Description for people; may be empty.
    pub text: String,
    pub size: u64,
    pub read_only: bool,
    /// Set only when a flush on any connection covers what was answered on every connection.
    pub multi_conn: bool,
    /// Set only when zeroing never costs what writing the zeros would.
    pub fast_zero: bool,
}

/// Bytes side by side that are all data or all holes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusExtent {
    pub len: u64,
    /// The range takes no space, and reads as zeros.
    pub hole: bool,
}

/// Bytes side by side that may all have changed, or have not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChangedExtent {
    pub len: u64,
    pub changed: bool,
}

/// Identity of the disk or snapshot that a client uses, for a process that goes on with the client. A name
/// would not do, since another disk may have it by then. The house writes and reads the identity; this face
/// only carries it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HeldDisk(pub serde_json::Value);

/// A client's claim on a disk, beyond the end of its requests. It is asked when another process is to go on
/// with the client, and heeds what became of the disk in between.
pub trait Holding: Send + Sync {
    /// Returns the identity of the disk.
    ///
    /// # Errors
    /// The disk has failed: every request of the client is answered with this error from now on, by
    /// whichever process.
    fn held(&self) -> Result<HeldDisk>;
}

/// The changes of an export since a snapshot.
#[async_trait]
pub trait Changes: Send + Sync {
    /// Returns the identity of the snapshot, for `Export::changes_again`.
    fn held(&self) -> HeldDisk;

    /// Returns extents of the range, as `Export::extents` does: from its start on, at least one and at most
    /// `max`.
    async fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<ChangedExtent>>;
}

#[async_trait]
pub trait Exports: Send + Sync + 'static {
    /// Lists all exports that a client may open, in the order to show.
    async fn list(&self) -> Result<Vec<ListedExport>>;

    /// Describes an export without opening it: nothing is claimed, nobody counts as a client. An unknown name
    /// is `Kind::NotFound`.
    async fn describe(&self, name: &str) -> Result<Description>;

    /// Lists the snapshots since which the export can tell what has changed. Those that listings show first
    /// come first.
    async fn changes_since(&self, name: &str) -> Result<Vec<String>> {
        let _ = name;
        Ok(Vec::new())
    }

    /// Opens an export for one connection. An unknown name is `Kind::NotFound`; a refusal (`Kind::Owned`, say)
    /// reaches the client with its sentence. The handle is dropped when the client has gone and its work is done.
    /// The future is driven to its end, unless the server stops. `peer`: the client's address, or `process` and
    /// its number.
    async fn open(&self, name: &str, peer: &str) -> Result<Arc<dyn Export>>;

    /// Opens the disk that a client of another process held, whatever its name is now. `name` is the name
    /// from then.
    ///
    /// # Errors
    /// The disk is not what the client held any more: nothing that the client does may reach it.
    async fn open_again(&self, name: &str, held: &HeldDisk, peer: &str) -> Result<Arc<dyn Export>>;
}

/// A disk. Ranges are inside `size()`, of any alignment, never empty; requests run concurrently and in no
/// order. A future given out here is driven to its end, but for two cases. Futures of `write`, `zero` and
/// `trim`, with the flush that belongs to them, are dropped half-way when their client is gone without a
/// goodbye. A server that stops drops all futures once it has waited its full drain time. A future that is
/// dropped changes nothing any more.
#[async_trait]
pub trait Export: Send + Sync + 'static {
    fn describe(&self) -> Description;

    /// Returns the claim of this export's client on the disk, for another process. The claim does not count
    /// as a client.
    fn holding(&self) -> Arc<dyn Holding>;

    /// Returns the size right now, in bytes; it may grow while clients are connected.
    fn size(&self) -> u64;

    /// Returns what a request waits for before it is begun, where the rate is limited. `bytes` are those of a
    /// read or of a whole write; a zeroing or trim has none. Futures that are polled first are ready first.
    fn turn(&self, writes: bool, bytes: u64) -> Option<BoxFuture<'_, ()>> {
        let _ = (writes, bytes);
        None
    }

    /// Returns exactly `len` bytes.
    async fn read(&self, offset: u64, len: usize) -> Result<Rope>;

    /// Tells which parts of the range are data and which are holes, from its start on. There is at least one
    /// extent and at most `max`, so that they may end before the range does. No data is read for the answer.
    /// A disk that can't tell is data all over.
    async fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<StatusExtent>> {
        let _ = (offset, max);
        Ok(vec![StatusExtent { len, hole: false }])
    }

    /// Returns the changes since a snapshot. They stay those since this snapshot while the client is there,
    /// even if another one gets its name.
    async fn changes(&self, snapshot: &str) -> Result<Box<dyn Changes>> {
        Err(Error::new(Kind::NotFound, format!("there is no snapshot {snapshot} to compare to")))
    }

    /// Returns the changes since the snapshot that a client of another process had agreed on. `snapshot` is
    /// its name from then.
    async fn changes_again(&self, snapshot: &str, held: &HeldDisk) -> Result<Box<dyn Changes>>;

    /// Writes `data`. A client's long write comes as several calls, one after the other. Each begins and ends
    /// between blocks, but for the begin of the first and the end of the last.
    async fn write(&self, offset: u64, data: Bytes) -> Result<()>;

    /// Zeroes the range: it reads as zeros from the answer on. `no_hole` asks to keep the space provisioned.
    async fn zero(&self, offset: u64, len: u64, no_hole: bool) -> Result<()>;

    /// Tells the disk that the range's contents no longer matter, which is a hint.
    async fn trim(&self, offset: u64, len: u64) -> Result<()>;

    /// Makes sure that changes by `write`, `zero` and `trim` so far outlive this process. It is called before each
    /// answer to one of them: after a kill of this process a client connects anew, and does not hear of the kill.
    async fn keep(&self) -> Result<()> {
        Ok(())
    }

    /// Returns a token that is cancelled when the clients are to be hung up on, as by a server that stops.
    fn hang_up(&self) -> CancellationToken {
        CancellationToken::new()
    }

    /// Makes durable all that was answered before, on every connection. A write with FUA is the write, then
    /// this flush.
    async fn flush(&self) -> Result<()>;
}

/// An export that answers every request with an error: its disk is not what the client held any more, or has
/// failed. The client is not hung up on, since it could connect again by name, find another disk there, and
/// take it for its own.
pub struct LostExport {
    pub description: Description,
    pub why: Error,
}

/// The changes since a snapshot that is gone: every question about them is answered with an error.
pub struct LostChanges {
    pub held: HeldDisk,
    pub why: Error,
}

/// The claim on a disk that is lost; it stays lost.
struct Lost(Error);

impl Holding for Lost {
    fn held(&self) -> Result<HeldDisk> {
        Err(self.0.share())
    }
}

#[async_trait]
impl Export for LostExport {
    fn describe(&self) -> Description {
        self.description.clone()
    }
    fn holding(&self) -> Arc<dyn Holding> {
        Arc::new(Lost(self.why.share()))
    }
    fn size(&self) -> u64 {
        self.description.size
    }
    async fn read(&self, _: u64, _: usize) -> Result<Rope> {
        Err(self.why.share())
    }
    async fn extents(&self, _: u64, _: u64, _: usize) -> Result<Vec<StatusExtent>> {
        Err(self.why.share())
    }
    async fn changes_again(&self, _: &str, held: &HeldDisk) -> Result<Box<dyn Changes>> {
        Ok(Box::new(LostChanges { held: held.clone(), why: self.why.share() }))
    }
    async fn write(&self, _: u64, _: Bytes) -> Result<()> {
        Err(self.why.share())
    }
    async fn zero(&self, _: u64, _: u64, _: bool) -> Result<()> {
        Err(self.why.share())
    }
    async fn trim(&self, _: u64, _: u64) -> Result<()> {
        Err(self.why.share())
    }
    async fn flush(&self) -> Result<()> {
        Err(self.why.share())
    }
}

#[async_trait]
impl Changes for LostChanges {
    fn held(&self) -> HeldDisk {
        self.held.clone()
    }
    async fn extents(&self, _: u64, _: u64, _: usize) -> Result<Vec<ChangedExtent>> {
        Err(self.why.share())
    }
}
