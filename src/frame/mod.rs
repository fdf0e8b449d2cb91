//! What one run of blocks becomes when stored: compressed, (later) sealed, checksummed, bound to its place; and back.
