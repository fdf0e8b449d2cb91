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
    /// parts teach nothing. One copy with an etag of its own decides for good: where some objects are
    /// encrypted with SSE-KMS, the copies of the others do keep their etags.
    pub fn learn(&self, source: &Etag, copy: &Etag) {
        if of_parts(source) {
            return;
        }
        if source == copy {
            let _ = self.0.compare_exchange(0, KEPT, Ordering::Relaxed, Ordering::Relaxed);
        } else {
            self.0.store(NEW, Ordering::Relaxed);
        }
    }
}

/// Tells whether an object was uploaded in parts: its copy may have another etag.
pub fn of_parts(etag: &Etag) -> bool {
    etag.0.contains('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_copy_with_an_etag_of_its_own_decides() {
        let (etags, of) = (CopyEtags::default(), |text: &str| Etag(text.into()));
        etags.learn(&of("a-2"), &of("b"));
        assert!(etags.are_unknown(), "an upload in parts teaches nothing");
        etags.learn(&of("a"), &of("a"));
        assert!(etags.are_kept());
        etags.learn(&of("a"), &of("b"));
        etags.learn(&of("a"), &of("a"));
        assert!(!etags.are_kept() && !etags.are_unknown());
    }
}
