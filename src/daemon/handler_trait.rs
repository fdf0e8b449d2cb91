//! Who carries verbs out: between the control socket's two protocols and the engine.

use async_trait::async_trait;

use super::api::{Outcome, Verb};
use super::progress::ProgressSink;
use windlass_base::Result;

/// A party that carries verbs out.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    async fn handle(&self, verb: Verb, progress: ProgressSink) -> Result<Outcome>;
}
