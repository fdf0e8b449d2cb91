//! A paged copy-on-write tree: block to frame, and the tables under the checkpoint.
