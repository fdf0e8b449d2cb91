//! Images: volumes as files and streams. What this layer needs of a volume is behind small traits; it reaches none itself.

pub mod changes;
pub mod export;
pub mod output;
pub mod qcow2_overlay;
pub mod qcow2_writer;
pub mod rbd_diff;
pub mod runs;
pub mod sinks;
pub mod sum;
