//! The block face: NBD server, and a small client for the demo and tests. Knows nothing of storage.
