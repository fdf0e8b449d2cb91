//! Where a log ends.

use windlass_base::{Epoch, Seq};

/// The last chunk of an epoch that can be read with all before it.
pub type LogEnd = (Epoch, Seq);
