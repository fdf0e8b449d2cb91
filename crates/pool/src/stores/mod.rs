//! The pool's stores: labels, keys, members and their standing, the shards on them, latencies.

mod config;
mod find_by_label;
pub mod hedge_policy;
mod host_resources;
mod label;
mod member;
mod membership;
mod object_key;
mod placement;
mod response_stats;
mod roster;
mod shard;

pub use config::{PoolConfig, PoolSettings, StoreEntry, guesses};
pub use find_by_label::{
    Found, Instead, being_destroyed, best_hint, find, find_all, hints, instead_of_label, labelled, pools_in,
    read_label, read_labels, read_own_label, refuse_destroyed,
};
pub use hedge_policy::{Hedges, delay};
pub use host_resources::{OnlyNamed, Opener, PoolHost, PoolStore};
pub use label::{LABEL_BEFORE, LABEL_MAX, LABELS, Label, label_key, lacks_key, pool_of_label};
pub use member::{Member, PoolMark, Standing};
pub use membership::Membership;
pub use object_key::{ASIDE, Named, PROBES, REGISTERS, parse, register_key, shard_key};
pub use placement::{place, shard_on};
pub use response_stats::SizeClass;
pub use roster::{Busy, Roster};
pub use shard::{At, How, Miss};
