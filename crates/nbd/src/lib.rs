//! NBD, the block face: a server of `Exports` and a small client.
//!
//! Fixed newstyle. Options: EXPORT_NAME, ABORT, LIST, INFO, GO, STARTTLS, STRUCTURED_REPLY, EXTENDED_HEADERS (64-bit lengths),
//! LIST_META_CONTEXT and SET_META_CONTEXT (`base:allocation`, `qemu:dirty-bitmap:SNAPSHOT`). Commands: READ, WRITE, FLUSH, TRIM, WRITE_ZEROES, BLOCK_STATUS, CACHE (accepted, a no-op), DISC,
//! and FUA on all of them. Everything else is refused as the protocol says, and the connection lives on.

mod access;
mod address;
mod client;
mod decoder;
mod export;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod handover_state;
mod handshake;
mod handshake_wire;
mod job;
mod listener;
mod memory_disk;
mod memory_share;
mod output;
mod prefixed_stream;
mod receive_buffer;
mod server;
mod suspend_resume;
mod tls_handshake_limit;
mod tls_server;
mod transmission;
mod wire;

pub use access::{Access, Pattern, Policy, Rule, Subject};
pub use address::Address;
pub use client::{Client, FlaggedExtent, describe, for_kernel, list};
pub use export::{
    ChangedExtent, Changes, Description, Export, Exports, HeldDisk, Holding, ListedExport, StatusExtent,
};
pub use handover_state::{ConnectionState, Unserved};
pub use handshake_wire::Info;
pub use listener::{Listener, Socket, SocketRights, bind_file};
pub use memory_disk::{MemoryDisk, MemoryExports};
pub use server::{Connected, Entrance, PausedServer, Server, go_on, serve, serve_by};
pub use tls_server::{TlsPem, TlsServer};

pub mod sim;
#[cfg(test)]
mod tests;
