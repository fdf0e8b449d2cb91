//! The order of the locks that are held for moments (docs/architecture.md, "The order of locks"): a lock is taken while
//! earlier ones are held, never while a later one, or another of its own place, is.

use windlass_base::lock_order::OrderedMutex;

/// Lock of the way to tell the kernel something. No other lock is held then: the kernel may ask about the
/// node before it returns.
pub type KernelLock<T> = OrderedMutex<0, T>;
/// Lock of the write-back queue.
pub type QueueLock<T> = OrderedMutex<1, T>;
/// Lock of the table of nodes.
pub type NodesLock<T> = OrderedMutex<2, T>;
/// Lock of the name cache.
pub type NamesLock<T> = OrderedMutex<3, T>;
/// Lock of an open file's state. It is never taken with the name cache's, nor are two such locks held at
/// once.
pub type FileLock<T> = OrderedMutex<3, T>;
/// Lock of a table under which no other lock of this file is taken.
pub type LeafLock<T> = OrderedMutex<4, T>;
