//! Input and output of a pool: reads, uploads, probes, catalogs, status and what they share.

pub mod availability;
mod chunk_probe;
mod clock_bounds;
mod context;
mod directory;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod prove_servers;
mod quota_headroom;
mod read;
pub mod refresh;
mod register_tree;
pub mod status;
mod upload;

pub use availability::{Away, Condition, Need};
pub use chunk_probe::{Payload, Probe, Told, rebuild_data};
pub use clock_bounds::Clocks;
pub use context::{DELETE_MAX, PoolContext};
pub use directory::{Directory, NameEntry};
pub use quota_headroom::QuotaRoom;
pub use read::Verify;
pub use register_tree::{Catalog, CatalogEntry};
pub use status::{PoolStatus, StoreState, StoreStatus};
pub use upload::{Known, Upload};
