//! What this mount has learned of the etags that the store gives to copies.

use std::sync::atomic::{AtomicU8, Ordering};

use windlass_store::Etag;

/// Knowledge of this mount about copies: nothing yet, or whether a copy has its source's etag.
#[derive(Debug, Default)]
pub struct CopyEtags(AtomicU8);

const KEPT: u8 = 1;
/// Copies get etags of their own: with SSE-KMS each put and each copy has one.
const NEW: u8 = 2;

impl CopyEtags {
    pub fn are_kept(&self) -> bool {
        self.0.load(Ordering::Relaxed) == KEPT
    }

    /// Tells whether nothing was copied yet.
    pub fn are_unknown(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    /// Learns from one copy of `source` whether copies keep etags. Copies of objects that were uploaded in
    /// parts teach nothing.
    pub fn learn(&self, source: &Etag, copy: &Etag) {
        if !of_parts(source) {
            self.0.store(if source == copy { KEPT } else { NEW }, Ordering::Relaxed);
        }
    }
}

/// Tells whether an object was uploaded in parts: its copy may have another etag.
pub fn of_parts(etag: &Etag) -> bool {
    etag.0.contains('-')
}
