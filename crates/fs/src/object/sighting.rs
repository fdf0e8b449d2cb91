//! Which object had a name when it was looked at.

use serde::{Deserialize, Serialize};

use super::attributes::same_time;
use super::upload_token::upload_hash;
use windlass_store::{Etag, Head, Listed};

/// An object as it was seen. Equal bytes, and so equal etags, do not make two objects one: two clients may
/// put the same bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sighting {
    pub etag: Etag,
    /// The store's modification time, in milliseconds since 1970, where it is known. Servers tell whole
    /// seconds in some answers and milliseconds in others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified_ms: Option<u64>,
    /// `upload_hash` of the object's metadata, where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<u64>,
}

impl Sighting {
    pub fn of(head: &Head) -> Sighting {
        let upload = Some(upload_hash(&head.attrs));
        Sighting { etag: head.etag.clone(), modified_ms: head.modified_ms, upload }
    }

    pub fn of_listed(listed: Listed) -> Sighting {
        Sighting { etag: listed.etag, modified_ms: listed.modified_ms, upload: None }
    }

    /// Tells whether `head` is still the object that was seen. False also where nothing but the etag was
    /// known of that object.
    pub fn is(&self, head: &Head) -> bool {
        let unchanged = same_time(self.modified_ms, head.modified_ms);
        let written = self.upload.map(|upload| upload == upload_hash(&head.attrs));
        self.etag == head.etag && unchanged && written.unwrap_or(self.modified_ms.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_store::Attrs;

    #[test]
    fn an_object_is_known_by_more_than_its_bytes() {
        let head = |upload: Option<&str>, modified_ms| {
            let mut attrs = Attrs::default();
            attrs.user.extend(upload.map(|upload| ("windlass-upload".to_owned(), upload.to_owned())));
            let (version, storage_class, restored, checksum) = Default::default();
            let etag = Etag("e".into());
            Head { size: 3, etag, modified_ms, attrs, version, storage_class, restored, checksum }
        };
        let (ours, bare) = (head(Some("a"), Some(7000)), head(None, Some(7000)));
        assert!(Sighting::of(&ours).is(&ours) && Sighting::of(&bare).is(&bare));
        assert!(
            !Sighting::of(&ours).is(&bare) && !Sighting::of(&bare).is(&ours),
            "the same bytes, by another"
        );
        assert!(!Sighting::of(&bare).is(&head(None, Some(9000))), "later");
        // What this mount wrote has no time.
        let written = Sighting { modified_ms: None, ..Sighting::of(&ours) };
        assert!(written.is(&head(Some("a"), Some(9000))) && !written.is(&bare));
        let by_etag = Sighting { upload: None, ..written };
        assert!(!by_etag.is(&ours), "nobody knows");
        assert!(Sighting { upload: None, ..Sighting::of(&bare) }.is(&bare), "as it was listed");
    }
}
