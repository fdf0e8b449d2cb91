//! What tests share.

pub mod stores;
