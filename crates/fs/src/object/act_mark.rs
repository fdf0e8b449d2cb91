//! By what the copies of an act (a rename) are known: its token, and of which object each is the copy, as `windlass-act` in
//! the copy's metadata.
//!
//! Etags can't say that: a store gives the copy of an object in parts another etag, and with SSE-KMS each copy. A copy that
//! keeps its source's etag and all its metadata needs no mark: it is the same object once more.
//!
//! | `windlass-act` | meaning |
//! |---|---|
//! | 32 hex digits | the act |
//! | space, number | the source's time at the store, in milliseconds since 1970; `-` where it tells none |
//! | space, rest | the source's etag |
//!
//! Whoever changes the copy's bytes or metadata here takes the mark away (`add_upload_token`): a changed copy is no copy.

use serde::{Deserialize, Serialize};

use super::upload_token::{ACT, upload_hash};
use windlass_base::rt::Rt;
use windlass_store::{Attrs, Etag, Head};

/// Token of one act (a rename): 128 random bits as 32 hexadecimal digits, drawn when the rename begins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ActToken(String);

impl ActToken {
    pub fn new(rt: &Rt) -> ActToken {
        ActToken(format!("{:016x}{:016x}", rt.random(), rt.random()))
    }

    /// Returns the metadata of this act's copy of `source`: those of `source`, and the act's mark.
    pub fn attrs_of_copy(&self, source: &Head) -> Attrs {
        let mut attrs = source.attrs.clone();
        attrs.user.insert(ACT.into(), self.mark(source));
        attrs
    }

    fn mark(&self, Head { modified_ms, etag: Etag(etag), .. }: &Head) -> String {
        let ms = modified_ms.map_or_else(|| "-".to_owned(), |ms| ms.to_string());
        format!("{} {ms} {etag}", self.0)
    }

    /// Tells whether `copy` is this act's copy of `source`, as both are now.
    pub fn made(&self, source: &Head, copy: &Head) -> bool {
        // Within one second another client's chmod changes the upload's token alone.
        let same_upload = upload_hash(&source.attrs) == upload_hash(&copy.attrs);
        source.size == copy.size && same_upload && copy.attrs.user.get(ACT) == Some(&self.mark(source))
    }

    /// Tells whether `copy` has the bytes and all the metadata of `source`, by this act or because both are
    /// the same in every respect. An object that was stored after its alleged copy was put by somebody else.
    pub fn is_pair(&self, source: &Head, copy: &Head) -> bool {
        let in_order = || source.modified_ms.zip(copy.modified_ms).is_none_or(|(was, copied)| was <= copied);
        let same = || (&source.etag, &source.attrs) == (&copy.etag, &copy.attrs) && in_order();
        source.size == copy.size && (self.made(source, copy) || same())
    }

    /// Returns the etag of the object of which this act made `copy`; `None` if `copy` has no mark of this
    /// act.
    pub fn source_of(&self, copy: &Head) -> Option<Etag> {
        let mut words = copy.attrs.user.get(ACT)?.splitn(3, ' ');
        (words.next()? == self.0).then_some(())?;
        words.next()?;
        Some(Etag(words.next()?.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(etag: &str, modified_ms: u64, mark: Option<&str>) -> Head {
        let mut attrs = Attrs::default();
        mark.map(|mark| attrs.user.insert(ACT.into(), mark.into()));
        let (version, storage_class, restored, checksum) = Default::default();
        Head {
            size: 3,
            etag: Etag(etag.into()),
            modified_ms: Some(modified_ms),
            attrs,
            version,
            storage_class,
            restored,
            checksum,
        }
    }

    #[test]
    fn a_pair_is_an_object_and_this_acts_copy_of_just_that() {
        let (act, other) = (ActToken("a".repeat(32)), ActToken("b".repeat(32)));
        let source = head("e-2", 7, None);
        let copy = Head { attrs: act.attrs_of_copy(&source), ..head("f", 9, None) };
        assert!(act.is_pair(&source, &copy) && !other.is_pair(&source, &copy));
        assert_eq!(act.source_of(&copy), Some(source.etag.clone()));
        assert_eq!(other.source_of(&copy), None);
        assert!(!act.is_pair(&head("e-2", 8, None), &copy), "a chmod of the source");
        assert!(!act.is_pair(&head("e-3", 7, None), &copy));
        let mut chmodded = head("e-2", 7, None);
        chmodded.attrs.user.insert("windlass-upload".into(), "another".into());
        assert!(!act.is_pair(&chmodded, &copy), "a chmod in the same second");
        assert!(!act.is_pair(&source, &Head { size: 4, ..copy }));
        assert!(act.is_pair(&source, &head("e-2", 9, None)), "the same in every respect");
        assert!(!act.is_pair(&head("e-2", 9, None), &head("e-2", 7, None)), "put again after it was copied");
        let untimed = Head { modified_ms: None, ..head("e-2", 0, None) };
        assert!(act.is_pair(&head("e-2", 9, None), &untimed), "nobody tells when");
        assert!(!act.is_pair(&source, &head("e-2", 9, Some("x"))), "other metadata");
        assert!(!act.is_pair(&source, &head("f", 9, None)));
    }
}
