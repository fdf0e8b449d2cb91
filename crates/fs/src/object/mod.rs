//! What an object is to the filesystem: its name, its attributes and metadata, and which bytes of it count.
//!
//! No I/O: values, their text forms, and the options of a mount.

mod act_mark;
mod attributes;
mod base_object;
mod byte_ranges;
mod content_type;
mod errno;
mod locks;
mod metadata;
mod names;
mod options;
mod sighting;
mod upload_token;
mod version_name;

pub use act_mark::ActToken;
pub use attributes::{Attributes, Rights, in_one_moment, same_time};
pub use base_object::{Base, Source};
pub use byte_ranges::ByteRanges;
pub use content_type::type_of;
pub use errno::{Errno, Fail, Op};
pub use locks::{FileLock, KernelLock, LeafLock, NamesLock, NodesLock, QueueLock};
pub use metadata::{Meta, Ns, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK};
pub use names::{
    KEY_MAX, NAME_MAX, Naming, Shown, VERSIONS, Wanted, belongs, last, lies_in, show, show_beside, want,
};
pub use options::{Cache, Flush, HELP, KernelFlag, MountOptions};
pub use sighting::Sighting;
pub use upload_token::{
    UploadToken, add_upload_token, differ_in_time_only, is_same_write, merge_attrs, said_otherwise,
    upload_hash, with_otherwise,
};
pub use version_name::VersionName;
