//! Listeners and the lives of their connections.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::address::Address;
use super::export::Exports;
use crate::base::rt::{Rt, Task};
use crate::base::{Error, Kind, Result};

/// A running listener.
#[derive(Debug)]
pub struct Server {
    address: Address,
    all_gone: Task<()>,
}

impl Server {
    /// Where it listens, with the port that the system chose.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Returns when the stop token was given and every connection has ended.
    pub async fn ended(self) -> Result<()> {
        self.all_gone.await
    }
}

/// Binds `address` and serves every client until `stop`.
pub async fn serve(
    _rt: &Rt,
    address: &Address,
    _exports: Arc<dyn Exports>,
    _stop: CancellationToken,
) -> Result<Server> {
    Err(Error::new(Kind::Unsupported, format!("cannot listen on {address} yet")))
}
