//! A pool's life: creating, opening, replacing stores, recovery by force, its end.

mod create;
mod destroy;
mod force_recover;
mod handle;
mod next_generation;
mod open;
mod relabel;
mod replace;

pub use create::CreateOptions;
pub use destroy::{Deleted, Destruction};
pub use force_recover::{ForcedRecovery, Lost, StoreSwap};
pub use handle::Pool;
#[cfg(test)]
pub use next_generation::{Place, Plan, check_alone};
pub use relabel::{Relabelled, relabel};
pub use replace::{Care, Filled, Replacement};
