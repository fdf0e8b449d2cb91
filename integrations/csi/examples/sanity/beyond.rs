//! What csi-sanity does not ask.

use crate::context::Context;

pub async fn contents(_: &mut Context) {}
pub async fn refusals(_: &mut Context) {}
pub async fn two_hosts(_: &mut Context) {}
