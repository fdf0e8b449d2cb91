//! NBD, the block face: a server of `Exports` and a small client.
//!
//! Fixed newstyle. Options: EXPORT_NAME, ABORT, LIST, INFO, GO, STARTTLS, STRUCTURED_REPLY, EXTENDED_HEADERS (64-bit lengths),
//! LIST_META_CONTEXT and SET_META_CONTEXT (`base:allocation`, `qemu:dirty-bitmap:SNAPSHOT`). Commands: READ, WRITE, FLUSH, TRIM, WRITE_ZEROES, BLOCK_STATUS, CACHE (accepted, a no-op), DISC,
//! and FUA on all of them. Everything else is refused as the protocol says, and the connection lives on.

mod access;
mod address;
mod ahead;
mod client;
mod connection_state;
mod decoder;
mod export;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod handshake;
mod job;
mod listener;
mod memory_disk;
mod options;
mod output;
mod paused;
mod server;
mod share;
mod tls;
mod tls_places;
mod transmission;
mod window;
mod wire;

pub use access::{Access, Pattern, Policy, Rule, Subject};
pub use address::Address;
pub use client::{Client, FlaggedExtent, describe, for_kernel, list};
pub use connection_state::ConnectionState;
pub use export::{ChangedExtent, Changes, Description, Export, Exports, ListedExport, StatusExtent};
pub use listener::{Listener, Socket, SocketRights, bind_file};
pub use memory_disk::{MemoryDisk, MemoryExports};
pub use options::Info;
pub use server::{Connected, Entrance, PausedServer, Server, go_on, serve, serve_by};
pub use tls::{TlsPem, TlsServer};

#[cfg(test)]
mod tests;
