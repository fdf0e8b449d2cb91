//! Input and output of a pool: reads, uploads, probes, catalogs, status and what they share.

pub mod availability;
mod catalog;
mod context;
mod directory;
mod probe;
mod quota_room;
mod read;
pub mod refresh;
pub mod status;
mod upload;

pub use availability::{Away, Condition, Need};
pub use catalog::{Catalog, CatalogEntry};
pub use context::{DELETE_MAX, PoolContext};
pub use directory::{Directory, NameEntry};
pub use probe::{Payload, Probe, Told};
pub use quota_room::QuotaRoom;
pub use read::Verify;
pub use status::{PoolStatus, StoreState, StoreStatus};
pub use upload::{Known, Upload};
