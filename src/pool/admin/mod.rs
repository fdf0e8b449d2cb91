//! A pool's life: creating, opening, replacing stores, recovery by force.

mod force_recover;
mod handle;
mod open;
mod plan;
mod replace;

pub use force_recover::{ForcedRecovery, Lost, StoreSwap};
pub use handle::Pool;
pub use open::CreateOptions;
#[cfg(test)]
pub use plan::{Place, Plan};
pub use replace::{Filled, Replacement};
