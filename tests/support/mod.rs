//! What tests share.

pub mod s3_server;
pub mod stores;
