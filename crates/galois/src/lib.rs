//! Sums of products in GF(2^8) over 0x11d, the code's inner loop.
//!
//! A product by one factor is two lookups in tables of 16 bytes, 32 bytes at a time (J. Plank, K. Greenan, E. Miller:
//! "Screaming Fast Galois Field Arithmetic Using Intel SIMD Instructions", FAST 2013). Up to four sums take their part of what
//! was loaded before the next is loaded, as in ISA-L: each is written once. AVX2 is chosen at run time, with what else
//! x86-64-v3 has; on a CPU without it the loops of `reed-solomon-erasure` do the work.

use reed_solomon_erasure::galois_8;

/// Bytes that a library's loop goes over at once, so that a sum stays in the cache while every column is added to it.
const STRIPE: usize = 64 << 10;

/// Computes sums of whole blocks from their beginning, of columns and sums of one length, and says how far it came.
type Blocks = fn(&[Vec<u8>], &[&[u8]], &mut [&mut [u8]]) -> usize;

/// `sums[r]` becomes Σ factors[r][j] · columns[j]. A column may be shorter than the sums: it goes on with zeros. Bytes of a
/// column behind the sums' end don't count. All sums are of one length.
pub fn sums(factors: &[&[u8]], columns: &[&[u8]], sums: &mut [&mut [u8]]) {
    sums_by(simd::whole_blocks, factors, columns, sums);
}

fn sums_by(blocks: Blocks, factors: &[&[u8]], columns: &[&[u8]], sums: &mut [&mut [u8]]) {
    debug_assert!(factors.len() == sums.len() && factors.iter().all(|f| f.len() == columns.len()));
    let len = sums.first().map_or(0, |s| s.len());
    debug_assert!(sums.iter().all(|s| s.len() == len));
    let mut from = 0;
    while from < len {
        // Up to where the next column ends, those that go on are of one length.
        let on: Vec<usize> = (0..columns.len()).filter(|j| columns[*j].len() > from).collect();
        let to = on.iter().map(|j| columns[*j].len()).min().unwrap_or(len).min(len);
        let parts: Vec<&[u8]> = on.iter().map(|j| &columns[*j][from..to]).collect();
        let mut outs: Vec<&mut [u8]> = sums.iter_mut().map(|s| &mut s[from..to]).collect();
        let rows: Vec<Vec<u8>> = factors.iter().map(|row| on.iter().map(|j| row[*j]).collect()).collect();
        let done = blocks(&rows, &parts, &mut outs);
        for (row, out) in rows.iter().zip(outs) {
            for (n, out) in out[done..].chunks_mut(STRIPE).enumerate() {
                let at = done + n * STRIPE;
                out.fill(0);
                for (factor, part) in row.iter().zip(&parts) {
                    add_product(*factor, &part[at..at + out.len()], out);
                }
            }
        }
        from = to;
    }
}

/// out += factor · part. The library's loop can't take empty slices.
pub fn add_product(factor: u8, part: &[u8], out: &mut [u8]) {
    if factor != 0 && !part.is_empty() {
        galois_8::mul_slice_xor(factor, part, out);
    }
}

#[cfg(target_arch = "x86_64")]
mod simd {
    use std::array;
    use std::sync::LazyLock;

    use pulp::x86::V3;
    use reed_solomon_erasure::galois_8;

    /// Two registers: enough in flight to hide the lookups' latency.
    type Block = [[u8; 32]; 2];

    /// A factor's products with the low and with the high half of a byte.
    type Products = [[u8; 16]; 2];

    static PRODUCTS: LazyLock<[Products; 256]> = LazyLock::new(|| {
        let by =
            |factor: usize, shift: u32| array::from_fn(|i| galois_8::mul(factor as u8, (i as u8) << shift));
        array::from_fn(|factor| [by(factor, 0), by(factor, 4)])
    });
    static AVX2: LazyLock<Option<V3>> = LazyLock::new(V3::try_new);

    /// Computes a multiple of the blocks' length and says how much that was; 0 where the CPU can't. All slices are of one
    /// length.
    pub(super) fn whole_blocks(rows: &[Vec<u8>], columns: &[&[u8]], sums: &mut [&mut [u8]]) -> usize {
        let Some(simd) = *AVX2 else { return 0 };
        let columns: Vec<&[Block]> = columns.iter().map(|c| blocks(c)).collect();
        let mut done = 0;
        for (rows, sums) in rows.chunks(4).zip(sums.chunks_mut(4)) {
            let mut outs = sums.iter_mut().map(|s| blocks_mut(s));
            let mut out = || outs.next().expect("as many sums as rows");
            done = match rows.len() {
                1 => Sums::<1>::run(simd, rows, &columns, array::from_fn(|_| out())),
                2 => Sums::<2>::run(simd, rows, &columns, array::from_fn(|_| out())),
                3 => Sums::<3>::run(simd, rows, &columns, array::from_fn(|_| out())),
                _ => Sums::<4>::run(simd, rows, &columns, array::from_fn(|_| out())),
            };
        }
        done
    }

    fn blocks(bytes: &[u8]) -> &[Block] {
        pulp::as_arrays::<2, _>(pulp::as_arrays::<32, _>(bytes).0).0
    }

    fn blocks_mut(bytes: &mut [u8]) -> &mut [Block] {
        pulp::as_arrays_mut::<2, _>(pulp::as_arrays_mut::<32, _>(bytes).0).0
    }

    struct Sums<'a, const R: usize> {
        simd: V3,
        /// Of each column for each sum.
        products: &'a [[Products; R]],
        columns: &'a [&'a [Block]],
        sums: [&'a mut [Block]; R],
    }

    impl<const R: usize> Sums<'_, R> {
        fn run(simd: V3, rows: &[Vec<u8>], columns: &[&[Block]], sums: [&mut [Block]; R]) -> usize {
            let of = |j: usize| array::from_fn(|r| PRODUCTS[usize::from(rows[r][j])]);
            let products: Vec<[Products; R]> = (0..columns.len()).map(of).collect();
            let done = size_of_val(&*sums[0]);
            simd.vectorize(Sums { simd, products: &products, columns, sums });
            done
        }
    }

    impl<const R: usize> pulp::NullaryFnOnce for Sums<'_, R> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let Sums { simd, products, columns, mut sums } = self;
            let (avx, avx2) = (simd.avx, simd.avx2);
            let (half, zero) = (avx._mm256_set1_epi8(0x0f), avx._mm256_setzero_si256());
            for at in 0..sums[0].len() {
                let mut sum = [[zero; 2]; R];
                for (products, column) in products.iter().zip(columns) {
                    let bytes = column[at].map(pulp::cast);
                    let low = bytes.map(|b| avx2._mm256_and_si256(b, half));
                    let high = bytes.map(|b| avx2._mm256_and_si256(avx2._mm256_srli_epi16::<4>(b), half));
                    for (sum, [of_low, of_high]) in sum.iter_mut().zip(products) {
                        let of_low = avx2._mm256_broadcastsi128_si256(pulp::cast(*of_low));
                        let of_high = avx2._mm256_broadcastsi128_si256(pulp::cast(*of_high));
                        for u in 0..2 {
                            let product = avx2._mm256_xor_si256(
                                avx2._mm256_shuffle_epi8(of_low, low[u]),
                                avx2._mm256_shuffle_epi8(of_high, high[u]),
                            );
                            sum[u] = avx2._mm256_xor_si256(sum[u], product);
                        }
                    }
                }
                for (out, sum) in sums.iter_mut().zip(sum) {
                    out[at] = sum.map(pulp::cast);
                }
            }
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod simd {
    pub(super) fn whole_blocks(_: &[Vec<u8>], _: &[&[u8]], _: &mut [&mut [u8]]) -> usize {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sums_of_any_shape_are_those_of_the_definition(
            lens in prop::collection::vec(0usize..400, 1..14),
            len in 0usize..400,
            rows in 1usize..10,
            seed: u8,
        ) {
            let byte = |i: usize, j: usize| (i * 167 + j * 31 + (i >> 5)) as u8 ^ seed;
            let column = |(j, len): (usize, &usize)| -> Vec<u8> { (0..*len).map(|i| byte(i, j)).collect() };
            let columns: Vec<Vec<u8>> = lens.iter().enumerate().map(column).collect();
            let row = |r| -> Vec<u8> { (0..lens.len()).map(|j| byte(r * 7, j)).collect() };
            let factors: Vec<Vec<u8>> = (0..rows).map(row).collect();
            for blocks in [simd::whole_blocks as Blocks, |_, _, _| 0] {
                let mut outs = vec![vec![0xaa; len]; rows];
                sums_by(
                    blocks,
                    &factors.iter().map(|f| &f[..]).collect::<Vec<_>>(),
                    &columns.iter().map(|c| &c[..]).collect::<Vec<_>>(),
                    &mut outs.iter_mut().map(|o| &mut o[..]).collect::<Vec<_>>(),
                );
                for (factors, out) in factors.iter().zip(&outs) {
                    for (i, got) in out.iter().enumerate() {
                        let term = |(f, c): (&u8, &Vec<u8>)| galois_8::mul(*f, *c.get(i).unwrap_or(&0));
                        prop_assert_eq!(*got, factors.iter().zip(&columns).map(term).fold(0, |a, b| a ^ b));
                    }
                }
            }
        }
    }

    #[test]
    fn without_simd_long_ones_are_the_same() {
        let column = |j: usize| -> Vec<u8> {
            (0..3 * STRIPE + 5).map(|i| (i * 31 + j * 7 + (i >> 9)) as u8).collect()
        };
        let columns = [column(1), column(2)];
        let columns: Vec<&[u8]> = columns.iter().map(|c| &c[..]).collect();
        let mut both = [simd::whole_blocks as Blocks, |_, _, _| 0].map(|blocks| {
            let mut out = vec![1; columns[0].len()];
            sums_by(blocks, &[&[3, 200]], &columns, &mut [&mut out]);
            out
        });
        let [a, b] = &mut both;
        assert!(a == b && a.iter().any(|x| *x != 0));
    }
}
