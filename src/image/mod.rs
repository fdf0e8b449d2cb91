//! Images of disks: what comes in. Knows files and formats, nothing of volumes.
//!
//! An image is untrusted. Its own words decide no allocation before they were held against the file's length, no file that
//! it names is opened unasked, and what contradicts itself is refused before the first byte is written.
//!
//! `ReadAt` is a file that can be read anywhere: on the local disk, or behind `http(s)://`. A `Source` makes pieces of it, in
//! order: a raw disk, a qcow2 with what it is built on, a stream. `copy` takes a source to a `Target`, many pieces at a time.

mod backing_dir;
mod copy;
mod format;
mod http;
mod local_file;
mod qcow2;
mod raw;
mod read_at;
mod source;
mod stream;

pub use backing_dir::BackingDir;
pub use copy::{Copied, CopyWatch, Copying, Target};
pub use format::{Compression, Format, HEAD_BYTES, detect};
pub use http::{HttpFile, HttpOpened};
pub use local_file::{LocalFile, Opened};
pub use qcow2::Chain;
pub use raw::Raw;
pub use read_at::{ReadAt, sha256};
pub use source::{Content, PIECE, Piece, Source};
pub use stream::{Bytewise, Stream};
