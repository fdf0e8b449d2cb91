//! A disk in memory: what the face alone costs is measured on it, and tests hold it against a model.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use parking_lot::RwLock;

use super::export::{Changes, Description, Export, Exports, HeldDisk, Holding, ListedExport, StatusExtent};
use windlass_base::{Error, Kind, Result, Rope};

/// Bytes of the disk under one lock.
const PIECE: usize = 1 << 20;

/// Exports of one name each; an empty name stands for the first.
#[derive(Debug, Default)]
pub struct MemoryExports {
    disks: Vec<Arc<MemoryDisk>>,
}

impl MemoryExports {
    pub fn new(disks: Vec<Arc<MemoryDisk>>) -> Arc<MemoryExports> {
        Arc::new(MemoryExports { disks })
    }

    fn find(&self, name: &str) -> Result<&Arc<MemoryDisk>> {
        self.disks
            .iter()
            .find(|d| name.is_empty() || d.description.name == name)
            .ok_or_else(|| Error::new(Kind::NotFound, format!("there is no export `{name}` here")))
    }
}

#[async_trait]
impl Exports for MemoryExports {
    async fn list(&self) -> Result<Vec<ListedExport>> {
        let listed = |d: &Arc<MemoryDisk>| ListedExport {
            name: d.description.name.clone(),
            text: d.description.text.clone(),
        };
        Ok(self.disks.iter().map(listed).collect())
    }

    async fn describe(&self, name: &str) -> Result<Description> {
        Ok(self.find(name)?.description.clone())
    }

    async fn open(&self, name: &str, _: &str) -> Result<Arc<dyn Export>> {
        Ok(self.find(name)?.clone())
    }

    async fn open_again(&self, _: &str, held: &HeldDisk, _: &str) -> Result<Arc<dyn Export>> {
        let name = held.0.as_str().ok_or_else(|| Error::new(Kind::Invalid, "no export is held"))?;
        Ok(self.find(name)?.clone())
    }
}

/// A disk whose contents end with it. Memory is taken where something was written.
#[derive(Debug)]
pub struct MemoryDisk {
    description: Description,
    pieces: Vec<RwLock<Vec<u8>>>,
}

impl MemoryDisk {
    pub fn new(description: Description) -> Arc<MemoryDisk> {
        let pieces = (0..description.size.div_ceil(PIECE as u64)).map(|_| RwLock::default()).collect();
        Arc::new(MemoryDisk { description, pieces })
    }

    /// Calls `each` with a piece, the start in it, and the part of the range 0..len that lies there.
    fn each(
        &self,
        offset: u64,
        len: u64,
        mut each: impl FnMut(&RwLock<Vec<u8>>, usize, std::ops::Range<u64>),
    ) {
        let mut done = 0;
        while done < len {
            let at = offset + done;
            let start = (at % PIECE as u64) as usize;
            let n = (len - done).min((PIECE - start) as u64);
            each(&self.pieces[(at / PIECE as u64) as usize], start, done..done + n);
            done += n;
        }
    }
}

/// A client's claim on a disk in memory. The disk is known by its name, which no other disk ever has.
struct Named(String);

impl Holding for Named {
    fn held(&self) -> Result<HeldDisk> {
        Ok(HeldDisk(self.0.clone().into()))
    }
}

#[async_trait]
impl Export for MemoryDisk {
    fn describe(&self) -> Description {
        self.description.clone()
    }

    fn holding(&self) -> Arc<dyn Holding> {
        Arc::new(Named(self.description.name.clone()))
    }

    async fn changes_again(&self, snapshot: &str, _: &HeldDisk) -> Result<Box<dyn Changes>> {
        self.changes(snapshot).await
    }

    fn size(&self) -> u64 {
        self.description.size
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Rope> {
        let mut out = BytesMut::with_capacity(len);
        self.each(offset, len as u64, |piece, start, part| {
            let n = (part.end - part.start) as usize;
            match piece.read().get(start..start + n) {
                Some(bytes) => out.extend_from_slice(bytes),
                None => out.resize(out.len() + n, 0),
            }
        });
        Ok(out.freeze().into())
    }

    async fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<StatusExtent>> {
        let mut all: Vec<StatusExtent> = Vec::new();
        self.each(offset, len, |piece, _, part| {
            let (len, hole) = (part.end - part.start, piece.read().is_empty());
            match all.last_mut() {
                Some(last) if last.hole == hole => last.len += len,
                _ => all.push(StatusExtent { len, hole }),
            }
        });
        all.truncate(max);
        Ok(all)
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        self.each(offset, data.len() as u64, |piece, start, part| {
            let data = &data[part.start as usize..part.end as usize];
            let mut piece = piece.write();
            if piece.is_empty() {
                piece.resize(PIECE, 0);
            }
            piece[start..start + data.len()].copy_from_slice(data);
        });
        Ok(())
    }

    async fn zero(&self, offset: u64, len: u64, _no_hole: bool) -> Result<()> {
        self.each(offset, len, |piece, start, part| {
            let n = (part.end - part.start) as usize;
            let mut piece = piece.write();
            if n == PIECE {
                *piece = Vec::new();
            } else if !piece.is_empty() {
                piece[start..start + n].fill(0);
            }
        });
        Ok(())
    }

    async fn trim(&self, offset: u64, len: u64) -> Result<()> {
        self.zero(offset, len, false).await
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }
}
