//! The erasure code: GF(2^8) over 0x11d with the systematic Vandermonde matrix of reed-solomon-erasure.
//!
//! Part of the format (golden bytes below). Shards may have different lengths: what lies past a shard's end reads as
//! zeros. The library gives the matrix and the field; the loops are ours (`windlass-galois`), because its own ones want equal
//! lengths and owned buffers, and choose their instructions when they are built.

use reed_solomon_erasure::galois_8::{self, Field};
use reed_solomon_erasure::{Field as _, ReedSolomon};
use windlass_galois::{add_product, sums};

use super::redundancy::Layout;

/// The code of one layout.
#[derive(Clone, Debug)]
pub struct Codec {
    layout: Layout,
    /// The rows of the matrix: row i makes shard i of the data shards; the first k are the identity.
    rows: Vec<Vec<u8>>,
}

impl Codec {
    pub(crate) fn new(layout: Layout) -> Codec {
        let (k, m) = (layout.k(), layout.m());
        // Encoding the unit vectors shows the matrix, one column a position.
        let mut rows: Vec<Vec<u8>> =
            (0..layout.n()).map(|i| (0..k).map(|j| u8::from(i == j)).collect()).collect();
        if m > 0 {
            let library: ReedSolomon<Field> =
                ReedSolomon::new(k, m).expect("Layout allows 1..=64 data and at least one parity shard");
            debug_assert!(layout.n() <= Field::ORDER);
            library.encode(&mut rows).expect("all rows have k bytes");
        }
        Codec { layout, rows }
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// Appends to each of the m parity shards what belongs to these parts of the data shards: as much as the longest.
    pub(crate) fn extend_parity(&self, parts: &[&[u8]], parity: &mut [Vec<u8>]) {
        let len = parts.iter().map(|p| p.len()).max().unwrap_or(0);
        let rows: Vec<&[u8]> = self.rows[self.layout.k()..].iter().map(|r| &r[..]).collect();
        let mut outs = Vec::with_capacity(rows.len());
        for shard in parity {
            let at = shard.len();
            shard.resize(at + len, 0);
            outs.push(&mut shard[at..]);
        }
        sums(&rows, parts, &mut outs);
    }

    /// Rebuilds `len` bytes of shard `wanted` from the same range of exactly k other shards, given with their indices. Where
    /// one of these ends early, the rest of it counts as zeros.
    pub(crate) fn rebuild(&self, wanted: usize, len: usize, from: &[(usize, &[u8])]) -> Vec<u8> {
        assert_eq!(from.len(), self.layout.k(), "k shards make any other");
        let (indices, shards): (Vec<usize>, Vec<&[u8]>) = from.iter().copied().unzip();
        let mut out = vec![0; len];
        sums(&[&self.factors(wanted, &indices)], &shards, &mut [&mut out]);
        out
    }

    /// Solves x · rows[from] = rows[wanted] for x: how much of each shard is in the wanted one.
    fn factors(&self, wanted: usize, from: &[usize]) -> Vec<u8> {
        let k = self.layout.k();
        // Gauss-Jordan on the transposed system: column c says sum over i of x[i] * rows[from[i]][c] = rows[wanted][c].
        let mut lines: Vec<Vec<u8>> = (0..k)
            .map(|c| from.iter().map(|i| self.rows[*i][c]).chain([self.rows[wanted][c]]).collect())
            .collect();
        for col in 0..k {
            let pivot = (col..k).find(|r| lines[*r][col] != 0);
            lines.swap(col, pivot.expect("any k different rows of the matrix are independent"));
            let scale = lines[col][col];
            for v in &mut lines[col] {
                *v = galois_8::div(*v, scale);
            }
            let line = lines[col].clone();
            for (r, other) in lines.iter_mut().enumerate() {
                let factor = other[col];
                if r != col && factor != 0 {
                    add_product(factor, &line, other);
                }
            }
        }
        lines.iter().map(|line| line[k]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn codec(k: usize, m: usize) -> Codec {
        Codec::new(Layout::new(k, m).unwrap())
    }

    fn parity<T: AsRef<[u8]>>(codec: &Codec, data: &[T]) -> Vec<Vec<u8>> {
        let mut parity = vec![Vec::new(); codec.layout.m()];
        codec.extend_parity(&data.iter().map(T::as_ref).collect::<Vec<_>>(), &mut parity);
        parity
    }

    /// Any other library must give these bytes.
    #[test]
    fn golden_parity() {
        let data: Vec<Vec<u8>> = (0..4u8)
            .map(|i| (0..8u8).map(|b| b.wrapping_mul(37).wrapping_add(i * 11 + 1)).collect())
            .collect();
        let parity = parity(&codec(4, 2), &data);
        let hex: Vec<String> =
            parity.iter().map(|p| p.iter().map(|b| format!("{b:02x}")).collect()).collect();
        assert_eq!(hex, ["5ae1028bbeda2daf", "c7837fc87b80a21c"]);
        assert_eq!(codec(4, 2).rows[4..], [[27, 28, 18, 20], [28, 27, 20, 18]]);
        let mut library = data.clone();
        library.resize(6, vec![0; 8]);
        ReedSolomon::<Field>::new(4, 2).unwrap().encode(&mut library).unwrap();
        assert_eq!(library[4..], parity);
    }

    #[test]
    fn one_data_shard_is_mirrored_and_none_of_parity_works() {
        let data = [b"hello".to_vec()];
        assert_eq!(parity(&codec(1, 2), &data), [b"hello", b"hello"]);
        assert!(parity(&codec(3, 0), &[vec![1], vec![2], vec![3]]).is_empty());
    }

    proptest! {
        #[test]
        fn any_k_shards_make_every_other(
            k in 1usize..12,
            m in 0usize..6,
            lens in prop::collection::vec(0usize..200_000, 12),
            picks in prop::collection::vec(any::<prop::sample::Index>(), 18),
        ) {
            let codec = codec(k, m);
            let mut shards: Vec<Vec<u8>> = lens[..k]
                .iter()
                .enumerate()
                .map(|(i, len)| (0..*len).map(|b| ((b * 31) ^ (b >> 7) ^ (i * 91)) as u8).collect())
                .collect();
            let parity = parity(&codec, &shards);
            shards.extend(parity);
            let mut left: Vec<usize> = (0..k + m).collect();
            while left.len() > k {
                let at = picks[left.len() - 1].index(left.len());
                left.remove(at);
            }
            let from: Vec<(usize, &[u8])> = left.iter().map(|i| (*i, shards[*i].as_slice())).collect();
            for (wanted, shard) in shards.iter().enumerate() {
                prop_assert_eq!(&codec.rebuild(wanted, shard.len(), &from), shard);
            }
        }
    }
}
