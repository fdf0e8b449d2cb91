//! The engine of one state folder: config, control socket, memory budget, lifecycle; owns everything that runs.

pub mod api;
mod config;
pub mod control;
mod desk;
mod engine;
mod exports;
mod home;
mod http;
mod metrics;
mod mounts;
mod places;
mod pools;
mod sessions;
pub mod signals;
mod verbs;

pub use config::Config;
pub use desk::Desk;
pub use engine::{Engine, Options};
pub use home::{Home, KnownPool, Seat};
