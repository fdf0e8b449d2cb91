//! What is cloned, as an engine that cloned it a moment ago knows it.

use std::sync::Arc;

use super::cell::HeadCell;
use super::head::Head;
use super::states::Tables;
use crate::base::VolumeId;

/// A snapshot's volume as it was when it was looked at last. A pin counts by the look after it, so this may be old.
#[derive(Clone, Debug)]
pub struct Template {
    pub parent: VolumeId,
    pub cell: HeadCell,
    pub seen: Arc<(Head, Tables)>,
}
