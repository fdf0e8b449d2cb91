//! The engine of one state folder: config, control socket, memory budget, lifecycle; owns everything that runs.

pub mod answers;
pub mod api;
mod audit_log;
mod command_gate;
pub mod config;
mod configured;
pub mod control_client;
mod control_http;
mod control_reply;
mod control_server;
mod credentials;
#[cfg(test)]
mod dashboard_and_alerts;
mod engine;
mod engine_tables;
mod expected_clients;
mod exports;
mod failed_attempts;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
#[cfg(test)]
mod golden;
mod handler_trait;
mod held_exports;
mod io_tally;
mod key_places;
mod listen_addresses;
mod load_access_policy;
mod metrics;
mod metrics_http_message;
mod metrics_server;
mod metrics_users;
mod mirror;
mod mounts;
mod nbd_handover;
#[cfg(test)]
mod openapi;
mod otlp_traces;
mod page;
mod pool_capacity;
mod pool_house;
mod pools;
pub mod progress;
mod replica_scheduler;
mod replica_state;
pub mod shell_command;
pub mod signals;
mod state_dir;
mod store_overlap;
mod trouble_alerts;
mod verbs;
mod volume_clients;
mod volume_path;
mod volume_sharing_map;
mod volume_uses;
mod works;

pub use config::Config;
pub use configured::{Configured, Reloaded};
pub use credentials::read_kept as read_kept_credentials;
pub use engine::{Engine, Options};
pub use engine_tables::EngineState;
pub use exports::ALONE;
pub use io_tally::say_from;
pub use key_places::{KeyPlace, check_private, check_private_to_group};
pub use listen_addresses::{Flags as ListenFlags, given as given_listeners};
pub use load_access_policy::unknown_accounts;
pub use mirror::{MirrorFlags, MirrorPlan};
pub use nbd_handover::{FORMAT as HANDOVER_FORMAT, HandedOver, Parcel, Receiver, pack};
pub use pools::check_stores;
pub use state_dir::{HostContext, KnownPool, StateDir};
pub use verbs::mount_troubles;
