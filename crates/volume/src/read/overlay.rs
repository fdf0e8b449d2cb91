//! What was written since the last checkpoint: layers of intervals, newest last, frozen at snapshot marks and checkpoints.
//!
//! An entry holds its bytes until its chunk is stored, then only says in which frame they lie. A frozen layer never takes
//! another write; a layer is frozen only where a chunk ends, so that all of a chunk's blocks lie in one layer.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use windlass_base::format_limits::BLOCK;
use windlass_base::interval_map::{Cut, Intervals};
use windlass_base::{Era, Lsn, Seq, StateId};
use windlass_log::{FrameRef, Placed};
use windlass_map::{Extent, Mapped};

/// The place of a range of blocks.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// The blocks are not stored yet; `data` are the bytes of exactly these blocks.
    Memory {
        data: Bytes,
        lsn: Lsn,
    },
    Zero,
    /// The blocks lie in a stored frame. `index`: the range's first block within the frame.
    Frame {
        at: FrameRef,
        index: u8,
    },
}

impl Cut for Piece {
    fn part(&self, skip: u64, count: u64) -> Self {
        match self {
            Piece::Memory { data, lsn } => {
                let from = (skip * BLOCK) as usize;
                let data = data.slice(from..from + (count * BLOCK) as usize);
                Piece::Memory { data, lsn: *lsn }
            }
            Piece::Zero => Piece::Zero,
            Piece::Frame { at, index } => Piece::Frame { at: *at, index: index + skip as u8 },
        }
    }

    fn joins(&self, count: u64, next: &Self) -> bool {
        match (self, next) {
            (Piece::Zero, Piece::Zero) => true,
            (Piece::Frame { at: a, index: i }, Piece::Frame { at: b, index: j }) => {
                a == b && u64::from(*i) + count == u64::from(*j)
            }
            _ => false,
        }
    }
}

/// The entries of one layer.
pub type Layer = Intervals<Piece>;

/// A layer that takes no more writes.
#[derive(Clone, Debug)]
pub struct Frozen {
    pub layer: Arc<Layer>,
    /// The state that was the tip when the entries were written, and its era.
    pub state: StateId,
    pub era: Era,
    /// Record up to which everything is in this layer or an older one.
    pub last: Lsn,
    /// The chunk that ends with the layer, once it has its number.
    pub seq: Option<Seq>,
}

/// The layers above a tree.
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    pub active: Layer,
    pub frozen: Vec<Frozen>,
}

impl Overlay {
    /// Visits the range in pieces, each from the newest layer that has it; `None` where none does.
    pub fn lookup(&self, range: Range<u64>) -> Vec<(Range<u64>, Option<Piece>)> {
        let layers: Vec<&Layer> =
            std::iter::once(&self.active).chain(self.frozen.iter().rev().map(|f| &*f.layer)).collect();
        let mut out = Vec::new();
        descend(&layers, range, &mut out);
        out
    }

    /// Makes the entries of a stored chunk point to its frames, so that they give their memory back.
    pub fn place(&mut self, chunk: Range<u64>, placed: &[Placed]) {
        let (first, last) = (Lsn(chunk.start), Lsn(chunk.end - 1));
        let frozen = self.frozen.iter_mut().find(|f| f.last >= last);
        let layer = match frozen {
            Some(f) => Arc::make_mut(&mut f.layer),
            None => &mut self.active,
        };
        for p in placed {
            layer.change(p.block..p.block + u64::from(p.count), |at, piece| match piece {
                Piece::Memory { lsn, .. } if (first..=last).contains(&lsn) => {
                    Piece::Frame { at: p.at, index: (at.start - p.block) as u8 }
                }
                other => other,
            });
        }
    }

    /// Returns the number of entries in all layers.
    pub fn len(&self) -> usize {
        self.active.len() + self.frozen.iter().map(|f| f.layer.len()).sum::<usize>()
    }
}

/// Returns what a layer changes in the map. All of it must be stored.
pub fn updates(layer: &Layer) -> impl Iterator<Item = Extent> + Send + '_ {
    layer.iter().map(|(range, piece)| {
        let at = match piece {
            Piece::Frame { at, index } => Some(Mapped { frame: *at, skip: *index }),
            Piece::Zero => None,
            Piece::Memory { .. } => unreachable!("all of a merged layer is stored"),
        };
        Extent { block: range.start, count: range.end - range.start, at }
    })
}

fn descend(layers: &[&Layer], range: Range<u64>, out: &mut Vec<(Range<u64>, Option<Piece>)>) {
    let Some((top, below)) = layers.split_first() else {
        out.push((range, None));
        return;
    };
    let mut at = range.start;
    for (found, piece) in top.overlaps(range.clone()) {
        if at < found.start {
            descend(below, at..found.start, out);
        }
        at = found.end;
        out.push((found, Some(piece)));
    }
    if at < range.end {
        descend(below, at..range.end, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_base::{Epoch, Seq};

    fn memory(lsn: u64, blocks: u64) -> Piece {
        Piece::Memory { data: Bytes::from(vec![lsn as u8; (blocks * BLOCK) as usize]), lsn: Lsn(lsn) }
    }

    fn frame(seq: u64) -> FrameRef {
        FrameRef { volume: 0, epoch: Epoch(1), seq: Seq(seq), offset: 0, len: 10 }
    }

    #[test]
    fn newest_layers_win_and_stored_chunks_free_memory() {
        let mut overlay = Overlay::default();
        overlay.active.insert(0..8, memory(1, 8));
        overlay.active.insert(4..5, Piece::Zero);
        let layer = Arc::new(std::mem::take(&mut overlay.active));
        overlay.frozen.push(Frozen { layer, state: StateId(1), era: Era(1), last: Lsn(2), seq: None });
        overlay.active.insert(2..3, memory(3, 1));
        let shape = |o: &Overlay| -> Vec<_> {
            let name = |p: Option<Piece>| match p {
                None => "hole".to_owned(),
                Some(Piece::Memory { data, lsn }) => format!("m{lsn}x{}", data.len() as u64 / BLOCK),
                Some(Piece::Zero) => "zero".to_owned(),
                Some(Piece::Frame { at, index }) => format!("f{}+{index}", at.seq),
            };
            o.lookup(0..10).into_iter().map(|(r, p)| (r.start, r.end, name(p))).collect()
        };
        let expect = |list: &[(u64, u64, &str)]| -> Vec<_> {
            list.iter().map(|&(a, b, s)| (a, b, s.to_owned())).collect()
        };
        let before =
            [(0, 2, "m1x2"), (2, 3, "m3x1"), (3, 4, "m1x1"), (4, 5, "zero"), (5, 8, "m1x3"), (8, 10, "hole")];
        assert_eq!(shape(&overlay), expect(&before));
        // Chunk 1 holds records 1 and 2; block 4 was absorbed in it, so its frames are blocks 0..4 and 5..8.
        let first = [
            Placed { block: 0, count: 4, at: frame(1) },
            Placed { block: 5, count: 3, at: FrameRef { offset: 10, ..frame(1) } },
        ];
        overlay.place(1..3, &first);
        let after =
            [(0, 2, "f1+0"), (2, 3, "m3x1"), (3, 4, "f1+3"), (4, 5, "zero"), (5, 8, "f1+0"), (8, 10, "hole")];
        assert_eq!(shape(&overlay), expect(&after));
        overlay.place(3..4, &[Placed { block: 2, count: 1, at: frame(2) }]);
        assert_eq!(shape(&overlay)[1], (2, 3, "f2+0".to_owned()));
        assert_eq!(overlay.len(), 4);
    }

    #[test]
    fn pieces_of_one_frame_join_again() {
        let mut layer = Layer::default();
        for b in 0..16 {
            layer.insert(b..b + 1, memory(b + 1, 1));
        }
        let mut overlay = Overlay { active: layer, frozen: Vec::new() };
        overlay.place(1..17, &[Placed { block: 0, count: 16, at: frame(1) }]);
        assert_eq!(overlay.len(), 1);
        // A block written again in a later chunk keeps its own entry.
        overlay.active.insert(3..4, memory(20, 1));
        overlay.place(1..17, &[Placed { block: 0, count: 16, at: frame(1) }]);
        assert_eq!(overlay.len(), 3);
    }
}
