//! Where a log ends.

use crate::base::{Epoch, Seq};

/// The last chunk of an epoch that can be read with all before it.
pub type LogEnd = (Epoch, Seq);
