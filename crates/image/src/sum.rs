//! The blake3 sum of an image, made of parts that several threads hash.
//!
//! A hole needs no reading, but hashing all the same: a blake3 leaf is bound to its place, so that no two zero leaves have
//! one value. `nodes` hashes a portion, on any thread; `Tree` joins what comes in order of the portions.

use blake3::Hasher;
use blake3::hazmat::{HasherExt as _, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};

use super::portion_plan::PORTION;

static ZEROS: [u8; 256 << 10] = [0; 256 << 10];

/// The hash of an aligned subtree of so many portions, a power of two. The last subtree of an image may be
/// shorter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Node {
    portions: u64,
    value: [u8; 32],
}

/// A part of a portion: bytes, or so many zeros.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    Data(&'a [u8]),
    Zeros(u64),
}

/// Hashes the range at `offset`, which is aligned, of an image of `size` bytes. A range of more than one
/// `PORTION` must be zeros alone.
pub fn nodes(size: u64, offset: u64, inputs: &[Input<'_>]) -> Vec<Node> {
    if let [Input::Zeros(len)] = *inputs {
        let cut = zero_subtrees(size, offset, len);
        return cut.map(|(at, len)| node(size, at, &[Input::Zeros(len)])).collect();
    }
    vec![node(size, offset, inputs)]
}

/// Returns offsets and lengths of the largest subtrees that a range of zeros consists of.
fn zero_subtrees(size: u64, offset: u64, len: u64) -> impl Iterator<Item = (u64, u64)> {
    // The whole image is the root, never a subtree.
    let largest = if size > PORTION { left_subtree_len(size) } else { PORTION };
    let (mut at, end) = (offset, offset + len);
    std::iter::from_fn(move || {
        let left = end.checked_sub(at).filter(|left| *left > 0)?;
        let aligned = if at == 0 { largest } else { largest.min(1 << at.trailing_zeros()) };
        let power = if left < PORTION { left } else { 1 << left.ilog2() };
        let here = (at, aligned.min(power));
        at += here.1;
        Some(here)
    })
}

fn node(size: u64, offset: u64, inputs: &[Input<'_>]) -> Node {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(offset);
    let mut len = 0;
    for input in inputs {
        match *input {
            Input::Data(bytes) => {
                len += bytes.len() as u64;
                hasher.update(bytes);
            }
            Input::Zeros(mut zeros) => {
                len += zeros;
                while zeros > 0 {
                    let n = zeros.min(ZEROS.len() as u64);
                    hasher.update(&ZEROS[..n as usize]);
                    zeros -= n;
                }
            }
        }
    }
    // An image that is one portion has no tree above.
    let value = if size <= PORTION { *hasher.finalize().as_bytes() } else { hasher.finalize_non_root() };
    Node { portions: len.div_ceil(PORTION), value }
}

/// A hash tree of an image, whose nodes are added in order.
#[derive(Debug, Default)]
pub struct Tree {
    done: Vec<Node>,
}

impl Tree {
    pub fn push(&mut self, node: Node) {
        // Only now is it certain that what came before is not the root.
        while let [.., left, right] = self.done[..] {
            if left.portions != right.portions {
                break;
            }
            let value = merge_subtrees_non_root(&left.value, &right.value, Mode::Hash);
            self.done.truncate(self.done.len() - 2);
            self.done.push(Node { portions: left.portions * 2, value });
        }
        self.done.push(node);
    }

    /// Returns the sum, as b3sum prints it.
    pub fn finish(mut self) -> String {
        let Some(Node { mut value, .. }) = self.done.pop() else {
            return blake3::hash(&[]).to_hex().to_string();
        };
        while let Some(left) = self.done.pop() {
            value = match self.done.is_empty() {
                true => *merge_subtrees_root(&left.value, &value, Mode::Hash).as_bytes(),
                false => merge_subtrees_non_root(&left.value, &value, Mode::Hash),
            };
        }
        blake3::Hash::from_bytes(value).to_hex().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums `bytes` in portions, each run of whole zero portions as one.
    fn summed(bytes: &[u8]) -> String {
        let (size, portion) = (bytes.len() as u64, PORTION as usize);
        let is_zero = |at: usize| bytes[at..bytes.len().min(at + portion)].iter().all(|b| *b == 0);
        let (mut tree, mut at) = (Tree::default(), 0);
        while at < bytes.len() {
            let mut end = bytes.len().min(at + portion);
            let seen = if is_zero(at) {
                while end < bytes.len() && bytes.len() - end >= portion && is_zero(end) {
                    end += portion;
                }
                nodes(size, at as u64, &[Input::Zeros((end - at) as u64)])
            } else {
                let (head, tail) = bytes[at..end].split_at((end - at) / 3);
                nodes(size, at as u64, &[Input::Data(head), Input::Data(tail)])
            };
            seen.into_iter().for_each(|node| tree.push(node));
            at = end;
        }
        tree.finish()
    }

    #[test]
    fn the_sum_is_blake3s_own_whatever_the_size() {
        let portion = PORTION as usize;
        let mut sizes = vec![1, 512, 1024, 4096, portion - 1, portion, portion + 1, portion + 512];
        sizes.extend([2 * portion, 3 * portion, 4 * portion, 4 * portion + 4096, 7 * portion - 512]);
        for size in sizes {
            let zeros = vec![0; size];
            assert_eq!(summed(&zeros), blake3::hash(&zeros).to_hex().as_str(), "{size} zeros");
            let mut bytes: Vec<u8> = (0..size).map(|n| (n / 1000 + n % 251) as u8).collect();
            assert_eq!(summed(&bytes), blake3::hash(&bytes).to_hex().as_str(), "{size} bytes");
            if size > 4 * portion {
                bytes[portion..4 * portion].fill(0);
                assert_eq!(summed(&bytes), blake3::hash(&bytes).to_hex().as_str(), "{size} with a hole");
            }
        }
        assert_eq!(Tree::default().finish(), blake3::hash(b"").to_hex().as_str());
    }

    #[test]
    fn zeros_are_cut_into_the_largest_subtrees() {
        let cut = |size, offset, len| zero_subtrees(size, offset, len).collect::<Vec<_>>();
        let p = PORTION;
        assert_eq!(cut(8 * p, 0, 8 * p), [(0, 4 * p), (4 * p, 4 * p)]);
        assert_eq!(cut(8 * p + 1, 0, 8 * p + 1), [(0, 8 * p), (8 * p, 1)]);
        assert_eq!(cut(64 * p, 3 * p, 6 * p), [(3 * p, p), (4 * p, 4 * p), (8 * p, p)]);
        assert_eq!(cut(512, 0, 512), [(0, 512)]);
    }
}
