//! By what an upload of ours is known again when its answer was lost, perhaps with the mount that sent it: the object's
//! size, and 128 bits drawn for it that stand in its metadata as `windlass-upload`. A server-side copy keeps them.

use serde::{Deserialize, Serialize};

use crate::base::rt::Rt;
use crate::store::Attrs;

const UPLOAD: &str = "windlass-upload";

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UploadToken {
    pub size: u64,
    pub upload: String,
}

impl UploadToken {
    /// None: nobody signed these.
    pub fn of(attrs: &Attrs, size: u64) -> Option<UploadToken> {
        Some(UploadToken { size, upload: attrs.user.get(UPLOAD)?.clone() })
    }
}

/// Makes the metadata those of an upload of its own.
pub fn add_upload_token(rt: &Rt, attrs: &mut Attrs) {
    attrs.user.insert(UPLOAD.into(), format!("{:016x}{:016x}", rt.random(), rt.random()));
}

/// Both say the same of a file, whichever upload brought them and when.
pub fn differ_in_time_only(a: &Attrs, b: &Attrs) -> bool {
    let timeless = |attrs: &Attrs| {
        let mut attrs = attrs.clone();
        attrs.user.retain(|name, _| !matches!(name.as_str(), "mtime" | "ctime" | "atime" | UPLOAD));
        attrs
    };
    timeless(a) == timeless(b)
}
