//! The order of the locks that are held for moments (docs/architecture.md, "The order of locks"): a lock is taken while
//! earlier ones are held, never while a later one, or another of its own place, is.

use crate::base::lock_order::OrderedMutex;

/// Telling the kernel: nothing is held, since it may ask about the node before it returns.
pub type KernelLock<T> = OrderedMutex<0, T>;
/// The write-back queue.
pub type QueueLock<T> = OrderedMutex<1, T>;
/// The table of nodes.
pub type NodesLock<T> = OrderedMutex<2, T>;
/// The name cache.
pub type NamesLock<T> = OrderedMutex<3, T>;
/// An open file's state. Never taken with the name cache, nor two at once.
pub type FileLock<T> = OrderedMutex<3, T>;
/// Tables under which no other of these is taken.
pub type LeafLock<T> = OrderedMutex<4, T>;
