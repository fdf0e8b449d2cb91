//! What is cloned, as an engine that cloned it a moment ago knows it.

use std::sync::Arc;

use crate::base::VolumeId;
use crate::volume::head::Head;
use crate::volume::head::{HeadRegister, Naming};
use crate::volume::space::Tables;

/// A snapshot's volume as it was when it was looked at last. A pin counts by the look after it, so this may be old.
#[derive(Clone, Debug)]
pub struct Template {
    pub parent: VolumeId,
    pub cell: HeadRegister,
    /// The serial of the name that it was found by, and what the head said of the volume's name then.
    pub named: (u64, Naming),
    pub seen: Arc<(Head, Tables)>,
}
