//! The bucket as the filesystem asks it: deadlines, settled outcomes, deletes many at a time, and a circuit breaker for
//! a store that does not answer.

mod circuit_breaker;
mod client;
mod deferred_deletes;

pub use client::BucketClient;
