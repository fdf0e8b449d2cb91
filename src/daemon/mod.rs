//! The engine of one state folder: config, control socket, memory budget, lifecycle; owns everything that runs.

mod admission;
pub mod answers;
pub mod api;
mod capacity;
pub mod config;
mod configured;
pub mod control;
mod control_http;
mod engine;
mod engine_tables;
mod exports;
mod handler;
mod handover;
mod http;
mod io_tally;
mod listeners;
mod metrics;
mod metrics_server;
#[cfg(test)]
mod monitoring;
mod mounts;
#[cfg(test)]
mod openapi;
mod page;
mod pools;
mod replica_schedule;
mod replicas;
pub mod signals;
mod state_dir;
mod store_overlap;
mod verbs;
mod volume_clients;

pub use config::Config;
pub use configured::{Configured, Reloaded};
pub use engine::{Engine, Options};
pub use engine_tables::EngineState;
pub use exports::ALONE;
pub use handover::{FORMAT as HANDOVER_FORMAT, HandedOver, Parcel, Receiver, pack};
pub use listeners::given as given_listeners;
pub use pools::check_stores;
pub use state_dir::{HostContext, KnownPool, StateDir};
