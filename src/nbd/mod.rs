//! NBD, the block face: a server of `Exports` and a small client.

mod address;
mod export;
mod server;

pub use address::Address;
pub use export::{Description, Export, Exports, Listed};
pub use server::{Server, serve};
