//! The engine of one state folder: config, control socket, memory budget, lifecycle; owns everything that runs.

pub mod answers;
pub mod api;
mod command_gate;
pub mod config;
mod configured;
pub mod control;
mod control_http;
mod credentials;
mod disk_map;
mod engine;
mod engine_tables;
mod exports;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod handover;
mod io_tally;
mod key_places;
mod listen_policy;
mod metrics;
mod metrics_http;
mod metrics_server;
mod mirror;
#[cfg(test)]
mod monitoring;
mod mounts;
#[cfg(test)]
mod openapi;
mod page;
mod pool_capacity;
mod pools;
mod replica_schedule;
mod replicas;
pub mod signals;
mod state_dir;
mod store_overlap;
mod traces;
mod troubles;
mod verb_handler;
mod verbs;
mod volume_clients;

pub use config::Config;
pub use configured::{Configured, Reloaded};
pub use credentials::read_kept as read_kept_credentials;
pub use engine::{Engine, Options};
pub use engine_tables::EngineState;
pub use exports::ALONE;
pub use handover::{FORMAT as HANDOVER_FORMAT, HandedOver, Parcel, Receiver, pack};
pub use key_places::KeyPlace;
pub use listen_policy::{Flags as ListenFlags, given as given_listeners};
pub use mirror::{MirrorFlags, MirrorPlan};
pub use pools::check_stores;
pub use state_dir::{HostContext, KnownPool, StateDir, is_unread_journal};
pub use verbs::mount_troubles;
