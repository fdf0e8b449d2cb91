//! The tree's surface.
//!
//! This first body keeps every leaf's extents in one list of pages; the paged tree comes next under the same surface.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

use crate::base::{ChunkId, Error, Kind, Result};
use crate::log::FrameRef;

/// Where pages are read from: one volume's chunks and those of its ancestors.
#[async_trait]
pub trait Pages: Send + Sync {
    /// The chunk that a frame lies in: resolves the volume index.
    fn chunk(&self, at: &FrameRef) -> Result<ChunkId>;
    /// The page's contents (a frame of kind `Map`, its place's address is `address`).
    async fn load(&self, at: &FrameRef, address: u64) -> Result<Bytes>;
}

/// Where new pages go: the map chunks of a checkpoint.
#[async_trait]
pub trait PageSink: Send {
    async fn append(&mut self, address: u64, raw: Vec<u8>) -> Result<FrameRef>;
}

/// A tree's root page: a leaf at height 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Root {
    pub frame: FrameRef,
    pub height: u8,
}

/// One state's map. Copying it is free; it never changes, `merge` makes another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tree {
    /// `None`: nothing is mapped.
    pub root: Option<Root>,
}

/// Blocks of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapped {
    pub frame: FrameRef,
    /// Which of the frame's blocks comes first, 0..16.
    pub skip: u8,
}

/// A run of blocks and where it is stored; `None`: nowhere, it reads as zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    pub block: u64,
    pub count: u64,
    pub at: Option<Mapped>,
}

/// Decoded pages under a bound in bytes, shared by all volumes of a daemon.
#[derive(Debug)]
pub struct PageCache {}

impl PageCache {
    pub fn new(_bytes: usize) -> PageCache {
        PageCache {}
    }
}

/// Mapped extents in order of their blocks.
pub struct Walk<'a> {
    _pages: &'a dyn Pages,
}

fn soon<T>() -> Result<T> {
    Err(Error::new(Kind::Unsupported, "maps are not built yet"))
}

impl Tree {
    /// What lies at these blocks, without gaps, in order.
    pub async fn lookup(
        &self,
        _pages: &dyn Pages,
        _cache: &PageCache,
        blocks: Range<u64>,
    ) -> Result<Vec<Extent>> {
        match self.root {
            None => Ok(vec![Extent { block: blocks.start, count: blocks.end - blocks.start, at: None }]),
            Some(_) => soon(),
        }
    }

    /// The tree with `updates` applied: sorted, not overlapping; `at: None` unmaps. Mapped ones are within a frame and
    /// a leaf. This tree stays as it is.
    pub async fn merge(
        &self,
        _pages: &dyn Pages,
        _cache: &PageCache,
        _sink: &mut dyn PageSink,
        mut updates: impl Iterator<Item = Extent> + Send,
    ) -> Result<Tree> {
        if updates.next().is_none() { Ok(*self) } else { soon() }
    }

    /// What is mapped within these blocks.
    pub fn walk<'a>(&self, pages: &'a dyn Pages, _cache: &'a PageCache, _blocks: Range<u64>) -> Walk<'a> {
        Walk { _pages: pages }
    }
}

impl Walk<'_> {
    pub async fn next(&mut self) -> Result<Option<Extent>> {
        Ok(None)
    }
}
