//! What this mount has learned of the etags that the store gives to copies.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::store::Etag;

/// Whether copies have their source's etag, as far as this mount has seen.
#[derive(Debug, Default)]
pub struct CopyEtags(AtomicU8);

const KEPT: u8 = 1;
/// With SSE-KMS, each put and each copy has an etag of its own.
const NEW: u8 = 2;

impl CopyEtags {
    pub fn are_kept(&self) -> bool {
        self.0.load(Ordering::Relaxed) == KEPT
    }

    /// Nothing was copied yet.
    pub fn are_unknown(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    /// A copy was made of that source.
    pub fn learn(&self, source: &Etag, copy: &Etag) {
        if !of_parts(source) {
            self.0.store(if source == copy { KEPT } else { NEW }, Ordering::Relaxed);
        }
    }
}

/// An object that was uploaded in parts: its copy may have another etag.
pub fn of_parts(etag: &Etag) -> bool {
    etag.0.contains('-')
}
