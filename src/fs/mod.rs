//! The file face: a bucket as a FUSE filesystem, objects 1:1 visible as files.
